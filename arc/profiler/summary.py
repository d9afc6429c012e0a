"""Seconds per stage and per function, of all workers together. Pure.

In: `WorkerSamples`. Out: plain rows for a table. One sample stands for 1 / rate seconds.

What 100 % is: the wall time of every event loop, idle or not, and the running time of all other
threads. A pool thread that waits for work adds nothing; an event loop that waits is `idle`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from arc.profiler.samples import Frame, WorkerSamples
from arc.profiler.stages import Stage, stage_of


@dataclass(frozen=True, slots=True)
class StageTime:
    """Time of one stage.

    Attributes:
        stage: Which.
        event_loop_s: On the threads of event loops.
        other_threads_s: On all other threads.
        share: Of everything, idle included; 0 to 1.
        share_of_busy: Of everything but idle; 0 for idle itself.
    """

    stage: Stage
    event_loop_s: float
    other_threads_s: float
    share: float
    share_of_busy: float

    @property
    def total_s(self) -> float:
        """On any thread."""
        return self.event_loop_s + self.other_threads_s


class Function(NamedTuple):
    """A function of Python, whatever its line."""

    name: str
    file: str


@dataclass(frozen=True, slots=True)
class FunctionTime:
    """Time of one function.

    Attributes:
        function: Which.
        stage: The stage of most of its own samples.
        hottest_line: The line of most of its own samples, 0 where not known.
        self_s: Seconds in which it was the innermost frame.
        total_s: Seconds in which it was on the stack at all, recursion counted once.
        self_share: `self_s` of all busy time; 0 to 1.
        total_share: `total_s` of all busy time; 0 to 1.
    """

    function: Function
    stage: Stage
    hottest_line: int
    self_s: float
    total_s: float
    self_share: float
    total_share: float


def stage_times(workers: Sequence[WorkerSamples]) -> list[StageTime]:
    """Every stage in pipeline order, also those that were never seen."""
    loop_s = dict.fromkeys(Stage, 0.0)
    other_s = dict.fromkeys(Stage, 0.0)
    for worker in workers:
        for stack, count in worker.stacks.items():
            stage = stage_of(stack.frames)
            if stack.is_event_loop:
                loop_s[stage] += count / worker.rate_hz
            elif stage is not Stage.IDLE:
                other_s[stage] += count / worker.rate_hz
        loop_s[Stage.UNREAD] += worker.lost / worker.rate_hz
        loop_s[Stage.IDLE] += worker.loop_idle / worker.rate_hz
    return _with_shares(loop_s, other_s)


def _with_shares(loop_s: Mapping[Stage, float], other_s: Mapping[Stage, float]) -> list[StageTime]:
    everything = sum(loop_s.values()) + sum(other_s.values())
    busy = everything - loop_s[Stage.IDLE]
    times = []
    for stage in Stage:
        total = loop_s[stage] + other_s[stage]
        of_busy = 0.0 if stage is Stage.IDLE else _ratio(total, busy)
        share = _ratio(total, everything)
        times.append(StageTime(stage, loop_s[stage], other_s[stage], share, of_busy))
    return times


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def busy_s(worker: WorkerSamples) -> float:
    """Seconds in which threads ran or wanted to; a lost round counts as one thread's."""
    busy = sum(n for stack, n in worker.stacks.items() if stage_of(stack.frames) is not Stage.IDLE)
    return (busy + worker.lost) / worker.rate_hz


def top_functions(workers: Sequence[WorkerSamples], limit: int = 15) -> list[FunctionTime]:
    """Functions by time of their own, the largest first; idle stacks left out."""
    own: Counter[tuple[Function, Stage, int]] = Counter()
    total: Counter[Function] = Counter()
    rate_hz = 1
    for worker in workers:
        rate_hz = worker.rate_hz
        for stack, count in worker.stacks.items():
            stage = stage_of(stack.frames)
            if not stack.frames or stage is Stage.IDLE:
                continue
            innermost = stack.frames[-1]
            own[function_of(innermost), stage, innermost.line] += count
            total.update(dict.fromkeys(map(function_of, stack.frames), count))
    return _ranked(own, total, rate_hz)[:limit]


def _ranked(
    own: Counter[tuple[Function, Stage, int]], total: Counter[Function], rate_hz: int
) -> list[FunctionTime]:
    by_function: Counter[Function] = Counter()
    hottest: dict[Function, tuple[Stage, int]] = {}
    for (function, stage, line), count in own.most_common():
        by_function[function] += count
        hottest.setdefault(function, (stage, line))
    busy = sum(by_function.values())
    return [
        FunctionTime(
            function=function,
            stage=hottest[function][0],
            hottest_line=hottest[function][1],
            self_s=count / rate_hz,
            total_s=total[function] / rate_hz,
            self_share=_ratio(count, busy),
            total_share=_ratio(total[function], busy),
        )
        for function, count in by_function.most_common()
    ]


def function_of(frame: Frame) -> Function:
    """The function of a frame."""
    return Function(frame.name, frame.file)
