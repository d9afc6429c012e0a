"""What a write request means, whichever HTTP server read it.

In: the parts of a request that matter (`WriteHead`) and its body. Out: rows that the pipeline
has, at the level of durability that it runs at, or an error that says what to answer. Knows
headers and status codes, but no server, so that the fast door and aiohttp share every rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from arc.metrics import ShardMetrics
from ingest.columns import ColumnBatch
from ingest.decompress import decompress
from ingest.errors import (
    IngestError,
    OverloadedError,
    PayloadError,
    StorageError,
    TooLargeError,
)
from ingest.idempotency import body_digest
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.paths import check_database
from ingest.pipeline import Pipeline
from ingest.timestamps import TimeUnit

_T = TypeVar("_T")

DEFAULT_DATABASE = "default"

MAX_KEY_BYTES = 64

#: Counted, and never sent: the client left before it was answered. nginx has the same word.
CLIENT_LEFT = 499

#: Bodies above this many bytes are decompressed and decoded in a thread: the kernels and the
#: codecs run without the interpreter's lock, and no request holds the loop for long. It costs 6 %
#: more CPU than on the loop (docs/profiling/2026-11-20-decode-threads.md).
INLINE_BYTES = 512 * 2**10


class WriteHead(msgspec.Struct, frozen=True, gc=False):
    """What the headers and the query of a write say.

    Attributes:
        database: Where the rows go.
        content_encoding: As sent, empty when absent.
        time_unit: Of the time columns; None: told from the values.
        key: Header Idempotency-Key, 1 to 64 bytes; empty when absent.
    """

    database: str
    content_encoding: str
    time_unit: TimeUnit | None
    key: bytes = b""


def read_head(
    database: str | None, content_encoding: str | None, unit: str | None, key: bytes | None = None
) -> WriteHead:
    """Check what a request says about its body.

    Args:
        database: Header x-arc-database, or the query parameter in its place; None or empty:
            the default one.
        content_encoding: Header, None when absent.
        unit: Header x-arc-time-unit, None when absent.
        key: Header Idempotency-Key, None when absent.

    Raises:
        PayloadError: a unit that is none, or a key that is empty or too long.
        InvalidNameError: a database name that cannot be stored.
    """
    if database:
        check_database(database)
    return WriteHead(
        database or DEFAULT_DATABASE,
        content_encoding or "",
        None if unit is None else _time_unit(unit),
        b"" if key is None else _key(key),
    )


def _key(key: bytes) -> bytes:
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise PayloadError(f"header Idempotency-Key: {len(key)} bytes, wanted 1 to {MAX_KEY_BYTES}")
    return key


def _time_unit(text: str) -> TimeUnit:
    try:
        return TimeUnit(text)
    except ValueError:
        wanted = ", ".join(TimeUnit)
        raise PayloadError(
            f"header x-arc-time-unit: found {text!r}, wanted one of {wanted}"
        ) from None


class Answer(msgspec.Struct, frozen=True):
    """What to send for an error.

    Attributes:
        status: HTTP status.
        reason: The word that `/metrics` counts it under.
        body: JSON, an object with the key `error`.
        retry_after_s: For the header Retry-After; None: no such header.
    """

    status: int
    reason: str
    body: bytes
    retry_after_s: int | None


def answer_to(error: IngestError) -> Answer:
    """Turn an error of the pipeline into what its client is told."""
    retry_after_s = error.retry_after_s if isinstance(error, OverloadedError) else None
    body = msgspec.json.encode({"error": str(error)})
    return Answer(error.status_hint, error.reason, body, retry_after_s)


class WriteDoor:
    """The way of a columnar MessagePack body into one shard.

    Attributes:
        durability: What a 204 of this door stands for.
        stopping: Set when the process drains: every further request is told 503.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: ShardMetrics,
        max_body_bytes: int,
        max_decompressed_bytes: int,
        durability: str,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._max_decompressed_bytes = max_decompressed_bytes
        self._threads = ThreadPoolExecutor(1, "arc-decode")
        self.durability = durability
        self.stopping = False

    @property
    def limits(self) -> Limits:
        """What one request may ask."""
        return self._pipeline.limits

    def admit(self, num_bytes: int, so_far: int = 0) -> None:
        """Take the room for a body, or for more of one, before it is read.

        Args:
            num_bytes: To be read next.
            so_far: Bytes of the same body that were admitted before.

        Raises:
            TooLargeError: over the limit of one body.
            OverloadedError: no room now, or the daemon stops.
        """
        if self.stopping:
            raise OverloadedError("the daemon is stopping")
        if so_far + num_bytes > self._max_body_bytes:
            raise TooLargeError("the body", self._max_body_bytes, "ARC_MAX_BODY_BYTES")
        self._pipeline.admit(num_bytes)
        self._metrics.bytes_in_flight.add(num_bytes)

    def release(self, num_bytes: int) -> None:
        """Give back what `admit` took."""
        self._pipeline.budget.give_back(num_bytes)
        self._metrics.bytes_in_flight.add(-num_bytes)

    def store(self, head: WriteHead, body: bytes) -> int | asyncio.Future[int]:
        """Store the rows of an admitted body: at once if nothing has to be waited for.

        Returns:
            How many rows were accepted. Or what to await for that number: the log, and for a few
            a thread or a change of their table; it fails as this does. It goes on when nobody
            waits any more, so it must not be cancelled.

        Raises:
            IngestError: what `answer_to` turns into an answer. No row was accepted.
        """
        if head.key:
            return asyncio.ensure_future(self._store_once(head, body))
        if len(body) > INLINE_BYTES:
            return asyncio.ensure_future(self._decode_and_write(head, body, b""))
        return self._write(head, body, *self._decode(head, body))

    async def _store_once(self, head: WriteHead, body: bytes) -> int:
        """Store a body unless its key was stored before. Of a repetition, no row is accepted."""
        keys = self._pipeline.keys
        digest = await self._run(body, body_digest, head.database, head.time_unit, body)
        if not keys.begin(head.key, digest):
            self._metrics.pipeline.keys_repeated.inc()
            return 0
        try:
            return await self._decode_and_write(head, body, digest)
        except Exception:  # also of a defect: nothing of the request was kept
            with suppress(StorageError):  # it is made up for with the next key
                keys.abandon(head.key)
            raise

    async def _decode_and_write(self, head: WriteHead, body: bytes, digest: bytes) -> int:
        decoded = await self._run(body, self._decode, head, body)
        stored = self._write(head, body, *decoded, digest)
        return stored if isinstance(stored, int) else await stored

    async def _run(self, body: bytes, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what takes time by the size of a body: in a thread if that is large."""
        if len(body) <= INLINE_BYTES:
            return work(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)

    def _write(
        self,
        head: WriteHead,
        body: bytes,
        arrival_us: int,
        batches: Sequence[ColumnBatch],
        digest: bytes = b"",
    ) -> int | asyncio.Future[int]:
        record = RecordHead(Format.MSGPACK, head.database, head.time_unit, arrival_us, head.key)
        try:
            stored = self._pipeline.write(record, body, batches, digest)
        except IngestError as error:
            error.num_rows = _num_rows(batches)
            raise
        if isinstance(stored, int):
            self._metrics.bytes_accepted.inc(len(body))
        else:
            stored.add_done_callback(partial(self._count, len(body), batches))
        return stored

    def _count(
        self, num_bytes: int, batches: Sequence[ColumnBatch], stored: asyncio.Future[int]
    ) -> None:
        """What became of a body that waited; before anybody else hears of it."""
        error = stored.exception()
        if error is None:
            self._metrics.bytes_accepted.inc(num_bytes)
        elif isinstance(error, IngestError):
            error.num_rows = _num_rows(batches)

    def _decode(self, head: WriteHead, body: bytes) -> tuple[int, list[ColumnBatch]]:
        """When the body arrived, microseconds, and what is in it."""
        clock = self._pipeline.clock
        started_s = clock.monotonic_s()
        if not body:
            raise PayloadError("the body is empty")
        arrival_us = clock.now_us()
        body = decompress(body, head.content_encoding, self._max_decompressed_bytes)
        batches = decode(body, arrival_us, self.limits, head.time_unit)
        self._metrics.bytes_decoded.inc(len(body))
        self._metrics.pipeline.decode_seconds.observe(clock.monotonic_s() - started_s)
        return arrival_us, batches

    def close(self) -> None:
        """End the decode thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _num_rows(batches: Sequence[ColumnBatch]) -> int:
    return sum([batch.num_rows for batch in batches])
