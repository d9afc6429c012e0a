"""Deletes and retention over HTTP: what is answered, and where the work is done."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import pytest

from arc.maintenance import Maintenance
from ingest.errors import IngestError
from ingest.turn import my_turn
from ingest.upkeep import StoppedError, Upkeep
from tests.query.conftest import write
from tests.support.daemon import eventually
from tests.support.management import Gateway, management

DAY_S = 86_400
#: Midnight ten days ago: rows of ten days, one an hour, n the number of the hour.
TODAY_S = int(time.time()) // DAY_S * DAY_S
START_S = TODAY_S - 10 * DAY_S
HOURS = 24 * 10

POLICY = {"name": "p", "database": "default", "retention_days": 3, "buffer_days": 0}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("stored") / "data"
    times = [(START_S + hour * 3_600) * 1_000_000 for hour in range(HOURS)]
    hosts = ["ab"[hour % 2] for hour in range(HOURS)]
    columns = {"time": times, "n": list(range(HOURS)), "host": hosts}
    write(data, {"m": "cpu", "columns": columns}, {"m": "disk/io", "columns": columns})
    return data


@pytest.fixture
def root(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "data"))


@pytest.fixture
def gateway(root: Path) -> Iterator[Gateway]:
    with management(root) as made:
        yield made


def count(root: Path, folder: str = "default/cpu") -> int:
    rows: int = deltalake.DeltaTable(str(root / folder)).to_pyarrow_table().num_rows
    return rows


def delete(gateway: Gateway, where: str, **more: Any) -> tuple[int, Any]:
    body = {"database": "default", "measurement": "cpu", "where": where} | more
    return gateway.ask("POST", "/api/v1/delete", body)


def iso(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


# --- delete ------------------------------------------------------------------------------------


def test_a_delete_is_a_dry_run_unless_it_says_otherwise(root: Path, gateway: Gateway) -> None:
    where = f"time < '{iso(START_S + DAY_S)}' AND host = 'a'"
    status, dry = delete(gateway, where)
    assert status == 200
    assert dry["execution_time_ms"] > 0
    assert {**dry, "execution_time_ms": 0, "files_processed": []} == {
        "success": True,
        "deleted_count": 12,
        "affected_files": 12,
        "rewritten_files": 0,
        "removed_files": 0,
        "execution_time_ms": 0,
        "dry_run": True,
        "files_processed": [],
        "table_version": 0,
        "error": None,
    }
    assert len(dry["files_processed"]) == 12
    assert count(root) == HOURS
    _, done = delete(gateway, where, dry_run=False)
    assert (done["deleted_count"], done["removed_files"], done["dry_run"]) == (12, 12, False)
    assert count(root) == HOURS - 12


def test_the_database_may_be_left_to_the_default(root: Path, gateway: Gateway) -> None:
    body = {"measurement": "disk/io", "where": "host = 'a'"}
    _, found = gateway.ask("POST", "/api/v1/delete", body)
    assert found["deleted_count"] == HOURS // 2


def test_everything_goes_once_it_is_confirmed(root: Path, gateway: Gateway) -> None:
    status, refused = delete(gateway, "1=1", dry_run=False)
    assert (status, refused["success"]) == (400, False)
    assert "confirm" in refused["error"]
    assert count(root) == HOURS
    _, done = delete(gateway, "1=1", dry_run=False, confirm=True)
    assert done["deleted_count"] == HOURS
    assert count(root) == 0


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "the body: "),
        (b"[]", 400, "Expected `object`, got `array`"),
        (b"\xff", 400, "the body: "),
        (b"", 400, "'measurement' is missing"),
        ({"measurement": "cpu"}, 400, "'where' is missing"),
        ({"measurement": "cpu", "where": "  "}, 400, "'where' is missing"),
        ({"measurement": "cpu", "where": 1}, 400, "Expected `str`, got `int`"),
        ({"measurement": "cpu", "where": "n = 1"}, 400, "column 'n' is int64"),
        ({"measurement": "cpu", "where": "host"}, 400, "wanted = or IN after host"),
        ({"measurement": "nope", "where": "1=1"}, 404, "'nope' of database 'default' not found"),
        ({"measurement": "cpu", "where": "1=1", "database": "a/b"}, 400, "database 'a/b'"),
        ({"measurement": "cpu", "where": " " * 2**20}, 413, "limit of 1048576 bytes"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    root: Path, gateway: Gateway, body: Any, status: int, said: str
) -> None:
    found, answer = gateway.ask("POST", "/api/v1/delete", body)
    assert (found, answer["success"]) == (status, False)
    assert said in answer["error"]
    assert count(root) == HOURS


def test_while_another_one_is_at_it_clients_are_told_to_come_back(
    root: Path, gateway: Gateway
) -> None:
    with my_turn(root / ".arc"):
        status, answer = delete(gateway, "host = 'a'", dry_run=False)
        assert (status, answer["success"]) == (503, False)
        assert delete(gateway, "host = 'a'")[0] == 200
    assert delete(gateway, "host = 'a'", dry_run=False)[0] == 200


def test_the_limits_can_be_asked_for(gateway: Gateway) -> None:
    status, found = gateway.ask("GET", "/api/v1/delete/config")
    assert (status, found["enabled"], found["confirmation_threshold"]) == (200, True, 10_000)


# --- retention ---------------------------------------------------------------------------------


def test_a_policy_is_made_listed_changed_applied_and_removed(root: Path, gateway: Gateway) -> None:
    assert gateway.ask("GET", "/api/v1/retention")[1]["policies"] == []
    status, made = gateway.ask("POST", "/api/v1/retention", POLICY)
    policy = made["policy"]
    path = f"/api/v1/retention/{policy['id']}"
    assert (status, policy["measurement"], policy["last_execution_time"]) == (201, None, None)
    assert gateway.ask("GET", path) == (200, {"success": True, "policy": policy})
    assert gateway.ask("GET", "/api/v1/retention")[1]["policies"] == [policy]
    assert gateway.ask("GET", "/api/v1/retention?database=prod")[1]["policies"] == []
    _, changed = gateway.ask("PUT", path, {"measurement": "cpu", "retention_days": 4})
    assert changed["policy"]["measurement"] == "cpu"
    assert (changed["policy"]["retention_days"], changed["policy"]["name"]) == (4, "p")
    _, dry = gateway.ask("POST", f"{path}/execute", {})
    assert (dry["dry_run"], dry["deleted_count"], count(root)) == (True, 6 * 24, HOURS)
    _, done = gateway.ask("POST", f"{path}/execute", {"dry_run": False, "confirm": True})
    assert (done["deleted_count"], done["files_deleted"]) == (6 * 24, 6 * 24)
    assert done["affected_measurements"] == ["cpu"]
    assert done["cutoff_date"] == f"{iso(TODAY_S - 4 * DAY_S)[:19]}Z"
    assert (count(root), count(root, "default/disk@2Fio")) == (4 * 24, HOURS)
    _, runs = gateway.ask("GET", f"{path}/executions?limit=1")
    assert [run["deleted_count"] for run in runs["executions"]] == [6 * 24]
    _, seen = gateway.ask("GET", path)
    assert seen["policy"]["last_execution_status"] == "completed"
    assert gateway.ask("DELETE", path)[0] == 200
    assert gateway.ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "", {}, 400, "missing required field `name`"),
        ("POST", "", POLICY | {"retention_days": "3"}, 400, "Expected `int`"),
        ("POST", "", POLICY | {"retention_days": 0}, 400, "kept for 0 s"),
        ("POST", "", POLICY | {"retention_days": 10**9}, 400, "retention_days is 1000000000"),
        ("POST", "", POLICY | {"buffer_days": -1}, 400, "buffer_days is -1"),
        ("POST", "", POLICY | {"name": "q"}, 409, "is for database 'default' already"),
        ("POST", "", POLICY | {"database": "prod"}, 409, "has the name 'p'"),
        ("GET", "/77", None, 404, "retention policy 77 not found"),
        ("PUT", "/77", {"name": "x"}, 404, "not found"),
        ("PUT", "/1", {"name": None}, 400, "Expected `str`"),
        ("DELETE", "/x", None, 404, "not found"),
        ("POST", "/77/execute", {}, 404, "not found"),
        ("POST", "/1/execute", {"dry_run": False}, 400, "confirm"),
        ("GET", "/77/executions", None, 404, "not found"),
        ("GET", "/1/executions?limit=0", None, 400, "limit '0'"),
        ("GET", "/1/executions?limit=-1", None, 400, "limit '-1'"),
    ],
)
def test_what_a_policy_cannot_be_is_refused(
    gateway: Gateway, method: str, path: str, body: Any, status: int, said: str
) -> None:
    gateway.ask("POST", "/api/v1/retention", POLICY)
    found, answer = gateway.ask(method, f"/api/v1/retention{path}", body)
    assert (found, answer["success"]) == (status, False)
    assert said in answer["error"]


# --- where the work is done --------------------------------------------------------------------


def test_policies_are_applied_by_themselves(root: Path) -> None:
    with management(root, apply_every_s=0.01) as gateway:
        gateway.ask("POST", "/api/v1/retention", POLICY)
        eventually(lambda: count(root) == 3 * 24, "rows over their time are gone")


def test_work_is_done_one_after_another_in_a_thread_of_low_priority(
    root: Path, gateway: Gateway
) -> None:
    seen: list[tuple[int, int]] = []

    def job(_: Upkeep) -> None:
        number = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, number) if sys.platform == "linux" else 19
        seen.append((number, nice))

    for _ in range(2):
        gateway._on_loop(gateway.maintenance.run(job))
    assert seen[0] == seen[1]
    assert seen[0][0] != threading.get_native_id()
    assert seen[0][1] == 19


def test_lists_are_answered_while_something_takes_long(root: Path, gateway: Gateway) -> None:
    begun, end = threading.Event(), threading.Event()

    def long(_: Upkeep) -> None:
        begun.set()
        end.wait()

    async def begin(maintenance: Maintenance) -> Any:
        return asyncio.ensure_future(maintenance.run(long))

    waiting = gateway._on_loop(begin(gateway.maintenance))
    begun.wait()
    try:
        assert gateway.ask("GET", "/api/v1/retention")[0] == 200
        assert gateway.ask("GET", "/api/v1/delete/config")[0] == 200
        assert not waiting.done()
    finally:
        end.set()


def test_a_worker_that_stops_does_not_wait_for_a_long_one(root: Path, gateway: Gateway) -> None:
    begun = threading.Event()
    ended: list[str] = []

    def endless(upkeep: Upkeep) -> None:
        begun.set()
        try:
            while True:
                upkeep._deleter._check()
        except StoppedError:
            ended.append("stopped")
            raise

    async def run(maintenance: Maintenance) -> None:
        asyncio.ensure_future(maintenance.run(endless)).add_done_callback(
            lambda future: ended.append(type(future.exception()).__name__)
        )

    gateway._on_loop(run(gateway.maintenance))
    begun.wait()
    gateway.stop()
    assert ended[0] == "stopped"
    status, answer = delete(gateway, "host = 'a'")
    assert (status, answer["error"]) == (503, "the daemon is stopping")
    assert issubclass(StoppedError, IngestError)
