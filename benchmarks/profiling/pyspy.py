"""Runs py-spy: one process for each worker, all at once; or one for a whole tree of processes.

In: workers, a rate, a duration. Out: `WorkerSamples` of each, also when stopped half-way or when
a worker goes away. This module draws nothing and prints nothing; it never signals a process that
it did not start.

How py-spy is asked, measured with py-spy 0.4.3 (docs/profiling/README.md has the figures):

* `--nonblocking`: reads without stopping the process. Stopping costs throughput and wakes
  sleeping threads, which then look busy. The price: rounds are lost while frames change.
* No `--idle`: threads that the kernel put to sleep are left out, so a thread in compiled code
  that gave up the GIL counts and a thread in epoll does not.
* `--threads`: the name of the thread comes with the stack, so the event loop is told from pools.
* `--native` cannot be had without stopping the process; py-spy refuses the two together.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from arc.profiler.samples import WorkerSamples, parse_raw
from benchmarks.profiling.daemon import Worker

#: py-spy writes its file within milliseconds of its signal; it also has to end the round.
STOP_TIMEOUT_S = 10.0
#: py-spy reads the symbols of the interpreter first: 0.2 s, more on a busy machine.
ATTACH_TIMEOUT_S = 5.0
#: How much longer than asked for py-spy may sample when it falls behind.
OVERTIME_S = 5.0

_LOST = re.compile(r"Samples: \d+ Errors: (\d+)")
_STARTED = "Sampling process"
_DENIED = re.compile(r"permission denied|operation not permitted|os error (1|13)\b", re.IGNORECASE)


class SamplingError(Exception):
    """py-spy gave nothing for a worker; the message is its own."""


class NotPermittedError(SamplingError):
    """The kernel does not let us read the memory of the worker."""


class NoPySpyError(SamplingError):
    """py-spy is not installed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to sample.

    Attributes:
        rate_hz: Rounds a second.
        duration_s: For how long; whole seconds, as py-spy takes them.
        gil: Only the thread that holds the GIL.
        native: Frames of C and C++ as well; stops the process for each round.
        subprocesses: What is below the process as well, also what is started meanwhile.
    """

    rate_hz: int = 100
    duration_s: int = 60
    gil: bool = False
    native: bool = False
    subprocesses: bool = False


@dataclass(slots=True)
class Recording:
    """One running py-spy.

    Attributes:
        worker: Whom it looks at.
        process: The py-spy.
        raw_path: Where it writes the stacks when it ends.
        log_path: What it prints.
        cpu_before_s: Processor time of the worker when sampling began.
        cpu_last_s: The same, last seen.
        started_at: Monotonic time in seconds; None before it has attached.
        ended_at: The same of its end; None while it runs.
    """

    worker: Worker
    process: subprocess.Popen[bytes]
    raw_path: Path
    log_path: Path
    cpu_before_s: float
    cpu_last_s: float
    started_at: float | None = None
    ended_at: float | None = None

    def poll(self) -> bool:
        """Note what has happened since; whether py-spy still runs."""
        now = time.monotonic()
        self.cpu_last_s = process_cpu_s(self.worker.pid, self.cpu_last_s)
        if self.started_at is None and _STARTED in self.log():
            self.started_at = now
            self.cpu_before_s = self.cpu_last_s
        if self.ended_at is None and self.process.poll() is not None:
            self.ended_at = now
        return self.ended_at is None

    def raw_text(self) -> str:
        """The stacks, as py-spy wrote them when it ended."""
        return self.raw_path.read_text(encoding="utf-8", errors="replace")

    def log(self) -> str:
        """What py-spy has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")


def find_py_spy() -> str:
    """Path of py-spy: the one beside this interpreter, else the one on the path.

    Raises:
        NoPySpyError: there is none.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise NoPySpyError("py-spy is not installed; it comes with the extra [profile]")
    return found


def command(py_spy: str, pid: int, options: Options, raw_path: Path) -> list[str]:
    """Arguments of one py-spy."""
    arguments = [py_spy, "record", "--pid", str(pid), "--threads"]
    arguments += ["--rate", str(options.rate_hz), "--duration", str(options.duration_s)]
    arguments += ["--format", "raw", "--output", str(raw_path)]
    arguments += ["--native"] if options.native else ["--nonblocking"]
    arguments += ["--subprocesses"] if options.subprocesses else []
    return arguments + (["--gil"] if options.gil else [])


def process_cpu_s(pid: int, otherwise: float = 0.0) -> float:
    """User and system time of a process, all its threads; `otherwise` when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return otherwise
    return float(times.user + times.system)


