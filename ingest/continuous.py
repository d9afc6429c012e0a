"""Continuous queries: what they say, and the windows of time that they run for. Pure.

In: definitions (`QuerySpec`). Out: whether they make sense, the window that is due (`Query.due`),
and its SELECT. They are kept in `ingest.continuous_store` and executed in `arc.continuous`; no SQL
is run here.

A window is a half-open range of time, as long as the query's interval and aligned to
1970-01-01T00:00Z. It is due once it is closed and a delay for late rows is over, the oldest first,
and the next one only after it. Rows that a query wrote carry its number in the column
`MARK_COLUMN`, and their times lie in their window: so the rows of one query and one window can be
told from all others, and be replaced.
"""

from __future__ import annotations

import datetime
import re
import secrets

import msgspec

from ingest.errors import LimitError, PayloadError
from ingest.paths import QUARANTINE, TableId, check_database, check_measurement
from ingest.retention import DAY_S, MAX_S

#: Tag of every row that a continuous query wrote: the number of the query, as text.
MARK_COLUMN = "_cq"

START, END = "{start_time}", "{end_time}"

MAX_NAME_CHARACTERS = 128
MAX_DESCRIPTION_CHARACTERS = 4_096

#: Longest query, in characters, as much as the query process takes of bytes with room for times.
MAX_QUERY_CHARACTERS = 2**17

#: Shortest and longest window. A second is what one execution may take on a busy machine; no file
#: of the tables covers more than a day, and nobody waits longer than a year for a result.
MIN_INTERVAL_S, MAX_INTERVAL_S = 1, 366 * DAY_S

#: Years that rows are of: 1900 to 2262.
MIN_TIME_US, MAX_TIME_US = -2_208_988_800_000_000, 9_214_646_400_000_000

#: Windows that one request may ask for: 3 days of 5 minutes, 41 days of an hour.
MAX_WINDOWS = 1_000

COMPLETED, FAILED = "completed", "failed"

