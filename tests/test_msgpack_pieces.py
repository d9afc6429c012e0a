"""Bodies taken apart: the pieces are their maps, in order, and each is a body by itself."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import DecodeError, IngestError, LimitError, PayloadError
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.msgpack_pieces import pieces
from ingest.testing import (
    array_forms,
    bodies,
    columnar,
    damaged_bodies,
    map_forms,
    random_rows,
    spell_body,
    spell_map,
    str_forms,
)

LIMITS = Limits()
NOW_US = 1_768_473_000_000_000
ONE = columnar("a", {"v": [1]})
TWO = b"\x82\xa1m\xa1b\xa6fields\x81\xa1v\x02"


@pytest.mark.parametrize(
    "body",
    [
        ONE + TWO,
        *(head + ONE + TWO for head in array_forms(2)),
        b"\x91" + ONE + TWO,
        b"\x81\xa5batch\x92" + ONE + TWO,
        *(head + b"\xa5batch\x91" + ONE + TWO for head in map_forms(1)),
        *(b"\x81" + key + b"\x92" + ONE + TWO for key in str_forms("batch")),
        b"\x83\xa1m\xa1x\xa5batch\x92" + ONE + TWO + b"\xa7columns\x80",
        b"\x82\xa5batch\x05\xa5batch\x92" + ONE + TWO,
    ],
)
def test_every_envelope_gives_its_maps_in_order(body: bytes) -> None:
    assert pieces(body, LIMITS) == [ONE, TWO]


def test_a_map_that_only_mentions_batch_is_no_envelope() -> None:
    for body in (columnar("batch", {"batch": ["batch"]}), b"\x81\xa1m\xa5batch"):
        assert pieces(body, LIMITS) == [body]


@settings(max_examples=300)
@given(st.integers(0, 2**32).map(random.Random), st.integers(1, 5))
def test_pieces_are_the_maps_that_a_body_was_made_of(rng: random.Random, count: int) -> None:
    maps = [random_rows(rng, 3, 5) for _ in range(count)]
    found = pieces(spell_body(rng, maps), LIMITS)
    assert len(found) == count
    for piece, rows in zip(found, maps, strict=True):
        (batch,) = decode(piece, NOW_US, LIMITS)
        assert batch.measurement == rows.measurement


@settings(max_examples=200)
@given(bodies())
def test_pieces_of_an_array_are_the_same_as_of_the_maps_one_after_another(body: bytes) -> None:
    found = pieces(body, LIMITS)
    assert pieces(b"".join(found), LIMITS) == found
    assert pieces(array_forms(len(found))[-1] + b"".join(found), LIMITS) == found


@settings(max_examples=500)
@given(damaged_bodies())
def test_any_bytes_are_taken_apart_or_refused(body: bytes) -> None:
    try:
        found = pieces(body, LIMITS)
    except (DecodeError, PayloadError):
        with pytest.raises(IngestError):
            decode(body, NOW_US, LIMITS)
    else:
        assert found


def test_a_body_cut_off_at_any_byte_is_refused_or_ends_between_two_maps() -> None:
    body = spell_map(random.Random(1), random_rows(random.Random(1), 2, 4)) + TWO
    whole = pieces(body, LIMITS)
    ends = set(itertools.accumulate(map(len, whole)))
    for end in range(len(body)):
        if end in ends:
            assert pieces(body[:end], LIMITS) == whole[:-1]
        else:
            with pytest.raises(DecodeError):
                pieces(body[:end], LIMITS)


def test_what_is_wrong_inside_a_map_stays_in_its_piece() -> None:
    bad = b"\x82\xa1m\xa1\xff\xa7columns\x80"
    assert pieces(b"\x93" + ONE + bad + TWO, LIMITS) == [ONE, bad, TWO]


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (b"", DecodeError, "the body is empty"),
        (b"\xc1", DecodeError, "stopped at byte 0 of 1"),
        (ONE + b"\xdd\xff\xff\xff\xff", DecodeError, "not MessagePack, or cut off"),
        (
            ONE + b"\x05",
            PayloadError,
            "the body must be a map or an array of maps, found something",
        ),
        (b"\x90", PayloadError, "the body must be a map or an array of maps, found an array of no"),
        (b"\x81\xa5batch\x90", PayloadError, "'batch' must be an array of maps, found an array of"),
        (b"\x81\xa5batch\x05", PayloadError, "'batch' must be an array of maps, found something"),
        (b"\x92" + ONE + b"\x91\x80", PayloadError, "item 1 of the body must be a map"),
    ],
)
def test_what_holds_no_maps_is_refused(body: bytes, error: type[IngestError], text: str) -> None:
    with pytest.raises(error, match=text):
        pieces(body, LIMITS)


def test_pieces_and_keys_are_bounded() -> None:
    limits = Limits(max_elements=10, max_columns=10)
    for body in (ONE * 11, array_forms(11)[0] + ONE * 11):
        with pytest.raises(LimitError, match="maps of one request: 11, over the limit of 10"):
            pieces(body, limits)
    keys = b"".join(bytes([i, 0]) for i in range(11))
    with pytest.raises(LimitError, match="keys of one map: 12, over the limit of 10"):
        pieces(map_forms(12)[0] + keys + b"\xa5batch\x91" + ONE, limits)


def test_a_batch_of_many_rows_is_taken_apart() -> None:
    assert pieces(array_forms(10_000)[0] + TWO * 10_000, LIMITS) == [TWO] * 10_000
