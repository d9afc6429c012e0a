"""What a run amounts to: every figure beside its peers, every target beside its figure.

In: figures. Out: tables on a console, a dictionary that JSON can hold, an exit code. A verdict is
computed from the samples of the same run; where there is no figure there is no verdict either.
Nothing is measured here, and a target that is missed is no error: the exit code tells of checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.client import bench_calls, bench_encode, bench_pipeline
from benchmarks.client.cases import LESS, MORE, Figure, Sizes
from benchmarks.harness import environment
from benchmarks.load.report import git_state

#: Beside those that `benchmarks.harness` names.
PACKAGES = (
    "arc",
    "arc-tsdb-client",
    "backports-zstd",
    "pandas",
    "polars",
    "questdb",
    "rerun-sdk",
)
NOT_MEASURED = "-"
#: Where the targets that are no matter of time are measured.
ROUNDS = "0 rows lost, 0 doubled in 50 rounds of faults: counted by the torture rounds, not here"


@dataclass(frozen=True)
class Target:
    """A bar, and how the figure that it holds is got from those of a run.

    Attributes:
        what: As a person would say it.
        limit: The bar.
        unit: Of the bar and the figure.
        better: LESS: at most the bar. MORE: at least.
        of: The figure for "best" or "median", from figures by title; None when one is missing.
    """

    what: str
    limit: float
    unit: str
    better: str
    of: Callable[[Mapping[str, Figure], str], float | None]

    def verdict(self, found: float | None) -> str:
        """One of "met", "missed", and NOT_MEASURED."""
        if found is None:
            return NOT_MEASURED
        met = found <= self.limit if self.better == LESS else found >= self.limit
        return "met" if met else "missed"


def value(title: str, scale: float = 1.0) -> Callable[[Mapping[str, Figure], str], float | None]:
    """The figure of one case, by a factor that changes its unit."""

    def of(figures: Mapping[str, Figure], which: str) -> float | None:
        found = _value(figures, title, which)
        return None if found is None else found * scale

    return of


def ratio(above: str, below: str) -> Callable[[Mapping[str, Figure], str], float | None]:
    """One figure by another, of the same run."""

    def of(figures: Mapping[str, Figure], which: str) -> float | None:
        high, low = _value(figures, above, which), _value(figures, below, which)
        return None if high is None or not low else high / low

    return of


def _value(figures: Mapping[str, Figure], title: str, which: str) -> float | None:
    figure = figures.get(title)
    if figure is None:
        return None
    return figure.best if which == "best" else figure.median


def targets() -> list[Target]:
    """The bars of the client, in the order of its specification."""
    calls, pipeline = bench_calls, bench_pipeline
    log, pandas, polars = calls.LOG, pipeline.PANDAS, pipeline.POLARS
    us, million = 1e-3, 1e-6
    return [
        Target("client.log, 2 tags and 3 floats", 1.0, "µs", LESS, value(log, us)),
        Target("rr.log(Scalars) by client.log", 15, "x", MORE, ratio(calls.RERUN, log)),
        Target("bound handle, 3 floats", 0.25, "µs", LESS, value(calls.HANDLE, us)),
        Target("1 000 rows of calls, encoded", 60, "ns/row", LESS, value(bench_encode.FROM_CALLS)),
        Target(
            "1 000 rows of a handle, encoded", 60, "ns/row", LESS, value(bench_encode.FROM_HANDLE)
        ),
        Target("1 000 rows of NumPy, encoded", 6, "ns/row", LESS, value(bench_encode.FROM_NUMPY)),
        Target("write_dataframe, pandas", 5, "M rows/s", MORE, value(pandas, million)),
        Target("write_dataframe, Polars", 5, "M rows/s", MORE, value(polars, million)),
        Target(
            "write_dataframe by questdb's, pandas",
            1,
            "x",
            MORE,
            ratio(pandas, pipeline.QUESTDB_PANDAS),
        ),
        Target(
            "write_dataframe by questdb's, Polars",
            1,
            "x",
            MORE,
            ratio(polars, pipeline.QUESTDB_POLARS),
        ),
        Target(
            "log call to durable acknowledgement",
            500_000,
            "rows/s",
            MORE,
            value(pipeline.DURABLE),
        ),
        Target("p99 of the call meanwhile", 10, "µs", LESS, value(pipeline.P99, us)),
    ]


def judge(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Every target with its best and median figure and the verdict on each."""
    by_title = {figure.case.title: figure for figure in figures}
    return [_judged(target, by_title) for target in targets()]


