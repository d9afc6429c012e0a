"""InfluxDB line protocol, read without making a Python object per value.

In: the bytes of a body. `scan` reads it once, from its first byte to its last, and leaves two
things: the slots, which are the measurements and their columns, and the cells, in the order of the
body, each with its value. Then `plan` decides the type of every column and its place in an arena,
and `fill` moves the cells there. Anything unusual is answered `FALLBACK` and left to the slow
twin, `ingest.line_protocol_slow`, errors included: these kernels never explain.

Lines of one agent repeat their keys in the same order. So the column of a key is foretold: each
slot remembers which one followed it in the line before, and the key is compared with that one's,
eight bytes at a time. Only where it differs is it looked up in a hash table, in a bounded number
of places, so that keys made to collide cost no more than a fall back.

Every read is preceded by a comparison with the length of the body, because the bytes are a
stranger's. Words of eight bytes are searched as a whole (`_marks`), also for where digits end.

Numba's cache does not notice a change in another file: after one in `ingest/kernels/msgpack.py`,
touch this one.

Format: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
Floats: W. Clinger, How to read floating point numbers accurately (1990), and D. Lemire, Number
parsing at a gigabyte per second (2021), https://arxiv.org/abs/2101.11408; that the product of 128
bits always suffices: N. Mushtak and D. Lemire, https://arxiv.org/abs/2212.06644
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import F
from ingest.kernels.msgpack import (
    FALLBACK,
    MORE_ROOM,
    OK,
    U,
    _copy16,
    _is_ascii,
    _is_utf8,
    _load8,
    _low_high,
)

# A slot is a row of an int64 array: a measurement, or one column of one. Slot 0 holds the totals,
# and is what the first line comes after.
SLOT_WIDTH = 16
(
    S_KEY,  # where its key first was, escapes and all
    S_KEY_BYTES,
    S_NEXT,  # the slot that followed it in the line before, or 0
    S_ROW,  # the row of its last cell; of a measurement: its rows
    S_COUNT,  # its cells; of a measurement: its columns
    S_SEEN,  # what was seen in it, as bits
    S_BYTES,  # bytes of its strings, without the backslashes of escapes
    S_ROLE,  # ROLE_*
    S_OWNER,  # the measurement of a column
    S_NEXT_LINE,  # of a measurement: the one in the line after it, or 0
    S_TYPE,  # TYPE_*, written by `plan` like all that follows
    S_AT,  # int64, uint64, float64: first value in the arena, in items; utf8: first int32 offset …
    S_VALID,  # … first validity (bool), or -1: no value is null
    S_BYTES_AT,  # utf8: first byte; after `fill`: the first one behind
    S_LOW,  # of a measurement, written by `fill`: the smallest time …
    S_HIGH,  # … and the largest one
) = range(SLOT_WIDTH)

# Slot 0.
(
    T_SLOTS,  # slots that are used, this one included
    T_CELLS,  # cells that are used
    T_COLUMNS,  # columns of all measurements
    T_LOOKS,  # second looks into the hash table that are left
    T_ARENA,  # bytes of the arena, a multiple of 8
) = range(5)

ROLE_MEASUREMENT, ROLE_TAG, ROLE_FIELD = range(3)

TYPE_INT64, TYPE_UINT64, TYPE_FLOAT64, TYPE_BOOL, TYPE_UTF8 = range(5)

# What a cell holds. Its code is 8 * slot + kind; that of the time of a row is minus the slot of
# its measurement.
_STRING, _ESCAPED, _QUOTED, _FLOAT, _INT, _BOOL = range(6)  # escaped: `\\,` …; quoted: `\\"` …
_UNSIGNED = 6  # above 2**63 - 1

# Bits of S_SEEN beside `1 << kind`.
_SEEN_NEGATIVE, SEEN_WIDE = 1 << 8, 1 << 9  # wide: above 2**53
_SEEN_STRINGS = 1 << _STRING | 1 << _ESCAPED | 1 << _QUOTED

#: A string's cell: where it begins in the body, and from this bit on its bytes there.
_SIZE_SHIFT = 32

#: Second looks that a body may have; a lookup of a key that is not foretold adds some.
_FIRST_LOOKS, _LOOKS_PER_KEY = 1_000, 8

_MAX_EXACT = 2**53
_MAX_NUMBER_BYTES = 2_000
_MAX_KEY_BYTES = 255  # with its escapes: a longer one the slow twin may refuse

_TAB, _LF, _CR, _SPACE, _QUOTE, _HASH, _COMMA = 9, 10, 13, 32, 34, 35, 44
_PLUS, _MINUS, _POINT, _EQUALS, _BACKSLASH = 43, 45, 46, 61, 92
_E, _I, _U, _SMALL_E = 69, 105, 117, 101


_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}


def _kernel(function: F) -> F:
    """A kernel that does not count the references of its arrays: its caller holds them all.

    HOT: every array that one kernel hands to another would be counted up and down, atomically:
    793 -> 247 ns a line (docs/profiling/2026-11-20-line-protocol.md). Such a kernel cannot
    allocate.
    """
    return cast(F, numba.njit(function, **_OPTIONS))


def _inlined(function: F) -> F:
    """A kernel that is always pasted into the one that calls it.

    HOT: an array is seven arguments, and a call passes them on the stack: 247 -> 134 ns a line.
    """
    return cast(F, numba.njit(function, **_OPTIONS, forceinline=True))


# ------------------------------------------------------------------------------- words of 8 bytes

_ONES = U(0x0101010101010101)
_TOPS = U(0x8080808080808080)
_ALL = U(0xFFFFFFFFFFFFFFFF)


@_inlined
def _word(buf: NDArray[np.uint8], at: int, size: int) -> int:
    """At most 8 bytes from `at`, lowest first, as many as asked; zeros behind them.

    size: 1 or more; at + size <= buf.size.
    """
    if at + 8 <= buf.size:
        return _load8(buf, at) << U(64 - 8 * min(size, 8)) >> U(64 - 8 * min(size, 8))
    word = U(0)
    for i in range(min(size, 8)):
        word |= U(buf[U(at + i)]) << U(8 * i)
    return word


@_inlined
def _first(marks: int) -> int:
    """Index of the lowest byte with its top bit set, 0 to 7; the word is not 0."""
    return np.int64(((((marks - U(1)) & ~marks) & _ONES) * _ONES) >> U(56)) - 1


@_inlined
def _equal_to(word: int, byte: int) -> int:
    """Top bits of the bytes that are `byte`; right up to the lowest one of them."""
    other = word ^ (_ONES * U(byte))
    return (other - _ONES) & ~other & _TOPS


@_inlined
def _name_marks(word: int) -> int:
    """Top bits of the bytes that may end a key or value: all below `-`, `=`, the backslash."""
    below = (word - _ONES * U(_MINUS)) & ~word & _TOPS
    return below | _equal_to(word, _EQUALS) | _equal_to(word, _BACKSLASH)


@_inlined
def _is_same(buf: NDArray[np.uint8], at: int, start: int, size: int) -> bool:
    """Whether the bytes from `at` and from `start` are the same `size` ones, size >= 1."""
    if at + size > buf.size or _word(buf, at, size) != _word(buf, start, size):
        return False
    for i in range(8, size, 8):
        if _word(buf, at + i, size - i) != _word(buf, start + i, size - i):
            return False
    return True


# ---------------------------------------------------------------------------------------- names


@_inlined
def _is_escape(following: int, role: int) -> bool:
    """Whether a backslash stands for the character after it, outside of quotes."""
    plain = (following == _COMMA) | (following == _SPACE)
    return plain | ((following == _EQUALS) & (role != ROLE_MEASUREMENT))


@_inlined
def _scan_name(buf: NDArray[np.uint8], at: int, role: int) -> tuple[int, int]:
    """The name, key or tag's value at `at`: (first byte after it, escapes in it).

    It ends at a comma, space, line feed, or, but for a measurement, equals sign.
    """
    n, escapes = buf.size, np.int64(0)
    while at < n:
        if at + 8 <= n:
            marks = _name_marks(_load8(buf, at))
            if marks == U(0):
                at += 8
                continue
            at += _first(marks)
        b = buf[U(at)]
        if b == _COMMA or b == _SPACE or b == _LF:
            break
        if b == _EQUALS and role != ROLE_MEASUREMENT:
            break
        if b == _BACKSLASH and at + 1 < n and _is_escape(buf[U(at + 1)], role):
            escapes += 1
            at += 1
        at += 1
    return at, escapes


@_kernel
def _hash(buf: NDArray[np.uint8], at: int, size: int, seed: int) -> int:
    hashed = U(seed) + U(size) * U(0x9E3779B97F4A7C15)
    for i in range(0, size, 8):
        hashed ^= _word(buf, at + i, size - i)
        hashed *= U(0xC2B2AE3D27D4EB4F)
        hashed ^= hashed >> U(29)
    return hashed


@_kernel
def _find(
    buf: NDArray[np.uint8],
    at: int,
    end: int,
    role: int,
    owner: int,
    slots: NDArray[np.int64],
    table: NDArray[np.int32],
) -> int:
    """The slot of a key, which is new if need be; 0: there is no room; -1: too many looks."""
    size = end - at
    mask = U(table.size - 1)
    place = _hash(buf, at, size, 3 * owner + role) & mask
    slots[0, T_LOOKS] += _LOOKS_PER_KEY
    while table[place] != 0:
        slot = np.int64(table[place])
        if (
            slots[slot, S_KEY_BYTES] == size
            and slots[slot, S_ROLE] == role
            and slots[slot, S_OWNER] == owner
            and _is_same(buf, at, slots[slot, S_KEY], size)
        ):
            return slot
        place = (place + U(1)) & mask
        slots[0, T_LOOKS] -= 1
        if slots[0, T_LOOKS] < 0:
            return -1
    slot = slots[0, T_SLOTS]
    if slot >= slots.shape[0]:
        return 0
    slots[0, T_SLOTS] += 1
    table[place] = slot
    slots[slot] = 0
    slots[slot, S_KEY], slots[slot, S_KEY_BYTES] = at, size
    slots[slot, S_ROLE], slots[slot, S_OWNER], slots[slot, S_ROW] = role, owner, -1
    if role == ROLE_MEASUREMENT:
        slots[slot, S_ROW] = 0
    else:
        slots[owner, S_COUNT] += 1
        slots[0, T_COLUMNS] += 1
    return slot


@_kernel
def _new_key(
    buf: NDArray[np.uint8],
    at: int,
    role: int,
    owner: int,
    slots: NDArray[np.int64],
    table: NDArray[np.int32],
) -> int:
    """The slot of a key that was not foretold; 0: no room; -1: FALLBACK."""
    end, _ = _scan_name(buf, at, role)
    if end == at or end - at > _MAX_KEY_BYTES or end >= buf.size:
        return -1
    b = buf[U(end)]
    if (b == _EQUALS) != (role != ROLE_MEASUREMENT) or b == _LF:
        return -1
    return _find(buf, at, end, role, owner, slots, table)


# --------------------------------------------------------------------------------------- numbers

_POWERS = np.array([10**i for i in range(20)], dtype=np.uint64)
_EXACT_POWERS = np.array([10.0**i for i in range(23)], dtype=np.float64)
_LEAST_POWER, _MOST_POWER = -342, 308


def _five_to(power: int) -> tuple[int, int]:
    """The 128 highest bits of 5**power, in two words, as the article has them in its table."""
    if power >= 0:
        bits = (5**power << 128) >> (5**power).bit_length()
    else:
        divisor = 5**-power
        bits = (1 << (127 + divisor.bit_length())) // divisor + (power >= -27)
    return bits >> 64, bits & (2**64 - 1)


_FIVES = np.array([_five_to(p) for p in range(_LEAST_POWER, _MOST_POWER + 1)], dtype=np.uint64)


@_inlined
def _digits(buf: NDArray[np.uint8], at: int, value: int) -> tuple[int, int]:
    """Decimal digits from `at`, appended to those of `value`: (value, first byte after them).

    The value is right while it is below 2**64, from there on modulo 2**64.
    """
    n = buf.size
    while at + 8 <= n:
        word = _load8(buf, at) ^ (_ONES * U(0x30))
        marks = ((word + _ONES * U(0x76)) | word) & _TOPS
        count = np.int64(8) if marks == U(0) else _first(marks)
        half = U(4 * (8 - count))  # half of the shift, as no shift may be 64
        word = word << half << half
        word = word * U(10) + (word >> U(8))
        low = (word & U(0x000000FF000000FF)) * U(0x000F424000000064)
        high = ((word >> U(16)) & U(0x000000FF000000FF)) * U(0x0000271000000001)
        value = value * _POWERS[U(count)] + ((low + high) >> U(32))
        at += count
        if count < 8:
            return value, at
    while at < n and U(buf[U(at)]) - U(48) < U(10):
        value = value * U(10) + (U(buf[U(at)]) - U(48))
        at += 1
    return value, at


@_kernel
def _leading_zeros(word: int) -> int:
    """Of a word that is not 0."""
    count = np.int64(0)
    for width in (32, 16, 8, 4, 2, 1):
        if word >> U(64 - width) == U(0):
            word <<= U(width)
            count += width
    return count


@_kernel
def _product(one: int, other: int) -> tuple[int, int]:
    """The 128 bits of a product: (high word, low word)."""
    mask = U(0xFFFFFFFF)
    a, b, c, d = one >> U(32), one & mask, other >> U(32), other & mask
    middle = a * d + ((b * d) >> U(32))
    carry = (middle & mask) + b * c
    return a * c + (middle >> U(32)) + (carry >> U(32)), one * other


@_kernel
def _float_bits(digits: int, power: int) -> int:
    """The bits of the double nearest to digits * 10**power, as uint64; ties to even.

    Infinity where it is too large. The steps are those of the article, chapters 5 to 8.
    """
    if digits == U(0) or power < _LEAST_POWER:
        return U(0)
    if power > _MOST_POWER:
        return U(0x7FF0000000000000)
    zeros = _leading_zeros(digits)
    digits <<= U(zeros)
    five = U(power - _LEAST_POWER)
    high, low = _product(digits, _FIVES[five, 0])
    if high & U(0x1FF) == U(0x1FF):
        more, _ = _product(digits, _FIVES[five, 1])
        low += more
        high += U(1) if low < more else U(0)
    upper = np.int64(high >> U(63))
    mantissa = high >> U(upper + 9)
    exponent = ((217706 * power) >> 16) + 63 + upper - zeros + 1023
    if exponent <= 0:
        if exponent <= -63:
            return U(0)
        mantissa >>= U(1 - exponent)
        return (mantissa + (mantissa & U(1))) >> U(1)
    if low <= U(1) and -4 <= power <= 23 and mantissa & U(3) == U(1):
        if mantissa << U(upper + 9) == high:
            mantissa &= ~U(1)
    mantissa = (mantissa + (mantissa & U(1))) >> U(1)
    bits = (U(exponent) << U(52)) + (mantissa - U(0x0010000000000000))
    return min(bits, U(0x7FF0000000000000))


@_kernel
def _scan_exponent(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The digits after an `e`, with a sign or not: (exponent, first byte after); (0, -1): none."""
    n = buf.size
    negative = at < n and buf[U(at)] == _MINUS
    if negative or (at < n and buf[U(at)] == _PLUS):
        at += 1
    start, value = at, np.int64(0)
    while at < n and 48 <= buf[U(at)] <= 57:
        value = min(value * 10 + np.int64(buf[U(at)]) - 48, 100_000)
        at += 1
    return (-value if negative else value), (at if at > start else -1)


