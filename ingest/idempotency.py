"""Requests that come twice: which `Idempotency-Key` was given to which body, and what became of it.

In: keys and digests of bodies. Out: whether to store, to say "stored before", or to refuse. Bodies
and rows are never here, and no key is forgotten before its window is over.

Two parts. `KeyWindow` is what the worker processes of one daemon agree on, in one SQLite file. It
outlives any of them, but not the daemon: a power cut may have damaged it, and its times are of a
clock that has started anew. So whoever starts a daemon removes it, with its `-journal`, before
there are workers. Every key that counts then is in a log, or, where the log's segment has gone
before the key's time was up, in a `KeyJournal`, a few files beside the log.

Processes are killed in the middle of a change to the window, and its file is never synced. So it
has a rollback journal, in a file (`journal_mode=PERSIST`, `synchronous=OFF`): what a killed
process leaves half done is in the page cache, and the next one rolls it back. A key that comes
and is stored takes 80 µs, with TRUNCATE 97, with DELETE 120 (benchmarks/bench_idempotency.py). A
journal in memory would take 39 and leave a damaged file; WAL is ruled out in `ingest.catalog`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ingest import sqlite
from ingest.clock import Clock
from ingest.disk import replace_file
from ingest.errors import (
    IngestError,
    KeyInFlightError,
    KeyReusedError,
    ReplayingError,
)
from ingest.timestamps import TimeUnit

MAX_KEY_BYTES = 64
DIGEST_BYTES = 16

# --- the window ------------------------------------------------------------------------------

#: In the column `shard` of a key that is stored.
_STORED = -1

# Rows are numbered as they come, so the oldest have the lowest numbers, and no index by time is
# needed to find them. Restored keys come out of order; they are only found later than they might.
_CREATE = (
    "CREATE TABLE keys (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, digest BLOB NOT NULL,"
    " shard INTEGER NOT NULL, began_s REAL NOT NULL)",
    "CREATE TABLE unread (shard INTEGER PRIMARY KEY)",
)
_BEGIN = "INSERT OR IGNORE INTO keys (key, digest, shard, began_s) VALUES (?, ?, ?, ?)"
_BEGIN_ANEW = "INSERT OR REPLACE INTO keys (key, digest, shard, began_s) VALUES (?, ?, ?, ?)"
_FIND = "SELECT digest, shard, began_s FROM keys WHERE key = ?"
_FINISH = f"UPDATE keys SET shard = {_STORED} WHERE key = ? AND shard = ?"
_ABANDON = "DELETE FROM keys WHERE key = ? AND shard = ?"
_EXPIRE = (
    "DELETE FROM keys WHERE began_s < ? AND id IN"
    f" (SELECT id FROM keys WHERE shard = {_STORED} ORDER BY id LIMIT ?)"
)
_RESTORE = f"""
INSERT INTO keys (key, digest, shard, began_s) VALUES (?1, ?2, {_STORED}, ?3)
ON CONFLICT (key) DO UPDATE
SET digest = excluded.digest, shard = {_STORED}, began_s = max(began_s, excluded.began_s)
WHERE (shard = ?4 AND digest = excluded.digest)
   OR (shard = {_STORED} AND began_s < excluded.began_s)
