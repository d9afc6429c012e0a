"""A worker of the daemon with some functions timed line by line, run by `benchmarks.launcher`.

In: a `LineOptions` as JSON in `sys.argv[1]`. Out: one file for each worker that ran, written when
it has ended by itself. Functions are exchanged after the fork and before the worker is built.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from arc import worker
from benchmarks.lines import functions
from benchmarks.lines.stats import Lines

prepare = worker.prepare

#: Names of the files, below `LineOptions.folder`.
FILE = "lines-{pid}.json"
GLOB = "lines-*.json"


class LineOptions(msgspec.Struct, frozen=True):
    """What a worker times.

    Attributes:
        folder: Where its file goes.
        functions: Names, as `functions.named` takes them.
    """

    folder: str
    functions: tuple[str, ...]

    def to_argument(self) -> str:
        """What `from_argument` reads."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_argument(cls, text: str) -> LineOptions:
        """Read what `to_argument` made."""
        return msgspec.json.decode(text, type=cls)


def main() -> int:
    """Run one worker until it is told to stop, and keep the times of its lines."""
    options = LineOptions.from_argument(sys.argv[1])
    profiler = functions.profile(options.functions)
    status = worker.main()
    path = Path(options.folder) / FILE.format(pid=os.getpid())
    path.write_bytes(Lines.of(profiler).to_bytes())
    return status
