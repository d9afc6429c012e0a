"""Which way to sample a worker from within is true, and what each costs.

    python -m benchmarks.profiling.bench_sampler               half a minute
    python -m benchmarks.profiling.bench_sampler --rounds 10   steadier

In: a child process with an event loop whose jobs are as short as requests are (50 to 100 µs, a
system call between two of them), and a thread that works for milliseconds without the
interpreter's lock. It times every job by the clock of its thread. Out, for each way to sample:
what it costs, as work done for a second of the process's own processor time against that without,
with twice the standard error of its mean over the turns; and the largest difference between the
sampled and the timed share of a job, in percentage points. "none again" is no sampler, too: what
it seems to cost is noise.

The ways: `signal` is `arc.profiler.sampler`, which the daemon uses; `thread` is a thread that
reads `sys._current_frames()` 100 times a second, as it would be done without signals; `py-spy`
reads from outside. Ways alternate, since the machine is never quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

from arc.profiler.sampler import Sampler
from arc.profiler.samples import Stack
from benchmarks.profiling import pyspy
from benchmarks.profiling.bench_overhead import with_noise
from benchmarks.profiling.daemon import Worker

WINDOW_S = 2.0
RATE_HZ = 100
#: Of the daemon's workers (arc/worker.py): how long a thread waits before it asks for the lock.
SWITCH_INTERVAL_S = 0.0005
JOBS = ("python_calls", "numpy_sort", "compiled_kernel", "flush_kernel", "flush_python")
WAYS = ("none", "none again", "signal", "thread", "py-spy")

# ------------------------------------------------------------------------------ the child process


@numba.njit(nogil=True)
def _kernel(values: Any, times: int) -> float:
    total = 0.0
    for k in range(times):
        for i in range(values.size):
            total += values[i] * k
    return total


def _one_call(x: int) -> int:
    return x + 1


class Work:
    """The jobs, and how long each has taken by the clock of its thread."""

    def __init__(self) -> None:
        self.values = np.random.default_rng(0).random(2_000)
        self.took_ns = dict.fromkeys(JOBS, 0)
        self.done = 0
        self._pick = random.Random(0)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="arc-flush")

    def python_calls(self) -> None:
        """A decoder in Python."""
        for x in range(1_500):
            _one_call(x)

    def numpy_sort(self) -> None:
        """Work in C with the lock held."""
        np.sort(self.values)

    def compiled_kernel(self) -> None:
        """A kernel that gives up the lock."""
        _kernel(self.values, 25)

    def flush_kernel(self) -> None:
        """An encoder beside the event loop, without the lock."""
        _kernel(self.values, 2_000)

    def flush_python(self) -> None:
        """What a flush does with the lock held."""
        for x in range(20_000):
            _one_call(x)

    def request(self) -> None:
        """One of the short jobs; now and then the thread gets work, too."""
        name = self._pick.choice(JOBS[:3])
        began_ns = time.thread_time_ns()
        getattr(self, name)()
        self.took_ns[name] += time.thread_time_ns() - began_ns
        self.done += 1
        if self.done % 200 == 0:
            self._pool.submit(self._flush)

    def _flush(self) -> None:
        for name in ("flush_kernel", "flush_python"):
            began_ns = time.thread_time_ns()
            getattr(self, name)()
            self.took_ns[name] += time.thread_time_ns() - began_ns


class GilThread:
    """A thread that samples, as a profiler without signals would."""

    def __init__(self) -> None:
        self.stacks: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1 / RATE_HZ):
            for ident, frame in sys._current_frames().items():
                if ident != self._thread.ident:
                    self.stacks[job_of(_names(frame))] += 1

    def stop(self) -> Counter[str]:
        """End; samples by job. A job is the whole of what ran: waiting has none."""
        self._stop.set()
        self._thread.join()
        return self.stacks


def _names(frame: Any) -> Iterable[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def job_of(names: Iterable[str]) -> str:
    """Which job is on a stack, "" for none."""
    return next((name for name in names if name in JOBS), "")


def jobs_of(stacks: Iterable[tuple[Stack, int]]) -> Counter[str]:
    """Samples by job."""
    jobs: Counter[str] = Counter()
    for stack, samples in stacks:
        jobs[job_of(frame.name.rpartition(".")[2] for frame in stack.frames)] += samples
    return jobs


async def serve() -> None:
    """For every line of standard input, work for a window in that way, and report."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    work, loop = Work(), asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def on_readable() -> None:
        ours.recv(1)
        work.request()
        theirs.send(b"x")

    loop.add_reader(ours, on_readable)
    theirs.send(b"x")
    for _ in range(50):  # the kernels are compiled meanwhile
        await asyncio.sleep(0.01)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await report(line.strip(), work)


