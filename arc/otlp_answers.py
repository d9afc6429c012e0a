"""Answers to OTLP requests, in the encoding that they came in.

In: what became of a request. Out: the bytes of an `Export…ServiceResponse` or a
`google.rpc.Status`, as protobuf or JSON. Pure; knows no server.

Format: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

from typing import Any

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from ingest.otlp.request import Signal

#: Message of the answer, and its field for the number of refused records, in both encodings.
_RESPONSES: dict[Signal, tuple[Any, str, str]] = {
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords"),
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans", "rejectedSpans"),
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints"),
}

#: HTTP status -> google.rpc.Code, https://github.com/googleapis/googleapis google/rpc/code.proto.
_CODES = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    405: 12,  # UNIMPLEMENTED
    408: 4,  # DEADLINE_EXCEEDED
    409: 10,  # ABORTED
    413: 8,  # RESOURCE_EXHAUSTED
    415: 3,
    422: 3,
    429: 8,
    500: 13,  # INTERNAL
    503: 14,  # UNAVAILABLE
}
_UNKNOWN = 2


def success(signal: Signal, is_json: bool, num_refused: int = 0, reason: str = "") -> bytes:
    """The body of a 200: an `Export…ServiceResponse`.

    Args:
        signal: What was exported.
        is_json: Whether the request was JSON.
        num_refused: Records that are not stored.
        reason: Why not, for people; also a warning when every record is stored.
    """
    message, field, json_field = _RESPONSES[signal]
    if not num_refused and not reason:  # the protocol wants the field unset then
        return b"{}" if is_json else b""
    if is_json:  # int64 is a string in JSON
        partial = {json_field: str(num_refused), "errorMessage": reason}
        return msgspec.json.encode({"partialSuccess": partial})
    whole = message(partial_success={field: num_refused, "error_message": reason})
    return bytes(whole.SerializeToString())


def status(is_json: bool, http_status: int, message: str) -> bytes:
    """The body of any other answer: a `google.rpc.Status`.

    Args:
        is_json: Whether the request was JSON.
        http_status: Of the answer; the code of the message follows from it.
        message: What went wrong, for people.
    """
    code = _CODES.get(http_status, _UNKNOWN)
    text = message.encode(errors="replace")  # a message may repeat what was no text
    if is_json:
        return msgspec.json.encode({"code": code, "message": text.decode()})
    # Two fields, written by hand: 1, a varint below 128, and 2, a text. The generated class is in
    # a package of its own.
    return bytes((0x08, code)) + (b"\x12" + _varint(len(text)) + text if text else b"")


def _varint(number: int) -> bytes:
    """An unsigned number in base 128, the lowest digits first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
