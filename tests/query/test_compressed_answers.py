"""Answers that are compressed on their way: which ones, how, and what is in them."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from backports import zstd

from tests.query.serving import Answer, QueryProcess, exchange, gateway, query_process

pytestmark = pytest.mark.e2e

UNDO: dict[str, Any] = {"gzip": gzip.decompress, "zstd": zstd.decompress}
MANY = "SELECT i AS n, 'host-' || i % 10 AS host FROM range(200000) t(i)"
SOME = "SELECT i AS n, 'host-' || i % 10 AS host FROM range(2000) t(i)"


@pytest.fixture(scope="module")
def process(stored: Path) -> Iterator[QueryProcess]:
    with query_process(stored, concurrency=2) as running:
        yield running


@pytest.fixture(scope="module")
def port(process: QueryProcess) -> Iterator[int]:
    with gateway(process.socket) as number:
        yield number


def through(port: int, path: str, sql: str, **headers: str) -> Answer:
    client = http.client.HTTPConnection("127.0.0.1", port)
    return exchange(client, f"/api/v1/query{path}", msgspec.json.encode({"sql": sql}), headers)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_an_arrow_stream_is_compressed_as_the_client_likes(port: int, coding: str) -> None:
    answer = through(port, "/arrow", MANY, Accept_Encoding=coding)
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    plain = through(port, "/arrow", MANY)
    assert "content-encoding" not in plain.headers
    assert UNDO[coding](answer.body) == plain.body
    assert len(answer.body) < len(plain.body) / 2


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize(("path", "decode"), [("", "json"), ("/msgpack", "msgpack")])
def test_rows_are_compressed_when_they_are_many(
    port: int, path: str, decode: str, coding: str
) -> None:
    answer = through(port, path, SOME, Accept_Encoding=coding)
    assert answer.headers["content-encoding"] == coding
    assert int(answer.headers["content-length"]) == len(answer.body)
    found = getattr(msgspec, decode).decode(UNDO[coding](answer.body))
    assert (found["row_count"], found["data"][1999]) == (2000, [1999, "host-9"])
    small = through(port, path, "SELECT 1", Accept_Encoding=coding)
    assert "content-encoding" not in small.headers


def test_an_empty_stream_is_compressed_and_whole(port: int) -> None:
    answer = through(port, "/arrow", "SELECT 1 AS n WHERE false", Accept_Encoding="zstd")
    table = pa.ipc.open_stream(zstd.decompress(answer.body)).read_all()
    assert (table.num_rows, table.column_names) == (0, ["n"])


def test_a_refusal_is_never_compressed(port: int) -> None:
    answer = through(port, "/arrow", "SELECT '" + "x" * 100_000, Accept_Encoding="zstd, gzip")
    assert answer.status == 400
    assert "content-encoding" not in answer.headers
    assert answer.json["success"] is False


def test_the_first_rows_can_be_read_before_the_last_are_made(port: int) -> None:
    """A stream without an end: what there is of it comes decompressed to whole rows."""
    body = msgspec.json.encode({"sql": "SELECT i FROM range(100000000000) t(i)"})
    head = (
        "POST /api/v1/query/arrow HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        with contextlib.closing(response):
            reader = zlib.decompressobj(wbits=31)
            found = b""
            while len(found) < 3 * 8 * 65_536:
                found += reader.decompress(response.read1(65_536))
    rows = pa.ipc.open_stream(found)
    assert rows.read_next_batch()["i"][0].as_py() == 0
    assert rows.read_next_batch()["i"][-1].as_py() == 2 * 65_536 - 1


def test_a_compressed_stream_that_fails_is_cut_off(port: int) -> None:
    sql = "SELECT if(i < 999999, i, error('late')) FROM range(1000000) t(i)"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        through(port, "/arrow", sql, Accept_Encoding="zstd")
