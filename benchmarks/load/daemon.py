"""The daemon under load: find the one that runs, or start one and stop it.

In: a data directory, a URL, flags. Out: a `Daemon` with its address, processes and metrics. A
daemon that was found is never signalled; one that was started gets SIGTERM, and its CPU time
comes from the kernel's account of a finished child (wait4), its workers included.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load import usage

REPOSITORY = Path(__file__).resolve().parents[2]
#: Where a running daemon says who it is, below its data directory.
RUN_FILE = Path(".arc/run/daemon.json")
START_TIMEOUT_S = 60.0
#: The daemon's own limit for draining is 30 s by default.
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05


#: Whatever proxy the environment names: the daemon is on this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DaemonError(RuntimeError):
    """There is no daemon, or it does not do what it must. The message says what to do."""


@dataclass
class Daemon:
    """A daemon that takes requests.

    Attributes:
        address: Host and port.
        data_dir: Where it stores.
        info: The content of its run file; empty when there is none.
        process: Set when we started it.
        log: Where its output goes when we started it.
        cpu_before_s: CPU time that it had used when `mark` was called.
    """

    address: tuple[str, int]
    data_dir: Path
    info: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    cpu_before_s: float = 0.0

    @property
    def pid(self) -> int | None:
        """Of the supervisor; None when it is not known."""
        return self.info.get("pid")

    def pids(self) -> list[int]:
        """The supervisor and everything below it; [] when it is not known."""
        return usage.tree(self.pid) if self.pid else []

    def mark(self) -> None:
        """Remember the CPU time used so far."""
        self.cpu_before_s = usage.cpu_s(self.pids())

    def connections_by_worker(self) -> dict[int, int]:
        """Connections that each worker holds, by shard: SO_REUSEPORT does not share evenly."""
        shards = {worker["pid"]: worker["shard"] for worker in self.info.get("workers", [])}
        held = usage.connections(shards, self.address[1])
        return {shards[pid]: count for pid, count in held.items()}

    def metric(self, name: str) -> float:
        """A metric from /metrics, summed over its labels.

        Raises:
            DaemonError: it does not answer, or has no such metric.
        """
        text = self._get("/metrics")
        values = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((name + " ", name + "{"))
        ]
        if not values:
            raise DaemonError(f"/metrics has no {name}")
        return sum(values)

    def wait_until_stored(self, timeout_s: float) -> bool:
        """Wait until nothing is buffered; False when that took longer than `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while self.metric("arc_rows_buffered") > 0:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S * 4)
        return True

    def _get(self, path: str) -> str:
        url = f"http://{self.address[0]}:{self.address[1]}{path}"
        try:
            with _DIRECT.open(url, timeout=10) as reply:
                text: str = reply.read().decode()
        except (OSError, urllib.error.HTTPError) as error:
            raise DaemonError(f"{url} does not answer: {error}") from error
        return text

    def cpu_since_mark_s(self) -> float | None:
        """CPU seconds since `mark`; None when its processes are not known."""
        return usage.cpu_s(self.pids()) - self.cpu_before_s if self.pid else None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> tuple[int, float]:
        """SIGTERM, wait for the drain.

        Returns:
            Exit code, and CPU seconds since `mark`, all workers included.

        Raises:
            DaemonError: it was still there after `timeout_s`; it has been killed.
        """
        assert self.process is not None, "BUG: stop() on a daemon that we did not start"
        self.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while True:
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline_s:
                self.abandon(patience_s=0.1)
                raise DaemonError(f"the daemon did not stop within {timeout_s:g} s of SIGTERM")
            time.sleep(POLL_S)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, used.ru_utime + used.ru_stime - self.cpu_before_s

    def last_words(self) -> str:
        """The end of its output when we started it, else nothing."""
        return _tail(self.log) if self.log else ""

    def abandon(self, patience_s: float = 10.0) -> None:
        """End what we started and still runs: SIGTERM, patience, SIGKILL for the whole tree."""
        if self.process is None or self.process.poll() is not None:
            return
        pids = usage.tree(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def find(data_dir: Path, url: str | None) -> Daemon:
    """The daemon that runs on a data directory, or at a URL.

    Raises:
        DaemonError: there is none.
    """
    info = _read_run_file(data_dir)
    if info is None and url is None:
        raise DaemonError(
            f"no daemon runs on {data_dir} ({data_dir / RUN_FILE} is not there). Start one with "
            "./start.sh native, name its directory with --data-dir, or let --start do it"
        )
    parts = urlsplit(url or str((info or {})["url"]))
    daemon = Daemon((parts.hostname or "127.0.0.1", parts.port or 80), data_dir, info or {})
    daemon._get("/ready")
    return daemon


def start(
    data_dir: Path, flags: Sequence[str], cpus: set[int], command: Sequence[str] = ()
) -> Daemon:
    """Start a daemon on a free port and wait until it is ready.

    Args:
        data_dir: For its data, its run file and its log.
        flags: More flags of `arc serve`.
        cpus: Cores that it may use; empty: any.
        command: What to run in place of `python -m arc serve`, for tests.

    Raises:
        DaemonError: it ended, or was not ready in time; the message has the end of its log.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "daemon.log"
    command = [*(command or (sys.executable, "-m", "arc", "serve"))]
    command += ["--port", "0", "--data-dir", str(data_dir), *flags]
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or ours)  # what a child inherits
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
    finally:
        os.sched_setaffinity(0, ours)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while (info := _read_run_file(data_dir)) is None or info["pid"] != process.pid:
        if process.poll() is not None or time.monotonic() > deadline_s:
            Daemon(("", 0), data_dir, process=process).abandon()
            raise DaemonError(f"the daemon did not start: {_tail(log)}")
        time.sleep(POLL_S)
    return Daemon((info["host"], info["port"]), data_dir, info, process, log)


def _read_run_file(data_dir: Path) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = json.loads((data_dir / RUN_FILE).read_text())
    except FileNotFoundError:
        return None
    return info


def _tail(log: Path, size_bytes: int = 2000) -> str:
    """The end of the output of a daemon that we started."""
    return log.read_bytes()[-size_bytes:].decode(errors="replace")
