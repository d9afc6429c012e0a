"""The daemon itself, `python -m arc serve`, in processes of its own, for tests over HTTP.

`serving` starts one on a free port and ends it by SIGTERM, which must give status 0. What it logs
is read as it comes, so that a test can wait for an event, and is printed when the test fails.
Only processes that were started here are ever signalled.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from arc.runtime import DaemonInfo, DataDir, read_daemon_info
from tests.support.running import ROOT, clean_environment

#: A start takes 2 s; without compiled kernels, or beside others at work, up to a minute.
START_TIMEOUT_S = 100.0
#: More than shutdown_timeout_s of the daemon, so that its own verdict comes first.
STOP_TIMEOUT_S = 60.0
#: For what a daemon does within a second.
WAIT_S = 30.0
_POLL_S = 0.02


class Daemon:
    """A started `arc serve`.

    Attributes:
        process: The supervisor.
        where: Its data directory.
    """

    def __init__(self, data_dir: Path, flags: tuple[str, ...], log_file: Path | None) -> None:
        self.where = DataDir(data_dir)
        self._news = threading.Condition()  # guards the four below
        self._lines: list[str] = []  # what it printed and logged
        self._events: list[dict[str, Any]] = []  # those of them that are JSON
        self._passed = 0  # events that were waited for, or came before one that was
        self._ended = False
        self._family: set[psutil.Process] = set()
        command = [sys.executable, "-m", "arc", "serve", "--port", "0", "--log-format", "json"]
        command += ["--query-concurrency", "0"]  # unless a flag says otherwise: it starts sooner
        with contextlib.ExitStack() as stack:
            log = subprocess.STDOUT if log_file is None else stack.enter_context(log_file.open("w"))
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(data_dir), *flags],
                cwd=ROOT,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                if line.startswith("{"):
                    self._events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def log(self) -> str:
        """What it printed and logged so far, as one text."""
        with self._news:
            return "".join(self._lines)

    def wait_until_ready(self) -> None:
        """Wait for the banner, which is printed once every worker serves."""

        def settled() -> bool:
            return self._ended or any(line.endswith(" is ready\n") for line in self._lines)

        with self._news:
            assert self._news.wait_for(settled, START_TIMEOUT_S), "the daemon is not ready in time"
            assert not self._ended, "the daemon ended instead of getting ready"
            self._passed = len(self._events)
        self._meet()

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of this name that has these fields, once it is logged."""
        wanted = {"event": event, **fields}

        def found() -> bool:
            while self._passed < len(self._events):
                self._passed += 1
                if wanted.items() <= self._events[self._passed - 1].items():
                    return True
            return False

        with self._news:
            came = self._news.wait_for(lambda: found() or self._ended, START_TIMEOUT_S)
            match = self._events[self._passed - 1] if came else {}
        assert wanted.items() <= match.items(), f"the daemon did not log {wanted}"
        self._meet()
        return match

    def _meet(self) -> None:
        """Remember the workers: psutil tells them from later processes with the same id."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family.update(psutil.Process(self.process.pid).children())

    @property
    def info(self) -> DaemonInfo:
        """The content of its `daemon.json`, as it is now."""
        info = read_daemon_info(self.where.daemon_json)
        assert info is not None, "there is no daemon.json"
        return info

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.info.port

    @property
    def url(self) -> str:
        """Base of its URLs."""
        return self.info.url

    def worker(self, shard: int) -> psutil.Process:
        """A worker's process."""
        pid = next(entry.pid for entry in self.info.workers if entry.shard == shard)
        return psutil.Process(pid)

    def shard_of(self, client_port: int) -> int:
        """Which worker holds the connection from this local port, which must be accepted."""
        for entry in self.info.workers:
            held = psutil.Process(entry.pid).net_connections("tcp")
            if any(link.raddr and link.raddr.port == client_port for link in held):
                return entry.shard
        raise AssertionError(f"no worker has a connection from port {client_port}")

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, status: int = 0) -> None:
        """Ask it to stop, if it still runs; it must end with this status."""
        if self.process.poll() is None:
            self.terminate()
        ended = self.process.wait(STOP_TIMEOUT_S)
        self._reader.join(WAIT_S)
        assert ended == status, f"the daemon ended with status {ended}, not {status}"

    def abandon(self) -> None:
        """End what is left of it, and wait until nothing is."""
        self._meet()
        if self.process.poll() is None:
            self.process.kill()
        for worker in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self.process.wait()
        eventually(lambda: not any(map(_runs, self._family)), "workers end")
        self._reader.join(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(data_dir: Path, *flags: str, log_file: Path | None = None) -> Iterator[Daemon]:
    """Start a daemon, wait until it is ready, and stop it; it must then end with status 0.

    Args:
        data_dir: For its data.
        flags: More flags of `arc serve`.
        log_file: Takes what it logs, instead of `Daemon.log`.
    """
    daemon = Daemon(data_dir, flags, log_file)
    try:
        daemon.wait_until_ready()
        yield daemon
        if daemon.process.poll() is None:
            daemon.stop()
    except BaseException:
        more = log_file.read_text() if log_file is not None else ""
        print(f"--- log of the daemon on {data_dir}\n{daemon.log}{more}")
        raise
    finally:
        daemon.abandon()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait until a condition on another process holds.

    Args:
        condition: Looks, and changes nothing.
        what: What is waited for, should it not come.
        timeout_s: How long it may take; never the time that it takes when all is well.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(_POLL_S)
