"""One request at a time to the daemon, over a connection that is kept open.

In: an address, headers and bodies. Out: the server's answer as a `Reply`, whatever its status, or a
`SendError` that says whether the server may have got the request. Nothing here judges an answer,
waits before a second attempt, or gives a request its key; and no message quotes a header or the
part of a URL where a password may stand.

The request is written here, so that its head and its body leave in one system call and an answer
that comes before the body is sent is seen. The answer is read by `http.client`
(docs/profiling/2026-11-20-client-transport.md has what that costs).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import select
import threading
import time
from collections.abc import Iterable
from datetime import UTC
from typing import TYPE_CHECKING, Any

import msgspec

from arc.client.errors import UsageError

if TYPE_CHECKING:
    import http.client
    import socket
    import ssl

Headers = Iterable[tuple[str, str]]


def import_libraries() -> None:
    """Import all that a connection may use: 40 ms, which no caller has to wait for."""
    for name in ("email.utils", "http.client", "ipaddress", "socket", "ssl", "urllib.parse"):
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("backports.zstd")


#: Of an answer's body; what is longer is left unread, and the connection closed.
MAX_ANSWER_BYTES = 64 * 2**10
#: Of a whole answer, head and interim answers included.
MAX_RECEIVED_BYTES = 256 * 2**10
MAX_MESSAGE_CHARACTERS = 2_000

#: After sending has failed: for an answer that came before the failure, and is therefore here.
LAST_WORDS_S = 1.0

#: A TLS socket is given this much at once, and its time-out begins anew with each.
TLS_SEND_BYTES = 256 * 2**10

_DEFAULT_PORTS = {"http": 80, "https": 443}
_INTERIM = range(100, 200)
_REDIRECTS = range(300, 400)
_SWITCHING_PROTOCOLS = 101
_TARGET = re.compile(r"/[!-~]*").fullmatch
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_BLANK = re.compile(r"[\x00-\x20\x7f]").search
_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]+)?").fullmatch
_HEADER_VALUE = re.compile(
    r"[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?"
).fullmatch


class Endpoint(msgspec.Struct, frozen=True):
    """Where the daemon is.

    Attributes:
        scheme: "http" or "https".
        host: Lower case, ASCII (an international name in its xn-- form); an IPv6 address without
            its brackets.
        port: 1 to 65 535.
        prefix: Path before /api…, for a daemon behind a proxy: empty, or it begins with a slash
            and does not end with one.
        is_loopback: The host is this machine: `localhost`, 127.0.0.0/8 or ::1.
    """

    scheme: str
    host: str
    port: int
    prefix: str
    is_loopback: bool

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read a base URL: `http://host:8000`, `https://host/prefix`, `http://[::1]:8000`.

        Without a port it is the scheme's own, 80 or 443, as everywhere; the daemon listens on 8000.

        Raises:
            UsageError: No http or https URL, or one with credentials, a query or a fragment. The
                message quotes neither of these.
        """
        from urllib.parse import urlsplit

        if not isinstance(url, str):
            raise UsageError(f"url: found {type(url).__name__}, wanted a string")
        if "@" in url:
            raise UsageError(
                "url: credentials do not belong in it (it contains an @): give token=… instead"
            )
        url = url.strip()
        scheme = _scheme(url)
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname or ""
        except ValueError:
            raise UsageError("url: the host or the port cannot be read") from None
        if parts.query or parts.fragment:
            raise UsageError("url: wanted no query and no fragment")
        if not host or port == 0:
            raise UsageError(f"url: wanted {scheme}://host:port, found no host or port 0")
        host = _host(host)
        port = port or _DEFAULT_PORTS[scheme]
        return cls(scheme, host, port, _prefix(parts.path), _is_loopback(host))

    @property
    def authority(self) -> str:
        """Host and port as the header Host has them: without the port if it is the scheme's own."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{self.scheme}://{self.authority}{self.prefix}"


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise UsageError("url: wanted http://host:port or https://host:port")
    if _BLANK(url):  # some of them urlsplit would take out
        raise UsageError("url: contains a blank or a control character")
    return scheme


def _host(host: str) -> str:
    """A host as it is looked up; an IPv6 zone is written %25 in a URL and % elsewhere."""
    if ":" in host:
        return host.replace("%25", "%", 1)
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError:
        encoded = ""
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", encoded):
        raise UsageError("url: the host is no name and no address")
    return encoded.lower()


def _prefix(path: str) -> str:
    prefix = path.rstrip("/")
    if prefix and not _TARGET(prefix):
        raise UsageError("url: characters of the path must be escaped (%20 for a blank)")
    return prefix


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Reply(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        status: HTTP status; only 2xx is success. No redirect is followed.
        message: For people: the string under the key `error` of a JSON answer, else its text, else
            the reason beside the status; at most 2 000 characters. Empty for an empty 2xx.
        retry_after_s: Header Retry-After, seconds from now; None when absent or not understood.
    """

    status: int
    message: str
    retry_after_s: float | None


