"""Columns that are NumPy arrays, to MessagePack. Pure: arrays in, bytes out.

In: an array of one or more dimensions, of any stride and byte order, masked or not. Out: numbers
in as many bytes as the array has them, each behind the byte that says what it is, masked ones as
nil; text and objects go the way of lists. float16 is written as float32, long double as float64
where that is exact; dates of fields become whole microseconds since 1970, times keep their unit.
No value is rounded but times finer than nanoseconds, towards the past. The array is not kept
beyond the call that encodes, and never written to.

Imported only when an array was seen, since importing NumPy takes longer than all of the client.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from arc.client import columns_lists
from arc.client.columns_wire import TIME, Place, Values


def _cell(code: int, wire: str) -> tuple[int, np.dtype[Any]]:
    return code, np.dtype([("code", np.uint8), ("value", wire)])


#: By kind and bytes of a number: what it begins with on the wire, and all of it.
#: https://github.com/msgpack/msgpack/blob/master/spec.md#int-format-family
CELLS = {
    "f4": _cell(0xCA, ">f4"),
    "f8": _cell(0xCB, ">f8"),
    "u1": _cell(0xCC, ">u1"),
    "u2": _cell(0xCD, ">u2"),
    "u4": _cell(0xCE, ">u4"),
    "u8": _cell(0xCF, ">u8"),
    "i1": _cell(0xD0, ">i1"),
    "i2": _cell(0xD1, ">i2"),
    "i4": _cell(0xD2, ">i4"),
    "i8": _cell(0xD3, ">i8"),
}
NIL, FALSE = 0xC0, 0xC2

WANTED = "an array of numbers, booleans, text, bytes or dates"

#: Seconds are enough for the coarse units of datetime64, nanoseconds have to do for the finest.
_COARSE, _FINE = frozenset({"Y", "M", "W", "D", "h", "m"}), frozenset({"ps", "fs", "as"})

_Mask = NDArray[np.bool_] | None


class Numbers(msgspec.Struct, frozen=True):
    """A checked column of numbers or booleans.

    Attributes:
        values: Shape (rows,); float32, float64, an integer type or bool, of any stride.
        mask: bool, shape (rows,), True where a value is missing; None: nowhere.
        time_unit: See `Values`.
    """

    values: NDArray[Any]
    mask: _Mask = None
    time_unit: str | None = None

    @property
    def rows(self) -> int:
        """See `Values`."""
        return len(self.values)

    def wire(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Values`."""
        values = self.values[start:stop]
        mask = None if self.mask is None else self.mask[start:stop]
        if values.dtype.kind == "b":
            codes = values.view(np.uint8) + np.uint8(FALSE)
            if mask is not None:
                codes[mask] = NIL
            return codes
        code, cell = CELLS[values.dtype.str[1:]]
        out = np.empty(len(values), dtype=cell)
        out["code"] = code
        out["value"] = values
        if mask is None:
            return out.view(np.uint8)
        out["code"][mask] = NIL
        kept = np.ones((len(values), out.itemsize), dtype=np.bool_)
        kept[mask, 1:] = False
        return out.view(np.uint8).reshape(len(values), -1)[kept]

    def arrow(self) -> Any:
        """See `Values`; integers as int64 or uint64, floats as float64: so the door is fastest."""
        import pyarrow as pa

        kind = self.values.dtype.kind
        wide = np.dtype({"b": "?", "f": "f8", "i": "i8", "u": "u8"}[kind])
        return pa.array(np.ascontiguousarray(self.values, dtype=wide), mask=self.mask)


