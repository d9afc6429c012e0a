"""A flush up to its Arrow tables: concatenate, sort, dictionaries; and the whole up to Parquet.

`build` is `build_tables` on a million rows in batches of 1 000, by the order in which they came:
`sorted` as one client sends them; `turned` the same, batches shuffled; `interleaved` as 16
clients send at once, row i of client k at time 16 i + k; `random` without any order. `flush` is
`build` with `parquet.plan` and `parquet.write` to memory after it. `twin` is the same by pyarrow
alone: concat, sort_indices, take, dictionary_encode. `order`, `gather` and `dictionary` are the
kernels beside what NumPy and pyarrow have. The bytes given are bytes of memory of the batches.

    python -m benchmarks.bench_table_build               everything, about a minute
    python -m benchmarks.bench_table_build -k "flush c"  a flush of workload c
    python -m benchmarks.bench_table_build -k order      the sort kernel on times of many shapes
    python -m benchmarks.bench_table_build --lock        how long the interpreter's lock is held
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from arc.memory import tune_heap
from benchmarks.data import WORKLOADS, columnar_body, columns
from benchmarks.harness import Bench, main
from ingest import parquet
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.kernels import sort, strings
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.paths import HOUR_US
from ingest.schema import ColumnSpec, TableSchema
from ingest.table_build import HourTable, _order, build_tables

ROWS = 1_000_000
BATCH_ROWS = 1_000
CLIENTS = 16
START_US = 1_768_473_000_000_000
#: Different bodies; the rest repeat their values at other times.
BODIES = 200

Tables = list[HourTable]

# --- batches -----------------------------------------------------------------------------------


def times_of(arrangement: str, rows: int, batch_rows: int = BATCH_ROWS) -> NDArray[np.int64]:
    """Times in order of arrival: int64, shape (rows,), microseconds since 1970."""
    row = np.arange(rows, dtype=np.int64)
    after_us: dict[str, Callable[[], NDArray[np.int64]]] = {
        "sorted": lambda: row,
        "turned": lambda: row,
        "interleaved": lambda: _interleaved(row, batch_rows),
        "random": lambda: np.random.default_rng(1).permutation(row),
        "hours": lambda: row * (HOUR_US // 10),  # ten rows an hour
        "equal": lambda: np.zeros_like(row),
        "hour at random": lambda: np.random.default_rng(1).integers(0, HOUR_US, rows),
        "one series a batch": lambda: row % batch_rows * 1_000_000 + row // batch_rows,
        "one late client": lambda: 5 * row + (row % 1000 > 0) * (HOUR_US // 2),
    }
    times: NDArray[np.int64] = START_US + after_us[arrangement]()
    return times


def _interleaved(row: NDArray[np.int64], batch_rows: int) -> NDArray[np.int64]:
    block, inside = np.divmod(row, batch_rows * CLIENTS)
    client, i = np.divmod(inside, batch_rows)
    after: NDArray[np.int64] = block * batch_rows * CLIENTS + i * CLIENTS + client
    return after


@functools.cache
def flush_batches(
    workload: str, arrangement: str, rows: int = ROWS, batch_rows: int = BATCH_ROWS
) -> tuple[ColumnBatch, ...]:
    """Batches of one flush, as the decoder makes them, in order of arrival."""
    tags = WORKLOADS[workload].tags
    times = times_of(arrangement, rows, batch_rows)
    out: list[ColumnBatch] = []
    for start in range(0, rows, batch_rows):
        count = min(batch_rows, rows - start)
        values = columns(workload, count, start // batch_rows % BODIES)
        values["time"] = times[start : start + count]
        out += decode(columnar_body(values, "cpu", tags), 0, Limits())
    if arrangement == "turned":
        out = [out[i] for i in np.random.default_rng(2).permutation(len(out))]
    return tuple(out)


def schema_of(batches: Sequence[ColumnBatch]) -> TableSchema:
    """The schema that the batches need; a column has the type of its first appearance."""
    specs: dict[str, ColumnSpec] = {}
    for batch in batches:
        for name, column in batch.columns.items():
            specs.setdefault(name, ColumnSpec(column.type, name in batch.tags))
    return TableSchema(specs, 1)


# --- the twin ----------------------------------------------------------------------------------

_PLAIN_TYPES = {
    ColumnType.INT64: pa.int64(),
    ColumnType.FLOAT64: pa.float64(),
    ColumnType.UTF8: pa.utf8(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.BINARY: pa.binary(),
}


def plain_array(column: Column) -> pa.Array:
    """A column of a batch as an Arrow array."""
    mask = None if column.validity is None else ~column.validity
    if column.offsets is None:
        return pa.array(column.values, mask=mask)
    buffers = [None, pa.py_buffer(column.offsets), pa.py_buffer(column.values)]
    rows = column.offsets.size - 1
    array = pa.Array.from_buffers(_PLAIN_TYPES[column.type], rows, buffers)
    return array if mask is None else pc.if_else(pa.array(mask), None, array)


def plain_table(batch: ColumnBatch, schema: TableSchema) -> pa.Table:
    """A batch in the types and the order of its table, text as plain strings."""
    arrays = {"time": pa.array(batch.time_us).cast(pa.timestamp("us", "UTC"))}
    for name in schema.stored_order():
        stored = _PLAIN_TYPES[schema.columns[name].type]
        column = batch.columns.get(name)
        nulls = pa.nulls(batch.num_rows, stored)
        arrays[name] = nulls if column is None else plain_array(column).cast(stored)
    return pa.table(arrays)


def build_tables_plainly(batches: Sequence[ColumnBatch], schema: TableSchema) -> Tables:
    """The twin of `build_tables`, by pyarrow alone; text stays plain."""
    table = pa.concat_tables([plain_table(batch, schema) for batch in batches])
    times = table["time"].cast(pa.int64()).to_numpy()
    order = np.argsort(times, kind="stable")
    table, times = table.take(pa.array(order)).combine_chunks(), times[order]
    hours, starts = np.unique(times // HOUR_US, return_index=True)
    ends = [*starts[1:].tolist(), times.size]
    return [
        HourTable(hour * HOUR_US, table.slice(start, end - start), times[start], times[end - 1])
        for hour, start, end in zip(hours.tolist(), starts.tolist(), ends, strict=True)
    ]


def as_plain(table: pa.Table) -> pa.Table:
    """A table without dictionaries, all fields nullable: what twins are compared in."""
    arrays = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        arrays[name] = column.cast(plain).combine_chunks()
    return pa.table(arrays)


def check_tables(found: Tables, expected: Tables) -> None:
    """Hold tables equal to those of the twin: hours, times, every value, every null."""
    assert [hour.hour_start_us for hour in found] == [hour.hour_start_us for hour in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.min_time_us, ours.max_time_us) == (theirs.min_time_us, theirs.max_time_us)
        ours.table.validate(full=True)
        assert as_plain(ours.table).equals(as_plain(theirs.table))


# --- benchmarks --------------------------------------------------------------------------------


class _Nowhere:
    """A binary file that keeps what it was given."""

    data: Any = None

    def write(self, data: Any) -> int:
        """Keep it."""
        self.data = data
        return len(data)


def flush(
    batches: Sequence[ColumnBatch], schema: TableSchema, compression: parquet.Compression
) -> list[Any]:
    """All that a flush does on the CPU; the bytes of its files."""
    files = []
    for hour in build_tables(batches, schema):
        sink: Any = _Nowhere()
        parquet.write(hour.table, sink, parquet.plan(hour.table, compression), {"arc:tags": "[]"})
        files.append(sink.data)
    return files


def build_benches(workload: str, arrangement: str, rows: int, twin: bool = False) -> list[Bench]:
    """`build` of one flush, `flush` with each codec, and the twin on request."""
    batches = flush_batches(workload, arrangement, rows)
    schema = schema_of(batches)
    nbytes = sum(batch.nbytes for batch in batches)
    expected = functools.cache(lambda: build_tables_plainly(batches, schema))
    size = f"{rows // 1_000_000}M" if rows >= 1_000_000 else str(rows)
    name = f"{workload} {arrangement} {size}"

    def bench(kind: str, fn: Callable[[], Any], check: Callable[[Any], None]) -> Bench:
        return Bench(f"{kind} {name}", fn, rows, nbytes, check)

    def check_build(found: Tables) -> None:
        check_tables(found, expected())

    def check_files(files: Sequence[Any]) -> None:
        for data, hour in zip(files, expected(), strict=True):
            found = pq.read_table(pa.BufferReader(data)).replace_schema_metadata()
            assert as_plain(found).equals(as_plain(hour.table))

    out = [bench("build", lambda: build_tables(batches, schema), check_build)]
    for codec in ("none", "lz4"):
        per_row = sum(len(data) for data in flush(batches, schema, codec)) / rows
        run = functools.partial(flush, batches, schema, codec)
        out.append(bench(f"flush {codec} {per_row:.1f} B/row", run, check_files))
    if twin:
        out.append(bench("twin", lambda: build_tables_plainly(batches, schema), lambda found: None))
    return out


def order_benches(rows: int = ROWS) -> list[Bench]:
    """The sort kernel and NumPy's stable argsort."""
    out = []
    shapes = ("interleaved", "random", "hour at random", "one series a batch", "one late client")
    for arrangement in shapes:
        times = times_of(arrangement, rows)
        expected = np.argsort(times, kind="stable")

        def check(found: Any, expected: NDArray[Any] = expected) -> None:
            np.testing.assert_array_equal(found, expected)

        ours = functools.partial(_order, times, *sort.survey(times))
        numpys = functools.partial(np.argsort, times, kind="stable")
        out.append(Bench(f"order {arrangement}", ours, rows, times.nbytes, check))
        out.append(Bench(f"order {arrangement}, argsort", numpys, rows, times.nbytes, check))
    return out


