"""What is told of a run: a line a verdict, a table at the end, JSON on request.

In: verdicts. Out: text and a dictionary. Decides the exit code, and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from benchmarks.load.report import filesystem, git_state
from benchmarks.torture.oracle import Verdict


@dataclass
class Line:
    """One verdict.

    Attributes:
        program: Its name.
        first_round: Number of its first round, from 0.
        rounds: That it covers.
        seconds: That they took.
        verdict: On them.
        kept: Where the data is, None when it was removed.
    """

    program: str
    first_round: int
    rounds: int
    seconds: float
    verdict: Verdict
    kept: Path | None

    @property
    def label(self) -> str:
        """Which rounds, counted from 1."""
        first, last = self.first_round + 1, self.first_round + self.rounds
        return f"{first}" if first == last else f"{first}-{last}"


@dataclass
class Report:
    """A run.

    Attributes:
        settings: Seed, workers, level, folder.
        lines: One for each verdict.
        skipped: Why a program did not run, by its name.
    """

    settings: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    started_s: float = field(default_factory=time.time)

    @property
    def is_clean(self) -> bool:
        """Whether every verdict is."""
        return all(line.verdict.is_clean for line in self.lines)

    @property
    def exit_code(self) -> int:
        """0 when every verdict is clean, 1 when one is not, 2 when nothing ran."""
        if not self.lines:
            return 2
        return 0 if self.is_clean else 1

    def totals(self) -> dict[str, tuple[int, int, float, Verdict]]:
        """Rounds, clean rounds, seconds and the sum of the verdicts, by program."""
        out: dict[str, tuple[int, int, float, Verdict]] = {}
        for line in self.lines:
            rounds, clean, seconds, total = out.get(line.program, (0, 0, 0.0, Verdict()))
            total.add(line.verdict)
            clean += line.rounds if line.verdict.is_clean else 0
            out[line.program] = (rounds + line.rounds, clean, seconds + line.seconds, total)
        return out

    def to_json(self, data_dir: Path) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started_s)),
            "settings": self.settings,
            "clean": self.is_clean,
            "skipped": self.skipped,
            "totals": {
                name: {"rounds": rounds, "clean": clean, "seconds": seconds} | asdict(total)
                for name, (rounds, clean, seconds, total) in self.totals().items()
            },
            "lines": [
                {"program": line.program, "rounds": line.label, "seconds": line.seconds}
                | {"kept": str(line.kept) if line.kept else None, "verdict": asdict(line.verdict)}
                for line in self.lines
            ],
            "environment": environment() | git_state() | {"filesystem": filesystem(data_dir)},
        }


def print_line(line: Line, of: int, console: Console) -> None:
    """Tell a verdict, and what is wrong if anything is."""
    verdict = line.verdict
    word = "[green]clean[/]" if verdict.is_clean else "[bold red]BAD[/]"
    facts = (
        f"{verdict.acknowledged_rows:,} rows acknowledged, {verdict.stored_rows:,} stored in "
        f"{verdict.files:,} files; {verdict.refused:,} requests refused, "
        f"{verdict.unknown:,} without an answer"
    )
    console.print(
        f"{line.program} {line.label}/{of}  {word}  {line.seconds:.1f} s  {facts}"
        f"{_figures(verdict)}",
        soft_wrap=True,
        highlight=False,
    )
    for name, count in verdict.faults().items():
        console.print(f"  {name}: {count:,}", soft_wrap=True, highlight=False)
    for text in [*verdict.broken, *verdict.examples]:
        console.print(f"  {text}", markup=False, soft_wrap=True, highlight=False)
    if line.kept:
        console.print(f"  kept: {line.kept}", markup=False, soft_wrap=True, highlight=False)


def _figures(verdict: Verdict) -> str:
    told = (verdict.figures | verdict.tallies).items()
    return "".join(f"; {name} {_number(value)}" for name, value in told)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def print_summary(report: Report, console: Console) -> None:
    """The table of a run; below it what is wrong, sums of tallies and the largest figures."""
    table = Table(box=None, pad_edge=False)
    for name in ("program", "rounds", "clean", "minutes", "acknowledged", "stored"):
        table.add_column(name, justify="left" if name == "program" else "right", no_wrap=True)
    totals = report.totals()
    for name, (rounds, clean, seconds, total) in totals.items():
        counts = (f"{rounds:,}", f"{clean:,}", f"{seconds / 60:.1f}")
        table.add_row(name, *counts, f"{total.acknowledged_rows:,}", f"{total.stored_rows:,}")
    console.print()
    console.print(table)
    for name, (_, _, _, total) in totals.items():
        told = [f"{fault} {count:,}" for fault, count in total.faults().items()]
        told += [f"{len(total.broken)} broken"] if total.broken else []
        counted = "".join(f"; {key} {count:,}" for key, count in total.tallies.items())
        largest = "".join(f"; {key} {_number(value)}" for key, value in total.figures.items())
        text = f"{name}: {', '.join(told) or 'no faults'}{counted}{largest}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for name, reason in report.skipped.items():
        console.print(f"{name} skipped: {reason}", markup=False, soft_wrap=True)
    if report.lines:
        text = "[bold green]OK[/]" if report.is_clean else "[bold red]FAILED[/]"
        console.print(f"{text}  seed {report.settings['seed']}", highlight=False)
