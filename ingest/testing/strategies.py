"""Hypothesis strategies for the bodies of every door.

Shape and seed are left to Hypothesis, so that a failure shrinks to few rows and columns, and the
rest is made from the seed: a body takes 0.3 ms instead of 60. Only this module of the package
imports Hypothesis.
"""

from __future__ import annotations

import gzip
import random

from backports import zstd
from hypothesis import strategies as st

from ingest.testing.arrow import random_stream
from ingest.testing.line_protocol import random_line_body
from ingest.testing.msgpack import random_body, random_row_body
from ingest.testing.otlp import OtlpBody, random_request, spell

_SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
_FEW = st.integers(1, 4)
_ROWS = st.integers(1, 40)
_FAULTS = st.integers(1, 2)


def bodies() -> st.SearchStrategy[bytes]:
    """Columnar MessagePack that every decoder has to take."""
    return st.builds(random_body, _SEEDS, st.integers(1, 3), _FEW, _ROWS)


def faulty_bodies() -> st.SearchStrategy[bytes]:
    """Columnar MessagePack of which most has to be refused."""
    return st.builds(random_body, _SEEDS, st.integers(1, 3), _FEW, _ROWS, _FAULTS)


def damaged_bodies() -> st.SearchStrategy[bytes]:
    """Columnar MessagePack, damaged; see `damaged`."""
    return damaged(bodies())


def row_bodies() -> st.SearchStrategy[bytes]:
    """Row MessagePack, some columnar maps in it, that every decoder has to take."""
    return st.builds(random_row_body, _SEEDS, _ROWS)


def faulty_row_bodies() -> st.SearchStrategy[bytes]:
    """Row MessagePack of which most has to be refused."""
    return st.builds(random_row_body, _SEEDS, _ROWS, _FAULTS)


def line_protocol_bodies(per_second: int = 10**9) -> st.SearchStrategy[bytes]:
    """Line protocol that every decoder has to take, its times in this unit."""
    return st.builds(random_line_body, _SEEDS, _ROWS, per_second=st.just(per_second))


def faulty_line_protocol_bodies() -> st.SearchStrategy[bytes]:
    """Line protocol with odd lines, of which most have to be refused."""
    return st.builds(random_line_body, _SEEDS, _ROWS, _FAULTS)


def arrow_bodies() -> st.SearchStrategy[bytes]:
    """Arrow IPC streams of columns that can be stored."""
    return st.builds(random_stream, _SEEDS, _FEW, _ROWS)


def faulty_arrow_bodies() -> st.SearchStrategy[bytes]:
    """Arrow IPC streams with columns of which most cannot be stored."""
    return st.builds(random_stream, _SEEDS, _FEW, _ROWS, _FAULTS)


def otlp_log_requests(faults: int = 0) -> st.SearchStrategy[OtlpBody]:
    """Export requests of log records, each as protobuf and as JSON."""
    return _otlp("logs", faults)


def otlp_trace_requests(faults: int = 0) -> st.SearchStrategy[OtlpBody]:
    """Export requests of spans, each as protobuf and as JSON."""
    return _otlp("traces", faults)


def otlp_metric_requests(faults: int = 0) -> st.SearchStrategy[OtlpBody]:
    """Export requests of metrics of all five types, each as protobuf and as JSON."""
    return _otlp("metrics", faults)


def _otlp(signal: str, faults: int) -> st.SearchStrategy[OtlpBody]:
    made = st.builds(random_request, _SEEDS, st.just(signal), st.integers(0, 8), st.just(faults))
    return made.map(spell)


def damaged(found: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bodies with one to three bytes changed, or cut off, or with bytes behind their end."""
    return st.builds(damage, found, _SEEDS)


def damage(body: bytes, rng: random.Random) -> bytes:
    """The body with one to three bytes changed, or cut off, or with bytes behind its end."""
    way = rng.choice(("cut off", "more", "changed", "changed", "changed")) if body else "more"
    if way == "cut off":
        return body[: rng.randrange(len(body))]
    if way == "more":
        return body + rng.randbytes(rng.randint(1, 4))
    changed = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(len(changed))] = rng.choice((rng.getrandbits(8), 0xC0, 0xDD, 0xDB))
    return bytes(changed)


def compressed(found: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bodies in gzip or zstd, in one member or frame or in several."""
    return st.builds(compress, found, _SEEDS)


def compress(body: bytes, rng: random.Random) -> bytes:
    """The body in gzip or zstd, in one to three members or frames."""
    pack = rng.choice((lambda part: gzip.compress(part, 1, mtime=0), zstd.compress))
    cuts = sorted(rng.randint(0, len(body)) for _ in range(rng.choice((0, 0, 1, 2))))
    ends = zip([0, *cuts], [*cuts, len(body)], strict=True)
    return b"".join(pack(body[start:end]) for start, end in ends)
