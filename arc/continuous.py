"""Continuous queries, executed: by the clock in the worker of shard 0, by hand in any worker.

In: the definitions that `ingest.continuous` keeps. Out: rows in their destinations, by the way that
all rows take, through the write door of this worker, so that they are in its log and as safe as
its clients' when a window counts as done. SQL is run by the query process; each answer is of what
was acknowledged by then, in files or not.

An execution of one window, under a lock that one process of a data directory has at a time:

1. The SELECT. The answer is read whole, typed and checked. Whatever fails up to here has changed
   nothing.
2. Rows that the same query has written for this window are counted, in files and in memory. There
   are none, but for a crash or an execution by hand. If there are some, a promise is kept in the
   file of definitions, they are deleted, and they are counted again, until none is left: rows that
   are still in memory are in a file, where a delete finds them, after `flush_age_s`.
3. The rows are written, as one request.
4. The window is done, and the promise kept, in one transaction.

A crash before the delete leaves the window as it was, one after that a promise, which is due before
all else; one between 3 and 4 leaves rows that 2 finds the next time. So a window has its rows once,
however often it is executed. An `Idempotency-Key` would not do: it is forgotten after a while, and
refuses other rows for the same window, which late data make. While rows are replaced, readers see
the window without.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from arc.maintenance import Maintenance, lower_priority
from arc.query_client import QueryClient
from arc.write_door import WriteDoor
from arc.write_routes import REJECT, WriteHead
from ingest.clock import Clock, SystemClock
from ingest.continuous import (
    MARK_COLUMN,
    Outcome,
    Query,
    QuerySpec,
    Window,
    check,
    shown_time,
)
from ingest.continuous_rows import Rows, rows_of
from ingest.continuous_store import (
    NoSuchQueryError,
    QueryStore,
    add,
    change,
    may_have_rows,
    open_queries,
)
from ingest.decoders import Parameters
from ingest.disk import DIRECTORY_MODE, FILE_MODE, refusals
from ingest.errors import IngestError, OverloadedError
from ingest.log_format import Format
from ingest.query.binding import identifier
from ingest.query.errors import QueryError
from ingest.turn import BusyError
from ingest.upkeep import DeleteOrder, StoppedError, Upkeep

_T = TypeVar("_T")

_STATE_DIR = ".arc"
_LOCK_NAME = "locks/continuous.lock"

#: Windows of one query that are caught up with in one turn, before the others have theirs.
WINDOWS_PER_TURN = 100

#: How long an execution waits for another one, and for rows in memory to get into files.
WAIT_S = 60.0
_PAUSE_S = 0.1

#: How often the lock is tried, and how long it is left alone between two windows that are caught
#: up with, so that whoever waits gets in.
_LOCK_PAUSE_S, _BETWEEN_S = 0.01, 0.02

#: What the query process says of a table that is not there; a query may come before its tables.
_NO_TABLE = "there is no table"


class Executed(msgspec.Struct, frozen=True):
    """An execution that somebody asked for.

    Attributes:
        query: As it was.
        outcome: What came of it.
        sql: Of its first window.
    """

    query: Query
    outcome: Outcome
    sql: str


class ContinuousQueries:
    """Executes continuous queries. Made and used on the event loop of a worker.

    Args:
        data_dir: Where definitions and tables are.
        door: Takes the rows.
        client: Asks the query process.
        maintenance: Deletes the rows that are replaced.
        log: Told of failures.
        look_every_s: How often to look for windows that are due; None: never by itself.
        delay_s: How long late rows of a window are waited for.
        clock: By which windows are due.
    """

    def __init__(
        self,
        data_dir: Path,
        door: WriteDoor,
        client: QueryClient,
        maintenance: Maintenance,
        log: FilteringBoundLogger,
        look_every_s: float | None = None,
        delay_s: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._door = door
        self._client = client
        self._maintenance = maintenance
        self._log = log
        self._look_every_s = look_every_s
        self._delay_us = round(delay_s * 1e6)
        self._clock = clock or SystemClock()
        self._stopping = False
        self._threads = ThreadPoolExecutor(1, "continuous", initializer=lower_priority)
        self._tasks: set[asyncio.Task[Executed]] = set()
        self._clock_task: asyncio.Task[None] | None = None

    # --- start and stop ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for windows that are due, if this worker is the one."""
        if self._look_every_s is not None:
            look = self._look_again_and_again(self._look_every_s)
            self._clock_task = asyncio.get_running_loop().create_task(look)

    async def stop(self) -> None:
        """End what is under way, between two steps, and take nothing more.

        What is being written at this moment is written; its window may be executed once more.
        """
        self._stopping = True
        tasks = [task for task in (self._clock_task, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _look_again_and_again(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.take_turn()
            except StoppedError:
                return
            except IngestError as error:
                self._log.warning("continuous_queries_postponed", error=str(error))
            except Exception:  # a defect of ours, which must not end them for good
                self._log.exception("continuous_queries_failed")

    # --- definitions -------------------------------------------------------------------------

    async def look(self, job: Callable[[QueryStore], _T]) -> _T:
        """Read or change definitions, which takes milliseconds.

        Raises:
            IngestError: what the job raises.
        """
        return await asyncio.to_thread(self._look, job)

    def _look(self, job: Callable[[QueryStore], _T]) -> _T:
        with contextlib.closing(open_queries(self._data_dir, self._clock)) as store:
            return job(store)

    async def create(self, spec: QuerySpec) -> Query:
        """Add a continuous query, with the retention policies that it asks for.

        Raises:
            PayloadError, QueryError: it makes no sense, or its SQL does not.
            QueryExistsError, PolicyExistsError: a name is taken.
            StorageError: it cannot be kept.
        """
        check(spec)
        await self._try_out(spec)
        return await self.look(lambda store: add(store, spec))

    async def update(self, query_id: int, changes: dict[str, object]) -> Query:
        """Change fields of a `QuerySpec`.

        Raises:
            NoSuchQueryError: there is none of this number.
            IngestError: as `create`.
        """
        query = await self.look(lambda store: store.get(query_id))
        spec = msgspec.structs.replace(query.spec, **changes)
        check(spec)
        if "query" in changes:
            await self._try_out(spec)
        return await self.look(lambda store: change(store, query, changes))

    async def _try_out(self, spec: QuerySpec) -> None:
        """Refuse SQL that cannot be run, as far as that is known before its tables are there."""
        now_us = self._clock.now_us()
        draft = Query(0, spec, now_us, now_us, now_us)
        sql = draft.sql(Window(now_us - spec.interval_us, now_us))
        try:
            await self._client.rows(f"EXPLAIN {sql}", spec.database)
        except QueryError as error:
            if _NO_TABLE not in str(error):
                raise QueryError(f"query: {error}") from None
        except OverloadedError:
            return  # nobody can tell now, and the first execution will

    # --- by the clock ------------------------------------------------------------------------

    async def take_turn(self) -> None:
        """Execute the windows that are due, of each query the oldest first.

        What fails is remembered and does not stop the other queries.

        Raises:
            StorageError: the definitions cannot be read.
            StoppedError: the worker stops.
        """
        now_us = self._clock.now_us()
        for query in await self.look(lambda store: store.queries()):
            if query.due(now_us, self._delay_us) is None:
                continue
            try:
                await self._catch_up(query.id)
            except StoppedError:
                raise
            except OverloadedError as error:
                self._log.warning(
                    "continuous_query_postponed", name=query.spec.name, error=str(error)
                )
            except Exception:  # a defect of ours; the other queries are not to blame
                self._log.exception("continuous_query_failed", name=query.spec.name)

    async def _catch_up(self, query_id: int) -> None:
        for _ in range(WINDOWS_PER_TURN):
            now_us = self._clock.now_us()
            query = await self._found(query_id)
            if query is None or query.due(now_us, self._delay_us) is None:
                return
            if now_us < query.retry_us or not await self._execute_due(query_id, now_us):
                return
            await asyncio.sleep(_BETWEEN_S)

    async def _execute_due(self, query_id: int, now_us: int) -> bool:
        """Execute the window that is due, if it still is; whether that went well."""
        async with self._lock():
            query = await self._found(query_id)  # as it is now that nobody else is at it
            window = None if query is None else query.due(now_us, self._delay_us)
            if query is None or window is None:
                return False
            outcome = Outcome(query_id, window, self._clock.now_us())
            await self._recorded(query, [window], outcome)
            await self.look(lambda store: store.note(outcome, in_turn=True))
        if outcome.error is not None:
            fields = {"name": query.spec.name, "window": shown_time(window.start_us)}
            self._log.error("continuous_query_failed", error=outcome.error, **fields)
        return outcome.error is None

    async def _found(self, query_id: int) -> Query | None:
        try:
            return await self.look(lambda store: store.get(query_id))
        except NoSuchQueryError:  # it was removed meanwhile
            return None

    # --- by hand -----------------------------------------------------------------------------

    async def execute(
        self, query_id: int, choose: Callable[[Query, int], list[Window]], *, dry_run: bool
    ) -> Executed:
        """Execute windows of a query, active or not. Goes on when nobody waits any more.

        Args:
            query_id: Of the query.
            choose: Which windows, given the query and the time now; at least one.
            dry_run: Run the SELECT and check its rows, and write nothing.

        Raises:
            NoSuchQueryError: there is none of this number.
            ClientError: what `choose` raises.
            OverloadedError: it cannot be done now; what was done by then stays.
            StoppedError: the worker stops.
        """
        if self._stopping:
            raise _stopped()
        task = asyncio.ensure_future(self._execute(query_id, choose, dry_run))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._stopping:
                raise _stopped() from None
            raise

    def _forget(self, task: asyncio.Task[Executed]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is known to whoever waited, if anybody did

    async def _execute(
        self, query_id: int, choose: Callable[[Query, int], list[Window]], dry_run: bool
    ) -> Executed:
        async with contextlib.nullcontext() if dry_run else self._lock():
            now_us = self._clock.now_us()
            query = await self.look(lambda store: store.get(query_id))
            windows = choose(query, now_us)
            whole = Window(windows[0].start_us, windows[-1].end_us)
            outcome = Outcome(query_id, whole, now_us, dry_run=dry_run)
            await self._recorded(query, windows, outcome)
            if not dry_run:
                await self.look(lambda store: store.note(outcome, in_turn=False))
        return Executed(query, outcome, query.sql(windows[0]))

    # --- one execution -----------------------------------------------------------------------

    async def _recorded(self, query: Query, windows: list[Window], outcome: Outcome) -> None:
        """Execute windows one after another, up to the first that fails.

        Raises:
            OverloadedError: it cannot be done now, and may be later.
        """
        started_s = time.monotonic()
        try:
            for window in windows:
                outcome.rows += await self._run(query, window, outcome.dry_run)
        except OverloadedError:
            raise
        except IngestError as error:
            place = f"window {shown_time(window.start_us)}: " if len(windows) > 1 else ""
            outcome.error = f"{place}{error}"
        finally:
            outcome.took_s = round(time.monotonic() - started_s, 6)

    async def _run(self, query: Query, window: Window, dry_run: bool) -> int:
        """Execute one window; the number of its rows."""
        closed = window.end_us + self._delay_us <= self._clock.now_us()
        answer = await self._client.arrow(query.sql(window), query.spec.database)
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._threads, rows_of, answer, window, query.mark)
        if not dry_run:
            await self._clear(query, window)
            await self._write(query, rows)
            await self.look(lambda store: store.done(query.id, window, closed=closed))
        return rows.num_rows

    async def _clear(self, query: Query, window: Window) -> None:
        """Take away what this query has written for a window before."""
        target = query.spec.target
        state_dir = self._data_dir / _STATE_DIR
        if not await asyncio.to_thread(may_have_rows, state_dir, target):
            return
        if not await self._count(query, window):
            return
        await self.look(lambda store: store.promise(query.id, window))
        until_s = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(BusyError):  # another delete, or a retention run
                await self._maintenance.run(lambda upkeep: _delete(upkeep, query, window))
            if not (left := await self._count(query, window)):
                return
            if time.monotonic() > until_s:
                raise OverloadedError(
                    f"{left} rows that the query {query.spec.name!r} wrote for this window before "
                    f"could not be deleted within {WAIT_S:g} s: they are still in memory "
                    "(ARC_FLUSH_AGE_S), or another delete is under way"
                )
            await asyncio.sleep(_PAUSE_S)

    async def _count(self, query: Query, window: Window) -> int:
        """Rows that a query has written for a window, in files and in memory."""
        target = query.spec.target
        start, end = shown_time(window.start_us), shown_time(window.end_us)
        sql = (
            f"SELECT count(*) FROM {identifier(target.database)}.{identifier(target.measurement)} "
            f"WHERE {identifier(MARK_COLUMN)} = '{query.mark}' "
            f"AND \"time\" >= TIMESTAMPTZ '{start}' AND \"time\" < TIMESTAMPTZ '{end}'"
        )
        return int((await self._client.rows(sql, target.database))[0][0])

    async def _write(self, query: Query, rows: Rows) -> None:
        """Store the rows of a window, all or none."""
        if not rows.num_rows:
            return
        params = Parameters(query.spec.destination).to_bytes()
        head = WriteHead(Format.ARROW, query.spec.database, params=params, on_bad_rows=REJECT)
        self._door.admit(len(rows.body))
        try:
            stored = self._door.store(head, rows.body)
            if not isinstance(stored, int):
                await asyncio.shield(stored)
        finally:
            self._door.release(len(rows.body))

    @contextlib.asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        """Be the only one, of all processes on the data directory, to execute."""
        path = self._data_dir / _STATE_DIR / _LOCK_NAME
        with refusals(path, "lock"):
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            until_s = time.monotonic() + WAIT_S
            while not _locked(descriptor):
                if time.monotonic() > until_s:
                    raise BusyError(
                        f"another execution of a continuous query is under way on {self._data_dir}"
                    )
                await asyncio.sleep(_LOCK_PAUSE_S)
            yield
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete(upkeep: Upkeep, query: Query, window: Window) -> None:
    """Delete what a query has written for a window, as far as it is in files."""
    start, end = shown_time(window.start_us), shown_time(window.end_us)
    where = f"time >= '{start}' AND time < '{end}' AND \"{MARK_COLUMN}\" = '{query.mark}'"
    order = DeleteOrder(query.spec.target, where)
    if upkeep.delete(order).done.rows:
        upkeep.delete(msgspec.structs.replace(order, dry_run=False, confirmed=True))


def _stopped() -> StoppedError:
    return StoppedError("the daemon is stopping; the windows that are not done are as they were")
