"""SQL over HTTP: the answers of the query process, on whatever socket it listens on.

    POST /api/v1/query            JSON: columns, and rows as arrays
    POST /api/v1/query/msgpack    the same as MessagePack
    POST /api/v1/query/arrow      Arrow IPC stream, sent while the query runs
    POST /api/v1/query/estimate   how many rows the query has

The body is JSON, `{"sql": "SELECT …"}`; the header x-arc-database names the database of tables
without one. A refusal is `{"success": false, "error": …}` with a status of 400 or more. Nothing
here runs SQL: that is `ingest.query`, on the threads of `arc.query.runner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.typing import FilteringBoundLogger

from arc.json_answer import JSON, json_answer
from arc.query.runner import Runner
from ingest.errors import ClientError, IngestError, OverloadedError, PayloadError, TooLargeError
from ingest.query.answers import ArrowEncoder, RowEncoder, around_rows
from ingest.query.engine import Engine, Query
from ingest.query.errors import QueryCancelledError, QueryLimitError, ResultTooLargeError

PATH = "/api/v1/query"
PATHS = (PATH, f"{PATH}/msgpack", f"{PATH}/arrow", f"{PATH}/estimate")

MSGPACK = "application/msgpack"
ARROW = "application/vnd.apache.arrow.stream"

DEFAULT_DATABASE = "default"

#: Largest request. People write kilobytes; programs that list values, more.
MAX_SQL_BYTES = 2**20

#: Largest answer in JSON or MessagePack, which is held until it is whole: a fault in the last row
#: must still be a status. 1 M rows of 7 columns take some 120 MB.
MAX_ANSWER_BYTES = 256 * 2**20

#: From how many rows on an estimate warns, from the strongest down.
WARNING_ROWS = ((10_000_000, "high"), (1_000_000, "medium"), (100_000, "low"))

#: Share of a query's time that an estimate counts for, before it falls back on statistics.
_COUNTING = 6

Answer = Callable[[web.Request, "Ask"], Awaitable[web.StreamResponse]]


class _Body(msgspec.Struct):
    """What a client sends. Keys that are not here are ignored."""

    sql: str


class Ask(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        sql: To run.
        database: Of tables without one.
        started_s: When it came, on the monotonic clock.
    """

    sql: str
    database: str
    started_s: float


_BODY = msgspec.json.Decoder(_Body)


