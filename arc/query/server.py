"""SQL over HTTP: the answers of the query process, on whatever socket it listens on.

    POST /api/v1/query                 JSON: columns, and rows as arrays
    POST /api/v1/query/msgpack         the same as MessagePack
    POST /api/v1/query/arrow           Arrow IPC stream, sent while the query runs
    POST /api/v1/query/estimate        how many rows the query has
    GET  /api/v1/query/{measurement}   JSON: the newest rows of one measurement

What a request says is read by `arc.query.asks`. A refusal is `{"success": false, "error": …}`
with a status of 400 or more. Nothing here runs SQL: that is `ingest.query`, on the threads of
`arc.query.runner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.typing import FilteringBoundLogger

from arc.json_answer import JSON, json_answer
from arc.metrics_table import ANSWERS
from arc.query.asks import DEFAULT_DATABASE, Ask, read_measurement, read_posted
from arc.query.counts import QueryMetrics
from arc.query.encoding import IDENTITY
from arc.query.pieces import Collected, Streamed
from arc.query.runner import Runner
from ingest.errors import ClientError, IngestError, OverloadedError
from ingest.query.engine import Engine
from ingest.query.errors import QueryCancelledError, QueryLimitError

PATH = "/api/v1/query"
PATHS = (PATH, f"{PATH}/msgpack", f"{PATH}/arrow", f"{PATH}/estimate")
MEASUREMENT_PATH = PATH + "/{measurement}"

MSGPACK = "application/msgpack"
ARROW = "application/vnd.apache.arrow.stream"

#: From how many rows on an estimate warns, from the strongest down.
WARNING_ROWS = ((10_000_000, "high"), (1_000_000, "medium"), (100_000, "low"))

#: Share of a query's time that an estimate counts for, before it falls back on statistics.
_COUNTING = 6

#: Where a request keeps what it counts as, for the middleware.
_COUNTS_AS = "counts_as"

#: What is counted for a client that went away.
CLIENT_LEFT = 499

Answer = Callable[[web.Request, Ask], Awaitable[web.StreamResponse]]


class QueryServer:
    """Answers queries.

    Args:
        runner: Has the places.
        metrics: Counts what is answered.
        max_rows: Of an answer in JSON or MessagePack.
        stall_s: How long a client may leave an answer unread.
        log: Told of defects.
    """

    def __init__(
        self,
        runner: Runner,
        metrics: QueryMetrics,
        max_rows: int,
        stall_s: float,
        log: FilteringBoundLogger,
    ) -> None:
        self._runner = runner
        self._metrics = metrics
        self._max_rows = max_rows
        self._stall_s = stall_s
        self._log = log

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[_counted(self._metrics), _errors_as_json(self._log)])
        answers = (self._json, self._msgpack, self._arrow, self._estimate)
        for path, name, answer in zip(PATHS, ANSWERS, answers, strict=False):
            app.router.add_post(path, _posted(name, answer))
        app.router.add_get(MEASUREMENT_PATH, self._measurement, allow_head=False)
        return app

    # --- answers -------------------------------------------------------------------------------

    async def _measurement(self, request: web.Request) -> web.StreamResponse:
        request[_COUNTS_AS] = "measurement"
        return await self._json(request, read_measurement(request, self._max_rows))

    async def _json(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        return await self._rows(request, ask, is_json=True)

    async def _msgpack(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        return await self._rows(request, ask, is_json=False)

    async def _rows(self, request: web.Request, ask: Ask, is_json: bool) -> web.StreamResponse:
        """All rows at once: a query that fails in its last one is a failed query."""
        async with self._runner.place(ask.sql, ask.database) as run:
            found = Collected(run.query, ask, is_json, self._max_rows)
            await run.step(found.run)
        response = _response(JSON if is_json else MSGPACK, found.coding)
        response.content_length = sum(map(len, found.pieces))
        await response.prepare(request)
        for piece in found.pieces:
            await self._send(response, piece)
        await response.write_eof()
        self._metrics.rows.inc(found.num_rows)
        return response

    async def _arrow(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        """Batch by batch: one is computed while the one before it is sent, and no more."""
        async with self._runner.place(ask.sql, ask.database) as run:
            stream = Streamed(run.query, ask.coding)
            piece: bytes | memoryview | None = await run.step(stream.begin)
            upcoming = asyncio.ensure_future(run.step(stream.next))
            response = _response(ARROW, ask.coding)
            try:
                first = await upcoming  # most of what can fail has failed by now
                await response.prepare(request)
                await self._send(response, piece)
                while first is not None:
                    piece, upcoming = first, asyncio.ensure_future(run.step(stream.next))
                    await self._send(response, piece)
                    first = await upcoming
            except BaseException:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
                if response.prepared:
                    _cut_off(request)
                raise
        await self._send(response, stream.end())
        await response.write_eof()
        self._metrics.rows.inc(stream.num_rows)
        return response

    async def _estimate(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        try:
            rows, is_exact = await self._count(ask)
        except ClientError as error:
            return _refusal(error, {"warning_level": "error", "warning_message": str(error)})
        level = next((level for least, level in WARNING_ROWS if rows >= least), "none")
        content = {
            "success": True,
            "estimated_rows": rows,
            "warning_level": level,
            "warning_message": _warning(rows, level, is_exact),
            "execution_time_ms": round((time.monotonic() - ask.started_s) * 1000, 3),
        }
        return json_answer(content)

    async def _count(self, ask: Ask) -> tuple[int, bool]:
        """The rows of a query, and whether they were counted."""
        try:
            async with self._runner.place(ask.sql, ask.database) as run:
                run.limit(1 / _COUNTING)
                return await run.step(run.query.count), True
        except QueryLimitError:
            async with self._runner.place(ask.sql, ask.database) as run:
                return await run.step(run.query.stored_rows), False

    async def _send(self, response: web.StreamResponse, piece: bytes | memoryview | None) -> None:
        """Write, and wait until the client has taken enough of it.

        Raises:
            ConnectionError: it is gone, or takes nothing.
        """
        if not piece:
            return
        try:
            async with asyncio.timeout(self._stall_s):
                await response.write(piece)
            self._metrics.sent_bytes.inc(len(piece))
        except TimeoutError:
            raise ConnectionResetError("the client does not read its answer") from None


def warm(engine: Engine) -> None:
    """Run what the first client would otherwise wait 0.2 s for: libraries load parts when used."""
    sql = "SELECT 1, 0.5::DOUBLE, 'a', now(), NULL::BIGINT"
    ask = Ask(sql, DEFAULT_DATABASE, IDENTITY, time.monotonic())
    with contextlib.closing(engine.query(sql, DEFAULT_DATABASE)) as query:
        Collected(query, ask, is_json=True, max_rows=1).run()


# --- requests and refusals -----------------------------------------------------------------------


def _posted(name: str, answer: Answer) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[_COUNTS_AS] = name
        return await answer(request, await read_posted(request))

    return handle


def _response(content_type: str, coding: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Vary": "Accept-Encoding"})
    response.content_type = content_type
    if coding != IDENTITY:
        response.headers["Content-Encoding"] = coding
    return response


def _counted(metrics: QueryMetrics) -> Middleware:
    """Count what is a query, however it ends."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s, status = time.monotonic(), CLIENT_LEFT
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            # One that is cancelled has lost its client.
            if (name := request.get(_COUNTS_AS)) is not None:
                metrics.count(name, status, time.monotonic() - started_s)

    return count


