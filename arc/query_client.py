"""SQL for the daemon itself: asks the query process over its Unix socket, as its clients do.

In: one SELECT. Out: an Arrow IPC stream, whole and within a limit, or the rows of a JSON answer.
The answer has what was acknowledged and is not in a file yet, as for anybody. Runs no SQL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from arc.query.socket_path import SocketPath, SocketPathError
from ingest.errors import OverloadedError, TooLargeError
from ingest.query.errors import QueryError

_PATH = "/api/v1/query"

_CONNECT_S = 5.0
_RETRY_AFTER_S = 1


class QueryClient:
    """Asks the query process. Made anywhere, used on one event loop.

    Args:
        socket: Of the query process, which need not be there.
        max_bytes: Of an answer.
    """

    def __init__(self, socket: Path, max_bytes: int) -> None:
        self._socket = socket
        self._max_bytes = max_bytes
        self._name: SocketPath | None = None
        self._session: aiohttp.ClientSession | None = None

    async def arrow(self, sql: str, database: str) -> bytes:
        """The answer to a query as an Arrow IPC stream.

        Raises:
            QueryError: the SQL is not allowed, or fails; with the words of the query process.
            TooLargeError: the answer is over the limit.
            OverloadedError: the query process is not there, or takes no query now.
        """
        return await self._ask(f"{_PATH}/arrow", sql, database)

    async def rows(self, sql: str, database: str) -> list[list[Any]]:
        """The rows of an answer.

        Raises:
            QueryError, TooLargeError, OverloadedError: as `arrow`.
        """
        answer = msgspec.json.decode(await self._ask(_PATH, sql, database))
        rows: list[list[Any]] = answer["data"]
        return rows

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()
        if self._name is not None:
            self._name.close()

    async def _ask(self, path: str, sql: str, database: str) -> bytes:
        body = msgspec.json.encode({"sql": sql})
        headers = {"Content-Type": "application/json", "x-arc-database": database}
        try:
            session = self._connected()
            async with session.post(path, data=body, headers=headers) as answer:
                return await self._read(answer)
        except (aiohttp.ClientConnectorError, OSError, SocketPathError):
            raise _not_there() from None
        except aiohttp.ClientPayloadError:
            raise QueryError(
                "the answer broke off: the query failed late, or the query process ended"
            ) from None
        except (aiohttp.ClientError, TimeoutError):
            raise _not_there() from None

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._max_bytes:
                raise TooLargeError(
                    "the result of the query", self._max_bytes, "ARC_MAX_BODY_BYTES"
                )
        if answer.status == 200:
            return bytes(body)
        words = _words(bytes(body), answer.status)
        raise OverloadedError(words, _RETRY_AFTER_S) if answer.status == 503 else QueryError(words)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._name = SocketPath(self._socket)
            self._session = aiohttp.ClientSession(
                "http://query",
                connector=aiohttp.UnixConnector(self._name.name),
                timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_S),
                skip_auto_headers=("Accept-Encoding",),  # it is the same machine
            )
        return self._session


def _not_there() -> OverloadedError:
    return OverloadedError(
        "the query process is not there: it is starting, or ARC_QUERY_CONCURRENCY is 0",
        _RETRY_AFTER_S,
    )


def _words(body: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, object])["error"])
    except (msgspec.DecodeError, KeyError):
        return f"the query process answered {status}"
