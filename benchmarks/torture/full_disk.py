"""`full-disk` and `read-only`: the file system of the data directory takes nothing for a while.

`full-disk`: a tmpfs of 64 MiB, filled up by a balloon of a size that leaves room of another size
in each round, and by the load itself; then the balloon goes. Wanted: only 503 while it is full,
204 within `RESUME_S` of the balloon's end, nothing acknowledged lost, nothing refused stored.

`read-only`: a file system with files open for writing cannot be made read-only by hand, the
kernel refuses that as busy. What happens in the field is an ext4 with errors=remount-ro that
meets an error: from then on every write fails with EROFS, and only a new mount ends it. Half of
the rounds do just that, and start the daemon again on the new mount. In the other half the data
directory is hidden behind a read-only mount of itself: every new file, name and directory is
refused with EROFS, and when the mount goes the daemon must go on without a restart.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.torture import mounts
from benchmarks.torture.daemon import Daemon
from benchmarks.torture.inject import RESUME_S, check_statuses
from benchmarks.torture.load import Ledger, Load, Options, Outcome
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.power import judge_all
from benchmarks.torture.program import Context
from benchmarks.torture.watch import Watch

DISK_BYTES = 64 * mounts.MIB
EXT4_BYTES = 512 * mounts.MIB
#: Segments and budgets that leave most of 64 MiB to the files. One worker in half of the rounds.
FULL_FLAGS = ("--log-segment-bytes", "1MiB", "--log-bytes", "16MiB", "--memory-bytes", "64MiB")
#: Free bytes below which nothing is taken: by the watermark, by failing writes, by either.
WATERMARKS = ("8MiB", "1MiB", "0")
FLUSH_AGES_S = ("0.1", "1")
FULL_TIMEOUT_S = 20.0
FULL_S = 1.0
#: Refusals that prove that it is full.
ENOUGH_REFUSALS = 5
_BALLOON_STEP = 1 << 18


class FullDisk:
    """The program; see the module."""

    name = "full-disk"
    description = "a 64 MiB tmpfs filled by a balloon and by the load, and freed"
    default_rounds = 3
    record_rounds = 20
    group = 1

    def requirement(self) -> str | None:
        """Why it cannot run here, None when it can."""
        return mounts.tmpfs_requirement()

    def round(self, context: Context) -> Verdict:
        """Fill it, wait for refusals, free it, wait for 204."""
        chance = context.chance
        age, watermark = chance.choice(FLUSH_AGES_S), chance.choice(WATERMARKS)
        flags = (*FULL_FLAGS, "--min-free-disk-bytes", watermark, "--flush-age-s", age)
        with mounts.tmpfs(context.folder, DISK_BYTES) as disk:
            balloon = _balloon(disk / "balloon", chance.choice((0, 1 << 20, 6 << 20)))
            return _refused_and_resumed(context, disk / "data", flags, balloon)


class ReadOnly:
    """The program; see the module."""

    name = "read-only"
    description = "the file system turns read-only under load, and back"
    default_rounds = 2
    record_rounds = 20
    group = 1

    def requirement(self) -> str | None:
        """Why it cannot run here, None when it can."""
        return mounts.ext4_requirement()

    def round(self, context: Context) -> Verdict:
        """An error of the file system, or a read-only mount over the data directory."""
        image = context.folder / "disk.img"
        with mounts.new_image(image, EXT4_BYTES), mounts.loop_device(image) as device:
            if context.first_round % 2:
                return self._fail(context, device)
            return self._hide(context, device)

    def _hide(self, context: Context, device: str) -> Verdict:
        where = context.folder / "disk"
        with mounts.mounted(device, where, "defaults", "ext4") as disk:
            data_dir, flags = disk / "data", _read_only_flags(context)
            return _refused_and_resumed(context, data_dir, flags, mounts.shown_read_only(data_dir))

    def _fail(self, context: Context, device: str) -> Verdict:
        verdict = Verdict()
        where, flags = context.folder / "disk", _read_only_flags(context)
        with (
            mounts.mounted(device, where, "errors=remount-ro", "ext4") as disk,
            context.daemon(*flags, data_dir=disk / "data") as daemon,
        ):
            daemon.start()
            daemon.wait_until_ready()
            with _under_load(context, daemon, verdict) as watch:
                failed_us = time.time_ns() // 1000
                mounts.fail_file_system(device)
                _expect_refusals(watch, FULL_TIMEOUT_S, verdict)
        _forget_refusals_of_the_last_group(context.ledger, failed_us)
        with mounts.mounted(device, where, "defaults", "ext4") as disk:
            with context.daemon(*flags, data_dir=disk / "data") as daemon:
                daemon.start()
                daemon.wait_until_ready()
                daemon.stop()
            return judge_all(context, disk / "data", verdict)


def _refused_and_resumed(
    context: Context,
    data_dir: Path,
    flags: Sequence[str],
    trouble: AbstractContextManager[None],
) -> Verdict:
    """A daemon under load that refuses while the trouble lasts, and takes writes after it."""
    verdict = Verdict()
    with context.daemon(*flags, data_dir=data_dir) as daemon:
        daemon.start()
        daemon.wait_until_ready()
        with _under_load(context, daemon, verdict) as watch:
            with trouble:
                _expect_refusals(watch, FULL_TIMEOUT_S, verdict)
                time.sleep(0.2 if context.quick else FULL_S)
            _expect_resumption(watch, verdict)
        _restart(context, daemon)
    return judge_all(context, data_dir, verdict)


def _read_only_flags(context: Context) -> tuple[str, ...]:
    """Small segments, so that a new file is wanted soon."""
    age = context.chance.choice(FLUSH_AGES_S)
    return ("--log-segment-bytes", "64KiB", "--log-bytes", "4MiB", "--flush-age-s", age)


def _forget_refusals_of_the_last_group(ledger: Ledger, failed_us: int) -> None:
    """Take a refusal for unknown if it came when the disk failed for good.

    A group that was written and whose sync failed is refused, and a mark after it says so. On
    the failed disk no mark can be left, so the next start finds the group like one that was
    never answered. Only requests sent before the failure can be in it.
    """
    for request in ledger.requests:
        if request.outcome == Outcome.REFUSED and request.sent_us <= failed_us:
            request.outcome = Outcome.UNKNOWN


@contextmanager
def _under_load(context: Context, daemon: Daemon, verdict: Verdict) -> Iterator[Watch]:
    """A load and a watch; in the end, what was answered is judged."""
    ledger = context.ledger
    options = Options(seed=context.chance.randrange(1 << 30), rate=400.0)
    with Load(daemon.address, ledger, options) as load, Watch(daemon.address, ledger) as watch:
        load.wait_for(50)
        yield watch
    watch.judge(verdict)
    check_statuses(ledger, verdict)
    told = "; ".join(watch.reasons()[:2])
    context.say(f"{len(watch.writes)} asked, {watch.refused_since(0.0)} refused, /ready: {told}")


def _expect_refusals(watch: Watch, timeout_s: float, verdict: Verdict) -> None:
    """Wait until some writes in a row were refused, and /ready says why."""
    deadline_s = time.monotonic() + timeout_s
    while not all(a.status == 503 for a in watch.writes[-ENOUGH_REFUSALS:]):
        if time.monotonic() > deadline_s:
            verdict.require(False, f"not refused within {timeout_s:g} s, /ready {_ready(watch)}")
            return
        time.sleep(0.01)
    late_s = watch.wait_for(watch.readiness, 503, 2.0)
    verdict.require(late_s is not None, "writes are refused and /ready is not 503")


def _ready(watch: Watch) -> str:
    last = watch.readiness[-1] if watch.readiness else None
    return f"{last.status} {last.text.strip()}" if last else "was not asked"


def _expect_resumption(watch: Watch, verdict: Verdict) -> None:
    took_s = watch.wait_for(watch.writes, 204, RESUME_S)
    verdict.require(took_s is not None, f"no 204 within {RESUME_S:g} s of room to write")
    ready_s = watch.wait_for(watch.readiness, 200, RESUME_S)
    verdict.require(ready_s is not None, f"not ready within {RESUME_S:g} s of room to write")
    verdict.figures["resume_s"] = RESUME_S if took_s is None else took_s


@contextmanager
def _balloon(path: Path, spare_bytes: int) -> Iterator[None]:
    """A file that takes all room but some bytes, and goes again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        _inflate(descriptor, spare_bytes)
        yield
    finally:
        os.close(descriptor)
        path.unlink()


def _inflate(descriptor: int, spare_bytes: int) -> None:
    """Grow until so many bytes are left, or none."""
    size_bytes = 0
    while True:
        found = os.fstatvfs(descriptor)
        step = min(found.f_bavail * found.f_frsize - spare_bytes, _BALLOON_STEP)
        if step <= 0:
            return
        try:
            os.posix_fallocate(descriptor, size_bytes, step)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # others write as well
                return
            raise
        size_bytes += step


def _restart(context: Context, daemon: Daemon) -> None:
    """Kill or stop it; start it again; stop it."""
    if context.chance.random() < 0.5:
        daemon.kill_tree()
    else:
        daemon.stop()
    daemon.start()
    daemon.wait_until_ready()
    daemon.stop()


PROGRAMS = (FullDisk(), ReadOnly())
