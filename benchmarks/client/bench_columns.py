"""Encode columns in the client, in both formats, and decode them as the daemon does.

Rows of a time, three doubles and two tags that all rows share; `text` has a column of short strings
besides. Each way is timed as the client takes it and, `the other way`, in the format that it does
not take, so that the rule of `arc.client.columns` can be judged. Calls come again, as those of a
producer do. 100 000 rows are ten batches.

    python -m benchmarks.client.bench_columns --cpu            everything, about a minute
    python -m benchmarks.client.bench_columns -k call          the client
    python -m benchmarks.client.bench_columns -k decode        the daemon
    python -m benchmarks.client.bench_columns -k "call numpy"
    python -m benchmarks.client.bench_columns -k check         how lists are looked at
    python -m benchmarks.client.bench_columns -k ipc           three ways to write an Arrow stream
    python -m benchmarks.client.bench_columns -k compress      zstd and gzip
    python -m benchmarks.client.bench_columns -k rows_of       the rows of a refused batch

`--cpu` shows processor time of the thread, least and median of 15 rounds, for a machine that has
other work to do; without it the clock counts, as in every benchmark here.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
import timeit
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from backports import zstd

from arc.client import columns_arrow, columns_lists
from arc.client.batch import WRITE_ARROW, Batch, Kind
from arc.client.columns import ColumnsEncoder, encode_columns
from arc.client.columns_wire import Column, Constant, Place, Values
from arc.client.contents import rows_of
from benchmarks.harness import Bench, main
from ingest import arrow_ipc, msgpack_decoder
from ingest.limits import Limits
from ingest.timestamps import TimeUnit

LIMITS = Limits()
SIZES = (1_000, 10_000, 100_000)
TAGS = {"host": "web-1", "region": "eu"}
BOUNDS: dict[str, Any] = {"batch_rows": 10_000, "batch_bytes": 4 << 20, "time_unit": "ns"}
T0_NS = 1_768_473_000_000_000_000

Encode = Callable[[], list[Batch]]


def arrays_of(rows: int, text: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Columns as NumPy arrays, text as objects."""
    rng = np.random.default_rng(rows)
    columns: dict[str, np.ndarray[Any, Any]] = {"time": T0_NS + np.arange(rows) * 1_000_000}
    columns |= {name: rng.uniform(0, 100, rows).round(2) for name in ("a", "b", "c")}
    if text:
        paths = [f"/api/{number}" for number in rng.integers(0, 97, rows)]
        columns["path"] = np.array(paths, dtype=object)
    return columns


def decoded(batch: Batch) -> Any:
    """What the daemon makes of a batch, by its fast path."""
    if batch.kind is Kind.ARROW:
        found = arrow_ipc.decode_fast(bytes(batch.body), 0, LIMITS, "cpu", frozenset(), TimeUnit.NS)
    else:
        found = msgpack_decoder.decode_fast(bytes(batch.body), 0, LIMITS, TimeUnit.NS)
    assert found is not None
    return found


