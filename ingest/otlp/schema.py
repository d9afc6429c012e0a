"""Tables and columns of OpenTelemetry data: their names, types and rules. Pure, and no decoder.

Every decoder of OTLP, plain or fast, protobuf or JSON, makes the columns that are listed here, so
that they can be held equal. The same for readers: docs/otlp.md.

Formats: https://opentelemetry.io/docs/specs/otlp/ and
https://github.com/open-telemetry/opentelemetry-proto (opentelemetry/proto/*/v1/*.proto).

Rules for all tables
* `time` is µs since 1970. A time in nanoseconds is two columns, `<name>_us` and `<name>_ns`; the
  second is the rest, 1 to 999, null where there is none. `time` and `time_ns` likewise.
* A number that the protocol sends as 0 where it means "none" is null, and so is an empty text or
  id. Where 0 is a value (`ZERO_IS_A_VALUE`), it is stored. A column that is null in all rows of a
  request is not in its batch.
* Columns whose name ends in `_json` hold JSON text.
* Order of columns in a batch: those of `COLUMNS`, then attribute columns as they were admitted,
  then `attributes_json`.

Rules for attributes
* `resource.<key>`, `scope.<key>`, `attributes.<key>`, in this order for each record and, within
  it, as sent. Those of a resource or a scope count from its first record that is stored in the
  table, so those without one leave no trace, and neither does a refused record.
* A string, integer, double or boolean goes to its column if `AttributeColumns.admit` says so.
  Everything else goes to `attributes_json`: bytes, arrays, maps, nothing, values of another type
  than the first that the column took, columns beyond `MAX_ATTRIBUTE_COLUMNS`, names too long,
  names that differ from an earlier one in nothing but capitals.
* If a record has a key twice, the later value replaces the earlier one; what the earlier one
  admitted stays admitted.
"""

from __future__ import annotations

from typing import Final

from ingest.columns import Column, ColumnType
from ingest.limits import MAX_COLUMN_NAME_BYTES

# ------------------------------------------------------------------------------------------ tables

LOGS: Final = "otel_logs"
SPANS: Final = "otel_spans"
GAUGE: Final = "otel_metrics_gauge"
SUM: Final = "otel_metrics_sum"
HISTOGRAM: Final = "otel_metrics_histogram"
EXPONENTIAL_HISTOGRAM: Final = "otel_metrics_exponential_histogram"
SUMMARY: Final = "otel_metrics_summary"

METRIC_TABLES: Final = (GAUGE, SUM, HISTOGRAM, EXPONENTIAL_HISTOGRAM, SUMMARY)

#: In the order in which a decoder returns their batches.
TABLES: Final = (LOGS, SPANS, *METRIC_TABLES)

#: Field of the oneof `data` of a `Metric` -> table of its points.
TABLE_OF_METRIC: Final = {
    "gauge": GAUGE,
    "sum": SUM,
    "histogram": HISTOGRAM,
    "exponential_histogram": EXPONENTIAL_HISTOGRAM,
    "summary": SUMMARY,
}

# ----------------------------------------------------------------------------------------- columns

_INT, _FLOAT, _TEXT, _BOOL = (
    ColumnType.INT64,
    ColumnType.FLOAT64,
    ColumnType.UTF8,
    ColumnType.BOOL,
)

_SCOPE: Final = {
    "scope_name": _TEXT,
    "scope_version": _TEXT,
}

_ORIGIN: Final = {
    "resource_schema_url": _TEXT,
    "resource_dropped_attributes_count": _INT,
    "resource_entity_refs_json": _TEXT,
    "scope_schema_url": _TEXT,
    "scope_dropped_attributes_count": _INT,
}

_METRIC: Final = {
    "metric_name": _TEXT,
    "metric_unit": _TEXT,
    **_SCOPE,
}

_POINT: Final = {
    "time_ns": _INT,
    "start_time_us": _INT,
    "start_time_ns": _INT,
}

