"""Files of our own encoder, against those of pyarrow's, as every engine reads them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench_table_build import as_plain
from ingest import parquet, parquet_pages, parquet_thrift
from ingest.errors import IngestError
from ingest.parquet import Compression, WriteOptions
from ingest.parquet_file import FileWriter, MemorySink, PathSink, leaves_of
from ingest.parquet_groups import GroupWriter

TIME = pa.timestamp("us", tz="UTC")
CODECS: tuple[Compression, ...] = ("none", "snappy", "lz4", "zstd")
ENCODINGS: tuple[Any, ...] = ("PLAIN", "DICTIONARY", "DELTA_BINARY_PACKED")

INTS = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1]) | st.integers(
    -(2**63), 2**63 - 1
)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324])
TEXTS = st.text(max_size=20) | st.sampled_from(["", "größe", "日本", "a\0b", "x" * 300])
BYTES = st.binary(max_size=20)


@pytest.fixture(scope="module", autouse=True)
def _few_rows_too() -> Iterator[None]:
    """Our encoder also for tables that are too small for it to pay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "MIN_OWN_ROWS", 1)
        yield


def table_of(columns: dict[str, pa.Array]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    time = pa.array(np.arange(rows) * 7 - 3, pa.int64()).cast(TIME)
    fields = [pa.field("time", TIME, nullable=False)]
    fields += [pa.field(name, array.type) for name, array in columns.items()]
    return pa.table([time, *columns.values()], schema=pa.schema(fields))


def options_of(table: pa.Table, encoding: Any, codec: Compression) -> WriteOptions:
    """One encoding for all columns that can have it."""
    names, encodings = table.column_names, {}
    if encoding == "DELTA_BINARY_PACKED":
        encodings = {
            field.name: encoding
            for field in table.schema
            if pa.types.is_int64(field.type) or field.type == TIME
        }
    dictionary = tuple(names) if encoding == "DICTIONARY" else ()
    return WriteOptions(dictionary, encodings, dict.fromkeys(names, codec))


def ask_duckdb(sql: str) -> duckdb.DuckDBPyRelation:
    found = duckdb.sql(sql)
    assert found is not None
    return found


def written(table: pa.Table, options: WriteOptions) -> bytes:
    sink = io.BytesIO()
    parquet.write(table, sink, options, {"arc:log": "0/1/1-1"})
    return sink.getvalue()


def bits(table: pa.Table) -> pa.Table:
    """Doubles as the integers that have their bits: NaN is NaN then, and -0.0 is not 0.0."""
    plain = as_plain(table)
    arrays = [
        column.combine_chunks().view(pa.int64()) if pa.types.is_float64(column.type) else column
        for column in plain.columns
    ]
    return pa.table(dict(zip(plain.column_names, arrays, strict=True)))


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert bits(found.replace_schema_metadata()).equals(bits(expected))


def torture() -> pa.Table:
    """Every type, nulls none, here and there, in blocks, everywhere; pages of all sorts."""
    rows = parquet_pages.PAGE_ROWS + 70
    rng = np.random.default_rng(1)
    here, blocks = rng.random(rows) < 0.1, np.arange(rows) // 5_000 % 2 > 0
    # Whole pages without a value, and without a null.
    halves = np.arange(rows) < parquet_pages.PAGE_ROWS
    full = rng.standard_normal(rows)
    full[:6] = [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324]
    decimals, ids = np.round(full, 2), rng.integers(-(2**63), 2**63 - 1, rows)
    words = np.array(["", "größe", "日本", "a\0b", "x" * 300])[rng.integers(0, 5, rows)]
    masks = {"": None, " here": here, " blocks": blocks, " late": halves, " early": ~halves}
    columns: dict[str, pa.Array] = {}
    for name, mask in masks.items():
        columns[f"full{name}"] = pa.array(full, mask=mask)
        columns[f"decimals{name}"] = pa.array(decimals, mask=mask)
        columns[f"ids{name}"] = pa.array(ids, mask=mask)
        columns[f"steps{name}"] = pa.array(np.arange(rows) * 3, mask=mask)
        columns[f"up{name}"] = pa.array(full > 0, mask=mask)
        columns[f"text{name}"] = pa.array(words, mask=mask)
        columns[f"tag{name}"] = pa.array(words, mask=mask).dictionary_encode()
        columns[f"one{name}"] = pa.array(np.full(rows, 0.25), mask=mask)
        columns[f"bytes{name}"] = pa.array(words, mask=mask).cast(pa.binary())
    for kind in (pa.float64(), pa.int64(), pa.bool_(), pa.utf8(), pa.binary()):
        columns[f"no {kind}"] = pa.nulls(rows, kind)
    columns["no tag"] = pa.nulls(rows, pa.utf8()).dictionary_encode()
    return table_of(columns)


TORTURE = torture()


@pytest.fixture(scope="module", params=ENCODINGS)
def tortured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torture") / "a.parquet"
    path.write_bytes(written(TORTURE, options_of(TORTURE, request.param, "lz4")))
    return path


# --- values ------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.none() | FLOATS, st.none() | INTS, st.none() | st.booleans(), st.none() | TEXTS,
            st.none() | BYTES, TEXTS,
        ),
        min_size=1, max_size=200,
    ),
    st.integers(0, 9),
    st.sampled_from(ENCODINGS),
    st.sampled_from(CODECS),
)  # fmt: skip
@settings(max_examples=60)
def test_whatever_pyarrow_would_have_written_is_read(
    rows: list[tuple[Any, ...]], skip: int, encoding: Any, codec: Compression
) -> None:
    floats, ints, bools, texts, binaries, tags = (
        list(column) for column in zip(*rows, strict=True)
    )
    table = table_of(
        {
            "f": pa.array(floats, pa.float64()),
            "i": pa.array(ints, pa.int64()),
            "b": pa.array(bools, pa.bool_()),
            "s": pa.array(texts, pa.utf8()),
            "x": pa.array(binaries, pa.binary()),
            "tag": pa.array(tags, pa.utf8()).dictionary_encode(),
            "maybe": pa.array(texts, pa.utf8()).dictionary_encode(),
        }
    ).slice(min(skip, len(rows) - 1))
    options = options_of(table, encoding, codec)
    found = pq.read_table(pa.BufferReader(written(table, options)))
    twin = pq.read_table(pa.BufferReader(parquet.pyarrow_file(table, options, None)))
    assert_same(found, twin)
    assert_same(found, table)


