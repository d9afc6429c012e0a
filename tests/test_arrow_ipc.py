"""Arrow IPC streams: what becomes of every type, that both twins agree, and what damage does."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.arrow_ipc import decode, decode_fast
from ingest.arrow_slow import decode_slow
from ingest.arrow_survey import MAX_MESSAGES, messages
from ingest.columns import Column, ColumnBatch
from ingest.errors import (
    ClientError,
    DecodeError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TimeError,
    TooLargeError,
    ValueTypeError,
)
from ingest.kernels import arrow as kernels
from ingest.limits import Limits
from ingest.testing import assert_same_batches, column_values
from ingest.testing.arrow import random_stream, random_table
from ingest.testing.strategies import arrow_bodies, damaged, faulty_arrow_bodies
from ingest.timestamps import TimeUnit

ROOT = Path(__file__).resolve().parent.parent
NOW_US = 1_768_473_000_000_000
LIMITS = Limits()

Outcome = list[ColumnBatch] | tuple[type[ClientError], str]


def stream(
    table: pa.Table,
    compression: str | None = None,
    chunk: int | None = None,
    deltas: bool = False,
) -> bytes:
    """A table as an IPC stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=deltas)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=chunk)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def outcome(decoder: Callable[..., Any], body: bytes, *args: Any, limits: Limits) -> Outcome | None:
    """What a decoder makes of a body: batches, or the class and the text of its refusal."""
    try:
        found: list[ColumnBatch] | None = decoder(body, NOW_US, limits, "m", *args)
        return found
    except ClientError as error:
        return type(error), str(error)


def check(body: bytes, *args: Any, limits: Limits = LIMITS) -> Outcome:
    """Hold decoder and twin equal on a body; what both made of it."""
    found = outcome(decode, body, *args, limits=limits)
    wanted = outcome(decode_slow, body, *args, limits=limits)
    if isinstance(found, list) and isinstance(wanted, list):
        assert_same_batches(found, wanted)
    else:
        assert found == wanted
    assert found is not None
    return found


def accepted(body: bytes, *args: Any, fast: bool = True) -> list[ColumnBatch]:
    """The batches of a body that both take, by the fast path if so said, otherwise without it."""
    found = check(body, *args)
    assert isinstance(found, list), found
    assert (decode_fast(body, NOW_US, LIMITS, "m", *args) is not None) == fast
    return found


def refused(
    body: bytes, error: type[ClientError], text: str, *args: Any, limits: Limits = LIMITS
) -> None:
    """Both refuse a body, in the same words, of which `text` is a part."""
    found = check(body, *args, limits=limits)
    assert isinstance(found, tuple), "it was taken"
    assert found[0] is error, found
    assert text in found[1]


def column(array: pa.Array, fast: bool = True) -> Column:
    """The one column of a stream."""
    (batch,) = accepted(stream(pa.table({"v": array})), fast=fast)
    return batch.columns["v"]


