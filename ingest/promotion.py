"""Files of a table written anew, so that a column that was int64 is float64 in all of them.

In: the files of a table and the names of columns. Out: staged files with the same rows, in the
same order, and a note that says which names are in doubt until the commit that swaps them. What
is committed and when the old files go is decided elsewhere.

Delta readers take the type of a column from the table, Parquet readers from each file, and
neither version 1 of the one nor a plain glob over the other can mix two types: so the files
change with the table, in one commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest import parquet
from ingest.columns import TIME_COLUMN
from ingest.errors import StorageError
from ingest.paths import LogRange, TableId, parse_file_name
from ingest.store import LocalStore, StagedFile

_SUFFIX = ".parquet"
_MARK = "-v"

#: What pyarrow writes for itself, and would contradict the new types.
_ARROW_SCHEMA = b"ARROW:schema"


class Note(msgspec.Struct, frozen=True):
    """Names that belong to the disk only while their table has them.

    Attributes:
        table: Whose files they are.
        paths: Below the root of the store: the old files and the new.
    """

    table: TableId
    paths: tuple[str, ...]


class Rewrite(msgspec.Struct, frozen=True):
    """Files that are to be swapped.

    Attributes:
        old: Below the root of the store.
        new: Staged. As many as there are old ones that have rows.
        note: Where a staged `Note` lists both.
    """

    old: tuple[str, ...]
    new: tuple[StagedFile, ...]
    note: Path


def rewritten_name(name: str, schema_version: int, shard: int) -> str:
    """Name of a file that is written anew, from that of the old one.

    `….parquet` becomes `…-v000003-s000.parquet`: by which version of the schema, and by which
    shard, so that two that try it at once do not meet. A second time replaces the mark.
    """
    stem, _, _ = name.removesuffix(_SUFFIX).partition(_MARK)
    return f"{stem}{_MARK}{schema_version:06d}-s{shard:03d}{_SUFFIX}"


def parse_rewritten_name(name: str) -> LogRange | None:
    """Which part of a shard's input a file of ours holds, written anew or not.

    Returns:
        None when the name is not of ours.
    """
    stem, mark, _ = name.removesuffix(_SUFFIX).partition(_MARK)
    return parse_file_name(stem + _SUFFIX if mark else name)


def rewrite(
    store: LocalStore,
    table: TableId,
    paths: Iterable[str],
    columns: Sequence[str],
    schema_version: int,
    shard: int,
    compression: parquet.Compression = "lz4",
) -> Rewrite | None:
    """Stage new files for all that hold one of the columns as an integer.

    Args:
        store: That holds the files.
        table: Whose files they are.
        paths: Of all its files, below the root of the store.
        columns: That are to be float64.
        schema_version: Of the catalog's schema, for the names.
        shard: That does it.
        compression: General codec of the new files.

    Returns:
        None when no file needs it.

    Raises:
        StorageError: a file cannot be read or written; nothing is staged then.
    """
    old: list[str] = []
    new: list[StagedFile] = []
    prefix = f"s{shard:03d}-"
    try:
        for path in paths:
            wanted = _integers(store, path, columns)
            if wanted:
                new += _rewrite_file(store, path, wanted, schema_version, shard, compression)
                old.append(path)
        if not old:
            return None
        names = (*old, *[file.path for file in new])
        note = store.stage_note(f"{prefix}swap", msgspec.json.encode(Note(table, names)))
    except BaseException:
        store.discard(new)
        raise
    return Rewrite(tuple(old), tuple(new), note)


def read_note(path: Path) -> Note | None:
    """A staged note; None when it is torn, so that nothing was done by it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except msgspec.MsgspecError:
        return None


def is_note(path: Path) -> bool:
    """Whether a staged file is a note of a rewrite, by its name."""
    return path.name.partition("-")[2].startswith("swap.")


def is_rewritten(path: Path) -> bool:
    """Whether a staged file is a file written anew, by its name; its note says where it went."""
    return path.name.partition("-")[2].startswith("rewritten.")


def _integers(store: LocalStore, path: str, columns: Sequence[str]) -> list[str]:
    """Which of the columns a file holds as integers."""
    with _unreadable(path):
        schema = pq.read_schema(store.root / path)
    return [
        name
        for name in columns
        if name in schema.names and pa.types.is_integer(schema.field(name).type)
    ]


def _rewrite_file(
    store: LocalStore,
    path: str,
    columns: Sequence[str],
    schema_version: int,
    shard: int,
    compression: parquet.Compression,
) -> list[StagedFile]:
    """Stage one file anew; an empty list for a file without rows."""
    with _unreadable(path):
        table, metadata = _read(store.root / path)
        for name in columns:
            place = table.schema.get_field_index(name)
            values = pc.cast(table.column(place), pa.float64())
            table = table.set_column(place, pa.field(name, pa.float64()), values)
    if not table.num_rows:
        return []
    folder, _, name = path.rpartition("/")
    times = pc.min_max(table.column(TIME_COLUMN).cast(pa.int64()))
    options = parquet.plan(table, compression)
    staged = store.stage(
        f"{folder}/{rewritten_name(name, schema_version, shard)}",
        lambda where: parquet.write(table, where, options, metadata),
        num_rows=table.num_rows,
        min_time_us=times["min"].as_py(),
        max_time_us=times["max"].as_py(),
        staged_as=f"s{shard:03d}-rewritten",
    )
    return [staged]


def _read(path: Path) -> tuple[pa.Table, dict[str, str]]:
    """All rows of a file, its dictionaries kept as such, and its key-value metadata."""
    with pq.ParquetFile(path) as plain:
        footer = plain.metadata
        encoded = _dictionary_texts(footer, plain.schema_arrow) if footer.num_row_groups else []
    with pq.ParquetFile(path, read_dictionary=encoded) as file:
        table = file.read().combine_chunks().replace_schema_metadata(None)
    kept = {key: value for key, value in (footer.metadata or {}).items() if key != _ARROW_SCHEMA}
    return table, {key.decode(): value.decode() for key, value in kept.items()}


def _dictionary_texts(footer: pq.FileMetaData, schema: pa.Schema) -> list[str]:
    """Text columns that the file holds as dictionaries."""
    group = footer.row_group(0)
    chunks: list[Any] = [group.column(i) for i in range(group.num_columns)]
    texts = {field.name for field in schema if pa.types.is_string(field.type)}
    return [
        chunk.path_in_schema
        for chunk in chunks
        if chunk.path_in_schema in texts and chunk.has_dictionary_page
    ]


class _unreadable:  # noqa: N801 - reads as a clause
    """Turns what pyarrow says of a file into what the pipeline understands."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Translate."""
        if isinstance(error, OSError | pa.ArrowException):
            raise StorageError(f"cannot read {self._path} to change a type: {error}") from error
