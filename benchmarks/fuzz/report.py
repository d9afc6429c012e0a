"""What is told of a fuzz run: a line a target, its findings, a table at the end, JSON on request.

In: lines. Out: text and a dictionary. Decides the exit code, and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.runner import Line
from benchmarks.harness import environment
from benchmarks.load.report import git_state

#: Of a body, on the terminal.
SHOWN_BYTES = 80


@dataclass
class Report:
    """A run.

    Attributes:
        settings: Runs, seconds, seed.
        lines: One for each target.
    """

    settings: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    started_s: float = field(default_factory=time.time)

    @property
    def runs(self) -> int:
        """Bodies in all."""
        return sum(line.runs for line in self.lines)

    @property
    def exit_code(self) -> int:
        """0 when nothing was found, 1 when something was, 2 when nothing ran."""
        if any(line.findings for line in self.lines):
            return 1
        return 0 if self.runs else 2

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started_s)),
            "settings": self.settings,
            "runs": self.runs,
            "clean": self.exit_code == 0,
            "targets": [asdict(line) | {"labels": dict(line.labels)} for line in self.lines],
            "environment": environment() | git_state(),
        }


def print_line(line: Line, console: Console) -> None:
    """Tell what one target came to."""
    word = "[bold red]FINDINGS[/]" if line.findings else "[green]clean[/]"
    rate = line.runs / line.seconds if line.seconds else 0.0
    most = ", ".join(f"{name} {count:,}" for name, count in line.labels.most_common(6))
    figures = "".join(f"; {name} {value}" for name, value in line.figures.items())
    console.print(
        f"{line.target}  {word}  {line.runs:,} bodies in {line.seconds:.0f} s, {rate:,.0f}/s "
        f"by {line.engine}: {most}{figures}",
        highlight=False,
        soft_wrap=True,
    )
    for finding in line.findings:
        _print_finding(finding, console)


def _print_finding(finding: dict[str, Any], console: Console) -> None:
    body = Path(finding["body"]).read_bytes()
    confirmed = "" if finding.get("confirmed", True) else " (not seen again in a new process)"
    shown = body[:SHOWN_BYTES].hex() + ("..." if len(body) > SHOWN_BYTES else "")
    for text in (
        f"  {finding['kind']} in {finding['place']}{confirmed}",
        *(f"    {row}" for row in finding["message"].splitlines()[-8:]),
        f"    {len(body)} bytes, hex {shown}",
        f"    in {finding['body']}",
    ):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_summary(report: Report, console: Console) -> None:
    """The table at the end."""
    table = Table("target", "engine", "bodies", "bodies/s", "taken", "refused", "findings")
    for line in report.lines:
        taken = sum(count for name, count in line.labels.items() if "taken" in name)
        rate = line.runs / line.seconds if line.seconds else 0.0
        counts = (f"{line.runs:,}", f"{rate:,.0f}", f"{taken:,}", f"{line.runs - taken:,}")
        table.add_row(line.target, line.engine, *counts, f"{len(line.findings)}")
    console.print(table)
    found = sum(len(line.findings) for line in report.lines)
    console.print(f"{report.runs:,} bodies, {found} findings", highlight=False)
