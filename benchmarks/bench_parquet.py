"""Parquet: size against speed, column by column and for whole files.

Every name ends in the bytes a row of the file. `own` writes one column of a million values in each
way that our encoder has, so that the constants of `ingest/parquet.py` can be read off, `column` in
each way that pyarrow has, of which no constant comes any more but the prices of codecs; `record`
is all of workload c with one setting changed; `file` goes to disk, fresh names, the sync apart;
`plan` is the look at the values. MB/s count bytes of the Arrow table, for `file` of the file.

    python -m benchmarks.bench_parquet               everything, about two minutes
    python -m benchmarks.bench_parquet -k own        our encoder, one column at a time
    python -m benchmarks.bench_parquet -k column     encodings and codecs, one column at a time
    python -m benchmarks.bench_parquet -k record     statistics, pages, row groups, nullable or not
    python -m benchmarks.bench_parquet -k file       the path that the daemon takes
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arc.memory import tune_heap
from benchmarks.bench_table_build import ROWS, as_plain, flush_batches, schema_of
from benchmarks.harness import Bench, main
from ingest import parquet
from ingest.parquet_file import FileWriter, MemorySink, leaves_of
from ingest.parquet_pages import CODECS, ColumnEncoding
from ingest.table_build import build_tables

START_US = 1_768_473_000_000_000
HOUR_US = 3_600_000_000

Options = dict[str, Any]

_PLAIN: Options = {"use_dictionary": False, "compression": "none", "write_statistics": False}
_DICTIONARY = _PLAIN | {"use_dictionary": True}


def _encoding(name: str) -> Options:
    return _PLAIN | {"column_encoding": {"v": name}}


def encoded(table: pa.Table, options: Options) -> pa.Buffer:
    """A table as a Parquet file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"store_schema": False, "write_batch_size": 65_536} | options)
    return sink.getvalue()


def check_reads_back(data: pa.Buffer, table: pa.Table) -> None:
    """Hold a file equal to the table that it was written from."""
    found = pq.read_table(pa.BufferReader(data)).replace_schema_metadata()
    assert as_plain(found).equals(as_plain(table))


def table_bench(name: str, table: pa.Table, options: Options) -> Bench:
    """One table, one way to write it."""
    rows = table.num_rows
    size = encoded(table, options).size / rows
    return Bench(
        f"{name}: {size:.2f} B",
        lambda: encoded(table, options),
        rows,
        table.nbytes,
        lambda data: check_reads_back(data, table),
    )


# --- one column --------------------------------------------------------------------------------


def column_kinds(rows: int = ROWS) -> dict[str, pa.Array]:
    """Values of the sorts that decide between encodings, in order of time."""
    rng = np.random.default_rng(5)
    row = np.arange(rows)
    walk = np.cumsum(rng.standard_normal(rows)) % 100

    def codes(words: Sequence[str]) -> pa.Array:
        indices = pa.array(rng.integers(0, len(words), rows).astype(np.int32))
        return pa.DictionaryArray.from_arrays(indices, pa.array(words))

    stamp = pa.timestamp("us", "UTC")
    return {
        "times 1 µs apart": pa.array(START_US + row).cast(stamp),
        "times of an hour at random": pa.array(
            START_US + np.sort(rng.integers(0, HOUR_US, rows))
        ).cast(stamp),
        "doubles, 2 decimals": pa.array(np.round(rng.uniform(0, 100, rows), 2)),
        "doubles, 100 distinct": pa.array(rng.integers(0, 100, rows) / 7),
        "doubles, 100000 distinct": pa.array(rng.integers(0, 100_000, rows) / 7),
        "doubles, full": pa.array(rng.uniform(0, 100, rows)),
        "doubles, full, walking": pa.array(walk),
        "ints below 1000": pa.array(rng.integers(0, 1000, rows)),
        "ints counting up": pa.array(np.cumsum(rng.integers(0, 50, rows))),
        "bools": pa.array(rng.integers(0, 2, rows).astype(bool)),
        "tags, 3 distinct": codes([f"region-{i}" for i in range(3)]),
        "tags, 8 distinct": codes([f"region-{i}" for i in range(8)]),
        "tags, 1000 distinct": codes([f"host-{i:04d}" for i in range(1000)]),
        "nulls": pa.nulls(rows, pa.float64()),
    }


