"""The log of one shard: requests in, and an answer for each once it is in the log.

Nothing waits for a timer: a group is written as soon as the one before it is, and holds all that
came meanwhile. A log that is synced has a thread, which writes, syncs, opens and retires segments
(`ingest/log_segment.py`), while the event loop only queues. One that is not synced has none: its
writes end in the page cache, and handing them to a thread costs more than they do. A group whose
write or sync failed is refused as a whole, after a new segment was tried; when that fails too, the
log is read-only, and asks again until it works.

What a body says is not looked at here, and nothing is read back: `ingest/log_reader.py` does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from ingest.errors import ReadOnlyError, StorageError
from ingest.instruments import PipelineInstruments
from ingest.log_calls import LogCalls
from ingest.log_format import (
    MAX_KEY_BYTES,
    RecordHead,
    SegmentInfo,
)
from ingest.log_segment import Item, LogFiles
from ingest.lsn import make_lsn

#: How long a read-only log waits before it asks the disk again.
PROBE_S = 0.5

#: Bodies of one group: what one thread checks and copies without a pause, and what one failure
#: refuses.
MAX_GROUP_BYTES = 64 << 20

Done = Callable[[int, StorageError | None], None]
_Waiting = tuple[RecordHead, bytes, Done]


class WalSettings(msgspec.Struct, frozen=True):
    """How the log is kept.

    Attributes:
        sync: Whether a request is on the disk before it is answered, or else in the page cache.
        segment_bytes: Size of a segment; a larger record gets one of its own.
        spare_segments: How many files of retired segments are kept for reuse.
    """

    sync: bool
    segment_bytes: int = 64 << 20
    spare_segments: int = 4


class _Written(msgspec.Struct):
    """What became of a group.

    Attributes:
        kept: How many of its records are in the log, from the first on.
        error: Why the others are not.
        stuck: Why no segment could be opened after that.
        num_bytes: Of the bodies.
        seconds: That the write and the sync took.
        usage: Segments in need, and bytes of their records.
    """

    kept: int
    error: StorageError | None
    stuck: StorageError | None
    num_bytes: int
    seconds: float
    usage: tuple[int, int]


class Wal:
    """One shard's log. Lives on one event loop; one thread of its own does what waits for a disk.

    Args:
        folder: Of the segments; made when missing.
        epoch: Of every LSN that is given.
        settings: How the log is kept.
        instruments: The `log_*` among them.
        log: For failures and the end of failures.
        calls: The operating system.
        before_retire: Is called in the log's thread with the last LSN of a segment before its
            file is reused or deleted, perhaps more than once; an OSError keeps the segment.

    Attributes:
        refusal: Why nothing is taken; None when it works.
        last_lsn: The highest that was given and is kept.
        num_segments: Segments that hold rows in need.
        num_bytes: What the records in those take.
    """

    def __init__(
        self,
        folder: Path,
        epoch: int,
        settings: WalSettings,
        instruments: PipelineInstruments,
        log: FilteringBoundLogger,
        calls: LogCalls | None = None,
        before_retire: Callable[[int], None] | None = None,
    ) -> None:
        self.refusal: str | None = "the log is not open yet"
        self.last_lsn = make_lsn(epoch, 0)
        self.num_segments = self.num_bytes = 0
        self._folder = folder
        self._sync = settings.sync
        self._started = False
        self._instruments = instruments
        self._log = log
        self._files = LogFiles(
            folder,
            epoch,
            settings.segment_bytes,
            settings.spare_segments,
            settings.sync,
            calls or LogCalls(),
            before_retire,
        )
        self._waiting: deque[_Waiting] = deque()
        # True from the first append after a rest until nothing waits: a group is about to be
        # taken, or is in the thread. So there is never more than one.
        self._busy = False
        self._closed = False
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._probe_timer: asyncio.TimerHandle | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop  # from `start` on

    def adopt(self, segments: Sequence[SegmentInfo]) -> None:
        """Take over what a predecessor left, to be trimmed like our own; before `start`."""
        self._files.adopt(segments)
        self._account(self._files.usage())

    def start(self) -> None:
        """Open the first segment, blocking, on the event loop that is to call everything else.

        A disk that refuses leaves the log read-only and asking; nothing is raised.
        """
        self._loop = asyncio.get_running_loop()
        self.refusal = None
        error = self._open()
        if error is not None:
            self._turn_read_only(error)
        self._started = True
        if self._sync:
            self._thread = threading.Thread(target=self._work, name="log", daemon=True)
            self._thread.start()

    # --------------------------------------------------------------------------------- on the loop

    def append(self, head: RecordHead, body: bytes, done: Done) -> None:
        """Log a request.

        Args:
            head: Its key has up to 64 bytes.
            body: As it came, never changed after.
            done: Called on the loop, in the order of the LSNs: with the LSN and None once the
                request is in the log, or with 0 and the error if it is not. It must not raise.

        Raises:
            ReadOnlyError: nothing is taken; `done` will not be called.
        """
        if self.refusal is not None:
            raise ReadOnlyError(self.refusal)
        if len(head.key) > MAX_KEY_BYTES:
            raise ValueError(f"BUG: an idempotency key of {len(head.key)} bytes")
        self._waiting.append((head, body, done))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._send_group)

    def _send_group(self) -> None:
        """Hand all that waits to the thread, up to a bound."""
        group: list[_Waiting] = []
        num_bytes = 0
        waiting = self._waiting
        while waiting:
            num_body = len(waiting[0][1])
            if group and num_bytes + num_body > MAX_GROUP_BYTES:
                break
            num_bytes += num_body
            group.append(waiting.popleft())
        if group:
            self._submit(lambda: self._write(group, num_bytes))
        else:
            self._busy = False
            self._idle.set()

    def _finish(self, group: Sequence[_Waiting], written: _Written) -> None:
        """Tell everyone in a group; the next group is on its way before."""
        first_lsn = self.last_lsn + 1
        self.last_lsn += written.kept
        turned_away: list[_Waiting] = []
        if written.stuck is not None:
            turned_away, self._waiting = list(self._waiting), deque()
        self._report(written)
        self._send_group()
        for lsn, (_, _, done) in enumerate(group[: written.kept], first_lsn):
            self._tell(done, lsn, None)
        # An error of its own for each: raising one adds to its traceback.
        for _, _, done in group[written.kept :]:
            self._tell(done, 0, StorageError(str(written.error)))
        for _, _, done in turned_away:
            self._tell(done, 0, ReadOnlyError(str(written.stuck)))

    def _report(self, written: _Written) -> None:
        made = self._instruments
        self._account(written.usage)
        if written.kept:
            made.log_groups.inc()
            made.log_records.inc(written.kept)
            made.log_written_bytes.inc(written.num_bytes)
            made.log_write_seconds.observe(written.seconds)
        if written.error is not None:
            made.log_failures.inc()
            self._log.error("log_failed", error=str(written.error), kept=written.kept)
        if written.stuck is not None:
            self._turn_read_only(written.stuck)

    def _tell(self, done: Done, lsn: int, error: StorageError | None) -> None:
        try:
            done(lsn, error)
        except Exception:
            self._log.exception("log_answer_failed", lsn=lsn)  # the others are to be told

    def _account(self, usage: tuple[int, int]) -> None:
        num_segments, num_bytes = usage
        self._instruments.log_segments.add(num_segments - self.num_segments)
        self._instruments.log_bytes.add(num_bytes - self.num_bytes)
        self.num_segments, self.num_bytes = num_segments, num_bytes

    def _turn_read_only(self, error: StorageError) -> None:
        if self.refusal is None:
            self._log.error("log_read_only", reason=str(error), probe_s=PROBE_S)
            self._instruments.log_read_only.set(1)
        self.refusal = str(error)
        if not self._closed:
            self._probe_timer = self._loop.call_later(PROBE_S, self._submit, self._probe)

    def _probed(self, error: StorageError | None) -> None:
        if error is not None:
            self._turn_read_only(error)
            return
        self._instruments.log_read_only.set(0)
        if not self._closed:
            self.refusal = None
        self._log.info("log_writable", folder=str(self._folder))

    def trim(self, low_water_lsn: int) -> None:
        """Give up segments that hold only rows with a lower LSN, which are all stored."""
        self._submit(lambda: self._retire(low_water_lsn))

    async def close(self) -> None:
        """Write what waits, end the thread, and remove what is not needed any more.

        Segments with rows in need stay, as do all when the disk refuses.
        """
        if self._closed or not self._started:
            return
        self._closed = True
        self.refusal = self.refusal or "the log is closed"
        await self._idle.wait()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        ended = self._loop.create_future()
        self._submit(lambda: self._end(ended))
        await ended
        self._end_thread()

    def abandon(self) -> None:
        """End the thread and leave every segment as it is: what a kill would leave."""
        if self._closed or not self._started:
            return
        self._closed = True
        self.refusal = self.refusal or "the log is closed"
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._end_thread()

    def _submit(self, job: Callable[[], None]) -> None:
        # HOT, once a group. On the loop at the level of page: 8.2 -> 8.9 M records/s with two
        # workers and 64 connections (docs/profiling/2026-11-20-log-thread.md).
        if self._sync:
            self._jobs.put(job)
        else:
            job()

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    # ------------------------------------------------------------------- in the thread, if any

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        if not self._sync:
            callback(*args)
            return
        with contextlib.suppress(RuntimeError):  # the loop ended before us: nobody waits
            self._loop.call_soon_threadsafe(callback, *args)

    def _write(self, group: Sequence[Item], num_bytes: int) -> None:
        started_s = time.perf_counter()
        kept, error = self._files.write(group)
        seconds = time.perf_counter() - started_s
        stuck = None if self._files.is_open else self._open()
        if error is not None:
            num_bytes = sum(len(body) for _, body, _ in group[:kept])
        written = _Written(kept, error, stuck, num_bytes, seconds, self._files.usage())
        self._post(self._finish, group, written)
        with contextlib.suppress(Exception):  # it shows when the file is needed
            self._files.prepare()

    def _open(self) -> StorageError | None:
        """Begin a segment; why that failed."""
        try:
            self._files.open_next()
        except StorageError as error:
            return error
        except Exception as error:  # it must not end the thread
            return StorageError(f"BUG: the log cannot be opened: {error!r}")
        return None

    def _probe(self) -> None:
        self._post(self._probed, self._open())

    def _retire(self, low_water_lsn: int) -> None:
        try:
            self._files.retire(low_water_lsn)
        except Exception as error:  # it is tried again with the next trim
            self._post(self._not_retired, error)
        self._post(self._account, self._files.usage())

    def _not_retired(self, error: Exception) -> None:
        self._log.warning("log_segment_kept", error=str(error) or repr(error))

    def _end(self, ended: asyncio.Future[None]) -> None:
        try:
            self._files.close()
        except Exception as error:  # what is left is what a crash would leave
            self._post(self._not_retired, error)
        self._post(self._account, self._files.usage())
        self._post(ended.set_result, None)
