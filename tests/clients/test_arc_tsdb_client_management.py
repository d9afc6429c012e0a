"""arc-tsdb-client, synchronous and asynchronous: every method of its retention and delete parts."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltalake
import pytest
from arc_client import ArcClient, AsyncArcClient
from arc_client.exceptions import ArcError, ArcNotFoundError, ArcValidationError

from tests.query.conftest import write
from tests.support.management import management

pytestmark = pytest.mark.e2e

DAY_S = 86_400
TODAY_S = int(time.time()) // DAY_S * DAY_S
#: One row a day at midnight, of the last ten days and today.
DAYS = 11

#: Calls a method of a part of the client: ("retention", "list").
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("stored") / "data"
    times = [(TODAY_S - day * DAY_S) * 1_000_000 for day in range(DAYS)]
    hosts = ["ab"[day % 2] for day in range(DAYS)]
    columns = {"time": times, "day": list(range(DAYS)), "host": hosts}
    write(data, {"m": "cpu", "columns": columns}, {"m": "mem", "columns": columns})
    return data


@pytest.fixture
def root(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "data"))


@pytest.fixture
def port(root: Path) -> Iterator[int]:
    with management(root) as gateway:
        yield gateway.port


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, port: int) -> Call:
    """One call of either client, which is closed after it."""
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": port, "token": "any"}

    def sync(part: str, method: str, *args: Any, **named: Any) -> Any:
        with ArcClient(**settings) as client:
            return getattr(getattr(client, part), method)(*args, **named)

    async def in_loop(part: str, method: str, *args: Any, **named: Any) -> Any:
        async with AsyncArcClient(**settings) as client:
            return await getattr(getattr(client, part), method)(*args, **named)

    def run(*args: Any, **named: Any) -> Any:
        return asyncio.run(in_loop(*args, **named))

    return sync if request.param == "sync" else run


def days(root: Path, measurement: str = "cpu") -> list[int]:
    found: list[int] = (
        deltalake.DeltaTable(str(root / "default" / measurement))
        .to_pyarrow_table()["day"]
        .to_pylist()
    )
    return sorted(found)


def moment(text: str) -> dt.datetime:
    parsed = dt.datetime.fromisoformat(text)
    assert parsed.tzinfo == dt.UTC
    return parsed


# --- retention ---------------------------------------------------------------------------------


def test_retention_create(call: Call) -> None:
    made = call("retention", "create", "month", "default", 30)
    assert (made.name, made.database, made.measurement) == ("month", "default", None)
    assert (made.retention_days, made.buffer_days, made.is_active) == (30, 7, True)
    assert (made.last_execution_time, made.last_execution_status) == (None, None)
    assert made.last_deleted_count is None
    assert moment(made.created_at) == moment(made.updated_at)
    other = call(
        "retention",
        "create",
        name="cpu",
        database="default",
        retention_days=1,
        measurement="cpu",
        buffer_days=0,
        is_active=False,
    )
    assert other.id != made.id
    assert (other.measurement, other.buffer_days, other.is_active) == ("cpu", 0, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("month", "default", 1), "has the name 'month' already"),
        (("other", "default", 1), "is for database 'default' already"),
        (("other", "no such/name", 1), "database 'no such/name'"),
        (("other", "prod", 0), "kept for 0 s"),
        (("", "prod", 1), "name of a policy"),
    ],
)
def test_retention_create_says_what_is_wrong(
    call: Call, arguments: tuple[Any, ...], said: str
) -> None:
    call("retention", "create", "month", "default", 30)
    with pytest.raises(ArcError, match=said):
        call("retention", "create", *arguments)


def test_retention_list(call: Call) -> None:
    assert call("retention", "list") == []
    one = call("retention", "create", "b", "default", 30, measurement="cpu")
    other = call("retention", "create", "a", "default", 60)
    assert call("retention", "list") == [other, one]


def test_retention_get(call: Call) -> None:
    made = call("retention", "create", "month", "default", 30)
    assert call("retention", "get", made.id) == made
    with pytest.raises(ArcNotFoundError):
        call("retention", "get", made.id + 1)


def test_retention_update(call: Call) -> None:
    made = call("retention", "create", "month", "default", 30)
    changed = call(
        "retention",
        "update",
        made.id,
        name="week",
        retention_days=7,
        measurement="cpu",
        buffer_days=1,
        is_active=False,
    )
    assert (changed.id, changed.name, changed.retention_days) == (made.id, "week", 7)
    assert (changed.measurement, changed.buffer_days, changed.is_active) == ("cpu", 1, False)
    again = call("retention", "update", made.id, retention_days=8)
    assert (again.name, again.retention_days, again.buffer_days) == ("week", 8, 1)
    assert call("retention", "update", made.id).retention_days == 8
    with pytest.raises(ArcNotFoundError):
        call("retention", "update", made.id + 1, name="x")


def test_retention_delete(call: Call) -> None:
    made = call("retention", "create", "month", "default", 30)
    assert call("retention", "delete", made.id) is None
    assert call("retention", "list") == []
    with pytest.raises(ArcNotFoundError):
        call("retention", "delete", made.id)


def test_retention_execute(call: Call, root: Path) -> None:
    made = call("retention", "create", "p", "default", 3, measurement="cpu", buffer_days=1)
    dry = call("retention", "execute", made.id)
    assert (dry.policy_id, dry.policy_name, dry.dry_run) == (made.id, "p", True)
    assert (dry.deleted_count, dry.files_deleted, dry.error) == (6, 6, None)
    assert dry.execution_time_ms > 0
    assert moment(dry.cutoff_date).timestamp() == TODAY_S - 4 * DAY_S
    assert days(root) == list(range(11))
    with pytest.raises(ArcError, match="confirm"):
        call("retention", "execute", made.id, dry_run=False)
    done = call("retention", "execute", made.id, dry_run=False, confirm=True)
    assert (done.dry_run, done.deleted_count, done.affected_measurements) == (False, 6, ["cpu"])
    assert days(root) == [0, 1, 2, 3, 4]
    assert days(root, "mem") == list(range(11))
    found = call("retention", "get", made.id)
    assert (found.last_execution_status, found.last_deleted_count) == ("completed", 6)
    assert abs(moment(found.last_execution_time).timestamp() - time.time()) < 3_600
    with pytest.raises(ArcError, match="not found"):
        call("retention", "execute", made.id + 1)


def test_retention_get_executions(call: Call) -> None:
    made = call("retention", "create", "p", "default", 3, buffer_days=0)
    assert call("retention", "get_executions", made.id) == []
    for _ in range(2):
        call("retention", "execute", made.id, dry_run=False, confirm=True)
    later, first = call("retention", "get_executions", made.id)
    assert (first.policy_id, first.status, first.deleted_count) == (made.id, "completed", 14)
    assert (later.deleted_count, later.error_message) == (0, None)
    assert later.id > first.id
    assert moment(first.execution_time) <= moment(later.execution_time)
    assert moment(first.cutoff_date).timestamp() == TODAY_S - 3 * DAY_S
    assert first.execution_duration_ms > 0
    assert call("retention", "get_executions", made.id, limit=1) == [later]
    with pytest.raises(ArcError, match="not found"):
        call("retention", "get_executions", made.id + 1)


# --- delete ------------------------------------------------------------------------------------


def before(day: int) -> str:
    """A moment between two rows: after `day` days ago, before the next."""
    return dt.datetime.fromtimestamp(TODAY_S - day * DAY_S + 1, dt.UTC).isoformat()


def test_delete_is_a_dry_run_by_default(call: Call, root: Path) -> None:
    found = call("delete", "delete", "default", "cpu", f"time < '{before(5)}' AND host = 'a'")
    assert (found.success, found.dry_run, found.error) == (True, True, None)
    assert (found.deleted_count, found.affected_files, found.rewritten_files) == (3, 3, 0)
    assert found.execution_time_ms > 0
    assert len(found.files_processed) == 3
    assert days(root) == list(range(11))


def test_delete(call: Call, root: Path) -> None:
    where = f"time < '{before(5)}' AND host IN ('a', 'c')"
    found = call("delete", "delete", "default", "cpu", where, dry_run=False)
    assert (found.success, found.dry_run, found.deleted_count) == (True, False, 3)
    assert days(root) == [0, 1, 2, 3, 4, 5, 7, 9]
    assert days(root, "mem") == list(range(11))


def test_delete_of_everything_wants_a_confirmation(call: Call, root: Path) -> None:
    with pytest.raises(ArcError, match="confirm"):
        call("delete", "delete", "default", "cpu", "1=1", dry_run=False)
    found = call("delete", "delete", "default", "cpu", "1=1", dry_run=False, confirm=True)
    assert (found.deleted_count, found.affected_files) == (11, 11)
    assert days(root) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("default", "nope", "1=1"), "not found"),
        (("default", "cpu", "host = 'a' OR 1=1"), "found 'OR'"),
        (("default", "cpu", "day = 3"), "column 'day' is int64"),
    ],
)
def test_delete_says_what_is_wrong(
    call: Call, root: Path, arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ArcError, match=said):
        call("delete", "delete", *arguments, dry_run=False, confirm=True)
    assert days(root) == list(range(11))


@pytest.mark.parametrize("arguments", [("", "cpu", "1=1"), ("d", "", "1=1"), ("d", "cpu", " ")])
def test_delete_of_nothing_does_not_leave_the_client(call: Call, arguments: Any) -> None:
    with pytest.raises(ArcValidationError):
        call("delete", "delete", *arguments)


def test_delete_get_config(call: Call) -> None:
    found = call("delete", "get_config")
    assert (found.enabled, found.confirmation_threshold) == (True, 10_000)
    assert found.max_rows_per_delete > 10**6
    assert found.implementation
    assert all(found.performance_impact.values())
