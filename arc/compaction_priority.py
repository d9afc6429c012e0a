"""How a compactor stands back: it has a core, and the disk, when nobody else wants them.

In: nothing. Out: the priorities of the calling thread, lowered; none needs a privilege. A lower
priority for the disk can be taken back, one for the core cannot.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator

#: It runs when nobody else wants the core (nice, -20 to 19).
NICE = 19

#: Number of the system call ioprio_set(2), which has no function in the C library.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}

#: From linux/ioprio.h: whose, and the class in the highest bits of a priority.
_WHO_PROCESS, _CLASS_SHIFT, _CLASS_NONE, _CLASS_IDLE = 1, 13, 0, 3


def stand_back() -> None:
    """Give way to everybody else who wants a core, from now on."""
    os.nice(NICE)


@contextlib.contextmanager
def idle_disk() -> Iterator[None]:
    """Give way to everybody else who wants the disk, until the end of a `with`.

    Not while a lock is held that others wait for. Where the system knows no such thing, or its
    scheduler of the disk does not care, nothing is different.
    """
    lowered = _set(_CLASS_IDLE)
    try:
        yield
    finally:
        if lowered:
            _set(_CLASS_NONE)  # by its niceness again


def _set(kind: int) -> bool:
    number = _IOPRIO_SET.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, _WHO_PROCESS, 0, kind << _CLASS_SHIFT)) == 0
