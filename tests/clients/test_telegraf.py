"""Telegraf: requests of its three outputs, built byte for byte from its sources, and replayed.

plugins/outputs/arc, plugins/outputs/influxdb and plugins/outputs/influxdb_v2 of
github.com/influxdata/telegraf 1.37.
"""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.clients.conftest import Reader
from tests.clients.gocodec import Uint, chunked, msgp
from tests.e2e.client import WRITE, Client, Reply
from tests.support.daemon import Daemon
from tests.support.read_back import booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_MS = 1_790_000_000_000
NOW_US = NOW_MS * 1_000

AGENT = "Telegraf/1.37.0 Go/1.25.5"

#: One of Telegraf's metrics: name, tags, fields, milliseconds since 1970.
Metric = tuple[str, dict[str, str], dict[str, Any], int]


def message(metrics: list[Metric]) -> Any:
    """What outputs.arc makes of a batch: columns by name, nil where a metric lacks one."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, tags, fields, at_ms in metrics:
        groups.setdefault(name, []).append(fields | tags | {"time": at_ms})
    found = []
    for name, rows in groups.items():
        keys = list(dict.fromkeys(key for row in rows for key in row))
        columns = {key: [row.get(key) for row in rows] for key in keys}
        found.append({"m": name, "columns": columns})
    return found[0] if len(found) == 1 else found


def headers(database: str, encoding: str = "gzip") -> dict[str, str]:
    """Those of outputs.arc."""
    sent = {"Content-Type": "application/msgpack", "User-Agent": AGENT, "X-Api-Key": "secret"}
    return sent | {"X-Arc-Database": database} | ({"Content-Encoding": "gzip"} if encoding else {})


def flush(http: Client, database: str, metrics: list[Metric], **more: str) -> Reply:
    """One write of outputs.arc."""
    body = gzip.compress(msgp(message(metrics)))
    return http.request("POST", WRITE, body, headers(database) | more)


METRICS: list[Metric] = [
    ("cpu", {"host": "a", "cpu": "cpu0"}, {"usage_idle": 99.5}, NOW_MS),
    ("cpu", {"host": "a", "cpu": "cpu1"}, {"usage_idle": 98, "usage_user": 0.5}, NOW_MS + 10),
    ("disk/io", {"host": "a"}, {"reads": Uint(2**63 - 1), "writes": Uint(7)}, NOW_MS),
    ("win.cpu", {"host": "a"}, {"Percent_Idle_Time": 1.5, "ok": True}, NOW_MS),
    ("_internal", {"host": "a"}, {"gathered": -40_000, "version": "1.37.0"}, NOW_MS),
    ("4xx", {}, {"n": 300}, NOW_MS),
]

STORED = {
    "cpu": {
        "time": times(NOW_US, NOW_US + 10_000),
        "host": texts("a", "a"),
        "cpu": texts("cpu0", "cpu1"),
        "usage_idle": floats(99.5, 98.0),
        "usage_user": floats(None, 0.5),
    },
    "disk/io": {
        "time": times(NOW_US),
        "host": texts("a"),
        "reads": integers(2**63 - 1),
        "writes": integers(7),
    },
    "win.cpu": {
        "time": times(NOW_US),
        "host": texts("a"),
        "Percent_Idle_Time": floats(1.5),
        "ok": booleans(True),
    },
    "_internal": {
        "time": times(NOW_US),
        "host": texts("a"),
        "gathered": integers(-40_000),
        "version": texts("1.37.0"),
    },
    "4xx": {"time": times(NOW_US), "n": integers(300)},
}


@pytest.mark.parametrize("encoding", ["gzip", ""], ids=["gzip", "identity"])
def test_arc_a_batch_of_many_measurements(
    http: Client, database: str, stored: Reader, encoding: str
) -> None:
    body = msgp(message(METRICS))
    sent = gzip.compress(body) if encoding else body
    assert http.request("POST", WRITE, sent, headers(database, encoding)).status == 204
    assert {name: stored(name) for name in STORED} == STORED


def test_arc_a_batch_of_one_measurement_is_a_map(
    http: Client, database: str, stored: Reader
) -> None:
    assert flush(http, database, METRICS[:2]).status == 204
    assert stored("cpu") == STORED["cpu"]


def test_arc_types_hold_from_one_batch_to_the_next(
    http: Client, database: str, stored: Reader
) -> None:
    assert flush(http, database, [("m", {}, {"x": 1, "f": 1.5}, NOW_MS)]).status == 204
    assert flush(http, database, [("m", {}, {"x": Uint(2), "f": 2}, NOW_MS + 1)]).status == 204
    assert stored("m")["x"] == integers(1, 2)
    assert stored("m")["f"] == floats(1.5, 2.0)


def test_arc_one_bad_metric_refuses_its_batch_which_telegraf_sends_again_for_ever(
    http: Client, database: str, live: Daemon
) -> None:
    batch = [*METRICS, ("cpu", {}, {"usage_idle": "n/a"}, NOW_MS)]
    said = {(reply.status, reply.error) for reply in [flush(http, database, batch)] * 2}
    [(status, error)] = said
    assert status == 400
    assert "measurement 'cpu': column 'usage_idle', row 2" in error
    assert not (live.where.root / database).exists()


def test_arc_with_quarantine_one_bad_metric_does_not_block_the_others(
    http: Client, database: str, stored: Reader
) -> None:
    assert flush(http, database, METRICS).status == 204
    batch: list[Metric] = [
        ("cpu", {"host": "a"}, {"usage_idle": "n/a"}, NOW_MS + 20),
        ("cpu", {"host": "a"}, {"usage_user": 3.5}, NOW_MS + 30),
        ("disk/io", {"host": "a"}, {"reads": Uint(2**63)}, NOW_MS + 20),
        ("4xx", {}, {"n": 301}, NOW_MS + 20),
    ]
    reply = flush(http, database, batch, **{"X-Arc-On-Bad-Rows": "quarantine"})
    assert reply.status == 204, reply
    assert stored("cpu")["usage_user"] == floats(None, 0.5, 3.5)
    assert stored("4xx")["n"] == integers(300, 301)
    assert stored("disk/io") == STORED["disk/io"]
    assert len(stored("_quarantine")["time"][1]) == 2


def test_arc_the_same_batch_after_a_503_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    with Client(narrow.port) as http:
        with full() as relent:
            reply = flush(http, database, METRICS[:2])
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            relent()
        assert flush(http, database, METRICS[:2]).status == 204
    assert stored("cpu", of=narrow) == STORED["cpu"]


# --- line protocol -----------------------------------------------------------------------------

#: As its serializer writes METRICS: tags and fields in order of their names, nanoseconds.
LINES = (
    "cpu,cpu=cpu0,host=a usage_idle=99.5 {0}000000\n"
    "cpu,cpu=cpu1,host=a usage_idle=98,usage_user=0.5 {0}010000000\n"
    "disk/io,host=a reads=9223372036854775807i,writes=7i {0}000000\n"
    "win.cpu,host=a Percent_Idle_Time=1.5,ok=true {0}000000\n"
    '_internal,host=a gathered=-40000i,version="1.37.0" {0}000000\n'
    "4xx n=300i {0}000000\n"
)
BODY = LINES.replace("{0}010000000", f"{NOW_MS + 10}000000").replace("{0}", str(NOW_MS)).encode()


def post_chunked(
    daemon: Daemon, path: str, sent: dict[str, str], body: bytes
) -> tuple[int, dict[str, Any]]:
    """Send a request in chunks; the status and the JSON of its answer."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as connection:
        connection.sendall(chunked(path, sent | {"Connection": "close"}, body))
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content) if content else {}


