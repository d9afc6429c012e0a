"""A daemon with fake workers in a process of its own, followed by the events that it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arc.runtime import DaemonInfo, DataDir, read_daemon_info

ROOT = Path(__file__).resolve().parent.parent.parent


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without settings of Arc, and then these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARC_")}
    return kept | {f"ARC_{name.upper()}": value for name, value in settings.items()}


class Running:
    """A daemon that was started.

    Attributes:
        process: The supervisor.
        where: Its data directory.
        events: What it has logged, as far as it was waited for.
    """

    def __init__(
        self, data_dir: Path, manners: tuple[str, ...], settings: Mapping[str, str]
    ) -> None:
        self.where = DataDir(data_dir)
        self.events: list[dict[str, Any]] = []
        defaults = {"port": "0", "workers": "1", "log_format": "json", "data_dir": str(data_dir)}
        defaults["query_concurrency"] = "0"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_daemon", *manners],
            cwd=ROOT,
            env=clean_environment(**(defaults | dict(settings))),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of this name that has these fields."""
        wanted = {"event": event, **fields}
        for found in self._follow():
            if wanted.items() <= found.items():
                return found
        raise AssertionError(f"the daemon ended without {wanted}: {self.events}")

    def _follow(self) -> Iterator[dict[str, Any]]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            yield self.events[-1]

    def info(self) -> DaemonInfo:
        """The content of its `daemon.json`."""
        info = read_daemon_info(self.where.daemon_json)
        assert info is not None
        return info

    def worker_pid(self, shard: int) -> int:
        """The process id of a worker."""
        return self.info().workers[shard].pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Read what it logs until it ends, and return its exit status."""
        for _ in self._follow():
            pass
        return self.process.wait()

    def banner(self) -> str:
        """Its standard output, which must have ended or hold the banner."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def count(self, event: str, **fields: Any) -> int:
        """How many events of this name and these fields there were so far."""
        return sum({"event": event, **fields}.items() <= found.items() for found in self.events)


@contextmanager
def running(
    data_dir: Path, *manners: str, ready: bool = True, **settings: str
) -> Iterator[Running]:
    """Start a daemon, and leave nothing of it behind.

    Args:
        data_dir: For its data.
        manners: Arguments of tests/support/fake_worker.py.
        ready: Wait until all workers are.
        settings: By field name.
    """
    daemon = Running(data_dir, manners, settings)
    try:
        if ready:
            daemon.wait_for("ready")
        yield daemon
    finally:
        for pid in [*_workers_started(daemon), daemon.process.pid]:
            _kill(pid)
        daemon.process.wait()
        for stream in (daemon.process.stdout, daemon.process.stderr):
            if stream is not None:
                stream.close()


def _workers_started(daemon: Running) -> list[int]:
    """Those that were not seen to end. Their ids are still theirs: their parent is ours."""
    if daemon.process.poll() is not None:
        return []
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
