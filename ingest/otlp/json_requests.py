"""OTLP requests in JSON, a piece at a time.

In: the bytes of an `Export…ServiceRequest` in the JSON of OTLP. Out: pieces of records with their
resource and scope, as structures with the attributes that the messages of `opentelemetry.proto`
have, so that one walk makes rows of both (`ingest.otlp.records`).

The frame of a request is read first, its records left as text, and then some records at a time:
objects of Python exist for these only. What the usual reader refuses is looked at once more, with
`null` taken as absent and names of enumerations as their numbers. A record that cannot be read
then either is refused alone. The protobuf library reads JSON too, but at a tenth of the speed, and
ids as base64.

Format: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding and
https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtobufSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as ProtobufStatus

from ingest.errors import DecodeError, LimitError, PayloadError
from ingest.limits import Limits
from ingest.otlp.json_messages import (
    POINT_TYPES,
    InstrumentationScope,
    LogRecord,
    Metric,
    Resource,
    Span,
    read_custom,
)
from ingest.otlp.records import Piece, Records
from ingest.otlp.request import Signal

_T = TypeVar("_T")

#: Records that are objects of Python at once: some 1 MB of them.
_PIECE_RECORDS = 512

#: Arrays and objects within one another. The values that are stored need 140 at most, and a reader
#: calls itself for each, so that more would depend on how deep its caller already is.
_MAX_DEPTH = 200

#: What is left of a text to tell its depth.
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"{}[]'))

_CHUNK_BYTES = 1 << 20

#: Half of a character beyond U+FFFF, as JavaScript writes a text that was cut in the middle of one.
#: No UTF-8 can hold it, and one of them would make all of a request unreadable.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)((?:\\\\)*)\\u[dD](?:[89aAbB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)

#: What msgspec raises on text that it cannot read.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError)


class _Blank(msgspec.Struct, gc=False):
    """Any object at all."""


class _BlankData(msgspec.Struct, rename="camel", gc=False):
    data_points: list[_Blank] | None = None


class _BlankMetric(msgspec.Struct, rename="camel", gc=False):
    gauge: _BlankData | None = None
    sum: _BlankData | None = None
    histogram: _BlankData | None = None
    exponential_histogram: _BlankData | None = None
    summary: _BlankData | None = None


class _Scope(msgspec.Struct, Generic[_T], rename="camel", omit_defaults=True, gc=False):
    """Records of one scope, of whatever signal."""

    scope: msgspec.Raw = msgspec.Raw()
    log_records: list[_T] | None = None
    spans: list[_T] | None = None
    metrics: list[_T] | None = None
    schema_url: str | None = None


class _Resource(msgspec.Struct, Generic[_T], rename="camel", omit_defaults=True, gc=False):
    """Scopes of one resource."""

    resource: msgspec.Raw = msgspec.Raw()
    scope_logs: list[_Scope[_T]] | None = None
    scope_spans: list[_Scope[_T]] | None = None
    scope_metrics: list[_Scope[_T]] | None = None
    schema_url: str | None = None


class _Request(msgspec.Struct, Generic[_T], rename="camel", omit_defaults=True, gc=False):
    """The frame of a request; T is what becomes of a record, or of a metric."""

    resource_logs: list[_Resource[_T]] | None = None
    resource_spans: list[_Resource[_T]] | None = None
    resource_metrics: list[_Resource[_T]] | None = None


#: Fields of the frame on the way to the records.
_PATHS = {
    Signal.LOGS: ("resource_logs", "scope_logs", "log_records"),
    Signal.TRACES: ("resource_spans", "scope_spans", "spans"),
    Signal.METRICS: ("resource_metrics", "scope_metrics", "metrics"),
}


def _decoder(type_: type[_T]) -> msgspec.json.Decoder[_T]:
    """Of a message: numbers may be strings, as protobuf has them."""
    return msgspec.json.Decoder(type_, strict=False, dec_hook=read_custom)


_RECORDS: dict[Signal, msgspec.json.Decoder[Any]] = {
    Signal.LOGS: _decoder(LogRecord),
    Signal.TRACES: _decoder(Span),
}
_METRIC = _decoder(Metric)
_POINTS = {kind: _decoder(type_) for kind, type_ in POINT_TYPES.items()}
_RESOURCE = _decoder(Resource)
_SCOPE = _decoder(InstrumentationScope)

#: Of a metric: bytes of its metadata are of a type of their own.
_ENCODE = msgspec.json.Encoder(enc_hook=bytes).encode

_FRAME = msgspec.json.Decoder(_Request[msgspec.Raw])
_SHAPES: dict[Signal, msgspec.json.Decoder[Any]] = {
    Signal.LOGS: msgspec.json.Decoder(_Request[_Blank]),
    Signal.TRACES: msgspec.json.Decoder(_Request[_Blank]),
    Signal.METRICS: msgspec.json.Decoder(_Request[_BlankMetric]),
}


def pieces(body: bytes, signal: Signal, limits: Limits) -> Iterator[Piece]:
    """Read a request.

    Args:
        body: The decompressed body.
        signal: What it exports.
        limits: `max_elements` bounds the objects in the request, and twice that number the bytes
            of one record.

    Raises:
        DecodeError: not JSON, or not such a request.
        LimitError: over a limit.
    """
    reader = _Reader(signal, limits)
    frame = reader.frame(body)
    resources, scopes, _ = _PATHS[signal]
    for of_resource in getattr(frame, resources) or ():
        resource = reader.read(_RESOURCE, of_resource.resource, "resource")
        for of_scope in getattr(of_resource, scopes) or ():
            scope = reader.read(_SCOPE, of_scope.scope, "scope")
            of_piece = _Origin(of_resource, of_scope, resource, scope)
            if signal is Signal.METRICS:
                yield from reader.metrics(of_piece)
            else:
                yield from reader.records(of_piece)


class _Origin(msgspec.Struct):
    """A resource and a scope: their part of the frame, and the messages."""

    of_resource: _Resource[msgspec.Raw]
    of_scope: _Scope[msgspec.Raw]
    resource: Resource
    scope: InstrumentationScope

    def piece(self, records: list[Records], num_bytes: int) -> Piece:
        """A piece of theirs."""
        return Piece(
            self.resource,
            self.of_resource.schema_url or "",
            self.scope,
            self.of_scope.schema_url or "",
            records,
            num_bytes,
        )


class _Reader:
    """Reads one request, and counts its records."""

    def __init__(self, signal: Signal, limits: Limits) -> None:
        self._signal = signal
        self._limits = limits
        self._index = 0

    def frame(self, body: bytes) -> _Request[msgspec.Raw]:
        """The request with its records as text."""
        try:
            _check_utf8(body)
            _check_structure(body, self._limits)
            return self._frame(body)
        except _UNREADABLE as error:
            raise DecodeError(f"not an OTLP request of {self._signal} in JSON: {error}") from None

    def _frame(self, body: bytes) -> _Request[msgspec.Raw]:
        shape = _SHAPES[self._signal]
        try:
            shape.decode(body)  # nothing but objects: no 30 M records `0,0,0`
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            mended = _LONE_SURROGATE.sub(rb"\1\\ufffd", body)
            if mended == body:
                raise
            return self._frame(mended)
        return _FRAME.decode(body)

    def read(self, decoder: msgspec.json.Decoder[_T], raw: msgspec.Raw, what: str) -> _T:
        """A message around the records."""
        text = self._checked(bytes(raw))
        try:
            return _read(decoder, b"{}" if text in (b"", b"null") else text)
        except _UNREADABLE as error:
            where = f"{what} of record {self._index}"
            raise DecodeError(f"not an OTLP request of {self._signal}: {where}: {error}") from None

    def records(self, origin: _Origin) -> Iterator[Piece]:
        """Log records, or spans."""
        raws = getattr(origin.of_scope, _PATHS[self._signal][2]) or []
        for start in range(0, len(raws), _PIECE_RECORDS):
            some = raws[start : start + _PIECE_RECORDS]
            records = self._some(_RECORDS[self._signal], some)
            records.body_of = _Alone(self._signal, origin, some).body_of
            yield origin.piece([records], _num_bytes(some))

    def metrics(self, origin: _Origin) -> Iterator[Piece]:
        """Metrics, or data points of one."""
        pending: list[Records] = []
        num_records = num_bytes = 0
        for raw in origin.of_scope.metrics or ():
            metric = self.read(_METRIC, raw, "metric")
            for records, size in self._points(origin, metric):
                pending.append(records)
                num_bytes += size
                num_records += len(records.messages)
                if num_records >= _PIECE_RECORDS:
                    yield origin.piece(pending, num_bytes)
                    pending, num_records, num_bytes = [], 0, 0
        yield origin.piece(pending, num_bytes)

    def _points(self, origin: _Origin, metric: Metric) -> Iterator[tuple[Records, int]]:
        kind = metric.WhichOneof("data")
        if kind is None:
            return
        raws = getattr(metric, kind).data_points
        for start in range(0, len(raws), _PIECE_RECORDS):
            some = raws[start : start + _PIECE_RECORDS]
            records = self._some(_POINTS[kind], some)
            records.metric = metric
            records.body_of = _Alone(self._signal, origin, some, metric).body_of
            yield records, _num_bytes(some)

    def _some(self, decoder: msgspec.json.Decoder[Any], raws: Sequence[msgspec.Raw]) -> Records:
        """Records as messages, or as the reasons why they cannot be read."""
        messages: list[Any] = []
        unreadable = False
        for index, raw in enumerate(raws, self._index):
            try:
                messages.append(_read(decoder, self._checked(bytes(raw))))
            except _UNREADABLE as error:
                unreadable = True
                messages.append(PayloadError(f"record {index} of the request: {error}"))
        records = Records(messages, self._index, _no_body, unreadable)
        self._index += len(raws)
        return records

    def _checked(self, text: bytes) -> bytes:
        """Refuse a text that could ask for too many objects, the shortest of which takes two."""
        limit = 2 * self._limits.max_elements
        if len(text) > limit:
            what = f"bytes of record {self._index}, of its metric, resource or scope"
            raise LimitError(what, len(text), limit, "twice ARC_MAX_ELEMENTS")
        return text


def _num_bytes(raws: Sequence[msgspec.Raw]) -> int:
    return sum(len(bytes(raw)) for raw in raws)


def _no_body(_place: int) -> bytes:
    return b""


class _Alone(msgspec.Struct):
    """Writes one record as a request of its own."""

    signal: Signal
    origin: _Origin
    raws: Sequence[msgspec.Raw]
    metric: Metric | None = None

    def body_of(self, place: int) -> bytes:
        """The request with the record at this place in `raws`."""
        resources, scopes, records = _PATHS[self.signal]
        raw = self.raws[place]
        if self.metric is not None:
            raw = msgspec.Raw(_ENCODE(_with_point(self.metric, raw)))
        replaced = msgspec.structs.replace
        scope = replaced(self.origin.of_scope, **{records: [raw]})
        resource = replaced(self.origin.of_resource, **{scopes: [scope]})
        return msgspec.json.encode(_Request[msgspec.Raw](**{resources: [resource]}))


def _with_point(metric: Metric, point: msgspec.Raw) -> Metric:
    kind = metric.WhichOneof("data") or ""
    data = msgspec.structs.replace(getattr(metric, kind), data_points=[point])
    return msgspec.structs.replace(metric, **{kind: data})


# --------------------------------------------------------------------------------- text to message


def _read(decoder: msgspec.json.Decoder[_T], text: bytes) -> _T:
    """A message, in the way of OTLP, or else in one of the ways that protobuf has besides."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        usual = _in_the_usual_way(msgspec.json.decode(text))
        try:
            return decoder.decode(msgspec.json.encode(usual))
        except OverflowError:  # an integer of more than 64 bits, which has no place anywhere
            raise error from None


