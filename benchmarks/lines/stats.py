"""Times of lines as values: of one process, of several together, as a table. Pure but for sources.

In: a `LineProfiler`. Out: `Lines`. Times are wall-clock: waiting for a lock, for the disk and for
the interpreter's lock counts for the line that waits. What a line calls counts for the line.
"""

from __future__ import annotations

import io
import linecache
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from line_profiler import LineProfiler


class Line(msgspec.Struct):
    """One line of a function.

    Attributes:
        number: In its file.
        hits: How often it ran.
        seconds: Of all of them together.
    """

    number: int
    hits: int
    seconds: float


class Timed(msgspec.Struct):
    """One function.

    Attributes:
        file: Its source.
        first_line: Where it begins, its decorators included.
        name: Qualified, where the profiler knows that.
        lines: Those that ran, in their order.
    """

    file: str
    first_line: int
    name: str
    lines: list[Line]

    @property
    def seconds(self) -> float:
        """Of all lines."""
        return sum(line.seconds for line in self.lines)

    @property
    def was_called(self) -> bool:
        """Whether any line ran."""
        return any(line.hits for line in self.lines)


class Lines(msgspec.Struct):
    """Functions with their lines.

    Attributes:
        functions: In the order of files and lines.
        processes: How many were put together.
    """

    functions: list[Timed]
    processes: int = 1

    @classmethod
    def of(cls, profiler: LineProfiler) -> Lines:
        """What a profiler has seen so far."""
        stats: Any = profiler.get_stats()
        found = []
        for (file, first, name), lines in stats.timings.items():
            counted = [Line(number, hits, time * stats.unit) for number, hits, time in lines]
            found.append(Timed(file, first, name, counted))
        return cls(sorted(found, key=lambda timed: (timed.file, timed.first_line)))

    @classmethod
    def merged(cls, parts: Sequence[Lines]) -> Lines:
        """Of several processes together, of functions with the same source."""
        by_place: dict[tuple[str, int, str], dict[int, Line]] = {}
        for part in parts:
            for timed in part.functions:
                lines = by_place.setdefault((timed.file, timed.first_line, timed.name), {})
                for line in timed.lines:
                    known = lines.setdefault(line.number, Line(line.number, 0, 0.0))
                    known.hits += line.hits
                    known.seconds += line.seconds
        found = [
            Timed(*place, [lines[number] for number in sorted(lines)])
            for place, lines in sorted(by_place.items())
        ]
        return cls(found, sum(part.processes for part in parts))

    def less(self, before: Lines) -> Lines:
        """What came on top since `before`, of the same process."""
        taken = {
            (timed.file, timed.first_line, timed.name, line.number): line
            for timed in before.functions
            for line in timed.lines
        }
        out = []
        for timed in self.functions:
            lines = []
            for line in timed.lines:
                key = timed.file, timed.first_line, timed.name, line.number
                old = taken.get(key, Line(line.number, 0, 0.0))
                rest = Line(line.number, line.hits - old.hits, line.seconds - old.seconds)
                lines += [rest] if rest.hits else []
            out.append(Timed(timed.file, timed.first_line, timed.name, lines))
        return Lines(out, self.processes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Lines:
        """Read what `to_bytes` made."""
        return msgspec.json.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    def text(self) -> str:
        """The familiar tables of line_profiler, times in µs, of the functions that ran."""
        from line_profiler import show_text  # not before `functions.profile` has set it up

        nanoseconds = {
            (timed.file, timed.first_line, timed.name): [
                (line.number, line.hits, round(line.seconds * 1e9)) for line in timed.lines
            ]
            for timed in self.functions
        }
        stream = io.StringIO()
        show_text(nanoseconds, 1e-9, output_unit=1e-6, stream=stream, stripzeros=True)
        return stream.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, with the text of each line."""
        return {
            "processes": self.processes,
            "functions": [
                {
                    "file": timed.file,
                    "first_line": timed.first_line,
                    "name": timed.name,
                    "seconds": timed.seconds,
                    "lines": [
                        msgspec.structs.asdict(line)
                        | {"source": linecache.getline(timed.file, line.number).rstrip()}
                        for line in timed.lines
                    ],
                }
                for timed in self.functions
            ],
        }
