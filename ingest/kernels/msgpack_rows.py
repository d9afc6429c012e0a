"""Row maps of a MessagePack body, grouped into columns without making a Python object per value.

In: the bytes of a body of `{"m", "t", "h", "fields", "tags"}` maps. Out of `scan`: the slots,
which are the measurements and their columns, and the cells, which say where each value lies.
Then `fill` writes the values of all columns into one arena. Anything unusual is answered
`FALLBACK` and left to the slow twin, `ingest.msgpack_rows_slow`, errors included: as in
`ingest.kernels.msgpack`, whose readers of single items these kernels are built on.

Rows repeat their keys in the same order. So the column of a key is foretold: each slot remembers
which one followed it in the row before, and the key is compared with that one's, a word at a
time. Only where it differs is it looked up in a hash table, in a bounded number of places, so
that names made to collide cost no more than a fall back.

Numba's cache does not notice a change in another file: after one in `ingest/kernels/msgpack.py`,
touch this one.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import F, kernel
from ingest.kernels.msgpack import (
    FALLBACK,
    KIND_BINARY,
    KIND_BOOL,
    KIND_FLOAT64,
    KIND_INT64,
    KIND_NULL,
    KIND_UTF8,
    MORE_ROOM,
    OK,
    U,
    _are_utf8,
    _be,
    _blob,
    _copy16,
    _int_form,
    _int_of,
    _is_ascii,
    _is_utf8,
    _load8,
    _load8_be,
    _low_high,
    walk,
)

# All that `scan` knows is in one array of int64, the state. It begins with a slot that is
# nobody's, and with these:
_TOTALS = 16
(
    T_END,  # where the slots end that are in use
    T_CELLS,  # cells in use
    T_ROWS,  # rows of all measurements
    T_COLUMNS,  # columns of all measurements that hold a value
    T_ARENA,  # bytes of the arena, a multiple of 8
    T_TABLE,  # where the slots end and the table begins: slots by the hash of their name, or 0
    T_LOOKUP,  # of the table: its size, a power of two, less one
    T_GROUP,  # the slot of the measurement of the latest row
) = range(_TOTALS, _TOTALS + 8)

# The row that is read.
(
    R_ROW,  # its number among those of its measurement, from 1
    R_AFTER,  # the slot that was noted last
    R_CELL,  # its first cell
    R_TIME,  # where its time is, or 0
    R_HOST,  # … its host …
    R_TAGS,  # … and its tags and fields, when they came before the measurement
    R_FIELDS,
) = range(_TOTALS + 8, _TOTALS + 15)

# A slot is SLOT_WIDTH numbers: a measurement, or one column of one. Its own number is its place.
SLOT_WIDTH = 16
FIRST_SLOT = 32
(
    S_ROLE,  # ROLE_*
    S_KEY,  # where its key first was, header and all
    S_KEY_BYTES,  # 0: nothing in the body can be compared
    S_NEXT,  # the slot that followed it in a row of late, or 0
    S_SEEN,  # what was seen in it, as bits
    S_COUNT,  # values that are not null; of a measurement: rows with a time
    S_BYTES,  # bytes of all its strings; after `scan`: the first of them in the arena
    S_LAST,  # the latest row that had the key; of a measurement: how many rows it has
    S_GROUP,  # the slot of its measurement
    S_NAME,  # its name is body[S_NAME:S_NAME_END]; -1: it is "host"; an item: its number, twice
    S_NAME_END,
    S_KIND,  # KIND_* of ingest.kernels.msgpack; of a measurement: of its times
    S_AT,  # first value in the arena, as C_AT there
    S_VALID,  # first validity in the arena, or -1: no value is missing
    S_LOW,  # int64 only, after `fill`: the smallest value, missing ones count as 0 …
    S_HIGH,  # … and the largest one
) = range(SLOT_WIDTH)

# Once `scan` is done: strings: the byte after the last of them in the arena.
S_BYTES_END = S_NEXT

# In use while `scan` or `fill` runs.
_S_ROW = S_NEXT  # of a measurement: rows that `fill` has begun
_S_HOST = S_LOW  # of a measurement: the slot of its tag "host", or 0
_S_TO = S_LOW  # of strings: where the next one goes in the arena
_S_DONE = S_HIGH  # of strings: ends of rows that are written, the 0 of the first one included

ROLE_MEASUREMENT, ROLE_TAG, ROLE_FIELD, ROLE_ITEM = range(1, 5)  # an item: of an array of fields

# A cell is slot << 32 | position of its value. The first cell of a row has the slot of its
# measurement and the position of its time, which is 0 when it brings none.
_CELL_BITS = 32
_CELL_MASK = 2**32 - 1

_SEEN_INT, _SEEN_FLOAT, _SEEN_STR, _SEEN_BIN, _SEEN_BOOL, _SEEN_NIL = 1, 2, 4, 8, 16, 32

_NIL, _TRUE, _F32, _F64, _U64 = 0xC0, 0xC3, 0xCA, 0xCB, 0xCF

_MAX_NAME_BYTES = 255
_MAX_MEASUREMENT_BYTES = 128  # above this the slow twin counts the characters
_MAX_LOOKS = 16  # for one name in the table, which is at most a quarter full

# The first eight bytes of a key of a row as `_load8` reads them, the others zero.
_M, _T, _H = (int.from_bytes(b"\xa1" + key, "little") for key in (b"m", b"t", b"h"))
_TAGS, _FIELDS = int.from_bytes(b"\xa4tags", "little"), int.from_bytes(b"\xa6fields", "little")
_BATCH = int.from_bytes(b"\xa5batch", "little")


def _value_sizes() -> list[int]:
    """Bytes of a value by its type byte; 0: it does not tell."""
    sizes = [1] * 256
    for code in range(0x80, 0xA0):
        sizes[code] = 0
    for code in range(0xA0, 0xC0):
        sizes[code] = 1 + (code & 31)
    for code in (0xC1, *range(0xC4, 0xCA), *range(0xD4, 0xE0)):
        sizes[code] = 0
    sizes[_F32], sizes[_F64] = 5, 9
    for code in range(0xCC, 0xD4):
        sizes[code] = 1 + (1 << (code & 3))
    return sizes


def _values_seen() -> list[int]:
    """_SEEN_* of a value by its type byte; 0 where `_value_sizes` has 0."""
    seen = [_SEEN_INT] * 256
    for code in range(0x80, 0xA0):
        seen[code] = 0
    for code in range(0xA0, 0xC0):
        seen[code] = _SEEN_STR
    for code in (0xC1, *range(0xC4, 0xCA), *range(0xD4, 0xE0)):
        seen[code] = 0
    seen[_NIL], seen[_F32], seen[_F64] = _SEEN_NIL, _SEEN_FLOAT, _SEEN_FLOAT
    seen[_TRUE - 1] = seen[_TRUE] = _SEEN_BOOL
    return seen


_VALUE_SIZES = np.array(_value_sizes(), dtype=np.uint8)
_VALUES_SEEN = np.array(_values_seen(), dtype=np.uint8)

#: The lowest 0 to 16 bytes of two words, the first at 2 * bytes and the second behind it.
_MASKS = np.array(
    [[(1 << 8 * min(size, 8)) - 1, (1 << 8 * max(size - 8, 0)) - 1] for size in range(17)],
    dtype=np.uint64,
).ravel()


#: What `kernel` has, and that no references are counted. A kernel that makes no array need not
#: say who holds the ones that it is given; counting took 620 of 740 ns a row
#: (docs/profiling/2026-11-20-decode-rows.md).
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}


def _uncounted(function: F) -> F:
    return cast(F, numba.njit(function, **_OPTIONS))


# ---------------------------------------------------------------------------------------- names


@_uncounted
def _same16(buf: NDArray[np.uint8], at: int, before: int, size: int) -> bool:
    """Whether `size` <= 16 bytes at `at` are those at `before`; 16 bytes from both are there.

    HOT, once a key. A single expression: whatever branches makes Numba count references.
    """
    first = (_load8(buf, at) ^ _load8(buf, before)) & _MASKS[U(2 * size)]
    second = (_load8(buf, at + 8) ^ _load8(buf, before + 8)) & _MASKS[U(2 * size + 1)]
    return (first | second) == U(0)


@_uncounted
def _same(buf: NDArray[np.uint8], at: int, before: int, size: int) -> bool:
    """Whether `size` bytes at `at` are those at `before`, which are all there."""
    same = size <= buf.size - at
    i = np.int64(0)
    while same and i < size:
        same = buf[U(at + i)] == buf[U(before + i)]
        i += 1
    return same


@_uncounted
def _is_key(buf: NDArray[np.uint8], at: int, slot: int, state: NDArray[np.int64]) -> bool:
    """Whether the key at `at` is spelled as that of the slot was at first."""
    size, before = state[U(slot + S_KEY_BYTES)], state[U(slot + S_KEY)]
    if size <= 16 and at + 16 <= buf.size:
        same = _same16(buf, at, before, size)
    else:
        same = _same(buf, at, before, size)
    return same & (size > 0)


@_uncounted
def _string(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The string at `at`: (first byte, the one after it); (-1, at): none, cut off, or binary."""
    if at >= buf.size or 0xC4 <= np.int64(buf[U(at)]) <= 0xC6:
        return -1, at
    return _blob(buf, at)


