"""Bytes of a request, decompressed under a cap. Pure.

Which compression it is, the bytes themselves say: no MessagePack map, line of text or Arrow
stream begins like a gzip or zstd frame. Several gzip members or zstd frames are one body, and
one cap holds for all of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from backports import zstd
from isal import isal_zlib

from ingest.errors import CompressionError, TooLargeError

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"

#: Largest zstd window that is accepted, 8 MiB: what level 19 uses, and the least that the format
#: asks every decoder to support. A frame header alone may ask for terabytes.
MAX_WINDOW_LOG = 23

_NAMES = {"gzip": _GZIP, "x-gzip": _GZIP, "zstd": _ZSTD, "identity": b"", "": b""}


def decompress(body: bytes, content_encoding: str, limit_bytes: int) -> bytes:
    """Undo the compression of a request body.

    Args:
        body: As received.
        content_encoding: The header, empty when absent.
        limit_bytes: Most bytes that may come out.

    Raises:
        CompressionError: damaged, or the header contradicts the bytes.
        TooLargeError: over the limit.
    """
    found = _GZIP if body.startswith(_GZIP) else _ZSTD if body.startswith(_ZSTD) else b""
    if content_encoding:
        _check_encoding(content_encoding, found)
    if not found:
        return body
    return _gunzip(body, limit_bytes) if found is _GZIP else _unzstd(body, limit_bytes)


def _check_encoding(content_encoding: str, found: bytes) -> None:
    wanted = _NAMES.get(content_encoding.strip().lower())
    if wanted is None:
        raise CompressionError(
            f"Content-Encoding {content_encoding!r} is not supported; send gzip, zstd or none"
        )
    if wanted != found:
        name = {_GZIP: "gzip", _ZSTD: "zstd"}.get(found, "neither gzip nor zstd")
        raise CompressionError(f"Content-Encoding says {content_encoding!r}, the bytes say {name}")


def _gunzip(body: bytes, limit_bytes: int) -> bytes:
    def member() -> Any:
        return isal_zlib.decompressobj(wbits=31)

    return _frames(body, limit_bytes, "gzip", member, cast(type[Exception], isal_zlib.error))


def _unzstd(body: bytes, limit_bytes: int) -> bytes:
    # The backport of Python 3.14's own module, not the zstandard package: that one's decompress()
    # ignores its cap when the frame states a size, and its stream reader takes a frame that is
    # cut off for the end.
    options = {int(zstd.DecompressionParameter.window_log_max): MAX_WINDOW_LOG}

    def frame() -> Any:
        return zstd.ZstdDecompressor(options=options)

    return _frames(body, limit_bytes, "zstd", frame, zstd.ZstdError)


def _frames(
    body: bytes,
    limit_bytes: int,
    name: str,
    decompressor: Callable[[], Any],
    damaged: type[Exception],
) -> bytes:
    """One frame after another, each by a new decompressor, under one cap."""
    parts: list[bytes] = []
    left = limit_bytes
    while body:
        frame = decompressor()
        try:
            part = frame.decompress(body, left + 1)
        except damaged as error:
            raise CompressionError(f"{name}: {error}") from None
        left -= len(part)
        if left < 0:
            raise TooLargeError("the decompressed body", limit_bytes, "ARC_MAX_DECOMPRESSED_BYTES")
        if not frame.eof:
            raise CompressionError(f"{name}: the body is cut off")
        parts.append(part)
        body = frame.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)