def test_pyarrow_reads_every_column_whatever_its_nulls(tortured: Path) -> None:
    assert_same(pq.read_table(tortured), TORTURE)


def test_duckdb_reads_every_column_whatever_its_nulls(tortured: Path) -> None:
    found = ask_duckdb(f"select * from '{tortured}'").to_arrow_table()
    found = found.set_column(0, "time", found["time"].cast(TIME))
    assert_same(found, TORTURE)


def test_polars_reads_every_column_whatever_its_nulls(tortured: Path) -> None:
    polars = pytest.importorskip("polars")
    found = polars.read_parquet(tortured).to_arrow()
    types = [field.type for field in as_plain(TORTURE).schema]
    arrays = [column.cast(kind) for column, kind in zip(found.columns, types, strict=True)]
    assert_same(pa.table(dict(zip(found.column_names, arrays, strict=True))), TORTURE)


def test_the_readers_of_delta_tables_take_the_files(tortured: Path) -> None:
    folder = tortured.parent
    if not (folder / "_delta_log").exists():
        deltalake.convert_to_deltalake(str(folder))
    query = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(str(folder)))
    found = pa.table(query.execute("select * from t").read_all())
    types = [field.type for field in as_plain(TORTURE).schema]
    arrays = [column.cast(kind) for column, kind in zip(found.columns, types, strict=True)]
    assert_same(pa.table(dict(zip(found.column_names, arrays, strict=True))), TORTURE)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 256, 257, 258])
def test_pages_end_anywhere(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "PAGE_ROWS", rows)
    table = TORTURE.slice(parquet_pages.PAGE_ROWS * 3, min(600, 40 * rows))
    for encoding in ENCODINGS:
        data = written(table, options_of(table, encoding, "none"))
        assert_same(pq.read_table(pa.BufferReader(data)), table)


def test_rows_can_be_read_from_the_middle(tortured: Path) -> None:
    """Readers that skip pages and values by their headers alone."""
    found = ask_duckdb(
        f"select steps, \"decimals here\" from '{tortured}' where steps between 196000 and 197000"
    ).fetchall()
    kept = TORTURE.slice(65_334, 333)
    expected = list(zip(kept["steps"].to_pylist(), kept["decimals here"].to_pylist(), strict=True))
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert [row[1] for row in found] == [row[1] for row in expected]


# --- dictionaries ------------------------------------------------------------------------------