class QueryServer:
    """Answers queries.

    Args:
        runner: Has the places.
        max_rows: Of an answer in JSON or MessagePack.
        stall_s: How long a client may leave an answer unread.
        log: Told of defects.
    """

    def __init__(
        self, runner: Runner, max_rows: int, stall_s: float, log: FilteringBoundLogger
    ) -> None:
        self._runner = runner
        self._max_rows = max_rows
        self._stall_s = stall_s
        self._log = log

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[_errors_as_json(self._log)])
        answers = (self._json, self._msgpack, self._arrow, self._estimate)
        for path, answer in zip(PATHS, answers, strict=True):
            app.router.add_post(path, _asked(answer))
        return app

    # --- answers -------------------------------------------------------------------------------

    async def _json(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        return await self._rows(request, ask, is_json=True)

    async def _msgpack(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        return await self._rows(request, ask, is_json=False)

    async def _rows(self, request: web.Request, ask: Ask, is_json: bool) -> web.StreamResponse:
        """All rows at once: a query that fails in its last one is a failed query."""
        async with self._runner.place(ask.sql, ask.database) as run:
            collect = _Collect(run.query, is_json, self._max_rows)
            pieces = await run.step(collect.run)
        seconds = time.monotonic() - ask.started_s
        head, tail = around_rows(collect.columns, collect.num_rows, seconds, is_json)
        pieces = [head, *pieces, tail]
        response = web.StreamResponse()
        response.content_type = JSON if is_json else MSGPACK
        response.content_length = sum(map(len, pieces))
        await response.prepare(request)
        for piece in pieces:
            await self._send(response, piece)
        await response.write_eof()
        return response

    async def _arrow(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        """Batch by batch: one is computed while the one before it is sent, and no more."""
        async with self._runner.place(ask.sql, ask.database) as run:
            stream = _Stream(run.query)
            piece: bytes | memoryview | None = await run.step(stream.begin)
            upcoming = asyncio.ensure_future(run.step(stream.next))
            response = web.StreamResponse()
            response.content_type = ARROW
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
        await self._send(response, stream.end)
        await response.write_eof()
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
        except TimeoutError:
            raise ConnectionResetError("the client does not read its answer") from None


class _Collect:
    """All rows of a query, encoded, on a thread."""

    def __init__(self, query: Query, is_json: bool, max_rows: int) -> None:
        self.columns: list[str] = []
        self.num_rows = 0
        self._query = query
        self._is_json = is_json
        self._max_rows = max_rows
        self._num_bytes = 0

    def run(self) -> list[bytes]:
        query = self._query.start()
        self.columns = query.schema.names
        encoder = RowEncoder(self._is_json)
        pieces: list[bytes] = []
        while (batch := query.next_batch()) is not None:
            self._count_rows(batch.num_rows)
            if batch.num_rows:
                if pieces and self._is_json:
                    pieces.append(b",")
                pieces.append(encoder.encode(batch))
                self._count_bytes(len(pieces[-1]))
        return pieces

    def _count_rows(self, num_rows: int) -> None:
        self.num_rows += num_rows
        if self.num_rows > self._max_rows:
            raise ResultTooLargeError(
                f"the answer has more than {self._max_rows} rows (ARC_QUERY_MAX_ROWS): add a "
                f"LIMIT, or ask {PATH}/arrow, which has no limit"
            )

    def _count_bytes(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > MAX_ANSWER_BYTES:
            raise ResultTooLargeError(
                f"the answer has more than {MAX_ANSWER_BYTES} bytes: add a LIMIT, or ask "
                f"{PATH}/arrow, which has no limit"
            )


class _Stream:
    """A query as the pieces of an Arrow IPC stream, on a thread."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._encoder: ArrowEncoder | None = None

    def begin(self) -> memoryview:
        self._encoder = ArrowEncoder(self._query.start().schema)
        return self._encoder.begin()

    def next(self) -> memoryview | None:
        assert self._encoder is not None
        batch = self._query.next_batch()
        return None if batch is None else self._encoder.encode(batch)

    @property
    def end(self) -> bytes:
        assert self._encoder is not None
        return self._encoder.end()


def warm(engine: Engine) -> None:
    """Run what the first client would otherwise wait 0.2 s for: libraries load parts when used."""
    query = engine.query("SELECT 1, 0.5::DOUBLE, 'a', now(), NULL::BIGINT", DEFAULT_DATABASE)
    with contextlib.closing(query):
        _Collect(query, is_json=True, max_rows=1).run()


# --- requests and refusals -----------------------------------------------------------------------


def _asked(answer: Answer) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer(request, await _read(request))

    return handle


async def _read(request: web.Request) -> Ask:
    """What a request asks for.

    Raises:
        PayloadError: the body is not JSON with a key "sql" that holds text.
        TooLargeError: it is over the limit.
    """
    started_s = time.monotonic()
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_SQL_BYTES:
            raise TooLargeError("the body of a query", MAX_SQL_BYTES, "the largest query")
    try:
        sql = _BODY.decode(body).sql
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PayloadError(f'the body of a query: {error}; wanted {{"sql": "SELECT …"}}') from error
    if not sql.strip():
        raise PayloadError('the body of a query: key "sql" is empty')
    database = request.headers.get("x-arc-database") or DEFAULT_DATABASE
    return Ask(sql, database, started_s)


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
            return web.Response(status=499)
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
