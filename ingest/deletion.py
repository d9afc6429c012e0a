"""Rows taken out of a table for good: files that hold nothing else go, the others are rewritten.

In: a table and a `Condition`. Out: how many rows and files it concerns (`Deleter.survey`, which
changes nothing), and a table without them (`Deleter.carry_out`). Who may ask for that, and how
often, is decided elsewhere; only one may be at it at a time (`ingest.turn`).

Files of which the statistics say that all of their rows are meant are removed without a look at
them, in one commit. Files that may hold some are read, group of rows by group of rows and only
the columns that tell, to count; those that hold some and not only some are written anew without
them, a few files to a commit. Each commit takes old files out of the table and brings the new
ones in, at once. So a reader sees a delete that takes long happen in steps, and no row that was
not meant ever goes or shows twice.

Only rows in the table's files are seen: those that a worker still holds in memory, or commits
while the delete runs, are not touched. `Plan.version` says which version of the table was looked
at. Their log is no danger: a replay goes by the table's own marks, which stay.

A crash leaves some of the commits done and others not; the same delete again does the rest. What
was staged, or published and not committed, is cleaned up as `ingest.table_change` says. Removed
files stay on the disk for a while, for readers of an older version, until they are vacuumed.

Memory: one group of rows of a file as it is on the disk, and its rows decoded once and a half.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.columns import TIME_COLUMN
from ingest.condition import Condition, mask
from ingest.errors import StorageError
from ingest.findings import Span
from ingest.lsn import make_lsn
from ingest.merged_files import COVERS_KEY, decode_covers, encode_covers, new_name
from ingest.parquet_groups import GroupWriter, codec_of, dictionary_texts
from ingest.paths import LogRange, TableId, table_dir
from ingest.promotion import parse_rewritten_name
from ingest.removed import note_removed
from ingest.store import LocalStore, StagedFile
from ingest.table_change import ConflictError, TableChanger, TableFile

OPERATION = "DELETE"

#: Of the changer. Only who holds the lock of `ingest.turn` stages files as this owner, so that he
#: may clear away what a killed one has left (`TableChanger.recover`).
OWNER = "upkeep"

#: Rewritten files of one commit: what a conflict with somebody else's commit does again.
COMMIT_FILES = 16

#: How often in a row files may change under a delete, with nothing done, before it gives up.
MAX_ATTEMPTS = 10

#: Rows that are decoded at a time: 8 MB of eight columns of doubles.
_BATCH_ROWS = 1 << 17

#: What stays free on the disk beside the files that are rewritten.
_FREE_BYTES = 256 * 2**20

_STATE_DIR = ".arc"

#: What pyarrow writes for itself; it is written anew.
_ARROW_SCHEMA = b"ARROW:schema"


class FilePlan(msgspec.Struct, frozen=True):
    """What becomes of one file.

    Attributes:
        file: As the table has it.
        num_rows: In the file.
        rows: Of it that go.
        min_us: Earliest time of those that stay, microseconds since 1970-01-01T00:00Z; None
            where none stays.
        max_us: Latest time of those that stay.
    """

    file: TableFile
    num_rows: int
    rows: int
    min_us: int | None = None
    max_us: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it stays."""
        return self.rows == self.num_rows


class Plan(msgspec.Struct, frozen=True):
    """What a delete would do.

    Attributes:
        table: Whose rows.
        condition: Which ones.
        version: Of the table that was looked at; -1: there is none. Rows that came into the
            table later are not counted.
        files: Those that hold such rows.
    """

    table: TableId
    condition: Condition
    version: int
    files: tuple[FilePlan, ...]

    @property
    def rows(self) -> int:
        """How many rows go."""
        return sum(found.rows for found in self.files)

    @property
    def whole(self) -> list[FilePlan]:
        """Files of which nothing stays."""
        return [found for found in self.files if found.is_whole]

    @property
    def partial(self) -> list[FilePlan]:
        """Files that are to be rewritten."""
        return [found for found in self.files if not found.is_whole]


class Deleted(msgspec.Struct):
    """What a delete has done.

    Attributes:
        rows: That are gone.
        files_removed: That held nothing else.
        files_rewritten: That hold the rest now under new names.
        paths: Of all of these as they were, below the folder of the table.
    """

    rows: int = 0
    files_removed: int = 0
    files_rewritten: int = 0
    paths: list[str] = []


