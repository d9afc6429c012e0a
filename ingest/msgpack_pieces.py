"""A MessagePack body taken apart into its maps, each a body by itself. Pure: bytes in, bytes out.

In: a body as `ingest.msgpack_decoder.decode` takes it. Out: the bytes of each columnar and each
row map in it, out of arrays, `batch` envelopes and concatenated objects, in their order. It looks
at no more of a map than whether it is an envelope, so what is wrong inside one map is found when
that map is decoded, and leaves the others alone.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ingest.errors import DecodeError, LimitError, PayloadError
from ingest.kernels.msgpack import walk
from ingest.limits import Limits

#: `batch` as a key, in each of the forms that a string has.
_BATCH_KEYS = frozenset(
    head + b"batch" for head in (b"\xa5", b"\xd9\x05", b"\xda\0\x05", b"\xdb\0\0\0\x05")
)


def pieces(body: bytes, limits: Limits) -> list[bytes]:
    """Take a body apart.

    Args:
        body: The decompressed body.
        limits: Budgets of one request: `max_elements` bounds the pieces, `max_columns` the keys
            of a map that could be an envelope.

    Returns:
        The bytes of each map, at least one.

    Raises:
        DecodeError: not MessagePack, or cut off.
        PayloadError: something stands where a map should.
        LimitError: over a budget.
    """
    if not body:
        raise DecodeError("the body is empty")
    buf = np.frombuffer(body, dtype=np.uint8)
    stopped, objects, _ = walk(buf, 0, len(body))
    if objects < 0:
        raise DecodeError(f"not MessagePack, or cut off: stopped at byte {stopped} of {len(body)}")
    found: list[tuple[int, int]] = []
    at = 0
    for _ in range(objects):
        end, _, _ = walk(buf, at, 1)
        found += _maps_of_object(body, buf, at, end, limits)
        _check_num_pieces(len(found), limits)
        at = end
    return [body[start:end] for start, end in found]


def _check_num_pieces(found: int, limits: Limits) -> None:
    if found > limits.max_elements:
        raise LimitError("maps of one request", found, limits.max_elements, "ARC_MAX_ELEMENTS")


def _maps_of_object(
    body: bytes, buf: NDArray[np.uint8], at: int, end: int, limits: Limits
) -> list[tuple[int, int]]:
    """Where the maps in the top-level object at `at` begin and end."""
    if not _is_map(body, at):
        return _maps_of_array(body, buf, at, "the body", limits)
    batch_at = _find_batch(body, buf, at, end, limits)
    if batch_at < 0:
        return [(at, end)]
    return _maps_of_array(body, buf, batch_at, "'batch'", limits)


def _find_batch(body: bytes, buf: NDArray[np.uint8], at: int, end: int, limits: Limits) -> int:
    """Where the value of the last key `batch` of the map at `at` is, or -1."""
    if body.find(b"batch", at, end) < 0:
        return -1
    keys, at = _header(body, at)
    if keys > limits.max_columns:
        raise LimitError("keys of one map", keys, limits.max_columns, "ARC_MAX_COLUMNS")
    found = -1
    for _ in range(keys):
        value_at, _, _ = walk(buf, at, 1)
        if body[at:value_at] in _BATCH_KEYS:
            found = value_at
        at, _, _ = walk(buf, value_at, 1)
    return found


def _maps_of_array(
    body: bytes, buf: NDArray[np.uint8], at: int, what: str, limits: Limits
) -> list[tuple[int, int]]:
    """Where the maps in the array at `at` begin and end."""
    count, at = _header(body, at) if _is_array(body, at) else (-1, at)
    if count <= 0:
        found = "an array of nothing" if count == 0 else "something else"
        wanted = "an array of maps" if what == "'batch'" else "a map or an array of maps"
        raise PayloadError(f"{what} must be {wanted}, found {found}")
    _check_num_pieces(count, limits)
    maps = []
    for index in range(count):
        end, _, _ = walk(buf, at, 1)
        if not _is_map(body, at):
            raise PayloadError(f"item {index} of {what} must be a map, found something else")
        maps.append((at, end))
        at = end
    return maps


def _is_map(body: bytes, at: int) -> bool:
    return body[at] & 0xF0 == 0x80 or body[at] in (0xDE, 0xDF)


def _is_array(body: bytes, at: int) -> bool:
    return body[at] & 0xF0 == 0x90 or body[at] in (0xDC, 0xDD)


def _header(body: bytes, at: int) -> tuple[int, int]:
    """Of the map or array at `at`, which is all there: (its count, the first byte in it)."""
    code = body[at]
    if code < 0xA0:
        return code & 0x0F, at + 1
    if code in (0xDC, 0xDE):
        return int(struct.unpack_from(">H", body, at + 1)[0]), at + 3
    return int(struct.unpack_from(">I", body, at + 1)[0]), at + 5
