"""OTLP requests in protobuf, a piece at a time.

In: the bytes of an `Export…ServiceRequest`. Out: pieces of records with their resource and scope,
as messages of `opentelemetry.proto`. A large request is cut between its records, on the wire
format, and the library reads each piece for itself: two bytes can ask for a message of a hundred,
so a request of 64 MiB read at once could take gigabytes.

Cutting is sound because of how protobuf merges: the bytes of a message are a list of fields, a
message may be sent in parts, and the parts one after another mean the same as the whole. So the
fields of, say, a `ScopeLogs` that are not records are its head, and any run of its records is a
`ScopeLogs` that has only these.

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from google.protobuf import json_format, message_factory
from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message as Generated
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from ingest.errors import DecodeError, LimitError
from ingest.limits import Limits
from ingest.otlp.records import Piece, Records
from ingest.otlp.request import Signal
from ingest.otlp.values import Message

#: Bytes of records that the library reads at once: some 600 records of logs. At worst, messages of
#: two bytes, 128 Ki of them take some 12 MB.
PIECE_BYTES = 256 * 1024

_LENGTH_DELIMITED = 2

#: Bytes of a value, by wire type. 0 is a varint; groups (3 and 4) are not in proto3.
_FIXED_BYTES = {1: 8, 5: 4}

_MAX_VARINT_BYTES = 10


class _Form(NamedTuple):
    """How the messages of a signal are called."""

    request: Any
    resources: str
    scopes: str
    records: str


_FORMS = {
    Signal.LOGS: _Form(ExportLogsServiceRequest, "resource_logs", "scope_logs", "log_records"),
    Signal.TRACES: _Form(ExportTraceServiceRequest, "resource_spans", "scope_spans", "spans"),
    Signal.METRICS: _Form(
        ExportMetricsServiceRequest, "resource_metrics", "scope_metrics", "metrics"
    ),
}

#: Field numbers on the way to the records: request, resource, scope.
_RESOURCES, _SCOPES, _RECORDS = 1, 2, 2

#: Of `Metric`: the oneof `data`; and in each of its messages the data points.
_DATA = (5, 7, 9, 10, 11)
_POINTS = 1


def pieces(body: bytes, signal: Signal, limits: Limits) -> Iterator[Piece]:
    """Read a request.

    Args:
        body: The decompressed body. Empty: a request without a record.
        signal: What it exports.
        limits: `max_elements` bounds how many records, scopes, resources and other fields around
            records there may be, and twice that number the bytes of one record.

    Raises:
        DecodeError: not protobuf, or not such a request.
        LimitError: over a limit.
    """
    reader = _Reader(signal, limits)
    try:
        yield from reader.small(body) if len(body) <= PIECE_BYTES else reader.large(body)
    except ProtobufError as error:
        raise DecodeError(f"not an OTLP request of {signal} in protobuf: {error}") from None
    except UnicodeDecodeError as error:
        raise DecodeError(f"a text of the request is not UTF-8: {error}") from None


class _Reader:
    """Reads one request, and counts its records."""

    def __init__(self, signal: Signal, limits: Limits) -> None:
        self._form = _FORMS[signal]
        self._is_metrics = signal is Signal.METRICS
        self._resource_type = self._type_of(self._form.request, self._form.resources)
        self._scope_type = self._type_of(self._resource_type, self._form.scopes)
        self._cutter = _Cutter(limits)
        self._index = 0

    @staticmethod
    def _type_of(message: Any, field: str) -> Any:
        descriptor = message.DESCRIPTOR.fields_by_name[field].message_type
        return message_factory.GetMessageClass(descriptor)

    def small(self, body: bytes) -> Iterator[Piece]:
        """The pieces of a request that may be read at once."""
        for resource in getattr(self._form.request.FromString(body), self._form.resources):
            for scope in getattr(resource, self._form.scopes):
                yield self._piece(resource, scope, scope, 0)

    def large(self, body: bytes) -> Iterator[Piece]:
        """The pieces of a request, cut on the wire; nothing but a piece is copied."""
        for of_resource in self._cutter.messages(memoryview(body), _RESOURCES):
            head, scopes = self._cutter.head_and_messages(of_resource, _SCOPES)
            resource = self._resource_type.FromString(head)
            for of_scope in scopes:
                head, runs = self._cutter.head_and_runs(of_scope, _RECORDS)
                scope = self._scope_type.FromString(head)
                for run in runs:
                    yield from self._run(resource, scope, run)

    def _run(self, resource: Message, scope: Message, run: memoryview) -> Iterator[Piece]:
        """Records of one scope, as bytes of a scope that has nothing else."""
        parts = iter((run,))
        if len(run) > PIECE_BYTES and self._is_metrics:  # one metric, or it were shorter
            parts = self._cutter.metric_in_parts(run)
        for part in parts:
            holder = self._scope_type.FromString(bytes(self._cutter.check_size(part)))
            yield self._piece(resource, scope, holder, len(part))

    def _piece(self, resource: Message, scope: Message, holder: Message, num_bytes: int) -> Piece:
        """The records that `holder` has, with the resource and the scope that the others have."""
        found = list(getattr(holder, self._form.records))
        if self._is_metrics:
            records = [r for metric in found for r in self._points(resource, scope, metric)]
        else:
            alone = _Alone(self._form, resource, scope, found)
            records = [Records(found, self._index, alone.body_of)]
            self._index += len(found)
        return Piece(
            resource.resource,
            resource.schema_url,
            scope.scope,
            scope.schema_url,
            records,
            num_bytes,
        )

    def _points(self, resource: Message, scope: Message, metric: Message) -> Iterator[Records]:
        kind = metric.WhichOneof("data")
        if kind is None:
            return
        points = getattr(metric, kind).data_points
        alone = _Alone(self._form, resource, scope, points, metric)
        yield Records(points, self._index, alone.body_of, metric=metric)
        self._index += len(points)


# ----------------------------------------------------------------------------------- on the wire


class _Cutter:
    """Takes messages apart without reading them, and counts what it meets."""

    def __init__(self, limits: Limits) -> None:
        self._max_elements = limits.max_elements
        self._elements = 0

    def messages(self, data: memoryview, number: int) -> list[memoryview]:
        """The messages in a field; other fields are looked at and left out."""
        return self.head_and_messages(data, number)[1]

    def head_and_messages(self, data: memoryview, number: int) -> tuple[bytes, list[memoryview]]:
        """The fields but one, as bytes of a message, and the messages in that one."""
        head, found = [], []
        for field in self._fields(data):
            if field.number == number and field.wire_type == _LENGTH_DELIMITED:
                found.append(data[field.value : field.end])
            else:
                head.append(data[field.start : field.end])
        return self._head(head), found

    def head_and_runs(self, data: memoryview, number: int) -> tuple[bytes, list[memoryview]]:
        """The same, but the one field in runs of at most `PIECE_BYTES`, tags and lengths included.

        A run is longer if it is of one message that is.
        """
        head, runs = [], []
        start = end = 0
        for field in self._fields(data):
            if field.number != number or field.wire_type != _LENGTH_DELIMITED:
                head.append(data[field.start : field.end])
                continue
            if field.start != end or field.end - start > PIECE_BYTES:
                runs.append(data[start:end])
                start = field.start
            end = field.end
        runs.append(data[start:end])
        return self._head(head), [run for run in runs if len(run)]

    def metric_in_parts(self, run: memoryview) -> Iterator[memoryview]:
        """A scope of one large metric as several scopes, each with some of its data points.

        A metric that has more than one kind of data, or one kind twice, stays whole.
        """
        (metric,) = self.messages(run, _RECORDS)
        fields = list(self._fields(metric))
        data = [f for f in fields if f.number in _DATA and f.wire_type == _LENGTH_DELIMITED]
        if len(data) != 1:
            yield run
            return
        (kind,) = data
        head = self._head([metric[f.start : f.end] for f in fields if f is not kind])
        data_head, runs = self.head_and_runs(metric[kind.value : kind.end], _POINTS)
        for points in runs:
            self.check_size(points)
            whole = head + _wrapped(kind.number, data_head + points)
            yield memoryview(_wrapped(_RECORDS, whole))

    def check_size(self, data: memoryview) -> memoryview:
        """Refuse bytes that could ask for too many messages, the shortest of which takes two."""
        if len(data) > max(2 * self._max_elements, PIECE_BYTES):
            what = "bytes of one record, or of a resource or scope"
            raise LimitError(what, len(data), 2 * self._max_elements, "twice ARC_MAX_ELEMENTS")
        return data

    def _head(self, fields: list[memoryview]) -> bytes:
        return bytes(self.check_size(memoryview(b"".join(fields))))

    def _fields(self, data: memoryview) -> Iterator[_Field]:
        at, size = 0, len(data)
        while at < size:
            self._elements += 1
            if self._elements > self._max_elements:
                what = "records, and fields around them, of one request"
                raise LimitError(what, self._elements, self._max_elements, "ARC_MAX_ELEMENTS")
            field = _field(data, at)
            yield field
            at = field.end


class _Field(NamedTuple):
    """A field on the wire: what it is, and where it, its value and what follows begin."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


