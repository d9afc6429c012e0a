"""`arc verify` and `arc wal`, as a user runs them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from arc import inspect
from arc.runtime import DaemonLock, DataDir
from tests.support.data_dir import CPU, DataDirectory, sound_directory
from tests.support.running import ROOT, clean_environment


@pytest.fixture(scope="module")
def sound_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDirectory]:
    with closing(sound_directory(tmp_path_factory.mktemp("sound") / "data")) as made:
        yield made


@pytest.fixture
def sound(sound_once: DataDirectory, tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(sound_once.copy(tmp_path / "copy")) as made:
        yield made


def arc(*arguments: object) -> Result:
    """Run one of the two commands."""
    app = typer.Typer()
    inspect.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_sound_directory_is_said_to_be_sound(sound: DataDirectory) -> None:
    said = arc("verify", sound.root)
    assert said.exit_code == 0
    sizes = [path.stat().st_size for path in sound.root.glob("db/*/*/*/*/*/*.parquet")]
    assert said.stdout.splitlines() == [
        f"data directory         {sound.root}",
        "tables                 2",
        "files                  5",
        "rows                   50",
        f"bytes of files         {sum(sizes)}",
        "requests in the log    3",
        "not yet in all tables  2",
        "",
        "Nothing is wrong.",
    ]


def broken(data: DataDirectory) -> str:
    """Remove a file of a table; which."""
    (path,) = data.root.glob("db/cpu/*/*/*/*/s000-e000002-*.parquet")
    path.unlink()
    return path.relative_to(data.root).as_posix()


def test_errors_are_listed_and_give_status_1(sound: DataDirectory) -> None:
    path = broken(sound)
    sound.store.stage_note("s000-commit", b"half")
    said = arc("verify", "--quick", sound.root)
    assert said.exit_code == 1
    assert f"error  file_missing  {path}\n    the table has it, the disk has not\n" in said.stdout
    assert said.stdout.endswith("\n\n1 errors, 0 warnings, 1 notes.\n")
    assert "not yet in all tables" not in said.stdout


def test_what_is_no_error_gives_status_0(sound: DataDirectory) -> None:
    sound.store.stage_note("s000-commit", b"half")
    said = arc("verify", sound.root)
    assert said.exit_code == 0
    assert said.stdout.endswith("\n0 errors, 0 warnings, 1 notes.\n")


@pytest.mark.parametrize("command", ["verify", "wal"])
def test_what_is_no_data_directory_gives_status_2(tmp_path: Path, command: str) -> None:
    said = arc(command, tmp_path / "nothing")
    assert said.exit_code == 2
    assert said.stdout == ""
    assert said.stderr == (
        f"arc: {tmp_path}/nothing is no data directory: there is no folder .arc in it\n"
    )


def test_verify_prints_json(sound: DataDirectory) -> None:
    path = broken(sound)
    said = arc("verify", "--json", sound.root)
    assert said.exit_code == 1
    report = json.loads(said.stdout)
    assert report["rows"] == 50
    assert report["running"] is False
    assert report["findings"] == [
        {
            "severity": "error",
            "kind": "file_missing",
            "where": path,
            "what": "the table has it, the disk has not",
        }
    ]


def test_a_daemon_at_work_is_seen(sound: DataDirectory) -> None:
    where = DataDir(sound.root)
    where.prepare()
    lock = DaemonLock(where.lock)
    try:
        said = arc("verify", sound.root)
        assert json.loads(arc("verify", "--json", sound.root).stdout)["running"] is True
    finally:
        lock.release()
    assert said.exit_code == 0
    assert "\nA daemon is at work: what it took since the start of this is not judged.\n" in (
        said.stdout
    )


def test_wal_shows_a_line_for_each_file(sound: DataDirectory) -> None:
    folder = sound.log_dir()
    (folder / "spare-000000000009.log").write_bytes(bytes(8192))
    aside = folder.parent / "aside"
    aside.mkdir()
    (aside / "000000000001-e000001.log").write_bytes(b"damaged")
    said = arc("wal", sound.root)
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert lines[0].split() == [
        *("shard", "file", "state", "epoch", "first", "last", "requests", "bytes"),
        *("not", "in", "tables", "size", "age"),
    ]
    shard, name, state, epoch, first, last, requests, size, left, *_ = lines[1].split()
    assert (shard, name, state) == ("000", "000000000001.log", "live")
    assert (epoch, first, last, requests, left) == ("2", "1", "3", "3", "2")
    assert lines[2].split() == ["000", "spare-000000000009.log", "spare", "8192"]
    assert lines[3].split() == ["000", "000000000001-e000001.log", "aside", "7"]
    assert lines[4].startswith("warning: .arc/shards/000/aside/000000000001-e000001.log: a copy")
    assert lines[-1].startswith(
        f"3 requests of {size} bytes in 1 segments; tables do not have 2 of "
    )


def test_wal_does_not_look_up_what_tables_have_if_told_so(sound: DataDirectory) -> None:
    lines = arc("wal", "--quick", sound.root).stdout.splitlines()
    assert lines[1].split()[8] == "?"
    assert lines[-1].endswith(" bytes in 1 segments.")


def test_wal_prints_json(sound: DataDirectory) -> None:
    logs: list[dict[str, Any]] = json.loads(arc("wal", "--json", sound.root).stdout)
    assert [log["shard"] for log in logs] == [0, 1]
    assert logs[0]["app_id"] == sound.app_ids[0]
    assert logs[0]["epoch"] == 2
    (file,) = logs[0]["files"]
    assert (file["state"], file["first_seq"], file["last_seq"]) == ("live", 1, 3)
    assert (file["records"], file["uncommitted_records"]) == (3, 2)
    assert file["oldest_us"] == 1_699_999_200_000_000
    assert logs[1]["files"] == []


def test_wal_says_that_a_segment_is_damaged(sound: DataDirectory) -> None:
    with (sound.log_dir() / "000000000001.log").open("r+b") as file:
        file.seek(4096 + 50)
        file.write(b"\xff\xff")
    said = arc("wal", sound.root)
    assert said.exit_code == 0
    assert "live, damaged" in said.stdout
    assert "error: .arc/shards/000/log/000000000001.log: " in said.stdout


def test_an_empty_log_is_said_to_be_empty(tmp_path: Path) -> None:
    with closing(DataDirectory(tmp_path / "data")) as data:
        data.start()
        data.flush(1, 1, CPU)
        assert arc("wal", data.root).stdout == "The logs are empty.\n"


def test_without_an_argument_the_settings_say_where(
    sound: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARC_DATA_DIR", str(sound.root))
    assert arc("verify", "--quick").exit_code == 0
    assert arc("wal").exit_code == 0


def test_the_command_line_does_not_pay_for_what_the_commands_import() -> None:
    script = "import arc.inspect, sys; sys.exit(bool({'pyarrow', 'deltalake'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=clean_environment(), check=False
    )
    assert done.returncode == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_goes_to_a_terminal_only(
    sound: DataDirectory, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit):
        inspect.wal(str(sound.root))
    shown = stream.getvalue()
    assert bool(shown) is is_terminal
    if is_terminal:
        line, blank = shown.split("\r")[1], shown.split("\r")[2]
        assert line.startswith("log: ")
        assert blank == " " * len(line)
        assert shown.endswith("\r")
