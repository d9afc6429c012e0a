"""Which coding a client gets, and that its pieces can be read as they come."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from arc.query.encoding import CODINGS, GZIP, IDENTITY, ZSTD, chosen, encoder


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, IDENTITY),
        ("", IDENTITY),
        ("identity", IDENTITY),
        ("br, deflate", IDENTITY),
        ("gzip", GZIP),
        ("x-gzip", GZIP),
        ("GZip", GZIP),
        ("zstd", ZSTD),
        ("gzip, deflate, br, zstd", ZSTD),
        ("gzip;q=1.0, zstd;q=0.5", GZIP),
        ("gzip;q=0.5,zstd ; q=0.8", ZSTD),
        ("gzip;q=0", IDENTITY),
        ("zstd;q=0, gzip", GZIP),
        ("*", ZSTD),
        ("*;q=0", IDENTITY),
        ("zstd;q=0, *;q=0.1", GZIP),
        ("identity;q=1, gzip;q=0.5", IDENTITY),
        ("identity, gzip", GZIP),
        ("identity;q=0, gzip;q=0", IDENTITY),
        ("gzip;q=much", IDENTITY),
        ("gzip;q=nan", IDENTITY),
        ("gzip;q=-1, zstd;q=7", IDENTITY),
        (",;,;q=1, gzip", GZIP),
    ],
)
def test_the_coding_is_the_one_that_the_client_likes_best(header: str | None, coding: str) -> None:
    assert chosen(header) == coding


@given(st.text(max_size=60))
def test_no_header_is_too_strange(header: str) -> None:
    assert chosen(header) in (*CODINGS, IDENTITY)


@given(st.sampled_from((*CODINGS, IDENTITY)), st.lists(st.binary(max_size=2_000), max_size=5))
def test_each_piece_can_be_read_before_the_next_is_made(coding: str, pieces: list[bytes]) -> None:
    made = encoder(coding)
    read: Callable[[bytes], bytes] = bytes
    if coding == GZIP:
        read = zlib.decompressobj(wbits=31).decompress
    elif coding == ZSTD:
        read = zstd.ZstdDecompressor().decompress
    for piece in pieces:
        assert read(bytes(made.encode(memoryview(piece)))) == piece
    assert read(made.end()) == b""


@pytest.mark.parametrize("coding", CODINGS)
def test_an_answer_without_its_end_is_not_taken_for_whole(coding: str) -> None:
    made = encoder(coding)
    cut = bytes(made.encode(b"rows" * 100))
    assert (zstd.decompress if coding == ZSTD else gunzipped)(cut + made.end()) == b"rows" * 100
    with pytest.raises((zstd.ZstdError, EOFError)):
        (zstd.decompress if coding == ZSTD else gunzipped)(cut)


def gunzipped(body: bytes) -> bytes:
    reader = zlib.decompressobj(wbits=31)
    found = reader.decompress(body)
    if not reader.eof:
        raise EOFError("cut off")
    return found