def column_benches() -> list[Bench]:
    """Each sort of column in each way that makes sense for it."""
    out = []
    for kind, array in column_kinds().items():
        table = pa.table({"v": array})
        ways = {"plain": _PLAIN, "dictionary": _DICTIONARY}
        if pa.types.is_integer(array.type) or pa.types.is_timestamp(array.type):
            ways["delta"] = _encoding("DELTA_BINARY_PACKED")
        if pa.types.is_floating(array.type) or "delta" in ways:
            ways["byte stream split"] = _encoding("BYTE_STREAM_SPLIT")
        if pa.types.is_dictionary(array.type):
            ways = {"dictionary": _DICTIONARY}
        for (way, options), codec in itertools.product(
            ways.items(), ("none", "snappy", "lz4", "zstd")
        ):
            name = f"column {kind}, {way}, {codec}"
            out.append(table_bench(name, table, options | {"compression": codec}))
    return out


def own_benches() -> list[Bench]:
    """Each sort of column in each way that our encoder has for it, beside a time of no weight."""
    out = []
    ways: tuple[ColumnEncoding, ...] = ("PLAIN", "DICTIONARY", "DELTA_BINARY_PACKED")
    for kind, array in column_kinds().items():
        table = pa.table({"v": array})
        has_differences = pa.types.is_integer(array.type) or pa.types.is_timestamp(array.type)
        for way, codec in itertools.product(ways, ("none", "lz4")):
            if way != "DELTA_BINARY_PACKED" or has_differences:
                out.append(own_bench(f"own {kind}, {way}, {codec}", table, way, codec))
    return out


def own_bench(name: str, table: pa.Table, encoding: ColumnEncoding, codec: str) -> Bench:
    """One column with our encoder."""

    def write() -> bytes:
        sink, leaves = MemorySink(), leaves_of(table.schema)
        assert leaves is not None
        writer = FileWriter(sink, leaves, lambda name: (encoding, CODECS[codec]))
        parquet.write_groups(table, writer)
        writer.finish({})
        return sink.whole()

    rows = table.num_rows
    name = f"{name}: {len(write()) / rows:.2f} B"
    return Bench(
        name, write, rows, table.nbytes, lambda data: check_reads_back(pa.py_buffer(data), table)
    )


# --- a whole record ----------------------------------------------------------------------------


@functools.cache
def record_table(workload: str = "c", arrangement: str = "interleaved") -> pa.Table:
    """A million rows of a workload, as a flush has them."""
    batches = flush_batches(workload, arrangement)
    (hour,) = build_tables(batches, schema_of(batches))
    return hour.table


def record_benches() -> list[Bench]:
    """Workload c as `plan` wants it, and with one thing changed at a time."""
    table = record_table()
    plan = parquet.plan(table, "lz4")
    base: Options = {
        "use_dictionary": list(plan.dictionary),
        "column_encoding": plan.encodings,
        "compression": plan.codecs,
        "write_statistics": ["time"],
    }
    text = [name for name, kind in zip(table.column_names, table.schema.types, strict=True)
            if pa.types.is_dictionary(kind)]  # fmt: skip
    changes: dict[str, Options] = {
        "as planned": {},
        "doubles plain": {
            "use_dictionary": text,
            "compression": {
                n: "lz4" if n in (*text, "time") else "none" for n in base["compression"]
            },
        },
        "no statistics": {"write_statistics": False},
        "all statistics": {"write_statistics": True},
        "batches of 1024": {"write_batch_size": 1024},
        "pages of 5000 rows": {"max_rows_per_page": 5_000},
        "pages of 64 Ki rows": {"max_rows_per_page": 65_536},
        "data page 2.0": {"data_page_version": "2.0"},
        "page index": {"write_page_index": True},
        "checksums": {"write_page_checksum": True},
    }
    changes |= {
        f"row groups of {rows // 1024} Ki": {"row_group_size": rows}
        for rows in (64 << 10, 128 << 10, 256 << 10, 512 << 10)
    }
    out = [table_bench(f"record {name}", table, base | more) for name, more in changes.items()]
    required = pa.schema([field.with_nullable(False) for field in table.schema])
    out.append(table_bench("record all required", table.cast(required), base))
    defaults = table_bench("record pyarrow's defaults", table, {})
    plain = table_bench("record pyarrow's defaults, plain text", as_plain(table), {})
    return [*out, defaults, plain]


