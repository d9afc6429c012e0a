"""Rows of memory beside one version of their table: each once, whatever was stored in between.

The shard is a real pipeline in this process, on a loop of its own, asked over its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ormsgpack
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from arc.fresh_server import FreshServer, forget_shards, fresh_socket
from arc.query.fresh_client import FreshClient
from ingest import fresh_rows
from ingest.arrow_writer import WriterSettings
from ingest.buffer import MeasurementBuffer
from ingest.catalog import Catalog
from ingest.columns import ColumnType
from ingest.errors import OverloadedError
from ingest.fresh_rows import FreshRows
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.paths import TableId
from ingest.pipeline import Pipeline, PipelineSettings
from ingest.query.engine import Engine
from ingest.query.fresh import Fetched, FreshTables, Known, ShardRows
from ingest.schema import ColumnSpec, TableSchema
from tests.query.conftest import SETTINGS, START_US, request, rows_of
from tests.support.columns import batch, ints

CPU = TableId("default", "cpu")
T = TypeVar("T")


class LiveShard:
    """A pipeline that flushes only when it is told to, and its socket."""

    def __init__(self, root: Path, number: int = 0) -> None:
        self.root = root
        self.run_dir = root / ".arc" / "run"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._number = number
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.pipeline, self._server = self._do(self._begin())

    async def _begin(self) -> tuple[Pipeline, FreshServer]:
        writer = WriterSettings(flush_rows=2**40, flush_age_s=3_600.0)
        settings = PipelineSettings(
            self.root,
            self._number,
            64 * 2**20,
            0,
            writer,
            Limits(),
            num_shards=2,
            log_segment_bytes=64 * 2**10,
        )
        pipeline = Pipeline(settings, null())
        path = fresh_socket(self.run_dir, self._number)
        server = FreshServer(path, pipeline.fresh, structlog.get_logger())
        server.start()
        pipeline.start()
        return pipeline, server

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def recover(self) -> None:
        self._do(self.pipeline.recover())

    def write(self, content: dict[str, Any]) -> None:
        """Wait for what a 204 waits for."""
        self._do(self._write(ormsgpack.packb(content)))

    async def _write(self, content: bytes) -> None:
        head = RecordHead(Format.MSGPACK, "default", None, START_US, b"")
        batches = decode(content, START_US, Limits(), None)
        kept = self.pipeline.write(head, content, batches, b"")
        if not isinstance(kept, int):
            await kept

    def flush(self) -> None:
        self._do(self.pipeline._writer.drain())

    def stop(self) -> None:
        """As a worker does that is told to."""
        self._do(self.pipeline.drain())
        self._do(self._server.stop())
        self._do(self._close())
        self._end()

    async def _close(self) -> None:
        self.pipeline.close()

    def die(self) -> None:
        """Leave the log and the file of the socket, as one that is killed does."""
        path = fresh_socket(self.run_dir, self._number)
        kept = path.with_name("kept")
        path.rename(kept)
        self._do(self._server.stop())
        kept.rename(path)
        self._do(self.pipeline.abandon())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def live(root: Path, number: int = 0) -> Iterator[LiveShard]:
    shard = LiveShard(root, number)
    shard.recover()
    try:
        yield shard
    finally:
        shard.stop()


@contextlib.contextmanager
def engine_beside(root: Path, wait_s: float = 0.1) -> Iterator[Engine]:
    source = FreshClient(root / ".arc" / "run", wait_s)
    with contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)) as catalog:
        engine = Engine(root, catalog, SETTINGS, source)
        with contextlib.closing(engine):
            yield engine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data directory of this test's own."""
    return tmp_path / "data"


def numbers(engine: Engine, table: str = "cpu") -> list[int]:
    found = rows_of(engine.query(f"SELECT n FROM {table} ORDER BY n", "default"))
    return [row[0] for row in found]


# --- with a shard ------------------------------------------------------------------------------


