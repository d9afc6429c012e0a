"""A record says everything about itself, and nothing that differs in one bit passes for it."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.log_format import (
    MAX_KEY_BYTES,
    MAX_PARAMS_BYTES,
    PAGE_BYTES,
    RECORD_HEAD_BYTES,
    Format,
    Record,
    RecordDecoder,
    RecordEncoder,
    RecordHead,
    SegmentHeader,
    in_pages,
    pack_header,
    record_bytes,
    to_record,
    unpack_header,
    zeros_after,
)
from ingest.lsn import MAX_EPOCH, MAX_SEQ, make_lsn
from ingest.timestamps import TimeUnit

EPOCH = 3
NUMBER = 7
OFFSET = 8192
LSN = make_lsn(EPOCH, 11)

heads = st.builds(
    RecordHead,
    st.sampled_from(Format),
    st.text(max_size=64),
    st.sampled_from([None, *TimeUnit]),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=MAX_KEY_BYTES),
    st.binary(max_size=40),
)


def packed(head: RecordHead, body: bytes, lsn: int = LSN, group: int = OFFSET) -> bytes:
    return RecordEncoder(NUMBER).encode(head, body, lsn, OFFSET, group) + body


def decoded(
    data: bytes, number: int = NUMBER, epoch: int | None = EPOCH, offset: int = OFFSET
) -> Record | None:
    decoder = RecordDecoder(number, epoch)
    size = decoder.claimed_bytes(memoryview(data)[:RECORD_HEAD_BYTES], offset)
    if size == 0 or size > len(data):
        return None
    found = decoder.check(memoryview(data)[:size], offset)
    return to_record(found, memoryview(data)[:size]) if found else None


@given(head=heads, body=st.binary(max_size=200))
def test_a_record_comes_back_as_it_was(head: RecordHead, body: bytes) -> None:
    data = packed(head, body)
    assert len(data) == record_bytes(head, body)
    assert len(data) % 8 == 0
    assert decoded(data) == Record(LSN, head, body, OFFSET, len(data))


@pytest.mark.parametrize("lsn", [make_lsn(1, 1), make_lsn(MAX_EPOCH, MAX_SEQ)])
def test_the_lowest_and_the_highest_number_come_back(lsn: int) -> None:
    record = decoded(packed(RecordHead(Format.MSGPACK, "d", None, 0), b"x", lsn), epoch=None)
    assert record is not None
    assert record.lsn == lsn


@given(head=heads, body=st.binary(max_size=60), tail=st.binary(max_size=30))
def test_a_record_cut_anywhere_is_none_and_what_follows_does_not_matter(
    head: RecordHead, body: bytes, tail: bytes
) -> None:
    data = packed(head, body)
    whole = decoded(data)
    assert decoded(data + tail) == whole
    assert all(decoded(data[:cut]) is None for cut in range(len(data)))


def test_no_flipped_bit_of_a_record_passes() -> None:
    data = bytearray(packed(RecordHead(Format.MSGPACK, "db", TimeUnit.MS, 5, b"key"), b"body" * 9))
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert decoded(bytes(data)) is None, bit
        data[bit // 8] ^= 1 << bit % 8
    assert decoded(bytes(data)) is not None


def test_a_record_of_another_segment_place_or_epoch_is_none() -> None:
    data = packed(RecordHead(Format.MSGPACK, "db", None, 5), b"body")
    assert decoded(data, number=NUMBER + 1) is None
    assert decoded(data, offset=OFFSET + 8) is None
    assert decoded(data, epoch=EPOCH + 1) is None
    assert decoded(data, epoch=None) is not None


def test_the_start_of_its_group_is_told() -> None:
    data = memoryview(packed(RecordHead(Format.MSGPACK, "db", None, 5), b"body", group=PAGE_BYTES))
    found = RecordDecoder(NUMBER, EPOCH).check(data, OFFSET)
    assert found is not None
    assert found.group == PAGE_BYTES


def test_a_key_that_is_too_long_is_refused() -> None:
    head = RecordHead(Format.MSGPACK, "db", None, 0, b"k" * (MAX_KEY_BYTES + 1))
    with pytest.raises(ValueError, match="65 bytes"):
        packed(head, b"")


def test_parameters_come_back_up_to_their_limit_and_no_further() -> None:
    head = RecordHead(Format.ARROW, "db", None, 0, b"k", bytes(MAX_PARAMS_BYTES))
    record = decoded(packed(head, b"body"))
    assert record is not None
    assert record.head == head
    with pytest.raises(ValueError, match="65536 bytes"):
        packed(RecordHead(Format.ARROW, "db", None, 0, b"", bytes(MAX_PARAMS_BYTES + 1)), b"")


def test_a_record_written_before_there_were_parameters_comes_back() -> None:
    data = packed(RecordHead(Format.MSGPACK, "db", TimeUnit.MS, 5, b"key"), b"body")
    # Version 1 as it was first written: three zeros where the parameters' length is now.
    assert data[RECORD_HEAD_BYTES - 3 : RECORD_HEAD_BYTES] == bytes(3)
    record = decoded(data)
    assert record is not None
    assert record.head.params == b""


def test_the_checksum_is_the_crc32_of_zlib() -> None:
    data = packed(RecordHead(Format.MSGPACK, "db", None, 5), b"body")
    crc = int.from_bytes(data[12:16], "little")
    assert crc == zlib.crc32(data[:12] + data[16:])


@given(data=st.binary(max_size=200))
def test_random_bytes_are_no_record(data: bytes) -> None:
    assert decoded(data) is None
    assert decoded(RecordDecoder(NUMBER, None).needle + data) is None


header_fields = st.integers(0, 2**64 - 1)


@given(header=st.builds(SegmentHeader, *[header_fields] * 5))
def test_a_segment_header_comes_back_as_it_was(header: SegmentHeader) -> None:
    page = pack_header(header)
    assert len(page) == 2 * PAGE_BYTES
    assert unpack_header(page) == header
    assert unpack_header(page[:60]) == header


def test_a_damaged_header_is_said_to_be() -> None:
    page = bytearray(pack_header(SegmentHeader(1, 2, 3, 4, 5)))
    for _ in range(200):
        bit = random.Random(_).randrange(60 * 8)
        page[bit // 8] ^= 1 << bit % 8
        assert isinstance(unpack_header(bytes(page)), str)
        page[bit // 8] ^= 1 << bit % 8
    assert "after 59 bytes" in str(unpack_header(bytes(page[:59])))


def test_a_header_of_a_later_version_is_said_to_be() -> None:
    fields = pack_header(SegmentHeader(1, 2, 3, 4, 5))[:56]
    later = fields[:8] + (2).to_bytes(4, "little") + fields[12:]
    found = unpack_header(later + zlib.crc32(later).to_bytes(4, "little"))
    assert found == "the segment has format version 2, known is 1"


@pytest.mark.parametrize(
    ("end", "zeros"), [(4104, 4088), (8184, 8), (8192, 4096), (16376, 8), (16384, 0)]
)
def test_zeros_follow_a_record_to_the_end_of_a_page_or_of_the_segment(end: int, zeros: int) -> None:
    assert zeros_after(end, 16384) == zeros


@pytest.mark.parametrize(("num_bytes", "pages"), [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_sizes_are_rounded_up_to_pages(num_bytes: int, pages: int) -> None:
    assert in_pages(num_bytes) == pages * PAGE_BYTES
