"""What the fast decoder leaves out of a request that it takes, as JSON columns.

In: records that the kernels listed, because they have attributes without a column, a body that is
no string, events or links; and scopes whose records share such attributes. Out: the columns
`attributes_json`, `body_json`, `events_json` and `links_json`. The protobuf library reads the
listed records, one at a time, and the plain decoder's own functions write the text.

The kernels leave out more than they may: a value of another type than its column, a key twice.
Then the request is for the plain decoder, which is found here, by counting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError as ProtobufError
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ingest.columns import Column, ColumnType
from ingest.errors import LimitError
from ingest.kernels import otlp as kernels
from ingest.limits import Limits
from ingest.otlp import schema, values
from ingest.otlp.parts import Budget, Parts
from ingest.otlp.request import Signal
from ingest.otlp.values import Message

_RECORD_TYPES: Final[dict[Signal, Any]] = {Signal.LOGS: LogRecord, Signal.TRACES: Span}

#: Of the records that have one: column -> text of a record.
_TEXTS: Final[dict[Signal, dict[str, Any]]] = {
    Signal.LOGS: {"body_json": lambda record: _body_text(record.body)},
    Signal.TRACES: {
        "events_json": lambda span: values.events_text(span.events),
        "links_json": lambda span: values.links_text(span.links),
    },
}

#: Rows that a text is repeated for at a time.
_ROWS_AT_ONCE = 4096


def _body_text(body: Message) -> str | None:
    return None if body.WhichOneof("value") == "string_value" else values.body_text(body)


class _NotOursError(Exception):
    """Something was left out that the rules do not leave out."""


class Rests:
    """The JSON columns of one request."""

    def __init__(
        self, body: NDArray[np.uint8], signal: Signal, limits: Limits, budget: Budget
    ) -> None:
        """Start without a value.

        Args:
            body: uint8: the request, in protobuf.
            signal: What it exports.
            limits: Of the request.
            budget: Of the request, charged with the texts.
        """
        self._body = body
        self._signal = signal
        self._max_bytes = 2 * limits.max_elements  # as the plain decoder: a record is read whole
        self._budget = budget
        self._attributes = Parts(ColumnType.UTF8)
        self._others = {name: Parts(ColumnType.UTF8) for name in _TEXTS[signal]}

    def read(self, listed: list[list[int]]) -> bool:
        """Read what the kernels listed, rows of `kernels.Tables.rests`.

        Returns:
            Whether this is all that the plain decoder would do; otherwise the request is for it.

        Raises:
            TooLargeError: the texts take too much memory.
        """
        try:
            self._read(listed)
        except (ProtobufError, UnicodeDecodeError, LimitError, _NotOursError):
            return False  # to be worded by the plain decoder
        return True

    def columns(self, num_rows: int) -> dict[str, Column]:
        """The columns that have a value, in no order."""
        parts = {**self._others, schema.ATTRIBUTES_JSON: self._attributes}
        made = {name: each.finish(num_rows) for name, each in parts.items()}
        return {name: column for name, column in made.items() if column is not None}

    def _read(self, listed: list[list[int]]) -> None:
        """Scopes one after another, each with the records in it that are listed themselves."""
        at, shared, first, end = 0, dict[str, Any](), 0, 0
        while at < len(listed):
            row = listed[at]
            if row[kernels.R_END] >= 0:
                shared, at = self._shared(row), at + 1
                first, end = row[kernels.R_ROW], row[kernels.R_END]
            else:
                first, end = row[kernels.R_ROW], row[kernels.R_ROW] + 1
                shared = {}
            while at < len(listed) and listed[at][kernels.R_END] < 0:
                if listed[at][kernels.R_ROW] >= end:
                    break
                others = self._record(listed[at])
                if others:
                    self._repeat(shared, first, listed[at][kernels.R_ROW])
                    self._repeat(shared | others, listed[at][kernels.R_ROW])
                    first = listed[at][kernels.R_ROW] + 1
                at += 1
            self._repeat(shared, first, end)

    def _repeat(self, said: dict[str, Any], first: int, end: int | None = None) -> None:
        """Give rows the same `attributes_json`."""
        end = first + 1 if end is None else end
        if not said or first >= end:
            return
        text = values.json_text(said)
        for start in range(first, end, _ROWS_AT_ONCE):
            rows = np.arange(start, min(end, start + _ROWS_AT_ONCE), dtype=np.int64)
            self._attributes.add(rows, [text] * len(rows), self._budget)

    def _shared(self, row: list[int]) -> dict[str, Any]:
        """What resource and scope leave out."""
        said: dict[str, Any] = {}
        start, end, skipped = row[kernels.R_A : kernels.R_SKIPPED + 1]
        if skipped:
            resource = self._message(Resource, start, end)
            said |= _left_out(schema.RESOURCE_PREFIX, resource.attributes, skipped)
        start, end, skipped = row[kernels.R_SCOPE_A : kernels.R_SCOPE_SKIPPED + 1]
        if skipped:
            scope = self._message(InstrumentationScope, start, end)
            said |= _left_out(schema.SCOPE_PREFIX, scope.attributes, skipped)
        return said

    def _record(self, row: list[int]) -> dict[str, Any]:
        """Attributes that a record leaves out; the other texts of it go to their columns."""
        kind = _RECORD_TYPES[self._signal]
        record = self._message(kind, row[kernels.R_A], row[kernels.R_B])
        if row[kernels.R_SCOPE_A] and record.body.WhichOneof("value") == "string_value":
            raise _NotOursError
        rows = np.array([row[kernels.R_ROW]], dtype=np.int64)
        for name, text_of in _TEXTS[self._signal].items():
            text = text_of(record)
            if text is not None:
                self._others[name].add(rows, [text], self._budget)
        skipped = row[kernels.R_SKIPPED]
        if not skipped:
            return {}
        return _left_out(schema.ATTRIBUTE_PREFIX, record.attributes, skipped)

    def _message(self, kind: Any, start: int, end: int) -> Message:
        if end - start > self._max_bytes:
            raise _NotOursError
        return kind.FromString(self._body[start:end].tobytes())


def _left_out(prefix: str, attributes: Iterable[Message], skipped: int) -> dict[str, Any]:
    """What of attributes has no column, by name.

    Raises:
        _NotOursError: it is not what was left out, or a key is there twice.
    """
    said, keys, count = dict[str, Any](), set[str](), 0
    for attribute in attributes:
        key, value = attribute.key, attribute.value
        if key in keys:
            raise _NotOursError
        keys.add(key)
        if value.WhichOneof("value") not in schema.TYPE_OF_VALUE:
            said[prefix + key] = values.plain(value)
            count += 1
    if count != skipped:
        raise _NotOursError
    return said
