"""How a spill segment is laid out: a batch to the bytes of a record and back. Pure.

A segment is a file: a header of 32 bytes, then records, one after another. All integers are
little-endian. `arc/client/spill_segment.py` writes and reads it; nothing here touches a disk.

    header  magic 8 s · format version u32 · segment id 8 s · made µs since 1970 i64 ·
            CRC-32 of these 28 bytes u32
    record  magic 4 s · segment id 8 s · own offset in the file u64 · batch made, µs i64 ·
            bytes of the fields u32 · bytes of the body u32 · CRC-32 of fields and body u32 ·
            CRC-32 of these 40 bytes u32 · state u8 ·
            fields (MessagePack: [key, kind, target, headers, rows, what]) · body

The second CRC covers position, segment, lengths and the first CRC, so a record that was copied to
another place does not pass, and the length of a record is trusted before its body was read. Only
the state is covered by none, since it is changed in place. Its values differ in four bits each: a
single bit that flips changes no meaning. The first 32 bytes stay as they are in every version.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from arc.client.batch import Batch, Kind

VERSION = 1
HEADER_BYTES = 32
ID_BYTES = 8

_MAGIC = b"ARCSPIL\n"
_HEADER = struct.Struct("<8sI8sq")
_CRC = struct.Struct("<I")

#: What every record begins with, before the id of its segment.
RECORD_MAGIC = b"\xb1\x7e\xa2\xd6"
_FIXED = struct.Struct("<4s8sQqIII")
_CRC_AT = _FIXED.size

#: Where a record's state is, from its first byte.
STATE_AT = _CRC_AT + _CRC.size

#: Of a record before its fields.
HEAD_BYTES = STATE_AT + 1

#: Of a body or of fields; their lengths are 32 bits wide.
MAX_BYTES = 2**32 - 1


class State(enum.IntEnum):
    """What became of a record. The numbers are on disks: never change or reuse one."""

    FRESH = 0x00
    SENT = 0x0F
    SETTLED = 0xFF


def state_of(byte: int) -> State:
    """The nearest state; what lies between counts as sent, which loses nothing."""
    bits = byte.bit_count()
    if bits < 2:
        return State.FRESH
    return State.SETTLED if bits > 6 else State.SENT


class Fields(msgspec.Struct, array_like=True, frozen=True):
    """What a record keeps of a batch beside its body and when it was made."""

    key: str
    kind: Kind
    target: str
    headers: tuple[tuple[str, str], ...]
    rows: int
    what: str


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Fields)


def encode_fields(batch: Batch) -> bytes:
    """The fields of a batch, as a record keeps them."""
    return _ENCODER.encode(
        (batch.key, batch.kind, batch.target, batch.headers, batch.rows, batch.what)
    )


def to_batch(fields: bytes | bytearray, body: bytes | bytearray, created_us: int) -> Batch:
    """A batch again.

    Raises:
        msgspec.MsgspecError: the fields are not those of a batch.
    """
    known = _DECODER.decode(fields)
    return Batch(
        known.kind,
        known.target,
        known.headers,
        body,
        known.rows,
        known.what,
        key=known.key,
        created_us=created_us,
    )


class Header(NamedTuple):
    """First bytes of a segment.

    Attributes:
        version: Of the format.
        segment_id: 8 random bytes, in every record of the segment.
        created_us: When the segment was made, µs since 1970.
    """

    version: int
    segment_id: bytes
    created_us: int


class Head(NamedTuple):
    """Beginning of a record, found sound.

    Attributes:
        segment_id: Of the segment that it was written to.
        offset: Where the record begins in the file.
        created_us: When its batch was made, µs since 1970.
        num_fields: Bytes of the fields.
        num_body: Bytes of the body.
        content_crc: CRC-32 of fields and body.
        state: What became of it.
    """

    segment_id: bytes
    offset: int
    created_us: int
    num_fields: int
    num_body: int
    content_crc: int
    state: State

    @property
    def size_bytes(self) -> int:
        """Of the whole record."""
        return HEAD_BYTES + self.num_fields + self.num_body


class Codec:
    """The checksum, loaded when the first spill is opened, and what is made with it.

    isal's CRC-32 of 450 KB takes 7 µs where zlib's takes 66, and it is the same. Both give up the
    interpreter's lock; beside a thread that runs Python, isal is done before that one wakes up,
    and an append takes 5 ms instead of 8 to 10 (docs/profiling/2026-11-20-client-spill.md).
    """

    def __init__(self) -> None:
        from isal import isal_zlib

        self._crc32: Callable[..., int] = isal_zlib.crc32

    def pack_header(self, header: Header) -> bytes:
        """The first 32 bytes of a segment."""
        packed = _HEADER.pack(_MAGIC, *header)
        return packed + _CRC.pack(self._crc32(packed))

    def unpack_header(self, data: bytes) -> Header | None:
        """Read a segment's header; None: it is cut off or damaged."""
        if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
            return None
        if _CRC.unpack_from(data, _HEADER.size)[0] != self._crc32(data[: _HEADER.size]):
            return None
        _, version, segment_id, created_us = _HEADER.unpack_from(data)
        return Header(version, segment_id, created_us)

    def content_crc(self, fields: bytes | bytearray, body: bytes | bytearray | memoryview) -> int:
        """CRC-32 of a record's fields and body."""
        return self._crc32(body, self._crc32(fields))

    def pack_head(self, head: Head) -> bytes:
        """The first `HEAD_BYTES` of a record."""
        *numbers, state = head
        packed = _FIXED.pack(RECORD_MAGIC, *numbers)
        return packed + self._crc32(packed).to_bytes(4, "little") + bytes((state,))

    def unpack_head(self, data: bytes | bytearray, offset: int) -> Head | None:
        """The beginning of a record that lies at `offset`; None: these bytes are none."""
        if len(data) < HEAD_BYTES or data[:4] != RECORD_MAGIC:
            return None
        if _CRC.unpack_from(data, _CRC_AT)[0] != self._crc32(data[:_CRC_AT]):
            return None
        _, segment_id, at, created_us, num_fields, num_body, crc = _FIXED.unpack_from(data)
        if at != offset:
            return None
        return Head(segment_id, at, created_us, num_fields, num_body, crc, state_of(data[STATE_AT]))
