"""The write doors without a framework: head by httptools, body straight into its own memory.

Every connection begins here. A request that is a plain `POST` of a known length to a path that
writes is served here, at 9 µs instead of the 25 to 45 that an aiohttp application takes for the
same 45 KB. At the first request that is anything else (another path, a chunked body, `Expect`,
HTTP/1.0) the connection, with every byte that it sent and was not yet answered, goes over to
aiohttp for good. aiohttp serves these paths as well, by the same `WriteDoor`: the plain twin,
which `tests/test_http_doors.py` holds to the same answers.

This module reads no header by itself: httptools does (llhttp, the parser of Node.js).

Slow clients are met by deadlines that each state carries and a sweep checks: no timer a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import partial
from urllib.parse import parse_qs

import httptools
import msgspec
from structlog.typing import FilteringBoundLogger

from arc.metrics import ShardMetrics
from arc.write_door import (
    CLIENT_LEFT,
    Answer,
    WriteDoor,
    answer_to,
)
from arc.write_routes import MSGPACK, Route, WriteHead
from ingest.errors import IngestError, TooSlowError

#: What one read may bring: the head and the whole body of all but large requests.
RECEIVE_BYTES = 256 * 2**10

#: A head over this many bytes is refused; browsers and proxies send less than a quarter.
MAX_HEAD_BYTES = 32 * 2**10

#: Heads that are known by their bytes: 4 routes of 64 agents, or of 64 lengths, in 0.5 MB.
MAX_KNOWN_HEADS, MAX_KNOWN_HEAD_BYTES = 256, 2**10

#: Of a refused body, this much is read and thrown away so that the connection can go on; with
#: more to come it is closed after the answer.
DISCARD_BYTES = 2**20
DISCARD_S = 1.0

#: How often deadlines are looked at.
SWEEP_S = 0.5

#: How often a drain looks whether requests have been answered.
DRAIN_POLL_S = 0.01

_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"100-continue"
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


_SLOW = TooSlowError.reason


class Timeouts(msgspec.Struct, frozen=True):
    """How long a client may take, in seconds.

    Attributes:
        head_s: From the first byte of a head to its last.
        body_s: For a whole body.
        keepalive_s: Between an answer and the next request.
    """

    head_s: float
    body_s: float
    keepalive_s: float


class KnownHead(msgspec.Struct, frozen=True, gc=False):
    """What a head says that came before, byte for byte; of a connection that stays open.

    Attributes:
        route: Its path.
        length: Of its body.
        write: What it says about the body. It has no key: each key comes once.
    """

    route: Route
    length: int
    write: WriteHead


class FastDoor:
    """What the connections of one worker share.

    Attributes:
        connections: Those that are open and have not gone over to aiohttp.
    """

    def __init__(
        self,
        door: WriteDoor,
        metrics: ShardMetrics,
        routes: Iterable[Route],
        timeouts: Timeouts,
        fallback: Callable[[], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
        log: FilteringBoundLogger,
    ) -> None:
        self.door = door
        self.metrics = metrics
        self.routes = {route.path.encode(): route for route in routes}
        self.timeouts = timeouts
        self.fallback = fallback
        self.loop = loop
        self.log = log
        self.connections: set[Connection] = set()
        self.scratch = bytearray(RECEIVE_BYTES)  # filled and emptied within one callback
        self.scratch_view = memoryview(self.scratch)
        self._known_heads: dict[bytes, KnownHead] = {}
        self._answers: list[tuple[asyncio.Transport, bytes]] = []
        self._durability = f"x-arc-durability: {door.durability}"
        self._date = b""
        self._date_s = 0

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for a new connection."""
        return Connection(self)

    def known_head(self, raw: bytes) -> KnownHead | None:
        """What was found in a head of the same bytes before.

        HOT, once a request: agents send bodies of few lengths under the same headers, and to
        parse them again takes 3 of some 40 µs (docs/profiling/2026-11-20-request-overhead.md).
        """
        return self._known_heads.get(raw)

    def remember_head(self, raw: bytes, known: KnownHead) -> None:
        """Keep what was found in a head, for the next of the same bytes."""
        if known.write.key or len(raw) > MAX_KNOWN_HEAD_BYTES:
            return
        if len(self._known_heads) >= MAX_KNOWN_HEADS:
            self._known_heads.clear()  # of somebody whose heads are all different
        self._known_heads[raw] = known

    def no_content(self) -> bytes:
        """The answer to an accepted write."""
        self._refresh()
        return self._no_content

    def refusal(self, answer: Answer, close: bool) -> bytes:
        """The answer to a refused one."""
        self._refresh()
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}",
            "Content-Type: application/json",
            f"Content-Length: {len(answer.body)}",
            self._durability,
        ]
        if answer.retry_after_s is not None:
            lines.append(f"Retry-After: {answer.retry_after_s}")
        if close:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode()
        return head + b"\r\nDate: " + self._date + _END_OF_HEAD + answer.body

    def _refresh(self) -> None:
        """Make the `Date` anew when the second has changed."""
        now_s = int(time.time())
        if now_s == self._date_s:
            return
        self._date_s, self._date = now_s, formatdate(now_s, usegmt=True).encode()
        self._no_content = (
            b"HTTP/1.1 204 No Content\r\n"
            + self._durability.encode()
            + b"\r\nDate: "
            + self._date
            + _END_OF_HEAD
        )

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send an answer once every request that is already here has been served.

        HOT, once a request. The first write of a turn of the loop wakes the clients' machine or
        process up, the next find it awake: 0.146 -> 0.137 CPU-seconds a million records
        (docs/profiling/2026-11-20-answers-together.md).
        """
        if not self._answers:
            self.loop.call_soon(self.send_answers)
        self._answers.append((transport, data))

    def send_answers(self) -> None:
        """Send what `send` put off."""
        answers, self._answers = self._answers, []
        for transport, data in answers:
            if not transport.is_closing():
                transport.write(data)

    async def sweep(self) -> None:
        """Close connections whose deadline has passed, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self.loop.time()
            for connection in [c for c in self.connections if c.deadline_s < now_s]:
                connection.expire()

    async def drain(self, timeout_s: float) -> None:
        """Close idle connections, and the others once their request is answered.

        Args:
            timeout_s: After this long, bodies that are still arriving are given up.
        """
        end_s = self.loop.time() + timeout_s
        while self.connections:
            self.send_answers()
            for connection in list(self.connections):
                connection.close_when_idle(give_up=self.loop.time() >= end_s)
            await asyncio.sleep(DRAIN_POLL_S)


