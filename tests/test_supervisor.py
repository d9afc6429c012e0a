"""The supervisor, over real processes: a real one, with workers that hold its contract."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from arc.banner import first_batch_command
from arc.child import describe_exit
from arc.launch import template_command
from arc.metrics import summary
from arc.runtime import DataDir, State, find_daemon
from arc.supervisor import RESTART_PAUSES_S
from tests.support.daemon import eventually
from tests.support.running import ROOT, Running, clean_environment, running


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor):
        select.select([descriptor], [], [])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon of two workers for the tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("up") / "data", workers="2") as daemon:
        yield daemon


def test_a_ready_daemon_says_where_it_is(up: Running) -> None:
    info = up.info()
    assert info.pid == up.process.pid
    assert info.url == f"http://127.0.0.1:{info.port}"
    assert [worker.shard for worker in info.workers] == [0, 1]
    assert info.data_dir == str(up.where.root)
    assert info.durability == "disk"
    assert find_daemon(up.where.root).info == info
    socket.create_connection((info.host, info.port)).close()


@pytest.mark.parametrize(
    ("durability", "promise"),
    [
        ("memory", "at most 5 s; a crash loses those"),
        ("page", "it survives a crash of the daemon, no power cut"),
        ("disk", "it survives a power cut"),
    ],
)
def test_the_banner_says_what_is_promised_and_what_to_try(
    tmp_path: Path, durability: str, promise: str
) -> None:
    with running(tmp_path, durability=durability) as daemon:
        assert daemon.count("starting", durability=durability, url=daemon.info().url) == 1
        info = daemon.info()
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0
        banner = daemon.banner()
    for said in (info.url, info.data_dir, f"{durability}: a 204", promise, "1GiB", "arc stop"):
        assert said in banner
    assert first_batch_command(info.url) in banner


def test_the_first_batch_of_the_banner_is_one_row() -> None:
    sender, _, _ = first_batch_command("http://127.0.0.1:8000").partition(" | ")
    body = subprocess.run(["sh", "-c", sender], check=True, capture_output=True).stdout
    assert msgspec.msgpack.decode(body) == {"m": "cpu", "columns": {"usage": [42]}}


def test_what_the_daemon_makes_is_for_its_user_only(up: Running) -> None:
    paths = [up.where.root, *up.where.root.rglob("*")]
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert set(modes.values()) == {0o700, 0o600}, modes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_has_every_worker_write_what_it_holds(
    tmp_path: Path, number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as nohup asks, and so is it by the daemon")
    with running(tmp_path, workers="2") as daemon:
        daemon.signal(number)
        assert daemon.end() == 0
        assert daemon.count("stopping", signal=number.name) == 1
        assert daemon.count("worker_stopped", end="status 0") == 2
    assert [(tmp_path / f"drained-{n}").read_text() for n in (0, 1)] == ["SIGTERM", "SIGTERM"]
    assert not daemon.where.daemon_json.exists()
    assert find_daemon(tmp_path).state is State.STOPPED


def test_a_killed_worker_is_replaced_at_once(tmp_path: Path) -> None:
    with running(tmp_path, workers="2") as daemon:
        before = daemon.info()
        killed = before.workers[1].pid
        os.kill(killed, signal.SIGKILL)
        daemon.wait_for("worker_died", shard=1, pid=killed, end="signal SIGKILL")
        daemon.wait_for("worker_restarting", shard=1, after_s=0.0)
        new_pid = daemon.wait_for("worker_ready", shard=1)["pid"]
        after = daemon.info()
        assert [worker.pid for worker in after.workers] == [before.workers[0].pid, new_pid]
        assert msgspec.structs.replace(after, workers=before.workers) == before
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0
        assert summary(daemon.where.run)["arc_worker_restarts_total"] == 1
        assert daemon.count("ready") == 1


def test_a_worker_that_keeps_dying_is_restarted_ever_later_on_a_port_that_stays_held(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as daemon:
        for pause_s in RESTART_PAUSES_S[:2]:
            os.kill(daemon.worker_pid(0), signal.SIGKILL)
            daemon.wait_for("worker_restarting", after_s=pause_s)
            pid = daemon.wait_for("worker_ready")["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.wait_for("worker_died", pid=pid)
        with pytest.raises(OSError, match="in use"):  # by no worker now
            socket.create_server(("127.0.0.1", daemon.info().port))
        daemon.signal(signal.SIGTERM)  # during the pause, which it ends
        assert daemon.end() == 0
    assert list(RESTART_PAUSES_S) == sorted(RESTART_PAUSES_S)
    assert RESTART_PAUSES_S[-1] == 10.0


def test_a_compactor_looks_again_and_again(tmp_path: Path) -> None:
    with running(tmp_path, compact_interval_s="0.05") as daemon:
        looks = "arc_compaction_runs_total"
        eventually(lambda: summary(daemon.where.run)[looks] >= 2, "it has looked twice")
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0
        assert daemon.count("compactor_died") == 0


def test_a_compactor_that_fails_is_told_and_started_again(tmp_path: Path) -> None:
    (tmp_path / ".arc/locks/compactor.lock").mkdir(parents=True)
    with running(tmp_path, compact_interval_s="0.05") as daemon:
        first = daemon.wait_for("compactor_died", end="status 1")["pid"]
        assert daemon.count("compaction_failed", process="compactor") == 1
        assert daemon.wait_for("compactor_died", end="status 1")["pid"] != first
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0


def test_a_worker_that_exits_by_itself_is_replaced_too(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        os.kill(daemon.worker_pid(0), signal.SIGTERM)
        daemon.wait_for("worker_died", end="status 0")
        daemon.wait_for("worker_ready")


def test_a_worker_that_refuses_to_start_ends_the_start(tmp_path: Path) -> None:
    with running(tmp_path, "fail", ready=False) as daemon:
        assert daemon.end() == 1
        assert daemon.count("worker_failed_to_start", end="status 7") >= 1
        assert daemon.banner() == ""
    assert not daemon.where.daemon_json.exists()


def test_a_command_that_does_not_exist_ends_the_start(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom arc.config import load\nfrom arc.launch import serve\n"
        "sys.exit(serve(load().config, ['/does/not/exist']))"
    )
    settings = {"port": "0", "workers": "1", "data_dir": str(tmp_path), "log_format": "json"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    [told] = [event for event in events if event["event"] == "template_failed_to_start"]
    assert "No such file" in told["error"]


def test_a_template_that_cannot_get_ready_ends_the_start_and_says_why(tmp_path: Path) -> None:
    settings = {"port": "0", "workers": "2", "data_dir": str(tmp_path), "log_format": "json"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_daemon", "unprepared"],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "RuntimeError: told not to get ready" in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("{")]
    events = [json.loads(line) for line in lines]
    [told] = [event for event in events if event["event"] == "template_failed_to_start"]
    assert told["end"] == "status 1"
    assert [event["event"] for event in events if "worker" in event["event"]] == []


def test_a_daemon_whose_template_never_gets_ready_can_be_stopped(tmp_path: Path) -> None:
    with running(tmp_path, "slow", ready=False) as daemon:
        daemon.wait_for("starting")
        eventually(lambda: template_of(daemon), "the template has been started")
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0
        assert daemon.count("template_failed_to_start") == 0


@pytest.mark.parametrize(
    ("durability", "status", "in_log", "lost"),
    [("memory", 1, 0, 10), ("page", 3, 10, 0), ("disk", 3, 10, 0)],
)
def test_a_worker_that_does_not_stop_in_time_is_killed(
    tmp_path: Path, durability: str, status: int, in_log: int, lost: int
) -> None:
    with running(
        tmp_path, "hang", "leak", durability=durability, shutdown_timeout_s="0.1"
    ) as daemon:
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == status
        assert daemon.count("drain_timed_out") == 1
        assert daemon.count("worker_stopped", end="signal SIGKILL") == 1
        rows = {"rows_accepted": 10, "rows_stored": 0, "rows_in_log": in_log, "rows_lost": lost}
        assert daemon.count("stopped", status=status, **rows) == 1


def test_a_worker_that_leaves_rows_in_its_log_is_no_failure_and_the_status_tells(
    tmp_path: Path,
) -> None:
    with running(tmp_path, "log") as daemon:
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 3
        assert daemon.count("worker_stopped", end="status 3", level="warning") == 1
        assert daemon.count("stopped", rows_in_log=10, rows_lost=0, status=3) == 1


def test_a_log_that_no_worker_has_read_to_its_end_is_left_for_the_next_start(
    tmp_path: Path,
) -> None:
    with running(tmp_path, "log", "replay", ready=False) as daemon:
        log = tmp_path / ".arc" / "shards" / "000" / "log"
        eventually(lambda: log.is_dir() and any(log.iterdir()), "the worker has a log")
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 3
        assert daemon.count("worker_ready") == 0
        assert daemon.banner() == ""


def test_a_worker_knows_whether_others_serve_while_it_replays(tmp_path: Path) -> None:
    with running(tmp_path, workers="2") as daemon:
        assert [(tmp_path / f"started-{n}").read_text() for n in (0, 1)] == ["no others"] * 2
        os.kill(daemon.worker_pid(1), signal.SIGKILL)
        daemon.wait_for("worker_restarting", shard=1)
        daemon.wait_for("worker_ready", shard=1)
        assert (tmp_path / "started-1").read_text() == "others serve"


def test_a_worker_that_is_alone_is_told_so_when_it_replaces_another(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        os.kill(daemon.worker_pid(0), signal.SIGKILL)
        daemon.wait_for("worker_restarting")
        daemon.wait_for("worker_ready")
        assert (tmp_path / "started-0").read_text() == "no others"


@pytest.mark.parametrize(("durability", "status"), [("memory", 1), ("disk", 3)])
def test_a_second_signal_ends_the_workers_at_once(
    tmp_path: Path, durability: str, status: int
) -> None:
    with running(tmp_path, "hang", durability=durability) as daemon:
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("stopping")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("killing_workers")
        assert daemon.end() == status
        assert daemon.count("drain_timed_out") == 0


def test_a_stop_that_is_under_way_can_be_seen(tmp_path: Path) -> None:
    with running(tmp_path, "hang") as daemon:
        assert find_daemon(tmp_path).state is State.RUNNING
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("stopping")
        seen = find_daemon(tmp_path)
        assert (seen.state, seen.pid) == (State.STOPPING, daemon.process.pid)
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 3


def test_workers_outlive_a_killed_supervisor_only_to_write_what_they_hold(
    tmp_path: Path,
) -> None:
    with running(tmp_path, workers="2") as daemon:
        pids = [worker.pid for worker in daemon.info().workers]
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        for pid in pids:
            wait_for_end(pid)
    assert [(tmp_path / f"drained-{n}").read_text() for n in (0, 1)] == ["alone", "alone"]
    assert daemon.where.daemon_json.exists()
    # The template ends, too.
    eventually(lambda: find_daemon(tmp_path).state is State.STOPPED, "nobody holds the lock")


def template_of(daemon: Running) -> psutil.Process | None:
    """The one child of the supervisor that has taken this name."""
    children = psutil.Process(daemon.process.pid).children()
    found = [child for child in children if child.name() == "arc-template"]
    return found[0] if found else None


def a_template(daemon: Running) -> psutil.Process:
    eventually(lambda: template_of(daemon), "there is a template")
    template = template_of(daemon)
    assert template is not None
    return template


def test_workers_are_children_of_the_supervisor_beside_one_template(up: Running) -> None:
    children = psutil.Process(up.process.pid).children(recursive=True)
    names = {child.pid: child.name() for child in children}
    workers = {worker.pid: f"arc-worker-{worker.shard}" for worker in up.info().workers}
    assert names == workers | {a_template(up).pid: "arc-template"}
    assert {child.ppid() for child in children} == {up.process.pid}


def test_each_process_has_a_session_of_its_own(up: Running) -> None:
    pids = [a_template(up).pid, *(worker.pid for worker in up.info().workers)]
    assert [os.getsid(pid) for pid in pids] == pids


def test_a_template_that_dies_is_replaced_and_no_worker_with_it(tmp_path: Path) -> None:
    with running(tmp_path, workers="2") as daemon:
        before, template = daemon.info(), a_template(daemon)
        template.kill()
        daemon.wait_for("template_died", pid=template.pid, end="signal SIGKILL")
        assert a_template(daemon).pid != template.pid
        assert daemon.info() == before
        os.kill(before.workers[0].pid, signal.SIGKILL)
        daemon.wait_for("worker_died", shard=0, end="signal SIGKILL")
        daemon.wait_for("worker_ready", shard=0)
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0
        assert summary(daemon.where.run)["arc_worker_restarts_total"] == 1


def test_a_template_and_a_worker_that_die_together_are_both_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        template = a_template(daemon)
        os.kill(daemon.worker_pid(0), signal.SIGKILL)
        template.kill()
        daemon.wait_for("worker_ready", shard=0)
        assert a_template(daemon).pid != template.pid
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0


def test_a_template_that_dies_before_it_has_forked_leaves_the_worker_to_the_next(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as daemon:
        template = a_template(daemon)
        template.suspend()
        os.kill(daemon.worker_pid(0), signal.SIGKILL)
        daemon.wait_for("worker_restarting", shard=0)
        template.kill()  # with a request that it has not read
        daemon.wait_for("template_died", pid=template.pid)
        daemon.wait_for("worker_ready", shard=0)
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0


def test_a_template_that_hangs_does_not_keep_the_daemon_from_its_end(tmp_path: Path) -> None:
    with running(tmp_path, shutdown_timeout_s="0.1") as daemon:
        a_template(daemon).suspend()
        daemon.signal(signal.SIGTERM)
        assert daemon.end() == 0
        assert daemon.count("drain_timed_out", shards=[]) == 1


def test_a_template_ends_with_a_killed_supervisor(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        template = a_template(daemon)
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        wait_for_end(template.pid)


def test_a_template_with_threads_forks_nothing_and_says_why(tmp_path: Path) -> None:
    settings = {"port": "0", "workers": "1", "data_dir": str(tmp_path), "log_format": "json"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_daemon", "threads"],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "BUG: threads were started before the fork: MainThread, early" in ended.stderr


@pytest.mark.parametrize(("durability", "in_log", "lost"), [("memory", 0, 10), ("page", 10, 0)])
def test_the_next_daemon_waits_for_the_workers_of_a_killed_one(
    tmp_path: Path, durability: str, in_log: int, lost: int
) -> None:
    with running(tmp_path, "leak", durability=durability) as daemon:
        [worker] = daemon.info().workers
        os.kill(worker.pid, signal.SIGSTOP)
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        assert find_daemon(tmp_path).state is State.ORPHANED
        with running(tmp_path, ready=False) as successor:
            try:
                successor.wait_for("waiting_for_workers_of_a_daemon_that_died")
            finally:
                os.kill(worker.pid, signal.SIGCONT)
            told = successor.wait_for("former_daemon_was_killed")
            assert (told["rows_in_log"], told["rows_lost"]) == (in_log, lost)
            successor.wait_for("ready")
            assert summary(successor.where.run)["arc_rows_lost_total"] == 0


def test_a_new_daemon_forgets_the_keys_that_workers_shared(tmp_path: Path) -> None:
    where = DataDir(tmp_path)
    where.prepare()
    left = [where.run / f"keys.db{end}" for end in ("", "-journal", "-wal", "-shm")]
    for path in left:
        path.write_bytes(b"of a former daemon")
    with running(tmp_path):
        assert not any(path.exists() for path in left)


def refused(data_dir: Path, **settings: str) -> str:
    """What `arc serve` says when it does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "arc", "serve", "--data-dir", str(data_dir)],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    return line


