"""Files to the bodies of write requests: CSV, Parquet, Arrow IPC and line protocol, in pieces.

In: a file and how to read it. Out: pieces, one after another, each a body for a door and what the
client of that door has to know. The same file and options give the same pieces every time, so
that an import that was cut off can go on where it was. Memory is that of a piece and of what the
reader holds: a block of CSV, a record batch of Arrow, a row group of Parquet. Nothing is sent or
remembered here.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN
from ingest.errors import ClientError
from ingest.timestamps import TimeUnit, to_epoch_us

#: Metadata key of a schema: its tag columns, a JSON list.
TAGS_KEY = b"arc:tags"

#: Rows of a piece, unless the caller says otherwise: some 3 MB of workload c, 5 ms of the daemon.
BATCH_ROWS = 50_000

#: Bytes of a body: a wide table gets fewer rows a piece.
MAX_PIECE_BYTES = 8 * 2**20

#: Hours that the rows of one piece may cover; each is a file, and the daemon takes 1 000 of them.
MAX_PIECE_HOURS = 500

#: Block of CSV from which the types are inferred, and of text that is read at once.
BLOCK_BYTES = 4 * 2**20

#: A text in quotes that is still open after so many bytes was never meant to be.
MAX_LINE_BYTES = 1 * 2**20

#: What of a file tells it from others of its size, from each end.
_IDENTITY_BYTES = 2**20

_HOUR_US = 3_600_000_000

_T = TypeVar("_T")


class FileFormat(enum.StrEnum):
    """What is in a file."""

    CSV = "csv"
    PARQUET = "parquet"
    LINE_PROTOCOL = "line-protocol"
    ARROW = "arrow"


class Door(enum.StrEnum):
    """What is in a body."""

    ARROW = "arrow"
    LINE_PROTOCOL = "line-protocol"


class FileError(Exception):
    """A file that cannot be imported as it is; the message says why and where."""


class ReadOptions(msgspec.Struct, frozen=True):
    """How to read a file. Whatever is here decides where pieces begin and end.

    Attributes:
        format: What is in it.
        batch_rows: Rows, or lines, of a piece at most.
        time_column: Name of the column with the times.
        time_unit: Of times that are numbers; None: told from their magnitudes, of line protocol
            nanoseconds.
        tags: Names of the tag columns; empty: as the file says.
        column_types: CSV only: types by column name, keys of `COLUMN_TYPES`.
    """

    format: FileFormat
    batch_rows: int = BATCH_ROWS
    time_column: str = TIME_COLUMN
    time_unit: TimeUnit | None = None
    tags: tuple[str, ...] = ()
    column_types: tuple[tuple[str, str], ...] = ()


class Piece(msgspec.Struct, frozen=True):
    """A part of a file.

    Attributes:
        door: What the body is.
        body: For the daemon.
        index: Its number in the file, from 0.
        first: The first row (of text: line) that it was made from, counted from 1 in the file.
        last: The last one. Where rows had to be put into the order of time first, several pieces
            share these two.
        rows: How many rows, or lines that are neither empty nor comments, it has.
        share: How much of the file is read once this piece is, 0 to 1.
    """

    door: Door
    body: bytes
    index: int
    first: int
    last: int
    rows: int
    share: float


#: Types that a column of CSV can be given.
COLUMN_TYPES = ("int64", "float64", "utf8", "bool", "binary", "timestamp")

_EXTENSIONS = {
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.CSV,
    ".parquet": FileFormat.PARQUET,
    ".pq": FileFormat.PARQUET,
    ".lp": FileFormat.LINE_PROTOCOL,
    ".line": FileFormat.LINE_PROTOCOL,
    ".influx": FileFormat.LINE_PROTOCOL,
    ".arrow": FileFormat.ARROW,
    ".arrows": FileFormat.ARROW,
    ".ipc": FileFormat.ARROW,
    ".feather": FileFormat.ARROW,
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_ARROW_FILE_MAGIC, _PARQUET_MAGIC = b"ARROW1", b"PAR1"


# --------------------------------------------------------------------------- what a file is


def detect_format(path: Path) -> FileFormat:
    """Tell what is in a file, by its first bytes or by its name.

    Raises:
        FileError: neither says.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_PARQUET_MAGIC):
        return FileFormat.PARQUET
    if head.startswith(_ARROW_FILE_MAGIC):
        return FileFormat.ARROW
    found = _EXTENSIONS.get(_inner_suffix(path))
    if found is None:
        raise FileError(f"{path}: nothing says what it is; name it with --format")
    return found


