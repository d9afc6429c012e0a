"""arc-tsdb-client, synchronous and asynchronous: what it wrote, read back; what it is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from arc_client import ArcClient, AsyncArcClient
from arc_client.exceptions import ArcError, ArcIngestionError, ArcValidationError

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_US = 1_790_000_000_123_456
NOW = dt.datetime(2026, 9, 21, 14, 13, 20, 123456)  # the same, UTC

#: Calls a method of one part of a client: ("write", "write_point", …).
Call = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, live: Daemon) -> Call:
    """One call of either client, which is closed after it."""
    return caller(live.port, request.param)


def caller(port: int, kind: str) -> Call:
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": port, "token": "any"}

    def sync(part: str, method: str, *args: Any, **named: Any) -> Any:
        with ArcClient(**settings) as client:
            return getattr(getattr(client, part), method)(*args, **named)

    async def in_loop(part: str, method: str, *args: Any, **named: Any) -> Any:
        async with AsyncArcClient(**settings) as client:
            return await getattr(getattr(client, part), method)(*args, **named)

    def run(*args: Any, **named: Any) -> Any:
        return asyncio.run(in_loop(*args, **named))

    return sync if kind == "sync" else run


# --- columns and records -----------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
def test_write_columnar_stores_every_type(
    call: Call, database: str, stored: Reader, compress: bool
) -> None:
    columns = {
        "time": [NOW_US, NOW_US + 1, NOW_US + 2],
        "host": ["a", "b", None],
        "usage": [0.1, None, -1e300],
        "count": [2**63 - 1, -(2**63), None],
        "up": [True, None, False],
    }
    call("write", "write_columnar", "cpu", columns, database=database, compress=compress)
    assert stored("cpu") == {
        "time": times(NOW_US, NOW_US + 1, NOW_US + 2),
        "host": texts("a", "b", None),
        "usage": floats(0.1, None, -1e300),
        "count": integers(2**63 - 1, -(2**63), None),
        "up": booleans(True, None, False),
    }


@pytest.mark.parametrize(
    ("unit", "value", "want_us"),
    [
        ("s", 1_790_000_000, 1_790_000_000_000_000),
        ("ms", 1_790_000_000_123, 1_790_000_000_123_000),
        ("us", NOW_US, NOW_US),
    ],
)
def test_write_columnar_knows_units(
    call: Call, database: str, stored: Reader, unit: str, value: int, want_us: int
) -> None:
    call("write", "write_columnar", "u", {"time": [value], "x": [1]}, database, time_unit=unit)
    assert stored("u")["time"] == times(want_us)


def test_write_columnar_without_times_gets_those_of_the_client(
    call: Call, database: str, stored: Reader
) -> None:
    before_us = time.time_ns() // 1000
    call("write", "write_columnar", "now", {"x": [1, 2]}, database)
    found = stored("now")["time"][1]
    assert before_us <= found[0] <= time.time_ns() // 1000
    assert found[1] == found[0] + 1


def test_write_records_keeps_tags_fields_and_their_types(
    call: Call, database: str, stored: Reader, tags: Callable[..., set[str]]
) -> None:
    records = [
        {
            "measurement": "cpu",
            "timestamp": NOW_US,
            "fields": {"usage": 45.2, "n": 1, "ok": True, "note": "é"},
            "tags": {"host": "a", "rack": "7"},
        },
        {"measurement": "mem", "timestamp": NOW_US, "fields": {"free": 5}, "tags": {}},
        {
            "measurement": "cpu",
            "timestamp": NOW_US + 1,
            "fields": {"usage": 46, "extra": "x"},
            "tags": {"host": "b"},
        },
    ]
    call("write", "write_records", records, database=database)
    assert stored("cpu") == {
        "time": times(NOW_US, NOW_US + 1),
        "host": texts("a", "b"),
        "rack": texts("7", None),
        "usage": floats(45.2, 46.0),
        "n": integers(1, None),
        "ok": booleans(True, None),
        "note": texts("é", None),
        "extra": texts(None, "x"),
    }
    assert stored("mem") == {"time": times(NOW_US), "free": integers(5)}
    assert tags("cpu") == {"host", "rack"}


def test_write_records_keeps_a_field_that_is_named_as_a_tag(
    call: Call, database: str, stored: Reader
) -> None:
    record = {"measurement": "m", "timestamp": NOW_US, "fields": {"a": 1}, "tags": {"a": "t"}}
    call("write", "write_records", [record], database=database)
    assert stored("m") == {"time": times(NOW_US), "a": texts("t"), "a_value": integers(1)}


# --- line protocol -----------------------------------------------------------------------------


@pytest.mark.parametrize("as_list", [True, False], ids=["list", "text"])
def test_write_line_protocol(call: Call, database: str, stored: Reader, as_list: bool) -> None:
    lines = [
        f'cpu,host=a usage=45.2,n=3i,ok=true,s="x y" {NOW_US}000',
        f"cpu,host=b usage=46 {NOW_US + 1}999",
    ]
    sent = lines if as_list else "\n".join(lines)
    call("write", "write_line_protocol", sent, database=database, compress=as_list)
    assert stored("cpu") == {
        "time": times(NOW_US, NOW_US + 1),
        "host": texts("a", "b"),
        "usage": floats(45.2, 46.0),
        "n": integers(3, None),
        "ok": booleans(True, None),
        "s": texts("x y", None),
    }


def test_write_point(
    call: Call, database: str, stored: Reader, tags: Callable[..., set[str]]
) -> None:
    fields = {"f": 1.5, "i": -7, "b": False, "s": 'a "quote", a \\ and = sign', "k=,": 1.0}
    point = {"tags": {"t a": "x, y=z", "gone": ""}, "timestamp": NOW_US, "database": database}
    call("write", "write_point", "my point", fields, **point)
    assert stored("my point") == {
        "time": times(NOW_US),
        "t a": texts("x, y=z"),
        "f": floats(1.5),
        "i": integers(-7),
        "b": booleans(False),
        "s": texts('a "quote", a \\ and = sign'),
        "k=,": floats(1.0),
    }
    assert tags("my point") == {"t a"}


def test_write_point_without_a_time_gets_that_of_the_daemon(
    call: Call, database: str, stored: Reader
) -> None:
    before_us = time.time_ns() // 1000
    call("write", "write_point", "now", {"f": 1.0}, database=database)
    assert before_us <= stored("now")["time"][1][0] <= time.time_ns() // 1000


# --- data frames -------------------------------------------------------------------------------

FRAME = {
    "host": texts("a", None),
    "usage": floats(0.25, None),
    "n": integers(1, 2**62),
    "up": booleans(True, False),
}


def pandas_frame(strings: str) -> pd.DataFrame:
    """Two rows; "object" makes strings as pandas 2 has them, "str" as pandas 3."""
    return pd.DataFrame(
        {
            "time": [NOW_US, NOW_US + 1],
            "host": pd.Series(["a", None], dtype=strings),
            "usage": [0.25, float("nan")],
            "n": [1, 2**62],
            "up": [True, False],
        }
    )


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """A missing number of pandas is sent as the number NaN, and stored so: here a None."""
    kind, numbers = values["usage"]
    return values | {"usage": (kind, [None if x != x else x for x in numbers])}


# Before pandas 3 strings are objects, None or NaN where one is missing, and times nanoseconds.
@pytest.mark.parametrize("strings", ["object", "str"], ids=["pandas 2", "pandas 3"])
def test_write_dataframe_of_pandas(call: Call, database: str, stored: Reader, strings: str) -> None:
    frame = pandas_frame(strings)
    call("write", "write_dataframe", frame, "frame", database=database)
    assert without_nan(stored("frame")) == FRAME | {"time": times(NOW_US, NOW_US + 1)}


def test_write_dataframe_of_pandas_2_may_have_nan_for_a_missing_string(
    call: Call, database: str, stored: Reader
) -> None:
    hosts = pd.Series(["a", float("nan")], dtype=object)
    frame = pandas_frame("object").assign(host=hosts)
    call("write", "write_dataframe", frame, "frame", database=database)
    assert stored("frame")["host"] == texts("a", None)


# The client divides whatever unit the column has by 1000: of datetime64[ns], the only one before
# pandas 3, it makes microseconds; of [us], the default of pandas 3, milliseconds; of [ms] seconds.
@pytest.mark.parametrize(
    ("unit", "lost_us"), [("ns", 0), ("us", 456), ("ms", 123_456)], ids=["ns", "us", "ms"]
)
def test_write_dataframe_of_pandas_tells_the_unit_of_its_times(
    call: Call, database: str, stored: Reader, unit: str, lost_us: int
) -> None:
    frame = pd.DataFrame({"time": pd.Series([NOW]).astype(f"datetime64[{unit}]"), "x": [1]})
    call("write", "write_dataframe", frame, "frame", database=database)
    assert stored("frame") == {"time": times(NOW_US - lost_us), "x": integers(1)}


def test_write_dataframe_of_pandas_with_a_time_zone_and_another_name_of_its_times(
    call: Call, database: str, stored: Reader
) -> None:
    at = pd.Series([NOW]).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo").astype(
        "datetime64[ns, Asia/Tokyo]"
    )  # fmt: skip
    frame = pd.DataFrame({"at": at, "x": [1]})
    call("write", "write_dataframe", frame, "frame", database, time_column="at")
    assert stored("frame") == {"time": times(NOW_US), "x": integers(1)}


def test_write_dataframe_of_polars(call: Call, database: str, stored: Reader) -> None:
    frame = pl.DataFrame(
        {
            "time": [NOW_US, NOW_US + 1],
            "host": ["a", None],
            "usage": [0.25, None],
            "n": [1, 2**62],
            "up": [True, False],
        }
    )
    call("write", "write_dataframe", frame, "frame", database=database)
    assert stored("frame") == FRAME | {"time": times(NOW_US, NOW_US + 1)}


def test_write_dataframe_of_polars_needs_times_as_numbers_or_the_client_refuses(
    call: Call, database: str
) -> None:
    frame = pl.DataFrame({"time": [NOW], "x": [1]})
    with pytest.raises(ArcValidationError, match="Int64"):
        call("write", "write_dataframe", frame, "frame", database=database)
    numbers = frame.with_columns(pl.col("time").dt.epoch("us"))
    call("write", "write_dataframe", numbers, "frame", database=database)


def test_write_dataframe_of_arrow(call: Call, database: str, stored: Reader) -> None:
    table = pa.table({"time": [NOW_US], "x": np.array([1], np.int16), "s": ["a"]})
    call("write", "write_dataframe", table, "frame", database=database)
    assert stored("frame") == {"time": times(NOW_US), "x": integers(1), "s": texts("a")}


# --- buffered ----------------------------------------------------------------------------------


def records(count: int) -> list[dict[str, Any]]:
    """Records of two measurements; every third has a field of its own."""
    return [
        {
            "measurement": "odd" if i % 2 else "even",
            "timestamp": NOW_US + i,
            "fields": {"i": i} | ({"third": i / 2} if i % 3 == 0 else {}),
            "tags": {"host": f"h{i % 5}"},
        }
        for i in range(count)
    ]


def check_records(stored: Reader, database: str) -> None:
    for name, start in (("even", 0), ("odd", 1)):
        want = range(start, 50, 2)
        assert stored(name, database) == {
            "time": times(*[NOW_US + i for i in want]),
            "i": integers(*want),
            "third": floats(*[i / 2 if i % 3 == 0 else None for i in want]),
            "host": texts(*[f"h{i % 5}" for i in want]),
        }


def test_buffered_writes_everything_in_batches(live: Daemon, database: str, stored: Reader) -> None:
    with (
        ArcClient(host="127.0.0.1", port=live.port, database=database) as client,
        client.write.buffered(batch_size=10) as buffer,
    ):
        for record in records(50):
            buffer.write(record)
        buffer.write_columnar("columns", {"time": [NOW_US], "x": [1]})
        buffer.flush()
        assert buffer.pending_count == 0
    check_records(stored, database)
    assert stored("columns") == {"time": times(NOW_US), "x": integers(1)}


async def test_buffered_writes_everything_in_batches_asynchronously(
    live: Daemon, database: str, stored: Reader
) -> None:
    async with (
        AsyncArcClient(host="127.0.0.1", port=live.port, database=database) as client,
        client.write.buffered(batch_size=10) as buffer,
    ):
        for record in records(50):
            await buffer.write(record)
        await buffer.write_columnar("columns", {"time": [NOW_US], "x": [1]})
        await buffer.flush()
        assert buffer.pending_count == 0
    check_records(stored, database)
    assert stored("columns") == {"time": times(NOW_US), "x": integers(1)}


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        (
            "write_columnar",
            ("m", {"time": [NOW_US, NOW_US], "x": [1, "one"]}),
            r"measurement 'm': column 'x', row 1.*found a string, wanted an integer",
        ),
        ("write_columnar", ("a\0b", {"time": [NOW_US], "x": [1]}), "measurement"),
        (
            "write_records",
            ([{"measurement": "m", "timestamp": NOW_US, "fields": {"x": {"y": 1}}}],),
            r"'m'.*'x'",
        ),
        ("write_line_protocol", ("m x=1 1\nm x=one 2",), r"line 2.*one"),
        ("write_point", ("m", {"x": float("nan")}), r"line 1.*nan"),
        (
            "write_dataframe",
            (pd.DataFrame({"time": [True], "x": [1]}), "m"),
            r"measurement 'm'.*time",
        ),
    ],
    ids=["columnar", "name", "records", "line protocol", "point", "data frame"],
)
def test_a_refusal_is_raised_with_what_the_daemon_said(
    call: Call, database: str, method: str, arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(ArcIngestionError, match=r"Request failed \(400\): .*" + said):
        call("write", method, *arguments, database=database)


def test_a_refusal_of_a_buffered_write_is_raised_when_it_is_flushed(
    live: Daemon, database: str
) -> None:
    with ArcClient(host="127.0.0.1", port=live.port, database=database) as client:
        buffer = client.write.buffered()
        buffer.write({"measurement": "m", "fields": {"x": 1}})
        buffer.write({"measurement": "m", "fields": {"x": "one"}})
        with pytest.raises(ArcIngestionError, match=r"400.*column 'x', row 1"):
            buffer.close()


def test_a_bad_name_of_the_database_is_told(call: Call) -> None:
    with pytest.raises(ArcIngestionError, match=r"400.*database"):
        call("write", "write_columnar", "m", {"time": [NOW_US], "x": [1]}, database="../x")


def test_a_full_daemon_is_a_server_error_with_its_reason(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    write = caller(narrow.port, "sync")
    arguments = ("write", "write_columnar", "m", {"time": [NOW_US], "x": [1]}, database)
    with full() as relent:
        with pytest.raises(ArcIngestionError, match=r"Server error: .*ARC_MEMORY_BYTES"):
            write(*arguments)  # it does not retry
        relent()
    write(*arguments)
    assert stored("m", of=narrow)["x"] == integers(1)


# --- what it asks ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_health_and_ready(live: Daemon, kind: str) -> None:
    if kind == "sync":
        with ArcClient(host="127.0.0.1", port=live.port) as client:
            health, ready = client.health(), client.ready()
    else:
        health, ready = asyncio.run(_health(live.port))
    assert health.status == "ok"
    assert health.version
    assert health.uptime is not None
    assert health.uptime.endswith("s")
    assert ready is True


async def _health(port: int) -> tuple[Any, bool]:
    async with AsyncArcClient(host="127.0.0.1", port=port) as client:
        return await client.health(), await client.ready()


def test_list_measurements(call: Call, database: str, stored: Reader) -> None:
    for name in ("cpu", "disk/io"):
        call("write", "write_columnar", name, {"time": [NOW_US], "x": [1]}, database=database)
        stored(name)
    found = call("query", "list_measurements", database)
    assert [(entry.database, entry.measurement) for entry in found] == [
        (database, "cpu"),
        (database, "disk/io"),
    ]
    for entry in found:
        assert entry.file_count == 1
        assert 0 < entry.total_size_mb < 0.1
        assert entry.storage_path
    everywhere = call("query", "list_measurements")
    assert {(database, "cpu"), (database, "disk/io")} <= {
        (entry.database, entry.measurement) for entry in everywhere
    }


def test_list_measurements_of_a_database_that_there_is_not_is_empty(call: Call) -> None:
    assert call("query", "list_measurements", "nowhere") == []


def test_two_threads_may_share_a_client(live: Daemon, database: str, stored: Reader) -> None:
    with ArcClient(host="127.0.0.1", port=live.port, database=database) as client:

        def write(start: int) -> None:
            for i in range(start, start + 20):
                client.write.write_columnar("shared", {"time": [NOW_US + i], "i": [i]})

        threads = [threading.Thread(target=write, args=(n * 20,)) for n in range(2)]
        client.write.write_columnar("shared", {"time": [NOW_US + 40], "i": [40]})
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stored("shared")["i"] == integers(*range(41))


def test_what_there_is_not_yet_is_told_as_such(call: Call) -> None:
    with pytest.raises(ArcError, match=r"(?i)not found"):
        call("auth", "list_tokens")
