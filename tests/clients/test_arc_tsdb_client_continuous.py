"""arc-tsdb-client, synchronous and asynchronous: every method of its continuous queries.

The daemon is a real one with two workers, either of which may be asked. It executes what is due
every tenth of a second; other tests of the same daemon are here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import itertools
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import typer
from arc_client import ArcClient, AsyncArcClient
from arc_client.exceptions import ArcError
from typer.testing import CliRunner, Result

from arc import continuous_cli
from ingest.continuous_store import open_queries
from tests.query.test_fresh_daemon import answering, ask, post, rows_of
from tests.support.daemon import Daemon, eventually

pytestmark = pytest.mark.e2e

#: A full hour, long ago.
HOUR_US = 1_789_999_200_000_000
HOUR = "2026-09-21T14:00:00Z"
NEXT_HOUR = "2026-09-21T15:00:00Z"
#: As the client's own page has it: it names no bounds.
QUERY = (
    "SELECT time_bucket('1 hour', time) AS time, host, avg(usage) AS usage "
    "FROM default.cpu GROUP BY 1, 2"
)
PATH = "/api/v1/continuous_queries"

#: That are executed while workers are killed.
WINDOWS = 20

FLAGS = {
    "--flush-age-s": "0.2",
    "--continuous-query-interval-s": "0.1",
    "--continuous-query-delay-s": "0",
    "--retention-interval-s": "0",
}

#: Calls a method of the part: ("create", "name", …).
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    given = itertools.chain.from_iterable(FLAGS.items())
    with answering(tmp_path_factory.mktemp("continuous") / "data", *given) as made:
        times = [HOUR_US + minute * 60_000_000 for minute in range(60)]
        hosts = ["ab"[minute % 2] for minute in range(60)]
        usage = [float(minute) for minute in range(60)]
        post(made.port, "cpu", time=times, host=hosts, usage=usage)
        yield made


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, daemon: Daemon) -> Call:
    """One call of either client, which is closed after it."""
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": daemon.port, "token": "any"}

    def sync(method: str, *args: Any, **named: Any) -> Any:
        with ArcClient(**settings) as client:
            return getattr(client.continuous_queries, method)(*args, **named)

    async def in_loop(method: str, *args: Any, **named: Any) -> Any:
        async with AsyncArcClient(**settings) as client:
            return await getattr(client.continuous_queries, method)(*args, **named)

    def run(*args: Any, **named: Any) -> Any:
        return asyncio.run(in_loop(*args, **named))

    return sync if request.param == "sync" else run


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a query and of its destination, for this test alone."""
    return re.sub(r"\W", "_", request.node.name)


@pytest.fixture
def made(call: Call, name: str) -> Any:
    """A continuous query that is executed by hand alone."""
    return call("create", name, "default", "cpu", name, QUERY, "1h", is_active=False)


def moment(text: str) -> dt.datetime:
    parsed = dt.datetime.fromisoformat(text)
    assert parsed.tzinfo == dt.UTC
    return parsed


# --- method by method --------------------------------------------------------------------------


def test_create(call: Call, name: str) -> None:
    found = call(
        "create",
        name=name,
        database="default",
        source_measurement="cpu",
        destination_measurement=name,
        query=QUERY,
        interval="1h",
        description="by hour",
        retention_days=30,
    )
    assert (found.name, found.database, found.description) == (name, "default", "by hour")
    assert (found.source_measurement, found.destination_measurement) == ("cpu", name)
    assert (found.query, found.interval, found.is_active) == (QUERY, "1h", True)
    assert (found.retention_days, found.delete_source_after_days) == (30, None)
    assert (found.last_execution_time, found.last_execution_status) == (None, None)
    assert (found.last_processed_time, found.last_records_written) == (None, None)
    assert moment(found.created_at) == moment(found.updated_at)
    call("delete", found.id)


def test_list(call: Call, made: Any) -> None:
    assert made in call("list")
    assert made in call("list", database="default", is_active=False)
    assert call("list", database="nowhere") == []
    assert made not in call("list", is_active=True)


def test_get(call: Call, made: Any) -> None:
    assert call("get", made.id) == made


