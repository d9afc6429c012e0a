"""An HTTP server whose every move a test has written down: real sockets, in threads of its own.

In: connections to a free port of 127.0.0.1, and a script of steps. Out: the scripted bytes, and a
record of every request with its headers, its body and the connection that it came on. It never
decides anything by itself, and never sleeps but where a step tells it to be slow.

    with ScriptedServer() as server:
        server.will(answer(503, retry_after="1"), hang_up(), silence())
        ...                                     # the client under test talks to server.url
        first, second = server.wait_for(2)      # returns as soon as two requests are recorded

The nth request takes the nth step; when the script is used up, every further one gets
`server.default`, which is `answer(204)` unless a test sets another. A step may also be a function
of the request's head that returns a step, and `decided(function)` one of the whole request, which
is how a test plays a server with a memory.

What a step can do:

    answer(200, body=b"…", headers={…})      answer a request that was read to its end
    answer(413, early=True, then="close")    answer before the body is read; `then` says what next
    answer(200, size=100 * 2**20)            a body of that many bytes
    answer(200, body=b"…", pace=(1, 0.1))    slow: one byte each 0.1 s
    answer(204, gate=server.gate())          answer when the test opens the gate, a threading.Event
    raw(b"HTTP/1.1 2")                       exactly these bytes, then hang up: half an answer, junk
    hang_up(after=HEAD)                      close before, amid or after the request, no answer
    silence()                                read the request, never answer
    `then`: "keep" the connection, "close" it, "reset" it, end the sending side ("finish"), or go on
    without ever reading again ("stall")

Beside the script: `refuse()` and `listen()` close and reopen the port as a restart does,
`hang_up_idle()` ends every connection from the server's side, `gate()` makes a gate.
Given an `ssl_context` it speaks TLS. `self_signed` makes a certificate for 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

#: Much more than anything here takes when all is well.
WAIT_S = 30.0
#: For `hang_up(after=…)`: as soon as a request begins, with its head, or with its whole body.
NOTHING, HEAD, BODY = -1, 0, -2
_END_OF_HEAD = b"\r\n\r\n"
_FILLER = b"." * 2**16

Then = Literal["keep", "close", "reset", "finish", "stall"]


@dataclass(eq=False)
class Request:
    """A request as it came.

    Attributes:
        method: Of the first line.
        target: Path and query of the first line.
        headers: Value by name in lower case; of repeated ones the last.
        header_lines: Name and value as they came, in their order.
        body: As far as it was read.
        is_whole: The body was read to its end.
        connection: Which connection it came on: 0 for the first that was opened.
        nth: Which request of its connection it is, from 0.
    """

    method: str
    target: str
    header_lines: list[tuple[str, str]]
    connection: int
    nth: int
    body: bytes = b""
    is_whole: bool = False
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = {name.lower(): value for name, value in self.header_lines}

    @property
    def length(self) -> int:
        """Bytes of the body by its header."""
        return int(self.headers.get("content-length", "0"))


@dataclass(frozen=True)
class Step:
    """What happens to one request; made by `answer`, `raw`, `hang_up` and `silence`.

    Attributes:
        wanted: How much of the body is read first: BODY all, HEAD nothing, NOTHING not even a
            whole head, else bytes.
        head: Bytes of the answer before its body.
        body: Bytes after these.
        size: Bytes of filler after these.
        pace: Bytes at a time and seconds between them.
        gate: The answer waits for it.
        then: What becomes of the connection.
        decide: Gives the step to go on with, when the body is read.
        interim: Bytes sent before any of the body is read.
    """

    wanted: int = BODY
    head: bytes = b""
    body: bytes = b""
    size: int = 0
    pace: tuple[int, float] | None = None
    gate: threading.Event | None = None
    then: Then = "keep"
    decide: Callable[[Request], Step] | None = None
    interim: bytes = b""


Script = Step | Callable[[Request], Step]


def answer(
    status: int = 204,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    retry_after: str | None = None,
    size: int = 0,
    early: bool = False,
    gate: threading.Event | None = None,
    pace: tuple[int, float] | None = None,
    interim: bytes = b"",
    then: Then = "keep",
) -> Step:
    """A proper answer.

    Args:
        status: Any number; 204 gets no Content-Length.
        body: Sent as it is.
        headers: Beside Content-Length, which may be among them to give a wrong one.
        retry_after: Value of the header Retry-After.
        size: Bytes of filler after the body.
        early: Answer when the head is there, and read nothing of the body.
        gate: Wait until it is open.
        pace: How many bytes at a time, and seconds between.
        interim: Sent as it is when the head has come, before the body is read: a 100 Continue.
        then: What becomes of the connection. After an early answer "keep" reads the body.
    """
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    lines = {} if status == 204 else {"Content-Length": str(len(body) + size)}
    lines |= {} if retry_after is None else {"Retry-After": retry_after}
    lines |= headers or {}
    head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
    wanted = HEAD if early else BODY
    return Step(wanted, head.encode() + b"\r\n", body, size, pace, gate, then, None, interim)


def decided(decide: Callable[[Request], Step]) -> Step:
    """A step that depends on the whole request, its body included."""
    return Step(decide=decide)


def raw(data: bytes, then: Then = "close", *, early: bool = False) -> Step:
    """These bytes for an answer, whether they are one or not."""
    return Step(HEAD if early else BODY, data, then=then)


def hang_up(after: int = BODY, how: Literal["close", "reset"] = "close") -> Step:
    """No answer: the connection ends.

    Args:
        after: NOTHING: when the first bytes of the request are there; HEAD; BODY; or how many bytes
            of the body are read before.
        how: An orderly end, or a reset.
    """
    return Step(after, then=how)


def silence(after: int = BODY) -> Step:
    """No answer, and no end: the connection stays open until the client leaves.

    Args:
        after: How much is read, as for `hang_up`.
    """
    return Step(after, then="stall")


class ScriptedServer:
    """Serves on a free port of 127.0.0.1 until its `with` block ends; see the module.

    Attributes:
        port: Where it listens, the same after `refuse` and `listen`.
        default: The step of requests that the script has none for.
        num_connections: How many were ever opened.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self.default: Script = answer()
        self.num_connections = 0
        self._ssl_context = ssl_context
        self._news = threading.Condition()  # guards the script, the records and the sockets
        self._script: deque[Script] = deque()
        self._requests: list[Request] = []
        self._open: dict[int, socket.socket] = {}
        self._gates: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self.port = 0
        self.listen()

    # --- for the test ------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base of its URLs."""
        return f"{'http' if self._ssl_context is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """What came so far, in the order of their records: whole ones when their body is read."""
        with self._news:
            return list(self._requests)

    def will(self, *steps: Script) -> None:
        """Put steps at the end of the script."""
        with self._news:
            self._script.extend(steps)

    def wait_for(self, count: int) -> list[Request]:
        """All requests, once there are this many."""
        with self._news:
            enough = self._news.wait_for(lambda: len(self._requests) >= count, WAIT_S)
            assert enough, f"{len(self._requests)} requests came, not {count}"
            return list(self._requests)

    def wait_until_left(self) -> None:
        """Wait until every connection has ended."""
        with self._news:
            assert self._news.wait_for(lambda: not self._open, WAIT_S), "a client stays connected"

    def gate(self) -> threading.Event:
        """What an answer can wait for; the end of the server opens it as well."""
        with self._news:
            self._gates.append(threading.Event())
            return self._gates[-1]

    def hang_up_idle(self) -> None:
        """End every connection, as a server does that has waited long enough, and wait for it."""
        with self._news:
            _shut(self._open.values())
        self.wait_until_left()

    def refuse(self) -> None:
        """Close the port: connections that are tried are refused, those that are open go on."""
        assert self._listener is not None
        assert self._acceptor is not None
        listener, self._listener = self._listener, None
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), WAIT_S).close()  # wakes accept()
        self._acceptor.join(WAIT_S)
        listener.close()

    def listen(self) -> None:
        """Open the port again; the first time, any free one."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._listener, self.port = listener, listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close everything, and wait for the threads."""
        self._stopping.set()
        if self._listener is not None:
            self.refuse()
        with self._news:
            gates, threads = list(self._gates), list(self._threads)
            _shut(self._open.values())
        for gate in gates:
            gate.set()
        for thread in threads:
            thread.join(WAIT_S)

    # --- its threads -------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connected, _ = listener.accept()
            if self._listener is not listener:
                connected.close()
                return
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._news:
                number, self.num_connections = self.num_connections, self.num_connections + 1
                self._open[number] = connected
                thread = threading.Thread(target=self._serve, args=(number,), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, number: int) -> None:
        connected = self._open[number]
        try:
            if self._ssl_context is not None:
                connected = self._ssl_context.wrap_socket(connected, server_side=True)
                with self._news:
                    self._open[number] = connected
            conversation = _Conversation(self, connected, number)
            while conversation.serve_one():
                pass
        except (OSError, _LeftError):
            pass  # the client has gone, or does not like our certificate: the test sees it there
        finally:
            connected.close()
            with self._news:
                del self._open[number]
                self._news.notify_all()

    def next_step(self, request: Request) -> Step:
        """The step for a request whose head has come."""
        with self._news:
            step = self._script.popleft() if self._script else self.default
        return step if isinstance(step, Step) else step(request)

    def abrupt_step(self) -> Step | None:
        """The next step, if it is one that reads nothing; else it stays in the script."""
        with self._news:
            step = self._script[0] if self._script else self.default
            if not isinstance(step, Step) or step.wanted != NOTHING:
                return None
            if self._script:
                self._script.popleft()
            return step

    def record(self, request: Request) -> None:
        """Remember a request, and wake who waits for it."""
        with self._news:
            self._requests.append(request)
            self._news.notify_all()

    def pause(self, seconds: float) -> None:
        """Be slow, unless the server ends."""
        self._stopping.wait(seconds)


