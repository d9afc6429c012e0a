"""Arrow tables to Parquet files: which encoding for which column, and the bytes.

In: a table as `table_build` makes it. Out: a Parquet file, and what its table has to know of it.
`plan` looks at a few thousand values and decides; `write` does as it is told. Nothing here names
a file, syncs it or makes it part of a table.

Large tables go through our own encoder (`parquet_file`), small ones and types that are not the
table's through pyarrow's. A reader cannot tell the two apart but by the name of the writer.

Every choice is a price: nanoseconds of encoding plus bytes times what a byte is worth under the
codec that the operator chose. The constants are measured, see
docs/profiling/2026-11-20-parquet-settings.md and 2026-11-20-flush-encoding.md for the figures and
for what was left out.

Files of one table differ in their encodings and look the same to a reader: times are TIMESTAMP
(micros, UTC), text is STRING, every column but the time is optional. So no Arrow schema is
stored: it would tell pyarrow, and only pyarrow, that one file has dictionaries and another has
none. Only what readers have understood for years is used: data pages of version 1, PLAIN,
RLE_DICTIONARY, DELTA_BINARY_PACKED. Not BYTE_STREAM_SPLIT, which the vectorised reader of Spark
learnt only in 2026.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN
from ingest.parquet_file import FileWriter, MemorySink, PathSink, Sink, leaves_of
from ingest.parquet_pages import CODECS, MAX_DICTIONARY_BYTES, ColumnEncoding
from ingest.parquet_thrift import Codec, Leaf
from ingest.schema import TableSchema

#: General codec of a file: what the operator would pay for size.
Compression: TypeAlias = Literal["none", "snappy", "lz4", "zstd"]

#: Key-value metadata of a file: its tag columns, a JSON list, and which log records it holds.
TAGS_KEY, LOG_KEY = "arc:tags", "arc:log"


#: What a byte of file is worth, in ns of encoding. none: what `write` and `fsync` of it take of
#: the CPU. snappy, lz4: its time on a disk of 320 MB/s, which would be full at 12 M records/s of
#: three plain doubles and is at 45 M of three dictionaries. zstd: size before speed.
_BYTE_PRICE_NS: dict[Compression, float] = {"none": 0.3, "snappy": 3.0, "lz4": 3.0, "zstd": 5.0}

#: ns a value, levels and page headers included (benchmarks/bench_parquet.py -k own).
_PLAIN_NS, _DELTA_NS = 0.3, 1.0
_DICTIONARY_NS = ((256, 1.5), (16_384, 2.5), (1 << 62, 9.0))
#: ns a byte of plain values on top.
_CODEC_BYTE_NS: dict[Compression, float] = {"none": 0.0, "snappy": 1.4, "lz4": 1.3, "zstd": 2.0}

_VALUE_BYTES = 8

#: Knee of benchmarks/bench_parquet.py -k groups: 128 Ki rows cost 28 % more time and 14 % more
#: bytes, since each group repeats its dictionaries; 512 Ki cost 4 % and 2 %.
ROW_GROUP_ROWS = 1 << 20

#: Tables below are written by pyarrow: a column costs it 10 µs whatever its rows, and our encoder
#: 25, which more rows win back at 2 to 5 ns each (benchmarks/bench_flush.py --small).
MIN_OWN_ROWS = 8_192

_WRITE_BATCH_ROWS = 1 << 16

#: Below, a look costs more than it saves, and such files come where there is little to do: they
#: get the codec on everything.
_MIN_ROWS_TO_LOOK = 8_192
_SAMPLE_ROWS = 4096
_SAMPLE_SHARE = 8
_TEXT_SAMPLE_ROWS = 256
#: Values of a block and a miniblock of DELTA_BINARY_PACKED, as pyarrow writes int64.
_DELTA_BLOCK_ROWS, _DELTA_MINIBLOCK_ROWS = 256, 64


class WriteOptions(msgspec.Struct, frozen=True):
    """How the columns of a file are written.

    Attributes:
        dictionary: Columns with a dictionary.
        encodings: Of the others, those that are not PLAIN.
        codecs: Of every column.
    """

    dictionary: tuple[str, ...]
    encodings: dict[str, ColumnEncoding]
    codecs: dict[str, Compression]

    def way_of(self, name: str) -> tuple[ColumnEncoding, Codec]:
        """Encoding and codec of a column."""
        encoding = self.encodings.get(name, "PLAIN")
        return "DICTIONARY" if name in self.dictionary else encoding, CODECS[self.codecs[name]]


class FileStats(msgspec.Struct, frozen=True):
    """What a table has to know of a file.

    Attributes:
        num_rows: Its rows.
        num_bytes: Its size.
        min_time_us: Time of its first row, microseconds since 1970-01-01T00:00Z.
        max_time_us: Time of its last row.
    """

    num_rows: int
    num_bytes: int
    min_time_us: int
    max_time_us: int


class _Choice(msgspec.Struct, frozen=True):
    """One way to write a column, and what it is expected to take per value."""

    encoding: ColumnEncoding
    codec: Compression
    encode_ns: float
    num_bytes: float


def file_metadata(schema: TableSchema, log: str) -> dict[str, str]:
    """Key-value metadata of a file.

    Args:
        schema: Of its table.
        log: Which records of the log it holds, in the words of the caller.
    """
    tags = [name for name, spec in schema.columns.items() if spec.is_tag]
    return {TAGS_KEY: json.dumps(tags, ensure_ascii=False), LOG_KEY: log}


def plan(table: pa.Table, compression: Compression = "lz4") -> WriteOptions:
    """Choose encoding and codec of every column by a look at some of its values.

    Args:
        table: As `table_build` makes it: columns of one chunk, `time` first.
        compression: General codec. A column that it would not shrink is left uncompressed.

    Raises:
        ValueError: no such codec.
    """
    if compression not in get_args(Compression):
        raise ValueError(f"compression {compression!r} is none of {get_args(Compression)}")
    choices = {
        name: _choose(name, table.column(i).chunk(0) if table.num_rows else None, compression)
        for i, name in enumerate(table.column_names)
    }
    return WriteOptions(
        tuple([name for name, choice in choices.items() if choice.encoding == "DICTIONARY"]),
        {
            name: choice.encoding
            for name, choice in choices.items()
            if choice.encoding == "DELTA_BINARY_PACKED"
        },
        {name: choice.codec for name, choice in choices.items()},
    )


def write(
    table: pa.Table,
    sink: str | os.PathLike[str] | BinaryIO,
    options: WriteOptions,
    metadata: Mapping[str, str] | None = None,
) -> FileStats:
    """Write one Parquet file.

    Args:
        table: As `table_build` makes it: at least one row, sorted by time.
        sink: A path, written in pieces as they are encoded; a file that is there is truncated
            and keeps its mode. Or a binary file, which is given the whole file in one call, once
            it is complete, and is neither synced nor closed.
        options: What `plan` chose, for this table or one like it.
        metadata: Key-value metadata of the file.

    Raises:
        OSError: the sink refuses. What a path then holds is no Parquet file.
    """
    if isinstance(sink, str | os.PathLike):
        target = PathSink(os.fspath(sink))
        try:
            num_bytes = _write_groups(table, target, options, metadata)
            target.flush()
        finally:
            target.close()
    else:
        memory = MemorySink()
        num_bytes = _write_groups(table, memory, options, metadata)
        sink.write(memory.whole())
    times = table.column(TIME_COLUMN)
    return FileStats(table.num_rows, num_bytes, times[0].value, times[-1].value)


def _write_groups(
    table: pa.Table, sink: Sink, options: WriteOptions, metadata: Mapping[str, str] | None
) -> int:
    leaves = own_leaves(table)
    if leaves is None:
        whole = pyarrow_file(table, options, metadata)
        sink.put([whole])
        return int(whole.size)
    writer = FileWriter(sink, leaves, options.way_of)
    write_groups(table, writer)
    return writer.finish(metadata or {})


def own_leaves(table: pa.Table) -> list[Leaf] | None:
    """How our own encoder stores the columns of a table; None where pyarrow's is to write it."""
    return leaves_of(table.schema) if table.num_rows >= MIN_OWN_ROWS else None


