"""A program that logs through the producer client until its standard input ends, or it is killed.

    python -m benchmarks.torture.producer '{"url": …}'      # see `Settings`; made by the harness

In: settings, as JSON. Out: JSON lines on the standard output (`Report`), each written by one
call, so that what was told stays told after SIGKILL; and in a shared file two numbers a thread:
how many rows it has begun to log, and for how many the call has returned. The page cache keeps
these, too. The rows are those of benchmarks/torture/client_plan.py.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from arc.client import Client
from benchmarks.torture.client_plan import (
    Burst,
    Verb,
    bursts,
    columns_of,
    rows_of,
    stated_times,
)

#: Between two questions whether what was logged is safe.
REPORT_PAUSE_S = 0.02
#: Of one such question; what is not safe by then is asked for again.
REPORT_TIMEOUT_S = 0.5
#: For the end: the server is back by then.
END_TIMEOUT_S = 30.0
_WORD_BYTES = 8


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What a producer is told.

    Attributes:
        clients: Numbers of its threads in the plan.
        seed: Of the plan.
        counters: The shared file, of `2 * len(clients)` int64.
        client: Arguments of `Client`.
        rows_per_s: Of each thread, about.
        safe_by: Ask all along whether rows are safe, by "checkpoint" or "flush"; "": never ask.
        may_wait: Some columns are written with `wait=True`.
    """

    clients: list[int]
    seed: int
    counters: str
    client: dict[str, Any]
    rows_per_s: float = 20_000.0
    safe_by: str = ""
    may_wait: bool = True


class Report(msgspec.Struct, omit_defaults=True):
    """A line that a producer writes.

    Attributes:
        event: "ready", "safe", "refused" (rows, by the client), "error" (a defect), or "end".
        rows: Of "safe": rows of each thread that are; of "end": rows of each for which the call
            returned.
        text: Of "error" and "refused".
        flushed: Of "end": what flush() returned.
        closed: Of "end": what close() returned.
        stats: Of "end": the client's, after close().
    """

    event: str
    rows: list[int] = []
    text: str = ""
    flushed: bool = False
    closed: bool = False
    stats: dict[str, Any] = {}


