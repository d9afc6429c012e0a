"""How the cost of a row grows with rows a request, with columns and with measurements.

In: sizes. Out: `Curve`s of CPU nanoseconds through the whole pipeline, for a row, or a value where
columns differ. The same number of rows, or values, goes through it at every point, so that what a
flush costs once is the same part of each. Rows that were stored are counted.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.audit.bodies import DATABASE, Body
from benchmarks.audit.passes import FIRST_AT, accept, opened, quiet_collector
from benchmarks.audit.schema import Curve, median_of


@dataclass(frozen=True)
class Sizes:
    """What is varied, and how much goes through the pipeline at each point.

    Attributes:
        rows: Rows of a request.
        columns: Columns of a row, the time included.
        measurements: Tables that requests of 1 000 rows go to in turn.
        total_rows: At each point but those of columns.
        total_values: At each point of columns.
        repeats: Of every point; all points alternate.
    """

    rows: Sequence[int]
    columns: Sequence[int]
    measurements: Sequence[int]
    total_rows: int
    total_values: int
    repeats: int


FULL = Sizes(
    rows=(10, 100, 1_000, 10_000, 100_000),
    columns=(3, 6, 30, 300),
    measurements=(1, 10, 100, 1_000),
    total_rows=1_000_000,
    total_values=6_000_000,
    repeats=3,
)
QUICK = Sizes((100, 1_000, 10_000), (3, 30, 300), (1, 10), 20_000, 120_000, 2)

BODY_ROWS = 1_000


@dataclass(frozen=True)
class _Point:
    over: str
    at: int
    rows: int
    columns: int
    measurements: int
    requests: int

    @property
    def units(self) -> int:
        """Rows, or values, that the cost is told for."""
        rows = self.rows * self.requests
        return rows * self.columns if self.over == "columns" else rows


def _points(sizes: Sizes) -> list[_Point]:
    total = sizes.total_rows
    rows = [_Point("rows", n, n, 6, 1, max(1, total // n)) for n in sizes.rows]
    columns = [
        _Point("columns", n, BODY_ROWS, n, 1, max(1, sizes.total_values // n // BODY_ROWS))
        for n in sizes.columns
    ]
    tables = [
        _Point("measurements", n, BODY_ROWS, 6, n, max(n, total // BODY_ROWS))
        for n in sizes.measurements
    ]
    return rows + columns + tables


def curves(sizes: Sizes) -> tuple[list[Curve], list[str]]:
    """Every curve, and what was wrong."""
    points = _points(sizes)
    samples: dict[_Point, list[float]] = {point: [] for point in points}
    wrong = []
    for _ in range(sizes.repeats):
        for point in points:
            ns, stored = _measure(point)
            samples[point].append(ns)
            if stored != point.rows * point.requests:
                wrong.append(
                    f"scaling over {point.over}, {point.at:,}: {point.rows * point.requests:,} "
                    f"rows were sent, {stored:,} are stored"
                )
    out = []
    for over in dict.fromkeys(point.over for point in points):
        unit = "ns/value" if over == "columns" else "ns/row"
        own = [(p.at, median_of(unit, ns)) for p, ns in samples.items() if p.over == over]
        out.append(Curve(over, tuple(own)))
    return out, wrong


def _measure(point: _Point) -> tuple[float, int]:
    """CPU nanoseconds a row or value, and rows that were stored."""
    names = [f"m{i:04d}" for i in range(point.measurements)]
    bodies = [Body("columnar", point.rows, point.columns, "b", name) for name in names]
    firsts = [Body("columnar", 1, point.columns, "b", name) for name in names]
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as name, quiet_collector():
        folder = Path(name)
        took_s = asyncio.run(_run(folder, firsts, bodies, point))
        return took_s / point.units * 1e9, _rows_stored(folder) - point.measurements


async def _run(
    folder: Path, firsts: Sequence[Body], bodies: Sequence[Body], point: _Point
) -> float:
    async with opened(folder) as pipeline:
        for body in firsts:
            await accept(pipeline, body.head(), body.at(FIRST_AT))
        await pipeline.drain()
        took_s, row = 0.0, 0
        for i in range(point.requests):
            body = bodies[i % len(bodies)]
            sent = body.at(row)
            row += body.num_rows
            before = time.process_time()
            await accept(pipeline, body.head(), sent)
            took_s += time.process_time() - before
        before = time.process_time()
        await pipeline.drain()
        return took_s + time.process_time() - before


def _rows_stored(folder: Path) -> int:
    paths = (folder / DATABASE).glob("*/*/*/*/*/*.parquet")
    return sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
