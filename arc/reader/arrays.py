"""Arrow columns to NumPy, by their types and never by a look at Python values. Pure.

In: a table, a batch or one column of pyarrow. Out: for each column an array, a `MaskedColumn` where
values are missing, or a `ListColumn`. An array of numbers or times without missing values, of one
chunk, is a view on the memory of Arrow, which it keeps alive; all views are read-only. Several
chunks are joined first, once. The input is never changed.

    int8 … uint64, float16 … float64    the same
    timestamp, duration                 datetime64, timedelta64 of its unit; the zone is left out
    date32, date64                      datetime64[D] (a copy), datetime64[ms]
    bool                                bool, unpacked
    text, binary                        objects: str, bytes
    dictionary                          its values, through the codes
    list, large_list, fixed_size_list   ListColumn
    anything else                       objects, as pyarrow makes them

Layout of the buffers: https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
from numpy.typing import NDArray

from arc.reader.values import Column, ListColumn, MaskedColumn

#: Text is looked at in so many places, so many values each, for whether its values repeat.
SAMPLE_SLICES, SAMPLE_ROWS = 8, 2_048
#: From one value in so many on that is no repetition, a dictionary costs more than it saves:
#: docs/profiling/2026-11-20-reader.md.
_REPEATS = 4

#: Arrow's 32-bit offsets reach no further when chunks are joined.
MAX_JOINED_BYTES = 2**31 - 1

_Mask = NDArray[np.bool_] | None


def to_numpy(data: pa.Table | pa.RecordBatch) -> dict[str, Column]:
    """All columns by name, each of shape (rows,), as the module docstring has them.

    Raises:
        ValueError: Two columns have one name.
    """
    names = data.schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"columns of one name: {sorted({n for n in names if names.count(n) > 1})}")
    return {name: column_to_numpy(column) for name, column in zip(names, data.columns, strict=True)}


def column_to_numpy(column: pa.ChunkedArray | pa.Array) -> Column:
    """One column, as `to_numpy` has it."""
    array = _joined(column) if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pat.is_dictionary(array.type) and array.dictionary.null_count:
        array = array.dictionary_decode()
    if _is_list(array.type):
        return _lists(array)
    mask = missing(array)
    values = _values(array, mask)
    return values if mask is None else MaskedColumn(values, mask)


def missing(array: pa.Array) -> NDArray[np.bool_] | None:
    """Where values are missing: bool, shape (rows,); None: nowhere."""
    if array.null_count == 0:
        return None
    validity = array.buffers()[0]
    if validity is None or pat.is_null(array.type):
        present = pc.is_null(array)
        return _bits(present.buffers()[1], present.offset, len(present))
    # HOT. The bits are turned over while they are packed, eight a byte, and come out of
    # unpackbits in the order of Arrow: docs/profiling/2026-11-20-reader.md.
    return _bits(validity, array.offset, len(array), is_inverted=True)


def _bits(
    buffer: pa.Buffer, offset: int, length: int, is_inverted: bool = False
) -> NDArray[np.bool_]:
    """Bits of a bitmap, least significant first, from any bit on: bool, shape (length,)."""
    first, past = offset >> 3, (offset + length + 7) >> 3
    packed = np.frombuffer(buffer, np.uint8, past - first, first)
    if is_inverted:
        packed = ~packed
    skipped = offset & 7
    bits = np.unpackbits(packed, count=skipped + length, bitorder="little")
    return bits[skipped:].view(np.bool_)


# --- chunks ------------------------------------------------------------------------------------


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """All chunks as one array; the chunk itself where there is one."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    wide = _WIDE.get(column.type)
    if wide is not None and column.nbytes > MAX_JOINED_BYTES:
        column = column.cast(wide)
    # Joining in Arrow took 0.15 ns a value, np.concatenate of views 0.19, of masks besides 0.3:
    # docs/profiling/2026-11-20-reader.md.
    return pa.concat_arrays(column.unify_dictionaries().chunks)


_WIDE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


# --- values by type ----------------------------------------------------------------------------


