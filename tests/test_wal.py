"""Everyone is answered once, in order, after the log holds the request, and only then."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from ingest import wal
from ingest.errors import ReadOnlyError, StorageError
from ingest.instruments import PipelineInstruments, null
from ingest.log_calls import LogCalls
from ingest.log_format import Record
from ingest.log_reader import LogReader
from ingest.lsn import make_lsn
from ingest.wal import Wal, WalSettings
from tests.support.log_faults import FaultyCalls, head, nth, read_all

EPOCH = 4
SETTINGS = WalSettings(sync=True, segment_bytes=64 << 10, spare_segments=2)


class Amount:
    """A counter, a gauge and a histogram that can be read."""

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, n: int = 1) -> None:
        self.value += n

    def set(self, value: int) -> None:
        self.value = value

    def add(self, n: int) -> None:
        self.value += n

    def observe(self, _seconds: float) -> None:
        self.value += 1


def amounts() -> PipelineInstruments:
    names = [field.name for field in dataclasses.fields(PipelineInstruments)]
    return PipelineInstruments(**{name: Amount() for name in names})


def value(instrument: Any) -> float:
    assert isinstance(instrument, Amount)
    return instrument.value


class Client:
    """Appends and remembers every answer."""

    def __init__(self, log: Wal) -> None:
        self.log = log
        self.sent: list[bytes] = []
        self.answers: list[tuple[bytes, int, StorageError | None]] = []
        self.changed = asyncio.Event()

    def send(self, body: bytes) -> None:
        def done(lsn: int, error: StorageError | None) -> None:
            self.answers.append((body, lsn, error))
            self.changed.set()

        self.log.append(head(len(self.sent)), body, done)
        self.sent.append(body)

    async def answered(self) -> None:
        """Wait until everything sent so far has its answer."""
        while len(self.answers) < len(self.sent):
            self.changed.clear()
            await self.changed.wait()

    @property
    def kept(self) -> list[tuple[bytes, int]]:
        return [(body, lsn) for body, lsn, error in self.answers if error is None]


def facts(records: list[Record]) -> list[tuple[bytes, int]]:
    return [(record.body, record.lsn) for record in records]


def make(
    folder: Path,
    calls: LogCalls | None = None,
    settings: WalSettings = SETTINGS,
    instruments: PipelineInstruments | None = None,
    before_retire: Callable[[int], None] | None = None,
) -> tuple[Wal, LogCapture]:
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[capture])
    made = Wal(folder, EPOCH, settings, instruments or null(), log, calls, before_retire)
    return made, capture


@asynccontextmanager
async def running(log: Wal) -> AsyncIterator[Client]:
    """A started log, which is closed at the end; no thread of it is left."""
    log.start()
    yield Client(log)
    await log.close()
    assert "log" not in [thread.name for thread in threading.enumerate()]


def events(capture: LogCapture) -> list[str]:
    return [entry["event"] for entry in capture.entries]


def bodies(count: int, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(2000)) for _ in range(count)]


async def writable(log: Wal) -> None:
    """Wait for the end of read-only, which the log's own probe brings."""
    while log.refusal is not None:
        await asyncio.sleep(0.005)


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "PROBE_S", 0.01)


@pytest.mark.parametrize("sync", [True, False])
async def test_requests_are_answered_in_order_and_are_in_the_log(
    tmp_path: Path, sync: bool
) -> None:
    log, _ = make(tmp_path, settings=WalSettings(sync, 64 << 10))
    async with running(log) as client:
        assert log.last_lsn == make_lsn(EPOCH, 0)
        for i, body in enumerate(bodies(300)):
            client.send(body)
            if i % 11 == 0:
                await asyncio.sleep(0)
        await client.answered()
        assert client.kept == [(body, make_lsn(EPOCH, i + 1)) for i, body in enumerate(client.sent)]
        assert facts(read_all(tmp_path)) == client.kept
        assert log.last_lsn == make_lsn(EPOCH, 300)
        assert (log.num_segments, log.num_bytes) == usage(tmp_path)
    assert facts(read_all(tmp_path)) == client.kept


def usage(folder: Path) -> tuple[int, int]:
    reader = LogReader(folder)
    infos = [reader.scan(path) for path in reader.segments]
    return len(infos), sum(info.record_bytes for info in infos)


