"""Rows are in their table once, whatever the disk does, and every reader sees the same ones."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from ingest import parquet, table_log
from ingest.columns import ColumnType
from ingest.errors import IngestError, StaleSchemaError, StorageError
from ingest.instruments import null
from ingest.lsn import make_lsn
from ingest.paths import HOUR_US, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.promotion import parse_rewritten_name, rewritten_name
from ingest.schema import ColumnSpec, TableSchema
from ingest.store import LocalStore, StagedFile, SystemCalls
from ingest.table_log import DeltaTableLog, TableLog

CPU = TableId("Prod", "disk/io")
FOLDER = table_dir(CPU)
APP = "arc-000-0123456789abcdef"
TYPES = {
    ColumnType.INT64: pa.int64(),
    ColumnType.FLOAT64: pa.float64(),
    ColumnType.UTF8: pa.string(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.BINARY: pa.binary(),
}
INTS = TableSchema(
    {"host": ColumnSpec(ColumnType.UTF8, is_tag=True), "v": ColumnSpec(ColumnType.INT64)}, 1
)
FLOATS = TableSchema({**INTS.columns, "v": ColumnSpec(ColumnType.FLOAT64)}, 2)
WIDER = TableSchema(
    {
        **FLOATS.columns,
        "größe": ColumnSpec(ColumnType.FLOAT64),
        "up": ColumnSpec(ColumnType.BOOL),
        "raw": ColumnSpec(ColumnType.BINARY),
        "n": ColumnSpec(ColumnType.INT64, wide=True),
    },
    3,
)

Rows = Mapping[str, Sequence[Any]]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


@pytest.fixture(params=["DeltaTableLog"])
def log(store: LocalStore) -> TableLog:
    return delta_log(store)


def delta_log(store: LocalStore, shard: int = 0) -> DeltaTableLog:
    app_id = f"arc-{shard:03d}{APP[7:]}"
    return DeltaTableLog(store, app_id, shard, null(), structlog.get_logger())


def marks(first: int, last: int | None = None, shard: int = 0) -> LogRange:
    return LogRange(shard, 1, first, first if last is None else last)


def hours(number: int, count: int = 2) -> Rows:
    """Rows of several hours that tell by which commit they came."""
    times = [hour * HOUR_US + number for hour in range(count)]
    return {"time": times, "host": [f"h{number}", None][:count], "v": [number, None][:count]}


def stage(
    store: LocalStore,
    rows: Rows,
    range_: LogRange,
    schema: TableSchema = INTS,
    table: TableId = CPU,
) -> list[StagedFile]:
    """Files as the flush makes them, one an hour."""
    by_hour: dict[int, list[int]] = {}
    for i, time in enumerate(rows["time"]):
        by_hour.setdefault(time // HOUR_US, []).append(i)
    return [
        _stage_hour(
            store,
            {name: [values[i] for i in at] for name, values in rows.items()},
            range_,
            schema,
            table,
        )
        for at in by_hour.values()
    ]


def _stage_hour(
    store: LocalStore, rows: Rows, range_: LogRange, schema: TableSchema, table: TableId
) -> StagedFile:
    times = rows["time"]
    fields = [pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False)]
    fields += [pa.field(name, TYPES[schema.columns[name].type]) for name in schema.stored_order()]
    empty = [None] * len(times)
    columns = [pa.array(rows.get(field.name, empty), field.type) for field in fields]
    built = pa.table(columns, schema=pa.schema(fields))
    metadata = parquet.file_metadata(schema, f"{range_}") | {
        "arc:database": table.database,
        "arc:measurement": table.measurement,
    }
    name = file_name(range_.shard, range_.epoch, range_.first_seq, range_.last_seq)
    return store.stage(
        f"{table_dir(table)}/{hour_dir(min(times))}/{name}",
        lambda path: parquet.write(built, path, parquet.plan(built), metadata),
        num_rows=len(times),
        min_time_us=min(times),
        max_time_us=max(times),
    )


def put(
    log: TableLog,
    store: LocalStore,
    number: int,
    schema: TableSchema = INTS,
    rows: Rows | None = None,
    shard: int = 0,
) -> list[StagedFile]:
    """One whole flush."""
    range_ = marks(number, shard=shard)
    files = stage(store, rows or hours(number), range_, schema)
    log.commit(CPU, files, range_, schema)
    return files


def files_of(store: LocalStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in hour_files(store))


def hour_files(store: LocalStore) -> list[Path]:
    return [path for path in store.root.rglob("*.parquet") if "_delta_log" not in path.parts]


def staged_of(store: LocalStore) -> list[str]:
    return sorted(os.listdir(store.root / ".arc/staging"))


def commits_of(store: LocalStore) -> list[str]:
    return sorted(path.name for path in (store.root / FOLDER / "_delta_log").glob("*.json"))


def actions_of(store: LocalStore, version: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    path = store.root / FOLDER / "_delta_log" / f"{version:020d}.json"
    for line in path.read_text(encoding="utf-8").splitlines():
        for name, action in json.loads(line).items():
            found.setdefault(name, []).append(action)
    return found


# --- what readers see ------------------------------------------------------------------------


def by_deltalake(path: Path) -> pa.Table:
    return deltalake.DeltaTable(str(path)).to_pyarrow_table()


def by_pandas(path: Path) -> pa.Table:
    frame = deltalake.DeltaTable(str(path)).to_pandas(types_mapper=pl_types)
    return pa.Table.from_pandas(frame, preserve_index=False)


def pl_types(kind: pa.DataType) -> Any:
    import pandas as pd

    return pd.ArrowDtype(kind)


def by_polars(path: Path) -> pa.Table:
    return pl.read_delta(str(path)).to_arrow()


def by_duckdb(path: Path) -> pa.Table:
    data = deltalake.DeltaTable(str(path)).to_pyarrow_dataset()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("data", data)
        return connection.sql("SELECT * FROM data").to_arrow_table()


def by_glob(path: Path) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = "SELECT * FROM read_parquet(?, union_by_name = true)"
        return connection.sql(query, params=[f"{path}/*/*/*/*/*.parquet"]).to_arrow_table()


READERS = [by_deltalake, by_pandas, by_polars, by_duckdb, by_glob]


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values, nulls left out, in one order."""
    place = table.schema.get_field_index("time")
    times = table.column(place).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    table = table.set_column(place, "time", times)
    rows = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["time"], repr(sorted(row.items()))))


