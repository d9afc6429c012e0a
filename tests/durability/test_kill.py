"""Short rounds of `kill -9`, of the whole daemon and of one worker, on the real thing."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from benchmarks.torture.kill import Kill, KillWorker
from benchmarks.torture.load import Load, Options, Outcome
from benchmarks.torture.program import Context

#: A round takes less than 10 s; beside others at work, minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def context_in(folder: Path, **settings: int | str) -> Context:
    """A short round."""
    return Context(folder=folder, quick=True, **settings)  # type: ignore[arg-type]


def test_what_was_acknowledged_survives_the_kill_of_everything_also_during_the_replay(
    tmp_path: Path,
) -> None:
    verdict = Kill().round(context_in(tmp_path, seed=1, rounds=2))
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
    assert verdict.tallies["kills in replay"] == 1


def test_the_oracle_sees_what_the_level_of_memory_loses(tmp_path: Path) -> None:
    context = context_in(tmp_path, durability="memory", workers=1)
    with context.daemon("--flush-age-s", "60") as daemon:
        daemon.start()
        daemon.wait_until_ready()
        with Load(daemon.address, context.ledger, Options()) as load:
            assert load.wait_for(acknowledged=50)
            daemon.kill_tree()
    verdict = context.judge()
    assert verdict.lost == verdict.acknowledged_rows > 0


def test_a_worker_that_is_killed_disturbs_no_other(tmp_path: Path) -> None:
    verdict = KillWorker().round(context_in(tmp_path, seed=3))
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0


def test_a_load_goes_on_over_the_end_of_a_daemon_and_knows_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    context = context_in(tmp_path, workers=1)
    ledger = context.ledger
    with context.daemon() as daemon:
        daemon.start()
        daemon.wait_until_ready()
        with Load(daemon.address, ledger, Options(keys=True, rate=10_000.0)) as load:
            assert load.wait_for(acknowledged=100)
            pids = {daemon.supervisor_pid, *daemon.workers.values()}
            daemon.kill_tree()
            assert len(pids) == 2
            assert not any(psutil.pid_exists(pid) for pid in pids)
            daemon.start()
            daemon.wait_until_ready()
            before = ledger.outcomes()[Outcome.ACKNOWLEDGED]
            load.address = daemon.address
            assert load.wait_for(acknowledged=before + 100)
        assert daemon.stop() == 0
    assert any(len(request.statuses) > 1 for request in ledger.requests)
    verdict = context.judge()
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
