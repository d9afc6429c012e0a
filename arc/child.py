"""One worker process, as its supervisor sees it: started, ready, asked to stop, ended.

It knows nothing of other workers, of restarts or of what a worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence

from arc.config import Config
from arc.handshake import READY, WorkerStart


class Child:
    """A running worker process.

    Attributes:
        shard: Its number.
        pid: Its process id.
        ready: Done when it said so (True) or when it cannot any more (False).
    """

    def __init__(
        self, shard: int, process: asyncio.subprocess.Process, ready: asyncio.Future[bool]
    ) -> None:
        self.shard = shard
        self.pid = process.pid
        self.ready = ready
        self._process = process
        self._started_s = time.monotonic()

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        config: Config,
        shard: int,
        inherited_fd: int,
        *,
        others_serving: bool,
    ) -> Child:
        """Start a worker and tell it what it is.

        Args:
            command: Program and arguments.
            config: Resolved.
            shard: Number of the worker.
            inherited_fd: Left open in the worker, which does not use it.
            others_serving: As in `WorkerStart`.

        Raises:
            OSError: the system cannot start a process now.
        """
        ready_fd, its_ready_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(its_ready_fd, inherited_fd),
                # Ctrl-C in a terminal is for the supervisor, which asks the workers to stop.
                start_new_session=True,
            )
        except BaseException:
            os.close(ready_fd)
            raise
        finally:
            os.close(its_ready_fd)
        assert process.stdin is not None
        start = WorkerStart(config, shard, its_ready_fd, others_serving)
        process.stdin.write(start.to_line())
        return cls(shard, process, _when_ready(ready_fd))

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_s

    async def wait(self) -> int:
        """Wait for its end: the exit status, or the negative number of a signal."""
        return await self._process.wait()

    def terminate(self) -> None:
        """Ask it to write what it holds and exit."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


def describe_exit(status: int) -> str:
    """How a process ended, for people: "status 3" or "signal SIGKILL"."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _when_ready(fd: int) -> asyncio.Future[bool]:
    """Done with the first that comes out of a pipe, or with its end; closes the pipe."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()

    def readable() -> None:
        said = os.read(fd, len(READY))
        loop.remove_reader(fd)
        os.close(fd)
        if not ready.done():
            ready.set_result(said == READY)

    loop.add_reader(fd, readable)
    return ready
