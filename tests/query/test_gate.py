"""What SQL may say: one statement that reads, tables by name, no file and no setting."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from ingest.query.errors import QueryError
from ingest.query.gate import FORBIDDEN_FUNCTIONS, Kind, TableName, parse


@pytest.fixture(scope="module")
def parser() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET max_expression_depth = 250")
        yield connection


def names(*tables: str) -> frozenset[TableName]:
    """Tables as "name" or "database|name"."""
    return frozenset(
        TableName(*text.split("|")) if "|" in text else TableName("", text) for text in tables
    )


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT 1", []),
        ("SELECT * FROM cpu", ["cpu"]),
        ("select * from prod.cpu;", ["prod|cpu"]),
        ("SELECT * FROM default.cpu", ["default|cpu"]),
        ('SELECT * FROM "default".cpu', ["default|cpu"]),
        ("SELECT * FROM DEFAULT.cpu AS c, order.line", ["DEFAULT|cpu", "order|line"]),
        ('SELECT * FROM "disk/io" JOIN prod."win.cpu" USING (time)', ["disk/io", "prod|win.cpu"]),
        ("SELECT cpu.time, .5, 1.e3, cpu.* FROM cpu", ["cpu"]),
        ("FROM cpu SELECT n", ["cpu"]),
        ("TABLE cpu", ["cpu"]),
        ("VALUES (1), (2)", []),
        ("(SELECT 1)", []),
        ("SELECT n AS é FROM \"Ж\" -- ; DROP\n /* ; */", ["Ж"]),
        ("SELECT ';--/*' FROM cpu;;", ["cpu"]),
        ("WITH a AS (SELECT * FROM cpu) SELECT * FROM a", ["cpu"]),
        ("WITH a(x) AS MATERIALIZED (FROM cpu), b AS (FROM a) FROM b, A", ["cpu"]),
        ("WITH RECURSIVE r AS (SELECT 1 x UNION ALL SELECT x + 1 FROM r WHERE x < 3) FROM r", []),
        ("SELECT * FROM (SELECT * FROM (FROM cpu) q) s", ["cpu"]),
        ("SELECT (SELECT max(n) FROM cpu), EXISTS (FROM mem), 1 IN (SELECT n FROM disk)",
         ["cpu", "mem", "disk"]),
        ("FROM a ASOF JOIN b USING (time) LEFT JOIN c USING (x)", ["a", "b", "c"]),
        ("FROM a POSITIONAL JOIN b SEMI JOIN c USING (x)", ["a", "b", "c"]),
        ("FROM cpu, LATERAL (SELECT cpu.n)", ["cpu"]),
        ("SELECT 1 UNION ALL BY NAME SELECT 2 EXCEPT SELECT n FROM cpu", ["cpu"]),
        ("SELECT DISTINCT ON (host) * FROM cpu ORDER BY time DESC NULLS LAST LIMIT 1 OFFSET 2",
         ["cpu"]),
        ("SELECT * EXCLUDE (n) REPLACE (1 AS host), COLUMNS('a.*') FROM cpu LIMIT 10%", ["cpu"]),
        ("FROM cpu PIVOT (sum(n) FOR host IN ('a', 'b'))", ["cpu"]),
        ("FROM cpu UNPIVOT (v FOR k IN (a, b))", ["cpu"]),
        ("SELECT * FROM cpu TABLESAMPLE 10%", ["cpu"]),
        ("SELECT sum(n) FILTER (WHERE a) OVER (PARTITION BY b ORDER BY c ROWS 2 PRECEDING) FROM t",
         ["t"]),
        ("SELECT count(*) FROM t GROUP BY GROUPING SETS ((a), (b)) HAVING count(*) > 1", ["t"]),
        ("SELECT a FROM t QUALIFY row_number() OVER () = 1 ORDER BY ALL", ["t"]),
        ("SELECT time_bucket(INTERVAL '5 minutes', time) b, first(n ORDER BY time), last(n) "
         "FROM cpu WHERE time > now() - INTERVAL 1 HOUR GROUP BY ALL", ["cpu"]),
        ("SELECT date_trunc('hour', time), extract(year FROM time), n::DOUBLE, TRY_CAST(n AS INT), "
         "time AT TIME ZONE 'UTC', CASE n WHEN 1 THEN 2 END, n BETWEEN 1 AND 2 FROM cpu", ["cpu"]),
        ("SELECT [x FOR x IN [1, 2] IF x > 1], list_transform([1], lambda x: x + 1), {'a': 1}.a",
         []),
        ("FROM range(3), generate_series(1, 2), unnest([1])", []),
        ("DESCRIBE cpu", ["cpu"]),
        ("DESC default.cpu", ["default|cpu"]),
        ("DESCRIBE SELECT * FROM cpu", ["cpu"]),
        ("SHOW cpu", ["cpu"]),
        ("SUMMARIZE cpu", ["cpu"]),
        ("SELECT * FROM (DESCRIBE cpu)", ["cpu"]),
    ],
)  # fmt: skip
def test_what_reads_is_allowed_and_its_tables_are_found(
    parser: duckdb.DuckDBPyConnection, sql: str, tables: list[str]
) -> None:
    found = parse(sql, parser)
    assert found.kind is Kind.ROWS
    assert found.tables == names(*tables)


def test_a_name_that_an_expression_also_has_may_be_a_table(
    parser: duckdb.DuckDBPyConnection,
) -> None:
    found = parse("WITH cpu AS (SELECT * FROM cpu) SELECT * FROM CPU, prod.cpu", parser)
    assert found.tables == names("prod|cpu")
    assert found.maybe_tables == names("cpu", "CPU")


@pytest.mark.parametrize(
    ("sql", "run"),
    [
        ("EXPLAIN SELECT n FROM cpu", "EXPLAIN SELECT n FROM cpu"),
        ("explain analyze FROM default.cpu; -- x", 'EXPLAIN ANALYZE FROM "default".cpu'),
        ("/* é */ EXPLAIN -- x\n WITH a AS (FROM cpu) FROM a",
         "EXPLAIN WITH a AS (FROM cpu) FROM a"),
        ("EXPLAIN (SELECT n FROM cpu)", "EXPLAIN (SELECT n FROM cpu)"),
    ],
)  # fmt: skip
def test_explain_is_allowed_before_a_select(
    parser: duckdb.DuckDBPyConnection, sql: str, run: str
) -> None:
    found = parse(sql, parser)
    assert (found.kind, found.sql, found.is_explained) == (Kind.ROWS, run, True)
    assert {table.name for table in found.tables} == {"cpu"}


@pytest.mark.parametrize(
    ("sql", "kind", "database"),
    [
        ("SHOW DATABASES", Kind.DATABASES, None),
        ("show databases;", Kind.DATABASES, None),
        ("SHOW TABLES", Kind.TABLES, None),
        ("SHOW TABLES FROM prod", Kind.TABLES, "prod"),
        ("SHOW TABLES FROM default", Kind.TABLES, "default"),
        ("show tables from DEFAULT; -- all", Kind.TABLES, "DEFAULT"),
        ('SHOW TABLES FROM "default"', Kind.TABLES, "default"),
        ("SHOW ALL TABLES", Kind.TABLES, ""),
    ],
)
def test_show_is_understood(
    parser: duckdb.DuckDBPyConnection, sql: str, kind: Kind, database: str | None
) -> None:
    found = parse(sql, parser)
    assert (found.kind, found.database) == (kind, database)


@pytest.mark.parametrize(
    "sql",
    [
        *("", ";", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE cpu", "SELECT '\0'"),
        *("INSERT INTO cpu VALUES (1)", "UPDATE cpu SET n = 1", "DELETE FROM cpu"),
        *("CREATE TABLE t (a INT)", "CREATE VIEW v AS SELECT 1", "DROP TABLE cpu", "TRUNCATE cpu"),
        *("CREATE TEMP MACRO f() AS 1", "CREATE SECRET (TYPE s3)", "ALTER TABLE cpu ADD x INT"),
        *("COPY (SELECT 1) TO 'x.csv'", "COPY cpu FROM 'x.csv'", "EXPORT DATABASE 'x'"),
        *("IMPORT DATABASE 'x'", "ATTACH 'x.db'", "ATTACH ':memory:' AS m", "DETACH m", "USE m"),
        *("INSTALL httpfs", "LOAD httpfs", "FORCE INSTALL httpfs", "UPDATE EXTENSIONS"),
        *("SET threads = 1", "SET VARIABLE a = 1", "RESET threads", "PRAGMA version"),
        *("PRAGMA table_info('cpu')", "CALL pragma_version()", "CHECKPOINT", "VACUUM", "ANALYZE"),
        *("BEGIN", "COMMIT", "ROLLBACK", "PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p"),
        *("SELECT * INTO t FROM cpu", "SELECT $1", "SELECT ?", "PIVOT cpu ON host USING sum(n)"),
        "WITH x AS (INSERT INTO cpu VALUES (1) RETURNING *) SELECT * FROM x",
        "WITH x AS (DELETE FROM cpu RETURNING *) SELECT * FROM x",
        "WITH x AS (UPDATE cpu SET n = 1 RETURNING *) SELECT * FROM x",
        *("EXPLAIN COPY (SELECT 1) TO 'x'", "EXPLAIN INSERT INTO cpu VALUES (1)", "EXPLAIN"),
        *("EXPLAIN (FORMAT json) SELECT 1", "EXPLAIN ANALYZE DELETE FROM cpu", "EXPLAIN SHOW"),
        *("FROM read_csv('/etc/passwd')", "FROM read_parquet('x')", "FROM parquet_scan('x')"),
        *("FROM read_text('/etc/passwd')", "FROM read_blob('x')", "FROM read_json('x')"),
        *("FROM glob('/etc/*')", "FROM sniff_csv('x')", "FROM parquet_metadata('x')"),
        *("FROM duckdb_settings()", "FROM DuckDB_Databases()", "FROM duckdb_secrets()"),
        *("FROM pragma_table_info('cpu')", "FROM query('DROP TABLE cpu')", "FROM query_table('x')"),
        *("FROM json_execute_serialized_sql('{}')", "FROM arrow_scan(1, 2, 3)", "FROM seq_scan()"),
        *("FROM system.main.read_text('x')", "FROM \"READ_CSV\"('x')", "FROM checkpoint()"),
        "SELECT (SELECT count(*) FROM read_csv('/etc/passwd'))",
        "SELECT * FROM cpu WHERE n IN (FROM glob('*'))",
        "WITH x AS (FROM read_text('/etc/passwd')) FROM x",
        "SELECT * FROM cpu JOIN read_csv('x') USING (n)",
        *("SELECT * FROM memory.main.cpu", "FROM system.information_schema.tables"),
        *("FROM (SHOW TABLES)", "FROM (SHOW DATABASES)", "SHOW TABLES FROM a.b"),
        "SELECT " + "(" * 300 + "1" + ")" * 300,
        "SELECT " + "[" * 5_000 + "]" * 5_000,
        "SELECT " + "+".join(["1"] * 5_000),
        *(f"SELECT {name}('a')" for name in sorted(FORBIDDEN_FUNCTIONS)),
        *("SELECT __internal_decompress_string('a')", "SELECT duckdb_x()", "SELECT GETENV('A')"),
        *("SELEC 1", "SELECT FROM WHERE", "SELECT 'open", "SELECT /* open"),
    ],
)
def test_everything_else_is_refused(parser: duckdb.DuckDBPyConnection, sql: str) -> None:
    with pytest.raises(QueryError):
        parse(sql, parser)


@pytest.mark.parametrize("path", ["/etc/passwd", "/x/a.parquet", "s3://b/k.parquet", "*.csv"])
def test_a_path_is_a_table_that_there_is_not(parser: duckdb.DuckDBPyConnection, path: str) -> None:
    assert parse(f"FROM '{path}'", parser).tables == names(path)
    assert parse(f'FROM "{path}"', parser).tables == names(path)


def test_a_refusal_says_what_was_found_and_what_is_wanted(
    parser: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(QueryError, match="type DROP is not allowed: wanted SELECT, SHOW"):
        parse("DROP TABLE cpu", parser)
    with pytest.raises(QueryError, match="found 2 statements, wanted one"):
        parse("SELECT 1; SELECT 2", parser)
    with pytest.raises(QueryError, match=r"table function 'read_csv' is not allowed"):
        parse("FROM read_csv('x')", parser)
    with pytest.raises(QueryError, match="syntax error"):
        parse("SELEC 1", parser)
