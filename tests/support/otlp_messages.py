"""OTLP requests made of the protocol's own classes, for tests, and batches as rows of Python."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.logs.v1 import logs_pb2 as logs
from opentelemetry.proto.metrics.v1 import metrics_pb2 as metrics
from opentelemetry.proto.resource.v1 import resource_pb2 as resource
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

from ingest.columns import Column, ColumnBatch
from ingest.otlp.request import Signal

REQUESTS: dict[Signal, Any] = {
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
}

# ------------------------------------------------------------------------------------- by hand


def attribute(key: str, **value: Any) -> common.KeyValue:
    """An attribute, as `attribute("a", int_value=1)`."""
    return common.KeyValue(key=key, value=common.AnyValue(**value))


def array(*values: common.AnyValue) -> common.ArrayValue:
    """An array of values."""
    return common.ArrayValue(values=values)


def nested(depth: int, as_map: bool) -> common.AnyValue:
    """A value in so many others, itself included."""
    value = common.AnyValue(int_value=1)
    for _ in range(depth - 1):
        outer = common.AnyValue()
        if as_map:
            outer.kvlist_value.values.add(key="k").value.MergeFrom(value)
        else:
            outer.array_value.values.add().MergeFrom(value)
        value = outer
    return value


def log_request(
    *records: logs.LogRecord, of: Any = None, scope: Any = None
) -> ExportLogsServiceRequest:
    """A request of log records of one resource and scope."""
    scope_logs = logs.ScopeLogs(scope=scope, log_records=records)
    group = logs.ResourceLogs(resource=of, scope_logs=[scope_logs])
    return ExportLogsServiceRequest(resource_logs=[group])


def span_request(*spans: trace.Span) -> ExportTraceServiceRequest:
    """A request of spans of one resource and scope."""
    group = trace.ResourceSpans(scope_spans=[trace.ScopeSpans(spans=spans)])
    return ExportTraceServiceRequest(resource_spans=[group])


def metric_request(*found: metrics.Metric) -> ExportMetricsServiceRequest:
    """A request of metrics of one resource and scope."""
    group = metrics.ResourceMetrics(scope_metrics=[metrics.ScopeMetrics(metrics=found)])
    return ExportMetricsServiceRequest(resource_metrics=[group])


# ----------------------------------------------------------------------------------- to look at


def cells(column: Column, rows: int) -> list[Any]:
    """The values of a column, None for null."""
    if column.offsets is None:
        values = column.values.tolist()
    else:
        at, blob = column.offsets.tolist(), column.values.tobytes()
        values = [blob[low:high].decode() for low, high in itertools.pairwise(at)]
    present = [True] * rows if column.validity is None else column.validity.tolist()
    return [value if there else None for value, there in zip(values, present, strict=True)]


def rows_of(batch: ColumnBatch) -> list[dict[str, Any]]:
    """A batch as rows, without what is null."""
    rows: list[dict[str, Any]] = [{"time": time} for time in batch.time_us.tolist()]
    for name, column in batch.columns.items():
        for row, value in zip(rows, cells(column, batch.num_rows), strict=True):
            if value is not None:
                row[name] = value
    return rows


# --------------------------------------------------------------------------------- by Hypothesis

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

#: Few keys, so that they meet: two that differ in capitals, the empty one, and a long one.
KEYS = st.sampled_from(["a", "A", "b", "c.d", "", "ß", "x" * 250, "time", "e", "f"])

TIMES = st.sampled_from([0, 1, 999, 1000, 1_700_000_000_123_456_789, 2**63 - 1, 2**63, 2**64 - 1])
COUNTS = st.sampled_from([0, 1, 2**53 + 1, 2**63 - 1, 2**63]) | st.integers(0, 100)
IDS = st.sampled_from([b"", b"\0" * 8, bytes(range(16)), b"\xff"])
UINT32 = st.sampled_from([0, 1, 257, 2**32 - 1])
INT32 = st.sampled_from([0, 1, 2, 3, 99, -1, 2**31 - 1])
INT64 = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats() | st.sampled_from([0.0, -0.0, 1.0, 1e22, 5e-324])


def _built(message: Any, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Messages with some of the fields."""
    given = {name: st.just(None) | values for name, values in fields.items()}
    return st.builds(message, **given)


