"""A buffer gives up whole requests, once, and counts what it holds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.buffer import MeasurementBuffer
from ingest.columns import ColumnBatch
from ingest.lsn import make_lsn
from ingest.paths import TableId
from ingest.schema import TableSchema

TABLE = TableId("default", "cpu")


def batch(rows: int, nbytes: int) -> ColumnBatch:
    return ColumnBatch("cpu", np.zeros(rows, dtype=np.int64), {}, nbytes=nbytes)


def filled(requests: list[list[tuple[int, int]]]) -> MeasurementBuffer:
    buffer = MeasurementBuffer(TABLE, TableSchema({}, 1))
    for seq, parts in enumerate(requests, start=1):
        for rows, nbytes in parts:
            buffer.append(batch(rows, nbytes), seq, now_s=float(seq))
    return buffer


def test_everything_is_handed_over_when_it_fits() -> None:
    buffer = filled([[(1, 10)], [(2, 10), (3, 10)]])
    taken = buffer.hand_over(max_bytes=30)
    assert (taken.num_rows, taken.nbytes, taken.first_lsn, taken.last_lsn) == (6, 30, 1, 2)
    assert taken.oldest_s == 1.0
    assert (buffer.num_rows, buffer.nbytes) == (0, 0)


def test_a_request_is_never_split_over_two_files() -> None:
    buffer = filled([[(1, 10)], [(1, 10), (1, 10), (1, 10)], [(1, 10)]])
    first = buffer.hand_over(max_bytes=25)
    assert (first.first_lsn, first.last_lsn) == (1, 1)
    second = buffer.hand_over(max_bytes=25)
    assert (second.first_lsn, second.last_lsn, second.num_rows) == (2, 2, 3)
    assert buffer.oldest_s == 3.0


def test_requests_of_two_lives_of_a_shard_never_share_a_file() -> None:
    buffer = MeasurementBuffer(TABLE, TableSchema({}, 1))
    for lsn in (make_lsn(1, 7), make_lsn(1, 8), make_lsn(2, 1), make_lsn(2, 2)):
        buffer.append(batch(1, 10), lsn, now_s=0.0)
    first, second = buffer.hand_over(max_bytes=1_000), buffer.hand_over(max_bytes=1_000)
    assert (first.first_lsn, first.last_lsn) == (make_lsn(1, 7), make_lsn(1, 8))
    assert (second.first_lsn, second.last_lsn) == (make_lsn(2, 1), make_lsn(2, 2))
    assert buffer.num_rows == 0


def test_a_request_over_the_size_of_a_flush_is_handed_over_alone() -> None:
    buffer = filled([[(5, 1_000)], [(1, 10)]])
    assert buffer.hand_over(max_bytes=100).num_rows == 5
    assert buffer.num_rows == 1


@given(
    requests=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 99)), min_size=1, max_size=4),
        min_size=1,
        max_size=12,
    ),
    max_bytes=st.integers(1, 300),
)
def test_every_row_is_handed_over_once_and_in_order(
    requests: list[list[tuple[int, int]]], max_bytes: int
) -> None:
    buffer = filled(requests)
    rows, seqs = buffer.num_rows, []
    handed_over: list[ColumnBatch] = []
    while buffer.num_rows:
        taken = buffer.hand_over(max_bytes)
        seqs.append((taken.first_lsn, taken.last_lsn))
        handed_over += taken.batches
        assert taken.num_rows == sum(one.num_rows for one in taken.batches)
        assert taken.nbytes <= max_bytes or taken.first_lsn == taken.last_lsn
    assert sum(one.num_rows for one in handed_over) == rows
    assert [one.nbytes for one in handed_over] == [nbytes for r in requests for _, nbytes in r]
    flat = [seq for pair in seqs for seq in pair]
    assert flat == sorted(flat)
    assert all(last < first for (_, last), (first, _) in pairwise(seqs))
