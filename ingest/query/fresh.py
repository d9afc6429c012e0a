"""Rows that shards hold in memory, as a query sees them beside one version of their table.

In: pieces of rows from every shard, as `ingest.fresh_rows` has them, through a `FreshSource`.
Out: the rows of them that a version of the table does not have, as record batches. Rows are
asked of the shards first and the version is taken after, so whatever was stored in between is in
both; the version says how far it is with each shard (`txn`), and what is not beyond that is left
out. So no row is there twice, and none is missing that was acknowledged before the question.

What was received is kept for the next query, which asks for what is newer only. It is let go as
the versions move on, and where the shard has begun a new life. No row is sent twice to this
process while it is remembered, and the memory for all of it is bounded.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN
from ingest.errors import OverloadedError
from ingest.fresh_rows import PIECE_ROWS, PieceHead
from ingest.paths import TableId

#: Tables whose rows are remembered.
_MAX_TABLES = 512

#: What a kept piece takes beside its rows: objects, and the numbers of its requests.
_PIECE_OVERHEAD_BYTES = 4_096


class Known(msgspec.Struct, frozen=True):
    """How much of a table was heard from a shard before.

    Attributes:
        epoch: In which life of the shard.
        after_lsn: All rows up to this log sequence number.
    """

    epoch: int = 0
    after_lsn: int = 0


class ShardRows(msgspec.Struct, frozen=True):
    """What one shard answered.

    Attributes:
        app_id: Under which tables keep how far the shard is.
        epoch: Its life.
        pieces: Rows of requests beyond what was known, all of them if the epoch is another; the
            second part is an Arrow IPC stream of one batch.
    """

    app_id: str
    epoch: int
    pieces: Sequence[tuple[PieceHead, bytes | bytearray]]


class FreshSource(Protocol):
    """The shards. May be called from any thread."""

    def ask(
        self, table: TableId, known: Mapping[int, Known], max_bytes: int
    ) -> dict[int, ShardRows]:
        """The rows of a table in the memory of every shard that may have any, by its number.

        Args:
            table: Which.
            known: What is remembered, by shard.
            max_bytes: Of all pieces.

        Raises:
            OverloadedError: a shard cannot tell now, or there are more bytes.
        """
        ...


class FreshBatch(msgspec.Struct, frozen=True):
    """Rows that are in no file yet.

    Attributes:
        rows: `time` and columns as the shard stored them then; at least one row.
        min_us: None is earlier, microseconds since 1970-01-01T00:00Z.
        max_us: None is later.
    """

    rows: pa.RecordBatch
    min_us: int
    max_us: int


class Chunk(msgspec.Struct, frozen=True):
    """Rows of one shard, in the order of their requests.

    Attributes:
        rows: `time` and columns as the shard stored them then.
        lsns: int64, shape (requests,), ascending.
        ends: int64, shape (requests,): the row after the last of each.
        min_us: Earliest time of them, microseconds since 1970-01-01T00:00Z.
        max_us: Latest.
    """

    rows: pa.RecordBatch
    lsns: NDArray[np.int64]
    ends: NDArray[np.int64]
    min_us: int
    max_us: int

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        own = int(self.rows.get_total_buffer_size()) + self.lsns.nbytes + self.ends.nbytes
        return own + _PIECE_OVERHEAD_BYTES

    def after(self, lsn: int) -> pa.RecordBatch:
        """The rows beyond a log sequence number; nothing is copied."""
        first = int(np.searchsorted(self.lsns, lsn, side="right"))
        return self.rows if first == 0 else self.rows.slice(int(self.ends[first - 1]))


class _Shard(msgspec.Struct, frozen=True):
    """What is remembered of one table and shard. Never changed, only replaced.

    Attributes:
        known: How far.
        app_id: Of the shard.
        chunks: The rows up to there that no version was seen to have, oldest first.
    """

    known: Known
    app_id: str
    chunks: tuple[Chunk, ...] = ()

    def trimmed(self, mark: int) -> _Shard:
        """Without the chunks that are in the table whole."""
        if not self.chunks or self.chunks[0].lsns[-1] > mark:
            return self
        kept = tuple(chunk for chunk in self.chunks if chunk.lsns[-1] > mark)
        return msgspec.structs.replace(self, chunks=kept)


class _Table:
    """What is remembered of one table."""

    def __init__(self) -> None:
        # One query asks for a table at a time; the next then asks for what is newer.
        self.asking = threading.Lock()
        self.shards: dict[int, _Shard] = {}

    @property
    def size_bytes(self) -> int:
        return sum(chunk.size_bytes for shard in self.shards.values() for chunk in shard.chunks)


class Fetched(msgspec.Struct, frozen=True):
    """All rows of a table that shards had in memory at one time.

    Attributes:
        shards: What was heard from each.
    """

    shards: tuple[_Shard, ...] = ()

    @property
    def app_ids(self) -> list[str]:
        """Of the shards that had rows."""
        return [shard.app_id for shard in self.shards if shard.chunks]

    def after(self, marks: Mapping[str, int]) -> list[FreshBatch]:
        """The rows that a version of the table does not have.

        Args:
            marks: How far that version is with each shard, by `app_id`.
        """
        found = []
        for shard in self.shards:
            mark = marks.get(shard.app_id, 0)
            for chunk in shard.chunks:
                rows = chunk.after(mark)
                if rows.num_rows:
                    found.append(FreshBatch(rows, chunk.min_us, chunk.max_us))
        return found


NOTHING = Fetched()


class FreshTables:
    """Asks the shards, and remembers. May be called from any thread.

    Args:
        source: The shards.
        limit_bytes: Of what is remembered of all tables. A table that has more in the memory of
            the shards cannot be asked for until some of it is stored.
    """

    def __init__(self, source: FreshSource, limit_bytes: int) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        # Guards the dictionary and the sizes of its tables.
        self._lock = threading.Lock()
        self._tables: collections.OrderedDict[TableId, _Table] = collections.OrderedDict()
        self._sizes: dict[TableId, int] = {}

    @property
    def size_bytes(self) -> int:
        """Memory of what is remembered."""
        with self._lock:
            return sum(self._sizes.values())

    def clear(self) -> None:
        """Forget everything; the next query asks for all rows again."""
        with self._lock:
            self._tables.clear()
            self._sizes.clear()

    def fetch(self, table: TableId) -> Fetched:
        """The rows of a table that are in the memory of shards now.

        What is stored while this runs may be among them: compare with a version of the table
        that is taken after, with `Fetched.after`.

        Raises:
            OverloadedError: a shard is being replaced or replayed, or there is no memory for
                the rows.
        """
        entry = self._entry(table)
        with entry.asking:
            known = {number: shard.known for number, shard in entry.shards.items()}
            answers = self._source.ask(table, known, self._limit_bytes)
            # A shard that is not there any more has stored all that it had.
            entry.shards = {
                number: _grown(entry.shards.get(number), answer)
                for number, answer in answers.items()
            }
            fetched = Fetched(tuple(entry.shards.values()))
            self._account(table, entry)
        return fetched

    def forget(self, table: TableId, marks: Mapping[str, int]) -> None:
        """Let go of rows that a version of a table has; marks as for `Fetched.after`.

        Versions that are taken later have them as well, so no later query misses them.
        """
        with self._lock:
            entry = self._tables.get(table)
        if entry is None or not entry.asking.acquire(blocking=False):
            return  # who asks now lets go of them next
        try:
            entry.shards = {
                number: shard.trimmed(marks.get(shard.app_id, 0))
                for number, shard in entry.shards.items()
            }
            with self._lock:
                if self._tables.get(table) is entry:
                    self._sizes[table] = entry.size_bytes
        finally:
            entry.asking.release()

    def _entry(self, table: TableId) -> _Table:
        with self._lock:
            entry = self._tables.setdefault(table, _Table())
            self._tables.move_to_end(table)
            self._sizes.setdefault(table, 0)
            if len(self._tables) > _MAX_TABLES:
                self._drop(next(iter(self._tables)))
            return entry

    def _account(self, table: TableId, entry: _Table) -> None:
        """Count what was received, and make room for it.

        Raises:
            OverloadedError: there is none.
        """
        size_bytes = entry.size_bytes
        with self._lock:
            if self._tables.get(table) is not entry:  # dropped meanwhile: nobody comes back to it
                return
            self._sizes[table] = size_bytes
            while sum(self._sizes.values()) > self._limit_bytes and len(self._tables) > 1:
                # The first is the one that was asked for longest ago; this one is the last, or
                # one of the last, and then its rows are asked for once more.
                self._drop(next(iter(self._tables)))
            if size_bytes <= self._limit_bytes:
                return
            self._drop(table)
        raise too_many(table, self._limit_bytes)

    def _drop(self, table: TableId) -> None:
        self._tables.pop(table, None)
        self._sizes.pop(table, None)


def too_many(table: TableId, limit_bytes: int) -> OverloadedError:
    """What to say where a table has more rows in memory than a query may fetch."""
    return OverloadedError(
        f"table {table.measurement!r} has more rows that are not stored yet than the "
        f"{limit_bytes} bytes for them hold (ARC_QUERY_MEMORY_BYTES): come back when they are"
    )


def _grown(before: _Shard | None, answer: ShardRows) -> _Shard:
    """What is known of a shard after its answer."""
    is_same_life = (
        before is not None and before.app_id == answer.app_id and before.known.epoch == answer.epoch
    )
    chunks = list(before.chunks) if before is not None and is_same_life else []
    after_lsn = before.known.after_lsn if before is not None and is_same_life else 0
    for head, content in answer.pieces:
        chunk = _chunk(head, content)
        after_lsn = int(chunk.lsns[-1])
        while chunks and _are_worth_joining(chunks[-1], chunk):
            chunk = _join(chunks.pop(), chunk)
        chunks.append(chunk)
    return _Shard(Known(answer.epoch, after_lsn), answer.app_id, tuple(chunks))


def _chunk(head: PieceHead, content: bytes | bytearray) -> Chunk:
    with pa.ipc.open_stream(pa.py_buffer(content)) as reader:
        rows = reader.read_next_batch()
    lsns = np.frombuffer(head.lsns, dtype=np.int64)
    ends = np.frombuffer(head.ends, dtype=np.int64)
    times = rows.column(TIME_COLUMN).view(pa.int64()).to_numpy()
    return Chunk(rows, lsns, ends, int(times.min()), int(times.max()))


def _are_worth_joining(older: Chunk, newer: Chunk) -> bool:
    """Whether two chunks are to be one: so a row is copied a few times, and chunks stay few."""
    before, added = int(older.ends[-1]), int(newer.ends[-1])
    return before <= 2 * added and before + added <= PIECE_ROWS


def _join(older: Chunk, newer: Chunk) -> Chunk:
    tables = [pa.Table.from_batches([chunk.rows]) for chunk in (older, newer)]
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    return Chunk(
        table.to_batches()[0],
        np.concatenate([older.lsns, newer.lsns]),
        np.concatenate([older.ends, newer.ends + older.rows.num_rows]),
        min(older.min_us, newer.min_us),
        max(older.max_us, newer.max_us),
    )
