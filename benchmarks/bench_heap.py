"""What the settings of the heap save: page faults and time a request, with and without them.

Each variant runs in a process of its own, since heap settings last for its life. It does to
memory what a worker does: a body arrives, its columns are copied out, and once 100 MB have come
together, a second thread concatenates and frees them. Variants alternate, three rounds.

Bias: no sockets, no decoding, no Parquet; only the allocations remain, so the time saved here is
the most that there is to save. Page faults do not depend on what else the machine does.

    python -m benchmarks.bench_heap
"""

from __future__ import annotations

import ctypes
import queue
import resource
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

from arc.memory import _M_ARENA_MAX, tune_heap

VARIANTS = ("untuned", "tuned", "tuned, 2 arenas", "tuned, 4 arenas", "tuned, any arenas")
COLUMNS = 6
FLUSH_BYTES = 100_000_000
ROUNDS = 3
WARM_UP_BYTES, ROUND_BYTES = 1_000_000_000, 2_000_000_000


def prepare(variant: str) -> None:
    """Set this process up as the variant says."""
    if variant == "untuned":
        return
    assert tune_heap(), "not glibc: there is nothing to compare"
    if variant != "tuned":
        arenas = variant.split()[1]
        number = 1_000 if arenas == "any" else int(arenas)
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, number)


def flush_all(work: queue.Queue[list[list[np.ndarray]]]) -> None:
    """The second thread: concatenate what was collected, until an empty list comes."""
    while batches := work.get():
        table = [np.concatenate([batch[i] for batch in batches]) for i in range(COLUMNS)]
        assert len({len(column) for column in table}) == 1
        del table, batches


def measure(body_bytes: int) -> tuple[float, float]:
    """One process's part, once its heap has reached its size.

    Returns:
        Page faults and seconds, a request.
    """
    work: queue.Queue[list[list[np.ndarray]]] = queue.Queue(1)
    thread = threading.Thread(target=flush_all, args=(work,))
    thread.start()
    receive(WARM_UP_BYTES // body_bytes, body_bytes, work)
    requests = ROUND_BYTES // body_bytes
    faults, start_s = page_faults(), time.perf_counter()
    receive(requests, body_bytes, work)
    took_s = time.perf_counter() - start_s
    work.put([])
    thread.join()
    return (page_faults() - faults) / requests, took_s / requests


def receive(requests: int, body_bytes: int, work: queue.Queue[list[list[np.ndarray]]]) -> None:
    """The first thread: copy bodies and their columns, and hand them over."""
    wire = bytes(body_bytes)
    collected = []
    for _ in range(requests):
        body = b"".join([wire, b""])  # a copy, as from a socket
        values = np.frombuffer(body, np.uint8, body_bytes // COLUMNS * COLUMNS)
        collected.append([column.copy() for column in values.reshape(COLUMNS, -1)])
        if len(collected) * body_bytes >= FLUSH_BYTES:
            work.put(collected)
            collected = []


def page_faults() -> int:
    """Those that took no disk, since the process started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> int:
    """Alternate the variants and print their medians."""
    print(f"{'body':>8}  {'variant':<18} {'faults/request':>14} {'us/request':>11}")
    for body_bytes in (45_000, 450_000):
        samples: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(ROUNDS):
            for variant in VARIANTS:
                child = [sys.executable, "-m", "benchmarks.bench_heap", variant, str(body_bytes)]
                said = subprocess.run(child, check=True, capture_output=True, text=True).stdout
                samples[variant].append([float(word) for word in said.split()])
        for variant, found in samples.items():
            faults, took_s = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{body_bytes:>8}  {variant:<18} {faults:>14.2f} {took_s * 1e6:>11.1f}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        raise SystemExit(main())
    prepare(sys.argv[1])
    print(*measure(int(sys.argv[2])))
