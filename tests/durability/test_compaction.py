"""Short rounds of what kills compactors, and of what counts rows while files are merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture.compaction import Compaction
from benchmarks.torture.counting import Counting
from benchmarks.torture.program import Context

#: A round takes less than 10 s; beside others at work, minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_rows_survive_the_kill_of_a_compactor_amid_its_work(tmp_path: Path) -> None:
    verdict = Compaction().round(Context(folder=tmp_path, quick=True, seed=1))
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
    assert verdict.tallies["kills of a compactor"] == 1
    assert verdict.tallies["merges"] > 0


def test_no_count_is_ever_wrong_while_files_are_flushed_and_merged(tmp_path: Path) -> None:
    verdict = Counting().round(Context(folder=tmp_path, quick=True, seed=1))
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
    assert verdict.tallies["answers"] >= 20
    assert verdict.tallies["merges"] > 0