def test_rows_are_there_before_during_and_after_a_flush(root: Path) -> None:
    with live(root) as shard, engine_beside(root) as engine:
        shard.write(request("cpu"))
        assert numbers(engine) == [0, 1, 2]
        shard.flush()
        assert numbers(engine) == [0, 1, 2]
        shard.write(request("cpu", 3))
        assert numbers(engine) == [0, 1, 2, 3, 4, 5]
        assert rows_of(engine.query("SELECT count(*) FROM cpu", "default")) == [(6,)]
    with engine_beside(root) as engine:
        assert numbers(engine) == [0, 1, 2, 3, 4, 5]


def test_what_is_stored_between_the_question_and_the_version_counts_once(root: Path) -> None:
    with live(root) as shard, engine_beside(root) as engine:
        shard.write(request("cpu"))
        assert engine.fresh is not None
        fetched = engine.fresh.fetch(CPU)
        shard.flush()
        snapshot = engine.snapshots.take(CPU, fetched.app_ids)
        assert snapshot is not None
        assert snapshot.num_rows == 3
        assert fetched.after(snapshot.marks) == []
        assert sum(batch.rows.num_rows for batch in fetched.after({})) == 3


def test_a_commit_that_the_shard_has_not_heard_of_yet_counts_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(root) as shard, engine_beside(root) as engine:
        shard.write(request("cpu"))
        table_log = shard.pipeline._line.table_log
        commit, seen = table_log.commit, []

        def then_look(*arguments: Any) -> None:
            seen.append(numbers(engine))
            commit(*arguments)
            seen.append(numbers(engine))

        monkeypatch.setattr(table_log, "commit", then_look)
        shard.flush()
        assert seen == [[0, 1, 2], [0, 1, 2]]


def test_rows_of_all_shards_are_there(root: Path) -> None:
    with live(root) as first, live(root, 1) as second, engine_beside(root) as engine:
        first.write(request("cpu"))
        second.write(request("cpu", 3))
        second.flush()
        second.write(request("cpu", 6, 1))
        assert numbers(engine) == [0, 1, 2, 3, 4, 5, 6]


def test_one_request_for_several_tables_is_in_each_of_them(root: Path) -> None:
    with live(root) as shard, engine_beside(root) as engine:
        shard.write(request("a"))
        shard.flush()
        for first in (3, 6):
            rows = [request("a", first), request("b", first)]
            shard.write({"batch": rows})
        assert numbers(engine, "a") == list(range(9))
        assert numbers(engine, "b") == list(range(3, 9))


def test_a_query_asks_for_what_is_new_only(root: Path) -> None:
    with live(root) as shard, engine_beside(root) as engine:
        assert engine.fresh is not None
        asked = recorded(engine.fresh)
        for first in (0, 3, 6):
            shard.write(request("cpu", first))
            assert numbers(engine) == list(range(first + 3))
            assert numbers(engine) == list(range(first + 3))
        assert asked == [3, 0, 3, 0, 3, 0]
        shard.flush()
        assert numbers(engine) == list(range(9))
        assert engine.fresh.size_bytes == 0, "nothing is remembered of what is stored"


def recorded(fresh: FreshTables) -> list[int]:
    """How many rows each question brings, from now on."""
    source, found = fresh._source, list[int]()

    class Recorder:
        def ask(
            self, table: TableId, known: Mapping[int, Known], max_bytes: int
        ) -> dict[int, ShardRows]:
            answers = source.ask(table, known, max_bytes)
            ends = [
                int.from_bytes(head.ends[-8:], "little")
                for answer in answers.values()
                for head, _ in answer.pieces
            ]
            found.append(sum(ends))
            return answers

    fresh._source = Recorder()
    return found


