"""The OpenTelemetry SDK with its OTLP/HTTP exporters: metrics, logs and traces, read back.

What a table must hold is said by docs/otlp.md; what was sent, by the SDK's own objects, which the
exporters are handed here on their way.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    Histogram,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import Values

pytestmark = pytest.mark.e2e

NOW_NS = 1_790_000_000_123_456_789

#: Every kind of an attribute; those that have no column are in one of JSON text.
RESOURCE = Resource(
    {"service.name": "shop", "cores": 8, "share": 0.5, "spot": True, "zones": ["a", "b"]}
)
RESOURCE_COLUMNS = {
    "resource.service.name": "shop",
    "resource.cores": 8,
    "resource.share": 0.5,
    "resource.spot": True,
}
RESOURCE_JSON = {"resource.zones": ["a", "b"]}

#: One row: what it has, by column, without what it lacks.
Row = dict[str, Any]

_TYPES = {str: "string", int: "int64", float: "double", bool: "bool"}


def rows(table: Mapping[str, Values]) -> list[Row]:
    """The rows of a table, types checked, JSON columns parsed, in an order of their own."""
    found: list[Row] = [{} for _ in table["time"][1]]
    for name, (kind, values) in table.items():
        for row, value in zip(found, values, strict=True):
            if value is not None:
                assert name == "time" or kind == _TYPES[type(value)], name
                row[name] = json.loads(value) if name.endswith("_json") else value
    return ordered(found)


def ordered(found: Iterable[Row]) -> list[Row]:
    """Rows in an order that depends on nothing but what is in them."""
    return sorted(found, key=lambda row: json.dumps(row, sort_keys=True))


def moment(name: str, at_ns: int | None) -> Row:
    """The two columns of a time that is not `time`."""
    if not at_ns:
        return {}
    rest = {f"{name}_ns": at_ns % 1000} if at_ns % 1000 else {}
    return {f"{name}_us": at_ns // 1000} | rest


def main_time(at_ns: int) -> Row:
    """`time` and what is left of it."""
    return {"time": at_ns // 1000} | ({"time_ns": at_ns % 1000} if at_ns % 1000 else {})


def attributes(given: Mapping[str, Any] | None, scope: Mapping[str, Any] | None = None) -> Row:
    """The columns of all attributes of a record of RESOURCE."""
    found: Row = dict(RESOURCE_COLUMNS)
    other: Row = dict(RESOURCE_JSON)
    for prefix, values in (("scope", scope), ("attributes", given)):
        for key, value in (values or {}).items():
            named = f"{prefix}.{key}"
            if isinstance(value, str | int | float):
                found[named] = value
            else:
                other[named] = list(value) if isinstance(value, tuple) else value
    return found | {"attributes_json": other}


@pytest.fixture(params=["main port", "own port"])
def url(request: pytest.FixtureRequest, live: Daemon, otlp_url: str) -> str:
    """Where to send to: the port of everything, or that of OTLP alone."""
    return live.url if request.param == "main port" else otlp_url


COMPRESSIONS = pytest.mark.parametrize(
    "compression", [Compression.NoCompression, Compression.Gzip], ids=["none", "gzip"]
)


# --- metrics -----------------------------------------------------------------------------------


class MetricExporter(OTLPMetricExporter):
    """Keeps what it is given to send, and how that went."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sent: list[MetricsData] = []
        self.results: list[MetricExportResult] = []

    def export(self, metrics_data: MetricsData, *args: Any, **named: Any) -> MetricExportResult:
        """Send them."""
        self.sent.append(metrics_data)
        self.results.append(super().export(metrics_data, *args, **named))
        return self.results[-1]


EXPONENTIAL = View(
    instrument_name="sizes", aggregation=ExponentialBucketHistogramAggregation(max_size=8)
)


def meter_provider(exporter: MetricExporter) -> tuple[MeterProvider, Callable[[], bool]]:
    """A provider whose metrics are sent when the function is called, and never else."""
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = MeterProvider([reader], resource=RESOURCE, views=[EXPONENTIAL])
    return provider, provider.force_flush


def record_everything(provider: MeterProvider) -> None:
    """Use every kind of an instrument."""
    meter = provider.get_meter("shop.orders", "1.2", "https://schema", {"team": "x", "shift": 3})
    counter = meter.create_counter("orders", "{order}", "Orders taken")
    counter.add(3, {"city": "Köln", "express": True, "lanes": [1, 2]})
    counter.add(2**62, {"city": "Ulm"})
    meter.create_counter("weight", "kg").add(0.1)
    meter.create_up_down_counter("open").add(-4, {"city": "Ulm", "level": 2, "load": 0.5})
    meter.create_gauge("heat", "Cel").set(-1.5, {"city": "Ulm"})
    meter.create_gauge("door").set(0)
    latency = meter.create_histogram("latency", "ms")
    sizes = meter.create_histogram("sizes", "By")
    for value in (0.0, 7.5, 1e5):
        latency.record(value, {"city": "Ulm"})
        sizes.record(value)

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(11, {"of": "callback"})]

    meter.create_observable_counter("seen", [observe])
    meter.create_observable_up_down_counter("held", [observe])
    meter.create_observable_gauge("level", [observe])


