"""What the columns of a measurement are, and how a batch may change that. Pure.

In: a `TableSchema` and a `ColumnBatch`. Out: the batch in the types of the table, and the
schema that the table needs for it. Nothing is stored and nothing is locked here; the catalog
agrees on schemas between processes.

Types only ever widen, and a value that was accepted always fits every later schema:
an int64 column becomes float64 only while all its values are exact in float64, and the first
value above 2**53 marks it `wide`, after which it stays int64 for good. A column of nothing but NaN
is null where text is stored, since pandas sends missing strings so.

    not there ─► int64 ─► int64, wide          not there ─► utf8 ─► utf8, a tag
                   └────► float64 ◄─ not there             bool, binary ◄─ not there

So a batch that was accepted under an older schema needs no second look under a newer one, only
`cast`. The one value that is not kept digit by digit is an unsigned integer above 2**63 - 1: a
column that is float64 already takes the nearest float64, every other column refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import (
    ClientError,
    InvalidNameError,
    LimitError,
    TypeConflictError,
    ValueTypeError,
)
from ingest.limits import MAX_COLUMN_NAME_BYTES
from ingest.paths import check_measurement

_MAX_INT64 = 2**63 - 1

#: How much of a text a message repeats, in characters.
_SHOWN_CHARACTERS = 40


class ColumnSpec(msgspec.Struct, frozen=True, gc=False):
    """How one column is stored.

    Attributes:
        type: The stored type.
        is_tag: Identifies a series; comes before the fields in a file.
        wide: int64 only: may hold values that float64 cannot.
    """

    type: ColumnType
    is_tag: bool = False
    wide: bool = False


class TableSchema(msgspec.Struct, frozen=True):
    """Columns of one table, the time left out.

    Attributes:
        columns: By name, in the order in which they were first seen.
        version: Grows with every change; two schemas of one table with the same version are
            the same.
    """

    columns: dict[str, ColumnSpec]
    version: int = 0

    def stored_order(self) -> list[str]:
        """Column names as files hold them: tags first, then fields, each as first seen."""
        tags = [name for name, spec in self.columns.items() if spec.is_tag]
        return tags + [name for name, spec in self.columns.items() if not spec.is_tag]


class Fit(msgspec.Struct, frozen=True, gc=False):
    """What became of a batch.

    Attributes:
        batch: In the types that the table has, or gets with `schema`. The batch that came in
            when nothing had to be cast.
        schema: What the table needs before it can hold the batch; None when the present one
            does. Its version is a proposal: versions are given by the catalog.
    """

    batch: ColumnBatch
    schema: TableSchema | None = None


#: The schema of a table that nobody wrote to yet. Any batch changes it, even one that brings
#: nothing but times, so that the catalog knows every table that has a row.
NO_TABLE = TableSchema({})


def fit(schema: TableSchema, batch: ColumnBatch, max_columns: int) -> Fit:
    """Bring a batch into the types of its table.

    Args:
        schema: The table's, or `NO_TABLE`.
        batch: Not changed; the result shares the columns that need no cast.
        max_columns: How many columns a table may have, the time included.

    Raises:
        TypeConflictError: a value that the stored type of its column cannot hold.
        ValueTypeError: a tag that is not text.
        InvalidNameError: a new table or column whose name cannot be stored.
        LimitError: too many columns.
    """
    # HOT, once per batch. Most batches bring columns just as they are stored, which one look at
    # each tells: 1.3 -> 0.5 µs for 5 columns (benchmarks/bench_schema.py -k stored).
    # Twin: widen() and cast(); equality: tests/test_schema.py.
    stored = schema.columns
    for name, column in batch.columns.items():
        spec = stored.get(name)
        if spec is None or column.type is not spec.type or (column.wide and not spec.wide):
            return _fit_any(schema, batch, max_columns)
    for name in batch.tags:
        spec = stored.get(name)
        if spec is not None and not spec.is_tag:
            return _fit_any(schema, batch, max_columns)
    return Fit(batch) if schema.version else _fit_any(schema, batch, max_columns)


def _fit_any(schema: TableSchema, batch: ColumnBatch, max_columns: int) -> Fit:
    needed = widen(schema, batch, max_columns)
    return Fit(cast(needed, batch), None if needed is schema else needed)


def widen(schema: TableSchema, batch: ColumnBatch, max_columns: int) -> TableSchema:
    """Tell which schema a table needs to hold a batch. Arguments and errors: see `fit`.

    Returns:
        `schema` itself when it suffices, otherwise one with the next version.
    """
    if schema.version == 0:
        check_measurement(batch.measurement)
    changes: dict[str, ColumnSpec] = {}
    for name in batch.columns:
        spec = schema.columns.get(name)
        needed = _spec_of(batch, name) if spec is None else _widened(batch, name, spec)
        if needed is not spec:
            changes[name] = needed
    if not changes and schema.version:
        return schema
    columns = schema.columns | changes
    if len(columns) > len(schema.columns):
        _check_case(batch.measurement, columns)
        _check_count(batch.measurement, len(columns) + 1, max_columns)
    return TableSchema(columns, schema.version + 1)


def refusals(schema: TableSchema, batch: ColumnBatch, max_columns: int) -> dict[str, ClientError]:
    """Every column that keeps a table from holding a batch, where `fit` names the first only.

    Columns are let in in their order: of names that differ in capitals only, and of columns over
    the limit, the later are refused. Arguments: see `fit`.

    Returns:
        Errors by column; without these columns `fit` takes the batch.

    Raises:
        InvalidNameError: the table itself has a name that cannot be stored.
    """
    if schema.version == 0:
        check_measurement(batch.measurement)
    found: dict[str, ClientError] = {}
    folded = {name.lower(): name for name in (TIME_COLUMN, *schema.columns)}
    added = len(schema.columns) + 1
    for name in batch.columns:
        spec = schema.columns.get(name)
        try:
            if spec is not None:
                _widened(batch, name, spec)
                continue
            _spec_of(batch, name)
            _check_case(batch.measurement, [folded.get(name.lower(), name), name])
            _check_count(batch.measurement, added + 1, max_columns)
        except ClientError as error:
            found[name] = error
            continue
        folded[name.lower()] = name
        added += 1
    return found


def cast(schema: TableSchema, batch: ColumnBatch) -> ColumnBatch:
    """Turn the columns of a batch into the types of a schema that accepts it.

    Args:
        schema: What `widen` returned for the batch, or any later schema of the table.
        batch: Not changed.

    Returns:
        `batch` itself when every column has its stored type. A cast column has new values and
        the validity of the old one.
    """
    differing = {
        name: column
        for name, column in batch.columns.items()
        if column.type is not schema.columns[name].type
    }
    if not differing:
        return batch
    columns = dict(batch.columns)
    for name, column in differing.items():
        if schema.columns[name].type is ColumnType.UTF8:  # nothing but NaN: null throughout
            del columns[name]
        else:
            values = column.values.astype(np.float64)
            columns[name] = Column(ColumnType.FLOAT64, values, None, column.validity)
    return msgspec.structs.replace(batch, columns=columns)


def _spec_of(batch: ColumnBatch, name: str) -> ColumnSpec:
    """How a column that is new to the table is stored."""
    column, is_tag = batch.columns[name], name in batch.tags
    _check_name(batch.measurement, name)
    if is_tag:
        _require_text(batch, name)
    if column.type is ColumnType.UINT64:
        raise _conflict(batch, name, ColumnType.INT64)
    return ColumnSpec(column.type, is_tag, column.wide)


def _widened(batch: ColumnBatch, name: str, spec: ColumnSpec) -> ColumnSpec:
    """How a column of the table is stored from now on: `spec` itself when nothing changes."""
    column, is_tag = batch.columns[name], name in batch.tags
    if is_tag and not (spec.type is ColumnType.UTF8 and _is_nan_throughout(column)):
        _require_text(batch, name)
    if column.type is spec.type:
        if spec.wide >= column.wide and spec.is_tag >= is_tag:
            return spec
        return ColumnSpec(spec.type, spec.is_tag or is_tag, spec.wide or column.wide)
    if spec.type is ColumnType.FLOAT64:
        exact_int = column.type is ColumnType.INT64 and not column.wide
        if exact_int or column.type is ColumnType.UINT64:
            return spec
    elif spec.type is ColumnType.INT64 and column.type is ColumnType.FLOAT64 and not spec.wide:
        return ColumnSpec(ColumnType.FLOAT64)
    elif spec.type is ColumnType.UTF8 and _is_nan_throughout(column):
        return spec
    raise _conflict(batch, name, spec.type)


def _is_nan_throughout(column: Column) -> bool:
    """Whether a column holds no number: pandas 3 sends a chunk of missing strings so."""
    if column.type is not ColumnType.FLOAT64:
        return False
    missing = np.isnan(column.values)
    return bool(missing.all() if column.validity is None else missing[column.validity].all())


def _check_name(measurement: str, name: str) -> None:
    where = f"measurement {measurement!r}: column {name[:_SHOWN_CHARACTERS]!r}"
    if name == TIME_COLUMN:
        raise InvalidNameError(f"{where} is the time of the row")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{where}: character {error.start} is a surrogate") from error
    if "\0" in name:  # Arrow hands names on as C has them, which end there
        raise InvalidNameError(f"{where}: U+0000 cannot be in a column's name")
    if not 1 <= size <= MAX_COLUMN_NAME_BYTES:
        raise InvalidNameError(
            f"{where}: a name of {size} bytes, wanted 1 to {MAX_COLUMN_NAME_BYTES}"
        )


def _check_case(measurement: str, columns: Iterable[str]) -> None:
    """Refuse names that differ only in case: no reader of Delta tables keeps them apart."""
    seen = {TIME_COLUMN: TIME_COLUMN}
    for name in columns:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise InvalidNameError(
                f"measurement {measurement!r}: column {name[:_SHOWN_CHARACTERS]!r} differs from "
                f"column {other[:_SHOWN_CHARACTERS]!r} in nothing but capitals"
            )


def _check_count(measurement: str, columns: int, max_columns: int) -> None:
    if columns > max_columns:
        what = f"columns of measurement {measurement!r}, the time included"
        raise LimitError(what, columns, max_columns, "ARC_MAX_COLUMNS")


def _require_text(batch: ColumnBatch, name: str) -> None:
    column = batch.columns[name]
    if column.type is not ColumnType.UTF8:
        row = column.first_present_row()
        found = f"{column.type} {_shown(column, row)}"
        raise ValueTypeError(batch.measurement, name, row, found, "utf8, since it is a tag")


def _conflict(batch: ColumnBatch, name: str, stored: ColumnType) -> TypeConflictError:
    """The refusal of a column, worded around the first value that cannot be stored."""
    column, why = batch.columns[name], ""
    row = column.first_present_row()
    if column.type is ColumnType.UINT64:
        row = int(np.argmax(column.values > _MAX_INT64))
        why = "whose largest value is 2**63 - 1" if stored is ColumnType.INT64 else ""
    elif column.type is ColumnType.INT64 and stored is ColumnType.FLOAT64:
        inexact = (column.values > MAX_EXACT_INT) | (column.values < -MAX_EXACT_INT)
        row, why = int(np.argmax(inexact)), "which holds integers up to 2**53 exactly"
    elif column.type is ColumnType.FLOAT64 and stored is ColumnType.INT64:
        why = "with values above 2**53, which float64 cannot hold exactly"
    found = f"{column.type} {_shown(column, row)}"
    return TypeConflictError(batch.measurement, name, row, found, stored, why)


def _shown(column: Column, row: int) -> str:
    """One value for a message, cut when it is long."""
    if column.offsets is None:
        return str(column.values[row].item())
    start, end = int(column.offsets[row]), int(column.offsets[row + 1])
    if column.type is ColumnType.BINARY:
        return f"of {end - start} bytes"
    text = column.values[start : min(end, start + 4 * _SHOWN_CHARACTERS)].tobytes()
    shown = text.decode(errors="ignore")
    return repr(shown) if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]!r}…"
