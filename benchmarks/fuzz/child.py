"""The process that bodies are run in, so that a crash of it is only a finding.

    python -m benchmarks.fuzz.child fuzz MODULE:TARGET --folder DIR --engine own --runs 1000
    python -m benchmarks.fuzz.child minimise MODULE:TARGET --folder DIR --key KEY --seconds 10

In: the name of a target. Out: files in its folder; see `benchmarks/fuzz/runner.py`. ingest/ is
imported here for the first time, so that the engine can follow it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from benchmarks.fuzz.engines import (
    ATHERIS,
    OWN,
    Recorder,
    instrumented,
    limit_memory,
    run_atheris,
    run_own,
)
from benchmarks.fuzz.target import Target


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for."""
    args = _parser().parse_args(argv)
    with instrumented(args.engine):
        target = load(args.target)
        work = args.folder / "work"
        work.mkdir(exist_ok=True)
        target.open(work)
    if args.action == "minimise":
        from benchmarks.fuzz.minimise import minimise_file

        minimise_file(target, args.folder, args.key, args.seconds)
        target.close()
        return 0
    limit_memory()
    recorder = Recorder(target, args.folder, args.runs, args.seconds, args.runs_before)
    if args.engine == ATHERIS:
        run_atheris(recorder, args.seed, args.corpus)
    run_own(recorder, args.seed, args.corpus)
    recorder.finish()
    return 0


def load(spec: str) -> Target:
    """A target by the module and the name that it has there, a number after it for one of many."""
    module, _, name = spec.partition(":")
    name, _, number = name.partition("#")
    found = getattr(importlib.import_module(module), name)
    return cast(Target, found[int(number)] if number else found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz.child")
    add = parser.add_argument
    add("action", choices=["fuzz", "minimise"])
    add("target")
    add("--folder", type=Path, required=True)
    add("--engine", choices=[ATHERIS, OWN], default=OWN)
    add("--runs", type=int, default=0)
    add("--runs-before", type=int, default=0)
    add("--seconds", type=float, default=0)
    add("--seed", type=int, default=0)
    add("--corpus", type=Path)
    add("--key", default="")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
