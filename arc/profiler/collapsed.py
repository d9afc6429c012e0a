"""Samples as collapsed stacks: one line a stack, frames from the outermost on, then a count. Pure.

In: `WorkerSamples`. Out: the text that flamegraph.pl, inferno, speedscope and
scripts/analyze_flamegraph.py read, in the form in which py-spy's `--format raw --threads` has it,
so that `arc.profiler.samples.parse_raw` reads it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from arc.profiler.samples import Frame, Stack, WorkerSamples


def collapsed(workers: Sequence[WorkerSamples]) -> str:
    """The stacks of all workers, the same ones of several together, the most frequent first."""
    stacks: Counter[Stack] = Counter()
    for worker in workers:
        stacks.update(worker.stacks)
    return "".join(f"{_line(stack)} {count}\n" for stack, count in stacks.most_common())


def _line(stack: Stack) -> str:
    # py-spy has the number of the thread in the parentheses; threads of one name are one here.
    return ";".join((f"thread (0): {stack.thread}", *map(_text, stack.frames)))


def _text(frame: Frame) -> str:
    """A frame as `parse_frame` reads it; what parts frames and lines may not be in it."""
    if not frame.file:
        text = frame.name
    elif frame.line:
        text = f"{frame.name} ({frame.file}:{frame.line})"
    else:
        text = f"{frame.name} ({frame.file})"
    return text.replace(";", ",").replace("\n", " ")
