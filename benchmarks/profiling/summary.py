"""Seconds per stage and function, under the name that tools know them by: `arc.profiler.summary`.

Nothing is added here.
"""

from __future__ import annotations

from arc.profiler.summary import (
    Function,
    FunctionTime,
    StageTime,
    busy_s,
    function_of,
    stage_times,
    top_functions,
)

__all__ = [
    "Function",
    "FunctionTime",
    "StageTime",
    "busy_s",
    "function_of",
    "stage_times",
    "top_functions",
]
