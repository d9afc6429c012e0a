"""One worker process, as its supervisor sees it: spawned, told what it is, ready, ended.

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
        shard: Its number; -1 until `assign`.
        pid: Its process id.
        ready: Done when it said so (True) or when it cannot any more (False).
    """

    def __init__(
        self, process: asyncio.subprocess.Process, ready: asyncio.Future[bool], its_ready_fd: int
    ) -> None:
        self.shard = -1
        self.pid = process.pid
        self.ready = ready
        self._process = process
        self._its_ready_fd = its_ready_fd
        self._started_s = time.monotonic()

    @classmethod
    async def spawn(cls, command: Sequence[str], inherited_fd: int) -> Child:
        """Start a process that gets itself ready and then waits to be told what it is.

        Args:
            command: Program and arguments.
            inherited_fd: Left open in the worker, which does not use it.

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
        return cls(process, _when_ready(ready_fd), its_ready_fd)

    def assign(self, config: Config, shard: int, *, others_serving: bool) -> None:
        """Tell it what it is, once. That it has died meanwhile shows in `ready` and `wait`.

        Args:
            config: Resolved.
            shard: Number of the worker.
            others_serving: As in `WorkerStart`.
        """
        assert self._process.stdin is not None
        self.shard = shard
        self._started_s = time.monotonic()
        start = WorkerStart(config, shard, self._its_ready_fd, others_serving)
        self._process.stdin.write(start.to_line())

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.returncode is not None

    @property
    def age_s(self) -> float:
        """Seconds since it was told what it is."""
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