class SendError(Exception):
    """A request without an answer.

    Attributes:
        message: What happened, with the address.
        in_doubt: The server may have got the request, and done as it says. False only when no byte
            of it can have left: the name was not found, the connection refused or not opened in
            time, TLS not agreed upon.
    """

    def __init__(self, message: str, in_doubt: bool) -> None:
        super().__init__(message)
        self.message, self.in_doubt = message, in_doubt


class _UnansweredError(SendError):
    """The server closed the connection before it sent a byte of an answer."""


def encode_headers(headers: Headers) -> bytes:
    """Lines of a head, values in UTF-8, which is how the daemon reads them.

    Raises:
        UsageError: A name or a value that HTTP cannot carry, or would not carry unchanged (blanks
            at an end). The value is not quoted: it may be a token.
    """
    lines = []
    for name, value in headers:
        if not _HEADER_NAME(name):
            raise UsageError(f"header {name!r}: not a name of a header")
        if value and not _HEADER_VALUE(value):
            raise UsageError(f"header {name!r}: control characters, or blanks at an end")
        lines.append(f"{name}: {value}\r\n")
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError:
        raise UsageError("a header has a lone surrogate, which is no text") from None


class Connection:
    """A connection to one endpoint, opened by the first request and kept open.

    For one thread at a time; only `close` may be called from another.

    Args:
        endpoint: Where to.
        headers: Sent with every request, the token among them.
        connect_timeout_s: For opening, all addresses of the host and TLS included, the look-up of
            the name not.
        timeout_s: How long the server may take none of a request that is being sent, and then how
            long its whole answer may take.
        ssl_context: For https; None: certificates are verified against the system's authorities.

    Raises:
        UsageError: A header that cannot be sent, or an `ssl_context` for http.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        headers: tuple[tuple[str, str], ...],
        connect_timeout_s: float,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if ssl_context is not None and endpoint.scheme != "https":
            raise UsageError("ssl_context: given for a URL that is not https")
        self._endpoint = endpoint
        self._connect_timeout_s, self._timeout_s = connect_timeout_s, timeout_s
        self._ssl_context = ssl_context
        common = (("Host", endpoint.authority), ("Accept-Encoding", "identity"), *headers)
        self._common = encode_headers(common)
        self._guard = threading.Lock()  # of the three below; never held while anything waits
        self._socket: socket.socket | None = None
        self._is_busy = False
        self._is_closed = False

    def post(self, target: str, headers: Headers, body: bytes | bytearray) -> Reply:
        """Send one request and read its answer.

        A kept connection that the server has closed in the meantime is opened anew, once and
        silently: the request may then have been sent twice, with the same headers.

        Args:
            target: Path from /api on, and query, escaped.
            headers: Beside those of the connection, Host and Content-Length.
            body: Not changed, and not kept.

        Returns:
            The answer, also one that came before the body was sent, and one whose body was cut off
            after a whole head.

        Raises:
            SendError: There was no answer. The connection can be used again.
            UsageError: The target or a header cannot be sent.
        """
        head = self._head(target, headers, len(body))
        with self._guard:
            self._is_busy = True
        try:
            return self._deliver(head, body)
        except BaseException:
            self._drop()
            raise
        finally:
            with self._guard:
                self._is_busy = False
                is_closed = self._is_closed
            if is_closed:
                self._drop()

    def close(self) -> None:
        """Close for good. From another thread: the request under way ends with a `SendError`."""
        with self._guard:
            self._is_closed = True
            if self._is_busy:
                _interrupt(self._socket)
                return
        self._drop()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's socket, and say nothing to the server."""
        self._guard = threading.Lock()  # another thread of the parent may have held it
        self._is_closed, self._is_busy = True, False
        connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()

    # --- one request -------------------------------------------------------------------------

    def _head(self, target: str, headers: Headers, length: int) -> bytes:
        if not _TARGET(target):
            raise UsageError(f"target {target!r}: wanted an escaped path that begins with a slash")
        first = f"POST {self._endpoint.prefix}{target} HTTP/1.1\r\n".encode()
        last = b"Content-Length: %d\r\n\r\n" % length
        return b"".join((first, self._common, encode_headers(headers), last))

    def _deliver(self, head: bytes, body: bytes | bytearray) -> Reply:
        kept, in_doubt = self._socket, False
        if kept is not None and not _is_readable(kept):
            try:
                return self._exchange(kept, head, body)
            except _UnansweredError:
                in_doubt = True
        self._drop()
        try:
            connected = self._connect()
        except SendError as error:
            raise SendError(error.message, in_doubt) from error.__cause__
        return self._exchange(connected, head, body)

    def _exchange(self, connected: socket.socket, head: bytes, body: bytes | bytearray) -> Reply:
        """One request and its answer on an open connection."""
        from http.client import HTTPException

        answer_s, failure = self._timeout_s, None
        try:
            is_sent = self._send(connected, head, body)
        except OSError as error:
            is_sent, failure, answer_s = False, error, min(LAST_WORDS_S, self._timeout_s)
        received = _Received(connected, time.monotonic() + answer_s)
        try:
            reply, may_stay = _read_reply(received)
        except (OSError, EOFError, HTTPException) as error:
            raise self._lost(failure or error, received.arrival.num_bytes) from (failure or error)
        if not (is_sent and may_stay):
            self._drop()
        return reply

    def _send(self, connected: socket.socket, head: bytes, body: bytes | bytearray) -> bool:
        """Send a request; False: an answer, or the end, came before all of it was sent."""
        connected.settimeout(self._timeout_s)
        if self._endpoint.scheme == "https":
            connected.sendall(head)
            whole = memoryview(body)
            for at in range(0, len(body), TLS_SEND_BYTES):
                connected.sendall(whole[at : at + TLS_SEND_BYTES])
            return True
        # Most requests end here: the kernel takes some megabytes at once.
        sent = connected.sendmsg((head, body)) - len(head)
        if sent == len(body):
            return True
        rest = memoryview(body)[sent:] if sent >= 0 else memoryview(head[sent:] + body)
        return self._send_rest(connected, rest)

    def _send_rest(self, connected: socket.socket, rest: memoryview) -> bool:
        poll = select.poll()
        poll.register(connected, select.POLLIN | select.POLLOUT)
        while rest:
            events = poll.poll(self._timeout_s * 1000)
            if not events:
                raise TimeoutError(f"the server took nothing for {self._timeout_s:g} s")
            if events[0][1] & ~select.POLLOUT:
                if not _is_interim(connected):
                    return False
                poll.modify(connected, select.POLLOUT)
            rest = rest[connected.send(rest) :]
        return True

    def _lost(self, error: Exception, num_bytes: int) -> SendError:
        """The error of a request that was sent, at least in part, and not answered."""
        from ssl import SSLEOFError

        if self._is_closed:
            return SendError(f"{self._endpoint.url}: closed while a request was under way", True)
        words = f"{self._endpoint.url}: no answer: {_words(error)}"
        has_ended = isinstance(error, (ConnectionError, SSLEOFError))
        return (_UnansweredError if has_ended and not num_bytes else SendError)(words, True)

    # --- the socket --------------------------------------------------------------------------

    def _connect(self) -> socket.socket:
        end_s = time.monotonic() + self._connect_timeout_s
        try:
            connected = self._open(end_s)
            if self._endpoint.scheme == "https":
                connected = self._encrypt(connected, end_s)
        except (OSError, UnicodeError) as error:
            self._drop()
            words = f"{self._endpoint.url}: not connected: {_words(error)}"
            raise SendError(words, in_doubt=False) from error
        return connected

    def _open(self, end_s: float) -> socket.socket:
        """Try each address of the host; each may take an equal part of the time that is left."""
        import socket

        host, port = self._endpoint.host, self._endpoint.port
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
            share = len(addresses) - number + 1
            try:
                connected = self._install(socket.socket(family, kind, protocol))
                connected.settimeout(_left_s(end_s) / share)
                connected.connect(address)
                _refuse_itself(connected)
                break
            except OSError:
                self._drop()
                if number == len(addresses):
                    raise
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected

    def _encrypt(self, connected: socket.socket, end_s: float) -> socket.socket:
        if self._ssl_context is None:
            self._ssl_context = default_ssl_context()
        host = self._endpoint.host.partition("%")[0]
        encrypted = self._ssl_context.wrap_socket(
            connected, server_hostname=host, do_handshake_on_connect=False
        )
        self._install(encrypted)  # before the handshake, so that close() can end it
        encrypted.settimeout(_left_s(end_s))
        encrypted.do_handshake()
        return encrypted

    def _install(self, connected: socket.socket) -> socket.socket:
        with self._guard:
            if not self._is_closed:
                self._socket = connected
                return connected
        connected.close()
        raise ConnectionAbortedError("closed")

    def _drop(self) -> None:
        with self._guard:
            connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()


