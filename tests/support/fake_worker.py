"""A worker that keeps the supervisor's contract and serves nothing: `python -m` it.

Arguments change how it ends: `hang` ignores SIGTERM, `fail` exits with status 7 before it is
ready, `leak` counts ten rows as accepted and stores none. On an orderly stop it leaves
`drained-<shard>` in the data directory, with the reason.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from arc.handshake import WorkerStart, announce_ready, call_when_alone, read_start
from arc.metrics import ShardMetrics, shard_path
from arc.ports import listen
from arc.runtime import DataDir


async def serve(start: WorkerStart, manners: list[str]) -> None:
    """Be a worker until told to stop."""
    loop = asyncio.get_running_loop()
    reason: asyncio.Future[str] = loop.create_future()
    where = DataDir(start.config.data_dir)
    metrics = ShardMetrics(shard_path(where.run, start.shard))
    if "leak" in manners:
        metrics.rows_accepted.inc(10)
        metrics.rows_buffered.add(10)
    if "hang" in manners:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
    else:
        loop.add_signal_handler(signal.SIGTERM, reason.set_result, "SIGTERM")
    call_when_alone(loop, sys.stdin.fileno(), lambda: reason.set_result("alone"))
    with listen(start.config.host, start.config.port):
        announce_ready(start.ready_fd)
        Path(where.root, f"drained-{start.shard}").write_text(await reason)
    metrics.close()


if __name__ == "__main__":
    if "fail" in sys.argv:
        sys.exit(7)
    asyncio.run(serve(read_start(sys.stdin.buffer), sys.argv[1:]))
