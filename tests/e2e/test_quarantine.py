"""A daemon that keeps bad rows: agents go on, good rows are stored, the others are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from typer.testing import CliRunner, Result

from arc.cli import build_app
from tests.e2e import files
from tests.e2e.client import Client, columnar
from tests.support.daemon import Daemon, serving

pytestmark = pytest.mark.e2e

NOW_US = 1_790_000_000_000_000
FLAGS = ("--workers", "1", "--flush-age-s", "0.05", "--on-bad-rows", "quarantine")


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that quarantines."""
    with serving(tmp_path_factory.mktemp("keeping") / "data", *FLAGS) as daemon:
        yield daemon


@pytest.fixture
def keeper(keeping: Daemon) -> Iterator[Client]:
    """A connection to it."""
    with Client(keeping.port) as connection:
        yield connection


def stored(daemon: Daemon, client: Client, measurement: str, database: str) -> dict[str, list[Any]]:
    client.wait_until_stored()
    return files.columns(daemon.where.root, measurement, database)


def lines(client: Client, database: str, *content: str, **headers: str) -> int:
    body = "\n".join(content).encode()
    return client.post(body, f"/write?db={database}&precision=us", **headers).status


def arc(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), ["quarantine", *map(str, arguments)])


def test_one_bad_measurement_does_not_hold_up_the_others(
    keeping: Daemon, keeper: Client, database: str
) -> None:
    assert lines(keeper, database, f"cpu v=1 {NOW_US}") == 204
    before = keeper.metrics().value("arc_bad_rows_total", fate="quarantined")
    content = (f'cpu v="text" {NOW_US + 1}', f"cpu v=2 {NOW_US + 2}", f"mem v=3 {NOW_US}", "bad")
    assert lines(keeper, database, *content) == 204
    assert stored(keeping, keeper, "cpu", database)["v"] == [1.0, 2.0]
    assert stored(keeping, keeper, "mem", database)["v"] == [3.0]
    kept = stored(keeping, keeper, "_quarantine", database)
    assert kept["body"] == [content[0].encode(), b"bad"]
    assert kept["line"] == [1, 4]
    assert kept["measurement"] == ["cpu", None]
    assert kept["reason"] == ["type_conflict", "payload"]
    assert kept["door"] == ["line_protocol"] * 2
    after = keeper.metrics().value("arc_bad_rows_total", fate="quarantined")
    assert after - before == 2


def test_the_header_goes_before_the_setting(
    keeping: Daemon, keeper: Client, client: Client, database: str
) -> None:
    assert lines(keeper, database, "m v=1", "bad", x_arc_on_bad_rows="reject") == 400
    assert lines(client, database, "m v=1", "bad") == 400  # the common daemon rejects
    assert lines(client, database, "m v=1", "bad", x_arc_on_bad_rows="quarantine") == 204


def test_rows_of_a_map_are_kept_one_by_one(keeping: Daemon, keeper: Client, database: str) -> None:
    keeper.write(columnar("m", time=[NOW_US], v=["text"], w=[1]), database)
    body = columnar("m", time=[NOW_US + 1, NOW_US + 2], v=[1.5, None], w=[2, 3])
    keeper.write(body, database)
    assert stored(keeping, keeper, "m", database)["w"] == [1, 3]
    kept = stored(keeping, keeper, "_quarantine", database)
    assert kept["format"] == ["msgpack"]
    assert kept["reason"] == ["type_conflict"]


def test_a_body_that_cannot_be_taken_apart_is_refused(keeper: Client, database: str) -> None:
    assert keeper.post(b"\xc1", x_arc_database=database).status == 400
    assert keeper.post(b"", x_arc_database=database).status == 400


def test_nobody_writes_into_the_quarantine(keeper: Client, client: Client, database: str) -> None:
    refused = client.refusal(columnar("_quarantine", v=[1]), database)
    assert "_quarantine" in refused


