"""Client times in hours to nanoseconds, to stored microseconds. Pure.

The unit is told from the magnitudes of a whole column, or given. What comes out is int64
microseconds since 1970-01-01T00:00Z, within the years 1900 to 2262.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest.errors import TimeError


class TimeUnit(enum.StrEnum):
    """Unit of a client's times. Only line protocol says minutes and hours."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"
    M = "m"
    H = "h"


#: A value is in the first unit whose bound its magnitude lies under. In seconds the first bound
#: is the year 2286, in each following unit the first is 1970-04 and the second the year 2286.
UNIT_BOUNDS = ((10**10, TimeUnit.S), (10**13, TimeUnit.MS), (10**16, TimeUnit.US))

#: Smaller magnitudes are clocks that were never set (before 1973 in s): they do not vote.
CLOCK_SET = 10**8

#: 1900-01-01 and 2263-01-01 in seconds since 1970: the years that are stored. Nanoseconds end
#: with int64, on 2262-04-11.
MIN_TIME_S = -2_208_988_800
MAX_TIME_S = 9_246_182_400

_INT64_END = 2**63

_HOUR_S = 3600
_PER_HOUR = {
    TimeUnit.H: 1,
    TimeUnit.M: 60,
    TimeUnit.S: _HOUR_S,
    TimeUnit.MS: _HOUR_S * 10**3,
    TimeUnit.US: _HOUR_S * 10**6,
    TimeUnit.NS: _HOUR_S * 10**9,
}

#: First value of each unit that is a time, and the first after the last.
_RANGES = {
    unit: (MIN_TIME_S // _HOUR_S * per_hour, min(MAX_TIME_S // _HOUR_S * per_hour, _INT64_END))
    for unit, per_hour in _PER_HOUR.items()
}


class EpochTimes(NamedTuple):
    """Times as they are stored.

    Attributes:
        time_us: int64, shape (rows,), microseconds since 1970-01-01T00:00Z.
        min_us: The smallest of them.
        max_us: The largest of them.
    """

    time_us: NDArray[np.int64]
    min_us: int
    max_us: int


def unit_of(magnitude: float) -> TimeUnit:
    """Unit that a time of this magnitude is in."""
    for bound, unit in UNIT_BOUNDS:
        if magnitude < bound:
            return unit
    return TimeUnit.NS


def infer_unit(times: NDArray[Any], where: str) -> TimeUnit:
    """Tell the unit of a column from all its values.

    Args:
        times: int64 or float64, shape (rows,), rows >= 1, no NaN.
        where: What to call the column in an error.

    Raises:
        TimeError: values that count fall into more than one unit.
    """
    magnitudes = np.abs(times)
    if times.dtype == np.int64:
        magnitudes = magnitudes.view(np.uint64)  # |-2**63| is only in range there
    voters = np.flatnonzero(magnitudes >= CLOCK_SET)
    if len(voters) == 0:
        return TimeUnit.S
    votes = magnitudes[voters]
    first, second = voters[votes.argmin()], voters[votes.argmax()]
    low, high = unit_of(magnitudes[first].item()), unit_of(magnitudes[second].item())
    if low is not high:
        raise TimeError(
            f"{where}: {times[first].item()} in row {first} looks like {low}, but "
            f"{times[second].item()} in row {second} like {high}; "
            "send one unit, or name it in the header x-arc-time-unit"
        )
    return low


def to_epoch_us(
    times: NDArray[Any],
    unit: TimeUnit | None,
    where: str,
    bounds: tuple[int, int] | None = None,
) -> EpochTimes:
    """Convert timestamps to the stored unit.

    Args:
        times: int64 or float64, shape (rows,), rows >= 1, in `unit` since 1970-01-01T00:00Z.
            Consumed: the result may lie in its memory.
        unit: None: told from the magnitudes.
        where: What to call the column in an error.
        bounds: Smallest and largest of int64 `times`, where the caller knows them; not looked at
            for float64.

    Returns:
        Integers in ns round towards the past; floats keep their fraction, to the nearest
        microsecond in ms and longer units, towards the past in us and ns.

    Raises:
        TimeError: NaN, infinite, outside 1900 to 2262, or of mixed units.
    """
    if times.dtype == np.float64:
        return _floats_to_epoch_us(times, unit, where)
    low, high = bounds or (int(times.min()), int(times.max()))
    if unit is None:
        # HOT: where all clocks are set, the bounds tell the unit of every value in between.
        unit = unit_of(low)
        if low < CLOCK_SET or unit is not unit_of(high):
            unit = infer_unit(times, where)
    _check_range(times, low, high, unit, where)
    if unit is TimeUnit.US:
        return EpochTimes(times, low, high)
    if unit is TimeUnit.NS:
        return EpochTimes(np.floor_divide(times, 1000, out=times), low // 1000, high // 1000)
    factor = _PER_HOUR[TimeUnit.US] // _PER_HOUR[unit]
    return EpochTimes(np.multiply(times, factor, out=times), low * factor, high * factor)


def _floats_to_epoch_us(
    times: NDArray[np.float64], unit: TimeUnit | None, where: str
) -> EpochTimes:
    finite = np.isfinite(times)
    if not finite.all():
        row = int(finite.argmin())
        raise TimeError(f"{where}, row {row}: {times[row]} is not a time")
    unit = unit or infer_unit(times, where)
    _check_range(times, times.min().item(), times.max().item(), unit, where)
    if unit is TimeUnit.US or unit is TimeUnit.NS:
        np.floor(times, out=times)
    else:
        np.rint(times * (_PER_HOUR[TimeUnit.US] / _PER_HOUR[unit]), out=times)
    time_us = times.view(np.int64)
    time_us[:] = times
    if unit is TimeUnit.NS:  # not before: float64 quotients of such size round up as well as down
        np.floor_divide(time_us, 1000, out=time_us)
    return EpochTimes(time_us, int(time_us.min()), int(time_us.max()))


def _check_range(times: NDArray[Any], low: float, high: float, unit: TimeUnit, where: str) -> None:
    earliest, end = _RANGES[unit]
    if low >= earliest and high < end:
        return
    bad = low if low < earliest else high
    row = int(np.argmax(times == bad))
    raise TimeError(f"{where}, row {row}: {bad} {unit} is outside the years 1900 to 2262")
