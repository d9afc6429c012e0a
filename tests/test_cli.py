"""The command line, as a user runs it."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from arc.config import Config, fields, secrets
from arc.exposition import render
from arc.metrics import ShardMetrics, SupervisorMetrics, shard_path, summary, supervisor_path
from arc.runtime import DaemonInfo, DaemonLock, DataDir, WorkerEntry, write_daemon_info
from arc.version import VERSION
from tests.support.daemon import eventually
from tests.support.running import ROOT, clean_environment, running


def arc(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m arc`."""
    return subprocess.run(
        [sys.executable, "-m", "arc", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(**settings) | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
    assert arc("--version").stdout == f"arc {VERSION}\n"


def test_without_a_command_it_lists_the_commands() -> None:
    said = arc()
    for command in ("serve", "status", "stop", "config", "verify", "wal"):
        assert f"\n  {command} " in said.stdout + said.stderr


def test_help_shows_each_setting_with_flag_default_reason_and_environment() -> None:
    said = arc("serve", "--help")
    assert said.returncode == 0
    text = " ".join(said.stdout.split())
    for field in fields():
        assert f"{field.flag} " in text
        assert field.setting.reason in text
        assert (
            f"Allowed: {field.allowed}. Default: {field.format(field.default)}. "
            f"Environment: {field.env_name}."
        ) in text


def test_config_prints_a_file_that_means_the_same(tmp_path: Path) -> None:
    first = arc("config", "--port", "0", "--data-dir", 'a "b"', memory_bytes="3MB")
    assert first.returncode == 0
    sources = {line.split()[0]: line.partition("# ")[2] for line in first.stdout.splitlines()}
    assert sources["port"] == "flag --port"
    assert sources["memory_bytes"] == "environment ARC_MEMORY_BYTES"
    assert sources["host"] == "default"
    file = tmp_path / "arc.toml"
    file.write_text(first.stdout)
    again = arc("config", "--config", file)
    assert tomllib.loads(again.stdout) == tomllib.loads(first.stdout)
    wanted = msgspec.structs.asdict(Config(port=0, data_dir='a "b"', memory_bytes=3_000_000))
    for secret in secrets():
        del wanted[secret.name]  # which are shown nowhere
    values = tomllib.loads(again.stdout) | {"memory_bytes": 3_000_000}
    sizes = {field.name for field in fields() if field.is_size}
    assert {k: v for k, v in values.items() if k not in sizes} == {
        k: v for k, v in wanted.items() if k not in sizes
    }


@pytest.mark.parametrize("command", ["serve", "status", "stop", "config"])
def test_bad_settings_stop_every_command_with_one_line_each(command: str) -> None:
    said = arc(command, "--data-dir", " ", prot="1")
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.splitlines() == [
        "arc: ARC_PROT: got '1' from the environment; no such setting: did you mean ARC_PORT?",
        "arc: data_dir: got ' ' from flag --data-dir; allowed: a path",
    ]


def test_without_a_daemon_status_is_3_and_stop_has_nothing_to_do(tmp_path: Path) -> None:
    for command, status in (("status", 3), ("stop", 0)):
        said = arc(command, "--data-dir", tmp_path / "none")
        assert said.returncode == status
        assert said.stdout == f"No daemon is running on {tmp_path / 'none'}.\n"
        assert said.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_stop_waits_for_the_end_and_counts_the_rows(tmp_path: Path) -> None:
    with running(tmp_path, "leak", durability="memory") as daemon:
        os.kill(daemon.worker_pid(0), signal.SIGKILL)
        daemon.wait_for("worker_ready")
        said = arc("stop", data_dir=str(tmp_path))
        assert daemon.end() == 1
    # The first worker's ten rows died with it; the second is a fake that stores none either.
    assert said.stdout.splitlines() == [
        f"Daemon of process {daemon.process.pid} on {tmp_path}: running.",
        "Asked it to stop; waiting until it has written what it holds.",
        "Stopped. 20 rows were accepted, 0 stored, 20 lost.",
    ]
    assert said.returncode == 1


def test_stop_tells_rows_that_are_in_the_log_from_lost_ones(tmp_path: Path) -> None:
    with running(tmp_path, "log") as daemon:
        said = arc("stop", data_dir=str(tmp_path))
        assert daemon.end() == 3
    assert said.stdout.splitlines()[-1] == (
        "Stopped. 10 rows were accepted, 0 stored, 10 are in the log for the next start, 0 lost."
    )
    assert said.returncode == 3


def test_status_shows_how_far_the_replay_of_a_starting_daemon_is(tmp_path: Path) -> None:
    with running(tmp_path, "replay", ready=False) as daemon:
        eventually(
            lambda: summary(daemon.where.run)["arc_replay_bytes_done"], "the replay is under way"
        )
        said = arc("status", "--data-dir", tmp_path)
    assert said.returncode == 4
    assert said.stdout == (
        f"Daemon of process {daemon.process.pid} on {tmp_path}: starting, replaying the log: "
        "120 of 340 MB.\n"
    )


def test_a_stop_beside_a_stop_only_waits(tmp_path: Path) -> None:
    with running(tmp_path, "hang") as daemon:
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("stopping")
        second = subprocess.Popen(
            [sys.executable, "-m", "arc", "stop", "--data-dir", str(tmp_path)],
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert second.stdout is not None
        with second, second.stdout as lines:
            assert lines.readline().endswith(": stopping.\n")
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("killing_workers", signal="SIGTERM", workers=1)
            assert daemon.end() == 3  # it was killed, and cannot say that it held nothing
            assert second.wait() == 0
        assert daemon.count("killing_workers") == 1


@contextmanager
def status_server(run_dir: Path, ready: tuple[int, bytes]) -> Iterator[int]:
    """Serves `/metrics` of a folder and this answer of `/ready`, as a worker does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (200, render(run_dir)) if self.path == "/metrics" else ready
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def claimed(where: DataDir, port: int) -> Iterator[None]:
    """A data directory as a running daemon leaves it, with this process in its place."""
    lock = DaemonLock(where.lock)
    info = DaemonInfo(
        pid=os.getpid(),
        host="127.0.0.1",
        port=port,
        url=f"http://127.0.0.1:{port}",
        workers=[WorkerEntry(0, 12345)],
        started_at="2025-01-02T03:04:05Z",
        version=VERSION,
        durability="page",
        data_dir=str(where.root),
    )
    write_daemon_info(where.daemon_json, info)
    yield
    lock.release()


REFUSING = b'{"status":"not ready","error":"the log is read-only"}'


@pytest.mark.parametrize(
    ("ready", "shown"),
    [((200, b'{"status":"ready"}'), "yes"), ((503, REFUSING), "no: the log is read-only")],
)
def test_status_shows_where_the_daemon_is_and_its_counts(
    tmp_path: Path, ready: tuple[int, bytes], shown: str
) -> None:
    where = DataDir(tmp_path)
    where.prepare()
    shard = ShardMetrics(shard_path(where.run, 0))
    shard.rows_accepted.inc(10)
    shard.rows_stored.inc(7)
    shard.rows_buffered.set(3)
    supervisor = SupervisorMetrics(supervisor_path(where.run))
    supervisor.workers_wanted.set(2)
    supervisor.workers_up.set(1)
    with status_server(where.run, ready) as port, claimed(where, port):
        said = arc("status", "--data-dir", tmp_path)
    rows = {line[:18].strip(): line[18:].strip() for line in said.stdout.splitlines()}
    assert said.returncode == 0
    assert rows["state"].startswith("running since 2025-01-02T03:04:05Z (")
    assert rows["listening on"] == f"http://127.0.0.1:{port}"
    assert rows["data directory"] == str(tmp_path)
    assert (rows["durability"], rows["takes writes"]) == ("page", shown)
    assert rows["workers"] == "1 of 2 ready (processes 12345)"
    assert (rows["rows accepted"], rows["rows stored"], rows["rows buffered"]) == ("10", "7", "3")
    assert (rows["rows quarantined"], rows["rows lost"], rows["log bytes"]) == ("0", "0", "0")
    shard.close()
    supervisor.close()


def test_a_daemon_that_does_not_answer_has_status_4(tmp_path: Path) -> None:
    where = DataDir(tmp_path)
    where.prepare()
    with claimed(where, 1):
        said = arc("status", "--data-dir", tmp_path)
        assert said.returncode == 4
        assert said.stdout == f"Daemon of process {os.getpid()} on {tmp_path}: running.\n"
        [line] = said.stderr.splitlines()
        assert line.startswith("arc: http://127.0.0.1:1 does not answer: ")
        where.daemon_json.unlink()
        said = arc("status", "--data-dir", tmp_path)
        assert said.returncode == 4
        assert said.stdout == f"Daemon of process {os.getpid()} on {tmp_path}: starting.\n"


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"status":"not ready"}', b"\xff"])
def test_a_refusal_that_is_no_answer_of_this_program_has_status_4(
    tmp_path: Path, answer: bytes
) -> None:
    where = DataDir(tmp_path)
    where.prepare()
    with status_server(where.run, (502, answer)) as port, claimed(where, port):
        said = arc("status", "--data-dir", tmp_path)
    assert said.returncode == 4
    assert said.stderr == f"arc: http://127.0.0.1:{port} does not answer: /ready: status 502\n"


def test_importing_the_command_line_loads_nothing_that_only_the_daemon_needs() -> None:
    program = "import sys, arc.cli; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"numpy", "pyarrow", "aiohttp", "structlog", "rich.console", "prometheus_client"}
    assert heavy.isdisjoint(ended.stdout.split())
