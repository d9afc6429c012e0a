"""Columns that are Python lists, to MessagePack. Pure: values in, bytes out.

In: a list or tuple of numbers, strings, booleans, bytes, datetimes or None, NumPy's scalars and
subclasses of these among them; or of lists of one length, which become columns of their own. Out:
the same values, None as nil, each column of one type, as the server wants it. What the server
would refuse for its type is refused here, by its row; nothing is rounded and no NumPy is imported.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from arc.client.columns_wire import ENCODER, TIME, Place, Values, array_head
from arc.client.errors import UsageError

_Items = list[Any] | tuple[Any, ...]

_NONE = type(None)
_PLAIN = frozenset({int, float, str, bool, bytes, _NONE})
_NUMBERS = frozenset({int, float})
_ROWS = frozenset({"list", "tuple", "ndarray"})
_WORDS = {
    int: "an integer",
    float: "a float",
    str: "a string",
    bool: "a boolean",
    bytes: "bytes",
    _NONE: "None",
}
WANTED = "a number, a string, a boolean, bytes, a datetime or None"
WANTED_TIME = "a number, or a datetime"
WANTED_TAG = "a string, a number or a boolean, since it is a tag"

#: Bytes of a number by its first one: those of a column that begin with the same are all numbers.
_WIDTHS = {0xCB: 9, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD1: 3, 0xD2: 5, 0xD3: 9}
_FLOAT64 = 0xCB

#: Integers up to this are exact as float64.
_MAX_EXACT_INT = 2**53

#: pandas has two values for what is missing beside None and NaN.
_MISSING = frozenset({"NaTType", "NAType"})


class Listed(msgspec.Struct, frozen=True):
    """A checked column of Python values.

    Attributes:
        values: Of types that MessagePack has, one for each row.
        encoded: All of them, without the head of the array; None: not encoded as a whole yet.
        width: Bytes of each in `encoded`; 0: they differ.
        time_unit: See `Values`.
    """

    values: _Items
    encoded: memoryview | None = None
    width: int = 0
    time_unit: str | None = None

    @property
    def rows(self) -> int:
        """See `Values`."""
        return len(self.values)

    def wire(self, start: int, stop: int) -> memoryview:
        """See `Values`."""
        if self.encoded is not None:
            if stop - start == len(self.values):
                return self.encoded
            if self.width:
                return self.encoded[self.width * start : self.width * stop]
        return _encoded(self.values[start:stop])

    def arrow(self) -> Any:
        """See `Values`."""
        import pyarrow as pa

        try:
            return pa.array(self.values)
        except OverflowError:  # it takes int64 for whatever begins with an integer
            return pa.array(self.values, pa.uint64())


def prepare(
    place: Place, values: _Items, is_tag: bool, time_unit: str | None
) -> list[tuple[str, Values]]:
    """Check a column, and take rows that are lists apart.

    Args:
        place: Of the column.
        values: At least one. Kept until they are encoded.
        is_tag: Numbers and booleans are stored as text, as the server spells them: 7, 1.5, true.
        time_unit: Of times that are numbers among datetimes; None: told from their magnitudes.

    Returns:
        The column under its name; or `name_0`, `name_1`, … when its rows are lists.

    Raises:
        UsageError: a value that no column holds, or that does not go with the others.
    """
    whole = _uniform(place, values)
    if whole is not None and (not is_tag or not whole.width):
        return [(place.column, whole)]
    return prepare_slow(place, values, is_tag, time_unit)


def prepare_slow(
    place: Place, values: _Items, is_tag: bool, time_unit: str | None
) -> list[tuple[str, Values]]:
    """Check the values one by one; arguments, result and errors as `prepare` has them."""
    kinds = set(map(type, values))
    if any(kind.__name__ in _ROWS for kind in kinds):
        return _expanded(place, values, is_tag, time_unit)
    if place.column == TIME:
        return [(TIME, _times(place, values, kinds, time_unit))]
    if is_tag:
        values = [_text(place, row, value) for row, value in enumerate(values)]
    else:
        if not kinds <= _PLAIN:
            values = [_plain(place, row, value) for row, value in enumerate(values)]
            kinds = set(map(type, values))
        values = _of_one_type(place, values, kinds - {_NONE})
    return [(place.column, Listed(values, _checked(place, values)))]


def _encoded(values: _Items) -> memoryview:
    """The values one after another, without the head of their array."""
    return memoryview(ENCODER.encode(values))[len(array_head(len(values))) :]


# HOT, once a column, check and encoding of 1 000 values: floats 16 -> 3.9 µs, text 18 -> 8.1, times
# 39 -> 5.7 (benchmarks/client/bench_columns.py -k check).
# Twin: prepare_slow; equality: tests/client/test_columns.py.
def _uniform(place: Place, values: _Items) -> Listed | None:
    """The column, if it is seen at once that all values are of one type; else None.

    Numbers are seen in what was encoded: if every ninth byte is that of a float, and there are
    nine for each value, then there is nothing but floats.
    """
    is_time = place.column == TIME
    try:
        if type(values[0]) is str:
            return None if is_time or not _are_strings(values) else Listed(values, _encoded(values))
        data = ENCODER.encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
    head = len(array_head(len(values)))
    first = data[head]
    width = _WIDTHS.get(first, 0)
    if len(data) != head + width * len(values) or (is_time and first == _FLOAT64):
        return None
    if data[head::width].count(first) != len(values):
        return None
    return Listed(values, memoryview(data)[head:], width)


def _are_strings(values: _Items) -> bool:
    try:
        "".join(values)
    except TypeError:
        return False
    return True


def _checked(place: Place, values: _Items) -> memoryview:
    """All values encoded; those of the right type that cannot be are refused by their row."""
    try:
        return _encoded(values)
    except (ValueError, OverflowError):
        for row, value in enumerate(values):
            try:
                ENCODER.encode(value)
            except UnicodeEncodeError:
                raise place.error(f"{value[:40]!r}", "text without surrogates", row) from None
            except (ValueError, OverflowError):
                shown = f"{value:#x}"
                found = f"the integer {shown[:40]}"
                raise place.error(found, "one of 64 bits", row) from None
        raise


def check_text(place: Place, text: str) -> None:
    """Refuse text that is no UTF-8.

    Raises:
        UsageError: it has a surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise place.error(f"{text[:40]!r}", "text without surrogates") from None


