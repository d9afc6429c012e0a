"""What sampling costs the sampled process, and how true its shares are.

    python -m benchmarks.profiling.bench_overhead               every way to sample, a minute
    python -m benchmarks.profiling.bench_overhead --rounds 20   steadier on a busy machine
    python -m benchmarks.profiling.bench_overhead --way default one way beside none

In: a child process that knows what it does: it runs four jobs in random order (calls of Python,
a loop of NumPy, a compiled kernel without the GIL, sleep) and times each. Out, for each way to
sample: what it costs the process, as jobs a second against the windows without a sampler of the
same turn, with its noise; processor time of py-spy; both together, as a share of one core; rounds
lost; and the largest difference between a sampled share and the timed one, in percentage points
of wall time. Ways alternate, since the machine is never quiet, and time in which other processes
had the processor is left out of the rate: what py-spy takes of it stands in its own column.

The noise is twice the standard error of the mean over all turns. "none again" is no sampler, too:
what it seems to cost is how far the other figures can be trusted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from arc.profiler.samples import WorkerSamples
from benchmarks.profiling import pyspy
from benchmarks.profiling.daemon import Worker

WINDOW_S = 1.0
DEFAULT = pyspy.Options(duration_s=60)
WAYS: dict[str, pyspy.Options | None] = {
    "none": None,
    "none again": None,
    "default": DEFAULT,
    "--rate 250": replace(DEFAULT, rate_hz=250),
    "--gil": replace(DEFAULT, gil=True),
    "--native": replace(DEFAULT, native=True),
}

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


def python_calls() -> None:
    """Change frames as fast as Python can: what a reader that does not stop it finds hardest."""
    for x in range(100_000):
        _one_call(x)


def numpy_sorts(values: Any) -> None:
    """Work in C with the GIL held or not, as NumPy likes."""
    for _ in range(20):
        np.sort(values)


def compiled_kernel(values: Any) -> None:
    """Work in compiled code without the GIL."""
    _kernel(values, 400)


def sleeping() -> None:
    """Do nothing, as an event loop without requests."""
    time.sleep(0.01)


def work() -> None:
    """Run jobs for ever; print what each took, by name, once a window."""
    values = np.random.default_rng(0).random(20_000)
    jobs: dict[str, Callable[[], None]] = {
        "python_calls": python_calls,
        "numpy_sorts": lambda: numpy_sorts(values),
        "compiled_kernel": lambda: compiled_kernel(values),
        "sleeping": sleeping,
    }
    for job in jobs.values():  # compiles the kernel
        job()
    names, pick = list(jobs), random.Random(0)
    while True:
        took = dict.fromkeys(names, 0.0)
        done, started, waited_s = 0, time.perf_counter(), waited_for_processor_s()
        while (before := time.perf_counter()) < started + WINDOW_S:
            name = pick.choice(names)
            jobs[name]()
            took[name] += time.perf_counter() - before
            done += 1
        waited_s = waited_for_processor_s() - waited_s
        rate = done / (time.perf_counter() - started - waited_s)
        print(json.dumps({"jobs_s": rate, "took_s": took}), flush=True)


def waited_for_processor_s() -> float:
    """Time in which this thread was ready and other processes had the processor; 0 off Linux."""
    try:
        text = Path("/proc/thread-self/schedstat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return int(text.split()[1]) / 1e9


# ------------------------------------------------------------------------------ the measurement


@dataclass
class Way:
    """What was measured of one way to sample."""

    jobs_s: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    rounds: int = 0
    lost: int = 0
    sampled: Counter[str] = field(default_factory=Counter)
    timed_s: dict[str, float] = field(default_factory=dict)

    def add(self, samples: WorkerSamples, reports: list[dict[str, Any]]) -> None:
        """Add what was sampled in one turn, and what the child timed meanwhile."""
        self.rounds += samples.rounds
        self.lost += samples.lost
        for report in reports:
            for name, took_s in report["took_s"].items():
                self.timed_s[name] = self.timed_s.get(name, 0.0) + took_s
        for stack, count in samples.stacks.items():
            for name in {frame.name for frame in stack.frames} & self.timed_s.keys() - {"sleeping"}:
                self.sampled[name] += count
        self.sampled["sleeping"] += samples.loop_idle

    def largest_error(self) -> float:
        """Largest difference of a sampled share of wall time from the timed one, 0 to 1."""
        wall_s = sum(self.timed_s.values())
        return max(
            abs(self.sampled[name] / self.rounds - took_s / wall_s)
            for name, took_s in self.timed_s.items()
        )


def window(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the next report of the child."""
    assert child.stdout is not None
    report: dict[str, Any] = json.loads(child.stdout.readline())
    return report


