"""Which files a table consists of at its present version, as its Delta log says.

In: the folder of a table. Out: a `Snapshot`: files with the range of their times, and the columns.
No folder is listed, and no file but those of the log is opened. Nothing is ever written, and
nothing kept: the log is read anew each time (10 ms at some hundred commits after a checkpoint).

The process that writes the table may go on meanwhile. What it takes out of the table stays on the
disk for a grace period; a reader that is slower than that finds a file gone, and says so.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import deltalake
import pyarrow as pa

from arc.reader.errors import ReadError, TableNotFoundError

#: Of the Delta protocol. Above it, deletion vectors and column mapping change what files mean.
MAX_READER_VERSION = 1

#: Some writers cut the statistics of a file to milliseconds, also the largest time.
_CUT_US = 999


@dataclasses.dataclass(frozen=True)
class TableFile:
    """One file.

    Attributes:
        path: Absolute.
        min_us: No row is before it, microseconds since 1970-01-01T00:00Z; None: not known.
        max_us: No row is after it; None: not known.
    """

    path: str
    min_us: int | None
    max_us: int | None

    def may_have(self, start_us: int | None, end_us: int | None) -> bool:
        """Whether a row may lie from `start_us` to before `end_us`."""
        ends_before = start_us is not None and self.max_us is not None and self.max_us < start_us
        begins_after = end_us is not None and self.min_us is not None and self.min_us >= end_us
        return not ends_before and not begins_after


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A table at one version.

    Attributes:
        version: Of its log.
        schema: Columns of the table, in its order. Older files may lack some.
        files: In the order of their first times.
    """

    version: int
    schema: pa.Schema
    files: tuple[TableFile, ...]


def take(folder: Path) -> Snapshot:
    """The table in a folder as it is now.

    Raises:
        TableNotFoundError: There is none.
        ReadError: Its log cannot be read, or asks for more than we know.
    """
    if not (folder / "_delta_log").is_dir():
        raise TableNotFoundError(f"{folder}: there is no table, or nothing of it is stored yet")
    try:
        table = deltalake.DeltaTable(str(folder))
        wanted = table.protocol().min_reader_version
        if wanted > MAX_READER_VERSION:
            raise ReadError(
                f"{folder}: it asks for Delta reader version {wanted}, and this reads version "
                f"{MAX_READER_VERSION}"
            )
        schema = _plain(pa.schema(table.schema().to_arrow()))
        return Snapshot(table.version(), schema, _files(table, folder))
    except BaseException as error:
        # A panic of Rust code is no Exception.
        is_panic = type(error).__module__ == "pyo3_runtime"
        if isinstance(error, ReadError) or not (isinstance(error, Exception) or is_panic):
            raise
        first_line = str(error).partition("\n")[0]
        raise ReadError(f"{folder}: the log of the table cannot be read: {first_line}") from error


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without the metadata of Delta: the same as what a daemon answers."""
    return pa.schema([field.remove_metadata() for field in schema])


def _files(table: deltalake.DeltaTable, folder: Path) -> tuple[TableFile, ...]:
    found = pa.table(table.get_add_actions(flatten=True))
    paths = found["path"].to_pylist()
    firsts = _times_us(found, "min.time")
    lasts = _times_us(found, "max.time")
    files = [
        TableFile(f"{folder}/{unquote(path)}", first, None if last is None else last + _CUT_US)
        for path, first, last in zip(paths, firsts, lasts, strict=True)
    ]
    files.sort(key=lambda file: (-(2**63) if file.min_us is None else file.min_us, file.path))
    return tuple(files)


def _times_us(found: pa.Table, name: str) -> list[Any]:
    """A statistic of every file as int, None where it is not known."""
    if name not in found.column_names or not pa.types.is_timestamp(found[name].type):
        return [None] * found.num_rows
    times: list[Any] = found[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    return times
