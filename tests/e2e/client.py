"""What a test needs of an HTTP client: one connection, plain replies, the daemon's counters."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import ormsgpack
from prometheus_client.parser import text_string_to_metric_families

from arc.metrics_table import LEVELS
from tests.support.daemon import Daemon, eventually

WRITE = "/api/v1/write/msgpack"
TIMEOUT_S = 30.0
#: Tries to be connected to one of two workers, which the kernel chooses by a hash: 2**-64 to fail.
CONNECT_TRIES = 64


class Reply(NamedTuple):
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body, which must be JSON and say so."""
        assert self.headers["content-type"].startswith("application/json"), self
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What it says went wrong, in the form that every error has."""
        content = self.json
        assert isinstance(content, dict)
        assert isinstance(content["error"], str)
        return content["error"]


class Client:
    """One connection to a daemon, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> Reply:
        """Send one request and read its answer."""
        self._connection.request(method, path, body, dict(headers))
        reply = self._connection.getresponse()
        names = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, names, reply.read())

    def get(self, path: str) -> Reply:
        """GET."""
        return self.request("GET", path)

    def post(self, content: object, path: str = WRITE, **headers: str) -> Reply:
        """POST bytes as they are, anything else as MessagePack.

        Args:
            content: The body.
            path: Where to.
            headers: With "_" for "-" in their names.
        """
        body = content if isinstance(content, bytes) else ormsgpack.packb(content)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, body, named)

    def write(self, content: object, database: str = "default", **headers: str) -> None:
        """POST what must be accepted."""
        reply = self.post(content, x_arc_database=database, **headers)
        assert (reply.status, reply.body) == (204, b""), reply
        assert reply.headers["x-arc-durability"] in LEVELS

    def refusal(self, content: object, database: str = "default", **headers: str) -> str:
        """POST what must be refused with 400; what the answer says."""
        reply = self.post(content, x_arc_database=database, **headers)
        assert reply.status == 400, reply
        return reply.error

    def metrics(self) -> Metrics:
        """The daemon's counters and gauges now."""
        return Metrics(self.get("/metrics"))

    def wait_until_stored(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until every row that was accepted is in a file."""

        def stored() -> bool:
            counted = self.get(f"{WRITE}/stats").json["stats"]  # cheaper than /metrics
            return int(counted["arc_rows_buffered"]) == 0

        eventually(stored, "all rows are stored", timeout_s)

    @property
    def local_port(self) -> int:
        """Its end of the connection, which must be open."""
        assert self._connection.sock is not None
        port: int = self._connection.sock.getsockname()[1]
        return port


class Metrics:
    """One answer of `/metrics`."""

    def __init__(self, reply: Reply) -> None:
        assert reply.status == 200, reply
        assert reply.headers["content-type"].startswith("text/plain")
        families = text_string_to_metric_families(reply.body.decode())
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        return self.value(name)

    def value(self, name: str, **labels: str) -> float:
        """One series."""
        return self._values[name, frozenset(labels.items())]

    def rows(self) -> dict[str, float]:
        """The four numbers that every accepted row is in, by the last word of their names."""
        names = ("rows_accepted_total", "rows_buffered", "rows_stored_total", "rows_lost_total")
        return {name.split("_")[1]: self[f"arc_{name}"] for name in names}


def columnar(measurement: object, /, **columns: list[Any]) -> dict[str, Any]:
    """One columnar map."""
    return {"m": measurement, "columns": columns}


@contextmanager
def connected_to(daemon: Daemon, shard: int) -> Iterator[Client]:
    """A connection that one worker serves by its fast door, out of all that share the port."""
    port = daemon.port
    for _ in range(CONNECT_TRIES):
        with Client(port) as client:
            assert client.post(b"").status == 400  # answered, so it is accepted
            if daemon.shard_of(client.local_port) == shard:
                yield client
                return
    raise AssertionError(f"no connection to shard {shard} in {CONNECT_TRIES} tries")


@contextmanager
def half_a_body(
    port: int, num_bytes: int = 1_000, chunked: bool = False
) -> Iterator[socket.socket]:
    """A connection that announced a body, or a chunk of one, and sent 10 bytes of it."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {num_bytes}"
    head = f"POST {WRITE} HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n"
    start = f"{num_bytes:x}\r\n".encode() if chunked else b""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode() + start + bytes(10))
        yield connection
