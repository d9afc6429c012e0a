"""The compactor process of a daemon: one look at its tables, what is to be merged, and the end.

    python -m arc.compaction_process DATA_DIR [options]

The supervisor starts one every `compact_interval_s`. Mostly nothing is due, and it ends before it
has imported what merges: that takes longer than all the rest, and would keep more memory between
two looks than they are worth (docs/profiling/2026-11-20-compactor.md).

SIGTERM, or the end of standard input, ends it within the time that a group of rows takes, between
two commits; whatever kills it, `ingest.table_change` says what is left and who clears it away.
Another compactor at work, a delete or retention are no failure: the next look does what is left.
It ends with 0, unless it could not look at all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from arc.compaction_counts import CompactionMetrics
from arc.compaction_options import CompactionStart, parse_arguments
from arc.compaction_priority import stand_back
from arc.memory import leave_out_pandas
from arc.runtime import DataDir
from ingest.compaction_looks import Looks
from ingest.errors import IngestError
from ingest.turn import BusyError, CompactionBusyError, my_compaction

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class StoppedError(Exception):
    """The process is to end."""


class Stop:
    """Whether the process is to end: SIGTERM came, or the supervisor is gone."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def listen(self) -> None:
        """Begin to listen. Ctrl-C is for the supervisor."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._watch_stdin, name="stdin", daemon=True).start()

    def check(self) -> None:
        """Do nothing, as long as the process may go on.

        Raises:
            StoppedError: it is to end.
        """
        if self._told.is_set():
            raise StoppedError

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._told.set()

    def _watch_stdin(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self._told.set()


def main(arguments: list[str]) -> int:
    """Look once; the exit status."""
    start = parse_arguments(arguments)
    stop = Stop()
    stop.listen()
    stand_back()
    leave_out_pandas()
    _name_process()
    try:
        look(start, stop)
    except (StoppedError, BusyError, CompactionBusyError):
        pass  # what is left to do, the next look will find
    except (IngestError, OSError) as error:
        log_of(start).error("compaction_failed", error=str(error))
        return 1
    return 0


def look(start: CompactionStart, stop: Stop) -> None:
    """Merge and vacuum what is due.

    Raises:
        StoppedError: it was told to end.
        BusyError: a delete or retention is under way.
        CompactionBusyError: another compactor is.
        StorageError: the data directory cannot be used.
        OSError: nothing can be counted, since the disk is full.
    """
    where = DataDir(start.data_dir)
    with (
        contextlib.closing(CompactionMetrics(where.run)) as metrics,
        my_compaction(where.state),
    ):
        looks = Looks(where.root, start.older_than_s, start.grace_s)
        try:
            if due := looks.due():
                work(start, due, looks, metrics, stop)
        finally:
            looks.save()
        metrics.end()


def work(
    start: CompactionStart,
    due: Sequence[str],
    looks: Looks,
    metrics: CompactionMetrics,
    stop: Stop,
) -> None:
    """Merge and vacuum some tables; raises as `look` does.

    Args:
        start: As the process was told.
        due: Folders of the tables.
        looks: Told what is settled.
        metrics: Count what is done.
        stop: Asked again and again.
    """
    stop.check()
    from arc.compaction_work import compact  # for 0.8 s

    compact(start, due, looks, metrics, stop.check, log_of(start))


def log_of(start: CompactionStart) -> FilteringBoundLogger:
    """Where this process tells what it did."""
    from arc.logs import configure  # for 0.2 s

    return configure(start.log_level, start.log_format, process="compactor")


def _name_process() -> None:
    """What `ps -o comm` and `top` show."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write("arc-compactor")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