def stored(array: pa.Array) -> list[Any]:
    """What the values of an array are once stored, by pyarrow and nothing else."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return stored(array.cast(kind.value_type))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us")).cast(pa.int64())
    if pa.types.is_floating(kind):
        return [None if value is None else float(value) for value in array.to_pylist()]
    values: list[Any] = array.to_pylist()
    return values


def check_table(table: pa.Table, batches: list[ColumnBatch]) -> None:
    """Every value of every column, as the table has it."""
    cut = table.combine_chunks().to_batches() if len(batches) == 1 else None
    at = 0
    for batch in batches:
        part = cut[0] if cut else table.slice(at, batch.num_rows).combine_chunks().to_batches()[0]
        at += batch.num_rows
        for name, array in zip(part.schema.names, part.columns, strict=True):
            if name == "time":
                continue
            wanted = stored(array)
            if set(wanted) == {None}:
                assert name not in batch.columns
            else:
                assert repr(column_values(batch.columns[name])) == repr(wanted)
    assert at == table.num_rows


# ----------------------------------------------------------------------- random streams, any bytes


@settings(max_examples=200)
@given(st.integers(0, 2**32).map(random.Random), st.sampled_from([None, "lz4", "zstd"]))
def test_decoded_values_are_those_of_the_table(rng: random.Random, compression: str) -> None:
    table = random_table(rng)
    chunk = rng.choice([None, 1, 7])
    found = check(stream(table, compression, chunk, deltas=rng.random() < 0.5))
    assert isinstance(found, list)
    check_table(table, found)


@settings(max_examples=200)
@given(arrow_bodies())
def test_decoder_and_twin_agree_on_good_streams(body: bytes) -> None:
    check(body)


@settings(max_examples=200)
@given(faulty_arrow_bodies())
def test_decoder_and_twin_agree_on_streams_with_odd_columns(body: bytes) -> None:
    check(body)


@settings(max_examples=1000)
@given(damaged(arrow_bodies()))
def test_decoder_and_twin_agree_on_changed_cut_and_prolonged_streams(body: bytes) -> None:
    check(body)


@settings(max_examples=1000)
@given(st.integers(0, 2**32).map(random.Random))
def test_decoder_and_twin_agree_on_streams_with_words_overwritten(rng: random.Random) -> None:
    check(overwritten(stream(plain_table(rng)), rng))


def overwritten(body: bytes, rng: random.Random) -> bytes:
    """A stream with aligned words of four or eight bytes set to what a forger would try."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        width = rng.choice([4, 8])
        value = rng.choice([0, 1, -1, 2**31 - 1, len(body), rng.randrange(64), -(2**31)])
        at = rng.randrange(len(body) // width) * width
        changed[at : at + width] = value.to_bytes(width, "little", signed=True)
    return bytes(changed)


def plain_table(rng: random.Random) -> pa.Table:
    """A table of what the fast path takes."""
    rows = rng.randint(1, 9)
    texts = ["", "a", "größe", None]
    return pa.table(
        {
            "time": pa.array([NOW_US + i for i in range(rows)], pa.timestamp("us", tz="UTC")),
            "s": pa.array(rng.choices(texts, k=rows), pa.string()),
            "l": pa.array(rng.choices(texts, k=rows), pa.large_string()),
            "i": pa.array([rng.getrandbits(62) for _ in range(rows)]),
            "f": pa.array(rng.choices([1.5, None], k=rows), pa.float64()),
            "b": pa.array(rng.choices([True, False, None], k=rows), pa.bool_()),
        }
    ).replace_schema_metadata({"arc:tags": '["s"]', "pandas": "{}"})


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_decoder_and_twin_agree_on_any_bytes(body: bytes) -> None:
    check(body)


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_a_stream_cut_off_anywhere_is_refused_or_ends_behind_a_record_batch(
    compression: str | None,
) -> None:
    body = stream(plain_table(random.Random(1)), compression, chunk=2)
    whole = check(body)
    ends = [message.end for message in messages(body)]
    for end in range(len(body)):
        found = check(body[:end])
        assert isinstance(found, tuple) == (end not in ends[1:]), end
        if isinstance(found, list):
            assert len(found) == ends.index(end)
    assert len(whole) == len(ends) - 1


@pytest.mark.parametrize("more", [b"\0", b"\0" * 8, b"\xff\xff\xff\xff\0\0\0\0"])
def test_bytes_behind_the_end_of_the_stream_are_refused(more: bytes) -> None:
    body = stream(pa.table({"v": [1]}))
    refused(body + more, DecodeError, f"{len(more)} bytes after its end")
    refused(body + body, DecodeError, "after its end")


UNCOMPILED = """
import random
from ingest.kernels import arrow as kernels
from tests import test_arrow_ipc as t

assert type(kernels.read).__name__ == "function", "compiled after all"
fast = 0
for seed in range(150):
    rng = random.Random(seed)
    body = t.stream(t.plain_table(rng))
    t.check(body)
    fast += t.decode_fast(body, 5, t.LIMITS, "m") is not None
    for _ in range(6):
        t.check(t.overwritten(body, rng))
assert fast == 150, fast
body = t.stream(t.plain_table(random.Random(5)))
for end in range(0, len(body), 4):
    t.check(body[:end])
"""


def test_uncompiled_kernels_never_leave_an_array_and_agree_with_the_twin() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCOMPILED],
        cwd=ROOT,
        env=dict(os.environ, NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_warming_compiles_every_kernel_that_a_request_needs() -> None:
    kernels.warm()
    before = len(kernels.read.signatures), len(kernels.fill.signatures)  # type: ignore[attr-defined]
    accepted(stream(plain_table(random.Random(3))))
    after = len(kernels.read.signatures), len(kernels.fill.signatures)  # type: ignore[attr-defined]
    assert before == after == (1, 1)


# ------------------------------------------------------------------------------------------ types

INTS = [0, 1, None, 127]
FAST_ARRAYS = [
    pa.array([1, None, -(2**63), 2**63 - 1], pa.int64()),
    pa.array([1, 2**63 - 1], pa.uint64()),
    pa.array([1.5, None, float("nan")], pa.float64()),
    pa.array(["a", None, "", "größe"], pa.string()),
    pa.array(["a", None, "", "größe"], pa.large_string()),
    pa.array([b"a", None, b"", b"\xff"], pa.binary()),
    pa.array([b"a", None, b"", b"\xff"], pa.large_binary()),
    pa.array([True, None, False] * 7, pa.bool_()),
    pa.array([1, None, -5], pa.timestamp("us")),
]
SLOW_ARRAYS = [
    *(pa.array(INTS, kind) for kind in (pa.int8(), pa.int16(), pa.int32())),
    *(pa.array(INTS, kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32())),
    pa.array([np.float16(1.5), None], pa.float16()),
    pa.array([1.5, None], pa.float32()),
    pa.array(["a", None, "a long text that is not inlined"], pa.string_view()),
    pa.array([b"a", None, b"a long text that is not inlined"], pa.binary_view()),
    pa.array([b"abcd", None], pa.binary(4)),
    pa.array(["a", "b", None, "a"]).dictionary_encode(),
    pa.array([1, 2, None]).dictionary_encode(),
    pa.array([1, None, -5], pa.timestamp("s")),
    pa.array([1, None, -5], pa.timestamp("ms", tz="Europe/Paris")),
    pa.array([1000, None, -5000], pa.timestamp("ns")),
    pa.array([1, None, -5], pa.date32()),
    pa.array([86_400_000, None], pa.date64()),
]


@pytest.mark.parametrize("array", FAST_ARRAYS, ids=lambda array: str(array.type))
def test_types_of_columns_as_they_are_stored_take_the_fast_path(array: pa.Array) -> None:
    assert repr(column_values(column(array))) == repr(stored(array))


@pytest.mark.parametrize("array", SLOW_ARRAYS, ids=lambda array: str(array.type))
def test_other_types_are_cast_without_loss(array: pa.Array) -> None:
    assert column_values(column(array, fast=False)) == stored(array)


def test_an_unsigned_column_is_uint64_where_a_value_needs_it() -> None:
    assert column(pa.array([1, 2**63 - 1], pa.uint64())).type == "int64"
    assert column(pa.array([1, 2**63], pa.uint64())).type == "uint64"
    assert column(pa.array([1, 2**32 - 1], pa.uint32()), fast=False).type == "int64"


@pytest.mark.parametrize(("value", "wide"), [(2**53, False), (2**53 + 1, True), (-(2**60), True)])
def test_integers_that_float64_cannot_hold_are_told_by_wide(value: int, wide: bool) -> None:
    assert column(pa.array([0, value])).wide == wide
    assert column(pa.array([None, value])).wide == wide


def test_null_slots_hold_zero_and_nothing() -> None:
    present = np.array([True, False, True])
    numbers = pa.array(np.array([1, 2, 3]), mask=~present)
    assert column(numbers).values.tolist() == [1, 0, 3]
    floats = pa.array(np.array([1.0, np.nan, 3.0]), mask=~present)
    assert column(floats).values.tolist() == [1, 0, 3]
    bits = pa.Array.from_buffers(
        pa.bool_(), 3, [pa.py_buffer(b"\x05"), pa.py_buffer(b"\x07")], null_count=1
    )
    assert column(bits).values.tolist() == [True, False, True]
    offsets = pa.py_buffer(np.array([0, 1, 2, 3], np.int32))
    texts = pa.Array.from_buffers(
        pa.string(), 3, [pa.py_buffer(b"\x05"), offsets, pa.py_buffer(b"abc")], null_count=1
    )
    found = column(texts, fast=False)
    assert found.offsets is not None
    assert (bytes(found.values), found.offsets.tolist()) == (b"ac", [0, 1, 1, 2])


def test_columns_null_throughout_are_left_out() -> None:
    table = pa.table({"v": [1, 2], "n": pa.nulls(2), "s": pa.array([None, None], pa.string())})
    (batch,) = accepted(stream(table))
    assert list(batch.columns) == ["v"]


ODD_ARRAYS = {
    "decimal": pa.array([Decimal("1.5")], pa.decimal128(5, 2)),
    "list": pa.array([[1]]),
    "struct": pa.array([{"a": 1}]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "duration": pa.array([1], pa.duration("s")),
    "time of day": pa.array([1], pa.time64("us")),
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_types_that_nothing_stores_are_refused_by_name(name: str) -> None:
    body = stream(pa.table({"v": [1], "odd": ODD_ARRAYS[name]}))
    refused(body, PayloadError, f"measurement 'm': column 'odd': found Arrow's {name}, wanted")


@pytest.mark.parametrize("bits", [0x7FA00001, 0xFF800001])
def test_a_signalling_nan_is_a_nan(bits: int) -> None:
    floats = pa.array(np.array([bits, 0x3F800000], np.uint32).view(np.float32))
    times = pa.array([NOW_US, NOW_US + 1], pa.timestamp("us", tz="UTC"))
    found = check(stream(pa.table({"time": times, "x": floats})))
    assert isinstance(found, list)
    values = found[0].columns["x"].values
    assert np.isnan(values[0])
    assert values[1] == 1.0


def test_nanoseconds_that_would_be_lost_are_refused_and_the_row_is_named() -> None:
    body = stream(pa.table({"v": pa.array([1000, 1001], pa.timestamp("ns"))}))
    refused(body, ValueTypeError, "column 'v', row 1: found a timestamp of 1001 ns")


def test_a_timestamp_that_overflows_microseconds_is_refused() -> None:
    body = stream(pa.table({"v": pa.array([2**60], pa.timestamp("s"))}))
    refused(body, TimeError, "column 'v': a timestamp in s that no int64 of microseconds holds")


# ------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_of_any_unit_and_zone_are_times(unit: str, zone: str | None) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds = [1_768_473_000, -5, 0]
    times = pa.array([second * per_second for second in seconds], pa.timestamp(unit, zone))
    (batch,) = accepted(stream(pa.table({"time": times})))
    assert batch.time_us.tolist() == [second * 10**6 for second in seconds]
    assert batch.range_us == (-5 * 10**6, NOW_US)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.uint64()])
@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
def test_the_unit_of_numbers_is_told_from_their_magnitude(
    kind: pa.DataType, per_second: int
) -> None:
    times = pa.array([1_768_473_000 * per_second]).cast(kind, safe=False)
    (batch,) = accepted(stream(pa.table({"time": times})))
    assert batch.time_us.tolist() == [NOW_US]


def test_the_unit_of_numbers_can_be_given_and_that_of_timestamps_stands() -> None:
    numbers = stream(pa.table({"time": pa.array([5, 6])}))
    (batch,) = accepted(numbers, frozenset(), TimeUnit.MS)
    assert batch.time_us.tolist() == [5000, 6000]
    times = stream(pa.table({"time": pa.array([5, 6], pa.timestamp("s"))}))
    (batch,) = accepted(times, frozenset(), TimeUnit.MS)
    assert batch.time_us.tolist() == [5_000_000, 6_000_000]


def test_dates_are_times() -> None:
    for times in (pa.array([1, 2], pa.date32()), pa.array([86_400_000, 172_800_000], pa.date64())):
        (batch,) = accepted(stream(pa.table({"time": times})), fast=False)
        assert batch.time_us.tolist() == [86_400_000_000, 172_800_000_000]


def test_without_times_rows_have_the_time_of_arrival() -> None:
    (batch,) = accepted(stream(pa.table({"v": [1, 2]})))
    assert batch.time_us.tolist() == [NOW_US, NOW_US]


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (pa.array([1, None], pa.timestamp("us")), "row 1: null is not a time"),
        (pa.array([None, None], pa.int64()), "row 0: null is not a time"),
        (pa.array(["today"]), "found utf8, wanted an integer or a float"),
        (pa.array([True]), "found bool"),
        (pa.array([2**62], pa.timestamp("us")), "outside the years 1900 to 2262"),
        (pa.array([float("nan")]), "nan is not a time"),
        (pa.array([2**64 - 1], pa.uint64()), "found uint64"),
    ],
)
def test_times_that_are_none_are_refused(times: pa.Array, text: str) -> None:
    refused(stream(pa.table({"time": times})), TimeError, text)


