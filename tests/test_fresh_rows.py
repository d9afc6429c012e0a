"""Batches of a buffer as pieces of Arrow: every value, with the number of its request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import fresh_rows
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import IngestError
from ingest.fresh_rows import FreshRequest, FreshRows, PieceHead
from ingest.schema import ColumnSpec, TableSchema
from tests.support.columns import batch as batch_of
from tests.support.columns import blobs, bools, floats, ints, texts, to_rows, uints

SCHEMA = TableSchema(
    {
        "host": ColumnSpec(ColumnType.UTF8, is_tag=True),
        "n": ColumnSpec(ColumnType.INT64),
        "x": ColumnSpec(ColumnType.FLOAT64),
        "ok": ColumnSpec(ColumnType.BOOL),
        "raw": ColumnSpec(ColumnType.BINARY),
    },
    1,
)

values = st.fixed_dictionaries(
    {},
    optional={
        "host": st.none() | st.text(max_size=5),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "x": st.none() | st.floats(allow_nan=False),
        "ok": st.none() | st.booleans(),
        "raw": st.none() | st.binary(max_size=5),
    },
)


def batch(first_us: int, rows: int, columns: dict[str, Column]) -> ColumnBatch:
    """Rows a microsecond apart."""
    if columns:
        return batch_of(columns, first_us=first_us)
    return ColumnBatch("cpu", np.arange(first_us, first_us + rows), {})


def made(rows: Sequence[dict[str, Any]], first_us: int = 0) -> ColumnBatch:
    """A batch; columns that no row has a value in are left out, as decoders do."""
    kinds: dict[str, Any] = {"host": texts, "n": ints, "x": floats, "ok": bools, "raw": blobs}
    found: dict[str, Column] = {}
    for name, column in kinds.items():
        listed = [row.get(name) for row in rows]
        if any(value is not None for value in listed):
            found[name] = column(*listed)
    return batch(first_us, len(rows), found)


def decoded(rows: FreshRows) -> list[tuple[PieceHead, pa.RecordBatch]]:
    found = []
    for head, content in fresh_rows.pieces(rows):
        assert content.size == head.size_bytes
        with pa.ipc.open_stream(content) as reader:
            batches = list(reader)
        assert len(batches) == 1
        batches[0].validate(full=True)
        found.append((head, batches[0]))
    return found


@given(st.lists(st.lists(values, min_size=1, max_size=4), min_size=1, max_size=5))
def test_every_value_arrives_under_the_number_of_its_request(
    requests: list[list[dict[str, Any]]],
) -> None:
    batches = [made(rows, 100 * i) for i, rows in enumerate(requests)]
    lsns = [7 + 2 * i for i in range(len(batches))]
    ((head, found),) = decoded(FreshRows(SCHEMA, batches, lsns))
    assert np.frombuffer(head.lsns, np.int64).tolist() == lsns
    ends = np.cumsum([len(rows) for rows in requests]).tolist()
    assert np.frombuffer(head.ends, np.int64).tolist() == ends
    wanted = [row.get(name) for rows in requests for row in rows for name in SCHEMA.columns]
    there = found.schema.names
    nothing = [None] * found.num_rows
    columns = [
        found.column(name).to_pylist() if name in there else nothing for name in SCHEMA.columns
    ]
    assert [value for row in zip(*columns, strict=True) for value in row] == wanted
    times = found.column("time").cast(pa.int64()).to_pylist()
    assert times == [value for each in batches for value in each.time_us.tolist()]


def test_integers_of_a_column_that_became_double_arrive_as_doubles() -> None:
    batches = [batch(1, 1, {"x": x}) for x in (ints(3), floats(0.5), uints(2**64 - 1))]
    ((_, found),) = decoded(FreshRows(SCHEMA, batches, [1, 2, 3]))
    assert found.column("x").to_pylist() == [3.0, 0.5, float(2**64 - 1)]


def test_a_column_that_its_table_cannot_take_is_a_defect() -> None:
    with pytest.raises(IngestError, match="BUG: column 'n' is float64, its table has int64"):
        list(fresh_rows.pieces(FreshRows(SCHEMA, [batch(1, 1, {"n": floats(0.5)})], [1])))


def test_many_rows_are_cut_into_pieces_between_batches() -> None:
    rows = fresh_rows.PIECE_ROWS // 2 + 1
    batches = [batch(0, rows, {"n": ints(*range(rows))}) for _ in range(5)]
    found = decoded(FreshRows(SCHEMA, batches, [1, 2, 3, 4, 5]))
    assert [piece.num_rows for _, piece in found] == [2 * rows, 2 * rows, rows]
    lsns = [np.frombuffer(head.lsns, np.int64).tolist() for head, _ in found]
    assert lsns == [[1, 2], [3, 4], [5]]


def test_a_batch_is_not_changed() -> None:
    one = made([{"host": "a", "n": 1}, {"host": None, "n": None}])
    before = to_rows(one)
    decoded(FreshRows(SCHEMA, [one, one], [1, 2]))
    assert to_rows(one) == before


def test_a_message_is_read_as_it_was_written_also_in_parts() -> None:
    wanted = FreshRequest("default", "cpu", 3, 4)
    here, there = socket.socketpair()
    with here, there:

        def send() -> None:
            for byte in fresh_rows.message(wanted):
                here.sendall(bytes([byte]))

        sender = threading.Thread(target=send)
        sender.start()
        size = fresh_rows.length(fresh_rows.receive(there, fresh_rows.LENGTH_BYTES))
        assert fresh_rows.parse(fresh_rows.receive(there, size), FreshRequest) == wanted
        sender.join()
        here.close()
        with pytest.raises(EOFError, match="1 bytes early"):
            fresh_rows.receive(there, 1)


def test_a_message_of_absurd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a message of 4294967295 bytes, over 4194304"):
        fresh_rows.length(b"\xff" * 4)
