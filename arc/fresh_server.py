"""A shard's answers to the query process: the rows that it holds in memory, over a Unix socket.

In: a `FreshRequest` on a connection of its own. Out: the rows of that table, as
`ingest.fresh_rows` has them. The event loop only lists the batches, in one step; reading,
encoding and sending run on one thread, one answer at a time, so that writes do not wait for a
query.

The socket is `.arc/run/fresh-{shard}.sock`. That file says that this shard may hold rows: it is
there from before the first request is taken until everything is stored. One that a killed worker
left stays, refuses connections, and keeps queries waiting, until the successor puts its own in
its place, in one step; so nothing is taken for gone that is only being replayed. A worker of a
daemon with fewer shards removes those of the shards that are no more, whose rows its kin store
before they are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from arc.query.socket_path import listen
from ingest import fresh_rows
from ingest.fresh_rows import FreshHead, FreshRequest, FreshRows
from ingest.paths import TableId

#: How long an asker may leave a piece of its answer unread, or its question unsaid.
STALL_S = 5.0

_BACKLOG = 64

#: The head of an answer, and the rows behind it. Called on the event loop.
Take = Callable[[TableId, int, int], tuple[FreshHead, FreshRows | None]]


def fresh_socket(run_dir: Path, shard: int) -> Path:
    """Where a shard answers."""
    return run_dir / f"fresh-{shard:03d}.sock"


def forget_shards(run_dir: Path, num_shards: int) -> None:
    """Remove the sockets of shards from this number on, which the daemon does not have."""
    for path in run_dir.glob("fresh-*.sock"):
        number = path.stem.removeprefix("fresh-")
        if number.isdecimal() and int(number) >= num_shards:
            path.unlink(missing_ok=True)


class FreshServer:
    """Answers until `stop`. Made, started and stopped on the event loop.

    Args:
        path: Of the socket; what is there is replaced.
        take: Tells what there is.
        log: Told of defects.
    """

    def __init__(self, path: Path, take: Take, log: FilteringBoundLogger) -> None:
        self._path = path
        self._take = take
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._wake, self._woken = socket.socketpair()
        self._listener = listen(path, _BACKLOG)
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(target=self._run, name="arc-fresh", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    async def stop(self) -> None:
        """End, once all rows are stored: what was not asked by then is in the tables."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._wake.close()
        await asyncio.to_thread(self._thread.join)
        self._woken.close()
        self._listener.close()

    # --- on the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    return
                with contextlib.suppress(OSError):
                    self._serve_next()

    def _serve_next(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(STALL_S)
            try:
                self._answer(connection)
            except (OSError, EOFError):
                pass  # the asker is gone, or hangs
            except Exception:
                self._log.exception("fresh_rows_failed")

    def _answer(self, connection: socket.socket) -> None:
        size = fresh_rows.length(fresh_rows.receive(connection, fresh_rows.LENGTH_BYTES))
        request = fresh_rows.parse(fresh_rows.receive(connection, size), FreshRequest)
        head, rows = asyncio.run_coroutine_threadsafe(self._taken(request), self._loop).result(
            STALL_S
        )
        connection.sendall(fresh_rows.message(head))
        if rows is not None:
            for piece, content in fresh_rows.pieces(rows):
                connection.sendall(fresh_rows.message(piece))
                connection.sendall(content)
        connection.sendall(fresh_rows.message(fresh_rows.END))

    async def _taken(self, request: FreshRequest) -> tuple[FreshHead, FreshRows | None]:
        table = TableId(request.database, request.measurement)
        return self._take(table, request.epoch, request.after_lsn)