"""
_RANGE = "SELECT min(id), max(id) FROM keys"
_FORGET = "DELETE FROM keys WHERE id BETWEEN ? AND ? AND shard = ?"
_ADD_UNREAD = "INSERT INTO unread VALUES (?)"
_COUNT_UNREAD = "SELECT count(*) FROM unread"
_NOW_READ = "DELETE FROM unread WHERE shard = ?"

#: Two for each key that comes in, so that those that are over do not pile up.
_EXPIRED_A_KEY = 2
#: Rows of one transaction where there are many: 1 to 3 ms, in which no other process gets in.
_BATCH_ROWS = 1_000

#: SQLite's own waits grow to 100 ms, and beside a process that does nothing else one of them lasts
#: 230 ms. With this step the longest is 10 ms, and the usual one is the step.
_BUSY_STEP_S = 100e-6

#: How much of a key goes into a message.
_SHOWN_KEY_BYTES = 16


class KeyEntry(msgspec.Struct, frozen=True, gc=False):
    """A key whose request is stored.

    Attributes:
        lsn: Of the request.
        key: 1 to `MAX_KEY_BYTES` bytes.
        digest: What `body_digest` made of the body, `DIGEST_BYTES` long.
        arrival_us: When it came: wall time, microseconds since 1970-01-01T00:00Z.
    """

    lsn: int
    key: bytes
    digest: bytes
    arrival_us: int


def body_digest(
    database: str, time_unit: TimeUnit | None, body: bytes, context: bytes = b""
) -> bytes:
    """Tell bodies apart, and the same body for another database or with times in another unit.

    Half of a SHA-256: 1.9 GB/s where the processor has instructions for it, as all of the last
    years have, against 1.3 of BLAKE2b and 0.8 of BLAKE2s. To find two bodies with one digest
    takes 2**64 tries.

    Args:
        database: As the request names it.
        time_unit: As the request gives it.
        body: As it came, still compressed.
        context: What else says how the body is read: its format, and its parameters.

    Returns:
        `DIGEST_BYTES` bytes.
    """
    name = database.encode()
    unit = "" if time_unit is None else time_unit.value
    hashed = hashlib.sha256(f"{len(name)} {len(unit)} {unit}".encode() + b" " + name)
    if context:
        hashed.update(b"%d " % len(context) + context)
    hashed.update(body)
    return hashed.digest()[:DIGEST_BYTES]


class KeyWindow:
    """The keys of the last `window_s` seconds, as all workers of one daemon see them.

    A key is in flight from `begin` on, until `finish` or `abandon`, however long that takes, and
    then stored until its window is over, which is counted from `begin`. Times are of a monotonic
    clock that the processes of one boot share (on Linux and macOS `time.monotonic`), so no NTP
    step moves them.

    A key of 36 bytes takes 124 bytes of the file. There is no limit to their number but the disk,
    and when that is full no key is taken and none forgotten: 10 minutes of 1 000 keys a second are
    75 MB, and more than some 12 000 a second do not get through.

    Methods block for a transaction, 40 µs alone; other processes are waited for up to
    `busy_timeout_s`. All calls must come from one thread.

    Args:
        path: Of the file; made with mode 0600, its folder with 0700, when missing.
        shard: Whose requests these are; one process has it at a time.
        window_s: How long a key counts.
        clock: Where times come from.
        busy_timeout_s: How long to wait for other processes.
        shards: Whose keys have to be read again if the file is made here. Until each has called
            `forget_in_flight` once, `begin` refuses: one worker must not take for new what
            another has stored.

    Raises:
        StorageError: the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        shard: int,
        window_s: float,
        clock: Clock,
        busy_timeout_s: float = 1.0,
        shards: Iterable[int] = (),
    ) -> None:
        self.path = path
        self._shard = shard
        self._window_s = window_s
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._unread = [(number,) for number in shards]
        # Keys whose request is settled and whose row is not, and whether they are stored.
        self._owed: dict[bytes, bool] = {}
        self._all_read = False
        with self._refusals():
            sqlite.create_private(path)
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Give the file back. No method may be called afterwards."""
        self._connection.close()

    def begin(self, key: bytes, digest: bytes) -> bool:
        """Ask whether a request with this key is new, and if so take the key for it.

        Args:
            key: 1 to `MAX_KEY_BYTES` bytes.
            digest: Of its body; see `body_digest`.

        Returns:
            True: it is new, and in flight from now on; `finish` or `abandon` has to follow.
            False: the same body is stored already.

        Raises:
            KeyReusedError: the key is taken for another body.
            KeyInFlightError: the same body is in flight.
            ReplayingError: a shard has not read its keys yet.
            StorageError: the window cannot be written, or stays locked.
        """
        self._settle()
        with self._refusals():
            self._require_all_read()
            now_s = self._clock.monotonic_s()
            taken = self._execute(_BEGIN, (key, digest, self._shard, now_s)).rowcount
            return bool(taken) or self._begin_known(key, digest, now_s)

    def finish(self, keys: Sequence[bytes]) -> None:
        """Say that requests are stored: before they are answered. One transaction for all.

        Args:
            keys: That this shard has begun. What is not in flight here stays as it is.

        Raises:
            StorageError: the window cannot be written. The requests are stored all the same and
                may be answered; until the next call of any method, which makes up for it, a
                repetition is told that they are in flight. With no keys only that is done.
        """
        self._owed.update(dict.fromkeys(keys, True))
        self._settle()

    def abandon(self, key: bytes) -> None:
        """Say that a request was refused and nothing of it kept: its key is free again.

        Raises:
            StorageError: as in `finish`.
        """
        self._owed[key] = False
        self._settle()

    def restore(self, entries: Iterable[KeyEntry]) -> None:
        """Put stored requests back into the window: at the start of a shard, from its log.

        Those that the window has already, or whose time is up, change nothing.

        Args:
            entries: In any order, more than once if need be.

        Raises:
            StorageError: the window cannot be written.
        """
        now_us, now_s = self._clock.now_us(), self._clock.monotonic_s()
        rows: list[tuple[bytes, bytes, float, int]] = []
        for entry in entries:
            age_s = max(0.0, (now_us - entry.arrival_us) / 1e6)
            if age_s <= self._window_s:
                rows.append((entry.key, entry.digest, now_s - age_s, self._shard))
            if len(rows) == _BATCH_ROWS:
                self._restore(rows)
                rows.clear()
        self._restore(rows)

    def forget_in_flight(self) -> None:
        """End the start of a shard: what a dead predecessor had in flight is not coming.

        Call it after `restore`, not before: a key that is free although its request is in the log
        would let a repetition in. From now on this shard holds no one up; see `shards`.

        Raises:
            StorageError: the window cannot be written.
        """
        with self._refusals():
            first, last = self._execute(_RANGE).fetchone()
            step = 10 * _BATCH_ROWS  # they are read, and hardly one is written
            for start in range(first or 0, (last or 0) + 1, step):
                self._execute(_FORGET, (start, start + step - 1, self._shard))
            self._execute(_NOW_READ, (self._shard,))

    def _begin_known(self, key: bytes, digest: bytes, now_s: float) -> bool:
        """`begin` for a key that is in the window."""
        with self._transaction():
            found = self._connection.execute(_FIND, (key,)).fetchone()
            if found is None or (found[1] == _STORED and found[2] < now_s - self._window_s):
                self._connection.execute(_BEGIN_ANEW, (key, digest, self._shard, now_s))
                return True
        known_digest, shard, _ = found
        if known_digest != digest:
            raise KeyReusedError(
                f"Idempotency-Key {_shown(key)} came with another body, database or time unit "
                f"within the last {self._window_s:g} s; use a new key"
            )
        if shard != _STORED:
            raise KeyInFlightError(
                f"the first request with Idempotency-Key {_shown(key)} is not answered yet"
            )
        return False

    def _require_all_read(self) -> None:
        if self._all_read:
            return
        unread = self._execute(_COUNT_UNREAD).fetchone()[0]
        if unread:
            raise ReplayingError(f"{unread} shards have not read their idempotency keys yet")
        self._all_read = True

    def _settle(self) -> None:
        """Write what became of requests, and delete some rows whose time is up."""
        if not self._owed:
            return
        stored = [(key, self._shard) for key, is_stored in self._owed.items() if is_stored]
        refused = [(key, self._shard) for key, is_stored in self._owed.items() if not is_stored]
        expired = (self._clock.monotonic_s() - self._window_s, _EXPIRED_A_KEY * len(self._owed))
        with self._refusals(), self._transaction():
            self._connection.executemany(_FINISH, stored)
            self._connection.executemany(_ABANDON, refused)
            self._connection.execute(_EXPIRE, expired)
        self._owed.clear()

    def _restore(self, rows: Sequence[tuple[bytes, bytes, float, int]]) -> None:
        with self._refusals(), self._transaction():
            self._connection.executemany(_RESTORE, rows)

    def _prepare(self) -> None:
        self._execute("PRAGMA journal_mode = PERSIST")
        self._execute("PRAGMA synchronous = OFF")
        if not self._is_made():
            with self._transaction():
                if not self._is_made():  # no other process was faster
                    for statement in _CREATE:
                        self._connection.execute(statement)
                    self._connection.executemany(_ADD_UNREAD, self._unread)
                    self._connection.execute("PRAGMA user_version = 1")

    def _is_made(self) -> bool:
        return bool(self._execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            sqlite.roll_back(self._connection)
            raise

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run a statement that may have to wait for other processes."""
        give_up_s: float | None = None
        while True:
            try:
                return self._connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                # The low byte is the error, the others say more of it (SQLITE_BUSY_RECOVERY).
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                give_up_s = give_up_s or time.monotonic() + self._busy_timeout_s
                if time.monotonic() >= give_up_s:
                    raise
            time.sleep(_BUSY_STEP_S)

    def _refusals(self) -> contextlib.AbstractContextManager[None]:
        return sqlite.refusals(f"idempotency keys {self.path}")


