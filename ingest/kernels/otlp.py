"""OTLP requests in protobuf, read without making a Python object per value.

In: the bytes of an `Export…ServiceRequest`. Out: first how many rows it has, which columns, of
what type, how many values and bytes each; then the values, in one arena. Both come from one walk
over the bytes, `walk`, called twice: to count, and to fill. So nothing is kept per value between
the two, memory is that of the columns, and the two cannot disagree.

What has no column of its own (attributes that are arrays, maps, bytes or nothing, bodies that are
no strings, events, links) is left out and listed, with the records, resources and scopes that have
it, for the caller to see to. Anything else that is unusual is answered `FALLBACK` and left to the
plain decoder, errors included: a field twice, an unknown one. These kernels never explain, they
only accept what they fully understand.

Every read is preceded by a comparison with the end of the message that it belongs to, because the
bytes are a stranger's. The tests run the same code under Python and NumPy, which check every
index again.

The kernels allocate nothing, so they are compiled without Numba's reference counts (`_nrt`),
which at every call of a function with an array cost two locked instructions; with every part
pasted into its caller that made a walk over JSON 4.5 -> 0.55 µs a record
(docs/profiling/2026-11-20-otlp.md). Positions are used as uint64 (`U`), as
`ingest.kernels.msgpack` explains. All in one file, because Numba's cache does not notice a change
in another file.

Formats: https://protobuf.dev/programming-guides/encoding/ and
https://github.com/open-telemetry/opentelemetry-proto/tree/main/opentelemetry/proto
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import F

_njit: Any = numba.njit  # whose types leave `_nrt` and the wrappers out
#: Parts are called by kernels only: without what Python needs they compile a third faster.
_INNER = {"nogil": True, "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _kernel(function: F) -> F:
    """Compile a function that Python calls. It must not allocate."""
    return cast(F, _njit(function, cache=True, nogil=True, _nrt=False))


def _part(function: F) -> F:
    """Compile a part of a kernel, to be called by it. It must not allocate either."""
    return cast(F, _njit(function, **_INNER))


def _pasted(function: F) -> F:
    """Compile a part of a kernel into every place that calls it. Nor must it allocate."""
    return cast(F, _njit(function, forceinline=True, **_INNER))


# Answers of `walk`.
OK = 0
FALLBACK = 1  # valid or not, the plain decoder knows

# What a record can be: the first index of the tables below.
LOGS, TRACES = range(2)

# A row of `columns`. The first rows are the fixed columns of the signal, in the order in which
# the caller has them; then follow attributes, in the order of their appearance.
(
    C_KIND,  # a KIND_*
    C_PREFIX,  # attributes: whose they are, a PREFIX_*
    C_KEY,  # attributes: the key is body[C_KEY:C_KEY_END]
    C_KEY_END,
    C_COUNT,  # counted: values that are present
    C_BYTES,  # counted: bytes of all strings
    C_WIDE,  # int64: 1 when some |v| is above 2**53
    C_LAST,  # the latest record, scope or resource that had it, to find an attribute twice
    C_NEXT,  # the column that the next attribute was of, the last time
    C_AT,  # place in the arena, set by the caller: the first value, or the first int32 offset …
    C_BLOB,  # … of strings the first byte …
    C_BLOB_END,
    C_VALIDITY,  # … the first validity, or -1: no value is missing
    C_TO,  # filling strings: the next byte
    C_DONE,  # filling: rows so far
    C_HASH,  # of the key, so that keys made to meet in one slot are not compared byte by byte
) = range(16)
COLUMN_WIDTH = 16

# Kinds of columns. Attributes have one of the first four.
(
    KIND_INT64,
    KIND_FLOAT64,
    KIND_UTF8,
    KIND_BOOL,
    KIND_HEX,  # bytes, stored as lower-case hexadecimal digits
    KIND_TIME,  # nanoseconds, stored as microseconds; what is left goes into the next column
    KIND_REST,  # that next column
    KIND_TEXT,  # a string of which an empty one is no value
    KIND_NAME,  # the number of an enumeration, stored as its name
) = range(9)

PREFIX_RESOURCE, PREFIX_SCOPE, PREFIX_RECORD = range(3)

# Fields of `state`: what a walk knows about where it is.
(
    S_ROW,  # records so far
    S_COLUMNS,  # rows of `columns` that are used
    S_FIXED,  # how many of them are fixed
    S_FILLING,  # 0: counting, 1: filling
    S_HELD,  # rows of `held` that are used
    S_OWNERS,  # resources, scopes and records so far
    S_RESTS,  # rows of `rests` that are used
    S_SKIPPED,  # attributes that the latest resource or scope has and that were left out
    S_RECORD,  # columns before this one are fixed ones of records, not of resources and scopes
    S_NOW,  # microseconds since 1970: time of a record without one
    S_WIDTH,
) = range(11)

# A row of `held`: a value of a resource or scope, for each of its records.
_H_COLUMN, _H_A, _H_B, H_WIDTH = range(4)

# A row of `rests`: a record with something that was left out, or a scope whose records share
# attributes that were. In the order of the request, a scope before its records.
(
    R_ROW,  # of the record; of a scope, the first one
    R_END,  # of a scope, the row after its last one; of a record -1
    R_A,  # the record is body[R_A:R_B]; of a scope, the resource
    R_B,
    R_SKIPPED,  # attributes of it that were left out
    R_SCOPE_A,  # the scope is body[R_SCOPE_A:R_SCOPE_B]; of a record, 1: its body was left out
    R_SCOPE_B,
    R_SCOPE_SKIPPED,
    R_WIDTH,
) = range(9)

#: Room for rows of `rests`; a request with more is as fast with the plain decoder.
MAX_RESTS = 1 << 14

#: Most attribute columns of a request; more go to the plain decoder.
MAX_ATTRIBUTES = 256
#: Fixed columns are fewer.
MAX_COLUMNS = MAX_ATTRIBUTES + 32
#: Of the hash table of keys, a power of two.
NUM_SLOTS = 1024

_MAX_EXACT_INT = 1 << 53
U = np.uint64
_FNV_OFFSET, _FNV_PRIME = U(0xCBF29CE484222325), U(0x100000001B3)
_SIGN = U(1 << 63)


class Tables(NamedTuple):
    """The arrays of one request.

    Attributes:
        columns: int64, shape (MAX_COLUMNS, COLUMN_WIDTH). Read: kinds of the fixed columns, and
            the places of all when filling. Written: everything else.
        slots: int64, shape (NUM_SLOTS,): -1 before counting. The hash table of keys.
        state: int64, shape (S_WIDTH,): zero before counting but for S_COLUMNS, S_FIXED, S_RECORD
            and S_NOW; before filling S_ROW is zero and S_FILLING one.
        held: int64, shape (MAX_COLUMNS, H_WIDTH): room to work in.
        rests: int64, shape (room, R_WIDTH): written when counting, the first S_RESTS rows.
        found: int64, shape (2, 4): room to work in.
        fixed: int64, shape (MAX_RECORD_COLUMNS, 2): room to work in.
        arena: int64, shape (words,): written when filling.
        raw: The same memory as uint8. Validity is zero before.
        offsets: The same memory as int32. The first offset of each column is zero before.
    """

    columns: NDArray[np.int64]
    slots: NDArray[np.int64]
    state: NDArray[np.int64]
    held: NDArray[np.int64]
    rests: NDArray[np.int64]
    found: NDArray[np.int64]
    fixed: NDArray[np.int64]
    arena: NDArray[np.int64]
    raw: NDArray[np.uint8]
    offsets: NDArray[np.int32]


def tables(fixed_kinds: tuple[int, ...], num_record: int, now_us: int) -> Tables:
    """Arrays to count with; those to fill are empty.

    Args:
        fixed_kinds: A KIND_* of each fixed column.
        num_record: How many of them are of records.
        now_us: Time of a record without one, microseconds since 1970.
    """
    columns = np.zeros((MAX_COLUMNS, COLUMN_WIDTH), dtype=np.int64)
    columns[: len(fixed_kinds), C_KIND] = fixed_kinds
    columns[: len(fixed_kinds), C_NEXT] = -1
    state = np.zeros(S_WIDTH, dtype=np.int64)
    state[S_COLUMNS] = state[S_FIXED] = len(fixed_kinds)
    state[S_RECORD], state[S_NOW] = num_record, now_us
    nothing = np.empty(0, dtype=np.int64)
    return Tables(
        columns,
        np.full(NUM_SLOTS, -1, dtype=np.int64),
        state,
        np.empty((MAX_COLUMNS, H_WIDTH), dtype=np.int64),
        np.empty((MAX_RESTS, R_WIDTH), dtype=np.int64),
        np.empty((2, 4), dtype=np.int64),
        np.empty((MAX_RECORD_COLUMNS, 2), dtype=np.int64),
        nothing,
        nothing.view(np.uint8),
        nothing.view(np.int32),
    )


def to_fill(counted: Tables, words: int) -> Tables:
    """The arrays of a request that was counted, with an arena of so many words."""
    counted.state[S_ROW], counted.state[S_FILLING] = 0, 1
    arena = np.zeros(words, dtype=np.int64)
    return counted._replace(arena=arena, raw=arena.view(np.uint8), offsets=arena.view(np.int32))


# Fixed columns that the kernels know by place, in every signal. Of logs, SECOND_TIME is the
# observed time, of spans the end: where TIME is zero, it is used instead.
TIME, TIME_NS, SECOND_TIME, SECOND_TIME_NS = range(4)
# Of spans, end - start; of logs, nothing.
DURATION = 4
# Those of resources and scopes, counted from `state[S_RECORD]`.
(
    RESOURCE_URL,
    RESOURCE_DROPPED,
    SCOPE_NAME,
    SCOPE_VERSION,
    SCOPE_URL,
    SCOPE_DROPPED,
    NUM_ORIGINS,
) = range(7)

# What a field of a record is.
(
    _NOTHING,
    _ENUM,  # int32, of which only what an enumeration has
    _UINT32,
    _FIXED32,
    _FIXED64,
    _TEXT,
    _BODY,
    _ATTRIBUTES,
    _STATUS,
    _LISTED,  # repeated messages without a column
) = range(10)
_WIRE_TYPES = np.array([-1, 0, 0, 5, 1, 2, 2, 2, 2, 2], dtype=np.int64)

#: Field numbers of a record, by signal: (what it is, fixed column). The columns after the four of
#: times are those of `ingest.otlp.fast`.
_LOG_FIELDS: dict[int, tuple[int, int]] = {
    1: (_FIXED64, TIME),
    11: (_FIXED64, SECOND_TIME),
    2: (_ENUM, 5),
    3: (_TEXT, 6),
    12: (_TEXT, 7),
    5: (_BODY, 8),
    9: (_TEXT, 9),
    10: (_TEXT, 10),
    8: (_FIXED32, 11),
    7: (_UINT32, 12),
    6: (_ATTRIBUTES, 0),
}
_SPAN_FIELDS: dict[int, tuple[int, int]] = {
    7: (_FIXED64, TIME),
    8: (_FIXED64, SECOND_TIME),
    1: (_TEXT, 5),
    2: (_TEXT, 6),
    4: (_TEXT, 7),
    3: (_TEXT, 8),
    5: (_TEXT, 9),
    6: (_ENUM, 10),
    15: (_STATUS, 11),  # its code, and in the next column its message
    16: (_FIXED32, 13),
    10: (_UINT32, 14),
    12: (_UINT32, 15),
    14: (_UINT32, 16),
    9: (_ATTRIBUTES, 0),
    11: (_LISTED, 0),  # events
    13: (_LISTED, 0),  # links
}
_MAX_FIELD = 16
_RECORDS = np.array(
    [
        [fields.get(number, (_NOTHING, 0)) for number in range(_MAX_FIELD + 1)]
        for fields in (_LOG_FIELDS, _SPAN_FIELDS)
    ],
    dtype=np.int64,
)
MAX_RECORD_COLUMNS = 17

#: Names of `KIND_NAME`: those of kinds of spans, then those of codes of a status. A number of
#: which there is no name here is for the plain decoder.
NAMES = ("INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER", "OK", "ERROR")
_NUM_SPAN_KINDS = 5
_NAME_BYTES = np.frombuffer("".join(NAMES).encode(), dtype=np.uint8)
_NAME_ENDS = np.cumsum([len(name) for name in NAMES])
_NAME_STARTS = _NAME_ENDS - [len(name) for name in NAMES]

# --- bytes ---------------------------------------------------------------------------------


@_pasted
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


@_pasted
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


@_part
def _long_varint(buf: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """As `_varint`, for those of more than one byte."""
    value, shift = U(0), U(0)
    for i in range(min(10, end - at)):
        b = U(buf[U(at + i)])
        if i == 9 and b > U(1):
            return U(0), -1
        value |= (b & U(127)) << shift
        if b < U(128):
            return value, at + i + 1
        shift += U(7)
    return U(0), -1


@_pasted
def _varint(buf: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """An unsigned varint of 64 bits: (it, first byte after it); (0, -1): cut off, or too long."""
    if at < end and buf[U(at)] < 128:
        return U(buf[U(at)]), at + 1
    return _long_varint(buf, at, end)


@_pasted
def _span(buf: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Of the length at `at` and so many bytes: (the first, one after the last); (0, -1): cut."""
    size, at = _varint(buf, at, end)
    if at < 0 or size > U(end - at):
        return 0, -1
    return at, at + np.int64(size)


