"""The targets that are pure functions of ingest/: every decoder, and decompression.

The first byte of a body picks the arguments beside it (limits, unit of times, encoding), so that
a body alone says what is run. A decoder must take or refuse it, its slow twin must do the same in
the same words, and what it takes must keep the promises of `ColumnBatch`.
"""

from __future__ import annotations

import gzip
import importlib
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fuzz import mutators, trees
from benchmarks.fuzz.target import Finding, Ran, cpu_s
from ingest.columns import ColumnBatch
from ingest.decompress import decompress
from ingest.errors import ClientError, LimitError, TooLargeError
from ingest.limits import Limits
from ingest.otlp.request import Signal
from ingest.testing.arrow import random_stream
from ingest.testing.batches import assert_same_batches, check_batches
from ingest.testing.line_protocol import random_line_body
from ingest.testing.msgpack import random_body, random_row_body
from ingest.testing.otlp import random_request, spell
from ingest.testing.strategies import compress, damage
from ingest.timestamps import TimeUnit

NOW_US = 1_768_473_000_000_000

MAX_BYTES = 16 * 2**10

#: As a daemon has them, but that a bomb is seen at 32 MiB already.
LIMITS = Limits(
    max_columns=500, max_request_columns=5_000, max_decoded_bytes=32 * 2**20, max_elements=300_000
)
#: Those that ordinary bodies meet.
TIGHT = Limits(max_columns=3, max_request_columns=5, max_decoded_bytes=4_000, max_elements=300_000)

Arguments = tuple[Any, ...]
Outcome = Any

_UNITS = (None, None, None, *TimeUnit)


class DecoderTarget:
    """A decoder and its slow twin.

    Args:
        name: As on the command line.
        description: One line.
        decode: Module and function.
        twin: Module and function of what must do the same, slowly.
        fast: Module and function of what runs on the event loop.
        arguments: To choose from, each what follows `(body, now_us, limits)`.
        seed: Makes good bodies.
        mutate: Makes others of them.
        before_limits: Arguments stand before `now_us`, not after the limits.
    """

    in_process = True
    max_bytes = MAX_BYTES
    cost = 1

    def __init__(
        self,
        name: str,
        description: str,
        decode: tuple[str, str],
        twin: tuple[str, str],
        fast: tuple[str, str],
        arguments: Sequence[Arguments],
        seed: Callable[[random.Random], bytes],
        mutate: mutators.Mutator,
        before_limits: bool = False,
    ) -> None:
        self.name = name
        self.description = description
        self._names = decode, twin, fast
        self._arguments = arguments
        self._seed = seed
        self._mutate = mutate
        self._before_limits = before_limits
        self._decode: Callable[..., Outcome]
        self._twin: Callable[..., Outcome]
        self._fast: Callable[..., Outcome]

    def open(self, folder: Path) -> None:
        """Import the decoder: the engine wants to see that happen."""
        found = [getattr(importlib.import_module(module), name) for module, name in self._names]
        self._decode, self._twin, self._fast = found
        for number in range(50):  # the kernels compile, and caches fill
            self.run(self.seed(random.Random(number)))

    def seed(self, rng: random.Random) -> bytes:
        """A body that is good in most cases."""
        return bytes([rng.randrange(256)]) + self._seed(rng)

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Another body, seldom with other arguments."""
        first = body[:1] if rng.random() < 0.95 else bytes([rng.randrange(256)])
        return first + self._mutate(rng, body[1:])

    def run(self, body: bytes) -> Ran:
        """Decode, compare, check."""
        selector, body = body[0] if body else 0, body[1:]
        limits = TIGHT if selector & 7 == 7 else LIMITS
        arguments = self._arguments[(selector >> 3) % len(self._arguments)]
        given = (
            (*arguments, NOW_US, limits) if self._before_limits else (NOW_US, limits, *arguments)
        )
        started_s = cpu_s()
        found = outcome(self._decode, body, *given)
        took_s = cpu_s() - started_s
        _compare(self.name, found, outcome(self._twin, body, *given))
        if isinstance(found, ClientError):
            return Ran(found.reason, took_s)
        batches = found if isinstance(found, list) else found.batches
        try:
            check_batches(batches)
        except AssertionError as error:
            raise Finding("invariant", self.name, str(error)) from error
        refused = not isinstance(found, list) and found.refused
        return Ran("taken in part" if refused else "taken", took_s)

    def time(self, body: bytes, limits: Limits) -> Ran:
        """Only do what the event loop would wait for, with the first of the arguments."""
        given = self._given(self._arguments[0], limits)
        started_s = cpu_s()
        found = outcome(self._fast, body, *given)
        took_s = cpu_s() - started_s
        label = "taken" if isinstance(found, list) else "left to the twin"
        return Ran(
            f"{self.name} {found.reason if isinstance(found, ClientError) else label}", took_s
        )

    def _given(self, arguments: Arguments, limits: Limits) -> Arguments:
        if self._before_limits:
            return (*arguments, NOW_US, limits)
        return (NOW_US, limits, *arguments)

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Nothing is held."""
        return [], {}


