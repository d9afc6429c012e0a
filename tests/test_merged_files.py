"""Merged files say which requests they hold, in few bytes, and are told by their names."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.merged_files import (
    COVERS_KEY,
    decode_covers,
    encode_covers,
    is_merged_name,
    merged,
    new_name,
)
from ingest.paths import LogRange, file_name
from ingest.promotion import rewritten_name

KEY = COVERS_KEY.encode()


@st.composite
def ranges(draw: st.DrawFn) -> LogRange:
    first = draw(st.integers(1, 60))
    last = draw(st.integers(first, first + 20))
    return LogRange(draw(st.integers(0, 2)), draw(st.integers(1, 3)), first, last)


def requests(found: tuple[LogRange, ...] | list[LogRange]) -> set[tuple[int, int, int]]:
    return {
        (one.shard, one.epoch, seq)
        for one in found
        for seq in range(one.first_seq, one.last_seq + 1)
    }


@given(st.lists(ranges(), max_size=30))
def test_what_a_file_holds_comes_back_as_it_was(found: list[LogRange]) -> None:
    decoded = decode_covers({KEY: encode_covers(found).encode()})
    assert decoded == merged(found)
    assert requests(decoded or ()) == requests(found)


def test_a_day_of_flushes_takes_few_bytes() -> None:
    without_holes = [LogRange(0, 1, number, number) for number in range(1, 8641)]
    with_holes = [LogRange(0, 1, number * 7, number * 7 + number % 5) for number in range(1, 8641)]
    assert len(encode_covers(without_holes)) < 64
    assert len(encode_covers(with_holes)) < 40_000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"?",
        base64.b64encode(b"x"),
        base64.b64encode(zlib.compress(b"{}")),
        base64.b64encode(zlib.compress(b"[[1]]")),
        base64.b64encode(zlib.compress(b"[[0,1,-1,2]]")),
        base64.b64encode(zlib.compress(b"[[0,1,1]]")),
    ],
)
def test_what_cannot_be_read_says_nothing(text: bytes) -> None:
    assert decode_covers({KEY: text}) is None
    assert decode_covers({}) is None
    assert decode_covers(None) is None


def test_names_are_told_from_those_of_flushes_also_after_a_change_of_a_type() -> None:
    name = new_name()
    assert name != new_name()
    assert is_merged_name(name)
    assert is_merged_name(rewritten_name(name, 3, 0))
    assert not is_merged_name(file_name(0, 1, 2, 3))
    assert not is_merged_name("m-0123.parquet")