async def test_an_answer_comes_after_the_sync_and_never_from_within_append(
    tmp_path: Path,
) -> None:
    calls = FaultyCalls()
    log, _ = make(tmp_path, calls)
    async with running(log) as client:
        calls.names.clear()
        client.send(b"x")
        assert client.answers == []
        assert calls.names == []
        await client.answered()
        assert calls.names[:2] == ["pwritev", "fdatasync"]


class Gate(LogCalls):
    """The real calls; a sync waits for leave, and fails on a dead disk, as does a new file."""

    def __init__(self) -> None:
        self.writes: list[int] = []
        self.syncing = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)
        self.closed = False
        self.dead = False

    def _check(self) -> None:
        if self.dead:
            raise OSError(errno.EIO, "dead")

    def create(self, path: Path) -> int:
        self._check()
        return super().create(path)

    def pwritev(self, descriptor: int, buffers: Any, offset: int) -> int:
        self.writes.append(len(buffers))
        return super().pwritev(descriptor, buffers, offset)

    def fdatasync(self, descriptor: int) -> None:
        if self.closed:
            self.syncing.release()
            self.leave.acquire()
        self._check()
        super().fdatasync(descriptor)


async def test_what_arrives_during_a_sync_is_the_next_group(tmp_path: Path) -> None:
    gate = Gate()
    log, _ = make(tmp_path, gate)
    async with running(log) as client:
        gate.closed = True
        gate.writes.clear()
        client.send(b"first")
        client.send(b"of the same turn")
        await asyncio.to_thread(gate.syncing.acquire)
        for body in bodies(50):
            client.send(body)
            await asyncio.sleep(0)
        assert gate.writes == [5]
        assert client.answers == []
        gate.leave.release()
        await asyncio.to_thread(gate.syncing.acquire)
        assert len(client.answers) == 2
        gate.leave.release()
        await client.answered()
        gate.closed = False
        assert gate.writes == [5, 101]


async def test_a_group_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "MAX_GROUP_BYTES", 1000)
    made = amounts()
    log, _ = make(tmp_path, instruments=made)
    async with running(log) as client:
        for size in (400, 600, 1, 5000, 999, 1, 1):
            client.send(bytes(size))
        await client.answered()
    assert value(made.log_groups) == 5
    assert facts(read_all(tmp_path)) == client.kept


async def test_a_failed_group_is_refused_whole_and_the_next_one_gets_its_numbers(
    tmp_path: Path,
) -> None:
    for call in ("pwritev", "fdatasync"):
        calls, made = FaultyCalls(), amounts()
        log, capture = make(tmp_path / call, calls, instruments=made)
        async with running(log) as client:
            for body in bodies(10):
                client.send(body)
            await client.answered()
            calls.refuse = nth(call, calls.counts[call] + 1, code=errno.EIO)
            for body in bodies(10, 1):
                client.send(body)
            await client.answered()
            refused = [error for _, lsn, error in client.answers[10:] if lsn == 0]
            assert [type(error) for error in refused] == [StorageError] * 10
            assert "Input/output error (EIO)" in str(refused[0])
            assert log.refusal is None
            for body in bodies(10, 2):
                client.send(body)
            await client.answered()
            assert [lsn for _, lsn in client.kept] == [make_lsn(EPOCH, i) for i in range(1, 21)]
        assert facts(read_all(tmp_path / call)) == client.kept
        assert events(capture) == ["log_failed"]
        assert value(made.log_failures) == 1
        assert value(made.log_records) == 20
        assert value(made.log_read_only) == 0


async def test_a_log_that_cannot_go_on_is_read_only_until_it_can(
    tmp_path: Path, quick_probe: None
) -> None:
    calls, made = FaultyCalls(), amounts()
    log, capture = make(tmp_path, calls, instruments=made)
    async with running(log) as client:
        client.send(b"before")
        await client.answered()
        calls.refuse = lambda name, count: errno.EIO if name == "fdatasync" else 0
        client.send(b"refused")
        await client.answered()
        assert [error is None for _, _, error in client.answers] == [True, False]
        assert log.refusal is not None
        assert log.refusal.endswith("000000000002.log: Input/output error (EIO)")
        assert value(made.log_read_only) == 1
        with pytest.raises(ReadOnlyError, match="EIO"):
            client.send(b"at once")
        probes = calls.counts["fdatasync"] + 3
        while calls.counts["fdatasync"] < probes:
            await asyncio.sleep(0.005)
        assert log.refusal is not None
        calls.refuse = lambda name, count: 0
        await writable(log)
        assert value(made.log_read_only) == 0
        client.send(b"after")
        await client.answered()
        assert [lsn for _, lsn in client.kept] == [make_lsn(EPOCH, 1), make_lsn(EPOCH, 2)]
    assert facts(read_all(tmp_path)) == client.kept
    assert events(capture) == ["log_failed", "log_read_only", "log_writable"]


