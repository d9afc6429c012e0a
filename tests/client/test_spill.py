"""Batches on disk: what was taken comes back until it is settled, whatever happens to the bytes."""

from __future__ import annotations

import errno
import logging
import os
import random
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from arc.client.batch import Batch, Kind
from arc.client.errors import SpillError, SpillFullError, UsageError
from arc.client.spill import DamagedRecordError, Slot, Spill
from arc.client.spill_format import (
    HEAD_BYTES,
    HEADER_BYTES,
    STATE_AT,
    Codec,
    Header,
    State,
    encode_fields,
    state_of,
)
from tests.client.spill_producer import contents, make, until_full

MAX_BYTES = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spill"


def opened(folder: Path, segment_bytes: int = 4096, *, sync: bool = False) -> Spill:
    return Spill(folder, MAX_BYTES, segment_bytes=segment_bytes, sync=sync)


def files(folder: Path, suffix: str = "spill") -> list[Path]:
    return sorted(folder.rglob(f"*.{suffix}"))


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def keys(spill: Spill, make: Callable[[str], Batch] | None = None) -> list[str]:
    """Of what is recovered, each batch compared with what was made."""
    found = [batch for _, batch in spill.recovered()]
    for batch in found:
        assert contents(batch) == contents((make or made)(batch.key))
    return [batch.key for batch in found]


def made(key: str) -> Batch:
    """A batch whose age is its key's number."""
    batch = make(key, 600)
    batch.created_us = int(key.rpartition("-")[2])
    return batch


def some(*names: int) -> list[Batch]:
    return [made(f"{name}") for name in names]


def put(spill: Spill, *names: int) -> list[Slot]:
    return [spill.append(batch) for batch in some(*names)]


# ------------------------------------------------------------------------- append, load, settle


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("body", [b"", b"x", bytearray(b"y" * 5000), os.urandom(300_000)])
def test_a_batch_comes_back_as_it_was_taken(
    folder: Path, sync: bool, kind: Kind, body: bytes
) -> None:
    headers = (("x-arc-database", "größe"), ("x-arc-time-unit", "ns"))
    batch = Batch(
        kind, "/api/v1/write?a=b", headers, body, 7, "ümlaut", key="k" * 64, created_us=-5
    )
    spill = opened(folder, sync=sync)
    slots = [spill.append(batch) for _ in range(3)]
    for slot in slots:
        loaded = spill.load(slot)
        assert contents(loaded) == contents(batch)
        assert not loaded.in_doubt
    assert spill.num_bytes == size_on_disk(folder)
    for slot in slots:
        spill.settle(slot)
    spill.close()
    assert list(folder.iterdir()) == []


def test_what_is_not_settled_is_there_for_the_next_client_oldest_first(folder: Path) -> None:
    first, second = opened(folder), opened(folder)
    put(first, 5, 2, 9)
    put(second, 7, 1, 8)
    settled, sent = put(second, 3, 4)
    second.settle(settled)
    second.mark_sent(sent)
    first.abandon()
    second.abandon()
    third = opened(folder)
    found = [(batch.key, batch.in_doubt) for _, batch in third.recovered()]
    assert found == [(f"{i}", i == 4) for i in (1, 2, 4, 5, 7, 8, 9)]
    assert list(third.recovered()) == []
    assert third.num_corrupt == 0


def test_what_a_living_client_has_is_nobody_elses(folder: Path) -> None:
    living = opened(folder)
    put(living, 1)
    for _ in range(3):
        other = opened(folder)
        assert keys(other) == []
        put(other, 2)
        other.settle(put(other, 3)[0])
        other.close()
        living.append(made("4"))
        another = opened(folder)
        assert keys(another) == ["2"]
        another.settle(another.append(made("5")))
        another.abandon()
        last = opened(folder)
        for slot, _ in last.recovered():
            last.settle(slot)
        last.close()
    assert len(list(folder.iterdir())) == 1


