"""Requests of a cell: a body encoded once, with the times of each request written into a copy.

In: a cell and the number of a request. Out: its bytes as a client would send them, and what its
rows must read back as. Nothing here is timed, and nothing is kept but a few templates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import zstandard
from isal import igzip
from numpy.typing import NDArray

from benchmarks.audit.matrix import requests_of_pass
from benchmarks.audit.schema import Cell
from benchmarks.data import (
    DEFAULT_START_US,
    TIME_CELL_BYTES,
    WORKLOADS,
    Columns,
    columnar_body,
    columns,
)
from benchmarks.load.cli import WORKLOAD_OF
from benchmarks.load.formats import FORMATS, Template
from ingest.decoders import Parameters
from ingest.log_format import Format, RecordHead
from ingest.timestamps import TimeUnit

DATABASE = "audit"
#: What the daemon takes unless told otherwise (ARC_MAX_BODY_BYTES), before and after decompression.
MAX_BODY_BYTES = 64 * 2**20
#: Rows from which the size of a larger body is foretold.
SAMPLE_ROWS = 1_000
UNIT = "us"

_FORMAT_OF = {
    "columnar": Format.MSGPACK,
    "rows": Format.MSGPACK,
    "line-protocol": Format.LINE_PROTOCOL,
    "arrow": Format.ARROW,
    "otlp-logs": Format.OTLP_LOGS,
    "otlp-logs-json": Format.OTLP_LOGS_JSON,
}
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": lambda data: igzip.compress(data, compresslevel=1),
    "zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}


class TooLargeError(ValueError):
    """The daemon would refuse a request of the cell; the message has its size and the limit."""


class Body:
    """One body of a format and a number of rows, to be sent at any times.

    Attributes:
        columns: What its rows hold; the times in it are not those of a request.
        num_rows: How many.
    """

    def __init__(
        self,
        format_: str,
        num_rows: int,
        num_columns: int | None = None,
        workload: str | None = None,
        measurement: str | None = None,
    ) -> None:
        """Encode it.

        Args:
            format_: One of `benchmarks.load.spec.FORMATS`.
            num_rows: Of the body.
            num_columns: With the time; None: as the workload has.
            workload: With times in µs; None: the usual one of the format.
            measurement: None: the first one of the workload.

        Raises:
            TooLargeError: it is larger than the daemon takes.
        """
        load = WORKLOADS[workload or WORKLOAD_OF[format_]]
        self._format = format_
        self.num_rows = num_rows
        self.measurement = measurement or load.measurements[0]
        self.tags = load.tags
        if num_rows > SAMPLE_ROWS and format_ not in ("columnar", "arrow"):
            # Encoded row by row, in seconds: look first.
            each = Body(format_, SAMPLE_ROWS, num_columns, workload).nbytes / SAMPLE_ROWS
            _check_size(round(each * num_rows), "about ")
        self.columns: Columns = columns(load.name, num_rows, num_columns=num_columns)
        self._template = self._encoded()
        _check_size(self.nbytes)

    @property
    def nbytes(self) -> int:
        """Its size, not compressed."""
        return len(self._template.body)

    def _encoded(self) -> Template:
        if self._format == "columnar":
            return _columnar(self.columns, self.measurement, self.tags)
        return FORMATS[self._format].template(self.columns, self.measurement, self.tags, UNIT)

    def at(self, first_row: int) -> bytes:
        """The body with the times of the rows from this one of the stream on."""
        times = times_us(first_row, self.num_rows)
        if self._format == "columnar":
            octets = times.astype(">i8").view(np.uint8).reshape(-1, 8)
        else:
            octets = FORMATS[self._format].octets(times, UNIT)
        return self._template.filled(octets).tobytes()

    def head(self) -> RecordHead:
        """What the daemon knows of a request beside its body."""
        kind = _FORMAT_OF[self._format]
        unit = TimeUnit.US if kind is Format.LINE_PROTOCOL else None
        params = b""
        if kind is Format.ARROW:
            params = Parameters(self.measurement, self.tags).to_bytes()
        return RecordHead(kind, DATABASE, unit, DEFAULT_START_US, b"", params)


def times_us(first_row: int, count: int) -> NDArray[np.int64]:
    """Times of some rows of the stream, one µs apart: int64, shape (count,)."""
    return DEFAULT_START_US + np.arange(first_row, first_row + count, dtype=np.int64)


def _columnar(made: Columns, measurement: str, tags: tuple[str, ...]) -> Template:
    """The columnar body, whose times are its last bytes."""
    body = np.frombuffer(columnar_body(made, measurement, tags), np.uint8)
    rows = len(made["time"])
    first = len(body) - TIME_CELL_BYTES * rows
    starts = first + 1 + TIME_CELL_BYTES * np.arange(rows, dtype=np.int64)
    return Template(body, ((starts[:, None] + np.arange(8)).ravel(),))


def _check_size(nbytes: int, about: str = "") -> None:
    if nbytes > MAX_BODY_BYTES:
        raise TooLargeError(
            f"the daemon refuses it: a body of {about}{nbytes:,} bytes is over the limit of "
            f"{MAX_BODY_BYTES:,} (ARC_MAX_BODY_BYTES)"
        )


@functools.lru_cache(maxsize=4)  # a large one takes 100 MB and a second to encode
def body_of(format_: str, num_rows: int) -> Body:
    """The usual body of a format; the cells of its compressions share it."""
    return Body(format_, num_rows)


class Requests:
    """The requests of one cell, in order.

    Attributes:
        cell: Which.
        bodies: By number of rows: one, and a smaller one where the last request of a pass is.
    """

    def __init__(self, cell: Cell, num_passes: int) -> None:
        """Encode its bodies.

        Raises:
            TooLargeError: a request is larger than the daemon takes.
        """
        self.cell = cell
        self.sizes = requests_of_pass(cell) * num_passes
        self.bodies = {size: body_of(cell.format, size) for size in sorted(set(self.sizes))}
        self.firsts = np.cumsum([0, *self.sizes]).tolist()
        self._compress = _COMPRESS[cell.compression]

    @property
    def num_rows(self) -> int:
        """Of all requests."""
        return sum(self.sizes)

    def __len__(self) -> int:
        """How many."""
        return len(self.sizes)

    def sent(self, index: int) -> bytes:
        """The bytes of a request, compressed if the cell is."""
        return self._compress(self.bodies[self.sizes[index]].at(self.firsts[index]))

    def head(self) -> RecordHead:
        """What the daemon knows of each beside its body."""
        return self.bodies[self.sizes[0]].head()