async def test_who_waits_while_the_log_turns_read_only_is_told(
    tmp_path: Path, quick_probe: None
) -> None:
    gate = Gate()
    log, _ = make(tmp_path, gate)
    async with running(log) as client:
        gate.closed = True
        client.send(b"in the group")
        await asyncio.to_thread(gate.syncing.acquire)
        client.send(b"behind it")

        gate.dead = True
        gate.leave.release()
        await client.answered()
        assert log.refusal is not None
    assert [type(error) for _, _, error in client.answers] == [StorageError, ReadOnlyError]
    assert read_all(tmp_path) == []


async def test_a_log_that_cannot_be_opened_at_the_start_opens_later(
    tmp_path: Path, quick_probe: None
) -> None:
    calls = FaultyCalls(lambda name, count: errno.ENOSPC if name == "fallocate" else 0)
    log, capture = make(tmp_path, calls)
    async with running(log) as client:
        assert "No space left on device (ENOSPC)" in str(log.refusal)
        with pytest.raises(ReadOnlyError, match="ENOSPC"):
            client.send(b"x")
        calls.refuse = lambda name, count: 0
        await writable(log)
        client.send(b"y")
        await client.answered()
    assert [record.body for record in read_all(tmp_path)] == [b"y"]
    assert events(capture) == ["log_read_only", "log_writable"]


async def test_random_refusals_never_change_what_was_answered(
    tmp_path: Path, quick_probe: None
) -> None:
    for seed in range(12):
        rng, calls = random.Random(seed), FaultyCalls()
        log, _ = make(tmp_path / str(seed), calls)
        async with running(log) as client:
            calls.refuse = lambda name, count, rng=rng: (  # type: ignore[misc]
                rng.choice((errno.EIO, errno.ENOSPC))
                if name != "truncate" and rng.random() < 0.06
                else 0
            )
            for body in bodies(200, seed):
                try:
                    client.send(body)
                except ReadOnlyError:
                    await writable(log)
                if rng.random() < 0.2:
                    await client.answered()
            await client.answered()
            calls.refuse = lambda name, count: 0
            await writable(log)
            assert [lsn for _, lsn in client.kept] == [
                make_lsn(EPOCH, i + 1) for i in range(len(client.kept))
            ]
        assert facts(read_all(tmp_path / str(seed))) == client.kept
        assert len(client.kept) > 20