def test_the_directories_of_dead_clients_become_one(folder: Path) -> None:
    spills = [opened(folder) for _ in range(20)]
    for i, spill in enumerate(spills):
        put(spill, i)
    (folder / "of-somebody-else").mkdir()
    assert len(list(folder.iterdir())) == 21
    for spill in spills:
        spill.abandon()
    last = opened(folder)
    assert len(list(folder.iterdir())) == 2
    assert keys(last) == [f"{i}" for i in range(20)]
    last.close()
    assert len(files(folder)) == 20


def test_batches_that_were_never_asked_for_are_left_to_the_next_client(folder: Path) -> None:
    spill = opened(folder)
    put(spill, 1)
    spill.abandon()
    for _ in range(3):
        spill = opened(folder)
        assert spill.num_bytes == size_on_disk(folder) > 0
        spill.close()
    assert keys(opened(folder)) == ["1"]


def test_what_is_settled_never_comes_back(folder: Path) -> None:
    spill = opened(folder)
    slots = put(spill, *range(60))
    for i in range(0, 60, 2):
        spill.settle(slots[i])
        spill.settle(slots[i])
    with pytest.raises(SpillError, match="settled"):
        spill.load(slots[0])
    spill.mark_sent(slots[0])
    spill.abandon()
    spill = opened(folder)
    found = list(spill.recovered())
    assert [batch.key for _, batch in found] == [f"{i}" for i in range(1, 60, 2)]
    for slot, _ in found:
        spill.settle(slot)
    assert files(folder) == []
    assert spill.num_bytes == 0


def test_a_batch_that_was_in_doubt_when_it_was_taken_is_in_doubt_after_a_crash(
    folder: Path,
) -> None:
    spill = opened(folder)
    batch = made("1")
    batch.in_doubt = True
    assert spill.load(spill.append(batch)).in_doubt
    spill.abandon()
    assert [batch.in_doubt for _, batch in opened(folder).recovered()] == [True]


def test_directories_and_files_are_for_their_owner_only(folder: Path) -> None:
    put(opened(folder), 1)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o700}


def test_a_closed_spill_takes_and_gives_nothing(folder: Path) -> None:
    spill = opened(folder)
    slot = put(spill, 1)[0]
    spill.close()
    spill.close()
    for call in (spill.load, spill.settle, spill.mark_sent):
        with pytest.raises(SpillError, match="closed"):
            call(slot)
    with pytest.raises(SpillError, match="closed"):
        spill.append(made("2"))
    assert keys(opened(folder)) == ["1"]


@pytest.mark.parametrize(("max_bytes", "segment_bytes"), [(0, 1), (-1, 1), (1, 0)])
def test_sizes_that_hold_nothing_are_refused(
    folder: Path, max_bytes: int, segment_bytes: int
) -> None:
    with pytest.raises(UsageError):
        Spill(folder, max_bytes, segment_bytes=segment_bytes)


def test_a_path_that_is_a_file_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpillError, match=str(path)):
            opened(path)


def test_many_threads_take_load_and_settle(folder: Path) -> None:
    spill = opened(folder)
    problems: list[BaseException] = []

    def work(name: int) -> None:
        rng = random.Random(name)
        live: list[tuple[str, Slot]] = []
        try:
            for i in range(150):
                key = f"{name}-{i}"
                live.append((key, spill.append(made(key))))
                rng.shuffle(live)
                if i % 3:
                    spill.mark_sent(live[-1][1])
                    assert contents(spill.load(live[-1][1])) == contents(made(live[-1][0]))
                    spill.settle(live.pop()[1])
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert spill.num_bytes == size_on_disk(folder)
    spill.abandon()
    spill = opened(folder)
    assert len(set(keys(spill))) == 4 * 50
    spill.close()


# ------------------------------------------------------------------------------------- bounds


