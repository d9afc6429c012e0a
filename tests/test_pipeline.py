"""What was accepted is stored once, however the process ends and whoever comes after it."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import ormsgpack
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from ingest.arrow_writer import WriterSettings
from ingest.clock import ManualClock
from ingest.columns import ColumnBatch
from ingest.errors import KeyReusedError, OverloadedError, ReplayingError, StorageError
from ingest.idempotency import body_digest
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_calls import LogCalls
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.pipeline import Pipeline, PipelineSettings

START_US = 1_700_000_000_000_000
NEVER = WriterSettings(flush_age_s=3_600.0)
AT_ONCE = WriterSettings(flush_rows=1)


def body(first: int, rows: int = 3, /, measurement: str = "cpu", **columns: Any) -> bytes:
    """A request whose rows are numbered from `first`."""
    numbers = list(range(first, first + rows))
    times = {"time": [START_US + number for number in numbers]}
    return ormsgpack.packb({"m": measurement, "columns": times | {"n": numbers} | columns})


def refuses(pipeline: Pipeline) -> bool:
    return pipeline.refusal is not None


class Bench:
    """Lives of one data directory, one after another."""

    def __init__(self, root: Path, clock: ManualClock) -> None:
        self.root = root
        self.clock = clock
        self.settings = PipelineSettings(
            data_dir=root,
            shard=0,
            memory_bytes=64 * 2**20,
            min_free_disk_bytes=0,
            writer=NEVER,
            limits=Limits(),
            log_segment_bytes=64 * 2**10,
        )
        self.alive: list[Pipeline] = []

    async def open(self, log_calls: LogCalls | None = None, **changes: Any) -> Pipeline:
        settings = msgspec.structs.replace(self.settings, **changes)
        pipeline = Pipeline(settings, null(), self.clock, log_calls=log_calls)
        self.alive.append(pipeline)
        pipeline.start()
        return pipeline

    async def start(self, **changes: Any) -> Pipeline:
        pipeline = await self.open(**changes)
        await pipeline.recover()
        return pipeline

    async def write(self, pipeline: Pipeline, content: bytes, key: bytes = b"") -> int:
        arrival_us = self.clock.now_us()
        batches: list[ColumnBatch] = decode(content, arrival_us, Limits(), None)
        head = RecordHead(Format.MSGPACK, "default", None, arrival_us, key)
        digest = body_digest("default", None, content) if key else b""
        if key and not pipeline.keys.begin(key, digest):
            return 0
        stored = pipeline.write(head, content, batches, digest)
        return stored if isinstance(stored, int) else await stored

    async def crash(self, pipeline: Pipeline) -> None:
        """What `kill -9` leaves: nothing is flushed, and the locks are free."""
        self.alive.remove(pipeline)
        await pipeline.abandon()

    async def stop(self, pipeline: Pipeline) -> None:
        self.alive.remove(pipeline)
        await pipeline.drain()
        pipeline.close()

    def numbers(self, measurement: str = "cpu") -> list[int]:
        """The rows that are stored, from the files, which must be those of the table."""
        folder = self.root / "default" / measurement
        files = sorted(folder.glob("*/*/*/*/*.parquet"))
        if not (folder / "_delta_log").exists():
            assert not files
            return []
        table = DeltaTable(folder)
        assert sorted(table.file_uris()) == sorted(map(str, files))
        found = [n for path in files for n in pq.read_table(path)["n"].to_pylist()]
        return sorted(found)

    def log_files(self, shard: int = 0) -> list[Path]:
        return sorted((self.root / ".arc" / "shards" / f"{shard:03d}" / "log").glob("*.log"))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, ManualClock(START_US))
    yield made
    for pipeline in made.alive:
        await pipeline.abandon()


@pytest.mark.parametrize("level", ["page", "disk"])
async def test_rows_that_no_file_held_are_back_after_a_crash(bench: Bench, level: str) -> None:
    first = await bench.start(durability=level)
    for number in range(0, 30, 3):
        assert await bench.write(first, body(number)) == 3
    await bench.crash(first)
    assert bench.numbers() == []
    second = await bench.start(durability=level)
    await bench.stop(second)
    assert bench.numbers() == list(range(30))


async def test_a_crash_after_some_flushes_stores_nothing_twice(bench: Bench) -> None:
    number = 0
    for _ in range(4):
        pipeline = await bench.start(writer=WriterSettings(flush_rows=10))
        for _ in range(7):
            await bench.write(pipeline, body(number) + body(number, measurement="mem"))
            number += 3
            await asyncio.sleep(0)
        await bench.crash(pipeline)
    await bench.stop(await bench.start())
    assert bench.numbers() == list(range(number))
    assert bench.numbers("mem") == list(range(number))


async def test_requests_of_many_clients_at_once_are_all_kept_in_one_order(bench: Bench) -> None:
    pipeline = await bench.start()
    await asyncio.gather(*(bench.write(pipeline, body(number)) for number in range(0, 300, 3)))
    await bench.crash(pipeline)
    await bench.stop(await bench.start())
    assert bench.numbers() == list(range(300))


async def test_rows_without_a_time_keep_that_of_their_arrival(bench: Bench) -> None:
    pipeline = await bench.start()
    await bench.write(pipeline, ormsgpack.packb({"m": "cpu", "columns": {"n": [1, 2]}}))
    await bench.crash(pipeline)
    bench.clock.move(7_200.0)
    await bench.stop(await bench.start())
    (path,) = (bench.root / "default" / "cpu").glob("*/*/*/*/*.parquet")
    times = pq.read_table(path)["time"].cast("int64").to_pylist()
    assert times == [START_US, START_US]


async def test_the_log_goes_once_its_rows_are_stored(bench: Bench) -> None:
    pipeline = await bench.start(writer=AT_ONCE)
    columns: dict[str, Any] = {"text": ["x" * 1_000] * 50}
    for number in range(0, 500, 50):
        await bench.write(pipeline, body(number, 50, **columns))
    assert len(bench.log_files()) > 1
    await bench.stop(pipeline)
    assert bench.log_files() == []
    assert bench.numbers() == list(range(500))


async def test_a_log_longer_than_the_memory_budget_is_replayed(bench: Bench) -> None:
    pipeline = await bench.start()
    for number in range(0, 60_000, 1_000):
        await bench.write(pipeline, body(number, 1_000))
    await bench.crash(pipeline)
    await bench.stop(await bench.start(memory_bytes=2**20))
    assert bench.numbers() == list(range(60_000))


async def test_a_crash_in_the_middle_of_a_replay_is_a_crash_like_any_other(bench: Bench) -> None:
    pipeline = await bench.start()
    for number in range(0, 6_000, 100):
        await bench.write(pipeline, body(number, 100))
    await bench.crash(pipeline)
    for _ in range(3):
        replaying = await bench.open(memory_bytes=2**20, writer=WriterSettings(flush_rows=500))
        task = asyncio.create_task(replaying.recover())
        while not (bench.root / "default").exists() and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await bench.crash(replaying)
    await bench.stop(await bench.start())
    assert bench.numbers() == list(range(6_000))


async def test_nothing_is_admitted_before_the_replay_is_over(bench: Bench) -> None:
    pipeline = await bench.open()
    with pytest.raises(ReplayingError, match="replaying"):
        pipeline.admit(1)
    await pipeline.recover()
    pipeline.admit(1)
    assert pipeline.refusal is None


async def test_the_logs_of_shards_that_are_no_more_are_stored_by_those_that_are(
    bench: Bench,
) -> None:
    for shard in range(4):
        pipeline = await bench.start(shard=shard, num_shards=4)
        await bench.write(pipeline, body(100 * shard))
        await bench.crash(pipeline)
    await bench.stop(await bench.start(shard=0, num_shards=2))
    assert bench.numbers() == [0, 1, 2, 200, 201, 202]
    assert bench.log_files(2) == []  # nor a spare one
    assert len(bench.log_files(3)) > 0
    await bench.stop(await bench.start(shard=1, num_shards=2))
    assert bench.numbers() == [n for shard in range(4) for n in range(100 * shard, 100 * shard + 3)]


async def test_the_level_of_memory_stores_what_an_earlier_level_had_logged(bench: Bench) -> None:
    pipeline = await bench.start()
    await bench.write(pipeline, body(0))
    await bench.crash(pipeline)
    memory = await bench.start(durability="memory")
    assert bench.numbers() == [0, 1, 2]
    assert bench.log_files() == []
    assert await bench.write(memory, body(3)) == 3
    await bench.stop(memory)
    assert bench.numbers() == list(range(6))


async def test_a_shard_whose_folder_was_deleted_is_another_shard(bench: Bench) -> None:
    pipeline = await bench.start()
    for number in range(0, 9, 3):
        await bench.write(pipeline, body(number))
    await bench.stop(pipeline)
    for path in sorted((bench.root / ".arc").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    pipeline = await bench.start()
    await bench.write(pipeline, body(9, measurement="cpu", host=["a", "b", "c"]))
    await bench.stop(pipeline)
    assert bench.numbers() == list(range(12))


async def test_a_request_that_no_table_takes_is_set_aside_and_counted(bench: Bench) -> None:
    pipeline = await bench.start()
    await bench.write(pipeline, body(0))
    await bench.write(pipeline, body(3))
    await bench.crash(pipeline)
    (bench.root / ".arc" / "catalog.db").unlink()
    other = await bench.start(shard=1, num_shards=2, durability="memory")
    await bench.write(other, ormsgpack.packb({"m": "cpu", "columns": {"n": ["text"]}}))
    await bench.crash(other)
    second = await bench.open()
    recovered = await second.recover()
    assert (recovered.rows, recovered.rows_quarantined) == (0, 6)
    kept = sorted((bench.root / ".arc" / "shards" / "000" / "aside").glob("request-*.body"))
    assert [path.read_bytes() for path in kept] == [body(0), body(3)]


async def test_a_key_is_known_after_a_crash(bench: Bench) -> None:
    pipeline = await bench.start()
    assert await bench.write(pipeline, body(0), b"k") == 3
    await bench.crash(pipeline)
    (bench.root / ".arc" / "run" / "keys.db").unlink()  # as a power cut would leave it
    second = await bench.start()
    assert await bench.write(second, body(0), b"k") == 0
    with pytest.raises(KeyReusedError):
        await bench.write(second, body(3), b"k")
    await bench.stop(second)
    assert bench.numbers() == [0, 1, 2]


async def test_a_key_is_known_after_its_part_of_the_log_is_gone(bench: Bench) -> None:
    pipeline = await bench.start()
    assert await bench.write(pipeline, body(0), b"k") == 3
    await bench.stop(pipeline)
    assert bench.log_files() == []
    (bench.root / ".arc" / "run" / "keys.db").unlink()
    second = await bench.start()
    assert await bench.write(second, body(0), b"k") == 0
    await bench.stop(second)
    bench.clock.move(601.0)
    (bench.root / ".arc" / "run" / "keys.db").unlink()
    third = await bench.start()
    assert await bench.write(third, body(3), b"k") == 3
    await bench.stop(third)
    assert bench.numbers() == list(range(6))


async def test_a_key_that_cannot_be_marked_is_answered_and_marked_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = await bench.start(durability="memory")
    batches = decode(body(0), START_US, Limits(), None)
    head = RecordHead(Format.MSGPACK, "default", None, START_US, b"k")
    digest = body_digest("default", None, body(0))
    assert pipeline.keys.begin(b"k", digest)
    blocker = sqlite3.connect(bench.root / ".arc" / "run" / "keys.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(pipeline.keys, "_busy_timeout_s", 0.01)
    stored = pipeline.write(head, body(0), batches, digest)
    assert (stored if isinstance(stored, int) else await stored) == 3
    with pytest.raises(StorageError, match="locked"):
        pipeline.keys.begin(b"k", digest)
    blocker.close()
    assert not pipeline.keys.begin(b"k", digest)


async def test_a_log_over_its_bound_has_its_oldest_rows_flushed(bench: Bench) -> None:
    pipeline = await bench.start(log_bytes=200_000)
    await bench.write(pipeline, body(0, measurement="slow"))
    columns: dict[str, Any] = {"text": ["x" * 1_000] * 50}
    number = 0
    while not refuses(pipeline):
        await bench.write(pipeline, body(number, 50, **columns))
        number += 50
        pipeline.check_disk()
    with pytest.raises(OverloadedError, match="ARC_LOG_BYTES"):
        pipeline.admit(0)
    slow = bench.root / "default" / "slow" / "_delta_log" / f"{0:020}.json"
    while not slow.exists() or refuses(pipeline):
        pipeline.check_disk()
        await asyncio.sleep(0.001)
    pipeline.admit(0)
    await bench.crash(pipeline)
    assert bench.numbers("slow") == [0, 1, 2]


class RefusingCalls(LogCalls):
    """A disk that fails to sync as often as it is told."""

    failures = 0

    def fdatasync(self, descriptor: int) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(descriptor)


async def test_a_refused_group_is_neither_stored_nor_takes_memory(bench: Bench) -> None:
    calls = RefusingCalls()
    pipeline = await bench.open(log_calls=calls)
    await pipeline.recover()
    await bench.write(pipeline, body(0))
    taken_bytes = pipeline.budget.taken_bytes
    calls.failures = 1
    with pytest.raises(StorageError, match="Input/output error"):
        await bench.write(pipeline, body(3))
    assert pipeline.budget.taken_bytes == taken_bytes
    assert await bench.write(pipeline, body(6)) == 3
    await bench.crash(pipeline)
    await bench.stop(await bench.start())
    assert bench.numbers() == [0, 1, 2, 6, 7, 8]
