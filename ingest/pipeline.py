"""The parts of one shard, wired together: open, write, drain, close.

What a daemon, a test or a benchmark needs to run the pipeline without HTTP. It adds no behaviour
of its own beyond the order in which things start and stop, and the watch over free disk space.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from ingest.arrow_writer import ArrowWriter, WriterSettings
from ingest.budget import MemoryBudget
from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.columns import ColumnBatch
from ingest.errors import OverloadedError, StorageError
from ingest.instruments import PipelineInstruments
from ingest.limits import Limits
from ingest.shard import Shard
from ingest.store import LocalStore
from ingest.table_log import FolderTableLog

#: Folder of the daemon's own state, below the data directory. No database can have this name.
STATE_DIR = ".arc"

#: How often free space is looked at. A shard writes some 500 MB a second at the most.
DISK_CHECK_S = 0.5


class PipelineSettings(msgspec.Struct, frozen=True):
    """What one shard needs to know.

    Attributes:
        data_dir: Where tables live.
        shard: Number of this shard.
        memory_bytes: Budget of this shard alone.
        min_free_disk_bytes: With less free space, nothing is admitted.
        writer: When to flush, and how.
        limits: What one request may ask.
    """

    data_dir: Path
    shard: int
    memory_bytes: int
    min_free_disk_bytes: int
    writer: WriterSettings
    limits: Limits


class Pipeline:
    """One shard, running. Made by `Pipeline.open` on the event loop that it lives on.

    Attributes:
        budget: Bytes that requests, buffers and flushes hold.
        limits: What one request may ask.
        clock: Where times come from.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        instruments: PipelineInstruments,
        clock: Clock | None = None,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        """Take the shard, remove what a predecessor left half written, open the catalog.

        Raises:
            ShardInUseError: another process runs this shard.
            StorageError: the data directory cannot be used.
        """
        state_dir = settings.data_dir / STATE_DIR
        self._settings = settings
        self._store = LocalStore(settings.data_dir)
        self._shard = Shard.acquire(state_dir, settings.shard)
        self._store.clean_temporaries(settings.shard)
        self._catalog = Catalog(
            state_dir / "catalog.db", settings.limits.max_measurements, settings.limits.max_columns
        )
        self._log = log or structlog.get_logger()
        self._disk_refusal: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.budget = MemoryBudget(settings.memory_bytes)
        self.limits = settings.limits
        self.clock = clock or SystemClock()
        self._writer = ArrowWriter(
            settings.writer,
            settings.limits,
            self._shard.number,
            self._shard.epoch,
            self._catalog,
            self._store,
            FolderTableLog(self._store),
            self.budget,
            instruments,
            self.clock,
            self._log,
        )

    def start(self) -> None:
        """Start the flush task and the watch over the disk, on the running event loop."""
        self.check_disk()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._writer.run()), loop.create_task(self._watch_disk())]

    def admit(self, nbytes: int) -> None:
        """Take a request's bytes from the budget before any of them is read.

        Raises:
            OverloadedError: the memory budget is taken.
            StorageError: too little free disk space.
        """
        if self._disk_refusal is not None:
            raise StorageError(self._disk_refusal)
        self.budget.take(nbytes)

    def write_at_once(self, database: str, batches: Sequence[ColumnBatch]) -> int | None:
        """Accept the batches of one request unless that has to wait; see `ArrowWriter.write`."""
        return self._writer.write(database, batches)

    async def write(self, database: str, batches: Sequence[ColumnBatch]) -> int:
        """Accept the batches of one request, all or none; errors as `ArrowWriter.write`.

        Returns:
            How many rows.
        """
        rows = self._writer.write(database, batches)
        return await self._writer.write_evolving(database, batches) if rows is None else rows

    @property
    def disk_refusal(self) -> str | None:
        """Why nothing is admitted for lack of disk space; None when there is enough."""
        return self._disk_refusal

    def check_disk(self) -> None:
        """Look at the free space, and admit or refuse requests from now on accordingly."""
        floor = self._settings.min_free_disk_bytes
        try:
            free = self._store.free_bytes()
        except OverloadedError as error:
            refusal: str | None = str(error)
        else:
            refusal = None
            if free < floor:
                refusal = (
                    f"{free} bytes of disk are free, fewer than {floor} (ARC_MIN_FREE_DISK_BYTES)"
                )
        if (refusal is None) != (self._disk_refusal is None):
            self._log.warning("disk_space", refusing=refusal is not None, reason=refusal)
        self._disk_refusal = refusal

    async def _watch_disk(self) -> None:
        while True:
            await asyncio.sleep(DISK_CHECK_S)
            self.check_disk()

    async def drain(self) -> None:
        """Store everything that was accepted. Nothing may be written from here on."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._writer.drain()

    def close(self) -> None:
        """Give back threads, files and the shard, after `drain` or instead of it."""
        self._writer.close()
        self._catalog.close()
        self._shard.release()
