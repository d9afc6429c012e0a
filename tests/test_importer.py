"""`arc import`: what it sends, how it goes on, and that every row is stored exactly once."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from arc.cli import build_app
from arc.import_job import Journal
from arc.importer import bar_line
from ingest import arrow_ipc
from ingest.limits import Limits
from ingest.testing import column_values
from tests.support import read_back
from tests.support.daemon import Daemon, eventually, serving
from tests.support.running import ROOT, clean_environment

NOW_US = 1_768_473_000_000_000
ROWS = 10


def run(*arguments: object) -> Result:
    """`arc import`, in this process."""
    environment = {name: None for name in os.environ if name.startswith("ARC_")}
    command = ["import", *map(str, arguments)]
    return CliRunner().invoke(build_app(), command, env=environment)


def csv_file(path: Path, rows: int = ROWS, start: int = 0) -> Path:
    """A file of `rows` rows."""
    lines = [f"{NOW_US + i},h{i % 3},{i}.5\n" for i in range(start, start + rows)]
    path.write_text("time,host,v\n" + "".join(lines))
    return path


class Request(NamedTuple):
    """One that a `Server` was sent."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self.headers["idempotency-key"]

    def values(self, name: str) -> list[Any]:
        """A column of its Arrow stream."""
        (batch,) = arrow_ipc.decode(self.body, NOW_US, Limits(), "m")
        return column_values(batch.columns[name])


#: What to do with a request: the status to answer, or None to close the connection.
Answer = Callable[[Request], int | None]


