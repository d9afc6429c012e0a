"""Whether an answer settles a batch, and how long to wait before it is sent again.

In: a `Reply`, the number of attempts. Out: a `Verdict`, a delay in seconds. Never waits, sends
nothing, and remembers nothing between calls but the state of its random numbers.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from arc.client.transport import Reply

#: The server may take the same bytes later. 408: the body did not come in time, and nothing of it
#: was stored; the network was slow, not the body wrong.
RETRIED = frozenset({408, 429, 502, 503, 504})

CONFLICT = 409

#: A server that asks for more is asked again all the same.
MAX_RETRY_AFTER_S = 300.0

# 0.1 s doubled this often is longer than anyone waits, and still a float.
_MAX_DOUBLINGS = 60


class Verdict(enum.Enum):
    """What an answer says of a batch."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    REFUSED = "refused"


def judge(reply: Reply) -> Verdict:
    """What to do after an answer.

    2xx is accepted. 408, 429, 502, 503 and 504 are worth a retry. So is a 409 with Retry-After: our
    own earlier attempt, under the same key, is still in the server's hands. Everything else is
    refused: any other 4xx, since the same bytes would fail again; 500, since the server has a
    defect; redirects, which nobody follows for a POST; 1xx, which is no answer.
    """
    if 200 <= reply.status < 300:
        return Verdict.ACCEPTED
    if reply.status in RETRIED:
        return Verdict.RETRY
    if reply.status == CONFLICT and reply.retry_after_s is not None:
        return Verdict.RETRY
    return Verdict.REFUSED


class Backoff:
    """Delays that double with every attempt, each drawn anew between nothing and that much.

    Full jitter: clients that failed together do not come back together. Threads may share one.

    Args:
        first_s: Upper end of the first delay.
        longest_s: Upper end of every delay.
        rng: Where the random numbers come from; None: one of its own, seeded by the system.
    """

    def __init__(
        self, first_s: float = 0.1, longest_s: float = 10.0, rng: random.Random | None = None
    ) -> None:
        if rng is None:
            from random import Random

            rng = Random()
        self.first_s, self.longest_s, self._rng = first_s, longest_s, rng

    def delay_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """How long to wait, in seconds.

        Args:
            attempt: How many delays there were before this one: 0 for the first.
            retry_after_s: What the server asked for; the drawn delay comes on top of it, up to
                300 s of it.
        """
        ceiling_s = min(self.longest_s, self.first_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))
        drawn_s = self._rng.uniform(0.0, ceiling_s)
        return drawn_s + min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)
