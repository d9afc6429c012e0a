"""Short rounds of the producer client through kills, cuts and a full spill, on the real thing."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from benchmarks.torture.client import ClientControl, ClientRounds
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context, Program

#: A round takes some 5 s; beside others at work, minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def one_round(program: Program, folder: Path, number: int) -> Verdict:
    """A round by its number, from 0; it leaves no process behind."""
    before = set(psutil.Process().children())
    context = Context(folder=folder, seed=1, first_round=number, workers=1, quick=True)
    verdict = program.round(context)
    assert verdict.is_clean, verdict
    assert verdict.acknowledged_rows > 0
    assert set(psutil.Process().children()) == before
    return verdict


def test_accepted_rows_survive_the_kill_of_the_daemon(tmp_path: Path) -> None:
    assert one_round(ClientRounds(), tmp_path, 4).tallies["daemon kills"] >= 1


def test_accepted_rows_survive_every_kind_of_cut_and_none_is_stored_twice(tmp_path: Path) -> None:
    tallies = one_round(ClientRounds(), tmp_path, 1).tallies
    assert tallies["cuts: answer"] >= 1
    assert tallies["cuts: black hole"] == 1
    assert tallies["requests sent again"] >= 1
    assert tallies["repeats that the daemon knew"] >= 1


def test_a_spill_at_its_bound_makes_calls_wait_and_loses_nothing(tmp_path: Path) -> None:
    tallies = one_round(ClientRounds(), tmp_path, 6).tallies
    assert tallies["full: the bound of the spill"] == 1


def test_a_full_disk_makes_calls_wait_and_loses_nothing(tmp_path: Path) -> None:
    tallies = one_round(ClientRounds(), tmp_path, 2).tallies
    if "full: a disk" not in tallies:
        pytest.skip("no tmpfs can be mounted here; the bound stood for it")


@pytest.mark.parametrize("number", [3, 7], ids=["block", "spill"])
def test_what_was_safe_survives_the_kill_of_its_producer(tmp_path: Path, number: int) -> None:
    tallies = one_round(ClientRounds(), tmp_path, number).tallies
    assert tallies["producers killed"] >= 1
    assert tallies["rows safe before a kill"] > 0


CONTROLS = ("killed", "drop-oldest", "keyless", "spill-gone")


@pytest.mark.parametrize("number", range(4), ids=CONTROLS)
def test_a_client_that_promises_less_is_found_to_lose_or_double_rows(
    tmp_path: Path, number: int
) -> None:
    tallies = one_round(ClientControl(), tmp_path, number).tallies
    assert sum(tallies.values()) > 0
