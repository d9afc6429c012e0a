"""Rows of column batches: some of them as a batch of their own, or several batches as one. Pure.

In: batches as decoders make them. Out: new batches that keep the promises of `ingest.columns`:
no column that is null throughout, `wide` and sizes as they are. Values are copied, never changed,
and nothing is looked up or refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.assemble import BATCH_OVERHEAD_BYTES, COLUMN_OVERHEAD_BYTES
from ingest.columns import MAX_EXACT_INT, Column, ColumnBatch, ColumnType

_MAX_INT64 = 2**63 - 1


def keep_rows(batch: ColumnBatch, kept: NDArray[np.bool_]) -> ColumnBatch:
    """Some rows of a batch, in their order.

    Args:
        batch: Not changed.
        kept: bool, shape (rows,), at least one of them True.

    Returns:
        Columns without a value in these rows are left out. A uint64 column whose values here all
        fit in int64 is int64, as it would be if they had come alone.
    """
    columns = {}
    for name, column in batch.columns.items():
        found = _kept(column, kept)
        if found is not None:
            columns[name] = found
    return _made(batch.measurement, batch.time_us[kept], columns, batch.tags)


def join_batches(batches: Sequence[ColumnBatch]) -> ColumnBatch:
    """Batches of one measurement as one, one after another.

    Args:
        batches: At least one. A column has the same type in every batch that has it, and is not
            uint64. All bytes of a utf8 or binary column together are below 2 GiB.

    Returns:
        Columns in the order in which they were first seen; null where a batch has none. The batch
        itself when it is the only one.
    """
    if len(batches) == 1:
        return batches[0]
    types = {name: column.type for batch in batches for name, column in batch.columns.items()}
    time_us = np.concatenate([batch.time_us for batch in batches])
    columns = {
        name: _joined([(batch.columns.get(name), batch.num_rows) for batch in batches], type_)
        for name, type_ in types.items()
    }
    # Not a tag that a batch names and has no value of: elsewhere that column may be a number.
    tags = frozenset().union(*[batch.tags & batch.columns.keys() for batch in batches])
    return _made(batches[0].measurement, time_us, columns, tags)


def _made(
    measurement: str,
    time_us: NDArray[np.int64],
    columns: dict[str, Column],
    tags: frozenset[str],
) -> ColumnBatch:
    nbytes = time_us.nbytes + BATCH_OVERHEAD_BYTES
    for column in columns.values():
        nbytes += column.nbytes + COLUMN_OVERHEAD_BYTES
    return ColumnBatch(measurement, time_us, columns, tags, nbytes)


def _kept(column: Column, kept: NDArray[np.bool_]) -> Column | None:
    """The values of some rows; None when all of them are null."""
    validity = None if column.validity is None else column.validity[kept]
    if validity is not None and not validity.any():
        return None
    if validity is not None and validity.all():
        validity = None
    if column.offsets is None:
        values = column.values[kept]
        if column.type is ColumnType.UINT64 and int(values.max()) <= _MAX_INT64:
            values = values.astype(np.int64)
            return Column(ColumnType.INT64, values, None, validity, _is_wide(values))
        wide = column.type is ColumnType.INT64 and column.wide and _is_wide(values)
        return Column(column.type, values, None, validity, wide)
    lengths = np.diff(column.offsets)
    offsets = _offsets(lengths[kept])
    # A mask of bytes and not an index of them, which would take eight times the memory.
    values = column.values[: column.offsets[-1]][np.repeat(kept, lengths)]
    return Column(column.type, values, offsets, validity)


def _is_wide(values: NDArray[np.int64]) -> bool:
    return bool(values.max() > MAX_EXACT_INT or values.min() < -MAX_EXACT_INT)


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _joined(pieces: Sequence[tuple[Column | None, int]], type_: ColumnType) -> Column:
    """One column of pieces, each with its number of rows; None where all of a piece is null."""
    validity = None
    if any(column is None or column.validity is not None for column, _ in pieces):
        validity = np.concatenate([_validity(column, rows) for column, rows in pieces])
    if type_ is ColumnType.UTF8 or type_ is ColumnType.BINARY:
        values = [column.values[: _end(column)] for column, _ in pieces if column is not None]
        lengths = np.concatenate([_lengths(column, rows) for column, rows in pieces])
        return Column(type_, np.concatenate(values), _offsets(lengths), validity)
    dtype = next(column.values.dtype for column, _ in pieces if column is not None)
    fixed = [np.zeros(rows, dtype) if c is None else c.values for c, rows in pieces]
    wide = any(column is not None and column.wide for column, _ in pieces)
    return Column(type_, np.concatenate(fixed), None, validity, wide)


def _validity(column: Column | None, rows: int) -> NDArray[np.bool_]:
    if column is None or column.validity is None:
        return np.full(rows, column is not None)
    return column.validity


def _lengths(column: Column | None, rows: int) -> NDArray[np.int32]:
    if column is None or column.offsets is None:
        return np.zeros(rows, dtype=np.int32)
    return np.diff(column.offsets)


def _end(column: Column) -> int:
    return 0 if column.offsets is None else int(column.offsets[-1])
