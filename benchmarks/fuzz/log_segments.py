"""The target that reads segments of a log: whatever is in a file, it is read or told, never raised.

A body is a segment. The log's own writer makes the first ones; a mutation changes bytes of
records, in half of the cases with the right CRC afterwards, as a defect of ours would write them.
"""

from __future__ import annotations

import random
import shutil
import struct
import tempfile
from pathlib import Path

from isal import isal_zlib

from benchmarks.fuzz.mutators import INTERESTING, plain
from benchmarks.fuzz.target import Finding, Ran, cpu_s
from ingest.log_calls import LogCalls
from ingest.log_format import (
    ALIGNMENT,
    PAGE_BYTES,
    RECORD_HEAD_BYTES,
    Format,
    RecordDecoder,
    RecordHead,
    SegmentInfo,
    segment_name,
)
from ingest.log_reader import LogReader
from ingest.log_segment import LogFiles
from ingest.timestamps import TimeUnit

NUMBER, EPOCH = 1, 2
SEGMENT_BYTES = 4 * PAGE_BYTES
_CRC_AT = 12  # of a record; see ingest/log_format.py


class LogTarget:
    """`LogReader` on one segment, scanned and read."""

    name = "log"
    description = "segments of the log, as a disk or a defect may leave them"
    in_process = True
    max_bytes = SEGMENT_BYTES
    cost = 1

    def open(self, folder: Path) -> None:
        """Make room for the segment, in memory where the system has such a folder."""
        shared = Path("/dev/shm")
        parent = shared if shared.is_dir() else folder
        self._folder = Path(tempfile.mkdtemp(prefix="arc-fuzz-log-", dir=parent))
        self._path = self._folder / segment_name(NUMBER)
        self._decoder = RecordDecoder(NUMBER, None)

    def seed(self, rng: random.Random) -> bytes:
        """A segment of a few groups of records."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            files = LogFiles(folder, EPOCH, SEGMENT_BYTES, 0, False, LogCalls())
            files.open_next()
            for _ in range(rng.randint(1, 4)):
                records = [_record(rng) for _ in range(rng.randint(1, 3))]
                files.write([(head, body, None) for head, body in records])
            return (folder / segment_name(NUMBER)).read_bytes()
        finally:
            shutil.rmtree(folder)

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Change the file anywhere, or one record."""
        records = self._records(body)
        if not records or rng.random() < 0.3:
            return plain(rng, body)
        start, end = rng.choice(records)
        changed = bytearray(body)
        if rng.random() < 0.2:  # a record that was copied to another place
            other, _ = rng.choice(records)
            changed[other : other + end - start] = body[start:end]
            return bytes(changed)
        for _ in range(rng.choice((1, 1, 3))):
            width = rng.choice((1, 2, 4, 8))
            at = start + rng.randrange(4, min(end - start, RECORD_HEAD_BYTES + 24))
            number = rng.choice((*INTERESTING, rng.getrandbits(8 * width)))
            changed[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
        if rng.random() < 0.7:
            crc = isal_zlib.crc32(bytes(changed[start + 16 : end]), _prefix_crc(changed, start))
            changed[start + _CRC_AT : start + 16] = struct.pack("<I", crc)
        return bytes(changed)

    def _records(self, body: bytes) -> list[tuple[int, int]]:
        found = []
        view = memoryview(body)
        at = body.find(self._decoder.needle, PAGE_BYTES)
        while at >= 0:
            size = self._decoder.claimed_bytes(view[at:], at)
            if size and at + size <= len(body):
                found.append((at, at + size))
            at = body.find(self._decoder.needle, at + ALIGNMENT)
        return found

    def run(self, body: bytes) -> Ran:
        """Read the segment both ways."""
        self._path.write_bytes(body)
        started_s = cpu_s()
        reader = LogReader(self._folder)
        info = reader.scan(self._path)
        records = list(reader.records(self._path))
        took_s = cpu_s() - started_s
        self._check(info, len(body))
        if info.num_records != len(records):
            said = f"{info.num_records} records when scanned, {len(records)} when read"
            raise Finding("disagreement", self.name, said)
        for record in records:
            if body[record.offset + record.size_bytes - len(record.body) :].find(record.body) != 0:
                raise Finding("invariant", self.name, f"LSN {record.lsn}: not the bytes on disk")
        label = "corrupt" if info.corrupt else "torn" if info.torn_bytes else "taken"
        return Ran(label, took_s)

    def _check(self, info: SegmentInfo, size: int) -> None:
        is_right = info.size_bytes == size and 0 <= info.torn_bytes <= size
        is_right &= info.valid_bytes <= max(size, PAGE_BYTES) and info.record_bytes <= size
        if not is_right:
            raise Finding("invariant", self.name, f"{info} of {size} bytes")

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Remove the file."""
        shutil.rmtree(self._folder, ignore_errors=True)
        return [], {}


def _prefix_crc(changed: bytearray, start: int) -> int:
    crc: int = isal_zlib.crc32(bytes(changed[start : start + _CRC_AT]))
    return crc


def _record(rng: random.Random) -> tuple[RecordHead, bytes]:
    head = RecordHead(
        rng.choice(list(Format)),
        rng.choice(("default", "a", "x" * 64)),
        rng.choice((None, *TimeUnit)),
        rng.getrandbits(50),
        rng.randbytes(rng.choice((0, 0, 16, 64))),
    )
    return head, rng.randbytes(rng.randrange(600))


LOG = LogTarget()
