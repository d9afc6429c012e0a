"""The time column of a data frame: which times it holds, and in which unit.

In: a chunked array of Arrow. Out: `Times`, or a `UsageError` that names the row. Never converts a
time: the body says the unit, and the daemon rounds as it does for everyone.

Timestamps and dates have a unit; those without a zone are taken for UTC. Numbers are in the unit
that the caller names, or the one that the magnitudes of the whole column tell, by the rule of the
daemon (`ingest.timestamps`): below 1e10 seconds, below 1e13 milliseconds, below 1e16 microseconds,
else nanoseconds, where magnitudes below 1e8 (clocks that were never set) do not count unless all
are such. The daemon would ask each request by itself, so that two halves of a frame could differ.
"""

from __future__ import annotations

from typing import Any

import msgspec

from arc.client.frames_types import Place, cast, is_text, unwrapped

_UNIT_BOUNDS = ((10**10, "s"), (10**13, "ms"), (10**16, "us"))
_CLOCK_SET = 10**8

#: 1900-01-01 and 2263-01-01 in seconds since 1970: what the daemon stores.
_FIRST_S, _END_S = -2_208_988_800, 9_246_182_400
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_HOUR_S = 3600

UNITS = tuple(_PER_S)


class Times(msgspec.Struct, frozen=True):
    """The time column of a frame, or of a part of it.

    Attributes:
        column: pyarrow.ChunkedArray: timestamps in UTC, or float64.
        numbers: The same as int64 or float64, in `unit` since 1970.
        unit: Of all of them.
        low: The smallest.
        high: The largest.
    """

    column: Any
    numbers: Any
    unit: str
    low: float
    high: float

    def hours(self, at: int, rows: int, enough: int) -> int:
        """In how many hours of UTC the times of some rows lie; exact above `enough`."""
        import numpy as np
        import pyarrow.compute as pc

        per_hour = _HOUR_S * _PER_S[self.unit]
        span = int(self.high // per_hour - self.low // per_hour) + 1
        if span <= enough:
            return span
        numbers = self.numbers.slice(at, rows)
        bounds = pc.min_max(numbers)
        span = int(bounds["max"].as_py() // per_hour - bounds["min"].as_py() // per_hour) + 1
        return span if span <= enough else len(np.unique(numbers.to_numpy() // per_hour))


def settle_times(
    column: Any, place: Place, unit: str | None, told_before: str | None = None
) -> Times:
    """Tell the times of a column.

    Args:
        column: pyarrow.ChunkedArray with at least one row.
        place: For messages.
        unit: Of numbers, one of `UNITS`; None: told from their magnitudes.
        told_before: Unit of the parts of a stream before this one.

    Raises:
        UsageError: a null, NaN or infinity, a year outside 1900 to 2262, magnitudes of more than
            one unit, or a type that is no time.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = unwrapped(column, place)
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise place.error("null is not a time", row)
    numbers, own_unit = _numbers(column, place)
    is_float = pa.types.is_floating(numbers.type)
    if is_float and not pc.all(pc.is_finite(numbers)).as_py():
        row = pc.index(pc.is_finite(numbers), False).as_py()
        raise place.error(f"{numbers[row]} is not a time", row)
    bounds = pc.min_max(numbers)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    unit = own_unit or unit or _told_unit(numbers, low, high, place, told_before)
    _check_range(numbers, low, high, unit, place)
    times = numbers if is_float else _viewed(numbers, pa.timestamp(unit, "UTC"))
    return Times(times, numbers, unit, low, high)


def _numbers(column: Any, place: Place) -> tuple[Any, str | None]:
    """Times as int64 or float64, and their unit if their type says it."""
    import pyarrow as pa

    types = pa.types
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if types.is_date32(column.type) else "ms"))
    kind = column.type
    if types.is_timestamp(kind):
        return _viewed(column, pa.int64()), str(kind.unit)
    if types.is_floating(kind):
        return column.cast(pa.float64()), None
    if types.is_integer(kind) or (types.is_decimal(kind) and kind.scale <= 0):
        return cast(column, pa.int64(), place, "a time of at most 64 bits"), None
    found = "text" if is_text(kind) or types.is_dictionary(kind) else str(kind)
    raise place.error(f"found {found}, wanted timestamps, dates or numbers", 0)


def _viewed(column: Any, kind: Any) -> Any:
    """The same memory in another type of the same width."""
    import pyarrow as pa

    return pa.chunked_array([chunk.view(kind) for chunk in column.chunks], kind)


def _unit_of(magnitude: float) -> str:
    for bound, unit in _UNIT_BOUNDS:
        if magnitude < bound:
            return unit
    return "ns"


def _told_unit(numbers: Any, low: float, high: float, place: Place, before: str | None) -> str:
    """The unit that the magnitudes of a column tell."""
    import pyarrow.compute as pc

    least, most = low, high
    if low < _CLOCK_SET:
        is_set = pc.or_(pc.greater_equal(numbers, _CLOCK_SET), pc.less_equal(numbers, -_CLOCK_SET))
        votes = numbers.filter(is_set)
        if not len(votes):
            return before or "s"
        # The magnitude of -2**63 is no int64: it votes as the next one does, and is out of range.
        bounds = pc.min_max(pc.abs(pc.max_element_wise(votes, -(2**63) + 1)))
        least, most = bounds["min"].as_py(), bounds["max"].as_py()
    unit = _unit_of(least)
    if unit != _unit_of(most):
        first, second = _row_of(numbers, least), _row_of(numbers, most)
        raise place.error(
            f"{numbers[first]} looks like {unit}, but {numbers[second]} in row "
            f"{place.first_row + second} like {_unit_of(most)}; send one unit, or name it: "
            "time_unit=",
            first,
        )
    if before is not None and unit != before:
        first = _row_of(numbers, least)
        raise place.error(
            f"{numbers[first]} looks like {unit}, but the rows before like {before}; send one "
            "unit, or name it: time_unit=",
            first,
        )
    return unit


def _row_of(numbers: Any, magnitude: float) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = [
        pc.index(numbers, pa.scalar(value, numbers.type)).as_py()
        for value in (magnitude, -magnitude)
    ]
    return min((row for row in rows if row >= 0), default=0)


def _check_range(numbers: Any, low: float, high: float, unit: str, place: Place) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if low >= _FIRST_S * _PER_S[unit] and high < _END_S * _PER_S[unit]:
        return
    bad = low if low < _FIRST_S * _PER_S[unit] else high
    row = pc.index(numbers, pa.scalar(bad, numbers.type)).as_py()
    raise place.error(f"{bad} {unit} is outside the years 1900 to 2262", row)
