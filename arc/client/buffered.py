"""A writer with the names and behaviour of `arc-tsdb-client`'s, on top of the client.

In: records and columns, a few at a time. Out: batches of `batch_size` rows, handed to the client,
which sends them until they are acknowledged. Rows wait here until there are enough of their
measurement, or until the first of them has waited `flush_interval` seconds; a thread looks after
that, no further call is needed. A row that was taken is never dropped: it is here, with the client,
stored, or in a `RefusedError`. docs/client.md lists what differs from the other client's writer.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.errors import ArcClientError, ClosedError, QueueFullError, UsageError
from arc.client.forks import FORKS
from arc.client.isolation import Isolation
from arc.client.records import Collector, Group, Reader, encode_groups, halves
from arc.client.refusal import RefusedError
from arc.client.reports import LOGGER, together
from arc.client.ticket import Ticket

if TYPE_CHECKING:
    from concurrent.futures import Future

    from arc.client.engine import Engine
    from arc.client.settings import Settings

T = TypeVar("T")


class Sends(Protocol):
    """What a writer needs of a `Client`."""

    settings: Settings
    _engine: Engine


class SendsInThreads(Protocol):
    """What a writer needs of an `AsyncClient`."""

    _client: Any

    async def _in_thread(self, call: Callable[[], T]) -> T: ...


class BufferedWriter:
    """Collects rows and sends many at once. Any thread may use it.

    Made by `Client.buffered`; use it in a `with` block, or call `close`.
    """

    def __init__(
        self, client: Sends, batch_size: int = 10_000, flush_interval: float = 5.0
    ) -> None:
        """Start with nothing collected.

        Args:
            client: Sends what was collected.
            batch_size: Rows of one measurement that are sent at once.
            flush_interval: The longest that a row waits for others, seconds.

        Raises:
            UsageError: a bound that is none.
        """
        if not batch_size >= 1:
            raise UsageError(f"batch_size: found {batch_size!r}, wanted at least 1")
        if not flush_interval >= 0:
            raise UsageError(f"flush_interval: found {flush_interval!r}, wanted seconds")
        self._engine, self._settings = client._engine, client.settings
        self._batch_size, self._flush_interval_s = batch_size, float(flush_interval)
        self._start_empty()
        FORKS.follow(self)
        atexit.register(self._close_at_exit)
        self._engine.before_close.append(self._flush)

    def _start_empty(self) -> None:
        self._changed = threading.Condition()  # guards what follows, but for the last three
        self._collector = Collector(Reader(dialects=self._engine.dialects))
        self._columns: dict[str, list[Batch]] = {}  # by measurement, encoded
        self._oldest_s: float | None = None  # when the first of the rows came
        self._ready: deque[Batch] = deque()  # encoded, and not with the client yet
        self._errors: list[RefusedError] = []  # to be raised
        self._is_closed = self._is_left = False
        self._sending = threading.RLock()  # of who hands over; taken before _changed
        self._tickets: list[Ticket] = []  # of what is with the client; guarded by _sending
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------- taking rows

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record, `{"measurement", "timestamp", "fields", "tags"}`, or a flat one.

        Sends the rows of its measurement once they are `batch_size`, without waiting for the
        answer.

        Args:
            record: As for `Client.write_records`; copied.

        Raises:
            UsageError: the record cannot be sent. It was not taken.
            QueueFullError: the client has no room, and is told to raise then. It was not taken.
            ClosedError: the writer or its client is closed. It was not taken.
            RefusedError: rows written earlier were refused; it carries them. The record was taken.
        """
        if self.must_wait:
            self.make_room()
        full = self.take(record)
        if full is not None:
            self.offer(full)
        self.raise_refused()

    @property
    def must_wait(self) -> bool:
        """Whether the client had no room for what is here."""
        return bool(self._ready)

    def make_room(self) -> None:
        """Wait for it, or raise, as the client is told to."""
        self._hand_over(None)

    def take(self, record: Mapping[str, Any]) -> str | None:
        """Add a record; the measurement that is to be sent now, if one is."""
        with self._changed:
            if self._is_closed or self._engine.intake.is_closed:
                raise ClosedError
            measurement = self._collector.add(record)
            self._notice()
            return measurement if self._count(measurement) >= self._batch_size else None

    def write_columnar(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        *,
        tags: Iterable[str] | Mapping[str, str] = (),
        time_unit: str | None = None,
    ) -> None:
        """Take columns of equal length; arguments and errors as for `Client.write_columnar`.

        Columns are encoded now, and sent with what else there is of their measurement.
        """
        full = self._take_columns(measurement, columns, tags, time_unit)
        if full is not None:
            self.offer(full)
        self.raise_refused()

    def _take_columns(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        tags: Iterable[str] | Mapping[str, str],
        time_unit: str | None,
    ) -> str | None:
        if not columns:
            return None
        if self.must_wait:
            self.make_room()
        batches = list(self._engine.encoders.columnar(measurement, columns, tags, time_unit))
        with self._changed:
            if self._is_closed or self._engine.intake.is_closed:
                raise ClosedError
            self._columns.setdefault(measurement, []).extend(batches)
            self._notice()
            return measurement if self._count(measurement) >= self._batch_size else None

    def _count(self, measurement: str) -> int:
        columnar = sum(batch.rows for batch in self._columns.get(measurement, ()))
        return columnar + self._collector.counts.get(measurement, 0)

    def _notice(self) -> None:
        """Rows have come: see that they do not wait for too long."""
        if self._oldest_s is None:
            self._oldest_s = time.monotonic()
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="arc-client-buffer", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------------------ sending them

    def offer(self, measurement: str) -> None:
        """Send the rows of one measurement; they stay here if the client does not take them now."""
        with suppress(QueueFullError, ClosedError):  # the next call says so before it takes a row
            self._send(measurement)

    def _send(self, measurement: str | None, deadline_s: float | None = None) -> None:
        """Hand the rows of one measurement to the client, or all.

        Raises:
            QueueFullError: the client takes no more; the rest stays here.
            ClosedError: the same.
        """
        with self._sole_sender(deadline_s):
            with self._changed:
                groups = self._collector.take(measurement)
                names = list(self._columns) if measurement is None else [measurement]
                columns = [b for name in names for b in self._columns.pop(name, ())]
                if not self._collector.counts and not self._columns:
                    self._oldest_s = None
            batches = merged(columns, self._batch_size, self._settings.batch_bytes)
            while groups:
                first, groups = halves(groups, self._batch_size)
                batches += self._encoded(first)
            with self._changed:
                self._ready += batches
            try:
                self._hand_over(deadline_s)
            except BaseException:
                with self._changed:
                    self._notice()  # the thread tries again
                raise

    @contextmanager
    def _sole_sender(self, deadline_s: float | None) -> Iterator[None]:
        """Hold `_sending`; TimeoutError when another thread holds it for too long."""
        left_s = -1.0 if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if not self._sending.acquire(timeout=left_s):
            raise TimeoutError
        try:
            yield
        finally:
            self._sending.release()

    def _encoded(self, groups: list[Group]) -> list[Batch]:
        """Batches; a row that cannot be encoded is refused alone."""
        try:
            return list(encode_groups(groups, self._settings.batch_bytes))
        except UsageError as error:
            num_rows = sum(map(len, groups))
            if num_rows == 1:
                self._refuse(groups[0], error)
                return []
        return [batch for half in halves(groups, num_rows // 2) for batch in self._encoded(half)]

    def _refuse(self, group: Group, error: UsageError) -> None:
        batch = Batch(Kind.MSGPACK, WRITE_MSGPACK, (), b"", 1, group.measurement)
        self._keep(RefusedError(str(error), batch, rows=[group.row(0)]))

    def _hand_over(self, deadline_s: float | None) -> None:
        with self._sole_sender(deadline_s):
            self._tickets = [t for t in self._tickets if t.is_left or not t.future.done()]
            while self._ready:
                ticket = Ticket()
                # A copy: what found no room is offered again as it is.
                self._put(joined([self._ready[0]]), ticket, deadline_s)
                with self._changed:
                    self._ready.popleft()
                self._tickets.append(ticket)
                ticket.future.add_done_callback(self._settled)
                ticket.seal()

    def _put(self, batch: Batch, ticket: Ticket, deadline_s: float | None) -> None:
        """As `Engine.put`, for rows of callers that know nothing of each other."""
        self._engine.put(batch, ticket, deadline_s, Isolation())

    def _settled(self, future: Future[list[RefusedError]]) -> None:
        """In the thread that has settled a batch."""
        for error in future.result():
            self._keep(error)

    def _keep(self, error: RefusedError) -> None:
        """Have the next call raise it; after the last one it is the client's to report."""
        with self._changed:
            if not self._is_left:
                self._errors.append(error)
                return
        self._engine.reports.refused(error)

    def raise_refused(self) -> None:
        """Raise what was refused since the last time."""
        if not self._errors:
            return
        with self._changed:
            errors, self._errors = self._errors, []
        if errors:
            raise together(errors)

    # -------------------------------------------------------------------- the writer's thread

    def _run(self) -> None:
        while self._wait_until_due():
            try:
                self._send(None)
            except QueueFullError:
                self._wait_for_room()
            except ArcClientError:
                return  # the client is closed: the next call says so

    def _wait_until_due(self) -> bool:
        """Return when rows have waited long enough; False: the writer is closed and has none."""
        with self._changed:
            while True:
                left_s = None
                if self._is_closed and self._oldest_s is None:
                    self._thread = None  # should rows come back, another one is started
                    return False
                if self._is_closed:
                    return True
                if self._oldest_s is not None:
                    left_s = self._oldest_s + self._flush_interval_s - time.monotonic()
                    if left_s <= 0:
                        return True
                self._changed.wait(left_s)

    def _wait_for_room(self) -> None:
        self._engine.flush(time.monotonic() + max(1.0, self._flush_interval_s))

    # --------------------------------------------------------------------------- all of them

    def flush(self, timeout: float | None = None) -> bool:
        """Send everything, and wait until it is acknowledged.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            Whether it is; False when the time ran out: the client goes on trying.

        Raises:
            RefusedError: rows were refused; it carries them.
            ClosedError: the client is closed, and rows are left here.
        """
        is_done = self._flush(None if timeout is None else time.monotonic() + timeout)
        self.raise_refused()
        return is_done

    def _flush(self, deadline_s: float | None) -> bool:
        while True:
            try:
                self._send(None, deadline_s)
                break
            except QueueFullError:
                if not self._engine.flush(deadline_s):
                    return False
            except TimeoutError:
                return False
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        tickets = list(self._tickets)
        is_done = not wait([ticket.future for ticket in tickets], left_s).not_done
        return is_done and not any(ticket.is_left for ticket in tickets)

    def close(self, timeout: float | None = None) -> bool:
        """Flush, and take no more rows. A second call does nothing.

        Args:
            timeout: Seconds; None: the client's `close_timeout_s`.

        Returns:
            Whether everything is acknowledged. If not, the client goes on trying, and what it has
            to report goes the way of `Client.log`: to `on_error`, or out of its `flush`.

        Raises:
            RefusedError: as `flush`. The writer is closed.
            ClosedError: as `flush`. The writer is closed.
        """
        with self._changed:
            if self._is_closed:
                return True
            self._is_closed = True
            self._changed.notify_all()
        atexit.unregister(self._close_at_exit)
        given_s = self._settings.close_timeout_s if timeout is None else timeout
        is_done = self._flush(time.monotonic() + given_s)
        try:
            self.raise_refused()
        finally:
            self._leave_to_client()
            self._engine.before_close.remove(self._flush)
        return is_done

    def _leave_to_client(self) -> None:
        """What is refused from now on, nobody waits for."""
        with self._changed:
            self._is_left = True

    def _close_at_exit(self) -> None:
        logger = logging.getLogger(LOGGER)
        try:
            self.close()
        except ArcClientError as error:
            logger.error("at the end of the process: %s", error)
        if self.pending_count:
            logger.error("%d rows of a buffered writer were not sent", self.pending_count)

    def before_fork(self) -> None:
        """Nothing: in the child all is made anew."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """The rows are the parent's."""
        flags = self._is_closed, self._is_left
        self._start_empty()
        self._is_closed, self._is_left = flags

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
            error.add_note(f"while closing the writer: {refusal}")

    @property
    def pending_count(self) -> int:
        """Rows that are not with the client yet."""
        return sum(self.pending_measurements.values())

    @property
    def pending_measurements(self) -> dict[str, int]:
        """Rows that are not with the client yet, by measurement."""
        with self._changed:
            names = dict.fromkeys((*self._collector.counts, *self._columns))
            found = {name: self._count(name) for name in names}
            for batch in self._ready:
                found[batch.what] = found.get(batch.what, 0) + batch.rows
            return found


class AsyncBufferedWriter:
    """`BufferedWriter` for asyncio: no call holds the event loop up.

    Made by `AsyncClient.buffered`; use it in an `async with` block, or await `close`.
    """

    def __init__(
        self, client: SendsInThreads, batch_size: int = 10_000, flush_interval: float = 5.0
    ) -> None:
        """Arguments and errors as for `BufferedWriter`."""
        self._writer = BufferedWriter(client._client, batch_size, flush_interval)
        self._in_thread = client._in_thread

    async def write(self, record: Mapping[str, Any]) -> None:
        """As `BufferedWriter.write`."""
        writer = self._writer
        if writer.must_wait:
            await self._in_thread(writer.make_room)
        full = writer.take(record)
        if full is not None:
            await self._in_thread(lambda: writer.offer(full))
        writer.raise_refused()

    async def write_columnar(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        *,
        tags: Iterable[str] | Mapping[str, str] = (),
        time_unit: str | None = None,
    ) -> None:
        """As `BufferedWriter.write_columnar`."""
        writer = self._writer
        await self._in_thread(
            lambda: writer.write_columnar(measurement, columns, tags=tags, time_unit=time_unit)
        )

    async def flush(self, timeout: float | None = None) -> bool:
        """As `BufferedWriter.flush`."""
        return await self._in_thread(lambda: self._writer.flush(timeout))

    async def close(self, timeout: float | None = None) -> bool:
        """As `BufferedWriter.close`."""
        return await self._in_thread(lambda: self._writer.close(timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except ArcClientError as refusal:
            if error is None:
                raise
            error.add_note(f"while closing the writer: {refusal}")

    @property
    def pending_count(self) -> int:
        """As `BufferedWriter.pending_count`."""
        return self._writer.pending_count

    @property
    def pending_measurements(self) -> dict[str, int]:
        """As `BufferedWriter.pending_measurements`."""
        return self._writer.pending_measurements


def merged(batches: Iterable[Batch], batch_rows: int, batch_bytes: int) -> list[Batch]:
    """Fewer batches with the same rows: bodies of MessagePack maps may follow one another."""
    found: list[list[Batch]] = []
    rows = size = 0
    for batch in batches:
        rows, size = rows + batch.rows, size + len(batch.body)
        if (
            found
            and rows <= batch_rows
            and size <= batch_bytes
            and _go_together(found[-1][0], batch)
        ):
            found[-1].append(batch)
        else:
            found.append([batch])
            rows, size = batch.rows, len(batch.body)
    return [joined(group) for group in found]


def _go_together(one: Batch, other: Batch) -> bool:
    kinds = one.kind is Kind.MSGPACK and other.kind is Kind.MSGPACK
    return kinds and (one.target, one.headers) == (other.target, other.headers)


def joined(batches: list[Batch]) -> Batch:
    """One batch of the rows of several, which are left as they are."""
    first = batches[0]
    names = {batch.what for batch in batches}
    what = first.what if len(names) == 1 else f"{len(names)} measurements"
    body = first.body if len(batches) == 1 else b"".join(batch.body for batch in batches)
    rows = sum(batch.rows for batch in batches)
    return Batch(first.kind, first.target, first.headers, body, rows, what)
