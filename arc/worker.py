"""One shard: a process with an event loop, a pipeline behind it and a port before it.

Forked from the template, `arc.template`, which imports this module and calls `prepare` once for
all workers; see `arc.handshake` for what supervisor and worker say to each other. Before it takes
a request, it replays the log of its shard. SIGTERM, or the end of standard input, makes it drain:
no new request is taken, those under way are answered, everything accepted is stored, and the
process exits with 0.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import cast

import uvloop
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from arc.admin import AdminGuard
from arc.app import build_app, build_write_app
from arc.config import Config
from arc.continuous import ContinuousQueries
from arc.door_handler import DoorHandler
from arc.fast_door import DISCARD_S, FastDoor, Timeouts
from arc.fresh_server import FreshServer, forget_shards, fresh_socket
from arc.handlers.continuous import ContinuousHandlers
from arc.handlers.debug import DebugHandlers
from arc.handlers.delete import DeleteHandlers
from arc.handlers.otlp import OtlpHandler, otlp_path
from arc.handlers.query import QueryHandlers
from arc.handlers.retention import RetentionHandlers
from arc.handlers.status import StatusHandlers
from arc.handlers.tables import TableHandlers
from arc.handlers.write import WriteHandler
from arc.handshake import WorkerStart, announce_ready, call_when_alone, read_start
from arc.lag import LagProbe
from arc.logs import configure
from arc.maintenance import Maintenance
from arc.memory import leave_out_pandas, settle_garbage_collector, tune_heap
from arc.metrics import ShardMetrics, shard_path
from arc.ports import listen
from arc.profiler_socket import ProfileServer
from arc.query.options import socket_path
from arc.query_client import QueryClient
from arc.runtime import EXIT_IN_LOG, DataDir
from arc.write_door import WriteDoor
from arc.write_routes import ROUTES
from ingest.arrow_writer import WriterSettings
from ingest.kernels.__main__ import warm_all
from ingest.limits import Limits
from ingest.otlp.request import Signal
from ingest.parquet import Compression
from ingest.pipeline import Durability, Pipeline, PipelineSettings

#: A flush takes at most this part of a worker's memory, and 1.5 times that to work in: two run
#: beside full buffers. Of 512 MiB that is 1.1 M rows of 60 bytes.
FLUSHES_IN_MEMORY = 8

#: How long a thread that is ready waits for the interpreter's lock before it asks for it. The log's
#: thread asks twice a group, and all clients of the group wait with it: with Python's 5 ms one
#: worker took 4.5 M records/s at the level of disk, with this 5.7 M
#: (docs/profiling/2026-11-20-log-thread.md).
SWITCH_INTERVAL_S = 0.0005


def prepare() -> None:
    """Do what all workers need, once, before they are forked; starts no thread."""
    tune_heap()
    leave_out_pandas()
    warm_all()


def main() -> int:
    """Run one worker until it is told to stop."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        start = read_start(sys.stdin.buffer)
    except EOFError:
        return 0  # the supervisor is gone, and never had work for this one
    log = configure(start.config.log_level, start.config.log_format, shard=start.shard)
    return uvloop.run(_serve(start, log))


def pipeline_settings(config: Config, shard: int) -> PipelineSettings:
    """One shard's part of the configuration."""
    return PipelineSettings(
        data_dir=Path(config.data_dir),
        shard=shard,
        memory_bytes=config.worker_memory_bytes,
        min_free_disk_bytes=config.min_free_disk_bytes,
        writer=WriterSettings(
            flush_rows=config.flush_rows,
            flush_age_s=config.flush_age_s,
            flush_bytes=config.worker_memory_bytes // FLUSHES_IN_MEMORY,
            flush_threads=config.flush_threads,
            compression=cast("Compression", config.compression),
        ),
        limits=Limits(
            max_columns=config.max_columns,
            max_elements=config.max_elements,
            max_measurements=config.max_measurements,
            max_hours=config.max_hours,
            max_decoded_bytes=min(
                2 * config.max_decompressed_bytes, config.worker_memory_bytes // 2
            ),
        ),
        durability=cast("Durability", config.durability),
        num_shards=config.workers,
        log_segment_bytes=config.log_segment_bytes,
        log_bytes=config.worker_log_bytes,
        idempotency_window_s=config.idempotency_window_s,
    )


