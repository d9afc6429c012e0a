"""What a request to the query process asks for: its SQL, its database, how it wants its answer.

In: a request of aiohttp. Out: an `Ask`, or an error that names the part that is wrong. Runs
nothing and looks no table up.

    POST                           JSON with the key "sql"
    GET …/{measurement}            parameters limit, start, end, columns
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
from aiohttp import web

from arc.query.encoding import chosen
from ingest.errors import PayloadError, TooLargeError
from ingest.query.errors import QueryError
from ingest.query.measurement import MeasurementQuery, parse_time, select_of

DEFAULT_DATABASE = "default"

#: Largest request. People write kilobytes; programs that list values, more.
MAX_SQL_BYTES = 2**20

#: Rows of a measurement, unless a client says how many.
DEFAULT_LIMIT = 1_000

_PARAMETERS = ("limit", "start", "end", "columns")


class _Body(msgspec.Struct):
    """What a client posts. Keys that are not here are ignored."""

    sql: str


class Ask(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        sql: To run.
        database: Of tables without one.
        coding: Of the answer, as `arc.query.encoding` names it.
        started_s: When it came, on the monotonic clock.
    """

    sql: str
    database: str
    coding: str
    started_s: float


_BODY = msgspec.json.Decoder(_Body)


async def read_posted(request: web.Request) -> Ask:
    """What a POST asks for.

    Raises:
        PayloadError: the body is not JSON with a key "sql" that holds text.
        TooLargeError: it is over the limit.
    """
    started_s = time.monotonic()
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_SQL_BYTES:
            raise TooLargeError("the body of a query", MAX_SQL_BYTES, "the largest query")
    try:
        sql = _BODY.decode(body).sql
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PayloadError(f'the body of a query: {error}; wanted {{"sql": "SELECT …"}}') from error
    if not sql.strip():
        raise PayloadError('the body of a query: key "sql" is empty')
    return _ask(request, sql, started_s)


def read_measurement(request: web.Request, max_rows: int) -> Ask:
    """What a GET of a measurement asks for.

    Args:
        request: With the measurement in its path.
        max_rows: That may be asked for.

    Raises:
        QueryError: a parameter is unknown, or its value is none that it takes.
    """
    started_s = time.monotonic()
    given = request.query
    for name in given:
        if name not in _PARAMETERS:
            raise QueryError(
                f"parameter {name[:40]!r} is not known: wanted {', '.join(_PARAMETERS)}; for "
                "anything else POST the SQL to /api/v1/query"
            )
    names = [name for text in given.getall("columns", []) for name in text.split(",")]
    query = MeasurementQuery(
        measurement=request.match_info["measurement"],
        limit=_limit(given, max_rows),
        columns=tuple(filter(None, (name.strip() for name in names))),
        start_us=parse_time("start", given["start"]) if "start" in given else None,
        end_us=parse_time("end", given["end"]) if "end" in given else None,
    )
    return _ask(request, select_of(query), started_s)


def _limit(given: Mapping[str, str], max_rows: int) -> int:
    text = given.get("limit", str(min(DEFAULT_LIMIT, max_rows)))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    if not 1 <= number <= max_rows:
        raise QueryError(
            f"limit: found {text[:40]!r}, wanted a number from 1 to {max_rows} (ARC_QUERY_MAX_ROWS)"
        )
    return number


def _ask(request: web.Request, sql: str, started_s: float) -> Ask:
    headers = request.headers
    database = headers.get("x-arc-database") or DEFAULT_DATABASE
    return Ask(sql, database, chosen(headers.get("Accept-Encoding")), started_s)
