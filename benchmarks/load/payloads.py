"""Bodies encoded before the run, and the few bytes of each request that are made during it.

In: a `LoadSpec` and a process number. Out: for each request three pieces to send one after
another: HTTP head, the part of the body that never changes, and its times. `time` is the last
column of a columnar body, so its values are the last `9 * rows` bytes, and one vectorised write
makes them. Nothing here sends.

Compressed bodies are two gzip members, or two zstd frames, one after another: the fixed part,
compressed beforehand, and the times, compressed for each request.

In the other formats times stand all over the body, so a request is a copy of one with its times
written into it, all of it compressed for each request when the run is; its third piece is empty.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.data import TIME_CELL_BYTES, Columns, columnar_body, columns, time_cells
from benchmarks.load.formats import FORMATS, Template
from benchmarks.load.spec import LoadSpec

PATH = "/api/v1/write/msgpack"
GZIP_LEVEL = 1
#: wbits of zlib that make a gzip member with a 32 KiB window.
_GZIP_WBITS = 31
ZSTD_LEVEL = 1

Compressor = Callable[[bytes | memoryview], bytes]


@dataclass(frozen=True)
class Body:
    """One body of the pool.

    Attributes:
        head: The HTTP head up to the value of Content-Length.
        fixed: The body without its times, compressed when the run is; not of a `template`.
        template: The body, of every format but the columnar one.
        measurement: Where its rows go.
    """

    head: bytes
    fixed: bytes
    measurement: str
    template: Template | None = None


def body_seed(spec: LoadSpec, process: int, index: int) -> int:
    """Seed of the values of one body."""
    return (spec.seed * 1000 + process) * 100_000 + index


def body_columns(spec: LoadSpec, process: int, index: int) -> Columns:
    """Columns of one body. The times in it are placeholders of the right width."""
    return columns(
        spec.workload,
        spec.rows,
        body_seed(spec, process, index),
        num_columns=spec.columns,
        scrape=index // spec.order.per_class,
    )


def body_measurement(spec: LoadSpec, process: int, index: int) -> str:
    """Measurement of one body: any of the workload's, by a seeded draw."""
    draw = np.random.default_rng([body_seed(spec, process, index), 1])
    names = spec.load.measurements
    return names[int(draw.integers(len(names)))]


class Payloads:
    """The bodies of one generator process."""

    def __init__(self, spec: LoadSpec, process: int, host: str) -> None:
        """Encode, and compress if asked to, every body of the process.

        Args:
            spec: The run.
            process: Number of this process.
            host: Value of the `Host` header.
        """
        self._compress = compressor(spec.compression)
        self._format = FORMATS.get(spec.format)
        self._unit = spec.load.time_unit
        self._spec = spec
        self._host = host
        self._base = spec.identity.base
        self._offsets = spec.identity.offsets()
        self._times = np.empty(spec.rows, dtype=np.int64)
        self._order = spec.order
        self.bodies = [self._body(spec, process, i) for i in range(spec.order.bodies)]

    def _head_prefix(self, measurement: str) -> str:
        """The HTTP head of a body up to the value of Content-Length."""
        spec = self._spec
        first = f"POST {PATH} HTTP/1.1\r\nContent-Type: application/msgpack"
        if self._format is not None:
            first = self._format.head(spec, measurement)
        encoding = "" if spec.compression == "none" else f"Content-Encoding: {spec.compression}\r\n"
        return (
            f"{first}\r\nHost: {self._host}\r\n"
            f"x-arc-database: {spec.database}\r\n{encoding}Content-Length: "
        )

    def _body(self, spec: LoadSpec, process: int, index: int) -> Body:
        measurement = body_measurement(spec, process, index)
        prefix = self._head_prefix(measurement)
        made = body_columns(spec, process, index)
        if self._format is not None:
            template = self._format.template(made, measurement, spec.load.tags, self._unit)
            return Body(prefix.encode(), b"", measurement, template)
        whole = columnar_body(made, measurement, spec.load.tags if spec.declare_tags else ())
        fixed = whole[: -TIME_CELL_BYTES * spec.rows]
        if self._compress is not None:
            fixed = self._compress(fixed)
            return Body(prefix.encode(), fixed, measurement)
        return Body(f"{prefix}{len(whole)}\r\n\r\n".encode(), fixed, measurement)

    # HOT, once per request: the only per-row work of the generator is this one write of the
    # times, 1.4 µs for 1 000 rows (tests/test_load_generator.py decodes what comes out).
    def pieces(self, request: int, times: Times) -> list[bytes | memoryview]:
        """What to send as request number `request`.

        Args:
            request: Number in the run.
            times: Room for its times. The pieces refer to it, so it belongs to the request
                until all of it is sent.

        Returns:
            HTTP head, fixed part of the body, times.
        """
        np.add(self._offsets, self._base(request), out=self._times)
        body = self.bodies[self._order.body(request)]
        if body.template is not None:
            return self._filled(body, body.template)
        times.values[...] = self._times
        if self._compress is None:
            return [body.head, body.fixed, times.octets]
        tail = self._compress(times.octets)
        head = b"%b%d\r\n\r\n" % (body.head, len(body.fixed) + len(tail))
        return [head, body.fixed, tail]

    def _filled(self, body: Body, template: Template) -> list[bytes | memoryview]:
        assert self._format is not None, "BUG: a template of no format"
        filled: Any = template.filled(self._format.octets(self._times, self._unit))
        data: bytes | memoryview = memoryview(filled)
        if self._compress is not None:
            data = self._compress(data)
        return [b"%b%d\r\n\r\n" % (body.head, len(data)), data, b""]


class Times:
    """Room for the encoded times of one request in flight."""

    __slots__ = ("octets", "values")

    def __init__(self, rows: int) -> None:
        """Allocate for `rows` rows."""
        cells = time_cells(rows)
        self.values: NDArray[np.uint64] = cells["value"]
        octets: Any = cells.view(np.uint8)  # a buffer, which its type says from NumPy 2.5 on
        self.octets = memoryview(octets)


def compressor(compression: str) -> Compressor | None:
    """What makes one gzip member or one zstd frame of some bytes; None for "none"."""
    if compression == "gzip":
        return lambda data: zlib.compress(data, GZIP_LEVEL, wbits=_GZIP_WBITS)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    if compression == "none":
        return None
    raise ValueError(f"no compression {compression!r}")
