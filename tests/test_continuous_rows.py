"""Answers of SELECTs as rows: types, times, tags, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from ingest import arrow_ipc
from ingest.continuous import MARK_COLUMN, Window
from ingest.continuous_rows import Rows, rows_of
from ingest.errors import PayloadError
from ingest.limits import Limits

#: 2026-09-21 14:00 to 15:00.
START_US = 1_789_999_200_000_000
WINDOW = Window(START_US, START_US + 3_600_000_000)
INSIDE = "TIMESTAMPTZ '2026-09-21 14:59:59.999999+00'"


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def of(**columns: Any) -> Rows:
    return rows_of(stream(pa.table(columns)), WINDOW, "3")


def select(sql: str) -> pa.Table:
    """The rows of a SELECT as DuckDB answers it."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        reader = connection.sql(sql).to_arrow_reader(2)
        answer = stream(pa.table(reader.read_all()))
    return read(rows_of(answer, WINDOW, "3"))


def read(rows: Rows) -> pa.Table:
    with pa.ipc.open_stream(rows.body) as found:
        return found.read_all()


def test_every_type_that_duckdb_answers_with_and_can_be_stored() -> None:
    found = select(
        f"SELECT {INSIDE} AS time, 'a' AS text, sum(i) AS total, avg(i) AS mean, count(*) AS n, "
        "max(i::TINYINT) AS tiny, true AS flag, 1.25 AS price, max(i::FLOAT) AS small, "
        "'x'::BLOB AS bytes, NULL AS nothing, 18446744073709551615::UBIGINT AS big, "
        "'u'::ENUM ('u', 'v') AS choice, max(CASE WHEN i > 9 THEN i END) AS missing, "
        "sum(CASE WHEN i > 9 THEN i END) AS no_sum FROM range(4) t(i)"
    )
    assert {name: str(found.schema.field(name).type) for name in found.column_names} == {
        "time": "timestamp[us, tz=UTC]",
        MARK_COLUMN: "dictionary<values=string, indices=int32, ordered=0>",
        "text": "dictionary<values=string, indices=int32, ordered=0>",
        "total": "int64",
        "mean": "double",
        "n": "int64",
        "tiny": "int8",
        "flag": "bool",
        "price": "double",
        "small": "double",
        "bytes": "binary",
        "big": "uint64",
        "choice": "dictionary<values=string, indices=int32, ordered=0>",
        "missing": "int64",
        "no_sum": "int64",
    }
    values = found.to_pylist()[0]
    assert values.pop("time") == dt.datetime(2026, 9, 21, 14, 59, 59, 999999, dt.UTC)
    assert values == {
        MARK_COLUMN: "3",
        **{"text": "a", "total": 6, "mean": 1.5, "n": 4, "tiny": 3, "flag": True, "price": 1.25},
        **{"small": 3.0, "bytes": b"x", "big": 2**64 - 1, "choice": "u"},
        **{"missing": None, "no_sum": None},
    }


def test_the_arrow_door_takes_text_for_tags_and_leaves_nulls_null() -> None:
    rows = of(host=["a", None, "b", "a"], v=[1, None, 3, 4], z=pa.nulls(4))
    batches = arrow_ipc.decode(rows.body, 0, Limits(), "m")
    assert [batch.num_rows for batch in batches] == [4]
    assert batches[0].tags == {MARK_COLUMN, "host"}
    assert batches[0].time_us.tolist() == [START_US] * 4
    assert set(batches[0].columns) == {MARK_COLUMN, "host", "v"}


def test_without_a_time_every_row_has_that_of_the_window() -> None:
    found = read(of(v=[1, 2, 3]))
    assert found["time"].cast(pa.int64()).to_pylist() == [START_US] * 3


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("ns", "UTC")]
)
def test_times_of_every_unit_are_stored_in_microseconds(kind: pa.DataType) -> None:
    at = pa.array([START_US], pa.timestamp("us", "UTC")).cast(pa.timestamp("us")).cast("int64")
    times = at.cast(pa.timestamp("us")).cast(pa.timestamp(kind.unit)).cast(kind)
    found = read(of(time=times, v=[1]))
    assert found["time"].cast(pa.int64()).to_pylist() == [START_US]


def test_a_date_is_its_midnight() -> None:
    day = dt.date(2026, 9, 21)
    midnight_us = START_US - 14 * 3_600_000_000
    window = Window(midnight_us, midnight_us + 1)
    rows = rows_of(stream(pa.table({"time": [day], "v": [1]})), window, "3")
    assert read(rows)["time"].cast(pa.int64()).to_pylist() == [midnight_us]


def test_a_mark_of_another_query_is_replaced() -> None:
    assert read(of(**{MARK_COLUMN: ["1", "2"], "v": [1, 2]}))[MARK_COLUMN].to_pylist() == ["3"] * 2


def test_no_rows_are_no_rows() -> None:
    assert of(v=pa.array([], pa.int64())).num_rows == 0


def test_times_are_of_the_window_up_to_its_end() -> None:
    times = pa.array([WINDOW.start_us, WINDOW.end_us - 1], pa.timestamp("us", "UTC"))
    assert of(time=times, v=[1, 2]).num_rows == 2


@pytest.mark.parametrize("at_us", [WINDOW.start_us - 1, WINDOW.end_us])
def test_a_time_outside_of_the_window_is_refused(at_us: int) -> None:
    times = pa.array([WINDOW.start_us, at_us], pa.timestamp("us", "UTC"))
    with pytest.raises(PayloadError, match="not in the window from 2026-09-21 14:00:00"):
        of(time=times, v=[1, 2])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"v": [[1]]}, "column 'v' is list<"),
        ({"v": [{"a": 1}]}, "column 'v' is struct<"),
        ({"v": [dt.time(1)]}, "column 'v' is time64.*is called 'time'"),
        ({"at": [dt.datetime(2026, 1, 1)]}, "column 'at' is timestamp.*is called 'time'"),
        ({"time": [1], "v": [1]}, "column 'time' is int64, wanted a timestamp or a date"),
        ({"time": pa.nulls(1, pa.timestamp("us")), "v": [1]}, "'time' is null in 1 rows"),
        ({"time": pa.nulls(1), "v": [1]}, "column 'time' is null, wanted a timestamp"),
        ({"v": pa.nulls(1)}, "no column but time"),
        ({"v": [Decimal(2**63)]}, "column 'v' has a value of magnitude 9223372036854775808"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        of(**columns)


def test_a_name_that_comes_twice_is_refused() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["v", "v"])
    with pytest.raises(PayloadError, match="column 'v' is in the result twice"):
        rows_of(stream(table), WINDOW, "3")


def test_an_answer_that_broke_off_is_refused() -> None:
    whole = stream(pa.table({"v": list(range(10))}))
    for end in range(len(whole)):
        with pytest.raises(PayloadError, match=f"broke off after {end} bytes"):
            rows_of(whole[:end], WINDOW, "3")
