"""One generator process: a raw epoll loop over keep-alive connections.

In: a `LoadSpec`, an address, a start time. Out: what became of every request (acknowledged,
refused, unknown) and when. It never retries a request, never touches a row in Python, and never
waits for one connection while another could send.

Closed loop: a connection sends again as soon as it has its answer. Open loop (`spec.rate`):
requests are due at fixed times, whichever connection is free takes the next, and latency counts
from the time at which the request was due, so a stalled server cannot hide what it held up.
"""

from __future__ import annotations

import heapq
import math
import select
import socket
import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from benchmarks.load.payloads import Payloads, Times
from benchmarks.load.replies import Reply, ReplyError, parse_reply
from benchmarks.load.spec import LoadSpec

#: Read at most this much at once; a reply to a write is some 150 bytes.
RECEIVE_BYTES = 64 * 1024
#: A connection that could not be made is tried again after this long.
RECONNECT_S = 0.1
#: No wait is longer, so that the end of the run and time-outs are seen.
TICK_S = 0.1
#: Texts of the first few errors that are kept.
ERRORS_KEPT = 5

_NS = 1_000_000_000


class Outcome(IntEnum):
    """What a client knows about a request, one byte each."""

    NEVER_SENT = 0
    ACKNOWLEDGED = 1
    REFUSED = 2
    UNKNOWN = 3


class Progress(Protocol):
    """Live counters that the parent reads: `PROGRESS_FIELDS`, int64 each."""

    def __setitem__(self, index: int, value: int, /) -> None:
        """Set one counter."""
        ...


PROGRESS_FIELDS = ("acknowledged", "refused", "failed", "sent_bytes")


@dataclass
class ClientResult:
    """What one process has to tell.

    Attributes:
        outcomes: One `Outcome` for each request of this process, in the order of sending.
        done_ns: When each acknowledged request was answered, monotonic clock, int64.
        latency_ns: How long it took from the time it was sent or due, int64, same order.
        statuses: Replies by HTTP status.
        failed: Requests that got no reply: connection lost, time-out, not HTTP.
        connects_failed: Attempts to connect that failed.
        overdue: Open loop: requests that were due and had not been sent when the run ended.
        sent_bytes: Bytes handed to the kernel, HTTP heads included.
        body_bytes: Bytes of bodies of acknowledged requests, as sent.
        cpu_s: CPU time of this process from start to end of the load.
        errors: The first few error replies and failures, as text.
    """

    outcomes: bytearray = field(default_factory=bytearray)
    done_ns: array[int] = field(default_factory=lambda: array("q"))
    latency_ns: array[int] = field(default_factory=lambda: array("q"))
    statuses: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    connects_failed: int = 0
    overdue: int = 0
    sent_bytes: int = 0
    body_bytes: int = 0
    cpu_s: float = 0.0
    errors: list[str] = field(default_factory=list)


class Connection:
    """One keep-alive connection and the request that is on it.

    Attributes:
        sock: None while not connected.
        times: Times of the request in flight.
        turn: Which request of this process is in flight; -1: none.
        due_ns: From when its latency counts.
        sent_ns: When its first byte was handed over.
        body_bytes: Size of its body.
        pending: What of it is still to be sent.
        received: Bytes of a reply that is not complete yet.
        reply: The reply, when it came before all of the request was sent.
        rests: It must not send yet, or is yet to be connected again.
    """

    __slots__ = (
        "body_bytes", "due_ns", "pending", "received", "reply", "rests", "sent_ns", "sock",
        "times", "turn",
    )  # fmt: skip

    def __init__(self, rows: int) -> None:
        """A connection yet to be made, for requests of `rows` rows."""
        self.sock: socket.socket | None = None
        self.times = Times(rows)
        self.turn = -1
        self.due_ns = 0
        self.sent_ns = 0
        self.body_bytes = 0
        self.pending: list[bytes | memoryview] = []
        self.received = b""
        self.reply: Reply | None = None
        self.rests = False