class _LeftError(Exception):
    """The client has closed its side."""


class _Conversation:
    """One connection: what was received and not yet used, and the requests on it."""

    def __init__(self, server: ScriptedServer, connected: socket.socket, number: int) -> None:
        self._server, self._socket, self._number = server, connected, number
        self._received = bytearray()
        self._nth = 0

    def serve_one(self) -> bool:
        """Read a request and do its step; False: the connection is to end."""
        self._receive_until(lambda: len(self._received) > 0)
        if (abrupt := self._server.abrupt_step()) is not None:
            return self._finish(abrupt, 0)
        request = self._read_head()
        step = self._server.next_step(request)
        if step.interim:
            self._socket.sendall(step.interim)
        wanted = request.length if step.wanted == BODY else step.wanted
        self._read_body(request, wanted)
        self._server.record(request)
        if step.decide is not None:
            step = step.decide(request)
        if step.gate is not None:
            step.gate.wait(WAIT_S)
        for piece in _pieces(step):
            self._socket.sendall(piece)
            if step.pace is not None:
                self._server.pause(step.pace[1])
        return self._finish(step, request.length - len(request.body))

    def _finish(self, step: Step, unread: int) -> bool:
        """Do what a step says of the connection; `unread` bytes of the body are to come."""
        if step.then == "reset":
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif step.then == "finish":
            self._socket.shutdown(socket.SHUT_WR)
            self._receive_until(lambda: False)
        elif step.then == "stall":
            _wait_for_the_end(self._socket)
        elif step.then == "keep" and unread:
            self._receive_until(lambda: len(self._received) >= unread)
            del self._received[:unread]
        return step.then == "keep"

    def _read_head(self) -> Request:
        self._receive_until(lambda: _END_OF_HEAD in self._received)
        head, _, rest = bytes(self._received).partition(_END_OF_HEAD)
        self._received = bytearray(rest)
        first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1", first
        pairs = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        request = Request(method, target, pairs, self._number, self._nth)
        self._nth += 1
        return request

    def _read_body(self, request: Request, wanted: int) -> None:
        """Take `wanted` bytes; a client that leaves before is recorded with what it sent."""
        try:
            self._receive_until(lambda: len(self._received) >= wanted)
        except (OSError, _LeftError):
            request.body = bytes(self._received)
            self._server.record(request)
            raise
        request.body = bytes(self._received[:wanted])
        request.is_whole = wanted == request.length
        del self._received[:wanted]

    def _receive_until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            data = self._socket.recv(2**18)
            if not data:
                raise _LeftError
            self._received += data


def _pieces(step: Step) -> Iterator[bytes]:
    """The answer, as it is sent."""
    if step.pace is None:
        yield step.head + step.body
    else:
        whole = step.head + step.body
        yield from (whole[at : at + step.pace[0]] for at in range(0, len(whole), step.pace[0]))
    for at in range(0, step.size, len(_FILLER)):
        yield _FILLER[: step.size - at]


def _wait_for_the_end(connected: socket.socket) -> None:
    """Wait until the other side has left, or the server ends, and read nothing meanwhile."""
    poll = select.poll()
    poll.register(connected, getattr(select, "POLLRDHUP", select.POLLHUP))
    poll.poll()


def _shut(sockets: Iterable[socket.socket]) -> None:
    for connected in sockets:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def self_signed(
    folder: Path, names: str = "DNS:localhost,IP:127.0.0.1"
) -> tuple[Path, Path] | None:
    """A new certificate, valid for two days, and its key.

    Args:
        folder: Where the two files go.
        names: Whom it is for, as openssl writes it.

    Returns:
        Certificate and key, PEM; None where there is no `openssl` to make them.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", f"subjectAltName={names}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
