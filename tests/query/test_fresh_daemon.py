"""What was answered 204 is in the next answer to a query, once, whatever goes on beside.

A writer, a reader that counts, flushes of a few hundred milliseconds, and workers that die.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import ormsgpack
import pytest

from tests.query.conftest import START_US
from tests.query.serving import Answer, exchange
from tests.support.daemon import Daemon, eventually, serving

ROWS = 10
COUNTED = "SELECT count(*), count(DISTINCT n) FROM cpu"

#: Counts of one reader: a few seconds, and some ten flushes.
COUNTS = 60


class Writer:
    """Posts rows numbered from 0 on a thread of its own, each number once, to all workers in turn.

    Attributes:
        sent: Rows that were sent, or are being sent.
        acknowledged: Rows of requests that were answered 204.
    """

    def __init__(self, port: int) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                # A worker that was killed: whether it has the rows is not known.
                with (
                    contextlib.closing(client),
                    contextlib.suppress(OSError, http.client.HTTPException),
                ):
                    for _ in range(5):
                        self._post(client)
        except BaseException as error:
            self._failure = error

    def _post(self, client: http.client.HTTPConnection) -> None:
        first, self.sent = self.sent, self.sent + ROWS
        numbers = list(range(first, first + ROWS))
        times = [START_US + number for number in numbers]
        body = ormsgpack.packb({"m": "cpu", "columns": {"time": times, "n": numbers}})
        client.request("POST", "/api/v1/write/msgpack", body, {"x-arc-database": "default"})
        response = client.getresponse()
        response.read()
        assert response.status in (204, 503), f"a write was answered {response.status}"
        if response.status == 204:
            self.acknowledged += ROWS

    def __enter__(self) -> Writer:
        self._thread.start()
        self.wait_for(1)
        return self

    def wait_for(self, rows: int) -> None:
        """Until so many more are acknowledged."""
        wanted = self.acknowledged + rows
        eventually(lambda: self.acknowledged >= wanted, "rows are acknowledged")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._failure is None, self._failure


def ask(port: int, sql: str, path: str = "") -> Answer:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    return exchange(client, f"/api/v1/query{path}", msgspec.json.encode({"sql": sql}), {})


def rows_of(port: int, sql: str) -> list[list[Any]]:
    answer = ask(port, sql)
    assert answer.status == 200, answer.body
    rows: list[list[Any]] = answer.json["data"]
    return rows


def post(port: int, measurement: str, **columns: list[Any]) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(client):
        body = ormsgpack.packb({"m": measurement, "columns": columns})
        client.request("POST", "/api/v1/write/msgpack", body)
        assert client.getresponse().status == 204


@contextlib.contextmanager
def answering(data_dir: Path, *flags: str) -> Iterator[Daemon]:
    """A daemon that answers queries."""
    with serving(data_dir, "--workers", "2", "--query-concurrency", "4", *flags) as daemon:
        eventually(lambda: ask(daemon.port, "SELECT 1").status == 200, "queries are answered")
        yield daemon


def count_once(port: int, writer: Writer) -> bool:
    """Compare one count with what was written meanwhile; whether there was one."""
    least = writer.acknowledged
    try:
        answer = ask(port, COUNTED)
    except (OSError, http.client.HTTPException):  # the worker at the other end was killed
        return False
    most = writer.sent
    if answer.status == 503:
        return False
    assert answer.status == 200, answer.body
    rows, distinct = answer.json["data"][0]
    assert rows == distinct, f"{rows} rows, {distinct} of them different"
    assert least <= rows <= most, f"{least} acknowledged, {rows} counted, {most} sent"
    return True


def count_all(port: int, writer: Writer) -> int:
    return sum(count_once(port, writer) for _ in range(COUNTS))


def test_every_count_has_what_was_acknowledged_and_nothing_twice(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "data", "--flush-age-s", "0.3") as daemon,
        Writer(daemon.port) as writer,
        ThreadPoolExecutor(2) as readers,
    ):
        counts = [readers.submit(count_all, daemon.port, writer) for _ in range(2)]
        assert [count.result() for count in counts] == [COUNTS, COUNTS]
        stored = rows_of(daemon.port, "SHOW TABLES")[0][3]
    assert stored > 2, "rows were flushed meanwhile"


@pytest.mark.parametrize("durability", ["page", "disk"])
def test_no_count_is_wrong_while_workers_die(tmp_path: Path, durability: str) -> None:
    with (
        answering(tmp_path / "data", "--flush-age-s", "1", "--durability", durability) as daemon,
        Writer(daemon.port) as writer,
        ThreadPoolExecutor(2) as readers,
    ):
        counts = [readers.submit(count_all, daemon.port, writer) for _ in range(2)]
        for shard in (0, 1, 0):
            writer.wait_for(20 * ROWS)
            daemon.worker(shard).kill()
            daemon.wait_for("worker_ready", shard=shard)
        assert all(count.result() for count in counts), "no query was answered"
        eventually(lambda: count_once(daemon.port, writer), "queries are answered again")


def test_rows_are_there_as_soon_as_they_are_acknowledged(tmp_path: Path) -> None:
    with answering(tmp_path / "data", "--flush-age-s", "3600") as daemon:
        port = daemon.port
        for n in range(20):  # on connections of their own, so from both workers
            post(port, "cpu", time=[START_US + n], n=[n])
            assert rows_of(port, COUNTED) == [[n + 1, n + 1]]
        assert rows_of(port, "SELECT n FROM cpu WHERE n > 17 ORDER BY n") == [[18], [19]]
        assert rows_of(port, "SELECT sum(a.n) FROM cpu a JOIN cpu b USING (n)") == [[190]]
        post(port, "cpu", time=[START_US + 20], n=[0.5], host=["a"])
        assert rows_of(port, "SELECT sum(n), count(host), count(*) FROM cpu") == [[190.5, 1, 21]]
        assert rows_of(port, "SELECT typeof(n) FROM cpu LIMIT 1") == [["DOUBLE"]]
        assert rows_of(port, "SHOW TABLES")[0][3] == 0, "nothing is stored yet"
        assert ask(port, "SELECT * FROM cpu", "/estimate").json["estimated_rows"] == 21


def test_what_only_memory_held_is_gone_with_its_worker(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with answering(
        data, "--flush-age-s", "3600", "--workers", "1", "--durability", "memory"
    ) as daemon:
        port = daemon.port
        post(port, "cpu", time=[START_US], n=[0])
        assert rows_of(port, COUNTED) == [[1, 1]]
        daemon.worker(0).kill()
        daemon.wait_for("worker_ready", shard=0)
        assert rows_of(port, COUNTED) == [[0, 0]]
        post(port, "cpu", time=[START_US], n=[1])
        assert rows_of(port, "SELECT n FROM cpu") == [[1]]
        daemon.abandon()  # its end would tell of the row that is lost


def test_a_daemon_with_fewer_workers_answers_with_all_rows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, "--workers", "3", "--flush-age-s", "3600") as daemon:
        for n in range(30):
            post(daemon.port, "cpu", time=[START_US + n], n=[n])
        daemon.abandon()
    with answering(data, "--flush-age-s", "3600") as daemon:
        assert rows_of(daemon.port, COUNTED) == [[30, 30]]
        assert len(list(daemon.where.run.glob("fresh-*.sock"))) == 2
    assert not list(daemon.where.run.glob("fresh-*")), "nothing is left behind"
