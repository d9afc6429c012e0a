"""Decode one MessagePack body: the fast path, its slow twin, and a plain unpack to lists.

`decode` is what the daemon runs; `twin` is `decode_slow`, which it must agree with; `unpackb` is
ormsgpack, which stops at Python lists, where the work of typing columns only begins.

    python -m benchmarks.bench_decode                  everything, about a minute
    python -m benchmarks.bench_decode -k " c 1000"     workload c in three ways
    python -m benchmarks.bench_decode -k strings       strings of each sort
    python -m benchmarks.bench_decode -k numbers       numbers of each sort
    python -m benchmarks.bench_decode -k overhead      fixed cost of a request, a map, a column

In the names: sizes in bytes, `nil` for one value in ten. It ends with what one decoded batch
really holds, measured, beside what it is counted for.
"""

from __future__ import annotations

import functools
import gc
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ormsgpack

from benchmarks.data import WORKLOADS, workload_body
from benchmarks.harness import Bench, main
from ingest.columns import ColumnBatch
from ingest.limits import Limits
from ingest.msgpack_decoder import decode, decode_fast
from ingest.msgpack_slow import decode_slow
from ingest.testing import assert_same_batches

LIMITS = Limits()
NOW_US = 1_768_473_000_000_000


class Rotation:
    """One function over several bodies in turn, so that no branch predictor learns one by heart.

    On one body of 1 000 rows over and over, strings of differing length and integers of mixed
    width look up to twice as fast as they are.
    """

    def __init__(self, fn: Callable[[bytes], Any], bodies: Sequence[bytes]) -> None:
        self.fn = fn
        self.bodies = bodies
        self.last = 0

    def __call__(self) -> Any:
        """The next body's result."""
        self.last = (self.last + 1) % len(self.bodies)
        return self.fn(self.bodies[self.last])

    def body(self) -> bytes:
        """The body of the latest result."""
        return self.bodies[self.last]


def run_decode(body: bytes) -> list[ColumnBatch]:
    """The fast path, as the daemon calls it."""
    return decode(body, NOW_US, LIMITS)


def run_twin(body: bytes) -> list[ColumnBatch]:
    """The slow twin on the same body."""
    return decode_slow(body, NOW_US, LIMITS)


def run_unpack(body: bytes) -> Any:
    """Python lists of all values."""
    return ormsgpack.unpackb(body)


def decode_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """The fast path, which must not fall back, checked against the twin."""
    turn = Rotation(run_decode, bodies)

    def check(found: list[ColumnBatch]) -> None:
        assert decode_fast(turn.body(), NOW_US, LIMITS) is not None
        assert_same_batches(found, run_twin(turn.body()))

    return Bench(f"decode {name}", turn, rows, len(bodies[0]), check)


def twin_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """The slow twin, checked against the fast path."""
    turn = Rotation(run_twin, bodies)

    def check(found: list[ColumnBatch]) -> None:
        assert_same_batches(found, run_decode(turn.body()))

    return Bench(f"twin {name}", turn, rows, len(bodies[0]), check)


def unpack_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """Python lists by ormsgpack, checked for the number of rows."""

    def check(found: Any) -> None:
        assert {len(values) for values in found["columns"].values()} == {rows}

    return Bench(f"unpackb {name}", Rotation(run_unpack, bodies), rows, len(bodies[0]), check)


def workload_benches() -> list[Bench]:
    """Every workload at 1 000 and 10 000 rows a body, in three ways."""
    out: list[Bench] = []
    for rows, count in ((1_000, 64), (10_000, 8)):
        for name in WORKLOADS:
            bodies = [workload_body(name, rows, seed) for seed in range(count)]
            ways = (decode_bench, twin_bench, unpack_bench)
            out += [make(f"{name} {rows}", bodies, rows) for make in ways]
    return out


def column_benches(what: str, sorts: dict[str, list[list[Any]]]) -> list[Bench]:
    """The fast path on bodies of one column of a sort."""
    return [
        decode_bench(f"{what} {name}", [body_of(values) for values in columns], len(columns[0]))
        for name, columns in sorts.items()
    ]


def body_of(values: list[Any]) -> bytes:
    """A body of one column."""
    return ormsgpack.packb({"m": "cpu", "columns": {"v": values}})


def with_nils(rng: np.random.Generator, values: list[Any]) -> list[Any]:
    """The same values, one in ten of them nil."""
    gone = (rng.random(len(values)) < 0.1).tolist()
    return [None if nil else value for nil, value in zip(gone, values, strict=True)]


def string_benches(rows: int = 10_000, count: int = 4) -> list[Bench]:
    """One column of strings of one sort each."""
    rng = np.random.default_rng(7)

    def texts(low: int, high: int, letter: str = "x") -> list[list[Any]]:
        sizes = rng.integers(low, high + 1, (count, rows))
        return [[letter * int(size) for size in each] for each in sizes]

    return column_benches(
        "strings",
        {
            "of 9 bytes": texts(9, 9),
            "1-30": texts(1, 30),
            "1-30 nil": [with_nils(rng, values) for values in texts(1, 30)],
            "1-60": texts(1, 60),
            "32-200": texts(32, 200),
            "300-1000": texts(300, 1000),
            "accents": texts(1, 30, "é"),
        },
    )


def number_benches(rows: int = 10_000, count: int = 4) -> list[Bench]:
    """One column of numbers of one sort each."""
    rng = np.random.default_rng(8)
    doubles = rng.random((count, rows)).tolist()
    mixed = np.exp2(rng.uniform(0, 44, (count, rows))).astype(np.int64).tolist()
    return column_benches(
        "numbers",
        {
            "double": doubles,
            "double nil": [with_nils(rng, values) for values in doubles],
            "mixed int": mixed,
            "mixed int nil": [with_nils(rng, values) for values in mixed],
            "int 1 byte": rng.integers(0, 128, (count, rows)).tolist(),
            "int 3 bytes": rng.integers(200, 600, (count, rows)).clip(256).tolist(),
            "bool": (rng.random((count, rows)) < 0.5).tolist(),
        },
    )


def overhead_benches() -> list[Bench]:
    """What a request, a map and a column cost whatever they hold."""
    one = {"m": "cpu", "columns": {"time": [NOW_US], "v": [1.5]}}
    wide = {"m": "cpu", "columns": {"time": [NOW_US]} | {f"v{i}": [1.5] for i in range(99)}}
    return [
        decode_bench("overhead 2 columns", [ormsgpack.packb(one)], 1),
        decode_bench("overhead 100 columns", [ormsgpack.packb(wide)], 1),
        decode_bench("overhead 1000 maps", [ormsgpack.packb([one] * 1000)], 1000),
    ]


def held_bytes(make: Callable[[], object]) -> int:
    """Bytes that the result of `make` holds, by Python's and NumPy's allocators."""
    make()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    result = make()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return after - before


def report_memory(maps: int = 1_000) -> None:
    """Print what batches of one row hold, measured, beside what they are counted for."""
    for columns in (1, 2, 10, 100):
        fields = {f"v{i}": ["x"] for i in range(columns)}
        body = ormsgpack.packb([{"m": "cpu", "columns": fields}] * maps)
        held = held_bytes(functools.partial(run_decode, body)) / maps
        counted = sum(batch.nbytes for batch in run_decode(body)) / maps
        print(f"1 row, {columns} string columns: holds {held:,.0f} bytes, counted {counted:,.0f}")


def benches() -> list[Bench]:
    """All of them."""
    return workload_benches() + string_benches() + number_benches() + overhead_benches()


if __name__ == "__main__":
    code = main(benches())
    report_memory()
    raise SystemExit(code)
