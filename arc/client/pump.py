"""The pump: one thread that turns rows of calls into batches, and hands them to the outbox.

In: rows of the intake, turned round. Out: encoded batches. A row that cannot be encoded is
reported alone; its neighbours go out. Never sees a socket.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.intake import Intake, Places, RowQueue
from arc.client.isolation import Isolation
from arc.client.outbox import Outbox
from arc.client.refusal import RefusedError
from arc.client.reports import Reports, say
from arc.client.rows import Dialect, Encoded, Refused, Shape, encode_calls, encode_series
from arc.client.settings import Settings

HEADERS = (("x-arc-time-unit", "ns"),)

#: Bodies of queues that share a request. More would come near the daemon's limit of columns.
MAX_PARTS = 64


class Pump:
    """The thread between intake and outbox.

    Attributes:
        dialects: What was declared, by measurement; read while others add to it.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        outbox: Outbox,
        reports: Reports,
        prepare: Callable[[Batch], Batch],
        dialects: Mapping[str, Dialect],
    ) -> None:
        self._settings, self._intake, self._outbox = settings, intake, outbox
        self._reports, self._prepare, self.dialects = reports, prepare, dialects
        self.thread = threading.Thread(target=self._run, name="arc-client-pump", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def _run(self) -> None:
        while self._intake.wait_for_work():
            self.run_once()

    def run_once(self) -> None:
        """Take what waits now."""
        drain, waiting = self._intake.begin_round()
        pile = _Pile(self._settings, self._put)
        for queue, num_rows in waiting:
            # At most a batch at a time: one call into C must not keep the interpreter for long.
            for first in range(0, num_rows, self._settings.batch_rows):
                self._move(queue, min(self._settings.batch_rows, num_rows - first), pile)
        pile.put()
        self._intake.end_round(drain)

    def _move(self, queue: RowQueue, num_rows: int, pile: _Pile) -> None:
        rows = self._intake.take(queue, num_rows)
        try:
            encoded, refused = self._encode(queue, rows)
        except Exception as error:
            say(logging.ERROR, "BUG: rows could not be encoded", exc_info=error)
            encoded, refused = [], _defect(queue, rows, error)
        for part in encoded:
            pile.add(part)
        for row in refused:
            self._refuse(row)
        pile.learn(self._intake)

    def _put(self, parts: list[Encoded]) -> None:
        rows = sum(part.rows for part in parts)
        what = parts[0].what if len(parts) == 1 else f"{len(parts)} shapes"
        body = parts[0].body if len(parts) == 1 else b"".join(part.body for part in parts)
        batch = Batch(Kind.MSGPACK, WRITE_MSGPACK, HEADERS, body, rows, what)
        try:
            self._outbox.put(self._prepare(batch), isolation=Isolation(), is_pumped=True)
        except Exception as error:
            say(logging.ERROR, "BUG: a batch could not be queued", exc_info=error)
            words = f"BUG: {type(error).__name__}: {error}"
            self._report(RefusedError(words, batch, retryable=True))

    def _encode(self, queue: RowQueue, rows: Places) -> tuple[list[Encoded], list[Refused]]:
        limits = self._settings.batch_rows, self._settings.batch_bytes
        if isinstance(queue.context, Shape):
            return encode_series(queue.context, rows, *limits)
        return encode_calls(rows, queue.context, self.dialects, *limits)

    def _refuse(self, row: Refused) -> None:
        batch = Batch(Kind.MSGPACK, WRITE_MSGPACK, (), b"", 1, f"measurement {row.measurement!r}")
        given = {"measurement": row.measurement, **row.row}
        self._report(RefusedError(row.message, batch, rows=[given]))

    def _report(self, error: RefusedError) -> None:
        """Rows that no batch of the outbox has."""
        with self._outbox.changed:
            self._outbox.counts.pumped_rows += error.num_rows
            self._outbox.counts.refused_rows += error.num_rows
            self._outbox.counts.last_error = error.message
        self._reports.refused(error)


class _Pile:
    """Encoded rows of several queues that go into one request: maps follow each other in it."""

    def __init__(self, settings: Settings, put: Callable[[list[Encoded]], None]) -> None:
        self._max_rows, self._max_bytes = settings.batch_rows, settings.batch_bytes
        self._max_queued_bytes, self._put = settings.max_queued_bytes, put
        self._parts: list[Encoded] = []
        self._rows = self._bytes = 0
        self._all_rows = self._all_bytes = 0

    def add(self, part: Encoded) -> None:
        """Take a part; what is there before goes out if they are too much together."""
        is_full = (
            self._rows + part.rows > self._max_rows
            or self._bytes + len(part.body) > self._max_bytes
            or len(self._parts) == MAX_PARTS
        )
        if is_full:
            self.put()
        self._parts.append(part)
        self._rows += part.rows
        self._bytes += len(part.body)
        self._all_rows += part.rows
        self._all_bytes += len(part.body)

    def learn(self, intake: Intake) -> None:
        """Tell the intake how large the rows of this round are, those of all queues together."""
        if self._all_rows:
            intake.learn_row_bytes(self._all_bytes / self._all_rows, self._max_queued_bytes)

    def put(self) -> None:
        """Send on what is there."""
        if self._parts:
            parts, self._parts = self._parts, []
            self._rows = self._bytes = 0
            self._put(parts)


def _defect(queue: RowQueue, rows: Places, error: Exception) -> list[Refused]:
    """Every row of a step that failed: handed back rather than dropped."""
    words = f"BUG: {type(error).__name__}: {error}"
    table = zip(*rows, strict=True)
    if isinstance(queue.context, Shape):
        shape = queue.context
        names = (*shape.tags, "time", *shape.fields)
        return [
            Refused(shape.measurement, dict(zip(names, (*tags, *values), strict=True)), words)
            for tags, *values in table
        ]
    end = 2 + queue.context
    return [
        Refused(
            str(row[0]), {"time": row[1]} | dict(zip(row[2:end], row[end:], strict=True)), words
        )
        for row in table
    ]
