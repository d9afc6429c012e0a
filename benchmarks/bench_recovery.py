"""How long a killed daemon takes to be back, by the length of its log.

In: how much log. Out: seconds from the start of the process to `/ready`, and MB of log a second.
A daemon that flushes nothing is driven until its logs are long enough and killed; another one is
started on its data, and its files are compared with what was acknowledged.

    python -m benchmarks.bench_recovery --mib 1024 --workers 2
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load.generator import LoadResult, run_load
from benchmarks.load.oracle import verify
from benchmarks.load.spec import LoadSpec
from benchmarks.torture.daemon import Daemon

#: Nothing is flushed, whatever comes.
HOLD = ("--flush-age-s", "3600", "--flush-rows", "1000000000", "--memory-bytes", "12GiB")
#: Roughly what a second of full load logs here, to tell how long to drive it.
MB_A_SECOND = 350


def fill(daemon: Daemon, mib: int) -> tuple[LoadSpec, LoadResult]:
    """Drive a daemon until its logs hold about so much."""
    spec = LoadSpec(
        workload="c",
        rows=1_000,
        columns=6,
        connections=16,
        processes=1,
        seconds=max(1.0, mib / MB_A_SECOND),
        warmup_s=0.5,
        compression="none",
        rate=None,
        bodies=None,
        seed=0,
        database=f"bench_{secrets.token_hex(4)}",
        declare_tags=True,
    )
    return spec, run_load(spec, daemon.address)


def log_bytes(data_dir: Path) -> int:
    """What the segments of all shards take on the disk."""
    return sum(p.stat().st_size for p in data_dir.glob(".arc/shards/*/log/[0-9]*.log"))


def run_once(args: argparse.Namespace) -> str:
    """One round; the line to print.

    Raises:
        RuntimeError: a row was missing, doubled or wrong.
    """
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        data_dir = Path(folder) / "data"
        daemon = Daemon(data_dir, "--workers", str(args.workers))
        try:
            daemon.start(*HOLD, "--log-bytes", "16GiB")
            daemon.wait_until_ready()
            spec, load = fill(daemon, args.mib)
            daemon.kill_tree()
            nbytes = log_bytes(data_dir)
            started_s = time.monotonic()
            daemon.start()
            daemon.wait_until_ready()
            took_s = time.monotonic() - started_s
            daemon.stop()
        finally:
            daemon.close()
        faults = verify(spec, load.outcomes(), data_dir, lambda done, of: None).faults()
    if faults:
        raise RuntimeError(f"after the recovery: {faults}")
    rows = load.acknowledged_rows()
    return (
        f"{nbytes / 2**20:,.0f} MiB of log, {rows / 1e6:.1f} M rows: ready after {took_s:.2f} s, "
        f"{nbytes / took_s / 1e6:,.0f} MB/s; all rows stored once"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024, help="of log, about (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dir", help="where to put the data; default: the temporary directory")
    args = parser.parse_args(argv)
    for _ in range(args.repeat):
        print(run_once(args), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
