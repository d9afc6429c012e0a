"""How a shard's log is laid out: a request to the bytes of a record and back. Pure.

A segment is a file: one page with a header of 60 bytes, then records, then zeros. All integers
are little-endian. `ingest/log_segment.py` writes it and `ingest/log_reader.py` reads it; nothing
here touches a disk.

    segment header  magic 8 s · format version u32 · header page u32 · segment number u64 ·
                    epoch u64 · first LSN u64 · end of the segment before, in bytes u64 ·
                    size of the segment u64 · CRC-32 of these 56 bytes u32 · zeros to the page's end
    record          magic u32 · segment number u64 · CRC-32 u32 · own offset in the file u64 ·
                    bytes from the first record of its group u32 · LSN u64 · arrival µs i64 ·
                    body bytes u32 · database bytes u16 · key bytes u8 · format u8 ·
                    unit of times u8 · zero · parameter bytes u16 · database (UTF-8) · key ·
                    parameters · zeros to 8 · body

The CRC-32 covers every byte of the record but its own four: position, lengths and padding too.
So bytes of an earlier life of the file, which hold another segment number, never pass, nor does
a record that was copied to another place. A record begins and ends at a multiple of 8. At least
8 zero bytes follow the last record of a write that is complete, unless the segment ends there.
"""

from __future__ import annotations

import enum
import struct
from pathlib import Path
from typing import NamedTuple

import msgspec
from isal import isal_zlib

from ingest.lsn import epoch_of
from ingest.timestamps import TimeUnit

VERSION = 1

#: The first record of a segment begins here. Segments are whole numbers of pages.
PAGE_BYTES = 4096

#: Records begin at multiples of this.
ALIGNMENT = 8

#: Of an `Idempotency-Key`.
MAX_KEY_BYTES = 64

#: Of what a decoder needs beside a body: a measurement, names of tags.
MAX_PARAMS_BYTES = 2**16 - 1

_SEGMENT_MAGIC = b"ARCLOG\r\n"
_SEGMENT = struct.Struct("<8sIIQQQQQ")
_CRC = struct.Struct("<I")

_RECORD_MAGIC = 0xB17EA2C5  # bytes that are neither text nor the start of a compressed body
_PREFIX = struct.Struct("<IQ")
_REST = struct.Struct("<QIQqIHBBBxH")
_CRC_AT = _PREFIX.size
_REST_AT = _CRC_AT + _CRC.size

#: Of a record before database, key, parameters and body.
RECORD_HEAD_BYTES = _REST_AT + _REST.size

_PADDING = tuple(bytes(n) for n in range(ALIGNMENT))
_UNIT_CODES: dict[TimeUnit | None, int] = {
    None: 0,
    TimeUnit.S: 1,
    TimeUnit.MS: 2,
    TimeUnit.US: 3,
    TimeUnit.NS: 4,
    TimeUnit.M: 5,
    TimeUnit.H: 6,
}
_UNITS = {code: unit for unit, code in _UNIT_CODES.items()}

# HOT, once per record when it is written and when it is read. For 45 KB: zlib.crc32 6.4 µs, and
# it gives up the GIL, which a busy event loop returns after 5 ms; isal 0.8 µs, and it does not.
# It is the same CRC-32 (tests/test_log_format.py).
_crc32 = isal_zlib.crc32


class Format(enum.IntEnum):
    """How a body is to be decoded. The numbers are on disks: never change or reuse one."""

    MSGPACK = 1
    LINE_PROTOCOL = 2
    ARROW = 3
    OTLP_LOGS = 4
    OTLP_TRACES = 5
    OTLP_METRICS = 6
    OTLP_LOGS_JSON = 7
    OTLP_TRACES_JSON = 8
    OTLP_METRICS_JSON = 9


_FORMATS = {int(known): known for known in Format}


class RecordHead(msgspec.Struct, frozen=True, gc=False):
    """What the log keeps beside a body.

    Attributes:
        format: How the body is to be decoded.
        database: Name, as the client wrote it.
        time_unit: Unit of the times in the body; None: to be told from their magnitudes.
        arrival_us: Wall time of the request, microseconds since 1970-01-01T00:00Z.
        key: `Idempotency-Key`, up to 64 bytes; empty: none.
        params: What the decoder needs beside the body, up to 65 535 bytes, opaque here
            (`ingest.decoders.Parameters`); empty: nothing.
    """

    format: Format
    database: str
    time_unit: TimeUnit | None
    arrival_us: int
    key: bytes = b""
    params: bytes = b""


