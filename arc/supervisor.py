"""Keeps the workers running: starts them, restarts the dead, stops all of them in order.

A `Supervisor` follows one child process for each shard, the template that they are forked from,
the process that answers SQL, and the one that merges small files, which it starts anew for each
look at the tables, until a signal asks for the end. It serves no request, holds no
rows, and imports nothing heavy, so that it has no reason to die itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from arc.banner import banner
from arc.child import (
    Child,
    Helper,
    Template,
    TemplateEndedError,
    adopt_orphans,
    describe_exit,
    reap_orphans,
)
from arc.compaction_options import CompactionStart
from arc.compaction_options import command as compaction_command
from arc.config import Config
from arc.metrics import SupervisorMetrics, row_balance, supervisor_path
from arc.ports import url_of
from arc.query.options import QueryOptions, QueryStart, socket_path
from arc.query.options import command as query_command
from arc.runtime import (
    EXIT_IN_LOG,
    DaemonInfo,
    DaemonLock,
    DataDir,
    WorkerEntry,
    write_daemon_info,
)
from arc.version import VERSION

#: A process that lived this long ended for a new reason: it is restarted at once again.
STABLE_S = 2.0
#: Pauses before the 1st, 2nd, ... restart of a process that keeps ending sooner; then the last.
RESTART_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0)


class Supervisor:
    """Follows the workers of one daemon.

    Args:
        config: Resolved, with the port that is held.
        where: The data directory, which this process has locked.
        lock: That lock, whose descriptor workers inherit.
        command: Program and arguments of the template.
        log: Where events go.
    """

    def __init__(
        self,
        config: Config,
        where: DataDir,
        lock: DaemonLock,
        command: Sequence[str],
        log: FilteringBoundLogger,
    ) -> None:
        self._config = config
        self._where = where
        self._lock = lock
        self._command = command
        self._log = log
        self._metrics = SupervisorMetrics(supervisor_path(where.run))
        self._started_at = datetime.datetime.now(datetime.UTC)
        self._running: dict[int, Child] = {}  # by shard: started and not seen to end
        self._ready: dict[int, Child] = {}  # by shard: those of them that serve
        self._template: Template | None = None  # the latest; it may have ended
        self._helpers: set[Helper] = set()  # those that are neither, and not seen to end
        self._stopping = asyncio.Event()
        self._whole = asyncio.Event()  # all workers were ready at one time
        self._failed = False  # a process gave up at the start, or a worker lost rows at the end
        self._left_in_log = False  # a worker ended before all that it had accepted was stored

    async def run(self) -> int:
        """Run the daemon to its end.

        Returns:
            Exit status: 0 when everything that was accepted is stored; `EXIT_IN_LOG` when the
            log holds some of it for the next start; 1 when a worker could not start, or when
            something was lost or may have been.
        """
        adopt_orphans()
        self._listen_to_signals()
        self._log.info(
            "starting",
            url=url_of(self._config.host, self._config.port),
            workers=self._config.workers,
            durability=self._config.durability,
        )
        self._metrics.start_time.set(self._started_at.timestamp())
        self._metrics.workers_wanted.set(self._config.workers)
        keepers = [asyncio.create_task(self._keep_template())]
        keepers += [asyncio.create_task(self._keep(n)) for n in range(self._config.workers)]
        if self._config.query_concurrency:
            keepers.append(asyncio.create_task(self._keep_query()))
        if self._config.compact_interval_s:
            keepers.append(asyncio.create_task(self._keep_compacting()))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            # A keeper ends only when it is told to, unless there is a defect in it.
            await asyncio.wait([stop, *keepers], return_when=asyncio.FIRST_COMPLETED)
            self._stop()
            await self._drain(keepers)
        finally:
            self._where.daemon_json.unlink(missing_ok=True)
        status = self._report_end()
        self._metrics.close()
        return status

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
                loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._reap_orphans)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            self._log.warning("killing_workers", signal=number.name, workers=len(self._running))
            self._kill_all()
        else:
            self._stop()
            self._log.info("stopping", signal=number.name, workers=len(self._running))

    def _stop(self) -> None:
        self._lock.mark_stopping()
        self._stopping.set()

    async def _keep(self, shard: int) -> None:
        """Have one worker running until the daemon stops."""
        quick_ends = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            await self._run_one(shard)
            quick_ends = 1 if time.monotonic() - started_s >= STABLE_S else quick_ends + 1
            pause_s = await self._pause(quick_ends)
            if not self._stopping.is_set():
                self._log.info("worker_restarting", shard=shard, after_s=pause_s)
                self._metrics.worker_restarts.inc()

    async def _run_one(self, shard: int) -> None:
        """From a worker's start to its end."""
        child = await self._fork(shard)
        if child is not None:
            self._running[shard] = child  # nothing may be awaited since it was forked
        self._reap_orphans()
        if child is None:
            return
        if self._stopping.is_set():  # while it was being started
            child.terminate()
        if await child.ready:
            self._on_ready(child)
        status = await child.wait()
        del self._running[shard]
        self._on_end(child, status)

    async def _fork(self, shard: int) -> Child | None:
        """Start a worker; None where that is not possible now, which is told."""
        assert self._template is not None, "BUG: the template is started before any worker"
        try:
            return await self._template.fork(self._config, shard, others_serving=bool(self._ready))
        except OSError as error:  # no memory or no process ids now
            self._log.error("worker_not_started", shard=shard, error=str(error))
            return None
        except TemplateEndedError:
            return None  # as its own keeper tells

    async def _keep_template(self) -> None:
        """Have the template running, and ready for the next worker, until the daemon stops."""
        quick_ends = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            await self._run_template()
            quick_ends = 1 if time.monotonic() - started_s >= STABLE_S else quick_ends + 1
            await self._pause(quick_ends)

    async def _run_template(self) -> None:
        """From its start to its end."""
        try:
            template = Template.spawn(self._command, self._lock.fd)
        except OSError as error:
            self._on_template_end("template_not_started", gave_up=True, error=str(error))
            return
        self._template = template
        status = await template.wait()
        fields = {"pid": template.pid, "end": describe_exit(status)}
        fields["seconds"] = round(template.age_s, 3)
        self._on_template_end("template_died", gave_up=status >= 0, **fields)
        await template.close()

    async def _keep_query(self) -> None:
        """Have SQL answered until the daemon stops; not before writes are taken."""
        await self._first_of(self._whole, self._stopping)
        quick_ends = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            await self._run_query()
            quick_ends = 1 if time.monotonic() - started_s >= STABLE_S else quick_ends + 1
            await self._pause(quick_ends)

    async def _run_query(self) -> None:
        """From the start of the query process to its end."""
        await self._run_helper("query_process", query_command(self._query_start()), ends=False)

    async def _keep_compacting(self) -> None:
        """Have a compactor look at the tables now and then until the daemon stops.

        Each look is a process of its own: see `arc.compaction_process`.
        """
        await self._first_of(self._whole, self._stopping)
        failures = 0
        while not self._stopping.is_set():
            # One that keeps failing is not started more often than anything else that does.
            least_s = RESTART_PAUSES_S[min(failures, len(RESTART_PAUSES_S) - 1)]
            await self._sleep(max(self._config.compact_interval_s, least_s))
            if not self._stopping.is_set():
                command = compaction_command(self._compaction_start())
                well = await self._run_helper("compactor", command, ends=True)
                failures = 0 if well else failures + 1

    async def _run_helper(self, name: str, command: Sequence[str], *, ends: bool) -> bool:
        """From the start of a process that is no worker to its end.

        Args:
            name: For the log.
            command: Program and arguments.
            ends: It is right that it ends by itself, with status 0.

        Returns:
            Whether it ended as it should.
        """
        try:
            process = Helper.spawn(command)
        except OSError as error:  # no memory or no process ids now
            self._log.error(f"{name}_not_started", error=str(error))
            return False
        self._helpers.add(process)
        status = await process.wait()
        self._helpers.discard(process)
        well = self._stopping.is_set() or (ends and status == 0)
        if not well:
            self._log.error(f"{name}_died", pid=process.pid, end=describe_exit(status))
        return well

    def _query_start(self) -> QueryStart:
        config = self._config
        options = QueryOptions(
            memory_bytes=config.query_memory_bytes,
            threads=config.query_threads,
            concurrency=config.query_concurrency,
            timeout_s=config.query_timeout_s,
            max_rows=config.query_max_rows,
            nice=config.query_nice,
            spare_cores=config.query_spare_cores,
            log_level=config.log_level,
            log_format=config.log_format,
        )
        return QueryStart(Path(config.data_dir), socket_path(config.data_dir), None, options)

    def _compaction_start(self) -> CompactionStart:
        config = self._config
        return CompactionStart(
            data_dir=Path(config.data_dir),
            older_than_s=config.compact_older_than_s,
            log_level=config.log_level,
            log_format=config.log_format,
        )

    async def _first_of(self, *events: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _on_template_end(self, event: str, *, gave_up: bool, **fields: object) -> None:
        if self._stopping.is_set():
            return
        if gave_up and not self._whole.is_set():
            # It found a reason not to start, and would find it again.
            self._log.error("template_failed_to_start", **fields)
            self._failed = True
            self._stop()
        else:
            self._log.error(event, **fields)

    def _reap_orphans(self) -> None:
        """Wait for what a template left when it died; not while a worker's id is unknown."""
        template = self._template
        if template is not None and not template.is_forking:
            others = [template, *self._running.values(), *self._helpers]
            reap_orphans({process.pid for process in others})

    async def _pause(self, quick_ends: int) -> float:
        """Wait before a restart, or until the daemon stops; returns how long it was to be."""
        seconds = RESTART_PAUSES_S[min(quick_ends, len(RESTART_PAUSES_S)) - 1]
        await self._sleep(seconds)
        return seconds

    async def _sleep(self, seconds: float) -> None:
        """Wait for so long, or until the daemon stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _on_ready(self, child: Child) -> None:
        self._ready[child.shard] = child
        self._metrics.workers_up.set(len(self._ready))
        all_ready = len(self._ready) == self._config.workers
        if all_ready and not self._stopping.is_set():
            self._publish()
        seconds = round(child.age_s, 3)
        self._log.info("worker_ready", shard=child.shard, pid=child.pid, seconds=seconds)
        if all_ready and not self._whole.is_set():
            self._whole.set()
            self._announce()

    def _publish(self) -> None:
        try:
            write_daemon_info(self._where.daemon_json, self._info())
        except OSError as error:  # a full disk is no reason to end
            self._log.error("daemon_json_not_written", error=str(error))

    def _announce(self) -> None:
        info = self._info()
        self._log.info("ready", url=info.url, workers=len(info.workers), data_dir=info.data_dir)
        with contextlib.suppress(OSError):  # nobody reads standard output
            print(banner(info, self._config), flush=True)

    def _on_end(self, child: Child, status: int) -> None:
        was_ready = self._ready.pop(child.shard, None) is not None
        self._metrics.workers_up.set(len(self._ready))
        fields: dict[str, object] = {"shard": child.shard, "pid": child.pid}
        fields |= {"end": describe_exit(status), "seconds": round(child.age_s, 3)}
        if self._stopping.is_set():
            self._on_stopped(status, was_ready, fields)
        elif not self._whole.is_set() and status >= 0:
            # It found a reason not to start, and would find it again.
            self._log.error("worker_failed_to_start", **fields)
            self._failed = True
            self._stop()
        else:
            self._log.error("worker_died", **fields)

    def _on_stopped(self, status: int, was_ready: bool, fields: dict[str, object]) -> None:
        """A worker ended that was to end."""
        if status == 0 or not was_ready:
            # One that was not ready has accepted nothing: any end is in order.
            self._log.info("worker_stopped", **fields)
        elif status == EXIT_IN_LOG or (status < 0 and self._config.durability != "memory"):
            self._left_in_log = True
            self._log.warning("worker_stopped", **fields)
        else:
            self._failed = True
            self._log.error("worker_stopped", **fields)

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        """Stop every worker: in order if they can, by force when the time is up."""
        for child in self._running.values():
            child.terminate()
        if self._template is not None:
            self._template.stop()
        for helper in self._helpers:
            helper.terminate()
        _, late = await asyncio.wait(keepers, timeout=self._config.shutdown_timeout_s)
        if late:
            self._log.error(
                "drain_timed_out",
                shutdown_timeout_s=self._config.shutdown_timeout_s,
                shards=sorted(self._running),
            )
            self._kill_all()
        await asyncio.gather(*keepers)

    def _kill_all(self) -> None:
        for child in self._running.values():
            child.kill()
        for helper in self._helpers:
            helper.kill()
        if self._template is not None:
            self._template.kill()

    def _report_end(self) -> int:
        """Say where the rows are, and return the exit status."""
        rows = row_balance(self._where.run)
        # What a killed worker lost, and its successor counted, is no fault of this end.
        failed = self._failed or rows.gone > rows.lost
        in_log = self._left_in_log or rows.in_log > 0 or self._where.has_log()
        status = 1 if failed else EXIT_IN_LOG if in_log else 0
        tell = self._log.error if failed else self._log.warning if in_log else self._log.info
        tell(
            "stopped",
            rows_accepted=rows.accepted,
            rows_stored=rows.stored,
            rows_quarantined=rows.quarantined,
            rows_in_log=rows.in_log,
            rows_lost=rows.gone,
            status=status,
        )
        return status

    def _info(self) -> DaemonInfo:
        return DaemonInfo(
            pid=os.getpid(),
            host=self._config.host,
            port=self._config.port,
            url=url_of(self._config.host, self._config.port),
            workers=[WorkerEntry(n, self._ready[n].pid) for n in sorted(self._ready)],
            started_at=self._started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            version=VERSION,
            durability=self._config.durability,
            data_dir=self._config.data_dir,
        )
