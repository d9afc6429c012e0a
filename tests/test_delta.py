"""Commits say what the Delta protocol wants, and what others say is understood or refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import delta
from ingest.columns import ColumnType
from ingest.errors import IngestError, StaleSchemaError, StorageError
from ingest.schema import ColumnSpec, TableSchema

INT, REAL, TEXT = (ColumnSpec(kind) for kind in ("int64", "float64", "utf8"))  # type: ignore[arg-type]


def schema(version: int = 1, **columns: ColumnSpec) -> TableSchema:
    return TableSchema(columns, version)


def table(**columns: ColumnSpec) -> delta.TableMeta:
    return delta.new_table(TableSchema(columns, 1), "an-id", 1_000)


def fields(meta: delta.TableMeta | None) -> list[dict[str, Any]]:
    assert meta is not None
    found = json.loads(meta.action["schemaString"])
    assert found["type"] == "struct"
    assert found["fields"] == list(msgspec.to_builtins(meta.fields))
    listed: list[dict[str, Any]] = found["fields"]
    return listed


def test_every_type_has_its_name_in_a_new_table() -> None:
    columns = {kind.value: ColumnSpec(kind) for kind in delta.TYPES}
    meta = delta.new_table(TableSchema(columns, 7), "an-id", 1_000)
    assert {field["name"]: field["type"] for field in fields(meta)} == {
        "time": "timestamp",
        "int64": "long",
        "float64": "double",
        "utf8": "string",
        "bool": "boolean",
        "binary": "binary",
    }
    assert [field["nullable"] for field in fields(meta)] == [False] + [True] * 5
    assert meta.action["configuration"][delta.SCHEMA_VERSION_KEY] == "7"
    assert delta.TYPES.keys() == set(ColumnType) - {ColumnType.UINT64}


def test_tags_come_first_and_are_marked() -> None:
    found = fields(table(v=INT, host=ColumnSpec(ColumnType.UTF8, is_tag=True)))
    assert [field["name"] for field in found] == ["time", "host", "v"]
    assert [field["metadata"] for field in found] == [{}, {delta.TAG_KEY: True}, {}]


def test_a_table_that_suffices_is_left_alone() -> None:
    meta = table(v=INT, w=TEXT)
    assert delta.evolve(meta, schema(9, v=INT)) == delta.SchemaChange()
    wide = ColumnSpec(ColumnType.INT64, wide=True)
    assert delta.evolve(meta, schema(9, v=wide, w=TEXT)) == delta.SchemaChange()


def test_new_columns_come_last_and_everything_else_of_the_table_stays() -> None:
    old = table(v=INT)
    old.action["configuration"]["owner"] = "somebody"
    change = delta.evolve(old, schema(4, w=TEXT, v=INT))
    assert change.promoted == ()
    assert [field["name"] for field in fields(change.meta)] == ["time", "v", "w"]
    assert change.meta is not None
    assert change.meta.action["id"] == "an-id"
    assert change.meta.action["configuration"] == {
        "delta.logRetentionDuration": delta.LOG_RETENTION,
        "owner": "somebody",
        delta.SCHEMA_VERSION_KEY: "4",
    }


def test_an_integer_column_becomes_float_and_keeps_its_place() -> None:
    change = delta.evolve(table(a=INT, b=INT), schema(2, a=REAL, b=INT))
    assert change.promoted == ("a",)
    assert [field["type"] for field in fields(change.meta)] == ["timestamp", "double", "long"]


def test_files_with_integers_are_stale_in_a_table_with_floats() -> None:
    with pytest.raises(StaleSchemaError):
        delta.evolve(table(a=REAL), schema(1, a=INT))


@pytest.mark.parametrize(("stored", "built"), [(TEXT, REAL), (REAL, TEXT), (INT, TEXT)])
def test_any_other_change_of_type_is_refused(stored: ColumnSpec, built: ColumnSpec) -> None:
    with pytest.raises(StorageError, match="somebody else changed"):
        delta.evolve(table(a=stored), schema(2, a=built))


def test_a_nested_column_of_somebody_else_is_kept() -> None:
    meta = table(v=INT)
    found = json.loads(meta.action["schemaString"])
    nested = {"type": "array", "elementType": "long", "containsNull": True}
    found["fields"].append({"name": "l", "type": nested, "nullable": True, "metadata": {}})
    theirs = delta.parse_meta(meta.action | {"schemaString": json.dumps(found)})
    change = delta.evolve(theirs, schema(2, v=INT, w=TEXT))
    assert fields(change.meta)[2]["type"] == nested


@pytest.mark.parametrize("path", ["2026/01/02/03/s000-e1.parquet", "a b/ü%20#?.parquet", "a+b=c"])
def test_a_path_is_encoded_and_read_back(path: str) -> None:
    assert delta.decoded_path(delta.encoded_path(path)) == path
    assert delta.encoded_path(path).isascii()


def test_a_path_of_ours_is_not_changed_by_encoding() -> None:
    path = "2026/01/02/03/s000-e000001-000000000001-000000000042-v000002-s000.parquet"
    assert delta.encoded_path(path) == path
    assert delta.relative_path("@50rod/disk@2Fio", f"@50rod/disk@2Fio/{path}") == path
    with pytest.raises(IngestError, match="BUG"):
        delta.relative_path("@50rod/disk", f"@50rod/disk@2Fio/{path}")


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_767_322_800_000_001, "2026-01-02T03:00:00.000001Z"),
        (-2_208_988_800_000_000, "1900-01-01T00:00:00.000000Z"),
        (9_223_372_036_854_775, "2262-04-11T23:47:16.854775Z"),
    ],
)
def test_statistics_keep_microseconds(time_us: int, text: str) -> None:
    assert json.loads(delta.statistics(3, time_us, time_us)) == {
        "numRecords": 3,
        "minValues": {"time": text},
        "maxValues": {"time": text},
        "nullCount": {"time": 0},
    }


def test_a_commit_of_ours_is_read_back() -> None:
    meta = table(v=INT)
    added = delta.AddedFile("x.parquet", 9, 5, delta.statistics(1, 0, 0))
    content = delta.encode_commit(
        [
            delta.commit_info(5, "WRITE"),
            delta.protocol(),
            {"metaData": meta.action},
            delta.txn("arc-000-a", 2**62, 5),
            delta.txn("arc-001-b", 8, 5),
            delta.remove("y.parquet", 5),
            delta.add(added),
        ]
    )
    assert content.count(b"\n") == 7
    facts = delta.read_commit(content, "arc-000-a")
    assert (facts.meta, facts.txn_version) == (meta, 2**62)
    assert delta.read_commit(content, "arc-001-b").txn_version == 8
    assert delta.read_commit(content, "arc-00").txn_version == 0


@pytest.mark.parametrize("versions", [(2, 2), (1, 3), (3, 7)])
def test_a_protocol_above_ours_is_refused(versions: tuple[int, int]) -> None:
    action = {
        "protocol": dict(zip(("minReaderVersion", "minWriterVersion"), versions, strict=True))
    }
    with pytest.raises(StorageError, match=f"reader version {versions[0]}"):
        delta.read_commit(json.dumps(action).encode(), "a")


@pytest.mark.parametrize(
    "content", [b"{", b'{"txn":{"appId":"a"}}', b'{"txn":3}', b"\xff\xfe", b'{"metaData":{}}']
)
def test_a_commit_that_cannot_be_read_is_refused(content: bytes) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        delta.read_commit(content, "a")


def test_actions_that_we_do_not_know_are_passed_over() -> None:
    lines = [
        {"domainMetadata": {"domain": "x"}},
        {"cdc": {}},
        {"txn": {"appId": "a", "version": 3}},
    ]
    content = "\r\n".join(map(json.dumps, lines)).encode() + b"\n\n"
    assert delta.read_commit(content, "a") == delta.CommitFacts(None, 3)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_commit_or_refused(content: bytes) -> None:
    with contextlib.suppress(StorageError):
        delta.read_commit(content, "a")
