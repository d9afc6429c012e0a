"""Continuous queries in this process: a real shard, its write door, and the engine of queries.

Nothing happens by the clock but what a test asks for, on a clock that it moves. A `Place` can end
as a process does that is killed, and another one on the same data directory takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import structlog

from arc.continuous import ContinuousQueries, Executed
from arc.maintenance import Maintenance
from arc.metrics import ShardMetrics, shard_path
from arc.query.fresh_client import FreshClient
from arc.query_client import QueryClient
from arc.write_door import WriteDoor
from ingest.catalog import Catalog
from ingest.clock import ManualClock
from ingest.continuous import Query, QuerySpec, Window
from ingest.continuous_store import QueryStore, open_queries
from ingest.query.engine import Engine
from tests.query.conftest import SETTINGS, rows_of
from tests.query.test_fresh import LiveShard

T = TypeVar("T")

#: A full minute, as windows have it.
BASE_S = 1_789_999_980
MINUTE_US = 60_000_000
DELAY_S = 10.0

SUMS = (
    "SELECT host, sum(v) AS total, count(*) AS n FROM cpu "
    "WHERE time >= {start_time} AND time < {end_time} GROUP BY host"
)


class Killed(BaseException):
    """What stands for the end of the process at this place."""


class EngineClient(QueryClient):
    """Asks an engine instead of a process.

    Attributes:
        refusal: Raised instead of an answer to a query that has this text in it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(Path("nowhere"), 2**20)
        self._engine = engine
        self.refusal: dict[str, Exception] = {}

    async def arrow(self, sql: str, database: str) -> bytes:
        """See `QueryClient`."""
        self._refuse(sql)
        return await asyncio.to_thread(self._stream, sql, database)

    async def rows(self, sql: str, database: str) -> list[list[Any]]:
        """See `QueryClient`."""
        self._refuse(sql)
        query = self._engine.query(sql, database)
        return [list(row) for row in await asyncio.to_thread(rows_of, query)]

    def _refuse(self, sql: str) -> None:
        for text, error in self.refusal.items():
            if text in sql:
                raise error

    def _stream(self, sql: str, database: str) -> bytes:
        sink = pa.BufferOutputStream()
        with contextlib.closing(self._engine.query(sql, database)) as query:
            query.start()
            with pa.ipc.new_stream(sink, query.schema) as writer:
                while (batch := query.next_batch()) is not None:
                    writer.write_batch(batch)
        body: bytes = sink.getvalue().to_pybytes()
        return body


class Mortal(ContinuousQueries):
    """Ends at a place where a process may be killed.

    Attributes:
        dies: Which: "answered", "promised", "deleted", "written" or "done".
    """

    dies = ""

    def _pass(self, place: str) -> None:
        if self.dies == place:
            raise Killed(place)

    async def _clear(self, query: Query, window: Window) -> None:
        self._pass("answered")
        await super()._clear(query, window)
        self._pass("deleted")

    async def _count(self, query: Query, window: Window) -> int:
        if (await self.look(lambda store: store.get(query.id))).promised is not None:
            self._pass("promised")
        return await super()._count(query, window)

    async def _write(self, query: Query, rows: Any) -> None:
        await super()._write(query, rows)
        self._pass("written")

    async def _run(self, query: Query, window: Window, dry_run: bool) -> int:
        rows = await super()._run(query, window, dry_run)
        self._pass("done")
        return rows


