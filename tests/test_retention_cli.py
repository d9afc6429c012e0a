"""`arc delete` and `arc retention`, as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import deltalake
import pytest
import typer
from typer.testing import CliRunner, Result

from arc import delete, retention
from ingest.turn import my_turn
from tests.query.conftest import write
from tests.support.running import ROOT, clean_environment

DAY_S = 86_400
TODAY_S = int(time.time()) // DAY_S * DAY_S
DAYS = 11


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row a day at midnight, of the last ten days and today."""
    data = tmp_path_factory.mktemp("stored") / "data"
    times = [(TODAY_S - day * DAY_S) * 1_000_000 for day in range(DAYS)]
    columns = {"time": times, "day": list(range(DAYS)), "host": ["ab"[d % 2] for d in range(DAYS)]}
    write(data, {"m": "cpu", "columns": columns}, {"m": "mem", "columns": columns})
    return data


@pytest.fixture
def root(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "data"))


def arc(root: Path, *arguments: object) -> Result:
    """Run one of the commands on a data directory."""
    app = typer.Typer()
    delete.register(app)
    retention.register(app)
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, [*given, "--data-dir", str(root)])


def days(root: Path, measurement: str = "cpu") -> list[Any]:
    rows = deltalake.DeltaTable(str(root / "default" / measurement)).to_pyarrow_table()
    return sorted(rows["day"].to_pylist())


# --- delete ------------------------------------------------------------------------------------


def test_a_delete_counts_first_and_does_it_with_yes(root: Path) -> None:
    command = ("delete", "default", "cpu", "--where", "host = 'a'")
    said = arc(root, *command)
    assert said.exit_code == 0
    assert said.stdout.splitlines() == [
        "6 rows would be deleted from default.cpu.",
        "6 files would be removed, 0 rewritten.",
        "Nothing was changed; --yes deletes them.",
    ]
    assert days(root) == list(range(DAYS))
    said = arc(root, *command, "--yes")
    assert said.stdout.splitlines() == [
        "6 rows are deleted from default.cpu.",
        "6 files are removed, 0 rewritten.",
    ]
    assert days(root) == [1, 3, 5, 7, 9]
    assert days(root, "mem") == list(range(DAYS))


