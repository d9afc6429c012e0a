"""Files that are no segment of the log, kept to become one: new, or of a segment that was retired.

In: sizes wanted, and files no longer needed. Out: files with the room for a segment, under names
that no reader of the log looks at. What is in them is of no interest; a file that ever failed
must not come here. Everything blocks and belongs to the log's thread.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path

from ingest.disk import refusals
from ingest.log_calls import LogCalls
from ingest.log_format import segment_name

_PREFIX = "spare-"

#: Named for the number that it had as a segment; `spare-new-1.log` was none yet.
_RETIRED = re.compile(r"spare-(\d{12,})\.log", re.ASCII)


def spare_paths(folder: Path) -> list[Path]:
    """The spare files that a folder has, the oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*.log"))


class SpareFiles:
    """The spare files of one log. Every method raises StorageError when the disk refuses.

    Args:
        folder: Of the log.
        size_bytes: Of a spare file, no other is kept.
        max_files: How many retired files are kept.
        calls: The operating system.
    """

    def __init__(self, folder: Path, size_bytes: int, max_files: int, calls: LogCalls) -> None:
        self._folder = folder
        self._size_bytes = size_bytes
        self._max_files = max_files
        self._calls = calls
        self._files: list[Path] = []

    def __len__(self) -> int:
        return len(self._files)

    def load(self) -> int:
        """Take over what a predecessor left, or delete it.

        Returns:
            The highest number that one of the files had as a segment; 0: none was one.
        """
        highest = 0
        for path in spare_paths(self._folder):
            retired = _RETIRED.fullmatch(path.name)
            highest = max(highest, int(retired[1]) if retired else 0)
            with refusals(path, "take over"):
                found = path.stat()
                whole = found.st_size == self._size_bytes <= found.st_blocks * 512
                if whole and len(self._files) < self._max_files:
                    self._files.append(path)
                else:
                    self._calls.unlink(path)
        return highest

    def take(self, size_bytes: int) -> Path:
        """A file of this size, which is the caller's from now on."""
        if size_bytes == self._size_bytes and self._files:
            return self._files.pop()
        return self._allocate(size_bytes)

    def prepare(self) -> None:
        """Have at least one file ready."""
        if not self._files:
            self._files.append(self._allocate(self._size_bytes))

    def give(self, path: Path, number: int, size_bytes: int) -> bool:
        """Keep the file of a retired segment, if it fits and there is room; whether it was."""
        if size_bytes != self._size_bytes or len(self._files) >= self._max_files:
            return False
        spare = self._folder / f"{_PREFIX}{segment_name(number)}"
        with refusals(path, "retire"):
            self._calls.rename(path, spare)
        self._files.insert(0, spare)
        return True

    def clear(self) -> None:
        """Delete all, and keep none from now on."""
        self._max_files = 0
        while self._files:
            with refusals(self._files[-1], "delete"):
                self._calls.unlink(self._files[-1])
            self._files.pop()

    def _allocate(self, size_bytes: int) -> Path:
        names = (f"{_PREFIX}new-{i}.log" for i in itertools.count(1))
        path = next(path for name in names if (path := self._folder / name) not in self._files)
        with refusals(path, "allocate"):
            with contextlib.suppress(FileNotFoundError):
                self._calls.unlink(path)  # what an attempt that failed could not remove
            descriptor = self._calls.create(path)
            try:
                self._calls.fallocate(descriptor, size_bytes)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._calls.unlink(path)
                raise
            finally:
                self._calls.close(descriptor)
        return path
