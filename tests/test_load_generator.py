"""The load generator over real sockets: what it sends, how it takes the answers, its verdict."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ormsgpack
import pytest

from benchmarks.data import WORKLOADS
from benchmarks.load import usage
from benchmarks.load.cli import main, parse, spec_of
from benchmarks.load.client import ClientResult, LoadClient, Outcome, unsent
from benchmarks.load.fake_daemon import FakeDaemon
from benchmarks.load.fake_decode import decode
from benchmarks.load.formats import _digits
from benchmarks.load.generator import LoadResult, measure_ceiling
from benchmarks.load.oracle import verify
from benchmarks.load.payloads import Payloads, Times, body_columns, body_measurement
from benchmarks.load.spec import LoadSpec

FAKE = shlex.join([sys.executable, "-m", "benchmarks.load.fake_daemon"])
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def small(**changes: Any) -> LoadSpec:
    """A run of a fraction of a second."""
    fields: dict[str, Any] = {
        "rows": 100,
        "connections": 4,
        "seconds": 0.25,
        "warmup_s": 0.0,
        "bodies": 18,
    }
    return LoadSpec(**fields | changes)


def send(spec: LoadSpec, port: int, start_ns: int | None = None) -> ClientResult:
    """Run one generator process's load in this process."""
    client = LoadClient(spec, 0, ("127.0.0.1", port), [0] * 4)
    client.connect()
    return client.run(time.monotonic_ns() if start_ns is None else start_ns)


@contextlib.contextmanager
def fake_daemon(data_dir: Path, fault: str = "none") -> Iterator[FakeDaemon]:
    """A fake daemon in threads of this process."""
    daemon = FakeDaemon(data_dir, fault)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@contextlib.contextmanager
