"""A wall clock that jumps, in a shard that is killed and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture.clock import Clock
from benchmarks.torture.program import Context


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_a_clock_that_jumps_loses_nothing_and_overwrites_nothing(tmp_path: Path) -> None:
    verdict = Clock().round(Context(folder=tmp_path, seed=1, quick=True))
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
    assert verdict.compared > 0
    assert verdict.figures["hours"] > 1
