"""Batches into buffers, and buffers into files: the middle of the pipeline.

`write` makes a request's batches fit their tables and takes the memory for them, all or none;
`keep` appends them, once the log has the request and nothing can go wrong any more. A flush task
takes what is due from the buffers and has threads build and store it (`_flush_records`). What is
taken stays owned by its flush until a file of its table holds it: a flush that fails is tried
again, and nothing is ever dropped while the process lives.

This module decides when and in which order; how rows become a table (`table_build`), bytes
(`parquet`) and a file of the table (`table_log`) is below it.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress

import msgspec
from structlog.typing import FilteringBoundLogger

from ingest import parquet
from ingest.budget import MemoryBudget
from ingest.buffer import MeasurementBuffer, Taken
from ingest.catalog import Catalog
from ingest.clock import Clock
from ingest.columns import ColumnBatch
from ingest.errors import IngestError, LimitError, StaleSchemaError, TooLargeError
from ingest.fresh_rows import FreshRows
from ingest.instruments import PipelineInstruments
from ingest.limits import Limits
from ingest.lsn import epoch_of, seq_of
from ingest.paths import HOUR_US, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.schema import NO_TABLE, TableSchema, cast, fit
from ingest.store import LocalStore, StagedFile
from ingest.table_build import HourTable, build_tables
from ingest.table_log import TableLog

#: A flush starts early by what flushes take, so that rows are stored when their age is up; but
#: never by more than this share of the age, or a slow disk would make ever smaller files.
MAX_LEAD = 0.5

#: Weight of the latest flush in the running mean of what flushes take.
FLUSH_TIME_WEIGHT = 0.2

#: Above this share of the memory budget the largest buffer is flushed without waiting for age.
PRESSURE = 0.5

#: Memory that a flush takes beside the batches, as a share of theirs: the joined columns, their
#: dictionaries and the encoded pages. 60 MB of batches took 60 to 84 MB more
#: (docs/profiling/2026-11-20-table-build.md), two at a time, and allocators keep some.
FLUSH_WORKING_SHARE = 1.5

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0


class WriterSettings(msgspec.Struct, frozen=True):
    """When a buffer is worth a file, and how the file is written.

    Attributes:
        flush_rows: Rows of a measurement that are flushed at once.
        flush_age_s: Age of the oldest row by which it is to be stored.
        flush_bytes: Most bytes of batches in one flush; also bounds its working memory.
        flush_threads: Flushes that run at the same time.
        compression: General codec of the files: none, snappy, lz4 or zstd.
    """

    flush_rows: int = 1_000_000
    flush_age_s: float = 5.0
    flush_bytes: int = 256 * 2**20
    flush_threads: int = 2
    compression: parquet.Compression = "lz4"


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The batches of one request, which fit their tables, and the memory that is theirs.

    Whoever has one hands it to `ArrowWriter.keep` or to `ArrowWriter.give_back`.
    """

    fitted: Sequence[tuple[MeasurementBuffer, ColumnBatch]]
    num_rows: int
    nbytes: int


