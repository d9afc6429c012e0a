"""Stored rows to arrays: by the schema or by inference, views and masks, batches, files.

    python -m benchmarks.bench_reader                  everything, and the ratios at the end
    python -m benchmarks.bench_reader -k mask          a part

Groups, each over the same rows, which alternate:

    column KIND        one column to NumPy: `arrays.column_to_numpy`, and `np.array(to_pylist())`,
                       which looks at every value to find the type
    mask               bitmap of a million values to a mask, and by unpackbits and reversal
    text               text to objects by either way, at so many distinct values
    chunks             a column of many chunks: joined by Arrow, or by NumPy after views
    ipc memory         a stream in memory, read and turned into arrays, by rows of a batch
    ipc http           the same through `Reader.read` from a server in another process, loopback
    files              a table of eight files by `Reader.read`, and the choices that it made

"inferred" is how arrays are made without a schema. It is never the reader's way: it is what the
ratios are against. All figures are CPU time of this process, all its threads together: on a shared
machine wall time tells what others do. The server of "ipc http" is not in them. Ratios are of the
medians of all rounds.
"""

from __future__ import annotations

import argparse
import gc
import http.server
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import structlog
from pyarrow.fs import LocalFileSystem
from rich.console import Console
from rich.table import Table

from arc.reader import MaskedColumn, Reader, arrays, snapshot, to_numpy
from benchmarks.harness import Bench, environment
from ingest import parquet
from ingest.columns import ColumnType
from ingest.instruments import null
from ingest.paths import HOUR_US, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.schema import ColumnSpec, TableSchema
from ingest.store import LocalStore, SystemCalls
from ingest.table_log import DeltaTableLog

ROWS = 1_000_000
#: Of columns that take microseconds a value by inference.
SLOW_ROWS = 100_000
SLOW_KINDS = frozenset({"time", "dictionary", "list"})
NULL_SHARE = 0.1
BATCH_ROWS = (1_000, 4_000, 16_000, 65_536, 262_144)
FILES, FILE_ROWS = 8, 250_000
#: Shortest sample, seconds of CPU.
MIN_SAMPLE_S = 0.02
START_US = 1_790_000_000_000_000 // HOUR_US * HOUR_US
TIME = pa.timestamp("us", "UTC")

#: (what is fast, what it is measured against, the ratio that is wanted)
RATIOS = [
    *[(f"column {kind}", f"column {kind} inferred", 100) for kind in ("int64", "float64", "time")],
    *[
        (f"column {kind} nulls", f"column {kind} nulls inferred", 20)
        for kind in ("int64", "float64", "time")
    ],
    *[
        (f"column {kind}", f"column {kind} inferred", None)
        for kind in ("bool", "list", "text", "text nulls", "bool nulls", "dictionary")
    ],
    ("mask little", "mask reversed", 8),
    ("ipc memory 65536", "ipc memory 1000", 1.8),
    ("ipc http 65536", "ipc http 1000", 1.8),
]


def rng() -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(2026)


# --- one column --------------------------------------------------------------------------------


def columns(rows: int = ROWS) -> dict[str, pa.Array]:
    """A column of each kind, without a missing value."""
    numbers = rng()
    hosts = pa.array([f"host-{i:04d}" for i in range(1_000)])
    codes = pa.array(numbers.integers(0, 1_000, rows).astype(np.int32))
    ends = np.arange(0, rows + 1, 4, dtype=np.int32)
    return {
        "int64": pa.array(numbers.integers(0, 1 << 40, rows)),
        "float64": pa.array(numbers.random(rows)),
        "time": pa.array(START_US + np.arange(rows) * 1_000, TIME),
        "bool": pa.array(numbers.random(rows) < 0.5),
        "text": hosts.take(codes),
        "dictionary": pa.DictionaryArray.from_arrays(codes, hosts),
        "list": pa.ListArray.from_arrays(pa.array(ends), pa.array(numbers.random(rows))),
    }


