"""A Parquet file from its first byte to its last: row groups one after another, then the footer.

In: record batches of one schema, and how their columns are to be encoded. Out: bytes, handed to a
sink as they are made. Nothing here chooses an encoding, names a file or syncs it.

A file that was not finished has no footer, and no reader takes it for a Parquet file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from ingest.parquet_pages import Chunk, ColumnEncoding, Piece, encode_column, leaf_of
from ingest.parquet_thrift import MAGIC, ChunkFacts, Codec, Leaf, footer

#: One `writev` a MiB, or as many pieces as the system takes in one (IOV_MAX).
_WRITE_BYTES, _WRITE_PIECES = 1 << 20, 1024


class Sink(Protocol):
    """Where the bytes of a file go."""

    def put(self, pieces: Sequence[Piece]) -> None:
        """Take bytes, to come after all that was put before. They do not change any more."""


class PathSink:
    """A file on disk, open for writing.

    Args:
        path: A file that is there is truncated and keeps its mode.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._pending: list[memoryview] = []
        self._pending_bytes = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)

    def put(self, pieces: Sequence[Piece]) -> None:
        """Keep bytes until they are worth a system call."""
        views = [memoryview(piece).cast("B") for piece in pieces]
        self._pending += [view for view in views if view.nbytes]
        self._pending_bytes += sum([view.nbytes for view in views])
        if self._pending_bytes >= _WRITE_BYTES or len(self._pending) >= _WRITE_PIECES:
            self.flush()

    def flush(self) -> None:
        """Write what is kept.

        Raises:
            OSError: the disk refuses.
        """
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        at = 0
        while at < len(pending):
            written = os.writev(self._descriptor, pending[at : at + _WRITE_PIECES])
            while at < len(pending) and written >= pending[at].nbytes:
                written -= pending[at].nbytes
                at += 1
            if written:
                pending[at] = pending[at][written:]

    def close(self) -> None:
        """Close the file, without writing anything."""
        os.close(self._descriptor)


class MemorySink:
    """Bytes that are kept until all are there."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []

    def put(self, pieces: Sequence[Piece]) -> None:
        """Keep bytes."""
        self._pieces += pieces

    def whole(self) -> bytes:
        """All of them."""
        return b"".join(self._pieces)


class Way(Protocol):
    """How a column is written."""

    def __call__(self, name: str) -> tuple[ColumnEncoding, Codec]:
        """Encoding and codec of a column."""


def leaves_of(schema: pa.Schema) -> list[Leaf] | None:
    """How each column is stored; None when there is one of a type that is not ours."""
    leaves = [leaf_of(field) for field in schema]
    found = [leaf for leaf in leaves if leaf is not None]
    return found if found and len(found) == len(leaves) else None


class FileWriter:
    """Writes one file.

    Args:
        sink: Where to.
        leaves: What `leaves_of` says of the schema of all batches.
        way: How each column is written.
    """

    def __init__(self, sink: Sink, leaves: Sequence[Leaf], way: Way) -> None:
        self._sink = sink
        self._leaves = leaves
        self._way = way
        self._groups: list[list[ChunkFacts]] = []
        self._place = 0
        self._put([MAGIC], len(MAGIC))

    def _put(self, pieces: Sequence[Piece], size: int) -> None:
        self._sink.put(pieces)
        self._place += size

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one row group, of at least one row.

        Raises:
            OSError: the sink refuses.
        """
        columns: Any = zip(batch.columns, self._leaves, strict=True)
        group = []
        for array, leaf in columns:
            chunk: Chunk = encode_column(array, leaf, *self._way(leaf.name), self._place)
            self._put(chunk.pieces, chunk.facts.stored_bytes)
            group.append(chunk.facts)
        self._groups.append(group)

    def finish(self, metadata: Mapping[str, str]) -> int:
        """Write the footer.

        Args:
            metadata: Key-value metadata of the file.

        Returns:
            Bytes of the whole file.

        Raises:
            OSError: the sink refuses.
        """
        end = footer(self._leaves, self._groups, metadata)
        self._put([end], len(end))
        return self._place
