"""Batches of one measurement to Arrow tables, one for each hour, sorted by time. Pure.

In: the batches of a flush, in order of arrival, and the schema of their table. Out: tables that
share memory with nothing that came in. Rows with equal times keep their order of arrival; a
column that a batch does not have is null there. Nothing is looked up, written or logged here.

The work is done column by column: the pieces of all batches are joined (one copy), put into the
order of time by a kernel (only when they are not in it already), and adopted by Arrow as they
are. Strings become a dictionary and codes before they are sorted, so that four bytes a row move
and no text is copied, unless the values hardly repeat.

The interpreter's lock is held for the joins and for a loop over batches and columns, and is
free in the kernels, which take most of the time: see docs/profiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import IngestError
from ingest.kernels import sort, strings
from ingest.paths import HOUR_US
from ingest.schema import ColumnSpec, TableSchema

TIME_TYPE = pa.timestamp("us", tz="UTC")

#: A column with more distinct values than this and than a quarter of its rows gets no
#: dictionary: telling them apart costs more than repeating them saves.
FREE_DISTINCT = 4096

#: Nor does one whose distinct values take more bytes than this, the page size at which writers
#: of Parquet give a dictionary up half-way.
MAX_DICTIONARY_BYTES = 1 << 20

#: Arrow's 32-bit offsets reach no further.
_MAX_BLOB_BYTES = 2**31 - 1

_ARROW_TYPES = {
    ColumnType.INT64: pa.int64(),
    ColumnType.FLOAT64: pa.float64(),
    ColumnType.UTF8: pa.utf8(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.BINARY: pa.binary(),
}
_DTYPES: dict[ColumnType, type[np.generic]] = {
    ColumnType.INT64: np.int64,
    ColumnType.FLOAT64: np.float64,
    ColumnType.BOOL: np.bool_,
}

#: bool, shape (rows,), True where a value is present; None when all are.
Validity: TypeAlias = NDArray[np.bool_] | None


class HourTable(msgspec.Struct, frozen=True):
    """The rows of one UTC hour.

    Attributes:
        hour_start_us: Its first microsecond since 1970-01-01T00:00Z, a multiple of an hour.
        table: `time` first, then tags, then fields, as `TableSchema.stored_order` has them.
            Sorted by time. One chunk a column.
        min_time_us: Time of its first row.
        max_time_us: Time of its last row.
    """

    hour_start_us: int
    table: pa.Table
    min_time_us: int
    max_time_us: int


class _Rows(msgspec.Struct, frozen=True):
    """The rows of a flush: where they come from, and where they go.

    Attributes:
        batches: In the order in which their pieces are joined.
        counts: int64, shape (batches,): rows of each.
        times: int64, shape (rows,), sorted.
        order: uint32, shape (rows,): `joined[order]` is sorted; None when joined is enough.
    """

    batches: Sequence[ColumnBatch]
    counts: NDArray[np.int64]
    times: NDArray[np.int64]
    order: NDArray[np.uint32] | None

    def sorted(self, joined: NDArray[Any]) -> NDArray[Any]:
        """Joined values in the order of time."""
        if self.order is None:
            return joined
        out = np.empty_like(joined)
        sort.gather(joined, self.order, out)
        return out


def build_tables(batches: Sequence[ColumnBatch], schema: TableSchema) -> list[HourTable]:
    """Sort the rows of many batches by time and split them by hour.

    Args:
        batches: Of one measurement, in order of arrival, each with at least one row. Not
            changed, and not needed any more when this returns. At most 512 MiB or so: the
            bytes of one string column must stay below 2 GiB.
        schema: Has every column of every batch, in a type that takes all its values.

    Returns:
        One table for each hour that has a row, in order of time.

    Raises:
        IngestError: a defect of the caller: a column that the schema does not have or cannot
            take, or 2 GiB of strings in one column.
    """
    _check_columns(batches, schema)
    if not batches:
        return []
    rows = _arrange(batches)
    columns = {TIME_COLUMN: _time_array(rows.times)}
    for name in schema.stored_order():
        columns[name] = _column_array(rows, name, schema.columns[name])
    return _split(rows.times, columns)


def _check_columns(batches: Sequence[ColumnBatch], schema: TableSchema) -> None:
    unknown = set[str]().union(*[batch.columns for batch in batches]) - schema.columns.keys()
    if unknown:
        raise IngestError(f"BUG: columns {sorted(unknown)} are not in the schema of their table")


# --- the order of the rows -------------------------------------------------------------------


def _arrange(batches: Sequence[ColumnBatch]) -> _Rows:
    """Find an order of the batches, or else of the rows, in which the times are sorted."""
    pieces = [batch.time_us for batch in batches]
    counts = np.array([piece.size for piece in pieces], dtype=np.int64)
    times = _join(pieces, np.int64)
    earliest, latest, descents = sort.survey(times)
    if descents == 0:
        return _Rows(batches, counts, times, None)
    turn = _turn_of_batches(times, counts, descents)
    if turn is not None:
        batches = [batches[i] for i in turn]
        times = _join([batch.time_us for batch in batches], np.int64)
        return _Rows(batches, counts[turn], times, None)
    order = _order(times, earliest, latest, descents)
    return _Rows(batches, counts, _Rows(batches, counts, times, order).sorted(times), order)


def _turn_of_batches(
    times: NDArray[np.int64], counts: NDArray[np.int64], descents: int
) -> NDArray[np.int64] | None:
    """The order of the batches in which all rows are sorted; None when there is none.

    Batches that were sent at the same time arrive in any order. When they do not overlap it is
    enough to put the batches into order, at some 0.2 ns a row, instead of the rows at 5.
    """
    ends = np.cumsum(counts)
    firsts, lasts = times[ends - counts], times[ends - 1]
    if descents > np.count_nonzero(firsts[1:] < lasts[:-1]):
        return None  # a batch is not sorted in itself
    turn = np.argsort(firsts, kind="stable")
    before, after = lasts[turn][:-1], firsts[turn][1:]
    in_order = (before < after) | ((before == after) & (turn[:-1] < turn[1:]))
    return turn if in_order.all() else None


def _order(
    times: NDArray[np.int64], earliest: int, latest: int, descents: int
) -> NDArray[np.uint32]:
    """Rows in order of time, equal times in order of row."""
    range_bits, row_bits = (latest - earliest).bit_length(), (times.size - 1).bit_length()
    # Wider is over 200 days in a flush of a million rows: one clock that was never set, mostly.
    if range_bits + row_bits <= 64:
        rows: NDArray[np.uint32] = sort.order(times, earliest, range_bits, row_bits, descents)
        if rows.size:
            return rows
    return np.argsort(times, kind="stable").astype(np.uint32)


def _join(pieces: Iterable[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """One array, writable, of its own memory, of many."""
    # HOT, once per column and flush, with the interpreter's lock held. np.concatenate lets go
    # of the lock for every piece, and beside a busy event loop waits for it as often; this one
    # keeps it, for 0.2 ns a row and column (docs/profiling/2026-11-20-table-build.md).
    buffers: Any = pieces  # which their type says from Python 3.12 on only
    return np.frombuffer(bytearray().join(buffers), dtype=dtype)


# --- columns ---------------------------------------------------------------------------------


def _time_array(times: NDArray[np.int64]) -> pa.Array:
    return pa.Array.from_buffers(TIME_TYPE, times.size, [None, pa.py_buffer(times)], null_count=0)


def _column_array(rows: _Rows, name: str, spec: ColumnSpec) -> pa.Array:
    """One column over all rows, in the order of time."""
    pieces = _pieces(rows, name, spec)
    if pieces is None:
        return pa.nulls(rows.times.size, _ARROW_TYPES[spec.type])
    validity = _validity(pieces)
    if spec.type in (ColumnType.UTF8, ColumnType.BINARY):
        return _blob_array(rows, pieces, name, _ARROW_TYPES[spec.type], validity)
    data = rows.sorted(_join([piece.values for piece in pieces], _DTYPES[spec.type]))
    if spec.type is ColumnType.BOOL:
        data = np.packbits(data, bitorder="little")
    bitmap, nulls = _bitmap(None if validity is None else rows.sorted(validity))
    buffers = [bitmap, pa.py_buffer(data)]
    return pa.Array.from_buffers(_ARROW_TYPES[spec.type], rows.times.size, buffers, nulls)


def _pieces(rows: _Rows, name: str, spec: ColumnSpec) -> list[Column] | None:
    """What each batch has of a column, in the stored type; None when none has any of it."""
    # HOT, once per batch, column and flush, with the interpreter's lock held: 50 ns each.
    found = [batch.columns.get(name) for batch in rows.batches]
    if not all(found):
        if not any(found):
            return None
        missing = _missing(spec.type, int(rows.counts.max()))
        counts = rows.counts.tolist()
        found = [column or missing.first(counts[i]) for i, column in enumerate(found)]
    pieces = [column for column in found if column is not None]
    if [True for column in pieces if column.type is not spec.type]:
        pieces = [_cast(column, name, spec.type) for column in pieces]
    return pieces


class _Missing(msgspec.Struct, frozen=True):
    """A column of nulls, as long as the longest batch."""

    column: Column

    def first(self, count: int) -> Column:
        """Its first `count` rows, on the same memory."""
        offsets, validity = self.column.offsets, self.column.validity
        return Column(
            self.column.type,
            self.column.values[:count] if offsets is None else self.column.values,
            None if offsets is None else offsets[: count + 1],
            None if validity is None else validity[:count],
        )


def _missing(column_type: ColumnType, rows: int) -> _Missing:
    none = np.zeros(rows, dtype=np.bool_)
    if column_type in _DTYPES:
        return _Missing(Column(column_type, np.zeros(rows, _DTYPES[column_type]), None, none))
    offsets = np.zeros(rows + 1, dtype=np.int32)
    return _Missing(Column(column_type, np.empty(0, dtype=np.uint8), offsets, none))


def _cast(column: Column, name: str, stored: ColumnType) -> Column:
    """A piece in the stored type; numbers become float64, which the schema says is exact."""
    if column.type is stored:
        return column
    is_integer = column.type is ColumnType.INT64 or column.type is ColumnType.UINT64
    if is_integer and stored is ColumnType.FLOAT64:
        return Column(stored, column.values.astype(np.float64), None, column.validity)
    raise IngestError(f"BUG: column {name!r} is {column.type}, its table has {stored}")


def _validity(pieces: Sequence[Column]) -> Validity:
    """Which rows have a value, in the order of arrival."""
    if not [True for piece in pieces if piece.validity is not None]:
        return None
    most = max([_rows_of(piece) for piece in pieces])
    present = np.ones(most, dtype=np.bool_)
    masks = [
        present[: _rows_of(piece)] if piece.validity is None else piece.validity for piece in pieces
    ]
    return _join(masks, np.bool_)


def _rows_of(column: Column) -> int:
    return column.values.size if column.offsets is None else column.offsets.size - 1


def _bitmap(validity: Validity) -> tuple[pa.Buffer | None, int]:
    """Arrow's validity buffer, one bit a row, and the number of nulls."""
    if validity is None:
        return None, 0
    bits = np.packbits(validity, bitorder="little")
    return pa.py_buffer(bits), validity.size - int(np.count_nonzero(validity))