def _field(data: memoryview, start: int) -> _Field:
    """The field that begins at a place.

    Raises:
        DecodeError: there is none.
    """
    tag, value = _varint(data, start)
    number, wire_type = tag >> 3, tag & 7
    if not 1 <= number < 2**29:
        raise DecodeError(f"not protobuf: field {number} at byte {start} of {len(data)}")
    if wire_type == _LENGTH_DELIMITED:
        length, value = _varint(data, value)
        end = value + length
    elif wire_type == 0:
        end = _varint(data, value)[1]
    elif wire_type in _FIXED_BYTES:
        end = value + _FIXED_BYTES[wire_type]
    else:
        raise DecodeError(f"not OTLP: wire type {wire_type} at byte {start} of {len(data)}")
    if end > len(data):
        raise DecodeError(f"cut off: field {number} ends at byte {end} of {len(data)}")
    return _Field(number, wire_type, start, value, end)


def _varint(data: memoryview, start: int) -> tuple[int, int]:
    """An unsigned number of up to 64 bits, and where it ends."""
    number = shift = 0
    for at in range(start, min(start + _MAX_VARINT_BYTES, len(data))):
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7
    raise DecodeError(f"not protobuf, or cut off: no varint at byte {start} of {len(data)}")


def _wrapped(number: int, data: bytes) -> bytes:
    """A field that holds a message."""
    return _as_varint(number << 3 | _LENGTH_DELIMITED) + _as_varint(len(data)) + data


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# --------------------------------------------------------------------------------- one record alone