_POINT_END: Final = {
    "flags": _INT,
    "metric_description": _TEXT,
    "metric_metadata_json": _TEXT,
    **_ORIGIN,
}

#: The columns of each table but `time`, the attribute columns and `attributes_json`: name -> type.
COLUMNS: Final[dict[str, dict[str, ColumnType]]] = {
    LOGS: {
        **_SCOPE,
        "time_ns": _INT,
        "observed_time_us": _INT,
        "observed_time_ns": _INT,
        "severity_number": _INT,
        "severity_text": _TEXT,
        "event_name": _TEXT,
        "body": _TEXT,
        "body_json": _TEXT,
        "trace_id": _TEXT,
        "span_id": _TEXT,
        "flags": _INT,
        "dropped_attributes_count": _INT,
        **_ORIGIN,
    },
    SPANS: {
        **_SCOPE,
        "time_ns": _INT,
        "end_time_us": _INT,
        "end_time_ns": _INT,
        "duration_ns": _INT,
        "trace_id": _TEXT,
        "span_id": _TEXT,
        "parent_span_id": _TEXT,
        "trace_state": _TEXT,
        "name": _TEXT,
        "kind": _TEXT,
        "status_code": _TEXT,
        "status_message": _TEXT,
        "flags": _INT,
        "events_json": _TEXT,
        "links_json": _TEXT,
        "dropped_attributes_count": _INT,
        "dropped_events_count": _INT,
        "dropped_links_count": _INT,
        **_ORIGIN,
    },
    GAUGE: {
        **_METRIC,
        **_POINT,
        "value_double": _FLOAT,
        "value_int": _INT,
        "exemplars_json": _TEXT,
        **_POINT_END,
    },
    SUM: {
        **_METRIC,
        "aggregation_temporality": _TEXT,
        **_POINT,
        "value_double": _FLOAT,
        "value_int": _INT,
        "is_monotonic": _BOOL,
        "exemplars_json": _TEXT,
        **_POINT_END,
    },
    HISTOGRAM: {
        **_METRIC,
        "aggregation_temporality": _TEXT,
        **_POINT,
        "count": _INT,
        "sum": _FLOAT,
        "min": _FLOAT,
        "max": _FLOAT,
        "bucket_counts_json": _TEXT,
        "explicit_bounds_json": _TEXT,
        "exemplars_json": _TEXT,
        **_POINT_END,
    },
    EXPONENTIAL_HISTOGRAM: {
        **_METRIC,
        "aggregation_temporality": _TEXT,
        **_POINT,
        "count": _INT,
        "sum": _FLOAT,
        "min": _FLOAT,
        "max": _FLOAT,
        "scale": _INT,
        "zero_count": _INT,
        "zero_threshold": _FLOAT,
        "positive_offset": _INT,
        "positive_bucket_counts_json": _TEXT,
        "negative_offset": _INT,
        "negative_bucket_counts_json": _TEXT,
        "exemplars_json": _TEXT,
        **_POINT_END,
    },
    SUMMARY: {
        **_METRIC,
        **_POINT,
        "count": _INT,
        "sum": _FLOAT,
        "quantile_values_json": _TEXT,
        **_POINT_END,
    },
}

#: Columns in which 0, 0.0 or false is stored. `sum`, `min` and `max` of the histograms, and both
#: offsets, are null where the protocol has no value (a field with presence that is not set).
ZERO_IS_A_VALUE: Final = frozenset(
    {
        "duration_ns",
        "value_double",
        "value_int",
        "is_monotonic",
        "count",
        "sum",
        "min",
        "max",
        "scale",
        "zero_count",
        "zero_threshold",
        "positive_offset",
        "negative_offset",
    }
)

#: Listed columns that are tags: what names a series of a metric beside its attributes.
_METRIC_TAGS: Final = frozenset(
    {"metric_name", "metric_unit", "scope_name", "scope_version", "aggregation_temporality"}
)

# -------------------------------------------------------------------------------------- attributes