class Place:
    """A shard, and continuous queries beside it, on one data directory.

    Attributes:
        clock: Theirs.
        client: Asks for them.
        queries: Executes them.
        shard: Takes what they write.
    """

    def __init__(self, root: Path, clock: ManualClock) -> None:
        self.root = root
        self.clock = clock
        self.shard = LiveShard(root)
        self.shard.recover()
        self._ends = contextlib.ExitStack()
        catalog = Catalog(root / ".arc" / "catalog.db", 100, 100)
        self._ends.enter_context(contextlib.closing(catalog))
        source = FreshClient(root / ".arc" / "run", 0.1)
        self.engine = Engine(root, catalog, SETTINGS, source)
        self._ends.enter_context(contextlib.closing(self.engine))
        self.client = EngineClient(self.engine)
        self.queries = self.do(self._begin())

    async def _begin(self) -> Mortal:
        log = structlog.get_logger()
        metrics = ShardMetrics(shard_path(self.shard.run_dir, 0))
        self._door = WriteDoor(self.shard.pipeline, metrics, 2**20, 2**22, "disk")
        self._maintenance = Maintenance(self.root, log)
        arguments = (self.root, self._door, self.client, self._maintenance, log)
        return Mortal(*arguments, delay_s=DELAY_S, clock=self.clock)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop of the shard."""
        return self.shard._do(work)

    def write(self, first: int, values: list[int], host: str = "a") -> None:
        """Rows of `cpu`, a second apart, from this second after `BASE_S` on."""
        times = [(BASE_S + first + i) * 1_000_000 for i in range(len(values))]
        hosts = [host] * len(values)
        columns = {"time": times, "host": hosts, "v": values}
        self.shard.write({"m": "cpu", "columns": columns, "tags": ["host"]})

    def store(self, job: Callable[[QueryStore], T]) -> T:
        """Ask the definitions."""
        with contextlib.closing(open_queries(self.root, self.clock)) as store:
            return job(store)

    def create(self, **changes: Any) -> Query:
        """Add a continuous query: sums of `cpu` by minute."""
        values = {"name": "sums", "query": SUMS, "interval": "1m", "destination": "cpu_1m"}
        spec = QuerySpec(database="default", source="cpu", **(values | changes))
        return self.do(self.queries.create(spec))

    def get(self, query_id: int = 1) -> Query:
        """One of them."""
        return self.store(lambda store: store.get(query_id))

    def turn(self) -> None:
        """Execute what is due."""
        self.do(self._flushing(self.queries.take_turn()))

    def execute(
        self, *minutes: int, query_id: int = 1, dry_run: bool = False, flushes: bool = True
    ) -> Executed:
        """Execute windows by hand; minutes after `BASE_S`."""
        start_us = BASE_S * 1_000_000
        windows = [
            Window(start_us + minute * MINUTE_US, start_us + (minute + 1) * MINUTE_US)
            for minute in minutes
        ]
        running = self.queries.execute(query_id, lambda *_: windows, dry_run=dry_run)
        return self.do(self._flushing(running) if flushes else running)

    async def _flushing(self, work: Coroutine[Any, Any, T]) -> T:
        """Have rows in memory stored again and again, as `flush_age_s` does."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait([task], timeout=0.02)
            await self.shard.pipeline._writer.drain()
        return await task

    def rows(self, sql: str = "") -> list[tuple[Any, ...]]:
        """Rows of the destination: minute after `BASE_S`, host, total, number."""
        written = (
            f"SELECT (epoch(time)::BIGINT - {BASE_S}) // 60, host, total, n "
            "FROM cpu_1m ORDER BY ALL"
        )
        return rows_of(self.engine.query(sql or written, "default"))

    def stop(self) -> None:
        """End as a worker that is told to."""
        self.do(self.queries.stop())
        self._leave()
        self.shard.stop()

    def die(self) -> None:
        """End as a worker that is killed: what is in its memory is gone, its log stays."""
        self.do(self.queries.stop())  # of threads: this process lives on
        self._leave()
        self.shard.die()

    def _leave(self) -> None:
        self.do(self._maintenance.stop())
        self._door.close()
        self._ends.close()


@contextlib.contextmanager
def place(root: Path, clock: ManualClock) -> Iterator[Place]:
    """A `Place`, ended at the end."""
    made = Place(root, clock)
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def dying(root: Path, clock: ManualClock) -> Iterator[Place]:
    """A `Place`, killed at the end."""
    made = Place(root, clock)
    try:
        yield made
    finally:
        made.die()
