"""Columns that a table refuses become members of attributes_json, and no value is lost."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.assemble import assemble
from ingest.columns import Column, ColumnBatch
from ingest.errors import TooLargeError
from ingest.limits import Limits
from ingest.otlp import demote as module
from ingest.otlp.demote import demote
from ingest.otlp.schema import ATTRIBUTES_JSON, is_attribute
from tests.support.columns import bools, floats, ints, texts

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=True),
    "text": TEXTS,
    "bool": st.booleans(),
}
MAKE: dict[str, Any] = {"int": ints, "float": floats, "text": texts, "bool": bools}


def batch_of(columns: dict[str, Column], rows: int, tags: frozenset[str]) -> ColumnBatch:
    time = {"time": ints(*range(rows))}
    return assemble("otel_logs", rows, {**time, **columns}, tags, 0, None)


@st.composite
def batches(draw: st.DrawFn) -> ColumnBatch:
    rows = draw(st.integers(1, 6))
    columns = {"body": texts(*["a body"] * rows)}
    names = draw(st.lists(TEXTS, max_size=4, unique=True))
    for name in names:
        kind = draw(st.sampled_from(sorted(VALUES)))
        row = st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)
        values = draw(row.filter(lambda values: any(value is not None for value in values)))
        columns[f"attributes.{name}"] = MAKE[kind](*values)
    if draw(st.booleans()):
        objects = st.dictionaries(TEXTS.map("scope.".__add__), TEXTS | st.none(), max_size=2)
        before = draw(st.lists(st.none() | objects, min_size=rows, max_size=rows))
        columns[ATTRIBUTES_JSON] = texts(
            *[None if found is None else json.dumps(found) for found in before]
        )
    tags = frozenset(n for n, c in columns.items() if c.type == "utf8" and is_attribute(n))
    return batch_of(columns, rows, tags)


def cells(column: Column, rows: int) -> list[Any]:
    if column.offsets is None:
        values = column.values.tolist()
    else:
        at, blob = column.offsets.tolist(), column.values.tobytes()
        values = [blob[low:high].decode() for low, high in itertools.pairwise(at)]
    present = [True] * rows if column.validity is None else column.validity.tolist()
    return [value if there else None for value, there in zip(values, present, strict=True)]


def members(batch: ColumnBatch) -> list[dict[str, Any]]:
    """What each row has, wherever it is; an attribute that is null in JSON is there."""
    found: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
    for name, column in batch.columns.items():
        for row, value in enumerate(cells(column, batch.num_rows)):
            if value is None:
                continue
            if name == ATTRIBUTES_JSON:
                found[row].update(json.loads(value))
            elif isinstance(value, float) and not math.isfinite(value):
                word = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
                found[row][name] = word
            else:
                found[row][name] = value
    return found


def typed(rows: list[dict[str, Any]]) -> list[dict[str, tuple[type, Any]]]:
    """So that 1, 1.0 and true differ."""
    return [{name: (type(value), value) for name, value in row.items()} for row in rows]


@given(batches(), st.data())
def test_nothing_is_lost(batch: ColumnBatch, data: st.DataObject) -> None:
    attributes = [name for name in batch.columns if is_attribute(name)]
    names = data.draw(st.sets(st.sampled_from(attributes)) if attributes else st.just(set()))
    before = typed(members(batch))
    found = demote(batch, names | {"attributes.not there"})
    assert typed(members(found)) == before
    assert not names & found.columns.keys()
    assert found.tags == batch.tags - names
    assert found.time_us is batch.time_us
    kept = [name for name in batch.columns if name not in names and name != ATTRIBUTES_JSON]
    assert [name for name in found.columns if name != ATTRIBUTES_JSON] == kept
    assert all(found.columns[name] is batch.columns[name] for name in kept)


def test_a_batch_without_the_columns_is_returned_as_it_is() -> None:
    batch = batch_of({"attributes.a": ints(1)}, 1, frozenset())
    assert demote(batch, ["attributes.b"]) is batch
    assert demote(batch, []) is batch


def test_the_text_is_the_last_column_and_the_size_is_counted_anew() -> None:
    columns = {ATTRIBUTES_JSON: texts('{"scope.x":[1]}', None), "attributes.a": ints(7, 8)}
    batch = batch_of(
        {"attributes.a": columns["attributes.a"], "body": texts("b", "c")}, 2, frozenset()
    )
    whole = batch_of({**columns, "body": texts("b", "c")}, 2, frozenset())
    found = demote(whole, ["attributes.a"])
    assert list(found.columns) == ["body", ATTRIBUTES_JSON]
    assert cells(found.columns[ATTRIBUTES_JSON], 2) == [
        '{"scope.x":[1],"attributes.a":7}',
        '{"attributes.a":8}',
    ]
    again = batch_of(dict(found.columns), 2, frozenset())
    assert found.nbytes == again.nbytes != batch.nbytes


def test_rows_without_a_value_have_no_text() -> None:
    found = demote(
        batch_of({"attributes.a": ints(None, 1, None)}, 3, frozenset()), ["attributes.a"]
    )
    assert cells(found.columns[ATTRIBUTES_JSON], 3) == [None, '{"attributes.a":1}', None]


def test_many_rows_are_moved_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_VALUES", 4)
    rows = 11
    columns = {
        "attributes.a": ints(*range(rows)),
        "attributes.b": texts(*["" if row % 3 else None for row in range(rows)]),
    }
    batch = batch_of(columns, rows, frozenset())
    assert members(demote(batch, columns)) == members(batch)


def test_a_column_that_is_no_attribute_stays_where_it_is() -> None:
    batch = batch_of({"body": texts("x")}, 1, frozenset())
    with pytest.raises(ValueError, match="BUG: column 'body'"):
        demote(batch, ["body"])


def test_the_memory_of_the_text_is_bounded() -> None:
    rows = 1000
    name = "attributes." + "x" * 240
    batch = batch_of({name: bools(*[True] * rows)}, rows, frozenset())
    limits = msgspec.structs.replace(Limits(), max_decoded_bytes=100_000)
    with pytest.raises(TooLargeError, match="100000"):
        demote(batch, [name], limits)
    assert np.array_equal(demote(batch, [name]).time_us, batch.time_us)
