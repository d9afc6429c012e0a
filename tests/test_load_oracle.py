"""The oracle catches every kind of loss, copy and damage, each in a run that has just that one."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from benchmarks.data import WORKLOADS
from benchmarks.load.client import Outcome
from benchmarks.load.fake_daemon import FAULTY_REQUEST, FakeStore
from benchmarks.load.fake_decode import decode
from benchmarks.load.oracle import HOUR_GLOB, Verdict, verify
from benchmarks.load.payloads import Payloads, Times
from benchmarks.load.spec import LoadSpec

ROWS = 40
REQUESTS = 50
#: But for `logs`, which is no columnar body.
WORKLOAD_NAMES = sorted(WORKLOADS.keys() - {"logs"})
#: 2026-01-15T10:59:59.996Z: some rows of a run lie in the next hour.
BEFORE_THE_HOUR_US = 1_768_474_799_996_000


@functools.cache
def spec_of(workload: str, processes: int = 1, t0_us: int = 1_768_473_000_000_000) -> LoadSpec:
    """A small run."""
    return LoadSpec(
        workload=workload,
        rows=ROWS,
        columns=WORKLOADS[workload].num_columns,
        connections=processes,
        processes=processes,
        database="bench_test",
        t0_us=t0_us,
        bodies=18,
    )


@functools.cache
def payloads_of(spec: LoadSpec, process: int) -> Payloads:
    """Bodies, encoded once for all tests."""
    return Payloads(spec, process, "localhost")


def store_run(
    data_dir: Path, spec: LoadSpec, fault: str = "none", requests: int = REQUESTS
) -> NDArray[np.uint8]:
    """Store a run with a fault; the outcomes say that all of it was acknowledged."""
    store, times = FakeStore(data_dir, fault), Times(spec.rows)
    for request in range(requests):
        payloads = payloads_of(spec, request % spec.processes)
        _, fixed, tail = payloads.pieces(request, times)
        measurement, table = decode(bytes(fixed) + bytes(tail))
        store.add(spec.database, measurement, table, request)
    store.flush()
    return np.full(requests, Outcome.ACKNOWLEDGED, dtype=np.uint8)


def judge(data_dir: Path, fault: str, workload: str = "c") -> Verdict:
    """The verdict on a run of which every request was acknowledged."""
    spec = spec_of(workload)
    return verify(spec, store_run(data_dir, spec, fault), data_dir)


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_a_run_that_is_all_there_has_no_fault(tmp_path: Path, workload: str) -> None:
    verdict = judge(tmp_path, "none", workload)
    assert verdict.faults() == {}
    assert verdict.stored == verdict.acknowledged == verdict.sent == REQUESTS * ROWS
    assert verdict.compared == verdict.stored


@pytest.mark.parametrize("workload", ["c", "a"])
def test_a_run_of_several_processes_is_read_as_one(tmp_path: Path, workload: str) -> None:
    spec = spec_of(workload, processes=3)
    verdict = verify(spec, store_run(tmp_path, spec), tmp_path)
    assert verdict.faults() == {}
    assert verdict.stored == REQUESTS * ROWS
    assert verdict.compared > 0


def test_a_run_over_two_hours_lies_in_two_folders(tmp_path: Path) -> None:
    spec = spec_of("a", t0_us=BEFORE_THE_HOUR_US)
    outcomes = store_run(tmp_path, spec, requests=9 * 8)
    hours = {path.parent.name for path in (tmp_path / spec.database).glob(HOUR_GLOB)}
    assert hours == {"10", "11"}
    assert verify(spec, outcomes, tmp_path).faults() == {}


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_a_lost_request_is_missing(tmp_path: Path, workload: str) -> None:
    assert judge(tmp_path, "lost", workload).faults() == {"missing": ROWS}


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_a_lost_row_is_missing_and_tears_its_request(tmp_path: Path, workload: str) -> None:
    assert judge(tmp_path, "lost-row", workload).faults() == {"missing": 1, "torn_requests": 1}


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_a_request_stored_twice_is_doubled(tmp_path: Path, workload: str) -> None:
    assert judge(tmp_path, "doubled", workload).faults() == {"doubled": ROWS}


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_a_doubled_row_does_not_hide_a_lost_one(tmp_path: Path, workload: str) -> None:
    verdict = judge(tmp_path, "doubled-and-lost", workload)
    assert verdict.stored == verdict.acknowledged
    assert verdict.faults() == {"missing": 1, "doubled": 1, "torn_requests": 1}


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_a_row_that_nobody_sent_is_a_ghost(tmp_path: Path, workload: str) -> None:
    assert judge(tmp_path, "ghost", workload).faults() == {"ghost": 1}


def test_rows_of_a_request_that_was_never_sent_are_ghosts(tmp_path: Path) -> None:
    spec = spec_of("c")
    outcomes = store_run(tmp_path, spec)
    outcomes[7] = Outcome.NEVER_SENT
    assert verify(spec, outcomes, tmp_path).faults() == {"ghost": ROWS}


def test_a_host_of_no_workload_is_a_ghost(tmp_path: Path) -> None:
    spec = spec_of("a")
    outcomes = store_run(tmp_path, spec)
    path = next((tmp_path / spec.database).glob(HOUR_GLOB))
    table = pq.read_table(path)
    names = ["stranger", None, *table.column("host").to_pylist()[2:]]
    pq.write_table(table.set_column(1, "host", [names]), path)
    faults = verify(spec, outcomes, tmp_path).faults()
    assert (faults["ghost"], faults["missing"]) == (2, 2)


def test_half_of_an_unanswered_request_is_torn(tmp_path: Path) -> None:
    spec = spec_of("c")
    outcomes = store_run(tmp_path, spec, "torn")
    outcomes[FAULTY_REQUEST] = Outcome.UNKNOWN
    verdict = verify(spec, outcomes, tmp_path)
    assert verdict.faults() == {"torn_requests": 1}
    assert verdict.unknown_stored == ROWS // 2


@pytest.mark.parametrize("fault", ["none", "lost"])
def test_an_unanswered_request_may_be_stored_or_not(tmp_path: Path, fault: str) -> None:
    spec = spec_of("c")
    outcomes = store_run(tmp_path, spec, fault)
    outcomes[FAULTY_REQUEST] = Outcome.UNKNOWN
    assert verify(spec, outcomes, tmp_path).faults() == {}


def test_a_refused_request_must_not_be_stored(tmp_path: Path) -> None:
    spec = spec_of("c")
    outcomes = store_run(tmp_path, spec)
    outcomes[3] = Outcome.REFUSED
    assert verify(spec, outcomes, tmp_path).faults() == {"refused_stored": ROWS}


@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_values_that_changed_rows_are_wrong(tmp_path: Path, workload: str) -> None:
    verdict = judge(tmp_path, "wrong-value", workload)
    assert set(verdict.faults()) == {"wrong_values"}
    assert verdict.wrong_values > ROWS // 2
    last = ("usage_idle", "usage_user", "context_switches")
    assert any(name in verdict.examples[0] for name in last)


def test_rows_under_another_measurement_are_wrong(tmp_path: Path) -> None:
    assert judge(tmp_path, "wrong-measurement").faults() == {"wrong_values": ROWS}


def test_rows_in_the_folder_of_another_hour_are_misplaced(tmp_path: Path) -> None:
    assert judge(tmp_path, "wrong-hour").faults() == {"misplaced": REQUESTS * ROWS}


def test_rows_out_of_order_are_told(tmp_path: Path) -> None:
    verdict = judge(tmp_path, "unsorted")
    assert verdict.faults() == {"unsorted_files": verdict.files}


def test_a_torn_file_is_unreadable_and_its_rows_are_missing(tmp_path: Path) -> None:
    verdict = judge(tmp_path, "torn-file")
    assert verdict.unreadable_files == verdict.files > 0
    assert verdict.missing == REQUESTS * ROWS


def test_rows_that_are_stored_nowhere_are_missing(tmp_path: Path) -> None:
    outcomes = np.full(20, Outcome.ACKNOWLEDGED, dtype=np.uint8)
    assert verify(spec_of("c"), outcomes, tmp_path).faults() == {"missing": 20 * ROWS}


def test_files_that_are_not_in_an_hour_folder_are_left_alone(tmp_path: Path) -> None:
    spec = spec_of("c")
    outcomes = store_run(tmp_path, spec)
    stray = tmp_path / spec.database / "cpu" / "_delta_log" / "x.checkpoint.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"not for us")
    assert verify(spec, outcomes, tmp_path).faults() == {}


def test_examples_say_which_request_it_was(tmp_path: Path) -> None:
    verdict = judge(tmp_path, "lost")
    assert verdict.examples == [
        f"request {FAULTY_REQUEST} (acknowledged): 0 of {ROWS} rows found, 0 copies"
    ]
