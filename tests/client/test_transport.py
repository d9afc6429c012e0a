"""Requests over real sockets: what comes back, whatever the server does, and what is in doubt."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.client.errors import UsageError
from arc.client.transport import (
    Connection,
    Endpoint,
    Reply,
    SendError,
    _refuse_itself,
    default_ssl_context,
    encode_headers,
)
from tests.support.running import ROOT
from tests.support.scripted_server import (
    HEAD,
    NOTHING,
    ScriptedServer,
    Step,
    answer,
    hang_up,
    raw,
    self_signed,
    silence,
)

TARGET = "/api/v1/write/msgpack"
KEY = (("idempotency-key", "k1"),)
#: More than the kernel's buffers of both ends take, so that sending it waits for the server.
LARGE = bytes(24 * 2**20)
WAIT_S = 30.0
SHORT_S = 0.25
#: Of what went wrong before a byte left.
SURE, IN_DOUBT = False, True


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as started:
        yield started


Connect = Callable[..., Connection]


@pytest.fixture
def connect(server: ScriptedServer) -> Iterator[Connect]:
    """Makes connections, to the server if no other URL is given, and closes them."""
    made: list[Connection] = []

    def make(url: str = "", *, timeout_s: float = WAIT_S, **arguments: Any) -> Connection:
        endpoint = Endpoint.parse(url or server.url)
        headers = arguments.pop("headers", ())
        connect_s = arguments.pop("connect_timeout_s", timeout_s)
        made.append(Connection(endpoint, headers, connect_s, timeout_s, **arguments))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def post(connection: Connection, body: bytes = b"body") -> Reply:
    return connection.post(TARGET, KEY, body)


def fail(connection: Connection, body: bytes = b"body") -> SendError:
    """The error of a request that has to fail."""
    with pytest.raises(SendError) as caught:
        post(connection, body)
    assert caught.value.message == str(caught.value)
    return caught.value


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "endpoint", "authority"),
    [
        ("http://a:8000", Endpoint("http", "a", 8000, "", False), "a:8000"),
        ("http://a", Endpoint("http", "a", 80, "", False), "a"),
        ("https://a/", Endpoint("https", "a", 443, "", False), "a"),
        ("https://a:80", Endpoint("https", "a", 80, "", False), "a:80"),
        (" HTTP://A.b:80/x/y// ", Endpoint("http", "a.b", 80, "/x/y", False), "a.b"),
        ("http://a/x%20y", Endpoint("http", "a", 80, "/x%20y", False), "a"),
        ("http://localhost:1", Endpoint("http", "localhost", 1, "", True), "localhost:1"),
        ("http://127.9.9.9:1", Endpoint("http", "127.9.9.9", 1, "", True), "127.9.9.9:1"),
        ("http://128.0.0.1", Endpoint("http", "128.0.0.1", 80, "", False), "128.0.0.1"),
        ("http://[::1]:8000", Endpoint("http", "::1", 8000, "", True), "[::1]:8000"),
        ("http://[2001:DB8::2]", Endpoint("http", "2001:db8::2", 80, "", False), "[2001:db8::2]"),
        (
            "http://[fe80::1%25eth0]:9",
            Endpoint("http", "fe80::1%eth0", 9, "", False),
            "[fe80::1]:9",
        ),
        (
            "http://b\u00fccher:9",
            Endpoint("http", "xn--bcher-kva", 9, "", False),
            "xn--bcher-kva:9",
        ),
    ],
)
def test_a_url_is_read_into_its_parts(url: str, endpoint: Endpoint, authority: str) -> None:
    assert Endpoint.parse(url) == endpoint
    assert endpoint.authority == authority
    assert Endpoint.parse(endpoint.url).host.partition("%")[0] == endpoint.host.partition("%")[0]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "a:8000",
        "/a",
        "http:",
        "http://",
        "http:///path",
        "http://:8000",
        "http:/a:8000",
        "ftp://a",
        "unix:///run/arc",
        "http://a:0",
        "http://a:65536",
        "http://a:x",
        "http://[::1",
        "http://[zz]",
        "http://a b",
        "http://a..b",
        f"http://{'a' * 64}",
        "http://a/ b",
        "http://a/\u00e4",
        "http://a?db=x",
        "http://a/#x",
        "http://a\r\nx",
        None,
        8000,
    ],
)
def test_what_is_no_base_url_is_refused(url: Any) -> None:
    with pytest.raises(UsageError, match=r"^url: "):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@a:8000",
        "http://hunter2@a",
        "https://user:hun@ter2@a/x",
        "ftp://user:hunter2@a",
        "user:hunter2@a:8000",
        "http:user:hunter2@a",
        "http://user:hunter2",
        "http://user:hun/ter2@a",
        "http://a/?token=hunter2",
        "http://a/#hunter2",
        "http://user:hunter2@\u2100",
    ],
)
def test_a_secret_in_a_url_is_refused_and_never_quoted(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Endpoint.parse(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
def test_any_text_is_an_endpoint_or_a_usage_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://a/{text}"):
        try:
            endpoint = Endpoint.parse(url)
        except UsageError:
            continue
        encode_headers([("Host", endpoint.authority)])


# --- what is sent ----------------------------------------------------------------------------


def test_a_request_carries_its_headers_and_its_body(
    server: ScriptedServer, connect: Connect
) -> None:
    connection = connect(server.url + "/proxied/", headers=(("authorization", "Bearer t"),))
    body = bytearray(b"\x00\xff" * 1000)
    reply = connection.post(TARGET + "?a=b%20c", (("x-arc-measurement", "température"),), body)
    assert reply == Reply(204, "", None)
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", f"/proxied{TARGET}?a=b%20c")
    assert request.body == body
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept-encoding": "identity",
        "authorization": "Bearer t",
        "x-arc-measurement": "température",
        "content-length": "2000",
    }
    body.clear()  # nothing holds on to it


@pytest.mark.parametrize("size", [0, 1, 100_000, len(LARGE)])
def test_bodies_of_every_size_arrive_whole(
    server: ScriptedServer, connect: Connect, size: int
) -> None:
    assert post(connect(), LARGE[:size]).status == 204
    assert server.requests[0].is_whole
    assert len(server.requests[0].body) == size


@pytest.mark.parametrize(
    "header",
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("\u00e4", "x"),
        ("authorization", "hunter2\n"),
        ("authorization", "hunter2 "),
        ("authorization", " hunter2"),
        ("authorization", "hun\r\nter2: x"),
        ("authorization", "hun\0ter2"),
        ("authorization", "hunter2\ud800"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_and_its_value_not_quoted(
    server: ScriptedServer, connect: Connect, header: tuple[str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        connect(headers=(header,))
    assert "hunter2" not in str(caught.value)
    connection = connect()
    with pytest.raises(UsageError):
        connection.post(TARGET, (header,), b"")
    assert post(connection).status == 204
    assert len(server.requests) == 1


@pytest.mark.parametrize("target", ["", "api", "/a b", "/a\r\nx: y", "/\u00e4"])
def test_a_target_that_is_no_path_is_refused(connect: Connect, target: str) -> None:
    with pytest.raises(UsageError, match="target"):
        connect().post(target, (), b"")


# --- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (204, b"", ""),
        (200, b"", ""),
        (200, b"fine\n", "fine"),
        (400, b'{"error": "column usage"}', "column usage"),
        (400, b' {"success": false, "error": "caf\xc3\xa9", "code": 7}', "café"),
        (400, b'{"error": {"message": "x"}}', '{"error": {"message": "x"}}'),
        (400, b'{"detail": "x"}', '{"detail": "x"}'),
        (400, b'["error"]', '["error"]'),
        (400, b'{"error": "cut', '{"error": "cut'),
        (400, b'{"a":' * 10_000, ('{"a":' * 10_000)[:2000]),
        (400, b"\xff\xfe", "\ufffd\ufffd"),
        (404, b"", "Not Found"),
        (404, b" \n", "Not Found"),
        (502, b"<html>" + b"x" * 60_000, "<html>" + "x" * 1994),
        (799, b"", "Unknown"),
    ],
)
def test_the_message_is_the_servers_words(
    server: ScriptedServer, connect: Connect, status: int, body: bytes, message: str
) -> None:
    server.will(answer(status, body))
    assert post(connect()) == Reply(status, message, None)


def test_a_redirect_is_told_and_not_followed(server: ScriptedServer, connect: Connect) -> None:
    server.will(answer(308, b"moved", {"Location": "https://b/x"}))
    reply = post(connect())
    assert (reply.status, reply.message) == (
        308,
        "redirected to https://b/x, which is not followed: moved",
    )
    assert len(server.requests) == 1


DATE = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT"}


@pytest.mark.parametrize(
    ("value", "headers", "seconds"),
    [
        ("0", {}, 0.0),
        ("120", {}, 120.0),
        (" 7 ", {}, 7.0),
        ("1.5", {}, 1.5),
        ("999999999999999", {}, 999999999999999.0),
        ("-1", {}, None),
        ("1e3", {}, None),
        ("nan", {}, None),
        ("soon", {}, None),
        ("", {}, None),
        ("Sun, 06 Nov 1994 08:50:37 GMT", DATE, 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", DATE, 60.0),
        ("Sun Nov  6 08:50:37 1994", DATE, 60.0),
        ("Sun, 06 Nov 1994 09:50:37 +0100", DATE, 60.0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", DATE, 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", {}, 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", {"Date": "junk"}, 0.0),
        ("Sun, 99 Nov 1994 99:49:37 GMT", DATE, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_by_the_servers_clock(
    server: ScriptedServer,
    connect: Connect,
    value: str,
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    server.will(answer(503, headers=headers, retry_after=value))
    assert post(connect()).retry_after_s == seconds


def test_a_date_of_retry_after_is_judged_by_our_clock_where_the_server_shows_none(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(answer(503, retry_after="Fri, 31 Dec 2100 23:59:59 GMT"))
    reply = post(connect())
    assert reply.retry_after_s is not None
    assert reply.retry_after_s > 365 * 86400


@pytest.mark.parametrize(
    "answered",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_interim_answers_are_passed_over(
    server: ScriptedServer, connect: Connect, answered: bytes
) -> None:
    server.will(raw(answered, then="keep"))
    connection = connect()
    assert [post(connection).status, post(connection).status] == [204, 204]
    assert server.num_connections == 1


def test_an_interim_answer_does_not_stop_a_body_under_way(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(answer(200, b"all", interim=b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert post(connect(), LARGE) == Reply(200, "all", None)
    assert server.requests[0].is_whole


def test_another_protocol_is_not_spoken(server: ScriptedServer, connect: Connect) -> None:
    server.will(raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", then="stall"))
    connection = connect()
    assert post(connection).status == 101
    assert post(connection).status == 204
    assert server.num_connections == 2


def test_an_answer_in_chunks_is_read(server: ScriptedServer, connect: Connect) -> None:
    head = b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.will(raw(head + b'4\r\n{"er\r\n9\r\nror":"x"}\r\n0\r\n\r\n', then="keep"))
    connection = connect()
    assert [post(connection).message, post(connection).status] == ["x", 204]
    assert server.num_connections == 1


@pytest.mark.parametrize("chunk", [b"-1\r\n" + b"x" * 4_000_000, b"zz\r\n", b"5\r\nab"])
def test_bad_chunks_cost_the_message_and_the_connection(
    server: ScriptedServer, connect: Connect, chunk: bytes
) -> None:
    server.will(raw(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk))
    connection = connect()
    assert [post(connection).status, post(connection).status] == [400, 204]
    assert server.num_connections == 2


def test_a_huge_answer_is_read_in_part_and_the_connection_closed(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(answer(200, size=100 * 2**20), answer(200, size=2**16), answer(200, size=2**16 + 1))
    connection = connect()
    assert post(connection) == Reply(200, "." * 2000, None)
    assert [post(connection).status for _ in range(3)] == [200, 200, 204]
    assert [request.connection for request in server.requests] == [0, 1, 1, 2]


def test_an_endless_head_is_no_answer(server: ScriptedServer, connect: Connect) -> None:
    server.will(raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(10**6))))
    assert fail(connect()).in_doubt
    server.will(raw(b"HTTP/1.1 103 Early\r\n\r\n" * 10**6))
    assert fail(connect()).in_doubt


# --- keeping the connection ------------------------------------------------------------------


def test_requests_share_one_connection(server: ScriptedServer, connect: Connect) -> None:
    server.will(answer(204), answer(400, b"no"), answer(503, retry_after="1"), answer(200, b"ok"))
    connection = connect()
    assert [post(connection).status for _ in range(5)] == [204, 400, 503, 200, 204]
    assert [(request.connection, request.nth) for request in server.requests] == [
        (0, nth) for nth in range(5)
    ]


@pytest.mark.parametrize(
    "last",
    [
        answer(204, headers={"Connection": "close"}, then="stall"),
        answer(200, headers={"connection": "Close"}, then="stall"),
        raw(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", then="stall"),
        raw(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 400 Of nobody\r\n\r\n", then="stall"),
    ],
    ids=["close", "Close", "1.0", "more than an answer"],
)
def test_a_connection_that_cannot_go_on_is_closed(
    server: ScriptedServer, connect: Connect, last: Step
) -> None:
    server.will(last)
    connection = connect()
    assert post(connection).status in (200, 204)
    assert post(connection) == Reply(204, "", None)
    assert [request.connection for request in server.requests] == [0, 1]


def test_a_connection_that_the_server_closed_while_idle_is_opened_anew(
    server: ScriptedServer, connect: Connect
) -> None:
    connection = connect()
    for _ in range(3):
        assert post(connection).status == 204
        server.hang_up_idle()
    assert [request.connection for request in server.requests] == [0, 1, 2]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("after", [NOTHING, HEAD, 2, 4])
@pytest.mark.parametrize("size", [4, len(LARGE)])
def test_a_kept_connection_that_ends_without_an_answer_is_opened_anew_once(
    server: ScriptedServer, connect: Connect, after: int, how: Any, size: int
) -> None:
    connection = connect()
    post(connection)
    server.will(hang_up(after, how))
    assert post(connection, LARGE[:size]).status == 204
    last = server.requests[-1]
    assert (last.connection, last.nth, last.is_whole) == (1, 0, True)
    assert last.headers["idempotency-key"] == "k1"
    server.will(hang_up(after, how), hang_up(after, how))
    assert fail(connection, LARGE[:size]).in_doubt
    assert server.num_connections == 3
    assert post(connection).status == 204


def test_what_was_sent_once_is_in_doubt_though_the_second_connection_is_refused(
    server: ScriptedServer, connect: Connect
) -> None:
    connection = connect()
    post(connection)
    server.will(hang_up())
    server.refuse()
    assert fail(connection).in_doubt is IN_DOUBT
    assert fail(connection).in_doubt is SURE
    server.listen()
    assert post(connection).status == 204


def test_half_an_answer_on_a_kept_connection_is_no_silent_repetition(
    server: ScriptedServer, connect: Connect
) -> None:
    connection = connect()
    post(connection)
    server.will(raw(b"HTTP/1.1 2"))
    assert fail(connection).in_doubt
    assert len(server.requests) == 2


# --- failures, and what is in doubt ----------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("after", [NOTHING, HEAD, 2, 4])
def test_a_connection_that_ends_without_an_answer_leaves_the_request_in_doubt(
    server: ScriptedServer, connect: Connect, after: int, how: Any
) -> None:
    server.will(hang_up(after, how))
    error = fail(connect())
    assert error.in_doubt is IN_DOUBT
    assert server.url in error.message
    assert server.num_connections == 1


@pytest.mark.parametrize(
    "half",
    [b"H", b"HTTP/1.1", b"HTTP/1.1 2", b"HTTP/1.1 204", b"HTTP/1.1 204 No Content\r\nDate: x\r\n"],
)
def test_half_a_head_is_no_answer(server: ScriptedServer, connect: Connect, half: bytes) -> None:
    server.will(raw(half), raw(half, then="stall"))
    connection = connect(timeout_s=SHORT_S)
    assert [fail(connection).in_doubt for _ in range(2)] == [IN_DOUBT, IN_DOUBT]
    assert post(connection).status == 204


@pytest.mark.parametrize(
    "junk", [b"\r\n\r\n", b"SSH-2.0-x\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_what_is_not_http_is_no_answer(
    server: ScriptedServer, connect: Connect, junk: bytes
) -> None:
    server.will(raw(junk))
    assert fail(connect()).in_doubt is IN_DOUBT


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
def test_half_a_body_after_a_whole_head_is_an_answer(
    server: ScriptedServer, connect: Connect, then: Any
) -> None:
    server.will(raw(b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 99\r\n\r\n{", then))
    connection = connect(timeout_s=SHORT_S)
    reply = post(connection)
    assert (reply.status, reply.retry_after_s) == (503, 2.0)
    assert post(connection).status == 204
    assert server.num_connections == 2


def test_a_server_that_never_answers_leaves_the_request_in_doubt(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(silence())
    connection = connect(timeout_s=SHORT_S)
    assert fail(connection).in_doubt is IN_DOUBT
    assert post(connection).status == 204
    server.will(silence())  # on a kept connection: late is not closed
    assert fail(connection).in_doubt is IN_DOUBT
    assert len(server.requests) == 3


def test_an_answer_has_to_be_whole_in_time_however_steadily_it_comes(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(answer(204, headers={"x": "y" * 2000}, pace=(1, 0.01)))
    assert fail(connect(timeout_s=SHORT_S)).in_doubt is IN_DOUBT


def test_a_slow_answer_that_is_in_time_is_an_answer(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(answer(200, b"slow", pace=(7, 0.001)))
    assert post(connect()).message == "slow"


def test_a_server_that_takes_nothing_leaves_the_request_in_doubt(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(silence(after=HEAD))
    error = fail(connect(timeout_s=SHORT_S), LARGE)
    assert error.in_doubt is IN_DOUBT
    assert "took nothing" in error.message


def test_a_refused_connection_leaves_nothing_in_doubt(
    server: ScriptedServer, connect: Connect
) -> None:
    connection = connect()
    server.refuse()
    error = fail(connection)
    assert error.in_doubt is SURE
    assert "refused" in error.message
    server.listen()
    assert post(connection).status == 204


def test_a_name_that_is_not_found_leaves_nothing_in_doubt(connect: Connect) -> None:
    assert fail(connect("http://no-such-host.invalid:8000")).in_doubt is SURE


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: another one is neither taken nor refused."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_connection_that_does_not_open_in_time_leaves_nothing_in_doubt(
    connect: Connect, full_port: int
) -> None:
    connection = connect(f"http://127.0.0.1:{full_port}", connect_timeout_s=SHORT_S)
    error = fail(connection)
    assert error.in_doubt is SURE
    assert "timed out" in error.message


@pytest.mark.parametrize("first", ["refused", "silent"])
def test_every_address_of_a_name_is_tried(
    server: ScriptedServer,
    connect: Connect,
    full_port: int,
    first: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1] if first == "refused" else full_port
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
            for port in (dead, server.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert post(connect("http://two.addresses", connect_timeout_s=2 * SHORT_S)).status == 204


def test_a_socket_that_met_itself_counts_as_refused() -> None:
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        alone.connect(alone.getsockname())  # nobody listens there, and Linux joins the two ends
        with pytest.raises(ConnectionRefusedError):
            _refuse_itself(alone)


# --- answers that come before the body is sent -----------------------------------------------


@pytest.mark.parametrize("status", [401, 413, 503])
@pytest.mark.parametrize("then", ["close", "finish", "stall", "keep"])
def test_an_answer_before_the_body_is_sent_is_an_answer(
    server: ScriptedServer, connect: Connect, status: int, then: Any
) -> None:
    server.will(answer(status, b'{"error": "no"}', retry_after="1", early=True, then=then))
    connection = connect()
    assert post(connection, LARGE) == Reply(status, "no", 1.0)
    assert post(connection) == Reply(204, "", None)
    assert [request.connection for request in server.requests] == [0, 1]


def test_an_early_answer_on_a_kept_connection_is_no_reason_to_send_again(
    server: ScriptedServer, connect: Connect
) -> None:
    connection = connect()
    post(connection)
    server.will(answer(413, b"large", early=True, then="close"))
    assert post(connection, LARGE) == Reply(413, "large", None)
    assert len(server.requests) == 2


def test_an_early_answer_to_a_body_that_is_sent_all_the_same_keeps_the_connection(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(answer(401, b"who", early=True))
    connection = connect()
    assert [post(connection).status, post(connection).status] == [401, 204]
    assert server.num_connections == 1


# --- closing ---------------------------------------------------------------------------------


def in_a_thread(
    connection: Connection, body: bytes = b"body"
) -> tuple[threading.Thread, list[Any]]:
    """Post in another thread; what came of it is put into the list."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(post(connection, body))
        except SendError as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, came


