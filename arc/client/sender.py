"""Senders: one thread and one kept-open connection each; batches out, answers judged.

A batch stays in a sender's hands until it is acknowledged, refused, or given up. Whatever went
wrong on the way, the next attempt carries the same bytes under the same key, so the daemon stores
them once. Never encodes rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from arc.client.batch import Batch
from arc.client.forks import FORKS
from arc.client.isolation import STATUSES
from arc.client.outbox import Entry, Outbox
from arc.client.refusal import RefusedError
from arc.client.reports import say
from arc.client.retry import Backoff, Verdict, judge
from arc.client.transport import Connection, Reply, SendError, import_libraries

#: After these the server has certainly not stored what it answered for.
CERTAIN = frozenset({400, 413, 429})


class Sender:
    """One thread that posts batches."""

    def __init__(
        self, outbox: Outbox, connect: Callable[[], Connection], give_up_s: float | None
    ) -> None:
        self._outbox, self._connect, self._give_up_s = outbox, connect, give_up_s
        self._backoff = Backoff()
        self._connection: Connection | None = None
        self._is_stopped = False
        self.thread = threading.Thread(target=self._run, name="arc-client-sender", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self) -> None:
        """Break off a request under way; the outbox gives out nothing more."""
        self._is_stopped = True
        if (connection := self._connection) is not None:
            connection.close()

    def abandon(self) -> None:
        """In a forked child: the thread is gone, the socket is the parent's."""
        if self._connection is not None:
            self._connection.abandon()

    def _run(self) -> None:
        with FORKS.importing:
            import_libraries()
        while (found := self._outbox.next()) is not None:
            try:
                self._deliver(*found)
            except Exception as error:
                self._defect(*found, error)
        if self._connection is not None:
            self._connection.close()

    def _defect(self, entry: Entry, batch: Batch, error: Exception) -> None:
        say(logging.ERROR, "BUG: a sender failed", exc_info=error)
        words = f"BUG: {type(error).__name__}: {error}"
        self._outbox.refused(entry, RefusedError(words, batch, retryable=True, in_doubt=True))

    def _deliver(self, entry: Entry, batch: Batch) -> None:
        """Send one batch until it is settled."""
        attempt = 0
        while True:
            if not self._outbox.sending(entry, batch):
                self._put_down(entry)
                return
            reply, words = self._post(batch)
            self._outbox.sent(entry)
            verdict = Verdict.RETRY if reply is None else judge(reply)
            if verdict is Verdict.ACCEPTED:
                self._outbox.acknowledged(entry)
                return
            if verdict is Verdict.REFUSED:
                assert reply is not None
                self._refused(entry, batch, reply)
                return
            self._outbox.failed(words)
            if not self._may_try_again(entry, batch, reply, words):
                return
            delay_s = self._backoff.delay_s(attempt, reply.retry_after_s if reply else None)
            if not self._outbox.pause(entry, delay_s, until_success=reply is None):
                self._put_down(entry)
                return
            attempt += 1

    def _post(self, batch: Batch) -> tuple[Reply | None, str]:
        if self._connection is None:
            self._connection = self._connect()
            if self._is_stopped:
                self._connection.close()
        headers = (*batch.headers, ("idempotency-key", batch.key))
        try:
            reply = self._connection.post(batch.target, headers, batch.body)
        except SendError as error:
            batch.in_doubt = batch.in_doubt or error.in_doubt
            return None, str(error)
        batch.in_doubt = batch.in_doubt or reply.status in (502, 503, 504)
        return reply, f"answered {reply.status}: {reply.message}"

    def _may_try_again(self, entry: Entry, batch: Batch, reply: Reply | None, words: str) -> bool:
        now_s = time.monotonic()
        if entry.first_failed_s is None:
            entry.first_failed_s = now_s
        if self._give_up_s is None or now_s - entry.first_failed_s < self._give_up_s:
            return True
        error = RefusedError(
            f"given up after {now_s - entry.first_failed_s:.1f} s: {words}",
            batch,
            status=None if reply is None else reply.status,
            retryable=True,
            in_doubt=batch.in_doubt,
        )
        self._outbox.refused(entry, error)
        return False

    def _put_down(self, entry: Entry) -> None:
        if entry.is_withdrawn:
            self._outbox.withdrawn(entry)
        else:
            self._outbox.held(entry)

    def _refused(self, entry: Entry, batch: Batch, reply: Reply) -> None:
        if entry.isolation is not None and reply.status in STATUSES:
            parts = entry.isolation.parts(batch)
            if parts:
                self._outbox.failed(f"answered {reply.status}: {reply.message}")
                self._outbox.put_parts(entry, parts)
                return
        in_doubt = batch.in_doubt and reply.status not in CERTAIN
        error = RefusedError(reply.message, batch, status=reply.status, in_doubt=in_doubt)
        self._outbox.refused(entry, error)