@pytest.mark.parametrize("encoding", ["gzip", ""], ids=["gzip", "identity"])
def test_influxdb_writes_in_chunks(
    live: Daemon, database: str, stored: Reader, encoding: str
) -> None:
    sent = {
        "User-Agent": AGENT,
        "Authorization": "Basic dXNlcjpzZWNyZXQ=",
        "Content-Type": "text/plain; charset=utf-8",
    } | ({"Content-Encoding": "gzip"} if encoding else {})
    body = gzip.compress(BODY) if encoding else BODY
    path = f"/write?consistency=any&db={database}&rp=autogen"
    assert post_chunked(live, path, sent, body) == (204, {})
    assert {name: stored(name) for name in STORED} == STORED


def test_influxdb_creates_its_database_before_it_writes(http: Client, database: str) -> None:
    sent = {"User-Agent": AGENT, "Content-Type": "application/x-www-form-urlencoded"}
    body = f"q=CREATE+DATABASE+%22{database}%22".encode()
    reply = http.request("POST", "/query", body, sent)
    assert reply.status == 200
    assert "error" not in reply.json["results"][0]


def test_influxdb_drops_what_is_refused_and_logs_why(live: Daemon, database: str) -> None:
    status, said = post_chunked(live, f"/write?db={database}", {}, b"m x=1 1\nm x=one 2\n")
    assert status == 400  # any 4xx: dropped, unless it says that there is no such database
    assert "line 2" in said["error"]
    assert "database not found" not in said["error"]


@pytest.mark.parametrize("encoding", ["gzip", ""], ids=["gzip", "identity"])
def test_influxdb_v2_writes_in_chunks(
    live: Daemon, database: str, stored: Reader, encoding: str
) -> None:
    sent = {
        "User-Agent": AGENT,
        "Authorization": "Token secret",
        "Content-Type": "text/plain; charset=utf-8",
    } | ({"Content-Encoding": "gzip"} if encoding else {})
    body = gzip.compress(BODY) if encoding else BODY
    path = f"/api/v2/write?bucket={database}&org=influxdata"
    assert post_chunked(live, path, sent, body) == (204, {})
    assert {name: stored(name) for name in STORED} == STORED


def test_influxdb_v2_reads_code_and_message_of_a_refusal(live: Daemon, database: str) -> None:
    status, said = post_chunked(live, f"/api/v2/write?bucket={database}", {}, b"m x=one 2\n")
    assert (status, said["code"]) == (400, "invalid")
    assert "line 1" in said["message"]


def test_influxdb_v2_writes_unsigned_integers_when_told_to(
    live: Daemon, database: str, stored: Reader
) -> None:
    body = f"m u=9223372036854775807u {NOW_MS}000000\n".encode()
    assert post_chunked(live, f"/api/v2/write?bucket={database}", {}, body)[0] == 204
    assert stored("m")["u"] == integers(2**63 - 1)