class LoadClient:
    """The load of one process."""

    def __init__(
        self, spec: LoadSpec, process: int, address: tuple[str, int], progress: Progress
    ) -> None:
        """Encode the bodies. Nothing is connected yet.

        Args:
            spec: The run.
            process: Number of this process, below `spec.processes`.
            address: Host and port to send to.
            progress: Live counters, in the order of `PROGRESS_FIELDS`.
        """
        self.result = ClientResult()
        self._spec = spec
        self._process = process
        self._address = address
        self._progress = progress
        self._request = spec.order.request
        self._pieces = Payloads(spec, process, f"{address[0]}:{address[1]}").pieces
        self._connections = [Connection(spec.rows) for _ in range(spec.for_process(process))]
        self._by_fd: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._resting: list[tuple[int, int, Connection]] = []
        self._rests = 0
        self._busy = 0
        self._epoll = select.epoll()
        self._next_scan_ns = 0
        self._next_due_ns = 0.0
        self._interval_ns = 0.0
        if spec.rate is not None:
            self._interval_ns = spec.rows * spec.processes / spec.rate * _NS

    def connect(self) -> None:
        """Open every connection; one that fails is tried again during the run."""
        for connection in self._connections:
            self._open(connection)

    def run(self, start_ns: int) -> ClientResult:
        """Send from `start_ns` (monotonic clock) until warm-up and measurement are over.

        Requests that are in flight at the end are waited for, up to the time-out.
        """
        stop_ns = start_ns + round((self._spec.warmup_s + self._spec.seconds) * _NS)
        self._next_due_ns = start_ns + self._interval_ns * self._process / self._spec.processes
        time.sleep(max(0.0, (start_ns - time.monotonic_ns()) / _NS))
        before_s = time.process_time()
        self._send_until(stop_ns)
        self._count_overdue(stop_ns)
        self._wait_for_answers(stop_ns + round(self._spec.timeout_s * _NS))
        self.result.cpu_s = time.process_time() - before_s
        self._close_all()
        return self.result

    def _send_until(self, stop_ns: int) -> None:
        dispatch = self._send_due if self._interval_ns else self._send_on_idle
        while (now_ns := time.monotonic_ns()) < stop_ns:
            self._wake_resting(now_ns)
            dispatch(now_ns)
            self._handle_events(min(self._wait_s(), (stop_ns - now_ns) / _NS))

    def _wait_for_answers(self, until_ns: int) -> None:
        while self._busy and time.monotonic_ns() < until_ns:
            self._handle_events(TICK_S)

    def _count_overdue(self, stop_ns: int) -> None:
        if self._interval_ns:
            late_ns = stop_ns - 1 - self._next_due_ns  # less 1 ns: float sums are not exact
            self.result.overdue = max(0, math.ceil(late_ns / self._interval_ns))

    def _send_on_idle(self, _now_ns: int) -> None:
        while self._idle:
            self._send(self._idle.popleft(), time.monotonic_ns())

    def _send_due(self, now_ns: int) -> None:
        while self._idle and self._next_due_ns <= now_ns:
            self._send(self._idle.popleft(), int(self._next_due_ns))
            self._next_due_ns += self._interval_ns

    def _wait_s(self) -> float:
        """How long nothing can happen but an event on a socket."""
        until_ns = time.monotonic_ns() + TICK_S * _NS
        if self._resting:
            until_ns = min(until_ns, self._resting[0][0])
        if self._interval_ns and self._idle:
            until_ns = min(until_ns, self._next_due_ns)
        return max(0.0, (until_ns - time.monotonic_ns()) / _NS)

    def _handle_events(self, timeout_s: float) -> None:
        for fd, event in self._poll(timeout_s):
            connection = self._by_fd.get(fd)
            if connection is None:
                continue
            if event & select.EPOLLOUT and connection.pending:
                self._flush(connection)
            if event & ~select.EPOLLOUT and connection.sock is not None:
                self._receive(connection)
        self._publish()
        if time.monotonic_ns() >= self._next_scan_ns:
            self._fail_overdue_answers()

    def _poll(self, timeout_s: float) -> list[tuple[int, int]]:
        """Wait for events. epoll rounds up to 1 ms, so shorter waits of an open loop select."""
        if self._interval_ns and 0 < timeout_s < 0.005:
            select.select([self._epoll], [], [], timeout_s)
            timeout_s = 0
        return self._epoll.poll(timeout_s)

    def _publish(self) -> None:
        result, progress = self.result, self._progress
        progress[0] = len(result.done_ns)
        progress[1] = result.statuses.total() - len(result.done_ns)
        progress[2] = result.failed
        progress[3] = result.sent_bytes

    def _send(self, connection: Connection, due_ns: int) -> None:
        assert connection.sock is not None, "BUG: idle without a socket"
        turn = len(self.result.outcomes)
        self.result.outcomes.append(Outcome.UNKNOWN)
        pieces = self._pieces(self._request(self._process, turn), connection.times)
        connection.turn, connection.due_ns = turn, due_ns
        connection.sent_ns = time.monotonic_ns()
        connection.body_bytes = len(pieces[1]) + len(pieces[2])
        self._busy += 1
        total = len(pieces[0]) + connection.body_bytes
        try:
            sent = connection.sock.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(connection, f"send: {error}")
            return
        self.result.sent_bytes += sent
        if sent < total:
            connection.pending = unsent(pieces, sent)
            self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, connection: Connection) -> None:
        """Send more of a request that did not fit into the socket's buffer."""
        assert connection.sock is not None, "BUG: pending without a socket"
        try:
            sent = connection.sock.sendmsg(connection.pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(connection, f"send: {error}")
            return
        self.result.sent_bytes += sent
        connection.pending = unsent(connection.pending, sent)
        if connection.pending:
            return
        self._epoll.modify(connection.sock.fileno(), select.EPOLLIN)
        if connection.reply is not None:
            self._finish(connection, connection.reply)

    def _receive(self, connection: Connection) -> None:
        assert connection.sock is not None, "BUG: received without a socket"
        try:
            data = connection.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(connection, f"receive: {error}")
            return
        if not data:
            self._lose(connection, "the server closed the connection")
            return
        data = connection.received + data if connection.received else data
        try:
            reply = parse_reply(data)
        except ReplyError as error:
            self._lose(connection, str(error))
            return
        if reply is None:
            connection.received = data
        elif connection.turn < 0 or connection.reply or len(data) > reply.consumed:
            self._lose(connection, f"a reply that nobody asked for: {data[:200]!r}")
        else:
            self._answer(connection, reply)

    def _answer(self, connection: Connection, reply: Reply) -> None:
        """Take note of the reply to the request in flight."""
        result, now_ns = self.result, time.monotonic_ns()
        connection.received = b""
        result.statuses[reply.status] += 1
        if reply.status in (200, 204):
            result.outcomes[connection.turn] = Outcome.ACKNOWLEDGED
            result.done_ns.append(now_ns)
            result.latency_ns.append(now_ns - connection.due_ns)
            result.body_bytes += connection.body_bytes
        else:
            if reply.status != 500:
                result.outcomes[connection.turn] = Outcome.REFUSED
            self._keep_error(f"{reply.status}: {reply.body[:300].decode(errors='replace')}")
        if connection.pending and not reply.closes:
            connection.reply = reply  # the rest of the request must go out first
        else:
            self._finish(connection, reply)

    def _finish(self, connection: Connection, reply: Reply) -> None:
        """The request is over: the connection is idle, rests, or is made anew."""
        connection.turn, connection.reply = -1, None
        self._busy -= 1
        if reply.closes:
            self._reopen(connection, reply.retry_after_s)
        elif reply.status in (429, 503) and reply.retry_after_s:
            self._rest(connection, reply.retry_after_s)
        else:
            self._idle.append(connection)

    def _lose(self, connection: Connection, why: str) -> None:
        """The connection is gone; what was in flight without an answer has failed."""
        if connection.turn >= 0:
            self._busy -= 1
            if connection.reply is None:
                self.result.failed += 1
                self._keep_error(why)
        self._reopen(connection, 0)

    def _reopen(self, connection: Connection, after_s: float) -> None:
        self._close(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._rest(connection, after_s)

    def _rest(self, connection: Connection, for_s: float) -> None:
        if connection.rests:
            return  # closed while it rested: it is connected again when the rest is over
        connection.rests = True
        self._rests += 1
        wake_ns = time.monotonic_ns() + round(for_s * _NS)
        heapq.heappush(self._resting, (wake_ns, self._rests, connection))

    def _wake_resting(self, now_ns: int) -> None:
        while self._resting and self._resting[0][0] <= now_ns:
            connection = heapq.heappop(self._resting)[2]
            connection.rests = False
            if connection.sock is None:
                self._open(connection)
            else:
                self._idle.append(connection)

    def _open(self, connection: Connection) -> None:
        try:
            sock = socket.create_connection(self._address, timeout=5)
        except OSError as error:
            self.result.connects_failed += 1
            self._keep_error(f"connect: {error}")
            self._rest(connection, RECONNECT_S)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        connection.sock = sock
        self._by_fd[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._idle.append(connection)

    def _close(self, connection: Connection) -> None:
        if connection.sock is not None:
            del self._by_fd[connection.sock.fileno()]
            connection.sock.close()
        connection.sock, connection.turn, connection.reply = None, -1, None
        connection.pending, connection.received = [], b""

    def _close_all(self) -> None:
        for connection in self._connections:
            if connection.turn >= 0 and connection.reply is None:
                self.result.failed += 1
                self._keep_error("no answer before the end of the run")
            self._close(connection)
        self._epoll.close()
        self._publish()

    def _fail_overdue_answers(self) -> None:
        """Once a second: give up requests without an answer for too long."""
        now_ns = time.monotonic_ns()
        self._next_scan_ns = now_ns + _NS
        oldest_ns = now_ns - round(self._spec.timeout_s * _NS)
        for connection in self._connections:
            if connection.turn >= 0 and connection.sent_ns < oldest_ns:
                self._lose(connection, f"no answer within {self._spec.timeout_s:g} s")

    def _keep_error(self, text: str) -> None:
        if len(self.result.errors) < ERRORS_KEPT and text not in self.result.errors:
            self.result.errors.append(text)


def unsent(pieces: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """What is left of `pieces` after their first `sent` bytes, without a copy."""
    left: list[bytes | memoryview] = []
    for piece in pieces:
        if sent >= len(piece):
            sent -= len(piece)
        else:
            left.append(memoryview(piece)[sent:])
            sent = 0
    return left
