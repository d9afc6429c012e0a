"""Bodies made of other bodies, format by format: what a blind change of bytes would not reach.

In: a random generator and a body. Out: another body. Never fails: a body that is not of the
format is changed as plain bytes.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

from backports import zstd

from ingest.testing.strategies import damage

Mutator = Callable[[random.Random, bytes], bytes]

#: Numbers that bounds checks get wrong.
INTERESTING = (
    *(0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 1024, 4095, 4096),
    *(0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000),
    *(2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1),
)
#: Bodies above this are not decoded to be changed, so that a bomb costs the fuzzer nothing.
UNPACKED_BYTES = 256 * 2**10


def plain(rng: random.Random, body: bytes) -> bytes:
    """Bytes changed, taken out, doubled, moved, or overwritten by a number."""
    if len(body) < 2 or rng.random() < 0.4:
        return damage(body, rng)
    start = rng.randrange(len(body))
    end = min(len(body), start + rng.choice((1, 2, 4, 8, rng.randint(1, len(body)))))
    way = rng.randrange(4)
    if way == 0:
        return body[:start] + body[end:]
    if way == 1:
        return body[:end] + body[start:]
    if way == 2:
        at = rng.randrange(len(body))
        return body[:at] + body[start:end] + body[at:]
    number = rng.choice(INTERESTING).to_bytes(8, rng.choice(("little", "big")))
    number = number[:4] if rng.random() < 0.5 else number[4:] if rng.random() < 0.5 else number
    return body[:start] + number + body[start + len(number) :]


# ---------------------------------------------------------------------------------------- text

_LINE_PARTS = re.compile(rb"([\n,= \"\\])")
_ODD_TEXT = (
    *(
        b"",
        b" ",
        b"  ",
        b",",
        b"=",
        b"\\",
        b'"',
        b'\\"',
        b"\\\\",
        b"\n",
        b"\r\n",
        b"\r",
        b"#",
        b"\t",
    ),
    *(b"\0", b"\xff", b"\xc0\x80", b"\xe2\x82", "é".encode(), "é".encode(), b"time", b"../.."),
    *(b"1", b"-1i", b"1u", b"18446744073709551615u", b"-9223372036854775808i", b"1e999", b"nan"),
    *(
        b"1e400i",
        b"0x1",
        b"t",
        b"FALSE",
        b"-",
        b"+",
        b".",
        b"e",
        b"1.",
        b"1e",
        b"9" * 400,
        b"0" * 400,
    ),
    *(b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808", b"1 2", b"a" * 300),
)


def lines(rng: random.Random, body: bytes) -> bytes:
    """Line protocol with parts of lines replaced, doubled, dropped or swapped."""
    parts = _LINE_PARTS.split(body)
    if len(parts) < 3 or rng.random() < 0.15:
        return plain(rng, body)
    for _ in range(rng.choice((1, 1, 1, 3))):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        way = rng.randrange(5)
        if way <= 1:
            parts[at] = rng.choice(_ODD_TEXT)
        elif way == 2:
            parts.insert(at, parts[other])
        elif way == 3:
            parts[at], parts[other] = parts[other], parts[at]
        elif len(parts) > 2:
            del parts[at]
    return b"".join(parts)


# ---------------------------------------------------------------------------------------- JSON

_ODD_JSON: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e308,
        2**53 + 1,
        2**63,
        -(2**63) - 1,
        2**64,
        10**400,
        "",
        " ",
    ),
    *("0", "-1", "18446744073709551615", "18446744073709551616", "1e3", "1.0", "NaN", "Infinity"),
    *(
        "00",
        "zz",
        "0" * 32,
        "f" * 16,
        "F" * 16,
        "AAEC",
        "AA",
        "!!!",
        "\0",
        "\ud800",
        "é",
        "x" * 300,
    ),
    *([], {}, [[]], {"stringValue": "x"}, {"intValue": 1.5}, {"arrayValue": {"values": [{}]}}),
    *({"kvlistValue": {"values": [{"key": "k", "value": {"arrayValue": {}}}]}}, {"bytesValue": 7}),
)
_RAW_JSON = (
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"01",
        b"1.",
        b".5",
        b"\xff",
        b"\xef\xbb\xbf",
        b"//",
        b",",
    ),
    *(b"\\u0000", b"\\ud800", b"\\x", b"[" * 200, b'{"a":' * 200, b"}" * 3, b"null", b'"', b"\n"),
)


def json_text(rng: random.Random, body: bytes) -> bytes:
    """JSON with values replaced, keys renamed, doubled or dropped, or broken as text."""
    if rng.random() < 0.3:
        at = rng.randint(0, len(body))
        end = at + rng.choice((0, 0, 1, 4))
        return body[:at] + rng.choice(_RAW_JSON) + body[end:]
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return plain(rng, body)
    holders = _holders(tree)
    if not holders:
        return json.dumps(rng.choice(_ODD_JSON)).encode()
    for _ in range(rng.choice((1, 1, 2))):
        _edit_json(rng, rng.choice(holders), holders)
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.3, separators=(",", ":"))
    except (ValueError, RecursionError):
        return plain(rng, body)
    return text.encode("utf-8", "surrogatepass")


def _holders(tree: Any) -> list[Any]:
    """Every array and object that is not empty."""
    found = [tree]
    for each in found:
        if isinstance(each, dict | list):
            found += each.values() if isinstance(each, dict) else each
    return [each for each in found if isinstance(each, dict | list) and each]


def _edit_json(rng: random.Random, holder: Any, holders: list[Any]) -> None:
    if not holder:
        return
    at = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    way = rng.randrange(5)
    if way == 0:
        del holder[at]
    elif way == 1 and isinstance(holder, dict):
        other = rng.choice(holders)
        name = rng.choice(list(other)) if isinstance(other, dict) and other else "unknown"
        holder[name] = holder.pop(at)
    elif way == 2:
        holder[at] = [json.loads(json.dumps(holder[at]))] * rng.choice((1, 2, 30))
    else:
        holder[at] = rng.choice(_ODD_JSON)


# --------------------------------------------------------------------------------------- Arrow

_CONTINUATION = b"\xff\xff\xff\xff"


def arrow(rng: random.Random, body: bytes) -> bytes:
    """An Arrow stream with numbers of its flatbuffers, buffers or lengths changed."""
    messages = _arrow_messages(body)
    if not messages or rng.random() < 0.1:
        return plain(rng, body)
    if rng.random() < 0.15:
        one, other = rng.choice(messages), rng.choice(messages)
        return body[: one[0]] + body[other[0] : other[2]] + body[one[0] :]
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 1, 3))):
        start, metadata_end, end = rng.choice(messages)
        low, high = (start, metadata_end) if rng.random() < 0.8 else (metadata_end, end)
        width = rng.choice((1, 2, 4, 4, 8))
        if high - low <= width:
            continue
        at = low + rng.randrange((high - low) // width) * width
        number = rng.choice((rng.choice(INTERESTING), rng.randrange(64), len(body)))
        if rng.random() < 0.3:
            old = int.from_bytes(changed[at : at + width], "little")
            number = old + rng.choice((1, -1, 8, -8, 64))
        changed[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(changed)


def _arrow_messages(body: bytes) -> list[tuple[int, int, int]]:
    """Start, end of metadata and end of each message, as far as they can be told."""
    found: list[tuple[int, int, int]] = []
    at = body.find(_CONTINUATION)
    while 0 <= at <= len(body) - 8 and len(found) < 100:
        (size,) = struct.unpack_from("<i", body, at + 4)
        metadata_end = min(len(body), at + 8 + max(0, size))
        following = body.find(_CONTINUATION, metadata_end)
        end = len(body) if following < 0 else following
        found.append((at, metadata_end, end))
        at = following
    return found


# ---------------------------------------------------------------------------------- compression


def gzip_parts(body: bytes) -> bytes | None:
    """What a gzip or zstd body holds, if that is little."""
    try:
        if body[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(body, UNPACKED_BYTES)
        return zstd.ZstdDecompressor().decompress(body, UNPACKED_BYTES)
    except (zlib.error, zstd.ZstdError, EOFError, MemoryError):
        return None


def frames(rng: random.Random, body: bytes) -> bytes:
    """Gzip or zstd: repacked, in several members, with forged heads, or as a bomb."""
    way = rng.randrange(7)
    if way <= 1:
        return plain(rng, body)
    content = gzip_parts(body) or b"content"
    if way == 2:
        half = len(content) // 2
        return gzip.compress(content[:half], 1, mtime=0) + gzip.compress(content[half:], mtime=0)
    if way == 3:
        member = gzip.compress(content[:64], 1, mtime=0)
        return member * rng.choice((2, 50, 200)) + rng.choice((b"", b"\0", b"\x1f\x8b"))
    if way == 4:
        return forged_zstd(rng, zstd.compress(content))
    if way == 5:
        count = rng.choice((2**14, 2**20, 2**23))
        return (
            gzip.compress(bytes(count), 9, mtime=0)
            if rng.random() < 0.5
            else zstd.compress(bytes(count))
        )
    tail = rng.choice((b"", zstd.compress(b""), b"\x50\x2a\x4d\x18\xff\xff\xff\xff", b"\0"))
    return zstd.compress(content, rng.choice((1, 19))) + tail


def forged_zstd(rng: random.Random, frame: bytes) -> bytes:
    """A zstd frame whose head claims another window, another size or a dictionary.

    Format: https://www.rfc-editor.org/rfc/rfc8878#name-frame-header
    """
    descriptor = rng.choice((0x00, 0x20, 0x40, 0x60, 0xA0, 0xC0, 0xE0, 0xE4, 0x03, 0x08, 0x18))
    window = bytes([rng.choice((0x00, 0x58, 0x68, 0xA8, 0xB0, 0xF8, 0xFF))])
    size = rng.choice(INTERESTING).to_bytes(8, "little")
    blocks = frame[rng.randint(5, 10) :]
    return frame[:4] + bytes([descriptor]) + window + size[: rng.choice((0, 1, 2, 4, 8))] + blocks
