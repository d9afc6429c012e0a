"""The rows of a batch are those that it was made of."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.columns import encode_columns
from arc.client.compress import compress
from arc.client.contents import rows_of
from arc.client.errors import UsageError
from arc.client.frames import encode_frame
from arc.client.intake import by_place
from arc.client.records import encode_lines, encode_records
from arc.client.refusal import RefusedError
from arc.client.rows import encode_calls
from ingest.testing.msgpack import forms

BOUNDS: dict[str, Any] = {"batch_rows": 10_000, "batch_bytes": 4 << 20}
NS = (("x-arc-time-unit", "ns"),)


def msgpack_batch(body: bytes, headers: tuple[tuple[str, str], ...] = NS) -> Batch:
    return Batch(Kind.MSGPACK, WRITE_MSGPACK, headers, body, 1, "cpu")


CELLS = (
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.text(min_size=5, max_size=5),
    st.booleans(),
    st.binary(),
    st.just("web-1"),
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[Any]]:
    rows = draw(st.integers(1, 40))
    cells = [draw(st.sampled_from(CELLS)) | st.none() for _ in range(draw(st.integers(1, 4)))]
    columns = {
        f"v{i}": draw(st.lists(c, min_size=rows, max_size=rows)) for i, c in enumerate(cells)
    }
    return {"time": list(range(rows)), **columns}


@given(st.lists(tables(), min_size=1, max_size=4))
def test_the_maps_of_a_body_are_told_apart(given_tables: list[dict[str, list[Any]]]) -> None:
    maps = [
        msgspec.msgpack.encode({"m": f"m{i}", "tags": ["v0"], "columns": columns})
        for i, columns in enumerate(given_tables)
    ]
    wanted = [
        {"measurement": f"m{i}", **dict(zip(columns, values, strict=True))}
        for i, columns in enumerate(given_tables)
        for values in zip(*columns.values(), strict=True)
    ]
    assert list(rows_of(msgpack_batch(b"".join(maps)))) == wanted
    array = bytes((0x90 | len(maps),)) + b"".join(maps)
    assert list(rows_of(msgpack_batch(array))) == wanted


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 127, 128, 255, 256, 65_535, 65_536, 2**32, -129, -(2**15), -(2**31), -(2**63)),
        *(1.5, "", "x" * 31, "x" * 32, "x" * 256, "x" * 65_536, b"", b"x" * 256, b"x" * 65_536),
        *(None, True, False),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:8]}",
)
def test_every_form_of_a_value_is_passed_over(value: Any) -> None:
    for form in forms(value):
        one = b"\x82\xa1m\xa1a\xa7columns\x81\xa1v\x92" + form + b"\xc0"
        rows = list(rows_of(msgpack_batch(one + one)))
        assert rows == [{"measurement": "a", "v": v} for v in (value, None)] * 2


def test_a_call_of_columns_comes_back_in_nanoseconds() -> None:
    columns = {
        "time": np.array([1, 2, 3], "M8[ms]"),
        "v": np.ma.array([1.5, 2.5, 3.5], mask=[False, True, False]),
        "n": [1, None, 3],
    }
    batches = encode_columns("cpu", columns, tags={"host": "a"}, batch_rows=2, batch_bytes=1 << 20)
    assert [row for batch in batches for row in rows_of(batch)] == [
        {"measurement": "cpu", "time": 1_000_000, "v": 1.5, "n": 1, "host": "a"},
        {"measurement": "cpu", "time": 2_000_000, "v": None, "n": None, "host": "a"},
        {"measurement": "cpu", "time": 3_000_000, "v": 3.5, "n": 3, "host": "a"},
    ]


@pytest.mark.parametrize("values", [[1.5, 2.5], pa.array([1.5, 2.5])], ids=["msgpack", "arrow"])
@pytest.mark.parametrize(
    ("times", "unit", "wanted"),
    [
        ([5, 6], "s", [5 * 10**9, 6 * 10**9]),
        ([5.5, 6.5], "s", [5_500_000_000, 6_500_000_000]),
        ([5, 6], None, [5, 6]),
        ([5.5, 6.5], None, [5.5, 6.5]),
    ],
)
def test_times_are_nanoseconds_where_their_unit_is_known(
    values: Any, times: list[Any], unit: str | None, wanted: list[Any]
) -> None:
    (batch,) = encode_columns("cpu", {"time": times, "v": values}, time_unit=unit, **BOUNDS)
    assert [row["time"] for row in rows_of(batch)] == wanted


def test_a_compressed_batch_is_read_as_well() -> None:
    (batch,) = encode_columns("cpu", {"time": [5] * 900, "v": [1.5] * 900}, **BOUNDS)
    plain = list(rows_of(batch))
    size = len(batch.body)
    batch.body = compress(batch.body, 1)
    assert len(batch.body) < size
    assert list(rows_of(batch)) == plain


def test_rows_of_calls_and_records_come_back() -> None:
    calls: list[Any] = ["cpu", 5, "host", "v", "a", 1.5, "disk", 6, "path", "n", "/", 3]
    bodies, refused = encode_calls(by_place(calls, 6), 2, {}, 10, 1 << 20)
    assert not refused
    rows = [row for each in bodies for row in rows_of(msgpack_batch(each.body))]
    assert sorted(rows, key=lambda row: int(row["time"])) == [
        {"measurement": "cpu", "time": 5, "host": "a", "v": 1.5},
        {"measurement": "disk", "time": 6, "path": "/", "n": 3},
    ]
    record = {"measurement": "cpu", "time": 5, "tags": {"host": "a"}, "fields": {"v": 1.5}}
    (batch,) = encode_records([record], time_unit="ns", **BOUNDS)
    assert list(rows_of(batch)) == [{"measurement": "cpu", "time": 5, "host": "a", "v": 1.5}]


def test_a_batch_that_was_refused_for_its_times_can_be_read() -> None:
    times = [2**63, 1e300, float("inf"), None, "now"]
    body = msgspec.msgpack.encode({"m": "cpu", "columns": {"time": times}})
    assert [row["time"] for row in rows_of(msgpack_batch(body))] == times


def test_row_maps_come_as_they_were_sent() -> None:
    row = {"m": "cpu", "t": 5, "fields": {"v": 1.5}, "tags": {"host": "a"}}
    body = msgspec.msgpack.encode(row)
    assert list(rows_of(msgpack_batch(body + body))) == [{"measurement": "cpu", **row}] * 2


def test_a_frame_comes_back() -> None:
    frame = pa.table(
        {
            "time": pa.array([1, 2], pa.timestamp("us", "UTC")),
            "host": pa.array(["a", None]).dictionary_encode(),
            "at": pa.array([dt.datetime(1970, 1, 1), None], pa.timestamp("us")),
        }
    )
    rows = [row for batch in encode_frame("a b/c", frame, **BOUNDS) for row in rows_of(batch)]
    assert [(row["measurement"], row["time"], row["host"]) for row in rows] == [
        ("a b/c", 1_000, "a"),
        ("a b/c", 2_000, None),
    ]


def test_fields_of_nanoseconds_come_back_as_integers() -> None:
    table = pa.table({"time": pa.array([1]), "at": pa.array([1_234_567_891], pa.timestamp("ns"))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    target = "/api/v1/write/arrow?measurement=cpu"
    batch = Batch(Kind.ARROW, target, (), sink.getvalue().to_pybytes(), 1, "cpu")
    assert list(rows_of(batch)) == [{"measurement": "cpu", "time": 1, "at": 1_234_567_891}]


def test_lines_come_one_by_one_without_their_line_feeds() -> None:
    text = 'cpu,host=a v=1 5\n# a comment\ncpu v="two\nlines" 6\n'
    (batch,) = encode_lines(text, **BOUNDS)
    lines = ["cpu,host=a v=1 5", 'cpu v="two\nlines" 6']
    assert list(rows_of(batch)) == [{"line": line} for line in lines]


def test_a_refused_batch_hands_its_rows_to_its_owner_one_at_a_time() -> None:
    (batch,) = encode_columns("cpu", {"time": [5, 6, 7], "v": [1, 2, 3]}, **BOUNDS)
    error = RefusedError("no", batch, status=400)
    rows = itertools.islice(error.rows(), 2)
    assert [row["v"] for row in rows] == [1, 2]
    assert error.num_rows == 3


@given(st.integers(1, 200), st.integers(0, 255))
def test_a_damaged_body_is_refused_or_read(cut: int, byte: int) -> None:
    (batch,) = encode_columns("cpu", {"time": [5, 6], "v": ["a", "b"], "n": [1, None]}, **BOUNDS)
    body = bytes(batch.body)
    for damaged in (body[:-cut], body[: cut % len(body)] + bytes((byte,)) + body[cut:]):
        try:
            list(rows_of(msgpack_batch(damaged)))
        except UsageError:
            continue


@pytest.mark.parametrize(
    "body", [b"\x05", b"\x91\x05", b"\xc1", b"\x83\xa1m", b"\xdf\xff\xff\xff\xff"]
)
def test_what_is_no_map_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        list(rows_of(msgpack_batch(body)))


def test_what_is_no_stream_is_refused() -> None:
    batch = Batch(Kind.ARROW, "/api/v1/write/arrow?measurement=cpu", (), b"\xff" * 20, 1, "cpu")
    with pytest.raises(UsageError, match="an Arrow stream is damaged"):
        list(rows_of(batch))
