"""A worker that keeps the supervisor's contract and serves nothing: `python -m arc.template` it.

Arguments change how it ends: `hang` ignores SIGTERM, `fail` exits with status 7 before it is
ready, `leak` counts ten rows as accepted and stores none, `log` leaves them in its log and exits
with the status that says so, `replay` is never done with its log. On an orderly stop it leaves
`drained-<shard>` in the data directory, with the reason; and at its start `started-<shard>`, with
what it was told about others. In the template, `unprepared` refuses to get ready, `slow` never
does, and `threads` starts a thread too early.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from pathlib import Path

from arc.handshake import WorkerStart, announce_ready, call_when_alone, read_start
from arc.metrics import ShardMetrics, shard_path
from arc.ports import listen
from arc.runtime import EXIT_IN_LOG, DataDir


async def serve(start: WorkerStart, manners: list[str]) -> int:
    """Be a worker until told to stop; returns its exit status."""
    loop = asyncio.get_running_loop()
    reason: asyncio.Future[str] = loop.create_future()
    where = DataDir(start.config.data_dir)
    others = "others serve" if start.others_serving else "no others"
    Path(where.root, f"started-{start.shard}").write_text(others)
    metrics = ShardMetrics(shard_path(where.run, start.shard), start.config.durability)
    metrics.settle(0)
    if "leak" in manners or "log" in manners:
        metrics.rows_accepted.inc(10)
        metrics.rows_buffered.add(10)
    if "log" in manners:
        folder = Path(where.state, "shards", f"{start.shard:03d}", "log")
        folder.mkdir(parents=True, exist_ok=True)
        Path(folder, f"{1:012d}.log").write_bytes(b"ten rows")
    if "hang" in manners:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
    else:
        loop.add_signal_handler(signal.SIGTERM, reason.set_result, "SIGTERM")
    call_when_alone(loop, sys.stdin.fileno(), lambda: reason.set_result("alone"))
    with listen(start.config.host, start.config.port):
        if "replay" in manners:
            metrics.pipeline.replay_bytes_total.set(340_000_000)
            metrics.pipeline.replay_bytes_done.set(120_000_000)
        else:
            announce_ready(start.ready_fd)
        Path(where.root, f"drained-{start.shard}").write_text(await reason)
    metrics.close()
    return EXIT_IN_LOG if "log" in manners or "replay" in manners else 0


def prepare() -> None:
    """What the template does before it forks."""
    if "unprepared" in sys.argv:
        raise RuntimeError("told not to get ready")
    if "threads" in sys.argv:
        threading.Thread(target=threading.Event().wait, name="early", daemon=True).start()
    if "slow" in sys.argv:
        signal.pause()


def main() -> int:
    """Be a worker until told to stop; returns its exit status."""
    if "fail" in sys.argv:
        return 7
    try:
        start = read_start(sys.stdin.buffer)
    except EOFError:  # the supervisor is gone
        return 0
    return asyncio.run(serve(start, sys.argv[1:]))