_INTERVAL = re.compile(r"(\d{1,9})\s*([a-z]+)", re.ASCII)
_UNITS_S = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), DAY_S),
    **dict.fromkeys(("w", "week", "weeks"), 7 * DAY_S),
}
_SELECT = re.compile(
    r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*(?:SELECT|WITH|FROM)\b", re.I | re.DOTALL
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Window(msgspec.Struct, frozen=True, order=True):
    """A range of time.

    Attributes:
        start_us: First moment, microseconds since 1970-01-01T00:00Z.
        end_us: First moment after it.
    """

    start_us: int
    end_us: int


class QuerySpec(msgspec.Struct, frozen=True):
    """What somebody wants of a continuous query.

    Attributes:
        name: For people; no other continuous query has it.
        database: Of both measurements, and of tables that the query names without one.
        source: Measurement that is read, for people: what is read is up to the query.
        destination: Measurement that is written.
        query: One SELECT, with `START` and `END` where the bounds of the window belong, or
            without either of them: then its result is cut to the window.
        interval: Length of a window, such as "5m" or "1 hour".
        description: For people.
        retention_days: Policy that the destination got; None: none.
        delete_source_after_days: Policy that the source got; None: none.
        is_active: Whether it is executed by itself.
    """

    name: str
    database: str
    source: str
    destination: str
    query: str
    interval: str
    description: str | None = None
    retention_days: int | None = None
    delete_source_after_days: int | None = None
    is_active: bool = True

    @property
    def interval_us(self) -> int:
        """Length of a window, microseconds."""
        return parse_interval(self.interval) * 1_000_000

    @property
    def target(self) -> TableId:
        """The table that is written."""
        return TableId(self.database, self.destination)


class Execution(msgspec.Struct, frozen=True):
    """One execution as it is kept; see `Outcome`.

    Attributes:
        id: Its number.
        query_id: Of the query.
        execution_id: Its name, unique.
        at_us: When it began, microseconds since 1970-01-01T00:00Z.
        status: `COMPLETED` or `FAILED`.
        start_us: Of its windows, microseconds since 1970-01-01T00:00Z.
        end_us: First moment after them.
        rows: That were written.
        took_s: How long it took.
        error: Why it failed.
    """

    id: int
    query_id: int
    execution_id: str
    at_us: int
    status: str
    start_us: int
    end_us: int
    rows: int
    took_s: float
    error: str | None


class Outcome(msgspec.Struct):
    """What an execution has done, or would do.

    Attributes:
        query_id: Number of the query.
        window: What it was for; of several windows, all of them.
        at_us: When it began, microseconds since 1970-01-01T00:00Z.
        execution_id: Its name, unique.
        dry_run: Nothing was written.
        rows: That were written.
        took_s: How long it took.
        error: Why it failed; then the window has what it had before, or is due again.
    """

    query_id: int
    window: Window
    at_us: int
    execution_id: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    dry_run: bool = False
    rows: int = 0
    took_s: float = 0.0
    error: str | None = None

    @property
    def status(self) -> str:
        """`COMPLETED` or `FAILED`."""
        return COMPLETED if self.error is None else FAILED


class Query(msgspec.Struct, frozen=True):
    """A continuous query as it is kept.

    Attributes:
        id: Its number, never given twice.
        spec: What it says.
        created_us: Microseconds since 1970-01-01T00:00Z.
        updated_us: Of the latest change.
        next_us: Start of the next window.
        done_us: End of the last window that was executed in its turn; None: none was.
        failures: Of the next window, one after another.
        retry_us: It is not tried again before this time.
        last: Its latest execution.
        promised: A window whose rows were about to be replaced; None: there is none.
    """

    id: int
    spec: QuerySpec
    created_us: int
    updated_us: int
    next_us: int
    done_us: int | None = None
    failures: int = 0
    retry_us: int = 0
    last: Execution | None = None
    promised: Window | None = None

    @property
    def mark(self) -> str:
        """What its rows have in `MARK_COLUMN`."""
        return str(self.id)

    def due(self, now_us: int, delay_us: int = 0) -> Window | None:
        """The window to execute now; None: there is none.

        Args:
            now_us: Microseconds since 1970-01-01T00:00Z.
            delay_us: How long late rows are waited for.
        """
        if self.promised is not None:
            return self.promised
        window = Window(self.next_us, self.next_us + self.spec.interval_us)
        return window if self.spec.is_active and now_us >= window.end_us + delay_us else None

    def sql(self, window: Window) -> str:
        """The SELECT of one window."""
        return sql_of(self.spec.query, window)


# --- what they say -----------------------------------------------------------------------------


def parse_interval(text: str) -> int:
    """Seconds of an interval such as "30s", "5m", "1h", "1 day" or "2 weeks".

    Raises:
        PayloadError: it is none, or out of bounds.
    """
    match = _INTERVAL.fullmatch(text.strip().lower())
    unit_s = _UNITS_S.get(match[2]) if match else None
    if match is None or unit_s is None:
        raise PayloadError(
            f"interval {text[:40]!r}: wanted a whole number of s, m, h, d or w, such as '5m'"
        )
    seconds = int(match[1]) * unit_s
    if not MIN_INTERVAL_S <= seconds <= MAX_INTERVAL_S:
        raise PayloadError(
            f"interval {text[:40]!r}: {seconds} s, wanted {MIN_INTERVAL_S} to {MAX_INTERVAL_S}"
        )
    return seconds


def check(spec: QuerySpec) -> None:
    """Refuse what makes no sense. Whether its SQL can be run is seen elsewhere.

    Raises:
        PayloadError: what is wrong with it.
    """
    if not 1 <= len(spec.name) <= MAX_NAME_CHARACTERS or not spec.name.isprintable():
        raise PayloadError(
            f"name of a continuous query: {len(spec.name)} characters, wanted 1 to "
            f"{MAX_NAME_CHARACTERS} that can be printed"
        )
    if spec.description is not None and len(spec.description) > MAX_DESCRIPTION_CHARACTERS:
        raise PayloadError(
            f"description: {len(spec.description)} characters, over the limit of "
            f"{MAX_DESCRIPTION_CHARACTERS}"
        )
    check_database(spec.database)
    check_measurement(spec.source)
    check_measurement(spec.destination)
    if spec.destination in (spec.source, QUARANTINE):
        raise PayloadError(
            f"destination_measurement {spec.destination!r}: wanted another measurement than the "
            f"source, and not {QUARANTINE}"
        )
    parse_interval(spec.interval)
    _check_query(spec.query)
    for key in ("retention_days", "delete_source_after_days"):
        days = getattr(spec, key)
        if days is not None and not 1 <= days <= MAX_S // DAY_S:
            raise PayloadError(f"{key} is {days}, wanted 1 to {MAX_S // DAY_S}")


def _check_query(query: str) -> None:
    if len(query) > MAX_QUERY_CHARACTERS:
        raise PayloadError(
            f"query: {len(query)} characters, over the limit of {MAX_QUERY_CHARACTERS}"
        )
    if not _SELECT.match(query):
        raise PayloadError(f"query: found {query[:40]!r}, wanted a SELECT")
    if (START in query) != (END in query):
        there, missing = (START, END) if START in query else (END, START)
        raise PayloadError(f"query: it has {there} and not {missing}; wanted both, or neither")


def sql_of(query: str, window: Window) -> str:
    """The SELECT of one window: with its bounds in place, or cut to it where it has no place."""
    start, end = shown_time(window.start_us), shown_time(window.end_us)
    if START not in query:
        inner = query.rstrip().rstrip(";")
        return (
            f"SELECT * FROM (\n{inner}\n) AS result "
            f"WHERE \"time\" >= TIMESTAMPTZ '{start}' AND \"time\" < TIMESTAMPTZ '{end}'"
        )
    for place, text in ((START, start), (END, end)):
        # Some write quotes around it, as around any other text.
        query = query.replace(f"'{place}'", f"'{text}'").replace(place, f"TIMESTAMPTZ '{text}'")
    return query


def windows_between(spec: QuerySpec, start_us: int, end_us: int) -> list[Window]:
    """The windows that a range of time touches, whole.

    Raises:
        PayloadError: the range is empty, or not of the years that rows can be of.
        LimitError: it has more than `MAX_WINDOWS`.
    """
    for at_us in (start_us, end_us):
        if not MIN_TIME_US <= at_us < MAX_TIME_US:
            raise PayloadError(
                f"{shown_time(at_us)}: wanted a time from {shown_time(MIN_TIME_US)} to "
                f"{shown_time(MAX_TIME_US)}"
            )
    if start_us >= end_us:
        raise PayloadError(
            f"start_time {shown_time(start_us)} is not before end_time {shown_time(end_us)}"
        )
    step_us = spec.interval_us
    first_us = start_us // step_us * step_us
    count = -(-(end_us - first_us) // step_us)
    if count > MAX_WINDOWS:
        raise LimitError("windows of one request", count, MAX_WINDOWS, "a smaller range of time")
    return [
        Window(at_us, at_us + step_us)
        for at_us in range(first_us, first_us + count * step_us, step_us)
    ]


def shown_time(time_us: int) -> str:
    """A moment as SQL and people read it, UTC."""
    return (_EPOCH + datetime.timedelta(microseconds=time_us)).isoformat(" ")
