"""Refused rows on their way back to the program: to its callback, or kept until it asks.

In: a `RefusedError` for rows that nobody waits for. Out: one call of `on_error`, or the error
itself raised by the next flush or close. Never drops one in silence: each is logged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from arc.client.refusal import RefusedError

#: Errors kept for `flush` to raise; of further ones only their number.
MAX_KEPT = 1_000

#: Further refusals that an error names in words.
MAX_NOTES = 8

#: Name of the logger; `ArcHandler` leaves its records alone.
LOGGER = "arc.client"


class Reports:
    """Where refused rows go that no call waits for.

    Attributes:
        on_error: Called in a thread of the client; None keeps the errors.
    """

    def __init__(self, on_error: Callable[[RefusedError], None] | None) -> None:
        self.on_error = on_error
        self._lock = threading.RLock()
        self._kept: list[RefusedError] = []
        self._num_more = 0

    def refused(self, error: RefusedError) -> None:
        """Hand over one error. Whatever the callback raises is logged."""
        logger = logging.getLogger(LOGGER)
        if self.on_error is None:
            logger.error("%s", error)
            with self._lock:
                if len(self._kept) < MAX_KEPT:
                    self._kept.append(error)
                else:
                    self._num_more += 1
            return
        try:
            self.on_error(error)
        except Exception:
            logger.exception("on_error failed for: %s", error)

    def raise_kept(self) -> None:
        """Raise the first error kept since the last time, the others as its notes.

        Raises:
            RefusedError: rows were refused since.
        """
        with self._lock:
            kept, self._kept = self._kept, []
            more, self._num_more = self._num_more, 0
        if kept:
            error = together(kept)
            if more:
                error.add_note(f"and {more} more, which were logged only")
            raise error

    def forget(self) -> None:
        """In a forked child: the errors are the parent's."""
        self._lock = threading.RLock()
        self._kept, self._num_more = [], 0


def together(errors: list[RefusedError]) -> RefusedError:
    """The first of several refusals, which carries the others."""
    first = errors[0]
    first.others = errors[1:]
    for error in errors[1 : 1 + MAX_NOTES]:
        first.add_note(f"also: {error}")
    if len(errors) > 1 + MAX_NOTES:
        first.add_note(f"and {len(errors) - 1 - MAX_NOTES} more")
    return first
