"""Compression of answers: which one a client takes, and its bytes, piece by piece.

In: the header Accept-Encoding, and pieces of an answer. Out: the name of a coding, and pieces of
what is sent. A piece comes out whole with what went in: nothing of it waits for the next one, so
that a stream stays a stream. Nothing here knows what the bytes are.
"""

from __future__ import annotations

from typing import Any, Protocol

from backports import zstd
from isal import isal_zlib

IDENTITY, GZIP, ZSTD = "identity", "gzip", "zstd"

#: What is spoken, best first: of two that a client likes as much, the first is taken.
CODINGS = (ZSTD, GZIP)

# Knees of `python -m benchmarks.bench_query_answers`: at level 1 both leave 0.28 to 0.43 of an
# answer at 540 to 810 MB/s. zstd 3 leaves 0.01 less of Arrow for 17 % more time, and no less of
# JSON for twice the time; higher levels of isal leave no less; zlib itself takes ten times as long.
_ZSTD_LEVEL = 1
_GZIP_LEVEL = 1

#: Of zlib: a window of 32 KiB, and the head of gzip around it.
_GZIP_WBITS = 31


class Encoder(Protocol):
    """Bytes in, bytes out."""

    def encode(self, piece: bytes | memoryview) -> bytes | memoryview:
        """All that a piece becomes."""

    def end(self) -> bytes:
        """What comes after the last piece."""


def chosen(accept_encoding: str | None) -> str:
    """The coding that a client likes best (RFC 9110, 12.5.3).

    Args:
        accept_encoding: The header; None when absent, which asks for none.

    Returns:
        One of `CODINGS`, or `IDENTITY`; that also where a client refuses everything.
    """
    wanted = _weights(accept_encoding or "")
    rest = wanted.get("*", 0.0)
    wanted.setdefault(GZIP, wanted.get("x-gzip", rest))
    best = max(CODINGS, key=lambda name: wanted.get(name, rest))  # the first of equals
    weight = wanted.get(best, rest)
    return best if weight > 0 and weight >= wanted.get(IDENTITY, 0.0) else IDENTITY


def encoder(coding: str) -> Encoder:
    """A new encoder.

    Args:
        coding: One of `CODINGS`, or `IDENTITY`.
    """
    match coding:
        case "zstd":
            return _Zstd()
        case "gzip":
            return _Gzip()
    return _Identity()


def _weights(header: str) -> dict[str, float]:
    """What a client said, by coding in lower case; a weight that is no number is 0."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        if name:
            found[name] = _weight(parameters)
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0


class _Identity:
    def encode(self, piece: bytes | memoryview) -> bytes | memoryview:
        return piece

    def end(self) -> bytes:
        return b""


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdCompressor(level=_ZSTD_LEVEL)

    def encode(self, piece: bytes | memoryview) -> bytes:
        return self._inner.compress(piece, zstd.ZstdCompressor.FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._inner.flush(zstd.ZstdCompressor.FLUSH_FRAME)


class _Gzip:
    def __init__(self) -> None:
        self._inner: Any = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WBITS)

    def encode(self, piece: bytes | memoryview) -> bytes:
        found: bytes = self._inner.compress(piece) + self._inner.flush(isal_zlib.Z_SYNC_FLUSH)
        return found

    def end(self) -> bytes:
        found: bytes = self._inner.flush()
        return found
