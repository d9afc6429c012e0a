"""Batches between their making and their acknowledgement: bounded memory, nothing lost.

In: encoded batches, from the pump and from callers that write columns. Out: one at a time, to the
senders, until each is settled. With a spill every batch is on disk before it may be sent, and the
disk, not memory, is the bound. Never encodes, never opens a connection.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from arc.client.batch import Batch, Kind
from arc.client.errors import ClosedError, QueueFullError, SpillError
from arc.client.refusal import RefusedError
from arc.client.settings import Policy
from arc.client.stats import Counts
from arc.client.ticket import Ticket

if TYPE_CHECKING:
    from arc.client.isolation import Isolation
    from arc.client.reports import Reports
    from arc.client.spill import Slot, Spill

#: How often a batch that found the disk full tries it again, should no batch be settled before.
SPILL_AGAIN_S = 0.5


class Entry:
    """A batch that is not settled.

    Attributes:
        batch: None while its body is only on disk.
        slot: Where it is on disk; None when it is only in memory.
        ticket: Of the call that waits for it, if one does.
        isolation: May be taken apart when it is refused, and how often.
        seq: Grows with every entry.
        order: The `seq` of the batch that it is a part of, or its own.
        rows: Rows in it.
        size: Bytes of its body.
        first_failed_s: On the monotonic clock, when it failed first.
        was_sent: An attempt was begun.
        is_out: An attempt is under way.
        is_settled: What became of its rows is decided; nothing decides it again.
    """

    __slots__ = (
        "batch",
        "first_failed_s",
        "is_out",
        "is_settled",
        "isolation",
        "order",
        "rows",
        "seq",
        "size",
        "slot",
        "ticket",
        "was_sent",
    )

    def __init__(
        self,
        batch: Batch,
        slot: Slot | None,
        ticket: Ticket | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self.batch: Batch | None = batch
        self.slot, self.ticket, self.isolation = slot, ticket, isolation
        self.rows, self.size = batch.rows, len(batch.body)
        self.seq = self.order = 0
        self.first_failed_s: float | None = None
        self.was_sent = self.is_out = self.is_settled = False

    @property
    def in_doubt(self) -> bool:
        """It may have been stored, as far as is known now."""
        return self.is_out or (self.batch is not None and self.batch.in_doubt)

    @property
    def is_withdrawn(self) -> bool:
        """The caller has its rows back."""
        return self.ticket is not None and self.ticket.is_withdrawn


class Outbox:
    """The queue of batches.

    Attributes:
        changed: Guards everything in here. Files are read and written without it.
        counts: What became of rows.
    """

    def __init__(
        self, max_bytes: int, policy: Policy, spill: Spill | None, reports: Reports
    ) -> None:
        self.changed = threading.Condition()
        self.counts = Counts()
        self._max_bytes, self._policy, self._spill = max_bytes, policy, spill
        self._reports = reports
        self._waiting: deque[Entry] = deque()
        self._unsettled: dict[int, Entry] = {}  # by seq, oldest first
        self._seq = self._bytes = 0
        self._is_stopped = self._is_ended = False

    # ----------------------------------------------------------------------------- coming in

    def put(
        self,
        batch: Batch,
        *,
        ticket: Ticket | None = None,
        isolation: Isolation | None = None,
        deadline_s: float | None = None,
        may_raise: bool = False,
        is_pumped: bool = False,
    ) -> None:
        """Take a batch; waits for room.

        Args:
            batch: With its key.
            ticket: Told when the batch is settled.
            isolation: The batch may be taken apart when it is refused.
            deadline_s: On the monotonic clock: wait for room until then.
            may_raise: Under the policy `raise`: rather raise than wait.
            is_pumped: Its rows came through the intake.

        Raises:
            QueueFullError: no room, and the policy is `raise`. Nothing was taken.
            TimeoutError: no room in time, or the ticket was withdrawn. Nothing was taken.
            ClosedError: nobody would send it any more. Nothing was taken.
        """
        entry: Entry | None = None
        while entry is None:
            slot = None if self._is_ended else self._spilled(batch)
            dropped: list[Entry] = []
            with self.changed:
                if self._is_ended:
                    break
                if slot is not None or self._is_stopped or self._make_room(batch, dropped):
                    self._count(batch, is_pumped)
                    self._add(entry := Entry(batch, slot, ticket, isolation))
                elif not dropped:
                    if may_raise and self._policy == "raise":
                        raise QueueFullError(self._bytes, self._max_bytes, "bytes")
                    self._wait(deadline_s, ticket)
            self._tell_dropped(dropped)
        if entry is None:
            if slot is not None and self._spill is not None:
                self._marked(self._spill.settle, slot)
            raise ClosedError

    def _count(self, batch: Batch, is_pumped: bool) -> None:
        if is_pumped:
            self.counts.pumped_rows += batch.rows
        else:
            self.counts.written_rows += batch.rows

    def _wait(self, deadline_s: float | None, ticket: Ticket | None) -> None:
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if (left_s is not None and left_s <= 0) or (ticket is not None and ticket.is_withdrawn):
            raise TimeoutError
        again_s = SPILL_AGAIN_S if self._spill is not None else None
        times_s = [t for t in (left_s, again_s) if t is not None]
        self.changed.wait(min(times_s) if times_s else None)

    def _spilled(self, batch: Batch) -> Slot | None:
        if self._spill is None:
            return None
        try:
            slot = self._spill.append(batch)
        except (SpillError, OSError) as error:
            self.failed(str(error))
            return None
        with self.changed:
            self.counts.spilled_rows += batch.rows
        return slot

    def _make_room(self, batch: Batch, dropped: list[Entry]) -> bool:
        while self._bytes and self._bytes + len(batch.body) > self._max_bytes:
            if self._policy != "drop_oldest" or not self._waiting:
                return False
            entry = self._waiting.popleft()
            entry.is_settled = True
            self.counts.dropped_rows += entry.rows
            self._release(entry)
            dropped.append(entry)
        return True

    def _tell_dropped(self, dropped: list[Entry]) -> None:
        """Tell who waits for them. Without the lock: who is told may log, or take locks."""
        for entry in dropped:
            if entry.ticket is not None and entry.batch is not None:
                words = "dropped, the oldest of too many that wait"
                doubt = entry.in_doubt
                error = RefusedError(words, entry.batch, retryable=True, in_doubt=doubt)
                entry.ticket.settled(error)

    def _add(self, entry: Entry) -> None:
        if entry.ticket is not None:
            entry.ticket.add()
        self._seq += 1
        entry.seq = self._seq
        entry.order = entry.order or entry.seq
        self._unsettled[entry.seq] = entry
        if entry.slot is not None and self._bytes + entry.size > self._max_bytes:
            entry.batch = None
        else:
            self._bytes += entry.size
        self._waiting.append(entry)
        self.changed.notify_all()

    def put_recovered(self, slot: Slot, batch: Batch, isolation: Isolation | None) -> None:
        """Take a batch that an earlier process left in the spill."""
        with self.changed:
            self.counts.recovered_rows += batch.rows
            self._add(Entry(batch, slot, None, isolation))

    def put_parts(self, whole: Entry, parts: list[Batch]) -> None:
        """Put the parts of a refused batch into its place, at the front, without asking for room.

        They have keys derived from the whole's, so that parts that are made twice count once.
        """
        entries = [
            Entry(part, self._spilled(part), whole.ticket, whole.isolation) for part in parts
        ]
        if not self._claim(whole):
            return
        with self.changed:
            for entry in reversed(entries):
                entry.order = whole.order
                self._add(entry)
                self._waiting.rotate(1)
            self._release(whole)
        self._settle_slot(whole)
        if whole.ticket is not None:
            whole.ticket.settled()

    # ----------------------------------------------------------------------------- going out

    def next(self) -> tuple[Entry, Batch] | None:
        """The oldest batch that nobody has in hand; waits for one. None: the client is closed.

        A batch whose place on disk cannot be read is given up, and the next one tried.
        """
        while True:
            with self.changed:
                while not self._waiting and not self._is_stopped:
                    self.changed.wait()
                if self._is_stopped:
                    return None
                entry = self._waiting.popleft()
            if (batch := self._loaded(entry)) is not None:
                return entry, batch

    def _loaded(self, entry: Entry) -> Batch | None:
        if entry.is_withdrawn:
            self.withdrawn(entry)
            return None
        if entry.batch is not None:
            return entry.batch
        assert self._spill is not None
        assert entry.slot is not None
        try:
            batch = self._spill.load(entry.slot)
        except Exception as error:  # without memory for it, too: a sender must not end of it
            self._not_loaded(entry, error)
            return None
        with self.changed:
            entry.batch = batch
            self._bytes += entry.size
        return batch

    def _not_loaded(self, entry: Entry, error: Exception) -> None:
        from arc.client.spill import DamagedRecordError

        self.failed(str(error))
        if isinstance(error, DamagedRecordError):
            self._lost(entry, error)
        else:  # too many open files, say: it may be readable later
            self.pause(entry, SPILL_AGAIN_S)
            self.held(entry)

    def _lost(self, entry: Entry, error: SpillError) -> None:
        placeholder = Batch(Kind.MSGPACK, "", (), b"", entry.rows, "the spill")
        in_doubt = entry.was_sent
        self.refused(entry, RefusedError(str(error), placeholder, in_doubt=in_doubt, rows=[]))

    def sending(self, entry: Entry, batch: Batch) -> bool:
        """A batch goes out, for the first time or again. False: it was withdrawn, and must not."""
        if self._spill is not None and entry.slot is not None and not entry.was_sent:
            self._marked(self._spill.mark_sent, entry.slot)
        with self.changed:
            if entry.is_withdrawn:
                return False
            if entry.was_sent:
                self.counts.retried_batches += 1
            else:
                self.counts.sent_rows += entry.rows
            entry.was_sent = entry.is_out = True
        batch.attempts += 1
        return True

    def sent(self, entry: Entry) -> None:
        """An attempt has ended, with an answer or without."""
        entry.is_out = False

    def pause(self, entry: Entry, delay_s: float, *, until_success: bool = False) -> bool:
        """Wait before a batch is sent again.

        Args:
            entry: The batch.
            delay_s: How long.
            until_success: Or until another batch is acknowledged: the server is back.

        Returns:
            Whether it is to be sent again: not when it was withdrawn, or the client is closed.
        """
        until_s = time.monotonic() + delay_s
        with self.changed:
            before = self.counts.acknowledged_rows
            while not (self._is_stopped or entry.is_withdrawn):
                left_s = until_s - time.monotonic()
                is_back = until_success and self.counts.acknowledged_rows != before
                if left_s <= 0 or is_back:
                    return True
                self.changed.wait(left_s)
        return False

    def failed(self, words: str) -> None:
        """Remember what went wrong last."""
        with self.changed:
            self.counts.last_error = words

    # ------------------------------------------------------------------------------- settled

    def _claim(self, entry: Entry) -> bool:
        """Whether the caller is the first to settle an entry: a sender may outlive `close`."""
        with self.changed:
            is_first = not entry.is_settled
            entry.is_settled = True
        return is_first

    def acknowledged(self, entry: Entry) -> None:
        """The server has answered for the batch."""
        if not self._claim(entry):
            return
        # Its place on disk first: a row that is counted as acknowledged is never sent again.
        self._settle_slot(entry)
        with self.changed:
            self.counts.acknowledged_rows += entry.rows
            self._release(entry)
        if entry.ticket is not None:
            entry.ticket.settled()

    def refused(self, entry: Entry, error: RefusedError) -> None:
        """The batch will not be sent again; its rows go back to whom they came from."""
        if not self._claim(entry):
            return
        self._settle_slot(entry)
        # Told first, released then: who waits for the release finds the error.
        if entry.ticket is None:
            self._reports.refused(error)
        else:
            entry.ticket.settled(error)
        with self.changed:
            self.counts.refused_rows += entry.rows
            self.counts.last_error = str(error)
            self._release(entry)

    def withdrawn(self, entry: Entry) -> None:
        """The caller has the batch back, and has been told."""
        if not self._claim(entry):
            return
        self._settle_slot(entry)
        with self.changed:
            self.counts.refused_rows += entry.rows
            self._release(entry)
        assert entry.ticket is not None
        entry.ticket.settled()

    def held(self, entry: Entry) -> None:
        """Take a batch back from a sender that cannot send it now, unsettled."""
        with self.changed:
            self._waiting.appendleft(entry)
            self.changed.notify_all()

    def _settle_slot(self, entry: Entry) -> None:
        if self._spill is not None and entry.slot is not None:
            self._marked(self._spill.settle, entry.slot)

    def _marked(self, mark: Callable[[Slot], None], slot: Slot) -> None:
        try:
            mark(slot)
        except (SpillError, OSError) as error:
            # It goes on: its key keeps it from being stored twice, for as long as keys are kept.
            self.failed(str(error))

    def _release(self, entry: Entry) -> None:
        self._unsettled.pop(entry.seq, None)
        if entry.batch is not None:
            self._bytes -= entry.size
        self.changed.notify_all()

    # ---------------------------------------------------------------------------- for callers

    def withdraw(self, ticket: Ticket) -> list[tuple[Batch, bool]]:
        """Stop sending what belongs to a ticket.

        Returns:
            What was not settled, and whether it may have been stored. Batches that are on disk only
            are read.
        """
        with self.changed:
            ticket.is_withdrawn = True
            self.changed.notify_all()
            entries = [e for e in self._unsettled.values() if e.ticket is ticket]
            waiting = [e for e in self._waiting if e.ticket is ticket]
            for entry in waiting:
                self._waiting.remove(entry)
        found = [(self._body_of(entry), entry.in_doubt) for entry in entries]
        for entry in waiting:
            self.withdrawn(entry)
        return found

    def _body_of(self, entry: Entry) -> Batch:
        if entry.batch is not None:
            return entry.batch
        assert self._spill is not None
        assert entry.slot is not None
        try:
            return self._spill.load(entry.slot)
        except (SpillError, OSError) as error:
            return Batch(Kind.MSGPACK, "", (), b"", entry.rows, f"the spill ({error})")

    def wait_settled(self, deadline_s: float | None, *, or_spilled: bool = False) -> bool:
        """Wait until every batch taken so far is settled.

        Args:
            deadline_s: On the monotonic clock; None waits as long as it takes.
            or_spilled: Batches that are on disk need not be.
        """
        with self.changed:
            last = self._seq
            while self._is_open(last, or_spilled):
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if (left_s is not None and left_s <= 0) or self._is_stopped:
                    return False
                self.changed.wait(left_s)
            return True

    def _is_open(self, last: int, or_spilled: bool) -> bool:
        for entry in self._unsettled.values():
            if entry.order <= last and not (or_spilled and entry.slot is not None):
                return True
        return False

    def stop(self) -> None:
        """Give out nothing more, and make nobody wait."""
        with self.changed:
            self._is_stopped = True
            self.changed.notify_all()

    def give_back(self) -> bool:
        """After the end of all threads: report what is neither settled nor on disk.

        Returns:
            Whether everything was settled, so that nothing is left for another process either.
        """
        with self.changed:
            self._is_ended = True
            entries = list(self._unsettled.values())
        for entry in entries:
            # A call that waits for its rows has them back: the spill must not send them as well.
            is_callers = entry.ticket is not None and entry.isolation is None
            if not is_callers:
                self._leave_on_disk(entry)
            if is_callers or entry.slot is None:
                words = "the client was closed before it was acknowledged"
                batch, doubt = self._body_of(entry), entry.in_doubt
                error = RefusedError(words, batch, retryable=True, in_doubt=doubt)
                self.refused(entry, error)
            elif entry.ticket is not None:
                entry.ticket.is_left = True
                entry.ticket.settled()
        return not entries

    def _leave_on_disk(self, entry: Entry) -> None:
        if entry.slot is None and entry.batch is not None:
            entry.slot = self._spilled(entry.batch)
            if entry.slot is not None and entry.was_sent and self._spill is not None:
                self._marked(self._spill.mark_sent, entry.slot)

    def queued(self) -> tuple[int, int, int]:
        """Unsettled rows, batches, and bytes of them in memory. The caller holds `changed`."""
        entries = self._unsettled.values()
        return sum(entry.rows for entry in entries), len(entries), self._bytes

    def forget(self) -> None:
        """In a forked child: the batches are the parent's."""
        self.changed = threading.Condition()
        self.counts = Counts()
        self._waiting.clear()
        self._unsettled.clear()
        self._bytes = 0
        self._spill = None

    def use_spill(self, spill: Spill | None) -> None:
        """Use another spill, as after a fork."""
        self._spill = spill
