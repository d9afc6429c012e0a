"""OTLP logs and spans to column batches, without a Python object per value. Pure.

In: a request, as protobuf or JSON. Out: the batches that the plain decoder makes of it, or None
where something in it is for the plain decoder, be it to take or to refuse it: all metrics, a key
with values of two types, more attribute columns than a table may have, fields that no exporter
sends, and everything that is wrong. What the rules put into JSON columns is read from the records
that have it (`ingest.otlp.fast_rests`).

The kernels walk over the protobuf twice, to count and to fill; between the two, the columns get
their places in one arena. JSON is written anew as protobuf before (`ingest.kernels.otlp_json`).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.kernels import otlp as kernels
from ingest.kernels import otlp_json
from ingest.limits import Limits
from ingest.otlp import schema
from ingest.otlp.fast_rests import Rests
from ingest.otlp.parts import Budget
from ingest.otlp.request import Signal
from ingest.timestamps import TimeUnit

_INT, _TEXT, _HEX = kernels.KIND_INT64, kernels.KIND_TEXT, kernels.KIND_HEX

#: Columns of resources and scopes, in the kernels' order.
_ORIGINS: Final = {
    "resource_schema_url": _TEXT,
    "resource_dropped_attributes_count": _INT,
    "scope_name": _TEXT,
    "scope_version": _TEXT,
    "scope_schema_url": _TEXT,
    "scope_dropped_attributes_count": _INT,
}

#: Columns of a log record, in the kernels' order: name and kind.
_LOGS: Final = {
    TIME_COLUMN: kernels.KIND_TIME,
    "time_ns": kernels.KIND_REST,
    "observed_time_us": kernels.KIND_TIME,
    "observed_time_ns": kernels.KIND_REST,
    "": _INT,  # spans have their duration there
    "severity_number": _INT,
    "severity_text": _TEXT,
    "event_name": _TEXT,
    "body": kernels.KIND_UTF8,
    "trace_id": _HEX,
    "span_id": _HEX,
    "flags": _INT,
    "dropped_attributes_count": _INT,
}

#: Columns of a span.
_SPANS: Final = {
    TIME_COLUMN: kernels.KIND_TIME,
    "time_ns": kernels.KIND_REST,
    "end_time_us": kernels.KIND_TIME,
    "end_time_ns": kernels.KIND_REST,
    "duration_ns": _INT,
    "trace_id": _HEX,
    "span_id": _HEX,
    "parent_span_id": _HEX,
    "trace_state": _TEXT,
    "name": _TEXT,
    "kind": kernels.KIND_NAME,
    "status_code": kernels.KIND_NAME,
    "status_message": _TEXT,
    "flags": _INT,
    "dropped_attributes_count": _INT,
    "dropped_events_count": _INT,
    "dropped_links_count": _INT,
}

_PREFIXES: Final = (schema.RESOURCE_PREFIX, schema.SCOPE_PREFIX, schema.ATTRIBUTE_PREFIX)

#: Numbers that Python reads at a time, at some 250 bytes each.
_NUMBERS_AT_ONCE = 1 << 14

#: Largest offset of a string.
_MAX_TEXT_BYTES = 2**31 - 1


class _Layout(msgspec.Struct, frozen=True):
    """What the fast path knows of a signal.

    Attributes:
        table: Where its records go.
        number: Of the signal, for the kernels that read protobuf.
        json_number: Of its request, for those that read JSON.
        names: Fixed columns, in the kernels' order.
        kinds: Of each.
        num_record: How many of them are of records.
    """

    table: str
    number: int
    json_number: int
    names: tuple[str, ...]
    kinds: tuple[int, ...]
    num_record: int


def _layout(table: str, number: int, json_number: int, columns: dict[str, int]) -> _Layout:
    every = {**columns, **_ORIGINS}
    names, kinds = tuple(every), tuple(every.values())
    return _Layout(table, number, json_number, names, kinds, len(columns))


_LAYOUTS: Final = {
    Signal.LOGS: _layout(schema.LOGS, kernels.LOGS, otlp_json.LOGS, _LOGS),
    Signal.TRACES: _layout(schema.SPANS, kernels.TRACES, otlp_json.TRACES, _SPANS),
}


def decode_fast(
    body: bytes, signal: Signal, is_json: bool, now_us: int, limits: Limits
) -> list[ColumnBatch] | None:
    """Decode a request; what it means and which columns it has, `ingest.otlp.schema` says.

    Args:
        body: The decompressed body.
        signal: What it exports.
        is_json: Whether it is JSON; otherwise it is protobuf.
        now_us: Time of records without one, microseconds since 1970.
        limits: Budgets of one request.

    Returns:
        At most one batch; None when something in the body is for the plain decoder.

    Raises:
        TooLargeError: its columns would take too much memory.
    """
    # HOT, once a request: 8 600 -> 460 ns a log record from protobuf, 11 000 -> 1 100 from JSON
    # (python -m benchmarks.bench_otlp -k "10000 protobuf none 16384"). Twin: decode_plain;
    # equality: tests/test_otlp_fast.py.
    layout = _LAYOUTS.get(signal)
    if layout is None:
        return None
    buf = np.frombuffer(body, dtype=np.uint8)
    if is_json:
        written = _protobuf(body, layout)
        if written is None:
            return None
        buf = written
    t = kernels.tables(layout.kinds, layout.num_record, now_us)
    if kernels.walk(buf, layout.number, t) != kernels.OK:
        return None
    if not t.state[kernels.S_ROW]:
        return []
    names, budget = _names(buf, t, layout, limits), Budget(limits)
    words = _place(t, budget)
    if names is None or words is None:
        return None
    rests = Rests(buf, signal, limits, budget)
    if not rests.read(t.rests[: t.state[kernels.S_RESTS]].tolist()):
        return None
    t = kernels.to_fill(t, words)
    if kernels.walk(buf, layout.number, t) != kernels.OK:
        return None
    kernels.end_strings(t)
    columns = _columns(t, names)
    return None if columns is None else [_batch(layout.table, columns, rests, now_us)]


def _protobuf(body: bytes, layout: _Layout) -> NDArray[np.uint8] | None:
    """A request in JSON as protobuf; None: it is for the plain decoder."""
    buf = np.frombuffer(body, dtype=np.uint8)
    out = np.empty(len(body) + otlp_json.SPARE_BYTES, dtype=np.uint8)
    late = np.empty((len(body) // otlp_json.LATE_BYTES + 1, otlp_json.L_WIDTH), dtype=np.int64)
    stack = np.empty((otlp_json.MAX_DEPTH, otlp_json.S_WIDTH), dtype=np.int64)
    nexts = np.full(otlp_json.NUM_NEXTS, -1, dtype=np.int64)
    size, num_late = otlp_json.transcode(buf, layout.json_number, out, late, stack, nexts)
    if size == otlp_json.FALLBACK:
        return None
    for first in range(0, num_late, _NUMBERS_AT_ONCE):
        if not _put_numbers(body, late[first : min(num_late, first + _NUMBERS_AT_ONCE)], out):
            return None
    out.flags.writeable = False  # as that of a body is, or the kernels were compiled once more
    return out[:size]


def _put_numbers(body: bytes, late: NDArray[np.int64], out: NDArray[np.uint8]) -> bool:
    """Read numbers that the kernel listed, into the protobuf; False: one is beyond a double."""
    texts = [body[start:end] for start, end in late[:, : otlp_json.L_TO].tolist()]
    values = np.fromiter(map(float, texts), dtype=np.float64, count=len(late))
    places = late[:, otlp_json.L_TO, np.newaxis] + np.arange(8)
    out[places] = values.view(np.uint8).reshape(-1, 8)
    return bool(np.isfinite(values).all())


def _names(
    buf: NDArray[np.uint8], t: kernels.Tables, layout: _Layout, limits: Limits
) -> list[str] | None:
    """Names of all columns; None when the rules leave one of the attributes without a column."""
    names = list(layout.names)
    admitted = schema.AttributeColumns(layout.table, limits.max_columns)
    for column in t.columns[len(names) : t.state[kernels.S_COLUMNS]].tolist():
        key = buf[column[kernels.C_KEY] : column[kernels.C_KEY_END]].tobytes().decode()
        name = _PREFIXES[column[kernels.C_PREFIX]] + key
        if not admitted.admit(name, _TYPES[column[kernels.C_KIND]]):
            return None
        names.append(name)
    return names


_TYPES: Final = {
    kernels.KIND_INT64: ColumnType.INT64,
    kernels.KIND_TIME: ColumnType.INT64,
    kernels.KIND_REST: ColumnType.INT64,
    kernels.KIND_FLOAT64: ColumnType.FLOAT64,
    kernels.KIND_BOOL: ColumnType.BOOL,
    kernels.KIND_UTF8: ColumnType.UTF8,
    kernels.KIND_TEXT: ColumnType.UTF8,
    kernels.KIND_HEX: ColumnType.UTF8,
    kernels.KIND_NAME: ColumnType.UTF8,
}

#: Kinds whose bytes are as they were sent, to be checked.
_SENT_TEXT: Final = (kernels.KIND_UTF8, kernels.KIND_TEXT)


def _place(t: kernels.Tables, budget: Budget) -> int | None:
    """Give every column its place in the arena: words of it; None: text beyond 32-bit offsets.

    Raises:
        TooLargeError: they take too much memory.
    """
    rows, size = int(t.state[kernels.S_ROW]), 0
    used = t.columns[: t.state[kernels.S_COLUMNS]]
    for column, counted in zip(used, used.tolist(), strict=True):
        count, num_bytes = counted[kernels.C_COUNT], counted[kernels.C_BYTES]
        column[kernels.C_VALIDITY] = -1
        if not count:
            continue
        type_ = _TYPES[counted[kernels.C_KIND]]
        if type_ is ColumnType.UTF8:
            if num_bytes > _MAX_TEXT_BYTES:
                return None
            blob = size + _round_up(4 * (rows + 1))
            column[kernels.C_AT] = size // 4
            column[kernels.C_BLOB] = column[kernels.C_TO] = blob
            column[kernels.C_BLOB_END] = blob + num_bytes
            size = blob + _round_up(num_bytes)
        else:
            width = 1 if type_ is ColumnType.BOOL else 8
            column[kernels.C_AT] = size // width
            size += _round_up(width * rows)
        if count < rows:
            column[kernels.C_VALIDITY] = size
            size += _round_up(rows)
    budget.spend(size)
    return size // 8


def _round_up(size: int) -> int:
    """To a multiple of 8."""
    return -(-size // 8) * 8


def _columns(t: kernels.Tables, names: list[str]) -> dict[str, Column] | None:
    """The columns that have a value, on the arena; None: a string is not UTF-8."""
    found: dict[str, Column] = {}
    for name, column in zip(names, t.columns[: len(names)].tolist(), strict=True):
        if not column[kernels.C_COUNT]:
            continue
        made = _column(t, column)
        offsets = made.offsets if column[kernels.C_KIND] in _SENT_TEXT else None
        if offsets is not None and not kernels.are_utf8(offsets, made.values):
            return None
        found[name] = made
    return found


def _column(t: kernels.Tables, planned: list[int]) -> Column:
    """One column, as views of the arena."""
    rows, type_ = int(t.state[kernels.S_ROW]), _TYPES[planned[kernels.C_KIND]]
    at, valid_at = planned[kernels.C_AT], planned[kernels.C_VALIDITY]
    validity = None if valid_at < 0 else t.raw[valid_at : valid_at + rows].view(np.bool_)
    if type_ is ColumnType.UTF8:
        blob = t.raw[planned[kernels.C_BLOB] : planned[kernels.C_BLOB_END]]
        return Column(type_, blob, t.offsets[at : at + rows + 1], validity)
    if type_ is ColumnType.BOOL:
        return Column(type_, t.raw[at : at + rows].view(np.bool_), None, validity)
    values = t.arena[at : at + rows]
    if type_ is ColumnType.FLOAT64:
        return Column(type_, values.view(np.float64), None, validity)
    return Column(type_, values, None, validity, planned[kernels.C_WIDE] == 1)


def _batch(table: str, columns: dict[str, Column], rests: Rests, now_us: int) -> ColumnBatch:
    """The batch, its columns in the order of the rules."""
    times = columns.pop(TIME_COLUMN)
    rows = len(times.values)
    columns |= rests.columns(rows)
    last = columns.pop(schema.ATTRIBUTES_JSON, None)
    listed = [name for name in schema.COLUMNS[table] if name in columns]
    ordered: dict[str, Column | None] = {TIME_COLUMN: times}
    ordered |= {name: columns.pop(name) for name in listed}
    ordered |= columns
    if last is not None:
        ordered[schema.ATTRIBUTES_JSON] = last
    tags = schema.tags_of(table, columns)
    return assemble(table, rows, ordered, tags, now_us, TimeUnit.US)
