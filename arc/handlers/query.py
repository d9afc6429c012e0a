"""SQL: passes requests on to the query process, and its answers back. Looks into neither.

`POST /api/v1/query` and what is below it, and `GET /api/v1/query/{measurement}`. Each worker has
connections of its own to the process, over a Unix socket. An answer is sent on while it arrives,
no faster than the client takes it. A client that goes away ends the request to the process as
well, which then ends the query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from arc.json_answer import json_answer
from arc.query.socket_path import SocketPath, SocketPathError

#: What the query process answers; the same as in `arc.query.server`.
PATHS = (
    "/api/v1/query",
    "/api/v1/query/msgpack",
    "/api/v1/query/arrow",
    "/api/v1/query/estimate",
)
MEASUREMENT_PATH = "/api/v1/query/{measurement}"

#: Largest request, as the query process has it, too.
MAX_SQL_BYTES = 2**20

#: Headers that are passed on, and those of the answer that are passed back. None of them is
#: about one connection.
_FORWARDED = ("Content-Type", "Content-Encoding", "x-arc-database", "Accept", "Accept-Encoding")
_RETURNED = ("Content-Type", "Content-Length", "Content-Encoding", "Vary", "Retry-After")

#: How long a client may take to send its SQL.
_BODY_TIMEOUT_S = 60.0

#: What is read ahead of a client: one batch of rows is some 3 MB.
_READ_AHEAD_BYTES = 2**20

#: How soon a client is noticed to be gone while its query runs.
_LOOK_EVERY_S = 0.25

_NOT_THERE = "the query process is starting or being restarted: come back soon"


class QueryHandlers:
    """Passes queries on.

    Args:
        socket: Of the query process, which need not be there.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._name: SocketPath | None = None
        self._session: aiohttp.ClientSession | None = None

    def add_routes(
        self,
        app: web.Application,
        expect: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None,
    ) -> None:
        """Answer the paths of queries; the connections end with the application.

        Args:
            app: Of a worker.
            expect: Answers the header Expect; None: aiohttp does.
        """
        for path in PATHS:
            app.router.add_post(path, self.query, expect_handler=expect)
        app.router.add_get(MEASUREMENT_PATH, self.query, expect_handler=expect, allow_head=False)
        app.on_cleanup.append(self._close)

    async def query(self, request: web.Request) -> web.StreamResponse:
        """A query: what the query process says, or 503 when it is not there."""
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await _read(request)
        except TimeoutError:
            return _refusal(408, "the body of the query did not arrive in time")
        if body is None:
            return _refusal(413, f"the body of a query is over {MAX_SQL_BYTES} bytes")
        asking = asyncio.ensure_future(self._ask(request, body))
        try:
            while not asking.done():
                await asyncio.wait([asking], timeout=_LOOK_EVERY_S)
                if _is_gone(request):
                    break
            else:
                return asking.result()
        finally:
            asking.cancel()
            await asyncio.wait([asking])
        return web.Response(status=499)  # to nobody

    async def _ask(self, request: web.Request, body: bytes) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        try:
            # As it was sent, names escaped and parameters too.
            asking = self._connected().request(
                request.method, request.rel_url, data=body, headers=headers
            )
            async with asking as answer:
                return await _pass_back(request, answer)
        except (aiohttp.ClientConnectorError, OSError, SocketPathError) as error:
            if isinstance(error, ConnectionError) and _is_gone(request):
                raise
            return _refusal(503, _NOT_THERE, retry_after_s=1)
        except aiohttp.ClientError:
            return _refusal(503, "the query process ended: ask again", retry_after_s=1)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._name = SocketPath(self._socket)
            self._session = aiohttp.ClientSession(
                "http://query",
                connector=aiohttp.UnixConnector(self._name.name, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, connect=5.0),
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding",),  # that of the client, or none
                read_bufsize=_READ_AHEAD_BYTES,
            )
        return self._session

    async def _close(self, _: web.Application) -> None:
        if self._session is not None:
            await self._session.close()
        if self._name is not None:
            self._name.close()


async def _read(request: web.Request) -> bytes | None:
    """The body; None when it is too large."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_SQL_BYTES:
            return None
    return bytes(body)


async def _pass_back(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Send an answer on as it comes; if it does not come whole, the client sees that."""
    headers = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    return response


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _refusal(status: int, message: str, retry_after_s: int = 0) -> web.Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return json_answer({"success": False, "error": message}, status, headers)
