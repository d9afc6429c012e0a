"""arc-tsdb-client, synchronous and asynchronous: every method that asks, its values and types."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from arc_client import ArcClient, AsyncArcClient
from arc_client.exceptions import ArcQueryError, ArcValidationError

from tests.query.conftest import START_US, request, write
from tests.query.serving import gateway, query_process

pytestmark = pytest.mark.e2e

START = dt.datetime.fromtimestamp(START_US / 1e6, dt.UTC)
TIMES = [START + dt.timedelta(seconds=n) for n in range(3)]

#: Calls a method of the query part: ("query", "SELECT 1").
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where queries on stored tables are answered."""
    root = tmp_path_factory.mktemp("queries") / "data"
    columns: dict[str, Any] = {
        "host": ["a", None, "é"],
        "usage": [0.5, None, -1e300],
        "up": [True, None, False],
        "raw": [b"\x00", b"", None],
    }
    write(root, request("cpu", **columns), request("disk/io"))
    write(root, request("cpu", 100, 1), database="prod")
    with query_process(root) as process, gateway(process.socket) as number:
        yield number


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, port: int) -> Call:
    """One call of either client, which is closed after it."""
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": port, "token": "any"}

    def sync(method: str, *args: Any, **named: Any) -> Any:
        with ArcClient(**settings) as client:
            return getattr(client.query, method)(*args, **named)

    async def in_loop(method: str, *args: Any, **named: Any) -> Any:
        async with AsyncArcClient(**settings) as client:
            return await getattr(client.query, method)(*args, **named)

    def run(*args: Any, **named: Any) -> Any:
        return asyncio.run(in_loop(*args, **named))

    return sync if request.param == "sync" else run


def test_query_has_columns_rows_and_times_as_text(call: Call) -> None:
    found = call("query", "SELECT * FROM cpu ORDER BY time")
    assert found.success is True
    assert found.columns == ["time", "n", "host", "usage", "up", "raw"]
    assert found.data == [
        ["2026-09-21T14:13:20Z", 0, "a", 0.5, True, "AA=="],
        ["2026-09-21T14:13:21Z", 1, None, None, None, ""],
        ["2026-09-21T14:13:22Z", 2, "é", -1e300, False, None],
    ]
    assert found.row_count == 3
    assert found.execution_time_ms > 0
    assert dt.datetime.fromisoformat(found.timestamp).tzinfo == dt.UTC
    assert found.error is None


def test_query_without_a_row_has_its_columns(call: Call) -> None:
    found = call("query", "SELECT n FROM cpu WHERE n > 10")
    assert (found.success, found.columns, found.data, found.row_count) == (True, ["n"], [], 0)


@pytest.mark.parametrize(
    ("sql", "database", "want"),
    [
        ("SELECT n FROM cpu", "prod", [[100]]),
        ("SELECT n FROM prod.cpu", None, [[100]]),
        ("SELECT count(*) FROM default.cpu", None, [[3]]),
        ("SELECT count(*) FROM default.cpu", "prod", [[3]]),
        ('SELECT count(*) FROM "disk/io"', None, [[3]]),
        ("SELECT avg(usage) FROM cpu WHERE host = 'a' AND time > '2020-01-01'", None, [[0.5]]),
        ("WITH a AS (SELECT max(n) m FROM cpu) SELECT m FROM a", None, [[2]]),
    ],
)
def test_query_takes_the_database_from_the_sql_or_from_the_client(
    call: Call, sql: str, database: str | None, want: list[list[Any]]
) -> None:
    assert call("query", sql, database=database).data == want


def test_query_arrow_has_every_type(call: Call) -> None:
    table = call("query_arrow", "SELECT * FROM cpu ORDER BY time")
    assert table.schema == pa.schema(
        [
            ("time", pa.timestamp("us", "UTC")),
            ("n", pa.int64()),
            ("host", pa.string()),
            ("usage", pa.float64()),
            ("up", pa.bool_()),
            ("raw", pa.binary()),
        ]
    )
    assert table.to_pydict() == {
        "time": TIMES,
        "n": [0, 1, 2],
        "host": ["a", None, "é"],
        "usage": [0.5, None, -1e300],
        "up": [True, None, False],
        "raw": [b"\x00", b"", None],
    }


