"""Rows of a query as a file or as text for people: table, CSV, JSON, Arrow, Parquet.

In: a schema and its batches, from an Arrow IPC stream or an engine. Out: bytes in a sink, batch
by batch; only the first batch of a table is held, to find how wide its columns are. Values are
written as in the answers over HTTP; see `ingest.query.answers`. Opens no file and closes none.
"""

from __future__ import annotations

import base64
import collections
import csv
import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.query.answers import plain, values_of
from ingest.query.errors import QueryError

#: What can be written.
FORMATS = ("table", "csv", "json", "arrow", "parquet")

#: Of these, what is no text.
BINARY_FORMATS = frozenset({"arrow", "parquet"})

_GAP = "  "


class Rows(msgspec.Struct, frozen=True):
    """What a query gives.

    Attributes:
        schema: Of the batches.
        batches: To be read once.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Writer(Protocol):
    """Batches in, bytes in a sink."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch, which may be none."""

    def close(self) -> None:
        """Write what comes after the last batch; the sink stays open."""


def rows_of_stream(source: Any) -> Rows:
    """The rows of an Arrow IPC stream.

    Args:
        source: A file object to read it from.

    Raises:
        QueryError: it is no such stream, or breaks off.
    """
    try:
        reader = pa.ipc.open_stream(source)
    except pa.ArrowInvalid as error:
        raise QueryError(f"the answer is no Arrow stream: {error}") from error
    return Rows(reader.schema, iter(reader))


def export(rows: Rows, form: str, sink: BinaryIO, progress: Callable[[int], None]) -> int:
    """Write all rows.

    Args:
        rows: To be written.
        form: One of `FORMATS`.
        sink: Where the bytes go; it need not be a file that can be rewound.
        progress: Told after each batch how many rows are written.

    Returns:
        How many rows there were.

    Raises:
        QueryError: the format cannot hold such rows, or they break off.
        OSError: the sink takes nothing more.
    """
    writer = _writer(rows.schema, form, sink)
    num_rows = 0
    try:
        for batch in rows.batches:
            writer.write(batch)
            num_rows += batch.num_rows
            progress(num_rows)
    except pa.ArrowException as error:
        raise QueryError(f"the rows cannot be written as {form}: {error}") from error
    writer.close()
    return num_rows


def _writer(schema: pa.Schema, form: str, sink: BinaryIO) -> Writer:
    if form in ("json", "parquet"):
        _check_names(schema.names, form)
    match form:
        case "table":
            return _TableWriter(schema, sink)
        case "csv":
            return _CsvWriter(schema, sink)
        case "json":
            return _JsonWriter(schema, sink)
        case "arrow":
            stream: Writer = pa.ipc.new_stream(sink, schema)
            return stream
        case "parquet":
            return _parquet(schema, sink)
    raise QueryError(f"format {form!r} is not known: wanted {', '.join(FORMATS)}")


def _check_names(names: list[str], form: str) -> None:
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise QueryError(
            f"{form} cannot have two columns {twice[0]!r}: give one another name with AS"
        )


def _parquet(schema: pa.Schema, sink: BinaryIO) -> Writer:
    try:
        writer: Writer = pq.ParquetWriter(sink, schema, compression="zstd")
    except pa.ArrowException as error:
        raise QueryError(f"the rows cannot be written as parquet: {error}") from error
    return writer


class _TableWriter:
    """Columns side by side, as wide as the widest value of the first batch."""

    def __init__(self, schema: pa.Schema, sink: BinaryIO) -> None:
        self._names = [_printable(name) for name in schema.names]
        self._is_number = [_is_number(kind) for kind in schema.types]
        self._sink = sink
        self._widths: list[int] = []

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [
            [_printable(text_of(value, "NULL")) for value in values_of(column)]
            for column in batch.columns
        ]
        if not self._widths:
            self._begin(columns)
        self._write_lines(list(zip(*columns, strict=True)))

    def close(self) -> None:
        if not self._widths:
            self._begin([[] for _ in self._names])

    def _begin(self, columns: list[list[str]]) -> None:
        self._widths = [
            max(map(len, (name, *column)))
            for name, column in zip(self._names, columns, strict=True)
        ]
        self._write_lines([tuple(self._names), tuple("-" * width for width in self._widths)])

    def _write_lines(self, rows: list[tuple[str, ...]]) -> None:
        shape = list(zip(self._widths, self._is_number, strict=True))
        lines = [
            _GAP.join(
                text.rjust(width) if is_number else text.ljust(width)
                for text, (width, is_number) in zip(row, shape, strict=True)
            ).rstrip()
            for row in rows
        ]
        self._sink.write("".join(f"{line}\n" for line in lines).encode())


class _CsvWriter:
    """As RFC 4180, the names in the first line; a value that is missing is empty."""

    def __init__(self, schema: pa.Schema, sink: BinaryIO) -> None:
        self._sink = sink
        self._write([schema.names])

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [[text_of(value, "") for value in values_of(column)] for column in batch.columns]
        self._write(list(zip(*columns, strict=True)))

    def close(self) -> None:
        pass

    def _write(self, rows: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows(rows)
        self._sink.write(text.getvalue().encode("utf-8", "surrogatepass"))


class _JsonWriter:
    """One array of objects, each on a line of its own."""

    def __init__(self, schema: pa.Schema, sink: BinaryIO) -> None:
        self._names = schema.names
        self._encoder = msgspec.json.Encoder(enc_hook=plain, decimal_format="number")
        self._sink = sink
        self._before = b"[\n"

    def write(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        rows = zip(*(values_of(column) for column in batch.columns), strict=True)
        lines = [self._encoder.encode(dict(zip(self._names, row, strict=True))) for row in rows]
        self._sink.write(self._before + b",\n".join(lines))
        self._before = b",\n"

    def close(self) -> None:
        self._sink.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


def text_of(value: Any, missing: str) -> str:
    """A value of `values_of` as text.

    Args:
        value: To be written; lists and structs become JSON, bytes base64.
        missing: What stands for none.
    """
    match value:
        case None:
            return missing
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return base64.b64encode(value).decode()
        case list() | dict():
            return msgspec.json.encode(value, enc_hook=plain).decode()
    return str(value)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _printable(text: str) -> str:
    """Without anything that a terminal would obey: a row stays a line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )
