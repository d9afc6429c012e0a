"""A log that is written with refusals of the operating system, and read back whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ingest.log_calls import LogCalls
from ingest.log_format import Format, Record, RecordHead
from ingest.log_reader import LogReader

#: Given the name of a call and how many of it there were, this one included: an errno, or 0.
Refuse = Callable[[str, int], int]


def nobody(_call: str, _count: int) -> int:
    """Refuse nothing."""
    return 0


class FaultyCalls(LogCalls):
    """The real calls, written down, any of which can be told to fail or to write less.

    Attributes:
        names: What was called, in order, refused calls included.
        counts: How often each.
        refuse: Decides about the next call.
        limit_bytes: Most that one `pwritev` takes; None: everything.
    """

    def __init__(self, refuse: Refuse = nobody, limit_bytes: int | None = None) -> None:
        self.names: list[str] = []
        self.counts: Counter[str] = Counter()
        self.refuse = refuse
        self.limit_bytes = limit_bytes

    def _note(self, call: str) -> None:
        self.names.append(call)
        self.counts[call] += 1
        code = self.refuse(call, self.counts[call])
        if code:
            raise OSError(code, os.strerror(code))

    def make_directory(self, path: Path) -> None:
        self._note("make_directory")
        super().make_directory(path)

    def create(self, path: Path) -> int:
        self._note("create")
        return super().create(path)

    def open(self, path: Path) -> int:
        self._note("open")
        return super().open(path)

    def fallocate(self, descriptor: int, size_bytes: int) -> None:
        self._note("fallocate")
        super().fallocate(descriptor, size_bytes)

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        limit = self.limit_bytes
        try:
            self._note("pwritev")
        except OSError:
            super().pwritev(descriptor, buffers[:1], offset)  # some of it is there all the same
            raise
        if limit is None:
            return super().pwritev(descriptor, buffers, offset)
        return super().pwritev(descriptor, [b"".join(buffers)[:limit]], offset)

    def fdatasync(self, descriptor: int) -> None:
        self._note("fdatasync")
        super().fdatasync(descriptor)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._note("truncate")
        super().truncate(descriptor, size_bytes)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename")
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory")
        super().sync_directory(path)

    def unlink(self, path: Path) -> None:
        self._note("unlink")
        super().unlink(path)


def nth(call: str, *counts: int, code: int) -> Refuse:
    """Refuse the calls of this name with these numbers, from 1."""
    return lambda name, count: code if name == call and count in counts else 0


def head(arrival_us: int = 0, key: bytes = b"", database: str = "db") -> RecordHead:
    """The head of a request."""
    return RecordHead(Format.MSGPACK, database, None, arrival_us, key)


def read_all(folder: Path) -> list[Record]:
    """Every valid record of a log, in order."""
    reader = LogReader(folder)
    return [record for path in reader.segments for record in reader.records(path)]
