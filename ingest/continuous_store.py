"""The continuous queries of a data directory, and what became of their windows, in one SQLite file.

In: definitions, and windows that were executed. Out: the same again, whichever process asks. No
SQL of a query is run here and no row is read or written; see `arc.continuous`.

A window is in the file as done only when its rows are as safe as the daemon makes them. Whoever is
about to replace rows says so before (`QueryStore.promise`), so that a window whose old rows are
gone and whose new ones are not written yet is due again, after a crash too.

The database is written with a rollback journal and synced, as the catalog is, for its reasons.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ingest import sqlite
from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.columns import ColumnType
from ingest.continuous import (
    MARK_COLUMN,
    Execution,
    Outcome,
    Query,
    QuerySpec,
    Window,
    check,
)
from ingest.errors import ClientError, IngestError, PayloadError, StorageError
from ingest.paths import TableId
from ingest.retention import DAY_S, PolicySpec, PolicyStore

#: Executions that are remembered of each query.
MAX_EXECUTIONS = 1_000

#: A window that failed is tried again after so long, then after twice as long, up to the last.
RETRY_S, MAX_RETRY_S = 30, 3_600

_FORMAT = 1
_CREATE = (
    """
    CREATE TABLE queries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        database TEXT NOT NULL,
        source TEXT NOT NULL,
        destination TEXT NOT NULL,
        query TEXT NOT NULL,
        interval TEXT NOT NULL,
        description TEXT,
        retention_days INTEGER,
        delete_source_after_days INTEGER,
        is_active INTEGER NOT NULL,
        created_us INTEGER NOT NULL,
        updated_us INTEGER NOT NULL,
        next_us INTEGER NOT NULL,
        done_us INTEGER,
        failures INTEGER NOT NULL DEFAULT 0,
        retry_us INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE promises (
        query_id INTEGER NOT NULL,
        start_us INTEGER NOT NULL,
        end_us INTEGER NOT NULL,
        PRIMARY KEY (query_id, start_us, end_us)
    )
    """,
    """
    CREATE TABLE executions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        query_id INTEGER NOT NULL,
        execution_id TEXT NOT NULL,
        at_us INTEGER NOT NULL,
        status TEXT NOT NULL,
        start_us INTEGER NOT NULL,
        end_us INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        took_s REAL NOT NULL,
        error TEXT
    )
    """,
    "CREATE INDEX of_query ON executions (query_id, id)",
)
_SPEC_COLUMNS = (
    "name, database, source, destination, query, interval, description, retention_days, "
    "delete_source_after_days, is_active"
)
_COLUMNS = (
    f"id, created_us, updated_us, next_us, done_us, failures, retry_us, {_SPEC_COLUMNS}, "
    "(SELECT max(id) FROM executions WHERE query_id = queries.id)"
)
_LIST = f"SELECT {_COLUMNS} FROM queries ORDER BY database, name"
_GET = f"SELECT {_COLUMNS} FROM queries WHERE id = ?"
_INSERT = (
    f"INSERT INTO queries ({_SPEC_COLUMNS}, created_us, updated_us, next_us) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE queries SET name = ?, database = ?, source = ?, destination = ?, query = ?, "
    "interval = ?, description = ?, retention_days = ?, delete_source_after_days = ?, "
    "is_active = ?, updated_us = ?, next_us = ?, failures = 0, retry_us = 0 WHERE id = ?"
)
_ADVANCE = "UPDATE queries SET next_us = ?, done_us = ? WHERE id = ? AND next_us = ?"
_SUCCEED = "UPDATE queries SET failures = 0, retry_us = 0 WHERE id = ?"
_FAIL = "UPDATE queries SET failures = failures + 1, retry_us = ? WHERE id = ?"
_EXECUTION_COLUMNS = (
    "id, query_id, execution_id, at_us, status, start_us, end_us, rows, took_s, error"
)
_EXECUTION = f"SELECT {_EXECUTION_COLUMNS} FROM executions WHERE id = ?"
_EXECUTIONS = (
    f"SELECT {_EXECUTION_COLUMNS} FROM executions WHERE query_id = ? ORDER BY id DESC LIMIT ?"
)
_INSERT_EXECUTION = (
    "INSERT INTO executions (query_id, execution_id, at_us, status, start_us, end_us, rows, "
    "took_s, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FORGET = (
    "DELETE FROM executions WHERE query_id = ? AND id NOT IN "
    "(SELECT id FROM executions WHERE query_id = ? ORDER BY id DESC LIMIT ?)"
)
_PROMISE = "INSERT OR IGNORE INTO promises VALUES (?, ?, ?)"
_KEPT = "DELETE FROM promises WHERE query_id = ? AND start_us = ? AND end_us = ?"
_PROMISED = "SELECT start_us, end_us FROM promises WHERE query_id = ? ORDER BY start_us LIMIT 1"


class NoSuchQueryError(ClientError):
    """There is no continuous query of this number."""

    status_hint = 404
    reason = "not_found"


class QueryExistsError(ClientError):
    """Another continuous query has this name."""

    status_hint = 409
    reason = "exists"


class QueryStore:
    """The continuous queries of one data directory. Its methods block; any thread may call them.

    Args:
        state_dir: The folder `.arc`. The file is made when missing, for its owner alone.
        clock: For the times of changes, and of the first window.
        busy_timeout_s: How long to wait for other processes.

    Raises:
        StorageError: the file cannot be opened, or is not one that this version reads.
    """

    def __init__(
        self, state_dir: Path, clock: Clock | None = None, busy_timeout_s: float = 10.0
    ) -> None:
        self.path = state_dir / "continuous.db"
        self._clock = clock or SystemClock()
        # Guards the connection: one transaction at a time, from BEGIN to COMMIT.
        self._lock = threading.Lock()
        self._connection = sqlite.open_private(
            self.path, f"continuous queries {self.path}", _FORMAT, _CREATE, busy_timeout_s
        )

    def close(self) -> None:
        """Give the file back. No method may be called afterwards."""
        with self._lock:
            self._connection.close()

    def queries(self) -> list[Query]:
        """All continuous queries, by database and name.

        Raises:
            StorageError: the file cannot be read.
        """
        with self._lock, self._refusals():
            return [self._query(row) for row in self._connection.execute(_LIST).fetchall()]

    def get(self, query_id: int) -> Query:
        """One continuous query.

        Raises:
            NoSuchQueryError: there is none of this number.
            StorageError: the file cannot be read.
        """
        with self._lock, self._refusals():
            return self._read(query_id)

    def create(self, spec: QuerySpec) -> Query:
        """Add a continuous query. Its first window is the one of this moment.

        Raises:
            PayloadError: it makes no sense.
            QueryExistsError: another one has its name.
            StorageError: the file cannot be written.
        """
        check(spec)
        now_us = self._clock.now_us()
        next_us = now_us // spec.interval_us * spec.interval_us
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            self._check_free(spec, None)
            row = (*msgspec.structs.astuple(spec), now_us, now_us, next_us)
            number = self._connection.execute(_INSERT, row).lastrowid
            assert number is not None
            return self._read(number)

    def update(self, query_id: int, **changes: Any) -> Query:
        """Change fields of a continuous query's `QuerySpec`; what failed is tried again at once.

        With another interval, the next window is the one of that length that holds the start of
        the next window as it was.

        Raises:
            NoSuchQueryError, PayloadError, QueryExistsError, StorageError: as `get`, `create`.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            old = self._read(query_id)
            spec = msgspec.structs.replace(old.spec, **changes)
            check(spec)
            self._check_free(spec, query_id)
            next_us = old.next_us // spec.interval_us * spec.interval_us
            row = (*msgspec.structs.astuple(spec), self._clock.now_us(), next_us, query_id)
            self._connection.execute(_UPDATE, row)
            return self._read(query_id)

    def remove(self, query_id: int) -> None:
        """Forget a continuous query and its executions. What it wrote stays.

        Raises:
            NoSuchQueryError: there is none of this number.
            StorageError: the file cannot be written.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            self._read(query_id)
            self._connection.execute("DELETE FROM queries WHERE id = ?", (query_id,))
            for table in ("executions", "promises"):
                self._connection.execute(f"DELETE FROM {table} WHERE query_id = ?", (query_id,))

    def promise(self, query_id: int, window: Window) -> None:
        """Say, before rows of a window go, that it will have its rows again.

        Until `note` says that it has, it is due before all others.

        Raises:
            StorageError: the file cannot be written.
        """
        row = (query_id, window.start_us, window.end_us)
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            self._connection.execute(_PROMISE, row)

    def done(self, query_id: int, window: Window, *, closed: bool) -> None:
        """Say that a window has its rows, as it was promised if it was.

        Args:
            query_id: Of the query.
            window: Which.
            closed: Whether it was over when its rows were read, delay included: if it is the next
                one, its turn is past then.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            row = (query_id, window.start_us, window.end_us)
            self._connection.execute(_KEPT, row)
            self._connection.execute(_SUCCEED, (query_id,))
            if closed:
                advance = (window.end_us, window.end_us, query_id, window.start_us)
                self._connection.execute(_ADVANCE, advance)

    def note(self, outcome: Outcome, *, in_turn: bool) -> None:
        """Remember an execution, and when to try again what failed.

        Args:
            outcome: No dry run.
            in_turn: Whether it was for the window that was due, which waits then.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            if not self._connection.execute(_GET, (outcome.query_id,)).fetchone():
                return  # it was removed meanwhile
            if outcome.error is not None and in_turn:
                failures = self._read(outcome.query_id).failures
                wait_s = min(RETRY_S * 2 ** min(failures, 20), MAX_RETRY_S)
                retry_us = self._clock.now_us() + wait_s * 1_000_000
                self._connection.execute(_FAIL, (retry_us, outcome.query_id))
            self._connection.execute(_INSERT_EXECUTION, _row(outcome))
            number = outcome.query_id
            self._connection.execute(_FORGET, (number, number, MAX_EXECUTIONS))

    def executions(self, query_id: int, limit: int) -> list[Execution]:
        """The latest executions of a query that were remembered, the newest first.

        Raises:
            NoSuchQueryError: there is none of this number.
            StorageError: the file cannot be read.
        """
        with self._lock, self._refusals():
            self._read(query_id)
            rows = self._connection.execute(_EXECUTIONS, (query_id, limit)).fetchall()
        return [Execution(*row) for row in rows]

    def _read(self, query_id: int) -> Query:
        row = self._connection.execute(_GET, (query_id,)).fetchone()
        if row is None:
            raise NoSuchQueryError(f"continuous query {query_id} not found")
        return self._query(row)

    def _query(self, row: tuple[Any, ...]) -> Query:
        number, created, updated, following, done, failures, retry, *spec, active, last = row
        found = last and self._connection.execute(_EXECUTION, (last,)).fetchone()
        promised = self._connection.execute(_PROMISED, (number,)).fetchone()
        return Query(
            number,
            QuerySpec(*[*spec, bool(active)]),
            created,
            updated,
            following,
            done,
            failures,
            retry,
            Execution(*found) if found else None,
            Window(*promised) if promised else None,
        )

    def _check_free(self, spec: QuerySpec, query_id: int | None) -> None:
        """Refuse a name that another query has."""
        found = self._connection.execute("SELECT id FROM queries WHERE name = ?", (spec.name,))
        row = found.fetchone()
        if row is not None and row[0] != query_id:
            raise QueryExistsError(f"continuous query {row[0]} has the name {spec.name!r} already")

    def _refusals(self) -> contextlib.AbstractContextManager[None]:
        return sqlite.refusals(f"continuous queries {self.path}")


def _row(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.query_id,
        outcome.execution_id,
        outcome.at_us,
        outcome.status,
        outcome.window.start_us,
        outcome.window.end_us,
        outcome.rows,
        outcome.took_s,
        outcome.error,
    )


# --- beside them -------------------------------------------------------------------------------


def add(store: QueryStore, spec: QuerySpec) -> Query:
    """Add a continuous query, with the retention policies that it asks for; both or neither.

    A crash in between leaves the query without its policies: rows are kept.

    Raises:
        IngestError: as `QueryStore.create`, `set_policies`.
    """
    query = store.create(spec)
    try:
        set_policies(store.path.parent, spec)
    except IngestError:
        store.remove(query.id)
        raise
    return query


def change(store: QueryStore, query: Query, changes: Mapping[str, Any]) -> Query:
    """Change fields of a `QuerySpec`, and the policies with them; both or neither.

    Raises:
        IngestError: as `QueryStore.update`, `set_policies`.
    """
    changed = store.update(query.id, **changes)
    if {"retention_days", "delete_source_after_days"} & changes.keys():
        try:
            set_policies(store.path.parent, changed.spec)
        except IngestError:
            store.update(query.id, **msgspec.structs.asdict(query.spec))
            raise
    return changed


def set_policies(state_dir: Path, spec: QuerySpec) -> None:
    """Give destination and source the retention policies that a query asks for, if it does.

    A measurement that has a policy has it changed. What a query no longer asks for stays.

    Raises:
        PolicyExistsError: another policy has the name that one would get.
        StorageError: the policies cannot be written.
    """
    wanted = (
        (spec.destination, spec.retention_days),
        (spec.source, spec.delete_source_after_days),
    )
    with contextlib.closing(PolicyStore(state_dir)) as policies:
        known = {(one.spec.database, one.spec.measurement): one for one in policies.policies()}
        for measurement, days in wanted:
            policy = known.get((spec.database, measurement))
            if days is not None and policy is not None:
                policies.update(policy.id, keep_s=days * DAY_S)
            elif days is not None:
                name = f"{spec.database}.{measurement}"
                policies.create(PolicySpec(name, spec.database, measurement, days * DAY_S))


def may_have_rows(state_dir: Path, table: TableId) -> bool:
    """Whether any continuous query can have written to a table: whether it has their column.

    Args:
        state_dir: The folder `.arc`.
        table: Which.

    Raises:
        PayloadError: its column of that name is somebody else's, and no text.
        StorageError: the catalog cannot be read.
    """
    # It makes no table here, so that its limits do not matter.
    with contextlib.closing(Catalog(state_dir / "catalog.db", 1, 1)) as catalog:
        schema = catalog.load(table)
    column = None if schema is None else schema.columns.get(MARK_COLUMN)
    if column is not None and column.type is not ColumnType.UTF8:
        raise PayloadError(
            f"measurement {table.measurement!r}: column {MARK_COLUMN!r} is {column.type.value}, "
            "and marks the rows of continuous queries as text: choose another destination"
        )
    return column is not None


def chosen(queries: Sequence[Query], given: str) -> Query:
    """The query of this number or name.

    Raises:
        NoSuchQueryError: there is none.
    """
    for query in queries:
        if given == str(query.id):
            return query
    for query in queries:
        if given == query.spec.name:
            return query
    raise NoSuchQueryError(f"continuous query {given[:40]!r} not found")


def open_queries(data_dir: Path, clock: Clock | None = None) -> QueryStore:
    """The continuous queries of a data directory.

    Raises:
        StorageError: as `QueryStore`, or it is no data directory.
    """
    state_dir = data_dir / ".arc"
    if not state_dir.is_dir():
        raise StorageError(f"{data_dir} is no data directory: it has no folder .arc")
    return QueryStore(state_dir, clock)
