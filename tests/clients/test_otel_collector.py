"""The OpenTelemetry Collector: requests of its exporters `arc` and `otlphttp`, replayed.

Built byte for byte from their sources: github.com/Basekick-Labs/arc-opentelemetry-exporter, and
exporter/otlphttpexporter of go.opentelemetry.io/collector, whose JSON has 64-bit integers as
text, enumerations as numbers and ids as hexadecimal.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import zstandard
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.clients.conftest import Reader
from tests.clients.gocodec import Int32, Uint32, vmihailenco
from tests.e2e.client import WRITE, Client, Reply
from tests.support.daemon import Daemon
from tests.support.read_back import Values, binaries, booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_MS = 1_790_000_000_123
NOW_US = NOW_MS * 1_000
NOW_NS = NOW_US * 1_000 + 456_789

TRACE_ID = bytes(range(16))
SPAN_ID = bytes(range(8, 16))


# --- the exporter `arc` ------------------------------------------------------------------------


def push(http: Client, database: str, measurement: str, **columns: list[Any]) -> Reply:
    """One request of the exporter `arc`."""
    body = gzip.compress(vmihailenco({"m": measurement, "columns": columns}))
    headers = {
        "Content-Type": "application/msgpack",
        "Content-Encoding": "gzip",
        "X-Arc-Database": database,
        "Authorization": "Bearer secret",
        "User-Agent": "Go-http-client/1.1",
    }
    return http.request("POST", WRITE, body, headers)


def test_arc_metrics_with_attributes_as_columns(
    http: Client, database: str, stored: Reader
) -> None:
    columns: dict[str, list[Any]] = {
        "time": [NOW_MS, NOW_MS + 1],
        "value": [1.5, 2.0],
        "service.name": ["shop", "shop"],
        "http.response.status_code": [200, None],
        "cached": [None, True],
        "_monotonic": [True, False],
    }
    assert push(http, database, "http_server_duration", **columns).status == 204
    assert stored("http_server_duration") == {
        "time": times(NOW_US, NOW_US + 1_000),
        "value": floats(1.5, 2.0),
        "service.name": texts("shop", "shop"),
        "http.response.status_code": integers(200, None),
        "cached": booleans(None, True),
        "_monotonic": booleans(True, False),
    }


def test_arc_traces(http: Client, database: str, stored: Reader) -> None:
    columns: dict[str, list[Any]] = {
        "time": [NOW_MS, NOW_MS],
        "trace_id": [TRACE_ID.hex()] * 2,
        "span_id": [SPAN_ID.hex(), "00" * 7 + "01"],
        "parent_span_id": ["", SPAN_ID.hex()],
        "service_name": ["shop", "shop"],
        "operation_name": ["GET /", "SELECT é"],
        "span_kind": ["server", "client"],
        "duration_ns": [3_000_000, 2**40],
        "status_code": [Int32(0), Int32(2)],
        "status_message": ["", "no such table"],
        "db.rows": [None, 3],
        "raw": [b"\0\xff", None],
    }
    assert push(http, database, "distributed_traces", **columns).status == 204
    assert stored("distributed_traces") == {
        "time": times(NOW_US, NOW_US),
        "trace_id": texts(TRACE_ID.hex(), TRACE_ID.hex()),
        "span_id": texts(SPAN_ID.hex(), "00" * 7 + "01"),
        "parent_span_id": texts("", SPAN_ID.hex()),
        "service_name": texts("shop", "shop"),
        "operation_name": texts("GET /", "SELECT é"),
        "span_kind": texts("server", "client"),
        "duration_ns": integers(3_000_000, 2**40),
        "status_code": integers(0, 2),
        "status_message": texts("", "no such table"),
        "db.rows": integers(None, 3),
        "raw": binaries(b"\0\xff", None),
    }


def test_arc_logs(http: Client, database: str, stored: Reader) -> None:
    columns: dict[str, list[Any]] = {
        "time": [NOW_MS],
        "severity": ["WARN"],
        "severity_number": [Int32(13)],
        "body": ["a line\nand another"],
        "trace_id": [""],
        "span_id": [""],
        "trace_flags": [Uint32(2**32 - 1)],
        "service_name": ["shop"],
        "log.file.name": ["x.log"],
    }
    assert push(http, database, "logs", **columns).status == 204
    assert stored("logs") == {
        "time": times(NOW_US),
        "severity": texts("WARN"),
        "severity_number": integers(13),
        "body": texts("a line\nand another"),
        "trace_id": texts(""),
        "span_id": texts(""),
        "trace_flags": integers(2**32 - 1),
        "service_name": texts("shop"),
        "log.file.name": texts("x.log"),
    }


def test_arc_a_histogram_keeps_the_infinite_bound_of_its_last_bucket(
    http: Client, database: str, stored: Reader
) -> None:
    reply = push(
        http,
        database,
        "latency",
        time=[NOW_MS, NOW_MS + 1, NOW_MS + 2],
        value=[1.0, 2.0, 3.0],
        histogram_field=["bucket", "bucket", "bucket"],
        le=[5.0, 10.0, "+Inf"],
    )
    assert reply.status == 204
    assert stored("latency")["le"] == floats(5.0, 10.0, math.inf)


def test_arc_an_attribute_of_two_types_is_refused_by_its_place(http: Client, database: str) -> None:
    reply = push(http, database, "m", time=[NOW_MS, NOW_MS + 1], code=[200, "OK"])
    assert reply.status == 400
    assert "measurement 'm': column 'code', row 1" in reply.error


def test_arc_an_attribute_that_is_an_array_is_refused_by_its_place(
    http: Client, database: str
) -> None:
    reply = push(http, database, "m", time=[NOW_MS], value=[1.0], zones=[["a", "b"]])
    assert reply.status == 400
    assert "column 'zones', row 0" in reply.error


def test_arc_the_same_body_after_a_503_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    with Client(narrow.port) as http:
        with full() as relent:
            assert push(http, database, "m", time=[NOW_MS], value=[1.0]).status == 503
            relent()
        assert push(http, database, "m", time=[NOW_MS], value=[1.0]).status == 204
    assert stored("m", of=narrow) == {"time": times(NOW_US), "value": floats(1.0)}


# --- the exporter `otlphttp` -------------------------------------------------------------------

RESOURCE = {
    "attributes": [
        {"key": "service.name", "value": {"stringValue": "shop"}},
        {"key": "pid", "value": {"intValue": "4194304"}},
    ]
}
SCOPE = {"name": "lib", "version": "1"}

LOGS = {
    "resourceLogs": [
        {
            "resource": RESOURCE,
            "scopeLogs": [
                {
                    "scope": SCOPE,
                    "logRecords": [
                        {
                            "timeUnixNano": str(NOW_NS),
                            "observedTimeUnixNano": str(NOW_NS + 1_000),
                            "severityNumber": 13,
                            "severityText": "WARN",
                            "body": {"stringValue": "a line"},
                            "attributes": [
                                {"key": "ok", "value": {"boolValue": True}},
                                {
                                    "key": "list",
                                    "value": {"arrayValue": {"values": [{"doubleValue": 0.5}]}},
                                },
                            ],
                            "traceId": TRACE_ID.hex(),
                            "spanId": SPAN_ID.hex(),
                        }
                    ],
                }
            ],
        }
    ]
}
COMMON = {
    "time": times(NOW_NS // 1_000),
    "time_ns": integers(789),
    "resource.service.name": texts("shop"),
    "resource.pid": integers(4_194_304),
    "scope_name": texts("lib"),
    "scope_version": texts("1"),
}
LOG_ROWS = COMMON | {
    "observed_time_us": integers(NOW_NS // 1_000 + 1),
    "observed_time_ns": integers(789),
    "severity_number": integers(13),
    "severity_text": texts("WARN"),
    "body": texts("a line"),
    "attributes.ok": booleans(True),
    "attributes_json": texts('{"attributes.list":[0.5]}'),
    "trace_id": texts(TRACE_ID.hex()),
    "span_id": texts(SPAN_ID.hex()),
}

TRACES = {
    "resourceSpans": [
        {
            "resource": RESOURCE,
            "scopeSpans": [
                {
                    "scope": SCOPE,
                    "spans": [
                        {
                            "traceId": TRACE_ID.hex(),
                            "spanId": SPAN_ID.hex(),
                            "name": "GET /",
                            "kind": 2,
                            "startTimeUnixNano": str(NOW_NS),
                            "endTimeUnixNano": str(NOW_NS + 1_234_567),
                            "attributes": [{"key": "n", "value": {"intValue": "-7"}}],
                            "status": {"code": 2, "message": "lost"},
                        }
                    ],
                }
            ],
        }
    ]
}
SPAN_ROWS = COMMON | {
    "trace_id": texts(TRACE_ID.hex()),
    "span_id": texts(SPAN_ID.hex()),
    "name": texts("GET /"),
    "kind": texts("SERVER"),
    "end_time_us": integers((NOW_NS + 1_234_567) // 1_000),
    "end_time_ns": integers((NOW_NS + 1_234_567) % 1_000),
    "duration_ns": integers(1_234_567),
    "attributes.n": integers(-7),
    "status_code": texts("ERROR"),
    "status_message": texts("lost"),
}

METRICS = {
    "resourceMetrics": [
        {
            "resource": RESOURCE,
            "scopeMetrics": [
                {
                    "scope": SCOPE,
                    "metrics": [
                        {
                            "name": "latency",
                            "unit": "ms",
                            "summary": {
                                "dataPoints": [
                                    {
                                        "timeUnixNano": str(NOW_NS),
                                        "count": "3",
                                        "sum": 4.5,
                                        "quantileValues": [{"quantile": 0.5, "value": 1.5}],
                                        "attributes": [
                                            {"key": "city", "value": {"stringValue": "Ulm"}}
                                        ],
                                    }
                                ]
                            },
                        }
                    ],
                }
            ],
        }
    ]
}
SUMMARY_ROWS = COMMON | {
    "metric_name": texts("latency"),
    "metric_unit": texts("ms"),
    "count": integers(3),
    "sum": floats(4.5),
    "quantile_values_json": texts('[{"quantile":0.5,"value":1.5}]'),
    "attributes.city": texts("Ulm"),
}

#: By path: table, what is sent, the message that it is, that of the answer, what is stored.
SIGNALS: dict[str, tuple[str, dict[str, Any], Any, Any, dict[str, Values]]] = {
    "logs": ("otel_logs", LOGS, ExportLogsServiceRequest, ExportLogsServiceResponse, LOG_ROWS),
    "traces": (
        "otel_spans", TRACES, ExportTraceServiceRequest, ExportTraceServiceResponse, SPAN_ROWS
    ),
    "metrics": (
        "otel_metrics_summary", METRICS, ExportMetricsServiceRequest,
        ExportMetricsServiceResponse, SUMMARY_ROWS,
    ),
}  # fmt: skip

PROTOBUF, JSON = "application/x-protobuf", "application/json"


def encoded(signal: str, content_type: str) -> bytes:
    """A request in one of the two encodings."""
    _, content, message, _, _ = SIGNALS[signal]
    if content_type == JSON:
        return json.dumps(content, separators=(",", ":")).encode()
    data: bytes = _fill(message(), content).SerializeToString()
    return data


def _fill(message: Any, content: dict[str, Any]) -> Any:
    """A protobuf message of what the JSON says."""
    for key, value in content.items():
        field = next(f for f in message.DESCRIPTOR.fields if f.json_name == key)
        if field.message_type is None:
            setattr(message, field.name, _scalar(field, value))
        elif isinstance(value, list):
            for item in value:
                _fill(getattr(message, field.name).add(), item)
        else:
            _fill(getattr(message, field.name), value).SetInParent()
    return message


def _scalar(field: Any, value: Any) -> Any:
    if field.type == field.TYPE_BYTES:
        return bytes.fromhex(value)
    return int(value) if field.cpp_type in INTEGERS and isinstance(value, str) else value


#: CPPTYPE_INT64 and CPPTYPE_UINT64 of a protobuf field.
INTEGERS = (2, 4)

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "none": bytes,
    "zstd": zstandard.ZstdCompressor().compress,
}


def export(
    http: Client, database: str, path: str, body: bytes, content_type: str, compression: str
) -> Reply:
    """One request of the exporter `otlphttp`."""
    headers = {
        "Content-Type": content_type,
        "User-Agent": "OpenTelemetry Collector Contrib/0.140.0 (linux/amd64)",
        "X-Arc-Database": database,
        "Accept-Encoding": "gzip",
    } | ({} if compression == "none" else {"Content-Encoding": compression})
    return http.request("POST", f"/v1/{path}", COMPRESSIONS[compression](body), headers)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON], ids=["protobuf", "json"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_otlphttp(
    http: Client, database: str, stored: Reader, signal: str, content_type: str, compression: str
) -> None:
    table, _, _, response, want = SIGNALS[signal]
    body = encoded(signal, content_type)
    reply = export(http, database, signal, body, content_type, compression)
    assert reply.status == 200, reply
    assert reply.headers["content-type"].startswith(content_type)
    if content_type == PROTOBUF:
        assert not response.FromString(reply.body).partial_success.ByteSize()
    else:
        assert "partialSuccess" not in json.loads(reply.body)
    assert stored(table) == want


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON], ids=["protobuf", "json"])
def test_otlphttp_records_that_cannot_be_stored_are_counted_and_the_rest_is_kept(
    http: Client, database: str, stored: Reader, content_type: str
) -> None:
    content = json.loads(json.dumps(LOGS))
    records = content["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    records.append(records[0] | {"timeUnixNano": str(2**64 - 1)})
    body = (
        json.dumps(content).encode()
        if content_type == JSON
        else _fill(ExportLogsServiceRequest(), content).SerializeToString()
    )
    reply = export(http, database, "logs", body, content_type, "gzip")
    assert reply.status == 200, reply
    if content_type == JSON:
        said = json.loads(reply.body)["partialSuccess"]
        rejected, message = int(said["rejectedLogRecords"]), said["errorMessage"]
    else:
        partial = ExportLogsServiceResponse.FromString(reply.body).partial_success
        rejected, message = partial.rejected_log_records, partial.error_message
    assert rejected == 1
    assert message
    assert stored("otel_logs") == LOG_ROWS


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON], ids=["protobuf", "json"])
def test_otlphttp_a_refusal_is_a_status_in_the_encoding_of_the_request(
    http: Client, database: str, content_type: str
) -> None:
    reply = export(http, database, "traces", b"\xff{", content_type, "none")
    assert reply.status == 400
    assert reply.headers["content-type"].startswith(content_type)
    if content_type == JSON:
        assert json.loads(reply.body)["message"]
    else:
        assert Status.FromString(reply.body).message


def test_otlphttp_the_same_body_after_a_503_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    body = encoded("logs", PROTOBUF)
    with Client(narrow.port) as http:
        with full() as relent:
            reply = export(http, database, "logs", body, PROTOBUF, "gzip")
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert Status.FromString(reply.body).message
            relent()
        assert export(http, database, "logs", body, PROTOBUF, "gzip").status == 200
    assert stored("otel_logs", of=narrow) == LOG_ROWS
