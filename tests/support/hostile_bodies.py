"""Bodies that are made to hurt, by the format that they are of, each with what must become of it.

In: nothing. Out: `Attack`s. Everything is built without the encoders of the formats where those
would refuse to lie, so that lengths, depths and sizes are as the attack wants them.
"""

from __future__ import annotations

import functools
import gzip
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ormsgpack
import pyarrow as pa
import zstandard

from ingest.testing.arrow import stream
from ingest.testing.line_protocol import line
from ingest.testing.msgpack import (
    NOT_UTF8,
    Encoded,
    array,
    array_forms,
    columnar,
    float_forms,
    forms,
    map_forms,
    str_forms,
)
from ingest.testing.otlp import delimited, varint

NAN, INFINITY = float("nan"), float("inf")
NOW_S = 1_790_000_000
NOW_US = NOW_S * 10**6
HOUR_S = 3_600

#: Over the limit of columns of one measurement (2 000) and of hours of one request (1 000).
MANY = 10_000
#: Of things that take a byte or ten each: some megabytes on the wire.
DEEP = 200_000

COLUMNS, ROWS, LINES, ARROW = "columns", "rows", "lines", "arrow"
LOGS, TRACES, METRICS = "logs", "traces", "metrics"
LOGS_JSON, TRACES_JSON, METRICS_JSON = "logs-json", "traces-json", "metrics-json"
PROTOBUFS, JSONS = (LOGS, TRACES, METRICS), (LOGS_JSON, TRACES_JSON, METRICS_JSON)
FORMATS = (COLUMNS, ROWS, LINES, ARROW, *PROTOBUFS, *JSONS)

REFUSED, TAKEN, EITHER = (400, 413), (200, 204), (200, 204, 400, 413)
#: OTLP may refuse a record by itself and take the request: then the 200 has to say so.
PARTLY = (200, 400, 413)


class Attack(NamedTuple):
    """One body.

    Attributes:
        name: For the test's name.
        made: It, or what makes it.
        answers: Statuses that are right.
    """

    name: str
    made: bytes | Callable[[], bytes]
    answers: Sequence[int] = REFUSED

    @property
    def body(self) -> bytes:
        """What to send."""
        return self.made if isinstance(self.made, bytes) else self.made()


# -------------------------------------------------------------------------------- MessagePack

#: Objects that declare 2**32 - 1 of something, in all of 5 or 6 bytes.
_BOMBS = {
    "array32": b"\xdd\xff\xff\xff\xff",
    "map32": b"\xdf\xff\xff\xff\xff",
    "str32": b"\xdb\xff\xff\xff\xff",
    "bin32": b"\xc6\xff\xff\xff\xff",
    "ext32": b"\xc9\xff\xff\xff\xff\x05",
}


def _row(fields: bytes, **more: bytes) -> bytes:
    keys = {"m": b"\xa1m", "fields": fields, **more}
    cells = b"".join(str_forms(name)[0] + value for name, value in keys.items())
    return map_forms(len(keys))[0] + cells


def _one_field(name: Any, value: bytes) -> bytes:
    return b"\x81" + forms(name)[0] + value


def _both_msgpack() -> Iterator[Attack]:
    for name, bomb in _BOMBS.items():
        yield Attack(f"{name} as the body", bomb)
        yield Attack(f"{name} as the batch", b"\x81\xa5batch" + bomb)
        yield Attack(f"{name} as the measurement", b"\x82\xa1m" + bomb)
    yield Attack("arrays in arrays", lambda: b"\x91" * DEEP)
    yield Attack("arrays in arrays, closed", lambda: b"\x91" * DEEP + b"\xc0")
    yield Attack("maps in maps", lambda: b"\x81\xa1a" * DEEP + b"\xc0")
    yield Attack("batches in batches", lambda: b"\x81\xa5batch\x91" * DEEP + b"\xc0")
    yield Attack("empty maps", lambda: array_forms(DEEP * 20)[-1] + b"\x80" * DEEP * 20)
    yield Attack("empty arrays", lambda: b"\x90" * DEEP * 20)
    yield Attack("nothing but nil", lambda: b"\xc0" * DEEP * 20)


