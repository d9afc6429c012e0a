"""What a fuzzing process does just now, in a file of shared memory: it outlives the process.

In: each body before it is run. Out: to whoever watches, how many were run, since when the present
one runs, and its bytes, which are the input of the crash if the process is gone.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<QdI")


class Moment(NamedTuple):
    """The state of a fuzzing process.

    Attributes:
        runs: Bodies begun.
        began_s: When the present one was, by the monotonic clock of the machine.
        body: The present one.
    """

    runs: int
    began_s: float
    body: bytes


class SharedState:
    """One process writes it, another reads it. Torn reads only matter while it changes.

    Args:
        path: Of the file; made when missing.
        max_bytes: Of a body.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._size = _HEAD.size + max_bytes
        with path.open("a+b") as file:
            if os.fstat(file.fileno()).st_size < self._size:
                file.truncate(self._size)
            self._memory = mmap.mmap(file.fileno(), self._size)

    def begin(self, runs: int, now_s: float, body: bytes) -> None:
        """Note a body that is run next; more than `max_bytes` of it is not kept."""
        kept = body[: self._size - _HEAD.size]
        _HEAD.pack_into(self._memory, 0, runs, now_s, len(kept))
        self._memory[_HEAD.size : _HEAD.size + len(kept)] = kept

    def read(self) -> Moment:
        """What was noted last."""
        runs, began_s, size = _HEAD.unpack_from(self._memory)
        return Moment(runs, began_s, self._memory[_HEAD.size : _HEAD.size + size])

    def close(self) -> None:
        """Let go of the file."""
        self._memory.close()
