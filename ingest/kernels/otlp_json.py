"""OTLP requests in JSON, written anew as protobuf, without making a Python object per value.

In: the bytes of an `Export…ServiceRequest` in JSON. Out: the same request in the wire format of
protobuf, for the kernels that read that (`ingest.kernels.otlp`). So there is one place where a
request becomes columns, and this one knows no column. Lengths are written as four bytes whatever
they are, which every reader of protobuf takes, because a message is written before its length is
known.

Only what exporters write is taken: the fields of `_MESSAGES`, each in its usual form. Anything
else, errors included, is answered `FALLBACK` and left to the plain decoder: an unknown key, bytes
as a value, a key with an escape, a null, an unpaired surrogate. Strings are not checked for UTF-8
here, because the reader of the protobuf does that.

A number that takes more than 53 bits, or a power of ten beyond 22, cannot be rounded by one
multiplication or division. It is listed, and the caller puts it in.

Every read is preceded by a comparison with the length of the body, and every write by one with
the room that there is. The kernels allocate nothing, and are compiled without Numba's reference
counts; `ingest.kernels.otlp` says why, and `ingest.kernels.msgpack` why positions are used as
uint64 (`U`). All in one file, because Numba's cache does not notice a change in another file.

Formats: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding,
https://www.rfc-editor.org/rfc/rfc8259, https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import Any, cast

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


# Answers of `transcode`, in place of a size.
FALLBACK = -1

#: Fields of a row of `late`: where the number lies in the JSON, and where its 8 bytes belong.
L_START, L_END, L_TO, L_WIDTH = range(4)

#: Fewest bytes of JSON between two numbers that are listed: a list of `body // LATE_BYTES + 1`
#: rows is never too short. The shortest is `"asDouble":1e99,`.
LATE_BYTES = 15

# Kinds of fields.
(
    _MESSAGE,
    _MESSAGES_OF,  # an array of messages
    _STRING,
    _HEX,  # bytes, as hexadecimal digits
    _INT,  # int64, as a number or as a string of digits
    _UINT,  # of 32 bits, or an enumeration: a number
    _FIXED64,  # unsigned, as a number or as a string of digits
    _SFIXED64,
    _FIXED32,
    _BOOL,
    _DOUBLE,
) = range(11)

_ATTRIBUTES = ("attributes", _MESSAGES_OF, "KeyValue")
_DROPPED = ("droppedAttributesCount", _UINT, "")

#: Fields by message, as field number: (name in JSON, kind, message). Those that are not here are
#: rare, or unknown.
#: https://github.com/open-telemetry/opentelemetry-proto/tree/main/opentelemetry/proto
_MESSAGES: dict[str, dict[int, tuple[str, int, str]]] = {
    "LogsRequest": {1: ("resourceLogs", _MESSAGES_OF, "ResourceLogs")},
    "ResourceLogs": {
        1: ("resource", _MESSAGE, "Resource"),
        2: ("scopeLogs", _MESSAGES_OF, "ScopeLogs"),
        3: ("schemaUrl", _STRING, ""),
    },
    "ScopeLogs": {
        1: ("scope", _MESSAGE, "Scope"),
        2: ("logRecords", _MESSAGES_OF, "LogRecord"),
        3: ("schemaUrl", _STRING, ""),
    },
    "LogRecord": {
        1: ("timeUnixNano", _FIXED64, ""),
        11: ("observedTimeUnixNano", _FIXED64, ""),
        2: ("severityNumber", _UINT, ""),
        3: ("severityText", _STRING, ""),
        5: ("body", _MESSAGE, "AnyValue"),
        6: _ATTRIBUTES,
        7: _DROPPED,
        8: ("flags", _FIXED32, ""),
        9: ("traceId", _HEX, ""),
        10: ("spanId", _HEX, ""),
        12: ("eventName", _STRING, ""),
    },
    "TracesRequest": {1: ("resourceSpans", _MESSAGES_OF, "ResourceSpans")},
    "ResourceSpans": {
        1: ("resource", _MESSAGE, "Resource"),
        2: ("scopeSpans", _MESSAGES_OF, "ScopeSpans"),
        3: ("schemaUrl", _STRING, ""),
    },
    "ScopeSpans": {
        1: ("scope", _MESSAGE, "Scope"),
        2: ("spans", _MESSAGES_OF, "Span"),
        3: ("schemaUrl", _STRING, ""),
    },
    "Span": {
        1: ("traceId", _HEX, ""),
        2: ("spanId", _HEX, ""),
        3: ("traceState", _STRING, ""),
        4: ("parentSpanId", _HEX, ""),
        16: ("flags", _FIXED32, ""),
        5: ("name", _STRING, ""),
        6: ("kind", _UINT, ""),
        7: ("startTimeUnixNano", _FIXED64, ""),
        8: ("endTimeUnixNano", _FIXED64, ""),
        9: _ATTRIBUTES,
        10: _DROPPED,
        11: ("events", _MESSAGES_OF, "Event"),
        12: ("droppedEventsCount", _UINT, ""),
        13: ("links", _MESSAGES_OF, "Link"),
        14: ("droppedLinksCount", _UINT, ""),
        15: ("status", _MESSAGE, "Status"),
    },
    "Event": {
        1: ("timeUnixNano", _FIXED64, ""),
        2: ("name", _STRING, ""),
        3: _ATTRIBUTES,
        4: _DROPPED,
    },
    "Link": {
        1: ("traceId", _HEX, ""),
        2: ("spanId", _HEX, ""),
        3: ("traceState", _STRING, ""),
        4: _ATTRIBUTES,
        5: _DROPPED,
        6: ("flags", _FIXED32, ""),
    },
    "Status": {2: ("message", _STRING, ""), 3: ("code", _UINT, "")},
    "Resource": {1: _ATTRIBUTES, 2: _DROPPED},
    "Scope": {
        1: ("name", _STRING, ""),
        2: ("version", _STRING, ""),
        3: _ATTRIBUTES,
        4: _DROPPED,
    },
    "KeyValue": {1: ("key", _STRING, ""), 2: ("value", _MESSAGE, "AnyValue")},
    "AnyValue": {
        1: ("stringValue", _STRING, ""),
        2: ("boolValue", _BOOL, ""),
        3: ("intValue", _INT, ""),
        4: ("doubleValue", _DOUBLE, ""),
        5: ("arrayValue", _MESSAGE, "ArrayValue"),
        6: ("kvlistValue", _MESSAGE, "KeyValueList"),
    },
    "ArrayValue": {1: ("values", _MESSAGES_OF, "AnyValue")},
    "KeyValueList": {1: ("values", _MESSAGES_OF, "KeyValue")},
}
_NUMBERS = {name: number for number, name in enumerate(_MESSAGES)}

#: Numbers of the messages that a request can be.
LOGS, TRACES = _NUMBERS["LogsRequest"], _NUMBERS["TracesRequest"]

# A row of `_FIELDS`.
_F_NAME, _F_NAME_END, _F_TAG, _F_KIND, _F_MESSAGE = range(5)

_WIRE_TYPES = {_FIXED64: 1, _SFIXED64: 1, _DOUBLE: 1, _FIXED32: 5, _INT: 0, _UINT: 0, _BOOL: 0}


def _tables() -> tuple[bytes, list[tuple[int, ...]], list[int]]:
    """Names of all fields, the fields, and the first field of each message."""
    names, fields, firsts = b"", [], [0]
    for message in _MESSAGES.values():
        for number, (name, kind, of) in message.items():
            tag = number << 3 | _WIRE_TYPES.get(kind, 2)
            fields.append((len(names), len(names) + len(name), tag, kind, _NUMBERS.get(of, -1)))
            names += name.encode() + b'"'
        firsts.append(len(fields))
    return names, fields, firsts


_names, _fields, _firsts = _tables()
_NAMES = np.frombuffer(_names + bytes(8), dtype=np.uint8)
_FIELDS = np.array(_fields, dtype=np.int64)
_FIRSTS = np.array(_firsts, dtype=np.int64)

#: Of `nexts`: behind each field, and at the beginning of each message.
NUM_NEXTS = len(_fields) + len(_firsts)

# A row of the stack: a message that is being written.
_S_MESSAGE, _S_BODY, _S_FIELD, _S_IN_ARRAY, _S_SEEN, _S_LAST, S_WIDTH = range(7)

#: Messages within one another: request, resource, scope, record, attribute, value, and what it
#: is made of. Values within values beyond that are for the plain decoder.
MAX_DEPTH = 32

#: Bytes of a length, which a body must not outgrow.
_LENGTH_BYTES = 4
MAX_BODY_BYTES = (1 << 28) - 1

#: Room that `transcode` wants beyond the bytes of the JSON, where it does not know how far it is.
SPARE_BYTES = 64

#: Most bytes that a field takes beside a string: a tag of two bytes and a varint of ten.
_FIELD_BYTES = 12

U = np.uint64
_QUOTE, _BACKSLASH = 0x22, 0x5C
_OPEN, _CLOSE, _OPEN_ARRAY, _CLOSE_ARRAY = 0x7B, 0x7D, 0x5B, 0x5D
_COLON, _COMMA, _MINUS, _PLUS, _DOT = 0x3A, 0x2C, 0x2D, 0x2B, 0x2E
_LOWS, _HIGHS = U(0x0101010101010101), U(0x8080808080808080)
_QUOTES, _BACKSLASHES = U(0x2222222222222222), U(0x5C5C5C5C5C5C5C5C)
_SPACES = U(0x2020202020202020)

#: Of a double: nobody writes more, and reading it takes time and memory.
_MAX_NUMBER_BYTES = 64

#: 10**0 to 10**22, exact as doubles.
_POWERS = np.array([float(10**i) for i in range(23)])
_MAX_POWER = 22

# --- bytes ---------------------------------------------------------------------------------


@_pasted
def _peek(buf: NDArray[np.uint8], at: int) -> int:
    """The byte at `at`, or -1 behind the end."""
    return np.int64(buf[U(at)]) if at < buf.size else np.int64(-1)


@_pasted
def _skip_space(buf: NDArray[np.uint8], at: int) -> int:
    while at < buf.size and buf[U(at)] <= 0x20:
        b = buf[U(at)]
        if b != 0x20 and b != 0x0A and b != 0x0D and b != 0x09:
            break
        at += 1
    return at


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


@_pasted
def _write_varint(out: NDArray[np.uint8], to: int, value: int) -> int:
    """Write an unsigned varint of at most ten bytes; the first byte after it."""
    rest = U(value)
    while rest >= U(128):
        out[U(to)] = np.uint8((rest & U(127)) | U(128))
        rest >>= U(7)
        to += 1
    out[U(to)] = np.uint8(rest)
    return to + 1


@_pasted
def _write_length(out: NDArray[np.uint8], to: int, length: int) -> None:
    """Write a length below 2**28 as a varint of four bytes."""
    out[U(to)] = np.uint8((length & 127) | 128)
    out[U(to + 1)] = np.uint8(((length >> 7) & 127) | 128)
    out[U(to + 2)] = np.uint8(((length >> 14) & 127) | 128)
    out[U(to + 3)] = np.uint8(length >> 21)


# --- strings -------------------------------------------------------------------------------


@_pasted
def _copy_plain(
    buf: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int
) -> tuple[int, int]:
    """Copy up to the next quote, backslash or control character: where both positions end.

    HOT, once a string. Eight bytes at a time, each looked at in one word.
    """
    last, room = buf.size - 8, out.size - 8
    while at <= last and to <= room:
        word = _load8(buf, at)
        quote, escape = word ^ _QUOTES, word ^ _BACKSLASHES
        found = ((quote - _LOWS) & ~quote) | ((escape - _LOWS) & ~escape)
        found |= (word - _SPACES) & ~word
        if found & _HIGHS != U(0):
            break
        _store8(out, to, word)
        at += 8
        to += 8
    while at < buf.size and to < out.size:
        b = buf[U(at)]
        if b == _QUOTE or b == _BACKSLASH or b < 0x20:
            break
        out[U(to)] = b
        at += 1
        to += 1
    return at, to


@_pasted
def _hex_digit(b: int) -> int:
    """The value of a hexadecimal digit, or -1."""
    if 0x30 <= b <= 0x39:
        return b - 0x30
    lower = b | 0x20
    return lower - 0x57 if 0x61 <= lower <= 0x66 else -1


@_pasted
def _hex4(buf: NDArray[np.uint8], at: int) -> int:
    """Four hexadecimal digits, or -1."""
    value = np.int64(0)
    for i in range(4):
        digit = _hex_digit(_peek(buf, at + i))
        if digit < 0:
            return -1
        value = value << 4 | digit
    return value


@_pasted
def _code_point(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The character after a backslash and u at `at`, of a pair too: (it, first byte after it).

    (-1, at): none, or half a pair.
    """
    high = _hex4(buf, at)
    if high < 0 or 0xDC00 <= high <= 0xDFFF:
        return -1, at
    if high < 0xD800 or high > 0xDFFF:
        return high, at + 4
    if _peek(buf, at + 4) != _BACKSLASH or _peek(buf, at + 5) != 0x75:
        return -1, at
    low = _hex4(buf, at + 6)
    if not 0xDC00 <= low <= 0xDFFF:
        return -1, at
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), at + 10


