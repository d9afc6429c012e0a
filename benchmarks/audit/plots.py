"""Plots as inline SVG: bars, a histogram, a stack against a line, curves. Pure.

In: names and numbers, None for what was not measured. Out: text of one `<svg>`. Colours and text
come from variables of the page's style, so that light and dark are the page's business. A missing
value is said in words where its bar would be; it is never drawn as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
BAR_H, GAP = 18, 6
LABEL_W, VALUE_W = 250, 110
#: Variables of the page's style, told apart by colour-blind readers (after Okabe and Ito, 2008).
COLOURS = tuple(f"var(--c{i})" for i in range(8))

_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """A number in three digits: 1.23 M."""
    for factor, suffix in _SUFFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {suffix}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        name: Beside it.
        value: None: not measured.
        why: Why not.
        spread: Smallest and largest of the repeats, drawn as a whisker.
        colour: Number of a colour.
    """

    name: str
    value: float | None
    why: str = ""
    spread: tuple[float, float] | None = None
    colour: int = 0


def bars(title: str, unit: str, data: Sequence[Bar]) -> str:
    """Horizontal bars on one scale from 0."""
    top = max([b.value or 0 for b in data] + [b.spread[1] for b in data if b.spread] + [0.0])
    room = WIDTH - LABEL_W - VALUE_W
    parts = []
    for i, bar in enumerate(data):
        y = i * (BAR_H + GAP) + GAP
        middle = y + BAR_H / 2
        parts.append(_text(LABEL_W - 8, middle, bar.name, "end"))
        if bar.value is None:
            parts.append(_text(LABEL_W, middle, f"not measured: {bar.why}", "start", "dim"))
            continue
        width = room * bar.value / top if top else 0
        parts.append(_rect(LABEL_W, y, width, BAR_H, bar.colour, f"{bar.name}: {bar.value:,.6g}"))
        end = width
        if bar.spread:
            low, high = (room * each / top if top else 0 for each in bar.spread)
            parts.append(_whisker(LABEL_W + low, LABEL_W + high, middle))
            end = max(width, high)
        parts.append(_text(LABEL_W + end + 6, middle, f"{short(bar.value)}", "start"))
    return _svg(title, f"{title}, {unit}", len(data) * (BAR_H + GAP) + GAP, parts)


