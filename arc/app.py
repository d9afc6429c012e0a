"""Which path leads to which handler, on aiohttp."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.typing import FilteringBoundLogger

from arc.door_handler import DoorHandler, expect
from arc.handlers import influx
from arc.handlers.query import QueryHandlers
from arc.handlers.status import StatusHandlers
from arc.handlers.tables import TableHandlers
from arc.json_answer import json_error
from arc.metrics import ShardMetrics
from arc.write_door import CLIENT_LEFT
from arc.write_routes import MSGPACK

#: What aiohttp refuses by itself, and the reason that it is counted under.
REJECTIONS = {404: "not_found", 405: "method"}

_ANY_PATH = "/{path}"


class Routes(Protocol):
    """Handlers that know their paths."""

    def add_routes(
        self,
        app: web.Application,
        expect: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None,
    ) -> None:
        """Answer these paths; `expect` answers the header Expect."""
        ...


def build_app(
    writes: Mapping[str, DoorHandler],
    status: StatusHandlers,
    tables: TableHandlers,
    queries: QueryHandlers,
    metrics: ShardMetrics,
    log: FilteringBoundLogger,
    management: Sequence[Routes] = (),
) -> web.Application:
    """The routes of one worker. Errors of aiohttp's own come out as JSON, like all others.

    Args:
        writes: By path.
        status: What operators ask.
        tables: What is stored.
        queries: SQL.
        metrics: Counts what goes through no write door.
        log: Told of defects.
        management: Retention, deletes and the like.
    """
    app = _write_app(writes, metrics, log)
    app.router.add_get(f"{MSGPACK.path}/stats", status.stats, expect_handler=expect)
    app.router.add_get(f"{MSGPACK.path}/spec", status.spec, expect_handler=expect)
    app.router.add_get("/health", status.health, expect_handler=expect)
    app.router.add_get("/ready", status.ready, expect_handler=expect)
    app.router.add_get("/metrics", status.metrics, expect_handler=expect)
    app.router.add_get("/api/v1/measurements", tables.measurements, expect_handler=expect)
    app.router.add_get("/api/v1/databases", tables.databases, expect_handler=expect)
    queries.add_routes(app, expect)
    for part in management:
        part.add_routes(app, expect)
    app.router.add_get("/ping", influx.ping, expect_handler=expect)
    app.router.add_route("*", "/query", influx.query, expect_handler=expect)
    app.router.add_route("*", "/{path:.*}", _nowhere, expect_handler=expect)
    return app


def build_write_app(
    writes: Mapping[str, DoorHandler], metrics: ShardMetrics, log: FilteringBoundLogger
) -> web.Application:
    """The write doors alone, by path; as `build_app`."""
    app = _write_app(writes, metrics, log)
    app.router.add_route("*", "/{path:.*}", _nowhere, expect_handler=expect)
    return app


def _write_app(
    writes: Mapping[str, DoorHandler], metrics: ShardMetrics, log: FilteringBoundLogger
) -> web.Application:
    app = web.Application(middlewares=[_counted(metrics, writes), _errors_as_json(log)])
    for path, handler in writes.items():
        app.router.add_post(path, handler.write, expect_handler=handler.expect)
    return app


async def _nowhere(request: web.Request) -> web.Response:
    """Every path that is none, and every method that a path does not have.

    A route of its own, since those of aiohttp for the purpose answer `Expect` by themselves.
    """
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != _ANY_PATH:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


def _counted(metrics: ShardMetrics, writes: Collection[str]) -> Middleware:
    """Count what goes through no write door."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = time.monotonic()
        response = await handler(request)
        if request.method != "POST" or request.path not in writes:
            metrics.count_request("other", response.status, time.monotonic() - started_s)
        if response.status in REJECTIONS:
            metrics.count_rejection("other", REJECTIONS[response.status])
        return response

    return count


def _errors_as_json(log: FilteringBoundLogger) -> Middleware:
    """Word every error as the doors do: a JSON object with the key `error`."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return json_error(
                error.status, f"{request.method} {request.path}: {error.reason}", allow
            )
        except ConnectionError:  # the client left: this is for nobody, and no defect of ours
            return web.Response(status=CLIENT_LEFT)
        except Exception:
            log.exception("request_failed", path=request.path)
            return json_error(500, "internal error; the daemon's log has it")

    return answer
