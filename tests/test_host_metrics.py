"""The example that people copy: what it sends, and how it behaves when the daemon does not."""

from __future__ import annotations

import ast
import itertools
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ingest.columns import ColumnBatch, ColumnType
from ingest.limits import Limits
from ingest.msgpack_slow import decode_slow
from ingest.timestamps import TimeUnit

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "host_metrics.py"


class Request(NamedTuple):
    """What the stand-in was sent."""

    path: str
    headers: dict[str, str]
    body: bytes
    client: tuple[str, int]


class StandIn(ThreadingHTTPServer):
    """Answers like the daemon's write door: the given statuses first, then 204 for ever."""

    daemon_threads = True

    def __init__(self, port: int, statuses: tuple[int, ...]) -> None:
        super().__init__(("127.0.0.1", port), Door)
        self.statuses = list(statuses)
        self.requests: queue.Queue[Request] = queue.Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def taken(self) -> list[Request]:
        """Every request so far."""
        found = []
        while not self.requests.empty():
            found.append(self.requests.get())
        return found


class Door(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.put(Request(self.path, headers, body, self.client_address))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        reply = b"" if status == 204 else b'{"error": "said the stand-in"}'
        self.send_response(status)
        self.send_header("retry-after", "0")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def stand_in(port: int = 0, statuses: tuple[int, ...] = ()) -> Iterator[StandIn]:
    """Serve for the length of a block."""
    with StandIn(port, statuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def start(*arguments: str) -> subprocess.Popen[str]:
    """Run the example."""
    return subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


Batches = dict[str, list[ColumnBatch]]


def decoded(request: Request) -> Batches:
    """The batches of a request by measurement, as the daemon's plain decoder reads them.

    Rows with other columns are a batch of their own.
    """
    unit = TimeUnit(request.headers["x-arc-time-unit"])
    found: Batches = {}
    for batch in decode_slow(request.body, 0, Limits(), unit):
        found.setdefault(batch.measurement, []).append(batch)
    return found


def texts(batches: list[ColumnBatch], name: str) -> list[str]:
    """Values of a column of strings."""
    return [text for batch in batches for text in _texts(batch, name)]


def _texts(batch: ColumnBatch, name: str) -> list[str]:
    column = batch.columns[name]
    assert column.type is ColumnType.UTF8
    assert column.offsets is not None
    bounds = column.offsets.tolist()
    data = column.values.tobytes()
    return [data[a:b].decode() for a, b in itertools.pairwise(bounds)]


def test_one_tick_is_this_machines_own_counters() -> None:
    before_us = time.time_ns() // 1000
    with stand_in() as server:
        process = start("--url", server.url, "--once", "--interval", "0.01", "--database", "lab")
        stdout, stderr = process.communicate()
        [request] = server.taken()
    assert process.returncode == 0, stderr
    assert request.path == "/api/v1/write/msgpack"
    assert request.headers["x-arc-database"] == "lab"
    batches = decoded(request)
    assert {"cpu", "memory", "network", "load"} <= set(batches)
    assert set(batches) <= {"cpu", "memory", "disk_io", "disk_usage", "network", "load"}
    assert {name for name in batches for _ in texts(batches[name], "host")} == set(batches)
    for batch in itertools.chain(*batches.values()):
        assert before_us <= batch.time_us[0] <= time.time_ns() // 1000
        assert set(texts([batch], "host")) == {socket.gethostname()}
        assert batch.tags <= {"host", "device", "mountpoint"}
        assert "host" in batch.tags
    rows = sum(batch.num_rows for batch in itertools.chain(*batches.values()))
    assert f"{rows} rows sent, {rows} acknowledged" in stdout
    assert "data/lab/cpu/*/*/*/*/*.parquet" in stdout


def test_each_core_network_and_memory_has_a_row() -> None:
    with stand_in() as server:
        start("--url", server.url, "--once", "--interval", "0.01").communicate()
        [request] = server.taken()
    batches = decoded(request)
    cores = [f"cpu{core}" for core in range(psutil.cpu_count())]
    assert texts(batches["cpu"], "device") == ["all", *cores]
    assert batches["cpu"][0].columns["idle"].type is ColumnType.FLOAT64
    assert 0.0 <= batches["cpu"][0].columns["idle"].values[0] <= 100.0
    memory = {texts([batch], "device")[0]: batch for batch in batches["memory"]}
    assert set(memory) == {"ram", "swap"}
    assert memory["ram"].columns["total"].values[0] == psutil.virtual_memory().total
    assert set(texts(batches["network"], "device")) == set(psutil.net_io_counters(pernic=True))
    assert batches["load"][0].tags == {"host"}


def test_ticks_share_one_connection() -> None:
    with stand_in() as server:
        start("--url", server.url, "--count", "3", "--interval", "0.01").communicate()
        requests = server.taken()
    assert len(requests) == 3
    assert len({request.client for request in requests}) == 1
    times = [decoded(request)["load"][0].time_us[0] for request in requests]
    assert times == sorted(set(times))


def test_a_busy_daemon_gets_the_same_request_again() -> None:
    with stand_in(statuses=(503, 503)) as server:
        stdout, _ = start("--url", server.url, "--once", "--interval", "0.01").communicate()
        requests = server.taken()
    assert len(requests) == 3
    assert len({(request.body, request.headers["idempotency-key"]) for request in requests}) == 1
    assert "1 ticks" in stdout


def test_it_goes_on_until_the_daemon_is_there() -> None:
    with socket.socket() as holder:  # bound and not listening: whoever connects is refused
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        process = start("--url", f"http://127.0.0.1:{port}", "--count", "2", "--interval", "0.01")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
    assert "rows wait: " in lines[1]
    assert "refused" in lines[1]
    assert "./start.sh native" in lines[1]
    assert int(lines[2].split()[0]) > int(lines[1].split()[0])
    with stand_in(port) as server:
        stdout, stderr = process.communicate()
        ticks = {
            sum(batch.num_rows for batch in decoded(request)["load"]) for request in server.taken()
        }
    assert process.returncode == 0, stderr
    assert ticks <= {1, 2}
    assert re.search(r"^2 ticks: (\d+) rows sent, \1 acknowledged\.$", stdout, re.MULTILINE)


def test_a_refusal_ends_it_with_the_daemons_words() -> None:
    with stand_in(statuses=(401,)) as server:
        process = start("--url", server.url, "--interval", "0.01")
        stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert "refused with 401: said the stand-in" in stderr
    assert "Traceback" not in stderr
    assert ", 0 acknowledged." in stdout


def test_an_interrupt_while_the_daemon_is_away_says_what_was_not_acknowledged() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        process = start("--url", f"http://127.0.0.1:{holder.getsockname()[1]}")
        assert process.stdout is not None
        while "rows wait" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert ", 0 acknowledged." in stdout
    assert "the client was closed before" in stderr
    assert "Traceback" not in stderr


def test_an_interrupt_ends_it_with_the_totals() -> None:
    with stand_in() as server:
        process = start("--url", server.url, "--interval", "0.01")
        server.requests.get()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "acknowledged" in stdout
    assert "duckdb" in stdout


def test_of_this_repository_the_example_imports_the_client_alone() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    modules = {
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    ours = {name for name in modules if name.partition(".")[0] in ("arc", "ingest", "benchmarks")}
    assert ours == {"arc.client"}