@_part
def _is_utf8(buf: NDArray[np.uint8], at: int, end: int) -> bool:
    """Whether bytes [at, end) are well-formed UTF-8 (RFC 3629: no surrogates, none overlong).

    Each byte is judged by the three before it, as in `ingest.kernels.msgpack`.
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


@_pasted
def _is_misplaced(byte: int, before: int, before2: int, before3: int) -> bool:
    """Whether a byte cannot follow the three before it."""
    continues = (byte & 0xC0) == 0x80
    awaited = (before >= 0xC0) | (before2 >= 0xE0) | (before3 >= 0xF0)
    never = ((byte & 0xFE) == 0xC0) | (byte >= 0xF5)
    overlong = ((before == 0xE0) & (byte < 0xA0)) | ((before == 0xF0) & (byte < 0x90))
    no_character = ((before == 0xED) & (byte > 0x9F)) | ((before == 0xF4) & (byte > 0x8F))
    return (continues != awaited) | never | overlong | no_character


@_kernel
def are_utf8(offsets: NDArray[np.int32], blob: NDArray[np.uint8]) -> bool:
    """Whether each string of a column is UTF-8: all is, and none begins inside a character.

    Args:
        offsets: int32, shape (rows + 1,), not decreasing, the last one `blob.size`.
        blob: uint8, shape (bytes,).
    """
    seen = np.uint8(0)
    for i in range(blob.size):
        seen |= blob[U(i)]
    if seen < 0x80:
        return True
    inside = np.False_
    for row in range(offsets.size):
        at = min(np.int64(offsets[U(row)]), blob.size - 1)
        inside |= (blob[U(at)] & 0xC0) == 0x80 and offsets[U(row)] < blob.size
    return not inside and _is_utf8(blob, 0, blob.size)


# --- columns -------------------------------------------------------------------------------


@_part
def _fill_gap(t: Tables, c: int, row: int) -> None:
    """End the strings of rows that have none, up to `row`."""
    base, to = t.columns[U(c), C_AT], t.columns[U(c), C_TO] - t.columns[U(c), C_BLOB]
    for i in range(t.columns[U(c), C_DONE] + 1, row + 1):
        t.offsets[U(base + i)] = to


@_pasted
def _copy(
    buf: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8], to: int, out_end: int
) -> None:
    """Copy buf[at:end] to out[to:], in words as long as both ends leave room for one more.

    What a word has too much goes where the next string of the column will be.
    """
    size = end - at
    if at + size + 8 <= buf.size and to + size + 8 <= out_end:
        for i in range(0, size, 8):
            _store8(out, to + i, _load8(buf, at + i))
    else:
        for i in range(size):
            out[U(to + i)] = buf[U(at + i)]


@_pasted
def _copy_hex(buf: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8], to: int) -> None:
    for i in range(end - at):
        b = buf[U(at + i)]
        high, low = b >> 4, b & 15
        out[U(to + 2 * i)] = high + (0x30 if high < 10 else 0x57)
        out[U(to + 2 * i + 1)] = low + (0x30 if low < 10 else 0x57)


@_pasted
def _put_string(buf: NDArray[np.uint8], t: Tables, c: int, row: int, at: int, end: int) -> None:
    if t.columns[U(c), C_DONE] != row:
        _fill_gap(t, c, row)
    to, kind = t.columns[U(c), C_TO], t.columns[U(c), C_KIND]
    if kind == KIND_HEX:
        _copy_hex(buf, at, end, t.raw, to)
        to += 2 * (end - at)
    elif kind == KIND_NAME:
        start, stop = _NAME_STARTS[U(at - 1)], _NAME_ENDS[U(at - 1)]
        _copy(_NAME_BYTES, start, stop, t.raw, to, t.columns[U(c), C_BLOB_END])
        to += stop - start
    else:
        _copy(buf, at, end, t.raw, to, t.columns[U(c), C_BLOB_END])
        to += end - at
    t.columns[U(c), C_TO] = to
    t.columns[U(c), C_DONE] = row + 1
    t.offsets[U(t.columns[U(c), C_AT] + row + 1)] = to - t.columns[U(c), C_BLOB]


@_part
def _put(buf: NDArray[np.uint8], t: Tables, c: int, row: int, a: int, b: int) -> None:
    """Write a value of row `row`: strings buf[a:b], numbers the bits of `a`."""
    kind, validity = t.columns[U(c), C_KIND], t.columns[U(c), C_VALIDITY]
    if kind == KIND_INT64 or kind == KIND_FLOAT64 or kind == KIND_TIME or kind == KIND_REST:
        t.arena[U(t.columns[U(c), C_AT] + row)] = a
    elif kind == KIND_BOOL:
        t.raw[U(t.columns[U(c), C_AT] + row)] = np.uint8(a)
    else:
        _put_string(buf, t, c, row, a, b)
    if validity >= 0:
        t.raw[U(validity + row)] = 1


@_pasted
def _count(t: Tables, c: int, a: int, b: int, rows: int) -> None:
    """Count a value of `rows` rows."""
    kind = t.columns[U(c), C_KIND]
    t.columns[U(c), C_COUNT] += rows
    if kind == KIND_UTF8 or kind == KIND_TEXT:
        t.columns[U(c), C_BYTES] += rows * (b - a)
    elif kind == KIND_HEX:
        t.columns[U(c), C_BYTES] += rows * 2 * (b - a)
    elif kind == KIND_NAME:
        t.columns[U(c), C_BYTES] += rows * (_NAME_ENDS[U(a - 1)] - _NAME_STARTS[U(a - 1)])
    elif kind == KIND_INT64 or kind == KIND_TIME:
        if not -_MAX_EXACT_INT <= a <= _MAX_EXACT_INT:
            t.columns[U(c), C_WIDE] = 1


# --- keys ----------------------------------------------------------------------------------


@_pasted
def _same_key(buf: NDArray[np.uint8], t: Tables, c: int, prefix: int, at: int, end: int) -> bool:
    """Whether a column is of the attribute whose key is buf[at:end]."""
    key, size = t.columns[U(c), C_KEY], end - at
    if t.columns[U(c), C_KEY_END] - key != size or t.columns[U(c), C_PREFIX] != prefix:
        return False
    done = np.int64(0)
    while done + 8 <= size:
        if _load8(buf, at + done) != _load8(buf, key + done):
            return False
        done += 8
    while done < size:
        if buf[U(at + done)] != buf[U(key + done)]:
            return False
        done += 1
    return True


@_pasted
def _hash(buf: NDArray[np.uint8], prefix: int, at: int, end: int) -> int:
    """FNV-1a of a key, folded: http://www.isthe.com/chongo/tech/comp/fnv/."""
    value = _FNV_OFFSET ^ U(prefix)
    for i in range(at, end):
        value = (value ^ U(buf[U(i)])) * _FNV_PRIME
    return value ^ (value >> U(32))


