"""Rows of calls and handles arrive as they were logged, or are refused one by one."""

from __future__ import annotations

import enum
import itertools
from collections import Counter, namedtuple
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.client import rows as rows_module
from arc.client.errors import UsageError
from arc.client.intake import by_place
from arc.client.rows import (
    Dialect,
    Encoded,
    Refused,
    Shape,
    encode_calls,
    encode_series,
    split,
)
from arc.client.rows_apart import stride_of
from arc.client.times import to_ns
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.testing.batches import column_values
from ingest.timestamps import TimeUnit
from tests.support.ids import stable

LIMITS = Limits()
BIG = (10_000, 4 * 2**20)
T0 = 1_763_650_000_000_000_000
STEP = 1_000  # so that no two rows have the same microsecond


class Color(enum.StrEnum):
    RED = "red"


class Mixed(str, enum.Enum):  # noqa: UP042 - the older spelling is what is tested
    A = "a"


class Level(enum.IntEnum):
    HIGH = 3


class Kind(enum.Enum):
    TEXT = "text"
    FLOAT = 1.5
    BLOB = b"\xff"
    NOTHING = None
    NESTED = (1, 2)


class Text(str):
    """Of which str() says something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "wrong"


class Int(int):
    pass


class Float(float):
    pass


class Failing:
    """A value whose every method fails."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __radd__(self, other: object) -> Any:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]


Pair = namedtuple("Pair", "x y")


# -------------------------------------------------------------------- the plain twin, and helpers


class Row(NamedTuple):
    """What a row is to arrive as: null values left out."""

    measurement: str
    time_ns: int
    values: dict[str, Any]


NUMPY_PLAIN = (np.bool_, np.integer, np.float16, np.float32, np.float64)


def twin_value(value: Any) -> Any:
    """A value as MessagePack has it, told by one rule after another."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        found = "".join(value)
        found.encode()
        return found
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, NUMPY_PLAIN):
        value = value.item()
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value + 0
    if isinstance(value, float):
        return value * 1.0
    raise ValueError(value)


def twin_leaves(name: str, value: Any) -> dict[str, Any]:
    """A value under its name, or its elements under names of their own."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.ndarray):
        value = list(value) if value.dtype.kind == "M" else value.tolist()
    if not isinstance(value, list | tuple):
        return {name: twin_value(value)}
    leaves: dict[str, Any] = {}
    for i, element in enumerate(value):
        leaves |= twin_leaves(f"{name}_{i}", element)
    if not 1 <= len(leaves) <= 1_024:
        raise ValueError(value)
    return leaves


