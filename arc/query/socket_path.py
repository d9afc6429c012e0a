"""Unix sockets in a data directory: their names, however deep it lies, and how one is bound.

A kernel takes 107 bytes of path (103 on macOS), and data directories are longer at times. On
Linux the folder is then opened, and its descriptor names it: `/proc/self/fd/7/query.sock`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

#: Longest path that is used as it is.
MAX_BYTES = 100

_DESCRIPTORS = Path("/proc/self/fd")


class SocketPathError(Exception):
    """The path is too long, and the system has no way around it."""


class SocketPath:
    """A path that is short enough, for as long as this is open.

    Attributes:
        name: To bind or to connect to.
    """

    def __init__(self, path: Path) -> None:
        """Find the name.

        Raises:
            SocketPathError: there is none on this system.
            OSError: the folder cannot be opened.
        """
        self._descriptor: int | None = None
        self.name = str(path)
        if len(os.fsencode(path)) <= MAX_BYTES:
            return
        if not _DESCRIPTORS.is_dir():
            raise SocketPathError(f"{path} is longer than {MAX_BYTES} bytes: no socket fits there")
        self._descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.name = str(_DESCRIPTORS / str(self._descriptor) / path.name)

    def close(self) -> None:
        """Let the folder go. The name means nothing afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def listen(path: Path, backlog: int) -> socket.socket:
    """A listening Unix socket, for this user only, in place of whatever has its name.

    It is bound under another name first and then renamed, so that it takes that place in one step.

    Args:
        path: Its name.
        backlog: Connections that may wait to be accepted.

    Raises:
        SocketPathError: the path is too long for this system.
        OSError: the folder cannot be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    name = SocketPath(draft)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        draft.unlink(missing_ok=True)
        listener.bind(name.name)
        draft.chmod(0o600)
        listener.listen(backlog)
        listener.setblocking(False)
        draft.replace(path)
    except BaseException:
        listener.close()
        raise
    finally:
        name.close()
    return listener