@_part
def _find_key(buf: NDArray[np.uint8], t: Tables, prefix: int, at: int, end: int) -> int:
    """The column of a key, a new one if it has none; -1: FALLBACK."""
    hashed = np.int64(_hash(buf, prefix, at, end))
    slot = hashed & (NUM_SLOTS - 1)
    while t.slots[U(slot)] >= 0:
        c = t.slots[U(slot)]
        if t.columns[U(c), C_HASH] == hashed and _same_key(buf, t, c, prefix, at, end):
            return c
        slot = (slot + 1) & (NUM_SLOTS - 1)
    c = t.state[S_COLUMNS]
    if c - t.state[S_FIXED] >= MAX_ATTRIBUTES or c >= t.columns.shape[0]:
        return -1
    if not 0 < end - at <= _MAX_KEY_BYTES or not _is_utf8(buf, at, end):
        return -1
    t.state[S_COLUMNS] = c + 1
    t.slots[U(slot)] = c
    for i in range(COLUMN_WIDTH):
        t.columns[U(c), U(i)] = 0
    t.columns[U(c), C_KIND] = t.columns[U(c), C_LAST] = t.columns[U(c), C_NEXT] = -1
    t.columns[U(c), C_PREFIX], t.columns[U(c), C_HASH] = prefix, hashed
    t.columns[U(c), C_KEY], t.columns[U(c), C_KEY_END] = at, end
    return c


