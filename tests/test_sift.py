"""Rows that tables take and rows that they do not: no row is lost, changed, or judged twice."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.batch_rows import join_batches, keep_rows
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import (
    ClientError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TypeConflictError,
    ValueTypeError,
)
from ingest.limits import Limits
from ingest.paths import HOUR_US, QUARANTINE
from ingest.schema import NO_TABLE, ColumnSpec, TableSchema, fit, refusals
from ingest.sift import Demote, Sieve, Sifted, check_measurements, sift
from ingest.testing.batches import assert_same_column, check_batches, column_values
from tests.support.columns import batch, blobs, bools, floats, ints, texts, uints

INT64, FLOAT64, UTF8, BOOL = (
    ColumnType.INT64,
    ColumnType.FLOAT64,
    ColumnType.UTF8,
    ColumnType.BOOL,
)
BINARY, UINT64 = ColumnType.BINARY, ColumnType.UINT64
WIDE, TAG = ColumnSpec(INT64, wide=True), ColumnSpec(UTF8, is_tag=True)
LIMITS = Limits(max_columns=8, max_hours=5)


def table(**specs: ColumnSpec | ColumnType) -> TableSchema:
    columns = {n: s if isinstance(s, ColumnSpec) else ColumnSpec(s) for n, s in specs.items()}
    return TableSchema(columns, 1)


def sifted(schema: TableSchema, *batches: ColumnBatch, demote: Demote | None = None) -> Sifted:
    return sift(batches, {"cpu": schema}, LIMITS, demote)


def values(found: ColumnBatch) -> dict[str, list[Any]]:
    return {name: column_values(column) for name, column in found.columns.items()}


def refused_rows(found: Sifted) -> list[tuple[list[int], type[ClientError]]]:
    return [(part.rows.tolist(), type(part.error)) for part in found.refused]


# ------------------------------------------------------------------------------- which rows it is


def test_what_fits_passes_as_it_is() -> None:
    given_batch = batch({"v": ints(1, 2)})
    found = sifted(table(v=INT64), given_batch)
    assert found.batches[0] is given_batch
    assert found.refused == []


@pytest.mark.parametrize(
    ("spec", "column", "refused", "good"),
    [
        (BOOL, ints(None, 5, None), [1], None),
        (FLOAT64, ints(1, 2**53 + 1, None, -(2**60)), [1, 3], [1.0, None]),
        (WIDE, floats(None, 1.5), [1], None),
        (UTF8, floats(float("nan"), 1.5, None), [1], None),
        (INT64, uints(5, 2**63, None, 2**62), [1], [5, None, 2**62]),
        (WIDE, uints(2**64 - 1, 1), [0], [1]),
        (None, uints(2**64 - 1, 1), [0], [1]),
        (INT64, texts("a", None), [0], None),
        (BINARY, texts(None, "a"), [1], None),
        (UTF8, blobs(b"a", None), [0], None),
        (FLOAT64, bools(True, None), [0], None),
    ],
)
def test_only_the_rows_whose_value_is_the_trouble_are_refused(
    spec: ColumnSpec | ColumnType | None,
    column: Column,
    refused: list[int],
    good: list[Any] | None,
) -> None:
    schema = table(n=INT64) if spec is None else table(n=INT64, v=spec)
    rows = len(column.values) if column.offsets is None else len(column.offsets) - 1
    found = sifted(schema, batch({"n": ints(*range(rows)), "v": column}))
    assert refused_rows(found) == [(refused, TypeConflictError)]
    left = [row for row in range(rows) if row not in refused]
    wanted = {"n": left} | ({} if good is None else {"v": good})
    assert values(found.batches[0]) == wanted
    assert values(found.refused[0].batch)["n"] == refused


def test_a_tag_that_is_no_text_is_refused_where_it_has_a_value() -> None:
    given_batch = batch({"host": ints(None, 1), "v": ints(1, 2)}, ["host"])
    found = sifted(NO_TABLE, given_batch)
    assert refused_rows(found) == [([1], ValueTypeError)]
    assert values(found.batches[0]) == {"v": [1]}


def test_a_tag_that_is_a_number_where_text_is_stored_is_refused_but_for_nan() -> None:
    found = sifted(table(host=TAG), batch({"host": floats(float("nan"), 1.0)}, ["host"]))
    assert refused_rows(found) == [([1], ValueTypeError)]
    assert values(found.batches[0]) == {}


def test_a_name_that_cannot_be_stored_is_refused_where_it_has_a_value() -> None:
    given_batch = batch({"x" * 256: ints(None, 1, None), "v": ints(1, 2, 3)})
    found = sifted(NO_TABLE, given_batch)
    assert refused_rows(found) == [([1], InvalidNameError)]
    assert values(found.batches[0]) == {"v": [1, 3]}


def test_of_names_that_differ_in_capitals_only_the_first_is_stored() -> None:
    given_batch = batch({"Load": ints(1, None), "load": ints(None, 2), "Time": ints(None, 3)})
    found = sifted(NO_TABLE, given_batch)
    assert refused_rows(found) == [([1], InvalidNameError)]
    assert values(found.batches[0]) == {"Load": [1]}
    stored = sifted(table(load=INT64), batch({"Load": ints(1)}))
    assert refused_rows(stored) == [([0], InvalidNameError)]
    assert stored.batches == []


def test_columns_over_the_limit_are_refused_and_the_first_ones_stored() -> None:
    columns = {f"c{i}": ints(*[1 if i % 3 == row else None for row in range(3)]) for i in range(9)}
    found = sifted(table(old=INT64), batch(columns))
    # Room for six: c0 to c5. c6, c7 and c8 have one row each.
    assert [rows for rows, _ in refused_rows(found)] == [[0], [1], [2]]
    assert found.batches == []
    one = sifted(table(old=INT64), batch({**columns, "old": ints(1, 2, 3)}), batch({"c0": ints(1)}))
    assert {error for _, error in refused_rows(one)} == {LimitError}
    assert [part.measurement for part in one.batches] == ["cpu"]


def test_a_row_with_two_faults_is_refused_once_for_the_first() -> None:
    found = sifted(
        table(a=BOOL, b=BOOL), batch({"a": ints(1, None), "b": ints(2, 3), "c": ints(4, 5)})
    )
    assert refused_rows(found) == [([0], TypeConflictError), ([1], TypeConflictError)]
    assert "'a'" in str(found.refused[0].error)
    assert "'b'" in str(found.refused[1].error)


def test_a_measurement_that_cannot_be_stored_refuses_its_whole_batch() -> None:
    bad = batch({"v": ints(1, 2)}, measurement="a\0b")
    good = batch({"v": ints(3)})
    found = sifted(NO_TABLE, bad, good)
    assert refused_rows(found) == [([0, 1], InvalidNameError)]
    assert found.refused[0].batch_index == 0
    assert found.refused[0].measurement == "a\0b"
    assert [part.measurement for part in found.batches] == ["cpu"]


def test_clients_cannot_write_to_the_quarantine() -> None:
    given_batch = batch({"v": ints(1)}, measurement=QUARANTINE)
    assert refused_rows(sifted(NO_TABLE, given_batch)) == [([0], PayloadError)]
    check_measurements([batch({"v": ints(1)})])
    with pytest.raises(PayloadError, match="'_quarantine': holds the rows"):
        check_measurements([batch({"v": ints(1)}), given_batch])


def test_hours_over_the_limit_refuse_the_batch_that_brings_them() -> None:
    def hours(*numbers: int) -> ColumnBatch:
        found = batch({"v": ints(*numbers)})
        found.time_us = np.array([number * HOUR_US for number in numbers])
        found.known_range_us = None
        return found

    found = sifted(NO_TABLE, hours(0, 1, 1, 2), hours(-300_000, 5_000), hours(2, 9), hours(10))
    assert refused_rows(found) == [([0, 1], LimitError), ([0], LimitError)]
    assert [part.batch_index for part in found.refused] == [2, 3]
    alone = sifted(NO_TABLE, hours(*range(6)))
    assert refused_rows(alone) == [([*range(6)], LimitError)]


def test_tables_over_the_limit_refuse_the_batches_that_bring_them() -> None:
    sieve = Sieve(lambda name: table(v=INT64) if name == "old" else NO_TABLE, LIMITS, 1)
    outcomes = []
    for name in ("new", "newer", "old", "new"):
        taken, refused = sieve.sift(batch({"v": ints(1)}, measurement=name))
        outcomes.append((taken is not None, [type(part.error) for part in refused]))
    assert outcomes == [(True, []), (False, [LimitError]), (True, []), (True, [])]


# ----------------------------------------------------------------------------- what comes after


def test_what_an_earlier_batch_added_counts_for_the_later() -> None:
    found = sifted(NO_TABLE, batch({"v": texts("a")}), batch({"v": ints(1)}))
    assert [values(part) for part in found.batches] == [{"v": ["a"]}]
    assert refused_rows(found) == [([0], TypeConflictError)]
    assert found.refused[0].batch_index == 1


def test_what_a_refused_row_would_have_added_does_not_count() -> None:
    first = batch({"new": texts("a", None), "v": texts("x", None), "w": ints(1, 2)})
    found = sifted(table(v=INT64), first, batch({"new": ints(1)}))
    assert refused_rows(found) == [([0], TypeConflictError)]
    assert [values(part) for part in found.batches] == [{"w": [2]}, {"new": [1]}]


def test_a_value_becomes_the_same_whichever_rows_it_stands_among() -> None:
    # As uint64 both go into float64; 2**60 + 1 alone would be int64, which does not.
    given_batch = batch({"u": uints(2**64 - 1, 2**60 + 1), "v": texts("a", None)})
    found = sifted(table(u=FLOAT64, v=INT64), given_batch)
    assert refused_rows(found) == [([0], TypeConflictError)]
    assert values(found.batches[0]) == {"u": [float(2**60 + 1)]}


def test_sizes_ranges_and_wide_are_those_of_the_rows_that_are_left() -> None:
    given_batch = batch({"v": ints(2**60, 1, 2), "s": texts("long text", "a", "é"), "b": BAD})
    found = sifted(table(b=BOOL), given_batch)
    (left,) = found.batches
    assert not left.columns["v"].wide
    assert left.range_us == (left.time_us[0], left.time_us[1])
    check_batches([left])
    assert left.nbytes < given_batch.nbytes


BAD = ints(1, None, None)


def test_many_columns_in_the_way_are_found_in_one_pass() -> None:
    columns = {f"c{i}": ints(*[1 if i == row else None for row in range(2_000)]) for i in range(9)}
    given_batch = batch({**columns, "v": ints(*range(2_000))})
    schema = TableSchema({f"c{i}": ColumnSpec(BOOL) for i in range(7)}, 1)
    found = sift([given_batch], {"cpu": schema}, Limits())
    assert len(found.refused) == 7
    assert found.batches[0].num_rows == 1_993


# -------------------------------------------------------------------------------------- demotion


def demote_attributes(given_batch: ColumnBatch, names: Collection[str]) -> ColumnBatch:
    """Moves columns that begin with "a." into the text column `rest`."""
    moved = [name for name in given_batch.columns if name in names and name.startswith("a.")]
    if not moved:
        return given_batch
    kept = {name: c for name, c in given_batch.columns.items() if name not in moved}
    rest = texts(*[",".join(moved)] * given_batch.num_rows)
    return msgspec.structs.replace(given_batch, columns={**kept, "rest": rest})


def test_a_column_in_the_way_is_moved_where_that_can_be() -> None:
    given_batch = batch({"a.x": ints(1, 2), "v": ints(3, 4)})
    found = sifted(table(**{"a.x": BOOL}), given_batch, demote=demote_attributes)
    assert found.refused == []
    assert values(found.batches[0]) == {"v": [3, 4], "rest": ["a.x", "a.x"]}


def test_rows_are_refused_where_a_column_cannot_be_moved() -> None:
    given_batch = batch({"a.x": ints(1, 2), "v": ints(3, None)})
    found = sifted(table(**{"a.x": BOOL, "v": BOOL}), given_batch, demote=demote_attributes)
    assert refused_rows(found) == [([0], TypeConflictError)]
    assert values(found.batches[0]) == {"rest": ["a.x"]}
    assert values(found.refused[0].batch) == {"a.x": [1], "v": [3]}


def test_in_a_full_table_new_columns_make_room_for_the_place_they_are_moved_to() -> None:
    schema = table(**{f"c{i}": INT64 for i in range(6)})
    given_batch = batch({"a.x": ints(1), "a.y": ints(2)})
    found = sifted(schema, given_batch, demote=demote_attributes)
    assert found.refused == []
    assert values(found.batches[0]) == {"rest": ["a.x,a.y"]}
    full = table(**{f"c{i}": INT64 for i in range(7)})
    assert refused_rows(sifted(full, given_batch, demote=demote_attributes)) == [([0], LimitError)]


def test_a_table_whose_name_is_bad_is_not_asked_to_demote() -> None:
    given_batch = batch({"a.x": ints(1)}, measurement="")
    found = sifted(NO_TABLE, given_batch, demote=demote_attributes)
    assert refused_rows(found) == [([0], InvalidNameError)]


# ------------------------------------------------------------------------------------ properties

NAMES = ["a", "A", "b", "B", "c", "d", "e", "f", "Time", "x" * 256, "a\ud800", "a.x"]
MEASUREMENTS = ["cpu", "cpu", "cpu", "mem", QUARANTINE, "", "a\nb"]


def random_column(rng: random.Random, rows: int) -> Column | None:
    """A column of any type, some of it null; None when all of it is."""
    nulls = rng.choice([0.0, 0.3, 0.9])
    kind = rng.choice(list(ColumnType))
    pools: dict[ColumnType, tuple[Any, Sequence[Any]]] = {
        INT64: (ints, [0, 1, -1, 2**53 + 1, -(2**63), 2**63 - 1]),
        UINT64: (uints, [2**63, 2**64 - 1, 0, 2**60 + 1]),
        FLOAT64: (floats, [float("nan"), float("nan"), 1.5, 1e300, -0.0]),
        UTF8: (texts, ["", "a", "größe"]),
        BINARY: (blobs, [b"", b"\xff\0"]),
        BOOL: (bools, [True, False]),
    }
    make, pool = pools[kind]
    some = pool if rng.random() < 0.5 else pool[:2]
    found = [None if rng.random() < nulls else rng.choice(some) for _ in range(rows)]
    if all(value is None for value in found):
        return None
    if kind is UINT64 and all((value or 0) < 2**63 for value in found):
        found[0] = 2**63
    column: Column = make(*found)
    return column


def random_batch(rng: random.Random) -> ColumnBatch:
    rows = rng.randint(1, 6)
    named = {name: random_column(rng, rows) for name in rng.sample(NAMES, rng.randint(1, 6))}
    columns = {name: column for name, column in named.items() if column is not None}
    if not columns:
        columns["z"] = ints(*range(rows))
    name = rng.choice(MEASUREMENTS)
    found = batch(columns, rng.sample(NAMES, rng.randint(0, 2)), name)
    if rng.random() < 0.3:
        found.time_us = found.time_us + HOUR_US * np.array([rng.randint(0, 5) for _ in range(rows)])
        found.known_range_us = None
    return found


def random_schema(rng: random.Random) -> TableSchema:
    kinds: list[ColumnSpec | ColumnType] = [INT64, FLOAT64, UTF8, BOOL, BINARY, WIDE, TAG]
    return table(**{n: rng.choice(kinds) for n in rng.sample(["a", "b", "c", "d", "e"], 3)})


SEEDS = st.integers(0, 2**32 - 1).map(random.Random)


def as_stored(value: Any, column: Column | None) -> Any:
    """What a value becomes in the type that a column has now."""
    if column is None:  # nothing but NaN, where text is stored
        return None
    return float(value) if column.type is FLOAT64 and isinstance(value, int) else value


def check_rows(given_batch: ColumnBatch, good: ColumnBatch | None, rows: Sequence[int]) -> None:
    """Fail unless a batch holds these rows of another, unchanged."""
    if good is None:
        assert not rows
        return
    assert good.time_us.tolist() == given_batch.time_us[list(rows)].tolist()
    for name, column in given_batch.columns.items():
        before = column_values(column)
        stored = good.columns.get(name)
        after = [None] * len(rows) if stored is None else column_values(stored)
        for at, row in enumerate(rows):
            if stored is None:
                assert before[row] is None or before[row] != before[row]
            else:
                assert repr(after[at]) == repr(as_stored(before[row], stored))
    assert good.columns.keys() <= given_batch.columns.keys()


@given(SEEDS)
def test_every_row_goes_on_or_is_refused_and_what_goes_on_fits(rng: random.Random) -> None:
    schemas = {"cpu": random_schema(rng)} if rng.random() < 0.7 else {}
    given_batches = [random_batch(rng) for _ in range(rng.randint(1, 4))]
    found = sift(given_batches, schemas, LIMITS)
    good = list(found.batches)
    threaded = dict(schemas)
    for index, given_batch in enumerate(given_batches):
        parts = [part for part in found.refused if part.batch_index == index]
        refused = [row for part in parts for row in part.rows.tolist()]
        assert len(set(refused)) == len(refused)
        left = sorted(set(range(given_batch.num_rows)) - set(refused))
        taken = good.pop(0) if left else None
        check_rows(given_batch, taken, left)
        for part in parts:
            assert part.source is given_batch
            check_rows(given_batch, part.batch, part.rows.tolist())
        if taken is not None:
            schema = threaded.get(taken.measurement, NO_TABLE)
            fitted = fit(schema, taken, LIMITS.max_columns)
            threaded[taken.measurement] = fitted.schema or schema
            assert fitted.batch is taken
            check_batches([taken])
    assert good == []


@given(SEEDS)
def test_a_batch_that_fits_loses_no_row(rng: random.Random) -> None:
    schema, given_batch = random_schema(rng), random_batch(rng)
    try:
        fitted = fit(schema, given_batch, LIMITS.max_columns)
    except ClientError:
        return
    found = sift([given_batch], {given_batch.measurement: schema}, Limits())
    if given_batch.measurement != QUARANTINE:
        assert found.refused == []
        assert list(found.batches[0].columns) == list(fitted.batch.columns)


@given(SEEDS)
def test_without_the_refused_columns_a_batch_fits(rng: random.Random) -> None:
    schema = random_schema(rng) if rng.random() < 0.7 else NO_TABLE
    given_batch = msgspec.structs.replace(random_batch(rng), measurement="cpu")
    found = refusals(schema, given_batch, LIMITS.max_columns)
    rest = {name: c for name, c in given_batch.columns.items() if name not in found}
    fit(schema, msgspec.structs.replace(given_batch, columns=rest), LIMITS.max_columns)
    for name in found:
        more = msgspec.structs.replace(
            given_batch, columns={**rest, name: given_batch.columns[name]}
        )
        with pytest.raises(type(found[name])):
            fit(schema, more, LIMITS.max_columns)


@given(SEEDS)
def test_a_request_that_is_taken_whole_or_not_at_all_changes_nothing_when_not(
    rng: random.Random,
) -> None:
    schema = random_schema(rng)
    sieve = Sieve(lambda name: schema if name == "cpu" else NO_TABLE, LIMITS)
    given_batches = [random_batch(rng) for _ in range(3)]
    names = ("cpu", "mem")
    before = [sieve.schema(name) for name in names]
    try:
        taken = sieve.take(given_batches)
    except ClientError:
        assert [sieve.schema(name) for name in names] == before
        assert sieve.take([]) == []
    else:
        assert [one.num_rows for one in taken] == [one.num_rows for one in given_batches]
        assert [sieve.emptied().schema(name) for name in names] == before


@given(SEEDS)
def test_rows_taken_apart_and_joined_again_are_the_same(rng: random.Random) -> None:
    given_batch = random_batch(rng)
    unlike = [n for n, c in given_batch.columns.items() if c.type is UINT64 or n in NAMES[9:11]]
    for name in unlike:
        del given_batch.columns[name]
    mask = np.array([rng.random() < 0.5 for _ in range(given_batch.num_rows)])
    halves = [keep_rows(given_batch, part) for part in (mask, ~mask) if part.any()]
    joined = join_batches(halves)
    order = np.argsort(np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)]))
    assert joined.time_us[order].tolist() == given_batch.time_us.tolist()
    assert joined.columns.keys() == given_batch.columns.keys()
    for name, column in given_batch.columns.items():
        found = column_values(joined.columns[name])
        assert repr([found[at] for at in order]) == repr(column_values(column))
    check_batches([joined, *halves])


def test_joined_batches_have_null_where_one_had_no_column() -> None:
    first = batch({"v": floats(1.5), "s": texts("a")}, ["s"])
    second = batch({"w": bools(True, None), "s": texts(None, "b"), "b": blobs(b"x", b"")})
    joined = join_batches([first, second])
    assert values(joined) == {
        "v": [1.5, None, None],
        "s": ["a", None, "b"],
        "w": [None, True, None],
        "b": [None, b"x", b""],
    }
    assert joined.tags == {"s"}
    check_batches([joined])
    assert join_batches([first]) is first
    assert_same_column(join_batches([first, first]).columns["v"], floats(1.5, 1.5))
