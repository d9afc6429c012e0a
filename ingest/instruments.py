"""What the pipeline counts, as values that are handed in.

The pipeline tells its instruments what happened; who owns them decides where that goes: shared
memory read by `/metrics` in the daemon, plain attributes in a test, nowhere in a benchmark.
Nothing here knows Prometheus, files or HTTP, and an instrument never raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Counter(Protocol):
    """A number that only grows. Safe to call from any thread."""

    def inc(self, n: int = 1) -> None:
        """Add `n`, which is not negative."""
        ...


class Gauge(Protocol):
    """A number that goes up and down. Safe to call from any thread."""

    def set(self, value: int) -> None:
        """Replace the value."""
        ...

    def add(self, n: int) -> None:
        """Add `n`, which may be negative."""
        ...


class Histogram(Protocol):
    """How often a duration fell in which class. Safe to call from any thread."""

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        ...


@dataclass(frozen=True, slots=True)
class PipelineInstruments:
    """Every instrument of the pipeline.

    At rest `rows_accepted == rows_buffered + rows_stored`: raise `rows_accepted` and
    `rows_buffered` together, and move rows from `rows_buffered` to `rows_stored` when the
    file that holds them is part of its table.

    Attributes:
        rows_accepted: Rows that a 204 covers.
        rows_stored: Rows in files that are part of a table.
        rows_buffered: Rows accepted and not stored: in a buffer, or in a flush.
        bytes_buffered: Bytes of memory of those rows.
        bytes_in_flight: Bytes of request bodies admitted and not yet buffered or refused.
        flushes: Flushes whose files are part of a table.
        flush_failures: Attempts at a flush that failed, each of which is tried again.
        flush_seconds: From hand-over by the buffer to being part of the table, seconds.
        flush_age_seconds: Age of the oldest row of a flush when it was stored, seconds.
        files_written: Parquet files that are part of a table.
        bytes_written: Bytes of those files.
        decode_seconds: From body to column batches, one request, seconds.
        lock_wait_seconds: Wait for the lock of a measurement, seconds.
    """

    rows_accepted: Counter
    rows_stored: Counter
    rows_buffered: Gauge
    bytes_buffered: Gauge
    bytes_in_flight: Gauge
    flushes: Counter
    flush_failures: Counter
    flush_seconds: Histogram
    flush_age_seconds: Histogram
    files_written: Counter
    bytes_written: Counter
    decode_seconds: Histogram
    lock_wait_seconds: Histogram


class NullInstrument:
    """An instrument of every kind that forgets what it is told."""

    __slots__ = ()

    def inc(self, n: int = 1) -> None:
        """Forget it."""

    def set(self, value: int) -> None:
        """Forget it."""

    def add(self, n: int) -> None:
        """Forget it."""

    def observe(self, seconds: float) -> None:
        """Forget it."""


def null() -> PipelineInstruments:
    """Instruments that keep nothing, for tests and benchmarks that do not look at them."""
    nothing = NullInstrument()
    return PipelineInstruments(
        rows_accepted=nothing,
        rows_stored=nothing,
        rows_buffered=nothing,
        bytes_buffered=nothing,
        bytes_in_flight=nothing,
        flushes=nothing,
        flush_failures=nothing,
        flush_seconds=nothing,
        flush_age_seconds=nothing,
        files_written=nothing,
        bytes_written=nothing,
        decode_seconds=nothing,
        lock_wait_seconds=nothing,
    )