def scripted_server(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that runs `script` on each connection, in a thread of its own; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            script(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=one, args=(listener.accept()[0],)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


def read_request(connection: socket.socket) -> bytes:
    """Head and body of one request; b"" when the client is gone."""
    data = read_head(connection)
    length = int(data.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if data else 0
    head = data.partition(b"\r\n\r\n")[0]
    while data and len(data) < len(head) + 4 + length:
        data += connection.recv(1 << 20)
    return data


def read_head(connection: socket.socket) -> bytes:
    """What came until the head of a request was complete."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1 << 16)
        if not piece:
            return b""
        data += piece
    return data


def judge(spec: LoadSpec, result: ClientResult, data_dir: Path) -> dict[str, int]:
    """Faults of a run of one process."""
    return verify(spec, LoadResult(spec, 0, [result]).outcomes(), data_dir).faults()


# What is sent


@pytest.mark.parametrize("workload", ["a", "b", "c", "mixed"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_request_carries_its_own_times_in_a_body_that_decodes(
    workload: str, compression: str
) -> None:
    columns = {"a": 7, "b": 5, "c": 6, "mixed": 6}[workload]
    spec = small(workload=workload, columns=columns, compression=compression, rows=50)
    payloads, times = Payloads(spec, 0, "localhost:1"), Times(spec.rows)
    for request in (0, 1, 17, 1000):
        head, fixed, tail = payloads.pieces(request, times)
        body = bytes(fixed) + bytes(tail)
        _, table = decode(body)
        assert f"Content-Length: {len(body)}\r\n\r\n".encode() in bytes(head)
        unit_us = 1000 if workload == "a" else 1
        wanted = (spec.identity.offsets() + spec.identity.base(request)) * unit_us
        assert table.column("time").cast("int64").to_pylist() == wanted.tolist()


#: A format, a workload for it, its path, and what its head says besides.
FORMAT_CASES = [
    ("rows", "agent", "/api/v1/write/msgpack", "Content-Type: application/msgpack"),
    ("rows", "mixed", "/api/v1/write/msgpack", "Content-Type: application/msgpack"),
    ("rows", "a", "/api/v1/write/msgpack", "Content-Type: application/msgpack"),
    ("line-protocol", "agent", "/api/v1/write/line-protocol?precision=us", "Host: localhost:1"),
    ("line-protocol", "a", "/api/v1/write/line-protocol?precision=ms", "Host: localhost:1"),
    ("arrow", "c", "/api/v1/write/arrow", "x-arc-tags: host,region"),
    ("arrow", "a", "/api/v1/write/arrow", "x-arc-tags: host,region,env"),
    ("arrow", "mixed", "/api/v1/write/arrow", "x-arc-tags: host,path"),
    ("otlp-logs", "logs", "/v1/logs", "Content-Type: application/x-protobuf"),
    ("otlp-logs-json", "logs", "/v1/logs", "Content-Type: application/json"),
]


def read_back(pieces: list[bytes | memoryview]) -> tuple[str, str, Any]:
    """Path, measurement and table of what is sent."""
    head, *parts = (bytes(piece) for piece in pieces)
    first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    body = b"".join(parts)
    assert int(headers["Content-Length"]) == len(body)
    path = first.split(" ")[1]
    return path, *decode(body, path, headers)


@pytest.mark.parametrize(("format_", "workload", "path", "line"), FORMAT_CASES)
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_request_of_any_format_carries_its_own_times_and_values(
    format_: str, workload: str, path: str, line: str, compression: str
) -> None:
    columns = WORKLOADS[workload].num_columns
    spec = small(
        format=format_, workload=workload, columns=columns, compression=compression, rows=30
    )
    payloads, times = Payloads(spec, 0, "localhost:1"), Times(spec.rows)
    assert line in bytes(payloads.pieces(0, times)[0]).decode().split("\r\n")
    for request in (0, 1, 17, 1000):
        found_path, measurement, table = read_back(payloads.pieces(request, times))
        index = spec.order.body(request)
        assert found_path == path
        assert measurement == body_measurement(spec, 0, index)
        unit_us = 1000 if workload == "a" else 1
        wanted_us = (spec.identity.offsets() + spec.identity.base(request)) * unit_us
        assert table.column("time").cast("int64").to_pylist() == wanted_us.tolist()
        wanted = body_columns(spec, 0, index)
        for name in wanted.keys() - {"time"}:
            values = wanted[name]
            plain = values.tolist() if isinstance(values, np.ndarray) else values
            assert table.column(name).to_pylist() == plain, name


def test_digits_of_times_are_those_that_python_writes() -> None:
    times = np.array([10**15, 1_768_473_000_123_456, 9_999_999_999_999_999], dtype=np.int64)
    assert [bytes(row) for row in _digits(times, "us")] == [b"%d" % time for time in times]
    assert [bytes(row) for row in _digits(times // 1000 % 10**13, "ms")] == [
        b"%013d" % time for time in times // 1000
    ]


def test_a_head_names_database_and_compression() -> None:
    head = Payloads(small(compression="zstd", database="d1"), 0, "h:1").pieces(0, Times(100))[0]
    lines = bytes(head).decode().split("\r\n")
    assert lines[0] == "POST /api/v1/write/msgpack HTTP/1.1"
    assert {"Host: h:1", "x-arc-database: d1", "Content-Encoding: zstd"} <= set(lines)


def test_tags_are_declared_when_asked_for() -> None:
    for declared in (True, False):
        _, fixed, tail = Payloads(small(declare_tags=declared), 0, "h").pieces(0, Times(100))
        assert ("tags" in ormsgpack.unpackb(bytes(fixed) + bytes(tail))) is declared


@pytest.mark.parametrize("workload", ["a", "c"])
@pytest.mark.parametrize("rows", [1, 7, 1000, 3000])
def test_every_row_of_a_run_has_a_slot_of_its_own(workload: str, rows: int) -> None:
    identity = small(workload=workload, columns=7, rows=rows).identity
    requests = 32
    slots = np.arange(identity.num_slots(requests))
    numbers, places = identity.requests_and_rows(slots)
    assert len(np.unique(numbers * rows + places)) == len(slots) == requests * rows
    marks = np.zeros(len(slots), dtype=np.uint8)
    marks[numbers == 5] = 1
    assert identity.by_request(marks).sum(axis=1).nonzero()[0].tolist() == [5]


def test_times_of_a_window_interleave_and_the_next_window_follows() -> None:
    identity = small(rows=10).identity
    times = [identity.offsets() + identity.base(r) for r in range(32)]
    first, second = np.concatenate(times[:16]), np.concatenate(times[16:])
    assert len(np.unique(np.concatenate(times))) == 320
    assert first.max() < second.min()
    assert times[0][1] > times[15][0]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workload", ["a", "c"])
def test_one_request_and_many_agree_on_the_body(workload: str, processes: int) -> None:
    order = small(workload=workload, columns=7, processes=processes).order
    numbers = np.arange(500)
    bodies = order.body(numbers)
    assert bodies.tolist() == [order.body(int(number)) for number in numbers]
    assert bodies.max() < order.bodies
    assert np.array_equal(bodies // order.per_class, numbers % order.classes)


@pytest.mark.parametrize("sent", range(8))
def test_what_is_left_of_pieces_is_what_was_not_sent(sent: int) -> None:
    assert b"".join(unsent([b"ab", b"", memoryview(b"cde"), b"fg"], sent)) == b"abcdefg"[sent:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload": "z"}, "'z' is not one of"),
        ({"rows": 0}, "rows must be above 0"),
        ({"rate": -1.0}, "rate must be above 0"),
        ({"processes": 5}, "as many connections"),
        ({"columns": 2}, "at least 4 columns"),
        ({"format": "csv"}, "format 'csv' is not one of columnar, rows"),
        ({"format": "otlp-logs"}, "workload logs is for otlp-logs and otlp-logs-json"),
        ({"workload": "logs", "columns": 10}, "not 'logs' as 'columnar'"),
        ({"format": "otlp-logs", "workload": "logs", "columns": 11}, "logs has 10 columns"),
        ({"format": "line-protocol", "workload": "mixed"}, "line protocol cannot say"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


# What the answers mean


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_what_a_daemon_acknowledged_is_in_its_files(tmp_path: Path, compression: str) -> None:
    spec = small(compression=compression)
    with fake_daemon(tmp_path) as daemon:
        result = send(spec, daemon.port)
    assert result.statuses[204] == len(result.outcomes) == len(result.latency_ns) > 0
    assert set(result.outcomes) == {Outcome.ACKNOWLEDGED}
    assert judge(spec, result, tmp_path) == {}


@pytest.mark.parametrize(
    ("format_", "workload"),
    [
        ("rows", "agent"),
        ("line-protocol", "agent"),
        ("arrow", "c"),
        ("otlp-logs", "logs"),
        ("otlp-logs-json", "logs"),
    ],
)
def test_what_was_acknowledged_in_any_format_is_in_the_files(
    tmp_path: Path, format_: str, workload: str
) -> None:
    columns = WORKLOADS[workload].num_columns
    spec = small(format=format_, workload=workload, columns=columns, bodies=4, rows=50)
    with fake_daemon(tmp_path) as daemon:
        result = send(spec, daemon.port)
    assert set(result.statuses) == {200 if workload == "logs" else 204}
    assert set(result.outcomes) == {Outcome.ACKNOWLEDGED}
    assert judge(spec, result, tmp_path) == {}


def test_bodies_larger_than_the_sockets_buffers_arrive_whole(tmp_path: Path) -> None:
    spec = small(rows=120_000, bodies=1, connections=2, seconds=0.1)
    with fake_daemon(tmp_path) as daemon:
        result = send(spec, daemon.port)
    assert result.body_bytes > 12_000_000
    assert judge(spec, result, tmp_path) == {}


def test_overload_is_counted_as_rejected_and_its_wait_is_kept(tmp_path: Path) -> None:
    spec = small(connections=4, seconds=0.5)
    with fake_daemon(tmp_path, "overload") as daemon:
        result = send(spec, daemon.port)
    # Each connection rests for 1 s after its first 503, which is longer than the run.
    assert result.statuses[503] == result.outcomes.count(Outcome.REFUSED) == 4
    assert result.errors == ['503: {"error": "too busy"}']
    assert judge(spec, result, tmp_path) == {}


def test_a_connection_that_the_server_closes_is_made_anew(tmp_path: Path) -> None:
    spec = small(connections=1)
    with fake_daemon(tmp_path, "close") as daemon:
        result = send(spec, daemon.port)
    assert result.statuses[204] == len(result.outcomes) > 8
    assert result.failed == result.connects_failed == 0
    assert judge(spec, result, tmp_path) == {}


def test_a_request_without_a_reply_is_unknown_and_the_load_goes_on(tmp_path: Path) -> None:
    spec = small(connections=1)
    with fake_daemon(tmp_path, "no-reply") as daemon:
        result = send(spec, daemon.port)
    assert result.failed == result.outcomes.count(Outcome.UNKNOWN) == 1
    assert result.outcomes[-1] == Outcome.ACKNOWLEDGED
    assert judge(spec, result, tmp_path) == {}


def test_rows_of_an_error_that_are_stored_are_caught(tmp_path: Path) -> None:
    spec = small(connections=1)
    with fake_daemon(tmp_path, "refused-and-stored") as daemon:
        result = send(spec, daemon.port)
    assert result.statuses[503] == 1
    assert judge(spec, result, tmp_path) == {"refused_stored": 100}


def test_replies_in_pieces_are_put_together() -> None:
    def script(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while read_request(connection):
            for byte in NO_CONTENT:
                connection.send(bytes([byte]))

    with scripted_server(script) as port:
        result = send(small(connections=2), port)
    assert result.statuses[204] == len(result.outcomes) > 0
    assert result.failed == 0


def test_a_reply_that_comes_before_the_body_is_sent_ends_the_request_after_it() -> None:
    refusal = b'HTTP/1.1 413 Too Large\r\nContent-Length: 14\r\n\r\n{"error": "x"}'

    def script(connection: socket.socket) -> None:
        while head := read_head(connection):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            left = length - len(head.partition(b"\r\n\r\n")[2])
            connection.sendall(refusal)
            while left > 0:
                left -= len(connection.recv(min(left, 1 << 20)))

    with scripted_server(script) as port:
        result = send(small(rows=100_000, bodies=1, connections=1), port)
    assert result.statuses[413] == len(result.outcomes) > 1
    assert result.failed == 0
    assert set(result.outcomes) == {Outcome.REFUSED}


def test_a_server_that_never_answers_fails_the_request_in_time() -> None:
    with scripted_server(_drain) as port:
        result = send(small(connections=1, seconds=0.1, timeout_s=0.2), port)
    assert result.failed == len(result.outcomes) == 1
    assert result.errors == ["no answer before the end of the run"]


def _drain(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def test_a_reply_that_nobody_asked_for_costs_the_connection() -> None:
    def script(connection: socket.socket) -> None:
        while read_request(connection):
            connection.sendall(NO_CONTENT + NO_CONTENT)

    with scripted_server(script) as port:
        result = send(small(connections=1), port)
    assert result.failed == len(result.outcomes) > 1
    assert "nobody asked for" in result.errors[0]


def test_nobody_listening_is_told_and_not_fatal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = send(small(connections=1), port)
    assert result.connects_failed > 0
    assert len(result.outcomes) == 0
    assert "refused" in result.errors[0]


def test_an_open_loop_sends_at_its_rate_and_no_faster(tmp_path: Path) -> None:
    spec = small(rate=10_000.0, seconds=0.5)  # 100 requests/s
    with fake_daemon(tmp_path) as daemon:
        result = send(spec, daemon.port)
    assert len(result.outcomes) + result.overdue == 50
    assert judge(spec, result, tmp_path) == {}


def test_an_open_loop_counts_latency_from_when_a_request_was_due(tmp_path: Path) -> None:
    spec = small(rate=1000.0, seconds=5.2)  # 10 requests/s
    five_seconds_ago_ns = time.monotonic_ns() - 5_000_000_000
    with fake_daemon(tmp_path) as daemon:
        result = send(spec, daemon.port, five_seconds_ago_ns)
    assert len(result.outcomes) + result.overdue == 52
    assert max(result.latency_ns) > 4_500_000_000


def test_requests_that_were_due_and_never_sent_are_told() -> None:
    with scripted_server(_drain) as port:
        result = send(small(connections=1, rate=100_000.0, timeout_s=0.1), port)
    assert set(result.outcomes) == {Outcome.UNKNOWN}
    assert result.overdue > 0
    assert len(result.outcomes) + result.overdue == 250


# Figures


def test_figures_leave_out_what_came_before_and_after_the_measurement() -> None:
    second_ns = 1_000_000_000
    result = ClientResult()
    for done_s, latency_s in ((0.5, 0.1), (1.05, 0.1), (1.5, 0.2), (2.9, 0.3), (3.2, 0.4)):
        result.done_ns.append(round(done_s * second_ns))
        result.latency_ns.append(round(latency_s * second_ns))
    load = LoadResult(small(warmup_s=1.0, seconds=2.0, rows=10), 0, [result])
    assert load.rows_per_s() == 3 * 10 / 2
    assert load.latency_ms().tolist() == [200, 300, 400]  # sent, or due, within the measurement
    assert load.rows_by_second() == [10, 20, 10, 10]


def test_outcomes_of_processes_take_turns_and_the_shorter_ends_early() -> None:
    long, short = ClientResult(outcomes=bytearray([1, 2, 3])), ClientResult(outcomes=bytearray([1]))
    load = LoadResult(small(processes=2), 0, [long, short])
    assert load.outcomes().tolist() == [1, 1, 2, 0, 3, 0]


def test_a_sink_sees_all_that_the_ceiling_counts() -> None:
    result = measure_ceiling(small(processes=2), 0.2)
    assert result.acknowledged_rows() > 0
    assert result.total("failed") == 0


def test_a_tree_of_processes_has_memory_and_cpu_time_and_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
            assert usage.connections([os.getpid()], port) == {os.getpid(): 1}
    assert usage.tree(os.getpid())[0] == os.getpid()
    assert os.getpid() in usage.tree(os.getppid())
    assert usage.cpu_s([os.getpid()]) > 0
    assert usage.pss_bytes(os.getpid()) > 1_000_000
    assert usage.peak_rss_bytes(os.getpid()) > 1_000_000


def test_a_process_that_is_gone_counts_for_nothing() -> None:
    gone = 2**22 + 1  # above the largest pid of Linux
    assert usage.cpu_s([gone]) == 0
    assert usage.pss_bytes(gone) == 0
    assert usage.connections([gone], 1) == {gone: 0}


# The command line


def run_cli(*argv: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what --json wrote."""
    file = Path(argv[argv.index("--json") + 1])
    short = ["--rows", "100", "--seconds", "0.3", "--warmup", "0.1", "--bodies", "36"]
    code = main([*short, *argv])
    return code, json.loads(file.read_text())


@pytest.mark.parametrize(
    ("fault", "code", "problem"),
    [("none", 0, None), ("doubled", 1, "doubled: 100")],
)
def test_a_daemon_is_started_loaded_stopped_and_judged(
    tmp_path: Path, fault: str, code: int, problem: str | None
) -> None:
    got, report = run_cli(
        "--start", "--command", FAKE, "--data-dir", str(tmp_path / "data"), "--no-ceiling",
        "--json", str(tmp_path / "out.json"), "--", "--fault", fault,
    )  # fmt: skip
    assert got == code
    assert report["problems"] == ([problem] if problem else [])
    assert report["daemon"]["exit_code"] == 0
    assert report["daemon"]["cpu_s"] > 0
    assert report["daemon"]["usage"]["peak_pss_bytes"] > 1_000_000
    assert report["verdict"]["acknowledged"] == report["load"]["acknowledged_rows"] > 0
    assert report["ceiling"] is None


def test_a_running_daemon_is_found_and_left_running(tmp_path: Path) -> None:
    with fake_daemon(tmp_path) as daemon:
        code, report = run_cli(
            "--data-dir", str(tmp_path), "--ceiling-seconds", "0.2", "--processes", "2",
            "--json", str(tmp_path / "out.json"), "--workload", "a", "--compression", "gzip",
        )  # fmt: skip
        assert daemon.store.rows_buffered == 0
        socket.create_connection(("127.0.0.1", daemon.port)).close()
    assert code == 0
    assert report["spec"]["workload"] == "a"
    assert report["load"]["rows_per_s"] > 0
    assert set(report["load"]["latency_ms"]) == {"p50", "p95", "p99", "p99.9", "max"}
    assert report["ceiling"]["rows_per_s"] > 0
    assert report["environment"]["python"]


def test_no_daemon_is_an_error_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data-dir", str(tmp_path), "--no-ceiling"]) == 2
    assert "./start.sh native" in capsys.readouterr().err


def test_a_daemon_that_does_not_start_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--start", "--command", FAKE, "--data-dir", str(tmp_path), "--no-ceiling"]
    assert main([*argv, "--", "--nonsense"]) == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_flags_after_the_dashes_need_a_daemon_to_go_to() -> None:
    with pytest.raises(SystemExit):
        parse(["--", "--workers", "1"])
    assert parse(["--start", "--", "--workers", "1"])[1] == ["--workers", "1"]


def test_varied_strings_are_the_mixed_workload() -> None:
    spec = spec_of(parse(["--strings", "varied"])[0])
    assert (spec.workload, spec.columns, spec.declare_tags) == ("mixed", 6, True)
    with pytest.raises(SystemExit):
        parse(["--strings", "varied", "--workload", "a"])


@pytest.mark.parametrize(
    ("format_", "workload", "rows"),
    [("columnar", "c", 1000), ("rows", "agent", 1000), ("line-protocol", "agent", 1000),
     ("arrow", "c", 1000), ("otlp-logs", "logs", 10_000), ("otlp-logs-json", "logs", 10_000)],
)  # fmt: skip
def test_a_format_brings_the_workload_that_it_is_for(
    format_: str, workload: str, rows: int
) -> None:
    spec = spec_of(parse(["--format", format_])[0])
    assert (spec.format, spec.workload, spec.rows) == (format_, workload, rows)
    assert spec.order.bodies >= 8


def test_every_run_has_a_database_of_its_own() -> None:
    args = parse([])[0]
    assert spec_of(args).database != spec_of(args).database
