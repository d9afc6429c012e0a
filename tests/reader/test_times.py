"""Moments in every form that people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.reader import UsageError
from arc.reader.times import MAX_US, MIN_US, iso, to_us

NINE_US = 1_795_165_200_000_000


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 20, 9),
        datetime(2026, 11, 20, 9, tzinfo=UTC),
        datetime(2026, 11, 20, 11, tzinfo=timezone(timedelta(hours=2))),
        "2026-11-20T09:00",
        "2026-11-20 09:00:00.000000",
        "2026-11-20T09:00Z",
        "2026-11-20T11:00:00+02:00",
        np.datetime64("2026-11-20T09"),
        np.datetime64("2026-11-20T09:00:00.000000000"),
        pd.Timestamp("2026-11-20T09:00"),
        pd.Timestamp("2026-11-20T11:00+02:00"),
        NINE_US,
        np.int64(NINE_US),
    ],
)
def test_all_forms_of_one_moment_are_the_same(value: Any) -> None:
    assert to_us(value, "start") == NINE_US


def test_a_day_is_its_first_moment() -> None:
    assert to_us(date(2026, 11, 20), "start") == NINE_US - 9 * 3_600_000_000
    assert to_us("2026-11-20", "start") == NINE_US - 9 * 3_600_000_000


@pytest.mark.parametrize(
    ("ns", "us"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (-1, 0), (-1000, -1)]
)
def test_nanoseconds_become_the_next_microsecond(ns: int, us: int) -> None:
    assert to_us(np.datetime64(ns, "ns"), "start") == us
    assert to_us(pd.Timestamp(ns), "start") == us


@pytest.mark.parametrize(
    "value",
    [
        *(True, 1.5, None, b"x", "", "noon", "2026-11-20T09:00:00.0000001", "2026-13-01"),
        *(
            np.datetime64("NaT", "us"),
            pd.NaT,
            np.datetime64(10**9, "Y"),
            np.datetime64("9999999", "D"),
        ),
        *(2**63, -(2**62), np.datetime64("10000-01-01"), np.datetime64("0000-12-31")),
    ],
)
def test_what_is_no_moment_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^end: "):
        to_us(value, "end")


def test_an_exact_moment_is_no_nanosecond() -> None:
    assert to_us(np.datetime64(1000, "ns"), "where", is_exact=True) == 1
    with pytest.raises(UsageError, match="no whole number of microseconds"):
        to_us(np.datetime64(1001, "ns"), "where", is_exact=True)


@given(st.integers(MIN_US, MAX_US))
def test_a_moment_for_sql_reads_back(us: int) -> None:
    text = iso(us)
    assert len(text) == len("2026-11-20 09:00:00.000000+00")
    assert to_us(text.replace("+00", "+00:00"), "text") == us
