"""Queries run on the tables of a data directory, see nothing else, and end when they are told."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from pathlib import Path

import duckdb
import pytest

from ingest.errors import IngestError, InvalidNameError
from ingest.query.engine import Engine, EngineSettings, Stop
from ingest.query.errors import QueryCancelledError, QueryError, QueryLimitError
from ingest.query.gate import Statement, parse
from tests.query.conftest import START_US, Ask, engine_on, request, rows_of, write

START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)

#: Runs for minutes, unless it is interrupted.
ENDLESS = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(100000000) b"


def test_rows_come_with_their_values_and_types(ask: Ask) -> None:
    assert ask("SELECT * FROM cpu WHERE n < 2 ORDER BY time") == [
        (START, 0, "a"),
        (START + dt.timedelta(seconds=1), 1, "b"),
    ]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*), sum(n) FROM cpu", [(5, 10)]),
        ("SELECT count(*) FROM default.cpu", [(5,)]),
        ('SELECT count(*) FROM "default"."cpu"', [(5,)]),
        ("SELECT count(*) FROM prod.cpu", [(1,)]),
        ("SELECT max(default.cpu.n) FROM default.cpu", [(4,)]),
        ("SELECT a.n, b.n FROM cpu a, prod.cpu b WHERE a.n = 1", [(1, 100)]),
        ('SELECT count(*) FROM "disk/io" JOIN "win.cpu" USING (time)', [(3,)]),
        ("SELECT count(*) FROM CPU", [(5,)]),
        ("SELECT count(*) FROM PROD.mixed", [(3,)]),
        ("WITH cpu AS (SELECT * FROM cpu LIMIT 2) SELECT count(*) FROM cpu", [(2,)]),
        ("WITH nowhere AS (SELECT 1) SELECT count(*) FROM nowhere", [(1,)]),
        ("SELECT time_bucket(INTERVAL '2 seconds', time) b, count(*) FROM cpu GROUP BY b "
         "ORDER BY b LIMIT 1", [(START, 2)]),
        ("SELECT first(n ORDER BY time), last(n ORDER BY time) FROM cpu", [(0, 4)]),
        ("SELECT n FROM cpu WHERE time >= '2026-09-21' AND time < '2026-09-22' AND n = 3", [(3,)]),
        ("SELECT date_trunc('day', time)::VARCHAR FROM cpu LIMIT 1", [("2026-09-21 00:00:00+00",)]),
        ("SELECT n FROM cpu LIMIT 0", []),
    ],
)  # fmt: skip
def test_tables_are_found_however_they_are_named(
    ask: Ask, sql: str, rows: list[tuple[object, ...]]
) -> None:
    assert ask(sql) == rows


def test_a_bare_name_is_of_the_database_of_the_request(ask: Ask) -> None:
    assert ask("SELECT n FROM cpu", "prod") == [(100,)]
    assert ask("SELECT count(*) FROM default.cpu", "prod") == [(5,)]


def test_what_there_is_not_is_told_with_what_there_is(ask: Ask) -> None:
    with pytest.raises(QueryError, match=r"no table 'nope'; tables of database 'default': 'cpu',"):
        ask("SELECT * FROM nope")
    with pytest.raises(QueryError, match=r"database 'nope' has no tables; .*'default', 'prod'"):
        ask("SELECT * FROM nope.cpu")
    with pytest.raises(QueryError, match="no table '/etc/passwd'"):
        ask("SELECT * FROM '/etc/passwd'")
    with pytest.raises(QueryError, match=r'"nope" not found in FROM clause'):
        ask("SELECT nope FROM cpu")
    with pytest.raises(InvalidNameError, match="database"):
        ask("SELECT 1", "../x")


def test_show_and_describe_tell_what_there_is(ask: Ask) -> None:
    assert ask("SHOW DATABASES") == [("default",), ("prod",)]
    tables = ask("SHOW TABLES")
    assert [row[:4] for row in tables] == [
        ("default", "cpu", "default/cpu", 2),
        ("default", "cpu_total", "default/cpu_total", 1),
        ("default", "disk/io", "default/disk@2Fio", 1),
        ("default", "win.cpu", "default/win.cpu", 1),
    ]
    assert all(0 < row[4] < 0.01 for row in tables)
    assert [row[:2] for row in ask("SHOW TABLES FROM prod")] == [
        ("prod", "Mixed"),
        ("prod", "cpu"),
    ]
    assert len(ask("SHOW ALL TABLES")) == 6
    assert ask("SHOW TABLES FROM nowhere") == []
    described = [("time", "TIMESTAMP WITH TIME ZONE"), ("n", "BIGINT"), ("host", "VARCHAR")]
    assert [row[:2] for row in ask("DESCRIBE default.cpu")] == described
    assert [row[:2] for row in ask("SHOW cpu")] == described
    assert "READ_PARQUET" in ask("EXPLAIN SELECT n FROM cpu")[0][1]
    assert len(ask("SUMMARIZE cpu")) == 3


def test_names_that_differ_in_case_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, request("Foo"), request("foo", rows=1))
    with engine_on(tmp_path) as engine:
        assert rows_of(engine.query("SELECT count(*) FROM Foo", "default")) == [(3,)]
        assert rows_of(engine.query("SELECT count(*) FROM foo", "default")) == [(1,)]
        with pytest.raises(QueryError, match="'Foo', 'foo': write it as it is"):
            rows_of(engine.query("SELECT count(*) FROM FOO", "default"))
        with pytest.raises(QueryError, match="differ in case only"):
            rows_of(engine.query("SELECT 1 FROM foo, Foo", "default"))


@pytest.mark.parametrize(
    "sql",
    [
        *("FROM read_csv('/etc/passwd')", "FROM '/etc/passwd'", "FROM glob('/etc/*')"),
        *("FROM read_text('/etc/passwd')", "COPY (SELECT 1) TO '/tmp/arc-x.csv'"),
        *("ATTACH '/tmp/arc-x.db'", "INSTALL httpfs", "LOAD httpfs", "SET threads = 8"),
        *("SET enable_external_access = true", "SET lock_configuration = false"),
        *("RESET memory_limit", "SET temp_directory = '/tmp'", "SELECT getenv('HOME')"),
        *("PRAGMA memory_limit = '1TB'", "FROM read_csv('http://127.0.0.1/x')"),
        *("SET allowed_directories = ['/']", "EXPORT DATABASE '/tmp/arc-x'"),
    ],
)
def test_the_engine_itself_is_locked_also_behind_the_gate(engine: Engine, sql: str) -> None:
    cursor = engine.cursor()
    with contextlib.closing(cursor), pytest.raises(duckdb.Error):
        cursor.execute(sql)


def test_variables_of_python_are_no_tables(engine: Engine) -> None:
    cpu_frame = [1, 2, 3]
    with pytest.raises(QueryError, match="no table 'cpu_frame'"):
        rows_of(engine.query("SELECT * FROM cpu_frame", "default"))
    assert cpu_frame


def test_nothing_of_a_query_is_left_after_it(engine: Engine) -> None:
    def databases() -> list[str]:
        with contextlib.closing(engine.cursor()) as cursor:
            found = cursor.execute("SELECT database_name FROM duckdb_databases()").fetchall()
            return sorted(row[0] for row in found)

    before = databases()
    rows_of(engine.query("SELECT * FROM cpu", "default"))
    for sql in ("SELECT * FROM nope", "SELECT nope FROM cpu", "SELEC", "SELECT error('x')"):
        with pytest.raises(QueryError):
            rows_of(engine.query(sql, "default"))
    assert databases() == before


def test_an_error_in_the_last_row_is_an_error(ask: Ask) -> None:
    with pytest.raises(QueryError, match="last"):
        ask("SELECT if(i < 199999, i, error('last')) FROM range(200000) t(i)")


@pytest.mark.parametrize(
    ("reason", "error"), [(Stop.TIMEOUT, QueryLimitError), (Stop.GONE, QueryCancelledError)]
)
def test_a_query_that_is_stopped_ends_with_the_reason(
    engine: Engine, reason: Stop, error: type[IngestError]
) -> None:
    query = engine.query(ENDLESS, "default")
    ended = threading.Event()

    def stop() -> None:
        while not ended.wait(0.05):  # one that comes too early is lost
            query.stop(reason)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(error):
        rows_of(query)
    ended.set()
    stopper.join()


def test_a_query_that_was_stopped_before_it_began_does_not_begin(engine: Engine) -> None:
    query = engine.query("SELECT 1", "default")
    query.stop(Stop.GONE)
    with pytest.raises(QueryCancelledError):
        rows_of(query)


def test_memory_is_bounded_and_nothing_is_spilled(stored: Path) -> None:
    with engine_on(stored, EngineSettings(32 * 2**20, 1)) as engine:
        with pytest.raises(QueryLimitError, match=r"33554432 bytes .*ARC_QUERY_MEMORY_BYTES"):
            rows_of(engine.query("SELECT list(i) FROM range(30000000) t(i)", "default"))
        assert rows_of(engine.query("SELECT count(*) FROM cpu", "default")) == [(5,)]


def test_an_answer_is_not_held_whole(engine: Engine) -> None:
    query = engine.query("SELECT * FROM range(100000000000)", "default")
    with contextlib.closing(query):
        batch = query.start().next_batch()
        assert batch is not None
        assert 0 < batch.num_rows < 1_000_000


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT * FROM cpu", 5),
        ("SELECT * FROM cpu WHERE n > 100", 0),
        ("SELECT * FROM cpu LIMIT 2 -- two", 2),
        ("SELECT n FROM cpu; -- all", 5),
        ("FROM cpu a, cpu b", 25),
        ("SHOW DATABASES", 2),
        ("DESCRIBE cpu", 3),
        ("WITH a AS (FROM cpu) SELECT n FROM a UNION ALL SELECT 1", 6),
    ],
)
def test_rows_are_counted_without_being_read(engine: Engine, sql: str, rows: int) -> None:
    with contextlib.closing(engine.query(sql, "default")) as query:
        assert query.count() == rows


def test_rows_of_tables_are_known_from_their_logs(engine: Engine) -> None:
    with contextlib.closing(engine.query("FROM cpu, prod.cpu", "default")) as query:
        assert query.stored_rows() == 6


def test_queries_run_beside_each_other(engine: Engine) -> None:
    found: list[list[tuple[object, ...]]] = []

    def run(database: str) -> None:
        sql = "SELECT count(*) FROM cpu"
        found.extend(rows_of(engine.query(sql, database)) for _ in range(10))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("default", "prod") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [[(1,)]] * 20 + [[(5,)]] * 20


def test_a_text_that_came_before_is_not_parsed_again_and_sees_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write(root, request("cpu", 0, 2))
    parsed: list[str] = []

    def counted(sql: str, connection: duckdb.DuckDBPyConnection) -> Statement:
        parsed.append(sql)
        return parse(sql, connection)

    monkeypatch.setattr("ingest.query.engine.parse", counted)
    with engine_on(root) as engine:
        for database, rows in (("default", 2), ("default", 2), ("default", 5)):
            if rows == 5:
                write(root, request("cpu", 2, 3))
            assert rows_of(engine.query("SELECT sum(1) FROM cpu", database)) == [(rows,)]
        assert parsed == ["SELECT sum(1) FROM cpu"]
        for number in range(300):
            rows_of(engine.query(f"SELECT {number}", "default"))
        rows_of(engine.query("SELECT sum(1) FROM cpu", "default"))
        assert parsed.count("SELECT sum(1) FROM cpu") == 2


def test_queries_one_after_another_leave_nothing_to_each_other(stored: Path) -> None:
    with engine_on(stored) as engine:
        for _ in range(3):
            rows_of(engine.query("SELECT count(n) FROM cpu", "default"))
            with pytest.raises(QueryError, match="no table 'nothing'"):
                rows_of(engine.query("SELECT * FROM nothing", "default"))
            with pytest.raises(QueryError, match="there is no table 'cpu'"):
                rows_of(engine.query("SELECT * FROM cpu", "empty"))
        databases = engine.cursor().execute("SELECT database_name FROM duckdb_databases()")
        assert [name for (name,) in databases.fetchall() if name.startswith("_")] == ["_query1"]
        left = engine.cursor().execute("SELECT count(*) FROM duckdb_views() WHERE NOT internal")
        assert left.fetchone() == (0,)
