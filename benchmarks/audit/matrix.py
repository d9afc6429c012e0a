"""The workload matrix: which cells there are, and which of them are no workload of their own. Pure.

In: whether it is to be quick. Out: cells in the order in which they are run. What a cell does is
`benchmarks.audit.cells`.
"""

from __future__ import annotations

import itertools

from benchmarks.audit.schema import Cell
from benchmarks.load.spec import LOG_FORMATS

ROWS = (1_000, 10_000, 250_000, 1_000_000)
FORMATS = ("columnar", "rows", "line-protocol", "arrow", *LOG_FORMATS)
COMPRESSIONS = ("none", "gzip", "zstd")
#: Records of an OTLP request: 4 k, 16 k and 64 k.
BATCHES = (4_096, 16_384, 65_536)

#: A quick run keeps to what a test can afford: sizes and compressions, the smallest batch.
QUICK = ((1_000, "none"), (1_000, "gzip"), (1_000, "zstd"), (10_000, "none"))

#: Requests of one repeat, so that there is a percentile; and most rows for that.
REQUESTS = 40
MOST_ROWS = {"otlp-logs": 250_000, "otlp-logs-json": 250_000}
MOST_ROWS_ELSE = 2_000_000


def cells(quick: bool = False) -> list[Cell]:
    """All of them: 48 of four formats, 72 of OTLP; quick: 24."""
    shapes = QUICK if quick else tuple(itertools.product(ROWS, COMPRESSIONS))
    out = []
    for format_ in FORMATS:
        batches: tuple[int | None, ...] = (None,)
        if format_ in LOG_FORMATS:
            batches = BATCHES[:1] if quick else BATCHES
        for (rows, compression), batch in itertools.product(shapes, batches):
            out.append(Cell(format_, rows, compression, batch))
    return out


def same_as(cell: Cell) -> Cell | None:
    """The cell that sends exactly the same requests with a smaller batch; None: there is none."""
    if cell.batch is None:
        return None
    enough = next((batch for batch in BATCHES if batch >= cell.rows), cell.batch)
    return None if cell.batch <= enough else Cell(cell.format, cell.rows, cell.compression, enough)


def requests_of_pass(cell: Cell) -> list[int]:
    """Rows of each request of one pass."""
    size = min(cell.batch or cell.rows, cell.rows)
    return [min(size, cell.rows - first) for first in range(0, cell.rows, size)]


def passes(cell: Cell, requests: int = REQUESTS) -> int:
    """Passes of one repeat: enough for `requests` requests, within the most rows of the format."""
    of_a_pass = len(requests_of_pass(cell))
    most = MOST_ROWS.get(cell.format, MOST_ROWS_ELSE) // cell.rows
    return max(1, min(-(-requests // of_a_pass), most))