def start(worker: Worker, options: Options, directory: Path, py_spy: str) -> Recording:
    """Start to sample one worker. The process ends by itself after `options.duration_s`."""
    raw_path = directory / f"worker-{worker.shard}.txt"
    log_path = directory / f"worker-{worker.shard}.log"
    with log_path.open("wb") as log:
        # A session of its own: Ctrl-C in the terminal is for us, and we pass it on when ready.
        process = subprocess.Popen(
            command(py_spy, worker.pid, options, raw_path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    cpu_s = process_cpu_s(worker.pid)
    return Recording(worker, process, raw_path, log_path, cpu_s, cpu_s)


def poll(recordings: Sequence[Recording]) -> bool:
    """Look at every recording once; whether any still runs."""
    return sum(recording.poll() for recording in recordings) > 0


def stop(recordings: Sequence[Recording]) -> None:
    """End what still runs, as Ctrl-C would, so that py-spy writes what it has."""
    for recording in recordings:
        _wait_until_interruptible(recording)
        if recording.poll():
            recording.process.send_signal(signal.SIGINT)
    for recording in recordings:
        try:
            recording.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            recording.process.kill()
            recording.process.wait()
        recording.poll()


def _wait_until_interruptible(recording: Recording) -> None:
    """Let py-spy get as far as its handler of SIGINT: before that it dies and writes nothing."""
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    while recording.poll() and not _catches_interrupt(recording.process.pid):
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _catches_interrupt(pid: int) -> bool:
    """Whether a process has a handler for SIGINT; True where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return True
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is None or bool(int(caught[1], 16) >> (signal.SIGINT - 1) & 1)


def collect(recording: Recording, options: Options) -> WorkerSamples:
    """Read what one py-spy wrote; of a tree, all but the stacks. Call after it has ended.

    Raises:
        NotPermittedError: it was not let near the process.
        SamplingError: it wrote nothing, for another reason.
    """
    log = recording.log()
    if not recording.raw_path.exists():
        raise _failure(recording.worker, log)
    lost = _LOST.search(log)
    rounds = _rounds(recording, options)
    return WorkerSamples(
        shard=recording.worker.shard,
        pid=recording.worker.pid,
        rate_hz=options.rate_hz,
        rounds=rounds,
        lost=min(rounds, int(lost[1])) if lost else 0,
        stacks={} if options.subprocesses else parse_raw(recording.raw_text()),
        cpu_s=recording.cpu_last_s - recording.cpu_before_s,
        ended_early="process exited" in log or not psutil.pid_exists(recording.worker.pid),
    )


def _rounds(recording: Recording, options: Options) -> int:
    """Rounds of sampling: py-spy counts samples of threads, which is another number."""
    wanted = options.duration_s * options.rate_hz
    if recording.started_at is None or recording.ended_at is None:
        return wanted
    took_s = recording.ended_at - recording.started_at
    # A run to its end does exactly the rounds that it was asked for, late or not.
    was_cut = took_s < options.duration_s - 0.5
    return min(wanted, round(took_s * options.rate_hz)) if was_cut else wanted


def _failure(worker: Worker, log: str) -> SamplingError:
    if _DENIED.search(log):
        return NotPermittedError(f"process {worker.pid} may not be read")
    first = next((line for line in log.splitlines() if line.strip()), "py-spy said nothing")
    return SamplingError(f"worker {worker.shard} (pid {worker.pid}): {first}")


def is_root() -> bool:
    """Whether this process may read any other."""
    return os.geteuid() == 0


def ptrace_scope() -> int | None:
    """The kernel's `kernel.yama.ptrace_scope`; None where it has no such rule."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text(encoding="ascii"))
    return None
