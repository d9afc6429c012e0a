r"""What supervisor and worker say to each other, over two pipes.

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


class WorkerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker needs to know to start.

    Attributes:
        config: From `config.resolve`, with the port that the supervisor holds.
        shard: Number of this worker, from 0.
        ready_fd: Inherited descriptor for `announce_ready`.
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