def file_identity(path: Path) -> str:
    """What tells the content of a file from that of others, wherever it lies: 32 hex digits.

    Its size and the SHA-256 of its first and its last MiB.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    with path.open("rb") as file:
        digest.update(file.read(_IDENTITY_BYTES))
        file.seek(max(0, size - _IDENTITY_BYTES))
        digest.update(file.read(_IDENTITY_BYTES))
    return digest.hexdigest()[:32]


def read_pieces(path: Path, options: ReadOptions, skip: int = 0) -> Iterator[Piece]:
    """Read a file, piece by piece.

    Args:
        path: Of the file.
        options: How to read it.
        skip: Number of pieces, from the first, that are not wanted.

    Raises:
        FileError: it cannot be read as what it is said to be. Pieces before that are good.
        OSError: it cannot be read at all.
    """
    if options.format is FileFormat.LINE_PROTOCOL:
        return _line_pieces(path, options, skip)
    readers = {
        FileFormat.CSV: _csv_batches,
        FileFormat.PARQUET: _parquet_batches,
        FileFormat.ARROW: _arrow_batches,
    }
    return _table_pieces(readers[options.format](path, options), path, options, skip)


def _inner_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _open(path: Path) -> tuple[Any, Callable[[], float]]:
    """A file to read, decompressed by its name, and what says how much of it has been read."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    raw = path.open("rb")
    size = max(1, os.fstat(raw.fileno()).st_size)
    stream = pa.PythonFile(raw, mode="r")
    if compression:
        stream = pa.CompressedInputStream(stream, compression)
    return stream, lambda: 1.0 if raw.closed else min(1.0, raw.tell() / size)


def _said(path: Path, error: Exception) -> FileError:
    return FileError(f"{path}: {' '.join(str(error).split())}")


# ------------------------------------------------------------------------- tables, any format

#: Record batches in the order of the file, and how much of it has been read after each.
_Batches = Iterator[tuple[pa.RecordBatch, float]]


def _table_pieces(
    batches: _Batches, path: Path, options: ReadOptions, skip: int
) -> Iterator[Piece]:
    index = row = 0
    for batch, share in batches:
        named = _named(batch, path, options)
        for start, end in _slices(named, options):
            for part in _cut_at_hours(named.slice(start, end - start), options):
                if index >= skip:
                    first, last, rows = row + start + 1, row + end, part.num_rows
                    yield Piece(Door.ARROW, _stream(part), index, first, last, rows, share)
                index += 1
        row += batch.num_rows


def _named(batch: pa.RecordBatch, path: Path, options: ReadOptions) -> pa.RecordBatch:
    """The batch with its times in a column of that name, and its tags in the metadata."""
    names = list(batch.schema.names)
    if names.count(options.time_column) != 1:
        there = ", ".join(repr(name) for name in names[:20])
        raise FileError(
            f"{path}: {names.count(options.time_column)} columns are named "
            f"{options.time_column!r}, wanted one with the times; name it with --time-column. "
            f"There are: {there}"
        )
    if options.time_column != TIME_COLUMN:
        if TIME_COLUMN in names:
            if f"{TIME_COLUMN}_value" in names:
                raise FileError(f"{path}: there are columns 'time' and 'time_value' already")
            names[names.index(TIME_COLUMN)] = f"{TIME_COLUMN}_value"
        names[names.index(options.time_column)] = TIME_COLUMN
    metadata = {}
    declared = (batch.schema.metadata or {}).get(TAGS_KEY)
    if options.tags:
        declared = json.dumps(options.tags, ensure_ascii=False).encode()
        missing = [tag for tag in options.tags if tag not in names]
        if missing:
            raise FileError(f"{path}: no column is named {missing[0]!r}, which shall be a tag")
    if declared is not None:
        metadata[TAGS_KEY] = declared
    arrays = [_without_views(array) for array in batch.columns]
    fields = [pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata))


def _without_views(array: pa.Array) -> pa.Array:
    """Text and bytes in one piece: pyarrow cannot put views into another order."""
    if pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    return array.cast(pa.binary()) if pa.types.is_binary_view(array.type) else array


