"""The routes of a worker for deletes and retention, on a free port, without the rest of one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from arc.handlers.delete import DeleteHandlers
from arc.handlers.retention import RetentionHandlers
from arc.maintenance import Maintenance

_T = TypeVar("_T")


class Gateway:
    """A running server.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        maintenance: Behind it.
    """

    def __init__(self, root: Path, apply_every_s: float | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port, self.maintenance = self._on_loop(self._start(root, apply_every_s))

    async def _start(self, root: Path, apply_every_s: float | None) -> tuple[int, Maintenance]:
        maintenance = Maintenance(root, structlog.get_logger(), apply_every_s)
        app = web.Application()
        DeleteHandlers(maintenance).add_routes(app)
        RetentionHandlers(maintenance).add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._runner, listener).start()
        maintenance.start()
        port: int = listener.getsockname()[1]
        return port, maintenance

    def _on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def ask(self, method: str, path: str, content: object = None) -> tuple[int, Any]:
        """One request: its status, and the JSON that came back; bytes are sent as they are."""
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.request(method, path, None if content is None else body)
            response = connection.getresponse()
            return response.status, msgspec.json.decode(response.read())

    def stop(self) -> None:
        """End the maintenance alone, as a worker that drains does first."""
        self._on_loop(self.maintenance.stop())

    def close(self) -> None:
        """End everything."""
        self.stop()
        self._on_loop(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def management(root: Path, apply_every_s: float | None = None) -> Iterator[Gateway]:
    """A server, ended at the end."""
    with contextlib.closing(Gateway(root, apply_every_s)) as made:
        yield made
