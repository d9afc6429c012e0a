"""Columns of which some are pyarrow arrays, to Arrow IPC streams. Pure: arrays in, bytes out.

In: prepared columns, and pyarrow arrays or chunked arrays. Out: one stream (schema, one record
batch, its end) a body. What the daemon would have to cast is cast here, so that it reads every
column where it lies: dictionaries become their values, narrow integers int64, float16 and float32
float64, views plain text or bytes, dates of fields int64 microseconds. Nothing is rounded. Nested
types, decimals, durations and times of day are refused by name.

Imported only when a pyarrow array was seen. Format:
https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from arc.client import columns_lists, columns_numpy
from arc.client.columns_wire import TIME, Column, Constant, Place, Values, cut

#: Metadata key of a schema: the names of its tags, a JSON list.
TAGS_KEY = b"arc:tags"

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"

WANTED = "numbers, booleans, text, bytes, timestamps, dates, or a dictionary of these"

#: Types that the daemon reads where they lie. A cast to the same type takes 2 µs.
_READY = frozenset(
    {
        *(pa.lib.Type_NA, pa.lib.Type_BOOL, pa.lib.Type_INT64, pa.lib.Type_UINT64),
        *(pa.lib.Type_DOUBLE, pa.lib.Type_STRING, pa.lib.Type_LARGE_STRING),
        *(pa.lib.Type_BINARY, pa.lib.Type_LARGE_BINARY),
    }
)

#: Bytes that one array of plain text or bytes can hold: its offsets are int32.
_MAX_BLOB_BYTES = 2**31 - 1


class ArrowColumn(NamedTuple):
    """One column as a pyarrow array of a type that the daemon reads as it lies."""

    name: str
    array: Any
    is_tag: bool
    time_unit: str | None = None


def from_values(column: Column) -> ArrowColumn:
    """A column that came as something else."""
    if isinstance(column.values, Constant) and isinstance(column.values.value, str):
        array = _repeated(column.values.value, column.values.rows)
        return ArrowColumn(column.name, array, column.is_tag)
    return ArrowColumn(column.name, column.values.arrow(), column.is_tag, column.values.time_unit)


def prepare(place: Place, given: Any, is_tag: bool) -> ArrowColumn:
    """Check a column.

    Args:
        place: Of the column.
        given: A pyarrow array or chunked array, or what can be imported as one.
        is_tag: What the caller says; a dictionary of text is one as well.

    Raises:
        UsageError: a type that no column holds, a time that is missing.
    """
    array, is_category = _plain(place, _one_array(place, given))
    if place.column == TIME or pa.types.is_temporal(array.type):
        return from_values(Column(place.column, _by_numpy(place, array, is_tag), is_tag))
    if is_tag and not _is_text(array.type):
        ((_, values),) = columns_lists.prepare(place, array.to_pylist(), True, None)
        return ArrowColumn(place.column, values.arrow(), True)
    return ArrowColumn(place.column, _stored(place, array), is_tag or is_category)


def encode(
    columns: Sequence[ArrowColumn], batch_rows: int, batch_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Streams of columns of one length, each with its number of rows; see `cut` for the limits."""
    tags = [column.name for column in columns if column.is_tag]
    schema = pa.schema(
        [pa.field(column.name, column.array.type) for column in columns],
        metadata={TAGS_KEY: msgspec.json.encode(tags)},
    )
    whole = pa.RecordBatch.from_arrays([column.array for column in columns], schema=schema)
    head = schema.serialize()

    def stream(start: int, stop: int) -> bytes:
        # Schema and batch one by one: 4.2 µs for 1 000 rows of five columns, where a writer on a
        # growing buffer takes 8.5 for the same bytes (benchmarks/client/bench_columns.py -k ipc).
        part = whole.slice(start, stop - start)
        return b"".join((head, part.serialize(), _END_OF_STREAM))

    return cut(whole.num_rows, batch_rows, batch_bytes, stream)


def _repeated(text: str, rows: int) -> Any:
    """One text in every row, in 8 µs for 10 000 rows; `pa.repeat` takes 21."""
    data = text.encode()
    is_large = len(data) * rows > _MAX_BLOB_BYTES
    kind = pa.LargeStringArray if is_large else pa.StringArray
    width = np.dtype(np.int64 if is_large else np.int32)
    offsets = (np.arange(rows + 1) * len(data)).astype(width, copy=False)
    return kind.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(data * rows))


# ------------------------------------------------------------------------------ kinds of arrays


def _one_array(place: Place, given: Any) -> Any:
    """What was given as one pyarrow array, dictionaries of chunks as their values."""
    if not isinstance(given, pa.Array | pa.ChunkedArray):
        given = _imported(place, given)
    if isinstance(given, pa.Array):
        return given
    if pa.types.is_dictionary(given.type) and given.num_chunks > 1:
        given = given.unify_dictionaries()
    found = given.combine_chunks()
    if isinstance(found, pa.ChunkedArray):  # more text than int32 can address
        raise place.error(f"over {_MAX_BLOB_BYTES} bytes", "fewer in one call")
    return found


def _imported(place: Place, given: Any) -> Any:
    try:
        if hasattr(given, "__arrow_c_stream__"):
            return pa.chunked_array(given)
        return pa.array(given)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise place.error(f"{type(given).__name__} ({reason})", "one column") from None


def _plain(place: Place, array: Any) -> tuple[Any, bool]:
    """An array without extension type and dictionary, and whether it was one of text."""
    if isinstance(array, pa.ExtensionArray):
        return _plain(place, array.storage)
    if not pa.types.is_dictionary(array.type):
        return array, False
    try:
        values = array.dictionary_decode()
    except pa.ArrowException as error:
        raise place.error(f"Arrow's {array.type} ({error})", WANTED) from None
    return values, _is_text(values.type)


def _is_text(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _stored(place: Place, array: Any) -> Any:
    """The array in the type that the daemon reads as it lies."""
    types, kind = pa.types, array.type
    if kind.id in _READY:
        return array
    if types.is_integer(kind):
        return _cast(place, array, pa.int64())
    if types.is_floating(kind):
        return _cast(place, array, pa.float64())
    if types.is_string_view(kind):
        return _cast(place, array, pa.string())
    if types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return _cast(place, array, pa.binary())
    raise place.error(f"Arrow's {kind}", WANTED)


def _cast(place: Place, array: Any, kind: Any) -> Any:
    try:
        return array.cast(kind)
    except pa.ArrowException as error:
        raise place.error(f"Arrow's {array.type} ({error})", f"what fits Arrow's {kind}") from None


def _by_numpy(place: Place, array: Any, is_tag: bool) -> Values:
    """Times, timestamps and dates: NumPy has the same types, and one place has their rules."""
    types, kind = pa.types, array.type
    is_date = types.is_timestamp(kind) or types.is_date(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind)
    if not is_date and not (place.column == TIME and is_number):
        wanted = "numbers, timestamps or dates" if place.column == TIME else WANTED
        raise place.error(f"Arrow's {kind}", wanted)
    if place.column == TIME and array.null_count:
        row = array.is_valid().to_pylist().index(False)
        raise place.error("null", columns_lists.WANTED_TIME, row)
    found = array.to_numpy(zero_copy_only=False)
    ((_, values),) = columns_numpy.prepare(place, found, is_tag, None)
    return values
