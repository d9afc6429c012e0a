"""CPU time, memory and connections of a tree of processes, from /proc. Linux only.

In: the pid of a supervisor. Out: sums over it and everything below it. It reads and never
signals. CPU time counts children that have ended (cutime, cstime), so a worker that was replaced
in between is not forgotten.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
#: State of an established TCP connection in /proc/net/tcp.
_ESTABLISHED = "01"


def tree(pid: int) -> list[int]:
    """A process and all its descendants that live, parents first."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, []))
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system seconds of some processes and of the children that they waited for."""
    ticks = 0
    for pid in pids:
        fields = _stat_fields(pid)
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / _TICKS_PER_S


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/pid/stat after the command, state first (proc(5)); [] when it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def pss_bytes(pid: int) -> int:
    """Proportional memory of a process: shared pages are divided among those who share them."""
    return _kilobytes(_PROC / str(pid) / "smaps_rollup", "Pss:")


def peak_rss_bytes(pid: int) -> int:
    """Highest resident memory of a process since it began (VmHWM)."""
    return _kilobytes(_PROC / str(pid) / "status", "VmHWM:")


def _kilobytes(path: Path, label: str) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(label):
                return int(line.split()[1]) * 1024
    except OSError:  # ended between listing and reading
        return 0
    return 0


def connections(pids: Iterable[int], port: int) -> dict[int, int]:
    """Established TCP connections on a local port that each process holds."""
    inodes = _established_inodes(port)
    return {pid: sum(inode in inodes for inode in _socket_inodes(pid)) for pid in pids}


def _socket_inodes(pid: int) -> list[str]:
    """Inodes of the sockets that a process has open; [] when it is gone."""
    inodes = []
    try:
        for entry in os.listdir(_PROC / str(pid) / "fd"):
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                kind, _, inode = os.readlink(_PROC / str(pid) / "fd" / entry).partition(":")
                if kind == "socket":
                    inodes.append(inode.strip("[]"))
    except OSError:
        return []
    return inodes


def _established_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        path = _PROC / "net" / table
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        for row in rows:
            fields = row.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _ESTABLISHED:
                inodes.add(fields[9])
    return inodes


@dataclass
class Usage:
    """Peaks of a tree of processes.

    Attributes:
        peak_pss_bytes: Highest sum of proportional memory seen in one sample.
        peak_rss_sum_bytes: Sum of each process's own peak, shared pages counted in each.
        samples: How many samples there are.
    """

    peak_pss_bytes: int = 0
    peak_rss_sum_bytes: int = 0
    samples: int = 0


class UsageSampler:
    """Samples the memory of a tree of processes in a thread until stopped."""

    def __init__(self, pid: int, interval_s: float = 0.5) -> None:
        """Args: `pid` of the supervisor; `interval_s` between two samples."""
        self.usage = Usage()
        self._pid = pid
        self._interval_s = interval_s
        self._peaks: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def __enter__(self) -> UsageSampler:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._sample()
            self._stop.wait(self._interval_s)

    def _sample(self) -> None:
        pids = tree(self._pid)
        for pid in pids:
            self._peaks[pid] = max(self._peaks.get(pid, 0), peak_rss_bytes(pid))
        total = sum(pss_bytes(pid) for pid in pids)
        self.usage.peak_pss_bytes = max(self.usage.peak_pss_bytes, total)
        self.usage.peak_rss_sum_bytes = sum(self._peaks.values())
        self.usage.samples += 1