def _values(array: pa.Array, mask: _Mask) -> NDArray[Any]:
    """The values, with anything where one is missing (None among objects)."""
    kind = array.type
    dtype = _dtype(kind)
    if dtype is not None:
        return _view(array, dtype)
    if pat.is_boolean(kind):
        return _bits(array.buffers()[1], array.offset, len(array)) if len(array) else _no_bools()
    if pat.is_date32(kind):
        return _view(array, np.dtype(np.int32)).astype("datetime64[D]")
    if pat.is_dictionary(kind):
        return _decoded(array, mask)
    if _is_text(kind):
        return _texts(array, mask)
    return _objects(array)


def _dtype(kind: pa.DataType) -> np.dtype[Any] | None:
    """The dtype that lays values out as Arrow does; None: there is none."""
    if pat.is_integer(kind) or pat.is_floating(kind):
        return _number(kind)
    if pat.is_timestamp(kind):
        return np.dtype(f"datetime64[{kind.unit}]")
    if pat.is_duration(kind):
        return np.dtype(f"timedelta64[{kind.unit}]")
    return np.dtype("datetime64[ms]") if pat.is_date64(kind) else None


def _number(kind: pa.DataType) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def _view(array: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The buffer of values, from the offset of a slice on."""
    if len(array) == 0:
        return np.empty(0, dtype)
    buffer = array.buffers()[1]
    values = np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)
    values.flags.writeable = False  # the table is others' as well
    return values


def _no_bools() -> NDArray[np.bool_]:
    return np.empty(0, np.bool_)


def _objects(array: pa.Array) -> NDArray[Any]:
    out = np.empty(len(array), dtype=object)
    out[:] = array.to_pylist()
    return out


# --- text and dictionaries ---------------------------------------------------------------------


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pat.is_string(kind)
        or pat.is_large_string(kind)
        or pat.is_binary(kind)
        or pat.is_large_binary(kind)
    )


def _texts(array: pa.Array, mask: _Mask) -> NDArray[Any]:
    """Objects. Equal values are one object where values repeat: 14 ns each instead of 51."""
    if _repeats(array):
        return _decoded(array.dictionary_encode(), mask)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _repeats(array: pa.Array) -> bool:
    """Whether a sample of the values has few distinct ones."""
    step = max(SAMPLE_ROWS, len(array) // SAMPLE_SLICES)
    slices = [array.slice(start, SAMPLE_ROWS) for start in range(0, len(array), step)]
    rows = sum(map(len, slices))
    if rows < SAMPLE_ROWS:
        return False
    return len(pc.unique(pa.chunked_array(slices))) * _REPEATS <= rows


def _decoded(array: pa.DictionaryArray, mask: _Mask) -> NDArray[Any]:
    """The values that the codes stand for."""
    codes = _view(array.indices, _number(array.indices.type))
    if _is_list(array.dictionary.type):
        return _objects(array)
    known = _values(array.dictionary, None)
    if mask is None:
        return np.take(known, codes)
    # A code where nothing is may be anything; all of these get a place of their own.
    none = np.zeros(1, known.dtype) if known.dtype != object else np.full(1, None, object)
    return np.take(np.concatenate([known, none]), np.where(mask, len(known), codes))


# --- lists -------------------------------------------------------------------------------------


def _is_list(kind: pa.DataType) -> bool:
    return bool(pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind))


def _lists(array: pa.Array) -> ListColumn:
    """The elements flattened once; lists are slices of that."""
    if pat.is_fixed_size_list(array.type):
        size = array.type.list_size
        offsets: NDArray[Any] = np.arange(len(array) + 1, dtype=np.int64) * size
        start = array.offset * size
    elif len(array) == 0:
        offsets, start = np.zeros(1, np.int32), 0
    else:
        dtype = np.dtype(np.int64 if pat.is_large_list(array.type) else np.int32)
        offsets = _view(array.offsets, dtype)
        start = int(offsets[0])
        offsets = offsets - start if start else offsets
    values = array.values.slice(start, int(offsets[-1]))
    return ListColumn(column_to_numpy(values), offsets, missing(array))
