"""The programs beside the daemon, run as a user runs them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import files
from tests.support.daemon import Daemon
from tests.support.running import ROOT, clean_environment

pytestmark = pytest.mark.e2e

Stored = Callable[..., dict[str, list[Any]]]


def run(*arguments: str, **environment: str) -> str:
    """Standard output of a Python program of the repository, which must succeed."""
    said = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert said.returncode == 0, f"\n{said.stdout}{said.stderr}"
    return said.stdout


def test_the_example_sends_this_machine_s_counters(
    live: Daemon, database: str, stored: Stored
) -> None:
    flags = ("--once", "--interval", "0", "--url", live.url, "--database", database)
    said = run("examples/host_metrics.py", *flags)
    memory = stored("memory")
    assert memory["host"] == [socket.gethostname()] * 2
    assert memory["device"] == ["ram", "swap"]
    assert memory["total"] == [psutil.virtual_memory().total, psutil.swap_memory().total]
    cpu = stored("cpu")
    assert cpu["device"] == ["all", *(f"cpu{n}" for n in range(psutil.cpu_count() or 0))]
    assert len(set(cpu["time"])) == 1
    root = live.where.root / database
    names = {folder.name for folder in root.iterdir()}
    assert names >= {"cpu", "memory", "disk_usage", "load"}
    ((rows,),) = files.query(
        f"SELECT count(*) FROM read_parquet('{root}/*/{files.HOURS}', union_by_name=true)"
    )
    assert f"{rows} rows sent, {rows} acknowledged" in said


def load(report: Path, *flags: str, **environment: str) -> dict[str, Any]:
    """Run the load generator, without its ceiling; its verdict on the files."""
    common = ("--warmup", "0", "--no-ceiling", "--json", str(report))
    run("scripts/benchmark_ingestion.py", *common, *flags, **environment)
    verdict: dict[str, Any] = json.loads(report.read_text())["verdict"]
    return verdict


def check(verdict: dict[str, Any]) -> None:
    """Everything that was acknowledged is there, once, and nothing else."""
    assert verdict["acknowledged"] > 0
    assert verdict["stored"] >= verdict["acknowledged"]
    assert verdict["missing"] == verdict["doubled"] == verdict["ghost"] == 0
    assert verdict["torn_requests"] == verdict["wrong_values"] == 0


def test_the_load_generator_starts_a_daemon_and_finds_every_acknowledged_row(
    tmp_path: Path,
) -> None:
    check(load(tmp_path / "report.json", "--start", "--seconds", "1", "--", "--workers", "1"))


def test_the_load_generator_finds_the_daemon_that_runs_whatever_the_proxy(
    live: Daemon, tmp_path: Path
) -> None:
    flags = ("--data-dir", str(live.where.root), "--seconds", "0.5", "--rate", "200_000")
    # Port 9 takes nothing. A loopback address needs no proxy.
    check(load(tmp_path / "report.json", *flags, http_proxy="http://127.0.0.1:9"))
