"""What the terminal and the picture show of memory. Pure: tables and SVG from figures.

In: `Allocations` or a `Soak`. Out: renderables for rich, text of an SVG file. No figure is made
here that the others do not make.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks.memory.allocations import Allocations, Amount
from benchmarks.memory.resident import ALL
from benchmarks.memory.soak import MEASURE, MEASURES, Soak
from benchmarks.memory.trend import CONFIDENCE, Leak
from benchmarks.profiling.stages import COLOURS, Stage

MIB = 2**20

#: The picture, in pixels.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 960, 320, 70, 34, 40, 14

#: Of the lines in it, told apart by colour-blind readers (after Okabe and Ito, 2008).
LINES = {"rss": "#3b76af", "pss": "#2a9187", "anonymous": "#c8553d"}


def stage_table(found: Allocations, rows: int | None) -> Table:
    """Bytes by stage, in pipeline order, with their sum."""
    table = _table("Allocations by stage")
    table.add_column("stage", no_wrap=True)
    for heading in ("allocated MiB", "share", "bytes/record", "allocations", "at the peak MiB"):
        table.add_column(heading, justify="right")
    table.add_column("left at the end MiB", justify="right")
    whole = found.total
    for stage in Stage:
        if stage in found.stages:
            name = f"[{COLOURS[stage]}]■[/] {stage}"
            table.add_row(name, *_amount(found.stages[stage], whole, rows))
    table.add_section()
    table.add_row("all", *_amount(whole, whole, rows))
    return table


def _amount(amount: Amount, whole: Amount, rows: int | None) -> Iterator[str]:
    yield f"{amount.allocated_bytes / MIB:,.1f}"
    yield f"{amount.allocated_bytes / max(1, whole.allocated_bytes):.1%}"
    yield f"{amount.allocated_bytes / rows:,.1f}" if rows else ""
    yield f"{amount.allocations:,}"
    yield f"{amount.peak_bytes / MIB:,.1f}"
    yield f"{amount.left_bytes / MIB:,.1f}"


def place_table(found: Allocations, limit: int) -> Table:
    """The lines that asked for most."""
    top = found.top(limit)
    table = _table(f"Top {len(top)} lines by bytes allocated")
    for heading in ("MiB", "allocations", "at the peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("line", overflow="fold")
    for place, amount in top:
        line = f"{place.function} ({place.file}:{place.line})" if place.file else place.function
        table.add_row(
            f"{amount.allocated_bytes / MIB:,.1f}",
            f"{amount.allocations:,}",
            f"{amount.peak_bytes / MIB:,.1f}",
            f"[{COLOURS[place.stage]}]■[/] {place.stage}",
            escape(line),
        )
    return table


def summary(found: Allocations, rows: int | None) -> str:
    """The figures in one sentence or two."""
    whole = found.total
    text = (
        f"{found.workers} workers, {found.seconds:.1f} s: {whole.allocated_bytes / MIB:,.0f} MiB "
        f"in {whole.allocations:,} allocations, {whole.peak_bytes / MIB:,.0f} MiB at the peak "
        "(each worker at its own)"
    )
    if not rows:
        return f"{text}. No records were accepted meanwhile: is anything being sent?"
    return (
        f"{text}. Of {rows:,} records: {whole.allocated_bytes / rows:,.0f} bytes allocated a "
        f"record, {whole.allocations / rows * 1e3:,.1f} allocations a thousand."
    )


# --- the soak ---------------------------------------------------------------------------------


def trend_table(soak: Soak) -> Table:
    """Growth of each process, with its interval."""
    table = _table("Growth of resident memory")
    for heading in ("process", "measure"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean MiB", "MiB a day", f"{CONFIDENCE:.0%} interval", "of budget a day"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("blocks", justify="right")
    for (name, measure), found in soak.trends.items():
        if name != ALL and measure != MEASURE:
            continue
        slope, low, high = (x / MIB for x in found.per_day())
        budget = soak.budget_bytes / MIB
        decides = (name, measure) == (ALL, MEASURE)
        table.add_row(
            escape(name),
            f"[bold]{measure}[/]" if decides else measure,
            f"{found.mean / MIB:,.1f}",
            f"{slope:+,.1f}",
            f"{low:+,.1f} to {high:+,.1f}",
            f"{slope / budget:+.1%}",
            f"{found.blocks} of {found.block_s:.0f} s",
            style="" if name == ALL else "dim",
        )
    return table


def verdict(soak: Soak) -> list[str]:
    """What it comes to, in words."""
    limit = soak.limit_bytes_a_day / MIB
    slope, low, high = (x / MIB for x in soak.trend.per_day())
    out = [
        f"{soak.leak}: {MEASURE} memory {slope:+,.1f} MiB a day "
        f"({low:+,.1f} to {high:+,.1f}), allowed {limit:,.1f} "
        f"(5 % of the budget of {soak.budget_bytes / MIB:,.0f} MiB)"
    ]
    if soak.leak is Leak.NO and low > 0:
        out.append("it does grow, by less than what is allowed")
    if soak.leak is Leak.UNDECIDED and high < -limit:
        out.append("memory still falls, so that it has not settled: give it a longer --settle")
    elif soak.leak is Leak.UNDECIDED:
        needed_s = soak.trend.seconds_to_decide(soak.limit_bytes_a_day)
        out.append(
            f"for an interval of the limit to either side it takes some {needed_s / 60:,.0f} min "
            "after settling, with this much up and down"
        )
    return out


def picture(soak: Soak) -> str:
    """Memory over time as SVG, with the line of the trend."""
    times = np.array(soak.total.times_s)
    top = 1.08 * max(value.rss for value in soak.total.values) / MIB
    last_s = float(times[-1]) or 1.0

    def place(x_s: float, mib: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * x_s / last_s
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * mib / top
        return f"{x:.1f},{y:.1f}"

    parts = [*_frame(soak, top, last_s, place)]
    for measure in MEASURES:
        values = np.array([getattr(value, measure) for value in soak.total.values]) / MIB
        points = " ".join(place(t, v) for t, v in _thinned(times, values))
        parts.append(f'<polyline points="{points}" stroke="{LINES[measure]}"/>')
    found = soak.trend
    middle_s = (soak.from_s + soak.to_s) / 2
    ends = [
        place(at, (found.mean + found.slope * (at - middle_s)) / MIB)
        for at in (max(0.0, soak.from_s), min(last_s, soak.to_s))
    ]
    parts.append(
        f'<polyline points="{" ".join(ends)}" stroke="#000" stroke-width="2" '
        'stroke-dasharray="6 4"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="none">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _thinned(
    times: NDArray[np.float64], values: NDArray[np.float64]
) -> Iterator[tuple[float, float]]:
    """At most a thousand points: of each stretch the smallest and the largest."""
    stretches = min(len(times), 500)
    for at, held in zip(
        np.array_split(times, stretches), np.array_split(values, stretches), strict=True
    ):
        for i in sorted({int(held.argmin()), int(held.argmax())}):
            yield float(at[i]), float(held[i])


def _frame(soak: Soak, top: float, last_s: float, place: object) -> Iterator[str]:
    """Axes, grid and legend."""
    assert callable(place)
    step = 10 ** np.floor(np.log10(max(top, 1.0)))
    step = step if top / step >= 3 else step / 4
    for mib in np.arange(0, top, step):
        y = place(0, mib).partition(",")[2]
        parts = f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        label = f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end" fill="#333">{mib:,.0f}'
        yield f"{parts}{label}</text>"
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = place(share * last_s, 0).partition(",")[0]
        anchor = "end" if share == 1 else "middle"
        yield (
            f'<text x="{x}" y="{HEIGHT - 14}" text-anchor="{anchor}" fill="#333">'
            f"{share * last_s / 60:.1f} min</text>"
        )
    settled = place(max(0.0, soak.from_s), 0).partition(",")[0]
    yield f'<path d="M{settled} {TOP}V{HEIGHT - BOTTOM}" stroke="#888" stroke-dasharray="2 3"/>'
    title = f"Resident memory of the daemon, MiB: {verdict(soak)[0]}"
    yield f'<text x="{LEFT}" y="16" fill="#000">{title}</text>'
    for i, measure in enumerate(MEASURES):
        yield f'<text x="{LEFT + 100 * i}" y="32" fill="{LINES[measure]}">{measure}</text>'
    yield f'<text x="{LEFT + 300}" y="32" fill="#000">- - trend</text>'


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
