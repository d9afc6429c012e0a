"""How many bytes a process may hold for its clients, as a number that is taken and given back.

One budget covers a row from the moment its request is admitted until a file holds it: the body,
the columns in a buffer, and the columns of a running flush. Nothing here knows who asks.
"""

from __future__ import annotations

from ingest.errors import OverloadedError


class MemoryBudget:
    """Bytes taken and left, for one event loop.

    Attributes:
        limit_bytes: How many may be taken at once.
        taken_bytes: How many are.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0

    def take(self, nbytes: int) -> None:
        """Take bytes that a client asks for.

        Raises:
            OverloadedError: they do not fit now.
        """
        if self.taken_bytes + nbytes > self.limit_bytes:
            raise OverloadedError(
                f"memory budget: {self.taken_bytes} of {self.limit_bytes} bytes are taken, "
                f"{nbytes} more do not fit (ARC_MEMORY_BYTES); the flush is catching up"
            )
        self.taken_bytes += nbytes

    def force(self, nbytes: int) -> None:
        """Take (or give back, when negative) bytes that exist already."""
        self.taken_bytes += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return bytes that were taken."""
        self.taken_bytes -= nbytes

    @property
    def pressure(self) -> float:
        """Share of the limit that is taken."""
        return self.taken_bytes / self.limit_bytes
