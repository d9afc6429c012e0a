"""Arrow IPC streams to column batches. Pure: bytes in, `ColumnBatch`es out.

A body is one stream (schema, then record batches), as
https://arrow.apache.org/docs/format/Columnar.html has it, and becomes one batch for each record
batch that has rows. What the columns of Arrow become:

    int8 to int64, uint8 to uint32             int64
    uint64                                     int64, or uint64 where a value needs it
    float16, float32, float64                  float64
    utf8, large_utf8, utf8_view                utf8
    binary, large_, fixed_size_, binary_view   binary
    bool                                       bool
    timestamp of s, ms, us and date            int64, microseconds since 1970
    timestamp of ns                            the same; refused where that would lose nanoseconds
    dictionary of any of these                 as its values
    null                                       left out

All else is refused by name. The column `time` may be a timestamp of any unit, a date, an integer
or a float; a timestamp without a zone is taken for UTC. Tags are the columns that the caller
names; without any, those that the metadata key `arc:tags` of the schema names (a JSON list, as in
the Parquet files of this program); without that key, the text columns that are dictionaries.

`decode` is the way in. Its fast path has the kernels plan and check the stream where it lies; the
columns are then views of the body, which they keep alive. What the kernels do not fully
understand, and everything that is wrong, goes to `decode_slow`, the plain twin built on pyarrow,
which words every error but those of times.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.arrow_slow import (
    StreamPart,
    assemble_parts,
    chosen_tags,
    decode_slow,
)
from ingest.arrow_survey import MAX_MESSAGES
from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.kernels import arrow as kernels
from ingest.limits import Limits
from ingest.timestamps import TimeUnit

#: Rows of the first plan: 6 KiB, enough for a stream of 30 columns. The next has 16 times as many.
_FIRST_PLAN_ROWS = 64
_PLAN_GROWTH = 16

_NO_ARENA = np.empty(0, dtype=np.int64)

_FLOAT64, _UINT64, _BOOL = kernels.KIND_FLOAT64, kernels.KIND_UINT64, kernels.KIND_BOOL
_UTF8, _BINARY, _US = kernels.KIND_UTF8, kernels.KIND_BINARY, kernels.KIND_US

_UNITS = {
    kernels.KIND_S: TimeUnit.S,
    kernels.KIND_MS: TimeUnit.MS,
    kernels.KIND_US: TimeUnit.US,
    kernels.KIND_NS: TimeUnit.NS,
}


def decode(
    body: bytes,
    now_us: int,
    limits: Limits,
    measurement: str,
    tags: frozenset[str] = frozenset(),
    time_unit: TimeUnit | None = None,
) -> list[ColumnBatch]:
    """Decode an Arrow IPC stream.

    Args:
        body: The decompressed body. The batches keep it alive.
        now_us: Stored for rows of a stream without a time column, microseconds since 1970.
        limits: Budgets of one request.
        measurement: Of all rows.
        tags: Names of the tag columns; empty: see the docstring of the module.
        time_unit: Unit of a time column of numbers; None: told from their magnitudes. A
            timestamp has a unit of its own.

    Returns:
        One batch for each record batch that has rows, in their order; at least one.

    Raises:
        DecodeError: not an Arrow IPC stream, damaged, cut off, or followed by something else.
        PayloadError: one that cannot be stored: its types, its names, its times, no rows.
        LimitError: over a budget.
        TooLargeError: its columns would take too much memory.
    """
    batches = decode_fast(body, now_us, limits, measurement, tags, time_unit)
    if batches is None:
        return decode_slow(body, now_us, limits, measurement, tags, time_unit)
    return batches


def decode_fast(
    body: bytes,
    now_us: int,
    limits: Limits,
    measurement: str,
    tags: frozenset[str] = frozenset(),
    time_unit: TimeUnit | None = None,
) -> list[ColumnBatch] | None:
    """Decode without the slow twin; arguments, result and errors as `decode` has them.

    Returns:
        None when something in the body is for the slow twin, be it to take or to refuse it.
    """
    # HOT, once a request: 28 -> 15 µs for 1 000 rows of six columns, 91 -> 19 for 10 000, against
    # pyarrow with validate(full=True), its buffers as arrays and no batch made of them yet
    # (benchmarks/bench_arrow_ipc.py -k " c "). Twin: decode_slow; equality:
    # tests/test_arrow_ipc.py.
    memory, plan = _read(np.frombuffer(body, dtype=np.uint8), limits)
    if memory is None:
        return None
    rows = plan[: plan[0, kernels.T_ROWS], : kernels.C_DATA].tolist()
    fields = rows[0][kernels.T_FIELDS]
    names = [
        body[row[kernels.F_NAME] : row[kernels.F_NAME_END]].decode() for row in rows[1 : fields + 1]
    ]
    if len(set(names)) != fields:
        return None
    declared = None
    if rows[0][kernels.T_TAGS] >= 0:
        declared = body[rows[0][kernels.T_TAGS] : rows[0][kernels.T_TAGS_END]]
    tags = chosen_tags(measurement, tags, declared, frozenset())
    parts: list[StreamPart] = []
    for at in range(fields + 1, len(rows), fields + 1):
        planned = rows[at + 1 : at + 1 + fields]
        part = memory.part(names, planned, rows[at][kernels.B_VALUES], time_unit)
        if part is None:
            return None
        parts.append(part)
    return assemble_parts(parts, len(body), now_us, measurement, tags)


def _read(buf: NDArray[np.uint8], limits: Limits) -> tuple[_Memory | None, NDArray[np.int64]]:
    """Where the values of a body lie, all of them checked, and its plan.

    Returns:
        (None, anything) when something is for the slow twin. The plan is int64, shape
        (rows, PLAN_WIDTH).
    """
    most, rows = limits.max_request_columns, _FIRST_PLAN_ROWS
    while True:
        plan = np.empty((rows, kernels.PLAN_WIDTH), dtype=np.int64)
        status = kernels.read(
            buf, plan, limits.max_columns, most, MAX_MESSAGES, limits.max_decoded_bytes
        )
        if status != kernels.MORE_ROOM or rows > 2 * most:  # no record batch without a column
            break
        rows *= _PLAN_GROWTH
    arena = _NO_ARENA
    if status == kernels.NEEDS_ARENA:
        arena = np.empty(int(plan[0, kernels.T_ARENA]) // 8, dtype=np.int64)
        status = kernels.fill(buf, plan, arena)
    if status != kernels.OK:
        return None, plan
    ints = buf.view(np.int64)
    if not ints.flags.aligned:
        return None, plan
    return _Memory(buf, buf.view(np.int32), ints, ints.view(np.float64), arena), plan


class _Memory(msgspec.Struct, gc=False):
    """Where the values of a stream lie: its body, and the arena for what had to be laid out."""

    body: NDArray[np.uint8]
    int32s: NDArray[np.int32]
    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    arena: NDArray[np.int64]

    def part(
        self, names: list[str], planned: list[list[int]], rows: int, time_unit: TimeUnit | None
    ) -> StreamPart | None:
        """The columns of one planned record batch; None: one is for the slow twin."""
        columns: dict[str, Column | None] = {}
        bounds = None
        for name, column in zip(names, planned, strict=True):
            kind, nulls, at, _, _, _, _, low, high = column
            if name == TIME_COLUMN:
                time_unit, bounds = _UNITS.get(kind, time_unit), (low, high)
            elif kind in _UNITS and kind != kernels.KIND_US:
                return None
            if kind == kernels.KIND_FLOAT64 and not nulls:
                columns[name] = Column(ColumnType.FLOAT64, self.floats[at : at + rows])
            else:
                columns[name] = self._column(column, rows)
        return StreamPart(rows, columns, time_unit, bounds)

    def _column(self, planned: list[int], rows: int) -> Column | None:
        """One planned column as views; None when it is null throughout."""
        kind, nulls, at, in_arena, valid_at, start, end, low, high = planned
        if nulls == rows:
            return None
        validity = None
        if nulls:
            validity = self.arena.view(np.bool_)[valid_at : valid_at + rows]
        if kind == kernels.KIND_UTF8 or kind == kernels.KIND_BINARY:
            offsets = self.arena.view(np.int32) if in_arena else self.int32s
            type_ = ColumnType.UTF8 if kind == kernels.KIND_UTF8 else ColumnType.BINARY
            return Column(type_, self.body[start:end], offsets[at : at + rows + 1], validity)
        if kind == kernels.KIND_BOOL:
            values = self.arena.view(np.bool_)[at : at + rows]
            return Column(ColumnType.BOOL, values, None, validity)
        ints = (self.arena if in_arena else self.ints)[at : at + rows]
        if kind == kernels.KIND_FLOAT64:
            return Column(ColumnType.FLOAT64, ints.view(np.float64), None, validity)
        if kind == kernels.KIND_UINT64 and low < 0:
            return Column(ColumnType.UINT64, ints.view(np.uint64), None, validity)
        wide = low < -MAX_EXACT_INT or high > MAX_EXACT_INT
        return Column(ColumnType.INT64, ints, None, validity, wide)