class _Alone(msgspec.Struct):
    """Writes one record of a scope as a request of its own, in OTLP JSON."""

    form: _Form
    resource: Message
    scope: Message
    records: Any
    metric: Message = None

    def body_of(self, place: int) -> bytes:
        """The request with the record at this place in `records`."""
        request = self.form.request()
        resource = getattr(request, self.form.resources).add(
            schema_url=self.resource.schema_url, resource=self.resource.resource
        )
        scope = getattr(resource, self.form.scopes).add(
            schema_url=self.scope.schema_url, scope=self.scope.scope
        )
        records = getattr(scope, self.form.records)
        if self.metric is None:
            records.append(self.records[place])
        else:
            self._add_metric(records.add(), self.records[place])
        return to_json(request)

    def _add_metric(self, metric: Message, point: Message) -> None:
        ours = self.metric
        kind = ours.WhichOneof("data")
        head = Metric(
            name=ours.name, description=ours.description, unit=ours.unit, metadata=ours.metadata
        )
        metric.CopyFrom(head)
        data = getattr(metric, kind)
        for field, value in getattr(ours, kind).ListFields():
            if field.name != "data_points":
                setattr(data, field.name, value)
        data.data_points.append(point)


#: Fields of type bytes that OTLP writes in hexadecimal, where protobuf has base64.
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def to_json(message: Generated) -> bytes:
    """A message as OTLP JSON: ids in hexadecimal, enumerations as numbers."""
    said = json_format.MessageToDict(message, use_integers_for_enums=True)
    return json.dumps(_with_hex_ids(said), ensure_ascii=False, allow_nan=False).encode()


def _with_hex_ids(value: Any) -> Any:
    """Ids rewritten. No attribute is taken for one: keys of attributes are values in JSON."""
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: msgspec.convert(item, bytes).hex() if key in _IDS else _with_hex_ids(item)
        for key, item in value.items()
    }
