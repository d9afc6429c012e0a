"""What continuous queries say, their windows, and the file that keeps them."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clock import ManualClock
from ingest.continuous import (
    MAX_INTERVAL_S,
    MAX_WINDOWS,
    Outcome,
    QuerySpec,
    Window,
    check,
    parse_interval,
    sql_of,
    windows_between,
)
from ingest.continuous_store import (
    MAX_EXECUTIONS,
    MAX_RETRY_S,
    RETRY_S,
    NoSuchQueryError,
    QueryExistsError,
    QueryStore,
    chosen,
    open_queries,
)
from ingest.errors import LimitError, PayloadError, StorageError

NOW_US = 1_790_000_000_000_000
HOUR_US = 3_600_000_000
SPEC = QuerySpec(
    name="hourly",
    database="default",
    source="cpu",
    destination="cpu_1h",
    query="SELECT avg(v) AS v FROM cpu WHERE time >= {start_time} AND time < {end_time}",
    interval="1h",
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[QueryStore]:
    with contextlib.closing(QueryStore(tmp_path / ".arc", clock)) as made:
        yield made


# --- what they say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("1s", 1), ("30s", 30), ("5m", 300), ("5 min", 300), ("1h", 3_600), ("1 hour", 3_600)),
        *((" 2 Days ", 172_800), ("1w", 604_800), ("366d", MAX_INTERVAL_S)),
    ],
)
def test_an_interval_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_interval(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "h", "1.5h", "-1h", "1 month", "1h30m", "0s", "367d", "٣h"]
)
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(PayloadError, match="interval"):
        parse_interval(text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "name of a continuous query: 0 characters"),
        ({"name": "a\nb"}, "can be printed"),
        ({"database": "no/such"}, "database"),
        ({"source": ""}, "measurement"),
        ({"destination": "x" * 129}, "measurement"),
        ({"destination": "cpu"}, "wanted another measurement than the source"),
        ({"destination": "_quarantine"}, "not _quarantine"),
        ({"interval": "often"}, "interval 'often'"),
        ({"query": "DELETE FROM cpu"}, "wanted a SELECT"),
        ({"query": "SELECTED"}, "wanted a SELECT"),
        ({"query": "EXPLAIN SELECT 1"}, "wanted a SELECT"),
        ({"query": "SELECT {start_time}"}, r"has \{start_time\} and not \{end_time\}"),
        ({"query": "SELECT {end_time}"}, r"has \{end_time\} and not \{start_time\}"),
        ({"query": "SELECT " + "1" * 2**17}, "over the limit of 131072"),
        ({"description": "x" * 4_097}, "description: 4097 characters"),
        ({"retention_days": 0}, "retention_days is 0, wanted 1 to"),
        ({"delete_source_after_days": -1}, "delete_source_after_days is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        check(msgspec.structs.replace(SPEC, **changes))


@pytest.mark.parametrize(
    "query", ["select 1", "WITH x AS (SELECT 1) FROM x", "-- why\n/* and\n how */ (SELECT 1)"]
)
def test_a_select_may_begin_in_all_its_ways(query: str) -> None:
    check(msgspec.structs.replace(SPEC, query=query))


def test_bounds_stand_where_the_query_has_a_place_for_them_with_quotes_or_without() -> None:
    query = "SELECT {start_time}, '{start_time}', TIMESTAMP '{end_time}'"
    assert sql_of(query, Window(0, 1_500_000)) == (
        "SELECT TIMESTAMPTZ '1970-01-01 00:00:00+00:00', '1970-01-01 00:00:00+00:00', "
        "TIMESTAMP '1970-01-01 00:00:01.500000+00:00'"
    )


# --- windows -----------------------------------------------------------------------------------


@given(
    start_us=st.integers(-(10**15), 10**15),
    length_us=st.integers(1, 20 * HOUR_US),
    interval=st.sampled_from(["7m", "1h", "1d", "1w"]),
)
def test_windows_cover_a_range_without_gaps_and_are_aligned_to_1970(
    start_us: int, length_us: int, interval: str
) -> None:
    spec = msgspec.structs.replace(SPEC, interval=interval)
    windows = windows_between(spec, start_us, start_us + length_us)
    assert windows[0].start_us <= start_us < windows[0].end_us
    assert windows[-1].start_us < start_us + length_us <= windows[-1].end_us
    for window in windows:
        assert window.start_us % spec.interval_us == 0
        assert window.end_us - window.start_us == spec.interval_us
    assert all(a.end_us == b.start_us for a, b in itertools.pairwise(windows))


def test_a_range_that_is_empty_or_has_too_many_windows_is_refused() -> None:
    with pytest.raises(PayloadError, match="is not before"):
        windows_between(SPEC, 0, 0)
    assert len(windows_between(SPEC, 0, MAX_WINDOWS * HOUR_US)) == MAX_WINDOWS
    with pytest.raises(LimitError, match="1001"):
        windows_between(SPEC, 0, MAX_WINDOWS * HOUR_US + 1)
    for bounds in ((-(10**16), 0), (0, 10**16)):
        with pytest.raises(PayloadError, match="wanted a time from 1900"):
            windows_between(SPEC, *bounds)


# --- the file ----------------------------------------------------------------------------------


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path, store: QueryStore) -> None:
    spec = msgspec.structs.replace(SPEC, description="ü", retention_days=7, is_active=False)
    made = store.create(spec)
    assert (made.id, made.spec, made.created_us, made.updated_us) == (1, spec, NOW_US, NOW_US)
    assert made.next_us == NOW_US // HOUR_US * HOUR_US
    with contextlib.closing(open_queries(tmp_path)) as again:
        assert again.queries() == [made]
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_number_is_never_given_twice(store: QueryStore) -> None:
    store.create(SPEC)
    store.remove(1)
    assert store.create(SPEC).id == 2
    for job in (store.get, store.remove, store.update):
        with pytest.raises(NoSuchQueryError, match="continuous query 1 not found"):
            job(1)
    with pytest.raises(NoSuchQueryError):
        store.executions(1, 1)


def test_a_name_is_of_one_query_alone(store: QueryStore) -> None:
    store.create(SPEC)
    store.create(msgspec.structs.replace(SPEC, name="1"))
    with pytest.raises(QueryExistsError, match="query 1 has the name 'hourly' already"):
        store.update(2, name="hourly")
    assert store.update(2, name="1", interval="5m").spec.interval == "5m"
    assert chosen(store.queries(), "1").id == 1  # a number goes before a name
    assert chosen(store.queries(), "hourly").id == 1
    with pytest.raises(NoSuchQueryError, match="continuous query 'x' not found"):
        chosen(store.queries(), "x")


def test_another_interval_begins_where_the_next_window_began(
    store: QueryStore, clock: ManualClock
) -> None:
    first_us = store.create(SPEC).next_us
    clock.move(2 * 3_600)
    done = Window(first_us, first_us + HOUR_US)
    store.done(1, done, closed=True)
    assert store.update(1, interval="10m").next_us == first_us + HOUR_US
    day_us = 24 * HOUR_US
    assert store.update(1, interval="1d").next_us == (first_us + HOUR_US) // day_us * day_us


def test_only_a_closed_window_whose_turn_it_is_moves_the_turn(store: QueryStore) -> None:
    next_us = store.create(SPEC).next_us
    window = Window(next_us, next_us + HOUR_US)
    store.done(1, window, closed=False)
    store.done(1, Window(next_us + HOUR_US, next_us + 2 * HOUR_US), closed=True)
    assert (store.get(1).next_us, store.get(1).done_us) == (next_us, None)
    store.done(1, window, closed=True)
    assert (store.get(1).next_us, store.get(1).done_us) == (window.end_us, window.end_us)


def test_a_promise_is_due_before_all_else_until_it_is_kept(store: QueryStore) -> None:
    next_us = store.create(msgspec.structs.replace(SPEC, is_active=False)).next_us
    old = Window(next_us - 5 * HOUR_US, next_us - 4 * HOUR_US)
    assert store.get(1).due(NOW_US) is None
    store.promise(1, old)
    store.promise(1, old)
    assert store.get(1).due(NOW_US) == old
    store.done(1, old, closed=True)
    assert store.get(1).due(NOW_US) is None


def test_a_window_is_due_when_it_is_over_and_the_delay_as_well(store: QueryStore) -> None:
    made = store.create(SPEC)
    end_us = made.next_us + HOUR_US
    assert made.due(end_us - 1) is None
    assert made.due(end_us) == Window(made.next_us, end_us)
    assert made.due(end_us + 4, 5) is None
    assert made.due(end_us + 5, 5) == Window(made.next_us, end_us)


def test_a_failure_waits_twice_as_long_each_time_up_to_an_hour(
    store: QueryStore, clock: ManualClock
) -> None:
    next_us = store.create(SPEC).next_us
    window = Window(next_us, next_us + HOUR_US)
    waits = []
    for _ in range(10):
        store.note(Outcome(1, window, NOW_US, error="no"), in_turn=True)
        waits.append((store.get(1).retry_us - clock.now_us()) // 1_000_000)
    assert waits == [min(RETRY_S * 2**n, MAX_RETRY_S) for n in range(10)]
    store.note(Outcome(1, window, NOW_US, error="by hand"), in_turn=False)
    assert store.get(1).failures == 10
    store.done(1, window, closed=True)
    assert (store.get(1).failures, store.get(1).retry_us) == (0, 0)


def test_so_many_executions_are_remembered(store: QueryStore) -> None:
    window = Window(0, HOUR_US)
    for query in (SPEC, msgspec.structs.replace(SPEC, name="other")):
        store.create(query)
    store.note(Outcome(2, window, NOW_US), in_turn=False)
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.executemany(
            "INSERT INTO executions VALUES (NULL, 1, ?, 0, 'completed', 0, 1, 0, 0.5, NULL)",
            [(str(n),) for n in range(MAX_EXECUTIONS)],
        )
    last = Outcome(1, window, NOW_US, rows=7, took_s=0.25, error="no")
    store.note(last, in_turn=False)
    found = store.executions(1, 2 * MAX_EXECUTIONS)
    assert (len(found), found[0].execution_id, found[-1].execution_id) == (
        *(MAX_EXECUTIONS, last.execution_id),
        "1",
    )
    assert store.get(1).last == found[0]
    assert (found[0].status, found[0].rows, found[0].error) == ("failed", 7, "no")
    assert len(store.executions(2, 10)) == 1


def test_what_is_removed_while_it_runs_is_not_remembered(store: QueryStore) -> None:
    store.create(SPEC)
    store.promise(1, Window(0, 1))
    store.remove(1)
    store.note(Outcome(1, Window(0, 1), NOW_US), in_turn=True)
    store.done(1, Window(0, 1), closed=True)
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        for table in ("queries", "executions", "promises"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is no data directory"):
        open_queries(tmp_path)
    folder = tmp_path / ".arc"
    folder.mkdir()
    (folder / "continuous.db").write_bytes(b"no database, and long enough to be seen as none" * 30)
    with pytest.raises(StorageError, match=r"continuous queries .*continuous\.db: "):
        open_queries(tmp_path)
