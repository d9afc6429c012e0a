"""The fast decoder of OTLP beside the plain one: the same batches, or none."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from ingest.columns import Column, ColumnBatch
from ingest.errors import TooLargeError
from ingest.kernels import otlp as kernels
from ingest.kernels import otlp_json
from ingest.limits import Limits
from ingest.otlp.fast import decode_fast
from ingest.otlp.plain import decode_plain
from ingest.otlp.request import Signal
from ingest.testing import assert_same_batches, column_values
from ingest.testing.otlp import Field, Kind, random_request, sub
from tests.support.otlp_requests import (
    LIMITS,
    NOW_US,
    agrees,
    damaged,
    log_record,
    regular_request,
    scalars,
    spelled,
)

_RNGS = st.integers(0, 2**32).map(random.Random)
_SIGNALS = st.sampled_from((Signal.LOGS, Signal.TRACES))


def one_batch(body: bytes, signal: Signal = Signal.LOGS, is_json: bool = False) -> ColumnBatch:
    """The batch of a request that the fast decoder takes, after a look at the plain one's."""
    assert agrees(body, signal, is_json)
    found = decode_fast(body, signal, is_json, NOW_US, LIMITS)
    assert found is not None
    (batch,) = found
    return batch


def texts(batch: ColumnBatch) -> dict[str, list[Any]]:
    """The values of every column."""
    return {name: column_values(column) for name, column in batch.columns.items()}


# ------------------------------------------------------------------------- beside the twin


@settings(max_examples=300)
@given(_RNGS, _SIGNALS, st.booleans())
def test_requests_of_exporters_are_taken_and_give_the_batches_of_the_plain_decoder(
    rng: random.Random, signal: Signal, is_json: bool
) -> None:
    assert agrees(spelled(regular_request(rng, signal), is_json), signal, is_json)


