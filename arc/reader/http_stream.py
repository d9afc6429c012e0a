"""One question to a daemon, and its answer as it comes.

In: an address and a body. Out: a file to read the body of a 200 from, or an error with the daemon's
words. Nothing is asked twice, no redirect is followed, and no message quotes the token. Source of
the framing: RFC 9112, read by `http.client`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

from arc.reader.errors import ReadError, RefusedError, UsageError

#: Of a refusal; what is longer is not read.
_MAX_MESSAGE_BYTES = 64 * 2**10
_MAX_MESSAGE_CHARACTERS = 2_000

_BLANK = re.compile(r"[\x00-\x20\x7f]").search
_TOKEN = re.compile(r"[!-~]+").fullmatch


class Endpoint:
    """Where a daemon is, and how it is spoken to.

    Args:
        url: `http://host:8000`, `https://host/prefix`.
        token: Sent as `Authorization: Bearer`; None sends none.
        timeout_s: How long each step of a connection may take: to open it, and for each piece of
            the answer to come.
        ssl_context: For https; None: certificates are verified by the system's authorities.

    Raises:
        UsageError: One of them cannot be used.
    """

    def __init__(
        self, url: str, token: str | None, timeout_s: float, ssl_context: ssl.SSLContext | None
    ) -> None:
        if "@" in url:
            raise UsageError("url: contains an @; give token=… instead of credentials in it")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UsageError("url: the host or the port cannot be read") from None
        if parts.scheme not in ("http", "https") or not host or _BLANK(url):
            raise UsageError("url: wanted http://host:port or https://host:port")
        if parts.query or parts.fragment:
            raise UsageError("url: wanted no query and no fragment")
        if ssl_context is not None and parts.scheme != "https":
            raise UsageError("ssl_context: given for a URL that is not https")
        if token is not None and not _TOKEN(token):
            raise UsageError("token: empty, or has characters that a header cannot carry")
        if not timeout_s > 0:
            raise UsageError(f"timeout_s: found {timeout_s!r}, wanted more than 0")
        self._is_tls, self._host, self._port = parts.scheme == "https", host, port
        self._prefix, self._token = parts.path.rstrip("/"), token
        self._timeout_s, self._ssl_context = timeout_s, ssl_context

    def post(self, path: str, content: dict[str, str], headers: dict[str, str]) -> Body:
        """Ask, and wait for the head of the answer.

        Args:
            path: From /api on.
            content: Sent as JSON.
            headers: Beside those of every question.

        Raises:
            RefusedError: The answer is no 200.
            ReadError: There is none.
        """
        connection = self._connection()
        try:
            body = json.dumps(content, ensure_ascii=False).encode()
            connection.request("POST", self._prefix + path, body, self._headers() | headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response)
            return Body(connection, response)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ReadError(f"{self}: {_words(error)}") from error
        except BaseException:
            connection.close()
            raise

    def __str__(self) -> str:
        port = "" if self._port is None else f":{self._port}"
        return f"http{'s' * self._is_tls}://{self._host}{port}{self._prefix}"

    def _connection(self) -> http.client.HTTPConnection:
        if self._is_tls:
            context = self._ssl_context or ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        return (
            headers if self._token is None else headers | {"Authorization": f"Bearer {self._token}"}
        )


class Body:
    """The body of an answer, for `pyarrow.ipc.open_stream`.

    Attributes:
        has_ended: A read met the end: an Arrow stream that was read to its own end meets none.
    """

    def __init__(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        self._connection, self._response = connection, response
        self.has_ended = False
        self.closed = False

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end.

        Raises:
            OSError: The connection broke.
            http.client.HTTPException: The answer is not whole.
        """
        data = self._response.read(size)
        if len(data) < size:
            self.has_ended = True
        return data

    def finish(self) -> None:
        """Take the end of the answer, so that the daemon need not see its connection reset."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._response.read(1)

    def close(self) -> None:
        """Let go of the connection, whatever is still to come."""
        self.closed = True
        self._response.close()
        self._connection.close()


def _refusal(response: http.client.HTTPResponse) -> RefusedError:
    data = response.read(_MAX_MESSAGE_BYTES)
    message = _message(data) or response.reason
    retry = response.getheader("Retry-After") or ""
    retry_after_s = float(retry) if re.fullmatch(r"[0-9]{1,9}", retry) else None
    return RefusedError(response.status, message[:_MAX_MESSAGE_CHARACTERS], retry_after_s)


def _message(data: bytes) -> str:
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace").strip()
    said = content.get("error") if isinstance(content, dict) else None
    return said if isinstance(said, str) else data.decode("utf-8", "replace").strip()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
