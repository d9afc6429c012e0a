"""What a run amounts to: the figures as one value, as a table, as JSON.

In: results of the ceiling, the load, the daemon and the oracle. Out: a `Report`, a table on a
console, a dictionary that JSON can hold. Nothing is measured here.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from benchmarks.load.generator import LoadResult
from benchmarks.load.oracle import Verdict
from benchmarks.load.usage import Usage

#: Quantiles of the latency that are told, by name.
QUANTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass
class DaemonUse:
    """What the daemon used for a run.

    Attributes:
        info: Its run file: version, workers, durability.
        cpu_s: From before the first request until all was stored (found) or until its end
            (started); None when its processes are not known.
        usage: Peaks of memory.
        connections: Held by each worker in the middle of the run, by shard.
        drained: Found: everything was stored in time. Started: it ended by itself after SIGTERM.
        exit_code: Started: its exit code.
        last_words: The end of its output, when it did not end with 0.
    """

    info: dict[str, Any] = field(default_factory=dict)
    cpu_s: float | None = None
    usage: Usage | None = None
    connections: dict[int, int] = field(default_factory=dict)
    drained: bool = True
    exit_code: int | None = None
    last_words: str = ""


@dataclass
class Report:
    """Everything that one run of the benchmark found."""

    load: LoadResult
    daemon: DaemonUse
    verdict: Verdict
    ceiling: LoadResult | None
    data_dir: Path

    def problems(self) -> list[str]:
        """What makes the run a failure; [] when it is none."""
        out = [
            f"{name.replace('_', ' ')}: {count:,}" for name, count in self.verdict.faults().items()
        ]
        if not self.load.acknowledged_rows():
            out.append("no request was acknowledged")
        elif not self.verdict.files:
            out.append(f"no file of this run below {self.data_dir}: is it the daemon's --data-dir?")
        if self.daemon.exit_code:
            out.append(f"the daemon ended with exit code {self.daemon.exit_code}")
        if not self.daemon.drained:
            out.append("the daemon still held rows in memory when the files were read")
        return out

    def cpu_s_per_million(self) -> float | None:
        """CPU seconds of the daemon for a million acknowledged rows."""
        rows = self.load.acknowledged_rows()
        return self.daemon.cpu_s / rows * 1e6 if self.daemon.cpu_s is not None and rows else None

    def to_dict(self) -> dict[str, Any]:
        """All figures, and what they depend on, as JSON can hold it."""
        return {
            "command": shlex.join(sys.argv),
            "git": git_state(),
            "environment": environment() | {"data_dir_filesystem": filesystem(self.data_dir)},
            "spec": asdict(self.load.spec),
            "ceiling": load_figures(self.ceiling) if self.ceiling else None,
            "load": load_figures(self.load),
            "daemon": asdict(self.daemon) | {"cpu_s_per_million": self.cpu_s_per_million()},
            "verdict": asdict(self.verdict),
            "problems": self.problems(),
        }


def load_figures(load: LoadResult) -> dict[str, Any]:
    """Figures of one load, against a daemon or a sink."""
    spec, cpu_s = load.spec, load.total("cpu_s")
    return {
        "rows_per_s": load.rows_per_s(),
        "body_bytes_per_s": load.bytes_per_s(),
        "acknowledged_rows": load.acknowledged_rows(),
        "latency_ms": latency_figures(load),
        "statuses": {str(status): n for status, n in sorted(load.statuses().items())},
        "rejected": load.rejected(),
        "failed": load.total("failed"),
        "connects_failed": load.total("connects_failed"),
        "overdue": load.total("overdue"),
        "rows_by_second": load.rows_by_second(),
        "generator_cpu_s": cpu_s,
        "generator_busy": cpu_s / spec.processes / (spec.seconds + spec.warmup_s),
        "rows_per_generator_cpu_s": load.acknowledged_rows() / cpu_s if cpu_s else 0.0,
        "errors": load.errors(),
    }


def latency_figures(load: LoadResult) -> dict[str, float]:
    """Quantiles of the latency in ms; {} when no request was acknowledged."""
    latency_ms = load.latency_ms()
    if not len(latency_ms):
        return {}
    values = np.percentile(latency_ms, list(QUANTILES.values()))
    return dict(zip(QUANTILES, values.tolist(), strict=True))


def render(report: Report, console: Console) -> None:
    """Print the figures, then what is wrong."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for section in (_load_lines(report), _daemon_lines(report), _stored_lines(report)):
        for label, text in section:
            table.add_row(label, text)
        table.add_row()
    console.print(table)
    for text in report.load.errors():
        console.print(f"first errors  {text}", markup=False)
    for example in report.verdict.examples:
        console.print(f"  {example}", markup=False)
    if report.daemon.last_words:
        console.print(f"the daemon's last words:\n{report.daemon.last_words}", markup=False)
    problems = report.problems()
    if problems:
        console.print(f"[bold red]FAILED[/]  {'; '.join(problems)}")
    else:
        console.print("[bold green]OK[/]  every acknowledged row is in the files exactly once")


