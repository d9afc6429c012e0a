"""MessagePack bodies to column batches. Pure: bytes in, `ColumnBatch`es out.

A body is one map, several maps one after another, an array of maps, or `{"batch": [maps]}`.
A map is columnar, `{"m": name, "columns": {name: array}, "tags": [names]}`, or a row,
`{"m": name, "t": time, "h": host, "fields": {name: value}, "tags": {name: text}}`. Each columnar
map becomes a batch, and all rows of one measurement become one, where their first row stands.

`decode` is the way in. Rows have a fast path of their own, `ingest.msgpack_rows`; that of
columns has the kernels plan where each column lies, allocates one
arena for all values of the body, and has the kernels fill it: no Python object per value. What
the kernels do not fully understand, and everything that is wrong, goes to `decode_slow`, the
plain twin built on msgspec, which words every error but those of times and of memory. So the two
cannot disagree on a refusal, and `tests/test_msgpack_decoder.py` holds them equal on the rest.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import TooLargeError
from ingest.kernels import msgpack as kernels
from ingest.limits import Limits
from ingest.msgpack_rows import decode_rows
from ingest.msgpack_slow import decode_slow
from ingest.timestamps import TimeUnit

_STRINGS = msgspec.msgpack.Decoder(list[str])

#: Rows of the first plan: 6 KiB, enough for 9 maps of 6 columns. The next has 16 times as many.
_FIRST_PLAN_ROWS = 64
_PLAN_GROWTH = 16

#: Bytes of the time of a row, which a map need not bring.
_TIME_BYTES = 8


def decode(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit | None = None
) -> list[ColumnBatch]:
    """Decode a MessagePack body.

    Args:
        body: The decompressed body.
        now_us: Stored for rows without a time, microseconds since 1970.
        limits: Budgets of one request.
        time_unit: Unit of the times; None: told from their magnitudes, for each columnar map and
            for the rows of each measurement.

    Returns:
        One batch a columnar map and one a measurement of rows, in the order in which they begin
        in the body, each with at least one row.

    Raises:
        DecodeError: not MessagePack, or cut off.
        PayloadError: MessagePack, but not what this door takes.
        LimitError: over a budget.
        TooLargeError: its columns would take too much memory.
    """
    batches = decode_fast(body, now_us, limits, time_unit)
    return decode_slow(body, now_us, limits, time_unit) if batches is None else batches


def decode_fast(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit | None = None
) -> list[ColumnBatch] | None:
    """Decode without the slow twin; arguments, result and errors as `decode` has them.

    Returns:
        None when something in the body is for the slow twin, be it to take or to refuse it.
    """
    batches = _decode_columnar(body, now_us, limits, time_unit)
    return decode_rows(body, now_us, limits, time_unit) if batches is None else batches


def _decode_columnar(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit | None
) -> list[ColumnBatch] | None:
    """The batches of a body of columnar maps; None: it is for another decoder."""
    # HOT, once a request: 1 500 -> 15 µs for 1 000 rows of six columns
    # (benchmarks/bench_decode.py -k " c 1000"). Twin: decode_slow; equality:
    # tests/test_msgpack_decoder.py.
    buf = np.frombuffer(body, dtype=np.uint8)
    plan = _scan(buf, limits)
    arena = None if plan is None else _fill(buf, plan, limits)
    if plan is None or arena is None:
        return None
    rows = plan[: plan[0, kernels.T_ROWS]].tolist()
    batches: list[ColumnBatch] = []
    at = 1
    while at < len(rows):
        end = at + 1 + rows[at][kernels.M_COLUMNS]
        batch = _batch(body, arena, rows[at], rows[at + 1 : end], now_us, limits, time_unit)
        if batch is None:
            return None
        batches.append(batch)
        at = end
    return batches


def _scan(buf: NDArray[np.uint8], limits: Limits) -> NDArray[np.int64] | None:
    """The plan of a body, int64, shape (rows, PLAN_WIDTH); None: it is for the slow twin."""
    rows = _FIRST_PLAN_ROWS
    while True:
        plan = np.empty((rows, kernels.PLAN_WIDTH), dtype=np.int64)
        status = kernels.scan(buf, plan)
        if status != kernels.MORE_ROOM:
            return plan if status == kernels.OK else None
        if rows > 2 * limits.max_request_columns:  # no map without a column: half the rows
            return None
        rows *= _PLAN_GROWTH


class _Arena(msgspec.Struct, gc=False):
    """The values of all columns of a body, as one piece of memory seen in each type."""

    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    offsets: NDArray[np.int32]
    blobs: NDArray[np.uint8]
    bools: NDArray[np.bool_]

    def column(self, planned: list[int]) -> Column | None:
        """One planned column as views of the arena; None when it is null throughout."""
        kind, _, _, count, at, valid_at, start, end, low, high, _, _ = planned
        validity = None if valid_at < 0 else self.bools[valid_at : valid_at + count]
        if kind == kernels.KIND_FLOAT64:
            return Column(ColumnType.FLOAT64, self.floats[at : at + count], None, validity)
        if kind == kernels.KIND_UTF8 or kind == kernels.KIND_BINARY:
            type_ = ColumnType.UTF8 if kind == kernels.KIND_UTF8 else ColumnType.BINARY
            offsets = self.offsets[at : at + count + 1]
            return Column(type_, self.blobs[start:end], offsets, validity)
        if kind == kernels.KIND_INT64 or kind == kernels.KIND_TIMESTAMP:
            wide = low < -MAX_EXACT_INT or high > MAX_EXACT_INT
            return Column(ColumnType.INT64, self.ints[at : at + count], None, validity, wide)
        if kind == kernels.KIND_BOOL:
            return Column(ColumnType.BOOL, self.bools[at : at + count], None, validity)
        if kind == kernels.KIND_UINT64:
            values = self.ints[at : at + count].view(np.uint64)
            return Column(ColumnType.UINT64, values, None, validity)
        return None


def _fill(buf: NDArray[np.uint8], plan: NDArray[np.int64], limits: Limits) -> _Arena | None:
    """Read every value of a body; None: one is for the slow twin."""
    _, columns, tags, rows, size = plan[0, : kernels.T_NUM_FIELDS].tolist()
    if columns + tags > limits.max_request_columns:
        return None
    if size + _TIME_BYTES * rows > limits.max_decoded_bytes:
        what = "memory of the columns in this body"
        raise TooLargeError(what, limits.max_decoded_bytes, "send fewer rows at once")
    ints = np.empty(size // 8, dtype=np.int64)
    if kernels.fill(buf, plan, ints) != kernels.OK:
        return None
    return _Arena(
        ints, ints.view(np.float64), ints.view(np.int32), ints.view(np.uint8), ints.view(np.bool_)
    )


def _batch(
    body: bytes,
    arena: _Arena,
    planned: list[int],
    planned_columns: list[list[int]],
    now_us: int,
    limits: Limits,
    time_unit: TimeUnit | None,
) -> ColumnBatch | None:
    """The batch of one planned map; None: it is for the slow twin."""
    columns: dict[str, Column | None] = {}
    time_bounds = None
    for column in planned_columns:
        name = body[column[kernels.C_NAME] : column[kernels.C_NAME_END]].decode()
        columns[name] = arena.column(column)
        if name == TIME_COLUMN:
            time_bounds = column[kernels.C_LOW], column[kernels.C_HIGH]
            if column[kernels.C_KIND] == kernels.KIND_TIMESTAMP:
                time_unit = TimeUnit.US
        elif column[kernels.C_KIND] == kernels.KIND_TIMESTAMP:
            return None
    if len(columns) != len(planned_columns) or len(columns) > limits.max_columns:
        return None
    tags: frozenset[str] = frozenset()
    if planned[kernels.M_TAGS] >= 0:
        tags = frozenset(
            _STRINGS.decode(body[planned[kernels.M_TAGS] : planned[kernels.M_TAGS_END]])
        )
    measurement = body[planned[kernels.M_NAME] : planned[kernels.M_NAME_END]].decode()
    rows = planned[kernels.M_VALUES]
    return assemble(measurement, rows, columns, tags, now_us, time_unit, time_bounds)
