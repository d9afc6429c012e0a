"""Who may change tables: one at a time, and compactors give way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.turn import BusyError, CompactionBusyError, is_taken, my_compaction, my_turn


def test_a_turn_that_is_taken_is_told_and_given_back(tmp_path: Path) -> None:
    assert not is_taken(tmp_path)
    with my_turn(tmp_path):
        assert is_taken(tmp_path)
        with pytest.raises(BusyError, match="another delete or retention run"), my_turn(tmp_path):
            pass
    assert not is_taken(tmp_path)
    with my_turn(tmp_path):
        pass


def test_compactors_and_others_have_turns_of_their_own(tmp_path: Path) -> None:
    with my_compaction(tmp_path), my_turn(tmp_path):
        with pytest.raises(CompactionBusyError, match="another compactor"):
            my_compaction(tmp_path).__enter__()
        assert is_taken(tmp_path)