@_pasted
def _write_utf8(out: NDArray[np.uint8], to: int, point: int) -> int:
    """Write a character, at most four bytes; the first byte after it."""
    if point < 0x80:
        out[U(to)] = np.uint8(point)
        return to + 1
    size = 2 if point < 0x800 else 3 if point < 0x10000 else 4
    for i in range(size - 1, 0, -1):
        out[U(to + i)] = np.uint8(0x80 | (point & 0x3F))
        point >>= 6
    out[U(to)] = np.uint8((0xF0 << (4 - size)) & 0xFF | point)
    return to + size


def _escapes() -> list[int]:
    """The byte that a backslash and a letter stand for; 0: none."""
    out = [0] * 256
    for letter, byte in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
        out[letter] = byte
    return out


_ESCAPES = np.array(_escapes(), dtype=np.uint8)


@_pasted
def _copy_escape(
    buf: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int
) -> tuple[int, int]:
    """Copy what the backslash at `at` begins: where both positions end; (-1, to): FALLBACK."""
    letter = _peek(buf, at + 1)
    if letter < 0 or to + 4 > out.size:
        return -1, to
    if letter == 0x75:
        point, end = _code_point(buf, at + 2)
        if point < 0:
            return -1, to
        return end, _write_utf8(out, to, point)
    byte = _ESCAPES[U(letter)]
    if byte == 0:
        return -1, to
    out[U(to)] = byte
    return at + 2, to + 1


