"""Every request several times over, with an `Idempotency-Key`: at once, and across a restart.

In: a context. Out: a verdict: one copy of each. A request is sent on three connections at one
moment, which workers share between them, and once more after a restart; restarts are by SIGTERM
and by SIGKILL in turn, the latter in the middle of it all. Another body under a key that was
used must be a 422.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.torture.daemon import Daemon, DaemonError
from benchmarks.torture.load import (
    BACKOFF_S,
    Link,
    Maker,
    Options,
    Outcome,
    Request,
    encode,
    settle,
)
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context

REQUESTS = 10_000
QUICK_REQUESTS = 400
#: Restarts within a round.
RESTARTS = 4
#: Groups of connections that work side by side.
LANES = 3
COPIES = 3
ROW_COUNTS = ((0.9, 1, 10), (0.1, 11, 60))
#: One request of so many is sent once more with another body.
EACH_OTHER_BODY = 20
#: A request must be acknowledged within this, a restart included.
PATIENCE_S = 100.0


class Job:
    """One request, as it is on the wire, and every answer to it.

    Attributes:
        request: In the ledger.
        body: As sent.
        answers: Status of each attempt of each copy; 0: the connection died.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.body = encode(request)
        self.answers: list[int] = []


class Keys:
    """10 000 requests, each sent three times at once and a fourth time after a restart."""

    name = "keys"
    description = "every request three times at once and again after a restart, with a key"
    default_rounds = 1
    record_rounds = 1
    group = 1

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Send everything, restart in between, stop in order, judge."""
        jobs = _jobs(context)
        size = -(-len(jobs) // (2 if context.quick else RESTARTS))
        other: Counter[int] = Counter()
        with context.daemon("--flush-age-s", "1") as daemon:
            daemon.start()
            daemon.wait_until_ready()
            for number, first in enumerate(range(0, len(jobs), size)):
                part = jobs[first : first + size]
                _restart_between(context, daemon, part, is_kill=number % 2 == 0)
                _send_all(daemon, part, copies=1)
                other += _other_bodies(daemon, part)
                context.say(f"{first + len(part):,} of {len(jobs):,} requests")
            status = daemon.stop()
        verdict = context.judge()
        verdict.require(status == 0, f"exit status {status} after SIGTERM, wanted 0")
        _require_answers(verdict, jobs, other)
        return verdict


def _jobs(context: Context) -> list[Job]:
    """The requests of a round, all in the ledger."""
    ledger = context.ledger
    options = Options(seed=context.chance.randrange(2**31), keys=True, row_counts=ROW_COUNTS)
    maker = Maker(ledger.new_client(), options)
    count = QUICK_REQUESTS if context.quick else REQUESTS
    jobs = [Job(maker.make()) for _ in range(count)]
    for job in jobs:
        ledger.add(job.request)
    return jobs


def _restart_between(context: Context, daemon: Daemon, jobs: Sequence[Job], is_kill: bool) -> None:
    """Send the copies of all jobs; restart while that goes on, or after it."""
    if not is_kill:
        _send_all(daemon, jobs, COPIES)
        status = daemon.stop()
        if status:
            context.say(f"exit status {status} after SIGTERM")
        daemon.start()
        daemon.wait_until_ready()
        return
    sender = _Sender(daemon, jobs, COPIES)
    with sender:
        sender.wait_until_done(context.chance.uniform(0.5, 0.95))
        daemon.kill_tree()
        daemon.start()
        daemon.wait_until_ready()


def _send_all(daemon: Daemon, jobs: Sequence[Job], copies: int) -> None:
    with _Sender(daemon, jobs, copies):
        pass


class _Sender:
    """Sends each job on `copies` connections at one moment, until each copy is acknowledged."""

    def __init__(self, daemon: Daemon, jobs: Sequence[Job], copies: int) -> None:
        self._daemon = daemon
        self._jobs = jobs
        self._copies = copies
        self._settling = threading.Lock()  # of a request, which several threads do
        self._done = itertools.count(1)
        self._num_done = 0
        self._deadline_s = time.monotonic() + PATIENCE_S
        self._errors: list[BaseException] = []
        self._threads = []
        for lane in range(LANES):
            together = threading.Barrier(copies)
            for copy in range(copies):
                arguments = (jobs[lane::LANES], together, copy)
                self._threads.append(threading.Thread(target=self._run, args=arguments))

    def __enter__(self) -> _Sender:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self._deadline_s = 0.0
        for thread in self._threads:
            thread.join()
        if self._errors and error is None:
            raise self._errors[0]

    def wait_until_done(self, share: float) -> None:
        """Wait until this share of the jobs is acknowledged."""
        while self._num_done < share * len(self._jobs) and not self._errors:
            time.sleep(0.002)

    def _run(self, jobs: Sequence[Job], together: threading.Barrier, copy: int) -> None:
        link: Link | None = None
        try:
            for job in jobs:
                together.wait()
                link = self._send(job, link, copy)
                if copy == 0:
                    self._num_done = next(self._done)
        except threading.BrokenBarrierError:
            pass  # another copy of the lane has the reason
        except BaseException as error:
            self._errors.append(error)
            together.abort()
        finally:
            if link is not None:
                link.close()

    def _send(self, job: Job, link: Link | None, copy: int) -> Link | None:
        """One copy, until it is acknowledged or refused for good."""
        request = job.request
        request.sent_us = request.sent_us or time.time_ns() // 1000
        while time.monotonic() < self._deadline_s:
            status = 0
            try:
                link = link or self._connect(copy)
                status = link.post(request, job.body).status
            except (OSError, DaemonError):
                if link is not None:
                    link.close()
                    job.answers.append(0)
                    with self._settling:
                        settle(request, 0)
                link = None
            if status:
                job.answers.append(status)
                with self._settling:
                    settle(request, status)
            if status == 204 or (400 <= status < 500 and status != 409):
                return link
            time.sleep(BACKOFF_S)
        return link

    def _connect(self, copy: int) -> Link:
        """A connection to another worker than the other copies have, as far as there are so many.

        Raises:
            OSError: nobody listens.
            DaemonError: the daemon is not there yet.
        """
        shards = sorted(self._daemon.workers)
        wanted = shards[copy % len(shards)]
        while True:
            link = Link(self._daemon.address)
            if self._copies == 1 or self._daemon.shard_of(link.port) in (wanted, None):
                return link
            link.close()


def _other_bodies(daemon: Daemon, jobs: Sequence[Job]) -> Counter[int]:
    """The answers to another body under the key of some jobs, on a connection each."""
    answers: Counter[int] = Counter()
    for job in jobs[::EACH_OTHER_BODY]:
        link = Link(daemon.address)
        try:
            answers[link.post(job.request, _other_body(job)).status] += 1
        finally:
            link.close()
    return answers


def _other_body(job: Job) -> bytes:
    """The same rows in another frame: valid, and other bytes."""
    return encode(replace(job.request, form=(job.request.form + 1) % 3))


def _require_answers(verdict: Verdict, jobs: Sequence[Job], other: Counter[int]) -> None:
    """Every request acknowledged; nothing but what the protocol has for a repeat."""
    unsettled = [job for job in jobs if job.request.outcome != Outcome.ACKNOWLEDGED]
    verdict.require(not unsettled, f"{len(unsettled)} requests were never acknowledged")
    answers = Counter(status for job in jobs for status in job.answers)
    strange = sorted(answers.keys() - {0, 204, 409, 503})
    verdict.require(not strange, f"answers to repeats: {dict(answers)}")
    verdict.require(set(other) == {422}, f"answers to another body under a key: {dict(other)}")
    short = [job for job in jobs if job.answers.count(204) < COPIES + 1]
    verdict.require(not short, f"{len(short)} requests lack the 204 of a copy")
    verdict.tallies |= {
        "answers 204": answers[204],
        "answers 409": answers[409],
        "answers 503": answers[503],
        "connections lost": answers[0],
        "other bodies 422": other[422],
    }


PROGRAMS = (Keys(),)
