"""InfluxDB line protocol to column batches. Pure: bytes in, `ColumnBatch`es out.

`decode` is the way in. Its fast path has the kernels read the body once into cells, allocates one
arena for all values of it, and has the kernels move the cells there: no Python object per value.
What the kernels do not fully understand, and everything that is wrong, goes to `decode_slow`,
the plain twin, which holds the grammar and words every error but that of memory. So the two
cannot disagree on a refusal, and `tests/test_line_protocol.py` holds them equal on the rest.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import ClientError, TooLargeError
from ingest.kernels import line_protocol as kernels
from ingest.kernels.line_protocol import (
    ROLE_MEASUREMENT,
    ROLE_TAG,
    S_AT,
    S_BYTES,
    S_BYTES_AT,
    S_KEY,
    S_KEY_BYTES,
    S_LOW,
    S_OWNER,
    S_ROLE,
    S_ROW,
    S_SEEN,
    S_TYPE,
    S_VALID,
    SEEN_WIDE,
    SLOT_WIDTH,
    T_ARENA,
    T_COLUMNS,
    T_SLOTS,
    TYPE_BOOL,
    TYPE_FLOAT64,
    TYPE_INT64,
    TYPE_UTF8,
)
from ingest.kernels.msgpack import MORE_ROOM, OK
from ingest.limits import Limits
from ingest.line_protocol_slow import (
    Key,
    check_num_columns,
    column_names,
    decode_slow,
    time_scale,
    too_large,
    unescaped_key,
    unescaped_measurement,
)
from ingest.paths import check_measurement
from ingest.timestamps import TimeUnit

#: Slots of the first attempt, 8 KiB; the next one has 16 times as many.
_FIRST_SLOTS = 64
_SLOT_GROWTH = 16

#: Bytes of a body for each cell that the first attempt has room for. Real lines take 15 and more;
#: no line takes less than 3, with which the second attempt is made. A cell is 12 bytes of memory.
_USUAL_CELL_BYTES, _LEAST_CELL_BYTES = 8, 3

#: Places in a body are 31 bits wide.
MAX_BODY_BYTES = 2**31 - 1


def decode(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit = TimeUnit.NS
) -> list[ColumnBatch]:
    """Decode line protocol.

    Args:
        body: Decompressed.
        now_us: Time of lines without one, microseconds since 1970.
        limits: Budgets of one request.
        time_unit: Unit of all times in the body; ns round towards the past.

    Returns:
        One batch a measurement, in order of first appearance, its rows in the order of the lines.

    Raises:
        DecodeError: the body is empty, or a name or string is not UTF-8.
        PayloadError: a line is not line protocol, or does not go with the others; or there is none.
        LimitError: over a budget.
        TooLargeError: its columns would take too much memory.
    """
    if len(body) > MAX_BODY_BYTES:
        raise TooLargeError("a body of line protocol", MAX_BODY_BYTES, "send fewer lines at once")
    batches = decode_fast(body, now_us, limits, time_unit)
    return decode_slow(body, now_us, limits, time_unit) if batches is None else batches


def decode_fast(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit = TimeUnit.NS
) -> list[ColumnBatch] | None:
    """Decode without the slow twin; arguments, result and errors as `decode` has them.

    Returns:
        None when something in the body is for the slow twin, be it to take or to refuse it.
    """
    buf = np.frombuffer(body, dtype=np.uint8)
    scanned = _scan(buf, now_us, limits, time_unit)
    if scanned is None or kernels.plan(scanned.slots) != OK:
        return None
    rows = scanned.slots[: scanned.slots[0, T_SLOTS]].tolist()
    tables = _tables(body, rows, limits)
    if tables is None:
        return None
    if rows[0][T_ARENA] > limits.max_decoded_bytes:
        raise too_large(limits)
    ints = np.empty(rows[0][T_ARENA] // 8, dtype=np.int64)
    kernels.fill(buf, scanned.slots, scanned.codes, scanned.values, ints)
    bounds = scanned.slots[: len(rows), S_LOW:].tolist()
    arena = _Arena(
        ints, ints.view(np.float64), ints.view(np.int32), ints.view(np.uint8), ints.view(np.bool_)
    )
    return [_batch(arena, table, bounds[table.slot], now_us) for table in tables]


class _Scanned(msgspec.Struct, gc=False):
    """A body as the kernel read it; see `kernels.scan`."""

    slots: NDArray[np.int64]
    codes: NDArray[np.int32]
    values: NDArray[np.int64]


def _scan(
    buf: NDArray[np.uint8], now_us: int, limits: Limits, time_unit: TimeUnit
) -> _Scanned | None:
    """Read a body; None: it is for the slow twin."""
    scale = time_scale(time_unit)
    scale_array = np.array([scale.earliest, scale.latest, scale.factor], dtype=np.int64)
    num_slots, cell_bytes = _FIRST_SLOTS, _USUAL_CELL_BYTES
    while True:
        num_cells = len(buf) // cell_bytes + 2
        slots = np.empty((num_slots, SLOT_WIDTH), dtype=np.int64)
        table = np.zeros(4 * num_slots, dtype=np.int32)
        codes, values = np.empty(num_cells, np.int32), np.empty(num_cells, np.int64)
        status = kernels.scan(buf, now_us, scale_array, slots, table, codes, values)
        if status != MORE_ROOM:
            return _Scanned(slots, codes, values) if status == OK else None
        if slots[0, T_SLOTS] == num_slots:
            if num_slots > 2 * limits.max_request_columns:  # no measurement without a column
                return None
            num_slots *= _SLOT_GROWTH
        else:
            cell_bytes = _LEAST_CELL_BYTES


class _Table(msgspec.Struct, gc=False):
    """A measurement and its columns.

    Attributes:
        slot: Of the measurement.
        measurement: Its name.
        rows: Number of rows.
        at: Place of its times in the arena.
        names: Under which the columns are stored.
        tags: Which of them are tags.
        columns: Slots of the columns.
    """

    slot: int
    measurement: str
    rows: int
    at: int
    names: list[str]
    tags: frozenset[str]
    columns: list[list[int]]


def _tables(body: bytes, rows: list[list[int]], limits: Limits) -> list[_Table] | None:
    """What the slots say; None: names or numbers of columns that the slow twin has to refuse."""
    if rows[0][T_COLUMNS] > limits.max_request_columns:
        return None
    owned: dict[int, list[list[int]]] = {}
    for slot in range(1, len(rows)):
        row = rows[slot]
        if row[S_ROLE] == ROLE_MEASUREMENT:
            owned[slot] = []
        else:
            owned[row[S_OWNER]].append(row)
    try:
        return [_table(body, slot, rows[slot], owned[slot], limits) for slot in owned]
    except ClientError:
        return None


def _table(
    body: bytes, slot: int, row: list[int], columns: list[list[int]], limits: Limits
) -> _Table:
    measurement = unescaped_measurement(_key(body, row)).decode()
    check_measurement(measurement)
    check_num_columns(measurement, len(columns), limits)
    keys: list[Key] = [
        (unescaped_key(_key(body, column)).decode(), column[S_ROLE] == ROLE_TAG)
        for column in columns
    ]
    names = column_names(measurement, keys)
    tags = frozenset(name for name, (_, is_tag) in zip(names, keys, strict=True) if is_tag)
    return _Table(slot, measurement, row[S_ROW], row[S_AT], names, tags, columns)


def _key(body: bytes, row: list[int]) -> bytes:
    """The key of a slot as it stands in the body."""
    start = row[S_KEY]
    return body[start : start + row[S_KEY_BYTES]]


class _Arena(msgspec.Struct, gc=False):
    """The values of all columns of a body, as one piece of memory seen in each type."""

    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    offsets: NDArray[np.int32]
    blobs: NDArray[np.uint8]
    bools: NDArray[np.bool_]

    def column(self, row: list[int], count: int) -> Column:
        """One column of `count` rows as views of the arena; row: its slot."""
        type_, at, valid_at = row[S_TYPE], row[S_AT], row[S_VALID]
        validity = None if valid_at < 0 else self.bools[valid_at : valid_at + count]
        if type_ == TYPE_FLOAT64:
            return Column(ColumnType.FLOAT64, self.floats[at : at + count], None, validity)
        if type_ == TYPE_UTF8:
            start = row[S_BYTES_AT]
            blob = self.blobs[start : start + row[S_BYTES]]
            return Column(ColumnType.UTF8, blob, self.offsets[at : at + count + 1], validity)
        if type_ == TYPE_INT64:
            wide = row[S_SEEN] & SEEN_WIDE != 0
            return Column(ColumnType.INT64, self.ints[at : at + count], None, validity, wide)
        if type_ == TYPE_BOOL:
            return Column(ColumnType.BOOL, self.bools[at : at + count], None, validity)
        values = self.ints[at : at + count].view(np.uint64)
        return Column(ColumnType.UINT64, values, None, validity)


def _batch(arena: _Arena, table: _Table, bounds: list[int], now_us: int) -> ColumnBatch:
    count = table.rows
    columns: dict[str, Column | None] = {
        name: arena.column(row, count) for name, row in zip(table.names, table.columns, strict=True)
    }
    times = arena.ints[table.at : table.at + count]
    columns[TIME_COLUMN] = Column(ColumnType.INT64, times)
    low, high = bounds
    return assemble(table.measurement, count, columns, table.tags, now_us, TimeUnit.US, (low, high))
