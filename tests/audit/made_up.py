"""Findings with made-up figures: what the tests of the comparison and of the page start from."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.audit.schema import (
    VERSION,
    Cell,
    CellResult,
    Commit,
    Curve,
    Figure,
    Findings,
    Host,
    MemoryProfile,
    Metrics,
    Share,
    Summary,
    measured,
    missing,
)

A, B, C = (Cell("columnar", rows, "none") for rows in (1_000, 10_000, 250_000))
HOST = Host("m", "cpu", 2, 2**34, "Linux 6", (0.1, 0.1, 0.1), (1.0, 0.5, 0.2), {"python": "3.13"})


def figure(unit: str, value: float, noise: float) -> Figure:
    """A figure whose repeats spread by `noise`."""
    return measured(unit, value, (value * (1 - noise / 2), value, value * (1 + noise / 2)))


def cell(
    which: Cell,
    p95: float | None = 100.0,
    allocated: float | None = 50.0,
    noise: float = 0.1,
) -> CellResult:
    """A result; None: that figure is missing."""
    rate = figure("rows/s", 1e6, noise)
    made = missing("µs", "too few samples") if p95 is None else figure("µs", p95, noise)
    memory = missing("bytes/row", "no memray")
    if allocated is not None:
        memory = figure("bytes/row", allocated, 0.0)
    return CellResult(which, 40, rate, rate, made, made, made, memory)


def findings(
    cells: Sequence[CellResult],
    host: Host = HOST,
    quick: bool = False,
    wrong: tuple[str, ...] = (),
    method: str = "memray",
) -> Findings:
    """Findings that hold these cells and little else."""
    none = missing("ns/row", "not asked for")
    metrics = Metrics(
        cells=tuple(cells),
        load=(),
        stages=(Share("HTTP", none),),
        limits=(Share("loopback receive", none),),
        profile_stages=(),
        scaling=(Curve("rows", ((1, none),)),),
        memory=MemoryProfile(method, "c", none),
        imports=(),
        wheel_bytes=missing("bytes", "no hatchling"),
        benchmarks=(),
    )
    summary = Summary(
        started="2026-01-15T10:30:00+00:00",
        command="perf_audit.py",
        quick=quick,
        took_s=1.0,
        cpu_s=1.0,
        host=host,
        commit=Commit("abc", False),
        wrong=wrong,
        accepted_findings=0,
        findings={},
        why_no_hotspots="not asked for",
    )
    return Findings(VERSION, summary, metrics, (), (), ())
