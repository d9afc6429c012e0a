"""Row maps: the fast path and its slow twin, equal on whatever bytes, and right by hand.

Random bodies come from a seed, as those of `ingest.testing` do; the tables hold what chance would
miss.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.columns import ColumnBatch, ColumnType
from ingest.errors import (
    ClientError,
    DecodeError,
    IngestError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TimeError,
    TooLargeError,
    ValueTypeError,
)
from ingest.kernels import msgpack_rows as kernels
from ingest.kernels.msgpack import MORE_ROOM, OK
from ingest.limits import Limits
from ingest.msgpack_decoder import decode, decode_fast
from ingest.msgpack_slow import decode_slow
from ingest.testing import (
    INT_BOUNDARIES,
    LENGTH_BOUNDARIES,
    NOT_UTF8,
    Encoded,
    array_forms,
    assert_same_batches,
    column_values,
    columnar,
    float_forms,
    forms,
    int_forms,
    map_forms,
    random_body,
    random_times,
    random_values,
    str_forms,
    timestamp_forms,
)
from ingest.timestamps import TimeUnit

ROOT = Path(__file__).resolve().parent.parent
NOW_US = 1_768_473_000_000_000
LIMITS = Limits()
NAN = float("nan")

Outcome = list[ColumnBatch] | tuple[type[IngestError], str]


def outcome(decoder: Callable[..., list[ColumnBatch]], body: bytes, limits: Limits) -> Outcome:
    """What a decoder makes of a body: batches, or the class and the text of its refusal."""
    try:
        return decoder(body, NOW_US, limits)
    except ClientError as error:
        return type(error), str(error)


def check(body: bytes, limits: Limits = LIMITS) -> Outcome:
    """Hold decoder and twin equal on a body; what both made of it."""
    found, wanted = outcome(decode, body, limits), outcome(decode_slow, body, limits)
    if isinstance(found, list) and isinstance(wanted, list):
        assert_same_batches(found, wanted)
    else:
        assert found == wanted
    return found


def accepted(body: bytes, *, fast: bool = True) -> list[ColumnBatch]:
    """The batches of a body that both take, by the fast path if so said, otherwise without it."""
    found = check(body)
    assert isinstance(found, list), found
    assert (decode_fast(body, NOW_US, LIMITS) is not None) == fast
    return found


def refused(body: bytes, error: type[IngestError], text: str, limits: Limits = LIMITS) -> None:
    """Both refuse a body, in the same words, of which `text` is a part."""
    found = check(body, limits)
    assert isinstance(found, tuple), "it was taken"
    assert found[0] is error
    assert text in found[1]


# ------------------------------------------------------------------------------- spelling rows


def spelled_map(pairs: list[tuple[Any, Any]]) -> bytes:
    """A map of these keys and values in the shortest forms."""
    body = map_forms(len(pairs))[0]
    return body + b"".join(forms(key)[0] + spelled(value) for key, value in pairs)


def spelled(value: Any) -> bytes:
    """A value, a map or an array of them, in the shortest forms; parts may be `Encoded`."""
    if isinstance(value, dict):
        return spelled_map(list(value.items()))
    if isinstance(value, list):
        return array_forms(len(value))[0] + b"".join(spelled(each) for each in value)
    return forms(value)[0]


def row(measurement: Any = "cpu", **parts: Any) -> dict[str, Any]:
    """A row with a field, unless `fields` says otherwise."""
    return {"m": measurement, "fields": {"v": 1}} | parts


def rows_body(*rows: dict[str, Any]) -> bytes:
    """An array of rows."""
    return spelled(list(rows))


def stored(batch: ColumnBatch) -> dict[str, list[Any]]:
    """The columns of a batch as Python values."""
    return {name: column_values(column) for name, column in batch.columns.items()}


# ------------------------------------------------------------------------------- bodies by seed

_NAMES = ("v", "w", "b.c", "usage_user", "größe", "host", "x" * 255, "y" * 31, "z" * 15, "日")
_TAGS = ("host", "region", "größe", "v", "t" * 40)


def random_rows(rng: random.Random, rows: int) -> list[list[tuple[str, Any]]]:
    """Rows that every decoder has to take, as keys and values in any order."""
    measurements = rng.sample(["cpu", "disk/io", "größe", "m" * 128], rng.randint(1, 3))
    types = {name: rng.choice(list(ColumnType)[:5]) for name in _NAMES}
    pools = {name: random_values(rng, type_, 8) for name, type_ in types.items()}
    tags = rng.sample([name for name in _TAGS if name != "v"], rng.randint(0, 3))
    fields = rng.sample([name for name in _NAMES if name not in tags], rng.randint(1, 5))
    times = random_times(rng, rows)
    sparse, odd = rng.random() < 0.5, rng.random() < 0.3
    made = []
    for i in range(rows):
        kept = [name for name in fields if not sparse or rng.random() < 0.7] or fields[:1]
        if rng.random() < 0.2:
            rng.shuffle(kept)
        values: Any = {name: rng.choice(pools[name]) for name in kept}
        if rng.random() < (0.3 if odd else 0.01):
            values = [rng.choice((None, 1, 5, 2**40)) for _ in range(rng.randint(1, 3))]
        pairs = [("m", rng.choice(measurements)), ("fields", values)]
        if rng.random() < 0.9:
            pairs.append(("t", times[i]))
        if tags and rng.random() < 0.9:
            pairs.append(("tags", {name: random_tag(rng, name, odd) for name in tags}))
        if rng.random() < 0.2:
            pairs.append(("h", rng.choice(("", "web-7", "日" * 30, None, 7 if odd else "x"))))
        if sparse or rng.random() < 0.2:
            rng.shuffle(pairs)
        made.append(pairs)
    return made


def random_tag(rng: random.Random, name: str, odd: bool) -> Any:
    """Mostly text; numbers and booleans are for the twin, and so is a host of null."""
    if odd and rng.random() < 0.3:
        return rng.choice((None, 7, -7, 2**64 - 1, 1.5, 1e16, NAN, True, False))
    texts = ["", "a", "web-1", "é" * 20, "x" * rng.choice(LENGTH_BOUNDARIES)]
    return rng.choice(texts if name == "host" else [*texts, None])


#: Keys of a row, which the fast path knows in their shortest forms.
PARTS = frozenset({"m", "t", "h", "tags", "fields"})


def spell_rows(rng: random.Random, rows: list[list[tuple[str, Any]]]) -> bytes:
    """A body of rows in any of its shapes, all in their shortest forms or each in any."""
    pick: Callable[[list[bytes]], bytes] = rng.choice((lambda found: found[0], rng.choice))
    pick_key = rng.choice((lambda found: found[0], lambda found: found[0], pick))

    def spell(value: Any) -> bytes:
        if isinstance(value, dict):
            value = list(value.items())
        if isinstance(value, list) and value and isinstance(value[0], tuple):
            inner = b"".join(
                (pick_key if key in PARTS else pick)(forms(key)) + spell(each)
                for key, each in value
            )
            return pick(map_forms(len(value))) + inner
        if isinstance(value, list):
            return pick(array_forms(len(value))) + b"".join(spell(each) for each in value)
        return pick(forms(value))

    parts = [spell(pairs) for pairs in rows]
    shape = rng.choice(("concatenated", "array", "batch", "arrays"))
    if shape == "concatenated":
        return b"".join(parts)
    if shape == "arrays":
        return b"".join(rng.choice(array_forms(1)) + part for part in parts)
    items = rng.choice(array_forms(len(parts))) + b"".join(parts)
    return items if shape == "array" else b"\x81\xa5batch" + items


def random_row_body(rng: random.Random, rows: int = 20, faults: int = 0) -> bytes:
    """A body of rows that every decoder has to take, or one that is faulty in most cases."""
    found = random_rows(rng, rng.randint(1, rows))
    for _ in range(faults):
        pairs = rng.choice(found)
        if pairs:
            spoil(rng, pairs)
    return spell_rows(rng, found)


def spoil(rng: random.Random, pairs: list[tuple[str, Any]]) -> None:
    """Make a row wrong, or at least odd."""
    at = rng.randrange(len(pairs))
    key, value = pairs[at]
    odd: list[Any] = [None, 1, -1, 2**63, 2**53 + 1, 1.5, NAN, "a", b"a", True, {}, [], [[]]]
    odd += [Encoded(b"\xc1"), Encoded(b"\xd4\x05\x00"), Encoded(timestamp_forms(5, 7)[0])]
    odd += [Encoded(str_forms(text)[0]) for text in NOT_UTF8]
    if isinstance(value, dict) and value and rng.random() < 0.7:
        name = rng.choice(list(value))
        if rng.random() < 0.3:
            other = rng.choice(("", "x" * 256, "time", "time_value", "v", "host", "v_value", "é"))
            pairs[at] = key, {other if each == name else each: v for each, v in value.items()}
        elif rng.random() < 0.2:
            pairs[at] = key, [*value.items(), (name, 5)]
        else:
            pairs[at] = key, value | {name: rng.choice(odd)}
    elif rng.random() < 0.3:
        pairs[at] = rng.choice(("m", "t", "h", "tags", "fields", "columns", "x", "field")), value
    elif rng.random() < 0.2:
        del pairs[at]
    else:
        pairs[at] = key, rng.choice(odd)


def damaged(rng: random.Random, body: bytes) -> bytes:
    """A body with one to three bytes changed, or cut off, or with bytes behind its end."""
    way = rng.choice(("cut off", "more", "changed", "changed", "changed"))
    if way == "cut off":
        return body[: rng.randrange(len(body))]
    if way == "more":
        return body + rng.randbytes(rng.randint(1, 4))
    changed = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(len(changed))] = rng.choice((rng.getrandbits(8), 0xC0, 0xDD, 0xDB))
    return bytes(changed)


SEEDS = st.integers(0, 2**32 - 1).map(random.Random)


@settings(max_examples=600)
@given(SEEDS, st.integers(1, 30))
def test_fast_path_and_twin_agree_on_good_rows(rng: random.Random, rows: int) -> None:
    assert isinstance(check(random_row_body(rng, rows)), list)


@settings(max_examples=800)
@given(SEEDS, st.integers(1, 15), st.integers(1, 3))
def test_fast_path_and_twin_agree_on_faulty_rows_and_their_errors(
    rng: random.Random, rows: int, faults: int
) -> None:
    check(random_row_body(rng, rows, faults))


@settings(max_examples=1000)
@given(SEEDS, st.integers(1, 10))
def test_fast_path_and_twin_agree_on_changed_cut_and_prolonged_rows(
    rng: random.Random, rows: int
) -> None:
    check(damaged(rng, random_row_body(rng, rows)))


@settings(max_examples=300)
@given(SEEDS, st.integers(1, 8))
def test_fast_path_and_twin_agree_on_rows_among_columnar_maps(
    rng: random.Random, rows: int
) -> None:
    parts = [random_row_body(rng, rows), random_body(rng, 2, 3, 5), random_row_body(rng, rows)]
    rng.shuffle(parts)
    body = b"".join(parts[: rng.randint(2, 3)])
    check(body)
    check(damaged(rng, body))


@pytest.mark.parametrize("seed", range(3))
def test_rows_cut_off_at_any_byte_are_refused_or_end_between_two_of_them(seed: int) -> None:
    body = random_row_body(random.Random(seed), 8)
    found = check(body)
    assert isinstance(found, list)
    whole = sum(batch.num_rows for batch in found)
    for end in range(len(body)):
        found = check(body[:end])
        assert isinstance(found, tuple) or sum(batch.num_rows for batch in found) < whole


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_behind_a_row_is_looked_at(byte: int) -> None:
    assert isinstance(check(spelled(row()) + bytes([byte])), tuple)


@pytest.mark.parametrize("seed", range(100))
def test_plain_rows_take_the_fast_path(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        row(
            rng.choice(("cpu", "mem", "größe")),
            t=NOW_US + rng.randrange(10**6),
            tags={"host": f"web-{rng.randrange(9)}", "größe": "x" * rng.randrange(40)},
            fields={name: rng.choice((None, 1, 2**40, -5)) for name in rng.sample("abcdef", 3)},
        )
        for _ in range(rng.randint(1, 30))
    ]
    accepted(rows_body(*rows))


# ------------------------------------------------------------------------------- rows to columns


def test_rows_of_the_python_client_become_one_batch() -> None:
    """`write_records`: an array of maps in the order m, t, fields, tags."""
    records = [
        {"m": "cpu", "t": NOW_US + i, "fields": {"usage": 1.5 * i, "n": i}, "tags": {"host": "a"}}
        for i in range(3)
    ]
    (batch,) = accepted(ormsgpack.packb(records))
    assert batch.measurement == "cpu"
    assert batch.tags == {"host"}
    assert batch.time_us.tolist() == [NOW_US, NOW_US + 1, NOW_US + 2]
    assert stored(batch) == {"host": ["a"] * 3, "usage": [0.0, 1.5, 3.0], "n": [0, 1, 2]}


def test_measurements_come_in_the_order_of_their_first_rows() -> None:
    rows = [row(name, fields={"v": i}) for i, name in enumerate(("b", "a", "b", "c", "a", "b"))]
    found = accepted(rows_body(*rows))
    assert [batch.measurement for batch in found] == ["b", "a", "c"]
    assert [stored(batch)["v"] for batch in found] == [[0, 2, 5], [1, 4], [3]]


def test_rows_of_differing_fields_and_tags_are_null_where_they_have_none() -> None:
    body = rows_body(
        row(tags={"a": "x"}, fields={"v": 1, "s": "text"}),
        row(tags={"b": "y"}, fields={"w": 1.5}),
        row(fields={"v": None, "ok": True, "raw": b"\xff"}),
        row(tags={"a": None}, fields={"s": "", "v": 4}),
    )
    (batch,) = accepted(body)
    assert batch.tags == {"a", "b"}
    assert stored(batch) == {
        "a": ["x", None, None, None],
        "b": [None, "y", None, None],
        "v": [1, None, None, 4],
        "s": ["text", None, None, ""],
        "w": [None, 1.5, None, None],
        "ok": [None, None, True, None],
        "raw": [None, None, b"\xff", None],
    }


def test_columns_are_tags_first_then_fields_each_in_order_of_appearance() -> None:
    body = rows_body(
        row(fields={"z": None, "b": 1}, tags={"t": "x"}),
        row(fields={"a": 1, "z": 2}, tags={"s": "x"}),
    )
    (batch,) = accepted(body)
    assert list(batch.columns) == ["t", "s", "z", "b", "a"]


def test_what_is_null_in_every_row_is_no_column() -> None:
    (batch,) = accepted(rows_body(row(tags={"a": None}, fields={"v": None}), row(fields={"w": 1})))
    assert list(batch.columns) == ["w"]
    assert batch.tags == frozenset()


def test_keys_in_any_order_mean_the_same() -> None:
    parts: list[tuple[str, Any]] = [
        ("m", "cpu"),
        ("t", NOW_US),
        ("h", "web"),
        ("tags", {"a": "x"}),
        ("fields", {"v": 1}),
    ]
    wanted = accepted(spelled_map(parts))
    for seed in range(60):
        random.Random(seed).shuffle(parts)
        assert_same_batches(accepted(spelled_map(parts)), wanted)


def test_a_batch_envelope_and_concatenated_rows_keep_all() -> None:
    one, two = spelled(row(fields={"v": 1})), spelled(row(fields={"v": 2}))
    for body in (one + two, b"\x92" + one + two, b"\x81\xa5batch\x92" + one + two):
        (batch,) = accepted(body)
        assert stored(batch) == {"v": [1, 2]}


def test_a_mixed_array_keeps_rows_and_columns() -> None:
    body = array_forms(5)[0] + spelled(row("a", fields={"v": 1}))
    body += columnar("a", {"v": [2, 3]}) + spelled(row("b", fields={"v": 4}))
    body += spelled(row("a", fields={"v": 5})) + columnar("b", {"v": [6]})
    found = accepted(body, fast=False)
    assert [batch.measurement for batch in found] == ["a", "a", "b", "b"]
    assert [stored(batch)["v"] for batch in found] == [[1, 5], [2, 3], [4], [6]]


def test_columns_win_over_fields_unless_they_are_null() -> None:
    both = {"m": "cpu", "columns": {"v": [1]}, "fields": {"w": 1}}
    (batch,) = accepted(spelled(both), fast=False)
    assert stored(batch) == {"v": [1]}
    (batch,) = accepted(spelled(both | {"columns": None}), fast=False)
    assert stored(batch) == {"w": [1]}


def test_an_array_of_fields_names_them_by_number() -> None:
    rows = row(fields=[1, None, "x"]), row(fields=[2, 1.5]), row(fields={"field_3": 3, "v": 4})
    (batch,) = accepted(rows_body(*rows))
    assert stored(batch) == {
        "field_0": [1, 2, None],
        "field_1": [None, 1.5, None],
        "field_2": ["x", None, None],
        "field_3": [None, None, 3],
        "v": [None, None, 4],
    }
    (batch,) = accepted(rows_body(row(fields=[1]), row(fields={"field_0": 2})), fast=False)
    assert stored(batch) == {"field_0": [1, 2]}


@pytest.mark.parametrize(
    "name", ["größe", "x" * 255, "a\0b", "_internal", "日", "k" * 31, "k" * 32]
)
def test_names_of_every_length_are_kept(name: str) -> None:
    (batch,) = accepted(rows_body(*[row(fields={name: 1, "other": 2})] * 3))
    assert list(batch.columns) == [name, "other"]
    (batch,) = accepted(rows_body(*[row(tags={name: "x", "other": "y"})] * 3))
    assert batch.tags == {name, "other"}


def test_many_columns_and_measurements_ask_for_more_room() -> None:
    wide = rows_body(*[row(fields={f"v{i}": i for i in range(1999)})] * 3)
    (batch,) = accepted(wide)
    assert len(batch.columns) == 1999
    many = rows_body(*[row(f"m{i}") for i in range(3000)])
    assert len(accepted(many)) == 3000


def test_many_small_values_ask_for_more_room() -> None:
    (batch,) = accepted(rows_body(*[row(fields=[i % 100] * 1000) for i in range(9)]))
    assert stored(batch)["field_999"] == list(range(9))


# ------------------------------------------------------------------------------------ tags, hosts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("", ""), ("web", "web"), ("é" * 50, "é" * 50), (7, "7"), (-5, "-5"), (0, "0")),
        *((2**64 - 1, "18446744073709551615"), (-(2**63), "-9223372036854775808")),
        *((1.5, "1.5"), (2.0, "2.0"), (1e16, "1e+16"), (0.1, "0.1"), (-0.0, "-0.0")),
        *((math.inf, "inf"), (True, "true"), (False, "false"), (None, None), (NAN, None)),
    ],
)
def test_tags_are_stored_as_text(value: Any, text: str | None) -> None:
    body = rows_body(row(tags={"a": value, "b": "x"}), row(tags={"a": "y"}))
    (batch,) = accepted(body, fast=value is None or isinstance(value, str))
    assert stored(batch)["a"] == [text, "y"]


@pytest.mark.parametrize("value", [b"x", {}, [], [1], {"a": 1}, Encoded(timestamp_forms(5, 0)[0])])
def test_what_is_no_text_and_no_number_is_no_tag(value: Any) -> None:
    text = "measurement 'cpu': column 'a', row 1: found "
    refused(rows_body(row(), row(tags={"a": value})), ValueTypeError, text)
    refused(rows_body(row(), row(tags={"a": value})), ValueTypeError, "since it is a tag")


def test_h_is_the_tag_host_where_there_is_one() -> None:
    body = rows_body(row(h="a"), row(), row(h=None), row(h="é" * 40, tags={"b": "x"}))
    (batch,) = accepted(body)
    assert batch.tags == {"host", "b"}
    assert stored(batch)["host"] == ["a", None, None, "é" * 40]
    (batch,) = accepted(rows_body(row(), row(h=None)))
    assert batch.tags == frozenset()


@pytest.mark.parametrize("first", [True, False])
def test_h_never_overwrites_a_host(first: bool) -> None:
    rows = [row(h="a"), row(h="b", tags={"host": "c"}), row(tags={"host": "d"}), row(h="e")]
    found = accepted(rows_body(*(rows if first else rows[1:])))
    assert stored(found[0])["host"] == ["a", "c", "d", "e"][0 if first else 1 :]
    (batch,) = accepted(rows_body(row(h="a", tags={"host": None})), fast=False)
    assert stored(batch)["host"] == ["a"]


def test_an_integer_host_is_stored_as_text() -> None:
    (batch,) = accepted(rows_body(row(h=7), row(h="x")), fast=False)
    assert stored(batch)["host"] == ["7", "x"]


@pytest.mark.parametrize("value", [1.5, True, b"x", {}, []])
def test_a_host_of_another_type_is_refused(value: Any) -> None:
    text = "measurement 'cpu': row 1: 'h' must be a string or an integer, found "
    refused(rows_body(row(), row(h=value)), PayloadError, text)


# ----------------------------------------------------------------------------------------- names


def test_a_field_with_the_name_of_a_tag_is_stored_with_a_suffix() -> None:
    body = rows_body(row(tags={"a": "x"}, fields={"b": 1}), row(fields={"a": 2, "b": 3}))
    (batch,) = accepted(body)
    assert batch.tags == {"a"}
    assert stored(batch) == {"a": ["x", None], "b": [1, 3], "a_value": [None, 2]}
    (batch,) = accepted(rows_body(row(h="x", fields={"host": 1})))
    assert stored(batch) == {"host": ["x"], "host_value": [1]}


def test_a_tag_that_is_null_in_every_row_takes_no_name() -> None:
    (batch,) = accepted(rows_body(row(tags={"a": None}, fields={"a": 1})))
    assert stored(batch) == {"a": [1]}


def test_what_is_called_time_is_stored_with_a_suffix() -> None:
    (batch,) = accepted(rows_body(row(t=NOW_US, fields={"time": 1})))
    assert stored(batch) == {"time_value": [1]}
    (batch,) = accepted(rows_body(row(tags={"time": "x"})))
    assert stored(batch) == {"time_value": ["x"], "v": [1]}
    assert batch.tags == {"time_value"}


@pytest.mark.parametrize(
    ("tags", "fields", "text"),
    [
        ({"a": "x"}, {"a": 1, "a_value": 2}, "'a' and 'a_value' would both be stored as column"),
        ({"a": "x", "a_value": "y"}, {"a": 1}, "'a_value' and 'a' would both be stored as column"),
        ({}, {"time": 1, "time_value": 2}, "as column 'time_value'; rename one of them"),
        ({"time": "x"}, {"time": 1}, "'time' and 'time' would both be stored"),
    ],
)
def test_a_name_that_would_be_taken_twice_is_refused(
    tags: dict[str, Any], fields: dict[str, Any], text: str
) -> None:
    refused(rows_body(row(tags=tags, fields=fields)), PayloadError, text)


def test_a_name_that_is_too_long_with_its_suffix_is_refused() -> None:
    name = "x" * 250
    refused(rows_body(row(tags={name: "a"}, fields={name: 1})), InvalidNameError, "256 bytes")


@pytest.mark.parametrize(
    ("name", "text"), [("", "found ''"), ("x" * 256, "256 bytes"), (5, "an i")]
)
@pytest.mark.parametrize("part", ["tags", "fields"])
def test_names_that_cannot_be_stored_are_refused(name: Any, text: str, part: str) -> None:
    refused(rows_body(row(**{part: {name: "x"}})), InvalidNameError, text)


def test_an_integer_names_a_measurement_of_rows() -> None:
    (batch,) = accepted(rows_body(row(7), row("measurement_7")), fast=False)
    assert batch.measurement == "measurement_7"
    assert batch.num_rows == 2


def test_a_name_in_two_spellings_is_one_name() -> None:
    bodies = [b"\x82\xa1m" + m + b"\xa6fields\x81" + v + b"\x01" for m in str_forms("cpu")
              for v in str_forms("v")]  # fmt: skip
    (batch,) = accepted(b"".join(bodies))
    assert stored(batch) == {"v": [1] * len(bodies)}


def test_the_last_of_two_values_of_one_name_counts() -> None:
    body = b"\x82\xa1m\xa1a\xa6fields\x82\xa1v\x01\xa1v\x02"
    (batch,) = accepted(body, fast=False)
    assert stored(batch) == {"v": [2]}
    (batch,) = accepted(b"\x83" + body[1:] + b"\xa1m\xa1b", fast=False)
    assert batch.measurement == "b"


# ----------------------------------------------------------------------------------------- times


def test_rows_without_a_time_have_that_of_the_server_and_tell_no_unit() -> None:
    (batch,) = accepted(rows_body(row(t=1_768_473_000), row(), row(t=1_768_473_001)))
    assert batch.time_us.tolist() == [1_768_473_000_000_000, NOW_US, 1_768_473_001_000_000]
    assert batch.range_us == (NOW_US, NOW_US + 1_000_000)
    (batch,) = accepted(rows_body(row(), row()))
    assert batch.time_us.tolist() == [NOW_US] * 2


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_the_unit_is_told_for_each_measurement_from_all_its_times(factor: int) -> None:
    rows = [row("a", t=5), row("b", t=1_768_473_000), row("a", t=1_768_473_000 * factor)]
    first, second = accepted(rows_body(*rows))
    assert first.time_us.tolist() == [5 * 10**6 // factor, 1_768_473_000_000_000]
    assert second.time_us.tolist() == [1_768_473_000_000_000]


def test_a_unit_that_is_named_is_not_told() -> None:
    body = rows_body(row(t=5_000), row(), row(t=1_768_473_000_000))
    (batch,) = decode(body, NOW_US, LIMITS, TimeUnit.MS)
    assert batch.time_us.tolist() == [5_000_000, NOW_US, 1_768_473_000_000_000]
    assert_same_batches([batch], decode_slow(body, NOW_US, LIMITS, TimeUnit.MS))


def test_times_are_integers_floats_or_both() -> None:
    (batch,) = accepted(rows_body(row(t=1_768_473_000.25), row(t=1_768_473_000), row()))
    assert batch.time_us.tolist() == [1_768_473_000_250_000, 1_768_473_000_000_000, NOW_US]


def test_times_of_the_timestamp_extension_keep_their_microseconds() -> None:
    cells = [cell for second in (5, 2**33, -1) for cell in timestamp_forms(second, 999_999_999)]
    rows = [row(t=Encoded(cell)) for cell in cells]
    (batch,) = accepted(rows_body(*rows, row()), fast=False)
    wanted = [s * 10**6 + 999_999 for s in (5, 2**33, -1) for _ in timestamp_forms(s, 1)]
    assert batch.time_us.tolist() == [*wanted, NOW_US]


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([5, None], "row 1: null is not a time"),
        (["now"], "row 0: found a string, wanted an integer, a float or a timestamp"),
        ([1, True], "row 1: found a boolean, wanted"),
        ([b"x"], "row 0: found binary, wanted"),
        ([[1]], "row 0: found an array, wanted"),
        ([1, 2**63], "row 1: 9223372036854775808 is not a time"),
        ([1.5, NAN], "row 1: nan is not a time"),
        ([1_768_473_000, 5, 1_768_473_000_000], "1768473000000 in row 2 like ms"),
        ([1, -3 * 10**9], "row 1: -3000000000 s is outside the years 1900 to 2262"),
        ([1e300], "row 0: 1e+300 ns is outside the years 1900 to 2262"),
        ([Encoded(timestamp_forms(5, 0)[0]), 5], "row 1: found an integer, wanted a timestamp as"),
        ([5, Encoded(timestamp_forms(5, 0)[0])], "row 0: found an integer, wanted a timestamp as"),
        ([Encoded(timestamp_forms(-(2**33), 0)[0])], "us is outside the years 1900 to 2262"),
    ],
)
def test_what_is_no_time_is_refused_by_its_row(times: list[Any], text: str) -> None:
    refused(rows_body(*[row(t=time) for time in times]), TimeError, text)


def test_errors_count_rows_among_all_items_of_the_request() -> None:
    others = columnar("x", {"v": [1]}) + spelled(row("y")) + spelled(row("cpu"))
    refused(others + spelled(row(t=None)), TimeError, "measurement 'cpu': 't', row 3: null")
    two = spelled(row("cpu", t=1_768_473_000)) + others + spelled(row(t=-(10**10) + 1))
    refused(two, TimeError, "row 4: -9999999999 s is outside")
    bad = others + spelled(row(fields={"v": "text"}))
    text = "column 'v', row 3: found a string, wanted an integer as in row 2"
    refused(bad, ValueTypeError, text)


# ------------------------------------------------------------------------------- types and values


@pytest.mark.parametrize("value", INT_BOUNDARIES)
def test_integers_keep_their_value_in_every_form(value: int) -> None:
    for form in int_forms(value):
        for others in ([], [1, None], [None, -1 if value < 2**63 else 1]):
            rows = [row(fields={"v": each, "w": 1}) for each in [Encoded(form), *others]]
            (batch,) = accepted(rows_body(*rows), fast=value < 2**63)
            column = batch.columns["v"]
            assert column.type is (ColumnType.INT64 if value < 2**63 else ColumnType.UINT64)
            assert column_values(column) == [value, *others]
            assert column.wide == (abs(value) > 2**53 and value < 2**63)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1e300, NAN, math.inf, -math.inf, 5e-324])
def test_floats_keep_their_value_in_every_form(value: float) -> None:
    for form in float_forms(value):
        for others in ([], [None, 5], [-(2**53), 2**53]):
            rows = [row(fields={"v": each}) for each in [Encoded(form), *others]]
            (batch,) = accepted(rows_body(*rows))
            found = column_values(batch.columns["v"])
            assert repr(found[0]) == repr(value)
            assert found[1:] == others


@pytest.mark.parametrize("size", LENGTH_BOUNDARIES)
def test_strings_and_bytes_of_every_length_keep_their_bytes(size: int) -> None:
    for values in ("é" * size, "a" * size), (b"\xff" * size, b"a" * size):
        for form in forms(values[0]):
            rows = [row(fields={"v": each}) for each in (Encoded(form), values[1], None, values[0])]
            (batch,) = accepted(rows_body(*rows))
            assert stored(batch) == {"v": [values[0], values[1], None, values[0]]}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([None, 1, 1.5, "a"], "row 3: found a string, wanted an integer as in row 1"),
        (["a", b"a"], "row 1: found binary, wanted a string as in row 0"),
        ([True, 1], "row 1: found an integer, wanted a boolean as in row 0"),
        ([0.5, 2**53 + 1], "row 1: found 9007199254740993, wanted a float, or an integer up to"),
        ([0.5, 2**64 - 1], "row 1: found 18446744073709551615, wanted a float"),
        (
            [1, None, 2**63, -1],
            "row 2: found 9223372036854775808, wanted int64, since row 3 is neg",
        ),
        ([1, [1]], "row 1: found an array, wanted a number, a string, a boolean or binary"),
        ([{}], "row 0: found a map, wanted a number, a string, a boolean or binary"),
        ([Encoded(b"\xd4\x05\x00")], "row 0: found an extension value, wanted a number"),
        ([Encoded(timestamp_forms(5, 0)[0])], "row 0: found a timestamp, wanted a number"),
    ],
)
def test_values_that_do_not_go_together_are_refused_by_row(values: list[Any], text: str) -> None:
    body = rows_body(*[row(fields={"v": value}) for value in values])
    refused(body, ValueTypeError, f"measurement 'cpu': column 'v', {text}")


def test_nan_among_strings_is_null() -> None:
    rows = [row(fields={"v": value}) for value in (NAN, "a", None, NAN, "b")]
    (batch,) = accepted(rows_body(*rows), fast=False)
    assert stored(batch) == {"v": [None, "a", None, None, "b"]}


@pytest.mark.parametrize("text", NOT_UTF8)
def test_strings_that_are_not_utf8_are_refused_wherever_they_are(text: bytes) -> None:
    bad = Encoded(str_forms(text)[0])
    good = row(tags={"a": "x"}, fields={"v": "x"}, h="x")
    for odd in (
        row(bad),
        row(h=bad),
        row(h=bad, tags={"host": "x"}),
        {"m": "cpu", "fields": {"v": bad}},
        row(tags={"a": bad}),
        row(tags={bad: "x"}),
        row(fields={bad: 1}),
        row(x=bad),
    ):
        refused(rows_body(good, odd, good), DecodeError, "object at byte 0: ")


def test_a_character_split_over_two_rows_is_refused() -> None:
    halves = [Encoded(str_forms(half)[0]) for half in ("é".encode()[:1], "é".encode()[1:])]
    body = rows_body(*[row(fields={"v": half}) for half in halves])
    refused(body, DecodeError, "utf-8")


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (row(fields={}), PayloadError, "'fields' must be a map or an array of at least one field"),
        (row(fields=[]), PayloadError, "of at least one field, found an array of none"),
        (row(fields=None), PayloadError, "of at least one field, found null"),
        (row(fields=5), PayloadError, "measurement 'cpu': row 1: 'fields' must be a map or an arr"),
        (row(tags=[]), PayloadError, "'tags' of a row must be a map, found an array of none"),
        (row(tags="x"), PayloadError, "'tags' of a row must be a map, found a string"),
        (row(None), PayloadError, "row 1: 'm' must be the measurement's name, found nothing"),
        (row(""), PayloadError, "row 1: 'm' must be the measurement's name, found ''"),
        (row(1.5), PayloadError, "row 1: 'm' must be the measurement's name, found a float"),
        (row("m" * 129), InvalidNameError, "129 characters, wanted 1 to 128"),
        ({"fields": {"v": 1}}, PayloadError, "row 1: 'm' must be the measurement's name"),
        ({"m": "cpu", "t": 5}, PayloadError, "'columns' is missing, and so is 'fields'"),
    ],
)
def test_a_refusal_says_where_and_what(
    given: dict[str, Any], error: type[IngestError], text: str
) -> None:
    refused(rows_body(row("good"), given), error, text)


def test_unknown_keys_are_ignored() -> None:
    (batch,) = accepted(rows_body(row(x={"a": [1]}), row()), fast=False)
    assert stored(batch) == {"v": [1, 1]}


# ------------------------------------------------------------------------------- limits, bombs


def test_the_limit_of_columns_is_exact() -> None:
    as_many = {f"v{i}": 1 for i in range(LIMITS.max_columns - 1)}
    accepted(rows_body(row(fields=as_many)))
    text = "columns of measurement 'cpu', the time included: 2001, over the limit of 2000"
    refused(rows_body(row(fields=as_many), row(fields={"more": 1})), LimitError, text)


def test_columns_are_counted_over_rows_and_columnar_maps() -> None:
    limits = Limits(max_request_columns=10)
    text = "columns of all maps of one request: 12, over the limit of 10"
    refused(rows_body(*[row(f"m{i}") for i in range(6)]), LimitError, text, limits)
    assert isinstance(check(rows_body(*[row(f"m{i}") for i in range(5)]), limits), list)
    mixed = columnar("a", {f"v{i}": [1] for i in range(9)}) + spelled(row())
    refused(mixed, LimitError, "one request: 11, over", limits)


def test_memory_is_bounded_before_it_is_taken() -> None:
    body = rows_body(*[row(fields={f"v{i}": True}) for i in range(1000)])
    limits = Limits(max_decoded_bytes=2_000_000)
    refused(body, TooLargeError, "memory of the columns in this body is over the limit", limits)
    bounds = [2_000_000, 2_020_000]
    while bounds[1] - bounds[0] > 1:  # the two agree on the last byte
        middle = sum(bounds) // 2
        taken = isinstance(check(body, Limits(max_decoded_bytes=middle)), list)
        bounds[taken] = middle


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa1m\xa1a\xa6fields\xdf\xff\xff\xff\xff\xa1v\x01",
        b"\x82\xa1m\xa1a\xa6fields\xdd\xff\xff\xff\xff\x01",
        b"\x83\xa1m\xa1a\xa4tags\xdf\x7f\xff\xff\xff\xa6fields\x81\xa1v\x01",
        b"\xdd\xff\xff\xff\xff" + spelled(row()),
        b"\x82\xa1m\xdb\xff\xff\xff\xff\xa6fields\x81\xa1v\x01",
        b"\x82\xa1m\xa1a\xa6fields\x81\xa1v\xc6\xff\xff\xff\xff",
    ],
)
def test_declared_lengths_take_no_memory(body: bytes) -> None:
    refused(body, DecodeError, "not MessagePack, or cut off")


def test_depth_is_no_bomb() -> None:
    for deep in (b"\x91" * 100_000 + b"\x01", b"\x81\xa1a" * 100_000 + b"\x01"):
        for body in (b"\x82\xa1m\xa1a\xa6fields\x81\xa1v" + deep, deep):
            assert isinstance(check(body), tuple)


def test_objects_are_counted_before_the_twin_builds_them() -> None:
    body = rows_body(*[row(x=None)] * 2_000)
    limits = Limits(max_elements=10_000)
    refused(body, LimitError, "values in a body that only the slow decoder could take", limits)
    with pytest.raises(LimitError, match="maps of one request: 100001, over"):
        decode(rows_body(*[row(x=None)] * 100_001), NOW_US, LIMITS)


def test_names_that_meet_in_one_place_are_left_to_the_twin() -> None:
    names, wanted = [], kernels.new_state(64)[kernels.T_LOOKUP]
    for i in range(100_000):
        name = f"v{i}".encode()
        place = kernels._hash(np.frombuffer(name, dtype=np.uint8), 0, len(name), 8 * 32 + 3)
        if place & wanted == 7:
            names.append(name.decode())
        if len(names) == 40:
            break
    (batch,) = accepted(rows_body(*[row(fields=dict.fromkeys(names, 1))] * 3), fast=False)
    assert len(batch.columns) == 40


# ------------------------------------------------------------------------------------- kernels

UNCOMPILED = """
import random
import ingest.kernels.msgpack_rows as kernels
from ingest.testing import NOT_UTF8
from tests.test_msgpack_rows import (
    LIMITS, NOW_US, check, damaged, decode_fast, random_row_body, row, rows_body, spelled
)

