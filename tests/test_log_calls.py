"""The calls do what the system does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.log_calls import LogCalls


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    calls = LogCalls()
    calls.make_directory(tmp_path / "log")
    descriptor = calls.create(tmp_path / "log" / "f")
    calls.fallocate(descriptor, 8192)
    calls.close(descriptor)
    found = (tmp_path / "log" / "f").stat()
    assert (found.st_size, found.st_mode & 0o777) == (8192, 0o600)
    assert found.st_blocks * 512 >= 8192
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


def test_a_file_that_exists_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(FileExistsError):
        LogCalls().create(tmp_path / "f")
