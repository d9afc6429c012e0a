"""Arrow columns to NumPy: the values that pyarrow itself gives, wherever a slice begins."""

from __future__ import annotations

import gc
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.reader import Frame, ListColumn, MaskedColumn, arrays, to_numpy
from arc.reader.arrays import column_to_numpy

TIME = pa.timestamp("us", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.utf8(): st.text(st.characters(codec="utf-8"), max_size=4),
    pa.bool_(): st.booleans(),
    pa.binary(): st.binary(max_size=4),
    TIME: st.datetimes(datetime(1900, 1, 1), datetime(2262, 1, 1)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
    # Not stored by the daemon, but answered by queries or brought by others.
    pa.dictionary(pa.int8(), pa.utf8()): st.sampled_from(["a", "b", "ü"]),
    pa.dictionary(pa.int32(), pa.int64()): st.integers(0, 5),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.large_utf8(): st.text(st.characters(codec="utf-8"), max_size=4),
    pa.date32(): st.dates(date(1900, 1, 1), date(2262, 1, 1)),
    pa.duration("us"): st.timedeltas(timedelta(days=-9), timedelta(days=9)),
    pa.decimal128(9, 2): st.decimals(-9999, 9999, places=2),
    pa.null(): st.none(),
}


@st.composite
def pieces(draw: st.DrawFn, kind: pa.DataType, values: st.SearchStrategy[Any]) -> pa.ChunkedArray:
    """A column of chunks, each a slice of something larger, some without a missing value."""
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        some = st.lists(values if draw(st.booleans()) else st.none() | values, max_size=20)
        whole = pa.array(draw(some), kind)
        start = draw(st.integers(0, len(whole)))
        chunks.append(whole.slice(start, draw(st.integers(0, len(whole)))))
    return pa.chunked_array(chunks, kind)


KINDS = st.sampled_from(list(VALUES))
COLUMNS = KINDS.flatmap(lambda kind: pieces(kind, VALUES[kind]))
LISTS = KINDS.filter(lambda kind: not pa.types.is_dictionary(kind)).flatmap(
    lambda kind: (
        pieces(pa.list_(kind), st.lists(st.none() | VALUES[kind], max_size=4))
        | pieces(pa.large_list(kind), st.lists(VALUES[kind], max_size=4))
        | pieces(pa.list_(kind, 3), st.lists(st.none() | VALUES[kind], min_size=3, max_size=3))
        | pieces(pa.list_(pa.list_(kind)), st.lists(st.lists(VALUES[kind], max_size=2), max_size=3))
    )
)


def python(value: Any) -> Any:
    """A value of NumPy, or a list of them, as pyarrow has it in Python."""
    if isinstance(value, (np.ndarray, MaskedColumn, ListColumn)):
        return [python(value[row]) for row in range(len(value))]
    if isinstance(value, np.datetime64):
        moment = value.astype(object)
        return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else moment
    if isinstance(value, np.timedelta64):
        return value.astype(object)
    return value.item() if isinstance(value, np.generic) else value


@given(COLUMNS)
def test_every_value_of_every_type_is_the_one_that_pyarrow_gives(column: pa.ChunkedArray) -> None:
    found = column_to_numpy(column)
    assert python(found) == column.to_pylist()
    assert isinstance(found, MaskedColumn) == (column.null_count > 0)


@given(LISTS)
def test_every_list_is_a_slice_of_the_flat_values(column: pa.ChunkedArray) -> None:
    found = column_to_numpy(column)
    assert isinstance(found, ListColumn)
    assert len(found) == len(column)
    assert found.offsets[0] == 0
    assert len(found.values) == found.offsets[-1]
    assert python(found) == column.to_pylist()


@given(LISTS, st.integers(0, 50), st.integers(0, 50))
def test_a_slice_of_a_list_column_has_its_lists(
    column: pa.ChunkedArray, start: int, stop: int
) -> None:
    found = column_to_numpy(column)
    assert isinstance(found, ListColumn)
    assert python(found[start:stop]) == column.to_pylist()[start:stop]


@given(st.lists(st.booleans(), max_size=70), st.integers(0, 70), st.integers(0, 70))
def test_the_mask_of_a_slice_begins_at_its_bit(
    present: list[bool], start: int, length: int
) -> None:
    whole = pa.array([1.5 if one else None for one in present], pa.float64())
    mask = arrays.missing(whole.slice(start, length))
    expected = [not one for one in present[start : start + length]]
    assert (mask is None) == (True not in expected)
    assert (mask is None) or mask.tolist() == expected


# --- views -------------------------------------------------------------------------------------


def address(values: Any) -> int:
    return int(values.__array_interface__["data"][0])


@pytest.mark.parametrize("offset", [0, 1, 7, 8, 13])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.int64(), "int64"),
        (pa.float64(), "float64"),
        (TIME, "datetime64[us]"),
        (pa.uint8(), "uint8"),
        (pa.float32(), "float32"),
        (pa.duration("ms"), "timedelta64[ms]"),
    ],
)
def test_a_null_free_column_is_a_view_on_the_memory_of_arrow(
    kind: pa.DataType, dtype: str, offset: int
) -> None:
    array = pa.array(range(20), pa.int64()).cast(pa.int64() if kind == TIME else kind)
    sliced = array.cast(kind).slice(offset)
    found = to_numpy(pa.table({"v": sliced}))["v"]
    assert isinstance(found, np.ndarray)
    assert found.dtype == dtype
    assert address(found) == sliced.buffers()[1].address + offset * found.itemsize
    assert found.shape == (20 - offset,)


