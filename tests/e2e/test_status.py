"""What operators and tools read: health, readiness, counters over all workers, the format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import ormsgpack
import pytest

from arc.metrics_table import METRICS, Kind
from arc.version import VERSION
from tests.e2e.client import WRITE, Client, columnar, connected_to
from tests.support.daemon import Daemon

pytestmark = pytest.mark.e2e

Stored = Callable[..., dict[str, list[Any]]]


def test_health_is_text_for_clients_that_read_it(client: Client) -> None:
    reply = client.get("/health")
    assert reply.status == 200
    assert reply.json["status"] == "ok"
    assert isinstance(reply.json["uptime"], str)
    assert reply.json["version"] == VERSION
    assert reply.json["durability"] == "disk"


def test_it_is_ready(client: Client) -> None:
    reply = client.get("/ready")
    assert (reply.status, reply.json) == (200, {"status": "ready"})


def test_every_metric_is_there_and_has_its_kind(client: Client) -> None:
    text = client.get("/metrics").body.decode()
    for metric in METRICS:
        family = metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name
        kinds = [f"# TYPE {name} {metric.kind}" for name in (metric.name, family)]
        assert any(kind in text for kind in kinds), metric.name
    assert f'version="{VERSION}"' in text.partition("arc_build_info{")[2].partition("}")[0]


def test_every_worker_answers_with_the_sums_over_all(live: Daemon, database: str) -> None:
    with connected_to(live, 0) as first, connected_to(live, 1) as second:
        before = second.metrics()
        for count, worker in ((2, first), (3, second)):
            worker.write(columnar("m", x=[1] * count), database)
            assert worker.post(b"\xc1", x_arc_database=database).status == 400
        first.wait_until_stored()
        after = [worker.metrics() for worker in (first, second)]
    names = {"door": "msgpack"}
    for metrics in after:
        for name, labels, grown in [
            ("arc_rows_accepted_total", {}, 5),
            ("arc_rows_stored_total", {}, 5),
            ("arc_requests_total", names | {"status": "204"}, 2),
            ("arc_requests_total", names | {"status": "400"}, 2),
            ("arc_requests_rejected_total", names | {"reason": "undecodable"}, 2),
            ("arc_bytes_rejected_total", {"reason": "undecodable"}, 2),
            ("arc_request_seconds_count", names, 4),
        ]:
            assert metrics.value(name, **labels) - before.value(name, **labels) == grown, name
        assert metrics["arc_workers_up"] == metrics["arc_workers_wanted"] == 2
        assert metrics["arc_bytes_in_flight"] == metrics["arc_bytes_buffered"] == 0
        assert metrics["arc_memory_limit_bytes"] == 2**30


def test_accepted_rows_are_buffered_or_stored(live: Daemon, client: Client, database: str) -> None:
    for number in range(20):
        with Client(live.port) as connection:
            connection.write(columnar(f"m{number % 3}", x=[number] * 7), database)
    client.wait_until_stored()
    rows = client.metrics().rows()
    assert rows["accepted"] == rows["buffered"] + rows["stored"] + rows["lost"]
    assert rows["buffered"] == rows["lost"] == 0


def test_bytes_are_counted_as_on_the_wire_and_as_decoded(
    client: Client, database: str, stored: Stored
) -> None:
    body = ormsgpack.packb(columnar("m", x=[1.5] * 1_000))
    small = gzip.compress(body)
    before = client.metrics()
    client.write(small, database)
    after = client.metrics()
    for name, grown in [
        ("received", len(small)),
        ("accepted", len(small)),
        ("decoded", len(body)),
    ]:
        assert after[f"arc_bytes_{name}_total"] - before[f"arc_bytes_{name}_total"] == grown


def test_rows_of_a_refused_request_are_counted_by_the_reason(client: Client, database: str) -> None:
    client.write(columnar("m", x=["text"]), database)
    before = client.metrics()
    client.refusal(columnar("m", x=[1, 2, 3]), database)
    after = client.metrics()
    for name, labels, grown in [
        ("arc_requests_rejected_total", {"door": "msgpack"}, 1),
        ("arc_rows_rejected_total", {}, 3),
    ]:
        labels |= {"reason": "type_conflict"}
        assert after.value(name, **labels) - before.value(name, **labels) == grown, name


def test_stats_are_the_plain_counters(client: Client) -> None:
    reply = client.get(f"{WRITE}/stats")
    assert reply.status == 200
    assert reply.json["success"] is True
    metrics = client.metrics()
    for name in ("arc_rows_accepted_total", "arc_rows_stored_total", "arc_workers_up"):
        assert reply.json["stats"][name] == metrics[name]


@pytest.mark.parametrize("example", ["example", "example of a row"])
def test_the_examples_of_the_spec_are_taken(
    client: Client, database: str, stored: Stored, example: str
) -> None:
    spec = client.get(f"{WRITE}/spec").json
    reply = client.post(spec[example], spec["endpoint"], x_arc_database=database)
    assert reply.status == spec["success"]
    assert stored(spec[example]["m"]) == {
        "time": [1_700_000_000_000_000],
        "host": ["a"],
        "usage": [1.5],
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", f"{WRITE}/", 404),
        ("POST", f"{WRITE}x", 404),
        ("POST", "/api/v1/write/nothing", 404),
        ("GET", "/api/v1/write/../../../../etc/passwd", 404),
        ("GET", WRITE, 405),
        ("PUT", WRITE, 405),
        ("DELETE", "/metrics", 405),
        ("POST", "/health", 405),
    ],
)
def test_a_wrong_path_or_method_is_told_as_json(
    client: Client, method: str, path: str, status: int
) -> None:
    reply = client.request(method, path, b"body" if method in ("POST", "PUT") else None)
    assert reply.status == status
    assert reply.error
    assert ("allow" in reply.headers) == (status == 405)
    assert client.get("/health").status == 200  # on the same connection


@pytest.mark.parametrize(
    ("path", "status", "reason"), [("/", 404, "not_found"), (WRITE, 405, "method")]
)
def test_a_wrong_path_or_method_is_counted_by_the_reason(
    client: Client, path: str, status: int, reason: str
) -> None:
    before = client.metrics()
    assert client.get(path).status == status
    after = client.metrics()
    for name, labels in [
        ("arc_requests_total", {"status": str(status)}),
        ("arc_requests_rejected_total", {"reason": reason}),
    ]:
        labels |= {"door": "other"}
        assert after.value(name, **labels) - before.value(name, **labels) == 1, name


def test_the_run_file_says_what_is_running(live: Daemon) -> None:
    info = json.loads(live.where.daemon_json.read_text())
    assert info["pid"] == live.process.pid
    assert info["url"] == f"http://127.0.0.1:{info['port']}"
    assert [worker["shard"] for worker in info["workers"]] == [0, 1]
    assert info["durability"] == "disk"
    assert info["data_dir"] == str(live.where.root)
