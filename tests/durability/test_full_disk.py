"""A file system that takes nothing for a while: full, and read-only."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture.full_disk import FullDisk, ReadOnly
from benchmarks.torture.program import Context, Program

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def short_round(program: Program, folder: Path, number: int = 0) -> None:
    reason = program.requirement()
    if reason:
        pytest.skip(reason)
    context = Context(folder=folder, seed=1, first_round=number, workers=1, quick=True)
    verdict = program.round(context)
    assert verdict.is_clean, verdict
    assert verdict.refused > 0
    assert verdict.acknowledged_rows > 0


def test_a_full_disk_is_answered_503_until_there_is_room(tmp_path: Path) -> None:
    short_round(FullDisk(), tmp_path)


def test_a_directory_that_is_read_only_for_a_while_needs_no_restart(tmp_path: Path) -> None:
    short_round(ReadOnly(), tmp_path, number=0)


def test_a_file_system_that_fails_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    short_round(ReadOnly(), tmp_path, number=1)
