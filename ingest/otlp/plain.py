"""OTLP requests to column batches, by way of messages: the plain twin of `ingest.otlp.fast`.

It takes everything that the protocol allows, in both encodings, and words every refusal.
"""

from __future__ import annotations

from ingest.limits import Limits
from ingest.otlp import json_requests, protobuf
from ingest.otlp.records import RequestBuilder
from ingest.otlp.request import OtlpRequest, Signal


def decode_plain(
    body: bytes, signal: Signal, is_json: bool, now_us: int, limits: Limits
) -> OtlpRequest:
    """Decode a request; arguments, result and errors as `ingest.otlp.decoder.decode` has them."""
    builder = RequestBuilder(now_us, limits)
    add = {
        Signal.LOGS: builder.add_logs,
        Signal.TRACES: builder.add_spans,
        Signal.METRICS: builder.add_metrics,
    }[signal]
    read = json_requests.pieces if is_json else protobuf.pieces
    for piece in read(body, signal, limits):
        add(piece)
    return builder.finish()
