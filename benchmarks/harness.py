"""Time one stage at a time: what a stage benchmark is, and the runner that all of them share.

In: a list of `Bench`. Out: one table (median and spread of the samples, rows and bytes a second,
peak memory), the same as JSON on request, and exit code 1 when a result was wrong. The runner
never invents data and never times a result that it did not check.

A benchmark file looks like this:

    from benchmarks.harness import Bench, main

    def benches() -> list[Bench]:
        body = ...
        return [Bench("decode c 1000", lambda: decode(body), rows=1000, nbytes=len(body), check=ok)]

    if __name__ == "__main__":
        raise SystemExit(main(benches()))

All benchmarks of a run alternate (A B A B …), so that what else happens on the machine meets
them alike. `-k WORD` picks by name; `--json FILE` writes everything, host and versions included.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: A sample repeats the call until it takes at least this long: far above the timer's grain.
MIN_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Bench:
    """One thing to time.

    Attributes:
        name: What `-k` matches and the table shows.
        fn: The call to time. Without `setup` it takes nothing and must be repeatable; with
            `setup` it takes what `setup` returned.
        rows: Rows that one call handles.
        nbytes: Bytes that one call handles (say in the name which: wire, memory, file).
        check: Called with a result of `fn`; raises when it is wrong.
        setup: Makes a fresh input before each call, outside the timing. A sample is then one
            call, so make it a big one (several milliseconds).
    """

    name: str
    fn: Callable[..., Any]
    rows: int
    nbytes: int
    check: Callable[[Any], None]
    setup: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Result:
    """Samples of one benchmark, seconds a call.

    Attributes:
        name: Of the benchmark.
        rows: Rows a call.
        nbytes: Bytes a call.
        samples_s: One mean time a call for each round.
        peak_bytes: Growth of the process's resident memory at its highest during one call.
    """

    name: str
    rows: int
    nbytes: int
    samples_s: list[float]
    peak_bytes: int

    @property
    def median_s(self) -> float:
        """Median seconds a call."""
        return statistics.median(self.samples_s)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median, a fraction."""
        return (max(self.samples_s) - min(self.samples_s)) / self.median_s

    def to_dict(self) -> dict[str, Any]:
        """Everything, derived figures included, as JSON can hold it."""
        return asdict(self) | {
            "median_s": self.median_s,
            "spread": self.spread,
            "ns_per_row": self.median_s / self.rows * 1e9,
            "rows_per_s": self.rows / self.median_s,
            "bytes_per_s": self.nbytes / self.median_s,
        }


def run(
    benches: Sequence[Bench], repeats: int = 5, min_sample_s: float = MIN_SAMPLE_S
) -> list[Result]:
    """Check, then time every benchmark `repeats` times, alternating.

    Args:
        benches: In the order in which they alternate.
        repeats: Samples for each, at least 5 for a figure that is written down.
        min_sample_s: Shortest sample, for benchmarks without a `setup`.

    Returns:
        One result for each benchmark, in the same order.
    """
    peaks = [_check_and_peak(bench) for bench in benches]
    loops = [_loops_for(bench, min_sample_s) for bench in benches]
    samples: list[list[float]] = [[] for _ in benches]
    for _ in range(repeats):
        for i, bench in enumerate(benches):
            samples[i].append(_sample_s(bench, loops[i]))
    for bench in benches:
        _checked_call(bench)
    return [
        Result(bench.name, bench.rows, bench.nbytes, samples[i], peaks[i])
        for i, bench in enumerate(benches)
    ]


def _checked_call(bench: Bench) -> None:
    bench.check(bench.fn(bench.setup()) if bench.setup else bench.fn())


def _check_and_peak(bench: Bench) -> int:
    """Check one result (which also warms caches up), then measure the memory of another call."""
    _checked_call(bench)
    args = (bench.setup(),) if bench.setup else ()
    gc.collect()
    reset_peak_rss()
    before = rss_bytes()
    result = bench.fn(*args)
    peak = peak_rss_bytes() - before
    del result
    return max(0, peak)


def _loops_for(bench: Bench, min_sample_s: float) -> int:
    if bench.setup:
        return 1
    once_s = max(_sample_s(bench, 1), 1e-7)
    return max(1, round(min_sample_s / once_s))


def _sample_s(bench: Bench, loops: int) -> float:
    """Mean seconds a call over `loops` calls, garbage collector off as in `timeit`."""
    args = (bench.setup(),) if bench.setup else ()
    fn = bench.fn
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(loops):
            fn(*args)
        return (time.perf_counter() - start) / loops
    finally:
        gc.enable()


def reset_peak_rss() -> None:
    """Start a new peak (`VmHWM`) for this process, where Linux allows it (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def rss_bytes() -> int:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes() -> int:
    """Highest resident memory of this process since the last `reset_peak_rss`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(results: Sequence[Result]) -> Table:
    """The results as a rich table, one line a benchmark."""
    out = Table(title=None, box=None, pad_edge=False)
    for header in ("benchmark", "ns/row", "µs/call", "spread", "rows/s", "MB/s", "peak MB"):
        out.add_column(header, justify="left" if header == "benchmark" else "right")
    for r in results:
        out.add_row(
            r.name,
            f"{r.median_s / r.rows * 1e9:.1f}",
            f"{r.median_s * 1e6:,.1f}",
            f"{r.spread:.0%}",
            f"{r.rows / r.median_s:,.0f}",
            f"{r.nbytes / r.median_s / 1e6:,.0f}",
            f"{r.peak_bytes / 1e6:,.1f}",
        )
    return out


def environment() -> dict[str, Any]:
    """What a figure depends on beside the code: machine, versions, load."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in ("numpy", "pyarrow", "numba", "msgspec", "ormsgpack", "aiohttp", "uvloop"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "loadavg": os.getloadavg(),
        "python": platform.python_version(),
        "versions": versions,
        "argv": sys.argv,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time one stage on seeded data.")
    parser.add_argument(
        "-k", metavar="WORD", default="", help="only benchmarks with WORD in the name"
    )
    parser.add_argument("--repeats", type=int, default=5, help="samples for each (default 5)")
    parser.add_argument(
        "--min-sample-s", type=float, default=MIN_SAMPLE_S, help="shortest sample, seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    return parser.parse_args(argv)


def main(benches: Sequence[Bench], argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line picks and print one table.

    Returns:
        Exit code: 0, or 1 when a check failed or nothing matched.
    """
    args = _parse(argv)
    console = Console()
    chosen = [bench for bench in benches if args.k in bench.name]
    if not chosen:
        names = ", ".join(bench.name for bench in benches)
        console.print(f"no benchmark has {args.k!r} in its name; there are: {names}")
        return 1
    try:
        results = run(chosen, args.repeats, args.min_sample_s)
    except AssertionError as error:
        console.print(f"a result is wrong, nothing was timed: {error!r}")
        return 1
    console.print(table(results))
    if args.json:
        report = {"environment": environment(), "results": [r.to_dict() for r in results]}
        args.json.write_text(json.dumps(report, indent=2))
    return 0
