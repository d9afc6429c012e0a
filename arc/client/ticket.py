"""What a caller waits with: batches in, one outcome out when the last of them is settled.

A ticket counts; it knows neither the network nor the outbox.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

from arc.client.refusal import RefusedError


class Ticket:
    """The batches of one call.

    Attributes:
        future: Done when the ticket is sealed and every batch of it is settled; its result is the
            list of refusals, in the order in which they came.
        is_withdrawn: The caller has the rows back: no batch of it may be sent any more.
        is_left: A batch of it is neither stored nor refused: the client closed, and left it in the
            spill.
    """

    def __init__(self) -> None:
        self.future: Future[list[RefusedError]] = Future()
        self.is_withdrawn = self.is_left = False
        self._lock = threading.RLock()
        self._open = 1  # the caller's own, until it seals
        self._errors: list[RefusedError] = []

    def add(self) -> None:
        """One more batch."""
        with self._lock:
            self._open += 1

    def settled(self, error: RefusedError | None = None) -> None:
        """One batch is acknowledged, or refused."""
        with self._lock:
            if error is not None:
                self._errors.append(error)
            self._open -= 1
            is_last = self._open == 0
        if is_last and self.future.set_running_or_notify_cancel():
            self.future.set_result(self._errors)

    def errors(self) -> list[RefusedError]:
        """The refusals so far."""
        with self._lock:
            return list(self._errors)

    def seal(self) -> None:
        """No batch follows."""
        self.settled()