def test_a_full_spill_refuses_without_a_trace_until_something_is_settled(folder: Path) -> None:
    spill = Spill(folder, 20_000, segment_bytes=4096)
    slots, error = until_full(spill, (made(f"{i}") for i in range(1000)))
    assert "of 20000 bytes" in str(error)
    size = spill.num_bytes
    assert 19_000 < size == size_on_disk(folder) <= 20_000
    with pytest.raises(SpillFullError):
        spill.append(made(f"{len(slots)}"))
    assert spill.num_bytes == size == size_on_disk(folder)
    for slot in slots[:20]:
        spill.settle(slot)
    assert spill.num_bytes < size
    put(spill, 999)
    spill.abandon()
    spill = Spill(folder, 20_000)
    assert keys(spill) == [f"{i}" for i in range(20, len(slots))] + ["999"]


def test_what_is_settled_in_the_current_file_is_not_in_the_way(folder: Path) -> None:
    spill = Spill(folder, 10_000, segment_bytes=6_000)
    put(spill, 0)
    for i in range(1, 100):
        spill.settle(put(spill, i)[0])
        assert spill.num_bytes <= 10_000
    spill.abandon()
    assert keys(opened(folder)) == ["0"]


def test_what_dead_clients_left_counts(folder: Path) -> None:
    spill = Spill(folder, 20_000)
    slots = put(spill, *range(10))
    spill.abandon()
    size = size_on_disk(folder)
    spill = Spill(folder, size + 10)
    assert spill.num_bytes == size
    with pytest.raises(SpillFullError):
        put(spill, 10)
    found = list(spill.recovered())
    assert len(found) == len(slots)
    for slot, _ in found:
        spill.settle(slot)
    put(spill, 10)


def test_a_batch_longer_than_a_segment_has_one_of_its_own(folder: Path) -> None:
    spill = opened(folder)
    put(spill, 1)
    long = Batch(Kind.ARROW, "/", (), os.urandom(50_000), 1, "x", key="long", created_us=2)
    slot = spill.append(long)
    put(spill, 3)
    assert len(files(folder)) == 3
    assert contents(spill.load(slot)) == contents(long)
    spill.settle(slot)
    assert len(files(folder)) == 2
    with pytest.raises(SpillFullError, match="do not fit"):
        spill.append(Batch(Kind.ARROW, "/", (), bytes(MAX_BYTES), 1, "x", key="longer"))
    put(spill, 4)


def test_one_batch_keeps_a_64th_of_the_bound_at_most(folder: Path) -> None:
    max_bytes = 8 << 20
    spill = Spill(folder, max_bytes)
    kept = []
    body = bytes(20_000)
    for i in range(2000):
        slot = spill.append(Batch(Kind.ARROW, "/", (), body, 1, "x", key=f"{i}"))
        if i % 250:
            spill.settle(slot)
        else:
            kept.append(slot)
    assert spill.num_bytes <= (len(kept) + 1) * max_bytes // 64
    assert spill.num_bytes == size_on_disk(folder)
    for slot in kept:
        spill.load(slot)


# -------------------------------------------------------------------------------------- damage


def tiny(key: str) -> Batch:
    body = random.Random(key).randbytes(5)
    return Batch(Kind.RECORDS, "/", (), body, 1, "m", key=key, created_us=int(key))


def a_segment(folder: Path, batches: Iterable[Batch]) -> tuple[bytes, list[range]]:
    """The bytes of a segment, and where its records are."""
    spill = opened(folder, 1 << 20)
    slots = [spill.append(batch) for batch in batches]
    spill.abandon()
    (path,) = files(folder)
    ranges = [
        range(slot.offset, slot.offset + HEAD_BYTES + slot.num_fields + slot.num_body)
        for slot in slots
    ]
    return path.read_bytes(), ranges


