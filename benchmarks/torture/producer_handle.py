"""A producer in a process of its own, from outside: started, watched, stopped or killed.

In: the settings of the producer. Out: what it told, what its counters say, and its `Life`s for a
ledger. Only the process that was started here is ever signalled.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.torture.client_plan import Life, enter
from benchmarks.torture.daemon import REPOSITORY
from benchmarks.torture.load import Ledger
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.producer import END_TIMEOUT_S, Counters, Report, Settings

START_TIMEOUT_S = 60.0
#: flush, then close, each of which may take its time.
STOP_TIMEOUT_S = 2 * END_TIMEOUT_S + 10.0
POLL_S = 0.01
#: No call of any thread returned for so long: all of them wait for room.
BLOCKED_S = 0.3
#: Reports that make a verdict bad, and how many different ones are shown.
FAULTS = ("error", "refused")
WORDS_KEPT = 5


class ProducerError(RuntimeError):
    """A producer did not do what every producer does."""


class Producer:
    """One process that logs.

    Attributes:
        settings: What it was told.
        killed: It was, or is about to be.
        reports: The lines that it wrote, in order.
    """

    def __init__(self, settings: Settings, log_file: Path) -> None:
        self.settings = settings
        self.killed = False
        self.reports: list[Report] = []
        self._counters = Counters.create(Path(settings.counters), len(settings.clients))
        self._started_us = time.time_ns() // 1000
        self._ended_us = 0
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.torture.producer", _json(settings)],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else it was killed while it wrote the line
                self.reports.append(msgspec.json.decode(line, type=Report))

    # ------------------------------------------------------------------------------------ watching

    @property
    def returned(self) -> int:
        """Rows for which the call has returned, over all threads."""
        return sum(self._counters.returned)

    @property
    def safe(self) -> list[int]:
        """Rows of each thread of which it said last that they are safe."""
        told = [report.rows for report in list(self.reports) if report.event == "safe"]
        return told[-1] if told else [0] * len(self.settings.clients)

    @property
    def has_told_error(self) -> bool:
        """Whether it met a defect."""
        return any(report.event == "error" for report in list(self.reports))

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition holds; False: not in time, or it ended or met a defect."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            is_over = self._process.poll() is not None or self.has_told_error
            if is_over or time.monotonic() > deadline_s:
                return condition()
            time.sleep(POLL_S)
        return True

    def wait_for_rows(self, rows: int, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until so many rows were logged.

        Raises:
            ProducerError: they were not, in time.
        """
        if not self.wait_for(lambda: self.returned >= rows, timeout_s):
            raise ProducerError(f"{self.returned} rows logged, wanted {rows}: {self.last_words()}")

    def wait_until_blocked(self, timeout_s: float) -> bool:
        """Wait until every thread is in a call and none returns; False: not in time."""
        deadline_s = time.monotonic() + timeout_s
        last, since_s = -1, time.monotonic()
        while time.monotonic() < deadline_s:
            counted = self._counters.returned
            waiting = all(b > r for b, r in zip(self._counters.begun, counted, strict=True))
            if sum(counted) != last or not waiting:
                last, since_s = sum(counted), time.monotonic()
            elif time.monotonic() - since_s > BLOCKED_S:
                return True
            time.sleep(POLL_S)
        return False

    def last_words(self) -> str:
        """What it told beside its progress."""
        told = [report for report in list(self.reports) if report.event != "safe"]
        return "; ".join(f"{one.event} {one.text}".strip() for one in told) or "it said nothing"

    # -------------------------------------------------------------------------------------- ending

    def kill(self) -> None:
        """SIGKILL, and wait; what it had written to its pipe is read to the end."""
        self.killed = True
        self._process.kill()
        self._wait()

    def finish(self) -> Report:
        """End its input, wait for its end, and return its last report.

        Raises:
            ProducerError: it did not end in time or in order; it is dead.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProducerError(f"not ended within {STOP_TIMEOUT_S:g} s") from None
        self._wait()
        if not self.reports or self.reports[-1].event != "end":
            raise ProducerError(f"no report of the end: {self.last_words()}")
        return self.reports[-1]

    def _wait(self) -> None:
        self._process.wait()
        self._reader.join()
        self._ended_us = self._ended_us or time.time_ns() // 1000

    def close(self) -> None:
        """End it if it runs, and release what it held."""
        self._process.kill()  # does nothing to a process whose end is known
        self._wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def enter(self, ledger: Ledger, done_us: int, accepted: list[int] | None = None) -> int:
        """Put its rows into a ledger.

        Args:
            ledger: Of the round.
            done_us: When everything was delivered.
            accepted: Rows of each thread that are wanted back; None: by the rule, those that it
                called safe if it was killed, otherwise those for which the call returned.

        Returns:
            How many are wanted back.
        """
        if accepted is None:
            accepted = self.safe if self.killed else self._counters.returned
        for client, begun, wanted in zip(
            self.settings.clients, self._counters.begun, accepted, strict=True
        ):
            life = Life(client, begun, wanted, self._started_us, self._ended_us)
            enter(ledger, self.settings.seed, life, done_us)
        return sum(accepted)

    @property
    def all_returned(self) -> list[int]:
        """Rows of each thread for which the call returned."""
        return self._counters.returned

    def told(self, name: str) -> int:
        """A number of the client's stats at the end; 0 when it was killed before."""
        last = self.reports[-1] if self.reports else Report("")
        return int(last.stats.get(name, 0))

    def check(self, verdict: Verdict) -> None:
        """What it told has to be in order: no defect, no refusal, and every row accounted for."""
        wrong = Counter(f"{r.event}: {r.text}" for r in self.reports if r.event in FAULTS)
        for words, count in wrong.most_common(WORDS_KEPT):
            verdict.require(False, f"producer: {count} times {words}")
        if self.killed:
            return
        end = self.reports[-1]
        verdict.require(end.flushed, "producer: flush() returned False at the end")
        verdict.require(end.closed, "producer: close() returned False")
        self._check_conservation(end, verdict)

    def _check_conservation(self, end: Report, verdict: Verdict) -> None:
        taken, found = self.returned, end.stats
        recovered, acknowledged = found["recovered_rows"], found["acknowledged_rows"]
        verdict.require(
            acknowledged == taken + recovered and found["taken_rows"] == taken,
            f"producer: {taken} rows logged, {recovered} recovered, {acknowledged} acknowledged, "
            f"{found['taken_rows']} taken by its own count",
        )
        for name in ("queued_rows", "queued_batches", "refused_rows", "dropped_rows"):
            verdict.require(found[name] == 0, f"producer: {name} is {found[name]} at the end")


def _json(settings: Settings) -> str:
    return msgspec.json.encode(settings).decode()


@contextmanager
def producing(settings: Settings, log_file: Path) -> Iterator[Producer]:
    """A producer of which nothing runs afterwards."""
    producer = Producer(settings, log_file)
    try:
        yield producer
    finally:
        producer.close()