def _shown(key: bytes) -> str:
    """A key for a message: printable, and cut when it is long."""
    text = repr(key[:_SHOWN_KEY_BYTES])[1:]  # without the b of the literal
    return text if len(key) <= _SHOWN_KEY_BYTES else f"{text}…"


# --- the journal -----------------------------------------------------------------------------

# A file: magic, CRC-32 of all that follows; then the entries: lsn, arrival, digest, length of the
# key, key. All numbers little-endian.
_MAGIC = b"arckeys1"
_HEADER = struct.Struct("<8sI")
_ENTRY = struct.Struct(f"<Qq{DIGEST_BYTES}sB")
_FILES = "keys-*.bin"
_UNFINISHED = "keys-*.new"

#: What is forgotten at once when its time is up.
_CHUNK_BYTES = 1 << 16


class _Chunk:
    """Entries that came one after the other, as they will stand in a file."""

    def __init__(self, entry: KeyEntry) -> None:
        self.data = bytearray()
        self.lowest_lsn = entry.lsn
        self.noted_s = 0.0

    def add(self, entry: KeyEntry, now_s: float) -> None:
        self.data += _ENTRY.pack(entry.lsn, entry.arrival_us, entry.digest, len(entry.key))
        self.data += entry.key
        self.lowest_lsn = min(self.lowest_lsn, entry.lsn)
        self.noted_s = now_s


