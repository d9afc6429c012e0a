"""Fuzz targets with a known defect each, which the fuzzer has to find, and one without."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz.mutators import plain
from benchmarks.fuzz.target import Finding, Ran

#: What a body has to hold for the defect to show.
MARK = b"\x07"


def _raise() -> None:
    raise ZeroDivisionError("planted")


def _crash() -> None:
    faulthandler.disable()  # its report belongs to no test
    os.kill(os.getpid(), signal.SIGSEGV)


def _disagree() -> None:
    raise Finding("disagreement", "planted", "one and the other")


class PlantedTarget:
    """Takes anything, and fails at the first byte of its mark.

    Args:
        name: Of the target.
        harm: What happens then.
        cpu_s: What each run says that it took.
    """

    description = "has a known defect"
    max_bytes = 64
    in_process = False
    cost = 1

    def __init__(self, name: str, harm: Callable[[], None], cpu_s: float = 0.0) -> None:
        self.name = name
        self._harm = harm
        self._cpu_s = cpu_s

    def open(self, folder: Path) -> None:
        """Nothing to get ready."""

    def seed(self, rng: random.Random) -> bytes:
        """A few bytes, hardly ever with the mark."""
        return bytes(rng.choices(b"abcdefgh", k=rng.randint(1, 8)))

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Other bytes."""
        return plain(rng, body)

    def run(self, body: bytes) -> Ran:
        """Fail at the mark."""
        if MARK in body:
            self._harm()
        return Ran("taken", self._cpu_s)

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Nothing is held."""
        return [], {"seen": "it"}


RAISES = PlantedTarget("raises", _raise)
CRASHES = PlantedTarget("crashes", _crash)
DISAGREES = PlantedTarget("disagrees", _disagree)
SLOW = PlantedTarget("slow", lambda: None, 0.5)
SOUND = PlantedTarget("sound", lambda: None)
