"""What one request costs the client: CPU time of the thread that sends it.

To a sink in another process that answers 204; bodies of 0.5 and 450 KB (10 000 rows of 45 bytes).
`transport` is `arc.client.transport`, `http.client` the standard library with head and answer both
its own, `httptools` the client's head with the parser of the daemon, `floor` one `sendmsg` and one
`recv` that looks at nothing.

    python -m benchmarks.client.bench_transport
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import time
from collections.abc import Callable

import httptools

from arc.client.batch import WRITE_MSGPACK
from arc.client.transport import Connection, Endpoint, encode_headers
from benchmarks.client import sink

COMMON = (("authorization", "Bearer 0123456789abcdef"), ("x-arc-database", "default"))
HEADERS = (("x-arc-time-unit", "ns"), ("idempotency-key", "0123456789abcdef0123456789abcdef"))
SIZES = {500: 3_000, 450_000: 600}
ROUNDS = 7
WARM_UP = 20
MAX_ANSWER_BYTES = 65_536

Post = Callable[[bytes], int]
Way = tuple[Post, Callable[[], None]]


class Answer:
    """What httptools reports of an answer."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep it."""
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """Keep it."""
        self.body += body

    def on_message_complete(self) -> None:
        """That was all."""
        self.is_whole = True


def transport(port: int) -> Way:
    """The client's own."""
    endpoint = Endpoint.parse(f"http://127.0.0.1:{port}")
    connection = Connection(endpoint, COMMON, 5.0, 30.0)
    return lambda body: connection.post(WRITE_MSGPACK, HEADERS, body).status, connection.close


def library(port: int) -> Way:
    """`http.client` alone."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    headers = dict(COMMON + HEADERS)

    def post(body: bytes) -> int:
        connection.request("POST", WRITE_MSGPACK, body, headers)
        response = connection.getresponse()
        response.read(MAX_ANSWER_BYTES)
        response.getheader("Retry-After")
        return response.status

    return post, connection.close


def parser(port: int) -> Way:
    """A socket, and httptools for the answer."""
    connected = _connect(port)
    common = encode_headers((("Host", f"127.0.0.1:{port}"), *COMMON))

    def post(body: bytes) -> int:
        _send(connected, common + encode_headers(HEADERS), body)
        answer = Answer()
        found = httptools.HttpResponseParser(answer)
        while not answer.is_whole:
            found.feed_data(connected.recv(MAX_ANSWER_BYTES))
        status: int = found.get_status_code()
        return status

    return post, connected.close


def floor(port: int) -> Way:
    """What the system calls cost."""
    connected = _connect(port)

    def post(body: bytes) -> int:
        _send(connected, b"", body)
        return int(connected.recv(MAX_ANSWER_BYTES)[9:12])

    return post, connected.close


def _connect(port: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port), 30.0)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _send(connected: socket.socket, headers: bytes, body: bytes) -> None:
    first = f"POST {WRITE_MSGPACK} HTTP/1.1\r\n".encode()
    head = b"%bContent-Length: %d\r\n\r\n" % (first + headers, len(body))
    sent = connected.sendmsg((head, body))
    if sent < len(head) + len(body):
        connected.sendall(memoryview(body)[sent - len(head) :])


WAYS = {"transport": transport, "http.client": library, "httptools": parser, "floor": floor}


def sample_us(way: Callable[[int], Way], port: int, body: bytes, requests: int) -> float:
    """CPU time of one request, µs."""
    post, close = way(port)
    for _ in range(WARM_UP):
        assert post(body) == 204
    start_s = time.thread_time()
    for _ in range(requests):
        post(body)
    took_s = time.thread_time() - start_s
    close()
    return took_s / requests * 1e6


def main() -> None:
    """Measure every way in turns, and print the least and the median."""
    with sink.running() as server:
        for size, requests in SIZES.items():
            body = os.urandom(size)
            samples: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(ROUNDS):
                for name, way in WAYS.items():
                    samples[name].append(sample_us(way, server.port, body, requests))
            for name, found in samples.items():
                least, median = min(found), statistics.median(found)
                print(f"{size:>7} bytes  {name:<12} {least:6.1f} {median:6.1f} µs of CPU")
            assert server.tally().requests >= requests * ROUNDS * len(WAYS)


if __name__ == "__main__":
    main()
