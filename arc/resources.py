"""What the handlers of numbered things share: their routes, numbers, limits and times over HTTP.

In: requests of aiohttp under a path such as `/api/v1/retention`, whose things have numbers and are
executed. Out: what a path or a query says, and errors as answers. What the things are is known to
their handlers alone.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from arc.json_body import refusal
from ingest.errors import IngestError, PayloadError

DEFAULT_EXECUTIONS = 50

Handler = Callable[[web.Request], Awaitable[web.Response]]
Expect = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Handlers(Protocol):
    """Answers for all things, for one, and for its executions."""

    async def list(self, request: web.Request) -> web.Response:
        """All of them."""

    async def create(self, request: web.Request) -> web.Response:
        """A new one."""

    async def get(self, request: web.Request) -> web.Response:
        """One."""

    async def update(self, request: web.Request) -> web.Response:
        """Another meaning for one."""

    async def remove(self, request: web.Request) -> web.Response:
        """None any more."""

    async def execute(self, request: web.Request) -> web.Response:
        """Do what it says, now."""

    async def executions(self, request: web.Request) -> web.Response:
        """What was done."""


def add_routes(
    app: web.Application, path: str, handlers: Handlers, expect: Expect | None = None
) -> None:
    """Answer a path and what is below it.

    Args:
        app: Of a worker.
        path: Of all things; one of them is below it, by its number.
        handlers: Errors of theirs become answers.
        expect: Answers the header Expect; None: aiohttp does.
    """
    one = f"{path}/{{id}}"
    routes: tuple[tuple[str, str, Handler], ...] = (
        ("GET", path, handlers.list),
        ("POST", path, handlers.create),
        ("GET", one, handlers.get),
        ("PUT", one, handlers.update),
        ("DELETE", one, handlers.remove),
        ("POST", f"{one}/execute", handlers.execute),
        ("GET", f"{one}/executions", handlers.executions),
    )
    for method, route, handler in routes:
        app.router.add_route(method, route, _refusing(handler), expect_handler=expect)


def number_in(request: web.Request, not_found: Callable[[str], IngestError]) -> int:
    """The number in a path.

    Args:
        request: Of a route of `add_routes`.
        not_found: The error for a text that is none.

    Raises:
        IngestError: that.
    """
    given = request.match_info["id"]
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        raise not_found(given[:20])
    return int(given)


def limit_in(request: web.Request, most: int) -> int:
    """How many executions `?limit=` asks for, 1 to `most`.

    Raises:
        PayloadError: it is something else.
    """
    given = request.query.get("limit", str(DEFAULT_EXECUTIONS))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= most):
        raise PayloadError(f"limit {given[:20]!r}: wanted 1 to {most}")
    return int(given)


def moment(time_us: int) -> str:
    """A time, microseconds since 1970-01-01T00:00Z, as RFC 3339 in UTC."""
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    found = epoch + datetime.timedelta(microseconds=time_us)
    return found.isoformat().replace("+00:00", "Z")


def _refusing(handler: Handler) -> Handler:
    """A handler whose errors become answers."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except IngestError as error:
            return refusal(error)

    return answer
