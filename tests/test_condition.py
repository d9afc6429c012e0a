"""Which rows a condition means: what is understood, what is refused, and the rows themselves."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.columns import ColumnType
from ingest.condition import MAX_CHARACTERS, Condition, mask, parse
from ingest.errors import PayloadError

COLUMNS = {
    "host": ColumnType.UTF8,
    "Dc": ColumnType.UTF8,
    "disk/io": ColumnType.UTF8,
    "usage": ColumnType.FLOAT64,
}
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
JANUARY_US = 1_767_225_600_000_000  # 2026-01-01


def read(text: str) -> Condition:
    return parse(text, COLUMNS, NOW_US)


@pytest.mark.parametrize(
    ("text", "start_us", "end_us"),
    [
        ("time < '2026-01-01'", None, JANUARY_US),
        ("time<'2026-01-01T00:00:00Z'", None, JANUARY_US),
        ("TIME <= TIMESTAMP '2026-01-01 00:00:00'", None, JANUARY_US + 1),
        ("time > '2026-01-01'", JANUARY_US + 1, None),
        ("time >= DATE '2026-01-01';", JANUARY_US, None),
        ("\"time\" = '2026-01-01'", JANUARY_US, JANUARY_US + 1),
        ("time < '2026-01-01T01:00:00+01:00'", None, JANUARY_US),
        ("time < '2026-01-01T00:00:00.000007'", None, JANUARY_US + 7),
        ("time BETWEEN '2026-01-01' AND '2026-01-02'", JANUARY_US, JANUARY_US + DAY_US + 1),
        ("time >= '2026-01-01' and time < '2026-01-02'", JANUARY_US, JANUARY_US + DAY_US),
        ("time < '2026-01-02' AND time < '2026-01-01'", None, JANUARY_US),
        ("time >= '1969-12-31'", -DAY_US, None),
        ("time < 1767225600", None, JANUARY_US),
        ("time < 1767225600000", None, JANUARY_US),
        ("time < 1767225600000000", None, JANUARY_US),
        ("time < 1767225600000000000", None, JANUARY_US),
        ("time < now()", None, NOW_US),
        ("time < now() - INTERVAL '7 days'", None, NOW_US - 7 * DAY_US),
        ("time < NOW() - interval 36 HOURS", None, NOW_US - 3 * DAY_US // 2),
        ("1=1", None, None),
        (" TRUE ; ", None, None),
    ],
)
def test_times_become_a_range(text: str, start_us: int | None, end_us: int | None) -> None:
    assert read(text) == Condition(start_us, end_us)


@pytest.mark.parametrize(
    ("text", "equals"),
    [
        ("host = 'a'", (("host", ("a",)),)),
        ("HOST='a' AND dc='x'", (("Dc", ("x",)), ("host", ("a",)))),
        ("host IN ('b', 'a', 'b')", (("host", ("a", "b")),)),
        ("\"disk/io\" = 'it''s'", (("disk/io", ("it's",)),)),
        ("host IN ('a', 'b') AND host IN ('b', 'c')", (("host", ("b",)),)),
        ("host = 'a' AND host = 'b'", (("host", ()),)),
        ("host = 'a; DROP TABLE x --'", (("host", ("a; DROP TABLE x --",)),)),
    ],
)
def test_text_columns_are_compared_with_values(
    text: str, equals: tuple[tuple[str, tuple[str, ...]], ...]
) -> None:
    assert read(text) == Condition(None, None, equals)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "character 0: found the end, wanted the name of a column"),
        ("time", "character 4: found the end, wanted <, <=, >, >=, = or BETWEEN"),
        ("time < ", "found the end, wanted a moment"),
        ("time != '2026-01-01'", "found '!=', wanted <"),
        ("time < 'yesterday'", "found \"'yesterday'\", wanted a time such as"),
        ("time < '2026-01-01T00:00:00.0000001'", "at most six digits"),
        ("time < 1767225600000000001", "whole microseconds"),
        ("time < 1.5", "found '1', wanted a name, a value or a sign"),
        ("time < now", "wanted () after now"),
        ("time < now() - 7", "wanted INTERVAL"),
        ("time < now() - INTERVAL '1 month'", "wanted a number and one of"),
        ("time < now() - INTERVAL 7", "wanted a number and one of"),
        ("time BETWEEN '2026-01-01'", "wanted AND between two moments"),
        ("host = 'a' OR host = 'b'", "found 'OR', wanted AND or the end"),
        ("NOT host = 'a'", "no column 'NOT'"),
        ("host <> 'a'", "wanted = or IN after host"),
        ("host LIKE 'a%'", "wanted = or IN after host"),
        ("host = a", "wanted text in single quotes"),
        ("host = 'a", 'found "\'", wanted a name, a value or a sign'),
        ("host IN ()", "wanted text in single quotes"),
        ("host IN ('a' 'b')", "wanted a comma or )"),
        ("lower(host) = 'a'", "no column 'lower'"),
        ("nope = 'a'", "the table has no column 'nope'"),
        ("usage = 'a'", "column 'usage' is float64; only time and columns of text"),
        ("1=1 AND host = 'a'", "found '1', wanted the name of a column"),
        ("host = 'a'; host = 'b'", "wanted AND or the end"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(PayloadError) as caught:
        read(text)
    assert said in str(caught.value)


def test_a_condition_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadError, match=f"over the limit of {MAX_CHARACTERS}"):
        read(" " * (MAX_CHARACTERS + 1))


@given(st.text(alphabet="timehost<>='() AND IN01-;\"\n\0é", max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        found = read(text)
    except PayloadError:
        return
    assert isinstance(found, Condition)


@given(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2262, 1, 1)))
def test_every_moment_is_read_to_the_microsecond(moment: dt.datetime) -> None:
    want_us = (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    assert read(f"time >= '{moment.isoformat()}'") == Condition(start_us=want_us)


def rows(*times_us: int, **columns: pa.Array) -> pa.RecordBatch:
    times = pa.array(times_us, pa.timestamp("us", "UTC"))
    return pa.RecordBatch.from_arrays([times, *columns.values()], ["time", *columns])


def test_rows_at_the_ends_of_a_range() -> None:
    found = mask(Condition(10, 20), rows(9, 10, 19, 20))
    assert found.to_pylist() == [False, True, True, False]
    assert mask(Condition(), rows(-1, 1)).to_pylist() == [True, True]


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_null_and_a_missing_column_meet_no_value(as_dictionary: bool) -> None:
    hosts = pa.array(["a", None, "b", "a"])
    column = hosts.dictionary_encode() if as_dictionary else hosts
    batch = rows(1, 2, 3, 4, host=column)
    assert mask(Condition(equals=(("host", ("a",)),)), batch).to_pylist() == [
        True,
        False,
        False,
        True,
    ]
    assert mask(Condition(2, None, (("host", ("a", "b")),)), batch).to_pylist() == [
        False,
        False,
        True,
        True,
    ]
    assert not any(mask(Condition(equals=(("dc", ("a",)),)), batch).to_pylist())
    assert not any(mask(Condition(equals=(("host", ()),)), batch).to_pylist())


@pytest.mark.parametrize(
    ("low", "high", "may", "all_of_it"),
    [
        (0, 9, False, False),
        (0, 10, True, False),
        (10, 19, True, True),
        (10, 20, True, False),
        (20, 30, False, False),
        (None, None, True, False),
    ],
)
def test_statistics_tell_what_a_file_may_hold(
    low: int | None, high: int | None, may: bool, all_of_it: bool
) -> None:
    assert Condition(10, 20).may_hold(low, high) is may
    assert Condition(10, 20).holds_all(low, high) is all_of_it
    assert Condition(10, 20, (("host", ("a",)),)).holds_all(low, high) is False
