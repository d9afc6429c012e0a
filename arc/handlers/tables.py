"""What is stored: `GET /api/v1/databases` and `GET /api/v1/measurements`. Reads no row.

Rows in memory are not counted: they are in no file yet.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from arc.json_answer import json_answer
from arc.table_answer import measurement_entry
from ingest.pipeline import Pipeline


class TableHandlers:
    """Lists of databases and measurements, in the shape that clients read."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def measurements(self, request: web.Request) -> web.Response:
        """`GET /api/v1/measurements`, with `?database=` those of one."""
        started_s = time.monotonic()
        database = request.query.get("database") or None
        tables = await asyncio.to_thread(self._pipeline.tables, database)
        entries = [measurement_entry(entry) for entry in tables]
        return _json({"success": True, "measurements": entries}, len(entries), started_s)

    async def databases(self, request: web.Request) -> web.Response:
        """`GET /api/v1/databases`."""
        started_s = time.monotonic()
        tables = await asyncio.to_thread(self._pipeline.tables)
        counts: dict[str, int] = {}
        for entry in tables:
            counts[entry.table.database] = counts.get(entry.table.database, 0) + 1
        entries = [{"name": name, "measurement_count": count} for name, count in counts.items()]
        return _json({"success": True, "databases": entries}, len(entries), started_s)


def _json(content: dict[str, object], count: int, started_s: float) -> web.Response:
    took_ms = round((time.monotonic() - started_s) * 1000, 3)
    content |= {"count": count, "execution_time_ms": took_ms}
    return json_answer(content)