@pytest.mark.parametrize("step", [silence(), silence(after=HEAD)], ids=["reading", "sending"])
def test_closing_ends_a_request_under_way(
    server: ScriptedServer, connect: Connect, step: Step
) -> None:
    server.will(step)
    connection = connect()
    thread, came = in_a_thread(connection, LARGE)
    server.wait_for(1)
    connection.close()
    thread.join(WAIT_S)
    assert isinstance(came[0], SendError)
    assert came[0].in_doubt is IN_DOUBT
    assert "closed" in came[0].message


def test_closing_a_kept_connection_is_for_good(server: ScriptedServer, connect: Connect) -> None:
    connection = connect()
    post(connection)
    connection.close()
    connection.close()
    server.wait_until_left()
    assert fail(connection).in_doubt is SURE
    assert server.num_connections == 1


def test_a_request_that_cannot_be_opened_is_ended_by_closing(
    connect: Connect, full_port: int
) -> None:
    connection = connect(f"http://127.0.0.1:{full_port}", connect_timeout_s=WAIT_S)
    thread, came = in_a_thread(connection)
    while connection._socket is None or not _is_connecting(connection._socket):
        assert thread.is_alive()
    connection.close()
    thread.join(WAIT_S / 2)
    assert not thread.is_alive()
    assert came[0].in_doubt is SURE


