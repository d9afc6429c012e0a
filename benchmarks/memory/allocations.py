"""What memray recorded, as bytes by stage and by line.

In: files of memray, one for each worker. Out: `Allocations` of all of them together. Sizes are
those that were asked for, so that a block which is made larger counts again with its new size.
Reads files; starts and changes nothing.

A stage is that of the innermost frame that `benchmarks.profiling.stages` knows, as for time. Frames
of C and C++ are for memray's flame graph alone: finding the names of all of them takes minutes.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import memray

from benchmarks.profiling.samples import Frame
from benchmarks.profiling.stages import Stage, stage_of

_FREES = frozenset(
    {
        memray.AllocatorType.FREE,
        memray.AllocatorType.MUNMAP,
        memray.AllocatorType.PYMALLOC_FREE,
    }
)

#: Of a stack: outermost first.
Frames = tuple[Frame, ...]


class NotReadableError(Exception):
    """A file of memray that cannot be read. The message names it."""


class Place(NamedTuple):
    """A line of Python."""

    function: str
    file: str
    line: int
    stage: Stage


@dataclass
class Amount:
    """Of one stage or line.

    Attributes:
        allocated_bytes: Everything that was ever asked for.
        allocations: How often.
        peak_bytes: Held when the process held most; of several processes, each at its own peak.
        left_bytes: Held at the end of the recording.
    """

    allocated_bytes: int = 0
    allocations: int = 0
    peak_bytes: int = 0
    left_bytes: int = 0


@dataclass
class Allocations:
    """Of one or more workers.

    Attributes:
        workers: How many.
        seconds: The longest recording.
        native: Whether frames of C and C++ were kept.
        stages: By stage.
        places: By the innermost line.
    """

    workers: int = 0
    seconds: float = 0.0
    native: bool = False
    stages: dict[Stage, Amount] = field(default_factory=dict)
    places: dict[Place, Amount] = field(default_factory=dict)

    @property
    def total(self) -> Amount:
        """Of all stages."""
        out = Amount()
        for amount in self.stages.values():
            _add(out, amount)
        return out

    def top(self, limit: int) -> list[tuple[Place, Amount]]:
        """The lines that asked for most, the largest first."""
        ranked = sorted(self.places.items(), key=lambda item: -item[1].allocated_bytes)
        return ranked[:limit]

    def to_dict(self, rows: int | None, limit: int) -> dict[str, Any]:
        """As JSON can hold it; figures by record are null where `rows` is not known."""
        total = self.total
        return {
            "workers": self.workers,
            "seconds": self.seconds,
            "native": self.native,
            "rows": rows,
            "allocated_bytes": total.allocated_bytes,
            "allocated_bytes_per_row": total.allocated_bytes / rows if rows else None,
            "allocations": total.allocations,
            "peak_bytes": total.peak_bytes,
            "left_bytes": total.left_bytes,
            "stages": {str(stage): asdict(self.stages[stage]) for stage in self.stages},
            "places": [
                place._asdict() | {"stage": str(place.stage)} | asdict(amount)
                for place, amount in self.top(limit)
            ],
        }


def _add(to: Amount, other: Amount) -> None:
    to.allocated_bytes += other.allocated_bytes
    to.allocations += other.allocations
    to.peak_bytes += other.peak_bytes
    to.left_bytes += other.left_bytes


def read_all(paths: Sequence[Path]) -> Allocations:
    """Of all these files together.

    Raises:
        NotReadableError: one is no file of memray, or was cut off before its header was whole.
    """
    out = Allocations()
    for path in paths:
        try:
            _read(path, out)
        except OSError as error:
            raise NotReadableError(f"{path}: {error}") from error
    return out


def _read(path: Path, out: Allocations) -> None:
    with memray.FileReader(path) as reader:
        found = reader.metadata
        out.native |= bool(found.has_native_traces)
        out.seconds = max(out.seconds, (found.end_time - found.start_time).total_seconds())
        out.workers += 1
        stacks = _Stacks(out)
        stacks.count_all(reader.get_allocation_records())
        for record in reader.get_high_watermark_allocation_records(merge_threads=True):
            for amount in stacks.amounts_of(record):
                amount.peak_bytes += record.size
        for record in reader.get_leaked_allocation_records(merge_threads=True):
            for amount in stacks.amounts_of(record):
                amount.left_bytes += record.size


class _Stacks:
    """Where the allocations of one file belong, each stack looked up once."""

    def __init__(self, out: Allocations) -> None:
        self._out = out
        self._known: dict[int, tuple[Amount, Amount]] = {}

    def count_all(self, records: Iterable[Any]) -> None:
        """Count every allocation, freed or not."""
        # A million and more: nothing but two counts for each.
        sizes: Counter[int] = Counter()
        numbers: Counter[int] = Counter()
        one_of: dict[int, Any] = {}
        for record in records:
            if record.allocator in _FREES:
                continue
            key = record.stack_id
            sizes[key] += record.size
            numbers[key] += 1
            one_of.setdefault(key, record)
        for key, record in one_of.items():
            for amount in self.amounts_of(record):
                amount.allocated_bytes += sizes[key]
                amount.allocations += numbers[key]

    def amounts_of(self, record: Any) -> tuple[Amount, Amount]:
        """What to add to for a record: its stage's, and its line's."""
        key = record.stack_id
        if key not in self._known:
            frames = frames_of(record)
            place = place_of(frames)
            out = self._out
            self._known[key] = (
                out.stages.setdefault(place.stage, Amount()),
                out.places.setdefault(place, Amount()),
            )
        return self._known[key]


def frames_of(record: Any) -> Frames:
    """The frames of Python of a record of memray, outermost first; empty where none is known."""
    stack = reversed(record.stack_trace())
    return tuple(Frame(function, file, line) for function, file, line in stack)


def place_of(frames: Frames) -> Place:
    """Stage and innermost line of a stack. A thread that only waits allocates for no stage."""
    stage = _stage(tuple((frame.name, frame.file) for frame in frames))
    stage = Stage.OTHER if stage is Stage.IDLE else stage
    if not frames:
        return Place("unknown", "", 0, stage)
    innermost = frames[-1]
    return Place(innermost.name, shortened(innermost.file), innermost.line, stage)


@functools.cache
def _stage(names: tuple[tuple[str, str], ...]) -> Stage:
    """Of functions and files, since stages know no lines: a tenth of all stacks differ in them."""
    return stage_of([Frame(name, file) for name, file in names])


def shortened(file: str) -> str:
    """A path from its package on, as py-spy shortens it."""
    parts = Path(file).parts
    for mark in ("site-packages", "dist-packages"):
        if mark in parts:
            return "/".join(parts[parts.index(mark) + 1 :])
    ours = [i for i, part in enumerate(parts[:-1]) if part in ("arc", "ingest", "benchmarks")]
    if ours:
        return "/".join(parts[ours[-1] :])
    return "/".join(parts[-2:])
