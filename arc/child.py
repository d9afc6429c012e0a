"""The processes of the supervisor, as it sees them: the template, workers forked from it, helpers.

Started, told what they are, ready, ended. Nothing here knows of other workers, of restarts or of
what a worker does. Linux only: the end of a process is seen by a descriptor of it (pidfd_open(2)),
and a worker, which is forked by the template, is a child of the supervisor all the same
(PR_SET_CHILD_SUBREAPER, prctl(2)).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Container, Sequence

from arc.config import Config
from arc.handshake import MAX_FORK_MESSAGE_BYTES, READY, Forked, WorkerStart

_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


class TemplateEndedError(Exception):
    """The template has ended, and so has forked nothing."""


class Process:
    """A child process, followed to its end.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        """Follow a child that nobody has waited for yet.

        Args:
            pid: Its process id.
            reap: Waits for it, when it has ended: the exit status, or the negative number of a
                signal. Nobody else may, so that the id is its own until then.

        Raises:
            OSError: there are no descriptors left.
        """
        self.pid = pid
        self._reap = reap
        self._fd = os.pidfd_open(pid)
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._fd, self._on_end)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._end.set_result(self._reap())

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._end.done()

    async def wait(self) -> int:
        """Wait for its end: the exit status, or the negative number of a signal."""
        return await asyncio.shield(self._end)

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)


class Child(Process):
    """A running worker.

    Attributes:
        shard: Its number.
        ready: Done when it said so (True) or when it cannot any more (False).
    """

    def __init__(
        self, pid: int, shard: int, stdin_fd: int, ready_fd: int, started_s: float
    ) -> None:
        """Follow a worker.

        Args:
            pid: Its process id.
            shard: Its number.
            stdin_fd: Where it reads what it is; taken over.
            ready_fd: Where it says that it is ready; taken over.
            started_s: When it was asked for, by the monotonic clock.

        Raises:
            OSError: as `Process` does; nothing was taken over.
        """
        super().__init__(pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        self.shard = shard
        self.ready = _when_ready(ready_fd)
        self._stdin_fd = stdin_fd
        self._started_s = started_s

    def start(self, start: WorkerStart) -> None:
        """Tell it what it is. That it has died meanwhile shows in `ready` and `wait`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._stdin_fd, start.to_line())

    def _on_end(self) -> None:
        os.close(self._stdin_fd)
        super()._on_end()

    @property
    def age_s(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self._started_s


class Helper(Process):
    """A process that is neither a worker nor the template: it serves beside them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Follow one that `spawn` started. Raises OSError as `Process` does."""
        super().__init__(process.pid, process.wait)
        self._stdin = process.stdin

    @classmethod
    def spawn(cls, command: Sequence[str]) -> Helper:
        """Start it, with a pipe as its standard input whose end tells it that this one is gone.

        Args:
            command: Program and arguments.

        Raises:
            OSError: the system cannot start the process.
        """
        # Ctrl-C in a terminal is for the supervisor, which asks it to stop.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            return cls(process)
        except OSError:
            process.kill()
            process.communicate()
            raise

    def _on_end(self) -> None:
        assert self._stdin is not None, "BUG: spawn() gave it none"
        self._stdin.close()
        super()._on_end()


class Template(Process):
    """The process that workers are forked from.

    Attributes:
        is_forking: Whether it may have forked something whose process id is not known here.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Follow one that `spawn` started; takes over the socket. Raises OSError as `Process`."""
        super().__init__(process.pid, process.wait)
        self.is_forking = False
        self._control = control
        self._prepared = False
        self._turn = asyncio.Lock()
        self._started_s = time.monotonic()

    @classmethod
    def spawn(cls, command: Sequence[str], inherited_fd: int) -> Template:
        """Start it. It gets itself ready meanwhile.

        Args:
            command: Program and arguments.
            inherited_fd: Left open in it and in the workers, which do not use it.

        Raises:
            OSError: the system cannot start the process.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack, its:
            stack.enter_context(ours)
            ours.setblocking(False)
            process = subprocess.Popen(
                command,
                stdin=its.fileno(),
                pass_fds=(inherited_fd,),
                # Ctrl-C in a terminal is for the supervisor, which asks the workers to stop.
                start_new_session=True,
            )
            try:
                template = cls(process, ours)
            except OSError:
                process.kill()
                process.wait()
                raise
            stack.pop_all()
        return template

    async def fork(self, config: Config, shard: int, *, others_serving: bool) -> Child:
        """Start a worker, once the template is ready.

        Args:
            config: Resolved.
            shard: Number of the worker.
            others_serving: As in `WorkerStart`.

        Raises:
            TemplateEndedError: it has ended, maybe meanwhile.
            OSError: the system cannot start a process now.
        """
        started_s = time.monotonic()
        async with self._turn:
            if not self._prepared:
                await self._receive()
                self._prepared = True
            with contextlib.ExitStack() as its, contextlib.ExitStack() as ours:
                its_stdin_fd, stdin_fd = _pipe(its, ours)
                ready_fd, its_ready_fd = _pipe(ours, its)
                forked = await self._request(f"arc-worker-{shard}", its_stdin_fd, its_ready_fd)
                child = Child(forked.pid, shard, stdin_fd, ready_fd, started_s)
                ours.pop_all()
        child.start(WorkerStart(config, shard, forked.ready_fd, others_serving))
        return child

    async def _request(self, name: str, *fds: int) -> Forked:
        self.is_forking = True
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, as `_receive` finds
                socket.send_fds(self._control, [name.encode()], fds)
            forked = Forked.from_bytes(await self._receive())
        finally:
            self.is_forking = False
        if forked.error:
            raise OSError(forked.error)
        return forked

    async def _receive(self) -> bytes:
        message = b""
        if not self.has_ended:
            with contextlib.suppress(ConnectionError):
                loop = asyncio.get_running_loop()
                message = await loop.sock_recv(self._control, MAX_FORK_MESSAGE_BYTES)
        if not message:
            await self.wait()
            raise TemplateEndedError("the process that workers are forked from has ended")
        return message

    def stop(self) -> None:
        """Have it end: after the fork that is under way, or at once while it gets ready."""
        if self._prepared:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
        else:
            self.terminate()

    async def close(self) -> None:
        """Close what is ours, after its end."""
        async with self._turn:
            self._control.close()

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_s


def adopt_orphans() -> None:
    """Be the parent of every process below this one whose own parent ends.

    Raises:
        OSError: the system does not know how.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reap_orphans(followed: Container[int]) -> None:
    """Wait for children that have ended and that nobody follows.

    There are some when the template dies within a fork: what it had forked gets no work, ends,
    and would stay as a zombie.

    Args:
        followed: Process ids of the others.
    """
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with contextlib.suppress(ChildProcessError):  # there are no children
        while (ended := os.waitid(os.P_ALL, 0, options)) and ended.si_pid not in followed:
            os.waitpid(ended.si_pid, 0)


def describe_exit(status: int) -> str:
    """How a process ended, for people: "status 3" or "signal SIGKILL"."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe: its reading end, closed with the one stack, and its writing end, with the other."""
    read_fd, write_fd = os.pipe()
    reader.callback(os.close, read_fd)
    writer.callback(os.close, write_fd)
    return read_fd, write_fd


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
