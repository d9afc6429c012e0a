"""Which answers settle a batch, and how long the next attempt waits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.client.retry import MAX_RETRY_AFTER_S, RETRIED, Backoff, Verdict, judge
from arc.client.transport import Reply

ACCEPTED, RETRY, REFUSED = Verdict.ACCEPTED, Verdict.RETRY, Verdict.REFUSED


class Always(random.Random):
    """Draws the same share of every range."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def random(self) -> float:
        return self._share


@pytest.mark.parametrize(
    ("status", "without", "with_retry_after"),
    [
        (100, REFUSED, REFUSED),
        (199, REFUSED, REFUSED),
        (200, ACCEPTED, ACCEPTED),
        (204, ACCEPTED, ACCEPTED),
        (299, ACCEPTED, ACCEPTED),
        (300, REFUSED, REFUSED),
        (307, REFUSED, REFUSED),
        (400, REFUSED, REFUSED),
        (401, REFUSED, REFUSED),
        (403, REFUSED, REFUSED),
        (404, REFUSED, REFUSED),
        (405, REFUSED, REFUSED),
        (408, RETRY, RETRY),
        (409, REFUSED, RETRY),
        (413, REFUSED, REFUSED),
        (415, REFUSED, REFUSED),
        (422, REFUSED, REFUSED),
        (425, REFUSED, REFUSED),
        (429, RETRY, RETRY),
        (500, REFUSED, REFUSED),
        (501, REFUSED, REFUSED),
        (502, RETRY, RETRY),
        (503, RETRY, RETRY),
        (504, RETRY, RETRY),
        (505, REFUSED, REFUSED),
        (599, REFUSED, REFUSED),
        (999, REFUSED, REFUSED),
    ],
)
def test_each_status_has_its_verdict(
    status: int, without: Verdict, with_retry_after: Verdict
) -> None:
    assert judge(Reply(status, "", None)) is without
    assert judge(Reply(status, "", 0.0)) is with_retry_after
    assert judge(Reply(status, "", 7.0)) is with_retry_after


@given(st.integers(0, 999))
def test_only_2xx_is_accepted_and_only_the_listed_ones_are_retried(status: int) -> None:
    verdict = judge(Reply(status, "", None))
    assert (verdict is ACCEPTED) == (status // 100 == 2)
    assert (verdict is RETRY) == (status in RETRIED)


@pytest.mark.parametrize(
    ("attempt", "ceiling_s"), [(0, 0.1), (1, 0.2), (2, 0.4), (6, 6.4), (7, 10.0), (10**9, 10.0)]
)
def test_the_upper_end_doubles_up_to_the_longest(attempt: int, ceiling_s: float) -> None:
    assert Backoff(rng=Always(0.0)).delay_s(attempt) == 0.0
    assert Backoff(rng=Always(0.5)).delay_s(attempt) == pytest.approx(ceiling_s / 2)
    assert Backoff(rng=Always(1.0)).delay_s(attempt) == pytest.approx(ceiling_s)


@given(
    st.floats(1e-6, 1e3),
    st.floats(1e-6, 1e3),
    st.integers(0, 10**6),
    st.one_of(st.none(), st.floats(0.0, 1e12)),
    st.integers(),
)
def test_delays_stay_within_their_bounds(
    first_s: float, longest_s: float, attempt: int, retry_after_s: float | None, seed: int
) -> None:
    backoff = Backoff(first_s, longest_s, random.Random(seed))
    delay_s = backoff.delay_s(attempt, retry_after_s)
    at_least_s = min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    assert at_least_s <= delay_s <= at_least_s + longest_s
    if attempt == 0:
        assert delay_s <= at_least_s + min(first_s, longest_s)


@pytest.mark.parametrize(
    ("asked_s", "given_s"), [(0.0, 0.0), (2.5, 2.5), (300.0, 300.0), (1e9, 300.0)]
)
def test_retry_after_is_a_lower_bound_up_to_five_minutes(asked_s: float, given_s: float) -> None:
    assert Backoff(rng=Always(0.0)).delay_s(0, asked_s) == given_s
    assert Backoff(rng=Always(1.0)).delay_s(0, asked_s) == pytest.approx(given_s + 0.1)


def test_clients_that_are_told_the_same_time_come_back_at_different_ones() -> None:
    delays_s = {Backoff(rng=random.Random(seed)).delay_s(3, 5.0) for seed in range(20)}
    assert len(delays_s) == 20


def test_two_backoffs_draw_different_delays() -> None:
    first, second = Backoff(), Backoff()
    assert [first.delay_s(5) for _ in range(4)] != [second.delay_s(5) for _ in range(4)]
