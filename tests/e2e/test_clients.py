"""The bodies and headers of the clients that already speak the protocol, each read back."""

from __future__ import annotations

import base64
import gzip
import http.client
from collections.abc import Callable, Iterator
from typing import Any

import ormsgpack
import pytest
import zstandard

from ingest.testing import Encoded, array_forms, int_forms
from ingest.testing import columnar as spelled
from tests.e2e.client import WRITE, Client, columnar
from tests.support.daemon import Daemon

pytestmark = pytest.mark.e2e

Stored = Callable[..., dict[str, list[Any]]]

NOW_S = 1_790_000_000
NOW_MS, NOW_US = NOW_S * 1_000, NOW_S * 1_000_000


def test_telegraf_an_array_of_maps_with_nils_and_unsigned_integers(
    client: Client, database: str, stored: Stored
) -> None:
    unsigned = b"".join(int_forms(value)[-1] for value in (2**40, 2**63 - 1))  # signed, 9 bytes
    unsigned = unsigned.replace(b"\xd3", b"\xcf")  # the same as uint64
    body = array_forms(2)[0]
    body += spelled(
        "cpu",
        {
            "time": [NOW_MS, NOW_MS + 10],
            "host": ["a", "b"],
            "usage_idle": [99.5, None],
            "total": Encoded(array_forms(2)[0] + unsigned),
        },
    )
    body += spelled("system", {"time": [NOW_MS], "uptime_format": ["1 day"], "n_users": [3]})
    client.write(
        gzip.compress(body),
        database,
        content_type="application/msgpack",
        content_encoding="gzip",
        x_api_key="any",
    )
    assert stored("cpu") == {
        "time": [NOW_US, NOW_US + 10_000],
        "host": ["a", "b"],
        "usage_idle": [99.5, None],
        "total": [2**40, 2**63 - 1],
    }
    assert stored("system") == {"time": [NOW_US], "uptime_format": ["1 day"], "n_users": [3]}


def test_redpanda_a_batch_of_maps_in_zstd(client: Client, database: str, stored: Stored) -> None:
    batch = {
        "columns": {"ignored": [1]},  # `batch` wins, whatever the order of keys
        "batch": [
            columnar("orders", time=[NOW_US], price=[1.25], side=["buy"]),
            columnar("orders", time=[NOW_US + 1, NOW_US + 2], price=[2.0, 3.0]),
            columnar("trades", time=[NOW_US], size=[5]),
        ],
    }
    body = zstandard.ZstdCompressor().compress(ormsgpack.packb(batch))
    client.write(body, database, authorization="Bearer any", content_encoding="zstd")
    single = ormsgpack.packb(columnar("trades", time=[NOW_US + 1], size=[6]))
    client.write(zstandard.ZstdCompressor(19).compress(single), database)
    assert stored("orders") == {
        "time": [NOW_US, NOW_US + 1, NOW_US + 2],
        "price": [1.25, 2.0, 3.0],
        "side": ["buy", None, None],
    }
    assert stored("trades") == {"time": [NOW_US, NOW_US + 1], "size": [5, 6]}


def test_opentelemetry_dotted_names_and_attributes_that_are_missing(
    client: Client, database: str, stored: Stored
) -> None:
    sent = {
        "time": [NOW_MS, NOW_MS + 1, NOW_MS + 2],
        "service.name": ["shop", None, "shop"],
        "http.response.status_code": [200, None, 404],
        "value": [1, 2.5, None],  # an int beside a float is a float
        "_monotonic": [True, True, None],
        "never.there": [None, None, None],
    }
    client.write(
        gzip.compress(ormsgpack.packb({"m": "http.server.duration", "columns": sent}), 1),
        database,
        content_encoding="gzip",
        authorization="Bearer any",
    )
    del sent["never.there"]
    assert stored("http.server.duration") == sent | {
        "time": [NOW_US, NOW_US + 1_000, NOW_US + 2_000],
        "value": [1.0, 2.5, None],
    }


def test_opentelemetry_an_attribute_of_two_types_is_refused_by_its_place(
    client: Client, database: str
) -> None:
    said = client.refusal(columnar("spans", time=[NOW_MS] * 3, code=[200, None, "OK"]), database)
    assert "measurement 'spans': column 'code', row 2" in said
    assert "found a string, wanted an integer" in said