def test_columns_that_came_later_are_null_before(root: Path) -> None:
    with live(root) as first, live(root, 1) as second, engine_beside(root) as engine:
        first.write(request("cpu", 0, 2))
        assert numbers(engine) == [0, 1]
        second.write(request("cpu", 2, 1, host=["a"]))
        first.write({"m": "cpu", "columns": {"time": [START_US], "n": [2.5]}})
        sql = "SELECT n, host, typeof(n) FROM cpu ORDER BY n"
        wanted = [(0.0, None), (1.0, None), (2.0, "a"), (2.5, None)]
        assert rows_of(engine.query(sql, "default")) == [(*row, "DOUBLE") for row in wanted]
        first.flush()
        assert rows_of(engine.query(sql, "default")) == [(*row, "DOUBLE") for row in wanted]
        second.flush()
        assert rows_of(engine.query(sql, "default")) == [(*row, "DOUBLE") for row in wanted]


@pytest.mark.parametrize("is_stored", [False, True])
def test_all_types_are_as_they_are_in_files(root: Path, is_stored: bool) -> None:
    columns = {
        "time": [START_US, START_US + 1],
        "i": [2**53 + 1, None],
        "f": [0.5, None],
        "s": ["größe", None],
        "o": [True, None],
        "b": [b"\xff\x00", None],
    }
    with live(root) as shard, engine_beside(root) as engine:
        shard.write({"m": "cpu", "columns": columns})
        if is_stored:
            shard.flush()
        sql = "SELECT i, f, s, o, b, epoch_us(time) FROM cpu ORDER BY time"
        rows = [(2**53 + 1, 0.5, "größe", True, b"\xff\x00", START_US), (*[None] * 5, START_US + 1)]
        assert rows_of(engine.query(sql, "default")) == rows
        found = rows_of(engine.query("SELECT column_type FROM (DESCRIBE cpu)", "default"))
        kinds = ["TIMESTAMP WITH TIME ZONE", "BIGINT", "DOUBLE", "VARCHAR", "BOOLEAN", "BLOB"]
        assert sorted(kind for (kind,) in found) == sorted(kinds)


def test_rows_of_one_query_are_not_named_by_another(root: Path) -> None:
    with live(root) as shard, engine_beside(root) as engine:
        shard.write(request("cpu"))
        with contextlib.closing(engine.query("SELECT n FROM cpu", "default")) as first:
            first.start()
            numbered = [f"_query{i}" for i in range(1, 5)]
            for name in [*numbered, *(f"temp.main.{name}" for name in numbered)]:
                with pytest.raises(Exception, match=r"no table|wanted table"):
                    rows_of(engine.query(f"SELECT * FROM {name}", "default"))


# --- shards that are away ----------------------------------------------------------------------


def test_a_shard_that_was_killed_is_waited_for_until_its_rows_are_back(root: Path) -> None:
    with engine_beside(root) as engine:
        shard = LiveShard(root)
        shard.recover()
        shard.write(request("cpu"))
        shard.flush()
        shard.write(request("cpu", 3))
        assert numbers(engine) == [0, 1, 2, 3, 4, 5]
        shard.die()
        with pytest.raises(OverloadedError, match="shard 0: its worker does not answer"):
            numbers(engine)
        shard = LiveShard(root)
        with pytest.raises(OverloadedError, match="shard 0: replaying the log"):
            numbers(engine)
        shard.recover()
        assert numbers(engine) == [0, 1, 2, 3, 4, 5]
        shard.write(request("cpu", 6))
        assert numbers(engine) == list(range(9))
        shard.stop()
        assert numbers(engine) == list(range(9))


def test_a_query_waits_for_a_replay_that_ends_in_time(root: Path) -> None:
    shard = LiveShard(root)
    shard.recover()
    shard.write(request("cpu"))
    shard.die()
    shard = LiveShard(root)
    with engine_beside(root, wait_s=30.0) as engine:
        found: list[list[int]] = []
        asking = threading.Thread(target=lambda: found.append(numbers(engine)))
        asking.start()
        shard.recover()
        asking.join()
    assert found == [[0, 1, 2]]
    shard.stop()


