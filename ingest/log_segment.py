"""The files of a shard's log, written: records in, bytes on the disk or a refusal out.

Segments are preallocated, so that a full disk shows when one is opened and not in the middle of a
record, and reused, since overwriting a file is cheaper to sync than growing one. A segment whose
write or sync failed is left at once and never written again: a second `fdatasync` that succeeds
proves nothing (fsync(2)). What was refused is cut off, and the header of the next segment says
where the one before it ends, so that it never comes back.

Everything here blocks and belongs to one thread; `ingest/wal.py` owns that thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ingest.disk import refusals
from ingest.errors import StorageError
from ingest.log_calls import MAX_BUFFERS, LogCalls
from ingest.log_format import (
    PAGE_BYTES,
    RecordEncoder,
    RecordHead,
    SegmentHeader,
    SegmentInfo,
    in_pages,
    pack_header,
    record_bytes,
    segment_name,
    zeros_after,
)
from ingest.log_spares import SpareFiles
from ingest.lsn import make_lsn

_ZEROS = memoryview(bytes(PAGE_BYTES))
_NUMBERED = re.compile(r"(\d{12,})\.log", re.ASCII)

#: A request to write; the third part is the caller's.
Item = tuple[RecordHead, bytes, Any]


class _Segment(msgspec.Struct):
    """A segment that is not given up yet.

    Attributes:
        path: Of the file.
        number: Of the segment.
        size_bytes: Of the file.
        end: Where its last record that was not refused ends.
        last_lsn: Of that record; 0: none.
        record_bytes: What its records take.
        reusable: Whether the file may serve again.
    """

    path: Path
    number: int
    size_bytes: int
    end: int = PAGE_BYTES
    last_lsn: int = 0
    record_bytes: int = 0
    reusable: bool = True


class LogFiles:
    """The segments of one shard and the spare files beside them.

    Args:
        folder: Of the log.
        epoch: Of every LSN that is written.
        segment_bytes: Size of a segment; a record that does not fit gets one of its own size.
        spare_segments: How many retired files are kept for reuse.
        sync: Whether a write that returns is on the disk, or else in the page cache.
        calls: The operating system.
        before_retire: Is given the last LSN of a segment before its file is reused or deleted;
            an OSError keeps it.
    """

    def __init__(
        self,
        folder: Path,
        epoch: int,
        segment_bytes: int,
        spare_segments: int,
        sync: bool,
        calls: LogCalls,
        before_retire: Callable[[int], None] | None = None,
    ) -> None:
        self._folder = folder
        self._epoch = epoch
        self._segment_bytes = in_pages(max(segment_bytes, 2 * PAGE_BYTES))
        self._sync = sync
        self._calls = calls
        self._before_retire = before_retire
        self._segments: list[_Segment] = []  # oldest first; the open one is the last
        self._spares = SpareFiles(folder, self._segment_bytes, spare_segments, calls)
        self._descriptor: int | None = None  # of the last segment, while that can be written
        self._encoder = RecordEncoder(0)
        self._number = 0  # highest that a segment had
        self._last_lsn = make_lsn(epoch, 0)
        self._low_water = 0
        self._prepare_from = 0  # fill of the open segment from which on a file is prepared
        self._ready = False  # the folder is there, and what is in it known

    # -------------------------------------------------------------------------------- opening

    def adopt(self, segments: Sequence[SegmentInfo]) -> None:
        """Trim segments of a predecessor with our own; to be called before `open_next`."""
        for info in sorted(segments, key=lambda info: info.number):
            sound = not info.corrupt and info.path.parent == self._folder
            segment = _Segment(info.path, info.number, info.size_bytes, info.valid_bytes)
            segment.last_lsn, segment.record_bytes = info.last_lsn, info.record_bytes
            segment.reusable = sound
            self._segments.append(segment)

    def open_next(self) -> None:
        """Begin a segment, and bring its header and its name to the disk.

        Raises:
            StorageError: the disk refuses; nothing has changed, and it can be tried again.
        """
        if not self._ready:
            with refusals(self._folder, "open the log in"):
                self._prepare_folder()
            self._ready = True
        self._open_segment(self._segment_bytes, settle=self._sync)

    def _prepare_folder(self) -> None:
        missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self._calls.make_directory(directory)
            if self._sync:
                self._calls.sync_directory(directory.parent)
        names = [_NUMBERED.fullmatch(path.name) for path in self._folder.iterdir()]
        # Spare files count: what is in them must not pass for records of a new segment.
        self._number = max(self._spares.load(), *(int(name[1]) for name in names if name), 0)

    def _open_segment(self, size_bytes: int, settle: bool) -> None:
        """Begin a segment; with `settle`, its header is on the disk at the return.

        A file gets its header before its name, so that a segment always has one after a crash.
        """
        number = self._number + 1
        path = self._folder / segment_name(number)
        standard = size_bytes == self._segment_bytes
        source = self._spares.take(size_bytes)
        with refusals(path, "open"):
            descriptor = None
            try:
                descriptor = self._calls.open(source)
                header = SegmentHeader(
                    number, self._epoch, self._last_lsn + 1, self._previous_end(), size_bytes
                )
                self._write_all(descriptor, [pack_header(header)], 0)
                if settle:
                    self._calls.fdatasync(descriptor)
                self._calls.rename(source, path)
                if self._sync:
                    self._calls.sync_directory(self._folder)
            except BaseException:
                self._drop(descriptor, (source, path))
                raise
        self._close_current()
        self._descriptor, self._number = descriptor, number
        self._encoder = RecordEncoder(number)
        self._prepare_from = size_bytes // 2
        self._segments.append(_Segment(path, number, size_bytes, reusable=standard))

    def _previous_end(self) -> int:
        if self._segments and self._segments[-1].number == self._number:
            return self._segments[-1].end
        return 0

    def prepare(self) -> None:
        """Have a file ready for the next segment, if it will be needed soon.

        Raises:
            StorageError: the disk refuses; it is asked again, now and then.
        """
        if self._descriptor is None or len(self._spares):
            return
        end = self._segments[-1].end
        if end < self._prepare_from:
            return
        self._prepare_from = end + self._segment_bytes // 8
        self._spares.prepare()

    # -------------------------------------------------------------------------------- writing

    def write(self, items: Sequence[Item]) -> tuple[int, StorageError | None]:
        """Append records, numbered from one above the last that was written.

        Returns:
            How many of them are kept, from the first on, and why the others are not. If a write
            failed, the segment is given up, and none is open.
        """
        done = 0
        try:
            while done < len(items):
                done += self._write_part(items, done)
        except StorageError as error:
            return done, error
        except Exception as error:  # whatever it is, the waiters are to be told
            return done, StorageError(f"BUG: the log cannot write: {error!r}")
        return done, None

    @property
    def is_open(self) -> bool:
        """Whether a segment is there to be written."""
        return self._descriptor is not None

    def _write_part(self, items: Sequence[Item], start: int) -> int:
        """Write, and sync, as many records as fit into one segment; how many those are."""
        self._make_room(record_bytes(*items[start][:2]))
        segment, descriptor = self._segments[-1], self._descriptor
        assert descriptor is not None, "BUG: a segment with room is open"
        try:
            with refusals(segment.path, "write"):
                buffers, end, num_records = self._encode(items, start, segment)
                self._write_all(descriptor, buffers, segment.end)
                if self._sync:
                    self._calls.fdatasync(descriptor)
        except BaseException:
            self._abandon()
            raise
        self._last_lsn += num_records
        segment.record_bytes += end - segment.end
        segment.end, segment.last_lsn = end, self._last_lsn
        return num_records

    def _make_room(self, size_bytes: int) -> None:
        if self._descriptor is not None:
            current = self._segments[-1]
            if current.end + size_bytes <= current.size_bytes:
                return
        wanted = max(self._segment_bytes, in_pages(PAGE_BYTES + size_bytes))
        try:
            self._open_segment(wanted, settle=False)
        except StorageError:
            self._close_current()
            raise

    def _encode(
        self, items: Sequence[Item], start: int, segment: _Segment
    ) -> tuple[list[bytes | memoryview], int, int]:
        """Buffers to write at the segment's end, the new end, and how many records they are."""
        buffers: list[bytes | memoryview] = []
        encode = self._encoder.encode
        group = offset = segment.end
        lsn = self._last_lsn
        for i in range(start, len(items)):
            head, body, _ = items[i]
            packed = encode(head, body, lsn + 1, offset, group)
            end = offset + len(packed) + len(body)
            if end > segment.size_bytes:
                break
            buffers += (packed, body)
            offset = end
            lsn += 1
        buffers.append(_ZEROS[: zeros_after(offset, segment.size_bytes)])
        return buffers, offset, lsn - self._last_lsn

    def _write_all(
        self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int
    ) -> None:
        """Write everything, however often that takes."""
        left = list(buffers)
        while left:
            batch = left[:MAX_BUFFERS]
            taken = self._calls.pwritev(descriptor, batch, offset)
            if taken <= 0 and any(len(buffer) for buffer in batch):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += taken
            left = _without(left, taken)

    def _abandon(self) -> None:
        """Leave the open segment for good, without what was written last."""
        segment, descriptor = self._segments[-1], self._descriptor
        segment.reusable = False
        if descriptor is not None:
            with contextlib.suppress(OSError):
                self._calls.truncate(descriptor, segment.end)
                segment.size_bytes = segment.end
        self._close_current()

    def _close_current(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # what matters of it was synced
                self._calls.close(descriptor)

    def _drop(self, descriptor: int | None, paths: Sequence[Path]) -> None:
        """Remove a file that could not be made ready, as far as the disk lets us."""
        if descriptor is not None:
            with contextlib.suppress(OSError):
                self._calls.close(descriptor)
        for path in paths:
            with contextlib.suppress(OSError):
                self._calls.unlink(path)

    # ------------------------------------------------------------------------------- retiring

    def retire(self, low_water_lsn: int) -> None:
        """Give up the oldest segments, as long as no row in them is needed.

        Args:
            low_water_lsn: Every row with a lower one is stored.

        Raises:
            StorageError: the disk refuses; the segment stays.
        """
        self._low_water = max(self._low_water, low_water_lsn)
        retired = 0
        try:
            while len(self._segments) > (self._descriptor is not None):
                if self._segments[0].last_lsn >= max(self._low_water, 1):
                    break
                self._retire(self._segments[0])
                del self._segments[0]
                retired += 1
        finally:
            if retired and self._sync:
                # Before a file is written under its next name, the last one is to be gone.
                with refusals(self._folder, "sync"):
                    self._calls.sync_directory(self._folder)

    def _retire(self, segment: _Segment) -> None:
        with refusals(segment.path, "retire"):
            if segment.last_lsn and self._before_retire is not None:
                self._before_retire(segment.last_lsn)
            if not segment.reusable or not self._spares.give(
                segment.path, segment.number, segment.size_bytes
            ):
                self._calls.unlink(segment.path)

    def close(self) -> None:
        """Delete the spare files and every segment that is not needed.

        Raises:
            StorageError: the disk refuses; what is left is what a crash would leave.
        """
        if not self._ready:
            return
        self._close_current()
        self._spares.clear()
        self.retire(self._low_water)

    def usage(self) -> tuple[int, int]:
        """How many segments hold rows in need, and how many bytes their records take."""
        needed = [
            segment.record_bytes
            for segment in self._segments
            if segment.last_lsn >= max(self._low_water, 1)
        ]
        return len(needed), sum(needed)

    @property
    def last_lsn(self) -> int:
        """Of the last record that was kept."""
        return self._last_lsn


def _without(buffers: list[bytes | memoryview], taken: int) -> list[bytes | memoryview]:
    """What is left of buffers of which so many bytes were written."""
    for i, buffer in enumerate(buffers):
        if taken < len(buffer):
            return [memoryview(buffer)[taken:], *buffers[i + 1 :]] if taken else buffers[i:]
        taken -= len(buffer)
    return []
