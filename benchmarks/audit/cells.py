"""The cells of the matrix, measured: every repeat goes over all of them, so that they alternate.

In: cells, how often, how many requests. Out: a `CellResult` for each, with the reason where there
is no figure, and what was wrong with the files. Noise that lasts minutes shows in the spread of
the repeats, since minutes lie between two repeats of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.audit.bodies import Requests, TooLargeError
from benchmarks.audit.matrix import passes, same_as
from benchmarks.audit.memory import UNIT as MEMORY_UNIT
from benchmarks.audit.memory import NoMemrayError, allocated, figure_of
from benchmarks.audit.passes import run_pass
from benchmarks.audit.schema import Cell, CellResult, Figure, median_of, missing, percentile_of

#: Allocations hardly differ from one repeat to the next, so these tell their noise.
MEMORY_REPEATS = 2

Tell = Callable[[str], None]


@dataclass
class _Samples:
    """What the repeats of one cell gave so far."""

    why: str = ""
    why_no_memory: str = "not measured"
    requests: int = 0
    rows_per_cpu_s: list[float] = field(default_factory=list)
    rows_per_s: list[float] = field(default_factory=list)
    request_us: list[list[float]] = field(default_factory=list)
    allocated: list[float] = field(default_factory=list)


def measure(
    chosen: Sequence[Cell], repeats: int, requests: int, tell: Tell
) -> tuple[list[CellResult], list[str]]:
    """Measure cells.

    Args:
        chosen: In the order of the report.
        repeats: Passes over all of them, at least 2.
        requests: Of one repeat of a cell, where its rows allow it.
        tell: Called with the name of a cell before each of its repeats.

    Returns:
        One result for each cell, and what was wrong.
    """
    samples = {cell: _Samples(why=_why_not(cell)) for cell in chosen}
    wrong: list[str] = []
    for _ in range(repeats):
        for cell in chosen:
            tell(cell.name)
            if not samples[cell].why:
                _repeat(cell, samples[cell], requests, wrong)
    return [_result(cell, samples[cell]) for cell in chosen], wrong


def _why_not(cell: Cell) -> str:
    same = same_as(cell)
    return f"the same requests as {same.name}" if same else ""


def _repeat(cell: Cell, found: _Samples, requests: int, wrong: list[str]) -> None:
    try:
        made = Requests(cell, passes(cell, requests))
    except TooLargeError as error:
        found.why = str(error)
        return
    done = run_pass(made)
    if done.wrong:
        wrong.append(done.wrong)
    found.requests += len(made)
    found.rows_per_cpu_s.append(done.rows / done.cpu_s)
    found.rows_per_s.append(done.rows / done.wall_s)
    found.request_us.append(done.request_us)
    if len(found.allocated) < MEMORY_REPEATS:
        _allocations(found, made)


def _allocations(found: _Samples, made: Requests) -> None:
    """The same requests once more, under memray."""
    try:
        found.allocated.append(allocated(made))
    except NoMemrayError as error:
        found.why_no_memory = str(error)


def _result(cell: Cell, found: _Samples) -> CellResult:
    if found.why:
        none = {name: missing(unit, found.why) for name, unit in _UNITS.items()}
        return CellResult(cell, 0, **none)
    percentiles: dict[str, Figure] = {
        name: percentile_of("µs", name, found.request_us) for name in ("p50", "p95", "p99")
    }
    return CellResult(
        cell,
        found.requests,
        median_of("rows/s", found.rows_per_cpu_s),
        median_of("rows/s", found.rows_per_s),
        **percentiles,
        allocated=figure_of(found.allocated, found.why_no_memory),
    )


_UNITS = {
    "rows_per_cpu_s": "rows/s",
    "rows_per_s": "rows/s",
    "p50": "µs",
    "p95": "µs",
    "p99": "µs",
    "allocated": MEMORY_UNIT,
}
