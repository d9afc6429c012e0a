"""Columns that the client encodes are what the daemon's own decoders find in them."""

from __future__ import annotations

import array
import datetime as dt
import subprocess
import sys
import threading
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from arc.client import columns_lists
from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.columns import (
    MAX_SEEN,
    MAX_TEMPLATES,
    MAX_TEMPLATES_BYTES,
    ColumnsEncoder,
    encode_columns,
)
from arc.client.columns_wire import Place
from arc.client.errors import UsageError
from ingest import arrow_ipc, msgpack_decoder
from ingest.columns import ColumnBatch
from ingest.limits import Limits
from ingest.testing.batches import column_values
from ingest.timestamps import TimeUnit
from tests.support.ids import stable

LIMITS = Limits()
BOUNDS: dict[str, Any] = {"batch_rows": 10_000, "batch_bytes": 4 << 20}
T0_MS = 1_700_000_000_000
T0_US = T0_MS * 1_000


def encoded(columns: Mapping[str, Any], **how: Any) -> list[Batch]:
    return encode_columns("cpu", columns, **(BOUNDS | how))


def times(rows: int) -> list[int]:
    return [T0_MS + i for i in range(rows)]


def found_in(batch: Batch) -> ColumnBatch:
    """One batch as the daemon's fast decoder has it; none of them may need the slow one."""
    unit = dict(batch.headers).get("x-arc-time-unit")
    time_unit = None if unit is None else TimeUnit(unit)
    body = bytes(batch.body)
    if batch.kind is Kind.MSGPACK:
        assert batch.target == WRITE_MSGPACK
        decoded = msgpack_decoder.decode_fast(body, 0, LIMITS, time_unit)
    else:
        assert batch.target == "/api/v1/write/arrow?measurement=cpu"
        decoded = arrow_ipc.decode_fast(body, 0, LIMITS, "cpu", frozenset(), time_unit)
    assert decoded is not None, "left to the slow decoder"
    (found,) = decoded
    assert found.measurement == batch.what == "cpu"
    assert found.num_rows == batch.rows
    return found


def values_of(batches: Iterable[Batch]) -> dict[str, list[Any]]:
    """Columns and times, in µs, of batches together, without columns that are null throughout."""
    out: dict[str, list[Any]] = {}
    rows = 0
    for batch in batches:
        found = found_in(batch)
        columns = {name: column_values(column) for name, column in found.columns.items()}
        for name in out.keys() | columns.keys() | {"time"}:
            given = found.time_us.tolist() if name == "time" else columns.get(name)
            before = out.setdefault(name, [None] * rows)
            before += given if given is not None else [None] * found.num_rows
        rows += found.num_rows
    return out


def assert_stored(columns: Mapping[str, Any], wanted: Mapping[str, Any], **how: Any) -> None:
    """These columns arrive as those values, NaN as NaN, -0.0 as -0.0 and each in its type."""
    found = values_of(encoded(columns, **how))
    found.pop("time")
    present = {name: values for name, values in wanted.items() if set(values) != {None}}
    assert {k: repr(v) for k, v in found.items()} == {k: repr(v) for k, v in present.items()}


# ------------------------------------------------------------------------------------- Python lists

CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
    "float": st.floats(),
    "text": st.text(max_size=40),
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
}


@st.composite
def list_columns(draw: st.DrawFn) -> dict[str, list[Any]]:
    rows = draw(st.integers(1, 40))
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=5))
    missing = draw(st.booleans())
    cells = [CELLS[kind] | st.none() if missing else CELLS[kind] for kind in kinds]
    return {
        f"{kind}_{i}": draw(st.lists(cell, min_size=rows, max_size=rows))
        for i, (kind, cell) in enumerate(zip(kinds, cells, strict=True))
    }


@given(list_columns(), st.booleans())
def test_lists_arrive_as_they_were(columns: dict[str, list[Any]], as_tuples: bool) -> None:
    rows = len(next(iter(columns.values())))
    wanted = {
        # The daemon keeps no sign and no payload of a NaN among the floats of a list.
        name: [abs(v) if isinstance(v, float) and v != v else v for v in values]
        for name, values in columns.items()
    }
    given_columns = {k: tuple(v) for k, v in columns.items()} if as_tuples else columns
    assert_stored({"time": times(rows), **given_columns}, wanted)


ANY_VALUE = st.one_of(*CELLS.values(), st.none(), st.integers(), st.just(float("nan")))


