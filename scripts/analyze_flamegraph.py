#!/usr/bin/env python3
"""Rank what a profile says, or what changed between two.

    python scripts/analyze_flamegraph.py profile_ingestion_20261120T120000Z.svg
    python scripts/analyze_flamegraph.py BEFORE.svg AFTER.svg --top 10

In: files of scripts/profile_arc_ingestion.py, of `/debug/pprof/profile`, or of py-spy (raw,
speedscope), told by their content. Out: tables, or JSON with --json. It changes no file.

Exit codes: 0 told, 2 a file is not there or is no profile (or a wrong option).
docs/profiling/README.md says how to read what comes out.
"""

from __future__ import annotations

from _venv import reexec_in_venv

reexec_in_venv()

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.profiling import compare, report
from benchmarks.profiling.read_profile import NotAProfileError, Profile, read_profile

NO_PROFILE = 2

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    file: Annotated[Path, typer.Argument(help="A profile.")],
    other: Annotated[
        Path | None, typer.Argument(help="A second one; then what changed from the first to it.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many functions.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """Rank the functions, stages and threads of a profile, or what changed between two."""
    try:
        profiles = [read_profile(path) for path in (file, other) if path is not None]
        analyses = [compare.analyze(profile.stacks) for profile in profiles]
        for profile, analysis in zip(profiles, analyses, strict=True):
            if not analysis.samples:
                raise NotAProfileError(f"{profile.path}: every sample of it waits")
    except NotAProfileError as error:
        raise fail(str(error)) from None
    except OSError as error:
        raise fail(f"{error.filename}: {error.strerror}") from None
    if as_json:
        print(json.dumps(as_values(profiles, analyses), indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    show(console, profiles, analyses, top)


def fail(message: str) -> typer.Exit:
    """Say what is wrong and make the exit to raise."""
    errors.print(message, markup=False)
    return typer.Exit(NO_PROFILE)


def changed(analyses: list[compare.Analysis]) -> dict[str, list[compare.Change]]:
    """What changed, by kind of row."""
    before, after = analyses
    counts = before.samples, after.samples
    return {
        "stages": compare.changes(before.stages, after.stages, *counts),
        "threads": compare.changes(before.threads, after.threads, *counts),
        "functions": compare.changes(before.functions, after.functions, *counts),
    }


def as_values(profiles: list[Profile], analyses: list[compare.Analysis]) -> dict[str, Any]:
    """All rows, as JSON has them."""
    values: dict[str, Any] = {
        "profiles": [
            {"file": str(profile.path), "kind": profile.kind, "seconds": profile.seconds}
            | dataclasses.asdict(analysis)
            for profile, analysis in zip(profiles, analyses, strict=True)
        ]
    }
    if len(analyses) == 2:
        values["changes"] = {
            kind: [dataclasses.asdict(row) for row in rows]
            for kind, rows in changed(analyses).items()
        }
    return values


def show(
    console: Console, profiles: list[Profile], analyses: list[compare.Analysis], top: int
) -> None:
    """Print tables."""
    for profile, analysis in zip(profiles, analyses, strict=True):
        took = f", {profile.seconds:.2f} s" if profile.seconds is not None else ""
        console.print(
            f"{profile.path}: {profile.kind}, {analysis.samples} samples at work{took}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print()
    if len(analyses) == 1:
        [only] = analyses
        console.print(report.share_table("Stages", only.stages, only.samples))
        console.print(report.share_table("Threads", only.threads, only.samples))
        console.print(report.ranked_table(only.functions, top))
        return
    for kind, rows in changed(analyses).items():
        console.print(report.change_table(kind, rows, top))
    console.print(report.NOISE_NOTE, highlight=False)


if __name__ == "__main__":
    typer.run(main)
