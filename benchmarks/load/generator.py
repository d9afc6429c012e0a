"""N generator processes as one: start together, show progress, gather what became of the load.

In: a `LoadSpec` and an address. Out: a `LoadResult`. The processes share nothing but the
specification and a start time; this module sends nothing itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.client import PROGRESS_FIELDS, ClientResult, LoadClient, Outcome
from benchmarks.load.sink import serve
from benchmarks.load.spec import LoadSpec

#: From "all are ready" to the first request: long enough for every process to get the message.
START_DELAY_S = 0.2
#: How often progress is told.
PROGRESS_S = 0.25
#: Fork is no choice: the parent has threads. Spawn imports some 0.3 s a process.
_CONTEXT = multiprocessing.get_context("spawn")
_NS = 1_000_000_000

#: Called with seconds since the start and the sums of `PROGRESS_FIELDS` over the processes.
OnProgress = Callable[[float, dict[str, int]], None]


class GeneratorError(RuntimeError):
    """A generator process, or the sink, ended without a result."""


@dataclass(frozen=True)
class LoadResult:
    """What became of a load.

    Attributes:
        spec: What was asked for.
        start_ns: When the first request was due, monotonic clock.
        processes: The result of each process.
    """

    spec: LoadSpec
    start_ns: int
    processes: Sequence[ClientResult]

    def outcomes(self) -> NDArray[np.uint8]:
        """`Outcome` of each request by its number in the run; shape (requests,)."""
        count = len(self.processes)
        longest = max(len(p.outcomes) for p in self.processes)
        out = np.full((longest, count), Outcome.NEVER_SENT, dtype=np.uint8)
        for i, process in enumerate(self.processes):
            out[: len(process.outcomes), i] = np.frombuffer(process.outcomes, dtype=np.uint8)
        return out.reshape(-1)

    def acknowledged_rows(self) -> int:
        """Rows of all acknowledged requests, those of the warm-up included."""
        return sum(len(p.done_ns) for p in self.processes) * self.spec.rows

    def rows_per_s(self) -> float:
        """Rows acknowledged within the measurement, by its length."""
        inside = int(((self._done_ns() >= self._from_ns) & (self._done_ns() < self._stop_ns)).sum())
        return inside * self.spec.rows / self.spec.seconds

    def bytes_per_s(self) -> float:
        """Bytes of acknowledged bodies, as sent, by second of the measurement."""
        requests = sum(len(p.done_ns) for p in self.processes)
        if not requests:
            return 0.0
        body_bytes = sum(p.body_bytes for p in self.processes)
        return self.rows_per_s() / self.spec.rows * body_bytes / requests

    def rows_by_second(self) -> list[int]:
        """Rows acknowledged in each second from the start, the warm-up included."""
        seconds = (self._done_ns() - self.start_ns) // _NS
        out: list[int] = (np.bincount(seconds) * self.spec.rows).tolist() if len(seconds) else []
        return out

    def latency_ms(self) -> NDArray[np.float64]:
        """Latency of each acknowledged request that was sent, or due, within the measurement."""
        latency_ns = np.concatenate([np.frombuffer(p.latency_ns, np.int64) for p in self.processes])
        timed: NDArray[np.float64] = latency_ns[self._done_ns() - latency_ns >= self._from_ns] / 1e6
        return timed

    def statuses(self) -> Counter[int]:
        """Replies by HTTP status."""
        return sum((p.statuses for p in self.processes), Counter())

    def rejected(self) -> int:
        """Replies that are not an acknowledgement."""
        return sum(n for status, n in self.statuses().items() if status not in (200, 204))

    def total(self, name: str) -> Any:
        """Sum of a numeric field of `ClientResult` over the processes."""
        return sum(getattr(p, name) for p in self.processes)

    def errors(self) -> list[str]:
        """The first few error texts of each process, each once."""
        return list(dict.fromkeys(text for p in self.processes for text in p.errors))

    @property
    def _from_ns(self) -> int:
        return self.start_ns + round(self.spec.warmup_s * _NS)

    @property
    def _stop_ns(self) -> int:
        return self._from_ns + round(self.spec.seconds * _NS)

    def _done_ns(self) -> NDArray[np.int64]:
        return np.concatenate([np.frombuffer(p.done_ns, np.int64) for p in self.processes])


def run_load(
    spec: LoadSpec,
    address: tuple[str, int],
    on_progress: OnProgress | None = None,
    cpus: set[int] | None = None,
) -> LoadResult:
    """Send the load and wait for its end.

    Args:
        spec: The run.
        address: Host and port.
        on_progress: Called some four times a second.
        cpus: Cores that the processes may use; None: any.

    Raises:
        GeneratorError: a process died.
    """
    counters = _CONTEXT.RawArray("q", len(PROGRESS_FIELDS) * spec.processes)
    pipes: list[Connection] = []
    children = []
    try:
        for i in range(spec.processes):
            ours, theirs = _CONTEXT.Pipe()
            args = (theirs, spec, i, address, counters, cpus or set())
            child = _CONTEXT.Process(target=_process, args=args, daemon=True)
            child.start()
            theirs.close()
            children.append(child)
            pipes.append(ours)
        for pipe in pipes:
            _receive(pipe)
        start_ns = time.monotonic_ns() + round(START_DELAY_S * _NS)
        for pipe in pipes:
            pipe.send(start_ns)
        results = _gather(pipes, counters, start_ns, on_progress)
        for child in children:
            child.join(timeout=5)
        return LoadResult(spec, start_ns, results)
    finally:
        for child in children:
            child.kill()  # no more than a formality when all went well
            child.join()
        for pipe in pipes:
            pipe.close()


def _process(
    pipe: Connection,
    spec: LoadSpec,
    process: int,
    address: tuple[str, int],
    counters: Any,
    cpus: set[int],
) -> None:
    """Body of a generator process: prepare, say so, wait for the start, send, tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if cpus:
        os.sched_setaffinity(0, cpus)
    first = process * len(PROGRESS_FIELDS)
    view = memoryview(counters).cast("B").cast("q")[first : first + len(PROGRESS_FIELDS)]
    client = LoadClient(spec, process, address, view)
    client.connect()
    gc.freeze()
    gc.disable()  # nothing on the hot path makes cycles
    pipe.send("ready")
    pipe.send(client.run(pipe.recv()))


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise GeneratorError("a generator process died; its traceback is above") from None