def _errors_as_json(log: FilteringBoundLogger) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _json_error(error.status, f"{request.method} {request.path}: {error.reason}")
        except (ConnectionError, QueryCancelledError) as error:
            log.debug("query_client_gone", error=str(error))
            _cut_off(request)
            return web.Response(status=CLIENT_LEFT)
        except (ClientError, OverloadedError) as error:
            return _refusal(error, {})
        except Exception:
            log.exception("query_failed", path=request.path)
            return _json_error(500, "internal error; the daemon's log has it")

    return answer


def _refusal(error: IngestError, more: dict[str, Any]) -> web.Response:
    response = _json_error(error.status_hint, str(error), more)
    if isinstance(error, OverloadedError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _json_error(status: int, message: str, more: dict[str, Any] | None = None) -> web.Response:
    content = {"success": False, "error": message} | (more or {})
    return json_answer(content, status)


def _cut_off(request: web.Request) -> None:
    """End a connection so that its client sees that the answer is not whole."""
    if request.transport is not None:
        request.transport.abort()


def _warning(rows: int, level: str, is_exact: bool) -> str | None:
    if not is_exact:
        return (
            f"counting took too long; the tables that the query names have {rows} stored rows, "
            "and a join may return more"
        )
    if level == "none":
        return None
    advice = "bound the time or add a LIMIT"
    return f"the query returns {rows} rows: {advice}, or ask {PATH}/arrow"
