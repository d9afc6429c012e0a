"""A query as the bytes of its answer: all at once, or piece by piece. Runs on a query's thread.

In: a `Query` that is yet to be started. Out: pieces of the answer in the coding that the client
takes. Knows the formats and their limits; sends nothing.
"""

from __future__ import annotations

import time

from arc.query.asks import Ask
from arc.query.encoding import IDENTITY, encoder
from ingest.query.answers import ArrowEncoder, RowEncoder, around_rows
from ingest.query.engine import Query
from ingest.query.errors import ResultTooLargeError

#: Largest answer in JSON or MessagePack, which is held until it is whole: a fault in the last row
#: must still be a status. 1 M rows of 7 columns take some 120 MB.
MAX_ANSWER_BYTES = 256 * 2**20

#: Smaller answers in JSON and MessagePack are sent as they are: a packet or three, on which
#: nobody waits, for 20 µs of compressing.
MIN_ENCODED_BYTES = 4 * 2**10

_ADVICE = "add a LIMIT, or ask /api/v1/query/arrow, which has no limit"


class Collected:
    """All rows of a query as JSON or MessagePack.

    Attributes:
        pieces: The answer, once `run` is done.
        coding: Of the pieces.
        num_rows: In them.
    """

    def __init__(self, query: Query, ask: Ask, is_json: bool, max_rows: int) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.coding = IDENTITY
        self.num_rows = 0
        self._query = query
        self._ask = ask
        self._is_json = is_json
        self._max_rows = max_rows
        self._num_bytes = 0

    def run(self) -> None:
        """Run the query to its end, and encode what it gives.

        Raises:
            ResultTooLargeError: too many rows, or bytes.
            IngestError: as the methods of `Query`.
        """
        query = self._query.start()
        rows = RowEncoder(self._is_json)
        while (batch := query.next_batch()) is not None:
            self._count_rows(batch.num_rows)
            if batch.num_rows:
                if self.pieces and self._is_json:
                    self.pieces.append(b",")
                self._add(rows.encode(batch))
        seconds = time.monotonic() - self._ask.started_s
        head, tail = around_rows(query.schema.names, self.num_rows, seconds, self._is_json)
        self.pieces = [head, *self.pieces, tail]
        if self._num_bytes >= MIN_ENCODED_BYTES:
            self._compress()

    def _compress(self) -> None:
        self.coding = self._ask.coding
        made = encoder(self.coding)
        for place, piece in enumerate(self.pieces):  # in place: nothing is held twice
            self.pieces[place] = made.encode(piece)
        self.pieces.append(made.end())

    def _add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes > MAX_ANSWER_BYTES:
            raise ResultTooLargeError(
                f"the answer has more than {MAX_ANSWER_BYTES} bytes: {_ADVICE}"
            )

    def _count_rows(self, num_rows: int) -> None:
        self.num_rows += num_rows
        if self.num_rows > self._max_rows:
            raise ResultTooLargeError(
                f"the answer has more than {self._max_rows} rows (ARC_QUERY_MAX_ROWS): {_ADVICE}"
            )


class Streamed:
    """A query as the pieces of an Arrow IPC stream: `begin`, `next` until None, `end`.

    Attributes:
        num_rows: In the pieces so far.
    """

    def __init__(self, query: Query, coding: str) -> None:
        self.num_rows = 0
        self._query = query
        self._coded = encoder(coding)
        self._encoder: ArrowEncoder | None = None

    def begin(self) -> bytes | memoryview:
        """Start the query; the schema."""
        self._encoder = ArrowEncoder(self._query.start().schema)
        return self._coded.encode(self._encoder.begin())

    def next(self) -> bytes | memoryview | None:
        """The next rows; None after the last."""
        assert self._encoder is not None
        batch = self._query.next_batch()
        if batch is None:
            return None
        self.num_rows += batch.num_rows
        return self._coded.encode(self._encoder.encode(batch))

    def end(self) -> bytes:
        """What tells that nothing is missing."""
        assert self._encoder is not None
        return bytes(self._coded.encode(self._encoder.end())) + self._coded.end()
