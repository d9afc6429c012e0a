"""Units told from magnitudes, and exact conversion, held against Python's own integers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import TimeError
from ingest.timestamps import (
    CLOCK_SET,
    MAX_TIME_S,
    MIN_TIME_S,
    EpochTimes,
    TimeUnit,
    infer_unit,
    to_epoch_us,
    unit_of,
)

PER_SECOND = {
    TimeUnit.H: Fraction(1, 3600),
    TimeUnit.M: Fraction(1, 60),
    TimeUnit.S: Fraction(1),
    TimeUnit.MS: Fraction(10**3),
    TimeUnit.US: Fraction(10**6),
    TimeUnit.NS: Fraction(10**9),
}
UNITS = tuple(TimeUnit)
WHERE = "column 'time'"


def convert(times: list[Any], unit: TimeUnit | None = None) -> EpochTimes:
    """Convert a column given as Python numbers; its range is checked on the way."""
    dtype = np.float64 if any(isinstance(time, float) for time in times) else np.int64
    found = to_epoch_us(np.array(times, dtype=dtype), unit, WHERE)
    assert found.time_us.dtype == np.int64
    assert [found.min_us, found.max_us] == [int(found.time_us.min()), int(found.time_us.max())]
    return found


def stored(times: list[Any], unit: TimeUnit | None = None) -> list[int]:
    """The converted column as Python integers."""
    found: list[int] = convert(times, unit).time_us.tolist()
    return found


# ---------------------------------------------------------------------------------- the unit


@pytest.mark.parametrize(
    ("magnitude", "unit"),
    [
        (0, TimeUnit.S),
        (10**10 - 1, TimeUnit.S),
        (10**10, TimeUnit.MS),
        (10**13 - 1, TimeUnit.MS),
        (10**13, TimeUnit.US),
        (10**16 - 1, TimeUnit.US),
        (10**16, TimeUnit.NS),
        (2**63, TimeUnit.NS),
    ],
)
def test_the_magnitude_of_a_value_tells_its_unit_to_the_last_digit(
    magnitude: int, unit: TimeUnit
) -> None:
    assert unit_of(magnitude) is unit
    if magnitude < 2**63:
        assert infer_unit(np.array([magnitude]), WHERE) is unit
    assert infer_unit(np.array([-magnitude]), WHERE) is unit


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([1_768_473_000], TimeUnit.S),
        ([1_768_473_000_000], TimeUnit.MS),
        ([1_768_473_000_000_000], TimeUnit.US),
        ([1_768_473_000_000_000_000], TimeUnit.NS),
        ([0, -5, CLOCK_SET - 1], TimeUnit.S),
        ([0, 1_768_473_000_000, -7], TimeUnit.MS),
        ([CLOCK_SET - 1, 1_768_473_000_000_000], TimeUnit.US),
        ([CLOCK_SET, 1_768_473_000], TimeUnit.S),
        ([-1_768_473_000_000, 1_768_473_000_000], TimeUnit.MS),
        ([-(2**63), 2**63 - 1], TimeUnit.NS),
        ([0.5, 1_768_473_000.25], TimeUnit.S),
        ([-1.5, 1_768_473_000_000.5], TimeUnit.MS),
    ],
)
def test_the_whole_column_tells_the_unit_and_unset_clocks_do_not_vote(
    times: list[Any], unit: TimeUnit
) -> None:
    assert infer_unit(np.array(times), WHERE) is unit


@pytest.mark.parametrize(
    ("times", "first", "second"),
    [
        (
            [1_768_473_000, 5, 1_768_473_000_000],
            "1768473000 in row 0 looks like s",
            "row 2 like ms",
        ),
        ([10**16, 7, 10**16 - 1], "9999999999999999 in row 2 looks like us", "row 0 like ns"),
        ([-CLOCK_SET, 10**10], "-100000000 in row 0 looks like s", "10000000000 in row 1 like ms"),
        ([-(2**63), 10**15], "1000000000000000 in row 1 looks like us", "-9223372036854775808 in"),
        ([1.768e9, 1.768e12], "1768000000.0 in row 0 looks like s", "1768000000000.0 in row 1"),
    ],
)
def test_two_units_in_one_column_are_refused_naming_two_values(
    times: list[Any], first: str, second: str
) -> None:
    with pytest.raises(TimeError) as caught:
        convert(times)
    assert str(caught.value).startswith(f"{WHERE}: {first}")
    assert second in str(caught.value)
    assert "x-arc-time-unit" in str(caught.value)


def test_a_named_unit_is_not_questioned() -> None:
    times = [1_768_473_000, 5, 1_768_473_000_000]
    assert stored(times, TimeUnit.MS) == [time * 1000 for time in times]
    assert stored([1], TimeUnit.S) == [1_000_000]
    assert stored([1_768_473_000], TimeUnit.NS) == [1_768_473]


# ------------------------------------------------------------------------------ the conversion


@given(st.data(), st.sampled_from(UNITS))
def test_integers_convert_exactly_and_nanoseconds_round_towards_the_past(
    data: st.DataObject, unit: TimeUnit
) -> None:
    low, high = int(MIN_TIME_S * PER_SECOND[unit]), int(MAX_TIME_S * PER_SECOND[unit]) - 1
    values = st.integers(low, min(high, 2**63 - 1)) | st.integers(-2000, 2000)
    times = data.draw(st.lists(values, min_size=1, max_size=20))
    assert stored(times, unit) == [time * 10**6 // PER_SECOND[unit] for time in times]


@given(st.data(), st.sampled_from(UNITS))
def test_floats_keep_their_fraction_to_the_microsecond(data: st.DataObject, unit: TimeUnit) -> None:
    per_second = PER_SECOND[unit]
    end = min(float(MAX_TIME_S * per_second), 2.0**63)
    bounds = float(MIN_TIME_S * per_second), math.nextafter(end, 0)
    values = st.floats(*bounds) | st.floats(-2000, 2000) | st.integers(-2000, 2000).map(float)
    times = data.draw(st.lists(values, min_size=1, max_size=20))
    for found, time in zip(stored(times, unit), times, strict=True):
        exact = Fraction(time) * 10**6 / per_second
        if per_second >= 10**6:
            assert found == math.floor(exact)
        else:  # one rounding of the product, one to the nearest
            assert abs(found - exact) <= Fraction(1, 2) + Fraction(math.ulp(float(exact)))


@pytest.mark.parametrize(
    ("times", "unit", "expected"),
    [
        ([1_768_473_000.000_001], TimeUnit.S, [1_768_473_000_000_001]),
        ([1_768_473_000_000.999], TimeUnit.MS, [1_768_473_000_000_999]),
        ([1_768_473_000_000_000.5], TimeUnit.US, [1_768_473_000_000_000]),
        ([-0.5], TimeUnit.US, [-1]),
        ([-1.0, -1000.0, -1001.0, 999.0], TimeUnit.NS, [-1, -1, -2, 0]),
        ([-1, -1000, -1001, 999], TimeUnit.NS, [-1, -1, -2, 0]),
        ([1.699_999_999_999_999_744e18], TimeUnit.NS, [1_699_999_999_999_999]),
        ([9.053_229_942_078_54e18], TimeUnit.NS, [9_053_229_942_078_539]),
        ([-1, 0, 1], TimeUnit.S, [-1_000_000, 0, 1_000_000]),
    ],
)
def test_conversions_that_round_go_the_documented_way(
    times: list[Any], unit: TimeUnit, expected: list[int]
) -> None:
    assert stored(times, unit) == expected


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", [int, float])
def test_the_first_and_the_last_year_are_stored_and_their_neighbours_refused(
    unit: TimeUnit, kind: type
) -> None:
    first, end = int(MIN_TIME_S * PER_SECOND[unit]), int(MAX_TIME_S * PER_SECOND[unit])
    end = min(end, 2**63)
    last = end - 1 if kind is int else math.nextafter(end, 0)
    assert stored([kind(first)], unit) == [MIN_TIME_S * 10**6]
    before = first - 1 if kind is int else math.nextafter(first, -math.inf)
    with pytest.raises(TimeError, match=r"row 1: .* is outside the years 1900 to 2262"):
        convert([kind(first), before], unit)
    if unit is not TimeUnit.NS or kind is float:
        assert stored([last], unit)[0] < MAX_TIME_S * 10**6
        with pytest.raises(TimeError, match=rf"row 0: .* {unit} is outside the years 1900 to 2262"):
            convert([kind(end), kind(first)], unit)
    else:  # nanoseconds end with int64, in April 2262
        assert stored([2**63 - 1], unit) == [9_223_372_036_854_775]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_no_number_is_no_time(bad: float) -> None:
    with pytest.raises(TimeError, match=f"^{WHERE}, row 2: {bad} is not a time$"):
        convert([1.0, 2.0, bad, bad])


@pytest.mark.parametrize("times", [[-(2**63)], [2**63 - 1], [-1e300], [1e300], [2**53 + 0.0]])
@pytest.mark.parametrize("unit", [None, *UNITS])
def test_no_value_overflows_whatever_the_unit(times: list[Any], unit: TimeUnit | None) -> None:
    try:
        found = stored(times, unit)
    except TimeError:
        found = [0]
    assert MIN_TIME_S * 10**6 <= found[0] < MAX_TIME_S * 10**6


def test_known_bounds_are_used_instead_of_a_look() -> None:
    times = np.array([1_768_473_000_001, 1_768_473_000_000])
    found = to_epoch_us(times, None, WHERE, (1_768_473_000_000, 1_768_473_000_001))
    assert (found.min_us, found.max_us) == (1_768_473_000_000_000, 1_768_473_000_001_000)
    assert found.time_us.tolist() == [1_768_473_000_001_000, 1_768_473_000_000_000]


def test_the_result_lies_in_the_memory_of_the_times() -> None:
    for dtype in (np.int64, np.float64):
        times = np.array([1_768_473_000, 1_768_473_001], dtype=dtype)
        found = to_epoch_us(times, None, WHERE)
        assert np.shares_memory(times, found.time_us)
