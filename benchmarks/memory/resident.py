"""Resident memory of every process of a daemon, second by second, from /proc. Linux only.

In: the pid of a supervisor. Out: a `Series` for each process and for their sum. It reads and never
signals. Three measures, as proc(5) has them:

* rss: pages that are mapped; those that several processes share are counted in each;
* anonymous: of these, what is no page of a file: heaps, stacks, the interpreter. What a leak makes
  grow, and what other programs that load the same libraries do not change;
* pss: all pages, a shared one divided among those who share it, so that the sum over processes is
  what the machine has less for others. The kernel walks through all pages to tell it.

Under load memory goes up and down with every flush, several times a second. So the first two are
the mean of ten looks in the second, which cost 30 µs each, and pss is one look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import usage

_PROC = Path("/proc")
_KIB = 1024

#: Looks at rss and anonymous memory in a second.
LOOKS = 10

#: How often new processes are looked for.
TREE_S = 0.9

#: Name of all processes together.
ALL = "all"


class Resident(NamedTuple):
    """Memory of one process, or of several, in one second, in bytes."""

    rss: float = 0.0
    anonymous: float = 0.0
    pss: float = 0.0


def fields_of(path: Path, *labels: str) -> list[int] | None:
    """Sizes in bytes that a file of /proc has under these labels; None when the process is gone."""
    try:
        lines = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
        return [int(lines[label].split()[0]) * _KIB for label in labels]
    except (OSError, KeyError):  # a zombie has no sizes
        return None


def resident_now(pid: int) -> Resident | None:
    """What a process holds now, by one look; None when it is gone."""
    second = _Second()
    second.look(pid)
    return second.result(pid)


def name_of(pid: int) -> str:
    """What ps(1) shows for a process, such as `arc-worker-0`; of a plain Python, what it runs."""
    try:
        name = (_PROC / str(pid) / "comm").read_text().strip()
        words = (_PROC / str(pid) / "cmdline").read_text().split("\0")
    except OSError:
        return "?"
    if not name.startswith("python") or "-m" not in words[:-1]:
        return name
    return words[words.index("-m") + 1]


@dataclass
class Series:
    """Memory of one process over time.

    Attributes:
        pid: Its process id; 0 for the sum of all.
        name: What ps(1) shows for it.
        times_s: Middle of each second, from the first look at any process.
        values: What was seen in it.
    """

    pid: int
    name: str
    times_s: list[float] = field(default_factory=list)
    values: list[Resident] = field(default_factory=list)

    def add(self, time_s: float, value: Resident) -> None:
        """Add one second."""
        self.times_s.append(time_s)
        self.values.append(value)

    def between(
        self, from_s: float, to_s: float, measure: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times in s, and bytes of one measure: float64, shape (seconds,) each."""
        index = Resident._fields.index(measure)
        times = np.array(self.times_s, dtype=np.float64)
        values = np.array([value[index] for value in self.values], dtype=np.float64)
        kept = (times >= from_s) & (times < to_s)
        return times[kept], values[kept]


@dataclass
class _Second:
    """The looks of one second at one process."""

    rss: list[int] = field(default_factory=list)
    anonymous: list[int] = field(default_factory=list)

    def look(self, pid: int) -> None:
        """Look once; nothing where it is gone."""
        found = fields_of(_PROC / str(pid) / "status", "VmRSS", "RssAnon")
        if found is not None:
            self.rss.append(found[0])
            self.anonymous.append(found[1])

    def result(self, pid: int) -> Resident | None:
        """The second; None when nothing was seen, or not up to its end."""
        pss = fields_of(_PROC / str(pid) / "smaps_rollup", "Pss")
        if pss is None or not self.rss:
            return None
        return Resident(_mean(self.rss), _mean(self.anonymous), float(pss[0]))


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


class ResidentSampler:
    """Looks at a tree of processes in a thread, until stopped.

    Attributes:
        began_s: When the first look was due, on the monotonic clock.
        total: The sum of all processes.
        processes: Each process that was there at the end of a second, by pid.
    """

    def __init__(self, pid: int, second_s: float = 1.0) -> None:
        """Args: `pid` of the supervisor; `second_s` between two points of the series."""
        self.total = Series(0, ALL)
        self.processes: dict[int, Series] = {}
        self.began_s = 0.0
        self._pid = pid
        self._second_s = second_s
        self._pids: list[int] = []
        self._next_tree_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resident", daemon=True)

    def __enter__(self) -> ResidentSampler:
        """Start looking."""
        self.began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        second = 0
        while not self._stop.is_set():
            self._one_second(second)
            # By the clock, so that a second that took longer moves none that follow.
            passed = int((time.monotonic() - self.began_s) / self._second_s)
            second = max(second + 1, passed)

    def _one_second(self, second: int) -> None:
        if time.monotonic() >= self._next_tree_s:  # it reads all of /proc
            self._next_tree_s = time.monotonic() + TREE_S
            self._pids = usage.tree(self._pid)
        looks = {pid: _Second() for pid in self._pids}
        for turn in range(LOOKS):
            due_s = self.began_s + (second + turn / LOOKS) * self._second_s
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
            for pid, look in looks.items():
                look.look(pid)
        self._keep((second + 0.5) * self._second_s, looks)

    def _keep(self, time_s: float, looks: dict[int, _Second]) -> None:
        seen = []
        for pid, look in looks.items():
            value = look.result(pid)
            if value is None:
                continue
            if pid not in self.processes:
                self.processes[pid] = Series(pid, name_of(pid))
            self.processes[pid].add(time_s, value)
            seen.append(value)
        if seen:
            self.total.add(time_s, Resident(*map(sum, zip(*seen, strict=True))))