def assert_readers_agree(store: LocalStore, wanted: Sequence[Rows]) -> None:
    """Every reader finds just these rows, and one type for each column."""
    rows = [
        {name: values[i] for name, values in part.items() if values[i] is not None}
        for part in wanted
        for i in range(len(part["time"]))
    ]
    rows.sort(key=lambda row: (row["time"], repr(sorted(row.items()))))
    kinds = set()
    for reader in READERS:
        table = reader(store.root / FOLDER)
        assert plain(table) == rows, reader.__name__
        kinds.add(tuple(sorted((f.name, _kind(f.type)) for f in table.schema)))
    assert len(kinds) == 1


def _kind(type_: pa.DataType) -> str:
    name = str(type_).removeprefix("large_").split("[")[0]
    return {"string_view": "string", "binary_view": "binary"}.get(name, name)


# --- committing ------------------------------------------------------------------------------


def test_committed_files_lie_in_the_folders_of_their_hours(
    log: TableLog, store: LocalStore
) -> None:
    range_ = marks(1, 42)
    log.commit(CPU, stage(store, {"time": [0, -1]}, range_), range_, INTS)
    name = "s000-e000001-000000000001-000000000042.parquet"
    assert files_of(store) == [
        f"@50rod/disk@2Fio/1969/12/31/23/{name}",
        f"@50rod/disk@2Fio/1970/01/01/00/{name}",
    ]
    assert staged_of(store) == []


def test_a_table_knows_how_far_each_shard_is(log: TableLog, store: LocalStore) -> None:
    assert log.committed(CPU) == 0
    put(log, store, 1)
    range_ = marks(2, 42)
    log.commit(CPU, stage(store, hours(2), range_), range_, INTS)
    assert log.committed(CPU) == make_lsn(1, 42)
    assert delta_log(store).committed(CPU) == make_lsn(1, 42)
    other = delta_log(store, shard=1)
    assert other.committed(CPU) == 0
    put(other, store, 7, shard=1)
    assert (other.committed(CPU), log.committed(CPU)) == (make_lsn(1, 7), make_lsn(1, 42))
    assert log.committed(TableId("Prod", "other")) == 0


@pytest.mark.parametrize("restart", [False, True])
def test_a_commit_can_be_repeated_with_files_staged_anew(
    log: TableLog, store: LocalStore, restart: bool
) -> None:
    put(log, store, 1)
    put(delta_log(store) if restart else log, store, 1)
    assert staged_of(store) == []
    assert len(commits_of(store)) == 1
    assert_readers_agree(store, [hours(1)])


def test_a_commit_that_fails_adds_nothing_and_can_be_repeated(
    log: TableLog, store: LocalStore
) -> None:
    files = stage(store, hours(1), marks(1))
    blocker = store.root / FOLDER / hour_dir(HOUR_US)
    blocker.parent.mkdir(parents=True)
    blocker.write_bytes(b"")
    with pytest.raises(StorageError):
        log.commit(CPU, files, marks(1), INTS)
    assert files_of(store) == []
    assert log.committed(CPU) == 0
    os.unlink(blocker)
    log.commit(CPU, files, marks(1), INTS)
    assert files_of(store) == sorted(file.path for file in files)