def with_nulls(column: pa.Array) -> pa.Array:
    """The same with one value in ten missing."""
    return pa.compute.if_else(pa.array(rng().random(len(column)) < NULL_SHARE), None, column)


def inferred(column: pa.Array) -> Any:
    """Without a schema: Python values, and an array by looking at them."""
    values = column.to_pylist()
    if pa.types.is_list(column.type):
        return [np.array(value) for value in values]
    if column.null_count:
        mask = np.array([value is None for value in values])
        return np.array([None if value is None else value for value in values]), mask
    return np.array(values)


def column_benches() -> list[Bench]:
    """Every kind by both ways."""
    out = []
    for kind, whole in columns().items():
        column = whole.slice(0, SLOW_ROWS) if kind in SLOW_KINDS else whole
        out += _both(kind, column)
        if kind not in ("list", "dictionary"):
            out += _both(f"{kind} nulls", with_nulls(column))
    return out


def _both(name: str, column: pa.Array) -> list[Bench]:
    rows, size = len(column), column.nbytes
    first, last = column[0].as_py(), column[-1].as_py()

    def check(found: Any) -> None:
        if column.null_count:
            assert isinstance(found, MaskedColumn)
            assert found.num_missing == column.null_count
        assert len(found) == rows
        assert _same(found[0], first)
        assert _same(found[-1], last)

    def check_inferred(found: Any) -> None:
        values = found[0] if column.null_count else found
        assert len(values) == rows
        assert _same(values[-1], last)

    return [
        Bench(f"column {name}", lambda: arrays.column_to_numpy(column), rows, size, check),
        Bench(f"column {name} inferred", lambda: inferred(column), rows, size, check_inferred),
    ]


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, np.datetime64):
        return bool(found == np.datetime64(expected.replace(tzinfo=None), "us"))
    return bool(np.all(found == expected))


# --- masks, text, chunks -----------------------------------------------------------------------


