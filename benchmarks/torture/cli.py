"""Command line of the torture harness, and the order of a run.

In: arguments. Out: a report on the terminal, JSON on request, an exit code: 0 when every verdict
is clean, 1 when one is not, 2 when nothing could run, 130 when interrupted. The data of a bad
round is kept, with its ledger beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import secrets
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.torture.daemon import DaemonError
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context, Program
from benchmarks.torture.report import Line, Report, print_line, print_summary

#: Modules that hold programs, each in a tuple PROGRAMS.
MODULES = (
    *(
        "kill",
        "compaction",
        "counting",
        "power",
        "inject",
        "full_disk",
        "saved_log",
        "keys",
        "clock",
    ),
    "client",
)
ALL = "all"
DESCRIPTION = """\
Kill, starve and mislead a daemon under load, and judge what its files hold by an oracle that
knows of every row whether it was acknowledged. A round is one such act."""
EPILOG = """\
Without --data-dir everything happens in a temporary directory, which is removed unless a verdict
is bad. Programs that need root, strace or a loop device are skipped where they cannot run."""


def programs() -> dict[str, Program]:
    """Every program, by its name."""
    modules = [importlib.import_module(f"benchmarks.torture.{name}") for name in MODULES]
    found: Iterable[Program] = (one for module in modules for one in module.PROGRAMS)
    return {program.name: program for program in found}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; see the module's docstring for the exit code."""
    console = Console()
    known = programs()
    args = _parser(known).parse_args(argv)
    if args.list:
        _print_list(known, console)
        return 0
    chosen = list(known.values()) if args.program == ALL else [known[args.program]]
    base = args.data_dir or Path(tempfile.mkdtemp(prefix="arc-torture-"))
    base.mkdir(parents=True, exist_ok=True)
    settings = {"seed": args.seed, "workers": args.workers, "durability": args.durability}
    report = Report(settings | {"data_dir": str(base)})
    console.print(f"seed {args.seed}, data in {base}", highlight=False, soft_wrap=True)
    try:
        for program in chosen:
            _run(program, args, base, report, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; data in {base}", highlight=False, soft_wrap=True)
        return 130
    finally:
        print_summary(report, console)
        if args.json:
            args.json.write_text(json.dumps(report.to_json(base), indent=2) + "\n")
    if args.data_dir is None:
        with contextlib.suppress(OSError):
            base.rmdir()  # unless something was kept in it
    return report.exit_code


def _parser(known: dict[str, Program]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torture.py", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("program", nargs="?", choices=[*known, ALL], default=ALL, help="(default %(default)s)")
    add("--list", action="store_true", help="name the programs and what they need, run nothing")
    add("--rounds", type=_positive, help="of each program; default: as --list says")
    add("--record", action="store_true", help="as many rounds as the record of the project asks")
    add("--seed", type=int, default=secrets.randbelow(10**6), help="default: a random one")
    add("--workers", type=_positive, default=2, help="of the daemon (default %(default)s)")
    add("--durability", choices=["memory", "page", "disk"], help="default: the daemon's")
    add("--data-dir", type=Path, metavar="DIR", help="work below DIR")
    add("--keep", action="store_true", help="keep the data of clean rounds too")
    add("--quick", action="store_true", help="short rounds, as the tests run them")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _print_list(known: dict[str, Program], console: Console) -> None:
    for program in known.values():
        reason = program.requirement()
        console.print(
            f"{program.name:12} {program.description} (rounds: {program.default_rounds}, for the "
            f"record {program.record_rounds})"
            + (f" -- cannot run here: {reason}" if reason else ""),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _run(
    program: Program, args: argparse.Namespace, base: Path, report: Report, console: Console
) -> None:
    """All rounds of one program."""
    reason = program.requirement()
    if reason:
        report.skipped[program.name] = reason
        return
    default = program.record_rounds if args.record else program.default_rounds
    wanted = args.rounds or default
    for first in range(0, wanted, program.group):
        context = Context(
            folder=base / f"{program.name}-{first + 1:04d}",
            seed=args.seed,
            first_round=first,
            rounds=min(program.group, wanted - first),
            workers=args.workers,
            durability=args.durability,
            quick=args.quick,
            say=lambda line: console.print(f"  {line}", markup=False, highlight=False),
        )
        line = run_rounds(program, context, args.keep)
        report.lines.append(line)
        print_line(line, wanted, console)


def run_rounds(program: Program, context: Context, keep: bool = False) -> Line:
    """Rounds up to one verdict, in a folder that is removed when that is clean."""
    context.folder.mkdir(parents=True)
    started_s = time.monotonic()
    try:
        verdict = program.round(context)
    except DaemonError as error:
        verdict = Verdict(broken=[str(error)])
    except Exception:
        verdict = Verdict(broken=[traceback.format_exc()])
    kept = keep or not verdict.is_clean
    if kept:
        context.ledger.save(context.folder / "ledger.jsonl")
    else:
        shutil.rmtree(context.folder)
    seconds = time.monotonic() - started_s
    where = context.folder if kept else None
    return Line(program.name, context.first_round, context.rounds, seconds, verdict, where)
