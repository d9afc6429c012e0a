"""A handler of `logging`: each record of the program becomes one row.

In: `logging.LogRecord`s. Out: one `client.log` call each, in the thread that logged. It formats
nothing but the message and the exception, never raises into the program, and never sends the
client's own records, which would breed more.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from arc.client.errors import UsageError
from arc.client.reports import LOGGER

TAGS = ("level", "logger")
FIELDS = ("message", "module", "function", "line", "process", "thread", "exception", "stack")

#: Of an extra attribute whose name is taken.
PREFIX = "extra_"

#: Attributes of a record that are neither there from the start nor of the program's making.
SET_BY_FORMATTERS = ("asctime", "message")

#: The longest that `flush` waits: `logging.shutdown` calls it at the end of the process.
FLUSH_TIMEOUT_S = 5.0

MAX_NAME_BYTES = 255

# Smaller numbers would be taken for microseconds: the clock of a device that was never set.
_LEAST_NS = 10**16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_INT, _LARGEST_INT = -(2**63), 2**63 - 1


class Producer(Protocol):
    """What a handler needs of a `Client`."""

    def log(self, measurement: str, /, **values: Any) -> Any:
        """Take one row."""

    def declare(
        self, measurement: str, *, tags: Iterable[str] = (), fields: Iterable[str] = ()
    ) -> None:
        """Say which columns are tags and which are fields."""

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the rows are acknowledged."""


class ArcHandler(logging.Handler):
    """Writes records of `logging` as rows of one measurement.

    Tags: `level`, `logger`, and the constant ones. Fields: `message`, `module`, `function`, `line`,
    `process` (its id), `thread` (its name); with an exception `exception` (the traceback as text),
    with `stack_info=True` `stack`. The row's time is the record's, to the microsecond.

    Attributes that `extra=` puts on a record become fields of their own names, declared when first
    seen; those that the program has declared as tags stay tags. A name that is taken (by one of the
    columns above, or `time`) gets the prefix `extra_`. Kept are text, booleans, floats and integers
    of 64 bits; None and anything else is left out. One attribute should always have one type: rows
    whose types do not fit the column are refused by the server.

    Lone surrogates in text, which have no place in UTF-8, are written as escapes. Of a formatter
    set on the handler only `formatException` and `formatStack` are used.

    A record costs some 3 µs beside the 4 that `logging` takes by itself, 1.5 more with two extra
    attributes, and some 60 more with an exception, whose traceback is formatted. Under the client's
    policy `block` the program may wait for room.

    Args:
        client: Not closed by the handler.
        measurement: Where the rows go.
        level: Records below it are left out.
        tags: Constant tags of every row.
        extra: Names of the attributes to keep; None: every one that is no standard attribute.

    Raises:
        UsageError: A constant tag has the name of one of the columns, or they were declared
            otherwise.
    """

    def __init__(
        self,
        client: Producer,
        measurement: str = "logs",
        level: int | str = logging.NOTSET,
        tags: Mapping[str, str] | None = None,
        extra: Iterable[str] | None = None,
    ) -> None:
        super().__init__(level)
        self.client, self.measurement, self.tags = client, measurement, dict(tags or {})
        own = {*TAGS, *FIELDS, "time"}
        if taken := sorted(name for name in self.tags if name.lower() in own):
            raise UsageError(f"tag {taken[0]!r}: the handler has a column of that name")
        self.extra = None if extra is None else tuple(extra)
        self._taken = frozenset(own | {name.lower() for name in self.tags})
        standard = logging.makeLogRecord({}).__dict__
        self._num_standard = len(standard)
        self._standard = frozenset({*standard, *SET_BY_FORMATTERS})
        self._columns: dict[str, str | None] = {}  # by name of an extra; None: cannot be a column
        self._plain = logging.Formatter()
        self._is_dirty = False
        client.declare(measurement, tags=(*TAGS, *self.tags), fields=FIELDS)

    def filter(self, record: logging.LogRecord) -> Any:
        """As the base class, and False for the client's own records.

        Here, since `handle` asks before it takes the lock: a flush holds that lock while it waits
        for a thread of the client, which may be about to log.
        """
        is_own = f"{record.name}.".startswith(LOGGER + ".")
        return False if is_own else super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record over to the client; what goes wrong is for `handleError`."""
        try:
            self._is_dirty = True
            self.client.log(self.measurement, **self.row(record))
        except Exception:
            self.handleError(record)

    def row(self, record: logging.LogRecord) -> dict[str, Any]:
        """The values of a record by column; the message is formatted now, its arguments may change.

        `time` is an integer, nanoseconds since 1970, or before May 1970 a `datetime`.
        """
        row = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": _text(record.name),
            **self.tags,
            "message": _text(record.getMessage()),
            "module": _text(record.module),
            "function": record.funcName,
            "line": record.lineno,
            "process": record.process,
            "thread": _text(record.threadName),
        }
        if record.exc_info or record.exc_text:
            row["exception"] = _text(self._exception(record))
        if record.stack_info:
            row["stack"] = _text((self.formatter or self._plain).formatStack(record.stack_info))
        attributes = record.__dict__
        if self.extra is not None or len(attributes) > self._num_standard:
            self._add_extra(row, attributes)
        return row

    def _exception(self, record: logging.LogRecord) -> str | None:
        if record.exc_info and record.exc_info[0] is None:
            return None  # exc_info=True where no exception was under way
        if record.exc_text:  # another handler, or another process, has formatted it
            return record.exc_text
        assert record.exc_info
        return (self.formatter or self._plain).formatException(record.exc_info)

    def _add_extra(self, row: dict[str, Any], attributes: dict[str, Any]) -> None:
        names = self.extra if self.extra is not None else attributes.keys() - self._standard
        for name in sorted(names):
            value = _scalar(attributes.get(name))
            if value is None:
                continue
            if name not in self._columns:
                self._columns[name] = self._column(name)
            if (column := self._columns[name]) is not None:
                row[column] = value

    def _column(self, name: str) -> str | None:
        """The column of an extra attribute when it is first seen; None: it cannot have one."""
        column = name
        while column.lower() in self._taken or column in self._columns.values():
            column = PREFIX + column
        size = len(column.encode("utf-8", "surrogatepass"))
        if not name or "\0" in name or size > MAX_NAME_BYTES or _text(name) != name:
            return None
        with contextlib.suppress(UsageError):  # the program has declared it as a tag
            self.client.declare(self.measurement, fields=(column,))
        return column

    def flush(self) -> None:
        """Wait until the client's rows are acknowledged, 5 s at most.

        Refusals that `Client.flush` raises are printed as `logging` prints its errors.
        """
        self._is_dirty = False
        try:
            self.client.flush(FLUSH_TIMEOUT_S)
        except Exception:
            words = {"name": LOGGER, "msg": "flush of an ArcHandler", "levelname": "ERROR"}
            self.handleError(logging.makeLogRecord(words))

    def close(self) -> None:
        """Flush what came since the last flush; the client stays open."""
        if self._is_dirty:
            self.flush()
        super().close()


def _time(created_s: float) -> int | datetime:
    """The time of a record: a float holds today's microseconds exactly."""
    us = round(created_s * 1e6)
    if us * 1000 >= _LEAST_NS:
        return us * 1000
    return _EPOCH + timedelta(microseconds=us)


def _text(value: str | None) -> str | None:
    """Text that UTF-8 can carry."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode()


def _scalar(value: Any) -> str | int | float | bool | None:
    """A value that a column can hold, as exactly one of these types; None: there is none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        return int(value) if _LEAST_INT <= value <= _LARGEST_INT else None
    return float(value) if isinstance(value, float) else None
