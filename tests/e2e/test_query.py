"""SQL of a whole daemon: asked at the port of the workers, answered by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.e2e.client import Client, Reply
from tests.support.daemon import Daemon, eventually, serving

pytestmark = pytest.mark.e2e

FLAGS = ("--workers", "2", "--flush-age-s", "0.05", "--query-concurrency", "2")


def ask(client: Client, sql: str, **headers: str) -> Reply:
    body = json.dumps({"sql": sql}).encode()
    return client.post(body, "/api/v1/query", content_type="application/json", **headers)


def query_processes(daemon: Daemon) -> list[psutil.Process]:
    children = psutil.Process(daemon.process.pid).children()
    return [child for child in children if "arc.query" in child.cmdline()]


def test_rows_are_found_once_they_are_stored_also_after_the_query_process_died(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data", *FLAGS) as daemon, Client(daemon.port) as client:
        client.post(b"cpu,host=a v=1\ncpu,host=b v=2", "/write?db=default")
        client.wait_until_stored()
        eventually(lambda: ask(client, "SELECT 1").status == 200, "the query process answers")
        found = ask(client, "SELECT host, v FROM cpu ORDER BY v").json
        assert (found["columns"], found["data"]) == (["host", "v"], [["a", 1.0], ["b", 2.0]])
        [process] = query_processes(daemon)
        process.kill()
        daemon.wait_for("query_process_died", pid=process.pid)
        eventually(lambda: ask(client, "SELECT 1").status == 200, "another one answers")
        assert ask(client, "SELECT count(*) FROM cpu").json["data"] == [[2]]
        client.write({"m": "cpu", "columns": {"v": [3.0]}})  # writes did not notice


def test_a_daemon_without_queries_says_that_nobody_answers(client: Client) -> None:
    reply = ask(client, "SELECT 1")
    assert reply.status == 503
    assert "query process" in reply.error


def test_a_killed_supervisor_takes_its_query_process_along(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *FLAGS) as daemon, Client(daemon.port) as client:
        eventually(lambda: ask(client, "SELECT 1").status == 200, "the query process answers")
        [process] = query_processes(daemon)
        daemon.process.kill()
        process.wait(30)