@_uncounted
def _mixed(value: int) -> int:
    """A number spread over 64 bits, by products that fit into them."""
    return ((value & U(0xFFFFFFFF)) * U(0x9E3779B1)) ^ ((value >> U(32)) * U(0x85EBCA77) << U(7))


@_uncounted
def _hash(buf: NDArray[np.uint8], start: int, end: int, seed: int) -> int:
    """62 bits of a name and a seed: eight bytes at a time, then one at a time."""
    value = _mixed(U(seed))
    at = start
    while at + 8 <= end:
        value = _mixed(value ^ _load8(buf, at))
        at += 8
    while at < end:
        value = _mixed(value ^ U(buf[U(at)]))
        at += 1
    return np.int64((value ^ (value >> U(29))) >> U(2))


@_uncounted
def _is_host(buf: NDArray[np.uint8], start: int, end: int) -> bool:
    return end - start == 4 and np.int64(_be(buf, start, 4)) == 0x686F7374


@_uncounted
def _add(
    buf: NDArray[np.uint8], role: int, group: int, start: int, end: int, state: NDArray[np.int64]
) -> int:
    """A slot that nothing was seen in yet, or -MORE_ROOM.

    That of the tag "host" is there already when an `h` asked for it.
    """
    host = role == ROLE_TAG and (start < 0 or _is_host(buf, start, end))
    slot = state[U(group + _S_HOST)] if host else np.int64(0)
    if slot == 0:
        slot = state[T_END]
        if slot >= state[T_TABLE]:
            return -MORE_ROOM
        state[T_END] += SLOT_WIDTH
        state[slot : slot + SLOT_WIDTH] = 0
        if host:
            state[U(group + _S_HOST)] = slot
    state[U(slot + S_ROLE)] = role
    state[U(slot + S_GROUP)] = group
    state[U(slot + S_NAME)] = start
    state[U(slot + S_NAME_END)] = end
    return slot


