"""One file of a spill: batches in and out, the states of its records changed in place.

A segment is written by one client and never appended to again once another file was begun, or
once the client is gone. Reading it tells records from what is no record, and never raises for
that. It knows no other segment and no bound; everything here blocks, and `arc/client/spill.py`
says which thread may do what.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from arc.client.batch import Batch
from arc.client.errors import SpillError
from arc.client.spill_format import (
    HEAD_BYTES,
    HEADER_BYTES,
    ID_BYTES,
    RECORD_MAGIC,
    STATE_AT,
    VERSION,
    Codec,
    Head,
    Header,
    State,
    encode_fields,
    to_batch,
)

FILE_MODE = 0o600
SUFFIX = ".spill"
DAMAGED_SUFFIX = ".damaged"

_NAME = re.compile(r"([0-9a-f]{16})-(\d{8,})\.(?:spill|damaged)", re.ASCII)
_WINDOW_BYTES = 8192
_SEARCH_BYTES = 1 << 20


class DamagedRecordError(SpillError):
    """A record was read, and it is not what was written; reading it again gives the same."""


class Slot:
    """Where a batch is in the spill. Opaque to who has it; good as long as the spill is open.

    Attributes:
        segment: The file.
        offset: Where the record begins in it, bytes.
        num_fields: Bytes of the fields.
        num_body: Bytes of the body.
        state: What became of it, as far as the spill was told.
    """

    __slots__ = ("num_body", "num_fields", "offset", "segment", "state")

    def __init__(
        self, segment: Segment, offset: int, num_fields: int, num_body: int, state: State
    ) -> None:
        self.segment, self.offset, self.state = segment, offset, state
        self.num_fields, self.num_body = num_fields, num_body


class Fault(NamedTuple):
    """A place in a segment where something was, and cannot be read any more.

    Attributes:
        offset: Where it begins, bytes.
        size_bytes: Up to the next record, or to the end of the file.
        reason: For people.
    """

    offset: int
    size_bytes: int
    reason: str


class Contents(NamedTuple):
    """What a segment holds.

    Attributes:
        unsettled: When each batch was made, µs since 1970, and where it is; in order of writing.
        faults: What is wrong, in order.
        end: Where the last record ends; a write that a crash cut short begins here.
    """

    unsettled: list[tuple[int, Slot]]
    faults: list[Fault]
    end: int


class Unwritten(NamedTuple):
    """A batch as it goes into a segment."""

    fields: bytes
    body: bytes | bytearray
    created_us: int
    state: State

    @property
    def size_bytes(self) -> int:
        """Of its record."""
        return HEAD_BYTES + len(self.fields) + len(self.body)


def unwritten(batch: Batch) -> Unwritten:
    """What is to be written of a batch."""
    state = State.SENT if batch.in_doubt else State.FRESH
    return Unwritten(encode_fields(batch), batch.body, batch.created_us, state)


def is_segment(name: str) -> bool:
    """Whether a file has the name of a segment."""
    return _NAME.fullmatch(name) is not None


class Segment:
    """A file of records; made by `create` or `open_existing`.

    Attributes:
        path: Of the file.
        client: Who wrote it: 16 hexadecimal digits.
        number: Grows with every segment of a client.
        end: Size of the file, bytes.
        num_unsettled: Records in it that are not settled. The spill's, under its lock.
        num_users: Threads that hold its descriptor just now. The spill's, under its lock.
        damaged: Offsets at which something is wrong.
        is_usable: May be written on; False after a write that could not be taken back.
        is_gone: Its file is deleted, or set aside.
    """

    def __init__(self, path: Path, codec: Codec, header: Header | None, end: int) -> None:
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise ValueError(f"BUG: {path} is not the name of a segment")
        self.path, self.client, self.number = path, named[1], int(named[2])
        self.end = end
        self.num_unsettled = self.num_users = 0
        self.damaged: set[int] = set()
        self.is_usable = True
        self.is_gone = False
        self._codec, self._header = codec, header
        self._descriptor = -1

    # -------------------------------------------------------------------------------- opening

    @classmethod
    def create(cls, folder: Path, client: str, number: int, now_us: int, codec: Codec) -> Segment:
        """Make a file, empty: the header is written with the first record.

        Raises:
            OSError: the disk refuses.
        """
        path = folder / f"{client}-{number:08d}{SUFFIX}"
        header = Header(VERSION, os.urandom(ID_BYTES), now_us)
        segment = cls(path, codec, header, 0)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        segment._descriptor = os.open(path, flags, FILE_MODE)
        return segment

    @classmethod
    def open_existing(cls, path: Path, codec: Codec) -> Segment:
        """Look at a file that another client left.

        Raises:
            OSError: it cannot be opened.
            SpillError: it has a format version that is not known here.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = codec.unpack_header(os.pread(descriptor, HEADER_BYTES, 0))
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if header is not None and header.version != VERSION:
            raise SpillError(f"{path} has format version {header.version}, known is {VERSION}")
        return cls(path, codec, header, size)

    @property
    def is_damaged(self) -> bool:
        """Whether something in it is wrong, so that the file is to be kept."""
        return bool(self.damaged) or self.path.suffix == DAMAGED_SUFFIX

    @property
    def is_open(self) -> bool:
        """Whether a descriptor is kept."""
        return self._descriptor >= 0

    def open(self) -> None:
        """Have a descriptor to write states with.

        Raises:
            OSError: the file cannot be opened.
        """
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def open_for_reading(self) -> int:
        """A descriptor of the caller's own, so that nobody closes it while it is read.

        Raises:
            OSError: the file cannot be opened.
        """
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    # -------------------------------------------------------------------------------- writing

    def append(self, batch: Unwritten, sync: bool) -> Slot:
        """Write a record at the end, and the header before the first.

        Args:
            batch: What to write.
            sync: Bring it to the disk, too.

        Raises:
            OSError: the disk refuses; nothing of the record is left. `is_usable` says whether the
                segment may be written on.
        """
        start, header = self.end, self._header
        assert header is not None
        offset = start or HEADER_BYTES
        fields, body = batch.fields, batch.body
        crc = self._codec.content_crc(fields, body)
        head = Head(
            header.segment_id, offset, batch.created_us, len(fields), len(body), crc, batch.state
        )
        buffers: list[bytes | bytearray] = [self._codec.pack_head(head), fields, body]
        if not start:
            buffers.insert(0, self._codec.pack_header(header))
        try:
            _write_all(self._descriptor, buffers, start)
        except OSError:
            self.is_usable = self._cut(start)
            raise
        if sync:
            self._sync(start, offset)
        self.end = offset + batch.size_bytes
        return Slot(self, offset, len(fields), len(body), batch.state)

    def _sync(self, start: int, offset: int) -> None:
        try:
            _sync_data(self._descriptor)
        except OSError:
            # A second sync that succeeds proves nothing (fsync(2)): the file is left for good.
            self.is_usable = False
            if not self._cut(start):
                with contextlib.suppress(OSError):  # it is whole, and must not come back
                    os.pwrite(self._descriptor, bytes((State.SETTLED,)), offset + STATE_AT)
            raise

    def _cut(self, size: int) -> bool:
        """Take what was written after `size` away again; whether that was possible."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError:
            self.end = os.fstat(self._descriptor).st_size
            return False
        return True

    def write_state(self, slot: Slot) -> None:
        """Write a record's state where it lies; it outlives the process at the return.

        Raises:
            OSError: the disk refuses.
        """
        os.pwrite(self._descriptor, bytes((slot.state,)), slot.offset + STATE_AT)

    def cut_tail(self, end: int) -> None:
        """Take a write away that a crash cut short.

        Where the disk refuses, it stays, and the next client tells it from a record again.
        """
        with contextlib.suppress(OSError):
            os.truncate(self.path, end)
            self.end = end

    def set_name(self, path: Path) -> None:
        """Give the file another name.

        Raises:
            OSError: the disk refuses.
        """
        self.path.rename(path)
        self.path = path

    # -------------------------------------------------------------------------------- reading

    def read(self, slot: Slot, descriptor: int) -> Batch:
        """A record, checked.

        Args:
            slot: Of this segment.
            descriptor: As `open_for_reading` gave it.

        Raises:
            OSError: the disk refuses.
            DamagedRecordError: it is not what was written.
        """
        front, body = bytearray(HEAD_BYTES + slot.num_fields), bytearray(slot.num_body)
        _read_all(descriptor, [front, body], slot.offset)
        head, fields = self._codec.unpack_head(front, slot.offset), front[HEAD_BYTES:]
        if head is None or self._codec.content_crc(fields, body) != head.content_crc:
            raise DamagedRecordError(f"{self.path}: the record at byte {slot.offset} is damaged")
        try:
            batch = to_batch(fields, body, head.created_us)
        except msgspec.MsgspecError as error:
            raise DamagedRecordError(
                f"{self.path}: the record at byte {slot.offset} is not a batch: {error}"
            ) from error
        batch.in_doubt = slot.state is State.SENT
        return batch

    def scan(self, is_last: bool) -> Contents:
        """Find what is in the file. Bodies are not read: `read` checks them.

        Args:
            is_last: A crash may have cut its last write short: the client made no segment after.

        Raises:
            OSError: the file cannot be opened.
        """
        descriptor = self.open_for_reading()
        try:
            return _Scan(self, descriptor, self._codec, self._header, is_last).run()
        finally:
            os.close(descriptor)


class _Scan:
    """One pass over a segment."""

    def __init__(
        self, segment: Segment, descriptor: int, codec: Codec, header: Header | None, is_last: bool
    ) -> None:
        self._segment, self._descriptor, self._codec = segment, descriptor, codec
        self._id = header.segment_id if header else None
        self._is_last = is_last
        self._size = os.fstat(descriptor).st_size
        self._at = HEADER_BYTES
        self._window, self._window_at = b"", 0
        self._found: list[tuple[int, Slot]] = []
        self._faults: list[Fault] = []

    def run(self) -> Contents:
        """Everything that is in the file."""
        if self._id is None and self._is_unborn():
            return Contents([], [], 0)
        if self._id is None:
            self._faults.append(Fault(0, HEADER_BYTES, "the segment's header is damaged"))
        try:
            end = self._walk()
        except OSError as error:
            reason = f"the disk cannot read it: {error.strerror}"
            self._faults.append(Fault(self._at, self._size - self._at, reason))
            end = self._size
        return Contents(self._found, self._faults, end)

    def _is_unborn(self) -> bool:
        """The file has its name and not yet its first record."""
        return self._is_last and (self._size < HEADER_BYTES or not self._has_bytes(0))

    def _walk(self) -> int:
        while (offset := self._at) < self._size:
            head = self._head_at(offset)
            if head is None and (following := self._next_after(offset)) is not None:
                reason = "no record begins where one should"
                self._faults.append(Fault(offset, following - offset, reason))
                self._at = following
                continue
            if head is None or offset + head.size_bytes > self._size:
                return self._tail(offset, head)
            self._id = head.segment_id
            if head.state is not State.SETTLED:
                slot = Slot(self._segment, offset, head.num_fields, head.num_body, head.state)
                self._found.append((head.created_us, slot))
            self._at += head.size_bytes
        return self._at

    def _tail(self, offset: int, head: Head | None) -> int:
        """What is left where no further record is: torn, or damaged."""
        rest = self._size - offset
        if self._is_last and (head or rest < HEAD_BYTES or not self._has_bytes(offset)):
            return offset
        reason = "the file is cut off" if head else "no record begins where one should"
        self._faults.append(Fault(offset, rest, reason))
        return self._size

    def _head_at(self, offset: int) -> Head | None:
        if not self._window_at <= offset <= self._window_at + len(self._window) - HEAD_BYTES:
            self._window = os.pread(self._descriptor, _WINDOW_BYTES, offset)
            self._window_at = offset
        at = offset - self._window_at
        head = self._codec.unpack_head(self._window[at : at + HEAD_BYTES], offset)
        if head is None or self._id not in (None, head.segment_id):
            return None
        return head

    def _next_after(self, offset: int) -> int | None:
        """Where the next record begins."""
        for at in self._places(RECORD_MAGIC + (self._id or b""), offset + 1):
            if self._head_at(at) is not None:
                return at
        return None

    def _places(self, needle: bytes, start: int) -> Iterator[int]:
        while len(piece := os.pread(self._descriptor, _SEARCH_BYTES, start)) >= len(needle):
            at = piece.find(needle)
            while at >= 0:
                yield start + at
                at = piece.find(needle, at + 1)
            start += len(piece) - len(needle) + 1

    def _has_bytes(self, offset: int) -> bool:
        """Whether anything but zeros follows."""
        while piece := os.pread(self._descriptor, _SEARCH_BYTES, offset):
            if piece.count(0) != len(piece):
                return True
            offset += len(piece)
        return False


def _write_all(descriptor: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
    """Write everything: one call, or more where the disk takes a part only."""
    left: list[bytes | bytearray | memoryview] = list(buffers)
    while True:
        taken = os.pwritev(descriptor, left, offset)
        if not taken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        offset += taken
        while left and taken >= len(left[0]):
            taken -= len(left.pop(0))
        if not left:
            return
        left[0] = memoryview(left[0])[taken:]


def _read_all(descriptor: int, buffers: Sequence[bytearray], offset: int) -> None:
    """Fill all buffers, as far as the file goes; what lies behind stays zero."""
    left: list[bytearray | memoryview] = list(buffers)
    while left and (taken := os.preadv(descriptor, left, offset)):
        offset += taken
        while left and taken >= len(left[0]):
            taken -= len(left.pop(0))
        if left:
            left[0] = memoryview(left[0])[taken:]


def _sync_data(descriptor: int) -> None:
    if sys.platform == "darwin":  # no call for it
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)
