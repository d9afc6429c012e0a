"""Command line of the audit, and the order of its parts.

In: arguments. Out: `findings.json` and `report.html` in a folder that git ignores, a summary on the
terminal, an exit code: 0; 1 when a result was wrong, or `--compare` does not accept the change; 2
when something cannot be used: a file of before, accepted.toml, an option; 130 when interrupted.

No figure ever makes it fail but by `--compare`: a machine that is busy is no fault of the tree.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arc.memory import tune_heap
from benchmarks.audit import accepted, compare, machine, page, schema
from benchmarks.audit.actions import next_actions
from benchmarks.audit.parts import FULL, PARTS, QUICK, Audit, steps
from benchmarks.audit.progress import Steps
from benchmarks.audit.schema import Findings, Summary
from benchmarks.load.daemon import REPOSITORY

OUTPUT = REPOSITORY / "build" / "audit"
ACCEPTED, NOT_ACCEPTED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = "Measure everything that this tree promises, and look for known traps in its code."
EPILOG = f"""\
Parts for --only: {", ".join(PARTS)}. What was not measured is null in findings.json, with
the reason beside it. It fails on wrong results, never on time. More: docs/profiling/audit.md"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="perf_audit.py", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes: under a minute on a quiet machine")
    add("--only", nargs="+", choices=PARTS, metavar="PART", help="some parts; see below")
    add("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: build/audit")
    add("--compare", type=Path, metavar="BEFORE.json", help="judge the change since that file")
    add(
        "--after",
        type=Path,
        metavar="AFTER.json",
        help="with --compare: that file instead of a new run",
    )
    args = parser.parse_args(argv)
    if args.after and not args.compare:
        parser.error("--after goes with --compare")
    if args.compare and args.only and "matrix" not in args.only:
        parser.error("--compare judges the matrix: --only has to name it")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    args = parse(sys.argv[1:] if argv is None else argv)
    console = _console()
    try:
        before = schema.read(args.compare) if args.compare else None
        if before is not None and args.after:
            return _judge(before, schema.read(args.after), console)
        if before is not None and before.summary.quick != args.quick:
            kind = "a quick one" if before.summary.quick else "a full one"
            raise compare.RefusedError(f"{args.compare}: it is of {kind}, this run is not")
        found = run(args)
    except (schema.UnreadableError, accepted.AcceptedError, compare.RefusedError) as error:
        return _unusable(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    write(found, args.output)
    render(found, args.output, console)
    code = NOT_ACCEPTED if found.summary.wrong else ACCEPTED
    return max(code, _judge(before, found, console)) if before is not None else code


def _unusable(message: str) -> int:
    Console(stderr=True).print(f"error: {message}", markup=False, soft_wrap=True)
    return UNUSABLE


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=120, highlight=False)


def run(args: argparse.Namespace) -> Findings:
    """Every part that was asked for.

    Raises:
        AcceptedError: accepted.toml is wrong or stale; nothing has been measured then.
    """
    load_before, began_s = os.getloadavg(), time.perf_counter()
    # A shell that becomes this program leaves it the time of the children that it had.
    cpu_before_s = machine.cpu_s()
    started = datetime.now(UTC)
    parts = tuple(part for part in PARTS if not args.only or part in args.only)
    sizes = QUICK if args.quick else FULL
    tune_heap()  # as a worker does: without it every array is mapped and touched anew
    tell = Steps(steps(sizes, parts))
    audit = Audit(sizes, parts, tell)
    with tell.shown():
        metrics = audit.run()
    by_severity: dict[str, int] = {}
    for finding in audit.findings:
        by_severity[finding.severity] = by_severity.get(finding.severity, 0) + 1
    summary = Summary(
        started=started.isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
        quick=args.quick,
        took_s=time.perf_counter() - began_s,
        cpu_s=machine.cpu_s() - cpu_before_s,
        host=machine.host(load_before),
        commit=machine.commit(),
        wrong=tuple(audit.wrong),
        accepted_findings=audit.num_accepted,
        findings=by_severity,
        why_no_hotspots=audit.why_no_hotspots,
    )
    actions = next_actions(metrics, audit.hotspots, audit.findings, args.quick)
    return Findings(
        schema.VERSION, summary, metrics, audit.hotspots, tuple(audit.findings), actions
    )


def write(found: Findings, folder: Path) -> None:
    """Both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"findings.json": schema.encode(found), "report.html": page.render(found).encode()}
    for name, data in contents.items():
        part = folder / f".{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)


# --- on the terminal -----------------------------------------------------------------------------


def render(found: Findings, folder: Path, console: Console) -> None:
    """The summary."""
    summary = found.summary
    console.print(
        f"{summary.took_s:.0f} s, {summary.cpu_s:.0f} CPU-seconds; load average "
        f"{summary.host.load_average[0]:.1f} before, {summary.host.load_average_after[0]:.1f} after"
    )
    for finding in found.findings:
        where = f"{finding.file}:{finding.line}"
        console.print(f"{finding.severity:6}  {where}  {finding.rule}", markup=False)
    for number, action in enumerate(found.next_actions[:5], 1):
        console.print(f"{number}. {action.what} {action.because}", markup=False, soft_wrap=True)
    for wrong in summary.wrong:
        console.print(f"WRONG  {wrong}", markup=False, soft_wrap=True)
    for name in ("findings.json", "report.html"):
        console.print(str(folder / name), markup=False, soft_wrap=True)


def _judge(before: Findings, after: Findings, console: Console) -> int:
    """Print the verdict; its exit code."""
    try:
        verdict = compare.compare(before, after)
    except compare.RefusedError as error:
        return _unusable(f"the two files cannot be compared:\n{error}")
    table = Table(box=None, pad_edge=False)
    for header in ("workload", "figure", "before", "after", "verdict", "why"):
        table.add_column(header, justify="right" if header in ("before", "after") else "left")
    for line in verdict.lines:
        values = (_number(line.before), _number(line.after))
        table.add_row(line.cell.name, line.figure, *values, line.verdict, line.why)
    console.print(table)
    word = "accepted" if verdict.is_accepted else "not accepted"
    console.print(f"{word}: {verdict.why}")
    return ACCEPTED if verdict.is_accepted else NOT_ACCEPTED


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:,.1f}"
