"""What the compactor process counts, in a file of shared memory beside those of the workers.

In: what a look has done so far. Out: slots that whoever answers `/metrics` adds up with the
others; see `arc.metrics`. Each look is a process of its own and goes on counting in the same file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from arc.metrics import MetricsFile, SlotCounter

if TYPE_CHECKING:
    from ingest.compaction import Outcome

#: In the folder `run` of the data directory, under a name that `arc.metrics.all_paths` finds.
FILE_NAME = "metrics-compactor.bin"

#: Where each number of an `Outcome` is counted.
COUNTERS = {
    "files_merged": "arc_compaction_files_merged_total",
    "files_written": "arc_compaction_files_written_total",
    "rows": "arc_compaction_rows_total",
    "bytes_before": "arc_compaction_merged_bytes_total",
    "bytes_after": "arc_compaction_written_bytes_total",
    "files_vacuumed": "arc_vacuumed_files_total",
    "bytes_vacuumed": "arc_vacuumed_bytes_total",
    "conflicts": "arc_compaction_conflicts_total",
    "failures": "arc_compaction_failures_total",
}


class CompactionMetrics:
    """Every instrument of the compactor process, over its file."""

    def __init__(self, run_dir: Path) -> None:
        """Map the file, and keep what earlier looks have left in it.

        Raises:
            OSError: no room on the disk, or no rights.
        """
        self._file = MetricsFile(run_dir / FILE_NAME, keep_gauges=True)
        self._started_s = time.monotonic()
        self._runs = self._file.counter("arc_compaction_runs_total")
        self._last_end = self._file.float_gauge("arc_compaction_last_end_seconds")
        self._last_run = self._file.float_gauge("arc_compaction_last_run_seconds")
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._counters: dict[str, SlotCounter] = {
            name: self._file.counter(metric) for name, metric in COUNTERS.items()
        }

    def count(self, outcome: Outcome) -> None:
        """Count what this look has done since the last call."""
        for name, counter in self._counters.items():
            value = getattr(outcome, name)
            counter.inc(value - self._counted[name])
            self._counted[name] = value

    def end(self) -> None:
        """Count a look that has come to its end."""
        self._runs.inc()
        self._last_end.set(time.time())
        self._last_run.set(time.monotonic() - self._started_s)

    def close(self) -> None:
        """Unmap the file. No instrument may be used after."""
        self._file.close()