def test_a_file_of_another_table_is_a_defect(log: TableLog, store: LocalStore) -> None:
    files = stage(store, hours(1), marks(1), table=TableId("Prod", "disk/iops"))
    with pytest.raises(IngestError, match="BUG"):
        log.commit(CPU, files, marks(1), INTS)
    assert files_of(store) == []


def test_marks_that_the_table_holds_a_part_of_are_a_defect(
    log: TableLog, store: LocalStore
) -> None:
    range_ = marks(1, 5)
    log.commit(CPU, stage(store, hours(1), range_), range_, INTS)
    with pytest.raises(IngestError, match="BUG"):
        log.commit(CPU, stage(store, hours(2), marks(5, 6)), marks(5, 6), INTS)
    assert_readers_agree(store, [hours(1)])


def test_a_commit_is_what_the_delta_protocol_wants(log: TableLog, store: LocalStore) -> None:
    files = put(log, store, 1)
    first = actions_of(store, 0)
    assert first["protocol"] == [{"minReaderVersion": 1, "minWriterVersion": 2}]
    meta = first["metaData"][0]
    assert meta["configuration"]["arc.schemaVersion"] == "1"
    assert json.loads(meta["schemaString"])["fields"] == [
        {"name": "time", "type": "timestamp", "nullable": False, "metadata": {}},
        {"name": "host", "type": "string", "nullable": True, "metadata": {"arc.tag": True}},
        {"name": "v", "type": "long", "nullable": True, "metadata": {}},
    ]
    assert first["txn"][0]["appId"] == APP
    assert first["txn"][0]["version"] == make_lsn(1, 1)
    assert [add["path"] for add in first["add"]] == [file.path[len(FOLDER) + 1 :] for file in files]
    assert [add["size"] for add in first["add"]] == [file.size_bytes for file in files]
    assert json.loads(first["add"][0]["stats"]) == {
        "numRecords": 1,
        "minValues": {"time": "1970-01-01T00:00:00.000001Z"},
        "maxValues": {"time": "1970-01-01T00:00:00.000001Z"},
        "nullCount": {"time": 0},
    }
    put(log, store, 2)
    assert actions_of(store, 1).keys() == {"commitInfo", "txn", "add"}


def test_readers_can_leave_out_files_by_their_times(log: TableLog, store: LocalStore) -> None:
    put(log, store, 1)
    table = deltalake.DeltaTable(str(store.root / FOLDER))
    found = pa.table(table.get_add_actions(flatten=True)).sort_by("min.time").to_pylist()
    assert [row["num_records"] for row in found] == [1, 1]
    assert [row["min.time"].microsecond for row in found] == [1, 1]
    assert [row["max.time"].hour for row in found] == [0, 1]


# --- schemas ---------------------------------------------------------------------------------


def test_all_readers_agree_while_a_table_grows_and_changes(
    log: TableLog, store: LocalStore
) -> None:
    put(log, store, 1)
    assert_readers_agree(store, [hours(1)])
    grown: Rows = {
        "time": [3, 2 * HOUR_US],
        "v": [0.5, float(2**53)],
        "host": ["ü", ""],
        "größe": [None, 1e300],
        "up": [True, None],
        "raw": [b"\x00\xff", b""],
        "n": [2**63 - 1, None],
    }
    put(log, store, 2, WIDER, grown)
    put(log, store, 3, FLOATS, {"time": [5], "host": [None], "v": [1.5]})
    only_times: Rows = {"time": [6]}
    put(log, store, 4, WIDER, only_times)
    floats: Rows = {**hours(1), "v": [1.0, None]}
    assert_readers_agree(
        store, [floats, grown, {"time": [5], "host": [None], "v": [1.5]}, only_times]
    )
    assert "metaData" in actions_of(store, 1)
    assert "metaData" not in actions_of(store, 2)


def test_a_column_that_becomes_a_tag_is_one_in_the_table(log: TableLog, store: LocalStore) -> None:
    put(log, store, 1)
    texts = TableSchema({**INTS.columns, "rack": ColumnSpec(ColumnType.UTF8)}, 2)
    put(log, store, 2, texts)
    put(log, store, 3, TableSchema({**INTS.columns, "rack": ColumnSpec(ColumnType.UTF8, True)}, 3))
    fields = json.loads(actions_of(store, 2)["metaData"][0]["schemaString"])["fields"]
    assert fields[-1]["metadata"] == {"arc.tag": True}
    assert "metaData" not in actions_of(store, 1) or fields[-1]["name"] == "rack"


def test_a_column_that_only_holds_larger_integers_changes_nothing(
    log: TableLog, store: LocalStore
) -> None:
    put(log, store, 1)
    wide = TableSchema({**INTS.columns, "v": ColumnSpec(ColumnType.INT64, wide=True)}, 2)
    put(log, store, 2, wide)
    assert "metaData" not in actions_of(store, 1)


