"""Columns and batches from Python values, for tests of what comes after the decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import MAX_EXACT_INT, Column, ColumnBatch, ColumnType


def fixed(kind: ColumnType, dtype: type, values: Sequence[Any], wide: bool = False) -> Column:
    """A column of numbers or booleans, None for null."""
    present = np.array([value is not None for value in values])
    filled: NDArray[Any] = np.array([0 if value is None else value for value in values], dtype)
    return Column(kind, filled, None, None if present.all() else present, wide)


def ints(*values: int | None) -> Column:
    """An int64 column."""
    wide = any(abs(value) > MAX_EXACT_INT for value in values if value is not None)
    return fixed(ColumnType.INT64, np.int64, values, wide)


def uints(*values: int | None) -> Column:
    """A uint64 column; one of the values should be above 2**63 - 1."""
    return fixed(ColumnType.UINT64, np.uint64, values)


def floats(*values: float | None) -> Column:
    """A float64 column."""
    return fixed(ColumnType.FLOAT64, np.float64, values)


def bools(*values: bool | None) -> Column:
    """A column of booleans."""
    return fixed(ColumnType.BOOL, np.bool_, values)


def blobs(*values: bytes | None, kind: ColumnType = ColumnType.BINARY) -> Column:
    """A binary column."""
    filled = [value or b"" for value in values]
    offsets = np.cumsum([0, *map(len, filled)], dtype=np.int32)
    present = np.array([value is not None for value in values])
    data = np.frombuffer(b"".join(filled), dtype=np.uint8)
    return Column(kind, data, offsets, None if present.all() else present)


def texts(*values: str | None) -> Column:
    """A utf8 column."""
    return blobs(
        *(None if value is None else value.encode() for value in values), kind=ColumnType.UTF8
    )


def batch(
    columns: dict[str, Column],
    tags: Sequence[str] = (),
    measurement: str = "cpu",
    first_us: int = 1_700_000_000_000_000,
) -> ColumnBatch:
    """A batch of these columns, its times one microsecond apart."""
    rows = [
        len(c.values) if c.offsets is None else len(c.offsets) - 1 for c in columns.values()
    ] or [1]
    times = Column(ColumnType.INT64, np.arange(first_us, first_us + rows[0]))
    all_columns: dict[str, Column | None] = {"time": times, **columns}
    return assemble(measurement, rows[0], all_columns, frozenset(tags), 0, None)


def to_rows(batch: ColumnBatch) -> list[dict[str, Any]]:
    """Each row of a batch: `time` in µs, and what is not null."""
    columns = {name: _values(column) for name, column in batch.columns.items()}
    return [
        {"time": int(time_us)}
        | {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i, time_us in enumerate(batch.time_us)
    ]


def _values(column: Column) -> list[Any]:
    values: list[Any] = column.values.tolist()
    if column.offsets is not None:
        data, ends = column.values.tobytes(), column.offsets.tolist()
        values = [data[a:b] for a, b in pairwise(ends)]
        if column.type is ColumnType.UTF8:
            values = [value.decode() for value in values]
    present = [True] * len(values) if column.validity is None else column.validity.tolist()
    return [value if there else None for value, there in zip(values, present, strict=True)]