@settings(max_examples=150)
@given(_RNGS, _SIGNALS)
def test_both_encodings_give_the_same(rng: random.Random, signal: Signal) -> None:
    request = regular_request(rng, signal)
    found = [
        decode_fast(spelled(request, way), signal, way, NOW_US, LIMITS) for way in (False, True)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert_same_batches(found[0], found[1])


@settings(max_examples=500)
@given(_RNGS, _SIGNALS, st.booleans(), st.integers(0, 2))
def test_of_odd_requests_it_takes_none_that_the_plain_decoder_reads_otherwise(
    rng: random.Random, signal: Signal, is_json: bool, faults: int
) -> None:
    agrees(spelled(random_request(rng, signal, 4, faults), is_json), signal, is_json)


@settings(max_examples=600)
@given(_RNGS, _SIGNALS, st.booleans())
def test_of_damaged_requests_neither(rng: random.Random, signal: Signal, is_json: bool) -> None:
    agrees(damaged(rng, spelled(regular_request(rng, signal, 2), is_json)), signal, is_json)


@pytest.mark.parametrize("signal", [Signal.LOGS, Signal.TRACES])
@pytest.mark.parametrize("is_json", [False, True])
def test_a_request_cut_off_anywhere_or_with_more_behind_it(signal: Signal, is_json: bool) -> None:
    body = spelled(regular_request(random.Random(11), signal, 2), is_json)
    for end in range(len(body)):
        agrees(body[:end], signal, is_json)
    for more in (b"\0", b" ", b"\n", b"{", b"}", b"\x0a", b"\x0a\x00", b"\xff", body):
        agrees(body + more, signal, is_json)


@given(st.binary(max_size=80), _SIGNALS, st.booleans())
@example(b"", Signal.LOGS, True)
@example(b"", Signal.LOGS, False)
@example(b"{}", Signal.TRACES, True)
@example(b' {"resourceLogs" : [ ] } ', Signal.LOGS, True)
def test_any_bytes(body: bytes, signal: Signal, is_json: bool) -> None:
    agrees(body, signal, is_json)


# ---------------------------------------------------------------------------------- logs


def logs(*records: LogRecord, **resource: AnyValue) -> ExportLogsServiceRequest:
    """A request of one scope."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    for key, value in resource.items():
        group.resource.attributes.add(key=key, value=value)
    group.scope_logs.add(log_records=records)
    return request


def attribute(key: str, **value: Any) -> KeyValue:
    """A KeyValue of a scalar."""
    return KeyValue(key=key, value=AnyValue(**value))


def test_times_have_their_rest_and_their_substitutes() -> None:
    batch = one_batch(
        logs(
            LogRecord(time_unix_nano=1_999, observed_time_unix_nano=3_000),
            LogRecord(observed_time_unix_nano=5_001),
            LogRecord(severity_text="x"),
        ).SerializeToString()
    )
    assert batch.time_us.tolist() == [1, 5, NOW_US]
    assert texts(batch) == {
        "time_ns": [999, 1, None],
        "observed_time_us": [3, 5, None],
        "observed_time_ns": [None, 1, None],
        "severity_text": [None, None, "x"],
    }


def test_a_string_that_is_empty_is_a_value_of_a_body_and_an_attribute_only() -> None:
    record = LogRecord(body=AnyValue(string_value=""), severity_text="", trace_id=b"")
    record.attributes.append(attribute("k", string_value=""))
    batch = one_batch(logs(record).SerializeToString())
    assert texts(batch) == {"body": [""], "attributes.k": [""]}


def test_values_of_a_resource_are_repeated_and_absent_where_another_has_none() -> None:
    request = logs(LogRecord(), LogRecord(), host=AnyValue(string_value="a"))
    request.MergeFrom(logs(LogRecord(), zone=AnyValue(int_value=2**60)))
    batch = one_batch(request.SerializeToString())
    assert texts(batch) == {"resource.host": ["a", "a", None], "resource.zone": [None, None, 2**60]}
    assert batch.tags == {"resource.host"}
    assert batch.columns["resource.zone"].wide


def test_what_has_no_column_goes_to_json_columns_and_the_rest_stays_fast() -> None:
    listed = AnyValue()
    listed.array_value.values.add(string_value="x")
    records = [LogRecord(attributes=[attribute("k", int_value=i)]) for i in range(4)]
    records[1].attributes.append(attribute("raw", bytes_value=b"\x01"))
    records[2].body.int_value = 7
    batch = one_batch(logs(*records, args=listed).SerializeToString())
    shared = '{"resource.args":["x"]}'
    assert texts(batch) == {
        "body_json": [None, None, "7", None],
        "attributes.k": [0, 1, 2, 3],
        "attributes_json": [
            shared,
            '{"resource.args":["x"],"attributes.raw":"AQ=="}',
            shared,
            shared,
        ],
    }


def test_spans_have_names_of_enumerations_duration_and_events() -> None:
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"\x0a" * 16, name="GET", kind=2, start_time_unix_nano=5_000)
    )
    span.end_time_unix_nano, span.status.code = 7_500, 2
    span.events.add(name="exception", time_unix_nano=6)
    batch = one_batch(request.SerializeToString(), Signal.TRACES)
    assert texts(batch) == {
        "end_time_us": [7],
        "end_time_ns": [500],
        "duration_ns": [2500],
        "trace_id": ["0a" * 16],
        "name": ["GET"],
        "kind": ["SERVER"],
        "status_code": ["ERROR"],
        "events_json": ['[{"time_unix_nano":6,"name":"exception"}]'],
    }


# ------------------------------------------------------------------------- left to the twin


def too_many_keys(count: int) -> bytes:
    """A record with so many attributes."""
    record = LogRecord(attributes=[attribute(f"k{i}", int_value=i) for i in range(count)])
    return bytes(logs(record).SerializeToString())


def test_a_table_has_at_most_so_many_attribute_columns() -> None:
    assert agrees(too_many_keys(256), Signal.LOGS, is_json=False)
    assert not agrees(too_many_keys(257), Signal.LOGS, is_json=False)
    narrow = Limits(max_columns=30)
    assert not agrees(too_many_keys(30), Signal.LOGS, False, narrow)


_TWO_TYPES = logs(
    LogRecord(attributes=[attribute("k", int_value=1)]),
    LogRecord(attributes=[attribute("k", string_value="1")]),
)
_TWICE = logs(LogRecord(attributes=[attribute("k", int_value=1)] * 2))
_CAPITALS = logs(LogRecord(attributes=[attribute("k", int_value=1), attribute("K", int_value=1)]))
_FAR = logs(LogRecord(time_unix_nano=2**63))
_EMPTY_KEY = logs(LogRecord(attributes=[attribute("", int_value=1)]))
_NO_RECORD = ExportLogsServiceRequest()
_NO_RECORD.resource_logs.add().resource.attributes.append(attribute("k", int_value=1))


@pytest.mark.parametrize(
    "request_",
    [_TWO_TYPES, _TWICE, _CAPITALS, _FAR, _EMPTY_KEY, _NO_RECORD],
    ids=["two types", "key twice", "capitals", "far time", "empty key", "no record"],
)
def test_what_the_rules_treat_apart_is_left_to_the_plain_decoder(
    request_: ExportLogsServiceRequest,
) -> None:
    body = request_.SerializeToString()
    assert decode_fast(body, Signal.LOGS, False, NOW_US, LIMITS) is None
    decode_plain(body, Signal.LOGS, False, NOW_US, LIMITS)


def test_metrics_are_left_to_the_plain_decoder() -> None:
    assert decode_fast(b"", Signal.METRICS, False, NOW_US, LIMITS) is None
    assert decode_fast(b"{}", Signal.METRICS, True, NOW_US, LIMITS) is None


def test_a_repeated_resource_that_takes_too_much_memory_is_refused_before_it_is_made() -> None:
    request = logs(*[LogRecord()] * 2000, host=AnyValue(string_value="x" * 200_000))
    body = request.SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="memory of the columns"):
            decode_fast(body, Signal.LOGS, False, NOW_US, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body) + 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("is_json", [False, True])
def test_memory_grows_with_the_request_and_not_faster(is_json: bool) -> None:
    def peak_per_byte(records: int) -> float:
        rng = random.Random(3)
        found = [sub(2, "logRecords", log_record(rng), True) for _ in range(records)]
        scope = [sub(2, "scopeLogs", found, True)]
        body = spelled([sub(1, "resourceLogs", scope, True)], is_json)
        tracemalloc.start()
        try:
            assert decode_fast(body, Signal.LOGS, is_json, NOW_US, LIMITS) is not None
            return tracemalloc.get_traced_memory()[1] / len(body)
        finally:
            tracemalloc.stop()

    decode_fast(b"{}", Signal.LOGS, is_json, NOW_US, LIMITS)
    assert peak_per_byte(4_000) < 1.1 * peak_per_byte(1_000)
    assert peak_per_byte(4_000) < 4


# ------------------------------------------------------------------------------------ JSON


def in_json(attributes: str) -> bytes:
    """A request of one record with attributes as they stand."""
    record = f'{{"attributes":[{attributes}]}}'
    return f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}'.encode()


def value_in_json(value: str) -> bytes:
    """The same with one attribute."""
    return in_json(f'{{"key":"k","value":{value}}}')


def the_value(body: bytes) -> Any:
    """The one attribute of such a request."""
    column: Column = one_batch(body, is_json=True).columns["attributes.k"]
    return column_values(column)[0]


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
@example(9007199254740993.0)
@example(2.2250738585072011e-308)
def test_doubles_are_read_as_python_reads_them(value: float) -> None:
    for text in (repr(value), f"{value:.3e}", f"{value:.20e}", f"{value:.2f}"):
        if len(text) < 64 and math.isfinite(float(text)):
            assert repr(the_value(value_in_json(f'{{"doubleValue":{text}}}'))) == repr(float(text))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.booleans())
@example('"\\/\b\f\n\r\t\x00\x1f', True)
@example("🎉 日本 größe", True)
@example("🎉 日本 größe", False)
def test_strings_are_read_as_python_reads_them(text: str, escaped: bool) -> None:
    said = json.dumps(text, ensure_ascii=escaped)
    assert the_value(value_in_json(f'{{"stringValue":{said}}}')) == text


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.booleans())
def test_integers_are_numbers_or_strings(value: int, quoted: bool) -> None:
    said = f'"{value}"' if quoted else str(value)
    assert the_value(value_in_json(f'{{"intValue":{said}}}')) == value


@pytest.mark.parametrize(
    "value",
    [
        '{"intValue":"01"}',
        '{"intValue":1.0}',
        '{"intValue":-0}',
        '{"intValue":"9223372036854775808"}',
        '{"intValue":99999999999999999999}',
        '{"intValue":""}',
        '{"intValue":" 1"}',
        '{"intValue":true}',
        '{"boolValue":1}',
        '{"boolValue":"true"}',
        '{"boolValue":truee}',
        '{"boolValue":null}',
        '{"doubleValue":"1.5"}',
        '{"doubleValue":"NaN"}',
        '{"doubleValue":NaN}',
        '{"doubleValue":.5}',
        '{"doubleValue":5.}',
        '{"doubleValue":05.5}',
        '{"doubleValue":+5.5}',
        '{"doubleValue":1e}',
        '{"doubleValue":1e999}',
        '{"doubleValue":1.5e99999}',
        '{"doubleValue":-}',
        '{"doubleValue":-0}',
        '{"stringValue":"\\ud800"}',
        '{"stringValue":"\\ud800\\u0041"}',
        '{"stringValue":"\\udc00"}',
        '{"stringValue":"\\x"}',
        '{"stringValue":"\\u12"}',
        '{"stringValue":"a\nb"}',
        '{"stringValue":5}',
        '{"stringValue":"a","stringValue":"b"}',
        '{"stringValue":"a","intValue":"1"}',
        '{"stringValue":"a",}',
        '{"string\\u0056alue":"a"}',
        '{"bytesValue":"AQ=="}',
        '{"other":1,"stringValue":"a"}',
        '{"stringValue":"a"}}',
        '{"stringValue" "a"}',
        "null",
        "[]",
        '"a"',
        "",
    ],
)
def test_values_in_no_usual_form_are_left_to_the_plain_decoder(value: str) -> None:
    body = value_in_json(value)
    assert decode_fast(body, Signal.LOGS, True, NOW_US, LIMITS) is None


def test_json_may_have_space_anywhere() -> None:
    request = regular_request(random.Random(4), Signal.LOGS)
    said = json.loads(spelled(request, is_json=True))
    for indent in (0, 1, 3, "\t"):
        body = json.dumps(said, indent=indent, ensure_ascii=False).replace("\n", "\r\n").encode()
        assert agrees(b" " + body + b"\n\t ", Signal.LOGS, is_json=True)


def test_arrays_and_maps_in_json_go_to_attributes_json() -> None:
    value = (
        '{"arrayValue":{"values":[{"intValue":"1"},{"kvlistValue":{"values":'
        '[{"key":"a","value":{"doubleValue":1.5}}]}},{}]}}'
    )
    batch = one_batch(value_in_json(value), is_json=True)
    assert texts(batch) == {"attributes_json": ['{"attributes.k":[1,{"a":1.5},null]}']}


def test_values_nested_too_deep_are_left_to_the_plain_decoder() -> None:
    deep = '{"arrayValue":{"values":[' * 40 + "{}" + "]}}" * 40
    assert decode_fast(value_in_json(deep), Signal.LOGS, True, NOW_US, LIMITS) is None


def test_the_list_of_late_numbers_is_long_enough_for_any_body() -> None:
    value = '{"arrayValue":{"values":[' + ",".join(['{"doubleValue":1e99}'] * 500) + "]}}"
    assert agrees(value_in_json(value), Signal.LOGS, is_json=True)
    assert len('"doubleValue":1e99,') >= otlp_json.LATE_BYTES


# ------------------------------------------------------------------------ lists of records


def test_more_odd_records_than_there_is_room_for_are_left_to_the_plain_decoder() -> None:
    record = LogRecord(body=AnyValue(int_value=1))
    body = logs(*[record] * (kernels.MAX_RESTS + 1)).SerializeToString()
    assert decode_fast(body, Signal.LOGS, False, NOW_US, LIMITS) is None
    assert agrees(logs(*[record] * 300).SerializeToString(), Signal.LOGS, is_json=False)


def test_a_body_that_is_a_string_in_an_odd_spelling_is_left_to_the_plain_decoder() -> None:
    odd = sub(5, "body", [Field(1, "stringValue", Kind.STRING, text) for text in ("a", "b")])
    record = sub(2, "logRecords", [odd, *scalars(random.Random(1), 6)], True)
    request = [sub(1, "resourceLogs", [sub(2, "scopeLogs", [record], True)], True)]
    assert not agrees(spelled(request, is_json=False), Signal.LOGS, is_json=False)
