"""How the daemon asks its query process: answers, refusals, and a process that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from arc.json_answer import json_answer
from arc.query_client import QueryClient
from ingest.errors import OverloadedError, TooLargeError
from ingest.query.errors import QueryError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LIMIT_BYTES = 1_000


def asked(where: Path, handler: Handler, path: str = "/api/v1/query/arrow") -> Any:
    """One question to a server on a socket; "arrow" as it is, else rows."""

    async def run() -> Any:
        app = web.Application()
        app.router.add_post(path, handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        client = QueryClient(where / "s", LIMIT_BYTES)
        try:
            await web.UnixSite(runner, str(where / "s")).start()
            if path.endswith("arrow"):
                return await client.arrow("SELECT 1", "db")
            return await client.rows("SELECT 1", "db")
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(run())


def answering(status: int, body: bytes) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        assert msgspec.json.decode(await request.read()) == {"sql": "SELECT 1"}
        assert request.headers["x-arc-database"] == "db"
        return web.Response(status=status, body=body)

    return answer


def test_an_answer_comes_as_bytes_or_as_rows(tmp_path: Path) -> None:
    assert asked(tmp_path, answering(200, b"x" * LIMIT_BYTES)) == b"x" * LIMIT_BYTES
    body = b'{"columns": ["a"], "data": [[1]]}'
    assert asked(tmp_path, answering(200, body), "/api/v1/query") == [[1]]


def test_an_answer_over_the_limit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TooLargeError, match=r"the result of the query.*ARC_MAX_BODY_BYTES"):
        asked(tmp_path, answering(200, b"x" * (LIMIT_BYTES + 1)))


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, b'{"error": "Binder Error: no"}', QueryError, "Binder Error: no"),
        (503, b'{"error": "come back later"}', OverloadedError, "come back later"),
        (500, b"\xff", QueryError, "the query process answered 500"),
    ],
)
def test_a_refusal_has_the_words_of_the_query_process(
    tmp_path: Path, status: int, body: bytes, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        asked(tmp_path, answering(status, body))


def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(QueryError, match="the answer broke off"):
        asked(tmp_path, half)


def test_a_process_that_is_not_there_or_leaves_can_be_asked_later(tmp_path: Path) -> None:
    async def gone(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return json_answer({})

    with pytest.raises(OverloadedError, match="ARC_QUERY_CONCURRENCY"):
        asked(tmp_path, gone)

    async def nobody() -> None:
        client = QueryClient(tmp_path / "nothing", LIMIT_BYTES)
        try:
            await client.arrow("SELECT 1", "db")
        finally:
            await client.close()

    with pytest.raises(OverloadedError, match="the query process is not there"):
        asyncio.run(nobody())
