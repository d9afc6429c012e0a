"""A file, read a piece at a time, also where the disk cannot. Knows nothing of what is in it.

Files are read and not mapped: a page that a disk cannot read is an error of one call here, which
loses that page, and not a signal, which ends the process. The same holds for a file that is cut
off while it is read.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: Bytes read at once: they stay in a core's cache while they are checked.
PIECE_BYTES = 256 << 10

_PAGE_BYTES = 4096

#: What stands for a page that cannot be read: neither text nor zeros.
_UNREADABLE = b"\xff" * _PAGE_BYTES


class Pieces:
    """A file, read through a buffer that is used again and again; a context manager.

    Args:
        path: Of the file.

    Attributes:
        size: Of the file, bytes; smaller once it turns out to have been cut off since.
        unreadable: Offsets of the pages that the disk could not read.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size
        self.unreadable: set[int] = set()
        self._bytes = bytearray(min(PIECE_BYTES, self.size))
        self._buffer = memoryview(self._bytes)
        self._start = self._end = 0

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def view(self, offset: int, num_bytes: int) -> memoryview:
        """Bytes of the file, fewer where it ends. Good until the next call."""
        num_bytes = max(0, min(num_bytes, self.size - offset))
        if offset < self._start or offset + num_bytes > self._end:
            self._fill(offset, num_bytes)
        at = offset - self._start
        return self._buffer[at : min(at + num_bytes, self._end - self._start)]

    def piece(self, offset: int) -> memoryview:
        """As many bytes from here on as are at hand, at least one unless the file ends."""
        if not self._start <= offset < self._end:
            self._fill(offset, 1)
        return self._buffer[offset - self._start : self._end - self._start]

    def find(self, needle: bytes, step: int, offset: int, end: int) -> int:
        """The first place at which these bytes lie, `offset` or whole steps after it; -1: none.

        Room that was never written is not read: it is zeros, half a second of them a segment.

        Args:
            needle: Not longer than a piece, and not all zeros.
            step: Divides the size of a piece.
            offset: Where to begin.
            end: Of the last place, bytes.
        """
        while offset + len(needle) <= min(end, self.size):
            if not self._start <= offset <= self._end - len(needle):
                offset += -(-(self._data_from(offset) - offset) // step) * step
            self.view(offset, len(needle))
            start, until = self._start, min(self._end, end)
            at = self._find_at_hand(needle, offset - start, until - start)
            if at < 0:  # it may lie across the end of what is at hand
                beyond = until - len(needle) + 1 - offset
                offset += -(-beyond // step) * step
            elif (start + at - offset) % step == 0:
                return start + at
            else:
                offset += -(-(start + at - offset) // step) * step
        return -1

    def _find_at_hand(self, needle: bytes, begin: int, end: int) -> int:
        """`bytearray.find`, which slows down to 0.25 GB/s where both hold many zeros."""
        key = needle.rstrip(b"\0")
        end -= len(needle) - len(key)
        while (at := self._bytes.find(key, begin, end)) >= 0:
            if self._bytes.startswith(needle, at):
                return at
            begin = at + 1
        return -1

    def _data_from(self, offset: int) -> int:
        """Where the file may hold something from here on; its size where it holds nothing more."""
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset

    def nonzero_end(self, offset: int) -> int:
        """Where the last byte that is not zero ends, from `offset` on; `offset`: all are zero."""
        end = offset
        while len(piece := self.piece(offset)):
            used = len(bytes(piece).rstrip(b"\0"))
            end = offset + used if used else end
            offset += len(piece)
        return end

    def _fill(self, offset: int, num_bytes: int) -> None:
        if num_bytes > len(self._buffer):
            self._bytes = bytearray(num_bytes)
            self._buffer = memoryview(self._bytes)
        self._start = self._end = offset
        wanted = min(offset + len(self._buffer), self.size)
        while self._end < wanted:
            into = self._buffer[self._end - offset : wanted - offset]
            try:
                num_read = os.preadv(self._descriptor, [into], self._end)
            except OSError:
                num_read = self._skip_page(into)
            if num_read == 0:  # the file was cut off just now
                self.size = min(self.size, self._end)
                return
            self._end += num_read

    def _skip_page(self, into: memoryview) -> int:
        """Read to the end of the page, or say that it cannot be read."""
        page = self._end // _PAGE_BYTES * _PAGE_BYTES
        part = into[: page + _PAGE_BYTES - self._end]
        try:
            return os.preadv(self._descriptor, [part], self._end)
        except OSError:
            part[:] = _UNREADABLE[: len(part)]
            self.unreadable.add(page)
            return len(part)