assert type(kernels.scan).__name__ == "function", "compiled after all"
fast = 0
for seed in range(150):
    body = random_row_body(random.Random(seed), 8)
    assert isinstance(check(body), list)
    fast += decode_fast(body, NOW_US, LIMITS) is not None
assert fast > 60, fast
for seed in range(200):
    rng = random.Random(seed)
    check(random_row_body(rng, 4, 2))
    check(damaged(rng, random_row_body(rng, 4)))
body = random_row_body(random.Random(3), 3)
for end in range(len(body)):
    check(body[:end])
for size in range(40):
    rows = [row("m" * (size + 1), h="x" * size, fields={"v" * (size + 1): "y" * size})] * 2
    body = rows_body(*rows)
    for end in range(len(body) - size - 5, len(body) + 1):
        check(body[:end])
"""


def test_uncompiled_kernels_never_leave_an_array_and_agree_with_the_twin() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNCOMPILED],
        cwd=ROOT,
        env=dict(os.environ, NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("after", [0x00, 0xA5, 0xC0, 0xFF])
def test_bytes_behind_the_body_change_nothing(after: int) -> None:
    for seed in range(60):
        body = random_row_body(random.Random(seed), 6)
        longer = np.frombuffer(body + bytes([after]) * 64, dtype=np.uint8)
        found = [
            (kernels.scan(buf, state, cells), state, cells[: state[kernels.T_CELLS]])
            for buf in (longer[: len(body)], np.frombuffer(body, dtype=np.uint8))
            for state, cells in [(kernels.new_state(64), np.zeros(len(body), dtype=np.int64))]
        ]
        assert found[0][0] == found[1][0]
        assert np.array_equal(found[0][1], found[1][1])
        assert np.array_equal(found[0][2], found[1][2])


def test_kernels_write_nothing_beside_the_arrays_that_they_are_given() -> None:
    for seed in range(60):
        body = np.frombuffer(random_row_body(random.Random(seed), 12), dtype=np.uint8)
        state = kernels.new_state(64)
        room = np.full(len(body) + 16, -7, dtype=np.int64)
        cells = room[8:-8]
        if kernels.scan(body, state, cells) != OK:
            continue
        assert (room[:8] == -7).all()
        assert (room[-8:] == -7).all()
        words = int(state[kernels.T_ARENA]) // 8
        arena = np.full(words + 16, 0x5555555555555555, dtype=np.int64)
        kernels.fill(body, state, cells[: state[kernels.T_CELLS]], arena[8 : 8 + words])
        assert (arena[:8] == 0x5555555555555555).all()
        assert (arena[8 + words :] == 0x5555555555555555).all()


def test_a_state_or_cells_that_are_too_few_ask_for_more() -> None:
    body = np.frombuffer(rows_body(*[row(t=1, h="x")] * 3), dtype=np.uint8)
    for room in range(9):
        guard = np.full(room + 8, -7, dtype=np.int64)
        assert kernels.scan(body, kernels.new_state(4), guard[:room]) == MORE_ROOM
        assert (guard[room:] == -7).all()
    assert kernels.scan(body, kernels.new_state(4), np.empty(9, dtype=np.int64)) == OK
    for slots in (1, 2):
        status = kernels.scan(body, kernels.new_state(slots), np.empty(9, dtype=np.int64))
        assert status == MORE_ROOM


def test_warming_up_compiles_everything_that_a_body_can_ask_for() -> None:
    kernels.warm()
    for seed in range(30):
        check(random_row_body(random.Random(seed), 8, seed % 2))
    for name in ("scan", "fill"):
        assert len(getattr(kernels, name).signatures) == 1, name