def measure(child: subprocess.Popen[str], options: pyspy.Options | None, way: Way) -> None:
    """Take two whole windows under one way to sample."""
    if options is None:
        window(child)  # the last one was begun under another way
        way.jobs_s.append(sum(window(child)["jobs_s"] for _ in range(2)) / 2)
        return
    with tempfile.TemporaryDirectory() as name:
        worker = Worker(0, child.pid)
        recording = pyspy.start(worker, options, Path(name), pyspy.find_py_spy())
        while recording.poll() and recording.started_at is None:
            time.sleep(0.01)
        window(child)
        cpu_s, began = pyspy.process_cpu_s(recording.process.pid), time.monotonic()
        reports = [window(child) for _ in range(2)]
        spent_s = pyspy.process_cpu_s(recording.process.pid) - cpu_s
        way.cores.append(spent_s / (time.monotonic() - began))
        pyspy.stop([recording])
        samples = pyspy.collect(recording, options)
    way.jobs_s.append(sum(report["jobs_s"] for report in reports) / 2)
    way.add(samples, reports)


def main() -> None:
    """Measure every way in turn, and print a table."""
    parser = argparse.ArgumentParser(description="What sampling costs, and how true it is.")
    parser.add_argument("--rounds", type=int, default=4, help="turns of every way")
    parser.add_argument(
        "--way",
        action="append",
        choices=list(WAYS),
        help="only this one; --way=--gil for those with dashes",
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work()
    wanted = {"none", "none again", *(arguments.way or WAYS)}
    ways = {name: Way() for name in WAYS if name in wanted}
    command = [sys.executable, "-m", "benchmarks.profiling.bench_overhead", "--child"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            window(child)
            for _ in range(arguments.rounds):
                for name, way in ways.items():
                    measure(child, WAYS[name], way)
        finally:
            child.kill()
    Console(width=110).print(table(ways))


def table(ways: dict[str, Way]) -> Table:
    """One row a way."""
    out = Table(title="Sampling one process", title_justify="left", box=box.SIMPLE_HEAD)
    out.add_column("way")
    headings = ("jobs/s", "costs the process", "py-spy cores", "together", "lost", "error")
    for heading in headings:
        out.add_column(heading, justify="right")
    plain = [
        statistics.fmean(pair)
        for pair in zip(ways["none"].jobs_s, ways["none again"].jobs_s, strict=True)
    ]
    for name, way in ways.items():
        base = plain if way.cores else ways["none"].jobs_s
        costs = [1 - a / b for a, b in zip(way.jobs_s, base, strict=True)]
        cores = statistics.fmean(way.cores) if way.cores else 0.0
        out.add_row(
            name,
            f"{statistics.median(way.jobs_s):.0f}",
            with_noise(costs) if name != "none" else "",
            f"{cores:.3f}" if way.cores else "",
            f"{100 * (statistics.fmean(costs) + cores):.1f} %" if way.cores else "",
            f"{100 * way.lost / way.rounds:.1f} %" if way.rounds else "",
            # With --gil, the kernel is missing on purpose.
            f"{100 * way.largest_error():.1f} pp" if way.rounds and name != "--gil" else "",
        )
    return out


def with_noise(values: list[float]) -> str:
    """Mean and twice its standard error, in per cent."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f} %"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.fmean(values):.1f} ± {200 * error:.1f} %"


if __name__ == "__main__":
    main()
