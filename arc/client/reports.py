"""Refused rows on their way back to the program: to its callback, or kept until it asks.

In: a `RefusedError` for rows that nobody waits for. Out: one call of `on_error`, or the error
itself raised by the next flush or close. Never drops one in silence: each is logged.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from arc.client.refusal import RefusedError

#: Errors kept for `flush` to raise; of further ones only their number.
MAX_KEPT = 1_000

#: Of the batches of these errors: as much as may wait by default.
MAX_KEPT_BYTES = 64 << 20

#: Further refusals that an error names in words.
MAX_NOTES = 8

#: Name of the logger; `ArcHandler` leaves its records alone.
LOGGER = "arc.client"


class Reports:
    """Where refused rows go that no call waits for.

    Attributes:
        on_error: Called in a thread of the client; None keeps the errors.
    """

    def __init__(
        self, on_error: Callable[[RefusedError], None] | None, max_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        """Keep nothing yet.

        Args:
            on_error: As the attribute.
            max_bytes: Of the batches of errors that are kept; one is, whatever its size.
        """
        self.on_error, self._max_bytes = on_error, max_bytes
        self._lock = threading.RLock()
        self._kept: list[RefusedError] = []
        self._num_more = self._num_bytes = 0

    def refused(self, error: RefusedError) -> None:
        """Hand over one error. Whatever the callback raises is logged."""
        if self.on_error is None:
            say(logging.ERROR, "%s", error)
            self._keep(error)
            return
        try:
            self.on_error(error)
        except BaseException as failure:  # `sys.exit` would end a thread that others wait for
            say(logging.ERROR, "on_error failed for: %s", error, exc_info=failure)

    def _keep(self, error: RefusedError) -> None:
        with self._lock:
            num_bytes = self._num_bytes + len(error.batch.body)
            if self._kept and (len(self._kept) >= MAX_KEPT or num_bytes > self._max_bytes):
                self._num_more += 1
            else:
                self._kept.append(error)
                self._num_bytes = num_bytes

    def raise_kept(self) -> None:
        """Raise the first error kept since the last time, the others as its notes.

        Raises:
            RefusedError: rows were refused since.
        """
        with self._lock:
            kept, self._kept = self._kept, []
            more, self._num_more, self._num_bytes = self._num_more, 0, 0
        if kept:
            error = together(kept)
            if more:
                error.add_note(f"and {more} more, which were logged only")
            raise error

    def forget(self) -> None:
        """In a forked child: the errors are the parent's."""
        self._lock = threading.RLock()
        self._kept, self._num_more, self._num_bytes = [], 0, 0


def say(level: int, words: str, *arguments: Any, exc_info: BaseException | None = None) -> None:
    """Log, whatever the program's handlers and filters raise: a thread of the client must go on."""
    with contextlib.suppress(Exception):
        logging.getLogger(LOGGER).log(level, words, *arguments, exc_info=exc_info)


def together(errors: list[RefusedError]) -> RefusedError:
    """The first of several refusals, which carries the others."""
    first = errors[0]
    first.others = errors[1:]
    for error in errors[1 : 1 + MAX_NOTES]:
        first.add_note(f"also: {error}")
    if len(errors) > 1 + MAX_NOTES:
        first.add_note(f"and {len(errors) - 1 - MAX_NOTES} more")
    return first
