"""The query process: DuckDB, and an HTTP server on a Unix socket before it.

    python -m arc.query DATA_DIR SOCKET [options]

It says `ready` to an inherited descriptor once it takes requests. SIGTERM, or the end of standard
input, makes it drain: no new request is taken, those under way have DRAIN_S to end, and are then
interrupted. It shares the files with the shards, asks them for the rows that are in no file yet,
and holds nothing that is lost with it. Its socket is bound under another name first and then
renamed, so that it takes the place of that of a predecessor in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from arc.handshake import announce_ready, call_when_alone
from arc.logs import configure
from arc.query.counts import QueryMetrics
from arc.query.fresh_client import FreshClient
from arc.query.options import QueryStart, parse_arguments
from arc.query.runner import Runner
from arc.query.server import QueryServer, warm
from arc.query.socket_path import listen
from arc.query.standing_back import stand_back
from arc.runtime import DataDir
from ingest.catalog import Catalog
from ingest.limits import Limits
from ingest.query.engine import Engine, EngineSettings

#: Time that queries have to end by themselves. They are repeatable, and the daemon's own time to
#: stop is 30 s.
DRAIN_S = 5.0

_BACKLOG = 256


def main(arguments: list[str]) -> int:
    """Run the query process until it is told to stop."""
    start = parse_arguments(arguments)
    options = start.options
    cores = stand_back(options.nice, options.spare_cores)
    if not options.threads:
        start = msgspec.structs.replace(
            start, options=msgspec.structs.replace(options, threads=cores)
        )
    log = configure(options.log_level, options.log_format, process="query")
    return uvloop.run(serve(start, log))


async def serve(start: QueryStart, log: FilteringBoundLogger) -> int:
    """Answer queries until SIGTERM or the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C: the supervisor decides
    call_when_alone(loop, sys.stdin.fileno(), stop.set)
    with (
        contextlib.closing(QueryMetrics(DataDir(start.data_dir).run)) as metrics,
        _engine(start) as engine,
    ):
        options = start.options
        runner = Runner(engine, metrics, options.concurrency, options.timeout_s)
        server = QueryServer(runner, metrics, options.max_rows, options.timeout_s, log)
        web_runner = web.AppRunner(
            server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_S
        )
        warm(engine)
        await web_runner.setup()
        listener = listen(start.socket, _BACKLOG)
        inode = _inode(start.socket)
        await web.SockSite(web_runner, listener).start()
        log.debug("query_process_ready", socket=str(start.socket))
        if start.ready_fd is not None:
            announce_ready(start.ready_fd)
        await stop.wait()
        if _inode(start.socket) == inode:  # not that of a successor
            start.socket.unlink(missing_ok=True)
        await web_runner.cleanup()
        await runner.close()
    log.debug("query_process_ended")
    return 0


@contextlib.contextmanager
def _engine(start: QueryStart) -> Iterator[Engine]:
    limits = Limits()  # of the writers, and this is none
    catalog = Catalog(
        DataDir(start.data_dir).state / "catalog.db", limits.max_measurements, limits.max_columns
    )
    settings = EngineSettings(start.options.memory_bytes, start.options.threads)
    shards = FreshClient(DataDir(start.data_dir).run)
    with (
        contextlib.closing(catalog),
        contextlib.closing(Engine(start.data_dir, catalog, settings, shards)) as engine,
    ):
        yield engine


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
