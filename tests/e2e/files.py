"""The files of a data directory, read as anyone reads them: pyarrow, DuckDB, a glob."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ingest.paths import TableId, table_dir

#: Year, month, day, hour, file. Never `**`, which would take in other files.
HOURS = "*/*/*/*/*.parquet"


def folder(data_dir: Path, measurement: str, database: str = "default") -> Path:
    """Where the files of a measurement are, or would be."""
    return data_dir / table_dir(TableId(database, measurement))


def files(data_dir: Path, measurement: str, database: str = "default") -> list[Path]:
    """The files of a measurement."""
    return sorted(folder(data_dir, measurement, database).glob(HOURS))


def table(data_dir: Path, measurement: str, database: str = "default") -> pa.Table:
    """All rows of a measurement, in order of time, columns in the order of their newest file."""
    paths = files(data_dir, measurement, database)
    assert paths, f"{database}/{measurement} has no files"
    schemas = [pq.read_schema(path).remove_metadata() for path in paths]
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    rows = ds.dataset([str(path) for path in paths], schema=schema, format="parquet").to_table()
    return rows.sort_by("time")


def columns(data_dir: Path, measurement: str, database: str = "default") -> dict[str, list[Any]]:
    """All values of a measurement by column, in order of time; times as microseconds."""
    rows = table(data_dir, measurement, database)
    times = rows.column("time").cast(pa.int64())
    values: dict[str, list[Any]] = rows.set_column(0, "time", times).to_pydict()
    return values


def query(sql: str) -> list[tuple[Any, ...]]:
    """What DuckDB answers."""
    with duckdb.connect() as connection:
        return connection.execute(sql).fetchall()
