"""Runs bodies through a whole pipeline in this process: decompress, decode, accept, flush, store.

In: requests, as a client sends them. Out: their rows as Parquet files in a temporary folder, which
is removed, and how many they were. What a daemon does with a request but for HTTP, and what it
does when it replays its log; for HTTP use a daemon.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from benchmarks.load.payloads import Payloads, Times
from benchmarks.load.spec import LoadSpec
from ingest import arrow_ipc, line_protocol, msgpack_decoder
from ingest.arrow_writer import WriterSettings
from ingest.decoders import Parameters, decode
from ingest.decompress import decompress
from ingest.errors import IngestError
from ingest.instruments import null
from ingest.kernels.__main__ import warm_all
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.otlp import decoder as otlp_decoder
from ingest.pipeline import Durability, Pipeline, PipelineSettings
from ingest.timestamps import TimeUnit

MAX_BODY_BYTES = 512 * 2**20
DATABASE = "profile_lines"

#: Formats of recorded bodies, by what `--format` says.
FORMATS = {
    "columnar": Format.MSGPACK,
    "rows": Format.MSGPACK,
    "line-protocol": Format.LINE_PROTOCOL,
    "arrow": Format.ARROW,
    "otlp-logs": Format.OTLP_LOGS,
    "otlp-logs-json": Format.OTLP_LOGS_JSON,
    "otlp-traces": Format.OTLP_TRACES,
    "otlp-traces-json": Format.OTLP_TRACES_JSON,
    "otlp-metrics": Format.OTLP_METRICS,
    "otlp-metrics-json": Format.OTLP_METRICS_JSON,
}

#: First bytes of compressed bodies.
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class BodyError(Exception):
    """A body that the pipeline does not take. The message names it."""


class Request(msgspec.Struct, frozen=True):
    """A body and what its headers would say.

    Attributes:
        name: For messages.
        body: As sent, compressed or not.
        encoding: Of the body: "", "gzip" or "zstd".
        head: What the pipeline is told of it.
    """

    name: str
    body: bytes
    encoding: str
    head: RecordHead


def recorded(path: Path, form: str, measurement: str, unit: TimeUnit | None) -> Request:
    """A body from a file, whose first bytes tell whether it is compressed.

    Raises:
        BodyError: it is empty.
        OSError: it cannot be read.
    """
    body = path.read_bytes()
    if not body:
        raise BodyError(f"{path} is empty")
    encoding = next((name for magic, name in MAGIC.items() if body.startswith(magic)), "")
    params = Parameters(measurement).to_bytes() if form == "arrow" else b""
    return Request(
        str(path), body, encoding, RecordHead(FORMATS[form], DATABASE, unit, 0, b"", params)
    )


def generated(spec: LoadSpec, count: int) -> list[Request]:
    """The first `count` requests of a load, as the load generator sends them."""
    payloads = Payloads(spec, 0, "localhost")
    out = []
    for number in range(count):
        _, fixed, times = payloads.pieces(number, Times(spec.rows))
        body = bytes(fixed) + bytes(times)
        encoding = "" if spec.compression == "none" else spec.compression
        made = payloads.bodies[spec.order.body(number)]
        out.append(Request(f"request {number}", body, encoding, _head(spec, made.measurement)))
    return out


def _head(spec: LoadSpec, measurement: str) -> RecordHead:
    params = b""
    if spec.format == "arrow":
        tags = spec.load.tags if spec.declare_tags else ()
        params = Parameters(measurement, tuple(tags)).to_bytes()
    unit = TimeUnit(spec.load.time_unit) if spec.format == "line-protocol" else None
    return RecordHead(FORMATS[spec.format], DATABASE, unit, 0, b"", params)


def prefer_twins() -> None:
    """Have every decoder leave every body to its plain twin, in this process, for good."""

    def leave(*_args: object, **_kwargs: object) -> None:
        return None

    for module in (msgpack_decoder, line_protocol, arrow_ipc, otlp_decoder):
        vars(module)["decode_fast"] = leave


def run(
    requests: Sequence[Request],
    repeats: int,
    durability: Durability,
    began: Callable[[], None],
) -> int:
    """Take every request `repeats` times and store all rows; returns how many they were.

    Args:
        requests: At least one.
        repeats: Of the whole sequence.
        durability: Level of the pipeline.
        began: Called when kernels are loaded and tables are made, before anything counts.

    Raises:
        BodyError: the pipeline does not take one of them.
    """
    warm_all()
    with tempfile.TemporaryDirectory(prefix="arc-lines-") as name:
        return asyncio.run(_run(Path(name), requests, repeats, durability, began))


async def _run(
    folder: Path,
    requests: Sequence[Request],
    repeats: int,
    durability: Durability,
    began: Callable[[], None],
) -> int:
    limits = Limits()
    writer = WriterSettings()
    settings = PipelineSettings(folder, 0, 2**33, 0, writer, limits, durability)
    pipeline = Pipeline(settings, null(), log=_log())
    pipeline.start()
    await pipeline.recover()
    try:
        for request in requests:  # makes the tables
            await _take(pipeline, request, limits)
        began()
        rows = 0
        for _ in range(repeats):
            for request in requests:
                rows += await _take(pipeline, request, limits)
                await asyncio.sleep(0)  # flushes start on the loop
        return rows
    finally:
        await pipeline.drain()
        pipeline.close()


def _log() -> FilteringBoundLogger:
    """One line for an event, of warnings and worse, on standard error."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    return logger


async def _take(pipeline: Pipeline, request: Request, limits: Limits) -> int:
    try:
        body = decompress(request.body, request.encoding, MAX_BODY_BYTES)
        batches = decode(request.head, body, limits).batches
        accepted = pipeline.write(request.head, request.body, batches)
        return accepted if isinstance(accepted, int) else await accepted
    except IngestError as error:
        raise BodyError(f"{request.name}: {error}") from error