def test_integers_become_floats_in_every_file_of_the_table(
    log: TableLog, store: LocalStore
) -> None:
    old = put(log, store, 1)
    other = delta_log(store, shard=1)
    put(other, store, 1, rows={"time": [9], "host": ["other"], "v": [2**53]}, shard=1)
    put(log, store, 2, FLOATS, {"time": [4], "v": [0.5]})
    kept: Rows = {**hours(1), "v": [1.0, None]}
    others: Rows = {"time": [9], "host": ["other"], "v": [float(2**53)]}
    assert_readers_agree(store, [kept, others, {"time": [4], "v": [0.5]}])
    assert not any((store.root / file.path).exists() for file in old)
    assert staged_of(store) == []
    removed = actions_of(store, 2)["remove"]
    assert len(removed) == 3
    assert not any(action["dataChange"] for action in removed)
    changes = [action["dataChange"] for action in actions_of(store, 2)["add"]]
    assert changes == [False, False, False, True]


def test_a_file_written_anew_looks_like_the_old_one(log: TableLog, store: LocalStore) -> None:
    many: Rows = {"time": list(range(9000)), "host": ["a", "b"] * 4500, "v": list(range(9000))}
    (old,) = put(log, store, 1, rows=many)
    before = pq.read_metadata(store.root / old.path)
    put(log, store, 2, FLOATS, {"time": [4], "v": [0.5]})
    name = next(path for path in files_of(store) if "-v000002-s000" in path)
    after = pq.read_metadata(store.root / name)
    assert after.metadata == before.metadata
    assert after.schema.names == before.schema.names
    assert after.row_group(0).column(0).statistics.has_min_max
    assert [after.schema.column(i).max_definition_level for i in range(3)] == [0, 1, 1]
    times = pq.read_table(store.root / name).column("time").cast(pa.int64()).to_pylist()
    assert times == many["time"]


def test_a_second_change_of_type_finds_the_files_of_the_first(
    log: TableLog, store: LocalStore
) -> None:
    def schema(version: int, **types: ColumnType) -> TableSchema:
        return TableSchema({name: ColumnSpec(kind) for name, kind in types.items()}, version)

    integer, real = ColumnType.INT64, ColumnType.FLOAT64
    put(log, store, 1, schema(1, a=integer, b=integer), {"time": [1], "a": [1], "b": [2]})
    put(log, store, 2, schema(2, a=real, b=integer), {"time": [2], "a": [0.5], "b": [3]})
    put(log, store, 3, schema(3, a=real, b=real), {"time": [3], "a": [1.5], "b": [2.5]})
    rows: Rows = {"time": [1, 2, 3], "a": [1.0, 0.5, 1.5], "b": [2.0, 3.0, 2.5]}
    assert_readers_agree(store, [rows])
    assert sum("-v000003" in path for path in files_of(store)) == 2
    assert not any("-v000002" in path for path in files_of(store))


def test_names_of_files_written_anew_say_what_they_hold() -> None:
    name = file_name(3, 1, 7, 9)
    once = rewritten_name(name, 2, 0)
    assert once == "s003-e000001-000000000007-000000000009-v000002-s000.parquet"
    assert rewritten_name(once, 5, 1) == rewritten_name(name, 5, 1)
    assert parse_rewritten_name(once) == parse_rewritten_name(name) == LogRange(3, 1, 7, 9)
    assert parse_rewritten_name("part-00000-v1.parquet") is None


def test_files_built_before_a_type_changed_are_refused(log: TableLog, store: LocalStore) -> None:
    put(log, store, 1)
    other = delta_log(store, shard=1)
    put(other, store, 1, FLOATS, {"time": [4], "v": [0.5]}, shard=1)
    files = stage(store, hours(2), marks(2))
    with pytest.raises(StaleSchemaError, match="'v' was built as int64"):
        log.commit(CPU, files, marks(2), INTS)
    assert len(staged_of(store)) == len(files)
    store.discard(files)
    put(log, store, 2, FLOATS)
    assert len(commits_of(store)) == 3


# --- other writers ---------------------------------------------------------------------------


def append_by_deltalake(store: LocalStore, rows: Rows, **options: Any) -> None:
    """What Spark or a notebook does."""
    times = pa.array(rows["time"], pa.timestamp("us", tz="UTC"))
    others = {name: values for name, values in rows.items() if name != "time"}
    table = pa.table({"time": times, **others})
    deltalake.write_deltalake(str(store.root / FOLDER), table, mode="append", **options)


