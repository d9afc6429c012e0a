"""Typed columns of one measurement, to a `ColumnBatch` with its time. Pure.

Every decoder ends here, so that the rules about time and about columns without a value are the
same on every door.
"""

from __future__ import annotations

import numpy as np

from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import TimeError
from ingest.timestamps import EpochTimes, TimeUnit, to_epoch_us

#: What the Python objects around the buffers take, so that a budget also bounds tiny batches
#: (benchmarks/bench_decode.py -k overhead).
BATCH_OVERHEAD_BYTES = 750
COLUMN_OVERHEAD_BYTES = 450


def assemble(
    measurement: str,
    rows: int,
    columns: dict[str, Column | None],
    tags: frozenset[str],
    now_us: int,
    time_unit: TimeUnit | None,
    time_bounds: tuple[int, int] | None = None,
) -> ColumnBatch:
    """Take the time out of the columns, drop what is null throughout, add up the bytes.

    Args:
        measurement: Its name.
        rows: Number of rows of every column.
        columns: By name; None stands for a column of nulls only. Consumed, values of the time
            column included.
        tags: Names of tag columns.
        now_us: Time of every row when no column is named `time`, microseconds since 1970.
        time_unit: Unit of the time column; None: told from its magnitudes.
        time_bounds: Smallest and largest value of an int64 time column, where they are known; not
            looked at for another type.

    Raises:
        TimeError: the time column holds something that is no time.
    """
    if TIME_COLUMN in columns:
        where = f"measurement {measurement!r}: column {TIME_COLUMN!r}"
        times = _times(columns.pop(TIME_COLUMN), time_unit, where, time_bounds)
    else:
        times = EpochTimes(np.full(rows, now_us, dtype=np.int64), now_us, now_us)
    present = {name: column for name, column in columns.items() if column is not None}
    nbytes = times.time_us.nbytes + BATCH_OVERHEAD_BYTES + len(present) * COLUMN_OVERHEAD_BYTES
    nbytes += sum([column.nbytes for column in present.values()])
    time_range = times.min_us, times.max_us
    return ColumnBatch(measurement, times.time_us, present, tags, nbytes, time_range)


def _times(
    column: Column | None, unit: TimeUnit | None, where: str, bounds: tuple[int, int] | None
) -> EpochTimes:
    if column is None:
        raise TimeError(f"{where}, row 0: null is not a time")
    if column.validity is not None:
        row = int(np.argmin(column.validity))
        raise TimeError(f"{where}, row {row}: null is not a time")
    if column.type is not ColumnType.INT64 and column.type is not ColumnType.FLOAT64:
        raise TimeError(f"{where}, row 0: found {column.type}, wanted an integer or a float")
    return to_epoch_us(column.values, unit, where, bounds)
