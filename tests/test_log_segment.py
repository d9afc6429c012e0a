"""Exactly what was kept is read back, whatever the disk refuses on the way."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import StorageError
from ingest.log_calls import LogCalls
from ingest.log_format import PAGE_BYTES, RecordHead
from ingest.log_reader import LogReader
from ingest.log_segment import LogFiles
from ingest.lsn import make_lsn
from tests.support.log_faults import FaultyCalls, head, nth, read_all

EPOCH = 5
SEGMENT_BYTES = 64 << 10

Items = list[tuple[RecordHead, bytes, Any]]


def make_log(folder: Path, calls: LogCalls, spares: int = 2, sync: bool = True) -> LogFiles:
    return LogFiles(folder, EPOCH, SEGMENT_BYTES, spares, sync, calls)


def items(count: int, seed: int = 0, up_to: int = 3000) -> Items:
    rng = random.Random(seed)
    return [
        (head(rng.randrange(2**60), rng.randbytes(rng.randrange(9))), _body(rng, up_to), None)
        for _ in range(count)
    ]


def _body(rng: random.Random, up_to: int) -> bytes:
    return rng.randbytes(rng.randrange(up_to))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Kept:
    """What a log said that it kept, to be compared with what is in it."""

    def __init__(self) -> None:
        self.items: Items = []

    def write(self, files: LogFiles, group: Items) -> StorageError | None:
        kept, error = files.write(group)
        assert (kept == len(group)) == (error is None)
        self.items += group[:kept]
        assert files.last_lsn == make_lsn(EPOCH, len(self.items))
        return error

    def check(self, folder: Path) -> None:
        records = read_all(folder)
        assert [(record.head, record.body, None) for record in records] == self.items
        assert [record.lsn for record in records] == [
            make_lsn(EPOCH, i + 1) for i in range(len(self.items))
        ]
        reader = LogReader(folder)
        infos = [reader.scan(path) for path in reader.segments]
        assert not any(info.corrupt for info in infos)
        numbers = [info.number for info in infos]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_groups_are_read_back_whatever_their_size(tmp_path: Path) -> None:
    files, kept = make_log(tmp_path, LogCalls()), Kept()
    files.open_next()
    for seed, count in enumerate((1, 2, 100, 1500, 0, 7)):
        assert kept.write(files, items(count, seed, up_to=200)) is None
    kept.check(tmp_path)


def test_a_record_of_any_size_around_that_of_a_segment_is_kept(tmp_path: Path) -> None:
    files, kept = make_log(tmp_path, LogCalls()), Kept()
    files.open_next()
    room = SEGMENT_BYTES - PAGE_BYTES
    for size in (room - 64, room - 58, room - 57, room, room + 1, SEGMENT_BYTES, 3 * SEGMENT_BYTES):
        assert kept.write(files, [(head(), bytes(size), None)]) is None
        assert kept.write(files, items(1)) is None
    kept.check(tmp_path)
    sizes = {path.stat().st_size for path in LogReader(tmp_path).segments}
    assert SEGMENT_BYTES in sizes
    assert max(sizes) > 3 * SEGMENT_BYTES
    assert all(size % PAGE_BYTES == 0 for size in sizes)


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path) -> None:
    for limit in (1, 7, 100, 4096, 5000):
        folder, kept = tmp_path / str(limit), Kept()
        files = make_log(folder, FaultyCalls(limit_bytes=limit))
        files.open_next()
        assert kept.write(files, items(3, limit, up_to=200)) is None
        kept.check(folder)


def test_files_belong_to_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "shards" / "000" / "log"
    files = make_log(folder, LogCalls())
    files.open_next()
    files.write(items(100))
    for path in (folder, folder.parent, folder.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_write_returns_after_the_sync_of_its_bytes_and_of_its_name(tmp_path: Path) -> None:
    calls = FaultyCalls()
    files = make_log(tmp_path / "log", calls)
    files.open_next()
    assert calls.names[:2] == ["make_directory", "sync_directory"]
    assert calls.names[-4:] == ["pwritev", "fdatasync", "rename", "sync_directory"]
    calls.names.clear()
    files.write(items(1))
    assert calls.names == ["pwritev", "fdatasync"]
    files.write(items(1, up_to=40_000) * 4)
    calls.names.clear()
    files.write([(head(), bytes(50_000), None)])
    opened = ["pwritev", "rename", "sync_directory"]
    assert calls.names[-5:] == [*opened, "pwritev", "fdatasync"]


def test_nothing_is_synced_where_that_is_not_wanted(tmp_path: Path) -> None:
    calls, kept = FaultyCalls(), Kept()
    files = make_log(tmp_path / "log", calls, sync=False)
    files.open_next()
    kept.write(files, items(100))
    kept.check(tmp_path / "log")
    assert not {"fdatasync", "sync_directory"} & set(calls.names)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_a_failed_group_is_refused_whole_and_its_segment_never_written_again(
    tmp_path: Path, call: str
) -> None:
    calls, kept = FaultyCalls(), Kept()
    files = make_log(tmp_path, calls)
    files.open_next()
    kept.write(files, items(5))
    calls.refuse = nth(call, calls.counts[call] + 1, code=errno.EIO)
    error = kept.write(files, items(5, 1))
    assert "000000000001.log: Input/output error (EIO)" in str(error)
    assert not files.is_open
    left = (tmp_path / "000000000001.log").read_bytes()
    kept.check(tmp_path)
    files.open_next()
    kept.write(files, items(5, 2))
    kept.check(tmp_path)
    assert (tmp_path / "000000000001.log").read_bytes() == left


def test_a_refused_group_stays_away_also_when_it_cannot_be_cut_off(tmp_path: Path) -> None:
    calls, kept = FaultyCalls(), Kept()
    files = make_log(tmp_path, calls)
    files.open_next()
    kept.write(files, items(5))
    failing = calls.counts["fdatasync"] + 1
    calls.refuse = lambda name, count: (
        errno.EIO if name == "truncate" or (name == "fdatasync" and count == failing) else 0
    )
    assert kept.write(files, items(5, 1)) is not None
    files.open_next()
    kept.check(tmp_path)
    assert kept.write(files, items(5, 2)) is None
    kept.check(tmp_path)


def test_a_segment_that_could_not_be_opened_leaves_nothing_and_its_number_is_given_again(
    tmp_path: Path,
) -> None:
    for call in ("create", "fallocate", "open", "pwritev", "fdatasync", "rename", "sync_directory"):
        folder, calls, kept = tmp_path / call, FaultyCalls(), Kept()
        files = make_log(folder, calls)
        files.open_next()
        assert kept.write(files, items(3)) is None
        calls.refuse = nth("pwritev", calls.counts["pwritev"] + 1, code=errno.EIO)
        assert kept.write(files, items(1)) is not None
        wanted = calls.counts[call] + 1
        calls.refuse = nth(call, wanted, wanted + 1, code=errno.EIO)
        for _ in range(2):
            with pytest.raises(StorageError, match="EIO"):
                files.open_next()
            assert names(folder) == ["000000000001.log"]
        files.open_next()
        assert kept.write(files, items(3, 1)) is None
        assert names(folder) == ["000000000001.log", "000000000002.log"]
        kept.check(folder)


def test_random_refusals_never_change_what_was_kept(tmp_path: Path) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        may_cut = rng.random() < 0.7
        calls = FaultyCalls(limit_bytes=rng.choice([None, 5000]))
        files, kept = make_log(tmp_path / str(seed), calls), Kept()

        def refuse(
            call: str, _count: int, rng: random.Random = rng, may_cut: bool = may_cut
        ) -> int:
            if call == "truncate":
                return 0 if may_cut else errno.EIO
            return rng.choice((errno.EIO, errno.ENOSPC)) if rng.random() < 0.05 else 0

        calls.refuse = refuse
        for step in range(25):
            open_at_last(files)
            kept.write(files, items(rng.randrange(1, 25), seed * 100 + step))
            if rng.random() < 0.5:
                prepare(files)
        calls.refuse = lambda call, count: 0
        open_at_last(files)
        kept.check(tmp_path / str(seed))


def open_at_last(files: LogFiles) -> None:
    while not files.is_open:
        try:
            files.open_next()
        except StorageError:
            continue


def prepare(files: LogFiles) -> None:
    try:
        files.prepare()
    except StorageError:
        return


def test_a_group_that_fails_half_way_keeps_what_is_in_the_full_segment(tmp_path: Path) -> None:
    calls, kept = FaultyCalls(), Kept()
    files = make_log(tmp_path, calls)
    files.open_next()
    calls.refuse = nth("fdatasync", calls.counts["fdatasync"] + 2, code=errno.EIO)
    assert kept.write(files, items(60)) is not None
    assert 0 < len(kept.items) < 60
    kept.check(tmp_path)
    files.open_next()
    assert kept.write(files, items(60, 1)) is None
    kept.check(tmp_path)


def test_a_full_disk_shows_when_a_segment_is_opened(tmp_path: Path) -> None:
    calls, kept = FaultyCalls(), Kept()
    files = make_log(tmp_path, calls)
    files.open_next()
    calls.refuse = lambda name, count: errno.ENOSPC if name == "fallocate" else 0
    errors = [kept.write(files, items(10, seed)) for seed in range(5)]
    assert errors[0] is None
    assert "No space left on device (ENOSPC)" in str(next(error for error in errors if error))
    kept.check(tmp_path)


def test_the_next_file_is_prepared_before_it_is_needed(tmp_path: Path) -> None:
    calls, kept = FaultyCalls(), Kept()
    files = make_log(tmp_path, calls)
    files.open_next()
    for seed in range(100):
        before = calls.counts["fallocate"]
        kept.write(files, items(5, seed))
        assert calls.counts["fallocate"] == before
        files.prepare()
    assert len(LogReader(tmp_path).segments) > 3
    kept.check(tmp_path)


def test_segments_whose_rows_are_stored_are_reused_and_the_others_stay(tmp_path: Path) -> None:
    files = make_log(tmp_path, LogCalls())
    files.open_next()
    files.write(items(200))
    reader = LogReader(tmp_path)
    infos = [reader.scan(path) for path in reader.segments]
    files.retire(infos[0].last_lsn)
    assert files.usage() == (len(infos), sum(info.record_bytes for info in infos))
    files.retire(infos[0].last_lsn + 1)
    assert files.usage()[0] == len(infos) - 1
    assert [path.name for path in LogReader(tmp_path).segments] == [
        info.path.name for info in infos[1:]
    ]
    files.retire(files.last_lsn + 1)
    assert files.usage() == (0, 0)
    left = names(tmp_path)
    assert left == [infos[-1].path.name, "spare-000000000001.log", "spare-000000000002.log"]
    inodes = {(tmp_path / name).stat().st_ino for name in left}
    files.write(items(50))
    assert {path.stat().st_ino for path in LogReader(tmp_path).segments} <= inodes


def test_what_failed_or_is_large_is_deleted_and_not_reused(tmp_path: Path) -> None:
    calls = FaultyCalls()
    files = make_log(tmp_path, calls)
    files.open_next()
    files.write([(head(), bytes(2 * SEGMENT_BYTES), None)])
    files.write(items(1))
    calls.refuse = nth("fdatasync", calls.counts["fdatasync"] + 1, code=errno.EIO)
    files.write(items(1))
    files.open_next()
    files.write(items(1))
    files.retire(files.last_lsn + 1)
    assert names(tmp_path) == ["000000000004.log", "spare-000000000001.log"]


def test_nothing_is_reused_before_it_was_said_to_be_retired(tmp_path: Path) -> None:
    told: list[int] = []

    def before_retire(last_lsn: int) -> None:
        told.append(last_lsn)
        if len(told) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    files = LogFiles(tmp_path, EPOCH, SEGMENT_BYTES, 9, True, LogCalls(), before_retire)
    files.open_next()
    files.write(items(200))
    reader = LogReader(tmp_path)
    infos = [reader.scan(path) for path in reader.segments]
    with pytest.raises(StorageError, match=r"000000000002\.log: Input/output error"):
        files.retire(files.last_lsn + 1)
    assert LogReader(tmp_path).segments == [info.path for info in infos[1:]]
    files.retire(files.last_lsn + 1)
    assert told[2:] == [info.last_lsn for info in infos[1:-1]]
    assert LogReader(tmp_path).segments == [infos[-1].path]


def test_what_a_predecessor_left_is_numbered_before_and_trimmed_like_our_own(
    tmp_path: Path,
) -> None:
    first = make_log(tmp_path, LogCalls())
    first.open_next()
    first.write(items(50))
    reader = LogReader(tmp_path)
    infos = [reader.scan(path) for path in reader.segments]
    second = LogFiles(tmp_path, EPOCH + 1, SEGMENT_BYTES, 1, True, LogCalls())
    second.adopt(infos)
    second.open_next()
    second.write(items(3, 1))
    reader = LogReader(tmp_path)
    assert [reader.scan(path).number for path in reader.segments] == list(range(1, len(infos) + 2))
    assert second.usage()[0] == len(infos) + 1
    lsns = [record.lsn for record in read_all(tmp_path)]
    assert lsns[-4:] == [make_lsn(EPOCH, 50), *(make_lsn(EPOCH + 1, seq) for seq in (1, 2, 3))]
    second.retire(make_lsn(EPOCH + 1, 1))
    assert names(tmp_path) == [f"{len(infos) + 1:012d}.log", "spare-000000000001.log"]
    assert second.usage()[0] == 1


def test_the_torn_end_of_a_predecessor_is_no_corruption_later(tmp_path: Path) -> None:
    first = make_log(tmp_path, LogCalls())
    first.open_next()
    first.write(items(4))
    path = LogReader(tmp_path).segments[0]
    end = LogReader(tmp_path).scan(path).valid_bytes
    os.truncate(path, end - 3)
    info = LogReader(tmp_path).scan(path)
    assert info.torn_bytes > 0
    for adopted in ([info], []):
        second = LogFiles(tmp_path, EPOCH + 1, SEGMENT_BYTES, 1, True, LogCalls())
        second.adopt(adopted)
        second.open_next()
        found = LogReader(tmp_path).scan(path)
        assert (found.num_records, found.corrupt) == (3, ())
        assert bool(found.torn_bytes) == (not adopted)
        (tmp_path / "000000000002.log").unlink()


def test_a_number_that_a_spare_file_had_is_not_given_again(tmp_path: Path) -> None:
    first = make_log(tmp_path, LogCalls())
    first.open_next()
    first.write(items(100))
    first.retire(first.last_lsn + 1)
    (last,) = LogReader(tmp_path).segments
    last.unlink()
    second = make_log(tmp_path, LogCalls())
    second.open_next()
    assert names(tmp_path)[0] == "000000000003.log"
    assert read_all(tmp_path) == []


def test_a_log_that_is_closed_with_all_rows_stored_leaves_no_file(tmp_path: Path) -> None:
    for count in (0, 1, 100):
        files = make_log(tmp_path, LogCalls())
        files.open_next()
        files.write(items(count))
        files.prepare()
        files.retire(files.last_lsn + 1)
        files.close()
        assert names(tmp_path) == []


def test_a_log_that_is_closed_with_rows_in_need_keeps_their_segments(tmp_path: Path) -> None:
    files, kept = make_log(tmp_path, LogCalls()), Kept()
    files.open_next()
    kept.write(files, items(100))
    segments = LogReader(tmp_path).segments
    files.prepare()
    files.close()
    assert sorted(tmp_path.iterdir()) == segments
    kept.check(tmp_path)
