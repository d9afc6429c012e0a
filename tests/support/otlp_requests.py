"""OTLP requests as exporters write them, and comparisons of the fast decoder with the plain one.

What `ingest.testing.otlp` makes is mostly odd, so the fast decoder leaves nine in ten of it to the
plain one. These requests it takes, unless they are made odd on purpose.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

from ingest.errors import IngestError
from ingest.limits import Limits
from ingest.otlp.fast import decode_fast
from ingest.otlp.plain import decode_plain
from ingest.otlp.request import Signal
from ingest.testing import assert_same_batches
from ingest.testing.otlp import Field, Kind, Message, key_value, spell, sub

NOW_US = 1_768_473_000_000_000
LIMITS = Limits()

_TEXTS = (
    "",
    "a",
    "checkout",
    "GET /users/{id}",
    "größe",
    "日本 🎉",
    'say "hi"',
    "a\nb\0c",
    "x" * 300,
)
#: Keys, and what each has as its value: one kind each, or the request is not for the fast path.
_KEYS = {
    "service.name": "s",
    "http.status_code": "i",
    "duration": "d",
    "ok": "b",
    "größe": "s",
    "k": "i",
    "x" * 200: "s",
    "x" * 199: "d",
    "level": "s",
}
_INTS = (0, 1, -1, 127, 128, 300, -300, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63) + 1)
_DOUBLES = (0.0, -0.0, 0.5, 1e300, 5e-324, 0.1, 2 / 3, 123456.789, 1e22, 1e23, 3.0)
_TIMES = (0, 1, 999, 1000, 1_768_473_000_123_456_789, 1_768_473_000_123_456_000, 2**63 - 1)


def agrees(body: bytes, signal: Signal, is_json: bool, limits: Limits = LIMITS) -> bool:
    """Whether the fast decoder took a request, after a look that the plain one says the same."""
    found: Any
    try:
        found = decode_fast(body, signal, is_json, NOW_US, limits)
    except IngestError as error:
        found = error
    if found is None:
        return False
    if isinstance(found, IngestError):
        try:
            decode_plain(body, signal, is_json, NOW_US, limits)
        except type(found):
            return True
        raise AssertionError(f"only the fast decoder refuses it: {found}")
    wanted = decode_plain(body, signal, is_json, NOW_US, limits)
    assert not wanted.refused
    assert_same_batches(found, wanted.batches)
    return True


# ------------------------------------------------------------------------------- requests


def value_of(rng: random.Random, kind: str) -> Message:
    """An AnyValue of one kind: s, i, d or b."""
    if kind == "s":
        return [Field(1, "stringValue", Kind.STRING, rng.choice(_TEXTS))]
    if kind == "i":
        return [Field(3, "intValue", Kind.INT64, rng.choice(_INTS))]
    if kind == "d":
        double = rng.choice((*_DOUBLES, rng.random(), rng.random() * 10 ** rng.randint(-30, 30)))
        return [Field(4, "doubleValue", Kind.DOUBLE, double)]
    return [Field(2, "boolValue", Kind.BOOL, rng.random() < 0.5)]


def scalars(rng: random.Random, number: int, most: int = 6) -> Message:
    """KeyValues of differing keys."""
    keys = rng.sample(list(_KEYS), rng.randint(0, most))
    if rng.random() < 0.7:
        keys.sort()
    return [key_value(number, "attributes", key, value_of(rng, _KEYS[key])) for key in keys]


def _time(rng: random.Random, number: int, name: str) -> list[Field]:
    return [Field(number, name, Kind.FIXED64, rng.choice(_TIMES))] if rng.random() < 0.9 else []


def _text(rng: random.Random, number: int, name: str) -> list[Field]:
    return [Field(number, name, Kind.STRING, rng.choice(_TEXTS))] if rng.random() < 0.5 else []


def _id(rng: random.Random, number: int, name: str, size: int) -> list[Field]:
    raw = rng.choice((b"", rng.randbytes(size)))
    return [Field(number, name, Kind.ID, raw)] if rng.random() < 0.8 else []


def _count(rng: random.Random, number: int, name: str, most: int = 2**31 - 1) -> list[Field]:
    value = rng.choice((0, 1, 5, most))
    return [Field(number, name, Kind.VARINT, value)] if rng.random() < 0.4 else []


def _flags(rng: random.Random, number: int) -> list[Field]:
    value = rng.choice((0, 1, 257, 2**31 - 1))
    return [Field(number, "flags", Kind.FIXED32, value)] if rng.random() < 0.4 else []


def log_record(rng: random.Random) -> Message:
    """A LogRecord whose body is a string, if it has one."""
    body = [sub(5, "body", value_of(rng, "s"))] if rng.random() < 0.9 else []
    return [
        *_time(rng, 1, "timeUnixNano"),
        *_count(rng, 2, "severityNumber", 24),
        *_text(rng, 3, "severityText"),
        *body,
        *scalars(rng, 6),
        *_count(rng, 7, "droppedAttributesCount"),
        *_flags(rng, 8),
        *_id(rng, 9, "traceId", 16),
        *_id(rng, 10, "spanId", 8),
        *_time(rng, 11, "observedTimeUnixNano"),
        *_text(rng, 12, "eventName"),
    ]


def span(rng: random.Random) -> Message:
    """A Span without events and links."""
    status = [*_text(rng, 2, "message"), *_count(rng, 3, "code", 2)]
    status = [field for field in status if field.name == "message" or field.value <= 2]
    return [
        *_id(rng, 1, "traceId", 16),
        *_id(rng, 2, "spanId", 8),
        *_text(rng, 3, "traceState"),
        *_id(rng, 4, "parentSpanId", 8),
        *_text(rng, 5, "name"),
        Field(6, "kind", Kind.VARINT, rng.randint(0, 5)),
        *_time(rng, 7, "startTimeUnixNano"),
        *_time(rng, 8, "endTimeUnixNano"),
        *scalars(rng, 9),
        *_count(rng, 10, "droppedAttributesCount"),
        *_count(rng, 12, "droppedEventsCount"),
        *_count(rng, 14, "droppedLinksCount"),
        *([sub(15, "status", status)] if rng.random() < 0.5 else []),
        *_flags(rng, 16),
    ]


_SIGNALS = {
    Signal.LOGS: ("resourceLogs", "scopeLogs", "logRecords", log_record),
    Signal.TRACES: ("resourceSpans", "scopeSpans", "spans", span),
}


def regular_request(rng: random.Random, signal: Signal, records: int = 6) -> Message:
    """A request that the fast decoder takes; fields of each message in an order of its own."""
    of_resource, of_scope, of_records, make = _SIGNALS[signal]
    request: Message = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        attributes = scalars(rng, 1)
        head = [sub(1, "resource", attributes + _count(rng, 2, "droppedAttributesCount"))]
        resource = [*(head if rng.random() < 0.9 else []), *_text(rng, 3, "schemaUrl")]
        for _ in range(rng.choice((1, 1, 2))):
            named = _text(rng, 1, "name") + _text(rng, 2, "version") + scalars(rng, 3, 2)
            head = [sub(1, "scope", named)] if rng.random() < 0.8 else []
            found = [sub(2, of_records, make(rng), True) for _ in range(rng.randint(1, records))]
            resource.append(sub(2, of_scope, head + found + _text(rng, 3, "schemaUrl"), True))
        request.append(sub(1, of_resource, resource, True))
    if rng.random() < 0.5:
        _shuffle(rng, request)
    return request


def _shuffle(rng: random.Random, message: Message) -> None:
    """Put the fields of every message into another order, elements of one array together."""
    for field in message:
        if field.kind is Kind.MESSAGE and field.name not in ("attributes", "value"):
            _shuffle(rng, field.value)
    groups = [list(group) for _, group in itertools.groupby(message, lambda field: field.number)]
    rng.shuffle(groups)
    message[:] = [field for group in groups for field in group]


def damaged(rng: random.Random, body: bytes) -> bytes:
    """The body with some bytes changed, gone or added."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        way = rng.randrange(3)
        if way == 0:
            changed[at : at + 1] = bytes([rng.choice((rng.getrandbits(8), 0, 0xFF, 0x0A, 0x12))])
        elif way == 1:
            del changed[at : at + 1]
        else:
            changed[at:at] = rng.randbytes(1)
    return bytes(changed)


def spelled(request: Message, is_json: bool) -> bytes:
    """The request in one of the encodings."""
    body = spell(request)
    return body.json if is_json else body.protobuf
