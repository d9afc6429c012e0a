"""Making files part of a table: the one act after which a row counts as stored.

In: files that a store has staged. Out: nothing; they are in the table when `commit` returns, all
of them or none. What is in a file and when it is worth writing one is decided elsewhere.

Every table is a Delta Lake table. A commit is one small file, `_delta_log/{version}.json`, made
by a hard link, which fails when the name is taken: so whoever writes to the table, with our locks
or without, each version has one author. It says which files the table has from then on, and with
them how far the shard is that wrote them (`txn`), so that a replay knows what it need not repeat.

Commits are written here, by hand: `deltalake` takes time by the number of files in the table, and
syncs nothing. It makes the checkpoints, and reads tables that have one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from structlog.typing import FilteringBoundLogger

from ingest import delta, promotion
from ingest.clock import Clock, SystemClock
from ingest.columns import TIME_COLUMN
from ingest.delta_folder import (
    CHECKPOINT_VERSIONS,
    add_actions,
    checkpoint,
    mend,
    open_table,
    read_if_there,
    table_lock,
)
from ingest.errors import IngestError, InvalidNameError, StorageError
from ingest.instruments import PipelineInstruments
from ingest.lsn import make_lsn
from ingest.paths import LogRange, TableId, hour_dir, parse_file_name, table_dir
from ingest.schema import TableSchema
from ingest.store import InDoubtError, LocalStore, StagedFile


class Recovered(msgspec.Struct, frozen=True):
    """What a start cleaned up.

    Attributes:
        files_removed: Files under their names that were not in their tables.
        staged_removed: Files of the staging folder.
    """

    files_removed: int = 0
    staged_removed: int = 0


class TableLog(Protocol):
    """What the flush asks of a table."""

    def commit(
        self, table: TableId, files: Sequence[StagedFile], marks: LogRange, schema: TableSchema
    ) -> None:
        """Make staged files part of a table, durably.

        May be called again with the same arguments, or with files staged anew for the same
        marks, after an error or a success that the caller did not see: the rows are in the
        table once. May be called from several threads and processes at once.

        Args:
            table: Whose rows the files hold.
            files: At least one, staged under the table's folder. No longer staged afterwards.
            marks: What part of the shard's input the files hold together, for this table: all
                of it between the first and the last sequence number.
            schema: With which the files were built.

        Raises:
            StaleSchemaError: the table has changed a type since; build the files anew.
            StorageError: the disk refuses, or the table is not one that we can append to; the
                files are still staged.
        """
        ...

    def committed(self, table: TableId) -> int:
        """The highest LSN of this shard whose rows a table holds; 0: none.

        Raises:
            StorageError: the table cannot be read.
        """
        ...

    def recover(self) -> Recovered:
        """Remove what a predecessor of this shard left uncommitted; to be called at its start.

        Raises:
            StorageError: the disk refuses.
        """
        ...


class _TableState(msgspec.Struct):
    """How far a table is, as far as this process knows. Guarded by the lock of the table.

    Attributes:
        version: Of the latest commit that was read or written; -1: none.
        lsn: Of this shard.
        meta: The action `metaData`, encoded: 10 000 tables are kept.
        fits: Version of a catalog's schema that the table is known to suffice for; 0: none.
    """

    version: int = -1
    lsn: int = 0
    meta: bytes = b""
    fits: int = 0


class _Commit(msgspec.Struct):
    """A commit on its way.

    Attributes:
        table: Whose.
        folder: Of the table, below the root of the store.
        files: That bring new rows.
        lsn: How far the shard is with them.
        schema: Of the files.
        rewrite: Old files that they need changed.
    """

    table: TableId
    folder: str
    files: Sequence[StagedFile]
    lsn: int
    schema: TableSchema
    rewrite: promotion.Rewrite | None = None

    @property
    def published(self) -> list[StagedFile]:
        """All files that get a name."""
        return [*self.files, *(self.rewrite.new if self.rewrite else ())]


class _Doubt(msgspec.Struct, frozen=True):
    """A commit file that may be there and may be lost: the disk refused to say."""

    path: str
    content: bytes
    commit: _Commit


class DeltaTableLog:
    """Delta Lake tables below the root of a store, as one shard writes them.

    Its methods block, and may be called from any thread.

    Args:
        store: That stages the files.
        app_id: Of the shard, in the `txn` of its commits; for ever the same.
        shard: Its number.
        instruments: Of the pipeline.
        log: Where checkpoints that fail and tables that cannot be recovered are reported.
        clock: For the times in commits, on which nothing depends.
    """

    def __init__(
        self,
        store: LocalStore,
        app_id: str,
        shard: int,
        instruments: PipelineInstruments,
        log: FilteringBoundLogger,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._app_id = app_id
        self._shard = shard
        self._instruments = instruments
        self._log = log
        self._clock = clock or SystemClock()
        # By folder of the table; each entry belongs to who holds the lock of the table.
        self._states: dict[str, _TableState] = {}
        self._doubts: dict[str, _Doubt] = {}

    # --- committing --------------------------------------------------------------------------

    def commit(
        self, table: TableId, files: Sequence[StagedFile], marks: LogRange, schema: TableSchema
    ) -> None:
        """See `TableLog.commit`. A repeat of a commit that is in removes the staged files.

        Raises:
            IngestError: a file lies outside the table, its name is taken, or a part of the
                marks is in the table and a part is not: a defect of the caller.
        """
        folder = table_dir(table)
        for file in files:
            delta.relative_path(folder, file.path)
        commit = _Commit(table, folder, files, make_lsn(marks.epoch, marks.last_seq), schema)
        started = self._clock.monotonic_s()
        with table_lock(self._store, folder):
            state = self._caught_up(folder)
            if state.lsn >= commit.lsn:
                self._store.unstage(files)
                return
            if state.lsn >= make_lsn(marks.epoch, marks.first_seq):
                raise IngestError(f"BUG: {table} is at LSN {state.lsn}, inside of {marks}")
            self._commit(commit, state)
            version = state.version
        self._instruments.commits.inc()
        self._instruments.commit_seconds.observe(self._clock.monotonic_s() - started)
        if version % CHECKPOINT_VERSIONS == 0 and version:
            checkpoint(self._store, table, self._log)

    def _commit(self, commit: _Commit, state: _TableState) -> None:
        """Publish and append, or leave everything as it was."""
        change = self._change(commit, state)
        if change.promoted:
            commit.rewrite = self._rewrite(commit, change.promoted)
        try:
            self._store.publish(commit.published)
            try:
                self._append(commit, state, change)
            except InDoubtError:
                self._store.doubt(commit.published)
                raise
            except BaseException:
                self._store.take_back(commit.published)
                raise
        except InDoubtError:
            raise
        except BaseException:
            self._drop_rewrite(commit.rewrite)
            raise
        self._finish(commit)

    def _append(self, commit: _Commit, state: _TableState, change: delta.SchemaChange) -> None:
        """Write the commit file, under the first version that nobody else takes."""
        while True:
            actions = self._actions(commit, state, change)
            if self._put(commit, state.version + 1, delta.encode_commit(actions)):
                break
            self._instruments.commit_conflicts.inc()
            self._catch_up(commit.folder, state)
            change = self._change(commit, state)
            if commit.rewrite or change.promoted:
                raise StorageError(f"table {commit.folder} changed while a type of it did")
            if state.lsn >= commit.lsn:
                raise StorageError(f"somebody else commits to {commit.folder} as {self._app_id}")
        state.version += 1
        state.lsn = commit.lsn
        state.fits = commit.schema.version
        if change.meta is not None:
            state.meta = msgspec.json.encode(change.meta.action)

    def _put(self, commit: _Commit, version: int, content: bytes) -> bool:
        """Make a commit file; False when the version is taken."""
        path = f"{commit.folder}/{delta.LOG_DIR}/{delta.commit_name(version)}"
        note = self._store.stage_note(f"s{self._shard:03d}-commit", content)
        try:
            return self._store.put_if_absent(note, path)
        except InDoubtError:
            self._doubts[commit.folder] = _Doubt(path, content, commit)
            raise
        finally:
            self._store.discard_note(note)

    def _change(self, commit: _Commit, state: _TableState) -> delta.SchemaChange:
        """What the table needs before it can take the files."""
        if state.version < 0:
            now_ms = self._clock.now_us() // 1000
            return delta.SchemaChange(delta.new_table(commit.schema, str(uuid.uuid4()), now_ms))
        if state.fits == commit.schema.version != 0:
            return delta.SchemaChange()
        return delta.evolve(delta.parse_meta(msgspec.json.decode(state.meta)), commit.schema)

    def _actions(
        self, commit: _Commit, state: _TableState, change: delta.SchemaChange
    ) -> Iterator[delta.Action]:
        now_ms = self._clock.now_us() // 1000
        yield delta.commit_info(now_ms, "WRITE")
        if state.version < 0:
            yield delta.protocol()
        if change.meta is not None:
            yield {"metaData": change.meta.action}
        yield delta.txn(self._app_id, commit.lsn, now_ms)
        if commit.rewrite:
            for path in commit.rewrite.old:
                yield delta.remove(delta.relative_path(commit.folder, path), now_ms)
            for file in commit.rewrite.new:
                yield delta.add(_added(commit.folder, file, now_ms, data_change=False))
        for file in commit.files:
            yield delta.add(_added(commit.folder, file, now_ms, data_change=True))

    def _rewrite(self, commit: _Commit, columns: Sequence[str]) -> promotion.Rewrite | None:
        paths = [f"{commit.folder}/{path}" for path in sorted(self._active(commit.folder))]
        version = commit.schema.version
        return promotion.rewrite(self._store, commit.table, paths, columns, version, self._shard)

    def _drop_rewrite(self, rewrite: promotion.Rewrite | None) -> None:
        """Forget files that were written anew and are not in the table."""
        if rewrite is not None:
            self._store.discard(rewrite.new)
            if not any(Path(file.temporary).exists() for file in rewrite.new):
                self._store.discard_note(rewrite.note)  # else a start needs it to find them

    def _finish(self, commit: _Commit) -> None:
        """Remove what a commit leaves behind. It is in: whatever the disk refuses can wait."""
        rewrite = commit.rewrite
        self._store.unstage(commit.published)
        if rewrite is None:
            return
        try:
            for path in rewrite.old:
                self._store.remove(path)
            self._store.sync_folders(rewrite.old)
        except StorageError as error:  # the note stays, and the next start does it
            self._log.warning("old_files_left", table=commit.folder, error=str(error))
            return
        self._store.discard_note(rewrite.note)

    # --- knowing how far a table is ----------------------------------------------------------

    def committed(self, table: TableId) -> int:
        """See `TableLog.committed`. From memory but for the first time."""
        folder = table_dir(table)
        state = self._states.get(folder)
        if state is None:
            with table_lock(self._store, folder):
                state = self._caught_up(folder)
        return state.lsn

    def _caught_up(self, folder: str) -> _TableState:
        """How far a table is now. Only under its lock."""
        self._settle(folder)
        state = self._states.get(folder)
        if state is None:
            state = self._open(folder)
        self._catch_up(folder, state)
        self._states[folder] = state
        return state

    def _catch_up(self, folder: str, state: _TableState) -> None:
        """Read the commits that others have made since."""
        log = self._store.root / folder / delta.LOG_DIR
        while True:
            content = read_if_there(log / delta.commit_name(state.version + 1))
            if content is None:
                break
            facts = delta.read_commit(content, self._app_id)
            if facts.meta is not None:
                state.meta, state.fits = msgspec.json.encode(facts.meta.action), 0
            state.lsn = facts.txn_version or state.lsn
            state.version += 1
        if state.version >= 0 and not (log / delta.commit_name(state.version)).exists():
            # The log was cleaned, or the table removed, while we did not look.
            fresh = self._open(folder)
            if fresh.version != state.version:
                for name in fresh.__struct_fields__:
                    setattr(state, name, getattr(fresh, name))
                self._catch_up(folder, state)

    def _settle(self, folder: str) -> None:
        """Find out what became of a commit file that the disk refused to sync and to remove."""
        doubt = self._doubts.get(folder)
        if doubt is None:
            return
        if read_if_there(self._store.root / doubt.path) == doubt.content:
            # A sync of a directory that did not change proves nothing, so change it.
            note = self._store.stage_note(f"s{self._shard:03d}-commit", doubt.content)
            try:
                self._store.replace(note, doubt.path)
            finally:
                self._store.discard_note(note)
            self._finish(doubt.commit)
        else:
            self._store.take_back(doubt.commit.published)
            self._drop_rewrite(doubt.commit.rewrite)
        del self._doubts[folder]

    def _open(self, folder: str) -> _TableState:
        """What a table says of itself at first sight: where its checkpoint leaves off."""
        versions, has_checkpoint = mend(self._store, folder, self._log)
        if has_checkpoint:
            return self._read_table(folder)
        if versions and versions[0] != 0:
            raise StorageError(
                f"the log of table {folder} begins with version {versions[0]}, and no "
                "checkpoint that can be read says what came before"
            )
        return _TableState()

    def _read_table(self, folder: str) -> _TableState:
        with open_table(self._store, folder) as table:
            protocol = table.protocol()
            delta.check_protocol(protocol.min_reader_version, protocol.min_writer_version)
            found = table.metadata()
            action: delta.Action = {
                "id": str(found.id),
                "name": found.name,
                "description": found.description,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": table.schema().to_json(),
                "partitionColumns": found.partition_columns,
                "configuration": found.configuration,
                "createdTime": found.created_time,
            }
            version, lsn = table.version(), table.transaction_version(self._app_id)
        meta = msgspec.json.encode(delta.parse_meta(action).action)
        return _TableState(version, lsn or 0, meta)

    def _active(self, folder: str) -> set[str]:
        """Paths of all files of a table, below its folder. Takes time by their number."""
        if self._open(folder).version < 0 and not self._has_commits(folder):
            return set()
        with open_table(self._store, folder) as table:
            paths = add_actions(table).column("path").to_pylist()
        return {delta.decoded_path(path) for path in paths}

    def _has_commits(self, folder: str) -> bool:
        return (self._store.root / folder / delta.LOG_DIR / delta.commit_name(0)).exists()

    # --- recovery ----------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """See `TableLog.recover`. Leftovers of a table that cannot be read stay, and are logged."""
        staged = self._store.staged(self._shard)
        notes = [path for path in staged if promotion.is_note(path)]
        doubtful: dict[str, set[str]] = {}
        owners: dict[Path, str] = {}
        for path in staged:
            for folder, target in self._targets(path):
                doubtful.setdefault(folder, set()).add(target)
                owners[path] = folder
        kept: set[str] = set()
        removed = 0
        for folder, targets in doubtful.items():
            try:
                removed += self._remove_strays(folder, targets)
            except _UnreadableError as error:
                self._log.error("recovery_postponed", table=folder, error=str(error))
                kept.add(folder)
        leave_swaps = any(owners.get(note) in kept for note in notes)
        gone = [
            path
            for path in staged
            if owners.get(path) not in kept and not (leave_swaps and promotion.is_rewritten(path))
        ]
        # Notes last: while one is there, the files that it lists can still be found.
        for path in sorted(gone, key=promotion.is_note):
            self._store.remove_staged(path)
        return Recovered(removed, len(gone))

    def _targets(self, path: Path) -> list[tuple[str, str]]:
        """Which names, of which table, a leftover may have given: pairs of folder and path."""
        if promotion.is_note(path):
            note = promotion.read_note(path)
            return [(table_dir(note.table), name) for name in note.paths] if note else []
        name = path.name.partition(".parquet.")[0] + ".parquet"
        if parse_file_name(name) is None:
            return []  # a commit file, or one that a note lists
        target = _target_of(path, name)
        return [target] if target else []

    def _remove_strays(self, folder: str, targets: Iterable[str]) -> int:
        """Remove those of the files that are not in their table; how many there were."""
        with table_lock(self._store, folder):
            try:
                active = self._active(folder)
            except StorageError as error:
                raise _UnreadableError(str(error)) from error
            strays = [path for path in targets if path[len(folder) + 1 :] not in active]
            removed = [path for path in strays if self._store.remove(path)]
            self._store.sync_folders(strays)
        return len(removed)


class _UnreadableError(Exception):
    """A table whose files cannot be told."""


def _added(folder: str, file: StagedFile, now_ms: int, *, data_change: bool) -> delta.AddedFile:
    stats = delta.statistics(file.num_rows, file.min_time_us, file.max_time_us)
    path = delta.relative_path(folder, file.path)
    return delta.AddedFile(path, file.size_bytes, now_ms, stats, data_change)


def _target_of(path: Path, name: str) -> tuple[str, str] | None:
    """Folder of the table and path of a staged file of ours, from what is in it.

    None when it cannot be read: it was synced before it got its name, so it never had one.
    """
    try:
        with pq.ParquetFile(path) as file:
            footer = file.metadata
    except (OSError, pa.ArrowException):
        return None
    found = footer.metadata or {}
    try:
        table = TableId(found[b"arc:database"].decode(), found[b"arc:measurement"].decode())
        folder = table_dir(table)
    except (KeyError, UnicodeDecodeError, InvalidNameError):
        return None
    earliest = _min_time_us(footer)
    return None if earliest is None else (folder, f"{folder}/{hour_dir(earliest)}/{name}")


def _min_time_us(footer: pq.FileMetaData) -> int | None:
    """The earliest time of a file, from the statistics of its first group of sorted rows."""
    if not footer.num_row_groups:
        return None
    column = footer.row_group(0).column(footer.schema.names.index(TIME_COLUMN))
    if column.statistics is None or not column.statistics.has_min_max:
        return None
    return int(column.statistics.min_raw)
