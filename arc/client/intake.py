"""Rows on their way from a call to the pump: flat lists without a lock, and who may add to them.

A hot call compares the length of its list with a mark and extends the list by one row; both are
single steps under the interpreter's lock, so rows of many threads never mix and none is lost when
the pump cuts a prefix off. Below its mark a queue needs no permission. At the mark the call comes
here, where the pump is woken and more rows are granted, or the caller waits, or is refused. What
the pump cuts off it gets turned round: a list for each place of a row.

Never converts a value and never sees a socket.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from arc.client.errors import ClosedError, QueueFullError
from arc.client.settings import Policy

#: How often a pump without work looks whether it has missed any: a call that was stopped between
#: its look at the mark and its row would otherwise wait for the next call.
IDLE_S = 1.0

#: Queues that are granted rows at the same time, before anything is taken back.
SHARES = 8


#: The values at each place of some rows: lists of one length.
Places = list[list[Any]]


def by_place(rows: list[Any], stride: int, stop: int | None = None) -> Places:
    """What stands at each place of the rows that end before `stop`, a list for each."""
    return [rows[place:stop:stride] for place in range(stride)]


class RowQueue:
    """Rows of one length, one after another in one flat list.

    Attributes:
        rows: `stride` places a row. Appended to by any thread, cut from the front by the pump.
        stride: Places of one row.
        mark: Length of `rows` at which a call has to ask; 0 while nobody looks at the queue.
        context: What the pump needs to encode the rows: the `Shape` of those of handles, the number
            of values of those of `Client.log`.
        notice: Asks for permission to add a row; may wait, or raise.
    """

    __slots__ = ("context", "mark", "notice", "rows", "stride")

    def __init__(self, stride: int, context: Any, admit: Callable[[RowQueue], None]) -> None:
        self.rows: list[Any] = []
        self.stride, self.context, self.mark = stride, context, 0
        self.notice: Callable[[], None] = lambda: admit(self)


class Intake:
    """All queues of a client, and the account of rows granted to them.

    Attributes:
        changed: Guards the marks and all that follows here. Rows are added without it.
        taken_rows: Rows that the pump has cut off so far.
        own_threads: Identifiers of the client's threads, which must not wait for each other.
    """

    def __init__(
        self,
        max_rows: int,
        batch_rows: int,
        linger_s: float,
        policy: Policy,
        start: Callable[[], None],
    ) -> None:
        """Start with no queue and no thread.

        Args:
            max_rows: Rows that may wait in all queues together.
            batch_rows: Rows that are worth a request: they wake the pump.
            linger_s: How long the pump lets rows collect.
            policy: What a call does when `max_rows` wait.
            start: Starts the threads if they do not run; called under the lock.
        """
        self.changed = threading.Condition()
        self._known: dict[RowQueue, None] = {}
        self.taken_rows = 0
        self.own_threads: frozenset[int | None] = frozenset()
        self._max_rows = self._row_cap = max_rows
        self._batch_rows, self._linger_s, self._policy = batch_rows, linger_s, policy
        self._start = start
        self._granted = 0  # sum of the marks, in rows
        self._is_pending = self._is_urgent = self._is_closed = self._is_over = False
        self._asked = self._drained = 0
        self._room_calls: list[Callable[[], object]] = []

    def add_queue(self, stride: int, context: Any = None) -> RowQueue:
        """A new queue for rows of `stride` places; it costs nothing before its first row."""
        return RowQueue(stride, context, self.admit)

    @property
    def queues(self) -> tuple[RowQueue, ...]:
        """Every queue that a row came to, for the client's life."""
        return tuple(self._known)  # one step: a signal handler that logs may add one meanwhile

    # ------------------------------------------------------------------------- for producers

    def admit(self, queue: RowQueue) -> None:
        """Let the caller add one row to a queue that has reached its mark.

        Raises:
            QueueFullError: under the policy `raise`, when the rows that wait are too many.
            ClosedError: the client is closed.
        """
        with self.changed:
            while not self._grant(queue):
                if self._policy == "raise":
                    raise QueueFullError(self.waiting_rows(), self._row_cap, "rows")
                if threading.get_ident() in self.own_threads:
                    return  # `on_error` logs: a row too many, not a thread that waits for itself
                self.changed.wait(IDLE_S)

    def overshoot(self, queue: RowQueue) -> bool:
        """As `admit` without waiting.

        Returns:
            Whether there is room; if not, the caller adds its row all the same, and waits after it.
        """
        with self.changed:
            if self._grant(queue):
                return True
            if self._policy == "raise":
                raise QueueFullError(self.waiting_rows(), self._row_cap, "rows")
            return False

    def when_room(self, call: Callable[[], object]) -> None:
        """Have it called, once and under the lock, when fewer rows wait than may, or at the close.

        It may be now. It must not wait.
        """
        with self.changed:
            self._room_calls.append(call)
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        if self._room_calls and (self._is_closed or self.waiting_rows() < self._row_cap):
            calls, self._room_calls = self._room_calls, []
            for call in calls:
                call()

    def _grant(self, queue: RowQueue) -> bool:
        if self._is_closed:
            raise ClosedError
        self._known[queue] = None
        self._wake(queue)
        if len(queue.rows) < queue.mark:
            return True
        if self._granted >= self._row_cap:
            self._take_back()
        free = self._row_cap - self._granted
        if free <= 0:
            if not self._is_urgent:  # a pump that lingers would keep all waiting till the end of it
                self._is_urgent = True
                self.changed.notify_all()
            return False
        # A share for each queue: to take back what was granted, all of them are looked at.
        more = min(self._batch_rows, max(1, free // max(SHARES, len(self._known))))
        self._set_mark(queue, max(queue.mark, len(queue.rows)) + more * queue.stride)
        return True

    def _wake(self, queue: RowQueue) -> None:
        self._start()
        is_urgent = self._is_urgent or len(queue.rows) >= self._batch_rows * queue.stride
        if is_urgent != self._is_urgent or not self._is_pending:
            self._is_urgent, self._is_pending = is_urgent, True
            self.changed.notify_all()

    def _take_back(self) -> None:
        """What was granted and is not used may be granted to another queue."""
        for queue in self.queues:
            self._set_mark(queue, len(queue.rows))
        # A signal handler that logs may have come between two lines of `_set_mark`.
        self._granted = sum(queue.mark // queue.stride for queue in self.queues)

    def _set_mark(self, queue: RowQueue, mark: int) -> None:
        self._granted += mark // queue.stride - queue.mark // queue.stride
        queue.mark = mark

    def waiting_rows(self) -> int:
        """Rows in all queues now."""
        return sum(len(queue.rows) // queue.stride for queue in self.queues)

    # ------------------------------------------------------------------------ for the pump

    def wait_for_work(self) -> bool:
        """Return when rows have collected long enough; False: closed, and nothing is left."""
        with self.changed:
            while not (self._is_pending or self._is_urgent or self._is_closed):
                self.changed.wait(IDLE_S)
                if self._is_left():
                    self._is_pending = True
            due_s = time.monotonic() + self._linger_s
            while not (self._is_urgent or self._is_closed):
                if not self.changed.wait(due_s - time.monotonic()):
                    break
            self._is_urgent = self._is_pending = False
            self._is_over = self._is_closed and self._asked == self._drained and not self._is_left()
            return not self._is_over

    def _is_left(self) -> bool:
        return any(queue.rows for queue in self.queues)

    def begin_round(self) -> tuple[int, list[tuple[RowQueue, int]]]:
        """Which drain this round answers, and how many rows of each queue it takes."""
        with self.changed:
            return self._asked, [(q, len(q.rows) // q.stride) for q in self.queues if q.rows]

    def take(self, queue: RowQueue, num_rows: int) -> Places:
        """Cut the oldest rows off a queue.

        Returns:
            By place, values of at most `num_rows` rows. While the caller has them, none dies that
            may have a destructor of its own, which must not run under the lock.
        """
        # HOT, once per row: turned round at once, a row costs 15 ns less than copied as a prefix
        # first, out of which columns are cut (docs/profiling/2026-11-20-client-rows.md). Only the
        # pump cuts, so that what it sees does not change outside the lock.
        size = min(len(queue.rows), num_rows * queue.stride)
        taken = by_place(queue.rows, queue.stride, size)
        with self.changed:
            # The mark first: a call between the two lines asks once too often, not too rarely.
            self._set_mark(queue, max(0, queue.mark - size))
            del queue.rows[:size]
            self.taken_rows += size // queue.stride
            self._tell_of_room()
            self.changed.notify_all()
        return taken

    def end_round(self, drain: int) -> None:
        """Everything that waited when the round began is with the outbox now."""
        with self.changed:
            self._drained = max(self._drained, drain)
            for queue in self.queues:
                if not queue.rows:
                    self._set_mark(queue, 0)
                elif not self._is_pending:
                    self._is_pending = True
            self.changed.notify_all()

    def learn_row_bytes(self, row_bytes: float, max_bytes: int) -> None:
        """Fewer rows may wait when they are large: `max_bytes` at their encoded size."""
        with self.changed:
            fit = int(max_bytes / max(row_bytes, 1.0))
            self._row_cap = max(1, min(self._max_rows, fit))

    # ---------------------------------------------------------------------- for the client

    def drain(self, deadline_s: float | None) -> bool:
        """Have the pump take all rows that wait now.

        Args:
            deadline_s: On the monotonic clock; None waits as long as it takes.

        Returns:
            Whether it has, in time.
        """
        with self.changed:
            self._asked += 1
            mine, self._is_urgent = self._asked, True
            self._start()
            self.changed.notify_all()
            # A pump that ended between `close` and this had left nothing.
            while self._drained < mine and not self._is_over:
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return False
                self.changed.wait(left_s)
            return True

    def close(self) -> None:
        """Take no row from now on."""
        with self.changed:
            self._is_closed = True
            for queue in self.queues:
                self._set_mark(queue, 0)
            self._tell_of_room()
            self.changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether rows are still taken."""
        return self._is_closed

    def forget(self) -> None:
        """In a forked child: the rows are the parent's, the queues stay, nobody waits."""
        self.changed = threading.Condition()
        for queue in self.queues:
            queue.rows.clear()
            queue.mark = 0
        self._granted = self.taken_rows = 0
        self._asked = self._drained = 0
        self._is_pending = self._is_urgent = self._is_over = False
        self._room_calls = []
        self.own_threads = frozenset()  # the child's threads may get the same identifiers
