"""What can go wrong between a call and its rows, and who can mend it.

`UsageError`: the call. `TableNotFoundError`: the name, or nothing was stored yet. `RefusedError`:
the daemon says no. `ReadError`: files, log or connection.
"""

from __future__ import annotations


class ReaderError(Exception):
    """Base of every error that the reader raises on purpose."""


class UsageError(ReaderError, ValueError):
    """The arguments cannot be read by: what was found, where, and what was wanted."""


class TableNotFoundError(ReaderError):
    """There is no such table in the data directory, or no row of it was stored yet."""


class ReadError(ReaderError):
    """Files or the log of a table cannot be read, the daemon not reached, or its answer broke off.

    What a stream gave before it is sound; what would have followed is missing.
    """


class RefusedError(ReaderError):
    """The daemon refused the query.

    Attributes:
        status: HTTP status, 300 or more. 503: it may be asked again later.
        message: Its own words.
        retry_after_s: The header Retry-After, where it is a number.
    """

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"the daemon answered {status}: {message}")
        self.status, self.message, self.retry_after_s = status, message, retry_after_s