class Worker:
    """The parts of one shard's process, started and stopped in order.

    Attributes:
        pipeline: The shard.
        door: The rules of a write.
        metrics: What this process counts.
        running: Between `listen` and the end of `stop`.
    """

    def __init__(self, config: Config, shard: int, log: FilteringBoundLogger) -> None:
        """Open the pipeline. Must be called on the event loop.

        Raises:
            IngestError: the data directory or the shard cannot be used.
        """
        self._config = config
        self._log = log
        self._loop = asyncio.get_running_loop()
        run_dir = DataDir(config.data_dir).run
        metrics = ShardMetrics(shard_path(run_dir, shard), config.durability)
        metrics.memory_limit_bytes.set(config.worker_memory_bytes)
        forget_shards(run_dir, config.workers)
        self._probe = LagProbe(self._loop, metrics.loop_lag, metrics.loop_lag_max)
        self.pipeline = Pipeline(pipeline_settings(config, shard), metrics.pipeline, log=log)
        self._fresh = FreshServer(fresh_socket(run_dir, shard), self.pipeline.fresh, log)
        self.door = WriteDoor(
            self.pipeline,
            metrics,
            config.max_body_bytes,
            config.max_decompressed_bytes,
            config.durability,
            config.on_bad_rows,
        )
        otlp = self._otlp_handlers(metrics)
        status = StatusHandlers(self.pipeline, self.door, run_dir, shard, config.durability)
        writes = self._write_handlers(metrics) | otlp
        tables = TableHandlers(self.pipeline)
        queries = QueryHandlers(socket_path(config.data_dir))
        # What is done by the clock is done by one worker: the first, which is always there.
        is_first = shard == 0
        every_s = config.retention_interval_s if is_first else 0.0
        self._maintenance = Maintenance(Path(config.data_dir), log, every_s or None)
        self._continuous = self._continuous_queries(is_first)
        self._profiles = ProfileServer(run_dir, shard, log)
        management = (
            DeleteHandlers(self._maintenance),
            RetentionHandlers(self._maintenance),
            ContinuousHandlers(self._continuous),
            DebugHandlers(AdminGuard(config.admin_token), run_dir, config.workers),
        )
        app = build_app(writes, status, tables, queries, metrics, log, management)
        self._runner = self._app_runner(app)
        self._otlp_runner = self._app_runner(build_write_app(otlp, metrics, log))
        self.metrics = metrics
        self.running = False

    def _write_handlers(self, metrics: ShardMetrics) -> dict[str, DoorHandler]:
        timeout_s = self._config.body_timeout_s
        return {route.path: WriteHandler(route, self.door, metrics, timeout_s) for route in ROUTES}

    def _otlp_handlers(self, metrics: ShardMetrics) -> dict[str, DoorHandler]:
        timeout_s = self._config.body_timeout_s
        return {
            otlp_path(signal): OtlpHandler(signal, self.door, metrics, timeout_s)
            for signal in Signal
        }

    def _continuous_queries(self, is_first: bool) -> ContinuousQueries:
        config = self._config
        is_on = is_first and config.query_concurrency > 0
        every_s = config.continuous_query_interval_s if is_on else 0.0
        return ContinuousQueries(
            Path(config.data_dir),
            self.door,
            QueryClient(socket_path(config.data_dir), config.max_body_bytes),
            self._maintenance,
            self._log,
            every_s or None,
            config.continuous_query_delay_s,
        )

    def _app_runner(self, app: web.Application) -> web.AppRunner:
        return web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,
            lingering_time=DISCARD_S,
            keepalive_timeout=self._config.keepalive_s,
            shutdown_timeout=self._config.shutdown_timeout_s / 4,
        )

    async def recover(self) -> None:
        """Bring back what predecessors of this shard had accepted; until then, 503.

        Raises:
            StorageError: the disk refuses.
        """
        self._fresh.start()
        self.pipeline.start()
        recovered = await self.pipeline.recover()
        self.metrics.settle(recovered.rows)
        if recovered.files_removed:
            self._log.info("uncommitted_files_removed", files=recovered.files_removed)

    async def listen(self, listener: socket.socket) -> None:
        """Take requests from a listening socket."""
        await self._runner.setup()
        assert self._runner.server is not None
        config = self._config
        self._fast = FastDoor(
            self.door,
            self.metrics,
            ROUTES,
            Timeouts(config.header_timeout_s, config.body_timeout_s, config.keepalive_s),
            self._runner.server,
            self._loop,
            self._log,
        )
        self._sweep = self._loop.create_task(self._fast.sweep())
        self._server = await self._loop.create_server(self._fast, sock=listener)
        await self._otlp_runner.setup()
        if config.otlp_port:
            await web.SockSite(self._otlp_runner, listen(config.host, config.otlp_port)).start()
        self._maintenance.start()
        self._continuous.start()
        await self._profiles.start()
        self.running = True
        self._log.debug("serving", port=listener.getsockname()[1])

    async def stop(self) -> None:
        """Take nothing more, answer what is under way, store everything that was accepted."""
        self._log.debug("draining")
        self.door.stopping = True
        self._server.close()
        await self._profiles.stop()  # these before the requests that wait for them
        await self._continuous.stop()
        await self._maintenance.stop()
        await self._fast.drain(self._config.shutdown_timeout_s / 4)
        await self._otlp_runner.cleanup()
        await self._runner.cleanup()
        self._sweep.cancel()
        await self.pipeline.drain()
        await self._fresh.stop()
        self.pipeline.close()
        self._probe.stop()
        self.door.close()
        self.running = False
        self._log.debug("drained")


async def _serve(start: WorkerStart, log: FilteringBoundLogger) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C: the supervisor decides
    call_when_alone(loop, sys.stdin.fileno(), stop.set)
    worker = Worker(start.config, start.shard, log)
    if not await _begin(worker, start, stop):
        return EXIT_IN_LOG  # nothing was accepted, and what was replayed is still there
    settle_garbage_collector()
    announce_ready(start.ready_fd)
    await stop.wait()
    await worker.stop()
    return 0


async def _begin(worker: Worker, start: WorkerStart, stop: asyncio.Event) -> bool:
    """Recover and listen. False: it was told to stop meanwhile.

    A worker that replaces a dead one recovers first, so that its clients go to the others. At the
    start of the daemon there are no others, and whoever asks is told how far the replay is.
    """
    address = start.config.host, start.config.port
    if not start.others_serving:
        await worker.listen(listen(*address))
    recovery = asyncio.ensure_future(worker.recover())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([recovery, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not recovery.done():
        return False
    recovery.result()
    if start.others_serving:
        await worker.listen(listen(*address))
    return True
