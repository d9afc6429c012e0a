"""Tables that the real pipeline wrote, and what reads them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest

from ingest.arrow_writer import WriterSettings
from ingest.catalog import Catalog
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.pipeline import Pipeline, PipelineSettings
from ingest.query.engine import Engine, EngineSettings, Query

START_US = 1_790_000_000_000_000
SETTINGS = EngineSettings(memory_bytes=64 * 2**20, threads=2)


def write(root: Path, *requests: dict[str, Any], database: str = "default") -> None:
    """Store requests, each as a flush of its own."""
    for request in requests:
        asyncio.run(_write(root, request, database))


async def _write(root: Path, request: dict[str, Any], database: str) -> None:
    settings = PipelineSettings(
        data_dir=root,
        shard=0,
        memory_bytes=64 * 2**20,
        min_free_disk_bytes=0,
        writer=WriterSettings(flush_age_s=3_600.0),
        limits=Limits(),
        log_segment_bytes=64 * 2**10,
    )
    pipeline = Pipeline(settings, null())
    pipeline.start()
    await pipeline.recover()
    content = ormsgpack.packb(request)
    stored = pipeline.write(
        RecordHead(Format.MSGPACK, database, None, START_US, b""),
        content,
        decode(content, START_US, Limits(), None),
        b"",
    )
    if not isinstance(stored, int):
        await stored
    await pipeline.drain()
    pipeline.close()


def request(measurement: str, first: int = 0, rows: int = 3, **columns: Any) -> dict[str, Any]:
    """Rows numbered from `first`, a second apart."""
    numbers = list(range(first, first + rows))
    times = [START_US + number * 1_000_000 for number in numbers]
    return {"m": measurement, "columns": {"time": times, "n": numbers} | columns}


@contextlib.contextmanager
def engine_on(root: Path, settings: EngineSettings = SETTINGS) -> Iterator[Engine]:
    """An engine over a data directory."""
    with contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)) as catalog:
        engine = Engine(root, catalog, settings)
        try:
            yield engine
        finally:
            engine.close()


def rows_of(query: Query) -> list[tuple[Any, ...]]:
    """Everything that a query has, as Python's values; the query is closed."""
    with contextlib.closing(query):
        query.start()
        found: list[tuple[Any, ...]] = []
        while (batch := query.next_batch()) is not None:
            found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return found


Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="package")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that the tests only read."""
    root = tmp_path_factory.mktemp("stored") / "data"
    write(root, request("cpu", host=["a", "b", None]), request("cpu", 3, 2))
    write(root, request("disk/io"), request("win.cpu"), request("cpu_total"))
    write(root, request("cpu", 100, 1), request("Mixed"), database="prod")
    return root


@pytest.fixture(scope="package")
def engine(stored: Path) -> Iterator[Engine]:
    with engine_on(stored) as made:
        yield made


@pytest.fixture
def ask(engine: Engine) -> Ask:
    """Rows of a query on the common engine."""

    def run(sql: str, database: str = "default") -> list[tuple[Any, ...]]:
        return rows_of(engine.query(sql, database))

    return run