def test_query_arrow_without_a_row_has_its_types(call: Call) -> None:
    table = call("query_arrow", "SELECT time, usage FROM cpu WHERE n > 10")
    assert table.num_rows == 0
    assert table.schema.types == [pa.timestamp("us", "UTC"), pa.float64()]


def test_query_arrow_has_as_many_rows_as_there_are(call: Call) -> None:
    table = call("query_arrow", "SELECT i FROM range(300000) t(i)")
    assert table["i"].to_pylist() == list(range(300_000))


def test_query_pandas(call: Call) -> None:
    frame = call("query_pandas", "SELECT time, n, usage FROM cpu ORDER BY time")
    assert list(frame.columns) == ["time", "n", "usage"]
    assert frame["time"].tolist() == [pd.Timestamp(time) for time in TIMES]
    assert frame["n"].tolist() == [0, 1, 2]
    assert frame["usage"].isna().tolist() == [False, True, False]
    assert len(call("query_pandas", "SELECT * FROM cpu LIMIT 0")) == 0


def test_query_polars(call: Call) -> None:
    frame = call("query_polars", "SELECT time, host, n FROM cpu ORDER BY time")
    assert frame.schema == {
        "time": pl.Datetime("us", "UTC"),
        "host": pl.String,
        "n": pl.Int64,
    }
    assert frame.rows() == [(TIMES[0], "a", 0), (TIMES[1], None, 1), (TIMES[2], "é", 2)]
    assert call("query_polars", "SELECT * FROM cpu LIMIT 0").height == 0


def test_estimate(call: Call) -> None:
    found = call("estimate", "SELECT * FROM cpu")
    assert (found.success, found.estimated_rows, found.warning_level) == (True, 3, "none")
    assert found.warning_message is None
    assert found.execution_time_ms > 0
    many = call("estimate", "SELECT * FROM range(20000000)")
    assert (many.estimated_rows, many.warning_level) == (20_000_000, "high")
    assert "20000000 rows" in many.warning_message


def test_list_databases(call: Call) -> None:
    assert call("list_databases") == ["default", "prod"]


def test_show_tables(call: Call) -> None:
    found = call("show_tables")
    assert found.columns == [
        "database",
        "table_name",
        "storage_path",
        "file_count",
        "total_size_mb",
    ]
    assert [row[:4] for row in found.data] == [
        ["default", "cpu", "default/cpu", 1],
        ["default", "disk/io", "default/disk@2Fio", 1],
    ]
    assert all(0 < row[4] < 0.1 for row in found.data)
    assert [row[1] for row in call("show_tables", "prod").data] == ["cpu"]
    assert call("show_tables", "nowhere").data == []


def test_describe_and_explain(call: Call) -> None:
    found = call("query", "DESCRIBE cpu")
    assert found.columns[:2] == ["column_name", "column_type"]
    assert [row[0] for row in found.data] == ["time", "n", "host", "usage", "up", "raw"]
    assert call("query", "EXPLAIN SELECT n FROM cpu").row_count == 1


@pytest.mark.parametrize("method", ["query", "query_arrow", "query_pandas", "estimate"])
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nope", r"no table 'nope'; tables of database 'default': 'cpu'"),
        ("DROP TABLE cpu", "DROP is not allowed"),
        ("SELECT * FROM read_csv('/etc/passwd')", "'read_csv' is not allowed"),
        ("SELECT 1; SELECT 2", "found 2 statements"),
    ],
)
def test_a_refusal_is_raised_with_what_the_daemon_said(
    call: Call, method: str, sql: str, said: str
) -> None:
    with pytest.raises(ArcQueryError, match=said):
        call(method, sql)


def test_an_empty_query_does_not_leave_the_client(call: Call) -> None:
    with pytest.raises((ArcValidationError, ArcQueryError)):
        call("query", " ")


def test_a_daemon_without_its_query_process_is_a_server_error(tmp_path: Path) -> None:
    with gateway(tmp_path / "none.sock") as port, contextlib.ExitStack() as stack:
        client = stack.enter_context(ArcClient(host="127.0.0.1", port=port))
        with pytest.raises(ArcQueryError, match="Server error: the query process"):
            client.query.query("SELECT 1")
