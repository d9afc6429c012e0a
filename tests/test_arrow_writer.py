"""Rows that were accepted are stored, once, when they are due, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import structlog
from numpy.typing import NDArray

from ingest.arrow_writer import PRESSURE, ArrowWriter, WriterSettings
from ingest.budget import MemoryBudget
from ingest.catalog import Catalog
from ingest.clock import ManualClock
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import (
    LimitError,
    OverloadedError,
    StorageError,
    TooLargeError,
    TypeConflictError,
)
from ingest.instruments import null
from ingest.limits import Limits
from ingest.lsn import make_lsn
from ingest.paths import HOUR_US, LogRange, TableId
from ingest.schema import TableSchema
from ingest.store import LocalStore, StagedFile
from ingest.table_log import DeltaTableLog, Recovered

START_US = 1_700_000_000_000_000


def batch(
    rows: int = 3,
    measurement: str = "cpu",
    first_us: int = START_US,
    columns: dict[str, NDArray[Any]] | None = None,
) -> ColumnBatch:
    times = first_us + np.arange(rows, dtype=np.int64)
    values = columns or {"usage": np.full(rows, 1.5)}
    built = {name: column(value) for name, value in values.items()}
    return ColumnBatch(measurement, times, built, nbytes=16 * rows)


def column(values: NDArray[Any]) -> Column:
    kind = ColumnType.FLOAT64 if values.dtype == np.float64 else ColumnType.INT64
    wide = kind is ColumnType.INT64 and bool((abs(values) > 2**53).any())
    return Column(kind, values, wide=wide)


class FailingTableLog:
    """Refuses the first commits, then hands on to a real log."""

    def __init__(self, log: DeltaTableLog) -> None:
        self.log = log
        self.failures = 0
        self.commits: list[LogRange] = []

    def commit(
        self, table: TableId, files: Sequence[StagedFile], marks: LogRange, schema: TableSchema
    ) -> None:
        self.commits.append(marks)
        if self.failures:
            self.failures -= 1
            raise StorageError("no space left on device")
        self.log.commit(table, files, marks, schema)

    def committed(self, table: TableId) -> int:
        return self.log.committed(table)

    def recover(self) -> Recovered:
        return self.log.recover()


class Bench:
    """A writer over real storage, and what a test wants to look at."""

    def __init__(self, root: Path, settings: WriterSettings, budget_bytes: int = 10**6) -> None:
        self.root = root
        self.clock = ManualClock(START_US)
        self.budget = MemoryBudget(budget_bytes)
        self.store = LocalStore(root)
        self.catalog = Catalog(root / ".arc" / "catalog.db", 100, 100)
        log = structlog.get_logger()
        self.log = FailingTableLog(DeltaTableLog(self.store, "arc-000-test", 0, null(), log))
        self.requests = 0
        self.writer = ArrowWriter(
            settings,
            Limits(max_hours=4),
            0,
            self.catalog,
            self.store,
            self.log,
            self.budget,
            null(),
            self.clock,
            structlog.get_logger(),
        )

    def stored(self, measurement: str = "cpu", database: str = "default") -> int:
        folder = self.root / database / measurement
        return ds.dataset(folder).count_rows() if folder.exists() else 0

    async def write(self, database: str, batches: Sequence[ColumnBatch]) -> int:
        """Accept a request as the pipeline does: at once, or with a change of its tables."""
        accepted = self.writer.write(database, batches)
        if accepted is None:
            accepted = await self.writer.write_evolving(database, batches)
        self.requests += 1
        self.writer.keep(accepted, make_lsn(1, self.requests))
        return accepted.num_rows

    async def settle(self) -> None:
        """Start what is due and wait for it, until nothing is due any more."""
        while True:
            self.writer.start_due_flushes()
            if not self.writer.flushes:
                return
            await asyncio.wait(set(self.writer.flushes))


Make = Callable[..., Bench]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Bench] = []

    def build(budget_bytes: int = 10**6, **settings: object) -> Bench:
        bench = Bench(tmp_path, WriterSettings(**settings), budget_bytes)  # type: ignore[arg-type]
        made.append(bench)
        return bench

    yield build
    for bench in made:
        bench.writer.close()
        bench.catalog.close()


async def test_rows_are_stored_when_their_age_is_up_and_not_before(make: Make) -> None:
    bench = make(flush_age_s=5.0)
    assert await bench.write("default", [batch()]) == 3
    bench.clock.move(4.9)
    await bench.settle()
    assert bench.stored() == 0
    bench.clock.move(0.1)
    await bench.settle()
    assert bench.stored() == 3
    assert bench.budget.taken_bytes == 0


async def test_a_full_buffer_is_stored_without_waiting_for_its_age(make: Make) -> None:
    bench = make(flush_rows=6)
    await bench.write("default", [batch()])
    await bench.settle()
    assert bench.stored() == 0
    await bench.write("default", [batch()])
    await bench.settle()
    assert bench.stored() == 6


async def test_under_memory_pressure_the_largest_buffer_goes_first(make: Make) -> None:
    bench = make(budget_bytes=1_000, flush_threads=1)
    await bench.write("default", [batch(10, "small")])
    await bench.write("default", [batch(25, "large")])
    assert bench.budget.pressure > PRESSURE
    await bench.settle()
    assert (bench.stored("large"), bench.stored("small")) == (25, 0)


async def test_the_oldest_is_stored_first_and_flushes_start_early_by_what_they_take(
    make: Make,
) -> None:
    bench = make(flush_age_s=5.0, flush_threads=1)
    for measurement in ("a", "b"):
        await bench.write("default", [batch(measurement=measurement)])
        bench.clock.move(1.0)
    bench.writer.mean_flush_s = 1.0  # two of them wait: the first has to start 2 s before its time
    await bench.settle()
    assert bench.stored("a") == 0
    bench.clock.move(1.0)  # "a" is 3 s old now
    await bench.settle()
    assert (bench.stored("a"), bench.stored("b")) == (3, 0)


async def test_a_request_over_the_budget_is_refused_whole(make: Make) -> None:
    bench = make(budget_bytes=1_000)
    bench.budget.force(900)
    with pytest.raises(OverloadedError, match="ARC_MEMORY_BYTES"):
        await bench.write("default", [batch(3, "a"), batch(5, "b")])
    assert bench.budget.taken_bytes == 900
    await bench.writer.drain()
    assert not bench.stored("a")


async def test_a_request_that_never_fits_is_not_told_to_come_back(make: Make) -> None:
    bench = make(budget_bytes=1_000)
    with pytest.raises(TooLargeError, match=r"500 bytes .*ARC_MEMORY_BYTES"):
        await bench.write("default", [batch(32)])
    assert bench.budget.taken_bytes == 0


async def test_one_bad_batch_refuses_the_whole_request(make: Make) -> None:
    bench = make()
    await bench.write("default", [batch(columns={"x": np.array([1.5, 2.5, 3.5])})])
    wide = batch(columns={"x": np.array([1, 2, 2**53 + 1])})
    with pytest.raises(TypeConflictError, match=r"row 2.*9007199254740993"):
        await bench.write("default", [batch(measurement="mem"), wide])
    await bench.writer.drain()
    assert (bench.stored(), bench.stored("mem")) == (3, 0)


async def test_a_column_is_promoted_and_new_ones_appear_in_files_of_one_type(
    make: Make,
) -> None:
    bench = make()
    await bench.write("default", [batch(columns={"x": np.array([1, 2, 3])})])
    await bench.write("default", [batch(columns={"x": np.array([0.5, 1.5, 2.5]), "y": np.ones(3)})])
    await bench.writer.drain()
    table = ds.dataset(bench.root / "default" / "cpu").to_table()
    assert sorted(table["x"].to_pylist()) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert table["y"].null_count == 3


async def test_concurrent_requests_that_change_one_schema_all_get_in(make: Make) -> None:
    bench = make()
    writes = [bench.write("default", [batch(columns={f"x{i % 5}": np.ones(3)})]) for i in range(20)]
    assert await asyncio.gather(*writes) == [3] * 20
    await bench.writer.drain()
    assert bench.stored() == 60


async def test_a_refused_measurement_leaves_no_buffer_behind(make: Make) -> None:
    bench = make()
    for name in ("a\x00", "x" * 129):
        with pytest.raises(Exception, match="measurement"):
            await bench.write("default", [batch(measurement=name)])
    assert bench.writer.num_buffers == 0


async def test_a_refused_first_request_does_not_take_those_behind_it_along(make: Make) -> None:
    bench = make()
    # Another shard has made the table already, so that the refusal comes from the catalog.
    wide = batch(columns={"x": np.full(3, 2**53 + 1)})
    bench.catalog.evolve(TableId("default", "cpu"), [wide])
    bad = batch(columns={"x": np.full(3, 0.5)})
    answers = await asyncio.gather(
        *(bench.write("default", [one]) for one in (bad, wide, bad, bad, wide)),
        return_exceptions=True,
    )
    refused = TypeConflictError
    assert [type(answer) for answer in answers] == [refused, int, refused, refused, int]
    await bench.writer.drain()
    assert bench.stored() == 6


async def test_rows_of_too_many_hours_are_refused(make: Make) -> None:
    bench = make()
    times = START_US + HOUR_US * np.arange(5, dtype=np.int64)
    with pytest.raises(LimitError, match="5, over the limit of 4"):
        await bench.write("default", [ColumnBatch("cpu", times, {}, nbytes=1)])
    far_apart = ColumnBatch("cpu", times[[0, 4]], {}, nbytes=1)
    assert await bench.write("default", [far_apart]) == 2


async def test_a_flush_that_fails_is_tried_again_until_it_is_stored(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.arrow_writer.RETRY_FIRST_S", 0.0)
    bench = make()
    bench.log.failures = 3
    await bench.write("default", [batch()])
    await bench.writer.drain()
    assert len(bench.log.commits) == 4
    assert len(set(bench.log.commits)) == 1
    assert bench.stored() == 3
    assert bench.budget.taken_bytes == 0
    assert not list(bench.root.glob("**/*.tmp"))


async def test_a_table_that_cannot_be_stored_does_not_hold_up_the_others(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.arrow_writer.RETRY_FIRST_S", 3_600.0)
    bench = make(flush_threads=1, flush_rows=1)
    bench.log.failures = 1
    await bench.write("default", [batch(measurement="bad")])
    bench.writer.start_due_flushes()
    while not bench.log.commits:
        await asyncio.sleep(0)
    await bench.write("default", [batch(measurement="good")])
    while bench.stored("good") < 3:
        bench.writer.start_due_flushes()
        await asyncio.sleep(0)
    assert bench.stored("bad") == 0
    for task in bench.writer.flushes:
        task.cancel()
    await asyncio.wait(set(bench.writer.flushes))


async def test_files_of_one_table_are_committed_in_the_order_of_their_rows(make: Make) -> None:
    bench = make(flush_rows=1, flush_threads=4)
    for _ in range(20):
        await bench.write("default", [batch()])
        bench.writer.start_due_flushes()
        await asyncio.sleep(0)
    await bench.writer.drain()
    ranges = [(marks.first_seq, marks.last_seq) for marks in bench.log.commits]
    assert ranges == sorted(ranges)
    assert ranges[0][0] == 1
    assert all(b[0] == a[1] + 1 for a, b in pairwise(ranges))
    assert bench.stored() == 60


async def test_the_flush_task_wakes_up_for_a_full_buffer(make: Make) -> None:
    bench = make(flush_rows=3)
    task = asyncio.create_task(bench.writer.run())
    await bench.write("default", [batch()])
    while bench.stored() < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_flush_task_stores_by_age_after_it_slept_on_empty_buffers(make: Make) -> None:
    bench = make(flush_age_s=0.01)
    bench.clock.move(1.0)
    task = asyncio.create_task(bench.writer.run())
    for _ in range(3):
        await asyncio.sleep(0)  # nothing waits: the task sleeps
        await bench.write("default", [batch()])
        stored = bench.stored()
        bench.clock.move(0.01)
        while bench.stored() == stored:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_batch_over_two_hours_becomes_a_file_in_each(make: Make) -> None:
    bench = make()
    hour = START_US // HOUR_US * HOUR_US
    await bench.write("default", [batch(4, first_us=hour - 2)])
    await bench.writer.drain()
    files = sorted(path.relative_to(bench.root) for path in bench.root.glob("*/*/*/*/*/*/*"))
    assert [path.parts[2:6] for path in files] == [
        ("2023", "11", "14", "21"),
        ("2023", "11", "14", "22"),
    ]
    assert {path.name for path in files} == {"s000-e000001-000000000001-000000000001.parquet"}
