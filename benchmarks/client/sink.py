"""A server of its own process that takes what any of the clients sends, and says what it took.

In: HTTP/1.1 requests with a Content-Length, and `GET`s, among them questdb's question about the
protocol that it may speak. Out: 204 for each body, and on demand a `Tally`: requests, bytes of
bodies, and, where bodies were kept, the rows in them, counted by the daemon's own decoders. While
it is timed it only counts, as `benchmarks.load.sink` does; it stores nothing and is no daemon.
"""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.load.sink import BUFFER_BYTES, REPLY, Counts, Sink

#: What a QuestDB server says of itself: binary doubles are protocol version 2 and later.
SETTINGS = (
    b'{"config":{"release.type":"OSS","line.proto.support.versions":[1,2,3],'
    b'"ilp.proto.transports":["tcp","http"],"cairo.max.file.name.length":127}}'
)
#: For one answer. The first count after a change of the decoders compiles them for minutes.
ANSWER_TIMEOUT_S = 300.0
_SETTINGS_REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(SETTINGS), SETTINGS)
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_UNIT = re.compile(rb"\r\nx-arc-time-unit: *(\w+)")
#: A double of questdb's protocol version 2: `name==`, the type 16, eight bytes of any value.
_BINARY_DOUBLE = re.compile(rb"==\x10.{8}", re.DOTALL)
_HEAD_PIECE_BYTES = 8192
#: Fork is no choice: the parent has threads.
_CONTEXT = multiprocessing.get_context("spawn")


class SinkError(RuntimeError):
    """The sink does not answer, or took something that it cannot read."""


@dataclass(frozen=True)
class Tally:
    """What a sink took since the last `reset`.

    Attributes:
        requests: Bodies that were answered.
        body_bytes: Of those bodies, as they came over the wire.
        rows: In those bodies; None when they were not kept.
    """

    requests: int
    body_bytes: int
    rows: int | None


@dataclass
class Taken(Counts):
    """The counts of one loop, and the bodies, where they are kept.

    Attributes:
        keep: Whether bodies are kept.
        bodies: Path, unit of the times or nothing, and body, of each request that was kept.
    """

    requests: int = 0
    body_bytes: int = 0
    keep: bool = False
    bodies: list[tuple[str, str, bytearray]] = field(default_factory=list)

    def reset(self, keep: bool) -> None:
        """Start at nothing."""
        self.requests = self.body_bytes = 0
        self.keep, self.bodies = keep, []

    def tally(self) -> Tally:
        """What was taken, and its rows where the bodies were kept."""
        rows = sum(count_rows(*body) for body in self.bodies) if self.keep else None
        return Tally(self.requests, self.body_bytes, rows)


class AnySink(Sink):
    """One connection, which may ask for something as well."""

    def __init__(self, buffer: memoryview, taken: Taken) -> None:
        """Args: `buffer` and `taken` are shared by all connections of one loop."""
        super().__init__(buffer, taken)
        self._taken = taken
        self._body = bytearray()

    def buffer_updated(self, nbytes: int) -> None:
        """Count what came, or keep it; answer every request that is complete."""
        start = 0
        while start < nbytes:
            if self._left:
                step = min(self._left, nbytes - start)
                if self._taken.keep:
                    self._body += self._buffer[start : start + step]
                self._left -= step
                start += step
                if not self._left:
                    self._answer()
            else:
                start = self._read_head(start, nbytes)

    def _read_head(self, start: int, nbytes: int) -> int:
        before = len(self._head)
        self._head += bytes(self._buffer[start : min(nbytes, start + _HEAD_PIECE_BYTES)])
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return min(nbytes, start + _HEAD_PIECE_BYTES)
        line, self._head = self._head[:end], b""
        self._open_request(line)
        return start + end + 4 - before

    def _open_request(self, head: bytes) -> None:
        lowered = head.lower()
        length = _LENGTH.search(lowered)
        self._left = int(length[1]) if length else 0
        if not self._left:
            self._write(_SETTINGS_REPLY if lowered.startswith(b"get ") else REPLY)
            return
        self._taken.body_bytes += self._left
        if b"\r\nexpect: 100-continue" in lowered:
            self._write(_CONTINUE)
        if self._taken.keep:
            unit = _UNIT.search(lowered)
            self._body = bytearray()
            path = head.split(b" ", 2)[1].decode()
            self._taken.bodies.append((path, unit[1].decode() if unit else "", self._body))

    def _answer(self) -> None:
        self._taken.requests += 1
        self._write(REPLY)

    def _write(self, reply: bytes) -> None:
        if self._transport is not None:
            self._transport.write(reply)


