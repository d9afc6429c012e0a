"""A table that was read, for pandas and Polars."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from arc.reader import Frame

WHEN = datetime(2026, 11, 20, 9, tzinfo=UTC)
TABLE = pa.table(
    {
        "time": pa.array([WHEN, WHEN], pa.timestamp("us", "UTC")),
        "n": pa.array([2**53 + 1, None], pa.int64()),
        "u": pa.array([1, None], pa.uint8()),
        "full": pa.array([1, 2], pa.int64()),
        "x": pa.array([1.5, None], pa.float64()),
        "flag": pa.array([True, None], pa.bool_()),
        "host": pa.array(["a", None], pa.utf8()),
    }
)


def test_pandas_keeps_digits_types_and_zone() -> None:
    frame = Frame(TABLE).to_pandas()
    assert [str(frame[name].dtype) for name in ("time", "n", "u", "full", "x", "flag")] == [
        "datetime64[us, UTC]",
        "Int64",
        "UInt8",
        "int64",
        "float64",
        "boolean",
    ]
    assert frame["n"][0] == 2**53 + 1
    assert frame["time"][0] == WHEN
    assert frame["host"][0] == "a"
    assert frame.isna().sum().tolist() == [0, 1, 1, 0, 1, 1, 1]


def test_polars_has_the_same_rows() -> None:
    frame = Frame(TABLE).to_polars()
    assert frame.rows() == [tuple(row.values()) for row in TABLE.to_pylist()]


def test_a_frame_without_rows_has_its_columns_everywhere() -> None:
    frame = Frame(TABLE.slice(0, 0))
    assert len(frame) == 0
    assert list(frame.to_pandas().columns) == TABLE.column_names
    assert frame.to_polars().columns == TABLE.column_names
    assert list(frame.to_numpy()) == TABLE.column_names


def test_a_frame_says_what_it_has() -> None:
    assert repr(Frame(TABLE)) == "Frame(2 rows: time, n, u, full, x, flag, host)"
