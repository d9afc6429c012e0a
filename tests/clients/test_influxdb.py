"""influxdb, the client for InfluxDB 1: what it wrote, read back, and what it asks."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd
import pytest

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import booleans, floats, integers, texts, times

with warnings.catch_warnings():
    # Of datetime.utcfromtimestamp, which the package calls when it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from influxdb import DataFrameClient, InfluxDBClient
    from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError

pytestmark = pytest.mark.e2e

NOW_S = 1_790_000_000
NOW_US = NOW_S * 1_000_000
NOW = dt.datetime(2026, 9, 21, 14, 13, 20, 123456)


def connect(daemon: Daemon, database: str, **settings: Any) -> InfluxDBClient:
    """A client, to be closed."""
    return InfluxDBClient("127.0.0.1", daemon.port, "user", "any", database, **settings)


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
def test_write_points_stores_every_type(
    live: Daemon, database: str, stored: Reader, tags: Callable[..., set[str]], gzip: bool
) -> None:
    point = {
        "measurement": "my cpu,x",
        "tags": {"host": "a b,c=d", "shared": "own"},
        "time": NOW,
        "fields": {"f": 0.1, "i": -(2**63), "b": True, "s": 'q"\\x', "none": None},
    }
    plain = {
        "measurement": "my cpu,x",
        "time": "2026-09-21T14:13:21Z",
        "fields": {"f": 1.0, "b": False},
    }
    with connect(live, database, gzip=gzip) as client:
        assert client.write_points([point, plain], tags={"shared": "all"})
    assert stored("my cpu,x") == {
        "time": times(NOW_US + 123_456, NOW_US + 1_000_000),
        "host": texts("a b,c=d", None),
        "shared": texts("own", "all"),
        "f": floats(0.1, 1.0),
        "i": integers(-(2**63), None),
        "b": booleans(True, False),
        "s": texts('q"\\x', None),
    }
    assert tags("my cpu,x") == {"host", "shared"}


@pytest.mark.parametrize(
    ("precision", "unit_us"),
    [("n", None), ("u", 1), ("ms", 10**3), ("s", 10**6), ("m", 60 * 10**6), ("h", 3600 * 10**6)],
)
def test_every_precision(
    live: Daemon, database: str, stored: Reader, precision: str, unit_us: int | None
) -> None:
    at_us = NOW_S // 3600 * 3600 * 10**6
    at = at_us * 1000 if unit_us is None else at_us // unit_us
    points = [{"measurement": "m", "fields": {"x": 1.5}, "time": at}]
    with connect(live, database) as client:
        client.write_points(points, time_precision=precision, retention_policy="autogen")
    assert stored("m") == {"time": times(at_us), "x": floats(1.5)}


def test_lines_in_batches_with_a_consistency(live: Daemon, database: str, stored: Reader) -> None:
    lines = [f"m i={i}i {NOW_US + i}" for i in range(25)]
    with connect(live, "elsewhere") as client:
        client.write_points(
            lines, "u", database=database, protocol="line", batch_size=10, consistency="any"
        )
    assert stored("m")["i"] == integers(*range(25))


# Before pandas 3 an index of times is in nanoseconds. From then on it is in microseconds, which
# this client, made for the former, sends as nanoseconds: docs/clients/influxdb-clients.md.
@pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes")
@pytest.mark.parametrize("precision", [None, "ms", "s"])
def test_data_frames(live: Daemon, database: str, stored: Reader, precision: str | None) -> None:
    frame = pd.DataFrame(
        {"f": [0.5, 1.5], "i": [1, 2], "b": [True, False], "host": ["a", "b"], "s": ["x", "é"]},
        index=pd.to_datetime(["2026-09-21T14:13:20", "2026-09-21T14:13:21"]).astype(
            "datetime64[ns]"
        ),
    )
    with DataFrameClient("127.0.0.1", live.port, "user", "any", database) as client:
        client.write_points(frame, "frame", tag_columns=["host"], time_precision=precision)
    assert stored("frame") == {
        "time": times(NOW_US, NOW_US + 1_000_000),
        "host": texts("a", "b"),
        "f": floats(0.5, 1.5),
        "i": integers(1, 2),
        "b": booleans(True, False),
        "s": texts("x", "é"),
    }


def test_a_refusal_is_raised_with_the_line(live: Daemon, database: str) -> None:
    with connect(live, database) as client:
        with pytest.raises(InfluxDBClientError, match=r"line 2.*one") as raised:
            client.write_points(["m x=1 1", "m x=one 2"], protocol="line")
        assert raised.value.code == 400


def test_a_full_daemon_is_a_server_error(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    lines = [f"m x=1 {NOW_US}000"]
    with connect(narrow, database) as client:
        with full() as relent:
            with pytest.raises(InfluxDBServerError, match="ARC_MEMORY_BYTES"):
                client.write_points(lines, protocol="line")  # it does not retry
            relent()
        client.write_points(lines, protocol="line")
    assert stored("m", of=narrow)["x"] == floats(1.0)


def test_its_questions(live: Daemon, database: str) -> None:
    with connect(live, database) as client:
        assert client.ping().startswith("1.8")
        client.create_database(database)
        with pytest.raises(InfluxDBClientError, match="InfluxQL"):
            client.query("SELECT * FROM m")
