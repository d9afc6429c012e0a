"""Which worker this is, and which of its lives. Names of files come from here, not from a clock.

A shard is a number from 0. Its folder `.arc/shards/{number}` is locked for the life of the
process that owns it, and holds the epoch: how many times the shard has started. A file name with
shard, epoch and sequence in it is never used twice, whatever any clock does.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ingest.errors import IngestError


class ShardInUseError(IngestError):
    """Another process owns this shard's folder."""

    reason = "shard_in_use"


class Shard:
    """An owned shard. Created by `Shard.acquire`; released with the process, or by `release`.

    Attributes:
        number: From 0.
        epoch: From 1, one higher at every start.
    """

    def __init__(self, number: int, epoch: int, lock_fd: int) -> None:
        self.number = number
        self.epoch = epoch
        self._lock_fd = lock_fd

    @classmethod
    def acquire(cls, state_dir: Path, number: int) -> Shard:
        """Take a shard's folder and begin a new epoch, durably.

        Args:
            state_dir: `{data_dir}/.arc`.
            number: Which shard.

        Raises:
            ShardInUseError: another process holds it.
            OSError: the folder cannot be written.
        """
        folder = state_dir / "shards" / f"{number:03d}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            raise ShardInUseError(f"{folder} is in use by another process") from None
        epoch = _read_epoch(folder / "epoch") + 1
        _write_durably(folder / "epoch", f"{epoch}\n")
        return cls(number, epoch, lock_fd)

    def release(self) -> None:
        """Let another process take the shard."""
        os.close(self._lock_fd)


def _read_epoch(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


def _write_durably(path: Path, text: str) -> None:
    """Replace a small file so that a power cut leaves the old or the new one, never half of it."""
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)
