"""The power fails: what the harness takes away, and that the daemon keeps what it acknowledged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from benchmarks.torture import mounts
from benchmarks.torture.power import PowerCut
from benchmarks.torture.program import Context

IMAGE_BYTES = 32 * mounts.MIB


@pytest.fixture(autouse=True)
def _can_mount() -> None:
    reason = mounts.ext4_requirement()
    if reason:
        pytest.skip(reason)


def write(path: Path, *, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(b"content")
        file.flush()
        if sync:
            os.fsync(file.fileno())


def devices_of(folder: Path) -> str:
    return "\n".join(
        line for line in mounts.run("losetup", "-a").splitlines() if str(folder) in line
    )


@pytest.mark.parametrize("options", ["defaults", mounts.HARSH_OPTIONS])
def test_a_cut_takes_what_was_not_synced_and_nothing_else(tmp_path: Path, options: str) -> None:
    with mounts.new_image(tmp_path / "disk.img", IMAGE_BYTES) as image:
        with (
            mounts.loop_device(image) as device,
            mounts.mounted(device, tmp_path / "disk", options, "ext4") as disk,
        ):
            write(disk / "kept", sync=True)
            write(disk / "lost", sync=False)
            mounts.cut_power(disk)
            mounts.copy_image(image, tmp_path / "copy.img")
            with pytest.raises(OSError, match="Input/output error"):
                (disk / "late").touch()
        with (
            mounts.loop_device(tmp_path / "copy.img") as device,
            mounts.mounted(device, tmp_path / "copy", "defaults", "ext4") as copy,
        ):
            assert (copy / "kept").read_bytes() == b"content"
            lost = copy / "lost"
            assert not lost.exists() or lost.stat().st_size == 0


def test_nothing_is_left_of_a_file_system_whose_user_failed(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), mounts.ext4(tmp_path, IMAGE_BYTES) as disk:
        assert os.path.ismount(disk)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    assert devices_of(tmp_path) == ""


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path) -> None:
    context = Context(folder=tmp_path, seed=1, first_round=1, workers=1, quick=True)
    verdict = PowerCut().round(context)
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
    assert devices_of(tmp_path) == ""


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_rows_that_are_only_in_the_page_cache_are_seen_to_be_lost(tmp_path: Path) -> None:
    context = Context(folder=tmp_path, seed=1, workers=1, durability="page", quick=True)
    verdict = PowerCut(flush_ages_s=("60",)).round(context)
    assert verdict.lost > 0, verdict
    assert (tmp_path / "crashed.img").exists(), "what was found is kept to be looked at"