@pytest.mark.parametrize("level", [1, 6])
def test_arc_tsdb_client_columns_in_gzip_to_the_default_database(
    client: Client, stored: Stored, level: int
) -> None:
    measurement = f"level{level}"
    sent = {"time": [NOW_US, NOW_US + 1], "host": ["a", "b"], "value": [0.5, -0.5]}
    body = gzip.compress(ormsgpack.packb({"m": measurement, "columns": sent}), level)
    client.write(
        body,
        "default",
        content_encoding="gzip",
        content_type="application/msgpack",
        authorization="Bearer any",
    )
    assert stored(measurement, "default") == sent


def test_missing_strings_of_pandas_come_as_nan_and_are_null(
    client: Client, database: str, stored: Stored
) -> None:
    sent = {"time": [NOW_MS, NOW_MS + 1], "name": ["x", float("nan")]}
    client.write({"m": "frame", "columns": sent}, database)
    assert stored("frame")["name"] == ["x", None]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_maps_one_after_another_are_one_request(
    client: Client, database: str, stored: Stored, compress: Callable[[bytes], bytes]
) -> None:
    maps = [columnar(name, time=[NOW_US + n], n=[n]) for n, name in enumerate("aba")]
    client.write(compress(b"".join(map(ormsgpack.packb, maps))), database)
    assert stored("a") == {"time": [NOW_US, NOW_US + 2], "n": [0, 2]}
    assert stored("b") == {"time": [NOW_US + 1], "n": [1]}


def test_several_gzip_members_are_one_body(client: Client, database: str, stored: Stored) -> None:
    maps = [ormsgpack.packb(columnar("a", time=[NOW_US + n], n=[n])) for n in range(2)]
    client.write(b"".join(map(gzip.compress, maps)), database)
    assert stored("a")["n"] == [0, 1]


def test_unknown_keys_and_an_integer_as_name_are_taken(
    client: Client, database: str, stored: Stored
) -> None:
    client.write({"v": 2, "columns": {"time": [NOW_US], "x": [1]}, "m": 7, "u": None}, database)
    assert stored("measurement_7") == {"time": [NOW_US], "x": [1]}


def test_a_chunked_body_is_taken(live: Daemon, database: str, stored: Stored) -> None:
    def pieces() -> Iterator[bytes]:
        body = ormsgpack.packb(columnar("chunks", time=[NOW_US], text=["x" * 1000]))
        yield from (body[start : start + 100] for start in range(0, len(body), 100))

    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.request("POST", WRITE, pieces(), {"X-Arc-Database": database}, encode_chunked=True)
    assert connection.getresponse().status == 204
    connection.close()
    assert stored("chunks")["text"] == ["x" * 1000]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer secret"},
        {"authorization": "Token secret"},
        {"authorization": "secret"},
        {"authorization": "Basic " + base64.b64encode(b"me:secret").decode()},
        {"x_api_key": "secret"},
    ],
    ids=["none", "bearer", "token", "bare", "basic", "api-key"],
)
def test_any_token_is_taken(client: Client, database: str, headers: dict[str, str]) -> None:
    client.write(columnar("token", x=[1]), database, **headers)


@pytest.mark.parametrize("kind", ["application/msgpack", "text/plain", "application/json", None])
def test_the_content_type_is_not_looked_at(client: Client, database: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content_type": kind}
    client.write(columnar("kinds", x=[1]), database, **headers)


def test_the_header_of_the_database_wins_over_the_query_and_may_be_empty(
    client: Client, database: str, stored: Stored
) -> None:
    path = f"{WRITE}?db={database}"
    assert client.post(columnar("a", x=[1]), path).status == 204
    assert client.post(columnar("b", x=[2]), path, X_ARC_DATABASE="elsewhere").status == 204
    assert client.post(columnar("c", x=[3]), path, x_arc_database="").status == 204
    assert client.post(columnar("d", x=[4]), WRITE, x_arc_database="").status == 204
    assert stored("a")["x"] == [1]
    assert stored("b", "elsewhere")["x"] == [2]
    assert stored("c")["x"] == [3]
    assert stored("d", "default")["x"] == [4]
