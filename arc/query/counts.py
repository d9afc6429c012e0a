"""What the query process counts, in a file of shared memory beside those of the workers.

In: events. Out: slots that whoever answers `/metrics` adds up with the others; see `arc.metrics`.
A successor of a process that died goes on counting in the same file.
"""

from __future__ import annotations

from pathlib import Path

from arc.metrics import MetricsFile
from arc.metrics_table import ANSWERS, OTHER, QUERY_STATUSES

#: In the folder `run` of the data directory, under a name that `arc.metrics.all_paths` finds.
FILE_NAME = "metrics-query.bin"


class QueryMetrics:
    """Every instrument of the query process, over its file.

    Attributes:
        running: Queries that have a place.
        waiting: Queries that wait for one.
        wait_seconds: How long each waited, also if in vain.
        rows: Of answers.
        sent_bytes: Of answers, as sent.
    """

    def __init__(self, run_dir: Path) -> None:
        """Map the file, and count this start.

        Raises:
            OSError: no room on the disk, or no rights.
        """
        file = MetricsFile(run_dir / FILE_NAME)
        self._file = file
        file.counter("arc_query_process_starts_total").inc()
        self.running = file.gauge("arc_queries_running")
        self.waiting = file.gauge("arc_queries_waiting")
        self.wait_seconds = file.histogram("arc_query_wait_seconds")
        self.rows = file.counter("arc_query_rows_total")
        self.sent_bytes = file.counter("arc_query_sent_bytes_total")
        self._seconds = {name: file.histogram("arc_query_seconds", name) for name in ANSWERS}
        self._queries = {
            (name, status): file.counter("arc_queries_total", name, status)
            for name in ANSWERS
            for status in (*map(str, QUERY_STATUSES), OTHER)
        }

    def count(self, answer: str, status: int, seconds: float) -> None:
        """Count one query that is over.

        Args:
            answer: One of `ANSWERS`.
            status: As sent, or what would have been if the answer had not begun; one that has no
                series is counted as "other".
            seconds: From the request to the last byte of the answer.
        """
        found = self._queries.get((answer, str(status)))
        (self._queries[answer, OTHER] if found is None else found).inc()
        self._seconds[answer].observe(seconds)

    def close(self) -> None:
        """Unmap the file. No instrument may be used after."""
        self._file.close()