#: Enumerations, by the field that holds one.
_ENUMERATIONS: dict[str, dict[str, int]] = {
    "severityNumber": dict(SeverityNumber.items()),
    "kind": dict(ProtobufSpan.SpanKind.items()),
    "code": dict(ProtobufStatus.StatusCode.items()),
    "aggregationTemporality": dict(AggregationTemporality.items()),
}


def _in_the_usual_way(value: Any) -> Any:
    """Without `null`, and with enumerations as numbers; keys of attributes are values here."""
    if isinstance(value, list):
        return [_in_the_usual_way(item) for item in value]
    if not isinstance(value, dict):
        return value
    present = {key: _in_the_usual_way(item) for key, item in value.items() if item is not None}
    for key, numbers in _ENUMERATIONS.items():
        name = present.get(key)
        if isinstance(name, str):
            present[key] = numbers.get(name, name)
    return present


def _check_utf8(body: bytes) -> None:
    """Texts that no reader looks at are checked as well, without another copy of the body."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _CHUNK_BYTES):
        decoder.decode(body[start : start + _CHUNK_BYTES])
    decoder.decode(b"", final=True)


def _check_structure(body: bytes, limits: Limits) -> None:
    """Bound the objects, and the arrays and objects within one another, before any is made.

    Raises:
        LimitError: over a limit.
    """
    if b"\\" in body:  # escaped quotation marks are none; nothing else matters here
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(body.translate(None, _NOT_STRUCTURE), dtype=np.uint8)
    within = False
    depth = objects = 0
    for start in range(0, len(marks), _CHUNK_BYTES):
        chunk = marks[start : start + _CHUNK_BYTES]
        in_text = np.logical_xor.accumulate(np.append(within, chunk == ord('"')))
        within = bool(in_text[-1])
        outside = chunk[~in_text[1:] & (chunk != ord('"'))]
        objects += int(np.count_nonzero(outside == ord("{")))
        opens = (outside | 0x20) == ord("{")  # and "[", as "}" and "]" differ by that bit too
        depths = depth + np.cumsum(np.where(opens, 1, -1))
        if len(depths):
            depth = int(depths[-1])
            if depths.max() > _MAX_DEPTH:
                what = "JSON arrays and objects within one another"
                raise LimitError(what, int(depths.max()), _MAX_DEPTH, "send them flatter")
    if objects > limits.max_elements:
        what = "JSON objects in one request"
        raise LimitError(what, objects, limits.max_elements, "ARC_MAX_ELEMENTS")
