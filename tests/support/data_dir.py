"""Data directories made by the parts of the pipeline, one act at a time, for tests that break them.

Nothing runs in the background: what is in the log and what is in a table is said by the test.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog

from ingest import delta, parquet
from ingest.catalog import Catalog
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import StorageError
from ingest.instruments import null
from ingest.log_format import Format, RecordHead
from ingest.paths import HOUR_US, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.schema import ColumnSpec, TableSchema
from ingest.shard import Shard
from ingest.store import LocalStore, StagedFile
from ingest.table_log import DeltaTableLog
from ingest.testing import columnar
from ingest.wal import Wal, WalSettings

CPU = TableId("db", "cpu")
MEM = TableId("db", "mem")
SCHEMA = TableSchema({"v": ColumnSpec(ColumnType.INT64)}, 1)
HOUR_0_US = 1_700_000_000_000_000 // HOUR_US * HOUR_US
SEGMENT_BYTES = 16_384


class DataDirectory:
    """One data directory.

    Args:
        root: Where; made.

    Attributes:
        root: Where.
        app_ids: Of the shards that have started.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app_ids: dict[int, str] = {}
        self.store = LocalStore(root)
        self._catalog = Catalog(root / ".arc/catalog.db", 100, 100)

    def copy(self, root: Path) -> DataDirectory:
        """The same elsewhere."""
        shutil.copytree(self.root, root)
        made = DataDirectory(root)
        made.app_ids = dict(self.app_ids)
        return made

    def close(self) -> None:
        """Give the catalog back."""
        self._catalog.close()

    def start(self, shard: int = 0) -> int:
        """Begin an epoch of a shard; which."""
        started = Shard.acquire(self.root / ".arc", shard)
        self.app_ids[shard] = started.app_id
        started.release()
        return started.epoch

    def log_dir(self, shard: int = 0) -> Path:
        """Where a shard's log lies."""
        return self.root / f".arc/shards/{shard:03d}/log"

    def log(self, tables: Sequence[Sequence[TableId]], shard: int = 0, epoch: int = 1) -> None:
        """Log requests 1 to n of an epoch, each with a row for each of its tables."""
        asyncio.run(self._log(tables, shard, epoch))

    async def _log(self, tables: Sequence[Sequence[TableId]], shard: int, epoch: int) -> None:
        settings = WalSettings(sync=False, segment_bytes=SEGMENT_BYTES)
        wal = Wal(self.log_dir(shard), epoch, settings, null(), structlog.get_logger())
        wal.start()
        for names in tables:
            told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            head = RecordHead(Format.MSGPACK, names[0].database, None, HOUR_0_US)
            maps = [columnar(name.measurement, {"time": [HOUR_0_US], "v": [1]}) for name in names]
            wal.append(head, bytes([0x90 | len(maps)]) + b"".join(maps), partial(_tell, told))
            await told
        await wal.close()

    def flush(
        self,
        first_seq: int,
        last_seq: int,
        table: TableId = CPU,
        shard: int = 0,
        epoch: int = 1,
        hours: Sequence[int] = (0,),
    ) -> list[str]:
        """Commit a file of ten rows for each hour; their paths below the root."""
        self._catalog.evolve(table, [_batch(table)])
        marks = LogRange(shard, epoch, first_seq, last_seq)
        files = [self.stage(marks, table, hour) for hour in hours]
        log = DeltaTableLog(self.store, self.app_ids[shard], shard, null(), structlog.get_logger())
        log.commit(table, files, marks, SCHEMA)
        return [file.path for file in files]

    def stage(
        self, marks: LogRange, table: TableId = CPU, hour: int = 0, rows: pa.Table | None = None
    ) -> StagedFile:
        """A file that is in no table yet."""
        filled = ten_rows(hour) if rows is None else rows
        times = filled.column("time").cast(pa.int64()).drop_null().to_pylist()
        name = file_name(marks.shard, marks.epoch, marks.first_seq, marks.last_seq)
        return self.store.stage(
            f"{table_dir(table)}/{hour_dir(HOUR_0_US + hour * HOUR_US)}/{name}",
            lambda path: parquet.write(filled, path, parquet.plan(filled, "none")),
            num_rows=filled.num_rows,
            min_time_us=min(times),
            max_time_us=max(times),
        )

    def commit_by_hand(self, table: TableId, *actions: delta.Action) -> None:
        """Append a commit that nobody checks."""
        log = self.root / table_dir(table) / delta.LOG_DIR
        version = len(list(log.glob("*.json")))
        (log / delta.commit_name(version)).write_bytes(delta.encode_commit(actions))

    def add_by_hand(self, path: str, **changes: int) -> None:
        """Add a file that is under its name, with other statistics than it has."""
        size = (self.root / path).stat().st_size
        database, measurement, below = path.split("/", 2)
        start_us = changes.get("min_time_us", HOUR_0_US)
        end_us = changes.get("max_time_us", HOUR_0_US + 9)
        stats = delta.statistics(changes.get("num_rows", 10), start_us, end_us)
        added = delta.AddedFile(below, changes.get("size_bytes", size), 0, stats)
        self.commit_by_hand(TableId(database, measurement), delta.add(added))

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Every file and folder with its size and the time of its last change."""
        found: Iterator[Path] = self.root.rglob("*")
        return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


def ten_rows(hour: int = 0) -> pa.Table:
    """Rows of the first microseconds of an hour."""
    start_us = HOUR_0_US + hour * HOUR_US
    return rows_at([start_us + i for i in range(10)])


def rows_at(times_us: Sequence[int | None]) -> pa.Table:
    """A row for each time, as `table_build` makes them."""
    times = pa.array(times_us, pa.timestamp("us", "UTC"))
    field = pa.field("time", times.type, nullable=None in times_us)
    values = pa.array(range(len(times_us)), pa.int64())
    return pa.table([times, values], schema=pa.schema([field, pa.field("v", pa.int64())]))


def _batch(table: TableId) -> ColumnBatch:
    column = Column(ColumnType.INT64, np.ones(1, np.int64))
    return ColumnBatch(table.measurement, np.zeros(1, np.int64), {"v": column})


def _tell(told: asyncio.Future[int], lsn: int, error: StorageError | None) -> None:
    if error is not None:
        told.set_exception(error)
    else:
        told.set_result(lsn)


def sound_directory(root: Path) -> DataDirectory:
    """Two shards, the first in its second epoch, and two tables, with nothing wrong.

    All requests of the first epochs are stored. Of the second, the log has three, and the table
    `cpu` two, of which one is of the table `mem` as well.
    """
    made = DataDirectory(root)
    made.start(0)
    made.start(1)
    made.flush(1, 3, CPU, hours=[0, 1])
    made.flush(2, 4, MEM)
    made.flush(1, 1, MEM, shard=1)
    made.start(0)
    made.log([[CPU], [CPU, MEM], [MEM]], epoch=2)
    made.flush(1, 2, CPU, epoch=2)
    return made
