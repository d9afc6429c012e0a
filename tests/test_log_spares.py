"""Spare files have the size of a segment and all their room, and only so many are kept."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ingest.errors import StorageError
from ingest.log_spares import SpareFiles
from tests.support.log_faults import FaultyCalls, nth

SIZE = 16384


def spares(folder: Path, calls: FaultyCalls | None = None, max_files: int = 2) -> SpareFiles:
    return SpareFiles(folder, SIZE, max_files, calls or FaultyCalls())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def allocated(path: Path, size_bytes: int = SIZE) -> Path:
    path.write_bytes(b"x" * size_bytes)
    return path


def test_a_new_file_has_its_size_and_all_its_room(tmp_path: Path) -> None:
    files = spares(tmp_path)
    one = files.take(SIZE).rename(tmp_path / "000000000001.log")
    large = files.take(4 * SIZE)
    assert one.stat().st_size == SIZE <= one.stat().st_blocks * 512
    assert large.stat().st_size == 4 * SIZE
    assert one.stat().st_mode & 0o777 == 0o600


def test_what_was_prepared_is_taken_first_and_a_large_file_does_not_replace_it(
    tmp_path: Path,
) -> None:
    calls = FaultyCalls()
    files = spares(tmp_path, calls)
    files.prepare()
    files.prepare()
    large = files.take(2 * SIZE)
    assert names(tmp_path) == ["spare-new-1.log", "spare-new-2.log"]
    assert calls.counts["fallocate"] == 2
    assert files.take(SIZE) != large
    assert calls.counts["fallocate"] == 2


def test_only_files_of_the_right_size_are_kept_and_only_so_many(tmp_path: Path) -> None:
    files = spares(tmp_path)
    kept = []
    for number, size_bytes in enumerate((SIZE, 2 * SIZE, SIZE, SIZE), 1):
        path = allocated(tmp_path / f"{number:012d}.log", size_bytes)
        kept.append(files.give(path, number, size_bytes))
    assert kept == [True, False, True, False]
    assert names(tmp_path) == [
        "000000000002.log",
        "000000000004.log",
        "spare-000000000001.log",
        "spare-000000000003.log",
    ]


def test_spares_of_a_predecessor_are_used_if_they_are_whole(tmp_path: Path) -> None:
    allocated(tmp_path / "spare-000000000007.log")
    allocated(tmp_path / "spare-000000000003.log", SIZE - 1)
    allocated(tmp_path / "000000000099.log")
    with (tmp_path / "spare-new-1.log").open("wb") as sparse:
        sparse.truncate(SIZE)
    files = spares(tmp_path)
    assert files.load() == 7
    assert names(tmp_path) == ["000000000099.log", "spare-000000000007.log"]
    assert files.take(SIZE).name == "spare-000000000007.log"


def test_more_spares_than_wanted_are_deleted(tmp_path: Path) -> None:
    for number in range(1, 6):
        allocated(tmp_path / f"spare-{number:012d}.log")
    files = spares(tmp_path)
    assert files.load() == 5
    assert len(files) == 2 == len(names(tmp_path))


def test_clear_deletes_all_and_keeps_none_from_then_on(tmp_path: Path) -> None:
    files = spares(tmp_path)
    files.prepare()
    files.clear()
    assert names(tmp_path) == []
    assert not files.give(allocated(tmp_path / "000000000001.log"), 1, SIZE)


@pytest.mark.parametrize("call", ["create", "fallocate"])
def test_a_file_that_cannot_be_allocated_leaves_nothing_and_the_next_attempt_works(
    tmp_path: Path, call: str
) -> None:
    files = spares(tmp_path, FaultyCalls(nth(call, 1, code=errno.ENOSPC)))
    with pytest.raises(StorageError, match=r"cannot allocate .*ENOSPC"):
        files.take(SIZE)
    assert names(tmp_path) == []
    assert files.take(SIZE).exists()
