"""Which processes to look at: the workers of the running daemon. Reads only.

In: a data directory. Out: its `DaemonState`, as the supervisor wrote it to
`.arc/run/daemon.json`. The file outlives a supervisor that was killed, so the processes are
looked at, too.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil

#: The supervisor writes the file after its workers started; a process younger than the file by
#: more than the grain of the kernel's start times is another one with the same number.
_CLOCK_GRAIN_S = 1.0


class Worker(msgspec.Struct, frozen=True):
    """One worker process."""

    shard: int
    pid: int


class DaemonState(msgspec.Struct, frozen=True):
    """What the supervisor says of itself, as far as it is needed here."""

    pid: int
    url: str
    workers: tuple[Worker, ...]
    version: str = ""
    durability: str = ""


class NoDaemonError(Exception):
    """No daemon runs on this data directory. The message says why it is thought so."""


def state_path(data_dir: Path) -> Path:
    """Where the supervisor of this data directory writes its state."""
    return data_dir / ".arc" / "run" / "daemon.json"


def find_daemon(data_dir: Path) -> DaemonState:
    """Read the state of the daemon that runs on `data_dir`.

    Raises:
        NoDaemonError: there is no state, or its supervisor is gone.
        PermissionError: the state belongs to another user.
    """
    path = state_path(data_dir)
    try:
        state = msgspec.json.decode(path.read_bytes(), type=DaemonState)
        written_at = path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        raise NoDaemonError(f"there is no {path}") from None
    except msgspec.MsgspecError as error:
        raise NoDaemonError(f"{path} is not the state of a daemon: {error}") from None
    if not is_alive(state.pid, written_at):
        raise NoDaemonError(f"{path} names process {state.pid}, which is gone")
    return state


def is_alive(pid: int, written_at: float) -> bool:
    """Whether `pid` runs, and did already when the file that names it was written."""
    try:
        process = psutil.Process(pid)
        started_at = float(process.create_time())
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return not is_zombie and started_at <= written_at + _CLOCK_GRAIN_S


def replaced_workers(before: DaemonState, data_dir: Path) -> list[tuple[Worker, Worker | None]]:
    """Workers that are not the same now, with their successors (None: not there, or not yet)."""
    try:
        now = {worker.shard: worker for worker in find_daemon(data_dir).workers}
    except (NoDaemonError, PermissionError):
        now = {}
    return [
        (worker, now.get(worker.shard))
        for worker in before.workers
        if now.get(worker.shard) != worker
    ]
