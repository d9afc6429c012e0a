"""One table, looked at: what its Delta log says against the files that are there. Never writes.

In: the folder of a table. Out: findings, counts, and which requests its files hold. A table is
read through `deltalake`, as by anyone else, and not through what this package knows of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import deltalake
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest import delta
from ingest.columns import TIME_COLUMN
from ingest.delta_folder import add_actions, read_tombstones
from ingest.errors import IngestError, StorageError
from ingest.findings import Finding, Severity, Span, in_words
from ingest.lsn import make_lsn, seq_of
from ingest.merged_files import DAY_DIR, decode_covers, is_merged_name
from ingest.paths import HOUR_US, LogRange, TableId, hour_start_us, table_dir
from ingest.promotion import is_note, parse_rewritten_name, read_note

_SUFFIX = ".parquet"
_BATCH_ROWS = 1 << 17


class _Pending(msgspec.Struct, frozen=True):
    """Names whose commit a killed process may not have finished: the next start settles them.

    Attributes:
        inodes: Of staged files, which have the same content under both names.
        paths: That notes of a rewrite list, below the data directory.
    """

    inodes: set[int]
    paths: set[str]


class TableReport(msgspec.Struct):
    """One table.

    Attributes:
        folder: Below the data directory.
        files: In the table.
        rows: In those, as the table says.
        size_bytes: The same.
        spans: Which requests of a shard the files hold, by the shard's number.
        is_opaque: Whether it holds files that do not say whose requests they hold, or cannot be
            read at all.
        findings: What is wrong.
    """

    folder: str
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    spans: dict[int, set[Span]] = {}
    is_opaque: bool = False
    findings: list[Finding] = []


class _Entry(msgspec.Struct, frozen=True):
    """A file as its table knows it.

    Attributes:
        origins: Whose requests it holds, by the number of the shard; None: it does not say.
    """

    path: str
    size_bytes: int
    num_rows: int | None
    min_us: int | None
    max_us: int | None
    origins: tuple[tuple[int, Span], ...] | None


class _Times(msgspec.Struct):
    """The times of a file, as they are in it."""

    num_rows: int = 0
    min_us: int | None = None
    max_us: int | None = None
    nulls: int = 0
    is_sorted: bool = True


class TableSurvey:
    """One look at a table.

    Args:
        root: The data directory.
        app_ids: Under which tables keep how far a shard is, by its number.
        staging: The staging folder.
        running: Whether a daemon may be at work on it.
        quick: Look at the footers of files only, and not at every row.
        progress: Told how many of the files are done, and how many there are.
    """

    def __init__(
        self,
        root: Path,
        app_ids: Mapping[int, str],
        staging: Path,
        *,
        running: bool = False,
        quick: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._root = root
        self._app_ids = app_ids
        self._staging = staging
        self._running = running
        self._quick = quick
        self._progress = progress

    def run(self, folder: str) -> TableReport:
        """Look at a table; twice if a daemon may have changed it at the first look.

        Args:
            folder: Of the table, below the data directory.
        """
        report = self._look(folder)
        if self._running and report.findings:
            seen = {(finding.kind, finding.where) for finding in report.findings}
            report = self._look(folder)
            report.findings = [
                finding for finding in report.findings if (finding.kind, finding.where) in seen
            ]
        return report

    def _look(self, folder: str) -> TableReport:
        report = TableReport(folder)
        on_disk = set(_hour_files(self._root / folder))
        entries: list[_Entry] = []
        if (self._root / folder / delta.LOG_DIR).is_dir():
            try:
                table = open_table(self._root / folder)
                entries = _entries(table, self._root / folder)
                report.findings += self._marks(folder, table, entries)
            except StorageError as error:
                report.is_opaque = True
                report.findings.append(_error("table_unreadable", folder, str(error)))
                return report
        for count, entry in enumerate(entries):
            if self._progress:
                self._progress(folder, count, len(entries))
            report.findings += self._file(f"{folder}/{entry.path}", entry)
        self._count(report, entries)
        report.findings += _overlaps(folder, entries)
        strays = sorted(on_disk - {entry.path for entry in entries})
        report.findings += self._strays(folder, strays)
        return report

    def _count(self, report: TableReport, entries: list[_Entry]) -> None:
        report.files = len(entries)
        report.rows = sum(entry.num_rows or 0 for entry in entries)
        report.size_bytes = sum(entry.size_bytes for entry in entries)
        for entry in entries:
            report.is_opaque |= entry.origins is None
            for shard, span in entry.origins or ():
                report.spans.setdefault(shard, set()).add(span)

    # --- a file ------------------------------------------------------------------------------

    def _file(self, where: str, entry: _Entry) -> Iterator[Finding]:
        """What is wrong with one file of the table."""
        path = self._root / where
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError:
            yield _error("file_missing", where, "the table has it, the disk has not")
            return
        if size_bytes != entry.size_bytes:
            what = f"{size_bytes} bytes, the table says {entry.size_bytes}"
            yield _error("file_size", where, what)
        try:
            with pq.ParquetFile(path) as file:
                times = _footer_times(file) if self._quick else _row_times(file)
        except (OSError, pa.ArrowException, KeyError) as error:
            yield _error("file_unreadable", where, _first_line(error))
            return
        if entry.num_rows is not None and times.num_rows != entry.num_rows:
            what = f"{times.num_rows} rows, the table says {entry.num_rows}"
            yield _error("row_count", where, what)
        yield from _judge_times(where, entry, times)

    # --- the table ---------------------------------------------------------------------------

    def _marks(
        self, folder: str, table: deltalake.DeltaTable, entries: list[_Entry]
    ) -> Iterator[Finding]:
        """Shards whose mark is lower than what the table holds: a replay would store it again."""
        highest: dict[int, int] = {}
        for entry in entries:
            for shard, span in entry.origins or ():
                highest[shard] = max(highest.get(shard, 0), span[1])
        for shard, lsn in sorted(highest.items()):
            app_id = self._app_ids.get(shard)
            if app_id is None:
                what = f"files of shard {shard}, which has no folder with an identity any more"
                yield Finding(Severity.WARNING, "shard_unknown", folder, what)
                continue
            mark = table.transaction_version(app_id) or 0
            if mark < lsn:
                what = (
                    f"holds {in_words((lsn, lsn))} of shard {shard}, but its mark for "
                    f"{app_id} is {seq_of(mark)} of epoch {mark >> 40}"
                )
                yield _error("mark", folder, what)

    def _strays(self, folder: str, strays: list[str]) -> Iterator[Finding]:
        """Files that a glob finds and the table has not."""
        if not strays:
            return
        pending = _read_pending(self._staging)
        replaced = self._replaced(folder)
        for path in strays:
            where = f"{folder}/{path}"
            try:
                inode = (self._root / where).stat().st_ino
            except FileNotFoundError:
                continue
            if path in replaced:
                what = "replaced by others; it stays a while for those who read it"
                yield Finding(Severity.NOTE, "replaced", where, what)
            elif where not in pending.paths and inode not in pending.inodes:
                what = "not in the table, but a glob over the folders finds it"
                yield _error("stray", where, what)
            elif not self._running:
                what = "not in the table; staged as well, so the next start removes it"
                yield Finding(Severity.NOTE, "stray", where, what)

    def _replaced(self, folder: str) -> set[str]:
        """Files that the table had once, as far as its log still knows."""
        try:
            return set(read_tombstones(self._root, folder))
        except StorageError:  # is told where the table is opened
            return set()


class TableMarks:
    """How far tables are with what shards write into them. Each table is opened once.

    Args:
        root: The data directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tables: dict[TableId, deltalake.DeltaTable | None] = {}
        self._marks: dict[tuple[str, TableId], int] = {}

    def __call__(self, app_id: str, table: TableId) -> int:
        """The LSN up to which a table holds what an application wrote; 0: nothing, or no table."""
        mark = self._marks.get((app_id, table))
        if mark is None:
            mark = self._marks[app_id, table] = self._read(app_id, table)
        return mark

    def _read(self, app_id: str, table: TableId) -> int:
        if table not in self._tables:
            self._tables[table] = None
            with contextlib.suppress(IngestError):  # a name or a log that tells us nothing
                folder = self._root / table_dir(table)
                if (folder / delta.LOG_DIR).is_dir():
                    self._tables[table] = open_table(folder)
        found = self._tables[table]
        return 0 if found is None else found.transaction_version(app_id) or 0