def encodings_of(data: bytes, name: str) -> set[str]:
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    chunks = [group.column(place) for place in range(group.num_columns)]
    return set(next(chunk.encodings for chunk in chunks if chunk.path_in_schema == name))


@pytest.mark.parametrize("distinct", [1, 2, 2_048, 2_049, 16_384, 16_385, 131_072])
def test_dictionaries_grow_as_far_as_every_writer_lets_them(distinct: int) -> None:
    values = np.random.default_rng(2).permutation(np.arange(140_000) % distinct) / 3
    table = table_of({"v": pa.array(values)})
    data = written(table, options_of(table, "DICTIONARY", "none"))
    assert "RLE_DICTIONARY" in encodings_of(data, "v")
    assert_same(pq.read_table(pa.BufferReader(data)), table)


def test_too_many_values_for_a_dictionary_are_written_without() -> None:
    many = np.arange(131_073)
    text = pa.array([f"{value:012d}" for value in many]).dictionary_encode()
    table = table_of({"v": pa.array(many / 3), "i": pa.array(many * 2**40), "s": text})
    data = written(table, options_of(table, "DICTIONARY", "none"))
    assert encodings_of(data, "v") == {"RLE", "PLAIN"}
    assert encodings_of(data, "i") == {"RLE", "DELTA_BINARY_PACKED"}
    assert encodings_of(data, "s") == {"RLE", "PLAIN"}
    assert_same(pq.read_table(pa.BufferReader(data)), table)


def test_a_large_dictionary_of_text_is_kept_where_its_values_repeat() -> None:
    words = pa.array([f"{value:0100d}" for value in range(20_000)])
    for rows, encoding in ((39_999, "PLAIN"), (40_000, "RLE_DICTIONARY")):
        indices = pa.array(np.arange(rows, dtype=np.int32) % 20_000)
        table = table_of({"s": pa.DictionaryArray.from_arrays(indices, words)})
        data = written(table, options_of(table, "DICTIONARY", "lz4"))
        assert encoding in encodings_of(data, "s")
        assert_same(pq.read_table(pa.BufferReader(data)), table)


def test_a_dictionary_may_hold_nulls_and_more_than_is_used() -> None:
    words = pa.array(["unused", "a", None, "b"])
    indices = pa.array([1, None, 2, 3, 3], pa.int32())
    table = table_of({"s": pa.DictionaryArray.from_arrays(indices, words)})
    data = written(table, options_of(table, "DICTIONARY", "lz4"))
    assert pq.read_table(pa.BufferReader(data))["s"].to_pylist() == ["a", None, None, "b", "b"]
    words = pa.array(["unused", "a", "c", "b"])
    table = table_of({"s": pa.DictionaryArray.from_arrays(indices, words)})
    data = written(table, options_of(table, "DICTIONARY", "lz4"))
    assert pq.read_table(pa.BufferReader(data))["s"].to_pylist() == ["a", None, "c", "b", "b"]
    assert "RLE_DICTIONARY" in encodings_of(data, "s")


ODD = (math.nan, -math.nan, math.inf, -math.inf, -0.0, 1e300, 0.1 + 0.2, 5e-324, 1e9, 2.0**53)


