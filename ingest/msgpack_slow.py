"""MessagePack through Python objects: the plain twin of `ingest.msgpack_decoder`.

It takes what the kernels leave: timestamps of the extension type, unknown keys, integers as
measurement names, columnar and row maps in one body, and everything that is wrong, which is
worded here or in `ingest.msgpack_rows_slow`. It is some 30 times slower and builds objects, so it
counts them before it builds any.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import numpy as np

from ingest.assemble import assemble
from ingest.columns import TIME_COLUMN, ColumnBatch
from ingest.errors import ColumnLengthError, DecodeError, LimitError, PayloadError, ValueTypeError
from ingest.kernels.msgpack import walk
from ingest.limits import Limits
from ingest.msgpack_rows_slow import RowGroup, is_row, too_large
from ingest.msgpack_values import check_column_name, column, epoch_us, type_name
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
    """Decode a MessagePack body; arguments, result and errors as `decode` has them."""
    maps = _maps(body, limits)
    _check_columns(_num_columns(maps), limits)
    found: list[RowGroup | _Map] = []
    groups: dict[str, RowGroup] = {}
    for number, (item, raw) in enumerate(maps):
        if not is_row(item):
            found.append((item, raw))
            continue
        measurement = _measurement(item, f"row {number}: ")
        if measurement not in groups:
            groups[measurement] = RowGroup(measurement)
            found.append(groups[measurement])
        groups[measurement].add(number, item, raw)
    _settle(groups, maps, limits)
    return [
        each.batch(now_us, time_unit)
        if isinstance(each, RowGroup)
        else _batch(*each, now_us, limits, time_unit)
        for each in found
    ]


def _settle(groups: dict[str, RowGroup], maps: list[_Map], limits: Limits) -> None:
    """Judge the columns of all rows before any is built in full.

    Rows of few columns each can have many between them, so that nulls take more than the body.
    """
    columns, nbytes = _num_columns(maps), 0
    for group in groups.values():
        more, more_bytes = group.settle(limits)
        columns += more
        nbytes += more_bytes
    _check_columns(columns, limits)
    if nbytes > limits.max_decoded_bytes:
        raise too_large(limits)


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
        raise PayloadError(f"{what} must be {wanted}, found {type_name(items)}")
    if not items:
        raise PayloadError(f"{what} is an array of nothing, wanted at least one map")
    _check_num_maps(len(items), limits)
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise PayloadError(f"item {index} of {what} must be a map, found {type_name(item)}")
    return list(zip(items, _RAW_LIST.decode(raw), strict=True))


def _num_columns(maps: list[_Map]) -> int:
    columns = (item.get("columns") for item, _ in maps)
    return sum(len(found) for found in columns if isinstance(found, dict))


def _check_columns(columns: int, limits: Limits) -> None:
    """Each column is some 700 bytes of objects, however little it holds."""
    if columns > limits.max_request_columns:
        what = "columns of all maps of one request"
        raise LimitError(what, columns, limits.max_request_columns, _FEWER)


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
    built = {name: column(measurement, name, values) for name, values in columns.items()}
    return assemble(measurement, rows, built, _tags(measurement, item), now_us, time_unit)


def _measurement(item: dict[Any, Any], where: str = "") -> str:
    name = item.get("m")
    if isinstance(name, int) and not isinstance(name, bool):
        return f"measurement_{name}"
    if not isinstance(name, str) or not name:
        found = "nothing" if name is None else "''" if name == "" else type_name(name)
        raise PayloadError(f"{where}'m' must be the measurement's name, found {found}")
    if len(name) > MAX_MEASUREMENT_CHARACTERS:  # now, since every other message repeats it
        check_measurement(name)
    return name


def _columns(measurement: str, item: dict[Any, Any], limits: Limits) -> dict[Any, Any]:
    columns = item.get("columns")
    if columns is None:
        raise PayloadError(f"measurement {measurement!r}: 'columns' is missing, and so is 'fields'")
    if not isinstance(columns, dict) or not columns:
        raise PayloadError(
            f"measurement {measurement!r}: 'columns' must be a map of at least one array, "
            f"found {type_name(columns)}" + (" of none" if columns == {} else "")
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
        check_column_name(measurement, name)
        if not isinstance(values, list):
            raise PayloadError(
                f"measurement {measurement!r}: column {name!r} must be an array, "
                f"found {type_name(values)}"
            )
        if rows < 0:
            rows, first = len(values), name
        if len(values) != rows:
            raise ColumnLengthError(measurement, name, len(values), rows, first)
    if rows == 0:
        raise PayloadError(f"measurement {measurement!r}: column {first!r} has no values")
    return rows


# --------------------------------------------------------------------------------------- times


def _epochs(measurement: str, values: list[Any], raw: msgspec.Raw) -> list[int]:
    """MessagePack timestamps as whole microseconds, rounded towards the past.

    Read from the bytes: msgspec's datetimes are rounded to the nearest microsecond.
    """
    for row, value in enumerate(values):
        if not isinstance(value, datetime):
            raise ValueTypeError(measurement, TIME_COLUMN, row, type_name(value), "a timestamp")
    columns = _RAW_MAP.decode(_RAW_MAP.decode(raw)["columns"])
    return [epoch_us(bytes(cell)) for cell in _RAW_LIST.decode(columns[TIME_COLUMN])]
