"""What each level of durability costs, end to end: whole daemons, levels in turn, rows read back.

In: how often, how long, which situations. Out: medians and spreads a level, and each level as a
share of `memory`. Every run starts a daemon of its own on an empty folder, drives it with
benchmarks/load/, stops it, and reads every acknowledged row back; a run with a fault ends all.

    python -m benchmarks.bench_durability --repeat 5 --seconds 10
    python -m benchmarks.bench_durability --situation single --levels disk
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("memory", "page", "disk")

#: Arguments of the load generator, by situation.
SITUATIONS: dict[str, tuple[str, ...]] = {
    "full64": ("--connections", "64"),
    "full16": ("--connections", "16"),
    # A reused segment is cheaper to sync than a new one; after 10 s they are reused.
    "open": ("--connections", "64", "--rate", "2500000", "--warmup", "10"),
    "single": ("--connections", "1", "--rows", "1"),
}


def run_once(situation: str, level: str, args: argparse.Namespace) -> dict[str, Any]:
    """One daemon, one load, one verdict.

    Raises:
        RuntimeError: the run failed, or rows were missing, doubled or wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [
            sys.executable,
            str(ROOT / "scripts" / "benchmark_ingestion.py"),
            *("--start", "--no-ceiling", "--seconds", str(args.seconds)),
            *("--json", str(result)),
            *SITUATIONS[situation],
            *("--", "--workers", str(args.workers), "--durability", level),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{situation}, {level}:\n{done.stdout}\n{done.stderr}")
        report: dict[str, Any] = json.loads(result.read_text())
    load = report["load"]
    return {
        "rows_per_s": load["rows_per_s"],
        "cpu_s_per_million": report["daemon"]["cpu_s_per_million"],
        "p50_ms": load["latency_ms"]["p50"],
        "p99_ms": load["latency_ms"]["p99"],
    }


def measure(situation: str, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """All levels of one situation, one after another, then again: what drifts hits all alike."""
    figures: dict[str, dict[str, list[float]]] = {level: {} for level in args.levels}
    for turn in range(args.repeat):
        for level in args.levels:
            one = run_once(situation, level, args)
            for name, value in one.items():
                figures[level].setdefault(name, []).append(value)
            print(
                f"{situation} {turn + 1}/{args.repeat} {level:6}  "
                f"{one['rows_per_s'] / 1e6:6.2f} M rec/s  p50 {one['p50_ms']:.2f} ms  "
                f"p99 {one['p99_ms']:.2f} ms  {one['cpu_s_per_million']:.3f} CPU-s a million",
                flush=True,
            )
    return figures


def summarise(situation: str, figures: dict[str, dict[str, list[float]]]) -> None:
    """Print medians and ranges of a situation, and shares of the level `memory`."""
    memory = figures.get("memory", {}).get("rows_per_s")
    for level, values in figures.items():
        rates = values["rows_per_s"]
        share = "" if not memory else f"  {median(rates) / median(memory):4.0%} of memory"
        print(
            f"{situation:7} {level:6}  {median(rates) / 1e6:6.2f} M rec/s "
            f"({min(rates) / 1e6:.2f} to {max(rates) / 1e6:.2f}){share}  "
            f"p50 {median(values['p50_ms']):.2f} ms  p99 {median(values['p99_ms']):.2f} ms "
            f"(up to {max(values['p99_ms']):.2f})  "
            f"{median(values['cpu_s_per_million']):.3f} CPU-s a million"
        )


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--situation", nargs="+", choices=list(SITUATIONS), default=["full64"])
    args = parser.parse_args(argv)
    measured = {situation: measure(situation, args) for situation in args.situation}
    print()
    for situation, figures in measured.items():
        summarise(situation, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
