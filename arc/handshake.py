r"""What supervisor, template and worker say to each other, over a socket and two pipes.

The template (`arc.template`) writes `ready\n` to its socket, which is its standard input, once
workers can be forked from it. From then on the supervisor sends the name of a worker, and with it
the worker's ends of the two pipes, and the template answers with a `Forked`; one request at a
time. When the socket is closed, the template ends. A worker that was forked knows nothing of
itself until the supervisor, which has read that answer, writes the next line: one whose answer
was lost, since the template died, does nothing but end.

The supervisor writes one line of JSON, a `WorkerStart`, to the worker's standard input and
keeps it open: when it ends, the supervisor is gone, and the worker writes what it holds and
exits. The worker writes `ready\n` to an inherited descriptor once it takes requests, which is
after it has replayed its log, however long that is. Stopping is SIGTERM. The worker exits with 0
when everything that was accepted is stored, and with `runtime.EXIT_IN_LOG` when its log holds
some of it for the next start. Nothing else passes between them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from arc.config import Config

READY = b"ready\n"

#: Longest message between supervisor and template, in either direction.
MAX_FORK_MESSAGE_BYTES = 1024


class Forked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The template's answer to a request.

    Attributes:
        pid: Process id of the worker; 0 when there is none.
        ready_fd: The number in the worker of the pipe that it announces itself on.
        error: Why there is none.
    """

    pid: int = 0
    ready_fd: int = -1
    error: str = ""

    def to_bytes(self) -> bytes:
        """The message that `from_bytes` reads."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, message: bytes) -> Forked:
        """Read an answer.

        Raises:
            msgspec.ValidationError: it is not from a template of this version.
        """
        return msgspec.json.decode(message, type=cls)


class WorkerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker needs to know to start.

    Attributes:
        config: From `config.resolve`, with the port that the supervisor holds.
        shard: Number of this worker, from 0.
        ready_fd: For `announce_ready`, from `Forked`.
        others_serving: Whether other workers take requests. Then this one replays its log before
            it listens, so that no client meets a 503 meanwhile. Otherwise it listens at once,
            for clients to hear "503, replaying" rather than nothing.
    """

    config: Config
    shard: int
    ready_fd: int
    others_serving: bool = False

    def to_line(self) -> bytes:
        """The line that `read_start` reads."""
        return msgspec.json.encode(self) + b"\n"


def read_start(stdin: BinaryIO) -> WorkerStart:
    """Read the first line of a worker's standard input.

    Raises:
        msgspec.ValidationError: the line is not from a supervisor of this version.
        EOFError: the supervisor is gone.
    """
    line = stdin.readline()
    if not line.endswith(b"\n"):
        raise EOFError("standard input ended before the start line")
    return msgspec.json.decode(line, type=WorkerStart)


def announce_ready(ready_fd: int) -> None:
    """Tell the supervisor that this worker takes requests, and close the descriptor."""
    try:
        os.write(ready_fd, READY)
    except BrokenPipeError:
        pass  # the supervisor is gone, which standard input tells, too
    finally:
        os.close(ready_fd)


def call_when_alone(
    loop: asyncio.AbstractEventLoop, stdin_fd: int, callback: Callable[[], None]
) -> None:
    """Call back once, on the loop, when the supervisor is gone.

    Args:
        loop: The worker's event loop.
        stdin_fd: The pipe that the start line came from.
        callback: Starts the drain.
    """

    def readable() -> None:
        if not os.read(stdin_fd, 4096):
            loop.remove_reader(stdin_fd)
            callback()

    loop.add_reader(stdin_fd, readable)
