"""OTLP requests as protobuf and as JSON, good and faulty, from one model of both.

In: a seed, or fields to spell out. Out: bodies. A message here is a list of `Field`s, which
`to_protobuf` and `to_json` write down; nothing checks that they make sense, so that faults can be
made of the same parts. Knows nothing of the decoder.

Formats: https://protobuf.dev/programming-guides/encoding/ and
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding (ids in hex, 64-bit integers as
strings, names in lowerCamelCase), messages of opentelemetry-proto 1.x.
"""

from __future__ import annotations

import base64
import enum
import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Kind(enum.Enum):
    """How the value of a field is written."""

    STRING = enum.auto()
    BYTES = enum.auto()
    ID = enum.auto()  # bytes, in JSON as hex
    VARINT = enum.auto()  # uint32, enum
    INT64 = enum.auto()  # in JSON a string
    SINT32 = enum.auto()
    BOOL = enum.auto()
    FIXED32 = enum.auto()
    FIXED64 = enum.auto()  # in JSON a string
    SFIXED64 = enum.auto()  # in JSON a string
    DOUBLE = enum.auto()
    MESSAGE = enum.auto()
    DOUBLES = enum.auto()  # repeated, packed
    FIXED64S = enum.auto()  # repeated, packed
    VARINTS = enum.auto()  # repeated, packed


@dataclass
class Field:
    """One field of a message, or one element of a repeated one.

    Attributes:
        number: In protobuf.
        name: In JSON.
        kind: How the value is written.
        value: A message is a list of fields.
        repeated: The elements of this name are an array in JSON.
    """

    number: int
    name: str
    kind: Kind
    value: Any
    repeated: bool = False


Message = list[Field]

# ------------------------------------------------------------------------------------- protobuf


def varint(value: int) -> bytes:
    """An integer of 0 to 2**64 - 1 in groups of seven bits, negative ones as their complement."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, data: bytes) -> bytes:
    """A field of a length and so many bytes: string, bytes, message, packed numbers."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def _zigzag(value: int) -> int:
    return value << 1 ^ value >> 31


_DELIMITED: dict[Kind, Callable[[Any], bytes]] = {
    Kind.STRING: lambda value: value if isinstance(value, bytes) else value.encode(),
    Kind.BYTES: bytes,
    Kind.ID: bytes,
    Kind.MESSAGE: lambda value: to_protobuf(value),
    Kind.DOUBLES: lambda value: struct.pack(f"<{len(value)}d", *value),
    Kind.FIXED64S: lambda value: struct.pack(f"<{len(value)}Q", *value),
    Kind.VARINTS: lambda value: b"".join(map(varint, value)),
}
_VARINTS: dict[Kind, Callable[[Any], int]] = {
    Kind.VARINT: int,
    Kind.INT64: int,
    Kind.SINT32: _zigzag,
    Kind.BOOL: int,
}
_FIXED = {
    Kind.FIXED32: (5, "<I"),
    Kind.FIXED64: (1, "<Q"),
    Kind.SFIXED64: (1, "<q"),
    Kind.DOUBLE: (1, "<d"),
}


def to_protobuf(message: Message) -> bytes:
    """The message in protobuf, its fields in the order of the list."""
    return b"".join(map(_field, message))


def _field(field: Field) -> bytes:
    if field.kind in _DELIMITED:
        return delimited(field.number, _DELIMITED[field.kind](field.value))
    if field.kind in _VARINTS:
        return varint(field.number << 3) + varint(_VARINTS[field.kind](field.value))
    wire_type, layout = _FIXED[field.kind]
    return varint(field.number << 3 | wire_type) + struct.pack(layout, field.value)


# ----------------------------------------------------------------------------------------- JSON

_AS_TEXT = frozenset({Kind.INT64, Kind.FIXED64, Kind.SFIXED64})
_PACKED = frozenset({Kind.DOUBLES, Kind.FIXED64S, Kind.VARINTS})


def to_json(message: Message) -> dict[str, Any]:
    """The message as the objects that `json.dumps` takes."""
    out: dict[str, Any] = {}
    for field in message:
        value = _json_value(field)
        if field.repeated:
            out.setdefault(field.name, []).append(value)
        else:
            out[field.name] = value
    return out


