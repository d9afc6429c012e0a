"""The part of the compactor process that merges, imported once there is something to merge.

In: folders of tables that may have something to do. Out: the tables compacted and vacuumed, each
told to the looks once nothing is left to do. When a look is due, and what ends one, is decided in
`arc.compaction_process`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from arc.compaction_counts import CompactionMetrics
from arc.compaction_options import CompactionStart
from arc.compaction_priority import idle_disk
from arc.runtime import DataDir
from ingest.clock import SystemClock
from ingest.compaction import Compactor, Limits, Outcome, known_tables, next_due_us
from ingest.compaction_looks import Looks
from ingest.paths import TableId, table_dir
from ingest.store import LocalStore
from ingest.table_change import TableFile
from ingest.turn import RETRY_AFTER_S, BusyError, is_taken


def compact(
    start: CompactionStart,
    due: Sequence[str],
    looks: Looks,
    metrics: CompactionMetrics,
    check: Callable[[], None],
    log: FilteringBoundLogger,
) -> Outcome:
    """Merge and vacuum tables until nothing is left to do. Under `ingest.turn.my_compaction`.

    Args:
        start: As the process was told.
        due: Folders of the tables.
        looks: Told what is settled.
        metrics: Count what is done, after each merge.
        check: Called again and again; what it raises ends the work between two commits.
        log: Told what was done.

    Raises:
        BusyError: a delete or retention is under way.
        StorageError: the data directory cannot be used.
    """
    where, clock, outcome = DataDir(start.data_dir), SystemClock(), Outcome()
    limits = Limits(older_than_s=start.older_than_s, grace_s=start.grace_s)

    def admit() -> None:
        if is_taken(where.state):
            raise BusyError("a delete or retention run is under way", RETRY_AFTER_S)

    def settled(table: TableId, files: Sequence[TableFile]) -> None:
        due_us = next_due_us(files, clock.now_us(), limits)
        looks.settled(table_dir(table), files[0].version if files else None, due_us)

    compactor = Compactor(
        LocalStore(where.root), log, limits, clock, check, admit=admit, merging=idle_disk
    )
    compactor.recover()
    known = {table_dir(table): table for table in known_tables(where.root)}
    for folder in due:
        if folder not in known:  # of others, who look after it
            looks.settled(folder, None, None)
    tables = [known[folder] for folder in due if folder in known]
    try:
        compactor.run(tables, lambda _: metrics.count(outcome), outcome, settled)
    finally:
        metrics.count(outcome)
    return outcome
