"""What a running daemon leaves in its data directory, and how others find it by that.

`.arc/daemon.lock` is locked (flock) by the supervisor for its life, and holds its process id.
Workers inherit the descriptor, so the lock outlives a supervisor that was killed for as long
as one of them still writes what it holds: two daemons never write the same tables.
`.arc/run/daemon.json` says where the daemon listens. It may be stale after a kill; the lock
decides. Nothing here starts or stops a process.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import tempfile
from pathlib import Path

import msgspec

#: Exit status of a worker, and of the daemon, that left acknowledged rows in its log.
EXIT_IN_LOG = 3

_STOPPING = b"stopping"

#: In the folder `run`: written when every worker is ready, removed at the end.
DAEMON_JSON = "daemon.json"


class DataDirError(Exception):
    """The data directory cannot be used."""


class LockHeldError(Exception):
    """Another process holds the lock. `pid` is who took it, None if not known yet."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{path} is locked by {who}")
        self.pid = pid


class DataDir:
    """Where things are in a data directory."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.state = self.root / ".arc"
        self.run = self.state / "run"
        self.lock = self.state / "daemon.lock"
        self.daemon_json = self.run / DAEMON_JSON

    def prepare(self) -> None:
        """Make the folders, readable by this user only, and try to write in them.

        Raises:
            DataDirError: with the folder and what the system said.
        """
        for folder in (self.root, self.state, self.run):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise DataDirError(f"cannot write in {folder}: {error.strerror}") from error

    def has_log(self) -> bool:
        """Whether the log of some shard may hold rows that are in no table yet."""
        return any(self.state.glob("shards/*/log/[0-9]*.log"))

    def forget_keys(self) -> None:
        """Remove the idempotency keys that the workers of a former daemon shared.

        Those that still count are in the logs, from which the next workers restore them.
        """
        for path in self.run.glob("keys.db*"):
            path.unlink(missing_ok=True)


class WorkerEntry(msgspec.Struct, frozen=True):
    """One worker, as `daemon.json` lists it."""

    shard: int
    pid: int


class DaemonInfo(msgspec.Struct, frozen=True):
    """The content of `daemon.json`.

    Attributes:
        pid: Of the supervisor.
        host: Numeric address.
        port: The real one, also where the setting is 0.
        url: Base of its URLs.
        workers: In the order of their shards.
        started_at: RFC 3339, UTC.
        version: Of the supervisor.
        durability: The level that a 204 stands for.
        data_dir: Absolute.
    """

    pid: int
    host: str
    port: int
    url: str
    workers: list[WorkerEntry]
    started_at: str
    version: str
    durability: str
    data_dir: str


class State(enum.Enum):
    """What is going on in a data directory."""

    RUNNING = "running"
    STARTING = "starting"
    STOPPING = "stopping"
    ORPHANED = "its supervisor died; workers are writing what they hold"
    STOPPED = "not running"


class Sighting(msgspec.Struct, frozen=True):
    """A daemon, as seen from outside.

    Attributes:
        state: What is going on.
        pid: Of the process that took the lock, None when nobody holds it.
        info: Only of a daemon that is running.
    """

    state: State
    pid: int | None = None
    info: DaemonInfo | None = None


class DaemonLock:
    """The lock on a data directory, held until `release` and the end of all who inherit `fd`."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LockHeldError: someone else has it.
        """
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.fd)
            raise LockHeldError(path, _read_lock(path)[0]) from None
        self._write(b"%d\n" % os.getpid())

    def mark_stopping(self) -> None:
        """Let others see that a stop is under way: another signal would cut it short."""
        self._write(b"%d %s\n" % (os.getpid(), _STOPPING))

    def release(self) -> None:
        """Let go of it. Workers that inherited the descriptor still hold the lock."""
        self._write(b"")
        os.close(self.fd)

    def _write(self, content: bytes) -> None:
        os.pwrite(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))


def write_daemon_info(path: Path, info: DaemonInfo) -> None:
    """Replace `daemon.json` in one step: a reader sees the old content or the new."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")
    draft.replace(path)


def read_daemon_info(path: Path) -> DaemonInfo | None:
    """The content of `daemon.json`, None where there is none that makes sense."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=DaemonInfo)
    except (OSError, msgspec.DecodeError):
        return None


def find_daemon(data_dir: str | Path) -> Sighting:
    """Look for the daemon of a data directory. Changes nothing.

    Raises:
        PermissionError: the data directory belongs to another user.
    """
    where = DataDir(data_dir)
    if not is_locked(where.lock):
        return Sighting(State.STOPPED)
    pid, is_stopping = _read_lock(where.lock)
    if pid is not None and not is_alive(pid):
        return Sighting(State.ORPHANED, pid)
    if is_stopping:
        return Sighting(State.STOPPING, pid)
    info = read_daemon_info(where.daemon_json)
    if info is None or info.pid != pid:
        return Sighting(State.STARTING, pid)
    return Sighting(State.RUNNING, pid, info)


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock.

    Raises:
        PermissionError: the data directory belongs to another user.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # Shared, so that two who look do not see each other.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_lock(path: Path) -> tuple[int | None, bool]:
    """The process id in the lock file, if any, and whether that process is stopping."""
    with contextlib.suppress(OSError, ValueError):
        pid, *rest = path.read_bytes().split()
        return int(pid), _STOPPING in rest
    return None, False
