"""What queries take, with rows in memory beside the files, against DuckDB on the files alone.

A shard stores 10 M rows of workload `b` in 100 files and holds 1 M more, 10 000 to a second of
their time, in requests of 1 000. The engine asks it over its socket, as in the daemon; only HTTP
is left out. DuckDB reads the same files, as a list and by glob, with as many threads, and beside
them the same 1 M rows as an Arrow table where a query needs them. It remembers the footers of
files, as Arc has it do; "as it comes" it reads them anew.

    python -m benchmarks.bench_query --repeats 15
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import structlog

from arc.fresh_server import FreshServer, fresh_socket
from arc.query.fresh_client import FreshClient
from benchmarks.data import workload_body
from benchmarks.harness import Bench, main
from ingest.arrow_writer import WriterSettings
from ingest.catalog import Catalog
from ingest.columns import ColumnBatch
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.paths import TableId
from ingest.pipeline import Pipeline, PipelineSettings
from ingest.query.binding import fresh_table, view_of
from ingest.query.engine import Engine, EngineSettings

FILES, FILE_ROWS = 100, 100_000
REQUESTS, REQUEST_ROWS = 1_000, 1_000
ROWS_PER_S = 10_000
START_US = 1_790_000_000_000_000
HEAD = RecordHead(Format.MSGPACK, "default", None, START_US, b"")
HOSTS = 1_000
CPU = TableId("default", "cpu")

STORED, FRESH = FILES * FILE_ROWS, REQUESTS * REQUEST_ROWS


def batch(base: ColumnBatch, first_row: int) -> ColumnBatch:
    """The same values, as the rows from this number on."""
    times = base.time_us - base.time_us[0]
    times = START_US + first_row * (1_000_000 // ROWS_PER_S) + times
    return ColumnBatch("cpu", times, base.columns, base.tags, base.nbytes)


def base(rows: int) -> ColumnBatch:
    """Rows of workload `b`, evenly spaced."""
    made = decode(workload_body("b", rows), 0, Limits())[0]
    made.time_us[:] = range(0, rows * (1_000_000 // ROWS_PER_S), 1_000_000 // ROWS_PER_S)
    return made


async def filled(root: Path) -> Pipeline:
    """A shard with all rows."""
    settings = PipelineSettings(
        root,
        0,
        2**32,
        0,
        WriterSettings(flush_rows=2**40, flush_age_s=3_600.0),
        Limits(),
        "memory",
    )
    pipeline = Pipeline(settings, null())
    pipeline.start()
    await pipeline.recover()
    large, small = base(FILE_ROWS), base(REQUEST_ROWS)
    for number in range(FILES):
        await _kept(pipeline, batch(large, number * FILE_ROWS))
        await pipeline._writer.drain()
    for number in range(REQUESTS):
        await _kept(pipeline, batch(small, STORED + number * REQUEST_ROWS))
    return pipeline


async def _kept(pipeline: Pipeline, rows: ColumnBatch) -> None:
    kept = pipeline.write(HEAD, b"", [rows])
    if not isinstance(kept, int):
        await kept


@contextlib.contextmanager
def shard(root: Path) -> Iterator[None]:
    """A shard on a loop of its own, which answers on its socket."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> tuple[Pipeline, FreshServer]:
        run = root / ".arc" / "run"
        run.mkdir(parents=True)
        pipeline = await filled(root)
        server = FreshServer(fresh_socket(run, 0), pipeline.fresh, structlog.get_logger())
        server.start()
        return pipeline, server

    pipeline, server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        asyncio.run_coroutine_threadsafe(pipeline.abandon(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def through(engine: Engine, sql: str) -> Callable[[], pa.Table]:
    """A query as the daemon runs it, to its last batch."""

    def run() -> pa.Table:
        with contextlib.closing(engine.query(sql, "default")) as query:
            query.start()
            batches = []
            while (found := query.next_batch()) is not None:
                batches.append(found)
            return pa.Table.from_batches(batches, query.schema)

    return run


def plain(connection: duckdb.DuckDBPyConnection, sql: str) -> Callable[[], pa.Table]:
    """A query as DuckDB runs it."""
    return lambda: connection.sql(sql).to_arrow_reader(65_536).read_all()


def forgetting(engine: Engine, sql: str) -> Callable[[], pa.Table]:
    """A query that has to fetch all rows of memory first."""

    def run() -> pa.Table:
        assert engine.fresh is not None
        engine.fresh.clear()
        return through(engine, sql)()

    return run


def benches(engine: Engine, root: Path) -> list[Bench]:
    """Each query on all rows through the engine, and by DuckDB alone on files and on all rows."""
    view = engine._take(CPU)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET threads = {engine.settings.threads}")
    connection.execute("SET parquet_metadata_cache = true")
    fresh = fresh_table(view.snapshot, [batch.rows for batch in view.fresh])
    connection.register("fresh", fresh)
    files = ", ".join(f"'{file.path}'" for file in view.snapshot.files)
    connection.execute(f"CREATE VIEW listed AS SELECT * FROM read_parquet([{files}])")
    glob = f"{root}/default/cpu/*/*/*/*/*.parquet"
    connection.execute(f"CREATE VIEW by_glob AS SELECT * FROM read_parquet('{glob}')")
    both = view_of(view.snapshot, "fresh", fresh.column_names)
    connection.execute(f"CREATE VIEW all_rows AS {both}")
    as_it_comes = duckdb.connect()
    as_it_comes.execute("SET TimeZone = 'UTC'")
    as_it_comes.execute(f"SET threads = {engine.settings.threads}")
    as_it_comes.execute(f"CREATE VIEW listed AS SELECT * FROM read_parquet([{files}])")
    last_us = START_US + (STORED + FRESH) * (1_000_000 // ROWS_PER_S)
    stored_us = last_us - 1_000_000 * (FRESH // ROWS_PER_S)
    kinds: list[tuple[str, Callable[[int], str], int]] = [
        ("last 10 s by host", lambda end: _last(end, 10_000_000), HOSTS),
        ("count(*)", lambda _: "SELECT count(*) FROM {}", 1),
        ("1 M rows to Arrow", lambda end: _range(end, 100_000_000), FRESH),
    ]
    found = []
    for name, sql, rows in kinds:
        for what, table, end_us in [
            ("DuckDB, files listed", "listed", stored_us),
            ("DuckDB, files by glob", "by_glob", stored_us),
            ("DuckDB, files and fresh", "all_rows", last_us),
        ]:
            call = plain(connection, sql(end_us).format(table))
            found.append(Bench(f"{name}: {what}", call, rows, 0, _has(rows)))
        call = plain(as_it_comes, sql(stored_us).format("listed"))
        what = "DuckDB as it comes, files listed"
        found.append(Bench(f"{name}: {what}", call, rows, 0, _has(rows)))
        call = through(engine, sql(last_us).format("cpu"))
        found.append(Bench(f"{name}: Arc, files and fresh", call, rows, 0, _has(rows)))
        call = through(engine, sql(stored_us).format("cpu"))
        found.append(Bench(f"{name}: Arc, of the stored", call, rows, 0, _has(rows)))
    call = forgetting(engine, "SELECT count(*) FROM cpu")
    found.append(Bench("fetch of 1 M fresh rows", call, FRESH, fresh.nbytes, _has(1)))
    return found


def _last(end_us: int, span_us: int) -> str:
    times = f"time >= make_timestamptz({end_us - span_us}) AND time < make_timestamptz({end_us})"
    return f"SELECT host, avg(usage_user) FROM {{}} WHERE {times} GROUP BY host"


def _range(end_us: int, span_us: int) -> str:
    times = f"time >= make_timestamptz({end_us - span_us}) AND time < make_timestamptz({end_us})"
    return f"SELECT * FROM {{}} WHERE {times}"


def _has(rows: int) -> Callable[[Any], None]:
    def check(found: pa.Table) -> None:
        # The requests of the fresh rows repeat the hosts of the first thousand: not all occur.
        few = rows // 2 < found.num_rows < rows == HOSTS
        assert few or found.num_rows == rows, f"{found.num_rows} rows, wanted {rows}"

    return check


def run() -> int:
    """Fill a data directory, then measure on it."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--threads", type=int, default=2)
    own, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        with (
            shard(root),
            contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)) as catalog,
        ):
            settings = EngineSettings(512 * 2**20, own.threads)
            source = FreshClient(root / ".arc" / "run")
            with contextlib.closing(Engine(root, catalog, settings, source)) as engine:
                return main(benches(engine, root), rest)


if __name__ == "__main__":
    raise SystemExit(run())