def _load_lines(report: Report) -> list[tuple[str, str]]:
    load = report.load
    spec = load.spec
    figures = load_figures(load)
    quantiles = figures["latency_ms"]
    loop = f"{spec.rate:,.0f} records/s due" if spec.rate else "closed loop"
    rejected = ", ".join(f"{n:,} x {status}" for status, n in figures["statuses"].items())
    lines = [
        (
            "workload",
            f"{spec.workload} as {spec.format}, {spec.rows:,} rows x {spec.columns} columns, "
            f"{spec.compression}, "
            f"{spec.connections} connections, {spec.processes} process(es), {spec.seconds:g} s, "
            f"{loop}",
        ),
        (
            "throughput",
            f"{figures['rows_per_s']:,.0f} records/s, "
            f"{figures['body_bytes_per_s'] / 1e6:,.1f} MB/s of bodies",
        ),
        ("latency ms", "  ".join(f"{name} {value:.2f}" for name, value in quantiles.items())),
        ("replies", rejected or "none"),
        ("rejected", f"{figures['rejected']:,} requests"),
        ("failed", f"{figures['failed']:,} requests, {figures['connects_failed']:,} connects"),
    ]
    if spec.rate:
        lines.append(("overdue", f"{figures['overdue']:,} requests were due and never sent"))
    lines.append(("generator", f"{figures['generator_busy']:.0%} of a core for each process"))
    if report.ceiling:
        ceiling = load_figures(report.ceiling)
        text = f"{ceiling['rows_per_s']:,.0f} records/s against a sink"
        if not spec.rate:
            text += f": the run is {figures['rows_per_s'] / ceiling['rows_per_s']:.0%} of it"
        lines.append(("ceiling", text))
    return lines


def _daemon_lines(report: Report) -> list[tuple[str, str]]:
    use = report.daemon
    per_million = report.cpu_s_per_million()
    workers = ", ".join(f"{shard}: {count}" for shard, count in sorted(use.connections.items()))
    lines = [
        ("daemon CPU", "not known" if use.cpu_s is None else f"{use.cpu_s:.2f} s"),
        ("per million", "not known" if per_million is None else f"{per_million:.3f} CPU-seconds"),
    ]
    if use.usage:
        lines.append(
            (
                "peak memory",
                f"{use.usage.peak_pss_bytes / 1e6:,.0f} MB (PSS, {use.usage.samples} samples), "
                f"{use.usage.peak_rss_sum_bytes / 1e6:,.0f} MB sum of VmHWM",
            )
        )
    if workers:
        lines.append(("connections", f"by worker: {workers}"))
    return lines


def _stored_lines(report: Report) -> list[tuple[str, str]]:
    verdict = report.verdict
    size = verdict.file_bytes / verdict.stored if verdict.stored else 0.0
    lines = [
        ("acknowledged", f"{verdict.acknowledged:,} rows"),
        (
            "read back",
            f"{verdict.stored:,} rows in {verdict.files:,} Parquet files, "
            f"{size:.1f} bytes a row ({report.data_dir / report.load.spec.database})",
        ),
        ("missing", f"{verdict.missing:,}"),
        ("doubled", f"{verdict.doubled:,}"),
        ("torn", f"{verdict.torn_requests:,} requests"),
        ("ghost", f"{verdict.ghost:,} never sent, {verdict.refused_stored:,} refused and stored"),
        (
            "layout",
            f"{verdict.misplaced:,} rows in the wrong hour, {verdict.unsorted_files:,} files "
            f"unsorted, {verdict.unreadable_files:,} unreadable",
        ),
        ("values", f"{verdict.wrong_values:,} of {verdict.compared:,} compared rows are wrong"),
    ]
    if verdict.unknown_stored:
        lines.append(("unanswered", f"{verdict.unknown_stored:,} rows stored, which is allowed"))
    return lines


def git_state() -> dict[str, Any]:
    """Commit of the repository and whether the tree differs from it; nulls outside of git."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(*args: str) -> str | None:
    here = Path(__file__).parent
    try:
        run = subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def filesystem(path: Path) -> str | None:
    """Type of the file system of a path, as /proc/mounts has it: tmpfs is no disk."""
    best, kind = "", None
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, fs_type, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) > len(best):
            best, kind = mount, fs_type
    return kind
