"""A server that keeps what a client sends as a daemon would: each key once, rows decoded.

In: requests of a `ScriptedServer`. Out: rows by measurement, from the daemon's own decoder. What
goes wrong on the way is scripted by the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ingest.columns import ColumnBatch
from ingest.decompress import decompress
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.timestamps import TimeUnit
from tests.support.columns import to_rows
from tests.support.scripted_server import Request, ScriptedServer, Step, answer, decided

NOW_US = 1_790_000_000_000_000
MAX_BYTES = 1 << 26


class Receiver:
    """Stores the rows of MessagePack requests, each key once.

    Attributes:
        server: Where it listens; whatever is in its script comes first.
        keys: Of the requests that were stored, in their order.
        refuse: Words for a 400, by a look at the decoded batches; None stores them.
    """

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.keys: list[str] = []
        self.refuse: Callable[[list[ColumnBatch]], str | None] = lambda _: None
        self._lock = threading.Lock()
        self._rows: list[tuple[str, dict[str, Any]]] = []
        server.default = decided(self.take)

    def take(self, request: Request) -> Step:
        """Store the request, unless its key has come before."""
        unit = request.headers.get("x-arc-time-unit")
        encoding = request.headers.get("content-encoding", "")
        body = decompress(request.body, encoding, MAX_BYTES)
        batches = decode(body, NOW_US, Limits(), None if unit is None else TimeUnit(unit))
        if (words := self.refuse(batches)) is not None:
            return answer(400, f'{{"error": "{words}"}}'.encode())
        key = request.headers["idempotency-key"]
        with self._lock:
            if key not in self.keys:
                self.keys.append(key)
                for batch in batches:
                    self._rows.extend((batch.measurement, row) for row in to_rows(batch))
        return answer(204)

    def take_and_hang_up(self, request: Request) -> Step:
        """Store the request, and end the connection without an answer."""
        self.take(request)
        return Step(then="reset")

    def rows(self, measurement: str | None = None) -> list[dict[str, Any]]:
        """What was stored, in the order of its coming; null columns left out."""
        with self._lock:
            return [row for name, row in self._rows if measurement in (None, name)]