def _columns() -> Iterator[Attack]:
    for name, bomb in _BOMBS.items():
        yield Attack(f"{name} as a column", columnar("m", {"v": Encoded(bomb)}))
        yield Attack(f"{name} as a value", columnar("m", {"v": [Encoded(bomb)]}))
    nested = b"\x81\xa1a" * 500 + b"\x01"
    yield Attack("a map as a value", lambda: columnar("m", {"v": [Encoded(nested)]}))
    for bad in NOT_UTF8:
        text = Encoded(str_forms(bad)[0])
        yield Attack(f"value {bad!r}", columnar("m", {"v": [text]}))
        yield Attack(f"column {bad!r}", columnar("m", {text: [1]}))
        yield Attack(f"measurement {bad!r}", columnar(text, {"v": [1]}))
    for time in (NAN, INFINITY, -INFINITY, 2**63, 1e300, None, "now"):
        yield Attack(f"time {time}", columnar("m", {"time": [time], "v": [1]}))
    yield Attack("many columns", lambda: columnar("m", {f"c{n}": [n] for n in range(MANY)}))
    yield Attack("many hours", _hours_in_columns)
    yield Attack("many measurements in one", _many_maps, EITHER)
    yield Attack("a long name", lambda: columnar("m", {"x" * 2**20: [1]}))
    yield Attack("a long measurement", lambda: columnar("m" * 2**20, {"v": [1]}))
    yield Attack("one column often", lambda: _repeated(b"\xa1v\x91\x01", 50_000), EITHER)


def _hours_in_columns() -> bytes:
    times = [NOW_S + n * HOUR_S for n in range(MANY)]
    return columnar("m", {"time": times, "v": list(range(MANY))})


def _many_maps() -> bytes:
    return b"".join(columnar("m", {"v": [n]}) for n in range(MANY))


def _repeated(entry: bytes, count: int) -> bytes:
    return b"\x82\xa1m\xa1m\xa7columns" + map_forms(count)[0] + entry * count


def _rows() -> Iterator[Attack]:
    for name, bomb in _BOMBS.items():
        yield Attack(f"{name} as the fields", _row(bomb))
        yield Attack(f"{name} as a value", _row(_one_field("v", bomb)))
        yield Attack(f"{name} as the tags", _row(_one_field("v", b"\x01"), tags=bomb))
    nested = b"\x81\xa1a" * 500 + b"\x01"
    yield Attack("a map as a value", lambda: _row(_one_field("v", nested)))
    for bad in NOT_UTF8:
        text = str_forms(bad)[0]
        tags = _one_field("t", text)
        yield Attack(f"value {bad!r}", _row(_one_field("v", text)))
        yield Attack(f"field {bad!r}", _row(b"\x81" + text + b"\x01"))
        yield Attack(f"tag {bad!r}", _row(_one_field("v", b"\x01"), tags=tags))
        yield Attack(f"host {bad!r}", _row(_one_field("v", b"\x01"), h=text))
    for time in (NAN, INFINITY, -INFINITY, 1e300):
        spelled = float_forms(time)[0]
        yield Attack(f"time {time}", _row(_one_field("v", b"\x01"), t=spelled))
    yield Attack("many fields", lambda: _row(_fields(f"c{n}" for n in range(MANY))))
    yield Attack("many fields over many rows", _fields_of_rows)
    yield Attack("many hours", _hours_in_rows)
    yield Attack("a long name", lambda: _row(_one_field("x" * 2**20, b"\x01")))
    yield Attack("an array of many fields", lambda: _row(array([1] * MANY)))
    often = map_forms(50_000)[0] + b"\xa1v\x01" * 50_000
    yield Attack("one field often", lambda: _row(often), EITHER)


def _fields(names: Iterator[str]) -> bytes:
    cells = [forms(name)[0] + b"\x01" for name in names]
    return map_forms(len(cells))[0] + b"".join(cells)


def _fields_of_rows() -> bytes:
    rows = [_row(_one_field(f"c{n}", b"\x01")) for n in range(MANY)]
    return array_forms(MANY)[0] + b"".join(rows)


def _hours_in_rows() -> bytes:
    times = [forms(NOW_S + n * HOUR_S)[0] for n in range(MANY)]
    return b"".join(_row(_one_field("v", b"\x01"), t=time) for time in times)


# ------------------------------------------------------------------------------- line protocol


