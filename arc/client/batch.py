"""What travels: one request's worth of encoded rows, under the key that makes it count once.

A batch is made by an encoder, waits in the outbox and perhaps in the spill, and is sent until it
is answered. Its bytes never change after it was made, so that a repetition under its key is the
same request to the server.
"""

from __future__ import annotations

import enum

WRITE_MSGPACK = "/api/v1/write/msgpack"
WRITE_ARROW = "/api/v1/write/arrow"
WRITE_LINE_PROTOCOL = "/api/v1/write/line-protocol"


class Kind(enum.StrEnum):
    """Format of the body before compression."""

    MSGPACK = "msgpack"
    ARROW = "arrow"
    LINE_PROTOCOL = "line-protocol"
    RECORDS = "records"  # row MessagePack


class Batch:
    """One request.

    Attributes:
        key: Of the header Idempotency-Key: 1 to 64 ASCII bytes, given when the outbox takes it.
        kind: Format of the body.
        target: Path and query of the request.
        headers: Beside those of the connection: names in lower case.
        body: As it is sent, compressed or not.
        rows: How many rows are in it.
        what: For messages: the measurement's name, or how many there are.
        created_us: When it was made, µs since 1970.
        attempts: How often it was sent.
        in_doubt: It was sent, and no answer settled what became of it.
    """

    __slots__ = (
        "attempts",
        "body",
        "created_us",
        "headers",
        "in_doubt",
        "key",
        "kind",
        "rows",
        "target",
        "what",
    )

    def __init__(
        self,
        kind: Kind,
        target: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes | bytearray,
        rows: int,
        what: str,
        *,
        key: str = "",
        created_us: int = 0,
    ) -> None:
        self.kind, self.target, self.headers, self.body = kind, target, headers, body
        self.rows, self.what, self.key, self.created_us = rows, what, key, created_us
        self.attempts, self.in_doubt = 0, False
