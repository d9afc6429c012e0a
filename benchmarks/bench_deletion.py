"""Deletes: one day of ten, and a tenth of the hosts, out of a table of hour files.

The table has ten days of `--rows` rows each (host of 1 000 as a tag, three doubles of two
decimals), one file an hour, as flushes leave them once they are merged. Three deletes, each on a
copy of its own: `day`, which is 24 whole files; `shifted`, the same by half an hour, which is 23
files and two halves; `hosts`, a tenth of all rows, for which every file has to be rewritten. CPU
seconds of this process, which are what a shared machine repeats; the result is counted.

    python -m benchmarks.bench_deletion                 a minute, 120 MB
    python -m benchmarks.bench_deletion --repeats 3
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import structlog

from ingest import parquet
from ingest.columns import ColumnType
from ingest.condition import Condition
from ingest.deletion import OWNER, Deleter
from ingest.instruments import null
from ingest.paths import HOUR_US, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.schema import ColumnSpec, TableSchema
from ingest.store import LocalStore
from ingest.table_change import TableChanger
from ingest.table_log import DeltaTableLog

TABLE = TableId("default", "cpu")
DAYS, HOSTS = 10, 1_000
DAY_US = 24 * HOUR_US
START_US = 1_790_000_000_000_000 // DAY_US * DAY_US
SCHEMA = TableSchema(
    {"host": ColumnSpec(ColumnType.UTF8, True)}
    | {name: ColumnSpec(ColumnType.FLOAT64) for name in "abc"},
    1,
)

_DAY_4_US = START_US + 4 * DAY_US
CASES = {
    "day": Condition(_DAY_4_US, _DAY_4_US + DAY_US),
    "shifted": Condition(_DAY_4_US + HOUR_US // 2, _DAY_4_US + DAY_US + HOUR_US // 2),
    "hosts": Condition(equals=(("host", tuple(f"server{i:03d}" for i in range(HOSTS // 10))),)),
}


class Figures(msgspec.Struct):
    """What one delete took.

    Attributes:
        gone: Rows.
        removed: Whole files.
        rewritten: Files.
        read: Rows of the rewritten files.
        survey_s: CPU seconds to find out.
        change_s: CPU seconds to do it.
        wall_s: Of both.
    """

    gone: int
    removed: int
    rewritten: int
    read: int
    survey_s: float
    change_s: float
    wall_s: float


def fill(root: Path, rows_a_day: int) -> None:
    """Make the table."""
    store, rng = LocalStore(root), np.random.default_rng(1)
    log = DeltaTableLog(store, "bench", 0, null(), structlog.get_logger())
    for hour in range(24 * DAYS):
        table = _hour(rng, START_US + hour * HOUR_US, rows_a_day // 24)
        times = table.column("time").cast(pa.int64())
        folder, name = hour_dir(START_US + hour * HOUR_US), file_name(0, 1, hour + 1, hour + 1)
        options = parquet.plan(table)

        def write(path: str, table: pa.Table = table, how: parquet.WriteOptions = options) -> None:
            parquet.write(table, path, how)

        staged = store.stage(
            f"{table_dir(TABLE)}/{folder}/{name}",
            write,
            num_rows=table.num_rows,
            min_time_us=times[0].as_py(),
            max_time_us=times[-1].as_py(),
        )
        log.commit(TABLE, [staged], LogRange(0, 1, hour + 1, hour + 1), SCHEMA)


def _hour(rng: np.random.Generator, start_us: int, rows: int) -> pa.Table:
    times = np.sort(rng.integers(0, HOUR_US, rows)) + start_us
    hosts = pa.array([f"server{i:03d}" for i in range(HOSTS)])
    codes = pa.array(rng.integers(0, HOSTS, rows).astype(np.int32))
    doubles = {name: np.round(rng.random(rows) * 100, 2) for name in "abc"}
    host = pa.DictionaryArray.from_arrays(codes, hosts)
    return pa.table({"time": pa.array(times, pa.timestamp("us", "UTC")), "host": host} | doubles)


def run(root: Path, condition: Condition) -> Figures:
    """One delete, its result counted."""
    store = LocalStore(root)
    changer = TableChanger(store, structlog.get_logger(), None, OWNER)
    deleter = Deleter(store, changer)
    before = sum(file.num_rows or 0 for file in changer.files(TABLE))
    wall_s, begun_s = time.perf_counter(), time.process_time()
    plan = deleter.survey(TABLE, condition)
    planned_s = time.process_time()
    done = deleter.carry_out(plan)
    ended_s, wall_s = time.process_time(), time.perf_counter() - wall_s
    left = sum(file.num_rows or 0 for file in changer.files(TABLE))
    assert before - left == done.rows == plan.rows
    assert deleter.survey(TABLE, condition).rows == 0
    return Figures(
        done.rows,
        done.files_removed,
        done.files_rewritten,
        sum(found.num_rows for found in plan.partial),
        planned_s - begun_s,
        ended_s - planned_s,
        wall_s,
    )


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of a day")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        fill(made, given.rows)
        for name, condition in CASES.items():
            found = []
            for count in range(given.repeats):
                root = Path(shutil.copytree(made, Path(folder) / f"{name}-{count}"))
                found.append(run(root, condition))
                shutil.rmtree(root)
            print(_line(name, found))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {peak_kib / 1024:.0f} MiB, the making of the table included")


def _line(name: str, found: list[Figures]) -> str:
    first = found[0]
    survey_s = statistics.median(one.survey_s for one in found)
    change_s = statistics.median(one.change_s for one in found)
    wall_s = statistics.median(one.wall_s for one in found)
    rate = f", {first.read / change_s / 1e6:.1f} M rows/s rewritten" if first.read else ""
    return (
        f"{name:<8} {first.gone} rows, {first.removed} files removed, {first.rewritten} rewritten: "
        f"survey {survey_s * 1e3:.0f} ms CPU, change {change_s * 1e3:.0f} ms CPU, "
        f"both {wall_s * 1e3:.0f} ms{rate}"
    )


if __name__ == "__main__":
    main()
