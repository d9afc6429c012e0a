"""What a batch says about itself."""

from __future__ import annotations

import numpy as np

from ingest.columns import Column, ColumnBatch, ColumnType


def test_the_range_of_times_is_looked_up_once_unless_it_is_known() -> None:
    times = np.array([5, -3, 9], dtype=np.int64)
    batch = ColumnBatch("cpu", times, {})
    assert batch.num_rows == 3
    assert (batch.min_us, batch.max_us) == (-3, 9)
    assert batch.known_range_us == (-3, 9)
    assert ColumnBatch("cpu", times, {}, known_range_us=(-3, 9)).range_us == (-3, 9)


def test_the_size_of_a_column_counts_all_its_buffers() -> None:
    values, offsets = np.zeros(7, dtype=np.uint8), np.zeros(4, dtype=np.int32)
    validity = np.array([False, True, True])
    assert Column(ColumnType.INT64, np.zeros(3, dtype=np.int64)).nbytes == 24
    assert Column(ColumnType.UTF8, values, offsets, validity).nbytes == 7 + 16 + 3


def test_the_first_row_that_is_present_is_found() -> None:
    values = np.zeros(3, dtype=np.int64)
    assert Column(ColumnType.INT64, values).first_present_row() == 0
    validity = np.array([False, False, True])
    assert Column(ColumnType.INT64, values, None, validity).first_present_row() == 2
