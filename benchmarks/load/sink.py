"""A server that does nothing but count: what the generator can do when nothing holds it up.

In: POST requests with a Content-Length. Out: 204 for each, and at the end the number of requests
and bytes of bodies. It never looks at a body, so it is no daemon and its figures are a ceiling.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import uvloop

#: One read takes at most this much, and all connections share the memory.
BUFFER_BYTES = 256 * 1024
REPLY = b"HTTP/1.1 204 No Content\r\nServer: sink\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class Counts:
    """What a sink has seen."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.requests = 0
        self.body_bytes = 0


class Sink(asyncio.BufferedProtocol):
    """One connection to the sink."""

    def __init__(self, buffer: memoryview, counts: Counts) -> None:
        """Args: `buffer` and `counts` are shared by all connections of one loop."""
        self._buffer = buffer
        self._counts = counts
        self._head = b""
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the replies."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer: what is read is used up before the next read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count what came; answer every request that is complete."""
        start = 0
        while start < nbytes:
            if self._left:
                step = min(self._left, nbytes - start)
                self._left -= step
                start += step
                if not self._left:
                    self._answer()
            else:
                start = self._read_head(start, nbytes)

    def _read_head(self, start: int, nbytes: int) -> int:
        """Take a head, or the part of it that came; return where the body starts."""
        before = len(self._head)
        self._head += bytes(self._buffer[start : min(nbytes, start + 8192)])
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return nbytes
        head, self._head = self._head[:end].lower(), b""
        self._left = int(head.split(_LENGTH)[1].split(b"\r\n")[0])
        self._counts.body_bytes += self._left
        if not self._left:
            self._answer()
        return start + end + 4 - before

    def _answer(self) -> None:
        self._counts.requests += 1
        if self._transport is not None:
            self._transport.write(REPLY)


async def _serve(pipe: Any) -> None:
    loop = asyncio.get_running_loop()
    counts, buffer = Counts(), memoryview(bytearray(BUFFER_BYTES))
    server = await loop.create_server(lambda: Sink(buffer, counts), "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    stopped = asyncio.Event()
    loop.add_reader(pipe.fileno(), stopped.set)
    await stopped.wait()
    loop.remove_reader(pipe.fileno())
    pipe.send((counts.requests, counts.body_bytes))


def serve(pipe: Any, cpus: set[int]) -> None:
    """Run a sink in this process until the other end of the pipe says anything.

    Args:
        pipe: `multiprocessing.Connection`: gets the port, then (requests, bytes of bodies).
        cpus: Cores to run on; empty: any.
    """
    if cpus:
        import os

        os.sched_setaffinity(0, cpus)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe))
