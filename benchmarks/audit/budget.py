"""What each stage costs a record: CPU nanoseconds, workload c, 1 000 rows a request.

In: how many rows and repeats. Out: a `Share` for each stage, in the order in which a row meets
them, to be set beside `benchmarks.audit.physical`. Every stage runs alone; what they cost each
other is in the matrix.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.audit.bodies import Requests
from benchmarks.audit.passes import LIMITS, make_table, opened, quiet_collector
from benchmarks.audit.physical import BODY_ROWS, ENCODER, LOOPBACK, MEMORY, ROW_BYTES, UNIT
from benchmarks.audit.schema import Cell, Share, median_of, missing
from benchmarks.bench_table_build import flush_batches, schema_of
from benchmarks.bench_wal import BODY_BYTES as LOG_BODY_BYTES
from benchmarks.bench_wal import thread_bench
from benchmarks.load.daemon import REPOSITORY
from ingest import parquet
from ingest.columns import ColumnBatch
from ingest.decoders import decode_fast
from ingest.table_build import HourTable, build_tables

HTTP = "HTTP"
DECODE = "decode"
ACCEPT = "schema and buffer"
LOG = "log, level page"
BUILD = "table building"
PARQUET = "Parquet"

#: The physical limit that a stage cannot fall below; the others could cost nothing.
LIMIT_OF = {HTTP: LOOPBACK, DECODE: MEMORY, PARQUET: ENCODER}

GROUP = 16
CHILD_TIMEOUT_S = 60.0


def stages(rows: int, repeats: int) -> tuple[Share, ...]:
    """Every stage.

    Args:
        rows: Of each, a multiple of 1 000.
        repeats: Of each; they alternate, but for HTTP, which is a process of its own.
    """
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as folder:
        programs = _programs(rows, Path(folder))
        samples: dict[str, list[float]] = {name: [] for name in programs}
        for program in programs.values():
            program()
        for _ in range(repeats):
            for name, program in programs.items():
                with quiet_collector():
                    samples[name].append(program())
    measured = [Share(name, median_of(UNIT, values)) for name, values in samples.items()]
    return (_http(repeats), *measured)


def _http(repeats: int) -> Share:
    command = [sys.executable, "-m", "benchmarks.audit.http_stage", str(repeats)]
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Share(HTTP, missing(UNIT, f"it took longer than {CHILD_TIMEOUT_S:g} s"))
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return Share(HTTP, missing(UNIT, f"the measurement failed: {last[0]}"))
    return Share(HTTP, median_of(UNIT, json.loads(done.stdout.splitlines()[-1])))


def _programs(rows: int, folder: Path) -> dict[str, Callable[[], float]]:
    requests = Requests(Cell("columnar", BODY_ROWS, "none"), rows // BODY_ROWS)
    sent = [requests.sent(i) for i in range(len(requests))]
    head = requests.head()
    batches = flush_batches("c", "interleaved", rows)
    schema = schema_of(batches)
    hours = build_tables(batches, schema)
    log = thread_bench("log", folder, GROUP, None)

    def decode_all() -> object:
        return [decode_fast(head, body, LIMITS) for body in sent]

    def write_log() -> float:
        groups = max(1, len(sent) // GROUP)
        took_s = _cpu_s(lambda: [log.fn() for _ in range(groups)])
        return took_s / (groups * GROUP * LOG_BODY_BYTES / ROW_BYTES) * 1e9

    return {
        DECODE: lambda: _cpu_s(decode_all) / rows * 1e9,
        ACCEPT: lambda: asyncio.run(_accept_ns(requests, sent)),
        LOG: write_log,
        BUILD: lambda: _cpu_s(lambda: build_tables(batches, schema)) / rows * 1e9,
        PARQUET: lambda: _cpu_s(lambda: _write(hours, folder)) / rows * 1e9,
    }


def _cpu_s(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


async def _accept_ns(requests: Requests, sent: Sequence[bytes]) -> float:
    """`Pipeline.write` alone, of batches that are decoded already."""
    head = requests.head()
    batches: list[list[ColumnBatch]] = []
    for body in sent:
        decoded = decode_fast(head, body, LIMITS)
        assert decoded is not None, "BUG: a body of the workload misses the fast path"
        batches.append(decoded.batches)
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as folder:
        async with opened(Path(folder)) as pipeline:
            await make_table(pipeline, "columnar")
            before = time.thread_time()
            for each in batches:
                pipeline.write(head, b"", each)
            took_s = time.thread_time() - before
            await pipeline.drain()
    return took_s / requests.num_rows * 1e9


def _write(hours: Sequence[HourTable], folder: Path) -> None:
    for i, hour in enumerate(hours):
        parquet.write(hour.table, folder / f"{i}.parquet", parquet.plan(hour.table))
