"""A worker of the daemon under memray, run by `benchmarks.launcher`.

In: a `TrackOptions` as JSON in `sys.argv[1]`. Out: one file of memray for each worker that ran,
`worker-PID.bin`, complete once the worker has ended by itself. The tracker begins after the fork,
in the worker: what the template imported before is shared by all workers and is in no file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import memray
import msgspec

from arc import worker

prepare = worker.prepare

#: Names of the files, below `TrackOptions.folder`.
FILE = "worker-{pid}.bin"
GLOB = "worker-*.bin"


class TrackOptions(msgspec.Struct, frozen=True):
    """How a worker is tracked.

    Attributes:
        folder: Where its file goes.
        native: Keep frames of C and C++ too.
        python: See every object of Python's own allocator, not only the arenas that it takes.
    """

    folder: str
    native: bool = False
    python: bool = False

    def to_argument(self) -> str:
        """What `from_argument` reads."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_argument(cls, text: str) -> TrackOptions:
        """Read what `to_argument` made."""
        return msgspec.json.decode(text, type=cls)


def main() -> int:
    """Run one worker until it is told to stop, and keep what it allocated."""
    options = TrackOptions.from_argument(sys.argv[1])
    path = Path(options.folder) / FILE.format(pid=os.getpid())
    with memray.Tracker(path, native_traces=options.native, trace_python_allocators=options.python):
        status = worker.main()
    return status