class ArrowWriter:
    """Buffers of one shard and the task that flushes them. Lives on one event loop.

    Rows accepted = rows buffered + rows stored, after every call: the three are only ever
    changed together, between two awaits.

    Attributes:
        flushes: Those under way, each owning the rows that it took.
        mean_flush_s: What a flush takes lately, from hand-over to stored.
        last_lsn: Log sequence number of the latest request that was kept.
        on_stored: Called after every flush that succeeded.
        hurried: Flush the oldest rows at once, whatever their age: they pin the log.
    """

    def __init__(
        self,
        settings: WriterSettings,
        limits: Limits,
        shard: int,
        catalog: Catalog,
        store: LocalStore,
        table_log: TableLog,
        budget: MemoryBudget,
        instruments: PipelineInstruments,
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._shard = shard
        self._catalog = catalog
        self._store = store
        self._table_log = table_log
        self._budget = budget
        self._instruments = instruments
        self._clock = clock
        self._log = log
        self.last_lsn = 0
        self.hurried = False
        self.on_stored: Callable[[], None] = _nothing
        self._buffers: dict[TableId, MeasurementBuffer] = {}
        self._waiting: dict[TableId, MeasurementBuffer] = {}  # not empty; oldest rows first
        self._full: dict[TableId, MeasurementBuffer] = {}  # those with flush_rows or more
        self._flushing: dict[TableId, Taken] = {}  # by table, at most one each
        self._running = 0  # flushes in their first try
        self.flushes: set[asyncio.Task[None]] = set()
        self.mean_flush_s = 0.0
        self._wake = asyncio.Event()
        self._draining = False
        self._catalog_thread = ThreadPoolExecutor(1, "arc-catalog")
        self._flush_threads = ThreadPoolExecutor(settings.flush_threads, "arc-flush")

    # --- a request ---------------------------------------------------------------------------

    def write(self, database: str, batches: Sequence[ColumnBatch]) -> Accepted | None:
        """Accept the batches of one request, all or none, if their tables can take them as is.

        They have their memory then, and can be kept at any later time: schemas only widen.

        HOT, once a request, and no coroutine for that: 3 µs of 38 were tasks and awaits that
        never waited (docs/profiling/2026-11-20-http-front.md).

        Args:
            database: Its name, checked by the caller.
            batches: At least one.

        Returns:
            None: a table has to change first; `write_evolving` does both.

        Raises:
            PayloadError: a name, a value or a type that a table cannot take.
            LimitError: over a limit on columns, measurements or hours.
            TooLargeError: too many bytes of columns for this memory budget, ever.
            OverloadedError: no memory for them now.
        """
        for batch in batches:
            self._check_hours(batch)
        fitted = self._fit_known(database, batches)
        return None if fitted is None else self._take_memory(fitted)

    async def write_evolving(self, database: str, batches: Sequence[ColumnBatch]) -> Accepted:
        """Change the tables that cannot take the batches, durably, then accept them.

        Only for batches that `write` has just answered None for; errors as there.
        """
        return self._take_memory(await self._fit_evolving(database, batches))

    async def write_again(self, database: str, batches: Sequence[ColumnBatch]) -> Accepted:
        """Accept batches of a request that was accepted before, by a process that is no more.

        Neither limits nor memory refuse it, since its client was told 204.

        Raises:
            ClientError: a table does not take it, which means that the catalog was lost.
            StorageError: the catalog cannot be read or written.
        """
        fitted = self._fit_known(database, batches)
        if fitted is None:
            fitted = await self._fit_evolving(database, batches)
        accepted = _accepted(fitted)
        self._budget.force(accepted.nbytes)
        return accepted

    def _check_hours(self, batch: ColumnBatch) -> None:
        first_us, last_us = batch.range_us
        hours = last_us // HOUR_US - first_us // HOUR_US + 1
        if hours <= self._limits.max_hours:
            return
        distinct = len(set((batch.time_us // HOUR_US).tolist()))
        if distinct > self._limits.max_hours:
            raise LimitError(
                f"hours covered by measurement {batch.measurement!r}",
                distinct,
                self._limits.max_hours,
                "ARC_MAX_HOURS",
            )

    def _fit_known(
        self, database: str, batches: Sequence[ColumnBatch]
    ) -> list[tuple[MeasurementBuffer, ColumnBatch]] | None:
        """Batches in the types of their tables; None when a table has to change for one."""
        fitted = []
        for batch in batches:
            buffer = self._buffers.get(TableId(database, batch.measurement))
            if buffer is None:
                return None
            result = fit(buffer.schema, batch, self._limits.max_columns)
            if result.schema is not None:
                return None
            fitted.append((buffer, result.batch))
        return fitted

    async def _fit_evolving(
        self, database: str, batches: Sequence[ColumnBatch]
    ) -> list[tuple[MeasurementBuffer, ColumnBatch]]:
        """Agree with the other shards on the schemas that the batches need, then fit them."""
        tables = sorted({TableId(database, batch.measurement) for batch in batches})
        started = self._clock.monotonic_s()
        async with AsyncExitStack() as held:
            for table in tables:  # in one order everywhere: no two requests wait for each other
                await held.enter_async_context(self._buffer(table).lock)
            self._instruments.lock_wait_seconds.observe(self._clock.monotonic_s() - started)
            try:
                return self._fit_known(database, batches) or await self._evolve(database, batches)
            finally:
                self._forget_unknown(tables)

    async def _evolve(
        self, database: str, batches: Sequence[ColumnBatch]
    ) -> list[tuple[MeasurementBuffer, ColumnBatch]]:
        changes: dict[TableId, list[ColumnBatch]] = {}
        for batch in batches:
            changes.setdefault(TableId(database, batch.measurement), []).append(batch)
        schemas = await asyncio.get_running_loop().run_in_executor(
            self._catalog_thread, self._catalog.evolve_many, changes
        )
        for table, schema in schemas.items():
            # Made anew if a request that was refused meanwhile took it away.
            self._buffer(table).schema = schema
        buffers = [self._buffers[TableId(database, batch.measurement)] for batch in batches]
        return [
            (buffer, cast(buffer.schema, batch))
            for buffer, batch in zip(buffers, batches, strict=True)
        ]

    @property
    def num_buffers(self) -> int:
        """Tables that this shard has seen rows of."""
        return len(self._buffers)

    def _buffer(self, table: TableId) -> MeasurementBuffer:
        buffer = self._buffers.get(table)
        if buffer is None:
            buffer = self._buffers[table] = MeasurementBuffer(table, NO_TABLE)
        return buffer

    def _forget_unknown(self, tables: Sequence[TableId]) -> None:
        """Drop buffers of tables that were refused, so that refusals take no memory."""
        for table in tables:
            buffer = self._buffers.get(table)
            if buffer is not None and buffer.schema is NO_TABLE:
                del self._buffers[table]

    def _take_memory(self, fitted: Sequence[tuple[MeasurementBuffer, ColumnBatch]]) -> Accepted:
        accepted = _accepted(fitted)
        if accepted.nbytes > self._budget.limit_bytes // 2:
            # The other half is for the body itself: this would be told to come back for ever.
            raise TooLargeError(
                f"the columns of the request take {accepted.nbytes} bytes, which",
                self._budget.limit_bytes // 2,
                "half of a worker's share of ARC_MEMORY_BYTES",
            )
        self._budget.take(accepted.nbytes)
        return accepted

    def give_back(self, accepted: Accepted) -> None:
        """Let go of what was accepted and could not be logged."""
        self._budget.give_back(accepted.nbytes)

    def keep(self, accepted: Accepted, lsn: int, again: bool = False) -> None:
        """Append what was accepted to its buffers: a flush will store it.

        Args:
            accepted: By `write` or one of its kin, and not given back.
            lsn: Log sequence number of the request, higher than that of every request before.
            again: The rows were counted as accepted by a process that is no more.
        """
        # No await in here, and nothing that fails: half a request must never be kept.
        now_s = self._clock.monotonic_s()
        if not self._waiting:
            self._wake.set()  # the flush task sleeps for good while nothing waits
        for buffer, batch in accepted.fitted:
            buffer.append(batch, lsn, now_s)
            self._waiting.setdefault(buffer.table, buffer)
            if buffer.num_rows >= self._settings.flush_rows:
                self._full[buffer.table] = buffer
                self._wake.set()
        self.last_lsn = lsn
        if not again:
            self._instruments.rows_accepted.inc(accepted.num_rows)
        self._instruments.rows_buffered.add(accepted.num_rows)
        self._instruments.bytes_buffered.add(accepted.nbytes)
        if self._budget.pressure > PRESSURE:
            self._wake.set()

    def low_water_lsn(self) -> int:
        """Every row with a log sequence number below this is in a file of its table."""
        waiting = [buffer.first_lsn for buffer in self._waiting.values()]
        flushing = [taken.first_lsn for taken in self._flushing.values()]
        return min([*waiting, *flushing], default=self.last_lsn + 1)

    def advance(self, lsn: int) -> None:
        """Nothing up to this log sequence number will be kept any more."""
        self.last_lsn = max(self.last_lsn, lsn)

    def fresh(self, table: TableId, after_lsn: int) -> FreshRows | None:
        """The rows of a table that no file is known to hold; None: there are none.

        Those of a flush are among them until its commit is known here, so some may be in the
        table already: the `txn` of its commit tells.

        Args:
            table: Which.
            after_lsn: Only those of requests beyond this log sequence number.
        """
        buffer = self._buffers.get(table)
        if buffer is None:
            return None
        batches, lsns = buffer.after(after_lsn)
        taken = self._flushing.get(table)
        if taken is not None and taken.last_lsn > after_lsn:
            start = bisect.bisect_right(taken.lsns, after_lsn)
            batches = [*taken.batches[start:], *batches]
            lsns = [*taken.lsns[start:], *lsns]
        return FreshRows(buffer.schema, batches, lsns) if batches else None

    def hurry(self, hurried: bool) -> None:
        """Flush the oldest rows at once from now on, or no longer: they pin the log."""
        self.hurried = hurried
        if hurried:
            self._wake.set()

    # --- the flush task ----------------------------------------------------------------------

    async def run(self) -> None:
        """Flush what is due, for ever: the flush task. Cancel it to stop taking; see `drain`."""
        while True:
            self._wake.clear()
            self.start_due_flushes()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._sleep_s())

    def start_due_flushes(self) -> None:
        """Hand over what is due, the most urgent first, as long as a flush thread is free."""
        while self._running < self._settings.flush_threads:
            buffer = self._most_urgent()
            if buffer is None:
                return
            self._start_flush(buffer)

    def _most_urgent(self) -> MeasurementBuffer | None:
        """The buffer to flush next, or None: by age, else by memory, else by rows."""
        oldest = self._first_free(self._waiting)
        if oldest is None:
            return None
        if self._draining or self._age_s(oldest) >= self._due_age_s():
            return oldest
        if self.hurried:
            free = [buffer for buffer in self._waiting.values() if self._is_free(buffer)]
            return min(free, key=lambda buffer: buffer.first_lsn)
        if self._budget.pressure > PRESSURE:
            free = [buffer for buffer in self._waiting.values() if self._is_free(buffer)]
            return max(free, key=lambda buffer: buffer.nbytes)
        return self._first_free(self._full)

    def _first_free(self, buffers: dict[TableId, MeasurementBuffer]) -> MeasurementBuffer | None:
        return next((buffer for buffer in buffers.values() if self._is_free(buffer)), None)

    def _is_free(self, buffer: MeasurementBuffer) -> bool:
        """Whether no flush of this table is under way: its files are committed in order."""
        return buffer.table not in self._flushing

    def _age_s(self, buffer: MeasurementBuffer) -> float:
        return self._clock.monotonic_s() - buffer.oldest_s

    def _due_age_s(self) -> float:
        """Age at which a flush has to start for its rows to be stored when their age is up."""
        ahead = len(self._waiting) * self.mean_flush_s / self._settings.flush_threads
        return self._settings.flush_age_s - min(ahead, MAX_LEAD * self._settings.flush_age_s)

    def _sleep_s(self) -> float | None:
        """How long the flush task may sleep; None: until something wakes it."""
        oldest = self._first_free(self._waiting)
        if oldest is None or self._running >= self._settings.flush_threads:
            return None
        return max(0.0, self._due_age_s() - self._age_s(oldest))

    def _start_flush(self, buffer: MeasurementBuffer) -> None:
        taken = buffer.hand_over(self._settings.flush_bytes)
        del self._waiting[taken.table]
        self._full.pop(taken.table, None)
        if buffer.num_rows:
            self._waiting[taken.table] = buffer
        if buffer.num_rows >= self._settings.flush_rows:
            self._full[taken.table] = buffer
        self._flushing[taken.table] = taken
        self._running += 1
        task = asyncio.get_running_loop().create_task(self._flush(taken))
        self.flushes.add(task)
        task.add_done_callback(self.flushes.discard)

    async def _flush(self, taken: Taken) -> None:
        """Store what was taken, however often that has to be tried."""
        working_bytes = int(FLUSH_WORKING_SHARE * taken.nbytes)
        self._budget.force(working_bytes)
        stored = await self._try_flush(taken)
        self._running -= 1  # a flush that waits for its next try leaves its turn to other tables
        self._wake.set()
        retry_s = RETRY_FIRST_S
        while not stored:
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_MAX_S)
            stored = await self._try_flush(taken)
        self._budget.give_back(taken.nbytes + working_bytes)
        self._instruments.rows_stored.inc(taken.num_rows)
        self._instruments.rows_buffered.add(-taken.num_rows)
        self._instruments.bytes_buffered.add(-taken.nbytes)
        self._instruments.flush_age_seconds.observe(self._clock.monotonic_s() - taken.oldest_s)
        del self._flushing[taken.table]
        self._wake.set()
        self.on_stored()

    async def _try_flush(self, taken: Taken) -> bool:
        started = self._clock.monotonic_s()
        loop = asyncio.get_running_loop()
        try:
            files = await loop.run_in_executor(self._flush_threads, self._flush_records, taken)
        except Exception as error:
            self._instruments.flush_failures.inc()
            self._log.error(
                "flush_failed",
                database=taken.table.database,
                measurement=taken.table.measurement,
                rows=taken.num_rows,
                error=str(error),
                exc_info=not isinstance(error, (IngestError, OSError)),
            )
            return False
        took_s = self._clock.monotonic_s() - started
        self.mean_flush_s += FLUSH_TIME_WEIGHT * (took_s - self.mean_flush_s)
        self._instruments.flushes.inc()
        self._instruments.flush_seconds.observe(took_s)
        self._instruments.files_written.inc(len(files))
        self._instruments.bytes_written.inc(sum(file.size_bytes for file in files))
        return True

    def _flush_records(self, taken: Taken) -> list[StagedFile]:
        """Build the tables of what was taken, one an hour, and make their files the table's.

        Runs in a flush thread. Safe to repeat: the names of the files are those of the rows.
        """
        first, last = taken.first_lsn, taken.last_lsn
        marks = LogRange(self._shard, epoch_of(first), seq_of(first), seq_of(last))
        while True:
            schema = self._catalog.load(taken.table) or taken.schema
            hours = build_tables(taken.batches, schema)
            try:
                return self._commit(taken.table, schema, marks, hours)
            except StaleSchemaError:  # another shard was faster: its schema is in the catalog
                continue

    def _commit(
        self, table: TableId, schema: TableSchema, marks: LogRange, hours: Sequence[HourTable]
    ) -> list[StagedFile]:
        files: list[StagedFile] = []
        try:
            for hour in hours:  # one by one: what is staged must be known when the next fails
                files.append(self._stage(table, schema, marks, hour))  # noqa: PERF401
            self._table_log.commit(table, files, marks, schema)
        except BaseException:
            self._store.discard(files)
            raise
        return files

    def _stage(
        self, table: TableId, schema: TableSchema, marks: LogRange, hour: HourTable
    ) -> StagedFile:
        """Write the rows of one hour into a file that is not part of the table yet."""
        name = file_name(marks.shard, marks.epoch, marks.first_seq, marks.last_seq)
        log = f"{marks.shard}/{marks.epoch}/{marks.first_seq}-{marks.last_seq}"
        metadata = parquet.file_metadata(schema, log) | {
            "arc:database": table.database,
            "arc:measurement": table.measurement,
        }
        options = parquet.plan(hour.table, self._settings.compression)
        return self._store.stage(
            f"{table_dir(table)}/{hour_dir(hour.hour_start_us)}/{name}",
            lambda path: parquet.write(hour.table, path, options, metadata),
            num_rows=hour.table.num_rows,
            min_time_us=hour.min_time_us,
            max_time_us=hour.max_time_us,
        )

    async def drain(self) -> None:
        """Store everything. Nothing may be written meanwhile.

        Returns when all is stored; on a disk that refuses that is never, so bound it.
        """
        self._draining = True
        while self._waiting or self.flushes:
            self.start_due_flushes()
            if self.flushes:
                await asyncio.wait(self.flushes, return_when=asyncio.FIRST_COMPLETED)
        self._draining = False

    def close(self) -> None:
        """End the threads, after `drain` or instead of it."""
        self._catalog_thread.shutdown(wait=False, cancel_futures=True)
        self._flush_threads.shutdown(wait=False, cancel_futures=True)


def _accepted(fitted: Sequence[tuple[MeasurementBuffer, ColumnBatch]]) -> Accepted:
    if len(fitted) == 1:
        batch = fitted[0][1]
        return Accepted(fitted, batch.num_rows, batch.nbytes)
    rows = sum([batch.num_rows for _, batch in fitted])
    return Accepted(fitted, rows, sum([batch.nbytes for _, batch in fitted]))


def _nothing() -> None:
    """Nobody wants to hear of stored rows."""
