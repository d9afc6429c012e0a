"""A log that was cut off or has a flipped bit, read here and by a daemon that starts on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture.program import Context
from benchmarks.torture.saved_log import QUICK, SavedLog, flip


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_damage_costs_no_record_but_the_damaged_one(tmp_path: Path) -> None:
    verdict = SavedLog().round(Context(folder=tmp_path, seed=1, quick=True))
    assert verdict.is_clean, verdict
    assert verdict.figures["records"] >= QUICK[0]
    assert verdict.figures["bytes cut at"] > 0
    assert verdict.figures["flips"] == QUICK[2]


def test_a_bit_that_is_flipped_twice_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x00\x01\x02")
    flip(path, 8 + 3)
    assert path.read_bytes() == b"\x00\x09\x02"
    flip(path, 8 + 3)
    assert path.read_bytes() == b"\x00\x01\x02"
