"""Bodies of each format, encoded once, with the places in them where the times of a request go.

In: columns as `benchmarks.data` makes them. Out: a `Template`, in which every time has a fixed
width, so that a request is a copy of it and one vectorised write. Nothing here sends, and the
columnar body is not here: its times are its last bytes (`benchmarks.load.payloads`).

Formats: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/,
https://arrow.apache.org/docs/format/Columnar.html and
https://github.com/open-telemetry/opentelemetry-proto (logs, collector).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ormsgpack
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.data import Columns
from benchmarks.load.spec import LoadSpec

#: Bytes of a time as a number of 64 bits, and as decimal digits by unit, until the year 2286.
_WORD = 8
_DIGITS = {"us": 16, "ms": 13}

#: Stands where a time goes until it is known: 16 digits, or 9 bytes of MessagePack.
_PLACEHOLDER_US = 1_000_000_000_000_000

_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17}
_SERVICE = "resource.service.name"
_ATTRIBUTE = "attributes."


@dataclass(frozen=True)
class Template:
    """An encoded body.

    Attributes:
        body: uint8, shape (bytes,), with something else where the times go.
        places: Where each byte of each time goes, int64, shape (rows * width,); more than one
            array when a row has its time more than once.
    """

    body: NDArray[np.uint8]
    places: tuple[NDArray[np.int64], ...]

    def filled(self, octets: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy with these times in it: uint8, shape (rows, width)."""
        out = self.body.copy()
        for where in self.places:
            out[where] = octets.ravel()
        return out


@dataclass(frozen=True)
class Format:
    """How one format is sent.

    Attributes:
        path: Of the request; `{unit}` stands for the unit of the times.
        content_type: Of the body.
        template: Columns, measurement, names of tags and unit to a body.
        octets: Times of a request, int64, shape (rows,), and their unit, to what is written into
            it: uint8, shape (rows, width).
    """

    path: str
    content_type: str
    template: Callable[[Columns, str, Sequence[str], str], Template]
    octets: Callable[[NDArray[np.int64], str], NDArray[np.uint8]]

    def head(self, spec: LoadSpec, measurement: str) -> str:
        """Request line and headers of this format."""
        lines = [f"POST {self.path.format(unit=spec.load.time_unit)} HTTP/1.1"]
        lines.append(f"Content-Type: {self.content_type}")
        if spec.format == "arrow":
            lines.append(f"x-arc-measurement: {measurement}")
            if spec.declare_tags:
                lines.append(f"x-arc-tags: {','.join(spec.load.tags)}")
        return "\r\n".join(lines)


# --------------------------------------------------------------------------------------- places


def _joined(parts: Iterable[tuple[bytes, Sequence[int]]], width: int) -> Template:
    """One body of the parts of its rows.

    Args:
        parts: The bytes of each part, and where in it times begin; as many in each that has any.
        width: Bytes of a time.
    """
    pieces, starts, at = [], [], 0
    for piece, offsets in parts:
        pieces.append(piece)
        if offsets:
            starts.append([at + offset for offset in offsets])
        at += len(piece)
    body = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    by_time = np.array(starts, dtype=np.int64).T
    reach = np.arange(width)
    return Template(body, tuple((each[:, None] + reach).ravel() for each in by_time))


def _rows(columns: Columns) -> tuple[list[str], Iterable[tuple[Any, ...]]]:
    """Names of the columns but the time, and their values row by row."""
    plain = {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in columns.items()
        if name != "time"
    }
    return list(plain), zip(*plain.values(), strict=True)


def _big_endian(times: NDArray[np.int64], unit: str) -> NDArray[np.uint8]:
    return times.astype(">i8").view(np.uint8).reshape(-1, _WORD)


def _little_endian(times: NDArray[np.int64], unit: str) -> NDArray[np.uint8]:
    return times.astype("<i8").view(np.uint8).reshape(-1, _WORD)


def _nanoseconds(times: NDArray[np.int64], unit: str) -> NDArray[np.uint8]:
    return _little_endian(times * 1000, unit)


