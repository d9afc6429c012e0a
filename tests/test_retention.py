"""Policies are kept, and take away what is over its time: by day, by measurement, never more."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import pytest
import structlog

from ingest.clock import ManualClock
from ingest.errors import InvalidNameError, PayloadError, StorageError
from ingest.paths import TableId, table_dir
from ingest.retention import (
    DAY_S,
    HOUR_S,
    MAX_EXECUTIONS,
    MAX_S,
    NoSuchPolicyError,
    Outcome,
    PolicyExistsError,
    PolicySpec,
    PolicyStore,
)
from ingest.turn import BusyError, my_turn
from ingest.upkeep import Upkeep, upkeep
from tests.query.conftest import write

DAY_US, HOUR_US = DAY_S * 1_000_000, HOUR_S * 1_000_000
#: Half past ten of a day.
DAY_0_US = 1_790_000_000_000_000 // DAY_US * DAY_US
NOW_US = DAY_0_US + 10 * DAY_US + 10 * HOUR_US + HOUR_US // 2

A_MONTH = PolicySpec("a month", "default", None, 30 * DAY_S, 7 * DAY_S)


@pytest.fixture
def policies(tmp_path: Path) -> Iterator[PolicyStore]:
    with contextlib.closing(PolicyStore(tmp_path / ".arc", ManualClock(NOW_US))) as store:
        yield store


# --- keeping -----------------------------------------------------------------------------------


def test_a_policy_is_as_it_was_given(policies: PolicyStore) -> None:
    made = policies.create(A_MONTH)
    assert made.spec == A_MONTH
    assert (made.created_us, made.updated_us, made.last) == (NOW_US, NOW_US, None)
    assert policies.get(made.id) == made
    assert policies.policies() == [made]


def test_policies_outlive_the_process_and_are_private(tmp_path: Path) -> None:
    with contextlib.closing(PolicyStore(tmp_path / ".arc")) as store:
        made = store.create(A_MONTH)
    with contextlib.closing(PolicyStore(tmp_path / ".arc")) as store:
        assert store.policies() == [made]
    assert (tmp_path / ".arc/retention.db").stat().st_mode & 0o777 == 0o600


def test_a_change_leaves_the_rest(policies: PolicyStore) -> None:
    made = policies.create(A_MONTH)
    changed = policies.update(made.id, keep_s=DAY_S, is_active=False)
    assert changed.spec == PolicySpec("a month", "default", None, DAY_S, 7 * DAY_S, False)
    assert policies.get(made.id) == changed


def test_a_number_is_never_given_twice(policies: PolicyStore) -> None:
    first = policies.create(A_MONTH)
    policies.remove(first.id)
    assert policies.create(A_MONTH).id > first.id
    for act in (policies.get, policies.remove, policies.update):
        with pytest.raises(NoSuchPolicyError, match=f"retention policy {first.id} not found"):
            act(first.id)
    with pytest.raises(NoSuchPolicyError):
        policies.executions(first.id, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "name of a policy: 0 characters"),
        ({"name": "x" * 129}, "name of a policy: 129 characters"),
        ({"name": "a\nb"}, "that can be printed"),
        ({"database": "../x"}, r"database '\.\./x'"),
        ({"measurement": "\0"}, "U\\+0000"),
        ({"keep_s": HOUR_S - 1}, "kept for 3599 s: wanted 3600"),
        ({"keep_s": MAX_S + 1}, "wanted 3600"),
        ({"buffer_s": -1}, "kept for -1 s longer"),
    ],
)
def test_what_makes_no_sense_is_refused(
    policies: PolicyStore, change: dict[str, Any], said: str
) -> None:
    made = policies.create(A_MONTH)
    with pytest.raises((PayloadError, InvalidNameError), match=said):
        policies.update(made.id, **change)
    assert policies.get(made.id) == made


def test_there_is_one_policy_for_the_same_rows_and_one_of_a_name(policies: PolicyStore) -> None:
    first = policies.create(A_MONTH)
    other = policies.create(PolicySpec("other", "default", "cpu", DAY_S))
    with pytest.raises(PolicyExistsError, match="'a month', is for database 'default' already"):
        policies.create(PolicySpec("third", "default", None, DAY_S))
    with pytest.raises(PolicyExistsError, match=f"policy {first.id} has the name 'a month'"):
        policies.update(other.id, name="a month")
    assert policies.update(other.id, keep_s=2 * DAY_S).spec.keep_s == 2 * DAY_S


def outcome(policy_id: int, rows: int, error: str | None = None) -> Outcome:
    return Outcome(policy_id, "", NOW_US, 7, False, rows, took_ms=1.5, error=error)


def test_runs_are_remembered_the_newest_first_and_not_for_ever(policies: PolicyStore) -> None:
    made, other = policies.create(A_MONTH), policies.create(PolicySpec("b", "b", None, DAY_S))
    policies.note(outcome(other.id, 77))
    for rows in range(MAX_EXECUTIONS + 2):
        policies.note(outcome(made.id, rows, "no disk" if rows == 1001 else None))
    found = policies.executions(made.id, 3)
    assert [run.rows for run in found] == [1001, 1000, 999]
    assert (found[0].status, found[0].error) == ("failed", "no disk")
    assert (found[1].status, found[1].error) == ("completed", None)
    assert (found[1].at_us, found[1].cutoff_us, found[1].took_ms) == (NOW_US, 7, 1.5)
    assert len(policies.executions(made.id, 10**6)) == MAX_EXECUTIONS
    assert policies.get(made.id).last == found[0]
    policies.remove(made.id)
    assert [run.rows for run in policies.executions(other.id, 9)] == [77]


def _create_many(state_dir: str, number: int) -> None:
    with contextlib.closing(PolicyStore(Path(state_dir))) as store:
        for count in range(10):
            store.create(PolicySpec(f"{number}-{count}", f"db{number}", f"m{count}", DAY_S))


def test_processes_share_the_file(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    started = [
        spawn.Process(target=_create_many, args=(str(tmp_path / ".arc"), number))
        for number in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    with contextlib.closing(PolicyStore(tmp_path / ".arc")) as store:
        assert len(store.policies()) == 20


def test_a_file_of_another_format_is_left_alone(tmp_path: Path) -> None:
    PolicyStore(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "retention.db")) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(StorageError, match="format 9, but this version of Arc reads format 1"):
        PolicyStore(tmp_path)


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "retention.db").write_bytes(b"x" * 4096)
    with pytest.raises(StorageError, match=r"retention\.db: file is not a database"):
        PolicyStore(tmp_path)


# --- applying ----------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Rows at noon of eleven days, n the number of the day, in two measurements and databases."""
    data = tmp_path / "data"
    noons = [DAY_0_US + day * DAY_US + DAY_US // 2 for day in range(-1, 10)]
    columns = {"time": [*noons, NOW_US], "n": [*range(-1, 10), 10]}
    write(data, {"m": "cpu", "columns": columns}, {"m": "mem", "columns": columns})
    write(data, {"m": "cpu", "columns": columns}, database="prod")
    return data


@contextlib.contextmanager
def opened(root: Path, now_us: int = NOW_US) -> Iterator[Upkeep]:
    with upkeep(root, structlog.get_logger(), clock=ManualClock(now_us)) as found:
        yield found


def days(root: Path, measurement: str, database: str = "default") -> list[Any]:
    folder = root / table_dir(TableId(database, measurement))
    rows = deltalake.DeltaTable(str(folder)).to_pyarrow_table()
    found: list[Any] = rows["n"].to_pylist()
    return sorted(found)


@pytest.mark.parametrize(
    ("keep_s", "buffer_s", "first"),
    [
        (3 * DAY_S, 0, 7),
        (3 * DAY_S, 2 * DAY_S, 5),
        (DAY_S, 0, 9),
        (21 * HOUR_S, 0, 10),  # noon of the day before is over it by the hour
        (22 * HOUR_S, 0, 9),
        (1_000 * DAY_S, 0, -1),
    ],
)
def test_rows_go_at_the_end_of_the_day_or_hour_that_they_are_in(
    root: Path, keep_s: int, buffer_s: int, first: int
) -> None:
    with opened(root) as found:
        policy = found.policies.create(PolicySpec("p", "default", "cpu", keep_s, buffer_s))
        dry = found.run_policy(policy.id, dry_run=True)
        assert days(root, "cpu") == list(range(-1, 11))
        done = found.run_policy(policy.id, dry_run=False)
    assert days(root, "cpu") == list(range(first, 11))
    for outcome in (dry, done):
        assert (outcome.rows, outcome.files_removed) == (first + 1, first + 1)
        assert (outcome.files_rewritten, outcome.error) == (0, None)
        assert outcome.measurements == (["cpu"] if first >= 0 else [])
        assert outcome.cutoff_us % HOUR_US == 0
        assert outcome.cutoff_us <= NOW_US - (keep_s + buffer_s) * 1_000_000


def test_the_policy_of_a_measurement_goes_before_that_of_its_database(root: Path) -> None:
    with opened(root) as found:
        found.policies.create(PolicySpec("all", "default", None, 3 * DAY_S))
        found.policies.create(PolicySpec("cpu", "default", "cpu", 6 * DAY_S))
        outcomes = found.run_policies()
    assert [(outcome.policy_name, outcome.rows) for outcome in outcomes] == [("all", 8), ("cpu", 5)]
    assert days(root, "cpu") == list(range(4, 11))
    assert days(root, "mem") == list(range(7, 11))
    assert days(root, "cpu", "prod") == list(range(-1, 11))


def test_a_policy_that_is_not_active_is_applied_by_hand_only(root: Path) -> None:
    with opened(root) as found:
        found.policies.create(PolicySpec("all", "default", None, 3 * DAY_S))
        own = found.policies.create(PolicySpec("cpu", "default", "cpu", DAY_S, 0, False))
        found.run_policies()
        assert days(root, "cpu") == list(range(-1, 11)), "nor does that of the database hold"
        assert days(root, "mem") == list(range(7, 11))
        assert found.run_policy(own.id, dry_run=False).rows == 10
    assert days(root, "cpu") == [9, 10]


def test_runs_that_took_nothing_away_are_remembered_only_if_somebody_asked(root: Path) -> None:
    with opened(root) as found:
        policy = found.policies.create(PolicySpec("all", "default", None, 3 * DAY_S))
        found.run_policy(policy.id, dry_run=True)
        assert found.policies.executions(policy.id, 9) == []
        found.run_policies()
        found.run_policies()
        assert [run.rows for run in found.policies.executions(policy.id, 9)] == [16]
        found.run_policy(policy.id, dry_run=False)
        assert [run.rows for run in found.policies.executions(policy.id, 9)] == [0, 16]


def test_the_next_day_is_taken_on_the_next_day(root: Path) -> None:
    with opened(root) as found:
        policy = found.policies.create(PolicySpec("all", "prod", None, 3 * DAY_S))
        found.run_policies()
    with opened(root, NOW_US + DAY_US) as found:
        assert [outcome.rows for outcome in found.run_policies()] == [1]
        assert [run.rows for run in found.policies.executions(policy.id, 9)] == [1, 8]


def test_a_table_that_cannot_be_read_does_not_stop_the_others(root: Path) -> None:
    log = root / "default/cpu/_delta_log/00000000000000000000.json"
    log.write_bytes(b"{")
    with opened(root) as found:
        policy = found.policies.create(PolicySpec("all", "default", None, 3 * DAY_S))
        (outcome,) = found.run_policies()
        assert outcome.error is not None
        assert outcome.error.startswith("default.cpu: ")
        assert (outcome.rows, outcome.measurements) == (8, ["mem"])
        last = found.policies.get(policy.id).last
    assert last is not None
    assert (last.status, last.rows) == ("failed", 8)


def test_only_one_at_a_time(root: Path) -> None:
    with opened(root) as found:
        policy = found.policies.create(PolicySpec("all", "default", None, 3 * DAY_S))
        with my_turn(root / ".arc"):
            assert found.run_policy(policy.id, dry_run=True).rows == 16
            with pytest.raises(BusyError):
                found.run_policy(policy.id, dry_run=False)
            with pytest.raises(BusyError):
                found.run_policies()
        assert days(root, "cpu") == list(range(-1, 11))
