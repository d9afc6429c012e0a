"""What clients read: every type in JSON and MessagePack, and the pieces of an Arrow stream."""

from __future__ import annotations

from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest

from ingest.query.answers import ArrowEncoder, RowEncoder, around_rows


def batch_of(sql: str) -> pa.RecordBatch:
    """The first batch of a query."""
    with duckdb.connect() as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        found = connection.cursor().sql(sql).to_arrow_reader(1_000)
        return found.read_next_batch()


def in_json(batch: pa.RecordBatch) -> Any:
    return msgspec.json.decode(b"[" + RowEncoder(is_json=True).encode(batch) + b"]")


def in_msgpack(batch: pa.RecordBatch) -> Any:
    packed = RowEncoder(is_json=False).encode(batch)
    return msgspec.msgpack.decode(bytes([0x90 | batch.num_rows]) + packed)


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("1", 1),
        ("-9223372036854775808", -(2**63)),
        ("18446744073709551615::UBIGINT", 2**64 - 1),
        ("sum(9223372036854775807) FROM range(2)", 2**64 - 2),
        ("sum(9223372036854775807) FROM range(3)", str(3 * (2**63 - 1))),
        ("170141183460469231731687303715884105727", str(2**127 - 1)),
        ("0.1::DOUBLE", 0.1),
        ("2.50", 2.5),
        ("'nan'::DOUBLE", None),
        ("'-inf'::DOUBLE", None),
        ("true", True),
        ("NULL", None),
        ("NULL::BIGINT", None),
        ("NULL::TIMESTAMPTZ", None),
        ("'é\"\\'", 'é"\\'),
        ("'ab'::BLOB", "YWI="),
        ("TIMESTAMPTZ '2026-01-02 03:04:05.5+01'", "2026-01-02T02:04:05.5Z"),
        ("TIMESTAMP '2026-01-02'", "2026-01-02T00:00:00Z"),
        ("TIMESTAMP_NS '2026-01-02 00:00:00.000000001'", "2026-01-02T00:00:00.000000001Z"),
        ("TIMESTAMPTZ '1901-02-03 04:05:06.000007+00'", "1901-02-03T04:05:06.000007Z"),
        ("'infinity'::TIMESTAMPTZ", "infinity"),
        ("'-infinity'::TIMESTAMP", "-infinity"),
        ("DATE '2026-01-02'", "2026-01-02"),
        ("TIME '03:04:05'", "03:04:05"),
        ("INTERVAL '14 months 3 days 1.5 seconds'", "P14M3DT1.5S"),
        ("INTERVAL '0 s'", "PT0S"),
        ("'a'::ENUM('a', 'b')", "a"),
        ("[1, NULL]", [1, None]),
        ("{'a': 1, 'b': {'c': DATE '2026-01-02'}}", {"a": 1, "b": {"c": "2026-01-02"}}),
        ("[TIMESTAMPTZ '2026-01-02 00:00:00+00']", ["2026-01-02T00:00:00Z"]),
        ("['nan'::DOUBLE, 1]", [None, 1.0]),
        ("['ab'::BLOB]", ["YWI="]),
        ("MAP {'a': 1}", [["a", 1]]),
        ("uuid '00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
        ("'{\"a\": 1}'::JSON", '{"a": 1}'),
    ],
)
def test_a_value_of_every_type_in_json(sql: str, value: object) -> None:
    assert in_json(batch_of(f"SELECT {sql}")) == [[value]]


def test_messagepack_keeps_what_json_has_no_form_for() -> None:
    batch = batch_of("SELECT 'ab'::BLOB, 'inf'::DOUBLE, 2.5, 1, NULL, TIMESTAMPTZ '2026-01-02'")
    assert in_msgpack(batch) == [[b"ab", float("inf"), 2.5, 1, None, "2026-01-02T00:00:00Z"]]


def test_nulls_stand_where_they_were() -> None:
    sql = (
        "SELECT if(i % 2 = 0, NULL, i), if(i % 2 = 0, NULL, i / 2), "
        "if(i % 2 = 0, NULL, make_timestamp(i)), if(i % 2 = 0, NULL, i::VARCHAR) FROM range(4) t(i)"
    )
    nulls = [None] * 4
    assert in_json(batch_of(sql)) == [
        nulls,
        [1, 0.5, "1970-01-01T00:00:00.000001Z", "1"],
        nulls,
        [3, 1.5, "1970-01-01T00:00:00.000003Z", "3"],
    ]


@pytest.mark.parametrize("is_json", [True, False], ids=["JSON", "MessagePack"])
@pytest.mark.parametrize("rows", [0, 1, 70_000])
def test_the_object_around_the_rows_is_whole(is_json: bool, rows: int) -> None:
    batch = pa.record_batch({"a": pa.array(range(rows), pa.int64())})
    head, tail = around_rows(["a"], rows, 0.5, is_json)
    decode: Any = msgspec.json.decode if is_json else msgspec.msgpack.decode
    found = decode(head + RowEncoder(is_json).encode(batch) + tail)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "success": True,
        "columns": ["a"],
        "data": [[i] for i in range(rows)],
        "row_count": rows,
        "execution_time_ms": 500.0,
    }


def test_columns_of_one_name_are_all_there() -> None:
    assert in_json(batch_of("SELECT 1 AS a, 2 AS a")) == [[1, 2]]


def test_an_arrow_stream_is_put_together_from_its_pieces() -> None:
    batch = batch_of("SELECT i, ['x', NULL] AS l, 'a'::ENUM('a') AS e FROM range(3) t(i)")
    encoder = ArrowEncoder(batch.schema)
    pieces = [encoder.begin(), encoder.encode(batch), encoder.encode(batch), encoder.end()]
    table = pa.ipc.open_stream(b"".join(map(bytes, pieces))).read_all()
    assert table.num_rows == 6
    assert table.schema.field("e").type == pa.string()
    assert table.slice(0, 1).to_pylist() == [{"i": 0, "l": ["x", None], "e": "a"}]


def test_an_empty_arrow_stream_has_its_schema() -> None:
    encoder = ArrowEncoder(pa.schema([("a", pa.int64())]))
    table = pa.ipc.open_stream(bytes(encoder.begin()) + encoder.end()).read_all()
    assert (table.num_rows, table.schema.names) == (0, ["a"])
