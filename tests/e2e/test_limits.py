"""What a daemon with small limits refuses, how it says so, and that it recovers by itself."""

from __future__ import annotations

import gzip
import random
import resource
import socket
from collections.abc import Callable, Iterator

import ormsgpack
import pytest
import zstandard

from tests.e2e import files
from tests.e2e.client import WRITE, Client, Reply, columnar, half_a_body
from tests.support.daemon import Daemon, eventually, serving

pytestmark = pytest.mark.e2e

MIB = 2**20
MEMORY_BYTES = 8 * MIB
MAX_BODY_BYTES = MIB
MAX_DECOMPRESSED_BYTES = 3 * MIB // 2
NOW_US = 1_790_000_000_000_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon of one worker with limits that a test can reach."""
    flags = {
        "--durability": "memory",  # so that a flush can be made to fail and the log not
        "--workers": "1",
        "--flush-age-s": "0.2",
        "--memory-bytes": str(MEMORY_BYTES),
        "--max-body-bytes": str(MAX_BODY_BYTES),
        "--max-decompressed-bytes": str(MAX_DECOMPRESSED_BYTES),
        "--max-columns": "20",
        "--max-measurements": "10",
        "--max-hours": "5",
        "--max-elements": "1000",
        "--body-timeout-s": "0.5",
        "--header-timeout-s": "0.5",
    }
    given = [part for flag in flags.items() for part in flag]
    with serving(tmp_path_factory.mktemp("small") / "data", *given) as daemon:
        yield daemon


@pytest.fixture
def client(small: Daemon) -> Iterator[Client]:
    """A connection to it."""
    with Client(small.port) as connection:
        yield connection


def too_large(reply: Reply, setting: str, limit: int) -> bool:
    return reply.status == 413 and setting in reply.error and str(limit) in reply.error


# --- sizes -------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_told_413_and_the_limit(small: Daemon, client: Client) -> None:
    for size in (MAX_BODY_BYTES + 1, 4 * MAX_BODY_BYTES, 64 * MAX_BODY_BYTES):
        with Client(small.port) as another:
            reply = another.post(bytes(size))
            assert too_large(reply, "ARC_MAX_BODY_BYTES", MAX_BODY_BYTES)
    assert client.post(columnar("size", x=[1])).status == 204
    assert client.metrics()["arc_bytes_in_flight"] == 0


def test_a_body_of_the_limit_is_read_and_its_memory_given_back(client: Client) -> None:
    for _ in range(2 * MEMORY_BYTES // MAX_BODY_BYTES):
        assert client.post(b"\xc1" * MAX_BODY_BYTES).status == 400


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_body_over_the_limit_once_decompressed_is_told_413(
    client: Client, compress: Callable[[bytes], bytes]
) -> None:
    for size in (MAX_DECOMPRESSED_BYTES + 1, 200 * MAX_DECOMPRESSED_BYTES):
        reply = client.post(compress(bytes(size)))
        assert too_large(reply, "ARC_MAX_DECOMPRESSED_BYTES", MAX_DECOMPRESSED_BYTES)
    assert client.post(compress(b"\xc1" * MAX_DECOMPRESSED_BYTES)).status == 400


def test_damaged_compression_is_told_400(client: Client) -> None:
    body = ormsgpack.packb(columnar("size", x=[1]))
    for broken in (gzip.compress(body)[:-1], zstandard.compress(body)[:-1], b"\x1f\x8b garbage"):
        assert client.refusal(broken)
    for encoding in ("gzip", "zstd", "br"):
        assert encoding in client.refusal(body, content_encoding=encoding)
    assert "identity" in client.refusal(gzip.compress(body), content_encoding="identity")


# --- counts ------------------------------------------------------------------------------------


def test_columns_over_the_limit_are_told_400_and_the_limit(client: Client) -> None:
    def named(first: int, count: int) -> dict[str, object]:
        return {"m": "wide", "columns": {f"c{n}": [n] for n in range(first, first + count)}}

    assert client.post(named(0, 19)).status == 204  # and the time
    assert "20 (ARC_MAX_COLUMNS)" in client.refusal(named(19, 1))
    assert "20 (ARC_MAX_COLUMNS)" in client.refusal(named(0, 21))
    assert client.post(named(0, 19)).status == 204


def test_measurements_over_the_limit_are_told_400_and_the_limit(client: Client) -> None:
    for number in range(10):
        client.write(columnar(f"m{number}", x=[1]), "many")
    said = client.refusal([columnar("m0", x=[1]), columnar("m10", x=[1])], "many")
    assert "'many'" in said
    assert "10 (ARC_MAX_MEASUREMENTS)" in said
    client.write(columnar("m9", x=[1]), "many")
    client.write(columnar("m10", x=[1]), "others")


def test_hours_over_the_limit_are_told_400_and_the_limit(client: Client) -> None:
    times = [NOW_US + hour * 3_600_000_000 for hour in range(0, 60, 10)]
    client.write(columnar("hours", time=times[:5]))
    assert "'hours': 6, over the limit of 5 (ARC_MAX_HOURS)" in client.refusal(
        columnar("hours", time=times)
    )


def test_a_body_of_a_million_empty_maps_is_refused_without_building_them(client: Client) -> None:
    said = client.refusal(b"\xdd" + (10**6).to_bytes(4) + b"\x80" * 10**6)
    assert "1000 (ARC_MAX_ELEMENTS)" in said
    nested = b"\x91" * 100_000 + b"\xc0"
    assert client.refusal(nested)
    assert client.get("/health").status == 200


# --- memory ------------------------------------------------------------------------------------


def test_a_body_that_never_fits_into_memory_is_told_413_since_a_retry_is_pointless(
    small: Daemon, client: Client
) -> None:
    client.wait_until_stored()
    body = ormsgpack.packb(columnar("narrow", x=[1] * (MIB - 100)))  # a byte a row, 16 in memory
    assert client.post(body).status == 413


def test_beyond_the_memory_clients_are_told_503_until_the_flush_can_go_on(
    small: Daemon, client: Client
) -> None:
    worker = small.worker(0)
    chance = random.Random(5)
    taken = 0

    def send() -> Reply:
        ids = list(range(taken * 20_000, (taken + 1) * 20_000))
        return client.post(columnar("pressure", id=ids, x=[chance.random() for _ in ids]))

    client.write(columnar("pressure", id=[-1], x=[0.5]))
    client.wait_until_stored()
    before = client.metrics()
    # No file of the worker may become larger, as on a disk that is full: a flush of one request
    # takes 160 KB. Its log goes into a pipe, and its catalog is smaller.
    unlimited = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        while (reply := send()).status == 204:
            taken += 1
        eventually(lambda: client.metrics()["arc_flush_failures_total"] > 0, "a flush fails")
        replies = [reply, send(), send()]
        during = client.metrics()
    finally:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, unlimited)
    for reply in replies:
        assert reply.status == 503
        assert "ARC_MEMORY_BYTES" in reply.error
        assert int(reply.headers["retry-after"]) >= 1
    name, labels = "arc_requests_rejected_total", {"door": "msgpack", "reason": "overloaded"}
    assert during.value(name, **labels) - before.value(name, **labels) == 3
    assert during["arc_bytes_buffered"] <= MEMORY_BYTES
    assert during["arc_rows_buffered"] == taken * 20_000
    client.wait_until_stored()
    assert send().status == 204
    client.wait_until_stored()
    ids = files.columns(small.where.root, "pressure")["id"]
    assert sorted(ids) == list(range(-1, (taken + 1) * 20_000))


# --- time --------------------------------------------------------------------------------------


def wait_for_reply(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an answer after which the connection is closed."""
    with connection.makefile("rb") as stream:
        head, _, body = stream.read().partition(b"\r\n\r\n")
    return head, body


