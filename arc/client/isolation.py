"""One bad row must not take its neighbours with it: a refused batch is taken apart and sent again.

The daemon takes a request whole or not at all, and a batch of the pump holds rows of callers that
know nothing of each other. In: a batch that was refused for its content. Out: its parts, under
keys derived from its own, so that parts made twice (a crash, a replay) are the same requests.
"""

from __future__ import annotations

import hashlib

from arc.client.batch import Batch, Kind

#: The server's words were about what is in the batch (400) or its size (413).
STATUSES = frozenset({400, 413})

#: Requests that one batch may turn into before what is left of it is refused as it is. Halving
#: finds one bad row of 10 000 in 28.
MAX_REQUESTS = 128

MAX_KEY_BYTES = 64


class Isolation:
    """How much further one batch and all its parts may be taken apart.

    Belongs to one batch at a time; its parts may be in the hands of several senders, for whom
    an inexact count is good enough.
    """

    __slots__ = ("requests_left",)

    def __init__(self) -> None:
        self.requests_left = MAX_REQUESTS

    def parts(self, batch: Batch) -> list[Batch]:
        """The parts to send instead of a refused batch; none: its rows are refused together."""
        from arc.client.compress import decompress
        from arc.client.rows import split

        if batch.kind is not Kind.MSGPACK or batch.rows < 2:
            return []
        found = split(decompress(batch.body))
        if len(found) > self.requests_left:
            return []
        self.requests_left -= len(found)
        headers = tuple(h for h in batch.headers if h[0] != "content-encoding")
        return [
            Batch(
                batch.kind,
                batch.target,
                headers,
                part.body,
                part.rows,
                part.what,
                key=derived_key(batch.key, i),
                created_us=batch.created_us,
            )
            for i, part in enumerate(found)
        ]


def derived_key(key: str, index: int) -> str:
    """The key of a part: always the same for the same whole and place."""
    derived = f"{key}.{index}"
    if len(derived) <= MAX_KEY_BYTES:
        return derived
    return hashlib.sha256(derived.encode("ascii")).hexdigest()[:40]
