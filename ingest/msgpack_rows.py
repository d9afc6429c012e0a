"""Row maps of a MessagePack body to one column batch a measurement, without the slow twin. Pure.

In: a body of nothing but `{"m", "t", "h", "fields", "tags"}` maps. The kernels scan it into the
columns that it has and where their values lie, and fill one arena with them: no Python object per
value. What they do not fully understand is answered None and left to `ingest.msgpack_rows_slow`,
the plain twin, which words every error but those of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import PayloadError, TimeError
from ingest.kernels import msgpack_rows as kernels
from ingest.kernels.msgpack import (
    KIND_BOOL,
    KIND_FLOAT64,
    KIND_INT64,
    KIND_NULL,
    KIND_UTF8,
    MORE_ROOM,
    OK,
)
from ingest.limits import Limits
from ingest.msgpack_rows_slow import HOST, stored_names, too_large
from ingest.timestamps import TimeUnit, to_epoch_us

#: Slots of the first scan: 8 KiB, enough for 64 measurements and columns. The next has 16 times
#: as many.
_FIRST_SLOTS = 64
_SLOTS_GROWTH = 16

#: Bytes of a body for each cell of the first scan: rows of 8 values of 9 bytes have 17 a cell.
_BYTES_PER_CELL = 8

#: Bytes of the time of a row, which it need not bring.
_TIME_BYTES = 8


class _Scan(NamedTuple):
    """What `kernels.scan` found: the state, and of the cells those that are used."""

    state: NDArray[np.int64]
    cells: NDArray[np.int64]


def decode_rows(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit | None = None
) -> list[ColumnBatch] | None:
    """Decode a body of row maps; arguments and errors as `ingest.msgpack_decoder.decode`.

    Returns:
        One batch a measurement, in the order of their first rows; None when something in the body
        is for the slow twin, be it to take or to refuse it.

    Raises:
        TooLargeError: its columns would take too much memory.
    """
    # HOT, once a request: 7 840 -> 199 ns of CPU a row of 3 tags and 5 fields, 1 000 rows a body
    # (benchmarks/bench_decode_rows.py -k "agent 1000"). Twin: ingest.msgpack_slow.decode_slow;
    # equality: tests/test_msgpack_rows.py.
    buf = np.frombuffer(body, dtype=np.uint8)
    scan = _scan(buf, limits)
    if scan is None:
        return None
    rows, columns, arena_bytes = scan.state[kernels.T_ROWS : kernels.T_ARENA + 1].tolist()
    if columns > limits.max_request_columns:
        return None
    if arena_bytes + _TIME_BYTES * rows > limits.max_decoded_bytes:
        raise too_large(limits)
    arena = np.empty(arena_bytes // 8, dtype=np.int64)
    if kernels.fill(buf, scan.state, scan.cells, arena) != OK:
        return None
    try:
        return _batches(body, scan.state, arena, now_us, limits, time_unit)
    except (PayloadError, TimeError):
        return None


def _scan(buf: NDArray[np.uint8], limits: Limits) -> _Scan | None:
    """The slots and cells of a body; None: it is for the slow twin."""
    slots, room = _FIRST_SLOTS, len(buf) // _BYTES_PER_CELL + 64
    most = min(len(buf) + 64, limits.max_decoded_bytes // 8)  # no value without a byte
    while True:
        state, cells = kernels.new_state(slots), np.empty(room, dtype=np.int64)
        status = kernels.scan(buf, state, cells)
        if status == OK:
            return _Scan(state, cells[: state[kernels.T_CELLS]])
        if status != MORE_ROOM:
            return None
        if state[kernels.T_END] == state[kernels.T_TABLE]:
            slots *= _SLOTS_GROWTH
        else:
            room, most = most, 0
        if room == 0 or slots > 2 * _SLOTS_GROWTH * limits.max_request_columns:
            return None


def _batches(
    body: bytes,
    state: NDArray[np.int64],
    arena: NDArray[np.int64],
    now_us: int,
    limits: Limits,
    time_unit: TimeUnit | None,
) -> list[ColumnBatch] | None:
    """The batches of a body whose values are in the arena; None: they are for the slow twin."""
    groups: dict[int, list[list[int]]] = {}
    used = state[kernels.FIRST_SLOT : state[kernels.T_END]].reshape(-1, kernels.SLOT_WIDTH)
    for slot in used.tolist():
        if slot[kernels.S_ROLE] == kernels.ROLE_MEASUREMENT:
            groups[slot[kernels.S_GROUP]] = [slot]
        elif slot[kernels.S_KIND] != KIND_NULL:
            groups[slot[kernels.S_GROUP]].append(slot)
    if sum(map(len, groups.values())) > limits.max_request_columns:
        return None
    if max(map(len, groups.values())) > limits.max_columns:
        return None
    values = _Arena(body, arena)
    return [values.batch(slots[0], slots[1:], now_us, time_unit) for slots in groups.values()]


class _Arena:
    """The values of all columns of a body, as one piece of memory seen in each type."""

    def __init__(self, body: bytes, ints: NDArray[np.int64]) -> None:
        self.body = body
        self.ints = ints
        self.floats = ints.view(np.float64)
        self.offsets = ints.view(np.int32)
        self.blobs = ints.view(np.uint8)
        self.bools = ints.view(np.bool_)

    def batch(
        self, group: list[int], slots: list[list[int]], now_us: int, time_unit: TimeUnit | None
    ) -> ColumnBatch:
        """The rows of one measurement.

        Raises:
            PayloadError, TimeError: it is for the slow twin, which knows the rows to name.
        """
        rows = group[kernels.S_LAST]
        measurement = self._name(group)
        tag_slots = [slot for slot in slots if slot[kernels.S_ROLE] == kernels.ROLE_TAG]
        field_slots = [slot for slot in slots if slot[kernels.S_ROLE] != kernels.ROLE_TAG]
        tags, fields = stored_names(
            measurement,
            [self._name(slot) for slot in tag_slots],
            [self._name(slot) for slot in field_slots],
        )
        columns: dict[str, Column | None] = {}
        for name, slot in zip(tags + fields, tag_slots + field_slots, strict=True):
            columns[name] = self._column(slot, rows)
        bounds: tuple[int, int] | None = (group[kernels.S_LOW], group[kernels.S_HIGH])
        if group[kernels.S_COUNT] > 0:
            columns[TIME_COLUMN] = times = self._column(group, rows)
            if times.validity is not None:
                _set_missing(times, now_us, time_unit)
                time_unit, bounds = TimeUnit.US, None
        return assemble(measurement, rows, columns, frozenset(tags), now_us, time_unit, bounds)

    def _name(self, slot: list[int]) -> str:
        start, end = slot[kernels.S_NAME], slot[kernels.S_NAME_END]
        if slot[kernels.S_ROLE] == kernels.ROLE_ITEM:
            return f"field_{start}"
        return self.body[start:end].decode() if start >= 0 else HOST

    def _column(self, slot: list[int], rows: int) -> Column:
        """One column as views of the arena."""
        kind, at, valid_at = slot[kernels.S_KIND], slot[kernels.S_AT], slot[kernels.S_VALID]
        validity = None if valid_at < 0 else self.bools[valid_at : valid_at + rows]
        if kind == KIND_FLOAT64:
            return Column(ColumnType.FLOAT64, self.floats[at : at + rows], None, validity)
        if kind == KIND_INT64:
            low, high = slot[kernels.S_LOW], slot[kernels.S_HIGH]
            wide = low < -MAX_EXACT_INT or high > MAX_EXACT_INT
            return Column(ColumnType.INT64, self.ints[at : at + rows], None, validity, wide)
        if kind == KIND_BOOL:
            return Column(ColumnType.BOOL, self.bools[at : at + rows], None, validity)
        type_ = ColumnType.UTF8 if kind == KIND_UTF8 else ColumnType.BINARY
        blob = self.blobs[slot[kernels.S_BYTES] : slot[kernels.S_BYTES_END]]
        return Column(type_, blob, self.offsets[at : at + rows + 1], validity)


def _set_missing(times: Column, now_us: int, unit: TimeUnit | None) -> None:
    """Turn the times of a measurement, of which some are missing, to microseconds.

    Raises:
        TimeError: one is no time.
    """
    present = times.validity
    found = to_epoch_us(times.values[present], unit, TIME_COLUMN).time_us
    times.type, times.validity = ColumnType.INT64, None
    times.values = np.full(len(times.values), now_us, dtype=np.int64)
    times.values[present] = found
