"""A daemon in processes of its own, to be killed.

In: a data directory, flags, what to run it under. Out: a `Daemon`, whose processes are known at
any time. Only processes that it started are ever signalled: they are collected as the descendants
of the one that `start` made, while all of them are held still.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 90.0
POLL_S = 0.01
_TAIL_BYTES = 3000
#: In the command line of the process that merges files.
COMPACTOR = "arc.compaction_process"


class DaemonError(RuntimeError):
    """It did not do what every daemon does; the message has the end of its log."""


class Ready(NamedTuple):
    """An answer of `GET /ready`."""

    status: int
    content: dict[str, Any]


class Daemon:
    """`python -m arc serve` on one data directory, over any number of lives.

    Attributes:
        data_dir: Its own.
        log_file: Everything that all of its lives printed and logged.
        flags: Of the next start.
        prefix: Before the command of the next start.
        process: What was started last: the supervisor, or what it runs under.
    """

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.prefix = tuple(prefix)
        self.environment = dict(environment or {})
        self.log_file = log_file or data_dir.with_name(data_dir.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where the log of the present life begins
        self._seen: set[psutil.Process] = set()  # descendants that were alive at some time

    # ------------------------------------------------------------------------------ start and end

    def start(self, *more_flags: str) -> None:
        """Start it; does not wait for anything. The one before must have ended."""
        assert self.process is None, "BUG: start() while the one before is not known to have ended"
        command = [*self.prefix, sys.executable, "-m", "arc", "serve", "--port", "0"]
        command += ["--data-dir", str(self.data_dir), "--log-format", "json"]
        command += ["--query-concurrency", "0"]  # queries hold nothing that could be lost
        # Replaced files are double under the glob of the oracle for a time.
        command += ["--compact-interval-s", "0"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ARC_")}
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [*command, *self.flags, *more_flags],
                cwd=REPOSITORY,
                env=kept | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait until every worker takes writes.

        Returns:
            Seconds that it took.

        Raises:
            DaemonError: it ended, or was not ready in time.
        """
        started_s = time.monotonic()
        self.wait_for(self._all_ready, "ready", timeout_s)
        self.processes()
        return time.monotonic() - started_s

    def wait_until_known(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for its `daemon.json`: every worker has been ready."""
        self.wait_for(lambda: self.info is not None, "known", timeout_s)

    def wait_until_listening(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a worker answers, be it that it still replays its log."""
        self.wait_for(lambda: self.ready() is not None, "listening", timeout_s)

    def wait_for(
        self, condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S
    ) -> None:
        """Wait until a condition on it holds.

        Raises:
            DaemonError: it ended, or was not `what` in time.
        """
        assert self.process is not None, f"BUG: waiting for a daemon to be {what}, none runs"
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise self._error(f"ended with status {self.process.returncode} before {what}")
            if time.monotonic() > deadline_s:
                raise self._error(f"not {what} within {timeout_s:g} s")
            time.sleep(POLL_S)

    def kill_tree(self) -> None:
        """SIGKILL for every process of it, at one moment, and wait until none is left."""
        if self.process is None:
            return
        family = self._hold_still()
        self.process.kill()
        for one in family:
            _kill(one)
        self.process.wait()
        self.process = None
        psutil.wait_procs(family)

    def _hold_still(self) -> list[psutil.Process]:
        """Suspend every process of it, so that none starts another; returns all but the first."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        held: set[psutil.Process] = set()
        while found := set(self.processes()) - held:
            for one in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.suspend()
            held |= found
        return list(held)

    def kill_worker(self, shard: int) -> int:
        """SIGKILL for one worker; returns the process id that it had."""
        pid = self.workers[shard]
        _kill(psutil.Process(pid))
        return pid

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM to the supervisor, and wait.

        Returns:
            Its exit status; under a prefix, that of the prefix.

        Raises:
            DaemonError: it was still there in the end; it has been killed.
        """
        assert self.process is not None, "BUG: stop() on a daemon that does not run"
        family = self.processes()
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.process.poll() is None:
                psutil.Process(self.supervisor_pid).terminate()
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_tree()
            raise self._error(f"still there {timeout_s:g} s after SIGTERM") from None
        self.process = None
        psutil.wait_procs(family, timeout=timeout_s)
        return status

    def close(self) -> None:
        """End whatever is left of it."""
        self.kill_tree()
        for one in self._seen:
            _kill(one)  # checks that the id is still that process's
        psutil.wait_procs(self._seen)

    # ---------------------------------------------------------------------------- what is running

    def processes(self) -> list[psutil.Process]:
        """All that descend from what was started and run now, itself excluded."""
        if self.process is None:
            return []
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._seen = {one for one in self._seen if one.is_running()} | set(found)
        return list(self._seen)

    @property
    def info(self) -> dict[str, Any] | None:
        """Its `daemon.json`; None while there is none of the present life."""
        process = self.process  # another thread may ask
        if process is None:
            return None
        try:
            info: dict[str, Any] = json.loads((self.data_dir / ".arc/run/daemon.json").read_bytes())
        except (OSError, ValueError):
            return None
        is_ours = info["pid"] == process.pid
        is_ours = is_ours or any(info["pid"] == one.pid for one in self.processes())
        return info if is_ours else None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, or will.

        Raises:
            DaemonError: it has not said so yet.
        """
        info = self.info
        if info is not None:
            return str(info["host"]), int(info["port"])
        # Before every worker has replayed its log there is only what it logs at its start.
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            for line in log:
                if b'"event":"starting"' in line:
                    url = urlsplit(json.loads(line)["url"])
                    return str(url.hostname), int(url.port or 0)
        raise self._error("no address yet")

    @property
    def supervisor_pid(self) -> int:
        """Its process id; under a prefix, not that of `process`."""
        assert self.process is not None
        info = self.info
        if info is not None:
            return int(info["pid"])
        if not self.prefix:
            return self.process.pid
        for one in self.processes():  # not listening yet: what the prefix runs
            with contextlib.suppress(psutil.NoSuchProcess):
                if one.ppid() == self.process.pid:
                    return int(one.pid)
        return self.process.pid

    @property
    def workers(self) -> dict[int, int]:
        """Process id of each worker by its shard, as `daemon.json` has them."""
        return {int(entry["shard"]): int(entry["pid"]) for entry in self._known()["workers"]}

    def ready(self) -> Ready | None:
        """What one of the workers answers to `GET /ready`; None while none answers."""
        asked = self._ask("/ready")
        return asked[0] if asked else None

    def get(self, path: str) -> Ready:
        """Any answer with a JSON body.

        Raises:
            DaemonError: nobody answers.
        """
        asked = self._ask(path)
        if not asked:
            raise self._error(f"no answer to GET {path}")
        return asked[0]

    def metric(self, name: str) -> float:
        """The sum of all samples of this name in `/metrics`; 0 when there are none.

        Raises:
            DaemonError: nobody answers.
        """
        text = self.metrics_text()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)

    def metrics_text(self) -> str:
        """The body of `GET /metrics`; raises DaemonError as `metric` does."""
        try:
            with contextlib.closing(self._connection()) as link:
                link.request("GET", "/metrics")
                return link.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise self._error(f"no answer to GET /metrics: {error}") from None

    def shard_of(self, client_port: int, timeout_s: float = 5.0) -> int | None:
        """Which worker holds the connection from this local port; None when none does."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for shard, pid in self.workers.items():
                with contextlib.suppress(psutil.Error):
                    held = psutil.Process(pid).net_connections("tcp")
                    if any(link.raddr and link.raddr.port == client_port for link in held):
                        return shard
            time.sleep(POLL_S)
        return None

    def compactor(self) -> psutil.Process | None:
        """The process that merges files, if one is there now; it comes and goes."""
        assert self.process is not None, "BUG: compactor() of a daemon that does not run"
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if COMPACTOR in one.cmdline():
                        self._seen.add(one)
                        return one
        return None

    def recovery_began(self) -> Callable[[], bool]:
        """A condition on the start to come: a shard has taken its epoch, or says it replays.

        Call it before `start`, and what it returns after.
        """
        before = self._epochs()

        def began() -> bool:
            if self._epochs() != before:
                return True
            ready = self.ready()
            return ready is not None and ready.status == 503

        return began

    def last_words(self) -> str:
        """The end of its log."""
        content = self.log_file.read_bytes() if self.log_file.exists() else b""
        return content[-_TAIL_BYTES:].decode(errors="replace")

    # ------------------------------------------------------------------------------------ private

    def _epochs(self) -> dict[Path, bytes]:
        files = self.data_dir.glob(".arc/shards/*/epoch")
        return {path: path.read_bytes() for path in files}

    def _known(self) -> dict[str, Any]:
        info = self.info
        if info is None:
            raise self._error("no daemon.json")
        return info

    def _all_ready(self) -> bool:
        """Whether each worker says so; a connection reaches any of them."""
        info = self.info
        if info is None:
            return False
        missing = {int(entry["shard"]) for entry in info["workers"]}
        for _ in range(32 * len(missing)):
            asked = self._ask("/ready", "/health")
            if not asked or asked[0].status != 200:
                return False
            missing.discard(int(asked[1].content["shard"]))
            if not missing:
                return True
        return False

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=10)

    def _ask(self, *paths: str) -> list[Ready]:
        """Answers to several questions on one connection; empty when there is none."""
        answers = []
        try:
            with contextlib.closing(self._connection()) as link:
                for path in paths:
                    link.request("GET", path)
                    reply = link.getresponse()
                    answers.append(Ready(reply.status, json.loads(reply.read())))
        except (DaemonError, OSError, ValueError, http.client.HTTPException):
            return []
        return answers

    def _error(self, what: str) -> DaemonError:
        return DaemonError(f"{what}; the end of {self.log_file}:\n{self.last_words()}")


def _kill(process: psutil.Process) -> None:
    """SIGKILL, unless it has ended: psutil tells a process from a later one with its id."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
