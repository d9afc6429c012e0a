"""Data frames of every kind, encoded by the client and read back by the daemon's own decoder."""

from __future__ import annotations

import decimal
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc.client.batch import Batch, Kind
from arc.client.errors import UsageError
from arc.client.frames import encode_frame
from arc.client.frames_pandas import _floats
from arc.write_routes import read_arrow_head
from ingest.arrow_ipc import decode, decode_fast
from ingest.columns import ColumnBatch
from ingest.decoders import Parameters
from ingest.limits import Limits
from ingest.testing import column_values

NOW_US = 1_768_473_000_000_000
LIMITS = Limits()
T0_US = 1_704_067_200_000_000  # 2024-01-01
ROWS, BYTES = 10_000, 4 * 2**20


class Head:
    """Headers and query of a batch, as the daemon asks for them."""

    def __init__(self, batch: Batch) -> None:
        self._headers = dict(batch.headers)
        self._query = parse_qs(urlsplit(batch.target).query)

    def header(self, name: bytes) -> str | None:
        return self._headers.get(name.decode())

    def query(self, name: bytes) -> str | None:
        return self._query.get(name.decode(), [None])[0]


def encode(frame: Any, rows: int = ROWS, size: int = BYTES, **options: Any) -> list[Batch]:
    return list(encode_frame("m", frame, batch_rows=rows, batch_bytes=size, **options))


def read(batch: Batch) -> ColumnBatch:
    """What the daemon makes of one request; it never needs its slow decoder."""
    head = read_arrow_head(Head(batch))
    parameters = Parameters.from_bytes(head.params)
    body, name = bytes(batch.body), parameters.measurement
    assert decode_fast(body, NOW_US, LIMITS, name, frozenset(), head.time_unit) is not None
    (found,) = decode(body, NOW_US, LIMITS, name, frozenset(), head.time_unit)
    assert (batch.kind, batch.rows, batch.what) == (Kind.ARROW, found.num_rows, name)
    return found


def stored(frame: Any, **options: Any) -> dict[str, list[Any]]:
    """Every column as the daemon has it, the time in microseconds; null throughout: left out."""
    columns: dict[str, list[Any]] = {}
    done = 0
    for batch in encode(frame, **options):
        found = read(batch)
        parts = {name: column_values(column) for name, column in found.columns.items()}
        parts["time"] = found.time_us.tolist()
        for name, values in parts.items():
            columns.setdefault(name, [None] * done).extend(values)
        done += found.num_rows
        for values in columns.values():
            values.extend([None] * (done - len(values)))
    return columns


def tags(frame: Any, **options: Any) -> set[str]:
    (batch,) = encode(frame, **options)
    return set(read(batch).tags)


def refuses(frame: Any, *words: str, **options: Any) -> None:
    """The call itself refuses a frame in memory, in words that help."""
    with pytest.raises(UsageError) as caught:
        encode_frame("m", frame, batch_rows=ROWS, batch_bytes=BYTES, **options)
    for word in ("measurement 'm'", *words):
        assert word in str(caught.value), str(caught.value)


def arrow(**columns: Any) -> pa.Table:
    """A table with times of 2024, a second apart."""
    arrays = {name: v if isinstance(v, pa.Array) else pa.array(v) for name, v in columns.items()}
    rows = len(next(iter(arrays.values())))
    times = pa.array([T0_US + 10**6 * row for row in range(rows)], pa.timestamp("us", "UTC"))
    return pa.table({"time": times, **arrays})


def times(rows: int) -> pd.DatetimeIndex:
    return pd.date_range("2024-01-01", periods=rows, freq="s", tz="UTC")


def pandas(**columns: Any) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    return pd.DataFrame({"time": times(rows), **columns})


# ------------------------------------------------------------------------------------- every sort


def test_a_pandas_frame_arrives_value_by_value() -> None:
    frame = pandas(
        host=pd.Categorical(["a", "b", None]),
        text=["x", None, "ü"],
        usage=[1.5, np.nan, -0.0],
        count=[1, 2, 3],
        up=[True, False, True],
        small=np.array([1, 2, 3], dtype=np.uint8),
    )
    assert stored(frame) == {
        "time": [T0_US, T0_US + 10**6, T0_US + 2 * 10**6],
        "host": ["a", "b", None],
        "text": ["x", None, "ü"],
        "usage": [1.5, None, -0.0],
        "count": [1, 2, 3],
        "up": [True, False, True],
        "small": [1, 2, 3],
    }
    assert tags(frame) == {"host"}


