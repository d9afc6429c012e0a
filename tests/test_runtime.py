"""Finding a daemon by what it leaves in its data directory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from arc.runtime import (
    DaemonInfo,
    DaemonLock,
    DataDir,
    DataDirError,
    LockHeldError,
    State,
    WorkerEntry,
    find_daemon,
    is_alive,
    is_locked,
    read_daemon_info,
    write_daemon_info,
)


@pytest.fixture
def where(tmp_path: Path) -> DataDir:
    found = DataDir(tmp_path / "data")
    found.prepare()
    return found


def info_of(pid: int) -> DaemonInfo:
    return DaemonInfo(
        pid=pid,
        host="127.0.0.1",
        port=8000,
        url="http://127.0.0.1:8000",
        workers=[WorkerEntry(0, 1)],
        started_at="2025-01-02T03:04:05Z",
        version="0",
        durability="memory",
        data_dir="/data",
    )


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_log_is_seen_by_its_segments(where: DataDir) -> None:
    assert not where.has_log()
    folder = where.state / "shards" / "007" / "log"
    folder.mkdir(parents=True)
    (folder / "spare-000000000001.log").touch()
    (folder / "keys-000000000001.bin").touch()
    assert not where.has_log()
    (folder / "000000000001.log").touch()
    assert where.has_log()


def test_forgetting_keys_leaves_everything_else(where: DataDir) -> None:
    where.forget_keys()
    others = [where.run / "daemon.json", where.run / "metrics-0.bin"]
    for path in (*others, where.run / "keys.db", where.run / "keys.db-wal"):
        path.touch()
    where.forget_keys()
    assert sorted(where.run.iterdir()) == sorted(others)


def test_folders_are_made_for_their_user_only(where: DataDir) -> None:
    for folder in (where.root, where.state, where.run):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    where.prepare()
    assert list(where.run.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match=r"cannot write in .*/file/data: Not a directory"):
        DataDir(tmp_path / "file" / "data").prepare()


def test_the_second_to_ask_for_the_lock_learns_who_has_it(where: DataDir) -> None:
    lock = DaemonLock(where.lock)
    with pytest.raises(LockHeldError, match=f"process {os.getpid()}") as caught:
        DaemonLock(where.lock)
    assert caught.value.pid == os.getpid()
    lock.release()
    DaemonLock(where.lock).release()


def test_looking_does_not_take_the_lock(where: DataDir) -> None:
    assert not is_locked(where.lock)
    lock = DaemonLock(where.lock)
    assert is_locked(where.lock)
    lock.release()
    assert not is_locked(where.lock)


def test_the_lock_lasts_as_long_as_a_process_that_inherited_it(where: DataDir) -> None:
    lock = DaemonLock(where.lock)
    program = "import sys; sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, pass_fds=[lock.fd]
    )
    lock.release()
    assert is_locked(where.lock)
    child.communicate()
    assert not is_locked(where.lock)


def test_the_states_of_a_daemon_from_start_to_end(where: DataDir) -> None:
    assert find_daemon(where.root).state is State.STOPPED
    lock = DaemonLock(where.lock)
    assert find_daemon(where.root).state is State.STARTING
    info = info_of(os.getpid())
    write_daemon_info(where.daemon_json, info)
    seen = find_daemon(where.root)
    assert (seen.state, seen.pid, seen.info) == (State.RUNNING, os.getpid(), info)
    lock.mark_stopping()
    assert find_daemon(where.root).state is State.STOPPING
    lock.release()
    assert find_daemon(where.root).state is State.STOPPED
    assert where.daemon_json.exists()


def test_a_lock_without_its_supervisor_is_held_by_orphans(where: DataDir) -> None:
    lock = DaemonLock(where.lock)
    pid = dead_pid()
    where.lock.write_text(f"{pid}\n")
    write_daemon_info(where.daemon_json, info_of(pid))
    seen = find_daemon(where.root)
    assert (seen.state, seen.pid) == (State.ORPHANED, pid)
    lock.release()


@pytest.mark.parametrize("content", ["", "text\n", "-\n"])
def test_a_lock_that_is_being_written_names_nobody(where: DataDir, content: str) -> None:
    lock = DaemonLock(where.lock)
    where.lock.write_text(content)
    with pytest.raises(LockHeldError, match="another process") as caught:
        DaemonLock(where.lock)
    assert caught.value.pid is None
    assert find_daemon(where.root).state is State.STARTING
    lock.release()


def test_the_file_of_a_former_daemon_is_not_believed(where: DataDir) -> None:
    lock = DaemonLock(where.lock)
    write_daemon_info(where.daemon_json, info_of(os.getpid() + 1))
    assert find_daemon(where.root).info is None
    where.daemon_json.write_text("{")
    assert read_daemon_info(where.daemon_json) is None
    assert find_daemon(where.root).info is None
    lock.release()


def test_a_reader_sees_the_old_file_or_the_new(where: DataDir) -> None:
    write_daemon_info(where.daemon_json, info_of(1))
    with where.daemon_json.open("rb") as old:
        write_daemon_info(where.daemon_json, info_of(2))
        assert b'"pid": 1,' in old.read()
    assert read_daemon_info(where.daemon_json) == info_of(2)
    assert list(where.run.iterdir()) == [where.daemon_json]


def test_whether_a_process_exists() -> None:
    assert is_alive(os.getpid())
    assert is_alive(1)
    assert not is_alive(dead_pid())
