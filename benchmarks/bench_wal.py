"""What a group of requests costs in the log: in the thread that writes it, and on the event loop.

"thread" is the call that the log's thread makes for a group of 1, 16 or 64: headers, CRC, write
and, at level "disk", sync ("dsync": both in one call). "loop" is a group from the first `append`
to the last answer, through the thread; "busy" the same while the loop has other work to do, which
is how it is under load. The bodies of a group are 45 KB each, as 1 000 rows of the workload are.
Segments are retired as they fill.

    python -m benchmarks.bench_wal
    BENCH_DIR=/var/tmp python -m benchmarks.bench_wal -k disk
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from isal import isal_zlib

from benchmarks.harness import Bench, main
from ingest.instruments import null
from ingest.log_calls import LogCalls
from ingest.log_format import PAGE_BYTES, Format, RecordEncoder, RecordHead
from ingest.log_reader import LogReader
from ingest.log_segment import LogFiles
from ingest.wal import Wal, WalSettings

BODY_BYTES = 45_000
GROUPS = (1, 16, 64)
SEGMENT_BYTES = 64 << 20

HEAD = RecordHead(Format.MSGPACK, "bench", None, 1_700_000_000_000_000)


class OneCall(LogCalls):
    """Write and sync in one call (RWF_DSYNC of pwritev2(2)), to be compared."""

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """Write and sync."""
        return os.pwritev(descriptor, buffers, offset, os.RWF_DSYNC)

    def fdatasync(self, descriptor: int) -> None:
        """Nothing is left to do."""


def kept(num_records: int) -> Callable[[Any], None]:
    """A check that everything was logged."""

    def check(found: int) -> None:
        assert found == num_records

    return check


def thread_bench(name: str, folder: Path, count: int, calls: LogCalls | None) -> Bench:
    """One group, written by the calling thread; no calls: not synced."""
    files = LogFiles(folder, 1, SEGMENT_BYTES, 4, calls is not None, calls or LogCalls())
    files.open_next()
    group = [(HEAD, os.urandom(BODY_BYTES), None) for _ in range(count)]

    def write() -> int:
        written, error = files.write(group)
        assert error is None
        files.retire(files.last_lsn + 1)
        files.prepare()
        return written

    return Bench(name, write, count, count * BODY_BYTES, kept(count))


class Running:
    """A log on an event loop that runs while a group is under way."""

    def __init__(self, folder: Path, sync: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.log = Wal(folder, 1, WalSettings(sync), null(), structlog.get_logger())
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self.log.start()

    def close(self) -> None:
        """End its thread."""
        self.log.trim(self.log.last_lsn + 1)
        self.loop.run_until_complete(self.log.close())
        self.loop.close()


def loop_bench(name: str, running: Running, count: int, busy: bool) -> Bench:
    """A few groups through a log's thread, one after the other."""
    body = os.urandom(BODY_BYTES)

    async def groups() -> int:
        answered = sum([await _group(running.log, body, count, busy) for _ in range(5)])
        running.log.trim(running.log.last_lsn + 1)
        return answered

    num_records = 5 * count
    return Bench(
        name,
        lambda: running.loop.run_until_complete(groups()),
        num_records,
        num_records * BODY_BYTES,
        kept(num_records),
    )


async def _group(log: Wal, body: bytes, count: int, busy: bool) -> int:
    """Append a group at once and wait for its answers."""
    answered = asyncio.get_running_loop().create_future()
    left = [count]

    def done(_lsn: int, error: Exception | None) -> None:
        assert error is None
        left[0] -= 1
        if not left[0]:
            answered.set_result(None)

    for _ in range(count):
        log.append(HEAD, body, done)
    while busy and not answered.done():
        sum(range(1000))  # Python code that does not give up the GIL
        await asyncio.sleep(0)
    await answered
    return count


def read_bench(folder: Path) -> Bench:
    """A whole segment, every CRC checked."""
    files = LogFiles(folder, 1, SEGMENT_BYTES, 4, False, LogCalls())
    files.open_next()
    count = (SEGMENT_BYTES - PAGE_BYTES) // (BODY_BYTES + 100)
    files.write([(HEAD, os.urandom(BODY_BYTES), None) for _ in range(count)])
    reader = LogReader(folder)

    def scan() -> int:
        return reader.scan(reader.segments[0]).num_records

    return Bench("scan of a segment", scan, count, count * BODY_BYTES, kept(count))


def encode_benches() -> list[Bench]:
    """The header of a record without the CRC of its body, and that CRC by two libraries."""
    encoder, body = RecordEncoder(1), os.urandom(BODY_BYTES)
    return [
        Bench("encode", lambda: len(encoder.encode(HEAD, b"", 1, 4096, 4096)), 1, 64, kept(64)),
        Bench(
            "crc isal",
            lambda: isal_zlib.crc32(body),
            1,
            BODY_BYTES,
            kept(zlib.crc32(body)),
        ),
        Bench("crc zlib", lambda: zlib.crc32(body), 1, BODY_BYTES, kept(zlib.crc32(body))),
    ]


def benches(folder: Path, stack: contextlib.ExitStack) -> list[Bench]:
    """All of them, each log in a folder of its own; the stack ends their threads."""
    out = [*encode_benches(), read_bench(folder / "scan")]
    for count in GROUPS:
        for level, calls in (("page", None), ("disk", LogCalls()), ("dsync", OneCall())):
            name = f"thread {level} {count}"
            out.append(thread_bench(name, folder / name, count, calls))
        for level in ("page", "disk"):
            running = Running(folder / f"loop {level} {count}", level == "disk")
            stack.callback(running.close)
            out += [
                loop_bench(f"loop {level} {count}", running, count, busy=False),
                loop_bench(f"busy {level} {count}", running, count, busy=True),
            ]
    return out


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder,
        contextlib.ExitStack() as stack,
    ):
        raise SystemExit(main(benches(Path(folder), stack)))
