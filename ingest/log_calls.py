"""What the log asks of the operating system, in one place, so that a test can refuse any of it.

Nothing here knows what a log is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ingest.disk import sync_directory

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700

#: Buffers in one call of `pwritev`: IOV_MAX of Linux.
MAX_BUFFERS = 1024


class LogCalls:
    """What the log asks of the operating system, so that a test can record or refuse it.

    Every method raises what the call raises: OSError.
    """

    def make_directory(self, path: Path) -> None:
        """Make a directory whose parent exists."""
        path.mkdir(mode=_DIRECTORY_MODE)

    def create(self, path: Path) -> int:
        """Make a file that must not exist yet; its descriptor, open for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def open(self, path: Path) -> int:
        """Open a file that exists, for writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def fallocate(self, descriptor: int, size_bytes: int) -> None:
        """Give a file its size and the room for it."""
        if sys.platform == "darwin":  # no call for it: a full disk shows at the first write
            os.ftruncate(descriptor, size_bytes)
        else:
            os.posix_fallocate(descriptor, 0, size_bytes)

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """Write up to `MAX_BUFFERS` buffers; how many bytes were taken."""
        return os.pwritev(descriptor, buffers, offset)

    def fdatasync(self, descriptor: int) -> None:
        """Bring a file's content to the disk."""
        if sys.platform == "darwin":
            os.fsync(descriptor)
        else:
            os.fdatasync(descriptor)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut a file off."""
        os.ftruncate(descriptor, size_bytes)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in its folder, in one step; what has that name is gone."""
        os.rename(source, target)

    def sync_directory(self, path: Path) -> None:
        """Bring the names in a directory to the disk."""
        sync_directory(path)

    def unlink(self, path: Path) -> None:
        """Take a file's name away."""
        path.unlink()
