"""What a sampler saw, under the name that tools know it by: `arc.profiler.samples`.

The daemon samples itself, so that these values are its own; nothing is added here.
"""

from __future__ import annotations

from arc.profiler.samples import (
    MAIN_THREAD,
    Frame,
    RawFormatError,
    Stack,
    WorkerSamples,
    parse_frame,
    parse_raw,
    pool_name,
)

__all__ = [
    "MAIN_THREAD",
    "Frame",
    "RawFormatError",
    "Stack",
    "WorkerSamples",
    "parse_frame",
    "parse_raw",
    "pool_name",
]
