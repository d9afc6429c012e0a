"""Which rows the tables can take, which not, and why. Pure.

In: batches of a request, and the schemas of the tables that they are for. Out: batches that
`schema.fit` takes one after another, in the types of their tables, and the rows that are left
over, each with the error that says what is wrong with it. A row is never dropped, changed or
given another time: those that go on and those that are refused are all that came.

First come, first served: what a row adds to a table counts for every row after it. Of a batch
that its table does not take, the columns in the way are found in one pass. A caller whose format
has another place for them may move them there (`demote`); else the rows that have a value in one
are refused, or, where only some values of it are the trouble, the rows with those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.batch_rows import keep_rows
from ingest.columns import MAX_EXACT_INT, Column, ColumnBatch, ColumnType
from ingest.errors import ClientError, LimitError, PayloadError, TypeConflictError, ValueTypeError
from ingest.limits import Limits
from ingest.paths import HOUR_US, QUARANTINE
from ingest.schema import NO_TABLE, ColumnSpec, TableSchema, fit, refusals

#: Takes a batch and names of its columns, and returns the batch without those of them that it has
#: another place for.
Demote: TypeAlias = Callable[[ColumnBatch, Collection[str]], ColumnBatch]

_MAX_INT64 = 2**63 - 1


class RefusedRows(msgspec.Struct, frozen=True):
    """Rows of one batch that its table cannot take, all for the same reason.

    Attributes:
        measurement: As the batch has it; maybe a name that cannot be stored.
        rows: int64, shape (refused rows,), ascending: their places in the batch.
        error: As for a request of the whole batch: it names the first of them.
        source: The batch, as it came.
        batch_index: Its place in the request.
    """

    measurement: str
    rows: NDArray[np.int64]
    error: ClientError
    source: ColumnBatch
    batch_index: int = 0

    @property
    def batch(self) -> ColumnBatch:
        """The refused rows as a batch, made anew at each call."""
        kept = np.zeros(self.source.num_rows, dtype=np.bool_)
        kept[self.rows] = True
        return keep_rows(self.source, kept)


class Sifted(msgspec.Struct, frozen=True):
    """What became of the batches of a request.

    Attributes:
        batches: What goes on, in the order in which it came and in the types of its tables.
        refused: What does not.
    """

    batches: list[ColumnBatch]
    refused: list[RefusedRows]


def check_measurements(batches: Sequence[ColumnBatch]) -> None:
    """Refuse rows for the table that holds what others refused.

    Raises:
        PayloadError: a batch is for it.
    """
    for batch in batches:
        if batch.measurement == QUARANTINE:
            raise PayloadError(
                f"measurement {QUARANTINE!r}: holds the rows that other tables refused, "
                "and cannot be written to"
            )


def sift(
    batches: Sequence[ColumnBatch],
    schemas: Mapping[str, TableSchema],
    limits: Limits,
    demote: Demote | None = None,
) -> Sifted:
    """Part the rows that their tables take from those that they do not.

    Args:
        batches: Of one request and one database. Not changed.
        schemas: Of the tables that exist, by measurement.
        limits: How many columns a table may have, and over how many hours the rows of one
            measurement may go.
        demote: What to try with columns that are in the way, before rows are refused.
    """
    sieve = Sieve(lambda measurement: schemas.get(measurement, NO_TABLE), limits)
    sifted = Sifted([], [])
    for index, batch in enumerate(batches):
        taken, refused = sieve.sift(batch, demote)
        if taken is not None:
            sifted.batches.append(taken)
        sifted.refused.extend(msgspec.structs.replace(part, batch_index=index) for part in refused)
    return sifted


class Sieve:
    """The tables of a database, as the rows of one request change them.

    Nothing is kept of the rows but the hours that they lie in.

    Args:
        schema_of: Schema of the table of a measurement, `NO_TABLE` where there is none. Asked
            once for each.
        limits: See `sift`.
        spare_tables: How many tables the database may yet get.
    """

    def __init__(
        self,
        schema_of: Callable[[str], TableSchema],
        limits: Limits,
        spare_tables: int = sys.maxsize,
    ) -> None:
        self._schema_of = schema_of
        self._limits = limits
        self._spare_tables = spare_tables
        self._all_spare_tables = spare_tables
        self._stored: dict[str, TableSchema] = {}
        self._schemas: dict[str, TableSchema] = {}
        self._hours: dict[str, set[int]] = {}

    def emptied(self) -> Sieve:
        """A sieve over the tables as they were before any row was taken."""
        stored = self._stored
        schema_of = self._schema_of
        return Sieve(
            lambda name: stored[name] if name in stored else schema_of(name),
            self._limits,
            self._all_spare_tables,
        )

    def schema(self, measurement: str) -> TableSchema:
        """The schema of a table, with what the rows that were taken so far added to it."""
        known = self._schemas.get(measurement)
        if known is None:
            known = self._stored[measurement] = self._schema_of(measurement)
            self._schemas[measurement] = known
        return known

    def take(self, batches: Sequence[ColumnBatch]) -> list[ColumnBatch]:
        """Take batches, all or none.

        Returns:
            They, in the types that their tables have by now.

        Raises:
            ClientError: a table cannot take one of them; nothing has changed.
        """
        names = {batch.measurement for batch in batches}
        before = {name: (self.schema(name), self._hours.get(name, set())) for name in names}
        spare_tables = self._spare_tables
        try:
            return [self._take(batch) for batch in batches]
        except ClientError:
            for name, (schema, hours) in before.items():
                self._schemas[name], self._hours[name] = schema, hours
            self._spare_tables = spare_tables
            raise

    def sift(
        self, batch: ColumnBatch, demote: Demote | None = None
    ) -> tuple[ColumnBatch | None, list[RefusedRows]]:
        """Take what can be taken of one batch.

        Returns:
            The rows that were taken, None where there are none, and those that were not.
        """
        try:
            return self._take(batch), []
        except ClientError as error:
            whole = error
        moved = self._demoted(batch, demote)
        try:
            return self._take(moved), []
        except ClientError:
            left, owners, errors = self._split(moved)
        taken = None
        try:
            taken = None if left is None else self._take(left)
        except ClientError as error:  # hours, a name, or a table too many: no column's fault
            owners[owners < 0] = len(errors)
            errors = [*errors, error]
        return taken, _refused(batch, owners, errors or [whole])

    def _take(self, batch: ColumnBatch) -> ColumnBatch:
        """Take a batch whole; nothing has changed if that fails."""
        measurement = batch.measurement
        check_measurements([batch])
        stored = self.schema(measurement)
        is_new = stored.version == 0
        fitted = fit(stored, batch, self._limits.max_columns)
        if is_new and self._spare_tables < 1:
            what = f"measurements of the database, {measurement!r} among them"
            raise LimitError(what, 1, self._spare_tables, "ARC_MAX_MEASUREMENTS")
        self._hours[measurement] = self._hours_with(batch)
        self._spare_tables -= is_new
        self._schemas[measurement] = fitted.schema or stored
        return fitted.batch

    def _hours_with(self, batch: ColumnBatch) -> set[int]:
        """The hours of a measurement, with those of one more batch."""
        known, found = self._hours.get(batch.measurement, set()), set(_hours(batch).tolist())
        hours = known if found <= known else known | found
        if len(hours) > self._limits.max_hours:
            what = f"hours covered by measurement {batch.measurement!r}"
            raise LimitError(what, len(hours), self._limits.max_hours, "ARC_MAX_HOURS")
        return hours

    def _demoted(self, batch: ColumnBatch, demote: Demote | None) -> ColumnBatch:
        """A batch without the columns in the way that have another place.

        That place is a column as well. Where the table has no room for it, every column that is
        new to the table goes there, so that there is.
        """
        schema, limit = self.schema(batch.measurement), self._limits.max_columns
        if demote is None:
            return batch
        try:
            found = refusals(schema, batch, limit)
            if not found:
                return batch
            moved = demote(batch, found.keys())
            if any(isinstance(e, LimitError) for e in refusals(schema, moved, limit).values()):
                moved = demote(batch, found.keys() | (batch.columns.keys() - schema.columns.keys()))
        except ClientError:  # of the table's name
            return batch
        return moved

    def _split(
        self, batch: ColumnBatch
    ) -> tuple[ColumnBatch | None, NDArray[np.int64], list[ClientError]]:
        """The rows of a batch for which no column is in the way, and what is for the others.

        Returns:
            The rows, None where there are none; and for each row of the batch the place in the
            list of the error that is at fault, -1 for none.
        """
        owners = np.full(batch.num_rows, -1, dtype=np.int64)
        schema = self.schema(batch.measurement)
        try:
            found = refusals(schema, batch, self._limits.max_columns)
        except ClientError:  # of the table's name
            return batch, owners, []
        for place, (name, error) in enumerate(found.items()):
            at_fault = _at_fault(batch.columns[name], schema.columns.get(name), error)
            owners[at_fault & (owners < 0)] = place
        kept = owners < 0
        left = None
        if kept.any():
            left = keep_rows(self._partly_cast(batch, found.keys()), kept)
        return left, owners, list(found.values())

    def _partly_cast(self, batch: ColumnBatch, refused: Collection[str]) -> ColumnBatch:
        """A batch whose columns are in the types of their table, but for those in the way.

        So that a value becomes the same whichever rows it stands among: uint64 among float64.
        """
        rest = {name: column for name, column in batch.columns.items() if name not in refused}
        batch_of_rest = msgspec.structs.replace(batch, columns=rest)
        schema, limit = self.schema(batch.measurement), self._limits.max_columns
        fitted = fit(schema, batch_of_rest, limit).batch.columns
        columns = {
            name: fitted.get(name, column)
            for name, column in batch.columns.items()
            if name in refused or name in fitted
        }
        return msgspec.structs.replace(batch, columns=columns)


def _hours(batch: ColumnBatch) -> NDArray[np.int64]:
    """The hours that rows lie in, each once, counted since 1970. Years 1900 to 2262 are 3.2 M."""
    first, last = (int(bound // HOUR_US) for bound in batch.range_us)
    if first == last:
        return np.array([first])
    seen = np.zeros(last - first + 1, dtype=np.bool_)
    seen[batch.time_us // HOUR_US - first] = True
    return np.flatnonzero(seen) + first


def _at_fault(column: Column, spec: ColumnSpec | None, error: ClientError) -> NDArray[np.bool_]:
    """In which rows a refused column has the value that it is refused for."""
    rows = len(column.values) if column.offsets is None else len(column.offsets) - 1
    present = np.ones(rows, dtype=np.bool_) if column.validity is None else column.validity
    if not isinstance(error, TypeConflictError | ValueTypeError):
        return present
    stored = None if spec is None else spec.type
    if column.type is ColumnType.FLOAT64 and stored is ColumnType.UTF8:  # NaN is null there
        return present & ~np.isnan(column.values)
    if isinstance(error, ValueTypeError):
        return present
    if column.type is ColumnType.UINT64 and (stored is None or stored is ColumnType.INT64):
        return present & (column.values > _MAX_INT64)
    if column.type is ColumnType.INT64 and stored is ColumnType.FLOAT64:
        return present & ((column.values > MAX_EXACT_INT) | (column.values < -MAX_EXACT_INT))
    return present


def _refused(
    batch: ColumnBatch, owners: NDArray[np.int64], errors: Sequence[ClientError]
) -> list[RefusedRows]:
    """The refused rows of a batch, in one part for each error, in the order of the errors."""
    order = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[order], np.arange(len(errors) + 1))
    return [
        RefusedRows(batch.measurement, order[start:end], error, batch)
        for error, start, end in zip(errors, bounds[:-1], bounds[1:], strict=True)
        if end > start
    ]
