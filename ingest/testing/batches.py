"""Column batches, compared with each other and with what every decoder promises of them.

In: batches. Out: nothing, or an AssertionError that names the batch, the column and the rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.limits import MAX_COLUMN_NAME_BYTES
from ingest.timestamps import MAX_TIME_S, MIN_TIME_S


def column_values(column: Column) -> list[Any]:
    """The values of a column as Python has them, None where one is null."""
    if column.offsets is None:
        values: list[Any] = column.values.tolist()
    else:
        raw, ends = column.values.tobytes(), column.offsets.tolist()
        values = [raw[start:end] for start, end in itertools.pairwise(ends)]
        if column.type is ColumnType.UTF8:
            values = [value.decode() for value in values]
    if column.validity is None:
        return values
    return [v if ok else None for v, ok in zip(values, column.validity.tolist(), strict=True)]


def assert_same_column(found: Column, wanted: Column) -> None:
    """Fail unless two columns are equal to the last bit, the payloads of NaNs aside."""
    assert (found.type, found.wide) == (wanted.type, wanted.wide)
    for name in ("values", "offsets", "validity"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            assert np.array_equal(one, other, equal_nan=one.dtype == np.float64), name
    if found.type is ColumnType.FLOAT64:  # -0.0 == 0.0, but they are not the same
        present = ~np.isnan(found.values)
        signs = np.signbit(found.values), np.signbit(wanted.values)
        assert np.array_equal(signs[0][present], signs[1][present])


def assert_same_batches(found: Sequence[ColumnBatch], wanted: Sequence[ColumnBatch]) -> None:
    """Fail unless two lists of batches are equal in every field."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.measurement, one.tags) == (other.measurement, other.tags)
        assert one.time_us.dtype == other.time_us.dtype == np.int64
        assert np.array_equal(one.time_us, other.time_us)
        assert (one.min_us, one.max_us) == (other.min_us, other.max_us)
        assert list(one.columns) == list(other.columns)
        for name, column in one.columns.items():
            assert_same_column(column, other.columns[name])
        assert one.nbytes == other.nbytes


# ------------------------------------------------------------------------------ what is promised

_DTYPES: dict[ColumnType, np.dtype[Any]] = {
    ColumnType.INT64: np.dtype(np.int64),
    ColumnType.FLOAT64: np.dtype(np.float64),
    ColumnType.UTF8: np.dtype(np.uint8),
    ColumnType.BOOL: np.dtype(np.bool_),
    ColumnType.BINARY: np.dtype(np.uint8),
    ColumnType.UINT64: np.dtype(np.uint64),
}


def check_batches(batches: Sequence[ColumnBatch]) -> None:
    """Fail unless every batch keeps what `ingest/columns.py` promises; see `check_batch`."""
    for number, batch in enumerate(batches):
        try:
            check_batch(batch)
        except AssertionError as error:
            raise AssertionError(f"batch {number}: {error}") from None


def check_batch(batch: ColumnBatch) -> None:
    """Fail unless a decoded batch keeps every promise that the stages after it build on.

    Raises:
        AssertionError: with the column and the rule that it breaks.
    """
    assert isinstance(batch.measurement, str), "the measurement is no string"
    _check_times(batch)
    held_bytes = batch.time_us.nbytes
    for name, column in batch.columns.items():
        where = f"column {name!r}"
        assert isinstance(name, str), f"{where}: the name is no string"
        assert name != TIME_COLUMN, f"{where}: the times are not a column"
        size = len(name.encode())
        assert 1 <= size <= MAX_COLUMN_NAME_BYTES, f"{where}: a name of {size} bytes"
        _check_column(column, batch.num_rows, where)
        held_bytes += column.nbytes
    assert isinstance(batch.tags, frozenset), "the tags are no frozenset"
    assert all(isinstance(tag, str) for tag in batch.tags), f"tags {batch.tags} are not all strings"
    assert batch.nbytes >= held_bytes, f"it holds {held_bytes} bytes and counts {batch.nbytes}"


def _check_times(batch: ColumnBatch) -> None:
    times = batch.time_us
    _check_array(times, np.dtype(np.int64), "the times")
    assert times.size >= 1, "it has no row"
    found = int(times.min()), int(times.max())
    assert batch.range_us == found, f"it says {batch.range_us}, and its times are {found}"
    assert found[0] >= MIN_TIME_S * 10**6, f"a time of {found[0]} µs"
    assert found[1] < MAX_TIME_S * 10**6, f"a time of {found[1]} µs"


def _check_array(values: NDArray[Any], dtype: np.dtype[Any], where: str) -> None:
    assert isinstance(values, np.ndarray), f"{where}: found {type(values)}"
    assert values.dtype == dtype, f"{where}: found {values.dtype}, wanted {dtype}"
    assert values.ndim == 1, f"{where}: found {values.ndim} dimensions"
    assert values.flags.c_contiguous, f"{where}: the values do not lie side by side"
    if dtype == np.bool_:
        assert values.view(np.uint8).max(initial=0) <= 1, f"{where}: a bool that is neither 0 nor 1"


def _check_column(column: Column, rows: int, where: str) -> None:
    _check_array(column.values, _DTYPES[column.type], where)
    if column.validity is not None:
        _check_array(column.validity, np.dtype(np.bool_), f"{where}, validity")
        assert column.validity.size == rows, f"{where}: validity of {column.validity.size} rows"
        assert column.validity.any(), f"{where}: null throughout, so it should not be there"
        assert not column.validity.all(), f"{where}: a validity, and nothing is null"
    if column.type in (ColumnType.UTF8, ColumnType.BINARY):
        _check_offsets(column, rows, where)
    else:
        assert column.offsets is None, f"{where}: offsets for {column.type}"
        assert column.values.size == rows, f"{where}: {column.values.size} values for {rows} rows"
        if column.validity is not None:
            assert not column.values[~column.validity].any(), f"{where}: a null slot is not zero"
    wide = column.type is ColumnType.INT64 and bool(
        (column.values > MAX_EXACT_INT).any() or (column.values < -MAX_EXACT_INT).any()
    )
    assert column.wide == wide, f"{where}: wide is {column.wide}"


def _check_offsets(column: Column, rows: int, where: str) -> None:
    offsets, values = column.offsets, column.values
    assert offsets is not None, f"{where}: no offsets"
    _check_array(offsets, np.dtype(np.int32), f"{where}, offsets")
    assert offsets.size == rows + 1, f"{where}: {offsets.size} offsets for {rows} rows"
    assert offsets[0] == 0, f"{where}: the first offset is {offsets[0]}"
    sizes = np.diff(offsets)
    assert (sizes >= 0).all(), f"{where}: offsets go back"
    assert offsets[-1] == values.size, f"{where}: {values.size} bytes, offsets end at {offsets[-1]}"
    if column.validity is not None:
        assert not sizes[~column.validity].any(), f"{where}: a null value is not empty"
    if column.type is ColumnType.UTF8:
        try:
            values.tobytes().decode()
        except UnicodeDecodeError as error:
            raise AssertionError(f"{where}: {error}") from None
        starts = offsets[offsets < values.size]
        continued = (values[starts] & 0xC0) == 0x80
        assert not continued.any(), f"{where}: a value begins in the middle of a character"
