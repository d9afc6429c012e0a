"""What a shard counts, in a file of shared memory that every worker can read.

Each worker maps `metrics-<shard>.bin` and writes its own slots of eight bytes there; whoever
answers `GET /metrics` reads the files of all. The file survives its worker: a restarted one
goes on counting where its predecessor was killed, and counts the rows that died with it as
lost. Nothing here knows Prometheus or HTTP, and no value is ever read back to take a decision.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

from arc.metrics_table import (
    DOORS,
    LEVELS,
    METRICS,
    OTHER,
    STATUSES,
    Kind,
    Merge,
    Metric,
    layout,
)
from ingest.instruments import PipelineInstruments

_SLOT_BYTES = 8
#: The first two slots of a file: this number, and the fingerprint of the layout.
_MAGIC = int.from_bytes(b"arc met1", "little")


# HOT: several calls a request. `view[i] += n` is one read, one addition and one write of eight
# aligned bytes. The interpreter switches threads only at calls and backward jumps, of which there
# are none between the three, so no update is lost although there is no lock:
# 89 ns, with a threading.Lock 268 ns (benchmarks/bench_metrics.py, its empty call taken off). The
# proof, on every Python that runs the tests: test_no_increment_is_lost_between_threads in
# tests/test_metrics.py.


class SlotCounter:
    """A counter in shared memory."""

    __slots__ = ("_slot", "_view")

    def __init__(self, view: memoryview[int], slot: int) -> None:
        self._view = view
        self._slot = slot

    def inc(self, n: int = 1) -> None:
        """Add `n`, which is not negative."""
        self._view[self._slot] += n

    @property
    def value(self) -> int:
        """What was counted so far, by all workers of this shard."""
        return self._view[self._slot]


class SlotGauge:
    """A whole number in shared memory that goes up and down."""

    __slots__ = ("_slot", "_view")

    def __init__(self, view: memoryview[int], slot: int) -> None:
        self._view = view
        self._slot = slot

    def set(self, value: int) -> None:
        """Replace the value."""
        self._view[self._slot] = value

    def add(self, n: int) -> None:
        """Add `n`, which may be negative."""
        self._view[self._slot] += n

    @property
    def value(self) -> int:
        """The value of this shard."""
        return self._view[self._slot]


class SlotFloatGauge:
    """A number of seconds in shared memory."""

    __slots__ = ("_slot", "_view")

    def __init__(self, view: memoryview[float], slot: int) -> None:
        self._view = view
        self._slot = slot

    def set(self, value: float) -> None:
        """Replace the value."""
        self._view[self._slot] = value

    @property
    def value(self) -> float:
        """The value of this shard."""
        return self._view[self._slot]


class SlotHistogram:
    """Counts per class of durations, and their sum, in shared memory."""

    __slots__ = ("_bounds", "_floats", "_ints", "_slot", "_sum_slot")

    def __init__(
        self,
        ints: memoryview[int],
        floats: memoryview[float],
        slot: int,
        bounds: tuple[float, ...],
    ) -> None:
        self._ints = ints
        self._floats = floats
        self._slot = slot
        self._bounds = bounds
        self._sum_slot = slot + len(bounds) + 1

    def observe(self, seconds: float) -> None:
        """Count one duration in the first class whose bound is not below it."""
        slot = self._slot + bisect_left(self._bounds, seconds)
        self._ints[slot] += 1
        self._floats[self._sum_slot] += seconds


class MetricsFile:
    """The slots of one process, mapped. Gives out instruments by the names in `METRICS`."""

    def __init__(self, path: Path, *, keep_gauges: bool = False) -> None:
        """Map the file, made where there is none.

        Args:
            path: Of the file.
            keep_gauges: They tell of what a predecessor has done, not of what it was doing.

        Raises:
            OSError: no room on the disk, or no rights.
        """
        self._layout = layout()
        self._map = _map_file(path, self._layout.num_slots * _SLOT_BYTES)
        self._ints: memoryview[int] = memoryview(self._map).cast("q")
        self._floats: memoryview[float] = memoryview(self._map).cast("d")
        if self._ints[0] == _MAGIC and self._ints[1] == self._layout.fingerprint:
            if not keep_gauges:
                self._reset_gauges()
        else:
            self._start_anew()

    def counter(self, name: str, *labels: str) -> SlotCounter:
        """One series of a counter."""
        return SlotCounter(self._ints, self._layout.first[name, labels])

    def counters(self, name: str) -> dict[tuple[str, ...], SlotCounter]:
        """Every series of a counter, by label values."""
        first = self._layout.first
        return {labels: self.counter(name, *labels) for found, labels in first if found == name}

    def gauge(self, name: str, *labels: str) -> SlotGauge:
        """One series of a gauge of whole numbers."""
        return SlotGauge(self._ints, self._layout.first[name, labels])

    def float_gauge(self, name: str) -> SlotFloatGauge:
        """A gauge in seconds."""
        return SlotFloatGauge(self._floats, self._layout.first[name, ()])

    def histogram(self, name: str, *labels: str) -> SlotHistogram:
        """One series of a histogram."""
        bounds = next(metric.buckets for metric in METRICS if metric.name == name)
        slot = self._layout.first[name, labels]
        return SlotHistogram(self._ints, self._floats, slot, bounds)

    def close(self) -> None:
        """Unmap the file. No instrument may be used after."""
        self._ints.release()
        self._floats.release()
        self._map.close()

    def _reset_gauges(self) -> None:
        """What a predecessor was doing when it ended, nobody is doing now."""
        for metric in METRICS:
            if metric.kind is Kind.GAUGE:
                for labels in metric.series():
                    self._ints[self._layout.first[metric.name, labels]] = 0  # bits of 0.0, too

    def _start_anew(self) -> None:
        for slot in range(self._layout.num_slots):
            self._ints[slot] = 0
        self._ints[1] = self._layout.fingerprint
        self._ints[0] = _MAGIC


class ShardMetrics:
    """Every instrument of one worker, over its file.

    Attributes:
        pipeline: What `ingest` counts.
        rows_accepted: As `arc_rows_accepted_total` in `METRICS`, and so the others.
    """

    def __init__(self, path: Path, durability: str = "memory") -> None:
        """Map the file and take over from a predecessor, if there was one.

        `settle` is to be called once what it left in the log is buffered.

        Args:
            path: `shard_path`.
            durability: The level that a 204 stands for, one of `LEVELS`.

        Raises:
            OSError: no room on the disk, or no rights.
        """
        file = MetricsFile(path)
        self._file = file
        self.rows_accepted = file.counter("arc_rows_accepted_total")
        self.rows_stored = file.counter("arc_rows_stored_total")
        self.rows_buffered = file.gauge("arc_rows_buffered")
        self.rows_replayed = file.counter("arc_rows_replayed_total")
        self.rows_quarantined = file.counter("arc_rows_quarantined_total")
        self.rows_lost = file.counter("arc_rows_lost_total")
        self.bytes_received = file.counter("arc_bytes_received_total")
        self.bytes_accepted = file.counter("arc_bytes_accepted_total")
        self.bytes_decoded = file.counter("arc_bytes_decoded_total")
        self.bytes_in_flight = file.gauge("arc_bytes_in_flight")
        self.bytes_buffered = file.gauge("arc_bytes_buffered")
        self.memory_limit_bytes = file.gauge("arc_memory_limit_bytes")
        self.loop_lag = file.histogram("arc_loop_lag_seconds")
        self.loop_lag_max = file.float_gauge("arc_loop_lag_max_seconds")
        self._requests = {
            (door, status): file.counter("arc_requests_total", door, str(status))
            for door in DOORS
            for status in (*STATUSES, OTHER)
        }
        self._seconds = {door: file.histogram("arc_request_seconds", door) for door in DOORS}
        self._rejected = file.counters("arc_requests_rejected_total")
        self._rows_rejected = file.counters("arc_rows_rejected_total")
        self.bad_rows_quarantined = file.counter("arc_bad_rows_total", "quarantined")
        self.bad_rows_refused = file.counter("arc_bad_rows_total", "refused")
        self._bytes_rejected = file.counters("arc_bytes_rejected_total")
        self.pipeline = self._pipeline()
        self._durability = durability
        self._gap = self._unsettled_rows()
        self._quarantined_before = self.rows_quarantined.value
        self._corrupt = file.counter("arc_log_corrupt_total")
        self._corrupt_before = self._corrupt.value
        for level in LEVELS:
            file.gauge("arc_durability", level).set(int(level == durability))

    def _pipeline(self) -> PipelineInstruments:
        return PipelineInstruments(
            rows_accepted=self.rows_accepted,
            rows_stored=self.rows_stored,
            rows_buffered=self.rows_buffered,
            bytes_buffered=self.bytes_buffered,
            bytes_in_flight=self.bytes_in_flight,
            flushes=self._file.counter("arc_flushes_total"),
            flush_failures=self._file.counter("arc_flush_failures_total"),
            flush_seconds=self._file.histogram("arc_flush_seconds"),
            flush_age_seconds=self._file.histogram("arc_flush_age_seconds"),
            files_written=self._file.counter("arc_files_written_total"),
            bytes_written=self._file.counter("arc_bytes_written_total"),
            decode_seconds=self._file.histogram("arc_decode_seconds"),
            lock_wait_seconds=self._file.histogram("arc_lock_wait_seconds"),
            rows_replayed=self.rows_replayed,
            rows_quarantined=self.rows_quarantined,
            log_bytes=self._file.gauge("arc_log_bytes"),
            log_segments=self._file.gauge("arc_log_segments"),
            log_records=self._file.counter("arc_log_records_total"),
            log_groups=self._file.counter("arc_log_groups_total"),
            log_written_bytes=self._file.counter("arc_log_written_bytes_total"),
            log_write_seconds=self._file.histogram("arc_log_write_seconds"),
            log_failures=self._file.counter("arc_log_failures_total"),
            log_read_only=self._file.gauge("arc_log_read_only"),
            log_corrupt=self._file.counter("arc_log_corrupt_total"),
            log_torn=self._file.counter("arc_log_torn_total"),
            replay_bytes_total=self._file.gauge("arc_replay_bytes"),
            replay_bytes_done=self._file.gauge("arc_replay_bytes_done"),
            commits=self._file.counter("arc_commits_total"),
            commit_seconds=self._file.histogram("arc_commit_seconds"),
            commit_conflicts=self._file.counter("arc_commit_conflicts_total"),
            keys_repeated=self._file.counter("arc_keys_repeated_total"),
        )

    def count_request(self, door: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            door: One of `DOORS`.
            status: As sent; one that has no series is counted as "other".
            seconds: From the end of the headers to the answer.
        """
        counter = self._requests.get((door, status))
        (self._requests[door, OTHER] if counter is None else counter).inc()
        self._seconds[door].observe(seconds)

    def count_rejection(self, door: str, reason: str, num_bytes: int = 0, rows: int = 0) -> None:
        """Count why a request was refused, beside `count_request`.

        Args:
            door: One of `DOORS`.
            reason: `IngestError.reason` or another of `REASONS`; any other is "other".
            num_bytes: Of the body, on the wire, as far as it was read.
            rows: Decoded before the refusal, 0 if not known.
        """
        if (reason,) not in self._rows_rejected:
            reason = OTHER
        self._rejected[door, reason].inc()
        self._bytes_rejected[(reason,)].inc(num_bytes)
        self._rows_rejected[(reason,)].inc(rows)

    def settle(self, replayed_rows: int) -> None:
        """Make the sum exact again, once the replay has buffered what no table held.

        Afterwards accepted = stored + buffered + quarantined + lost. To be called once in the
        life of a worker, before it takes a request, with 0 if there was nothing to replay.

        What the predecessor, killed at any point, had accepted and not seen stored is the gap.
        The log knows better than its counters, which come after the deed. What it held for us is
        what was buffered and what was quarantined meanwhile:

        * more than the gap: the predecessor was killed between the sync of the log and the
          count; or this daemon never counted these rows, since they are of one before it, or of
          a shard without a worker. They are accepted now.
        * less than the gap: it was killed between the commit of a table and the count. They are
          stored. With a damaged log nobody can tell them from rows that were in the damaged
          part: they are quarantined, which may say too many and never too few. At the level of
          memory they were in no log: they are lost, again rather too many than too few.

        A predecessor that was killed while it replayed has stored rows that were never counted
        as accepted; then the gap is negative, and the same sums hold.

        Args:
            replayed_rows: Rows that the replay buffered, of this shard and of those it adopted,
                flushed since or not.
        """
        quarantined = self.rows_quarantined.value - self._quarantined_before
        is_damaged = self._corrupt.value > self._corrupt_before
        missing = self._gap - replayed_rows - quarantined
        self._gap = 0
        if missing < 0:
            self.rows_accepted.inc(-missing)
        elif self._durability == "memory":
            self.rows_lost.inc(missing)
        elif is_damaged:
            self.rows_quarantined.inc(missing)
        else:
            self.rows_stored.inc(missing)

    def close(self) -> None:
        """Unmap the file. No instrument may be used after."""
        self._file.close()

    def _unsettled_rows(self) -> int:
        """Rows counted as accepted and as nothing else yet; negative: the other way round.

        From the counters rather than the gauge of buffered rows: those agree wherever between
        two updates a predecessor was killed.
        """
        ended = self.rows_stored.value + self.rows_quarantined.value + self.rows_lost.value
        return self.rows_accepted.value - ended


