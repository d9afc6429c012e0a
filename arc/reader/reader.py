"""`Reader`: stored rows of a data directory or of a daemon, by the same two calls.

In: a table's name and what of it is wanted. Out: a `Frame`, or a stream of record batches. It never
writes, keeps no connection and no file open between calls, and imports nothing of the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arc.reader import names
from arc.reader.errors import UsageError
from arc.reader.selection import check_batch_rows, select

if TYPE_CHECKING:
    import ssl

    from arc.reader.batches import BatchStream
    from arc.reader.daemon import Daemon
    from arc.reader.directory import Directory
    from arc.reader.frame import Frame

#: Knee of benchmarks/bench_reader.py -k ipc.
BATCH_ROWS = 65_536


class Reader:
    """Reads tables. May be used from any thread.

    A data directory shows what is in files; a daemon what its queries see (docs/query.md).

    Args:
        source: A data directory, or the URL of a daemon: `http://host:8000`.
        token: Sent to the daemon as `Authorization: Bearer`. Not for a directory.
        database: Of the tables.
        timeout_s: Of a daemon: how long to open a connection, and to wait for each piece.
        ssl_context: For https; None: certificates are verified by the system's authorities.

    Raises:
        UsageError: There is no such folder, or one of the others cannot be used.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        token: str | None = None,
        database: str = "default",
        *,
        timeout_s: float = 60.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        names.check_database(database)
        self._database = database
        self._source: Directory | Daemon
        if isinstance(source, str) and "://" in source:
            from arc.reader.daemon import Daemon
            from arc.reader.http_stream import Endpoint

            self._source = Daemon(Endpoint(source, token, timeout_s, ssl_context))
            return
        if token is not None or ssl_context is not None:
            raise UsageError("token and ssl_context are for a URL, and a data directory was given")
        from arc.reader.directory import Directory

        self._source = Directory(Path(source))

    def read(
        self,
        measurement: str,
        start: Any = None,
        end: Any = None,
        columns: Iterable[str] | None = None,
        where: Any = None,
    ) -> Frame:
        """All rows of a table that are wanted.

        Args:
            measurement: The table.
            start: First moment: `datetime` (naive: UTC), `numpy.datetime64`, ISO 8601 text, or an
                int of microseconds since 1970-01-01T00:00Z.
            end: The moment after the last, in the same forms.
            columns: Names, in the order in which they are wanted; None: all.
            where: A mapping of columns to a value or a list of values, of which a row has one;
                None among them is the missing value. For a directory also a
                `pyarrow.compute.Expression`, for a daemon also a condition in SQL, as a str: it is
                sent as it is, so nothing that others wrote belongs into it.

        Returns:
            The rows, in no order that is promised.

        Raises:
            UsageError: An argument cannot be used.
            TableNotFoundError: The directory has no such table.
            RefusedError: The daemon says no.
            ReadError: Files, log or answer cannot be read.
        """
        selection = select(self._database, measurement, start, end, columns, where)
        from arc.reader.frame import Frame

        return Frame(self._source.read(selection))

    def stream(
        self,
        measurement: str,
        start: Any = None,
        end: Any = None,
        columns: Iterable[str] | None = None,
        where: Any = None,
        *,
        batch_rows: int = BATCH_ROWS,
    ) -> BatchStream:
        """The rows that `read` gives, as record batches, without holding more than a few of them.

        Args:
            measurement: As for `read`, like the next four.
            start: First moment.
            end: The moment after the last.
            columns: Names.
            where: Conditions.
            batch_rows: Rows of every batch but the last.

        Returns:
            An iterator; it has a `schema`, and is closed at its end, by `close` or by `with`.

        Raises:
            ReaderError: As `read`; what is met while rows come is raised by the iterator.
        """
        check_batch_rows(batch_rows)
        selection = select(self._database, measurement, start, end, columns, where)
        return self._source.stream(selection, batch_rows)
