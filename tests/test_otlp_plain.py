"""The plain decoder of OTLP: every field of every message ends up where docs/otlp.md says.

Requests are made with the protocol's own classes; their JSON is the protobuf library's, with ids
in hexadecimal. Both encodings of one request must give the same columns, however the request is
cut into pieces, and damaged bytes a refusal or columns, nothing else.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.logs.v1 import logs_pb2 as logs
from opentelemetry.proto.metrics.v1 import metrics_pb2 as metrics
from opentelemetry.proto.resource.v1 import resource_pb2 as resource
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

from ingest.errors import (
    ClientError,
    DecodeError,
    LimitError,
    PayloadError,
    TimeError,
    TooLargeError,
)
from ingest.limits import Limits
from ingest.otlp import builders, json_requests, protobuf, schema
from ingest.otlp.plain import decode_plain
from ingest.otlp.protobuf import to_json
from ingest.otlp.request import OtlpRequest, Signal
from ingest.testing import assert_same_batches
from tests.support.otlp_messages import (
    REQUESTS,
    REQUESTS_OF_ALL,
    array,
    attribute,
    log_request,
    metric_request,
    nested,
    rows_of,
    span_request,
)

NOW_US = 1_768_473_000_000_000
LIMITS = Limits()
T = 1_700_000_000_123_456_789  # ns
T_US, T_REST = divmod(T, 1000)

TRACE_ID, SPAN_ID = bytes(range(16)), bytes(range(8, 16))


def signal_of(request: Any) -> Signal:
    return next(signal for signal, type_ in REQUESTS.items() if isinstance(request, type_))


def decode(body: bytes, signal: Signal, is_json: bool, limits: Limits = LIMITS) -> OtlpRequest:
    return decode_plain(body, signal, is_json, NOW_US, limits)


def both(request: Any, limits: Limits = LIMITS) -> OtlpRequest:
    """What protobuf and JSON of a request become, which is the same."""
    signal = signal_of(request)
    found = decode(request.SerializeToString(), signal, False, limits)
    assert_same(decode(to_json(request), signal, True, limits), found)
    return found


def assert_same(one: OtlpRequest, other: OtlpRequest) -> None:
    assert_same_batches(one.batches, other.batches)
    assert len(one.refused) == len(other.refused)
    for a, b in zip(one.refused, other.refused, strict=True):
        assert (a.table, a.index, type(a.error), str(a.error)) == (
            b.table,
            b.index,
            type(b.error),
            str(b.error),
        )
        assert canonical(a.body) == canonical(b.body)


def canonical(body: bytes) -> Any:
    """A refused record again, as protobuf has it: `0` and absent are one there."""
    request = json.loads(body)
    (key,) = request
    signal = {"resourceLogs": "logs", "resourceSpans": "traces", "resourceMetrics": "metrics"}[key]
    return rows_of_body(body, Signal(signal))


def rows_of_body(body: bytes, signal: Signal) -> Any:
    found = decode(body, signal, True)
    assert not found.batches
    (refused,) = found.refused
    return refused.table, type(refused.error)


def rows(request: Any) -> list[dict[str, Any]]:
    """The rows of a request for one table."""
    found = both(request)
    assert not found.refused
    (batch,) = found.batches
    return rows_of(batch)


# -------------------------------------------------------------------------------------------- logs


def test_every_field_of_a_log_record_is_stored() -> None:
    record = logs.LogRecord(
        time_unix_nano=T,
        observed_time_unix_nano=T + 1_000_001,
        severity_number=logs.SEVERITY_NUMBER_ERROR,
        severity_text="ERROR",
        body=common.AnyValue(string_value="no room for größe"),
        attributes=[attribute("a", string_value="x")],
        dropped_attributes_count=3,
        flags=1,
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        event_name="disk.full",
    )
    request = log_request(
        record,
        of=resource.Resource(
            attributes=[attribute("service.name", string_value="shop")],
            dropped_attributes_count=4,
            entity_refs=[common.EntityRef(type="service", id_keys=["service.name"])],
        ),
        scope=common.InstrumentationScope(
            name="lib",
            version="1.2",
            attributes=[attribute("s", bool_value=True)],
            dropped_attributes_count=5,
        ),
    )
    request.resource_logs[0].schema_url = "urn:r"
    request.resource_logs[0].scope_logs[0].schema_url = "urn:s"
    (row,) = rows(request)
    assert row == {
        "time": T_US,
        "time_ns": T_REST,
        "observed_time_us": T_US + 1000,
        "observed_time_ns": T_REST + 1,
        "severity_number": 17,
        "severity_text": "ERROR",
        "event_name": "disk.full",
        "body": "no room for größe",
        "trace_id": TRACE_ID.hex(),
        "span_id": SPAN_ID.hex(),
        "flags": 1,
        "dropped_attributes_count": 3,
        "scope_name": "lib",
        "scope_version": "1.2",
        "resource_schema_url": "urn:r",
        "resource_dropped_attributes_count": 4,
        "resource_entity_refs_json": '[{"type":"service","id_keys":["service.name"]}]',
        "scope_schema_url": "urn:s",
        "scope_dropped_attributes_count": 5,
        "resource.service.name": "shop",
        "scope.s": True,
        "attributes.a": "x",
    }


@pytest.mark.parametrize(
    ("sent", "observed", "time"), [(T, T + 5000, T), (0, T, T), (0, 0, NOW_US * 1000)]
)
def test_a_log_record_has_the_best_time_there_is(sent: int, observed: int, time: int) -> None:
    record = logs.LogRecord(time_unix_nano=sent, observed_time_unix_nano=observed)
    (row,) = rows(log_request(record))
    assert row["time"] * 1000 + row.get("time_ns", 0) == time
    assert row.get("observed_time_us") == (observed // 1000 or None)


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        ({"string_value": ""}, "body", ""),
        ({"string_value": "plain"}, "body", "plain"),
        ({"int_value": -(2**63)}, "body_json", "-9223372036854775808"),
        ({"double_value": 1.0}, "body_json", "1.0"),
        ({"double_value": math.inf}, "body_json", '"Infinity"'),
        ({"bool_value": False}, "body_json", "false"),
        ({"bytes_value": b"\xff\xfe"}, "body_json", '"//4="'),
        ({"array_value": array()}, "body_json", "[]"),
        ({"kvlist_value": common.KeyValueList()}, "body_json", "{}"),
    ],
)
def test_a_body_is_text_or_json(value: dict[str, Any], column: str, text: str) -> None:
    (row,) = rows(log_request(logs.LogRecord(body=common.AnyValue(**value))))
    assert {name: row[name] for name in ("body", "body_json") if name in row} == {column: text}


def test_a_body_that_sets_nothing_is_null() -> None:
    empty = logs.LogRecord(body=common.AnyValue())
    assert rows(log_request(empty, logs.LogRecord())) == [{"time": NOW_US}, {"time": NOW_US}]


# ------------------------------------------------------------------------------------------- spans


SPAN = trace.Span(
    trace_id=TRACE_ID,
    span_id=SPAN_ID,
    trace_state="a=b",
    parent_span_id=SPAN_ID[::-1],
    flags=0x301,
    name="GET /",
    kind=trace.Span.SPAN_KIND_SERVER,
    start_time_unix_nano=T,
    end_time_unix_nano=T + 2_000_000_001,
    attributes=[attribute("http.status", int_value=200)],
    dropped_attributes_count=1,
    events=[
        trace.Span.Event(
            time_unix_nano=T + 7,
            name="retry",
            attributes=[attribute("n", int_value=2)],
            dropped_attributes_count=9,
        ),
        trace.Span.Event(),
    ],
    dropped_events_count=2,
    links=[
        trace.Span.Link(
            trace_id=TRACE_ID,
            span_id=SPAN_ID,
            trace_state="c=d",
            attributes=[attribute("why", string_value="batch")],
            dropped_attributes_count=8,
            flags=1,
        )
    ],
    dropped_links_count=3,
    status=trace.Status(message="bad gateway", code=trace.Status.STATUS_CODE_ERROR),
)


def test_every_field_of_a_span_is_stored() -> None:
    (row,) = rows(span_request(SPAN))
    events, links = row.pop("events_json"), row.pop("links_json")
    assert row == {
        "time": T_US,
        "time_ns": T_REST,
        "end_time_us": T_US + 2_000_000,
        "end_time_ns": T_REST + 1,
        "duration_ns": 2_000_000_001,
        "trace_id": TRACE_ID.hex(),
        "span_id": SPAN_ID.hex(),
        "parent_span_id": SPAN_ID[::-1].hex(),
        "trace_state": "a=b",
        "name": "GET /",
        "kind": "SERVER",
        "status_code": "ERROR",
        "status_message": "bad gateway",
        "flags": 0x301,
        "dropped_attributes_count": 1,
        "dropped_events_count": 2,
        "dropped_links_count": 3,
        "attributes.http.status": 200,
    }
    assert json.loads(events) == [
        {
            "time_unix_nano": T + 7,
            "name": "retry",
            "attributes": {"n": 2},
            "dropped_attributes_count": 9,
        },
        {"time_unix_nano": 0, "name": ""},
    ]
    assert json.loads(links) == [
        {
            "trace_id": TRACE_ID.hex(),
            "span_id": SPAN_ID.hex(),
            "trace_state": "c=d",
            "attributes": {"why": "batch"},
            "dropped_attributes_count": 8,
            "flags": 1,
        }
    ]


@pytest.mark.parametrize(
    ("start", "end", "time", "duration"),
    [
        (T, T, T, 0),
        (T, T - 5, T, -5),
        (T, 0, T, None),
        (0, T, T, None),
        (0, 0, NOW_US * 1000, None),
    ],
)
def test_a_span_has_a_time_and_a_duration_where_both_ends_are_known(
    start: int, end: int, time: int, duration: int | None
) -> None:
    (row,) = rows(span_request(trace.Span(start_time_unix_nano=start, end_time_unix_nano=end)))
    assert row["time"] * 1000 + row.get("time_ns", 0) == time
    assert row.get("duration_ns") == duration


def test_enumerations_are_names_and_new_numbers_are_digits() -> None:
    kinds = [rows(span_request(trace.Span(kind=kind)))[0].get("kind") for kind in range(7)]  # type: ignore[arg-type]
    assert kinds == [None, "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER", "6"]
    codes = [
        rows(span_request(trace.Span(status=trace.Status(code=code))))[0].get("status_code")  # type: ignore[arg-type]
        for code in (0, 1, 2, 3, -1)
    ]
    assert codes == [None, "OK", "ERROR", "3", "-1"]


# ----------------------------------------------------------------------------------------- metrics

POINT: dict[str, Any] = {
    "attributes": [attribute("cpu", int_value=1), attribute("mode", string_value="user")],
    "start_time_unix_nano": T - 1_000_000_000,
    "time_unix_nano": T,
    "flags": 1,
}
EXEMPLARS = [
    metrics.Exemplar(
        filtered_attributes=[attribute("user", string_value="u1")],
        time_unix_nano=T,
        as_int=-5,
        span_id=SPAN_ID,
        trace_id=TRACE_ID,
    ),
    metrics.Exemplar(as_double=2.0),
    metrics.Exemplar(),
]
METRIC: dict[str, Any] = {
    "name": "cpu.time",
    "description": "time of the processor",
    "unit": "s",
    "metadata": [attribute("type", string_value="counter")],
}
POINT_ROW = {
    "time": T_US,
    "time_ns": T_REST,
    "start_time_us": T_US - 1_000_000,
    "start_time_ns": T_REST,
    "flags": 1,
    "metric_name": "cpu.time",
    "metric_description": "time of the processor",
    "metric_unit": "s",
    "metric_metadata_json": '{"type":"counter"}',
    "attributes.cpu": 1,
    "attributes.mode": "user",
}
EXEMPLARS_ROW = [
    {
        "time_unix_nano": T,
        "value_int": -5,
        "trace_id": TRACE_ID.hex(),
        "span_id": SPAN_ID.hex(),
        "attributes": {"user": "u1"},
    },
    {"time_unix_nano": 0, "value_double": 2.0},
    {"time_unix_nano": 0},
]


def test_a_gauge_keeps_integers_exact_and_doubles_apart() -> None:
    points = [
        metrics.NumberDataPoint(**POINT, as_int=2**63 - 1, exemplars=EXEMPLARS),
        metrics.NumberDataPoint(**POINT, as_double=0.0),
        metrics.NumberDataPoint(**POINT),
    ]
    whole, zero, none = rows(
        metric_request(metrics.Metric(**METRIC, gauge=metrics.Gauge(data_points=points)))
    )
    assert json.loads(whole.pop("exemplars_json")) == EXEMPLARS_ROW
    assert whole == {**POINT_ROW, "value_int": 2**63 - 1}
    assert zero == {**POINT_ROW, "value_double": 0.0}
    assert none == POINT_ROW


def test_every_field_of_a_sum_is_stored() -> None:
    point = metrics.NumberDataPoint(**POINT, as_double=1.5, exemplars=EXEMPLARS)
    monotonic = metrics.Sum(
        data_points=[point],
        aggregation_temporality=metrics.AGGREGATION_TEMPORALITY_DELTA,
        is_monotonic=True,
    )
    other = metrics.Sum(data_points=[metrics.NumberDataPoint(time_unix_nano=T, as_int=0)])
    found = metric_request(metrics.Metric(**METRIC, sum=monotonic), metrics.Metric(sum=other))
    first, second = rows(found)
    assert json.loads(first.pop("exemplars_json")) == EXEMPLARS_ROW
    more = {"value_double": 1.5, "aggregation_temporality": "DELTA", "is_monotonic": True}
    assert first == {**POINT_ROW, **more}
    assert second == {"time": T_US, "time_ns": T_REST, "value_int": 0, "is_monotonic": False}


def test_every_field_of_a_histogram_is_stored() -> None:
    point = metrics.HistogramDataPoint(
        **POINT,
        count=6,
        sum=2.5,
        min=0.0,
        max=1.5,
        bucket_counts=[1, 2, 2**64 - 1],
        explicit_bounds=[0.0, 0.5, math.inf],
        exemplars=EXEMPLARS,
    )
    histogram = metrics.Histogram(
        data_points=[point, metrics.HistogramDataPoint(time_unix_nano=T)],
        aggregation_temporality=metrics.AGGREGATION_TEMPORALITY_CUMULATIVE,
    )
    full, bare = rows(metric_request(metrics.Metric(**METRIC, histogram=histogram)))
    assert json.loads(full.pop("exemplars_json")) == EXEMPLARS_ROW
    assert full == {
        **POINT_ROW,
        "aggregation_temporality": "CUMULATIVE",
        "count": 6,
        "sum": 2.5,
        "min": 0.0,
        "max": 1.5,
        "bucket_counts_json": "[1,2,18446744073709551615]",
        "explicit_bounds_json": '[0.0,0.5,"Infinity"]',
    }
    assert bare["count"] == 0
    assert not {"sum", "min", "max", "bucket_counts_json", "explicit_bounds_json"} & bare.keys()


def test_every_field_of_an_exponential_histogram_is_stored() -> None:
    buckets = metrics.ExponentialHistogramDataPoint.Buckets
    point = metrics.ExponentialHistogramDataPoint(
        **POINT,
        count=6,
        sum=-2.5,
        min=-3.0,
        max=1.5,
        scale=-2,
        zero_count=1,
        zero_threshold=0.25,
        positive=buckets(offset=-7, bucket_counts=[1, 0, 2]),
        negative=buckets(),
        exemplars=EXEMPLARS,
    )
    histogram = metrics.ExponentialHistogram(
        data_points=[point, metrics.ExponentialHistogramDataPoint(time_unix_nano=T)],
        aggregation_temporality=metrics.AGGREGATION_TEMPORALITY_DELTA,
    )
    metric = metrics.Metric(**METRIC, exponential_histogram=histogram)
    full, bare = rows(metric_request(metric))
    assert json.loads(full.pop("exemplars_json")) == EXEMPLARS_ROW
    assert full == {
        **POINT_ROW,
        "aggregation_temporality": "DELTA",
        "count": 6,
        "sum": -2.5,
        "min": -3.0,
        "max": 1.5,
        "scale": -2,
        "zero_count": 1,
        "zero_threshold": 0.25,
        "positive_offset": -7,
        "positive_bucket_counts_json": "[1,0,2]",
        "negative_offset": 0,
    }
    assert (bare["scale"], bare["zero_count"], bare["zero_threshold"]) == (0, 0, 0.0)
    assert not {"positive_offset", "negative_offset", "sum"} & bare.keys()


def test_every_field_of_a_summary_is_stored() -> None:
    quantile = metrics.SummaryDataPoint.ValueAtQuantile
    point = metrics.SummaryDataPoint(
        **POINT,
        count=10,
        sum=0.0,
        quantile_values=[quantile(quantile=0.5, value=1.0), quantile(value=math.nan)],
    )
    metric = metrics.Metric(**METRIC, summary=metrics.Summary(data_points=[point]))
    (row,) = rows(metric_request(metric))
    said = '[{"quantile":0.5,"value":1.0},{"quantile":0.0,"value":"NaN"}]'
    assert row == {**POINT_ROW, "count": 10, "sum": 0.0, "quantile_values_json": said}


def test_metrics_of_all_types_go_to_their_tables_in_their_order() -> None:
    number = metrics.NumberDataPoint(as_int=1)
    found = both(
        metric_request(
            metrics.Metric(
                name="a", summary=metrics.Summary(data_points=[metrics.SummaryDataPoint()])
            ),
            metrics.Metric(name="b", gauge=metrics.Gauge(data_points=[number, number])),
            metrics.Metric(name="c"),
            metrics.Metric(name="d", gauge=metrics.Gauge()),
            metrics.Metric(name="e", sum=metrics.Sum(data_points=[number])),
            metrics.Metric(name="f", gauge=metrics.Gauge(data_points=[number])),
        )
    )
    names = {b.measurement: [row["metric_name"] for row in rows_of(b)] for b in found.batches}
    assert list(names) == [schema.GAUGE, schema.SUM, schema.SUMMARY]
    assert list(names.values()) == [["b", "b", "f"], ["e"], ["a"]]


def test_what_names_a_series_is_a_tag() -> None:
    def tags(request: Any) -> frozenset[str]:
        (batch,) = both(request).batches
        return batch.tags

    of = resource.Resource(
        attributes=[attribute("host", string_value="h"), attribute("pid", int_value=1)]
    )
    scope = common.InstrumentationScope(name="lib", attributes=[attribute("s", string_value="t")])
    record = logs.LogRecord(attributes=[attribute("user", string_value="u")])
    assert tags(log_request(record, of=of, scope=scope)) == {"resource.host"}
    point = metrics.NumberDataPoint(as_int=1, attributes=POINT["attributes"])
    request = metric_request(
        metrics.Metric(name="m", unit="s", sum=metrics.Sum(data_points=[point]))
    )
    request.resource_metrics[0].resource.CopyFrom(of)
    request.resource_metrics[0].scope_metrics[0].scope.CopyFrom(scope)
    request.resource_metrics[0].scope_metrics[0].metrics[0].sum.aggregation_temporality = 2
    assert tags(request) == {
        "resource.host",
        "scope.s",
        "scope_name",
        "attributes.mode",
        "metric_name",
        "metric_unit",
        "aggregation_temporality",
    }


# -------------------------------------------------------------------------------------- attributes


def log_rows(*records: list[common.KeyValue]) -> list[dict[str, Any]]:
    """Rows of log records with these attributes, without their time."""
    found = rows(log_request(*(logs.LogRecord(attributes=a) for a in records)))
    return [{name: value for name, value in row.items() if name != "time"} for row in found]


def test_every_kind_of_value_has_its_place() -> None:
    sent = [
        attribute("text", string_value="ü"),
        attribute("empty", string_value=""),
        attribute("int", int_value=-(2**63)),
        attribute("zero", int_value=0),
        attribute("double", double_value=-0.0),
        attribute("nan", double_value=math.nan),
        attribute("no", bool_value=False),
        attribute("bytes", bytes_value=b"\x00\xff"),
        attribute("array", array_value=array(common.AnyValue(int_value=1), common.AnyValue())),
        attribute(
            "map",
            kvlist_value=common.KeyValueList(
                values=[attribute("k", double_value=1.0), attribute("k", double_value=math.inf)]
            ),
        ),
        attribute("none"),
        common.KeyValue(key="absent"),
    ]
    (row,) = log_rows(sent)
    assert math.isnan(row.pop("attributes.nan"))
    assert math.copysign(1, row.pop("attributes.double")) == -1
    assert row == {
        "attributes.text": "ü",
        "attributes.empty": "",
        "attributes.int": -(2**63),
        "attributes.zero": 0,
        "attributes.no": False,
        "attributes_json": '{"attributes.bytes":"AP8=","attributes.array":[1,null],'
        '"attributes.map":{"k":"Infinity"},"attributes.none":null,"attributes.absent":null}',
    }


def test_a_column_has_the_type_of_its_first_value() -> None:
    first, second = log_rows(
        [attribute("a", int_value=1)],
        [attribute("a", double_value=1.0), attribute("b", string_value="x")],
    )
    assert first == {"attributes.a": 1}
    assert second == {"attributes.b": "x", "attributes_json": '{"attributes.a":1.0}'}


def test_keys_that_differ_in_capitals_only_do_not_become_two_columns() -> None:
    found = log_rows(
        [attribute("User", string_value="x"), attribute("user", string_value="y")],
        [attribute("user", string_value="z")],
    )
    assert found == [
        {"attributes.User": "x", "attributes_json": '{"attributes.user":"y"}'},
        {"attributes_json": '{"attributes.user":"z"}'},
    ]


def test_the_later_of_two_values_of_one_key_counts() -> None:
    found = log_rows(
        [attribute("a", int_value=1), attribute("a", int_value=2)],
        [attribute("a", int_value=3), attribute("a", string_value="x")],
        [attribute("a", string_value="y"), attribute("a", int_value=4)],
        [attribute("b"), attribute("b", bytes_value=b""), attribute("a", int_value=5)],
    )
    assert found == [
        {"attributes.a": 2},
        {"attributes_json": '{"attributes.a":"x"}'},
        {"attributes.a": 4},
        {"attributes.a": 5, "attributes_json": '{"attributes.b":""}'},
    ]


def test_names_that_no_column_can_have_are_kept_in_json() -> None:
    longest = "x" * (255 - len("attributes."))
    (row,) = log_rows([attribute(longest, int_value=1), attribute(longest + "y", int_value=2)])
    assert row[f"attributes.{longest}"] == 1
    assert json.loads(row["attributes_json"]) == {f"attributes.{longest}y": 2}
    (row,) = log_rows([attribute("ü" * 123, int_value=1)])
    assert row.keys() == {"attributes_json"}


def test_an_empty_key_is_a_key() -> None:
    assert log_rows([attribute("", int_value=1)]) == [{"attributes.": 1}]


def test_keys_beyond_the_limit_are_kept_in_json() -> None:
    sent = [attribute(f"k{i}", int_value=i) for i in range(schema.MAX_ATTRIBUTE_COLUMNS + 2)]
    first, second = log_rows(sent, sent[-1:])
    assert len(first) == schema.MAX_ATTRIBUTE_COLUMNS + 1
    assert first["attributes_json"] == '{"attributes.k256":256,"attributes.k257":257}'
    assert second == {"attributes_json": '{"attributes.k257":257}'}


def test_a_small_limit_of_columns_leaves_room_for_what_is_listed() -> None:
    listed = len(schema.COLUMNS[schema.LOGS]) + 2
    request = log_request(
        logs.LogRecord(attributes=[attribute(f"k{i}", int_value=i) for i in range(4)])
    )
    for room, in_json in ((-1, 4), (0, 4), (1, 3), (4, 0)):
        limits = msgspec.structs.replace(LIMITS, max_columns=listed + room)
        (batch,) = both(request, limits).batches
        (row,) = rows_of(batch)
        assert len(json.loads(row.get("attributes_json", "{}"))) == in_json


def test_resource_scope_and_record_share_one_object() -> None:
    request = log_request(
        logs.LogRecord(attributes=[attribute("c")]),
        logs.LogRecord(),
        of=resource.Resource(attributes=[attribute("a", bytes_value=b"x")]),
        scope=common.InstrumentationScope(attributes=[attribute("b", array_value=array())]),
    )
    first, second = rows(request)
    shared = '{"resource.a":"eA==","scope.b":[]'
    assert first["attributes_json"] == shared + ',"attributes.c":null}'
    assert second["attributes_json"] == shared + "}"


def test_resources_without_a_record_leave_no_trace() -> None:
    empty = log_request(of=resource.Resource(attributes=[attribute("a", int_value=1)]))
    assert both(empty).batches == []
    empty.MergeFrom(
        log_request(
            logs.LogRecord(), of=resource.Resource(attributes=[attribute("a", string_value="x")])
        )
    )
    (row,) = rows(empty)
    assert row["resource.a"] == "x"


@given(REQUESTS_OF_ALL)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_attribute_is_lost(signal_and_request: tuple[Signal, Any]) -> None:
    signal, request = signal_and_request
    found = decode(request.SerializeToString(), signal, False)
    sent = [(where, dict(attributes)) for where, attributes in sent_attributes(signal, request)]
    refused = {record.index for record in found.refused}
    stored: dict[str, list[dict[str, Any]]] = {}
    for batch in found.batches:
        stored[batch.measurement] = [attributes_of(row) for row in rows_of(batch)]
    for index, (table, wanted) in enumerate(sent):
        if index not in refused:
            assert repr(stored[table].pop(0)) == repr(dict(sorted(wanted.items())))
    assert not any(stored.values())


def attributes_of(row: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a row, wherever they are; in one place each."""
    in_json = json.loads(row.get("attributes_json", "{}"))
    in_columns = {name: in_text(v) for name, v in row.items() if schema.is_attribute(name)}
    assert not in_json.keys() & in_columns.keys()
    return dict(sorted({**in_json, **in_columns}.items()))


