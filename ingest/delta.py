"""The Delta Lake protocol: what a commit says, as bytes and back. Pure.

In: a `TableSchema`, files and their statistics, or the bytes of a commit that somebody wrote.
Out: the bytes of a commit, or what it means for a table that we append to. Nothing here reads a
disk, asks for the time or makes up an id.

Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md, reader version 1 and writer
version 2, which every reader of Delta tables understands. Of writer version 2 we keep everything
but column invariants, and refuse tables that have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from ingest.columns import TIME_COLUMN, ColumnType
from ingest.errors import IngestError, StaleSchemaError, StorageError
from ingest.schema import ColumnSpec, TableSchema

LOG_DIR = "_delta_log"

MIN_READER_VERSION, MIN_WRITER_VERSION = 1, 2

#: Table property with the version of the catalog's schema by which the columns last changed.
SCHEMA_VERSION_KEY = "arc.schemaVersion"

#: Key of a field's metadata: whether the column is a tag.
TAG_KEY = "arc.tag"

#: At a commit every five seconds a day makes 17 280 files of log, which readers have to list.
LOG_RETENTION = "interval 1 day"

TYPES = {
    ColumnType.INT64: "long",
    ColumnType.FLOAT64: "double",
    ColumnType.UTF8: "string",
    ColumnType.BOOL: "boolean",
    ColumnType.BINARY: "binary",
}
TIME_TYPE = "timestamp"

#: Stays as it is in a path; everything else is written as in a URI (RFC 2396), as Delta wants.
_SAFE_IN_PATH = "/_-.~@!$&'()*+,;=:"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Action = dict[str, Any]


class Field(msgspec.Struct):
    """One column in the schema of a Delta table; `type` is a name, or a nested type as it came."""

    name: str
    type: Any
    nullable: bool = True
    metadata: dict[str, Any] = {}


class AddedFile(msgspec.Struct, frozen=True):
    """A file that a commit adds.

    Attributes:
        path: Below the table's folder, "/" between the parts, as it is on the disk.
        size_bytes: Of the file.
        modified_ms: Milliseconds since 1970-01-01T00:00Z.
        stats: What `statistics` makes, or None.
        data_change: False: its rows were in the table before.
    """

    path: str
    size_bytes: int
    modified_ms: int
    stats: str | None
    data_change: bool = True


class TableMeta(msgspec.Struct, frozen=True):
    """What a table is, apart from its files: the action `metaData`.

    Attributes:
        action: As it stands in the log.
        fields: Its schema, parsed.
    """

    action: Action
    fields: tuple[Field, ...]


class SchemaChange(msgspec.Struct, frozen=True):
    """What a table needs before it can take files of a schema.

    Attributes:
        meta: The table afterwards; None when it can take them as it is.
        promoted: Columns whose files have to be rewritten, from int64 to float64.
    """

    meta: TableMeta | None = None
    promoted: tuple[str, ...] = ()


class CommitFacts(msgspec.Struct, frozen=True):
    """What a commit changes for somebody who only appends.

    Attributes:
        meta: The table from now on; None: as before.
        txn_version: Of the application that was asked about; 0: not mentioned.
    """

    meta: TableMeta | None
    txn_version: int


class FileChange(msgspec.Struct, frozen=True):
    """What a commit says of one file.

    Attributes:
        path: Below the table's folder, as it is on the disk.
        removed_ms: When it left the table, milliseconds since 1970-01-01T00:00Z; None: it came.
    """

    path: str
    removed_ms: int | None


class _Txn(msgspec.Struct, rename="camel"):
    app_id: str
    version: int


class _Protocol(msgspec.Struct, rename="camel"):
    min_reader_version: int = 1
    min_writer_version: int = 1


class _Line(msgspec.Struct, rename="camel"):
    """One line of a commit, without the files, which nobody here needs."""

    txn: _Txn | None = None
    meta_data: Action | None = None
    protocol: _Protocol | None = None


class _File(msgspec.Struct, rename="camel"):
    path: str
    deletion_timestamp: int | None = None


class _FileLine(msgspec.Struct):
    """One line of a commit, of which only the files are looked at."""

    add: _File | None = None
    remove: _File | None = None


class _Schema(msgspec.Struct):
    type: str
    fields: tuple[Field, ...]


_LINES = msgspec.json.Decoder(_Line)
_FILE_LINES = msgspec.json.Decoder(_FileLine)
_SCHEMA = msgspec.json.Decoder(_Schema)


# --- names -----------------------------------------------------------------------------------


def commit_name(version: int) -> str:
    """Name of the commit file of a version, in `_delta_log`."""
    return f"{version:020d}.json"


def encoded_path(path: str) -> str:
    """A path as a commit has it: percent-encoded. Ours are the same before and after."""
    return quote(path, safe=_SAFE_IN_PATH)


def decoded_path(path: str) -> str:
    """Undo `encoded_path`, whoever encoded it."""
    return unquote(path)


# --- schemas ---------------------------------------------------------------------------------


def new_table(schema: TableSchema, table_id: str, created_ms: int) -> TableMeta:
    """A table that has no commit yet.

    Args:
        schema: Its columns, the time left out.
        table_id: A UUID.
        created_ms: Milliseconds since 1970-01-01T00:00Z.

    Raises:
        StorageError: two columns differ in case only.
    """
    time = Field(TIME_COLUMN, TIME_TYPE, nullable=False)
    _check_case([TIME_COLUMN, *schema.columns])
    columns = [_field(name, schema.columns[name]) for name in schema.stored_order()]
    action: Action = {
        "id": table_id,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": "",
        "partitionColumns": [],
        "configuration": {"delta.logRetentionDuration": LOG_RETENTION},
        "createdTime": created_ms,
    }
    return _with_fields(action, (time, *columns), schema.version)


def parse_meta(action: Action) -> TableMeta:
    """Read the action `metaData`, whoever wrote it.

    Raises:
        StorageError: a table that we cannot append to.
    """
    try:
        fields = _SCHEMA.decode(action["schemaString"]).fields
    except (KeyError, msgspec.MsgspecError) as error:
        raise StorageError(f"the schema of the table cannot be read: {error}") from error
    if action.get("partitionColumns"):
        raise StorageError(
            f"the table is partitioned by {action['partitionColumns']}, and Arc writes "
            "tables without partitions"
        )
    return TableMeta(action, fields)


def evolve(meta: TableMeta, schema: TableSchema) -> SchemaChange:
    """Tell what a table needs to take files that were built with a schema.

    Columns that the table has and the schema has not are null in the files, and stay.

    Args:
        meta: The table's.
        schema: Of the files, from the catalog.

    Raises:
        StaleSchemaError: a column is int64 in the files and float64 in the table already.
        StorageError: somebody else gave the table a column that our files do not fit, or two
            columns differ in case only.
    """
    fields = {field.name: field for field in meta.fields}
    _check_foreign(fields)
    _check_case([*fields, *[name for name in schema.columns if name not in fields]])
    changed, promoted = dict(fields), []
    for name in schema.stored_order():
        spec, field = schema.columns[name], fields.get(name)
        if field is None:
            changed[name] = _field(name, spec)
            continue
        if field.type != TYPES[spec.type]:
            _check_promotion(name, field, spec)
            promoted.append(name)
        if promoted[-1:] == [name] or (spec.is_tag and not field.metadata.get(TAG_KEY)):
            tag = {TAG_KEY: True} if spec.is_tag else {}
            changed[name] = Field(name, TYPES[spec.type], field.nullable, field.metadata | tag)
    if changed == fields:
        return SchemaChange()
    return SchemaChange(
        _with_fields(meta.action, tuple(changed.values()), schema.version), tuple(promoted)
    )


def _check_promotion(name: str, field: Field, spec: ColumnSpec) -> None:
    """Refuse every change of type but the one from int64 to float64."""
    pair = (field.type, TYPES[spec.type])
    if pair == ("double", "long"):
        raise StaleSchemaError(f"column {name!r} was built as int64, and is float64 by now")
    if pair != ("long", "double"):
        raise StorageError(
            f"column {name!r} is {field.type} in the table and {spec.type} here; "
            "somebody else changed the table's schema"
        )


def _check_foreign(fields: Mapping[str, Field]) -> None:
    """Refuse what others may have done to the schema and our files would break."""
    time = fields.get(TIME_COLUMN)
    if time is None or time.type != TIME_TYPE:
        found = "none" if time is None else time.type
        raise StorageError(f"column 'time' of the table is {found}, wanted {TIME_TYPE}")
    for name, field in fields.items():
        if "delta.invariants" in field.metadata:
            raise StorageError(f"column {name!r} of the table has an invariant, not supported")
        if not field.nullable and name != TIME_COLUMN:
            raise StorageError(f"column {name!r} of the table refuses nulls, not supported")


def _check_case(names: Iterable[str]) -> None:
    """Refuse names that no Delta reader can tell apart: it would not open the table any more."""
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.lower(), name)
        if other != name:
            raise StorageError(
                f"columns {other!r} and {name!r} differ in case only, and no Delta table can "
                "have both"
            )


def _field(name: str, spec: ColumnSpec) -> Field:
    return Field(name, TYPES[spec.type], metadata={TAG_KEY: True} if spec.is_tag else {})


def _with_fields(action: Action, fields: tuple[Field, ...], schema_version: int) -> TableMeta:
    schema = {"type": "struct", "fields": [msgspec.to_builtins(field) for field in fields]}
    configuration = {**action.get("configuration", {}), SCHEMA_VERSION_KEY: str(schema_version)}
    text = msgspec.json.encode(schema).decode()
    return TableMeta({**action, "schemaString": text, "configuration": configuration}, fields)


# --- writing ---------------------------------------------------------------------------------


def statistics(num_rows: int, min_time_us: int, max_time_us: int) -> str:
    """Statistics of a file: its rows, and the range of its times, which have no nulls.

    Args:
        num_rows: At least 1.
        min_time_us: Microseconds since 1970-01-01T00:00Z.
        max_time_us: Microseconds since 1970-01-01T00:00Z.
    """
    return (
        f'{{"numRecords":{num_rows},"minValues":{{"time":"{_iso(min_time_us)}"}},'
        f'"maxValues":{{"time":"{_iso(max_time_us)}"}},"nullCount":{{"time":0}}}}'
    )


def _iso(time_us: int) -> str:
    moment = _EPOCH + timedelta(microseconds=time_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def commit_info(now_ms: int, operation: str, *, is_append: bool = True) -> Action:
    """Who wrote a commit and what for; readers show it, and rely on nothing in it.

    Args:
        now_ms: Milliseconds since 1970-01-01T00:00Z.
        operation: As other writers of Delta tables call it, in capitals.
        is_append: Whether it only adds files, whatever is in the table.
    """
    return {
        "commitInfo": {
            "timestamp": now_ms,
            "operation": operation,
            "operationParameters": {"mode": "Append"} if is_append else {},
            "isBlindAppend": is_append,
            "engineInfo": "Arc",
        }
    }


def protocol() -> Action:
    """What a reader and a writer of the table must understand."""
    return {
        "protocol": {
            "minReaderVersion": MIN_READER_VERSION,
            "minWriterVersion": MIN_WRITER_VERSION,
        }
    }


def txn(app_id: str, version: int, now_ms: int) -> Action:
    """How far an application is with what it writes into the table."""
    return {"txn": {"appId": app_id, "version": version, "lastUpdated": now_ms}}


def add(file: AddedFile) -> Action:
    """A file that is part of the table from this commit on."""
    return {
        "add": {
            "path": encoded_path(file.path),
            "partitionValues": {},
            "size": file.size_bytes,
            "modificationTime": file.modified_ms,
            "dataChange": file.data_change,
            "stats": file.stats,
        }
    }


def remove(path: str, now_ms: int, *, data_change: bool = False) -> Action:
    """A file that is no part of the table from this commit on.

    Args:
        path: Below the table's folder, as it is on the disk.
        now_ms: Milliseconds since 1970-01-01T00:00Z.
        data_change: False: other files of the same commit hold its rows.
    """
    return {
        "remove": {
            "path": encoded_path(path),
            "deletionTimestamp": now_ms,
            "dataChange": data_change,
            "extendedFileMetadata": False,
        }
    }


def encode_commit(actions: Iterable[Action]) -> bytes:
    """The content of a commit file: one action a line."""
    return b"".join([msgspec.json.encode(action) + b"\n" for action in actions])


# --- reading ---------------------------------------------------------------------------------


def read_commit(content: bytes, app_id: str) -> CommitFacts:
    """What a commit, whoever wrote it, means for an application that appends.

    Raises:
        StorageError: it is no commit, or the table is one that we cannot append to any more.
    """
    meta, version = None, 0
    for line in content.splitlines():
        if not line.strip():
            continue
        try:
            found = _LINES.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StorageError(f"a commit of the table cannot be read: {error}") from error
        if found.protocol is not None:
            check_protocol(found.protocol.min_reader_version, found.protocol.min_writer_version)
        if found.meta_data is not None:
            meta = parse_meta(found.meta_data)
        if found.txn is not None and found.txn.app_id == app_id:
            version = found.txn.version
    return CommitFacts(meta, version)


def read_files(content: bytes) -> Iterator[FileChange]:
    """What a commit, whoever wrote it, says of files: as `FileChange`, in its order.

    Raises:
        StorageError: it is no commit.
    """
    for line in content.splitlines():
        try:
            found = _FILE_LINES.decode(line) if line.strip() else _FileLine()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StorageError(f"a commit of the table cannot be read: {error}") from error
        if found.add is not None:
            yield FileChange(decoded_path(found.add.path), None)
        if found.remove is not None:
            removed = found.remove
            yield FileChange(decoded_path(removed.path), removed.deletion_timestamp or 0)


def check_protocol(reader: int, writer: int) -> None:
    """Refuse a table that asks for more than we keep.

    Raises:
        StorageError: a version above ours.
    """
    if reader > MIN_READER_VERSION or writer > MIN_WRITER_VERSION:
        raise StorageError(
            f"the table was changed to Delta reader version {reader} and writer version {writer}; "
            f"Arc appends to tables up to {MIN_READER_VERSION} and {MIN_WRITER_VERSION}"
        )


def relative_path(folder: str, path: str) -> str:
    """The path of a file below its table's folder.

    Raises:
        IngestError: it lies elsewhere: a defect.
    """
    if not path.startswith(folder + "/"):
        raise IngestError(f"BUG: {path!r} is not in the folder {folder!r} of its table")
    return path[len(folder) + 1 :]
