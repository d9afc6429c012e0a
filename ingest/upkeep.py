"""What deletes and retention need of a data directory, opened together: a job, from end to end.

In: a data directory, running or not. Out: rows counted, or taken away. Here is what both have in
common, wherever they are asked for: the table must be known, a condition is read by the table's
own columns, and whatever changes something waits for its turn, or rather does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.condition import Condition, parse
from ingest.deletion import OWNER, Deleted, Deleter, Plan
from ingest.errors import ClientError, LimitError, OverloadedError, StorageError
from ingest.paths import TableId, table_dir
from ingest.retention import Outcome, PolicyStore, Retention
from ingest.store import LocalStore
from ingest.table_change import TableChanger
from ingest.turn import my_turn

#: More rows than this, and a delete without any condition, have to be confirmed.
CONFIRM_ROWS = 10_000

#: The rows of one delete. More of them go by smaller ranges of time, each of them a whole.
MAX_ROWS = 1_000_000_000

_STATE_DIR = ".arc"


class NoSuchTableError(ClientError):
    """There is no such table."""

    status_hint = 404
    reason = "not_found"


class ConfirmationError(ClientError):
    """A delete that somebody should think about first."""

    reason = "confirmation"


class StoppedError(OverloadedError):
    """The process ends: what was committed by then stays so, and the rest is as it was."""

    reason = "stopping"


class DeleteOrder(msgspec.Struct, frozen=True):
    """A delete as somebody asks for it.

    Attributes:
        table: Whose rows.
        where: Which, see `ingest.condition`.
        dry_run: Only count.
        confirmed: They know what they do.
    """

    table: TableId
    where: str
    dry_run: bool = True
    confirmed: bool = False


class DeleteResult(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        version: Of the table that was looked at; rows that came into it later, or were still in
            memory, are untouched.
        done: What is gone; of a dry run, what would be.
    """

    version: int
    done: Deleted


class Upkeep:
    """A data directory, open for deletes and retention. Blocks; for one thread.

    Args:
        data_dir: Where the tables live.
        log: Told of what was taken away.
        check: Called again and again during the work; what it raises ends it between two commits.
        clock: By which rows are over their time, and what `now()` means.

    Attributes:
        policies: Of retention.

    Raises:
        StorageError: there is no data directory, or it cannot be used.
    """

    def __init__(
        self,
        data_dir: Path,
        log: FilteringBoundLogger,
        check: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._state_dir = data_dir / _STATE_DIR
        if not self._state_dir.is_dir():
            raise StorageError(f"{data_dir} is no data directory: it has no folder {_STATE_DIR}")
        self._log = log
        self._clock = clock or SystemClock()
        store = LocalStore(data_dir)
        self._deleter = Deleter(store, TableChanger(store, log, self._clock, OWNER), check)
        # It makes no table here, so that its limits do not matter.
        self._catalog = Catalog(self._state_dir / "catalog.db", 1, 1)
        try:
            self.policies = PolicyStore(self._state_dir, self._clock)
        except BaseException:
            self._catalog.close()
            raise

    def close(self) -> None:
        """Give everything back."""
        self.policies.close()
        self._catalog.close()

    # --- delete ------------------------------------------------------------------------------

    def delete(self, order: DeleteOrder) -> DeleteResult:
        """Count rows and, unless it is a dry run, take them away.

        Raises:
            NoSuchTableError: the table is not known.
            PayloadError: the condition cannot be understood.
            ConfirmationError: it takes many rows, or all, and is not confirmed.
            LimitError: it takes more than `MAX_ROWS`.
            BusyError: another one is under way.
            StorageError: the disk refuses.
        """
        condition = self._condition(order)
        if order.dry_run:
            plan = self._deleter.survey(order.table, condition)
            return DeleteResult(plan.version, _planned(plan))
        with my_turn(self._state_dir):
            plan = self._deleter.survey(order.table, condition)
            _admit(order, plan)
            done = self._deleter.carry_out(plan)
            self._vacuum(order.table)
        self._log.info(
            "rows_deleted",
            database=order.table.database,
            measurement=order.table.measurement,
            where=order.where,
            rows=done.rows,
            files_removed=done.files_removed,
            files_rewritten=done.files_rewritten,
        )
        return DeleteResult(plan.version, done)

    def _vacuum(self, table: TableId) -> None:
        """Remove what left the table long ago. What cannot be removed now can wait."""
        try:
            self._deleter.vacuum(table)
        except StorageError as error:
            self._log.warning("old_files_left", table=table_dir(table), error=str(error))

    def _condition(self, order: DeleteOrder) -> Condition:
        table_dir(order.table)  # first of all, since it refuses bad names
        schema = self._catalog.load(order.table)
        if schema is None:
            raise NoSuchTableError(
                f"measurement {order.table.measurement!r} of database "
                f"{order.table.database!r} not found"
            )
        types = {name: column.type for name, column in schema.columns.items()}
        return parse(order.where, types, self._clock.now_us())

    # --- retention ---------------------------------------------------------------------------

    def run_policy(self, policy_id: int, *, dry_run: bool) -> Outcome:
        """Apply one policy, active or not.

        Raises:
            NoSuchPolicyError: there is none of this number.
            BusyError: another one is under way.
            StorageError: policies or catalog cannot be read or written.
        """
        policy = self.policies.get(policy_id)
        with contextlib.nullcontext() if dry_run else my_turn(self._state_dir):
            outcome = self._retention().run(policy, dry_run=dry_run)
        self._tell(outcome)
        return outcome

    def run_policies(self) -> list[Outcome]:
        """Apply all policies that are active.

        Raises:
            BusyError, StorageError: as `run_policy`.
        """
        with my_turn(self._state_dir):
            outcomes = self._retention().run_all()
        for outcome in outcomes:
            self._tell(outcome)
        return outcomes

    def _retention(self) -> Retention:
        return Retention(self._catalog, self.policies, self._deleter, self._clock)

    def _tell(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._log.error("retention_failed", policy=outcome.policy_name, error=outcome.error)
        if outcome.rows and not outcome.dry_run:
            self._log.info(
                "rows_expired",
                policy=outcome.policy_name,
                rows=outcome.rows,
                files_removed=outcome.files_removed,
                files_rewritten=outcome.files_rewritten,
            )


@contextlib.contextmanager
def upkeep(
    data_dir: Path,
    log: FilteringBoundLogger,
    check: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> Iterator[Upkeep]:
    """An `Upkeep`, closed at the end."""
    opened = Upkeep(data_dir, log, check, clock)
    try:
        yield opened
    finally:
        opened.close()


def _planned(plan: Plan) -> Deleted:
    paths = [found.file.path for found in plan.files]
    return Deleted(plan.rows, len(plan.whole), len(plan.partial), paths)


def _admit(order: DeleteOrder, plan: Plan) -> None:
    """Refuse what takes too much."""
    if plan.rows > MAX_ROWS:
        raise LimitError("rows of one delete", plan.rows, MAX_ROWS, "a smaller range of time")
    if order.confirmed:
        return
    if plan.condition == Condition():
        raise ConfirmationError("this deletes every row of the measurement: confirm it")
    if plan.rows > CONFIRM_ROWS:
        raise ConfirmationError(
            f"this deletes {plan.rows} rows, more than {CONFIRM_ROWS}: confirm it"
        )