async def test_trimmed_segments_go_and_their_keys_are_kept_before(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    made = amounts()
    log, _ = make(
        tmp_path,
        instruments=made,
        before_retire=lambda lsn: told.append((lsn, threading.current_thread().name)),
    )
    async with running(log) as client:
        for body in bodies(200):
            client.send(body)
        await client.answered()
        reader = LogReader(tmp_path)
        infos = [reader.scan(path) for path in reader.segments]
        assert len(infos) > 3
        log.trim(infos[1].last_lsn + 1)
        client.send(b"after")  # its answer comes after the trim
        await client.answered()
        assert told == [(info.last_lsn, "log") for info in infos[:2]]
        assert (log.num_segments, log.num_bytes) == usage(tmp_path)
        assert (value(made.log_segments), value(made.log_bytes)) == usage(tmp_path)
        assert LogReader(tmp_path).segments == [info.path for info in infos[2:]]
    assert len(read_all(tmp_path)) == 201 - infos[0].num_records - infos[1].num_records


async def test_a_segment_whose_keys_cannot_be_kept_stays(tmp_path: Path) -> None:
    def refuse(_lsn: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    log, capture = make(tmp_path, before_retire=refuse)
    async with running(log) as client:
        for body in bodies(100):
            client.send(body)
        await client.answered()
        log.trim(log.last_lsn + 1)
        client.send(b"after")
        await client.answered()
    assert facts(read_all(tmp_path)) == client.kept
    assert set(events(capture)) == {"log_segment_kept"}


async def test_what_replay_found_is_trimmed_like_our_own(tmp_path: Path) -> None:
    first, _ = make(tmp_path)
    async with running(first) as client:
        for body in bodies(100):
            client.send(body)
        await client.answered()
    reader = LogReader(tmp_path)
    second = Wal(tmp_path, EPOCH + 1, SETTINGS, null(), structlog.get_logger(), before_retire=None)
    second.adopt([reader.scan(path) for path in reader.segments])
    assert second.num_segments == len(reader.segments)
    async with running(second) as client:
        client.send(b"new")
        await client.answered()
        assert client.answers[0][1] == make_lsn(EPOCH + 1, 1)
        second.trim(make_lsn(EPOCH + 1, 1))
    assert [record.body for record in read_all(tmp_path)] == [b"new"]


async def test_a_log_closed_with_everything_stored_leaves_no_file(tmp_path: Path) -> None:
    log, _ = make(tmp_path)
    async with running(log) as client:
        for body in bodies(100):
            client.send(body)
        await client.answered()
        log.trim(log.last_lsn + 1)
    assert list(tmp_path.iterdir()) == []
    assert (log.num_segments, log.num_bytes) == (0, 0)


async def test_close_writes_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    log, _ = make(tmp_path)
    async with running(log) as client:
        for body in bodies(20):
            client.send(body)
        closing = asyncio.ensure_future(log.close())
        await asyncio.sleep(0)
        with pytest.raises(ReadOnlyError, match="closed"):
            client.send(b"late")
        await closing
        assert len(client.kept) == 20
        assert facts(read_all(tmp_path)) == client.kept
        await log.close()


async def test_a_log_that_was_never_started_takes_nothing_and_closes(tmp_path: Path) -> None:
    log, _ = make(tmp_path / "log")
    with pytest.raises(ReadOnlyError, match="not open yet"):
        log.append(head(), b"", lambda lsn, error: None)
    await log.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_read_only_log_closes_and_asks_no_more(tmp_path: Path) -> None:
    calls = FaultyCalls(lambda name, count: errno.EROFS if name == "create" else 0)
    log, _ = make(tmp_path, calls)
    async with running(log):
        assert "EROFS" in str(log.refusal)
    assert list(tmp_path.iterdir()) == []


async def test_an_answer_that_raises_keeps_none_from_theirs(tmp_path: Path) -> None:
    log, capture = make(tmp_path)

    def bad(_lsn: int, _error: StorageError | None) -> None:
        raise RuntimeError("a defect")

    async with running(log) as client:
        log.append(head(), b"bad", bad)
        client.send(b"good")
        await client.answered()
        assert client.kept == [(b"good", make_lsn(EPOCH, 2))]
    assert events(capture) == ["log_answer_failed"]


async def test_a_key_that_is_too_long_is_refused_before_it_can_hurt_others(tmp_path: Path) -> None:
    log, _ = make(tmp_path)
    async with running(log) as client:
        with pytest.raises(ValueError, match="65 bytes"):
            log.append(head(key=b"k" * 65), b"", lambda lsn, error: None)
        client.send(b"good")
        await client.answered()
        assert len(client.kept) == 1


async def test_a_defect_in_the_thread_refuses_the_group_and_the_log_goes_on(
    tmp_path: Path,
) -> None:
    log, _ = make(tmp_path)
    async with running(log) as client:
        client.send("not bytes")  # type: ignore[arg-type]
        await client.answered()
        assert "BUG" in str(client.answers[0][2])
        client.send(b"good")
        await client.answered()
        assert client.kept == [(b"good", make_lsn(EPOCH, 1))]
    assert facts(read_all(tmp_path)) == client.kept


async def test_bodies_are_let_go_once_they_are_answered(tmp_path: Path) -> None:
    class Body(bytes):
        alive = 0

        def __init__(self, *_: object) -> None:
            Body.alive += 1

        def __del__(self) -> None:
            Body.alive -= 1

    log, _ = make(tmp_path)
    async with running(log):
        answered = asyncio.Event()
        for _ in range(10):
            log.append(head(), Body(b"x" * 100), lambda lsn, error: answered.set())
        await answered.wait()
        again = asyncio.Event()
        log.append(head(), b"last", lambda lsn, error: again.set())
        await again.wait()
        gc.collect()
        assert Body.alive == 0