@given(
    st.lists(ANY_VALUE, min_size=1, max_size=6)
    | st.lists(st.floats(), min_size=1)
    | st.lists(st.text(), min_size=1)
    | st.lists(st.integers(2**32, 2**64 - 1), min_size=1),
    st.sampled_from(["v", "time"]),
    st.booleans(),
)
def test_what_is_seen_at_once_is_what_looking_at_each_value_finds(
    values: list[Any], name: str, is_tag: bool
) -> None:
    def outcome(prepare: Any) -> Any:
        try:
            prepared = prepare(Place("cpu", name), values, is_tag and name != "time", None)
        except UsageError as error:
            return str(error)
        return [(each, bytes(v.wire(0, len(values))), v.time_unit) for each, v in prepared]

    assert outcome(columns_lists.prepare) == outcome(columns_lists.prepare_slow)


@pytest.mark.parametrize(
    ("given_values", "wanted"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([float("nan"), "x", None], [None, "x", None]),
        ([np.float32(1.5), np.float64(2.5), 3.5], [1.5, 2.5, 3.5]),
        ([np.int8(-1), np.uint64(5), True + 1], [-1, 5, 2]),
        ([np.bool_(True), False, None], [True, False, None]),
        ([np.str_("a"), "b", pd.NA], ["a", "b", None]),
        ([bytearray(b"a"), memoryview(b"b"), b"c"], [b"a", b"b", b"c"]),
        ([np.longdouble(0.5), 1.0, pd.NaT], [0.5, 1.0, None]),
        (
            [dt.datetime(1970, 1, 1, 0, 0, 1), dt.date(1970, 1, 2), pd.Timestamp(5_000, unit="ns")],
            [1_000_000, 86_400_000_000, 5],
        ),
        ([np.datetime64(7, "us"), None, np.datetime64("NaT", "s")], [7, None, None]),
        ([2**63, 2**64 - 1, 0], [2**63, 2**64 - 1, 0]),
    ],
    ids=stable,
)
def test_values_of_kindred_types_are_one_column(given_values: list[Any], wanted: list[Any]) -> None:
    assert_stored({"time": times(3), "v": given_values}, {"v": wanted})


def test_rows_that_are_lists_become_columns_with_numbers() -> None:
    rows = [[1, [1.5, True]], None, (2, [2.5, False])]
    wanted = {"v_0": [1, None, 2], "v_1_0": [1.5, None, 2.5], "v_1_1": [True, None, False]}
    assert_stored({"time": times(3), "v": rows}, wanted)
    assert_stored(
        {"time": times(2), "v": [np.arange(2), np.arange(2)]}, {"v_0": [0, 0], "v_1": [1, 1]}
    )


def test_anything_that_can_be_read_is_a_column() -> None:
    columns = {
        "time": range(T0_MS, T0_MS + 2),
        "a": array.array("d", [1.5, 2.5]),
        "b": (value for value in ("x", "y")),
        "c": {1: 0, 2: 0}.keys(),
        "d": pd.Index(["p", None]),
        "e": pd.DatetimeIndex([0, 1_000], tz="Europe/Berlin"),
    }
    wanted = {"a": [1.5, 2.5], "b": ["x", "y"], "c": [1, 2], "d": ["p", None], "e": [0, 1]}
    assert_stored(columns, wanted)


# ------------------------------------------------------------------------------------ NumPy arrays

NUMBERS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@st.composite
def arrays(draw: st.DrawFn, rows: int) -> np.ndarray[Any, Any]:
    """Numbers of any type, order of bytes and stride, perhaps masked, perhaps a field."""
    order = draw(st.sampled_from("<>"))
    dtype = np.dtype(order + draw(st.sampled_from(NUMBERS)))
    step = draw(st.sampled_from([1, 2, -1, -3]))
    drawn = draw(hnp.arrays(dtype, rows * abs(step)))[::step]
    if draw(st.booleans()):
        record = np.zeros(rows, dtype=[("x", "u1"), ("value", dtype)])
        record["value"] = drawn
        drawn = record["value"]
    if draw(st.booleans()):
        drawn = np.ma.array(drawn, mask=draw(hnp.arrays(np.bool_, rows)))
    return drawn


@given(st.data())
def test_arrays_arrive_as_they_were(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 30))
    columns = {f"v{i}": data.draw(arrays(rows)) for i in range(data.draw(st.integers(1, 4)))}
    wanted = {
        name: [abs(v) if isinstance(v, float) and v != v else v for v in values.tolist()]
        for name, values in columns.items()
    }
    found = values_of(encoded({"time": times(rows), **columns}))
    for name, values in wanted.items():
        if set(values) != {None}:
            assert repr([abs(v) if v != v else v for v in found[name]]) == repr(values)


