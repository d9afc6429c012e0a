"""The paths that write, and what the head of a request to each of them says.

In: headers and query of a request, behind `RequestHead`, so that both HTTP servers can ask. Out:
a `WriteHead`, or an error that names the header and what was wanted. Reads no body.

    /api/v1/write/msgpack                              MessagePack, columns or rows
    /api/v1/write/line-protocol, /write, /api/v2/write InfluxDB line protocol
    /api/v1/write, /api/v1/write/influxdb              aliases of /write and /api/v2/write
    /api/v3/write_lp                                   what clients of InfluxDB 3 call instead
    /api/v1/write/arrow                                Arrow IPC stream
    /v1/logs, /v1/traces, /v1/metrics                  OTLP; see arc/handlers/otlp.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from ingest.decoders import Parameters
from ingest.errors import PayloadError
from ingest.log_format import MAX_KEY_BYTES, MAX_PARAMS_BYTES, Format
from ingest.paths import check_database, check_measurement
from ingest.timestamps import TimeUnit

DEFAULT_DATABASE = "default"

#: What to do with rows that their table cannot take; see docs/quarantine.md.
REJECT, QUARANTINE = "reject", "quarantine"

#: Of the header x-arc-time-unit.
_HEADER_UNITS = (TimeUnit.S, TimeUnit.MS, TimeUnit.US, TimeUnit.NS)

#: What clients of InfluxDB call the units of line protocol.
_PRECISIONS = {
    "ns": TimeUnit.NS,
    "n": TimeUnit.NS,
    "us": TimeUnit.US,
    "u": TimeUnit.US,
    "µ": TimeUnit.US,  # U+00B5 and U+03BC look alike
    "μ": TimeUnit.US,
    "µs": TimeUnit.US,
    "ms": TimeUnit.MS,
    "s": TimeUnit.S,
    "m": TimeUnit.M,
    "h": TimeUnit.H,
    # influxdb3-python writes them out.
    "nanosecond": TimeUnit.NS,
    "microsecond": TimeUnit.US,
    "millisecond": TimeUnit.MS,
    "second": TimeUnit.S,
}


#: How InfluxDB 2 calls what went wrong, where it is not the request.
_INFLUXDB_CODES = {413: "request too large", 500: "internal error", 503: "unavailable"}


class RequestHead(Protocol):
    """Headers and query of a request, whichever server read them."""

    def header(self, name: bytes) -> str | None:
        """The value of a header, asked for in lower case; None when absent."""

    def query(self, name: bytes) -> str | None:
        """The first value of a parameter of the query; None when absent."""


class WriteHead(msgspec.Struct, frozen=True, gc=False):
    """What the headers and the query of a write say.

    Attributes:
        format: How the body is to be decoded.
        database: Where the rows go.
        content_encoding: As sent, empty when absent.
        time_unit: Of the times in the body; None: told from the values.
        key: Header Idempotency-Key, 1 to 64 bytes; empty when absent.
        params: `ingest.decoders.Parameters`, encoded.
        on_bad_rows: Header x-arc-on-bad-rows, "reject" or "quarantine"; empty: as the daemon is
            set up.
    """

    format: Format
    database: str
    content_encoding: str = ""
    time_unit: TimeUnit | None = None
    key: bytes = b""
    params: bytes = b""
    on_bad_rows: str = ""


class Route(msgspec.Struct, frozen=True):
    """A path that writes.

    Attributes:
        path: Of the URL.
        door: What `/metrics` counts it under.
        read_head: What a request says about its body.
        is_of_influxdb_2: Whether an error's body has the keys that clients of InfluxDB 2 read.
    """

    path: str
    door: str
    read_head: Callable[[RequestHead], WriteHead]
    is_of_influxdb_2: bool = False

    def error_body(self, status: int, message: str) -> bytes:
        """The body of an answer that refuses: JSON, an object with the key `error`."""
        content = {"error": message}
        if self.is_of_influxdb_2:
            content |= {"message": message, "code": _INFLUXDB_CODES.get(status, "invalid")}
        return msgspec.json.encode(content)


def read_msgpack_head(head: RequestHead) -> WriteHead:
    """A request of MessagePack.

    Raises:
        PayloadError: a header that says nothing, or a database name that cannot be stored.
    """
    return _write_head(head, Format.MSGPACK, _header_unit(head), b"")


def read_line_protocol_head(head: RequestHead) -> WriteHead:
    """A request of line protocol; its times are in nanoseconds unless `precision` says otherwise.

    Raises:
        PayloadError: as `read_msgpack_head`, or an unknown precision.
    """
    precision = head.query(b"precision") or "ns"
    unit = _PRECISIONS.get(precision)
    if unit is None:
        wanted = "ns, us, u, µ, ms, s, m, h or n"
        raise PayloadError(f"query parameter precision: found {precision!r}, wanted {wanted}")
    return _write_head(head, Format.LINE_PROTOCOL, unit, b"")


def read_arrow_head(head: RequestHead) -> WriteHead:
    """A request of an Arrow IPC stream, whose measurement is in a header.

    Raises:
        PayloadError: as `read_msgpack_head`, or no measurement, or a name that cannot be stored.
    """
    measurement = head.header(b"x-arc-measurement") or head.query(b"measurement")
    if not measurement:
        raise PayloadError("header x-arc-measurement: not there, wanted the measurement's name")
    _check_text("x-arc-measurement", measurement)
    check_measurement(measurement)
    names = head.header(b"x-arc-tags") or ""
    _check_text("x-arc-tags", names)
    tags = tuple(name.strip() for name in names.split(",") if name.strip())
    params = Parameters(measurement, tags).to_bytes()
    if len(params) > MAX_PARAMS_BYTES:
        raise PayloadError(f"header x-arc-tags: {len(names)} bytes, wanted at most 60000")
    return _write_head(head, Format.ARROW, _header_unit(head), params)


def read_otlp_head(head: RequestHead, form: Format) -> WriteHead:
    """A request of OTLP.

    Raises:
        PayloadError: as `read_msgpack_head`.
    """
    return _write_head(head, form, None, b"")


def _write_head(head: RequestHead, form: Format, unit: TimeUnit | None, params: bytes) -> WriteHead:
    return WriteHead(
        form,
        _database(head),
        head.header(b"content-encoding") or "",
        unit,
        _key(head),
        params,
        _on_bad_rows(head),
    )


def _database(head: RequestHead) -> str:
    """The header, else `db` of InfluxDB 1, else `bucket` of InfluxDB 2 up to a slash.

    Clients of InfluxDB 2 that write to a database of version 1 name it "database/policy".
    """
    name = head.header(b"x-arc-database") or head.query(b"db")
    if not name:
        name = (head.query(b"bucket") or "").split("/", 1)[0]
    if not name:
        return DEFAULT_DATABASE
    check_database(name)
    return name


def _header_unit(head: RequestHead) -> TimeUnit | None:
    text = head.header(b"x-arc-time-unit")
    if text is None:
        return None
    if text not in _HEADER_UNITS:
        wanted = ", ".join(_HEADER_UNITS)
        raise PayloadError(f"header x-arc-time-unit: found {text!r}, wanted one of {wanted}")
    return TimeUnit(text)


def _key(head: RequestHead) -> bytes:
    text = head.header(b"idempotency-key")
    if text is None:
        return b""
    key = text.encode("utf-8", "surrogateescape")  # the bytes that came
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise PayloadError(f"header Idempotency-Key: {len(key)} bytes, wanted 1 to {MAX_KEY_BYTES}")
    return key


def _on_bad_rows(head: RequestHead) -> str:
    text = head.header(b"x-arc-on-bad-rows")
    if text is None or text in (REJECT, QUARANTINE):
        return text or ""
    wanted = f"{REJECT} or {QUARANTINE}"
    raise PayloadError(f"header x-arc-on-bad-rows: found {text!r}, wanted {wanted}")


def _check_text(header: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PayloadError(f"header {header}: not UTF-8") from None


MSGPACK = Route("/api/v1/write/msgpack", "msgpack", read_msgpack_head)
ARROW = Route("/api/v1/write/arrow", "arrow", read_arrow_head)
_LINE_PROTOCOL = Route("/api/v1/write/line-protocol", "line_protocol", read_line_protocol_head)

#: Every path that answers 204 to a body that it stored.
ROUTES = (
    MSGPACK,
    ARROW,
    _LINE_PROTOCOL,
    msgspec.structs.replace(_LINE_PROTOCOL, path="/write"),
    msgspec.structs.replace(_LINE_PROTOCOL, path="/api/v1/write"),
    msgspec.structs.replace(_LINE_PROTOCOL, path="/api/v3/write_lp"),
    msgspec.structs.replace(_LINE_PROTOCOL, path="/api/v2/write", is_of_influxdb_2=True),
    msgspec.structs.replace(_LINE_PROTOCOL, path="/api/v1/write/influxdb", is_of_influxdb_2=True),
)
