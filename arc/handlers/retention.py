"""Retention policies over HTTP: `/api/v1/retention` and what is below it.

In: policies in days, as JSON. Out: the same, and what their runs took away. They are kept, and
applied, elsewhere (`ingest.retention`, `arc.maintenance`).
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from arc.json_answer import json_answer
from arc.json_body import read_json
from arc.maintenance import Maintenance
from arc.resources import Expect, add_routes, limit_in, moment, number_in
from ingest.errors import PayloadError
from ingest.retention import (
    DAY_S,
    MAX_EXECUTIONS,
    MAX_S,
    Execution,
    NoSuchPolicyError,
    Outcome,
    Policy,
    PolicySpec,
)
from ingest.upkeep import ConfirmationError, Upkeep

PATH = "/api/v1/retention"

DEFAULT_BUFFER_DAYS = 7


class _New(msgspec.Struct):
    name: str
    database: str
    retention_days: int
    measurement: str | None = None
    buffer_days: int = DEFAULT_BUFFER_DAYS
    is_active: bool = True


class _Change(msgspec.Struct):
    name: str | UnsetType = UNSET
    database: str | UnsetType = UNSET
    measurement: str | UnsetType | None = UNSET
    retention_days: int | UnsetType = UNSET
    buffer_days: int | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


class _Run(msgspec.Struct):
    dry_run: bool = True
    confirm: bool = False


class RetentionHandlers:
    """Answers the paths of retention.

    Args:
        maintenance: Does the work.
    """

    def __init__(self, maintenance: Maintenance) -> None:
        self._maintenance = maintenance

    def add_routes(self, app: web.Application, expect: Expect | None = None) -> None:
        """Answer these paths.

        Args:
            app: Of a worker.
            expect: Answers the header Expect; None: aiohttp does.
        """
        add_routes(app, PATH, self, expect)

    async def list(self, request: web.Request) -> web.Response:
        """`GET /api/v1/retention`, with `?database=` those of one."""
        database = request.query.get("database")
        policies = await self._maintenance.look(lambda store: store.policies())
        wanted = [_policy(one) for one in policies if database in (None, one.spec.database)]
        return json_answer({"success": True, "policies": wanted, "count": len(wanted)})

    async def create(self, request: web.Request) -> web.Response:
        """`POST /api/v1/retention`: 201 with the new policy."""
        body = await read_json(request, _New)
        spec = PolicySpec(
            body.name,
            body.database,
            body.measurement or None,
            _seconds(body.retention_days, "retention_days"),
            _seconds(body.buffer_days, "buffer_days"),
            body.is_active,
        )
        made = await self._maintenance.look(lambda store: store.create(spec))
        return json_answer({"success": True, "policy": _policy(made)}, 201)

    async def get(self, request: web.Request) -> web.Response:
        """`GET /api/v1/retention/{id}`."""
        number = _number(request)
        found = await self._maintenance.look(lambda store: store.get(number))
        return json_answer({"success": True, "policy": _policy(found)})

    async def update(self, request: web.Request) -> web.Response:
        """`PUT /api/v1/retention/{id}`: changes the keys that are there."""
        number = _number(request)
        changes = _changes(await read_json(request, _Change))
        changed = await self._maintenance.look(lambda store: store.update(number, **changes))
        return json_answer({"success": True, "policy": _policy(changed)})

    async def remove(self, request: web.Request) -> web.Response:
        """`DELETE /api/v1/retention/{id}`."""
        number = _number(request)
        await self._maintenance.look(lambda store: store.remove(number))
        return json_answer({"success": True, "message": f"retention policy {number} is removed"})

    async def execute(self, request: web.Request) -> web.Response:
        """`POST /api/v1/retention/{id}/execute`: a dry run unless the body says otherwise."""
        number = _number(request)
        body = await read_json(request, _Run)
        if not body.dry_run and not body.confirm:
            raise ConfirmationError('this deletes rows: send "confirm": true with it')

        def job(upkeep: Upkeep) -> Outcome:
            return upkeep.run_policy(number, dry_run=body.dry_run)

        return json_answer(_outcome(await self._maintenance.run(job)))

    async def executions(self, request: web.Request) -> web.Response:
        """`GET /api/v1/retention/{id}/executions`, with `?limit=` the latest so many."""
        number = _number(request)
        limit = limit_in(request, MAX_EXECUTIONS)
        found = await self._maintenance.look(lambda store: store.executions(number, limit))
        runs = [_execution(one) for one in found]
        return json_answer({"success": True, "executions": runs, "count": len(runs)})


def _number(request: web.Request) -> int:
    def not_found(given: str) -> NoSuchPolicyError:
        return NoSuchPolicyError(f"retention policy {given!r} not found")

    return number_in(request, not_found)


def _seconds(days: int, key: str) -> int:
    if not 0 <= days <= MAX_S // DAY_S:
        raise PayloadError(f"the body: {key} is {days}, wanted 0 to {MAX_S // DAY_S}")
    return days * DAY_S


def _changes(body: _Change) -> dict[str, object]:
    changes: dict[str, object] = {
        name: value
        for name in ("name", "database", "measurement", "is_active")
        if (value := getattr(body, name)) is not UNSET
    }
    if body.retention_days is not UNSET:
        changes["keep_s"] = _seconds(body.retention_days, "retention_days")
    if body.buffer_days is not UNSET:
        changes["buffer_s"] = _seconds(body.buffer_days, "buffer_days")
    return changes


def _policy(policy: Policy) -> dict[str, object]:
    """A policy as clients read it: in days, rounded up; the seconds stand beside."""
    spec, last = policy.spec, policy.last
    return {
        "id": policy.id,
        "name": spec.name,
        "database": spec.database,
        "measurement": spec.measurement,
        "retention_days": -(-spec.keep_s // DAY_S),
        "buffer_days": -(-spec.buffer_s // DAY_S),
        "retention_s": spec.keep_s,
        "buffer_s": spec.buffer_s,
        "is_active": spec.is_active,
        "last_execution_time": None if last is None else moment(last.at_us),
        "last_execution_status": None if last is None else last.status,
        "last_deleted_count": None if last is None else last.rows,
        "created_at": moment(policy.created_us),
        "updated_at": moment(policy.updated_us),
    }


def _execution(run: Execution) -> dict[str, object]:
    return {
        "id": run.id,
        "policy_id": run.policy_id,
        "execution_time": moment(run.at_us),
        "status": run.status,
        "deleted_count": run.rows,
        "cutoff_date": moment(run.cutoff_us),
        "execution_duration_ms": run.took_ms,
        "error_message": run.error,
    }


def _outcome(outcome: Outcome) -> dict[str, object]:
    return {
        "success": outcome.error is None,
        "policy_id": outcome.policy_id,
        "policy_name": outcome.policy_name,
        "deleted_count": outcome.rows,
        "files_deleted": outcome.files_removed,
        "files_rewritten": outcome.files_rewritten,
        "execution_time_ms": outcome.took_ms,
        "dry_run": outcome.dry_run,
        "cutoff_date": moment(outcome.cutoff_us),
        "affected_measurements": outcome.measurements,
        "error": outcome.error,
    }
