"""The tables of a data directory and what they take on disk, as lists show them. Reads only.

In: the catalog and the folder of the tables. Out: one entry a table, with the files that lie in
its hour folders now. What the files hold is not looked at; `table_survey` does that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ingest.catalog import Catalog
from ingest.paths import TableId

#: Folders below that of a table: year, month, day, hour.
_LEVELS = 4


class TableEntry(msgspec.Struct, frozen=True):
    """One table.

    Attributes:
        table: Database and measurement, as the client sent them.
        directory: Below the data directory.
        num_files: Parquet files in its hour folders; 0 while its first rows are in memory.
        size_bytes: Of those.
    """

    table: TableId
    directory: str
    num_files: int
    size_bytes: int


def list_tables(catalog: Catalog, root: Path, database: str | None = None) -> list[TableEntry]:
    """Every table that the catalog has, by name. Blocks: it looks at every file.

    Args:
        catalog: Of the data directory.
        root: The data directory.
        database: Only tables of this one; None: of all.

    Raises:
        StorageError: the catalog cannot be read.
    """
    found = []
    for entry in catalog.tables():
        if database is None or entry.table.database == database:
            sizes = list(_file_sizes(root / entry.directory, _LEVELS))
            found.append(TableEntry(entry.table, entry.directory, len(sizes), sum(sizes)))
    return found


def _file_sizes(folder: Path | str, levels: int) -> Iterator[int]:
    """Bytes of each Parquet file so many levels below a folder, which may be gone by now."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if levels and entry.name.isdecimal():
                    yield from _file_sizes(entry.path, levels - 1)
                elif not levels and entry.name.endswith(".parquet"):
                    yield entry.stat().st_size
    except FileNotFoundError:
        return