def _json_value(field: Field) -> Any:
    value = field.value
    if field.kind is Kind.MESSAGE:
        return to_json(value)
    if field.kind is Kind.ID:
        return value.hex()
    if field.kind is Kind.BYTES:
        return base64.b64encode(value).decode()
    if field.kind is Kind.STRING:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if field.kind in _PACKED:
        texts = field.kind is not Kind.DOUBLES
        return [str(each) if texts else _json_double(each) for each in value]
    if field.kind is Kind.BOOL:
        return bool(value)
    if field.kind is Kind.DOUBLE:
        return _json_double(value)
    return str(value) if field.kind in _AS_TEXT else value


def _json_double(value: float) -> float | str:
    if value != value:
        return "NaN"
    return value if abs(value) != float("inf") else ("Infinity" if value > 0 else "-Infinity")


@dataclass(frozen=True)
class OtlpBody:
    """One request, twice.

    Attributes:
        protobuf: In the one encoding.
        json: In the other; where a string was not UTF-8, with replacement characters.
    """

    protobuf: bytes
    json: bytes


def spell(message: Message) -> OtlpBody:
    """The request in both encodings."""
    text = json.dumps(to_json(message), ensure_ascii=False, separators=(",", ":"))
    return OtlpBody(to_protobuf(message), text.encode("utf-8", "surrogatepass"))


# ------------------------------------------------------------------------------- parts of messages

_KEYS = (
    *("service.name", "host.name", "http.route", "http.status_code", "user.id", "db.system", "ok"),
    *("größe", "日本", "a b", "time", "level", "Level", "x" * 200),
)
_TEXTS = ("", "checkout", "GET /users/{id}", "größe", "日本 🎉", 'say "hi"', "a\nb\0c", "x" * 300)


def sub(number: int, name: str, message: Message, repeated: bool = False) -> Field:
    """A field that is a message."""
    return Field(number, name, Kind.MESSAGE, message, repeated)


def any_value(rng: random.Random, depth: int = 2) -> Message:
    """An AnyValue of any kind, arrays and maps not deeper than `depth`."""
    kind = rng.choice("sssiidbyamn" if depth else "sssiidbyn")
    if kind == "s":
        return [Field(1, "stringValue", Kind.STRING, rng.choice(_TEXTS))]
    if kind == "b":
        return [Field(2, "boolValue", Kind.BOOL, rng.random() < 0.5)]
    if kind == "i":
        value = rng.choice((0, 1, -1, 200, 2**53 + 1, 2**63 - 1, -(2**63)))
        return [Field(3, "intValue", Kind.INT64, value)]
    if kind == "d":
        double = rng.choice((0.0, 1.5, -0.0, 1e300, float("nan"), float("inf")))
        return [Field(4, "doubleValue", Kind.DOUBLE, double)]
    if kind == "a":
        items = [
            sub(1, "values", any_value(rng, depth - 1), True) for _ in range(rng.randint(0, 3))
        ]
        return [sub(5, "arrayValue", items)]
    if kind == "m":
        return [sub(6, "kvlistValue", attributes(rng, 1, "values", 2, depth - 1))]
    return [Field(7, "bytesValue", Kind.BYTES, rng.randbytes(3))] if kind == "y" else []


def attributes(
    rng: random.Random, number: int, name: str = "attributes", most: int = 5, depth: int = 2
) -> Message:
    """KeyValues of differing keys, as elements of a repeated field."""
    keys = rng.sample(_KEYS, rng.randint(0, most))
    return [key_value(number, name, key, any_value(rng, depth)) for key in keys]


def key_value(number: int, name: str, key: str, value: Message) -> Field:
    """One KeyValue."""
    return sub(number, name, [Field(1, "key", Kind.STRING, key), sub(2, "value", value)], True)


