"""Rows of calls are told apart as a reading row by row tells them apart."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.client.intake import by_place
from arc.client.rows_apart import Alike, Cells, Dicts, apart, stride_of

T0 = 1_763_650_000_000_000_000
MISSING = object()

#: Texts that are measurements, names and values, so that each may equal another.
TEXTS = ["cpu", "mem", "a", "b", "c", "d"]
OTHERS: st.SearchStrategy[Any] = st.sampled_from(
    [None, 5, 5.0, True, ["cpu"], {}, np.zeros(2), np.zeros(0)]
)
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [*TEXTS, float("nan"), 1, None, np.zeros(2), T0, ["a"]]
)


class Always:
    """Equals everything, as `unittest.mock.ANY` does."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def flat_of(rows: list[tuple[Any, dict[str, Any]]]) -> list[Any]:
    """What calls with the same number of values leave behind."""
    flat: list[Any] = []
    for i, (measurement, values) in enumerate(rows):
        flat += [measurement, T0 + i, *values, *values.values()]
    return flat


@st.composite
def rows_of_one_width(draw: st.DrawFn) -> tuple[int, list[tuple[Any, dict[str, Any]]]]:
    """A number of values, and rows that have so many: runs of equal heads among them."""
    width = draw(st.integers(0, 4))
    name = st.sampled_from(TEXTS if width < 4 else [*TEXTS, "e", "f"])
    names = st.lists(name, min_size=width, max_size=width, unique=True)
    measurement = st.one_of(*[st.sampled_from(["cpu", "mem", "a"])] * 4, OTHERS)
    heads = draw(st.lists(st.tuples(measurement, names), min_size=1, max_size=5))
    runs = draw(st.lists(st.tuples(st.sampled_from(heads), st.integers(1, 9)), min_size=1))
    values = st.lists(VALUES, min_size=width, max_size=width)
    return width, [
        (head, dict(zip(names, draw(values), strict=True)))
        for (head, names), times in runs
        for _ in range(times)
    ]


def twin(flat: list[Any], width: int) -> list[tuple[Any, int, dict[str, Any]]]:
    """The rows, read one after another."""
    stride = 2 + 2 * width
    found = []
    for at in range(0, len(flat), stride):
        measurement, time_ns, *rest = flat[at : at + stride]
        found.append((measurement, time_ns, dict(zip(rest[:width], rest[width:], strict=True))))
    return found


