"""Arrow IPC streams, read where they lie: no copy of what a column batch can hold as it is.

In: the bytes of a stream. Out: first a plan, which says where every column of every record batch
lies and what it holds; then, in an arena, what has to be laid out anew, once everything that
readers rely on has been looked at: offsets, UTF-8, validity, smallest and largest integers.
Anything unusual is answered `FALLBACK` and left to `ingest.arrow_slow`, errors included: these
kernels never explain, they only accept what they fully understand.

Every read is preceded by a comparison with the end of the message or of the body, because the
bytes are a stranger's. The tests run the same code under Python and NumPy, which check every
index again.

All in one file, because Numba's cache does not notice a change in another file.

Formats: https://arrow.apache.org/docs/format/Columnar.html (serialisation and IPC),
https://github.com/apache/arrow/blob/main/format/Message.fbs and Schema.fbs,
https://flatbuffers.dev/internals/ (tables, vectors, strings).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import kernel

# Answers of `read` and `fill`.
OK = 0
FALLBACK = 1  # valid or not, the slow twin knows
MORE_ROOM = 2  # the plan has more rows than it was given
NEEDS_ARENA = 3  # some values have to be laid out anew, by `fill`

# Metadata keys: of a schema, its tag columns; of a field, its extension type.
TAGS_KEY = np.frombuffer(b"arc:tags", dtype=np.uint8)
EXTENSION_KEY = np.frombuffer(b"ARROW:extension:name", dtype=np.uint8)

# A plan is an int64 array. Row 0 holds the totals; then one row for each field of the schema;
# then, for each record batch that has rows, one row for it and one for each of its columns.
PLAN_WIDTH = 12

# Row 0.
(
    T_ROWS,  # rows of the plan that are used, this one included
    T_FIELDS,
    T_BATCHES,  # record batches with rows
    T_VALUES,  # rows of all record batches
    T_BYTES,  # what the columns of all of them hold, wherever it lies
    T_ARENA,  # bytes of the arena, a multiple of 8
    T_TAGS,  # the value of the metadata key arc:tags is body[T_TAGS:T_TAGS_END]; -1: no such key
    T_TAGS_END,
) = range(8)

# A field: its name is body[F_NAME:F_NAME_END].
F_KIND, F_NAME, F_NAME_END = range(3)

# A record batch.
(B_VALUES,) = range(1)

# A column. Places in the body and in the arena count items of the column's type, not bytes.
(
    C_KIND,
    C_NULLS,
    C_AT,  # first value in body or arena; utf8, binary: first int32 offset
    C_IN_ARENA,  # 1: C_AT counts in the arena, 0: in the body
    C_VALIDITY,  # first validity (bool) in the arena, or -1: no value is null
    C_BYTES,  # utf8, binary: first byte of the values in the body …
    C_BYTES_END,  # … and where they end
    C_LOW,  # int64, timestamps, written by `fill`: the smallest value, null counts as 0 …
    C_HIGH,  # … and the largest one
    C_DATA,  # byte of the body at which values or offsets lie
    C_BITMAP,  # byte of the body at which the validity bits lie
    C_LARGE,  # 1: offsets are int64
) = range(12)

(
    KIND_NULL,
    KIND_INT64,
    KIND_UINT64,
    KIND_FLOAT64,
    KIND_UTF8,
    KIND_BINARY,
    KIND_BOOL,
    KIND_S,  # timestamps in each unit, int64
    KIND_MS,
    KIND_US,
    KIND_NS,
    KIND_LARGE_UTF8,  # of a field only: its columns are KIND_UTF8 with C_LARGE
    KIND_LARGE_BINARY,
) = range(13)

_HEADER_SCHEMA, _HEADER_RECORD_BATCH = 1, 3
_V4, _V5 = 3, 4
_INT, _FLOAT, _BINARY, _UTF8, _BOOL, _TIMESTAMP = 2, 3, 4, 5, 6, 10
_NULL, _LARGE_BINARY, _LARGE_UTF8 = 1, 19, 20
_DOUBLE = 2

_MAX_NAME_BYTES = 255  # of a column; longer ones are refused, in the slow twin
_MAX_INT32 = 2**31 - 1

#: Bytes of the time of a row, which a stream need not bring.
TIME_BYTES = 8

#: A stream has no message of more bytes than this in its head: nothing overflows below.
_MAX_METADATA_BYTES = 1 << 30

U = np.uint64

# ------------------------------------------------------------------------------------ the bytes


@kernel
def _u16(buf: NDArray[np.uint8], at: int) -> int:
    p = U(at)
    return np.int64(buf[p]) | (np.int64(buf[p + U(1)]) << 8)


@kernel
def _u32(buf: NDArray[np.uint8], at: int) -> int:
    p = U(at)
    return (
        np.int64(buf[p])
        | (np.int64(buf[p + U(1)]) << 8)
        | (np.int64(buf[p + U(2)]) << 16)
        | (np.int64(buf[p + U(3)]) << 24)
    )


@kernel
def _i32(buf: NDArray[np.uint8], at: int) -> int:
    value = _u32(buf, at)
    return value - (np.int64(1) << 32) if value > _MAX_INT32 else value


@kernel
def _i64(buf: NDArray[np.uint8], at: int) -> int:
    return _u32(buf, at) | (_i32(buf, at + 4) << 32)


# ------------------------------------------------------------------------------- flatbuffers
#
# Positions in a message lie in [base, end). `base` is a multiple of 8, so that alignment in the
# flatbuffer is alignment in the body. -1: not as it must be.


@kernel
def _vtable(buf: NDArray[np.uint8], table: int, base: int, end: int) -> int:
    """Where the vtable of a table lies, once both are known to be inside."""
    if table < base or table % 4 != 0 or table + 4 > end:
        return -1
    vtable = table - _i32(buf, table)
    if vtable < base or vtable % 2 != 0 or vtable + 4 > end:
        return -1
    size = _u16(buf, vtable)
    if size < 4 or size % 2 != 0 or vtable + size > end:
        return -1
    return vtable


@kernel
def _field(buf: NDArray[np.uint8], table: int, vtable: int, slot: int, size: int, end: int) -> int:
    """Where the value of a slot lies: 0 when it is absent, -1 when it does not fit."""
    if 4 + 2 * slot + 2 > _u16(buf, vtable):
        return 0
    offset = _u16(buf, vtable + 4 + 2 * slot)
    if offset == 0:
        return 0
    at = table + offset
    if at % size != 0 or at + size > end:
        return -1
    return at


@kernel
def _follow(buf: NDArray[np.uint8], table: int, vtable: int, slot: int, end: int) -> int:
    """What the offset in a slot points to: 0 when it is absent, -1 when it points outside."""
    at = _field(buf, table, vtable, slot, 4, end)
    if at <= 0:
        return at
    offset = _i32(buf, at)
    if offset <= 0 or at + offset >= end:
        return -1
    return at + offset


@kernel
def _vector_size(buf: NDArray[np.uint8], vector: int, item_bytes: int, end: int) -> int:
    """How many items a vector has, once they are known to be inside."""
    if vector % 4 != 0 or vector + 4 > end:
        return -1
    size = _u32(buf, vector)
    if size * item_bytes > end - vector - 4:
        return -1
    return size


@kernel
def _string_size(buf: NDArray[np.uint8], string: int, end: int) -> int:
    """Bytes of a string, which a zero must follow."""
    size = _vector_size(buf, string, 1, end)
    if size < 0 or string + 4 + size >= end or buf[U(string + 4 + size)] != 0:
        return -1
    return size


@kernel
def _item(buf: NDArray[np.uint8], vector: int, index: int, base: int, end: int) -> int:
    """The table that an item of a vector of offsets points to."""
    at = vector + 4 + 4 * index
    offset = _i32(buf, at)
    if offset <= 0 or at + offset >= end:
        return -1
    return at + offset


# ----------------------------------------------------------------------------------- metadata


@kernel
def _is_text(buf: NDArray[np.uint8], at: int, size: int, text: NDArray[np.uint8]) -> bool:
    """Whether body[at:at + size] begins with a text and, if that is all of it, equals it."""
    if size != text.size:
        return False
    for i in range(text.size):
        if buf[U(at + i)] != text[i]:
            return False
    return True


@kernel
def _metadata(
    buf: NDArray[np.uint8],
    vector: int,
    base: int,
    end: int,
    text: NDArray[np.uint8],
    found: NDArray[np.int64],
) -> bool:
    """Look at every key and value; where the value of `text` lies goes to `found`."""
    size = _vector_size(buf, vector, 4, end)
    for i in range(size):
        table = _item(buf, vector, i, base, end)
        vtable = _vtable(buf, table, base, end)
        if vtable < 0:
            return False
        key = _follow(buf, table, vtable, 0, end)
        value = _follow(buf, table, vtable, 1, end)
        if key <= 0 or value <= 0:
            return False
        key_bytes, value_bytes = _string_size(buf, key, end), _string_size(buf, value, end)
        if key_bytes < 0 or value_bytes < 0:
            return False
        if _is_text(buf, key + 4, key_bytes, text):
            if found[0] >= 0:
                return False
            found[0], found[1] = value + 4, value + 4 + value_bytes
    return size >= 0


# ------------------------------------------------------------------------------------- schema


@kernel
def _kind(buf: NDArray[np.uint8], field: int, vtable: int, base: int, end: int) -> int:
    """KIND_* of a field; -1: none that is read here."""
    tag, table = _field(buf, field, vtable, 2, 1, end), _follow(buf, field, vtable, 3, end)
    if tag <= 0 or table <= 0:
        return -1
    inner = _vtable(buf, table, base, end)
    if inner < 0:
        return -1
    what = buf[U(tag)]
    if what == _UTF8:
        return KIND_UTF8
    if what == _BINARY:
        return KIND_BINARY
    if what == _LARGE_UTF8:
        return KIND_LARGE_UTF8
    if what == _LARGE_BINARY:
        return KIND_LARGE_BINARY
    if what == _BOOL:
        return KIND_BOOL
    if what == _NULL:
        return KIND_NULL
    if what == _FLOAT:
        at = _field(buf, table, inner, 0, 2, end)
        return KIND_FLOAT64 if at > 0 and _u16(buf, at) == _DOUBLE else -1
    if what == _INT:
        bits, signed = (
            _field(buf, table, inner, 0, 4, end),
            _field(buf, table, inner, 1, 1, end),
        )
        if bits <= 0 or signed < 0 or _i32(buf, bits) != 64:
            return -1
        return KIND_INT64 if signed > 0 and buf[U(signed)] != 0 else KIND_UINT64
    if what == _TIMESTAMP:
        unit, zone = _field(buf, table, inner, 0, 2, end), _follow(buf, table, inner, 1, end)
        if unit < 0 or zone < 0 or (zone > 0 and _string_size(buf, zone, end) < 0):
            return -1
        which = _u16(buf, unit) if unit > 0 else 0
        return KIND_S + which if which <= 3 else -1
    return -1


@kernel
def _plan_field(
    buf: NDArray[np.uint8],
    field: int,
    base: int,
    end: int,
    row: NDArray[np.int64],
) -> bool:
    vtable = _vtable(buf, field, base, end)
    if vtable < 0:
        return False
    name = _follow(buf, field, vtable, 0, end)
    nullable = _field(buf, field, vtable, 1, 1, end)
    if name <= 0 or nullable < 0 or _field(buf, field, vtable, 4, 4, end) != 0:  # a dictionary
        return False
    size = _string_size(buf, name, end)
    if size < 1 or size > _MAX_NAME_BYTES or not _is_utf8(buf, name + 4, name + 4 + size):
        return False
    children = _follow(buf, field, vtable, 5, end)
    if children < 0 or (children > 0 and _vector_size(buf, children, 4, end) != 0):
        return False
    metadata = _follow(buf, field, vtable, 6, end)
    found = np.full(2, -1)
    if metadata < 0 or (
        metadata > 0 and not _metadata(buf, metadata, base, end, EXTENSION_KEY, found)
    ):
        return False
    kind = _kind(buf, field, vtable, base, end)
    row[F_KIND], row[F_NAME], row[F_NAME_END] = kind, name + 4, name + 4 + size
    return kind >= 0 and found[0] < 0


@kernel
def _plan_schema(
    buf: NDArray[np.uint8],
    schema: int,
    base: int,
    end: int,
    plan: NDArray[np.int64],
) -> int:
    """Read the schema into the rows of its fields."""
    vtable = _vtable(buf, schema, base, end)
    if vtable < 0:
        return FALLBACK
    endianness = _field(buf, schema, vtable, 0, 2, end)
    if endianness < 0 or (endianness > 0 and _u16(buf, endianness) != 0):
        return FALLBACK
    features = _field(buf, schema, vtable, 3, 4, end)
    fields, metadata = (
        _follow(buf, schema, vtable, 1, end),
        _follow(buf, schema, vtable, 2, end),
    )
    if features != 0 or fields <= 0 or metadata < 0:
        return FALLBACK
    size = _vector_size(buf, fields, 4, end)
    if size < 1:
        return FALLBACK
    if size + 1 > plan.shape[0]:
        return MORE_ROOM
    found = np.full(2, -1)
    if metadata > 0 and not _metadata(buf, metadata, base, end, TAGS_KEY, found):
        return FALLBACK
    plan[0, T_TAGS], plan[0, T_TAGS_END] = found[0], found[1]
    for i in range(size):
        field = _item(buf, fields, i, base, end)
        if field < 0 or not _plan_field(buf, field, base, end, plan[i + 1]):
            return FALLBACK
    plan[0, T_FIELDS] = size
    return OK


# ------------------------------------------------------------------------------- record batches


@kernel
def _buffer(buf: NDArray[np.uint8], at: int, body: int, body_bytes: int, needed_bytes: int) -> int:
    """Where a buffer of at least so many bytes lies; -1: not inside the body of its message."""
    offset, size = _i64(buf, at), _i64(buf, at + 8)
    if offset < 0 or offset % 8 != 0 or size < needed_bytes:
        return -1
    if offset > body_bytes or size > body_bytes - offset:
        return -1
    return body + offset


@kernel
def _plan_blob(
    buf: NDArray[np.uint8],
    bytes_at: int,
    values: int,
    body: int,
    body_bytes: int,
    total: NDArray[np.int64],
    row: NDArray[np.int64],
) -> bool:
    """Where the bytes of a string column lie, by its first and its last offset."""
    width = 8 if row[C_LARGE] else 4
    at = row[C_DATA]
    first = _i64(buf, at) if width == 8 else _i32(buf, at)
    last_at = at + width * values
    last = _i64(buf, last_at) if width == 8 else _i32(buf, last_at)
    if first < 0 or last < first or last - first > _MAX_INT32:
        return False
    blob = _buffer(buf, bytes_at, body, body_bytes, last)
    if blob < 0:
        return False
    row[C_BYTES], row[C_BYTES_END] = blob + first, blob + last
    row[C_IN_ARENA], row[C_AT] = 0, at // 4
    if width == 8 or first != 0:
        row[C_IN_ARENA], row[C_AT] = 1, total[T_ARENA] // 4
        total[T_ARENA] += (4 * (values + 1) + 7) // 8 * 8
    total[T_BYTES] += 4 * (values + 1) + last - first
    return True


@kernel
def _plan_column(
    buf: NDArray[np.uint8],
    kind: int,
    node: int,
    buffers: int,
    values: int,
    body: int,
    body_bytes: int,
    total: NDArray[np.int64],
    row: NDArray[np.int64],
) -> bool:
    """Read one field node and the buffers of its column, at `buffers` and after it."""
    nulls = _i64(buf, node + 8)
    if _i64(buf, node) != values or nulls < 0 or nulls > values:
        return False
    row[C_LARGE] = kind >= KIND_LARGE_UTF8
    row[C_KIND] = kind - KIND_LARGE_UTF8 + KIND_UTF8 if row[C_LARGE] else kind
    row[C_NULLS], row[C_VALIDITY], row[C_BITMAP] = nulls, -1, -1
    row[C_LOW] = row[C_HIGH] = row[C_IN_ARENA] = 0
    bits = (values + 7) // 8
    if nulls > 0:
        row[C_BITMAP] = _buffer(buf, buffers, body, body_bytes, bits)
        row[C_VALIDITY] = total[T_ARENA]
        total[T_ARENA] += (values + 7) // 8 * 8
        total[T_BYTES] += values
    is_blob = row[C_KIND] == KIND_UTF8 or row[C_KIND] == KIND_BINARY
    needed = bits if kind == KIND_BOOL else 8 * values
    if is_blob:
        needed = (8 if row[C_LARGE] else 4) * (values + 1)
    row[C_DATA] = _buffer(buf, buffers + 16, body, body_bytes, needed)
    if row[C_DATA] < 0 or (nulls > 0 and row[C_BITMAP] < 0):
        return False
    if nulls == 0 and _buffer(buf, buffers, body, body_bytes, 0) < 0:
        return False
    if is_blob:
        return _plan_blob(buf, buffers + 32, values, body, body_bytes, total, row)
    if kind == KIND_BOOL:
        row[C_IN_ARENA], row[C_AT] = 1, total[T_ARENA]
        total[T_ARENA] += (values + 7) // 8 * 8
        total[T_BYTES] += values
        return True
    row[C_AT] = row[C_DATA] // 8
    if nulls > 0:
        row[C_IN_ARENA], row[C_AT] = 1, total[T_ARENA] // 8
        total[T_ARENA] += 8 * values
    total[T_BYTES] += 8 * values
    return True


@kernel
def _num_buffers(kind: int) -> int:
    if kind == KIND_NULL:
        return 0
    is_blob = kind == KIND_UTF8 or kind == KIND_BINARY or kind >= KIND_LARGE_UTF8
    return 3 if is_blob else 2


@kernel
def _plan_columns(
    buf: NDArray[np.uint8],
    nodes: int,
    buffers: int,
    values: int,
    body: int,
    body_bytes: int,
    plan: NDArray[np.int64],
) -> bool:
    """Fill the rows of a record batch in the plan, at its end."""
    total, at = plan[0], plan[0, T_ROWS]
    plan[at, B_VALUES] = values
    buffer = buffers + 4
    for i in range(total[T_FIELDS]):
        kind, row = plan[1 + i, F_KIND], plan[at + 1 + i]
        node = nodes + 4 + 16 * i
        if kind == KIND_NULL:
            row[C_KIND], row[C_NULLS] = KIND_NULL, values
            if _i64(buf, node) != values or _i64(buf, node + 8) != values:
                return False
            continue
        if not _plan_column(buf, kind, node, buffer, values, body, body_bytes, total, row):
            return False
        buffer += 16 * _num_buffers(kind)
    total[T_ROWS] += 1 + total[T_FIELDS]
    total[T_BATCHES] += 1
    total[T_VALUES] += values
    return True


@kernel
def _plan_batch(
    buf: NDArray[np.uint8],
    batch: int,
    base: int,
    end: int,
    body_bytes: int,
    plan: NDArray[np.int64],
) -> int:
    """Read one record batch, whose metadata ends where its body begins."""
    total, vtable = plan[0], _vtable(buf, batch, base, end)
    if vtable < 0:
        return FALLBACK
    length = _field(buf, batch, vtable, 0, 8, end)
    nodes, buffers = _follow(buf, batch, vtable, 1, end), _follow(buf, batch, vtable, 2, end)
    compression = _field(buf, batch, vtable, 3, 4, end)
    variadic = _field(buf, batch, vtable, 4, 4, end)
    if length < 0 or nodes <= 0 or buffers <= 0 or compression != 0 or variadic != 0:
        return FALLBACK
    if nodes % 8 != 4 or buffers % 8 != 4:
        return FALLBACK
    values = _i64(buf, length) if length > 0 else 0
    # Each value takes a byte of the body at least, or eight values one of a bool, unless all
    # columns are of the type null: nothing below overflows.
    if values < 0 or values > 8 * buf.size:
        return FALLBACK
    wanted = 0
    for i in range(total[T_FIELDS]):
        wanted += _num_buffers(plan[1 + i, F_KIND])
    if _vector_size(buf, nodes, 16, end) != total[T_FIELDS]:
        return FALLBACK
    if _vector_size(buf, buffers, 16, end) != wanted:
        return FALLBACK
    if values == 0:  # its columns are not looked at here
        return FALLBACK
    if total[T_ROWS] + 1 + total[T_FIELDS] > plan.shape[0]:
        return MORE_ROOM
    if not _plan_columns(buf, nodes, buffers, values, end, body_bytes, plan):
        return FALLBACK
    return OK


# ------------------------------------------------------------------------------------- messages


@kernel
def _plan_message(
    buf: NDArray[np.uint8],
    base: int,
    end: int,
    plan: NDArray[np.int64],
) -> tuple[int, int]:
    """Read one message, whose metadata is body[base:end].

    Returns:
        (status, bytes of its body).
    """
    root = _i32(buf, base)
    if root <= 0 or base + root >= end:
        return FALLBACK, 0
    message = base + root
    vtable = _vtable(buf, message, base, end)
    if vtable < 0:
        return FALLBACK, 0
    version, what = (
        _field(buf, message, vtable, 0, 2, end),
        _field(buf, message, vtable, 1, 1, end),
    )
    header, body = (
        _follow(buf, message, vtable, 2, end),
        _field(buf, message, vtable, 3, 8, end),
    )
    if version <= 0 or what <= 0 or header <= 0 or body < 0:
        return FALLBACK, 0
    if _field(buf, message, vtable, 4, 4, end) != 0:  # metadata of its own
        return FALLBACK, 0
    if _u16(buf, version) != _V5 and _u16(buf, version) != _V4:
        return FALLBACK, 0
    body_bytes = _i64(buf, body) if body > 0 else 0
    if body_bytes < 0 or body_bytes > buf.size - end:
        return FALLBACK, 0
    is_first = plan[0, T_FIELDS] == 0
    if is_first and buf[U(what)] == _HEADER_SCHEMA and body_bytes == 0:
        status = _plan_schema(buf, header, base, end, plan)
        plan[0, T_ROWS] = 1 + plan[0, T_FIELDS]
        return status, 0
    if is_first or buf[U(what)] != _HEADER_RECORD_BATCH:
        return FALLBACK, 0
    return _plan_batch(buf, header, base, end, body_bytes, plan), body_bytes


# --------------------------------------------------------------------------------------- values


@kernel
def _is_ascii(buf: NDArray[np.uint8], at: int, end: int) -> bool:
    seen = np.uint8(0)
    for i in range(U(at), U(end)):
        seen |= buf[i]
    return seen < 0x80


@kernel
def _is_utf8(buf: NDArray[np.uint8], at: int, end: int) -> bool:
    """Whether body[at:end] is well-formed UTF-8 (Unicode 16, table 3-7)."""
    if _is_ascii(buf, at, end):
        return True
    while at < end:
        first = buf[U(at)]
        if first < 0x80:
            at += 1
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if at + more >= end:
            return False
        low, high = 0x80, 0xBF
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
        elif first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
        second = buf[U(at + 1)]
        if second < low or second > high:
            return False
        for i in range(2, more + 1):
            if buf[U(at + i)] & 0xC0 != 0x80:
                return False
        at += more + 1
    return True


@kernel
def _fill_validity(buf: NDArray[np.uint8], bitmap: int, values: int, out: NDArray[np.uint8]) -> int:
    """One byte for each validity bit; the count of nulls."""
    nulls = 0
    for i in range(U(values)):
        bit = (buf[U(bitmap) + (i >> U(3))] >> np.uint8(i & U(7))) & np.uint8(1)
        out[i] = bit
        nulls += 1 - bit
    return nulls


@kernel
def _check_offsets(
    buf: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    start: int,
    num_bytes: int,
    is_text: bool,
) -> bool:
    """Whether offsets never fall, stay inside, and cut no character of text in two."""
    falls = np.int32(0)
    for i in range(1, offsets.size):
        falls |= offsets[i] - offsets[i - 1]  # from 0 to 2**31 - 1: overflow is a fall
    if falls < 0 or offsets[0] != 0 or offsets[offsets.size - 1] != num_bytes:
        return False
    if not is_text or _is_ascii(buf, start, start + num_bytes):
        return True
    if not _is_utf8(buf, start, start + num_bytes):
        return False
    for i in range(offsets.size):
        at = offsets[i]
        if at < num_bytes and buf[U(start + at)] & 0xC0 == 0x80:
            return False
    return True


@kernel
def _rebase(
    buf: NDArray[np.uint8], row: NDArray[np.int64], values: int, out: NDArray[np.int32]
) -> bool:
    """Offsets of a column as int32 from zero."""
    at, wide = row[C_DATA], row[C_LARGE] != 0
    first = _i64(buf, at) if wide else _i32(buf, at)
    most = row[C_BYTES_END] - row[C_BYTES]
    for i in range(values + 1):
        offset = (_i64(buf, at + 8 * i) if wide else _i32(buf, at + 4 * i)) - first
        if offset < 0 or offset > most:
            return False
        out[i] = offset
    return True


@kernel
def _nulls_are_empty(offsets: NDArray[np.int32], present: NDArray[np.uint8]) -> bool:
    for i in range(present.size):
        if present[i] == 0 and offsets[i + 1] != offsets[i]:
            return False
    return True


@kernel
def _fill_blob(
    buf: NDArray[np.uint8],
    body32: NDArray[np.int32],
    arena: NDArray[np.uint8],
    arena32: NDArray[np.int32],
    values: int,
    row: NDArray[np.int64],
) -> bool:
    at = row[C_AT]
    start, num_bytes = row[C_BYTES], row[C_BYTES_END] - row[C_BYTES]
    is_text = row[C_KIND] == KIND_UTF8
    present = arena[row[C_VALIDITY] : row[C_VALIDITY] + values]
    if row[C_IN_ARENA]:
        copied = arena32[at : at + values + 1]
        if not _rebase(buf, row, values, copied):
            return False
        if not _check_offsets(buf, copied, start, num_bytes, is_text):
            return False
        return row[C_NULLS] == 0 or _nulls_are_empty(copied, present)
    offsets = body32[at : at + values + 1]
    if not _check_offsets(buf, offsets, start, num_bytes, is_text):
        return False
    return row[C_NULLS] == 0 or _nulls_are_empty(offsets, present)


@kernel
def _bounds(ints: NDArray[np.int64], row: NDArray[np.int64]) -> None:
    low = high = ints[0]
    for i in range(1, ints.size):
        low, high = min(low, ints[i]), max(high, ints[i])
    row[C_LOW], row[C_HIGH] = low, high


@kernel
def _fill_numbers(
    body64: NDArray[np.int64],
    arena: NDArray[np.uint8],
    arena64: NDArray[np.int64],
    values: int,
    row: NDArray[np.int64],
) -> None:
    """Numbers with nulls: copied, with zero where one is missing. The bounds of integers."""
    at, kind = row[C_AT], row[C_KIND]
    if row[C_NULLS] > 0:
        source, out = row[C_DATA] // 8, arena64[at : at + values]
        present = row[C_VALIDITY]
        for i in range(values):
            out[i] = body64[source + i] * np.int64(arena[present + i])
        if kind != KIND_FLOAT64:
            _bounds(out, row)
    elif kind != KIND_FLOAT64:
        _bounds(body64[at : at + values], row)


@kernel
def _fill_column(
    buf: NDArray[np.uint8],
    body32: NDArray[np.int32],
    body64: NDArray[np.int64],
    arena: NDArray[np.uint8],
    arena32: NDArray[np.int32],
    arena64: NDArray[np.int64],
    values: int,
    row: NDArray[np.int64],
) -> bool:
    kind = row[C_KIND]
    if kind == KIND_NULL:
        return True
    present = arena[row[C_VALIDITY] : row[C_VALIDITY] + values]
    if row[C_NULLS] > 0 and _fill_validity(buf, row[C_BITMAP], values, present) != row[C_NULLS]:
        return False
    if kind == KIND_UTF8 or kind == KIND_BINARY:
        return _fill_blob(buf, body32, arena, arena32, values, row)
    if kind == KIND_BOOL:
        out = arena[row[C_AT] : row[C_AT] + values]
        _fill_validity(buf, row[C_DATA], values, out)
        if row[C_NULLS] > 0:
            for i in range(values):
                out[i] &= present[i]
        return True
    _fill_numbers(body64, arena, arena64, values, row)
    return True


@kernel
def fill(buf: NDArray[np.uint8], plan: NDArray[np.int64], arena64: NDArray[np.int64]) -> int:
    """Check every value that needs it, and lay out what the body does not hold as it is needed.

    Args:
        buf: uint8, the stream that was planned, aligned to 8 bytes; its size is a multiple of 8,
            or it would not be planned.
        plan: int64: what `read` made of it; C_LOW and C_HIGH are written.
        arena64: int64, `plan[0, T_ARENA]` bytes: the answer.

    Returns:
        OK or FALLBACK.
    """
    body32, body64 = buf.view(np.int32), buf.view(np.int64)
    arena, arena32 = arena64.view(np.uint8), arena64.view(np.int32)
    fields, at = plan[0, T_FIELDS], 1 + plan[0, T_FIELDS]
    for _ in range(plan[0, T_BATCHES]):
        values = plan[at, B_VALUES]
        for i in range(at + 1, at + 1 + fields):
            if not _fill_column(buf, body32, body64, arena, arena32, arena64, values, plan[i]):
                return FALLBACK
        at += 1 + fields
    return OK


# --------------------------------------------------------------------------------------- a stream


@kernel
def _plan_stream(buf: NDArray[np.uint8], plan: NDArray[np.int64]) -> int:
    """Plan every message of a stream."""
    plan[0, :] = 0
    at = 0
    while at < buf.size:
        if at + 8 > buf.size or _u32(buf, at) != 0xFFFFFFFF:
            return FALLBACK
        size = _i32(buf, at + 4)
        if size == 0:
            at += 8
            break
        base, end = at + 8, at + 8 + size
        if size < 8 or size % 8 != 0 or size > _MAX_METADATA_BYTES or end > buf.size:
            return FALLBACK
        status, body_bytes = _plan_message(buf, base, end, plan)
        if status != OK:
            return status
        at = end + body_bytes
        if at % 8 != 0:
            return FALLBACK
    if at != buf.size or plan[0, T_BATCHES] == 0:
        return FALLBACK
    return OK


@kernel
def read(
    buf: NDArray[np.uint8],
    plan: NDArray[np.int64],
    max_columns: int,
    max_all_columns: int,
    max_batches: int,
    max_bytes: int,
) -> int:
    """Plan a whole stream, and check its values unless they need an arena.

    Args:
        buf: uint8, the stream.
        plan: int64, shape (any, PLAN_WIDTH), at least one row: the answer.
        max_columns: Of the stream.
        max_all_columns: Of all its record batches.
        max_batches: Record batches with rows.
        max_bytes: Of all columns, wherever they lie, and `TIME_BYTES` a row.

    Returns:
        OK: planned and checked. NEEDS_ARENA: planned, to be checked by `fill`. MORE_ROOM, which
        is decided before anything is written outside. FALLBACK.
    """
    status = _plan_stream(buf, plan)
    if status != OK:
        return status
    total = plan[0]
    columns, batches = total[T_FIELDS], total[T_BATCHES]
    if columns > max_columns or batches > max_batches or columns * batches > max_all_columns:
        return FALLBACK
    # Before any value is looked at: columns may share their bytes.
    if total[T_BYTES] + TIME_BYTES * total[T_VALUES] > max_bytes:
        return FALLBACK
    if total[T_ARENA] > 0:
        return NEEDS_ARENA
    return fill(buf, plan, np.empty(0, dtype=np.int64))


def warm() -> None:
    """Compile every kernel for the array types it is used with: bodies cannot be written to."""
    buf = np.frombuffer(bytes(8), dtype=np.uint8)
    plan = np.zeros((1, PLAN_WIDTH), dtype=np.int64)
    read(buf, plan, 0, 0, 0, 0)
    fill(buf, plan, np.empty(0, dtype=np.int64))
