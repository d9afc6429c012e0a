"""`arc query` and `arc tables`: over HTTP and on files, in every format, and when it fails."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from arc.cli import build_app
from tests.e2e.client import Client
from tests.query.conftest import request, write
from tests.query.serving import gateway, query_process
from tests.support.daemon import eventually, serving
from tests.support.running import ROOT, clean_environment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("cli") / "data"
    write(where, request("cpu", host=["a", "b", None]), request("cpu", 7_200, 1))
    write(where, request("mem", 0, 1), database="prod")
    return where


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    """Of a worker's routes for queries."""
    with query_process(root) as process, gateway(process.socket) as port:
        yield f"http://127.0.0.1:{port}"


def arc(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments], input=stdin)


def test_rows_are_printed_as_a_table(url: str) -> None:
    result = arc("query", "SELECT n, host FROM cpu ORDER BY n LIMIT 2", "--url", url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["n  host", "-  ----", "0  a", "1  b"]


def test_the_same_rows_come_from_the_files_when_no_daemon_runs(url: str, root: Path) -> None:
    sql = "SELECT * FROM cpu ORDER BY time"
    asked = arc("query", sql, "--url", url)
    read = arc("query", sql, "--data-dir", root)
    assert (read.exit_code, read.stdout) == (0, asked.stdout)
    assert "no daemon is running" in read.stderr
    assert "wait in its log" in read.stderr


def test_a_database_is_named_and_sql_may_come_from_standard_input(url: str) -> None:
    options = ("--database", "prod", "--url", url, "--format", "csv")
    result = arc("query", "-", *options, stdin="SELECT n FROM mem")
    assert result.stdout == "n\n0\n" or result.stdout == "n\r\n0\r\n"


@pytest.mark.parametrize("form", ["csv", "json", "arrow", "parquet"])
@pytest.mark.parametrize("how", ["flag", "suffix"])
def test_rows_are_written_to_a_file_that_replaces_the_one_before(
    url: str, tmp_path: Path, form: str, how: str
) -> None:
    output = tmp_path / ("rows" if how == "flag" else f"rows.{form}")
    output.write_text("of before")
    flags = ("--format", form) if how == "flag" else ()
    sql = "SELECT n FROM cpu ORDER BY n"
    result = arc("query", sql, "--url", url, "--output", output, *flags)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("4 rows, ")
    assert values_in(output.read_bytes(), form) == [0, 1, 2, 7_200]
    assert list(tmp_path.iterdir()) == [output]


def values_in(body: bytes, form: str) -> list[int]:
    if form == "csv":
        return [int(line) for line in body.split()[1:]]
    if form == "json":
        return [row["n"] for row in msgspec.json.decode(body)]
    if form == "arrow":
        return list(pa.ipc.open_stream(body).read_all()["n"].to_pylist())
    return list(pq.read_table(io.BytesIO(body))["n"].to_pylist())


@pytest.mark.parametrize("where", ["--url", "--data-dir"])
@pytest.mark.parametrize(
    ("sql", "said"),
    [("SELEC 1", "syntax error"), ("DROP TABLE cpu", "DROP"), ("SELECT * FROM no", "table 'no'")],
)
def test_a_refusal_is_one_line_and_writes_no_file(
    url: str, root: Path, tmp_path: Path, where: str, sql: str, said: str
) -> None:
    output = tmp_path / "rows.csv"
    place = url if where == "--url" else root
    result = arc("query", sql, where, place, "--output", output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_that_break_off_leave_the_file_of_before(url: str, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    output.write_text("of before")
    sql = "SELECT if(i < 999999, i, error('late')) AS n FROM range(1000000) t(i)"
    result = arc("query", sql, "--url", url, "--output", output)
    assert result.exit_code in (1, 4)
    assert result.stderr.count("\n") == 1
    assert output.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--format", "xml"), 2, "wanted one of table, csv"),
        (("--url", "localhost:8000"), 2, "wanted http://host:port"),
        (("--url", "http://127.0.0.1:1"), 4, "does not answer"),
        (("--data-dir", "/nowhere/at/all"), 3, "no data directory"),
    ],
)
def test_what_is_wrong_with_the_call_is_told(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    result = arc("query", "SELECT 1", *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


def test_a_folder_that_is_not_there_is_the_users_to_mend(url: str, tmp_path: Path) -> None:
    result = arc("query", "SELECT 1", "--url", url, "--output", tmp_path / "no" / "rows.csv")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


@pytest.mark.e2e
def test_a_reader_that_has_seen_enough_ends_the_query(root: Path) -> None:
    sql = "SELECT * FROM range(100000000000)"
    with subprocess.Popen(
        [sys.executable, "-m", "arc", "query", sql, "--data-dir", str(root), "--format", "csv"],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"range\r\n"
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0
    assert said.count(b"\n") == 1  # that no daemon runs


def test_the_tables_are_listed_from_their_logs(root: Path) -> None:
    result = arc("tables", "--data-dir", root)
    assert result.exit_code == 0
    head, cpu, mem, blank, total = result.stdout.splitlines()
    assert head.split() == [
        *("database", "measurement", "files", "size", "rows", "from", "to", "files/hour")
    ]
    assert cpu.split()[:3] == ["default", "cpu", "2"]
    assert "4  2026-09-21 14:13:20  2026-09-21 16:13:20         1.0" in cpu
    assert mem.split()[:3] == ["prod", "mem", "1"]
    assert blank == ""
    assert total.startswith("2 tables, 3 files, ")
    assert total.endswith(", 5 rows.")


def test_the_tables_of_a_database_are_listed_as_json(root: Path) -> None:
    result = arc("tables", "--database", "prod", "--json", "--data-dir", root)
    [entry] = msgspec.json.decode(result.stdout)
    assert entry.pop("size_bytes") > 0
    assert entry.pop("total_size_mb") > 0
    assert entry == {
        "database": "prod",
        "measurement": "mem",
        "file_count": 1,
        "storage_path": "prod/mem",
        "rows": 1,
        "min_time": "2026-09-21T14:13:20Z",
        "max_time": "2026-09-21T14:13:20Z",
        "files_per_hour": 1.0,
    }
    none = arc("tables", "--database", "nope", "--data-dir", root)
    assert none.stdout == "There are no tables.\n"


@pytest.mark.e2e
def test_a_running_daemon_is_asked(tmp_path: Path) -> None:
    flags = ("--workers", "1", "--flush-age-s", "0.05", "--query-concurrency", "2")
    with serving(tmp_path / "data", *flags, "--query-nice", "3") as daemon:
        with Client(daemon.port) as client:
            client.post(b"cpu,host=a v=1 1790000000000000000", "/write?db=default")
            client.wait_until_stored()
            where = ("--data-dir", tmp_path / "data")
            asked = ("query", "SELECT host, v FROM cpu", *where, "--format", "csv")
            eventually(lambda: arc(*asked).exit_code == 0, "the query process answers")
            result = arc(*asked)
            assert (result.stdout.split(), result.stderr) == (["host,v", "a,1.0"], "")
            over_http = msgspec.json.decode(arc("tables", "--json", *where).stdout)
            assert over_http == client.get("/api/v1/measurements").json["measurements"]
            assert (over_http[0]["rows"], over_http[0]["file_count"]) == (1, 1)
            assert client.metrics()["arc_query_process_starts_total"] == 1
        children = psutil.Process(daemon.process.pid).children()
        [query] = [child for child in children if "arc.query" in child.cmdline()]
        assert query.nice() == min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)
