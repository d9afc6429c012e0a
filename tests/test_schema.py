"""Types widen, never narrow: what is accepted fits every later schema."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.columns import MAX_EXACT_INT, Column, ColumnBatch, ColumnType
from ingest.errors import (
    IngestError,
    InvalidNameError,
    LimitError,
    TypeConflictError,
    ValueTypeError,
)
from ingest.schema import NO_TABLE, ColumnSpec, TableSchema, cast, fit, widen

MAX_COLUMNS = 8
INT64, FLOAT64, UTF8, BOOL = (
    ColumnType.INT64,
    ColumnType.FLOAT64,
    ColumnType.UTF8,
    ColumnType.BOOL,
)
BINARY, UINT64 = ColumnType.BINARY, ColumnType.UINT64


def fixed(kind: ColumnType, dtype: type, values: Sequence[Any], wide: bool = False) -> Column:
    """A column of numbers or booleans, None for null."""
    present = np.array([value is not None for value in values])
    filled: NDArray[Any] = np.array([0 if value is None else value for value in values], dtype)
    return Column(kind, filled, None, None if present.all() else present, wide)


def ints(*values: int | None) -> Column:
    wide = any(abs(value) > MAX_EXACT_INT for value in values if value is not None)
    return fixed(INT64, np.int64, values, wide)


def uints(*values: int | None) -> Column:
    return fixed(UINT64, np.uint64, values)


def floats(*values: float | None) -> Column:
    return fixed(FLOAT64, np.float64, values)


def bools(*values: bool | None) -> Column:
    return fixed(BOOL, np.bool_, values)


def blobs(*values: bytes | None, kind: ColumnType = BINARY) -> Column:
    filled = [value or b"" for value in values]
    offsets = np.cumsum([0, *map(len, filled)], dtype=np.int32)
    present = np.array([value is not None for value in values])
    data = np.frombuffer(b"".join(filled), dtype=np.uint8)
    return Column(kind, data, offsets, None if present.all() else present)


def texts(*values: str | None) -> Column:
    return blobs(*(None if value is None else value.encode() for value in values), kind=UTF8)


def batch(columns: dict[str, Column], tags: Sequence[str] = ()) -> ColumnBatch:
    rows = [
        len(c.values) if c.offsets is None else len(c.offsets) - 1 for c in columns.values()
    ] or [1]
    return ColumnBatch("cpu", np.arange(rows[0]), columns, frozenset(tags), 100)


def table(**specs: ColumnSpec | ColumnType) -> TableSchema:
    columns = {n: s if isinstance(s, ColumnSpec) else ColumnSpec(s) for n, s in specs.items()}
    return TableSchema(columns, 1)


def as_python(column: Column) -> list[Any]:
    """The values as the client meant them, None for null."""
    if column.offsets is None:
        values = column.values.tolist()
    else:
        data, ends = column.values.tobytes(), column.offsets.tolist()
        values = [data[start:end] for start, end in itertools.pairwise(ends)]
    if column.validity is None:
        return list(values)
    return [v if ok else None for v, ok in zip(values, column.validity.tolist(), strict=True)]


WIDE = ColumnSpec(INT64, wide=True)
TAG = ColumnSpec(UTF8, is_tag=True)


def test_a_batch_in_the_types_of_its_table_passes_through_untouched() -> None:
    schema = table(host=TAG, a=INT64, b=FLOAT64, c=BOOL, d=UTF8, e=BINARY, f=WIDE)
    given_batch = batch(
        {
            "host": texts("x"),
            "a": ints(1),
            "b": floats(1.5),
            "c": bools(True),
            "d": texts("y"),
            "e": blobs(b"z"),
            "f": ints(2**60),
        },
        tags=["host"],
    )
    fitted = fit(schema, given_batch, 8)
    assert fitted.batch is given_batch
    assert fitted.schema is None


def test_fewer_columns_than_the_table_has_change_nothing() -> None:
    assert fit(table(a=INT64, b=FLOAT64), batch({"b": floats(1)}), MAX_COLUMNS).schema is None


def test_the_first_batch_makes_the_table() -> None:
    fitted = fit(NO_TABLE, batch({"host": texts("x"), "load": floats(1)}, ["host"]), MAX_COLUMNS)
    assert fitted.schema == TableSchema({"host": TAG, "load": ColumnSpec(FLOAT64)}, 1)


def test_a_batch_of_times_alone_makes_a_table_too() -> None:
    assert fit(NO_TABLE, batch({}), MAX_COLUMNS).schema == TableSchema({}, 1)
    assert fit(TableSchema({}, 1), batch({}), MAX_COLUMNS).schema is None


def test_new_columns_come_after_the_old_ones() -> None:
    fitted = fit(table(b=INT64), batch({"c": bools(True), "a": ints(1)}), MAX_COLUMNS)
    assert fitted.schema is not None
    assert list(fitted.schema.columns) == ["b", "c", "a"]
    assert fitted.schema.version == 2


def test_files_hold_tags_first() -> None:
    assert table(a=INT64, host=TAG, b=BOOL, env=TAG).stored_order() == ["host", "env", "a", "b"]


@pytest.mark.parametrize(
    ("stored", "column", "becomes"),
    [
        (ColumnSpec(INT64), floats(1.5), ColumnSpec(FLOAT64)),
        (ColumnSpec(INT64), floats(None, 2.0), ColumnSpec(FLOAT64)),
        (ColumnSpec(INT64), ints(2**53 + 1), WIDE),
        (ColumnSpec(INT64), ints(-(2**63)), WIDE),
        (ColumnSpec(INT64), ints(2**53), ColumnSpec(INT64)),
        (ColumnSpec(FLOAT64), ints(2**53, -(2**53)), ColumnSpec(FLOAT64)),
        (ColumnSpec(FLOAT64), uints(2**63, None), ColumnSpec(FLOAT64)),
        (WIDE, ints(1), WIDE),
        (ColumnSpec(UTF8), texts("a"), ColumnSpec(UTF8)),
        (TAG, texts("a"), TAG),
    ],
)
def test_a_stored_type_widens_as_far_as_no_value_is_lost(
    stored: ColumnSpec, column: Column, becomes: ColumnSpec
) -> None:
    schema = table(x=stored)
    fitted = fit(schema, batch({"x": column}), MAX_COLUMNS)
    assert (fitted.schema or schema).columns == {"x": becomes}
    assert (fitted.schema is None) == (stored == becomes)


def test_integers_are_cast_for_a_float_column_and_keep_their_nulls() -> None:
    before = batch({"x": ints(2**53, None, -1), "y": ints(1, 2, 3)})
    after = fit(table(x=FLOAT64, y=INT64), before, MAX_COLUMNS).batch
    assert after.columns["x"].type is FLOAT64
    assert as_python(after.columns["x"]) == [float(2**53), None, -1.0]
    assert after.columns["x"].values.dtype == np.float64
    assert after.columns["y"] is before.columns["y"]
    assert list(after.columns) == ["x", "y"]
    assert after.nbytes == before.nbytes
    assert before.columns["x"].type is INT64


def test_a_large_unsigned_integer_becomes_the_nearest_float_of_a_float_column() -> None:
    after = fit(table(x=FLOAT64), batch({"x": uints(2**64 - 1, 5)}), MAX_COLUMNS).batch
    assert as_python(after.columns["x"]) == [2.0**64, 5.0]


@pytest.mark.parametrize(
    ("stored", "column", "row", "found"),
    [
        (WIDE, floats(None, 0.5), 1, "float64 0.5"),
        (ColumnSpec(FLOAT64), ints(1, None, 2**53 + 1), 2, "int64 9007199254740993"),
        (ColumnSpec(FLOAT64), ints(-(2**63)), 0, "int64 -9223372036854775808"),
        (ColumnSpec(INT64), uints(1, 2**63), 1, "uint64 9223372036854775808"),
        (WIDE, uints(2**64 - 1), 0, "uint64 18446744073709551615"),
        (TAG, uints(1, 2**63), 1, "uint64 9223372036854775808"),
        (ColumnSpec(INT64), bools(True), 0, "bool True"),
        (ColumnSpec(FLOAT64), bools(None, False), 1, "bool False"),
        (ColumnSpec(FLOAT64), texts("n/a"), 0, "utf8 'n/a'"),
        (ColumnSpec(INT64), texts(None, "é"), 1, "utf8 'é'"),
        (ColumnSpec(INT64), blobs(b"abc"), 0, "binary of 3 bytes"),
        (ColumnSpec(UTF8), blobs(b""), 0, "binary of 0 bytes"),
        (ColumnSpec(UTF8), ints(7), 0, "int64 7"),
        (ColumnSpec(UTF8), floats(7), 0, "float64 7.0"),
        (ColumnSpec(BOOL), ints(1), 0, "int64 1"),
        (ColumnSpec(BINARY), texts("a"), 0, "utf8 'a'"),
    ],
)
def test_a_conflict_names_column_row_value_and_both_types(
    stored: ColumnSpec, column: Column, row: int, found: str
) -> None:
    schema = table(ok=INT64, x=stored)
    with pytest.raises(TypeConflictError) as conflict:
        fit(schema, batch({"x": column}), MAX_COLUMNS)
    assert str(conflict.value).startswith(
        f"measurement 'cpu': column 'x', row {row}: found {found}, "
        f"but the column is stored as {stored.type}"
    )


def test_a_new_column_cannot_hold_an_unsigned_integer_above_int64() -> None:
    with pytest.raises(TypeConflictError, match=r"row 1: found uint64 9223372036854775808, but"):
        fit(NO_TABLE, batch({"x": uints(3, 2**63)}), MAX_COLUMNS)


def test_a_refusal_never_repeats_an_endless_text() -> None:
    with pytest.raises(TypeConflictError, match=r"found utf8 '(é){40}'…, but") as conflict:
        fit(table(x=INT64), batch({"x": texts("é" * 100_000)}), MAX_COLUMNS)
    assert len(str(conflict.value)) < 200


def test_a_stored_text_becomes_a_tag_and_stays_one() -> None:
    tagged = fit(table(host=UTF8), batch({"host": texts("a")}, ["host"]), MAX_COLUMNS)
    assert tagged.schema == TableSchema({"host": TAG}, 2)
    assert fit(tagged.schema, batch({"host": texts("a")}), MAX_COLUMNS).schema is None


def test_a_tag_that_is_null_throughout_changes_nothing() -> None:
    for schema in (table(a=INT64), table(a=INT64, host=UTF8), table(a=INT64, host=FLOAT64)):
        assert fit(schema, batch({"a": ints(1)}, ["host"]), MAX_COLUMNS).schema is None


@pytest.mark.parametrize("schema", [NO_TABLE, table(host=FLOAT64), table(host=TAG)])
def test_a_tag_must_be_text(schema: TableSchema) -> None:
    message = "column 'host', row 1: found float64 2.5, wanted utf8, since it is a tag"
    with pytest.raises(ValueTypeError, match=message):
        fit(schema, batch({"host": floats(None, 2.5)}, ["host"]), MAX_COLUMNS)


def test_text_marked_as_a_tag_does_not_fit_a_column_of_numbers() -> None:
    with pytest.raises(TypeConflictError, match="found utf8 'a', but the column is stored as int"):
        fit(table(host=INT64), batch({"host": texts("a")}, ["host"]), MAX_COLUMNS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a name of 0 bytes, wanted 1 to 255"),
        ("é" * 128, "a name of 256 bytes, wanted 1 to 255"),
        ("a\ud800", "character 1 is a surrogate"),
        ("a\0b", r"U\+0000 cannot be in a column's name"),
        ("time", "'time' is the time of the row"),
    ],
)
def test_a_new_column_needs_a_name_that_can_be_stored(name: str, message: str) -> None:
    with pytest.raises(InvalidNameError, match=message):
        fit(table(a=INT64), batch({name: ints(1)}), MAX_COLUMNS)


@pytest.mark.parametrize("name", ["_monotonic", "a.b", "x" * 255, "Ünit °C", "\n"])
def test_a_column_name_may_be_almost_anything(name: str) -> None:
    assert fit(NO_TABLE, batch({name: ints(1)}), MAX_COLUMNS).schema is not None


def test_a_new_table_needs_a_name_that_can_be_stored() -> None:
    nameless = msgspec.structs.replace(batch({"a": ints(1)}), measurement="")
    with pytest.raises(InvalidNameError, match="0 characters"):
        fit(NO_TABLE, nameless, MAX_COLUMNS)


def test_a_table_takes_as_many_columns_as_the_limit_says_and_not_one_more() -> None:
    full = fit(NO_TABLE, batch({f"c{i}": ints(1) for i in range(MAX_COLUMNS - 1)}), MAX_COLUMNS)
    assert full.schema is not None
    with pytest.raises(LimitError, match=r"the time included: 9, over the limit of 8 \(ARC_MAX"):
        fit(full.schema, batch({"one more": ints(1)}), MAX_COLUMNS)
    with pytest.raises(LimitError):
        fit(NO_TABLE, batch({f"c{i}": ints(1) for i in range(MAX_COLUMNS)}), MAX_COLUMNS)


def test_a_lowered_limit_leaves_the_columns_that_are_there_usable() -> None:
    wide = fit(table(a=INT64, b=INT64), batch({"a": floats(1.5)}), max_columns=1)
    assert wide.schema == TableSchema({"a": ColumnSpec(FLOAT64), "b": ColumnSpec(INT64)}, 2)


SMALL = st.integers(-MAX_EXACT_INT, MAX_EXACT_INT)
ANY_INT = st.integers(-(2**63), 2**63 - 1)


def _columns_of(rows: int) -> st.SearchStrategy[Column]:
    def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        # At least one value is there: what is null throughout never reaches the schema.
        some = st.lists(st.none() | values, min_size=rows - 1, max_size=rows - 1)
        return st.builds(lambda value, rest: [value, *rest], values, some)

    return st.one_of(
        lists(SMALL).map(lambda v: ints(*v)),
        lists(ANY_INT).map(lambda v: ints(*v)),
        lists(st.floats(allow_nan=False)).map(lambda v: floats(*v)),
        lists(st.text(max_size=5)).map(lambda v: texts(*v)),
        lists(st.booleans()).map(lambda v: bools(*v)),
        lists(st.binary(max_size=5)).map(lambda v: blobs(*v)),
        lists(st.integers(2**63, 2**64 - 1)).map(lambda v: uints(*v)),
    )


@st.composite
def batches(draw: st.DrawFn) -> ColumnBatch:
    rows = draw(st.integers(1, 3))
    columns = draw(st.dictionaries(st.sampled_from("abcd"), _columns_of(rows), max_size=4))
    tags = draw(st.sets(st.sampled_from("abcd"), max_size=1))
    time_us: NDArray[np.int64] = np.arange(rows)
    return ColumnBatch("cpu", time_us, columns, frozenset(tags), 0)


@given(st.lists(st.tuples(batches(), st.integers(0, 3)), max_size=12))
def test_what_was_accepted_can_always_be_cast_to_the_last_schema_without_loss(
    arrivals: list[tuple[ColumnBatch, int]],
) -> None:
    # Each batch meets the schema as a worker knows it, up to three changes late; only a change
    # looks at the newest, as the catalog does.
    history, accepted = [NO_TABLE], []
    for arrival, late in arrivals:
        known = history[max(0, len(history) - 1 - late)]
        try:
            if fit(known, arrival, MAX_COLUMNS).schema is not None:
                newest = widen(history[-1], arrival, MAX_COLUMNS)
                if newest is not history[-1]:
                    history.append(newest)
        except IngestError:
            continue
        accepted.append(arrival)
    for arrival in accepted:
        stored = cast(history[-1], arrival)
        assert fit(history[-1], arrival, MAX_COLUMNS).schema is None
        for name, column in arrival.columns.items():
            assert stored.columns[name].type is history[-1].columns[name].type
            if column.type is UINT64:
                expected = [None if v is None else float(v) for v in as_python(column)]
                assert as_python(stored.columns[name]) == expected
            else:
                assert as_python(stored.columns[name]) == as_python(column)


T = TypeVar("T")


def attempt(act: Callable[[], T]) -> tuple[T | None, tuple[type, str] | None]:
    """A result and no refusal, or the other way round."""
    try:
        return act(), None
    except IngestError as refusal:
        return None, (type(refusal), str(refusal))


@given(st.lists(batches(), max_size=6), batches())
def test_the_short_way_and_the_general_way_agree(
    earlier: list[ColumnBatch], arrival: ColumnBatch
) -> None:
    schema = NO_TABLE
    for one in earlier:
        schema = attempt(functools.partial(widen, schema, one, MAX_COLUMNS))[0] or schema
    needed, refusal = attempt(lambda: widen(schema, arrival, MAX_COLUMNS))
    fitted, same_refusal = attempt(lambda: fit(schema, arrival, MAX_COLUMNS))
    assert same_refusal == refusal
    if needed is None or fitted is None:
        return
    assert (fitted.schema or schema) == needed
    assert (fitted.schema is None) == (needed is schema)
    stored, expected = fitted.batch.columns, cast(needed, arrival).columns
    assert list(stored) == list(expected)
    for name, column in stored.items():
        assert (column.type, as_python(column)) == (expected[name].type, as_python(expected[name]))


def test_nothing_but_nan_is_null_where_text_is_stored() -> None:
    schema = table(path=UTF8)
    fitted = fit(schema, batch({"path": floats(float("nan"), None), "x": ints(1, 2)}), 10)
    assert fitted.schema is not None  # for the new column alone
    assert list(fitted.batch.columns) == ["x"]
    assert fitted.schema.columns["path"].type is UTF8


def test_one_number_among_nan_is_a_conflict_where_text_is_stored() -> None:
    with pytest.raises(TypeConflictError, match=r"'path'.*float64.*stored as utf8"):
        fit(table(path=UTF8), batch({"path": floats(float("nan"), 1.5)}), 10)


def test_a_tag_of_nothing_but_nan_is_null_too() -> None:
    schema = table(host=ColumnSpec(UTF8, is_tag=True))
    nan = batch({"host": floats(float("nan"), float("nan"))}, tags=["host"])
    assert fit(schema, nan, 10).batch.columns == {}


@pytest.mark.parametrize(
    ("known", "new"), [({"Temp": INT64}, ["temp"]), ({}, ["Time"]), ({"a": INT64}, ["Ä", "ä"])]
)
def test_columns_that_differ_only_in_capitals_are_refused(
    known: dict[str, ColumnType], new: list[str]
) -> None:
    schema = table(**known) if known else NO_TABLE
    with pytest.raises(InvalidNameError, match=rf"column '{new[-1]}' differs from .* capitals"):
        fit(schema, batch({name: ints(1) for name in new}), MAX_COLUMNS)
