"""`power-cut`: the power fails under load, and a daemon goes on with what the disk has.

The data directory is on an ext4 in an image file. At a random moment the file system is shut off
(`mounts.cut_power`): what it had not handed to its block device is gone. In half of the rounds
the daemon is killed first, as by a machine that hangs, in the other half it is still writing.
The image is then copied and the copy mounted, which replays ext4's journal, and a daemon is
started there, up to twice under load with another cut, in the end to be stopped and judged.

At the level `disk` no acknowledged row may be lost. At `page` rows must be lost: a run with
`--durability page` shows that this program can tell.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.torture import mounts
from benchmarks.torture.daemon import Daemon
from benchmarks.torture.load import Ledger, Load, Options, Outcome
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context

IMAGE_BYTES = 1 << 30
#: Small ones make many commits; with the large one most rows are in the log alone.
FLUSH_AGES_S = ("0.02", "0.2", "1", "30")
SEGMENT_SIZES = ("1MiB", "4MiB", "64MiB")
MOST_CUTS = 3
#: The disk as the last cut left it, kept beside a bad verdict.
CRASHED = "crashed.img"
#: Acknowledged requests before the power may fail, and seconds after that.
FIRST_REQUESTS = 20
LOAD_S = (0.0, 2.5)
READY_TIMEOUT_S = 120.0


class PowerCut:
    """The program; see the module.

    Args:
        flush_ages_s: Of which each daemon gets one.
    """

    name = "power-cut"
    description = "power fails under load: an ext4 image as its device had received it"
    default_rounds = 4
    record_rounds = 100
    group = 1

    def __init__(self, flush_ages_s: Sequence[str] = FLUSH_AGES_S) -> None:
        self._flush_ages_s = flush_ages_s

    def requirement(self) -> str | None:
        """Why it cannot run here, None when it can."""
        return mounts.ext4_requirement()

    def round(self, context: Context) -> Verdict:
        """Cut the power once to three times, then recover and judge."""
        chance, harsh = context.chance, context.first_round % 2 == 1
        options = mounts.HARSH_OPTIONS if harsh else "defaults"
        cuts = 1 if context.quick else chance.choice((1, 1, MOST_CUTS - 1, MOST_CUTS))
        with _images_removed(context.folder):
            image = context.folder / "disk-0.img"
            mounts.make_image(image, IMAGE_BYTES)
            for cut in range(cuts):
                after = context.folder / f"disk-{cut + 1}.img"
                with _disk(context, image, options) as disk:
                    _run_until_cut(context, disk, cut, chance.choice(self._flush_ages_s))
                    mounts.copy_image(image, after)
                image.unlink()
                image = after
            crashed = context.folder / CRASHED
            mounts.copy_image(image, crashed)
            with _disk(context, image, "defaults") as disk:
                verdict = _recover(context, disk)
        if verdict.is_clean:
            crashed.unlink()
        verdict.figures["cuts"] = cuts
        return verdict


@contextmanager
def _images_removed(folder: Path) -> Iterator[None]:
    """Leave no image behind, but for the one to look at when a verdict is bad."""
    try:
        yield
    except KeyboardInterrupt:
        (folder / CRASHED).unlink(missing_ok=True)
        raise
    finally:
        for image in folder.glob("disk-*.img"):
            image.unlink()


@contextmanager
def _disk(context: Context, image: Path, options: str) -> Iterator[Path]:
    """A mounted image, which is empty or was cut off."""
    with (
        mounts.loop_device(image) as device,
        mounts.mounted(device, context.folder / "disk", options, "ext4") as disk,
    ):
        yield disk


def _run_until_cut(context: Context, disk: Path, cut: int, age: str) -> None:
    """One life of a daemon, ended by a cut: the first at the earliest under load."""
    chance, ledger = context.chance, context.ledger
    size = chance.choice(SEGMENT_SIZES)
    flags = ("--flush-age-s", age, "--log-segment-bytes", size)
    with context.daemon(*flags, data_dir=disk / "data") as daemon:
        daemon.start()
        daemon.wait_until_known() if cut else daemon.wait_until_ready()
        options = Options(seed=chance.randrange(1 << 30), extra_columns=cut + 1)
        before = ledger.outcomes()[Outcome.ACKNOWLEDGED]
        with Load(daemon.address, ledger, options) as load:
            if not cut:  # else it may fail during the replay of the log
                load.wait_for(before + FIRST_REQUESTS)
            load.wait(chance.uniform(*LOAD_S) / (3 if context.quick else 1))
            kill_first = chance.random() < 0.5
            cut_us = _cut(disk, daemon, kill_first=kill_first)
    _forget_answers_after(ledger, cut_us, keep_204=kill_first)
    who = "daemon killed, then" if kill_first else "daemon running,"
    context.say(f"cut {cut + 1}: {who} power cut; flush age {age} s, segments {size}")


def _cut(disk: Path, daemon: Daemon, *, kill_first: bool) -> int:
    """End daemon and disk; when that was, in µs of the wall clock."""
    cut_us = time.time_ns() // 1000
    if kill_first:
        daemon.kill_tree()
        mounts.cut_power(disk)
    else:
        mounts.cut_power(disk)
        daemon.kill_tree()
    return cut_us


def _forget_answers_after(ledger: Ledger, cut_us: int, *, keep_204: bool) -> None:
    """Take answers for unknown that were written when there was no power any more.

    A daemon that still runs sees errors then, and 503 says nothing of what the disk has. ext4
    even lets an fdatasync succeed that was under way when it was shut off, though what it wrote
    is lost: it does not hear of an unwritten extent that could not be converted. A 204 of a
    daemon that was killed before the cut holds.
    """
    for request in ledger.requests:
        held = request.outcome == Outcome.ACKNOWLEDGED and keep_204
        if request.done_us >= cut_us and not held:
            request.outcome = Outcome.UNKNOWN


def _recover(context: Context, disk: Path) -> Verdict:
    """Start a daemon on what is left, stop it when it has recovered, and judge."""
    data_dir = disk / "data"
    with context.daemon(data_dir=data_dir) as daemon:
        daemon.start()
        recovery_s = daemon.wait_until_ready(READY_TIMEOUT_S)
        status = daemon.stop()
    verdict = context.judge(data_dir)
    verdict.require(status == 0, f"the daemon ended with status {status} after its recovery")
    verdict.figures["start_s"] = recovery_s
    check_leftovers(data_dir, verdict)
    return verdict


def judge_all(context: Context, data_dir: Path, seen: Verdict) -> Verdict:
    """The verdict of the files, of what else lies there, and of what was seen on the way."""
    found = context.judge(data_dir)
    found.add(seen)
    check_leftovers(data_dir, found)
    return found


def check_leftovers(data_dir: Path, verdict: Verdict) -> None:
    """What no file below a data directory may be: empty by its name, or half a commit."""
    for path in data_dir.rglob("*.parquet"):
        verdict.require(path.stat().st_size > 0, f"{path} is empty")
    for path in data_dir.rglob("_delta_log/*.json"):
        try:
            lines = path.read_text().splitlines()
            verdict.require(lines and all(map(json.loads, lines)), f"{path} holds no action")
        except ValueError as error:
            verdict.require(False, f"{path} is torn: {error}")
    staging = data_dir / ".arc" / "staging"
    left = os.listdir(staging) if staging.exists() else []
    verdict.require(not left, f"{len(left)} staged files are left: {left[:3]}")


PROGRAMS = (PowerCut(),)
