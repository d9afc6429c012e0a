"""The messages of OTLP JSON, as structures with the attributes of the protobuf messages.

In: what msgspec reads. Out: objects that `ingest.otlp.records` cannot tell from messages of
`opentelemetry.proto`: the same names, `WhichOneof` and `HasField`. Only fields that are stored are
here; others are skipped by the reader. Holds no logic beyond that.

Fields: https://github.com/open-telemetry/opentelemetry-proto (opentelemetry/proto/*/v1/*.proto);
their JSON: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec

Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Int32: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Uint32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

#: A time or a count of a record; msgspec has no bound beyond int64, so the walk looks for that.
Unsigned: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Uint64(int):
    """A number that goes into JSON text as it is, and so has to be in range at once."""


class Id(bytes):
    """A trace or span id, hexadecimal in JSON."""


class Base64(bytes):
    """Bytes, base64 in JSON, of either alphabet, padded or not."""


def read_custom(type_: type, value: Any) -> Any:
    """What msgspec asks for the types above.

    Raises:
        ValueError: the value is not one of them.
    """
    if type_ is Uint64 and isinstance(value, int | str) and not isinstance(value, bool):
        number = int(value) if isinstance(value, int) or value.isascii() else -1
        if 0 <= number < 2**64:
            return Uint64(number)
        raise ValueError("Expected an unsigned integer of 64 bits")
    if type_ is Id and isinstance(value, str):
        return _read_id(value)
    if type_ is Base64 and isinstance(value, str):
        standard = value.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
        return Base64(base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True))
    raise ValueError(f"Expected {type_.__name__}, got {type(value).__name__}")


def _read_id(value: str) -> Id:
    try:
        read = Id(bytes.fromhex(value))
    except ValueError:
        raise ValueError("Expected an id in hexadecimal digits") from None
    if 2 * len(read) != len(value):  # fromhex skips blanks
        raise ValueError("Expected an id in hexadecimal digits")
    return read


class Message(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """A message of the protocol."""

    _one_of: ClassVar[tuple[str, ...]] = ()

    def WhichOneof(self, _name: str) -> str | None:  # noqa: N802, as protobuf calls it
        """Which of the fields of a oneof is set."""
        for field in self._one_of:
            if getattr(self, field) is not None:
                return field
        return None

    def HasField(self, name: str) -> bool:  # noqa: N802, as protobuf calls it
        """Whether a field with presence is set."""
        return getattr(self, name) is not None


# ------------------------------------------------------------------------------------------ common


class AnyValue(Message, frozen=True, gc=False):
    """A value of an attribute, or the body of a log record."""

    _one_of = (
        "string_value",
        "int_value",
        "double_value",
        "bool_value",
        "array_value",
        "kvlist_value",
        "bytes_value",
    )

    string_value: str | None = None
    int_value: Int64 | None = None
    double_value: float | None = None
    bool_value: bool | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: Base64 | None = None


class ArrayValue(Message, frozen=True, gc=False):
    """An array of values."""

    values: list[AnyValue] = []


_NO_VALUE = AnyValue()


class KeyValue(Message, frozen=True, gc=False):
    """An attribute."""

    key: str = ""
    value: AnyValue = _NO_VALUE


class KeyValueList(Message, frozen=True, gc=False):
    """A map."""

    values: list[KeyValue] = []


class EntityRef(Message, frozen=True, gc=False):
    """Which attributes of a resource name an entity."""

    schema_url: str = ""
    type: str = ""
    id_keys: list[str] = []
    description_keys: list[str] = []


class Resource(Message, frozen=True, gc=False):
    """What produced the records."""

    attributes: list[KeyValue] = []
    dropped_attributes_count: Uint32 = 0
    entity_refs: list[EntityRef] = []


class InstrumentationScope(Message, frozen=True, gc=False):
    """Which library produced the records."""

    name: str = ""
    version: str = ""
    attributes: list[KeyValue] = []
    dropped_attributes_count: Uint32 = 0


# -------------------------------------------------------------------------------- logs and traces


class LogRecord(Message, frozen=True, gc=False):
    """A log record."""

    time_unix_nano: Unsigned = 0
    observed_time_unix_nano: Unsigned = 0
    severity_number: Int32 = 0
    severity_text: str = ""
    body: AnyValue = _NO_VALUE
    attributes: list[KeyValue] = []
    dropped_attributes_count: Uint32 = 0
    flags: Uint32 = 0
    trace_id: Id = Id()
    span_id: Id = Id()
    event_name: str = ""


class Event(Message, frozen=True, gc=False):
    """An event of a span."""

    time_unix_nano: Uint64 = Uint64()
    name: str = ""
    attributes: list[KeyValue] = []
    dropped_attributes_count: Uint32 = 0


class Link(Message, frozen=True, gc=False):
    """A link of a span to another."""

    trace_id: Id = Id()
    span_id: Id = Id()
    trace_state: str = ""
    attributes: list[KeyValue] = []
    dropped_attributes_count: Uint32 = 0
    flags: Uint32 = 0


class Status(Message, frozen=True, gc=False):
    """How what a span stands for ended."""

    message: str = ""
    code: Int32 = 0


_UNSET = Status()


class Span(Message, frozen=True, gc=False):
    """A span."""

    trace_id: Id = Id()
    span_id: Id = Id()
    trace_state: str = ""
    parent_span_id: Id = Id()
    flags: Uint32 = 0
    name: str = ""
    kind: Int32 = 0
    start_time_unix_nano: Unsigned = 0
    end_time_unix_nano: Unsigned = 0
    attributes: list[KeyValue] = []
    dropped_attributes_count: Uint32 = 0
    events: list[Event] = []
    dropped_events_count: Uint32 = 0
    links: list[Link] = []
    dropped_links_count: Uint32 = 0
    status: Status = _UNSET


# ---------------------------------------------------------------------------------------- metrics


class Exemplar(Message, frozen=True, gc=False):
    """A measurement that went into a data point."""

    _one_of = ("as_double", "as_int")

    filtered_attributes: list[KeyValue] = []
    time_unix_nano: Uint64 = Uint64()
    as_double: float | None = None
    as_int: Int64 | None = None
    span_id: Id = Id()
    trace_id: Id = Id()


class Point(Message, frozen=True, gc=False):
    """What data points of all types have."""

    attributes: list[KeyValue] = []
    start_time_unix_nano: Unsigned = 0
    time_unix_nano: Unsigned = 0
    flags: Uint32 = 0


class NumberDataPoint(Point, frozen=True, gc=False):
    """A data point of a gauge or a sum."""

    _one_of = ("as_double", "as_int")

    as_double: float | None = None
    as_int: Int64 | None = None
    exemplars: list[Exemplar] = []


class HistogramDataPoint(Point, frozen=True, gc=False):
    """A data point of a histogram."""

    count: Unsigned = 0
    sum: float | None = None
    bucket_counts: list[Uint64] = []
    explicit_bounds: list[float] = []
    exemplars: list[Exemplar] = []
    min: float | None = None
    max: float | None = None


class Buckets(Message, frozen=True, gc=False):
    """One side of an exponential histogram."""

    offset: Int32 = 0
    bucket_counts: list[Uint64] = []


class ExponentialHistogramDataPoint(Point, frozen=True, gc=False):
    """A data point of an exponential histogram."""

    count: Unsigned = 0
    sum: float | None = None
    scale: Int32 = 0
    zero_count: Unsigned = 0
    positive: Buckets | None = None
    negative: Buckets | None = None
    exemplars: list[Exemplar] = []
    min: float | None = None
    max: float | None = None
    zero_threshold: float = 0.0


class ValueAtQuantile(Message, frozen=True, gc=False):
    """A quantile of a summary."""

    quantile: float = 0.0
    value: float = 0.0


class SummaryDataPoint(Point, frozen=True, gc=False):
    """A data point of a summary."""

    count: Unsigned = 0
    sum: float = 0.0
    quantile_values: list[ValueAtQuantile] = []


class Data(Message, frozen=True, gc=False):
    """What the kinds of data of a metric have; the data points are left as they came."""

    data_points: list[msgspec.Raw] = []


class Histogram(Data, frozen=True, gc=False):
    """Data points with a temporality."""

    aggregation_temporality: Int32 = 0


class Sum(Histogram, frozen=True, gc=False):
    """Data points of a sum."""

    is_monotonic: bool = False


class Metric(Message, frozen=True, gc=False):
    """A metric."""

    _one_of = ("gauge", "sum", "histogram", "exponential_histogram", "summary")

    name: str = ""
    description: str = ""
    unit: str = ""
    gauge: Data | None = None
    sum: Sum | None = None
    histogram: Histogram | None = None
    exponential_histogram: Histogram | None = None
    summary: Data | None = None
    metadata: list[KeyValue] = []


#: Type of the data points, by the field of the oneof `data`.
POINT_TYPES: dict[str, type[Point]] = {
    "gauge": NumberDataPoint,
    "sum": NumberDataPoint,
    "histogram": HistogramDataPoint,
    "exponential_histogram": ExponentialHistogramDataPoint,
    "summary": SummaryDataPoint,
}