# --- strings ---------------------------------------------------------------------------------


class _Blob(msgspec.Struct, frozen=True):
    """Strings or bytes of all rows.

    Attributes:
        data: uint8: their bytes, and `strings.PADDING_BYTES` more.
        offsets: int32, shape (rows + 1,).
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int32]

    def take(self, rows: NDArray[np.uint32], num_bytes: int) -> _Blob:
        """The values of some rows, which have `num_bytes` bytes, without padding."""
        taken = _Blob(np.empty(num_bytes, np.uint8), np.empty(rows.size + 1, np.int32))
        strings.gather_strings(self.data, self.offsets, rows, taken.offsets, taken.data)
        return taken

    def array(self, arrow_type: pa.DataType, validity: Validity) -> pa.Array:
        """An Arrow array on this memory."""
        bitmap, nulls = _bitmap(validity)
        buffers = [bitmap, pa.py_buffer(self.offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(arrow_type, self.offsets.size - 1, buffers, nulls)


def _blob_array(
    rows: _Rows,
    pieces: Sequence[Column],
    name: str,
    arrow_type: pa.DataType,
    validity: Validity,
) -> pa.Array:
    """Codes and a dictionary where values repeat, plain values where they do not."""
    blob = _join_blob(rows, pieces, name)
    codes = np.empty(rows.times.size, dtype=np.int32)
    max_count = max(FREE_DISTINCT, codes.size // 4)
    limits = max_count, MAX_DICTIONARY_BYTES
    count, seen = strings.encode(blob.data, blob.offsets, *limits, codes)
    if validity is not None:
        validity = rows.sorted(validity)
    if count == strings.GAVE_UP:
        if rows.order is not None:
            blob = blob.take(rows.order, int(blob.offsets[-1]))
        return blob.array(arrow_type, validity)
    sizes = blob.offsets[1:][seen] - blob.offsets[:-1][seen]
    dictionary = blob.take(seen, int(sizes.sum())).array(arrow_type, None)
    return _dictionary_array(rows.sorted(codes), dictionary, validity)


def _join_blob(rows: _Rows, pieces: Sequence[Column], name: str) -> _Blob:
    blobs = [piece.values for piece in pieces]
    num_bytes = sum([blob.size for blob in blobs])
    if num_bytes > _MAX_BLOB_BYTES:
        raise IngestError(
            f"BUG: column {name!r} has {num_bytes} bytes of values in one flush, "
            f"over {_MAX_BLOB_BYTES}: hand over fewer batches at a time"
        )
    data = _join([*blobs, np.zeros(strings.PADDING_BYTES, dtype=np.uint8)], np.uint8)
    of_batches = [piece.offsets for piece in pieces if piece.offsets is not None]
    offsets = np.empty(rows.times.size + 1, dtype=np.int32)
    strings.join_offsets(_join(of_batches, np.int32), rows.counts, offsets)
    if offsets[-1] != num_bytes:
        raise IngestError(f"BUG: column {name!r} has offsets that do not end with its bytes")
    return _Blob(data, offsets)


def _dictionary_array(
    codes: NDArray[np.int32], dictionary: pa.Array, validity: Validity
) -> pa.Array:
    bitmap, nulls = _bitmap(validity)
    buffers = [bitmap, pa.py_buffer(codes)]
    indices = pa.Array.from_buffers(pa.int32(), codes.size, buffers, nulls)
    # Not safe: the codes are below the size of the dictionary, which counted them.
    return pa.DictionaryArray.from_arrays(indices, dictionary, safe=False)


# --- hours -----------------------------------------------------------------------------------


def _split(times: NDArray[np.int64], columns: dict[str, pa.Array]) -> list[HourTable]:
    """Cut sorted rows where an hour begins."""
    fields = [
        pa.field(name, array.type, nullable=name != TIME_COLUMN) for name, array in columns.items()
    ]
    schema, bounds = pa.schema(fields), _hour_bounds(times)
    cut = [_cut(array, bounds) for array in columns.values()]
    return [
        HourTable(
            hour_start_us=int(times[start]) // HOUR_US * HOUR_US,
            table=pa.Table.from_arrays([pieces[i] for pieces in cut], schema=schema),
            min_time_us=int(times[start]),
            max_time_us=int(times[end - 1]),
        )
        for i, (start, end) in enumerate(bounds)
    ]


def _hour_bounds(times: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First row of each hour, and the row after its last."""
    bounds, start = [], 0
    while start < times.size:
        next_hour_us = (int(times[start]) // HOUR_US + 1) * HOUR_US
        end = int(np.searchsorted(times, next_hour_us))
        bounds.append((start, end))
        start = end
    return bounds


def _cut(array: pa.Array, bounds: Sequence[tuple[int, int]]) -> list[pa.Array]:
    """An array in pieces; a dictionary in each has the values of that piece only."""
    if len(bounds) == 1:
        return [array]
    pieces = [array.slice(start, end - start) for start, end in bounds]
    if not pa.types.is_dictionary(array.type):
        return pieces
    numbers = np.full(len(array.dictionary), -1, dtype=np.int32)
    return [_with_own_dictionary(piece, numbers) for piece in pieces]


def _with_own_dictionary(array: pa.DictionaryArray, numbers: NDArray[np.int32]) -> pa.Array:
    """The same values, with a dictionary of those that occur.

    Without it, each of the files of a flush would repeat the dictionary of all.
    """
    indices = array.indices
    codes = np.frombuffer(indices.buffers()[1], np.int32)[indices.offset :][: len(indices)]
    given = np.empty(0, dtype=np.bool_)
    if indices.null_count:
        given = indices.is_valid().to_numpy(zero_copy_only=False)
    renumbered, used = np.empty_like(codes), np.empty(min(codes.size, numbers.size), np.int32)
    count = sort.renumber(codes, given, numbers, renumbered, used)
    dictionary = array.dictionary.take(pa.array(used[:count]))
    return _dictionary_array(renumbered, dictionary, given if given.size else None)
