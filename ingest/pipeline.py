"""The parts of one shard, wired together: open, recover, write, drain, close.

What a daemon, a test or a benchmark needs to run the pipeline without HTTP. The order of events
is here, and only here: a request is made to fit its tables, then takes its memory, then is
logged, then is appended to the buffers, and then its caller is told. Whatever fails on the way,
nothing before it is left half done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from ingest.arrow_writer import Accepted, ArrowWriter, WriterSettings
from ingest.budget import MemoryBudget
from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.columns import ColumnBatch
from ingest.errors import (
    OverloadedError,
    ReadOnlyError,
    ReplayingError,
    StorageError,
)
from ingest.fresh_rows import FreshHead, FreshRows
from ingest.idempotency import KeyEntry, KeyJournal, KeyWindow
from ingest.instruments import PipelineInstruments
from ingest.limits import Limits
from ingest.log_calls import LogCalls
from ingest.log_format import RecordHead
from ingest.log_reader import LogReader, SegmentInfo
from ingest.log_spares import spare_paths
from ingest.lsn import make_lsn
from ingest.paths import TableId
from ingest.replay import Replay, Replayed
from ingest.schema import NO_TABLE, TableSchema
from ingest.shard import Shard, shard_dir, shard_numbers
from ingest.sift import Sieve
from ingest.store import LocalStore
from ingest.table_list import TableEntry, TableList
from ingest.table_log import DeltaTableLog
from ingest.wal import Wal, WalSettings

#: Folder of the daemon's own state, below the data directory. No database can have this name.
STATE_DIR = ".arc"

#: How often free space and the length of the log are looked at. A shard writes some 500 MB a
#: second at the most.
DISK_CHECK_S = 0.5

#: A log this much over its bound takes nothing more: flushes are not able to keep up with it.
LOG_REFUSAL = 1.25

Durability = Literal["memory", "page", "disk"]


class PipelineSettings(msgspec.Struct, frozen=True):
    """What one shard needs to know.

    Attributes:
        data_dir: Where tables live.
        shard: Number of this shard.
        memory_bytes: Budget of this shard alone.
        min_free_disk_bytes: With less free space, nothing is admitted.
        writer: When to flush, and how.
        limits: What one request may ask.
        durability: What an accepted request survives: "memory" nothing, "page" the end of the
            process, "disk" the end of the power.
        num_shards: Of the daemon. The logs of shards with higher numbers are shared out.
        log_segment_bytes: Size of a file of the log.
        log_bytes: With more log than this, the oldest rows are flushed at once.
        idempotency_window_s: How long an idempotency key is known.
    """

    data_dir: Path
    shard: int
    memory_bytes: int
    min_free_disk_bytes: int
    writer: WriterSettings
    limits: Limits
    durability: Durability = "disk"
    num_shards: int = 1
    log_segment_bytes: int = 64 * 2**20
    log_bytes: int = 2 * 2**30
    idempotency_window_s: float = 600.0


class Recovered(msgspec.Struct):
    """What was found at the start.

    Attributes:
        rows: Rows back in buffers, or stored by now, that no table held.
        rows_known: Rows of the log that tables held already.
        rows_quarantined: Rows that no table takes.
        records: Requests in the log.
        files_removed: Files that were in no table.
    """

    rows: int = 0
    rows_known: int = 0
    rows_quarantined: int = 0
    records: int = 0
    files_removed: int = 0

    def add(self, replayed: Replayed) -> None:
        """Count one replay in."""
        self.rows += replayed.rows
        self.rows_known += replayed.rows_known
        self.rows_quarantined += replayed.rows_quarantined
        self.records += replayed.records


class _Line:
    """One shard's way from accepted batches to its tables: writer, table log, keys, numbers."""

    def __init__(
        self,
        shard: Shard,
        settings: PipelineSettings,
        catalog: Catalog,
        store: LocalStore,
        budget: MemoryBudget,
        instruments: PipelineInstruments,
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        self.shard = shard
        self.journal = KeyJournal(shard.log_dir, settings.idempotency_window_s, clock)
        self.table_log = DeltaTableLog(store, shard.app_id, shard.number, instruments, log)
        self.writer = ArrowWriter(
            settings.writer,
            settings.limits,
            shard.number,
            catalog,
            store,
            self.table_log,
            budget,
            instruments,
            clock,
            log,
        )
        self._budget = budget
        self._instruments = instruments
        self._log = log

    def replay(self) -> Replay:
        """A pass over what a predecessor logged."""
        return Replay(
            LogReader(self.shard.log_dir),
            self.writer,
            self.table_log,
            self._budget,
            self.shard.aside_dir,
            self._instruments,
            self._log,
        )


class Pipeline:
    """One shard, running. Made on the event loop that it lives on.

    `start` begins to flush, `recover` brings back what a predecessor had accepted; only then
    may `write` be called.

    Attributes:
        budget: Bytes that requests, buffers and flushes hold.
        limits: What one request may ask.
        clock: Where times come from.
        keys: Idempotency keys, shared with the other shards.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        instruments: PipelineInstruments,
        clock: Clock | None = None,
        log: FilteringBoundLogger | None = None,
        log_calls: LogCalls | None = None,
    ) -> None:
        """Take the shard and open the catalog.

        Raises:
            ShardInUseError: another process runs this shard.
            StorageError: the data directory cannot be used.
        """
        self._state_dir = settings.data_dir / STATE_DIR
        self._settings = settings
        self._instruments = instruments
        self._store = LocalStore(settings.data_dir)
        self._shard = Shard.acquire(self._state_dir, settings.shard)
        self._catalog = Catalog(
            self._state_dir / "catalog.db",
            settings.limits.max_measurements,
            settings.limits.max_columns,
        )
        self._tables = TableList(self._catalog, settings.data_dir)
        self._log = log or structlog.get_logger()
        self._disk_refusal: str | None = None
        self._replay: Replay | None = None
        self._recovered = False
        self._tasks: list[asyncio.Task[None]] = []
        self.budget = MemoryBudget(settings.memory_bytes)
        self.limits = settings.limits
        self.clock = clock or SystemClock()
        self.keys = KeyWindow(
            self._state_dir / "run" / "keys.db",
            settings.shard,
            settings.idempotency_window_s,
            self.clock,
            shards=range(settings.num_shards),
        )
        self._line = self._open_line(self._shard)
        self._journal = self._line.journal
        self._writer = self._line.writer
        self._writer.on_stored = self._trim
        self._wal = None if settings.durability == "memory" else self._open_wal(log_calls)
        self._seq = 0  # of the latest request, at the level of memory only
        self._keyed: list[tuple[bytes, Callable[[], None]]] = []

    def _open_line(self, shard: Shard) -> _Line:
        return _Line(
            shard,
            self._settings,
            self._catalog,
            self._store,
            self.budget,
            self._instruments,
            self.clock,
            self._log,
        )

    def _open_wal(self, calls: LogCalls | None) -> Wal:
        settings = WalSettings(
            sync=self._settings.durability == "disk",
            segment_bytes=self._settings.log_segment_bytes,
        )
        return Wal(
            self._shard.log_dir,
            self._shard.epoch,
            settings,
            self._instruments,
            self._log,
            calls,
            self._journal.keep,
        )

    def start(self) -> None:
        """Start the flush task and the watch over disk and log, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self.check_disk()
        self._tasks = [
            self._loop.create_task(self._writer.run()),
            self._loop.create_task(self._watch()),
        ]

    # --- recovery ----------------------------------------------------------------------------

    async def recover(self) -> Recovered:
        """Bring back what predecessors had accepted and not stored, then open the log.

        Raises:
            StorageError: the disk refuses.
            ShardInUseError: a shard that this daemon no longer has is in use.
        """
        recovered = Recovered()
        segments = await self._bring_back(self._line, recovered)
        if self._wal is None:
            await self._empty_log(self._line, segments)
        else:
            self._wal.adopt(segments)
            self._wal.start()
        await self._adopt_shards(recovered)
        self.keys.forget_in_flight()
        self._recovered = True
        self._trim()
        return recovered

    async def _bring_back(self, line: _Line, recovered: Recovered) -> Sequence[SegmentInfo]:
        """Remove what a shard had not committed, and buffer what it had logged.

        Returns:
            The segments of its log, all of whose rows are in buffers or tables now.
        """
        cleaned = await asyncio.to_thread(line.table_log.recover)
        recovered.files_removed += cleaned.files_removed
        replayed = await self._run_replay(line)
        recovered.add(replayed)
        await self._restore_keys(line.journal, replayed.keys)
        line.writer.advance(replayed.last_lsn)
        return replayed.segments

    async def _run_replay(self, line: _Line) -> Replayed:
        self._replay = line.replay()
        if self._replay.total_bytes:
            self._log.info("replaying", shard=line.shard.number, log_bytes=self._replay.total_bytes)
        started_s = self.clock.monotonic_s()
        replayed = await self._replay.run()
        if replayed.records:
            self._log.info(
                "replayed",
                shard=line.shard.number,
                requests=replayed.records,
                rows=replayed.rows,
                rows_stored_before=replayed.rows_known,
                rows_quarantined=replayed.rows_quarantined,
                log_bytes=self._replay.total_bytes,
                seconds=round(self.clock.monotonic_s() - started_s, 3),
            )
        return replayed

    async def _restore_keys(self, journal: KeyJournal, keys: Sequence[KeyEntry]) -> None:
        for entry in keys:
            journal.note(entry)
        entries = await asyncio.to_thread(journal.load)
        for path in journal.damaged:
            self._log.error("keys_damaged", path=str(path))
        self.keys.restore([*entries, *keys])

    async def _empty_log(self, line: _Line, segments: Sequence[SegmentInfo]) -> None:
        """Store everything that was replayed, then remove the log it came from."""
        await line.writer.drain()
        await asyncio.to_thread(line.journal.keep, line.writer.last_lsn)
        for path in [segment.path for segment in segments] + spare_paths(line.shard.log_dir):
            path.unlink(missing_ok=True)

    async def _adopt_shards(self, recovered: Recovered) -> None:
        """Store what shards had accepted that this daemon no longer has."""
        settings = self._settings
        for number in shard_numbers(self._state_dir):
            mine = number % settings.num_shards == settings.shard
            if number < settings.num_shards or not mine:
                continue
            left = LogReader(shard_dir(self._state_dir, number) / "log").segments
            if left or self._store.staged(number):
                await self._adopt(number, recovered)

    async def _adopt(self, number: int, recovered: Recovered) -> None:
        shard = Shard.acquire(self._state_dir, number)
        line = self._open_line(shard)
        flush_task = self._loop.create_task(line.writer.run())
        try:
            await self._empty_log(line, await self._bring_back(line, recovered))
        finally:
            flush_task.cancel()
            line.writer.close()
            shard.release()

    # --- a request ---------------------------------------------------------------------------

    def admit(self, nbytes: int) -> None:
        """Take a request's bytes from the budget before any of them is read.

        Raises:
            OverloadedError: the memory budget is taken, or the log is being replayed.
            StorageError: too little free disk space, or the log cannot be written.
        """
        if self._disk_refusal is not None:
            raise StorageError(self._disk_refusal)
        if not self._recovered:
            raise ReplayingError(self.refusal or "starting")
        if self._wal is not None and self._wal.refusal is not None:
            raise ReadOnlyError(self._wal.refusal)
        self.budget.take(nbytes)

    def write(
        self,
        head: RecordHead,
        body: bytes,
        batches: Sequence[ColumnBatch],
        digest: bytes = b"",
    ) -> int | asyncio.Future[int]:
        """Accept the batches of one request, all or none.

        HOT, once a request: a future and no task, for the request waits for its group of the log
        and for nothing else.

        Args:
            head: What `body` needs to be decoded again, and the database of the rows.
            body: As it was received.
            batches: What it decodes to, at least one.
            digest: `body_digest` of the request, if it has a key.

        Returns:
            How many rows; a future of that where something has to be waited for, which fails as
            this does. It must not be cancelled: a request that is logged is kept.

        Raises:
            ClientError: what `ArrowWriter.write` raises.
            OverloadedError: no memory now.
            StorageError: the log or the catalog cannot be written.
        """
        accepted = self._writer.write(head.database, batches)
        if accepted is None:
            return self._loop.create_task(self._write_evolving(head, body, batches, digest))
        return self._log_and_keep(head, body, accepted, digest)

    async def _write_evolving(
        self, head: RecordHead, body: bytes, batches: Sequence[ColumnBatch], digest: bytes
    ) -> int:
        # Whole again after every await: what waits here was neither logged nor kept.
        accepted = await self._writer.write_evolving(head.database, batches)
        stored = self._log_and_keep(head, body, accepted, digest)
        return stored if isinstance(stored, int) else await stored

    def _log_and_keep(
        self, head: RecordHead, body: bytes, accepted: Accepted, digest: bytes
    ) -> int | asyncio.Future[int]:
        if self._wal is None:
            self._seq += 1
            self._writer.keep(accepted, make_lsn(self._shard.epoch, self._seq))
            if head.key:
                self._finish([head.key])
            return accepted.num_rows
        future: asyncio.Future[int] = self._loop.create_future()
        try:
            self._wal.append(head, body, partial(self._logged, future, accepted, head, digest))
        except BaseException:
            self._writer.give_back(accepted)
            raise
        return future

    def _logged(
        self,
        future: asyncio.Future[int],
        accepted: Accepted,
        head: RecordHead,
        digest: bytes,
        lsn: int,
        error: StorageError | None,
    ) -> None:
        """The log has a request, or has refused it: keep it or let go of it, and tell."""
        if error is not None:
            self._writer.give_back(accepted)
            future.set_exception(error)
            return
        self._writer.keep(accepted, lsn)
        if not head.key:
            future.set_result(accepted.num_rows)
            return
        self._journal.note(KeyEntry(lsn, head.key, digest, head.arrival_us))
        if not self._keyed:
            self._loop.call_soon(self._finish_keys)
        self._keyed.append((head.key, partial(future.set_result, accepted.num_rows)))

    def _finish_keys(self) -> None:
        """Mark the keys of a group as stored, at once, before any of them is answered."""
        keyed, self._keyed = self._keyed, []
        self._finish([key for key, _ in keyed])
        for _, tell in keyed:
            tell()

    def _finish(self, keys: Sequence[bytes]) -> None:
        try:
            self.keys.finish(keys)
        except StorageError as error:
            # Their rows are kept all the same. Until `_watch` makes up for it, a repetition is
            # told that the first is in flight.
            self._log.error("keys_not_finished", keys=len(keys), error=str(error))

    def sieve(self, database: str) -> Sieve:
        """Parts the rows that the tables of a database take, as they are now, from the others.

        May be called, and what it returns used, from any thread. It blocks.

        Raises:
            StorageError: the catalog cannot be read.
        """

        def schema_of(measurement: str) -> TableSchema:
            return self._catalog.load(TableId(database, measurement)) or NO_TABLE

        spare_tables = self.limits.max_measurements - self._catalog.count(database)
        return Sieve(schema_of, self.limits, spare_tables)

    def fresh(
        self, table: TableId, epoch: int, after_lsn: int
    ) -> tuple[FreshHead, FreshRows | None]:
        """The rows of a table that were accepted and are in no file that this shard knows of.

        On the event loop, in one step: all rows that were answered before are there or stored.

        Args:
            table: Which.
            epoch: Of the shard, that `after_lsn` is from. In another one all rows are told: what
                a former life had in memory alone may be gone.
            after_lsn: Only those of requests beyond it.
        """
        own = self._shard.epoch
        refusal = "" if self._recovered else self.refusal or "starting"
        head = FreshHead(self._shard.app_id, own, refusal)
        if refusal:
            return head, None
        return head, self._writer.fresh(table, after_lsn if epoch == own else 0)

    def tables(self, database: str | None = None) -> list[TableEntry]:
        """The tables of all shards, as `TableList.entries`. May be called from any thread."""
        return self._tables.entries(database)

    # --- the log and the disk ----------------------------------------------------------------

    @property
    def refusal(self) -> str | None:
        """Why nothing is admitted; None when writes are taken."""
        if self._disk_refusal is not None:
            return self._disk_refusal
        if not self._recovered:
            progress = "" if self._replay is None else f": {self._replay.progress}"
            return f"replaying the log{progress}"
        return None if self._wal is None else self._wal.refusal

    def check_disk(self) -> None:
        """Look at free space and log, and admit or refuse requests from now on accordingly."""
        refusal = self._space_refusal() or self._log_refusal()
        if (refusal is None) != (self._disk_refusal is None):
            self._log.warning("disk_space", refusing=refusal is not None, reason=refusal)
        self._disk_refusal = refusal

    def _space_refusal(self) -> str | None:
        floor = self._settings.min_free_disk_bytes
        try:
            free = self._store.free_bytes()
        except OverloadedError as error:
            return str(error)
        if free >= floor:
            return None
        return f"{free} bytes of disk are free, fewer than {floor} (ARC_MIN_FREE_DISK_BYTES)"

    def _log_refusal(self) -> str | None:
        if self._wal is None:
            return None
        size_bytes, bound_bytes = self._wal.num_bytes, self._settings.log_bytes
        self._writer.hurry(size_bytes > bound_bytes)
        if size_bytes <= LOG_REFUSAL * bound_bytes:
            return None
        return (
            f"the log of shard {self._shard.number} holds {size_bytes} bytes, more than its "
            f"share of ARC_LOG_BYTES, {bound_bytes}; flushes are behind"
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(DISK_CHECK_S)
            self.check_disk()
            with suppress(StorageError):
                self.keys.finish([])  # what an earlier call could not write

    def _trim(self) -> None:
        """Let go of the part of the log that tables hold."""
        if self._wal is not None and self._recovered:
            self._wal.trim(self._writer.low_water_lsn())

    # --- the end -----------------------------------------------------------------------------

    async def drain(self) -> None:
        """Store everything that was accepted. Nothing may be written from here on."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._writer.drain()
        if self._wal is not None:
            self._trim()
            await self._wal.close()

    async def abandon(self) -> None:
        """End at once and store nothing more: what is in the log is for the next start."""
        for task in [*self._tasks, *self._writer.flushes]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._wal is not None:
            self._wal.abandon()
        self.close()

    def close(self) -> None:
        """Give back threads, files and the shard, after `drain` or instead of it."""
        self._writer.close()
        self.keys.close()
        self._catalog.close()
        self._shard.release()
