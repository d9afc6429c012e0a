"""The paths that write and answer 204, through aiohttp. Every rule is the door's."""

from __future__ import annotations

import asyncio

from aiohttp import web

from arc.door_handler import AiohttpHead, Body, DoorHandler
from arc.metrics import ShardMetrics
from arc.write_door import WriteDoor, answer_to
from arc.write_routes import Route
from ingest.errors import IngestError


class WriteHandler(DoorHandler):
    """Serves one path of `ROUTES`."""

    def __init__(
        self, route: Route, door: WriteDoor, metrics: ShardMetrics, body_timeout_s: float
    ) -> None:
        super().__init__(route.door, door, metrics, body_timeout_s)
        self._route = route

    async def store(self, request: web.Request, body: Body) -> web.Response:
        """204 once the rows are as safe as the daemon promises."""
        head = self._route.read_head(AiohttpHead(request))
        stored = self.door.store(head, await self.read(body))
        if not isinstance(stored, int):
            # A client that leaves cancels this handler, and must not cancel the storing.
            await asyncio.shield(stored)
        return web.Response(status=204)

    def refusal(self, request: web.Request, error: IngestError) -> web.Response:
        """JSON, an object with the key `error`."""
        answer = answer_to(error, self._route)
        return web.Response(status=answer.status, body=answer.body, content_type="application/json")
