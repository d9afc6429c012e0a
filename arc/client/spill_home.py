"""Whose files are whose: a directory for each client that spills, held by a lock.

In: the directory that clients share. Out: one directory of our own in it, and the segments that
dead clients left, moved there. A client is alive as long as it holds the lock (flock(2)) on the
file `lock` in its directory; the kernel lets go of it when the process ends, however that was.
Segments are moved by one rename each, under the lock of the directory that they leave, so a crash
on the way leaves every one in exactly one place. Nothing here knows what is in a segment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from pathlib import Path

from arc.client.errors import SpillError, SpillFullError
from arc.client.spill_segment import FILE_MODE, is_segment

DIRECTORY_MODE = 0o700

_NAME = re.compile(r"client-[0-9a-f]{16}", re.ASCII)
_LOCK = "lock"
_ATTEMPTS = 100

#: No room, by one measure or another; it may come back.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def refusal(error: OSError, doing: str, path: Path) -> SpillError:
    """What the caller is told when the disk refuses."""
    words = f"cannot {doing} {path}: {error.strerror or error}"
    return SpillFullError(words) if error.errno in FULL else SpillError(words)


class Home:
    """Our directory.

    A directory of a dead client becomes ours, if there is one, and what other dead clients left
    is moved into it: that takes no room on a disk that may be full.

    Args:
        base: Shared by the clients; made when missing.
        sync: Bring names to the disk.

    Attributes:
        base: As given.
        segments: Paths of what dead clients left, ours now.

    Raises:
        SpillError: no directory can be made here. A disk that is only full is no error yet.
    """

    def __init__(self, base: Path, sync: bool) -> None:
        self.base, self._sync = base, sync
        self.segments: list[Path] = []
        self._folder: Path | None = None
        self._lock = -1
        try:
            self._make_base()
            self._adopt()
            self._make_early()
        except OSError as error:
            self.abandon()
            raise refusal(error, "use the spill directory", base) from error

    def folder(self) -> Path:
        """Our directory; made now if there was no room for it before.

        Raises:
            OSError: it cannot be made.
        """
        if self._folder is None:
            self._make()
        assert self._folder is not None
        return self._folder

    def _make_base(self) -> None:
        new = [path for path in (self.base, *self.base.parents) if not path.exists()]
        self.base.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        for path in new:
            self._sync_names(path.parent)

    def _make_early(self) -> None:
        """A directory that can never be used is said at once; a full disk when it is used."""
        try:
            self.folder()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def _make(self) -> None:
        for _ in range(_ATTEMPTS):
            folder = self.base / f"client-{os.urandom(8).hex()}"
            folder.mkdir(mode=DIRECTORY_MODE)
            try:
                lock = _take(folder)
            except OSError:
                with contextlib.suppress(OSError):
                    folder.rmdir()
                raise
            if lock is not None:  # else another client took the empty directory for a dead one's
                self._folder, self._lock = folder, lock
                self._sync_names(self.base)
                return
        raise OSError(errno.EAGAIN, f"{_ATTEMPTS} new directories were taken away")

    # ------------------------------------------------------------------------------- adoption

    def _adopt(self) -> None:
        for name in sorted(os.listdir(self.base)):
            if _NAME.fullmatch(name):
                try:
                    self._adopt_one(self.base / name)
                except OSError as error:
                    logging.getLogger("arc.client").warning(
                        "the spill of a dead client is left alone: %s", error
                    )

    def _adopt_one(self, folder: Path) -> None:
        lock = _take(folder)
        if lock is None:
            return
        if self._folder is None:
            self._folder, self._lock = folder, lock
            self.segments += _segments_in(folder)
            return
        try:
            self._move(folder, self._folder)
        finally:
            os.close(lock)

    def _move(self, folder: Path, home: Path) -> None:
        for path in _segments_in(folder):
            path.rename(home / path.name)
            self.segments.append(home / path.name)
        self._sync_names(home)
        _remove(folder)
        self._sync_names(self.base)

    def _sync_names(self, folder: Path) -> None:
        if self._sync:
            sync_directory(folder)

    # -------------------------------------------------------------------------------- leaving

    def close(self) -> None:
        """Give our directory up; it is removed unless something is left in it."""
        if self._folder is not None:
            _remove(self._folder)
        self.abandon()

    def abandon(self) -> None:
        """Give up the descriptor only: the lock is let go when no process has it any more."""
        lock, self._lock, self._folder = self._lock, -1, None
        if lock >= 0:
            os.close(lock)


def _take(folder: Path) -> int | None:
    """Take the lock of a directory; None: another client has it, or has removed it.

    Raises:
        OSError: the lock cannot be opened.
    """
    path = folder / _LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed, by who held the lock, between the two calls.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _remove(folder: Path) -> None:
    """Remove a directory whose lock we hold, unless there is more in it than the lock."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()


def _segments_in(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder)) if is_segment(name)]


def sync_directory(folder: Path) -> None:
    """Bring the names in a directory to the disk.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