@pytest.mark.parametrize(
    ("given_array", "wanted"),
    [
        (np.array(["a", "", "größe"]), ["a", "", "größe"]),
        (np.array(["a", "b", "c"], dtype=">U4")[::-1], ["c", "b", "a"]),
        (np.array([b"a", b"\xff", b""]), [b"a", b"\xff", b""]),
        (np.array(["a", None, 5.0 * np.nan], dtype=object), ["a", None, None]),
        (np.array([1, 2**60, None], dtype=object), [1, 2**60, None]),
        (np.array(["a", "b", "c"], dtype=np.dtypes.StringDType()), ["a", "b", "c"]),
        (
            np.array(["a", None, "c"], dtype=np.dtypes.StringDType(na_object=None)),
            ["a", None, "c"],
        ),
        (np.ma.array(["a", "b", "c"], mask=[True, False, False]), [None, "b", "c"]),
        (np.array([0.5, -2.0, np.inf], dtype=np.longdouble), [0.5, -2.0, np.inf]),
        (
            np.array(["1970-01-02", "NaT", "1969-12-31"], "M8[D]"),
            [86_400_000_000, None, -86_400_000_000],
        ),
        (np.array([1_000, 2_000, -3_000], ">M8[ns]"), [1, 2, -3]),
        (
            np.ma.array(np.array([1, 2, 3], "M8[s]"), mask=[False, True, False]),
            [1_000_000, None, 3_000_000],
        ),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_text_objects_and_dates_of_arrays_arrive(
    given_array: np.ndarray[Any, Any], wanted: list[Any]
) -> None:
    assert_stored({"time": times(3), "v": given_array}, {"v": wanted})


def test_arrays_of_more_dimensions_become_columns_with_numbers() -> None:
    cube = np.arange(8).reshape(2, 2, 2)
    wanted = {"v_0_0": [0, 4], "v_0_1": [1, 5], "v_1_0": [2, 6], "v_1_1": [3, 7]}
    assert_stored({"time": times(2), "v": cube}, wanted)
    masked = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, True], [False, False]])
    assert_stored({"time": times(2), "v": masked}, {"v_0": [1.0, 3.0], "v_1": [None, 4.0]})


# ----------------------------------------------------------------------------------------- pyarrow


#: Two chunks, each with a dictionary of its own.
CATEGORIES = pa.chunked_array([pa.array(part).dictionary_encode() for part in (["a"], ["b", "c"])])


@pytest.mark.parametrize(
    ("given_array", "wanted"),
    [
        (pa.array([1, None, -3], pa.int8()), [1, None, -3]),
        (pa.array([1, 2**63, None], pa.uint64()), [1, 2**63, None]),
        (pa.array([1.5, None, 3.0], pa.float32()), [1.5, None, 3.0]),
        (pa.array(np.array([1, 2, 3], "f2")), [1.0, 2.0, 3.0]),
        (pa.array([True, None, False]), [True, None, False]),
        (pa.array(["a", None, "c"], pa.large_string()), ["a", None, "c"]),
        (pa.array(["a", None, "c" * 30], pa.string_view()), ["a", None, "c" * 30]),
        (pa.array([b"ab", b"cd", b"xy"], pa.binary(2)), [b"ab", b"cd", b"xy"]),
        (pa.array([b"ab", None, b"c" * 30], pa.binary_view()), [b"ab", None, b"c" * 30]),
        (pa.array([1, None, 3], pa.timestamp("ms", "UTC")), [1_000, None, 3_000]),
        (pa.array([1, None, 3], pa.date32()), [86_400_000_000, None, 3 * 86_400_000_000]),
        (pa.array([None] * 3), [None] * 3),
        (pa.array([1, 2, 1]).dictionary_encode(), [1, 2, 1]),
        (pa.chunked_array([["a"], ["b", None]]), ["a", "b", None]),
        (CATEGORIES, ["a", "b", "c"]),
        (pa.array([9, 1, 2, 3, 9])[1:4], [1, 2, 3]),
        (pl.Series([1, None, 3]), [1, None, 3]),
        (pd.Series([1.5, 2.5, 3.5])[::-1], [3.5, 2.5, 1.5]),
        (pd.Series(["a", None, "c"]), ["a", None, "c"]),
    ],
    ids=lambda value: str(getattr(value, "type", getattr(value, "dtype", ""))),
)  # fmt: skip
def test_columns_of_pyarrow_and_of_frames_arrive(given_array: Any, wanted: list[Any]) -> None:
    assert_stored({"time": times(3), "v": given_array}, {"v": wanted})


