"""What it costs to bring a batch into the types of its table: once for each batch.

`stored`: columns just as the table has them, the case to be fast in; `stored twin` is the same
through the general way. `cast` has one integer column that the table stores as float64.

    python -m benchmarks.bench_schema
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from benchmarks.harness import Bench, main
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.schema import NO_TABLE, Fit, TableSchema, cast, fit, widen

ROWS = 1_000
MAX_COLUMNS = 2_000

Way: TypeAlias = Callable[[TableSchema, ColumnBatch, int], Fit]


def make_batch(num_floats: int, num_ints: int = 0) -> ColumnBatch:
    """Two tags and some numbers; the zeros in them do not matter here."""
    offsets = np.arange(ROWS + 1, dtype=np.int32)
    columns = {
        name: Column(ColumnType.UTF8, np.zeros(ROWS, np.uint8), offsets)
        for name in ("host", "region")
    }
    for i in range(num_floats):
        columns[f"value_{i}"] = Column(ColumnType.FLOAT64, np.zeros(ROWS))
    for i in range(num_floats, num_floats + num_ints):
        columns[f"value_{i}"] = Column(ColumnType.INT64, np.zeros(ROWS, np.int64))
    time_us = np.zeros(ROWS, np.int64)
    return ColumnBatch("cpu", time_us, columns, frozenset({"host", "region"}))


def fit_twin(schema: TableSchema, batch: ColumnBatch, max_columns: int) -> Fit:
    """`fit` without its short way."""
    needed = widen(schema, batch, max_columns)
    return Fit(cast(needed, batch), None if needed is schema else needed)


def _check_unchanged(fitted: Fit) -> None:
    assert fitted.schema is None
    types = {column.type for column in fitted.batch.columns.values()}
    assert types == {ColumnType.UTF8, ColumnType.FLOAT64}


def benches() -> list[Bench]:
    """One for each number of columns and each way."""
    out: list[Bench] = []
    for num_floats in (3, 18, 198):
        batch = make_batch(num_floats)
        schema = widen(NO_TABLE, batch, MAX_COLUMNS)
        name = f"{num_floats + 2} columns stored"
        out += [_bench(name, fit, schema, batch), _bench(f"{name} twin", fit_twin, schema, batch)]
    schema = widen(NO_TABLE, make_batch(3), MAX_COLUMNS)
    out.append(_bench("5 columns, one cast", fit, schema, make_batch(2, 1)))
    return out


def _bench(name: str, way: Way, schema: TableSchema, batch: ColumnBatch) -> Bench:
    nbytes = sum(column.nbytes for column in batch.columns.values())
    return Bench(name, lambda: way(schema, batch, MAX_COLUMNS), ROWS, nbytes, _check_unchanged)


if __name__ == "__main__":
    raise SystemExit(main(benches()))
