"""A daemon's answer over a connection that misbehaves."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arc.reader import Reader, ReadError, RefusedError, UsageError
from tests.support.scripted_server import (
    ScriptedServer,
    Step,
    answer,
    hang_up,
    raw,
    self_signed,
    silence,
)

SCHEMA = pa.schema([pa.field("n", pa.int64())])
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def arrow(batches: int = 2, rows: int = 3) -> bytes:
    """An Arrow stream, whole."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for first in range(0, batches * rows, rows):
            writer.write_batch(
                pa.record_batch([pa.array(range(first, first + rows))], schema=SCHEMA)
            )
    stream: bytes = sink.getvalue().to_pybytes()
    assert stream.endswith(END)
    return stream


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """An answer in chunks, the last of them as it is given."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks) + end


STREAM = arrow()


def test_a_question_has_its_database_its_token_and_its_sql() -> None:
    with ScriptedServer() as server:
        server.will(answer(200, body=STREAM))
        reader = Reader(f"{server.url}/below/", token="secret", database="prod")
        assert reader.read("cpu", start=0).table["n"].to_pylist() == list(range(6))
        [asked] = server.wait_for(1)
    assert asked.target == "/below/api/v1/query/arrow"
    headers = {name.lower(): value for name, value in asked.headers.items()}
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-arc-database"] == "prod"
    assert asked.body == (
        b'{"sql": "SELECT * FROM \\"prod\\".\\"cpu\\" AS t WHERE t.\\"time\\" >= '
        b"TIMESTAMPTZ '1970-01-01 00:00:00.000000+00'\"}"
    )


@pytest.mark.parametrize("size", [1, 7, 100, len(STREAM)])
def test_an_answer_in_chunks_of_any_size_is_whole(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    with ScriptedServer() as server:
        server.will(raw(chunked(*pieces)))
        assert Reader(server.url).read("cpu").table["n"].to_pylist() == list(range(6))


LAST_BATCH = arrow(1)[: -len(END)]


@pytest.mark.parametrize(
    "step",
    [
        raw(chunked(STREAM[: -len(END)])),
        raw(chunked(STREAM[: -len(END)], end=b"")),
        raw(chunked(LAST_BATCH, end=b"")),
        raw(chunked(STREAM[:-9], end=b"")),
        raw(chunked(STREAM[: len(STREAM) // 2])),
        raw(chunked(STREAM[:20])),
        raw(chunked(b"")),
        raw(chunked(b"no Arrow at all, but long enough to look like a message")),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + STREAM[: -len(END)]),
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + STREAM[: -len(END)]),
        raw(b"HTTP/1.1 2"),
        raw(b"junk\r\n\r\n"),
        hang_up(),
        hang_up(how="reset"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(step: Step) -> None:
    with ScriptedServer() as server:
        server.will(step, step)
        with pytest.raises(ReadError, match=r"127\.0\.0\.1"):
            Reader(server.url).read("cpu")
        with pytest.raises(ReadError), Reader(server.url).stream("cpu") as stream:
            list(stream)


def test_what_came_before_the_end_was_missing_is_given_by_a_stream() -> None:
    with ScriptedServer() as server:
        server.will(raw(chunked(STREAM[: -len(END)])))
        with Reader(server.url).stream("cpu", batch_rows=3) as stream:
            assert next(stream).num_rows == 3
            assert next(stream).num_rows == 3
            with pytest.raises(ReadError, match="its end is not there"):
                next(stream)


@pytest.mark.parametrize(
    ("step", "status", "message", "retry_after_s"),
    [
        (answer(400, body=b'{"success": false, "error": "no such table"}'), 400, "no such", None),
        (answer(503, retry_after="2", body=b'{"error": "busy"}'), 503, "busy", 2.0),
        (answer(502, body=b"<html>"), 502, "<html>", None),
        (answer(413, body=b'{"error": 5}'), 413, '{"error": 5}', None),
        (answer(204), 204, "No Content", None),
        (answer(302, headers={"Location": "http://elsewhere/"}), 302, "", None),
    ],
)
def test_a_refusal_has_its_status_and_words(
    step: Any, status: int, message: str, retry_after_s: float | None
) -> None:
    with ScriptedServer() as server:
        server.will(step)
        with pytest.raises(RefusedError, match=f"answered {status}") as caught:
            Reader(server.url).read("cpu")
    assert message in caught.value.message
    assert (caught.value.status, caught.value.retry_after_s) == (status, retry_after_s)


def test_nobody_there_and_nobody_who_speaks_are_errors() -> None:
    with ScriptedServer() as server:
        server.will(silence())
        with pytest.raises(ReadError, match="timed out"):
            Reader(server.url, timeout_s=0.05).read("cpu")
        server.refuse()
        with pytest.raises(ReadError, match="refused"):
            Reader(server.url).read("cpu")


def test_tls_is_verified_by_the_context_that_is_given(tmp_path: Path) -> None:
    made = self_signed(tmp_path)
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(*made)
    client_side = ssl.create_default_context(cafile=made[0])
    with ScriptedServer(server_side) as server:
        server.will(answer(200, body=STREAM))
        assert len(Reader(server.url, ssl_context=client_side).read("cpu")) == 6
        with pytest.raises(ReadError, match="certificate"):
            Reader(server.url).read("cpu")


@pytest.mark.parametrize(
    ("url", "more", "said"),
    [
        ("ftp://host", {}, "wanted http://"),
        ("http://", {}, "wanted http://"),
        ("http://host:port", {}, "cannot be read"),
        ("http://user:secret@host", {}, "instead of credentials"),
        ("http://host/?a=secret", {}, "no query"),
        ("http://ho st", {}, "wanted http://"),
        ("http://host", {"token": "a\r\nb: secret"}, "token"),
        ("http://host", {"token": ""}, "token"),
        ("http://host", {"timeout_s": 0}, "timeout_s"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_secrets(
    url: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Reader(url, **more)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "where", [{"host": "a\0b"}, {"ho\0st": 1}, "", 5, {"x": 1 + 2j}, {"d": [[1]]}]
)
def test_what_sql_cannot_carry_is_refused_before_anything_is_sent(where: Any) -> None:
    with ScriptedServer() as server, pytest.raises(UsageError, match=r"where|name"):
        Reader(server.url).read("cpu", where=where)
    assert server.requests == []
