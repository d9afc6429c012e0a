"""questdb's sender over HTTP, which posts line protocol: rows, data frames, what it is told."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import pytest
from questdb import QuestDBError, Sender, TimestampMicros, TimestampNanos

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_US = 1_790_000_000_000_000
NOW = dt.datetime(2026, 9, 21, 14, 13, 20, tzinfo=dt.UTC)

#: It cannot send headers, nor parameters of its own: its rows go to this database.
DEFAULT = "default"


def sender(daemon: Daemon, **settings: Any) -> Sender:
    """A sender as its configuration string makes one."""
    words = {"protocol_version": 1, "username": "me", "password": "any"} | settings
    parts = "".join(f"{key}={value};" for key, value in words.items())
    return Sender.from_conf(f"http::addr=127.0.0.1:{daemon.port};{parts}")


@pytest.fixture
def table(database: str) -> str:
    """A measurement for this test alone."""
    return f"quest {database}"


# `auto` asks /settings first, and takes our 404 for a server of version 1.
@pytest.mark.parametrize("version", [1, "auto"])
def test_rows_are_stored_with_every_type(
    live: Daemon, table: str, stored: Reader, version: int | str
) -> None:
    with sender(live, protocol_version=version) as client:
        client.row(
            table,
            symbols={"sym": "ETH USD", "side": "b,=x"},
            columns={"price": 2615.54, "n": -(2**63), "up": True, "note": 'say "é"'},
            at=TimestampNanos(NOW_US * 1000),
        )
        client.row(table, symbols={"sym": "é"}, columns={"price": 1.0}, at=NOW + SECOND)
        client.row(table, columns={"n": 1, "up": False}, at=NOW + 2 * SECOND)
    assert stored(table, DEFAULT) == {
        "time": times(NOW_US, NOW_US + 1_000_000, NOW_US + 2_000_000),
        "sym": texts("ETH USD", "é", None),
        "side": texts("b,=x", None, None),
        "price": floats(2615.54, 1.0, None),
        "n": integers(-(2**63), None, 1),
        "up": booleans(True, None, False),
        "note": texts('say "é"', None, None),
    }


SECOND = dt.timedelta(seconds=1)


# Before pandas 3 strings are objects, and times nanoseconds.
@pytest.mark.parametrize(("strings", "unit"), [("object", "ns"), ("str", "us")])
def test_data_frames(live: Daemon, table: str, stored: Reader, strings: str, unit: str) -> None:
    frame = pd.DataFrame(
        {
            "sym": pd.Categorical(["a", "b"]),
            "price": [0.5, -1e300],
            "size": pd.array([1, None], dtype="Int64"),
            "n": np.array([1, -2], np.int32),
            "up": [True, False],
            "note": pd.Series(["é", None], dtype=strings),
            "at": pd.Series([NOW, NOW + SECOND]).astype(f"datetime64[{unit}, UTC]"),
        }
    )
    with sender(live) as client:
        client.dataframe(frame, table_name=table, symbols=["sym"], at="at")
    assert stored(table, DEFAULT) == {
        "time": times(NOW_US, NOW_US + 1_000_000),
        "sym": texts("a", "b"),
        "price": floats(0.5, -1e300),
        "size": integers(1, None),
        "n": integers(1, -2),
        "up": booleans(True, False),
        "note": texts("é", None),
    }


def test_a_token_and_many_batches(live: Daemon, table: str, stored: Reader) -> None:
    words = {"token": "any", "auto_flush_rows": 10}
    settings = f"http::addr=127.0.0.1:{live.port};protocol_version=1;"
    settings += "".join(f"{key}={value};" for key, value in words.items())
    with Sender.from_conf(settings) as client:
        for i in range(35):
            client.row(table, columns={"i": i}, at=TimestampNanos((NOW_US + i) * 1000))
    assert stored(table, DEFAULT)["i"] == integers(*range(35))


@pytest.mark.parametrize("version", [2, 3])
def test_binary_numbers_of_later_versions_are_refused(
    live: Daemon, table: str, version: int
) -> None:
    client = sender(live, protocol_version=version)
    client.establish()
    client.row(table, columns={"price": 0.5}, at=TimestampNanos(NOW_US * 1000))
    with pytest.raises(QuestDBError, match=r"line 1.*price"):
        client.flush()
    client.close(flush=False)


def test_a_column_of_times_is_refused_by_its_name(live: Daemon, table: str) -> None:
    client = sender(live)
    client.establish()
    client.row(table, columns={"x": 1, "seen": TimestampMicros(5)}, at=NOW)
    with pytest.raises(QuestDBError, match=r"line 1.*seen.*5t"):
        client.flush()
    client.close(flush=False)


def test_a_number_that_is_none_is_refused_by_its_name(live: Daemon, table: str) -> None:
    frame = pd.DataFrame({"price": [0.5, float("nan")], "at": [NOW, NOW + SECOND]})
    with (
        pytest.raises(QuestDBError, match=r"line 2.*price.*NaN"),
        sender(live) as client,
    ):
        client.dataframe(frame, table_name=table, at="at")


def test_it_comes_again_after_a_503_and_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    table: str,
    stored: Reader,
) -> None:
    client = sender(narrow, retry_timeout=30_000)
    client.establish()
    client.row(table, columns={"x": 1}, at=TimestampNanos(NOW_US * 1000))
    with full() as relent:
        flush = threading.Thread(target=client.flush)
        flush.start()
        relent()
        flush.join(30)
    assert not flush.is_alive()
    client.close()
    assert stored(table, DEFAULT, of=narrow) == {"time": times(NOW_US), "x": integers(1)}
