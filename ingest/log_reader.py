"""A shard's log, read: files in, their valid records and everything that is wrong with them out.

Never writes to a log, and never raises for what is in one. A record counts when its CRC-32, which
covers its position, is right. What is not a record is told apart:

* zeros after the last record: room that was not used yet;
* anything else after the last record of the last segment: a write that a crash cut short, torn;
* anything before a valid record, or before the end that the next segment's header states:
  corruption. The next record is found by what every record of the segment begins with.

A page that the disk cannot read counts as bytes that are wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ingest.disk import sync_directory
from ingest.log_format import (
    ALIGNMENT,
    PAGE_BYTES,
    RECORD_HEAD_BYTES,
    Corruption,
    Found,
    Record,
    RecordDecoder,
    SegmentHeader,
    SegmentInfo,
    to_record,
    unpack_header,
)
from ingest.log_pieces import PIECE_BYTES, Pieces
from ingest.lsn import epoch_of

__all__ = ["Corruption", "LogReader", "Record", "SegmentInfo", "set_aside"]

_NAME = re.compile(r"(\d{12,})\.log", re.ASCII)

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


class LogReader:
    """The segments of one folder, as they were when it was made.

    Args:
        folder: Of the log; one that is missing holds no segments.

    Attributes:
        segments: Their paths, in the order of their numbers.
        total_bytes: What there is to read in them, unused room at the end of the last included.

    Raises:
        OSError: the folder cannot be listed, or a file in it not be opened.
    """

    def __init__(self, folder: Path) -> None:
        names = os.listdir(folder) if folder.is_dir() else []
        numbers = sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))
        self._paths = {number: folder / f"{number:012d}.log" for number in numbers}
        self.segments = list(self._paths.values())
        self.total_bytes = 0
        for path in self.segments:
            size, end = path.stat().st_size, self._stated_end(path)
            self.total_bytes += min(size, end or size)

    def scan(self, path: Path) -> SegmentInfo:
        """Read a whole segment and check every byte of it.

        Raises:
            OSError: the file cannot be opened.
        """
        with Pieces(path) as pieces:
            walk = self._walk(path, pieces)
            first_lsn = last_lsn = num_records = record_bytes = 0
            for found in walk:
                first_lsn = first_lsn or found.lsn
                last_lsn = found.lsn
                num_records += 1
                record_bytes += found.size_bytes
            epoch = walk.header.epoch if walk.header else epoch_of(first_lsn)
            return SegmentInfo(
                path=path,
                number=_number_of(path),
                epoch=epoch,
                first_lsn=first_lsn,
                last_lsn=last_lsn,
                num_records=num_records,
                record_bytes=record_bytes,
                size_bytes=pieces.size,
                valid_bytes=walk.end,
                torn_bytes=walk.torn_bytes,
                corrupt=tuple(walk.corrupt()),
            )

    def records(self, path: Path, valid_bytes: int | None = None) -> Iterator[Record]:
        """The valid records of a segment, in order; memory for the largest one.

        Args:
            path: Of the segment.
            valid_bytes: What `scan` said of it, so that what lies behind is not searched again.

        Raises:
            OSError: the file cannot be opened.
        """
        with Pieces(path) as pieces:
            for found in self._walk(path, pieces, valid_bytes):
                yield to_record(found, pieces.view(found.offset, found.size_bytes))

    def _walk(self, path: Path, pieces: Pieces, valid_bytes: int | None = None) -> _Walk:
        stated_end = self._stated_end(path) if valid_bytes is None else valid_bytes
        is_last = not self.segments or path == self.segments[-1]
        return _Walk(_number_of(path), pieces, stated_end or 0, is_last or stated_end == 0)

    def _stated_end(self, path: Path) -> int | None:
        """Up to which byte the next segment says that this one is valid.

        Returns:
            0 if that was not known when the next one was opened, None if it is lost.
        """
        following = self._paths.get(_number_of(path) + 1)
        if following is None:
            return None
        header = _read_header(following)
        return header.previous_end if header else None


def _number_of(path: Path) -> int:
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(f"BUG: {path} is not the name of a segment")
    return int(named[1])


def _read_header(path: Path) -> SegmentHeader | None:
    with Pieces(path) as pieces:
        header = unpack_header(pieces.view(0, PAGE_BYTES))
    if isinstance(header, str) or header.number != _number_of(path):
        return None
    return header


class _Walk:
    """One pass over a segment: iterate it once for the valid records, then ask for the rest.

    Args:
        number: Of the segment, from the file's name.
        pieces: The file.
        stated_end: Where the next segment says that it ends; 0: nobody says.
        may_be_torn: Whether a crash may have cut its last write short: nothing was written after.

    Attributes:
        header: Of the segment, if it is sound.
        end: Where the last valid record so far ends.
        torn_bytes: See `SegmentInfo`.
    """

    def __init__(self, number: int, pieces: Pieces, stated_end: int, may_be_torn: bool) -> None:
        page = pieces.view(0, PAGE_BYTES)
        header = unpack_header(page)
        self.header: SegmentHeader | None = None
        self.end = PAGE_BYTES
        self.torn_bytes = 0
        self._header_fault = ""
        # The file may have its name and not yet its header when the power goes. No record in it
        # was answered then: the sync of the first one is that of the header.
        self._may_be_unborn = may_be_torn and not any(page)
        if isinstance(header, str):
            self._header_fault = header
        elif header.number != number:
            self._header_fault = f"the segment's header is that of segment {header.number}"
            self._may_be_unborn = may_be_torn and header.number < number
        else:
            self.header = header
        self._pieces = pieces
        self._stated_end = stated_end
        self._may_be_torn = may_be_torn
        self._limit = stated_end or pieces.size
        self._decoder = RecordDecoder(number, self.header.epoch if self.header else None)
        self._last_group = 0  # where the newest group that was seen begins
        self._bad: list[tuple[int, int, str]] = []

    def __iter__(self) -> Iterator[Found]:
        offset = PAGE_BYTES
        while offset < self._limit:
            found = self._at(offset)
            if found is None:
                found = self._next_after(offset)
                until = found.offset if found else self._limit
                if found is None and not self._is_corrupt_tail(offset):
                    return
                self._bad.append((offset, until - offset, self._fault(offset, until)))
                if found is None:
                    return
            self._last_group = max(self._last_group, found.group)
            self._may_be_unborn = False
            self.end = offset = found.offset + found.size_bytes
            yield found

    def _at(self, offset: int) -> Found | None:
        """The valid record that begins here."""
        head = self._pieces.view(offset, RECORD_HEAD_BYTES)
        size = self._decoder.claimed_bytes(head, offset)
        if size == 0 or offset + size > min(self._limit, self._pieces.size):
            return None
        return self._decoder.check(self._pieces.view(offset, size), offset)

    def _next_after(self, offset: int) -> Found | None:
        """The first valid record that begins after this place."""
        needle = self._decoder.needle
        while True:
            offset = self._pieces.find(needle, ALIGNMENT, offset + ALIGNMENT, self._limit)
            if offset < 0:
                return None
            if (found := self._at(offset)) is not None:
                return found

    def _is_corrupt_tail(self, offset: int) -> bool:
        """Whether something is missing from here on, where nothing valid follows."""
        if self._stated_end:
            return True
        # A write that is complete ends with zeros, to the end of a page.
        rest = self._pieces.view(offset, PAGE_BYTES - offset % PAGE_BYTES)
        if self._may_be_unborn or not any(rest):
            return False
        if not self._may_be_torn:
            return True
        claimed = self._decoder.claimed_bytes(rest, offset)
        written = claimed or self._pieces.nonzero_end(offset) - offset
        self.torn_bytes = min(written, self._pieces.size - offset)
        return False

    def _fault(self, offset: int, until: int) -> str:
        first_page = offset // PAGE_BYTES * PAGE_BYTES
        if any(first_page <= page < until for page in self._pieces.unreadable):
            return "the disk cannot read it"
        if until > self._pieces.size:
            return "the file is cut off"
        head = self._pieces.view(offset, RECORD_HEAD_BYTES)
        if self._decoder.claimed_bytes(head, offset):
            return "a record does not match its CRC"
        return "no record begins where one should"

    def corrupt(self) -> Iterator[Corruption]:
        """What is wrong, after the whole of it was read."""
        if self._header_fault and not self._may_be_unborn:
            yield Corruption(0, PAGE_BYTES, self._header_fault)
        for offset, size_bytes, reason in self._bad:
            in_last_group = self._may_be_torn and offset >= self._last_group
            yield Corruption(offset, size_bytes, reason, in_last_group)


def set_aside(info: SegmentInfo, aside_dir: Path) -> Path:
    """Copy a damaged segment to where people can look at it; durable at the return.

    Args:
        info: Of the segment.
        aside_dir: For the copy; made when missing.

    Returns:
        Path of the copy. A copy of the same bytes is not made twice.

    Raises:
        OSError: the disk refuses.
    """
    aside_dir.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    stem = f"{info.number:012d}-e{info.epoch:06d}"
    temporary = aside_dir / f"{stem}.tmp"
    _copy(info.path, temporary)
    copy = aside_dir / f"{stem}.log"
    for again in range(1, 1_000_000):
        if not copy.exists() or _same(temporary, copy):
            break
        copy = aside_dir / f"{stem}-{again}.log"
    temporary.rename(copy)
    for directory in (aside_dir, aside_dir.parent):
        sync_directory(directory)
    return copy


def _copy(source: Path, target: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(target, flags, _FILE_MODE)
    try:
        with Pieces(source) as pieces:
            offset = 0
            while len(piece := pieces.piece(offset)):
                offset += os.write(descriptor, piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _same(one: Path, other: Path) -> bool:
    with Pieces(one) as a, Pieces(other) as b:
        if a.size != b.size:
            return False
        return all(
            a.view(at, PIECE_BYTES) == b.view(at, PIECE_BYTES)
            for at in range(0, a.size, PIECE_BYTES)
        )