@_kernel
def _long_number(buf: NDArray[np.uint8], at: int, end: int) -> tuple[int, int, bool]:
    """A number of any length up to its exponent: (first 19 digits, power of ten, all of them).

    Zeros at its beginning do not count. at: after the sign; digits and at most one point.
    """
    value, count, power = U(0), 0, np.int64(0)
    behind, exact = False, True
    for i in range(at, end):
        b = np.int64(buf[U(i)])
        if b == _POINT:
            behind = True
            continue
        if count < 19:
            value = value * U(10) + U(b - 48)
            count += 1 if value != U(0) else 0
            power -= 1 if behind else 0
        else:
            exact &= b == 48
            power += 0 if behind else 1
    return value, power, exact


@_kernel
def _long_float_bits(buf: NDArray[np.uint8], at: int, end: int, exponent: int) -> int:
    """The bits of a number of more than 19 digits; all ones: the slow twin has to read it."""
    value, power, exact = _long_number(buf, at, end)
    bits = _float_bits(value, power + exponent)
    if not exact and bits != _float_bits(value + U(1), power + exponent):
        return _ALL
    return bits


@_inlined
def _scan_number(
    buf: NDArray[np.uint8], at: int, values: NDArray[np.int64], cell: int
) -> tuple[int, int]:
    """The number at `at`, into the cell: (first byte after it, what was seen); (-1, 0): FALLBACK.

    HOT, once a number. Digits eight at a time, the exact division where it is exact.
    """
    n, begin = buf.size, at
    negative = buf[U(at)] == _MINUS
    start = at + 1 if negative else at
    value, at = _digits(buf, start, U(0))
    digits, fraction = at - start, np.int64(0)
    if at < n and buf[U(at)] == _POINT:
        value, end = _digits(buf, at + 1, value)
        fraction = end - at - 1
        digits += fraction
        at = end
    elif at < n and (buf[U(at)] == _I or buf[U(at)] == _U):
        if digits == 0 or digits > 19 or (digits == 19 and value > U(2**63 - 1)):
            return _scan_odd_integer(buf, begin, at, values, cell)
        if negative and buf[U(at)] == _U:
            return -1, 0
        number = -np.int64(value) if negative else np.int64(value)
        values[cell] = number
        seen = 1 << _INT | (SEEN_WIDE if value > U(_MAX_EXACT) else 0)
        return at + 1, seen | (_SEEN_NEGATIVE if number < 0 else 0)
    if digits == 0:
        return -1, 0
    mantissa_end, power = at, -fraction
    if at < n and (buf[U(at)] == _SMALL_E or buf[U(at)] == _E):
        exponent, at = _scan_exponent(buf, at + 1)
        power += exponent
    if at - begin > _MAX_NUMBER_BYTES or at < 0:
        return -1, 0
    if digits > 19:
        bits = _long_float_bits(buf, start, mantissa_end, power + fraction)
    elif value <= U(_MAX_EXACT) and -22 <= power <= 22:
        number = np.float64(np.int64(value))
        factor = _EXACT_POWERS[U(abs(power))]
        number = number / factor if power < 0 else number * factor
        values.view(np.float64)[cell] = -number if negative else number
        return at, 1 << _FLOAT
    else:
        bits = _float_bits(value, power)
    values[cell] = np.int64(bits | (U(1) << U(63) if negative else U(0)))
    return (at, 1 << _FLOAT) if bits < U(0x7FF0000000000000) else (np.int64(-1), 0)


