"""Decode one Arrow IPC stream: the fast path, its twin, and MessagePack of the same rows.

`decode` is what the daemon runs; `twin` is `decode_slow`, which it must agree with; `msgpack` is
the decoder of columnar MessagePack, the next fastest door, on the same columns.

    python -m benchmarks.bench_arrow_ipc                  everything, half a minute
    python -m benchmarks.bench_arrow_ipc -k " c 1000"     workload c, all ways
    python -m benchmarks.bench_arrow_ipc -k types         columns that are not stored as they come
    python -m benchmarks.bench_arrow_ipc -k batches       10 000 rows in more than one record batch

MB/s are those of the body that is decoded, which differs between the two formats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from benchmarks.bench_decode import LIMITS, NOW_US, Rotation
from benchmarks.data import WORKLOADS, columns, workload_body
from benchmarks.harness import Bench, main
from ingest import msgpack_decoder
from ingest.arrow_ipc import decode, decode_fast
from ingest.arrow_slow import decode_slow
from ingest.columns import ColumnBatch
from ingest.testing import assert_same_batches


def stream(table: pa.Table, compression: str | None = None, chunk: int | None = None) -> bytes:
    """A table as an IPC stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=chunk)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def workload_table(workload: str, rows: int, seed: int) -> pa.Table:
    """The columns of a workload; its tags are declared in the metadata of the schema."""
    arrays = {name: pa.array(values) for name, values in columns(workload, rows, seed).items()}
    return pa.table(arrays).replace_schema_metadata({"arc:tags": '["host"]'})


def run_decode(body: bytes) -> list[ColumnBatch]:
    """As the daemon calls it."""
    return decode(body, NOW_US, LIMITS, "cpu")


def run_twin(body: bytes) -> list[ColumnBatch]:
    """The slow twin on the same body."""
    return decode_slow(body, NOW_US, LIMITS, "cpu")


def run_msgpack(body: bytes) -> list[ColumnBatch]:
    """The decoder of MessagePack."""
    return msgpack_decoder.decode(body, NOW_US, LIMITS)


def decode_bench(name: str, bodies: Sequence[bytes], rows: int, fast: bool = True) -> Bench:
    """What the daemon runs, by the fast path if so said, checked against the twin."""
    turn = Rotation(run_decode, bodies)

    def check(found: list[ColumnBatch]) -> None:
        assert (decode_fast(turn.body(), NOW_US, LIMITS, "cpu") is not None) == fast
        assert_same_batches(found, run_twin(turn.body()))

    return Bench(f"decode {name}", turn, rows, len(bodies[0]), check)


def twin_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """The slow twin, checked against what the daemon runs."""
    turn = Rotation(run_twin, bodies)

    def check(found: list[ColumnBatch]) -> None:
        assert_same_batches(found, run_decode(turn.body()))

    return Bench(f"twin {name}", turn, rows, len(bodies[0]), check)


def msgpack_bench(workload: str, rows: int, count: int) -> Bench:
    """Columnar MessagePack of the same rows, checked for their number and their times."""
    bodies = [workload_body(workload, rows, seed) for seed in range(count)]
    times = run_decode(stream(workload_table(workload, rows, 0)))[0].time_us

    def check(found: list[ColumnBatch]) -> None:
        assert [batch.num_rows for batch in found] == [rows]
        assert np.array_equal(found[0].time_us, times)

    return Bench(
        f"msgpack {workload} {rows}", Rotation(run_msgpack, bodies), rows, len(bodies[0]), check
    )


def workload_benches() -> list[Bench]:
    """Every workload at 1 000 and 10 000 rows a body, in three ways."""
    out: list[Bench] = []
    for rows, count in ((1_000, 64), (10_000, 8)):
        for name in WORKLOADS:
            bodies = [stream(workload_table(name, rows, seed)) for seed in range(count)]
            out.append(decode_bench(f"{name} {rows}", bodies, rows))
            out.append(twin_bench(f"{name} {rows}", bodies, rows))
            out.append(msgpack_bench(name, rows, count))
    return out


def type_benches(rows: int = 1_000) -> list[Bench]:
    """Workload c as data frames and other writers send it."""
    tables = [workload_table("c", rows, seed) for seed in range(64)]
    large = [cast(table, {pa.string(): pa.large_string()}) for table in tables]
    return [
        decode_bench(f"types large_utf8 {rows}", [stream(table) for table in large], rows),
        decode_bench(
            f"types dictionary {rows}",
            [stream(cast(table, {pa.string(): DICTIONARY})) for table in tables],
            rows,
            fast=False,
        ),
        decode_bench(
            f"types float32 {rows}",
            [stream(cast(table, {pa.float64(): pa.float32()})) for table in tables],
            rows,
            fast=False,
        ),
        decode_bench(f"types lz4 {rows}", [stream(t, "lz4") for t in tables], rows, fast=False),
        decode_bench(f"types zstd {rows}", [stream(t, "zstd") for t in tables], rows, fast=False),
    ]


DICTIONARY = pa.dictionary(pa.int32(), pa.string())


def cast(table: pa.Table, types: dict[pa.DataType, pa.DataType]) -> pa.Table:
    """A table with all columns of some types cast to others."""
    fields = [field.with_type(types.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def batch_benches(rows: int = 10_000) -> list[Bench]:
    """The same rows in one record batch and in several."""
    tables = [workload_table("c", rows, seed) for seed in range(8)]
    return [
        decode_bench(f"batches of {chunk}", [stream(t, None, chunk) for t in tables], rows)
        for chunk in (10_000, 1_000, 100)
    ]


def benches() -> list[Bench]:
    """All of them."""
    return workload_benches() + type_benches() + batch_benches()


if __name__ == "__main__":
    raise SystemExit(main(benches()))
