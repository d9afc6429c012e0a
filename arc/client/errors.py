"""What can go wrong between a call and a stored row, and who still holds the rows.

`UsageError`: the call itself is wrong; nothing was taken. `QueueFullError`: the row was not taken,
and may be offered again. `SpillError`: the disk that holds what waits.
"""

from __future__ import annotations

from typing import Any


class ArcClientError(Exception):
    """Base of every error that the client raises on purpose."""


class UsageError(ArcClientError, ValueError):
    """The arguments cannot be sent: what was found, where, and what was wanted."""


class ClosedError(ArcClientError):
    """The client was closed; the row was not taken."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class QueueFullError(ArcClientError):
    """The memory set for waiting rows is used up; the row was not taken.

    Raised under the policy `raise`; under the others the call waits, drops or spills.
    """

    def __init__(self, waiting: int, limit: int, unit: str) -> None:
        super().__init__(f"{waiting} {unit} wait to be sent, the limit is {limit}")
        self._arguments = waiting, limit, unit

    def __reduce__(self) -> tuple[Any, ...]:
        """As made: a worker process may raise it."""
        return type(self), self._arguments


class SpillError(ArcClientError):
    """The spill directory cannot be used, or what is in it cannot be read."""


class SpillFullError(SpillError):
    """The bound of the spill directory is reached, or its disk is full; nothing was written."""
