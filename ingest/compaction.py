"""Many small files of closed hours and days into few: which ones, and doing it.

In: tables of a data directory, whether a daemon is at work on it or not. Out: the same rows in
fewer files, committed through `table_change`. Rows are neither added nor lost, and how far a
shard is stays as it is.

Which files become one (`plan`, pure): all of an hour that has ended some time ago, and all of a
day that has; a day's file takes the place of those of its hours. What comes late makes small
files beside large ones. A file is rewritten only with as much as a quarter of it, so each row is
rewritten a few times in its life and no more, however late rows trickle in; but files below
`small_bytes` always go together. Files that are as large as half of the limit stay as they are.

Where they lie: a file of one hour in the folder of that hour, one of a day in
`YYYY/MM/DD/day/`: the glob over the hour folders (`*/*/*/*/*.parquet`) finds both, and shows
each row once when the old files are gone, after the next `vacuum`.

Files whose names are not of ours are left alone.

A crash at any point loses work and nothing else: see `table_change`. Two at a time would do each
other's work for nothing, so `ingest.turn.my_compaction` lets only one in. When a table is worth a
look again is in `ingest.compaction_looks`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.compact_files import GoneError, Merge
from ingest.errors import ClientError, StorageError
from ingest.merged_files import (
    COVERS_KEY,
    DAY_DIR,
    decode_covers,
    encode_covers,
    is_merged_name,
    new_name,
)
from ingest.parquet import TAGS_KEY
from ingest.paths import HOUR_US, LogRange, TableId, hour_dir, table_dir
from ingest.promotion import parse_rewritten_name
from ingest.store import LocalStore, StagedFile
from ingest.table_change import GRACE_S, ConflictError, TableChanger, TableFile
from ingest.turn import my_compaction

OWNER = "compact"

DAY_US = 24 * HOUR_US

#: What a merge runs in.
Merging = Callable[[], contextlib.AbstractContextManager[None]]

_STATE_DIR, _CATALOG = ".arc", ".arc/catalog.db"

#: A file is rewritten with smaller ones when they have together this part of its bytes.
_SHARE = 4

#: Rounds over one table in a run: each leaves less to do, and a table that others change faster
#: than files can be merged has to wait.
_MAX_ROUNDS = 8

#: To stay free on the disk beside what a task writes.
_FREE_BYTES = 256 << 20


class Limits(msgspec.Struct, frozen=True):
    """What is compacted, and how much at once.

    Attributes:
        older_than_s: How long ago an hour, or a day, must have ended.
        max_rows: Of a new file: a change of a column's type takes all of it into memory.
        max_bytes: Of the old files of one new file together, as far as it is in our hands.
        max_files: The same; so a stop or a crash costs a few seconds of work.
        small_bytes: Smaller files always go together.
        grace_s: How long files that left their table stay for those who read them.
    """

    older_than_s: float = 300.0
    max_rows: int = 10_000_000
    max_bytes: int = 512 << 20
    max_files: int = 1000
    small_bytes: int = 8 << 20
    grace_s: float = GRACE_S


class Task(msgspec.Struct, frozen=True):
    """Files that are to become one.

    Attributes:
        folder: Of the new file, below that of the table.
        files: At least two, in order of time.
    """

    folder: str
    files: tuple[TableFile, ...]

    @property
    def num_rows(self) -> int:
        """Of all files."""
        return sum(file.num_rows or 0 for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


class Progress(msgspec.Struct, frozen=True):
    """How far a run is.

    Attributes:
        table: That is worked on.
        done_bytes: Of the files of this table that are to be merged, as far as known now.
        total_bytes: The same.
    """

    table: TableId
    done_bytes: int
    total_bytes: int


class Outcome(msgspec.Struct):
    """What a run has done.

    Attributes:
        files_merged: Old files.
        files_written: New files.
        rows: In them.
        bytes_before: Of the old files.
        bytes_after: Of the new files.
        files_vacuumed: That left their tables earlier, and the disk now.
        bytes_vacuumed: Of those.
        conflicts: Tasks that somebody else's change of the table made void.
        failures: Tasks that could not be done; the log has the reasons.
    """

    files_merged: int = 0
    files_written: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    files_vacuumed: int = 0
    bytes_vacuumed: int = 0
    conflicts: int = 0
    failures: int = 0


class NoSuchTableError(ClientError):
    """There is no such table."""

    status_hint = 404
    reason = "not_found"


# --- planning --------------------------------------------------------------------------------


def plan(files: Iterable[TableFile], now_us: int, limits: Limits) -> list[Task]:
    """Which files of a table are to become one, the oldest first. Pure.

    Args:
        files: Of the table, all of them.
        now_us: Wall time, microseconds since 1970-01-01T00:00Z.
        limits: See there.
    """
    closed_us = now_us - round(limits.older_than_s * 1e6)
    spans: dict[tuple[int, str], list[TableFile]] = {}
    for file in files:
        span = _span(file, closed_us)
        if span is not None:
            spans.setdefault(span, []).append(file)
    return [
        Task(folder, bundle)
        for (_, folder), found in sorted(spans.items())
        for bundle in _bundles(_worth_merging(found, limits), limits)
    ]


def next_due_us(files: Iterable[TableFile], now_us: int, limits: Limits) -> int | None:
    """When there may be more to merge, should nothing more come. Pure.

    That is at the next end of an hour or a day of which there are files, and `older_than_s` later.

    Args:
        files: Of the table, all of them.
        now_us: Wall time, microseconds since 1970-01-01T00:00Z, as is the result.
        limits: See there.

    Returns:
        None when all of that is over.
    """
    closed_us = now_us - round(limits.older_than_s * 1e6)
    ends = (end_us for file in files for _, _, end_us in _spans(file) if end_us > closed_us)
    first_us = min(ends, default=None)
    return None if first_us is None else first_us + now_us - closed_us


def _span(file: TableFile, closed_us: int) -> tuple[int, str] | None:
    """The beginning and the folder of the day or hour that a file belongs to, if that is over."""
    for span_us, start_us, end_us in _spans(file):
        if end_us <= closed_us:
            folder = hour_dir(start_us)
            is_day = span_us == DAY_US
            return start_us, f"{folder.rpartition('/')[0]}/{DAY_DIR}" if is_day else folder
    return None


def _spans(file: TableFile) -> Iterator[tuple[int, int, int]]:
    """Length, beginning and end of the day and of the hour that all rows of a file are in, µs."""
    name = file.path.rpartition("/")[2]
    if parse_rewritten_name(name) is None and not is_merged_name(name):
        return
    if file.min_us is None or file.max_us is None or not file.num_rows:
        return
    for span_us in (DAY_US, HOUR_US):
        start_us = file.min_us // span_us * span_us
        if file.max_us < start_us + span_us:
            yield span_us, start_us, start_us + span_us


def _worth_merging(files: Iterable[TableFile], limits: Limits) -> list[TableFile]:
    """The smaller ones of some files, as many as take it to make rewriting the largest worth it."""
    chosen: list[TableFile] = []
    total = 0
    for file in sorted(files, key=lambda file: (file.size_bytes, file.path)):
        if file.size_bytes * 2 > limits.max_bytes or (file.num_rows or 0) * 2 > limits.max_rows:
            break
        if chosen and file.size_bytes > max(limits.small_bytes, _SHARE * total):
            break
        chosen.append(file)
        total += file.size_bytes
    return chosen


def _bundles(files: Sequence[TableFile], limits: Limits) -> Iterator[tuple[TableFile, ...]]:
    """Files that follow one another in time, as many as one new file may hold."""
    bundle: list[TableFile] = []
    rows = size = 0
    for file in sorted(files, key=lambda file: (file.min_us, file.path)):
        rows, size = rows + (file.num_rows or 0), size + file.size_bytes
        if rows > limits.max_rows or size > limits.max_bytes or len(bundle) == limits.max_files:
            if len(bundle) > 1:
                yield tuple(bundle)
            bundle, rows, size = [], file.num_rows or 0, file.size_bytes
        bundle.append(file)
    if len(bundle) > 1:
        yield tuple(bundle)


# --- doing -----------------------------------------------------------------------------------


class Compactor:
    """Works on the tables below the root of a store. Blocks; for one thread.

    Args:
        store: That holds the tables.
        log: Told of what was done, and of what could not be.
        limits: See there.
        clock: By which hours and days are over.
        check: Called again and again during the work; what it raises ends it between two commits.
        admit: Called before each task; what it raises ends the work as well.
        merging: Around what takes long and holds no lock: reading old files, writing a new one.
    """

    def __init__(
        self,
        store: LocalStore,
        log: FilteringBoundLogger,
        limits: Limits | None = None,
        clock: Clock | None = None,
        check: Callable[[], None] = lambda: None,
        admit: Callable[[], None] = lambda: None,
        merging: Merging = contextlib.nullcontext,
    ) -> None:
        self._store = store
        self._log = log
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._check = check
        self._admit = admit
        self._merging = merging
        self._changer = TableChanger(store, log, self._clock, OWNER)

    def recover(self) -> int:
        """Remove what a killed compactor left. Only under `my_compaction`; how many files.

        Raises:
            StorageError: the disk refuses.
        """
        return self._changer.recover()

    def run(
        self,
        tables: Iterable[TableId],
        progress: Callable[[Progress], None] = lambda _: None,
        outcome: Outcome | None = None,
        settled: Callable[[TableId, Sequence[TableFile]], None] = lambda _, __: None,
    ) -> Outcome:
        """Compact tables, one after another, until nothing is left to do. Under `my_compaction`.

        What fails is logged and counted, and the rest goes on.

        Args:
            tables: Which.
            progress: Told how far it is, before and after each task.
            outcome: Is added to with every task, so that it also tells of work that was ended.
            settled: Told of each table of which nothing is left to do, and of its files then.
        """
        outcome = Outcome() if outcome is None else outcome
        for table in tables:
            self._check()
            before, started_s = msgspec.structs.replace(outcome), self._clock.monotonic_s()
            try:
                files = self._run_table(table, outcome, progress)
                if files is not None:
                    settled(table, files)
            except StorageError as error:
                outcome.failures += 1
                self._log.error("compaction_failed", error=str(error), **_named(table))
            finally:
                self._tell(table, before, outcome, self._clock.monotonic_s() - started_s)
        return outcome

    def _tell(self, table: TableId, before: Outcome, after: Outcome, took_s: float) -> None:
        """Log what was done to a table, if anything was."""
        done = {
            name: getattr(after, name) - getattr(before, name)
            for name in Outcome.__struct_fields__
            if name not in ("conflicts", "failures")
        }
        if any(done.values()):
            self._log.info("compacted", **_named(table), **done, seconds=round(took_s, 3))

    def _run_table(
        self, table: TableId, outcome: Outcome, progress: Callable[[Progress], None]
    ) -> list[TableFile] | None:
        """Compact one table; its files, unless something is left to do."""
        left: set[tuple[str, ...]] = set()
        settled: list[TableFile] | None = None
        for _ in range(_MAX_ROUNDS):
            files = self._changer.files(table)
            planned = plan(files, self._clock.now_us(), self._limits)
            tasks = [task for task in planned if _paths(task) not in left]
            if not tasks:
                settled = None if planned else files
                break
            self._run_tasks(table, tasks, left, outcome, progress)
        gone = self._changer.vacuum(table, self._limits.grace_s)
        outcome.files_vacuumed += gone.num_files
        outcome.bytes_vacuumed += gone.size_bytes
        return settled

    def _run_tasks(
        self,
        table: TableId,
        tasks: Sequence[Task],
        left: set[tuple[str, ...]],
        outcome: Outcome,
        progress: Callable[[Progress], None],
    ) -> None:
        """Do some tasks; those that are not to be tried again in this run are added to `left`."""
        done, total = 0, sum(task.size_bytes for task in tasks)
        for task in tasks:
            progress(Progress(table, done, total))
            if not self._run_task(table, task, outcome):
                left.add(_paths(task))
            done += task.size_bytes
        progress(Progress(table, done, total))

    def _run_task(self, table: TableId, task: Task, outcome: Outcome) -> bool:
        """Do one task, and count what came of it; False: not to be tried again in this run."""
        self._check()
        self._admit()
        try:
            new = self.compact(table, task)
        except (ConflictError, GoneError) as error:
            outcome.conflicts += 1
            self._log.info("compaction_conflict", why=str(error), **_named(table))
            return True
        except StorageError as error:
            outcome.failures += 1
            self._log.error("compaction_failed", error=str(error), **_named(table))
            return False
        outcome.files_merged += len(task.files)
        outcome.files_written += 1
        outcome.rows += new.num_rows
        outcome.bytes_before += task.size_bytes
        outcome.bytes_after += new.size_bytes
        return True

    def compact(self, table: TableId, task: Task) -> StagedFile:
        """Put one file in the place of several, in one commit.

        Raises:
            ConflictError: one of them is not in the table any more; nothing has changed.
            GoneError: the same, seen earlier.
            StorageError: the disk refuses, has no room, or a file is not what its table says.
        """
        free_bytes = self._store.free_bytes()
        if free_bytes < task.size_bytes + _FREE_BYTES:
            raise StorageError(
                f"{free_bytes} bytes of disk are free, too few to merge {len(task.files)} files "
                f"of {task.size_bytes} bytes: {_FREE_BYTES} have to stay free"
            )
        with self._merging():
            new = self._merge(table, task)
        try:
            self._changer.replace(table, _paths(task), [new], "OPTIMIZE", data_change=False)
        except BaseException:
            self._store.discard([new])
            raise
        return new

    def _merge(self, table: TableId, task: Task) -> StagedFile:
        """Make the new file; it is in no table yet."""
        folder = table_dir(table)
        paths = [self._store.root / folder / file.path for file in task.files]
        merge = Merge(paths, self._check)
        if merge.num_rows != task.num_rows:
            raise StorageError(
                f"{len(task.files)} files of {folder}/{task.folder} hold {merge.num_rows} rows, "
                f"and the table says {task.num_rows}"
            )
        return self._stage(table, task, merge)

    def _stage(self, table: TableId, task: Task, merge: Merge) -> StagedFile:
        """Write the new file, and sync it."""
        metadata = _metadata(table, task, merge)
        return self._store.stage(
            f"{table_dir(table)}/{task.folder}/{new_name()}",
            lambda where: merge.write(where, metadata),
            num_rows=merge.num_rows,
            min_time_us=merge.min_time_us,
            max_time_us=merge.max_time_us,
            staged_as=self._changer.staged_as,
        )


def covered(path: str, metadata: dict[bytes, bytes]) -> tuple[LogRange, ...] | None:
    """Whose requests a file of ours holds, by its metadata or its name; None: it does not say."""
    found = decode_covers(metadata)
    if found is not None:
        return found
    by_name = parse_rewritten_name(path.rpartition("/")[2])
    return None if by_name is None else (by_name,)


def _metadata(table: TableId, task: Task, merge: Merge) -> dict[str, str]:
    """Key-value metadata of a new file. One that does not say what it holds makes it silent."""
    covers = [
        covered(file.path, dict(found))
        for file, found in zip(task.files, merge.metadata, strict=True)
    ]
    metadata = {
        TAGS_KEY: msgspec.json.encode(merge.tags).decode(),
        "arc:database": table.database,
        "arc:measurement": table.measurement,
    }
    if None not in covers:
        ranges = [one for found in covers if found is not None for one in found]
        metadata[COVERS_KEY] = encode_covers(ranges)
    return metadata


def compact_directory(
    data_dir: Path,
    log: FilteringBoundLogger,
    limits: Limits | None = None,
    database: str | None = None,
    measurement: str | None = None,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> Outcome:
    """Compact tables of a data directory, whether a daemon is at work on it or not.

    Args:
        data_dir: Of a daemon.
        log: As for `Compactor`, like `limits`, `check` and `clock`.
        limits: See there.
        database: Only tables of this one; None: of all.
        measurement: Only tables of this name.
        progress: Told how far it is.
        check: Called again and again.
        clock: By which hours and days are over.

    Raises:
        CompactionBusyError: another compactor is at work.
        NoSuchTableError: a database or measurement was named, and there is no such table.
        StorageError: there is no data directory, or it cannot be used.
    """
    tables = known_tables(data_dir, database, measurement)
    if not tables and (database, measurement) != (None, None):
        raise NoSuchTableError(f"there is no table {database or '*'}.{measurement or '*'}")
    with my_compaction(data_dir / _STATE_DIR):
        compactor = Compactor(LocalStore(data_dir), log, limits, clock, check)
        compactor.recover()
        return compactor.run(tables, progress)


def known_tables(
    data_dir: Path, database: str | None = None, measurement: str | None = None
) -> list[TableId]:
    """The tables of a data directory, by name.

    Args:
        data_dir: Of a daemon.
        database: Only tables of this one; None: of all.
        measurement: Only tables of this name.

    Raises:
        StorageError: there is no data directory, or it cannot be used.
    """
    if not (data_dir / _CATALOG).is_file():
        raise StorageError(f"{data_dir} is no data directory: there is no {_CATALOG} in it")
    with contextlib.closing(Catalog(data_dir / _CATALOG, 1, 1)) as catalog:  # makes no table
        return [
            entry.table
            for entry in catalog.tables()
            if database in (None, entry.table.database)
            and measurement in (None, entry.table.measurement)
        ]


def _paths(task: Task) -> tuple[str, ...]:
    return tuple([file.path for file in task.files])


def _named(table: TableId) -> dict[str, str]:
    return {"database": table.database, "measurement": table.measurement}
