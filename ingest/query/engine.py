"""DuckDB over the tables of a data directory: SQL in, Arrow batches out. Nothing is ever written.

An `Engine` is one DuckDB in memory, shared by all queries, with one limit of memory and one
number of threads. It may open files below the data directory and nothing else, its settings are
locked, and extensions cannot be loaded; what SQL may name at all is up to `ingest.query.gate`.

Each query gets a database of its own in it, with a view for each table that it names, made over
the files of one snapshot and the rows that shards hold and that snapshot does not. So queries see
no views but their own, whatever runs beside them.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import duckdb
import msgspec
import pyarrow as pa

from ingest.catalog import Catalog
from ingest.errors import StorageError
from ingest.paths import TableId, check_database
from ingest.query.binding import exact_path
from ingest.query.errors import (
    QueryCancelledError,
    QueryError,
    QueryLimitError,
)
from ingest.query.fresh import NOTHING, FreshSource, FreshTables
from ingest.query.gate import Kind, Statement, TableName, parse
from ingest.query.snapshots import Snapshots
from ingest.query.views import Places, View, Views
from ingest.table_list import TableEntry, TableList

#: Rows of a batch: large enough that what is done once a batch does not show, small enough that
#: the first rows of an answer are sent soon.
BATCH_ROWS = 65_536

#: Nesting of an expression; DuckDB's own 1 000 is more than a thread of 8 MB always has room for.
_MAX_DEPTH = 250

#: Texts that are remembered with what they ask for, and the longest of them.
_MAX_STATEMENTS, _MAX_REMEMBERED_CHARACTERS = 256, 4_096

#: How many names a message about an unknown one lists.
_SHOWN_NAMES = 20

_TABLE_COLUMNS = pa.schema(
    [
        ("database", pa.string()),
        ("table_name", pa.string()),
        ("storage_path", pa.string()),
        ("file_count", pa.int64()),
        ("total_size_mb", pa.float64()),
    ]
)
_DATABASE_COLUMNS = pa.schema([("database", pa.string())])


class EngineSettings(msgspec.Struct, frozen=True):
    """What an engine may take.

    Attributes:
        memory_bytes: Of all queries together. Nothing is spilled to disk: beyond it the query
            that asks for more fails.
        threads: Of all queries together, at least 1.
    """

    memory_bytes: int
    threads: int


class Stop(enum.Enum):
    """Why a query is cut short."""

    TIMEOUT = enum.auto()
    GONE = enum.auto()


class Engine:
    """DuckDB, locked down. Its methods block and may be called from any thread.

    Args:
        root: The data directory.
        catalog: Of that.
        settings: Its limits.
        source: The shards that may hold rows which are in no file; None: there are none.
    """

    def __init__(
        self,
        root: Path,
        catalog: Catalog,
        settings: EngineSettings,
        source: FreshSource | None = None,
    ) -> None:
        self.root = root.absolute()
        self.catalog = catalog
        self.settings = settings
        self.snapshots = Snapshots(self.root, catalog)
        self.tables = TableList(catalog, self.root)
        self.fresh = None if source is None else FreshTables(source, settings.memory_bytes)
        self.places = Places()
        self._connection = _connect(self.root, settings)
        self._statements: collections.OrderedDict[str, Statement] = collections.OrderedDict()
        # Guards the connection, of which each query takes a cursor, which is thread-safe, and the
        # statements.
        self._lock = threading.Lock()

    def query(self, sql: str, database: str) -> Query:
        """A query that is yet to be started. Does not block.

        Args:
            sql: As the client sent it.
            database: That of tables without one.
        """
        return Query(self, sql, database)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to the engine, for one query."""
        with self._lock:
            return self._connection.cursor()

    def parse(self, sql: str, cursor: duckdb.DuckDBPyConnection) -> Statement:
        """What a text asks for; it is remembered, since dashboards ask the same again: 1 ms.

        Raises:
            QueryError: as `gate.parse`.
        """
        with self._lock:
            found = self._statements.get(sql)
            if found is not None:
                self._statements.move_to_end(sql)
                return found
        found = parse(sql, cursor)
        if len(sql) <= _MAX_REMEMBERED_CHARACTERS:
            with self._lock:
                self._statements[sql] = found
                if len(self._statements) > _MAX_STATEMENTS:
                    self._statements.popitem(last=False)
        return found

    def resolve(self, name: TableName, database: str) -> View:
        """The table that a name in SQL means: exactly that, or the only one in another case.

        Raises:
            QueryError: there is none, or there are several.
            StorageError: its log cannot be read.
            OverloadedError: a shard cannot tell which rows it holds.
        """
        wanted = TableId(name.database or database, name.name)
        with contextlib.suppress(QueryError):
            return self._take(wanted)
        tables = [entry.table for entry in self.catalog.tables()]
        folded = _folded(wanted)
        alike = [table for table in tables if _folded(table) == folded]
        if len(alike) > 1:
            names = ", ".join(repr(table.measurement) for table in alike)
            raise QueryError(f"table {wanted.measurement!r} is one of {names}: write it as it is")
        if not alike:
            raise QueryError(_unknown(wanted, tables))
        return self._take(alike[0])

    def _take(self, table: TableId) -> View:
        if not table.measurement or self.catalog.load(table) is None:
            raise QueryError(f"there is no table {table.measurement!r}")
        # In this order: what is stored between the two steps is in both, and the marks tell.
        fetched = NOTHING if self.fresh is None else self.fresh.fetch(table)
        found = self.snapshots.take(table, fetched.app_ids)
        if found is None:
            raise QueryError(f"there is no table {table.measurement!r}")
        if self.fresh is not None:
            self.fresh.forget(table, found.marks)
        return View(found, fetched.after(found.marks))

    def close(self) -> None:
        """Give its memory back. No query may be under way."""
        with self._lock:
            self._connection.close()