@functools.cache
def _four_digits() -> NDArray[np.uint8]:
    """The digits of 0 to 9999: uint8, shape (10000, 4)."""
    return np.frombuffer(b"".join(b"%04d" % i for i in range(10_000)), np.uint8).reshape(-1, 4)


# HOT, once per request: groups of four digits from a table, 45 µs for 1 000 rows, where a loop
# of "%d" takes 180 (python -m timeit).
def _digits(times: NDArray[np.int64], unit: str) -> NDArray[np.uint8]:
    """Decimal digits of times of one width: uint8, shape (rows, width)."""
    out = np.empty((len(times), 4, 4), dtype=np.uint8)
    for group in (3, 2, 1, 0):
        times, rest = np.divmod(times, 10_000)
        out[:, group] = _four_digits()[rest]
    return out.reshape(-1, 16)[:, -_DIGITS[unit] :]


# -------------------------------------------------------------------------------------- formats


def _row_template(columns: Columns, measurement: str, tags: Sequence[str], unit: str) -> Template:
    """An array of row maps, in each `m` and `t` first."""
    names, rows = _rows(columns)
    count = len(columns["time"])
    before = ormsgpack.packb({"m": measurement, "t": _PLACEHOLDER_US})
    offset = len(before) - _WORD

    def parts() -> Iterable[tuple[bytes, Sequence[int]]]:
        yield b"\xdd" + count.to_bytes(4), ()
        for values in rows:
            fields = dict(zip(names, values, strict=True))
            found = {name: fields.pop(name) for name in tags}
            found = {name: value for name, value in found.items() if value is not None}
            rest = ormsgpack.packb({"fields": fields, "tags": found})
            yield b"\x84" + before[1:] + rest[1:], (offset,)

    return _joined(parts(), _WORD)


def _line_template(columns: Columns, measurement: str, tags: Sequence[str], unit: str) -> Template:
    """Lines of line protocol, the time in the unit of the workload."""
    names, rows = _rows(columns)
    fields = [name for name in names if name not in tags]
    width = _DIGITS[unit]

    def parts() -> Iterable[tuple[bytes, Sequence[int]]]:
        for values in rows:
            row = dict(zip(names, values, strict=True))
            key = ",".join([measurement, *(f"{name}={row[name]}" for name in tags)])
            line = f"{key} {','.join(f'{name}={_line_value(row[name])}' for name in fields)} "
            yield line.encode() + b"0" * width + b"\n", (len(line),)

    return _joined(parts(), width)


def _line_value(value: float) -> str:
    return f"{value}i" if isinstance(value, int) else repr(value)


def _arrow_template(columns: Columns, measurement: str, tags: Sequence[str], unit: str) -> Template:
    """A stream of one record batch, the time as timestamp[unit, UTC], its last column."""
    times = np.arange(len(columns["time"]), dtype=np.int64) + _PLACEHOLDER_US
    arrays: dict[str, Any] = {
        name: pa.array(values) for name, values in columns.items() if name != "time"
    }
    arrays["time"] = pa.array(times).view(pa.timestamp(unit, "UTC"))
    batch = pa.record_batch(arrays)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    return _joined([(body, (body.rindex(times.tobytes()),))], _WORD * len(times))


