"""Runs a fixed list of benchmarks, round after round, and keeps or compares the figures.

    python scripts/bench.py run                 the figures
    python scripts/bench.py baseline            the figures, kept in .benchmarks/baseline.json
    python scripts/bench.py compare             the figures now against those

In: nothing but the code as it is. Out: `compare.Figures`; exit code 0, 1 when a cell is worse by
more than noise or a result is wrong, 2 when it could not take place. Every round starts every
benchmark anew in a process of its own, so that what differs from start to start is in the spread,
and all of them alternate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console

from benchmarks.compare import (
    YARDSTICK,
    Better,
    Cell,
    Figures,
    NotComparableError,
    compare,
    regressions,
    remarks,
    table,
)
from benchmarks.harness import environment
from benchmarks.load.report import git_state

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / ".benchmarks" / "baseline.json"

ROUNDS, QUICK_ROUNDS = 5, 3
TIMEOUT_S = 600.0

#: Sizes in names of benchmarks that come out of the run.
_MEASURED = re.compile(r" [\d.]+ B(/row)?")


class Stage(NamedTuple):
    """A stage benchmark: module of `benchmarks`, and the word that picks from it."""

    module: str
    word: str


STAGES = (
    Stage("bench_decode", "decode c 1000"),
    Stage("bench_decode_rows", "decode agent 1000"),
    Stage("bench_buffer", "1 batch"),
    Stage("bench_table_build", "c interleaved 1M"),
)
QUICK_STAGES = STAGES[:1]

#: The whole daemon: name, seconds, flags of the load generator, flags of the daemon.
LOADS = (
    ("c, memory", 5, (), ("--durability", "memory")),
    ("c, disk", 5, (), ("--durability", "disk")),
)
QUICK_LOADS = (("c, memory", 2, (), ("--durability", "memory")),)


class RoundError(Exception):
    """A benchmark failed. The message has what it said."""


class Measured(NamedTuple):
    """One value of one round."""

    name: str
    unit: str
    better: Better
    value: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    args = _parser().parse_args(argv)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    errors = Console(stderr=True, soft_wrap=True)
    try:
        before = _read(args.baseline) if args.what == "compare" else None
        quick = args.quick or (before.quick if before else False)
        figures = measure(args.rounds or (QUICK_ROUNDS if quick else ROUNDS), quick, console)
        if args.json:
            _write(args.json, figures)
        if before is not None:
            return _compare(before, figures, console)
    except (RoundError, NotComparableError, OSError, msgspec.MsgspecError) as error:
        errors.print(f"error: {error}", markup=False)
        return 1 if isinstance(error, RoundError) else 2
    except KeyboardInterrupt:
        return 130
    for cell in figures.cells:
        spread = f"spread {cell.spread:.0%}"
        console.print(f"{cell.name:<44} {cell.median:>14,.4g} {cell.unit:<16} {spread}")
    if args.what == "baseline":
        _write(args.baseline, figures)
        console.print(f"baseline  {args.baseline}", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["run", "baseline", "compare"])
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="one stage and one short load")
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return parser


def _read(path: Path) -> Figures:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Figures)
    except FileNotFoundError:
        raise NotComparableError(f"there is no {path}: run make bench-baseline first") from None


def _write(path: Path, figures: Figures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")  # a crash leaves this beside the old one
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2))
    fresh.replace(path)


def _compare(before: Figures, now: Figures, console: Console) -> int:
    judged = compare(before, now)
    console.print(table(judged))
    for remark in remarks(before, now, judged):
        console.print(f"note: {remark}", markup=False, soft_wrap=True)
    worse = regressions(judged)
    if worse:
        names = ", ".join(one.now.name for one in worse)
        console.print(f"worse by more than noise: {names}", style="bold red", soft_wrap=True)
    return 1 if worse else 0


# ------------------------------------------------------------------------------------ measuring


def measure(rounds: int, quick: bool, console: Console) -> Figures:
    """Run every benchmark once a round.

    Raises:
        RoundError: one failed, or its result was wrong.
    """
    values: dict[str, list[Measured]] = {}
    for number in range(rounds):
        began_s = time.monotonic()
        for one in _one_round(quick):
            values.setdefault(one.name, []).append(one)
        took_s = time.monotonic() - began_s
        console.print(f"round {number + 1} of {rounds} took {took_s:.0f} s", highlight=False)
    cells = tuple(
        Cell(name, found[0].unit, found[0].better, tuple(one.value for one in found))
        for name, found in values.items()
    )
    about = {"environment": environment(), "git": git_state()}
    return Figures(cells, rounds, quick, json.loads(json.dumps(about, default=str)))


def _one_round(quick: bool) -> list[Measured]:
    out = yardstick()
    for stage in QUICK_STAGES if quick else STAGES:
        out += _stage(stage)
    for name, seconds, load, daemon in QUICK_LOADS if quick else LOADS:
        out += _load(name, seconds, load, daemon)
    return out


def yardstick() -> list[Measured]:
    """Work that is not ours: a loop of Python, and memory that is copied and hashed."""
    data = bytearray(2**24)
    jobs: dict[str, Callable[[], object]] = {
        "python": lambda: sum(i & 7 for i in range(400_000)),
        "memory": lambda: hashlib.blake2b(bytes(data)).digest(),
    }
    out = []
    for name, job in jobs.items():
        times = []
        for _ in range(7):
            started = time.perf_counter()
            job()
            times.append(time.perf_counter() - started)
        ms = sorted(times)[len(times) // 2] * 1e3
        out.append(Measured(f"{YARDSTICK} {name}", "ms", Better.LOWER, ms))
    return out


def _stage(stage: Stage) -> list[Measured]:
    command = ["-m", f"benchmarks.{stage.module}", "-k", stage.word, "--repeats", "3"]
    out = []
    for result in _run(command)["results"]:
        name = f"{stage.module.removeprefix('bench_')}: {_MEASURED.sub('', result['name'])}"
        out.append(Measured(name, "ns/row", Better.LOWER, result["ns_per_row"]))
    return out


def _load(name: str, seconds: float, load: Sequence[str], daemon: Sequence[str]) -> list[Measured]:
    script = str(ROOT / "scripts" / "benchmark_ingestion.py")
    command = [script, "--start", "--no-ceiling", "--seconds", str(seconds), *load, "--", *daemon]
    found = _run(command)
    used = found["daemon"]
    pss = used["usage"]["peak_pss_bytes"] / 2**20
    return [
        Measured(f"load {name}: rows/s", "rows/s", Better.HIGHER, found["load"]["rows_per_s"]),
        Measured(f"load {name}: CPU", "s/M rows", Better.LOWER, used["cpu_s_per_million"]),
        Measured(f"load {name}: peak memory", "MiB", Better.LOWER, pss),
    ]


def _run(command: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark with this Python; what it wrote."""
    with tempfile.TemporaryDirectory(prefix="arc-bench-") as name:
        path = Path(name) / "out.json"
        cut = command.index("--") if "--" in command else len(command)
        words = [*command[:cut], "--json", str(path), *command[cut:]]
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RoundError(f"{' '.join(command)}: not done in {TIMEOUT_S:g} s") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-1000:]
            raise RoundError(f"{' '.join(command)} ended with {done.returncode}: {said}")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