def test_commits_of_others_in_between_are_kept(log: TableLog, store: LocalStore) -> None:
    put(log, store, 1)
    append_by_deltalake(store, {"time": [77], "host": ["x"], "v": [3]})
    put(log, store, 2)
    append_by_deltalake(store, {"time": [78], "w": ["new"]}, schema_mode="merge")
    put(log, store, 3)
    assert len(commits_of(store)) == 5
    assert "metaData" not in actions_of(store, 4)
    found = plain(by_deltalake(store.root / FOLDER))
    assert len(found) == 8
    assert {"time": 78, "w": "new"} in found
    assert delta_log(store).committed(CPU) == make_lsn(1, 3)


def test_files_that_a_compactor_made_are_promoted_as_well(log: TableLog, store: LocalStore) -> None:
    for number in (1, 2, 3):
        put(log, store, number)
    deltalake.DeltaTable(str(store.root / FOLDER)).optimize.compact()
    put(log, store, 4, FLOATS, {"time": [4], "v": [0.5]})
    found = by_deltalake(store.root / FOLDER)
    assert found.schema.field("v").type == pa.float64()
    assert found.num_rows == 7
    assert by_polars(store.root / FOLDER).num_rows == 7


def foreign(change: Callable[[dict[str, Any]], None]) -> Callable[[LocalStore], None]:
    """Somebody changes the table's schema."""

    def commit(store: LocalStore) -> None:
        meta = actions_of(store, 0)["metaData"][0]
        change(meta)
        write_commit(store, 1, [{"metaData": meta}])

    return commit


def write_commit(store: LocalStore, version: int, actions: Sequence[dict[str, Any]]) -> None:
    path = store.root / FOLDER / "_delta_log" / f"{version:020d}.json"
    path.write_text("\n".join(map(json.dumps, actions)) + "\n", encoding="utf-8")


def set_type(name: str, type_: Any, **other: Any) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        schema = json.loads(meta["schemaString"])
        for field in schema["fields"]:
            if field["name"] == name:
                field |= {"type": type_, **other}
        meta["schemaString"] = json.dumps(schema)

    return change


def upgrade(store: LocalStore) -> None:
    write_commit(store, 1, [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 4}}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (upgrade, "writer version 4"),
        (foreign(set_type("v", "string")), "'v' is string in the table and int64 here"),
        (foreign(set_type("time", "timestamp_ntz")), "column 'time' of the table"),
        (foreign(set_type("v", "long", nullable=False)), "refuses nulls"),
        (foreign(set_type("v", "long", metadata={"delta.invariants": "{}"})), "invariant"),
        (foreign(lambda meta: meta.update(partitionColumns=["host"])), "partitioned by"),
        (foreign(lambda meta: meta.update(schemaString="{")), "cannot be read"),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_table_that_somebody_changed_beyond_us_is_refused_and_left_alone(
    log: TableLog,
    store: LocalStore,
    change: Callable[[LocalStore], None],
    message: str,
    restart: bool,
) -> None:
    put(log, store, 1)
    change(store)
    before = files_of(store)
    with pytest.raises(StorageError, match=message):
        put(delta_log(store) if restart else log, store, 2, TableSchema(INTS.columns, 2))
    assert files_of(store) == before
    assert len(commits_of(store)) == 2


def test_a_log_that_lacks_its_beginning_is_refused(log: TableLog, store: LocalStore) -> None:
    put(log, store, 1)
    put(log, store, 2)
    os.unlink(store.root / FOLDER / "_delta_log" / f"{0:020d}.json")
    with pytest.raises(StorageError, match="begins with version 1"):
        delta_log(store).committed(CPU)


def test_a_table_that_is_removed_while_we_run_begins_anew(log: TableLog, store: LocalStore) -> None:
    put(log, store, 1)
    shutil.rmtree(store.root / FOLDER)
    files = stage(store, hours(2), marks(2))
    try:
        log.commit(CPU, files, marks(2), INTS)
    except StorageError:  # the store remembered folders that are gone, once
        log.commit(CPU, files, marks(2), INTS)
    assert_readers_agree(store, [hours(2)])


def test_a_log_that_others_cleaned_while_we_did_not_look_is_read_anew(
    log: TableLog, store: LocalStore
) -> None:
    put(log, store, 1)
    other = delta_log(store, shard=1)
    for number in (1, 2, 3):
        put(other, store, number, shard=1)
    deltalake.DeltaTable(str(store.root / FOLDER)).create_checkpoint()
    for version in range(3):
        os.unlink(store.root / FOLDER / "_delta_log" / f"{version:020d}.json")
    put(log, store, 2)
    assert commits_of(store) == [f"{version:020d}.json" for version in (3, 4)]
    assert len(plain(by_deltalake(store.root / FOLDER))) == 10


COMMIT_MANY = """
import sys, structlog
from pathlib import Path
from ingest.store import LocalStore
from tests import test_table_log as t
store, shard = LocalStore(sys.argv[1]), int(sys.argv[2])
log = t.delta_log(store, shard)
for number in range(1, 51):
    t.put(log, store, number, shard=shard, rows={"time": [number], "v": [shard]})
"""


