"""Time as a value that is handed in, so that a test can move it.

Two clocks: wall time, for rows that come without one, and a monotonic one, for ages and
deadlines, which no NTP step can move. File names never come from either.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the pipeline asks for the time."""

    def now_us(self) -> int:
        """Wall time in microseconds since 1970-01-01T00:00Z."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        """Wall time in microseconds since 1970-01-01T00:00Z."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is moved. For tests.

    Attributes:
        wall_us: What `now_us` returns.
        elapsed_s: What `monotonic_s` returns.
    """

    def __init__(self, wall_us: int = 1_700_000_000_000_000, elapsed_s: float = 0.0) -> None:
        self.wall_us = wall_us
        self.elapsed_s = elapsed_s

    def now_us(self) -> int:
        """Wall time in microseconds since 1970-01-01T00:00Z."""
        return self.wall_us

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return self.elapsed_s

    def move(self, seconds: float) -> None:
        """Let both clocks go on by this much."""
        self.elapsed_s += seconds
        self.wall_us += round(seconds * 1_000_000)