def test_update(call: Call, made: Any, name: str) -> None:
    changes = {
        "name": f"{name}_2",
        "description": "new",
        "query": "SELECT 1 AS one WHERE {start_time} < {end_time}",
        "interval": "5m",
        "retention_days": 3,
        "delete_source_after_days": 36_500,
        "is_active": False,
    }
    changed = call("update", made.id, **changes)
    assert {key: getattr(changed, key) for key in changes} == changes
    assert moment(changed.updated_at) > moment(made.updated_at)
    assert call("get", made.id) == changed


def test_delete(call: Call, made: Any) -> None:
    call("delete", made.id)
    for method in ("get", "delete", "update", "execute"):
        with pytest.raises(ArcError, match=rf"(?i)continuous query {made.id} not found"):
            call(method, made.id)
    with pytest.raises(ArcError, match="not found"):
        call("get_executions", made.id)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (HOUR, NEXT_HOUR),
        (dt.datetime(2026, 9, 21, 14, 1), dt.datetime(2026, 9, 21, 14, 59)),
        (None, dt.datetime(2026, 9, 21, 15, tzinfo=dt.UTC)),
    ],
    ids=["text", "naive", "end"],
)
def test_execute(call: Call, made: Any, daemon: Daemon, name: str, start: Any, end: Any) -> None:
    for _ in range(2):  # the second time, its rows are replaced
        done = call("execute", made.id, start_time=start, end_time=end)
        assert (done.query_id, done.query_name, done.status) == (made.id, name, "completed")
        assert (done.start_time, done.end_time) == (HOUR, NEXT_HOUR)
        assert (done.records_written, done.destination_measurement) == (2, name)
        assert (done.dry_run, done.error) == (False, None)
        assert done.execution_time_seconds > 0
        assert "FROM default.cpu" in done.executed_query
        assert moment(done.executed_at) > moment(made.created_at)
    found = rows_of(daemon.port, f'SELECT * EXCLUDE (_cq) FROM "{name}" ORDER BY host')
    assert found == [[HOUR, "a", 29.0], [HOUR, "b", 30.0]]


def test_execute_without_times_is_for_the_last_window_that_is_over(call: Call, made: Any) -> None:
    done = call("execute", made.id)
    assert done.records_written == 0
    assert moment(done.end_time) - moment(done.start_time) == dt.timedelta(hours=1)
    assert dt.timedelta() <= dt.datetime.now(dt.UTC) - moment(done.end_time)
    assert dt.datetime.now(dt.UTC) - moment(done.end_time) < dt.timedelta(hours=1, minutes=5)


def test_execute_dry_run(call: Call, made: Any, daemon: Daemon, name: str) -> None:
    done = call("execute", made.id, HOUR, NEXT_HOUR, dry_run=True)
    assert (done.status, done.dry_run, done.records_written) == ("dry_run", True, 2)
    assert call("get_executions", made.id) == []
    assert name not in [row[1] for row in rows_of(daemon.port, "SHOW TABLES FROM default")]


def test_execute_tells_what_failed(call: Call, made: Any) -> None:
    call("update", made.id, query="SELECT [1] AS v WHERE {start_time} < {end_time}")
    done = call("execute", made.id, HOUR, NEXT_HOUR)
    assert (done.status, done.records_written) == ("failed", 0)
    assert "column 'v' is list" in done.error
    assert call("get", made.id).last_execution_status == "failed"
    with pytest.raises(ArcError, match="is not before end_time"):
        call("execute", made.id, NEXT_HOUR, HOUR)
    with pytest.raises(ArcError, match="start_time: found 'soon'"):
        call("execute", made.id, "soon")


def test_get_executions(call: Call, made: Any) -> None:
    assert call("get_executions", made.id) == []
    first = call("execute", made.id, HOUR, NEXT_HOUR)
    second = call("execute", made.id, "2026-09-21T10:00:00Z", NEXT_HOUR)
    runs = call("get_executions", made.id)
    assert [run.execution_id for run in runs] == [second.execution_id, first.execution_id]
    latest = runs[0]
    assert (latest.query_id, latest.status, latest.records_written) == (made.id, "completed", 2)
    assert (latest.start_time, latest.end_time) == ("2026-09-21T10:00:00Z", NEXT_HOUR)
    assert (latest.execution_duration_seconds > 0, latest.error_message) == (True, None)
    assert call("get_executions", made.id, limit=1) == runs[:1]
    found = call("get", made.id)
    assert (found.last_execution_status, found.last_records_written) == ("completed", 2)
    assert found.last_execution_time == latest.execution_time