def test_two_processes_that_commit_at_once_lose_nothing(store: LocalStore) -> None:
    command = [sys.executable, "-c", COMMIT_MANY, str(store.root)]
    started = [subprocess.Popen([*command, str(shard)]) for shard in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    rows: list[Rows] = [
        {"time": [number], "v": [shard]} for shard in range(2) for number in range(1, 51)
    ]
    assert_readers_agree(store, rows)
    assert commits_of(store) == [f"{version:020d}.json" for version in range(100)]
    assert staged_of(store) == []


def test_threads_may_commit_to_one_table_at_once(store: LocalStore) -> None:
    logs = [delta_log(store, shard) for shard in range(4)]
    failures: list[BaseException] = []

    def run(shard: int) -> None:
        try:
            for number in range(1, 11):
                rows: Rows = {"time": [number], "v": [shard]}
                put(logs[shard], store, number, shard=shard, rows=rows)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(shard,)) for shard in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(commits_of(store)) == 40
    assert by_deltalake(store.root / FOLDER).num_rows == 40


# --- checkpoints -----------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_log, "CHECKPOINT_VERSIONS", 3)


def log_names(store: LocalStore) -> set[str]:
    return set(os.listdir(store.root / FOLDER / "_delta_log"))


def test_columns_that_differ_in_case_only_never_get_into_a_table(
    log: TableLog, store: LocalStore
) -> None:
    real = ColumnSpec(ColumnType.FLOAT64)
    for columns in ({"Time": real}, {"x": real, "X": real}):
        with pytest.raises(StorageError, match="differ in case only"):
            put(log, store, 1, TableSchema(columns, 1), {"time": [1]})
    put(log, store, 1)
    with pytest.raises(StorageError, match="'v' and 'V' differ in case only"):
        put(log, store, 2, TableSchema({**INTS.columns, "V": real}, 2))
    assert_readers_agree(store, [hours(1)])


def test_readers_agree_on_columns_with_any_other_name(log: TableLog, store: LocalStore) -> None:
    names = ["a b", "x,y;{}()=", "a.b", "a\nb\t", "é" * 100, "\"'`\\", "%20", "_delta_log"]
    schema = TableSchema({name: ColumnSpec(ColumnType.FLOAT64) for name in names}, 1)
    rows: Rows = {"time": [1]} | {name: [i + 0.5] for i, name in enumerate(names)}
    put(log, store, 1, schema, rows)
    assert_readers_agree(store, [rows])


@pytest.mark.usefixtures("often")
def test_readers_agree_across_checkpoints(log: TableLog, store: LocalStore) -> None:
    for number in range(1, 5):
        put(log, store, number)
    assert f"{3:020d}.checkpoint.parquet" in log_names(store)
    restarted = delta_log(store)
    assert restarted.committed(CPU) == make_lsn(1, 4)
    put(restarted, store, 5, FLOATS, {"time": [7], "v": [0.5]})
    for number in range(6, 9):
        put(restarted, store, number, FLOATS)
    assert f"{6:020d}.checkpoint.parquet" in log_names(store)
    before = [{**hours(number), "v": [float(number), None]} for number in range(1, 5)]
    after = [{**hours(number), "v": [float(number), None]} for number in range(6, 9)]
    assert_readers_agree(store, [*before, {"time": [7], "v": [0.5]}, *after])
    again = delta_log(store)
    put(again, store, 9, FLOATS)
    assert "metaData" not in actions_of(store, 8)


def tear(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zero_the_middle(content: bytes) -> bytes:
    return content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :]


TORN = {
    "half a checkpoint": (f"{3:020d}.checkpoint.parquet", tear),
    "no checkpoint": (f"{3:020d}.checkpoint.parquet", lambda content: b""),
    "pages that were lost": (f"{3:020d}.checkpoint.parquet", zero_the_middle),
    "half a pointer": ("_last_checkpoint", tear),
    "no pointer": ("_last_checkpoint", lambda content: b""),
    "a pointer to nothing": ("_last_checkpoint", lambda content: b'{"version":9,"size":1}'),
}


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("damage", TORN)
def test_a_torn_checkpoint_is_removed_and_the_table_is_whole(
    log: TableLog, store: LocalStore, damage: str
) -> None:
    for number in range(1, 6):
        put(log, store, number)
    name, tear_it = TORN[damage]
    path = store.root / FOLDER / "_delta_log" / name
    path.write_bytes(tear_it(path.read_bytes()))
    restarted = delta_log(store)
    assert restarted.committed(CPU) == make_lsn(1, 5)
    put(restarted, store, 6)
    assert_readers_agree(store, [hours(number) for number in range(1, 7)])


