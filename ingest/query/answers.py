"""Arrow batches as the bytes that clients read: JSON, MessagePack, an Arrow IPC stream. Pure.

In JSON and MessagePack, times are RFC 3339 strings in UTC, days `YYYY-MM-DD`, intervals ISO 8601.
JSON has no NaN, no infinity and no bytes: those are null, null and base64. Decimals are numbers.
Integers beyond 64 bits are strings, since most readers would round them.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MAX_UINT64, _MIN_INT64 = 2**64 - 1, -(2**63)
#: What DuckDB's 'infinity' and '-infinity' are in a timestamp.
_INFINITY_US = 2**63 - 1

#: Of an Arrow IPC stream (arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format").
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class RowEncoder:
    """Rows of batches, each as an array, one after another.

    Args:
        is_json: JSON, with commas between the rows; otherwise MessagePack.
    """

    def __init__(self, is_json: bool) -> None:
        self._is_json = is_json
        self._json = msgspec.json.Encoder(enc_hook=plain, decimal_format="number")
        self._msgpack = msgspec.msgpack.Encoder(enc_hook=plain, decimal_format="number")

    def encode(self, batch: pa.RecordBatch) -> bytes:
        """All rows of a batch, without what would make them one array."""
        columns = [values_of(column) for column in batch.columns]
        rows = list(zip(*columns, strict=True)) if columns else [()] * batch.num_rows
        if self._is_json:
            return self._json.encode(rows)[1:-1]
        return b"".join(map(self._msgpack.encode, rows))


class ArrowEncoder:
    """An Arrow IPC stream in pieces: `begin`, `encode` for each batch, `end`.

    Args:
        schema: Of the batches. Dictionaries are sent as the values that they stand for.
    """

    def __init__(self, schema: pa.Schema) -> None:
        fields = [field.with_type(_without_dictionary(field.type)) for field in schema]
        self._schema = pa.schema(fields)

    def begin(self) -> memoryview:
        """The schema."""
        return memoryview(self._schema.serialize())

    def encode(self, batch: pa.RecordBatch) -> memoryview:
        """The rows of a batch."""
        if batch.schema != self._schema:
            columns = zip(batch.columns, self._schema.types, strict=True)
            arrays = [column.cast(kind) for column, kind in columns]
            batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return memoryview(batch.serialize())

    def end(self) -> bytes:
        """What tells that nothing is missing."""
        return _END_OF_STREAM


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(_without_dictionary(kind.value_type))
    if pa.types.is_struct(kind):
        fields = [field.with_type(_without_dictionary(field.type)) for field in kind]
        return pa.struct(fields)
    return kind


# --- values --------------------------------------------------------------------------------------


def values_of(column: pa.Array) -> list[Any]:
    """The values of a column as an encoder with `plain` takes them, None where one is missing."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _numbers(column)
    if pa.types.is_timestamp(kind):
        return _times(column)
    if pa.types.is_dictionary(kind):
        return values_of(column.dictionary_decode())
    if pa.types.is_interval(kind):
        return [None if value is None else _interval(value) for value in column.to_pylist()]
    if pa.types.is_decimal(kind):
        return [_decimal(value) for value in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _numbers(column: pa.Array) -> list[Any]:
    # HOT, once per value: to_pylist makes a scalar of each, NumPy makes the list in one call.
    missing = column.null_count
    filled = pc.fill_null(column, 0) if missing else column
    values: list[Any] = filled.to_numpy(zero_copy_only=False).tolist()
    if missing:
        _put_nulls(values, column)
    return values


def _times(column: pa.Array) -> list[Any]:
    unit = column.type.unit
    numbers = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    texts = np.datetime_as_string(numbers.astype(f"datetime64[{unit}]"))
    values = [_rfc3339(text) for text in texts.tolist()]
    for row in np.flatnonzero(np.abs(numbers) == _INFINITY_US).tolist():
        values[row] = "infinity" if numbers[row] > 0 else "-infinity"
    if column.null_count:
        _put_nulls(values, column)
    return values


def _rfc3339(text: str) -> str:
    """The text of NumPy, fractions without zeros at their end."""
    return f"{text.rstrip('0').rstrip('.')}Z" if "." in text else f"{text}Z"


def _put_nulls(values: list[Any], column: pa.Array) -> None:
    for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
        values[row] = None


def _decimal(value: decimal.Decimal | None) -> object:
    """A decimal without fraction, such as the sum of integers, is an integer."""
    if value is None or value.as_tuple().exponent != 0:
        return value
    number = int(value)
    return number if _MIN_INT64 <= number <= _MAX_UINT64 else str(number)


def plain(value: Any) -> object:
    """What msgspec does not know, as something that it does."""
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def _interval(value: pa.MonthDayNano) -> str:
    """ISO 8601: P1M2DT3.5S."""
    seconds = decimal.Decimal(value.nanoseconds) / 10**9
    parts = f"{value.months}M" if value.months else ""
    parts += f"{value.days}D" if value.days else ""
    if seconds or not parts:
        parts += f"T{seconds.normalize():f}S"
    return f"P{parts}"


# --- the object around the rows ------------------------------------------------------------------


def around_rows(
    columns: list[str], num_rows: int, seconds: float, is_json: bool
) -> tuple[bytes, bytes]:
    """What stands before and after the rows in an answer.

    Args:
        columns: Their names.
        num_rows: How many there are.
        seconds: Since the request came.
        is_json: Or MessagePack.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    rest = {
        "row_count": num_rows,
        "execution_time_ms": round(seconds * 1000, 3),
        "timestamp": now.replace("+00:00", "Z"),
    }
    if is_json:
        head = b'{"success":true,"columns":%s,"data":[' % msgspec.json.encode(columns)
        return head, b"]," + msgspec.json.encode(rest)[1:]
    first = b"".join(map(msgspec.msgpack.encode, ("success", True, "columns", columns, "data")))
    last = b"".join(_packed(rest))
    size = 3 + len(rest)
    return bytes([0x80 | size]) + first + b"\xdd" + num_rows.to_bytes(4, "big"), last


def _packed(content: dict[str, Any]) -> Iterator[bytes]:
    for name, value in content.items():
        yield msgspec.msgpack.encode(name)
        yield msgspec.msgpack.encode(value)