def _some(values: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=most)


def _values(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.builds(common.KeyValue, key=KEYS, value=inner)
    return st.one_of(
        st.builds(lambda v: common.AnyValue(array_value=common.ArrayValue(values=v)), _some(inner)),
        st.builds(
            lambda v: common.AnyValue(kvlist_value=common.KeyValueList(values=v)), _some(pairs)
        ),
    )


_LEAVES = st.one_of(
    st.builds(common.AnyValue, string_value=TEXTS),
    st.builds(common.AnyValue, int_value=INT64),
    st.builds(common.AnyValue, double_value=DOUBLES),
    st.builds(common.AnyValue, bool_value=st.booleans()),
    st.builds(common.AnyValue, bytes_value=st.binary(max_size=5)),
    st.builds(common.AnyValue),
)
VALUES = st.recursive(_LEAVES, _values, max_leaves=5)
ATTRIBUTES = _some(_built(common.KeyValue, key=KEYS, value=VALUES), 5)

_REFS = _built(
    common.EntityRef,
    schema_url=TEXTS,
    type=TEXTS,
    id_keys=_some(TEXTS),
    description_keys=_some(TEXTS),
)
_RESOURCES = _built(
    resource.Resource,
    attributes=ATTRIBUTES,
    dropped_attributes_count=UINT32,
    entity_refs=_some(_REFS, 2),
)
_SCOPES = _built(
    common.InstrumentationScope,
    name=TEXTS,
    version=TEXTS,
    attributes=ATTRIBUTES,
    dropped_attributes_count=UINT32,
)

_LOG_RECORDS = _built(
    logs.LogRecord,
    time_unix_nano=TIMES,
    observed_time_unix_nano=TIMES,
    severity_number=INT32,
    severity_text=TEXTS,
    body=VALUES,
    attributes=ATTRIBUTES,
    dropped_attributes_count=UINT32,
    flags=UINT32,
    trace_id=IDS,
    span_id=IDS,
    event_name=TEXTS,
)

_EVENTS = _built(
    trace.Span.Event,
    time_unix_nano=TIMES,
    name=TEXTS,
    attributes=ATTRIBUTES,
    dropped_attributes_count=UINT32,
)
_LINKS = _built(
    trace.Span.Link,
    trace_id=IDS,
    span_id=IDS,
    trace_state=TEXTS,
    attributes=ATTRIBUTES,
    dropped_attributes_count=UINT32,
    flags=UINT32,
)
_SPANS = _built(
    trace.Span,
    trace_id=IDS,
    span_id=IDS,
    trace_state=TEXTS,
    parent_span_id=IDS,
    flags=UINT32,
    name=TEXTS,
    kind=INT32,
    start_time_unix_nano=TIMES,
    end_time_unix_nano=TIMES,
    attributes=ATTRIBUTES,
    dropped_attributes_count=UINT32,
    events=_some(_EVENTS, 2),
    dropped_events_count=UINT32,
    links=_some(_LINKS, 2),
    dropped_links_count=UINT32,
    status=_built(trace.Status, message=TEXTS, code=INT32),
)

_EXEMPLARS = st.one_of(
    *(
        _built(
            metrics.Exemplar,
            filtered_attributes=ATTRIBUTES,
            time_unix_nano=TIMES,
            span_id=IDS,
            trace_id=IDS,
            **value,
        )
        for value in ({"as_double": DOUBLES}, {"as_int": INT64}, {})
    )
)
_POINT: dict[str, st.SearchStrategy[Any]] = {
    "attributes": ATTRIBUTES,
    "start_time_unix_nano": TIMES,
    "time_unix_nano": TIMES,
    "flags": UINT32,
}
_SAMPLED = {**_POINT, "exemplars": _some(_EXEMPLARS, 2)}
_NUMBERS = st.one_of(
    *(
        _built(metrics.NumberDataPoint, **_SAMPLED, **value)
        for value in ({"as_double": DOUBLES}, {"as_int": INT64}, {})
    )
)
_SPREAD = {**_SAMPLED, "count": COUNTS, "sum": DOUBLES, "min": DOUBLES, "max": DOUBLES}
_UINT64 = st.sampled_from([0, 1, 2**64 - 1])
_HISTOGRAMS = _built(
    metrics.HistogramDataPoint,
    **_SPREAD,
    bucket_counts=_some(_UINT64),
    explicit_bounds=_some(DOUBLES),
)
_BUCKETS = _built(
    metrics.ExponentialHistogramDataPoint.Buckets, offset=INT32, bucket_counts=_some(_UINT64)
)
_EXPONENTIALS = _built(
    metrics.ExponentialHistogramDataPoint,
    **_SPREAD,
    scale=INT32,
    zero_count=COUNTS,
    positive=_BUCKETS,
    negative=_BUCKETS,
    zero_threshold=DOUBLES,
)
_QUANTILES = _built(metrics.SummaryDataPoint.ValueAtQuantile, quantile=DOUBLES, value=DOUBLES)
_SUMMARIES = _built(
    metrics.SummaryDataPoint,
    **_POINT,
    count=COUNTS,
    sum=DOUBLES,
    quantile_values=_some(_QUANTILES),
)
_DATA: list[dict[str, st.SearchStrategy[Any]]] = [
    {},
    {"gauge": _built(metrics.Gauge, data_points=_some(_NUMBERS))},
    {
        "sum": _built(
            metrics.Sum,
            data_points=_some(_NUMBERS),
            aggregation_temporality=INT32,
            is_monotonic=st.booleans(),
        )
    },
    {
        "histogram": _built(
            metrics.Histogram, data_points=_some(_HISTOGRAMS), aggregation_temporality=INT32
        )
    },
    {
        "exponential_histogram": _built(
            metrics.ExponentialHistogram,
            data_points=_some(_EXPONENTIALS),
            aggregation_temporality=INT32,
        )
    },
    {"summary": _built(metrics.Summary, data_points=_some(_SUMMARIES))},
]
_METRICS = st.one_of(
    *(
        _built(
            metrics.Metric, name=TEXTS, description=TEXTS, unit=TEXTS, metadata=ATTRIBUTES, **data
        )
        for data in _DATA
    )
)


def _requests(signal: Signal) -> st.SearchStrategy[Any]:
    scopes: st.SearchStrategy[Any]
    if signal is Signal.LOGS:
        scopes = _built(
            logs.ScopeLogs, scope=_SCOPES, log_records=_some(_LOG_RECORDS), schema_url=TEXTS
        )
        groups = _built(
            logs.ResourceLogs, resource=_RESOURCES, scope_logs=_some(scopes), schema_url=TEXTS
        )
        return st.builds(ExportLogsServiceRequest, resource_logs=_some(groups))
    if signal is Signal.TRACES:
        scopes = _built(trace.ScopeSpans, scope=_SCOPES, spans=_some(_SPANS), schema_url=TEXTS)
        groups = _built(
            trace.ResourceSpans, resource=_RESOURCES, scope_spans=_some(scopes), schema_url=TEXTS
        )
        return st.builds(ExportTraceServiceRequest, resource_spans=_some(groups))
    scopes = _built(metrics.ScopeMetrics, scope=_SCOPES, metrics=_some(_METRICS), schema_url=TEXTS)
    groups = _built(
        metrics.ResourceMetrics, resource=_RESOURCES, scope_metrics=_some(scopes), schema_url=TEXTS
    )
    return st.builds(ExportMetricsServiceRequest, resource_metrics=_some(groups))


def _named(signal: Signal) -> st.SearchStrategy[tuple[Signal, Any]]:
    return st.tuples(st.just(signal), _requests(signal))


#: Requests of all signals, each with its signal.
REQUESTS_OF_ALL = st.one_of(*map(_named, Signal))
