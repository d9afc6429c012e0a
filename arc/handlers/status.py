"""What operators and tools ask: is it alive, does it take writes, what has it counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from arc.exposition import CONTENT_TYPE, render, summary
from arc.json_answer import json_answer
from arc.runtime import DAEMON_JSON
from arc.version import VERSION
from arc.write_door import WriteDoor
from ingest.pipeline import Pipeline


class StatusHandlers:
    """Everything that is read, and changes nothing.

    Args:
        pipeline: Says in `refusal` why writes are refused, if they are.
        door: Says whether the worker is stopping.
        run_dir: Folder of the metrics files of the daemon.
        shard: Number of this worker.
        durability: The level that a 204 stands for.
    """

    def __init__(
        self, pipeline: Pipeline, door: WriteDoor, run_dir: Path, shard: int, durability: str
    ) -> None:
        self._pipeline = pipeline
        self._door = door
        self._run_dir = run_dir
        self._shard = shard
        self._durability = durability
        self._started_s = time.monotonic()

    async def health(self, request: web.Request) -> web.Response:
        """`GET /health`: the process answers. Always 200, also while writes are refused."""
        uptime_s = time.monotonic() - self._started_s
        return json_answer(
            {
                "status": "ok",
                "name": "arc",  # where clients of InfluxDB 2 look
                "service": "arc",
                "version": VERSION,
                "uptime": f"{uptime_s:.0f}s",
                "durability": self._durability,
                "shard": self._shard,
                "refusing": self._refusal(),
                "time": datetime.now(UTC).isoformat(),
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        """`GET /ready`: 200 while writes are taken, else 503 and the reason.

        Not before every worker has replayed its log once, whichever of them is asked.
        """
        reason = self._refusal() or self._starting()
        if reason is None:
            return json_answer({"status": "ready"})
        return json_answer({"status": "not ready", "error": reason}, 503, {"Retry-After": "1"})

    def _refusal(self) -> str | None:
        """Why no write is taken at present; None when they are."""
        return "stopping" if self._door.stopping else self._pipeline.refusal

    def _starting(self) -> str | None:
        """How far the daemon's start is; None when that is over."""
        if (self._run_dir / DAEMON_JSON).exists():
            return None
        found = summary(self._run_dir)
        done, of = found["arc_replay_bytes_done"], found["arc_replay_bytes"]
        up, wanted = found["arc_workers_up"], found["arc_workers_wanted"]
        return (
            f"starting: {up} of {wanted} workers are ready, "
            f"{done // 10**6} of {of // 10**6} MB of the log are replayed"
        )

    async def metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`: the sums over all workers, for Prometheus."""
        return web.Response(body=render(self._run_dir), headers={"Content-Type": CONTENT_TYPE})

    async def stats(self, request: web.Request) -> web.Response:
        """`GET /api/v1/write/msgpack/stats`: the plain counters as JSON."""
        return json_answer({"success": True, "stats": summary(self._run_dir)})

    async def spec(self, request: web.Request) -> web.Response:
        """`GET /api/v1/write/msgpack/spec`: what the door takes, for tools and people."""
        return json_answer(SPEC)


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
    "map of columns": {
        "m": "name of the measurement, 1 to 128 characters, or an integer n for measurement_n",
        "columns": "map of column name to array; all arrays of one length, at least 1",
        "tags": "optional array of the names of the columns that are tags",
    },
    "map of a row": {
        "m": "as above",
        "fields": "map of column name to value, or an array for field_0, field_1, ...",
        "t": "time; without it, the server's clock",
        "tags": "optional map of column name to value, stored as text",
        "h": "optional; becomes the tag host unless there is one",
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
        "column": "time, in rows t; without it, the server's clock",
        "units": ["s", "ms", "us", "ns"],
        "unit": "told from the magnitude of the whole column, or by the header x-arc-time-unit",
        "stored_as": "timestamp[us, tz=UTC]",
    },
    "headers": {
        "x-arc-database": "database of the rows; missing: default",
        "x-arc-time-unit": "s, ms, us or ns",
        "x-arc-on-bad-rows": "reject or quarantine: what to do with rows that fit no table",
        "Content-Encoding": "optional; the bytes tell",
        "Idempotency-Key": "optional, 1 to 64 bytes, a new one for each request; a repeated "
        "request with the key of one that was stored is answered 204 and not stored again",
    },
    "success": 204,
    "reply_headers": {
        "x-arc-durability": "what the 204 stands for: memory, page (survives a crash of the "
        "daemon) or disk (survives a power cut)",
        "Retry-After": "with 409 and 503: seconds until the same request is worth a try",
    },
    "errors": {
        "400, 405, 408, 413": "the request; the answer says what is wrong with it",
        "409": "the first request with this Idempotency-Key is not answered yet",
        "422": "this Idempotency-Key came with another body before",
        "503": "overload, a disk that refuses, or a start or stop; nothing was stored",
    },
    "example": {
        "m": "cpu",
        "columns": {"time": [1700000000000], "host": ["a"], "usage": [1.5]},
        "tags": ["host"],
    },
    "example of a row": {"m": "cpu", "t": 1700000000000, "h": "a", "fields": {"usage": 1.5}},
}
