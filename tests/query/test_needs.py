"""A query reads the files and rows of its times alone, and its answer is the same as from all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.paths import TableId
from ingest.query.errors import QueryError
from ingest.query.needs import ALL_TIMES, EVERYTHING, TimeRange, are_plain, needs_of
from ingest.query.snapshots import TableFile
from tests.query.conftest import START_US, engine_on, request, rows_of, write

HOURS = 6
HOUR_S, ROWS = 3_600, 4
START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
SCHEMA = pa.schema([("time", pa.timestamp("us", "UTC")), ("n", pa.int64()), ("host", pa.utf8())])
COLUMNS = {"host": ["a", "b", "time < '2026'", "d"]}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cpu` with a file of four rows in each of six hours, and `few` with one file."""
    root = tmp_path_factory.mktemp("needs") / "data"
    write(root, *(request("cpu", hour * HOUR_S, ROWS, **COLUMNS) for hour in range(HOURS)))
    write(root, request("few", 0, ROWS))
    return root


@pytest.fixture
def cpu(stored: Path, tmp_path: Path) -> Iterator[Any]:
    """Asks `cpu`, of which the test may say which hours alone are still on the disk."""
    with engine_on(stored) as engine:
        snapshot = engine.snapshots.take(TableId("default", "cpu"))
        assert snapshot is not None
        paths = {hour_of(file): Path(file.path) for file in snapshot.files}

        def ask(sql: str, hours: Container[int] = range(HOURS)) -> list[tuple[Any, ...]]:
            gone = [path for hour, path in paths.items() if hour not in hours]
            for path in gone:
                path.rename(path.with_suffix(".away"))
            try:
                return rows_of(engine.query(sql, "default"))
            finally:
                for path in gone:
                    path.with_suffix(".away").rename(path)

        yield ask


def hour_of(file: TableFile) -> int:
    """The hour of its rows, counted from the first."""
    assert file.min_us is not None
    return (file.min_us - START_US) // (HOUR_S * 1_000_000)


def at(hour: float) -> str:
    """A time, so many hours after the first row, as SQL has it."""
    return f"TIMESTAMPTZ '{START + dt.timedelta(hours=hour)}'"


@pytest.mark.parametrize(
    ("condition", "hours"),
    [
        (f"time >= {at(4)}", {4, 5}),
        (f"time < {at(1)}", {0, 1}),  # the end counts as inclusive
        (f"time BETWEEN {at(2)} AND {at(2.5)}", {2}),
        (f"{at(2)} <= time AND {at(2.5)} > time AND host = 'a'", {2}),
        (f"host = 'time < ''2026''' AND time > {at(5)}", {5}),
        (f"time = {at(3)}", {3}),
        (f"time = {at(0)} OR time = {at(1)}", {0, 1}),
        (f"(time < {at(0.5)} OR time > {at(0.7)}) AND time < {at(1.5)}", {0, 1}),
        (f"time > {at(6)} - INTERVAL 1 HOUR", {5}),
        (f"time > now() - (now() - {at(5)})", {5}),
        (f"epoch_us(time) >= {START_US + 5 * HOUR_S * 10**6}", {5}),
        (f"time >= {at(5)} AND n % 2 = 0 AND host IS NOT NULL", {5}),
    ],
)
def test_only_files_of_the_times_asked_for_are_opened(
    cpu: Any, condition: str, hours: set[int]
) -> None:
    sql = f"SELECT n, host FROM cpu WHERE {condition} ORDER BY time"
    assert cpu(sql, hours) == cpu(sql)
    assert cpu(sql)


@pytest.mark.parametrize(
    "condition",
    [
        f"time >= {at(4)} OR host = 'a'",
        f"NOT (time > {at(4)})",
        f"time_bucket(INTERVAL 1 MINUTE, time) >= {at(4)}",
        f"time <> {at(4)}",
        "true",
    ],
)
def test_a_condition_that_is_not_one_of_time_alone_reads_what_it_may_need(
    cpu: Any, condition: str
) -> None:
    plain = duckdb.connect()
    plain.execute("SET TimeZone = 'UTC'")
    plain.register("cpu", all_rows())
    sql = f"SELECT n, host FROM cpu WHERE {condition} ORDER BY time"
    assert cpu(sql) == plain.execute(sql).fetchall()