class Counters:
    """Rows begun and returned of each thread, in memory that outlives the process.

    Args:
        path: Of a file with two int64 for each thread.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        #: int64, shape (2 * threads,): those begun, then those returned.
        self.words = memoryview(self._map).cast("q")
        self.threads = len(self.words) // 2

    @classmethod
    def create(cls, path: Path, threads: int) -> Counters:
        """A new file, all zero."""
        path.write_bytes(bytes(2 * threads * _WORD_BYTES))
        return cls(path)

    @property
    def begun(self) -> list[int]:
        """Rows of each thread whose call began."""
        return self.words[: self.threads].tolist()

    @property
    def returned(self) -> list[int]:
        """Rows of each thread whose call returned."""
        return self.words[self.threads :].tolist()

    def close(self) -> None:
        """Unmap the file."""
        self.words.release()
        self._map.close()


class Worker:
    """What one thread does, which is one client of the plan.

    Args:
        number: Which of the producer's threads.
        client: Shared by all of them.
        settings: Of the producer.
        counters: Its own two are counted on.
        stopping: Set when the thread is to end, between two rows.
    """

    def __init__(
        self,
        number: int,
        client: Client,
        settings: Settings,
        counters: Counters,
        stopping: threading.Event,
    ) -> None:
        self._plan = bursts(settings.seed, settings.clients[number])
        self._pause_s, self._may_wait = 1 / settings.rows_per_s, settings.may_wait
        self._chance = random.Random(f"pauses/{settings.seed}/{settings.clients[number]}")
        self._client = client
        self._words = counters.words
        self._begun, self._returned = number, counters.threads + number
        self._stopping = stopping
        self._series: dict[tuple[Any, ...], Any] = {}

    def run(self) -> None:
        """Burst after burst, with pauses between them."""
        verbs = {Verb.LOG: self._log, Verb.SERIES: self._log_series}
        verbs |= {Verb.COLUMNAR: self._write_columnar, Verb.FRAME: self._write_frame}
        try:
            for burst in self._plan:
                verbs[burst.verb](burst)
                pause_s = burst.request.count * self._pause_s * self._chance.uniform(0, 2)
                if self._stopping.wait(pause_s):
                    return
        except Exception:
            tell(Report("error", text=traceback.format_exc()))

    def _log(self, burst: Burst) -> None:
        log, measurement = self._client.log, burst.request.parts[0].measurement
        words, begun, returned = self._words, self._begun, self._returned
        for row in _timed_rows(burst):
            if self._stopping.is_set():
                return
            words[begun] += 1
            log(measurement, **row)
            words[returned] += 1

    def _log_series(self, burst: Burst) -> None:
        words, begun, returned = self._words, self._begun, self._returned
        measurement, is_timed = (
            burst.request.parts[0].measurement,
            burst.request.base_us is not None,
        )
        for row in _timed_rows(burst):
            if self._stopping.is_set():
                return
            moment, tag = row.pop("time", None), row.pop("s", None)
            handle = self._handle(measurement, tag, tuple(row))
            words[begun] += 1
            if is_timed:
                handle.log_at(moment, *row.values())
            else:
                handle.log(*row.values())
            words[returned] += 1

    def _handle(self, measurement: str, tag: str | None, fields: tuple[str, ...]) -> Any:
        handle = self._series.get((measurement, tag, fields))
        if handle is None:
            tags = {} if tag is None else {"s": tag}
            handle = self._client.series(measurement, tags=tags, fields=fields)
            self._series[measurement, tag, fields] = handle
        return handle

    def _write_columnar(self, burst: Burst) -> None:
        request, columns = burst.request, columns_of(burst.request)
        times, unit = stated_times(request), None
        if times is not None:
            columns["time"], unit = times, request.unit
        with _Counted(self, request.count):
            self._client.write_columnar(
                request.parts[0].measurement,
                columns,
                tags=("s",) if "s" in columns else (),
                time_unit=unit,
                wait=burst.waits and self._may_wait,
            )

    def _write_frame(self, burst: Burst) -> None:
        request, columns = burst.request, columns_of(burst.request)
        arrays = {name: pa.array(values) for name, values in columns.items()}
        times = stated_times(request)
        if times is not None:
            arrays["time"] = pa.array(times).cast(pa.timestamp(request.unit, "UTC"))
        with _Counted(self, request.count):
            self._client.write_dataframe(
                pa.table(arrays),
                request.parts[0].measurement,
                tags=["s"] if "s" in columns else [],
                wait=burst.waits and self._may_wait,
            )

    def count(self, begun: int = 0, returned: int = 0) -> None:
        """Count on what the other side sees."""
        self._words[self._begun] += begun
        self._words[self._returned] += returned


class _Counted:
    """Counts rows as begun, and as returned when no error came."""

    def __init__(self, worker: Worker, rows: int) -> None:
        self._worker, self._rows = worker, rows

    def __enter__(self) -> None:
        self._worker.count(begun=self._rows)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._worker.count(returned=self._rows)


def _timed_rows(burst: Burst) -> list[dict[str, Any]]:
    """The rows of a burst, with a time in each if it states them."""
    rows, times = rows_of(burst.request), stated_times(burst.request)
    if times is not None:
        for row, moment in zip(rows, times.tolist(), strict=True):
            row["time"] = moment
    return rows


def tell(report: Report) -> None:
    """Write a line, whole or not at all: shorter than PIPE_BUF, or nobody is killed meanwhile."""
    os.write(sys.stdout.fileno(), msgspec.json.encode(report) + b"\n")


def report_what_is_safe(
    client: Client, how: str, counters: Counters, stopping: threading.Event
) -> None:
    """Ask, again and again, and tell how many rows had returned before the question."""
    ask = client.checkpoint if how == "checkpoint" else client.flush
    try:
        while not stopping.wait(REPORT_PAUSE_S):
            returned = counters.returned
            if ask(timeout=REPORT_TIMEOUT_S):
                tell(Report("safe", rows=returned))
    except Exception:
        tell(Report("error", text=traceback.format_exc()))


def run(settings: Settings) -> None:
    """Log until the standard input ends; then flush, close and tell."""
    counters, stopping = Counters(Path(settings.counters)), threading.Event()
    client = Client(
        **settings.client, on_error=lambda error: tell(Report("refused", text=str(error)[:1000]))
    )
    numbers = range(len(settings.clients))
    workers = [Worker(number, client, settings, counters, stopping) for number in numbers]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    if settings.safe_by:
        arguments = (client, settings.safe_by, counters, stopping)
        threads.append(threading.Thread(target=report_what_is_safe, args=arguments))
    for thread in threads:
        thread.start()
    tell(Report("ready"))
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stopping.set()
    for thread in threads:
        thread.join()
    flushed = client.flush(timeout=END_TIMEOUT_S)
    closed = client.close(timeout=END_TIMEOUT_S)
    stats = client.stats()
    names = [name for name in dir(stats) if not name.startswith("_")]
    told = {n: v for n in names if isinstance(v := getattr(stats, n), int | float | str)}
    tell(Report("end", rows=counters.returned, flushed=flushed, closed=closed, stats=told))


if __name__ == "__main__":
    try:
        run(msgspec.json.decode(sys.argv[1], type=Settings))
    except Exception:
        tell(Report("error", text=traceback.format_exc()))
        sys.exit(1)
