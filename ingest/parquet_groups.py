"""Parquet files too large for memory: written a group of rows at a time, as `parquet` would.

In: record batches, as they come, and the settings of the file whose place the new one takes. Out:
one Parquet file with groups of at most `parquet.ROW_GROUP_ROWS` rows. Encodings and codecs are
those that `parquet.plan` chooses by the first group. Nothing here syncs a file or names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingest import parquet
from ingest.parquet_file import FileWriter, PathSink
from ingest.parquet_thrift import Leaf

#: What pyarrow calls the codecs in a footer.
_CODECS: dict[str, parquet.Compression] = {"LZ4": "lz4", "ZSTD": "zstd", "SNAPPY": "snappy"}

#: One `write` a MiB.
_SINK_BUFFER_BYTES = 1 << 20


def codec_of(footer: pq.FileMetaData) -> parquet.Compression:
    """The general codec that a file was written with: of the first column that has one."""
    if footer.num_row_groups:
        group = footer.row_group(0)
        for place in range(group.num_columns):
            found = _CODECS.get(group.column(place).compression)
            if found is not None:
                return found
    return "none"


def dictionary_texts(footer: pq.FileMetaData, schema: pa.Schema) -> list[str]:
    """Text columns that a file holds as dictionaries: read so, no text is copied."""
    if not footer.num_row_groups:
        return []
    group = footer.row_group(0)
    chunks: list[Any] = [group.column(place) for place in range(group.num_columns)]
    texts = {field.name for field in schema if pa.types.is_string(field.type)}
    return [
        chunk.path_in_schema
        for chunk in chunks
        if chunk.path_in_schema in texts and chunk.has_dictionary_page
    ]


class GroupWriter:
    """Writes one file; a context manager.

    Args:
        path: An empty file.
        compression: General codec.
        metadata: Key-value metadata of the file.
    """

    def __init__(
        self, path: str, compression: parquet.Compression, metadata: Mapping[str, str]
    ) -> None:
        self._path = path
        self._compression = compression
        self._metadata = metadata
        self._waiting: list[pa.RecordBatch] = []
        self._num_rows = 0
        self._file: _OwnFile | _PyarrowFile | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows, all batches of one schema.

        Raises:
            OSError: the disk refuses.
        """
        if batch.num_rows:
            self._waiting.append(batch)
            self._num_rows += batch.num_rows
            if self._num_rows >= parquet.ROW_GROUP_ROWS:
                self._write_group()

    def _write_group(self) -> None:
        if not self._waiting:
            return
        whole = pa.Table.from_batches(self._waiting).unify_dictionaries().combine_chunks()
        whole = whole.replace_schema_metadata(None)
        self._waiting, self._num_rows = [], 0
        if self._file is None:
            options = parquet.plan(whole, self._compression)
            leaves = parquet.own_leaves(whole)
            if leaves is None:
                self._file = _PyarrowFile(self._path, whole.schema, options)
            else:
                self._file = _OwnFile(self._path, leaves, options)
        self._file.write(whole)

    def __enter__(self) -> GroupWriter:
        """Write to it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the file, unless something went wrong: what it then is, is no Parquet file."""
        try:
            if error is None:
                self._write_group()
                if self._file is not None:
                    self._file.finish(self._metadata)
        finally:
            if self._file is not None:
                self._file.close()


class _OwnFile:
    """A file that our own encoder writes."""

    def __init__(self, path: str, leaves: Sequence[Leaf], options: parquet.WriteOptions) -> None:
        self._sink = PathSink(path)
        self._writer = FileWriter(self._sink, leaves, options.way_of)

    def write(self, table: pa.Table) -> None:
        """Write a row group or several."""
        parquet.write_groups(table, self._writer)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the footer."""
        self._writer.finish(metadata)
        self._sink.flush()

    def close(self) -> None:
        """Close it, finished or not."""
        self._sink.close()


class _PyarrowFile:
    """A file that pyarrow writes: few rows, or a column of somebody else's type."""

    def __init__(self, path: str, schema: pa.Schema, options: parquet.WriteOptions) -> None:
        self._sink: Any = pa.output_stream(path, compression=None, buffer_size=_SINK_BUFFER_BYTES)
        self._writer = parquet.open_pyarrow_writer(self._sink, schema, options)

    def write(self, table: pa.Table) -> None:
        """Write a row group or several."""
        self._writer.write_table(table, row_group_size=parquet.ROW_GROUP_ROWS)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the footer."""
        self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()

    def close(self) -> None:
        """Close it, finished or not."""
        self._sink.close()
