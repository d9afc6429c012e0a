"""The bodies that tests are fed with: right by other people's readers, and of every sort."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ormsgpack
import pyarrow as pa
import pytest
from backports import zstd
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.testing import (
    arrow_bodies,
    bodies,
    check_batch,
    check_batches,
    compressed,
    faulty_arrow_bodies,
    faulty_line_protocol_bodies,
    faulty_row_bodies,
    line_protocol_bodies,
    random_row_body,
    row_bodies,
)
from ingest.testing.arrow import random_stream
from ingest.testing.line_protocol import SPELLINGS, escape, line, quote, random_line_body
from ingest.testing.otlp import nested_value, random_request, spell, to_protobuf, varint

NOW_US = 1_768_473_000_000_000
REQUESTS: dict[str, Any] = {
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
}


# --- MessagePack -------------------------------------------------------------------------------


def objects(body: bytes) -> Iterator[Any]:
    """Every top-level object, by another decoder; strings may be any bytes."""
    unpacked = 0
    for end in range(1, len(body) + 1):
        try:
            yield ormsgpack.unpackb(body[unpacked:end], option=ormsgpack.OPT_NON_STR_KEYS)
        except ValueError:
            continue
        unpacked = end
    assert unpacked == len(body)


def rows_of(body: bytes) -> list[dict[str, Any]]:
    """The maps of a body, out of its envelopes."""
    found = []
    for each in objects(body):
        inner = each.get("batch", [each]) if isinstance(each, dict) else each
        found += inner
    return found


@pytest.mark.parametrize("seed", range(20))
def test_row_bodies_are_row_maps_of_the_protocol(seed: int) -> None:
    rows = rows_of(random_row_body(random.Random(seed), rows=4))
    assert rows
    for row in rows:
        assert row.keys() <= {"m", "t", "h", "fields", "tags", "columns"}
        assert ("fields" in row) != ("columns" in row)


@given(row_bodies())
def test_row_bodies_are_taken(body: bytes) -> None:
    batches = decode(body, NOW_US, Limits())
    check_batches(batches)


@given(faulty_row_bodies())
def test_faulty_row_bodies_are_bytes(body: bytes) -> None:
    assert body


# --- line protocol -----------------------------------------------------------------------------


def test_a_line_escapes_what_is_special_where_it_stands() -> None:
    assert escape("a b,c=d") == b"a\\ b\\,c\\=d"
    assert quote('say "a\\b"') == b'"say \\"a\\\\b\\""'
    fields = {"f 1": b"1i", "g": quote("x")}
    assert line("m =,", {"t,": "v "}, fields, 5) == b'm\\ =\\,,t\\,=v\\  f\\ 1=1i,g="x" 5'


def test_every_sort_of_value_is_among_the_lines() -> None:
    text = b"".join(random_line_body(random.Random(seed)) for seed in range(50))
    for spellings in SPELLINGS.values():
        assert any(b"=" + spelling in text for spelling in spellings)
    for part in (b"#", b"\r\n", b"\n\n", b'\\"', b"\\ ", b"\\,", b"\\="):
        assert part in text, part


@given(line_protocol_bodies())
def test_lines_are_utf8_and_end_as_lines_do(body: bytes) -> None:
    assert all(b" " in row or row[:1] in (b"", b"#") for row in body.splitlines())
    body.decode()


@given(faulty_line_protocol_bodies())
def test_faulty_lines_are_bytes(body: bytes) -> None:
    assert body


# --- Arrow -------------------------------------------------------------------------------------


@given(arrow_bodies())
def test_streams_are_valid_and_have_rows(body: bytes) -> None:
    table = pa.ipc.open_stream(body).read_all()
    table.validate(full=True)
    assert table.num_rows >= 1


@given(faulty_arrow_bodies())
def test_faulty_streams_are_valid_for_arrow(body: bytes) -> None:
    pa.ipc.open_stream(body).read_all().validate(full=True)


# --- OTLP --------------------------------------------------------------------------------------


def unknown_fields(message: Message) -> list[str]:
    """Fields that the message does not have, by their path."""
    found = [f"{message.DESCRIPTOR.name}.{each.field_number}" for each in UnknownFieldSet(message)]
    for descriptor, value in message.ListFields():
        if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if descriptor.is_repeated else [value]:
                found += unknown_fields(each)
    return found


def compare(descriptor: Descriptor, message: Message, tree: dict[str, Any]) -> None:
    """Hold JSON to what protobuf has: the same fields, and as many of each."""
    by_name = {field.json_name: field for field in descriptor.fields}
    assert tree.keys() <= by_name.keys()
    for name, value in tree.items():
        field = by_name[name]
        held = getattr(message, field.name)
        if field.is_repeated:
            assert len(held) == len(value)
            pairs = list(zip(held, value, strict=True))
        else:
            pairs = [(held, value)]
        for one, other in pairs:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                compare(field.message_type, one, other)
            elif field.type == FieldDescriptor.TYPE_BYTES and name != "bytesValue":
                assert one.hex() == other
            elif field.type == FieldDescriptor.TYPE_STRING:
                assert one == other
            elif isinstance(one, int):
                assert one == int(other)


@pytest.mark.parametrize("signal", REQUESTS)
def test_otlp_requests_say_the_same_in_both_encodings(signal: str) -> None:
    for seed in range(60):
        body = spell(random_request(random.Random(seed), signal))
        message = REQUESTS[signal].FromString(body.protobuf)
        assert unknown_fields(message) == []
        compare(message.DESCRIPTOR, message, json.loads(body.json))


@pytest.mark.parametrize("signal", REQUESTS)
def test_spoiled_otlp_requests_are_still_written_down(signal: str) -> None:
    for seed in range(200):
        body = spell(random_request(random.Random(seed), signal, faults=2))
        json.loads(body.json)


def test_a_varint_has_seven_bits_a_byte() -> None:
    assert varint(0) == b"\0"
    assert varint(300) == b"\xac\x02"
    assert varint(-1) == varint(2**64 - 1) == b"\xff" * 9 + b"\x01"


def test_a_nested_value_is_as_deep_as_it_says() -> None:
    assert to_protobuf(nested_value(3)).count(b"\x2a") == 3


# --- compression -------------------------------------------------------------------------------


@given(compressed(bodies()))
def test_compressed_bodies_unpack(body: bytes) -> None:
    unpack = gzip.decompress if body[:2] == b"\x1f\x8b" else zstd.decompress
    assert unpack(body)


# --- what batches promise ----------------------------------------------------------------------


def batch(**changes: Any) -> ColumnBatch:
    """A batch of three rows that is right but for the changes to its columns."""
    text = np.frombuffer("aéb".encode(), dtype=np.uint8)
    columns = {
        "i": Column(ColumnType.INT64, np.array([1, 0, 3]), None, np.array([True, False, True])),
        "s": Column(ColumnType.UTF8, text, np.array([0, 1, 3, 4], dtype=np.int32)),
    }
    columns |= changes.pop("columns", {})
    times = np.array([NOW_US, NOW_US + 2, NOW_US + 1])
    given: dict[str, Any] = {
        "time_us": times,
        "columns": columns,
        "tags": frozenset({"s"}),
        "nbytes": 1_000,
    }
    return ColumnBatch("cpu", **(given | changes))


def text_column(data: bytes, *offsets: int, validity: Any = None) -> Column:
    values = np.frombuffer(data, dtype=np.uint8)
    return Column(ColumnType.UTF8, values, np.array(offsets, dtype=np.int32), validity)


MIXED = np.array([True, False, True])
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": ({"time_us": np.empty(0, dtype=np.int64)}, "no row"),
    "times of another type": ({"time_us": np.array([1.0, 2.0, 3.0])}, "float64"),
    "times out of range": ({"time_us": np.array([2**62] * 3)}, "a time of"),
    "a range that is not": ({"known_range_us": (0, 1)}, "its times are"),
    "tags that are no set": ({"tags": ["s"]}, "frozenset"),
    "too few bytes": ({"nbytes": 10}, "counts 10"),
    "a column of times": ({"columns": {"time": text_column(b"", 0, 0, 0, 0)}}, "not a column"),
    "an empty name": ({"columns": {"": text_column(b"", 0, 0, 0, 0)}}, "0 bytes"),
    "a long name": ({"columns": {"é" * 128: text_column(b"", 0, 0, 0, 0)}}, "256 bytes"),
}
COLUMNS: dict[str, tuple[Column, str]] = {
    "too few values": (Column(ColumnType.INT64, np.array([1, 2])), "2 values for 3 rows"),
    "another dtype": (Column(ColumnType.INT64, np.array([1.0, 2.0, 3.0])), "float64"),
    "strides": (Column(ColumnType.INT64, np.arange(6)[::2]), "side by side"),
    "offsets where none belong": (
        Column(ColumnType.INT64, np.arange(3), np.arange(4, dtype=np.int32)),
        "offsets for int64",
    ),
    "null throughout": (
        Column(ColumnType.INT64, np.zeros(3, np.int64), None, np.zeros(3, bool)),
        "null throughout",
    ),
    "nothing null": (
        Column(ColumnType.INT64, np.arange(3), None, np.ones(3, bool)),
        "nothing is null",
    ),
    "short validity": (
        Column(ColumnType.INT64, np.arange(3), None, np.array([True, False])),
        "validity of 2 rows",
    ),
    "a null slot that is not zero": (
        Column(ColumnType.INT64, np.array([1, 2, 3]), None, MIXED),
        "not zero",
    ),
    "wide unsaid": (Column(ColumnType.INT64, np.array([2**53 + 1, 0, 0])), "wide is False"),
    "wide untrue": (Column(ColumnType.INT64, np.arange(3), None, None, True), "wide is True"),
    "a bool of 2": (
        Column(ColumnType.BOOL, np.array([0, 1, 2], np.uint8).view(np.bool_)),
        "neither 0 nor 1",
    ),
    "no offsets": (Column(ColumnType.UTF8, np.zeros(3, np.uint8)), "no offsets"),
    "few offsets": (text_column(b"ab", 0, 1, 2), "3 offsets for 3 rows"),
    "a late start": (text_column(b"abc", 1, 1, 2, 3), "first offset is 1"),
    "offsets that go back": (text_column(b"abc", 0, 2, 1, 3), "go back"),
    "offsets short of the bytes": (text_column(b"abc", 0, 1, 2, 2), "offsets end at 2"),
    "offsets beyond the bytes": (text_column(b"abc", 0, 1, 2, 4), "offsets end at 4"),
    "a null that is not empty": (text_column(b"abc", 0, 1, 2, 3, validity=MIXED), "not empty"),
    "bytes that are no UTF-8": (text_column(b"a\xffc", 0, 1, 2, 3), "utf-8"),
    "half a character": (text_column("aéb".encode(), 0, 2, 3, 4), "middle of a character"),
}


def test_a_right_batch_passes() -> None:
    check_batch(batch())
    check_batches([batch(), batch()])


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_promise_of_a_batch_is_told(name: str) -> None:
    changes, words = BROKEN[name]
    with pytest.raises(AssertionError, match=words):
        check_batch(batch(**changes))


@pytest.mark.parametrize("name", COLUMNS)
def test_every_broken_promise_of_a_column_is_told(name: str) -> None:
    column, words = COLUMNS[name]
    with pytest.raises(AssertionError, match=rf"batch 1: column 'v'.*{words}"):
        check_batches([batch(), batch(columns={"v": column})])


@given(bodies())
def test_what_the_decoder_takes_keeps_its_promises(body: bytes) -> None:
    check_batches(decode(body, NOW_US, Limits()))


def test_one_seed_makes_one_body() -> None:
    makers: list[Callable[[random.Random], bytes]] = [
        random_row_body,
        random_line_body,
        random_stream,
        lambda rng: spell(random_request(rng, "metrics", faults=1)).protobuf,
    ]
    for make in makers:
        assert make(random.Random(1)) == make(random.Random(1)) != make(random.Random(2))
