"""The end of a daemon: whatever was acknowledged is in the files exactly once."""

from __future__ import annotations

import http.client
import resource
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import ormsgpack
import pytest
import zstandard

from arc.runtime import State, find_daemon
from arc.write_door import INLINE_BYTES
from tests.e2e import files
from tests.e2e.client import Client, columnar, half_a_body
from tests.support.daemon import Daemon, eventually, serving

pytestmark = pytest.mark.e2e

CLIENTS = 8
ROWS = 50
#: The first client's requests are so large that they are decoded in a thread, and compressed.
LARGE_ROWS = 60_000
#: Requests that are answered before the stop, over all clients.
ANSWERED = 1_000


@dataclass
class Sender:
    """One client that writes until it is refused.

    Attributes:
        number: Of the client.
        rows: Of each request.
        acknowledged: Numbers of its requests that were answered 204.
        refused: Those that were answered 503.
        unanswered: Those without an answer.
        surprises: Whatever else happened.
    """

    number: int
    rows: int = ROWS
    acknowledged: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    unanswered: list[int] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def run(self, port: int) -> None:
        """Send requests of rows with ids of their own."""
        request = 0
        with Client(port) as client:
            while not (self.refused or self.unanswered or self.surprises):
                self._send(client, request)
                request += 1

    def _send(self, client: Client, request: int) -> None:
        ids = list(self.ids(request))
        is_new = request % 40 == 20  # a table that nobody wrote to yet
        name = f"new-{self.number}-{request}" if is_new else f"m{request % 3}"
        body = ormsgpack.packb(columnar(name, time=[10**15 + n for n in ids], id=ids))
        if self.rows == LARGE_ROWS:
            assert len(body) > INLINE_BYTES
            body = zstandard.compress(body) if request % 2 else body
        try:
            reply = client.post(body)
        except (OSError, http.client.HTTPException) as error:
            self.unanswered.append(request)
            if not isinstance(error, ConnectionError | http.client.RemoteDisconnected):
                self.surprises.append(repr(error))
            return
        if reply.status == 204:
            self.acknowledged.append(request)
        elif reply.status == 503 and "retry-after" in reply.headers and reply.error:
            self.refused.append(request)
        else:
            self.surprises.append(repr(reply))

    def ids(self, request: int) -> range:
        """What the rows of one request are told by."""
        first = self.number * 10**9 + request * self.rows
        return range(first, first + self.rows)


def stored_ids(data_dir: Path) -> Counter[int]:
    return Counter(
        row[0] for row in files.query(f"SELECT id FROM '{data_dir}/default/*/{files.HOURS}'")
    )


def test_under_load_every_acknowledged_row_is_stored_once(tmp_path: Path) -> None:
    senders = [Sender(number, ROWS if number else LARGE_ROWS) for number in range(CLIENTS)]
    with serving(tmp_path / "data", "--workers", "2", "--flush-age-s", "0.1") as daemon:
        threads = [threading.Thread(target=one.run, args=(daemon.port,)) for one in senders]
        for thread in threads:
            thread.start()
        eventually(lambda: min(len(one.acknowledged) for one in senders) > 2, "all write")
        eventually(lambda: sum(len(one.acknowledged) for one in senders) > ANSWERED, "load")
        daemon.stop()
        for thread in threads:
            thread.join(60)
    assert [one.surprises for one in senders] == [[]] * CLIENTS
    found = stored_ids(tmp_path / "data")
    assert set(found.values()) == {1}
    for one in senders:
        for request in one.acknowledged:
            assert all(number in found for number in one.ids(request)), (one, request)
        for request in one.refused:
            assert not any(number in found for number in one.ids(request)), request
        for request in one.unanswered:
            kept = sum(number in found for number in one.ids(request))
            assert kept in (0, one.rows), request  # stored or not, but whole
    told = daemon.wait_for("stopped")
    assert told["rows_accepted"] == told["rows_stored"] == found.total()
    assert told["rows_lost"] == 0


def write_some(daemon: Daemon) -> None:
    with Client(daemon.port) as client:
        client.write(columnar("m", id=[1, 2, 3]))


def test_clients_that_never_end_their_request_do_not_cost_the_rows_of_others(
    tmp_path: Path,
) -> None:
    flags = ("--workers", "1", "--shutdown-timeout-s", "5", "--flush-age-s", "60")
    with serving(tmp_path / "data", *flags) as daemon:
        write_some(daemon)
        with (
            half_a_body(daemon.port),
            half_a_body(daemon.port, chunked=True),
            Client(daemon.port) as client,
        ):
            eventually(lambda: client.metrics()["arc_bytes_in_flight"] > 1_000, "both are admitted")
            daemon.stop()
        assert stored_ids(tmp_path / "data") == Counter([1, 2, 3])


def test_workers_of_a_killed_supervisor_write_what_they_hold(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "1", "--flush-age-s", "60") as daemon:
        write_some(daemon)
        daemon.process.kill()
        daemon.process.wait()

        def ended() -> bool:  # the lock is held by every worker
            return find_daemon(tmp_path / "data").state is State.STOPPED

        eventually(ended, "the workers end")
        assert stored_ids(tmp_path / "data") == Counter([1, 2, 3])


def test_a_disk_that_takes_no_log_is_told_and_works_again_without_a_restart(
    tmp_path: Path,
) -> None:
    flags = ("--workers", "1", "--flush-age-s", "3600", "--log-segment-bytes", "64KiB")
    with serving(tmp_path / "data", *flags, log_file=tmp_path / "log") as daemon:
        write_some(daemon)
        with Client(daemon.port) as client:
            pid = daemon.worker(0).pid
            unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_096, unlimited[1]))
            reply = client.post(columnar("m", id=[4]))
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert "File too large" in reply.error
            assert client.post(columnar("m", id=[4])).status == 503
            ready = client.get("/ready")
            assert ready.status == 503
            assert "File too large" in ready.error
            assert client.metrics()["arc_log_read_only"] == 1
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
            eventually(lambda: client.get("/ready").status == 200, "writes are taken again")
            client.write(columnar("m", id=[5]))
        daemon.stop()
        assert stored_ids(tmp_path / "data") == Counter([1, 2, 3, 5])


def test_a_disk_that_takes_neither_files_nor_events_delays_rows_and_loses_none(
    tmp_path: Path,
) -> None:
    flags = ("--workers", "1", "--flush-age-s", "0.1", "--durability", "memory")
    with serving(tmp_path / "data", *flags, log_file=tmp_path / "log") as daemon:
        write_some(daemon)
        with Client(daemon.port) as client:
            client.wait_until_stored()
            pid = daemon.worker(0).pid
            unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
            client.write(columnar("m", id=[4]))
            eventually(lambda: client.metrics()["arc_flush_failures_total"] > 0, "a flush fails")
            client.write(columnar("m", id=[5]))
            assert client.metrics()["arc_rows_buffered"] == 2
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
            client.wait_until_stored(timeout_s=10)  # twice the longest pause between two tries
        daemon.stop()
        assert stored_ids(tmp_path / "data") == Counter([1, 2, 3, 4, 5])
