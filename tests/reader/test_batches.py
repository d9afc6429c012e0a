"""Batches of one size, from batches of any."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.reader import BatchStream
from arc.reader.batches import rebatched

SCHEMA = pa.schema([pa.field("n", pa.int64())])


def batch(first: int, rows: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(range(first, first + rows), pa.int64())], SCHEMA)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_every_batch_but_the_last_has_so_many_rows_and_none_is_lost(
    sizes: list[int], rows: int
) -> None:
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    given_batches = [batch(first, size) for first, size in zip(firsts, sizes, strict=True)]
    found = list(rebatched(iter(given_batches), rows))
    assert [n for one in found for n in one["n"].to_pylist()] == list(range(sum(sizes)))
    assert [one.num_rows for one in found[:-1]] == [rows] * (len(found) - 1)
    assert all(0 < one.num_rows <= rows for one in found)


def test_a_batch_within_another_shares_its_memory() -> None:
    whole = batch(0, 10)
    _, second, _ = rebatched(iter([whole]), 4)
    assert second["n"].buffers()[1].address == whole["n"].buffers()[1].address


def test_a_stream_lets_go_at_its_end_once_and_after_an_error() -> None:
    closed: list[int] = []

    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(0, 4)
        raise OSError("gone")

    stream = BatchStream(SCHEMA, iter([batch(0, 4)]), 4, lambda: closed.append(1))
    assert [one.num_rows for one in stream] == [4]
    stream.close()
    assert closed == [1]
    stream = BatchStream(SCHEMA, broken(), 4, lambda: closed.append(2))
    assert next(stream).num_rows == 4
    with pytest.raises(OSError, match="gone"):
        next(stream)
    assert closed == [1, 2]
    assert list(stream) == []
    with BatchStream(SCHEMA, iter([batch(0, 4)]), 4, lambda: closed.append(3)) as stream:
        pass
    assert closed == [1, 2, 3]