def _lines() -> Iterator[Attack]:
    for bad in NOT_UTF8:
        yield Attack(f"measurement {bad!r}", b"m" + bad + b" v=1")
        yield Attack(f"tag {bad!r}", b"m,t=" + bad + b" v=1")
        yield Attack(f"field {bad!r}", b"m " + bad + b"=1")
        yield Attack(f"value {bad!r}", b'm v="' + bad + b'"')
    for value in (b"nan", b"NaN", b"inf", b"-Inf", b"1e999", b"9" * DEEP + b"i"):
        yield Attack(f"value {value[:8]!r}", b"m v=" + value)
    for time in (b"nan", b"inf", b"1e18", b"9223372036854775808", b"9" * DEEP, b"-" * DEEP):
        yield Attack(f"time {time[:20]!r}", b"m v=1 " + time)
    yield Attack("many fields", lambda: b"m " + b",".join(b"c%d=1" % n for n in range(MANY)))
    yield Attack(
        "many tags", lambda: b"m," + b",".join(b"c%d=1" % n for n in range(MANY)) + b" v=1"
    )
    yield Attack(
        "many fields over many lines", lambda: b"\n".join(b"m c%d=1" % n for n in range(MANY))
    )
    yield Attack("many hours", lambda: b"\n".join(map(_hour_line, range(MANY))))
    yield Attack("a string without an end", lambda: b'm v="' + b"a\n" * DEEP)
    yield Attack("escapes", lambda: b"m" + b"\\" * DEEP + b" v=1")
    yield Attack("commas", lambda: b"m" + b"," * DEEP)
    yield Attack("equal signs", lambda: b"m v" + b"=" * DEEP)
    yield Attack("no end of a name", lambda: b"m" * 2**21)
    yield Attack("a long field name", lambda: b"m " + b"x" * 2**20 + b"=1")
    yield Attack("only comments", lambda: b"# no\n" * DEEP, EITHER)
    yield Attack("only ends of lines", lambda: b"\n" * 2**21, EITHER)
    yield Attack("a bad line at the end", lambda: b"m v=1\n" * DEEP + b"m v=")
    yield Attack("only bad lines", lambda: b"m v=\n" * DEEP)


def _hour_line(number: int) -> bytes:
    return line("m", {}, {"v": b"1"}, (NOW_S + number * HOUR_S) * 10**9)


# --------------------------------------------------------------------------------------- Arrow


def table_stream(columns: Mapping[str, Any], **options: Any) -> bytes:
    """An IPC stream of columns by name."""
    return stream(pa.table(dict(columns)), **options)


def _arrow() -> Iterator[Attack]:
    yield Attack("many columns", lambda: table_stream({f"c{n}": [n] for n in range(MANY)}))
    times = [NOW_S + n * HOUR_S for n in range(MANY)]
    yield Attack("many hours", lambda: table_stream({"time": times, "v": times}))
    for time in (NAN, INFINITY, -INFINITY, None, 1e300):
        yield Attack(f"time {time}", table_stream({"time": [time], "v": [1]}))
    for bad in NOT_UTF8:
        yield Attack(f"value {bad!r}", table_stream({"v": _unchecked(bad)}))
    yield Attack("a dictionary that unfolds to 20 GB", _dictionary_bomb)
    yield Attack("views that unfold to 20 GB", _view_bomb)
    yield Attack("lists in lists", _deep_type)
    yield Attack("a buffer of a forged size", _forged_buffer)
    yield Attack("metadata of 2 GiB", lambda: b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64))
    yield Attack("metadata of a negative size", lambda: b"\xff\xff\xff\xff\x00\x00\x00\x80")
    yield Attack("zeros", lambda: bytes(2**21))
    yield Attack("a stream and more", lambda: table_stream({"v": [1]}) * 2)
    yield Attack("a schema alone", lambda: table_stream({"v": pa.array([], pa.int64())}))
    yield Attack("a long name", lambda: table_stream({"x" * 2**20: [1]}))


def _unchecked(data: bytes) -> pa.Array:
    offsets = pa.py_buffer(struct.pack("<2i", 0, len(data)))
    return pa.Array.from_buffers(pa.utf8(), 1, [None, offsets, pa.py_buffer(data)])


def _dictionary_bomb() -> bytes:
    indices = pa.array([0] * 20_000, pa.int16())
    return table_stream({"v": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 2**20]))})


