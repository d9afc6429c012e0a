"""Producers that are killed, forked, raced, and out of room: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

import pytest

from arc.client.errors import SpillError, SpillFullError
from arc.client.spill import Spill
from benchmarks.torture.mounts import (
    HARSH_OPTIONS,
    copy_image,
    cut_power,
    ext4_requirement,
    loop_device,
    mounted,
    new_image,
    shown_read_only,
    tmpfs,
    tmpfs_requirement,
)
from tests.client.spill_producer import MAX_BYTES, SEGMENT_BYTES, contents, make, until_full

ROOT = Path(__file__).parents[2]
ROUNDS = 30


def start(*arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.client.spill_producer", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, text=True)


class Spills:
    """Spills that are dropped at the end, so that no file keeps a file system busy."""

    def __init__(self) -> None:
        self._spills: list[Spill] = []

    def __enter__(self) -> Spills:
        return self

    def __exit__(self, *_: object) -> None:
        for spill in self._spills:
            spill.abandon()

    def open(self, folder: Path, max_bytes: int = 1 << 30) -> Spill:
        self._spills.append(Spill(folder, max_bytes, segment_bytes=SEGMENT_BYTES))
        return self._spills[-1]


def output_of(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


class Oracle:
    """What a spill must hold, by the journal of who wrote to it.

    Attributes:
        held: Taken and not settled; whether marked as sent.
        open: Begun and not done, when the journal ends: the letter, by key.
    """

    def __init__(self) -> None:
        self.held: dict[str, bool] = {}
        self.open: dict[str, str] = {}
        self._recovered: dict[str, bool] = {}

    def read(self, lines: list[str]) -> None:
        """Go through what one process wrote."""
        self._recovered = {}
        for line in lines:
            letter, _, key = line.partition(" ")
            if letter in "Rr":
                assert key not in self._recovered, "recovered twice"
                self._recovered[key] = letter == "r"
            elif letter == "E":
                self.check(self._recovered)
            elif letter.isupper():
                self.open[key] = letter
            else:
                self._done(letter, key)

    def _done(self, letter: str, key: str) -> None:
        del self.open[key]
        if letter == "s":
            del self.held[key]
        elif letter in "am":
            self.held[key] = letter == "m"

    def check(self, found: dict[str, bool]) -> None:
        """Compare with what was found, which is what is there from now on."""
        for key, in_doubt in self.held.items():
            if self.open.get(key) != "S":
                assert key in found, "lost"
            if self.open.get(key) != "M" and key in found:
                assert found[key] == in_doubt
        for key in found:
            assert key in self.held or self.open.get(key) == "A", "settled, or never taken"
        self.held, self.open = dict(found), {}


def recovered(spill: Spill) -> dict[str, bool]:
    found = {}
    for _, batch in spill.recovered():
        assert contents(batch) == contents(make(batch.key))
        assert batch.key not in found
        found[batch.key] = batch.in_doubt
    return found


def killed_after(steps: int, folder: Path, journal: Path, seed: int) -> None:
    process = start("at_random", str(folder), str(journal), str(seed))
    try:
        assert len(output_of(process).read(steps)) == steps
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_producer_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    folder, journal, oracle = tmp_path / "spill", tmp_path / "journal", Oracle()
    rng, done = random.Random(5), 0
    for seed in range(ROUNDS):
        killed_after(rng.choice((1, 30, 300)) + rng.randrange(30), folder, journal, seed)
        lines = journal.read_text().splitlines()
        oracle.read(lines[done:])
        done = len(lines)
    spill = Spill(folder, MAX_BYTES, segment_bytes=SEGMENT_BYTES)
    oracle.check(recovered(spill))
    assert spill.num_corrupt == 0
    assert len(list(folder.iterdir())) == 1
    spill.close()


def test_clients_that_start_together_never_adopt_the_same_batch(tmp_path: Path) -> None:
    clients = [start("on_command", stdin=subprocess.PIPE) for _ in range(2)]
    try:
        for number in range(ROUNDS):
            folder = tmp_path / str(number)
            left = {f"{number}-{i}" for i in range(8)}
            with Spills() as dead:
                for key in left:
                    dead.open(folder).append(make(key))
            answers = [set(answer.split()) for answer in ask(clients, f"open {folder}")]
            assert answers[0] | answers[1] == left
            assert not answers[0] & answers[1]
            assert ask(clients, "drop") == ["dropped"] * 2
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def test_clients_that_come_and_go_lose_nothing_and_take_nothing_twice(tmp_path: Path) -> None:
    clients = [start("come_and_go", str(tmp_path), name, "150") for name in "abc"]
    words = [line.split() for client in clients for line in client.communicate()[0].splitlines()]
    assert [client.returncode for client in clients] == [0, 0, 0]
    left = [key for word, key in words if word == "left"]
    settled = [key for word, key in words if word == "settled"]
    spill = Spill(tmp_path, MAX_BYTES)
    settled += recovered(spill)
    assert sorted(settled) == sorted(left)
    assert len(left) == 3 * 150
    assert spill.num_corrupt == 0
    spill.close()


def ask(clients: list[subprocess.Popen[str]], line: str) -> list[str]:
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(f"{line}\n")
        client.stdin.flush()
    return [output_of(client).readline().strip() for client in clients]


# ------------------------------------------------------------------------------------ no room


def test_a_file_that_may_not_grow_is_followed_by_another(tmp_path: Path) -> None:
    process = start("with_small_files", str(tmp_path), "7000")
    words = [line.split(" ", 2) for line in process.communicate()[0].splitlines()]
    assert process.returncode == 0
    taken = {line[1] for line in words if line[0] == "taken"}
    refused = [line[2] for line in words if line[0] == "refused"]
    assert len(taken) + len(refused) == 40
    assert taken == {f"{i}" for i in range(40) if len(make(f"{i}").body) < 6_800}
    assert all("File too large" in message for message in refused)
    spill = Spill(tmp_path, MAX_BYTES)
    assert recovered(spill).keys() == taken
    assert spill.num_corrupt == 0
    spill.close()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    if reason := tmpfs_requirement():
        pytest.skip(reason)
    with tmpfs(folder, size) as where:
        yield where


def fill(spill: Spill, name: str) -> list[str]:
    """Append until the disk is full; the keys that were taken."""
    slots, error = until_full(spill, (make(f"{name}-{i}") for i in count()))
    assert "No space left on device" in str(error)
    return [f"{name}-{i}" for i in range(len(slots))]


def test_a_full_disk_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, 400 << 10) as disk, Spills() as spills:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(100 << 10))
        spill = spills.open(disk / "spill")
        keys = fill(spill, "first")
        size = spill.num_bytes
        with pytest.raises(SpillFullError):
            spill.append(make(f"first-{len(keys)}"))
        assert spill.num_bytes == size == on_disk(disk / "spill")
        ballast.unlink()
        keys += fill(spill, "second")
        spill.abandon()
        spill = spills.open(disk / "spill")
        assert list(recovered(spill)) == keys
        assert spill.num_corrupt == 0


def test_a_client_that_starts_on_a_full_disk_sends_what_is_there(tmp_path: Path) -> None:
    with small_disk(tmp_path, 400 << 10) as disk, Spills() as spills:
        spill = spills.open(disk / "spill")
        keys = fill(spill, "left")
        spill.abandon()
        spill = spills.open(disk / "spill")
        found = list(spill.recovered())
        assert [batch.key for _, batch in found] == keys
        for slot, _ in found:
            spill.settle(slot)
        assert spill.num_bytes == 0
        spill.append(make("again"))


def test_a_client_that_has_no_room_for_a_directory_takes_batches_later(tmp_path: Path) -> None:
    if reason := tmpfs_requirement():
        pytest.skip(reason)
    options = "size=1048576,nr_inodes=4"
    with mounted("tmpfs", tmp_path / "small", options, "tmpfs") as disk, Spills() as spills:
        for number in range(3):
            (disk / str(number)).mkdir()
        spill = spills.open(disk)
        with pytest.raises(SpillFullError, match="No space left on device"):
            spill.append(make("1"))
        for number in range(3):
            (disk / str(number)).rmdir()
        spill.append(make("1"))


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.*"))


def test_a_directory_that_is_read_only_is_said_and_does_no_harm(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1 << 20) as disk, Spills() as spills:
        spill = spills.open(disk)
        slots = [spill.append(make(f"{i}")) for i in range(10)]
        with shown_read_only(disk):
            more, error = until_full(spill, (make(f"{i}") for i in count(10)))
            slots += more
            assert "Read-only file system" in str(error)
            with pytest.raises(SpillError, match="Read-only file system"):
                spills.open(disk)
            for slot in slots[:5]:
                spill.settle(slot)
        spill.settle(slots[5])
        spill.append(make("later"))
        spill.abandon()
        found = list(recovered(spills.open(disk)))
        assert found == [f"{i}" for i in range(6, len(slots))] + ["later"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours_is_said_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SpillError, match="Permission denied"):
            Spill(tmp_path / "spill", MAX_BYTES)
    finally:
        tmp_path.chmod(0o700)


# -------------------------------------------------------------------------------- power is cut


@contextmanager
def disk_of(image: Path, where: Path) -> Iterator[Path]:
    with loop_device(image) as device, mounted(device, where, HARSH_OPTIONS, "ext4") as disk:
        yield disk


def test_what_was_synced_survives_a_power_cut(tmp_path: Path) -> None:
    if reason := ext4_requirement():
        pytest.skip(reason)
    with (
        new_image(tmp_path / "image", 16 << 20) as image,
        disk_of(image, tmp_path / "disk") as disk,
        Spills() as spills,
    ):
        spill = Spill(disk / "a" / "b", 8 << 20, segment_bytes=SEGMENT_BYTES, sync=True)
        for i in range(25):
            spill.append(make(f"{i}"))
        cut_power(disk)
        with pytest.raises(SpillError):
            spill.append(make("too late"))
        spill.abandon()
        copy_image(image, tmp_path / "after")
        with disk_of(tmp_path / "after", tmp_path / "again") as again, spills:
            spill = spills.open(again / "a" / "b")
            assert list(recovered(spill)) == [f"{i}" for i in range(25)]
            assert spill.num_corrupt == 0


# --------------------------------------------------------------------------------------- fork


def in_a_child(what: Iterator[bool]) -> bool:
    """Whether everything in a forked child was true."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if all(what) else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_leaves_the_spill_to_its_parent(tmp_path: Path) -> None:
    spill = Spill(tmp_path, MAX_BYTES)
    slot = spill.append(make("parent"))

    def child() -> Iterator[bool]:
        spill.abandon()
        own = Spill(tmp_path, MAX_BYTES)
        yield recovered(own) == {}
        own.append(make("child"))
        own.abandon()

    assert in_a_child(child())
    assert contents(spill.load(slot)) == contents(make("parent"))
    spill.append(make("parent-2"))
    other = Spill(tmp_path, MAX_BYTES)
    assert recovered(other) == {"child": False}
    other.close()
    spill.settle(slot)
    spill.abandon()
    other = Spill(tmp_path, MAX_BYTES)
    assert recovered(other).keys() == {"child", "parent-2"}
    other.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_process_that_is_writing_does_not_hang(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 64 << 20)
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            spill.settle(spill.append(make("x")))

    def child() -> Iterator[bool]:
        signal.alarm(20)
        spill.abandon()
        with pytest.raises(SpillError):
            spill.append(make("y"))
        own = Spill(tmp_path, MAX_BYTES)
        own.settle(own.append(make("z")))
        own.close()
        yield True

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(in_a_child(child()) for _ in range(10))
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        spill.close()
    assert list(tmp_path.iterdir()) == []