class SupervisorMetrics:
    """Every instrument of the supervisor, over its file."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            OSError: no room on the disk, or no rights.
        """
        self._file = MetricsFile(path)
        self.workers_up = self._file.gauge("arc_workers_up")
        self.workers_wanted = self._file.gauge("arc_workers_wanted")
        self.worker_restarts = self._file.counter("arc_worker_restarts_total")
        self.start_time = self._file.float_gauge("arc_start_time_seconds")

    def close(self) -> None:
        """Unmap the file. No instrument may be used after."""
        self._file.close()


def shard_path(run_dir: Path, shard: int) -> Path:
    """The file of a worker."""
    return run_dir / f"metrics-{shard}.bin"


def supervisor_path(run_dir: Path) -> Path:
    """The file of the supervisor."""
    return run_dir / "metrics-supervisor.bin"


def all_paths(run_dir: Path) -> list[Path]:
    """The files that there are."""
    return sorted(run_dir.glob("metrics-*.bin"))


class Totals:
    """The values of all processes, taken together at one moment."""

    def __init__(self, run_dir: Path) -> None:
        """Read every file of this version's layout that is in the folder."""
        self._layout = layout()
        files = (path.read_bytes() for path in all_paths(run_dir))
        self._files = [data for data in files if self._is_ours(data)]

    def _is_ours(self, data: bytes) -> bool:
        if len(data) != self._layout.num_slots * _SLOT_BYTES:
            return False
        ints = memoryview(data).cast("q")
        return ints[0] == _MAGIC and ints[1] == self._layout.fingerprint

    def value(self, metric: Metric, labels: tuple[str, ...] = ()) -> float:
        """The value of one series of a counter or gauge."""
        slot = self._layout.first[metric.name, labels]
        values = [self._slot(data, slot, metric.is_float) for data in self._files]
        return max(values, default=0) if metric.merge is Merge.MAX else sum(values)

    def histogram(self, metric: Metric, labels: tuple[str, ...] = ()) -> tuple[list[int], float]:
        """Counts per bucket, that of infinity last and none cumulative; and the sum, seconds."""
        first = self._layout.first[metric.name, labels]
        sum_slot = first + len(metric.buckets) + 1
        views = [memoryview(data).cast("q") for data in self._files]
        counts = [sum(view[slot] for view in views) for slot in range(first, sum_slot)]
        return counts, sum(self._slot(data, sum_slot, True) for data in self._files)

    @staticmethod
    def _slot(data: bytes, slot: int, is_float: bool) -> float:
        return memoryview(data).cast("d" if is_float else "q")[slot]


