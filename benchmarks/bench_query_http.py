"""Rows over HTTP: how fast a client has the rows of a query as an Arrow table.

A daemon of its own in a temporary directory, with rows of workload `c` stored in it. A client asks
`/api/v1/query/arrow` for a number of them on one connection and reads the stream into a table,
uncompressed, with zstd and with gzip, each in turn; beside it DuckDB reads the same rows from the
same files into a table, without HTTP. Answers are checked: the number of rows is that asked for.

    python -m benchmarks.bench_query_http [--rows 1000000] [--repeats 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
from backports import zstd

from arc.runtime import DaemonInfo
from benchmarks.bench_query_beside_writes import Connections, daemon_with, store

DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "zstd": zstd.decompress,
    "gzip": lambda body: zlib.decompress(body, 31),
}


def main(arguments: list[str]) -> int:
    """Store rows, read them in every way in turn, print rows a second."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder, daemon_with(folder, []) as info:
        connections = Connections(info)
        store(connections, options.rows)
        ways = {f"HTTP, {name}": _over_http(connections, options.rows, name) for name in DECODERS}
        ways["DuckDB alone, on the files"] = _by_duckdb(folder, options.rows)
        taken_s: dict[str, list[float]] = {name: [] for name in ways}
        cpu_s: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats + 1):
            for name, read in ways.items():
                before_s, started_s = _daemon_cpu_s(info), time.perf_counter()
                rows = read()
                taken_s[name].append(time.perf_counter() - started_s)
                cpu_s[name].append(_daemon_cpu_s(info) - before_s)
                assert rows == options.rows, f"{name}: {rows} rows, wanted {options.rows}"
    print(f"{'':28} {'rows/s, best':>14} {'median':>12} {'daemon CPU s':>13}")
    for name, times_s in taken_s.items():
        best, median = (options.rows / of(times_s[1:]) for of in (min, statistics.median))
        cpu = statistics.median(cpu_s[name][1:])
        print(f"{name:28} {best:14,.0f} {median:12,.0f} {cpu:13.3f}")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000, help="a multiple of 100 000")
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args(arguments)


def _over_http(connections: Connections, rows: int, coding: str) -> Callable[[], int]:
    sql = msgspec.json.encode({"sql": "SELECT * FROM stored.cpu"})
    decode = DECODERS[coding]

    def read() -> int:
        status, body = connections.post("/api/v1/query/arrow", sql, **{"Accept-Encoding": coding})
        assert status == 200, body[:500]
        with pa.ipc.open_stream(decode(body)) as reader:
            return int(reader.read_all().num_rows)

    return read


def _by_duckdb(folder: str, rows: int) -> Callable[[], int]:
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET parquet_metadata_cache = true")
    files = [str(path) for path in Path(folder, "stored", "cpu").rglob("*.parquet")]

    def read() -> int:
        found = connection.sql("SELECT * FROM read_parquet($1)", params=[files])
        return int(found.to_arrow_reader(65_536).read_all().num_rows)

    return read


def _daemon_cpu_s(info: DaemonInfo) -> float:
    """CPU time of all processes of the daemon, in seconds."""
    children: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            used[int(entry.name)] = int(fields[11]) + int(fields[12])
    waiting, ticks = [info.pid], 0
    while waiting:
        pid = waiting.pop()
        ticks += used.get(pid, 0)
        waiting.extend(children.get(pid, []))
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
