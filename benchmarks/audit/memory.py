"""Bytes that a row asks of the allocator, from the bytes of its request to its Parquet file.

In: the requests of a cell. Out: bytes of all allocations of one pass, as memray sees them, and the
places that asked for most. Freed or not, every allocation counts: what is allocated has to be
touched. Arrow's own pool would hide its allocations, so Arrow uses malloc meanwhile.

tracemalloc is no substitute: it knows what is held, not what was asked for, and sees no C. Where
memray is not installed, or cannot watch this process, there is no figure.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from benchmarks.audit.bodies import Requests
from benchmarks.audit.passes import watched_pass
from benchmarks.audit.schema import Figure, MemoryProfile, Share, measured, median_of, missing

UNIT = "bytes/row"
#: Only of allocations from this size on a place is asked for: that takes time, and they are all
#: but a few per cent of the bytes.
LARGE_BYTES = 4_096
PLACES = 12
_ROOT = Path(__file__).resolve().parents[2]


class NoMemrayError(RuntimeError):
    """There is no memray, or it cannot watch this process; the message says why."""


def allocated(requests: Requests) -> float:
    """Bytes that are asked of the allocator for a row.

    Raises:
        NoMemrayError: nothing can measure it.
    """
    total, _ = _watch(requests, with_places=False)
    return total / requests.num_rows


def profile(requests: Requests, workload: str) -> MemoryProfile:
    """The same, and where they were asked for."""
    try:
        total, places = _watch(requests, with_places=True)
    except NoMemrayError as error:
        return MemoryProfile("none", workload, missing(UNIT, str(error)))
    rows = requests.num_rows
    shares = [Share(place, measured(UNIT, n / rows)) for place, n in places.most_common(PLACES)]
    return MemoryProfile("memray", workload, measured(UNIT, total / rows), tuple(shares))


def _watch(requests: Requests, with_places: bool) -> tuple[int, Counter[str]]:
    try:
        import memray
    except ImportError as error:
        raise NoMemrayError(f"memray is not there: {error}") from error
    with tempfile.TemporaryDirectory(prefix="arc-audit-memray-") as folder:
        path = Path(folder) / "pass.bin"

        def around(work: Callable[[], None]) -> None:
            with memray.Tracker(path):
                work()

        try:
            with _arrow_on_malloc():
                watched_pass(requests, around)
        except (RuntimeError, OSError) as error:
            raise NoMemrayError(f"memray cannot watch this process: {error}") from error
        return _sums(path, with_places)


def _sums(path: Path, with_places: bool) -> tuple[int, Counter[str]]:
    import memray

    places: Counter[str] = Counter()
    total = 0
    with memray.FileReader(path) as reader:
        for record in reader.get_allocation_records():
            total += record.size  # 0 where something was freed
            if with_places and record.size >= LARGE_BYTES:
                places[_place(record.stack_trace(max_stacks=12))] += record.size
    return total, places


def _place(stack: list[tuple[str, str, int]]) -> str:
    """The innermost frame in this repository, else the innermost one."""
    for function, file, line in stack:
        if Path(file).is_relative_to(_ROOT) and "site-packages" not in file:
            return f"{Path(file).relative_to(_ROOT)}:{line} {function}"
    return f"{Path(stack[0][1]).name}:{stack[0][2]} {stack[0][0]}" if stack else "no Python frame"


@contextmanager
def _arrow_on_malloc() -> Iterator[None]:
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def figure_of(repeats: list[float], why: str) -> Figure:
    """The median, or the reason why there is none."""
    return median_of(UNIT, repeats) if repeats else missing(UNIT, why)
