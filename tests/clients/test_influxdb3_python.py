"""influxdb3-python, for InfluxDB 3: what its ways to write sent, and its questions."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd
import polars as pl
import pytest
from influxdb_client_3 import (
    InfluxDBClient3,
    Point,
    WriteOptions,
    WriteType,
    write_client_options,
)
from influxdb_client_3.exceptions import InfluxDBError

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import Values, booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_S = 1_790_000_000
NOW_US = NOW_S * 1_000_000
NOW = dt.datetime(2026, 9, 21, 14, 13, 20, tzinfo=dt.UTC)

SYNCHRONOUS = {"write_type": WriteType.synchronous}


def connect(
    daemon: Daemon, database: str, options: dict[str, Any] | None = None, **settings: Any
) -> InfluxDBClient3:
    """A client, to be closed; without options as it comes."""
    if options is not None:
        settings["write_client_options"] = write_client_options(
            write_options=WriteOptions(**options)
        )
    return InfluxDBClient3(host=daemon.url, token="any", database=database, **settings)


def points() -> list[Point]:
    """Two points with every type of a field."""
    first = Point("a b").tag("host", "x, y=z").field("f", 0.1).field("i", -(2**63))
    second = Point("a b").tag("host", "b").field("i", 2**63 - 1).field("b", False)
    return [
        first.field("b", True).field("s", 'say "é"').time(NOW),
        second.time(NOW + dt.timedelta(microseconds=7)),
    ]


POINTS = {
    "time": times(NOW_US, NOW_US + 7),
    "host": texts("x, y=z", "b"),
    "f": floats(0.1, None),
    "i": integers(-(2**63), 2**63 - 1),
    "b": booleans(True, False),
    "s": texts('say "é"', None),
}


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v3"])
def test_points_are_stored_with_every_type(
    live: Daemon,
    database: str,
    stored: Reader,
    tags: Callable[..., set[str]],
    gzip: bool,
    v2: bool,
) -> None:
    settings: dict[str, Any] = {"enable_gzip": gzip, "write_use_v2_api": v2}
    with connect(live, database, **settings) as client:
        client.write(points())
    assert stored("a b") == POINTS
    assert tags("a b") == {"host"}


@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v3"])
@pytest.mark.parametrize(
    ("precision", "per_s"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_every_precision(
    live: Daemon, database: str, stored: Reader, v2: bool, precision: str, per_s: int
) -> None:
    last = 0 if precision == "s" else 123
    with connect(live, database, write_use_v2_api=v2) as client:
        client.write(f"m x=1 {NOW_S * per_s + last}", write_precision=precision)
    assert stored("m")["time"] == times(NOW_US + last * 1_000_000 // per_s)


def test_what_is_special_to_version_3_is_taken(live: Daemon, database: str, stored: Reader) -> None:
    options = SYNCHRONOUS | {"use_v2_api": False, "no_sync": True, "accept_partial": False}
    with connect(live, database, options) as client:
        client.write(f"m x=1 {NOW_US}000")
    assert stored("m")["x"] == floats(1.0)


def test_dictionaries_and_lines(live: Daemon, database: str, stored: Reader) -> None:
    record = {"measurement": "m", "tags": {"t": "d"}, "fields": {"x": 1.5}, "time": NOW}
    with connect(live, database) as client:
        client.write(record)
        client.write([f"m,t=a x=2.5 {NOW_US + 1}000", f"m,t=b x=3.5 {NOW_US + 2}000"])
    assert stored("m") == {
        "time": times(NOW_US, NOW_US + 1, NOW_US + 2),
        "t": texts("d", "a", "b"),
        "x": floats(1.5, 2.5, 3.5),
    }


FRAME: dict[str, Values] = {
    "time": times(NOW_US, NOW_US + 1_000_000),
    "host": texts("a", "b"),
    "f": floats(0.5, None),
    "i": integers(1, 2**62),
    "b": booleans(True, False),
    "s": texts("é", None),
}


# Before pandas 3 strings are objects, and times nanoseconds.
@pytest.mark.parametrize(("strings", "unit"), [("object", "ns"), ("str", "us"), ("str", "s")])
def test_data_frames_of_pandas(
    live: Daemon, database: str, stored: Reader, strings: str, unit: str
) -> None:
    at = pd.Series([NOW, NOW + dt.timedelta(seconds=1)]).astype(f"datetime64[{unit}, UTC]")
    frame = pd.DataFrame(
        {
            "at": at,
            "host": pd.Categorical(["a", "b"]),
            "f": [0.5, float("nan")],
            "i": [1, 2**62],
            "b": [True, False],
            "s": pd.Series(["é", None], dtype=strings),
        }
    )
    with connect(live, database) as client:
        client.write_dataframe(frame, "frame", timestamp_column="at", tags=["host"])
    assert stored("frame") == FRAME


def test_data_frames_of_polars(live: Daemon, database: str, stored: Reader) -> None:
    frame = pl.DataFrame(
        {
            "at": [NOW, NOW + dt.timedelta(seconds=1)],
            "host": ["a", "b"],
            "f": [0.5, None],
            "i": [1, 2**62],
            "b": [True, False],
            "s": ["é", None],
        }
    )
    with connect(live, database) as client:
        client.write_dataframe(frame, "frame", timestamp_column="at", tags=["host"])
    assert stored("frame") == FRAME


def test_batching_sends_everything_before_it_closes(
    live: Daemon, database: str, stored: Reader
) -> None:
    with connect(live, database, {"batch_size": 7, "flush_interval": 60_000}) as client:
        client.write([f"m i={i}i {NOW_US + i}000" for i in range(50)])
    assert stored("m") == {
        "time": times(*[NOW_US + i for i in range(50)]),
        "i": integers(*range(50)),
    }


@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v3"])
def test_a_refusal_is_raised_with_the_line(live: Daemon, database: str, v2: bool) -> None:
    with (
        connect(live, database, write_use_v2_api=v2) as client,
        pytest.raises(InfluxDBError) as raised,
    ):
        client.write("m x=1 1\nm x=one 2")
    assert "line 2" in str(raised.value)
    assert "one" in str(raised.value)


def test_batching_comes_again_after_a_503_and_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    options = {"batch_size": 2, "retry_interval": 100}
    with full() as relent:
        client = connect(narrow, database, options)
        client.write([f"m x=1 {NOW_US}000", f"m x=2 {NOW_US + 1}000"])
        relent()
        closing = threading.Thread(target=client.close)
        closing.start()
        closing.join(30)
    assert not closing.is_alive()
    assert stored("m", of=narrow) == {"time": times(NOW_US, NOW_US + 1), "x": floats(1.0, 2.0)}


def test_its_question(live: Daemon, database: str) -> None:
    with connect(live, database) as client:
        assert client.get_server_version().startswith("1.8")
