"""What a fuzz target is, and what counts as a finding.

In: one body. Out: the word that it is counted under, or a `Finding`. Makes no bodies and starts
no processes.
"""

from __future__ import annotations

import random
import re
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

ROOT = Path(__file__).resolve().parent.parent.parent

#: CPU time of one decode on the event loop, which waits for it.
SLOW_S = 0.2
#: A body that seems slow is decoded so often in all, and the shortest time counts.
SLOW_TRIES = 3

#: What the process may grow by over one body, beyond its size at the start. The limits that the
#: targets give their decoders allow 32 MiB of columns, and twins hold them twice.
MEMORY_BYTES = 160 * 2**20

_KIB = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


class Finding(Exception):  # noqa: N818 # it is thrown by what looks for it
    """Something that must not happen.

    Attributes:
        kind: exception, disagreement, invariant, answer, slow, memory, crash, hang, end.
        place: Where, or what of; findings of one kind and place are one.
        message: For people.
    """

    def __init__(self, kind: str, place: str, message: str) -> None:
        super().__init__(f"{kind} in {place}: {message}")
        self.kind, self.place, self.message = kind, place, message

    @property
    def key(self) -> str:
        """What tells it from others; fit for a file name."""
        return re.sub(r"[^\w.-]+", "-", f"{self.kind}-{self.place}")[:120]


class Ran(NamedTuple):
    """What became of a body.

    Attributes:
        label: "taken", or the reason of the refusal: what it is counted under.
        cpu_s: What the decode alone took.
    """

    label: str
    cpu_s: float = 0.0


class Target(Protocol):
    """Something that takes bodies.

    Attributes:
        name: As on the command line.
        description: One line.
        max_bytes: Of a body.
        in_process: Coverage of the code that runs can be seen from here.
        cost: A run asks for so many times fewer bodies: each takes as much longer.
    """

    name: str
    description: str
    max_bytes: int
    in_process: bool
    cost: int

    def open(self, folder: Path) -> None:
        """Get ready; `folder` is empty and the target's own."""
        ...

    def seed(self, rng: random.Random) -> bytes:
        """A body to begin with, good in most cases."""
        ...

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Another body out of one, by what is known of the format."""
        ...

    def run(self, body: bytes) -> Ran:
        """Take a body. Raises `Finding`, or anything else that it did not expect."""
        ...

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Give everything back; what the whole run showed, and figures for the report."""
        ...


@dataclass
class Judge:
    """Runs bodies and tells findings.

    Attributes:
        target: What runs them.
        base_bytes: Size of the process before the first one.
    """

    target: Target
    base_bytes: int = 0

    def __post_init__(self) -> None:
        self.base_bytes = self.base_bytes or peak_bytes()

    def __call__(self, body: bytes) -> str:
        """Run one body.

        Returns:
            What it is counted under.

        Raises:
            Finding: something is not as it should be.
        """
        try:
            ran = self.target.run(body)
            fastest_s = ran.cpu_s
            for _ in range(SLOW_TRIES - 1):
                if fastest_s > SLOW_S:
                    fastest_s = min(fastest_s, self.target.run(body).cpu_s)
        except Finding:
            raise
        except Exception as error:
            raise unexpected(error) from error
        if fastest_s > SLOW_S:
            message = f"{fastest_s * 1000:.0f} ms for {len(body)} bytes ({ran.label})"
            raise Finding("slow", f"{self.target.name}-{ran.label}", message)
        grown = peak_bytes() - self.base_bytes
        if grown > MEMORY_BYTES:
            self.base_bytes += grown
            raise Finding("memory", self.target.name, f"{grown >> 20} MiB for {len(body)} bytes")
        return ran.label


def peak_bytes() -> int:
    """Most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def cpu_s() -> float:
    """CPU time of this process so far, all threads."""
    return time.process_time()


def unexpected(error: BaseException) -> Finding:
    """An exception that nothing should raise, by where in the project it came from."""
    place = f"{type(error).__name__}-{_place(error.__traceback__)}"
    lines = traceback.format_exception(error)
    return Finding("exception", place, "".join(lines[-6:]).strip())


def _place(trace: TracebackType | None) -> str:
    """The innermost function of ingest/ or arc/, else the innermost of all."""
    frames = traceback.extract_tb(trace)
    ours = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(ROOT / "ingest")
        or Path(frame.filename).is_relative_to(ROOT / "arc")
    ]
    if not frames:
        return "nowhere"
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).stem}.{frame.name}"