class Server(http.server.ThreadingHTTPServer):
    """Answers as a list says, then 204."""

    def __init__(self, answers: list[int | Answer | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        """Base of its URLs."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stored(self) -> dict[str, Request]:
        """The last request of each key."""
        return {request.key: request for request in self.requests}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.path, headers, body)
        self.server.requests.append(request)
        answer = self.server.answers.pop(0) if self.server.answers else 204
        status = answer(request) if callable(answer) else answer
        if status is None:
            self.close_connection = True
            return
        content = b"" if status == 204 else b'{"error": "so it is"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status in (409, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def answering(*answers: int | Answer | None) -> Iterator[Server]:
    """A server that answers so."""
    with Server(list(answers)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def journal(folder: Path) -> dict[str, Any]:
    """The one journal in a folder."""
    (path,) = folder.glob(".arc-import-*.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def change_journal(folder: Path, **values: Any) -> None:
    """Set values in the one journal of a folder."""
    (path,) = folder.glob(".arc-import-*.json")
    path.write_text(json.dumps(journal(folder) | values))


# ------------------------------------------------------------------------------ what it sends


def test_pieces_go_to_the_arrow_door_each_with_a_key_of_its_own(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering() as server:
        said = run(path, "--url", server.url, "--measurement", "größe/1", "--database", "db",
                   "--batch-rows", 4, "--tags", "host", "--time-unit", "us")  # fmt: skip
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"{path}: 10 rows into db.größe/1 in ")
    assert [request.values("v") for request in server.requests] == [
        [0.5, 1.5, 2.5, 3.5], [4.5, 5.5, 6.5, 7.5], [8.5, 9.5],
    ]  # fmt: skip
    assert len(server.stored()) == 3
    for request in server.requests:
        assert request.path == "/api/v1/write/arrow?measurement=gr%C3%B6%C3%9Fe%2F1"
        assert request.headers["x-arc-database"] == "db"
        assert request.headers["x-arc-time-unit"] == "us"
        assert request.key.startswith("import-")
        assert len(request.key) <= 64
        (batch,) = arrow_ipc.decode(request.body, NOW_US, Limits(), "m")
        assert batch.tags == {"host"}


def test_line_protocol_goes_to_its_door_with_its_precision(tmp_path: Path) -> None:
    path = tmp_path / "x.lp"
    path.write_text("a v=1 5\nb v=2 6\n")
    with answering() as server:
        assert run(path, "--url", server.url).exit_code == 0
        assert run(path, "--url", server.url, "--time-unit", "m", "--again").exit_code == 0
    assert [(request.path, request.body) for request in server.requests] == [
        ("/api/v1/write/line-protocol?precision=ns", b"a v=1 5\nb v=2 6\n"),
        ("/api/v1/write/line-protocol?precision=m", b"a v=1 5\nb v=2 6\n"),
    ]


def test_several_files_are_sent_one_after_another(tmp_path: Path) -> None:
    paths = [csv_file(tmp_path / f"{i}.csv", start=100 * i) for i in range(3)]
    with answering() as server:
        said = run(*paths, "--url", server.url, "--measurement", "m")
    assert [request.values("v")[0] for request in server.requests] == [0.5, 100.5, 200.5]
    assert len(said.stdout.splitlines()) == 3


# --------------------------------------------------------------------------- what may come back


def test_what_is_not_taken_now_is_sent_again_with_the_same_key(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering(503, None, 409, 204, 503) as server:
        said = run(path, "--url", server.url, "--measurement", "m", "--batch-rows", 5)
    assert said.exit_code == 0
    first, second = list(server.stored().values())
    assert server.requests[:4] == [first] * 4
    assert server.requests[4:] == [second] * 2


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_refusal_stops_with_the_rows_and_the_words_of_the_daemon(
    tmp_path: Path, status: int
) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering(204, status) as server:
        said = run(path, "--url", server.url, "--measurement", "m", "--batch-rows", 4)
        assert said.exit_code == 1
        assert said.stderr == (
            f"arc: {path}: rows 5 to 8: {status}: so it is (4 rows before are stored)\n"
        )
        assert journal(tmp_path)["pieces"] == 1
        assert journal(tmp_path)["sent_at_s"] == 0
        again = run(path, "--url", server.url, "--measurement", "m", "--batch-rows", 4)
    assert again.stdout.startswith(f"{path}: 6 rows (4 before) into default.m in ")
    assert [request.values("v")[0] for request in server.requests] == [0.5, 4.5, 4.5, 8.5]


def test_it_gives_up_after_a_time_and_can_go_on(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    options = ["--measurement", "m", "--batch-rows", 4, "--patience-s", 0]
    with answering(204, 503) as server:
        said = run(path, "--url", server.url, *options)
        assert said.exit_code == 4
        assert said.stderr == (
            f"arc: {path}: rows 5 to 8: 503: so it is; run the same command again to go on "
            "(4 rows before are stored)\n"
        )
    said = run(path, "--url", "http://127.0.0.1:1", *options)
    assert said.exit_code == 4
    assert f"{path}: rows 5 to 8: no answer: " in said.stderr
    with answering() as server:
        assert run(path, "--url", server.url, *options).exit_code == 0
    assert [request.values("v")[0] for request in server.requests] == [4.5, 8.5]


def test_a_connection_that_broke_leaves_the_piece_in_doubt_and_a_refusal_does_not(
    tmp_path: Path,
) -> None:
    path = csv_file(tmp_path / "x.csv")
    options = ["--measurement", "m", "--patience-s", 0]
    with answering(None, 503) as server:
        assert run(path, "--url", server.url, *options).exit_code == 4
        assert journal(tmp_path)["sent_at_s"] > 0
        change_journal(tmp_path, sent_at_s=0)
        assert run(path, "--url", server.url, *options).exit_code == 4
        assert journal(tmp_path)["sent_at_s"] == 0


# ----------------------------------------------------------------------------------- going on


def test_a_finished_import_is_not_sent_twice_unless_asked_for(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering() as server:
        options = ["--url", server.url, "--measurement", "m"]
        run(path, *options)
        moved = path.rename(tmp_path / "moved.csv")
        said = run(moved, *options)
        assert said.stdout == f"{moved}: imported before (10 rows); to send it again: --again\n"
        assert (said.exit_code, len(server.requests)) == (0, 1)
        assert run(moved, *options, "--again").exit_code == 0
        first, second = server.requests
        assert first.body == second.body
        assert first.key != second.key
        assert run(moved, "--url", server.url, "--measurement", "n").exit_code == 0
        assert server.requests[2].key not in (first.key, second.key)


def test_an_import_goes_on_only_with_the_options_that_it_was_begun_with(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering(204, 400) as server:
        options = ["--url", server.url, "--measurement", "m", "--batch-rows"]
        run(path, *options, 4)
        said = run(path, *options, 5)
        assert said.exit_code == 1
        assert "was begun with other options (" in said.stderr
        assert "batch_rows=4" in said.stderr
        assert len(server.requests) == 2
        assert run(path, *options, 5, "--again").exit_code == 0
    assert [request.values("v")[0] for request in server.requests[2:]] == [0.5, 5.5]


def test_a_piece_in_doubt_is_sent_again_while_the_daemon_knows_its_key(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering(204, None) as server:
        options = ["--url", server.url, "--measurement", "m", "--batch-rows", 4]
        assert run(path, *options, "--patience-s", 0).exit_code == 4
        assert run(path, *options).exit_code == 0
    assert server.requests[1] == server.requests[2]
    assert len(server.requests) == 4


@pytest.mark.parametrize("age_s", [590, -100])
def test_a_piece_in_doubt_whose_key_may_be_forgotten_is_for_the_user_to_decide(
    tmp_path: Path, age_s: float
) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering(204, None) as server:
        options = ["--url", server.url, "--measurement", "m", "--batch-rows", 4]
        run(path, *options, "--patience-s", 0)
        change_journal(tmp_path, sent_at_s=time.time() - age_s)
        said = run(path, *options)
        assert said.exit_code == 5
        assert "piece 1 was sent " in said.stderr
        assert "remembers keys for 600 s" in said.stderr
        assert len(server.requests) == 2
        saved = json.dumps(journal(tmp_path))
        assert run(path, *options, "--doubtful", "skip").exit_code == 0
        assert [r.values("v")[0] for r in server.requests[2:]] == [8.5]
        assert (journal(tmp_path)["rows"], journal(tmp_path)["finished"]) == (10, True)
        change_journal(tmp_path, **json.loads(saved))
        assert run(path, *options, "--doubtful", "send").exit_code == 0
    assert [r.values("v")[0] for r in server.requests[3:]] == [4.5, 8.5]
    assert server.requests[3].key != server.requests[1].key


def test_what_was_acknowledged_before_a_bad_row_is_not_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "x.lp"
    path.write_text('a v=1 1\na v=2 2\na t="open')
    with answering() as server:
        for _ in range(2):
            said = run(path, "--url", server.url, "--batch-rows", 1)
            assert said.exit_code == 1
            assert "line 3: a text in quotes that is not closed" in said.stderr
    assert [request.body for request in server.requests] == [b"a v=1 1\n"]


def test_journals_are_kept_where_it_is_said(tmp_path: Path) -> None:
    path, state = csv_file(tmp_path / "x.csv"), tmp_path / "state"
    state.mkdir()
    with answering() as server:
        run(path, "--url", server.url, "--measurement", "m", "--state", state)
    assert list(tmp_path.glob(".arc*")) == []
    assert journal(state)["finished"]
    with answering() as server:
        said = run(path, "--url", server.url, "--measurement", "m", "--state", tmp_path / "none")
    assert said.exit_code == 1
    assert "cannot write the journal" in said.stderr
    assert "name another folder for it with --state" in said.stderr
    assert server.requests == []


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering() as server:
        run(path, "--url", server.url, "--measurement", "m")
        next(tmp_path.glob(".arc-import-*.json")).write_text("{")
        said = run(path, "--url", server.url, "--measurement", "m")
    assert said.exit_code == 1
    assert "is no journal of an import" in said.stderr


# --------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ((), 2, "name where the rows go with --measurement"),
        (("--measurement", "m", "--format", "xml"), 2, "--format: found 'xml', wanted one of auto"),
        (("--measurement", "m", "--time-unit", "h"), 2, "--time-unit: found 'h', wanted one of s"),
        (("--measurement", "m", "--time-unit", "d"), 2, "--time-unit: found 'd'"),
        (("--measurement", "m", "--doubtful", "x"), 2, "--doubtful: found 'x'"),
        (("--measurement", "m", "--column-type", "x"), 2, "wanted NAME=TYPE"),
        (("--measurement", "m", "--column-type", "x=int"), 2, "--column-type x: found 'int'"),
        (("--measurement", "m", "--key-prefix", "x" * 21), 2, "wanted 1 to 20 ASCII characters"),
        (("--measurement", "m", "--key-prefix", "é"), 2, "wanted 1 to 20 ASCII characters"),
        (("--measurement", "m", "--url", "localhost"), 2, "wanted http://host:port"),
        (("--measurement", "m", "--database", "a/b"), 2, "a/b"),
        (("--measurement", "a\nb"), 2, "measurement"),
        (("--format", "line-protocol", "--measurement", "m"), 2, "names its measurements"),
        (("--measurement", "m", "--time-column", "t"), 1, "0 columns are named 't'"),
        (("--measurement", "m", "--format", "parquet"), 1, "arquet"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    path = csv_file(tmp_path / "x.csv")
    with answering() as server:
        url = () if "--url" in arguments else ("--url", server.url)
        said = run(path, *url, *arguments)
    assert said.exit_code == status
    assert text in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert server.requests == []


def test_without_a_daemon_or_a_file_it_says_so(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv")
    said = run(path, "--measurement", "m", "--data-dir", tmp_path / "none")
    assert said.exit_code == 3
    assert f"no daemon is running on {tmp_path / 'none'}" in said.stderr
    said = run(tmp_path / "gone.csv", "--measurement", "m", "--url", "http://127.0.0.1:1")
    assert said.exit_code == 1
    assert said.stderr == f"arc: {tmp_path / 'gone.csv'}: No such file or directory\n"


def test_a_line_of_progress_shows_share_rows_and_rate() -> None:
    assert bar_line("x.csv", 0.5, 3000, 2.0) == (
        "x.csv [############------------]  50%  3,000 rows  1,500 rows/s"
    )
    assert bar_line("x", 0.0, 0, 0.0) == f"x [{'-' * 24}]   0%  0 rows  0 rows/s"


def test_help_and_other_commands_do_not_wait_for_readers_of_files() -> None:
    code = (
        "import sys; from arc.cli import build_app; build_app(); "
        "sys.exit('pyarrow' in sys.modules or 'ingest.file_import' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_keys_fit_into_their_header() -> None:
    made = Journal("x", "0" * 32, _destination(), {}, "p" * 20, run=10**6, pieces=10**9)
    assert len(made.key()) <= 64


def _destination() -> Any:
    from arc.import_job import Destination

    return Destination("default", "m", "")


# --------------------------------------------------------------------- into the daemon itself


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that stores rows soon after they come."""
    data_dir = tmp_path_factory.mktemp("import") / "data"
    with serving(data_dir, "--workers", "1", "--flush-age-s", "0.05") as started:
        yield started


def stored(daemon: Daemon, measurement: str, rows: int) -> dict[str, read_back.Values]:
    """The columns of a measurement once it has so many rows; never more."""
    root = daemon.where.root

    def all_there() -> bool:
        try:
            found = len(read_back.columns(root, measurement, "default")["time"][1])
        except Exception:  # no table yet
            return False
        return found >= rows

    eventually(all_there, f"{rows} rows of {measurement} are stored")
    return read_back.columns(root, measurement, "default")


def source(rows: int) -> pa.Table:
    """A table of each stored type."""
    return pa.table(
        {
            "time": pa.array([NOW_US + i for i in range(rows)], pa.timestamp("us", tz="UTC")),
            "host": [f"h{i % 7}" for i in range(rows)],
            "i": list(range(rows)),
            "f": [None if i % 5 == 0 else i / 2 for i in range(rows)],
            "b": [i % 2 == 0 for i in range(rows)],
        }
    )


def write_source(path: Path, table: pa.Table) -> None:
    """The table in the format that the name of the file says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    elif path.suffix in (".arrow", ".arrows"):
        opened = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with opened(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        rows = zip(*(table[name].to_pylist() for name in ("host", "i", "f", "b")), strict=True)
        lines = [
            f"{path.stem},host={host} i={i}i,b={b}{'' if f is None else f',f={f}'} {NOW_US + i}\n"
            for host, i, f, b in rows
        ]
        path.write_text("".join(lines))


def check_stored(found: dict[str, read_back.Values], table: pa.Table) -> None:
    """Every value of `source` once, in the order of time."""
    assert found["time"] == read_back.times(*range(NOW_US, NOW_US + table.num_rows))
    assert found["host"] == read_back.texts(*table["host"].to_pylist())
    assert found["i"] == read_back.integers(*table["i"].to_pylist())
    assert found["f"] == read_back.floats(*table["f"].to_pylist())
    assert found["b"] == read_back.booleans(*table["b"].to_pylist())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow", "arrows", "lp"])
def test_each_format_is_imported_value_by_value(
    tmp_path: Path, daemon: Daemon, suffix: str
) -> None:
    table, path = source(100), tmp_path / f"of_{suffix}.{suffix}"
    write_source(path, table)
    options = ["--data-dir", daemon.where.root, "--batch-rows", 30]
    if suffix == "lp":
        options += ["--time-unit", "us"]
    else:
        options += ["--measurement", path.stem, "--tags", "host"]
    said = run(path, *options)
    assert (said.exit_code, said.stderr) == (0, "")
    check_stored(stored(daemon, path.stem, 100), table)
    assert read_back.tags(daemon.where.root, path.stem, "default") == {"host"}


def test_the_daemon_s_words_reach_the_user(tmp_path: Path, daemon: Daemon) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("time,v\nnoon,1\n")
    said = run(path, "--data-dir", daemon.where.root, "--measurement", "bad")
    assert said.exit_code == 1
    assert said.stderr == (
        f"arc: {path}: rows 1 to 1: 400: measurement 'bad': column 'time', row 0: found utf8, "
        "wanted an integer or a float\n"
    )


def test_killed_in_the_middle_and_started_again_every_row_is_stored_once(
    tmp_path: Path, daemon: Daemon
) -> None:
    table, path = source(1_000), tmp_path / "killed.parquet"
    write_source(path, table)
    reached, leave = threading.Event(), threading.Event()

    def forward(request: Request) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        connection.request("POST", request.path, request.body, request.headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def forward_and_wait(request: Request) -> int | None:
        assert forward(request) == 204
        reached.set()
        leave.wait(30)
        return None

    options = ["--measurement", "killed", "--batch-rows", "100", "--tags", "host"]
    with answering(forward, forward, forward, forward_and_wait) as proxy:
        command = [sys.executable, "-m", "arc", "import", str(path), "--url", proxy.url, *options]
        with subprocess.Popen(command, cwd=ROOT, env=clean_environment()) as process:
            assert reached.wait(30)
            process.send_signal(signal.SIGKILL)
        leave.set()
    state = journal(tmp_path)
    assert (state["pieces"], state["sent_at_s"] > 0, state["finished"]) == (3, True, False)
    said = run(path, "--data-dir", daemon.where.root, *options)
    assert said.exit_code == 0
    assert said.stdout.startswith(f"{path}: 700 rows (300 before) into default.killed in ")
    check_stored(stored(daemon, "killed", 1_000), table)
