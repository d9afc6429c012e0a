"""A snapshot of a table as a view that DuckDB runs. Pure: text in, text out.

In: a `Snapshot`. Out: SQL that reads exactly its files, each column in the type of the table,
null where a file lacks it, whatever else the files hold. The types are given, so that no file
is opened before the query asks for it.

A view is a union of parts: the files, and an Arrow table of the rows that are in no file yet, with
the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ingest.query.snapshots import Snapshot

#: How rows that are not in a file have what SQL calls so. Columns of other types, which others have
#: added to a table, are not in them.
_ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.utf8(),
    "BOOLEAN": pa.bool_(),
    "BLOB": pa.binary(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
}

_GLOB = str.maketrans({"[": "[[]", "*": "[*]", "?": "[?]"})


def identifier(name: str) -> str:
    """A name as SQL has it, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string as SQL has it, quoted."""
    return "'" + text.replace("'", "''") + "'"


def exact_path(path: str) -> str:
    """A path that DuckDB, to which every path is a pattern, takes for this file alone."""
    return path.translate(_GLOB)


def empty_table(snapshot: Snapshot) -> pa.Table:
    """No rows, in the types that their table has."""
    return _schema(snapshot, frozenset(snapshot.columns)).empty_table()


def fresh_table(snapshot: Snapshot, batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Rows that are in no file, in the types that their table has by now.

    Args:
        snapshot: Of the table, taken after the rows.
        batches: At least one. One that lacks a column, or has it as integers from before it became
            double, is brought into line; nothing else is copied.
    """
    there = frozenset[str]().union(*[batch.schema.names for batch in batches])
    schema = _schema(snapshot, there)
    return pa.Table.from_batches([_conformed(batch, schema) for batch in batches], schema)


def _schema(snapshot: Snapshot, names: frozenset[str]) -> pa.Schema:
    return pa.schema(
        [
            (name, _ARROW_TYPES[kind])
            for name, kind in snapshot.columns.items()
            if name in names and kind in _ARROW_TYPES
        ]
    )


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if batch.schema.equals(schema):
        return batch
    there = set(batch.schema.names)
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in there
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def view_of(snapshot: Snapshot, fresh: str = "", fresh_columns: Sequence[str] = ()) -> str:
    """The SELECT that is a table at one version.

    Args:
        snapshot: That version.
        fresh: Name of the table that `fresh_table` made, as SQL has it; "": there is none.
        fresh_columns: Those that it has.
    """
    parts = [_files_of(snapshot)] if snapshot.files else []
    if fresh:
        parts.append(_fresh_of(snapshot, fresh, frozenset(fresh_columns)))
    return "\nUNION ALL BY NAME\n".join(parts or [_nothing(snapshot)])


def _files_of(snapshot: Snapshot) -> str:
    paths = ", ".join(literal(exact_path(file.path)) for file in snapshot.files)
    columns = ", ".join(
        f"{literal(name)}: {{name: {literal(name)}, type: {literal(kind)}, default_value: NULL}}"
        for name, kind in snapshot.columns.items()
    )
    # No hive_partitioning: a folder called "a=b" above the data directory is no column.
    return (
        f"SELECT * FROM read_parquet([{paths}], schema = MAP {{{columns}}}, "
        "hive_partitioning = false)"
    )


def _fresh_of(snapshot: Snapshot, fresh: str, there: frozenset[str]) -> str:
    columns = ", ".join(
        identifier(name) if name in there else f"NULL::{kind} AS {identifier(name)}"
        for name, kind in snapshot.columns.items()
    )
    return f"SELECT {columns} FROM {fresh}"


def _nothing(snapshot: Snapshot) -> str:
    columns = ", ".join(
        f"NULL::{kind} AS {identifier(name)}" for name, kind in snapshot.columns.items()
    )
    return f"SELECT {columns} WHERE false"