@pytest.mark.parametrize("decimals", range(8))
def test_doubles_of_few_decimals_come_back_bit_by_bit(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    integers = rng.integers(-1_000, 5_000, 3_000)
    table = table_of(
        {
            "quotient": pa.array(integers / 10.0**decimals),
            "product": pa.array(integers * 10.0**-decimals),
            "large": pa.array(np.round(integers / 10.0**decimals + 9e8, decimals)),
        }
    )
    data = written(table, options_of(table, "DICTIONARY", "none"))
    assert_same(pq.read_table(pa.BufferReader(data)), table)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("row", [0, 777, 2_999])
def test_one_value_unlike_the_others_is_kept_as_it_is(odd: float, row: int) -> None:
    values = np.random.default_rng(1).integers(-500, 500, 3_000) / 100
    values[row] = odd
    table = table_of({"v": pa.array(values)})
    data = written(table, options_of(table, "DICTIONARY", "none"))
    assert "RLE_DICTIONARY" in encodings_of(data, "v")
    assert_same(pq.read_table(pa.BufferReader(data)), table)


@given(
    st.lists(st.decimals(-1000, 1000, places=3).map(float) | FLOATS, min_size=1),
    st.integers(0, 6),
)
@settings(max_examples=60)
def test_doubles_of_any_kind_together_come_back(values: list[float], decimals: int) -> None:
    rounded = [round(value, decimals) if abs(value) < 1e6 else value for value in values]
    table = table_of({"v": pa.array(rounded * 3, pa.float64())})
    data = written(table, options_of(table, "DICTIONARY", "none"))
    assert_same(pq.read_table(pa.BufferReader(data)), table)


def dictionary_of(array: pa.Array) -> tuple[list[Any], int]:
    """Values of the dictionary page of a column, and how many bytes the column takes."""
    table = table_of({"v": array})
    leaf = parquet_pages.leaf_of(table.schema.field("v"))
    assert leaf is not None
    codec = parquet_pages.CODECS["none"]
    chunk = parquet_pages.encode_column(array, leaf, "DICTIONARY", codec, 4)
    return np.frombuffer(chunk.pieces[1], np.int64).tolist(), chunk.facts.stored_bytes


@pytest.mark.parametrize("first", [-(2**63), -7, 0, 2**63 - 1 - 999])
def test_integers_of_a_narrow_range_need_no_hashing(first: int) -> None:
    values = first + np.random.default_rng(2).permutation(np.arange(1_000)) // 2 * 2
    found, _ = dictionary_of(pa.array(values))
    assert found == list(range(first, first + 1_000, 2))


def test_integers_of_a_wide_range_are_numbered_as_they_come() -> None:
    assert dictionary_of(pa.array([2**63 - 1, -(2**63), 0, 2**63 - 1]))[0] == [
        2**63 - 1, -(2**63), 0,
    ]  # fmt: skip


# --- text --------------------------------------------------------------------------------------


def test_text_is_cut_into_pages_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "PAGE_TEXT_BYTES", 100)
    values = ["x" * size for size in (0, 40, 60, 1, 500, 0, 99, 1, 1, 0)] * 3
    table = table_of({"s": pa.array(values)}).slice(1)
    data = written(table, options_of(table, "PLAIN", "none"))
    assert_same(pq.read_table(pa.BufferReader(data)), table)
    leaf = parquet_pages.leaf_of(table.schema.field("s"))
    assert leaf is not None
    text = table["s"].chunk(0)
    chunk = parquet_pages.encode_column(text, leaf, "PLAIN", parquet_pages.CODECS["none"], 4)
    assert chunk.facts.num_data_pages == 13


# --- what the footer says ----------------------------------------------------------------------


def test_the_footer_says_what_pyarrow_would_say(tmp_path: Path) -> None:
    for encoding in ENCODINGS:
        for codec in CODECS:
            # Of columns of nulls alone pyarrow writes empty dictionaries.
            names = [name for name in TORTURE.column_names if not name.startswith("no ")]
            table = TORTURE.select(names).slice(parquet_pages.PAGE_ROWS - 2_500, 2_570)
            options = options_of(table, encoding, codec)
            ours = pq.read_metadata(pa.BufferReader(written(table, options)))
            metadata = {"arc:log": "0/1/1-1"}
            twin = pq.read_metadata(pa.BufferReader(parquet.pyarrow_file(table, options, metadata)))
            assert ours.schema.equals(twin.schema)
            assert ours.metadata == twin.metadata
            for name in ("num_rows", "num_row_groups", "num_columns", "format_version"):
                assert getattr(ours, name) == getattr(twin, name)
            for place in range(ours.num_columns):
                chunk, other = (each.row_group(0).column(place) for each in (ours, twin))
                for name in (
                    *("physical_type", "path_in_schema", "compression", "num_values"),
                    *("is_stats_set", "statistics", "has_dictionary_page", "file_offset"),
                ):
                    assert getattr(chunk, name) == getattr(other, name), (name, place)
                assert set(chunk.encodings) == set(other.encodings), place


def test_sizes_and_places_in_the_footer_are_those_of_the_pages(tortured: Path) -> None:
    footer = pq.read_metadata(tortured)
    place = 4
    for group in [footer.row_group(number) for number in range(footer.num_row_groups)]:
        chunks = [group.column(number) for number in range(group.num_columns)]
        assert group.total_byte_size == sum(chunk.total_uncompressed_size for chunk in chunks)
        for chunk in chunks:
            first = chunk.dictionary_page_offset or chunk.data_page_offset
            assert first == place
            place += chunk.total_compressed_size
    assert place + footer.serialized_size + 8 == tortured.stat().st_size


def test_the_writer_gives_its_name() -> None:
    table = TORTURE.slice(0, 5)
    data = written(table, parquet.plan(table))
    assert pq.read_metadata(pa.BufferReader(data)).created_by == "Arc version 1.0.0"