class Planted:
    """A place for segments with any bytes, to be opened again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0

    def spill(self, *segments: bytes) -> Spill:
        """A spill over segments that one dead client left."""
        self._number += 1
        self.folder = self._folder / f"{self._number}"
        home = self.folder / f"client-{self._number:016x}"
        home.mkdir(parents=True)
        for i, data in enumerate(segments):
            (home / f"{self._number:016x}-{i:08d}.spill").write_bytes(data)
        return opened(self.folder)


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path / "planted")


def test_a_write_cut_short_at_any_byte_is_taken_away_quietly(
    folder: Path, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    data, ranges = a_segment(folder, map(tiny, "123"))
    for cut in range(len(data) + 1):
        whole = [i + 1 for i, place in enumerate(ranges) if place.stop <= cut]
        spill = planted.spill(data[:cut])
        assert keys(spill, tiny) == [f"{i}" for i in whole]
        assert spill.num_bytes == (ranges[whole[-1] - 1].stop if whole else 0)
        assert (spill.num_bytes, spill.num_corrupt) == (size_on_disk(planted.folder), 0)
        spill.close()
    assert caplog.records == []


def test_room_that_a_power_cut_left_empty_is_taken_away_quietly(
    folder: Path, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    data, _ = a_segment(folder, some(1, 2))
    spill = planted.spill(data + bytes(9000))
    assert (keys(spill), spill.num_corrupt) == (["1", "2"], 0)
    spill.close()
    spill = planted.spill(bytes(9000))
    assert (keys(spill), spill.num_corrupt, spill.num_bytes) == ([], 0, 0)
    spill.close()
    assert caplog.records == []


def test_a_file_cut_off_before_another_one_is_damage(
    folder: Path, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    data, ranges = a_segment(folder, some(1, 2))
    other, _ = a_segment(folder.with_name("other"), some(3))
    spill = planted.spill(data[:-1], other)
    assert (keys(spill), spill.num_corrupt) == (["1", "3"], 1)
    (record,) = caplog.records
    assert f"bytes at {ranges[1].start}: the file is cut off" in record.message


def test_every_flipped_bit_is_detected_and_no_other_record_is_lost(
    folder: Path, planted: Planted
) -> None:
    data, ranges = a_segment(folder, map(tiny, "123"))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        spill = planted.spill(bytes(flipped))
        hit = [i for i, place in enumerate(ranges) if bit // 8 in place]
        if hit and bit // 8 == ranges[hit[0]].start + STATE_AT:
            assert (keys(spill, tiny), spill.num_corrupt) == (["1", "2", "3"], 0)
        else:
            left = [f"{i + 1}" for i in range(3) if i not in hit]
            assert (keys(spill, tiny), spill.num_corrupt) == (left, 1)
        spill.abandon()


@pytest.mark.parametrize("state", list(State))
def test_a_flipped_bit_of_a_state_changes_no_meaning(state: State) -> None:
    assert [state_of(state ^ 1 << bit) for bit in range(8)] == [state] * 8
    assert {state_of(byte) for byte in range(256)} == set(State)


def test_random_bytes_anywhere_are_never_a_batch(folder: Path, planted: Planted) -> None:
    data, ranges = a_segment(folder, some(*range(30)))
    for seed in range(100):
        rng = random.Random(seed)
        start = rng.randrange(len(data))
        noise = rng.randbytes(rng.randrange(1, 3000))[: len(data) - start]
        spill = planted.spill(data[:start] + noise + data[start + len(noise) :])
        end = start + len(noise)
        safe = [i for i, at in enumerate(ranges) if at.stop <= start or at.start >= end]
        assert keys(spill) == [f"{i}" for i in safe]
        assert spill.num_corrupt > 0
        spill.abandon()


def test_records_that_moved_do_not_pass_and_are_said(folder: Path, planted: Planted) -> None:
    data, ranges = a_segment(folder, some(*range(5)))
    spill = planted.spill(data[: ranges[1].start + 3] + data[ranges[1].start + 4 :])
    assert (keys(spill), spill.num_corrupt) == (["0"], 1)


def test_a_damaged_batch_is_said_and_its_file_is_kept(
    folder: Path, planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    data, ranges = a_segment(folder, some(1, 2, 3))
    damaged = bytearray(data)
    damaged[ranges[1].stop - 1] ^= 1
    spill = planted.spill(bytes(damaged))
    found = list(spill.recovered())
    assert [batch.key for _, batch in found] == ["1", "3"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"the record at byte {ranges[1].start} is damaged" in record.message
    assert [path.suffix for path in planted.folder.glob("client-*/*.*")] == [".damaged"]
    for slot, _ in found:
        spill.settle(slot)
    assert spill.num_bytes == 0
    spill.close()
    (kept,) = planted.folder.iterdir()
    assert kept.suffix == ".damaged"
    assert len(kept.read_bytes()) == len(data)
    spill = opened(planted.folder)
    assert (keys(spill), spill.num_bytes, spill.num_corrupt) == ([], 0, 0)


def test_what_is_left_of_a_damaged_file_survives_another_crash(
    folder: Path, planted: Planted
) -> None:
    data, ranges = a_segment(folder, some(1, 2, 3))
    for place in (ranges[0].start + 5, ranges[0].stop - 1):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        spill = planted.spill(bytes(damaged))
        assert keys(spill) == ["2", "3"]
        spill.abandon()
        spill = opened(planted.folder)
        found = list(spill.recovered())
        assert [batch.key for _, batch in found] == ["2", "3"]
        for slot, _ in found:
            spill.settle(slot)
        spill.close()
        assert [path.suffix for path in planted.folder.iterdir()] == [".damaged"]


def test_a_batch_damaged_while_it_waits_is_told_when_it_is_loaded(folder: Path) -> None:
    spill = opened(folder)
    slots = put(spill, 1, 2)
    (path,) = files(folder)
    with path.open("r+b") as file:
        file.seek(slots[0].offset + HEAD_BYTES + slots[0].num_fields)
        file.write(b"damage")
    for _ in range(2):
        with pytest.raises(DamagedRecordError, match=f"byte {slots[0].offset} is damaged"):
            spill.load(slots[0])
    assert spill.num_corrupt == 1
    assert contents(spill.load(slots[1])) == contents(made("2"))
    spill.append(made("3"))
    for slot in slots:
        spill.settle(slot)
    spill.abandon()
    spill = opened(folder)
    assert keys(spill) == ["3"]


def test_a_later_version_is_refused_by_name_and_left_alone(folder: Path, planted: Planted) -> None:
    data, _ = a_segment(folder, some(1))
    header = Codec().pack_header(Header(2, b"12345678", 0))
    with pytest.raises(SpillError, match=r"-00000000\.spill has format version 2, known is 1"):
        planted.spill(header + data[HEADER_BYTES:])
    assert [path.read_bytes()[:HEADER_BYTES] for path in files(planted.folder)] == [header]
    with pytest.raises(SpillError, match="version"):  # whoever failed holds no lock
        opened(planted.folder)


def test_a_record_of_another_file_or_place_does_not_pass(folder: Path, planted: Planted) -> None:
    data, ranges = a_segment(folder, some(1, 2))
    other, _ = a_segment(folder.with_name("other"), some(3))
    record = other[HEADER_BYTES:]
    spill = planted.spill(data[: ranges[0].stop] + record + data[ranges[0].start :])
    assert (keys(spill), spill.num_corrupt) == (["1"], 1)
    spill = planted.spill(data[:HEADER_BYTES] + record)
    assert (keys(spill), spill.num_corrupt) == ([], 1)


def test_fields_that_are_no_batch_are_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(batch: Batch) -> bytes:
        return encode_fields(batch).replace(b"msgpack", b"message", 1)

    monkeypatch.setattr("arc.client.spill_segment.encode_fields", other)
    spill = opened(folder)
    with pytest.raises(DamagedRecordError, match="is not a batch"):
        spill.load(put(spill, 1)[0])


# --------------------------------------------------------------------------- the disk refuses


class Refusing:
    """Stands for one call of `os` that fails a number of times, and works then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
        self.left, self._call = 0, getattr(os, name)
        self._number = number
        monkeypatch.setattr(os, name, self)

    def __call__(self, *arguments: object) -> object:
        if self.left:
            self.left -= 1
            raise OSError(self._number, os.strerror(self._number))
        return self._call(*arguments)


