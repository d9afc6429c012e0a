"""Rows of a daemon's tables, asked for by SQL over HTTP, as an Arrow stream.

In: a `Selection`. Out: a table, or batches as they come. Only `POST /api/v1/query/arrow` is used
(docs/query.md), on a connection of its own for each question.

An answer that breaks off is never taken for a whole one: Arrow marks the end of a stream, and a
stream without that mark is an error, however the connection ended.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.ipc

from arc.reader.batches import BatchStream
from arc.reader.errors import ReadError
from arc.reader.http_stream import Body, Endpoint
from arc.reader.selection import Selection
from arc.reader.sql import statement

PATH = "/api/v1/query/arrow"


class Daemon:
    """A daemon that answers queries. May be used from any thread.

    Args:
        endpoint: Where.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def read(self, selection: Selection) -> pa.Table:
        """All rows.

        Raises:
            UsageError: A condition that SQL cannot carry.
            RefusedError: The daemon says no: no such table or column, among others.
            ReadError: There is no answer, or not all of it.
        """
        body, reader = self._ask(selection)
        try:
            return pa.Table.from_batches(self._batches(body, reader), reader.schema)
        finally:
            body.close()

    def stream(self, selection: Selection, batch_rows: int) -> BatchStream:
        """The rows in batches, as they come.

        Raises:
            UsageError: A condition that SQL cannot carry.
            RefusedError: The daemon says no.
            ReadError: There is no answer.
        """
        body, reader = self._ask(selection)
        return BatchStream(reader.schema, self._batches(body, reader), batch_rows, body.close)

    def _ask(self, selection: Selection) -> tuple[Body, pa.RecordBatchReader]:
        headers = {"x-arc-database": selection.database}
        body = self._endpoint.post(PATH, {"sql": statement(selection)}, headers)
        try:
            with self._errors():
                return body, pa.ipc.open_stream(body)
        except BaseException:
            body.close()
            raise

    def _batches(self, body: Body, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with self._errors():
            yield from reader
        if body.has_ended:
            raise ReadError(f"{self._endpoint}: the answer broke off: its end is not there")
        body.finish()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, pa.ArrowInvalid) as error:
            words = str(error) or type(error).__name__
            raise ReadError(f"{self._endpoint}: the answer broke off: {words}") from error
