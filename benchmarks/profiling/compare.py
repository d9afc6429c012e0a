"""What a profile says, and what changed between two. Pure.

In: stacks with their samples. Out: rows of functions, stages and threads as shares of all samples,
and their differences in percentage points with what sampling alone would make of them.

A share p of n samples has a standard error of sqrt(p (1 - p) / n). The difference of two is held
against what it would be if nothing had changed: with p of both together,
sqrt(p (1 - p) (1/n + 1/m)). Below two of those it is noise: of twenty rows that did not change,
one exceeds it by chance. Samples of one stack that follow each other are not quite independent,
and the machine is not the same at two times, so that this is the least that noise can be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from arc.profiler.samples import Stack
from arc.profiler.stages import Stage, stage_of
from arc.profiler.summary import Function, function_of

#: Differences below this many standard errors are told as noise.
SIGMAS = 2.0


@dataclass(frozen=True, slots=True)
class Share:
    """Of one function, stage or thread.

    Attributes:
        name: What is shown.
        stage: Of a function: that of most of its own samples; else empty.
        own: Samples in which it was innermost; of a stage or thread, all of them.
        total: Samples in which it was on the stack at all.
        share: `own` of all samples, 0 to 1.
        total_share: `total` of all samples, 0 to 1.
    """

    name: str
    stage: str
    own: int
    total: int
    share: float
    total_share: float


@dataclass(frozen=True, slots=True)
class Change:
    """Of one row between two profiles; shares 0 to 1.

    Attributes:
        name: Which row.
        before: Its own share in the first.
        after: In the second.
        difference: `after` - `before`.
        error: Standard error of the difference, if nothing had changed.
        is_noise: Whether sampling alone makes such differences.
    """

    name: str
    before: float
    after: float
    difference: float
    error: float
    is_noise: bool


@dataclass(frozen=True, slots=True)
class Analysis:
    """All rows of one profile, the largest first. `samples` leaves out what waits."""

    samples: int
    functions: list[Share]
    stages: list[Share]
    threads: list[Share]


def analyze(stacks: Mapping[Stack, int]) -> Analysis:
    """Rank what is on the stacks; those that wait are left out."""
    own: Counter[tuple[Function, Stage]] = Counter()
    total: Counter[Function] = Counter()
    stages: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for stack, count in stacks.items():
        stage = stage_of(stack.frames)
        if stage is Stage.IDLE:
            continue
        stages[stage] += count
        threads[stack.thread] += count
        if stack.frames:
            own[function_of(stack.frames[-1]), stage] += count
            total.update(dict.fromkeys(map(function_of, stack.frames), count))
    samples = sum(stages.values())
    functions = _functions(own, total, samples)
    return Analysis(samples, functions, _plain(stages, samples), _plain(threads, samples))


def _functions(
    own: Counter[tuple[Function, Stage]], total: Counter[Function], samples: int
) -> list[Share]:
    own_of: Counter[Function] = Counter()
    stage_of_function: dict[Function, Stage] = {}
    for (function, stage), count in own.most_common():
        own_of[function] += count
        stage_of_function.setdefault(function, stage)
    rows = [
        Share(
            f"{function.name} ({function.file})" if function.file else function.name,
            str(stage_of_function.get(function, "")),
            own_of[function],
            count,
            own_of[function] / samples,
            count / samples,
        )
        for function, count in total.items()
    ]
    return sorted(rows, key=lambda row: (-row.own, -row.total, row.name))


def _plain(counts: Counter[str], samples: int) -> list[Share]:
    return [Share(n, "", c, c, c / samples, c / samples) for n, c in counts.most_common()]


def standard_error(share: float, samples: int) -> float:
    """Of a share of so many independent samples."""
    return math.sqrt(share * (1 - share) / samples) if samples else 0.0


def changes(
    before: list[Share], after: list[Share], samples_before: int, samples_after: int
) -> list[Change]:
    """Rows of the same kind of two profiles, the largest difference first."""
    first = {row.name: row.share for row in before}
    second = {row.name: row.share for row in after}
    rows = [
        _change(name, first.get(name, 0.0), second.get(name, 0.0), samples_before, samples_after)
        for name in dict.fromkeys([*first, *second])
    ]
    return sorted(rows, key=lambda row: (row.is_noise, -abs(row.difference), row.name))


def _change(name: str, before: float, after: float, n: int, m: int) -> Change:
    together = (before * n + after * m) / (n + m)
    error = math.hypot(standard_error(together, n), standard_error(together, m))
    difference = after - before
    return Change(name, before, after, difference, error, abs(difference) < SIGMAS * error)