class _Head:
    """Collects what httptools reports of one head."""

    __slots__ = ("complete", "headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.complete = True


class Connection(asyncio.BufferedProtocol):
    """One connection: reads a head, then its body, then answers; then the next.

    Attributes:
        deadline_s: Loop time at which the client has been too slow.
    """

    def __init__(self, shared: FastDoor) -> None:
        self._shared = shared
        self._transport: asyncio.Transport
        self._pending = bytearray()  # received, not yet looked at as a whole head
        self._body: bytearray | None = None  # of a request that did not arrive in one read
        self._body_view = memoryview(b"")
        self._filled = 0
        self._in_head = False  # a part of a head has arrived
        self._route = MSGPACK  # of the latest request
        self._head: WriteHead | None = None  # of an admitted request whose body is to come
        self._length = 0  # of that body
        self._started_s = 0.0
        self._keep_alive = True
        self._discard = 0  # bytes of a refused body that are still to come
        self._stored: asyncio.Future[int] | None = None  # or nobody would hold it
        self._busy = False  # a request is being stored; the next has to wait
        self.deadline_s = 0.0

    # --- what the event loop calls -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a head."""
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass
        self._shared.connections.add(self)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what a body that never came to its end had taken."""
        self._shared.connections.discard(self)
        if self._body is not None:
            self._shared.door.release(len(self._body))
            door = self._route.door
            self._shared.metrics.count_rejection(door, "disconnected", self._filled)
            self._drop_body()
            seconds = time.monotonic() - self._started_s
            self._shared.metrics.count_request(door, CLIENT_LEFT, seconds)

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more of its requests."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        if not self._busy:
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: into the body they belong to, or the common scratch."""
        if self._body is not None:
            return self._body_view[self._filled :]
        return self._shared.scratch_view

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have arrived where `get_buffer` said."""
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._body_complete(bytes(self._body))
            return
        if self._pending or self._busy:
            self._pending += self._shared.scratch_view[:nbytes]
            self._consume_pending()
            return
        used = self._consume(self._shared.scratch, nbytes)
        if used < nbytes:
            self._pending += self._shared.scratch_view[used:nbytes]

    # --- requests ----------------------------------------------------------------------------

    def _consume_pending(self) -> None:
        if self._busy:
            self._transport.pause_reading()
            return
        data, self._pending = self._pending, bytearray()
        used = self._consume(data, len(data))
        if used < len(data):
            self._pending[:0] = memoryview(data)[used:]

    def _consume(self, data: bytearray, size: int) -> int:
        """Serve every request that begins in `data[:size]`; how many bytes that took."""
        at = 0
        while at < size and not self._busy and self._body is None:
            if self._discard:
                skipped = min(self._discard, size - at)
                self._discard -= skipped
                at += skipped
                if not self._discard and not self._keep_alive:
                    self._transport.close()
                continue
            if not self._keep_alive:
                return size
            end = data.find(_END_OF_HEAD, at, size) + len(_END_OF_HEAD)
            if end < len(_END_OF_HEAD):
                self._partial_head(size - at)
                return at
            if not self._begin(bytes(memoryview(data)[at:end])):
                self._hand_over(bytes(memoryview(data)[at:size]))
                return size
            at = end + self._take_body(data, end, size)
        return at

    def _partial_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            self._refuse_http(431, f"the head of the request is over {MAX_HEAD_BYTES} bytes")
        elif not self._in_head:
            self._in_head = True
            self.deadline_s = self._shared.loop.time() + self._shared.timeouts.head_s

    def _begin(self, raw: bytes) -> bool:
        """Start on the request with this head; False: it is one for aiohttp."""
        self._in_head = False
        known = self._shared.known_head(raw)
        if known is not None:
            self._keep_alive = True
            self._started_s = time.monotonic()
            self._route = known.route
            if self._make_room(known.length):
                self._head, self._length = known.write, known.length
            return True
        head = _Head()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            return False
        except httptools.HttpParserError as error:
            self._refuse_http(400, f"not HTTP: {error}")
            return True
        headers = head.headers
        if headers.get(b"expect", _CONTINUE).lower() != _CONTINUE:
            # aiohttp repeats it in its answer, which fails where it is no text.
            self._refuse_http(417, "header Expect: wanted 100-continue")
            return True
        path, _, query = head.url.partition(b"?")
        route = self._shared.routes.get(path)
        if (
            route is None
            or parser.get_method() != b"POST"
            or not head.complete
            or b"content-length" not in headers
            or b"transfer-encoding" in headers
            or b"expect" in headers
            or parser.get_http_version() != "1.1"
        ):
            return False
        self._keep_alive = parser.should_keep_alive()
        self._started_s = time.monotonic()
        self._route = route
        length = int(headers[b"content-length"])
        if self._admit(FastHead(headers, query), length) and self._keep_alive:
            assert self._head is not None
            self._shared.remember_head(raw, KnownHead(route, length, self._head))
        return True

    def _admit(self, head: FastHead, length: int) -> bool:
        """Make room for the body, or refuse it before any of it is read."""
        if not self._make_room(length):
            return False
        try:
            self._head = self._route.read_head(head)
        except IngestError as error:
            self._shared.door.release(length)
            self._discard = length
            self._refuse(error, 0)
            return False
        self._length = length
        return True

    def _make_room(self, length: int) -> bool:
        try:
            self._shared.door.admit(length)
        except IngestError as error:
            self._discard = length
            self._refuse(error, 0)
            return False
        return True

    def _take_body(self, data: bytearray, at: int, size: int) -> int:
        """Serve an admitted body that is all there, else make room for the rest of it."""
        if self._head is None:  # refused
            return 0
        here = min(self._length, size - at)
        view = memoryview(data)[at : at + here]
        if here == self._length:
            self._body_complete(bytes(view))
            return here
        self._body = bytearray(self._length)
        self._body_view = memoryview(self._body)
        self._body_view[:here] = view
        self._filled = here
        self.deadline_s = self._shared.loop.time() + self._shared.timeouts.body_s
        return here

    def _body_complete(self, body: bytes) -> None:
        """Store an admitted body and answer, at once if nothing has to be waited for."""
        assert self._head is not None
        head, self._head = self._head, None
        if self._body is not None:
            self._drop_body()
        self._shared.metrics.bytes_received.inc(len(body))
        try:
            stored = self._shared.door.store(head, body)
        except Exception as error:
            self._fail(error, body)
            return
        if isinstance(stored, int):
            self._shared.door.release(len(body))
            self._answer(204, self._shared.no_content())
        else:
            self._busy = True
            self.deadline_s = float("inf")
            self._stored = stored
            stored.add_done_callback(partial(self._on_stored, body))

    def _drop_body(self) -> None:
        self._body_view.release()
        self._body, self._body_view, self._head = None, memoryview(b""), None

    def _on_stored(self, body: bytes, stored: asyncio.Future[int]) -> None:
        """Answer a request that waited: for the log, for a thread, or for its table."""
        self._stored = None
        error = stored.exception()
        if error is None:
            self._shared.door.release(len(body))
            self._answer(204, self._shared.no_content())
        else:
            self._fail(error, body)
        self._busy = False
        if self._pending:
            self._transport.resume_reading()
            self._consume_pending()

    def _fail(self, error: BaseException, body: bytes) -> None:
        """Refuse an admitted body, and give its memory back."""
        self._shared.door.release(len(body))
        if not isinstance(error, IngestError):
            self._shared.log.error("request_failed", exc_info=error)
            self._keep_alive = False
            error = IngestError("internal error; the daemon's log has it")
        self._refuse(error, len(body))

    # --- answers -----------------------------------------------------------------------------

    def _answer(self, status: int, data: bytes) -> None:
        # Not the loop's own time: uvloop keeps that in whole milliseconds.
        seconds = time.monotonic() - self._started_s
        self._shared.metrics.count_request(self._route.door, status, seconds)
        self._expect_head()
        if self._keep_alive:
            self._shared.send(self._transport, data)
        elif not self._transport.is_closing():
            self._shared.send_answers()  # those of this connection go first
            self._transport.write(data)
            self._close_gently()

    def _close_gently(self) -> None:
        """Close once the client had the time to read its answer.

        A socket that is closed with unread bytes in it is reset, and the answer with it.
        """
        if self._discard and not self._transport.is_closing():
            self._transport.write_eof()
            self.deadline_s = self._shared.loop.time() + DISCARD_S
        else:
            self._transport.close()

    def _refuse(self, error: IngestError, num_bytes: int) -> None:
        answer = answer_to(error, self._route)
        door, rows = self._route.door, error.num_rows
        self._shared.metrics.count_rejection(door, answer.reason, num_bytes, rows)
        if self._discard > DISCARD_BYTES:
            self._keep_alive = False
        self._answer(answer.status, self._shared.refusal(answer, not self._keep_alive))

    def _refuse_http(self, status: int, message: str, reason: str = "bad_http") -> None:
        """Answer what is no whole request, and close."""
        self._keep_alive = False
        self._started_s = time.monotonic()
        body = self._route.error_body(status, message)
        self._shared.metrics.count_rejection(self._route.door, reason)
        self._answer(status, self._shared.refusal(Answer(status, reason, body, None), True))

    def _expect_head(self) -> None:
        self.deadline_s = self._shared.loop.time() + self._shared.timeouts.keepalive_s

    # --- the end -----------------------------------------------------------------------------

    def _hand_over(self, data: bytes) -> None:
        """Give the connection to aiohttp, with what it sent and was not yet answered."""
        self._shared.connections.discard(self)
        protocol = self._shared.fallback()
        self._shared.send_answers()
        # uvloop chooses between the two kinds of protocol when reading starts.
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        self._transport.resume_reading()
        protocol.data_received(data)

    def expire(self) -> None:
        """The client has been too slow."""
        if self._body is not None:
            self._shared.door.release(len(self._body))
            self._drop_body()
            self._refuse_http(408, "the body of the request did not arrive in time", _SLOW)
        elif self._in_head:
            self._refuse_http(408, "the head of the request did not arrive in time", _SLOW)
        self._transport.close()

    def close_when_idle(self, give_up: bool) -> None:
        """Close, unless a request is under way; one that is still arriving may be given up."""
        if not self._busy and (self._body is None or give_up):
            self._transport.close()


class FastHead:
    """Headers and query as httptools gave them; see `arc.write_routes.RequestHead`."""

    __slots__ = ("_headers", "_query")

    def __init__(self, headers: dict[bytes, bytes], query: bytes) -> None:
        self._headers = headers
        self._query = query

    def header(self, name: bytes) -> str | None:
        """The value of a header, as aiohttp decodes it; None when absent."""
        value = self._headers.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def query(self, name: bytes) -> str | None:
        """The first value of a parameter of the query; None when absent."""
        if not self._query:
            return None
        found = parse_qs(self._query, keep_blank_values=True).get(name)
        return None if found is None else found[0].decode("utf-8", "replace")