def write_groups(table: pa.Table, writer: FileWriter) -> None:
    """Write a table in row groups of at most `ROW_GROUP_ROWS`."""
    if max([column.num_chunks for column in table.columns]) > 1:
        table = table.unify_dictionaries().combine_chunks()
    for batch in table.to_batches(max_chunksize=ROW_GROUP_ROWS):
        writer.write(batch)


def pyarrow_file(
    table: pa.Table, options: WriteOptions, metadata: Mapping[str, str] | None
) -> pa.Buffer:
    """The same file as pyarrow would write it: the twin of our own encoder."""
    memory = pa.BufferOutputStream()
    with open_pyarrow_writer(memory, table.schema, options) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        if metadata:
            writer.add_key_value_metadata(dict(metadata))
    return memory.getvalue()


def open_pyarrow_writer(
    sink: pa.NativeFile, schema: pa.Schema, options: WriteOptions
) -> pq.ParquetWriter:
    """The writer of pyarrow, every call of whose `write_table` makes a row group or several."""
    return pq.ParquetWriter(
        sink,
        schema,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=list(options.dictionary),
        column_encoding=options.encodings,
        compression=options.codecs,
        write_statistics=[TIME_COLUMN],  # of text 3 to 9 ns a value, of doubles 0.5
        write_batch_size=_WRITE_BATCH_ROWS,
        dictionary_pagesize_limit=MAX_DICTIONARY_BYTES,
        store_schema=False,
    )


