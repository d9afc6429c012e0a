"""How long rows are kept: policies by database and measurement, and what they take away.

In: policies (`PolicyStore`, one SQLite file of a data directory), and the tables. Out: tables
without the rows that are over their time (`Retention.run`). When that is done, and in which
process, is decided elsewhere.

A policy of a measurement goes before that of its database, which holds for all other measurements
of it, the quarantine included. There is one policy at the most for either. Rows go by their own
time, at the end of the UTC day that they are in (of the hour, where they are kept for less than a
day): so the files of hours and days go whole, and none is rewritten again and again as its rows
come of age one by one.

The database is written with a rollback journal and synced, as the catalog is, for its reasons.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from ingest import sqlite
from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.condition import Condition
from ingest.deletion import Deleted, Deleter, Plan
from ingest.errors import ClientError, PayloadError, StorageError
from ingest.paths import TableId, check_database, check_measurement

HOUR_S, DAY_S = 3_600, 86_400

#: Longest time that rows are kept, and that is added to it: 1 000 years.
MAX_S = 365_000 * DAY_S

MAX_NAME_CHARACTERS = 128

#: Runs that are remembered of each policy.
MAX_EXECUTIONS = 1_000

_FORMAT = 1
_CREATE = (
    """
    CREATE TABLE policies (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        database TEXT NOT NULL,
        measurement TEXT,
        keep_s INTEGER NOT NULL,
        buffer_s INTEGER NOT NULL,
        is_active INTEGER NOT NULL,
        created_us INTEGER NOT NULL,
        updated_us INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX targets ON policies (database, ifnull(measurement, ''))",
    """
    CREATE TABLE executions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        policy_id INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        status TEXT NOT NULL,
        rows INTEGER NOT NULL,
        cutoff_us INTEGER NOT NULL,
        took_ms REAL NOT NULL,
        error TEXT
    )
    """,
    "CREATE INDEX of_policy ON executions (policy_id, id)",
)
_COLUMNS = (
    "id, name, database, measurement, keep_s, buffer_s, is_active, created_us, updated_us, "
    "(SELECT max(id) FROM executions WHERE policy_id = policies.id)"
)
_LIST = f"SELECT {_COLUMNS} FROM policies ORDER BY database, measurement IS NOT NULL, measurement"
_GET = f"SELECT {_COLUMNS} FROM policies WHERE id = ?"
_INSERT = (
    "INSERT INTO policies (name, database, measurement, keep_s, buffer_s, is_active, "
    "created_us, updated_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE policies SET name = ?, database = ?, measurement = ?, keep_s = ?, buffer_s = ?, "
    "is_active = ?, updated_us = ? WHERE id = ?"
)
_EXECUTION_COLUMNS = "id, policy_id, at_us, status, rows, cutoff_us, took_ms, error"
_EXECUTION = f"SELECT {_EXECUTION_COLUMNS} FROM executions WHERE id = ?"
_EXECUTIONS = (
    f"SELECT {_EXECUTION_COLUMNS} FROM executions WHERE policy_id = ? ORDER BY id DESC LIMIT ?"
)
_INSERT_EXECUTION = (
    "INSERT INTO executions (policy_id, at_us, status, rows, cutoff_us, took_ms, error) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_FORGET = (
    "DELETE FROM executions WHERE policy_id = ? AND id NOT IN "
    "(SELECT id FROM executions WHERE policy_id = ? ORDER BY id DESC LIMIT ?)"
)


class NoSuchPolicyError(ClientError):
    """There is no policy of this number."""

    status_hint = 404
    reason = "not_found"


class PolicyExistsError(ClientError):
    """Another policy has this name, or is for the same rows."""

    status_hint = 409
    reason = "exists"


class PolicySpec(msgspec.Struct, frozen=True):
    """What somebody wants of a policy.

    Attributes:
        name: For people; no other policy has it.
        database: Whose rows.
        measurement: Whose rows; None: of all measurements without a policy of their own.
        keep_s: How long rows are kept, seconds; whole days go by days, others by hours.
        buffer_s: Kept for so much longer.
        is_active: Whether it is applied by itself.
    """

    name: str
    database: str
    measurement: str | None
    keep_s: int
    buffer_s: int = 0
    is_active: bool = True


