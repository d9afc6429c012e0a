"""A request to a write door that aiohttp serves: its body within limits, its answer counted.

In: a request whose head is known. Out: the answer that a subclass makes of its body, or of what
is wrong with it. The memory budget holds the bytes of a body from before it is read until it is
answered. Decodes nothing.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

from aiohttp import web

from arc.json_answer import json_error
from arc.metrics import ShardMetrics
from arc.write_door import CLIENT_LEFT, WriteDoor
from ingest.errors import IngestError, OverloadedError, TooSlowError


class Body:
    """The body of one request. `release` must follow, whatever happens.

    Attributes:
        num_bytes: That have been read.
    """

    def __init__(self, request: web.Request, door: WriteDoor, metrics: ShardMetrics) -> None:
        self._request = request
        self._door = door
        self._metrics = metrics
        self._admitted_bytes = 0
        self.num_bytes = 0

    def admit(self) -> None:
        """Take the room for a body that says how long it is.

        Raises:
            TooLargeError: over the limit of one body.
            OverloadedError: no room now, or the daemon stops.
        """
        length = self._request.content_length
        if length is not None:
            self._take(length)

    async def read(self, timeout_s: float) -> bytes:
        """Read the body; without a length in its head, what comes is admitted as it comes.

        Raises:
            TooSlowError: it did not come in time.
            TooLargeError, OverloadedError: as `admit`.
        """
        unknown_length = self._request.content_length is None
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(timeout_s):
                while part := await self._request.content.readany():
                    parts.append(part)
                    self.num_bytes += len(part)
                    if unknown_length:
                        self._take(len(part))
        except TimeoutError:
            raise TooSlowError("the body of the request did not arrive in time") from None
        self._metrics.bytes_received.inc(self.num_bytes)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, num_bytes: int) -> None:
        self._door.admit(num_bytes, self._admitted_bytes)
        self._admitted_bytes += num_bytes

    def release(self) -> None:
        """Give the memory back."""
        self._door.release(self._admitted_bytes)
        self._admitted_bytes = 0


class AiohttpHead:
    """Headers and query of a request; see `arc.write_routes.RequestHead`."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def header(self, name: bytes) -> str | None:
        """The value of a header; None when absent."""
        return self._request.headers.get(name.decode())

    def query(self, name: bytes) -> str | None:
        """The first value of a parameter of the query; None when absent."""
        return self._request.query.get(name.decode())


async def expect(request: web.Request) -> web.Response | None:
    """Answer the header Expect of a request: invite its body, or refuse what is no 100-continue.

    In place of aiohttp's own, which repeats the value, and fails where that is no text.
    """
    if request.headers["Expect"].lower() != "100-continue":
        return json_error(417, "header Expect: wanted 100-continue")
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


class DoorHandler(ABC):
    """Serves one write door through aiohttp.

    Args:
        name: What `/metrics` counts it under.
        door: The rules of a write.
        metrics: Told of every request.
        body_timeout_s: How long a body may take to come.
    """

    def __init__(
        self, name: str, door: WriteDoor, metrics: ShardMetrics, body_timeout_s: float
    ) -> None:
        self.door = door
        self._name = name
        self._metrics = metrics
        self._body_timeout_s = body_timeout_s
        self._headers = {"x-arc-durability": door.durability}

    @abstractmethod
    async def store(self, request: web.Request, body: Body) -> web.Response:
        """Read the body, admitted already, store it and say so; or raise an `IngestError`."""

    @abstractmethod
    def refusal(self, request: web.Request, error: IngestError) -> web.Response:
        """The answer to a request that was not stored, without the headers of all answers."""

    async def write(self, request: web.Request) -> web.Response:
        """Answer one request."""
        started_s = time.monotonic()
        body = Body(request, self.door, self._metrics)
        try:
            body.admit()
            response = await self.store(request, body)
        except IngestError as error:
            response = self._refuse(request, error, body.num_bytes)
        except ConnectionError:
            self._metrics.count_rejection(self._name, "disconnected")
            self._count(CLIENT_LEFT, started_s)
            raise
        finally:
            body.release()
        response.headers.update(self._headers)
        self._count(response.status, started_s)
        return response

    async def read(self, body: Body) -> bytes:
        """The whole body, in the time that it has."""
        return await body.read(self._body_timeout_s)

    async def expect(self, request: web.Request) -> web.Response | None:
        """Answer `Expect: 100-continue`: invite the body, or refuse it before it is sent."""
        body = Body(request, self.door, self._metrics)
        try:
            body.admit()
        except IngestError as error:
            response = self._refuse(request, error, 0)
            response.headers.update(self._headers)
            self._metrics.count_request(self._name, response.status, 0.0)
            response.force_close()
            return response
        body.release()  # `write` takes it again
        return await expect(request)

    def _count(self, status: int, started_s: float) -> None:
        self._metrics.count_request(self._name, status, time.monotonic() - started_s)

    def _refuse(self, request: web.Request, error: IngestError, num_bytes: int) -> web.Response:
        self._metrics.count_rejection(self._name, error.reason, num_bytes, error.num_rows)
        response = self.refusal(request, error)
        if isinstance(error, OverloadedError):
            response.headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, TooSlowError):
            response.force_close()
        return response
