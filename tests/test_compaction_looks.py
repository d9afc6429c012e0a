"""Which tables a compactor looks at again, and which it knows to be quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ingest import delta
from ingest.clock import ManualClock
from ingest.compaction_looks import LOG_DIR, Looks
from ingest.paths import HOUR_US, table_dir
from tests.support.data_dir import CPU, HOUR_0_US, MEM, DataDirectory

CPU_DIR, MEM_DIR = table_dir(CPU), table_dir(MEM)
MINUTE_US = 60_000_000
#: Of the tests' tables: their rows are of the hour that begins at `HOUR_0_US`.
NOW_US = HOUR_0_US + 10 * MINUTE_US
OLDER_S, GRACE_S = 300.0, 900.0


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(DataDirectory(tmp_path / "data")) as made:
        made.start()
        for table in (CPU, MEM):
            made.flush(1, 1, table)
            touch(made, table_dir(table), HOUR_0_US)
        yield made


def touch(data: DataDirectory, folder: str, time_us: int) -> None:
    """Have a table's log changed at this time."""
    os.utime(data.root / folder / LOG_DIR, ns=(time_us * 1000, time_us * 1000))


def looks_at(data: DataDirectory, now_us: int, older_than_s: float = OLDER_S) -> Looks:
    return Looks(data.root, older_than_s, GRACE_S, ManualClock(now_us))


def settle(data: DataDirectory, now_us: int = NOW_US, due_us: int | None = None) -> None:
    """A look that found nothing to do, and was remembered."""
    looks = looks_at(data, now_us)
    for folder in looks.due():
        looks.settled(folder, 0, due_us)
    looks.save()


def test_the_name_of_a_log_is_that_of_delta() -> None:
    assert LOG_DIR == delta.LOG_DIR


def test_every_table_is_due_until_it_was_looked_at(data: DataDirectory) -> None:
    assert looks_at(data, NOW_US).due() == [CPU_DIR, MEM_DIR]
    settle(data)
    assert looks_at(data, NOW_US).due() == []


def test_one_that_was_not_settled_is_due_again(data: DataDirectory) -> None:
    looks = looks_at(data, NOW_US)
    looks.due()
    looks.settled(MEM_DIR, 0, None)
    looks.save()
    assert looks_at(data, NOW_US).due() == [CPU_DIR]


def test_what_left_a_table_by_its_last_change_may_go_later(data: DataDirectory) -> None:
    settle(data, NOW_US)
    assert looks_at(data, HOUR_0_US + 15 * MINUTE_US).due() == []
    assert looks_at(data, HOUR_0_US + 16 * MINUTE_US).due() == [CPU_DIR, MEM_DIR]
    settle(data, HOUR_0_US + 16 * MINUTE_US)
    assert looks_at(data, HOUR_0_US + 700 * MINUTE_US).due() == []


def test_the_end_of_an_hour_makes_a_table_due(data: DataDirectory) -> None:
    start_us = HOUR_0_US + 20 * MINUTE_US
    settle(data, start_us, due_us=HOUR_0_US + 65 * MINUTE_US)
    assert looks_at(data, HOUR_0_US + 64 * MINUTE_US).due() == []
    assert looks_at(data, HOUR_0_US + 65 * MINUTE_US).due() == [CPU_DIR, MEM_DIR]


def test_half_a_day_is_the_longest_that_nobody_looks(data: DataDirectory) -> None:
    settle(data, NOW_US + HOUR_US)
    assert looks_at(data, NOW_US + 12 * HOUR_US).due() == []
    assert looks_at(data, NOW_US + 14 * HOUR_US).due() == [CPU_DIR, MEM_DIR]


def test_a_clock_that_was_wrong_is_no_excuse(data: DataDirectory) -> None:
    settle(data, NOW_US + 400 * HOUR_US)
    assert looks_at(data, NOW_US).due() == [CPU_DIR, MEM_DIR]


def test_rows_of_the_hour_that_runs_make_it_due_at_its_end(data: DataDirectory) -> None:
    settle(data, NOW_US + 20 * MINUTE_US)
    data.flush(2, 2)
    data.flush(3, 3)
    touch(data, CPU_DIR, NOW_US + 20 * MINUTE_US)
    for now_us, due in (
        (NOW_US + 30 * MINUTE_US, []),  # and remembers it
        (HOUR_0_US + 64 * MINUTE_US, []),
        (HOUR_0_US + 65 * MINUTE_US, [CPU_DIR]),
    ):
        looks = looks_at(data, now_us)
        assert looks.due() == due
        looks.save()


def test_late_rows_make_it_due_at_once(data: DataDirectory) -> None:
    now_us = HOUR_0_US + 3 * HOUR_US
    settle(data, now_us)
    data.flush(2, 2, hours=(1,))
    touch(data, CPU_DIR, now_us)
    assert looks_at(data, now_us + MINUTE_US).due() == [CPU_DIR]


def test_files_that_leave_a_table_make_it_due_when_they_may_go(data: DataDirectory) -> None:
    now_us = NOW_US + 20 * MINUTE_US
    settle(data, now_us)
    data.commit_by_hand(CPU, delta.remove("x.parquet", now_us // 1000))
    touch(data, CPU_DIR, now_us)
    assert looks_at(data, now_us + 14 * MINUTE_US).due() == []
    assert looks_at(data, now_us + 16 * MINUTE_US).due() == [CPU_DIR]


def test_a_commit_just_after_another_is_found(data: DataDirectory) -> None:
    now_us = HOUR_0_US + 3 * HOUR_US
    touch(data, CPU_DIR, now_us)
    settle(data, now_us)
    data.flush(2, 2)
    touch(data, CPU_DIR, now_us)  # within the grain of the times that the disk keeps
    assert looks_at(data, now_us + MINUTE_US).due() == [CPU_DIR]


def test_other_limits_make_every_table_due(data: DataDirectory) -> None:
    settle(data)
    assert looks_at(data, NOW_US, older_than_s=0).due() == [CPU_DIR, MEM_DIR]


@pytest.mark.parametrize("content", [b"", b"{", b'{"older_than_s": 300}', b"[]"])
def test_a_note_that_cannot_be_read_costs_a_look(data: DataDirectory, content: bytes) -> None:
    settle(data)
    (data.root / ".arc/compaction.json").write_bytes(content)
    assert looks_at(data, NOW_US).due() == [CPU_DIR, MEM_DIR]
    settle(data)
    assert looks_at(data, NOW_US).due() == []


def test_a_commit_that_cannot_be_read_makes_it_due(data: DataDirectory) -> None:
    settle(data)
    (data.root / CPU_DIR / LOG_DIR / delta.commit_name(1)).write_bytes(b"{not json\n")
    assert looks_at(data, NOW_US).due() == [CPU_DIR]


def test_nothing_is_written_when_nothing_has_changed(data: DataDirectory) -> None:
    settle(data)
    before = data.snapshot()
    settle(data)
    assert data.snapshot() == before
