"""What every part that keeps files asks of a disk: to sync names, to replace a small file.

In: paths and bytes. Out: what is on the disk at the return, or an error that names the path. Which
files there are, and when, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ingest.errors import StorageError

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, temporary: Path) -> None:
    """Give a small file a new content: after a power cut it has the old or the new one, whole.

    Args:
        path: Of the file; need not exist.
        content: All of it.
        temporary: A name in the same folder, for the time until all of it is there.

    Raises:
        OSError: the disk refuses; the file may have either content.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, FILE_MODE)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    sync_directory(path.parent)


@contextlib.contextmanager
def refusals(path: Path, verb: str) -> Iterator[None]:
    """Turn what the disk refuses into what the pipeline understands: "cannot {verb} {path}: …"."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0)
        why = f"{os.strerror(error.errno)} ({name})" if error.errno and name else str(error)
        raise StorageError(f"cannot {verb} {path}: {why}") from error
