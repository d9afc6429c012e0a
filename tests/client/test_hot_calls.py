"""What a hot call does, counted: the calls it makes, what it leaves behind, what it imports."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from arc.client import AsyncClient, Client
from tests.support.scripted_server import ScriptedServer

#: What a call may call, once it is warm: its number of values, a view of them that dies with the
#: statement, its look at the mark, the clock, the list.
ALLOWED = {"len", "values", "time_ns", "extend"}


@pytest.fixture
def client() -> Iterator[Client]:
    """A client whose pump sleeps: nothing of the calls is taken away meanwhile."""
    with ScriptedServer() as server:
        made = Client(server.url, linger_s=3600.0)
        yield made
        made.close()


def calls_of(function: Callable[[], object]) -> list[tuple[str, str]]:
    """The event and the name of every call that a function makes, its own left out."""
    seen: list[tuple[str, str]] = []

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.append((event, frame.f_code.co_name))
        elif event == "c_call":
            seen.append((event, argument.__name__))

    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(None)
    assert seen[0] == ("call", function.__code__.co_name)
    assert seen.pop() == ("c_call", "setprofile")
    return seen[1:]


def test_a_call_reads_the_clock_and_adds_to_a_list(client: Client) -> None:
    def call() -> None:
        client.log("cpu", host="a", region="b", user=1.5, system=2.5, idle=3.5)

    call()
    calls = calls_of(call)
    assert calls[0] == ("call", "log")
    assert {event for event, _ in calls[1:]} == {"c_call"}
    assert sorted(name for _, name in calls[1:]) == ["len", "len", "time_ns", "values"]


def test_a_handle_reads_the_clock_and_adds_to_a_list(client: Client) -> None:
    cpu = client.series("cpu", {"host": "a", "region": "b"}, ["user", "system", "idle"])

    def call() -> None:
        cpu.log(1.5, 2.5, 3.5)

    call()
    calls = calls_of(call)
    assert calls[0] == ("call", "log")
    assert sorted(name for _, name in calls[1:]) == ["extend", "len", "time_ns"]


async def test_calls_of_the_asynchronous_client_do_the_same() -> None:
    with ScriptedServer() as server:
        async with AsyncClient(server.url, linger_s=3600.0) as client:
            cpu = client.series("cpu", fields=["user"])

            def call() -> None:
                client.log("cpu", user=1.5)

            def bound() -> None:
                cpu.log(1.5)

            for function in (call, bound):
                function()
                calls = calls_of(function)
                assert calls[0] == ("call", "log")
                assert {name for _, name in calls[1:]} <= ALLOWED


def test_a_call_leaves_its_arguments_on_the_list_and_nothing_else(client: Client) -> None:
    cpu = client.series("cpu", {"host": "a"}, ["user", "system"])
    values = (1.5, "x")
    cpu.log(*values)
    cpu.log(*values)
    rows = cpu._queue.rows
    assert len(rows) == 8
    assert rows[0] is rows[4] is cpu._values
    assert rows[2] is values[0]
    assert rows[3] is values[1]
    client.log("cpu", user=values[0], note=values[1])
    queue = client._queues[2]
    measurement, _, *given = queue.rows
    assert (measurement, *given) == ("cpu", "user", "note", 1.5, "x")
    assert given[2] is values[0]
    assert not any(gc.is_tracked(value) for value in queue.rows)


def imported_by(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout))


def test_importing_the_client_imports_neither_the_daemon_nor_anything_heavy() -> None:
    modules = imported_by("import arc.client")
    heavy = {"numpy", "pyarrow", "pandas", "polars", "aiohttp", "uvloop", "numba", "duckdb"}
    slow = {"asyncio", "http.client", "ssl", "email", "backports.zstd", "concurrent.futures.thread"}
    assert not modules & (heavy | slow)
    assert not {name for name in modules if name.partition(".")[0] == "ingest"}
    ours = {name for name in modules if name.startswith("arc.")}
    assert {name for name in ours if not name.startswith("arc.client")} == set()


def test_rows_of_calls_need_neither_numpy_nor_pyarrow() -> None:
    with ScriptedServer() as server:
        modules = imported_by(
            "from arc.client import Client\n"
            f"with Client({server.url!r}) as client:\n"
            "    client.log('cpu', host='a', usage=1.5)\n"
            "    client.series('cpu', {'host': 'a'}, ['usage']).log(1.5)\n"
            "    client.write_records([{'measurement': 'cpu', 'fields': {'v': 1.5}}])\n"
        )
        assert len(server.requests) == 2  # the calls together, the records
    assert not modules & {"numpy", "pyarrow"}
