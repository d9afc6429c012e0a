"""Messages of OTLP to rows of tables: what each field of the protocol becomes.

In: records with their resource and scope, as messages of `opentelemetry.proto` or as their twins
of `ingest.otlp.json_requests`; both have the same attributes. Out: rows in the builders of the
tables, and records that no table can hold. Parses no bytes, and knows of neither encoding.

Fields and their meaning: https://opentelemetry.io/docs/specs/otel/logs/data-model/,
https://opentelemetry.io/docs/specs/otel/trace/api/,
https://opentelemetry.io/docs/specs/otel/metrics/data-model/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from ingest.columns import ColumnBatch
from ingest.errors import ClientError, PayloadError, TimeError
from ingest.limits import Limits
from ingest.otlp import schema, values
from ingest.otlp.builders import Origin, Rows, TableBuilder
from ingest.otlp.parts import Budget
from ingest.otlp.request import OtlpRequest, RefusedRecord
from ingest.otlp.schema import enum_text
from ingest.otlp.values import Message

#: What the objects around a refused record take, about.
_REFUSED_BYTES = 600

#: Fields that a table stores as int64 and the protocol has as uint64.
_UNSIGNED: dict[str, tuple[str, ...]] = {
    schema.LOGS: ("time_unix_nano", "observed_time_unix_nano"),
    schema.SPANS: ("start_time_unix_nano", "end_time_unix_nano"),
    schema.GAUGE: ("time_unix_nano", "start_time_unix_nano"),
    schema.SUM: ("time_unix_nano", "start_time_unix_nano"),
    schema.HISTOGRAM: ("time_unix_nano", "start_time_unix_nano", "count"),
    schema.EXPONENTIAL_HISTOGRAM: (
        "time_unix_nano",
        "start_time_unix_nano",
        "count",
        "zero_count",
    ),
    schema.SUMMARY: ("time_unix_nano", "start_time_unix_nano", "count"),
}


class Records(msgspec.Struct):
    """Records of one resource and scope, in the order of the body.

    Attributes:
        messages: `LogRecord`s, `Span`s, or data points of one metric. An error stands in for one
            that cannot be read.
        first: Which record of the request the first one is, from 0.
        body_of: Makes `RefusedRecord.body` of the record at a place in `messages`.
        unreadable: Whether there is an error among them.
        metric: Whose points they are; None for logs and spans.
    """

    messages: Sequence[Any]
    first: int
    body_of: Callable[[int], bytes]
    unreadable: bool = False
    metric: Message = None


class Piece(msgspec.Struct):
    """Some records of one resource and scope.

    Attributes:
        resource: A `Resource`.
        resource_url: Its schema URL.
        scope: An `InstrumentationScope`.
        scope_url: Its schema URL.
        records: Logs and spans: one. Metrics: one for each metric.
        num_bytes: What they take in the body, about.
    """

    resource: Message
    resource_url: str
    scope: Message
    scope_url: str
    records: list[Records]
    num_bytes: int


class RequestBuilder:
    """The tables of one request, as they grow."""

    def __init__(self, now_us: int, limits: Limits) -> None:
        self._now_us = now_us
        self._limits = limits
        self._budget = Budget(limits)
        self._tables: dict[str, TableBuilder] = {}
        self._refused: list[RefusedRecord] = []

    def add_logs(self, piece: Piece) -> None:
        """Append log records. Errors: as `TableBuilder.add`, which also holds for the others."""
        self._add(schema.LOGS, piece, _log_rows)

    def add_spans(self, piece: Piece) -> None:
        """Append spans."""
        self._add(schema.SPANS, piece, _span_rows)

    def add_metrics(self, piece: Piece) -> None:
        """Append data points of metrics of all types."""
        by_table: dict[str, list[Records]] = {}
        for records in piece.records:
            table = schema.TABLE_OF_METRIC[records.metric.WhichOneof("data")]
            by_table.setdefault(table, []).append(records)
        for table, of_table in by_table.items():
            self._add(table, msgspec.structs.replace(piece, records=of_table), _point_rows)

    def finish(self) -> OtlpRequest:
        """The request. The builder is used up."""
        built = [self._tables.pop(table) for table in schema.TABLES if table in self._tables]
        batches: list[ColumnBatch] = []
        while built:  # each builder is gone before the next column is made
            batch = built.pop(0).finish(self._now_us)
            if batch is not None:
                batches.append(batch)
        self._refused.sort(key=attrgetter("index"))
        return OtlpRequest(batches, self._refused)

    def _add(self, table: str, piece: Piece, rows_of: _RowsOf) -> None:
        kept = [self._storable(table, records) for records in piece.records]
        if not any(kept):
            return
        builder = self._tables.get(table)
        if builder is None:
            builder = self._tables[table] = TableBuilder(table, self._limits, self._budget)
        metrics = [records.metric for records in piece.records]
        messages = list(chain.from_iterable(kept))
        now_ns = min(max(self._now_us * 1000, 0), schema.MAX_TIME_NS)
        rows = rows_of(_Stored(table, messages, metrics, list(map(len, kept)), now_ns))
        rows.num_bytes = piece.num_bytes
        builder.add(_origin(piece), rows)

    def _storable(self, table: str, records: Records) -> Sequence[Message]:
        """The records that the table can hold; the others are refused."""
        messages = records.messages
        fields = _UNSIGNED[table]
        if not records.unreadable and all(
            max(map(attrgetter(field), messages), default=0) <= schema.MAX_TIME_NS
            for field in fields
        ):
            return messages
        kept = []
        for place, message in enumerate(messages):
            error = _error_of(table, fields, message, records.first + place)
            if error is None:
                kept.append(message)
            else:
                self._refuse(table, records, place, error)
        return kept

    def _refuse(self, table: str, records: Records, place: int, error: ClientError) -> None:
        body = records.body_of(place)
        self._budget.spend(len(body) + _REFUSED_BYTES)
        self._refused.append(RefusedRecord(table, records.first + place, error, body))


def _error_of(table: str, fields: tuple[str, ...], message: Any, index: int) -> ClientError | None:
    """Why a record cannot be stored; None if it can."""
    if isinstance(message, ClientError):
        return message
    where = f"measurement {table!r}, record {index}"
    for field in fields:
        found = getattr(message, field)
        if found <= schema.MAX_TIME_NS:
            continue
        shown = str(found) if found < 2**64 else "an integer of more than 64 bits"
        if field.endswith("unix_nano"):
            return TimeError(f"{where}: {field} {shown} ns is outside the years 1970 to 2262")
        return PayloadError(f"{where}: {field} is {shown}, wanted at most 2**63 - 1")
    return None


def _origin(piece: Piece) -> Origin:
    resource, scope = piece.resource, piece.scope
    columns = {
        "scope_name": scope.name or None,
        "scope_version": scope.version or None,
        "resource_schema_url": piece.resource_url or None,
        "resource_dropped_attributes_count": resource.dropped_attributes_count or None,
        "resource_entity_refs_json": values.entity_refs_text(resource.entity_refs),
        "scope_schema_url": piece.scope_url or None,
        "scope_dropped_attributes_count": scope.dropped_attributes_count or None,
    }
    return Origin(columns, resource.attributes, scope.attributes)


# ------------------------------------------------------------------------------------------- rows


class _Stored(msgspec.Struct):
    """Records on their way to one table.

    Attributes:
        table: Its name.
        messages: The records.
        metrics: Whose points they are.
        counts: How many of them are of each metric.
        now_ns: When the request came.
    """

    table: str
    messages: list[Message]
    metrics: list[Message]
    counts: list[int]
    now_ns: int

    def column(self, field: str) -> list[Any]:
        """A field of all records; None where it is 0 or empty."""
        get = attrgetter(field)
        return [get(message) or None for message in self.messages]

    def exact(self, field: str) -> list[Any]:
        """A field of all records as it is."""
        return list(map(attrgetter(field), self.messages))

    def given(self, field: str) -> list[Any]:
        """A field with presence; None where it is not set."""
        get = attrgetter(field)
        return [get(m) if m.HasField(field) else None for m in self.messages]

    def hex(self, field: str) -> list[str | None]:
        """An id of all records; None where it is empty."""
        get = attrgetter(field)
        return [get(message).hex() or None for message in self.messages]

    def text(self, field: str, render: Callable[[Any], str | None]) -> list[str | None]:
        """A repeated field of all records as JSON."""
        get = attrgetter(field)
        return [render(get(message)) for message in self.messages]

    def of_metric(self, get: Callable[[Message], Any]) -> list[Any]:
        """Something of the metric, for each of its points; None where it is 0 or empty."""
        found: list[Any] = []
        for metric, count in zip(self.metrics, self.counts, strict=True):
            if count:
                found += [get(metric)] * count
        return found

    @property
    def attributes(self) -> Iterable[Sequence[Message]]:
        """Those of each record."""
        return map(attrgetter("attributes"), self.messages)


_RowsOf = Callable[[_Stored], Rows]


def _log_rows(stored: _Stored) -> Rows:
    observed = stored.exact("observed_time_unix_nano")
    sent = stored.exact("time_unix_nano")
    times = [t or o or stored.now_ns for t, o in zip(sent, observed, strict=True)]
    bodies = stored.exact("body")
    kinds = [body.WhichOneof("value") for body in bodies]
    said = list(zip(bodies, kinds, strict=True))
    columns: dict[str, list[Any]] = {
        "severity_number": stored.column("severity_number"),
        "severity_text": stored.column("severity_text"),
        "event_name": stored.column("event_name"),
        "body": [body.string_value if kind == "string_value" else None for body, kind in said],
        "body_json": [
            None if kind == "string_value" else values.body_text(body) for body, kind in said
        ],
        "trace_id": stored.hex("trace_id"),
        "span_id": stored.hex("span_id"),
        "flags": stored.column("flags"),
        "dropped_attributes_count": stored.column("dropped_attributes_count"),
    }
    return Rows(times, {"observed_time": observed}, columns, stored.attributes, 0)


def _span_rows(stored: _Stored) -> Rows:
    starts, ends = stored.exact("start_time_unix_nano"), stored.exact("end_time_unix_nano")
    spans = list(zip(starts, ends, strict=True))
    times = [start or end or stored.now_ns for start, end in spans]
    kinds, codes = stored.exact("kind"), stored.exact("status.code")
    columns: dict[str, list[Any]] = {
        "duration_ns": [end - start if start and end else None for start, end in spans],
        "trace_id": stored.hex("trace_id"),
        "span_id": stored.hex("span_id"),
        "parent_span_id": stored.hex("parent_span_id"),
        "trace_state": stored.column("trace_state"),
        "name": stored.column("name"),
        "kind": [enum_text(schema.SPAN_KINDS, kind) for kind in kinds],
        "status_code": [enum_text(schema.STATUS_CODES, code) for code in codes],
        "status_message": stored.column("status.message"),
        "flags": stored.column("flags"),
        "events_json": stored.text("events", values.events_text),
        "links_json": stored.text("links", values.links_text),
        "dropped_attributes_count": stored.column("dropped_attributes_count"),
        "dropped_events_count": stored.column("dropped_events_count"),
        "dropped_links_count": stored.column("dropped_links_count"),
    }
    return Rows(times, {"end_time": ends}, columns, stored.attributes, 0)


# ---------------------------------------------------------------------------------------- metrics


def _point_rows(stored: _Stored) -> Rows:
    """Data points of any type."""
    times = [time or stored.now_ns for time in stored.exact("time_unix_nano")]
    starts = {"start_time": stored.exact("start_time_unix_nano")}
    columns = {
        "metric_name": stored.of_metric(lambda metric: metric.name or None),
        "metric_unit": stored.of_metric(lambda metric: metric.unit or None),
        "metric_description": stored.of_metric(lambda metric: metric.description or None),
        "metric_metadata_json": stored.of_metric(lambda m: values.map_text(m.metadata)),
        "flags": stored.column("flags"),
        **_COLUMNS_OF[stored.table](stored),
    }
    if stored.table != schema.SUMMARY:
        columns["exemplars_json"] = stored.text("exemplars", values.exemplars_text)
    return Rows(times, starts, columns, stored.attributes, 0)


def _gauge_columns(stored: _Stored) -> dict[str, list[Any]]:
    said = [(point, point.WhichOneof("value")) for point in stored.messages]
    return {
        "value_double": [p.as_double if kind == "as_double" else None for p, kind in said],
        "value_int": [p.as_int if kind == "as_int" else None for p, kind in said],
    }


def _sum_columns(stored: _Stored) -> dict[str, list[Any]]:
    is_monotonic = stored.of_metric(lambda metric: bool(metric.sum.is_monotonic))
    columns = {"is_monotonic": is_monotonic, **_temporality(stored, "sum")}
    return columns | _gauge_columns(stored)


def _histogram_columns(stored: _Stored) -> dict[str, list[Any]]:
    return _distribution(stored, "histogram") | {
        "bucket_counts_json": stored.text("bucket_counts", values.integers_text),
        "explicit_bounds_json": stored.text("explicit_bounds", values.doubles_text),
    }


def _exponential_columns(stored: _Stored) -> dict[str, list[Any]]:
    columns = _distribution(stored, "exponential_histogram") | {
        "scale": stored.exact("scale"),
        "zero_count": stored.exact("zero_count"),
        "zero_threshold": stored.exact("zero_threshold"),
    }
    for side in ("positive", "negative"):
        given = stored.given(side)
        columns[f"{side}_offset"] = [None if b is None else b.offset for b in given]
        columns[f"{side}_bucket_counts_json"] = [
            None if b is None else values.integers_text(b.bucket_counts) for b in given
        ]
    return columns


def _summary_columns(stored: _Stored) -> dict[str, list[Any]]:
    return {
        "count": stored.exact("count"),
        "sum": stored.exact("sum"),
        "quantile_values_json": stored.text("quantile_values", values.quantiles_text),
    }


def _distribution(stored: _Stored, field: str) -> dict[str, list[Any]]:
    """What both kinds of histograms have."""
    columns = {"count": stored.exact("count"), **_temporality(stored, field)}
    return columns | {name: stored.given(name) for name in ("sum", "min", "max")}


def _temporality(stored: _Stored, field: str) -> dict[str, list[Any]]:
    get = attrgetter(f"{field}.aggregation_temporality")
    names = schema.TEMPORALITIES
    return {"aggregation_temporality": stored.of_metric(lambda m: enum_text(names, get(m)))}


_COLUMNS_OF: dict[str, Callable[[_Stored], dict[str, list[Any]]]] = {
    schema.GAUGE: _gauge_columns,
    schema.SUM: _sum_columns,
    schema.HISTOGRAM: _histogram_columns,
    schema.EXPONENTIAL_HISTOGRAM: _exponential_columns,
    schema.SUMMARY: _summary_columns,
}
