"""The rows of the tables `_quarantine` of a data directory, and which of them were sent again.

In: a data directory, whether a daemon runs on it or not. Out: what its tables refused, each piece
with an id that is the same at every look. Tables are only read; what was sent again is noted in a
small SQLite file of its own, since a row of a table is never changed. Nothing is sent from here.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ingest import delta, sqlite
from ingest.columns import TIME_COLUMN
from ingest.delta_folder import add_actions
from ingest.errors import StorageError
from ingest.paths import QUARANTINE, TableId, table_dir, table_from_dir
from ingest.table_survey import open_table

#: Below the data directory.
NOTES_FILE = ".arc/quarantine.db"

#: Characters of an id: 64 bits tell millions of pieces apart.
_ID_DIGITS = 16

#: Rows read at a time; a body may be a whole map of rows.
_BATCH_ROWS = 256

_CREATE = "CREATE TABLE IF NOT EXISTS replayed (id TEXT PRIMARY KEY, replayed_us INTEGER NOT NULL)"
_NOTE = "INSERT OR REPLACE INTO replayed VALUES (?, ?)"
_LIST = "SELECT id FROM replayed"


class Kept(msgspec.Struct, frozen=True):
    """A piece of a request that was refused.

    Attributes:
        id: Made from everything below; of pieces that are equal in all of it, the second and later
            have "-2" and so on at the end.
        database: Whose `_quarantine` holds it.
        arrival_us: When it came, microseconds since 1970-01-01T00:00Z.
        door: Where, as `/metrics` calls it.
        measurement: Where it would have gone; None: not known.
        reason: The word that `/metrics` counts the error under.
        error: The message.
        format: Name of the `Format` of `body`, in lower case.
        time_unit: Of the times in it; None: told from their magnitudes.
        line: Number of its line in the request; None: it had none.
        body: The piece.
    """

    id: str
    database: str
    arrival_us: int
    door: str
    measurement: str | None
    reason: str
    error: str
    format: str
    time_unit: str | None
    line: int | None
    body: bytes


_COLUMNS = tuple(
    name for name in Kept.__struct_fields__ if name not in ("id", "database", "arrival_us")
)


def read_kept(root: Path, database: str | None = None) -> Iterator[Kept]:
    """Everything that tables hold, by database and, within an hour or so, by time.

    What came within the last seconds may still be in memory, and is not in a table yet.

    Args:
        root: The data directory.
        database: Only of this one; None: of all.

    Raises:
        StorageError: a table cannot be read.
    """
    for name in sorted(_databases(root)):
        if database is None or name == database:
            yield from _read_table(root, name)


def _databases(root: Path) -> Iterator[str]:
    for folder in root.iterdir() if root.is_dir() else ():
        if (folder / QUARANTINE / delta.LOG_DIR).is_dir():
            table = table_from_dir(f"{folder.name}/{QUARANTINE}")
            if table is not None:
                yield table.database


def _read_table(root: Path, database: str) -> Iterator[Kept]:
    folder = root / table_dir(TableId(database, QUARANTINE))
    seen: Counter[str] = Counter()
    for path in sorted(_files(folder)):
        try:
            for row in _rows(path):
                found = _identified(database, row)
                seen[found.id] += 1
                count = seen[found.id]
                yield (
                    found
                    if count == 1
                    else msgspec.structs.replace(found, id=f"{found.id}-{count}")
                )
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{path}: {error}") from error


def _files(folder: Path) -> list[Path]:
    table = open_table(folder)
    try:
        paths = add_actions(table).column("path").to_pylist()
    except Exception as error:
        raise StorageError(f"deltalake cannot list {folder}: {error}") from error
    return [folder / delta.decoded_path(path) for path in paths]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        there = [name for name in (TIME_COLUMN, *_COLUMNS) if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=there):
            place = batch.schema.get_field_index(TIME_COLUMN)
            times = batch.column(place).cast(pa.int64()).to_pylist()
            others = batch.remove_column(place).to_pylist()
            for time_us, row in zip(times, others, strict=True):
                yield {"arrival_us": time_us, **dict.fromkeys(_COLUMNS), **row}


def _identified(database: str, row: dict[str, Any]) -> Kept:
    for name in ("door", "reason", "error", "format"):  # of a table that somebody else wrote
        row[name] = row[name] or ""
    row["body"] = row["body"] or b""
    found = Kept(id="", database=database, **row)
    digest = hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.astuple(found))).hexdigest()
    return msgspec.structs.replace(found, id=digest[:_ID_DIGITS])


class ReplayNotes:
    """Which pieces were sent again and accepted.

    Args:
        root: The data directory.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NOTES_FILE

    def replayed(self) -> set[str]:
        """Ids of those pieces. Makes no file.

        Raises:
            StorageError: the notes cannot be read.
        """
        if not self._path.exists():
            return set()
        with self._connected() as connection:
            return {row[0] for row in connection.execute(_LIST)}

    def note(self, piece_id: str, now_us: int) -> None:
        """Remember a piece that was accepted.

        Args:
            piece_id: Its id.
            now_us: Microseconds since 1970-01-01T00:00Z.

        Raises:
            StorageError: the disk refuses.
        """
        with self._connected() as connection:
            connection.execute(_NOTE, (piece_id, now_us))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with sqlite.refusals(f"notes {self._path}"):
            sqlite.create_private(self._path)
            with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                connection.execute(_CREATE)
                yield connection