def in_text(value: Any) -> Any:
    """What a value is in JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def sent_value(value: common.AnyValue) -> Any:
    """A value, by way of nothing that the decoder uses."""
    if value.HasField("array_value"):
        return [sent_value(item) for item in value.array_value.values]
    if value.HasField("kvlist_value"):
        return {pair.key: sent_value(pair.value) for pair in value.kvlist_value.values}
    fields = value.ListFields()
    return in_text(fields[0][1]) if fields else None


def sent_attributes(signal: Signal, request: Any) -> list[tuple[str, dict[str, Any]]]:
    """Table and attributes of every record of a request."""
    found = []
    for group in request.ListFields()[0][1] if request.ListFields() else []:
        for scope in getattr(
            group, f"scope_{type(group).__name__.removeprefix('Resource').lower()}"
        ):
            for table, record in records_of(signal, scope):
                merged: dict[str, Any] = {}
                for prefix, attributes in (
                    ("resource.", group.resource.attributes),
                    ("scope.", scope.scope.attributes),
                    ("attributes.", record.attributes),
                ):
                    merged |= {prefix + pair.key: sent_value(pair.value) for pair in attributes}
                found.append((table, merged))
    return found


def records_of(signal: Signal, scope: Any) -> list[tuple[str, Any]]:
    if signal is Signal.LOGS:
        return [(schema.LOGS, record) for record in scope.log_records]
    if signal is Signal.TRACES:
        return [(schema.SPANS, span) for span in scope.spans]
    return [
        (f"otel_metrics_{kind}", point)
        for metric in scope.metrics
        if (kind := metric.WhichOneof("data"))
        for point in getattr(metric, kind).data_points
    ]


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("time", [2**63, 2**64 - 1])
def test_a_record_beyond_the_calendar_is_refused_and_the_others_stay(time: int) -> None:
    records = [
        logs.LogRecord(time_unix_nano=T),
        logs.LogRecord(
            time_unix_nano=time, trace_id=TRACE_ID, attributes=[attribute("x", int_value=1)]
        ),
        logs.LogRecord(time_unix_nano=T, observed_time_unix_nano=time),
        logs.LogRecord(time_unix_nano=2**63 - 1),
    ]
    of = resource.Resource(attributes=[attribute("host", string_value="h")])
    found = both(log_request(*records, of=of))
    (batch,) = found.batches
    assert batch.time_us.tolist() == [T_US, (2**63 - 1) // 1000]
    assert "attributes.x" not in batch.columns
    first, second = found.refused
    assert (first.table, first.index, second.index) == (schema.LOGS, 1, 2)
    assert isinstance(first.error, TimeError)
    assert f"record 1: time_unix_nano {time} ns is outside the years" in str(first.error)
    assert "observed_time_unix_nano" in str(second.error)
    again = json.loads(first.body)["resourceLogs"][0]
    assert again["resource"]["attributes"] == [{"key": "host", "value": {"stringValue": "h"}}]
    (record,) = again["scopeLogs"][0]["logRecords"]
    assert record["traceId"] == TRACE_ID.hex()


def test_a_refused_record_is_stored_once_it_is_mended() -> None:
    point = metrics.NumberDataPoint(time_unix_nano=2**63, as_int=5, exemplars=EXEMPLARS)
    kept = metrics.NumberDataPoint(time_unix_nano=T, as_int=6)
    points = metrics.Sum(
        data_points=[kept, point],
        aggregation_temporality=metrics.AGGREGATION_TEMPORALITY_CUMULATIVE,
        is_monotonic=True,
    )
    metric = metrics.Metric(**METRIC, sum=points)
    metric.metadata.append(attribute("raw", bytes_value=b"\xff"))
    request = metric_request(metric)
    request.resource_metrics[0].schema_url = "urn:r"
    for body, is_json in ((request.SerializeToString(), False), (to_json(request), True)):
        (refused,) = decode(body, Signal.METRICS, is_json).refused
        assert (refused.table, refused.index) == (schema.SUM, 1)
        mended = refused.body.replace(b"9223372036854775808", str(T).encode())
        (batch,) = decode(mended, Signal.METRICS, True).batches
        (row,) = rows_of(batch)
        assert json.loads(row.pop("exemplars_json")) == EXEMPLARS_ROW
        assert row == {
            **{name: POINT_ROW[name] for name in POINT_ROW if name.startswith(("metric", "time"))},
            "metric_metadata_json": '{"type":"counter","raw":"/w=="}',
            "resource_schema_url": "urn:r",
            "value_int": 5,
            "aggregation_temporality": "CUMULATIVE",
            "is_monotonic": True,
        }


def test_a_count_that_int64_cannot_hold_is_refused() -> None:
    points = [
        metrics.ExponentialHistogramDataPoint(zero_count=2**63),
        metrics.ExponentialHistogramDataPoint(count=2**64 - 1),
    ]
    metric = metrics.Metric(exponential_histogram=metrics.ExponentialHistogram(data_points=points))
    found = both(metric_request(metric))
    assert not found.batches
    assert [str(refused.error).partition(": ")[2] for refused in found.refused] == [
        "zero_count is 9223372036854775808, wanted at most 2**63 - 1",
        "count is 18446744073709551615, wanted at most 2**63 - 1",
    ]


def test_records_are_counted_over_all_tables_and_scopes() -> None:
    bad, good = (metrics.NumberDataPoint(time_unix_nano=t) for t in (2**63, T))
    request = metric_request(
        metrics.Metric(sum=metrics.Sum(data_points=[good, bad])),
        metrics.Metric(gauge=metrics.Gauge(data_points=[bad, good])),
        metrics.Metric(sum=metrics.Sum(data_points=[bad])),
    )
    request.MergeFrom(metric_request(metrics.Metric(gauge=metrics.Gauge(data_points=[good, bad]))))
    found = both(request).refused
    assert [(refused.index, refused.table) for refused in found] == [
        (1, schema.SUM),
        (2, schema.GAUGE),
        (4, schema.SUM),
        (6, schema.GAUGE),
    ]


# ---------------------------------------------------------------------------------- whole requests


@given(REQUESTS_OF_ALL)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_protobuf_and_json_of_a_request_are_the_same_columns(
    signal_and_request: tuple[Signal, Any],
) -> None:
    both(signal_and_request[1])


@given(REQUESTS_OF_ALL)
@settings(
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ]
)
def test_a_request_in_pieces_is_the_same_columns(
    monkeypatch: pytest.MonkeyPatch, signal_and_request: tuple[Signal, Any]
) -> None:
    request = signal_and_request[1]
    whole = both(request)
    with monkeypatch.context() as patch:
        patch.setattr(protobuf, "PIECE_BYTES", 20)
        patch.setattr(builders, "PIECE_ROWS", 2)
        patch.setattr(json_requests, "_PIECE_RECORDS", 1)
        assert_same(both(request), whole)


def test_a_large_metric_is_read_in_parts() -> None:
    rows = 40_000
    points = [metrics.NumberDataPoint(time_unix_nano=T + i, as_int=i) for i in range(rows)]
    metric = metrics.Metric(**METRIC, sum=metrics.Sum(data_points=points, is_monotonic=True))
    body = metric_request(metric).SerializeToString()
    assert len(body) > 2 * protobuf.PIECE_BYTES
    pieces = list(protobuf.pieces(body, Signal.METRICS, LIMITS))
    assert len(pieces) > 2
    assert {piece.records[0].metric.name for piece in pieces} == {"cpu.time"}
    (batch,) = decode(body, Signal.METRICS, False).batches
    assert [row["value_int"] for row in rows_of(batch)] == list(range(rows))


def test_fields_that_nobody_knows_yet_are_ignored() -> None:
    request = log_request(logs.LogRecord(severity_text="x"))
    unknown = b"\xf8\x07\x05" + b"\xfa\x07\x03abc" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    record = request.resource_logs[0].scope_logs[0].log_records[0].SerializeToString() + unknown
    scope = wrapped(2, record) + unknown
    body = wrapped(1, wrapped(2, scope) + unknown) + unknown
    assert_same(decode(body, Signal.LOGS, False), both(request))
    text = to_json(request).replace(b"{", b'{"unknown":[{"x":[null,1e5]},"y"],', 3)
    assert_same(decode(text, Signal.LOGS, True), both(request))


def wrapped(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes((number << 3 | 2, len(data))) + data


@pytest.mark.parametrize("signal", Signal)
def test_an_empty_request_is_valid(signal: Signal) -> None:
    for body, is_json in ((b"", False), (b"{}", True)):
        assert decode(body, signal, is_json) == OtlpRequest([], [])
    key = {"logs": "Logs", "traces": "Spans", "metrics": "Metrics"}[signal]
    for text in ("[]", "null", "[{}]", f'[{{"scope{key}":null}}]', f'[{{"scope{key}":[{{}}]}}]'):
        assert decode(f'{{"resource{key}":{text}}}'.encode(), signal, True) == OtlpRequest([], [])


@pytest.mark.parametrize("piece_bytes", [protobuf.PIECE_BYTES, 16])
@given(found=REQUESTS_OF_ALL, data=st.data())
@settings(
    max_examples=60,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
def test_damaged_protobuf_is_refused_or_decoded(
    monkeypatch: pytest.MonkeyPatch,
    piece_bytes: int,
    found: tuple[Signal, Any],
    data: st.DataObject,
) -> None:
    signal, request = found
    monkeypatch.setattr(protobuf, "PIECE_BYTES", piece_bytes)
    body = bytearray(request.SerializeToString())
    for cut in {len(body) * part // 7 for part in range(7)}:
        decode_or_refuse(bytes(body[:cut]), signal, False)
    for _ in range(8):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        decode_or_refuse(bytes(body), signal, False)
    decode_or_refuse(bytes(body) + data.draw(st.binary(max_size=4)), signal, False)


@given(found=REQUESTS_OF_ALL, data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_damaged_json_is_refused_or_decoded(found: tuple[Signal, Any], data: st.DataObject) -> None:
    signal, request = found
    body = bytearray(to_json(request))
    for cut in {len(body) * part // 7 for part in range(1, 7)}:
        with pytest.raises(DecodeError):
            decode(bytes(body[:cut]), signal, True)
    replacements = st.sampled_from(list(b'{}[]",:0-9enu\\\x00\xff')) | st.integers(0, 255)
    for _ in range(8):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(replacements)
        decode_or_refuse(bytes(body), signal, True)


def decode_or_refuse(body: bytes, signal: Signal, is_json: bool) -> None:
    try:
        found = decode(body, signal, is_json)
    except ClientError:
        return
    for batch in found.batches:
        assert rows_of(batch)


@pytest.mark.parametrize("piece_bytes", [protobuf.PIECE_BYTES, 0])
@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"\x0a",
        b"\x0a\x05",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
        b"\x0e",
        b"\x08",
        b"\x09\x00",
        b"\x0d\x00",
        b"\x0a\x01\x0a",
        b"\x0a\x03\x12\x02\x12\x09",
        b"\x0a\x02\x1a\x01\xff"[:4] + b"\x01\xff",
        b"not protobuf at all",
    ],
)
def test_what_is_no_request_is_refused(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, body: bytes
) -> None:
    monkeypatch.setattr(protobuf, "PIECE_BYTES", piece_bytes)
    with pytest.raises(DecodeError):
        decode(body, Signal.LOGS, False)


# ----------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("as_map", [False, True])
def test_values_within_one_another_are_bounded(as_map: bool) -> None:
    deepest = nested(schema.MAX_VALUE_DEPTH, as_map)
    record = logs.LogRecord(body=deepest, attributes=[common.KeyValue(key="a", value=deepest)])
    (row,) = rows(log_request(record))
    assert row["body_json"].count("[" if not as_map else "{") == schema.MAX_VALUE_DEPTH - 1
    over = log_request(logs.LogRecord(body=nested(schema.MAX_VALUE_DEPTH + 1, as_map)))
    for body, is_json in ((over.SerializeToString(), False), (to_json(over), True)):
        with pytest.raises(LimitError, match="31, over the limit of 30"):
            decode(body, Signal.LOGS, is_json)


@pytest.mark.parametrize("piece_bytes", [protobuf.PIECE_BYTES, 0])
def test_the_deepest_values_are_read_where_they_lie_deepest(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(protobuf, "PIECE_BYTES", piece_bytes)
    pair = common.KeyValue(key="a", value=nested(schema.MAX_VALUE_DEPTH, True))
    point = metrics.NumberDataPoint(exemplars=[metrics.Exemplar(filtered_attributes=[pair])])
    (row,) = rows(metric_request(metrics.Metric(gauge=metrics.Gauge(data_points=[point]))))
    assert row["exemplars_json"].count("{") == schema.MAX_VALUE_DEPTH + 1


@pytest.mark.parametrize("piece_bytes", [protobuf.PIECE_BYTES, 0])
def test_deep_messages_are_refused_whatever_they_hold(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(protobuf, "PIECE_BYTES", piece_bytes)
    value = b""
    for number in [1, 5] * 400 + [5, 2, 2, 1]:  # arrays, body, record, scope, resource
        value = bytes((number << 3 | 2,)) + varint(len(value)) + value
    with pytest.raises(DecodeError, match="MaxDepth"):
        decode(value, Signal.LOGS, False)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes((number & 127 | 128,))
        number >>= 7
    return out + bytes((number,))


@pytest.mark.parametrize("opening", [b"[", b'{"x":', b'[{"x":'])
def test_deep_json_is_refused_before_it_is_read(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"x":': b"}", b'[{"x":': b"}]"}[opening]
    for depth in (201, 100_000):
        text = b'{"unknown":' + opening * depth + b"1" + closing * depth + b"}"
        with pytest.raises(LimitError, match="over the limit of 200"):
            decode(text, Signal.LOGS, True)
    brackets = b"[" * 1000 + b'\\"{{' + b"\\\\"
    text = b'{"resourceLogs":[{"schemaUrl":"' + brackets + b'"}]}'
    assert decode(text, Signal.LOGS, True).batches == []


@pytest.mark.parametrize(
    ("signal", "body"),
    [
        (Signal.LOGS, b"\x0a\x00" * 300_000),
        (Signal.LOGS, None),
        (Signal.METRICS, None),
    ],
)
def test_records_are_counted_before_they_are_made(signal: Signal, body: bytes | None) -> None:
    if body is None:
        inner = b"\x12\x00" * 300_000
        scope = b"\x12" + varint(len(inner)) + inner
        body = b"\x0a" + varint(len(scope)) + scope
    limits = msgspec.structs.replace(LIMITS, max_elements=200_000)
    with pytest.raises(LimitError, match="ARC_MAX_ELEMENTS"):
        decode(body, signal, False, limits)


def test_one_large_record_is_refused_before_it_is_read() -> None:
    limits = msgspec.structs.replace(LIMITS, max_elements=200_000)
    record = logs.LogRecord(attributes=[common.KeyValue()] * 250_000)
    request = log_request(record)
    for body, is_json in ((request.SerializeToString(), False), (to_json(request), True)):
        with pytest.raises(LimitError, match="ARC_MAX_ELEMENTS"):
            decode(body, Signal.LOGS, is_json, limits)
    decode(request.SerializeToString(), Signal.LOGS, False)


def test_objects_of_json_are_counted_before_they_are_made() -> None:
    limits = msgspec.structs.replace(LIMITS, max_elements=1000)
    text = b'{"resourceLogs":[' + b",".join([b"{}"] * 1000) + b"]}"
    with pytest.raises(
        LimitError, match="JSON objects in one request: 1001, over the limit of 1000"
    ):
        decode(text, Signal.LOGS, True, limits)
    assert decode(text.replace(b"{},", b"", 1), Signal.LOGS, True, limits).batches == []


def test_records_that_are_no_objects_are_refused_before_there_are_many() -> None:
    text = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + b"0," * 100_000 + b"0]}]}]}"
    with pytest.raises(DecodeError, match="Expected `object`, got `int`"):
        decode(text, Signal.LOGS, True)


@pytest.mark.parametrize("is_json", [False, True])
def test_columns_that_would_take_too_much_memory_are_never_made(is_json: bool) -> None:
    limits = msgspec.structs.replace(LIMITS, max_decoded_bytes=1_000_000)
    wide = resource.Resource(attributes=[attribute("a", string_value="x" * 10_000)])
    odd = resource.Resource(
        attributes=[attribute("a", array_value=array(common.AnyValue(string_value="x" * 10_000)))]
    )
    records = [logs.LogRecord(time_unix_nano=T)] * 500
    sparse = [logs.LogRecord(attributes=[attribute(f"k{i}", int_value=1)]) for i in range(5000)]
    late = [logs.LogRecord(time_unix_nano=2**63)] * 500
    for request in (
        log_request(*records, of=wide),
        log_request(*records, of=odd),
        log_request(*sparse),
        log_request(*late, of=wide),
    ):
        body = to_json(request) if is_json else request.SerializeToString()
        with pytest.raises(TooLargeError, match="1000000 bytes"):
            decode(body, Signal.LOGS, is_json, limits)
        assert decode(body, Signal.LOGS, is_json).batches or request.resource_logs


# ------------------------------------------------------------------------------------------- JSON


def log_text(record: str) -> bytes:
    return f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}'.encode()


def json_row(record: str) -> dict[str, Any]:
    found = decode(log_text(record), Signal.LOGS, True)
    assert not found.refused
    (row,) = rows_of(found.batches[0])
    return {name: value for name, value in row.items() if row["time"] != NOW_US or name != "time"}


def test_json_of_the_library_has_ids_in_base64_and_ours_has_them_in_hexadecimal() -> None:
    record = logs.LogRecord(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        attributes=[attribute("traceId", bytes_value=b"x")],
    )
    (found,) = json.loads(to_json(log_request(record)))["resourceLogs"]
    assert found["scopeLogs"][0]["logRecords"] == [
        {
            "traceId": TRACE_ID.hex(),
            "spanId": SPAN_ID.hex(),
            "attributes": [{"key": "traceId", "value": {"bytesValue": "eA=="}}],
        }
    ]


@pytest.mark.parametrize("time", [f'"{T}"', str(T)])
def test_integers_may_be_strings(time: str) -> None:
    row = json_row(f'{{"timeUnixNano":{time},"severityNumber":"9","body":{{"intValue":"-5"}}}}')
    assert row == {"time": T_US, "time_ns": T_REST, "severity_number": 9, "body_json": "-5"}


def test_doubles_may_be_words() -> None:
    values = ('"NaN"', '"-Infinity"', '"1.5"', "2", "1e3")
    found = [json_row(f'{{"body":{{"doubleValue":{value}}}}}')["body_json"] for value in values]
    assert found == ['"NaN"', '"-Infinity"', "1.5", "2.0", "1000.0"]


def test_null_is_absent_everywhere() -> None:
    names = (
        "timeUnixNano observedTimeUnixNano severityNumber severityText body attributes flags "
        "droppedAttributesCount traceId spanId eventName"
    )
    nulls = ",".join(f'"{name}":null' for name in names.split())
    text = log_text(f'{{{nulls}}},{{{nulls},"severityText":"x"}}').replace(
        b'"scopeLogs"', b'"schemaUrl":null,"resource":{"attributes":null},"scopeLogs"'
    )
    text = text.replace(b'"logRecords"', b'"scope":null,"schemaUrl":null,"logRecords"')
    (batch,) = decode(text, Signal.LOGS, True).batches
    assert rows_of(batch) == [{"time": NOW_US}, {"time": NOW_US, "severity_text": "x"}]
    inner = '{"attributes":[{"key":null,"value":{"stringValue":null}},{"key":"a","value":null}]}'
    assert json_row(inner) == {"attributes_json": '{"attributes.":null,"attributes.a":null}'}


def test_enumerations_may_be_names() -> None:
    assert json_row('{"severityNumber":"SEVERITY_NUMBER_WARN2"}') == {"severity_number": 14}
    span = (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_CLIENT",'
        b'"status":{"code":"STATUS_CODE_OK"}}]}]}]}'
    )
    (batch,) = decode(span, Signal.TRACES, True).batches
    (row,) = rows_of(batch)
    assert (row["kind"], row["status_code"]) == ("CLIENT", "OK")
    metric = (
        b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":{"dataPoints":[{"asInt":1}],'
        b'"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA"}}]}]}]}'
    )
    (batch,) = decode(metric, Signal.METRICS, True).batches
    assert rows_of(batch)[0]["aggregation_temporality"] == "DELTA"


@pytest.mark.parametrize("text", ["+_8=", "+_8", "-/8=", "-_8", "+/8="])
def test_base64_may_be_of_either_alphabet(text: str) -> None:
    assert json_row(f'{{"body":{{"bytesValue":"{text}"}}}}') == {"body_json": '"+/8="'}


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\uD83D!\uDE00", "\ufffd!\ufffd"),
        (r"\ud83d\ud83d\ude00\ude00", "\ufffd\U0001f600\ufffd"),
        (r"\\\ude00", "\\\ufffd"),
        (r"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (r"\ud83d\u0041", "\ufffdA"),
    ],
)
def test_half_a_character_is_replaced(text: str, stored: str) -> None:
    assert json_row(f'{{"body":{{"stringValue":"{text}"}}}}') == {"body": stored}


def test_capitals_of_ids_do_not_matter() -> None:
    assert json_row('{"traceId":"00FFab"}') == {"trace_id": "00ffab"}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ('{"traceId":"AAECAwQFBgcICQoLDA0ODw=="}', "hexadecimal"),
        ('{"traceId":"abc"}', "hexadecimal"),
        ('{"traceId":"ab cd"}', "hexadecimal"),
        ('{"traceId":5}', "Expected Id, got int"),
        ('{"severityNumber":"LOUD"}', "$.severityNumber"),
        ('{"severityNumber":2147483648}', "<= 2147483647"),
        ('{"flags":-1}', ">= 0"),
        ('{"timeUnixNano":-1}', ">= 0"),
        ('{"timeUnixNano":"now"}', "$.timeUnixNano"),
        ('{"timeUnixNano":1.5}', "$.timeUnixNano"),
        ('{"timeUnixNano":18446744073709551616}', "more than 64 bits"),
        ('{"timeUnixNano":' + "9" * 5000 + "}", ""),
        ('{"body":"text"}', "$.body"),
        ('{"body":{"intValue":9223372036854775808}}', "9223372036854775807"),
        ('{"body":{"doubleValue":1e999}}', "out of range"),
        ('{"body":{"bytesValue":"%%%%"}}', "$.body.bytesValue"),
        ('{"attributes":{"a":1}}', "$.attributes"),
        ('{"attributes":[null]}', "$.attributes[0]"),
        ('{"severityText":5}', "$.severityText"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_alone(record: str, why: str) -> None:
    text = log_text(f'{{"severityText":"a"}},{record},{{"severityText":"b"}}')
    found = decode(text, Signal.LOGS, True)
    assert [row["severity_text"] for row in rows_of(found.batches[0])] == ["a", "b"]
    (refused,) = found.refused
    assert (refused.table, refused.index) == (schema.LOGS, 1)
    assert isinstance(refused.error, PayloadError)
    assert "record 1" in str(refused.error)
    assert why in str(refused.error)
    assert len(str(refused.error)) < 300
    assert refused.body == log_text(record)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"{",
        b"{}{}",
        b'{"resourceLogs":{}}',
        b'{"resourceLogs":[5]}',
        b'{"resourceLogs":[{"resource":5}]}',
        b'{"resourceLogs":[{"resource":[],"scopeLogs":[{}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"scope":{"name":5}}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[[]]}]}]}',
        b'{"resourceLogs":[{"schemaUrl":5}]}',
        b'{"unknown":"\xff"}',
        b'{"unknown":"\xed\xa0\x80"}',
        "{}".encode("utf-16"),
        b"]]]]}}}}",
    ],
)
def test_what_is_no_request_in_json_is_refused(text: bytes) -> None:
    with pytest.raises(DecodeError, match="not an OTLP request of logs"):
        decode(text, Signal.LOGS, True)


def test_a_metric_that_cannot_be_read_refuses_the_request() -> None:
    for metric in ('{"name":5}', '{"sum":{"aggregationTemporality":"OFTEN"}}', '{"gauge":[]}'):
        text = f'{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{metric}]}}]}}]}}'.encode()
        with pytest.raises(DecodeError, match="not an OTLP request of metrics"):
            decode(text, Signal.METRICS, True)


# -------------------------------------------------------------------------------- the documented


def test_every_table_and_column_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "otlp.md").read_text()
    for table, columns in schema.COLUMNS.items():
        assert f"`{table}`" in page
        for name in columns:
            assert f"`{name}`" in page, name


@given(REQUESTS_OF_ALL)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_batch_has_what_the_schema_lists_and_attributes_after_it(
    signal_and_request: tuple[Signal, Any],
) -> None:
    signal, request = signal_and_request
    for batch in decode(request.SerializeToString(), signal, False).batches:
        listed = schema.COLUMNS[batch.measurement]
        order = [*listed, *(n for n in batch.columns if schema.is_attribute(n)), "attributes_json"]
        assert list(batch.columns) == [name for name in order if name in batch.columns]
        for name, column in batch.columns.items():
            assert column.type is listed.get(name, column.type)
            assert column.validity is None or (column.validity.any() and not column.validity.all())
        assert batch.tags <= batch.columns.keys()
        for row in rows_of(batch):
            for name, value in row.items():
                if name in listed and not value:  # a time may be of less than a microsecond
                    assert name in {*schema.ZERO_IS_A_VALUE, "body"} or f"{name[:-2]}ns" in row


def test_floats_keep_their_bits() -> None:
    for value in (5e-324, 1.7976931348623157e308, -0.0, 0.1):
        point = metrics.NumberDataPoint(as_double=value)
        (row,) = rows(metric_request(metrics.Metric(gauge=metrics.Gauge(data_points=[point]))))
        assert struct.pack("d", row["value_double"]) == struct.pack("d", value)