class Deleter:
    """Takes rows out of tables. Blocks; for one thread.

    Args:
        store: That holds the tables.
        changer: That commits, as `OWNER`.
        check: Called every few thousand rows; whatever it raises ends the work, between two
            commits.
    """

    def __init__(
        self, store: LocalStore, changer: TableChanger, check: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._changer = changer
        self._check = check

    # --- looking -----------------------------------------------------------------------------

    def survey(self, table: TableId, condition: Condition) -> Plan:
        """Count what a delete would take. Changes nothing.

        Raises:
            StorageError: the table or a file cannot be read.
        """
        for _ in range(MAX_ATTEMPTS):
            files = self._changer.files(table)
            version = max((file.version for file in files), default=-1)
            with contextlib.suppress(_GoneError):
                found = [self._look(table, file, condition) for file in files]
                wanted = tuple([plan for plan in found if plan.rows])
                return Plan(table, condition, version, wanted)
        raise _restless(table)

    def _look(self, table: TableId, file: TableFile, condition: Condition) -> FilePlan:
        """How much of a file is meant, read as far as it takes to tell."""
        self._check()
        known_rows = file.num_rows
        if not condition.may_hold(file.min_us, file.max_us):
            return FilePlan(file, known_rows or 0, 0)
        if known_rows is not None and condition.holds_all(file.min_us, file.max_us):
            return FilePlan(file, known_rows, known_rows)
        tally = _Tally()
        with _opened(self._store, table, file) as source:
            known = [name for name in condition.columns if name in source.schema_arrow.names]
            for group in range(source.num_row_groups):
                self._look_into(source, group, known, condition, tally)
            return FilePlan(file, source.metadata.num_rows, tally.rows, tally.min_us, tally.max_us)

    def _look_into(
        self,
        source: pq.ParquetFile,
        group: int,
        columns: list[str],
        condition: Condition,
        tally: _Tally,
    ) -> None:
        low, high = _group_range(source.metadata.row_group(group))
        if low is not None and high is not None and not condition.may_hold(low, high):
            tally.keep(low, high)
            return
        for batch in _batches(source, group, columns):
            self._check()
            tally.count(batch, mask(condition, batch))

    # --- changing ----------------------------------------------------------------------------

    def carry_out(self, plan: Plan, done: Deleted | None = None) -> Deleted:
        """Do what a survey has found, or what a new one finds where files have changed since.

        Under the lock of `ingest.turn`.

        Args:
            plan: What the survey has found.
            done: Is added to with every commit, so that it also tells of work that failed later.

        Raises:
            StorageError: the disk refuses, or the table changes too fast. What is committed by
                then stays so, and the rest is as it was.
        """
        done = Deleted() if done is None else done
        self._changer.recover()
        group_files, in_vain = COMMIT_FILES, 0
        while in_vain < MAX_ATTEMPTS:
            before = done.rows
            try:
                self._remove(plan, done)
                for group in _in_groups(plan.partial, group_files):
                    self._rewrite(plan, group, done)
            except (ConflictError, _GoneError):
                in_vain = in_vain + 1 if done.rows == before else 0
                # Somebody else is at these files: the less time between a look and a commit,
                # the sooner it is done.
                group_files = 1
                plan = self.survey(plan.table, plan.condition)
                continue
            return done
        raise _restless(plan.table)

    def vacuum(self, table: TableId) -> None:
        """Remove what left the table long enough ago that no reader needs it.

        Raises:
            StorageError: the table cannot be read, or the disk refuses.
        """
        self._changer.vacuum(table)

    def _remove(self, plan: Plan, done: Deleted) -> None:
        """Take the files out of which nothing stays."""
        paths = [found.file.path for found in plan.whole]
        if not paths:
            return
        self._check()
        note_removed(self._store.root / _STATE_DIR, self._spans(plan))
        self._changer.replace(plan.table, paths, [], OPERATION, data_change=True)
        done.rows += sum(found.rows for found in plan.whole)
        done.files_removed += len(paths)
        done.paths += paths

    def _spans(self, plan: Plan) -> dict[int, list[Span]]:
        """Whose requests the files hold that go, by shard."""
        spans: dict[int, list[Span]] = {}
        for found in plan.whole:
            ranges = _range_of_name(found.file.path)
            if not ranges:
                with _opened(self._store, plan.table, found.file) as source:
                    ranges = decode_covers(source.metadata.metadata) or ()
            for one in ranges:
                ends = (make_lsn(one.epoch, seq) for seq in (one.first_seq, one.last_seq))
                first, last = ends
                spans.setdefault(one.shard, []).append((first, last))
        return spans

    def _rewrite(self, plan: Plan, group: Sequence[FilePlan], done: Deleted) -> None:
        """Put new files in the place of some."""
        staged: list[StagedFile] = []
        try:
            for found in group:  # one by one: what is staged must be known when the next fails
                staged.append(self._stage(plan, found))  # noqa: PERF401
            paths = [found.file.path for found in group]
            self._changer.replace(plan.table, paths, staged, OPERATION, data_change=True)
        except BaseException:
            self._store.discard(staged)
            raise
        done.rows += sum(found.rows for found in group)
        done.files_rewritten += len(group)
        done.paths += paths

    def _stage(self, plan: Plan, found: FilePlan) -> StagedFile:
        """Write the rows of a file that stay."""
        assert found.min_us is not None
        assert found.max_us is not None
        self._check_space(plan.table, found.file)
        folder, name = table_dir(plan.table), new_name()
        hour = found.file.path.rpartition("/")[0]
        return self._store.stage(
            f"{folder}/{hour}/{name}" if hour else f"{folder}/{name}",
            lambda where: self._write_rest(plan, found.file, where),
            num_rows=found.num_rows - found.rows,
            min_time_us=found.min_us,
            max_time_us=found.max_us,
            staged_as=self._changer.staged_as,
        )

    def _check_space(self, table: TableId, file: TableFile) -> None:
        free_bytes = self._store.free_bytes()
        if free_bytes < file.size_bytes + _FREE_BYTES:
            raise StorageError(
                f"{free_bytes} bytes of disk are free, too few to rewrite {file.path} of "
                f"{table.database}.{table.measurement}, which has {file.size_bytes} bytes: "
                f"{_FREE_BYTES} have to stay free"
            )

    def _write_rest(self, plan: Plan, file: TableFile, where: str) -> None:
        """Write what is not meant of a file, a group of rows at a time."""
        with _opened(self._store, plan.table, file) as source:
            footer, names = source.metadata, source.schema_arrow.names
            encoded = dictionary_texts(footer, source.schema_arrow)
        metadata = _metadata(file, footer.metadata or {})
        with (
            _opened(self._store, plan.table, file, encoded) as source,
            GroupWriter(where, codec_of(footer), metadata) as writer,
        ):
            for group in range(source.num_row_groups):
                for batch in _batches(source, group, names):
                    self._check()
                    stays = pc.invert(mask(plan.condition, batch))
                    writer.write(batch.filter(stays))


class _Tally:
    """Rows of a file that go, and the times of those that stay."""

    def __init__(self) -> None:
        self.rows = 0
        self.min_us: int | None = None
        self.max_us: int | None = None

    def keep(self, low_us: int, high_us: int) -> None:
        """Rows of this range of times stay."""
        self.min_us = low_us if self.min_us is None else min(low_us, self.min_us)
        self.max_us = high_us if self.max_us is None else max(high_us, self.max_us)

    def count(self, batch: pa.RecordBatch, goes: pa.BooleanArray) -> None:
        """Count the rows of a batch."""
        self.rows += goes.true_count
        times = batch.column(TIME_COLUMN).cast(pa.int64()).filter(pc.invert(goes))
        if len(times):
            found = pc.min_max(times)
            self.keep(found["min"].as_py(), found["max"].as_py())


class _GoneError(Exception):
    """A file is not on the disk any more: the table has others in its place by now."""


@contextlib.contextmanager
def _opened(
    store: LocalStore, table: TableId, file: TableFile, dictionaries: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """A file of a table, read by one thread."""
    path = store.root / table_dir(table) / file.path
    try:
        with pq.ParquetFile(path, read_dictionary=list(dictionaries)) as source:
            yield source
    except FileNotFoundError as error:
        raise _GoneError(str(error)) from error
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the disk; what pyarrow cannot make sense of has no number
        raise StorageError(f"cannot read {path}: {error}") from error


def _batches(
    source: pq.ParquetFile, group: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    yield from source.iter_batches(
        batch_size=_BATCH_ROWS, row_groups=[group], columns=list(columns), use_threads=False
    )


def _group_range(group: pq.RowGroupMetaData) -> tuple[int | None, int | None]:
    """Earliest and latest time of a group of rows, microseconds since 1970-01-01T00:00Z."""
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == TIME_COLUMN:
            found = column.statistics
            is_there = found is not None and found.has_min_max and found.physical_type == "INT64"
            return (found.min_raw, found.max_raw) if is_there else (None, None)
    return None, None


def _range_of_name(path: str) -> tuple[LogRange, ...]:
    found = parse_rewritten_name(path.rpartition("/")[2])
    return () if found is None else (found,)


def _metadata(file: TableFile, metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    """Key-value metadata of a file that takes the place of another: whose requests it holds."""
    kept = {key.decode(): value.decode() for key, value in metadata.items() if key != _ARROW_SCHEMA}
    ranges = _range_of_name(file.path)
    if ranges and COVERS_KEY not in kept:
        kept[COVERS_KEY] = encode_covers(ranges)
    return kept


def _in_groups(files: Iterable[FilePlan], size: int) -> Iterator[Sequence[FilePlan]]:
    waiting = iter(files)
    while group := list(itertools.islice(waiting, size)):
        yield group


def _restless(table: TableId) -> StorageError:
    return StorageError(
        f"the files of {table.database}.{table.measurement} change faster than they are read; "
        "try again"
    )