def _is_connecting(opened: socket.socket) -> bool:
    try:
        return opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x02"  # SYN_SENT
    except OSError:
        return False


FORKING = """
import os, sys
from arc.client.transport import Connection, Endpoint
import ssl
url, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca) if ca else None
connection = Connection(Endpoint.parse(url), (), 30.0, 30.0, context)
assert connection.post("/before", (), b"").status == 204
child = os.fork()
if not child:
    connection.abandon()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert connection.post("/after", (), b"").status == 204
"""


def test_a_forked_child_lets_go_of_the_connection_and_the_parent_keeps_it(
    server: ScriptedServer,
) -> None:
    _run_forking(server, "")


def _run_forking(server: ScriptedServer, ca: str) -> None:
    subprocess.run([sys.executable, "-c", FORKING, server.url, ca], cwd=ROOT, check=True)
    assert [(request.target, request.connection) for request in server.requests] == [
        ("/before", 0),
        ("/after", 0),
    ]


# --- TLS -------------------------------------------------------------------------------------


def _certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    made = self_signed(folder, *names)
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    return made


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[ScriptedServer]:
    with ScriptedServer(_context(*certificate)) as started:
        yield started


@pytest.fixture
def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = default_ssl_context()
    context.load_verify_locations(certificate[0])
    return context


