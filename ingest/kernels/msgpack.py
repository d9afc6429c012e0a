"""Columnar MessagePack bodies, read without making a Python object per value.

In: the bytes of a body. Out: first a plan, which says where every column lies and what it holds
(`scan`), then the values themselves in one arena (`fill`). Anything unusual is answered
`FALLBACK` and left to the slow twin, `ingest.msgpack_slow`, errors included: these kernels never
explain, they only accept what they fully understand.

Every read is preceded by a comparison with the length of the body, because the bytes are a
stranger's. The tests run the same code under Python and NumPy, which check every index again.

Positions are compared as int64 and used as uint64 (`U`): a signed index makes Numba test for
negative ones at every access, which keeps LLVM from merging eight byte loads into one and costs
2.0 instead of 0.4 ns a float (docs/profiling/2026-11-20-decode-kernels.md).

All in one file, because Numba's cache does not notice a change in another file.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import kernel

# Answers of `scan` and `fill`.
OK = 0
FALLBACK = 1  # valid or not, the slow twin knows
MORE_ROOM = 2  # the plan has more rows than it was given

# A plan is an int64 array. Row 0 holds the totals; then follow, for each map of the body, one row
# for the map and one for each of its columns. Field 0 of a row tells what the row is.
PLAN_WIDTH = 12

# Row 0.
(
    T_ROWS,  # rows of the plan that are used, this one included
    T_COLUMNS,  # columns of all maps
    T_TAGS,  # tags of all maps
    T_VALUES,  # rows of all maps
    T_ARENA,  # bytes of the arena, a multiple of 8
    T_NUM_FIELDS,
) = range(6)

# A map: its name is body[M_NAME:M_NAME_END], its array of tags body[M_TAGS:M_TAGS_END].
(
    M_KIND,  # KIND_MAP
    M_NAME,
    M_NAME_END,
    M_VALUES,  # number of values of each column
    M_COLUMNS,  # number of columns, in the rows that follow
    M_TAGS,  # -1: it has none
    M_TAGS_END,
) = range(7)

# A column: its name is body[C_NAME:C_NAME_END]. Places in the arena count items, not bytes.
(
    C_KIND,  # another KIND_*
    C_NAME,
    C_NAME_END,
    C_VALUES,  # number of values
    C_AT,  # int64, uint64, float64, bool: first value; utf8, binary: first int32 offset
    C_VALIDITY,  # first validity (bool), or -1: no value is null
    C_BYTES,  # utf8, binary: first byte
    C_BYTES_END,
    C_LOW,  # int64, timestamps, written by `fill`: the smallest value, null counts as 0 …
    C_HIGH,  # … and the largest one
    C_DATA,  # where the first value lies in the body
    C_UNIFORM,  # 1: all values are of the sort and the size of the first, 0: they are not
) = range(12)

(
    KIND_NULL,
    KIND_INT64,
    KIND_UINT64,
    KIND_FLOAT64,
    KIND_UTF8,
    KIND_BINARY,
    KIND_BOOL,
    KIND_TIMESTAMP,  # the timestamp extension, read as int64 microseconds since 1970
) = range(8)
KIND_MAP = -1

# What `scan` met in a column, as bits.
_SEEN_NIL, _SEEN_INT, _SEEN_NEGATIVE, _SEEN_BIG = 1, 2, 4, 8  # big: above 2**63 - 1
_SEEN_FLOAT, _SEEN_NAN = 16, 32  # a NaN is not a FLOAT as well
_SEEN_STR, _SEEN_BIN, _SEEN_BOOL, _SEEN_TIMESTAMP = 64, 128, 256, 512

_NIL, _FALSE, _TRUE = 0xC0, 0xC2, 0xC3
_BIN8, _BIN32 = 0xC4, 0xC6
_EXT8, _EXT32 = 0xC7, 0xC9
_F32, _F64 = 0xCA, 0xCB
_U8, _U64 = 0xCC, 0xCF
_I8, _I64 = 0xD0, 0xD3
_FIXEXT1, _FIXEXT4, _FIXEXT8 = 0xD4, 0xD6, 0xD7
_STR8, _STR32 = 0xD9, 0xDB
_ARRAY16, _ARRAY32, _MAP16, _MAP32 = 0xDC, 0xDD, 0xDE, 0xDF

_MINUS_ONE = 0xFF  # type of the timestamp extension, an int8

_MAX_NAME_BYTES = 255  # of a column; longer ones are refused, in the slow twin
_MAX_MEASUREMENT_BYTES = 128  # above this the slow twin counts the characters

U = np.uint64

# ------------------------------------------------------------------------------------ the bytes


@kernel
def _load8(buf: NDArray[np.uint8], at: int) -> int:
    """Eight bytes as they lie, lowest first: written out, LLVM makes one load of it."""
    p = U(at)
    return (
        U(buf[p])
        | (U(buf[p + U(1)]) << U(8))
        | (U(buf[p + U(2)]) << U(16))
        | (U(buf[p + U(3)]) << U(24))
        | (U(buf[p + U(4)]) << U(32))
        | (U(buf[p + U(5)]) << U(40))
        | (U(buf[p + U(6)]) << U(48))
        | (U(buf[p + U(7)]) << U(56))
    )


@kernel
def _load8_be(buf: NDArray[np.uint8], at: int) -> int:
    """Eight bytes, highest first: one load and one swap."""
    p = U(at)
    return (
        (U(buf[p]) << U(56))
        | (U(buf[p + U(1)]) << U(48))
        | (U(buf[p + U(2)]) << U(40))
        | (U(buf[p + U(3)]) << U(32))
        | (U(buf[p + U(4)]) << U(24))
        | (U(buf[p + U(5)]) << U(16))
        | (U(buf[p + U(6)]) << U(8))
        | U(buf[p + U(7)])
    )


@kernel
def _store8(out: NDArray[np.uint8], at: int, value: int) -> None:
    """The reverse of `_load8`, and one store."""
    p = U(at)
    out[p] = np.uint8(value & U(255))
    out[p + U(1)] = np.uint8((value >> U(8)) & U(255))
    out[p + U(2)] = np.uint8((value >> U(16)) & U(255))
    out[p + U(3)] = np.uint8((value >> U(24)) & U(255))
    out[p + U(4)] = np.uint8((value >> U(32)) & U(255))
    out[p + U(5)] = np.uint8((value >> U(40)) & U(255))
    out[p + U(6)] = np.uint8((value >> U(48)) & U(255))
    out[p + U(7)] = np.uint8(value >> U(56))


@kernel
def _copy16(buf: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int) -> None:
    """Sixteen bytes from buf[at:] to out[to:]."""
    first, second = _load8(buf, at), _load8(buf, at + 8)
    _store8(out, to, first)
    _store8(out, to + 8, second)


@kernel
def _be(buf: NDArray[np.uint8], at: int, width: int) -> int:
    """Big-endian unsigned integer of `width` bytes."""
    value = U(0)
    for i in range(width):
        value = (value << U(8)) | U(buf[U(at + i)])
    return value


@kernel
def _int_form(b: int, at: int) -> tuple[int, int, bool]:
    """Where and how the integer of type byte `b` at `at` is: (first byte, width, unsigned).

    A fixint is the int8 that its type byte is.
    """
    sized = (b >= _U8) & (b <= _I64)
    width = 1 << ((b - _U8) & 3) if sized else 1
    return (at + 1 if sized else at), width, sized & (b <= _U64)


@kernel
def _int_of(word: int, width: int, unsigned: bool) -> int:
    """The integer in the first `width` bytes of a big-endian word.

    A uint64 above 2**63 - 1 comes out as the negative number of the same bits.
    """
    shift = U(64 - 8 * width)
    return np.int64(word >> shift) if unsigned else np.int64(word) >> np.int64(shift)


@kernel
def _int(buf: NDArray[np.uint8], at: int, width: int, unsigned: bool) -> int:
    """The integer of 1, 2, 4 or 8 bytes at `at`, as `_int_of` has it."""
    return _int_of(_be(buf, at, width) << U(64 - 8 * width), width, unsigned)


@kernel
def _size(buf: NDArray[np.uint8], at: int, fix: int, fix_mask: int, wide: int) -> tuple[int, int]:
    """Header of an array or map at `at`: (count, first byte after it), or (-1, at).

    `fix` is the type byte of the short form, whose bits under `fix_mask` are the count; `wide`
    that of the form with 16 bits, and the one with 32 follows it.
    """
    n = buf.size
    if at >= n:
        return -1, at
    b = np.int64(buf[U(at)])
    if b & ~fix_mask == fix:
        return b & fix_mask, at + 1
    if b == wide and at + 3 <= n:
        return np.int64(_be(buf, at + 1, 2)), at + 3
    if b == wide + 1 and at + 5 <= n:
        return np.int64(_be(buf, at + 1, 4)), at + 5
    return -1, at


@kernel
def _array_size(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    return _size(buf, at, 0x90, 0x0F, _ARRAY16)


@kernel
def _map_size(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    return _size(buf, at, 0x80, 0x0F, _MAP16)


@kernel
def _blob(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The str or bin at `at`: (its first byte, the one after it); (-1, at): none, or cut off."""
    n = buf.size
    if at >= n:
        return -1, at
    b = np.int64(buf[U(at)])
    if 0xA0 <= b <= 0xBF:
        size, start = b & 31, at + 1
    else:
        if _STR8 <= b <= _STR32:
            width = 1 << (b - _STR8)
        elif _BIN8 <= b <= _BIN32:
            width = 1 << (b - _BIN8)
        else:
            return -1, at
        if at + 1 + width > n:
            return -1, at
        size, start = np.int64(_be(buf, at + 1, width)), at + 1 + width
    if size > n - start:
        return -1, at
    return start, start + size


