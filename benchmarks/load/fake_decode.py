"""Every body that the load generator sends, read without any code of Arc's. Slow, and no reference.

In: the path, the headers and the body of a request. Out: a measurement and a table whose time is
timestamp[us, UTC] and first. It knows what the generator sends and nothing else of the formats.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import ormsgpack
import pyarrow as pa
import zstandard
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

_MS_LIMIT = 10**13

#: A measurement, times and the other columns.
_Found = tuple[str, list[int], dict[str, Any]]


def decode(
    body: bytes, path: str = "/api/v1/write/msgpack", headers: Mapping[str, str] | None = None
) -> tuple[str, pa.Table]:
    """Measurement and rows of one body, gzip and zstd undone."""
    headers = headers or {}
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    elif body[:4] == b"\x28\xb5\x2f\xfd":
        reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
        body = reader.read()
    if path.startswith("/api/v1/write/arrow"):
        return headers["x-arc-measurement"], _arrow(body)
    if path.startswith("/api/v1/write/line-protocol"):
        found = _lines(body)
    elif path.startswith("/v1/logs"):
        found = _logs(body) if headers["Content-Type"] != "application/json" else _logs_json(body)
    else:
        found = _msgpack(body)
    measurement, times, columns = found
    time = np.array(times, dtype=np.int64)
    time_us = time * 1000 if time[0] < _MS_LIMIT else time
    stored = pa.array(time_us).cast(pa.timestamp("us", "UTC"))
    return measurement, pa.table({"time": stored, **columns})


def _by_name(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _msgpack(body: bytes) -> _Found:
    payload = ormsgpack.unpackb(body)
    if isinstance(payload, dict):
        columns = dict(payload["columns"])
        return payload["m"], columns.pop("time"), columns
    rows = [row["tags"] | row["fields"] for row in payload]
    return payload[0]["m"], [row["t"] for row in payload], _by_name(rows)


def _lines(body: bytes) -> _Found:
    """Lines without escapes, strings or booleans."""
    rows, times, measurement = [], [], ""
    for line in body.decode().splitlines():
        key, fields, time = line.split(" ")
        measurement, *tags = key.split(",")
        row: dict[str, Any] = dict(tag.split("=") for tag in tags)
        for field in fields.split(","):
            name, value = field.split("=")
            row[name] = int(value[:-1]) if value.endswith("i") else float(value)
        rows.append(row)
        times.append(int(time))
    return measurement, times, _by_name(rows)


def _arrow(body: bytes) -> pa.Table:
    table = pa.ipc.open_stream(body).read_all()
    time = table.column("time").cast(pa.timestamp("us", "UTC"))
    rest = table.drop_columns(["time"])
    return rest.add_column(0, "time", time)


def _logs(body: bytes) -> _Found:
    rows, times = [], []
    for resource_logs in ExportLogsServiceRequest.FromString(body).resource_logs:
        resource = _any_values("resource.", resource_logs.resource.attributes)
        for record in [each for scope in resource_logs.scope_logs for each in scope.log_records]:
            assert record.time_unix_nano == record.observed_time_unix_nano
            row = {"severity_text": record.severity_text, "body": record.body.string_value}
            rows.append(resource | row | _any_values("attributes.", record.attributes))
            times.append(record.time_unix_nano // 1000)
    return "otel_logs", times, _by_name(rows)


def _any_values(prefix: str, attributes: Any) -> dict[str, Any]:
    return {
        prefix + each.key: getattr(each.value, each.value.WhichOneof("value"))
        for each in attributes
    }


def _logs_json(body: bytes) -> _Found:
    rows, times = [], []
    for resource_logs in json.loads(body)["resourceLogs"]:
        resource = _json_values("resource.", resource_logs["resource"]["attributes"])
        for record in [
            each for scope in resource_logs["scopeLogs"] for each in scope["logRecords"]
        ]:
            assert record["timeUnixNano"] == record["observedTimeUnixNano"]
            row = {"severity_text": record["severityText"], "body": record["body"]["stringValue"]}
            rows.append(resource | row | _json_values("attributes.", record["attributes"]))
            times.append(int(record["timeUnixNano"]) // 1000)
    return "otel_logs", times, _by_name(rows)


def _json_values(prefix: str, attributes: list[dict[str, Any]]) -> dict[str, Any]:
    out = {}
    for each in attributes:
        ((kind, value),) = each["value"].items()
        out[prefix + each["key"]] = int(value) if kind == "intValue" else value
    return out