@_uncounted
def _find(
    buf: NDArray[np.uint8], at: int, role: int, group: int, state: NDArray[np.int64]
) -> tuple[int, int]:
    """The slot of the name at `at`, a new one if need be: (slot, first byte after the name).

    Returns:
        (-FALLBACK, at) when the name is none or the looks are used up, (-MORE_ROOM, at).
    """
    start, end = _string(buf, at)
    most = _MAX_MEASUREMENT_BYTES if role == ROLE_MEASUREMENT else _MAX_NAME_BYTES
    if start < 0 or not 1 <= end - start <= most:
        return -FALLBACK, at
    place = _hash(buf, start, end, 8 * group + role)
    for look in range(_MAX_LOOKS):
        where = state[T_TABLE] + (place + look & state[T_LOOKUP])
        slot = state[U(where)]
        if slot == 0:
            if not (_is_ascii(buf, start, end) or _is_utf8(buf, start, end)):
                return -FALLBACK, at
            slot = _add(buf, role, group, start, end, state)
            if slot > 0:
                state[U(slot + S_KEY)], state[U(slot + S_KEY_BYTES)] = at, end - at
                state[U(where)] = slot
            return slot, end
        before = state[U(slot + S_NAME)]
        if state[U(slot + S_ROLE)] == role and state[U(slot + S_GROUP)] == group:
            same_size = state[U(slot + S_NAME_END)] - before == end - start
            if same_size and _same(buf, start, before, end - start):
                return slot, end
    return -FALLBACK, at


@_uncounted
def _find_item(buf: NDArray[np.uint8], number: int, group: int, state: NDArray[np.int64]) -> int:
    """The slot of an item of an array of fields, by its number, or -FALLBACK, or -MORE_ROOM."""
    place = np.int64(_mixed(U(group)) >> U(2)) + number
    for look in range(_MAX_LOOKS):
        where = state[T_TABLE] + (place + look & state[T_LOOKUP])
        slot = state[U(where)]
        if slot == 0:
            slot = _add(buf, ROLE_ITEM, group, number, number, state)
            if slot > 0:
                state[U(where)] = slot
            return slot
        ours = state[U(slot + S_ROLE)] == ROLE_ITEM and state[U(slot + S_GROUP)] == group
        if ours and state[U(slot + S_NAME)] == number:
            return slot
    return -FALLBACK


# --------------------------------------------------------------------------------------- scanning