def _slices(batch: pa.RecordBatch, options: ReadOptions) -> Iterator[tuple[int, int]]:
    """First row of each part of a batch, and the row after its last, by rows and bytes."""
    rows = options.batch_rows
    if batch.nbytes > MAX_PIECE_BYTES:
        rows = max(1, min(rows, batch.num_rows * MAX_PIECE_BYTES // batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield start, min(start + rows, batch.num_rows)


def _cut_at_hours(batch: pa.RecordBatch, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    """A batch as it is, or, where it covers too many hours, in the order of time and in parts."""
    hours = _hours(batch.column(batch.schema.get_field_index(TIME_COLUMN)), options)
    if hours is None or hours.max() - hours.min() < MAX_PIECE_HOURS:
        yield batch
        return
    order = np.argsort(hours, kind="stable")
    nth_hour = np.cumsum(np.diff(hours[order], prepend=hours[order[0]]) != 0)
    if nth_hour[-1] < MAX_PIECE_HOURS:
        yield batch
        return
    cuts = np.searchsorted(nth_hour, np.arange(0, nth_hour[-1] + 1, MAX_PIECE_HOURS))
    for start, end in zip(cuts, [*cuts[1:], len(order)], strict=True):
        yield batch.take(pa.array(order[start:end]))


def _hours(times: pa.Array, options: ReadOptions) -> NDArray[np.int64] | None:
    """The hour of each row; None where the daemon will refuse the times anyway."""
    kind, unit = times.type, options.time_unit
    if times.null_count:
        return None
    if pa.types.is_timestamp(kind):
        unit, times = TimeUnit(kind.unit), times.cast(pa.int64())
    elif pa.types.is_date(kind):
        unit, times = TimeUnit.S, times.cast(pa.timestamp("s")).cast(pa.int64())
    if not (pa.types.is_integer(times.type) or pa.types.is_float64(times.type)):
        return None
    try:
        if pa.types.is_integer(times.type):
            times = times.cast(pa.int64())
        values = np.array(times.to_numpy(zero_copy_only=False))
        return np.floor_divide(to_epoch_us(values, unit, TIME_COLUMN).time_us, _HOUR_US)
    except (ClientError, pa.ArrowInvalid):
        return None


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


# ------------------------------------------------------------------------------ tables, by format


def _csv_batches(path: Path, options: ReadOptions) -> _Batches:
    stream, share = _open(path)
    types = {name: _csv_type(kind) for name, kind in options.column_types}
    delimiter = "\t" if _inner_suffix(path) == ".tsv" else ","
    names: list[str] = []
    with stream:
        try:
            reader = pa.csv.open_csv(
                stream,
                # One thread: only then do errors tell the row.
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(column_types=types),
            )
            names = reader.schema.names
            missing = [name for name in types if name not in names]
            if missing:
                raise FileError(f"{path}: no column is named {missing[0]!r}, which has a type")
            for batch in reader:
                yield batch, share()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _csv_error(path, error, names) from None


def _csv_type(kind: str) -> pa.DataType:
    if kind == "timestamp":
        return pa.timestamp("us", tz="UTC")
    return {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "utf8": pa.string(),
        "bool": pa.bool_(),
        "binary": pa.binary(),
    }[kind]


def _csv_error(path: Path, error: Exception, names: list[str]) -> FileError:
    """The same error, with the name of its column and what can be done."""
    text = " ".join(str(error).split())
    where = re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?(.*)", text)
    if where is None:
        return FileError(f"{path}: {text}")
    number, row, what = int(where[1]), where[2], where[3]
    name = repr(names[number]) if number < len(names) else f"number {number + 1}"
    at = f", row {row} (the header is row 1)" if row else ""
    return FileError(
        f"{path}: column {name}{at}: {what}. Types are told from the first {BLOCK_BYTES >> 20} "
        f"MiB; give this one with --column-type NAME=TYPE, TYPE one of {', '.join(COLUMN_TYPES)}"
    )


def _parquet_batches(path: Path, options: ReadOptions) -> _Batches:
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            total, done = max(1, file.metadata.num_rows), 0
            declared = (file.metadata.metadata or {}).get(TAGS_KEY)
            # Not in threads: they would decode ahead of what is sent.
            for batch in file.iter_batches(options.batch_rows, use_threads=False):
                done += batch.num_rows
                if declared is not None:
                    batch = batch.replace_schema_metadata({TAGS_KEY: declared})
                yield batch, done / total
    except (pa.ArrowException, OSError) as error:
        raise _said(path, error) from None


def _arrow_batches(path: Path, options: ReadOptions) -> _Batches:
    with path.open("rb") as head:
        is_file = head.read(6) == _ARROW_FILE_MAGIC
    try:
        if is_file:
            with pa.ipc.open_file(pa.OSFile(str(path))) as file:
                for number in range(file.num_record_batches):
                    yield file.get_batch(number), (number + 1) / file.num_record_batches
            return
        stream, share = _open(path)
        with stream, pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                yield batch, share()
    except (pa.ArrowException, OSError) as error:
        raise _said(path, error) from None


# ------------------------------------------------------------------------------------ text


class _Lines:
    """Whole lines of line protocol on their way to a piece."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.num_bytes = 0
        self.rows = 0
        self.hours: set[int] = set()

    def add(self, line: bytes, hour: int | None) -> None:
        """Take a line, with its end."""
        self.kept.append(line)
        self.num_bytes += len(line)
        self.rows += 1
        if hour is not None:
            self.hours.add(hour)

    def is_full_for(self, line: bytes, hour: int | None, options: ReadOptions) -> bool:
        """Whether a piece has to end before a line."""
        return bool(self.kept) and (
            self.rows >= options.batch_rows
            or self.num_bytes + len(line) > MAX_PIECE_BYTES
            or (hour not in self.hours and len(self.hours) >= MAX_PIECE_HOURS)
        )


def _line_pieces(path: Path, options: ReadOptions, skip: int) -> Iterator[Piece]:
    hour_length = _hour_length(options.time_unit)
    lines, index, first, last = _Lines(), 0, 1, 0
    for number, line, count, share in _text_lines(path):
        if not line.strip() or line.lstrip(b" \t").startswith(b"#"):
            continue
        hour = _hour_of(line, hour_length)
        if lines.is_full_for(line, hour, options):
            if index >= skip:
                yield _line_piece(lines, index, first, last, share)
            lines, index = _Lines(), index + 1
        first = number if not lines.kept else first
        last = number + count - 1
        lines.add(line, hour)
    if lines.kept and index >= skip:
        yield _line_piece(lines, index, first, last, 1.0)


def _line_piece(lines: _Lines, index: int, first: int, last: int, share: float) -> Piece:
    body = b"".join(lines.kept)
    return Piece(Door.LINE_PROTOCOL, body, index, first, last, lines.rows, share)


def _hour_length(unit: TimeUnit | None) -> int:
    """How long an hour is in a unit of times; nanoseconds are the default of line protocol."""
    per_hour = {"s": 3600, "ms": 3600 * 10**3, "us": 3600 * 10**6, "m": 60, "h": 1}
    return per_hour.get(str(unit), 3600 * 10**9)


def _hour_of(line: bytes, hour_length: int) -> int | None:
    """The hour of a line that ends with a time; None where it has none, or a bad one."""
    try:
        return int(line.rsplit(b" ", 1)[-1]) // hour_length
    except ValueError:
        return None


def _text_lines(path: Path) -> Iterator[tuple[int, bytes, int, float]]:
    """Logical lines: number of the first line of text, bytes with their end, how many, share."""
    parts: list[bytes] = []
    number, num_bytes = 1, 0
    for line, share in _raw_lines(path):
        was_open = bool(parts)
        parts.append(line)
        num_bytes += len(line)
        if (was_open or b'"' in line) and is_open(line, was_open):
            if num_bytes > MAX_LINE_BYTES:
                raise FileError(
                    f"{path}: line {number}: a text in quotes that is not closed within "
                    f"{MAX_LINE_BYTES} bytes"
                )
            continue
        yield number, b"".join(parts), len(parts), share
        number, parts, num_bytes = number + len(parts), [], 0
    if parts:
        raise FileError(f"{path}: line {number}: a text in quotes that is not closed")


def _raw_lines(path: Path) -> Iterator[tuple[bytes, float]]:
    """What ends with a line feed, and the last line, which gets one."""
    stream, share = _open(path)
    rest = b""
    with stream:
        try:
            while block := stream.read(BLOCK_BYTES):
                rest += block
                *lines, rest = rest.split(b"\n")
                at = share()
                for line in lines:
                    yield line + b"\n", at
                if len(rest) > MAX_PIECE_BYTES:
                    raise FileError(f"{path}: a line of more than {MAX_PIECE_BYTES} bytes")
        except (pa.ArrowException, OSError) as error:
            raise _said(path, error) from None
    if rest:
        yield rest + b"\n", 1.0


def is_open(line: bytes, was_open: bool = False) -> bool:
    """Whether a line of line protocol ends within a text in quotes, which may hold line feeds.

    The rules are those of `ingest.line_protocol_slow`: quotes mean nothing before the fields, which
    the first space that is not escaped begins; a text begins with a quote right after `=`.

    Args:
        line: Up to a line feed.
        was_open: Whether the one before it ended so.
    """
    line = line if was_open else line.lstrip(b" \t")
    begin = _CLOSE.match(line) if was_open else _HEAD.match(line)
    if begin is None or (line.startswith(b"#") and not was_open):
        return was_open
    return _FIELDS.fullmatch(line, begin.end()) is None


#: From the beginning of a line to the space before its fields; what is left of a text that is
#: open; and fields without an open text.
_HEAD = re.compile(rb"(?:[^ \n\\]|\\ ?+)*+ ")
_CLOSE = re.compile(rb'(?:[^"\\]|\\.?+)*+"', re.DOTALL)
_FIELDS = re.compile(rb'(?:[^=\\]|\\=?+|=(?!")|="(?:[^"\\]|\\.?+)*+")*+', re.DOTALL)
