"""Bodies are decompressed by what their bytes say, under one cap, or refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from ingest.decompress import decompress
from ingest.errors import CompressionError, TooLargeError

MIB = 2**20
Compress = Callable[[bytes], bytes]
BODY = b"\x82\xa1m\xa3cpu" + bytes(range(256)) * 40


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
@given(parts=st.lists(st.binary(min_size=1, max_size=2_000), min_size=1, max_size=4))
def test_every_member_or_frame_of_a_body_is_read(compress: Compress, parts: list[bytes]) -> None:
    body = b"".join(compress(part) for part in parts)
    assert decompress(body, "", MIB) == b"".join(parts)


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_a_plain_body_comes_back_as_it_is(encoding: str) -> None:
    assert decompress(BODY, encoding, 1) is BODY


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY), "GZIP"),
        (gzip.compress(BODY), "x-gzip"),
        (zstd.compress(BODY), "zstd"),
    ],
)
def test_a_true_content_encoding_is_accepted(body: bytes, encoding: str) -> None:
    assert decompress(body, encoding, MIB) == BODY


@pytest.mark.parametrize(
    ("body", "encoding", "words"),
    [
        (BODY, "gzip", "neither gzip nor zstd"),
        (gzip.compress(BODY), "zstd", "the bytes say gzip"),
        (zstd.compress(BODY), "gzip", "the bytes say zstd"),
        (gzip.compress(BODY), "identity", "the bytes say gzip"),
        (BODY, "br", "not supported"),
        (zlib.compress(BODY), "deflate", "not supported"),
    ],
)
def test_a_content_encoding_that_contradicts_the_bytes_is_refused(
    body: bytes, encoding: str, words: str
) -> None:
    with pytest.raises(CompressionError, match=words):
        decompress(body, encoding, MIB)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_body_cut_off_at_any_byte_is_refused(compress: Compress) -> None:
    body = compress(BODY)
    for end in range(4, len(body)):
        with pytest.raises(CompressionError):
            decompress(body[:end], "", MIB)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_trailing_bytes_that_are_no_frame_are_refused(compress: Compress) -> None:
    with pytest.raises(CompressionError):
        decompress(compress(BODY) + b"x", "", MIB)


def test_a_damaged_gzip_checksum_is_refused() -> None:
    body = bytearray(gzip.compress(BODY))
    body[-6] ^= 1
    with pytest.raises(CompressionError, match="gzip"):
        decompress(bytes(body), "", MIB)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_the_cap_holds_to_the_byte_and_over_all_frames_together(compress: Compress) -> None:
    half = bytes(50_000)
    body = compress(half) + compress(half)
    assert decompress(body, "", 100_000) == half + half
    with pytest.raises(TooLargeError, match="99999 bytes"):
        decompress(body, "", 99_999)


def test_a_zstd_frame_that_asks_for_a_huge_window_is_refused() -> None:
    options = {int(zstd.CompressionParameter.window_log): 27}
    frame = zstd.compress(bytes(range(251)) * 100_000, options=options)
    with pytest.raises(CompressionError, match="zstd"):
        decompress(frame, "", 64 * MIB)


def test_a_zstd_frame_that_states_a_size_it_does_not_have_stays_under_the_cap() -> None:
    frame = zstd.compress(bytes(64 * MIB))  # 64 MiB of zeroes in some 6 KB, the size in its head
    assert len(frame) < 10_000
    with pytest.raises(TooLargeError):
        decompress(frame, "", MIB)