@_pasted
def _write_string(
    buf: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int
) -> tuple[int, int]:
    """Write the string at `at` with its length: where both end; (-1, to): FALLBACK."""
    if _peek(buf, at) != _QUOTE or to + _LENGTH_BYTES > out.size:
        return -1, to
    at += 1
    start = to
    to += _LENGTH_BYTES
    while True:
        at, to = _copy_plain(buf, at, out, to)
        b = _peek(buf, at)
        if b == _QUOTE:
            _write_length(out, start, to - start - _LENGTH_BYTES)
            return at + 1, to
        if b != _BACKSLASH:  # a control character, the end of the body, or of the room
            return -1, to
        at, to = _copy_escape(buf, at, out, to)
        if at < 0:
            return -1, to


@_pasted
def _write_hex(buf: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int) -> tuple[int, int]:
    """Write the bytes of the hexadecimal string at `at`, as above."""
    if _peek(buf, at) != _QUOTE:
        return -1, to
    at += 1
    start = to
    to += 1
    while _peek(buf, at) != _QUOTE:
        high, low = _hex_digit(_peek(buf, at)), _hex_digit(_peek(buf, at + 1))
        if high < 0 or low < 0 or to >= out.size or to - start > 100:
            return -1, to
        out[U(to)] = np.uint8(high << 4 | low)
        at += 2
        to += 1
    if start >= out.size:
        return -1, to
    out[U(start)] = np.uint8(to - start - 1)
    return at + 1, to


