"""Columnar MessagePack through Python objects: the plain twin of `ingest.msgpack_decoder`.

It takes what the kernels leave: timestamps of the extension type, unknown keys, integers as
measurement names, and everything that is wrong, which is worded here. It is some 30 times slower
and builds objects, so it counts them before it builds any.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import (
    ColumnLengthError,
    DecodeError,
    InvalidNameError,
    LimitError,
    PayloadError,
    ValueTypeError,
)
from ingest.kernels.msgpack import walk
from ingest.limits import MAX_COLUMN_NAME_BYTES, Limits
from ingest.paths import MAX_MEASUREMENT_CHARACTERS, check_measurement
from ingest.timestamps import TimeUnit

#: A decoded map beside its bytes, which still hold the nanoseconds that a datetime rounds away.
_Map: TypeAlias = tuple[dict[Any, Any], msgspec.Raw]

_ANY = msgspec.msgpack.Decoder()
_RAW_LIST = msgspec.msgpack.Decoder(list[msgspec.Raw])
_RAW_MAP = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw])

_FEWER = "send fewer maps at once"

#: What msgspec raises on bytes that are not MessagePack, or nested too deep; up to 0.20 a
#: TypeError on a map as the key of a map.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def decode_slow(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit | None = None
) -> list[ColumnBatch]:
    """Decode a columnar MessagePack body; arguments, result and errors as `decode` has them."""
    maps = _maps(body, limits)
    _check_num_columns(maps, limits)
    return [_batch(item, raw, now_us, limits, time_unit) for item, raw in maps]


# ---------------------------------------------------------------------------- bytes to maps


def _maps(body: bytes, limits: Limits) -> list[_Map]:
    """Every map of a body, out of its arrays and `batch` envelopes."""
    if not body:
        raise DecodeError("the body is empty")
    maps: list[_Map] = []
    for start, end in _bounds(body, limits):
        try:
            maps += _maps_of_object(msgspec.Raw(body[start:end]), limits)
        except _UNDECODABLE as error:
            raise DecodeError(f"object at byte {start}: {error}") from None
    return maps


def _bounds(body: bytes, limits: Limits) -> list[tuple[int, int]]:
    """Where each top-level object lies, once all of them are known to be within the budget."""
    buf = np.frombuffer(body, dtype=np.uint8)
    stopped, objects, elements = walk(buf, 0, len(body))
    if objects < 0:
        raise DecodeError(f"not MessagePack, or cut off: stopped at byte {stopped} of {len(body)}")
    if elements > limits.max_elements:
        what = "values in a body that only the slow decoder could take or refuse"
        raise LimitError(what, elements, limits.max_elements, "ARC_MAX_ELEMENTS")
    _check_num_maps(objects, limits)
    bounds, end = [], 0
    for _ in range(objects):
        start, (end, _, _) = end, walk(buf, end, 1)
        bounds.append((start, end))
    return bounds


def _check_num_maps(maps: int, limits: Limits) -> None:
    """A map without a column is refused anyway, but later, so it counts as one column here."""
    if maps > limits.max_request_columns:
        raise LimitError("maps of one request", maps, limits.max_request_columns, _FEWER)


def _maps_of_object(raw: msgspec.Raw, limits: Limits) -> list[_Map]:
    """The maps in one top-level object: itself, those of an array, or those under `batch`."""
    item = _ANY.decode(raw)
    if not isinstance(item, dict):
        return _maps_of_array(item, raw, "the body", limits)
    if "batch" in item:
        return _maps_of_array(item["batch"], _RAW_MAP.decode(raw)["batch"], "'batch'", limits)
    return [(item, raw)]


def _maps_of_array(items: Any, raw: msgspec.Raw, what: str, limits: Limits) -> list[_Map]:
    if not isinstance(items, list):
        wanted = "an array of maps" if what == "'batch'" else "a map or an array of maps"
        raise PayloadError(f"{what} must be {wanted}, found {_type_name(items)}")
    if not items:
        raise PayloadError(f"{what} is an array of nothing, wanted at least one map")
    _check_num_maps(len(items), limits)
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise PayloadError(f"item {index} of {what} must be a map, found {_type_name(item)}")
    return list(zip(items, _RAW_LIST.decode(raw), strict=True))


def _check_num_columns(maps: list[_Map], limits: Limits) -> None:
    """Each column is some 700 bytes of objects, however little it holds."""
    columns = (item.get("columns") for item, _ in maps)
    total = sum(len(found) for found in columns if isinstance(found, dict))
    if total > limits.max_request_columns:
        what = "columns of all maps of one request"
        raise LimitError(what, total, limits.max_request_columns, _FEWER)


# ------------------------------------------------------------------------------ a map to a batch


def _batch(
    item: dict[Any, Any],
    raw: msgspec.Raw,
    now_us: int,
    limits: Limits,
    time_unit: TimeUnit | None,
) -> ColumnBatch:
    measurement = _measurement(item)
    columns = _columns(measurement, item, limits)
    rows = _num_rows(measurement, columns)
    if any(isinstance(value, datetime) for value in columns.get(TIME_COLUMN, ())):
        columns[TIME_COLUMN] = _epochs(measurement, columns[TIME_COLUMN], raw)
        time_unit = TimeUnit.US
    built = {name: _column(measurement, name, values) for name, values in columns.items()}
    return assemble(measurement, rows, built, _tags(measurement, item), now_us, time_unit)


def _measurement(item: dict[Any, Any]) -> str:
    name = item.get("m")
    if isinstance(name, int) and not isinstance(name, bool):
        return f"measurement_{name}"
    if not isinstance(name, str) or not name:
        found = "nothing" if name is None else "''" if name == "" else _type_name(name)
        raise PayloadError(f"'m' must be the measurement's name, found {found}")
    if len(name) > MAX_MEASUREMENT_CHARACTERS:  # now, since every other message repeats it
        check_measurement(name)
    return name


def _columns(measurement: str, item: dict[Any, Any], limits: Limits) -> dict[Any, Any]:
    columns = item.get("columns")
    if columns is None and "fields" in item:
        raise PayloadError(
            f"measurement {measurement!r}: row maps (with 'fields') are not taken yet; send columns"
        )
    if columns is None:
        raise PayloadError(f"measurement {measurement!r}: 'columns' is missing")
    if not isinstance(columns, dict) or not columns:
        raise PayloadError(
            f"measurement {measurement!r}: 'columns' must be a map of at least one array, "
            f"found {_type_name(columns)}" + (" of none" if columns == {} else "")
        )
    if len(columns) > limits.max_columns:
        what = f"columns of measurement {measurement!r}"
        raise LimitError(what, len(columns), limits.max_columns, "ARC_MAX_COLUMNS")
    return columns


def _tags(measurement: str, item: dict[Any, Any]) -> frozenset[str]:
    tags = item.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise PayloadError(
            f"measurement {measurement!r}: 'tags' beside 'columns' must be an array of column names"
        )
    return frozenset(tags)


def _num_rows(measurement: str, columns: dict[Any, Any]) -> int:
    """Length that all columns share, after a look at every name and array."""
    rows, first = -1, ""
    for name, values in columns.items():
        _check_column_name(measurement, name)
        if not isinstance(values, list):
            raise PayloadError(
                f"measurement {measurement!r}: column {name!r} must be an array, "
                f"found {_type_name(values)}"
            )
        if rows < 0:
            rows, first = len(values), name
        if len(values) != rows:
            raise ColumnLengthError(measurement, name, len(values), rows, first)
    if rows == 0:
        raise PayloadError(f"measurement {measurement!r}: column {first!r} has no values")
    return rows


def _check_column_name(measurement: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        found = "''" if name == "" else _type_name(name)
        raise InvalidNameError(
            f"measurement {measurement!r}: a column's name must be a non-empty string, "
            f"found {found}"
        )
    size = len(name.encode())
    if size > MAX_COLUMN_NAME_BYTES:
        raise InvalidNameError(
            f"measurement {measurement!r}: column {name[:32]!r}… has a name of {size} bytes, "
            f"over {MAX_COLUMN_NAME_BYTES}"
        )


# --------------------------------------------------------------------------------------- times


def _epochs(measurement: str, values: list[Any], raw: msgspec.Raw) -> list[int]:
    """MessagePack timestamps as whole microseconds, rounded towards the past.

    Read from the bytes: msgspec's datetimes are rounded to the nearest microsecond.
    """
    for row, value in enumerate(values):
        if not isinstance(value, datetime):
            raise ValueTypeError(measurement, TIME_COLUMN, row, _type_name(value), "a timestamp")
    columns = _RAW_MAP.decode(_RAW_MAP.decode(raw)["columns"])
    return [_epoch_us(bytes(cell)) for cell in _RAW_LIST.decode(columns[TIME_COLUMN])]


def _epoch_us(cell: bytes) -> int:
    """One well-formed value of the timestamp extension, in any of its three sizes."""
    data = cell[2:] if cell[0] in (0xD6, 0xD7) else cell[3:]
    if len(data) == 4:
        return int.from_bytes(data) * 1_000_000
    if len(data) == 8:
        word = int.from_bytes(data)
        return (word & (1 << 34) - 1) * 1_000_000 + (word >> 34) // 1000
    nanoseconds, seconds = struct.unpack(">Iq", data)
    return int(seconds * 1_000_000 + nanoseconds // 1000)


# ------------------------------------------------------------------------------------- columns

_NAMES: dict[type, str] = {
    int: "an integer",
    float: "a float",
    str: "a string",
    bool: "a boolean",
    bytes: "binary",
    list: "an array",
    dict: "a map",
    datetime: "a timestamp",
    type(None): "null",
    msgspec.msgpack.Ext: "an extension value",
}

_TYPES: dict[type, ColumnType] = {
    int: ColumnType.INT64,
    float: ColumnType.FLOAT64,
    str: ColumnType.UTF8,
    bool: ColumnType.BOOL,
    bytes: ColumnType.BINARY,
}

_NUMBERS = frozenset({ColumnType.INT64, ColumnType.FLOAT64})


def _type_name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _column(measurement: str, name: str, values: list[Any]) -> Column | None:
    """One column from Python values; None when all are null."""
    kind = _column_type(measurement, name, values)
    if kind is None:
        return None
    if kind is ColumnType.UTF8:
        values = [None if isinstance(value, float) else value for value in values]
    validity = np.array([value is not None for value in values], dtype=np.bool_)
    present = None if validity.all() else validity
    if kind is ColumnType.UTF8 or kind is ColumnType.BINARY:
        return _blob_column(kind, values, present)
    plain = [0 if value is None else value for value in values]
    if kind is ColumnType.INT64:
        return _int_column(measurement, name, plain, present)
    if kind is ColumnType.BOOL:
        return Column(kind, np.array(plain, dtype=np.bool_), None, present)
    _check_exact(measurement, name, values)
    return Column(kind, np.array(plain, dtype=np.float64), None, present)


def _column_type(measurement: str, name: str, values: list[Any]) -> ColumnType | None:
    """The type that holds every value which is not null, or None when there are none.

    One type throughout; or integers among floats: float64; or NaN among strings: utf8.
    """
    rows: dict[ColumnType, int] = {}  # type found -> first row that has it, but for NaN
    nan_row = -1
    for row, value in enumerate(values):
        if value is None:
            continue
        found = _TYPES.get(type(value))
        if found is None:
            wanted = "a number, a string, a boolean or binary"
            raise ValueTypeError(measurement, name, row, _type_name(value), wanted)
        if value != value:
            nan_row = row if nan_row < 0 else nan_row
        else:
            rows.setdefault(found, row)
    if nan_row >= 0 and rows.keys() != {ColumnType.UTF8}:
        rows.setdefault(ColumnType.FLOAT64, nan_row)
    kinds = rows.keys()
    if len(kinds) < 2:
        return next(iter(kinds), None)
    if kinds == _NUMBERS:
        return ColumnType.FLOAT64
    raise _mixed(measurement, name, values, rows)


def _mixed(
    measurement: str, name: str, values: list[Any], rows: dict[ColumnType, int]
) -> ValueTypeError:
    """The refusal of a column, worded around the first value that does not go with the first."""
    (first_kind, first), *others = sorted(rows.items(), key=lambda item: item[1])
    row = next(row for kind, row in others if not {kind, first_kind} <= _NUMBERS)
    wanted = f"{_type_name(values[first])} as in row {first}"
    return ValueTypeError(measurement, name, row, _type_name(values[row]), wanted)


def _int_column(
    measurement: str, name: str, plain: list[int], present: NDArray[np.bool_] | None
) -> Column:
    """An int64 column, or a uint64 one where a value asks for it and none is negative."""
    low, high = min(plain), max(plain)
    if high < 2**63:
        wide = high > MAX_EXACT_INT or low < -MAX_EXACT_INT
        return Column(ColumnType.INT64, np.array(plain, dtype=np.int64), None, present, wide)
    if low < 0:
        wanted = f"int64, since row {plain.index(low)} is negative"
        raise ValueTypeError(measurement, name, plain.index(high), str(high), wanted)
    return Column(ColumnType.UINT64, np.array(plain, dtype=np.uint64), None, present)


def _check_exact(measurement: str, name: str, values: list[Any]) -> None:
    """Integers among floats become floats only when that changes none of them."""
    for row, value in enumerate(values):
        if isinstance(value, int) and abs(value) > MAX_EXACT_INT:
            wanted = "a float, or an integer up to 2**53, which float64 holds exactly"
            raise ValueTypeError(measurement, name, row, str(value), wanted)


def _blob_column(kind: ColumnType, values: list[Any], present: NDArray[np.bool_] | None) -> Column:
    blobs = [b"" if v is None else v.encode() if isinstance(v, str) else v for v in values]
    offsets = np.zeros(len(blobs) + 1, dtype=np.int32)
    np.cumsum([len(blob) for blob in blobs], out=offsets[1:])
    return Column(kind, np.frombuffer(b"".join(blobs), dtype=np.uint8), offsets, present)