def test_an_error_in_one_of_several_record_batches_says_which() -> None:
    table = pa.table({"time": pa.array([1, 2, 3, None], pa.timestamp("us"))})
    refused(stream(table, chunk=2), TimeError, "record batch 1: measurement 'm': column 'time'")


# ---------------------------------------------------------------------------------- tags and names


def test_tags_are_those_given_or_declared_or_dictionaries_of_text() -> None:
    table = pa.table({"a": ["x"], "b": pa.array(["y"]).dictionary_encode(), "c": ["z"]})
    (batch,) = accepted(stream(table), fast=False)
    assert batch.tags == {"b"}
    declared = table.replace_schema_metadata({"arc:tags": '["a", "c"]'})
    (batch,) = accepted(stream(declared), fast=False)
    assert batch.tags == {"a", "c"}
    (batch,) = accepted(stream(declared.drop_columns(["b"])))
    assert batch.tags == {"a", "c"}
    (batch,) = accepted(stream(table.replace_schema_metadata({"arc:tags": "[]"})), fast=False)
    assert batch.tags == frozenset()
    (batch,) = accepted(stream(declared), frozenset({"c"}), fast=False)
    assert batch.tags == {"c"}


@pytest.mark.parametrize("value", ["x", "{}", "[1]", "[" * 5000, '["a"'])
def test_declared_tags_that_are_no_list_of_names_are_refused(value: str) -> None:
    body = stream(pa.table({"a": ["x"]}).replace_schema_metadata({"arc:tags": value}))
    refused(body, PayloadError, "key 'arc:tags' must be a JSON list of column names")
    check(body, frozenset({"a"}))