# --- numbers -------------------------------------------------------------------------------


@_pasted
def _digits(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The digits at `at`, at most nineteen, as an unsigned number: (it, first byte after them)."""
    value = U(0)
    end = min(at + 19, buf.size)
    while at < end:
        digit = np.int64(buf[U(at)]) - 0x30
        if digit < 0 or digit > 9:
            break
        value = value * U(10) + U(digit)
        at += 1
    return value, at


@_pasted
def _integer(buf: NDArray[np.uint8], at: int, quotable: bool) -> tuple[int, bool, int]:
    """An integer below 10**19: (its magnitude, negative, first byte after it).

    With `quotable` it may be a string. The last is -1: FALLBACK. A fraction or an exponent is
    left to the caller, for whom no value goes on so.
    """
    quoted = _peek(buf, at) == _QUOTE
    if quoted:
        at += 1
    negative = _peek(buf, at) == _MINUS
    if negative:
        at += 1
    value, end = _digits(buf, at)
    if end == at or (_peek(buf, at) == 0x30 and (end > at + 1 or negative)):
        return U(0), False, -1
    if quoted:
        if not quotable or _peek(buf, end) != _QUOTE:
            return U(0), False, -1
        end += 1
    return value, negative, end


@_pasted
def _write_integer(
    buf: NDArray[np.uint8], at: int, kind: int, out: NDArray[np.uint8], to: int
) -> tuple[int, int]:
    """Write an integer as its kind of field has it, as above."""
    value, negative, at = _integer(buf, at, kind != _UINT and kind != _FIXED32)
    if at < 0:
        return -1, to
    if kind == _UINT or kind == _FIXED32:
        # An enumeration is an int32, a count a uint32: below 2**31 there is no difference.
        if negative or value >= U(1 << 31):
            return -1, to
    elif kind == _INT or kind == _SFIXED64:
        if value >= U(1 << 63):
            return -1, to
    elif negative:
        return -1, to
    bits = U(0) - value if negative else value
    if kind == _INT or kind == _UINT:
        return at, _write_varint(out, to, bits)
    _store8(out, to, bits)
    return at, to + (4 if kind == _FIXED32 else 8)


@_pasted
def _fraction(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """Steps over a point and digits, if they are there: (first byte after them, digits).

    (-1, 0): a point without a digit.
    """
    if _peek(buf, at) != _DOT:
        return at, 0
    start = at + 1
    end = _past_digits(buf, start)
    return (end, end - start) if end > start else (np.int64(-1), np.int64(0))


@_pasted
def _past_digits(buf: NDArray[np.uint8], at: int) -> int:
    while at < buf.size and 0x30 <= buf[U(at)] <= 0x39:
        at += 1
    return at


@_pasted
def _exponent(buf: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """Steps over an exponent, if one is there: (first byte after it, exponent).

    (-1, 0): none of at most four digits.
    """
    if _peek(buf, at) | 0x20 != 0x65 or _peek(buf, at) < 0:
        return at, 0
    at += 1
    sign = _peek(buf, at)
    if sign == _MINUS or sign == _PLUS:
        at += 1
    value, end = _digits(buf, at)
    if end == at or end > at + 4:
        return -1, 0
    return end, (-np.int64(value) if sign == _MINUS else np.int64(value))


@_pasted
def _mantissa(buf: NDArray[np.uint8], at: int, end: int) -> int:
    """The digits in [at, end), over a point, as a number; -1 when it is above 2**53."""
    value = np.int64(0)
    for i in range(at, end):
        b = np.int64(buf[U(i)])
        if b == _DOT:
            continue
        value = value * 10 + (b - 0x30)
        if value > 1 << 53:
            return -1
    return value


@_pasted
def _write_double(
    buf: NDArray[np.uint8],
    at: int,
    out: NDArray[np.uint8],
    to: int,
    late: NDArray[np.int64],
    num_late: int,
) -> tuple[int, int, int]:
    """Write the double at `at`, or list it: (as above, both; numbers listed).

    A decimal of at most 2**53 by a power of ten of at most 10**22 is rounded right by one
    operation on doubles, since both are exact (Clinger 1990).
    """
    start = at
    negative = _peek(buf, at) == _MINUS
    if negative:
        at += 1
    whole = _past_digits(buf, at)
    if whole == at or (_peek(buf, at) == 0x30 and whole > at + 1):
        return -1, to, num_late
    end_digits, places = _fraction(buf, whole)
    if end_digits < 0:
        return -1, to, num_late
    end, exponent = _exponent(buf, end_digits)
    if end < 0 or to + 8 > out.size:
        return -1, to, num_late
    if end - start > _MAX_NUMBER_BYTES:
        return -1, to, num_late
    mantissa, power = _mantissa(buf, at, end_digits), exponent - places
    if mantissa == 0 and end == whole and negative:  # -0, which some take for an integer
        return -1, to, num_late
    if mantissa >= 0 and -_MAX_POWER <= power <= _MAX_POWER:
        value = np.float64(mantissa)
        value = value * _POWERS[U(power)] if power >= 0 else value / _POWERS[U(-power)]
        _store_double(out, to, -value if negative else value)
        return end, to + 8, num_late
    if num_late >= late.shape[0]:
        return -1, to, num_late
    row = late[num_late]
    row[L_START], row[L_END], row[L_TO] = start, end, to
    return end, to + 8, num_late + 1


@_pasted
def _store_double(out: NDArray[np.uint8], to: int, value: float) -> None:
    _store8(out, to, np.float64(value).view(np.uint64))


@_pasted
def _write_bool(
    buf: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int
) -> tuple[int, int]:
    """Write `true` or `false`, as above."""
    word = _TRUE if _peek(buf, at) == 0x74 else _FALSE
    for i in range(word.size):
        if _peek(buf, at + i) != word[U(i)]:
            return -1, to
    out[U(to)] = np.uint8(5 - word.size)
    return at + word.size, to + 1


_TRUE = np.frombuffer(b"true", dtype=np.uint8)
_FALSE = np.frombuffer(b"false", dtype=np.uint8)

# --- messages ------------------------------------------------------------------------------


@_part
def _is_named_at_end(buf: NDArray[np.uint8], at: int, name: int, size: int) -> bool:
    """The same where eight bytes at a time would leave the body; the quote counts in `size`."""
    if at + size > buf.size:
        return False
    for i in range(size):
        if buf[U(at + i)] != _NAMES[U(name + i)]:
            return False
    return True


@_pasted
def _is_named(buf: NDArray[np.uint8], at: int, field: int) -> bool:
    """Whether a field's name and a quote are at `at`."""
    name = _FIELDS[U(field), U(_F_NAME)]
    size = _FIELDS[U(field), U(_F_NAME_END)] - name
    if at + size + 8 > buf.size:
        return _is_named_at_end(buf, at, name, size + 1)
    done = np.int64(0)
    while done + 8 <= size:
        if _load8(buf, at + done) != _load8(_NAMES, name + done):
            return False
        done += 8
    differ = _load8(buf, at + done) ^ _load8(_NAMES, name + done)
    return differ << U(8 * (8 - (size - done) - 1)) == U(0)


@_pasted
def _find(
    buf: NDArray[np.uint8], at: int, message: int, last: int, nexts: NDArray[np.int64]
) -> int:
    """The field of a message whose name and a quote are at `at`, or -1.

    HOT, once a key. The field that came behind the `last` one the last time is tried first.
    """
    guess = nexts[U(last)]
    if guess >= 0 and _is_named(buf, at, guess):
        return guess
    for field in range(_FIRSTS[U(message)], _FIRSTS[U(message + 1)]):
        if _is_named(buf, at, field):
            nexts[U(last)] = field
            return field
    return -1


@_pasted
def _key(
    buf: NDArray[np.uint8],
    at: int,
    stack: NDArray[np.int64],
    depth: int,
    nexts: NDArray[np.int64],
) -> tuple[int, int]:
    """The field whose key is at `at`, and where its value is; (-1, at): FALLBACK."""
    if _peek(buf, at) != _QUOTE:
        return -1, at
    top = U(depth - 1)
    field = _find(buf, at + 1, stack[top, U(_S_MESSAGE)], stack[top, U(_S_LAST)], nexts)
    if field < 0 or not _is_first(stack, depth, field):
        return -1, at
    at += 2 + _FIELDS[U(field), U(_F_NAME_END)] - _FIELDS[U(field), U(_F_NAME)]
    at = _skip_space(buf, at)
    if _peek(buf, at) != _COLON:
        return -1, at
    return field, _skip_space(buf, at + 1)


@_pasted
def _is_first(stack: NDArray[np.int64], depth: int, field: int) -> bool:
    """Whether the innermost message did not have a field yet; it has now."""
    top = U(depth - 1)
    bit = np.int64(1) << (field - _FIRSTS[U(stack[top, U(_S_MESSAGE)])])
    before = stack[top, U(_S_SEEN)]
    stack[top, U(_S_SEEN)] = before | bit
    stack[top, U(_S_LAST)] = field
    return before & bit == 0


@_pasted
def _push(
    stack: NDArray[np.int64], depth: int, field: int, message: int, in_array: bool, to: int
) -> int:
    """Begin a message whose bytes go to `to`: the depth after it; -1: too deep."""
    if depth >= stack.shape[0]:
        return -1
    top = U(depth)
    stack[top, U(_S_MESSAGE)], stack[top, U(_S_BODY)] = message, to
    stack[top, U(_S_FIELD)], stack[top, U(_S_IN_ARRAY)] = field, 1 if in_array else 0
    stack[top, U(_S_SEEN)], stack[top, U(_S_LAST)] = 0, _FIELDS.shape[0] + message
    return depth + 1


@_pasted
def _open(
    buf: NDArray[np.uint8],
    at: int,
    field: int,
    out: NDArray[np.uint8],
    to: int,
    stack: NDArray[np.int64],
    depth: int,
    in_array: bool,
) -> tuple[int, int, int]:
    """Begin the message whose brace is at `at`: (where both positions end, depth)."""
    if _peek(buf, at) != _OPEN or to + _FIELD_BYTES > out.size:
        return -1, to, depth
    to = _write_varint(out, to, _FIELDS[U(field), U(_F_TAG)]) + _LENGTH_BYTES
    depth = _push(stack, depth, field, _FIELDS[U(field), U(_F_MESSAGE)], in_array, to)
    return (at + 1 if depth >= 0 else np.int64(-1)), to, depth


@_pasted
def _scalar(
    buf: NDArray[np.uint8],
    at: int,
    kind: int,
    out: NDArray[np.uint8],
    to: int,
) -> tuple[int, int]:
    """Write a value that is no message and no double, as above."""
    if kind == _STRING:
        return _write_string(buf, at, out, to)
    if kind == _HEX:
        return _write_hex(buf, at, out, to)
    if kind == _BOOL:
        return _write_bool(buf, at, out, to)
    return _write_integer(buf, at, kind, out, to)


@_pasted
def _after(
    buf: NDArray[np.uint8],
    at: int,
    out: NDArray[np.uint8],
    to: int,
    stack: NDArray[np.int64],
    depth: int,
) -> tuple[int, int, int]:
    """Behind a value: go to the next key, or end messages and arrays until there is one.

    Returns:
        (where both positions end, depth); depth 0: the request has ended. (-1, …): FALLBACK.
    """
    while True:
        at = _skip_space(buf, at)
        b = _peek(buf, at)
        if b == _COMMA:
            return _skip_space(buf, at + 1), to, depth
        if b != _CLOSE:
            return -1, to, depth
        at += 1
        depth -= 1
        if depth == 0:
            return at, to, depth
        start = stack[U(depth), U(_S_BODY)]
        _write_length(out, start - _LENGTH_BYTES, to - start)
        if stack[U(depth), U(_S_IN_ARRAY)] == 0:
            continue
        at = _skip_space(buf, at)
        if _peek(buf, at) == _COMMA:
            at = _skip_space(buf, at + 1)
            field = stack[U(depth), U(_S_FIELD)]
            at, to, depth = _open(buf, at, field, out, to, stack, depth, True)
            if at < 0:
                return -1, to, depth
            at = _skip_space(buf, at)
            if _peek(buf, at) != _CLOSE:
                return at, to, depth
        elif _peek(buf, at) == _CLOSE_ARRAY:
            at += 1
        else:
            return -1, to, depth


@_pasted
def _field(
    buf: NDArray[np.uint8],
    at: int,
    field: int,
    out: NDArray[np.uint8],
    to: int,
    stack: NDArray[np.int64],
    depth: int,
) -> tuple[int, int, int, bool]:
    """Write a field that is no double, or begin the first message of it.

    Returns:
        (where both positions end, depth, whether a value has ended). (-1, …): FALLBACK.
    """
    kind = _FIELDS[U(field), U(_F_KIND)]
    if kind != _MESSAGE and kind != _MESSAGES_OF:
        to = _write_varint(out, to, _FIELDS[U(field), U(_F_TAG)])
        at, to = _scalar(buf, at, kind, out, to)
        return at, to, depth, True
    if kind == _MESSAGES_OF:
        if _peek(buf, at) != _OPEN_ARRAY:
            return -1, to, depth, True
        at = _skip_space(buf, at + 1)
        if _peek(buf, at) == _CLOSE_ARRAY:
            return at + 1, to, depth, True
    at, to, depth = _open(buf, at, field, out, to, stack, depth, kind == _MESSAGES_OF)
    if at >= 0:
        at = _skip_space(buf, at)
    return at, to, depth, _peek(buf, at) == _CLOSE if at >= 0 else True


@_pasted
def _next_field(
    buf: NDArray[np.uint8],
    at: int,
    out: NDArray[np.uint8],
    to: int,
    late: NDArray[np.int64],
    num_late: int,
    stack: NDArray[np.int64],
    depth: int,
    nexts: NDArray[np.int64],
) -> tuple[int, int, int, int, bool]:
    """Write the field whose key is at `at`, or begin the first message of it.

    Returns:
        (where both positions end, rows of `late`, depth, whether a value has ended).
        (-1, …): FALLBACK.
    """
    field, at = _key(buf, at, stack, depth, nexts)
    if field < 0 or to + _FIELD_BYTES > out.size:
        return -1, to, num_late, depth, True
    if _FIELDS[U(field), U(_F_KIND)] == _DOUBLE:
        to = _write_varint(out, to, _FIELDS[U(field), U(_F_TAG)])
        at, to, num_late = _write_double(buf, at, out, to, late, num_late)
        return at, to, num_late, depth, True
    at, to, depth, ended = _field(buf, at, field, out, to, stack, depth)
    return at, to, num_late, depth, ended


@_kernel
def transcode(
    buf: NDArray[np.uint8],
    request: int,
    out: NDArray[np.uint8],
    late: NDArray[np.int64],
    stack: NDArray[np.int64],
    nexts: NDArray[np.int64],
) -> tuple[int, int]:
    """Write a request anew as protobuf.

    Args:
        buf: uint8, shape (bytes,): JSON, at most MAX_BODY_BYTES.
        request: LOGS or TRACES.
        out: uint8, shape (room,), written.
        late: int64, shape (bytes // LATE_BYTES + 1, L_WIDTH), written: numbers whose 8 bytes are
            still to be put in, little-endian.
        stack: int64, shape (MAX_DEPTH, S_WIDTH): room to work in.
        nexts: int64, shape (NUM_NEXTS,): -1 before. Which field came behind which.

    Returns:
        (bytes of `out` that are used, rows of `late` that are); the first is FALLBACK where the
        request is for the plain decoder, or where there is not room enough.
    """
    at = _skip_space(buf, 0)
    if buf.size > MAX_BODY_BYTES or _peek(buf, at) != _OPEN:
        return FALLBACK, 0
    depth = _push(stack, 0, -1, request, False, 0)
    to = num_late = np.int64(0)
    at = _skip_space(buf, at + 1)
    ended = _peek(buf, at) == _CLOSE
    while depth > 0:
        if not ended:
            at, to, num_late, depth, ended = _next_field(
                buf, at, out, to, late, num_late, stack, depth, nexts
            )
            if at < 0:
                return FALLBACK, 0
        if ended:
            at, to, depth = _after(buf, at, out, to, stack, depth)
            if at < 0:
                return FALLBACK, 0
            ended = False
    return (to if _skip_space(buf, at) == buf.size else np.int64(FALLBACK)), num_late


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    body = np.frombuffer(b"{}", dtype=np.uint8)
    late = np.empty((1, L_WIDTH), dtype=np.int64)
    stack = np.empty((MAX_DEPTH, S_WIDTH), dtype=np.int64)
    nexts = np.full(NUM_NEXTS, -1, dtype=np.int64)
    transcode(body, LOGS, np.empty(SPARE_BYTES, dtype=np.uint8), late, stack, nexts)