def test_one_column_of_pyarrow_makes_an_arrow_stream_of_all() -> None:
    columns = {
        "time": np.array([1, 2, 3]) + T0_MS,
        "a": pa.array(["x", "y", "x"]).dictionary_encode(),
        "b": [1, None, 3],
        "c": np.ma.array([1, 2, 3], dtype="f4", mask=[False, True, False])[::-1],
        "d": [[1, "p"], [2, "q"], [3, "r"]],
        "e": pa.array([1, 2, 3], pa.int32()),
    }
    (batch,) = encoded(columns, tags=["e", "d"], time_unit="ms")
    assert batch.kind is Kind.ARROW
    assert found_in(batch).tags == {"a", "e", "d_0", "d_1"}
    assert values_of([batch]) == {
        "time": [T0_US + 1_000, T0_US + 2_000, T0_US + 3_000],
        "a": ["x", "y", "x"],
        "b": [1, None, 3],
        "c": [3.0, None, 1.0],
        "d_0": ["1", "2", "3"],
        "d_1": ["p", "q", "r"],
        "e": ["1", "2", "3"],
    }


class Hands:
    """Something that hands out an array of pyarrow, or fails to."""

    def __init__(self, held: pa.Array | None) -> None:
        self.held = held

    def __len__(self) -> int:
        return 2

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        if self.held is None:
            raise NotImplementedError("not today")
        return self.held.__arrow_c_array__(requested_schema)


def test_what_hands_out_an_array_of_pyarrow_is_a_column() -> None:
    assert_stored({"time": times(2), "v": Hands(pa.array([1, 2]))}, {"v": [1, 2]})
    with pytest.raises(
        UsageError, match=r"column 'v': found Hands \(not today\), wanted one column"
    ):
        encoded({"time": times(2), "v": Hands(None)})


def test_extension_types_and_wide_integers_travel_beside_pyarrow() -> None:
    storage = pa.array([b"x" * 16, b"y" * 16], pa.binary(16))
    columns = {"u": pa.ExtensionArray.from_storage(pa.uuid(), storage), "w": [0, 2**63]}
    assert_stored({"time": times(2), **columns}, {"u": [b"x" * 16, b"y" * 16], "w": [0, 2**63]})


@given(list_columns())
def test_lists_arrive_in_an_arrow_stream_as_they_do_in_messagepack(
    columns: dict[str, list[Any]],
) -> None:
    rows = len(next(iter(columns.values())))
    given_columns = {"time": times(rows), **columns}
    with_arrow = values_of(encoded({**given_columns, "x": pa.array([True] * rows)}))
    assert with_arrow.pop("x") == [True] * rows
    plain = values_of(encoded(given_columns))
    same = {name: [v if v == v else None for v in values] for name, values in plain.items()}
    assert {
        name: [v if v == v else None for v in values] for name, values in with_arrow.items()
    } == same