#: Of a key, so that the name of its column with the longest prefix stays below 256.
_MAX_KEY_BYTES = 255 - len("attributes.")


@_pasted
def _column(buf: NDArray[np.uint8], t: Tables, prefix: int, at: int, end: int, before: int) -> int:
    """The column of a key; `before` is that of the attribute before it. -1: FALLBACK.

    HOT, once an attribute. What followed `before` the last time is tried first: exporters write
    the attributes of one place in the code in one order.
    """
    guess = t.columns[U(before), C_NEXT]
    if guess >= 0 and _same_key(buf, t, guess, prefix, at, end):
        return guess
    c = _find_key(buf, t, prefix, at, end)
    if c >= 0:
        t.columns[U(before), C_NEXT] = c
    return c


# --- values --------------------------------------------------------------------------------


@_pasted
def _value(buf: NDArray[np.uint8], at: int, end: int) -> tuple[int, int, int]:
    """The scalar AnyValue in [at, end): (kind, and as `_put` has them, a, b); (-1, 0, 0): none."""
    if at >= end:
        return -1, 0, 0
    tag = buf[U(at)]
    at += 1
    if tag == 0x0A:  # string_value = 1
        start, stop = _span(buf, at, end)
        return (KIND_UTF8, start, stop) if stop == end else (-1, np.int64(0), np.int64(0))
    if tag == 0x21:  # double_value = 4
        if end - at != 8:
            return -1, 0, 0
        return KIND_FLOAT64, np.int64(_load8(buf, at)), 0
    if tag != 0x18 and tag != 0x10:  # int_value = 3, bool_value = 2
        return -1, 0, 0
    value, stop = _varint(buf, at, end)
    if stop != end or (tag == 0x10 and value > U(1)):
        return -1, 0, 0
    return (KIND_INT64 if tag == 0x18 else KIND_BOOL), np.int64(value), 0


