"""Redpanda Connect's output `arc`: requests built byte for byte from its source, and replayed.

internal/impl/arc/output.go of github.com/redpanda-data/connect 4.88.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import zstandard

from tests.clients.conftest import Reader
from tests.clients.gocodec import vmihailenco
from tests.e2e.client import WRITE, Client, Reply
from tests.support.daemon import Daemon
from tests.support.read_back import booleans, floats, integers, texts, times

pytestmark = pytest.mark.e2e

NOW_US = 1_790_000_000_123_456

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor(3, write_content_size=False).compress,
    "gzip": gzip.compress,
    "none": bytes,
}


def send(http: Client, database: str, payload: Any, compression: str = "zstd") -> Reply:
    """One batch."""
    headers = {
        "Content-Type": "application/msgpack",
        "X-Arc-Database": database,
        "Authorization": "Bearer secret",
        "User-Agent": "Go-http-client/1.1",
        "Accept-Encoding": "gzip",
    } | ({} if compression == "none" else {"Content-Encoding": compression})
    return http.request("POST", WRITE, COMPRESSIONS[compression](vmihailenco(payload)), headers)


ORDERS = {
    "m": "orders",
    "columns": {
        "time": [NOW_US, NOW_US + 1],
        "price": [1.25, 2.0],
        "size": [5, -6],
        "side": ["buy", None],
        "open": [True, False],
    },
}

STORED = {
    "time": times(NOW_US, NOW_US + 1),
    "price": floats(1.25, 2.0),
    "size": integers(5, -6),
    "side": texts("buy", None),
    "open": booleans(True, False),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_columnar_a_batch_of_one_measurement_is_a_map(
    http: Client, database: str, stored: Reader, compression: str
) -> None:
    assert send(http, database, ORDERS, compression).status == 204
    assert stored("orders") == STORED


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_columnar_a_batch_of_several_measurements_is_under_batch(
    http: Client, database: str, stored: Reader, compression: str
) -> None:
    trades = {"m": "trades", "columns": {"time": [NOW_US], "size": [1]}}
    assert send(http, database, {"batch": [ORDERS, trades]}, compression).status == 204
    assert stored("orders") == STORED
    assert stored("trades") == {"time": times(NOW_US), "size": integers(1)}


def test_columnar_messages_of_differing_fields_are_refused_by_their_columns(
    http: Client, database: str
) -> None:
    columns = {"time": [NOW_US, NOW_US + 1], "price": [1.25, 2.0], "note": ["only one"]}
    reply = send(http, database, {"m": "orders", "columns": columns})
    assert reply.status == 400
    assert "column 'note' has 1 value" in reply.error


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_row_messages_of_differing_fields_are_taken(
    http: Client,
    database: str,
    stored: Reader,
    compression: str,
) -> None:
    rows = [
        {
            "m": "orders",
            "t": NOW_US,
            "fields": {"price": 1.25, "side": "buy"},
            "tags": {"venue": "x"},
        },
        {"m": "trades", "t": NOW_US, "fields": {"size": 1}},
        {"m": "orders", "t": NOW_US + 1, "fields": {"price": 2.0, "open": True}, "tags": {}},
    ]
    assert send(http, database, rows, compression).status == 204
    assert stored("orders") == {
        "time": times(NOW_US, NOW_US + 1),
        "venue": texts("x", None),
        "price": floats(1.25, 2.0),
        "side": texts("buy", None),
        "open": booleans(None, True),
    }
    assert stored("trades") == {"time": times(NOW_US), "size": integers(1)}


def test_row_a_batch_of_one_message_is_a_map(http: Client, database: str, stored: Reader) -> None:
    row = {"m": "orders", "t": NOW_US, "fields": {"price": 1.25}, "tags": {"venue": "x"}}
    assert send(http, database, row).status == 204
    assert stored("orders") == {
        "time": times(NOW_US),
        "venue": texts("x"),
        "price": floats(1.25),
    }


def test_numbers_that_no_mapping_made_are_texts_and_stay_texts(
    http: Client, database: str, stored: Reader
) -> None:
    # Connect keeps a number of JSON as it was written, in a Go type that is a string.
    columns = {"time": [NOW_US, NOW_US + 1], "price": ["1.250", "1e3"]}
    assert send(http, database, {"m": "raw", "columns": columns}).status == 204
    assert stored("raw")["price"] == texts("1.250", "1e3")


def test_sixty_four_requests_in_flight(live: Daemon, database: str, stored: Reader) -> None:
    statuses: list[int] = []

    def write(start: int) -> None:
        with Client(live.port) as http:
            columns = {"time": [NOW_US + start], "i": [start]}
            statuses.append(send(http, database, {"m": "many", "columns": columns}).status)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [204] * 64
    assert stored("many")["i"] == integers(*range(64))


def test_it_sends_the_same_body_after_a_503_and_that_is_stored_once(
    narrow: Daemon,
    full: Callable[[], AbstractContextManager[Callable[[], None]]],
    database: str,
    stored: Reader,
) -> None:
    with Client(narrow.port) as http:
        with full() as relent:
            assert send(http, database, ORDERS).status == 503
            relent()
        assert send(http, database, ORDERS).status == 204
    assert stored("orders", of=narrow) == STORED