def default_ssl_context() -> ssl.SSLContext:
    """Certificates are verified against the system's authorities, names as well.

    Reading these takes some 10 ms: connections can share one context.
    """
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _left_s(end_s: float) -> float:
    """Seconds until then, for `settimeout`, to which 0 means something else."""
    return max(end_s - time.monotonic(), 0.001)


def _refuse_itself(connected: socket.socket) -> None:
    """A port that nobody listens on may be given to the very socket that connects to it.

    Linux then joins the socket to itself, and the daemon could not have its port back.
    """
    if connected.getsockname() == connected.getpeername():
        raise ConnectionRefusedError("nobody listens on the port")


def _interrupt(connected: socket.socket | None) -> None:
    """Wake the thread that waits for this socket."""
    import socket

    if connected is not None:
        with contextlib.suppress(OSError):  # not connected yet, or no longer
            # Not the method of a TLS socket, which would take the encryption off.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _is_readable(connected: socket.socket) -> bool:
    """Between requests: the server has closed, or has said what nobody asked for."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


def _is_interim(connected: socket.socket) -> bool:
    """What is there to read is a 1xx, after which the server still waits for the body."""
    import socket

    return connected.recv(10, socket.MSG_PEEK)[8:] == b" 1"


class _Arrival(io.RawIOBase):
    """The bytes of one answer, until a deadline and up to a bound.

    Attributes:
        num_bytes: How many came.
        has_ended: The server has closed its side, or nothing more is wanted.
    """

    def __init__(self, connected: socket.socket, end_s: float) -> None:
        self._socket, self._end_s = connected, end_s
        self.num_bytes, self.has_ended = 0, False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Receive into a buffer; 0: the end."""
        if self.has_ended:
            return 0
        if self.num_bytes > MAX_RECEIVED_BYTES:
            raise OSError(f"the answer has over {MAX_RECEIVED_BYTES} bytes")
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer did not come in time")
        self._socket.settimeout(left_s)
        size = self._socket.recv_into(buffer)
        self.num_bytes += size
        self.has_ended = size == 0
        return size


