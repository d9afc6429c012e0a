"""What the terminal shows of a profile: tables, files, and what to make of them.

In: `WorkerSamples` and paths. Out: renderables for rich. No number is made here that summary.py
does not make, but for the comparison with the processor time that the kernel counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from arc.profiler.samples import WorkerSamples
from arc.profiler.stages import COLOURS, Stage
from arc.profiler.summary import FunctionTime, StageTime, busy_s
from benchmarks.profiling.compare import Change, Share, standard_error

#: Where sampled and counted time part by more than this, there is something to say.
_TOLERANCE = 0.15
_TOLERANCE_S = 0.5
_NAME_CHARACTERS = 60


def stage_table(times: Sequence[StageTime], gil: bool) -> Table:
    """Where the time went, in pipeline order, with its sum."""
    table = _table("Where the time went")
    table.add_column("stage", no_wrap=True)
    for heading in ("share", "of busy", "seconds", "event loop", "other threads"):
        table.add_column(heading, justify="right")
    for time in times:
        if time.stage is Stage.UNREAD and not time.total_s:
            continue
        table.add_row(*_stage_row(time, gil))
    table.add_section()
    table.add_row(
        "all",
        _percent(sum(time.share for time in times)),
        "",
        f"{sum(time.total_s for time in times):.2f}",
        f"{sum(time.event_loop_s for time in times):.2f}",
        f"{sum(time.other_threads_s for time in times):.2f}",
    )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _stage_row(time: StageTime, gil: bool) -> Iterator[str]:
    without_gil = gil and time.stage is Stage.IDLE
    name = "without the GIL" if without_gil else str(time.stage)
    yield f"[{COLOURS[time.stage]}]■[/] {name}"
    yield _percent(time.share)
    yield "" if time.stage is Stage.IDLE else _percent(time.share_of_busy)
    yield f"{time.total_s:.2f}"
    yield f"{time.event_loop_s:.2f}"
    yield f"{time.other_threads_s:.2f}"


def function_table(functions: Sequence[FunctionTime]) -> Table:
    """Functions by time of their own."""
    table = _table(f"Top {len(functions)} functions by self time, with their hottest lines")
    for heading in ("self", "s", "total"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("function", overflow="fold")
    for time in functions:
        table.add_row(
            _percent(time.self_share),
            f"{time.self_s:.2f}",
            _percent(time.total_share),
            f"[{COLOURS[time.stage]}]■[/] {time.stage}",
            escape(f"{_shortened(time.function.name)} ({_place(time)})"),
        )
    return table


def _shortened(name: str) -> str:
    """A name of C++ may run to a page."""
    return name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"


def _place(time: FunctionTime) -> str:
    line = f":{time.hottest_line}" if time.hottest_line else ""
    return f"{time.function.file}{line}"


def worker_table(workers: Sequence[WorkerSamples]) -> Table:
    """One row a worker: how much was seen of it, against what the kernel counted."""
    table = _table("Workers")
    for heading in ("worker", "pid", "rounds", "lost", "busy s, sampled", "CPU s, kernel"):
        table.add_column(heading, justify="right", no_wrap=True)
    for worker in workers:
        lost = worker.lost / max(1, worker.rounds)
        table.add_row(
            worker.name or str(worker.shard),
            str(worker.pid),
            str(worker.rounds),
            _percent(lost),
            f"{busy_s(worker):.2f}",
            f"{worker.cpu_s:.2f}",
        )
    return table


def remarks(workers: Sequence[WorkerSamples], gil: bool) -> Iterator[str]:
    """What the reader should know before believing the tables, one sentence each."""
    for worker in workers:
        if worker.ended_early:
            yield (
                f"{worker.label} went away during the sampling; "
                f"its first {worker.rounds / worker.rate_hz:.1f} s are in the figures"
            )
    sampled_s = sum(map(busy_s, workers))
    cpu_s = sum(worker.cpu_s for worker in workers)
    if gil:
        return
    if cpu_s > sampled_s * (1 + _TOLERANCE) + _TOLERANCE_S:
        yield (
            f"{cpu_s - sampled_s:.1f} s of processor time are in no sample: threads without "
            "a frame of Python (Arrow's or Numba's own pools)"
        )
    elif sampled_s > cpu_s * (1 + _TOLERANCE) + _TOLERANCE_S:
        yield (
            f"{sampled_s - cpu_s:.1f} s of the busy time went by waiting for a processor: "
            "more threads want to run than there are processors, and all shares include that"
        )
    if not any(worker.stacks for worker in workers):
        yield "no thread was running in any sample: is anything being sent to the daemon?"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# ------------------------------------------------------------------- scripts/analyze_flamegraph.py

NOISE_NOTE = (
    "noise: below two standard errors, which is what sampling alone makes of a share; "
    "more samples tell more"
)


def share_table(title: str, rows: Sequence[Share], samples: int) -> Table:
    """Shares of everything at work, with their standard errors."""
    table = _table(title)
    for heading in ("share", "± 2 se", "samples"):
        table.add_column(heading, justify="right")
    table.add_column("name", no_wrap=True)
    for row in rows:
        error = 2 * standard_error(row.share, samples)
        table.add_row(_percent(row.share), f"{100 * error:.1f}", str(row.own), _staged(row.name))
    return table


def ranked_table(rows: Sequence[Share], limit: int) -> Table:
    """Functions by their own samples."""
    table = _table(f"Top {min(limit, len(rows))} of {len(rows)} functions by self time")
    for heading in ("self", "samples", "total"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("function", overflow="fold")
    for row in rows[:limit]:
        table.add_row(
            _percent(row.share),
            str(row.own),
            _percent(row.total_share),
            _staged(row.stage),
            escape(row.name),
        )
    return table


def change_table(kind: str, rows: Sequence[Change], limit: int) -> Table:
    """What changed, the largest first, what may be noise last."""
    table = _table(f"What changed: {kind}, in percentage points")
    for heading in ("before", "after", "change", "± 2 se"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("name", overflow="fold")
    for row in rows[:limit]:
        table.add_row(
            _percent(row.before),
            _percent(row.after),
            f"{100 * row.difference:+.1f}",
            f"{200 * row.error:.1f}",
            "noise" if row.is_noise else "",
            _staged(row.name) if kind == "stages" else escape(row.name),
        )
    return table


def _staged(name: str) -> str:
    """A name with the colour of its stage, if it is one."""
    colour = COLOURS.get(Stage(name)) if name in set(Stage) else None
    return f"[{colour}]■[/] {name}" if colour else escape(name)