@_uncounted
def _foretold(
    buf: NDArray[np.uint8], at: int, role: int, number: int, state: NDArray[np.int64]
) -> int:
    """The slot that follows the latest one, if it is that of the key at `at`, otherwise 0.

    Of an item there is no key, but its number.
    """
    slot = state[U(state[R_AFTER] + S_NEXT)]
    if role == ROLE_ITEM:
        same = state[U(slot + S_NAME)] == number
    else:
        same = _is_key(buf, at, slot, state)
    return slot if same & (state[U(slot + S_ROLE)] == role) else 0


@_uncounted
def _long_size(buf: NDArray[np.uint8], at: int, b: int) -> tuple[int, int]:
    """Of a str or bin of type byte `b` with its size in bytes of its own: (of its header, of it).

    (0, 0): it is something else, or cut off.
    """
    is_str, is_bin = (b >= 0xD9) & (b <= 0xDB), (b >= 0xC4) & (b <= 0xC6)
    width = 1 << (b - (0xD9 if is_str else 0xC4)) if is_str | is_bin else 0
    there = width > 0 and at + 1 + width <= buf.size
    size = np.int64(_be(buf, at + 1, width)) if there else np.int64(0)
    return (1 + width, size) if there else (0, np.int64(0))


@_uncounted
def _scan_value(
    buf: NDArray[np.uint8], at: int, slot: int, state: NDArray[np.int64], cells: NDArray[np.int64]
) -> int:
    """Note the value at `at` for the slot: the first byte after it, or -FALLBACK.

    There must be room for one more cell. HOT, once a value.
    """
    b = np.int64(buf[U(at)]) if at < buf.size else np.int64(0xC1)
    size, seen = np.int64(_VALUE_SIZES[U(b)]), np.int64(_VALUES_SEEN[U(b)])
    text = size - 1
    if size == 0:
        header, text = _long_size(buf, at, b)
        size, seen = header + text, (_SEEN_BIN if b <= 0xC6 else _SEEN_STR)
    bad = (size == 0) | (size > buf.size - at)
    if b == _U64 and not bad:  # above 2**63 - 1
        bad = buf[U(at + 1)] >= 0x80
    if seen == _SEEN_NIL:  # as if it were not there, but then `h` could be the host after all
        bad |= state[U(state[U(slot + S_GROUP)] + _S_HOST)] == slot
    elif not bad:
        state[U(slot + S_BYTES)] += text  # only strings ask for it
        state[U(slot + S_SEEN)] |= seen
        state[U(slot + S_COUNT)] += 1
        cells[U(state[T_CELLS])] = (slot << _CELL_BITS) | at
        state[T_CELLS] += 1
    return -FALLBACK if bad else at + size


@_uncounted
def _look_up(
    buf: NDArray[np.uint8], at: int, role: int, number: int, state: NDArray[np.int64]
) -> tuple[int, int]:
    """The slot that was not foretold: (slot, first byte after the key), or (a refusal, at)."""
    if role == ROLE_ITEM:
        slot = _find_item(buf, number, state[T_GROUP], state)
    else:
        slot, at = _find(buf, at, role, state[T_GROUP], state)
    if slot > 0:
        state[U(state[R_AFTER] + S_NEXT)] = slot
    return slot, at


@_uncounted
def _scan_values(
    buf: NDArray[np.uint8],
    at: int,
    role: int,
    count: int,
    state: NDArray[np.int64],
    cells: NDArray[np.int64],
) -> int:
    """Note `count` tags, fields or items of the row: the first byte after them, or a refusal."""
    row = state[R_ROW]
    if count > buf.size - at:
        at = np.int64(-FALLBACK)
    elif count > cells.size - state[T_CELLS]:
        at = np.int64(-MORE_ROOM)
    number = np.int64(0)
    while number < count and at > 0:
        slot = _foretold(buf, at, role, number, state)
        if slot > 0:
            at += state[U(slot + S_KEY_BYTES)]
        else:
            slot, at = _look_up(buf, at, role, number, state)
            if slot < 0:
                at = slot
                break
        if state[U(slot + S_LAST)] == row:  # a key twice
            at = np.int64(-FALLBACK)
            break
        state[U(slot + S_LAST)] = row
        state[R_AFTER] = slot
        at = _scan_value(buf, at, slot, state, cells)
        number += 1
    return at


@_uncounted
def _count(buf: NDArray[np.uint8], at: int, fix: int, wide: int) -> tuple[int, int]:
    """Header of a map or array at `at`: (count, first byte after it), or (-1, at).

    `fix` is the type byte of the short form, `wide` that of the form with 16 bits.
    """
    b = np.int64(buf[U(at)]) if at < buf.size else np.int64(0xC1)
    width = 2 if b == wide else 4 if b == wide + 1 else 0
    count = (b & 15) if b & 0xF0 == fix else np.int64(-1)
    if width > 0 and at + 1 + width <= buf.size:
        count = np.int64(_be(buf, at + 1, width))
    return count, (at + 1 + width if count >= 0 else at)


