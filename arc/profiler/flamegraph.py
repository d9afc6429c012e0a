"""Samples as a flame graph: one SVG file that needs no network and no other file. Pure.

In: `WorkerSamples` of any number of workers, merged. Out: the text of an SVG. What waits is left
out, so the width is running time; colours are stages.

Layout: roots at the bottom, callees above, siblings by name, as Gregg (2016, "The Flame Graph")
describes it. Each frame is a <g> with its position in `data-x` and `data-w` (shares of the whole,
0 to 1) and its row from the bottom in `data-d`; flamegraph.js beside this file zooms and searches
on those. Without scripts the picture still stands, with a <title> to hover over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from arc.profiler.samples import MAIN_THREAD, Frame, Stack, WorkerSamples
from arc.profiler.stages import COLOURS, Stage, stage_of, stage_of_frame
from arc.profiler.summary import Function, function_of

WIDTH_PX = 1200
ROW_PX = 17
MARGIN_PX = 12
HEADER_PX = 84
FOOTER_PX = 30
CHARACTER_PX = 6.6  # of an 11 px monospaced font: 0.6 of its size
#: A frame narrower than this at full zoom-out is not drawn: it would be found by nobody.
MIN_SHARE = 1e-4

#: What Python wraps around the first function of ours; three rows that say nothing.
_WRAPPERS = frozenset({"<frozen runpy>"})
#: Stands for the callers of a stack that was read while it changed, and so begins half-way up.
_TORN = Frame("[callers not read]", "")
_THREAD_START = frozenset({"Thread._bootstrap", "Thread._bootstrap_inner", "Thread.run"})

#: What no XML 1.0 document may hold, nor a symbol of C that is read from a damaged file.
_ILLEGAL = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True)
class Node:
    """A function under one path of callers.

    Attributes:
        name: What is written on it.
        stage: Its colour; None for what stands above all stages.
        total: Samples in which the path was on the stack.
        own: Those in which nothing was above it.
        lines: Samples by line of the function.
        children: By function, in no order.
    """

    name: str
    stage: Stage | None = None
    total: int = 0
    own: int = 0
    lines: Counter[int] = field(default_factory=Counter)
    children: dict[Function, Node] = field(default_factory=dict)


class Box(NamedTuple):
    """A node in its place: `x` and `width` as shares of the whole, `depth` in rows."""

    node: Node
    x: float
    width: float
    depth: int


def build_tree(workers: Sequence[WorkerSamples]) -> Node:
    """Merge the stacks of all workers: the whole, then threads by name, then their functions."""
    root = Node(f"{len(workers)} worker" + ("s" if len(workers) != 1 else ""))
    stacks: Counter[Stack] = Counter()
    for worker in workers:
        for stack, count in worker.stacks.items():
            if stage_of(stack.frames) is not Stage.IDLE:
                stacks[Stack(stack.thread, tuple(_without_wrappers(stack.frames)))] += count
    outermost = _outermost_of_loops(stacks)
    for stack, count in stacks.items():
        is_torn = stack.is_event_loop and _outermost(stack) not in (outermost, None)
        _add(root, Stack(stack.thread, (_TORN, *stack.frames)) if is_torn else stack, count)
    return root


def _outermost(stack: Stack) -> Function | None:
    return function_of(stack.frames[0]) if stack.frames else None


def _outermost_of_loops(stacks: Mapping[Stack, int]) -> Function | None:
    """The function that nearly every stack of an event loop begins with."""
    counts: Counter[Function | None] = Counter()
    for stack, count in stacks.items():
        if stack.is_event_loop:
            counts[_outermost(stack)] += count
    return counts.most_common(1)[0][0] if counts else None


def _add(root: Node, stack: Stack, count: int) -> None:
    root.total += count
    thread = "event loop" if stack.thread == MAIN_THREAD else f"thread {stack.thread}"
    node = root.children.setdefault(Function(thread, ""), Node(thread))
    node.total += count
    stage: Stage | None = None
    for frame in stack.frames:
        # Not the innermost-only rules: those mark what waits, and that is not in this picture.
        stage = stage_of_frame(frame, innermost=False) or stage
        node = node.children.setdefault(function_of(frame), Node(_label(frame)))
        node.stage = stage or Stage.OTHER
        node.total += count
        node.lines[frame.line] += count
    node.own += count


def _without_wrappers(frames: Sequence[Frame]) -> Iterator[Frame]:
    for frame in frames:
        starts_thread = frame.name in _THREAD_START and frame.file.endswith("threading.py")
        if frame.file not in _WRAPPERS and not starts_thread:
            yield frame


def _label(frame: Frame) -> str:
    return f"{frame.name} ({frame.file})" if frame.file else frame.name


def layout(root: Node) -> list[Box]:
    """Place every node that is wide enough, callers before callees."""
    whole = max(1, root.total)
    boxes: list[Box] = []
    waiting = [(root, 0.0, 0)]
    while waiting:
        node, x, depth = waiting.pop()
        width = node.total / whole if depth else 1.0  # also of no sample at all
        if width < MIN_SHARE and depth > 0:
            continue
        boxes.append(Box(node, x, width, depth))
        for child in sorted(node.children.values(), key=lambda child: child.name):
            waiting.append((child, x, depth + 1))
            x += child.total / whole
    return boxes


def render(workers: Sequence[WorkerSamples], title: str, subtitle: str) -> str:
    """Draw the flame graph of all workers."""
    root = build_tree(workers)
    boxes = layout(root)
    rows = 1 + max(box.depth for box in boxes)
    height_px = HEADER_PX + rows * ROW_PX + FOOTER_PX
    rate_hz = workers[0].rate_hz if workers else 1
    parts = [
        _head(height_px, root.total, rate_hz),
        _header(title, subtitle),
        *_legend(root),
        '<g id="frames">',
        *(_box(box, rows, root.total, rate_hz) for box in boxes),
        "</g>",
        _footer(height_px, is_empty=root.total == 0),
        "</svg>",
    ]
    return _ILLEGAL.sub("\ufffd", "\n".join(parts) + "\n")


def _head(height_px: int, samples: int, rate_hz: int) -> str:
    here = Path(__file__)
    style = here.with_suffix(".css").read_text(encoding="utf-8")
    script = here.with_suffix(".js").read_text(encoding="utf-8")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" version="1.1" '
        f'width="{WIDTH_PX}" height="{height_px}" '
        f'data-margin="{MARGIN_PX}" data-character="{CHARACTER_PX}" '
        f'data-samples="{samples}" data-rate="{rate_hz}">\n'
        f"<style>{escape(style)}</style>\n"
        f"<script><![CDATA[\n{script}]]></script>"
    )


def _header(title: str, subtitle: str) -> str:
    return (
        f'<text class="title" x="{MARGIN_PX}" y="24">{escape(title)}</text>\n'
        f'<text class="subtitle" x="{MARGIN_PX}" y="42">{escape(subtitle)}</text>\n'
        # What stands at the right edge; the script moves it when the window is wider.
        f'<g id="right" transform="translate({WIDTH_PX - MARGIN_PX} 0)">\n'
        '<text class="button end" id="reset" x="-232" y="24">reset zoom</text>\n'
        '<foreignObject x="-220" y="8" width="220" height="24">'
        '<input xmlns="http://www.w3.org/1999/xhtml" id="search" type="search" '
        'placeholder="search (regular expression)"/></foreignObject>\n'
        '<text class="subtitle end" id="found" y="48"></text></g>'
    )


def _legend(root: Node) -> Iterator[str]:
    """One entry for each stage that has time of its own, with its share of the whole."""
    own: Counter[Stage] = Counter()
    for node in _walk(root):
        if node.stage is not None:
            own[node.stage] += node.own
    x = float(MARGIN_PX)
    for stage in (stage for stage in Stage if own[stage]):
        text = f"{stage} {_percent(own[stage], root.total)}"
        yield (
            f'<g class="key" data-stage={quoteattr(stage)}><title>show only {stage}</title>'
            f'<rect x="{x:.0f}" y="56" width="12" height="12" fill="{COLOURS[stage]}"/>'
            f'<text x="{x + 16:.0f}" y="66">{escape(text)}</text></g>'
        )
        x += 16 + CHARACTER_PX * len(text) + 18


def _walk(root: Node) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())


def _box(box: Box, rows: int, whole: int, rate_hz: int) -> str:
    node = box.node
    x = MARGIN_PX + box.x * (WIDTH_PX - 2 * MARGIN_PX)
    width = box.width * (WIDTH_PX - 2 * MARGIN_PX)
    y = HEADER_PX + (rows - 1 - box.depth) * ROW_PX
    fill = COLOURS[node.stage] if node.stage else "#5b6470"
    stage = quoteattr(node.stage or "")
    return (
        f'<g class="f" data-x="{box.x:.6f}" data-w="{box.width:.6f}" data-d="{box.depth}" '
        f"data-s={stage} data-n={quoteattr(node.name)}>"
        f"<title>{escape(_tooltip(node, whole, rate_hz))}</title>"
        f'<rect x="{x:.2f}" y="{y}" width="{max(0.3, width - 0.4):.2f}" '
        f'height="{ROW_PX - 1}" fill="{fill}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 12}">{escape(fit(node.name, width))}</text></g>'
    )


def _tooltip(node: Node, whole: int, rate_hz: int) -> str:
    text = (
        f"{node.name}: {_percent(node.total, whole)} of running time, "
        f"{node.total / rate_hz:.2f} s; {_percent(node.own, whole)} its own"
    )
    if node.stage is not None:
        text += f"; stage: {node.stage}"
    lines = [f"{n} ({_percent(count, node.total)})" for n, count in _hottest(node.lines)]
    return text + (f"; lines: {', '.join(lines)}" if lines else "")


def _hottest(lines: Counter[int]) -> Iterable[tuple[int, int]]:
    return [(line, count) for line, count in lines.most_common(3) if line > 0]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"


def fit(text: str, width_px: float) -> str:
    """Cut a text to what fits into a box; empty where not even three characters do."""
    room = int((width_px - 6) / CHARACTER_PX)
    if room < 3:
        return ""
    return text if len(text) <= room else text[: room - 1] + "…"


def _footer(height_px: int, is_empty: bool) -> str:
    text = "No thread was running in any sample." if is_empty else ""
    return f'<text class="details" id="details" x="{MARGIN_PX}" y="{height_px - 10}">{text}</text>'
