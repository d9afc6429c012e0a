"""A time as users give it, to nanoseconds since 1970. Pure.

In: an integer or a float with or without its unit, a `datetime`, a NumPy or pandas time. Out: one
int that the server takes, or `UsageError`. Never reads a clock, and imports neither NumPy nor
pandas: a value of theirs is known by the module of its type.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from arc.client.errors import UsageError

#: Nanoseconds in a unit, by the names of the header x-arc-time-unit.
NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

#: A value without a unit is in the first unit whose bound its magnitude lies under, else in ns:
#: the rule of the server for a column of one value.
UNIT_BOUNDS = ((10**10, "s"), (10**13, "ms"), (10**16, "us"))

#: 1900-01-01T00:00Z, and the end of int64 (2262-04-11): what the server stores.
MIN_TIME_NS = -2_208_988_800 * 10**9
MAX_TIME_NS = 2**63 - 1

#: From here on a number is in nanoseconds.
_LEAST_NS = UNIT_BOUNDS[-1][0]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_DAY_S = 86_400

#: NumPy's units of fixed length in attoseconds. Years and months are turned into days first.
_AS_PER_NUMPY_UNIT = {
    "W": 7 * _DAY_S * 10**18,
    "D": _DAY_S * 10**18,
    "h": 3_600 * 10**18,
    "m": 60 * 10**18,
    "s": 10**18,
    "ms": 10**15,
    "us": 10**12,
    "ns": 10**9,
    "ps": 10**6,
    "fs": 10**3,
    "as": 1,
}
_UNIT_LETTERS = "".join(_AS_PER_NUMPY_UNIT)
_AS_PER_NS = 10**9
_NOT_A_TIME = -(2**63)

_WANTED = "a number since 1970 in s, ms, us or ns, a datetime, or a time of NumPy or pandas"


def to_ns(value: Any, unit: str | None) -> int:
    """Convert one time to what travels.

    Args:
        value: int or float in `unit` since 1970-01-01T00:00Z; `datetime`, a naive one being UTC;
            `numpy.datetime64`; `pandas.Timestamp`. NumPy's numbers count as Python's.
        unit: `s`, `ms`, `us` or `ns`; None: told from the magnitude (under 1e10 s, under 1e13 ms,
            under 1e16 us, else ns). Not looked at where the value has a unit of its own.

    Returns:
        Nanoseconds since 1970. Floats are rounded as the server does it: in s and ms to the
        nearest microsecond, in us and ns to the microsecond and nanosecond before.

    Raises:
        UsageError: no time, an unknown unit, or outside the years 1900 to 2262.
    """
    if type(value) is int and unit is None and _LEAST_NS <= value <= MAX_TIME_NS:
        return value  # what time_ns() gives: 1.0 -> 0.1 µs (python -m benchmarks.client -k log_at)
    if isinstance(value, datetime):
        return _checked(_of_datetime(value), value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        if value.dtype.kind == "M":
            return _checked(_of_numpy(value), value)
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool):
        return _checked(int(value) * _ns_per_unit(value, unit), value)
    if isinstance(value, float) and math.isfinite(value):
        return _checked(_of_float(value, _ns_per_unit(value, unit)), value)
    raise _unusable(value)


def _ns_per_unit(value: float, unit: str | None) -> int:
    """Nanoseconds in the unit that is named, or told from the magnitude."""
    if unit is None:
        magnitude = abs(value)
        unit = next((unit for bound, unit in UNIT_BOUNDS if magnitude < bound), "ns")
    try:
        return NS_PER_UNIT[unit]
    except KeyError:
        raise UsageError(f"unit of a time: found {unit!r}, wanted s, ms, us or ns") from None


def _of_float(value: float, ns_per_unit: int) -> int:
    """Nanoseconds, but no finer than the microseconds that are stored.

    A float of seconds today is no finer than 0.24 µs, so 1.7e9 + 0.000001 is often a little less
    than it says; rounded down to a microsecond it would be one too early.
    """
    if ns_per_unit == 1:
        return math.floor(value)
    if ns_per_unit == 1_000:
        return math.floor(value) * 1_000
    return round(value * (ns_per_unit // 1_000)) * 1_000


def _of_datetime(value: datetime) -> int:
    """Exact nanoseconds; those of a `pandas.Timestamp` too, which `datetime` knows nothing of."""
    if value != value:  # pandas.NaT calls itself a datetime
        raise _unusable(value)
    since = value - (_NAIVE_EPOCH if value.utcoffset() is None else _EPOCH)
    whole_us = (since.days * _DAY_S + since.seconds) * 1_000_000 + since.microseconds
    if type(value).__module__.partition(".")[0] != "pandas":
        return whole_us * 1_000
    return whole_us * 1_000 + int(getattr(value, "nanosecond", 0))


def _of_numpy(value: Any) -> int:
    """Nanoseconds of a `numpy.datetime64`, finer ones rounded towards the past."""
    if value.dtype.name.endswith(("Y]", "M]")):
        value = value.astype("datetime64[D]")
    unit = value.dtype.name.partition("[")[2].rstrip("]")  # "ns", or "25ns"
    step = unit.rstrip(_UNIT_LETTERS)
    unit = unit[len(step) :]
    ticks = int(value.astype("int64"))
    if ticks == _NOT_A_TIME or unit not in _AS_PER_NUMPY_UNIT:
        raise _unusable(value)
    return ticks * int(step or 1) * _AS_PER_NUMPY_UNIT[unit] // _AS_PER_NS


def _checked(ns: int, value: Any) -> int:
    if MIN_TIME_NS <= ns <= MAX_TIME_NS:
        return ns
    raise UsageError(f"time: {_shown(value)} is outside the years 1900 to 2262")


def _unusable(value: Any) -> UsageError:
    return UsageError(f"time: found {type(value).__name__} {_shown(value)}, wanted {_WANTED}")


def _shown(value: Any) -> str:
    """The value for a message, however long it is."""
    text = str(value) if not isinstance(value, int) or abs(value) < 10**40 else "an integer"
    return text if len(text) <= 40 else text[:40] + "…"
