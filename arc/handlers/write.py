"""`POST /api/v1/write/msgpack` through aiohttp. Reads the body; every rule is the door's."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from arc.metrics import ShardMetrics
from arc.write_door import CLIENT_LEFT, WriteDoor, answer_to, read_head
from ingest.errors import IngestError, TooSlowError


class WriteHandler:
    """Serves one door through aiohttp."""

    def __init__(self, door: WriteDoor, metrics: ShardMetrics, body_timeout_s: float) -> None:
        self._door = door
        self._metrics = metrics
        self._body_timeout_s = body_timeout_s
        self._headers = {"x-arc-durability": door.durability}

    async def write(self, request: web.Request) -> web.Response:
        """Answer one request."""
        started_s = time.monotonic()
        parts: list[bytes] = []  # of the body, as they come
        try:
            await self._store(request, parts)
        except IngestError as error:
            response = self._refuse(error, sum(map(len, parts)))
        except ConnectionError:
            self._metrics.count_rejection("msgpack", "disconnected")
            self._metrics.count_request("msgpack", CLIENT_LEFT, time.monotonic() - started_s)
            raise
        else:
            response = web.Response(status=204, headers=self._headers)
        self._metrics.count_request("msgpack", response.status, time.monotonic() - started_s)
        return response

    async def _store(self, request: web.Request, parts: list[bytes]) -> None:
        length = request.content_length
        admitted = [] if length is None else [length]
        for num_bytes in admitted:
            self._door.admit(num_bytes)
        try:
            headers, query = request.headers, request.query
            head = read_head(
                headers.get("x-arc-database") or query.get("db") or query.get("bucket"),
                headers.get("content-encoding"),
                headers.get("x-arc-time-unit"),
                _key(headers.get("idempotency-key")),
            )
            await self._read(request, parts, admitted)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._metrics.bytes_received.inc(len(body))
            stored = self._door.store(head, body)
            if not isinstance(stored, int):
                # A client that leaves cancels this handler, and must not cancel the storing.
                await asyncio.shield(stored)
        finally:
            self._door.release(sum(admitted))

    async def _read(self, request: web.Request, parts: list[bytes], admitted: list[int]) -> None:
        """Read the body; without a length in its head, what comes is admitted as it comes."""
        unknown_length = not admitted
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while part := await request.content.readany():
                    parts.append(part)
                    if unknown_length:
                        self._door.admit(len(part), sum(admitted))
                        admitted.append(len(part))
        except TimeoutError:
            raise TooSlowError("the body of the request did not arrive in time") from None

    async def expect(self, request: web.Request) -> web.Response | None:
        """Answer `Expect: 100-continue`: invite the body, or refuse it before it is sent."""
        length = request.content_length or 0
        try:
            self._door.admit(length)
        except IngestError as error:
            response = self._refuse(error, 0)
            self._metrics.count_request("msgpack", response.status, 0.0)
            response.force_close()
            return response
        self._door.release(length)  # `write` takes it again
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _refuse(self, error: IngestError, num_bytes: int) -> web.Response:
        answer = answer_to(error)
        self._metrics.count_rejection("msgpack", answer.reason, num_bytes, error.num_rows)
        headers = dict(self._headers)
        if answer.retry_after_s is not None:
            headers["Retry-After"] = str(answer.retry_after_s)
        response = web.Response(
            status=answer.status,
            body=answer.body,
            content_type="application/json",
            headers=headers,
        )
        if isinstance(error, TooSlowError):
            response.force_close()
        return response


def _key(text: str | None) -> bytes | None:
    # As aiohttp decoded it, back to the bytes that came.
    return None if text is None else text.encode("utf-8", "surrogateescape")
