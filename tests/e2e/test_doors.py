"""Every door by hand: what comes in, what is answered, and what is in the files.

Real clients are in tests/clients/. Here is what they do not show: every path, both HTTP servers,
refusals word by word, and that a log of bodies of every format is replayed.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from backports import zstd
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from arc.write_routes import ROUTES
from tests.e2e import files
from tests.e2e.client import Client, Reply
from tests.support.daemon import serving

pytestmark = pytest.mark.e2e

Stored = Callable[..., dict[str, list[Any]]]

NOW_S = 1_790_000_000
NOW_US = NOW_S * 1_000_000
NOW_NS = NOW_US * 1_000

LINE_PATHS = sorted(route.path for route in ROUTES if route.door == "line_protocol")
PROTOBUF, JSON = "application/x-protobuf", "application/json"


def arrow_stream(**columns: pa.Array) -> bytes:
    table = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def logs(*bodies: str, time_ns: int = NOW_NS) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = "shop"
    scope = resource.scope_logs.add()
    for number, body in enumerate(bodies):
        record = scope.log_records.add(time_unix_nano=time_ns + number * 1_000)
        record.body.string_value = body
    return request


def post_otlp(client: Client, signal: str, body: bytes, kind: str, **headers: str) -> Reply:
    return client.post(body, f"/v1/{signal}", content_type=kind, **headers)


# -------------------------------------------------------------------------------- line protocol


@pytest.mark.parametrize("path", LINE_PATHS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress])
def test_lines_are_taken_on_every_path(
    client: Client,
    database: str,
    stored: Stored,
    path: str,
    compress: Callable[[bytes], bytes],
) -> None:
    lines = f"cpu,host=a usage=1.5,n=2i {NOW_S}\ncpu,host=b usage=2,ok=t {NOW_S + 1}\n"
    reply = client.post(compress(lines.encode()), f"{path}?db={database}&precision=s")
    assert (reply.status, reply.body) == (204, b"")
    assert stored("cpu") == {
        "time": [NOW_US, NOW_US + 1_000_000],
        "host": ["a", "b"],
        "usage": [1.5, 2.0],
        "n": [2, None],
        "ok": [None, True],
    }


@pytest.mark.parametrize(
    ("precision", "per_hour"),
    [("ns", 3_600 * 10**9), ("us", 3_600 * 10**6), ("ms", 3_600_000), ("m", 60), ("h", 1)],
)
def test_precision_is_the_unit_of_the_times(
    client: Client, database: str, stored: Stored, precision: str, per_hour: int
) -> None:
    hour = NOW_S // 3_600
    body = f"m v=1 {hour * per_hour}".encode()
    assert client.post(body, f"/write?db={database}&precision={precision}").status == 204
    assert stored("m")["time"] == [hour * 3_600 * 10**6]


def test_a_bad_line_refuses_the_request_and_is_named(client: Client, database: str) -> None:
    lines = b"ok v=1\nbad v=1x\n\nbad v=\nok v=2\n"
    reply = client.post(lines, f"/write?db={database}")
    assert reply.status == 400
    assert "line 2" in reply.error
    assert "2 of 4 lines" in reply.error


def test_clients_of_influxdb_2_find_the_message_where_they_look(
    client: Client, database: str
) -> None:
    reply = client.post(b"bad", f"/api/v2/write?bucket={database}&org=any")
    assert reply.status == 400
    assert reply.json["message"] == reply.error
    assert reply.json["code"] == "invalid"


def test_a_precision_that_is_none_is_refused(client: Client, database: str) -> None:
    reply = client.post(b"m v=1 1", f"/write?db={database}&precision=d")
    assert reply.status == 400
    assert "precision" in reply.error


# ---------------------------------------------------------------------------------------- arrow


def test_an_arrow_stream_is_taken(client: Client, database: str, stored: Stored) -> None:
    body = arrow_stream(
        time=pa.array([NOW_US, NOW_US + 1], pa.timestamp("us", "UTC")),
        host=pa.array(["a", None]),
        usage=pa.array([1.5, 2.5]),
        n=pa.array([1, None], pa.int32()),
    )
    reply = client.post(
        body,
        "/api/v1/write/arrow",
        x_arc_database=database,
        x_arc_measurement="cpu",
        x_arc_tags="host",
    )
    assert reply.status == 204, reply
    assert stored("cpu") == {
        "time": [NOW_US, NOW_US + 1],
        "host": ["a", None],
        "usage": [1.5, 2.5],
        "n": [1, None],
    }


def test_an_arrow_stream_without_its_measurement_is_refused(client: Client) -> None:
    reply = client.post(arrow_stream(v=pa.array([1])), "/api/v1/write/arrow")
    assert reply.status == 400
    assert "x-arc-measurement" in reply.error


# ----------------------------------------------------------------------------------------- otlp


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_logs_are_taken_as_protobuf(
    client: Client, database: str, stored: Stored, compress: Callable[[bytes], bytes]
) -> None:
    body = compress(logs("one", "two").SerializeToString())
    reply = post_otlp(client, "logs", body, PROTOBUF, x_arc_database=database)
    assert reply.status == 200, reply
    assert reply.headers["content-type"] == PROTOBUF
    answer = ExportLogsServiceResponse.FromString(reply.body)
    assert answer.partial_success.rejected_log_records == 0
    found = stored("otel_logs")
    assert found["body"] == ["one", "two"]
    assert found["resource.service.name"] == ["shop", "shop"]


def test_logs_are_taken_as_json(client: Client, database: str, stored: Stored) -> None:
    record = {"timeUnixNano": str(NOW_NS), "body": {"stringValue": "one"}}
    content = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    body = json.dumps(content).encode()
    reply = post_otlp(client, "logs", body, JSON, x_arc_database=database)
    assert (reply.status, reply.json) == (200, {})
    assert stored("otel_logs")["body"] == ["one"]


def test_a_body_of_otlp_may_have_64_mebibytes(
    client: Client, database: str, stored: Stored
) -> None:
    text = "x" * 2**18
    body = logs(*[text] * 255).SerializeToString()
    assert 63 * 2**20 < len(body) < 64 * 2**20
    reply = post_otlp(client, "logs", body, PROTOBUF, x_arc_database=database)
    assert (reply.status, reply.body) == (200, b"")
    assert [len(found) for found in stored("otel_logs")["body"]] == [len(text)] * 255
    too_long = bytes(64 * 2**20 + 1)
    assert post_otlp(client, "logs", too_long, PROTOBUF).status == 413


@pytest.mark.parametrize("signal", ["logs", "traces", "metrics"])
@pytest.mark.parametrize(("kind", "body"), [(PROTOBUF, b""), (JSON, b"{}")])
def test_an_empty_request_is_a_request(client: Client, signal: str, kind: str, body: bytes) -> None:
    assert post_otlp(client, signal, body, kind).status == 200


def test_records_that_no_table_takes_are_counted_and_the_rest_is_stored(
    client: Client, database: str, stored: Stored
) -> None:
    request = logs("good")
    bad = request.resource_logs[0].scope_logs[0].log_records.add(time_unix_nano=2**64 - 1)
    bad.body.string_value = "from the year 2554"
    body = request.SerializeToString()
    reply = post_otlp(client, "logs", body, PROTOBUF, x_arc_database=database)
    assert reply.status == 200
    answer = ExportLogsServiceResponse.FromString(reply.body).partial_success
    assert answer.rejected_log_records == 1
    assert "outside the years" in answer.error_message
    assert stored("otel_logs")["body"] == ["good"]


def test_an_attribute_whose_name_no_column_can_have_is_stored_as_json(
    client: Client, database: str, stored: Stored
) -> None:
    request = logs("body")
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.attributes.add(key="a\0b").value.int_value = 7
    body = request.SerializeToString()
    reply = post_otlp(client, "logs", body, PROTOBUF, x_arc_database=database)
    assert (reply.status, reply.body) == (200, b"")
    [text] = stored("otel_logs")["attributes_json"]
    assert json.loads(text) == {"attributes.a\0b": 7}


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_a_refusal_is_a_status_in_the_encoding_of_the_request(client: Client, kind: str) -> None:
    reply = post_otlp(client, "logs", b"\xff\xff", kind)
    assert reply.status == 400
    assert reply.headers["content-type"] == kind
    if kind == PROTOBUF:
        status = Status.FromString(reply.body)
        assert (status.code, bool(status.message)) == (3, True)
    else:
        assert (reply.json["code"], bool(reply.json["message"])) == (3, True)


def test_another_kind_of_body_is_a_415(client: Client) -> None:
    reply = post_otlp(client, "logs", b"{}", "text/plain")
    assert reply.status == 415
    assert "text/plain" in reply.json["message"]


# ------------------------------------------------------------------------------ beside the doors


def test_a_ping_says_which_influxdb_it_speaks(client: Client) -> None:
    for method in ("GET", "HEAD"):
        reply = client.request(method, "/ping")
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["x-influxdb-version"].startswith("1.8")
    assert client.get("/ping?verbose=true").json["version"].startswith("1.8")


def test_a_database_may_be_made_and_nothing_else_is_answered(client: Client) -> None:
    made = client.post(b"", "/query?q=CREATE%20DATABASE%20telegraf")
    assert made.json == {"results": [{"statement_id": 0}]}
    form = client.post(
        b"q=CREATE+DATABASE+x", "/query", content_type="application/x-www-form-urlencoded"
    )
    assert form.status == 200
    refused = client.get("/query?q=DROP%20DATABASE%20x")
    assert refused.status == 400
    assert "DROP DATABASE x" in refused.error


def test_databases_and_measurements_are_listed(
    client: Client, database: str, stored: Stored
) -> None:
    client.post(b"cpu v=1\nmem v=1", f"/write?db={database}")
    stored("cpu"), stored("mem")
    found = client.get(f"/api/v1/measurements?database={database}").json
    assert found["success"] is True
    assert found["count"] == 2
    assert [entry["measurement"] for entry in found["measurements"]] == ["cpu", "mem"]
    for entry in found["measurements"]:
        assert entry["database"] == database
        assert entry["storage_path"] == f"{database}/{entry['measurement']}"
        assert entry["file_count"] == 1
        assert entry["total_size_mb"] > 0
    databases = client.get("/api/v1/databases").json["databases"]
    assert {"name": database, "measurement_count": 2} in databases


# --------------------------------------------------------------------------------------- the log


def fill(client: Client) -> None:
    """One body through every door, of each in a database of its own."""
    metrics = ExportMetricsServiceRequest()
    metric = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.gauge.data_points.add(time_unix_nano=NOW_NS, as_double=1.5)
    traces = ExportTraceServiceRequest()
    span = traces.resource_spans.add().scope_spans.add().spans.add(name="s")
    span.trace_id, span.start_time_unix_nano = bytes(range(16)), NOW_NS
    row = {"m": "m", "t": NOW_US, "fields": {"v": 1}}
    answers = [
        client.post({"m": "m", "columns": {"v": [1]}}, x_arc_database="columns"),
        client.post(row, x_arc_database="rows"),
        client.post(b"m v=1 29833333", "/write?db=lines&precision=m"),
        client.post(
            arrow_stream(v=pa.array([1])),
            "/api/v1/write/arrow",
            x_arc_database="arrow",
            x_arc_measurement="m",
        ),
        post_otlp(client, "logs", logs("x").SerializeToString(), PROTOBUF, x_arc_database="otlp"),
        post_otlp(client, "traces", traces.SerializeToString(), PROTOBUF, x_arc_database="otlp"),
        post_otlp(client, "metrics", metrics.SerializeToString(), PROTOBUF, x_arc_database="otlp"),
        post_otlp(client, "logs", b"{}", JSON, x_arc_database="otlp"),
    ]
    assert [reply.status for reply in answers] == [204] * 4 + [200] * 4, answers


def test_bodies_of_every_format_come_back_from_the_log_after_a_kill(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--workers", "1", "--flush-age-s", "3600") as daemon:
        with Client(daemon.port) as client:
            fill(client)
        daemon.abandon()
    flags = ("--workers", "1", "--flush-age-s", "0.05")
    with serving(data_dir, *flags) as daemon, Client(daemon.port) as client:
        client.wait_until_stored()
        assert client.metrics()["arc_rows_quarantined_total"] == 0
        assert client.metrics()["arc_rows_replayed_total"] == 7
    tables = [("columns", "m"), ("rows", "m"), ("lines", "m"), ("arrow", "m")]
    for database, measurement in tables:
        assert files.columns(data_dir, measurement, database)["v"] == [1], database
    assert files.columns(data_dir, "m", "lines")["time"] == [29833333 * 60 * 10**6]
    for measurement in ("otel_logs", "otel_spans", "otel_metrics_gauge"):
        assert files.table(data_dir, measurement, "otlp").num_rows == 1
