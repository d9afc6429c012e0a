"""What the head of a write says, and what is refused of it before any body is read."""

from __future__ import annotations

import json

import pytest

from arc.write_routes import ARROW, MSGPACK, ROUTES, Route, WriteHead, read_otlp_head
from ingest.decoders import Parameters
from ingest.errors import InvalidNameError, PayloadError
from ingest.log_format import Format
from ingest.timestamps import TimeUnit

BY_PATH = {route.path: route for route in ROUTES}
LINES = BY_PATH["/write"]


class Head:
    """Headers and query as a test gives them."""

    def __init__(self, headers: dict[str, str] | None = None, **query: str) -> None:
        self.headers = headers or {}
        self.parameters = query

    def header(self, name: bytes) -> str | None:
        return self.headers.get(name.decode())

    def query(self, name: bytes) -> str | None:
        return self.parameters.get(name.decode())


def head_of(route: Route, headers: dict[str, str] | None = None, **query: str) -> WriteHead:
    return route.read_head(Head(headers, **query))


def test_every_path_that_agents_know_writes() -> None:
    lines = ["/write", "/api/v2/write", "/api/v1/write", "/api/v1/write/influxdb"]
    lines += ["/api/v3/write_lp"]
    wanted = {"/api/v1/write/msgpack", "/api/v1/write/arrow", "/api/v1/write/line-protocol", *lines}
    assert set(BY_PATH) == wanted


@pytest.mark.parametrize("path", sorted(BY_PATH))
def test_an_empty_head_means_the_default_database(path: str) -> None:
    found = head_of(BY_PATH[path], {"x-arc-measurement": "m"})
    assert (found.database, found.content_encoding, found.key) == ("default", "", b"")


@pytest.mark.parametrize(
    ("headers", "query", "database"),
    [
        ({"x-arc-database": "a"}, {"db": "b", "bucket": "c"}, "a"),
        ({"x-arc-database": ""}, {"db": "b", "bucket": "c"}, "b"),
        ({}, {"db": "", "bucket": "c"}, "c"),
        ({}, {"bucket": "c/autogen"}, "c"),
        ({}, {"bucket": ""}, "default"),
    ],
)
def test_the_header_goes_before_db_and_db_before_bucket(
    headers: dict[str, str], query: dict[str, str], database: str
) -> None:
    assert head_of(LINES, headers, **query).database == database


@pytest.mark.parametrize(
    ("precision", "unit"),
    [
        *[(name, TimeUnit.NS) for name in ("ns", "n", "", "nanosecond")],
        *[(name, TimeUnit.US) for name in ("us", "u", "µ", "μ", "µs", "microsecond")],
        *[(name, TimeUnit.MS) for name in ("ms", "millisecond")],
        *[(name, TimeUnit.S) for name in ("s", "second")],
        ("m", TimeUnit.M),
        ("h", TimeUnit.H),
    ],
)
def test_precision_is_taken_in_every_spelling_that_clients_use(
    precision: str, unit: TimeUnit
) -> None:
    found = head_of(LINES, precision=precision)
    assert (found.format, found.time_unit) == (Format.LINE_PROTOCOL, unit)


def test_lines_without_a_precision_are_in_nanoseconds_whatever_the_header_says() -> None:
    assert head_of(LINES, {"x-arc-time-unit": "s"}).time_unit is TimeUnit.NS


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(PayloadError, match="precision: found 'd', wanted ns, us, u"):
        head_of(LINES, precision="d")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_times_may_be_named(unit: str) -> None:
    assert head_of(MSGPACK, {"x-arc-time-unit": unit}).time_unit == unit


@pytest.mark.parametrize("unit", ["", "m", "h", "S"])
def test_another_unit_is_refused(unit: str) -> None:
    with pytest.raises(PayloadError, match="x-arc-time-unit: found"):
        head_of(MSGPACK, {"x-arc-time-unit": unit})


def test_the_measurement_of_an_arrow_stream_is_in_a_header_or_in_the_query() -> None:
    found = head_of(ARROW, {"x-arc-measurement": "disk/io", "x-arc-tags": "host, region,"})
    assert found.format is Format.ARROW
    assert Parameters.from_bytes(found.params) == Parameters("disk/io", ("host", "region"))
    named = head_of(ARROW, measurement="温度")
    assert Parameters.from_bytes(named.params) == Parameters("温度")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "x-arc-measurement: not there"),
        ({"x-arc-measurement": "\udcff"}, "x-arc-measurement: not UTF-8"),
        ({"x-arc-measurement": "m", "x-arc-tags": "\udcff"}, "x-arc-tags: not UTF-8"),
        ({"x-arc-measurement": "m", "x-arc-tags": "t" * 70_000}, "x-arc-tags: 70000 bytes"),
        ({"x-arc-measurement": "x" * 129}, "129 characters"),
    ],
)
def test_an_arrow_stream_without_a_usable_measurement_is_refused(
    headers: dict[str, str], words: str
) -> None:
    with pytest.raises(PayloadError, match=words):
        head_of(ARROW, headers)


def test_a_database_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="no spaces"):
        head_of(MSGPACK, {"x-arc-database": "no spaces"})


def test_a_key_is_the_bytes_that_came() -> None:
    assert head_of(MSGPACK, {"idempotency-key": "a\udcffb"}).key == b"a\xffb"
    with pytest.raises(PayloadError, match="Idempotency-Key: 65 bytes, wanted 1 to 64"):
        head_of(MSGPACK, {"idempotency-key": "k" * 65})


def test_what_becomes_of_bad_rows_may_be_said() -> None:
    assert head_of(MSGPACK).on_bad_rows == ""
    assert head_of(MSGPACK, {"x-arc-on-bad-rows": "quarantine"}).on_bad_rows == "quarantine"
    with pytest.raises(PayloadError, match="x-arc-on-bad-rows: found 'drop', wanted reject or"):
        head_of(MSGPACK, {"x-arc-on-bad-rows": "drop"})


def test_otlp_names_its_format() -> None:
    found = read_otlp_head(Head({"content-encoding": "gzip"}), Format.OTLP_LOGS_JSON)
    assert (found.format, found.content_encoding) == (Format.OTLP_LOGS_JSON, "gzip")


def test_an_error_has_the_keys_that_the_client_of_its_path_reads() -> None:
    assert json.loads(MSGPACK.error_body(400, "no")) == {"error": "no"}
    of_2 = BY_PATH["/api/v2/write"]
    refused = {"error": "no", "message": "no", "code": "invalid"}
    assert json.loads(of_2.error_body(400, "no")) == refused
    assert json.loads(of_2.error_body(503, "no")) == refused | {"code": "unavailable"}