@_pasted
def _attribute(
    buf: NDArray[np.uint8], at: int, end: int, t: Tables, prefix: int, before: int, owner: int
) -> tuple[int, int, int]:
    """The KeyValue in [at, end): (column, and as `_put` has them, a, b); (-1, 0, 0): leave it out.

    What is left out may be anything, also what is no KeyValue.
    """
    if at >= end or buf[U(at)] != 0x0A:  # key = 1
        return -1, 0, 0
    key, at = _span(buf, at + 1, end)
    if at < 0 or at >= end or buf[U(at)] != 0x12:  # value = 2
        return -1, 0, 0
    value, stop = _span(buf, at + 1, end)
    if stop != end:
        return -1, 0, 0
    kind, a, b = _value(buf, value, stop)
    if kind < 0:
        return -1, 0, 0
    c = _column(buf, t, prefix, key, at, before)
    if c < 0 or t.columns[U(c), C_LAST] == owner:
        return -1, 0, 0
    t.columns[U(c), C_LAST] = owner
    if t.columns[U(c), C_KIND] != kind:
        if t.columns[U(c), C_KIND] >= 0:
            return -1, 0, 0
        t.columns[U(c), C_KIND] = kind
    return c, a, b


# --- resources and scopes ------------------------------------------------------------------


@_pasted
def _hold(t: Tables, c: int, a: int, b: int) -> bool:
    """Keep a value for the records that follow; False: there is no room."""
    row = t.state[S_HELD]
    if row >= t.held.shape[0]:
        return False
    t.held[U(row), _H_COLUMN], t.held[U(row), _H_A], t.held[U(row), _H_B] = c, a, b
    t.state[S_HELD] = row + 1
    return True


_NO_FIELD, _ATTRIBUTES_FIELD = -2, -1
#: Field numbers of a resource and of a scope: fixed column, counted from `state[S_RECORD]`.
_OWNER_FIELDS = np.array(
    [
        [_NO_FIELD, _ATTRIBUTES_FIELD, RESOURCE_DROPPED, _NO_FIELD, _NO_FIELD],
        [_NO_FIELD, SCOPE_NAME, SCOPE_VERSION, _ATTRIBUTES_FIELD, SCOPE_DROPPED],
    ],
    dtype=np.int64,
)