# ----------------------------------------------------------------------------- OpenTelemetry logs


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _message(number: int, data: bytes) -> bytes:
    """A field that is a message, text or bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


@functools.lru_cache(maxsize=100_000, typed=True)  # 1 and 1.0 and True are equal
def _key_value(key: str, value: str | float) -> bytes:
    """`KeyValue`: a key and an `AnyValue`."""
    if isinstance(value, str):
        found = _message(1, value.encode())
    elif isinstance(value, bool):
        found = b"\x10" + _varint(value)
    elif isinstance(value, int):
        found = b"\x18" + _varint(value)
    else:
        found = b"\x21" + np.float64(value).tobytes()
    return _message(1, key.encode()) + _message(2, found)


def _record(row: dict[str, Any]) -> bytes:
    """`LogRecord`, its two times first."""
    out = [b"\x09", bytes(_WORD), b"\x59", bytes(_WORD)]
    out.append(b"\x10" + _varint(_SEVERITIES[row["severity_text"]]))
    out.append(_message(3, row["severity_text"].encode()))
    out.append(_message(5, _message(1, row["body"].encode())))
    out += [_message(6, _key_value(key, value)) for key, value in _attributes(row)]
    return b"".join(out)


def _attributes(row: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if name.startswith(_ATTRIBUTE):
            yield name.removeprefix(_ATTRIBUTE), value


def _logs_template(columns: Columns, measurement: str, tags: Sequence[str], unit: str) -> Template:
    """`ExportLogsServiceRequest` of one resource and one scope."""
    names, rows = _rows(columns)
    records = [_record(dict(zip(names, values, strict=True))) for values in rows]
    heads = [_message(2, record)[: -len(record)] for record in records]
    scope = _message(1, _message(1, b"benchmarks.load"))
    scope_bytes = len(scope) + sum(map(len, heads)) + sum(map(len, records))
    resource = _message(1, _message(1, _key_value("service.name", columns[_SERVICE][0])))
    scope_logs = _varint(2 << 3 | 2) + _varint(scope_bytes)
    before = resource + scope_logs + scope
    total = len(resource) + len(scope_logs) + scope_bytes

    def parts() -> Iterable[tuple[bytes, Sequence[int]]]:
        yield _varint(1 << 3 | 2) + _varint(total) + before, ()
        for head, record in zip(heads, records, strict=True):
            yield head + record, (len(head) + 1, len(head) + 2 + _WORD)

    return _joined(parts(), _WORD)


def _any_value(value: Any) -> dict[str, Any]:
    """`AnyValue` in JSON, where integers of 64 bits are text."""
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}


def _logs_json_template(
    columns: Columns, measurement: str, tags: Sequence[str], unit: str
) -> Template:
    """The same as JSON, as the exporters of OpenTelemetry write it."""
    names, rows = _rows(columns)
    service = {"key": "service.name", "value": {"stringValue": columns[_SERVICE][0]}}
    resource, scope = {"attributes": [service]}, {"name": "benchmarks.load"}
    before = (
        f'{{"resourceLogs":[{{"resource":{_json(resource)},'
        f'"scopeLogs":[{{"scope":{_json(scope)},"logRecords":['
    )
    width = _DIGITS["us"]
    start, middle = b'{"timeUnixNano":"', b'000","observedTimeUnixNano":"'
    times = start + b"0" * width + middle + b"0" * width + b'000",'
    offsets = len(start), len(start) + width + len(middle)

    def parts() -> Iterable[tuple[bytes, Sequence[int]]]:
        yield before.encode(), ()
        for index, values in enumerate(rows):
            row = dict(zip(names, values, strict=True))
            record = {
                "severityNumber": _SEVERITIES[row["severity_text"]],
                "severityText": row["severity_text"],
                "body": {"stringValue": row["body"]},
                "attributes": [
                    {"key": key, "value": _any_value(value)} for key, value in _attributes(row)
                ],
            }
            comma = b"," if index else b""
            rest = _json(record)[1:].encode()
            yield comma + times + rest, [len(comma) + offset for offset in offsets]
        yield b"]}]}]}", ()

    return _joined(parts(), width)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


FORMATS = {
    "rows": Format("/api/v1/write/msgpack", "application/msgpack", _row_template, _big_endian),
    "line-protocol": Format(
        "/api/v1/write/line-protocol?precision={unit}", "text/plain", _line_template, _digits
    ),
    "arrow": Format(
        "/api/v1/write/arrow",
        "application/vnd.apache.arrow.stream",
        _arrow_template,
        _little_endian,
    ),
    "otlp-logs": Format("/v1/logs", "application/x-protobuf", _logs_template, _nanoseconds),
    "otlp-logs-json": Format("/v1/logs", "application/json", _logs_json_template, _digits),
}
