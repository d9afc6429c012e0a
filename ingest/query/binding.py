"""A snapshot of a table as a view that DuckDB runs. Pure: text in, text out.

In: a `Snapshot`. Out: SQL that reads exactly its files, each column in the type of the table,
null where a file lacks it, whatever else the files hold. The types are given, so that no file
is opened before the query asks for it.

A view is a union of parts. The files are the only part today; rows that are in no file yet are
another one, with the same columns.
"""

from __future__ import annotations

from ingest.query.snapshots import Snapshot

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


def view_of(snapshot: Snapshot) -> str:
    """The SELECT that is a table at one version."""
    parts = [_files_of(snapshot)] if snapshot.files else []
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


def _nothing(snapshot: Snapshot) -> str:
    columns = ", ".join(
        f"NULL::{kind} AS {identifier(name)}" for name, kind in snapshot.columns.items()
    )
    return f"SELECT {columns} WHERE false"