def histogram(title: str, edges: Sequence[float], counts: Sequence[int]) -> str:
    """Counts of classes of a logarithmic scale, empty ends left out."""
    filled = [i for i, count in enumerate(counts) if count]
    if not filled:
        return missing(title, "no sample")
    first, last = max(0, filled[0] - 1), min(len(counts) - 1, filled[-1] + 1)
    shown = counts[first : last + 1]
    height, left, bottom = 180, 56, 26
    step = (WIDTH - left - 10) / len(shown)
    top = max(shown)
    parts = [_text(left - 6, 10, short(top), "end"), _text(left - 6, height, "0", "end")]
    for i, count in enumerate(shown):
        tall = (height - 10) * count / top
        low, high = edges[first + i], edges[first + i + 1]
        what = f"{low:.3g} to {high:.3g} ms: {count:,} requests"
        parts.append(_rect(left + i * step, height - tall, max(1, step - 1), tall, 0, what))
    every = max(1, -(-len(shown) // 9))
    for i in range(0, len(shown) + 1 - every // 2, every):
        x, edge = left + i * step, edges[first + i]
        parts.append(_line(x, height, x, height + 4))
        parts.append(
            _text(x, height + 15, f"{edge:.0f}" if edge >= 10 else f"{edge:.2g}", "middle")
        )
    return _svg(title, f"{title}, ms", height + bottom, parts)


def stack(
    title: str,
    unit: str,
    rows: Sequence[tuple[str, Sequence[tuple[str, float, int]]]],
    limit: tuple[float, str],
) -> str:
    """Rows of segments, one after another, and a line through all of them.

    Args:
        title: Of the plot.
        unit: Of the numbers.
        rows: Name of a row, and (name, size, colour) of its segments.
        limit: Where the line stands, and what it says.
    """
    at, words = limit
    whole = max([sum(size for _, size, _ in segments) for _, segments in rows] + [at, 1e-9])
    room, tall, left = WIDTH - 150 - 20, 44, 150
    parts = []
    for i, (name, segments) in enumerate(rows):
        x, y = float(left), 26 + i * (tall + 12)
        parts.append(_text(left - 8, y + tall / 2, name, "end"))
        for part, size, colour in segments:
            width = room * size / whole
            parts.append(_rect(x, y, width, tall, colour, f"{part}: {size:.1f} {unit}"))
            if width > 8 * len(f"{size:.0f}"):
                parts.append(_text(x + width / 2, y + tall / 2, f"{size:.0f}", "middle", "on"))
            x += width
    bottom = 26 + len(rows) * (tall + 12)
    x = left + room * at / whole
    parts.append(_line(x, 16, x, bottom, "limit"))
    parts.append(_text(min(x, WIDTH - 200), 9, words, "start", "limit"))
    keys = dict.fromkeys((part, colour) for _, segments in rows for part, _, colour in segments)
    legend = _legend(list(keys), bottom + 12)
    return _svg(title, f"{title}, {unit}", bottom + 12 + _legend_height(len(keys)), parts + legend)


def curve(title: str, unit: str, points: Sequence[tuple[int, float | None, str]]) -> str:
    """A line over a logarithmic scale; points without a value are named below it.

    Args:
        title: Of the plot.
        unit: Of the values.
        points: How many, the value, why there is none.
    """
    known = [(n, value) for n, value, _ in points if value is not None]
    gone = [f"{n:,}: {why}" for n, value, why in points if value is None]
    if not known:
        return missing(title, "; ".join(dict.fromkeys(why for _, _, why in points)) or "no point")
    width, height, left = 370, 150, 60
    top = max(value for _, value in known) or 1.0
    logs = [math.log10(n) for n, _ in known]
    low, wide = min(logs), (max(logs) - min(logs)) or 1.0

    def place(n: int, value: float) -> tuple[float, float]:
        x = left + (width - left - 30) * (math.log10(n) - low) / wide
        return x, height - (height - 20) * value / top

    at = [place(n, value) for n, value in known]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    parts = [_text(left - 8, height, "0", "end"), _line(left, height, width - 20, height)]
    parts.append(f'<polyline points="{line}" class="curve"/>')
    for (x, y), (n, value) in zip(at, known, strict=True):
        what = escape(f"{n:,}: {value:,.4g} {unit}")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{what}</title></circle>')
        parts.append(_text(x, height + 14, short(n), "middle"))
        parts.append(_text(x, y - 9, short(value), "middle"))
    for i, words in enumerate(gone):
        parts.append(_text(left, height + 32 + 14 * i, f"not measured, {words}", "start", "dim"))
    return _svg(title, f"{title}, {unit}", height + 24 + 14 * len(gone) + 4, parts, width)


def missing(title: str, why: str) -> str:
    """In place of a plot."""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<p class="dim">Not measured: {escape(why)}</p></figure>'
    )


# --- marks -------------------------------------------------------------------------------------


def _svg(title: str, caption: str, height: float, parts: Sequence[str], width: int = WIDTH) -> str:
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><svg role="img" '
        f'aria-label="{escape(title)}" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}">{"".join(parts)}</svg></figure>'
    )


def _rect(x: float, y: float, width: float, height: float, colour: int, what: str) -> str:
    fill = COLOURS[colour % len(COLOURS)]
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" '
        f'fill="{fill}"><title>{escape(what)}</title></rect>'
    )


def _text(x: float, y: float, words: str, anchor: str, style: str = "") -> str:
    name = f' class="{style}"' if style else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="middle"{name}>'
        f"{escape(words)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "axis") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _whisker(low: float, high: float, y: float) -> str:
    ends = (_line(x, y - 4, x, y + 4, "whisker") for x in (low, high))
    return _line(low, y, high, y, "whisker") + "".join(ends)


_PER_LINE = 4


def _legend(keys: Sequence[tuple[str, int]], y: float) -> list[str]:
    parts = []
    for i, (name, colour) in enumerate(keys):
        x = 20 + (i % _PER_LINE) * (WIDTH - 20) / _PER_LINE
        at = y + (i // _PER_LINE) * 18
        parts.append(_rect(x, at, 12, 12, colour, name))
        parts.append(_text(x + 18, at + 6, name, "start"))
    return parts


def _legend_height(count: int) -> int:
    return 18 * -(-count // _PER_LINE) + 4
