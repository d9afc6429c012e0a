"""Queries on threads, from an event loop: places, time, and an end whatever happens.

A `Runner` has as many threads as queries may run at once. A query takes a place, works in steps,
each of which is one call on a thread, and leaves; also when its client goes away in the middle
of a step, which is then interrupted and waited for before the place is free again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from arc.query.counts import QueryMetrics
from ingest.errors import OverloadedError
from ingest.query.engine import Engine, Query, Stop

T = TypeVar("T")

#: A query that finds no place waits this long. Short against the time-outs of clients (30 s), so
#: that they hear of the overload from us.
WAIT_S = 10.0

#: Queries that wait for one place. More would not get one in time if each took WAIT_S.
WAITING_PER_PLACE = 16

#: An interrupt that comes between two statements is lost: it is repeated this often.
_INTERRUPT_EVERY_S = 0.05


class Run:
    """One query that has a place."""

    def __init__(
        self, query: Query, threads: concurrent.futures.Executor, timeout_s: float
    ) -> None:
        self.query = query
        self._threads = threads
        self._left_s = timeout_s
        self._busy: asyncio.Future[Any] | None = None

    async def step(self, work: Callable[[], T]) -> T:
        """Have a thread do something with the query.

        Raises:
            QueryLimitError: all steps together took too long.
        """
        loop = asyncio.get_running_loop()
        started_s = time.monotonic()
        busy = loop.run_in_executor(self._threads, work)
        self._busy = busy
        watch = loop.call_later(max(self._left_s, 0), self._interrupt, Stop.TIMEOUT)
        try:
            # Shielded: a thread cannot be cancelled, and `end` has to know when it is done.
            return await asyncio.shield(busy)
        finally:
            watch.cancel()
            self._left_s -= time.monotonic() - started_s

    def limit(self, share: float) -> None:
        """Leave the query only a part of its time."""
        self._left_s *= share

    async def end(self) -> None:
        """Interrupt what runs, wait for it, and give back what the query holds."""
        self.cut_short()
        if self._busy is not None and not self._busy.done():
            with contextlib.suppress(Exception):
                await self._busy
        await asyncio.get_running_loop().run_in_executor(self._threads, self.query.close)

    def cut_short(self) -> None:
        """Interrupt what runs, if anything does."""
        self._interrupt(Stop.GONE)

    def _interrupt(self, reason: Stop) -> None:
        if self._busy is not None and not self._busy.done():
            self.query.stop(reason)
            loop = asyncio.get_running_loop()
            loop.call_later(_INTERRUPT_EVERY_S, self._interrupt, reason)


class Runner:
    """Gives queries their places.

    Args:
        engine: Runs them.
        metrics: Told who waits and who runs.
        concurrency: How many at once.
        timeout_s: That each may work.
        wait_s: How long one may wait for its place.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: QueryMetrics,
        concurrency: int,
        timeout_s: float,
        wait_s: float = WAIT_S,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(concurrency)
        self._num_waiting = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(concurrency, "query")
        self._runs: set[Run] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def place(self, sql: str, database: str) -> AsyncIterator[Run]:
        """A query in its place. The place is free once nothing of the query runs any more.

        Raises:
            OverloadedError: no place became free in time, or too many wait.
        """
        await self._take_place()
        run = Run(self._engine.query(sql, database), self._threads, self._timeout_s)
        self._runs.add(run)
        self._metrics.running.set(len(self._runs))
        try:
            yield run
        finally:
            ending = asyncio.ensure_future(self._end(run))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Interrupt the queries that still run, wait for their ends, and let the threads go."""
        for run in self._runs:
            run.cut_short()
        for _ in range(self._concurrency):
            await self._places.acquire()
        while self._ending:
            await asyncio.wait(self._ending)
        self._threads.shutdown()

    async def _take_place(self) -> None:
        if self._num_waiting >= WAITING_PER_PLACE * self._concurrency:
            raise OverloadedError(f"{self._num_waiting} queries wait already: come back later")
        self._num_waiting += 1
        self._metrics.waiting.set(self._num_waiting)
        started_s = time.monotonic()
        try:
            # Not wait_for, which before Python 3.12 may lose a place to a cancellation.
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise OverloadedError(
                f"{self._concurrency} queries run (ARC_QUERY_CONCURRENCY), and none of them "
                f"ended within {self._wait_s:g} s: come back later"
            ) from None
        finally:
            self._num_waiting -= 1
            self._metrics.waiting.set(self._num_waiting)
            self._metrics.wait_seconds.observe(time.monotonic() - started_s)

    async def _end(self, run: Run) -> None:
        try:
            await run.end()
        finally:
            self._runs.discard(run)
            self._metrics.running.set(len(self._runs))
            self._places.release()
