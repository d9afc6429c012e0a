"""A time in any form becomes the nanoseconds it stands for, as the server would have read it."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arc.client.errors import UsageError
from arc.client.times import MAX_TIME_NS, MIN_TIME_NS, NS_PER_UNIT, to_ns
from ingest.errors import TimeError
from ingest.timestamps import TimeUnit, to_epoch_us, unit_of
from tests.support.ids import stable

S = 10**9
NOW_S = 1_763_650_000


class Ticks(enum.IntEnum):
    ONE = NOW_S


@pytest.mark.parametrize(
    ("value", "unit", "wanted"),
    [
        (NOW_S, None, NOW_S * S),
        (NOW_S * 10**3, None, NOW_S * S),
        (NOW_S * 10**6, None, NOW_S * S),
        (NOW_S * S + 7, None, NOW_S * S + 7),
        (10**10 - 1, None, None),  # seconds, but of the year 2286
        (10**10, None, 10**10 * 10**6),
        (10**13 - 1, None, None),
        (10**13, None, 10**13 * 10**3),
        (10**16 - 1, None, None),
        (10**16, None, 10**16),
        (-NOW_S, None, -NOW_S * S),
        (0, None, 0),
        (5, None, 5 * S),
        (5, "ms", 5 * 10**6),
        (5, "us", 5 * 10**3),
        (5, "ns", 5),
        (NOW_S * 10**3, "ns", NOW_S * 10**3),
        (0.5, None, S // 2),
        (1_763_650_000.000001, None, NOW_S * S + 1_000),
        (1_763_650_000_000.25, None, NOW_S * S + 250_000),
        (5.75, "us", 5_000),
        (-5.25, "us", -6_000),
        (5.75, "ns", 5),
        (True, None, None),
        (Ticks.ONE, None, NOW_S * S),
        (MAX_TIME_NS, "ns", MAX_TIME_NS),
        (MAX_TIME_NS + 1, "ns", None),
        (MIN_TIME_NS, "ns", MIN_TIME_NS),
        (MIN_TIME_NS - 1, "ns", None),
        (10**400, None, None),
    ],
)
def test_numbers_are_in_their_unit_or_the_one_their_magnitude_tells(
    value: Any, unit: str | None, wanted: int | None
) -> None:
    if wanted is None:
        with pytest.raises(UsageError):
            to_ns(value, unit)
    else:
        assert to_ns(value, unit) == wanted
        assert type(to_ns(value, unit)) is int


@given(st.integers(MIN_TIME_NS, MAX_TIME_NS), st.sampled_from(["s", "ms", "us", "ns"]))
def test_integers_are_read_as_the_server_reads_a_column_of_one(ns: int, unit: str) -> None:
    value = ns // NS_PER_UNIT[unit]
    assume(value * NS_PER_UNIT[unit] >= MIN_TIME_NS)
    column = np.array([value])
    wanted = to_epoch_us(column, TimeUnit(unit), "time").time_us[0]
    assert to_ns(value, unit) // 1_000 == wanted


@given(st.floats(-2e9, 9.2e9), st.sampled_from(["s", "ms", "us", "ns"]), st.booleans())
def test_floats_are_read_as_the_server_reads_a_column_of_one(
    seconds: float, unit: str, is_named: bool
) -> None:
    value = seconds * (S / NS_PER_UNIT[unit])
    try:
        column = np.array([value])
        wanted = to_epoch_us(column, TimeUnit(unit) if is_named else None, "time").time_us[0]
    except TimeError:
        assume(False)
    assert to_ns(value, unit if is_named else None) // 1_000 == wanted


@given(st.integers(0, 2 * 10**18))
def test_the_unit_of_an_integer_is_told_as_the_server_tells_it(value: int) -> None:
    unit = str(unit_of(value)) if value >= 10**8 else "s"
    try:
        wanted = to_ns(value, unit)
    except UsageError:
        with pytest.raises(UsageError):
            to_ns(value, None)
    else:
        assert to_ns(value, None) == wanted


@given(
    st.datetimes(datetime(1900, 1, 2), datetime(2262, 4, 10)), st.integers(-23 * 60, 23 * 60 + 59)
)
def test_a_datetime_is_exact_in_any_zone_and_utc_without_one(naive: datetime, minutes: int) -> None:
    since = naive - datetime(1970, 1, 1)
    exact = (since // timedelta(microseconds=1)) * 1_000
    assert to_ns(naive, None) == to_ns(naive, "ms") == exact
    aware = naive.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=minutes)))
    assert to_ns(aware, None) == exact


@given(st.integers(MIN_TIME_NS, MAX_TIME_NS - 86_400 * S))  # local times have to fit as well
def test_times_of_pandas_and_numpy_keep_their_nanoseconds(ns: int) -> None:
    assert to_ns(pd.Timestamp(ns), None) == ns
    assert to_ns(pd.Timestamp(ns, tz="Asia/Kolkata"), None) == ns
    assert to_ns(np.datetime64(ns, "ns"), None) == ns
    assert to_ns(np.array(ns).astype("datetime64[ns]"), None) == ns


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("2024", "Y"),
        ("2024-02", "M"),
        ("2024-02-29", "D"),
        ("2024-02-29", "W"),
        ("2024-02-29T07", "h"),
        ("2024-02-29T07:08", "m"),
        ("2024-02-29T07:08:09", "s"),
        ("2024-02-29T07:08:09.123", "ms"),
        ("1969-12-31T23:59:59.999999", "us"),
        ("1969-12-31T23:59:59.999999999", "ns"),
        ("2024-02-29", "2D"),
        ("2024-02-29T07:08:09", "25s"),
        ("2024-03", "3M"),
        ("2024", "10Y"),
    ],
)
def test_every_unit_of_numpy_is_known(text: str, unit: Any) -> None:
    value = np.datetime64(text, unit)
    assert to_ns(value, None) == int(value.astype("datetime64[ns]").astype(np.int64))


@pytest.mark.parametrize(("unit", "per_ns"), [("ps", 10**3), ("fs", 10**6), ("as", 10**9)])
@pytest.mark.parametrize("ticks", [0, 1, -1, 10**9, -(10**9) - 1, 2**62])
def test_units_below_a_nanosecond_round_towards_the_past(
    unit: Any, per_ns: int, ticks: int
) -> None:
    assert to_ns(np.datetime64(ticks, unit), None) == ticks // per_ns


def test_numbers_of_numpy_are_numbers() -> None:
    assert to_ns(np.int64(NOW_S), None) == NOW_S * S
    assert to_ns(np.uint32(NOW_S), "s") == NOW_S * S
    assert to_ns(np.float64(0.5), "s") == S // 2
    assert to_ns(np.float32(0.5), "s") == S // 2
    assert to_ns(np.array(5), "ns") == 5


@pytest.mark.parametrize(
    "value",
    [
        None,
        False,
        "2024-01-01",
        b"1",
        [1],
        {},
        object(),
        float("nan"),
        float("inf"),
        1e300,
        1 + 2j,
        Decimal(1),
        Fraction(1),
        date(2024, 1, 1),
        timedelta(1),
        datetime(1899, 12, 31, 23, 59, 59),
        datetime(2262, 4, 12),
        datetime(9999, 1, 1, tzinfo=UTC),
        np.bool_(True),
        np.array([1]),
        np.array([]),
        np.datetime64("NaT", "ns"),
        np.datetime64("NaT", "D"),
        np.datetime64("1800-01-01"),
        np.datetime64("3000-01-01"),
        np.timedelta64(1, "s"),
        np.float64("nan"),
        np.longdouble(1),
        pd.NaT,
        pd.NA,
        pd.Timestamp("1750-01-01"),
        pd.Timedelta(1),
    ],
    ids=stable,
)
def test_what_is_no_time_is_refused_with_what_was_found(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^time: ") as caught:
        to_ns(value, None)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("unit", ["", "m", "µs", "sec", "NS", 1])
def test_an_unknown_unit_is_refused(unit: Any) -> None:
    with pytest.raises(UsageError, match="wanted s, ms, us or ns"):
        to_ns(5, unit)
    with pytest.raises(UsageError, match="wanted s, ms, us or ns"):
        to_ns(5.0, unit)
