"""OTLP over HTTP: `POST /v1/logs`, `/v1/traces` and `/v1/metrics`, protobuf and JSON.

The Content-Type of a request says which of the two it is, and its answer, refusals included, is
in the same. Records that no table takes are told as partial success, and the others are stored.

Protocol: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from arc import otlp_answers
from arc.door_handler import AiohttpHead, Body, DoorHandler
from arc.metrics import ShardMetrics
from arc.write_door import WriteDoor
from arc.write_routes import read_otlp_head
from ingest.errors import IngestError, MediaTypeError
from ingest.log_format import Format
from ingest.otlp.request import Signal

PROTOBUF, JSON = "application/x-protobuf", "application/json"

_FORMATS = {
    (Signal.LOGS, PROTOBUF): Format.OTLP_LOGS,
    (Signal.LOGS, JSON): Format.OTLP_LOGS_JSON,
    (Signal.TRACES, PROTOBUF): Format.OTLP_TRACES,
    (Signal.TRACES, JSON): Format.OTLP_TRACES_JSON,
    (Signal.METRICS, PROTOBUF): Format.OTLP_METRICS,
    (Signal.METRICS, JSON): Format.OTLP_METRICS_JSON,
}


def otlp_path(signal: Signal) -> str:
    """Where a signal is posted to."""
    return f"/v1/{signal}"


class OtlpHandler(DoorHandler):
    """Serves the path of one signal."""

    def __init__(
        self, signal: Signal, door: WriteDoor, metrics: ShardMetrics, body_timeout_s: float
    ) -> None:
        super().__init__(f"otlp_{signal}", door, metrics, body_timeout_s)
        self._signal = signal

    async def store(self, request: web.Request, body: Body) -> web.Response:
        """200 and an Export…ServiceResponse."""
        form = _FORMATS.get((self._signal, request.content_type))
        if form is None:
            found = request.headers.get("Content-Type", "nothing")
            raise MediaTypeError(f"Content-Type: found {found!r}, wanted {PROTOBUF} or {JSON}")
        head = read_otlp_head(AiohttpHead(request), form)
        storing = asyncio.ensure_future(self.door.store_partly(head, await self.read(body)))
        # A client that leaves cancels this handler, and must not cancel the storing.
        stored = await asyncio.shield(storing)
        is_json = request.content_type == JSON
        answer = otlp_answers.success(self._signal, is_json, stored.num_refused, stored.reason)
        return web.Response(body=answer, content_type=JSON if is_json else PROTOBUF)

    def refusal(self, request: web.Request, error: IngestError) -> web.Response:
        """A google.rpc.Status."""
        is_json = request.content_type != PROTOBUF
        return web.Response(
            status=error.status_hint,
            body=otlp_answers.status(is_json, error.status_hint, str(error)),
            content_type=JSON if is_json else PROTOBUF,
        )
