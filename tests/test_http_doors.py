"""Both doors, the fast one and aiohttp, over real sockets: the same request, the same answer.

A request goes to aiohttp when it is chunked, so each case is sent both ways.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httptools
import ormsgpack
import pytest
import structlog
from backports import zstd

from arc.config import Config, resolve
from arc.fast_door import MAX_HEAD_BYTES, MAX_KNOWN_HEAD_BYTES, MAX_KNOWN_HEADS
from arc.metrics import Totals
from arc.metrics_table import METRICS
from arc.runtime import DAEMON_JSON
from arc.worker import Worker
from ingest import decoders
from ingest.decoders import Decoded
from ingest.limits import Limits
from ingest.log_format import RecordHead

PATH = "/api/v1/write/msgpack"


def columnar(measurement: object = "cpu", **columns: Sequence[object]) -> bytes:
    columns = columns or {"time": [1_700_000_000_000_000], "usage": [1.5]}
    return ormsgpack.packb({"m": measurement, "columns": columns})


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Reply(int(lines[0].split()[1]), headers, body)


def with_length(body: bytes, headers: dict[str, str], path: str = PATH) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def chunked(body: bytes, headers: dict[str, str], path: str = PATH) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"POST {path} HTTP/1.1\r\nHost: a\r\n{head}Transfer-Encoding: chunked\r\n\r\n"
    middle = f"{len(body):x}\r\n".encode() + body + b"\r\n" if body else b""
    return start.encode() + middle + b"0\r\n\r\n"


DOORS = pytest.mark.parametrize("door", [with_length, chunked], ids=["fast", "aiohttp"])
Send = Callable[[bytes, dict[str, str]], bytes]
Serve = Callable[..., Awaitable[tuple[Worker, int]]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    workers: list[Worker] = []

    async def start(**settings: object) -> tuple[Worker, int]:
        (tmp_path / ".arc" / "run").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".arc" / "run" / DAEMON_JSON).touch()  # what the supervisor does
        config = resolve(Config(data_dir=str(tmp_path), workers=1, **settings))  # type: ignore[arg-type]
        worker = Worker(config, 0, structlog.get_logger())
        listener = socket.create_server(("127.0.0.1", 0))
        await worker.recover()
        await worker.listen(listener)
        workers.append(worker)
        return worker, listener.getsockname()[1]

    yield start
    for worker in workers:
        if worker.running:
            await worker.stop()


async def ask(port: int, raw: bytes) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    reply = await read_reply(reader)
    writer.close()
    await writer.wait_closed()
    return reply


@DOORS
@pytest.mark.parametrize(
    "body",
    [
        columnar(),
        gzip.compress(columnar()),
        zstd.compress(columnar()),
        columnar() + columnar("mem"),
        ormsgpack.packb([{"m": "a", "columns": {"x": [1]}}, {"m": "b", "columns": {"y": ["z"]}}]),
        columnar("big", x=list(range(2**62, 2**62 + 40_000))),  # more than one read
        columnar("huge", x=[1.5] * 100_000),  # decoded in a thread
    ],
    ids=["plain", "gzip", "zstd", "two", "array", "big", "huge"],
)
async def test_a_good_body_is_answered_204_with_its_durability(
    serve: Serve, door: Callable[..., bytes], body: bytes
) -> None:
    _, port = await serve()
    reply = await ask(port, door(body, {}))
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["x-arc-durability"] == "disk"


@DOORS
async def test_the_loop_tries_a_body_once_before_it_leaves_it_to_a_thread(
    serve: Serve, door: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def decode_fast(head: RecordHead, body: bytes, limits: Limits) -> Decoded | None:
        tried.append(len(body))
        return decoders.decode_fast(head, body, limits)

    monkeypatch.setattr("arc.write_door.decode_fast", decode_fast)
    _, port = await serve()
    body = columnar("m", v=[1, 2.5, "+Inf"])  # which only the twin understands
    assert (await ask(port, door(body, {}))).status == 204
    assert tried == [len(body)]


@DOORS
@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "empty"),
        (b"\xc1", {}, 400, "byte 0"),
        (columnar()[:-1], {}, 400, "cut off"),
        (columnar() + b"\xc1", {}, 400, "stopped at byte"),
        (gzip.compress(columnar(), mtime=0)[:-1], {}, 400, "gzip"),
        (columnar(), {"Content-Encoding": "gzip"}, 400, "the bytes say"),
        (columnar(), {"x-arc-database": "no spaces"}, 400, "no spaces"),
        (columnar(), {"x-arc-time-unit": "h"}, 400, "x-arc-time-unit"),
        (columnar(a=[1, 2], b=[1]), {}, 400, "'b' has 1 values"),
        (columnar("x\x00"), {}, 400, "U+0000"),
        (ormsgpack.packb({"m": "a", "fields": {}}), {}, 400, "fields"),
        (bytes(3_000), {}, 413, "2048 bytes (ARC_MAX_BODY_BYTES)"),
        (gzip.compress(bytes(9_000), mtime=0), {}, 413, "8192 bytes (ARC_MAX_DECOMPRESSED_BYTES)"),
    ],
)
async def test_a_bad_body_is_refused_with_the_reason(
    serve: Serve,
    door: Callable[..., bytes],
    body: bytes,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    _, port = await serve(max_body_bytes=2048, max_decompressed_bytes=8192)
    reply = await ask(port, door(body, headers))
    assert reply.status == status
    assert words in reply.error
    assert reply.headers["content-type"].startswith("application/json")


async def test_requests_follow_each_other_on_one_connection_also_after_a_refusal(
    serve: Serve,
) -> None:
    _, port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for body, status in [(columnar(), 204), (b"\xc1", 400), (columnar(), 204)] * 2:
        writer.write(with_length(body, {}))
        assert (await read_reply(reader)).status == status
    writer.close()


async def test_a_head_that_came_before_is_not_parsed_again_and_means_the_same(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    parser = httptools.HttpRequestParser

    def counted(head: object) -> httptools.HttpRequestParser:
        parsed.append(head)
        return parser(head)

    monkeypatch.setattr("arc.fast_door.httptools.HttpRequestParser", counted)
    worker, port = await serve(durability="memory")
    heads: list[dict[str, str]] = [{}, {"x-arc-database": "other"}, {"x-arc-time-unit": "s"}]
    for number in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for head in heads:
            time = 1_700_000_000 if "x-arc-time-unit" in head else 1_700_000_000_000_000
            writer.write(with_length(columnar(time=[time], usage=[float(number)]), head))
            assert (await read_reply(reader)).status == 204
        writer.close()
    assert len(parsed) == 3
    await worker.pipeline.drain()
    tables = {e.table.database: e.content.num_rows for e in worker.pipeline.tables()}
    assert tables == {"default": 6, "other": 3}


async def test_a_head_that_came_before_is_refused_when_there_is_no_room(serve: Serve) -> None:
    worker, port = await serve()
    assert (await ask(port, with_length(columnar(), {}))).status == 204
    worker.pipeline.budget.force(worker.pipeline.budget.limit_bytes)
    assert (await ask(port, with_length(columnar(), {}))).status == 503
    worker.pipeline.budget.give_back(worker.pipeline.budget.limit_bytes)
    assert (await ask(port, with_length(columnar(), {}))).status == 204


async def test_only_heads_that_come_again_and_were_taken_are_remembered(serve: Serve) -> None:
    worker, port = await serve()
    known = worker._fast._known_heads
    for head, status in [
        ({"Connection": "close"}, 204),
        ({"Idempotency-Key": "k"}, 204),
        ({"x-arc-database": "no spaces"}, 400),
        ({"User-Agent": "a" * MAX_KNOWN_HEAD_BYTES}, 204),
    ]:
        for _ in range(2):
            assert (await ask(port, with_length(columnar(), head))).status == status
    assert not known
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(MAX_KNOWN_HEADS + 1):
        writer.write(with_length(columnar(), {"User-Agent": str(number)}))
        assert (await read_reply(reader)).status == 204
    writer.close()
    assert len(known) == 1


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    _, port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bodies = [columnar(f"m{i}", x=[i]) for i in range(5)] + [b"\xc1", columnar()]
    writer.write(b"".join(with_length(body, {}) for body in bodies))
    statuses = [(await read_reply(reader)).status for _ in bodies]
    assert statuses == [204, 204, 204, 204, 204, 400, 204]
    writer.close()


async def test_a_request_may_arrive_byte_by_byte(serve: Serve) -> None:
    _, port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in with_length(columnar(), {"x-arc-database": "db"}):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert (await read_reply(reader)).status == 204
    writer.close()


async def test_a_connection_changes_over_to_aiohttp_with_what_it_already_sent(
    serve: Serve,
) -> None:
    _, port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    get = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    writer.write(with_length(columnar(), {}) + get + with_length(columnar(), {}) + get)
    assert [(await read_reply(reader)).status for _ in range(4)] == [204, 200, 204, 200]
    writer.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /api/v1/write/msgpack\r\n\r\n", 400),
        (b"\x16\x03\x01 TLS hello \r\n\r\n", 400),
        (b"POST /api/v1/write/msgpack HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6), 431),
    ],
)
async def test_what_is_not_http_is_refused_and_the_connection_closed(
    serve: Serve, raw: bytes, status: int
) -> None:
    _, port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    reply = await read_reply(reader)
    assert reply.status == status
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("value", [b"\xfe", b"200-ok"])
@pytest.mark.parametrize("path", [b"/", b"/health", PATH.encode(), b"/api/v1/query", b"/v1/logs"])
async def test_another_expectation_is_refused_in_every_request(
    serve: Serve, path: bytes, value: bytes
) -> None:
    _, port = await serve()
    head = b" HTTP/1.1\r\nHost: a\r\n"
    for first in (b"", b"GET /health" + head + b"\r\n"):  # which makes the connection aiohttp's
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        if first:
            assert (await read_reply(reader)).status == 200
        method = b"GET " if path in (b"/", b"/health") else b"POST "
        length = b"Content-Length: 0\r\n"
        writer.write(method + path + head + length + b"Expect: " + value + b"\r\n\r\n")
        reply = await read_reply(reader)
        assert (reply.status, reply.error) == (417, "header Expect: wanted 100-continue")
        writer.close()
        await writer.wait_closed()


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(serve: Serve) -> None:
    _, port = await serve(max_body_bytes=2048)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n"
    writer.write(head.encode())
    reply = await read_reply(reader)
    assert reply.status == 413
    assert reply.headers["connection"] == "close"
    writer.close()


@DOORS
async def test_a_body_that_never_comes_is_given_up(
    serve: Serve, door: Callable[..., bytes]
) -> None:
    worker, port = await serve(body_timeout_s=0.1, header_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(door(columnar(), {})[:-8])
    assert (await read_reply(reader)).status == 408
    assert await reader.read() == b""
    assert worker.pipeline.budget.taken_bytes == 0
    writer.close()


async def test_a_head_that_never_ends_is_given_up(serve: Serve) -> None:
    _, port = await serve(header_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /api/v1/write/msgpack HTTP/1.1\r\n")
    assert (await read_reply(reader)).status == 408
    assert await reader.read() == b""
    writer.close()


async def test_a_head_that_trickles_in_is_given_up_as_well(serve: Serve) -> None:
    _, port = await serve(header_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def trickle() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    assert (await read_reply(reader)).status == 408
    task.cancel()
    writer.close()


async def test_a_defect_of_ours_is_a_500_and_takes_no_memory(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, port = await serve()

    def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(worker.pipeline, "write", broken)
    assert (await ask(port, with_length(columnar(), {}))).status == 500
    assert worker.pipeline.budget.taken_bytes == 0


@DOORS
@pytest.mark.parametrize("level", ["memory", "page", "disk"])
async def test_every_answer_says_what_it_stands_for(serve: Serve, door: Send, level: str) -> None:
    _, port = await serve(durability=level)
    for body in (columnar(), b"x"):
        assert (await ask(port, door(body, {}))).headers["x-arc-durability"] == level


@DOORS
@pytest.mark.parametrize("level", ["memory", "disk"])
async def test_a_key_stores_its_body_once_and_takes_no_other(
    serve: Serve, door: Send, level: str
) -> None:
    worker, port = await serve(durability=level)
    key = {"Idempotency-Key": "a-1"}
    assert (await ask(port, door(columnar(), key))).status == 204
    for send in (with_length, chunked):
        assert (await ask(port, send(columnar(), key))).status == 204
        other = await ask(port, send(columnar("mem"), key))
        assert other.status == 422
        assert "a-1" in other.error
        elsewhere = await ask(port, send(columnar(), key | {"x-arc-database": "other"}))
        assert elsewhere.status == 422
    assert worker.metrics.rows_accepted.value == 1


@DOORS
async def test_a_key_of_a_refused_body_is_free_again(serve: Serve, door: Send) -> None:
    worker, port = await serve()
    key = {"Idempotency-Key": "k"}
    assert (await ask(port, door(b"\x81", key))).status == 400
    assert (await ask(port, door(columnar(), key))).status == 204
    assert worker.metrics.rows_accepted.value == 1


@DOORS
@pytest.mark.parametrize("key", ["x" * 65, ""])
async def test_a_key_that_cannot_be_kept_is_refused(serve: Serve, door: Send, key: str) -> None:
    _, port = await serve()
    reply = await ask(port, door(columnar(), {"Idempotency-Key": key}))
    assert reply.status == 400
    assert "Idempotency-Key" in reply.error


@DOORS
async def test_nothing_is_taken_before_the_log_was_replayed(
    serve: Serve, door: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, port = await serve()
    monkeypatch.setattr(worker.pipeline, "_recovered", False)
    reply = await ask(port, door(columnar(), {}))
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert "replaying" in reply.error


@DOORS
@pytest.mark.parametrize("size", [2, 60_000], ids=["small", "large"])
async def test_rows_refused_after_a_wait_are_counted_and_their_bytes_are_not_accepted(
    serve: Serve, door: Send, size: int, tmp_path: Path
) -> None:
    worker, port = await serve()
    both = columnar("new", x=[1.5] * size) + columnar("new", x=["text"] * size)
    assert (await ask(port, door(both, {}))).status == 400  # a new table: the catalog decides
    refused = Totals(tmp_path / ".arc" / "run")
    (metric,) = [one for one in METRICS if one.name == "arc_rows_rejected_total"]
    assert refused.value(metric, ("type_conflict",)) == 2 * size
    assert worker.metrics.bytes_accepted.value == 0


@DOORS
async def test_bytes_that_the_log_refuses_are_not_accepted(
    serve: Serve, door: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, port = await serve()
    assert (await ask(port, door(columnar(), {}))).status == 204
    accepted = worker.metrics.bytes_accepted.value
    assert accepted == len(columnar())

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("ingest.log_calls.os.fdatasync", broken)
    assert (await ask(port, door(columnar(), {}))).status == 503
    assert worker.metrics.bytes_accepted.value == accepted


async def test_a_stop_does_not_wait_for_a_body_that_never_comes(serve: Serve) -> None:
    worker, port = await serve(shutdown_timeout_s=0.4)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(with_length(columnar("big", x=[1.5] * 50_000), {})[:-8])
    await writer.drain()
    while worker.pipeline.budget.taken_bytes == 0:
        await asyncio.sleep(0)
    await worker.stop()
    assert await reader.read() == b""
    assert worker.pipeline.budget.taken_bytes == 0
    writer.close()


async def test_a_client_that_leaves_in_the_middle_of_a_body_gives_its_memory_back(
    serve: Serve,
) -> None:
    worker, port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(with_length(columnar("big", x=[1.5] * 50_000), {})[:-8])
    await writer.drain()
    while worker.pipeline.budget.taken_bytes == 0:
        await asyncio.sleep(0)
    writer.transport.abort()
    while worker.pipeline.budget.taken_bytes:
        await asyncio.sleep(0)
    assert await reader.read() == b""


@DOORS
async def test_beyond_the_memory_budget_clients_are_told_to_come_back(
    serve: Serve, door: Callable[..., bytes]
) -> None:
    worker, port = await serve()
    worker.pipeline.budget.force(worker.pipeline.budget.limit_bytes)
    reply = await ask(port, door(columnar(), {}))
    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    assert "ARC_MEMORY_BYTES" in reply.error
    worker.pipeline.budget.give_back(worker.pipeline.budget.limit_bytes)
    assert (await ask(port, door(columnar(), {}))).status == 204


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/ready", 200),
        ("GET", "/metrics", 200),
        ("GET", f"{PATH}/stats", 200),
        ("GET", f"{PATH}/spec", 200),
        ("GET", PATH, 405),
        ("POST", "/nothing", 404),
    ],
)
async def test_other_paths_answer_json_or_text(
    serve: Serve, method: str, path: str, status: int
) -> None:
    _, port = await serve()
    raw = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
    reply = await ask(port, raw)
    assert reply.status == status
    if status >= 400:
        assert path in reply.error


async def test_a_token_is_taken_and_ignored(serve: Serve) -> None:
    _, port = await serve()
    for headers in ({"Authorization": "Bearer x"}, {"x-api-key": "y"}):
        assert (await ask(port, with_length(columnar(), headers))).status == 204


async def test_a_stopping_worker_refuses_and_says_so(serve: Serve) -> None:
    worker, port = await serve()
    worker.door.stopping = True
    assert (await ask(port, with_length(columnar(), {}))).status == 503
    ready = await ask(port, b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (ready.status, ready.error) == (503, "stopping")
