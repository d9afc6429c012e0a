"""The process's heap and garbage collector, set once at the start of a worker.

Nothing here allocates or frees for others, and with a C library other than glibc the heap
stays as it is.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.abc
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

#: Freed memory that the heap keeps, and the size from which a block is mapped on its own.
KEEP_BYTES = 256 * 2**20
#: The largest M_MMAP_THRESHOLD that glibc before 2.35 takes: half of its HEAP_MAX_SIZE.
OLD_GLIBC_MMAP_BYTES = 32 * 2**20

#: Container objects made since the last collection that start one of the youngest generation.
#: Python's own 700 to 2 000 are reached several times a second by requests that leave no cycles.
GC_YOUNG_OBJECTS = 50_000


def tune_heap() -> bool:
    """Have glibc keep freed memory instead of giving it back and asking for it again.

    By default blocks above 128 KiB, later 32 MiB, are mapped and unmapped, the top of the heap
    is given back at each flush, and what a flush thread allocates comes from an arena of its
    own, which is unmapped when empty: some 2 µs for every page touched again. One arena for all
    threads that is never trimmed ends that: 16 -> 0.02 page faults a request of 450 KB, 1.9 ->
    0.03 of 45 KB, in 0.4 to 0.75 of the time (benchmarks/bench_heap.py). With two arenas more
    than half of the faults remain. Few threads allocate, and Arrow has a pool of its own, so
    that they do not queue for the one.

    Returns:
        Whether it took the settings; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mapped = any(libc.mallopt(_M_MMAP_THRESHOLD, n) for n in (KEEP_BYTES, OLD_GLIBC_MMAP_BYTES))
    trimmed = libc.mallopt(_M_TRIM_THRESHOLD, KEEP_BYTES)
    return bool(mapped and trimmed and libc.mallopt(_M_ARENA_MAX, 1))


class _NoPandas(importlib.abc.MetaPathFinder):
    """Says that there is none. None in `sys.modules` would say so too, but not to Cython."""

    def find_spec(self, name: str, path: object, target: object = None, /) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out of this process", name=name)


def leave_out_pandas() -> None:
    """Have pyarrow find no pandas in this process, where it is installed and nobody uses it.

    pyarrow looks for it at its first conversion of many kinds, be it of an array to NumPy, and an
    import of 300 modules in the middle of the first flush takes 0.3 s and 40 MB, in each worker.
    """
    sys.meta_path.insert(0, _NoPandas())


def settle_garbage_collector() -> None:
    """Take what the start made out of the collector's sight, and have it run less often.

    Call it once, when everything is imported and built and before the first request: modules,
    classes and compiled kernels stay for the life of the process, and walking them was 13 % of
    the CPU time of a daemon that did not do this.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, 20, 20)
