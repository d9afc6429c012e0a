"""Files of a table that take the place of others, in one commit: the table as it is maintained.

In: staged files, and the names of those whose place they take. Out: one commit with a `remove`
for each old file and an `add` for each new one, after which every reader sees the new ones and
no reader ever saw both. Nothing here appends rows, knows what is in a file, or tells a table how
far a shard is: a `txn` is never touched.

Whoever commits to a table holds its lock (`delta_folder.table_lock`): shards that append, one
that changes the type of a column, and other changers, in whatever process. What this cannot keep
out, a writer that is not ours, has to take the next version of the log first, and is then seen.
So `replace` looks under the lock whether all old files are still in the table, and gives up with
`ConflictError` when one is not: a column that became float64 meanwhile has new files, and what
was merged from the old ones is thrown away by the caller and never undoes it.

What a crash leaves, and who clears it away:

* before `publish`: staged files and a note of the names they were to have: `recover`;
* before the commit: the names as well, in no table. `recover` finds them by the note;
* after the commit: staged names of files that are in the table: `recover` removes those only;
* old files stay on the disk for a time in any case, since readers hold snapshots: `vacuum`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import deltalake
import msgspec
import pyarrow as pa
from structlog.typing import FilteringBoundLogger

from ingest import delta, promotion
from ingest.clock import Clock, SystemClock
from ingest.delta_folder import (
    CHECKPOINT_VERSIONS,
    add_actions,
    checkpoint,
    mend,
    open_table,
    read_if_there,
    read_tombstones,
    refusals_of_deltalake,
    table_lock,
)
from ingest.errors import IngestError, StorageError
from ingest.merged_files import is_merged_name
from ingest.paths import TableId, table_dir
from ingest.promotion import parse_rewritten_name
from ingest.store import STAGED_SUFFIX, InDoubtError, LocalStore, StagedFile

#: How long a file that left its table stays on the disk: longer than any query may take.
GRACE_S = 900.0

_STAGING_DIR = ".arc/staging"
#: Files that are removed under one hold of the table's lock: some 10 ms.
_VACUUM_FILES = 256


class ConflictError(IngestError):
    """A file that was to be replaced is not in the table any more: somebody else did it."""

    reason = "conflict"


class TableFile(msgspec.Struct, frozen=True):
    """A file of a table, as its log knows it.

    Attributes:
        path: Below the table's folder.
        size_bytes: Of the file.
        num_rows: In it; None: the log does not say.
        min_us: Earliest time of a row, microseconds since 1970-01-01T00:00Z; None as above.
        max_us: Latest time of a row.
        modified_ms: When it was written, milliseconds since 1970-01-01T00:00Z.
        version: Of the table when it was looked at.
    """

    path: str
    size_bytes: int
    num_rows: int | None
    min_us: int | None
    max_us: int | None
    modified_ms: int
    version: int


class Vacuumed(msgspec.Struct, frozen=True):
    """What a vacuum removed, or would remove.

    Attributes:
        num_files: So many.
        size_bytes: Of those.
    """

    num_files: int = 0
    size_bytes: int = 0


class _Doubt(msgspec.Struct, frozen=True):
    """A commit file that may be there and may be lost: the disk refused to say."""

    path: str
    content: bytes
    new: tuple[StagedFile, ...]
    note: Path | None


class TableChanger:
    """Changes tables below the root of a store: one for each process that maintains them.

    Its methods block, and may be called from any thread.

    Attributes:
        owner: As given.
        staged_as: For `LocalStore.stage` of files that are to be published here, so that the
            `recover` of the owner finds those of a killed process.

    Args:
        store: That stages the files.
        log: Where checkpoints that fail and tables that cannot be read are reported.
        clock: For the times in commits, and the age of files that left their table.
        owner: How the names of what it stages begin, before a "-": not `s` and digits,
            which are shards. Whoever calls `recover` sees to it that no other process is at work
            under the same.
    """

    def __init__(
        self,
        store: LocalStore,
        log: FilteringBoundLogger,
        clock: Clock | None = None,
        owner: str = "change",
    ) -> None:
        self.owner = owner
        self.staged_as = f"{owner}-file"
        self._store = store
        self._log = log
        self._clock = clock or SystemClock()
        # Both by folder of the table; each entry belongs to who holds the lock of the table.
        self._mended: set[str] = set()
        self._doubts: dict[str, _Doubt] = {}

    # --- looking -----------------------------------------------------------------------------

    def files(self, table: TableId) -> list[TableFile]:
        """The files of a table now, sorted by path; none where there is no table.

        Raises:
            StorageError: the table cannot be read.
        """
        folder = table_dir(table)
        handle = self._opened(folder)
        return [] if handle is None else _files(handle, folder)

    def _opened(self, folder: str) -> deltalake.DeltaTable | None:
        """The table as it is now; None where there is none. Not under its lock."""
        if folder not in self._mended:
            with table_lock(self._store, folder):
                versions, has_checkpoint = mend(self._store, folder, self._log)
                if not versions and not has_checkpoint:
                    return None
                self._mended.add(folder)
        with open_table(self._store, folder) as handle:
            return handle

    # --- replacing ---------------------------------------------------------------------------

    def replace(
        self,
        table: TableId,
        old: Sequence[str],
        new: Sequence[StagedFile],
        operation: str,
        *,
        data_change: bool,
        check: Callable[[], None] | None = None,
    ) -> int:
        """Put new files in the place of old ones, in one commit.

        Args:
            table: Whose.
            old: Paths below the table's folder. They stay on the disk until a `vacuum`.
            new: Staged under the table's folder; may be none. No longer staged afterwards.
            operation: For the commit, as other writers of Delta tables call it: "OPTIMIZE".
            data_change: False: new files hold the same rows as the old ones.
            check: Called under the lock of the table, when all of `old` are known to be in it and
                nothing is done yet; may raise to prevent it.

        Returns:
            The version of the commit.

        Raises:
            ConflictError: one of the old files is not in the table any more. Like after any
                other error, nothing has changed and the new files are still staged.
            InDoubtError: the disk refused to say whether it is in. The next call for the table
                finds out; what is staged and may be needed then, `store.discard` leaves.
            StorageError: the disk refuses, or the table is not one that we can change.
        """
        folder = table_dir(table)
        for file in new:
            delta.relative_path(folder, file.path)
        handle = self._opened(folder)
        if handle is None:
            raise ConflictError(f"there is no table {folder} any more")
        with table_lock(self._store, folder):
            self._settle(folder)
            _refresh(handle, folder, old)
            if check is not None:
                check()
            version = self._commit(table, folder, handle, old, new, operation, data_change)
        if version % CHECKPOINT_VERSIONS == 0:
            checkpoint(self._store, table, self._log)
        return version

    def _commit(
        self,
        table: TableId,
        folder: str,
        handle: deltalake.DeltaTable,
        old: Sequence[str],
        new: Sequence[StagedFile],
        operation: str,
        data_change: bool,
    ) -> int:
        """Publish and commit, or leave everything as it was."""
        content = self._actions(folder, old, new, operation, data_change)
        note = self._stage_note(table, new)
        try:
            self._store.publish(new)
        except BaseException:
            self._drop_note(note, new)
            raise
        try:
            version = self._append(folder, handle, old, content)
        except InDoubtError:
            self._store.doubt(new)
            path = _commit_path(folder, handle.version() + 1)
            self._doubts[folder] = _Doubt(path, content, tuple(new), note)
            raise
        except BaseException:
            self._take_back(new, note)
            raise
        self._store.unstage(new)
        self._discard(note)
        return version

    def _append(
        self, folder: str, handle: deltalake.DeltaTable, old: Sequence[str], content: bytes
    ) -> int:
        """Write the commit file, under the first version that nobody else takes."""
        while True:
            version = handle.version() + 1
            note = self._store.stage_note(f"{self.owner}-commit", content)
            try:
                if self._store.put_if_absent(note, _commit_path(folder, version)):
                    return version
            finally:
                self._store.discard_note(note)
            _refresh(handle, folder, old)
            if handle.version() < version:
                raise StorageError(f"the log of table {folder} has a version {version} unread")

    def _actions(
        self,
        folder: str,
        old: Sequence[str],
        new: Sequence[StagedFile],
        operation: str,
        data_change: bool,
    ) -> bytes:
        now_ms = self._clock.now_us() // 1000
        actions = [delta.commit_info(now_ms, operation, is_append=False)]
        actions += [delta.remove(path, now_ms, data_change=data_change) for path in old]
        for file in new:
            stats = delta.statistics(file.num_rows, file.min_time_us, file.max_time_us)
            path = delta.relative_path(folder, file.path)
            added = delta.AddedFile(path, file.size_bytes, now_ms, stats, data_change)
            actions.append(delta.add(added))
        return delta.encode_commit(actions)

    def _stage_note(self, table: TableId, new: Sequence[StagedFile]) -> Path | None:
        """A note of the names that new files get; only under the lock of the table."""
        if not new:
            return None
        note = promotion.Note(table, tuple(file.path for file in new))
        return self._store.stage_note(f"{self.owner}-swap", msgspec.json.encode(note))

    def _take_back(self, new: Sequence[StagedFile], note: Path | None) -> None:
        """Undo `publish`; when the disk refuses that too, the note stays for `recover`."""
        self._store.take_back(new)
        self._discard(note)

    def _drop_note(self, note: Path | None, new: Sequence[StagedFile]) -> None:
        """Forget a note unless one of its names was given and not taken back."""
        if not any((self._store.root / file.path).exists() for file in new):
            self._discard(note)

    def _discard(self, note: Path | None) -> None:
        if note is not None:
            self._store.discard_note(note)

    def _settle(self, folder: str) -> None:
        """Find out what became of a commit file that the disk refused to sync and to remove."""
        doubt = self._doubts.get(folder)
        if doubt is None:
            return
        if read_if_there(self._store.root / doubt.path) == doubt.content:
            # A sync of a directory that did not change proves nothing, so change it.
            note = self._store.stage_note(f"{self.owner}-commit", doubt.content)
            try:
                self._store.replace(note, doubt.path)
            finally:
                self._store.discard_note(note)
            self._store.unstage(doubt.new)
            self._discard(doubt.note)
        else:
            self._take_back(doubt.new, doubt.note)
        del self._doubts[folder]

    # --- vacuum ------------------------------------------------------------------------------

    def vacuum(
        self, table: TableId, older_than_s: float = GRACE_S, *, dry_run: bool = False
    ) -> Vacuumed:
        """Remove files that left the table, and files of ours that never were in it.

        A file goes when the table has it no more and its log says so since `older_than_s`, or
        when its name is of ours and the log knows nothing of it: then its commit failed, or left
        the log long ago. What is staged as well may be in the table any moment and stays; so do
        files of others that the log does not mention.

        Args:
            table: Whose.
            older_than_s: How long a file must have been out of the table.
            dry_run: Only count.

        Raises:
            StorageError: the table cannot be read, or the disk refuses.
        """
        folder = table_dir(table)
        handle = self._opened(folder)
        if handle is None:
            return Vacuumed()
        before_ms = self._clock.now_us() // 1000 - int(older_than_s * 1000)
        own = list(_own_files(self._store.root / folder))
        with table_lock(self._store, folder):
            # Together: what leaves the table after this is known neither here nor there.
            known = read_tombstones(self._store.root, folder)
            active = _active(handle, folder)
            strays = [path for path in own if path not in known and path not in active]
        due = [path for path, since_ms in known.items() if since_ms <= before_ms]
        num_files = size_bytes = 0
        for paths in _in_pieces([*due, *strays], _VACUUM_FILES):
            with table_lock(self._store, folder):
                gone = self._remove_unused(folder, handle, paths, dry_run)
            num_files += len(gone)
            size_bytes += sum(gone)
        return Vacuumed(num_files, size_bytes)

    def _remove_unused(
        self, folder: str, handle: deltalake.DeltaTable, paths: Sequence[str], dry_run: bool
    ) -> list[int]:
        """Remove those of the files that are neither in the table nor staged; their sizes."""
        active = _active(handle, folder)
        sizes: list[int] = []
        names: list[str] = []
        for path in paths:
            found = _stat(self._store.root / folder / path)
            # A second name is that of the staging folder: its commit is under way, or in doubt.
            if path in active or found is None or found.st_nlink > 1:
                continue
            sizes.append(found.st_size)
            names.append(f"{folder}/{path}")
        if not dry_run:
            for name in names:
                self._store.remove(name)
            self._store.sync_folders(names)
        return sizes

    # --- recovery ----------------------------------------------------------------------------

    def recover(self) -> int:
        """Remove what a killed changer of this owner left: staged files, and names they gave.

        To be called at the start. Leftovers of a table that cannot be read stay, and are logged.

        Returns:
            How many files were removed, or only their staged names.

        Raises:
            StorageError: the disk refuses.
        """
        staged = sorted((self._store.root / _STAGING_DIR).glob(f"{self.owner}-*{STAGED_SUFFIX}"))
        notes = [path for path in staged if promotion.is_note(path)]
        kept = [path for path in notes if not self._recover_note(path)]
        gone = [path for path in staged if path not in kept]
        if kept:  # what has a second name is needed to find that
            gone = [path for path in gone if path.stat().st_nlink == 1]
        # Notes last: while one is there, the names that it lists can still be found.
        for path in sorted(gone, key=promotion.is_note):
            self._store.remove_staged(path)
        return len(gone)

    def _recover_note(self, path: Path) -> bool:
        """Take back names that are in no table; False: not now."""
        note = promotion.read_note(path)
        if note is None:
            return True  # torn, so nothing was done by it
        folder = table_dir(note.table)
        try:
            handle = self._opened(folder)
            with table_lock(self._store, folder):
                active = set() if handle is None else _active(handle, folder)
                strays = [name for name in note.paths if name[len(folder) + 1 :] not in active]
                for name in strays:
                    self._store.remove(name)
                self._store.sync_folders(strays)
        except StorageError as error:
            self._log.error("recovery_postponed", table=folder, error=str(error))
            return False
        return True


def _refresh(handle: deltalake.DeltaTable, folder: str, old: Iterable[str]) -> None:
    """Bring a table up to date, and make sure that we may change it and it has the old files."""
    with refusals_of_deltalake(folder):
        handle.update_incremental()
        protocol = handle.protocol()
    delta.check_protocol(protocol.min_reader_version, protocol.min_writer_version)
    missing = sorted(set(old) - _active(handle, folder))
    if missing:
        raise ConflictError(f"table {folder} has no file {missing[0]} any more")


def _active(handle: deltalake.DeltaTable, folder: str) -> set[str]:
    """Paths of all files of a table, below its folder, as of now."""
    with refusals_of_deltalake(folder):
        handle.update_incremental()
        paths = add_actions(handle).column("path").to_pylist()
    return {delta.decoded_path(path) for path in paths}


def _files(handle: deltalake.DeltaTable, folder: str) -> list[TableFile]:
    with refusals_of_deltalake(folder):
        found = add_actions(handle)
        version = handle.version()
    names = ("path", "size_bytes", "num_records", "min.time", "max.time", "modification_time")
    columns: list[list[Any]] = []
    for name in names:
        column = found.column(name) if name in found.column_names else pa.nulls(found.num_rows)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        columns.append(column.to_pylist())
    files = [
        TableFile(delta.decoded_path(path), size, rows, low, high, (modified or 0), version)
        for path, size, rows, low, high, modified in zip(*columns, strict=True)
    ]
    return sorted(files, key=lambda file: file.path)


def _own_files(folder: Path) -> Iterator[str]:
    """Files below a table's folder whose names are of ours."""
    for where, directories, names in os.walk(folder):
        if delta.LOG_DIR in directories:
            directories.remove(delta.LOG_DIR)
        below = Path(where).relative_to(folder).as_posix()
        for name in names:
            if is_merged_name(name) or parse_rewritten_name(name) is not None:
                yield f"{below}/{name}"


def _stat(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None


def _commit_path(folder: str, version: int) -> str:
    return f"{folder}/{delta.LOG_DIR}/{delta.commit_name(version)}"


def _in_pieces(paths: list[str], size: int) -> Iterator[list[str]]:
    return (paths[at : at + size] for at in range(0, len(paths), size))
