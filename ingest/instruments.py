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
    file that holds them is part of its table. A replay raises `rows_buffered` and
    `rows_replayed`, and leaves `rows_accepted` to whoever owns the instruments: only he knows
    how many of these rows were counted when they first came.

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
        rows_replayed: Rows that a replay read from the log and buffered again.
        rows_quarantined: Rows that a replay read from the log and could not buffer again: they
            are in a segment that was set aside.
        log_bytes: Bytes of log segments that hold rows which are not stored.
        log_segments: Number of those segments.
        log_records: Requests appended to the log.
        log_groups: Groups of requests written at once, those that failed left out.
        log_written_bytes: Bytes of those groups.
        log_write_seconds: Write and sync of one group, seconds.
        log_failures: Groups that the disk refused, and segments that could not be opened.
        log_read_only: 1 while the log takes nothing, else 0.
        log_corrupt: Places in log segments that fail their check and are followed by records.
        log_torn: Segments whose end was cut, since nothing valid follows.
        replay_bytes_total: Bytes of log that the replay at the start has to read.
        replay_bytes_done: Bytes of them that it has read.
        commits: Transactions of tables.
        commit_seconds: From the lock of a table to its durable transaction, seconds.
        commit_conflicts: Times that another process took the version of a table first.
        keys_repeated: Requests answered without being stored again: their key was known.
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
    rows_replayed: Counter
    rows_quarantined: Counter
    log_bytes: Gauge
    log_segments: Gauge
    log_records: Counter
    log_groups: Counter
    log_written_bytes: Counter
    log_write_seconds: Histogram
    log_failures: Counter
    log_read_only: Gauge
    log_corrupt: Counter
    log_torn: Counter
    replay_bytes_total: Gauge
    replay_bytes_done: Gauge
    commits: Counter
    commit_seconds: Histogram
    commit_conflicts: Counter
    keys_repeated: Counter


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
        rows_replayed=nothing,
        rows_quarantined=nothing,
        log_bytes=nothing,
        log_segments=nothing,
        log_records=nothing,
        log_groups=nothing,
        log_written_bytes=nothing,
        log_write_seconds=nothing,
        log_failures=nothing,
        log_read_only=nothing,
        log_corrupt=nothing,
        log_torn=nothing,
        replay_bytes_total=nothing,
        replay_bytes_done=nothing,
        commits=nothing,
        commit_seconds=nothing,
        commit_conflicts=nothing,
        keys_repeated=nothing,
    )