@_uncounted
def _scan_part(
    buf: NDArray[np.uint8],
    at: int,
    is_tags: bool,
    state: NDArray[np.int64],
    cells: NDArray[np.int64],
) -> int:
    """Note the tags or the fields of the row: the first byte after them, or a refusal."""
    role = ROLE_TAG if is_tags else ROLE_FIELD
    count, end = _count(buf, at, 0x80, 0xDE)
    if count < 0 and not is_tags:
        role = ROLE_ITEM
        count, end = _count(buf, at, 0x90, 0xDC)
    if count < 0 or (count == 0 and not is_tags):
        end = np.int64(-FALLBACK)
    return _scan_values(buf, end, role, count, state, cells)


@_uncounted
def _begin(buf: NDArray[np.uint8], at: int, state: NDArray[np.int64]) -> int:
    """Open a row of the measurement whose name is at `at`: the first byte after it, or a refusal.

    Foretold is the measurement of the row before.
    """
    slot = state[T_GROUP]
    if _is_key(buf, at, slot, state):
        at += state[U(slot + S_KEY_BYTES)]
    else:
        slot, at = _find(buf, at, ROLE_MEASUREMENT, 0, state)
    if slot > 0:
        state[T_GROUP] = state[R_AFTER] = slot
        state[U(slot + S_LAST)] += 1
        state[R_ROW] = state[U(slot + S_LAST)]
    return at if slot > 0 else slot


@_uncounted
def _end_of(buf: NDArray[np.uint8], at: int) -> int:
    """The first byte after the object at `at`, or -FALLBACK."""
    b = np.int64(buf[U(at)]) if at < buf.size else np.int64(0xC1)
    end = at + np.int64(_VALUE_SIZES[U(b)])
    if end == at:
        end, objects, _ = walk(buf, at, 1)
        end = end if objects == 1 else np.int64(-FALLBACK)
    return end if end <= buf.size else np.int64(-FALLBACK)


@_uncounted
def _key(buf: NDArray[np.uint8], at: int) -> int:
    """The first eight bytes of the string of less than eight at `at`, header and all, or 0."""
    b = np.int64(buf[U(at)]) if at < buf.size else np.int64(0xC1)
    size = b - 0xA0 + 1
    if not 2 <= size <= 7 or at + size > buf.size:
        size = np.int64(0)
    value = np.int64(0)
    if at + 8 <= buf.size:
        value = np.int64(_load8(buf, at) & _MASKS[U(2 * size)])
    else:
        for i in range(size):
            value |= np.int64(buf[U(at + i)]) << (8 * i)
    return value


@_uncounted
def _scan_key(
    buf: NDArray[np.uint8], at: int, state: NDArray[np.int64], cells: NDArray[np.int64]
) -> int:
    """Read one key of a row and its value: the first byte after it, or a refusal.

    Time and host are read when the row is known, and what comes before its measurement as well.
    """
    key, begun = _key(buf, at), state[R_AFTER] != 0
    is_tags = key == _TAGS
    place = R_TIME if key == _T else R_HOST if key == _H else R_TAGS if is_tags else R_FIELDS
    if key == _M:
        at = np.int64(-FALLBACK) if begun else _begin(buf, at + 2, state)
    elif not (key == _T or key == _H or is_tags or key == _FIELDS) or state[U(place)] != 0:
        at = np.int64(-FALLBACK)
    else:
        at += 5 if is_tags else 7 if key == _FIELDS else 2
        state[U(place)] = at
        if begun and (is_tags or key == _FIELDS):
            state[U(place)] = -1
            at = _scan_part(buf, at, is_tags, state, cells)
        else:
            at = _end_of(buf, at)
    return at


@_uncounted
def _scan_late(buf: NDArray[np.uint8], state: NDArray[np.int64], cells: NDArray[np.int64]) -> int:
    """Read what came before the measurement: a position, or a refusal.

    In any order, since columns are in that of tags among tags and of fields among fields.
    """
    at = np.int64(1)
    if state[R_TAGS] > 0:
        at = _scan_part(buf, state[R_TAGS], True, state, cells)
    if state[R_FIELDS] > 0 and at > 0:
        at = _scan_part(buf, state[R_FIELDS], False, state, cells)
    return at


@_uncounted
def _scan_time(buf: NDArray[np.uint8], at: int, state: NDArray[np.int64]) -> int:
    """Note the time of the row at `at`, which is all there: OK or -FALLBACK."""
    group, b = state[T_GROUP], np.int64(buf[U(at)])
    seen = np.int64(_VALUES_SEEN[U(b)])
    bad = seen != _SEEN_INT and seen != _SEEN_FLOAT
    if b == _U64:
        bad = buf[U(at + 1)] >= 0x80
    state[U(group + S_SEEN)] |= seen
    state[U(group + S_COUNT)] += 1
    return -FALLBACK if bad else OK