def test_names_that_cannot_be_stored_are_refused() -> None:
    for name, text in (("", "0 bytes"), ("x" * 256, "256 bytes"), ("é" * 128, "256 bytes")):
        body = stream(pa.table({"v": [1], name: [2]}))
        refused(body, InvalidNameError, f"column 1 has a name of {text}, wanted 1 to 255")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["v", "v"])
    refused(stream(twice), PayloadError, "two columns are named 'v'")
    body = stream(pa.table({"vvv": [1]}))
    refused(body.replace(b"vvv", b"v\xffv"), DecodeError, "Arrow stream")
    empty = stream(pa.table({"vvv": pa.array([], pa.int64())}))
    refused(empty.replace(b"vvv", b"v\xffv"), DecodeError, "name of column 0")


# ------------------------------------------------------------------------- shapes of whole streams


def test_each_record_batch_with_rows_becomes_one_batch() -> None:
    table = pa.table({"time": pa.array(range(5), pa.timestamp("us")), "s": list("abcde")})
    batches = accepted(stream(table, chunk=2))
    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    check_table(table, batches)
    schema = table.schema
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 2), table.slice(0, 0), table.slice(2)):
            for batch in part.to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]:
                writer.write_batch(batch)
    found = accepted(sink.getvalue().to_pybytes(), fast=False)
    check_table(table, found)