@_part
def _owner(buf: NDArray[np.uint8], at: int, end: int, t: Tables, prefix: int) -> bool:
    """Hold what a resource or a scope in [at, end) has; False: FALLBACK."""
    t.state[S_OWNERS] += 1
    owner, before, seen = t.state[S_OWNERS], np.int64(prefix), np.int64(0)
    t.state[S_SKIPPED] = 0
    while at < end:
        tag = np.int64(buf[U(at)])
        number = tag >> 3
        if number >= _OWNER_FIELDS.shape[1] or tag >= 128:
            return False
        c, a, b = _OWNER_FIELDS[U(prefix), U(number)], np.int64(0), np.int64(0)
        if c == _NO_FIELD:
            return False
        if c == _ATTRIBUTES_FIELD:
            a, b = _span(buf, at + 1, end)
            if b < 0 or tag & 7 != 2:
                return False
            at = b
            c, a, b = _attribute(buf, a, b, t, prefix, before, owner)
            if c < 0:
                t.state[S_SKIPPED] += 1
                continue
            before = c
        else:
            c += t.state[S_RECORD]
            if seen >> number & 1:
                return False
            seen |= np.int64(1) << number
            at, a, b = _owner_field(buf, at + 1, end, tag & 7, t.columns[U(c), C_KIND])
            if at < 0:
                return False
        if not _hold_given(t, c, a, b):
            return False
    return True


@_pasted
def _hold_given(t: Tables, c: int, a: int, b: int) -> bool:
    """Hold a value unless it is the zero of a fixed column, which is none; False: no room."""
    if c < t.state[S_FIXED]:
        nothing = a == b if t.columns[U(c), C_KIND] == KIND_TEXT else a == 0
        if nothing:
            return True
    return _hold(t, c, a, b)


@_pasted
def _owner_field(
    buf: NDArray[np.uint8], at: int, end: int, wire: int, kind: int
) -> tuple[int, int, int]:
    """A string or a count: (first byte after it, and as `_put` has them, a, b); (-1, 0, 0): no."""
    if kind == KIND_TEXT:
        start, stop = _span(buf, at, end)
        return (stop, start, stop) if wire == 2 else (np.int64(-1), np.int64(0), np.int64(0))
    value, stop = _varint(buf, at, end)
    if wire != 0 or value >= U(1 << 32):
        return -1, 0, 0
    return stop, np.int64(value), 0


@_part
def _release(buf: NDArray[np.uint8], t: Tables, first_row: int) -> None:
    """Give what is held to every record since `first_row`."""
    rows = t.state[S_ROW] - first_row
    for i in range(t.state[S_HELD]):
        c, a, b = t.held[U(i), _H_COLUMN], t.held[U(i), _H_A], t.held[U(i), _H_B]
        if t.state[S_FILLING] == 0:
            _count(t, c, a, b, rows)
        else:
            for row in range(first_row, t.state[S_ROW]):
                _put(buf, t, c, row, a, b)


# --- records -------------------------------------------------------------------------------


@_pasted
def _give(buf: NDArray[np.uint8], t: Tables, c: int, a: int, b: int) -> None:
    """Count or write a value of the record at hand."""
    if t.state[S_FILLING] == 0:
        _count(t, c, a, b, 1)
    else:
        _put(buf, t, c, t.state[S_ROW], a, b)


@_pasted
def _record_field(buf: NDArray[np.uint8], at: int, end: int, what: int) -> tuple[int, int, int]:
    """The field at `at`, behind its tag: (first byte after it, a, b); (-1, 0, 0): FALLBACK."""
    if what == _FIXED64 or what == _FIXED32:
        size = 8 if what == _FIXED64 else 4
        if end - at < size:
            return -1, 0, 0
        value = _load_fixed(buf, at, size)
        return (at + size if value >= 0 else np.int64(-1)), value, 0
    if what == _ENUM or what == _UINT32:
        number, stop = _varint(buf, at, end)
        if number >= U(1 << (31 if what == _ENUM else 32)):
            return -1, 0, 0
        return stop, np.int64(number), 0
    start, stop = _span(buf, at, end)
    return stop, start, stop


@_pasted
def _load_fixed(buf: NDArray[np.uint8], at: int, size: int) -> int:
    """A little-endian number of 4 or 8 bytes; of 8 above 2**63 - 1 it is negative."""
    value = np.int64(0)
    if size == 8:
        return np.int64(_load8(buf, at))
    for i in range(4):
        value |= np.int64(buf[U(at + i)]) << (8 * i)
    return value


