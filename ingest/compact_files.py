"""Some Parquet files of one table into one, in an order that compresses and prunes better.

In: files as flushes, or this module, wrote them. Out: one file with the same rows. Nothing here
names a file, commits it, or decides which files belong together.

The order: groups of rows follow one another in time and do not overlap, so a reader that wants
the last minutes skips all groups but one by their statistics. Inside of a group rows are in order
of time, or, where that makes the first group smaller by a tenth, of (tags, time): then the values
of one series lie side by side. Which one wins depends on the data, by a fifth either way
(docs/profiling/2026-11-20-compaction.md), so both are tried; `ORDER_KEY` says which it was.

Memory: the times of all rows once, 8 bytes each, to find where the groups begin; then one group
at a time, `GROUP_ROWS` rows or, of wide ones, `GROUP_BYTES`, in two orders, and one group of rows
of one old file. The old files are read a
group of rows at a time, and again for each new group that they have rows for; files in order of
time, which is what flushes make, are read once or twice. Only a moment that has more rows than a
group can have makes it larger.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN
from ingest.errors import StorageError
from ingest.parquet import TAGS_KEY

#: Rows of a group at most, but for those of one moment. See the figures in
#: docs/profiling/2026-11-20-compaction.md.
GROUP_ROWS = 1 << 18

#: Bytes of a group at most, in memory, as far as footers tell: of rows that hold whole requests, or
#: hundreds of columns. A group has this many rows in any case.
GROUP_BYTES, _LEAST_ROWS = 64 << 20, 1024

#: zstd at this level; higher ones cost more time than the bytes are worth, see there.
ZSTD_LEVEL = 3

#: A dictionary that outgrows this is given up half-way by the writer.
_MAX_DICTIONARY_BYTES = 1 << 20

#: Order of the rows inside of a group: names of columns, a JSON list; the last is the time.
ORDER_KEY = "arc:order"

#: Rows that are not in order of time are slower to read for those who want a few seconds.
_WORTH_SORTING = 0.9

#: Below this gain a plainer encoding is kept: it is read faster.
_WORTH = 0.97

_TIME_TYPE = pa.timestamp("us", "UTC")


class GoneError(StorageError):
    """A file is not there any more: whoever listed it has to look again."""


class _Piece(msgspec.Struct, frozen=True):
    """A group of rows of an old file, with the range of its times."""

    path: Path
    group: int
    low_us: int
    high_us: int


class Merge:
    """Some files, looked at and ready to be written as one.

    Args:
        paths: Of the files.
        check: Called for each file and each group of rows; whatever it raises ends the work.
        group_rows: Rows of a new group at most.
        group_bytes: Bytes of a new group at most, see `GROUP_BYTES`.

    Attributes:
        metadata: Key-value metadata of each file, in the order of `paths`.
        num_rows: Of all files together.

    Raises:
        GoneError: a file is not there.
        StorageError: a file cannot be read, or one has another type for a column than another.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        check: Callable[[], None] = lambda: None,
        group_rows: int = GROUP_ROWS,
        group_bytes: int = GROUP_BYTES,
    ) -> None:
        self.metadata: list[Mapping[bytes, bytes]] = []
        self.num_rows = 0
        self._check = check
        self._decoded_bytes = 0
        self._pieces: list[_Piece] = []
        self._types: dict[str, pa.DataType] = {}
        self._names: dict[Path, frozenset[str]] = {}
        self._encoded: set[str] = set()
        self._plain: set[str] = set()
        for path in paths:
            check()
            with _opened(path) as file:
                self._look(path, file)
        self._encoded -= self._plain
        self._schema = pa.schema([self._field(name) for name in self._types])
        row_bytes = max(8 * len(self._types), self._decoded_bytes // max(1, self.num_rows))
        self._group_rows = min(group_rows, max(_LEAST_ROWS, group_bytes // row_bytes))

    @property
    def min_time_us(self) -> int:
        """Earliest time of a row, microseconds since 1970-01-01T00:00Z."""
        return min(piece.low_us for piece in self._pieces)

    @property
    def max_time_us(self) -> int:
        """Latest time of a row."""
        return max(piece.high_us for piece in self._pieces)

    @property
    def tags(self) -> list[str]:
        """Names of the tag columns that any of the files has, in the order of the files."""
        names: dict[str, None] = {}
        for found in self.metadata:
            names |= dict.fromkeys(json.loads(found.get(TAGS_KEY.encode(), b"[]")))
        return [name for name in names if name in self._types]

    def write(self, where: str, metadata: Mapping[str, str]) -> None:
        """Write the new file.

        Args:
            where: Path of an empty file to fill; it is not synced.
            metadata: Key-value metadata of the new file.

        Raises:
            GoneError: an old file is not there any more.
            StorageError: an old file cannot be read. Whatever is raised, what `where` then holds
                is no Parquet file.
            OSError: the disk refuses.
        """
        bounds = self._bounds()
        count = 0
        first, keys, options = self._best_order(self._group(*bounds[0]))
        rest = (self._group(*bound) for bound in bounds[1:])
        groups = (table.take(_order(table, keys)).combine_chunks() for table in rest)
        with pq.ParquetWriter(where, first.schema, store_schema=False, **options) as writer:
            for table in itertools.chain([first], groups):
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                count += table.num_rows
            order = {ORDER_KEY: json.dumps([*keys, TIME_COLUMN], ensure_ascii=False)}
            writer.add_key_value_metadata(dict(metadata) | order)
        if (count, bounds[0][0], bounds[-1][1]) != self._wanted():
            raise StorageError(f"BUG: rows were lost on the way into {where}, or doubled")

    def _wanted(self) -> tuple[int, int, int]:
        return self.num_rows, self.min_time_us, self.max_time_us

    def _field(self, name: str) -> pa.Field:
        text = pa.dictionary(pa.int32(), pa.string())
        kind = text if name in self._encoded else self._types[name]
        return pa.field(name, kind, nullable=name != TIME_COLUMN)

    # --- looking -----------------------------------------------------------------------------

    def _look(self, path: Path, file: pq.ParquetFile) -> None:
        """Note what a footer says."""
        footer = file.metadata
        self.metadata.append(footer.metadata or {})
        self._names[path] = frozenset(file.schema_arrow.names)
        for field in file.schema_arrow:
            known = self._types.setdefault(field.name, field.type)
            if known != field.type:
                raise StorageError(
                    f"column {field.name!r} is {field.type} in {path}, and {known} in a file "
                    "of the same table"
                )
        if self._types.get(TIME_COLUMN) != _TIME_TYPE:
            raise StorageError(f"{path} has no column 'time' of microseconds in UTC")
        self.num_rows += footer.num_rows
        for number in range(footer.num_row_groups):
            self._look_into(path, footer.row_group(number), number)

    def _look_into(self, path: Path, group: pq.RowGroupMetaData, number: int) -> None:
        self._decoded_bytes += group.total_byte_size
        chunks: list[Any] = [group.column(place) for place in range(group.num_columns)]
        for chunk in chunks:
            name = chunk.path_in_schema
            if name == TIME_COLUMN and group.num_rows:
                found = chunk.statistics
                if found is None or not found.has_min_max:
                    raise StorageError(f"{path} does not say the range of its times")
                self._pieces.append(_Piece(path, number, found.min_raw, found.max_raw))
            elif pa.types.is_string(self._types[name]):
                (self._encoded if chunk.has_dictionary_page else self._plain).add(name)

    # --- in order ----------------------------------------------------------------------------

    def _bounds(self) -> list[tuple[int, int]]:
        """First and last time of each new group, both in it."""
        times = np.empty(self.num_rows, dtype=np.int64)
        at = 0
        for piece in self._pieces:
            self._check()
            with _opened(piece.path) as file:
                column = file.read_row_group(piece.group, columns=[TIME_COLUMN]).column(0)
            values = column.cast(pa.int64()).to_numpy()
            times[at : at + len(values)] = values
            at += len(values)
        if not at:
            raise StorageError("BUG: there are no rows to merge")
        times[:at].sort()
        return list(_cut(times[:at], self._group_rows))

    def _group(self, low_us: int, high_us: int) -> pa.Table:
        """The rows of a range of times, both ends in it."""
        found = [
            self._read(piece, low_us, high_us)
            for piece in self._pieces
            if piece.low_us <= high_us and piece.high_us >= low_us
        ]
        return pa.concat_tables(found).unify_dictionaries().combine_chunks()

    def _best_order(self, table: pa.Table) -> tuple[pa.Table, list[str], dict[str, Any]]:
        """The first group in the order that suits it, its tags if they count, how to write it."""
        by_time = table.take(_order(table, [])).combine_chunks()
        options, size = _options(by_time)
        if not self.tags:
            return by_time, [], options
        by_tags = table.take(_order(table, self.tags)).combine_chunks()
        options_by_tags, size_by_tags = _options(by_tags)
        if size_by_tags < _WORTH_SORTING * size:
            return by_tags, self.tags, options_by_tags
        return by_time, [], options

    def _read(self, piece: _Piece, low_us: int, high_us: int) -> pa.Table:
        """The rows of a piece that are in a range of times, with the columns of the new file."""
        self._check()
        with _opened(piece.path, sorted(self._encoded & self._names[piece.path])) as file:
            table = file.read_row_group(piece.group).replace_schema_metadata(None)
        if piece.low_us < low_us or piece.high_us > high_us:
            times = table.column(TIME_COLUMN).cast(pa.int64())
            inside = pc.and_(pc.greater_equal(times, low_us), pc.less_equal(times, high_us))
            table = table.filter(inside)
        columns = [
            table.column(field.name)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)


@contextlib.contextmanager
def _opened(path: Path, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A file, whose errors become ours."""
    try:
        with pq.ParquetFile(path, read_dictionary=list(dictionaries)) as file:
            yield file
    except FileNotFoundError as error:
        raise GoneError(f"{path} is not there any more") from error
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


# --- order -----------------------------------------------------------------------------------


def _cut(times: NDArray[np.int64], group_rows: int) -> Iterator[tuple[int, int]]:
    """First and last time of each of as few groups as there can be, about equally large.

    Args:
        times: int64, shape (rows,), ascending.
        group_rows: Rows of a group at most. No moment is in two groups, whatever it holds.
    """
    size = -(-times.size // -(-times.size // group_rows))
    start = 0
    while start < times.size:
        end = min(start + size, times.size)
        if end < times.size and times[end] == times[end - 1]:
            before = int(np.searchsorted(times, times[end]))
            end = before if before > start else int(np.searchsorted(times, times[end], "right"))
        yield int(times[start]), int(times[end - 1])
        start = end


def _order(table: pa.Table, tags: Sequence[str]) -> NDArray[np.int64]:
    """The rows of a group in the order of their tags, then of their times.

    Returns:
        int64, shape (rows,): numbers of rows. Equal ones stay as they were.
    """
    order: NDArray[np.int64] = np.argsort(
        table.column(TIME_COLUMN).cast(pa.int64()).to_numpy(), kind="stable"
    )
    series = np.zeros(table.num_rows, dtype=np.int64)
    count = 1
    for tag in tags:
        ranks, num_ranks = _ranks(table.column(tag))
        if count * num_ranks >= 1 << 62:
            series, count = _dense(series)
        series = series * num_ranks + ranks
        count *= num_ranks
    if count > 1 << 16:
        series, count = _dense(series)
    if count <= 1 << 16:
        series = series.astype(np.uint16)  # of which NumPy sorts in linear time
    return order[np.argsort(series[order], kind="stable")]


def _ranks(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], int]:
    """Each value of a column as its place among all, nulls first, and how many places there are."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    places = np.empty(len(array.dictionary) + 1, dtype=np.int64)
    places[pc.sort_indices(array.dictionary).to_numpy()] = np.arange(1, len(array.dictionary) + 1)
    places[-1] = 0
    codes = array.indices.fill_null(len(array.dictionary)).to_numpy()
    return places[codes], len(array.dictionary) + 1


def _dense(series: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The same order with as few numbers as there can be."""
    found, places = np.unique(series, return_inverse=True)
    return places.astype(np.int64), int(found.size)


# --- encodings -------------------------------------------------------------------------------


def _options(table: pa.Table) -> tuple[dict[str, Any], float]:
    """How to write the columns, what makes each of them smallest, and their bytes then."""
    found = {name: _smallest(table.select([name])) for name in table.column_names}
    ways = {name: way for name, (way, _) in found.items()}
    columns = {name: table.schema.field(name).type for name in ways}
    options = {
        "version": "2.6",
        "data_page_version": "1.0",
        "use_dictionary": [name for name, way in ways.items() if way[0] == "DICTIONARY"],
        "column_encoding": {
            name: way[0] for name, way in ways.items() if way[0] == "DELTA_BINARY_PACKED"
        },
        "compression": {name: way[1] for name, way in ways.items()},
        "compression_level": {name: ZSTD_LEVEL for name, way in ways.items() if way[1] == "zstd"},
        "write_statistics": [name for name, kind in columns.items() if not _is_binary(kind)],
        "dictionary_pagesize_limit": _MAX_DICTIONARY_BYTES,
    }
    return options, sum(size for _, size in found.values())


def _smallest(table: pa.Table) -> tuple[tuple[str, str], float]:
    """Encoding and codec of one column, and its bytes then."""
    kind = table.schema.field(0).type
    encodings = ["PLAIN"]
    if pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
        encodings.append("DELTA_BINARY_PACKED")
    if not (pa.types.is_boolean(kind) or pa.types.is_timestamp(kind)):
        encodings.append("DICTIONARY")
    best, best_bytes = ("PLAIN", "none"), float("inf")
    for encoding in encodings:
        packed, plain = _sizes(table, encoding)
        for codec, size in (("none", plain), ("zstd", packed)):
            if size < _WORTH * best_bytes:
                best, best_bytes = (encoding, codec), size
    return best, best_bytes


def _sizes(table: pa.Table, encoding: str) -> tuple[int, int]:
    """Bytes of one column with zstd and without, in one encoding."""
    name = table.column_names[0]
    sink = pa.BufferOutputStream()
    options: dict[str, Any] = {"use_dictionary": [name]}
    if encoding != "DICTIONARY":
        options = {"use_dictionary": False, "column_encoding": {name: encoding}}
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        store_schema=False,
        row_group_size=table.num_rows,
        dictionary_pagesize_limit=_MAX_DICTIONARY_BYTES,
        write_statistics=False,
        **options,
    )
    chunk = pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0).column(0)
    return chunk.total_compressed_size, chunk.total_uncompressed_size


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind))