def test_slices_are_read_from_their_offset() -> None:
    table = pa.table({"s": list("abcdef"), "b": [True, False, None] * 2, "i": range(6)})
    for start in range(5):
        check_table(table.slice(start, 2), accepted(stream(table.slice(start, 2))))


def test_offsets_that_begin_later_are_counted_from_zero() -> None:
    offsets = pa.py_buffer(np.array([2, 3, 5], np.int32))
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"xxabcx")])
    body = stream(pa.table({"s": pa.array(["ab", "c"])}))
    rebased = stream(pa.table({"s": texts}))
    assert column_values(column(texts)) == ["a", "bc"]
    at = body.index(struct.pack("<iii", 0, 2, 3))
    forged = body[:at] + struct.pack("<iii", 1, 2, 3) + body[at + 12 :]
    (batch,) = accepted(forged)
    assert column_values(batch.columns["s"]) == ["b", "c"]
    assert len(rebased) <= len(body)


def test_a_stream_without_columns_or_rows_is_refused() -> None:
    refused(b"", DecodeError, "the body is empty")
    refused(stream(pa.table({"v": pa.array([], pa.int64())})), PayloadError, "has no rows")
    refused(stream(pa.table({})), PayloadError, "has no columns")
    refused(b"\xff\xff\xff\xff\0\0\0\0", PayloadError, "has no columns")