def _view_bomb() -> bytes:
    view = struct.pack("<i4sii", 2**20, b"xxxx", 0, 0)
    buffers = [None, pa.py_buffer(view * 20_000), pa.py_buffer(b"x" * 2**20)]
    return table_stream({"v": pa.Array.from_buffers(pa.string_view(), 20_000, buffers)})


def _deep_type() -> bytes:
    type_ = pa.int64()
    for _ in range(60):
        type_ = pa.list_(type_)
    return table_stream({"v": pa.array([None], type_)})


def _forged_buffer() -> bytes:
    """A compressed buffer whose first 8 bytes say that it unfolds to 2**60 bytes."""
    values = pa.array([0] * 4096, pa.int64())
    body = table_stream({"v": values}, compression="lz4")
    stated = struct.pack("<q", 8 * 4096)
    assert body.count(stated) >= 1
    at = body.rindex(stated)
    return body[:at] + struct.pack("<q", 2**60) + body[at + 8 :]


# ---------------------------------------------------------------------------------------- OTLP

#: Fields from the request down to a KeyValue of a record, by signal.
_PATHS = {LOGS: (1, 2, 2, 6), TRACES: (1, 2, 2, 9), METRICS: (1, 2, 2, 5, 1, 7)}


def wrapped(data: bytes, numbers: Sequence[int]) -> bytes:
    """A message in messages, by the numbers of the fields from the outermost in."""
    for number in reversed(numbers):
        data = delimited(number, data)
    return data


def _fixed64(number: int, value: int) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<Q", value)


#: By signal, the field with the time of a record.
_TIMES = {LOGS: 1, TRACES: 7, METRICS: 3}


def otlp_request(signal: str, *attributes: bytes, time_ns: int = NOW_US * 1000) -> bytes:
    """A request of one record with these encoded KeyValues."""
    return wrapped(otlp_record(signal, *attributes, time_ns=time_ns), _PATHS[signal][:2])


def otlp_record(signal: str, *attributes: bytes, time_ns: int = NOW_US * 1000) -> bytes:
    """One record of it, as a field of its scope."""
    *path, number = _PATHS[signal]
    record = _fixed64(_TIMES[signal], time_ns)
    record += b"".join(delimited(number, attribute) for attribute in attributes)
    if signal == METRICS:
        record = delimited(1, b"m") + wrapped(record + _fixed64(4, 0), path[3:])
    return delimited(path[2], record)


def attribute(key: bytes, value: bytes = b"\x18\x01") -> bytes:
    """A KeyValue of an AnyValue, which is an integer unless it says otherwise."""
    return delimited(1, key) + delimited(2, value)


def _deep_value(depth: int) -> bytes:
    """Arrays in arrays, built from the inside out without a recursion."""
    parts: list[bytes] = []
    size = 2
    for _ in range(depth):
        for key in (b"\x0a", b"\x2a"):
            head = key + varint(size)
            parts.append(head)
            size += len(head)
    return b"".join(reversed(parts)) + b"\x18\x01"


def _protobuf(signal: str) -> Iterator[Attack]:
    def request(*attributes: bytes) -> bytes:
        return otlp_request(signal, *attributes)

    for size in (2**31, 2**32 - 1, 2**63, 2**64 - 1):
        for depth in range(1, len(_PATHS[signal])):
            head = b"".join(varint(n << 3 | 2) + b"\x0a" for n in _PATHS[signal][:depth])
            key = varint(_PATHS[signal][depth] << 3 | 2)
            bomb = head + key + varint(size)
            yield Attack(f"a length of {size} at level {depth}", bomb)
    yield Attack("a number without an end", lambda: b"\x80" * 2**20)
    yield Attack("arrays in arrays", lambda: request(attribute(b"k", _deep_value(20_000))), EITHER)
    yield Attack("messages in messages", lambda: _deep_value(20_000), EITHER)
    yield Attack("groups in groups", lambda: b"\x0b" * DEEP)
    for bad in NOT_UTF8:
        text = delimited(1, bad)
        yield Attack(f"key {bad!r}", request(attribute(bad)))
        yield Attack(f"value {bad!r}", request(attribute(b"k", text)))
    yield Attack(
        "many attributes", lambda: request(*(attribute(b"k%d" % n) for n in range(MANY))), TAKEN
    )
    yield Attack("one attribute often", lambda: request(*[attribute(b"k")] * MANY), EITHER)
    yield Attack("a long key", lambda: request(attribute(b"k" * 2**20)), EITHER)
    yield Attack("many hours", lambda: _otlp_hours(signal), EITHER)
    yield Attack("empty resources", lambda: b"\x0a\x00" * DEEP, EITHER)
    yield Attack("empty scopes", lambda: delimited(1, b"\x12\x00" * DEEP), EITHER)
    yield Attack("empty records", lambda: wrapped(b"\x12\x00" * DEEP, (1, 2)), EITHER)
    yield Attack("a time of 2**64 - 1", lambda: otlp_request(signal, time_ns=2**64 - 1), EITHER)
    yield Attack("text", lambda: b"hello")


