"""What counting costs a request: instruments in shared memory, and a scrape of two workers.

Bias: one thread, caches hot. The rows with a lock are what the instruments would cost if their
updates needed one; tests/test_metrics.py proves that they do not.

    python -m benchmarks.bench_metrics
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from arc.exposition import render
from arc.metrics import ShardMetrics, shard_path
from benchmarks.harness import Bench, main


def repeated(call: Callable[[], object], times: int = 1_000) -> Callable[[], int]:
    """Many calls, so that the harness's own call does not count; ns/row is then ns a call."""

    def run() -> int:
        for _ in range(times):
            call()
        return times

    return run


def benches(folder: Path) -> list[Bench]:
    """One benchmark for each instrument, over real files in `folder`."""
    shards = [ShardMetrics(shard_path(folder, n)) for n in range(2)]
    metrics, lock = shards[0], threading.Lock()

    def inc_locked() -> None:
        with lock:
            metrics.rows_accepted.inc(1_000)

    calls: dict[str, Callable[[], object]] = {
        "empty call": lambda: None,
        "counter": lambda: metrics.rows_accepted.inc(1_000),
        "counter with a lock": inc_locked,
        "gauge": lambda: metrics.rows_buffered.add(1),
        "histogram": lambda: metrics.loop_lag.observe(0.003),
        "request": lambda: metrics.count_request("msgpack", 204, 0.003),
        "rejection": lambda: metrics.count_rejection("msgpack", "payload", 100),
    }
    timed = [Bench(name, repeated(call), 1_000, 0, at_least_one) for name, call in calls.items()]
    return [*timed, Bench("scrape", lambda: render(folder), 1, 0, has_rows)]


def at_least_one(times: object) -> None:
    """The calls were made."""
    assert times == 1_000


def has_rows(text: object) -> None:
    """The scrape holds what was counted."""
    assert isinstance(text, bytes)
    assert b"\narc_rows_accepted_total " in text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        raise SystemExit(main(benches(Path(name))))
