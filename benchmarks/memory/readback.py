"""Reads back a load of any length, piece by piece: `benchmarks.load.oracle` in bounded memory.

In: a load, what became of each request, a data directory. Out: one `Verdict`, as the load
generator gives it. The oracle takes a byte a row, which half an hour at full speed has ten
thousand million of. Rows of a run lie one after another in time, and so do its files: a piece is
a run of requests, judged by the oracle from the files that reach into its time. Changes nothing
but a temporary folder of links.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.load.oracle import EXAMPLES_KEPT, HOUR_GLOB, OnProgress, Verdict, verify
from benchmarks.load.spec import INTERLEAVED, LoadSpec

#: Rows of a piece, a byte each.
PIECE_ROWS = 256 * 2**20

#: Counted once a file, whichever pieces it belongs to, and so not summed.
_OF_FILES = ("files", "file_bytes")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Stored(NamedTuple):
    """A file of the run.

    Attributes:
        path: Where it lies.
        rows: How many it has.
        low_us: Time of its first row; None where its footer does not tell.
        high_us: Time of its last row.
    """

    path: Path
    rows: int
    low_us: int | None
    high_us: int | None

    def reaches(self, from_us: int, to_us: int) -> bool:
        """Whether it may have rows of this span."""
        if self.low_us is None or self.high_us is None:
            return True
        return self.low_us < to_us and self.high_us >= from_us


def read_back(
    spec: LoadSpec,
    outcomes: NDArray[np.uint8],
    data_dir: Path,
    on_progress: OnProgress | None = None,
    piece_rows: int = PIECE_ROWS,
) -> Verdict:
    """Compare the files of a run with what the generator knows.

    Args:
        spec: The run; not of workload `a`, whose rows do not follow each other in time.
        outcomes: As for `verify`.
        data_dir: Of the daemon.
        on_progress: Called after each piece, with how many are done and how many there are.
        piece_rows: About how many rows are judged at once.

    Raises:
        ValueError: workload `a`.
    """
    if spec.workload == "a":
        raise ValueError("rows of workload a cannot be read back piece by piece")
    files = [_stored(path) for path in sorted((data_dir / spec.database).glob(HOUR_GLOB))]
    pieces = list(_pieces(spec, len(outcomes), piece_rows))
    out = Verdict(files=len(files), file_bytes=sum(f.path.stat().st_size for f in files))
    inside = 0
    for done, (first, last) in enumerate(pieces, 1):
        piece, chosen = _of_piece(spec, first, last, files)
        with tempfile.TemporaryDirectory(prefix="arc-read-back-") as name:
            _link(chosen, data_dir / spec.database, Path(name) / spec.database)
            found = verify(piece, outcomes[first:last], Path(name))
        # To the oracle, rows of other pieces were never sent: they are told from those that
        # belong to no piece by their number alone.
        inside += found.stored - found.ghost
        _add(out, found)
        if on_progress is not None:
            on_progress(done, len(pieces))
    out.stored = sum(file.rows for file in files)
    out.ghost += out.stored - inside
    return out


def _stored(path: Path) -> _Stored:
    try:
        found = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return _Stored(path, 0, None, None)  # the oracle finds it, and says what is wrong
    lows, highs = [], []
    for group in range(found.num_row_groups):
        for column in range(found.num_columns):
            about = found.row_group(group).column(column)
            if about.path_in_schema == "time" and about.is_stats_set:
                lows.append(_us(about.statistics.min))
                highs.append(_us(about.statistics.max))
    if not lows or len(lows) < found.num_row_groups:
        return _Stored(path, found.num_rows, None, None)
    return _Stored(path, found.num_rows, min(lows), max(highs))


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _pieces(spec: LoadSpec, requests: int, piece_rows: int) -> Iterator[tuple[int, int]]:
    """First and last request, exclusive, of each piece.

    A piece begins where both the interleaving of times and the order of bodies begin anew, so
    that it is a run of its own with a later start.
    """
    unit = math.lcm(INTERLEAVED, spec.processes * spec.order.bodies)
    size = max(1, piece_rows // (unit * spec.rows)) * unit
    for first in range(0, requests, size):
        yield first, min(first + size, requests)


def _of_piece(
    spec: LoadSpec, first: int, last: int, files: Sequence[_Stored]
) -> tuple[LoadSpec, list[_Stored]]:
    """The piece as a run, and the files that may have rows of it."""
    from_us = spec.t0_us + first * spec.rows
    to_us = spec.t0_us + -(-last // INTERLEAVED) * INTERLEAVED * spec.rows
    piece = spec.with_changes(t0_us=from_us)
    return piece, [file for file in files if file.reaches(from_us, to_us)]


def _link(files: Sequence[_Stored], database: Path, to: Path) -> None:
    """Make a database of links to some files of another."""
    for file in files:
        link = to / file.path.relative_to(database)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file.path.resolve(), link)


def _add(out: Verdict, found: Verdict) -> None:
    for each in fields(Verdict):
        value = getattr(found, each.name)
        if isinstance(value, int) and each.name not in (*_OF_FILES, "stored", "ghost"):
            setattr(out, each.name, getattr(out, each.name) + value)
    out.examples += found.examples[: EXAMPLES_KEPT - len(out.examples)]
