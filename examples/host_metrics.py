#!/usr/bin/env python3
"""Send this machine's processor, memory, disk and network counters to Arc, every second.

    python examples/host_metrics.py

In: psutil's counters. Out: one POST a tick, an array of columnar maps, one map a measurement.
It imports nothing of the server: copy it, and replace `collect` by what you measure.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from _venv import reexec_in_venv  # a copy of this file needs none of these three lines

reexec_in_venv()

import argparse
import http.client
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil

PATH = "/api/v1/write/msgpack"
TIMEOUT_S = 10.0
Row = dict[str, Any]


def collect() -> Iterator[tuple[str, list[Row]]]:
    """Read every counter once: measurement and its rows, one row a device."""
    cores = psutil.cpu_times_percent(percpu=True)
    cpu = {"all": psutil.cpu_times_percent()} | {f"cpu{i}": core for i, core in enumerate(cores)}
    yield "cpu", [{"device": name, **times._asdict()} for name, times in cpu.items()]
    memory = {"ram": psutil.virtual_memory(), "swap": psutil.swap_memory()}
    yield "memory", [{"device": name, **use._asdict()} for name, use in memory.items()]
    disks = psutil.disk_io_counters(perdisk=True) or {}
    yield "disk_io", [{"device": name, **io._asdict()} for name, io in disks.items()]
    yield "disk_usage", list(disk_usage())
    nics = psutil.net_io_counters(pernic=True)
    yield "network", [{"device": name, **io._asdict()} for name, io in nics.items()]
    names = ("load1", "load5", "load15")
    yield "load", [dict(zip(names, psutil.getloadavg(), strict=True))]


def disk_usage() -> Iterator[Row]:
    """Space on each mounted disk; one that cannot be read (an empty drive) is left out."""
    for disk in psutil.disk_partitions():
        try:
            use = psutil.disk_usage(disk.mountpoint)
        except OSError:
            continue
        yield {"device": disk.device, "mountpoint": disk.mountpoint, **use._asdict()}


def columnar(measurement: str, rows: list[Row], host: str, now_us: int) -> Row:
    """Turn rows into the map that Arc reads fastest: one array a column, all equally long."""
    columns: dict[str, list[Any]] = {"time": [now_us] * len(rows), "host": [host] * len(rows)}
    for name in dict.fromkeys(name for row in rows for name in row):
        columns[name] = [row.get(name) for row in rows]
    tags = [name for name in ("host", "device", "mountpoint") if name in columns]
    return {"m": measurement, "columns": columns, "tags": tags}


class Sender:
    """One connection that is kept open, and opened again when it breaks."""

    def __init__(self, url: str, database: str) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else None
        self.url, self.path = url, parts.path.rstrip("/") + PATH
        self.connection = (kind or http.client.HTTPConnection)(
            parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT_S
        )
        self.headers = {"content-type": "application/msgpack", "x-arc-database": database}

    def send(self, body: bytes) -> None:
        """Post until it is acknowledged; waits while the daemon is away or busy.

        Rows whose acknowledgement is lost on the way are sent twice.

        Raises:
            SystemExit: the daemon refuses the body, and would again.
        """
        while True:
            wait_s = 1.0
            try:
                self.connection.request("POST", self.path, body, self.headers)
                reply = self.connection.getresponse()
                text = reply.read().decode("utf-8", "replace")
                if reply.status == 204:
                    return
                if reply.status not in (429, 503):
                    raise SystemExit(f"refused with {reply.status}: {text}")
                problem = f"busy: {text}"
                after = reply.getheader("retry-after", "1")
                wait_s = float(after) if after.isdigit() else 1.0
            except (OSError, http.client.HTTPException) as error:
                self.connection.close()  # the next request opens it again
                problem = f"not reachable ({error}); is it running? ./start.sh native"
            print(f"Arc at {self.url} is {problem}. Trying again in {wait_s:.0f} s.")
            time.sleep(wait_s)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Send this machine's metrics to Arc.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the daemon")
    parser.add_argument("--database", default="default", help="to write into")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two ticks")
    parser.add_argument("--count", type=int, help="stop after so many ticks")
    parser.add_argument("--once", action="store_const", const=1, dest="count", help="one tick")
    return parser.parse_args()


def main() -> None:
    """Send until Ctrl-C or `--count`, then say what was acknowledged."""
    options, host = parse_arguments(), socket.gethostname()
    sender = Sender(options.url, options.database)
    ticks = sent = acknowledged = 0
    print(f"Sending to {options.url}, database {options.database!r}. Ctrl-C stops.")
    dict(collect())  # processor shares count from the call before
    due_s = time.monotonic()
    try:
        while options.count is None or ticks < options.count:
            due_s = max(due_s + options.interval, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            now_us, found = time.time_ns() // 1000, [(m, rows) for m, rows in collect() if rows]
            sent += sum(len(rows) for _, rows in found)
            batch = [columnar(measurement, rows, host, now_us) for measurement, rows in found]
            sender.send(msgspec.msgpack.encode(batch))
            ticks, acknowledged = ticks + 1, sent
    except KeyboardInterrupt:
        print()
    print(f"{ticks} ticks: {sent} rows sent, {acknowledged} acknowledged.")
    print("Files appear within seconds in the daemon's data directory. To look, if that is data/:")
    files = f"data/{options.database}/cpu/*/*/*/*/*.parquet"
    print(f"""  {sys.executable} -c "import duckdb; print(duckdb.read_parquet('{files}'))\"""")


if __name__ == "__main__":
    main()