def test_a_body_that_does_not_come_is_told_408_and_counted(small: Daemon, client: Client) -> None:
    series = {
        "arc_requests_total": {"door": "msgpack", "status": "408"},
        "arc_requests_rejected_total": {"door": "msgpack", "reason": "body_timeout"},
    }
    before = client.metrics()
    with half_a_body(small.port) as connection:
        head, body = wait_for_reply(connection)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b'{"error":' in body
    after = client.metrics()
    assert after["arc_bytes_in_flight"] == 0
    for name, labels in series.items():
        assert after.value(name, **labels) - before.value(name, **labels) == 1, name


def test_half_a_head_does_not_hold_a_connection(small: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=30) as connection:
        connection.sendall(f"POST {WRITE} HTTP/1.1\r\nHost:".encode())
        head, _ = wait_for_reply(connection)
    assert head.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_leaves_in_the_middle_gives_its_memory_back(
    small: Daemon, client: Client, chunked: bool
) -> None:
    def in_flight() -> int:
        return int(client.get(f"{WRITE}/stats").json["stats"]["arc_bytes_in_flight"])

    for _ in range(2 * MEMORY_BYTES // MAX_BODY_BYTES):
        with half_a_body(small.port, MAX_BODY_BYTES, chunked):
            eventually(lambda: in_flight() > 0, "it is admitted")
        eventually(lambda: in_flight() == 0, "it is given back")
    assert client.post(b"\xc1" * MAX_BODY_BYTES).status == 400
    assert "Connection lost" not in small.log  # it is no error of the daemon's


def test_a_client_that_leaves_in_the_middle_is_counted(small: Daemon, client: Client) -> None:
    before = client.metrics()
    with half_a_body(small.port):
        eventually(lambda: client.metrics()["arc_bytes_in_flight"] == 1_000, "it is admitted")
    eventually(lambda: client.metrics()["arc_bytes_in_flight"] == 0, "it is given back")
    after = client.metrics()
    for name, labels in [
        ("arc_requests_total", {"status": "499"}),
        ("arc_requests_rejected_total", {"reason": "disconnected"}),
    ]:
        labels |= {"door": "msgpack"}
        assert after.value(name, **labels) - before.value(name, **labels) == 1, name


# --- all of it ---------------------------------------------------------------------------------


def test_after_all_of_this_every_row_is_accounted_for(small: Daemon, client: Client) -> None:
    client.wait_until_stored()
    rows = client.metrics().rows()
    assert rows["accepted"] == rows["stored"]
    paths = list(small.where.root.glob(f"*/*/{files.HOURS}"))
    assert rows["stored"] == sum(
        files.query(f"SELECT count(*) FROM '{path}'")[0][0] for path in paths
    )