def test_a_delete_in_json(root: Path) -> None:
    said = arc(root, "delete", "default", "cpu", "--where", "1=1", "--yes", "--json")
    found = json.loads(said.stdout)
    assert (found["rows"], found["files_removed"], found["dry_run"]) == (DAYS, DAYS, False)
    assert len(found["paths"]) == DAYS
    assert days(root) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("default", "nope", "--where", "1=1"), "'nope' of database 'default' not found"),
        (("default", "cpu", "--where", "host LIKE 'a%'"), "wanted = or IN after host"),
        (("..", "cpu", "--where", "1=1"), "database '..'"),
    ],
)
def test_a_delete_that_cannot_be_done_gives_status_2(
    root: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = arc(root, "delete", *arguments, "--yes")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("arc: ")
    assert days(root) == list(range(DAYS))


def test_while_another_one_is_at_it_nothing_is_changed(root: Path) -> None:
    with my_turn(root / ".arc"):
        said = arc(root, "delete", "default", "cpu", "--where", "host = 'a'", "--yes")
    assert (said.exit_code, days(root)) == (2, list(range(DAYS)))
    assert "another delete or retention run is under way" in said.stderr


def test_a_folder_that_is_no_data_directory_is_left_alone(tmp_path: Path) -> None:
    for command in (("delete", "d", "m", "--where", "1=1"), ("retention", "list")):
        said = arc(tmp_path, *command)
        assert said.exit_code == 2
        assert "is no data directory" in said.stderr
    assert list(tmp_path.iterdir()) == []


# --- retention ---------------------------------------------------------------------------------


def test_policies_are_set_listed_changed_and_removed(root: Path) -> None:
    assert arc(root, "retention", "list").stdout == "There are no policies.\n"
    said = arc(root, "retention", "set", "default", "--keep", "90d", "--buffer", "1w")
    assert said.stdout == "Policy 1, default: rows are kept for 97d.\n"
    said = arc(root, "retention", "set", "default", "cpu", "--keep", "12h", "--inactive")
    assert said.stdout == "Policy 2, default.cpu: rows are kept for 12h.\n"
    said = arc(root, "retention", "set", "default", "--keep", "60d", "--name", "two months")
    assert said.stdout == "Policy 1, two months: rows are kept for 60d.\n"
    assert arc(root, "retention", "list").stdout.splitlines() == [
        "id  name         database  measurement  keep  buffer  active  last run",
        "1   two months   default                60d   0d      yes",
        "2   default.cpu  default   cpu          12h   0d      no",
    ]
    said = arc(root, "retention", "remove", "two months")
    assert said.stdout == "Policy 1, two months, is removed.\n"
    (left,) = json.loads(arc(root, "retention", "list", "--json").stdout)
    assert (left["id"], left["spec"]["keep_s"]) == (2, 12 * 3_600)
    assert arc(root, "retention", "remove", "2").exit_code == 0
    assert arc(root, "retention", "remove", "2").exit_code == 2


def test_a_name_that_is_kept_survives_a_change(root: Path) -> None:
    arc(root, "retention", "set", "default", "--keep", "90d", "--name", "mine")
    said = arc(root, "retention", "set", "default", "--keep", "2w")
    assert said.stdout == "Policy 1, mine: rows are kept for 14d.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("default", "--keep", "90"), "--keep '90': wanted a whole number and h, d or w"),
        (("default", "--keep", "1y"), "--keep '1y'"),
        (("default", "--keep", "0d"), "kept for 0 s"),
        (("default", "--keep", "9d", "--buffer", "-1d"), "--buffer '-1d'"),
        (("a b", "--keep", "9d"), "database 'a b'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    root: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = arc(root, "retention", "set", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert arc(root, "retention", "list").stdout == "There are no policies.\n"


def test_a_run_counts_first_and_does_it_with_yes(root: Path) -> None:
    arc(root, "retention", "set", "default", "--keep", "3d")
    arc(root, "retention", "set", "default", "mem", "--keep", "9d", "--inactive")
    cutoff = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(TODAY_S - 3 * DAY_S))
    assert arc(root, "retention", "run").stdout.splitlines() == [
        f"default: 7 rows of cpu from before {cutoff} would be deleted, 7 files removed, "
        "0 rewritten.",
        "Nothing was changed; --yes deletes them.",
    ]
    assert days(root) == list(range(DAYS))
    said = arc(root, "retention", "run", "--yes")
    assert (said.exit_code, days(root), len(days(root, "mem"))) == (0, [0, 1, 2, 3], DAYS)
    assert "are deleted" in said.stdout
    (outcome,) = json.loads(arc(root, "retention", "run", "2", "--yes", "--json").stdout)
    assert (outcome["policy_name"], outcome["rows"]) == ("default.mem", 1)
    assert "completed, 7 rows" in arc(root, "retention", "list").stdout


def test_a_run_that_meets_a_broken_table_gives_status_1(root: Path) -> None:
    arc(root, "retention", "set", "default", "--keep", "3d")
    (root / "default/cpu/_delta_log/00000000000000000000.json").write_bytes(b"{")
    said = arc(root, "retention", "run", "--yes")
    assert said.exit_code == 1
    assert "    failed: default.cpu: " in said.stdout
    assert len(days(root, "mem")) == 4


def test_a_run_of_what_is_not_there_is_refused(root: Path) -> None:
    assert arc(root, "retention", "run").stdout == "There are no active policies.\n"
    said = arc(root, "retention", "run", "nope", "--yes")
    assert (said.exit_code, "there is no policy 'nope'" in said.stderr) == (2, True)


@pytest.mark.e2e
def test_the_modules_of_the_commands_load_no_arrow() -> None:
    code = (
        "import sys, arc.delete, arc.retention; "
        "sys.exit(any(name in sys.modules for name in ('pyarrow', 'deltalake', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment())
    assert done.returncode == 0
