"""A slow daemon that stores like Arc, and misbehaves when told to: it proves the oracle.

In: what the load generator sends, over HTTP. Out: Parquet files in Arc's layout, and its run
file. It is no reference for speed or for the protocol.

    python -m benchmarks.load.fake_daemon --port 0 --data-dir DIR --fault doubled

Each fault happens once, to the request numbered `FAULTY_REQUEST` in the order of arrival, but
for `overload` and `close`, which happen to every fourth.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.load.fake_decode import decode

FAULTY_REQUEST = 5
_HOUR_US = 3_600_000_000

#: Faults of the rows of one request: table in, tables to store out.
ROW_FAULTS = (
    "none",
    "lost",
    "lost-row",
    "doubled",
    "doubled-and-lost",
    "ghost",
    "wrong-value",
    "wrong-measurement",
)
#: Faults of its files.
FILE_FAULTS = ("wrong-hour", "unsorted", "torn-file")
#: Faults of its answers.
REPLY_FAULTS = ("overload", "close", "no-reply", "refused-and-stored", "torn")
FAULTS = ROW_FAULTS + FILE_FAULTS + REPLY_FAULTS


class FakeStore:
    """Rows in memory until `flush` writes them, one file for each measurement and hour."""

    def __init__(self, data_dir: Path, fault: str = "none") -> None:
        """Args: `data_dir` to write below; `fault`: one of `FAULTS`."""
        self._data_dir = data_dir
        self._fault = fault
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], list[pa.Table]] = {}
        self._requests = 0
        self._files = 0
        self.rows_buffered = 0

    def next_request(self) -> int:
        """Number a request by its arrival."""
        with self._lock:
            self._requests += 1
            return self._requests - 1

    def add(self, database: str, measurement: str, table: pa.Table, request: int) -> None:
        """Keep the rows of a request, with the fault if it is that request."""
        tables = [table]
        if request == FAULTY_REQUEST:
            measurement, tables = self._misbehave(measurement, table)
        with self._lock:
            self._rows.setdefault((database, measurement), []).extend(tables)
            self.rows_buffered += table.num_rows

    def _misbehave(self, measurement: str, table: pa.Table) -> tuple[str, list[pa.Table]]:
        """The rows of one request as the fault would have them stored."""
        rows = table.num_rows
        if self._fault == "wrong-measurement":
            return measurement + "x", [table]
        stored: dict[str, list[pa.Table]] = {
            "lost": [],
            "lost-row": [table.slice(1)],
            "torn": [table.slice(0, rows // 2)],
            "doubled": [table, table],
            "doubled-and-lost": [table.slice(1), table.slice(1, 1)],
            "ghost": [table, _one_day_later(table.slice(0, 1))],
            "wrong-value": [_reverse_last_column(table)],
        }
        return measurement, stored.get(self._fault, [table])

    def flush(self) -> None:
        """Write everything that is in memory."""
        with self._lock:
            taken, self._rows, self.rows_buffered = self._rows, {}, 0
        for (database, measurement), tables in taken.items():
            if tables:
                folder = self._data_dir / database / measurement
                self._write(folder, pa.concat_tables(tables, promote_options="permissive"))

    def _write(self, folder: Path, table: pa.Table) -> None:
        table = table.sort_by("time")
        hours = pc.divide(table.column("time").cast(pa.int64()), _HOUR_US)
        for hour in pc.unique(hours).to_pylist():
            rows = table.filter(pc.equal(hours, hour))
            shift = 1 if self._fault == "wrong-hour" else 0
            start = datetime.fromtimestamp((hour + shift) * 3600, UTC)
            target = folder / start.strftime("%Y/%m/%d/%H")
            target.mkdir(parents=True, exist_ok=True)
            self._files += 1
            if self._fault == "unsorted":
                rows = rows.take(pa.array(np.arange(rows.num_rows)[::-1]))
            path = target / f"fake-{self._files:06d}.parquet"
            pq.write_table(rows, path)
            if self._fault == "torn-file":
                os.truncate(path, path.stat().st_size // 2)


def _one_day_later(table: pa.Table) -> pa.Table:
    later = pc.add(table.column("time"), pa.scalar(86_400_000_000, pa.duration("us")))
    return table.set_column(0, "time", later)


def _reverse_last_column(table: pa.Table) -> pa.Table:
    last = table.num_columns - 1
    values = table.column(last).take(pa.array(np.arange(table.num_rows)[::-1]))
    return table.set_column(last, table.column_names[last], values)


class FakeDaemon:
    """The HTTP side: threads, one for each connection."""

    def __init__(self, data_dir: Path, fault: str = "none", port: int = 0) -> None:
        """Bind a port on loopback; serve when `start` is called."""
        self.store = FakeStore(data_dir, fault)
        self.fault = fault
        self._data_dir = data_dir
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        """Serve, and say so in the run file."""
        self._thread.start()
        info = {
            "pid": os.getpid(),
            "host": "127.0.0.1",
            "port": self.port,
            "url": f"http://127.0.0.1:{self.port}",
            "workers": [{"shard": 0, "pid": os.getpid()}],
            "version": "fake",
            "durability": "memory",
        }
        path = self._data_dir / ".arc/run/daemon.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(info))
        temporary.replace(path)

    def stop(self) -> None:
        """Stop serving, store what is in memory, remove the run file."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.store.flush()
        (self._data_dir / ".arc/run/daemon.json").unlink()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeDaemon

    def do_GET(self) -> None:
        """Metrics, after storing everything, and readiness."""
        self.fake.store.flush()
        text = f"arc_rows_buffered {self.fake.store.rows_buffered}\n".encode()
        self._reply(200, text)

    def do_POST(self) -> None:
        """Store the rows, but for the fault."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault, store = self.fake.fault, self.fake.store
        request = store.next_request()
        if fault == "overload" and request % 4 == 3:
            self._reply(503, b'{"error": "too busy"}', {"Retry-After": "1"})
            return
        measurement, table = decode(body, self.path, dict(self.headers))
        store.add(self.headers["x-arc-database"], measurement, table, request)
        if fault == "no-reply" and request == FAULTY_REQUEST:
            self.close_connection = True
        elif fault in ("refused-and-stored", "torn") and request == FAULTY_REQUEST:
            self._reply(503, b'{"error": "failed"}')
        elif fault == "close" and request % 4 == 3:
            self.close_connection = True
            self._reply(204, b"", {"Connection": "close"})
        elif self.path.startswith("/v1/"):
            self._reply(200, b"{}")
        else:
            self._reply(204, b"")

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; store everything; return 0."""
    parser = argparse.ArgumentParser(description="A slow daemon that proves the load generator.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--fault", choices=FAULTS, default="none")
    args = parser.parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    daemon = FakeDaemon(args.data_dir, args.fault, args.port)
    daemon.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    daemon.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