class Record(msgspec.Struct, frozen=True):
    """One request, read back.

    Attributes:
        lsn: Its number.
        head: As it was given to the log.
        body: As it was given to the log.
        offset: Where it begins in its segment, bytes.
        size_bytes: What it takes there.
    """

    lsn: int
    head: RecordHead
    body: bytes
    offset: int
    size_bytes: int


class SegmentHeader(NamedTuple):
    """First bytes of a segment.

    Attributes:
        number: Of the segment, from 1.
        epoch: Of every LSN in it.
        first_lsn: That its first record was to have when it was opened.
        previous_end: Up to which byte the segment before this one is valid; what is there beyond
            was refused, and must not come back. 0: not known.
        segment_bytes: Size of the file.
    """

    number: int
    epoch: int
    first_lsn: int
    previous_end: int
    segment_bytes: int


def pack_header(header: SegmentHeader) -> bytes:
    """The first page of a segment and a page of zeros after it: 8192 bytes."""
    number, epoch, first_lsn, previous_end, segment_bytes = header
    packed = _SEGMENT.pack(
        _SEGMENT_MAGIC, VERSION, PAGE_BYTES, number, epoch, first_lsn, previous_end, segment_bytes
    )
    return (packed + _CRC.pack(_crc32(packed))).ljust(2 * PAGE_BYTES, b"\0")


def unpack_header(page: bytes | memoryview) -> SegmentHeader | str:
    """Read a segment's header.

    Args:
        page: The first bytes of the file, 60 or more if it has them.

    Returns:
        The header, or what is wrong with it, in words.
    """
    size = _SEGMENT.size
    if len(page) < size + _CRC.size:
        return f"the segment's header is cut off after {len(page)} bytes"
    magic, version, page_bytes, *fields = _SEGMENT.unpack_from(page)
    if magic != _SEGMENT_MAGIC or _CRC.unpack_from(page, size)[0] != _crc32(page[:size]):
        return "the segment's header is damaged"
    if (version, page_bytes) != (VERSION, PAGE_BYTES):
        return f"the segment has format version {version}, known is {VERSION}"
    return SegmentHeader(*fields)


def record_bytes(head: RecordHead, body: bytes) -> int:
    """What a record takes in a segment: a multiple of 8."""
    names = len(head.database.encode()) + len(head.key) + len(head.params)
    return (RECORD_HEAD_BYTES + names + len(body) + ALIGNMENT - 1) & -ALIGNMENT


class RecordEncoder:
    """Makes the bytes of the records of one segment.

    Args:
        number: Of the segment.
    """

    def __init__(self, number: int) -> None:
        self._prefix = _PREFIX.pack(_RECORD_MAGIC, number)
        self._seed = _crc32(self._prefix)

    def encode(self, head: RecordHead, body: bytes, lsn: int, offset: int, group: int) -> bytes:
        """What goes before a body: header, database, key, parameters and padding.

        Args:
            head: Of the request; its key has up to 64 bytes, its parameters up to 65 535.
            body: Of the request; it follows in the file at once and ends the record.
            lsn: Number of the record.
            offset: Where the record begins in the segment.
            group: Where the first record of the same write begins.

        Returns:
            Bytes that make, together with the body, `record_bytes(head, body)`.
        """
        # HOT, once per record, with the GIL: 0.6 µs, and 0.8 µs for the CRC of 45 KB
        # (benchmarks/bench_wal.py -k encode).
        database, key, params = head.database.encode(), head.key, head.params
        num_body, num_database, num_key, num_params = (
            len(body),
            len(database),
            len(key),
            len(params),
        )
        if num_key > MAX_KEY_BYTES:
            raise ValueError(f"a key of {num_key} bytes, over {MAX_KEY_BYTES}")
        if num_params > MAX_PARAMS_BYTES:
            raise ValueError(f"parameters of {num_params} bytes, over {MAX_PARAMS_BYTES}")
        names = num_database + num_key + num_params
        padding = _PADDING[-(RECORD_HEAD_BYTES + names + num_body) % ALIGNMENT]
        rest = _REST.pack(
            offset,
            offset - group,
            lsn,
            head.arrival_us,
            num_body,
            num_database,
            num_key,
            head.format,
            _UNIT_CODES[head.time_unit],
            num_params,
        ) + b"".join((database, key, params, padding))
        crc = _crc32(body, _crc32(rest, self._seed))
        return self._prefix + crc.to_bytes(4, "little") + rest


class Found(NamedTuple):
    """A record whose every byte is right, seen in a buffer.

    Attributes:
        lsn: Its number.
        offset: Where it begins in the segment.
        size_bytes: What it takes there.
        group: Where the first record of the same write begins.
        head_fields: Arrival, format, unit; see `to_record`.
        lengths: Bytes of database, key, parameters and body.
    """

    lsn: int
    offset: int
    size_bytes: int
    group: int
    head_fields: tuple[int, Format, TimeUnit | None]
    lengths: tuple[int, int, int, int]