@pytest.mark.parametrize("bits", [*range(40), 62])
def test_varints_have_seven_bits_a_byte(bits: int) -> None:
    for value in (1 << bits, (1 << bits) - 1, (1 << bits) + 5):
        data = parquet_thrift.varint(value)
        found = sum((byte & 127) << 7 * place for place, byte in enumerate(data))
        assert found == value
        assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]
        assert len(data) == max(1, -(-value.bit_length() // 7))


# --- many groups, other types, sinks -----------------------------------------------------------


def test_many_row_groups_are_read_as_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 1_000)
    table = TORTURE.slice(60_000, 5_500)
    parquet.write(table, tmp_path / "a.parquet", parquet.plan(table, "zstd"))
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 6
    assert_same(pq.read_table(tmp_path / "a.parquet"), table)
    count = ask_duckdb(f"select count(*), count(tag) from '{tmp_path}/a.parquet'").fetchall()
    assert count == [(5_500, 5_500)]


def test_a_table_of_many_chunks_is_one_row_group() -> None:
    table = pa.concat_tables([TORTURE.slice(0, 100), TORTURE.slice(100, 50)])
    data = written(table, options_of(table, "DICTIONARY", "lz4"))
    assert pq.read_metadata(pa.BufferReader(data)).num_row_groups == 1
    assert_same(pq.read_table(pa.BufferReader(data)), table)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, None], pa.int32()),
        pa.array([0.5, None], pa.float32()),
        pa.array([1, 2], pa.timestamp("ns")),
        pa.array(["a", "b"], pa.large_string()),
        pa.array([[1], None]),
        pa.array(["a", "b"]).cast(pa.dictionary(pa.int8(), pa.utf8())),
    ],
)
def test_types_that_are_not_ours_are_written_by_pyarrow(array: pa.Array, tmp_path: Path) -> None:
    table = table_of({"v": array})
    assert leaves_of(table.schema) is None
    options = WriteOptions((), {}, dict.fromkeys(table.column_names, "lz4"))
    data = written(table, options)
    assert pq.read_metadata(pa.BufferReader(data)).created_by.startswith("parquet-cpp")
    assert pq.read_table(pa.BufferReader(data))["v"].to_pylist() == array.to_pylist()


def test_groups_of_a_type_that_is_not_ours_are_written_by_pyarrow(tmp_path: Path) -> None:
    table = table_of({"v": pa.array([0.5, None, 1.5], pa.float32())})
    (tmp_path / "a").touch()
    with GroupWriter(str(tmp_path / "a"), "lz4", {"a": "b"}) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write(batch)
    assert pq.read_metadata(tmp_path / "a").metadata == {b"a": b"b"}
    assert pq.read_table(tmp_path / "a").equals(table.cast(pq.read_schema(tmp_path / "a")))


def test_small_tables_are_left_to_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MIN_OWN_ROWS", 100)
    for rows, writer in ((99, "parquet-cpp-arrow"), (100, "Arc")):
        table = TORTURE.slice(0, rows)
        parquet.write(table, tmp_path / "a", parquet.plan(table), {"a": "b"})
        (tmp_path / "b").touch()
        with GroupWriter(str(tmp_path / "b"), "lz4", {"a": "b"}) as groups:
            for batch in table.to_batches():
                groups.write(batch)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert pq.read_metadata(tmp_path / "a").created_by.startswith(writer)
        assert_same(pq.read_table(tmp_path / "a"), table)


def test_nulls_where_there_must_be_none_are_a_defect() -> None:
    fields = [pa.field("time", TIME, nullable=False)]
    batch = pa.record_batch([pa.array([1, None], TIME)], schema=pa.schema(fields))
    leaves = leaves_of(batch.schema)
    assert leaves is not None
    options = WriteOptions((), {}, {"time": "none"})
    with pytest.raises(IngestError, match="BUG: column 'time' has nulls"):
        FileWriter(MemorySink(), leaves, options.way_of).write(batch)


def test_a_path_takes_any_number_of_pieces(tmp_path: Path) -> None:
    pieces = [bytes([i % 256]) * (i % 5) for i in range(5_000)]
    sink = PathSink(str(tmp_path / "a"))
    sink.put(pieces)
    sink.put([np.full(3 << 20, 7, np.uint8)])
    sink.put([b"end"])
    sink.flush()
    sink.close()
    expected = b"".join(pieces) + b"\7" * (3 << 20) + b"end"
    assert (tmp_path / "a").read_bytes() == expected
