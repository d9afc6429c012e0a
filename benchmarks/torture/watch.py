"""A patient client that notes every answer while something is being broken.

In: an address and a ledger. Out: what `POST`, `GET /ready` and `GET /metrics` answered, and when.
Its own rows are in the ledger as those of any other client. It breaks nothing and judges only
what clients were promised: 204 or 503 with Retry-After, no connection that dies, metrics that
answer all the time, and a reason in `/ready` while nothing is taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.torture.load import Ledger, Link, Maker, Options, Reply, encode, settle
from benchmarks.torture.oracle import Verdict

#: Pauses between two requests: short against the times that are promised, in seconds.
WRITE_PAUSE_S = 0.01
LOOK_PAUSE_S = 0.05
REPLY_TIMEOUT_S = 10.0
_POLL_S = 0.01


class Answer(NamedTuple):
    """One answer.

    Attributes:
        asked_s: When the request was sent, by `time.monotonic`.
        status: Of HTTP; 0: the connection died, or nothing came in time.
        retry_after: Value of that header, or empty.
        text: Of the body.
    """

    asked_s: float
    status: int
    retry_after: str
    text: str


class Watch:
    """Two threads that ask, until the context ends.

    Args:
        address: Of the daemon.
        ledger: Gets the rows that are written.
        seed: Of those rows.

    Attributes:
        writes: Answers to POST, in order.
        readiness: Answers to GET /ready.
        metrics: Answers to GET /metrics.
    """

    def __init__(self, address: tuple[str, int], ledger: Ledger, seed: int = 0) -> None:
        self.writes: list[Answer] = []
        self.readiness: list[Answer] = []
        self.metrics: list[Answer] = []
        self._address = address
        self._ledger = ledger
        options = Options(seed=seed, row_counts=((1.0, 1, 10),))
        self._maker = Maker(ledger.new_client(), options)
        self._stopping = threading.Event()
        loops = (self._write, self._look)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask nothing more, and wait for the answers under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: Sequence[Answer], status: int, timeout_s: float) -> float | None:
        """Wait for an answer to what is asked from now on.

        Args:
            answers: One of the three lists.
            status: That is waited for.
            timeout_s: How long.

        Returns:
            Seconds until the request that got it was sent; None when none did in time.
        """
        start_s = time.monotonic()
        while time.monotonic() < start_s + timeout_s:
            for answer in reversed(answers):
                if answer.asked_s < start_s:
                    break
                if answer.status == status:
                    return answer.asked_s - start_s
            self._stopping.wait(_POLL_S)
        return None

    def _write(self) -> None:
        line = _Line(self._address)
        while not self._stopping.wait(WRITE_PAUSE_S):
            request = self._maker.make()
            body = encode(request)
            request.sent_us = time.time_ns() // 1000
            self._ledger.add(request)
            answer = line.ask(lambda link: link.post(request, body))  # noqa: B023  (called at once)
            settle(request, answer.status)
            self.writes.append(answer)
        line.close()

    def _look(self) -> None:
        line = _Line(self._address)
        while not self._stopping.wait(LOOK_PAUSE_S):
            self.readiness.append(line.ask(lambda link: link.get("/ready")))
            self.metrics.append(line.ask(lambda link: link.get("/metrics")))
        line.close()

    def judge(self, verdict: Verdict) -> None:
        """Hold what was answered against what was promised."""
        odd = sorted({answer.status for answer in self.writes} - {204, 503})
        verdict.require(not odd, f"writes were answered with {odd} (0: the connection died)")
        dry = sum(answer.status == 503 and not answer.retry_after for answer in self.writes)
        verdict.require(not dry, f"{dry} answers of 503 had no Retry-After")
        mute = sum(answer.status != 200 for answer in self.metrics)
        verdict.require(not mute, f"/metrics failed {mute} of {len(self.metrics)} times")
        lost = sum(answer.status not in (200, 503) for answer in self.readiness)
        verdict.require(not lost, f"/ready failed {lost} of {len(self.readiness)} times")
        bare = sum(answer.status == 503 and not answer.text.strip() for answer in self.readiness)
        verdict.require(not bare, f"/ready gave no reason {bare} times")

    def refused_since(self, since_s: float) -> int:
        """How many writes that were sent after this moment were answered 503."""
        return sum(a.status == 503 for a in self.writes if a.asked_s >= since_s)

    def reasons(self) -> list[str]:
        """What /ready said while it was 503, each once, in order."""
        told = [answer.text.strip() for answer in self.readiness if answer.status == 503]
        return list(dict.fromkeys(told))


class _Line:
    """A connection that is made again when it dies."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._link: Link | None = None

    def ask(self, question: Callable[[Link], Reply]) -> Answer:
        """Ask once; status 0 when the connection dies over it, or cannot be made."""
        asked_s = time.monotonic()
        try:
            if self._link is None:
                self._link = Link(self._address, REPLY_TIMEOUT_S)
            reply = question(self._link)
        except OSError:
            self.close()
            return Answer(asked_s, 0, "", "")
        if reply.headers.get("connection", "").lower() == "close":
            self.close()
        text = reply.body.decode(errors="replace")
        return Answer(asked_s, reply.status, reply.headers.get("retry-after", ""), text)

    def close(self) -> None:
        """Close it, if there is one."""
        if self._link is not None:
            self._link.close()
        self._link = None