def summary(run_dir: Path) -> dict[str, int]:
    """The counters and gauges in whole numbers that have no labels, by metric name."""
    totals = Totals(run_dir)
    plain = (m for m in METRICS if not m.labels and m.kind is not Kind.HISTOGRAM)
    return {m.name: int(totals.value(m)) for m in plain if not m.is_float}


class RowBalance(NamedTuple):
    """Where the rows of a daemon are, also after its end, as far as its workers have counted.

    Attributes:
        accepted: Rows that a 204 covers, or that a replay found.
        stored: In files that are part of a table.
        quarantined: In segments of the log that were set aside.
        lost: With the memory of a worker that was killed, as its successor counted.
        durability: The level of the daemon; empty if no worker has said it.
    """

    accepted: int
    stored: int
    quarantined: int
    lost: int
    durability: str

    @property
    def left(self) -> int:
        """Those in memory, which at the levels of page and disk are in the log, too.

        While a shard replays its log, stored rows may be counted before accepted ones: then 0.
        """
        return max(0, self.accepted - self.stored - self.quarantined - self.lost)

    @property
    def in_log(self) -> int:
        """Those that the next start stores, if the daemon has ended."""
        return 0 if self.durability == "memory" else self.left

    @property
    def gone(self) -> int:
        """Those that nobody has, if the daemon has ended: `lost`, and what its end has cost."""
        return self.lost + self.left - self.in_log


def row_balance(run_dir: Path) -> RowBalance:
    """Where the rows are that the processes of a folder have counted."""
    totals = Totals(run_dir)
    by_name = {metric.name: metric for metric in METRICS}
    accepted, stored, quarantined, lost = (
        int(totals.value(by_name[f"arc_rows_{name}_total"]))
        for name in ("accepted", "stored", "quarantined", "lost")
    )
    said = [level for level in LEVELS if totals.value(by_name["arc_durability"], (level,))]
    return RowBalance(accepted, stored, quarantined, lost, said[-1] if said else "")


def _map_file(path: Path, size: int) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, size)
        if hasattr(os, "posix_fallocate"):
            # A page without a block behind it kills the process on a full disk (SIGBUS).
            os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