def expected_points(data: MetricsData) -> dict[str, list[Row]]:
    """Rows by table."""
    found: dict[str, list[Row]] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            about = {
                "scope_name": scope.scope.name,
                "scope_version": scope.scope.version,
                "scope_schema_url": scope.schema_url,
            }
            for metric in scope.metrics:
                named = about | {
                    "metric_name": metric.name,
                    "metric_unit": metric.unit,
                    "metric_description": metric.description,
                }
                for point in metric.data.data_points:
                    kind, values = point_values(metric.data, point)
                    row = {key: value for key, value in named.items() if value} | values
                    row |= main_time(point.time_unix_nano)
                    row |= moment("start_time", point.start_time_unix_nano)
                    row |= attributes(point.attributes, scope.scope.attributes)
                    found.setdefault(f"otel_metrics_{kind}", []).append(row)
    return {table: ordered(points) for table, points in found.items()}


def point_values(data: Any, point: Any) -> tuple[str, Row]:
    """Which table a point belongs in, and what is in it beside times, names and attributes."""
    if isinstance(data, Histogram):
        return "histogram", totals(data, point) | {
            "bucket_counts_json": list(point.bucket_counts),
            "explicit_bounds_json": list(point.explicit_bounds),
        }
    if isinstance(data, ExponentialHistogram):
        return "exponential_histogram", totals(data, point) | {
            "scale": point.scale,
            "zero_count": point.zero_count,
            "zero_threshold": 0.0,
            "positive_offset": point.positive.offset,
            "positive_bucket_counts_json": list(point.positive.bucket_counts),
            "negative_offset": point.negative.offset,
            "negative_bucket_counts_json": list(point.negative.bucket_counts),
        }
    value: Row = {"value_int" if isinstance(point.value, int) else "value_double": point.value}
    if isinstance(data, Sum):
        how = {"aggregation_temporality": "CUMULATIVE", "is_monotonic": data.is_monotonic}
        return "sum", value | how
    return "gauge", value


def totals(data: Any, point: Any) -> Row:
    """What both kinds of histogram have."""
    sums = {name: float(getattr(point, name)) for name in ("sum", "min", "max")}
    return sums | {"count": point.count, "aggregation_temporality": "CUMULATIVE"}


TABLES = {"gauge", "sum", "histogram", "exponential_histogram"}


@COMPRESSIONS
def test_metrics_of_every_instrument(
    url: str, database: str, stored: Reader, compression: Compression
) -> None:
    exporter = MetricExporter(
        endpoint=f"{url}/v1/metrics",
        compression=compression,
        headers={"X-Arc-Database": database, "Authorization": "Bearer any"},
    )
    provider, flush = meter_provider(exporter)
    record_everything(provider)
    assert flush()
    want = expected_points(exporter.sent[0])
    assert want.keys() == {f"otel_metrics_{kind}" for kind in TABLES}
    assert {table: rows(stored(table)) for table in want} == want
    provider.shutdown()
    assert set(exporter.results) == {MetricExportResult.SUCCESS}


def test_metrics_cumulate_from_one_export_to_the_next(
    url: str, database: str, stored: Reader
) -> None:
    exporter = MetricExporter(endpoint=f"{url}/v1/metrics", headers={"x-arc-database": database})
    provider, flush = meter_provider(exporter)
    counter = provider.get_meter("m").create_counter("n")
    for _ in range(3):
        counter.add(1)
        assert flush()
    provider.shutdown()
    assert stored("otel_metrics_sum")["value_int"] == ("int64", [1, 2, 3])


def test_metrics_are_sent_again_after_a_503_and_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    exporter = MetricExporter(
        endpoint=f"{narrow.url}/v1/metrics", headers={"x-arc-database": database}, timeout=30
    )
    provider, flush = meter_provider(exporter)
    provider.get_meter("m").create_counter("n").add(1)
    with full() as relent:
        stopping = threading.Thread(target=flush)
        stopping.start()
        relent()
        stopping.join(30)
    assert not stopping.is_alive()
    provider.shutdown()
    assert exporter.results == [MetricExportResult.SUCCESS]
    assert "Transient error" in caplog.text
    assert rows(stored("otel_metrics_sum", of=narrow)) == expected_points(exporter.sent[0])[
        "otel_metrics_sum"
    ]  # fmt: skip


