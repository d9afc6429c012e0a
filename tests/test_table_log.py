"""A commit makes all files part of the table, once, however often it is asked.

The tests take any `TableLog`: one that keeps a record of its own joins the list in `log`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ingest.errors import IngestError, StorageError
from ingest.paths import LogRange, TableId, file_name, hour_dir, table_dir
from ingest.store import LocalStore, StagedFile
from ingest.table_log import FolderTableLog, TableLog

CPU = TableId("Prod", "disk/io")
MARKS = LogRange(shard=0, epoch=1, first_seq=1, last_seq=42)
HOUR_US = 3_600_000_000


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture(params=[FolderTableLog])
def log(request: pytest.FixtureRequest, store: LocalStore) -> TableLog:
    make: Callable[[LocalStore], TableLog] = request.param
    return make(store)


def stage(store: LocalStore, table: TableId, hours: Sequence[int]) -> list[StagedFile]:
    name = file_name(MARKS.shard, MARKS.epoch, MARKS.first_seq, MARKS.last_seq)
    return [
        store.stage(
            f"{table_dir(table)}/{hour_dir(hour * HOUR_US)}/{name}",
            lambda path: Path(path).write_bytes(b"rows"),
            num_rows=1,
            min_time_us=hour * HOUR_US,
            max_time_us=hour * HOUR_US,
        )
        for hour in hours
    ]


def files_of(store: LocalStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*.parquet"))


def test_committed_files_lie_in_the_folders_of_their_hours(
    log: TableLog, store: LocalStore
) -> None:
    log.commit(CPU, stage(store, CPU, [0, -1]), MARKS)
    name = "s000-e000001-000000000001-000000000042.parquet"
    assert files_of(store) == [
        f"@50rod/disk@2Fio/1969/12/31/23/{name}",
        f"@50rod/disk@2Fio/1970/01/01/00/{name}",
    ]


def test_a_commit_can_be_repeated(log: TableLog, store: LocalStore) -> None:
    files = stage(store, CPU, [0, 1])
    log.commit(CPU, files, MARKS)
    log.commit(CPU, files, MARKS)
    assert files_of(store) == sorted(file.path for file in files)


def test_a_commit_that_fails_adds_nothing_and_can_be_repeated(
    log: TableLog, store: LocalStore
) -> None:
    files = stage(store, CPU, [0, 1])
    blocker = store.root / table_dir(CPU) / hour_dir(HOUR_US)
    blocker.parent.mkdir(parents=True)
    blocker.write_bytes(b"")
    with pytest.raises(StorageError):
        log.commit(CPU, files, MARKS)
    assert files_of(store) == []
    os.unlink(blocker)
    log.commit(CPU, files, MARKS)
    assert files_of(store) == sorted(file.path for file in files)


def test_a_file_of_another_table_is_a_defect(log: TableLog, store: LocalStore) -> None:
    files = stage(store, TableId("Prod", "disk/iops"), [0])
    with pytest.raises(IngestError, match="BUG"):
        log.commit(CPU, files, MARKS)
    assert files_of(store) == []