def test_after_a_sync_that_failed_another_file_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = opened(folder, sync=True)
    put(spill, 1)
    refusing = Refusing(monkeypatch, "fdatasync", errno.EIO)
    refusing.left = 1
    with pytest.raises(SpillError, match="Input/output error") as caught:
        put(spill, 2)
    assert not isinstance(caught.value, SpillFullError)
    assert spill.num_bytes == size_on_disk(folder)
    put(spill, 3)
    assert len(files(folder)) == 2
    spill.abandon()
    assert keys(opened(folder)) == ["1", "3"]


def test_a_refused_batch_that_cannot_be_cut_off_does_not_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = opened(folder, sync=True)
    put(spill, 1)
    sync, cut = (Refusing(monkeypatch, name, errno.EIO) for name in ("fdatasync", "ftruncate"))
    sync.left = cut.left = 1
    with pytest.raises(SpillError, match="Input/output error"):
        put(spill, 2)
    assert spill.num_bytes == size_on_disk(folder)
    put(spill, 3)
    spill.abandon()
    assert keys(opened(folder)) == ["1", "3"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_disk_without_room_is_told_from_one_that_fails(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = opened(folder)
    put(spill, 1)
    refusing = Refusing(monkeypatch, "pwritev", number)
    refusing.left = 2
    with pytest.raises(SpillFullError, match=os.strerror(number)):
        put(spill, 2)
    refusing.left = 0
    put(spill, 3)
    assert spill.num_bytes == size_on_disk(folder)
    spill.abandon()
    assert keys(opened(folder)) == ["1", "3"]


def test_a_state_that_the_disk_refuses_is_written_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spill = opened(folder)
    slots = put(spill, *range(4))
    refusing = Refusing(monkeypatch, "pwrite", errno.EIO)
    refusing.left = 3
    spill.mark_sent(slots[0])
    spill.settle(slots[1])
    assert len(caplog.records) == 1
    spill.settle(slots[2])
    refusing.left = 0
    put(spill, 4)
    spill.abandon()
    found = [(batch.key, batch.in_doubt) for _, batch in opened(folder).recovered()]
    assert found == [("0", True), ("3", False), ("4", False)]


def test_a_file_that_the_disk_does_not_delete_is_deleted_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = opened(folder, 600)
    slots = put(spill, *range(5))
    refusing = Refusing(monkeypatch, "unlink", errno.EIO)
    refusing.left = 2
    spill.settle(slots[0])
    size = spill.num_bytes
    spill.settle(slots[1])
    refusing.left = 0
    spill.settle(slots[2])
    assert spill.num_bytes == size_on_disk(folder) < size
    spill.abandon()
    assert keys(opened(folder)) == ["3", "4"]


def test_a_file_that_cannot_be_read_is_left_to_the_next_client(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spill = opened(folder)
    slot = put(spill, 1)[0]
    refusing = Refusing(monkeypatch, "open", errno.EMFILE)
    refusing.left = 1
    with pytest.raises(SpillError, match="Too many open files"):
        spill.load(slot)
    assert contents(spill.load(slot)) == contents(made("1"))
    spill.abandon()
    spill = opened(folder)
    refusing.left = 1
    assert keys(spill) == []
    assert "left to the next client" in caplog.text
    spill.close()
    assert keys(opened(folder)) == ["1"]


def test_a_page_that_the_disk_cannot_read_loses_what_is_behind_it_and_keeps_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spill = opened(folder)
    put(spill, *range(3))
    spill.abandon()
    spill = opened(folder)
    refusing = Refusing(monkeypatch, "pread", errno.EIO)
    refusing.left = 1
    assert (keys(spill), spill.num_corrupt) == ([], 1)
    assert "the disk cannot read it" in caplog.text
    assert len(list(folder.rglob("*.damaged"))) == 1


# ------------------------------------------------------------------------------ against a model


class SpillMachine(RuleBasedStateMachine):
    """A spill beside a dictionary, through crashes."""

    slots: Bundle[str] = Bundle("slots")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="arc-spill-")
        self.folder = Path(self.directory.name)
        self.model: dict[str, bool] = {}
        self.live: dict[str, Slot] = {}
        self.num_made = 0
        self.max_bytes = 0

    @initialize(max_bytes=st.integers(2000, 30_000), segment_bytes=st.integers(1, 8000))
    def begin(self, max_bytes: int, segment_bytes: int) -> None:
        self.max_bytes, self.segment_bytes = max_bytes, segment_bytes
        self.spill = self.open()

    def open(self) -> Spill:
        return Spill(self.folder, self.max_bytes, segment_bytes=self.segment_bytes)

    @rule(target=slots, size=st.integers(0, 3000), in_doubt=st.booleans())
    def append(self, size: int, in_doubt: bool) -> MultipleResults[str] | str:
        self.num_made += 1
        key = f"{size}-{self.num_made}"
        batch = self.batch(key)
        batch.in_doubt = in_doubt
        try:
            self.live[key] = self.spill.append(batch)
        except SpillFullError:
            assert self.spill.num_bytes + size + 400 > self.max_bytes
            return multiple()
        self.model[key] = in_doubt
        return key

    def batch(self, key: str) -> Batch:
        size, _, number = key.partition("-")
        body = random.Random(key).randbytes(int(size))
        return Batch(Kind.MSGPACK, "/", (), body, 1, "m", key=key, created_us=int(number))

    @rule(key=slots)
    def mark_sent(self, key: str) -> None:
        if key in self.model:
            self.spill.mark_sent(self.live[key])
            self.model[key] = True

    @rule(key=consumes(slots))
    def settle(self, key: str) -> None:
        if key in self.model:
            self.spill.settle(self.live[key])
            del self.model[key]

    @rule(key=slots)
    def load(self, key: str) -> None:
        if key in self.model:
            self.check(self.spill.load(self.live[key]))

    @rule(orderly=st.booleans(), reads=st.booleans())
    def die_and_start_again(self, orderly: bool, reads: bool) -> None:
        if orderly:
            self.spill.close()
        else:
            self.spill.abandon()
        if not reads:
            self.open().close()
        self.spill = self.open()
        self.live = {}
        for slot, batch in self.spill.recovered():
            self.check(batch)
            self.live[batch.key] = slot
        numbers = [int(key.partition("-")[2]) for key in self.live]
        assert numbers == sorted(numbers)
        assert self.live.keys() == self.model.keys()

    def check(self, batch: Batch) -> None:
        assert contents(batch) == contents(self.batch(batch.key))
        assert batch.in_doubt == self.model[batch.key]

    @invariant()
    def it_counts_what_is_on_disk_and_keeps_its_bound(self) -> None:
        if self.max_bytes:
            assert self.spill.num_bytes == size_on_disk(self.folder) <= self.max_bytes
            assert self.spill.num_corrupt == 0
            if not self.model:
                assert len(files(self.folder)) <= 1

    def teardown(self) -> None:
        if self.max_bytes:
            self.spill.abandon()
        self.directory.cleanup()


TestSpillAgainstAModel = SpillMachine.TestCase
TestSpillAgainstAModel.settings = settings(max_examples=40, stateful_step_count=40)


@pytest.fixture(autouse=True)
def no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every spill that a test made is dropped at its end."""
    spills: list[Spill] = []
    begin = Spill.__init__

    def remembered(self: Spill, *arguments: object, **settings: object) -> None:
        spills.append(self)
        begin(self, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Spill, "__init__", remembered)
    yield
    for spill in spills:
        if hasattr(spill, "_unread"):
            spill.abandon()