def gather_benches(rows: int = ROWS) -> list[Bench]:
    """Values put into another order: the kernel, NumPy and pyarrow."""
    order = np.argsort(times_of("interleaved", rows), kind="stable").astype(np.uint32)
    values = np.random.default_rng(3).uniform(size=rows)
    out, array, indices = np.empty_like(values), pa.array(values), pa.array(order)

    def ours() -> NDArray[Any]:
        sort.gather(values, order, out)
        return out

    def check(found: Any) -> None:
        np.testing.assert_array_equal(found, values[order])

    ways: dict[str, Callable[[], Any]] = {
        "kernel": ours,
        "np.take": lambda: np.take(values, order, out=out, mode="clip"),
        "pa.take": lambda: array.take(indices),
    }
    return [Bench(f"gather {name}", fn, rows, values.nbytes, check) for name, fn in ways.items()]


def dictionary_benches(rows: int = ROWS) -> list[Bench]:
    """Strings to codes: the kernel and pyarrow."""
    rng = np.random.default_rng(4)
    sorts = {
        "8 of 8 bytes": [f"region-{i}" for i in range(8)],
        "1000 of 9 bytes": [f"host-{i:04d}" for i in range(1000)],
        "1000 of 25 bytes": [f"server-{i:04d}.eu-west-1.prod" for i in range(1000)],
        "50000 of 12 bytes": [f"client-{i:05d}" for i in range(50_000)],
        "as many as rows": [f"trace-{i:08x}" for i in range(rows)],
    }
    out = []
    for name, words in sorts.items():
        plain = pa.array(words).take(pa.array(rng.integers(0, len(words), rows)))
        _, offsets, data = plain.buffers()
        padded = np.frombuffer(data.to_pybytes() + bytes(strings.PADDING_BYTES), np.uint8).copy()
        at = np.frombuffer(offsets, np.int32)[: rows + 1].copy()
        codes = np.empty(rows, np.int32)
        expected = plain.dictionary_encode().indices.to_numpy()

        def check(
            found: tuple[int, Any],
            codes: NDArray[np.int32] = codes,
            expected: NDArray[Any] = expected,
        ) -> None:
            if found[0] != strings.GAVE_UP:
                np.testing.assert_array_equal(codes, expected)

        def check_twin(found: pa.Array, expected: NDArray[Any] = expected) -> None:
            np.testing.assert_array_equal(found.indices.to_numpy(), expected)

        ours = functools.partial(strings.encode, padded, at, rows // 4, 1 << 20, codes)
        out.append(Bench(f"dictionary {name}", ours, rows, padded.size, check))
        name = f"dictionary {name}, pyarrow"
        out.append(Bench(name, plain.dictionary_encode, rows, padded.size, check_twin))
    return out


def benches() -> list[Bench]:
    """Everything."""
    out = build_benches("c", "interleaved", ROWS, twin=True)
    for arrangement in ("sorted", "turned", "random"):
        out += build_benches("c", arrangement, ROWS)
    for workload in ("a", "b", "mixed"):
        out += build_benches(workload, "interleaved", ROWS)
    for rows in (1, 1_000, 10_000):
        out += build_benches("c", "sorted", rows)
    out += build_benches("c", "hours", 10_000)
    return out + order_benches() + gather_benches() + dictionary_benches()


# --- the interpreter's lock --------------------------------------------------------------------


def lock_report(workload: str = "c", arrangement: str = "interleaved") -> str:
    """What a Python loop in another thread keeps of its speed beside flushes.

    The loop does nothing but count and look at the clock: the share of its speed that it loses
    is the share of time for which the lock is held, as far as each thread has a core.
    """
    batches = flush_batches(workload, arrangement)
    schema = schema_of(batches)
    flush(batches, schema, "lz4")
    works: dict[str, Callable[[], object]] = {
        "build": lambda: [build_tables(batches, schema) for _ in range(10)],
        "build and Parquet": lambda: [flush(batches, schema, "lz4") for _ in range(10)],
    }
    lines = []
    for name, work in works.items():
        alone, _ = _count_beside(lambda: time.sleep(0.5))
        beside, longest_s = _count_beside(work)
        lines.append(
            f"{name}: a loop beside it keeps {beside / alone:.1%} of its speed, "
            f"longest stop {longest_s * 1e3:.2f} ms"
        )
    return "\n".join(lines)


def _count_beside(work: Callable[[], object]) -> tuple[float, float]:
    """Rounds a second of a Python loop while `work` runs in a thread, and its longest round."""
    thread = threading.Thread(target=work)
    rounds, longest_s = 0, 0.0
    gc.collect()
    thread.start()
    start = last = time.perf_counter()
    while thread.is_alive():
        now = time.perf_counter()
        longest_s = max(longest_s, now - last)
        last = now
        rounds += 1
    return rounds / (last - start), longest_s


if __name__ == "__main__":
    if "--lock" in sys.argv:
        tune_heap()
        print(lock_report())
        raise SystemExit(0)
    tune_heap()  # as a worker does: without it every array is mapped and touched anew
    raise SystemExit(main(benches()))
