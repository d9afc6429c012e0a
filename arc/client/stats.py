"""What a client has done so far, in rows and batches: counts in, one `Stats` out.

Conservation, at every moment: rows taken + rows recovered = queued + acknowledged + refused +
dropped.
"""

from __future__ import annotations

import msgspec


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the client was made (in a forked child: since the fork).

    Attributes:
        taken_rows: Rows of every call that returned.
        queued_rows: Taken and not settled: waiting to be encoded, to be sent, or for an answer.
        queued_batches: Of these, encoded batches.
        queued_bytes: Of these batches, the bytes held in memory.
        sent_rows: Rows that went out, repetitions not counted.
        acknowledged_rows: Rows that the daemon answered for with a 2xx.
        retried_batches: Repetitions of a request, one for each.
        spilled_rows: Rows that were written to the spill.
        spilled_bytes: Bytes of the spill directory that are in use now.
        recovered_rows: Rows that an earlier process had left in the spill.
        dropped_rows: Rows dropped under `when_full="drop_oldest"`.
        refused_rows: Rows handed back with a `RefusedError`.
        last_error: The last failure in words, also one that a repetition mended; None without.
    """

    taken_rows: int = 0
    queued_rows: int = 0
    queued_batches: int = 0
    queued_bytes: int = 0
    sent_rows: int = 0
    acknowledged_rows: int = 0
    retried_batches: int = 0
    spilled_rows: int = 0
    spilled_bytes: int = 0
    recovered_rows: int = 0
    dropped_rows: int = 0
    refused_rows: int = 0
    last_error: str | None = None


class Counts:
    """The changing counts behind `Stats`. Guarded by the lock of the outbox."""

    __slots__ = (
        "acknowledged_rows",
        "dropped_rows",
        "last_error",
        "pumped_rows",
        "recovered_rows",
        "refused_rows",
        "retried_batches",
        "sent_rows",
        "spilled_rows",
        "written_rows",
    )

    def __init__(self) -> None:
        self.acknowledged_rows = self.dropped_rows = self.recovered_rows = 0
        self.refused_rows = self.retried_batches = self.sent_rows = self.spilled_rows = 0
        self.pumped_rows = 0  # that came from the intake; those between are in the pump's hands
        self.written_rows = 0  # that came from write_* calls
        self.last_error: str | None = None