# ------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("given_times", "unit", "wanted_us"),
    [
        (np.array([1, 2], "M8[s]"), "s", [1_000_000, 2_000_000]),
        (np.array([1, 2], "M8[ms]"), "ms", [1_000, 2_000]),
        (np.array([1, -2], ">M8[us]"), "us", [1, -2]),
        (np.array([1_000, 2_999], "M8[ns]"), "ns", [1, 2]),
        (np.array(["1970", "1971"], "M8[Y]"), "s", [0, 31_536_000_000_000]),
        (np.array([1, 2], "M8[15m]"), "s", [900_000_000, 1_800_000_000]),
        (np.array([1, -1], "M8[W]"), "s", [604_800_000_000, -604_800_000_000]),
        (np.array([1_999_999, -1], "M8[ps]"), "ns", [1, -1]),
        (np.array([10**12 - 1, -(10**18)], "M8[as]"), "ns", [0, -1_000_000]),
        ([dt.datetime(1970, 1, 1, 0, 0, 0, 7), dt.date(1970, 1, 2)], "ns", [7, 86_400_000_000]),
        ([pd.Timestamp(1_999, unit="ns"), np.datetime64(3, "us")], "ns", [1, 3]),
        (pa.array([1, 2], pa.timestamp("us", "Europe/Berlin")), "us", [1, 2]),
        (pa.array([1, 2], pa.timestamp("ns")), "ns", [0, 0]),
        (pa.array([0, 86_400_000], pa.date64()), "ms", [0, 86_400_000_000]),
        (pd.Series(pd.to_datetime([1, 2], unit="s")), None, [1_000_000, 2_000_000]),
        ([T0_MS, T0_MS + 1], None, [T0_US, T0_US + 1_000]),
        ([T0_MS / 1000 + 0.5, T0_MS // 1000], None, [T0_US + 500_000, T0_US]),
        (np.array([T0_MS, T0_MS + 1], "u8"), None, [T0_US, T0_US + 1_000]),
        (np.array([1_700_000_000, 1_700_000_001], "i4"), None, [T0_US, T0_US + 1_000_000]),
    ],
    ids=lambda value: str(getattr(value, "dtype", getattr(value, "type", ""))),
)
def test_times_keep_their_unit(given_times: Any, unit: str | None, wanted_us: list[int]) -> None:
    for more in ({"v": [1, 2]}, {"v": np.arange(2)}, {"v": pa.array([1, 2])}):
        (batch,) = encoded({"time": given_times, **more})
        told = dict(batch.headers).get("x-arc-time-unit")
        assert unit is None or told == unit
        assert found_in(batch).time_us.tolist() == wanted_us


def test_times_of_numbers_are_in_the_unit_that_is_named() -> None:
    for given_times in ([5, 6], np.array([5, 6]), pa.array([5, 6]), np.array([5.0, 6.0])):
        (batch,) = encoded({"time": given_times, "v": [1, 2]}, time_unit="ms")
        assert batch.headers == (("x-arc-time-unit", "ms"),)
        assert found_in(batch).time_us.tolist() == [5_000, 6_000]


@pytest.mark.parametrize("values", [[1.5, 2.5], np.array([1.5, 2.5]), pa.array([1.5, 2.5])])
def test_rows_without_a_time_get_that_of_the_call(values: Any) -> None:
    encoder = ColumnsEncoder()
    for _ in range(4):  # from the third on from a template, where there is one
        before = dt.datetime.now(dt.UTC).timestamp()
        (batch,) = encoder.encode("cpu", {"v": values}, **BOUNDS)
        after = dt.datetime.now(dt.UTC).timestamp()
        assert batch.headers == (("x-arc-time-unit", "ns"),)
        first, second = found_in(batch).time_us.tolist()
        assert first == second
        assert before - 1 < first / 1e6 < after + 1


# -------------------------------------------------------------------------------------------- tags


HOSTS = [["a", "b"], np.array(["a", "b"]), np.array([b"a", b"b"]), pa.array(["a", "b"])]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: type(host).__name__)
def test_text_is_a_tag_only_where_it_is_named(host: Any) -> None:
    (named,) = encoded({"time": times(2), "host": host, "v": [1, 2]}, tags=["host"])
    assert found_in(named).tags == {"host"}
    assert values_of([named])["host"] == ["a", "b"]
    (unnamed,) = encoded({"time": times(2), "host": host, "v": [1, 2]})
    assert found_in(unnamed).tags == frozenset()


@pytest.mark.parametrize(
    ("given_tags", "wanted"),
    [
        ([7, None], ["7", None]),
        ([True, False], ["true", "false"]),
        ([1.5, float("nan")], ["1.5", None]),
        ([1, "x"], ["1", "x"]),
        (np.array([7, 8], "i4"), ["7", "8"]),
        (np.array([True, False]), ["true", "false"]),
        (pa.array([7, None]), ["7", None]),
        (pa.array([True, False]), ["true", "false"]),
        ([pd.NaT, "x"], [None, "x"]),
    ],
    ids=str,
)
def test_tags_that_are_no_text_become_text(given_tags: Any, wanted: list[str | None]) -> None:
    assert_stored({"time": times(2), "host": given_tags}, {"host": wanted}, tags=("host",))


@pytest.mark.parametrize("values", [[1, 2], np.arange(1, 3), pa.array([1, 2])], ids=str)
def test_tags_of_all_rows_are_given_once(values: Any) -> None:
    tags = {"host": "a b", "größe": "x" * 70_000}
    (batch,) = encoded({"time": times(2), "v": values}, tags=tags)
    assert found_in(batch).tags == {"host", "größe"}
    assert values_of([batch])["größe"] == ["x" * 70_000] * 2


# ----------------------------------------------------------------------------------------- batches


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 400), st.sampled_from("lnpt"))
def test_rows_are_cut_into_batches_within_the_limits(
    rows: int, batch_rows: int, batch_bytes: int, way: str
) -> None:
    numbers = [i / 7 for i in range(rows)]
    columns: dict[str, Any] = {
        "l": numbers,
        "n": np.array(numbers),
        "p": pa.array(numbers),
        "t": ["x" * (i % 50) for i in range(rows)],
    }
    given_columns = {"time": times(rows), "v": columns[way]}
    batches = encoded(given_columns, batch_rows=batch_rows, batch_bytes=batch_bytes)
    assert sum(batch.rows for batch in batches) == rows
    for batch in batches:
        assert batch.rows <= batch_rows
        assert len(batch.body) <= batch_bytes or batch.rows == 1
    found = values_of(batches)
    assert found["time"] == [time * 1_000 for time in times(rows)]
    assert found["v"] == list(columns[way] if way != "p" else numbers)


