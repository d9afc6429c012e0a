"""Python values, as msgspec decodes them from MessagePack, to typed columns. Pure.

In: the values of one column and the rows that they stand in. Out: a `Column`, or a refusal that
names column, row, what was found and what was wanted. The slow twins share it, for columnar and
for row maps; it builds what it returns and no more.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.columns import MAX_EXACT_INT, Column, ColumnType
from ingest.errors import InvalidNameError, ValueTypeError
from ingest.limits import MAX_COLUMN_NAME_BYTES

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

#: How Prometheus writes infinity, and with it whoever sends the bounds of a histogram as a column
#: of numbers and "+Inf".
INFINITIES = {"+Inf": math.inf, "-Inf": -math.inf}

_NUMBERS = frozenset({ColumnType.INT64, ColumnType.FLOAT64})


#: The rows of values that stand one in each row, from the first on.
EVERY_ROW = range(2**62)


def type_name(value: Any) -> str:
    """What an error calls a value of this type."""
    return _NAMES.get(type(value), type(value).__name__)


def column(
    measurement: str, name: str, values: list[Any], rows: Sequence[int] = EVERY_ROW
) -> Column | None:
    """One column from Python values.

    Args:
        measurement: Its name, for errors.
        name: The column's, for errors.
        values: As msgspec decodes them; None is null.
        rows: What an error calls the row of each value.

    Returns:
        As many rows as there are values; None when all are null.

    Raises:
        ValueTypeError: a value that no column holds, or that does not go with the others.
    """
    kind = _column_type(measurement, name, values, rows)
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
        return _int_column(measurement, name, plain, present, rows)
    if kind is ColumnType.BOOL:
        return Column(kind, np.array(plain, dtype=np.bool_), None, present)
    _check_exact(measurement, name, values, rows)
    numbers = [INFINITIES[value] if isinstance(value, str) else value for value in plain]
    return Column(kind, np.array(numbers, dtype=np.float64), None, present)


def _column_type(
    measurement: str, name: str, values: list[Any], rows: Sequence[int]
) -> ColumnType | None:
    """The type that holds every value which is not null, or None when there are none.

    One type throughout; or integers among floats: float64; or NaN among strings: utf8; or
    infinities as text among numbers: float64.
    """
    firsts: dict[ColumnType, int] = {}  # type found -> first value of it, but for these two:
    first_nan = first_infinity = -1
    for i, value in enumerate(values):
        if value is None:
            continue
        found = _TYPES.get(type(value))
        if found is None:
            wanted = "a number, a string, a boolean or binary"
            raise ValueTypeError(measurement, name, rows[i], type_name(value), wanted)
        if value != value:
            first_nan = i if first_nan < 0 else first_nan
        elif found is ColumnType.UTF8 and value in INFINITIES:
            first_infinity = i if first_infinity < 0 else first_infinity
        else:
            firsts.setdefault(found, i)
    if first_nan >= 0 and firsts.keys() != {ColumnType.UTF8}:
        firsts.setdefault(ColumnType.FLOAT64, first_nan)
    if first_infinity >= 0:
        among_numbers = bool(firsts) and firsts.keys() <= _NUMBERS
        firsts.setdefault(ColumnType.FLOAT64 if among_numbers else ColumnType.UTF8, first_infinity)
    kinds = firsts.keys()
    if len(kinds) < 2:
        return next(iter(kinds), None)
    if kinds == _NUMBERS:
        return ColumnType.FLOAT64
    raise _mixed(measurement, name, values, firsts, rows)


def _mixed(
    measurement: str,
    name: str,
    values: list[Any],
    firsts: dict[ColumnType, int],
    rows: Sequence[int],
) -> ValueTypeError:
    """The refusal of a column, worded around the first value that does not go with the first."""
    (first_kind, first), *others = sorted(firsts.items(), key=lambda item: item[1])
    wrong = next(i for kind, i in others if not {kind, first_kind} <= _NUMBERS)
    wanted = f"{type_name(values[first])} as in row {rows[first]}"
    return ValueTypeError(measurement, name, rows[wrong], type_name(values[wrong]), wanted)


def _int_column(
    measurement: str,
    name: str,
    plain: list[int],
    present: NDArray[np.bool_] | None,
    rows: Sequence[int],
) -> Column:
    """An int64 column, or a uint64 one where a value asks for it and none is negative."""
    low, high = min(plain), max(plain)
    if high < 2**63:
        wide = high > MAX_EXACT_INT or low < -MAX_EXACT_INT
        return Column(ColumnType.INT64, np.array(plain, dtype=np.int64), None, present, wide)
    if low < 0:
        wanted = f"int64, since row {rows[plain.index(low)]} is negative"
        raise ValueTypeError(measurement, name, rows[plain.index(high)], str(high), wanted)
    return Column(ColumnType.UINT64, np.array(plain, dtype=np.uint64), None, present)


def _check_exact(measurement: str, name: str, values: list[Any], rows: Sequence[int]) -> None:
    """Integers among floats become floats only when that changes none of them."""
    for i, value in enumerate(values):
        if isinstance(value, int) and abs(value) > MAX_EXACT_INT:
            wanted = "a float, or an integer up to 2**53, which float64 holds exactly"
            raise ValueTypeError(measurement, name, rows[i], str(value), wanted)


def _blob_column(kind: ColumnType, values: list[Any], present: NDArray[np.bool_] | None) -> Column:
    blobs = [b"" if v is None else v.encode() if isinstance(v, str) else v for v in values]
    offsets = np.zeros(len(blobs) + 1, dtype=np.int32)
    np.cumsum([len(blob) for blob in blobs], out=offsets[1:])
    return Column(kind, np.frombuffer(b"".join(blobs), dtype=np.uint8), offsets, present)


def check_column_name(measurement: str, name: Any) -> None:
    """Refuse a column's name that cannot be stored.

    Raises:
        InvalidNameError: it is no string, empty, or too long.
    """
    if not isinstance(name, str) or not name:
        found = "''" if name == "" else type_name(name)
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


def epoch_us(cell: bytes) -> int:
    """One well-formed value of the timestamp extension, in any of its three sizes.

    Returns:
        Microseconds since 1970, rounded towards the past, which msgspec's datetimes are not.
    """
    data = cell[2:] if cell[0] in (0xD6, 0xD7) else cell[3:]
    if len(data) == 4:
        return int.from_bytes(data) * 1_000_000
    if len(data) == 8:
        word = int.from_bytes(data)
        return (word & (1 << 34) - 1) * 1_000_000 + (word >> 34) // 1000
    nanoseconds, seconds = struct.unpack(">Iq", data)
    return int(seconds * 1_000_000 + nanoseconds // 1000)
