"""One at a time: who changes the tables of a data directory, whichever process they are in.

In: the folder of the daemon's own state. Out: the turn, held until the end of a `with` or of the
process. Who finds it taken is told so, and waits no longer than a look at it takes.

Deletes and retention runs share one turn (`my_turn`), compactors have another (`my_compaction`):
merges may take minutes, and nobody should be refused for that long. A compactor gives way instead:
before each merge it looks at the turn of the others (`is_taken`), and comes back later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ingest.disk import DIRECTORY_MODE, FILE_MODE, refusals
from ingest.errors import IngestError, OverloadedError

_NAME, _COMPACTION_NAME = "locks/maintenance.lock", "locks/compactor.lock"

RETRY_AFTER_S = 5

#: A look at the turn holds it for some microseconds; this often and this long it is tried again.
_TRIES, _PAUSE_S = 5, 0.005


class BusyError(OverloadedError):
    """Another delete or retention run is under way on this data directory."""

    reason = "busy"


class CompactionBusyError(IngestError):
    """Another compactor is at work on the data directory."""

    status_hint = 503
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
    with _opened(state_dir / _NAME) as descriptor:
        for _ in range(_TRIES):
            if _take(descriptor, fcntl.LOCK_EX):
                break
            time.sleep(_PAUSE_S)
        else:
            raise BusyError(
                f"another delete or retention run is under way on {state_dir.parent}",
                RETRY_AFTER_S,
            )
        yield


def is_taken(state_dir: Path) -> bool:
    """Whether somebody has the turn. It keeps nobody from it.

    Args:
        state_dir: The folder `.arc`.

    Raises:
        StorageError: the lock file cannot be made.
    """
    with _opened(state_dir / _NAME) as descriptor:
        return not _take(descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def my_compaction(state_dir: Path) -> Iterator[None]:
    """Be the only compactor of a data directory, whatever the process, until the end of a `with`.

    Args:
        state_dir: The folder `.arc`.

    Raises:
        CompactionBusyError: there is one already.
        StorageError: the lock file cannot be made.
    """
    with _opened(state_dir / _COMPACTION_NAME) as descriptor:
        if not _take(descriptor, fcntl.LOCK_EX):
            raise CompactionBusyError(f"another compactor is at work on {state_dir.parent}")
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A lock file, whose lock is given back with it."""
    with refusals(path, "lock"):
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