class Execution(msgspec.Struct, frozen=True):
    """One run of a policy.

    Attributes:
        id: Its number.
        policy_id: Of the policy.
        at_us: When it began, microseconds since 1970-01-01T00:00Z.
        status: "completed" or "failed".
        rows: That are gone by it.
        cutoff_us: Rows before it had to go.
        took_ms: How long it took.
        error: Why it failed.
    """

    id: int
    policy_id: int
    at_us: int
    status: str
    rows: int
    cutoff_us: int
    took_ms: float
    error: str | None


class Policy(msgspec.Struct, frozen=True):
    """A policy as it is kept.

    Attributes:
        id: Its number, never given twice.
        spec: What it says.
        created_us: Microseconds since 1970-01-01T00:00Z.
        updated_us: Of the latest change.
        last: Its latest run that took rows away or failed.
    """

    id: int
    spec: PolicySpec
    created_us: int
    updated_us: int
    last: Execution | None = None

    def cutoff_us(self, now_us: int) -> int:
        """Rows before this moment go: the start of a UTC day, or of an hour."""
        grain_us = (HOUR_S if self.spec.keep_s < DAY_S else DAY_S) * 1_000_000
        oldest_us = now_us - (self.spec.keep_s + self.spec.buffer_s) * 1_000_000
        return oldest_us // grain_us * grain_us


def check(spec: PolicySpec) -> None:
    """Refuse a policy that makes no sense.

    Raises:
        PayloadError: what is wrong with it.
    """
    if not 1 <= len(spec.name) <= MAX_NAME_CHARACTERS or not spec.name.isprintable():
        raise PayloadError(
            f"name of a policy: {len(spec.name)} characters, wanted 1 to {MAX_NAME_CHARACTERS} "
            "that can be printed"
        )
    check_database(spec.database)
    if spec.measurement is not None:
        check_measurement(spec.measurement)
    if not HOUR_S <= spec.keep_s <= MAX_S:
        raise PayloadError(
            f"rows are kept for {spec.keep_s} s: wanted {HOUR_S} (an hour) to {MAX_S}"
        )
    if not 0 <= spec.buffer_s <= MAX_S:
        raise PayloadError(f"rows are kept for {spec.buffer_s} s longer: wanted 0 to {MAX_S}")


# --- keeping them ------------------------------------------------------------------------------


