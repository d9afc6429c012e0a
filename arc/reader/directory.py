"""Rows of the tables in a data directory, read from their files, without the daemon.

In: a `Selection`. Out: a table, or batches. The table's log names the files; of these only the ones
whose range of times meets the selection are opened, of these only the row groups that may match are
read, and of these only the columns that are named. Rows that are still in the memory of the daemon
are not here. Nothing is ever written.

Memory, mapping and threads were measured (docs/profiling/2026-11-20-reader.md): files are read, not
mapped, into the default memory pool, by all processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.types as pat
from pyarrow.fs import LocalFileSystem

from arc.reader import names, snapshot
from arc.reader.batches import BatchStream
from arc.reader.errors import ReadError, TableNotFoundError, UsageError
from arc.reader.selection import TIME_COLUMN, Moment, Selection, Value
from arc.reader.snapshot import Snapshot, TableFile

#: Rows that are decoded at once: a row group of the daemon, so that a file stays one chunk.
READ_ROWS = 1 << 20

#: What a stream reads ahead of its reader, so that it holds no more than that beside the row groups
#: that are being decoded. A read holds everything in the end, and leaves it to Arrow.
STREAM_AHEAD = {"batch_readahead": 4, "fragment_readahead": 1}

_TIME_TYPE = pa.timestamp("us", "UTC")


class Directory:
    """A data directory. May be used from any thread.

    Args:
        root: Where.

    Raises:
        UsageError: There is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(f"{root} is no folder")
        self._root = root.absolute()

    def read(self, selection: Selection) -> pa.Table:
        """All rows.

        Raises:
            TableNotFoundError: There is no such table.
            UsageError: A column that there is not, or a condition that does not fit its type.
            ReadError: Log or files cannot be read.
        """
        try:
            return self._read(selection)
        except _GoneError:
            # Taken out of the table since its log was read, for longer than the grace period.
            return self._read(selection)

    def _read(self, selection: Selection) -> pa.Table:
        taken = self._snapshot(selection)
        with _errors(selection):
            return _scanner(taken, selection, READ_ROWS).to_table()

    def stream(self, selection: Selection, batch_rows: int) -> BatchStream:
        """The rows in batches; files are read as the batches are taken.

        Raises:
            TableNotFoundError: There is no such table.
            UsageError: A column that there is not, or a condition that does not fit its type.
            ReadError: The log cannot be read.
        """
        taken = self._snapshot(selection)
        with _errors(selection):
            scanner = _scanner(taken, selection, batch_rows, **STREAM_AHEAD)
            schema = scanner.projected_schema
        return BatchStream(schema, _batches(scanner, selection), batch_rows)

    def _snapshot(self, selection: Selection) -> Snapshot:
        folder = self._root / names.table_dir(selection.database, selection.measurement)
        try:
            return snapshot.take(folder)
        except TableNotFoundError:
            raise TableNotFoundError(
                f"{self._root} has no table {selection.measurement!r} in the database "
                f"{selection.database!r}, or nothing of it is stored yet"
            ) from None


class _GoneError(ReadError):
    """A file that the log named is not there."""


def _batches(scanner: ds.Scanner, selection: Selection) -> Iterator[pa.RecordBatch]:
    with _errors(selection):
        yield from scanner.to_batches()


def _scanner(taken: Snapshot, selection: Selection, batch_rows: int, **ahead: int) -> ds.Scanner:
    for name in selection.columns or ():
        _field(taken.schema, name, selection)
    condition = _condition(taken.schema, selection)
    files = [] if selection.is_empty else taken.files
    chosen = [file for file in files if file.may_have(selection.start_us, selection.end_us)]
    return _dataset(taken.schema, chosen).scanner(
        columns=None if selection.columns is None else list(selection.columns),
        filter=condition,
        batch_size=min(batch_rows, READ_ROWS),
        **ahead,
    )


def _dataset(schema: pa.Schema, files: list[TableFile]) -> ds.Dataset:
    disk, kind = LocalFileSystem(), ds.ParquetFileFormat()
    fragments = [kind.make_fragment(file.path, disk, _guarantee(file)) for file in files]
    return ds.FileSystemDataset(fragments, schema, kind, disk)


def _guarantee(file: TableFile) -> pc.Expression | None:
    """What holds for every row of a file: a condition that follows from it is never computed."""
    if file.min_us is None or file.max_us is None:
        return None
    time = pc.field(TIME_COLUMN)
    return (time >= _time(file.min_us)) & (time <= _time(file.max_us))


# --- conditions --------------------------------------------------------------------------------


def _condition(schema: pa.Schema, selection: Selection) -> pc.Expression | None:
    time, found = pc.field(TIME_COLUMN), []
    if selection.start_us is not None:
        found.append(time >= _time(selection.start_us))
    if selection.end_us is not None:
        found.append(time < _time(selection.end_us))
    for name, values in selection.conditions.items():
        found.append(_one_of(_field(schema, name, selection), values))
    if selection.more is not None:
        found.append(_expression(selection.more))
    if not found:
        return None
    combined = found[0]
    for condition in found[1:]:
        combined = combined & condition
    return combined


def _expression(more: Any) -> pc.Expression:
    if not isinstance(more, pc.Expression):
        raise UsageError(
            f"where: found {type(more).__name__}, wanted for a data directory a mapping of columns "
            "to values, or a pyarrow.compute.Expression"
        )
    return more


def _one_of(field: pa.Field, values: tuple[Value, ...]) -> pc.Expression:
    column = pc.field(field.name)
    present = [_stored(value, field) for value in values if value is not None]
    plain = [value for value in present if value == value]
    condition = column.isin(_array(plain, field))
    if len(plain) < len(present):
        condition = condition | column.is_nan()
    if len(present) < len(values):
        condition = condition | column.is_null()
    return condition


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise UsageError(f"where: column {field.name!r} is {field.type}: {error}") from error


def _stored(value: Value, field: pa.Field) -> Any:
    """A value as one of the column's type.

    Raises:
        UsageError: It is of another kind.
    """
    kind: pa.DataType = field.type
    stored: Any = value
    if isinstance(value, Moment):
        fits, stored = pat.is_timestamp(kind), value.us
    elif isinstance(value, bool):
        fits = pat.is_boolean(kind)
    elif isinstance(value, int):
        fits = pat.is_integer(kind) or pat.is_floating(kind)
        stored = float(value) if pat.is_floating(kind) else value
    elif isinstance(value, float):
        fits = pat.is_floating(kind)
    elif isinstance(value, str):
        fits = pat.is_string(kind)
    else:
        fits = pat.is_binary(kind)
    if not fits:
        raise UsageError(f"where: column {field.name!r} is {kind}, and {value!r} is not")
    return stored


def _time(us: int) -> pa.Scalar:
    return pa.scalar(us, _TIME_TYPE)


def _field(schema: pa.Schema, name: str, selection: Selection) -> pa.Field:
    if name not in schema.names:
        raise UsageError(
            f"{selection.measurement!r} has no column {name!r}; it has {', '.join(schema.names)}"
        )
    return schema.field(name)


@contextmanager
def _errors(selection: Selection) -> Iterator[None]:
    """Give what pyarrow raises our names."""
    try:
        yield
    except FileNotFoundError as error:
        raise _GoneError(f"{selection.measurement!r}: a file is gone: {error}") from error
    except OSError as error:
        raise ReadError(f"{selection.measurement!r}: {error}") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        if selection.more is not None:
            raise UsageError(f"where: {error}") from error
        raise ReadError(f"{selection.measurement!r}: {error}") from error
