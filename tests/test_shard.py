"""A shard has one owner, and no two of its lives share a name for anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.shard import Shard, ShardInUseError


def test_every_start_begins_a_new_epoch(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        shard = Shard.acquire(tmp_path, 0)
        epochs.append(shard.epoch)
        shard.release()
    assert epochs == [1, 2, 3]


def test_a_shard_that_is_in_use_is_refused_by_name(tmp_path: Path) -> None:
    shard = Shard.acquire(tmp_path, 2)
    with pytest.raises(ShardInUseError, match="shards/002 is in use"):
        Shard.acquire(tmp_path, 2)
    other = Shard.acquire(tmp_path, 3)
    other.release()
    shard.release()


def test_a_write_of_the_epoch_that_was_cut_off_changes_nothing(tmp_path: Path) -> None:
    Shard.acquire(tmp_path, 0).release()
    (tmp_path / "shards" / "000" / "epoch.new").write_text("9")  # never renamed
    shard = Shard.acquire(tmp_path, 0)
    assert shard.epoch == 2
    shard.release()
