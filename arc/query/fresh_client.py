"""The shards, as the query process asks them for the rows that they hold in memory.

In: the name of a table, and what is known of it by shard. Out: bytes for `ingest.query.fresh`,
from every shard that has a socket in the folder `run`; see `arc.fresh_server` for what such a
file says. One that refuses, ends early or is being replayed is asked again until the time is up,
and then the whole question is refused: an answer without one of the shards would be wrong.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from arc.query.socket_path import SocketPath
from ingest import fresh_rows
from ingest.errors import OverloadedError
from ingest.fresh_rows import FreshHead, FreshRequest, PieceHead
from ingest.paths import TableId
from ingest.query.fresh import Known, ShardRows, too_many

#: How long a question waits for a shard that is being replaced or replayed.
WAIT_S = 2.0

#: How long a shard may take for the next part of its answer.
STALL_S = 5.0

_PAUSE_S = 0.05

_T = TypeVar("_T")


class FreshClient:
    """A `FreshSource` over the sockets of the shards.

    Args:
        run_dir: Where they are.
        wait_s: How long to wait for a shard that cannot tell yet.
    """

    def __init__(self, run_dir: Path, wait_s: float = WAIT_S) -> None:
        self._run_dir = run_dir
        self._wait_s = wait_s

    def ask(
        self, table: TableId, known: Mapping[int, Known], max_bytes: int
    ) -> dict[int, ShardRows]:
        """See `FreshSource.ask`. All shards are asked before the first answer is read."""
        deadline_s = time.monotonic() + self._wait_s
        waiting = {number: path for path in self._sockets() if (number := _shard(path)) >= 0}
        found: dict[int, ShardRows] = {}
        while True:
            with contextlib.ExitStack() as stack:
                asked = [
                    stack.enter_context(_Asked(number, path, table, known.get(number, Known())))
                    for number, path in waiting.items()
                ]
                for one in asked:
                    if (rows := one.read(max_bytes)) is not None:
                        found[one.shard] = rows
                        max_bytes -= sum(head.size_bytes for head, _ in rows.pieces)
                waiting = {one.shard: one.path for one in asked if one.why_not}
            if not waiting:
                return found
            if time.monotonic() > deadline_s:
                raise OverloadedError(_first_reason(asked))
            time.sleep(_PAUSE_S)

    def _sockets(self) -> list[Path]:
        return sorted(self._run_dir.glob("fresh-*.sock"))


class _Asked:
    """A question to one shard, from the moment when it is sent.

    Attributes:
        shard: Its number.
        path: Of its socket.
        why_not: Why there is no answer yet; empty: there is one, or the shard is gone and has
            stored all that it had.
    """

    def __init__(self, shard: int, path: Path, table: TableId, known: Known) -> None:
        self.shard = shard
        self.path = path
        self.why_not = ""
        self._table = table
        self._connection: socket.socket | None = None
        request = FreshRequest(table.database, table.measurement, known.epoch, known.after_lsn)
        try:
            self._connection = _connect(path)
            self._connection.sendall(fresh_rows.message(request))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.why_not = _down(error)

    def __enter__(self) -> _Asked:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def read(self, max_bytes: int) -> ShardRows | None:
        """Its answer; None where there is none, see `why_not`.

        Raises:
            OverloadedError: it has more bytes.
        """
        if self._connection is None or self.why_not:
            return None
        left_bytes = max_bytes
        try:
            head = self._message(FreshHead)
            self.why_not = head.refusal
            pieces = []
            while (piece := self._message(PieceHead)).size_bytes:
                left_bytes -= piece.size_bytes
                if left_bytes < 0:
                    raise too_many(self._table, max_bytes)
                pieces.append((piece, fresh_rows.receive(self._connection, piece.size_bytes)))
        except (OSError, EOFError) as error:
            self.why_not = _down(error)
        return None if self.why_not else ShardRows(head.app_id, head.epoch, pieces)

    def _message(self, kind: type[_T]) -> _T:
        assert self._connection is not None
        size = fresh_rows.length(fresh_rows.receive(self._connection, fresh_rows.LENGTH_BYTES))
        return fresh_rows.parse(fresh_rows.receive(self._connection, size), kind)


def _connect(path: Path) -> socket.socket:
    name = SocketPath(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(STALL_S)
    try:
        connection.connect(name.name)
    except BaseException:
        connection.close()
        raise
    finally:
        name.close()
    return connection


def _shard(path: Path) -> int:
    """The number in the name of a socket; -1: it is another file."""
    number = path.stem.removeprefix("fresh-")
    return int(number) if number.isdecimal() else -1


def _first_reason(asked: list[_Asked]) -> str:
    return next(f"shard {one.shard}: {one.why_not}" for one in asked if one.why_not)


def _down(error: Exception) -> str:
    return f"its worker does not answer ({error}); it is being replaced, or its rows are in its log"
