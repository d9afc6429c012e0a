"""How a process stands back behind others: a lower priority, and cores that it never runs on.

In: how far. Out: the number of cores that are left to it. Changes the calling thread and those
that it starts; it is to be called before there are others, since on Linux each thread has a
priority and cores of its own. What the process was given at its start is never widened.
"""

from __future__ import annotations

import os


def stand_back(nice: int, spare_cores: int) -> int:
    """Lower the priority, and leave cores free.

    Args:
        nice: Steps down from the priority as it is, 0 to 19.
        spare_cores: How many not to use; one is kept in any case. Without effect where a process
            cannot choose its cores (macOS).

    Returns:
        How many cores may be used.
    """
    os.nice(nice)
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))
    kept = cores[: max(1, len(cores) - spare_cores)]
    if kept != cores:
        os.sched_setaffinity(0, kept)
    return len(kept)
