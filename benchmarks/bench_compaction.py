"""Compaction: one day of a workload, flushed every 10 s, before and after.

Files are built and committed by the code of the daemon, but for one commit an hour instead of one
a flush, which saves the syncs and changes nothing that is measured. Every 10 s bring 1 000 rows
of the measurement `cpu`, spread evenly over them. Each query is checked to give the same answer
before and after.

    python -m benchmarks.bench_compaction                     all of it, about a minute
    python -m benchmarks.bench_compaction --hours 6           a quarter of the day
    python -m benchmarks.bench_compaction --hours 6 --sweep   other orders, groups and levels
    python -m benchmarks.bench_compaction --write FILE.json   the figures as JSON

CPU seconds are of this process with its threads. DuckDB reads the files that the table lists, as
they are listed, warm from memory, with two threads; `at once` is one SELECT on its own connection.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import structlog

from benchmarks.bench_table_build import schema_of
from benchmarks.data import Columns, columnar_body, columns
from ingest import compact_files, parquet
from ingest.clock import ManualClock
from ingest.columns import ColumnBatch
from ingest.compaction import DAY_US, OWNER, Compactor, Limits
from ingest.instruments import null
from ingest.limits import Limits as BodyLimits
from ingest.msgpack_decoder import decode
from ingest.paths import HOUR_US, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.store import LocalStore, StagedFile
from ingest.table_build import build_tables
from ingest.table_change import TableChanger
from ingest.table_log import DeltaTableLog
from ingest.turn import my_compaction

TABLE = TableId("default", "cpu")
START_US = 1_768_435_200_000_000  # 2026-01-15T00:00Z
FLUSH_US = 10_000_000
FLUSH_ROWS = 1000

QUERIES = {
    "last 10 s by host": """
        SELECT host, round(avg(usage_user), 6) FROM read_parquet($files)
        WHERE time > make_timestamptz({end} - 10000000) GROUP BY host ORDER BY host""",
    "one hour of one host": """
        SELECT count(*), round(sum(usage_user), 4) FROM read_parquet($files)
        WHERE host = 'server-0042' AND time >= make_timestamptz({start})
        AND time < make_timestamptz({start} + 3600000000)""",
    "all by host": """
        SELECT host, count(*), round(avg(usage_idle), 6) FROM read_parquet($files)
        GROUP BY host ORDER BY host""",
    "count": "SELECT count(*) FROM read_parquet($files)",
}


def make_day(store: LocalStore, hours: int, workload: str) -> None:
    """A table as flushes of every 10 s leave it."""
    log = DeltaTableLog(store, "arc-000-bench", 0, null(), structlog.get_logger())
    number = 0
    for hour in range(hours):
        files, first = [], number + 1
        for flush in range(HOUR_US // FLUSH_US):
            number += 1
            start_us = START_US + hour * HOUR_US + flush * FLUSH_US
            files.append(stage_flush(store, workload, start_us, number))
        schema = schema_of(batches_of(workload, 10, 0, START_US))
        log.commit(TABLE, files, LogRange(0, 1, first, number), schema)


def batches_of(workload: str, rows: int, seed: int, start_us: int) -> list[ColumnBatch]:
    """One request, decoded."""
    if workload == "fleet":
        values = fleet(rows, seed, start_us)
    else:
        values = columns(workload, rows, seed, start_us=start_us)
        values["time"] = start_us + np.arange(rows) * (FLUSH_US // rows)
    body = columnar_body(values, TABLE.measurement, ["host"])
    return decode(body, 0, BodyLimits())


def fleet(rows: int, seed: int, start_us: int) -> Columns:
    """What agents send: each host once in a flush, at its own moment, each value near its last.

    Values of host i are a slow wave of its own and noise of 0.1, with 2 decimals.
    """
    rng = np.random.default_rng(seed)
    host = np.arange(rows)
    out: Columns = {"host": [f"server-{number:04d}" for number in host]}
    for place, name in enumerate(("usage_user", "usage_system", "usage_idle")):
        wave = np.sin(seed / (50 + host % 97) + host + place) * (host % 40) + 50
        out[name] = np.round(wave + rng.normal(0, 0.1, rows), 2)
    moment = (host * 7919 % rows) * (FLUSH_US // rows) + rng.integers(0, 3, rows) * 1000
    out["time"] = start_us + np.sort(moment)
    order = np.argsort(moment)
    out["host"] = [out["host"][place] for place in order]
    for name in ("usage_user", "usage_system", "usage_idle"):
        out[name] = out[name][order]
    return out


def stage_flush(store: LocalStore, workload: str, start_us: int, number: int) -> StagedFile:
    """One flush, as the writer does it."""
    batches = batches_of(workload, FLUSH_ROWS, number, start_us)
    schema = schema_of(batches)
    (hour,) = build_tables(batches, schema)
    options = parquet.plan(hour.table)
    metadata = parquet.file_metadata(schema, f"0/1/{number}-{number}")
    metadata |= {"arc:database": TABLE.database, "arc:measurement": TABLE.measurement}
    return store.stage(
        f"{table_dir(TABLE)}/{hour_dir(start_us)}/{file_name(0, 1, number, number)}",
        lambda path: parquet.write(hour.table, path, options, metadata),
        num_rows=hour.table.num_rows,
        min_time_us=hour.min_time_us,
        max_time_us=hour.max_time_us,
    )


def look(store: LocalStore) -> dict[str, Any]:
    """Files and bytes of the table, and how long DuckDB takes over each query."""
    changer = TableChanger(store, structlog.get_logger(), owner=OWNER)
    files = changer.files(TABLE)
    folder = store.root / table_dir(TABLE)
    paths = [str(folder / file.path) for file in files]
    end_us = max(file.max_us or 0 for file in files)
    found: dict[str, Any] = {
        "files": len(files),
        "bytes": sum(file.size_bytes for file in files),
        "rows": sum(file.num_rows or 0 for file in files),
    }
    for name, text in QUERIES.items():
        found[name] = ask(text.format(start=START_US + HOUR_US, end=end_us), paths)
    return found


def ask(sql: str, paths: Sequence[str], runs: int = 5) -> tuple[float, Any]:
    """Median seconds of a query, and its answer."""
    times, answer = [], None
    with duckdb.connect(config={"threads": 2}) as connection:
        for _ in range(runs):
            started_s = time.perf_counter()
            answer = connection.execute(sql, {"files": list(paths)}).fetchall()
            times.append(time.perf_counter() - started_s)
            if sum(times) > 4:
                break
    return statistics.median(times), answer


def compact(store: LocalStore, days: float) -> dict[str, Any]:
    """Compact the table when its days are over, and vacuum it."""
    clock = ManualClock(START_US + round(days * DAY_US) + 2 * DAY_US)
    before, started_s = cpu_s(), time.perf_counter()
    with my_compaction(store.root / ".arc"):
        compactor = Compactor(store, structlog.get_logger(), Limits(), clock)
        compactor.recover()
        outcome = compactor.run([TABLE])
    found = {"cpu_s": cpu_s() - before, "wall_s": time.perf_counter() - started_s}
    clock.move(Limits().grace_s + 1)
    gone = TableChanger(store, structlog.get_logger(), clock, OWNER).vacuum(TABLE)
    assert gone.num_files == outcome.files_merged
    return found | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def cpu_s() -> float:
    """Of this process, its threads included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