# ---------------------------------------------------------------------------------- what is refused

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("unequal", {"a": [1, 2], "time": [1]}, "'a': found 2 values, wanted 1, as column 'time' has"),
    ("no rows", {"a": []}, "found no rows"),
    ("scalar", {"a": 5}, "column 'a': found int 5, wanted a list or an array"),
    ("text", {"a": "abc"}, "column 'a': found str 'abc'"),
    ("mixed", {"a": [None, 1, "x"]}, "row 2: found a string, wanted an integer as in row 1"),
    ("bools", {"a": [True, 1]}, "row 1: found an integer, wanted a boolean as in row 0"),
    ("wide", {"a": [1.5, 2**53 + 1]}, "row 1: found the integer 9007199254740993"),
    ("signs", {"a": [2**63, -1]}, "row 0: found the integer 9223372036854775808, wanted"),
    ("huge", {"a": [1, 2**64]}, "row 1: found the integer 0x10000000000000000"),
    ("surrogate", {"a": ["x", "\ud800"]}, r"row 1: found '\ud800'"),
    ("dict", {"a": [{}]}, "row 0: found dict {}, wanted a number"),
    ("ragged", {"a": [[1], [1, 2]]}, "row 1: found a list of 2, wanted one of 1 as in row 0"),
    ("0-d rows", {"a": [np.array(1)]}, "found an array without dimension"),
    ("some lists", {"a": [[1], 1]}, "row 1: found an integer, wanted a list as in row 0"),
    ("empty list", {"a": [[]]}, "row 0: found an empty list"),
    ("ns", {"a": [pd.Timestamp(1)]}, "row 0: found Timestamp"),
    ("ns array", {"a": np.array([1000, 1], "M8[ns]")}, "row 1: found datetime64"),
    ("far", {"a": np.array([2**62], "M8[s]")}, "column 'a'"),
    ("0-d", {"a": np.array(1)}, "column 'a': found ndarray array(1)"),
    ("no values", {"a": np.zeros((2, 0))}, "found an array of shape (2, 0)"),
    ("timedelta", {"a": np.zeros(2, "m8[s]")}, "found an array of timedelta64[s]"),
    ("complex", {"a": np.zeros(2, "c8")}, "found an array of complex64"),
    ("record", {"a": np.zeros(2, [("x", "f4")])}, "found an array of"),
    ("nested", {"a": pa.array([[1]])}, "found Arrow's list"),
    ("decimal", {"a": pa.array([1]).cast(pa.decimal128(20))}, "found Arrow's decimal128"),
    ("table", {"a": pa.table({"x": [1]})}, "found Arrow's struct"),
    ("time null", {"time": [1, None]}, "column 'time', row 1: time: found NoneType"),
    ("time text", {"time": ["now"]}, "column 'time', row 0: time: found str now"),
    ("time bool", {"time": np.array([True])}, "found an array of bool"),
    ("time NaN", {"time": [1.0, float("nan")]}, "column 'time', row 1: found nan"),
    ("time inf", {"time": np.array([1.0, np.inf])}, "column 'time', row 1: found inf"),
    ("time NaT", {"time": np.array([1, "NaT"], "M8[s]")}, "column 'time', row 1: found NaT"),
    ("time no unit", {"time": np.array([1]).view("M8")}, "found datetime64 without a unit"),
    ("time masked", {"time": np.ma.array([1, 2], mask=[False, True])}, "row 1: found a masked"),
    ("time lists", {"time": [[1]]}, "found rows that are lists"),
    ("time 2-D", {"time": np.zeros((1, 1))}, "found an array of shape (1, 1)"),
    ("time arrow null", {"time": pa.array([1, None])}, "column 'time', row 1: found null"),
    ("time arrow text", {"time": pa.array(["x"])}, "column 'time': found Arrow's string"),
    ("name", {"": [1]}, "name of a column: found '' of 0 bytes"),
    ("NUL", {"a\0": [1]}, "name of a column: found 'a"),
    ("long", {"é" * 128: [1]}, "of 256 bytes"),
    ("no name", {5: [1]}, "name of a column: found int 5"),  # type: ignore[dict-item]
    ("capitals", {"a": [1], "A": [1]}, "columns 'a' and 'A'"),
    ("Time", {"Time": [1]}, "columns 'time' and 'Time'"),
    ("twice", {"a": [[1]], "a_0": [1]}, "columns 'a_0' and 'a_0'"),
    ("nothing", {}, "columns: found none"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_what_cannot_be_stored_is_refused_by_its_place(
    columns: dict[str, Any], message: str
) -> None:
    for encode in (encode_columns, ColumnsEncoder().encode):
        for _ in range(3):
            with pytest.raises(UsageError) as refused:
                encode("cpu", columns, **BOUNDS)
            assert message in str(refused.value)
            assert "measurement 'cpu'" in str(refused.value)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="a long double is a float64 here")
