"""What the SQLite files of the pipeline share: who may read them, and what their errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ingest.disk import DIRECTORY_MODE, FILE_MODE
from ingest.errors import StorageError


def create_private(path: Path) -> None:
    """Make an empty file that only its owner reads; SQLite gives its journal the same mode.

    A file that is there is not opened: to close it would drop the locks that another connection
    of this process holds on it (sqlite.org/howtocorrupt.html, 2.2).

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(path, flags, FILE_MODE))


@contextlib.contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn what SQLite and the disk refuse into what the pipeline understands: "{what}: …"."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise StorageError(f"{what}: {error}") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.IntegrityError):
            raise  # a defect of ours
        raise StorageError(f"{what}: {error}") from error


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that failed; SQLite itself ends some, when the disk does."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
