"""Arrow IPC streams through pyarrow: the plain twin of `ingest.arrow_ipc`.

It takes what the kernels leave: compressed buffers, dictionaries, types that have to be cast,
empty record batches; and everything that is wrong, which is worded here. What a stream declares
is held against budgets by `ingest.arrow_survey` before pyarrow makes room for any of it, and what
the columns will take before any is cast.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from ingest.arrow_survey import FEWER_ROWS, WANTED_TYPES, survey
from ingest.assemble import assemble
from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import (
    ClientError,
    DecodeError,
    InvalidNameError,
    PayloadError,
    TimeError,
    TooLargeError,
    ValueTypeError,
)
from ingest.kernels.arrow import TIME_BYTES
from ingest.limits import MAX_COLUMN_NAME_BYTES, Limits
from ingest.timestamps import TimeUnit, unit_of

#: Metadata key of a schema: its tag columns, a JSON list.
TAGS_KEY = b"arc:tags"
_NAMES = msgspec.json.Decoder(list[str])

_MAX_BLOB_BYTES = 2**31 - 1

#: What pyarrow raises on bytes that are not what they are said to be.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError)

_US_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}


class StreamPart(msgspec.Struct, gc=False):
    """One record batch on its way to a `ColumnBatch`.

    Attributes:
        rows: At least one.
        columns: By name; None stands for a column of nulls only.
        time_unit: Of the time column, None: told from its magnitudes.
        time_bounds: Smallest and largest value of an int64 time column, where they are known.
    """

    rows: int
    columns: dict[str, Column | None]
    time_unit: TimeUnit | None = None
    time_bounds: tuple[int, int] | None = None


def decode_slow(
    body: bytes,
    now_us: int,
    limits: Limits,
    measurement: str,
    tags: frozenset[str] = frozenset(),
    time_unit: TimeUnit | None = None,
) -> list[ColumnBatch]:
    """Decode an Arrow IPC stream; arguments, result and errors as `arrow_ipc.decode` has them."""
    if not body:
        raise DecodeError("the body is empty")
    survey(body, measurement, limits)
    schema, batches = _read(body, limits)
    names = _names(measurement, schema)
    declared = (schema.metadata or {}).get(TAGS_KEY)
    dictionaries = frozenset(
        name for name, kind in zip(names, schema.types, strict=True) if _is_text_dictionary(kind)
    )
    chosen = chosen_tags(measurement, tags, declared, dictionaries)
    batches = [batch for batch in batches if batch.num_rows]
    if not batches:
        raise PayloadError(f"measurement {measurement!r}: the Arrow stream has no rows")
    _check_memory(batches, limits)
    parts = [
        _part(measurement, names, batch, time_unit, number if len(batches) > 1 else None)
        for number, batch in enumerate(batches)
    ]
    return assemble_parts(parts, len(body), now_us, measurement, chosen)


# ------------------------------------------------------------------------- for both of the twins


def chosen_tags(
    measurement: str,
    tags: frozenset[str],
    declared: bytes | None,
    dictionaries: frozenset[str],
) -> frozenset[str]:
    """Which columns are tags.

    Args:
        measurement: For messages.
        tags: What the caller says; counts unless it is empty.
        declared: Value of the metadata key arc:tags, None when the schema has no such key.
        dictionaries: Columns of text that are dictionaries; they count when nothing else is said.

    Raises:
        PayloadError: the metadata is no JSON list of names.
    """
    if tags or declared is None:
        return tags or dictionaries
    try:
        return frozenset(_NAMES.decode(declared))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PayloadError(
            f"measurement {measurement!r}: the schema's metadata key {TAGS_KEY.decode()!r} must be "
            f"a JSON list of column names, found {declared[:40]!r}"
        ) from None


def assemble_parts(
    parts: list[StreamPart],
    body_bytes: int,
    now_us: int,
    measurement: str,
    tags: frozenset[str],
) -> list[ColumnBatch]:
    """The batches of a stream.

    Args:
        parts: At least one. Consumed.
        body_bytes: Size of the body, which the columns may keep alive: what of it no column
            counts for is counted for the first batch.
        now_us: Time of every row when there is no time column.
        measurement: Its name.
        tags: Names of the tag columns.

    Raises:
        TimeError: the time column holds something that is no time.
    """
    batches = []
    for number, part in enumerate(parts):
        _make_consumable(part)
        try:
            batch = assemble(
                measurement,
                part.rows,
                part.columns,
                tags,
                now_us,
                part.time_unit,
                part.time_bounds,
            )
        except ClientError as error:
            raise _in_batch(error, number if len(parts) > 1 else None) from None
        batches.append(batch)
    counted = sum([batch.nbytes for batch in batches])
    if counted < body_bytes:
        batches[0].nbytes += body_bytes - counted
    return batches


def _make_consumable(part: StreamPart) -> None:
    """Give the time column memory of its own unless its values are what is stored already."""
    column = part.columns.get(TIME_COLUMN)
    if column is None:
        return
    if column.type is ColumnType.INT64 and part.time_bounds is not None:
        low, high = part.time_bounds
        unit = part.time_unit
        if unit is None and low >= 0 and unit_of(low) is unit_of(high):
            unit = unit_of(low)
        if unit is TimeUnit.US:
            return
    part.columns[TIME_COLUMN] = msgspec.structs.replace(column, values=column.values.copy())


def _in_batch(error: ClientError, number: int | None) -> ClientError:
    """The same error, saying in which record batch its rows are counted if there are several."""
    if number is not None:
        error.args = (f"record batch {number}: {error}",)
    return error


# ---------------------------------------------------------------------------- stream to batches


def _read(body: bytes, limits: Limits) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and record batches of a stream, all of whose values are checked."""
    options = pa.ipc.IpcReadOptions(use_threads=False)
    batches: list[pa.RecordBatch] = []
    budget = limits.max_decoded_bytes
    try:
        with pa.ipc.open_stream(pa.py_buffer(body), options=options) as reader:
            for batch in reader:
                batches.append(batch)
                batch.validate()
                # Columns may share their bytes, and views all of them: 100 MB can be looked at a
                # million times.
                budget -= sum(_looked_at_bytes(array) for array in batch.columns)
                if budget < 0:
                    raise _too_large(limits)
                batch.validate(full=True)
            return reader.schema, batches
    except _UNREADABLE as error:
        where = f"record batch {len(batches) - 1}" if batches else "its beginning"
        raise DecodeError(f"Arrow stream, at or after {where}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _names(measurement: str, schema: pa.Schema) -> list[str]:
    """Column names, each of them storable and different from all others."""
    names: list[str] = []
    for index in range(len(schema)):
        try:
            name: str = schema.field(index).name
        except UnicodeDecodeError as error:
            raise DecodeError(f"Arrow stream: name of column {index}: {error}") from None
        size = len(name.encode())
        if not 1 <= size <= MAX_COLUMN_NAME_BYTES:
            raise InvalidNameError(
                f"measurement {measurement!r}: column {index} has a name of {size} bytes, "
                f"wanted 1 to {MAX_COLUMN_NAME_BYTES}"
            )
        names.append(name)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PayloadError(f"measurement {measurement!r}: two columns are named {twice!r}")
    return names


def _part(
    measurement: str,
    names: list[str],
    batch: pa.RecordBatch,
    time_unit: TimeUnit | None,
    number: int | None,
) -> StreamPart:
    part = StreamPart(batch.num_rows, {}, time_unit)
    for name, array in zip(names, batch.columns, strict=True):
        try:
            array = _plain(array)
            if name == TIME_COLUMN and pa.types.is_timestamp(array.type):
                part.time_unit, array = TimeUnit(array.type.unit), array.cast(pa.int64())
            elif name == TIME_COLUMN and pa.types.is_date(array.type):
                part.time_unit, array = TimeUnit.US, _date_us(measurement, name, array)
            part.columns[name] = _column(measurement, name, array)
        except ClientError as error:
            raise _in_batch(error, number) from None
        except _UNREADABLE as error:
            raise PayloadError(
                f"measurement {measurement!r}: column {name!r}: {_one_line(error)}"
            ) from None
    return part


# ------------------------------------------------------------------------------ arrays to columns


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _is_text_dictionary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind)) and _is_text(kind.value_type)