def test_requests_go_over_tls_and_share_a_connection(
    tls_server: ScriptedServer, connect: Connect, trusting: ssl.SSLContext
) -> None:
    tls_server.will(answer(400, b'{"error": "no"}'))
    connection = connect(tls_server.url, ssl_context=trusting)
    assert [post(connection).message, post(connection, LARGE).message] == ["no", ""]
    assert len(tls_server.requests[1].body) == len(LARGE)
    assert tls_server.num_connections == 1
    tls_server.hang_up_idle()
    assert post(connection).status == 204
    tls_server.will(hang_up())
    assert post(connection).status == 204
    assert tls_server.num_connections == 3


def test_a_certificate_that_is_not_trusted_is_refused_before_a_byte_is_sent(
    tls_server: ScriptedServer, connect: Connect
) -> None:
    error = fail(connect(tls_server.url))
    assert error.in_doubt is SURE
    assert "CERTIFICATE_VERIFY_FAILED" in error.message
    assert tls_server.requests == []


def test_a_certificate_of_another_host_is_refused(connect: Connect, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path, "DNS:elsewhere")
    trusting = ssl.create_default_context(cafile=certificate)
    with ScriptedServer(_context(certificate, key)) as elsewhere:
        error = fail(connect(elsewhere.url, ssl_context=trusting))
        assert error.in_doubt is SURE
        assert "not valid for '127.0.0.1'" in error.message
        assert elsewhere.requests == []


