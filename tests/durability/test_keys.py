"""A short round of requests that are sent several times, with a key, on the real thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture.keys import COPIES, QUICK_REQUESTS, Keys
from benchmarks.torture.program import Context


@pytest.mark.e2e
@pytest.mark.timeout(300)  # it takes less than 10 s; beside others at work, minutes
def test_one_copy_is_kept_of_requests_that_are_sent_several_times(tmp_path: Path) -> None:
    verdict = Keys().round(Context(folder=tmp_path, seed=1, quick=True))
    assert verdict.is_clean, verdict
    assert verdict.requests == QUICK_REQUESTS
    assert verdict.unknown == 0
    assert verdict.tallies["answers 204"] >= QUICK_REQUESTS * (COPIES + 1)
    assert verdict.tallies["other bodies 422"] > 0