def prepare(
    place: Place, array: NDArray[Any], is_tag: bool, time_unit: str | None
) -> list[tuple[str, Values]]:
    """Check a column, and take rows of several values apart.

    Args:
        place: Of the column.
        array: Of at least one row.
        is_tag: Stored as text: of numbers and booleans as for lists, of bytes as UTF-8.
        time_unit: Of times that are numbers among objects; None: told from their magnitudes.

    Returns:
        The column under its name; or `name_0`, `name_1`, … of an array of two dimensions,
        `name_0_0`, … of three.

    Raises:
        UsageError: a type or value that no column holds, a time that is missing, no dimension.
    """
    if array.ndim == 0:
        raise place.error("an array without dimension", "one value for each row")
    if array.ndim > 1:
        return _expanded(place, array, is_tag, time_unit)
    mask: _Mask = None
    if isinstance(array, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(array)
        mask, array = (mask if mask.any() else None), np.ma.getdata(array)
    array = np.asarray(array)
    if place.column == TIME and mask is not None:
        raise place.error("a masked value", columns_lists.WANTED_TIME, int(mask.argmax()))
    kind = array.dtype.kind
    if kind in "USOT" or (is_tag and kind in "biuf"):
        values = _objects(place, array, mask, is_tag)
        return columns_lists.prepare(place, values, is_tag, time_unit)
    if kind == "M" and is_tag:
        raise place.error(f"an array of {array.dtype}", columns_lists.WANTED_TAG)
    if kind == "M":
        found = _times(place, array) if place.column == TIME else _dates(place, array, mask)
        return [(place.column, found)]
    return [(place.column, Numbers(_numbers(place, array, mask), mask))]


def _expanded(
    place: Place, array: NDArray[Any], is_tag: bool, time_unit: str | None
) -> list[tuple[str, Values]]:
    if place.column == TIME or array.shape[1] == 0:
        raise place.error(f"an array of shape {array.shape}", "one value for each row")
    found: list[tuple[str, Values]] = []
    for i in range(array.shape[1]):
        inner = Place(place.measurement, f"{place.column}_{i}")
        found += prepare(inner, array[:, i], is_tag, time_unit)
    return found


def _objects(place: Place, array: NDArray[Any], mask: _Mask, is_tag: bool) -> list[Any]:
    """Text, bytes and objects as a list, None where the mask says so."""
    values: list[Any] = array.tolist()
    if is_tag and array.dtype.kind == "S":
        for row, value in enumerate(values):
            try:
                values[row] = value.decode()
            except UnicodeDecodeError:
                raise place.error(f"{value[:40]!r}", "UTF-8 in a tag", row) from None
    if mask is None:
        return values
    return [None if gone else value for value, gone in zip(values, mask.tolist(), strict=True)]


def _numbers(place: Place, array: NDArray[Any], mask: _Mask) -> NDArray[Any]:
    """Numbers in a type that the wire has; a time is finite."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf" or (kind == "b" and place.column == TIME):
        wanted = columns_lists.WANTED_TIME if place.column == TIME else WANTED
        raise place.error(f"an array of {array.dtype}"[:80], wanted)
    if kind == "f" and size == 2:
        array = array.astype(np.float32)
    elif kind == "f" and size > 8:
        array = _as_float64(place, array, mask)
    if kind == "f" and place.column == TIME and not np.isfinite(array).all():
        row = int(np.isfinite(array).argmin())
        raise place.error(str(array[row]), columns_lists.WANTED_TIME, row)
    return array


def _as_float64(place: Place, array: NDArray[Any], mask: _Mask) -> NDArray[np.float64]:
    """Long doubles, where float64 has each of them."""
    with np.errstate(over="ignore", under="ignore"):
        found = array.astype(np.float64)
    wrong = (found != array) & (array == array)
    if mask is not None:
        wrong &= ~mask
    if wrong.any():
        row = int(wrong.argmax())
        raise place.error(f"{array.dtype} {array[row]!s}", "one that float64 holds exactly", row)
    return found


# ---------------------------------------------------------------------------------------- dates


def _times(place: Place, array: NDArray[Any]) -> Numbers:
    """Times of datetime64 in a unit that the server takes, exact unless finer than ns."""
    missing = np.isnat(array)
    if missing.any():
        raise place.error("NaT", columns_lists.WANTED_TIME, int(missing.argmax()))
    unit, _ = np.datetime_data(array.dtype)
    if unit == "generic":
        raise place.error("datetime64 without a unit", "one of Y to as")
    wanted = "s" if unit in _COARSE else "ns" if unit in _FINE else unit
    found = _converted(place, array, wanted, unit not in _FINE)
    return Numbers(found.view(np.int64), None, wanted)


def _dates(place: Place, array: NDArray[Any], mask: _Mask) -> Numbers:
    """Dates of a field as int64 microseconds since 1970; NaT is missing."""
    missing = np.isnat(array)
    if missing.any():
        mask = missing if mask is None else mask | missing
    if mask is not None:
        array = np.where(mask, np.zeros((), dtype=array.dtype), array)
    return Numbers(_converted(place, array, "us", True).view(np.int64), mask)


def _converted(place: Place, array: NDArray[Any], unit: str, is_exact: bool) -> NDArray[Any]:
    """Dates in another unit and in the byte order of the machine.

    Raises:
        UsageError: one does not fit, or is not whole in that unit where it must be exact.
    """
    try:
        found: NDArray[Any] = array.astype(f"M8[{unit}]", copy=False)
        wrong = found.astype(array.dtype, copy=False) != array
    except OverflowError:
        raise place.error("a date out of range", f"64 bits of {unit}") from None
    if is_exact and wrong.any():
        row = int(wrong.argmax())
        wanted = f"whole {unit} since 1970 in 64 bits"
        raise place.error(f"datetime64 {array[row]!s}", wanted, row)
    return found
