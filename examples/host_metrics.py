#!/usr/bin/env python3
"""Send this machine's processor, memory, disk and network counters to Arc, every second.

    python examples/host_metrics.py

In: psutil's counters. Out: one `client.log` a device and tick; text becomes tags, numbers fields.
Batches, connections and repetitions are the client's (docs/client.md): while the daemon is away,
rows are kept and the loop goes on. Copy it, and replace `collect` by what you measure.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from _venv import reexec_in_venv  # where the client is installed, these three lines go

reexec_in_venv()

import argparse
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil

from arc.client import Client, RefusedError

HOST = socket.gethostname()
Row = dict[str, Any]


def collect() -> Iterator[tuple[str, Row]]:
    """Read every counter once: a measurement, and the row of one device."""
    yield "cpu", {"device": "all", **psutil.cpu_times_percent()._asdict()}
    for number, core in enumerate(psutil.cpu_times_percent(percpu=True)):
        yield "cpu", {"device": f"cpu{number}", **core._asdict()}
    yield "memory", {"device": "ram", **psutil.virtual_memory()._asdict()}
    yield "memory", {"device": "swap", **psutil.swap_memory()._asdict()}
    for device, io in (psutil.disk_io_counters(perdisk=True) or {}).items():
        yield "disk_io", {"device": device, **io._asdict()}
    for disk in psutil.disk_partitions():
        try:
            use = psutil.disk_usage(disk.mountpoint)
        except OSError:  # an empty drive
            continue
        place = {"device": disk.device, "mountpoint": disk.mountpoint}
        yield "disk_usage", {**place, **use._asdict()}
    for device, traffic in psutil.net_io_counters(pernic=True).items():
        yield "network", {"device": device, **traffic._asdict()}
    yield "load", dict(zip(("load1", "load5", "load15"), psutil.getloadavg(), strict=True))


def take(client: Client) -> None:
    """Take one row a device, all with the time of this tick."""
    found, now_ns = list(collect()), time.time_ns()
    for measurement, values in found:
        client.log(measurement, time=now_ns, host=HOST, **values)


def deliver(client: Client, timeout_s: float) -> bool:
    """Whether all rows are acknowledged in time; if not, say what is in the way.

    Raises:
        RefusedError: the daemon does not want some of them.
    """
    if client.flush(timeout_s):
        return True
    stats = client.stats()
    print(f"{stats.queued_rows} rows wait: {stats.last_error or 'no answer yet'}.", end=" ")
    print("Is the daemon running? ./start.sh native")
    return False


def ticks(interval_s: float, count: int | None) -> Iterator[None]:
    """Once every interval; what was missed is not made up for."""
    due_s, done = time.monotonic(), 0
    while count is None or done < count:
        due_s = max(due_s + interval_s, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
        yield
        done += 1


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
    options, taken, problem = parse_arguments(), 0, None
    client = Client(options.url, database=options.database, connections=1, close_timeout_s=2.0)
    print(f"Sending to {options.url}, database {options.database!r}. Ctrl-C stops.")
    list(collect())  # processor shares count from the call before
    try:
        with client, contextlib.suppress(KeyboardInterrupt):
            for _ in ticks(options.interval, options.count):
                take(client)
                taken += 1
                deliver(client, max(options.interval, 0.5))
            while not deliver(client, 1.0):
                pass  # --count is done, and the daemon is still away
    except RefusedError as error:
        problem = f"refused with {error.status}: {error.message}" if error.status else str(error)
    stats = client.stats()
    print(f"{taken} ticks: {stats.taken_rows} rows sent, {stats.acknowledged_rows} acknowledged.")
    print("Files appear within seconds in the daemon's data directory. To look, if that is data/:")
    files = f"data/{options.database}/cpu/*/*/*/*/*.parquet"
    print(f"""  {sys.executable} -c "import duckdb; print(duckdb.read_parquet('{files}'))\"""")
    if problem:
        raise SystemExit(problem)


if __name__ == "__main__":
    main()