def _connect(root: Path, settings: EngineSettings) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": settings.threads,
            "memory_limit": f"{settings.memory_bytes}B",
            "temp_directory": "",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "max_expression_depth": str(_MAX_DEPTH),
        },
    )
    where = f"{root}/"
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute("SET python_enable_replacements = false")
    # A path is checked as it is written, which is as a pattern.
    connection.execute("SET allowed_directories = ?", [[where, exact_path(where)]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


class Query:
    """One query, from its text to its last batch. `start`, `next_batch`, `close`, in this order.

    Those block, and may be called from different threads, one after another; `stop` may be
    called at any time from anywhere.

    Attributes:
        schema: Of the answer, once it is started.
    """

    def __init__(self, engine: Engine, sql: str, database: str) -> None:
        self.schema = pa.schema([])
        self._engine = engine
        self._sql = sql
        self._database = database
        self._stopped: Stop | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        # Guards the cursor against being interrupted while it is closed.
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._bound: Views | None = None

    def start(self) -> Query:
        """Take the snapshots and begin to run.

        Raises:
            IngestError: see `guarded`.
        """
        with self._guarded():
            cursor = self._open()
            statement = self._engine.parse(self._sql, cursor)
            self._run(statement, cursor)
        return self

    def count(self) -> int:
        """How many rows the query has, instead of `start`: they are counted and not read.

        Raises:
            IngestError: see `guarded`.
        """
        with self._guarded():
            cursor = self._open()
            statement = self._engine.parse(self._sql, cursor)
            if statement.kind is Kind.ROWS and not statement.is_explained:
                if self._bind(statement, cursor) is not None:
                    return 1
                counted = cursor.sql(statement.sql).aggregate("count(*)").to_arrow_reader(1)
                return int(counted.read_next_batch()[0][0].as_py())
            self._run(statement, cursor)
            return sum(batch.num_rows for batch in self._batches)

    def stored_rows(self) -> int:
        """Rows of all tables that the query names, as their logs and the shards say.

        Raises:
            IngestError: see `guarded`.
        """
        with self._guarded():
            statement = self._engine.parse(self._sql, self._open())
            return sum(view.num_rows for _, view in self._views(statement))

    def next_batch(self) -> pa.RecordBatch | None:
        """The next rows; None after the last.

        Raises:
            IngestError: see `guarded`.
        """
        with self._guarded():
            return next(self._batches, None)

    def stop(self, reason: Stop) -> None:
        """Cut it short. What runs raises soon; call again as long as it does not."""
        self._stopped = self._stopped or reason
        with self._lock:
            if self._cursor is not None:
                with contextlib.suppress(duckdb.Error):
                    self._cursor.interrupt()

    def close(self) -> None:
        """Give back what it holds. Nothing of it may be running."""
        self._batches = iter(())
        with self._lock:
            cursor, self._cursor = self._cursor, None
        if cursor is None:
            return
        if self._bound is not None:
            self._bound.close()
        cursor.close()

    # --- running -------------------------------------------------------------------------------

    def _open(self) -> duckdb.DuckDBPyConnection:
        check_database(self._database)
        cursor = self._engine.cursor()
        with self._lock:
            self._cursor = cursor
        return cursor

    def _run(self, statement: Statement, cursor: duckdb.DuckDBPyConnection) -> None:
        if statement.kind is Kind.DATABASES:
            self._show(_databases(self._engine.catalog))
        elif statement.kind is Kind.TABLES:
            self._show(_tables(self._engine, _wanted(statement, self._database)))
        else:
            rows = self._bind(statement, cursor)
            found = cursor.sql(statement.sql)
            if rows is not None:
                schema = pa.schema([(found.columns[0], pa.int64())])
                self._show(pa.table([[rows]], schema=schema))
                return
            reader = found.to_arrow_reader(BATCH_ROWS)
            self.schema, self._batches = reader.schema, iter(reader)

    def _show(self, table: pa.Table) -> None:
        self.schema, self._batches = table.schema, iter(table.to_batches())

    def _bind(self, statement: Statement, cursor: duckdb.DuckDBPyConnection) -> int | None:
        """Make the views of a query; the answer, if it is the number of rows of a table."""
        self._bound = Views(cursor, self._engine.places, self._database)
        return self._bound.bind(statement, list(self._views(statement)))

    def _views(self, statement: Statement) -> Iterator[tuple[TableName, View]]:
        for name in sorted(statement.tables):
            yield name, self._engine.resolve(name, self._database)
        for name in sorted(statement.maybe_tables):
            with contextlib.suppress(QueryError):  # then it is the expression of that name
                yield name, self._engine.resolve(name, self._database)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Word what DuckDB says.

        Raises:
            QueryError: the SQL is not allowed, or fails.
            QueryLimitError: it takes too much time or memory.
            QueryCancelledError: `stop` was called because nobody waits.
            StorageError: a file or a log cannot be read.
        """
        self._check_stopped()
        try:
            yield
        except duckdb.Error as error:
            self._raise_as_ours(str(error), error)
        except (pa.ArrowException, OSError) as error:
            # What DuckDB says after the first batch comes through Arrow, as text alone.
            self._raise_as_ours(str(error), error)

    def _raise_as_ours(self, message: str, error: Exception) -> NoReturn:
        kind = message.partition(":")[0].upper()
        if kind.startswith("INTERRUPT"):
            self._check_stopped()
            raise QueryCancelledError("the query was interrupted") from None
        if kind == "OUT OF MEMORY ERROR":
            limit = self._engine.settings.memory_bytes
            raise QueryLimitError(
                f"the query needs more than the {limit} bytes of memory that all queries have "
                "together (ARC_QUERY_MEMORY_BYTES): ask for fewer rows, columns or groups"
            ) from None
        if kind == "IO ERROR":
            raise StorageError(f"a file of the table cannot be read: {message}") from error
        if kind.startswith(("FATAL", "INTERNAL")):
            raise error
        raise QueryError(message) from error

    def _check_stopped(self) -> None:
        if self._stopped is Stop.TIMEOUT:
            raise QueryLimitError(
                "the query took longer than a query may (ARC_QUERY_TIMEOUT_S): bound the time, "
                "or ask for less"
            )
        if self._stopped is Stop.GONE:
            raise QueryCancelledError("nobody waits for the answer any more")


# --- what there is -------------------------------------------------------------------------------


def _wanted(statement: Statement, database: str) -> str | None:
    """The database of SHOW TABLES; None: all of them."""
    return database if statement.database is None else statement.database or None


def _databases(catalog: Catalog) -> pa.Table:
    names = sorted({entry.table.database for entry in catalog.tables()})
    return pa.table([names], schema=_DATABASE_COLUMNS)


def _tables(engine: Engine, database: str | None) -> pa.Table:
    entries = engine.tables.entries(database)
    return pa.Table.from_pylist([_row(entry) for entry in entries], schema=_TABLE_COLUMNS)


def _row(entry: TableEntry) -> dict[str, object]:
    return {
        "database": entry.table.database,
        "table_name": entry.table.measurement,
        "storage_path": entry.directory,
        "file_count": entry.num_files,
        "total_size_mb": round(entry.size_bytes / 1e6, 6),
    }


def _folded(table: TableId) -> tuple[str, str]:
    return table.database.lower(), table.measurement.lower()


def _unknown(wanted: TableId, tables: list[TableId]) -> str:
    """What to say of a table that there is not: what there is instead."""
    there = [t.measurement for t in tables if t.database.lower() == wanted.database.lower()]
    if there:
        names = f"tables of database {wanted.database!r}: {_listed(there)}"
    else:
        databases = sorted({table.database for table in tables})
        names = f"database {wanted.database!r} has no tables; databases: {_listed(databases)}"
    return f"there is no table {wanted.measurement!r}; {names}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{shown or 'none'}" + (f" and {more} more" if more > 0 else "")
