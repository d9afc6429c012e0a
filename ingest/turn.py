"""One at a time: deletes and retention runs of one data directory, whichever process they are in.

In: the folder of the daemon's own state. Out: the turn, held until the end of a `with` or of the
process. Nobody waits: who finds it taken is told so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ingest.disk import DIRECTORY_MODE, FILE_MODE, refusals
from ingest.errors import OverloadedError

_NAME = "locks/maintenance.lock"

RETRY_AFTER_S = 5


class BusyError(OverloadedError):
    """Another delete or retention run is under way on this data directory."""

    reason = "busy"


@contextlib.contextmanager
def my_turn(state_dir: Path) -> Iterator[None]:
    """Hold the turn, between threads and processes, on a file that stays for good.

    Args:
        state_dir: The folder `.arc`.

    Raises:
        BusyError: somebody else has it.
        StorageError: the lock file cannot be made.
    """
    path = state_dir / _NAME
    with refusals(path, "lock"):
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another delete or retention run is under way on {state_dir.parent}",
                RETRY_AFTER_S,
            ) from None
        yield
    finally:
        os.close(descriptor)
