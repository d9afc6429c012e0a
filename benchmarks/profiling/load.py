"""Load while a profile is taken: the generator of scripts/benchmark_ingestion.py, and a daemon.

In: a data directory, for how long, more arguments of the generator. Out: a daemon that takes rows,
while the context is open; its own end if it was started here, never that of one that ran already.
What the generator says goes to a file, whose end is told when it fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from benchmarks.load.daemon import REPOSITORY, Daemon, DaemonError, find, start
from benchmarks.profiling.daemon import NoDaemonError, find_daemon

#: From the start of the generator to its first rows: it encodes all its bodies first.
FIRST_ROWS_TIMEOUT_S = 60.0
#: The generator runs this much longer than the profile may take: attaching, a busy machine.
MARGIN_S = 60
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.1


class LoadError(RuntimeError):
    """The generator ended or sends nothing; the message has its last words."""


@contextmanager
def loaded(
    data_dir: Path, seconds: int, arguments: Sequence[str], tell: Callable[[str], None]
) -> Iterator[Path]:
    """A daemon under load; gives its data directory.

    Args:
        data_dir: Of the daemon that runs; without one there, another is started, on a folder of
            its own that is removed in the end.
        seconds: How long the profile takes.
        arguments: More of the generator's.
        tell: Told what is being started.

    Raises:
        LoadError: there is no load.
        DaemonError: there is no daemon.
    """
    with tempfile.TemporaryFile() as log, ExitStack() as stack:
        daemon = _daemon(data_dir, stack, tell)
        tell("starting the load generator")
        stack.callback(_end, _generate(daemon, seconds + MARGIN_S, arguments, log))
        yield daemon.data_dir


def _daemon(data_dir: Path, stack: ExitStack, tell: Callable[[str], None]) -> Daemon:
    try:
        find_daemon(data_dir)
    except NoDaemonError:
        folder = Path(tempfile.mkdtemp(prefix="arc-profile-data-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        tell("no daemon runs: starting one for this profile")
        daemon = start(folder, (), set())
        stack.callback(daemon.abandon)
        return daemon
    return find(data_dir, None)


def _generate(
    daemon: Daemon, seconds: int, arguments: Sequence[str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start the generator, and wait until rows arrive."""
    before = daemon.metric("arc_rows_accepted_total")
    command = [sys.executable, str(REPOSITORY / "scripts" / "benchmark_ingestion.py")]
    command += ["--data-dir", str(daemon.data_dir), "--no-ceiling", "--seconds", str(seconds)]
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # with processes of its own, which end with it
    )
    try:
        _wait_for_rows(daemon, before, process, log)
    except BaseException:
        _end(process)
        raise
    return process


def _wait_for_rows(
    daemon: Daemon, before: float, process: subprocess.Popen[bytes], log: IO[bytes]
) -> None:
    deadline_s = time.monotonic() + FIRST_ROWS_TIMEOUT_S
    while daemon.metric("arc_rows_accepted_total") <= before:
        if process.poll() is not None or time.monotonic() > deadline_s:
            log.seek(0)
            said = log.read()[-1000:].decode(errors="replace")
            raise LoadError(f"the load generator sends nothing: {said or 'it said nothing'}")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the generator; what does not end in time is killed, with its processes."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue


__all__ = ["DaemonError", "LoadError", "loaded"]
