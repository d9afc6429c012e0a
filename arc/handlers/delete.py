"""Rows out of a table over HTTP: `POST /api/v1/delete` and `GET /api/v1/delete/config`.

In: a measurement and a condition, as JSON. Out: how many rows and files it concerns or, when it
is no dry run, how many are gone. The work is done elsewhere (`arc.maintenance`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from arc.json_answer import json_answer
from arc.json_body import read_json, refusal
from arc.maintenance import Maintenance
from ingest.errors import IngestError, PayloadError
from ingest.paths import TableId
from ingest.upkeep import CONFIRM_ROWS, MAX_ROWS, DeleteOrder, DeleteResult

#: Names of files in one answer.
MAX_FILES = 1_000

_CONFIG = {
    "success": True,
    "enabled": True,
    "confirmation_threshold": CONFIRM_ROWS,
    "max_rows_per_delete": MAX_ROWS,
    "implementation": "whole files by their statistics, then rewrites",
    "performance_impact": {
        "whole_files": "one commit, whatever their size",
        "rewrites": "read and written once, in a thread of low priority",
        "queries": "none is stopped; each sees the table before or after a commit",
        "disk": "old files stay for a while, for readers that have begun",
    },
}


class _Body(msgspec.Struct):
    measurement: str = ""
    where: str = ""
    database: str | None = None
    dry_run: bool = True
    confirm: bool = False


class DeleteHandlers:
    """Answers the paths of deletes.

    Args:
        maintenance: Does the work.
    """

    def __init__(self, maintenance: Maintenance) -> None:
        self._maintenance = maintenance

    def add_routes(
        self,
        app: web.Application,
        expect: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None,
    ) -> None:
        """Answer these paths.

        Args:
            app: Of a worker.
            expect: Answers the header Expect; None: aiohttp does.
        """
        app.router.add_post("/api/v1/delete", self.delete, expect_handler=expect)
        app.router.add_get("/api/v1/delete/config", self.config, expect_handler=expect)

    async def config(self, request: web.Request) -> web.Response:
        """`GET /api/v1/delete/config`: the limits."""
        return json_answer(_CONFIG)

    async def delete(self, request: web.Request) -> web.Response:
        """`POST /api/v1/delete`."""
        started_s = time.monotonic()
        try:
            body = await read_json(request, _Body)
            order = _order(body, request.headers.get("x-arc-database"))
            result = await self._maintenance.run(lambda upkeep: upkeep.delete(order))
        except IngestError as error:
            return refusal(error)
        return json_answer(_answer(order, result, time.monotonic() - started_s))


def _order(body: _Body, header: str | None) -> DeleteOrder:
    if not body.measurement:
        raise PayloadError("the body: key 'measurement' is missing or empty")
    if not body.where.strip():
        raise PayloadError("the body: key 'where' is missing or empty; '1=1' means every row")
    table = TableId(body.database or header or "default", body.measurement)
    return DeleteOrder(table, body.where, body.dry_run, body.confirm)


def _answer(order: DeleteOrder, result: DeleteResult, took_s: float) -> dict[str, object]:
    done = result.done
    return {
        "success": True,
        "deleted_count": done.rows,
        "affected_files": done.files_removed + done.files_rewritten,
        "rewritten_files": 0 if order.dry_run else done.files_rewritten,
        "removed_files": 0 if order.dry_run else done.files_removed,
        "execution_time_ms": round(took_s * 1000, 3),
        "dry_run": order.dry_run,
        "files_processed": done.paths[:MAX_FILES],
        "table_version": result.version,
        "error": None,
    }