def test_a_server_without_tls_leaves_nothing_in_doubt(
    server: ScriptedServer, connect: Connect
) -> None:
    server.will(hang_up(NOTHING))
    url = server.url.replace("http:", "https:")
    assert fail(connect(url)).in_doubt is SURE
    assert fail(connect(url, connect_timeout_s=SHORT_S)).in_doubt is SURE


@pytest.mark.parametrize("then", ["close", "finish", "stall"])
def test_an_early_answer_over_tls_is_an_answer(
    tls_server: ScriptedServer, connect: Connect, trusting: ssl.SSLContext, then: Any
) -> None:
    tls_server.will(answer(413, b'{"error": "large"}', early=True, then=then))
    connection = connect(tls_server.url, ssl_context=trusting, timeout_s=1.0)
    assert post(connection, LARGE) == Reply(413, "large", None)
    assert post(connection).status == 204


def test_silence_over_tls_leaves_the_request_in_doubt(
    tls_server: ScriptedServer, connect: Connect, trusting: ssl.SSLContext
) -> None:
    tls_server.will(silence())
    connection = connect(
        tls_server.url, ssl_context=trusting, timeout_s=SHORT_S, connect_timeout_s=WAIT_S
    )
    assert fail(connection).in_doubt is IN_DOUBT


def test_closing_ends_a_request_over_tls(
    tls_server: ScriptedServer, connect: Connect, trusting: ssl.SSLContext
) -> None:
    tls_server.will(silence())
    connection = connect(tls_server.url, ssl_context=trusting)
    thread, came = in_a_thread(connection)
    tls_server.wait_for(1)
    connection.close()
    thread.join(WAIT_S)
    assert came[0].in_doubt is IN_DOUBT


def test_a_forked_child_says_no_goodbye_over_tls(
    tls_server: ScriptedServer, certificate: tuple[Path, Path]
) -> None:
    _run_forking(tls_server, str(certificate[0]))


def test_a_context_for_tls_goes_with_https_only(connect: Connect, trusting: ssl.SSLContext) -> None:
    with pytest.raises(UsageError, match="ssl_context"):
        connect(ssl_context=trusting)
