"""The memory budget is never exceeded by what clients ask for."""

from __future__ import annotations

import pytest

from ingest.budget import MemoryBudget
from ingest.errors import OverloadedError


def test_bytes_that_do_not_fit_are_refused_and_not_taken() -> None:
    budget = MemoryBudget(100)
    budget.take(60)
    with pytest.raises(OverloadedError, match="60 of 100 bytes are taken, 41 more"):
        budget.take(41)
    assert budget.taken_bytes == 60
    budget.take(40)
    assert budget.pressure == 1.0


def test_bytes_given_back_can_be_taken_again() -> None:
    budget = MemoryBudget(100)
    budget.take(100)
    budget.give_back(30)
    budget.take(30)
    assert budget.taken_bytes == 100


def test_bytes_that_exist_already_count_even_over_the_limit() -> None:
    budget = MemoryBudget(100)
    budget.force(150)
    with pytest.raises(OverloadedError):
        budget.take(1)
    budget.give_back(150)
    assert budget.taken_bytes == 0
