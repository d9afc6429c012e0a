"""Which path leads to which handler, on aiohttp."""

from __future__ import annotations

import time

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.typing import FilteringBoundLogger

from arc.handlers.status import StatusHandlers
from arc.handlers.write import WriteHandler
from arc.metrics import ShardMetrics

WRITE_PATH = "/api/v1/write/msgpack"

#: What aiohttp refuses by itself, and the reason that it is counted under.
REJECTIONS = {404: "not_found", 405: "method"}


def build_app(
    write: WriteHandler,
    status: StatusHandlers,
    metrics: ShardMetrics,
    log: FilteringBoundLogger,
) -> web.Application:
    """The routes of one worker. Errors of aiohttp's own come out as JSON, like all others."""
    app = web.Application(middlewares=[_counted(metrics), _errors_as_json(log)])
    app.router.add_post(WRITE_PATH, write.write, expect_handler=write.expect)
    app.router.add_get(f"{WRITE_PATH}/stats", status.stats)
    app.router.add_get(f"{WRITE_PATH}/spec", status.spec)
    app.router.add_get("/health", status.health)
    app.router.add_get("/ready", status.ready)
    app.router.add_get("/metrics", status.metrics)
    return app


def _counted(metrics: ShardMetrics) -> Middleware:
    """Count what goes through no write door."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = time.monotonic()
        response = await handler(request)
        if request.method != "POST" or request.path != WRITE_PATH:
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
            return _error(error.status, f"{request.method} {request.path}: {error.reason}", allow)
        except Exception:
            log.exception("request_failed", path=request.path)
            return _error(500, "internal error; the daemon's log has it", None)

    return answer


def _error(status: int, message: str, headers: dict[str, str] | None) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode({"error": message}),
        content_type="application/json",
        headers=headers,
    )