def _otlp_hours(signal: str) -> bytes:
    records = (
        otlp_record(signal, time_ns=(NOW_S + number * HOUR_S) * 10**9) for number in range(MANY)
    )
    return wrapped(b"".join(records), _PATHS[signal][:2])


_JSON_LEVELS = {
    LOGS_JSON: ("resourceLogs", "scopeLogs", "logRecords"),
    TRACES_JSON: ("resourceSpans", "scopeSpans", "spans"),
    METRICS_JSON: ("resourceMetrics", "scopeMetrics", "metrics"),
}


def json_request(form: str, *records: Any) -> bytes:
    """A request of records."""
    tree: Any = list(records)
    for name in reversed(_JSON_LEVELS[form]):
        tree = {name: tree} if name == _JSON_LEVELS[form][0] else [{name: tree}]
    return json.dumps(tree).encode()


def json_record(form: str, time_ns: Any = str(NOW_US * 1000), **more: Any) -> dict[str, Any]:
    """One record; what is added goes into it, or into the point of the metric."""
    if form == METRICS_JSON:
        point = {"timeUnixNano": time_ns, "asDouble": 1.5, **more}
        return {"name": "m", "gauge": {"dataPoints": [point]}}
    name = "timeUnixNano" if form == LOGS_JSON else "startTimeUnixNano"
    return {name: time_ns, **more}


def _json_attribute(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


def _json(form: str) -> Iterator[Attack]:
    def record(**more: Any) -> bytes:
        return json_request(form, json_record(form, **more))

    def valued(value: str) -> bytes:
        marker = record(attributes=[_json_attribute("k", "HERE")])
        return marker.replace(b'"HERE"', value.encode())

    yield Attack("arrays in arrays", lambda: b"[" * DEEP)
    yield Attack("objects in objects", lambda: b'{"a":' * DEEP)
    deep = '{"arrayValue":{"values":[' * 20_000 + "{}" + "]}}" * 20_000
    yield Attack("values in values", lambda: valued(deep), EITHER)
    yield Attack("values without an end", lambda: valued('{"arrayValue":{"values":[' * 20_000))
    raw = json_request(form, json_record(form, "TIME"))
    for time in ("NaN", "-1", "1e999", "18446744073709551616", "x", "9" * DEEP):
        body = json_request(form, json_record(form, time))
        yield Attack(f"time {time[:20]!r}", body, PARTLY)
        bare = raw.replace(b'"TIME"', time.encode())
        yield Attack(f"bare time {time[:20]!r}", bare, PARTLY)
    odds: tuple[Any, ...] = ({"a": 1}, [], True)
    for odd in odds:
        yield Attack(f"time {odd}", json_request(form, json_record(form, odd)), PARTLY)
    yield Attack("time 1.5", json_request(form, json_record(form, 1.5)), EITHER)
    for bad in NOT_UTF8:
        body = valued('{"stringValue":"X"}').replace(b"X", bad)
        yield Attack(f"value {bad!r}", body)
    yield Attack("half a surrogate pair", lambda: valued('{"stringValue":"\\ud800"}'), EITHER)
    keys = [_json_attribute(f"k{n}", {"intValue": "1"}) for n in range(MANY)]
    yield Attack("many attributes", lambda: record(attributes=keys), TAKEN)
    yield Attack("records that are numbers", lambda: json_request(form, *range(1000)))
    yield Attack("nothing but a number", lambda: b"7")
    yield Attack("many hours", lambda: _json_hours(form), EITHER)


def _json_hours(form: str) -> bytes:
    times = [str((NOW_S + number * HOUR_S) * 10**9) for number in range(MANY)]
    return json_request(form, *(json_record(form, time) for time in times))


# --------------------------------------------------------------------------------- compression


def zstd_frame(content: bytes, window: int, stated_size: int | None) -> bytes:
    """A zstd frame of one raw block under a head of our own.

    Args:
        content: Up to 128 KiB.
        window: The window descriptor; 0xA8 is 2 GiB.
        stated_size: Frame content size, 8 bytes; None: not stated.

    Format: https://www.rfc-editor.org/rfc/rfc8878#name-frames
    """
    descriptor = 0x00 if stated_size is None else 0xC0
    size = b"" if stated_size is None else struct.pack("<Q", stated_size)
    block = struct.pack("<I", len(content) << 3 | 1)[:3] + content
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor, window]) + size + block