# ------------------------------------------------------------------------------ types of values


def word_of(value: Any) -> str:
    """What an error calls a value of this type."""
    return _WORDS.get(type(value), type(value).__name__)


def _of_one_type(place: Place, values: _Items, kinds: set[type]) -> _Items:
    """The values, if one column can hold them all: None aside, of one type.

    Integers among floats are taken if float64 has them, NaN among strings is what is missing.
    """
    if kinds == {int}:
        _check_sign(place, values)
    if len(kinds) < 2:
        return values
    if kinds == _NUMBERS:
        for row, value in enumerate(values):
            if type(value) is int and abs(value) > _MAX_EXACT_INT:
                wanted = "a float, or an integer up to 2**53, as there are floats in the column"
                raise place.error(f"the integer {value}", wanted, row)
        return values
    if kinds == {str, float} and all(type(v) is not float or v != v for v in values):
        return [value if type(value) is str else None for value in values]
    first, base = next((row, v) for row, v in enumerate(values) if v is not None and v == v)
    fits = _NUMBERS if type(base) in _NUMBERS else {type(base)}
    for row, value in enumerate(values):
        if value is not None and type(value) not in fits:
            raise place.error(word_of(value), f"{word_of(base)} as in row {first}", row)
    return values


def _check_sign(place: Place, values: _Items) -> None:
    """Refuse integers of which some need int64 and others uint64."""
    present = [value for value in values if value is not None]
    if max(present) >= 2**63 and min(present) < 0:
        row, value = next((r, v) for r, v in enumerate(values) if v is not None and v >= 2**63)
        wanted = f"one of int64, since row {values.index(min(present))} is negative"
        raise place.error(f"the integer {value}"[:60], wanted, row)