def _read_pending(staging: Path) -> _Pending:
    """What a killed process, or one at work, has staged."""
    inodes: set[int] = set()
    paths: set[str] = set()
    for path in staging.iterdir() if staging.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(path.stat().st_ino)
            note = read_note(path) if is_note(path) else None
            paths.update(note.paths if note else ())
    return _Pending(inodes, paths)


def open_table(path: Path) -> deltalake.DeltaTable:
    """A table as deltalake sees it.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return deltalake.DeltaTable(str(path))
    except BaseException as error:
        # A panic of Rust code is no Exception.
        if isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime":
            raise StorageError(f"deltalake refuses it: {_first_line(error)}") from error
        raise


def _entries(table: deltalake.DeltaTable, folder: Path) -> list[_Entry]:
    """The active files of a table, whose folder is given.

    Raises:
        StorageError: their list cannot be read.
    """
    try:
        found = add_actions(table)
    except Exception as error:
        raise StorageError(f"deltalake cannot list it: {_first_line(error)}") from error
    names = ("path", "size_bytes", "num_records", "min.time", "max.time")
    columns: list[list[Any]] = []
    for name in names:
        column = found.column(name) if name in found.column_names else pa.nulls(found.num_rows)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        columns.append(column.to_pylist())
    return [
        _Entry(found_path, size, rows, low, high, _origins(folder, found_path))
        for path, size, rows, low, high in zip(*columns, strict=True)
        for found_path in [delta.decoded_path(path)]
    ]


def _hour_files(folder: Path) -> Iterator[str]:
    """Parquet files in the hour and day folders of a table, below its folder."""
    for where, _, names in os.walk(folder):
        below = Path(where).relative_to(folder).as_posix()
        day, _, last = below.rpartition("/")
        if hour_start_us(f"{day}/00" if last == DAY_DIR else below) is not None:
            yield from (f"{below}/{name}" for name in names if name.endswith(_SUFFIX))


def _origins(folder: Path, path: str) -> tuple[tuple[int, Span], ...] | None:
    """Whose requests a file holds, by its footer or its name; None if neither says so."""
    name = path.rpartition("/")[2]
    found = parse_rewritten_name(name)
    ranges: tuple[LogRange, ...] | None = None if found is None else (found,)
    if ranges is None and is_merged_name(name):
        with contextlib.suppress(OSError, pa.ArrowException):  # told where the file is looked at
            ranges = decode_covers(pq.read_metadata(folder / path).metadata)
    if ranges is None:
        return None
    return tuple(
        (one.shard, (make_lsn(one.epoch, one.first_seq), make_lsn(one.epoch, one.last_seq)))
        for one in ranges
    )


def _overlaps(folder: str, entries: list[_Entry]) -> Iterator[Finding]:
    """Requests that two flushes of one table have stored.

    Files of one flush, one for each hour, have the same range; two in one hour do not. What was
    merged says which requests it holds, and no more by which flush or of which hour.
    """
    flushes: dict[tuple[int, Span], set[str]] = {}
    for entry in sorted(entries, key=lambda entry: entry.path):
        if entry.origins is None or is_merged_name(entry.path.rpartition("/")[2]):
            continue
        ((shard, span),) = entry.origins
        hour = entry.path.rpartition("/")[0]
        hours = flushes.setdefault((shard, span), set())
        if hour in hours:
            what = f"two files of {hour} hold {in_words(span)} of shard {shard}"
            yield _error("overlap", f"{folder}/{entry.path}", what)
        hours.add(hour)
    for (shard, span), (other_shard, other) in itertools.pairwise(sorted(flushes)):
        if shard == other_shard and other[0] <= span[1]:
            what = f"{in_words(span)} and {in_words(other)} of shard {shard} overlap"
            yield _error("overlap", folder, what)


def _footer_times(file: pq.ParquetFile) -> _Times:
    """What the footer says of the times; no range where a group has no statistics.

    Raises:
        KeyError: there is no column of times.
    """
    footer = file.metadata
    place = _time_place(file)
    times = _Times(footer.num_rows)
    lows: list[int] = []
    highs: list[int] = []
    for group in range(footer.num_row_groups):
        found = footer.row_group(group).column(place).statistics
        if found is None or not found.has_min_max:
            return times
        lows.append(found.min_raw)
        highs.append(found.max_raw)
        times.nulls += (found.null_count or 0) if found.has_null_count else 0
    if lows:
        times.min_us, times.max_us = min(lows), max(highs)
    return times


def _row_times(file: pq.ParquetFile) -> _Times:
    """What the rows say of the times; every value of every column is read.

    Raises:
        KeyError: there is no column of times.
        ArrowException: a page cannot be decoded.
    """
    _time_place(file)
    times = _Times()
    last: int | None = None
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        column = batch.column(TIME_COLUMN)
        times.num_rows += len(column)
        times.nulls += column.null_count
        values = column.drop_null().cast(pa.int64()).to_numpy()
        if not values.size:
            continue
        low, high = int(values.min()), int(values.max())
        times.min_us = low if times.min_us is None else min(low, times.min_us)
        times.max_us = high if times.max_us is None else max(high, times.max_us)
        times.is_sorted &= (last is None or last <= values[0]) and bool(
            np.all(values[1:] >= values[:-1])
        )
        last = int(values[-1])
    return times


def _time_place(file: pq.ParquetFile) -> int:
    """Which column the time is.

    Raises:
        KeyError: none, or not one of microseconds.
    """
    schema = file.schema_arrow
    if TIME_COLUMN not in schema.names or schema.field(TIME_COLUMN).type != pa.timestamp(
        "us", "UTC"
    ):
        raise KeyError("it has no column 'time' of microseconds in UTC")
    return int(schema.get_field_index(TIME_COLUMN))


def _judge_times(where: str, entry: _Entry, times: _Times) -> Iterator[Finding]:
    if times.nulls:
        yield _error("time_null", where, f"{times.nulls} rows have no time")
    if not times.is_sorted and not is_merged_name(where.rpartition("/")[2]):
        yield Finding(Severity.WARNING, "unsorted", where, "its rows are not in order of time")
    if times.min_us is None or times.max_us is None:
        return
    found = f"times from {times.min_us} to {times.max_us} µs"
    low, high = entry.min_us, entry.max_us
    if low is not None and high is not None and not low <= times.min_us <= times.max_us <= high:
        yield _error("time_range", where, f"{found}, the table says {low} to {high}")
    start_us = hour_start_us(entry.path.rpartition("/")[0])
    if start_us is None:
        if parse_rewritten_name(entry.path.rpartition("/")[2]) is not None:
            yield _error("hour", where, "a file of ours that is in no folder of an hour")
    elif times.min_us < start_us or times.max_us >= start_us + HOUR_US:
        yield _error("hour", where, f"{found}, its folder's hour begins at {start_us}")


def _error(kind: str, where: str, what: str) -> Finding:
    return Finding(Severity.ERROR, kind, where, what)


def _first_line(error: BaseException) -> str:
    """The message of an error without what follows it: some come with a trace of Rust code."""
    text = str(error.args[0]) if error.args else repr(error)
    return (text.strip().splitlines() or [repr(error)])[0]
