"""Where files live: a folder on a local disk. Bytes in, a durable file under its name out.

A file is first staged: written under `.arc/staging/`, where no reader looks, and synced. Then
all files of a flush are published together: hard-linked to their names, and every directory that
changed synced. So a name ending in `.parquet` never shows part of a file, also after a power
cut, and what `publish` returned for is on the disk. The staged name stays until the caller has
made the file part of its table (`unstage`) or not (`take_back`, `discard`): one that outlives its
process names a file whose commit is in doubt. Staging lies beside the tables and not in them, so
that these are found by listing one folder, whatever the number of tables; root and tables must
therefore be one file system, and one that has hard links.

Nothing here knows what is in a file. A file that has its name is never replaced: names hold
shard, epoch and sequence, and whoever reuses one has lost count. The exception is a name that a
failed `publish` could not take back, which the next attempt of the same store gives again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from ingest.disk import refusals, sync_directory
from ingest.errors import IngestError, StorageError

_STAGING_DIR, _LOCKS_DIR = ".arc/staging", ".arc/locks"

#: How every name in the staging folder ends.
STAGED_SUFFIX = ".tmp"
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600

#: How many directories a store remembers as synced: some 30 MB. To forget costs syncs only.
_MAX_SETTLED_DIRECTORIES = 100_000


class FileEntry(msgspec.Struct, frozen=True):
    """What a table knows of one of its files.

    Attributes:
        path: Below the root of the store, "/" between the parts.
        size_bytes: Of the file.
        num_rows: In the file.
        min_time_us: Earliest time of a row, microseconds since 1970-01-01T00:00Z.
        max_time_us: Latest time of a row.
    """

    path: str
    size_bytes: int
    num_rows: int
    min_time_us: int
    max_time_us: int


class StagedFile(FileEntry, frozen=True):
    """A file that is written and synced, and not yet under its name.

    Attributes:
        temporary: Where it is now, an absolute path.
    """

    temporary: str


class InDoubtError(StorageError):
    """The disk refused to sync a name and to take it back: it may be there, now or later."""


class SystemCalls:
    """What the store asks of the operating system, so that a test can record or refuse it.

    Every method raises what the call raises: OSError.
    """

    def create(self, path: Path) -> int:
        """Make a file that must not exist yet; its descriptor, open for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def sync(self, descriptor: int) -> None:
        """Bring a file's content to the disk."""
        os.fsync(descriptor)

    def sync_file(self, path: Path) -> None:
        """Bring the content of a file that somebody else wrote to the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Bring the names in a directory to the disk."""
        sync_directory(path)

    def write(self, descriptor: int, content: bytes) -> None:
        """Append to a file, all of it."""
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]

    def link(self, source: Path, target: Path) -> None:
        """Give a file one more name, on the same file system, unless it is taken."""
        os.link(source, target)

    def lock(self, path: Path) -> int:
        """Wait for the lock on a file, which is made when missing; its descriptor holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of the file that has it, in one step."""
        os.rename(source, target)

    def make_directory(self, path: Path) -> None:
        """Make a directory whose parent exists."""
        path.mkdir(mode=_DIRECTORY_MODE)

    def remove(self, path: Path) -> None:
        """Take a file's name away."""
        path.unlink()

    def free_bytes(self, path: Path) -> int:
        """Bytes that an ordinary user can still write to the file system of a directory."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


class LocalStore:
    """Files below one directory. Its methods may be called from several threads at once.

    Args:
        root: The data directory; made when missing, with mode 0700.
        calls: The operating system.

    Raises:
        StorageError: the directory cannot be made.
    """

    def __init__(self, root: str | os.PathLike[str], calls: SystemCalls | None = None) -> None:
        self.root = Path(os.path.abspath(root))
        self._calls = calls or SystemCalls()
        self._staging = self.root / _STAGING_DIR
        self._locks = self.root / _LOCKS_DIR
        self._life = os.urandom(4).hex()
        self._counter = itertools.count()
        # Directories below the root whose names this process has synced. That one exists proves
        # nothing: another process, or a failed attempt of ours, may have made it a moment ago.
        self._settled: set[Path] = set()
        # Names that were given and could not be taken back, the only ones ever to be replaced,
        # and one staged name for each, which must not go while the other may still be there.
        self._doubtful: dict[Path, str] = {}
        self._make_root()
        self._sync(set(), self._make_directories({self._staging, self._locks}))

    def free_bytes(self) -> int:
        """Bytes that can still be written.

        Raises:
            StorageError: the file system does not say.
        """
        with refusals(self.root, "ask for free space at"):
            return self._calls.free_bytes(self.root)

    def stage(
        self,
        path: str,
        write: Callable[[str], object],
        *,
        num_rows: int,
        min_time_us: int,
        max_time_us: int,
        staged_as: str = "",
    ) -> StagedFile:
        """Write a file and sync it, without giving it its name.

        Args:
            path: Its path below the root, "/" between the parts.
            write: Is given the absolute path of an empty file to fill, not to replace.
            num_rows: Goes into the result, as do the times.
            min_time_us: Microseconds since 1970-01-01T00:00Z.
            max_time_us: Microseconds since 1970-01-01T00:00Z.
            staged_as: How its name begins while it is staged, first of all with the shard as
                `paths.file_name` writes it; left out: as it does in `path`.

        Raises:
            StorageError: the disk refuses. Like any other error of `write`, which comes out as
                it is, it leaves nothing behind.
        """
        target = self._target(path)
        temporary = self._temporary(staged_as or target.name)
        with refusals(target, "write"):
            size_bytes = self._create_filled(temporary, lambda _: write(str(temporary)))
        return StagedFile(path, size_bytes, num_rows, min_time_us, max_time_us, str(temporary))

    def stage_note(self, name: str, content: bytes) -> Path:
        """Write a small file into the staging folder and sync it; no table ever shows it.

        Args:
            name: Begins with the shard as `paths.file_name` writes it.
            content: All of it.

        Returns:
            Where it is; its name begins with `name`.

        Raises:
            StorageError: the disk refuses. Nothing is left behind, as far as it lets us.
        """
        path = self._temporary(name)
        with refusals(path, "write"):
            self._create_filled(path, lambda descriptor: self._calls.write(descriptor, content))
        return path

    def publish(self, files: Sequence[StagedFile]) -> None:
        """Give staged files their names, durably; they keep those in the staging folder.

        The staging folder is synced before the first name is given, so that no power cut leaves
        a name that `staged` does not lead to. Afterwards each directory is synced once, however
        many files go there, and so is every one that is new above it, from the bottom up: a
        name on the disk never leads to less than it should.

        Raises:
            StorageError: the disk refuses, or has no hard links. As far as it lets us, no file
                keeps its new name. Call again, with the same files or with others staged for
                the same paths.
            IngestError: another file has the name of one of these: a defect of the caller.
        """
        given: list[StagedFile] = []
        try:
            folders = {self._target(file.path).parent for file in files}
            unsettled = self._make_directories(folders)
            self._sync({self._staging}, [])
            for file in files:
                self._give_name(file, given)
            self._sync(folders, unsettled)
        except BaseException:
            with contextlib.suppress(StorageError):  # the error that matters is under way
                self.take_back(given)
            self._settled.clear()  # a directory that we remember may be gone
            raise

    def take_back(self, files: Sequence[StagedFile]) -> None:
        """Undo `publish`, durably, so that a repeated call dirties the directories anew.

        To sync a directory again after a failed sync proves nothing: what the first could not
        write may have been dropped from memory as if it were written.

        Raises:
            StorageError: the disk refuses. The names are in doubt: `discard` leaves their files
                staged, so that a start finds them, and the next `publish` replaces them.
        """
        try:
            for file in files:
                self.remove(file.path)
            self._sync({self._target(file.path).parent for file in files}, [])
        except StorageError:
            self.doubt(files)
            raise
        self._forget_doubts(files)

    def doubt(self, files: Iterable[StagedFile]) -> None:
        """Keep the staged names of published files until it is known what became of them.

        From now on `discard` leaves them, and the next `publish` of the same paths replaces
        the files. `unstage` and `take_back` end the doubt.
        """
        for file in files:
            self._doubtful.setdefault(self._target(file.path), file.temporary)

    def unstage(self, files: Iterable[StagedFile]) -> None:
        """Remove the staged names of files that are committed; they keep the others.

        What cannot be removed now is found by the next start, which looks into the table.
        """
        files = list(files)
        self._forget_doubts(files)
        for file in files:
            self.discard_note(Path(file.temporary))

    def discard(self, files: Iterable[StagedFile]) -> None:
        """Remove staged files that are not to be published after all.

        Those whose names are in doubt after a `take_back` that failed stay staged. What cannot
        be removed now is found by the next start.
        """
        for file in files:
            if self._doubtful.get(self._target(file.path)) != file.temporary:
                self.discard_note(Path(file.temporary))

    def discard_note(self, path: Path) -> None:
        """Remove one file of the staging folder, if the disk lets us."""
        with contextlib.suppress(OSError):
            self._calls.remove(path)

    def remove_staged(self, path: Path) -> None:
        """Remove one file of the staging folder.

        Raises:
            StorageError: the disk refuses.
        """
        with refusals(path, "remove"), contextlib.suppress(FileNotFoundError):
            self._calls.remove(path)

    def staged(self, shard: int) -> list[Path]:
        """What processes of a shard have staged, by name; at its start: what was left behind.

        Raises:
            StorageError: the folder cannot be read.
        """
        prefix = f"s{shard:03d}-"
        with refusals(self._staging, "read"):
            return sorted(
                path
                for path in self._staging.iterdir()
                if path.name.startswith(prefix) and path.name.endswith(STAGED_SUFFIX)
            )

    def remove(self, path: str) -> bool:
        """Take a name away; durable after the next `sync_folders`.

        Args:
            path: Below the root.

        Returns:
            Whether there was a file of this name.

        Raises:
            StorageError: the disk refuses.
        """
        target = self._target(path)
        with refusals(target, "remove"):
            try:
                self._calls.remove(target)
            except FileNotFoundError:
                return False
        return True

    def sync_file(self, path: str) -> None:
        """Bring the content of a file to the disk, whoever wrote it.

        Raises:
            StorageError: the disk refuses, or there is no such file.
        """
        target = self._target(path)
        with refusals(target, "sync"):
            self._calls.sync_file(target)

    def sync_folders(self, paths: Iterable[str]) -> None:
        """Bring to the disk what names the folders of these files hold.

        Args:
            paths: Of files, below the root; they need not exist any more.

        Raises:
            StorageError: the disk refuses.
        """
        folders = {self._target(path).parent for path in paths}
        self._sync({folder for folder in folders if folder.exists()}, [])

    def put_if_absent(self, note: Path, path: str) -> bool:
        """Give a staged note a name, durably, unless it is taken; it stays staged.

        Args:
            note: What `stage_note` returned.
            path: Below the root.

        Returns:
            False when the name is taken.

        Raises:
            InDoubtError: the disk refuses to sync, and then to undo: the name may be there.
            StorageError: the disk refuses; the name is not there.
        """
        target = self._target(path)
        unsettled = self._make_directories({target.parent})
        try:
            if not self._link(note, target):
                return False
            self._sync({target.parent}, unsettled)
        except StorageError as error:
            self._settled.clear()
            if _may_be_linked(note, target):
                self._undo_put(path, error)
            raise
        return True

    def _undo_put(self, path: str, error: StorageError) -> None:
        """Take a name away, durably, which could not be given so."""
        try:
            self.remove(path)
            self.sync_folders([path])
        except StorageError:
            raise InDoubtError(str(error)) from error

    def replace(self, note: Path, path: str) -> None:
        """Move a staged note to a name, durably, in place of the file that has it.

        Raises:
            StorageError: the disk refuses; one of the two has the name.
        """
        target = self._target(path)
        with refusals(target, "replace"):
            self._calls.rename(note, target)
        self._sync({target.parent}, [])

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock between threads and processes, on a file that stays for good.

        Every holder opens the file anew, and flock(2) locks what was opened: so threads of one
        process exclude each other as well. The lock ends with the process.

        Raises:
            StorageError: the lock file cannot be made or locked.
        """
        path = self._locks / name
        with refusals(path, "lock"):
            descriptor = self._calls.lock(path)
        try:
            yield
        finally:
            os.close(descriptor)

    def _target(self, path: str) -> Path:
        parts = path.split("/")
        if not all(part and part not in (".", "..") for part in parts):
            raise IngestError(f"BUG: {path!r} is not a path below the root of a store")
        return self.root.joinpath(*parts)

    def _temporary(self, name: str) -> Path:
        # The number of the process's life keeps it from the names of leftovers of its shard.
        return self._staging / f"{name}.{self._life}{next(self._counter)}{STAGED_SUFFIX}"

    def _create_filled(self, path: Path, fill: Callable[[int], object]) -> int:
        """Make a file, fill and sync it; its size. Nothing is left of it after an error."""
        # The descriptor is older than the first byte: a write-back that fails before the sync
        # is reported to every descriptor that was open at the time (fsync(2), since Linux 4.13).
        descriptor = self._calls.create(path)
        try:
            fill(descriptor)
            self._calls.sync(descriptor)
            return os.fstat(descriptor).st_size
        except BaseException:
            with contextlib.suppress(OSError):  # the error that matters is under way
                self._calls.remove(path)
            raise
        finally:
            os.close(descriptor)

    def _give_name(self, file: StagedFile, given: list[StagedFile]) -> None:
        """Link one file, and say so in `given`, unless an earlier call did."""
        source, target = Path(file.temporary), self._target(file.path)
        if target in self._doubtful:
            self.remove(file.path)
        try:
            linked = self._link(source, target)
        except StorageError:
            if _may_be_linked(source, target):
                given.append(file)
            raise
        if linked:
            given.append(file)
        elif not _is_same_file(source, target):
            raise IngestError(f"BUG: {target} is there already, and is never replaced")

    def _link(self, source: Path, target: Path) -> bool:
        """Give a file one more name; False when that is taken."""
        with refusals(target, "publish"):
            try:
                self._calls.link(source, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
                    raise StorageError(
                        f"cannot publish {target}: the file system has no hard links, or not "
                        f"for this user; the data directory needs them ({error.strerror})"
                    ) from error
                raise
        return True

    def _forget_doubts(self, files: Iterable[StagedFile]) -> None:
        for file in files:
            kept = self._doubtful.pop(self._target(file.path), file.temporary)
            if kept != file.temporary:
                self.discard_note(Path(kept))

    def _make_root(self) -> None:
        # os.path.exists, unlike Path.exists, also says no when it may not look.
        missing = [path for path in (self.root, *self.root.parents) if not os.path.exists(path)]
        for directory in reversed(missing):
            with refusals(directory, "make"):
                with contextlib.suppress(FileExistsError):
                    self._calls.make_directory(directory)
                self._calls.sync_directory(directory.parent)

    def _make_directories(self, folders: Iterable[Path]) -> list[Path]:
        """Make folders and all above them; those whose names are still to be synced."""
        unsettled: dict[Path, None] = {}
        for folder in folders:
            chain = folder
            while chain != self.root and chain not in self._settled and chain not in unsettled:
                unsettled[chain] = None
                chain = chain.parent
        for directory in sorted(unsettled, key=_depth):
            with refusals(directory, "make"), contextlib.suppress(FileExistsError):
                self._calls.make_directory(directory)
        return list(unsettled)

    def _sync(self, folders: set[Path], unsettled: Sequence[Path]) -> None:
        """Sync the entries of folders, and the names of unsettled directories."""
        changed = folders | {directory.parent for directory in unsettled}
        for directory in sorted(changed, key=_depth, reverse=True):
            with refusals(directory, "sync"):
                self._calls.sync_directory(directory)
        if len(self._settled) > _MAX_SETTLED_DIRECTORIES:
            self._settled.clear()
        self._settled.update(unsettled)


def _is_same_file(source: Path, target: Path) -> bool:
    with refusals(target, "publish"):
        return os.path.samestat(os.lstat(source), os.lstat(target))


def _may_be_linked(source: Path, target: Path) -> bool:
    """Whether a name may have been given by a call that failed."""
    try:
        return os.path.samestat(os.lstat(source), os.lstat(target))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _depth(path: Path) -> tuple[int, Path]:
    return len(path.parts), path