@_uncounted
def _scan_host(
    buf: NDArray[np.uint8], at: int, state: NDArray[np.int64], cells: NDArray[np.int64]
) -> int:
    """Note `h` at `at` as the tag "host", unless the row has that: not negative, or a refusal."""
    if buf[U(at)] == _NIL:
        return OK
    start, end = _string(buf, at)
    if start < 0 or not (_is_ascii(buf, start, end) or _is_utf8(buf, start, end)):
        return -FALLBACK
    group = state[T_GROUP]
    slot = state[U(group + _S_HOST)]
    if slot == 0:
        slot = _add(buf, ROLE_TAG, group, -1, -1, state)
        if slot < 0:
            return slot
    if state[U(slot + S_LAST)] == state[R_ROW]:
        return OK
    if state[T_CELLS] >= cells.size:
        return -MORE_ROOM
    state[U(slot + S_LAST)] = state[R_ROW]
    return _scan_value(buf, at, slot, state, cells)


@_uncounted
def _scan_row(
    buf: NDArray[np.uint8], at: int, state: NDArray[np.int64], cells: NDArray[np.int64]
) -> int:
    """Read the row map at `at`: the first byte after it, -FALLBACK or -MORE_ROOM."""
    keys, at = _count(buf, at, 0x80, 0xDE)
    if not 2 <= keys <= 5:
        at = np.int64(-FALLBACK)
    if state[T_CELLS] >= cells.size:
        at = np.int64(-MORE_ROOM)
    first = state[T_CELLS]
    state[T_CELLS] += 1
    for place in range(R_ROW, R_FIELDS + 1):
        state[U(place)] = 0
    while keys > 0 and at > 0:
        at = _scan_key(buf, at, state, cells)
        keys -= 1
    status = np.int64(OK)
    if at < 0:
        status = at
    elif state[R_AFTER] == 0 or state[R_FIELDS] == 0:
        status = np.int64(-FALLBACK)
    elif state[R_TAGS] > 0 or state[R_FIELDS] > 0:
        status = _scan_late(buf, state, cells)
    if status >= 0 and state[R_TIME] > 0:
        status = np.int64(_scan_time(buf, state[R_TIME], state))
    if status >= 0 and state[R_HOST] > 0:
        status = _scan_host(buf, state[R_HOST], state, cells)
    if status >= 0:
        cells[U(first)] = (state[T_GROUP] << _CELL_BITS) | state[R_TIME]
        state[T_ROWS] += 1
    return at if status >= 0 else status


@_uncounted
def _kind(role: int, seen: int) -> int:
    """Kind of a column from what was seen in it, or -1: FALLBACK."""
    if seen == 0:
        return KIND_NULL
    if role == ROLE_TAG:
        return KIND_UTF8 if seen == _SEEN_STR else -1
    if seen == _SEEN_INT:
        return KIND_INT64
    if seen == _SEEN_FLOAT or seen == _SEEN_INT | _SEEN_FLOAT:
        return KIND_FLOAT64
    if seen == _SEEN_STR:
        return KIND_UTF8
    if seen == _SEEN_BIN:
        return KIND_BINARY
    return KIND_BOOL if seen == _SEEN_BOOL else -1


@_uncounted
def _round_up(at: int) -> int:
    return (at + 7) & ~7


@_uncounted
def _place(slot: NDArray[np.int64], rows: int, at: int) -> int:
    """Give a column its place in the arena, from byte `at` on; the first free byte after it.

    Each buffer begins at a multiple of 8 bytes.
    """
    kind = slot[S_KIND]
    slot[S_VALID] = -1
    if kind == KIND_NULL:
        return at
    if kind == KIND_UTF8 or kind == KIND_BINARY:
        slot[S_AT] = at >> 2
        at = _round_up(at + 4 * (rows + 1))
        size = slot[S_BYTES]
        slot[S_BYTES] = slot[_S_TO] = at
        slot[S_BYTES_END] = at + size
        slot[_S_DONE] = 0
        at = _round_up(at + size)
    elif kind == KIND_BOOL:
        slot[S_AT] = at
        at = _round_up(at + rows)
    else:
        slot[S_AT] = at >> 3
        at += 8 * rows
    if slot[S_COUNT] < rows:
        slot[S_VALID] = at
        at = _round_up(at + rows)
    return at


