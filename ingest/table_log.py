"""Making files part of a table: the one act after which a row counts as stored.

In: files that a store has staged. Out: nothing; they are in the table when `commit` returns, all
of them or, as far as the disk allows, none. What is in a file and when it is worth writing one is
decided elsewhere.

`FolderTableLog` is the plainest table there is: a file belongs to it when it has its name in the
folder of its hour. It keeps no record of what was committed, so it cannot tell a replayed commit
from a new one; file names, which hold the log range, are what makes a repeated commit harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ingest.errors import IngestError
from ingest.paths import LogRange, TableId, table_dir
from ingest.store import LocalStore, StagedFile


class TableLog(Protocol):
    """What the flush asks of a table."""

    def commit(self, table: TableId, files: Sequence[StagedFile], marks: LogRange) -> None:
        """Make staged files part of a table, durably.

        May be called again with the same arguments, after an error or a success that the caller
        did not see: the files are in the table once. May be called from several threads at
        once, for different tables.

        Args:
            table: Whose rows the files hold.
            files: At least one, staged under the table's folder.
            marks: What part of the shard's input the files hold together, for this table: all
                of it between the first and the last sequence number.

        Raises:
            StorageError: the disk refuses; the files are still staged.
        """
        ...


class FolderTableLog:
    """Tables that are nothing but files in folders.

    Args:
        store: That staged the files.
    """

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def commit(self, table: TableId, files: Sequence[StagedFile], marks: LogRange) -> None:
        """Publish the files. See `TableLog.commit`.

        Raises:
            IngestError: a file lies outside the table, or its name is taken: a defect.
        """
        folder = table_dir(table) + "/"
        for file in files:
            if not file.path.startswith(folder):
                raise IngestError(f"BUG: {file.path!r} is not in the folder of {table}")
        self._store.publish(files)
