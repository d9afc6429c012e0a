"""What keeps a daemon from starting: one line each that names the setting, and nothing changed."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.running import ROOT, clean_environment

pytestmark = pytest.mark.e2e


def arc_serve(data_dir: Path, *flags: str, **settings: str) -> tuple[int, list[str]]:
    """Exit status and standard error of a daemon that does not get far."""
    said = subprocess.run(
        [sys.executable, "-m", "arc", "serve", "--data-dir", str(data_dir), *flags],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.stdout == ""
    return said.returncode, said.stderr.splitlines()


def test_a_second_daemon_on_a_data_directory_names_the_first(live: Daemon) -> None:
    before = live.where.daemon_json.read_bytes()
    status, lines = arc_serve(live.where.root, "--port", "0")
    assert status == 1
    assert lines == [
        f"arc: data_dir: {live.where.root} is in use by the daemon with process id "
        f"{live.process.pid}"
    ]
    assert live.where.daemon_json.read_bytes() == before


def test_the_port_of_another_daemon_is_refused(live: Daemon, tmp_path: Path) -> None:
    status, (line,) = arc_serve(tmp_path / "data", "--port", str(live.port))
    assert status == 1
    assert line.startswith(f"arc: port: port {live.port} on 127.0.0.1 is taken")


def test_the_port_of_another_program_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, (line,) = arc_serve(tmp_path / "data", port=str(port))
    assert status == 1
    assert line.startswith(f"arc: port: port {port} on 127.0.0.1 is taken")


def test_an_address_that_others_reach_is_refused(tmp_path: Path) -> None:
    status, (line,) = arc_serve(tmp_path / "data", "--host", "0.0.0.0")
    assert status == 2
    assert "host: got '0.0.0.0'" in line
    assert "loopback" in line


def test_every_bad_setting_has_a_line_that_names_it_and_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "arc.toml"
    file.write_text("port = 1\nporte = 2\ncompression = 'rar'\n")
    flags = ("--config", str(file), "--flush-age-s", "never", "--memory-bytes", "5 XB")
    status, lines = arc_serve(tmp_path / "data", *flags, workers="-1", flush_thread="2")
    assert status == 2
    assert sorted(line.split(":")[1].strip() for line in lines) == sorted(
        ["porte", "ARC_FLUSH_THREAD", "compression", "flush_age_s", "memory_bytes", "workers"]
    )
    assert not (tmp_path / "data").exists()


def test_a_flag_that_there_is_not_is_refused_by_its_name(tmp_path: Path) -> None:
    status, lines = arc_serve(tmp_path / "data", "--flush-agee", "1")
    assert status == 2
    (line,) = [line for line in lines if "--flush-agee" in line]
    assert "--flush-age-s" in line  # what was meant
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, (line,) = arc_serve(tmp_path / "file" / "data", "--port", "0")
    assert status == 1
    assert line.startswith("arc: data_dir: ")
    assert str(tmp_path / "file") in line
