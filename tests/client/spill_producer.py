"""Producers to be killed, raced and starved: programs that tests run in processes of their own.

    python -m tests.client.spill_producer WHAT ARGUMENTS…

Everything in a batch follows from its key, so whoever finds one can tell whether it is right.
"""

from __future__ import annotations

import os
import random
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.errors import SpillFullError
from arc.client.spill import Slot, Spill

MAX_BYTES = 1 << 20
SEGMENT_BYTES = 32 << 10


def make(key: str, up_to: int = 8000) -> Batch:
    """The batch of a key."""
    rng = random.Random(key)
    body = rng.randbytes(rng.randrange(up_to))
    headers = (("x-arc-database", key), ("x-arc-time-unit", "ns"))
    return Batch(
        Kind.MSGPACK, WRITE_MSGPACK, headers, body, len(body), "cpu", key=key, created_us=0
    )


def contents(batch: Batch) -> tuple[object, ...]:
    """Everything that a spill keeps of a batch."""
    return (
        batch.key,
        batch.kind,
        batch.target,
        batch.headers,
        bytes(batch.body),
        batch.rows,
        batch.what,
        batch.created_us,
    )


def until_full(spill: Spill, batches: Iterable[Batch]) -> tuple[list[Slot], SpillFullError]:
    """Append until it is refused: where the batches before are, and what the refusal says."""
    slots: list[Slot] = []
    for batch in batches:
        try:
            slots.append(spill.append(batch))
        except SpillFullError as error:
            return slots, error
    raise AssertionError("everything was taken")


class Producer:
    """Appends, marks and settles at random, and says in a journal before and after what it does.

    A line is a letter and a key. Capital: about to; small: done. A append, M mark as sent, S
    settle, x the spill was full; R, r recovered (r: in doubt), E end of recovery.
    """

    def __init__(self, spill: Spill, journal: int, seed: str) -> None:
        self._spill, self._journal, self._seed = spill, journal, seed
        self._rng = random.Random(seed)
        self._live: dict[str, Slot] = {}
        self._num_made = 0

    def say(self, letter: str, key: str = "") -> None:
        """One line; it outlives this process."""
        os.write(self._journal, f"{letter} {key}\n".encode())

    def recover(self) -> None:
        """Take what dead producers left."""
        for slot, batch in self._spill.recovered():
            assert contents(batch) == contents(make(batch.key))
            self._live[batch.key] = slot
            self.say("r" if batch.in_doubt else "R", batch.key)
        self.say("E")

    def step(self) -> None:
        """One thing at random."""
        rng = self._rng
        if not self._live or rng.random() < 0.45:
            self._append()
        elif rng.random() < 0.4:
            self._mark(rng.choice(list(self._live)))
        else:
            self._settle(rng.choice(list(self._live)))

    def _append(self) -> None:
        self._num_made += 1
        key = f"{self._seed}-{self._num_made}"
        self.say("A", key)
        try:
            self._live[key] = self._spill.append(make(key))
        except SpillFullError:
            self.say("x", key)
        else:
            self.say("a", key)

    def _mark(self, key: str) -> None:
        self.say("M", key)
        self._spill.mark_sent(self._live[key])
        self.say("m", key)

    def _settle(self, key: str) -> None:
        self.say("S", key)
        self._spill.settle(self._live.pop(key))
        self.say("s", key)


def at_random(folder: str, journal: str, seed: str) -> None:
    """Until it is killed; a byte on standard output for every step."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    spill = Spill(Path(folder), MAX_BYTES, segment_bytes=SEGMENT_BYTES)
    producer = Producer(spill, descriptor, seed)
    producer.recover()
    while True:
        producer.step()
        os.write(1, b".")


def on_command() -> None:
    """A line `open FOLDER` is answered by the keys recovered there; any other line drops it."""
    spill: Spill | None = None
    for line in sys.stdin:
        word, _, folder = line.strip().partition(" ")
        if word == "open":
            spill = Spill(Path(folder), MAX_BYTES)
            print(*[batch.key for _, batch in spill.recovered()], flush=True)
        elif spill is not None:
            spill.abandon()
            print("dropped", flush=True)


def come_and_go(folder: str, name: str, rounds: str) -> None:
    """Start again and again, settle what others left, and leave a batch; says both by key."""
    rng = random.Random(name)
    for i in range(int(rounds)):
        spill = Spill(Path(folder), MAX_BYTES)
        spill.append(make(f"{name}-{i}"))
        print("left", f"{name}-{i}")
        for slot, batch in spill.recovered():
            spill.settle(slot)
            print("settled", batch.key)
        leave = rng.choice((spill.close, spill.abandon))
        leave()


def with_small_files(folder: str, limit: str) -> None:
    """Fill a spill where no file may be larger than so many bytes (setrlimit(2), RLIMIT_FSIZE)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    spill = Spill(Path(folder), MAX_BYTES)
    for i in range(40):
        key = f"{i}"
        try:
            spill.append(make(key))
        except SpillFullError as error:
            print("refused", key, error)
        else:
            print("taken", key)


PROGRAMS: dict[str, Callable[..., None]] = {
    "at_random": at_random,
    "come_and_go": come_and_go,
    "on_command": on_command,
    "with_small_files": with_small_files,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
