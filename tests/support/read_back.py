"""What a measurement holds, read from its files by other people's readers, types and all.

In: a data directory, a database, a measurement. Out: every column with its Arrow type and all its
values, in order of time, as deltalake reads the table; DuckDB, which knows nothing of the table
and reads the Parquet files of its hours, must count the same rows. Times are microseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.paths import TableId, table_dir

#: Year, month, day, hour, file.
HOURS = "*/*/*/*/*.parquet"

#: Arrow's name of the type of a column, and its values.
Values = tuple[str, list[Any]]

_TIME = "timestamp[us, tz=UTC]"


def columns(root: Path, measurement: str, database: str) -> dict[str, Values]:
    """Every column of a measurement, in order of time; rows of one time in the order of files."""
    folder = root / table_dir(TableId(database, measurement))
    rows = deltalake.DeltaTable(str(folder)).to_pyarrow_table().sort_by("time")
    with duckdb.connect() as engine:
        read = "SELECT count(*) FROM read_parquet(?, union_by_name = true)"
        counted = engine.execute(read, [f"{folder}/{HOURS}"]).fetchone()
    assert counted == (rows.num_rows,), "the table and its files differ"
    assert str(rows.schema.field("time").type) == _TIME
    found = {name: (str(rows[name].type), rows[name].to_pylist()) for name in rows.column_names}
    return found | {"time": times(*rows["time"].cast(pa.int64()).to_pylist())}


def tags(root: Path, measurement: str, database: str) -> set[str]:
    """The columns that the files of a measurement call tags."""
    folder = root / table_dir(TableId(database, measurement))
    named = [pq.read_metadata(path).metadata[b"arc:tags"] for path in folder.glob(HOURS)]
    return {tag for names in named for tag in msgspec.json.decode(names, type=list[str])}


def times(*values: int) -> Values:
    """The column `time`, microseconds since 1970."""
    return _TIME, list(values)


def integers(*values: int | None) -> Values:
    """A column of int64."""
    return "int64", list(values)


def floats(*values: float | None) -> Values:
    """A column of float64."""
    return "double", list(values)


def texts(*values: str | None) -> Values:
    """A column of UTF-8, a tag or a field."""
    return "string", list(values)


def booleans(*values: bool | None) -> Values:
    """A column of booleans."""
    return "bool", list(values)


def binaries(*values: bytes | None) -> Values:
    """A column of bytes."""
    return "binary", list(values)