@_part
def _status(buf: NDArray[np.uint8], at: int, end: int, t: Tables, c: int) -> bool:
    """Take code and message of a status; False: FALLBACK."""
    seen = 0
    while at < end:
        tag = buf[U(at)]
        if (tag == 0x12 and seen & 1) or (tag == 0x18 and seen & 2):
            return False
        if tag == 0x12:  # message = 2
            start, at = _span(buf, at + 1, end)
            t.fixed[U(c + 1), 0], t.fixed[U(c + 1), 1] = start, at
            seen |= 1
        elif tag == 0x18:  # code = 3
            code, at = _varint(buf, at + 1, end)
            if code > U(2):
                return False
            t.fixed[U(c), 0] = np.int64(code) + (_NUM_SPAN_KINDS if code > U(0) else 0)
            seen |= 2
        else:
            return False
        if at < 0:
            return False
    return True


@_pasted
def _give_time(buf: NDArray[np.uint8], t: Tables, c: int, time_ns: int) -> None:
    """Count or write a time that is not zero, and its rest in the next column."""
    time_us = time_ns // 1000
    rest = time_ns - 1000 * time_us
    _give(buf, t, c, time_us, 0)
    if rest != 0:
        _give(buf, t, c + 1, rest, 0)


@_part
def _give_fixed(buf: NDArray[np.uint8], t: Tables, signal: int) -> bool:
    """Count or write the fixed columns of a record; False: FALLBACK."""
    time_ns, second_ns = t.fixed[TIME, 0], t.fixed[SECOND_TIME, 0]
    if time_ns != 0 or second_ns != 0:
        first_ns = time_ns if time_ns != 0 else second_ns
        _give_time(buf, t, TIME, first_ns)
    else:
        _give(buf, t, TIME, t.state[S_NOW], 0)
    if second_ns != 0:
        _give_time(buf, t, SECOND_TIME, second_ns)
    if signal == TRACES and time_ns != 0 and second_ns != 0:
        _give(buf, t, DURATION, second_ns - time_ns, 0)
    for c in range(DURATION + 1, t.state[S_RECORD]):
        a, b, kind = t.fixed[U(c), 0], t.fixed[U(c), 1], t.columns[U(c), C_KIND]
        if kind == KIND_INT64 or kind == KIND_NAME:
            given = a != 0
            if kind == KIND_NAME and a > _NUM_SPAN_KINDS and c == _SPAN_KIND_COLUMN:
                return False
        elif kind == KIND_UTF8:
            given = a >= 0
        else:
            given = a < b
        if given:
            _give(buf, t, c, a, b)
    return True


_SPAN_KIND_COLUMN = _SPAN_FIELDS[6][1]


@_part
def _list_record(t: Tables, at: int, end: int, skipped: int, body_left: int) -> bool:
    """List a record with something that was left out; False: there is no room."""
    row = t.state[S_RESTS]
    if t.state[S_FILLING] != 0:
        return True
    if row >= t.rests.shape[0]:
        return False
    t.rests[U(row), R_ROW], t.rests[U(row), R_END] = t.state[S_ROW], -1
    t.rests[U(row), R_A], t.rests[U(row), R_B], t.rests[U(row), R_SKIPPED] = at, end, skipped
    t.rests[U(row), R_SCOPE_A] = body_left
    t.state[S_RESTS] = row + 1
    return True


@_part
def _record(buf: NDArray[np.uint8], at: int, end: int, signal: int, t: Tables) -> bool:
    """Count or write the record in [at, end); False: FALLBACK."""
    t.state[S_OWNERS] += 1
    owner, before, seen = t.state[S_OWNERS], np.int64(PREFIX_RECORD), np.int64(0)
    for c in range(t.state[S_RECORD]):
        t.fixed[U(c), 0] = t.fixed[U(c), 1] = -1 if t.columns[U(c), C_KIND] == KIND_UTF8 else 0
    first, skipped, has_rest, body_left = at, np.int64(0), False, np.int64(0)
    while at < end:
        tag, at = _varint(buf, at, end)
        number = np.int64(tag >> U(3))
        if at < 0 or tag >= U(8 * (_MAX_FIELD + 1)):
            return False
        what, c = _RECORDS[U(signal), U(number), 0], _RECORDS[U(signal), U(number), 1]
        if _WIRE_TYPES[U(what)] != np.int64(tag & U(7)):
            return False
        at, a, b = _record_field(buf, at, end, what)
        if at < 0:
            return False
        if what == _ATTRIBUTES:
            c, a, b = _attribute(buf, a, b, t, PREFIX_RECORD, before, owner)
            if c >= 0:
                before = c
                _give(buf, t, c, a, b)
            else:
                skipped += 1
            continue
        if what == _LISTED:
            has_rest = True
            continue
        if seen >> number & 1:
            return False
        seen |= np.int64(1) << number
        if what == _STATUS:
            if not _status(buf, a, b, t, c):
                return False
            continue
        if what == _BODY:
            kind, a, b = _value(buf, a, b)
            if kind != KIND_UTF8:
                has_rest, body_left = True, np.int64(1)
                continue
        t.fixed[U(c), 0], t.fixed[U(c), 1] = a, b
    if not _give_fixed(buf, t, signal):
        return False
    if (has_rest or skipped > 0) and not _list_record(t, first, end, skipped, body_left):
        return False
    t.state[S_ROW] += 1
    return True


# --- requests ------------------------------------------------------------------------------


