"""What a client writes to disk before it sends: batches in, and out again until they are settled.

A batch that `append` took survives `kill -9` of this process; with `sync` it survives a power cut
too. One that was settled never comes back after a kill. The next client with the same directory
finds what is left, whoever wrote it, once that client is dead. Never sends, never waits for room,
and never holds more than `max_bytes` on disk. docs/client-spill.md has the format and the promises.

Two locks. `_writing` is held while a record is written and synced: one append at a time. `_lock`
guards counts, states and descriptors, and no record is read, written or synced under it, so that
a slow disk delays who appends and not who settles.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from arc.client.batch import Batch
from arc.client.errors import SpillError, SpillFullError, UsageError
from arc.client.spill_format import HEADER_BYTES, MAX_BYTES, Codec, State
from arc.client.spill_home import Home, refusal, sync_directory
from arc.client.spill_segment import (
    DAMAGED_SUFFIX,
    DamagedRecordError,
    Segment,
    Slot,
    Unwritten,
    unwritten,
)

__all__ = ["DamagedRecordError", "Slot", "Spill"]

SEGMENT_BYTES = 16 << 20

#: A segment is deleted when all of it is settled, so a single batch can keep one. Of a bound of
#: 1 GiB that is one part in 64, and to make and delete a segment of 16 MiB costs 1 ms.
MIN_SEGMENTS = 64
MIN_SEGMENT_BYTES = 64 << 10

#: Of segments that are not written to any more, kept for their states.
MAX_DESCRIPTORS = 32

_LOGGER = "arc.client"


class Spill:
    """Batches on disk.

    Args:
        directory: Shared by any number of clients of one user, on one machine and a local disk;
            made when missing, for its owner only.
        max_bytes: Of all files in use here, those taken over from dead clients included.
        segment_bytes: Of a file, at the most; smaller where `max_bytes` is below 64 of them. A
            record that is longer gets a file of its own.
        sync: `append` returns when the record is on the disk, not in the page cache.

    Raises:
        UsageError: `max_bytes` or `segment_bytes` is below 1.
        SpillError: the directory cannot be used, or holds a segment of a later version.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        sync: bool = False,
    ) -> None:
        if max_bytes < 1 or segment_bytes < 1:
            raise UsageError(f"a spill of {max_bytes} bytes in segments of {segment_bytes}")
        self._max_bytes, self._sync = max_bytes, sync
        self._segment_bytes = min(segment_bytes, max(max_bytes // MIN_SEGMENTS, MIN_SEGMENT_BYTES))
        self._writing, self._lock = threading.Lock(), threading.Lock()
        self._client, self._number = os.urandom(8).hex(), 0
        self._current: Segment | None = None
        self._open: set[Segment] = set()
        self._found: list[Slot] = []  # recovered and not yet yielded, the oldest last
        self._late: deque[Callable[[], object]] = deque()
        self._num_bytes = self._num_corrupt = 0
        self._is_closed = self._is_late_said = False
        self._codec = Codec()
        self._home = Home(Path(directory), sync)
        self._unread = self._opened()

    def _opened(self) -> list[Segment]:
        try:
            segments = [Segment.open_existing(path, self._codec) for path in self._home.segments]
        except OSError as error:
            self._home.abandon()
            raise refusal(error, "read the spill in", self._home.base) from error
        except SpillError:
            self._home.abandon()
            raise
        self._num_bytes = sum(segment.end for segment in segments)
        return sorted(segments, key=lambda segment: (segment.client, segment.number))

    @property
    def num_bytes(self) -> int:
        """Of all files in use: ours, and those taken over; damaged ones that are settled not."""
        return self._num_bytes

    @property
    def num_corrupt(self) -> int:
        """Places where a batch was and cannot be read any more, found so far."""
        return self._num_corrupt

    def _check_open(self) -> None:
        if self._is_closed:
            raise SpillError(f"the spill in {self._home.base} is closed")

    # ------------------------------------------------------------------------------ appending

    def append(self, batch: Batch) -> Slot:
        """Take a batch; at the return it outlives this process.

        Args:
            batch: With its key. One that is `in_doubt` counts as sent.

        Raises:
            SpillFullError: no room, by `max_bytes` or by the disk. Nothing of it was written, and
                it may be tried again: room comes back when batches are settled.
            SpillError: the disk refuses for another reason. Nothing of it was written.
        """
        self._check_open()
        item = unwritten(batch)
        with self._writing:
            self._check_open()
            self._do_late()
            while True:
                segment = self._segment_for(item)
                had_records = segment.end > 0
                try:
                    return self._write(segment, item)
                except OSError as error:
                    self._keep_or_leave(segment, error)
                    # A file that may not grow any further says nothing of the next one.
                    if not (error.errno == errno.EFBIG and had_records):
                        raise refusal(error, "write", segment.path) from error

    def _write(self, segment: Segment, item: Unwritten) -> Slot:
        before = segment.end
        try:
            slot = segment.append(item, self._sync)
        finally:
            with self._lock:
                self._num_bytes += segment.end - before
        with self._lock:
            segment.num_unsettled += 1
        return slot

    def _segment_for(self, item: Unwritten) -> Segment:
        """The file for a record; a new one unless there is room in the current one."""
        current = self._current
        if current is not None and current.end + item.size_bytes > self._segment_bytes:
            self._leave(current)
            current = None
        if current is not None and not current.num_unsettled and not self._has_room(current, item):
            self._leave(current)  # what is settled in it is in the way
            current = None
        if not self._has_room(current, item):
            raise SpillFullError(
                f"the spill in {self._home.base} holds {self._num_bytes} of {self._max_bytes} "
                f"bytes, {item.size_bytes} more do not fit"
            )
        return self._begin() if current is None else current

    def _has_room(self, current: Segment | None, item: Unwritten) -> bool:
        if max(len(item.body), len(item.fields)) > MAX_BYTES:
            return False
        size = item.size_bytes + (HEADER_BYTES if current is None else 0)
        return self._num_bytes + size <= self._max_bytes

    def _begin(self) -> Segment:
        path = self._home.base
        try:
            path = self._home.folder()
            self._number += 1
            now_us = time.time_ns() // 1000
            segment = Segment.create(path, self._client, self._number, now_us, self._codec)
        except OSError as error:
            raise refusal(error, "make a file in", path) from error
        with self._lock:
            self._current = segment
            self._open.add(segment)
        if self._sync:
            try:
                sync_directory(path)
            except OSError as error:
                self._leave(segment)
                raise refusal(error, "sync", path) from error
        return segment

    def _keep_or_leave(self, segment: Segment, error: OSError) -> None:
        """After a write that was refused."""
        if not segment.is_usable or not segment.end or error.errno == errno.EFBIG:
            self._leave(segment)

    def _leave(self, segment: Segment) -> None:
        """Write to another file from now on."""
        with self._lock:
            self._current = None
            is_finished = self._finish(segment)
            self._close_unused(segment)
        if is_finished:
            self._remove(segment)

    # --------------------------------------------------------------------------------- states

    def mark_sent(self, slot: Slot) -> None:
        """Its batch is about to be sent: after a crash it is in doubt."""
        with self._lock:
            self._check_open()
            if slot.state is not State.FRESH:
                return
            slot.state = State.SENT
        self._write_state(slot)

    def settle(self, slot: Slot) -> None:
        """Its batch is never to be sent again; what it took is given back when its file is done.

        What the disk refuses here is said in the log and done later: the next append or settle
        tries it again. Only a crash before that brings the batch back.
        """
        if self._late:
            self._do_late()
        with self._lock:
            self._check_open()
            if slot.state is State.SETTLED:
                return
            slot.state = State.SETTLED
            slot.segment.num_unsettled -= 1
            is_finished = self._finish(slot.segment)
        if not (is_finished and self._remove(slot.segment)):
            self._write_state(slot)

    def _write_state(self, slot: Slot) -> None:
        """Write a state where the record is. Outside the lock, which `num_users` allows."""
        segment = slot.segment
        try:
            with self._lock:
                segment.open()
                self._open.add(segment)
                segment.num_users += 1
            try:
                segment.write_state(slot)
            finally:
                with self._lock:
                    segment.num_users -= 1
                    self._close_unused(segment)
        except FileNotFoundError:
            pass  # another thread has settled the last batch in it
        except OSError as error:
            self._postpone(functools.partial(self._write_state, slot), error, segment)

    def _finish(self, segment: Segment) -> bool:
        """Under the lock: whether the file is to be removed now, by the caller."""
        if segment is self._current or segment.num_unsettled or segment.is_gone:
            return False
        segment.is_gone = True
        return True

    def _close_unused(self, segment: Segment) -> None:
        """Under the lock: give a descriptor back that nobody needs, or one of too many."""
        if segment is self._current or segment.num_users or segment not in self._open:
            return
        if segment.is_gone or self._is_closed or len(self._open) > MAX_DESCRIPTORS:
            self._open.discard(segment)
            segment.close()

    def _remove(self, segment: Segment) -> bool:
        """Delete a file in which all is settled, or set a damaged one aside; whether it worked."""
        try:
            if segment.is_damaged:
                segment.set_name(self._home.base / f"{segment.path.stem}{DAMAGED_SUFFIX}")
            else:
                segment.path.unlink()
        except FileNotFoundError:
            pass  # somebody else has deleted it
        except OSError as error:
            self._postpone(functools.partial(self._remove, segment), error, segment)
            return False
        with self._lock:
            self._num_bytes -= segment.end
            self._close_unused(segment)
        return True

    # ----------------------------------------------------------------------- what is done late

    def _postpone(self, task: Callable[[], object], error: OSError, segment: Segment) -> None:
        with self._lock:
            self._late.append(task)
            is_said, self._is_late_said = self._is_late_said, True
        if not is_said:
            logging.getLogger(_LOGGER).error(
                "%s: what became of a batch cannot be written: %s; it is tried again",
                segment.path,
                error.strerror,
            )

    def _do_late(self) -> None:
        """Do what the disk refused before, until it refuses again."""
        while self._late:
            with self._lock:
                if not self._late:
                    return
                task, left = self._late.popleft(), len(self._late)
            task()
            if len(self._late) > left:
                return
        self._is_late_said = False

    # -------------------------------------------------------------------------------- reading

    def load(self, slot: Slot) -> Batch:
        """A batch again, every byte of it checked; `in_doubt` if it was marked as sent.

        Raises:
            DamagedRecordError: it is not what was written, for good: settle the slot.
            SpillError: it cannot be read now; or the slot was settled.
        """
        segment = slot.segment
        try:
            with self._lock:
                self._check_open()
                if slot.state is State.SETTLED:
                    raise SpillError(f"the batch at byte {slot.offset} was settled")
                descriptor = segment.open_for_reading()
            try:
                return segment.read(slot, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise refusal(error, "read", segment.path) from error
        except DamagedRecordError as error:
            self._note_damage(segment, slot.offset, str(error))
            raise

    def recovered(self) -> Iterator[tuple[Slot, Batch]]:
        """What dead clients left unsettled, the oldest batch first, each once.

        The files are searched when the first is asked for. What cannot be read is counted, said
        in the log, and left out.

        Returns:
            Each batch and its place; `in_doubt` if it may have been sent.
        """
        self._find()
        while self._found and not self._is_closed:
            slot = self._found.pop()
            try:
                batch = self.load(slot)
            except DamagedRecordError:
                self.settle(slot)
            except SpillError as error:
                logging.getLogger(_LOGGER).error("a batch is left to the next client: %s", error)
            else:
                yield slot, batch

    def _find(self) -> None:
        with self._lock:
            unread, self._unread = self._unread, []
        last = {segment.client: segment for segment in unread}
        found = [item for segment in unread for item in self._scan(segment, last[segment.client])]
        found.sort(key=lambda item: item[0])
        self._found += [slot for _, slot in reversed(found)]

    def _scan(self, segment: Segment, last: Segment) -> list[tuple[int, Slot]]:
        before = segment.end
        try:
            contents = segment.scan(is_last=segment is last)
        except OSError as error:
            logging.getLogger(_LOGGER).error("a file is left to the next client: %s", error)
            return []
        if contents.end < segment.end:
            segment.cut_tail(contents.end)
        with self._lock:
            self._num_bytes += segment.end - before
            segment.num_unsettled = len(contents.unsettled)
        for fault in contents.faults:
            place = f"{segment.path}: {fault.size_bytes} bytes at {fault.offset}"
            self._note_damage(segment, fault.offset, f"{place}: {fault.reason}")
        with self._lock:
            is_finished = self._finish(segment)
        if is_finished:
            self._remove(segment)
        return contents.unsettled

    def _note_damage(self, segment: Segment, offset: int, words: str) -> None:
        """Count it, say it, and see to it that the file is kept, once for each place."""
        with self._lock:
            if offset in segment.damaged:
                return
            segment.damaged.add(offset)
            self._num_corrupt += 1
            if segment.path.suffix != DAMAGED_SUFFIX:
                try:
                    segment.set_name(segment.path.with_suffix(DAMAGED_SUFFIX))
                except OSError as error:
                    words += f" (and it cannot be renamed: {error.strerror})"
        logging.getLogger(_LOGGER).error(
            "a batch in the spill is lost: %s; the file is kept", words
        )

    # -------------------------------------------------------------------------------- leaving

    def close(self) -> None:
        """Remove what is settled, and leave the rest to the next client."""
        with self._writing:
            if self._is_closed:
                return
            self._do_late()
            current = self._current
            if current is not None:
                self._leave(current)
            with self._lock:
                self._is_closed = True
                for segment in list(self._open):
                    self._close_unused(segment)
            self._home.close()

    def abandon(self) -> None:
        """In a forked child: close what was inherited; files and lock stay the parent's.

        Takes no lock, since a thread that is not here may have held it.
        """
        self._is_closed = True
        self._writing, self._lock = threading.Lock(), threading.Lock()
        for segment in list(self._open):
            segment.close()
        self._open.clear()
        self._home.abandon()