@_kernel
def _scan_odd_integer(
    buf: NDArray[np.uint8], at: int, end: int, values: NDArray[np.int64], cell: int
) -> tuple[int, int]:
    """An integer of no digits, of many, or near the ends of its type; as `_scan_number`.

    end: of its letter, which is there.
    """
    negative = buf[U(at)] == _MINUS
    start = at + 1 if negative else at
    unsigned = buf[U(end)] == _U
    if start == end or end - at >= _MAX_NUMBER_BYTES or (unsigned and negative):
        return -1, 0
    value = U(0)
    for i in range(start, end):
        digit = U(buf[U(i)]) - U(48)
        if value > (_ALL - digit) // U(10):
            return -1, 0
        value = value * U(10) + digit
    if value > U(2**63 - 1) + (U(1) if negative else U(0)) and not unsigned:
        return -1, 0
    values[cell] = np.int64(U(0) - value if negative else value)
    if value > U(2**63 - 1) and not negative:
        return end + 1, 1 << _UNSIGNED
    seen = 1 << _INT | (SEEN_WIDE if value > U(_MAX_EXACT) else 0)
    return end + 1, seen | (_SEEN_NEGATIVE if negative and value > U(0) else 0)


# -------------------------------------------------------------------------------------- scanning

_TRUE, _TRUE_2, _TRUE_3 = (U(int.from_bytes(w, "little")) for w in (b"true", b"True", b"TRUE"))
_FALSE, _FALSE_2, _FALSE_3 = (
    U(int.from_bytes(w, "little")) for w in (b"false", b"False", b"FALSE")
)