class KeyJournal:
    """The stored keys of one shard, kept beyond the log's segments that they came in.

    In memory from `note` on, 33 bytes and the key each, in a synced file from `keep` on, and gone
    once their window is over. While the process lives that is told by the monotonic clock; over a
    restart there is nothing but wall time and the arrival of each request.

    `note` and `keep` may be called from different threads; `keep` from one at a time.

    Args:
        folder: Of the shard's log. Nobody else writes files `keys-*` in it.
        window_s: How long a key counts.
        clock: Where times come from.

    Attributes:
        damaged: Files that `load` could not read and left where they are.
    """

    def __init__(self, folder: Path, window_s: float, clock: Clock) -> None:
        self.damaged: list[Path] = []
        self._folder = folder
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._chunks: list[_Chunk] = []  # guarded by the lock, oldest first
        self._files: dict[Path, float] = {}  # when each was seen first, on the monotonic clock

    def note(self, entry: KeyEntry) -> None:
        """Remember a key whose request is stored in the log.

        Args:
            entry: Its key has at most `MAX_KEY_BYTES`, its digest `DIGEST_BYTES`.
        """
        if len(entry.digest) != DIGEST_BYTES or len(entry.key) > MAX_KEY_BYTES:
            raise IngestError(f"BUG: a key or digest of a wrong length: {entry}")
        now_s = self._clock.monotonic_s()
        with self._lock:
            if not self._chunks or len(self._chunks[-1].data) >= _CHUNK_BYTES:
                if self._chunks and self._chunks[0].noted_s < now_s - self._window_s:
                    del self._chunks[0]
                self._chunks.append(_Chunk(entry))
            self._chunks[-1].add(entry, now_s)

    def keep(self, last_lsn: int) -> None:
        """Bring what was noted up to a number to the disk: before that part of the log goes.

        Some of what was noted after it may go into the same file. Nothing is written where no
        such key counts any more. Files whose window is over are deleted.

        Args:
            last_lsn: Highest number in the part of the log that goes.

        Raises:
            OSError: the disk refuses. Nothing is forgotten; that part of the log must stay.
        """
        since_s = self._clock.monotonic_s() - self._window_s
        with self._lock:
            self._chunks = [chunk for chunk in self._chunks if chunk.noted_s >= since_s]
            due = [chunk for chunk in self._chunks if chunk.lowest_lsn <= last_lsn]
            parts = [bytes(chunk.data) for chunk in due]
        if due:
            path = self._write(last_lsn, b"".join(parts))
            self._files[path] = self._clock.monotonic_s()
            with self._lock:
                self._forget(due, parts)
        self._remove(path for path, seen_s in self._files.items() if seen_s < since_s)

    def load(self) -> list[KeyEntry]:
        """Read all files: at the start of the shard, before anything is noted.

        Returns:
            The entries that still count by the wall clock, file by file.

        Raises:
            OSError: the disk refuses. A file that is damaged is passed over; see `damaged`.
        """
        since_us = self._clock.now_us() - round(self._window_s * 1e6)
        for path in self._folder.glob(_UNFINISHED):  # of a process that was killed
            path.unlink()
        found: list[KeyEntry] = []
        self.damaged = []
        for path in sorted(self._folder.glob(_FILES)):
            self._files[path] = self._clock.monotonic_s()
            entries = _read(path.read_bytes())
            if entries is None:
                self.damaged.append(path)
                continue
            live = [entry for entry in entries if entry.arrival_us >= since_us]
            found += live
            if not live:
                self._remove([path])
        return found

    def _forget(self, chunks: Sequence[_Chunk], parts: Sequence[bytes]) -> None:
        """Drop what is written; the last chunk may have got more in the meantime."""
        for chunk, part in zip(chunks, parts, strict=True):
            del chunk.data[: len(part)]
        self._chunks = [chunk for chunk in self._chunks if chunk.data]

    def _write(self, last_lsn: int, entries: bytes) -> Path:
        """Make a file, durably, under a name that none had: a file is never replaced."""
        paths = (
            self._folder / f"keys-{last_lsn:019d}-{number:03d}.bin" for number in itertools.count()
        )
        path = next(path for path in paths if not os.path.lexists(path))
        temporary = path.with_suffix(".new")
        try:
            replace_file(path, _HEADER.pack(_MAGIC, zlib.crc32(entries)) + entries, temporary)
        except BaseException:
            for name in (temporary, path):
                with contextlib.suppress(OSError):
                    name.unlink()
            raise
        return path

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink(missing_ok=True)
            del self._files[path]


def _read(data: bytes) -> list[KeyEntry] | None:
    """The entries of a file; None when it is damaged."""
    if len(data) < _HEADER.size:
        return None
    magic, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC or crc != zlib.crc32(data[_HEADER.size :]):
        return None
    entries = []
    at = _HEADER.size
    while at < len(data):
        lsn, arrival_us, digest, key_bytes = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size + key_bytes
        entries.append(KeyEntry(lsn, data[at - key_bytes : at], digest, arrival_us))
    return entries
