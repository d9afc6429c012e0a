"""`arc cq`, as a user runs it, without a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from arc import continuous_cli
from ingest.continuous import Outcome, Window
from ingest.continuous_store import QueryStore

SQL = "SELECT avg(v) AS v FROM cpu WHERE time >= {start_time} AND time < {end_time}"
CREATE = ("create", "hourly", "--query", SQL, "--from", "cpu", "--to", "cpu_1h", "--every", "1h")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    QueryStore(tmp_path / ".arc").close()
    return tmp_path


def cq(root: Path, *arguments: str, text: str | None = None) -> Result:
    app = typer.Typer()
    continuous_cli.register(app)
    return CliRunner().invoke(app, ["cq", *arguments, "--data-dir", str(root)], input=text)


def test_a_query_is_created_shown_paused_and_deleted(root: Path) -> None:
    assert "no continuous queries" in cq(root, "list").stdout
    made = cq(root, *CREATE, "--description", "means")
    assert made.exit_code == 0
    assert made.stdout.startswith("Continuous query 1, hourly: its first window begins at 20")
    listed = cq(root, "list").stdout.splitlines()
    assert (
        " ".join(listed[0].split()) == "id name database from to interval active next window last"
    )
    assert listed[1].split()[:7] == ["1", "hourly", "default", "cpu", "cpu_1h", "1h", "yes"]
    assert cq(root, "pause", "hourly").exit_code == 0
    found = json.loads(cq(root, "list", "--json").stdout)
    assert (found[0]["spec"]["query"], found[0]["spec"]["is_active"]) == (SQL, False)
    assert cq(root, "resume", "1").exit_code == 0
    shown = cq(root, "show", "hourly").stdout
    for part in ("means", SQL, "yes", "It was not executed yet."):
        assert part in shown
    assert cq(root, "delete", "hourly").exit_code == 0
    assert json.loads(cq(root, "list", "--json").stdout) == []


def test_executions_are_shown(root: Path) -> None:
    cq(root, *CREATE)
    store = QueryStore(root / ".arc")
    store.note(Outcome(1, Window(0, 3_600_000_000), 1, rows=3, took_s=0.5), in_turn=False)
    store.note(Outcome(1, Window(0, 3_600_000_000), 2, error="no such"), in_turn=False)
    store.close()
    shown = cq(root, "show", "1").stdout.splitlines()
    span = "1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z"
    assert shown[-2].endswith(f"failed  {span}  0 rows in 0.000 s: no such")
    assert shown[-1].endswith(f"completed  {span}  3 rows in 0.500 s")
    runs = json.loads(cq(root, "show", "1", "--json").stdout)["executions"]
    assert [run["status"] for run in runs] == ["failed", "completed"]


def test_a_query_may_come_from_standard_input(root: Path) -> None:
    arguments = [part if part != SQL else "-" for part in CREATE]
    assert cq(root, *arguments, text=SQL).exit_code == 0
    assert json.loads(cq(root, "list", "--json").stdout)[0]["spec"]["query"] == SQL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "none"), "continuous query 'none' not found"),
        (("delete", "none"), "not found"),
        (("pause", "none"), "not found"),
        (("run", "none"), "not found"),
        ((*CREATE[:-1], "often"), "interval 'often'"),
        ((*CREATE, "--database", "no/such"), "no/such"),
    ],
)
def test_what_cannot_be_done_ends_with_a_line_and_status_2(
    root: Path, arguments: tuple[str, ...], said: str
) -> None:
    found = cq(root, *arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("arc: ")
    assert said in found.stderr


def test_it_is_the_daemon_that_executes(root: Path) -> None:
    cq(root, *CREATE)
    found = cq(root, "run", "hourly")
    assert found.exit_code == 2
    assert "no daemon is running" in found.stderr
