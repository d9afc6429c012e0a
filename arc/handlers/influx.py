"""What clients of InfluxDB ask beside writing: whether it is there, and to make a database.

`GET /ping`, and as much of `/query` of version 1 as agents send before they write. Databases come
into being with their first row, so to make one is to say yes. SQL is not answered here.
"""

from __future__ import annotations

import re

from aiohttp import web

from arc.json_answer import json_answer, json_error
from arc.version import VERSION

#: Clients look at this to choose a dialect; that of 1.8 is the one that is spoken here.
INFLUXDB_VERSION = "1.8.10"

_HEADERS = {"X-Influxdb-Version": INFLUXDB_VERSION, "X-Influxdb-Build": f"arc-{VERSION}"}

_MAKES_DATABASE = re.compile(r"\s*CREATE\s+DATABASE\b", re.IGNORECASE)
_MAX_STATEMENT_BYTES = 64 * 2**10


async def ping(request: web.Request) -> web.Response:
    """`GET` and `HEAD /ping`: 204, or with `verbose=true` 200 and the version as JSON."""
    if request.query.get("verbose", "") not in ("", "0", "false"):
        return json_answer({"version": INFLUXDB_VERSION}, headers=_HEADERS)
    return web.Response(status=204, headers=_HEADERS)


async def query(request: web.Request) -> web.Response:
    """`/query`: yes to CREATE DATABASE, 400 to everything else."""
    statement = request.query.get("q", "")
    if not statement and (request.content_length or 0) <= _MAX_STATEMENT_BYTES:
        statement = str((await request.post()).get("q", ""))
    if _MAKES_DATABASE.match(statement):
        return json_answer({"results": [{"statement_id": 0}]}, headers=_HEADERS)
    return json_error(400, f"InfluxQL is not spoken here; got {statement[:80]!r}", _HEADERS)