def test_metrics_of_a_bad_database_are_refused_and_not_sent_again(
    live: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = MetricExporter(endpoint=f"{live.url}/v1/metrics", headers={"x-arc-database": "../x"})
    provider, flush = meter_provider(exporter)
    provider.get_meter("m").create_counter("n").add(1)
    flush()
    assert exporter.results == [MetricExportResult.FAILURE]
    assert "400" in caplog.text
    assert "Transient error" not in caplog.text
    exporter.shutdown()
    provider.shutdown()


# --- logs --------------------------------------------------------------------------------------


GIVEN: dict[str, Any] = {
    "user": "é", "n": 2**62, "f": 0.1, "ok": False, "list": ["a", 1], "map": {"k": None},
}  # fmt: skip


def log_records() -> list[LogRecord]:
    """Bodies of three kinds, times of all combinations."""
    return [
        LogRecord(
            timestamp=NOW_NS,
            observed_timestamp=NOW_NS + 2_000,
            severity_text="WARN",
            severity_number=SeverityNumber.WARN2,
            body="a line\nand another",
            attributes=GIVEN,
        ),
        LogRecord(timestamp=NOW_NS + 1_000, body={"k": [1, "x"]}, event_name="ev"),
        LogRecord(observed_timestamp=NOW_NS + 9_211, body=7),
        LogRecord(timestamp=NOW_NS + 3_000, observed_timestamp=NOW_NS),
    ]


@COMPRESSIONS
def test_logs(url: str, database: str, stored: Reader, compression: Compression) -> None:
    exporter = OTLPLogExporter(
        endpoint=f"{url}/v1/logs", compression=compression, headers={"x-arc-database": database}
    )
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logger = provider.get_logger("shop.log", "2.0", None, {"team": "x"})
    for record in log_records():
        logger.emit(record)
    provider.shutdown()
    scope = {"scope_name": "shop.log", "scope_version": "2.0"}
    plain = attributes({}, {"team": "x"}) | scope
    found = rows(stored("otel_logs"))
    seen = next(row for row in found if row.get("event_name") == "ev")
    assert found == ordered(
        [
            main_time(NOW_NS) | moment("observed_time", NOW_NS + 2_000)
            | {"severity_text": "WARN", "severity_number": 14, "body": "a line\nand another"}
            | attributes(GIVEN, {"team": "x"}) | scope,
            main_time(NOW_NS + 1_000) | {"body_json": {"k": [1, "x"]}, "event_name": "ev"}
            | {key: seen[key] for key in seen if key.startswith("observed_time")} | plain,
            main_time(NOW_NS + 9_211) | moment("observed_time", NOW_NS + 9_211)
            | {"body_json": 7} | plain,
            main_time(NOW_NS + 3_000) | moment("observed_time", NOW_NS) | plain,
        ]
    )  # fmt: skip


def test_logs_in_a_span_carry_its_ids(url: str, database: str, stored: Reader) -> None:
    exporter = OTLPLogExporter(endpoint=f"{url}/v1/logs", headers={"x-arc-database": database})
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    spans = TracerProvider()
    with spans.get_tracer("t").start_as_current_span("s") as span:
        provider.get_logger("l").emit(LogRecord(timestamp=NOW_NS, body="x"))
    provider.shutdown()
    spans.shutdown()
    [row] = rows(stored("otel_logs"))
    assert row["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert row["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert row["flags"] == span.get_span_context().trace_flags


def test_logs_are_sent_again_after_a_503_and_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    exporter = OTLPLogExporter(
        endpoint=f"{narrow.url}/v1/logs", headers={"x-arc-database": database}, timeout=30
    )
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    with full() as relent:
        provider.get_logger("l").emit(LogRecord(timestamp=NOW_NS, body="x"))
        stopping = threading.Thread(target=provider.force_flush)
        stopping.start()
        relent()
        stopping.join(30)
    assert not stopping.is_alive()
    provider.shutdown()
    assert stored("otel_logs", of=narrow)["body"] == ("string", ["x"])


# --- traces ------------------------------------------------------------------------------------


class SpanExporter(OTLPSpanExporter):
    """Keeps what it is given to send, and how that went."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sent: list[ReadableSpan] = []
        self.results: list[SpanExportResult] = []

    def export(self, spans: Any) -> SpanExportResult:
        """Send them."""
        self.sent += spans
        self.results.append(super().export(spans))
        return self.results[-1]


def trace_everything(provider: TracerProvider) -> None:
    """Spans of every kind and status, with events and links."""
    tracer = provider.get_tracer("shop.trace", "3", None, {"team": "x"})
    root = tracer.start_span(
        "GET /", kind=SpanKind.SERVER, start_time=NOW_NS, attributes={"http.status": 200}
    )
    inside = set_span_in_context(root)
    child = tracer.start_span(
        "SELECT é",
        inside,
        kind=SpanKind.CLIENT,
        start_time=NOW_NS + 1_000,
        links=[Link(root.get_span_context(), {"why": "test"})],
        attributes={"db": "x", "rows": 3, "took": 0.5, "ok": True, "ids": [1, 2]},
    )
    child.add_event("found", {"n": 1, "of": "x"}, NOW_NS + 1_500)
    child.add_event("sent", timestamp=NOW_NS + 1_600)
    child.set_status(Status(StatusCode.ERROR, "no such table"))
    child.end(NOW_NS + 2_345_678)
    for number, kind in enumerate((SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.INTERNAL)):
        tracer.start_span(f"s{number}", inside, kind=kind, start_time=NOW_NS + number).end(
            NOW_NS + number
        )
    root.set_status(Status(StatusCode.OK))
    root.end(NOW_NS + 3_000_000)


def expected_span(span: ReadableSpan) -> Row:
    """One row."""
    assert span.start_time is not None
    assert span.end_time is not None
    context = span.get_span_context()
    assert context is not None
    row = main_time(span.start_time) | moment("end_time", span.end_time)
    row |= {
        "duration_ns": span.end_time - span.start_time,
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "name": span.name,
        "kind": span.kind.name,
        "scope_name": "shop.trace",
        "scope_version": "3",
    }
    if span.parent is not None:
        row["parent_span_id"] = f"{span.parent.span_id:016x}"
    if span.status.status_code is not StatusCode.UNSET:
        row["status_code"] = span.status.status_code.name
    if span.status.description:
        row["status_message"] = span.status.description
    return row | attributes(span.attributes, {"team": "x"})


@COMPRESSIONS
def test_traces(url: str, database: str, stored: Reader, compression: Compression) -> None:
    exporter = SpanExporter(
        endpoint=f"{url}/v1/traces", compression=compression, headers={"x-arc-database": database}
    )
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace_everything(provider)
    provider.shutdown()
    assert exporter.results == [SpanExportResult.SUCCESS]
    assert len(exporter.sent) == 5
    found = rows(stored("otel_spans"))
    [events] = [row.pop("events_json") for row in found if "events_json" in row]
    [links] = [row.pop("links_json") for row in found if "links_json" in row]
    # Whether its parent is on another machine (0x200) is known (0x100), and it is not.
    assert {row.pop("flags") for row in found} == {0x100}
    assert found == ordered(map(expected_span, exporter.sent))
    check_events_and_links(events, links, exporter.sent)


def check_events_and_links(
    events: list[Row], links: list[Row], sent: Iterable[ReadableSpan]
) -> None:
    root = next(span for span in sent if span.name == "GET /").get_span_context()
    assert root is not None
    assert events == [
        {"time_unix_nano": NOW_NS + 1_500, "name": "found", "attributes": {"n": 1, "of": "x"}},
        {"time_unix_nano": NOW_NS + 1_600, "name": "sent"},
    ]
    [link] = links
    assert link.pop("flags") == 0x100
    assert link == {
        "trace_id": f"{root.trace_id:032x}",
        "span_id": f"{root.span_id:016x}",
        "attributes": {"why": "test"},
    }


def test_traces_are_sent_again_after_a_503_and_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    exporter = SpanExporter(
        endpoint=f"{narrow.url}/v1/traces", headers={"x-arc-database": database}, timeout=30
    )
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    with full() as relent:
        trace_everything(provider)
        stopping = threading.Thread(target=provider.force_flush)
        stopping.start()
        relent()
        stopping.join(30)
    assert not stopping.is_alive()
    provider.shutdown()
    assert exporter.results == [SpanExportResult.SUCCESS]
    assert len(stored("otel_spans", of=narrow)["time"][1]) == 5


# --- set up by the environment -----------------------------------------------------------------


def test_the_variables_of_the_environment(
    otlp_url: str, database: str, stored: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp_url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-arc-database={database}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    logs = LoggerProvider(resource=RESOURCE)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    logs.get_logger("l").emit(LogRecord(timestamp=NOW_NS, body="x"))
    logs.shutdown()
    spans = TracerProvider(resource=RESOURCE)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    spans.get_tracer("t").start_span("s").end()
    spans.shutdown()
    provider, flush = meter_provider(MetricExporter())
    provider.get_meter("m").create_counter("n").add(1)
    assert flush()
    provider.shutdown()
    assert stored("otel_logs")["body"] == ("string", ["x"])
    assert stored("otel_spans")["name"] == ("string", ["s"])
    assert stored("otel_metrics_sum")["value_int"] == ("int64", [1])


@pytest.fixture(autouse=True)
def exporters_log(caplog: pytest.LogCaptureFixture) -> None:
    """Keep what the exporters say of a failure."""
    caplog.set_level(logging.WARNING, "opentelemetry")
