"""The client of programs whose code produces the data: calls in, acknowledged rows out.

`log` and series handles take a row and return; a thread encodes, further threads send. `write_*`
encode in the caller's thread and return when the daemon has answered. Nothing that was taken is
lost while the process lives: batches are sent until they are acknowledged, under a key that makes
each count once; with a spill directory they also outlive the process.

What is done where: `intake` (rows without a lock), `pump` and `rows` (rows to batches), `outbox`
(batches until they are settled), `spill` (the same on disk), `sender`, `transport` and `retry`.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from arc.client.engine import Engine
from arc.client.errors import ArcClientError, UsageError
from arc.client.refusal import RefusedError
from arc.client.reports import together
from arc.client.rows import Dialect
from arc.client.rows_apart import stride_of
from arc.client.series import Series, checked_shape, compiled
from arc.client.settings import Settings, checked, from_environment
from arc.client.stats import Stats
from arc.client.ticket import Ticket

if TYPE_CHECKING:
    from arc.client.batch import Batch
    from arc.client.buffered import BufferedWriter
    from arc.client.intake import RowQueue
    from arc.client.rows import Shape
    from arc.client.series import Make

OnError = Callable[[RefusedError], None]

#: How long a `write_*` call waits for its acknowledgement.
WRITE_TIMEOUT_S = 60.0


class Client:
    """A producer. Any thread may use it; so may a forked child, whose rows are its own.

    Threads start with the first row. `close`, the end of a `with` block and the end of the process
    send what is queued.

    Raises:
        UsageError: a setting that is unknown, of the wrong type or out of bounds.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        database: str = "default",
        *,
        on_error: OnError | None = None,
        ssl_context: Any = None,
        **settings: Any,
    ) -> None:
        """Make a client; nothing is opened before the first row.

        Args:
            url: Of the daemon.
            token: Sent as `Authorization: Bearer`.
            database: Where rows go.
            on_error: Called with a `RefusedError` for rows that no call waits for, in a thread of
                the client: it may log, and must not wait for the client. Without it the error is
                logged, and raised by the next `flush` or `close`.
            ssl_context: An `ssl.SSLContext`; without it the system's authorities are trusted.
            settings: Any other field of `arc.client.Settings`, with its default and unit there.
        """
        given = {"url": url, "token": token, "database": database, **settings}
        self._open(checked(given), on_error, ssl_context)

    @classmethod
    def from_env(
        cls,
        *,
        environ: Mapping[str, str] | None = None,
        on_error: OnError | None = None,
        ssl_context: Any = None,
        **settings: Any,
    ) -> Self:
        """A client whose settings come from ARC_URL, ARC_TOKEN, ARC_DATABASE, ARC_CLIENT_<NAME>.

        Args:
            environ: Instead of the process's environment.
            on_error: As in `Client`.
            ssl_context: As in `Client`.
            settings: Win over the environment.

        Raises:
            UsageError: a bad value, or a variable ARC_CLIENT_... that means nothing.
        """
        self = cls.__new__(cls)
        self._open(from_environment(environ, settings), on_error, ssl_context)
        return self

    def _open(self, settings: Settings, on_error: OnError | None, ssl_context: Any) -> None:
        self.settings = settings
        self._engine = Engine(settings, on_error, ssl_context)
        # Guarded by the intake's lock, which a fork waits for. A queue for each number of values
        # that calls have, so that all its rows take the same number of places: 0, 1, 2, …
        self._queues: list[RowQueue] = []
        self._shapes: dict[Shape, tuple[RowQueue, Make]] = {}
        atexit.register(self._close_at_exit)

    # ----------------------------------------------------------------------------- one row

    # HOT, once per row: 353 ns best, 358 median, for 2 tags and 3 floats with no other work on the
    # machine, 430 best beside much (python -m benchmarks.client -k calls); some 110 of it are the
    # list that is made and dies in the statement that adds it to the queue. Names and values lie
    # there as they will be sliced into columns, the dict of the call dies with it, and nothing is
    # left that the garbage collector has to look at. Adding it is one step of the interpreter. A
    # tuple would be made of such a list, at 30 more (docs/profiling/2026-11-20-client-calls.md); a
    # queue that is found by index costs 7 to 20 less than one that a dict finds.
    def log(self, measurement: str, /, **values: Any) -> None:
        """Take one row now; returns at once.

        Args:
            measurement: 1 to 128 characters.
            values: Text is a tag, numbers and booleans are fields, unless `declare` said otherwise;
                None is null; bytes, enums and NumPy scalars as they are; lists and arrays become
                columns `name_0`, `name_1`, ... A value named `time` is the row's time: a
                `datetime`, or a number since 1970 whose unit is told from its magnitude.

        Raises:
            QueueFullError: too many rows wait, and `when_full` is "raise". Under "block" and
                "spill" the call waits instead.
            ClosedError: the client is closed.
        """
        try:
            queue = self._queues[len(values)]
        except IndexError:
            queue = self._new_queue(len(values))
        rows = queue.rows
        if len(rows) >= queue.mark:
            queue.notice()
        rows += [measurement, time_ns(), *values, *values.values()]

    def _new_queue(self, width: int) -> RowQueue:
        """The queue of calls with so many values, and those of fewer that are not there yet."""
        intake = self._engine.intake
        with intake.changed:
            while len(self._queues) <= width:
                number = len(self._queues)
                self._queues.append(intake.add_queue(stride_of(number), number))
            return self._queues[width]

    def declare(
        self, measurement: str, *, tags: Iterable[str] = (), fields: Iterable[str] = ()
    ) -> None:
        """Say once which columns of a measurement are tags and which are fields.

        Adds to what was declared before; holds for rows that are encoded after it.

        Raises:
            UsageError: a name is declared as both.
        """
        with self._engine.intake.changed:
            before = self._engine.dialects.get(measurement, Dialect(frozenset(), frozenset()))
            dialect = Dialect(before.tags | frozenset(tags), before.fields | frozenset(fields))
            both = sorted(dialect.tags & dialect.fields)
            if both:
                raise UsageError(f"measurement {measurement!r}: {both[0]!r} is tag and field")
            self._engine.dialects[measurement] = dialect

    def series(
        self,
        measurement: str,
        tags: Mapping[str, str] | None = None,
        fields: Sequence[str] = ("value",),
    ) -> Series:
        """A handle with measurement, tags and field names bound: its `log` takes values only.

        Raises:
            UsageError: names that cannot be used.
        """
        tags = {} if tags is None else tags
        shape = checked_shape(measurement, tags, fields)
        queue, make = self._queue_of(shape)
        return self._new_series(shape, tags, queue, make)

    def _new_series(
        self, shape: Shape, tags: Mapping[str, str], queue: RowQueue, make: Make
    ) -> Series:
        return Series(self, shape, tags, queue, make)

    def _queue_of(self, shape: Shape, *, is_async: bool = False) -> tuple[RowQueue, Make]:
        with self._engine.intake.changed:
            if (found := self._shapes.get(shape)) is None:
                make = compiled(shape.fields, is_async=is_async)
                queue = self._engine.intake.add_queue(2 + len(shape.fields), shape)
                found = self._shapes[shape] = queue, make
            return found

    # -------------------------------------------------------------------------- many rows

    def write_columnar(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        *,
        tags: Iterable[str] | Mapping[str, str] = (),
        time_unit: str | None = None,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """Send columns of equal length.

        Args:
            measurement: 1 to 128 characters.
            columns: By name: lists, NumPy arrays of any dtype and stride, Arrow arrays. `time` may
                be absent: now.
            tags: Names of columns that are tags, or tags with one value for all rows.
            time_unit: "s", "ms", "us" or "ns", of times that are plain numbers; None: told from
                their magnitude.
            wait: Return after the daemon's answer; else after queueing, and refusals go to
                `on_error`.
            timeout: Seconds to wait for it.

        Returns:
            The number of rows.

        Raises:
            UsageError: the columns cannot be sent; nothing was.
            RefusedError: not stored, or (`in_doubt`) perhaps; the rows are the caller's again.
            QueueFullError: no room, under `when_full="raise"`.
        """
        batches = self._engine.encoders.columnar(measurement, columns, tags, time_unit)
        return self._write(batches, wait, timeout)

    def write_dataframe(
        self,
        df: Any,
        measurement: str,
        *,
        tags: Iterable[str] | None = None,
        time_column: str | None = None,
        time_unit: str | None = None,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """Send a data frame: pandas, Polars (lazy too), Arrow, or any `__arrow_c_stream__`.

        Args:
            df: The frame.
            measurement: 1 to 128 characters.
            tags: Names of columns; None: categorical columns of text.
            time_column: Its name; None: `time`, or the index of times of a pandas frame. A frame
                that has neither is refused, since it is more often a mistake than meant as now.
            time_unit: Of times that are plain numbers.
            wait: As for `write_columnar`.
            timeout: As for `write_columnar`.

        Returns:
            The number of rows.

        Raises:
            UsageError: the frame cannot be sent.
            RefusedError: as for `write_columnar`. Requests before it were stored.
        """
        batches = self._engine.encoders.dataframe(df, measurement, tags, time_column, time_unit)
        return self._write(batches, wait, timeout)

    def write_records(
        self,
        records: Iterable[Mapping[str, Any]],
        measurement: str | None = None,
        *,
        time_unit: str | None = None,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """Send rows as dictionaries: `{"measurement", "timestamp", "tags", "fields"}`, or flat.

        Returns:
            The number of rows.

        Raises:
            UsageError: a row that cannot be sent.
            RefusedError: as for `write_columnar`.
        """
        batches = self._engine.encoders.records(records, measurement, time_unit)
        return self._write(batches, wait, timeout)

    def write_line_protocol(
        self,
        lines: str | bytes | Iterable[str],
        precision: str = "ns",
        *,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """Send InfluxDB line protocol as it is.

        Returns:
            The number of lines that hold a row.

        Raises:
            UsageError: an unknown precision.
            RefusedError: as for `write_columnar`.
        """
        batches = self._engine.encoders.lines(lines, precision)
        return self._write(batches, wait, timeout)

    def buffered(self, batch_size: int = 10_000, flush_interval: float = 5.0) -> BufferedWriter:
        """A writer with the names and behaviour of `arc-tsdb-client`'s."""
        from arc.client.buffered import BufferedWriter

        return BufferedWriter(self, batch_size, flush_interval)

    def _write(self, batches: Iterable[Batch], wait: bool, timeout: float | None) -> int:
        if not wait:
            return self._engine.put_unwatched(batches)
        ticket, deadline_s = Ticket(), _deadline(timeout)
        try:
            num_rows = self._engine.put_all(batches, ticket, deadline_s)
            self._wait_for(ticket, deadline_s, timeout)
        except BaseException:
            self._engine.outbox.withdraw(ticket)
            raise
        return num_rows

    def _wait_for(self, ticket: Ticket, deadline_s: float | None, timeout: float | None) -> None:
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        try:
            errors = ticket.future.result(left_s)
        except TimeoutError:
            errors = []
            if (error := self._engine.overdue(ticket, timeout or 0.0)) is not None:
                raise error from None
        if errors:
            raise together(errors)

    # ------------------------------------------------------------------------- all of them

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every row taken so far is acknowledged.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            Whether they are; False when the time ran out first.

        Raises:
            RefusedError: rows were refused since the last time, and there is no `on_error`.
        """
        is_done = self._engine.flush(_deadline(timeout))
        self._engine.reports.raise_kept()
        return is_done

    def checkpoint(self, timeout: float | None = None) -> bool:
        """Wait until every row taken so far is acknowledged or in the spill.

        After True this process may be killed: the next client with the same spill directory sends
        what was not acknowledged. Without a spill it is the same as `flush`.

        Raises:
            RefusedError: as `flush`.
        """
        is_done = self._engine.flush(_deadline(timeout), or_spilled=True)
        self._engine.reports.raise_kept()
        return is_done

    def close(self, timeout: float | None = None) -> bool:
        """Send what is queued, then end the threads and connections. A second call does nothing.

        Args:
            timeout: Seconds; None: the setting `close_timeout_s`.

        Returns:
            Whether every row was acknowledged. If not, the rest is in the spill, or comes back as
            `RefusedError` with `retryable`.

        Raises:
            RefusedError: as `flush`.
        """
        is_done = self._close(timeout)
        self._engine.reports.raise_kept()
        return is_done

    def _close(self, timeout: float | None) -> bool:
        atexit.unregister(self._close_at_exit)
        return self._engine.close(self.settings.close_timeout_s if timeout is None else timeout)

    def _close_at_exit(self) -> None:
        self._close(None)  # what is refused now has been logged

    def stats(self) -> Stats:
        """Counts of rows, batches and bytes, taken together."""
        return self._engine.stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ArcClientError as refusal:
            if error is None:
                raise
            error.add_note(f"while closing the client: {refusal}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.url!r}, database={self.settings.database!r})"


def _deadline(timeout: float | None) -> float | None:
    if timeout is None or timeout > threading.TIMEOUT_MAX / 2:  # math.inf: no lock takes it
        return None
    return time.monotonic() + timeout
