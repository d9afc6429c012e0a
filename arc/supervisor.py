"""Keeps the workers running: starts them, restarts the dead, stops all of them in order.

A `Supervisor` follows one child process for each shard until a signal asks for the end. It
serves no request, holds no rows, and imports nothing heavy, so that it has no reason to die
itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import signal
import time
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from arc.banner import banner
from arc.child import Child, describe_exit
from arc.config import Config
from arc.metrics import SupervisorMetrics, row_balance, supervisor_path
from arc.ports import url_of
from arc.runtime import (
    EXIT_IN_LOG,
    DaemonInfo,
    DaemonLock,
    DataDir,
    WorkerEntry,
    write_daemon_info,
)
from arc.version import VERSION

#: A worker that lived this long ended for a new reason: it is restarted at once again.
STABLE_S = 2.0
#: Pauses before the 1st, 2nd, ... restart of a worker that keeps ending sooner; then the last.
RESTART_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
#: Processes that stand by, some 70 MB each: the second is for a worker that dies before the first
#: has been replaced, which takes seconds while every core is busy.
STANDBYS = 2


class Supervisor:
    """Follows the workers of one daemon.

    Args:
        config: Resolved, with the port that is held.
        where: The data directory, which this process has locked.
        lock: That lock, whose descriptor workers inherit.
        command: Program and arguments of a worker.
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
        self._standbys: list[Child] = []  # they import everything, then wait for a shard
        self._spawning: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._announced = False  # all workers were ready at one time
        self._failed = False  # a worker gave up at the start, or lost rows at the end
        self._left_in_log = False  # a worker ended before all that it had accepted was stored

    async def run(self) -> int:
        """Run the daemon to its end.

        Returns:
            Exit status: 0 when everything that was accepted is stored; `EXIT_IN_LOG` when the
            log holds some of it for the next start; 1 when a worker could not start, or when
            something was lost or may have been.
        """
        self._listen_to_signals()
        self._log.info(
            "starting",
            url=url_of(self._config.host, self._config.port),
            workers=self._config.workers,
            durability=self._config.durability,
        )
        self._metrics.start_time.set(self._started_at.timestamp())
        self._metrics.workers_wanted.set(self._config.workers)
        keepers = [asyncio.create_task(self._keep(n)) for n in range(self._config.workers)]
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
            pause_s = RESTART_PAUSES_S[min(quick_ends, len(RESTART_PAUSES_S)) - 1]
            await self._pause(pause_s)
            if not self._stopping.is_set():
                self._log.info("worker_restarting", shard=shard, after_s=pause_s)
                self._metrics.worker_restarts.inc()

    async def _run_one(self, shard: int) -> None:
        """From a worker's start to its end."""
        try:
            child = await self._next_child()
        except OSError as error:  # no memory or no process ids now
            self._log.error("worker_not_started", shard=shard, error=str(error))
            return
        child.assign(self._config, shard, others_serving=bool(self._ready))
        self._running[shard] = child
        if self._stopping.is_set():  # while it was being started
            child.terminate()
        if await child.ready:
            self._on_ready(child)
        status = await child.wait()
        del self._running[shard]
        self._on_end(child, status)

    async def _next_child(self) -> Child:
        """The process that has stood by for longest, or a new one where there is none.

        Raises:
            OSError: the system cannot start a process now.
        """
        while self._standbys:
            child = self._standbys.pop(0)
            if not child.has_ended:
                return child
        return await Child.spawn(self._command, self._lock.fd)

    def _have_standbys(self) -> None:
        """See to it that processes stand by, while all workers serve.

        Not sooner: the start of a process would compete with a replay for the processors.
        """
        busy = self._spawning is not None and not self._spawning.done()
        if self._announced and not busy and self._is_whole():
            self._spawning = asyncio.create_task(self._stand_by())

    def _is_whole(self) -> bool:
        return len(self._ready) == self._config.workers and not self._stopping.is_set()

    async def _stand_by(self) -> None:
        """Have processes ready that can take the place of dead workers at once.

        To start Python and to import takes 0.6 s of a processor, and several when all of them
        are busy with what the other workers serve.
        """
        with contextlib.suppress(OSError):  # then the next worker is started when it is needed
            while len(self._standbys) < STANDBYS and self._is_whole():
                self._standbys.append(await Child.spawn(self._command, self._lock.fd))

    async def _pause(self, seconds: float) -> None:
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
        if all_ready and not self._announced:
            self._announced = True
            self._announce()
        self._have_standbys()

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
        elif not self._announced and status >= 0:
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
        if self._spawning is not None:
            await self._spawning
        for standby in self._standbys:
            standby.kill()  # it has nothing
            await standby.wait()
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
