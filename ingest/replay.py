"""The log of a shard, back into its buffers: what a restart does before anything else.

In: the segments that a predecessor left. Out: their requests in an `ArrowWriter`, with the log
sequence numbers and the arrival times that they had, but for the batches that a table holds
already. Damaged segments are set aside and said to be; what is sound in them is used. A request
that no table takes any more goes into a file of its own and is counted, never dropped.

Decoding runs in a thread, a bounded piece of the log at a time, and waits for flushes when the
memory budget is taken: a log of any length goes through a budget of any size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from ingest.arrow_writer import ArrowWriter
from ingest.budget import MemoryBudget
from ingest.columns import ColumnBatch
from ingest.decoders import decode, request_digest
from ingest.decompress import decompress
from ingest.disk import DIRECTORY_MODE, replace_file
from ingest.errors import ClientError
from ingest.idempotency import KeyEntry
from ingest.instruments import PipelineInstruments
from ingest.limits import Limits
from ingest.log_format import Record
from ingest.log_reader import LogReader, SegmentInfo, set_aside
from ingest.paths import TableId
from ingest.table_log import TableLog

#: A piece of the log ends once its columns take this share of the memory budget.
PIECE_SHARE = 1 / 16

#: Above this share of the budget, replay waits for flushes.
FULL = 0.6

#: What was accepted once is decoded again whatever the limits are today.
_MAX_BYTES = 2**31 - 1
NO_LIMITS = Limits(*[_MAX_BYTES] * len(Limits.__struct_fields__))


class Replayed(msgspec.Struct):
    """What a replay found and did.

    Attributes:
        segments: Those that were read, oldest first.
        last_lsn: The highest log sequence number in them; 0 when they are empty.
        records: Requests in them.
        rows: Rows that are in the buffers now.
        rows_known: Rows that their tables held already.
        rows_quarantined: Rows, or whole requests where their rows cannot be counted, that no
            table takes.
        keys: Idempotency keys of all requests, also of those that were stored.
    """

    segments: list[SegmentInfo] = msgspec.field(default_factory=list)
    last_lsn: int = 0
    records: int = 0
    rows: int = 0
    rows_known: int = 0
    rows_quarantined: int = 0
    keys: list[KeyEntry] = msgspec.field(default_factory=list)


class _Decoded(msgspec.Struct, frozen=True):
    """One request: its batches that no table holds yet, and what is wrong with the rest."""

    record: Record
    batches: list[ColumnBatch]
    rows_known: int
    error: Exception | None = None
    rows_refused: int = 0


class Replay:
    """One pass over the log of one shard.

    Args:
        reader: Over the folder of the log.
        writer: Takes the rows; its flush task must be running.
        table_log: Knows what is stored.
        budget: Of the writer.
        aside_dir: For damaged segments and refused requests.
        instruments: Told the progress.
        log: Where events go.
    """

    def __init__(
        self,
        reader: LogReader,
        writer: ArrowWriter,
        table_log: TableLog,
        budget: MemoryBudget,
        aside_dir: Path,
        instruments: PipelineInstruments,
        log: FilteringBoundLogger,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._table_log = table_log
        self._budget = budget
        self._aside_dir = aside_dir
        self._instruments = instruments
        self._log = log
        self._result = Replayed()
        self.total_bytes = reader.total_bytes
        self.done_bytes = 0

    @property
    def progress(self) -> str:
        """How far it is, for people."""
        return f"{self.done_bytes // 10**6} of {self.total_bytes // 10**6} MB"

    async def run(self) -> Replayed:
        """Read the whole log.

        Raises:
            StorageError: the log, a table or the catalog cannot be read.
        """
        self._instruments.replay_bytes_total.set(self.total_bytes)
        with ThreadPoolExecutor(1, "arc-replay") as thread:
            for path in self._reader.segments:
                await self._run_segment(path, thread)
        self._instruments.replay_bytes_done.set(self.total_bytes)
        return self._result

    async def _run_segment(self, path: Path, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        info = await loop.run_in_executor(thread, self._scan, path)
        before_bytes = self.done_bytes
        pieces = self._pieces(info)
        while piece := await loop.run_in_executor(thread, next, pieces, None):
            for decoded in piece:
                await self._take(decoded)
            self._instruments.replay_bytes_done.set(self.done_bytes)
            await self._wait_for_memory()
        self.done_bytes = min(before_bytes + info.size_bytes, self.total_bytes)
        self._result.segments.append(info)
        self._result.last_lsn = max(self._result.last_lsn, info.last_lsn)

    def _scan(self, path: Path) -> SegmentInfo:
        info = self._reader.scan(path)
        if info.torn_bytes:
            self._instruments.log_torn.inc()
            self._log.info("log_torn_tail", segment=path.name, cut_bytes=info.torn_bytes)
        if info.corrupt:
            self._report_damage(info, set_aside(info, self._aside_dir))
        return info

    def _report_damage(self, info: SegmentInfo, copy: Path) -> None:
        for damage in info.corrupt:
            # A power cut can leave a hole in the last group, for which nobody was answered.
            torn = damage.in_last_group
            (self._instruments.log_torn if torn else self._instruments.log_corrupt).inc()
            tell = self._log.warning if torn else self._log.error
            tell(
                "log_torn_group" if torn else "log_corrupt",
                segment=info.path.name,
                offset=damage.offset,
                damaged_bytes=damage.size_bytes,
                reason=damage.reason,
                set_aside=str(copy),
            )

    # --- in the thread -----------------------------------------------------------------------

    def _pieces(self, info: SegmentInfo) -> Iterator[list[_Decoded]]:
        """The requests of a segment, decoded, a bounded number of bytes at a time."""
        limit_bytes = int(self._budget.limit_bytes * PIECE_SHARE)
        piece: list[_Decoded] = []
        nbytes = 0
        for record in self._reader.records(info.path, info.valid_bytes):
            decoded = self._decode(record)
            piece.append(decoded)
            self.done_bytes += record.size_bytes
            nbytes += len(record.body) + sum(batch.nbytes for batch in decoded.batches)
            if nbytes > limit_bytes:
                yield piece
                piece, nbytes = [], 0
        if piece:
            yield piece

    def _decode(self, record: Record) -> _Decoded:
        head = record.head
        try:
            body = decompress(record.body, "", _MAX_BYTES)
            decoded = decode(head, body, NO_LIMITS)
        except ClientError as error:
            return _Decoded(record, [], 0, error, 1)
        wanted, rows_known = [], 0
        for batch in decoded.batches:
            if self._table_log.committed(TableId(head.database, batch.measurement)) >= record.lsn:
                rows_known += batch.num_rows
            else:
                wanted.append(batch)
        if decoded.refused:  # such a request is logged without them: what is here was never sent
            refused = decoded.refused
            return _Decoded(record, wanted, rows_known, refused[0].error, len(refused))
        return _Decoded(record, wanted, rows_known)

    # --- on the loop -------------------------------------------------------------------------

    async def _take(self, decoded: _Decoded) -> None:
        record, result = decoded.record, self._result
        result.records += 1
        result.rows_known += decoded.rows_known
        if record.head.key:
            result.keys.append(_key_entry(record))
        if decoded.batches:
            try:
                accepted = await self._writer.write_again(record.head.database, decoded.batches)
            except ClientError as refusal:
                rows = sum(batch.num_rows for batch in decoded.batches)
                self._quarantine(record, rows, refusal)
            else:
                self._writer.keep(accepted, record.lsn, again=True)
                self._instruments.rows_replayed.inc(accepted.num_rows)
                result.rows += accepted.num_rows
        if decoded.error is not None:
            self._quarantine(record, decoded.rows_refused, decoded.error)

    def _quarantine(self, record: Record, rows: int, error: Exception) -> None:
        """Keep a request that no table takes where a person finds it."""
        path = self._aside_dir / f"request-{record.lsn}.body"
        self._aside_dir.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        replace_file(path, record.body, path.with_suffix(".new"))
        self._instruments.rows_quarantined.inc(rows)
        self._result.rows_quarantined += rows
        self._log.error(
            "request_quarantined",
            lsn=record.lsn,
            database=record.head.database,
            rows=rows,
            error=str(error),
            set_aside=str(path),
        )

    async def _wait_for_memory(self) -> None:
        while self._budget.pressure > FULL and self._writer.flushes:
            await asyncio.wait(self._writer.flushes, return_when=asyncio.FIRST_COMPLETED)


def _key_entry(record: Record) -> KeyEntry:
    head = record.head
    return KeyEntry(record.lsn, head.key, request_digest(head, record.body), head.arrival_us)
