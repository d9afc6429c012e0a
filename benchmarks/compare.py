"""Two sets of benchmark figures: what is better, what is worse, and what is noise. Pure.

In: cells of a baseline and of now, each with one value a round. Out: a `Judgement` of each cell.
Nothing here measures; `benchmarks.rounds` does.

A cell has changed when its median moved by more than the noise that was seen: the widest of

* NOISE_FLOOR,
* the spread over the rounds, (largest - smallest) / median, of the baseline and of now,
* how far the yardstick moved: work that is not ours, timed in every round. When other programs have
  the machine, or another machine is used, that moves too, and a figure that moved no further says
  nothing.

So a change within the noise is never called one, and a real one can be missed: more rounds on a
quiet machine find smaller ones. With five rounds each, chance alone puts all of now above all of
the baseline in one of 252 cells.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

NOISE_FLOOR = 0.03

#: A yardstick that moved by more than this says that the machine is another one now.
OTHER_MACHINE = 0.10

#: Begins the name of what is not ours.
YARDSTICK = "yardstick"


class Better(enum.StrEnum):
    """Which way is better."""

    LOWER = "lower"
    HIGHER = "higher"


class Change(enum.StrEnum):
    """What became of a cell."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "within noise"


class Cell(msgspec.Struct, frozen=True):
    """One figure.

    Attributes:
        name: The same in every run.
        unit: Of the values.
        better: Which way is.
        values: One a round, all above 0.
    """

    name: str
    unit: str
    better: Better
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median, a fraction."""
        return (max(self.values) - min(self.values)) / self.median


class Figures(msgspec.Struct, frozen=True):
    """All cells of one run.

    Attributes:
        cells: With those of the yardstick.
        rounds: How often each was measured.
        quick: Whether it was the short list.
        about: Machine, versions, commit.
    """

    cells: tuple[Cell, ...]
    rounds: int
    quick: bool = False
    about: dict[str, Any] = {}


class Judgement(msgspec.Struct, frozen=True):
    """One cell, before and now.

    Attributes:
        before: Of the baseline.
        now: Of this run.
        worse_by: How much worse the median is, a fraction; negative: better.
        noise: What it has to exceed to count.
    """

    before: Cell
    now: Cell
    worse_by: float
    noise: float

    @property
    def change(self) -> Change:
        """What became of it."""
        if self.worse_by > self.noise:
            return Change.WORSE
        return Change.BETTER if -self.worse_by > self.noise else Change.SAME


class NotComparableError(Exception):
    """Two runs that have nothing in common. The message says why."""


def compare(before: Figures, now: Figures) -> list[Judgement]:
    """Judge every cell that both have, those of the yardstick last.

    Raises:
        NotComparableError: they have no cell in common.
    """
    known = {cell.name: cell for cell in before.cells}
    pairs = [(known[cell.name], cell) for cell in now.cells if cell.name in known]
    if not any(not _is_yardstick(cell) for cell, _ in pairs):
        raise NotComparableError("the two runs have no benchmark in common; make a new baseline")
    moved = max((abs(_worse_by(a, b)) for a, b in pairs if _is_yardstick(a)), default=0.0)
    judged = []
    for old, new in sorted(pairs, key=lambda pair: _is_yardstick(pair[0])):
        noise = max(NOISE_FLOOR, old.spread, new.spread, 0.0 if _is_yardstick(old) else moved)
        judged.append(Judgement(old, new, _worse_by(old, new), noise))
    return judged


def _is_yardstick(cell: Cell) -> bool:
    return cell.name.startswith(YARDSTICK)


def _worse_by(before: Cell, now: Cell) -> float:
    """By how much now is worse: 0.1 takes 10 % longer, or does what took 10 % less."""
    if before.better is Better.LOWER:
        return now.median / before.median - 1
    return before.median / now.median - 1


def regressions(judged: Sequence[Judgement]) -> list[Judgement]:
    """The cells that are worse by more than noise, the yardstick left out."""
    ours = [one for one in judged if not _is_yardstick(one.before)]
    return [one for one in ours if one.change is Change.WORSE]


def remarks(before: Figures, now: Figures, judged: Sequence[Judgement]) -> list[str]:
    """What to know before believing the table, one sentence each."""
    out = []
    moved = [abs(one.worse_by) for one in judged if _is_yardstick(one.before)]
    if max(moved, default=0.0) > OTHER_MACHINE:
        out.append(
            f"the yardstick moved by {max(moved):.0%}: other programs have the machine, or had it "
            "when the baseline was made; only larger changes count"
        )
    wide = [one for one in judged if one.noise > 0.2 and not _is_yardstick(one.before)]
    if wide:
        out.append(
            f"{len(wide)} of {len(judged)} cells are too noisy to show a change below 20 %: "
            "run both on a quiet machine, with more --rounds"
        )
    missing = sorted({cell.name for cell in before.cells} ^ {cell.name for cell in now.cells})
    if missing:
        out.append(f"in one of the two only, and not judged: {', '.join(missing)}")
    if before.quick != now.quick:
        out.append("one of the two is --quick: fewer rounds, and only what both have")
    return out


_STYLES = {Change.WORSE: "bold red", Change.BETTER: "green", Change.SAME: "dim"}


def table(judged: Sequence[Judgement]) -> Table:
    """One line a cell."""
    out = Table(box=box.SIMPLE_HEAD)
    out.add_column("benchmark", no_wrap=True)
    for heading in ("before", "now", "change", "noise"):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("verdict", no_wrap=True)
    for one in judged:
        change = one.now.median / one.before.median - 1
        out.add_row(
            escape(one.now.name),
            _amount(one.before),
            _amount(one.now),
            f"{change:+.1%}",
            f"±{one.noise:.1%}",
            f"[{_STYLES[one.change]}]{one.change}[/]",
        )
    return out


def _amount(cell: Cell) -> str:
    return f"{cell.median:,.4g} {cell.unit}"