RESOURCE_PREFIX: Final = "resource."
SCOPE_PREFIX: Final = "scope."
ATTRIBUTE_PREFIX: Final = "attributes."

#: Everything that has no column of its own, as one JSON object by prefixed name.
ATTRIBUTES_JSON: Final = "attributes_json"

#: Attribute columns of one table that one request may fill. Each is a buffer and, in every file,
#: a column chunk; producers that put ids into keys would make millions.
MAX_ATTRIBUTE_COLUMNS: Final = 256

#: Field of the oneof `value` of an `AnyValue` -> type of the column for it. The other kinds have
#: no column.
TYPE_OF_VALUE: Final = {
    "string_value": ColumnType.UTF8,
    "int_value": ColumnType.INT64,
    "double_value": ColumnType.FLOAT64,
    "bool_value": ColumnType.BOOL,
}

#: Most `AnyValue`s within one another. The protobuf library reads 100 messages within one another;
#: a map in a map is three, and those of an exemplar start at the tenth: 31 are the most that it
#: reads everywhere.
MAX_VALUE_DEPTH: Final = 30


class AttributeColumns:
    """Which attributes of one table have a column in one request. Starts anew with each request.

    Attributes:
        types: Of the columns admitted so far, by prefixed name, in the order of admission.
    """

    def __init__(self, table: str, max_columns: int) -> None:
        """Start without a column.

        Args:
            table: One of `TABLES`.
            max_columns: How many columns a table may have, the time included (`Limits`).
        """
        self.types: dict[str, ColumnType] = {}
        self._folded: set[str] = set()
        room = max_columns - len(COLUMNS[table]) - 2  # `time` and `attributes_json`
        self._limit = max(0, min(MAX_ATTRIBUTE_COLUMNS, room))

    def admit(self, name: str, type_: ColumnType) -> bool:
        """Whether a value of this type goes to a column, which is made if it can be.

        Args:
            name: With its prefix.
            type_: One of those of `TYPE_OF_VALUE`.
        """
        known = self.types.get(name)
        if known is not None:
            return known is type_
        folded = name.lower()  # readers of tables do not keep apart what differs in capitals
        if len(self.types) >= self._limit or folded in self._folded:
            return False
        if len(name.encode()) > MAX_COLUMN_NAME_BYTES:
            return False
        self.types[name] = type_
        self._folded.add(folded)
        return True


def tags_of(table: str, columns: dict[str, Column]) -> frozenset[str]:
    """Which columns of a batch are tags.

    Texts of the resource, everywhere; of metrics also those of scope and data point, and the
    listed columns that name a series.
    """
    if table not in METRIC_TABLES:
        return frozenset(
            name
            for name, column in columns.items()
            if column.type is ColumnType.UTF8 and name.startswith(RESOURCE_PREFIX)
        )
    return frozenset(
        name
        for name, column in columns.items()
        if column.type is ColumnType.UTF8 and (is_attribute(name) or name in _METRIC_TAGS)
    )


def is_attribute(name: str) -> bool:
    """Whether a column holds an attribute: no other has a name with such a prefix."""
    return name.startswith((RESOURCE_PREFIX, SCOPE_PREFIX, ATTRIBUTE_PREFIX))


# ------------------------------------------------------------------------------------------- times

#: Last nanosecond that is stored, 2262-04-11: of int64. The protocol has unsigned times.
MAX_TIME_NS: Final = 2**63 - 1


# ------------------------------------------------------------------------------------ enumerations

#: Numbers of the protocol to stored texts. 0 is "unspecified" in all of them, and null here.
SPAN_KINDS: Final = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
STATUS_CODES: Final = {1: "OK", 2: "ERROR"}
TEMPORALITIES: Final = {1: "DELTA", 2: "CUMULATIVE"}


def enum_text(names: dict[int, str], number: int) -> str | None:
    """Stored text of a number: its name, its digits when it has none yet, None for 0."""
    return names.get(number) or (str(number) if number else None)
