"""Rows of one measurement, held in memory until they are worth a file.

Appending changes state and never waits; encoding and disk writes belong to the flush, which
works on what the buffer hands over. So nothing here is held while the disk does anything.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Sequence

import msgspec

from ingest.columns import ColumnBatch
from ingest.lsn import epoch_of
from ingest.paths import TableId
from ingest.schema import TableSchema


class Taken(msgspec.Struct, frozen=True):
    """Rows on their way from a buffer into files. Whoever holds it owns the rows.

    Attributes:
        table: Whose rows.
        schema: The table's schema at the hand-over; every batch fits it.
        batches: In order of arrival.
        lsns: Log sequence number of the request of each batch.
        num_rows: Rows of all batches.
        nbytes: Bytes of memory of all batches.
        first_lsn: Log sequence number of the first request in it.
        last_lsn: The same of the last, of the same epoch.
        oldest_s: Monotonic time at which the oldest row arrived.
    """

    table: TableId
    schema: TableSchema
    batches: Sequence[ColumnBatch]
    lsns: Sequence[int]
    num_rows: int
    nbytes: int
    first_lsn: int
    last_lsn: int
    oldest_s: float


#: A batch, the log sequence number of its request, and the monotonic time of its arrival.
_Entry = tuple[ColumnBatch, int, float]


class MeasurementBuffer:
    """Batches of one table that no file holds yet.

    Attributes:
        lock: Guards the step from one schema to the next, the only thing here that waits: two
            requests that bring new columns take it in turn. Appending needs no lock: it runs on
            the event loop between two awaits, and a schema only ever widens, so that a batch
            that fitted an older schema fits the present one.
        schema: Columns of the table, as far as this process knows.
        num_rows: Rows waiting.
        nbytes: Bytes of memory that they take.
    """

    def __init__(self, table: TableId, schema: TableSchema) -> None:
        self.table = table
        self.schema = schema
        self.lock = asyncio.Lock()
        self.num_rows = 0
        self.nbytes = 0
        self._entries: list[_Entry] = []

    @property
    def oldest_s(self) -> float:
        """Monotonic time at which the oldest row arrived; the buffer must not be empty."""
        return self._entries[0][2]

    @property
    def first_lsn(self) -> int:
        """Log sequence number of the oldest request; the buffer must not be empty."""
        return self._entries[0][1]

    def append(self, batch: ColumnBatch, lsn: int, now_s: float) -> None:
        """Keep a batch that fits the schema.

        Args:
            batch: Owned by the buffer from here on.
            lsn: Log sequence number of the request that it came with, never lower than the last.
            now_s: Monotonic time.
        """
        self._entries.append((batch, lsn, now_s))
        self.num_rows += batch.num_rows
        self.nbytes += batch.nbytes

    def after(self, lsn: int) -> tuple[list[ColumnBatch], list[int]]:
        """The batches of all requests beyond a log sequence number, and theirs; they stay here."""
        start = bisect.bisect_right(self._entries, lsn, key=_lsn_of)
        entries = self._entries[start:]
        return [batch for batch, _, _ in entries], [lsn for _, lsn, _ in entries]

    def hand_over(self, max_bytes: int) -> Taken:
        """Give up whole requests from the front, at least one, up to about `max_bytes`.

        Requests are never split, so that a log sequence number is in one hand-over only, and
        those of two epochs never mixed, since a file is named after one. The buffer must not
        be empty.
        """
        count = self._prefix(max_bytes)
        entries, self._entries = self._entries[:count], self._entries[count:]
        rows = sum([batch.num_rows for batch, _, _ in entries])
        nbytes = sum([batch.nbytes for batch, _, _ in entries])
        self.num_rows -= rows
        self.nbytes -= nbytes
        return Taken(
            table=self.table,
            schema=self.schema,
            batches=[batch for batch, _, _ in entries],
            lsns=[lsn for _, lsn, _ in entries],
            num_rows=rows,
            nbytes=nbytes,
            first_lsn=entries[0][1],
            last_lsn=entries[-1][1],
            oldest_s=entries[0][2],
        )

    def _prefix(self, max_bytes: int) -> int:
        """How many batches the longest run of whole requests of one epoch within the bytes has."""
        epoch = epoch_of(self.first_lsn)
        if self.nbytes <= max_bytes and epoch_of(self._entries[-1][1]) == epoch:
            return len(self._entries)
        nbytes = start = 0  # of the request that is being added up: its first batch
        for count, (batch, lsn, _) in enumerate(self._entries):
            if lsn != self._entries[start][1]:
                start = count
            nbytes += batch.nbytes
            if start > 0 and (nbytes > max_bytes or epoch_of(lsn) != epoch):
                return start
        return len(self._entries)


def _lsn_of(entry: _Entry) -> int:
    return entry[1]
