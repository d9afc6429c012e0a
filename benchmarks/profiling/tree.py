"""A daemon with all its processes: supervisor, template, workers, and the one that answers SQL.

In: a running daemon. Out: `WorkerSamples` of each of its processes, of those that came meanwhile,
too. One py-spy follows the supervisor and all below it (`--subprocesses`). Workers are forked by
the template, but are children of the supervisor, so that they are found where they belong; a
worker that replaces a dead one is found within a second. Draws nothing and prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import psutil

from arc.profiler.samples import WorkerSamples, parse_raw
from benchmarks.profiling import pyspy
from benchmarks.profiling.daemon import DaemonState, Worker

#: How py-spy begins a line: every process from the root on, each with its command line.
_PROCESS = re.compile(r'process (\d+)(?::"[^"]*")?;')

#: Of processes that are no workers.
NO_SHARD = -1


def root_of(state: DaemonState) -> Worker:
    """The process at the root, as something to sample."""
    return Worker(NO_SHARD, state.pid)


def processes(pid: int) -> dict[int, tuple[str, float]]:
    """Name and processor time of a process and all below it, by process id."""
    found: dict[int, tuple[str, float]] = {}
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return {}
    for process in family:
        try:
            found[process.pid] = (_name(process), pyspy.process_cpu_s(process.pid))
        except psutil.Error:
            continue
    return found


def _name(process: psutil.Process) -> str:
    """What `ps -o comm` shows, which the daemon sets, else the module that runs."""
    arguments = process.cmdline()
    after_m = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    name = str(process.name())
    return after_m if after_m and name.startswith("python") else name


def split(text: str) -> dict[int, str]:
    """What py-spy wrote of a tree, by process id, each as it writes of one process."""
    lines: dict[int, list[str]] = {}
    for line in text.splitlines():
        at, pid = 0, None
        while found := _PROCESS.match(line, at):
            at, pid = found.end(), int(found[1])
        if pid is not None:
            lines.setdefault(pid, []).append(line[at:])
    return {pid: "\n".join(found) for pid, found in lines.items()}


def collect(
    recording: pyspy.Recording,
    options: pyspy.Options,
    shards: Mapping[int, int],
    before: Mapping[int, tuple[str, float]],
) -> list[WorkerSamples]:
    """Read what one py-spy wrote of a tree: workers first. Call after it has ended.

    py-spy counts the lost rounds of all processes together; they are shared out over the workers.

    Args:
        recording: Of `root_of`.
        options: With `subprocesses`.
        shards: Shards of workers by process id, those included that came meanwhile.
        before: `processes` when it began.

    Raises:
        pyspy.SamplingError: it wrote nothing.
    """
    whole = pyspy.collect(recording, options)
    after = processes(recording.worker.pid)
    raw = split(recording.raw_text())
    names = {pid: name for pid, (name, _) in (*before.items(), *after.items())}
    found = []
    for pid in sorted({*raw, *shards}, key=lambda pid: (shards.get(pid, 2**31), pid)):
        used_s = after.get(pid, before.get(pid, ("", 0.0)))[1] - before.get(pid, ("", 0.0))[1]
        one = replace(whole, pid=pid, stacks=parse_raw(raw.get(pid, "")), cpu_s=used_s)
        found.append(
            replace(one, shard=shards[pid], lost=whole.lost // len(shards))
            if pid in shards
            else _helper(one, names.get(pid, "?"))
        )
    return found


def _helper(samples: WorkerSamples, name: str) -> WorkerSamples:
    """A process that is no worker: that its event loop waits is of no interest."""
    busy = sum(n for stack, n in samples.stacks.items() if stack.is_event_loop)
    return replace(samples, shard=NO_SHARD, name=name, rounds=busy, lost=0, ended_early=False)
