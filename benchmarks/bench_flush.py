"""A flush from batches to the bytes of its files: CPU time of each part, our encoder and pyarrow's.

In: a workload of `benchmarks/data.py`, a million rows in batches of 1 000. Out: nanoseconds of the
thread's CPU time a record for building the table, choosing encodings, and writing to /dev/null
with our encoder and with pyarrow's, one after another in each round; the best and the median of
the rounds; bytes a record of both files. Both files are read back and compared once.

    python -m benchmarks.bench_flush                            workloads c, a, b and mixed
    python -m benchmarks.bench_flush -w c --rounds 40           one of them
    python -m benchmarks.bench_flush -w c --compression none
    python -m benchmarks.bench_flush -w c --columns             our encoder, column by column
    python -m benchmarks.bench_flush --small                    files of few rows, or many columns
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from arc.memory import tune_heap
from benchmarks.bench_table_build import ROWS, as_plain, flush_batches, schema_of
from ingest import parquet
from ingest.parquet_file import FileWriter, PathSink, leaves_of
from ingest.parquet_pages import encode_column, leaf_of
from ingest.table_build import build_tables

Samples = dict[str, list[float]]


class _Bytes:
    """A binary file that keeps what it was given."""

    data: Any = None

    def write(self, data: Any) -> int:
        """Keep it."""
        self.data = data
        return len(data)


def timed_ns(rows: int, work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a call returned, and the CPU time of this thread that it took a row."""
    started = time.thread_time_ns()
    result = work(*arguments)
    return result, (time.thread_time_ns() - started) / rows


def sample(
    workload: str, arrangement: str, compression: parquet.Compression, rounds: int
) -> tuple[Samples, dict[str, float]]:
    """Time every part in turn; returns ns a row of each, and bytes a row of both files."""
    batches = flush_batches(workload, arrangement)
    schema = schema_of(batches)
    samples: Samples = {"build": [], "plan": [], "write": [], "pyarrow": []}
    for _ in range(rounds):
        (hour,), spent = timed_ns(ROWS, build_tables, batches, schema)
        samples["build"].append(spent)
        table = hour.table
        options, spent = timed_ns(ROWS, parquet.plan, table, compression)
        samples["plan"].append(spent)
        samples["write"].append(timed_ns(ROWS, parquet.write, table, "/dev/null", options)[1])
        samples["pyarrow"].append(timed_ns(ROWS, _write_by_pyarrow, table, options)[1])
    return samples, sizes(table, options)


def _write_by_pyarrow(table: pa.Table, options: parquet.WriteOptions) -> None:
    with (
        pa.output_stream("/dev/null", compression=None, buffer_size=1 << 20) as sink,
        parquet.open_pyarrow_writer(sink, table.schema, options) as writer,
    ):
        writer.write_table(table, row_group_size=parquet.ROW_GROUP_ROWS)


def sizes(table: pa.Table, options: parquet.WriteOptions) -> dict[str, float]:
    """Bytes a row of both files, which hold what the table does."""
    ours: Any = _Bytes()
    parquet.write(table, ours, options, {"a": "b"})
    files = {"write": ours.data, "pyarrow": parquet.pyarrow_file(table, options, {"a": "b"})}
    for data in files.values():
        found = pq.read_table(pa.BufferReader(data)).replace_schema_metadata()
        assert as_plain(found).equals(as_plain(table))
    return {name: len(data) / table.num_rows for name, data in files.items()}


def columns_report(workload: str, compression: parquet.Compression, rounds: int) -> Table:
    """CPU time and size of each column with our encoder."""
    batches = flush_batches(workload, "interleaved")
    (hour,) = build_tables(batches, schema_of(batches))
    options = parquet.plan(hour.table, compression)
    out = Table("column", "encoding", "codec", "ns a row", "bytes a row", title=workload)
    for field in hour.table.schema:
        array, leaf = hour.table[field.name].chunk(0), leaf_of(field)
        assert leaf is not None
        encoding, codec = options.way_of(field.name)
        given = array, leaf, encoding, codec, 4
        found = [timed_ns(ROWS, encode_column, *given) for _ in range(rounds)]
        size = found[0][0].facts.stored_bytes / ROWS
        spent = min(spent for _, spent in found)
        out.add_row(field.name, encoding, codec.name, f"{spent:.2f}", f"{size:.2f}")
    return out


def small_tables() -> dict[str, pa.Table]:
    """Slices of a flush, and tables of 2 000 columns."""
    batches = flush_batches("c", "interleaved")
    (hour,) = build_tables(batches, schema_of(batches))
    found = {f"{rows} rows": hour.table.slice(0, rows) for rows in (1, 1_000, 8_192, 100_000)}
    for rows in (50, 8_192):
        times = hour.table["time"].slice(0, rows)
        values = np.random.default_rng(6).uniform(size=rows)
        columns = {"time": times} | {f"c{i}": values for i in range(2_000)}
        found[f"{rows} rows, 2000 columns"] = pa.table(columns)
    return found


def small_report(rounds: int) -> Table:
    """CPU time a file of both encoders, whichever `parquet.write` would choose."""
    out = Table("table", "ours, µs a file", "pyarrow", title="small tables")
    for name, table in small_tables().items():
        options, leaves = parquet.plan(table), leaves_of(table.schema)
        assert leaves is not None
        ways = {"ours": _write_by_ours, "pyarrow": _write_by_pyarrow}
        spent: Samples = {way: [] for way in ways}
        for _ in range(rounds):
            for way, work in ways.items():
                spent[way].append(timed_ns(1_000, work, table, options)[1])
        out.add_row(name, *[f"{min(found):.0f}" for found in spent.values()])
    return out


def _write_by_ours(table: pa.Table, options: parquet.WriteOptions) -> None:
    sink = PathSink("/dev/null")
    writer = FileWriter(sink, leaves_of(table.schema) or [], options.way_of)
    parquet.write_groups(table, writer)
    writer.finish({})
    sink.flush()
    sink.close()


def report(samples: Samples, per_row: dict[str, float], title: str) -> Table:
    """Best and median of each part, and the ratio of whole flushes."""
    out = Table("part", "best, ns a row", "median", "bytes a row", title=title)
    for name, found in samples.items():
        size = f"{per_row[name]:.2f}" if name in per_row else ""
        out.add_row(name, f"{min(found):.1f}", f"{statistics.median(found):.1f}", size)
    for name in ("write", "pyarrow"):
        parts = [samples["build"], samples["plan"], samples[name]]
        best = sum([min(part) for part in parts])
        middle = sum([statistics.median(part) for part in parts])
        out.add_row(f"flush with {name}", f"{best:.1f}", f"{middle:.1f}", "")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-w", "--workload", action="append", help="c, a, b, mixed, agent or logs")
    parser.add_argument(
        "--arrangement", default="interleaved", help="as bench_table_build has them"
    )
    parser.add_argument("--compression", default="lz4", choices=("none", "snappy", "lz4", "zstd"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--columns", action="store_true", help="our encoder, column by column")
    parser.add_argument("--small", action="store_true", help="files of few rows")
    given = parser.parse_args(arguments)
    console = Console()
    if given.small:
        console.print(small_report(given.rounds))
        return 0
    for workload in given.workload or ["c", "a", "b", "mixed"]:
        if given.columns:
            console.print(columns_report(workload, given.compression, given.rounds))
            continue
        found = sample(workload, given.arrangement, given.compression, given.rounds)
        console.print(report(*found, f"{workload}, {given.arrangement}, {given.compression}"))
    return 0


if __name__ == "__main__":
    tune_heap()  # as a worker does
    raise SystemExit(main())