def polars_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "time": [datetime(2024, 1, 1), datetime(2024, 1, 2)],
            "host": ["a", None],
            "level": ["lo", "hi"],
            "text": ["x", None],
            "usage": [float("inf"), None],
            "n": [None, 7],
            "up": [True, None],
            "raw": [b"\0", None],
            "day": [date(2024, 1, 1), None],
        },
        schema_overrides={
            "host": pl.Categorical,
            "level": pl.Enum(["lo", "hi"]),
            "n": pl.Int16,
        },
    )


POLARS_STORED = {
    "time": [T0_US, T0_US + 86_400 * 10**6],
    "host": ["a", None],
    "level": ["lo", "hi"],
    "text": ["x", None],
    "usage": [float("inf"), None],
    "n": [None, 7],
    "up": [True, None],
    "raw": [b"\0", None],
    "day": [T0_US, None],
}


class OnlyAStream:
    """What narwhals, nanoarrow, Ibis and others look like from outside."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._frame.__arrow_c_stream__(requested_schema)


def one_batch(frame: pl.DataFrame) -> Any:
    (batch,) = pa.table(frame).to_batches()
    return batch


class OnlyAnArray:
    def __init__(self, frame: pl.DataFrame) -> None:
        self._batch = one_batch(frame)

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._batch.__arrow_c_array__(requested_schema)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda frame: frame, id="DataFrame"),
        pytest.param(lambda frame: frame.lazy(), id="LazyFrame"),
        pytest.param(pa.table, id="Table"),
        pytest.param(one_batch, id="RecordBatch"),
        pytest.param(lambda frame: pa.table(frame).to_reader(), id="RecordBatchReader"),
        pytest.param(OnlyAStream, id="stream"),
        pytest.param(OnlyAnArray, id="array"),
        pytest.param(lambda frame: frame.to_arrow(), id="large_string"),
    ],
)
def test_one_frame_in_every_container_arrives_alike(made: Callable[[Any], Any]) -> None:
    assert stored(made(polars_frame())) == POLARS_STORED
    assert tags(made(polars_frame())) == {"host", "level"}


def test_a_lazy_frame_without_batches_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = polars_frame().lazy()
    monkeypatch.delattr(pl.LazyFrame, "collect_batches")  # Polars before 1.34
    assert stored(frame) == POLARS_STORED


def test_a_relation_of_duckdb_arrives_with_its_sums_and_enums() -> None:
    relation = duckdb.sql(
        "select timestamptz '2024-01-01 00:00:00Z' + to_seconds(i) as time, sum(i) as total, "
        "'a'::enum('a', 'b') as host, [i, 2.5]::double[2] as pair, date '2024-01-01' as day "
        "from range(3) t(i) group by i order by i"
    )
    assert stored(relation) == {
        "time": [T0_US, T0_US + 10**6, T0_US + 2 * 10**6],
        "total": [0, 1, 2],
        "host": ["a"] * 3,
        "pair_0": [0.0, 1.0, 2.0],
        "pair_1": [2.5] * 3,
        "day": [T0_US] * 3,
    }


def test_a_reader_is_streamed_and_never_held_as_a_whole() -> None:
    alive = 0
    made = list(arrow(n=range(100)).to_batches(max_chunksize=10))

    def produce() -> Iterator[Any]:
        nonlocal alive
        for batch in made:
            alive += 1
            yield batch

    reader = pa.RecordBatchReader.from_batches(made[0].schema, produce())
    batches = encode_frame("m", reader, batch_rows=25, batch_bytes=BYTES)
    assert alive == 0
    first = next(batches)
    assert alive == 3
    assert [first.rows, *[batch.rows for batch in batches]] == [15, 15, 15, 15, 15, 15, 10]


def test_what_is_no_frame_is_refused_by_its_type() -> None:
    for thing in ([1, 2], {"time": [1]}, "frame", None):
        refuses(thing, f"found {type(thing).__name__}", "data frame")
    for series in (pl.Series([1.0]), pa.chunked_array([[1.0]])):
        refuses(series, type(series).__name__, "no data frame")


def test_frames_without_rows_are_no_batches_in_pandas_too() -> None:
    empty = arrow(n=[1]).slice(0, 0)
    for frame in (empty, empty.to_reader(), pl.DataFrame(), pd.DataFrame(), pl.LazyFrame()):
        assert encode(frame) == []
    assert encode(pd.DataFrame({"a": []}, index=pd.Index([], dtype=object))) == []


# --------------------------------------------------------------------------------------- the time


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_pandas_times_keep_their_unit_and_their_zone(unit: str, zone: str | None) -> None:
    index = pd.DatetimeIndex(["2024-01-01", "1969-12-31T23:59:59"]).tz_localize(zone)
    frame = pd.DataFrame({"time": index.as_unit(unit), "v": [1.0, 2.0]})
    shift = 3_600 * 10**6 if zone == "Europe/Berlin" else 0
    assert stored(frame)["time"] == [T0_US - shift, -(10**6) - shift]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_polars_times_keep_their_unit_and_their_zone(unit: Any, zone: str | None) -> None:
    column = pl.Series([datetime(2024, 1, 1)]).cast(pl.Datetime(unit))
    column = column.dt.replace_time_zone(zone) if zone else column
    shift = 9 * 3_600 * 10**6 if zone == "Asia/Tokyo" else 0
    assert stored(pl.DataFrame({"time": column}))["time"] == [T0_US - shift]


def test_times_in_nanoseconds_round_towards_the_past() -> None:
    column = pa.array([1_704_067_200_000_000_999, -1], pa.timestamp("ns"))
    assert stored(pa.table({"time": column}))["time"] == [T0_US, -1]


def test_dates_are_times() -> None:
    for kind in (pa.date32(), pa.date64()):
        column = pa.array([date(2024, 1, 1)], kind)
        assert stored(pa.table({"time": column}))["time"] == [T0_US]


@pytest.mark.parametrize("index_name", [None, "when"])
def test_a_pandas_index_of_times_is_the_time(index_name: str | None) -> None:
    frame = pd.DataFrame({"v": [1.0, 2.0]}, index=times(2).rename(index_name))
    assert stored(frame) == {"time": [T0_US, T0_US + 10**6], "v": [1.0, 2.0]}


def test_a_pandas_index_with_a_name_is_a_column_where_there_is_a_time() -> None:
    frame = pandas(v=[1.0, 2.0]).set_index(pd.Index(["a", "b"], name="host"))
    assert stored(frame)["host"] == ["a", "b"]
    frame = pandas(v=[1.0, 2.0]).set_index(times(2).rename("made"))
    assert stored(frame)["made"] == [T0_US, T0_US + 10**6]


def test_pandas_levels_of_an_index_are_columns_and_the_only_times_the_time() -> None:
    index = pd.MultiIndex.from_arrays([["a", "b"], times(2)], names=["host", "when"])
    frame = pd.DataFrame({"v": [1.0, 2.0]}, index=index)
    assert stored(frame) == {"time": [T0_US, T0_US + 10**6], "v": [1.0, 2.0], "host": ["a", "b"]}


def test_a_pandas_index_that_repeats_its_column_is_left_out() -> None:
    frame = pandas(v=[1.0, 2.0])
    assert stored(frame.set_index("time", drop=False)) == stored(frame)
    frame.index = pd.Index([7.0, 8.0], name="v")
    refuses(frame, "both named 'v'")


def test_a_pandas_index_without_a_name_is_left_out_only_where_it_counts_rows() -> None:
    frame = pandas(v=[1.0, 2.0, 3.0])
    assert stored(frame[frame.v > 1])["v"] == [2.0, 3.0]
    refuses(frame.set_index(pd.Index(["a", "b", "c"])), "index", "no name")
    refuses(frame.set_index(times(3).rename(None)), "index", "no name")


def test_a_named_time_column_is_stored_as_time() -> None:
    table = arrow(v=[1]).rename_columns(["ts", "v"])
    assert stored(table, time_column="ts") == {"time": [T0_US], "v": [1]}
    refuses(arrow(ts=[1]), "there is a column 'time'", time_column="ts")
    refuses(table, "time_column='when'", "'ts', 'v'", time_column="when")


def test_a_frame_without_a_time_says_what_was_looked_for_in_pandas_too() -> None:
    refuses(pd.DataFrame({"v": [1]}), "no column 'time'", "DatetimeIndex", "'v'")
    refuses(pl.DataFrame({"Time": [1]}), "no column 'time'", "'Time'")


@pytest.mark.parametrize(
    ("value", "unit", "stored_us"),
    [
        (1_704_067_200, None, T0_US),
        (1_704_067_200_000, None, T0_US),
        (1_704_067_200_000_000, None, T0_US),
        (1_704_067_200_000_000_000, None, T0_US),
        (7, None, 7_000_000),
        (7, "ms", 7_000),
        (1_704_067_200, "us", 1_704_067_200),
        (-86_400_000_000, None, -86_400_000_000 * 1_000),
        (1_704_067_200.25, None, T0_US + 250_000),
        (1_704_067_200_000.5, "ms", T0_US + 500),
    ],
)
def test_numbers_of_pandas_and_polars_are_times_by_unit_or_magnitude(
    value: float, unit: str | None, stored_us: int
) -> None:
    for frame in (pl.DataFrame({"time": [value]}), pd.DataFrame({"time": [value]})):
        assert stored(frame, time_unit=unit)["time"] == [stored_us]


def test_the_unit_is_told_from_the_whole_frame_and_not_request_by_request() -> None:
    frame = pl.DataFrame({"time": [5, 6, 1_704_067_200_000, 1_704_067_200_001]})
    assert stored(frame, rows=2)["time"] == [5_000, 6_000, T0_US, T0_US + 1_000]


def test_numbers_of_two_units_are_refused_by_their_rows() -> None:
    values = [3, 1_704_067_200, 1_704_067_200_000]
    words = ("row 1", "1704067200 looks like s", "1704067200000 in row 2 like ms")
    refuses(pl.DataFrame({"time": values}), *words)
    stream = pa.table({"time": values}).to_batches(max_chunksize=2)
    reader = pa.RecordBatchReader.from_batches(stream[0].schema, stream)
    batches = encode_frame("m", reader, batch_rows=2, batch_bytes=BYTES)
    assert next(batches).rows == 2
    with pytest.raises(UsageError, match=r"row 2: .* looks like ms, but the rows before like s"):
        next(batches)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([1, None, None], pa.timestamp("us")), ("row 1", "null")),
        (pa.array([None], pa.null()), ("row 0", "null")),
        (pa.array([1.0, float("nan")]), ("row 1", "nan")),
        (pa.array([float("inf")]), ("row 0", "inf")),
        (pa.array(["2024-01-01"]), ("row 0", "text", "timestamps")),
        (pa.array([True]), ("row 0", "bool")),
        (pa.array([0, 2**62], pa.timestamp("s")), ("row 1", "1900 to 2262")),
        (pa.array([-(2**63)]), ("row 0", "1900 to 2262")),
        (pa.array([2**64 - 1], pa.uint64()), ("row 0", "64 bits")),
    ],
)
def test_what_is_no_time_is_refused_by_its_row(column: Any, words: tuple[str, ...]) -> None:
    refuses(pa.table({"time": column}), "column 'time'", *words)


def test_nat_in_pandas_is_refused_by_its_row() -> None:
    frame = pandas(v=[1.0, 2.0])
    frame.loc[1, "time"] = pd.NaT
    refuses(frame, "column 'time'", "row 1", "null")


def test_an_unknown_unit_is_refused() -> None:
    refuses(arrow(v=[1]), "time_unit='minutes'", time_unit="minutes")


# -------------------------------------------------------------------------------- missing values


def test_pandas_writes_null_as_nan_and_arrow_keeps_them_apart() -> None:
    values = [1.0, float("nan"), None]
    assert stored(pandas(v=values))["v"] == [1.0, None, None]
    found = stored(arrow(v=values))["v"]
    assert found[0] == 1.0
    assert found[1] != found[1]
    assert found[2] is None


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([1, None], "Int8", [1, None]),
        ([1.5, None], "Float32", [1.5, None]),
        ([True, None], "boolean", [True, None]),
        (["a", None], "string", ["a", None]),
        (["a", None], object, ["a", None]),
        (["a", np.nan, None, pd.NA, "b"], object, ["a", None, None, None, "b"]),
        ([1, None], "int64[pyarrow]", [1, None]),
        (["a", None], "string[pyarrow]", ["a", None]),
        ([b"a", None], object, [b"a", None]),
        ([True, None], object, [True, None]),
        ([1, pd.NA], object, [1, None]),
        ([1.0, None], "Sparse[float64, nan]", [1.0, None]),
        ([1, 2], ">i4", [1, 2]),
        ([1.5, 2], ">f8", [1.5, 2.0]),
        ([1, None], "category", [1.0, None]),
    ],
)
def test_missing_values_of_every_pandas_dtype_are_null(
    values: list[Any], dtype: Any, wanted: list[Any]
) -> None:
    series = pd.Series(np.array(values, dtype=dtype)) if dtype in (">i4", ">f8") else None
    frame = pandas(v=pd.Series(values, dtype=dtype) if series is None else series)
    assert stored(frame)["v"] == wanted


def test_a_column_that_is_null_throughout_is_left_out() -> None:
    assert set(stored(pandas(v=[None, None], w=[1, 2]))) == {"time", "w"}
    assert set(stored(pl.DataFrame({"time": [1], "v": [None]}))) == {"time"}


@given(st.lists(st.floats(width=64), min_size=1, max_size=50), st.booleans())
def test_nan_of_pandas_is_found_as_pyarrow_finds_it(values: list[float], is_strided: bool) -> None:
    numbers = np.repeat(values, 2)[::2] if is_strided else np.array(values)
    assert _floats(numbers).equals(pa.array(numbers, from_pandas=True))


# ------------------------------------------------------------------------------------------ tags


def test_named_tags_are_the_only_tags() -> None:
    table = arrow(host=pa.array(["a"]).dictionary_encode(), region=["eu"], v=[1])
    assert tags(table) == {"host"}
    assert tags(table, tags=["region"]) == {"region"}
    assert tags(table, tags=iter(["region", "host"])) == {"host", "region"}
    assert tags(table, tags=[]) == set()


def test_tags_of_the_metadata_of_a_schema_count_where_none_are_named() -> None:
    table = arrow(host=["a"], region=pa.array(["eu"]).dictionary_encode())
    told = table.replace_schema_metadata({"arc:tags": json.dumps(["host", "gone"])})
    assert tags(told) == {"host"}
    assert tags(told, tags=["region"]) == {"region"}
    refuses(table.replace_schema_metadata({"arc:tags": "host"}), "arc:tags", "JSON list")


def test_tags_with_commas_in_their_names_travel() -> None:
    assert tags(pa.table({"time": [1], "a,b": ["x"]}), tags=["a,b"]) == {"a,b"}


def test_categories_of_pandas_that_are_not_text_are_no_tags() -> None:
    frame = pandas(code=pd.Categorical([3, 1, None]), day=pd.Categorical(times(3)))
    assert tags(frame) == set()
    assert stored(frame)["code"] == [3, 1, None]
    assert stored(frame)["day"] == [T0_US, T0_US + 10**6, T0_US + 2 * 10**6]


def test_numbers_and_booleans_named_as_tags_are_spelt_as_the_daemon_spells_them() -> None:
    table = arrow(
        rack=[1, None],
        load=[1.0, float("nan")],
        half=pa.array([0.5, 1], pa.float32()),
        up=[True, False],
        none=pa.nulls(2),
    )
    found = stored(table, tags=["rack", "load", "half", "up", "none"])
    assert found["rack"] == ["1", None]
    assert found["load"] == ["1.0", None]
    assert found["half"] == ["0.5", "1.0"]
    assert found["up"] == ["true", "false"]
    assert "none" not in found


def test_tags_that_cannot_be_tags_are_refused() -> None:
    table = arrow(day=pa.array([date(2024, 1, 1)]), v=[1])
    refuses(table, "no column 'host'", "'day', 'v'", tags=["host"])
    refuses(table, "column 'day'", "since it is a tag", tags=["day"])
    refuses(table, "'time' is the time", tags=["time"])
    refuses(table, "tags='v'", "['v']", tags="v")


def test_dictionaries_that_differ_between_chunks_are_read_by_their_own() -> None:
    chunks = [pa.array(values).dictionary_encode() for values in (["a", "b"], ["c", "a", None])]
    times_ = pa.chunked_array([range(1), range(1, 5)], pa.timestamp("s"))
    table = pa.table({"time": times_, "host": pa.chunked_array(chunks)})
    for rows in (1, 2, 3, 5):
        assert stored(table, rows=rows)["host"] == ["a", "b", "c", "a", None]
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    assert stored(reader, rows=5)["host"] == ["a", "b", "c", "a", None]


# ----------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (pa.array([1, -1], pa.int8()), [1, -1]),
        (pa.array([2**32 - 1, None], pa.uint32()), [2**32 - 1, None]),
        (pa.array([2**63, 1], pa.uint64()), [2**63, 1]),
        (pa.array(np.array([0.5, 2], np.float16)), [0.5, 2.0]),
        (pa.array([0.1, None], pa.float32()), [float(np.float32(0.1)), None]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", "a text of more than twelve bytes"], pa.string_view()), None),
        (pa.array([b"a", None], pa.large_binary()), [b"a", None]),
        (pa.array([b"a", None], pa.binary_view()), [b"a", None]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), [b"ab", b"cd"]),
        (pa.array([1_000, None], pa.timestamp("ns")), [1, None]),
        (pa.array([1, None], pa.timestamp("s", "Europe/Berlin")), [10**6, None]),
        (pa.array([1, None], pa.date32()), [86_400 * 10**6, None]),
        (pa.array([decimal.Decimal(7), None], pa.decimal128(38, 0)), [7, None]),
        (pa.array([None, 0], pa.dictionary(pa.int8(), pa.int16())), [None, 0]),
        (pa.array([1, None], pa.int8()).cast(pa.bool8()), [True, None]),
        (pa.array([uuid.UUID(int=1).bytes] * 2, pa.uuid()), [uuid.UUID(int=1).bytes] * 2),
    ],
)
def test_every_type_of_arrow_is_stored_by_the_rules_of_the_door(
    array: pa.Array, wanted: list[Any] | None
) -> None:
    assert stored(arrow(v=array))["v"] == (array.to_pylist() if wanted is None else wanted)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (pa.array([decimal.Decimal("1.5")]), ("decimal", "wanted numbers")),
        (pa.array([0, 10**30], pa.decimal128(38, 0)), ("row 1", "64 bits")),
        (pa.array([timedelta(seconds=1)]), ("duration",)),
        (pa.array([[1], [2]]), ("list<", "fixed size")),
        (pa.array([{"a": 1}]), ("struct",)),
        (pa.array([9_000, 1_001], pa.timestamp("ns")), ("row 1", "1001 ns", "whole microseconds")),
        (pa.array([0, 2**62], pa.timestamp("ms")), ("row 1", "microseconds")),
        (pa.array([1], pa.time64("us")), ("time64",)),
    ],
)
def test_what_cannot_be_stored_is_refused_by_column_and_row(
    array: pa.Array, words: tuple[str, ...]
) -> None:
    refuses(arrow(good=[1] * len(array), v=array), "column 'v'", *words)


def test_bytes_of_one_size_with_nulls_are_for_the_slow_decoder_of_the_daemon() -> None:
    (batch,) = encode(arrow(v=pa.array([b"ab", None], pa.binary(2))))
    (found,) = decode(bytes(batch.body), NOW_US, LIMITS, "m")
    assert column_values(found.columns["v"]) == [b"ab", None]


def test_a_row_that_is_refused_is_counted_from_the_beginning_of_a_stream() -> None:
    table = arrow(v=pa.array([0] * 7 + [1], pa.timestamp("ns")))
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=3))
    batches = encode_frame("m", reader, batch_rows=3, batch_bytes=BYTES)
    assert [next(batches).rows, next(batches).rows] == [3, 3]
    with pytest.raises(UsageError, match="row 7"):
        next(batches)


def test_lists_of_a_fixed_size_become_a_column_for_each_place() -> None:
    matrix = pa.list_(pa.list_(pa.float64(), 2), 2)
    table = arrow(
        v=pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2)),
        m=pa.array([[[1, 2], [3, 4]], None, [None, [5, 6]]], matrix),
    ).slice(1)
    found = stored(table)
    assert found["v_0"] == [None, 3]
    assert "v_1" not in found
    assert [found[f"m_{i}_{j}"][1] for i, j in ((1, 0), (1, 1))] == [5.0, 6.0]
    array = pl.DataFrame(
        {"time": [1], "v": [[1.5, 2.5]]}, schema_overrides={"v": pl.Array(float, 2)}
    )
    assert stored(array) == {"time": [10**6], "v_0": [1.5], "v_1": [2.5]}
    refuses(arrow(v_0=[1], v=pa.array([[1]], pa.list_(pa.int8(), 1))), "two columns", "'v_0'")


def test_objects_of_several_types_in_pandas_are_refused_by_their_row() -> None:
    refuses(pandas(v=["a", None, 3]), "column 'v'", "row 2", "found int, but str in row 0")
    mixed = pd.Series([None, b"a", "b"], dtype=object)
    refuses(pandas(v=mixed), "column 'v'", "row 2", "found str, but bytes in row 1")
    hours = pd.Series([date(2024, 1, 1), datetime(2024, 1, 1, 5)], dtype=object)
    refuses(pandas(v=hours), "column 'v'", "row 1", "found datetime, but date in row 0")
    refuses(pandas(v=pd.Series([object()])), "column 'v'", "objects that cannot be stored")
    refuses(pandas(v=[2**70]), "column 'v'")
    refuses(pandas(v=[1j]), "column 'v'", "complex128")
    refuses(pandas(v=[{"a": 1}]), "column 'v'", "struct")
    refuses(pandas(v=[[1, 2]]), "column 'v'", "list<")
    refuses(pandas(v=pd.period_range("2024", periods=1)), "column 'v'", "pandas period")
    refuses(pandas(v=pd.interval_range(0, 1)), "column 'v'", "pandas interval")
    refuses(pandas(v=pd.to_timedelta([1], unit="s")), "column 'v'", "duration")


def test_objects_of_one_type_in_pandas_are_taken_for_it() -> None:
    stamps = pd.Series([pd.Timestamp("2024-01-01T00:00:00.000000001Z"), pd.NaT], dtype=object)
    refuses(pandas(v=stamps), "column 'v'", "row 0", "ns")
    days = pd.Series([date(2024, 1, 1), None], dtype=object)
    made = pd.Series([datetime(2024, 1, 1, tzinfo=UTC), None], dtype=object)
    found = stored(pandas(day=days, made=made))
    assert found["day"] == found["made"] == [T0_US, None]


def test_types_of_polars_that_arrow_does_not_know_are_refused() -> None:
    for kind in (pl.Object, pl.Int128):
        frame = pl.DataFrame({"time": [1], "v": [None]}, schema_overrides={"v": kind})
        refuses(frame, "column 'v'", str(kind))


# ----------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["time", "v", "v"], ("two columns", "'v'")),
        (["time", "v", "V"], ("'v' and 'V'", "capitals")),
        (["time", "Time", "v"], ("'time' and 'Time'", "capitals")),
        (["time", "", "v"], ("0 bytes",)),
        (["time", "x" * 256, "v"], ("256 bytes",)),
        (["time", "a\0b", "v"], ("U+0000",)),
    ],
)
def test_names_that_cannot_be_stored_are_refused(names: list[str], words: tuple[str, ...]) -> None:
    refuses(pa.table([pa.array([1])] * 3, names=names), *words)


def test_names_of_pandas_that_are_not_text() -> None:
    frame = pandas(v=[1.5])
    frame[0] = [2]
    assert stored(frame)["0"] == [2]
    frame["0"] = [3]
    refuses(frame, "two columns", "'0'")
    refuses(pandas(v=[1]).rename(columns={"v": True}), "True", "wanted text")
    refuses(pandas(v=[1]).rename(columns={"v": 1.5}), "1.5", "float")
    surrogate = pandas(v=[1]).set_axis(pd.Index(["time", "\ud800"], dtype=object), axis=1)
    refuses(surrogate, "not Unicode")
    levels = pd.MultiIndex.from_tuples([("time", ""), ("v", "mean")])
    refuses(pandas(v=[1]).set_axis(levels, axis=1), "2 levels", "join")
    twice = pd.DataFrame([[1, 2]], columns=["v", "v"], index=times(1))
    refuses(twice, "two columns", "'v'")


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "\ud800", 7])
def test_measurements_that_cannot_be_stored_are_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="measurement"):
        encode_frame(name, arrow(v=[1]), batch_rows=ROWS, batch_bytes=BYTES)


@pytest.mark.parametrize("name", ["cpu", "disk/io?x=1&y", "größe %41", "a b+c"])
def test_measurements_of_any_other_name_travel(name: str) -> None:
    (batch,) = encode_frame(name, arrow(v=[1]), batch_rows=ROWS, batch_bytes=BYTES)
    assert read(batch).measurement == name


# ------------------------------------------------------------------------------- how it is cut


def test_a_frame_is_cut_into_requests_of_about_one_size() -> None:
    assert [batch.rows for batch in encode(arrow(v=range(10)), rows=4)] == [4, 4, 2]
    assert [batch.rows for batch in encode(arrow(v=range(9)), rows=4)] == [3, 3, 3]
    assert [batch.rows for batch in encode(arrow(v=range(9)), rows=9)] == [9]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=400)), min_size=1, max_size=80),
    st.integers(1_500, 9_000),
    st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), None]),
    st.integers(1, 40),
)
def test_no_body_is_larger_than_the_bytes_of_a_batch(
    texts: list[str | None], limit: int, kind: Any, chunk: int
) -> None:
    column = pa.array(texts, kind or pa.string())
    column = column.dictionary_encode() if kind is None else column
    table = pa.concat_tables(arrow(v=column).slice(at, chunk) for at in range(0, len(texts), chunk))
    batches = encode(table, size=limit)
    assert max(len(batch.body) for batch in batches) <= limit
    assert stored(table, size=limit).get("v", [None] * len(texts)) == texts


def test_text_of_dictionaries_is_counted_exactly_where_its_bound_is_too_large() -> None:
    texts = ["a", "x" * 3_000, None, *["a"] * 997]
    frame = arrow(v=pa.array(texts).dictionary_encode())
    (batch,) = encode(frame, size=40_000)
    assert len(batch.body) <= 40_000
    assert stored(frame, size=20_000)["v"] == texts


def test_views_and_values_under_a_null_are_measured() -> None:
    texts = [None, "x" * 900, "b", None] * 5
    for kind in (pa.string_view(), pa.string()):
        chunks = [pa.array(texts, kind), pa.array([], kind), pa.array(["c"], kind)]
        times_ = pa.array(range(21), pa.timestamp("s"))
        frame = pa.table({"time": times_, "v": pa.chunked_array(chunks)})
        assert stored(frame, size=3_000)["v"] == [*texts, "c"]


def test_a_row_too_large_for_any_batch_is_refused_before_the_first() -> None:
    refuses(arrow(v=["a"] * 20_000 + ["x" * BYTES]), "row 20000", f"batch_bytes={BYTES}")


def test_a_large_row_among_small_ones_does_not_make_their_batches_small() -> None:
    texts = ["a"] * 1_000 + ["x" * 3_000] + ["a"] * 1_000
    rows = [batch.rows for batch in encode(arrow(v=texts), size=16_384)]
    assert sum(rows) == 2_001
    assert len(rows) < 12


def test_a_batch_of_pandas_covers_no_more_hours_than_a_request_may() -> None:
    days = pd.DataFrame({"time": pd.date_range("2000", periods=9_000, freq="D"), "v": 1.5})
    batches = encode(days)
    assert sum(batch.rows for batch in batches) == 9_000
    assert all(len(set((read(b).time_us // (3_600 * 10**6)).tolist())) <= 1_000 for b in batches)
    far = pl.DataFrame({"time": [0, 9_000_000_000] * 1_000})
    assert [batch.rows for batch in encode(far)] == [2_000]


# --------------------------------------------------------------------------------- any values


def cells(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(st.none(), values), min_size=6, max_size=6)


INTS = st.integers(-(2**63), 2**63 - 1)
ANY_COLUMNS = st.fixed_dictionaries(
    {
        "i": cells(INTS),
        "f": cells(st.floats(allow_nan=False)),
        "s": cells(st.text(st.characters(codec="utf-8"), max_size=20)),
        "b": cells(st.booleans()),
        "r": cells(st.binary(max_size=20)),
        "t": cells(st.text("abc", max_size=2)),
    }
)
SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "f": pa.float64(),
        "s": pa.string(),
        "b": pa.bool_(),
        "r": pa.binary(),
        "t": pa.dictionary(pa.int8(), pa.string()),
    }
)


def any_table(columns: dict[str, list[Any]], stamps: list[int]) -> pa.Table:
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    names = ["time", *SCHEMA.names]
    return pa.table([pa.array(stamps, pa.timestamp("us", "UTC")), *arrays], names=names)


STAMPS = st.lists(st.integers(-(10**15), 8 * 10**15), min_size=6, max_size=6)


@settings(deadline=None)
@given(ANY_COLUMNS, STAMPS, st.integers(1, 6), st.integers(1, 6))
def test_any_values_arrive_in_any_cut(
    columns: dict[str, list[Any]], stamps: list[int], chunk: int, rows: int
) -> None:
    whole = any_table(columns, stamps)
    present = {name: values for name, values in columns.items() if set(values) != {None}}
    parts = pa.concat_tables(whole.slice(at, chunk) for at in range(0, 6, chunk))
    for frame in (whole, parts, parts.to_reader(max_chunksize=chunk), pl.from_arrow(whole)):
        assert stored(frame, rows=rows) == {"time": stamps, **present}


@settings(deadline=None)
@given(ANY_COLUMNS, STAMPS)
def test_any_values_arrive_from_pandas(columns: dict[str, list[Any]], stamps: list[int]) -> None:
    frame = pd.DataFrame(
        {
            "time": pd.Series(stamps).astype("datetime64[us]"),
            "i": pd.array(columns["i"], dtype="Int64"),
            "f": np.array([np.nan if v is None else v for v in columns["f"]]),
            "s": pd.Series(columns["s"], dtype=object),
            "b": pd.array(columns["b"], dtype="boolean"),
            "r": pd.Series(columns["r"], dtype=object),
            "t": pd.Categorical(columns["t"]),
        }
    )
    present = {name: values for name, values in columns.items() if set(values) != {None}}
    assert stored(frame, rows=4) == {"time": stamps, **present}


def test_a_pandas_frame_is_left_as_it_was() -> None:
    frame = pandas(v=[1.0, np.nan], host=pd.Categorical(["a", "b"]))
    before = frame.copy(deep=True)
    encode(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_nothing_of_pandas_polars_or_arrow_is_imported_until_a_frame_comes() -> None:
    code = (
        "import sys, arc.client.frames, arc.client.frames_pandas\n"
        "print([n for n in ('pandas', 'polars', 'pyarrow', 'numpy') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