def test_a_second_daemon_on_a_data_directory_names_the_first(up: Running) -> None:
    assert refused(up.where.root, port="0") == (
        f"arc: data_dir: {up.where.root} is in use by the daemon with process id {up.process.pid}"
    )
    assert find_daemon(up.where.root).state is State.RUNNING


def test_a_port_of_another_program_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused(tmp_path, port=str(port))
    assert line == (
        f"arc: port: port {port} on 127.0.0.1 is taken by another program; choose another, or 0 "
        "for any free one"
    )


def test_a_port_of_another_daemon_stops_the_start(up: Running, tmp_path: Path) -> None:
    assert "is taken by another program" in refused(tmp_path, port=str(up.info().port))


def test_a_data_directory_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused(tmp_path / "file" / "data", port="0")
    assert line.startswith(f"arc: data_dir: cannot write in {tmp_path / 'file' / 'data'}: ")


def test_limits_beyond_the_memory_of_a_worker_are_cut_and_told(tmp_path: Path) -> None:
    with running(tmp_path, ready=False, memory_bytes="16MiB") as daemon:
        cut = daemon.wait_for("limit_cut_to_memory_of_a_worker", setting="max_body_bytes")
        assert (cut["asked"], cut["used"]) == (2**26, 2**23)
        daemon.wait_for("ready")


def test_a_worker_is_not_started_from_a_folder_that_happens_to_hold_an_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    module = ["-m", "arc.template", "arc.worker"]
    assert template_command() == [sys.executable, *module]
    monkeypatch.chdir(tmp_path)
    assert template_command() == [sys.executable, "-P", *module]


def test_the_supervisor_imports_nothing_heavy() -> None:
    program = "import sys, arc.launch, arc.cli; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(ended.stdout.split()).isdisjoint({"numpy", "pyarrow", "aiohttp", "numba"})


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "status 0"), (3, "status 3"), (-9, "signal SIGKILL"), (-99, "signal 99")],
)
def test_the_end_of_a_process_is_told_by_name(status: int, text: str) -> None:
    assert describe_exit(status) == text