def _judged(target: Target, figures: Mapping[str, Figure]) -> dict[str, Any]:
    best, median = (target.of(figures, which) for which in ("best", "median"))
    return {
        "target": target.what,
        "limit": target.limit,
        "unit": target.unit,
        "better": target.better,
        "best": best,
        "median": median,
        "verdict_best": target.verdict(best),
        "verdict": target.verdict(median),
    }


def to_dict(figures: Sequence[Figure], sizes: Sizes, directory: Path) -> dict[str, Any]:
    """Everything, as JSON can hold it; null where nothing was measured."""
    found = environment()
    found["versions"] |= {name: _version(name) for name in PACKAGES}
    found["filesystem"] = filesystem(directory)
    return {
        "environment": found,
        "git": git_state(),
        "sizes": asdict(sizes),
        "figures": [figure.to_dict() for figure in figures],
        "targets": judge(figures),
    }


def filesystem(directory: Path) -> str | None:
    """The kind of file system that a directory is on: a sync to `tmpfs` costs nothing.

    None where there is no /proc/self/mounts (proc(5)).
    """
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    mounts = [(point, kind) for _, point, kind, *_ in map(str.split, lines)]
    fitting = [mount for mount in mounts if directory.resolve().is_relative_to(mount[0])]
    return max(fitting, key=lambda mount: len(mount[0]))[1] if fitting else None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def render(figures: Sequence[Figure], console: Console) -> None:
    """Print a table for each group, the targets, and what went wrong."""
    for group in dict.fromkeys(figure.case.group for figure in figures):
        console.print(_group_table([f for f in figures if f.case.group == group], group))
        console.print()
    console.print(_target_table(judge(figures)))
    console.print(ROUNDS, style="dim", highlight=False)
    for figure in figures:
        if figure.failed:
            console.print(
                f"failed: {figure.case.title}: {figure.why}", markup=False, soft_wrap=True
            )


def _group_table(figures: Sequence[Figure], group: str) -> Table:
    out = Table(box=None, pad_edge=False, title=group, title_justify="left", title_style="bold")
    for header in ("whose", "what"):
        out.add_column(header)
    for header in ("best", "median", "unit", "beside the first"):
        out.add_column(header, justify="right", no_wrap=True)
    out.add_column("and")
    for figure in figures:
        out.add_row(*map(Text, _cells(figure, figures[0])))  # [peers] is no markup
    return out


def _cells(figure: Figure, first: Figure) -> Iterator[str]:
    case = figure.case
    yield case.whose
    yield case.name
    if figure.best is None or figure.median is None:
        yield from (NOT_MEASURED, NOT_MEASURED, case.unit, "", figure.why)
        return
    yield from (_number(figure.best), _number(figure.median), case.unit)
    alike = first.median and first.case.unit == case.unit and first is not figure
    yield f"{figure.median / first.median:.2f} x" if alike and first.median else ""
    yield ", ".join(f"{name} {_number(_middle(values))}" for name, values in figure.beside.items())


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _target_table(judged: Sequence[Mapping[str, Any]]) -> Table:
    out = Table(box=None, pad_edge=False, title="targets", title_justify="left")
    out.add_column("target")
    for header in ("wanted", "best", "", "median", ""):
        out.add_column(header, justify="right", no_wrap=True)
    for row in judged:
        sign = "≤" if row["better"] == LESS else "≥"
        out.add_row(
            row["target"],
            f"{sign} {_number(row['limit'])} {row['unit']}",
            _or_dash(row["best"]),
            row["verdict_best"],
            _or_dash(row["median"]),
            row["verdict"],
        )
    return out


def _or_dash(value: float | None) -> str:
    return NOT_MEASURED if value is None else _number(value)


def exit_code(figures: Sequence[Figure]) -> int:
    """1 when a check failed, whatever the figures; 0 else."""
    return int(any(figure.failed for figure in figures))