# --- files -------------------------------------------------------------------------------------


def file_benches(folder: Path) -> list[Bench]:
    """`parquet.write` to fresh files, and the sync of them."""
    table, names = record_table(), itertools.count()

    def fresh() -> Path:
        for old in folder.iterdir():
            old.unlink()
        return folder / f"{next(names)}.parquet"

    out = []
    for codec in ("none", "lz4"):
        options = parquet.plan(table, codec)

        def write(path: Path, options: parquet.WriteOptions = options) -> parquet.FileStats:
            return parquet.write(table, path, options, {"arc:tags": "[]"})

        def written(write: Callable[[Path], parquet.FileStats] = write) -> Path:
            path = fresh()
            write(path)
            return path

        size, rows = write(fresh()).num_bytes, table.num_rows
        for name, fn, setup in (("write", write, fresh), ("sync", _sync, written)):
            name = f"file {name} {codec}: {size / rows:.2f} B"
            out.append(Bench(name, fn, rows, size, lambda found: None, setup))
    for rows in (1, 1_000, 10_000):
        small = table.slice(0, rows)
        options = parquet.plan(small)
        run = functools.partial(_write_and_remove, small, folder / "small.parquet", options)
        out.append(Bench(f"file of {rows} rows", run, rows, small.nbytes, lambda found: None))
    return out


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _write_and_remove(table: pa.Table, path: Path, options: parquet.WriteOptions) -> None:
    parquet.write(table, path, options, {"arc:tags": "[]"})
    path.unlink()


def plan_benches() -> list[Bench]:
    """The look at the values."""
    return [
        Bench(f"plan {workload} {codec}", functools.partial(parquet.plan, table, codec),
              table.num_rows, table.nbytes, lambda found: None)
        for workload in ("a", "c", "mixed")
        for table in [record_table(workload)]
        for codec in ("none", "lz4", "zstd")
    ]  # fmt: skip


def wide_benches() -> list[Bench]:
    """2 000 columns: 50 rows, and 5 000."""
    out = []
    for rows in (50, 5_000):
        times = pa.array(START_US + np.arange(rows)).cast(pa.timestamp("us", "UTC"))
        values = np.random.default_rng(6).uniform(size=rows)
        table = pa.table({"time": times} | {f"c{i}": values for i in range(2_000)})
        options = parquet.plan(table)

        def write(table: pa.Table = table, options: parquet.WriteOptions = options) -> int:
            sink: Any = _Counter()
            return parquet.write(table, sink, options).num_bytes

        size = write() / rows
        out.append(Bench(f"wide {rows} rows: {size:.0f} B", write, rows, table.nbytes,
                         lambda found: None))  # fmt: skip
    return out


class _Counter:
    """A binary file that only counts."""

    def write(self, data: Any) -> int:
        """Count."""
        return len(data)


if __name__ == "__main__":
    tune_heap()  # as a worker does
    with tempfile.TemporaryDirectory() as scratch:
        everything = [
            *record_benches(),
            *file_benches(Path(scratch)),
            *plan_benches(),
            *wide_benches(),
            *own_benches(),
            *column_benches(),
        ]
        raise SystemExit(main(everything))
