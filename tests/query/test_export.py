"""Rows in each format that they can be written in."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arc.query_cli import _BINARY, _FORMATS
from ingest.query.errors import QueryError
from ingest.query.export import BINARY_FORMATS, FORMATS, Rows, export, rows_of_stream

NOON = datetime.datetime(2026, 9, 21, 12, tzinfo=datetime.UTC)
TABLE = pa.table(
    {
        "time": pa.array([NOON, None], pa.timestamp("us", "UTC")),
        "n": pa.array([1, 22], pa.int64()),
        "host": ["a,b", None],
    }
)
ODD = {
    "i": pa.array([(1, 2, 3_500_000_000)], pa.month_day_nano_interval()),
    "d": [decimal.Decimal("1.50")],
    "big": pa.array([decimal.Decimal(2**70)], pa.decimal128(38)),
    "b": [b"\x00\xff"],
    "yes": [True],
    "f": [float("nan")],
    "l": [[1, None]],
    "s": [{"x": 1}],
    "day": [datetime.date(2026, 9, 21)],
}


def written(table: pa.Table, form: str, batch_rows: int = 65_536) -> bytes:
    sink = io.BytesIO()
    told: list[int] = []
    batches = iter(table.to_batches(batch_rows))
    assert export(Rows(table.schema, batches), form, sink, told.append) == table.num_rows
    assert told[-1:] == [table.num_rows][: len(told)]
    assert not sink.closed
    return sink.getvalue()


def test_the_command_line_knows_the_same_formats() -> None:
    assert (_FORMATS, frozenset(_BINARY)) == (FORMATS, BINARY_FORMATS)


def test_a_table_has_columns_side_by_side() -> None:
    assert written(TABLE, "table").decode().splitlines() == [
        "time                   n  host",
        "--------------------  --  ----",
        "2026-09-21T12:00:00Z   1  a,b",
        "NULL                  22  NULL",
    ]


def test_rows_after_the_first_batch_may_be_wider_than_their_column() -> None:
    table = pa.table({"a": ["x", "wider"], "b": ["y", "z"]})
    assert written(table, "table", 1).decode().splitlines()[2:] == ["x  y", "wider  z"]


def test_a_value_never_moves_the_cursor_or_breaks_the_line() -> None:
    table = pa.table({"a\n": ["two\nlines", "\x1b[2J", "é 中"]})
    lines = written(table, "table").decode().splitlines()
    assert lines[0] == r"a\n"
    assert lines[2:] == [r"two\nlines", r"\x1b[2J", "é 中"]


def test_csv_is_read_back_by_any_reader() -> None:
    table = pa.table({'a"': ['say "hi"', "two\r\nlines", None], "b": [0.1, 1e300, None]})
    rows = list(csv.reader(io.StringIO(written(table, "csv").decode(), newline="")))
    assert rows == [['a"', "b"], ['say "hi"', "0.1"], ["two\r\nlines", "1e+300"], ["", ""]]


@pytest.mark.parametrize("batch_rows", [1, 10])
def test_json_is_one_array_with_a_line_for_each_row(batch_rows: int) -> None:
    body = written(TABLE, "json", batch_rows)
    assert msgspec.json.decode(body) == [
        {"time": "2026-09-21T12:00:00Z", "n": 1, "host": "a,b"},
        {"time": None, "n": 22, "host": None},
    ]
    assert body.count(b"\n") == 4


@pytest.mark.parametrize("batch_rows", [1, 10])
def test_arrow_and_parquet_keep_every_type(batch_rows: int) -> None:
    assert pa.ipc.open_stream(written(TABLE, "arrow", batch_rows)).read_all() == TABLE
    assert pq.read_table(io.BytesIO(written(TABLE, "parquet", batch_rows))) == TABLE


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_are_a_whole_file(form: str) -> None:
    body = written(TABLE.slice(0, 0), form)
    if form == "arrow":
        assert pa.ipc.open_stream(body).read_all().num_rows == 0
    elif form == "parquet":
        assert pq.read_table(io.BytesIO(body)).schema == TABLE.schema
    elif form == "json":
        assert msgspec.json.decode(body) == []
    else:
        assert body.startswith(b"time")


def test_odd_types_are_written_as_text() -> None:
    values = list(csv.reader(io.StringIO(written(pa.table(ODD), "csv").decode())))[1]
    assert values == [
        *("P1M2DT3.5S", "1.50", str(2**70), "AP8=", "true", "nan", "[1,null]", '{"x":1}'),
        "2026-09-21",
    ]
    [row] = msgspec.json.decode(written(pa.table(ODD), "json"))
    assert row["b"] == "AP8="
    assert row["f"] is None


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_two_columns_of_one_name_are_refused_where_one_would_be_lost(form: str) -> None:
    table = pa.table([[1], [2]], names=["n", "n"])
    with pytest.raises(QueryError, match=f"{form} cannot have two columns 'n'"):
        written(table, form)
    assert written(table, "csv") == b"n,n\r\n1,2\r\n"


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(QueryError, match="cannot be written as parquet"):
        written(pa.table({"i": ODD["i"]}), "parquet")
    with pytest.raises(QueryError, match="'xml' is not known"):
        written(TABLE, "xml")


def test_a_stream_that_is_none_or_breaks_off_is_refused() -> None:
    body = written(TABLE, "arrow")
    assert rows_of_stream(io.BytesIO(body)).schema == TABLE.schema
    for broken in (b"", b"{}", body[:40]):
        with pytest.raises(QueryError):
            export(rows_of_stream(io.BytesIO(broken)), "csv", io.BytesIO(), ignore)


def ignore(_: Any) -> None:
    """Of the progress, nothing."""
