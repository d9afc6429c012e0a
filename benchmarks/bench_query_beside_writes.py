"""Whether writes notice queries: the latency of writes, alone and with queries running beside.

A daemon of its own in a temporary directory, with rows in it. Windows without queries and with
them alternate. In each, bodies of 1 000 rows fall due at a fixed rate, on connections of their
own so that a late answer holds up no other request, and each is timed from when it was due until
its 204. A query groups all stored rows by host, which takes every core that it gets; it is asked
again as soon as it is answered.

    python -m benchmarks.bench_query_beside_writes [--queries 4] [-- --query-nice 0 …]

Flags after `--` go to `arc serve`. Every answer is checked: writes must be 204, and the counts of
queries must be those of the rows that are stored.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import multiprocessing
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from arc.runtime import DaemonInfo, find_daemon
from benchmarks.data import workload_body

PATH = "/api/v1/write/msgpack"
BODY_ROWS, STORED_BODY_ROWS = 1_000, 100_000
START_TIMEOUT_S = 60.0
CONNECTIONS = 16

SQL = "SELECT host, count(*), avg(usage_user), max(usage_system) FROM stored.cpu GROUP BY host"


class Connections:
    """A connection for each thread."""

    def __init__(self, info: DaemonInfo) -> None:
        self.info = info
        self._local = threading.local()

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self.info.host, self.info.port, timeout=60)
            self._local.connection = connection
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def main(arguments: list[str]) -> int:
    """Run the windows and print what they were like."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = _options(arguments[:split])
    with (
        tempfile.TemporaryDirectory() as folder,
        daemon_with(folder, arguments[split + 1 :]) as info,
    ):
        connections = Connections(info)
        rows = store(connections, options.rows)
        print(f"{rows} rows are stored, {options.rate} writes/s of {BODY_ROWS} rows are due")
        found: dict[int, list[np.ndarray]] = {0: [], options.queries: []}
        for _ in range(options.rounds):
            for queries, windows in found.items():
                windows.append(_window(connections, options, queries, rows))
    for queries, windows in found.items():
        print(f"{queries} queries: {_in_words(windows)}")
    alone, beside = (_p99(windows) for windows in found.values())
    print(f"p99 with queries / without: {beside / alone:.2f}")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100.0, help="writes a second")
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows that queries read")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a window")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def daemon_with(folder: str, flags: list[str]) -> Iterator[DaemonInfo]:
    """A daemon that answers queries, ended by SIGTERM."""
    command = [sys.executable, "-m", "arc", "serve", "--port", "0", "--data-dir", folder, *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield _wait_until_ready(folder, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait_until_ready(folder: str, process: subprocess.Popen[bytes]) -> DaemonInfo:
    for _ in range(int(START_TIMEOUT_S / 0.1)):
        info = find_daemon(folder).info
        if info is not None:
            return info
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the daemon did not start")


def store(connections: Connections, rows: int) -> int:
    """Store rows for the queries, and wait until all of them are found."""
    body = workload_body("c", STORED_BODY_ROWS)
    count = max(1, rows // STORED_BODY_ROWS)
    for _ in range(count):
        status, said = connections.post(PATH, body, **{"x-arc-database": "stored"})
        assert status == 204, said
    wanted = count * STORED_BODY_ROWS
    while _count(connections) != wanted:
        time.sleep(0.2)
    return wanted


def _count(connections: Connections) -> int:
    body = msgspec.json.encode({"sql": "SELECT count(*) FROM stored.cpu"})
    status, said = connections.post("/api/v1/query", body)
    return int(msgspec.json.decode(said)["data"][0][0]) if status == 200 else -1


def _window(
    connections: Connections, options: argparse.Namespace, queries: int, rows: int
) -> np.ndarray:
    """Latencies in seconds of the writes of one window, while so many queries run."""
    body = workload_body("c", BODY_ROWS)
    with _asking(connections.info, queries, rows), ThreadPoolExecutor(CONNECTIONS) as writers:
        now_s = time.monotonic()
        list(writers.map(lambda _: _write(connections, body, now_s), range(CONNECTIONS)))
        started_s = time.monotonic() + 0.2
        due = [started_s + n / options.rate for n in range(int(options.rate * options.seconds))]
        waiting = [writers.submit(_write, connections, body, moment) for moment in due]
        latencies = np.array([future.result() for future in waiting])
    print(f"  {queries} queries: p99 {_percentile(latencies, 99):.2f} ms", flush=True)
    return latencies


@contextlib.contextmanager
def _asking(info: DaemonInfo, queries: int, rows: int) -> Iterator[None]:
    """Queries that run, asked by a process of their own: its work holds up no write here."""
    if not queries:
        yield
        return
    context = multiprocessing.get_context("spawn")
    begun, over = context.Semaphore(0), context.Event()
    asker = context.Process(target=_ask_all, args=(info, queries, rows, begun, over))
    asker.start()
    try:
        for _ in range(queries):
            assert begun.acquire(timeout=START_TIMEOUT_S), "no query was answered"
        yield
    finally:
        over.set()
        asker.join()
    assert asker.exitcode == 0, "a query was answered wrongly"


def _ask_all(info: DaemonInfo, queries: int, rows: int, begun: Any, over: Any) -> None:
    connections = Connections(info)
    with ThreadPoolExecutor(queries) as askers:
        asking = [askers.submit(_ask, connections, rows, begun, over) for _ in range(queries)]
        for future in asking:
            future.result()


def _ask(connections: Connections, rows: int, begun: Any, over: Any) -> None:
    """Ask again and again; tells `begun` of the first answer."""
    body = msgspec.json.encode({"sql": SQL})
    for asked in itertools.count():
        status, said = connections.post("/api/v1/query", body)
        assert status == 200, said
        assert sum(row[1] for row in msgspec.json.decode(said)["data"]) == rows
        if not asked:
            begun.release()
        if over.is_set():
            return


def _write(connections: Connections, body: bytes, due_s: float) -> float:
    """Seconds from when a write was due to its answer."""
    time.sleep(max(0.0, due_s - time.monotonic()))
    status, said = connections.post(PATH, body, **{"x-arc-database": "written"})
    assert status == 204, said
    return time.monotonic() - due_s


def _percentile(latencies: np.ndarray, percent: float) -> float:
    return float(np.percentile(latencies, percent)) * 1000


def _p99(windows: list[np.ndarray]) -> float:
    return statistics.median(_percentile(window, 99) for window in windows)


def _in_words(windows: list[np.ndarray]) -> str:
    """Medians over the windows, and the spread of p99."""
    p99s = [_percentile(window, 99) for window in windows]
    p50 = statistics.median(_percentile(window, 50) for window in windows)
    return (
        f"p50 {p50:.2f} ms, p99 {statistics.median(p99s):.2f} ms "
        f"({min(p99s):.2f} to {max(p99s):.2f}), {len(windows)} windows"
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
