"""The client's micro-benchmarks in one run: every stage, the whole pipeline, other clients beside.

    python -m benchmarks.client                   everything, some minutes
    python -m benchmarks.client --quick           small sizes, three samples
    python -m benchmarks.client -k "calls: "      the cases with this in their name
    python -m benchmarks.client --json out.json   every sample, and the machine

Samples of one group alternate. What is delivered is counted where it arrives; a count that is wrong
makes the exit code 1. The daemon of the end-to-end cases is started on a temporary directory, which
should lie on the disk of a real data directory: `--directory` says where. Other clients come with
`pip install arc[clients,peers]`; without them the rest is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.client import bench_calls, bench_pipeline, report
from benchmarks.client.cases import QUICK, Case, Sizes, opened, run


def all_cases() -> list[Case]:
    """Every case, in the order of the report."""
    return [*bench_calls.cases(), *bench_pipeline.cases()]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small sizes, three samples of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("-k", metavar="NAME", default="", help="only cases with NAME in their name")
    parser.add_argument("--repeats", type=int, help="samples of each case")
    parser.add_argument("--directory", type=Path, help="where the daemon stores")
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None,
    cases: Sequence[Case] | None = None,
    sizes: Sizes | None = None,
) -> int:
    """Run what the command line asks for.

    Args:
        argv: Arguments; None: those of the process.
        cases: Instead of all, for tests.
        sizes: Instead of those of the command line, for tests.

    Returns:
        Exit code: 0, 1 when a check failed, 2 when no case has the name.
    """
    args = parse(argv)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    everything = all_cases() if cases is None else cases
    chosen = [case for case in everything if args.k in case.title]
    if not chosen:
        titles = "\n".join(case.title for case in everything)
        console.print(f"no case has {args.k!r} in its name; there are:\n{titles}", markup=False)
        return 2
    sizes = sizes or (QUICK if args.quick else Sizes())
    if args.repeats is not None:
        sizes = dataclasses.replace(sizes, repeats=args.repeats)
    told = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="arc-client-", dir=args.directory) as directory,
        opened(sizes, Path(directory)) as bench,
    ):
        figures = run(chosen, bench, lambda line: told.print(f"... {line}", markup=False))
    report.render(figures, console)
    if args.json:
        where = args.directory or Path(tempfile.gettempdir())
        args.json.write_text(json.dumps(report.to_dict(figures, sizes, where), indent=2))
    return report.exit_code(figures)


if __name__ == "__main__":
    raise SystemExit(main())
