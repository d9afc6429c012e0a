"""A profile of the live daemon: who gets it, of what it is made, and that it harms nobody."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import signal
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from arc.profiler.samples import parse_raw
from benchmarks.profiling import load
from tests.e2e.client import Client
from tests.support.daemon import Daemon, eventually, serving

TOKEN = "a-token-that-nobody-sees"
PATH = "/debug/pprof/profile"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon of two workers with an admin token; that a stop ends a profile is seen last."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "token"
    file.write_text(f"{TOKEN}\n", encoding="ascii")
    with serving(
        folder / "data", "--workers", "2", "--admin-token-file", str(file), "--log-level", "debug"
    ) as daemon:
        yield daemon
        last: list[Answer] = []
        asking = threading.Thread(target=lambda: last.append(Answer(daemon, "?seconds=60")))
        asking.start()
        eventually(lambda: is_sampling(daemon), "a profile is being taken")
    asking.join()
    assert last[0].status == 200  # of what was seen until the stop


def is_sampling(daemon: Daemon) -> bool:
    """Whether every worker handles SIGPROF now."""
    bit = 1 << (signal.SIGPROF - 1)
    caught = (
        re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{entry.pid}/status").read_text(), re.MULTILINE)
        for entry in daemon.info.workers
    )
    return all(found is not None and int(found[1], 16) & bit for found in caught)


class Answer:
    """Of one request."""

    def __init__(
        self, daemon: Daemon, query: str = "", headers: dict[str, str] | None = None
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", PATH + query, headers=BEARER if headers is None else headers)
            reply = connection.getresponse()
            self.status, self.headers, self.body = reply.status, reply.headers, reply.read()


def test_only_those_with_the_token_get_one(guarded: Daemon) -> None:
    basic = "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()
    assert Answer(guarded, "?seconds=1", {"Authorization": basic}).status == 200
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic !"}):
        answer = Answer(guarded, "?seconds=60", headers)
        assert answer.status == 401
        assert "Basic" in ", ".join(answer.headers.get_all("WWW-Authenticate", []))


def test_without_a_token_set_it_says_how_to_set_one(live: Daemon) -> None:
    answer = Answer(live, "?seconds=1")
    assert answer.status == 403
    assert "ARC_ADMIN_TOKEN" in json.loads(answer.body)["error"]


def test_the_picture_is_of_all_workers_and_needs_nothing_else(guarded: Daemon) -> None:
    answer = Answer(guarded, "?seconds=1")
    assert answer.status == 200
    assert answer.headers.get_content_type() == "image/svg+xml"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    root = ET.fromstring(answer.body)
    assert root.tag.endswith("svg")
    assert b"2 workers merged" in answer.body
    addresses = set(re.findall(rb"https?://[^\s\"'<]+", answer.body))
    assert addresses == {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xhtml"}


def test_a_worker_at_work_is_in_it_whichever_is_asked(guarded: Daemon) -> None:
    with Load(guarded):
        stacks = parse_raw(Answer(guarded, "?seconds=1&format=collapsed").body.decode())
        scope = json.loads(Answer(guarded, "?seconds=1&format=speedscope").body)
    files = {frame.file for stack in stacks for frame in stack.frames}
    assert "arc/worker.py" in files
    assert any(file.startswith("arc/") and "door" in file for file in files)
    assert {stack.thread for stack in stacks} >= {"MainThread"}
    workers = {profile["name"].partition(",")[0] for profile in scope["profiles"]}
    assert workers <= {f"worker {entry.shard} (pid {entry.pid})" for entry in guarded.info.workers}


class Load:
    """Writes on one connection while it is open; every answer must be 204."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: set[int] = set()

    def _run(self) -> None:
        body = b"\x82\xa1m\xa3cpu\xa7columns\x81\xa5usage\x91*"
        connection = http.client.HTTPConnection("127.0.0.1", self._daemon.port, timeout=60)
        while not self._stop.is_set():
            connection.request("POST", "/api/v1/write/msgpack", body)
            reply = connection.getresponse()
            reply.read()
            self.statuses.add(reply.status)
        connection.close()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.statuses == {204}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?seconds=0", "1 to 60"),
        ("?seconds=61", "1 to 60"),
        ("?seconds=1.5", "1 to 60"),
        ("?seconds=", "1 to 60"),
        ("?seconds=99999999999999", "1 to 60"),
        ("?format=pdf", "svg, speedscope, collapsed"),
        ("?second=1", "seconds and format"),
    ],
)
def test_what_cannot_be_is_told(guarded: Daemon, query: str, words: str) -> None:
    answer = Answer(guarded, query)
    assert answer.status == 400
    assert words in json.loads(answer.body)["error"]


def test_one_at_a_time_and_it_ends_when_its_client_goes(guarded: Daemon) -> None:
    leaving = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=60)
    leaving.request("GET", f"{PATH}?seconds=60", headers=BEARER)
    eventually(lambda: is_sampling(guarded), "a profile is being taken")
    refused = Answer(guarded, "?seconds=1")
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    leaving.close()
    eventually(lambda: not is_sampling(guarded), "it ends")
    assert Answer(guarded, "?seconds=1").status == 200


def test_the_load_of_the_profiler_begins_and_ends(guarded: Daemon) -> None:
    before = set(psutil.Process().children(recursive=True))
    arguments = ["--connections", "2", "--bodies", "4"]
    with Client(guarded.port) as client:
        was = client.metrics().value("arc_rows_accepted_total")
        with load.loaded(guarded.where.root, 1, arguments, lambda _: None) as data_dir:
            assert data_dir == guarded.where.root
            assert client.metrics().value("arc_rows_accepted_total") > was
    eventually(
        lambda: set(psutil.Process().children(recursive=True)) <= before, "its processes end"
    )


def test_a_load_that_cannot_be_is_told_in_its_own_words(guarded: Daemon) -> None:
    with (
        pytest.raises(load.LoadError, match="--workload"),
        load.loaded(guarded.where.root, 1, ["--workload", "none"], lambda _: None),
    ):
        pass


def test_the_token_is_shown_nowhere(guarded: Daemon) -> None:
    Answer(guarded, "?seconds=1")
    Answer(guarded, "", {"Authorization": "Bearer wrong"})
    assert TOKEN not in guarded.log
    with Client(guarded.port) as client:
        for page in ("/metrics", "/health", "/ready"):
            assert TOKEN.encode() not in client.get(page).body
    family = psutil.Process(guarded.process.pid)
    for process in (family, *family.children(recursive=True)):
        assert TOKEN not in " ".join(process.cmdline())
    for path in (guarded.where.root / ".arc").rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes()