def test_a_table_named_twice_is_read_for_both(cpu: Any) -> None:
    sql = (
        f"SELECT (SELECT count(*) FROM cpu WHERE time < {at(0.5)}), "
        f"(SELECT count(*) FROM cpu WHERE time > {at(1)} - INTERVAL 1 SECOND AND time < {at(1.5)})"
    )
    assert cpu(sql, {0, 1}) == [(ROWS, ROWS)]
    both = "SELECT count(*) FROM cpu a JOIN cpu b USING (time) WHERE a.n < 10"
    assert cpu(both) == [(ROWS,)]
    one_is_whole = f"SELECT count(*) FROM cpu a, cpu b WHERE a.time < {at(0.5)}"
    assert cpu(one_is_whole) == [(ROWS * ROWS * HOURS,)]


def test_an_expression_in_front_keeps_its_condition(cpu: Any) -> None:
    sql = f"WITH late AS (SELECT * FROM cpu WHERE time >= {at(5)}) SELECT count(n) FROM late"
    assert cpu(sql, {5}) == [(ROWS,)]
    outside = f"WITH x AS (SELECT * FROM cpu) SELECT sum(n) FROM x WHERE time >= {at(5)}"
    assert cpu(outside, {5}) == cpu(outside)


def test_the_number_of_rows_comes_from_the_log(cpu: Any) -> None:
    assert cpu("SELECT count(*) FROM cpu", set()) == [(ROWS * HOURS,)]
    assert cpu("SELECT count(*) AS rows FROM (SELECT * FROM cpu) AS c", set()) == [(ROWS * HOURS,)]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*) FROM cpu LIMIT 0", []),
        ("SELECT count(*) + 1 FROM cpu", [(ROWS * HOURS + 1,)]),
        ("SELECT count(n) FROM cpu", [(ROWS * HOURS,)]),
        ("SELECT count(*) FROM cpu, few", [(ROWS * HOURS * ROWS,)]),
        ("SELECT count(*) FROM cpu GROUP BY host ORDER BY 1 LIMIT 1", [(HOURS,)]),
        ("SELECT count(*) FROM (SELECT * FROM cpu LIMIT 3)", [(3,)]),
        ("SELECT count(*) FROM (SELECT DISTINCT host FROM cpu)", [(4,)]),
        ("SELECT count(*) FROM (SELECT unnest([1, 2]) FROM cpu)", [(2 * ROWS * HOURS,)]),
        ("SELECT count(*) FROM cpu TABLESAMPLE 0 PERCENT", [(0,)]),
        ("SELECT count(*) FILTER (n < 2) FROM cpu", [(2,)]),
        ("SELECT count(*) FROM cpu HAVING count(*) > 100", []),
        ("SELECT count(*) OVER () FROM few LIMIT 1", [(ROWS,)]),
    ],
)
def test_other_counts_are_counted(cpu: Any, sql: str, rows: list[tuple[object, ...]]) -> None:
    assert cpu(sql) == rows


def test_what_fails_is_told_as_where_nothing_is_planned(cpu: Any) -> None:
    told = []
    for table in ("cpu", "few"):
        with pytest.raises(QueryError) as caught:
            cpu(f"SELECT nothing FROM {table} WHERE time > now()")
        told.append(str(caught.value).replace('"n", "host"', '"n"'))
    assert told[0] == told[1]
    assert "EXPLAIN" not in told[0]


def test_a_column_named_like_a_condition_is_no_condition(tmp_path: Path) -> None:
    root = tmp_path / "data"
    odd = f"(time > '{START + dt.timedelta(days=9)}'::TIMESTAMP WITH TIME ZONE)"
    names = {odd: [True, False]}
    write(root, *(request("cpu", hour * HOUR_S, 2, **names) for hour in range(4)))
    with engine_on(root) as engine:
        assert rows_of(engine.query(f'SELECT count(*) FROM cpu WHERE "{odd}"', "default")) == [(4,)]