def twin_tag(value: Any) -> Any:
    """The text of a declared tag."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return {True: "true", False: "false"}[value]
    return value.decode() if isinstance(value, bytes) else str(value)


def twin(measurement: Any, time_ns: int, values: dict[str, Any], dialect: Dialect) -> Row | None:
    """One row, or None when it is to be refused."""
    if not isinstance(measurement, str) or not 1 <= len(measurement) <= 128:
        return None
    found: dict[str, Any] = {}
    try:
        for name, value in values.items():
            if name == "time":
                time_ns = time_ns if value is None else to_ns(value, None)
                continue
            if not 1 <= len(name.encode()) <= 255 or "\0" in name:
                return None
            leaves = twin_leaves(name, value)
            if name in dialect.tags:
                leaves = {leaf: twin_tag(inner) for leaf, inner in leaves.items()}
            if leaves.keys() & found.keys():
                return None
            found |= leaves
    except ValueError:  # UsageError and UnicodeError are some
        return None
    present = {name: value for name, value in found.items() if value is not None}
    return Row(measurement, time_ns, present) if found else None


def queues_of(rows: list[tuple[Any, dict[str, Any]]]) -> dict[int, list[Any]]:
    """What `Client.log` leaves behind: a flat list for each number of values."""
    queues: dict[int, list[Any]] = {}
    for i, (name, values) in enumerate(rows):
        queue = queues.setdefault(len(values), [])
        queue += [name, T0 + i * STEP, *values, *values.values()]
    return queues


def encode_rows(
    rows: list[tuple[Any, dict[str, Any]]], dialects: Mapping[str, Dialect], *limits: int
) -> tuple[list[Encoded], list[Refused]]:
    """Encode calls, each queue of them by itself."""
    encoded, refused = [], []
    for width, flat in queues_of(rows).items():
        bodies, bad = encode_calls(by_place(flat, stride_of(width)), width, dialects, *limits)
        encoded += bodies
        refused += bad
    return encoded, refused


def maps_of(body: bytes) -> list[dict[str, Any]]:
    """The columnar maps of a body, whatever their values."""
    maps = []
    decoder = msgspec.msgpack.Decoder()
    while body:
        try:
            maps.append(decoder.decode(body))
            body = b""
        except msgspec.DecodeError as error:  # "... trailing characters (byte 12)"
            end = int(str(error).partition("(byte ")[2].rstrip(")"))
            maps.append(decoder.decode(body[:end]))
            body = body[end:]
    return maps


def rows_of_maps(encoded: list[Encoded]) -> list[Row]:
    """The rows of bodies, in their order."""
    found: list[Row] = []
    for part in encoded:
        before = len(found)
        for one in maps_of(bytes(part.body)):
            columns = one["columns"]
            assert len({len(values) for values in columns.values()}) == 1
            assert set(one["tags"]) <= columns.keys()
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                time_ns = row.pop("time")
                present = {name: value for name, value in row.items() if value is not None}
                found.append(Row(one["m"], time_ns, present))
        assert len(found) - before == part.rows
    return found


def rows_of_server(encoded: list[Encoded]) -> tuple[list[Row], list[frozenset[str]]]:
    """The rows as the daemon decodes them, and the tags of each of its batches."""
    found, tags = [], []
    for part in encoded:
        for batch in decode(bytes(part.body), 0, LIMITS, TimeUnit.NS):
            columns = {name: column_values(column) for name, column in batch.columns.items()}
            tags.append(batch.tags & columns.keys())
            for i, time_us in enumerate(batch.time_us.tolist()):
                values = {name: column[i] for name, column in columns.items()}
                present = {name: value for name, value in values.items() if value is not None}
                found.append(Row(batch.measurement, time_us * 1_000, present))
    return found, tags


def spelled(row: Row) -> str:
    """For comparison: NaN is NaN, 1 is not 1.0 and not True."""
    return repr((row.measurement, row.time_ns, sorted(row.values.items())))


def check_same(found: list[Row], wanted: list[Row]) -> None:
    """The same rows, each as often."""
    assert Counter(map(spelled, found)) == Counter(map(spelled, wanted))


def log(
    *rows: Any, dialects: Mapping[str, Dialect] | None = None, limits: tuple[int, int] = BIG
) -> tuple[list[Row], list[Refused]]:
    """Encode rows of `cpu`, or of the measurement before them, and decode them again."""
    named = [row if isinstance(row, tuple) else ("cpu", row) for row in rows]
    encoded, refused = encode_rows(named, dialects or {}, *limits)
    return rows_of_maps(encoded), refused


def tags_of(*rows: dict[str, Any], dialect: Dialect | None = None) -> list[set[str]]:
    """The tags of each map that rows of `cpu` become."""
    calls = [("cpu", row) for row in rows]
    encoded, refused = encode_rows(calls, {"cpu": dialect} if dialect else {}, *BIG)
    assert refused == []
    return [set(one["tags"]) for part in encoded for one in maps_of(part.body)]


# -------------------------------------------------------------------------------------- strategies

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-200, 200),
    st.floats(),
    TEXT,
    st.binary(max_size=4),
    st.sampled_from([*Color, *Mixed, *Level, *Kind, Text("t"), Int(7), Float(0.5), pd.NA]),
    st.sampled_from([np.float64(1.5), np.float32(0.1), np.int16(-3), np.uint64(2**64 - 1)]),
    st.sampled_from([np.bool_(True), np.str_("s\0"), np.bytes_(b"b"), bytearray(b"x")]),
)
BAD = st.sampled_from(
    [
        object(),
        {},
        {"a": 1},
        {1},
        2**64,
        -(2**63) - 1,
        Decimal(1),
        1j,
        range(3),
        "\ud800",
        datetime(2024, 1, 1),
        date(2024, 1, 1),
        UUID(int=5),
        Fraction(1),
        np.longdouble(1.5),
        [],
        [[]],
        np.zeros(0),
        np.zeros(1_025),
        list(range(1_025)),
        Failing(),
        np.complex64(1),
        np.datetime64(5, "ns"),
        np.array([5], "datetime64[ns]"),
        [1, object()],
        Text("\udfff"),
    ]
)
LISTS = st.recursive(SCALARS, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=4)
ARRAYS = st.sampled_from(
    [
        np.eye(2),
        np.array(5),
        np.array([1, 2], np.int8),
        np.array([True, False]),
        np.array([0.1], np.float32),
        np.array(["a", "b"]),
        np.array([None, "x"], dtype=object),
        Pair(1, 2.5),
    ]
)
ANYTHING = st.one_of(SCALARS, SCALARS, SCALARS, LISTS, ARRAYS, BAD)
TIMES = st.one_of(
    st.none(),
    st.integers(T0 + 10**12, T0 + 10**13),
    st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)),
    st.sampled_from(["noon", -1.5e300, 1_700_000_000.5, np.datetime64("2024-01-01", "D")]),
)
NAMES = st.sampled_from(["a", "b", "c", "v", "v_0", "naïve", "x.y", "_m"])
ODD_NAMES = st.sampled_from(["", "é" * 128, "\ud800", "a\0"])


@st.composite
def values_of_anything(draw: st.DrawFn) -> dict[str, Any]:
    """The values of a call of which anything may be wrong."""
    values = draw(st.dictionaries(NAMES, ANYTHING, max_size=4))
    if draw(st.integers(0, 9)) == 0:
        values["time"] = draw(TIMES)
    if draw(st.integers(0, 19)) == 0:
        values[draw(ODD_NAMES)] = 1
    return values


#: Columns of one type each, by the first letter of their names: what the server takes.
TYPED: dict[str, st.SearchStrategy[Any]] = {
    "f1": st.one_of(st.floats(), st.sampled_from([np.float64(2.5), Float(1.5)])),
    "f2": st.floats() | st.none(),
    "i1": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([np.int64(5), Level.HIGH]),
    "i2": st.integers(-300, 300) | st.none(),
    "b1": st.booleans() | st.sampled_from([np.bool_(False)]),
    "s1": TEXT | st.sampled_from([Color.RED, np.str_("n")]),
    "s2": TEXT | st.none(),
    "y1": st.binary(max_size=4),
    "fl": st.lists(st.floats(), min_size=1, max_size=3),
    "fa": st.sampled_from([np.eye(2), np.array([0.5, 1.5])]),
    "sl": st.tuples(TEXT, TEXT),
    "x1": st.sampled_from([object(), datetime(2024, 1, 1), [], {}]),
}


@st.composite
def typed_values(draw: st.DrawFn) -> dict[str, Any]:
    """The values of a call whose columns have one type each, now and then a value of none."""
    names = st.sampled_from(list(TYPED))
    few = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    return {name: draw(TYPED[name]) for name in few}


def interleaved(values: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[Any]]:
    """Rows of several measurements, runs of the same names among them."""
    names = st.sampled_from(["cpu", "mem", "größe/1"])
    runs = st.tuples(names, st.lists(values, min_size=1, max_size=2), st.integers(1, 4))
    return st.lists(runs, max_size=6).map(
        lambda found: [
            (name, dict(row)) for name, rows, times in found for _ in range(times) for row in rows
        ]
    )


DIALECTS = st.sampled_from(
    [
        {},
        {"cpu": Dialect(frozenset({"a", "v"}), frozenset({"b"}))},
        {"mem": Dialect(frozenset({"i1", "b1", "fl"}), frozenset({"s1", "sl"}))},
    ]
)
LIMITED = st.tuples(st.sampled_from([1, 2, 3, 7, 10_000]), st.sampled_from([1, 60, 300, 10**6]))


# -------------------------------------------------------------------------------------- properties


@given(interleaved(values_of_anything()), DIALECTS, LIMITED)
def test_every_row_arrives_as_its_twin_says_or_is_refused(
    rows: list[tuple[str, dict[str, Any]]], dialects: dict[str, Dialect], limits: tuple[int, int]
) -> None:
    twins = [
        twin(name, T0 + i * STEP, values, dialects.get(name, Dialect()))
        for i, (name, values) in enumerate(rows)
    ]
    encoded, refused = encode_rows(rows, dialects, *limits)
    check_same(rows_of_maps(encoded), [row for row in twins if row is not None])
    assert len(refused) == twins.count(None)
    for part in encoded:
        assert 1 <= part.rows <= limits[0]
        assert part.rows == 1 or len(part.body) <= limits[1]


@st.composite
def rows_of_one_width(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """Rows of one queue: two values each, their names in any order, texts that are names too."""
    names = st.sampled_from(["a", "b", "v", "v_0", "time", "cpu"])
    pairs = st.lists(names, min_size=2, max_size=2, unique=True)
    value = st.one_of(st.floats(), st.floats(), st.sampled_from(["a", "cpu", "v_0"]), ANYTHING)
    heads = draw(st.lists(st.tuples(st.sampled_from(["cpu", "a"]), pairs), min_size=1, max_size=4))
    times = draw(st.lists(st.sampled_from(heads), max_size=14))
    return [(name, {key: draw(value) for key in keys}) for name, keys in times]


@given(rows_of_one_width(), DIALECTS, LIMITED)
def test_rows_of_one_queue_arrive_as_their_twins_say(
    rows: list[tuple[str, dict[str, Any]]], dialects: dict[str, Dialect], limits: tuple[int, int]
) -> None:
    twins = [
        twin(name, T0 + i * STEP, values, dialects.get(name, Dialect()))
        for i, (name, values) in enumerate(rows)
    ]
    encoded, refused = encode_rows(rows, dialects, *limits)
    check_same(rows_of_maps(encoded), [row for row in twins if row is not None])
    wanted = [repr(row[1]) for row, found in zip(rows, twins, strict=True) if found is None]
    given_back = [{key: one.row[key] for key in one.row if key != "time"} for one in refused]
    named = [{key: row[key] for key in row if key != "time"} for _, row in rows]
    assert len(refused) == len(wanted)
    assert all(repr(row) in map(repr, named) for row in given_back)


@given(interleaved(typed_values()), DIALECTS, LIMITED)
def test_the_daemon_decodes_what_the_twin_says(
    rows: list[tuple[str, dict[str, Any]]], dialects: dict[str, Dialect], limits: tuple[int, int]
) -> None:
    twins = [
        twin(name, T0 + i * STEP, values, dialects.get(name, Dialect()))
        for i, (name, values) in enumerate(rows)
    ]
    encoded, refused = encode_rows(rows, dialects, *limits)
    found, _ = rows_of_server(encoded)
    check_same(found, [row for row in twins if row is not None])
    assert len(found) + len(refused) == len(rows)


@given(
    st.lists(st.tuples(TEXT, st.sampled_from(["x", "y"])), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), ANYTHING, ANYTHING), max_size=12),
    LIMITED,
)
def test_rows_of_handles_arrive_as_their_twins_say(
    handles: list[tuple[str, str]], rows: list[tuple[int, Any, Any]], limits: tuple[int, int]
) -> None:
    shape = Shape("cpu", ("host", "zone"), ("v", "w"))
    dialect = Dialect(frozenset(shape.tags), frozenset(shape.fields))
    flat: list[Any] = []
    twins = []
    for i, (which, v, w) in enumerate(rows):
        tags = handles[which % len(handles)]
        flat += (tags, T0 + i * STEP, v, w)
        values = {"host": tags[0], "zone": tags[1], "v": v, "w": w}
        twins.append(twin("cpu", T0 + i * STEP, values, dialect))
    encoded, refused = encode_series(shape, by_place(flat, 4), *limits)
    check_same(rows_of_maps(encoded), [row for row in twins if row is not None])
    assert len(refused) == twins.count(None)
    assert all(set(one["tags"]) == {"host", "zone"} for e in encoded for one in maps_of(e.body))
    assert all(e.rows == 1 or len(e.body) <= limits[1] for e in encoded)


KINDS = st.sampled_from(
    [st.floats(), st.integers(-(2**63), 2**64 - 1), st.integers(-40, 140), TEXT]
)


@given(KINDS.flatmap(lambda kind: st.lists(kind, min_size=1)), st.lists(SCALARS | BAD, max_size=1))
def test_a_column_whose_type_is_proved_is_what_it_is_value_by_value(
    values: list[Any], odd: list[Any]
) -> None:
    for column in (values + odd, odd + values, values * 17):
        assert rows_module._packed(column) == rows_module._packed_one_by_one(column)


@given(interleaved(typed_values()), LIMITED)
def test_a_body_taken_apart_to_the_end_is_single_rows_of_the_same_values(
    rows: list[tuple[str, dict[str, Any]]], limits: tuple[int, int]
) -> None:
    encoded, _ = encode_rows(rows, {}, *limits)
    wanted = rows_of_maps(encoded)
    ends: list[Encoded] = []
    while encoded:
        one = encoded.pop()
        parts = split(one.body)
        assert sum(part.rows for part in parts) in (0, one.rows)
        encoded += parts
        if not parts:
            assert one.rows == 1
            ends.append(one)
    check_same(rows_of_maps(ends), wanted)


# ---------------------------------------------------------------------------------- tags and fields


def test_text_is_a_tag_and_anything_else_a_field() -> None:
    row = {"host": "a", "f": 1.5, "i": 1, "b": True, "y": b"x", "n": None, "e": Color.RED}
    assert tags_of(row) == [{"host", "e"}]


def test_the_first_value_that_is_there_decides() -> None:
    assert tags_of({"v": None, "w": None}, {"v": "x", "w": 1}) == [{"v"}]


def test_elements_of_lists_are_told_apart() -> None:
    assert tags_of({"v": ["x", 1, None]}) == [{"v_0"}]


def test_what_was_declared_goes_before_what_a_value_is() -> None:
    dialect = Dialect(frozenset({"code", "on", "ids"}), frozenset({"text", "words"}))
    row = {"code": 200, "on": True, "ids": [7, None], "text": "t", "words": ["a", "b"], "host": "h"}
    for rows in ([row], [row, {**row, "words": ["a"]}]):  # by columns, and row by row
        assert set.union(*tags_of(*rows, dialect=dialect)) == {
            "code",
            "on",
            "ids_0",
            "ids_1",
            "host",
        }
    (found,), _ = log(row, dialects={"cpu": dialect})
    assert found.values["code"] == "200"
    assert found.values["on"] == "true"
    assert found.values["ids_0"] == "7"


def test_elements_may_be_declared_by_their_own_names() -> None:
    dialect = Dialect(frozenset({"v_1"}), frozenset({"v_0"}))
    row = {"v": ["a", 5]}
    assert tags_of(row, dialect=dialect) == [{"v_1"}]
    assert tags_of(row, {"v": ["a"]}, dialect=dialect) == [{"v_1"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (-3, "-3"),
        (False, "false"),
        (b"ok", "ok"),
        (Color.RED, "red"),
        ("", ""),
        (np.float32(0.5), "0.5"),
        (Text("t"), "t"),
        (float("nan"), None),
        (None, None),
    ],
)
def test_a_declared_tag_becomes_text(value: Any, text: str | None) -> None:
    dialects = {"cpu": Dialect(frozenset({"t"}))}
    (found, other), refused = log({"t": value, "v": 1}, {"t": "x", "v": 1}, dialects=dialects)
    assert refused == []
    assert (found.values.get("t"), other.values["t"]) == (text, "x")


def test_a_declared_tag_of_bytes_that_are_no_text_is_refused() -> None:
    found, (refused,) = log({"t": b"\xff"}, {"t": "x"}, dialects={"cpu": Dialect(frozenset({"t"}))})
    assert len(found) == 1
    assert "column 't'" in refused.message
    assert "UTF-8" in refused.message


# ---------------------------------------------------------------------------------- lists and times


def test_lists_and_arrays_become_columns_with_numbers() -> None:
    row = {"p": (1, 2.5), "m": np.arange(4.0).reshape(2, 2), "d": {"x"} and [[1], [2, 3]]}
    wanted = {"p_0": 1, "p_1": 2.5, "m_0_0": 0.0, "m_0_1": 1.0, "m_1_0": 2.0, "m_1_1": 3.0}
    wanted |= {"d_0_0": 1, "d_1_0": 2, "d_1_1": 3}
    found, refused = log(row, row)
    assert refused == []
    assert [one.values for one in found] == [wanted, wanted]


def test_lists_of_several_lengths_leave_null_what_they_lack() -> None:
    found, _ = log({"v": [1, 2]}, {"v": [3]}, {"v": 4}, {"v": None})
    values = [row.values for row in found]
    assert sorted(values, key=repr) == sorted(
        [{"v_0": 1, "v_1": 2}, {"v_0": 3}, {"v": 4}, {}], key=repr
    )


def test_a_list_may_have_1024_elements_and_no_more() -> None:
    square = np.zeros((32, 32))
    found, refused = log({"v": list(range(1_024))}, {"v": square}, {"v": square.tolist()})
    assert [len(row.values) for row in found] == [1_024] * 3
    assert refused == []
    for value in (list(range(1_025)), np.zeros((25, 41)), [[0] * 41] * 25, [[0] * 600, [0] * 600]):
        for others in ([], [{"v": 1}]):
            found, refused = log({"v": value}, *others)
            assert (len(found), len(refused)) == (len(others), 1)
            assert "wanted at most 1024" in refused[0].message


def test_lists_within_themselves_and_lists_that_multiply_are_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    many: list[Any] = [1]
    for _ in range(40):
        many = [many] * 1_000
    found, refused = log({"v": ring}, {"v": many}, {"v": 1})
    assert [row.values for row in found] == [{"v": 1}]
    assert len(refused) == 2


def test_an_element_that_takes_a_name_twice_is_refused() -> None:
    found, (refused,) = log({"v": [1], "v_0": 2}, {"v": [1]}, {"v_0": 2})
    assert len(found) == 2
    assert "'v_0' twice" in refused.message


def test_a_time_among_the_values_is_the_time_of_that_row_only() -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        {"v": 1, "time": moment},
        {"v": 2},
        {"v": 3, "time": 1_700_000_000},
        {"v": 4, "time": None},
        {"v": 5, "time": T0 + 5},
    ]
    found, refused = log(*rows)
    assert refused == []
    found.sort(key=lambda row: int(row.values["v"]))
    assert [row.time_ns for row in found] == [
        to_ns(moment, None),
        T0 + STEP,
        1_700_000_000 * 10**9,
        T0 + 3 * STEP,
        T0 + 5,
    ]


@pytest.mark.parametrize("bad", ["noon", True, 1e300, datetime(1800, 1, 1), 2**63, [1]])
def test_a_row_of_no_time_is_refused_and_its_neighbours_go_out(bad: Any) -> None:
    rows = [{"v": i, "time": 1_700_000_000 + i} for i in range(5)]
    rows[2]["time"] = bad
    found, (refused,) = log(*rows)
    assert [row.values["v"] for row in found] == [0, 1, 3, 4]
    assert refused.row == rows[2]
    assert refused.message.startswith("measurement 'cpu': column 'time': time: ")


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (object(), "found object, wanted a number"),
        ({"a": 1}, "found dict"),
        (datetime(2024, 1, 1), "found datetime"),
        (Decimal(1), "found Decimal"),
        (UUID(int=1), "found UUID"),
        (2**64, "found the integer 18446744073709551616, wanted one of -2**63 to 2**64 - 1"),
        (10**5_000, "found the integer 0x"),
        ("a\ud800", r"found 'a\ud800', wanted text without surrogates"),
        ([], "found an empty list"),
        ([1, object()], "found object"),
        (np.array(["2024"], "datetime64[Y]"), "found an array of datetime64[Y]"),
        (np.datetime64(5, "ns"), "found datetime64"),
        (Failing(), "found Failing"),
    ],
    ids=lambda given: given if isinstance(given, str) and given.isprintable() else "",
)
@pytest.mark.parametrize("good", [1.5, 7, "x", True, None, b"y", [1.5]], ids=repr)
def test_a_bad_value_takes_no_neighbour_with_it(good: Any, bad: Any, words: str) -> None:
    rows = [{"host": "a", "v": good, "n": i} for i in range(20)]
    rows[7] = {"host": "a", "v": bad, "n": 7}
    found, (refused,) = log(*rows)
    assert [row.values["n"] for row in found] == [*range(7), *range(8, 20)]
    assert refused.measurement == "cpu"
    assert refused.row == {"time": T0 + 7 * STEP, **rows[7]}
    assert refused.message.startswith("measurement 'cpu': column 'v': ")
    assert words in refused.message
    assert len(refused.message) < 250


@pytest.mark.parametrize("name", ["", "é" * 128, "a\ud800", "a\0b"])
def test_a_bad_name_takes_no_neighbour_with_it(name: str) -> None:
    for rows in ([{"v": 1}, {name: 1}, {"v": 2}], [{name: 1}] * 2, [{name: 1, "v": 1}, {"v": 2}]):
        found, refused = log(*rows)
        assert len(found) == sum(name not in row for row in rows)
        assert len(found) + len(refused) == len(rows)
        assert all("wanted 1 to 255 bytes" in one.message for one in refused)


def test_names_of_255_bytes_and_subclasses_of_str_are_names() -> None:
    row: dict[str, Any] = {"é" * 127 + "x": 1, Color.RED: 2, Text("t"): 3}
    (found,), refused = log(row)
    assert refused == []
    assert [type(name) for name in found.values] == [str] * 3
    assert set(found.values) == {"é" * 127 + "x", "red", "t"}


@pytest.mark.parametrize("values", [{}, {"time": 5}, {"time": None}])
def test_a_row_without_values_is_refused(values: dict[str, Any]) -> None:
    for others in ([], [{"v": 1}], [{"v": 1, "time": 5}, {"w": 1}]):
        found, (refused,) = log(*others, values)
        assert len(found) == len(others)
        assert "found no values" in refused.message


@pytest.mark.parametrize("name", ["", "x" * 129, None, 5, ["cpu"], {}, "a\ud800", "a\n", np.eye(2)])
def test_rows_of_a_bad_measurement_are_refused(name: Any) -> None:
    found, refused = log(("cpu", {"v": 1}), (name, {"v": 2}), ("cpu", {"v": 3}), (name, {"v": 4}))
    assert [row.values["v"] for row in found] == [1, 3]
    assert [one.row["v"] for one in refused] == [2, 4]
    assert all("measurement" in one.message for one in refused)
    assert all(isinstance(one.measurement, str) for one in refused)


def test_a_measurement_may_be_a_subclass_of_str_and_have_128_characters() -> None:
    long = "é" * 128
    found, refused = log((Color.RED, {"v": 1}), (long, {"v": 2}))
    assert refused == []
    assert [row.measurement for row in found] == ["red", long]


def test_every_row_of_a_bad_handle_is_refused_alone() -> None:
    flat = [("a",), T0, 1.5, ("a",), T0 + 1, object(), ("a",), T0 + 2, [1.0, 2.0]]
    encoded, (refused,) = encode_series(Shape("cpu", ("host",), ("v",)), by_place(flat, 3), *BIG)
    values = [row.values for row in rows_of_maps(encoded)]
    assert values == [{"host": "a", "v": 1.5}, {"host": "a", "v_0": 1.0, "v_1": 2.0}]
    assert refused.row["host"] == "a"
    assert refused.row["time"] == T0 + 1


# ------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "values",
    [
        [0, 127, 128, -32, -33, 255, 256, 2**16, 2**32, 2**63, 2**64 - 1, -(2**63)],
        [2.0**70, -0.0, float("inf"), 5e-324],
        [1, 2.5, 3],
        [1.5, 2, None],
        [True, False, None],
        [True, 1],
        ["", "a", "a" * 31, "a" * 32, "é\0", "\U0001f600"],
        [b"", b"\xff" * 300],
        [None, None],
        [np.float32(0.1), np.float32(2)],
        [np.float64(0.1), 0.5],
        [0.5, np.float64(0.1)],
        [np.uint64(2**64 - 1), np.uint64(0)],
        [np.int8(-1), None],
        [np.bool_(True), np.bool_(False)],
        [np.str_("a\0"), np.str_("b")],
        ["a", np.str_("a\0"), Color.RED, Mixed.A, Text("t")],
        [5, Level.HIGH, Int(9)],
        [1.5, Float(2.5), Kind.FLOAT],
        [Kind.TEXT, Kind.BLOB, Kind.NOTHING],
        [memoryview(b"abcd")[::2], bytearray(b"x")],
        [1.5, pd.NA],
        [pd.NaT, "x"],
    ],
    ids=stable,
)
def test_values_of_every_kind_arrive_with_their_type(values: list[Any]) -> None:
    found, refused = log(*({"v": value, "n": 1} for value in values))
    assert refused == []
    wanted = [{"v": twin_value(value), "n": 1} for value in values]
    wanted = [{name: v for name, v in row.items() if v is not None} for row in wanted]
    assert [repr(sorted(row.values.items())) for row in found] == [
        repr(sorted(row.items())) for row in wanted
    ]


@pytest.mark.parametrize("rows", [1, 15, 16, 65_535, 65_536])
def test_columns_of_every_length_have_the_right_head(rows: int) -> None:
    columns: list[list[Any]] = [
        [("a",)] * rows,
        list(range(T0, T0 + rows)),
        [0.5] * rows,
        list(range(rows)),
    ]
    shape = Shape("cpu", ("host",), ("v", "n"))
    (encoded,), _ = encode_series(shape, columns, 100_000, 2**30)
    (one,) = maps_of(encoded.body)
    assert one["columns"] == {
        "time": list(range(T0, T0 + rows)),
        "host": ["a"] * rows,
        "v": [0.5] * rows,
        "n": list(range(rows)),
    }


def test_a_row_of_70_000_columns_arrives() -> None:
    found, refused = log({f"v{i}": i for i in range(70_000)})
    assert refused == []
    assert len(found[0].values) == 70_000


# ------------------------------------------------------------------------------ order and grouping


def test_rows_of_one_measurement_keep_their_order_when_others_come_between() -> None:
    rows = [(("cpu", "mem", "net")[i % 3], {"n": i}) for i in range(30)]
    found, _ = log(*rows)
    for name in ("cpu", "mem", "net"):
        own = [row.values["n"] for row in found if row.measurement == name]
        assert own == sorted(own)


def test_few_rows_of_several_sets_of_names_share_a_map_with_nulls() -> None:
    rows = [{"a": i, "b": 1} | ({"c": 1} if i % 2 else {"d": 2}) for i in range(12)]
    encoded, _ = encode_rows([("cpu", row) for row in rows], {}, *BIG)
    (one,) = maps_of(encoded[0].body)
    assert one["columns"]["a"] == list(range(12))
    assert one["columns"]["c"] == [None, 1] * 6
    assert one["columns"]["d"] == [2, None] * 6


def test_many_rows_of_several_sets_of_names_have_maps_of_their_own() -> None:
    rows = [{"a": i, "b": 1} | ({"c": 1} if i % 2 else {"d": 2}) for i in range(400)]
    encoded, _ = encode_rows([("cpu", row) for row in rows], {}, *BIG)
    maps = maps_of(encoded[0].body)
    assert [one["columns"]["a"] for one in maps] == [list(range(0, 400, 2)), list(range(1, 400, 2))]
    assert [set(one["columns"]) - {"time"} for one in maps] == [set("abd"), set("abc")]


def test_rows_with_the_same_names_in_another_order_share_a_map() -> None:
    encoded, _ = encode_rows([("cpu", {"a": 1, "b": 2}), ("cpu", {"b": 4, "a": 3})], {}, *BIG)
    (one,) = maps_of(encoded[0].body)
    assert (one["columns"]["a"], one["columns"]["b"]) == ([1, 3], [2, 4])


def test_few_sets_of_names_with_many_rows_each_have_maps_of_their_own() -> None:
    rows = [{f"{'abcdefgh'[i % 8]}{j}": i for j in range(5)} for i in range(2_000)]
    encoded, _ = encode_rows([("cpu", row) for row in rows], {}, *BIG)
    assert len(maps_of(encoded[0].body)) == 8
    assert len(encoded) == 1


def test_many_sets_of_names_of_few_columns_share_one_map() -> None:
    pairs = list(itertools.combinations("abcdefghijkl", 2))
    rows = [dict.fromkeys(pairs[i % len(pairs)], i) for i in range(500)]
    encoded, _ = encode_rows([("cpu", row) for row in rows], {}, *BIG)
    assert len(maps_of(encoded[0].body)) == 1


def test_rows_that_share_no_name_do_not_make_a_square_of_nulls() -> None:
    rows = [{f"v{i}": i} for i in range(5_000)]
    encoded, _ = encode_rows([("cpu", row) for row in rows], {}, *BIG)
    assert sum(len(part.body) for part in encoded) < 100 * len(rows)
    check_same(rows_of_maps(encoded), [Row("cpu", T0 + i * STEP, r) for i, r in enumerate(rows)])


def test_a_body_has_no_more_columns_than_the_server_takes() -> None:
    apart = [("cpu", {f"v{i}": i}) for i in range(10_500)]
    listed = [(f"m{i}", {"v": [1.5] * 1_000}) for i in range(30)]
    for rows in (apart, listed):
        encoded, _ = encode_rows(rows, {}, 100_000, 2**30)
        for part in encoded:
            assert sum(len(one["columns"]) for one in maps_of(part.body)) <= 20_000
        assert sum(part.rows for part in encoded) == len(rows)


def test_measurements_with_few_rows_share_a_body() -> None:
    rows = [(f"m{i % 50}", {"n": i}) for i in range(200)]
    (encoded,), _ = encode_rows(rows, {}, *BIG)
    assert (encoded.rows, encoded.what) == (200, "50 measurements")
    (single,), _ = encode_rows(rows[:1], {}, *BIG)
    assert single.what == "measurement 'm0'"


def test_bodies_end_at_their_rows_and_at_their_bytes() -> None:
    rows = [("cpu", {"text": "x" * 100, "n": i}) for i in range(1_000)]
    by_rows, _ = encode_rows(rows, {}, 300, 2**20)
    assert [part.rows for part in by_rows] == [300, 300, 300, 100]
    by_bytes, _ = encode_rows(rows, {}, 1_000, 30_000)
    assert all(len(part.body) <= 30_000 for part in by_bytes)
    assert len(by_bytes) <= 7
    assert [r.values["n"] for r in rows_of_maps(by_bytes)] == list(range(1_000))


def test_a_row_over_the_bytes_goes_alone() -> None:
    rows = [("cpu", {"text": "x" * size}) for size in (10, 5_000, 10)]
    encoded, refused = encode_rows(rows, {}, 100, 1_000)
    assert refused == []
    assert [part.rows for part in encoded] == [1, 1, 1]


def test_nothing_is_nothing() -> None:
    assert encode_calls(by_place([], stride_of(2)), 2, {}, *BIG) == ([], [])
    assert encode_series(Shape("cpu", (), ("v",)), by_place([], 3), *BIG) == ([], [])


def test_the_given_lists_and_their_rows_stay_as_they_are() -> None:
    values = [1, 2]
    flat = ["cpu", T0, "v", "time", "t", values, 5, 1]
    flat += ["cpu", T0, "v", "time", "bad", 1, None, object()]
    columns = by_place(flat, stride_of(3))
    encode_calls(columns, 3, {"cpu": Dialect(frozenset({"t"}))}, *BIG)
    assert columns == by_place(flat, stride_of(3))
    assert values == [1, 2]


# ---------------------------------------------------------------------------------------- splitting


def body_of(*rows: dict[str, Any]) -> bytes:
    """One map of rows with the same names."""
    encoded, _ = encode_rows([("cpu", row) for row in rows], {}, *BIG)
    return bytes(encoded[0].body)


def test_a_body_of_several_maps_is_split_into_them() -> None:
    rows = [(name, {"v": i}) for i, name in enumerate(("cpu", "mem", "cpu", "net"))]
    (encoded,), _ = encode_rows(rows, {}, *BIG)
    parts = split(encoded.body)
    assert [part.what for part in parts] == [f"measurement {n!r}" for n in ("cpu", "mem", "net")]
    assert [part.rows for part in parts] == [2, 1, 1]


def test_a_body_of_many_maps_is_halved() -> None:
    (encoded,), _ = encode_rows([(f"m{i}", {"v": i}) for i in range(101)], {}, *BIG)
    assert [part.rows for part in split(encoded.body)] == [50, 51]


def test_rows_of_another_type_are_told_from_their_neighbours() -> None:
    rows: list[dict[str, Any]] = [{"v": 1.5, "w": None} for _ in range(10)]
    rows[3] = {"v": "x", "w": 1}
    rows[5] = {"v": None, "w": "y"}
    parts = split(body_of(*rows))
    values = [[row.values for row in rows_of_maps([part])] for part in parts]
    assert [part.rows for part in parts] == [9, 1]
    assert values[1] == [{"v": "x", "w": 1}]


def test_tags_stay_tags_in_every_part() -> None:
    parts = split(body_of({"h": "a", "v": 1}, {"h": "b", "v": "x"}))
    assert [maps_of(bytes(part.body))[0]["tags"] for part in parts] == [["h"], ["h"]]


def test_rows_of_one_type_are_halved_until_one_is_left() -> None:
    parts = split(body_of(*({"v": i} for i in range(5))))
    assert [part.rows for part in parts] == [2, 3]
    assert split(body_of({"v": 1})) == []


def test_rows_of_too_many_types_are_halved() -> None:
    kinds = [1, 1.5, "x", True, b"y"]
    rows = [{"a": a, "b": b} for a in kinds for b in kinds]
    assert [part.rows for part in split(body_of(*rows))] == [12, 13]


def test_any_format_of_messagepack_is_stepped_over() -> None:
    values: list[Any] = [
        "",
        "a" * 31,
        "a" * 32,
        "a" * 256,
        "a" * 65_536,
        b"",
        b"a" * 256,
        b"a" * 65_536,
    ]
    values += [0, -1, 2**7, 2**8, 2**16, 2**32, -(2**7), -(2**15), -(2**31), -(2**63), 1.5, None]
    values += [True, False, list(range(15)), list(range(16)), list(range(65_536)), {}, {"k": 1}]
    values += [{str(i): i for i in range(16)}, {str(i): i for i in range(65_536)}]
    values += [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]
    values += [msgspec.msgpack.Ext(5, b"x" * size) for size in (1, 2, 4, 8, 16, 3, 300, 65_536)]
    maps = [{"m": "a", "x": value, "columns": {"v": [1]}} for value in values]
    body = b"".join(map(msgspec.msgpack.encode, maps))
    first, second = split(body)
    assert (first.rows, second.rows) == (len(maps) // 2, len(maps) - len(maps) // 2)


def test_row_maps_and_arrays_of_maps_are_split_too() -> None:
    rows = [{"m": "cpu", "t": T0 + i, "fields": {"v": i}} for i in range(3)]
    for body in (msgspec.msgpack.encode(rows), b"".join(map(msgspec.msgpack.encode, rows))):
        assert [part.rows for part in split(body)] == [1, 1, 1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"\xc1",
        b"\x92\x01",
        b"\x81\xa1m",
        b"\xdb\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\x81\xa1m\xa1x\x05",
        b"\x90",
        b"\xdd",
        msgspec.msgpack.encode({"m": "x", "columns": {"a": [1, 2], "b": [1]}}),
        msgspec.msgpack.encode({"m": "x", "columns": {"a": 5}}),
    ],
    ids=repr,
)
def test_what_is_no_body_is_not_split(body: bytes) -> None:
    assert split(body) == []


def test_a_refusal_is_a_usage_error_nowhere_but_in_its_words() -> None:
    with pytest.raises(UsageError, match="time"):
        to_ns("x", None)
    _, (refused,) = log({"time": "x", "v": 1})
    assert isinstance(refused, Refused)