async def report(way: str, work: Work) -> None:
    """Work for a window, and print what was timed and sampled."""
    signal_sampler = Sampler(RATE_HZ) if way == "signal" else None
    thread_sampler = GilThread() if way == "thread" else None
    sampler = signal_sampler or thread_sampler
    took_ns, done, cpu_s = dict(work.took_ns), work.done, time.process_time()
    if sampler:
        sampler.start()
    await asyncio.sleep(WINDOW_S)
    seen: Counter[str] = Counter()
    if signal_sampler:
        seen = jobs_of(signal_sampler.stop(0, os.getpid()).stacks.items())
    elif thread_sampler:
        seen = thread_sampler.stop()
    cpu_s = time.process_time() - cpu_s
    timed_s = {name: (work.took_ns[name] - took_ns[name]) / 1e9 for name in JOBS}
    answer = {"per_cpu_s": (work.done - done) / cpu_s, "cpu_s": cpu_s, "timed_s": timed_s}
    print(json.dumps(answer | {"seen": seen}), flush=True)


# ------------------------------------------------------------------------------ the measurement


@dataclass
class Way:
    """What was measured of one way."""

    per_cpu_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    timed_s: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, told: dict[str, Any]) -> None:
        """Add one turn."""
        self.per_cpu_s.append(told["per_cpu_s"])
        self.cpu_s += told["cpu_s"]
        self.timed_s.update(told["timed_s"])
        self.seen.update(told["seen"])

    def errors(self) -> dict[str, float]:
        """Of each job: its sampled share of all jobs less its timed one, 0 to 1."""
        timed_s, seen = sum(self.timed_s.values()), sum(self.seen[name] for name in JOBS)
        return {n: self.seen[n] / max(1, seen) - self.timed_s[n] / timed_s for n in JOBS}


def turn(child: subprocess.Popen[str], way: str) -> dict[str, Any]:
    """One window in one way."""
    assert child.stdin is not None
    assert child.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        recording = None
        if way == "py-spy":
            options = pyspy.Options(rate_hz=RATE_HZ, duration_s=60)
            found = pyspy.find_py_spy()
            recording = pyspy.start(Worker(0, child.pid), options, Path(folder), found)
            while recording.poll() and recording.started_at is None:
                time.sleep(0.01)
        print(way, file=child.stdin, flush=True)
        told: dict[str, Any] = json.loads(child.stdout.readline())
        if recording is not None:
            pyspy.stop([recording])
            told["seen"] = jobs_of(pyspy.collect(recording, options).stacks.items())
    return told


def table(ways: dict[str, Way]) -> Table:
    """One row a way."""
    out = Table(title="Sampling an event loop", title_justify="left", box=box.SIMPLE_HEAD)
    out.add_column("way")
    for heading in ("costs", "largest error", *JOBS):
        out.add_column(heading, justify="right")
    for name, way in ways.items():
        costs = [1 - a / b for a, b in zip(way.per_cpu_s, ways["none"].per_cpu_s, strict=True)]
        errors = way.errors() if way.seen else {}
        out.add_row(
            name,
            with_noise(costs) if name != "none" else "",
            f"{100 * max(map(abs, errors.values())):.1f} pp" if errors else "",
            *(f"{100 * errors[job]:+.1f}" if errors else "" for job in JOBS),
        )
    return out


def main() -> None:
    """Measure every way in turn, and print a table."""
    parser = argparse.ArgumentParser(description="Ways to sample a worker from within.")
    parser.add_argument("--rounds", type=int, default=4, help="turns of every way")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        uvloop.run(serve())
        return
    ways = {name: Way() for name in WAYS}
    command = [sys.executable, "-m", "benchmarks.profiling.bench_sampler", "--child"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        try:
            for _ in range(arguments.rounds):
                for name in WAYS:
                    ways[name].add(turn(child, name))
        finally:
            child.kill()
    Console(width=120).print(table(ways))


if __name__ == "__main__":
    main()