# --- choosing --------------------------------------------------------------------------------


def _choose(name: str, array: pa.Array | None, compression: Compression) -> _Choice:
    """The cheapest way to write a column, encoding and size taken together."""
    if array is None or array.null_count == len(array):
        return _Choice("PLAIN", "none", 0.0, 0.0)
    if name == TIME_COLUMN:
        # Sorted: 0.03 bytes a row at a fixed step, 2 for random times of an hour, where plain
        # times take 8 and lz4 makes 4 to 5 of them at twice the time.
        return _Choice("DELTA_BINARY_PACKED", compression, _DELTA_NS, 0.0)
    if pa.types.is_dictionary(array.type):
        return _Choice("DICTIONARY", compression, 0.0, 0.0)
    if pa.types.is_boolean(array.type):
        return _Choice("PLAIN", compression, 0.0, 0.0)
    is_number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    choices = (_number_choices if is_number else _text_choices)(array, compression)
    price_ns = _BYTE_PRICE_NS[compression]
    return min(choices, key=lambda choice: choice.encode_ns + choice.num_bytes * price_ns)


def _number_choices(array: pa.Array, compression: Compression) -> list[_Choice]:
    plain = _Choice("PLAIN", "none", _PLAIN_NS, _VALUE_BYTES)
    rows, is_integer = len(array), pa.types.is_integer(array.type)
    if compression != "none" and rows < _MIN_ROWS_TO_LOOK:
        encoding: ColumnEncoding = "DELTA_BINARY_PACKED" if is_integer else "PLAIN"
        return [_Choice(encoding, compression, 0.0, 0.0)]
    if rows < _MIN_ROWS_TO_LOOK:
        return [plain]
    run = _run(array)
    choices = [plain, _compressed(plain, run.tobytes(), compression)]
    if is_integer:
        delta = _Choice("DELTA_BINARY_PACKED", compression, _DELTA_NS, delta_bytes(run))
        choices.append(delta)
    distinct = distinct_values(_scattered(array))
    in_group = expected_distinct(distinct, min(rows, ROW_GROUP_ROWS))
    if in_group * _VALUE_BYTES <= 0.9 * MAX_DICTIONARY_BYTES:
        encode_ns = next(ns for limit, ns in _DICTIONARY_NS if in_group <= limit)
        index_bytes = max(1, int(in_group - 1).bit_length()) / 8
        num_bytes = index_bytes + _VALUE_BYTES * in_group / min(rows, ROW_GROUP_ROWS)
        choices.append(_Choice("DICTIONARY", compression, encode_ns, num_bytes))
    return choices