class _Received(io.BufferedReader):
    """What `HTTPResponse` takes for a socket and reads from: interim answers, then the answer."""

    def __init__(self, connected: socket.socket, end_s: float) -> None:
        self.arrival = _Arrival(connected, end_s)
        super().__init__(self.arrival)

    def makefile(self, mode: str) -> _Received:
        """The one file of all answers to one request."""
        return self

    def close(self) -> None:
        """Nothing: `HTTPResponse` closes what it has read to its end, and the socket stays."""

    def flush(self) -> None:
        """Nothing: there is nothing to write."""

    def has_more(self) -> bool:
        """There are bytes after the answer."""
        self.arrival.has_ended = True  # look at what is here, and wait for nothing
        return bool(self.peek(1))


def _read_reply(received: _Received) -> tuple[Reply, bool]:
    """Read the answer; whether the connection can take another request."""
    from http.client import HTTPResponse

    while True:
        response = HTTPResponse(received, method="POST")  # type: ignore[arg-type]
        response.begin()
        if received.arrival.has_ended:  # http.client takes the end for the end of the head
            raise EOFError("the connection ended amid the head of an answer")
        if response.status not in _INTERIM or response.status == _SWITCHING_PROTOCOLS:
            break
    body = _read_body(response)
    is_whole = response.isclosed() and response.status != _SWITCHING_PROTOCOLS
    may_stay = is_whole and not response.will_close and not received.has_more()
    retry_after_s = _retry_after_s(response.getheader("Retry-After"), response.getheader("Date"))
    return Reply(response.status, _message(response, body), retry_after_s), may_stay


def _read_body(response: http.client.HTTPResponse) -> bytes:
    """The first 64 KiB of the body, or of what came of it."""
    from http.client import HTTPException, IncompleteRead

    try:
        return response.read(MAX_ANSWER_BYTES)
    except IncompleteRead as error:
        return error.partial
    except (OSError, HTTPException, ValueError):
        return b""  # the head has said what became of the request


class _ErrorBody(msgspec.Struct):
    """The JSON object of a refusal."""

    error: str


def _message(response: http.client.HTTPResponse, body: bytes) -> str:
    try:
        words = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.MsgspecError, ValueError, RecursionError):
        words = body.decode("utf-8", "replace").strip()
    if not words and response.status >= 300:
        words = response.reason
    if response.status in _REDIRECTS and (location := response.getheader("Location")):
        words = f"redirected to {location}, which is not followed: {words}"
    return words[:MAX_MESSAGE_CHARACTERS]


def _retry_after_s(value: str | None, date: str | None) -> float | None:
    """Seconds from now by a header Retry-After: a number, or a time by the server's own clock.

    Args:
        value: The header Retry-After.
        date: The header Date of the same answer; without it this machine's clock is believed.
    """
    if value is None:
        return None
    if _SECONDS(value.strip()):
        return float(value)
    at_s = _http_date_s(value)
    if at_s is None:
        return None
    now_s = None if date is None else _http_date_s(date)
    return max(0.0, at_s - (time.time() if now_s is None else now_s))


def _http_date_s(value: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        at = parsedate_to_datetime(value)
        return at.replace(tzinfo=at.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
