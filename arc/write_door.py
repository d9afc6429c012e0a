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
from arc.write_routes import QUARANTINE, REJECT, Route, WriteHead
from ingest.columns import ColumnBatch
from ingest.decoders import Decoded, Parameters, decode, decode_fast, request_digest
from ingest.decompress import decompress
from ingest.errors import (
    ClientError,
    IngestError,
    OverloadedError,
    PayloadError,
    StorageError,
    TooLargeError,
)
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.pipeline import Pipeline
from ingest.quarantine import SiftedBody, is_of_rows, rewrite, sift_body
from ingest.sift import check_measurements
from ingest.timestamps import TimeUnit

_T = TypeVar("_T")

#: Counted, and never sent: the client left before it was answered. nginx has the same word.
CLIENT_LEFT = 499

#: Bodies above this many bytes are decompressed and decoded in a thread: the kernels and the
#: codecs run without the interpreter's lock, and no request holds the loop for long. It costs 6 %
#: more CPU than on the loop (docs/profiling/2026-11-20-decode-threads.md). So is whatever the fast
#: decoders leave to their twins.
INLINE_BYTES = 512 * 2**10

#: The same for bodies that turn out to be longer once they are decompressed. What takes longest, a
#: map of one column of one value at every 12 bytes, takes 0.12 s then.
INLINE_PLAIN_BYTES = 2**20

#: The same for OTLP: an empty link of a span is two bytes, and 1.2 µs.
INLINE_OTLP_BYTES = 128 * 2**10

#: Doors of these formats store what they can and tell how much they could not.
HAVE_PARTIAL_SUCCESS = frozenset(form for form in Format if form.name.startswith("OTLP"))

#: How often the rows of a request are judged anew because a table changed before they were
#: stored: by other requests, each of which can do so once for each of its columns.
SIFT_TRIES = 5

#: Where bodies of a format come in, in the words of `/metrics`.
DOORS = {form: form.name.lower().removesuffix("_json") for form in Format}

#: A message of protobuf that sets nothing is no bytes at all, and a request without a record.
EMPTY_BODIES = frozenset({Format.OTLP_LOGS, Format.OTLP_TRACES, Format.OTLP_METRICS})


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


def answer_to(error: IngestError, route: Route) -> Answer:
    """Turn an error of the pipeline into what its client is told."""
    retry_after_s = error.retry_after_s if isinstance(error, OverloadedError) else None
    status = error.status_hint
    return Answer(status, error.reason, route.error_body(status, str(error)), retry_after_s)


class Stored(msgspec.Struct, frozen=True):
    """What became of a request that was not refused as a whole.

    Attributes:
        num_rows: That were accepted; of a repetition, none.
        num_refused: Records that no table took and that are not in the quarantine either.
        reason: Why the first row was refused that no table took; empty: there was none.
    """

    num_rows: int
    num_refused: int = 0
    reason: str = ""


