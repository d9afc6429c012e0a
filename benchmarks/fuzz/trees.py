"""MessagePack and protobuf as trees, changed and written down again, sizes right or lying.

In: a random generator and a body. Out: another body. A part that is not of the format is kept as
the bytes that it is.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

from benchmarks.fuzz.mutators import INTERESTING, plain
from ingest.testing.msgpack import (
    FLOAT_BOUNDARIES,
    INT_BOUNDARIES,
    NOT_UTF8,
    array_forms,
    bin_forms,
    float_forms,
    int_forms,
    map_forms,
    str_forms,
    timestamp_forms,
)
from ingest.testing.otlp import varint

#: Deeper trees, and those of more nodes, are not taken apart any further.
MAX_DEPTH = 12
MAX_NODES = 3_000


@dataclass
class Node:
    """A value.

    Attributes:
        data: As it is written; of a container its head, or of a protobuf field its key.
        kind: "leaf", "array", "map" or "message".
        children: Of a container; of a map key and value in turn.
        lie: Added to the count or length that is written.
    """

    data: bytes
    kind: str = "leaf"
    children: list[Node] = field(default_factory=list)
    lie: int = 0


# ----------------------------------------------------------------------------------- MessagePack

_FIXED_SIZES = (
    *((code, 0) for code in (0xC0, 0xC1, 0xC2, 0xC3)),
    *((0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)),
    *((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8), (0xD4, 2), (0xD5, 3), (0xD6, 5), (0xD7, 9)),
    (0xD8, 17),
)
_SIZES = dict(_FIXED_SIZES)
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTS = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


class _Parser:
    """Reads as much of a body as is MessagePack; the rest is one leaf."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0
        self.nodes = 0

    def value(self, depth: int = 0) -> Node:
        body, at = self.body, self.at
        self.nodes += 1
        if at >= len(body) or depth > MAX_DEPTH or self.nodes > MAX_NODES:
            self.at = len(body)
            return Node(body[at:])
        code = body[at]
        if 0x80 <= code <= 0x9F:
            return self._container(code & 0x0F, 1, code < 0x90, depth)
        if code in _COUNTS:
            width = _COUNTS[code]
            count = int.from_bytes(body[at + 1 : at + 1 + width], "big")
            return self._container(count, 1 + width, code >= 0xDE, depth)
        size = 1 + _SIZES.get(code, code & 0x1F if 0xA0 <= code < 0xC0 else 0)
        if code in _LENGTHS:
            width = _LENGTHS[code]
            size = 1 + width + int.from_bytes(body[at + 1 : at + 1 + width], "big")
            size += 0xC7 <= code <= 0xC9
        self.at = min(len(body), at + size)
        return Node(body[at : self.at])

    def _container(self, count: int, head: int, is_map: bool, depth: int) -> Node:
        self.at += head
        node = Node(b"", "map" if is_map else "array")
        for _ in range(min(count << is_map, len(self.body))):
            if self.at >= len(self.body) or self.nodes > MAX_NODES:
                break
            node.children.append(self.value(depth + 1))
        return node


def _write(rng: random.Random, node: Node, out: list[bytes]) -> None:
    if node.kind == "leaf":
        out.append(node.data)
        return
    is_map = node.kind == "map"
    count = max(0, (len(node.children) >> is_map) + node.lie) & 0xFFFFFFFF
    heads = map_forms(count) if is_map else array_forms(count)
    out.append(heads[0] if rng.random() < 0.9 else rng.choice(heads))
    for child in node.children:
        _write(rng, child, out)


def _all(nodes: list[Node]) -> list[Node]:
    found = list(nodes)
    for node in found:
        found += node.children
    return found


_ODD_LEAVES = (
    *(b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\x90", b"\x80", b"\x91\xc0", b"\x81\xa1x\x01"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff"),
    *(
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\xff",
        b"\xd4\x05\x00",
        b"\xc7\x00\x05",
        b"\xd9",
    ),
)
_NAMES = ("m", "columns", "batch", "tags", "fields", "t", "h", "time", "v", "host", "a_value", "")


def _odd_leaf(rng: random.Random) -> bytes:
    way = rng.randrange(6)
    if way == 0:
        return rng.choice(_ODD_LEAVES)
    if way == 1:
        return rng.choice(int_forms(rng.choice(INT_BOUNDARIES)))
    if way == 2:
        return rng.choice(float_forms(rng.choice(FLOAT_BOUNDARIES)))
    if way == 3:
        return rng.choice(str_forms(rng.choice((*NOT_UTF8, *_NAMES, "é", "x" * 300))))
    if way == 4:
        return rng.choice(bin_forms(b"\xff" * rng.choice((0, 1, 40))))
    seconds = rng.choice((0, 1_700_000_000, 2**33, 2**63 - 1, -(2**63)))
    return rng.choice(timestamp_forms(seconds, rng.choice((0, 1, 999_999_999, 2**29))))


def msgpack(rng: random.Random, body: bytes) -> bytes:
    """MessagePack with values replaced, moved, doubled, dropped or wrapped, or counts that lie."""
    if rng.random() < 0.15:
        return plain(rng, body)
    parser = _Parser(body)
    roots: list[Node] = []
    while parser.at < len(body):
        roots.append(parser.value())
    for _ in range(rng.choice((1, 1, 1, 3))):
        _edit(rng, roots)
    out: list[bytes] = []
    for root in roots:
        _write(rng, root, out)
    return b"".join(out)