def count_rows(target: str, unit: str, body: bytes | bytearray) -> int:
    """Rows in a body, which is decompressed by its first bytes and read by the daemon's decoders.

    Args:
        target: Path and query of the request, which tell the format.
        unit: Of its header x-arc-time-unit; "" without one.
        body: As it came.

    Raises:
        ingest.errors.ClientError: the daemon would refuse it.
        ValueError: no client sends to this path.
    """
    from ingest.limits import Limits
    from ingest.timestamps import TimeUnit

    plain, path = _decompressed(bytes(body)), urlsplit(target).path
    time_unit = TimeUnit(unit) if unit else None
    if path.endswith("/msgpack"):
        from ingest.msgpack_decoder import decode

        return sum(batch.num_rows for batch in decode(plain, 0, Limits(), time_unit))
    if path.endswith("/arrow"):
        from ingest import arrow_ipc

        batches = arrow_ipc.decode(plain, 0, Limits(), "counted", time_unit=time_unit)
        return sum(batch.num_rows for batch in batches)
    if "write" in path:
        return _BINARY_DOUBLE.sub(b"", plain).count(b"\n")
    raise ValueError(f"{target}: no client writes there")


def _decompressed(body: bytes) -> bytes:
    if body[:2] == b"\x1f\x8b":
        return gzip.decompress(body)
    if body[:4] == b"\x28\xb5\x2f\xfd":
        from backports import zstd

        plain: bytes = zstd.decompress(body)
        return plain
    return body


class SinkProcess:
    """A running sink.

    Attributes:
        port: Of 127.0.0.1.
    """

    def __init__(self, pipe: Connection, port: int) -> None:
        self._pipe = pipe
        self.port = port

    @property
    def url(self) -> str:
        """Base of its URLs."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self, *, keep: bool = False) -> None:
        """Start counting at nothing; `keep` the bodies, to count their rows."""
        self._ask(("reset", keep))

    def tally(self) -> Tally:
        """What came since `reset`.

        Raises:
            SinkError: it took a body that it cannot read.
        """
        answer: Tally = self._ask(("tally", False))
        return answer

    def _ask(self, question: tuple[str, bool]) -> Any:
        self._pipe.send(question)
        if not self._pipe.poll(ANSWER_TIMEOUT_S):
            raise SinkError(f"the sink does not answer within {ANSWER_TIMEOUT_S:g} s")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise SinkError(answer)
        return answer


@contextmanager
def running() -> Iterator[SinkProcess]:
    """A sink in a process of its own, which ends with the block."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(ANSWER_TIMEOUT_S):
            raise SinkError(f"the sink did not start within {ANSWER_TIMEOUT_S:g} s")
        yield SinkProcess(ours, ours.recv())
    finally:
        ours.close()  # which tells it to end
        process.join(ANSWER_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()


def serve(pipe: Connection) -> None:
    """Run a sink in this process until the other end of the pipe is closed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    taken, buffer = Taken(), memoryview(bytearray(BUFFER_BYTES))
    server = await loop.create_server(lambda: AnySink(buffer, taken), "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    ended = asyncio.Event()
    loop.add_reader(pipe.fileno(), _obey, pipe, taken, ended)
    await ended.wait()
    loop.remove_reader(pipe.fileno())
    server.close()


def _obey(pipe: Connection, taken: Taken, ended: asyncio.Event) -> None:
    """Do what the other end asks for; end when it is gone."""
    try:
        what, keep = pipe.recv()
        if what == "reset":
            taken.reset(keep)
        pipe.send(None if what == "reset" else _tally_or_complaint(taken))
    except (EOFError, OSError):
        ended.set()


def _tally_or_complaint(taken: Taken) -> Tally | str:
    try:
        return taken.tally()
    except Exception as error:  # whatever it is, the other end is to hear of it
        return f"the sink cannot read what it took: {error!r}"
