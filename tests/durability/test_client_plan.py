"""What producers log follows from the seed, and a ledger knows each row by what became of it."""

from __future__ import annotations

import itertools

from benchmarks.torture.client_plan import (
    Burst,
    Life,
    Verb,
    bursts,
    columns_of,
    enter,
    rows_of,
    stated_times,
)
from benchmarks.torture.load import Ledger, Outcome

BEGUN = 20_000


def some_bursts(seed: int = 1, client: int = 3, count: int = 200) -> list[Burst]:
    return list(itertools.islice(bursts(seed, client), count))


def ledger_of(accepted: int, begun: int = BEGUN) -> Ledger:
    ledger = Ledger()
    enter(ledger, 1, Life(3, begun, accepted, started_us=10, ended_us=20), done_us=30)
    return ledger


def rows_by_outcome(ledger: Ledger) -> dict[Outcome, int]:
    totals = dict.fromkeys(Outcome, 0)
    for request in ledger.requests:
        totals[request.outcome] += request.count
    return totals


def test_a_seed_and_a_client_give_the_same_bursts_again() -> None:
    assert some_bursts() == some_bursts()
    assert some_bursts() != some_bursts(seed=2)
    assert some_bursts() != some_bursts(client=4)


def test_bursts_follow_each_other_without_a_gap_and_use_every_verb() -> None:
    found = some_bursts()
    for one, following in itertools.pairwise(found):
        assert following.request.first == one.request.first + one.request.count
    assert {burst.verb for burst in found} == set(Verb)


def test_rows_and_columns_of_a_burst_are_the_same_values() -> None:
    for burst in some_bursts(count=40):
        columns = {name: list(values) for name, values in columns_of(burst.request).items()}
        rows = rows_of(burst.request)
        assert len(rows) == burst.request.count
        assert columns == {name: [row[name] for row in rows] for name in columns}


def test_times_are_those_that_the_oracle_will_want() -> None:
    per_us = {"us": 1, "ns": 1_000, "ms": 1 / 1_000}
    for burst in some_bursts(count=40):
        request, times = burst.request, stated_times(burst.request)
        if times is None:
            assert request.base_us is None
            continue
        last_us = request.base_us + (request.count - 1) * request.step_us  # type: ignore[operator]
        assert times[0] == request.base_us * per_us[request.unit]  # type: ignore[operator]
        assert times[-1] == last_us * per_us[request.unit]


def test_of_a_client_that_lived_all_rows_are_wanted() -> None:
    # In the middle of a burst of calls a client stops when it is told to.
    begun = next(b.request.first + 2 for b in some_bursts() if b.verb.is_by_row and b.request.first)
    ledger = ledger_of(accepted=begun, begun=begun)
    assert rows_by_outcome(ledger)[Outcome.ACKNOWLEDGED] == begun
    assert rows_by_outcome(ledger)[Outcome.UNKNOWN] == 0


def test_of_a_client_that_was_killed_each_later_row_may_be_stored_alone() -> None:
    accepted = next(
        b.request.first + 1 for b in some_bursts() if b.verb is Verb.LOG and b.request.count > 2
    )
    ledger = ledger_of(accepted)
    assert rows_by_outcome(ledger)[Outcome.ACKNOWLEDGED] == accepted
    firsts = [request.first for request in ledger.requests]
    assert firsts == sorted(firsts)
    total = 0
    for request in ledger.requests:
        assert request.first == total
        total += request.count
    assert total >= BEGUN
    following = next(r for r in ledger.requests if r.first == accepted)
    assert (following.count, following.outcome) == (1, Outcome.UNKNOWN)


def test_columns_are_wanted_as_a_whole_or_not_at_all() -> None:
    whole = next(b.request for b in some_bursts() if not b.verb.is_by_row)
    ledger = ledger_of(accepted=whole.first, begun=whole.first + whole.count)
    last = ledger.requests[-1]
    assert (last.first, last.count, last.outcome) == (whole.first, whole.count, Outcome.UNKNOWN)


def test_a_row_that_states_no_time_was_taken_while_its_client_lived() -> None:
    ledger = ledger_of(BEGUN)
    by_row = {b.request.first: b.verb.is_by_row for b in some_bursts()}
    for request in ledger.requests:
        assert request.sent_us == 10
        assert request.done_us == (20 if by_row.get(request.first, True) else 30)
