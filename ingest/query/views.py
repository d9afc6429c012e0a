"""The tables of one query, as views in a database that only that query sees.

In: a statement, and for each table that it names its files at one version and the rows that are in
none of them. Out: a cursor of DuckDB on which the statement runs, or its answer, where the log of
the table has it. No file is opened here.

Before the views are made, DuckDB plans the query over tables without rows: the plan tells which
times matter (`ingest.query.needs`), and files and rows of others are left out. Plan and query are
one transaction, so `now()` is the same time in both.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Sequence

import duckdb
import msgspec
import pyarrow as pa

from ingest.paths import TableId
from ingest.query.binding import empty_table, fresh_table, identifier, view_of
from ingest.query.errors import QueryError
from ingest.query.fresh import FreshBatch
from ingest.query.gate import Statement, TableName
from ingest.query.needs import EVERYTHING, Needs, TimeRange, are_plain, needs_of
from ingest.query.snapshots import Snapshot

#: Files from which on a plan, some 1.5 ms, is cheaper than to look into all of them.
_MIN_PLANNED_FILES = 4


class View(msgspec.Struct, frozen=True):
    """A table as one query sees it.

    Attributes:
        snapshot: Its files.
        fresh: Rows that are in none of them.
    """

    snapshot: Snapshot
    fresh: Sequence[FreshBatch] = ()

    @property
    def table(self) -> TableId:
        """Which."""
        return self.snapshot.table

    @property
    def stored_rows(self) -> int | None:
        """Rows of all files; None when the log does not say."""
        rows = [file.num_rows for file in self.snapshot.files]
        return None if None in rows else sum(count or 0 for count in rows)

    @property
    def fresh_rows(self) -> int:
        """Rows that are in no file."""
        return sum(int(batch.rows.num_rows) for batch in self.fresh)

    @property
    def num_rows(self) -> int:
        """Rows of all files, as far as the log says, and of memory."""
        return self.snapshot.num_rows + self.fresh_rows

    def within(self, times: TimeRange) -> View:
        """Without the files and batches that have no row in a range of times."""
        files = [f for f in self.snapshot.files if times.touches(f.min_us, f.max_us)]
        fresh = [batch for batch in self.fresh if times.touches(batch.min_us, batch.max_us)]
        snapshot = msgspec.structs.replace(self.snapshot, files=tuple(files))
        return View(snapshot, fresh)


class Places:
    """Databases of one DuckDB for views, each used by one query at a time. Thread-safe.

    A query leaves nothing in its place, since all that it makes there is in a transaction that is
    rolled back: so the next one finds it empty, and need not attach one of its own, 0.6 ms.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._free: collections.deque[str] = collections.deque()

    def take(self, cursor: duckdb.DuckDBPyConnection) -> str:
        """The name of a database that nobody else uses; none of a client's begins with "_"."""
        with contextlib.suppress(IndexError):
            return self._free.pop()
        name = f"_query{next(self._numbers)}"
        cursor.execute(f"ATTACH ':memory:' AS {identifier(name)}")
        return name

    def give_back(self, name: str) -> None:
        """Leave it, as empty as it was."""
        self._free.append(name)


class Views:
    """Makes the views of one query, and takes them away again.

    Args:
        cursor: Of the query, used by nobody else.
        places: Has one for them.
        database: That of tables whose name in SQL has none.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, places: Places, database: str) -> None:
        self._cursor = cursor
        self._places = places
        self._name = ""  # of the database for the views; none before the transaction has begun
        self._database = database
        self._numbers = itertools.count(1)
        self._views: dict[tuple[str, str], View] = {}
        self._databases: dict[str, str] = {}  # as written, by their names in lower case

    def bind(self, statement: Statement, views: Sequence[tuple[TableName, View]]) -> int | None:
        """Make the views, of as few files as the statement needs.

        Returns:
            The answer, if it is one number, that of the rows of the only table; else None.

        Raises:
            QueryError: two tables differ in case only.
            duckdb.Error: it was interrupted, or has no memory left.
        """
        self._name_tables(views)
        self._name = self._places.take(self._cursor)
        self._begin()
        needs = self._needs(statement) if self._is_worth_a_plan(statement) else EVERYTHING
        if needs.is_row_count:
            [view] = self._views.values()
            if view.stored_rows is not None:
                return view.stored_rows + view.fresh_rows
        for key, view in self._views.items():
            self._create(key, self._select(view.within(needs.times)))
        return None

    def close(self) -> None:
        """Take them away. Nothing may run on the cursor."""
        name, self._name = self._name, ""
        with contextlib.suppress(duckdb.Error):
            if name:
                self._cursor.rollback()
                self._places.give_back(name)

    def _name_tables(self, views: Sequence[tuple[TableName, View]]) -> None:
        self._databases = {self._database.lower(): self._database}
        for name, view in views:
            database = name.database or self._database
            self._databases.setdefault(database.lower(), database)
            key = (database.lower(), name.name.lower())
            if self._views.setdefault(key, view).table != view.table:
                raise QueryError(
                    f"tables {self._views[key].table.measurement!r} and "
                    f"{view.table.measurement!r} differ in case only, and one query cannot name "
                    "both"
                )

    def _begin(self) -> None:
        """Begin the transaction, with a schema for each database that the query names."""
        self._cursor.begin()
        where = identifier(self._name)
        for database in self._databases.values():
            self._cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {where}.{identifier(database)}")
        self._cursor.execute(f"USE {where}.{identifier(self._database)}")

    def _create(self, key: tuple[str, str], select: str) -> None:
        folded, _ = key
        names = (self._name, self._databases[folded], self._views[key].table.measurement)
        path = ".".join(identifier(name) for name in names)
        self._cursor.execute(f"CREATE OR REPLACE VIEW {path} AS {select}")

    def _select(self, view: View) -> str:
        """What a view stands for. Its rows of memory become a table that only the cursor knows."""
        if not view.fresh:
            return view_of(view.snapshot)
        rows = fresh_table(view.snapshot, [batch.rows for batch in view.fresh])
        return view_of(view.snapshot, self._registered(rows), rows.column_names)

    def _registered(self, rows: pa.Table) -> str:
        """A table of Arrow's, under a name for SQL."""
        name = f"{self._name}_{next(self._numbers)}"
        self._cursor.register(name, rows)
        return f"temp.main.{identifier(name)}"

    # --- what is needed ------------------------------------------------------------------------

    def _is_worth_a_plan(self, statement: Statement) -> bool:
        files = sum(len(view.snapshot.files) for view in self._views.values())
        return (
            statement.references > 0
            and files >= _MIN_PLANNED_FILES
            and all(are_plain(iter(view.snapshot.columns)) for view in self._views.values())
        )

    def _needs(self, statement: Statement) -> Needs:
        """Plan the query over tables without rows, in the transaction that it is to run in."""
        try:
            for key, view in self._views.items():
                rows = empty_table(view.snapshot)
                nothing = msgspec.structs.replace(view.snapshot, files=())
                self._create(key, view_of(nothing, self._registered(rows), rows.column_names))
            row = self._cursor.execute(f"EXPLAIN (FORMAT json) {statement.sql}").fetchone()
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise
        except duckdb.Error:
            # The statement fails, and its own run says so in words about its own text.
            self._cursor.rollback()
            self._begin()
            return EVERYTHING
        assert row is not None
        return needs_of(row[1], statement.references)
