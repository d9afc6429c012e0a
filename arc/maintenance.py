"""Deletes and retention inside a worker: in one thread, at the lowest priority, one at a time.

In: jobs on an `Upkeep`, and, in the worker of shard 0 alone, the clock: all policies are applied
every so often. Out: their results. The event loop never waits for them; a client that goes
away ends nothing. Other workers and the command line are kept out by the lock of `ingest.turn`.

A worker that stops ends the work between two commits, within the time that some thousand rows
take. What was committed stays, the rest is as it was, and the next run does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from ingest.errors import IngestError
from ingest.retention import PolicyStore, open_policies
from ingest.turn import BusyError
from ingest.upkeep import StoppedError, Upkeep, upkeep

_T = TypeVar("_T")

#: Least priority of a thread (nice, 19 of -20 to 19): it runs when nobody else wants the core.
_NICE = 19


class Maintenance:
    """The thread for upkeep of one worker. Made on the event loop.

    Args:
        data_dir: Where the tables live.
        log: Told of failures, and of what was taken away.
        apply_every_s: Time between two applications of all policies; None: never by itself.
    """

    def __init__(
        self, data_dir: Path, log: FilteringBoundLogger, apply_every_s: float | None = None
    ) -> None:
        self._data_dir = data_dir
        self._log = log
        self._apply_every_s = apply_every_s
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(
            1, thread_name_prefix="upkeep", initializer=lower_priority
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to apply policies, if this worker is the one."""
        if self._apply_every_s is not None:
            self._task = asyncio.get_running_loop().create_task(self._apply(self._apply_every_s))

    async def run(self, job: Callable[[Upkeep], _T]) -> _T:
        """Do something at low priority, after what was asked for before.

        Raises:
            IngestError: what the job raises.
            StoppedError: the worker stops.
        """
        if self._stopping.is_set():
            raise StoppedError("the daemon is stopping")
        return await asyncio.wrap_future(self._threads.submit(self._run, job))

    async def look(self, job: Callable[[PolicyStore], _T]) -> _T:
        """Read or change policies, at once: that takes milliseconds, beside what takes long.

        Raises:
            IngestError: what the job raises.
        """
        return await asyncio.to_thread(self._look, job)

    async def stop(self) -> None:
        """End what is under way, and take nothing more."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _run(self, job: Callable[[Upkeep], _T]) -> _T:
        with upkeep(self._data_dir, self._log, self._check) as opened:
            return job(opened)

    def _look(self, job: Callable[[PolicyStore], _T]) -> _T:
        with contextlib.closing(open_policies(self._data_dir)) as policies:
            return job(policies)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise StoppedError("the daemon is stopping; what was not done is as it was")

    async def _apply(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.run(Upkeep.run_policies)
            except BusyError:
                self._log.debug("retention_postponed")
            except StoppedError:
                return
            except IngestError as error:
                self._log.error("retention_failed", error=str(error))
            except Exception:  # a defect of ours, which must not end the policies for good
                self._log.exception("retention_failed")


def lower_priority() -> None:
    """Let this thread run when nobody else wants to. Only Linux has priorities of threads."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
