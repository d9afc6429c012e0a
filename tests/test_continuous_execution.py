"""Continuous queries on a real shard: windows by the clock and by hand, each once, crashes too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from arc import continuous
from ingest.clock import ManualClock
from ingest.continuous import Query, Window
from ingest.continuous_store import NoSuchQueryError, QueryExistsError
from ingest.errors import OverloadedError
from ingest.query.errors import QueryError
from ingest.retention import DAY_S, PolicyExistsError, PolicySpec, open_policies
from ingest.turn import my_turn
from ingest.upkeep import StoppedError
from tests.support.continuous import BASE_S, DELAY_S, Killed, Place, dying, place


@pytest.fixture
def clock() -> ManualClock:
    """Half a minute into a window."""
    return ManualClock((BASE_S + 30) * 1_000_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def here(root: Path, clock: ManualClock) -> Iterator[Place]:
    with place(root, clock) as made:
        yield made


def first_minute(query: Query, now_us: int) -> list[Window]:
    return [Window(BASE_S * 1_000_000, (BASE_S + 60) * 1_000_000)]


# --- by the clock ------------------------------------------------------------------------------


def test_a_window_is_executed_once_it_is_closed_and_late_rows_had_their_time(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1, 2])  # in memory: nothing is flushed before it is asked for
    here.write(30, [10], host="b")
    here.create()
    clock.move(30 + DELAY_S - 0.001)
    here.turn()
    assert here.get().last is None
    here.write(59, [100])
    clock.move(0.001)
    here.turn()
    assert here.rows() == [(0, "a", 103, 3), (0, "b", 10, 1)]
    done = here.get()
    assert (done.done_us, done.next_us) == ((BASE_S + 60) * 1_000_000,) * 2
    assert done.last is not None
    assert (done.last.status, done.last.rows, done.last.error) == ("completed", 2, None)
    here.turn()
    assert here.get().last == done.last


def test_missed_windows_are_caught_up_the_oldest_first_and_so_many_in_a_turn(
    here: Place, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "WINDOWS_PER_TURN", 3)
    here.create(interval="1s")
    here.write(0, [1], host="b")
    clock.move(5 + DELAY_S)
    here.turn()
    starts = [one.start_us for one in here.store(lambda store: store.executions(1, 10))]
    first_us = (BASE_S + 30) * 1_000_000
    assert starts == [first_us + i * 1_000_000 for i in (2, 1, 0)]
    here.turn()
    assert here.get().done_us == first_us + 5_000_000
    assert here.get().due(clock.now_us(), int(DELAY_S * 1e6)) is None


def test_an_empty_window_writes_nothing_and_counts_as_done(here: Place, clock: ManualClock) -> None:
    here.write(300, [1])
    here.create()
    clock.move(60)
    here.turn()
    last = here.get().last
    assert last is not None
    assert (last.status, last.rows) == ("completed", 0)
    with pytest.raises(QueryError, match="there is no table 'cpu_1m'"):
        here.rows()


def test_one_that_is_paused_is_not_executed_and_goes_on_where_it_was(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1])
    here.create(is_active=False)
    clock.move(120)
    here.turn()
    assert here.get().last is None
    here.do(here.queries.update(1, {"is_active": True}))
    here.turn()
    assert here.rows() == [(0, "a", 1, 1)]
    assert here.get().next_us == (BASE_S + 120) * 1_000_000


def test_a_query_that_fails_is_remembered_waits_longer_each_time_and_stops_no_other(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1])
    here.create(name="bad", query="SELECT nothing FROM not_there_yet WHERE {start_time}<{end_time}")
    here.create(name="good")
    clock.move(60)
    here.turn()
    bad = here.get(1)
    assert here.rows() == [(0, "a", 1, 1)]
    assert bad.last is not None
    assert bad.last.status == "failed"
    assert "there is no table 'not_there_yet'" in (bad.last.error or "")
    assert (bad.failures, bad.next_us) == (1, BASE_S * 1_000_000)
    here.turn()
    assert here.get(1).last == bad.last
    clock.move(30)
    here.turn()
    again = here.get(1)
    assert (again.failures, again.retry_us) == (2, clock.now_us() + 60_000_000)
    good = here.get(2).spec.query
    here.do(here.queries.update(1, {"query": good, "destination": "other"}))
    here.turn()
    assert (here.get(1).failures, here.get(1).last.status) == (0, "completed")  # type: ignore[union-attr]
    assert here.rows("SELECT total FROM other") == [(1,)]


def test_what_cannot_be_done_now_is_put_off_and_not_held_against_it(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1])
    here.create()
    clock.move(60)
    here.client.refusal["cpu"] = OverloadedError("the query process is not there")
    here.turn()
    assert (here.get().last, here.get().failures) == (None, 0)
    here.client.refusal.clear()
    here.turn()
    assert here.rows() == [(0, "a", 1, 1)]


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("[v] AS v", "column 'v' is list<l: int64>"),
        ("v, v AS v", "column 'v' is in the result twice"),
        ("time + INTERVAL '1 minute' AS time, v", "which is not in the window"),
    ],
)
def test_a_result_that_cannot_be_stored_writes_no_row(
    here: Place, clock: ManualClock, select: str, said: str
) -> None:
    here.write(0, [1, 2])
    where = "WHERE time >= {start_time} AND time < {end_time}"
    here.create(query=f"SELECT 7 AS good, {select} FROM cpu {where}")
    clock.move(60)
    here.turn()
    last = here.get().last
    assert last is not None
    assert said in (last.error or "")
    assert (last.status, last.rows) == ("failed", 0)
    with pytest.raises(QueryError, match="there is no table 'cpu_1m'"):
        here.rows()


def test_a_result_over_the_limit_of_a_body_is_refused_by_name(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1])
    here.create(query="SELECT v, host FROM cpu, range(300000) WHERE {start_time} < {end_time}")
    clock.move(60)
    here.turn()
    assert "ARC_MAX_BODY_BYTES" in (here.get().last.error or "")  # type: ignore[union-attr]


def test_a_query_without_places_for_the_bounds_is_cut_to_the_window(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1, 2])
    here.write(60, [4])
    by_minute = (
        "SELECT time_bucket('1 minute', time) AS time, host, sum(v) AS total, count(*) AS n "
        "FROM default.cpu GROUP BY 1, 2 ;\n"
    )
    here.create(query=by_minute)
    clock.move(60)
    here.turn()
    assert here.rows() == [(0, "a", 3, 2)]
    clock.move(60)
    here.turn()
    assert here.rows() == [(0, "a", 3, 2), (1, "a", 4, 1)]


# --- again -------------------------------------------------------------------------------------


def test_late_rows_are_taken_in_when_the_window_is_executed_again(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1])
    here.write(60, [5])
    here.create()
    clock.move(120)
    here.turn()
    here.write(1, [2])
    here.write(2, [7], host="b")
    done = here.execute(0).outcome
    assert (done.rows, done.error) == (2, None)
    assert here.rows() == [(0, "a", 3, 2), (0, "b", 7, 1), (1, "a", 5, 1)]
    assert here.execute(0, 1).outcome.rows == 3
    assert here.rows() == [(0, "a", 3, 2), (0, "b", 7, 1), (1, "a", 5, 1)]


def test_rows_of_others_in_the_destination_stay(here: Place, clock: ManualClock) -> None:
    here.write(0, [1])
    here.create()
    here.create(name="other")
    foreign = {"time": [BASE_S * 1_000_000], "host": ["mine"], "total": [9], "n": [9]}
    here.shard.write({"m": "cpu_1m", "columns": foreign})
    for _ in range(3):
        here.execute(0)
    assert here.execute(0, query_id=2).outcome.error is None
    assert here.rows() == [(0, "a", 1, 1), (0, "a", 1, 1), (0, "mine", 9, 9)]
    marks = here.rows("SELECT _cq FROM cpu_1m ORDER BY 1 NULLS FIRST")
    assert marks == [(None,), ("1",), ("2",)]


def test_rows_that_are_in_memory_are_waited_for_before_they_are_replaced(here: Place) -> None:
    here.write(0, [1])
    here.create()
    here.execute(0)
    here.write(1, [2])

    async def both() -> None:
        again = asyncio.ensure_future(here.queries.execute(1, first_minute, dry_run=False))
        while here.get().promised is None:
            await asyncio.wait([again], timeout=0.01)
        await here.shard.pipeline._writer.drain()
        await again

    here.do(both())
    assert here.rows() == [(0, "a", 3, 2)]
    assert here.get().promised is None


def test_a_select_that_fails_leaves_what_was_written_before(here: Place) -> None:
    here.write(0, [1])
    here.create()
    here.execute(0)
    here.client.refusal["sum(v)"] = QueryError("Conversion Error: no")
    done = here.execute(0)
    assert (done.outcome.status, done.outcome.error) == ("failed", "Conversion Error: no")
    assert here.rows() == [(0, "a", 1, 1)]
    assert here.get().promised is None


def test_a_dry_run_writes_and_remembers_nothing(here: Place) -> None:
    here.write(0, [1, 2], host="b")
    here.create()
    done = here.execute(0, dry_run=True)
    assert (done.outcome.rows, done.outcome.dry_run) == (1, True)
    assert "TIMESTAMPTZ '2026-09-21 14:13:00+00:00'" in done.sql
    assert here.get().last is None
    with pytest.raises(QueryError, match="there is no table 'cpu_1m'"):
        here.rows()


def test_a_window_that_was_executed_by_hand_when_it_was_over_has_had_its_turn(
    here: Place, clock: ManualClock
) -> None:
    here.write(0, [1])
    here.create()
    here.execute(0)  # it is not over, and will be executed again
    assert here.get().next_us == BASE_S * 1_000_000
    clock.move(60)
    here.execute(0)
    assert here.get().next_us == (BASE_S + 60) * 1_000_000
    assert here.rows() == [(0, "a", 1, 1)]


def test_a_delete_that_is_under_way_is_waited_for(root: Path, here: Place) -> None:
    here.write(0, [1])
    here.create()
    here.execute(0)

    async def both() -> None:
        with my_turn(root / ".arc"):
            again = asyncio.ensure_future(here.queries.execute(1, first_minute, dry_run=False))
            while here.get().promised is None:
                await asyncio.wait([again], timeout=0.01)
            await here.shard.pipeline._writer.drain()
        await again

    here.do(both())
    assert here.rows() == [(0, "a", 1, 1)]


# --- crashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", ["answered", "written", "done"])
def test_a_window_by_the_clock_has_one_copy_after_a_kill(
    root: Path, clock: ManualClock, dies: str
) -> None:
    with dying(root, clock) as first:
        first.write(0, [1, 2])
        first.write(30, [5], host="b")
        first.create()
        clock.move(60)
        first.queries.dies = dies
        with pytest.raises(Killed):
            first.turn()
    with place(root, clock) as second:
        second.turn()
        assert second.rows() == [(0, "a", 3, 2), (0, "b", 5, 1)]
        assert second.get().next_us == (BASE_S + 60) * 1_000_000
        second.turn()
        assert second.rows() == [(0, "a", 3, 2), (0, "b", 5, 1)]


@pytest.mark.parametrize("dies", ["answered", "promised", "deleted", "written", "done"])
def test_a_window_that_is_replaced_has_one_copy_after_a_kill(
    root: Path, clock: ManualClock, dies: str
) -> None:
    with dying(root, clock) as first:
        first.write(0, [1])
        first.create(is_active=False)
        first.execute(0)
        first.write(1, [2])
        first.queries.dies = dies
        with pytest.raises(Killed):
            first.execute(0)
    with place(root, clock) as second:
        second.turn()
        was_touched = dies != "answered"
        assert second.rows() == [(0, "a", 3, 2) if was_touched else (0, "a", 1, 1)]
        assert second.get().promised is None


# --- definitions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT sum(v FROM cpu", "query: Parser Error"),
        ("SELECT nothing FROM cpu WHERE {start_time} < {end_time}", 'column "nothing" not found'),
        ("SELECT v FROM cpu", 'column "time" not found'),
        ("WITH x AS (SELECT 1) INSERT INTO cpu SELECT * FROM x", "is not allowed|Error"),
        (
            "SELECT * FROM read_csv('x') WHERE {start_time} < {end_time}",
            "'read_csv' is not allowed",
        ),
        ("SELECT 1; SELECT {start_time}, {end_time}", "found 2 statements|wanted"),
    ],
)
def test_sql_that_cannot_run_is_refused_at_once(here: Place, query: str, said: str) -> None:
    here.write(0, [1])
    with pytest.raises(QueryError, match=said):
        here.create(query=query)
    assert here.store(lambda store: store.queries()) == []


def test_a_query_may_come_before_its_tables_and_without_a_query_process(here: Place) -> None:
    here.create()
    here.client.refusal["EXPLAIN"] = OverloadedError("not there")
    here.create(name="other")
    assert [one.spec.name for one in here.store(lambda store: store.queries())] == ["other", "sums"]


def test_it_gives_its_measurements_the_policies_that_it_asks_for(root: Path, here: Place) -> None:
    here.create(retention_days=7, delete_source_after_days=2)
    here.do(here.queries.update(1, {"retention_days": 8}))
    with contextlib.closing(open_policies(root)) as policies:
        kept = {one.spec.measurement: one.spec.keep_s for one in policies.policies()}
        assert kept == {"cpu_1m": 8 * DAY_S, "cpu": 2 * DAY_S}
        policies.create(PolicySpec("default.third", "default", None, DAY_S))
    with pytest.raises(PolicyExistsError, match="has the name 'default"):
        here.create(name="third", destination="third", retention_days=1)
    assert len(here.store(lambda store: store.queries())) == 1


def test_names_and_numbers_are_told_apart(here: Place) -> None:
    here.create()
    with pytest.raises(QueryExistsError, match="query 1 has the name 'sums' already"):
        here.create()
    with pytest.raises(NoSuchQueryError, match="continuous query 9 not found"):
        here.execute(0, query_id=9)
    with pytest.raises(NoSuchQueryError):
        here.do(here.queries.update(9, {}))


def test_a_worker_that_stops_ends_what_waits_and_takes_nothing_more(here: Place) -> None:
    here.write(0, [1])
    here.create()
    here.execute(0)

    async def stopped() -> None:  # rows are in memory, and nobody stores them
        again = asyncio.ensure_future(here.queries.execute(1, first_minute, dry_run=False))
        while here.get().promised is None:
            await asyncio.wait([again], timeout=0.01)
        await here.queries.stop()
        with pytest.raises(StoppedError, match="stopping"):
            await again
        with pytest.raises(StoppedError):
            await here.queries.execute(1, first_minute, dry_run=False)

    here.do(stopped())
    assert here.rows() == [(0, "a", 1, 1)]
    assert here.get().promised is not None
