"""What the SQLite files of the pipeline share: access, format, transactions, meaning of errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
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


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; waits for writers of other processes as long as the connection may."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def open_private(
    path: Path, what: str, format_: int, statements: Iterable[str], busy_timeout_s: float
) -> sqlite3.Connection:
    """Open a file that only its owner reads, in autocommit mode, ready to use; made when missing.

    The connection may be used from any thread, by one at a time.

    Args:
        path: Of the file.
        what: As for `prepare`.
        format_: The same.
        statements: The same.
        busy_timeout_s: How long to wait for other processes.

    Raises:
        StorageError: as `prepare`.
    """
    with refusals(what):
        create_private(path)
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
    try:
        prepare(connection, what, format_, statements)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(
    connection: sqlite3.Connection, what: str, format_: int, statements: Iterable[str]
) -> None:
    """Make a new file ready, durable commits included, or check that an old one can be read.

    Args:
        connection: In autocommit mode.
        what: For messages: what kind of file, and its path.
        format_: That this version of Arc writes and reads; above 0.
        statements: That make the tables of a new file.

    Raises:
        StorageError: the disk refuses, or the file has another format.
    """
    with refusals(what):
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        if _format(connection) == 0:
            with transaction(connection):
                if _format(connection) == 0:  # no other process was faster
                    for statement in statements:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {format_}")
    found = _format(connection)
    if found != format_:
        raise StorageError(
            f"{what}: format {found}, but this version of Arc reads format {format_} only"
        )


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
