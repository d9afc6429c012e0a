"""A small file has its old content or its new one, and a refusal names the file and the reason."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ingest.disk import refusals, replace_file, sync_directory
from ingest.errors import StorageError


def test_a_file_is_replaced_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path, temporary = tmp_path / "f", tmp_path / "f.new"
    for content in (b"one", b"", b"three" * 100_000):
        replace_file(path, content, temporary)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert not temporary.exists()


def test_a_leftover_of_an_earlier_attempt_is_no_obstacle(tmp_path: Path) -> None:
    path, temporary = tmp_path / "f", tmp_path / "f.new"
    temporary.write_bytes(b"half of what was never fini")
    replace_file(path, b"whole", temporary)
    assert path.read_bytes() == b"whole"


def test_what_cannot_be_written_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No such file"):
        replace_file(path, b"new", tmp_path / "missing" / "f.new")
    assert path.read_bytes() == b"old"


def test_only_a_directory_is_synced_as_one(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    (tmp_path / "f").touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "f")


def test_a_refusal_names_what_and_why() -> None:
    message = r"cannot write /x/1\.log: No space left on device \(ENOSPC\)"
    with pytest.raises(StorageError, match=message), refusals(Path("/x/1.log"), "write"):
        raise OSError(errno.ENOSPC, "whatever")
    with (
        pytest.raises(StorageError, match="cannot write /x: strange"),
        refusals(Path("/x"), "write"),
    ):
        raise OSError("strange")
