"""Samples as a file for https://www.speedscope.app. Pure.

In: `WorkerSamples`. Out: a value for `json.dumps`, after the types in speedscope's
src/lib/file-format-spec.ts: one "sampled" profile for each thread name of each worker, stacks as
indices into one shared list of frames, outermost first, weights in seconds.

The order of samples is not kept, so the "Left Heavy" and "Sandwich" views say everything and
"Time Order" says nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arc.profiler.samples import Stack, WorkerSamples
from arc.profiler.stages import Stage, stage_of
from arc.profiler.summary import Function, function_of

SCHEMA_URL = "https://www.speedscope.app/file-format-schema.json"


def speedscope_file(workers: Sequence[WorkerSamples], name: str) -> dict[str, Any]:
    """Make the file; idle stacks are left out, as in the flame graph."""
    index: dict[Function, int] = {}
    profiles = [
        _profile(f"{worker.label}, {thread}", stacks, worker, index)
        for worker in workers
        for thread, stacks in _by_thread(worker.stacks).items()
    ]
    return {
        "$schema": SCHEMA_URL,
        # Weights of one stack are summed: who reads this wants to know how many looks they were.
        "exporter": f"arc, {workers[0].rate_hz if workers else 1} samples a second",
        "name": name,
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": f.name, "file": f.file} for f in index]},
        "profiles": profiles,
    }


def _by_thread(stacks: Mapping[Stack, int]) -> dict[str, dict[Stack, int]]:
    threads: dict[str, dict[Stack, int]] = {}
    for stack, count in stacks.items():
        if stage_of(stack.frames) is not Stage.IDLE:
            threads.setdefault(stack.thread, {})[stack] = count
    return threads


def _profile(
    name: str,
    stacks: Mapping[Stack, int],
    worker: WorkerSamples,
    index: dict[Function, int],
) -> dict[str, Any]:
    weights = [count / worker.rate_hz for count in stacks.values()]
    samples = [
        [index.setdefault(function_of(frame), len(index)) for frame in stack.frames]
        for stack in stacks
    ]
    return {
        "type": "sampled",
        "name": name,
        "unit": "seconds",
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }
