"""Rows that a shard holds in memory, as bytes for a process that answers queries. Pure.

In: the batches of one table that no file is known to hold, in the order of their log sequence
numbers. Out: pieces, each an Arrow IPC stream of one record batch and the number of each request
in it, so that whoever receives it can leave out what a version of the table has. Nothing is
sorted, stored or sent here, and batches are read only: they never change once they are buffered.

The messages between the two processes are here as well, as both know them. A message is its
length, four bytes, the highest first, and a struct in MessagePack:

    asker  ─► FreshRequest
    shard  ─► FreshHead, then for each piece PieceHead and the piece, then END
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import IngestError
from ingest.kernels import strings
from ingest.schema import ColumnSpec, TableSchema

#: A piece ends once it has so many rows, or so many bytes of batches: both are small enough that
#: what is in work beside the batches themselves does not count.
PIECE_ROWS = 65_536
PIECE_BYTES = 16 * 2**20

#: Bytes of the length before a message, and the longest message: the LSNs of a full piece take
#: 16 bytes each.
LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 4 * 2**20

_TIME_TYPE = pa.timestamp("us", tz="UTC")
_ARROW_TYPES = {
    ColumnType.INT64: pa.int64(),
    ColumnType.FLOAT64: pa.float64(),
    ColumnType.UTF8: pa.utf8(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.BINARY: pa.binary(),
}
_DTYPES: dict[ColumnType, type[np.generic]] = {
    ColumnType.INT64: np.int64,
    ColumnType.FLOAT64: np.float64,
    ColumnType.BOOL: np.bool_,
}

_T = TypeVar("_T")


class FreshRequest(msgspec.Struct, frozen=True):
    """Which rows are asked for.

    Attributes:
        database: Of the table.
        measurement: Its name.
        epoch: Of the shard, in which `after_lsn` was heard from it; 0: never.
        after_lsn: Rows up to this log sequence number are known to the asker already.
    """

    database: str
    measurement: str
    epoch: int = 0
    after_lsn: int = 0


class FreshHead(msgspec.Struct, frozen=True):
    """What a shard says before its rows.

    Attributes:
        app_id: Under which tables keep how far the shard is.
        epoch: Its life. In another than the one that was asked for, all rows follow.
        refusal: Why it cannot tell yet which rows it has; empty: they follow.
    """

    app_id: str
    epoch: int
    refusal: str = ""


class PieceHead(msgspec.Struct, frozen=True):
    """What goes before a piece.

    Attributes:
        lsns: int64, shape (requests,), ascending, as bytes: log sequence numbers.
        ends: int64, shape (requests,), ascending, as bytes: the row after the last of each.
        size_bytes: Of the piece that follows; 0: there is none, and this was the last.
    """

    lsns: bytes
    ends: bytes
    size_bytes: int


END = PieceHead(b"", b"", 0)


class FreshRows(msgspec.Struct, frozen=True):
    """Rows of one table in the memory of a shard.

    Attributes:
        schema: Of the table, with every column of every batch.
        batches: In order of arrival.
        lsns: Log sequence number of each batch, ascending.
    """

    schema: TableSchema
    batches: Sequence[ColumnBatch]
    lsns: Sequence[int]


def message(content: msgspec.Struct) -> bytes:
    """A struct with its length before it."""
    encoded = msgspec.msgpack.encode(content)
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded


def length(prefix: bytes | bytearray) -> int:
    """The length of the message after its first `LENGTH_BYTES` bytes.

    Raises:
        ValueError: no message is so long.
    """
    found = int.from_bytes(prefix, "big")
    if found > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {found} bytes, over {MAX_MESSAGE_BYTES}")
    return found


def parse(content: bytes | bytearray, kind: type[_T]) -> _T:
    """A message without its length.

    Raises:
        ValueError: it is no such struct.
    """
    return msgspec.msgpack.decode(content, type=kind)


class Connection(Protocol):
    """Where bytes come from; a blocking socket is one."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for some bytes; how many, 0 at the end."""
        ...


def receive(connection: Connection, size: int) -> bytearray:
    """Exactly so many bytes.

    Raises:
        EOFError: the other side ended before.
        OSError: as the socket has it, the end of its time included.
    """
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        count = connection.recv_into(view[at:])
        if not count:
            raise EOFError(f"the other side ended {size - at} bytes early")
        at += count
    return found


def pieces(rows: FreshRows) -> Iterator[tuple[PieceHead, pa.Buffer]]:
    """Encode rows, a bounded number at a time, in their order."""
    for start, end in _cuts(rows.batches):
        batches = rows.batches[start:end]
        counts = np.array([batch.num_rows for batch in batches], dtype=np.int64)
        lsns = np.array(rows.lsns[start:end], dtype=np.int64)
        encoded = _encoded(record_batch(batches, counts, rows.schema))
        ends = np.cumsum(counts)
        yield PieceHead(lsns.tobytes(), ends.tobytes(), encoded.size), encoded