def _is_blob(kind: pa.DataType) -> bool:
    types = pa.types
    is_binary = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(is_binary or _is_text(kind) or _is_view(kind) or types.is_fixed_size_binary(kind))


def _looked_at_bytes(array: pa.Array) -> int:
    """Bytes that a full validation reads, known when no more than sizes of buffers is checked."""
    if isinstance(array, pa.ExtensionArray):
        return _looked_at_bytes(array.storage)
    if pa.types.is_dictionary(array.type):
        return 8 * len(array) + _column_bytes(array.dictionary)
    return _column_bytes(array)


def _decoded_bytes(array: pa.Array) -> int:
    """Bytes that the column of a valid array will take, known before it is made."""
    if isinstance(array, pa.ExtensionArray):
        return _decoded_bytes(array.storage)
    kind = array.type
    if not pa.types.is_dictionary(kind) or not _is_blob(kind.value_type):
        return _column_bytes(array)
    sizes = _blob_sizes(array.dictionary).take(array.indices).cast(pa.int64())
    return int(pc.sum(sizes).as_py() or 0) + _offset_bytes(array)


def _column_bytes(array: pa.Array) -> int:
    """The same of an array that is no dictionary, or one of numbers."""
    rows, kind = len(array), array.type
    if pa.types.is_null(kind) or not rows:
        return 0
    if _is_blob(kind):
        return _offset_bytes(array) + _blob_bytes(array)
    return (1 if pa.types.is_boolean(kind) else 8) * rows + _validity_bytes(array)


