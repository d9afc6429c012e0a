"""The schemas of all tables, agreed between the worker processes of one daemon.

In: batches that a table's schema, as a worker last saw it, does not suffice for. Out: a schema
that does, and that every other worker sees from then on. A row is never here, and a request
whose tables are known and unchanged never comes here.

Kept in SQLite, in one file, each table in one row. A change reads the present schemas again
inside the transaction that replaces them, with the write lock taken first (`BEGIN IMMEDIATE`):
so two workers that bring contrary types for a new column do not both win, and the second is told
what the first made of it.

The journal is a rollback journal, synced (`journal_mode=TRUNCATE`, `synchronous=FULL`): a schema
must be on the disk before a file that was written with it, or a power cut could leave files
whose column the catalog would then give another type. WAL would sync less often (0.2 ms a change
instead of 0.5), but SQLite before 3.51.3 can damage a WAL database with several processes at it
(sqlite.org/wal.html, "The WAL-reset bug"), and Python brings whatever version it was built with.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ingest import sqlite
from ingest.columns import ColumnBatch
from ingest.errors import LimitError
from ingest.paths import QUARANTINE, TableId, table_dir
from ingest.schema import NO_TABLE, ColumnSpec, TableSchema, widen

#: Of the layout below; a catalog with another number is left alone.
_FORMAT = 1

_CREATE = """
CREATE TABLE tables (
    database TEXT NOT NULL,
    measurement TEXT NOT NULL,
    directory TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    columns TEXT NOT NULL,
    PRIMARY KEY (database, measurement)
)
"""
_READ = "SELECT version, columns FROM tables WHERE database = ? AND measurement = ?"
_READ_VERSION = "SELECT version FROM tables WHERE database = ? AND measurement = ?"
_INSERT = "INSERT INTO tables VALUES (?, ?, ?, ?, ?)"
_UPDATE = "UPDATE tables SET version = ?, columns = ? WHERE database = ? AND measurement = ?"
_COUNT = f"SELECT count(*) FROM tables WHERE database = ? AND measurement <> '{QUARANTINE}'"
_LIST = "SELECT database, measurement, directory, version FROM tables ORDER BY 1, 2"

_COLUMNS = msgspec.json.Decoder(dict[str, ColumnSpec])


class CatalogEntry(msgspec.Struct, frozen=True):
    """One table, without its columns.

    Attributes:
        table: Its names, as the client sent them.
        directory: Its folder below the data directory, which `paths.table_from_dir` cannot
            always read back.
        version: Of its schema.
    """

    table: TableId
    directory: str
    version: int


class Catalog:
    """The catalog of one data directory. Its methods block, and may be called from any thread.

    Args:
        path: Of the database file; made with mode 0600, its directory with 0700, when missing.
        max_measurements: Tables that a database may have.
        max_columns: Columns that a table may have, the time included.
        busy_timeout_s: How long to wait for the other processes.

    Raises:
        StorageError: the file cannot be opened, or is not a catalog that this version reads.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_measurements: int,
        max_columns: int,
        busy_timeout_s: float = 10.0,
    ) -> None:
        self.path = Path(path)
        self._max_measurements = max_measurements
        self._max_columns = max_columns
        # Guards the connection: one transaction at a time, from BEGIN to COMMIT.
        self._lock = threading.Lock()
        self._connection = sqlite.open_private(
            self.path, f"catalog {self.path}", _FORMAT, (_CREATE,), busy_timeout_s
        )

    def close(self) -> None:
        """Give the file back. No method may be called afterwards."""
        with self._lock:
            self._connection.close()

    def load(self, table: TableId) -> TableSchema | None:
        """The schema of a table as it is now; None when there is no such table.

        Args:
            table: With names that `paths.table_dir` takes.

        Raises:
            StorageError: the catalog cannot be read.
        """
        with self._lock, self._refusals():
            return self._read(table)

    def current_version(self, table: TableId) -> int:
        """The version of a table's schema as it is now; 0 when there is no such table.

        Raises:
            StorageError: the catalog cannot be read.
        """
        names = (table.database, table.measurement)
        with self._lock, self._refusals():
            row = self._connection.execute(_READ_VERSION, names).fetchone()
        return 0 if row is None else int(row[0])

    def count(self, database: str) -> int:
        """How many tables a database has; that of its quarantine is not counted.

        Raises:
            StorageError: the catalog cannot be read.
        """
        with self._lock, self._refusals():
            return int(self._connection.execute(_COUNT, (database,)).fetchone()[0])

    def tables(self) -> list[CatalogEntry]:
        """All tables, by name.

        Raises:
            StorageError: the catalog cannot be read.
        """
        with self._lock, self._refusals():
            rows = self._connection.execute(_LIST).fetchall()
        return [CatalogEntry(TableId(*names), where, version) for *names, where, version in rows]

    def evolve(self, table: TableId, batches: Sequence[ColumnBatch]) -> TableSchema:
        """Change the schema of one table; see `evolve_many`."""
        return self.evolve_many({table: batches})[table]

    def evolve_many(
        self, changes: Mapping[TableId, Sequence[ColumnBatch]]
    ) -> dict[TableId, TableSchema]:
        """Make the schemas of tables suffice for batches: of all tables, or of none.

        Args:
            changes: The batches that are to fit, by table. Only their names and types are
                looked at, and a value where it takes one to refuse.

        Returns:
            The schemas as they are now. `schema.fit` takes each of the batches under them
            without a change.

        Raises:
            ClientError: what `schema.fit` raises, or a table too many, or a bad name.
            StorageError: the catalog cannot be written, or stays locked.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            counts: dict[str, int] = {}
            return {
                table: self._evolve(table, batches, counts) for table, batches in changes.items()
            }

    def _evolve(
        self, table: TableId, batches: Sequence[ColumnBatch], counts: dict[str, int]
    ) -> TableSchema:
        directory = table_dir(table)  # first of all, since it refuses bad names
        stored = self._read(table)
        needed = stored or NO_TABLE
        for batch in batches:
            needed = widen(needed, batch, self._max_columns)
        if needed is stored or needed is NO_TABLE:
            return needed
        columns = msgspec.json.encode(needed.columns).decode()
        if stored is None:
            if table.measurement != QUARANTINE:  # there is always room for what others refuse
                self._count_one_more(table.database, counts)
            schema = TableSchema(needed.columns, 1)
            row = (table.database, table.measurement, directory, schema.version, columns)
            self._connection.execute(_INSERT, row)
        else:
            schema = TableSchema(needed.columns, stored.version + 1)
            changed = (schema.version, columns, table.database, table.measurement)
            self._connection.execute(_UPDATE, changed)
        return schema

    def _count_one_more(self, database: str, counts: dict[str, int]) -> None:
        """Refuse a table too many. The database is counted once a transaction."""
        if database not in counts:
            counts[database] = self._connection.execute(_COUNT, (database,)).fetchone()[0]
        counts[database] += 1
        if counts[database] > self._max_measurements:
            raise LimitError(
                f"measurements of database {database!r}",
                counts[database],
                self._max_measurements,
                "ARC_MAX_MEASUREMENTS",
            )

    def _read(self, table: TableId) -> TableSchema | None:
        row = self._connection.execute(_READ, (table.database, table.measurement)).fetchone()
        return None if row is None else TableSchema(_COLUMNS.decode(row[1]), row[0])

    def _refusals(self) -> contextlib.AbstractContextManager[None]:
        return sqlite.refusals(f"catalog {self.path}")