def _time(rng: random.Random, number: int, name: str) -> Field:
    time_ns = rng.randint(1_600_000_000, 1_900_000_000) * 10**9 + rng.randrange(10**9)
    return Field(number, name, Kind.FIXED64, rng.choice((time_ns, time_ns // 1000 * 1000)))


def _id(rng: random.Random, number: int, name: str, size: int) -> list[Field]:
    return [Field(number, name, Kind.ID, rng.randbytes(size))] if rng.random() < 0.7 else []


def _resource(rng: random.Random) -> Field:
    dropped = [Field(2, "droppedAttributesCount", Kind.VARINT, 2)] if rng.random() < 0.2 else []
    return sub(1, "resource", attributes(rng, 1) + dropped)


def _scope(rng: random.Random) -> Field:
    named = [Field(1, "name", Kind.STRING, "lib"), Field(2, "version", Kind.STRING, "1.2")]
    return sub(1, "scope", named + attributes(rng, 3, most=2))


# ----------------------------------------------------------------------------------- log records


def log_record(rng: random.Random) -> Message:
    """A LogRecord."""
    record = [Field(2, "severityNumber", Kind.VARINT, rng.randint(0, 24))]
    if rng.random() < 0.9:
        record.append(_time(rng, 1, "timeUnixNano"))
    record.append(_time(rng, 11, "observedTimeUnixNano"))
    record.append(Field(3, "severityText", Kind.STRING, rng.choice(("", "INFO", "größe"))))
    if rng.random() < 0.9:
        record.append(sub(5, "body", any_value(rng)))
    record += attributes(rng, 6)
    record += _id(rng, 9, "traceId", 16) + _id(rng, 10, "spanId", 8)
    if rng.random() < 0.3:
        record.append(Field(8, "flags", Kind.FIXED32, 1))
        record.append(Field(12, "eventName", Kind.STRING, "click"))
    return record


# ----------------------------------------------------------------------------------------- spans


def span(rng: random.Random) -> Message:
    """A Span."""
    found = [
        Field(1, "traceId", Kind.ID, rng.randbytes(16)),
        Field(2, "spanId", Kind.ID, rng.randbytes(8)),
        *_id(rng, 4, "parentSpanId", 8),
        Field(5, "name", Kind.STRING, rng.choice(_TEXTS)),
        Field(6, "kind", Kind.VARINT, rng.randint(0, 5)),
        _time(rng, 7, "startTimeUnixNano"),
        _time(rng, 8, "endTimeUnixNano"),
        *attributes(rng, 9),
    ]
    for _ in range(rng.choice((0, 0, 1, 2))):
        event = [_time(rng, 1, "timeUnixNano"), Field(2, "name", Kind.STRING, "exception")]
        found.append(sub(11, "events", event + attributes(rng, 3), True))
    if rng.random() < 0.2:
        link = _id(rng, 1, "traceId", 16) + _id(rng, 2, "spanId", 8) + attributes(rng, 4)
        found.append(sub(13, "links", link, True))
    if rng.random() < 0.4:
        status = [Field(2, "message", Kind.STRING, "no"), Field(3, "code", Kind.VARINT, 2)]
        found.append(sub(15, "status", status))
    if rng.random() < 0.2:
        found.append(Field(3, "traceState", Kind.STRING, "a=b"))
        found.append(Field(16, "flags", Kind.FIXED32, 257))
    return found


# --------------------------------------------------------------------------------------- metrics


def _point(rng: random.Random, attribute_number: int, flags_number: int = 8) -> Message:
    start = [_time(rng, 2, "startTimeUnixNano")] if rng.random() < 0.5 else []
    flags = [Field(flags_number, "flags", Kind.VARINT, 1)] if rng.random() < 0.1 else []
    times = [*start, _time(rng, 3, "timeUnixNano")]
    return [*times, *attributes(rng, attribute_number, depth=1), *flags]


def _double(rng: random.Random, number: int, name: str) -> Field:
    return Field(number, name, Kind.DOUBLE, rng.choice((0.0, 1.5, -2.25, 1e9, float("nan"))))


def _number_point(rng: random.Random) -> Message:
    value = _double(rng, 4, "asDouble")
    if rng.random() < 0.4:
        value = Field(6, "asInt", Kind.SFIXED64, rng.choice((0, 7, -7, 2**63 - 1)))
    measured = _double(rng, 3, "asDouble")
    exemplar = [_time(rng, 2, "timeUnixNano"), measured, *_id(rng, 5, "traceId", 16)]
    exemplars = [sub(5, "exemplars", exemplar, True)] if rng.random() < 0.2 else []
    return [*_point(rng, 7), value, *exemplars]


def _histogram_point(rng: random.Random) -> Message:
    bounds = sorted(rng.sample((0.1, 0.5, 1.0, 5.0, 10.0), rng.randint(0, 4)))
    counts = [rng.randrange(100) for _ in range(len(bounds) + 1)]
    return [
        *_point(rng, 9, 10),
        Field(4, "count", Kind.FIXED64, sum(counts)),
        _double(rng, 5, "sum"),
        Field(6, "bucketCounts", Kind.FIXED64S, counts),
        Field(7, "explicitBounds", Kind.DOUBLES, bounds),
        _double(rng, 11, "min"),
        _double(rng, 12, "max"),
    ]


def _exponential_point(rng: random.Random) -> Message:
    def buckets(number: int, name: str) -> Field:
        offset = Field(1, "offset", Kind.SINT32, rng.choice((0, 3, -5)))
        counts = [rng.randrange(300) for _ in range(rng.randint(0, 5))]
        return sub(number, name, [offset, Field(2, "bucketCounts", Kind.VARINTS, counts)])

    point = [
        *_point(rng, 1, 10),
        Field(4, "count", Kind.FIXED64, rng.randrange(1000)),
        _double(rng, 5, "sum"),
        Field(6, "scale", Kind.SINT32, rng.choice((0, 20, -10))),
        Field(7, "zeroCount", Kind.FIXED64, rng.randrange(10)),
        buckets(8, "positive"),
        buckets(9, "negative"),
    ]
    return [*point, _double(rng, 12, "min"), _double(rng, 14, "zeroThreshold")]


def _summary_point(rng: random.Random) -> Message:
    values = [
        sub(
            6,
            "quantileValues",
            [Field(1, "quantile", Kind.DOUBLE, q), _double(rng, 2, "value")],
            True,
        )
        for q in rng.sample((0.0, 0.5, 0.9, 0.99, 1.0), rng.randint(0, 3))
    ]
    count = Field(4, "count", Kind.FIXED64, rng.randrange(1000))
    return [*_point(rng, 7), count, _double(rng, 5, "sum"), *values]


_METRICS: tuple[tuple[int, str, Callable[[random.Random], Message]], ...] = (
    (5, "gauge", _number_point),
    (7, "sum", _number_point),
    (9, "histogram", _histogram_point),
    (10, "exponentialHistogram", _exponential_point),
    (11, "summary", _summary_point),
)


def metric(rng: random.Random) -> Message:
    """A Metric of any of the five types."""
    number, name, make = rng.choice(_METRICS)
    data = [sub(1, "dataPoints", make(rng), True) for _ in range(rng.randint(0, 3))]
    if name in ("sum", "histogram", "exponentialHistogram"):
        data.append(Field(2, "aggregationTemporality", Kind.VARINT, rng.randint(0, 2)))
    if name == "sum":
        data.append(Field(3, "isMonotonic", Kind.BOOL, True))
    described = [Field(2, "description", Kind.STRING, "d"), Field(3, "unit", Kind.STRING, "By")]
    called = Field(1, "name", Kind.STRING, rng.choice(("http.requests", "größe", "m")))
    return [called, *(described if rng.random() < 0.5 else []), sub(number, name, data)]


# -------------------------------------------------------------------------------------- requests

#: By signal: names of the two levels above the records, and what makes a record.
_SIGNALS: dict[str, tuple[str, str, str, Callable[[random.Random], Message]]] = {
    "logs": ("resourceLogs", "scopeLogs", "logRecords", log_record),
    "traces": ("resourceSpans", "scopeSpans", "spans", span),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics", metric),
}


def random_request(rng: random.Random, signal: str, records: int = 8, faults: int = 0) -> Message:
    """An export request of a signal (`logs`, `traces`, `metrics`) that every decoder has to take.

    Args:
        rng: Where all choices come from.
        signal: Which of the three.
        records: At most this many in one scope; there may be none.
        faults: How many fields to spoil; some of that turns out to be harmless.
    """
    of_resource, of_scope, of_records, make = _SIGNALS[signal]
    request: Message = []
    for _ in range(rng.randint(0, 2) if rng.random() < 0.3 else 1):
        resource = [_resource(rng)] if rng.random() < 0.9 else []
        for _ in range(rng.choice((1, 1, 2))):
            found = [sub(2, of_records, make(rng), True) for _ in range(rng.randint(0, records))]
            scope = [_scope(rng)] if rng.random() < 0.8 else []
            resource.append(sub(2, of_scope, scope + found, True))
        resource.append(Field(3, "schemaUrl", Kind.STRING, "https://example.org/1"))
        request.append(sub(1, of_resource, resource, True))
    for _ in range(faults):
        spoil(rng, request)
    return request


def _every_message(message: Message) -> Sequence[Message]:
    found = [message]
    for each in found:
        found += [field.value for field in each if field.kind is Kind.MESSAGE]
    return found


def spoil(rng: random.Random, request: Message) -> None:
    """Make one field of a request odd, in place."""
    message = rng.choice([each for each in _every_message(request) if each] or [request])
    if not message:
        request.append(sub(1, "resourceLogs", [sub(2, "scopeLogs", [])], True))
        return
    at = rng.randrange(len(message))
    field = message[at]
    way = rng.choice(("twice", "gone", "kind", "number", "value", "value", "deep"))
    if way == "twice":
        message.insert(at, field)
    elif way == "gone":
        del message[at]
    elif way == "kind":
        odd = rng.choice(
            [(Kind.STRING, "x"), (Kind.VARINT, 7), (Kind.DOUBLE, 1.5), (Kind.BYTES, b"\x0a")]
        )
        message[at] = Field(field.number, field.name, *odd, field.repeated)
    elif way == "number":
        message[at] = Field(rng.choice((15, 99, 2**29 - 1)), "unknown", field.kind, field.value)
    elif way == "deep":
        message[at] = key_value(
            field.number, field.name, "deep", nested_value(rng.choice((20, 50)))
        )
    else:
        message[at] = _odd_value(rng, field)


def _odd_value(rng: random.Random, field: Field) -> Field:
    odd: dict[Kind, tuple[Any, ...]] = {
        Kind.STRING: (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", "", "x" * 300, "a\0b", "time"),
        Kind.BYTES: (b"", b"\xff" * 300),
        Kind.ID: (b"", b"\x01", b"\x01" * 15, b"\x01" * 33, bytes(16)),
        Kind.VARINT: (-1, 2**32, 2**64 - 1, 2**31),
        Kind.INT64: (2**63 - 1, -(2**63)),
        Kind.SINT32: (2**31 - 1, -(2**31)),
        Kind.BOOL: (2, 2**64 - 1),
        Kind.FIXED32: (2**32 - 1,),
        Kind.FIXED64: (0, 1, 999, 2**63 - 1, 2**63, 2**64 - 1, 9_246_182_400 * 10**9),
        Kind.SFIXED64: (2**63 - 1, -(2**63)),
        Kind.DOUBLE: (float("nan"), float("inf"), float("-inf"), 5e-324),
        Kind.DOUBLES: ([], [float("nan")] * 50),
        Kind.FIXED64S: ([], [2**64 - 1] * 50),
        Kind.VARINTS: ([], [2**64 - 1] * 50),
        Kind.MESSAGE: ([],),
    }
    return Field(field.number, field.name, field.kind, rng.choice(odd[field.kind]), field.repeated)


def nested_value(depth: int) -> Message:
    """An AnyValue of arrays in arrays, so many deep."""
    value: Message = [Field(3, "intValue", Kind.INT64, 1)]
    for _ in range(depth):
        value = [sub(5, "arrayValue", [sub(1, "values", value, True)])]
    return value
