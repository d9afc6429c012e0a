"""Log sequence numbers: one number for the life of a shard and the request in that life. Pure.

`lsn = epoch * 2**40 + seq`. The epoch grows with every start of a shard, `seq` counts the requests
of one epoch from 1, so a later request of a shard always has a higher number, and a table keeps
one number a shard to say how far it is. Both parts fit into the signed 64 bits that a Delta
table has for it: 8 million starts, a trillion requests in each.
"""

from __future__ import annotations

_SEQ_BITS = 40

#: Requests that one epoch can number.
MAX_SEQ = (1 << _SEQ_BITS) - 1
MAX_EPOCH = (1 << (63 - _SEQ_BITS)) - 1


def make_lsn(epoch: int, seq: int) -> int:
    """The number of request `seq` of an epoch, both within their limits."""
    return (epoch << _SEQ_BITS) | seq


def epoch_of(lsn: int) -> int:
    """In which life of the shard the request came."""
    return lsn >> _SEQ_BITS


def seq_of(lsn: int) -> int:
    """Which request of its epoch it is, from 1."""
    return lsn & MAX_SEQ
