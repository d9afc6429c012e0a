"""Moments as people write them, to microseconds since 1970. Pure.

In: `datetime` (naive: UTC), `date`, `numpy.datetime64`, pandas' `Timestamp`, an ISO 8601 text
(naive: UTC), or an int, which is microseconds since 1970-01-01T00:00Z. Out: an int of that. The
clock is never asked.

Stored times are whole microseconds. A moment between two of them, which only nanoseconds can name,
becomes the later one: for an inclusive start and for an exclusive end alike that chooses the rows
that the moment itself would.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from arc.reader.errors import UsageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)

#: What `datetime`, and with it every form of text, can tell: the years 1 to 9999.
MIN_US = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _US
MAX_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _US

_FINER_UNITS = frozenset({"ns", "ps", "fs", "as"})  # of NumPy
_FINER = re.compile(r"[.,]\d{7,}").search
_WANTED = (
    "a datetime, date, numpy.datetime64, ISO 8601 text, or an int of microseconds since 1970-01-01"
)


def to_us(value: Any, what: str, is_exact: bool = False) -> int:
    """Convert a moment.

    Args:
        value: See above.
        what: Its name, for messages.
        is_exact: Refuse what is no whole number of microseconds, instead of taking the next.

    Returns:
        Microseconds since 1970-01-01T00:00Z, in the years 1 to 9999.

    Raises:
        UsageError: It is no moment, or not in these years.
    """
    us = _to_us(value, what, is_exact)
    if not MIN_US <= us <= MAX_US:
        raise UsageError(f"{what}: {value!r} is not in the years 1 to 9999")
    return us


def iso(us: int) -> str:
    """A moment as SQL has it: `2026-11-20 09:00:00.000000+00`."""
    return (_EPOCH + us * _US).isoformat(" ", "microseconds").replace("+00:00", "+00")


def _to_us(value: Any, what: str, is_exact: bool) -> int:
    if hasattr(value, "to_datetime64"):  # of pandas; in UTC, with its nanoseconds
        value = value.to_datetime64()
    if type(value).__name__ == "datetime64":
        return _of_numpy(value, what, is_exact)
    if isinstance(value, str):
        value = _of_text(value, what)
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // _US
    if isinstance(value, date):
        return (datetime.combine(value, time(), UTC) - _EPOCH) // _US
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{what}: found {type(value).__name__}, wanted {_WANTED}")
    return int(value.__index__())


def _of_text(text: str, what: str) -> datetime:
    if _FINER(text):
        raise UsageError(f"{what}: {text!r} has more than six digits of a second")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{what}: {text!r} is no ISO 8601 date or time") from None


def _of_numpy(value: Any, what: str, is_exact: bool) -> int:
    import numpy as np

    if np.isnat(value):
        raise UsageError(f"{what}: NaT is no moment")
    is_finer = np.datetime_data(value.dtype)[0] in _FINER_UNITS
    try:
        us = value.astype("datetime64[us]")  # towards the past
        is_between = bool(us.astype(value.dtype) != value)
    except OverflowError:
        is_finer, is_between = False, True
    if is_between and not is_finer:  # or it went around, at the ends of int64
        raise UsageError(f"{what}: {value} is not in the years 1 to 9999")
    if is_between and is_exact:
        raise UsageError(f"{what}: {value} is no whole number of microseconds, as all times are")
    return int(us.astype(np.int64)) + is_between