def _cuts(batches: Sequence[ColumnBatch]) -> Iterator[tuple[int, int]]:
    """First batch of each piece, and the batch after its last."""
    start = num_rows = num_bytes = 0
    for i, batch in enumerate(batches):
        num_rows += batch.num_rows
        num_bytes += batch.nbytes
        if num_rows >= PIECE_ROWS or num_bytes >= PIECE_BYTES:
            yield start, i + 1
            start, num_rows, num_bytes = i + 1, 0, 0
    if start < len(batches):
        yield start, len(batches)


def _encoded(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


# --- batches, joined ---------------------------------------------------------------------------


def record_batch(
    batches: Sequence[ColumnBatch], counts: NDArray[np.int64], schema: TableSchema
) -> pa.RecordBatch:
    """The rows of some batches one after another.

    Args:
        batches: At least one.
        counts: int64, shape (batches,): rows of each.
        schema: Has every column of every batch, in a type that takes all its values.

    Returns:
        `time`, then the columns that a batch has, in the order of the schema; null where one
        lacks them.
    """
    times = _joined([batch.time_us for batch in batches], np.int64)
    arrays = [_array(_TIME_TYPE, times.size, None, [times])]
    names = [TIME_COLUMN]
    there = set[str]().union(*[batch.columns for batch in batches])
    for name in schema.stored_order():
        if name in there:
            found = [batch.columns.get(name) for batch in batches]
            arrays.append(_column(found, counts, name, schema.columns[name]))
            names.append(name)
    return pa.RecordBatch.from_arrays(arrays, names)


def _column(
    found: Sequence[Column | None], counts: NDArray[np.int64], name: str, spec: ColumnSpec
) -> pa.Array:
    """One column over all rows."""
    num_rows = int(counts.sum())
    validity = _validity(found, counts)
    arrow_type = _ARROW_TYPES[spec.type]
    if spec.type in (ColumnType.UTF8, ColumnType.BINARY):
        offsets, data = _strings(found, counts)
        return _array(arrow_type, num_rows, validity, [offsets, data])
    dtype = _DTYPES[spec.type]
    zeros = np.zeros(int(counts.max()), dtype)
    values = [
        zeros[:count] if column is None else _values(column, name, spec.type)
        for column, count in zip(found, counts.tolist(), strict=True)
    ]
    joined = _joined(values, dtype)
    if spec.type is ColumnType.BOOL:
        joined = np.packbits(joined, bitorder="little")
    return _array(arrow_type, num_rows, validity, [joined])


def _values(column: Column, name: str, stored: ColumnType) -> NDArray[Any]:
    """Values in the stored type; numbers become float64, which the schema says is exact."""
    if column.type is stored:
        return column.values
    if stored is ColumnType.FLOAT64 and column.type in (ColumnType.INT64, ColumnType.UINT64):
        return column.values.astype(np.float64)
    raise IngestError(f"BUG: column {name!r} is {column.type}, its table has {stored}")


def _strings(
    found: Sequence[Column | None], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Offsets and bytes of a column of text or bytes."""
    none = np.zeros(int(counts.max()) + 1, dtype=np.int32)
    pieces = [
        none[: count + 1] if column is None or column.offsets is None else column.offsets
        for column, count in zip(found, counts.tolist(), strict=True)
    ]
    data = _joined([column.values for column in found if column is not None], np.uint8)
    offsets = np.empty(int(counts.sum()) + 1, dtype=np.int32)
    strings.join_offsets(_joined(pieces, np.int32), counts, offsets)
    return offsets, data


def _validity(
    found: Sequence[Column | None], counts: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """Which rows have a value; None: all."""
    if all(column is not None and column.validity is None for column in found):
        return None
    most = int(counts.max())
    present, missing = np.ones(most, dtype=np.bool_), np.zeros(most, dtype=np.bool_)
    masks = []
    for column, count in zip(found, counts.tolist(), strict=True):
        if column is None:
            masks.append(missing[:count])
        else:
            masks.append(present[:count] if column.validity is None else column.validity)
    return _joined(masks, np.bool_)


def _array(
    arrow_type: pa.DataType,
    num_rows: int,
    validity: NDArray[np.bool_] | None,
    data: Iterable[NDArray[Any]],
) -> pa.Array:
    bitmap = None
    if validity is not None:
        bitmap = pa.py_buffer(np.packbits(validity, bitorder="little"))
    return pa.Array.from_buffers(
        arrow_type, num_rows, [bitmap, *[pa.py_buffer(part) for part in data]]
    )


def _joined(pieces: Iterable[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """One array of many, of its own memory, in one step that keeps the interpreter's lock."""
    buffers: Any = pieces
    return np.frombuffer(bytearray().join(buffers), dtype=dtype)
