"""Files that every reader takes for the same: encodings chosen by value, types by schema."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench_table_build import as_plain
from ingest import parquet
from ingest.columns import ColumnType
from ingest.parquet import Compression, FileStats, WriteOptions, plan, write
from ingest.schema import ColumnSpec, TableSchema

ROWS = 40_000
TIME = pa.timestamp("us", "UTC")
CODECS: tuple[Compression, ...] = ("none", "snappy", "lz4", "zstd")


def table_of(columns: dict[str, Any], times: Sequence[int] | None = None) -> pa.Table:
    """A table as `table_build` makes it: the time first, not null."""
    arrays = {name: v if isinstance(v, pa.Array) else pa.array(v) for name, v in columns.items()}
    rows = len(next(iter(arrays.values()))) if times is None else len(times)
    time = pa.array(range(rows) if times is None else times, pa.int64()).cast(TIME)
    fields = [pa.field("time", TIME, nullable=False)]
    fields += [pa.field(name, array.type) for name, array in arrays.items()]
    return pa.table([time, *arrays.values()], schema=pa.schema(fields))


def every_type(rows: int = 4) -> pa.Table:
    """Each stored type, text with and without a dictionary, nulls in all."""
    text = pa.array(["a", None, "", "größe"] * (rows // 4))
    return table_of(
        {
            "tag": text.dictionary_encode(),
            "text": text,
            "f": [0.5, None, -0.0, 1e300] * (rows // 4),
            "i": [2**63 - 1, None, -(2**63), 0] * (rows // 4),
            "b": [True, None, False, True] * (rows // 4),
            "x": pa.array([b"\xff\0", None, b"", b"a"] * (rows // 4), pa.binary()),
            "none": pa.nulls(rows, pa.float64()),
            "no text": pa.nulls(rows, pa.utf8()),
        }
    )


def write_bytes(
    table: pa.Table, options: WriteOptions | None = None, metadata: dict[str, str] | None = None
) -> tuple[FileStats, bytes]:
    sink = io.BytesIO()
    return write(table, sink, options or plan(table), metadata), sink.getvalue()


def read_bytes(data: bytes) -> pa.Table:
    return as_plain(pq.read_table(pa.BufferReader(data)))


def ask_duckdb(sql: str) -> list[Any]:
    found = duckdb.sql(sql)
    assert found is not None
    rows: list[Any] = found.fetchall()
    return rows


def columns_of(data: bytes) -> dict[str, Any]:
    """What the footer says of each column of the first row group."""
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    return {chunk.path_in_schema: chunk for chunk in chunks}


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", CODECS)
def test_every_type_comes_back_as_it_was(compression: Compression) -> None:
    table = every_type()
    _, data = write_bytes(table, plan(table, compression))
    assert read_bytes(data).equals(as_plain(table))


@pytest.mark.parametrize("compression", CODECS)
def test_values_come_back_whatever_the_look_at_them_decided(compression: Compression) -> None:
    rng = np.random.default_rng(1)
    mask = rng.random(ROWS) < 0.1
    table = table_of(
        {
            "host": pa.array([f"h{i % 100}" for i in range(ROWS)]).dictionary_encode(),
            "message": [f"request {i} took {i * 7919 % 1000} ms" for i in range(ROWS)],
            "full": pa.array(rng.uniform(size=ROWS), mask=mask),
            "decimals": pa.array(np.round(rng.uniform(0, 10, ROWS), 2), mask=mask),
            "constant": np.full(ROWS, 0.1),
            "count": np.cumsum(rng.integers(0, 9, ROWS)),
            "id": pa.array(rng.integers(-(2**63), 2**63 - 1, ROWS), mask=mask),
            "up": pa.array(rng.random(ROWS) < 0.5, mask=mask),
        },
        np.sort(rng.integers(0, 3_600_000_000, ROWS)).tolist(),
    )
    _, data = write_bytes(table, plan(table, compression))
    assert read_bytes(data).equals(as_plain(table))


@given(st.lists(st.floats(allow_nan=False) | st.none(), min_size=1), st.integers(-(2**60), 2**60))
def test_one_row_and_more_come_back_with_their_times(values: list[Any], first: int) -> None:
    times = list(range(first, first + len(values)))
    table = table_of({"v": pa.array(values, pa.float64())}, times)
    stats, data = write_bytes(table)
    assert stats == FileStats(len(values), len(data), times[0], times[-1])
    assert read_bytes(data).equals(as_plain(table))


def test_a_slice_of_a_table_is_written_as_that_slice() -> None:
    table = every_type(40).slice(13, 9)
    _, data = write_bytes(table)
    assert read_bytes(data).equals(as_plain(table))


def test_a_table_without_columns_keeps_its_times() -> None:
    table = table_of({}, [3, 4])
    _, data = write_bytes(table)
    assert read_bytes(data).equals(as_plain(table))


def test_two_thousand_columns_are_written() -> None:
    table = table_of({f"c{i}": [float(i)] for i in range(2_000)})
    _, data = write_bytes(table)
    assert read_bytes(data).equals(as_plain(table))


@pytest.mark.parametrize("name", ["a.b", "_x", "größe", "a b", '"', "list.element", "x" * 255])
def test_any_column_name_keeps_its_encoding(name: str) -> None:
    table = table_of({name: pa.array(["a", "a"]).dictionary_encode()})
    _, data = write_bytes(table)
    assert read_bytes(data).equals(as_plain(table))
    assert "RLE_DICTIONARY" in columns_of(data)[name].encodings


# --- what a file looks like to its readers -----------------------------------------------------


def test_types_are_plain_to_pyarrow() -> None:
    _, data = write_bytes(every_type())
    assert {field.name: str(field.type) for field in pq.read_schema(pa.BufferReader(data))} == {
        "time": "timestamp[us, tz=UTC]",
        "tag": "string",
        "text": "string",
        "f": "double",
        "i": "int64",
        "b": "bool",
        "x": "binary",
        "none": "double",
        "no text": "string",
    }


def test_types_are_plain_to_duckdb(tmp_path: Path) -> None:
    table = every_type()
    write(table, tmp_path / "a.parquet", plan(table))
    found = ask_duckdb(f"describe select * from '{tmp_path}/a.parquet'")
    assert {row[0]: row[1] for row in found} == {
        "time": "TIMESTAMP WITH TIME ZONE",
        "tag": "VARCHAR",
        "text": "VARCHAR",
        "f": "DOUBLE",
        "i": "BIGINT",
        "b": "BOOLEAN",
        "x": "BLOB",
        "none": "DOUBLE",
        "no text": "VARCHAR",
    }


@pytest.mark.parametrize("compression", CODECS)
def test_duckdb_reads_what_was_written(tmp_path: Path, compression: Compression) -> None:
    rng = np.random.default_rng(2)
    table = table_of(
        {
            "host": pa.array([f"h{i % 100}" for i in range(ROWS)]).dictionary_encode(),
            "v": np.round(rng.uniform(0, 10, ROWS), 2),
            "n": np.cumsum(rng.integers(0, 9, ROWS)),
        },
        np.sort(rng.integers(-(10**12), 10**12, ROWS)).tolist(),
    )
    write(table, tmp_path / "a.parquet", plan(table, compression))
    found = ask_duckdb(
        f"select epoch_us(time), host, v, n from '{tmp_path}/a.parquet' order by time, n"
    )
    expected = [table["time"].cast(pa.int64()), *table.columns[1:]]
    assert found == list(zip(*[column.to_pylist() for column in expected], strict=True))


def test_only_the_time_is_required() -> None:
    _, data = write_bytes(every_type())
    schema = pq.ParquetFile(pa.BufferReader(data)).schema
    required = [
        schema.column(i).name for i in range(9) if not schema.column(i).max_definition_level
    ]
    assert required == ["time"]


def test_files_with_different_encodings_are_one_table_to_a_glob(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    plain = table_of({"t": [f"trace {i}" for i in range(ROWS)], "v": rng.uniform(size=ROWS)})
    repeated = table_of({"t": pa.array(["a"] * ROWS).dictionary_encode(), "v": np.full(ROWS, 0.25)})
    for name, table in (("1", plain), ("2", repeated)):
        write(table, tmp_path / f"{name}.parquet", plan(table), {"arc:log": name})
    first, second = (pq.read_metadata(tmp_path / f"{name}.parquet") for name in "12")
    assert first.row_group(0).column(1).encodings != second.row_group(0).column(1).encodings
    assert first.schema.equals(second.schema)
    everything = as_plain(ds.dataset(tmp_path).to_table())
    both = pa.concat_tables([as_plain(plain), as_plain(repeated)])
    assert everything.equals(both.combine_chunks())
    count = f"select count(*), count(distinct t), sum(v) > 0 from '{tmp_path}/*.parquet'"
    assert ask_duckdb(count) == [(2 * ROWS, ROWS + 1, True)]


def test_pages_and_encodings_are_those_of_long_standing() -> None:
    rng = np.random.default_rng(4)
    table = table_of(
        {
            "v": rng.uniform(size=ROWS),
            "i": rng.integers(-(2**63), 2**63 - 1, ROWS),
            "n": np.arange(ROWS) * 3,
            "host": pa.array(["a"] * ROWS).dictionary_encode(),
        }
    )
    for compression in CODECS:
        _, data = write_bytes(table, plan(table, compression))
        used = set().union(*[column.encodings for column in columns_of(data).values()])
        assert used <= {"PLAIN", "RLE", "RLE_DICTIONARY", "DELTA_BINARY_PACKED"}


def test_the_time_has_statistics_for_pruning_and_nothing_else_pays_for_them() -> None:
    _, data = write_bytes(every_type())
    columns = columns_of(data)
    assert columns["time"].statistics.min.timestamp() == 0
    assert columns["time"].statistics.max.timestamp() == pytest.approx(3e-6)
    assert [name for name, column in columns.items() if column.is_stats_set] == ["time"]


# --- metadata ----------------------------------------------------------------------------------


def test_metadata_is_kept_for_every_reader(tmp_path: Path) -> None:
    schema = TableSchema(
        {
            "v": ColumnSpec(ColumnType.FLOAT64),
            "größe": ColumnSpec(ColumnType.UTF8, is_tag=True),
            "host": ColumnSpec(ColumnType.UTF8, is_tag=True),
        },
        3,
    )
    metadata = parquet.file_metadata(schema, "0/1/1-42")
    table = every_type()
    write(table, tmp_path / "a.parquet", plan(table), metadata)
    found = pq.read_metadata(tmp_path / "a.parquet").metadata
    assert json.loads(found[b"arc:tags"]) == ["größe", "host"]
    assert found[b"arc:log"] == b"0/1/1-42"
    assert set(found) == {b"arc:tags", b"arc:log"}
    sql = f"select decode(value) from parquet_kv_metadata('{tmp_path}/a.parquet') where key = "
    assert ask_duckdb(f"{sql} 'arc:log'") == [("0/1/1-42",)]


def test_metadata_may_be_left_out() -> None:
    _, data = write_bytes(every_type())
    assert not pq.read_metadata(pa.BufferReader(data)).metadata


# --- sinks -------------------------------------------------------------------------------------


def test_a_path_and_a_binary_file_get_the_same_bytes(tmp_path: Path) -> None:
    table = every_type(400)
    path = tmp_path / "a.tmp"
    stats = write(table, path, plan(table), {"arc:log": "x"})
    in_memory, data = write_bytes(table, metadata={"arc:log": "x"})
    assert path.read_bytes() == data
    assert stats == in_memory == FileStats(400, len(data), 0, 399)
    with (tmp_path / "b.tmp").open("wb") as file:
        assert write(table, file, plan(table), {"arc:log": "x"}) == stats
        assert not file.closed
    assert (tmp_path / "b.tmp").read_bytes() == data


def test_a_file_that_is_there_is_filled_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.tmp"
    path.write_bytes(b"x" * 100_000)
    path.chmod(0o600)
    inode = path.stat().st_ino
    table = every_type()
    write(table, str(path), plan(table))
    assert (path.stat().st_mode & 0o777, path.stat().st_ino) == (0o600, inode)
    assert read_bytes(path.read_bytes()).equals(as_plain(table))


def test_a_name_that_looks_compressed_is_no_reason_to_compress(tmp_path: Path) -> None:
    table = every_type()
    write(table, tmp_path / "a.gz", plan(table))
    assert (tmp_path / "a.gz").read_bytes()[:4] == b"PAR1"


def test_a_disk_that_is_full_is_an_os_error() -> None:
    table = every_type()
    with pytest.raises(OSError, match="No space left"):
        write(table, "/dev/full", plan(table))


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    table = every_type()
    with pytest.raises(FileNotFoundError):
        write(table, tmp_path / "no" / "a.parquet", plan(table))


# --- choices -----------------------------------------------------------------------------------


def choices(column: Any, compression: Compression = "lz4") -> tuple[str, str]:
    """(encoding, codec) that a column of ROWS values gets."""
    table = table_of({"v": column})
    options = plan(table, compression)
    encoding = "DICTIONARY" if "v" in options.dictionary else options.encodings.get("v", "PLAIN")
    return encoding, options.codecs["v"]


RNG = np.random.default_rng(7)
MANY = 200_000

FULL = RNG.uniform(size=MANY)
DECIMALS = np.round(RNG.uniform(0, 10, MANY), 2)
HALF_ZERO = np.where(RNG.random(MANY) < 0.5, 0.0, FULL)
IDS = RNG.integers(-(2**63), 2**63 - 1, MANY)
HEX = [f"{value & (2**64 - 1):016x}" for value in IDS.tolist()]
LOGS = [f"GET /api/v1/orders/{i} status=200 took {i % 97} ms" for i in range(MANY)]


@pytest.mark.parametrize(
    ("column", "compression", "expected"),
    [
        (FULL, "lz4", ("PLAIN", "none")),
        (FULL, "none", ("PLAIN", "none")),
        (DECIMALS, "lz4", ("DICTIONARY", "lz4")),
        (DECIMALS, "snappy", ("DICTIONARY", "snappy")),
        (DECIMALS, "zstd", ("DICTIONARY", "zstd")),
        (DECIMALS, "none", ("PLAIN", "none")),
        (np.full(MANY, 0.1), "lz4", ("DICTIONARY", "lz4")),
        (HALF_ZERO, "lz4", ("PLAIN", "none")),
        (pa.array(DECIMALS, mask=RNG.random(MANY) < 0.3), "lz4", ("DICTIONARY", "lz4")),
        (pa.array(FULL, mask=RNG.random(MANY) < 0.3), "lz4", ("PLAIN", "none")),
        (IDS, "lz4", ("PLAIN", "none")),
        (np.cumsum(IDS & 63), "lz4", ("DELTA_BINARY_PACKED", "lz4")),
        (IDS & 1023, "lz4", ("DELTA_BINARY_PACKED", "lz4")),
        (RNG.choice(IDS[:100], MANY), "lz4", ("DICTIONARY", "lz4")),
        (IDS > 0, "lz4", ("PLAIN", "lz4")),
        (pa.array(HEX), "lz4", ("PLAIN", "none")),
        (pa.array(LOGS), "lz4", ("PLAIN", "lz4")),
        (pa.array(LOGS), "zstd", ("PLAIN", "zstd")),
        (pa.array(LOGS), "none", ("PLAIN", "none")),
        (pa.array(HEX[:9] * 9).dictionary_encode(), "lz4", ("DICTIONARY", "lz4")),
        (pa.array([""] * MANY), "lz4", ("PLAIN", "none")),
        (pa.nulls(MANY, pa.float64()), "lz4", ("PLAIN", "none")),
        (pa.nulls(MANY, pa.utf8()), "lz4", ("PLAIN", "none")),
        (pa.array([None] * (MANY - 1) + [0.5]), "lz4", ("DICTIONARY", "lz4")),
    ],
)
def test_a_column_is_written_as_its_values_ask(
    column: Any, compression: Compression, expected: tuple[str, str]
) -> None:
    assert choices(column, compression) == expected


def test_times_are_always_packed_as_differences() -> None:
    for rows in (1, MANY):
        options = plan(table_of({}, range(rows)))
        assert options.encodings == {"time": "DELTA_BINARY_PACKED"}


def test_a_small_table_gets_the_codec_without_a_look() -> None:
    assert choices(DECIMALS[:1000]) == ("PLAIN", "lz4")
    assert choices(FULL[:1000]) == ("PLAIN", "lz4")
    assert choices(IDS[:1000]) == ("DELTA_BINARY_PACKED", "lz4")
    assert choices(IDS[:1000], "none") == ("PLAIN", "none")


def test_a_codec_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="compression 'gzip' is none of"):
        plan(every_type(), "gzip")  # type: ignore[arg-type]


def test_the_look_repeats_itself() -> None:
    table = table_of({"v": DECIMALS, "s": LOGS})
    assert plan(table) == plan(table)


# --- estimates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("distinct", [1, 2, 100, 10_000, 100_000])
def test_distinct_values_are_estimated_from_a_sample(distinct: int) -> None:
    sample = np.random.default_rng(8).integers(0, distinct, 4096)
    assert parquet.distinct_values(sample) == pytest.approx(distinct, rel=0.35)


def test_an_empty_sample_has_no_distinct_values() -> None:
    assert parquet.distinct_values(np.empty(0)) == 0.0
    assert parquet.expected_distinct(0.0, 100) == 0.0


def test_few_rows_show_few_of_many_values() -> None:
    assert parquet.expected_distinct(1e6, 10) == pytest.approx(10, rel=0.01)
    assert parquet.expected_distinct(10, 10_000) == pytest.approx(10)


@pytest.mark.parametrize("step", [1, 1000, 2**40])
@pytest.mark.parametrize("jitter", [1, 50, 10**6, 2**62])
def test_delta_bytes_are_those_that_the_writer_needs(step: int, jitter: int) -> None:
    rng = np.random.default_rng(9)
    values = np.arange(ROWS) * step + rng.integers(0, jitter, ROWS)
    table = table_of({"v": values})
    options = WriteOptions((), {"v": "DELTA_BINARY_PACKED"}, {"time": "none", "v": "none"})
    _, data = write_bytes(table, options)
    size = columns_of(data)["v"].total_compressed_size / ROWS
    assert parquet.delta_bytes(values[:4097]) == pytest.approx(size, rel=0.05, abs=0.03)


def test_too_few_values_for_a_block_are_taken_for_plain() -> None:
    assert parquet.delta_bytes(np.arange(100)) == 8.0
