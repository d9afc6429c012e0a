"""The way into the decoders of OTLP: whichever of the two takes a request, the answer is one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.logs.v1 import logs_pb2 as logs
from opentelemetry.proto.resource.v1 import resource_pb2 as resource
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

from ingest.errors import ClientError
from ingest.limits import Limits
from ingest.otlp.decoder import OtlpRequest, RefusedRecord, Signal, decode
from ingest.otlp.fast import decode_fast
from ingest.otlp.plain import decode_plain
from ingest.otlp.protobuf import to_json
from ingest.testing import assert_same_batches
from tests.support.otlp_messages import (
    REQUESTS_OF_ALL,
    attribute,
    log_request,
    rows_of,
    span_request,
)

NOW_US = 1_768_473_000_000_000
LIMITS = Limits()
T = 1_700_000_000_123_456_789

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


def outcome(decoder: Any, body: bytes, signal: Signal, is_json: bool) -> OtlpRequest | str:
    """What a decoder makes of a body: a request, or the words of its refusal."""
    try:
        found: OtlpRequest = decoder(body, signal, is_json, NOW_US, LIMITS)
    except ClientError as error:
        return f"{type(error).__name__}: {error}"
    return found


def assert_as_plain(body: bytes, signal: Signal, is_json: bool) -> None:
    found = outcome(decode, body, signal, is_json)
    wanted = outcome(decode_plain, body, signal, is_json)
    if isinstance(wanted, str) or isinstance(found, str):
        assert found == wanted
        return
    assert_same_batches(found.batches, wanted.batches)
    assert list(map(described, found.refused)) == list(map(described, wanted.refused))


def described(record: RefusedRecord) -> tuple[str, int, str, bytes]:
    return record.table, record.index, str(record.error), record.body


@given(REQUESTS_OF_ALL)
@settings(suppress_health_check=CHECKS)
def test_every_request_is_what_the_plain_decoder_makes_of_it(found: tuple[Signal, Any]) -> None:
    signal, request = found
    assert_as_plain(request.SerializeToString(), signal, False)
    assert_as_plain(to_json(request), signal, True)


@given(found=REQUESTS_OF_ALL, data=st.data())
@settings(max_examples=50, suppress_health_check=CHECKS)
def test_a_damaged_request_is_what_the_plain_decoder_makes_of_it(
    found: tuple[Signal, Any], data: st.DataObject
) -> None:
    signal, request = found
    for body, is_json in ((request.SerializeToString(), False), (to_json(request), True)):
        assert_as_plain(body[: data.draw(st.integers(0, len(body)))], signal, is_json)
        damaged = bytearray(body)
        for _ in range(4 if body else 0):
            damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
            assert_as_plain(bytes(damaged), signal, is_json)


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize(
    ("signal", "request_"),
    [
        (
            Signal.LOGS,
            log_request(
                logs.LogRecord(
                    time_unix_nano=T,
                    severity_text="INFO",
                    body=common.AnyValue(string_value="started"),
                    attributes=[attribute("port", int_value=8000)],
                ),
                of=resource.Resource(attributes=[attribute("host", string_value="h")]),
            ),
        ),
        (Signal.TRACES, span_request(trace.Span(name="GET /", start_time_unix_nano=T))),
    ],
)
def test_what_exporters_send_is_for_the_fast_decoder(
    signal: Signal, request_: Any, is_json: bool
) -> None:
    body = to_json(request_) if is_json else request_.SerializeToString()
    taken = decode_fast(body, signal, is_json, NOW_US, LIMITS)
    assert taken is not None
    assert_same_batches(taken, decode(body, signal, is_json, NOW_US, LIMITS).batches)
    assert_as_plain(body, signal, is_json)


def test_records_that_no_table_holds_are_told_by_the_plain_decoder() -> None:
    records = (logs.LogRecord(time_unix_nano=2**63), logs.LogRecord(time_unix_nano=T))
    body = log_request(*records).SerializeToString()
    assert decode_fast(body, Signal.LOGS, False, NOW_US, LIMITS) is None
    found = decode(body, Signal.LOGS, False, NOW_US, LIMITS)
    assert [row["time"] for row in rows_of(found.batches[0])] == [T // 1000]
    assert [record.index for record in found.refused] == [0]


@pytest.mark.parametrize("signal", Signal)
def test_an_empty_request_holds_nothing(signal: Signal) -> None:
    for body, is_json in ((b"", False), (b"{}", True)):
        assert decode(body, signal, is_json, NOW_US, LIMITS) == OtlpRequest([], [])


def test_the_same_body_is_decoded_the_same_at_any_time() -> None:
    record = logs.LogRecord(attributes=[attribute("b", int_value=1), attribute("a", int_value=2)])
    body = log_request(record, record).SerializeToString()
    first, second = (decode(body, Signal.LOGS, False, NOW_US, LIMITS) for _ in range(2))
    assert_same_batches(first.batches, second.batches)
    (later,) = decode(body, Signal.LOGS, False, NOW_US + 1, LIMITS).batches
    assert later.time_us.tolist() == [NOW_US + 1] * 2
