"""Replies are read right however they arrive, and what is no reply is refused."""

from __future__ import annotations

import pytest

from benchmarks.load.replies import ReplyError, parse_reply

NO_CONTENT = b"HTTP/1.1 204 No Content\r\nDate: Fri, 20 Nov 2026 06:00:00 GMT\r\n\r\n"
REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nCONNECTION: Close\r\n"
    b"Content-Length: 17\r\n\r\n" + b'{"error": "busy"}'
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("data", [NO_CONTENT, REFUSED, CONTINUE + NO_CONTENT])
def test_a_reply_is_complete_with_its_last_byte_and_not_before(data: bytes) -> None:
    for end in range(len(data)):
        assert parse_reply(data[:end]) is None
    reply = parse_reply(data)
    assert reply is not None
    assert reply.consumed == len(data)


def test_bytes_after_a_reply_are_left() -> None:
    reply = parse_reply(NO_CONTENT + REFUSED)
    assert reply is not None
    assert (reply.status, reply.consumed, reply.body) == (204, len(NO_CONTENT), b"")


def test_an_error_tells_its_body_and_when_to_come_back() -> None:
    reply = parse_reply(REFUSED)
    assert reply is not None
    assert reply.status == 503
    assert reply.body == b'{"error": "busy"}'
    assert reply.retry_after_s == 2
    assert reply.closes


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", True),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True),
    ],
)
def test_a_reply_says_whether_the_connection_stays(head: bytes, closes: bool) -> None:
    reply = parse_reply(head)
    assert reply is not None
    assert reply.closes is closes


def test_a_date_to_come_back_at_is_no_number_of_seconds() -> None:
    reply = parse_reply(b"HTTP/1.1 204 x\r\nRetry-After: Fri, 20 Nov 2026 06:00:00 GMT\r\n\r\n")
    assert reply is not None
    assert reply.retry_after_s == 0


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_reply_of_a_length_is_refused(data: bytes) -> None:
    with pytest.raises(ReplyError):
        parse_reply(data)
