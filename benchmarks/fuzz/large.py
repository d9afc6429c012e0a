"""The target for time: little pieces over and over, up to the size that is decoded on the loop.

A body here is a format and a piece of at most a kilobyte; what is decoded is the piece repeated to
that size, in the shapes that its format has for repetition. Whatever it holds, the fast
decoder must not keep the event loop for longer than `SLOW_S`, be it to take the body, to refuse
it, or to leave it to its twin, which works in a thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from arc.write_door import INLINE_OTLP_BYTES, INLINE_PLAIN_BYTES
from benchmarks.fuzz import mutators, trees
from benchmarks.fuzz.decoders import LINE_PROTOCOL, MSGPACK, OTLP, DecoderTarget
from benchmarks.fuzz.target import Finding, Ran
from ingest.limits import Limits
from ingest.testing.line_protocol import random_line_body
from ingest.testing.msgpack import array_forms, random_body, random_row_body
from ingest.testing.otlp import delimited, random_request, spell

#: As a daemon has them.
LIMITS = Limits()

Repeat = Callable[[bytes, int], bytes]


def _joined(piece: bytes, count: int) -> bytes:
    return piece * count


def _lines(piece: bytes, count: int) -> bytes:
    return (piece + b"\n") * count


def _array(piece: bytes, count: int) -> bytes:
    return array_forms(count)[-1] + piece * count


def _nested(*numbers: int) -> Repeat:
    """Protobuf fields within the messages of these numbers, from the outermost in."""

    def repeat(piece: bytes, count: int) -> bytes:
        body = piece * count
        for number in reversed(numbers):
            body = delimited(number, body)
        return body

    return repeat


def _json(*names: str) -> Repeat:
    """JSON values in an array within the arrays of these names."""

    def repeat(piece: bytes, count: int) -> bytes:
        head = "".join(f'{{"{name}":[' for name in names).encode()
        return head + b",".join([piece] * count) + b"]}" * len(names)

    return repeat


_LEVELS = (
    ("resourceLogs", "scopeLogs", "logRecords"),
    ("resourceSpans", "scopeSpans", "spans"),
    ("resourceMetrics", "scopeMetrics", "metrics"),
)

_TINY_MAPS = (
    b"\x80",
    b"\x90",
    b"\xc0",
    b"\x82\xa1m\xa1m\xa6fields\x81\xa1v\x01",
    b"\x81\xa1m\xa1m",
)
_TINY_LINES = (b"", b"\n", b"#", b"m v=", b"m v=1", b'm v="', b",w=1", b"\\")
_TINY_FIELDS = (*(bytes([number << 3 | 2, 0]) for number in range(1, 16)), b"\x08\x00", b"\x00")
_TINY_JSON = (b"{}", b"1", b'""', b"null", b'{"a":1}', b"[]")

#: Who decodes, how a piece is repeated, and the smallest pieces.
SHAPES: tuple[tuple[DecoderTarget, Repeat, tuple[bytes, ...]], ...] = (
    *((MSGPACK, repeat, _TINY_MAPS) for repeat in (_joined, _array)),
    *((LINE_PROTOCOL, repeat, _TINY_LINES) for repeat in (_joined, _lines)),
    *(
        (target, _nested(*numbers), _TINY_FIELDS)
        for target in OTLP[::2]
        for numbers in ((), (1,), (1, 2), (1, 2, 2), (1, 2, 2, 5), (1, 2, 2, 5, 1))
    ),
    *(
        (target, _json(*names[: depth + 1]), _TINY_JSON)
        for target, names in zip(OTLP[1::2], _LEVELS, strict=True)
        for depth in range(3)
    ),
)


class LargeTarget:
    """Every format that repeats, at the size where it matters."""

    name = "large"
    description = "small pieces by the thousand, for decodes that hold the event loop"
    in_process = False  # the engine would count branches half a million times
    max_bytes = 1_024
    cost = 100

    def open(self, folder: Path) -> None:
        """Open the targets that decode."""
        for target in {shape[0].name: shape[0] for shape in SHAPES}.values():
            target.open(folder)

    def seed(self, rng: random.Random) -> bytes:
        """A shape, and a small body of its format or a piece of a few bytes."""
        number = rng.randrange(len(SHAPES))
        tiny = rng.random() < 0.7
        return bytes([number]) + (rng.choice(SHAPES[number][2]) if tiny else _small(rng, number))

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Another piece, or one all anew: there are not many bodies here to grow on."""
        if rng.random() < 0.5:
            return self.seed(rng)
        mutate = rng.choice((trees.msgpack, trees.protobuf, mutators.lines, mutators.json_text))
        return body[:1] + mutate(rng, body[1:])

    def run(self, body: bytes) -> Ran:
        """Decode the piece repeated."""
        target, repeat, _ = SHAPES[(body[0] if body else 0) % len(SHAPES)]
        piece = body[1 : self.max_bytes]
        size_bytes = INLINE_OTLP_BYTES if target in OTLP else INLINE_PLAIN_BYTES
        count = max(1, size_bytes // (len(piece) + 1))
        return target.time(repeat(piece, count), LIMITS)

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Nothing is held."""
        return [], {}


def _small(rng: random.Random, number: int) -> bytes:
    target = SHAPES[number][0]
    if target is MSGPACK:
        return random_body(rng, 1, 1, 1) if rng.random() < 0.5 else random_row_body(rng, 1)
    if target is LINE_PROTOCOL:
        return random_line_body(rng, 1)
    signal = target.name.split("-")[1]
    found = spell(random_request(rng, signal, 1))
    return found.json if target in OTLP[1::2] else found.protobuf


LARGE = LargeTarget()