def mask_benches() -> list[Bench]:
    """The bitmap of a million values."""
    column = with_nulls(columns()["float64"])
    bitmap = column.buffers()[0]

    def reversed_bits() -> Any:
        """Most significant bits first, as `unpackbits` has them, and each byte turned over."""
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8))
        return ~bits.reshape(-1, 8)[:, ::-1].reshape(-1)[:ROWS].astype(np.bool_)

    def inverted_after() -> Any:
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=ROWS, bitorder="little")
        return ~bits.view(np.bool_)

    expected = np.asarray(column.is_null())

    def check(found: Any) -> None:
        assert np.array_equal(found, expected)

    ways: dict[str, Callable[[], Any]] = {
        "little": lambda: arrays.missing(column),
        "little, inverted after": inverted_after,
        "reversed": reversed_bits,
    }
    return [Bench(f"mask {name}", fn, ROWS, ROWS // 8, check) for name, fn in ways.items()]


def text_benches() -> list[Bench]:
    """Text by a dictionary, as it is, and as the reader chooses."""
    out = []
    for distinct in (10, 1_000, 100_000, ROWS):
        names = pa.array([f"host-{i:06d}" for i in range(distinct)])
        column = names.take(pa.array(rng().integers(0, distinct, ROWS)))
        last = column[-1].as_py()

        def check(found: Any, last: str = last) -> None:
            assert len(found) == ROWS
            assert found[-1] == last

        def encoded(column: pa.Array = column) -> Any:
            found = column.dictionary_encode()
            known = found.dictionary.to_numpy(zero_copy_only=False)
            return known[found.indices.to_numpy()]

        def plain(column: pa.Array = column) -> Any:
            return column.to_numpy(zero_copy_only=False)

        def of_numpy(column: pa.Array = column) -> Any:
            return np.array(column.to_numpy(zero_copy_only=False), np.dtypes.StringDType())

        def chosen(column: pa.Array = column) -> Any:
            return arrays.column_to_numpy(column)

        ways = {"chosen": chosen, "encoded": encoded, "plain": plain}
        if distinct == 1_000:
            ways["StringDType"] = of_numpy
        out += [
            Bench(f"text {distinct} {name}", fn, ROWS, column.nbytes, check)
            for name, fn in ways.items()
        ]
    return out


def chunk_benches() -> list[Bench]:
    """A column with missing values in chunks of 64 Ki rows."""
    whole = with_nulls(columns()["float64"])
    pieces = [whole.slice(start, 65_536) for start in range(0, ROWS, 65_536)]
    column = pa.chunked_array(pieces)
    missing = whole.null_count

    def by_numpy() -> Any:
        found = [arrays.column_to_numpy(piece) for piece in column.chunks]
        masked = [one for one in found if isinstance(one, MaskedColumn)]
        return MaskedColumn(
            np.concatenate([one.values for one in masked]),
            np.concatenate([one.mask for one in masked]),
        )

    def check(found: Any) -> None:
        assert (len(found), found.num_missing) == (ROWS, missing)

    ways: dict[str, Callable[[], Any]] = {
        "by Arrow": lambda: arrays.column_to_numpy(column),
        "by NumPy": by_numpy,
    }
    return [Bench(f"chunks {name}", fn, ROWS, whole.nbytes, check) for name, fn in ways.items()]


# --- streams -----------------------------------------------------------------------------------


def wire_table() -> pa.Table:
    """A time, a text, three doubles and an integer, of which one double has missing values."""
    made = columns()
    return pa.table(
        {
            "time": made["time"],
            "host": made["text"],
            "a": made["float64"],
            "b": with_nulls(made["float64"]),
            "c": made["float64"],
            "n": made["int64"],
        }
    )


def ipc(rows: pa.Table, batch_rows: int) -> pa.Buffer:
    """An Arrow stream of batches of so many rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches(batch_rows):
            writer.write_batch(batch)
    return sink.getvalue()


def ipc_benches(url: str) -> list[Bench]:
    """Numbers of a stream in memory, and over HTTP, as arrays; text stays in Arrow."""
    rows = wire_table()
    numbers = [name for name in rows.column_names if name != "host"]
    reader = Reader(url)

    def check(found: Any) -> None:
        assert len(found["n"]) == ROWS
        assert found["n"][-1] == rows["n"][-1].as_py()

    out = []
    for size in BATCH_ROWS:
        stream = ipc(rows, size)

        def memory(stream: pa.Buffer = stream) -> Any:
            return to_numpy(pa.ipc.open_stream(stream).read_all().select(numbers))

        def over_http(size: int = size) -> Any:
            return to_numpy(reader.read(f"rows{size}").table.select(numbers))

        out += [
            Bench(f"ipc memory {size}", memory, ROWS, stream.size, check),
            Bench(f"ipc http {size}", over_http, ROWS, stream.size, check),
        ]
    return out


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers a query for the table rows<N> with batches of N rows, in chunks of one batch."""

    protocol_version = "HTTP/1.1"
    streams: dict[int, list[memoryview]]

    def do_POST(self) -> None:
        """Answer any query."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["sql"]
        size = int(asked.split('"rows')[1].split('"')[0])
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in self.streams[size]:
            self.wfile.write(b"%x\r\n" % len(piece))
            self.wfile.write(piece)
            self.wfile.write(b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _serve(ready: Connection) -> None:
    rows = wire_table()
    _Handler.streams = {}
    for size in BATCH_ROWS:
        stream = memoryview(ipc(rows, size))
        step = len(stream) * size // ROWS + 1
        pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
        _Handler.streams[size] = pieces
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    ready.send(server.server_port)
    server.serve_forever()


@contextmanager
def loopback() -> Iterator[str]:
    """A server in a process of its own; its URL."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


# --- files -------------------------------------------------------------------------------------


class NoSync(SystemCalls):
    """A disk that need not be waited for: nothing here is to survive."""

    def sync(self, descriptor: int) -> None:
        """Believe it."""

    def sync_directory(self, path: Path) -> None:
        """Believe it."""


def store_files(root: Path) -> None:
    """A table of an hour a file, by the daemon's own code."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    table_id = TableId("default", "cpu")
    types = {"host": ColumnType.UTF8, "n": ColumnType.INT64}
    doubles = dict.fromkeys("abc", ColumnType.FLOAT64)
    schema = TableSchema({name: ColumnSpec(kind) for name, kind in (types | doubles).items()}, 1)
    store = LocalStore(root, NoSync())
    log = DeltaTableLog(store, "arc-000-bench", 0, null(), structlog.get_logger())
    for number in range(FILES):
        rows = _hour(number)
        first_us, last_us = (rows["time"][i].value for i in (0, -1))
        plan = parquet.plan(rows, "lz4")
        name = file_name(0, 1, number + 1, number + 1)

        def write(path: str, rows: pa.Table = rows, plan: parquet.WriteOptions = plan) -> None:
            parquet.write(rows, path, plan)

        staged = store.stage(
            f"{table_dir(table_id)}/{hour_dir(first_us)}/{name}",
            write,
            num_rows=FILE_ROWS,
            min_time_us=first_us,
            max_time_us=last_us,
        )
        log.commit(table_id, [staged], LogRange(0, 1, number + 1, number + 1), schema)


def _hour(number: int) -> pa.Table:
    made = columns(FILE_ROWS)
    start_us = START_US + number * HOUR_US
    times = pa.array(start_us + np.arange(FILE_ROWS) * (HOUR_US // FILE_ROWS), TIME)
    walk = np.round(50 + np.cumsum(rng().normal(0, 0.3, FILE_ROWS)) % 50, 2)
    values = [times, made["dictionary"], made["int64"], made["float64"], with_nulls(pa.array(walk))]
    fields = [pa.field("time", TIME, nullable=False)]
    names = ["host", "n", "a", "b", "c"]
    fields += [pa.field(n, v.type) for n, v in zip(names[:4], values[1:], strict=True)]
    return pa.table(
        [*values, pa.array(walk)], schema=pa.schema([*fields, pa.field("c", pa.float64())])
    )


def file_benches(root: Path) -> list[Bench]:
    """All rows, some rows, some columns; and what the reader might have done instead."""
    store_files(root)
    reader, rows = Reader(root), FILES * FILE_ROWS
    taken = snapshot.take(root / "default" / "cpu")
    size = sum(Path(file.path).stat().st_size for file in taken.files)
    end = START_US + HOUR_US

    def scan(mapped: bool = False, pool: str | None = None, **options: Any) -> Any:
        disk, kind = LocalFileSystem(use_mmap=mapped), ds.ParquetFileFormat()
        fragments = [kind.make_fragment(file.path, disk) for file in taken.files]
        dataset = ds.FileSystemDataset(fragments, taken.schema, kind, disk)
        memory = None if pool is None else getattr(pa, f"{pool}_memory_pool")()
        return dataset.to_table(memory_pool=memory, **({"batch_size": 1 << 20} | options))

    def of_pool(pool: str) -> Callable[[], Any]:
        return lambda: scan(pool=pool)

    unbuffered = ds.ParquetFragmentScanOptions(pre_buffer=False)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "read": (lambda: reader.read("cpu"), rows),
        "read, arrays": (lambda: reader.read("cpu").to_numpy()["n"], rows),
        "read one hour": (lambda: reader.read("cpu", end=end), FILE_ROWS),
        "read two columns": (lambda: reader.read("cpu", columns=["time", "a"]), rows),
        "read one host": (lambda: reader.read("cpu", where={"host": "host-0001"}), -rows),
        "scan": (scan, rows),
        "scan mapped": (lambda: scan(mapped=True), rows),
        "scan mapped, not prebuffered": (
            lambda: scan(mapped=True, fragment_scan_options=unbuffered),
            rows,
        ),
        "scan not prebuffered": (lambda: scan(fragment_scan_options=unbuffered), rows),
        "scan batches of 131072": (lambda: scan(batch_size=1 << 17), rows),
        "scan one thread": (lambda: scan(use_threads=False), rows),
        **{f"scan pool {pool}": (of_pool(pool), rows) for pool in pa.supported_memory_backends()},
    }
    return [
        Bench(f"files {name}", fn, abs(found), size, _has(found))
        for name, (fn, found) in ways.items()
    ]


def _has(rows: int) -> Callable[[Any], None]:
    def check(found: Any) -> None:
        assert len(found) == rows or (rows < 0 < len(found))

    return check


# --- the run -----------------------------------------------------------------------------------


def run(benches: Sequence[Bench], repeats: int) -> dict[str, list[float]]:
    """CPU seconds a call of each, `repeats` times, alternating; what it gives is checked first."""
    samples: dict[str, list[float]] = {bench.name: [] for bench in benches}
    loops = {}
    for bench in benches:
        bench.check(bench.fn())
        loops[bench.name] = max(1, round(MIN_SAMPLE_S / max(_cpu_s(bench, 1), 1e-7)))
    for _ in range(repeats):
        for bench in benches:
            samples[bench.name].append(_cpu_s(bench, loops[bench.name]))
    return samples


def _cpu_s(bench: Bench, loops: int) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        for _ in range(loops):
            bench.fn()
        return (time.process_time() - start) / loops
    finally:
        gc.enable()


def figures(benches: Sequence[Bench], samples: dict[str, list[float]]) -> Table:
    """One line a benchmark."""
    out = Table(title=None, box=None, pad_edge=False)
    for header in ("benchmark", "µs a call", "least", "most", "ns a row"):
        out.add_column(header, justify="left" if header == "benchmark" else "right", no_wrap=True)
    for bench in benches:
        taken = samples[bench.name]
        middle = statistics.median(taken)
        shown = [f"{value * 1e6:,.1f}" for value in (middle, min(taken), max(taken))]
        out.add_row(bench.name, *shown, f"{middle / bench.rows * 1e9:.2f}")
    return out


def ratios(samples: dict[str, list[float]]) -> Table:
    """How many times less CPU time, where both were measured."""
    taken = {name: statistics.median(values) for name, values in samples.items()}
    out = Table(title=None, box=None, pad_edge=False)
    for header in ("faster", "µs", "than", "µs", "times", "wanted"):
        out.add_column(header, justify="left" if header in ("faster", "than") else "right")
    for fast, slow, wanted in RATIOS:
        if fast in taken and slow in taken:
            ratio = taken[slow] / taken[fast]
            least = [f"{taken[name] * 1e6:,.1f}" for name in (fast, slow)]
            goal = "" if wanted is None else f"≥ {wanted}"
            out.add_row(fast, least[0], slow, least[1], f"{ratio:,.1f}", goal)
    return out


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Stored rows to arrays.")
    parser.add_argument("-k", metavar="WORD", default="", help="only those with WORD in the name")
    parser.add_argument("--repeats", type=int, default=5, help="samples for each (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line picks; print the results and their ratios."""
    args = _parse(argv)
    console = Console()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        made = column_benches() + mask_benches() + text_benches() + chunk_benches()
        made += ipc_benches(stack.enter_context(loopback())) + file_benches(Path(folder))
        chosen = [bench for bench in made if args.k in bench.name]
        if not chosen:
            console.print(f"no benchmark has {args.k!r} in its name")
            return 1
        samples = run(chosen, args.repeats)
    console.print(figures(chosen, samples))
    console.print(ratios(samples))
    if args.json:
        report = {"environment": environment(), "cpu_s": samples}
        args.json.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
