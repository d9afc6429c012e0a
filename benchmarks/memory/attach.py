"""Puts memray into the workers of a running daemon for a while, and takes it out again.

In: workers and a number of seconds. Out: one file of memray for each. memray has a debugger load
it into the process; what was allocated before is in no file. A worker is stopped for the moment of
attaching (some 0.3 s), and slower while tracked.

If this program dies meanwhile, the tracker leaves the worker by itself SAFETY_S after its time;
the worker goes on as before, and the file that it wrote stays.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from arc.metrics import shard_path, summary
from arc.runtime import DataDir
from benchmarks.memory.worker import FILE, TrackOptions
from benchmarks.profiling.daemon import Worker
from benchmarks.profiling.pyspy import is_root, ptrace_scope

DEBUGGERS = ("gdb", "lldb")

#: After the time that was asked for, a tracker that nobody took out ends by itself.
SAFETY_S = 30

#: For a debugger to get into a process and out of it.
INJECT_TIMEOUT_S = 60.0


class AttachError(Exception):
    """memray could not be put into a worker. The message says what is missing, and what to do."""


def check_can_attach() -> None:
    """Look for what attaching needs.

    Raises:
        AttachError: there is no debugger.
    """
    if not hasattr(sys, "remote_exec") and not any(map(shutil.which, DEBUGGERS)):
        raise AttachError(without_debugger())


def without_debugger() -> str:
    """What to do where there is no debugger."""
    return (
        "memray gets into a running process by way of a debugger, and there is neither gdb nor "
        "lldb.\nInstall one (sudo apt install gdb), or profile a daemon that is started for it:\n"
        "  python scripts/profile_memory.py --load"
    )


def not_attached(pid: int, said: str, root: bool, scope: int | None) -> str:
    """What to do where the debugger did not get in."""
    lines = [f"memray did not get into process {pid}: {said.strip() or 'no reason given'}"]
    if "permission" in said.lower() or "ptrace" in said.lower() or "different user" in said:
        if root:
            lines.append("In a container, start it with the capability to trace:")
            lines.append("  --cap-add SYS_PTRACE")
        else:
            lines.append("The kernel forbids it. Run this as root (sudo), or, until the next boot:")
            lines.append("  sudo sysctl kernel.yama.ptrace_scope=0" if scope else "  sudo -E ...")
    lines.append("Or profile a daemon that is started for it:")
    lines.append("  python scripts/profile_memory.py --load")
    return "\n".join(lines)


class Tracked(msgspec.Struct):
    """What is known of the workers that were tracked, once they no longer are.

    Attributes:
        rows: Records that each accepted while it was tracked, together.
    """

    rows: int = 0


@contextlib.contextmanager
def attached(
    workers: Sequence[Worker], seconds: float, data_dir: Path, options: TrackOptions
) -> Iterator[Tracked]:
    """Track the workers inside the `with`; their files are complete after it.

    Args:
        workers: Which.
        seconds: How long this will take, for SAFETY_S.
        data_dir: Of the daemon.
        options: How, and where the files go. The workers write them.

    Raises:
        AttachError: into one of them memray did not get; it has left the others.
    """
    check_can_attach()
    tracked = Tracked()
    inside: list[Worker] = []
    try:
        for worker in workers:
            _attach(worker.pid, round(seconds) + SAFETY_S, options)
            inside.append(worker)
            tracked.rows -= rows_of(data_dir, worker.shard)
        yield tracked
    finally:
        for worker in inside:
            tracked.rows += rows_of(data_dir, worker.shard)
            _memray("detach", str(worker.pid))  # of one that has ended, its file is complete


def rows_of(data_dir: Path, shard: int) -> int:
    """Records that one worker has accepted so far; 0 where it has counted nothing."""
    with tempfile.TemporaryDirectory(prefix="arc-metrics-") as name:
        source = shard_path(DataDir(data_dir).run, shard)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(source, name)
        return summary(Path(name))["arc_rows_accepted_total"]


def _attach(pid: int, seconds: int, options: TrackOptions) -> None:
    path = (Path(options.folder) / FILE.format(pid=pid)).resolve()
    words = ["--output", str(path), "--duration", str(seconds)]
    words += ["--native"] * options.native + ["--trace-python-allocators"] * options.python
    done = _memray("attach", *words, str(pid))
    if done.returncode != 0:
        said = done.stderr or done.stdout
        raise AttachError(not_attached(pid, said, is_root(), ptrace_scope()))


def _memray(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memray", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=INJECT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        said = f"no answer within {INJECT_TIMEOUT_S:g} s"
        return subprocess.CompletedProcess(command, 1, "", said)