SWEEP: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as it is", {}),
    ("in order of time", {"_WORTH_SORTING": 0.0}),
    ("by tags and time", {"_WORTH_SORTING": 9.0}),
    ("groups of 128 Ki rows", {"GROUP_ROWS": 1 << 17}),
    ("groups of 1 Mi rows", {"GROUP_ROWS": 1 << 20}),
    ("zstd 1", {"ZSTD_LEVEL": 1}),
    ("zstd 9", {"ZSTD_LEVEL": 9}),
)


def sweep(store: LocalStore) -> None:
    """Merge all files in other ways: bytes a row, CPU, and the queries."""
    folder = store.root / table_dir(TABLE)
    files = TableChanger(store, structlog.get_logger(), owner=OWNER).files(TABLE)
    end_us = max(file.max_us or 0 for file in files)
    target = store.root / "merged.parquet"
    print(f"{'':<22} {'B/row':>6} {'CPU s':>6}", *[f"{name:>20}" for name in QUERIES])
    for name, changes in SWEEP:
        kept = {key: getattr(compact_files, key) for key in changes}
        for key, value in changes.items():
            setattr(compact_files, key, value)
        started = cpu_s()
        merge = compact_files.Merge(
            [folder / file.path for file in files], group_rows=compact_files.GROUP_ROWS
        )
        merge.write(str(target), {})
        took = cpu_s() - started
        for key, value in kept.items():
            setattr(compact_files, key, value)
        texts = [text.format(start=START_US + HOUR_US, end=end_us) for text in QUERIES.values()]
        times = [f"{ask(text, [str(target)])[0] * 1e3:>17.1f} ms" for text in texts]
        print(f"{name:<22} {target.stat().st_size / merge.num_rows:>6.2f} {took:>6.1f}", *times)


def report(before: dict[str, Any], after: dict[str, Any], work: dict[str, Any]) -> None:
    """Print the figures, and hold the answers equal."""
    assert before["rows"] == after["rows"]
    for name in ("files", "bytes"):
        ratio = before[name] / after[name]
        print(f"{name:<22} {before[name]:>14,} {after[name]:>14,}   ÷ {ratio:.1f}")
    for name in QUERIES:
        assert before[name][1] == after[name][1], name
        old, new = before[name][0] * 1e3, after[name][0] * 1e3
        print(f"{name:<22} {old:>11.1f} ms {new:>11.1f} ms   ÷ {old / new:.1f}")
    rows = before["rows"]
    print(f"{rows:,} rows; {work['cpu_s']:.1f} s of CPU, {work['wall_s']:.1f} s;", end=" ")
    print(f"{rows / work['cpu_s'] / 1e6:.2f} M rows/s of CPU;", end=" ")
    print(f"peak memory of the process {work['peak_rss_bytes'] / 2**20:.0f} MiB")


def main(argv: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--workload", default="b", choices=["b", "c", "agent", "fleet"])
    parser.add_argument("--sweep", action="store_true", help="Other ways to merge, instead.")
    parser.add_argument("--dir", default=None, help="Where the table is made. Default: /tmp.")
    parser.add_argument("--write", type=Path, default=None)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        store = LocalStore(folder)
        made = cpu_s()
        make_day(store, options.hours, options.workload)
        print(f"workload {options.workload}, {options.hours} h: {cpu_s() - made:.1f} s of CPU")
        if options.sweep:
            sweep(store)
            return
        before = look(store)
        work = compact(store, options.hours / 24)
        after = look(store)
    report(before, after, work)
    if options.write:
        figures = {"before": before, "after": after, "work": work}
        for part in (before, after):
            part |= {name: part[name][0] for name in QUERIES}
        options.write.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
