"""System calls of a running process that fail on demand, by `strace -e inject=`.

In: a process id, which calls, which error, from which call on. Out: the failures, and a count of
them. Attached and detached while the process runs; a detached process is as it was before.

What strace can and cannot do, found by trying (6.1):
* it counts calls for each thread on its own, and for each system call on its own;
* `-P path` holds for the calls that name exactly this path or a descriptor of it, and neither
  for what lies below a directory nor for a pattern;
* a call that is made to fail is not made at all: after `close` the descriptor stays open, and a
  `write` has written nothing.
`write` and `close` are what sockets and event loops use as well, so those need paths.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: By group, as strace knows them; "?": not on every machine.
CALLS = {
    "write": "?pwrite64,?pwritev,?pwritev2",
    "sync": "fsync,fdatasync",
    "name": "?rename,?renameat,?renameat2,?link,linkat",
    "allocate": "fallocate,ftruncate",
    "close": "close",
    "stream": "write",
}
#: Groups that must have paths.
NEED_PATHS = ("close", "stream")
ATTACH_TIMEOUT_S = 20.0
DETACH_TIMEOUT_S = 20.0
_POLL_S = 0.005


class StraceError(RuntimeError):
    """strace did not do what was asked. The message has its own words."""


def requirement() -> str | None:
    """Why strace cannot be attached to a process here; None when it can. Tries it."""
    if shutil.which("strace") is None:
        return "needs strace"
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            with injected(sleeper.pid, "write", "EIO", "1"):
                return None
        except StraceError as error:
            return f"needs the right to trace processes: {error}"
        finally:
            sleeper.kill()


class Injection:
    """Failures under way. Made by `injected`.

    Attributes:
        report: What strace writes.
    """

    def __init__(self, report: Path) -> None:
        self.report = report

    def hits(self) -> int:
        """How many calls were made to fail so far."""
        return self.report.read_text(errors="replace").count("(INJECTED)")

    def wait_for_hit(self, timeout_s: float) -> bool:
        """Wait until a call has failed; False: none did in time."""
        deadline_s = time.monotonic() + timeout_s
        while not self.hits():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def by_call(self) -> Counter[str]:
        """How many calls failed, by the name of the system call."""
        lines = self.report.read_text(errors="replace").splitlines()
        failed = [line for line in lines if "(INJECTED)" in line]
        names = (re.search(r"(?:<\.\.\. )?(\w+)(?:\(| resumed)", line) for line in failed)
        return Counter(name[1] for name in names if name)


@contextmanager
def injected(
    pid: int, group: str, error: str, when: str, paths: Sequence[Path] = ()
) -> Iterator[Injection]:
    """Let calls of a process fail while the context lasts.

    Args:
        pid: Of the process; all its threads, also later ones, are meant.
        group: Key of `CALLS`.
        error: As "EIO".
        when: "3": the third call of each thread; "3+": that and all later ones.
        paths: Only calls that name one of them, or a descriptor of it; empty: all.

    Raises:
        StraceError: it could not be attached.
    """
    calls = CALLS[group]
    with tempfile.TemporaryDirectory(prefix="arc-strace-") as folder:
        injection = Injection(Path(folder, "calls"))
        injection.report.touch()
        command = ["strace", "-f", "-p", str(pid), "-o", str(injection.report)]
        command += ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"]
        command += [argument for path in paths for argument in ("-P", str(path))]
        with _attached(command, pid):
            yield injection


@contextmanager
def _attached(command: Sequence[str], pid: int) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    told = _Told(process)
    try:
        if not told.wait_until_attached(ATTACH_TIMEOUT_S):
            raise StraceError("; ".join(told.lines) or "strace did not attach in time")
        yield
    finally:
        _detach(process, pid)
        told.join()


class _Told:
    """What strace says of itself, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._attached = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.strip())
            if "attached" in line:
                self._attached.set()
        self._attached.set()  # it has ended

    def wait_until_attached(self, timeout_s: float) -> bool:
        came = self._attached.wait(timeout_s)
        return came and any("attached" in line for line in self.lines)

    def join(self) -> None:
        self._thread.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


def _detach(process: subprocess.Popen[str], pid: int) -> None:
    """Let strace go. It never leaves the process stopped: the kernel resumes it at the worst."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(DETACH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
