"""Answers to OTLP requests are what the protocol's own classes read."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from arc import otlp_answers
from ingest.otlp.request import Signal

RESPONSES: list[tuple[Signal, Any, str]] = [
    (Signal.LOGS, ExportLogsServiceResponse, "rejected_log_records"),
    (Signal.TRACES, ExportTraceServiceResponse, "rejected_spans"),
    (Signal.METRICS, ExportMetricsServiceResponse, "rejected_data_points"),
]

MESSAGES = [
    "",
    "time is outside the years 1970 to 2262",
    "größe",
    "x" * 127,
    "x" * 128,
    "y" * 99_999,
]


def read(message: Any, data: bytes, is_json: bool) -> Any:
    if is_json:
        return json_format.Parse(data, message())
    return message.FromString(data)


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize(("signal", "message", "field"), RESPONSES)
def test_a_full_success_sets_nothing(
    signal: Signal, message: Any, field: str, is_json: bool
) -> None:
    answer = otlp_answers.success(signal, is_json)
    assert answer == (b"{}" if is_json else b"")
    assert not read(message, answer, is_json).HasField("partial_success")


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("refused", [0, 1, 2**40])
@pytest.mark.parametrize(("signal", "message", "field"), RESPONSES)
def test_a_partial_success_counts_and_explains(
    signal: Signal, message: Any, field: str, refused: int, is_json: bool
) -> None:
    answer = otlp_answers.success(signal, is_json, refused, "no room for größe")
    found = read(message, answer, is_json).partial_success
    assert getattr(found, field) == refused
    assert found.error_message == "no room for größe"


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("text", MESSAGES)
def test_a_refusal_is_a_status(text: str, is_json: bool) -> None:
    found = read(Status, otlp_answers.status(is_json, 400, text), is_json)
    assert (found.code, found.message) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("http_status", "code"),
    [
        (400, Code.INVALID_ARGUMENT),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.NOT_FOUND),
        (405, Code.UNIMPLEMENTED),
        (408, Code.DEADLINE_EXCEEDED),
        (409, Code.ABORTED),
        (413, Code.RESOURCE_EXHAUSTED),
        (429, Code.RESOURCE_EXHAUSTED),
        (500, Code.INTERNAL),
        (503, Code.UNAVAILABLE),
        (418, Code.UNKNOWN),
    ],
)
def test_the_code_follows_from_the_status(http_status: int, code: int) -> None:
    for is_json in (False, True):
        assert read(Status, otlp_answers.status(is_json, http_status, "m"), is_json).code == code


def test_a_message_that_is_no_text_is_sent_as_near_as_possible() -> None:
    for is_json in (False, True):
        answer = otlp_answers.status(is_json, 400, "name \ud800")
        assert read(Status, answer, is_json).message == "name ?"