def check_batches(columns: dict[str, np.ndarray[Any, Any]], batches: list[Batch]) -> None:
    """Every row is there, with its time and its numbers."""
    found = [part for batch in batches for part in decoded(batch)]
    times = np.concatenate([part.time_us for part in found])
    assert times.tolist() == (columns["time"] // 1_000).tolist()
    assert all(part.tags == TAGS.keys() for part in found)
    for name in ("a", "b", "c"):
        values = np.concatenate([part.columns[name].values for part in found])
        assert np.array_equal(values, columns[name])


# ----------------------------------------------------------------------- each way, both formats


def values_by_arrow(columns: dict[str, Any], prepared: Callable[[], list[Column]]) -> list[Batch]:
    """Columns that are no pyarrow arrays in an Arrow stream, which the client does not do."""
    found = [columns_arrow.from_values(column) for column in prepared()]
    bodies = columns_arrow.encode(found, BOUNDS["batch_rows"], BOUNDS["batch_bytes"])
    return [Batch(Kind.ARROW, WRITE_ARROW, (), body, rows, "cpu") for body, rows in bodies]


def prepared_columns(columns: dict[str, Any]) -> list[Column]:
    """Lists and arrays checked as the client does it, and the tags."""
    from arc.client import columns_numpy

    found: list[Column] = []
    for name, given in columns.items():
        place = Place("cpu", name)
        each: list[tuple[str, Values]]
        if isinstance(given, list):
            each = columns_lists.prepare(place, given, False, None)
        else:
            each = columns_numpy.prepare(place, given, False, None)
        found += [Column(sub, values, False) for sub, values in each]
    rows = len(columns["time"])
    return found + [Column(name, Constant(rows, tag), True) for name, tag in TAGS.items()]


def arrow_by_msgpack(columns: dict[str, Any]) -> list[Batch]:
    """Arrow arrays as MessagePack, which the client does not do."""
    plain = {
        name: array.to_pylist() if pa.types.is_string(array.type) else array.to_numpy()
        for name, array in columns.items()
    }
    return encode_columns("cpu", plain, tags=TAGS, **BOUNDS)


def ways(columns: dict[str, np.ndarray[Any, Any]]) -> dict[str, Encode]:
    """Calls by name."""
    lists = {name: array.tolist() for name, array in columns.items()}
    arrow = {name: pa.array(array) for name, array in columns.items()}
    encoder = ColumnsEncoder()

    def again(given: dict[str, Any]) -> list[Batch]:
        return encoder.encode("cpu", given, tags=TAGS, **BOUNDS)

    return {
        "numpy": lambda: again(columns),
        "numpy plain": lambda: encode_columns("cpu", columns, tags=TAGS, **BOUNDS),
        "numpy the other way": lambda: values_by_arrow(columns, lambda: prepared_columns(columns)),
        "lists": lambda: again(lists),
        "lists the other way": lambda: values_by_arrow(lists, lambda: prepared_columns(lists)),
        "pyarrow": lambda: again(arrow),
        "pyarrow the other way": lambda: arrow_by_msgpack(arrow),
    }


def call_benches() -> list[Bench]:
    """The client, from columns to batches."""
    out: list[Bench] = []
    for rows in SIZES:
        for text in (False, True):
            columns = arrays_of(rows, text)
            for name, encode in ways(columns).items():
                nbytes = sum(len(batch.body) for batch in encode())
                check = functools.partial(check_batches, columns)
                what = f"call {name}{' text' if text else ''} {rows}"
                out.append(Bench(what, encode, rows, nbytes, check))
    return out


def decode_benches() -> list[Bench]:
    """The daemon, from the bodies of both formats to batches of columns."""
    out: list[Bench] = []
    for rows in SIZES:
        for text in (False, True):
            columns = arrays_of(rows, text)
            for name, way in (("msgpack", "numpy"), ("arrow", "pyarrow")):
                batches = ways(columns)[way]()
                nbytes = sum(len(batch.body) for batch in batches)

                def run(batches: list[Batch] = batches) -> Any:
                    return [decoded(batch) for batch in batches]

                def check(found: Any, rows: int = rows) -> None:
                    assert sum(part.num_rows for parts in found for part in parts) == rows

                what = f"decode {name}{' text' if text else ''} {rows}"
                out.append(Bench(what, run, rows, nbytes, check))
    return out


# ------------------------------------------------------------------------------------ the parts


def check_benches(rows: int = 1_000) -> list[Bench]:
    """One list, encoded and found to be of one type, at once and value by value."""
    columns = arrays_of(rows, True)
    sorts = {"times": "time", "floats": "a", "text": "path"}
    out: list[Bench] = []
    for name, column in sorts.items():
        values = columns[column].tolist()
        for way in (columns_lists.prepare, columns_lists.prepare_slow):

            def run(way: Any = way, values: list[Any] = values) -> Any:
                return way(Place("cpu", "v"), values, False, None)

            def check(found: Any, values: list[Any] = values) -> None:
                ((_, listed),) = found
                assert listed.values is values
                assert listed.encoded is not None

            what = f"check {name} {'at once' if way is columns_lists.prepare else 'one by one'}"
            out.append(Bench(what, run, rows, 0, check))
    return out


def ipc_benches() -> list[Bench]:
    """One record batch to a stream."""
    out: list[Bench] = []
    for rows in (1_000, 10_000):
        batch = pa.record_batch({name: pa.array(v) for name, v in arrays_of(rows, True).items()})

        def by_writer(batch: Any = batch) -> bytes:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            return bytes(sink.getvalue().to_pybytes())

        def by_parts(batch: Any = batch) -> bytes:
            end = b"\xff\xff\xff\xff\x00\x00\x00\x00"
            return b"".join((batch.schema.serialize(), batch.serialize(), end))

        wanted = by_writer()

        def check(found: bytes, wanted: bytes = wanted) -> None:
            assert found == wanted

        out.append(Bench(f"ipc writer {rows}", by_writer, rows, len(wanted), check))
        out.append(Bench(f"ipc parts {rows}", by_parts, rows, len(wanted), check))
    return out


def compress_benches() -> list[Bench]:
    """One body at level 1."""
    out: list[Bench] = []
    for rows in (100, 1_000, 10_000):
        (batch,) = encode_columns("cpu", arrays_of(rows, False), tags=TAGS, **BOUNDS)
        body = bytes(batch.body)

        def check(found: bytes, body: bytes = body) -> None:
            whole = zlib.decompress(found, 31) if found[0] == 0x1F else zstd.decompress(found)
            assert whole == body

        by_gzip = functools.partial(zlib.compress, body, 1, 31)
        by_zstd = functools.partial(zstd.compress, body, 1)
        for name, run in (("zstd", by_zstd), ("gzip", by_gzip)):
            what = f"compress {name} {rows}, to {len(run()) / len(body):.0%}"
            out.append(Bench(what, run, rows, len(body), check))
    return out


def contents_benches(rows: int = 10_000) -> list[Bench]:
    """A batch to the dicts of its rows."""
    out: list[Bench] = []
    for text in (False, True):
        columns = arrays_of(rows, text)
        for way in ("numpy", "pyarrow"):
            (batch,) = ways(columns)[way]()

            def run(batch: Batch = batch) -> list[Any]:
                return list(rows_of(batch))

            def check(found: list[Any], times: Any = columns["time"]) -> None:
                assert [row["time"] for row in found] == times.tolist()

            what = f"rows_of {batch.kind}{' text' if text else ''} {rows}"
            out.append(Bench(what, run, rows, len(batch.body), check))
    return out


def benches() -> list[Bench]:
    """All of them."""
    return [
        *call_benches(),
        *decode_benches(),
        *check_benches(),
        *ipc_benches(),
        *compress_benches(),
        *contents_benches(),
    ]


def report_cpu(chosen: list[Bench], rounds: int = 15, sample_s: float = 0.01) -> None:
    """Print processor time in µs a call, all benchmarks in turn."""
    loops, samples = [], [[0.0] * rounds for _ in chosen]
    for bench in chosen:
        bench.check(bench.fn())
        loops.append(max(1, round(sample_s / timeit.timeit(bench.fn, number=1))))
    for number in range(rounds):
        for bench, loop, taken in zip(chosen, loops, samples, strict=True):
            spent_s = timeit.timeit(bench.fn, number=loop, timer=time.thread_time)
            taken[number] = spent_s / loop
    for bench, taken in zip(chosen, samples, strict=True):
        least, median = min(taken) * 1e6, statistics.median(taken) * 1e6
        per_row = least * 1e3 / bench.rows
        print(f"{bench.name:42} least {least:9.1f}  median {median:9.1f} µs {per_row:7.2f} ns/row")


if __name__ == "__main__":
    if "--cpu" in sys.argv:
        word = sys.argv[sys.argv.index("-k") + 1] if "-k" in sys.argv else ""
        report_cpu([bench for bench in benches() if word in bench.name])
    else:
        raise SystemExit(main(benches()))