@_uncounted
def _plan(state: NDArray[np.int64]) -> int:
    """Settle kind and place of every column: OK or FALLBACK."""
    at = np.int64(0)
    for i in range(FIRST_SLOT, state[T_END], SLOT_WIDTH):
        slot = state[i : i + SLOT_WIDTH]
        slot[S_KIND] = _kind(slot[S_ROLE], slot[S_SEEN])
        if slot[S_KIND] < 0:
            return FALLBACK
        if slot[S_ROLE] == ROLE_MEASUREMENT:
            slot[S_GROUP], slot[_S_ROW] = i, 0
        elif slot[S_KIND] != KIND_NULL:
            state[T_COLUMNS] += 1
        at = _place(slot, state[U(slot[S_GROUP] + S_LAST)], at)
    state[T_ARENA] = at
    return OK


@_uncounted
def scan(buf: NDArray[np.uint8], state: NDArray[np.int64], cells: NDArray[np.int64]) -> int:
    """Plan a whole body of row maps: one, several, an array of them, or `{"batch": [maps]}`.

    Args:
        buf: uint8, shape (bytes,), the decompressed body.
        state: int64, shape as `new_state` makes it, written. A measurement comes before its
            columns; otherwise slots are in the order of their first appearance.
        cells: int64, shape (room,), written.

    Returns:
        OK, FALLBACK, or MORE_ROOM: of slots when T_END is T_TABLE, otherwise of cells.
    """
    at = np.int64(0)
    while at < buf.size <= _CELL_MASK:
        maps = np.int64(1)
        b = np.int64(buf[U(at)])
        if b == 0x81 and _key(buf, at + 1) == _BATCH:
            maps, at = _count(buf, at + 7, 0x90, 0xDC)
        elif b & 0xF0 == 0x90 or b == 0xDC or b == 0xDD:
            maps, at = _count(buf, at, 0x90, 0xDC)
        if maps < 1:
            return FALLBACK
        for _ in range(maps):
            at = _scan_row(buf, at, state, cells)
            if at < 0:
                return -at
    return _plan(state) if state[T_ROWS] > 0 else FALLBACK


def new_state(slots: int) -> NDArray[np.int64]:
    """A state for a body of so many measurements and columns, a power of two."""
    table = FIRST_SLOT + SLOT_WIDTH * slots
    state = np.zeros(table + 4 * slots, dtype=np.int64)
    state[T_END], state[T_TABLE], state[T_LOOKUP] = FIRST_SLOT, table, 4 * slots - 1
    return state


# --------------------------------------------------------------------------------------- filling


@kernel
def _number(buf: NDArray[np.uint8], at: int) -> int:
    """The integer at `at`, which `scan` found to be there as a whole. HOT: one way out."""
    start, width, unsigned = _int_form(np.int64(buf[U(at)]), at)
    if start + 8 <= buf.size:
        word = _load8_be(buf, start)
    else:
        word = _be(buf, start, width) << U(64 - 8 * width)
    return _int_of(word, width, unsigned)


@kernel
def _fill_float(buf: NDArray[np.uint8], at: int, arena: NDArray[np.int64], to: int) -> int:
    """Write a float32, or an integer that is exact as a float: OK, or FALLBACK: it is not."""
    out = arena.view(np.float64)
    if buf[U(at)] == _F32:
        word = np.empty(1, dtype=np.uint32)
        word[0] = np.uint32(_be(buf, at + 1, 4))
        out[U(to)] = word.view(np.float32)[0]
        return OK
    value = _number(buf, at)
    out[U(to)] = value
    return OK if -(2**53) <= value <= 2**53 else FALLBACK