def outcome(decode: Callable[..., Outcome], *given: Any) -> Outcome:
    """What a decoder returns, or its refusal."""
    try:
        return decode(*given)
    except ClientError as error:
        return error


def _compare(name: str, found: Outcome, wanted: Outcome) -> None:
    """Hold a decoder and its twin to the same result, refusals to the word.

    Memory is bounded by the fast path where that builds arrays and by the count of elements where
    the twin builds objects, so a refusal for memory is the fast path's own, and one for the number
    of its maps is the twin's: the fast path makes no object of a row.
    """
    if isinstance(found, TooLargeError):
        return
    if isinstance(wanted, LimitError) and str(wanted).startswith("maps of one request"):
        return
    if isinstance(found, ClientError) or isinstance(wanted, ClientError):
        one, other = _told(found), _told(wanted)
        if one != other:
            raise Finding("disagreement", f"{name}-{one[0]}-{other[0]}", f"{one} and {other}")
        return
    try:
        if isinstance(found, list):
            assert_same_batches(found, wanted)
        else:
            assert_same_batches(found.batches, wanted.batches)
            assert _refusals(found) == _refusals(wanted), "other records are refused"
    except AssertionError as error:
        raise Finding("disagreement", name, str(error)[:2000] or "batches differ") from error


def _told(found: Outcome) -> tuple[str, str]:
    if isinstance(found, ClientError):
        return type(found).__name__, str(found)
    batches: list[ColumnBatch] = found if isinstance(found, list) else found.batches
    return "taken", f"{len(batches)} batches"


def _refusals(found: Outcome) -> list[tuple[str, int, str]]:
    return [(each.table, each.index, str(each.error)) for each in found.refused]


# ----------------------------------------------------------------------------------- the decoders