@_part
def _survey(buf: NDArray[np.uint8], at: int, end: int, t: Tables, level: int) -> bool:
    """Find resource or scope, and schema URL, of what is in [at, end); False: FALLBACK.

    `found[level]` becomes (first byte, end) of the one and of the other, -1 where there is none.
    There is at least one of what is to be found in between, in whatever order they are.
    """
    inside = False
    for i in range(4):
        t.found[U(level), U(i)] = -1
    while at < end:
        tag = buf[U(at)]
        start, at = _span(buf, at + 1, end)
        if at < 0:
            return False
        if tag == 0x12:  # scope_logs = 2, log_records = 2
            inside = True
            continue
        i = 0 if tag == 0x0A else 2  # resource = 1, scope = 1; schema_url = 3
        if (tag != 0x0A and tag != 0x1A) or t.found[U(level), U(i)] >= 0:
            return False
        t.found[U(level), U(i)], t.found[U(level), U(i + 1)] = start, at
    return inside


@_part
def _hold_found(buf: NDArray[np.uint8], level: int, t: Tables) -> bool:
    """Hold what `_survey` found: level 0 is that of resources, 1 that of scopes."""
    t.state[S_SKIPPED] = 0
    start, end = t.found[U(level), 0], t.found[U(level), 1]
    if start >= 0 and not _owner(buf, start, end, t, level):
        return False
    start, end = t.found[U(level), 2], t.found[U(level), 3]
    c = t.state[S_RECORD] + (RESOURCE_URL if level == 0 else SCOPE_URL)
    return start < 0 or _hold_given(t, c, start, end)


@_pasted
def _list_scope(t: Tables, skipped: int) -> bool:
    """List a scope whose records share attributes that were left out; False: there is no room.

    `skipped` counts those of the resource, `state[S_SKIPPED]` those of the scope.
    """
    row = t.state[S_RESTS]
    if t.state[S_FILLING] != 0 or skipped + t.state[S_SKIPPED] == 0:
        return True
    if row >= t.rests.shape[0]:
        return False
    t.rests[U(row), R_ROW], t.rests[U(row), R_END] = t.state[S_ROW], -1
    t.rests[U(row), R_A], t.rests[U(row), R_B] = t.found[0, 0], t.found[0, 1]
    t.rests[U(row), R_SKIPPED] = skipped
    t.rests[U(row), R_SCOPE_A], t.rests[U(row), R_SCOPE_B] = t.found[1, 0], t.found[1, 1]
    t.rests[U(row), R_SCOPE_SKIPPED] = t.state[S_SKIPPED]
    t.state[S_RESTS] = row + 1
    return True


@_part
def _scope_records(buf: NDArray[np.uint8], at: int, end: int, signal: int, t: Tables) -> bool:
    """Count or write all records of a scope; False: FALLBACK."""
    first_row, skipped, rest = t.state[S_ROW], t.state[S_SKIPPED], t.state[S_RESTS]
    if not _survey(buf, at, end, t, 1):
        return False
    if not _hold_found(buf, 1, t):
        return False
    if not _list_scope(t, skipped):
        return False
    is_listed = t.state[S_RESTS] > rest
    while at < end:
        tag = buf[U(at)]
        start, at = _span(buf, at + 1, end)
        if tag == 0x12 and not _record(buf, start, at, signal, t):
            return False
    if is_listed:
        t.rests[U(rest), R_END] = t.state[S_ROW]
    t.state[S_SKIPPED] = skipped
    _release(buf, t, first_row)
    return True


@_kernel
def walk(buf: NDArray[np.uint8], signal: int, t: Tables) -> int:
    """Count what is in a request, or write it.

    Args:
        buf: uint8, shape (bytes,): the body.
        signal: LOGS or TRACES.
        t: From `tables`, to count, or from `to_fill`.

    Returns:
        OK or FALLBACK.
    """
    at = np.int64(0)
    while at < buf.size:
        tag = buf[U(at)]
        start, at = _span(buf, at + 1, buf.size)  # resource_logs = 1
        if tag != 0x0A or at < 0 or not _survey(buf, start, at, t, 0):
            return FALLBACK
        t.state[S_HELD] = t.state[S_SKIPPED] = 0
        if not _hold_found(buf, 0, t):
            return FALLBACK
        num_held = t.state[S_HELD]
        while start < at:
            tag = buf[U(start)]
            inside, start = _span(buf, start + 1, at)
            t.state[S_HELD] = num_held
            if tag == 0x12 and not _scope_records(buf, inside, start, signal, t):
                return FALLBACK
    return OK


@_kernel
def end_strings(t: Tables) -> None:
    """End the strings of rows behind the last one that has a value, in every column."""
    for c in range(t.state[S_COLUMNS]):
        kind = t.columns[U(c), C_KIND]
        is_string = kind == KIND_UTF8 or kind >= KIND_TEXT or kind == KIND_HEX
        if is_string and t.columns[U(c), C_COUNT] > 0:
            _fill_gap(t, c, t.state[S_ROW])


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    counted = tables((KIND_TIME, KIND_REST, KIND_TIME, KIND_REST), 4, 0)
    walk(np.frombuffer(b"\x00", dtype=np.uint8), LOGS, counted)
    end_strings(counted)
    are_utf8(counted.offsets, counted.raw)
