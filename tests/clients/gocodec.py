"""MessagePack as the two Go libraries write it that agents send with, and chunked requests.

In: plain objects. Out: bytes, as github.com/tinylib/msgp (Telegraf) and
github.com/vmihailenco/msgpack/v5 (Redpanda Connect, the collector's exporter) make them, which
choose other forms of an integer than Python's encoders do. Sends nothing, knows no client.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Uint(int):
    """An integer of an unsigned Go type."""


class Int32(int):
    """An integer of Go's int32."""


class Uint32(int):
    """An integer of Go's uint32."""


def msgp(value: Any) -> bytes:
    """As tinylib/msgp: an integer takes the smallest form of its own signedness."""
    return _encode(value, _msgp_integer)


def vmihailenco(value: Any) -> bytes:
    """As vmihailenco/msgpack/v5 by default: an integer takes the form of its Go type."""
    return _encode(value, _vmihailenco_integer)


def _encode(value: Any, integer: Callable[[int], bytes]) -> bytes:
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return integer(value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return _length(len(text), (0xA0, 31), (0xD9, 0xDA, 0xDB)) + text
        case bytes():
            return _length(len(value), None, (0xC4, 0xC5, 0xC6)) + value
        case Mapping():
            parts = [_encode(part, integer) for pair in value.items() for part in pair]
            return _length(len(value), (0x80, 15), (None, 0xDE, 0xDF)) + b"".join(parts)
        case Sequence():
            parts = [_encode(item, integer) for item in value]
            return _length(len(value), (0x90, 15), (None, 0xDC, 0xDD)) + b"".join(parts)
    raise TypeError(type(value))


def _length(size: int, fix: tuple[int, int] | None, codes: tuple[int | None, int, int]) -> bytes:
    """The head of text, bytes, an array or a map: the shortest."""
    if fix is not None and size <= fix[1]:
        return bytes([fix[0] | size])
    if codes[0] is not None and size < 2**8:
        return bytes([codes[0], size])
    if size < 2**16:
        return bytes([codes[1]]) + struct.pack(">H", size)
    return bytes([codes[2]]) + struct.pack(">I", size)


def _msgp_integer(value: int) -> bytes:
    if isinstance(value, Uint):
        if value < 2**7:
            return bytes([value])
        forms = [(2**8, b"\xcc", ">B"), (2**16, b"\xcd", ">H"), (2**32, b"\xce", ">I")]
        found = next((f for f in forms if value < f[0]), (0, b"\xcf", ">Q"))
    else:
        if -(2**5) <= value < 2**7:
            return struct.pack(">b", value)
        forms = [(2**7, b"\xd0", ">b"), (2**15, b"\xd1", ">h"), (2**31, b"\xd2", ">i")]
        found = next((f for f in forms if -f[0] <= value < f[0]), (0, b"\xd3", ">q"))
    return found[1] + struct.pack(found[2], value)


def _vmihailenco_integer(value: int) -> bytes:
    if isinstance(value, Uint32):
        return b"\xce" + struct.pack(">I", value)
    if isinstance(value, Uint):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, Int32):
        return b"\xd2" + struct.pack(">i", value)
    return b"\xd3" + struct.pack(">q", value)


def chunked(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST as Go's client sends a body whose length it was not told: in chunks of 32 KiB."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Transfer-Encoding: chunked", "Accept-Encoding: gzip", "", ""]
    pieces = [body[start : start + 2**15] for start in range(0, len(body), 2**15)]
    framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""]]
    return "\r\n".join(lines).encode() + b"".join(framed)
