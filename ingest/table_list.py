"""The tables of a data directory and what they hold, as lists show them. Reads only.

In: the catalog and the Delta logs of the tables. Out: one entry a table, with the files that are
part of it now: not those that left it and are yet to be removed, and no rows that are in memory.
No file of a table is opened; its log knows their rows and times. Whether the files are there and
hold what the log says is for `table_survey` to find out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import deltalake
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest import delta
from ingest.catalog import Catalog
from ingest.columns import TIME_COLUMN
from ingest.delta_folder import add_actions
from ingest.merged_files import DAY_DIR
from ingest.paths import HOUR_US, TableId

#: Folders below that of a table: year, month, day, hour.
_LEVELS = 4


class TableContent(msgspec.Struct, frozen=True):
    """What a table holds at one version.

    Attributes:
        num_files: Parquet files; 0 while its first rows are in memory.
        size_bytes: Of those.
        num_rows: In them; None when the log does not say.
        min_us: Earliest time, microseconds since 1970-01-01T00:00Z; None when there is none, or
            the log does not say.
        max_us: Latest time; the same.
        num_hours: Hours of UTC that the files cover.
    """

    num_files: int = 0
    size_bytes: int = 0
    num_rows: int | None = 0
    min_us: int | None = None
    max_us: int | None = None
    num_hours: int = 0


class TableEntry(msgspec.Struct, frozen=True):
    """One table.

    Attributes:
        table: Database and measurement, as the client sent them.
        directory: Below the data directory.
        content: What it holds.
    """

    table: TableId
    directory: str
    content: TableContent

    @property
    def num_files(self) -> int:
        """Files of the table."""
        return self.content.num_files

    @property
    def size_bytes(self) -> int:
        """Bytes of those."""
        return self.content.size_bytes

    @property
    def files_per_hour(self) -> float:
        """How much the table is in pieces: files for each hour that it has rows of."""
        return self.content.num_files / max(self.content.num_hours, 1)


class TableList:
    """Lists tables, and remembers what each held: only logs that grew are read again.

    May be called from any thread; two at once may both read the same log.

    Args:
        catalog: Of the data directory.
        root: The data directory.
    """

    def __init__(self, catalog: Catalog, root: Path) -> None:
        self._catalog = catalog
        self._root = root
        self._known: dict[TableId, _Known] = {}

    def entries(self, database: str | None = None) -> list[TableEntry]:
        """Every table that the catalog has, by name. Blocks: some 4 ms for each log that it reads.

        Args:
            database: Only tables of this one; None: of all.

        Raises:
            StorageError: the catalog cannot be read.
        """
        return [
            TableEntry(entry.table, entry.directory, self._content(entry.table, entry.directory))
            for entry in self._catalog.tables()
            if database is None or entry.table.database == database
        ]

    def _content(self, table: TableId, directory: str) -> TableContent:
        folder = self._root / directory
        known = self._known.get(table)
        if known is None or known.mark != _mark(folder, known.version):
            known = _read(folder)
            self._known[table] = known
        return known.content


def list_tables(catalog: Catalog, root: Path, database: str | None = None) -> list[TableEntry]:
    """As `TableList.entries`, once.

    Args:
        catalog: Of the data directory.
        root: The data directory.
        database: Only tables of this one; None: of all.

    Raises:
        StorageError: the catalog cannot be read.
    """
    return TableList(catalog, root).entries(database)


class _Known(msgspec.Struct, frozen=True):
    """A table as it was read: at which version, what its log looked like, what it held."""

    version: int
    mark: tuple[int, ...]
    content: TableContent


def _mark(folder: Path, version: int) -> tuple[int, ...]:
    """What tells that a version is the last one, and of the same table; empty if it is not."""
    log = folder / delta.LOG_DIR
    try:
        found = (log / delta.commit_name(version)).stat()
    except FileNotFoundError:
        return ()
    is_last = not (log / delta.commit_name(version + 1)).exists()
    return (found.st_ino, found.st_mtime_ns) if is_last else ()


def _read(folder: Path) -> _Known:
    if not (folder / delta.LOG_DIR).is_dir():
        return _Known(-1, (0,), TableContent())  # no mark is (0,): it is looked at again
    try:
        handle = deltalake.DeltaTable(str(folder))
        version = handle.version()
        actions = add_actions(handle)
        return _Known(version, _mark(folder, version), _content_of(actions))
    except BaseException as error:
        # A panic of Rust code is no Exception.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
    # One table that cannot be read must not hide the others: what lies there is what is known.
    sizes = list(_file_sizes(folder, _LEVELS))
    return _Known(-1, (0,), TableContent(len(sizes), sum(sizes), None))


def _content_of(actions: pa.Table) -> TableContent:
    rows = _numbers(actions, "num_records")
    lows, highs = (_numbers(actions, f"{end}.{TIME_COLUMN}") for end in ("min", "max"))
    content = TableContent(
        num_files=actions.num_rows,
        size_bytes=pc.sum(actions["size_bytes"]).as_py() or 0,
        num_rows=None if rows is None else int(rows.sum()),
    )
    if lows is None or highs is None or not len(lows):
        return content
    return msgspec.structs.replace(
        content,
        min_us=int(lows.min()),
        max_us=int(highs.max()),
        num_hours=_count_hours(lows, highs),
    )


def _numbers(actions: pa.Table, name: str) -> np.ndarray | None:
    """A column of statistics as int64, times in microseconds; None if any file lacks it."""
    if name not in actions.column_names or actions[name].null_count:
        return None if actions.num_rows else np.zeros(0, np.int64)
    column = actions[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    found: np.ndarray = column.cast(pa.int64()).to_numpy()
    return found


def _count_hours(lows: np.ndarray, highs: np.ndarray) -> int:
    """How many hours the ranges of times touch, each counted once.

    Args:
        lows: int64, shape (files,) of at least one, microseconds.
        highs: The same, none below its low.
    """
    order = np.argsort(lows)
    firsts, lasts = lows[order] // HOUR_US, highs[order] // HOUR_US
    # What the ranges before one cover; they are in the order of their beginnings.
    covered = np.maximum.accumulate(np.concatenate(([firsts[0] - 1], lasts[:-1])))
    return int(np.maximum(lasts - np.maximum(firsts - 1, covered), 0).sum())


def _file_sizes(folder: Path | str, levels: int) -> Iterator[int]:
    """Bytes of each Parquet file so many levels below a folder, which may be gone by now."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # Hours, and the day files of compaction, are as deep.
                if levels and (entry.name.isdecimal() or (levels == 1 and entry.name == DAY_DIR)):
                    yield from _file_sizes(entry.path, levels - 1)
                elif not levels and entry.name.endswith(".parquet"):
                    yield entry.stat().st_size
    except FileNotFoundError:
        return
