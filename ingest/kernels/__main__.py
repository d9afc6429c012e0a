"""Compile every kernel into Numba's cache, so that no request ever waits for a compiler.

In: the sources of this package. Out: Numba's files beside them, in `__pycache__`. `warm_all` works
in the caller's process alone; only `python -m ingest.kernels` starts others.
"""

from __future__ import annotations

import os
from importlib import import_module

#: What one process compiles from end to end, dearest first (28, 17, 11, 7, 3 and 2 s cold). Those
#: that share helpers stand together: a helper that two processes compile at once would be compiled
#: twice, and Numba's index of it be written by both.
BUNDLES = (
    ("msgpack", "line_protocol", "msgpack_rows"),
    ("otlp",),
    ("arrow",),
    ("strings",),
    ("otlp_json",),
    ("sort", "parquet"),
)
#: More would wait for the first bundle all the same. Each takes 330 MB.
_MAX_PROCESSES = 3


def warm(bundle: tuple[str, ...]) -> None:
    """Call every kernel of these modules once with each dtype that it is used with."""
    for name in bundle:
        import_module(f"ingest.kernels.{name}").warm()


def warm_all() -> None:
    """Call every kernel once with each dtype that it is used with. 70 s cold, 0.5 s warm."""
    for bundle in BUNDLES:
        warm(bundle)


def compile_all() -> None:
    """Compile what is not in the cache yet, on up to three cores, and load all of it from there.

    Killed at any point it leaves a cache of whole files, which the next run completes.
    """
    # Imported here, since every worker imports this module and none of them needs these.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    num_processes = min(_MAX_PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        for _ in pool.map(warm, BUNDLES):
            pass  # what failed there is raised here
    warm_all()


if __name__ == "__main__":
    # By the module's name: other processes cannot import what they are to call from a `__main__`.
    import_module("ingest.kernels.__main__").compile_all()