def _gather(
    pipes: Sequence[Connection], counters: Any, start_ns: int, on_progress: OnProgress | None
) -> list[ClientResult]:
    """Results in the order of the processes, telling progress meanwhile."""
    results: dict[int, ClientResult] = {}
    while len(results) < len(pipes):
        open_pipes = {pipe: i for i, pipe in enumerate(pipes) if i not in results}
        for pipe in wait(list(open_pipes), timeout=PROGRESS_S):
            assert isinstance(pipe, Connection)
            results[open_pipes[pipe]] = _receive(pipe)
        if on_progress is not None:
            width = len(PROGRESS_FIELDS)
            sums = {name: sum(counters[i::width]) for i, name in enumerate(PROGRESS_FIELDS)}
            on_progress((time.monotonic_ns() - start_ns) / _NS, sums)
    return [results[i] for i in range(len(pipes))]


def measure_ceiling(spec: LoadSpec, seconds: float) -> LoadResult:
    """The same load against a sink: what the generator can do when nothing holds it up.

    With two cores or more the sink has the last one for itself and the generator the others;
    the measurement of a daemon pins nothing unless told to.

    Raises:
        GeneratorError: a process died, or the sink saw other requests than were acknowledged.
    """
    cpus = sorted(os.sched_getaffinity(0))
    sink_cpus, our_cpus = (set(cpus[-1:]), set(cpus[:-1])) if len(cpus) > 1 else (set(), set())
    ours, theirs = _CONTEXT.Pipe()
    sink = _CONTEXT.Process(target=serve, args=(theirs, sink_cpus), daemon=True)
    sink.start()
    theirs.close()
    try:
        port = _receive(ours)
        short = spec.with_changes(seconds=seconds, warmup_s=min(0.5, spec.warmup_s), rate=None)
        result = run_load(short, ("127.0.0.1", port), cpus=our_cpus)
        ours.send("stop")
        seen = _receive(ours)
    finally:
        ours.close()
        sink.join(timeout=5)
        if sink.is_alive():
            sink.kill()
    told = (sum(len(p.done_ns) for p in result.processes), result.total("body_bytes"))
    if seen != told:
        raise GeneratorError(f"the sink saw {seen} requests and bytes, the generator {told}")
    return result
