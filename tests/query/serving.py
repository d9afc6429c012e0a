"""The query process as the supervisor starts it, and a worker's routes before it, without one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
from aiohttp import web

from arc.handlers.query import QueryHandlers
from arc.handshake import READY
from arc.query.options import QueryOptions, QueryStart, command, socket_path
from arc.query.socket_path import SocketPath
from arc.runtime import DataDir
from tests.support.daemon import STOP_TIMEOUT_S
from tests.support.running import ROOT, clean_environment


class QueryProcess:
    """A running query process. Its standard input is open for as long as it is wanted."""

    def __init__(self, root: Path, at: Path | None = None, **options: Any) -> None:
        ready_fd, its_ready_fd = os.pipe()
        # Several at a time read one data directory here: each has a socket of its own.
        self.socket = at or socket_path(root).with_name(f"{its_ready_fd}-{uuid.uuid4()}")
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        DataDir(root).run.mkdir(parents=True, exist_ok=True)
        start = QueryStart(root, self.socket, its_ready_fd, QueryOptions(**options))
        self.process = subprocess.Popen(
            command(start),
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[its_ready_fd],
        )
        os.close(its_ready_fd)
        self._ready_fd = ready_fd

    def wait_until_ready(self) -> None:
        """Wait until it says so, or ends without."""
        with os.fdopen(self._ready_fd, "rb") as ready:
            said = ready.read(len(READY))
        assert said == READY, "the query process ended instead of getting ready"

    def stop(self, number: signal.Signals = signal.SIGTERM, kill: bool = False) -> tuple[int, str]:
        """Ask it to end, or make it; its exit status, and what it logged."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kill else number)
        try:
            _, logged = self.process.communicate(timeout=STOP_TIMEOUT_S)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, logged.decode()

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def connect(self) -> socket.socket:
        """A connection to its socket."""
        name = SocketPath(self.socket)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(name.name)
        finally:
            name.close()
        return connection

    def post(self, path: str, sql: str, **headers: str) -> Answer:
        """One request, on a connection of its own."""
        client = http.client.HTTPConnection("query")
        client.sock = self.connect()
        body = msgspec.json.encode({"sql": sql})
        return exchange(client, f"/api/v1/query{path}", body, headers)


class Answer(msgspec.Struct):
    """An answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


def exchange(
    client: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> Answer:
    """Post, read the answer, and close the connection."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(client):
        client.request("POST", path, body, {"Content-Type": "application/json"} | named)
        response = client.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


@contextlib.contextmanager
def query_process(root: Path, at: Path | None = None, **options: Any) -> Iterator[QueryProcess]:
    """A query process on a data directory, ended at the end."""
    process = QueryProcess(root, at, **options)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def gateway(query_socket: Path) -> Iterator[int]:
    """The routes of a worker for queries, on a free port, which is yielded."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    app = web.Application()
    QueryHandlers(query_socket).add_routes(app)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=1.0)

    async def listen() -> int:
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        port: int = listener.getsockname()[1]
        return port

    try:
        yield asyncio.run_coroutine_threadsafe(listen(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
