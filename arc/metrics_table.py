"""The one table of metrics: name, kind, unit, meaning, labels, buckets; and where each lies.

docs/metrics.md, `/metrics` and the files of shared memory all follow `METRICS`. Nothing here
counts, reads or writes.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import itertools
from dataclasses import dataclass

#: Ways into the daemon, as labels. "other" is every path that writes nothing.
DOORS = (
    *("msgpack", "line_protocol", "arrow", "otlp_logs", "otlp_traces", "otlp_metrics"),
    "other",
)

OTHER = "other"
#: Status codes with a series of their own; any other is counted as "other". 499 stands for a
#: client that left before it was answered.
STATUSES = (200, 204, 400, 404, 405, 408, 409, 413, 415, 422, 499, 500, 503)

#: Why a request was refused: the reasons of ingest.errors, then those of HTTP.
REASONS = (
    *("bad_request", "undecodable", "compression", "payload", "name", "column_length"),
    *("value_type", "type_conflict", "time", "too_large", "limit", "overloaded", "storage"),
    *("internal", "not_found", "method", "body_timeout", "disconnected", "bad_http"),
    *("starting", "stopping", "shard_in_use", "read_only", "replaying"),
    *("key_in_flight", "key_reused", "stale_schema", "media_type"),
    *("query", "query_limit", "query_result", "query_cancelled"),
    *("confirmation", "exists", "busy", "conflict", OTHER),
)

#: What a query may be answered with, and the status codes with a series of their own.
ANSWERS = ("json", "msgpack", "arrow", "estimate", "measurement")
QUERY_STATUSES = (200, 400, 413, 422, 499, 500, 503)

#: What a 204 may stand for, weakest first; see docs/configuration.md.
LEVELS = ("memory", "page", "disk")

#: What becomes of rows that no table takes, when the rest of their request is stored: they are
#: kept in the table _quarantine, or the client is told that they are refused (OTLP).
FATES = ("quarantined", "refused")

_REQUEST_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_DECODE_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001),
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
_LOCK_BUCKETS = (0.000001, 0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0)
_FLUSH_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: One group of the log: 0.1 ms is a write into the page cache, 1 s a disk in trouble.
_LOG_WRITE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
_COMMIT_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
#: Close together around the default of flush_age_s and 1.1 times that.
_AGE_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 5.5, 6.0, 7.5, 10.0, 20.0, 60.0)
_QUERY_BUCKETS = (
    *(0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Kind(enum.StrEnum):
    """How a metric behaves, in the words of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(enum.StrEnum):
    """What the shards' values make together."""

    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    Attributes:
        name: As scraped; a counter ends in `_total`.
        kind: Counter, gauge or histogram.
        unit: Of its values. Gauges in seconds are float64; other values are int64.
        help: One sentence, shown by `/metrics` and in docs/metrics.md.
        labels: Name and all values of each label, so that every series has a slot.
        buckets: Histograms only: upper bounds, ascending; infinity is added.
        merge: What the values of the shards make together.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = Merge.SUM

    def series(self) -> list[tuple[str, ...]]:
        """The label values of every series, in the order of their slots."""
        return list(itertools.product(*(values for _, values in self.labels)))

    @property
    def slots(self) -> int:
        """Slots of one series: a histogram has its buckets, that of infinity, and the sum."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1

    @property
    def is_float(self) -> bool:
        """Whether the one slot of a series holds a float64."""
        return self.kind is Kind.GAUGE and self.unit == "seconds"


def _counter(name: str, unit: str, text: str, *labels: tuple[str, tuple[str, ...]]) -> Metric:
    return Metric(f"arc_{name}_total", Kind.COUNTER, unit, text, labels)


def _gauge(
    name: str,
    unit: str,
    text: str,
    *labels: tuple[str, tuple[str, ...]],
    merge: Merge = Merge.SUM,
) -> Metric:
    return Metric(f"arc_{name}", Kind.GAUGE, unit, text, labels, merge=merge)


def _histogram(
    name: str, buckets: tuple[float, ...], text: str, *labels: tuple[str, tuple[str, ...]]
) -> Metric:
    return Metric(f"arc_{name}_seconds", Kind.HISTOGRAM, "seconds", text, labels, buckets)


_DOOR = ("door", DOORS)
_STATUS = ("status", (*map(str, STATUSES), OTHER))
_REASON = ("reason", REASONS)
_LEVEL = ("level", LEVELS)
_FATE = ("fate", FATES)
_ANSWER = ("answer", ANSWERS)
_QUERY_STATUS = ("status", (*map(str, QUERY_STATUSES), OTHER))

METRICS: tuple[Metric, ...] = (
    _counter("requests", "requests", "Requests answered.", _DOOR, _STATUS),
    _counter("requests_rejected", "requests", "Requests refused, by reason.", _DOOR, _REASON),
    _histogram("request", _REQUEST_BUCKETS, "From the end of the headers to the answer.", _DOOR),
    _counter("rows_accepted", "rows", "Rows that a 204 covers, or that a replay found in the log."),
    _counter("rows_rejected", "rows", "Rows decoded and then refused, by reason.", _REASON),
    _counter(
        "bad_rows", "rows", "Rows that no table took, of requests stored without them.", _FATE
    ),
    _counter("rows_stored", "rows", "Rows in files that are part of a table."),
    _gauge("rows_buffered", "rows", "Rows accepted and not yet stored."),
    _counter("rows_replayed", "rows", "Rows that a replay read from the log and buffered again."),
    _counter("rows_quarantined", "rows", "Rows of the log that were set aside as damaged."),
    _counter("rows_lost", "rows", "Rows that were in the memory of a worker that was killed."),
    _counter("bytes_received", "bytes", "Request bodies read, as on the wire."),
    _counter("bytes_accepted", "bytes", "Request bodies that a 204 covers, as on the wire."),
    _counter("bytes_rejected", "bytes", "Request bodies read and refused, by reason.", _REASON),
    _counter("bytes_decoded", "bytes", "Request bodies after decompression."),
    _gauge("bytes_in_flight", "bytes", "Request bodies admitted and not yet buffered or refused."),
    _gauge("bytes_buffered", "bytes", "Memory of the rows that are not yet stored."),
    _gauge("memory_limit_bytes", "bytes", "Most that in-flight and buffered bytes may be."),
    _histogram("decode", _DECODE_BUCKETS, "From request body to columns."),
    _histogram("lock_wait", _LOCK_BUCKETS, "Wait for the lock of a measurement."),
    _counter("flushes", "flushes", "Flushes whose files are part of a table."),
    _counter("flush_failures", "flushes", "Attempts at a flush that failed and are tried again."),
    _histogram("flush", _FLUSH_BUCKETS, "From hand-over by a buffer to being part of a table."),
    _histogram("flush_age", _AGE_BUCKETS, "Age of the oldest row of a flush once it is stored."),
    _counter("files_written", "files", "Parquet files that are part of a table."),
    _counter("bytes_written", "bytes", "Bytes of those files."),
    _counter("commits", "commits", "Transactions of tables."),
    _histogram("commit", _COMMIT_BUCKETS, "From the lock of a table to its durable transaction."),
    _counter(
        "commit_conflicts", "commits", "Times that another took the version of a table first."
    ),
    _counter("log_records", "requests", "Requests appended to the log."),
    _counter("log_groups", "groups", "Groups of requests written to the log at once."),
    _counter("log_written_bytes", "bytes", "Bytes of those groups."),
    _histogram("log_write", _LOG_WRITE_BUCKETS, "Write and sync of one group of the log."),
    _counter("log_failures", "failures", "Groups that the disk refused, and segments not opened."),
    _gauge("log_read_only", "workers", "Workers whose log takes nothing at present."),
    _gauge("log_bytes", "bytes", "Log segments that hold rows which are not stored."),
    _gauge("log_segments", "segments", "Number of those segments."),
    _counter("log_corrupt", "places", "Corrupt places found in the log, with records behind them."),
    _counter("log_torn", "segments", "Log segments whose torn end was cut."),
    _gauge("replay_bytes", "bytes", "Log that the replay at the start has to read."),
    _gauge("replay_bytes_done", "bytes", "Log that it has read."),
    _counter(
        "keys_repeated", "requests", "Requests with a known key, answered and not stored again."
    ),
    _counter(
        "queries", "queries", "Queries that the query process has ended.", _ANSWER, _QUERY_STATUS
    ),
    _histogram("query", _QUERY_BUCKETS, "From a query to the last byte of its answer.", _ANSWER),
    _histogram("query_wait", _QUERY_BUCKETS, "Wait of a query for its place."),
    _counter("query_rows", "rows", "Rows of answers to queries."),
    _counter("query_sent_bytes", "bytes", "Bytes of answers to queries, as sent."),
    _gauge("queries_running", "queries", "Queries that have a place."),
    _gauge("queries_waiting", "queries", "Queries that wait for one."),
    _counter("query_process_starts", "starts", "Starts of the query process."),
    _counter("compaction_runs", "runs", "Looks of the compactor that came to their end."),
    _counter("compaction_files_merged", "files", "Files whose place a larger one has taken."),
    _counter("compaction_files_written", "files", "Files that took their place."),
    _counter("compaction_rows", "rows", "Rows in files that took the place of others."),
    _counter("compaction_merged_bytes", "bytes", "Bytes of the files that were replaced."),
    _counter("compaction_written_bytes", "bytes", "Bytes of the files that took their place."),
    _counter("compaction_failures", "failures", "Merges, or whole tables, that failed."),
    _counter(
        "compaction_conflicts", "merges", "Merges that another change of their table made void."
    ),
    _counter("vacuumed_files", "files", "Files removed from the disk that had left their table."),
    _counter("vacuumed_bytes", "bytes", "Bytes of those files."),
    _gauge(
        "compaction_last_end_seconds",
        "seconds",
        "When the compactor last came to an end of its work, since 1970.",
        merge=Merge.MAX,
    ),
    _gauge(
        "compaction_last_run_seconds",
        "seconds",
        "How long the compactor was at work then.",
        merge=Merge.MAX,
    ),
    _gauge("durability", "-", "1 at the level that a 204 stands for.", _LEVEL, merge=Merge.MAX),
    _histogram("loop_lag", _LAG_BUCKETS, "How late the event loop runs what is due."),
    _gauge(
        "loop_lag_max_seconds",
        "seconds",
        "Longest event-loop lag of any worker within the last 10 to 20 s.",
        merge=Merge.MAX,
    ),
    _gauge("workers_up", "workers", "Workers that are ready."),
    _gauge("workers_wanted", "workers", "Workers that there should be."),
    _counter("worker_restarts", "restarts", "Workers started in place of one that ended."),
    _gauge(
        "start_time_seconds", "seconds", "When the daemon started, since 1970.", merge=Merge.MAX
    ),
)

#: Slots of a file before the first series.
HEADER_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each series of the table lies in a file.

    Attributes:
        first: Slot of the first value of a series, by metric name and label values.
        num_slots: Length of a file.
        fingerprint: Same for two layouts that are the same.
    """

    first: dict[tuple[str, tuple[str, ...]], int]
    num_slots: int
    fingerprint: int


@functools.cache
def layout() -> Layout:
    """Lay out `METRICS`."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    slot = HEADER_SLOTS
    for metric in METRICS:
        for series in metric.series():
            first[metric.name, series] = slot
            slot += metric.slots
    digest = hashlib.blake2b(repr(METRICS).encode(), digest_size=7).digest()
    return Layout(first, slot, int.from_bytes(digest, "little"))