def test_a_stream_without_its_end_marker_is_taken_if_it_is_whole() -> None:
    body = stream(pa.table({"v": [1, 2]}))
    accepted(body[:-8])


def test_the_file_format_is_refused() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"v": [1]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    refused(sink.getvalue().to_pybytes(), DecodeError, "Arrow stream")


def test_metadata_of_pandas_and_parquet_takes_the_fast_path() -> None:
    field = pa.field("v", pa.int64(), metadata={"PARQUET:field_id": "1"})
    schema = pa.schema([field], metadata={"pandas": "{}" * 500})
    accepted(stream(pa.table({"v": [1]}, schema=schema)))


def test_extension_types_are_stored_as_what_they_are_made_of() -> None:
    made = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16], pa.binary(16)))
    assert column_values(column(made, fast=False)) == [b"x" * 16]


def test_streams_in_the_other_byte_order_are_read_by_the_twin() -> None:
    # Schema.endianness is absent, as its default, in what pyarrow writes: nothing to overwrite.
    # A stream of version 4, which older writers send, has the same layout for these types.
    sink = pa.BufferOutputStream()
    table = pa.table({"v": [1, 2], "s": ["a", "b"]})
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    check_table(table, accepted(sink.getvalue().to_pybytes()))
    options = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    check_table(table, accepted(sink.getvalue().to_pybytes(), fast=False))


def test_columns_view_the_body_and_keep_it_alive() -> None:
    body = stream(pa.table({"s": ["a", "b"], "f": [1.5, 2.5], "i": [1, 2]}))
    before = sys.getrefcount(body)
    batches = accepted(body)
    assert sys.getrefcount(body) > before
    columns = batches[0].columns
    assert all(not found.values.flags.owndata for found in columns.values())
    whole = body + b""
    del body
    assert column_values(columns["s"]) == ["a", "b"]
    assert batches[0].nbytes >= len(whole)


def test_what_a_stream_keeps_alive_is_counted() -> None:
    table = pa.table({"v": range(4)}).replace_schema_metadata({"more": "x" * 100_000})
    body = stream(table, chunk=1)
    batches = accepted(body)
    assert sum(batch.nbytes for batch in batches) >= len(body)


def test_times_are_never_written_into_the_body() -> None:
    for times in (pa.array([1, 2], pa.timestamp("s")), pa.array([1e9, 2e9]), pa.array([5, 6])):
        body = stream(pa.table({"time": times}))
        copy = bytes(bytearray(body))
        accepted(body)
        assert body == copy