@kernel
def _text(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The string at `at`, as `_blob` has it; (-1, at) also when it is not UTF-8."""
    if at >= buf.size or _BIN8 <= np.int64(buf[U(at)]) <= _BIN32:
        return -1, at
    start, end = _blob(buf, at)
    if start < 0 or not (_is_ascii(buf, start, end) or _is_utf8(buf, start, end)):
        return -1, at
    return start, end


@kernel
def _equals(buf: NDArray[np.uint8], start: int, end: int, word: NDArray[np.uint8]) -> bool:
    if end - start != word.size:
        return False
    for i in range(word.size):
        if buf[U(start + i)] != word[U(i)]:
            return False
    return True


@kernel
def _is_ascii(buf: NDArray[np.uint8], at: int, end: int) -> bool:
    seen = np.uint8(0)
    for i in range(at, end):
        seen |= buf[U(i)]
    return seen < 0x80


@kernel
def _is_utf8(buf: NDArray[np.uint8], at: int, end: int) -> bool:
    """Whether bytes [at, end) are well-formed UTF-8 (RFC 3629: no surrogates, none overlong).

    HOT where text is not ASCII. Each byte is judged by the three before it, without a state that
    one byte hands to the next, so that LLVM makes vectors of it: 0.4 -> 0.12 ns a byte
    (docs/profiling/2026-11-20-decode-mixed.md).
    """
    bad = np.False_
    for i in range(at, min(at + 3, end)):
        second = buf[U(i - 1)] if i > at else np.uint8(0)
        third = buf[U(i - 2)] if i > at + 1 else np.uint8(0)
        bad |= _is_misplaced(buf[U(i)], second, third, np.uint8(0))
    for i in range(at + 3, end):
        bad |= _is_misplaced(buf[U(i)], buf[U(i - 1)], buf[U(i - 2)], buf[U(i - 3)])
    for i in range(max(at, end - 3), end):  # a character that the end cuts off
        first_of = (0xF0, 0xE0, 0xC0)[i - (end - 3)]
        bad |= buf[U(i)] >= first_of
    return not bad


@kernel
def _is_misplaced(byte: int, before: int, before2: int, before3: int) -> bool:
    """Whether a byte cannot follow the three before it."""
    continues = (byte & 0xC0) == 0x80
    awaited = (before >= 0xC0) | (before2 >= 0xE0) | (before3 >= 0xF0)
    never = ((byte & 0xFE) == 0xC0) | (byte >= 0xF5)
    overlong = ((before == 0xE0) & (byte < 0xA0)) | ((before == 0xF0) & (byte < 0x90))
    no_character = ((before == 0xED) & (byte > 0x9F)) | ((before == 0xF4) & (byte > 0x8F))
    return (continues != awaited) | never | overlong | no_character


# -------------------------------------------------------------------------------------- scanning


def _scalar_sizes() -> list[int]:
    """Bytes of a value by its type byte; 0: no integer, float, boolean or null."""
    sizes = [0] * 256
    for code in (*range(0x80), *range(0xE0, 0x100), _NIL, _FALSE, _TRUE):
        sizes[code] = 1
    for code in range(_U8, _I64 + 1):
        sizes[code] = 1 + (1 << (code - _U8) % 4)
    sizes[_F32], sizes[_F64] = 5, 9
    return sizes


_SCALAR_SIZES = np.array(_scalar_sizes(), dtype=np.uint8)


@kernel
def _stride(b: int) -> int:
    """Bytes of a value of type byte `b` where the type byte alone tells, otherwise 0."""
    return 1 + (b & 31) if 0xA0 <= b <= 0xBF else np.int64(_SCALAR_SIZES[U(b)])


@kernel
def _same_run(buf: NDArray[np.uint8], at: int, count: int, stride: int) -> int:
    """How many of `count` values, `stride` bytes each, are of the sort of the first.

    That is: have its type byte, or are booleans as it is, or positive fixints.
    """
    first = buf[U(at)]
    mask = np.uint8(0x80 if first <= 0x7F else 0xFE if first == _TRUE or first == _FALSE else 0xFF)
    wanted = first & mask
    fit = min(count, (buf.size - at) // stride)
    i = np.int64(0)
    while i < fit and buf[U(at + stride * i)] & mask == wanted:
        i += 1
    return i


@kernel
def _top_bit(buf: NDArray[np.uint8], at: int, count: int, stride: int) -> bool:
    """Whether any of `count` integers of one width from `at` has its highest bit set."""
    seen = np.uint8(0)
    for i in range(count):
        seen |= buf[U(at + stride * i + 1)]
    return seen >= 0x80


@kernel
def _is_nan(buf: NDArray[np.uint8], at: int) -> bool:
    """Whether the complete float at `at` is a NaN: exponent all ones, fraction not zero."""
    if buf[U(at)] == _F64:
        return (_load8_be(buf, at + 1) & U(0x7FFFFFFFFFFFFFFF)) > U(0x7FF0000000000000)
    return (_be(buf, at + 1, 4) & U(0x7FFFFFFF)) > U(0x7F800000)


@kernel
def _scan_run(buf: NDArray[np.uint8], at: int, count: int) -> tuple[int, int, int]:
    """Step over the values at the front of an array that are of one sort and size.

    HOT. Present-day times and doubles are 9 bytes wide from end to end, names of hosts often of
    one length: 1.5 -> 0.3 ns a string (docs/profiling/2026-11-20-decode-runs.md).

    Returns:
        (how many, first byte after them, what was seen).
    """
    b = np.int64(buf[U(at)]) if at < buf.size else np.int64(0xC1)
    stride = _stride(b)
    if stride == 0:
        return 0, at, 0
    run = _same_run(buf, at, count, stride)
    seen = _SEEN_INT
    if b == _F64 or b == _F32:  # only a mixed column asks which of its floats are NaN
        seen = _scan_floats(buf, at, run, stride) if run < count else _SEEN_FLOAT
    elif 0xA0 <= b <= 0xBF:
        seen = _SEEN_STR
    elif b == _NIL:
        seen = _SEEN_NIL
    elif b == _FALSE or b == _TRUE:
        seen = _SEEN_BOOL
    elif b >= 0xE0 or (b >= _I8 and _top_bit(buf, at, run, stride)):
        seen |= _SEEN_NEGATIVE
    elif b == _U64 and _top_bit(buf, at, run, stride):
        seen |= _SEEN_BIG
    return run, at + stride * run, seen


@kernel
def _scan_floats(buf: NDArray[np.uint8], at: int, count: int, stride: int) -> int:
    """What `count` floats of one width from `at` are: numbers, NaNs or both."""
    seen = 0
    for i in range(count):
        seen |= _SEEN_NAN if _is_nan(buf, at + stride * i) else _SEEN_FLOAT
    return seen


@kernel
def _scan_short_strings(buf: NDArray[np.uint8], at: int, left: int) -> tuple[int, int, int, int]:
    """Step over nulls and strings below 256 bytes, up to the first value that is neither.

    HOT, once a string. Computed sizes instead of a branch for each form, which no predictor
    foresees: 4.7 -> 3.4 ns a string of 2 to 57 bytes, some of them nil
    (docs/profiling/2026-11-20-decode-mixed.md).

    Returns:
        (first byte, number of values) of what is left, what was seen, bytes of all strings.
    """
    last = buf.size - 1
    count, nils, blob_bytes = left, np.int64(0), np.int64(0)
    while left > 0 and at < last:
        b, following = np.int64(buf[U(at)]), np.int64(buf[U(at + 1)])
        if not (0xA0 <= b <= _NIL or b == _STR8):
            break
        size = following if b == _STR8 else b & 31  # of nil: 0
        at += size + (2 if b == _STR8 else 1)
        nils += b == _NIL
        blob_bytes += size
        left -= 1
    seen = (_SEEN_NIL if nils > 0 else 0) | (_SEEN_STR if count - left > nils else 0)
    return at, left, seen, blob_bytes


@kernel
def _scan_doubles(buf: NDArray[np.uint8], at: int, left: int) -> tuple[int, int, int]:
    """Step over nulls and doubles, up to the first value that is neither: as above."""
    n, seen = buf.size, 0
    while left > 0 and at + 9 <= n:
        b = np.int64(buf[U(at)])
        if b == _F64:
            seen |= _SEEN_NAN if _is_nan(buf, at) else _SEEN_FLOAT
            at += 9
        elif b == _NIL:
            seen |= _SEEN_NIL
            at += 1
        else:
            break
        left -= 1
    return at, left, seen


@kernel
def _scan_scalars(buf: NDArray[np.uint8], at: int, left: int) -> tuple[int, int, int]:
    """Step over integers, floats, booleans and nulls, up to the first other value: as above.

    HOT, once an integer of mixed width: a table instead of a branch for each width, 4.2 -> 2.2 ns
    (docs/profiling/2026-11-20-decode-mixed.md).
    """
    n = buf.size
    nil = integer = negative = big = boolean = False
    seen = 0
    while left > 0 and at + 1 < n:
        b = buf[U(at)]
        size = np.int64(_SCALAR_SIZES[U(b)])
        if size == 0:
            break
        if b == _F64 or b == _F32:
            if at + size > n:
                break
            seen |= _SEEN_NAN if _is_nan(buf, at) else _SEEN_FLOAT
        top = buf[U(at + 1)] >= 0x80
        nil |= b == _NIL
        boolean |= (b == _FALSE) | (b == _TRUE)
        integer |= (b <= 0x7F) | (b >= 0xE0) | ((b >= _U8) & (b <= _I64))
        negative |= (b >= 0xE0) | ((b >= _I8) & (b <= _I64) & top)
        big |= (b == _U64) & top
        at += size
        left -= 1
    seen |= (_SEEN_NIL if nil else 0) | (_SEEN_INT if integer else 0) | (_SEEN_BIG if big else 0)
    return at, left, seen | (_SEEN_NEGATIVE if negative else 0) | (_SEEN_BOOL if boolean else 0)


@kernel
def _timestamp(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The timestamp extension at `at`: (first byte after it, microseconds since 1970).

    Nanoseconds round towards the past. (-1, 0) when it is something else, cut off, has a second
    of more nanoseconds than there are, or is more than a thousand years from 1970.
    """
    b, left = np.int64(buf[U(at)]), buf.size - at
    if b == _FIXEXT4 and left >= 6 and buf[U(at + 1)] == _MINUS_ONE:
        return at + 6, np.int64(_be(buf, at + 2, 4)) * 1_000_000
    if b == _FIXEXT8 and left >= 10 and buf[U(at + 1)] == _MINUS_ONE:
        word = _load8_be(buf, at + 2)
        end, seconds = at + 10, np.int64(word & U(0x3FFFFFFFF))
        nanoseconds = np.int64(word >> U(34))
    elif b == _EXT8 and left >= 15 and buf[U(at + 1)] == 12 and buf[U(at + 2)] == _MINUS_ONE:
        end, seconds = at + 15, np.int64(_load8_be(buf, at + 7))
        nanoseconds = np.int64(_be(buf, at + 3, 4))
    else:
        return -1, 0
    if nanoseconds > 999_999_999 or not -(2**35) < seconds < 2**35:
        return -1, 0
    return end, seconds * 1_000_000 + nanoseconds // 1000


@kernel
def _scan_timestamps(buf: NDArray[np.uint8], at: int, left: int) -> tuple[int, int, int]:
    """Step over values of the timestamp extension, up to the first other value: as above."""
    seen = 0
    while left > 0 and at < buf.size:
        end, _ = _timestamp(buf, at)
        if end < 0:
            break
        seen = _SEEN_TIMESTAMP
        at = end
        left -= 1
    return at, left, seen


@kernel
def _scan_others(buf: NDArray[np.uint8], at: int, left: int) -> tuple[int, int, int, int]:
    """Step over byte strings, longer strings, and a single byte at the end of the body.

    Returns:
        (first byte, number of values) of what is left, what was seen, bytes of all strings.
    """
    seen, blob_bytes = 0, np.int64(0)
    while left > 0 and at < buf.size:
        b = np.int64(buf[U(at)])
        if _stride(b) == 1 and at == buf.size - 1:
            _, at, more = _scan_run(buf, at, 1)
            seen |= more
        elif _BIN8 <= b <= _BIN32 or _STR8 < b <= _STR32:
            start, end = _blob(buf, at)
            if start < 0:
                break
            seen |= _SEEN_BIN if b <= _BIN32 else _SEEN_STR
            blob_bytes += end - start
            at = end
        else:
            break
        left -= 1
    return at, left, seen, blob_bytes


@kernel
def _scan_values(buf: NDArray[np.uint8], at: int, left: int) -> tuple[int, int, int]:
    """Step over `left` values of any sort.

    Returns:
        (first byte after them, what was seen, bytes of all strings); (-1, 0, 0): FALLBACK.
    """
    all_seen, blob_bytes = 0, np.int64(0)
    while left > 0:
        before = left
        at, left, seen, more_bytes = _scan_short_strings(buf, at, left)
        all_seen |= seen
        blob_bytes += more_bytes
        at, left, seen = _scan_doubles(buf, at, left)
        all_seen |= seen
        at, left, seen = _scan_scalars(buf, at, left)
        all_seen |= seen
        at, left, seen = _scan_timestamps(buf, at, left)
        all_seen |= seen
        at, left, seen, more_bytes = _scan_others(buf, at, left)
        all_seen |= seen
        blob_bytes += more_bytes
        if left == before:
            return -1, 0, 0
    return (at, all_seen, blob_bytes) if at <= buf.size else (np.int64(-1), 0, np.int64(0))


@kernel
def _kind(seen: int) -> int:
    """Kind of a column from what was seen in it, or -1: FALLBACK."""
    present = seen & ~_SEEN_NIL
    if present == 0:
        return KIND_NULL
    if present & ~(_SEEN_INT | _SEEN_NEGATIVE) == 0:
        return KIND_INT64
    if present == _SEEN_INT | _SEEN_BIG:
        return KIND_UINT64
    if present & ~(_SEEN_INT | _SEEN_NEGATIVE | _SEEN_FLOAT | _SEEN_NAN) == 0:
        return KIND_FLOAT64
    if present & ~_SEEN_NAN == _SEEN_STR:
        return KIND_UTF8
    if present == _SEEN_BIN:
        return KIND_BINARY
    if seen == _SEEN_TIMESTAMP:
        return KIND_TIMESTAMP
    return KIND_BOOL if present == _SEEN_BOOL else -1


@kernel
def _place(column: NDArray[np.int64], nulls: bool, blob_bytes: int, at: int) -> int:
    """Give a column its place in the arena, from byte `at` on; the first free byte after it.

    Each buffer begins at a multiple of 8 bytes.
    """
    kind, values = column[C_KIND], column[C_VALUES]
    column[C_VALIDITY] = -1
    if kind == KIND_NULL:
        return at
    if kind == KIND_UTF8 or kind == KIND_BINARY:
        column[C_AT] = at >> 2
        at = _round_up(at + 4 * (values + 1))
        column[C_BYTES], column[C_BYTES_END] = at, at + blob_bytes
        at = _round_up(at + blob_bytes)
    elif kind == KIND_BOOL:
        column[C_AT] = at
        at = _round_up(at + values)
    else:
        column[C_AT] = at >> 3
        at += 8 * values
    if nulls:
        column[C_VALIDITY] = at
        at = _round_up(at + values)
    return at


@kernel
def _round_up(at: int) -> int:
    return (at + 7) & ~7


@kernel
def _scan_column(
    buf: NDArray[np.uint8], at: int, column: NDArray[np.int64], totals: NDArray[np.int64]
) -> int:
    """Describe the column whose name is at `at`: the first byte after it, or -1: FALLBACK."""
    name, name_end = _text(buf, at)
    if not 0 < name_end - name <= _MAX_NAME_BYTES or name < 0:
        return -1
    values, at = _array_size(buf, name_end)
    if values < 1:
        return -1
    column[C_NAME], column[C_NAME_END] = name, name_end
    column[C_VALUES], column[C_DATA], column[C_UNIFORM] = values, at, 0
    run, end, seen = _scan_run(buf, at, values)
    blob_bytes = (end - at - run) if seen == _SEEN_STR else np.int64(0)
    if run == values:
        column[C_UNIFORM] = 1
    else:
        end, more_seen, more_bytes = _scan_values(buf, end, values - run)
        if end < 0:
            return -1
        seen |= more_seen
        blob_bytes += more_bytes
    column[C_KIND] = _kind(seen)
    if column[C_KIND] < 0:
        return -1
    nulls = seen & _SEEN_NIL != 0 or (column[C_KIND] == KIND_UTF8 and seen & _SEEN_NAN != 0)
    totals[T_ARENA] = _place(column, nulls, blob_bytes, totals[T_ARENA])
    totals[T_COLUMNS] += 1
    return end


@kernel
def _scan_columns(
    buf: NDArray[np.uint8], at: int, plan: NDArray[np.int64], row: int
) -> tuple[int, int]:
    """Describe the columns of the map in `row` of the plan: (status, first byte after them)."""
    count, at = _map_size(buf, at)
    if count < 1:
        return FALLBACK, at
    totals = plan[0]
    for i in range(count):
        if totals[T_ROWS] >= plan.shape[0]:
            return MORE_ROOM, at
        column = plan[totals[T_ROWS]]
        totals[T_ROWS] += 1
        at = _scan_column(buf, at, column, totals)
        if at < 0 or (i > 0 and column[C_VALUES] != plan[row, M_VALUES]):
            return FALLBACK, at
        plan[row, M_VALUES] = column[C_VALUES]
    plan[row, M_COLUMNS] = count
    totals[T_VALUES] += plan[row, M_VALUES]
    return OK, at


@kernel
def _scan_tags(buf: NDArray[np.uint8], at: int, totals: NDArray[np.int64]) -> int:
    """First byte after an array of strings at `at`, or -1."""
    count, at = _array_size(buf, at)
    if count < 0:
        return -1
    for _ in range(count):
        start, at = _text(buf, at)
        if start < 0:
            return -1
    totals[T_TAGS] += count
    return at


_MEASUREMENT_KEY = np.frombuffer(b"m", dtype=np.uint8)
_COLUMNS_KEY = np.frombuffer(b"columns", dtype=np.uint8)
_TAGS_KEY = np.frombuffer(b"tags", dtype=np.uint8)
_BATCH_KEY = np.frombuffer(b"\x81\xa5batch", dtype=np.uint8)  # a map of this one key


@kernel
def _scan_map(buf: NDArray[np.uint8], at: int, plan: NDArray[np.int64]) -> tuple[int, int]:
    """Describe one `{"m": …, "columns": …, "tags": …}`: (status, first byte after it)."""
    keys, at = _map_size(buf, at)
    if keys < 2 or keys > 3:
        return FALLBACK, at
    row = plan[0, T_ROWS]
    if row >= plan.shape[0]:
        return MORE_ROOM, at
    plan[0, T_ROWS] += 1
    here = plan[row]
    here[M_KIND] = KIND_MAP
    here[M_NAME] = here[M_COLUMNS] = here[M_TAGS] = here[M_TAGS_END] = -1
    for _ in range(keys):
        start, at = _text(buf, at)
        if start < 0:
            return FALLBACK, at
        if _equals(buf, start, at, _MEASUREMENT_KEY) and here[M_NAME] < 0:
            here[M_NAME], at = _text(buf, at)
            here[M_NAME_END] = at
            if here[M_NAME] < 0 or not 1 <= at - here[M_NAME] <= _MAX_MEASUREMENT_BYTES:
                return FALLBACK, at
        elif _equals(buf, start, at, _COLUMNS_KEY) and here[M_COLUMNS] < 0:
            status, at = _scan_columns(buf, at, plan, row)
            if status != OK:
                return status, at
        elif _equals(buf, start, at, _TAGS_KEY) and here[M_TAGS] < 0:
            here[M_TAGS] = at
            at = _scan_tags(buf, at, plan[0])
            if at < 0:
                return FALLBACK, at
            here[M_TAGS_END] = at
        else:
            return FALLBACK, at
    return (OK if here[M_NAME] >= 0 and here[M_COLUMNS] > 0 else FALLBACK), at


@kernel
def scan(buf: NDArray[np.uint8], plan: NDArray[np.int64]) -> int:
    """Plan a whole body: one map, several, an array of maps, or `{"batch": [maps]}`.

    Args:
        buf: uint8, shape (bytes,), the decompressed body.
        plan: int64, shape (room, PLAN_WIDTH), room >= 1, written.

    Returns:
        OK, FALLBACK, or MORE_ROOM.
    """
    plan[0, :] = 0
    plan[0, T_ROWS] = 1
    at = np.int64(0)
    while at < buf.size:
        maps = np.int64(1)
        b = np.int64(buf[U(at)])
        if b == 0x81 and buf.size - at >= 7 and _equals(buf, at, at + 7, _BATCH_KEY):
            maps, at = _array_size(buf, at + 7)
        elif b & 0xF0 == 0x90 or b == _ARRAY16 or b == _ARRAY32:
            maps, at = _array_size(buf, at)
        if maps < 1:
            return FALLBACK
        for _ in range(maps):
            status, at = _scan_map(buf, at, plan)
            if status != OK:
                return status
    return OK if plan[0, T_ROWS] > 1 else FALLBACK


# --------------------------------------------------------------------------------------- filling


@kernel
def _fill_ints(
    buf: NDArray[np.uint8],
    column: NDArray[np.int64],
    out: NDArray[np.int64],
    valid: NDArray[np.bool_],
) -> None:
    """Integers of any width; those above 2**63 - 1 as int64 of the same bits.

    HOT, once an integer of mixed width: computed shifts instead of a branch for each width,
    5.0 -> 2.2 ns (docs/profiling/2026-11-20-decode-mixed.md).
    """
    at = column[C_DATA]
    if column[C_UNIFORM] != 0:
        _fill_uniform_ints(buf, at, out)
        return
    nulls, row = valid.size > 0, np.int64(0)
    while row < out.size and at + 9 <= buf.size:
        b = np.int64(buf[U(at)])
        start, width, unsigned = _int_form(b, at)
        value = _int_of(_load8_be(buf, start), width, unsigned)
        out[U(row)] = 0 if b == _NIL else value
        if nulls:
            valid[U(row)] = b != _NIL
        at = start + width
        row += 1
    while row < out.size:  # the last ones, where a load of 8 bytes would leave the body
        b = np.int64(buf[U(at)])
        start, width, unsigned = _int_form(b, at)
        value = _int(buf, start, width, unsigned)
        out[U(row)] = 0 if b == _NIL else value
        if nulls:
            valid[U(row)] = b != _NIL
        at = start + width
        row += 1


@kernel
def _fill_uniform_ints(buf: NDArray[np.uint8], at: int, out: NDArray[np.int64]) -> None:
    """Integers that all have the form of the one at `at`."""
    start, width, unsigned = _int_form(np.int64(buf[U(at)]), at)
    stride = start - at + width
    safe = min(out.size, max(0, (buf.size - start - 8) // stride + 1))  # a load of 8 bytes fits
    for row in range(safe):
        out[U(row)] = _int_of(_load8_be(buf, start + stride * row), width, unsigned)
    for row in range(safe, out.size):
        out[U(row)] = _int(buf, start + stride * row, width, unsigned)


@kernel
def _fill_timestamps(
    buf: NDArray[np.uint8], column: NDArray[np.int64], out: NDArray[np.int64]
) -> None:
    at = column[C_DATA]
    for i in range(out.size):
        at, out[U(i)] = _timestamp(buf, at)


@kernel
def _low_high(values: NDArray[np.int64]) -> tuple[int, int]:
    """Smallest and largest of at least one value."""
    low = high = values[0]
    for i in range(values.size):
        low = min(low, values[U(i)])
        high = max(high, values[U(i)])
    return low, high


@kernel
def _fill_floats(
    buf: NDArray[np.uint8],
    column: NDArray[np.int64],
    out: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> int:
    """Floats, and integers among them that are exact; FALLBACK when one is not."""
    at = column[C_DATA]
    bits = out.view(np.int64)
    if column[C_UNIFORM] != 0 and buf[U(at)] == _F64:
        for i in range(out.size):
            bits[U(i)] = np.int64(_load8_be(buf, at + 9 * i + 1))
        return OK
    word = np.empty(1, dtype=np.uint32)
    as_float32 = word.view(np.float32)
    for i in range(out.size):
        b = np.int64(buf[U(at)])
        at += 1
        if b == _F64:
            bits[U(i)] = np.int64(_load8_be(buf, at))
            at += 8
        elif b == _NIL:
            out[U(i)] = 0.0
            valid[U(i)] = False
        elif b == _F32:
            word[0] = np.uint32(_be(buf, at, 4))
            out[U(i)] = as_float32[0]
            at += 4
        elif b <= 0x7F:
            out[U(i)] = b
        elif b >= 0xE0:
            out[U(i)] = b - 256
        else:
            width = 1 << ((b - _U8) & 3)
            value = _int(buf, at, width, b <= _U64)
            if not -(2**53) <= value <= 2**53:
                return FALLBACK
            out[U(i)] = value
            at += width
    return OK


@kernel
def _fill_bools(
    buf: NDArray[np.uint8],
    column: NDArray[np.int64],
    out: NDArray[np.bool_],
    valid: NDArray[np.bool_],
) -> None:
    at = column[C_DATA]
    for i in range(out.size):
        out[U(i)] = buf[U(at + i)] == _TRUE
    for i in range(valid.size):
        valid[U(i)] = buf[U(at + i)] != _NIL


@kernel
def _fill_uniform_strings(
    buf: NDArray[np.uint8], at: int, offsets: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """Strings that all have the type byte at `at`, and so one length, below 32.

    HOT. Whole words, which run over into what the next string overwrites; the last strings,
    where that would leave the array, go byte by byte: 1.5 -> 0.4 ns a string of 9 bytes
    (docs/profiling/2026-11-20-decode-runs.md). As long as there is room for the words in `out`
    there are as many bytes left to read, since those of the next strings are among them.
    """
    size, rows = np.int64(buf[U(at)]) & 31, offsets.size - 1
    for row in range(rows + 1):
        offsets[U(row)] = row * size
    words = 8 if size <= 8 else 16 if size <= 16 else 32
    safe = 0 if size == 0 else max(0, min((out.size - words) // size + 1, rows))
    at += 1
    if words == 8:
        for row in range(safe):
            _store8(out, row * size, _load8(buf, at + row * (size + 1)))
    elif words == 16:
        for row in range(safe):
            _copy16(buf, at + row * (size + 1), out, row * size)
    else:
        for row in range(safe):
            _copy16(buf, at + row * (size + 1), out, row * size)
            _copy16(buf, at + row * (size + 1) + 16, out, row * size + 16)
    for row in range(safe, rows):
        for j in range(size):
            out[U(row * size + j)] = buf[U(at + row * (size + 1) + j)]


@kernel
def _fill_short_strings(
    buf: NDArray[np.uint8],
    at: int,
    row: int,
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> tuple[int, int]:
    """Nulls and strings below 256 bytes, up to the first value that is neither.

    HOT, once a string. 32 bytes and more at a time, which run over into what the next string
    overwrites, and computed sizes, so that hardly a branch depends on a length: 4.6 -> 2.2 ns a
    string of 2 to 28 bytes, 18 -> 8 of 2 to 57 (docs/profiling/2026-11-20-decode-mixed.md).

    Returns:
        (first byte, row) of what is left.
    """
    rows, to = offsets.size - 1, np.int64(offsets[U(row)])
    nulls = valid.size > 0
    last, safe = buf.size - 1, out.size - 32  # safe to write, so safe to read: as above
    while row < rows and at < last:
        b, following = np.int64(buf[U(at)]), np.int64(buf[U(at + 1)])
        if not (0xA0 <= b <= _NIL or b == _STR8):
            break
        size = following if b == _STR8 else b & 31  # of nil: 0
        start = at + (2 if b == _STR8 else 1)
        if nulls:
            valid[U(row)] = b != _NIL
        if to + size <= safe:
            _copy16(buf, start, out, to)
            _copy16(buf, start + 16, out, to + 16)
            if size > 32:
                for j in range(32, size, 16):
                    _copy16(buf, start + j, out, to + j)
        else:
            for j in range(size):
                out[U(to + j)] = buf[U(start + j)]
        at = start + size
        to += size
        row += 1
        offsets[U(row)] = to
    return at, row


@kernel
def _fill_blobs(
    buf: NDArray[np.uint8],
    column: NDArray[np.int64],
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> None:
    """Strings or byte strings, one after another; NaNs among them are null."""
    at, row = column[C_DATA], np.int64(0)
    offsets[0] = 0
    while row < offsets.size - 1:
        at, row = _fill_short_strings(buf, at, row, offsets, out, valid)
        at, row = _fill_other_blobs(buf, at, row, offsets, out, valid)


@kernel
def _fill_other_blobs(
    buf: NDArray[np.uint8],
    at: int,
    row: int,
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> tuple[int, int]:
    """Byte strings, longer strings and NaNs, up to the first value that is none of them.

    Returns:
        (first byte, row) of what is left.
    """
    rows, to = offsets.size - 1, np.int64(offsets[U(row)])
    while row < rows:
        b = np.int64(buf[U(at)])
        if (0xA0 <= b <= _NIL or b == _STR8) and at < buf.size - 1:
            break
        size = np.int64(_SCALAR_SIZES[U(b)])  # of a null or a NaN
        if size > 0:
            valid[U(row)] = False
            at += size
        else:
            start, end = _blob(buf, at)
            for j in range(end - start):
                out[U(to + j)] = buf[U(start + j)]
            to += end - start
            at = end
        row += 1
        offsets[U(row)] = to
    return at, row


@kernel
def _are_utf8(offsets: NDArray[np.int32], blob: NDArray[np.uint8]) -> bool:
    """Whether each string of a column is UTF-8: all is, and none begins inside a character."""
    if _is_ascii(blob, 0, blob.size):
        return True
    inside = np.False_
    for row in range(offsets.size):
        at = min(np.int64(offsets[U(row)]), blob.size - 1)
        inside |= (blob[U(at)] & 0xC0) == 0x80 and offsets[U(row)] < blob.size
    return not inside and _is_utf8(blob, 0, blob.size)


@kernel
def _fill_column(
    buf: NDArray[np.uint8], column: NDArray[np.int64], arena: NDArray[np.int64]
) -> int:
    kind, at, values = column[C_KIND], column[C_AT], column[C_VALUES]
    bools = arena.view(np.bool_)
    valid = bools[:0]
    if column[C_VALIDITY] >= 0:
        valid = bools[column[C_VALIDITY] : column[C_VALIDITY] + values]
        valid[:] = True
    if kind == KIND_INT64 or kind == KIND_UINT64 or kind == KIND_TIMESTAMP:
        ints = arena[at : at + values]
        if kind == KIND_TIMESTAMP:
            _fill_timestamps(buf, column, ints)
        else:
            _fill_ints(buf, column, ints, valid)
        column[C_LOW], column[C_HIGH] = _low_high(ints)
    elif kind == KIND_FLOAT64:
        return _fill_floats(buf, column, arena.view(np.float64)[at : at + values], valid)
    elif kind == KIND_BOOL:
        _fill_bools(buf, column, bools[at : at + values], valid)
    else:
        offsets = arena.view(np.int32)[at : at + values + 1]
        out = arena.view(np.uint8)[column[C_BYTES] : column[C_BYTES_END]]
        if column[C_UNIFORM] != 0:
            _fill_uniform_strings(buf, column[C_DATA], offsets, out)
        else:
            _fill_blobs(buf, column, offsets, out, valid)
        if kind == KIND_UTF8 and not _are_utf8(offsets, out):
            return FALLBACK
    return OK


@kernel
def fill(buf: NDArray[np.uint8], plan: NDArray[np.int64], arena: NDArray[np.int64]) -> int:
    """Write the values of every planned column into the arena.

    Args:
        buf: The body that `scan` planned.
        plan: int64, shape (T_ROWS or more, PLAN_WIDTH), from `scan`; C_LOW and C_HIGH are written.
        arena: int64, shape (T_ARENA / 8,), written. A column's part of it is int64, uint64 (bit
            by bit), float64, bool, or int32 offsets and bytes, and bool validity.

    Returns:
        OK or FALLBACK.
    """
    for row in range(1, plan[0, T_ROWS]):
        column = plan[row]
        if column[C_KIND] != KIND_MAP and column[C_KIND] != KIND_NULL:
            status = _fill_column(buf, column, arena)
            if status != OK:
                return status
    return OK


# -------------------------------------------------------------------------------------- counting


@kernel
def walk(buf: NDArray[np.uint8], at: int, max_objects: int) -> tuple[int, int, int]:
    """Step over objects, whatever they are, without building them.

    Args:
        buf: uint8, shape (bytes,).
        at: First byte of the first one.
        max_objects: Stop after this many.

    Returns:
        (first byte after them, how many they are, how many with all that is inside them). Where
        the body ends too early, or has the type byte 0xc1, which the format does not use: the
        first byte of the item that could not be stepped over, and -1 for how many they are.
    """
    n = buf.size
    objects = elements = np.int64(0)
    while at < n and objects < max_objects:
        left = np.int64(1)
        while left > 0:
            b = np.int64(buf[U(at)]) if at < n else np.int64(0xC1)
            size, inside = np.int64(_ITEM_SIZES[U(b)]), np.int64(_ITEMS_INSIDE[U(b)])
            if size == 0:
                size, inside = _sized_item(buf, at)
            if size <= 0 or size > n - at:
                return at, -1, elements
            at += size
            left += inside - 1
            elements += 1
        objects += 1
    return at, objects, elements


def _item_sizes() -> list[int]:
    """Bytes of a scalar, or of the header of a map or array, by type byte; 0: not known by it."""
    sizes = [
        size or (1 if 0x80 <= code <= 0x9F else 0) for code, size in enumerate(_scalar_sizes())
    ]
    for code in range(0xA0, 0xC0):
        sizes[code] = 1 + (code & 31)
    for code in range(_FIXEXT1, _FIXEXT1 + 5):
        sizes[code] = 2 + (1 << code - _FIXEXT1)
    return sizes


_ITEM_SIZES = np.array(_item_sizes(), dtype=np.uint8)
_ITEMS_INSIDE = np.array(
    [*([0] * 0x80), *range(0, 32, 2), *range(16), *([0] * 0x60)], dtype=np.uint8
)


@kernel
def _sized_item(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """An item whose size or count is in bytes of its own: (its bytes, items in it).

    The bytes of a map or array are those of its header. 0 bytes: it is cut off, or 0xc1.
    """
    b = np.int64(buf[U(at)]) if at < buf.size else np.int64(0xC1)
    if b == _MAP16 or b == _MAP32:
        pairs, end = _map_size(buf, at)
        return end - at, 2 * pairs
    if b == _ARRAY16 or b == _ARRAY32:
        items, end = _array_size(buf, at)
        return end - at, items
    if _EXT8 <= b <= _EXT32:
        width = 1 << (b - _EXT8)
        if at + 1 + width > buf.size:
            return 0, 0
        return 2 + width + np.int64(_be(buf, at + 1, width)), 0
    start, end = _blob(buf, at)
    return (end - at if start >= 0 else 0), 0


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    # {"m": "m", "columns": {"time": [1]}}
    body = np.frombuffer(b"\x82\xa1m\xa1m\xa7columns\x81\xa4time\x91\x01", dtype=np.uint8)
    plan = np.empty((3, PLAN_WIDTH), dtype=np.int64)
    scan(body, plan)
    fill(body, plan, np.empty(1, dtype=np.int64))
    walk(body, 0, 1)
