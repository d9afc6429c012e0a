"""Which files a table consists of at one version, as its Delta log says. Reads, never writes.

In: the names of a table. Out: a `Snapshot`, the same for the whole of a query, whatever is
committed meanwhile. Folders are not listed and no file is opened but those of the log.

A table is kept open between queries: whether there is a new version is one look for the name of
the next commit, and only a new version is read, by itself (`update_incremental`).
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deltalake
import msgspec
import pyarrow as pa

from ingest import delta
from ingest.catalog import Catalog
from ingest.columns import TIME_COLUMN, ColumnType
from ingest.delta_folder import add_actions
from ingest.errors import StorageError
from ingest.paths import TableId, table_dir

#: Open tables that are remembered; a list of 10 000 files is some 3 MB.
_MAX_OPEN_TABLES = 512

#: Types of our columns, and of what others may have added, as DuckDB names them.
SQL_TYPES = {
    ColumnType.INT64: "BIGINT",
    ColumnType.UINT64: "UBIGINT",
    ColumnType.FLOAT64: "DOUBLE",
    ColumnType.UTF8: "VARCHAR",
    ColumnType.BOOL: "BOOLEAN",
    ColumnType.BINARY: "BLOB",
}
_TIME_TYPE = "TIMESTAMP WITH TIME ZONE"
_FOREIGN_TYPES = {
    "long": "BIGINT",
    "integer": "INTEGER",
    "short": "SMALLINT",
    "byte": "TINYINT",
    "double": "DOUBLE",
    "float": "FLOAT",
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "binary": "BLOB",
    "date": "DATE",
    "timestamp": _TIME_TYPE,
}


class TableFile(msgspec.Struct, frozen=True, gc=False):
    """One file of a snapshot.

    Attributes:
        path: Absolute.
        size_bytes: Of the file.
        num_rows: In it; None when the log does not say.
        min_us: Earliest time of its rows, microseconds since 1970-01-01T00:00Z; None the same.
        max_us: Latest, or up to a millisecond later.
    """

    path: str
    size_bytes: int
    num_rows: int | None
    min_us: int | None = None
    max_us: int | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """A table at one version.

    Attributes:
        table: Which.
        version: Of its Delta log; -1 before its first commit.
        files: All of them.
        columns: Types for DuckDB by name, in the order of the files. A file may lack some.
        marks: How far it is with each shard that was asked for: the highest log sequence number
            whose rows it has, by `app_id`.
    """

    table: TableId
    version: int
    files: tuple[TableFile, ...]
    columns: dict[str, str]
    marks: dict[str, int] = {}

    @property
    def num_rows(self) -> int:
        """Rows of all files, as far as the log says."""
        return sum(file.num_rows or 0 for file in self.files)


class _Open:
    """A table that was looked at before."""

    def __init__(self) -> None:
        # Guards all below: one query reads the log, others of the same table wait for it.
        self.lock = threading.Lock()
        self.handle: deltalake.DeltaTable | None = None
        self.version = -1
        self.files: tuple[TableFile, ...] = ()
        self.foreign: dict[str, str] = {}
        self.marks: dict[str, int] = {}

    def mark(self, app_id: str) -> int:
        """The highest LSN of a shard that this version has; 0: none."""
        if self.handle is None:
            return 0
        if app_id not in self.marks:  # 0.3 ms, and most queries meet a version that others met
            self.marks[app_id] = self.handle.transaction_version(app_id) or 0
        return self.marks[app_id]


class Snapshots:
    """Takes snapshots of the tables of one data directory. May be called from any thread.

    Args:
        root: The data directory.
        catalog: Of that directory: which tables there are, and their columns.
    """

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self._root = root.absolute()
        self._catalog = catalog
        # Guards the dictionary only.
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[TableId, _Open] = collections.OrderedDict()

    def take(self, table: TableId, app_ids: Sequence[str] = ()) -> Snapshot | None:
        """A table as it is now; None when there is no such table.

        Args:
            table: Which.
            app_ids: Of the shards that `Snapshot.marks` is to have.

        Raises:
            StorageError: catalog, log or disk cannot be read.
        """
        if self._catalog.load(table) is None:
            return None
        opened = self._opened(table)
        with opened.lock:
            self._refresh(opened, self._root / table_dir(table))
            # After the log, and types only widen: so it has every value of every file.
            schema = self._catalog.load(table)
            if schema is None:
                return None
            columns = {TIME_COLUMN: _TIME_TYPE}
            names = schema.stored_order()
            columns |= {name: SQL_TYPES[schema.columns[name].type] for name in names}
            columns |= {n: kind for n, kind in opened.foreign.items() if n not in columns}
            marks = {app_id: opened.mark(app_id) for app_id in app_ids}
            return Snapshot(table, opened.version, opened.files, columns, marks)

    def _opened(self, table: TableId) -> _Open:
        with self._lock:
            opened = self._open.setdefault(table, _Open())
            self._open.move_to_end(table)
            if len(self._open) > _MAX_OPEN_TABLES:
                self._open.popitem(last=False)
            return opened

    def _refresh(self, opened: _Open, folder: Path) -> None:
        """Bring what is known of a table up to date."""
        log = folder / delta.LOG_DIR
        if opened.handle is not None and _is_current(log, opened.version):
            return
        if not log.is_dir():
            opened.handle, opened.version, opened.files, opened.foreign = None, -1, (), {}
            opened.marks = {}
            return
        try:
            handle = _updated(opened.handle, log, opened.version, folder)
            files = _files(handle, folder)
            foreign = _foreign_columns(handle)
        except BaseException as error:
            # A panic of Rust code is no Exception.
            opened.handle = None
            if isinstance(error, StorageError):
                raise
            if isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime":
                raise StorageError(f"table {folder.name}: {_first_line(error)}") from error
            raise
        opened.handle, opened.version = handle, handle.version()
        opened.files, opened.foreign, opened.marks = files, foreign, {}


def _is_current(log: Path, version: int) -> bool:
    """Whether a version is still the last one.

    Its own commit must be there as well: where an old log was cleaned up, or the table made
    anew, that the next commit is missing says nothing.
    """
    next_is_there = (log / delta.commit_name(version + 1)).exists()
    return not next_is_there and (log / delta.commit_name(version)).exists()


def _updated(
    handle: deltalake.DeltaTable | None, log: Path, version: int, folder: Path
) -> deltalake.DeltaTable:
    if handle is not None and (log / delta.commit_name(version)).exists():
        handle.update_incremental()
    else:
        handle = deltalake.DeltaTable(str(folder))
    wanted = handle.protocol().min_reader_version
    if wanted > delta.MIN_READER_VERSION:
        # Deletion vectors and column mapping would change what the files mean.
        raise StorageError(
            f"table {folder.name}: it asks for Delta reader version {wanted}, and Arc reads "
            f"version {delta.MIN_READER_VERSION}"
        )
    return handle


def _files(handle: deltalake.DeltaTable, folder: Path) -> tuple[TableFile, ...]:
    found = add_actions(handle)
    names = ("path", "size_bytes", "num_records", f"min.{TIME_COLUMN}", f"max.{TIME_COLUMN}")
    columns = [_values(found, name) for name in names]
    where = str(folder)
    return tuple(
        # Who follows the letter of Delta cuts the times of statistics to whole milliseconds.
        TableFile(
            f"{where}/{delta.decoded_path(path)}",
            size or 0,
            rows,
            low,
            None if high is None else high + 999,
        )
        for path, size, rows, low, high in zip(*columns, strict=True)
    )


def _values(actions: pa.Table, name: str) -> list[Any]:
    """What the log says of each file; None where it does not. Times in microseconds."""
    if name not in actions.column_names:
        return [None] * actions.num_rows
    column = actions[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _foreign_columns(handle: deltalake.DeltaTable) -> dict[str, str]:
    """Columns of the table of the types that DuckDB and Delta both have."""
    schema = msgspec.json.decode(handle.schema().to_json())
    return {
        field["name"]: _FOREIGN_TYPES[field["type"]]
        for field in schema["fields"]
        if isinstance(field["type"], str) and field["type"] in _FOREIGN_TYPES
    }


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
