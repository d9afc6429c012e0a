"""Decode one body of MessagePack row maps: the fast path, its slow twin, and what others cost.

`decode` is what the daemon runs; `twin` is `decode_slow`, which it must agree with; `unpackb` is
ormsgpack, which stops at Python maps, where grouping into columns only begins; `columnar` is the
same rows sent as columns.

    python -m benchmarks.bench_decode_rows                  everything, about half a minute
    python -m benchmarks.bench_decode_rows -k "agent 1000"  1 000 rows in four ways
    python -m benchmarks.bench_decode_rows -k shape         rows of other shapes

`agent` is 3 tags and 5 fields a row (`benchmarks.data`). Of the shapes, `one field` has no tags,
`measurements` changes the measurement at every row, `differing` leaves a third of the fields out
of each row, `wide` has 100 fields, and `mixed` has strings of differing length and nils.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ormsgpack

from benchmarks.bench_decode import LIMITS, NOW_US, Rotation, run_decode, run_twin, run_unpack
from benchmarks.data import WORKLOADS, columnar_body, columns, row_body
from benchmarks.harness import Bench, main
from ingest.columns import ColumnBatch
from ingest.msgpack_decoder import decode_fast
from ingest.testing import assert_same_batches

#: Of the bodies that are sent in turn, so that no branch predictor learns one by heart.
BODIES = 32

#: Names of a hundred fields.
WIDE = [f"usage_{i}" for i in range(100)]


def decode_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """The fast path, which must not fall back, checked against the twin."""
    turn = Rotation(run_decode, bodies)

    def check(found: list[ColumnBatch]) -> None:
        assert decode_fast(turn.body(), NOW_US, LIMITS) is not None
        assert_same_batches(found, run_twin(turn.body()))

    return Bench(f"decode {name}", turn, rows, len(bodies[0]), check)


def twin_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """The slow twin, checked for the number of rows."""
    return Bench(f"twin {name}", Rotation(run_twin, bodies), rows, len(bodies[0]), counts(rows))


def unpack_bench(name: str, bodies: Sequence[bytes], rows: int) -> Bench:
    """Python maps by ormsgpack, checked for the number of rows."""

    def check(found: Any) -> None:
        assert len(found) == rows

    return Bench(f"unpackb {name}", Rotation(run_unpack, bodies), rows, len(bodies[0]), check)


def counts(rows: int) -> Callable[[list[ColumnBatch]], None]:
    """A check that as many rows were decoded."""

    def check(found: list[ColumnBatch]) -> None:
        assert sum(batch.num_rows for batch in found) == rows

    return check


def workload_bodies(workload: str, rows: int, count: int) -> tuple[list[bytes], list[bytes]]:
    """The same rows as row maps and as columns."""
    load = WORKLOADS[workload]
    made = [columns(workload, rows, seed) for seed in range(count)]
    by_row = [row_body(each, load.measurements[0], load.tags) for each in made]
    return by_row, [columnar_body(each, load.measurements[0], load.tags) for each in made]


def workload_benches() -> list[Bench]:
    """Rows of an agent at three sizes of body, in four ways."""
    out: list[Bench] = []
    for rows, count in ((100, BODIES), (1_000, BODIES), (10_000, 4)):
        by_row, by_column = workload_bodies("agent", rows, count)
        name = f"agent {rows}"
        out += [make(name, by_row, rows) for make in (decode_bench, twin_bench, unpack_bench)]
        out.append(
            Bench(
                f"columnar {name}",
                Rotation(run_decode, by_column),
                rows,
                len(by_column[0]),
                counts(rows),
            )
        )
    return out


def shape_benches(rows: int = 1_000) -> list[Bench]:
    """Rows of other shapes, by the fast path."""
    rng = np.random.default_rng(9)
    made = {
        "one field": [[{"v": v} for v in rng.random(rows).tolist()] for _ in range(BODIES)],
        "differing": [
            [present(each) for each in rng.random((rows, 6)).tolist()] for _ in range(BODIES)
        ],
        "wide": [
            [dict(zip(WIDE, each, strict=True)) for each in rng.random((rows, 100)).tolist()]
            for _ in range(2)
        ],
    }
    bodies = {name: [packed(fields, ["cpu"]) for fields in each] for name, each in made.items()}
    names = ["cpu", "mem", "disk", "net"]
    bodies["measurements"] = [packed(fields, names) for fields in made["one field"]]
    bodies["mixed"] = workload_bodies("mixed", rows, BODIES)[0]
    return [decode_bench(f"shape {name}", each, rows) for name, each in bodies.items()]


def present(values: list[float]) -> dict[str, float]:
    """Two in three of these as fields, and always the first."""
    return {f"field{i}": value for i, value in enumerate(values) if i == 0 or value > 1 / 3}


def packed(fields: list[dict[str, Any]], measurements: Sequence[str]) -> bytes:
    """An array of rows of these fields, 1 µs apart, the measurements taking turns."""
    return ormsgpack.packb(
        [
            {"m": measurements[i % len(measurements)], "t": NOW_US + i, "fields": each}
            for i, each in enumerate(fields)
        ]
    )


def benches() -> list[Bench]:
    """All of them."""
    return workload_benches() + shape_benches()


if __name__ == "__main__":
    raise SystemExit(main(benches()))