@functools.cache
def zeros(num_bytes: int) -> bytes:
    """So many zero bytes in gzip, a thousandth of that."""
    return gzip.compress(bytes(num_bytes), 9)


def compressed(good: bytes, limit_bytes: int) -> Iterator[Attack]:
    """What can be done with compression around any body.

    Args:
        good: A body that the door takes.
        limit_bytes: Most that may come out.
    """
    yield Attack("gzip of zeros", lambda: zeros(limit_bytes + 1))
    yield Attack("gzip of far too many zeros", lambda: zeros(4 * limit_bytes))
    yield Attack("zstd of far too many zeros", lambda: zstandard.compress(bytes(8 * limit_bytes)))
    yield Attack("gzip members of zeros", lambda: zeros(limit_bytes // 10) * 100)
    yield Attack("gzip members of nothing", lambda: gzip.compress(b"") * 20_000, EITHER)
    cut = len(good) // 2
    halves = gzip.compress(good[:cut]) + gzip.compress(good[cut:])
    yield Attack("a good body in two members", lambda: halves, TAKEN)
    yield Attack("two members, the last cut off", lambda: halves[:-3])
    yield Attack("zstd with a window of 2 GiB", lambda: zstd_frame(good, 0xA8, None))
    yield Attack("zstd with the largest window", lambda: zstd_frame(good, 0xFF, None))
    yield Attack("zstd that states 2**62", lambda: zstd_frame(good, 0x58, 2**62))
    # Which the library takes for a size that is not known.
    yield Attack("zstd that states 2**64 - 1", lambda: zstd_frame(good, 0x58, 2**64 - 1), EITHER)
    yield Attack("zstd that states too little", lambda: zstd_frame(good, 0x58, 1))
    yield Attack("zstd that states nothing", lambda: zstd_frame(good, 0x58, None), TAKEN)
    skipped = struct.pack("<II", 0x184D2A50, 2**32 - 1)
    yield Attack("a frame to skip of 4 GiB", lambda: zstandard.compress(good) + skipped)
    yield Attack("gzip in gzip", lambda: gzip.compress(gzip.compress(good)))
    yield Attack("gzip of a forged size", lambda: gzip.compress(good)[:-4] + b"\xff" * 4)


def attacks(form: str) -> list[Attack]:
    """Everything that can be done in a format."""
    makers: dict[str, Callable[[], Iterator[Attack]]] = {
        COLUMNS: lambda: (attack for part in (_both_msgpack(), _columns()) for attack in part),
        ROWS: lambda: (attack for part in (_both_msgpack(), _rows()) for attack in part),
        LINES: _lines,
        ARROW: _arrow,
    }
    if form in PROTOBUFS:
        return list(_protobuf(form))
    return list(_json(form) if form in JSONS else makers[form]())


# ---------------------------------------------------------------------------------------- names


def spell(form: str, measurement: str, column: str, value: int) -> bytes:
    """A good body of one row; OTLP has no measurement, so there only the column is named."""
    if form == COLUMNS:
        return columnar(measurement, {"time": [NOW_US], column: [value]})
    if form == ROWS:
        row = {"m": measurement, "t": NOW_US, "fields": {column: value}}
        return ormsgpack.packb(row)
    if form == LINES:
        return line(measurement, {}, {column: b"%di" % value}, NOW_US * 1000)
    if form == ARROW:
        return table_stream({"time": [NOW_US], column: [value]})
    if form in PROTOBUFS:
        return otlp_request(form, attribute(column.encode(), b"\x18" + varint(value)))
    keys = [_json_attribute(column, {"intValue": str(value)})]
    return json_request(form, json_record(form, attributes=keys))
