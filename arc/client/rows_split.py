"""A body that the server refused, in parts that may be sent one by one. Pure: bytes in, bytes out.

The daemon takes a request whole or not at all, so a bad row would take its neighbours with it. In:
columnar MessagePack as `arc.client.rows` makes it. Out: bodies of the same rows, cut where the
fault most likely is: between maps, between rows of different types, in the middle. What is wrong
with a row is never judged here.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec

#: A body of more maps than this is halved, not taken apart into its maps; the same holds for the
#: kinds of rows of a map.
MAX_PARTS = 16

_NONE = type(None)
_ENCODER = msgspec.msgpack.Encoder()


class Encoded(msgspec.Struct, gc=False):
    """One body.

    Attributes:
        body: Columnar maps, one after another: `{"m": name, "tags": [names], "columns": {…}}`,
            the column `time` in int64 nanoseconds since 1970. Not compressed.
        rows: In all maps.
        what: For messages: the measurement, or how many there are.
    """

    body: bytes
    rows: int
    what: str


def split(body: bytes | bytearray | memoryview) -> list[Encoded]:
    """Take a refused body apart, so that what is right in it can go out without what is wrong.

    Args:
        body: Decompressed; MessagePack maps one after another, or one array of them.

    Returns:
        Bodies that together have the rows of the given one, each in one of them. A body of a few
        maps: each map; of many: two halves of them. A single columnar map: the rows of each set of
        types, which is what one bad value breaks; where all are alike, or too many differ, two
        halves. Empty: one row, or nothing that could be told apart.
    """
    try:
        return _split(list(_maps_of(bytes(body))))
    except (msgspec.DecodeError, IndexError, TypeError, ValueError):  # not of our making
        return []


def _split(maps: list[dict[Any, Any]]) -> list[Encoded]:
    if len(maps) == 1:
        return _split_map(maps[0])
    if len(maps) <= MAX_PARTS:
        return [_encoded_maps([one]) for one in maps]
    middle = len(maps) // 2
    return [_encoded_maps(maps[:middle]), _encoded_maps(maps[middle:])]


def described(names: set[str]) -> str:
    """What messages call rows of these measurements."""
    return f"measurement {next(iter(names))!r}" if len(names) == 1 else f"{len(names)} measurements"


def numbered(keys: Iterable[Any]) -> dict[Any, list[int]]:
    """Where each key stands."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    return groups


def picked(items: list[Any], numbers: Sequence[int]) -> list[Any]:
    """The items with these numbers, of which there is at least one."""
    if len(numbers) == 1:
        return [items[numbers[0]]]
    return list(itemgetter(*numbers)(items))


def _maps_of(body: bytes) -> Iterator[dict[Any, Any]]:
    """All maps of a body.

    Raises:
        msgspec.DecodeError: it holds something else, or is damaged.
        IndexError: it is cut off.
    """
    at = 0
    while at < len(body):
        end = _end_of(body, at)
        found = msgspec.msgpack.decode(body[at:end])
        for item in found if isinstance(found, list) else [found]:
            if not isinstance(item, dict):
                raise msgspec.DecodeError(f"found {type(item).__name__}, wanted a map")
            yield item
        at = end


#: By first byte: bytes of the length that follows it, and bytes beside those that it counts.
_BLOBS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
#: By first byte: bytes of the length, and objects for each that it counts.
_COLLECTIONS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
#: By first byte: bytes that follow it.
_FIXED = (
    {0xC0: 0, 0xC1: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
    | {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    | {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
)


def _end_of(body: bytes, at: int) -> int:
    """Where the object ends that begins at a byte, by the formats of the MessagePack specification.

    msgspec reads bodies of one object only.
    """
    missing = 1
    while missing:
        first = body[at]
        at += 1
        missing -= 1
        if first < 0x80 or first >= 0xE0:
            continue
        if first < 0x90:
            missing += 2 * (first & 0x0F)
        elif first < 0xA0:
            missing += first & 0x0F
        elif first < 0xC0:
            at += first & 0x1F
        elif first in _FIXED:
            at += _FIXED[first]
        elif first in _COLLECTIONS:
            width, objects = _COLLECTIONS[first]
            missing += objects * int.from_bytes(body[at : at + width])
            at += width
        else:
            width = _BLOBS.get(first) or _EXTENSIONS[first]
            at += width + int.from_bytes(body[at : at + width]) + (first in _EXTENSIONS)
    return at


def _split_map(one: dict[Any, Any]) -> list[Encoded]:
    """A map of several rows by the types of its rows, or in halves; else nothing."""
    rows = _num_rows(one)
    if rows < 2:
        return []
    parts = _alike(one["columns"])
    if not 1 < len(parts) <= MAX_PARTS:
        parts = [range(rows // 2), range(rows // 2, rows)]
    return [_encoded_maps([_some_rows(one, numbers)]) for numbers in parts]


def _alike(columns: dict[Any, list[Any]]) -> list[Sequence[int]]:
    """Numbers of the rows that agree in the type of every value; None agrees with any.

    Returns:
        Stops with more parts than are of use.
    """
    kinds = [list(map(type, values)) for values in columns.values()]
    parts: list[tuple[list[type], list[int]]] = []
    for signature, numbers in numbered(zip(*kinds, strict=True)).items():
        for known, members in parts:
            if all(
                a is b or a is _NONE or b is _NONE for a, b in zip(known, signature, strict=True)
            ):
                known[:] = [b if a is _NONE else a for a, b in zip(known, signature, strict=True)]
                members += numbers
                break
        else:
            parts.append((list(signature), numbers))
        if len(parts) > MAX_PARTS:
            break
    return [sorted(members) for _, members in parts]


def _some_rows(one: dict[Any, Any], numbers: Sequence[int]) -> dict[Any, Any]:
    columns = {name: picked(values, numbers) for name, values in one["columns"].items()}
    return {**one, "columns": columns}


def _encoded_maps(maps: list[dict[Any, Any]]) -> Encoded:
    body = b"".join(map(_ENCODER.encode, maps))
    return Encoded(body, sum(map(_num_rows, maps)), described({str(one.get("m")) for one in maps}))


def _num_rows(one: dict[Any, Any]) -> int:
    """Rows of a columnar map; a map of a row is one."""
    columns = one.get("columns")
    if not isinstance(columns, dict) or not columns:
        return 1
    return len(next(iter(columns.values())))
