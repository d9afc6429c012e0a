"""Continuous queries over HTTP: `/api/v1/continuous_queries` and what is below it.

In: definitions as JSON, and ranges of time to execute. Out: the same, and what became of their
windows. They are kept and executed elsewhere (`ingest.continuous`, `arc.continuous`).
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from arc.continuous import ContinuousQueries, Executed
from arc.json_answer import json_answer
from arc.json_body import read_json
from arc.resources import Expect, add_routes, limit_in, moment, number_in
from ingest.continuous import (
    MAX_WINDOWS,
    Execution,
    Query,
    QuerySpec,
    Window,
    windows_between,
)
from ingest.continuous_store import MAX_EXECUTIONS, NoSuchQueryError
from ingest.errors import PayloadError
from ingest.query.measurement import parse_time

PATH = "/api/v1/continuous_queries"


_DRY_RUN = "dry_run"
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class _New(msgspec.Struct):
    name: str
    database: str
    source_measurement: str
    destination_measurement: str
    query: str
    interval: str
    description: str | None = None
    retention_days: int | None = None
    delete_source_after_days: int | None = None
    is_active: bool = True


class _Change(msgspec.Struct):
    name: str | UnsetType = UNSET
    database: str | UnsetType = UNSET
    source_measurement: str | UnsetType = UNSET
    destination_measurement: str | UnsetType = UNSET
    query: str | UnsetType = UNSET
    interval: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    retention_days: int | UnsetType | None = UNSET
    delete_source_after_days: int | UnsetType | None = UNSET
    is_active: bool | UnsetType = UNSET


class _Run(msgspec.Struct):
    start_time: str | None = None
    end_time: str | None = None
    dry_run: bool = False


#: Keys of a body, where they are called otherwise in a `QuerySpec`.
_OTHERWISE = {"source_measurement": "source", "destination_measurement": "destination"}


class ContinuousHandlers:
    """Answers the paths of continuous queries.

    Args:
        queries: Keeps and executes them.
    """

    def __init__(self, queries: ContinuousQueries) -> None:
        self._queries = queries

    def add_routes(self, app: web.Application, expect: Expect | None = None) -> None:
        """Answer these paths.

        Args:
            app: Of a worker.
            expect: Answers the header Expect; None: aiohttp does.
        """
        add_routes(app, PATH, self, expect)

    async def list(self, request: web.Request) -> web.Response:
        """`GET /api/v1/continuous_queries`, with `?database=` and `?is_active=` some of them."""
        database, is_active = request.query.get("database"), _flag(request, "is_active")
        found = await self._queries.look(lambda store: store.queries())
        wanted = [
            _query(one)
            for one in found
            if database in (None, one.spec.database) and is_active in (None, one.spec.is_active)
        ]
        return json_answer({"success": True, "queries": wanted, "count": len(wanted)})

    async def create(self, request: web.Request) -> web.Response:
        """`POST /api/v1/continuous_queries`: 201 with the new one."""
        body = await read_json(request, _New)
        values = msgspec.structs.asdict(body)
        spec = QuerySpec(**{_OTHERWISE.get(key, key): value for key, value in values.items()})
        made = await self._queries.create(spec)
        return json_answer({"success": True, "query": _query(made)}, 201)

    async def get(self, request: web.Request) -> web.Response:
        """`GET /api/v1/continuous_queries/{id}`."""
        number = _number(request)
        found = await self._queries.look(lambda store: store.get(number))
        return json_answer({"success": True, "query": _query(found)})

    async def update(self, request: web.Request) -> web.Response:
        """`PUT /api/v1/continuous_queries/{id}`: changes the keys that are there."""
        number = _number(request)
        values = msgspec.structs.asdict(await read_json(request, _Change))
        changes = {_OTHERWISE.get(k, k): v for k, v in values.items() if v is not UNSET}
        changed = await self._queries.update(number, changes)
        return json_answer({"success": True, "query": _query(changed)})

    async def remove(self, request: web.Request) -> web.Response:
        """`DELETE /api/v1/continuous_queries/{id}`."""
        number = _number(request)
        await self._queries.look(lambda store: store.remove(number))
        return json_answer({"success": True, "message": f"continuous query {number} is removed"})

    async def execute(self, request: web.Request) -> web.Response:
        """`POST /api/v1/continuous_queries/{id}/execute`: the windows of a range of time."""
        number = _number(request)
        body = await read_json(request, _Run)
        bounds = [
            None if text is None else parse_time(key, text)
            for key, text in (("start_time", body.start_time), ("end_time", body.end_time))
        ]
        done = await self._queries.execute(
            number,
            lambda query, now_us: windows_wanted(query, now_us, *bounds),
            dry_run=body.dry_run,
        )
        return json_answer(_executed(done))

    async def executions(self, request: web.Request) -> web.Response:
        """`GET /api/v1/continuous_queries/{id}/executions`, with `?limit=` the latest so many."""
        number = _number(request)
        limit = limit_in(request, MAX_EXECUTIONS)
        found = await self._queries.look(lambda store: store.executions(number, limit))
        runs = [_execution(one) for one in found]
        return json_answer({"success": True, "executions": runs, "count": len(runs)})


def windows_wanted(
    query: Query, now_us: int, start_us: int | None, end_us: int | None
) -> list[Window]:
    """The windows that somebody asks for.

    Args:
        query: Of which they are.
        now_us: The time, microseconds since 1970-01-01T00:00Z.
        start_us: In the first of them; None: one window before `end_us`, or without that the
            next window of the query.
        end_us: In the last of them, or its end; None: the windows that are closed by now.

    Returns:
        At least one. Without any bound, those that are closed and were not executed yet,
        `MAX_WINDOWS` at the most; where there are none, the last one that is closed.

    Raises:
        PayloadError, LimitError: as `windows_between`.
    """
    step_us = query.spec.interval_us
    closed_us = now_us // step_us * step_us
    if start_us is None and end_us is None:
        start_us = min(query.next_us, closed_us - step_us)
        end_us = min(closed_us, start_us + MAX_WINDOWS * step_us)
    elif end_us is None:
        assert start_us is not None
        end_us = max(closed_us, start_us + 1)
    elif start_us is None:
        start_us = end_us - step_us
    return windows_between(query.spec, start_us, end_us)


def _number(request: web.Request) -> int:
    def not_found(given: str) -> NoSuchQueryError:
        return NoSuchQueryError(f"continuous query {given!r} not found")

    return number_in(request, not_found)


def _flag(request: web.Request, name: str) -> bool | None:
    given = request.query.get(name)
    if given is None:
        return None
    if given.lower() not in _FLAGS:
        raise PayloadError(f"{name} {given[:20]!r}: wanted true or false")
    return _FLAGS[given.lower()]


def _query(query: Query) -> dict[str, object]:
    """A continuous query as clients read it."""
    spec, last = query.spec, query.last
    return {
        "id": query.id,
        "name": spec.name,
        "description": spec.description,
        "database": spec.database,
        "source_measurement": spec.source,
        "destination_measurement": spec.destination,
        "query": spec.query,
        "interval": spec.interval,
        "retention_days": spec.retention_days,
        "delete_source_after_days": spec.delete_source_after_days,
        "is_active": spec.is_active,
        "last_execution_time": None if last is None else moment(last.at_us),
        "last_execution_status": None if last is None else last.status,
        "last_processed_time": None if query.done_us is None else moment(query.done_us),
        "last_records_written": None if last is None else last.rows,
        "last_error": None if last is None else last.error,
        "next_window_start": moment(query.next_us),
        "created_at": moment(query.created_us),
        "updated_at": moment(query.updated_us),
    }


def _execution(run: Execution) -> dict[str, object]:
    return {
        "id": run.id,
        "query_id": run.query_id,
        "execution_id": run.execution_id,
        "execution_time": moment(run.at_us),
        "status": run.status,
        "start_time": moment(run.start_us),
        "end_time": moment(run.end_us),
        "records_read": None,
        "records_written": run.rows,
        "execution_duration_seconds": run.took_s,
        "error_message": run.error,
    }


def _executed(done: Executed) -> dict[str, object]:
    query, outcome = done.query, done.outcome
    is_dry = outcome.dry_run and outcome.error is None
    return {
        "success": outcome.error is None,
        "query_id": query.id,
        "query_name": query.spec.name,
        "execution_id": outcome.execution_id,
        "status": _DRY_RUN if is_dry else outcome.status,
        "start_time": moment(outcome.window.start_us),
        "end_time": moment(outcome.window.end_us),
        "records_read": None,
        "records_written": outcome.rows,
        "execution_time_seconds": outcome.took_s,
        "destination_measurement": query.spec.destination,
        "dry_run": outcome.dry_run,
        "executed_at": moment(outcome.at_us),
        "executed_query": done.sql,
        "error": outcome.error,
    }