#: By letter: 1: it begins a true, 2: a false, 0: neither.
_BOOL_LETTERS = np.array([{116: 1, 84: 1, 102: 2, 70: 2}.get(b, 0) for b in range(256)], np.uint8)


@_inlined
def _scan_bool(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The boolean at `at`: (first byte after it, value); (-1, 0): there is none.

    HOT: no branch depends on which of the two it is.
    """
    sort = np.int64(_BOOL_LETTERS[U(buf[U(at)])])
    if sort == 0:
        return -1, 0
    size = 3 + sort
    word = _word(buf, at, size) if at + size <= buf.size else U(0)
    is_word = (word == _TRUE) | (word == _TRUE_2) | (word == _TRUE_3)
    is_word |= (word == _FALSE) | (word == _FALSE_2) | (word == _FALSE_3)
    return at + (size if is_word else 1), 2 - sort


@_inlined
def _scan_string(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """A string, from the byte after its first quote: (its last quote or -1, escapes in it)."""
    n, escapes = buf.size, np.int64(0)
    while at < n:
        if at + 8 <= n:
            word = _load8(buf, at)
            marks = _equal_to(word, _QUOTE) | _equal_to(word, _BACKSLASH)
            if marks == U(0):
                at += 8
                continue
            at += _first(marks)
        b = buf[U(at)]
        if b == _QUOTE:
            return at, escapes
        if b == _BACKSLASH and at + 1 < n:
            following = buf[U(at + 1)]
            if following == _QUOTE or following == _BACKSLASH:
                escapes += 1
                at += 1
        at += 1
    return -1, escapes


@_inlined
def _scan_time(buf: NDArray[np.uint8], at: int, scale: NDArray[np.int64]) -> tuple[int, int]:
    """The time at `at`: (first byte after it, microseconds since 1970); (-1, 0): FALLBACK.

    scale: the first time that is allowed, the last one, microseconds in the unit; see `scan`.
    """
    negative = buf[U(at)] == _MINUS
    start = at + 1 if negative else at
    value, at = _digits(buf, start, U(0))
    if at == start or at - start > 19 or value > U(2**63 - 1):
        return -1, 0
    time = -np.int64(value) if negative else np.int64(value)
    if time < scale[0] or time > scale[1]:
        return -1, 0
    return at, (time * scale[2] if scale[2] > 0 else time // 1000)


@_inlined
def _scan_measurement(
    buf: NDArray[np.uint8],
    at: int,
    before: int,
    slots: NDArray[np.int64],
    table: NDArray[np.int32],
) -> int:
    """The slot of the measurement at `at`; before: that of the last line's. As `_new_key`."""
    slot = slots[before, S_NEXT_LINE]
    if slot > 0:
        end = at + slots[slot, S_KEY_BYTES]
        if end < buf.size and (buf[U(end)] == _COMMA or buf[U(end)] == _SPACE):
            if _is_same(buf, at, slots[slot, S_KEY], end - at):
                return slot
    slot = _new_key(buf, at, ROLE_MEASUREMENT, 0, slots, table)
    if slot > 0:
        slots[before, S_NEXT_LINE] = slot
    return slot


@_inlined
def _scan_key(
    buf: NDArray[np.uint8],
    at: int,
    before: int,
    role: int,
    owner: int,
    slots: NDArray[np.int64],
    table: NDArray[np.int32],
) -> int:
    """The slot of the key at `at`; before: the slot of the key before it. As `_new_key`."""
    slot = slots[before, S_NEXT]
    if slot > 0 and slots[slot, S_ROLE] == role:
        end = at + slots[slot, S_KEY_BYTES]
        if end < buf.size and buf[U(end)] == _EQUALS:
            if _is_same(buf, at, slots[slot, S_KEY], end - at):
                return slot
    slot = _new_key(buf, at, role, owner, slots, table)
    if slot > 0:
        slots[before, S_NEXT] = slot
    return slot


@_inlined
def _scan_value(
    buf: NDArray[np.uint8], at: int, role: int, values: NDArray[np.int64], cell: int
) -> tuple[int, int, int]:
    """The value at `at`, into the cell: (first byte after it, what was seen, bytes of a string).

    The first is -1 where the slow twin has to look.
    """
    if at >= buf.size:
        return -1, 0, 0
    if role == ROLE_TAG:
        end, escapes = _scan_name(buf, at, ROLE_TAG)
        values[cell] = at | (end - at) << _SIZE_SHIFT
        seen = 1 << _ESCAPED if escapes > 0 else 1 << _STRING
        return (end if end > at else np.int64(-1)), seen, end - at - escapes
    b = buf[U(at)]
    if b == _QUOTE:
        at += 1
        end, escapes = _scan_string(buf, at)
        values[cell] = at | (end - at) << _SIZE_SHIFT
        seen = 1 << _QUOTED if escapes > 0 else 1 << _STRING
        return (end + 1 if end >= 0 else np.int64(-1)), seen, end - at - escapes
    if 48 <= b <= 57 or b == _MINUS or b == _POINT:
        end, seen = _scan_number(buf, at, values, cell)
        return end, seen, 0
    end, values[cell] = _scan_bool(buf, at)
    return end, 1 << _BOOL, 0


#: The kind whose bit is set in what was seen.
_KIND_OF = np.array([max(0, bits.bit_length() - 1) for bits in range(1 << 7)], dtype=np.uint8)


@_inlined
def _scan_cells(
    buf: NDArray[np.uint8],
    at: int,
    owner: int,
    slots: NDArray[np.int64],
    table: NDArray[np.int32],
    codes: NDArray[np.int32],
    values: NDArray[np.int64],
) -> int:
    """The tags and fields after a measurement, from the byte after it: the first byte behind.

    -1: FALLBACK, 0: MORE_ROOM. HOT, once a cell.
    """
    n, cell, row, slot = buf.size, slots[0, T_CELLS], slots[owner, S_ROW], owner
    role = ROLE_TAG
    while at < n:
        b = buf[U(at)]
        at += 1
        if b == _SPACE and role == ROLE_TAG:
            role = ROLE_FIELD
            while at < n and (buf[U(at)] == _SPACE or buf[U(at)] == _TAB):
                at += 1
        elif b != _COMMA:
            at -= 1
            break
        slot = _scan_key(buf, at, slot, role, owner, slots, table)
        if slot <= 0 or cell >= codes.size:
            return min(slot, 0)
        at += slots[slot, S_KEY_BYTES] + 1
        at, seen, size = _scan_value(buf, at, role, values, cell)
        if at < 0 or slots[slot, S_ROW] == row:
            return -1
        slots[slot, S_ROW] = row
        slots[slot, S_COUNT] += 1
        slots[slot, S_SEEN] |= seen
        slots[slot, S_BYTES] += size
        codes[cell] = slot << 3 | np.int64(_KIND_OF[U(seen & 0x7F)])
        cell += 1
    slots[0, T_CELLS] = cell
    return at if role == ROLE_FIELD else np.int64(-1)


@_inlined
def _scan_end(
    buf: NDArray[np.uint8], at: int, now_us: int, scale: NDArray[np.int64]
) -> tuple[int, int]:
    """The rest of a line, from the byte after its fields: (first byte of the next one, time).

    The first is -1 where the slow twin has to look.
    """
    n, time = buf.size, now_us
    spaces = at
    while at < n and (buf[U(at)] == _SPACE or (buf[U(at)] == _TAB and at > spaces)):
        at += 1
    if at > spaces and at < n and (48 <= buf[U(at)] <= 57 or buf[U(at)] == _MINUS):
        at, time = _scan_time(buf, at, scale)
        if at < 0:
            return -1, 0
        spaces = at
        while at < n and (buf[U(at)] == _SPACE or (buf[U(at)] == _TAB and at > spaces)):
            at += 1
    if at < n and buf[U(at)] == _CR:
        at += 1
    if at < n and buf[U(at)] != _LF:
        return -1, 0
    return at + 1, time


@_inlined
def _skip_to_line(buf: NDArray[np.uint8], at: int) -> int:
    """The first byte of the next line that is not empty and no comment, or of a byte after all."""
    n = buf.size
    while at < n:
        b = buf[U(at)]
        if b == _HASH:
            while at < n and buf[U(at)] != _LF:
                at += 1
        elif b == _CR and (at + 1 == n or buf[U(at + 1)] == _LF):
            at += 1
        elif b != _SPACE and b != _TAB and b != _LF:
            break
        else:
            at += 1
    return at


@_kernel
def scan(
    buf: NDArray[np.uint8],
    now_us: int,
    scale: NDArray[np.int64],
    slots: NDArray[np.int64],
    table: NDArray[np.int32],
    codes: NDArray[np.int32],
    values: NDArray[np.int64],
) -> int:
    """Read a whole body.

    Args:
        buf: uint8, shape (bytes,), the decompressed body, below 2**31 of them.
        now_us: Time of lines without one.
        scale: int64, shape (3,): the first and the last time that are allowed, in the unit of the
            body, and microseconds in that unit, 0 for nanoseconds.
        slots: int64, shape (room, SLOT_WIDTH), written.
        table: int32, shape (a power of two, at least twice the slots,), zeros; written.
        codes: int32, shape (room,), written.
        values: int64, shape (room,), written.

    Returns:
        OK, FALLBACK, or MORE_ROOM: of slots when all are used, else of cells.
    """
    slots[0] = 0
    slots[0, T_SLOTS], slots[0, T_LOOKS] = 1, _FIRST_LOOKS
    if not (_is_ascii(buf, 0, buf.size) or _is_utf8(buf, 0, buf.size)):
        return FALLBACK
    owner, at = np.int64(0), _skip_to_line(buf, 0)
    while at < buf.size:
        owner = _scan_measurement(buf, at, owner, slots, table)
        if owner <= 0:
            return MORE_ROOM if owner == 0 else FALLBACK
        at = _scan_cells(buf, at + slots[owner, S_KEY_BYTES], owner, slots, table, codes, values)
        cell = slots[0, T_CELLS]
        if at <= 0 or cell >= codes.size:
            return FALLBACK if at < 0 else MORE_ROOM
        at, values[cell] = _scan_end(buf, at, now_us, scale)
        if at < 0:
            return FALLBACK
        codes[cell] = -owner
        slots[0, T_CELLS] = cell + 1
        slots[owner, S_ROW] += 1
        at = _skip_to_line(buf, at)
    return OK if slots[0, T_CELLS] > 0 else FALLBACK


# ---------------------------------------------------------------------------------- types, places


@_kernel
def _type_of(seen: int) -> int:
    """The type of a column from what was seen in it, or -1: FALLBACK."""
    integers = 1 << _INT | _SEEN_NEGATIVE
    kinds = seen & ~SEEN_WIDE
    if kinds & ~_SEEN_STRINGS == 0:
        return TYPE_UTF8
    if kinds == 1 << _FLOAT:
        return TYPE_FLOAT64
    if kinds & ~integers == 0:
        return TYPE_INT64
    if kinds == 1 << _BOOL:
        return TYPE_BOOL
    if seen & ~(integers | 1 << _FLOAT) == 0:
        return TYPE_FLOAT64
    if kinds & ~(1 << _INT | 1 << _UNSIGNED) == 0:
        return TYPE_UINT64
    return -1


@_kernel
def _round_up(at: int) -> int:
    return (at + 7) & ~7


@_kernel
def plan(slots: NDArray[np.int64]) -> int:
    """Give every column its type, and every buffer its place in the arena.

    Returns:
        OK or FALLBACK. The arena may be too large to be had: its size is in T_ARENA.
    """
    at = np.int64(0)
    for slot in range(1, slots[0, T_SLOTS]):
        here = slots[slot]
        if here[S_ROLE] == ROLE_MEASUREMENT:
            here[S_AT] = at >> 3
            at += 8 * here[S_ROW]
            continue
        rows = slots[here[S_OWNER], S_ROW]
        here[S_TYPE], here[S_VALID] = _type_of(here[S_SEEN]), -1
        if here[S_TYPE] < 0:
            return FALLBACK
        if here[S_TYPE] == TYPE_UTF8:
            here[S_AT] = at >> 2
            at = _round_up(at + 4 * (rows + 1))
            here[S_BYTES_AT] = at
            at = _round_up(at + here[S_BYTES])
        elif here[S_TYPE] == TYPE_BOOL:
            here[S_AT] = at
            at = _round_up(at + rows)
        else:
            here[S_AT] = at >> 3
            at += 8 * rows
        if here[S_COUNT] < rows:
            here[S_VALID] = at
            at = _round_up(at + rows)
    slots[0, T_ARENA] = at
    return OK


# --------------------------------------------------------------------------------------- filling


@_kernel
def _clear(slots: NDArray[np.int64], arena: NDArray[np.int64]) -> None:
    """Zeros where no cell may come: the first offsets, and columns with nulls."""
    raw, offsets = arena.view(np.uint8), arena.view(np.int32)
    for slot in range(1, slots[0, T_SLOTS]):
        here = slots[slot]
        here[S_NEXT] = 0
        if here[S_ROLE] == ROLE_MEASUREMENT:
            continue
        at, rows = here[S_AT], slots[here[S_OWNER], S_ROW]
        if here[S_TYPE] == TYPE_UTF8:
            offsets[at] = 0
        if here[S_VALID] < 0:
            continue
        raw[here[S_VALID] : here[S_VALID] + rows] = 0
        if here[S_TYPE] == TYPE_UTF8:
            offsets[at : at + rows + 1] = 0
        elif here[S_TYPE] == TYPE_BOOL:
            raw[at : at + rows] = 0
        else:
            arena[at : at + rows] = 0


@_kernel
def _copy_escaped(
    buf: NDArray[np.uint8], at: int, end: int, kind: int, out: NDArray[np.uint8], to: int
) -> int:
    """Bytes from buf[at:end] to out[to:], without the backslashes of escapes: how many."""
    begin = to
    while at < end:
        b = buf[U(at)]
        if b == _BACKSLASH and at + 1 < end:
            following = buf[U(at + 1)]
            if kind == _ESCAPED and _is_escape(following, ROLE_TAG):
                at, b = at + 1, following
            elif kind == _QUOTED and (following == _QUOTE or following == _BACKSLASH):
                at, b = at + 1, following
        out[U(to)] = b
        to += 1
        at += 1
    return to - begin


@_inlined
def _copy(
    buf: NDArray[np.uint8], at: int, size: int, out: NDArray[np.uint8], to: int, room_end: int
) -> None:
    """`size` bytes from buf[at:] to out[to:]; up to 15 more where that stays below `room_end`.

    Sixteen at a time, which run over into what the next string of the column overwrites.
    """
    done = np.int64(0)
    while done < size and to + done + 16 <= room_end and at + done + 16 <= buf.size:
        _copy16(buf, at + done, out, to + done)
        done += 16
    for i in range(done, size):
        out[U(to + i)] = buf[U(at + i)]


@_kernel
def _fill_cells(
    buf: NDArray[np.uint8],
    slots: NDArray[np.int64],
    codes: NDArray[np.int32],
    values: NDArray[np.int64],
    arena: NDArray[np.int64],
) -> None:
    """Move every cell to its place. HOT, once a cell."""
    floats, offsets = arena.view(np.float64), arena.view(np.int32)
    raw = arena.view(np.uint8)
    row = np.int64(-1)
    for cell in range(slots[0, T_CELLS]):
        code, value = np.int64(codes[cell]), values[cell]
        if code < 0:
            arena[slots[-code, S_AT] + row] = value
            slots[-code, S_NEXT] = row + 1
            row = -1
            continue
        slot, kind = code >> 3, code & 7
        if row < 0:
            row = slots[slots[slot, S_OWNER], S_NEXT]
        place = slots[slot, S_AT] + row
        if kind <= _QUOTED:
            at, size = value & 0xFFFFFFFF, value >> _SIZE_SHIFT
            to, base = slots[slot, S_NEXT], slots[slot, S_BYTES_AT]
            if kind == _STRING:
                _copy(buf, at, size, raw, base + to, base + slots[slot, S_BYTES])
            else:
                size = _copy_escaped(buf, at, at + size, kind, raw, base + to)
            slots[slot, S_NEXT] = to + size
            offsets[place + 1] = to + size
        elif kind == _BOOL:
            raw[place] = value
        elif kind == _INT and slots[slot, S_TYPE] == TYPE_FLOAT64:
            floats[place] = value
        else:
            arena[place] = value
        if slots[slot, S_VALID] >= 0:
            raw[slots[slot, S_VALID] + row] = 1


@_kernel
def fill(
    buf: NDArray[np.uint8],
    slots: NDArray[np.int64],
    codes: NDArray[np.int32],
    values: NDArray[np.int64],
    arena: NDArray[np.int64],
) -> None:
    """Write all columns and times into the arena.

    Args:
        buf: The body that `scan` read.
        slots: After `plan`; S_LOW and S_HIGH of measurements are written.
        codes: The codes of the cells, from `scan`.
        values: Their values.
        arena: int64, shape (T_ARENA / 8,), written. A column's part of it is int64, uint64 (bit by
            bit), float64, bool, or int32 offsets and bytes, and bool validity; a measurement's
            part is the times of its rows.
    """
    _clear(slots, arena)
    _fill_cells(buf, slots, codes, values, arena)
    offsets = arena.view(np.int32)
    for slot in range(1, slots[0, T_SLOTS]):
        here = slots[slot]
        at, rows = here[S_AT], here[S_ROW]
        if here[S_ROLE] == ROLE_MEASUREMENT:
            here[S_LOW], here[S_HIGH] = _low_high(arena[at : at + rows])
        elif here[S_TYPE] == TYPE_UTF8 and here[S_VALID] >= 0:
            for i in range(slots[here[S_OWNER], S_ROW]):  # a null ends where the one before it did
                offsets[at + i + 1] = max(offsets[at + i], offsets[at + i + 1])


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    body = np.frombuffer(b"m,t=a f=1 1", dtype=np.uint8)
    slots = np.empty((8, SLOT_WIDTH), dtype=np.int64)
    codes, values = np.empty(8, dtype=np.int32), np.empty(8, dtype=np.int64)
    scale = np.array([0, 2**62, 1])
    scan(body, 0, scale, slots, np.zeros(16, dtype=np.int32), codes, values)
    plan(slots)
    arena = np.empty(slots[0, T_ARENA] // 8, dtype=np.int64)
    fill(body, slots, codes, values, arena)
