"""What a call asks for, checked, whoever answers it. Pure.

In: the arguments of `Reader.read`. Out: a `Selection`. Nothing is looked up: whether there is such
a table or column is said by who has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, TypeAlias

from arc.reader import names
from arc.reader.errors import UsageError
from arc.reader.times import to_us

#: Name of the column that holds the time of each row.
TIME_COLUMN = "time"

_INT64 = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True)
class Moment:
    """A time to compare with, microseconds since 1970-01-01T00:00Z."""

    us: int


#: What a column can be compared with; None is the missing value.
Value: TypeAlias = str | bytes | bool | int | float | Moment | None
#: Values by column: a row is chosen when each of the columns has one of its values.
Conditions: TypeAlias = dict[str, tuple[Value, ...]]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Rows and columns of one table.

    Attributes:
        database: Of the table.
        measurement: The table.
        start_us: First microsecond since 1970-01-01T00:00Z; None: from the first row on.
        end_us: The microsecond after the last; None: to the last row.
        columns: In this order; None: all.
        conditions: All of them hold.
        more: Another condition, in the form of who answers: an expression of pyarrow, or SQL.
    """

    database: str
    measurement: str
    start_us: int | None
    end_us: int | None
    columns: tuple[str, ...] | None
    conditions: Conditions
    more: Any

    @property
    def is_empty(self) -> bool:
        """No row can be chosen, since none lies between start and end."""
        return (
            self.start_us is not None and self.end_us is not None and self.start_us >= self.end_us
        )


def select(
    database: str,
    measurement: str,
    start: Any = None,
    end: Any = None,
    columns: Iterable[str] | None = None,
    where: Any = None,
) -> Selection:
    """Check the arguments of a call.

    Raises:
        UsageError: One of them cannot be used.
    """
    names.check_database(database)
    names.check_measurement(measurement)
    start_us = None if start is None else to_us(start, "start")
    end_us = None if end is None else to_us(end, "end")
    if start_us is not None and end_us is not None and start_us > end_us:
        raise UsageError(f"start {start!r} is after end {end!r}")
    chosen = None if columns is None else _columns(columns)
    if isinstance(where, Mapping):
        return Selection(database, measurement, start_us, end_us, chosen, _conditions(where), None)
    return Selection(database, measurement, start_us, end_us, chosen, {}, where)


def check_batch_rows(batch_rows: object) -> None:
    """Refuse a size of batches that is none.

    Raises:
        UsageError: It is not at least 1.
    """
    if isinstance(batch_rows, bool) or not isinstance(batch_rows, int) or batch_rows < 1:
        raise UsageError(f"batch_rows: found {batch_rows!r}, wanted an int of at least 1")


def _columns(columns: Iterable[str]) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise UsageError(f"columns: found the text {columns!r}, wanted a list of names")
    chosen: tuple[Any, ...] = tuple(columns)
    for name in chosen:
        if not isinstance(name, str) or not name:
            raise UsageError(f"columns: found {name!r}, wanted names")
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise UsageError(f"columns: {', '.join(map(repr, twice))} twice")
    if not chosen:
        raise UsageError("columns: an empty list; wanted at least one name, or None for all")
    return chosen


def _conditions(where: Mapping[Any, Any]) -> Conditions:
    found: Conditions = {}
    for name, wanted in where.items():
        if not isinstance(name, str) or not name:
            raise UsageError(f"where: found {name!r}, wanted the name of a column")
        is_list = isinstance(wanted, (list, tuple, set, frozenset)) or getattr(
            wanted, "ndim", False
        )
        values = list(wanted) if is_list else [wanted]
        found[name] = tuple(_value(value, f"where[{name!r}]") for value in values)
    return found


def _value(value: Any, what: str) -> Value:
    if isinstance(value, date) or type(value).__name__ == "datetime64":
        if not isinstance(value, datetime) and isinstance(value, date):
            raise UsageError(f"{what}: a date is no moment; bound the time by start and end")
        return Moment(to_us(value, what, is_exact=True))
    if hasattr(value, "item"):  # of NumPy
        value = value.item()
    if value is None or isinstance(value, (bool, bytes, float)):
        return value
    if isinstance(value, str):
        _check_text(value, what)
        return value
    if isinstance(value, int):
        if value not in _INT64:
            raise UsageError(f"{what}: {value} does not fit into 64 bits")
        return value
    raise UsageError(
        f"{what}: found {type(value).__name__}, wanted str, bytes, bool, int, float, datetime, "
        "None, or a list of these"
    )


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what}: {text!r} has a lone surrogate, which is no text") from None