def _validity_bytes(array: pa.Array) -> int:
    return len(array) if array.null_count else 0


def _offset_bytes(array: pa.Array) -> int:
    return 4 * (len(array) + 1) + _validity_bytes(array)


def _blob_bytes(array: pa.Array) -> int:
    """Bytes of all values of a column of text or bytes."""
    if _is_view(array.type) or pa.types.is_fixed_size_binary(array.type):
        return int(pc.sum(_blob_sizes(array).cast(pa.int64())).as_py() or 0)
    buffer = array.buffers()[1]
    is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    dtype = np.dtype(np.int64 if is_large else np.int32)
    offsets = np.frombuffer(buffer, dtype=dtype, count=buffer.size // dtype.itemsize)
    return int(offsets[array.offset + len(array)]) - int(offsets[array.offset])


def _blob_sizes(array: pa.Array) -> pa.Array:
    if _is_view(array.type):
        # The first four bytes of each view of sixteen: pyarrow 18 has no binary_length of views.
        views = _int32s(array.buffers()[1])
        views = views[4 * array.offset : 4 * (array.offset + len(array)) : 4]
        return pa.array(np.maximum(views, 0), mask=~_present(array))
    if pa.types.is_fixed_size_binary(array.type):
        return pa.array(np.full(len(array), array.type.byte_width, dtype=np.int64))
    return pc.binary_length(array)


def _int32s(buffer: pa.Buffer) -> NDArray[np.int32]:
    return np.frombuffer(buffer, dtype=np.int32, count=buffer.size // 4)


def _check_memory(batches: list[pa.RecordBatch], limits: Limits) -> None:
    """Refuse what would take too much memory, wherever its values lie: the flush copies them."""
    size = TIME_BYTES * sum(batch.num_rows for batch in batches)
    for batch in batches:
        sizes = [_decoded_bytes(array) for array in batch.columns]
        size += sum(sizes)
        if max(sizes) > _MAX_BLOB_BYTES:
            raise TooLargeError("a column of this body", _MAX_BLOB_BYTES, FEWER_ROWS)
    if size > limits.max_decoded_bytes:
        raise _too_large(limits)


def _too_large(limits: Limits) -> TooLargeError:
    what = "memory of the columns in this body"
    return TooLargeError(what, limits.max_decoded_bytes, FEWER_ROWS)


def _present(array: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _plain(array: pa.Array) -> pa.Array:
    """An array without extension type and dictionary."""
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _column(measurement: str, name: str, array: pa.Array) -> Column | None:
    """One column; None when it is null throughout."""
    if array.null_count == len(array):
        return None
    validity = _present(array) if array.null_count else None
    kind = array.type
    if _is_blob(kind):
        return _blob_column(array, validity)
    if pa.types.is_boolean(kind):
        values = array.fill_null(False).to_numpy(zero_copy_only=False)
        return Column(ColumnType.BOOL, values, None, validity)
    if pa.types.is_floating(kind):
        return Column(ColumnType.FLOAT64, _numbers(array, np.float64), None, validity)
    if pa.types.is_timestamp(kind):
        array = _timestamp_us(measurement, name, array)
    elif pa.types.is_date(kind):
        array = _date_us(measurement, name, array)
    elif not pa.types.is_integer(kind):
        raise PayloadError(
            f"measurement {measurement!r}: column {name!r}: found Arrow's {kind}, "
            f"wanted {WANTED_TYPES}"
        )
    return _int_column(array, validity)


def _numbers(array: pa.Array, dtype: type[np.generic]) -> NDArray[Any]:
    """Values in a type that holds all of them, zero where one is missing."""
    if array.null_count:
        zero = np.float16(0) if pa.types.is_float16(array.type) else 0
        array = array.fill_null(pa.scalar(zero, array.type))
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):  # a signalling NaN, which becomes a quiet one
        return values.astype(dtype, copy=not values.flags.aligned)


def _int_column(array: pa.Array, validity: NDArray[np.bool_] | None) -> Column:
    if pa.types.is_uint64(array.type):
        values = _numbers(array, np.uint64)
        if int(values.max()) >= 2**63:
            return Column(ColumnType.UINT64, values, None, validity)
        values = values.view(np.int64)
    else:
        values = _numbers(array, np.int64)
    wide = int(values.max()) > MAX_EXACT_INT or int(values.min()) < -MAX_EXACT_INT
    return Column(ColumnType.INT64, values, None, validity, wide)


def _timestamp_us(measurement: str, name: str, array: pa.Array) -> pa.Array:
    """Timestamps of a column that is not the time as microseconds, none of them rounded."""
    unit, numbers = array.type.unit, array.cast(pa.int64())
    if unit == "ns":
        values = _numbers(numbers, np.int64)
        rest = values % 1000 != 0
        if rest.any():
            row = int(rest.argmax())
            found = f"a timestamp of {values[row]} ns"
            raise ValueTypeError(measurement, name, row, found, "whole microseconds, or int64")
        return pa.array(values // 1000, mask=~_present(array) if array.null_count else None)
    try:
        return pc.multiply_checked(numbers, _US_PER[unit])
    except pa.ArrowInvalid:
        raise TimeError(
            f"measurement {measurement!r}: column {name!r}: a timestamp in {unit} that no int64 "
            "of microseconds holds"
        ) from None


def _date_us(measurement: str, name: str, array: pa.Array) -> pa.Array:
    """Dates as microseconds since 1970."""
    if pa.types.is_date64(array.type):
        return _timestamp_us(measurement, name, array.cast(pa.int64()).cast(pa.timestamp("ms")))
    days = array.cast(pa.int32()).cast(pa.int64())
    return pc.multiply_checked(days, 86_400 * _US_PER["s"])


def _blob_column(array: pa.Array, validity: NDArray[np.bool_] | None) -> Column:
    """Text or bytes with int32 offsets from zero, nothing where a value is missing."""
    is_text = _is_text(array.type)
    array = array.cast(pa.string() if is_text else pa.binary())
    if array.null_count:
        array = array.fill_null("" if is_text else b"")
    _, offset_buffer, data = array.buffers()
    offsets = _int32s(offset_buffer)[array.offset : array.offset + len(array) + 1]
    if not offsets.flags.aligned:
        offsets = offsets.copy()
    first, last = int(offsets[0]), int(offsets[-1])
    values = np.empty(0, dtype=np.uint8)
    if data is not None:
        values = np.frombuffer(data, dtype=np.uint8)[first:last]
    kind = ColumnType.UTF8 if is_text else ColumnType.BINARY
    return Column(kind, values, offsets - first if first else offsets, validity)