def test_threads_decode_at_the_same_time_without_harm() -> None:
    bodies = [random_stream(random.Random(seed)) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda body: decode(body, NOW_US, LIMITS, "m"), bodies * 8))
    for body, found in zip(bodies * 8, results, strict=True):
        assert_same_batches(found, decode(body, NOW_US, LIMITS, "m"))


# ------------------------------------------------------------------------------- limits and bombs


def test_columns_and_record_batches_over_their_limits_are_refused() -> None:
    wide = stream(pa.table({f"c{i}": [1, 2] for i in range(5)}), chunk=1)
    refused(wide, LimitError, "5, over the limit of 4", limits=Limits(max_columns=4))
    refused(wide, LimitError, "10, over the limit of 9", limits=Limits(max_request_columns=9))
    check(wide, limits=Limits(max_columns=5, max_request_columns=10))


def test_messages_over_their_limit_are_refused() -> None:
    body = stream(pa.table({"v": [1]}))
    schema, batch = (body[message.at : message.end] for message in messages(body))
    refused(schema + batch * (MAX_MESSAGES + 1), LimitError, "messages of one Arrow stream")


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_memory_of_the_columns_is_bounded(compression: str | None) -> None:
    body = stream(pa.table({"time": range(1000), "s": ["x" * 100] * 1000}), compression)
    needed = 8 * 1000 + 8 * 1000 + 4 * 1001 + 100 * 1000
    check(body, limits=Limits(max_decoded_bytes=needed))
    limits = Limits(max_decoded_bytes=needed - 1)
    refused(body, TooLargeError, f"over the limit of {needed - 1} bytes", limits=limits)


def test_a_dictionary_is_bounded_by_what_it_stands_for() -> None:
    body = stream(pa.table({"s": pa.array(["x" * 10_000] * 10_000).dictionary_encode()}))
    assert len(body) < 100_000
    limits = Limits(max_decoded_bytes=10_000_000)
    refused(body, TooLargeError, "memory of the columns", limits=limits)


def test_a_dictionary_that_comes_with_every_record_batch_is_bounded() -> None:
    # A full validation looks at all of it for every record batch.
    texts = pa.array([f"{i:0100}" for i in range(1000)])
    table = pa.table({"s": pa.DictionaryArray.from_arrays(pa.array([0] * 200), texts)})
    limits = Limits(max_decoded_bytes=10_000_000)
    refused(stream(table, chunk=1), TooLargeError, "memory of the columns", limits=limits)
    check(stream(table, chunk=100), limits=limits)


def test_views_of_one_text_are_bounded_by_their_sum() -> None:
    views = pa.py_buffer(struct.pack("<i4sii", 100_000, b"xxxx", 0, 0) * 1000)
    buffers = [None, views, pa.py_buffer(b"x" * 100_000)]
    table = pa.table({"s": pa.Array.from_buffers(pa.string_view(), 1000, buffers)})
    limits = Limits(max_decoded_bytes=10_000_000)
    refused(stream(table), TooLargeError, "memory of the columns", limits=limits)


def test_columns_that_share_their_bytes_are_bounded_by_their_sum() -> None:
    table = pa.table({f"c{i}": np.zeros(10_000) for i in range(20)})
    body = stream(table)
    batch = list(messages(body))[1]
    metadata = bytearray(body[: batch.body])
    for i in range(20):  # all columns read the bytes of the first
        entries = struct.pack("<qqqq", 80_000 * i, 0, 80_000 * i, 80_000)
        at = metadata.index(entries, batch.metadata)
        metadata[at + 16 : at + 24] = bytes(8)
    forged = bytes(metadata) + body[batch.body :]
    limits = Limits(max_decoded_bytes=1_000_000)
    refused(forged, TooLargeError, "memory of the columns", limits=limits)


def test_rows_of_nothing_but_nulls_are_bounded() -> None:
    body = stream(pa.table({"n": pa.nulls(3)}))
    forged = body.replace(struct.pack("<q", 3), struct.pack("<q", 2**50))
    refused(forged, TooLargeError, f"memory of {2**50} rows")


