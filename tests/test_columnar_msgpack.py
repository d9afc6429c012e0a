"""Batches written as MessagePack come back as they were, to the last bit."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given

from ingest.assemble import assemble
from ingest.columnar_msgpack import encode, encode_rows, encoded_rows_bytes
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.msgpack_slow import decode_slow
from ingest.testing.batches import assert_same_batches, column_values
from ingest.testing.msgpack import LENGTH_BOUNDARIES, random_body
from ingest.testing.strategies import bodies
from ingest.timestamps import TimeUnit
from tests.support.columns import batch, blobs, bools, floats, ints, texts, uints

NOW_US = 1_700_000_000_000_000
LIMITS = Limits()


def check_round_trip(given_batches: list[ColumnBatch]) -> None:
    body = encode(given_batches)
    for way in (decode, decode_slow):
        assert_same_batches(way(body, 0, LIMITS, TimeUnit.US), given_batches)


@given(bodies())
def test_what_was_written_decodes_to_the_same_batches(body: bytes) -> None:
    check_round_trip(decode(body, NOW_US, LIMITS))


def test_a_float_column_of_integers_comes_back_as_floats() -> None:
    given_batch = batch({"v": floats(1.0, -0.0, 2.0**60)})
    check_round_trip([given_batch])
    (found,) = decode(encode([given_batch]), 0, LIMITS, TimeUnit.US)
    assert found.columns["v"].type is ColumnType.FLOAT64
    assert np.signbit(found.columns["v"].values).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "column",
    [
        ints(0, -1, 2**63 - 1, -(2**63)),
        ints(None, 5, None),
        uints(0, None, 2**64 - 1),
        floats(float("nan"), float("inf"), float("-inf"), None, 5e-324),
        floats(float("nan"), float("nan")),
        bools(True, None, False),
        texts("", None, "é" * 20, "a\0"),
        blobs(b"", None, bytes(range(256))),
        texts(*["x" * size for size in (*LENGTH_BOUNDARIES, 65_535, 65_536)]),
        blobs(*[b"x" * size for size in (*LENGTH_BOUNDARIES, 65_535, 65_536)]),
    ],
    ids=lambda column: f"{column.type}-{len(column.values)}",
)
def test_every_type_and_every_boundary_comes_back(column: Column) -> None:
    check_round_trip([batch({"v": column})])


def test_times_before_1970_and_tags_without_a_column_come_back() -> None:
    times = Column(ColumnType.INT64, np.array([-1, -2_000_000_000_000_000, 1]))
    tags = frozenset({"host", "gone"})
    columns = {"time": times, "host": texts("a", "b", "a")}
    check_round_trip([assemble("größe/1", 3, dict(columns), tags, 0, TimeUnit.US)])


def test_a_batch_of_nothing_but_times_comes_back() -> None:
    check_round_trip([assemble("cpu", 2, {}, frozenset(), NOW_US, None)])


def test_batches_keep_their_order_and_no_batches_are_no_bytes() -> None:
    names = ["b", "a", "b"]
    check_round_trip([assemble(name, 1, {}, frozenset(), NOW_US, None) for name in names])
    assert encode([]) == b""


# ------------------------------------------------------------------------------------ single rows


@given(bodies())
def test_rows_written_one_by_one_hold_the_values_of_their_batch(body: bytes) -> None:
    for found in decode(body, NOW_US, LIMITS):
        rows = encode_rows(found)
        assert len(rows) == found.num_rows
        assert sum(map(len, rows)) <= encoded_rows_bytes(found)
        values = {name: column_values(column) for name, column in found.columns.items()}
        for at, row in enumerate(rows):
            (single,) = decode(row, 0, LIMITS, TimeUnit.US)
            assert (single.measurement, single.time_us[0]) == (
                found.measurement,
                found.time_us[at],
            )
            present = {name: [of[at]] for name, of in values.items() if of[at] is not None}
            again = {name: column_values(column) for name, column in single.columns.items()}
            assert repr(again) == repr(present)
            assert single.tags == found.tags & present.keys()


def test_a_row_keeps_the_type_of_its_values() -> None:
    given_batch = batch({"f": floats(1.0), "i": ints(1), "u": uints(2**63), "b": blobs(b"\xff")})
    (row,) = encode_rows(given_batch)
    (found,) = decode(row, 0, LIMITS, TimeUnit.US)
    assert {name: column.type for name, column in found.columns.items()} == {
        "f": ColumnType.FLOAT64,
        "i": ColumnType.INT64,
        "u": ColumnType.UINT64,
        "b": ColumnType.BINARY,
    }


def test_names_that_no_table_could_have_are_written_as_near_as_can_be() -> None:
    given_batch = batch({"a\ud800": ints(1)})
    given_batch.measurement = "m\udfff"
    (row,) = encode_rows(given_batch)
    assert msgspec.msgpack.decode(row)["m"] == "m?"
    assert set(msgspec.msgpack.decode(row)["columns"]) == {"time", "a?"}


def test_a_body_of_a_seed_is_written_in_the_same_bytes_twice() -> None:
    body = random_body(random.Random(7))
    once = encode(decode(body, NOW_US, LIMITS))
    assert encode(decode(once, 0, LIMITS, TimeUnit.US)) == once