@kernel
def _fill_blob(
    buf: NDArray[np.uint8],
    at: int,
    row: int,
    slot: int,
    state: NDArray[np.int64],
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Write a string or byte string, and the ends of the rows since the one before.

    HOT, once a string: sixteen bytes at a time, which run over into what the next string of the
    column overwrites; its last ones, where that would leave the column, byte by byte.
    """
    b = np.int64(buf[U(at)])
    start, end = at + 1, at + 1 + (b & 31)
    if not 0xA0 <= b <= 0xBF:
        start, end = _blob(buf, at)
    size, to, ends = end - start, state[U(slot + _S_TO)], state[U(slot + S_AT)]
    before = to - state[U(slot + S_BYTES)]
    for i in range(state[U(slot + _S_DONE)], row + 1):
        offsets[U(ends + i)] = before
    offsets[U(ends + row + 1)] = before + size
    state[U(slot + _S_TO)], state[U(slot + _S_DONE)] = to + size, row + 2
    whole = (size + 15) & ~15
    if to + whole <= state[U(slot + S_BYTES_END)] and start + whole <= buf.size:
        for j in range(0, size, 16):
            _copy16(buf, start + j, out, to + j)
    else:
        for j in range(size):
            out[U(to + j)] = buf[U(start + j)]


@kernel
def _clear(slot: NDArray[np.int64], rows: int, arena: NDArray[np.int64]) -> None:
    """What is not written of a column is null, and where it has a fixed width also zero."""
    kind, at = slot[S_KIND], slot[S_AT]
    arena.view(np.bool_)[slot[S_VALID] : slot[S_VALID] + rows] = False
    if kind == KIND_BOOL:
        arena.view(np.bool_)[at : at + rows] = False
    elif kind == KIND_INT64 or kind == KIND_FLOAT64:
        arena[at : at + rows] = 0


@kernel
def _fill_cells(
    buf: NDArray[np.uint8],
    state: NDArray[np.int64],
    cells: NDArray[np.int64],
    arena: NDArray[np.int64],
) -> int:
    """Write every value: OK or FALLBACK. HOT, once a value."""
    bools, offsets, out = arena.view(np.bool_), arena.view(np.int32), arena.view(np.uint8)
    row, status = np.int64(0), OK
    for i in range(cells.size):
        slot, at = cells[i] >> _CELL_BITS, cells[i] & _CELL_MASK
        if state[U(slot + S_ROLE)] == ROLE_MEASUREMENT:
            row = state[U(slot + _S_ROW)]
            state[U(slot + _S_ROW)] += 1
            if at == 0:
                continue
        kind, to = state[U(slot + S_KIND)], state[U(slot + S_AT)] + row
        b = np.int64(buf[U(at)])
        if kind == KIND_FLOAT64:
            if b == _F64:
                arena[U(to)] = np.int64(_load8_be(buf, at + 1))
            else:
                status |= _fill_float(buf, at, arena, to)
        elif kind == KIND_INT64:
            arena[U(to)] = _number(buf, at)
        elif kind == KIND_BOOL:
            bools[U(to)] = b == _TRUE
        else:
            _fill_blob(buf, at, row, slot, state, offsets, out)
        valid = state[U(slot + S_VALID)]
        if valid >= 0:
            bools[U(valid + row)] = True
    return status


@kernel
def _finish(slot: NDArray[np.int64], rows: int, arena: NDArray[np.int64]) -> int:
    """What can be told of a column once all of it is written: OK or FALLBACK."""
    kind, at = slot[S_KIND], slot[S_AT]
    if kind == KIND_INT64:
        slot[S_LOW], slot[S_HIGH] = _low_high(arena[at : at + rows])
    elif kind == KIND_UTF8 or kind == KIND_BINARY:
        offsets = arena.view(np.int32)[at : at + rows + 1]
        for i in range(slot[_S_DONE], rows + 1):
            offsets[U(i)] = slot[_S_TO] - slot[S_BYTES]
        blob = arena.view(np.uint8)[slot[S_BYTES] : slot[S_BYTES_END]]
        if kind == KIND_UTF8 and not _are_utf8(offsets, blob):
            return FALLBACK
    return OK


@kernel
def fill(
    buf: NDArray[np.uint8],
    state: NDArray[np.int64],
    cells: NDArray[np.int64],
    arena: NDArray[np.int64],
) -> int:
    """Write the values of every column into the arena.

    Args:
        buf: The body that `scan` planned.
        state: int64, from `scan`; S_LOW and S_HIGH are written.
        cells: int64, shape (T_CELLS,), from `scan`.
        arena: int64, shape (T_ARENA / 8,), written. A column's part of it is int64, float64,
            bool, or int32 offsets and bytes, and bool validity; a measurement's are its times.

    Returns:
        OK or FALLBACK.
    """
    for i in range(FIRST_SLOT, state[T_END], SLOT_WIDTH):
        slot = state[i : i + SLOT_WIDTH]
        if slot[S_VALID] >= 0:
            _clear(slot, state[U(slot[S_GROUP] + S_LAST)], arena)
    if _fill_cells(buf, state, cells, arena) != OK:
        return FALLBACK
    for i in range(FIRST_SLOT, state[T_END], SLOT_WIDTH):
        slot = state[i : i + SLOT_WIDTH]
        if _finish(slot, state[U(slot[S_GROUP] + S_LAST)], arena) != OK:
            return FALLBACK
    return OK


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    # {"m": "m", "fields": {"v": 1}}
    body = np.frombuffer(b"\x82\xa1m\xa1m\xa6fields\x81\xa1v\x01", dtype=np.uint8)
    state, cells = new_state(4), np.empty(2, dtype=np.int64)
    scan(body, state, cells)
    fill(body, state, cells, np.empty(1, dtype=np.int64))
