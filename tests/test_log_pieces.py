"""A file is read whole through a small buffer, also where it is cut off or cannot be read."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingest import log_pieces
from ingest.log_pieces import Pieces


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_pieces, "PIECE_BYTES", 64)


def test_any_part_of_a_file_is_seen_in_any_order(tmp_path: Path, small_pieces: None) -> None:
    path, data, rng = tmp_path / "f", random.Random(1).randbytes(1000), random.Random(2)
    path.write_bytes(data)
    with Pieces(path) as pieces:
        for _ in range(300):
            offset, size = rng.randrange(1100), rng.randrange(300)
            assert bytes(pieces.view(offset, size)) == data[offset : offset + size]
            piece = bytes(pieces.piece(offset))
            assert data[offset:].startswith(piece)
            assert bool(piece) == (offset < len(data))


def test_a_needle_is_found_at_whole_steps_also_across_pieces(
    tmp_path: Path, small_pieces: None
) -> None:
    path, needle = tmp_path / "f", b"needle12345!"
    for place in range(0, 400, 8):
        data = bytearray(420)
        data[place : place + len(needle)] = needle
        if place >= 24:
            data[3 : 3 + len(needle)] = needle  # not at a step
        path.write_bytes(data)
        with Pieces(path) as pieces:
            assert pieces.find(needle, 8, 0, 420) == place
            assert pieces.find(needle, 8, place, 420) == place
            assert pieces.find(needle, 8, place + 8, 420) == -1
            assert pieces.find(needle, 8, 0, place + len(needle) - 1) == -1


@pytest.mark.parametrize("last", [0, 1, 63, 64, 65, 500])
def test_the_last_byte_that_is_not_zero_is_found(
    tmp_path: Path, small_pieces: None, last: int
) -> None:
    path = tmp_path / "f"
    data = bytearray(600)
    data[last] = 1
    path.write_bytes(data)
    with Pieces(path) as pieces:
        assert pieces.nonzero_end(0) == last + 1
        assert pieces.nonzero_end(550) == 550


def test_an_empty_file_has_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    with Pieces(path) as pieces:
        assert not len(pieces.view(0, 10))
        assert not len(pieces.piece(0))
        assert pieces.find(b"x", 8, 0, 10) == -1
        assert pieces.nonzero_end(0) == 0


def test_a_file_that_is_cut_off_while_it_is_read_ends_there(
    tmp_path: Path, small_pieces: None
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 1000)
    with Pieces(path) as pieces:
        os.truncate(path, 300)
        assert len(pieces.view(290, 40)) == 10
        assert pieces.size == 300


def test_a_page_that_cannot_be_read_is_lost_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "f", random.Random(3).randbytes(5 * 4096)
    path.write_bytes(data)
    real, bad = os.preadv, range(8192, 12288)

    def preadv(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        into = buffers[0]
        if offset in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        until_bad = bad.start - offset if offset < bad.start else len(into)
        return real(descriptor, [into[:until_bad]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with Pieces(path) as pieces:
        expected = data[:8192] + b"\xff" * 4096 + data[12288:]
        assert bytes(pieces.view(0, len(data))) == expected
        assert bytes(pieces.view(9000, 100)) == b"\xff" * 100
        assert pieces.unreadable == {8192}


@pytest.mark.parametrize("at", [8, 40 << 20, (64 << 20) - 16])
def test_what_lies_behind_room_that_was_never_written_is_found(tmp_path: Path, at: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(at)
        file.write(b"needle")
    with Pieces(path) as pieces:
        assert pieces.find(b"needle", 8, 0, pieces.size) == at
        assert pieces.find(b"needle", 8, at + 8, pieces.size) == -1
        assert pieces.find(b"needle", 8, 0, at) == -1