class RecordDecoder:
    """Tells the records of one segment from any other bytes.

    Args:
        number: Of the segment.
        epoch: Of its records; None: not known, any will do.

    Attributes:
        needle: What every record of the segment begins with.
    """

    def __init__(self, number: int, epoch: int | None) -> None:
        self.needle = _PREFIX.pack(_RECORD_MAGIC, number)
        self._seed = _crc32(self.needle)
        self._epoch = epoch

    def claimed_bytes(self, head: memoryview, offset: int) -> int:
        """Size of the record that bytes at `offset` say they begin; 0: they begin none."""
        if len(head) < RECORD_HEAD_BYTES or head[:_CRC_AT] != self.needle:
            return 0
        at, _, _, _, body, database, key, _, _, params = _REST.unpack_from(head, _REST_AT)
        if at != offset or key > MAX_KEY_BYTES:
            return 0
        size: int = RECORD_HEAD_BYTES + database + key + params + body
        return (size + ALIGNMENT - 1) & -ALIGNMENT

    def check(self, record: memoryview, offset: int) -> Found | None:
        """The record in these bytes, or None if any of them is wrong.

        Args:
            record: As many bytes as `claimed_bytes` said, not 0.
            offset: Where they lie in the segment.
        """
        crc = _crc32(record[_REST_AT:], self._seed)
        if crc != _CRC.unpack_from(record, _CRC_AT)[0]:
            return None
        unpacked = _REST.unpack_from(record, _REST_AT)
        _, back, lsn, arrival_us, body, database, key, form, unit, params = unpacked
        if form not in _FORMATS or unit not in _UNITS:
            return None
        if self._epoch is not None and epoch_of(lsn) != self._epoch:
            return None
        fields = (arrival_us, _FORMATS[form], _UNITS[unit])
        lengths = (database, key, params, body)
        return Found(lsn, offset, len(record), offset - back, fields, lengths)


def to_record(found: Found, record: memoryview) -> Record:
    """Copy a record out of the buffer that `RecordDecoder.check` saw it in."""
    database, key, params, body = found.lengths
    key_at = RECORD_HEAD_BYTES + database
    params_at = key_at + key
    arrival_us, form, unit = found.head_fields
    head = RecordHead(
        form,
        str(record[RECORD_HEAD_BYTES:key_at], "utf-8", "replace"),
        unit,
        arrival_us,
        bytes(record[key_at:params_at]),
        bytes(record[params_at : params_at + params]),
    )
    body_bytes = bytes(record[found.size_bytes - body :])
    return Record(found.lsn, head, body_bytes, found.offset, found.size_bytes)


class Corruption(msgspec.Struct, frozen=True):
    """A place in a segment where a record was, and is not any more.

    Attributes:
        offset: Where it begins, bytes.
        size_bytes: Up to the next record, or to the end of what was written.
        reason: For people.
        in_last_group: Nothing after it proves that the write it belongs to was ever complete. A
            power cut during a write leaves that too, and then nobody was told that it is stored.
    """

    offset: int
    size_bytes: int
    reason: str
    in_last_group: bool = False


class SegmentInfo(msgspec.Struct, frozen=True):
    """What a segment holds, every byte of it checked.

    Attributes:
        path: Of the file.
        number: From the file's name; a gap between the numbers of a folder is a lost segment.
        epoch: From its header, or from its first record if that is damaged; 0: neither is there.
        first_lsn: Of its first valid record; 0: it has none.
        last_lsn: Of its last valid record; 0: it has none.
        num_records: Valid ones.
        record_bytes: What they take.
        size_bytes: Of the file.
        valid_bytes: Where the last valid record ends.
        torn_bytes: Of a write that a crash cut short, after the last valid record; 0: none.
        corrupt: Places that were valid once, in order.
    """

    path: Path
    number: int
    epoch: int
    first_lsn: int
    last_lsn: int
    num_records: int
    record_bytes: int
    size_bytes: int
    valid_bytes: int
    torn_bytes: int
    corrupt: tuple[Corruption, ...]


def in_pages(num_bytes: int) -> int:
    """The smallest whole number of pages, in bytes, that holds so many."""
    return (num_bytes + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


def zeros_after(end: int, segment_bytes: int) -> int:
    """How many zero bytes a write adds after its last record, which ends at `end`.

    To the end of the page, so that the kernel never reads a page of a reused file to fill it; a
    whole page if the record ends with one, so that what lay there before never looks like ours.
    """
    return min(PAGE_BYTES - end % PAGE_BYTES, segment_bytes - end)


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"{number:012d}.log"
