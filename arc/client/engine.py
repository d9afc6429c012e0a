"""What stands behind a client: intake, pump, outbox, senders and spill, wired in one place.

Threads start with the first row and end with `close`. A forked child starts anew, with none of its
parent's rows, threads, connections or keys.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arc.client.batch import Batch, Kind
from arc.client.encoders import Encoders
from arc.client.errors import ClosedError, UsageError
from arc.client.forks import FORKS
from arc.client.intake import Intake
from arc.client.isolation import Isolation
from arc.client.outbox import Outbox
from arc.client.refusal import RefusedError
from arc.client.reports import Reports, together
from arc.client.settings import Settings
from arc.client.stats import Stats
from arc.client.ticket import Ticket

if TYPE_CHECKING:
    from arc.client.pump import Pump
    from arc.client.rows import Dialect
    from arc.client.sender import Sender
    from arc.client.spill import Spill
    from arc.client.transport import Connection, Endpoint

CONTENT_TYPES = {
    Kind.MSGPACK: "application/msgpack",
    Kind.RECORDS: "application/msgpack",
    Kind.ARROW: "application/vnd.apache.arrow.stream",
    Kind.LINE_PROTOCOL: "text/plain; charset=utf-8",
}

#: The size of a block that is allocated and freed, once, before the first row of a client. The
#: allocator of glibc takes blocks above 128 KiB from the system page by page and gives them back
#: when they shrink, until it has seen a larger one freed: from then on it keeps as much for what
#: comes next, at most twice this. Lists of rows that grow and shrink took 27 page faults for 1 000
#: rows, 50 ns a row (docs/profiling/2026-11-20-client-rows.md). Its pages are never touched.
KEPT_BYTES = 4 << 20

#: How long `close` waits for a sender to notice that its connection is gone.
JOIN_S = 1.0


class Engine:
    """The moving parts of one client.

    Attributes:
        intake: Rows of calls.
        outbox: Batches.
        encoders: For the `write_*` verbs.
        reports: Refusals that nobody waits for.
        dialects: What was declared, by measurement.
        before_close: Called with a deadline by `close`, while rows are still taken: who collects
            rows in front of the client hands them over.
    """

    def __init__(
        self, settings: Settings, on_error: Callable[[RefusedError], None] | None, ssl_context: Any
    ) -> None:
        from arc.client.transport import Endpoint, encode_headers

        self._settings, self._ssl_context = settings, ssl_context
        self._endpoint: Endpoint = Endpoint.parse(settings.url)
        encode_headers(self._headers())  # a token that no header can carry is refused here
        self.reports = Reports(on_error, settings.max_queued_bytes)
        self.dialects: dict[str, Dialect] = {}
        self.before_close: list[Callable[[float | None], object]] = []
        self.intake = Intake(
            settings.max_queued_rows,
            settings.batch_rows,
            settings.linger_s,
            settings.when_full,
            self.start,
        )
        self.encoders = Encoders(settings, self.dialects)
        self._spill = self._opened_spill()
        self.outbox = Outbox(
            settings.max_queued_bytes, settings.when_full, self._spill, self.reports
        )
        self._pump: Pump | None = None
        self._is_starting = False
        self._senders: list[Sender] = []
        self._closing = threading.RLock()  # a signal handler may close what is closing
        self._outcome: bool | None = None
        self._new_identity()
        FORKS.follow(self)
        if self._take_recovered():
            self.start()

    def _new_identity(self) -> None:
        """Keys are 96 random bits of the client and a count: no two requests share one."""
        self._identity = os.urandom(12).hex()
        self._numbers = itertools.count()

    # ------------------------------------------------------------------------------- the spill

    def _opened_spill(self) -> Spill | None:
        if self._settings.spill_dir is None:
            return None
        from arc.client.spill import Spill

        os.makedirs(self._settings.spill_dir, 0o700, exist_ok=True)
        # One folder for each daemon: what was meant for one is never sent to another.
        folder = Path(self._settings.spill_dir) / _folder_of(self._endpoint)
        return Spill(folder, self._settings.spill_bytes, sync=self._settings.spill_sync)

    def _take_recovered(self) -> bool:
        found = False
        if self._spill is not None:
            for slot, batch in self._spill.recovered():
                self.outbox.put_recovered(slot, batch, Isolation())
                found = True
        return found

    # ------------------------------------------------------------------------------ the threads

    def start(self) -> None:
        """Start the threads, unless they run."""
        if self._pump is None:
            self._start_threads()

    def _start_threads(self) -> None:
        with self.intake.changed:
            # A signal handler that logs may come amid the first start, in the same thread.
            if self._pump is not None or self._is_starting:
                return
            self._is_starting = True
            try:
                self._start_all()
            finally:
                self._is_starting = False

    def _start_all(self) -> None:
        from arc.client.pump import Pump
        from arc.client.sender import Sender
        from arc.client.transport import default_ssl_context

        bytes(KEPT_BYTES)  # for the allocator to see it freed
        self._reopen_spill()
        if self._ssl_context is None and self._endpoint.scheme == "https":
            self._ssl_context = default_ssl_context()
        # One by one: a process with too many threads may start some, and the others later.
        while len(self._senders) < self._settings.connections:
            sender = Sender(self.outbox, self._connect, self._settings.give_up_s)
            sender.start()
            self._senders.append(sender)
        pump = Pump(
            self._settings, self.intake, self.outbox, self.reports, self.prepare, self.dialects
        )
        pump.start()
        self._pump = pump
        threads = [pump.thread, *(sender.thread for sender in self._senders)]
        self.intake.own_threads = frozenset(thread.ident for thread in threads)
        self._close_with_process()

    def _close_with_process(self) -> None:
        """Children of `multiprocessing` end without `atexit`: they have a list of their own."""
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(self, self.close, (self._settings.close_timeout_s,), exitpriority=0)

    def _reopen_spill(self) -> None:
        if self._spill is None and self._settings.spill_dir is not None:
            self._spill = self._opened_spill()
            self.outbox.use_spill(self._spill)
            self._take_recovered()

    def _connect(self) -> Connection:
        from arc.client.transport import Connection

        return Connection(
            self._endpoint,
            self._headers(),
            self._settings.connect_timeout_s,
            self._settings.timeout_s,
            self._ssl_context,
        )

    def _headers(self) -> tuple[tuple[str, str], ...]:
        agent = ("user-agent", "arc-client")
        if self._settings.token is None:
            return (agent,)
        return agent, ("authorization", f"Bearer {self._settings.token}")

    # ------------------------------------------------------------------------------ the batches

    def prepare(self, batch: Batch) -> Batch:
        """Make a batch ready to travel: its key, its database, its compression."""
        batch.key = f"{self._identity}-{next(self._numbers)}"
        batch.created_us = time.time_ns() // 1000
        headers = [
            *batch.headers,
            ("content-type", CONTENT_TYPES[batch.kind]),
            ("x-arc-database", self._settings.database),
        ]
        if self._compresses:
            from arc.client.compress import compress, encoding_of

            batch.body = compress(batch.body, self._settings.compress_bytes)
            if (encoding := encoding_of(batch.body)) is not None:
                headers.append(("content-encoding", encoding))
        batch.headers = tuple(headers)
        return batch

    @property
    def _compresses(self) -> bool:
        how = self._settings.compress
        return how == "always" or (how == "auto" and not self._endpoint.is_loopback)

    def put(
        self,
        batch: Batch,
        ticket: Ticket | None = None,
        deadline_s: float | None = None,
        isolation: Isolation | None = None,
        *,
        may_raise: bool = True,
    ) -> int:
        """Take a batch of a `write_*` call.

        Args:
            batch: Without its key.
            ticket: Told when the batch is settled.
            deadline_s: On the monotonic clock: wait for room until then.
            isolation: Its rows are of callers that know nothing of each other.
            may_raise: Under `when_full="raise"`: rather raise than wait.

        Returns:
            Its rows.

        Raises:
            ClosedError: the client is closed.
            QueueFullError: no room, under `when_full="raise"`.
            TimeoutError: no room before the deadline.
        """
        if self.intake.is_closed:
            raise ClosedError
        self.start()
        prepared = self.prepare(batch)
        self.outbox.put(
            prepared,
            ticket=ticket,
            isolation=isolation,
            deadline_s=deadline_s,
            may_raise=may_raise,
        )
        return batch.rows

    def put_all(self, batches: Iterable[Batch], ticket: Ticket, deadline_s: float | None) -> int:
        """Take all batches of one call, and seal its ticket.

        Returns:
            Their rows.

        Raises:
            RefusedError: one found no room in time, or the client was closed meanwhile; it has
                those before it in `others`, which are not sent any more.
            ClosedError: as `put`, for the first.
            QueueFullError: as `put`, for the first. A call that has begun waits for the others.
        """
        num_rows = 0
        for batch in batches:
            try:
                num_rows += self.put(batch, ticket, deadline_s, may_raise=not num_rows)
            except (TimeoutError, ClosedError) as error:
                if isinstance(error, ClosedError) and not num_rows:
                    raise
                words = "no room among what waits, in the time set"
                words = words if isinstance(error, TimeoutError) else str(error)
                refusal = RefusedError(words, batch, retryable=True)
                raise together([refusal, *self._taken_back(ticket, words)]) from None
        ticket.seal()
        return num_rows

    def put_unwatched(self, batches: Iterable[Batch]) -> int:
        """Take all batches of a call that does not wait for the answers.

        Returns:
            Their rows.

        Raises:
            ClosedError: as `put`.
            QueueFullError: as `put`, for the first. A call that has begun waits for the others.
        """
        num_rows = 0
        for batch in batches:
            num_rows += self.put(batch, may_raise=not num_rows)
        return num_rows

    def overdue(self, ticket: Ticket, timeout: float) -> RefusedError | None:
        """Take back what a call no longer waits for.

        Returns:
            The error to raise; None: all of it was acknowledged in the last moment.
        """
        words = f"not acknowledged within {timeout:g} s"
        if (last := self.outbox.counts.last_error) is not None:
            words += f"; the last failure: {last}"
        errors = self._taken_back(ticket, words)
        return together(errors) if errors else None

    def _taken_back(self, ticket: Ticket, words: str) -> list[RefusedError]:
        """What was refused of a call before, and what is not settled, which is sent no more."""
        taken_back = self.outbox.withdraw(ticket)
        errors = ticket.errors()
        told = {id(error.batch) for error in errors}
        return errors + [
            RefusedError(words, batch, retryable=True, in_doubt=in_doubt)
            for batch, in_doubt in taken_back
            if id(batch) not in told
        ]

    # --------------------------------------------------------------------------- all of them

    def flush(self, deadline_s: float | None, *, or_spilled: bool = False) -> bool:
        """Whether all that was taken before is settled (or on disk) by the deadline.

        Raises:
            UsageError: called by `on_error`, in a thread that it would wait for.
        """
        self._check_thread("flush")
        if self._outcome is not None:
            return self._outcome
        if self._pump is None and not self.intake.waiting_rows():
            return True
        if not self.intake.drain(deadline_s):
            return False
        return self.outbox.wait_settled(deadline_s, or_spilled=or_spilled)

    def close(self, timeout_s: float) -> bool:
        """Send what is queued, end the threads, give back what is left.

        Returns:
            Whether everything was settled.

        Raises:
            UsageError: as `flush`.
        """
        self._check_thread("close")
        with self._closing:
            if self._outcome is None:
                self._send_rest(time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX / 2))
            if self._outcome is None:  # unless a signal handler has come to the end of it
                self._outcome = False  # for who asks in `on_error`, in this thread
                self._outcome = self._end()
            return self._outcome

    def _send_rest(self, deadline_s: float) -> None:
        for flush in list(self.before_close):
            flush(deadline_s)
        self.intake.close()
        is_idle = self._pump is None and not self.intake.waiting_rows()
        if self._outcome is None and not is_idle and self.intake.drain(deadline_s):
            self.outbox.wait_settled(deadline_s)

    def _check_thread(self, verb: str) -> None:
        if threading.get_ident() in self.intake.own_threads:
            raise UsageError(f"{verb}: on_error must not wait for the client that calls it")

    def _end(self) -> bool:
        self.outbox.stop()
        for sender in self._senders:
            sender.stop()
        if self._pump is not None:
            # It turns what is left into batches, which find their way to disk or back.
            self._pump.thread.join()
        for sender in self._senders:
            sender.thread.join(JOIN_S)
        if self._pump is not None:
            self._pump.run_once()  # rows of calls that had been let in when the client closed
        self.intake.own_threads = frozenset()  # others may have these identifiers now
        is_settled = self.outbox.give_back()
        if self._spill is not None:
            self._spill.close()
        return is_settled

    def stats(self) -> Stats:
        """All counts, taken together."""
        with self.intake.changed, self.outbox.changed:
            counts = self.outbox.counts
            waiting = self.intake.waiting_rows()
            rows, batches, num_bytes = self.outbox.queued()
            return Stats(
                taken_rows=self.intake.taken_rows + waiting + counts.written_rows,
                queued_rows=waiting + self.intake.taken_rows - counts.pumped_rows + rows,
                queued_batches=batches,
                queued_bytes=num_bytes,
                sent_rows=counts.sent_rows,
                acknowledged_rows=counts.acknowledged_rows,
                retried_batches=counts.retried_batches,
                spilled_rows=counts.spilled_rows,
                spilled_bytes=0 if self._spill is None else self._spill.num_bytes,
                recovered_rows=counts.recovered_rows,
                dropped_rows=counts.dropped_rows,
                refused_rows=counts.refused_rows,
                last_error=counts.last_error,
            )

    # ------------------------------------------------------------------------------- forking

    def before_fork(self) -> None:
        """Hold every lock, so that the child gets no half-done change."""
        self.intake.changed.acquire()
        self.outbox.changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.outbox.changed.release()
        self.intake.changed.release()

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's: rows, batches, threads, sockets, spill, keys."""
        for sender in self._senders:
            sender.abandon()
        if self._spill is not None:
            self._spill.abandon()
        self._pump, self._senders, self._spill = None, [], None
        self._is_starting = False
        self.intake.forget()
        self.outbox.forget()
        self.reports.forget()
        self._closing = threading.RLock()
        self._new_identity()


def _folder_of(endpoint: Endpoint) -> str:
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", f"{endpoint.scheme}-{endpoint.host}-{endpoint.port}")
    exact = f"{endpoint.scheme} {endpoint.host} {endpoint.port} {endpoint.prefix}"
    return f"{readable[:80]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
