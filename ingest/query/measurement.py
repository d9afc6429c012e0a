"""A measurement without SQL: its name, a range of times and a number of rows, as a SELECT. Pure.

In: values. Out: the text of one SELECT, for an `Engine`. Every name is quoted and every other
value is written here from a number, so that no text of a client is ever read as SQL.
"""

from __future__ import annotations

import datetime

import msgspec

from ingest.query.binding import identifier
from ingest.query.errors import QueryError

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

#: What Python can write as a date: the years 1 to 9999.
_LOW_US, _HIGH_US = -62_135_596_800_000_000, 253_402_300_799_999_999


class MeasurementQuery(msgspec.Struct, frozen=True):
    """Rows of one measurement, newest first.

    Attributes:
        measurement: Its name.
        limit: Most rows, at least 1.
        columns: Names; none: all of them.
        start_us: Rows from this time on, microseconds since 1970-01-01T00:00Z; None: any.
        end_us: Rows before this time; None: any.
    """

    measurement: str
    limit: int
    columns: tuple[str, ...] = ()
    start_us: int | None = None
    end_us: int | None = None


def select_of(query: MeasurementQuery) -> str:
    """The SELECT that asks for it. The table has no database: that of the request is meant."""
    columns = ", ".join(map(identifier, query.columns)) or "*"
    bounds = [
        f'"time" {sign} {_time(bound)}'
        for sign, bound in ((">=", query.start_us), ("<", query.end_us))
        if bound is not None
    ]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    return (
        f"SELECT {columns} FROM {identifier(query.measurement)}{where} "
        f'ORDER BY "time" DESC LIMIT {query.limit:d}'
    )


def parse_time(name: str, text: str) -> int:
    """A time that a client wrote, in microseconds since 1970-01-01T00:00Z.

    Args:
        name: Of the parameter, for the error.
        text: RFC 3339, a day such as 2026-09-21, or a whole number of microseconds since
            1970-01-01T00:00Z. Without a time zone, UTC is meant.

    Raises:
        QueryError: it is none of these, or in no year from 1 to 9999.
    """
    if text.isascii() and text.removeprefix("-").isdecimal():
        number = int(text) if len(text) <= len(str(_LOW_US)) else _HIGH_US + 1
        if _LOW_US <= number <= _HIGH_US:
            return number
        raise QueryError(f"{name}: found {text[:40]}, which is in no year from 1 to 9999")
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise QueryError(
            f"{name}: found {text[:40]!r}, wanted a time such as 2026-09-21T14:13:20Z (a plus in "
            "a URL is %2B), or a whole number of microseconds since 1970"
        ) from None


def _time(time_us: int) -> str:
    moment = _EPOCH + datetime.timedelta(microseconds=time_us)
    return f"TIMESTAMPTZ '{moment.isoformat(' ', 'microseconds')}'"