@pytest.mark.parametrize(
    ("names", "plain"),
    [(["time", "cpu.load/1m", "größe", "a-b c"], True), (["a'b"], False), (["f(x)"], False)],
)
def test_names_that_could_be_expressions_are_told(names: list[str], plain: bool) -> None:
    assert are_plain(iter(names)) is plain


# --- any condition -------------------------------------------------------------------------------


def all_rows() -> pa.Table:
    """What `cpu` has."""
    rows = [
        (START_US + (hour * HOUR_S + row) * 1_000_000, hour * HOUR_S + row, COLUMNS["host"][row])
        for hour in range(HOURS)
        for row in range(ROWS)
    ]
    times, numbers, hosts = zip(*rows, strict=True)
    arrays = [pa.array(times, pa.int64()).cast(SCHEMA.field("time").type), numbers, hosts]
    return pa.table(arrays, schema=SCHEMA)


times = st.integers(-2, HOURS * HOUR_S + 2).flatmap(
    lambda s: st.sampled_from([at(s / HOUR_S), f"make_timestamptz({START_US + s * 10**6})"])
)
comparisons = st.one_of(
    st.builds("time {} {}".format, st.sampled_from([">", ">=", "<", "<=", "=", "<>"]), times),
    st.builds("{} {} time".format, times, st.sampled_from([">", ">=", "<", "<="])),
    st.builds("time BETWEEN {} AND {}".format, times, times),
    st.builds("time IN ({}, {})".format, times, times),
    st.sampled_from(["host = 'a'", "n % 3 = 1", "host = 'time < ''2026'''", "n IS NULL"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({}) AND ({})".format, inner, inner),
        st.builds("({}) OR ({})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=5,
)


@given(condition=conditions)
@settings(max_examples=150, deadline=None)
def test_whatever_the_condition_the_answer_is_that_of_all_rows(
    stored: Path, plain: duckdb.DuckDBPyConnection, engine: Any, condition: str
) -> None:
    sql = f"SELECT n FROM cpu WHERE {condition} ORDER BY time"
    assert rows_of(engine.query(sql, "default")) == plain.execute(sql).fetchall()


@pytest.fixture(scope="module")
def plain() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB on all rows."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("cpu", all_rows())
        yield connection


@pytest.fixture(scope="module")
def engine(stored: Path) -> Iterator[Any]:
    with engine_on(stored) as found:
        yield found


# --- ranges and plans ----------------------------------------------------------------------------


def test_ranges_meet_and_join() -> None:
    one, other = TimeRange(1, 5), TimeRange(3, None)
    assert one & other == TimeRange(3, 5)
    assert one | other == TimeRange(1, None)
    assert one & ALL_TIMES == one
    assert one | ALL_TIMES == ALL_TIMES


@pytest.mark.parametrize(
    ("low_us", "high_us", "touches"),
    [(6, 9, False), (5, 9, True), (0, 0, False), (0, 1, True), (None, None, True),
     (None, 0, False), (6, None, False), (2, 3, True)],
)  # fmt: skip
def test_a_file_touches_a_range_unless_it_is_known_not_to(
    low_us: int | None, high_us: int | None, touches: bool
) -> None:
    assert TimeRange(1, 5).touches(low_us, high_us) is touches


@pytest.mark.parametrize("references", [0, 2])
def test_a_plan_with_other_scans_than_the_query_names_is_not_trusted(references: int) -> None:
    condition = "(time > '2026-01-01 00:00:00+00'::TIMESTAMP WITH TIME ZONE)"
    scan = '{"name": "PYTHON_ARROW_SCAN", "children": [], "extra_info": {}}'
    plan = (
        f'[{{"name": "FILTER", "children": [{scan}], '
        f'"extra_info": {{"Expression": "{condition}"}}}}]'
    )
    assert needs_of(plan, references) == EVERYTHING
    assert needs_of(plan, 1).times == TimeRange(low_us=1_767_225_600_000_000)