class PolicyStore:
    """The policies of one data directory. Its methods block, and may be called from any thread.

    Args:
        state_dir: The folder `.arc`. The file is made when missing, for its owner alone.
        clock: For the times of changes.
        busy_timeout_s: How long to wait for other processes.

    Raises:
        StorageError: the file cannot be opened, or is not one that this version reads.
    """

    def __init__(
        self, state_dir: Path, clock: Clock | None = None, busy_timeout_s: float = 10.0
    ) -> None:
        self.path = state_dir / "retention.db"
        self._clock = clock or SystemClock()
        # Guards the connection: one transaction at a time, from BEGIN to COMMIT.
        self._lock = threading.Lock()
        self._connection = sqlite.open_private(
            self.path, f"policies {self.path}", _FORMAT, _CREATE, busy_timeout_s
        )

    def close(self) -> None:
        """Give the file back. No method may be called afterwards."""
        with self._lock:
            self._connection.close()

    def policies(self) -> list[Policy]:
        """All policies, by database, that of all its measurements first.

        Raises:
            StorageError: the file cannot be read.
        """
        with self._lock, self._refusals():
            return [self._policy(row) for row in self._connection.execute(_LIST).fetchall()]

    def get(self, policy_id: int) -> Policy:
        """One policy.

        Raises:
            NoSuchPolicyError: there is none of this number.
            StorageError: the file cannot be read.
        """
        with self._lock, self._refusals():
            return self._read(policy_id)

    def create(self, spec: PolicySpec) -> Policy:
        """Add a policy.

        Raises:
            PayloadError: it makes no sense.
            PolicyExistsError: its name, or the rows that it is for, have one.
            StorageError: the file cannot be written.
        """
        check(spec)
        now_us = self._clock.now_us()
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            self._check_free(spec, None)
            row = (*msgspec.structs.astuple(spec), now_us, now_us)
            number = self._connection.execute(_INSERT, row).lastrowid
            assert number is not None
            return self._read(number)

    def update(self, policy_id: int, **changes: Any) -> Policy:
        """Change fields of a policy's `PolicySpec`.

        Raises:
            NoSuchPolicyError, PayloadError, PolicyExistsError, StorageError: as `get`, `create`.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            spec = msgspec.structs.replace(self._read(policy_id).spec, **changes)
            check(spec)
            self._check_free(spec, policy_id)
            row = (*msgspec.structs.astuple(spec), self._clock.now_us(), policy_id)
            self._connection.execute(_UPDATE, row)
            return self._read(policy_id)

    def remove(self, policy_id: int) -> None:
        """Forget a policy and its runs; rows are kept from then on.

        Raises:
            NoSuchPolicyError: there is none of this number.
            StorageError: the file cannot be written.
        """
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            self._read(policy_id)
            self._connection.execute("DELETE FROM policies WHERE id = ?", (policy_id,))
            self._connection.execute("DELETE FROM executions WHERE policy_id = ?", (policy_id,))

    def note(self, outcome: Outcome) -> None:
        """Remember a run.

        Raises:
            StorageError: the file cannot be written.
        """
        number, status = outcome.policy_id, "completed" if outcome.error is None else "failed"
        row = (number, outcome.at_us, status, outcome.rows, outcome.cutoff_us, outcome.took_ms)
        with self._lock, self._refusals(), sqlite.transaction(self._connection):
            self._connection.execute(_INSERT_EXECUTION, (*row, outcome.error))
            self._connection.execute(_FORGET, (number, number, MAX_EXECUTIONS))

    def executions(self, policy_id: int, limit: int) -> list[Execution]:
        """The latest runs of a policy that were remembered, the newest first.

        Raises:
            NoSuchPolicyError: there is none of this number.
            StorageError: the file cannot be read.
        """
        with self._lock, self._refusals():
            self._read(policy_id)
            rows = self._connection.execute(_EXECUTIONS, (policy_id, limit)).fetchall()
        return [Execution(*row) for row in rows]

    def _read(self, policy_id: int) -> Policy:
        row = self._connection.execute(_GET, (policy_id,)).fetchone()
        if row is None:
            raise NoSuchPolicyError(f"retention policy {policy_id} not found")
        return self._policy(row)

    def _policy(self, row: tuple[Any, ...]) -> Policy:
        number, name, database, measurement, keep_s, buffer_s, active, created, updated, last = row
        spec = PolicySpec(name, database, measurement, keep_s, buffer_s, bool(active))
        found = last and self._connection.execute(_EXECUTION, (last,)).fetchone()
        return Policy(number, spec, created, updated, Execution(*found) if found else None)

    def _check_free(self, spec: PolicySpec, policy_id: int | None) -> None:
        """Refuse a name or a target that another policy has."""
        for row in self._connection.execute(_LIST).fetchall():
            other = self._policy(row)
            if other.id == policy_id:
                continue
            if other.spec.name == spec.name:
                raise PolicyExistsError(f"policy {other.id} has the name {spec.name!r} already")
            target = (other.spec.database, other.spec.measurement)
            if target == (spec.database, spec.measurement):
                raise PolicyExistsError(
                    f"policy {other.id}, {other.spec.name!r}, is for {target_name(spec)} already"
                )

    def _refusals(self) -> contextlib.AbstractContextManager[None]:
        return sqlite.refusals(f"policies {self.path}")


def target_name(spec: PolicySpec) -> str:
    """Whose rows a policy is for, in words."""
    if spec.measurement is None:
        return f"database {spec.database!r}"
    return f"measurement {spec.measurement!r} of database {spec.database!r}"


# --- applying them -----------------------------------------------------------------------------


class Outcome(msgspec.Struct):
    """What a run of a policy has done, or would do.

    Attributes:
        policy_id: Its number.
        policy_name: Its name.
        at_us: When it began, microseconds since 1970-01-01T00:00Z.
        cutoff_us: Rows before it go.
        dry_run: Nothing was changed.
        rows: That are gone.
        files_removed: Files that held nothing else.
        files_rewritten: Files that hold the rest now under new names.
        measurements: Of which rows are gone.
        took_ms: How long it took.
        error: What went wrong with a table; the others were done.
    """

    policy_id: int
    policy_name: str
    at_us: int
    cutoff_us: int
    dry_run: bool
    rows: int = 0
    files_removed: int = 0
    files_rewritten: int = 0
    measurements: list[str] = []
    took_ms: float = 0.0
    error: str | None = None


class Retention:
    """Applies policies. Blocks; for one thread, under the lock of `ingest.turn`.

    Args:
        catalog: Of the data directory.
        policies: Of the same.
        deleter: Takes rows out of tables.
        clock: By which rows are over their time.
    """

    def __init__(
        self, catalog: Catalog, policies: PolicyStore, deleter: Deleter, clock: Clock | None = None
    ) -> None:
        self._catalog = catalog
        self._policies = policies
        self._deleter = deleter
        self._clock = clock or SystemClock()

    def run_all(self) -> list[Outcome]:
        """Apply every policy that is active; what took nothing away is not remembered.

        Raises:
            StorageError: the policies or the catalog cannot be read or written.
        """
        active = [policy for policy in self._policies.policies() if policy.spec.is_active]
        outcomes = [self._apply(policy, dry_run=False) for policy in active]
        for outcome in outcomes:
            if outcome.rows or outcome.error is not None:
                self._policies.note(outcome)
        return outcomes

    def run(self, policy: Policy, *, dry_run: bool) -> Outcome:
        """Apply one policy, active or not; remembered unless it is a dry run.

        Raises:
            StorageError: the policies or the catalog cannot be read or written.
        """
        outcome = self._apply(policy, dry_run=dry_run)
        if not dry_run:
            self._policies.note(outcome)
        return outcome

    def _apply(self, policy: Policy, *, dry_run: bool) -> Outcome:
        now_us, started_s = self._clock.now_us(), time.monotonic()
        cutoff_us = policy.cutoff_us(now_us)
        outcome = Outcome(policy.id, policy.spec.name, now_us, cutoff_us, dry_run)
        condition = Condition(end_us=cutoff_us)
        for table in self._tables(policy):
            try:
                plan = self._deleter.survey(table, condition)
                if plan.files:
                    outcome.measurements.append(table.measurement)
                    self._count(outcome, plan, dry_run)
                if not dry_run:
                    self._deleter.vacuum(table)
            except StorageError as error:
                outcome.error = outcome.error or f"{table.database}.{table.measurement}: {error}"
        outcome.took_ms = round((time.monotonic() - started_s) * 1000, 3)
        return outcome

    def _count(self, outcome: Outcome, plan: Plan, dry_run: bool) -> None:
        if dry_run:
            outcome.rows += plan.rows
            outcome.files_removed += len(plan.whole)
            outcome.files_rewritten += len(plan.partial)
        else:
            done = Deleted()
            try:
                self._deleter.carry_out(plan, done)
            finally:
                outcome.rows += done.rows
                outcome.files_removed += done.files_removed
                outcome.files_rewritten += done.files_rewritten

    def _tables(self, policy: Policy) -> list[TableId]:
        """The tables that a policy is for."""
        spec = policy.spec
        tables = [entry.table for entry in self._catalog.tables()]
        mine = [table for table in tables if table.database == spec.database]
        if spec.measurement is not None:
            return [table for table in mine if table.measurement == spec.measurement]
        own = {
            other.spec.measurement
            for other in self._policies.policies()
            if other.spec.database == spec.database
        }
        return [table for table in mine if table.measurement not in own]


def open_policies(data_dir: str | os.PathLike[str]) -> PolicyStore:
    """The policies of a data directory.

    Raises:
        StorageError: as `PolicyStore`.
    """
    return PolicyStore(Path(data_dir) / ".arc")