def test_a_long_double_that_is_no_float64_is_refused_unless_it_is_masked() -> None:
    values = np.array([1, 1], np.longdouble) + np.array([0, 2**-60], np.longdouble)
    with pytest.raises(UsageError, match=r"column 'v', row 1: found .*128 1\.0"):
        encoded({"time": times(2), "v": values})
    masked = np.ma.array(values, mask=[False, True])
    assert_stored({"time": times(2), "v": masked}, {"v": [1.0, None]})


@pytest.mark.parametrize(
    ("given_tags", "message"),
    [
        ("host", "tags: found 'host', wanted names"),
        (5, "tags: found 5"),
        (["gone"], "tags: found 'gone', wanted one of the columns v"),
        (["time"], "tags: found 'time'"),
        ({"v": "a"}, "'v' is a column as well"),
        ({"time": "a"}, "'time' is a column as well"),
        ({"host": 5}, "column 'host': found int 5, wanted a string"),
        ({"host": "\ud800"}, "column 'host': found"),
        ({"": "a"}, "name of a column: found ''"),
        ({"V": "a"}, "columns 'v' and 'V'"),
    ],
    ids=str,
)
def test_tags_that_cannot_be_are_refused(given_tags: Any, message: str) -> None:
    for values in ([1], np.arange(1)):
        encoder = ColumnsEncoder()
        for _ in range(3):
            with pytest.raises(UsageError) as refused:
                encoder.encode("cpu", {"time": [T0_MS], "v": values}, tags=given_tags, **BOUNDS)
            assert message in str(refused.value)


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\x9f", "a\ud800", 5, None])
def test_a_measurement_that_no_table_can_have_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="measurement"):
        encode_columns(name, {"v": [1]}, **BOUNDS)


def test_dates_and_bytes_are_no_tags() -> None:
    for values in (
        [dt.date(2024, 1, 1)],
        [b"x"],
        np.array([1], "M8[s]"),
        pa.array([1], pa.date32()),
    ):
        with pytest.raises(UsageError, match=r"column 'v'.* since it is a tag"):
            encoded({"time": times(1), "v": values}, tags=["v"])
    with pytest.raises(UsageError, match=r"row 0: found b'\\xff', wanted UTF-8 in a tag"):
        encoded({"time": times(1), "v": np.array([b"\xff"])}, tags=["v"])


def test_a_unit_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="time_unit: found 'minutes', wanted s, ms, us or ns"):
        encoded({"v": [1]}, time_unit="minutes")


# --------------------------------------------------------------------------------------- templates


