"""Batches to tables: equal to the plain way by pyarrow, whatever comes and in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.bench_table_build import (
    build_tables_plainly,
    check_tables,
    flush_batches,
    schema_of,
)
from ingest import table_build
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import IngestError
from ingest.paths import HOUR_US
from ingest.schema import ColumnSpec, TableSchema
from ingest.table_build import HourTable, build_tables

START_US = 1_768_471_200_000_000  # the first microsecond of an hour

WORDS = ("", "a", "host-1", "host-0002", "größe", "日本語", "x" * 8, "x" * 16, "x" * 17, "y" * 40)


# --- making batches ----------------------------------------------------------------------------


def blob_column(
    values: Sequence[str | bytes | None], column_type: ColumnType = ColumnType.UTF8
) -> Column:
    data = [value.encode() if isinstance(value, str) else value or b"" for value in values]
    offsets = np.cumsum([0, *map(len, data)], dtype=np.int32)
    return Column(column_type, np.frombuffer(b"".join(data), np.uint8), offsets, mask_of(values))


def mask_of(values: Sequence[Any]) -> NDArray[np.bool_] | None:
    present = np.array([value is not None for value in values], dtype=np.bool_)
    return None if present.all() else present


def number_column(values: Sequence[Any], column_type: ColumnType = ColumnType.FLOAT64) -> Column:
    dtypes: dict[ColumnType, type[np.generic]] = {
        ColumnType.INT64: np.int64,
        ColumnType.FLOAT64: np.float64,
        ColumnType.BOOL: np.bool_,
        ColumnType.UINT64: np.uint64,
    }
    data = np.array([value or 0 for value in values], dtype=dtypes[column_type])
    return Column(column_type, data, None, mask_of(values))


def batch_of(
    times: Sequence[int], columns: dict[str, Column] | None = None, tags: Sequence[str] = ()
) -> ColumnBatch:
    return ColumnBatch("cpu", np.array(times, dtype=np.int64), columns or {}, frozenset(tags))


def random_column(rng: np.random.Generator, column_type: ColumnType, rows: int) -> Column:
    """Values that repeat and values that do not; in one column of three some are null."""
    values: list[Any]
    if column_type is ColumnType.UTF8:
        values = [WORDS[i] for i in rng.integers(0, len(WORDS), rows)]
    elif column_type is ColumnType.BINARY:
        values = [rng.bytes(int(size)) for size in rng.integers(0, 20, rows)]
    elif column_type is ColumnType.BOOL:
        values = rng.integers(0, 2, rows).astype(bool).tolist()
    elif column_type is ColumnType.INT64:
        values = rng.integers(-(2**63), 2**63 - 1, rows).tolist()
    else:
        values = rng.choice([0.5, -0.0, 1e300, np.inf, rng.uniform()], rows).tolist()
    if rng.random() < 0.33:
        values = [
            None if gone else v for v, gone in zip(values, rng.random(rows) < 0.3, strict=True)
        ]
    if column_type in (ColumnType.UTF8, ColumnType.BINARY):
        return blob_column(values, column_type)
    return number_column(values, column_type)


def random_flush(seed: int) -> tuple[list[ColumnBatch], TableSchema]:
    """Batches of a random table: columns that come and go, hours that begin, times that repeat."""
    rng = np.random.default_rng(seed)
    stored = [ColumnType(t) for t in rng.choice([*ColumnType][:5], rng.integers(0, 6))]
    specs = {
        f"c{i}": ColumnSpec(t, is_tag=bool(t is ColumnType.UTF8 and rng.random() < 0.5))
        for i, t in enumerate(stored)
    }
    span_us = int(rng.choice([1, 30, 10_000, HOUR_US, 3 * HOUR_US, 2**61]))
    first_us = int(rng.choice([START_US, -HOUR_US - 5, 0, -(2**60)]))
    batches = []
    for _ in range(rng.integers(1, 12)):
        rows = int(rng.integers(1, 40))
        times = first_us + rng.integers(-span_us, span_us + 1, rows)
        if rng.random() < 0.7:
            times.sort()
        columns = {}
        for name, spec in specs.items():
            if rng.random() < 0.2:
                continue
            column = random_column(rng, spec.type, rows)
            if spec.type is ColumnType.FLOAT64 and rng.random() < 0.3:
                column = number_column(
                    rng.integers(-(2**53), 2**53, rows).tolist(), ColumnType.INT64
                )
            columns[name] = column
        batches.append(batch_of(times.tolist(), columns))
    return batches, TableSchema(specs, 1)


# --- the whole, against its twin ---------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_tables_equal_those_built_by_pyarrow_alone(seed: int) -> None:
    batches, schema = random_flush(seed)
    check_tables(build_tables(batches, schema), build_tables_plainly(batches, schema))


@pytest.mark.parametrize(
    "arrangement",
    ["sorted", "turned", "interleaved", "random", "equal", "one series a batch", "one late client"],
)
def test_a_flush_of_many_batches_is_sorted_whatever_the_order_of_arrival(arrangement: str) -> None:
    batches = flush_batches("mixed", arrangement, 20_000)
    schema = schema_of(batches)
    check_tables(build_tables(batches, schema), build_tables_plainly(batches, schema))


def times_and_values(hours: Sequence[HourTable]) -> list[tuple[int, Any]]:
    return [
        row
        for hour in hours
        for row in zip(
            hour.table["time"].cast(pa.int64()).to_pylist(),
            hour.table["v"].to_pylist(),
            strict=True,
        )
    ]


def build_values(*batches: tuple[Sequence[int], Sequence[Any]]) -> list[tuple[int, Any]]:
    made = [batch_of(times, {"v": number_column(values)}) for times, values in batches]
    return times_and_values(build_tables(made, schema_of(made)))


# --- order of rows -----------------------------------------------------------------------------


def test_rows_with_equal_times_keep_their_order_of_arrival() -> None:
    found = build_values(([7, 7, 5], [1, 2, 3]), ([5, 7], [4, 5]))
    assert found == [(5, 3), (5, 4), (7, 1), (7, 2), (7, 5)]


def test_batches_that_only_came_in_another_order_are_put_in_order() -> None:
    found = build_values(([20, 21], [3, 4]), ([10, 11], [1, 2]), ([30], [5]))
    assert found == [(10, 1), (11, 2), (20, 3), (21, 4), (30, 5)]


def test_turned_batches_that_touch_keep_the_order_of_arrival_of_equal_times() -> None:
    found = build_values(([5, 10], [1, 2]), ([1, 5], [3, 4]), ([1, 1], [5, 6]))
    assert found == [(1, 3), (1, 5), (1, 6), (5, 1), (5, 4), (10, 2)]


def test_turned_batches_are_not_sorted_row_by_row() -> None:
    """The short way is taken: joined batches are in order without an order of rows."""
    batches = [batch_of([20, 21]), batch_of([10, 11]), batch_of([30])]
    assert table_build._arrange(batches).order is None
    assert table_build._arrange([batch_of([10, 21]), batch_of([11, 20])]).order is not None


def test_times_too_far_apart_for_the_kernel_are_sorted_all_the_same() -> None:
    far = 2**62
    found = build_values(([5, -far, far], [1, 2, 3]), ([-far, 4], [4, 5]))
    assert found == [(-far, 2), (-far, 4), (4, 5), (5, 1), (far, 3)]


# --- hours -------------------------------------------------------------------------------------


def test_rows_are_split_where_an_hour_begins() -> None:
    times = [START_US - 1, START_US, START_US + HOUR_US - 1, START_US + HOUR_US]
    hours = build_tables([batch_of(times)], TableSchema({}, 1))
    assert [(h.hour_start_us - START_US, h.min_time_us, h.max_time_us) for h in hours] == [
        (-HOUR_US, times[0], times[0]),
        (0, times[1], times[2]),
        (HOUR_US, times[3], times[3]),
    ]


def test_hours_before_1970_are_rounded_towards_the_past() -> None:
    hours = build_tables([batch_of([-1, 0, -HOUR_US, -HOUR_US - 1])], TableSchema({}, 1))
    assert [hour.hour_start_us for hour in hours] == [-2 * HOUR_US, -HOUR_US, 0]
    assert [hour.table.num_rows for hour in hours] == [1, 2, 1]


def test_a_thousand_hours_in_one_batch_make_a_thousand_tables() -> None:
    times = [START_US + i * HOUR_US for i in range(1000)]
    columns = {"host": blob_column([f"h{i % 7}" for i in range(1000)])}
    batches = [batch_of(times, columns, ["host"])]
    hours = build_tables(batches, schema_of(batches))
    assert [hour.hour_start_us for hour in hours] == times
    assert [hour.table["host"].to_pylist() for hour in hours] == [
        [f"h{i % 7}"] for i in range(1000)
    ]


def test_each_hour_has_a_dictionary_of_its_own_values_only() -> None:
    values = ["a", "b", None, "b", "c", "a"]
    times = [START_US + i // 3 * HOUR_US + i for i in range(6)]
    batches = [batch_of(times, {"host": blob_column(values)}, ["host"])]
    hours = build_tables(batches, schema_of(batches))
    assert [hour.table["host"].to_pylist() for hour in hours] == [values[:3], values[3:]]
    dictionaries = [hour.table["host"].chunk(0).dictionary.to_pylist() for hour in hours]
    assert dictionaries == [["a", "b"], ["b", "c", "a"]]


# --- columns -----------------------------------------------------------------------------------


def test_columns_are_time_then_tags_then_fields_each_as_first_seen() -> None:
    columns = {name: blob_column(["x"]) for name in ("b", "z", "a", "y")}
    batches = [batch_of([1], columns, ["y", "z"])]
    table = build_tables(batches, schema_of(batches))[0].table
    assert table.column_names == ["time", "z", "y", "b", "a"]


def test_types_are_those_that_every_reader_shares() -> None:
    types = {
        "i": number_column([1], ColumnType.INT64),
        "f": number_column([0.5]),
        "o": number_column([True], ColumnType.BOOL),
        "x": blob_column([b"\xff"], ColumnType.BINARY),
        "t": blob_column(["a"]),
    }
    batches = [batch_of([1], types, ["t"])]
    table = build_tables(batches, schema_of(batches))[0].table
    text, binary = pa.dictionary(pa.int32(), pa.utf8()), pa.dictionary(pa.int32(), pa.binary())
    assert table.schema.equals(
        pa.schema(
            [
                pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
                pa.field("t", text),
                pa.field("i", pa.int64()),
                pa.field("f", pa.float64()),
                pa.field("o", pa.bool_()),
                pa.field("x", binary),
            ]
        )
    )


def test_a_column_that_a_batch_does_not_have_is_null_there() -> None:
    batches = [
        batch_of([1, 2], {"a": number_column([0.5, None]), "s": blob_column(["x", "y"])}),
        batch_of([3], {"b": number_column([7], ColumnType.INT64)}),
    ]
    table = build_tables(batches, schema_of(batches))[0].table
    assert table.drop_columns("time").to_pydict() == {
        "a": [0.5, None, None],
        "s": ["x", "y", None],
        "b": [None, None, 7],
    }


def test_a_column_of_the_schema_that_no_batch_has_is_null_throughout() -> None:
    schema = TableSchema({"a": ColumnSpec(ColumnType.UTF8), "b": ColumnSpec(ColumnType.BOOL)}, 1)
    table = build_tables([batch_of([1, 2])], schema)[0].table
    assert table.drop_columns("time").to_pydict() == {"a": [None, None], "b": [None, None]}
    assert [field.type for field in table.schema][1:] == [pa.utf8(), pa.bool_()]


def test_integers_become_floats_where_the_schema_has_floats() -> None:
    schema = TableSchema({"v": ColumnSpec(ColumnType.FLOAT64)}, 2)
    batches = [
        batch_of([1, 2], {"v": number_column([2**53, None], ColumnType.INT64)}),
        batch_of([3], {"v": number_column([0.5])}),
        batch_of([4], {"v": number_column([2**64 - 1], ColumnType.UINT64)}),
    ]
    table = build_tables(batches, schema)[0].table
    assert table["v"].to_pylist() == [2.0**53, None, 0.5, 2.0**64]


def test_text_that_hardly_repeats_gets_no_dictionary() -> None:
    rows = 3 * 4096
    values = [f"trace-{i:09d}" for i in range(rows)]
    times = list(range(rows, 0, -1))
    batches = [batch_of(times, {"trace": blob_column(values), "host": blob_column(["h"] * rows)})]
    table = build_tables(batches, schema_of(batches))[0].table
    assert table.schema.field("trace").type == pa.utf8()
    assert pa.types.is_dictionary(table.schema.field("host").type)
    assert table["trace"].to_pylist() == values[::-1]


def test_long_text_gets_no_dictionary_that_a_parquet_page_would_not_hold() -> None:
    values = [f"{i % 20:02d}" * 40_000 for i in range(40)]
    batches = [batch_of(range(40), {"text": blob_column(values)})]
    table = build_tables(batches, schema_of(batches))[0].table
    assert table.schema.field("text").type == pa.utf8()
    assert table["text"].to_pylist() == values


def test_no_batches_make_no_tables() -> None:
    assert build_tables([], TableSchema({}, 1)) == []


def test_tables_share_no_memory_with_the_batches() -> None:
    column = number_column([1.0, 2.0])
    batch = batch_of([1, 2], {"v": column})
    table = build_tables([batch], schema_of([batch]))[0].table
    column.values[:] = 9.0
    batch.time_us[:] = 9
    assert table["v"].to_pylist() == [1.0, 2.0]
    assert table["time"].cast(pa.int64()).to_pylist() == [1, 2]


def test_read_only_values_are_taken() -> None:
    column = number_column([1.0, 2.0])
    column.values.flags.writeable = False
    batch = batch_of([2, 1], {"v": column})
    assert times_and_values(build_tables([batch], schema_of([batch]))) == [(1, 2.0), (2, 1.0)]


# --- defects of the caller ---------------------------------------------------------------------


def test_a_column_that_the_schema_does_not_have_is_a_defect() -> None:
    batch = batch_of([1], {"v": number_column([1.0])})
    with pytest.raises(IngestError, match=r"BUG: columns \['v'\] are not in the schema"):
        build_tables([batch], TableSchema({}, 1))


@pytest.mark.parametrize("stored", [ColumnType.INT64, ColumnType.UTF8, ColumnType.BOOL])
def test_a_type_that_the_schema_cannot_take_is_a_defect(stored: ColumnType) -> None:
    batch = batch_of([1], {"v": number_column([1.0])})
    with pytest.raises(IngestError, match="BUG: column 'v' is float64, its table has"):
        build_tables([batch], TableSchema({"v": ColumnSpec(stored)}, 1))


def test_offsets_that_do_not_cover_their_bytes_are_a_defect() -> None:
    column = blob_column(["ab", "c"])
    column.values = column.values[:2]
    batch = batch_of([1, 2], {"v": column})
    with pytest.raises(IngestError, match="BUG: column 'v' has offsets that do not end"):
        build_tables([batch], schema_of([batch]))


def test_more_bytes_than_offsets_reach_are_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_build, "_MAX_BLOB_BYTES", 5)
    batch = batch_of([1, 2], {"v": blob_column(["abc", "def"])})
    with pytest.raises(IngestError, match="BUG: column 'v' has 6 bytes of values in one flush"):
        build_tables([batch], schema_of([batch]))