def _columnar_or_rows(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return random_body(rng, maps=2, columns=3, rows=12, faults=rng.choice((0, 0, 1)))
    return random_row_body(rng, rows=6, faults=rng.choice((0, 0, 1)))


def _lines(rng: random.Random) -> bytes:
    per_second = 10**9 if rng.random() < 0.8 else rng.choice((1, 10**3, 10**6))
    return random_line_body(rng, 8, rng.choice((0, 0, 1)), per_second)


def _streams(rng: random.Random) -> bytes:
    return random_stream(rng, columns=3, rows=10, faults=rng.choice((0, 0, 0, 1)))


MSGPACK = DecoderTarget(
    "msgpack",
    "MessagePack, columns and rows",
    ("ingest.msgpack_decoder", "decode"),
    ("ingest.msgpack_slow", "decode_slow"),
    ("ingest.msgpack_decoder", "decode_fast"),
    [(unit,) for unit in _UNITS if unit not in (TimeUnit.M, TimeUnit.H)],
    _columnar_or_rows,
    trees.msgpack,
)
LINE_PROTOCOL = DecoderTarget(
    "line-protocol",
    "InfluxDB line protocol",
    ("ingest.line_protocol", "decode"),
    ("ingest.line_protocol_slow", "decode_slow"),
    ("ingest.line_protocol", "decode_fast"),
    [(unit,) for unit in (*[TimeUnit.NS] * 10, *TimeUnit)],
    _lines,
    mutators.lines,
)
ARROW = DecoderTarget(
    "arrow",
    "Arrow IPC streams",
    ("ingest.arrow_ipc", "decode"),
    ("ingest.arrow_slow", "decode_slow"),
    ("ingest.arrow_ipc", "decode_fast"),
    [("m", tags, unit) for tags in (frozenset(), frozenset({"v", "größe"})) for unit in _UNITS],
    _streams,
    mutators.arrow,
)


def _otlp_target(signal: str, is_json: bool) -> DecoderTarget:
    def seed(rng: random.Random) -> bytes:
        found = spell(random_request(rng, signal, records=3, faults=rng.choice((0, 0, 1))))
        return found.json if is_json else found.protobuf

    form = "json" if is_json else "protobuf"
    return DecoderTarget(
        f"otlp-{signal}-{form}",
        f"OTLP {signal} in {form}",
        ("ingest.otlp.decoder", "decode"),
        ("ingest.otlp.plain", "decode_plain"),
        ("ingest.otlp.fast", "decode_fast"),
        [(Signal(signal), is_json)],
        seed,
        mutators.json_text if is_json else trees.protobuf,
        before_limits=True,
    )


OTLP = [
    _otlp_target(signal, is_json)
    for signal in ("logs", "traces", "metrics")
    for is_json in (False, True)
]

# --------------------------------------------------------------------------------- decompression

_ENCODINGS = ("", "", "gzip", "zstd", "x-gzip", "identity", "br", "gzip, gzip", " GZIP ")
_OUTPUT_BYTES = (2**20, 2**20, 100, 0)


class DecompressTarget:
    """`ingest.decompress`: what it takes is what the standard library makes of it, and no more."""

    name = "decompress"
    description = "gzip and zstd: members, windows, forged heads, bombs"
    in_process = True
    max_bytes = MAX_BYTES
    cost = 1

    def open(self, folder: Path) -> None:
        """Nothing to get ready."""

    def seed(self, rng: random.Random) -> bytes:
        """A compressed body."""
        content = random_line_body(rng, 8) * rng.choice((1, 1, 50))
        return bytes([rng.randrange(256)]) + compress(content, rng)

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Another one."""
        first = body[:1] if rng.random() < 0.9 else bytes([rng.randrange(256)])
        if rng.random() < 0.3:
            return first + damage(body[1:], rng)
        return first + mutators.frames(rng, body[1:])

    def run(self, body: bytes) -> Ran:
        """Decompress, and compare."""
        selector, body = body[0] if body else 0, body[1:]
        encoding = _ENCODINGS[(selector >> 2) % len(_ENCODINGS)]
        limit_bytes = _OUTPUT_BYTES[selector & 3]
        started_s = cpu_s()
        try:
            found = decompress(body, encoding, limit_bytes)
        except ClientError as error:
            return Ran(error.reason, cpu_s() - started_s)
        took_s = cpu_s() - started_s
        if found is not body:
            self._check(body, found, limit_bytes)
        return Ran("plain" if found is body else "taken", took_s)

    def _check(self, body: bytes, found: bytes, limit_bytes: int) -> None:
        if len(found) > limit_bytes:
            raise Finding("invariant", self.name, f"{len(found)} bytes, over {limit_bytes}")
        if body[:2] == b"\x1f\x8b":
            try:
                wanted = gzip.decompress(body)
            except (OSError, EOFError, zlib.error):
                return  # it is told as damaged by one, and not by the other
            if wanted != found:
                raise Finding("disagreement", self.name, "gzip of the standard library differs")

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Nothing is held."""
        return [], {}


DECOMPRESS = DecompressTarget()
