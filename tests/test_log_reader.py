"""Whatever happens to the bytes of a log: what is returned was written, what is lost is told."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ingest.log_calls import LogCalls
from ingest.log_format import (
    PAGE_BYTES,
    Record,
    RecordDecoder,
    RecordHead,
    SegmentHeader,
    pack_header,
    unpack_header,
)
from ingest.log_reader import LogReader, SegmentInfo, set_aside
from ingest.log_segment import LogFiles
from ingest.lsn import make_lsn
from tests.support.log_faults import head, read_all

EPOCH = 2
SEGMENT_BYTES = 64 << 10


def open_log(folder: Path, spares: int = 4, sync: bool = False) -> LogFiles:
    files = LogFiles(folder, EPOCH, SEGMENT_BYTES, spares, sync, LogCalls())
    files.open_next()
    return files


def put(files: LogFiles, bodies: list[bytes], start: int = 0) -> None:
    items: list[tuple[RecordHead, bytes, None]] = [
        (head(start + i), body, None) for i, body in enumerate(bodies)
    ]
    assert files.write(items) == (len(bodies), None)


def some_bodies(count: int, seed: int = 0, up_to: int = 3000) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(up_to)) for _ in range(count)]


def one_segment(folder: Path, bodies: list[bytes], group: int = 3) -> Path:
    """A log of one segment, written in groups."""
    files = open_log(folder)
    for start in range(0, len(bodies), group):
        put(files, bodies[start : start + group], start)
    return LogReader(folder).segments[0]


def scan(path: Path) -> SegmentInfo:
    return LogReader(path.parent).scan(path)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_a_clean_log_is_read_back_in_order_and_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    bodies = some_bodies(100)
    files = open_log(tmp_path)
    for start in range(0, 100, 7):
        put(files, bodies[start : start + 7], start)
    records = read_all(tmp_path)
    assert [record.body for record in records] == bodies
    assert [record.head.arrival_us for record in records] == list(range(100))
    assert [record.lsn for record in records] == [make_lsn(EPOCH, i + 1) for i in range(100)]
    reader = LogReader(tmp_path)
    infos = [reader.scan(path) for path in reader.segments]
    assert len(infos) > 1
    assert [info.number for info in infos] == list(range(1, len(infos) + 1))
    assert all((info.torn_bytes, info.corrupt, info.epoch) == (0, (), EPOCH) for info in infos)
    assert sum(info.num_records for info in infos) == 100
    assert all(info.valid_bytes == PAGE_BYTES + info.record_bytes for info in infos)
    assert infos[0].first_lsn == make_lsn(EPOCH, 1)
    assert infos[-1].last_lsn == make_lsn(EPOCH, 100)
    before_last = sum(info.valid_bytes for info in infos[:-1])
    assert reader.total_bytes == before_last + SEGMENT_BYTES


def test_a_folder_without_segments_holds_none(tmp_path: Path) -> None:
    (tmp_path / "keys-1.bin").touch()
    (tmp_path / "spare-000000000001.log").touch()
    assert LogReader(tmp_path).segments == []
    assert LogReader(tmp_path / "missing").segments == []
    assert LogReader(tmp_path).total_bytes == 0


def test_a_log_cut_at_every_byte_of_its_last_records_keeps_all_before(tmp_path: Path) -> None:
    path = one_segment(tmp_path, some_bodies(20, up_to=300), group=5)
    records = read_all(tmp_path)
    ends = [record.offset + record.size_bytes for record in records]
    for cut in range(ends[-1], records[-5].offset - 1, -1):
        os.truncate(path, cut)
        whole = [record for record, end in zip(records, ends, strict=True) if end <= cut]
        assert read_all(tmp_path) == whole
        info = scan(path)
        assert (info.torn_bytes > 0) == (cut > info.valid_bytes)
        assert info.torn_bytes <= cut - info.valid_bytes
        assert info.corrupt == ()
        assert info.num_records == len(whole)


def test_every_flipped_bit_is_detected_and_never_returned(tmp_path: Path) -> None:
    path = one_segment(tmp_path, some_bodies(30, up_to=600))
    records = read_all(tmp_path)
    rng = random.Random(4)
    for _ in range(1000):
        bit = rng.randrange(8 * PAGE_BYTES, 8 * (records[-1].offset + records[-1].size_bytes))
        flip(path, bit)
        missing = [
            record
            for record in records
            if record.offset <= bit // 8 < record.offset + record.size_bytes
        ]
        assert len(missing) == 1
        assert read_all(tmp_path) == [record for record in records if record not in missing]
        check_is_told(scan(path), missing[0], missing[0] is records[-1])
        flip(path, bit)
    assert read_all(tmp_path) == records


def check_is_told(info: SegmentInfo, missing: Record, is_last: bool) -> None:
    if is_last:
        assert info.torn_bytes > 0
        assert info.corrupt == ()
    else:
        (corruption,) = info.corrupt
        assert (corruption.offset, corruption.size_bytes) == (missing.offset, missing.size_bytes)
        assert info.torn_bytes == 0


def test_many_flipped_bits_at_once_lose_the_records_that_they_are_in(tmp_path: Path) -> None:
    bodies = some_bodies(40, up_to=1000)
    for seed in range(60):
        folder = tmp_path / str(seed)
        path = one_segment(folder, bodies)
        records = read_all(folder)
        rng = random.Random(seed)
        hit = set()
        for _ in range(rng.randrange(1, 12)):
            record = rng.choice(records)
            hit.add(record.lsn)
            flip(path, rng.randrange(record.offset * 8, (record.offset + record.size_bytes) * 8))
        kept = [record for record in read_all(folder) if record.lsn not in hit]
        assert kept == [record for record in records if record.lsn not in hit]
        assert all(record in records for record in read_all(folder))


def test_random_bytes_anywhere_are_never_a_record(tmp_path: Path) -> None:
    bodies = some_bodies(30, up_to=1000)
    for seed in range(60):
        folder = tmp_path / str(seed)
        path = one_segment(folder, bodies)
        records = read_all(folder)
        rng = random.Random(seed)
        data = bytearray(path.read_bytes())
        start = rng.randrange(len(data))
        noise = rng.randbytes(rng.randrange(1, 20_000))
        data[start : start + len(noise)] = noise
        path.write_bytes(data)
        end = start + len(noise)
        safe = [r for r in records if r.offset + r.size_bytes <= start or r.offset >= end]
        assert read_all(folder) == safe
        info = scan(path)
        assert info.torn_bytes or info.corrupt or len(safe) == len(records)


def test_a_damaged_header_is_told_and_the_records_after_it_are_found(tmp_path: Path) -> None:
    path = one_segment(tmp_path, some_bodies(9))
    records = read_all(tmp_path)
    flip(path, 8 * 20)
    assert read_all(tmp_path) == records
    info = scan(path)
    assert [(c.offset, c.reason) for c in info.corrupt] == [(0, "the segment's header is damaged")]
    assert (info.epoch, info.number, info.num_records) == (EPOCH, 1, 9)


def test_a_file_whose_header_never_reached_the_disk_is_empty_and_sound(tmp_path: Path) -> None:
    path = one_segment(tmp_path, some_bodies(9))
    # The file as it was under its earlier number, and one that was only allocated.
    reused, fresh = tmp_path / "a" / f"{5:012d}.log", tmp_path / "b" / f"{5:012d}.log"
    for other in (reused, fresh):
        other.parent.mkdir()
    reused.write_bytes(path.read_bytes())
    fresh.write_bytes(bytes(SEGMENT_BYTES))
    for other in (reused, fresh):
        info = scan(other)
        assert (info.num_records, info.torn_bytes, info.corrupt) == (0, 0, ())


def test_a_renamed_segment_is_told(tmp_path: Path) -> None:
    files = open_log(tmp_path)
    put(files, some_bodies(60))
    reader = LogReader(tmp_path)
    reader.segments[0].rename(tmp_path / "000000000000.log")
    reason = scan(tmp_path / "000000000000.log").corrupt[0].reason
    assert reason == "the segment's header is that of segment 1"


def test_bytes_of_an_earlier_life_of_a_file_are_never_returned(tmp_path: Path) -> None:
    files = open_log(tmp_path)
    rng = random.Random(5)
    written = 0
    for _ in range(40):
        put(files, some_bodies(rng.randrange(1, 30), seed=written, up_to=4000), written)
        written = len(read_and_check(tmp_path, written))
        files.retire(files.last_lsn - rng.randrange(20))
    assert len(list(tmp_path.glob("spare-*"))) <= 4


def read_and_check(folder: Path, written: int) -> range:
    """All segments hold consecutive records, nothing is torn; how many were ever written."""
    records = read_all(folder)
    first = records[0].lsn
    assert [record.lsn for record in records] == list(range(first, first + len(records)))
    assert len(records) + first - make_lsn(EPOCH, 1) > written
    reader = LogReader(folder)
    for path in reader.segments:
        info = reader.scan(path)
        assert (info.torn_bytes, info.corrupt) == (0, ())
    return range(first - make_lsn(EPOCH, 1) + len(records))


def test_a_torn_write_over_an_earlier_life_of_the_file_is_torn_at_every_byte(
    tmp_path: Path,
) -> None:
    """Whatever part of a group reached the disk, what was there before stays unseen."""
    files = open_log(tmp_path, spares=1)
    for start in (0, 500):
        put(files, some_bodies(50, seed=start), start)
        files.retire(files.last_lsn + 1)
    put(files, [b"first"], 5000)
    path = LogReader(tmp_path).segments[-1]
    before = path.read_bytes()
    put(files, [b"second" * 30, b"third" * 20], 5001)
    after = path.read_bytes()
    records = read_all(tmp_path)
    changed = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y]
    for cut in range(changed[0], changed[-1] + 2):
        path.write_bytes(after[:cut] + before[cut:])
        found = read_all(tmp_path)
        assert found == records[: len(found)]
        info = scan(path)
        assert info.corrupt == ()
        assert (info.torn_bytes > 0) == (cut > info.valid_bytes and len(found) < len(records))


def test_a_hole_in_the_last_group_is_told_to_be_perhaps_unanswered(tmp_path: Path) -> None:
    path = one_segment(tmp_path, some_bodies(9, up_to=600), group=3)
    records = read_all(tmp_path)
    flip(path, records[7].offset * 8 + 3)
    (corruption,) = scan(path).corrupt
    assert corruption.in_last_group
    flip(path, records[4].offset * 8 + 3)
    assert [c.in_last_group for c in scan(path).corrupt] == [False, True]


def test_a_segment_ends_where_the_next_one_says(tmp_path: Path) -> None:
    """What a refused group left behind does not come back."""
    files = open_log(tmp_path)
    put(files, some_bodies(5, up_to=600))
    first = LogReader(tmp_path).segments[0]
    kept = read_all(tmp_path)
    whole = first.read_bytes()
    put(files, [b"refused" * 50, b"refused too"])
    refused = first.read_bytes()
    first.write_bytes(whole)
    put(files, some_bodies(60, seed=1))
    first.write_bytes(refused)
    second = LogReader(tmp_path).segments[1]
    cut_header(second, previous_end=kept[-1].offset + kept[-1].size_bytes)
    assert list(LogReader(tmp_path).records(first)) == kept
    info = scan(first)
    assert (info.torn_bytes, info.corrupt) == (0, ())


def cut_header(path: Path, previous_end: int) -> None:
    """Change what a segment says of the one before it."""
    data = path.read_bytes()
    header = unpack_header(data)
    assert isinstance(header, SegmentHeader)
    page = pack_header(header._replace(previous_end=previous_end))[:PAGE_BYTES]
    path.write_bytes(page + data[PAGE_BYTES:])


def test_anything_missing_below_the_stated_end_is_corruption(tmp_path: Path) -> None:
    files = open_log(tmp_path)
    put(files, some_bodies(80))
    reader = LogReader(tmp_path)
    path = reader.segments[0]
    records = list(reader.records(path))
    data = path.read_bytes()
    os.truncate(path, records[-2].offset)
    info = scan(path)
    missing = records[-2].size_bytes + records[-1].size_bytes
    assert [(c.offset, c.size_bytes, c.reason) for c in info.corrupt] == [
        (records[-2].offset, missing, "the file is cut off")
    ]
    assert list(LogReader(tmp_path).records(path)) == records[:-2]
    path.write_bytes(data)
    flip(path, 8 * (records[-1].offset + 60))
    info = scan(path)
    assert [c.offset for c in info.corrupt] == [records[-1].offset]
    assert info.torn_bytes == 0
    assert not info.corrupt[0].in_last_group


def test_a_lost_next_segment_leaves_no_doubt_about_a_sound_one(tmp_path: Path) -> None:
    files = open_log(tmp_path)
    put(files, some_bodies(200))
    reader = LogReader(tmp_path)
    assert len(reader.segments) > 3
    records = [list(reader.records(path)) for path in reader.segments]
    reader.segments[1].unlink()
    found = LogReader(tmp_path)
    assert [list(found.records(path)) for path in found.segments] == [records[0], *records[2:]]
    info = found.scan(found.segments[0])
    assert (info.torn_bytes, info.corrupt) == (0, ())
    flip(found.segments[0], 8 * records[0][-1].offset)
    assert len(found.scan(found.segments[0]).corrupt) == 1


def test_a_body_full_of_what_records_begin_with_hides_nothing(tmp_path: Path) -> None:
    needle = RecordDecoder(1, None).needle
    path = one_segment(tmp_path, [b"a", (needle + b"\0\0\0\0") * 1500, b"b", b"c"], group=1)
    records = read_all(tmp_path)
    flip(path, 8 * (records[1].offset + 100))
    assert read_all(tmp_path) == [records[0], *records[2:]]
    # A whole record inside a body, of the right segment and at the wrong place.
    data = path.read_bytes()
    inner = data[records[0].offset : records[0].offset + records[0].size_bytes]
    other = one_segment(tmp_path / "other", [inner * 20, b"last"], group=1)
    flip(other, 8 * (PAGE_BYTES + 60))
    assert [record.body for record in read_all(tmp_path / "other")] == [b"last"]


def test_a_reader_never_writes(tmp_path: Path) -> None:
    path = one_segment(tmp_path, some_bodies(9))
    flip(path, 8 * 5000)
    data, before = path.read_bytes(), path.stat()
    scan(path)
    read_all(tmp_path)
    assert path.read_bytes() == data
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("size", [0, 1, 59, 100, 4095, 4096])
def test_a_file_cut_to_less_than_a_header_raises_nothing(tmp_path: Path, size: int) -> None:
    path = one_segment(tmp_path, some_bodies(3))
    os.truncate(path, size)
    info = scan(path)
    assert info.num_records == 0
    assert bool(info.corrupt) == (0 < size < 60)
    assert read_all(tmp_path) == []


def test_a_damaged_segment_is_copied_aside_once(tmp_path: Path) -> None:
    path = one_segment(tmp_path / "log", some_bodies(9))
    flip(path, 8 * 5000)
    info, aside = scan(path), tmp_path / "shard" / "aside"
    copy = set_aside(info, aside)
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert aside.stat().st_mode & 0o777 == 0o700
    assert set_aside(info, aside) == copy
    flip(path, 8 * 6000)
    other = set_aside(info, aside)
    assert other != copy
    assert other.read_bytes() == path.read_bytes()
    assert sorted(aside.iterdir()) == sorted([copy, other])