@pytest.mark.usefixtures("often")
def test_a_checkpoint_that_fails_does_not_fail_the_commit(
    log: TableLog, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(deltalake.DeltaTable, "create_checkpoint", refuse)
    with structlog.testing.capture_logs() as logs:
        for number in range(1, 5):
            put(log, store, number)
    assert [entry["event"] for entry in logs] == ["checkpoint_failed"]
    assert_readers_agree(store, [hours(number) for number in range(1, 5)])


@pytest.mark.usefixtures("often")
def test_a_checkpoint_is_synced_before_the_log_is_cleaned(tmp_path: Path) -> None:
    calls = CountedCalls()
    store = LocalStore(tmp_path / "data", calls)
    log = delta_log(store)
    for number in range(1, 4):
        put(log, store, number)
    calls.names.clear()
    put(log, store, 4)
    assert calls.names[-5:] == ["remove"] * 2 + ["sync_file"] * 2 + ["sync_directory"]


# --- disks that refuse, and crashes ----------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


class CountedCalls(SystemCalls):
    """The real calls, one of which fails: once, or it and all that follow."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fail_at = -1
        self.lasting = False
        self.after = False  # fail when the call has done its work
        self.error: Callable[[], BaseException] = lambda: OSError(errno.EIO, "injected")

    def arm(self, at: int, *, lasting: bool = False, after: bool = False) -> None:
        self.names, self.fail_at, self.lasting, self.after = [], at, lasting, after

    def _fails(self) -> bool:
        at = len(self.names) - 1
        return at == self.fail_at or (self.lasting and 0 <= self.fail_at < at)

    def _run(self, name: str, *args: Any) -> Any:
        self.names.append(name)
        fails = self._fails()
        if fails and not (self.after and len(self.names) - 1 == self.fail_at):
            raise self.error()
        result = getattr(super(), name)(*args)
        if fails:
            if isinstance(result, int) and name in ("create", "lock"):
                os.close(result)
            raise self.error()
        return result

    def create(self, path: Path) -> int:
        found: int = self._run("create", path)
        return found

    def lock(self, path: Path) -> int:
        found: int = self._run("lock", path)
        return found

    def write(self, descriptor: int, content: bytes) -> None:
        self._run("write", descriptor, content)

    def sync(self, descriptor: int) -> None:
        self._run("sync", descriptor)

    def sync_file(self, path: Path) -> None:
        self._run("sync_file", path)

    def sync_directory(self, path: Path) -> None:
        self._run("sync_directory", path)

    def link(self, source: Path, target: Path) -> None:
        self._run("link", source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._run("rename", source, target)

    def make_directory(self, path: Path) -> None:
        self._run("make_directory", path)

    def remove(self, path: Path) -> None:
        self._run("remove", path)


class Scene:
    """A table with a commit, and a second one to be disturbed."""

    def __init__(self, root: Path, template: Path, schema: TableSchema) -> None:
        shutil.copytree(template, root)
        self.calls = CountedCalls()
        self.store = LocalStore(root, self.calls)
        self.log = delta_log(self.store)
        self.schema = schema
        self.log.committed(CPU)
        value = 2 if schema is INTS else 0.5
        self.new: Rows = {"time": [8, HOUR_US + 8], "v": [value, None]}

    def flush(self) -> None:
        """As the writer does it."""
        files: list[StagedFile] = []
        range_ = marks(2)
        try:
            files += stage(self.store, self.new, range_, self.schema)
            self.log.commit(CPU, files, range_, self.schema)
        except BaseException:
            self.store.discard(files)
            raise

    def rows(self) -> int:
        """How many rows the table has, by a reader that was not here before."""
        return int(by_deltalake(self.store.root / FOLDER).num_rows)

    def files(self) -> list[Path]:
        """The files that lie in the folders of the hours; exactly those of the table."""
        uris = deltalake.DeltaTable(str(self.store.root / FOLDER)).file_uris()
        found = hour_files(self.store)
        assert sorted(map(str, found)) == sorted(uris)
        return found

    def restart(self) -> DeltaTableLog:
        """Another process, after this one was killed."""
        self.store = LocalStore(self.store.root)
        self.log = delta_log(self.store)
        self.log.recover()
        return self.log


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with one commit, to be copied."""
    store = LocalStore(tmp_path_factory.mktemp("template") / "data")
    put(delta_log(store), store, 1)
    return store.root


@pytest.fixture
def scenes(tmp_path: Path, template: Path) -> Callable[[TableSchema], Iterator[Scene]]:
    """Fresh scenes for as long as the failure falls into the flush."""

    def make(schema: TableSchema) -> Iterator[Scene]:
        whole = Scene(tmp_path / "whole", template, schema)
        whole.calls.arm(-1)
        whole.flush()
        for at in range(len(whole.calls.names)):
            yield Scene(tmp_path / f"{at}", template, schema)
            shutil.rmtree(tmp_path / f"{at}")

    return make


@pytest.mark.parametrize("schema", [INTS, FLOATS], ids=["append", "promotion"])
@pytest.mark.parametrize(
    ("lasting", "after"),
    [(False, False), (True, False), (False, True)],
    ids=["once", "from then on", "once, although it worked"],
)
def test_whichever_call_the_disk_refuses_a_repeat_stores_the_rows_once(
    scenes: Callable[[TableSchema], Iterator[Scene]],
    schema: TableSchema,
    after: bool,
    lasting: bool,
) -> None:
    for at, scene in enumerate(scenes(schema)):
        scene.calls.arm(at, lasting=lasting, after=after)
        refused = False
        try:
            scene.flush()
        except StorageError:
            refused = True
        assert scene.rows() in ((2, 4) if refused else (4,))
        scene.calls.arm(-1)
        scene.flush()
        in_process = len(hour_files(scene.store))
        assert scene.log.committed(CPU) == make_lsn(1, 2)
        scene.restart()
        assert staged_of(scene.store) == []
        assert len(hour_files(scene.store)) == 4
        assert in_process == 4 or lasting or schema is FLOATS
        assert scene.rows() == len(scene.files()) == 4


@pytest.mark.parametrize("schema", [INTS, FLOATS], ids=["append", "promotion"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_wherever_the_process_ends_the_rows_are_stored_once(
    scenes: Callable[[TableSchema], Iterator[Scene]], schema: TableSchema, after: bool
) -> None:
    for at, scene in enumerate(scenes(schema)):
        scene.calls.error = Crash
        scene.calls.arm(at, lasting=True, after=after)
        with pytest.raises(Crash):
            scene.flush()
        log = scene.restart()
        assert staged_of(scene.store) == []
        if log.committed(CPU) < make_lsn(1, 2):
            assert scene.rows() == len(scene.files()) == 2
            scene.flush()
        assert scene.rows() == len(scene.files()) == 4


def test_a_crash_before_the_first_commit_leaves_no_file(tmp_path: Path) -> None:
    for at in range(40):
        calls = CountedCalls()
        store = LocalStore(tmp_path / f"{at}", calls)
        calls.error = Crash
        calls.arm(at, lasting=True)
        try:
            put(delta_log(store), store, 1)
        except Crash:
            pass
        else:
            assert at > 15
            return
        restarted = LocalStore(tmp_path / f"{at}")
        log = delta_log(restarted)
        log.recover()
        assert staged_of(restarted) == []
        assert bool(files_of(restarted)) == (log.committed(CPU) > 0)
        put(log, restarted, 1)
        assert_files_are_the_tables(restarted)
        shutil.rmtree(tmp_path / f"{at}")
    raise AssertionError("no commit went through")


def assert_files_are_the_tables(store: LocalStore) -> None:
    uris = deltalake.DeltaTable(str(store.root / FOLDER)).file_uris()
    assert sorted(uris) == sorted(map(str, hour_files(store)))


def test_a_start_leaves_the_files_of_other_shards_alone(store: LocalStore) -> None:
    theirs = stage(store, hours(1), marks(1, shard=1))
    store.publish(theirs)
    assert delta_log(store).recover() == table_log.Recovered()
    assert len(hour_files(store)) == len(staged_of(store)) == 2
    found = delta_log(store, shard=1).recover()
    assert (found.files_removed, found.staged_removed) == (2, 2)
    assert hour_files(store) == []


def test_leftovers_of_a_table_that_cannot_be_read_wait(store: LocalStore) -> None:
    log = delta_log(store)
    put(log, store, 1)
    files = stage(store, hours(2), marks(2))
    store.publish(files)
    whole = store.root / FOLDER / "_delta_log" / f"{0:020d}.json"
    content = whole.read_bytes()
    whole.write_bytes(b"{")
    with structlog.testing.capture_logs() as logs:
        assert delta_log(store).recover() == table_log.Recovered()
    assert [entry["event"] for entry in logs] == ["recovery_postponed"]
    whole.write_bytes(content)
    assert delta_log(store).recover() == table_log.Recovered(2, 2)
    assert_readers_agree(store, [hours(1)])


def test_a_leftover_that_is_no_parquet_file_is_removed(store: LocalStore) -> None:
    name = file_name(0, 1, 1, 1)
    torn = store.stage(
        f"{FOLDER}/{hour_dir(0)}/{name}",
        lambda path: Path(path).write_bytes(b"PAR1 and no more"),
        num_rows=1,
        min_time_us=0,
        max_time_us=0,
    )
    assert delta_log(store).recover() == table_log.Recovered(0, 1)
    assert not Path(torn.temporary).exists()
