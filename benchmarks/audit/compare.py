"""Whether a change is worth keeping, from the findings of before and after it. Pure.

In: two `Findings`. Out: a `Verdict`: a line for each cell, and whether the change is accepted. It
is, when p95 or the allocated bytes improve on at least two workloads, and no cell is worse than
the noise that repeats showed. Files that cannot be compared are refused: another matrix, machine
or version makes another figure.

The noise of a figure is the larger of the two spreads of its repeats, (largest - smallest) /
median, before and after; never below `LEAST_NOISE`. Where a repeat of the one lies among those of
the other, they are alike as well: one outlier moves a percentile of few samples far. Fewer than
`LEAST_REPEATS` show too little of the noise to judge by. Throughput is not judged: it is what
clients offer, and p95 is what they see of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.audit.schema import Cell, CellResult, Figure, Findings

#: Repeats that agree by luck show less noise than there is.
LEAST_NOISE = {"p95": 0.05, "allocated": 0.01}
LEAST_REPEATS = {"p95": 3, "allocated": 2}
#: Cells on which a figure has to improve.
NEEDED = 2

BETTER, WORSE, ALIKE, UNKNOWN = "better", "worse", "alike", "not comparable"


class RefusedError(ValueError):
    """The two files say nothing about a change; the message says why, each reason on a line."""


@dataclass(frozen=True)
class Line:
    """One figure of one cell.

    Attributes:
        cell: Which.
        figure: "p95" or "allocated".
        before: None: not measured.
        after: The same.
        noise: A fraction; None where a figure is missing or has too few repeats.
        verdict: `BETTER`, `WORSE`, `ALIKE` or `UNKNOWN`.
        why: In words.
    """

    cell: Cell
    figure: str
    before: float | None
    after: float | None
    noise: float | None
    verdict: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """Whether the change is accepted, and why."""

    is_accepted: bool
    why: str
    lines: tuple[Line, ...]


def compare(before: Findings, after: Findings) -> Verdict:
    """Judge a change.

    Raises:
        RefusedError: the files cannot be compared.
    """
    if reasons := differences(before, after):
        raise RefusedError("\n".join(reasons))
    old = {result.cell: result for result in before.metrics.cells}
    lines = tuple(line for new in after.metrics.cells for line in judge(old[new.cell], new))
    if all(line.verdict == UNKNOWN for line in lines):
        raise RefusedError("no cell has a figure in both files")
    return _verdict(lines)


def _verdict(lines: Sequence[Line]) -> Verdict:
    worse = [line for line in lines if line.verdict == WORSE]
    better = {line.cell for line in lines if line.verdict == BETTER}
    if worse:
        count = len({line.cell for line in worse})
        return Verdict(False, f"{count} cells are worse than the noise", tuple(lines))
    if len(better) < NEEDED:
        return Verdict(False, f"{len(better)} cells are better, {NEEDED} have to be", tuple(lines))
    return Verdict(True, f"{len(better)} cells are better, none is worse", tuple(lines))


def judge(before: CellResult, after: CellResult) -> list[Line]:
    """Both figures of a cell."""
    return [
        _line(before.cell, "p95", before.p95, after.p95),
        _line(before.cell, "allocated", before.allocated, after.allocated),
    ]


def _line(cell: Cell, name: str, before: Figure, after: Figure) -> Line:
    if before.value is None and after.value is None:
        return Line(cell, name, None, None, None, UNKNOWN, after.why)
    if before.value is None or after.value is None:
        # What was measured before and is missing now may hide anything.
        verdict = UNKNOWN if before.value is None else WORSE
        which, why = ("before", before.why) if before.value is None else ("after", after.why)
        return Line(cell, name, before.value, after.value, None, verdict, f"{which}: {why}")
    noise = noise_of(name, before, after)
    if noise is None:
        why = f"fewer than {LEAST_REPEATS[name]} repeats show too little noise"
        return Line(cell, name, before.value, after.value, None, UNKNOWN, why)
    change = after.value / before.value - 1 if before.value else 0.0
    verdict = ALIKE
    if change > noise and min(after.repeats) > max(before.repeats):
        verdict = WORSE
    elif change < -noise and max(after.repeats) < min(before.repeats):
        verdict = BETTER
    why = f"{change:+.1%}, noise {noise:.1%}"
    return Line(cell, name, before.value, after.value, noise, verdict, why)


def noise_of(name: str, before: Figure, after: Figure) -> float | None:
    """The noise of a figure; None when one of the two has too few repeats."""
    if min(len(before.repeats), len(after.repeats)) < LEAST_REPEATS[name]:
        return None
    spreads = [before.spread, after.spread]
    known = [spread for spread in spreads if spread is not None]
    return max(LEAST_NOISE[name], *known) if len(known) == 2 else None


# --- what cannot be compared ---------------------------------------------------------------------


def differences(before: Findings, after: Findings) -> list[str]:
    """Why two files cannot be compared, in words; [] when they can."""
    out = []
    for when, found in (("before", before), ("after", after)):
        if found.summary.wrong:
            out.append(f"results of {when} are wrong: {'; '.join(found.summary.wrong)}")
    return out + _machine(before, after) + _matrix(before, after)


def _machine(before: Findings, after: Findings) -> list[str]:
    one, other = before.summary.host, after.summary.host
    facts = [
        ("machine", one.name, other.name),
        ("processor", one.cpu, other.cpu),
        ("cores", one.cores, other.cores),
        ("memory", one.memory_bytes, other.memory_bytes),
        ("kernel", one.kernel, other.kernel),
    ]
    facts += [
        (f"version of {name}", one.versions.get(name), other.versions.get(name))
        for name in sorted(one.versions.keys() | other.versions.keys())
    ]
    return [f"another {name}: {a} before, {b} after" for name, a, b in facts if a != b]


def _matrix(before: Findings, after: Findings) -> list[str]:
    out = []
    if before.summary.quick != after.summary.quick:
        said = {True: "quick", False: "full"}
        out.append(
            f"another matrix: {said[before.summary.quick]} before, "
            f"{said[after.summary.quick]} after"
        )
    one = {result.cell for result in before.metrics.cells}
    other = {result.cell for result in after.metrics.cells}
    for when, cells in (("before", one - other), ("after", other - one)):
        if cells:
            names = ", ".join(cell.name for cell in sorted(cells, key=lambda c: c.name)[:3])
            out.append(f"another matrix: {len(cells)} cells only {when}, such as {names}")
    ways = before.metrics.memory.method, after.metrics.memory.method
    if ways[0] != ways[1]:
        out.append(f"allocated bytes by {ways[0]} before, by {ways[1]} after")
    return out