def _text_choices(array: pa.Array, compression: Compression) -> list[_Choice]:
    part = array.slice(len(array) // 2, min(len(array), _TEXT_SAMPLE_ROWS))
    data = part.drop_null().cast(pa.large_binary())
    text = b"".join(data.to_pylist())
    plain = _Choice("PLAIN", "none", _PLAIN_NS, len(text) / max(1, len(part)))
    return [plain, _compressed(plain, text, compression)]


def _compressed(choice: _Choice, sample: bytes, compression: Compression) -> _Choice:
    """The same with the codec on top, judged by what it makes of some of the values."""
    if compression == "none" or not sample:
        return choice
    codec = "lz4_raw" if compression == "lz4" else compression
    shrunk = len(pa.compress(sample, codec=codec, asbytes=True)) / len(sample)
    encode_ns = choice.encode_ns + _CODEC_BYTE_NS[compression] * choice.num_bytes
    return _Choice(choice.encoding, compression, encode_ns, choice.num_bytes * shrunk)


def _sample_rows(rows: int) -> int:
    return min(_SAMPLE_ROWS, rows // _SAMPLE_SHARE)


def _run(array: pa.Array) -> NDArray[Any]:
    """Values that follow one another, from the middle of a column."""
    size = _sample_rows(len(array))
    values: NDArray[Any] = array.slice((len(array) - size) // 2, size).drop_null().to_numpy()
    return values


def _scattered(array: pa.Array) -> NDArray[Any]:
    """Values from all over a column: one from each of as many equal strata, at varying places."""
    size = _sample_rows(len(array))
    stratum = len(array) // size
    at = np.arange(size, dtype=np.int64)
    # Fibonacci hashing spreads the places, so that no period of the data meets one of ours.
    rows = at * stratum + (at * 2_654_435_761 >> 16) % stratum
    values: NDArray[Any] = array.take(pa.array(rows)).drop_null().to_numpy()
    return values


def distinct_values(sample: NDArray[Any]) -> float:
    """Estimate how many distinct values a column has from a sample of it.

    Chao's lower bound, bias-corrected (Chao 1984): what was seen once or twice tells how much
    was not seen at all. So one value in every other row hides nothing, as a mere count of
    collisions would let it.

    Args:
        sample: int64 or float64, shape (any,).
    """
    if not sample.size:
        return 0.0
    _, counts = np.unique(sample.view(np.int64), return_counts=True)
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return float(counts.size + once * (once - 1) / (2 * (twice + 1)))


def expected_distinct(distinct: float, rows: int) -> float:
    """How many of `distinct` equally frequent values occur in `rows` rows, on average."""
    return float(-distinct * np.expm1(-rows / distinct)) if distinct else 0.0


def delta_bytes(run: NDArray[np.int64]) -> float:
    """Bytes a value of DELTA_BINARY_PACKED on int64 values that follow one another.

    Blocks with one smallest difference each, miniblocks with one width each, as
    https://parquet.apache.org/docs/file-format/data-pages/encodings/ has it.
    """
    steps = np.diff(run)
    steps = steps[: steps.size // _DELTA_BLOCK_ROWS * _DELTA_BLOCK_ROWS]
    if not steps.size:
        return float(_VALUE_BYTES)
    blocks = steps.reshape(-1, _DELTA_BLOCK_ROWS)
    smallest = blocks.min(axis=1, keepdims=True)
    above = (blocks - smallest).view(np.uint64).reshape(-1, _DELTA_MINIBLOCK_ROWS)
    header_bytes = _varint_bytes(smallest) + _DELTA_BLOCK_ROWS // _DELTA_MINIBLOCK_ROWS
    return float(_bits(above.max(axis=1)).mean() / 8 + header_bytes.mean() / _DELTA_BLOCK_ROWS)


def _bits(values: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Bits of each value, to within one above 2**53."""
    bits: NDArray[np.float64] = np.ceil(np.log2(values.astype(np.float64) + 1))
    return bits


def _varint_bytes(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bytes of each value as a zigzag varint: seven bits each."""
    zigzag = (values << 1) ^ (values >> 63)
    return np.ceil(np.maximum(1, _bits(zigzag.view(np.uint64))) / 7)
