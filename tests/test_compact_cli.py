"""`arc compact`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import deltalake
import pytest

from arc.compactor import bar_line
from ingest.compaction import Progress
from ingest.paths import TableId, table_dir
from ingest.turn import my_compaction
from tests.support.daemon import serving
from tests.support.data_dir import CPU, MEM, DataDirectory

ROOT = Path(__file__).resolve().parent.parent
_PROGRAM = """
import sys, typer
from arc import compactor
app = typer.Typer()
compactor.register(app)
app()
"""


def compact(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, whose priority it lowers."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(DataDirectory(tmp_path / "data")) as made:
        made.start()
        for table in (CPU, MEM):
            made.flush(1, 1, table, hours=(0, 1))
            made.flush(2, 2, table, hours=(0, 1))
        yield made


def rows(data: DataDirectory, table: TableId) -> tuple[int, int]:
    """How many rows a table has, and in how many files."""
    found = deltalake.DeltaTable(data.root / table_dir(table))
    return found.to_pyarrow_table().num_rows, len(found.file_uris())


def test_it_says_what_became_of_what(data: DataDirectory) -> None:
    said = compact(data.root)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("8 files of ")
    assert " became 2 of " in said.stdout
    assert "(80 rows, " in said.stdout
    assert rows(data, CPU) == rows(data, MEM) == (40, 1)
    again = compact(data.root)
    assert (again.returncode, again.stdout) == (0, "Nothing to merge.\n")


def test_it_can_be_asked_for_one_measurement_and_for_json(data: DataDirectory) -> None:
    said = compact(data.root, "--database", "db", "--measurement", CPU.measurement, "--json")
    assert said.returncode == 0
    found = json.loads(said.stdout)
    assert (found["files_merged"], found["files_written"], found["rows"]) == (4, 1, 40)
    assert (rows(data, CPU), rows(data, MEM)) == ((40, 1), (40, 4))


def test_what_ended_less_than_so_long_ago_is_left_alone(data: DataDirectory) -> None:
    assert compact(data.root, "--older-than", 10**11).stdout == "Nothing to merge.\n"
    assert rows(data, CPU) == (40, 4)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--measurement", "none"], 2, "arc: there is no table *.none\n"),
        (["--database", "none"], 2, "arc: there is no table none.*\n"),
    ],
)
def test_a_table_that_is_not_there_is_bad_usage(
    data: DataDirectory, arguments: list[str], status: int, message: str
) -> None:
    said = compact(data.root, *arguments)
    assert (said.returncode, said.stderr) == (status, message)


def test_a_folder_that_is_no_data_directory_is_said_to_be_none(tmp_path: Path) -> None:
    said = compact(tmp_path)
    assert said.returncode == 1
    assert "is no data directory" in said.stderr


def test_a_second_compactor_ends_with_a_status_of_its_own(data: DataDirectory) -> None:
    with my_compaction(data.root / ".arc"):
        said = compact(data.root)
    assert said.returncode == 3
    assert said.stderr == f"arc: another compactor is at work on {data.root}\n"


def test_what_cannot_be_merged_is_said_and_the_rest_is_done(data: DataDirectory) -> None:
    (bad, *_) = sorted((data.root / table_dir(CPU)).glob("*/*/*/*/*.parquet"))
    content = bad.read_bytes()
    bad.write_bytes(content[:-20] + b"\0" * 20)
    said = compact(data.root)
    assert said.returncode == 1
    assert bad.name in said.stderr
    assert "1 times it could not be done" in said.stdout
    assert rows(data, MEM) == (40, 1)


def test_it_works_beside_a_daemon_that_takes_rows(tmp_path: Path) -> None:
    # The rows are of an hour long past, so that they may be merged at once.
    with serving(tmp_path / "data", "--flush-age-s", "0.1") as daemon:
        for number in range(5):
            _write(daemon.url, number)
            _until_stored(tmp_path / "data", number + 1)
        said = compact(tmp_path / "data")
        assert (said.returncode, said.stderr) == (0, "")
        _write(daemon.url, 5)
        _until_stored(tmp_path / "data", 6)
        daemon.stop()
    table = deltalake.DeltaTable(tmp_path / "data/default/cpu")
    assert table.to_pyarrow_table().num_rows == 6
    assert len(table.file_uris()) == 2


def _write(url: str, number: int) -> None:
    import urllib.request

    body = f"cpu,host=a v={number}.5 {1_700_000_000_000_000_000 + number}".encode()
    request = urllib.request.Request(f"{url}/api/v1/write/line-protocol", data=body, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 204


def _until_stored(root: Path, wanted: int) -> None:
    from tests.support.daemon import eventually

    def stored() -> bool:
        if not (root / "default/cpu/_delta_log").is_dir():
            return False
        found = deltalake.DeltaTable(root / "default/cpu").to_pyarrow_table()
        return int(found.num_rows) == wanted

    eventually(stored, f"{wanted} rows in the table")


def test_a_line_of_progress_names_the_table_and_shows_how_far_it_is() -> None:
    line = bar_line(Progress(CPU, 500_000, 1_000_000))
    assert line == f"{CPU.database}.{CPU.measurement} [############............]  50%  500.0 kB"