def rows_of(alike: Alike) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a table, by its columns; what a row lacks is left out, and None in the column."""
    columns = [alike.source.column(name, i) for i, name in enumerate(alike.names)]
    found = []
    for i, (time_ns, row) in enumerate(
        zip(alike.times, alike.source.rows(alike.names), strict=True)
    ):
        for name, column in zip(alike.names, columns, strict=True):
            assert column[i] is row.get(name)
        found.append((time_ns, row))
    return found


def is_same(found: Any, wanted: Any) -> bool:
    """Whether both are the same object or equal text: names and measurements may be made anew."""
    return found is wanted or (isinstance(found, str) and found == wanted)


@given(rows_of_one_width())
def test_rows_are_those_that_are_read_one_by_one(
    given_rows: tuple[int, list[tuple[Any, dict[str, Any]]]],
) -> None:
    width, rows = given_rows
    flat = flat_of(rows)
    wanted = {time_ns: (name, values) for name, time_ns, values in twin(flat, width)}
    seen: list[int] = []
    for measurement, tables in apart(by_place(flat, stride_of(width)), width):
        for alike in tables:
            for time_ns, row in rows_of(alike):
                name, values = wanted[time_ns]
                equal = measurement == name
                assert measurement is name or np.all(equal)
                assert row.keys() == values.keys()
                assert all(is_same(row[key], value) for key, value in values.items())
                seen.append(time_ns)
    assert sorted(seen) == sorted(wanted)


@given(rows_of_one_width())
def test_rows_of_one_head_are_in_one_table_and_keep_their_order(
    given_rows: tuple[int, list[tuple[Any, dict[str, Any]]]],
) -> None:
    width, rows = given_rows
    flat = flat_of(rows)
    wanted: dict[Any, list[int]] = defaultdict(list)
    for name, time_ns, values in twin(flat, width):
        if isinstance(name, str):
            wanted[(name, *values)].append(time_ns)
    measurements = []
    for measurement, tables in apart(by_place(flat, stride_of(width)), width):
        for alike in tables if isinstance(measurement, str) else ():
            found: dict[Any, list[int]] = defaultdict(list)
            for time_ns, row in rows_of(alike):
                found[(measurement, *row)].append(time_ns)
            for head, times in found.items():
                assert wanted.pop(head) == times
        measurements.append(measurement)
    assert not wanted
    texts = [name for name in measurements if isinstance(name, str)]
    assert texts == list(dict.fromkeys(name for name, _ in rows if isinstance(name, str)))


def test_rows_of_one_head_stay_in_the_lists_in_which_they_came() -> None:
    flat = flat_of([("cpu", {"host": f"h{i}", "usage": i / 4}) for i in range(100)])
    columns = by_place(flat, stride_of(2))
    ((measurement, (alike,)),) = apart(columns, 2)
    assert (measurement, alike.names) == ("cpu", ("host", "usage"))
    assert isinstance(alike.source, Cells)
    assert alike.times is columns[1]
    assert alike.times == list(range(T0, T0 + 100))
    assert alike.source.column("usage", 1) is columns[5]
    assert alike.source.column("usage", 1) == [i / 4 for i in range(100)]
    assert alike.source.part(10, 12).rows(alike.names) == [
        {"host": "h10", "usage": 2.5},
        {"host": "h11", "usage": 2.75},
    ]


def test_names_that_are_equal_and_not_the_same_object_are_one_name() -> None:
    made = "".join(["us", "age"])
    flat = flat_of([("cpu", {"usage": 1}), ("".join(["c", "pu"]), {made: 2})])
    assert flat[2] is not flat[6]
    ((_, (alike,)),) = apart(by_place(flat, stride_of(1)), 1)
    assert alike.source.column("usage", 0) == [1, 2]


def test_a_value_that_equals_everything_is_no_name() -> None:
    flat = flat_of([("cpu", {"a": Always()}), ("cpu", {"b": Always()}), ("cpu", {"a": "b"})])
    ((_, tables),) = apart(by_place(flat, stride_of(1)), 1)
    found = {alike.names: alike.times for alike in tables if isinstance(alike.source, Cells)}
    assert found == {("a",): [T0, T0 + 2], ("b",): [T0 + 1]}


@pytest.mark.parametrize(("rows", "is_shared"), [(12, True), (400, False)])
def test_few_rows_of_several_names_share_a_table(rows: int, is_shared: bool) -> None:
    flat = flat_of([("cpu", {"a": i, "b": i, "cd"[i % 2]: i}) for i in range(rows)])
    ((_, tables),) = apart(by_place(flat, stride_of(3)), 3)
    assert [type(alike.source) for alike in tables] == [Dicts] if is_shared else [Cells] * 2
    assert sum(len(alike.times) for alike in tables) == rows


def test_only_the_measurements_with_few_rows_of_many_names_share() -> None:
    few = [("few", {"a": i, "bc"[i % 2]: i}) for i in range(6)]
    many = [("many", {"a": i, "bc"[i % 2]: i}) for i in range(600)]
    flat = flat_of([row for pair in zip(few, many[:6], strict=True) for row in pair] + many[6:])
    found = dict(apart(by_place(flat, stride_of(2)), 2))
    assert [type(alike.source) for alike in found["few"]] == [Dicts]
    assert [len(alike.times) for alike in found["many"]] == [300, 300]
    (alike,) = found["few"]
    assert alike.names == ("a", "b", "c")
    assert alike.times == list(range(T0, T0 + 12, 2))
    assert alike.source.column("c", 2) == [None, 1, None, 3, None, 5]


def test_calls_without_values_are_rows_without_columns() -> None:
    flat = flat_of([("cpu", {}), ("mem", {}), ("cpu", {})])
    ((_, (alike,)), (_, (other,))) = apart(by_place(flat, stride_of(0)), 0)
    assert alike.source.rows(alike.names) == [{}, {}]
    assert other.times == [T0 + 1]
    assert stride_of(0) == 2