class WriteDoor:
    """The way of a body, in whatever format, into one shard.

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
        on_bad_rows: str = REJECT,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._max_decompressed_bytes = max_decompressed_bytes
        self._on_bad_rows = on_bad_rows
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
        record = self._record_head(head)
        tries_inline = not head.key and not self._quarantines(head)
        if tries_inline:
            decoded = self._decode_inline(record, head.content_encoding, body)
            if decoded is not None:
                return self._write(record, body, decoded.batches, b"", len(body))
        return asyncio.ensure_future(self._store_slowly(head, record, body, tries_inline))

    def _record_head(self, head: WriteHead) -> RecordHead:
        now_us = self._pipeline.clock.now_us()
        return RecordHead(head.format, head.database, head.time_unit, now_us, head.key, head.params)

    def _quarantines(self, head: WriteHead) -> bool:
        return (head.on_bad_rows or self._on_bad_rows) == QUARANTINE

    async def _store_slowly(
        self, head: WriteHead, record: RecordHead, body: bytes, tried_inline: bool
    ) -> int:
        if tried_inline:  # such a request has no key
            return (await self._store_now(head, record, body, b"", inline=False)).num_rows
        return (await self._store_once(head, record, body)).num_rows

    async def store_partly(self, head: WriteHead, body: bytes) -> Stored:
        """Store the rows of an admitted body, those that can be: OTLP has partial success.

        Only OTLP, and other doors where bad rows are quarantined, ever store a part. Must not be
        cancelled.

        Raises:
            IngestError: as `store`.
        """
        return await self._store_once(head, self._record_head(head), body)

    async def _store_once(self, head: WriteHead, record: RecordHead, body: bytes) -> Stored:
        """Store a body unless its key was stored before. Of a repetition, no row is accepted."""
        if not head.key:
            return await self._store_now(head, record, body, b"")
        keys = self._pipeline.keys
        digest = await self._run(body, request_digest, record, body)
        if not keys.begin(head.key, digest):
            self._metrics.pipeline.keys_repeated.inc()
            return Stored(0)
        try:
            return await self._store_now(head, record, body, digest)
        except Exception:  # also of a defect: nothing of the request was kept
            with suppress(StorageError):  # it is made up for with the next key
                keys.abandon(head.key)
            raise

    async def _store_now(
        self, head: WriteHead, record: RecordHead, body: bytes, digest: bytes, inline: bool = True
    ) -> Stored:
        """Decode and store; `inline`: whether the loop has not yet tried to decode it."""
        quarantines = self._quarantines(head)
        try:
            encoding = head.content_encoding
            decoded = self._decode_inline(record, encoding, body) if inline else None
            if decoded is None:
                decoded = await self._in_thread(self._decode, record, encoding, body)
            if not decoded.refused:
                await self._write_all(record, body, decoded.batches, digest, len(body))
                return Stored(sum(batch.num_rows for batch in decoded.batches))
        except ClientError as error:
            if not (is_of_rows(error) and (quarantines or record.format in HAVE_PARTIAL_SUCCESS)):
                raise
        return await self._store_part(record, body, digest, quarantines)

    async def _write_all(
        self,
        record: RecordHead,
        body: bytes,
        batches: Sequence[ColumnBatch],
        digest: bytes,
        num_bytes: int,
    ) -> None:
        if batches:  # a request of OTLP may have no record
            stored = self._write(record, body, batches, digest, num_bytes)
            if not isinstance(stored, int):
                await stored

    # --- a part of a request -----------------------------------------------------------------

    async def _store_part(
        self, record: RecordHead, body: bytes, digest: bytes, quarantines: bool
    ) -> Stored:
        """Store the rows that tables take, of a request that was refused as a whole.

        Raises:
            IngestError: as `store`; for instance, no row can be told from the others.
        """
        for tries_left in reversed(range(SIFT_TRIES)):
            sifted = await self._in_thread(self._sift, record, body, quarantines)
            kept = sifted if quarantines else SiftedBody(sifted.batches, [])
            try:
                await self._write_rewritten(record, kept, digest, len(body))
                break
            except ClientError:  # somebody else has changed a table meanwhile
                if not tries_left:
                    raise
        metrics = self._metrics
        fate = metrics.bad_rows_quarantined if quarantines else metrics.bad_rows_refused
        fate.inc(sifted.num_refused)
        reason = sifted.refused[0].message if sifted.refused else ""
        return Stored(sifted.num_rows, 0 if quarantines else sifted.num_refused, reason)

    def _sift(self, record: RecordHead, body: bytes, keep_bodies: bool) -> SiftedBody:
        """Judge every row of a body as it came."""
        plain = decompress(body, "", self._max_decompressed_bytes)
        sieve = self._pipeline.sieve(record.database)
        return sift_body(record, plain, self.limits, sieve, keep_bodies)

    async def _write_rewritten(
        self, record: RecordHead, sifted: SiftedBody, digest: bytes, num_bytes: int
    ) -> None:
        """Log and keep what was sifted: so a replay repeats the decision, and not the judgement."""
        if not sifted.batches and not sifted.refused:
            return
        door = DOORS[record.format]
        rewritten = await self._in_thread(rewrite, sifted, door, record.arrival_us)
        params = Parameters(digest=digest).to_bytes()
        head = RecordHead(
            Format.MSGPACK,
            record.database,
            TimeUnit.US,
            record.arrival_us,
            record.key,
            params,
        )
        self._pipeline.budget.take(len(rewritten.body))
        try:
            await self._write_all(head, rewritten.body, rewritten.batches, digest, num_bytes)
        finally:
            self._pipeline.budget.give_back(len(rewritten.body))

    # --- its steps ---------------------------------------------------------------------------

    async def _run(self, body: bytes, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what takes time by the size of a body: in a thread if that is large."""
        if len(body) <= INLINE_BYTES:
            return work(*arguments)
        return await self._in_thread(work, *arguments)

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)

    def _write(
        self,
        record: RecordHead,
        body: bytes,
        batches: Sequence[ColumnBatch],
        digest: bytes,
        num_bytes: int,
    ) -> int | asyncio.Future[int]:
        """Log and keep; the body came as so many bytes."""
        try:
            stored = self._pipeline.write(record, body, batches, digest)
        except IngestError as error:
            error.num_rows = _num_rows(batches)
            raise
        if isinstance(stored, int):
            self._metrics.bytes_accepted.inc(num_bytes)
        else:
            stored.add_done_callback(partial(self._count, num_bytes, batches))
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

    def _decode_inline(
        self, record: RecordHead, content_encoding: str, body: bytes
    ) -> Decoded | None:
        """What is in a body, if that can be told on the loop; None: `_decode` does, in a thread."""
        is_otlp = record.format in HAVE_PARTIAL_SUCCESS
        most_bytes = INLINE_OTLP_BYTES if is_otlp else INLINE_PLAIN_BYTES
        if len(body) > min(INLINE_BYTES, most_bytes) or not body:
            return None
        clock = self._pipeline.clock
        started_s = clock.monotonic_s()
        try:
            limit_bytes = min(most_bytes, self._max_decompressed_bytes)
            plain = decompress(body, content_encoding, limit_bytes)
        except TooLargeError:
            return None
        decoded = decode_fast(record, plain, self.limits)
        if decoded is not None:
            self._decoded(decoded, plain, started_s)
        return decoded

    def _decode(self, record: RecordHead, content_encoding: str, body: bytes) -> Decoded:
        """What is in a body as it came, however long it takes to tell."""
        started_s = self._pipeline.clock.monotonic_s()
        if not body and record.format not in EMPTY_BODIES:
            raise PayloadError("the body is empty")
        plain = decompress(body, content_encoding, self._max_decompressed_bytes)
        decoded = decode(record, plain, self.limits)
        self._decoded(decoded, plain, started_s)
        return decoded

    def _decoded(self, decoded: Decoded, plain: bytes, started_s: float) -> None:
        check_measurements(decoded.batches)
        self._metrics.bytes_decoded.inc(len(plain))
        seconds = self._pipeline.clock.monotonic_s() - started_s
        self._metrics.pipeline.decode_seconds.observe(seconds)

    def close(self) -> None:
        """End the decode thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _num_rows(batches: Sequence[ColumnBatch]) -> int:
    return sum([batch.num_rows for batch in batches])
