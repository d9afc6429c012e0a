"""Which worker this is, and which of its lives. Names of files come from here, not from a clock.

A shard is a number from 0. Its folder `.arc/shards/{number}` is locked for the life of the
process that owns it, and holds the epoch: how many times the shard has started. A file name with
shard, epoch and sequence in it is never used twice, whatever any clock does.

The folder also holds an identity that is drawn once. Tables keep how far each shard is under
that, so that a shard whose folder was deleted, and whose numbers begin anew, is another one to
them, and nothing that it writes is taken for a repetition.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from ingest.disk import replace_file, sync_directory
from ingest.errors import IngestError


class ShardInUseError(IngestError):
    """Another process owns this shard's folder."""

    reason = "shard_in_use"


class Shard:
    """An owned shard. Created by `Shard.acquire`; released with the process, or by `release`.

    Attributes:
        number: From 0.
        epoch: From 1, one higher at every start.
        app_id: Under which tables keep how far this shard is.
        log_dir: Where its log lies.
        aside_dir: Where damaged parts of the log, and requests that no table takes, are kept.
    """

    def __init__(self, number: int, epoch: int, identity: str, folder: Path, lock_fd: int) -> None:
        self.number = number
        self.epoch = epoch
        self.app_id = f"arc-{number:03d}-{identity}"
        self.log_dir = folder / "log"
        self.aside_dir = folder / "aside"
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
        folder = shard_dir(state_dir, number)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            raise ShardInUseError(f"{folder} is in use by another process") from None
        try:
            for directory in (state_dir.parent, state_dir, folder.parent, folder):
                sync_directory(directory)
            identity = _identity(folder / "id")
            epoch = _read_epoch(folder / "epoch") + 1
            _write_durably(folder / "epoch", f"{epoch}\n")
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(number, epoch, identity, folder, lock_fd)

    def release(self) -> None:
        """Let another process take the shard."""
        os.close(self._lock_fd)


def shard_dir(state_dir: Path, number: int) -> Path:
    """The folder of a shard."""
    return state_dir / "shards" / f"{number:03d}"


def shard_numbers(state_dir: Path) -> list[int]:
    """Every shard that this data directory has ever had, ascending."""
    folder = state_dir / "shards"
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _identity(path: Path) -> str:
    """What tells this shard from every other, made at its first start: 16 hexadecimal digits."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        identity = secrets.token_hex(8)
        _write_durably(path, f"{identity}\n")
        return identity


def _read_epoch(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


def _write_durably(path: Path, text: str) -> None:
    replace_file(path, text.encode(), path.with_suffix(".new"))