# --- the same daemon, otherwise ----------------------------------------------------------------


def send(daemon: Daemon, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    client = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    with contextlib.closing(client):
        client.request(method, PATH + path, body)
        response = client.getresponse()
        return response.status, msgspec.json.decode(response.read())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "", b"{", 400, "the body: "),
        ("POST", "", b"{}", 400, "missing required field `name`"),
        ("POST", "", b'{"name": 1}', 400, "Expected `str`, got `int`"),
        ("GET", "?is_active=perhaps", None, 400, "is_active 'perhaps': wanted true or false"),
        ("GET", "/x", None, 404, "continuous query 'x' not found"),
        ("GET", "/99999", None, 404, "continuous query 99999 not found"),
        ("GET", "/99999/executions?limit=0", None, 400, "limit '0': wanted 1 to 1000"),
        ("PUT", "/99999", b'{"name": "x"}', 404, "continuous query 99999 not found"),
        ("POST", "/99999/execute", b'{"start_time": "1"}', 404, "not found"),
    ],
)
def test_a_refusal_says_what_is_wrong(
    daemon: Daemon, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    found, answer = send(daemon, method, path, body)
    assert (found, answer["success"]) == (status, False)
    assert said in answer["error"]


def test_the_command_line_has_the_daemon_execute(daemon: Daemon) -> None:
    def cq(*arguments: str) -> Result:
        app = typer.Typer()
        continuous_cli.register(app)
        where = ("--data-dir", str(daemon.where.root))
        return CliRunner().invoke(app, ["cq", *arguments, *where])

    options = ["--from", "cpu", "--to", "by_cli", "--every", "1h", "--inactive"]
    assert cq("create", "by_cli", "--query", QUERY, *options).exit_code == 0
    ran = cq("run", "by_cli", "--start", HOUR, "--end", NEXT_HOUR, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["records_written"]) == (0, 2)
    assert ask(daemon.port, "SELECT count(*) FROM by_cli").json["data"] == [[2]]
    dry = cq("run", "by_cli", "--start", HOUR, "--end", NEXT_HOUR, "--dry-run")
    assert dry.stdout.startswith(
        f"by_cli: 2 rows would be written to by_cli, from {HOUR} to {NEXT_HOUR}, in "
    )
    refused = cq("run", "by_cli", "--start", "soon")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "start_time: found 'soon'" in refused.stderr


def test_no_window_is_missing_or_there_twice_when_workers_are_killed_meanwhile(
    daemon: Daemon,
) -> None:
    query = (
        "SELECT {start_time} AS time, count(*) AS n FROM range(3) WHERE {start_time} < {end_time}"
    )
    spec = {"name": "killed", "database": "default", "source_measurement": "cpu"}
    spec |= {"destination_measurement": "seconds", "query": query}
    status, answer = send(daemon, "POST", "", msgspec.json.encode(spec | {"interval": "1s"}))
    assert status == 201, answer
    number = answer["query"]["id"]
    # As if the daemon had been down for a while: so there is one window after the other.
    first_us = (int(time.time()) - WINDOWS) * 1_000_000
    path = daemon.where.state / "continuous.db"
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        connection.execute("UPDATE queries SET next_us = ? WHERE id = ?", (first_us, number))

    def next_us() -> int:
        with contextlib.closing(open_queries(daemon.where.root)) as store:
            return store.get(number).next_us

    for windows in (2, 9):
        wanted_us = first_us + windows * 1_000_000
        eventually(lambda: next_us() >= wanted_us, "windows are executed")  # noqa: B023
        daemon.worker(0).kill()
        daemon.wait_for("worker_ready", shard=0)
    end_us = first_us + WINDOWS * 1_000_000
    eventually(lambda: next_us() >= end_us, "all windows are executed")
    send(daemon, "PUT", f"/{number}", b'{"is_active": false}')
    found = rows_of(
        daemon.port,
        "SELECT epoch_us(time), count(*), max(n) FROM seconds "
        f"WHERE epoch_us(time) < {end_us} GROUP BY 1 ORDER BY 1",
    )
    assert found == [[at_us, 1, 3] for at_us in range(first_us, end_us, 1_000_000)]