@st.composite
def alike(draw: st.DrawFn) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Columns of several calls: the same names, types and length, other values."""
    rows = draw(st.integers(1, 20))
    types = [np.dtype(draw(st.sampled_from("<>")) + each) for each in NUMBERS]
    chosen = draw(st.lists(st.sampled_from(types), min_size=1, max_size=5))
    time_type = draw(st.sampled_from(["i8", "u4", "f8", "M8[ms]", "M8[ns]", ">M8[us]", ">i8"]))

    def call() -> dict[str, np.ndarray[Any, Any]]:
        columns = {f"v{i}": draw(hnp.arrays(dtype, rows)) for i, dtype in enumerate(chosen)}
        return {"time": (np.arange(rows) + 1_700_000_000).astype(time_type), **columns}

    return [call() for _ in range(4)]


@given(alike(), st.sampled_from([(), {"host": "a", "b": "c"}, {}]), st.sampled_from([None, "ms"]))
@settings(max_examples=60)
def test_a_call_that_comes_again_makes_what_the_plain_way_makes(
    calls: list[dict[str, np.ndarray[Any, Any]]], tags: Any, time_unit: str | None
) -> None:
    encoder = ColumnsEncoder()
    for columns in calls:
        how = {"tags": tags, "time_unit": time_unit, **BOUNDS}
        (fast,) = encoder.encode("cpu", columns, **how)
        (plain,) = encode_columns("cpu", columns, **how)
        assert (fast.body, fast.headers) == (plain.body, plain.headers)
        assert (fast.rows, fast.what, fast.target) == (plain.rows, plain.what, plain.target)


def test_a_template_never_hides_a_time_that_is_missing() -> None:
    for good, bad in (
        (np.array([1, 2], "M8[ns]"), np.array([1, "NaT"], "M8[ns]")),
        (np.array([1.0, 2.0]), np.array([1.0, np.nan])),
    ):
        encoder = ColumnsEncoder()
        for _ in range(3):
            encoder.encode("cpu", {"time": good, "v": np.arange(2)}, **BOUNDS)
        with pytest.raises(UsageError, match="column 'time', row 1"):
            encoder.encode("cpu", {"time": bad, "v": np.arange(2)}, **BOUNDS)
        (batch,) = encoder.encode("cpu", {"time": good, "v": np.arange(2)}, **BOUNDS)
        assert values_of([batch])["v"] == [0, 1]


def test_a_change_of_anything_but_values_is_another_call() -> None:
    encoder = ColumnsEncoder()
    v = np.arange(3.0)
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"a": v}, {}),
        ({"b": v}, {}),
        ({"a": v.astype("f4")}, {}),
        ({"a": v.astype(">f8")}, {}),
        ({"a": v[:2]}, {}),
        ({"a": v}, {"tags": {"host": "x"}}),
        ({"a": v}, {"tags": {"host": "y"}}),
        ({"a": v}, {"batch_rows": 2}),
        ({"a": v}, {"batch_bytes": 40}),
        ({"a": v.tolist()}, {}),
        ({"a": np.ma.array(v, mask=[False, True, False])}, {}),
        ({"a": np.stack([v, v], axis=1)}, {}),
    ]
    for _ in range(3):
        for columns, how in calls:
            rows = len(next(iter(columns.values())))
            timed = {"time": np.arange(rows) + T0_MS, **columns}
            fast = encoder.encode("cpu", timed, **(BOUNDS | how))
            assert [b.body for b in fast] == [b.body for b in encoded(timed, **how)]


def test_an_encoder_keeps_a_bounded_number_and_size_of_templates() -> None:
    encoder = ColumnsEncoder()
    for name in range(MAX_TEMPLATES + 20):
        for _ in range(3):
            encoder.encode(f"m{name}", {"v": np.arange(3)}, **BOUNDS)
    kept = list(encoder._templates.values())
    assert len(kept) == MAX_TEMPLATES
    for name in range(20):
        for _ in range(3):
            encoder.encode(
                f"n{name}", {"v": np.zeros(50_000)}, batch_rows=10**6, batch_bytes=1 << 24
            )
    kept = list(encoder._templates.values())
    assert 4 < len(kept) < 20
    assert sum(each.nbytes for each in kept) <= MAX_TEMPLATES_BYTES


def test_calls_of_odd_lengths_leave_nothing_but_their_keys_and_few_of_them() -> None:
    encoder = ColumnsEncoder()
    for rows in range(1, MAX_SEEN + 20):
        encoder.encode("cpu", {"v": np.arange(rows)}, **BOUNDS)
    assert not encoder._templates
    assert len(encoder._seen) <= MAX_SEEN


def test_tags_may_be_any_mapping_and_any_iterable() -> None:
    encoder = ColumnsEncoder()
    for _ in range(3):
        tags = types.MappingProxyType({"host": "a"})
        (batch,) = encoder.encode("cpu", {"v": np.arange(2)}, tags=tags, **BOUNDS)
        assert values_of([batch])["host"] == ["a", "a"]
        named = (name for name in ["v"])
        (batch,) = encoder.encode("cpu", {"v": np.arange(2)}, tags=named, **BOUNDS)
        assert values_of([batch])["v"] == ["0", "1"]


def test_threads_that_make_the_same_call_never_see_the_values_of_each_other() -> None:
    encoder, wrong = ColumnsEncoder(), []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for i in range(300):
            values = np.full(200, number * 1_000.0 + i)
            columns = {"time": np.arange(200) + T0_MS, "v": values}
            (batch,) = encoder.encode("cpu", columns, **BOUNDS)
            if found_in(batch).columns["v"].values.tolist() != values.tolist():
                wrong.append((number, i))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_arrays_of_a_call_may_change_after_it() -> None:
    encoder = ColumnsEncoder()
    values = np.arange(3)
    columns: dict[str, Sequence[Any] | np.ndarray[Any, Any]] = {"time": times(3), "v": values}
    batches = [encoder.encode("cpu", columns, **BOUNDS)[0] for _ in range(4)]
    values[:] = -1
    assert [values_of([batch])["v"] for batch in batches] == [[0, 1, 2]] * 4


def test_lists_need_neither_numpy_nor_pyarrow() -> None:
    program = (
        "import sys\n"
        "from arc.client.columns import encode_columns\n"
        "encode_columns('cpu', {'v': [1.5], 'host': ['a']}, tags=['host'],\n"
        "               batch_rows=10, batch_bytes=1000)\n"
        "assert not {'numpy', 'pyarrow'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
