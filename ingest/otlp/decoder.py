"""OTLP requests to column batches. Pure: bytes in, `ColumnBatch`es and refused records out.

A request is an `ExportLogsServiceRequest`, `ExportTraceServiceRequest` or
`ExportMetricsServiceRequest`, in protobuf or in JSON. `decode` is the way in: the fast path first,
and where it leaves a request alone, the plain twin. Which columns there are,
`ingest.otlp.schema` says.

Format: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

from ingest.limits import Limits
from ingest.otlp.fast import decode_fast
from ingest.otlp.plain import decode_plain
from ingest.otlp.request import OtlpRequest, RefusedRecord, Signal

__all__ = ["OtlpRequest", "RefusedRecord", "Signal", "decode"]


def decode(body: bytes, signal: Signal, is_json: bool, now_us: int, limits: Limits) -> OtlpRequest:
    """Decode a request.

    Args:
        body: The decompressed body. In protobuf, an empty one is a request without records.
        signal: What it exports.
        is_json: Whether it is JSON; otherwise it is protobuf.
        now_us: Time of records that have none, microseconds since 1970-01-01T00:00Z.
        limits: Budgets of one request.

    Returns:
        Batches, and records that no table can hold. Both may be empty.

    Raises:
        DecodeError: the bytes are not such a request.
        LimitError: over a budget.
        TooLargeError: its columns would take too much memory.
    """
    batches = decode_fast(body, signal, is_json, now_us, limits)
    if batches is not None:
        return OtlpRequest(batches, [])
    return decode_plain(body, signal, is_json, now_us, limits)
