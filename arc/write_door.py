"""What a write request means, whichever HTTP server read it.

In: the parts of a request that matter (`WriteHead`) and its body. Out: rows in the pipeline, or
an error that says what to answer. Knows headers and status codes, but no server, so that the
fast door and aiohttp share every rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from arc.body import decompress
from arc.metrics import ShardMetrics
from ingest.columns import ColumnBatch
from ingest.errors import IngestError, OverloadedError, PayloadError, TooLargeError
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.paths import check_database
from ingest.pipeline import Pipeline
from ingest.timestamps import TimeUnit

DEFAULT_DATABASE = "default"
DURABILITY = "memory"

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
    """

    database: str
    content_encoding: str
    time_unit: TimeUnit | None


def read_head(database: str | None, content_encoding: str | None, unit: str | None) -> WriteHead:
    """Check what a request says about its body.

    Args:
        database: Header x-arc-database, or the query parameter in its place; None or empty:
            the default one.
        content_encoding: Header, None when absent.
        unit: Header x-arc-time-unit, None when absent.

    Raises:
        PayloadError: a unit that is none.
        InvalidNameError: a database name that cannot be stored.
    """
    if database:
        check_database(database)
    return WriteHead(
        database or DEFAULT_DATABASE,
        content_encoding or "",
        None if unit is None else _time_unit(unit),
    )


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
        stopping: Set when the process drains: every further request is told 503.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: ShardMetrics,
        max_body_bytes: int,
        max_decompressed_bytes: int,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._max_decompressed_bytes = max_decompressed_bytes
        self._threads = ThreadPoolExecutor(1, "arc-decode")
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

    def store(self, head: WriteHead, body: bytes) -> int | Coroutine[Any, Any, int]:
        """Store the rows of an admitted body: at once if nothing has to be waited for.

        Returns:
            How many rows were accepted. Or, for the few bodies that want a thread or a change of
            their table, what to await for that number; it raises as this does.

        Raises:
            IngestError: what `answer_to` turns into an answer. No row was accepted.
        """
        if len(body) > INLINE_BYTES:
            return self._decode_and_store(head, body)
        batches = self._decode(head, body)
        try:
            rows = self._pipeline.write_at_once(head.database, batches)
        except IngestError as error:
            raise _with_rows(error, batches) from None
        if rows is None:
            return self._store_waiting(head, body, batches)
        self._metrics.bytes_accepted.inc(len(body))
        return rows

    async def _decode_and_store(self, head: WriteHead, body: bytes) -> int:
        loop = asyncio.get_running_loop()
        batches = await loop.run_in_executor(self._threads, self._decode, head, body)
        return await self._store_waiting(head, body, batches)

    async def _store_waiting(self, head: WriteHead, body: bytes, batches: list[ColumnBatch]) -> int:
        try:
            rows = await self._pipeline.write(head.database, batches)
        except IngestError as error:
            raise _with_rows(error, batches) from None
        self._metrics.bytes_accepted.inc(len(body))
        return rows

    def _decode(self, head: WriteHead, body: bytes) -> list[ColumnBatch]:
        clock = self._pipeline.clock
        started_s = clock.monotonic_s()
        if not body:
            raise PayloadError("the body is empty")
        body = decompress(body, head.content_encoding, self._max_decompressed_bytes)
        batches = decode(body, clock.now_us(), self.limits, head.time_unit)
        self._metrics.bytes_decoded.inc(len(body))
        self._metrics.pipeline.decode_seconds.observe(clock.monotonic_s() - started_s)
        return batches

    def close(self) -> None:
        """End the decode thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _with_rows(error: IngestError, batches: list[ColumnBatch]) -> IngestError:
    """Note in a refusal how many rows it is about."""
    error.num_rows = sum(batch.num_rows for batch in batches)
    return error