def _plain(place: Place, row: int, value: Any) -> Any:
    """A value as one of the types of MessagePack."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind.__name__ in _MISSING:
        return None
    if isinstance(value, date) or _is_datetime64(kind):
        return _microseconds(place, row, value)
    for base in (str, int, float):
        if isinstance(value, base):
            # What the base makes of it, whatever the subclass says that it is.
            return getattr(base, f"__{base.__name__}__")(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if kind.__module__ == "numpy" and hasattr(value, "item"):
        item = value.item()
        if type(item) not in _PLAIN and "longdouble" in kind.__name__ and float(value) == value:
            item = float(value)
        if type(item) in _PLAIN:
            return item
    raise place.error(f"{kind.__name__} {value!r}"[:80], WANTED, row)


def _text(place: Place, row: int, given: Any) -> str | None:
    """The value of a tag."""
    value = None if type(given).__name__ in _MISSING else given
    if isinstance(value, date) or _is_datetime64(type(value)):
        raise place.error(f"{type(given).__name__} {given!s}", WANTED_TAG, row)
    value = _plain(place, row, value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        raise place.error("bytes", WANTED_TAG, row)
    text = repr(value)
    return None if text == "nan" else text.lower() if isinstance(value, bool) else text


def _is_datetime64(kind: type) -> bool:
    return kind.__name__ == "datetime64" and kind.__module__ == "numpy"


def _microseconds(place: Place, row: int, value: Any) -> int | None:
    """A datetime of a field, as the server stores timestamps: whole microseconds since 1970."""
    if value != value:  # NaT
        return None
    time_ns = _to_ns(place, row, value, None)
    if time_ns % 1000:
        raise place.error(f"{value!r}", "whole microseconds, or an integer", row)
    return time_ns // 1000


# ---------------------------------------------------------------------------------------- times


def _times(place: Place, values: _Items, kinds: set[type], time_unit: str | None) -> Listed:
    """A column of times: numbers as they are, anything else as nanoseconds."""
    if kinds <= _NUMBERS:
        for row, value in enumerate(values):
            if not math.isfinite(value):
                raise place.error(str(value), WANTED_TIME, row)
        return Listed(values, _checked(place, values))
    times = [_to_ns(place, row, value, time_unit) for row, value in enumerate(values)]
    return Listed(times, _encoded(times), 0, "ns")


def _to_ns(place: Place, row: int, value: Any, time_unit: str | None) -> int:
    from arc.client.times import to_ns

    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    try:
        return to_ns(value, time_unit)
    except UsageError as error:
        raise UsageError(
            f"measurement {place.measurement!r}: column {place.column!r}, row {row}: {error}"
        ) from None


# ------------------------------------------------------------------------------- rows of lists


def _expanded(
    place: Place, values: _Items, is_tag: bool, time_unit: str | None
) -> list[tuple[str, Values]]:
    """Columns `name_0`, `name_1`, … of rows that are lists of one length, or None."""
    if place.column == TIME:
        raise place.error("rows that are lists", WANTED_TIME)
    rows = [row.tolist() if type(row).__name__ == "ndarray" else row for row in values]
    lists = [(at, len(row)) for at, row in enumerate(rows) if isinstance(row, list | tuple)]
    if not lists:
        raise place.error("an array without dimension", WANTED)
    first, size = lists[0]
    if not size:
        raise place.error("an empty list", "one of some values", first)
    for at, row in enumerate(rows):
        if row is not None and not isinstance(row, list | tuple):
            raise place.error(word_of(row), f"a list as in row {first}", at)
        if row is not None and len(row) != size:
            raise place.error(f"a list of {len(row)}", f"one of {size} as in row {first}", at)
    found: list[tuple[str, Values]] = []
    for i in range(size):
        values = [None if row is None else row[i] for row in rows]
        found += prepare(Place(place.measurement, f"{place.column}_{i}"), values, is_tag, time_unit)
    return found
