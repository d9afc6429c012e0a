"""Rows are counted over and over while they come, are flushed, and files are merged under way.

In: a context. Out: a verdict: no answer may lack a row that was acknowledged before the query was
sent, or have one twice, or one that was not sent when it came back. Each writer numbers its rows
and sends one request after another, so that what a query sees of it are the first so many: their
number, their sum and their highest number have to fit together, and a loss cannot hide a double.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from typing import Any

from benchmarks.torture.compaction import (
    OWN,
    SMALL_FILES,
    compact_to_the_end,
    judge_leftovers,
    merges_of,
)
from benchmarks.torture.daemon import Daemon
from benchmarks.torture.load import (
    HOUR_END_US,
    Ledger,
    Link,
    Outcome,
    Part,
    Request,
    encode,
    settle,
)
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context

WRITERS = 3
DATABASE, TABLE = "torture", "counted"
COLUMNS = ("i", "f", "s", "n")
QUERIES = ("--query-concurrency", "2", "--query-spare-cores", "0")
ALL_SQL = f"SELECT count(*) FROM {TABLE}"
EACH_SQL = (
    "SELECT client, count(*), count(DISTINCT sequence), sum(sequence)::BIGINT, max(sequence) "
    f"FROM {TABLE} GROUP BY client"
)
ROUND_S, QUICK_TIMEOUT_S = 30.0, 120.0
#: Of a short round.
QUICK_MERGES, QUICK_ANSWERS = 2, 10
PAUSE_S = 0.02
_DAY_US = 86_400_000_000


class Counting:
    """Writers, merges and a reader that counts. Nothing is killed."""

    name = "counting"
    description = "count rows over and over while they are written, flushed and merged"
    default_rounds = 2
    record_rounds = 10
    group = 1

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Some time of all three, the last counts, and the verdict on the files."""
        verdict = Verdict(tallies={"answers": 0, "merges": 0})
        writers = [Writer(context.ledger, context.chance.random()) for _ in range(WRITERS)]
        with context.daemon(*SMALL_FILES, *OWN, *QUERIES) as daemon:
            daemon.start()
            daemon.wait_until_ready()
            daemon.wait_for(lambda: _post(daemon, "SELECT 1")[0] == 200, "ready for queries")
            with contextlib.ExitStack() as stack:
                for writer in writers:
                    stack.enter_context(writer.writing(daemon.address))
                daemon.wait_for(lambda: all(one.acknowledged for one in writers), "written to")
                self._count_for_a_while(context, daemon, writers, verdict)
            _count(daemon, writers, verdict)
            verdict.tallies["merges"] = merges_of(context.data_dir)
            status = daemon.stop()
        verdict.require(status == 0, f"exit status {status} after SIGTERM, wanted 0")
        verdict.require(verdict.tallies["merges"], "nothing was merged")
        for writer in writers:
            verdict.require(not writer.odd, f"writes were answered with {writer.odd}")
        compact_to_the_end(context)
        verdict.add(context.judge())
        judge_leftovers(context, verdict)
        return verdict

    def _count_for_a_while(
        self, context: Context, daemon: Daemon, writers: list[Writer], verdict: Verdict
    ) -> None:
        end_s = time.monotonic() + (QUICK_TIMEOUT_S if context.quick else ROUND_S)
        answers = 0
        while time.monotonic() < end_s and not verdict.broken:
            _count(daemon, writers, verdict)
            answers += 1
            has_merged = merges_of(context.data_dir) >= QUICK_MERGES
            if context.quick and answers >= QUICK_ANSWERS and has_merged:
                break


class Writer:
    """One client, whose rows are numbered from 0.

    Attributes:
        client: Its number in the ledger.
        begun: Rows that were sent, or are about to be.
        acknowledged: Rows of requests that were answered with 204; never more than `begun`.
        odd: Statuses other than 204 and 503.
    """

    def __init__(self, ledger: Ledger, seed: float) -> None:
        self.client = ledger.new_client()
        self.begun = 0
        self.acknowledged = 0
        self.odd: set[int] = set()
        self._ledger = ledger
        self._random = random.Random(seed)
        self._stopping = threading.Event()

    @contextlib.contextmanager
    def writing(self, address: tuple[str, int]) -> Any:
        """Send, until the end of a `with`."""
        thread = threading.Thread(target=self._run, args=(address,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _run(self, address: tuple[str, int]) -> None:
        link = Link(address)
        while not self._stopping.wait(PAUSE_S):
            request = self._request()
            body = encode(request)
            request.sent_us = time.time_ns() // 1000
            self._ledger.add(request)
            self.begun += request.count
            while request.outcome != Outcome.ACKNOWLEDGED:
                settle(request, link.post(request, body).status)
                if request.statuses[-1] not in (204, 503):
                    self.odd.add(request.statuses[-1])
                    return
            self.acknowledged += request.count
        link.close()

    def _request(self) -> Request:
        """Rows of one of some past hours of two days, or of now."""
        chance = self._random
        base_us = (
            HOUR_END_US - chance.randrange(2) * _DAY_US + chance.randrange(-7200, 7200) * 10**6
        )
        return Request(
            client=self.client,
            first=self.begun,
            parts=(Part(TABLE, chance.choice((1, 10, 300))),),
            columns=COLUMNS,
            database=DATABASE,
            base_us=base_us if chance.random() < 0.8 else None,
        )


def _count(daemon: Daemon, writers: list[Writer], verdict: Verdict) -> None:
    """Ask both questions, and hold the answers against what was sent."""
    before = [writer.acknowledged for writer in writers]
    ((total,),) = _ask(daemon, ALL_SQL)
    low, high = sum(before), sum(writer.begun for writer in writers)
    verdict.require(low <= total <= high, f"count(*) is {total}, wanted {low} to {high}")
    before = [writer.acknowledged for writer in writers]
    found = {row[0]: row[1:] for row in _ask(daemon, EACH_SQL)}
    for writer, low in zip(writers, before, strict=True):
        count, distinct, total, highest = found.get(writer.client, (0, 0, 0, -1))
        fits = (distinct, total, highest) == (count, count * (count - 1) // 2, count - 1)
        verdict.require(
            low <= count <= writer.begun and fits,
            f"writer {writer.client} has {count} rows, {distinct} different ones, with the sum "
            f"{total} and the highest {highest}: wanted {low} to {writer.begun} rows from 0 on",
        )
    verdict.tallies["answers"] += 2


def _ask(daemon: Daemon, sql: str) -> list[list[Any]]:
    """The rows of an answer.

    Raises:
        AssertionError: it is another one than 200.
    """
    status, content = _post(daemon, sql)
    assert status == 200, f"{status}: {content}"
    rows: list[list[Any]] = content["data"]
    return rows


def _post(daemon: Daemon, sql: str) -> tuple[int, dict[str, Any]]:
    """Status and content of an answer."""
    host, port = daemon.address
    headers = {"x-arc-database": DATABASE, "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=60)) as link:
        link.request("POST", "/api/v1/query", json.dumps({"sql": sql}), headers)
        reply = link.getresponse()
        return reply.status, json.loads(reply.read())


PROGRAMS = (Counting(),)