def _edit(rng: random.Random, roots: list[Node]) -> None:
    nodes = _all(roots)
    if not nodes:
        roots.append(Node(_odd_leaf(rng)))
        return
    leaves = [node for node in nodes if node.kind == "leaf"]
    holders = [node for node in nodes if node.children]
    way = rng.randrange(8)
    if way <= 3 and leaves:
        rng.choice(leaves).data = _odd_leaf(rng)
    elif way == 4 and holders:
        rng.choice(holders).lie = rng.choice((1, -1, 1000, 2**16, 2**31, 2**32 - 1))
    elif way == 5:
        wrapped = rng.choice(nodes)
        inner = Node(wrapped.data, wrapped.kind, wrapped.children, wrapped.lie)
        wrapped.data, wrapped.kind, wrapped.children, wrapped.lie = b"", "array", [inner], 0
    elif holders:
        holder = rng.choice(holders)
        step = 2 if holder.kind == "map" else 1
        at = rng.randrange(len(holder.children)) // step * step
        piece = holder.children[at : at + step]
        if way == 6:
            del holder.children[at : at + step]
        else:
            # Written down, not shared: a tree that holds itself has no end.
            other = rng.choice([each for each in holders if each.kind == holder.kind])
            copies = [_leaf_of(rng, node) for node in piece]
            other.children[at:at] = copies * rng.choice((1, 1, 30))


def _leaf_of(rng: random.Random, node: Node) -> Node:
    out: list[bytes] = []
    _write(rng, node, out)
    return Node(b"".join(out))


# -------------------------------------------------------------------------------------- protobuf


def _varint_at(body: bytes, at: int) -> tuple[int, int] | None:
    value = shift = 0
    while at < len(body) and shift < 70:
        value |= (body[at] & 0x7F) << shift
        at += 1
        if body[at - 1] < 0x80:
            return value, at
        shift += 7
    return None


def fields(body: bytes, depth: int = 0) -> list[Node] | None:
    """The fields of a message, taken apart as far as they can be; None: it is none."""
    found: list[Node] = []
    at = 0
    while at < len(body):
        key = _varint_at(body, at)
        if key is None or not key[0] >> 3 or len(found) > MAX_NODES:
            return None
        start, (tag, at) = at, key
        wire_type = tag & 7
        if wire_type == 2:
            length = _varint_at(body, at)
            if length is None or length[1] + length[0] > len(body):
                return None
            value = body[length[1] : length[1] + length[0]]
            inside = fields(value, depth + 1) if depth < MAX_DEPTH and len(value) > 1 else None
            children = [Node(value)] if inside is None else inside
            found.append(Node(body[start:at], "message", children))
            at = length[1] + length[0]
            continue
        if wire_type == 0:
            number = _varint_at(body, at)
            if number is None:
                return None
            at = number[1]
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            return None
        if at > len(body):
            return None
        found.append(Node(body[start:at]))
    return found


def _joined(nodes: list[Node]) -> bytes:
    return b"".join(_field(node) for node in nodes)


def _field(node: Node) -> bytes:
    if node.kind == "leaf":
        return node.data
    content = _joined(node.children)
    return node.data + varint(len(content) + node.lie) + content


def _odd_field(rng: random.Random, number: int) -> Node:
    wire_type = rng.choice((0, 0, 1, 2, 2, 5, 3, 4, 6, 7))
    key = varint(number << 3 | wire_type)
    if wire_type == 0:
        long = b"\x80" * rng.choice((1, 9, 10)) + b"\x01"
        return Node(key + rng.choice((varint(rng.choice(INTERESTING)), long)))
    if wire_type == 2:
        text = rng.choice((*NOT_UTF8, b"", b"x" * 300, b"\x0a\x00", b"\x2a\x02\x0a\x00" * 8))
        return Node(key, "message", [Node(text)])
    size = {1: 8, 5: 4}.get(wire_type, 0)
    odd = rng.choice(
        (rng.choice(INTERESTING).to_bytes(8, "little"), struct.pack("<d", float("nan")))
    )
    return Node(key + odd[:size])


def protobuf(rng: random.Random, body: bytes) -> bytes:
    """A message with fields replaced, moved, doubled, dropped or nested, or lengths that lie."""
    roots = None if rng.random() < 0.15 else fields(body)
    if not roots:
        return plain(rng, body)
    for _ in range(rng.choice((1, 1, 1, 3))):
        _edit_fields(rng, roots)
    return _joined(roots)


def _edit_fields(rng: random.Random, roots: list[Node]) -> None:
    top = Node(b"", "message", roots)
    holders = [node for node in _all([top]) if node.children]
    if not holders:
        return
    holder = rng.choice(holders)
    at = rng.randrange(len(holder.children))
    child = holder.children[at]
    way = rng.randrange(8)
    if way <= 2:
        known = _varint_at(child.data, 0)
        number = known[0] >> 3 & 0x1FFFFFFF if known and rng.random() < 0.7 else rng.randint(1, 20)
        holder.children[at] = _odd_field(rng, number or 1)
    elif way == 3:
        child.lie = rng.choice((1, -1, 5, 2**31, 2**32, 2**63))
    elif way == 4:
        del holder.children[at]
    elif way == 5:
        rng.choice(holders).children.insert(0, Node(_field(child)))
    elif way == 6:
        holder.children[at:at] = [Node(_field(child))] * rng.choice((1, 30))
    else:
        deep = child
        for _ in range(rng.choice((3, 20))):
            deep = Node(b"\x2a", "message", [Node(b"\x0a", "message", [deep])])
        holder.children[at] = deep