def test_records_of_otlp_are_kept_and_not_counted_as_refused(
    keeping: Daemon, keeper: Client, database: str
) -> None:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(time_unix_nano=2**64 - 1).body.string_value = "bad"
    records.add(time_unix_nano=NOW_US * 1_000).body.string_value = "good"
    reply = keeper.post(
        request.SerializeToString(),
        "/v1/logs",
        content_type="application/x-protobuf",
        x_arc_database=database,
    )
    assert reply.status == 200
    success = ExportLogsServiceResponse.FromString(reply.body).partial_success
    assert success.rejected_log_records == 0
    assert success.error_message  # a warning
    assert stored(keeping, keeper, "otel_logs", database)["body"] == ["good"]
    [kept] = stored(keeping, keeper, "_quarantine", database)["body"]
    assert "bad" in json.dumps(json.loads(kept))


def test_attributes_of_another_type_than_their_column_are_stored_elsewhere(
    keeping: Daemon, client: Client, live: Daemon, database: str
) -> None:
    def send(**value: Any) -> None:
        request = ExportLogsServiceRequest()
        record = request.resource_logs.add().scope_logs.add().log_records.add()
        record.time_unix_nano = NOW_US * 1_000
        attribute = record.attributes.add(key="code")
        for kind, content in value.items():
            setattr(attribute.value, kind, content)
        reply = client.post(
            request.SerializeToString(),
            "/v1/logs",
            content_type="application/x-protobuf",
            x_arc_database=database,
        )
        assert (reply.status, reply.body) == (200, b"")

    send(int_value=200)
    send(string_value="OK")
    found = stored(live, client, "otel_logs", database)
    assert sorted(found["attributes.code"], key=str) == [200, None]
    assert [json.loads(text) for text in found["attributes_json"] if text] == [
        {"attributes.code": "OK"}
    ]


def test_a_repeated_key_stores_nothing_again(
    keeping: Daemon, keeper: Client, database: str
) -> None:
    content = (f"m v=1 {NOW_US}", "bad")
    for _ in range(3):
        assert lines(keeper, database, *content, idempotency_key=f"key of {database}") == 204
    assert lines(keeper, database, "other", idempotency_key=f"key of {database}") == 422
    assert stored(keeping, keeper, "m", database)["v"] == [1.0]
    assert stored(keeping, keeper, "_quarantine", database)["body"] == [b"bad"]


def test_what_was_decided_is_what_a_replay_repeats(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    kept = ("--workers", "1", "--on-bad-rows", "quarantine")
    with serving(data_dir, *kept, "--flush-age-s", "3600") as daemon:
        with Client(daemon.port) as client:
            assert lines(client, "db", f"m v=1 {NOW_US}") == 204
            assert lines(client, "db", f'm v="no" {NOW_US}', f"m v=2 {NOW_US + 1}", "bad") == 204
            repeated = {"idempotency_key": "k"}
            assert lines(client, "db", f"m v=3 {NOW_US + 2}", "worse", **repeated) == 204
        daemon.abandon()
    with serving(data_dir, *FLAGS) as daemon, Client(daemon.port) as client:
        assert lines(client, "db", f"m v=3 {NOW_US + 2}", "worse", idempotency_key="k") == 204
        assert stored(daemon, client, "m", "db")["v"] == [1.0, 2.0, 3.0]
        found = stored(daemon, client, "_quarantine", "db")
        assert sorted(found["body"]) == [b"bad", f'm v="no" {NOW_US}'.encode(), b"worse"]


def test_kept_rows_are_listed_and_sent_again_once_their_table_takes_them(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    where = ("--data-dir", data_dir)
    with serving(data_dir, *FLAGS, "--max-columns", "10") as daemon, Client(daemon.port) as client:
        fields = ",".join(f"{name}=1" for name in "abdefghij")
        assert lines(client, "db", f"m {fields} {NOW_US}") == 204
        assert lines(client, "db", f"m c=3 {NOW_US + 1}") == 204
        client.wait_until_stored()
        listed = json.loads(arc("list", "--json", *where).output)
        assert [(row["measurement"], row["reason"]) for row in listed] == [("m", "limit")]
        refused = arc("replay", "--all", *where)
        assert refused.exit_code == 1, refused.output
    with serving(data_dir, *FLAGS) as daemon, Client(daemon.port) as client:
        again = arc("replay", "--all", *where)
        assert again.exit_code == 0, again.output
        assert json.loads(arc("list", "--json", *where).output) == []
        assert stored(daemon, client, "m", "db")["c"] == [None, 3.0]
