"""What it costs to take a request off a socket: the fast door beside aiohttp.

One worker in a thread of its own, whose door throws the body away, so that HTTP is all there is.
The client is one blocking socket; its cost is in every figure, and the same in both. A
connection is made to be aiohttp's for good by a first request that is not a write.

`cpu` times are the worker thread's own CPU time; the wall times of the table include the client.

    python -m benchmarks.bench_http
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from pathlib import Path

import structlog
import uvloop

from arc.config import Config, resolve
from arc.worker import Worker
from arc.write_routes import WriteHead
from benchmarks.harness import Bench, main

#: Requests in one call, so that the switch between threads at its ends does not count.
REQUESTS = 200
PATH = "/api/v1/write/msgpack"


class Server:
    """A worker on an event loop in a thread, with a door that keeps nothing."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self.port = 0
        self.clock = 0
        self.bodies = 0
        threading.Thread(target=self._run, daemon=True).start()
        self._ready.wait()

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / ".arc" / "run").mkdir(parents=True)
            config = resolve(Config(data_dir=folder, workers=1))
            worker = Worker(config, 0, structlog.get_logger())
            worker.door.store = self._count  # type: ignore[method-assign]
            listener = socket.create_server(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
            self.clock = time.pthread_getcpuclockid(threading.get_ident())
            await worker.recover()
            await worker.listen(listener)
            self._ready.set()
            await asyncio.Event().wait()

    def _count(self, head: WriteHead, body: bytes) -> int:
        self.bodies += len(body)
        return 1


class Client:
    """One keep-alive connection that posts the same body again and again."""

    def __init__(self, server: Server, nbytes: int, through_aiohttp: bool) -> None:
        self._server = server
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = _request(nbytes)
        self.cpu_s = 0.0
        self.calls = 0
        if through_aiohttp:
            self._socket.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in self._socket.recv(65_536)

    def __call__(self) -> int:
        """Post `REQUESTS` bodies one after another; how many bytes of them arrived."""
        before, started_s = self._server.bodies, time.clock_gettime(self._server.clock)
        for _ in range(REQUESTS):
            self._socket.sendall(self._request)
            assert self._socket.recv(65_536).startswith(b"HTTP/1.1 204")
        self.cpu_s += time.clock_gettime(self._server.clock) - started_s
        self.calls += 1
        return self._server.bodies - before


def _request(nbytes: int) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/msgpack\r\n"
    return f"{head}x-arc-database: bench\r\nContent-Length: {nbytes}\r\n\r\n".encode() + bytes(
        nbytes
    )


def clients(server: Server) -> dict[str, Client]:
    """One for each door and size of body, by the name of its benchmark."""
    return {
        f"{door} {nbytes // 1000} KB": Client(server, nbytes, door == "aiohttp")
        for nbytes in (5_000, 45_000, 450_000)
        for door in ("fast", "aiohttp")
    }


def benches(all_clients: dict[str, Client]) -> list[Bench]:
    """One for each client; a row of the table is a request."""
    out = []
    for name, client in all_clients.items():
        nbytes = REQUESTS * int(name.split()[1]) * 1000

        def check(arrived: int, wanted: int = nbytes) -> None:
            assert arrived == wanted, f"{arrived} of {wanted} bytes arrived"

        out.append(Bench(name, client, REQUESTS, nbytes, check))
    return out


if __name__ == "__main__":
    measured = clients(Server())
    status = main(benches(measured))
    for name, client in measured.items():
        if client.calls:
            each_us = client.cpu_s / client.calls / REQUESTS * 1e6
            print(f"cpu  {name:16} {each_us:7.1f} µs a request in the worker's thread")
    raise SystemExit(status)
