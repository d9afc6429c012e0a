"""The process that all workers are forked from: `python -m arc.template MODULE [ARGUMENT...]`.

It imports MODULE, which takes a second of a processor and 115 MB, calls its `prepare`, and then
forks on request: a worker is there within milliseconds and shares what was imported until it
writes to it. Standard input is a socket to the supervisor; what passes over it is in
`arc.handshake`. It ends when that is closed. A forked worker runs `MODULE.main` as if it were a
Python of its own: its exceptions, its exit status and its threads are its own.

Nothing here listens, reads settings or opens files, and MODULE must not start a thread before
`main`: a fork takes over only the thread that calls it, and with it every lock that another one
holds at that moment.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple

from arc.handshake import MAX_FORK_MESSAGE_BYTES, READY, Forked

_PID = struct.Struct("q")

#: What Python 3.12 and later say when the system counts more than one thread. The others that are
#: there are jemalloc's, which pyarrow brings: it takes its locks for the time of a fork, and does
#: without those threads in the child. For threads of Python see `_check_is_alone`.
_FORK_WARNING = r"This process \(pid=\d+\) is multi-threaded, use of fork\(\) may lead to deadlocks"


class Descriptors(NamedTuple):
    """What a worker is given."""

    stdin: int
    ready: int


def main() -> int:
    """Serve the supervisor until it is gone; in each forked worker, run that.

    Returns:
        Exit status: of the worker in a worker.
    """
    try:
        control = socket.socket(fileno=0)
    except OSError:
        sys.exit("arc.template: standard input is no socket; `arc serve` starts this")
    name = sys.argv[1]
    sys.argv = sys.argv[1:]  # for MODULE, as if it had been started itself
    # Ctrl-C in a terminal is for the supervisor, which closes the socket.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Or NumPy's would start threads, for products of matrices that nobody here computes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _name_process("arc-template")
    module = importlib.import_module(name)
    module.prepare()
    run: Callable[[], int] = module.main
    # A collection would write to every object that it looks at, and so unshare its page.
    gc.collect()
    gc.freeze()
    given = serve(control)
    if given is None:
        os._exit(0)  # nothing is open, and to take apart what was imported takes 0.1 s
    control.detach()
    os.dup2(given.stdin, 0)
    os.close(given.stdin)
    os.setsid()
    signal.signal(signal.SIGINT, on_interrupt)
    return run()


def serve(control: socket.socket) -> Descriptors | None:
    """Fork a worker for every request.

    Returns:
        In a worker, what it was given; None when the supervisor is gone.
    """
    with contextlib.suppress(ConnectionError):
        control.send(READY)
        while True:
            name, fds, _, _ = socket.recv_fds(
                control, MAX_FORK_MESSAGE_BYTES, len(Descriptors._fields)
            )
            if not name:
                break
            try:
                pid = _fork_for(fds)
            except OSError as error:
                reply = Forked(error=f"cannot fork: {error.strerror}")
            else:
                if pid == 0:
                    _name_process(name.decode())
                    return Descriptors(*fds)
                reply = Forked(pid, Descriptors(*fds).ready)
            for fd in fds:
                os.close(fd)
            control.send(reply.to_bytes())
    return None


def _fork_for(fds: list[int]) -> int:
    if len(fds) < len(Descriptors._fields):  # the system leaves out what is above the limit
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return _fork_away()


def _fork_away() -> int:
    """Fork a process that is not a child of this one.

    One in between forks it and ends; then the supervisor is its parent, being the nearest
    subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)), and learns how it ends even when this process
    is gone.

    Returns:
        Its process id; 0 in the new process.

    Raises:
        OSError: there is no memory, or there are no process ids.
    """
    _check_is_alone()
    reader, writer = os.pipe()
    try:
        between = _fork()
        if between == 0:
            return _fork_between(writer)
        _, status = os.waitpid(between, 0)
        os.set_blocking(reader, False)  # it has ended: what it had to say is there
        with contextlib.suppress(BlockingIOError):
            if said := os.read(reader, _PID.size):
                return int(_PID.unpack(said)[0])
    finally:
        os.close(reader)
        os.close(writer)
    number = os.WEXITSTATUS(status) if os.WIFEXITED(status) else errno.EAGAIN
    raise OSError(number, os.strerror(number))


def _fork_between(writer: int) -> int:
    """Fork, tell the process id and end; returns 0 in what was forked."""
    try:
        pid = _fork()
    except OSError as error:
        os._exit(error.errno or errno.EAGAIN)
    if pid == 0:
        return 0
    os.write(writer, _PID.pack(pid))
    os._exit(0)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _FORK_WARNING, DeprecationWarning)
        return os.fork()


def _check_is_alone() -> None:
    """End if a thread of Python runs here: a worker could inherit a lock that nobody opens."""
    threads = sorted(thread.name for thread in threading.enumerate())
    if len(threads) != 1:
        sys.exit(f"arc.template: BUG: threads were started before the fork: {', '.join(threads)}")


def _name_process(name: str) -> None:
    """What `ps -o comm` and `top` show; the command line is the same for all."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write(name)


if __name__ == "__main__":
    sys.exit(main())
