"""The name under which a Unix socket is bound or reached, however deep its folder lies.

A kernel takes 107 bytes of path (103 on macOS), and data directories are longer at times. On
Linux the folder is then opened, and its descriptor names it: `/proc/self/fd/7/query.sock`.
"""

from __future__ import annotations

import os
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
