"""Where files live: a folder on a local disk. Bytes in, a durable file under its name out.

A file is first staged: written under `.arc/staging/`, where no reader looks, and synced. Then
all files of a flush are published together: moved to their names, and every directory that
changed synced. So a name ending in `.parquet` never shows part of a file, also after a power
cut, and what `publish` returned for is on the disk. Staging lies beside the tables and not in
them, so that what a killed process leaves behind is found by listing one folder, whatever the
number of tables; root and tables must therefore be one file system.

Nothing here knows what is in a file. A file that has its name is never replaced: names hold
shard, epoch and sequence, and whoever reuses one has lost count. The exception is a name that a
failed `publish` could not take back, which the next attempt of the same store gives again.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from ingest.errors import IngestError, StorageError

_STAGING_DIR = ".arc/staging"
_STAGED_SUFFIX = ".tmp"
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

    def sync_directory(self, path: Path) -> None:
        """Bring the names in a directory to the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name on the same file system, in one step."""
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
        self._counter = itertools.count()
        # Directories below the root whose names this process has synced. That one exists proves
        # nothing: another process, or a failed attempt of ours, may have made it a moment ago.
        self._settled: set[Path] = set()
        # Names that a failed publish gave and could not take back: the only ones to replace.
        self._unfinished: set[Path] = set()
        self._make_root()
        self._sync(set(), self._make_directories({self._staging}))

    def free_bytes(self) -> int:
        """Bytes that can still be written.

        Raises:
            StorageError: the file system does not say.
        """
        with _refusals(self.root, "ask for free space at"):
            return self._calls.free_bytes(self.root)

    def clean_temporaries(self, shard: int) -> int:
        """Remove what an earlier process of this shard had staged; to be called at its start.

        Returns:
            How many files that were.

        Raises:
            StorageError: a file cannot be removed.
        """
        prefix = f"s{shard:03d}-"
        with _refusals(self._staging, "clean"):
            leftovers = [
                path
                for path in self._staging.iterdir()
                if path.name.startswith(prefix) and path.name.endswith(_STAGED_SUFFIX)
            ]
            for path in leftovers:
                self._calls.remove(path)
        return len(leftovers)

    def stage(
        self,
        path: str,
        write: Callable[[str], object],
        *,
        num_rows: int,
        min_time_us: int,
        max_time_us: int,
    ) -> StagedFile:
        """Write a file and sync it, without giving it its name.

        Args:
            path: Its path below the root, "/" between the parts; the last begins with the
                shard as `paths.file_name` writes it.
            write: Is given the absolute path of an empty file to fill, not to replace.
            num_rows: Goes into the result, as do the times.
            min_time_us: Microseconds since 1970-01-01T00:00Z.
            max_time_us: Microseconds since 1970-01-01T00:00Z.

        Raises:
            StorageError: the disk refuses. Like any other error of `write`, which comes out as
                it is, it leaves nothing behind.
        """
        target = self._target(path)
        temporary = self._staging / f"{target.name}.{next(self._counter)}{_STAGED_SUFFIX}"
        with _refusals(target, "write"):
            descriptor = self._calls.create(temporary)
            try:
                size_bytes = self._fill(temporary, descriptor, write)
            except BaseException:
                with contextlib.suppress(OSError):  # the error that matters is under way
                    self._calls.remove(temporary)
                raise
            finally:
                os.close(descriptor)
        return StagedFile(path, size_bytes, num_rows, min_time_us, max_time_us, str(temporary))

    def _fill(self, temporary: Path, descriptor: int, write: Callable[[str], object]) -> int:
        # The descriptor is older than the first byte: a write-back that fails before the sync
        # is reported to every descriptor that was open at the time (fsync(2), since Linux 4.13).
        write(str(temporary))
        self._calls.sync(descriptor)
        return os.fstat(descriptor).st_size

    def publish(self, files: Sequence[StagedFile]) -> None:
        """Give staged files their names, durably; files that have theirs already stay.

        Each directory is synced once, however many files go there, and so is every one that is
        new above it, from the bottom up: a name on the disk never leads to less than it should.

        Raises:
            StorageError: the disk refuses. As far as it lets us, no file keeps its new name.
                Call again, with the same files or with others staged for the same paths.
            IngestError: another file has the name of one of these: a defect of the caller.
        """
        moved: list[StagedFile] = []
        try:
            folders = {self._target(file.path).parent for file in files}
            unsettled = self._make_directories(folders)
            for file in files:
                self._move(file, moved)
            self._sync(folders, unsettled)
            self._unfinished -= {self._target(file.path) for file in files}
        except BaseException:
            self._move_back(moved)
            self._settled.clear()  # a directory that we remember may be gone
            raise

    def discard(self, files: Iterable[StagedFile]) -> None:
        """Remove staged files that are not to be published after all.

        What cannot be removed now is left to `clean_temporaries`.
        """
        for file in files:
            with contextlib.suppress(OSError):
                self._calls.remove(Path(file.temporary))

    def _target(self, path: str) -> Path:
        parts = path.split("/")
        if not all(part and part not in (".", "..") for part in parts):
            raise IngestError(f"BUG: {path!r} is not a path below the root of a store")
        return self.root.joinpath(*parts)

    def _move(self, file: StagedFile, moved: list[StagedFile]) -> None:
        """Rename one file, and say so in `moved`, unless an earlier call did."""
        source, target = Path(file.temporary), self._target(file.path)
        with _refusals(target, "publish"):
            taken = os.path.lexists(target)
            if taken and not os.path.lexists(source):
                return
            if taken and target not in self._unfinished:
                raise IngestError(f"BUG: {target} is there already, and is never replaced")
            self._calls.rename(source, target)
            moved.append(file)

    def _move_back(self, files: Sequence[StagedFile]) -> None:
        """Undo `_move`, so that a repeated call renames, and so dirties the directory, anew.

        To sync a directory again after a failed sync proves nothing: what the first could not
        write may have been dropped from memory as if it were written.
        """
        for file in reversed(files):
            target = self._target(file.path)
            try:
                self._calls.rename(target, Path(file.temporary))
            except OSError:
                self._unfinished.add(target)

    def _make_root(self) -> None:
        # os.path.exists, unlike Path.exists, also says no when it may not look.
        missing = [path for path in (self.root, *self.root.parents) if not os.path.exists(path)]
        for directory in reversed(missing):
            with _refusals(directory, "make"):
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
            with _refusals(directory, "make"), contextlib.suppress(FileExistsError):
                self._calls.make_directory(directory)
        return list(unsettled)

    def _sync(self, folders: set[Path], unsettled: Sequence[Path]) -> None:
        """Sync the entries of folders, and the names of unsettled directories."""
        changed = folders | {directory.parent for directory in unsettled}
        for directory in sorted(changed, key=_depth, reverse=True):
            with _refusals(directory, "sync"):
                self._calls.sync_directory(directory)
        if len(self._settled) > _MAX_SETTLED_DIRECTORIES:
            self._settled.clear()
        self._settled.update(unsettled)


def _depth(path: Path) -> tuple[int, Path]:
    return len(path.parts), path


@contextlib.contextmanager
def _refusals(path: Path, verb: str) -> Iterator[None]:
    """Turn what the disk refuses into what the pipeline understands."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0)
        why = f"{os.strerror(error.errno)} ({name})" if error.errno and name else str(error)
        raise StorageError(f"cannot {verb} {path}: {why}") from error