COMPRESSED = stream(pa.table({"f": np.zeros(1_000_000)}), "zstd")


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        (2**40, TooLargeError),
        (2**62, TooLargeError),
        (8_000_001, DecodeError),
        (7_999_999, DecodeError),
        (0, DecodeError),
        (-1, DecodeError),
        (-2, DecodeError),
    ],
)
def test_a_forged_size_of_a_compressed_buffer_is_seen_before_room_is_made(
    declared: int, error: type[ClientError]
) -> None:
    assert len(COMPRESSED) < 1000
    forged = COMPRESSED.replace(struct.pack("<q", 8_000_000), struct.pack("<q", declared))
    refused(forged, error, "")
    limits = Limits(max_decoded_bytes=16_000_000)
    check(COMPRESSED, limits=limits)


def test_a_forged_count_of_view_buffers_is_seen_before_room_is_made() -> None:
    texts = pa.array(["a text that is too long to be inlined"] * 3, pa.string_view())
    body = stream(pa.table({"s": texts}))
    batch = list(messages(body))[1]
    # The vector of counts: one count, which is 1.
    at = body.rindex(struct.pack("<iq", 1, 1), batch.metadata, batch.body)
    forged = body[: at + 4] + struct.pack("<q", 2**40) + body[at + 12 :]
    refused(forged, DecodeError, f"{2**40} buffers of views declared")


@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize("value", [2**31 - 1, -5, 7])
def test_a_forged_size_of_metadata_is_refused(at: int, value: int) -> None:
    body = bytearray(stream(pa.table({"v": [1]})))
    body[at : at + 4] = struct.pack("<i", value)
    refused(bytes(body), DecodeError, "Arrow stream")


DAMAGE: dict[str, tuple[pa.Array, bytes, bytes]] = {
    "offsets that fall": (
        pa.array(["ab", "c", "d"]),
        struct.pack("<iiii", 0, 2, 3, 4),
        struct.pack("<iiii", 0, 3, 2, 4),
    ),
    "a last offset outside": (
        pa.array(["ab", "c", "d"]),
        struct.pack("<iiii", 0, 2, 3, 4),
        struct.pack("<iiii", 0, 2, 3, 400),
    ),
    "invalid UTF-8": (pa.array(["abc"]), b"abc", b"a\xffc"),
    "a surrogate": (pa.array(["abc"]), b"abc", b"\xed\xa0\x80"),
    "a character cut in two": (
        pa.array(["\u00e9", "\u00e9"]),
        struct.pack("<iii", 0, 2, 4),
        struct.pack("<iii", 0, 1, 4),
    ),
    "an index out of the dictionary": (
        pa.DictionaryArray.from_arrays(pa.array([0, 77], pa.int64()), pa.array(["a"] * 78)),
        struct.pack("<q", 77),
        struct.pack("<q", 78),
    ),
    "a negative index": (
        pa.DictionaryArray.from_arrays(pa.array([0, 77], pa.int64()), pa.array(["a"] * 78)),
        struct.pack("<q", 77),
        struct.pack("<q", -1),
    ),
    "a view outside its buffer": (
        pa.array(["a text of 30 bytes, not inlined"], pa.string_view()),
        struct.pack("<i4sii", 31, b"a te", 0, 0),
        struct.pack("<i4sii", 31, b"a te", 0, 9),
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_values_are_refused(kind: str) -> None:
    array, before, after = DAMAGE[kind]
    body = stream(pa.table({"v": array}))
    assert before in body
    refused(body.replace(before, after), DecodeError, "record batch 0")


def test_a_forged_count_of_nulls_is_refused() -> None:
    body = stream(pa.table({"v": pa.array([1, None, 3, 4, 5])}))
    forged = body.replace(struct.pack("<qq", 5, 1), struct.pack("<qq", 5, 2))
    assert forged != body
    refused(forged, DecodeError, "null_count")