def test_the_values_beside_a_mask_are_a_view_as_well() -> None:
    array = pa.array([1.5, None, 2.5])
    found = column_to_numpy(array.slice(1))
    assert isinstance(found, MaskedColumn)
    assert address(found.values) == array.buffers()[1].address + 8
    assert address(found.to_masked_array().data) == address(found.values)


def test_the_flat_values_of_lists_are_a_view() -> None:
    array = pa.array([[0], [1, 2], [3, 4]], pa.list_(pa.int64()))
    found = column_to_numpy(array.slice(1))
    assert isinstance(found, ListColumn)
    assert address(found.values) == array.values.buffers()[1].address + 8
    assert address(found[1]) == address(found.values) + 16


def test_a_view_cannot_be_written_and_outlives_its_table() -> None:
    frame = Frame(pa.table({"v": pa.array(np.arange(100_000))}))
    found: Any = frame.to_numpy()["v"]
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    del frame
    gc.collect()
    assert found.sum() == 4_999_950_000


def test_chunks_are_joined_and_nothing_else_is_copied() -> None:
    chunks = pa.chunked_array([pa.array([1, 2]), pa.array([3])])
    assert column_to_numpy(chunks).tolist() == [1, 2, 3]  # type: ignore[union-attr]
    one = pa.chunked_array([pa.array([1, 2])])
    found = column_to_numpy(one)
    assert address(found) == one.chunk(0).buffers()[1].address


# --- text --------------------------------------------------------------------------------------


def test_text_that_repeats_is_one_object_a_value() -> None:
    names = pa.array(["a", "b", None] * 2_000)
    found = column_to_numpy(names)
    assert isinstance(found, MaskedColumn)
    assert found.values.tolist() == names.to_pylist()
    assert len(set(map(id, found.values))) == 3


def test_text_that_does_not_repeat_is_the_same_by_the_other_way() -> None:
    names = [f"{i}" for i in range(20_000)]
    assert column_to_numpy(pa.array(names)).tolist() == names  # type: ignore[union-attr]


def test_text_beyond_the_reach_of_its_offsets_is_joined_with_wider_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrays, "MAX_JOINED_BYTES", 10)
    column = pa.chunked_array([["abcdef", None], ["ghijkl"]])
    found = column_to_numpy(column)
    assert isinstance(found, MaskedColumn)
    assert found.values.tolist() == ["abcdef", None, "ghijkl"]


def test_chunks_with_dictionaries_of_their_own_are_one_column() -> None:
    chunks = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]).dictionary_encode()]
    found = column_to_numpy(pa.chunked_array(chunks))
    assert isinstance(found, MaskedColumn)
    assert found.values.tolist() == ["a", "b", "c", None]


def test_a_code_where_nothing_is_may_be_anything() -> None:
    codes = pa.Array.from_buffers(
        pa.int32(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([0, 99], np.int32))]
    )
    found = column_to_numpy(pa.DictionaryArray.from_arrays(codes, pa.array(["a"]), safe=False))
    assert isinstance(found, MaskedColumn)
    assert found.values.tolist() == ["a", None]


def test_a_missing_value_in_a_dictionary_is_missing() -> None:
    found = column_to_numpy(pa.DictionaryArray.from_arrays([0, 1, 0], pa.array(["a", None])))
    assert isinstance(found, MaskedColumn)
    assert found.mask.tolist() == [False, True, False]


# --- the rest ----------------------------------------------------------------------------------


def test_the_type_comes_from_the_schema_also_where_every_value_is_missing() -> None:
    found = column_to_numpy(pa.array([None, None], pa.int64()))
    assert isinstance(found, MaskedColumn)
    assert found.values.dtype == np.int64
    assert column_to_numpy(pa.chunked_array([], TIME)).dtype == "datetime64[us]"  # type: ignore[union-attr]


def test_a_nan_is_a_value_and_no_missing_one() -> None:
    found = column_to_numpy(pa.array([float("nan"), 1.0]))
    assert isinstance(found, np.ndarray)
    assert np.isnan(found[0])


def test_what_numpy_has_no_type_for_is_objects() -> None:
    table = pa.table({"d": [Decimal("1.50")], "s": [{"a": 1}]})
    found = to_numpy(table)
    assert found["d"].tolist() == [Decimal("1.50")]  # type: ignore[union-attr]
    assert found["s"].tolist() == [{"a": 1}]  # type: ignore[union-attr]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns of one name: \['a'\]"):
        to_numpy(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"]))


def test_a_masked_column_gives_values_slices_and_copies() -> None:
    found = column_to_numpy(pa.array([1, None, 3]))
    assert isinstance(found, MaskedColumn)
    assert (found[0], found[1], len(found), found.num_missing) == (1, None, 3, 1)
    assert found[1:].mask.tolist() == [True, False]
    assert found.filled(-1).tolist() == [1, -1, 3]
    assert found.to_masked_array().tolist() == [1, None, 3]


def test_a_list_column_gives_objects_and_counts_from_its_end() -> None:
    found = column_to_numpy(pa.array([[1], None, [2, 3]]))
    assert isinstance(found, ListColumn)
    assert [None if one is None else one.tolist() for one in found.to_objects()] == [
        [1],
        None,
        [2, 3],
    ]
    assert found[-1].tolist() == [2, 3]
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(IndexError, match="without a step"):
        found[::2]
