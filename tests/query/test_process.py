"""The query process over its socket: answers, refusals, limits, and its end."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from arc.query.options import QueryOptions, QueryStart, command, parse_arguments
from tests.query.conftest import request, write
from tests.query.serving import Answer, QueryProcess, exchange, gateway, query_process
from tests.query.test_engine import ENDLESS
from tests.support.daemon import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def process(stored: Path) -> Iterator[QueryProcess]:
    with query_process(stored, max_rows=1_000, concurrency=2) as running:
        yield running


def test_a_command_is_read_back() -> None:
    options = QueryOptions(memory_bytes=1, threads=2, concurrency=3, timeout_s=0.5, max_rows=4)
    start = QueryStart(Path("/a b"), Path("/c/query.sock"), 5, options)
    assert parse_arguments(command(start)[3:]) == start


def test_rows_come_as_json(process: QueryProcess) -> None:
    answer = process.post("", "SELECT * FROM cpu WHERE n = 1")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found = answer.json
    assert found["execution_time_ms"] > 0
    assert found["timestamp"].endswith("Z")
    del found["execution_time_ms"], found["timestamp"]
    assert found == {
        "success": True,
        "columns": ["time", "n", "host"],
        "data": [["2026-09-21T14:13:21Z", 1, "b"]],
        "row_count": 1,
    }


def test_an_empty_answer_has_columns_and_no_rows(process: QueryProcess) -> None:
    found = process.post("", "SELECT * FROM cpu WHERE n > 100").json
    assert (found["columns"], found["data"], found["row_count"]) == (["time", "n", "host"], [], 0)


def test_the_header_names_the_database(process: QueryProcess) -> None:
    found = process.post("", "SELECT n FROM cpu", x_arc_database="prod").json
    assert found["data"] == [[100]]
    found = process.post("", "SELECT count(*) FROM default.cpu", x_arc_database="prod").json
    assert found["data"] == [[5]]


def test_rows_come_as_messagepack(process: QueryProcess) -> None:
    answer = process.post("/msgpack", "SELECT n, host FROM cpu ORDER BY n LIMIT 2")
    assert answer.headers["content-type"] == "application/msgpack"
    assert msgspec.msgpack.decode(answer.body)["data"] == [[0, "a"], [1, "b"]]


@pytest.mark.parametrize("rows", [0, 1, 200_000])
def test_rows_come_as_an_arrow_stream_without_a_limit(process: QueryProcess, rows: int) -> None:
    answer = process.post("/arrow", f"SELECT i AS n FROM range({rows}) t(i)")
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table.schema == pa.schema([("n", pa.int64())])
    assert table["n"].to_pylist() == list(range(rows))


@pytest.mark.parametrize(
    ("rows", "level"),
    [(5, "none"), (100_000, "low"), (1_000_000, "medium"), (10_000_000, "high")],
)
def test_an_estimate_warns_of_many_rows(process: QueryProcess, rows: int, level: str) -> None:
    found = process.post("/estimate", f"SELECT * FROM range({rows})").json
    assert found.pop("execution_time_ms") > 0
    message = found.pop("warning_message")
    assert (message is None) == (level == "none")
    assert found == {"success": True, "estimated_rows": rows, "warning_level": level}


def test_an_estimate_of_what_cannot_run_is_an_error(process: QueryProcess) -> None:
    answer = process.post("/estimate", "SELECT * FROM nope")
    assert answer.status == 400
    assert answer.json["warning_level"] == "error"
    assert "nope" in answer.json["error"]


def test_what_takes_too_long_to_count_is_estimated_from_the_logs(stored: Path) -> None:
    with query_process(stored, timeout_s=3.0) as process:
        found = process.post("/estimate", f"FROM ({ENDLESS}), cpu").json
    assert found["estimated_rows"] == 5
    assert "counting took too long" in found["warning_message"]


@pytest.mark.parametrize("path", ["", "/arrow", "/msgpack", "/estimate"])
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("DROP TABLE cpu", "DROP is not allowed"),
        ("FROM read_csv('/etc/passwd')", "read_csv"),
        ("SELECT * FROM nope", "no table 'nope'"),
        ("SELECT error('mine') FROM cpu", "mine"),
        (" ", "empty"),
    ],
)
def test_a_refusal_is_json_with_a_status(
    process: QueryProcess, path: str, sql: str, said: str
) -> None:
    answer = process.post(path, sql)
    if path == "/estimate" and "mine" in sql:
        return  # rows are counted without their values
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["success"] is False
    assert said in answer.json["error"]


def test_too_many_rows_are_refused_in_json_with_the_way_out(process: QueryProcess) -> None:
    for path in ("", "/msgpack"):
        answer = process.post(path, "SELECT * FROM range(1001)")
        assert answer.status == 413
        assert "1000 rows (ARC_QUERY_MAX_ROWS)" in answer.json["error"]
        assert process.post(path, "SELECT * FROM range(1000)").status == 200


@pytest.mark.parametrize("path", ["", "/arrow"])
def test_time_is_bounded(stored: Path, path: str) -> None:
    with query_process(stored, timeout_s=1.0) as process:
        answer = process.post(path, ENDLESS)
        assert answer.status == 422
        assert "ARC_QUERY_TIMEOUT_S" in answer.json["error"]
        assert process.post(path, "SELECT 1").status == 200


def test_memory_is_bounded(stored: Path) -> None:
    with query_process(stored, memory_bytes=32 * 2**20) as process:
        answer = process.post("", "SELECT list(i) FROM range(30000000) t(i)")
        assert answer.status == 422
        assert "ARC_QUERY_MEMORY_BYTES" in answer.json["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"SELECT 1", 400),
        (b"[]", 400),
        (b'{"query": "SELECT 1"}', 400),
        (b'{"sql": 1}', 400),
        (b'{"sql": "\xff"}', 400),
        (b'{"sql": "SELECT 1", "format": "json", "limit": 3}', 200),
        (b'{"sql": "SELECT 1 -- %s"}' % (b"x" * 2**20), 413),
    ],
)
def test_the_body_is_json_with_sql(process: QueryProcess, body: bytes, status: int) -> None:
    client = http.client.HTTPConnection("query")
    client.sock = process.connect()
    answer = exchange(client, "/api/v1/query", body, {})
    assert answer.status == status
    assert answer.json["success"] is (status == 200)


def test_a_compressed_body_is_read(process: QueryProcess) -> None:
    client = http.client.HTTPConnection("query")
    client.sock = process.connect()
    body = gzip.compress(b'{"sql": "SELECT 1"}')
    assert exchange(client, "/api/v1/query", body, {"Content-Encoding": "gzip"}).status == 200


def test_other_paths_and_methods_are_refused(process: QueryProcess) -> None:
    assert process.post("/nope", "SELECT 1").status == 405  # it may be a measurement, to GET
    assert process.post("/nope/nope", "SELECT 1").status == 404
    client = http.client.HTTPConnection("query")
    client.sock = process.connect()
    with contextlib.closing(client):
        client.request("GET", "/api/v1/query")
        response = client.getresponse()
        assert response.status == 405
        assert b"error" in response.read()


def ask_and_leave(process: QueryProcess, sql: str, path: str = "") -> socket.socket:
    """A request that is sent, and nothing read of its answer."""
    body = msgspec.json.encode({"sql": sql})
    connection = process.connect()
    head = f"POST /api/v1/query{path} HTTP/1.1\r\nHost: q\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_query_ends_with_its_client(stored: Path) -> None:
    with query_process(stored, concurrency=1) as process:
        for path in ("", "/arrow", "/estimate"):
            ask_and_leave(process, ENDLESS, path).close()
            assert process.post("", "SELECT 1").status == 200  # had to wait for the place


def test_a_client_that_does_not_read_its_stream_is_cut_off(stored: Path) -> None:
    sql = "SELECT * FROM range(1000000000)"
    with query_process(stored, concurrency=1, timeout_s=1.0) as process:
        connection = ask_and_leave(process, sql, "/arrow")
        assert process.post("", "SELECT 1").status == 200
        connection.close()


def test_an_error_after_the_first_rows_cuts_the_stream_off(process: QueryProcess) -> None:
    sql = "SELECT if(i < 999999, i, error('late')) FROM range(1000000) t(i)"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        process.post("/arrow", sql)


def test_queries_beyond_the_places_wait(stored: Path) -> None:
    with query_process(stored, concurrency=1, timeout_s=1.0) as process:
        first = ask_and_leave(process, ENDLESS)
        assert process.post("", "SELECT 1").status == 200
        assert b"422" in first.recv(100)
        first.close()


def test_only_its_user_may_connect(process: QueryProcess) -> None:
    assert process.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["SIGTERM", "end of standard input"])
def test_it_ends_when_it_is_told_or_alone(stored: Path, how: str) -> None:
    with query_process(stored) as process:
        assert process.post("", "SELECT 1").status == 200
        if how == "SIGTERM":
            process.process.send_signal(signal.SIGTERM)
        else:
            assert process.process.stdin is not None
            process.process.stdin.close()
            process.process.stdin = None
        status, logged = process.stop()
        assert (status, logged) == (0, "")
        assert not process.socket.exists()


def test_a_query_that_runs_at_the_end_is_answered_first(stored: Path) -> None:
    with query_process(stored, timeout_s=1.0) as process:
        with ask_and_leave(process, ENDLESS) as connection:
            wait_until_busy(process)
            process.process.send_signal(signal.SIGTERM)
            assert b"ARC_QUERY_TIMEOUT_S" in read_all(connection)
        assert process.stop()[0] == 0


def wait_until_busy(process: QueryProcess) -> None:
    """Wait until it works: it does nothing by itself."""
    before_s = process.cpu_s
    eventually(lambda: process.cpu_s > before_s + 0.1, "the query runs")


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65_536):
        found += piece
    return found


def test_a_successor_takes_the_place_of_a_predecessor(stored: Path, tmp_path: Path) -> None:
    at = tmp_path / "query.sock"
    with query_process(stored, at) as first:
        first.stop(kill=True)
        assert at.exists()
    with query_process(stored, at) as second, query_process(stored, at) as third:
        assert second.stop()[0] == 0
        assert third.post("", "SELECT 1").status == 200


def test_a_deep_data_directory_has_a_socket_as_well(tmp_path: Path) -> None:
    root = tmp_path / ("d" * 80) / ("e" * 80)
    write(root, request("cpu"))
    with query_process(root) as process, gateway(process.socket) as port:
        assert process.post("", "SELECT count(*) FROM cpu").json["data"] == [[3]]
        client = http.client.HTTPConnection("127.0.0.1", port)
        body = b'{"sql": "SELECT count(*) FROM cpu"}'
        assert exchange(client, "/api/v1/query", body, {}).json["data"] == [[3]]


# --- through a worker ----------------------------------------------------------------------------


def through(port: int, path: str, sql: str, **headers: str) -> Answer:
    client = http.client.HTTPConnection("127.0.0.1", port)
    return exchange(client, f"/api/v1/query{path}", msgspec.json.encode({"sql": sql}), headers)


@pytest.fixture(scope="module")
def port(process: QueryProcess) -> Iterator[int]:
    with gateway(process.socket) as number:
        yield number


def test_a_worker_passes_answers_on(port: int) -> None:
    assert through(port, "", "SELECT n FROM cpu", x_arc_database="prod").json["data"] == [[100]]
    found = msgspec.msgpack.decode(through(port, "/msgpack", "SELECT 1").body)
    assert found["data"] == [[1]]
    answer = through(port, "/arrow", "SELECT i FROM range(300000) t(i)")
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert pa.ipc.open_stream(answer.body).read_all().num_rows == 300_000
    assert through(port, "/estimate", "SELECT 1").json["estimated_rows"] == 1


def test_a_worker_passes_refusals_on(port: int) -> None:
    answer = through(port, "/arrow", "SELEC 1")
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert "syntax error" in answer.json["error"]
    assert through(port, "", "SELECT 1 -- " + "x" * 2**20).status == 413


def test_a_worker_cuts_off_a_stream_that_is_cut_off(port: int) -> None:
    sql = "SELECT if(i < 999999, i, error('late')) FROM range(1000000) t(i)"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        through(port, "/arrow", sql)


def test_a_worker_without_a_query_process_says_503(tmp_path: Path) -> None:
    with gateway(tmp_path / "none.sock") as port:
        answer = through(port, "", "SELECT 1")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "query process" in answer.json["error"]


def test_a_query_ends_with_the_client_of_the_worker(stored: Path) -> None:
    with query_process(stored, concurrency=1) as process, gateway(process.socket) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            body = msgspec.json.encode({"sql": ENDLESS})
            head = f"POST /api/v1/query HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_until_busy(process)
        assert through(port, "", "SELECT 1").status == 200
