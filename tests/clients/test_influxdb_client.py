"""influxdb-client, for InfluxDB 2: its three ways to write, what they sent, and its questions."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import pytest
from influxdb_client import InfluxDBClient, Point, WriteOptions, WritePrecision
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.client.write.retry import WritesRetry
from influxdb_client.client.write_api import ASYNCHRONOUS, SYNCHRONOUS, PointSettings
from influxdb_client.rest import ApiException

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import Values, booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_S = 1_790_000_000
NOW_US = NOW_S * 1_000_000
NOW = dt.datetime(2026, 9, 21, 14, 13, 20, tzinfo=dt.UTC)


def connect(daemon: Daemon, **settings: Any) -> InfluxDBClient:
    """A client, to be closed."""
    return InfluxDBClient(daemon.url, token="any", org="ignored", **settings)


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def client(live: Daemon, request: pytest.FixtureRequest) -> Iterator[InfluxDBClient]:
    """A client of the common daemon."""
    with connect(live, enable_gzip=request.param) as found:
        yield found


def points() -> list[Point]:
    """Two points with every type of a field and text that has to be escaped."""
    first = Point("a b,c").tag("host", "x, y=z").tag("é", "ü").field("f", 0.1).field("i", -(2**63))
    second = Point("a b,c").tag("host", "b").field("f", 1).field("i", 2**63 - 1)
    return [
        first.field("b", True).field("s", 'say "a\\b"\nnew line').time(NOW),
        second.field("b", False).field("f", 1e21).time(NOW + dt.timedelta(microseconds=7)),
    ]


POINTS = {
    "time": times(NOW_US, NOW_US + 7),
    "host": texts("x, y=z", "b"),
    "é": texts("ü", None),
    "f": floats(0.1, 1e21),
    "i": integers(-(2**63), 2**63 - 1),
    "b": booleans(True, False),
    "s": texts('say "a\\b"\nnew line', None),
}


def test_points_are_stored_with_every_type(
    client: InfluxDBClient, database: str, stored: Reader, tags: Callable[..., set[str]]
) -> None:
    client.write_api(SYNCHRONOUS).write(database, record=points())
    assert stored("a b,c") == POINTS
    assert tags("a b,c") == {"host", "é"}


@pytest.mark.parametrize(
    ("precision", "per_s"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_every_precision(
    client: InfluxDBClient, database: str, stored: Reader, precision: str, per_s: int
) -> None:
    unit: Any = getattr(WritePrecision, precision.upper())
    last = 0 if precision == "s" else 123
    write = client.write_api(SYNCHRONOUS).write
    write(database, record=f"m x=1 {NOW_S * per_s + last}", write_precision=unit)
    late = NOW + dt.timedelta(seconds=1)
    write(database, record=Point("m").field("x", 2.0).time(late, unit), write_precision=unit)
    first_us = NOW_US + last * 1_000_000 // per_s  # ns is rounded towards the past
    assert stored("m") == {"time": times(first_us, NOW_US + 1_000_000), "x": floats(1.0, 2.0)}


def test_dictionaries_lines_bytes_and_lists_of_them(
    client: InfluxDBClient, database: str, stored: Reader
) -> None:
    record = {"measurement": "m", "tags": {"t": "d"}, "fields": {"x": 1.5}, "time": NOW}
    line = f"m,t=l x=2.5 {NOW_US + 1}000"
    more = [f"m,t=l2 x=3.5 {NOW_US + 2}000", record | {"time": NOW + dt.timedelta(seconds=1)}]
    write = client.write_api(SYNCHRONOUS, point_settings=PointSettings(dc="ams")).write
    for sent in (record, line, f"m,t=b x=4.5 {NOW_US + 3}000\n".encode(), more):
        write(database, record=sent)
    assert stored("m") == {
        "time": times(*[NOW_US + i for i in (0, 1, 2, 3, 1_000_000)]),
        "t": texts("d", "l", "l2", "b", "d"),
        "dc": texts("ams", None, None, None, "ams"),
        "x": floats(1.5, 2.5, 3.5, 4.5, 1.5),
    }


def test_numbers_of_numpy_are_numbers_and_what_is_not_a_number_is_not_sent(
    client: InfluxDBClient, database: str, stored: Reader
) -> None:
    point = Point("m").field("u", np.uint64(3)).field("f", np.float32(1.5)).field("none", None)
    point.field("nan", float("nan")).time(NOW)
    client.write_api(SYNCHRONOUS).write(database, record=point)
    assert stored("m") == {"time": times(NOW_US), "u": integers(3), "f": floats(1.5)}


def frame(strings: str, unit: str) -> pd.DataFrame:
    """As pandas 2 has it ("object", "ns") or pandas 3 ("str", "us", and others that are asked)."""
    return pd.DataFrame(
        {
            "host": pd.Categorical(["a", "b"]),
            "f": [0.5, float("nan")],
            "i": [1, 2**62],
            "b": [True, False],
            "s": pd.Series(["é", None], dtype=strings).array,
        },
        index=pd.to_datetime([NOW, NOW + dt.timedelta(seconds=1)]).astype(
            f"datetime64[{unit}, UTC]"
        ),
    )


FRAME: dict[str, Values] = {
    "time": times(NOW_US, NOW_US + 1_000_000),
    "host": texts("a", "b"),
    "f": floats(0.5, None),
    "i": integers(1, 2**62),
    "b": booleans(True, False),
    "s": texts("é", None),
}


@pytest.mark.parametrize(
    ("strings", "unit"), [("object", "ns"), ("str", "us"), ("str", "ms"), ("str", "s")]
)
def test_data_frames(
    client: InfluxDBClient, database: str, stored: Reader, strings: str, unit: str
) -> None:
    client.write_api(SYNCHRONOUS).write(
        database,
        record=frame(strings, unit),
        data_frame_measurement_name="frame",
        data_frame_tag_columns=["host"],
    )
    assert stored("frame") == FRAME


def test_batching_sends_everything_before_it_closes(
    client: InfluxDBClient, database: str, stored: Reader
) -> None:
    with client.write_api(WriteOptions(batch_size=7, flush_interval=60_000)) as api:
        for i in range(50):
            api.write(database, record=Point("m").field("i", i).time(NOW_US + i, WritePrecision.US))
        api.write(database, record=frame("str", "us"), data_frame_measurement_name="frame")
    assert stored("m") == {
        "time": times(*[NOW_US + i for i in range(50)]),
        "i": integers(*range(50)),
    }
    assert stored("frame")["i"] == FRAME["i"]


def test_the_asynchronous_api_of_threads(
    client: InfluxDBClient, database: str, stored: Reader
) -> None:
    with pytest.deprecated_call():
        api = client.write_api(ASYNCHRONOUS)
        api.write(database, record=points()).get(30)
    assert stored("a b,c") == POINTS


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
async def test_the_asynchronous_client(
    live: Daemon, database: str, stored: Reader, gzip: bool
) -> None:
    async with InfluxDBClientAsync(live.url, token="any", org="o", enable_gzip=gzip) as client:
        assert await client.ping()
        assert await client.version()
        assert await client.write_api().write(database, record=points())
        with pytest.raises(ApiException, match="line 1"):
            await client.write_api().write(database, record="m x=one")
    assert await asyncio.to_thread(stored, "a b,c") == POINTS


def test_a_bucket_may_name_a_retention_policy(
    client: InfluxDBClient, database: str, stored: Reader
) -> None:
    client.write_api(SYNCHRONOUS).write(f"{database}/autogen", record=f"m x=1 {NOW_US}000")
    assert stored("m")["x"] == floats(1.0)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("m x=1 1\nm x=one 2\nm y= 3", "line 2.*2 "),
        ("m,host=a\n", "line 1"),
        ("m x=1i 1\nm x=2i,x2=99999999999999999999i 2", "line 2.*99999999999999999999"),
    ],
)
def test_a_refusal_is_raised_with_the_line_and_nothing_is_stored(
    client: InfluxDBClient, database: str, record: str, said: str, live: Daemon
) -> None:
    with pytest.raises(ApiException) as raised:
        client.write_api(SYNCHRONOUS).write(database, record=record)
    assert raised.value.status == 400
    raised.match(r"(?s)HTTP response body: .*" + said)
    assert raised.value.message is not None
    assert "line " in raised.value.message
    assert not (live.where.root / database).exists()


def test_batching_tells_of_a_refusal_and_drops_it(
    client: InfluxDBClient, database: str, stored: Reader
) -> None:
    told: list[tuple[Any, Exception]] = []
    api = client.write_api(
        WriteOptions(batch_size=1, flush_interval=60_000),
        error_callback=lambda conf, data, error: told.append((data, error)),
    )
    with api:
        api.write(database, record="m x=one")
        api.write(database, record=f"m x=1 {NOW_US}000")
    [(data, error)] = told
    assert data in ("m x=one", b"m x=one")
    assert isinstance(error, ApiException)
    assert error.status == 400
    assert stored("m")["x"] == floats(1.0)


def test_batching_comes_again_after_a_503_and_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    retried: list[str] = []
    with full() as relent, connect(narrow) as client:
        api = client.write_api(
            WriteOptions(batch_size=2, retry_interval=100),
            retry_callback=lambda conf, data, error: retried.append(str(error)),
        )
        api.write(database, record=[f"m x=1 {NOW_US}000", f"m x=2 {NOW_US + 1}000"])
        relent()
        api.close()
    assert "ARC_MEMORY_BYTES" in retried[0]
    assert stored("m", of=narrow) == {"time": times(NOW_US, NOW_US + 1), "x": floats(1.0, 2.0)}


def retries() -> WritesRetry:
    """Some attempts more, for posts too. It gives up three minutes after it was made."""
    return WritesRetry(total=5, retry_interval=1, allowed_methods=["POST"])


def test_the_synchronous_api_raises_a_503_and_can_be_told_to_come_again(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    line = f"m x=1 {NOW_US}000"
    with full() as relent:
        with connect(narrow) as client, pytest.raises(ApiException) as raised:
            client.write_api(SYNCHRONOUS).write(database, record=line)
        assert raised.value.status == 503
        assert int(raised.value.retry_after or 0) >= 1
        with connect(narrow, retries=retries()) as client:
            api = client.write_api(SYNCHRONOUS)
            writer = threading.Thread(target=api.write, args=(database,), kwargs={"record": line})
            writer.start()
            relent()
            writer.join(30)
    assert not writer.is_alive()
    assert stored("m", of=narrow)["x"] == floats(1.0)


def test_its_questions(client: InfluxDBClient) -> None:
    assert client.ping()
    assert client.version().startswith("1.8")
    assert client.build().startswith("arc-")
    assert client.ready().status == "ready"
    with pytest.deprecated_call():
        health = client.health()
    assert health.name == "arc"
    assert health.status in ("ok", "pass")
