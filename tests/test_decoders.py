"""Every format that the log may hold has its decoder, and a digest that tells requests apart."""

from __future__ import annotations

import io

import msgspec
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from ingest.columnar_msgpack import encode
from ingest.decoders import Parameters, decode, request_digest
from ingest.idempotency import body_digest
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.timestamps import TimeUnit

NOW_US = 1_790_000_000_000_000


def arrow_stream() -> bytes:
    table = pa.table({"host": ["a"], "v": [1]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def head(form: Format, unit: TimeUnit | None = None, params: bytes = b"") -> RecordHead:
    return RecordHead(form, "db", unit, NOW_US, params=params)


@pytest.mark.parametrize(
    ("record", "body", "measurement"),
    [
        (head(Format.MSGPACK), msgspec.msgpack.encode({"m": "m", "columns": {"v": [1]}}), "m"),
        (head(Format.MSGPACK), msgspec.msgpack.encode({"m": "m", "fields": {"v": 1}}), "m"),
        (head(Format.LINE_PROTOCOL), b"m v=1", "m"),
        (head(Format.ARROW, params=Parameters("m", ("host",)).to_bytes()), arrow_stream(), "m"),
    ],
)
def test_a_row_without_a_time_gets_that_of_its_arrival(
    record: RecordHead, body: bytes, measurement: str
) -> None:
    [batch] = decode(record, body, Limits()).batches
    assert batch.measurement == measurement
    assert batch.time_us.tolist() == [NOW_US]
    assert "v" in batch.columns


def test_the_tags_of_an_arrow_stream_are_in_its_parameters() -> None:
    params = Parameters("m", ("host",)).to_bytes()
    [batch] = decode(head(Format.ARROW, params=params), arrow_stream(), Limits()).batches
    assert batch.tags == {"host"}


@pytest.mark.parametrize("form", [form for form in Format if form.name.startswith("OTLP")])
def test_an_empty_request_of_otlp_holds_nothing(form: Format) -> None:
    body = b"{}" if form.name.endswith("JSON") else b""
    decoded = decode(head(form), body, Limits())
    assert (decoded.batches, decoded.refused) == ([], [])


def test_records_of_otlp_that_no_table_could_hold_are_told() -> None:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(time_unix_nano=2**64 - 1)
    records.add(time_unix_nano=NOW_US * 1_000)
    decoded = decode(head(Format.OTLP_LOGS), request.SerializeToString(), Limits())
    assert [record.index for record in decoded.refused] == [0]
    assert [batch.time_us.tolist() for batch in decoded.batches] == [[NOW_US]]


def test_lines_without_a_unit_are_in_nanoseconds() -> None:
    body = b"m v=1 %d" % (NOW_US * 1_000)
    [batch] = decode(head(Format.LINE_PROTOCOL), body, Limits()).batches
    assert batch.time_us.tolist() == [NOW_US]


def test_parameters_come_back_and_none_are_no_bytes() -> None:
    given = Parameters("m", ("a", "b"), b"digest")
    assert Parameters.from_bytes(given.to_bytes()) == given
    assert Parameters().to_bytes() == b""
    assert Parameters.from_bytes(b"") == Parameters()


def test_the_digest_of_messagepack_is_what_logs_have_had_since_the_first() -> None:
    record = head(Format.MSGPACK, TimeUnit.MS)
    assert request_digest(record, b"body") == body_digest("db", TimeUnit.MS, b"body")


def test_another_format_or_other_parameters_are_another_request() -> None:
    records = [
        head(Format.MSGPACK),
        head(Format.LINE_PROTOCOL),
        head(Format.ARROW, params=Parameters("a").to_bytes()),
        head(Format.ARROW, params=Parameters("b").to_bytes()),
    ]
    assert len({request_digest(record, b"body") for record in records}) == len(records)


def test_a_request_that_was_rewritten_keeps_the_digest_of_what_came() -> None:
    came = head(Format.LINE_PROTOCOL)
    digest = request_digest(came, b"m v=1\nbad")
    [batch] = decode(came, b"m v=1", Limits()).batches
    logged = head(Format.MSGPACK, TimeUnit.US, Parameters(digest=digest).to_bytes())
    assert request_digest(logged, encode([batch])) == digest
