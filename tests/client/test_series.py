"""The compiled `log` of a handle and its plain twin put the same on the list."""

from __future__ import annotations

import keyword
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.client.intake import RowQueue
from arc.client.series import compiled

VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
NAMES = st.one_of(
    st.sampled_from(["len", "done", "_arc_rows", "self", "for", "None", "print", "log", "make"]),
    st.sampled_from(["_arc_value_0", "_arc_value_1", "a b", "1", "é", "x-y", "user"]),
    st.text(min_size=1, max_size=5),
)


def queue_of(stride: int) -> RowQueue:
    queue = RowQueue(stride, None, lambda _: None)
    queue.mark = 1 << 30
    return queue


def made(fields: list[str], queue: RowQueue, *, is_async: bool) -> Any:
    make = compiled(fields, is_async=is_async)
    return make(queue, queue.rows, queue.rows.extend, ("a",), lambda: 17, "done", lambda _: "more")


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.data(), st.booleans())
def test_every_name_makes_a_handle_that_adds_one_row(
    fields: list[str], data: st.DataObject, is_async: bool
) -> None:
    queue = queue_of(2 + len(fields))
    log = made(fields, queue, is_async=is_async)
    rows = data.draw(st.lists(st.tuples(*[VALUES] * len(fields)), max_size=4))
    for row in rows:
        assert log(*row) == ("done" if is_async else None)
    assert queue.rows == [value for row in rows for value in (("a",), 17, *row)]


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.integers(0, 8))
def test_another_number_of_values_adds_nothing(fields: list[str], number: int) -> None:
    queue = queue_of(2 + len(fields))
    log = made(fields, queue, is_async=False)
    if number != len(fields):
        with pytest.raises(TypeError):
            log(*range(number))
        assert queue.rows == []


@given(st.permutations(["user", "system", "idle"]))
def test_names_may_be_given_in_any_order(order: list[str]) -> None:
    queue = queue_of(5)
    log = made(["user", "system", "idle"], queue, is_async=False)
    log(**{name: name.upper() for name in order})
    assert queue.rows == [("a",), 17, "USER", "SYSTEM", "IDLE"]


def test_the_mark_is_looked_at_before_a_row_is_added() -> None:
    queue = queue_of(3)
    seen: list[int] = []

    def notice() -> None:
        seen.append(len(queue.rows))
        queue.mark += 3

    queue.mark, queue.notice = 0, notice
    log = made(["x"], queue, is_async=False)
    log(1)
    log(2)
    assert seen == [0, 3]


@pytest.mark.parametrize("word", keyword.kwlist)
def test_a_keyword_may_name_a_field(word: str) -> None:
    queue = queue_of(3)
    made([word], queue, is_async=False)(1.5)
    assert queue.rows == [("a",), 17, 1.5]