def test_only_sockets_of_shards_that_are_no_more_are_removed(tmp_path: Path) -> None:
    names = ["fresh-000.sock", "fresh-001.sock", "fresh-002.sock", "fresh-x.sock", "query.sock"]
    for name in names:
        (tmp_path / name).touch()
    forget_shards(tmp_path, 2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [name for name in names if name != "fresh-002.sock"]


def test_more_rows_than_there_is_memory_for_are_refused_until_they_are_stored(root: Path) -> None:
    with live(root) as shard, contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)):
        shard.write(request("cpu", rows=1_000))
        tables = FreshTables(FreshClient(root / ".arc" / "run"), limit_bytes=10_000)
        with pytest.raises(OverloadedError, match="more rows that are not stored yet than"):
            tables.fetch(CPU)
        assert tables.size_bytes == 0
        shard.flush()
        assert tables.fetch(CPU).app_ids == []


# --- what is remembered ------------------------------------------------------------------------

N_SCHEMA = TableSchema({"n": ColumnSpec(ColumnType.INT64)}, 1)


class ModelShard:
    """A buffer, and a table that it is flushed into, as a pipeline does."""

    def __init__(self) -> None:
        self.buffer = MeasurementBuffer(CPU, N_SCHEMA)
        self.mark = 0
        self.written: list[int] = []
        self.stored: list[int] = []

    def write(self, rows: int) -> None:
        lsn = len(self.written) + 1
        new = list(range(len(self.written), len(self.written) + rows))
        self.buffer.append(batch({"n": ints(*new)}), lsn + rows - 1, 0.0)
        self.written += new

    def flush(self, max_bytes: int) -> None:
        if self.buffer.num_rows:
            taken = self.buffer.hand_over(max_bytes)
            self.mark = taken.last_lsn
            self.stored = list(range(len(self.written) - self.buffer.num_rows))

    def ask(
        self, table: TableId, known: Mapping[int, Known], max_bytes: int
    ) -> dict[int, ShardRows]:
        batches, lsns = self.buffer.after(known.get(0, Known()).after_lsn)
        rows = FreshRows(N_SCHEMA, batches, lsns)
        pieces = [(head, content.to_pybytes()) for head, content in fresh_rows.pieces(rows)]
        return {0: ShardRows("arc-000", 1, pieces)}


def seen(shard: ModelShard, fetched: Fetched) -> list[int]:
    """All rows, as a query sees them that takes its version now."""
    fresh = fetched.after({"arc-000": shard.mark})
    return [*shard.stored, *(n for part in fresh for n in part.rows.column("n").to_pylist())]


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 300)),
    st.tuples(st.just("flush"), st.integers(1, 20_000)),
    st.tuples(st.just("fetch"), st.just(0)),
    st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.just("forget"), st.just(0)),
)


@given(st.lists(steps, max_size=40))
def test_whatever_happens_between_question_and_version_every_row_is_seen_once(
    script: list[tuple[str, int]],
) -> None:
    shard = ModelShard()
    tables = FreshTables(shard, 2**30)
    fetched = tables.fetch(CPU)
    acknowledged = 0
    for step, number in script:
        if step == "write":
            shard.write(number)
        elif step == "flush":
            shard.flush(number)
        elif step == "fetch":
            fetched, acknowledged = tables.fetch(CPU), len(shard.written)
        elif step == "forget":
            tables.forget(CPU, {"arc-000": shard.mark})
        found = seen(shard, fetched)
        assert found == shard.written[: len(found)]
        assert len(found) >= acknowledged


def test_small_pieces_become_few_chunks(root: Path) -> None:
    shard = ModelShard()
    tables = FreshTables(shard, 2**30)
    for _ in range(500):
        shard.write(1)
        fetched = tables.fetch(CPU)
    assert sum(len(part.chunks) for part in fetched.shards) <= 12
    assert seen(shard, fetched) == list(range(500))
