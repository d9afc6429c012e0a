"""Command line of the fuzzer.

In: arguments. Out: a report on the terminal, JSON on request, an exit code: 0 when nothing was
found, 1 when something was, 2 when nothing could run, 130 when interrupted. Findings stay in a
folder, one file each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.fuzz.child import load
from benchmarks.fuzz.report import Report, print_line, print_summary
from benchmarks.fuzz.runner import Settings, fuzz
from benchmarks.fuzz.target import Target

#: Where the child finds each target.
SPECS = (
    "benchmarks.fuzz.decoders:MSGPACK",
    "benchmarks.fuzz.decoders:LINE_PROTOCOL",
    "benchmarks.fuzz.decoders:ARROW",
    *(f"benchmarks.fuzz.decoders:OTLP#{number}" for number in range(6)),
    "benchmarks.fuzz.decoders:DECOMPRESS",
    "benchmarks.fuzz.log_segments:LOG",
    "benchmarks.fuzz.large:LARGE",
    "benchmarks.fuzz.http_edge:HTTP",
)
ALL = "all"
DEFAULT_RUNS = 10_000
DESCRIPTION = """\
Feed every parser, and the HTTP edge of a real daemon, bodies that nobody should send. Findings
are exceptions that are no refusal, crashes, decodes of over 200 ms, memory over a bound, a fast
path and its slow twin that disagree, batches that break a promise, answers of 5xx but 503."""


def targets() -> dict[str, tuple[str, Target]]:
    """Every target by its name, with where it is found."""
    found = [(spec, load(spec)) for spec in SPECS]
    return {target.name: (spec, target) for spec, target in found}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; see the module's docstring for the exit code."""
    console = Console()
    known = targets()
    args = _parser(known).parse_args(argv)
    if args.list:
        for name, (_, target) in known.items():
            console.print(f"{name:24} {target.description}", highlight=False, soft_wrap=True)
        return 0
    asked = dict.fromkeys(args.target or [ALL])
    names = list(known) if ALL in asked else list(asked)
    base = args.findings or Path(tempfile.mkdtemp(prefix="arc-fuzz-"))
    runs = args.runs or (0 if args.seconds else DEFAULT_RUNS)
    settings = Settings(runs, args.seconds, args.seed, args.corpus)
    report = Report({"runs": runs, "seconds": args.seconds, "seed": args.seed, "targets": names})
    console.print(f"seed {args.seed}, findings in {base}", highlight=False, soft_wrap=True)
    try:
        for name in names:
            folder = base / name
            folder.mkdir(parents=True)
            line = fuzz(*known[name], settings, folder)
            report.lines.append(line)
            print_line(line, console)
            _remove_if_clean(folder, not line.findings)
    except KeyboardInterrupt:
        console.print(f"interrupted; findings in {base}", highlight=False, soft_wrap=True)
        return 130
    finally:
        print_summary(report, console)
        if args.json:
            args.json.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    _remove_if_clean(base, args.findings is None)
    return report.exit_code


def _remove_if_clean(folder: Path, is_clean: bool) -> None:
    if is_clean:
        (folder / "child.log").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless something was kept in it


def _parser(known: dict[str, tuple[str, Target]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fuzz.py", description=DESCRIPTION)
    add = parser.add_argument

    def one_of(name: str) -> str:
        if name not in known and name != ALL:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join([*known, ALL])}")
        return name

    add("target", nargs="*", type=one_of, metavar="TARGET", help="see --list; all: every one")
    add("--list", action="store_true", help="name the targets, run nothing")
    add(
        "--runs",
        type=int,
        default=0,
        help=f"bodies for each target (default {DEFAULT_RUNS}); fewer for the slow ones",
    )
    add("--seconds", type=float, default=0.0, help="for each target, in place of --runs or beside")
    add("--seed", type=int, default=secrets.randbelow(10**6), help="default: a random one")
    add(
        "--corpus", type=Path, metavar="DIR", help="keep interesting bodies in DIR for the next run"
    )
    add("--findings", type=Path, metavar="DIR", help="empty; default: a temporary directory")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser
