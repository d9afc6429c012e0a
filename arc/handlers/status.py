"""What operators and tools ask: is it alive, does it take writes, what has it counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aiohttp import web

from arc.exposition import CONTENT_TYPE, render, summary
from arc.version import VERSION
from arc.write_door import DURABILITY, WriteDoor
from ingest.pipeline import Pipeline


class StatusHandlers:
    """Everything that is read, and changes nothing."""

    def __init__(self, pipeline: Pipeline, door: WriteDoor, run_dir: Path, shard: int) -> None:
        self._pipeline = pipeline
        self._door = door
        self._run_dir = run_dir
        self._shard = shard
        self._started_s = time.monotonic()

    async def health(self, request: web.Request) -> web.Response:
        """`GET /health`: the process answers."""
        uptime_s = time.monotonic() - self._started_s
        return _json(
            {
                "status": "ok",
                "service": "arc",
                "version": VERSION,
                "uptime": f"{uptime_s:.0f}s",
                "durability": DURABILITY,
                "shard": self._shard,
                "time": datetime.now(UTC).isoformat(),
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        """`GET /ready`: 200 while writes are taken, else 503 and the reason."""
        reason = "stopping" if self._door.stopping else self._pipeline.disk_refusal
        if reason is None:
            return _json({"status": "ready"})
        return _json({"status": "not ready", "error": reason}, 503, {"Retry-After": "1"})

    async def metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`: the sums over all workers, for Prometheus."""
        return web.Response(body=render(self._run_dir), headers={"Content-Type": CONTENT_TYPE})

    async def stats(self, request: web.Request) -> web.Response:
        """`GET /api/v1/write/msgpack/stats`: the plain counters as JSON."""
        return _json({"success": True, "stats": summary(self._run_dir)})

    async def spec(self, request: web.Request) -> web.Response:
        """`GET /api/v1/write/msgpack/spec`: what the door takes, for tools and people."""
        return _json(SPEC)


def _json(
    content: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content),
        status=status,
        content_type="application/json",
        headers=headers,
    )


SPEC = {
    "endpoint": "/api/v1/write/msgpack",
    "method": "POST",
    "content_encoding": ["gzip", "zstd", "identity"],
    "body": [
        "one map",
        "several maps, one after another",
        "an array of maps",
        '{"batch": [maps]}',
    ],
    "map": {
        "m": "name of the measurement, 1 to 128 characters, or an integer n for measurement_n",
        "columns": "map of column name to array; all arrays of one length, at least 1",
        "tags": "optional array of the names of the columns that are tags",
    },
    "types": {
        "integer": "int64",
        "float32, float64": "float64",
        "string": "utf8",
        "boolean": "bool",
        "binary": "binary",
        "nil": "null",
    },
    "time": {
        "column": "time; without it, the server's clock",
        "units": ["s", "ms", "us", "ns"],
        "unit": "told from the magnitude of the whole column, or by the header x-arc-time-unit",
        "stored_as": "timestamp[us, tz=UTC]",
    },
    "headers": {
        "x-arc-database": "database of the rows; missing: default",
        "x-arc-time-unit": "s, ms, us or ns",
        "Content-Encoding": "optional; the bytes tell",
    },
    "success": 204,
    "example": {
        "m": "cpu",
        "columns": {"time": [1700000000000], "host": ["a"], "usage": [1.5]},
        "tags": ["host"],
    },
}
