"""HTTP requests as bytes, right ones and mutilated ones, on every door.

In: a random generator. Out: what a client would send over one connection, and whether a server
has to answer each part of it without more to come. Sends nothing.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Mapping

from backports import zstd

from benchmarks.fuzz import trees
from benchmarks.fuzz.mutators import Mutator, arrow, frames, json_text, lines, plain
from ingest.testing.arrow import random_stream
from ingest.testing.line_protocol import random_line_body
from ingest.testing.msgpack import random_body, random_row_body
from ingest.testing.otlp import random_request, spell

_FAULTS = (0, 0, 1)

Maker = Callable[[random.Random], bytes]


def _columns(rng: random.Random) -> bytes:
    return random_body(rng, 2, 3, 10, rng.choice(_FAULTS))


def _rows(rng: random.Random) -> bytes:
    return random_row_body(rng, 6, rng.choice(_FAULTS))


def _lines(rng: random.Random) -> bytes:
    return random_line_body(rng, 8, rng.choice(_FAULTS))


def _stream(rng: random.Random) -> bytes:
    return random_stream(rng, 3, 10, rng.choice(_FAULTS))


def _otlp(signal: str, is_json: bool) -> Maker:
    def make(rng: random.Random) -> bytes:
        found = spell(random_request(rng, signal, 3, rng.choice(_FAULTS)))
        return found.json if is_json else found.protobuf

    return make


_PROTOBUF = {"Content-Type": "application/x-protobuf"}
_JSON = {"Content-Type": "application/json"}

#: Path with query, headers, what makes a body, what spoils one.
DOORS: tuple[tuple[str, Mapping[str, str], Maker, Mutator], ...] = (
    ("/api/v1/write/msgpack", {}, _columns, trees.msgpack),
    ("/api/v1/write/msgpack", {"x-arc-time-unit": "ms"}, _rows, trees.msgpack),
    ("/api/v1/write/msgpack", {"x-arc-on-bad-rows": "quarantine"}, _columns, trees.msgpack),
    ("/write?db=fuzz&precision=ns", {}, _lines, lines),
    ("/api/v2/write?org=o&bucket=fuzz&precision=ms", {}, _lines, lines),
    ("/api/v1/write/line-protocol", {"x-arc-on-bad-rows": "quarantine"}, _lines, lines),
    ("/api/v1/write", {}, _lines, lines),
    ("/api/v1/write/influxdb?bucket=fuzz", {}, _lines, lines),
    ("/api/v1/write/arrow", {"x-arc-measurement": "arrow", "x-arc-tags": "v,w"}, _stream, arrow),
    *(
        (f"/v1/{signal}", headers, _otlp(signal, is_json), json_text if is_json else trees.protobuf)
        for signal in ("logs", "traces", "metrics")
        for headers, is_json in ((_PROTOBUF, False), (_JSON, True))
    ),
)
_READS = (
    "/ping",
    "/health",
    "/ready",
    "/api/v1/write/msgpack/spec",
    "/api/v1/databases",
    "/nothing",
)

_ODD_VALUES = (
    *(b"", b"0", b"-1", b"+5", b"5, 5", b"0x10", b"1e3", b"18446744073709551616", b"9" * 40, b"\0"),
    *(
        b"gzip",
        b"zstd",
        b"br",
        b"identity",
        b"gzip, zstd",
        b"chunked",
        b"chunked, chunked",
        b"xchunked",
    ),
    *(b"identity, chunked", b"100-continue", b"upgrade", b"h2c", b"close", b"keep-alive, close"),
    *(
        b"a" * 5_000,
        b"\xff\xfe",
        "größe".encode(),
        b"../../etc",
        b"%2e%2e%2f",
        b"a\tb",
        b"x y",
        b"'",
    ),
    *(b"application/json", b"application/x-protobuf; charset=utf-8", b"text/plain", b";;;", b"*/*"),
)
_HEADERS = (
    *(b"Content-Length", b"content-length", b"Transfer-Encoding", b"Content-Encoding", b"Host"),
    *(
        b"x-arc-database",
        b"x-arc-time-unit",
        b"x-arc-measurement",
        b"x-arc-tags",
        b"Idempotency-Key",
    ),
    *(
        b"Content-Type",
        b"Expect",
        b"Connection",
        b"Upgrade",
        b"Authorization",
        b"x-arc-on-bad-rows",
    ),
    *(b"", b"X" * 300, b"Bad Name", b"x\0y", b"\xff", b"Trailer", b"TE", b"Content-Length "),
)
_FIRST_LINES = (
    *(
        b"GET / HTTP/1.1",
        b"POST /api/v1/write/msgpack HTTP/1.0",
        b"POST /write HTTP/2.0",
        b"PRI * HTTP/2.0",
    ),
    *(
        b"POST  /write HTTP/1.1",
        b"POST /write",
        b"post /write HTTP/1.1",
        b"BREW /write HTTP/1.1",
        b"",
    ),
    *(
        b"POST /api/v1/write/../write/msgpack HTTP/1.1",
        b"POST //write HTTP/1.1",
        b"POST * HTTP/1.1",
    ),
    *(b"POST http://other/write HTTP/1.1", b"POST /%77rite HTTP/1.1", b"POST /write%00 HTTP/1.1"),
    *(
        b"POST /write?db=../../x HTTP/1.1",
        b"POST /write?db=%00&precision=%ff HTTP/1.1",
        b"\xff\xfe",
    ),
    *(
        b"POST /write?" + b"a=b&" * 3_000 + b" HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
    ),
    *(
        b"HEAD /ping HTTP/1.1",
        b"DELETE /api/v1/write HTTP/1.1",
        b"POST /" + b"a" * 9_000 + b" HTTP/1.1",
    ),
)
_ENDS = (b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\r\n", b"\0")


def request(rng: random.Random) -> bytes:
    """One request that is right, or nearly, to one of the doors."""
    if rng.random() < 0.05:
        method = rng.choice(("GET", "GET", "HEAD", "PUT"))
        return f"{method} {rng.choice(_READS)} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    path, headers, make, spoil = rng.choice(DOORS)
    body = make(rng)
    for _ in range(rng.choice((0, 0, 1, 2))):
        body = spoil(rng, body)
    return frame(rng, path, headers, _packed(rng, body))


def _packed(rng: random.Random, body: bytes) -> bytes:
    way = rng.random()
    if way < 0.7:
        return body
    body = gzip.compress(body, 1, mtime=0) if way < 0.85 else zstd.compress(body)
    return frames(rng, body) if rng.random() < 0.3 else body


def frame(rng: random.Random, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST of a body: of a stated length mostly, in chunks now and then."""
    head = [f"POST {path} HTTP/1.1", "Host: a", *(f"{name}: {headers[name]}" for name in headers)]
    if rng.random() < 0.1:
        head.append(f"x-arc-database: {rng.choice(('fuzz', 'Fuzz', 'default', '../x', 'é'))}")
    if rng.random() < 0.1:
        head.append(f"Idempotency-Key: {rng.randrange(20)}")
    if rng.random() < 0.03:
        head.append("Expect: 100-continue")
    if rng.random() < 0.8:
        return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
    text = "\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode()
    size = rng.choice((1, 7, 1000, len(body) or 1))
    pieces = [body[at : at + size] for at in range(0, min(len(body), 50 * size), size)]
    return text + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def session(rng: random.Random) -> bytes:
    """What a client sends over one connection: a request or three."""
    return b"".join(request(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def mutilate(rng: random.Random, sent: bytes) -> bytes:
    """The same with a head, a framing or a body that is not right."""
    head, separator, body = sent.partition(b"\r\n\r\n")
    rows = head.split(b"\r\n")
    way = rng.randrange(9)
    if way == 0:
        return plain(rng, sent)
    if way == 1:
        return head + separator + plain(rng, body)
    if way == 2:
        rows[0] = rng.choice(_FIRST_LINES)
    elif way in (3, 4):
        rows.insert(rng.randint(1, len(rows)), _odd_header(rng))
    elif way == 5 and len(rows) > 1:
        at = rng.randrange(1, len(rows))
        rows[at] = rows[at].partition(b":")[0] + b": " + rng.choice(_ODD_VALUES)
    elif way == 6 and len(rows) > 1:
        del rows[rng.randrange(1, len(rows))]
    elif way == 7:
        return rng.choice(_ENDS).join(rows) + separator + body
    else:
        rows += [_odd_header(rng)] * rng.choice((2, 200, 2_000))
    return b"\r\n".join(rows) + separator + body


def _odd_header(rng: random.Random) -> bytes:
    return rng.choice(_HEADERS) + rng.choice((b": ", b":", b" : ", b"")) + rng.choice(_ODD_VALUES)


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)


def is_whole(sent: bytes) -> bool:
    """Whether the bytes are so many whole requests, as far as a short look tells."""
    at = 0
    while at < len(sent):
        end = sent.find(b"\r\n\r\n", at) + 4
        if end < 4 or b"\0" in sent[at:end]:
            return False
        head = sent[at:end]
        lengths = _LENGTH.findall(head)
        if b"ransfer-" in head or len(lengths) > 1:
            return sent.endswith(b"\r\n0\r\n\r\n") and not lengths
        at = end + (int(lengths[0]) if lengths else 0)
    return at == len(sent)
