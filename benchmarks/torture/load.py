"""Mixed requests over several connections, and a ledger of what was answered to each.

In: an address, an `Options`. Out: a `Ledger`: for each request its rows, by (client, sequence),
and its outcome. A request is in the ledger before its first byte is sent, so that rows that were
stored without an answer are known. Everything about a row but its arrival time follows from
(client, sequence) and its `Request`. Nothing here looks at files or processes.
"""

from __future__ import annotations

import enum
import itertools
import json
import random
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ormsgpack
import zstandard
from numpy.typing import NDArray

WRITE_PATH = "/api/v1/write/msgpack"
MEASUREMENTS = ("cpu", "mem", "disk/io", "Net")
#: Columns that a request may have beside time, client and sequence. Further ones begin with `x`
#: (integers) or `w` (integers in some requests, floats in others).
COLUMNS = ("i", "f", "s", "n", "b")
#: Bodies with a time column lie within 40 minutes and their rows, around the end of an hour.
HOUR_END_US = 1_768_474_800_000_000
UNITS_US = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
#: Shares of small, middle and large requests, and their row counts.
ROW_COUNTS = ((0.6, 1, 10), (0.3, 11, 200), (0.1, 201, 2000))
#: Pause after a refusal, or before another attempt to connect.
BACKOFF_S = 0.02
REPLY_TIMEOUT_S = 30.0
_GZIP_WBITS = 31


class Outcome(enum.IntEnum):
    """What became of a request, as its client knows it."""

    UNKNOWN = 0  # sent in part or whole, and the connection died, or the answer was 409
    ACKNOWLEDGED = 1  # 204
    REFUSED = 2  # every attempt was answered with an error


class Part(NamedTuple):
    """Some rows of a request, of one measurement, after those of earlier parts."""

    measurement: str
    rows: int


@dataclass(slots=True)
class Request:
    """One request, and what became of it.

    Attributes:
        client: Unique in a ledger.
        first: Sequence number of its first row; those of the others follow without a gap.
        parts: What the body holds, in its order.
        columns: Names from `COLUMNS` or beginning with `x` or `w`; a row lacks all others.
        database: Where to.
        floats: Columns that begin with `w` hold floats, not integers.
        base_us: Time of the first row; None: the body has no time.
        step_us: From one row to the next.
        unit: Of the times in the body.
        states_unit: By a header; else the daemon has to tell it from the values.
        encoding: "", "gzip" or "zstd".
        form: 0: maps one after another, 1: an array of them, 2: a map with the key "batch".
        key: `Idempotency-Key`, or empty.
        outcome: As far as known.
        statuses: HTTP status of each attempt, 0 where the connection died.
        shard: Which worker answered, where that is known.
        sent_us: Wall clock before the first attempt.
        done_us: Wall clock after the last one; 0: never.
    """

    client: int
    first: int
    parts: tuple[Part, ...]
    columns: tuple[str, ...] = COLUMNS
    database: str = "torture"
    floats: bool = False
    base_us: int | None = None
    step_us: int = 1
    unit: str = "us"
    states_unit: bool = True
    encoding: str = ""
    form: int = 0
    key: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    statuses: list[int] = field(default_factory=list)
    shard: int | None = None
    sent_us: int = 0
    done_us: int = 0

    @property
    def count(self) -> int:
        """Number of rows over all parts."""
        return sum(part.rows for part in self.parts)


def mix(client: int, sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each row, 0 to 2**24 - 1, from which its values are made."""
    return (client * 2_654_435_761 + sequence * 40_503) & 0xFFFFFF


def values_of(request: Request, name: str, sequence: NDArray[np.int64]) -> Any:
    """The values of one column, for rows of a request: an array, or a list where some are nil."""
    mixed = mix(request.client, sequence)
    if name.startswith("w"):
        return mixed + 0.5 if request.floats else mixed * 2
    if name.startswith("x"):
        return mixed + 1
    if name == "i":
        return mixed
    if name == "f":
        return mixed / 8
    if name == "b":
        return mixed % 2 == 1
    pairs = zip(sequence.tolist(), mixed.tolist(), strict=True)
    if name == "n":
        return [None if seq % 3 == 0 else -value for seq, value in pairs]
    return [None if seq % 5 == 0 else f"s{value % 4096}" for seq, value in pairs]


def times_us(request: Request, sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """The times of rows of a request that states them, µs."""
    assert request.base_us is not None
    out: NDArray[np.int64] = request.base_us + (sequence - request.first) * request.step_us
    return out


def encode(request: Request) -> bytes:
    """The body as it is sent, compressed where the request says so."""
    maps, first = [], request.first
    for part in request.parts:
        sequence = np.arange(first, first + part.rows, dtype=np.int64)
        maps.append({"m": part.measurement, "columns": _columns(request, sequence)})
        first += part.rows
    body = _framed(maps, request.form)
    if request.encoding == "gzip":
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP_WBITS)
        return packer.compress(body) + packer.flush()
    return zstandard.compress(body, 1) if request.encoding == "zstd" else body


def _columns(request: Request, sequence: NDArray[np.int64]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if request.base_us is not None:
        times = times_us(request, sequence)
        unit_us = UNITS_US[request.unit]
        out["time"] = times // int(unit_us) if unit_us >= 1 else times * 1000
    out["client"] = np.full(len(sequence), request.client, dtype=np.int64)
    out["sequence"] = sequence
    return out | {name: values_of(request, name, sequence) for name in request.columns}


def _framed(maps: Sequence[dict[str, Any]], form: int) -> bytes:
    option = ormsgpack.OPT_SERIALIZE_NUMPY
    if form == 0:
        return b"".join(ormsgpack.packb(one, option=option) for one in maps)
    return ormsgpack.packb(list(maps) if form == 1 else {"batch": list(maps)}, option=option)


class Ledger:
    """Every request of one data directory, over any number of loads and of lives of the daemon."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._clients = itertools.count(1)

    def new_client(self) -> int:
        """A client id that was not given before."""
        return next(self._clients)

    def add(self, request: Request) -> None:
        """Note a request that is about to be sent. Any thread may."""
        self.requests.append(request)

    def outcomes(self) -> Counter[Outcome]:
        """Number of requests by outcome."""
        return Counter(request.outcome for request in list(self.requests))

    def statuses(self) -> Counter[int]:
        """Number of answers by HTTP status; 0: the connection died."""
        return Counter(status for request in list(self.requests) for status in request.statuses)

    def save(self, path: Path) -> None:
        """Write it as JSON lines, to be looked at when a verdict is bad."""
        with path.open("w") as file:
            file.writelines(json.dumps(asdict(request)) + "\n" for request in self.requests)


@dataclass(frozen=True)
class Options:
    """What a load is like.

    Attributes:
        seed: Of all its choices.
        connections: As many threads.
        rate: Requests/s over all of them, at most.
        databases: Among which requests are spread.
        measurements: Likewise.
        row_counts: (share, smallest, largest) number of rows of a request.
        keys: Send an `Idempotency-Key` with each request, and send it again until it is
            acknowledged, refused for good (4xx but 409), or the load stops.
        arrival: Some bodies have no time column.
        encodings: Among which requests are spread.
        extra_columns: Columns `x0` to `x{n-1}` and `w0` to `w{n-1}` come now and then, the last
            ones seldom. One more for each load on a data directory has tables change all along.
        know_shards: Find out which worker a connection is held by. Half of the connections ask
            (`GET /health`), for the others `find_shard` is asked.
        find_shard: From the local port of a connection to the shard that holds it, or None.
    """

    seed: int = 0
    connections: int = 6
    rate: float = 1500.0
    databases: tuple[str, ...] = ("torture",)
    measurements: tuple[str, ...] = MEASUREMENTS
    row_counts: tuple[tuple[float, int, int], ...] = ROW_COUNTS
    keys: bool = False
    arrival: bool = True
    encodings: tuple[str, ...] = ("", "", "gzip", "zstd")
    extra_columns: int = 1
    know_shards: bool = False
    find_shard: Callable[[int], int | None] | None = None


class Maker:
    """Makes the requests of one client, one after another, from a seed."""

    def __init__(self, client: int, options: Options) -> None:
        self._client = client
        self._options = options
        self._random = random.Random(f"{options.seed}/{client}")
        self._next = 0

    def make(self) -> Request:
        """The next request, not yet in a ledger."""
        chance, options = self._random, self._options
        parts = self._parts()
        unit = chance.choice(("s", "ms", "us", "ns"))
        unit_us = max(1, int(UNITS_US[unit]))
        base_us = HOUR_END_US + chance.randrange(-1200, 1200) * 1_000_000
        if unit_us < 1_000_000:
            base_us += chance.randrange(1000) * 1000
        request = Request(
            client=self._client,
            first=self._next,
            parts=parts,
            columns=self._columns(),
            database=chance.choice(options.databases),
            floats=chance.random() < 0.1,
            base_us=None if options.arrival and chance.random() < 0.15 else base_us,
            step_us=unit_us,
            unit=unit,
            states_unit=chance.random() < 0.5,
            encoding=chance.choice(options.encodings),
            form=chance.randrange(3),
            key=f"{self._client}-{self._next}" if options.keys else "",
        )
        self._next += request.count
        return request

    def _parts(self) -> tuple[Part, ...]:
        chance, counts = self._random, self._options.row_counts
        _, low, high = chance.choices(counts, [share for share, _, _ in counts])[0]
        left, parts = chance.randint(low, high), []
        for _ in range(chance.choice((0, 0, 0, 1, 2, 3))):
            if left > 1:
                parts.append(Part(self._measurement(), chance.randrange(1, left)))
                left -= parts[-1].rows
        return (*parts, Part(self._measurement(), left))

    def _measurement(self) -> str:
        return self._random.choice(self._options.measurements)

    def _columns(self) -> tuple[str, ...]:
        chance = self._random
        names = [name for name in COLUMNS if chance.random() < 0.8]
        for number in range(self._options.extra_columns):
            # The newest come late: a table gets them after it has files.
            rare = 0.3 if number + 1 < self._options.extra_columns else 0.02
            names += [f"{kind}{number}" for kind in "xw" if chance.random() < rare]
        return tuple(names)


class Reply(NamedTuple):
    """An answer. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Link:
    """One connection, kept open, plain HTTP/1.1.

    Attributes:
        port: The local one.
        shard: Which worker holds it, where known.
    """

    def __init__(self, address: tuple[str, int], timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Connect; raises OSError."""
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self.socket.getsockname()[1]
        self.shard: int | None = None
        self._received = b""

    def get(self, path: str) -> Reply:
        """Ask and wait; raises OSError when the connection dies or nothing comes in time."""
        return self._exchange(f"GET {path} HTTP/1.1\r\nHost: torture\r\n\r\n".encode())

    def post(self, request: Request, body: bytes) -> Reply:
        """Send a body and wait for the answer; raises OSError as `get` does."""
        return self._exchange(head_of(request, len(body)) + body)

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def _exchange(self, message: bytes) -> Reply:
        self.socket.sendall(message)
        while b"\r\n\r\n" not in self._received:
            self._read()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        size_bytes = int(headers.get("content-length", 0))
        while len(self._received) < size_bytes:
            self._read()
        body, self._received = self._received[:size_bytes], self._received[size_bytes:]
        return Reply(int(status_line.split(" ", 2)[1]), headers, body)

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the connection was closed")
        self._received += data


def head_of(request: Request, size_bytes: int) -> bytes:
    """The head of a request with a body of this size."""
    lines = [
        f"POST {WRITE_PATH} HTTP/1.1",
        "Host: torture",
        f"Content-Length: {size_bytes}",
        f"x-arc-database: {request.database}",
    ]
    if request.base_us is not None and request.states_unit:
        lines.append(f"x-arc-time-unit: {request.unit}")
    if request.encoding:
        lines.append(f"Content-Encoding: {request.encoding}")
    if request.key:
        lines.append(f"Idempotency-Key: {request.key}")
    return "\r\n".join([*lines, "", ""]).encode()


def settle(request: Request, status: int) -> None:
    """Note the answer to one attempt; 0: the connection died."""
    request.statuses.append(status)
    request.done_us = time.time_ns() // 1000
    if status == 204:
        request.outcome = Outcome.ACKNOWLEDGED
    elif request.outcome != Outcome.ACKNOWLEDGED:
        doubtful = any(old in (0, 409) for old in request.statuses)
        request.outcome = Outcome.UNKNOWN if doubtful else Outcome.REFUSED


class Load:
    """Threads that send, until they are told to stop.

    They outlive a daemon: set `address` to where the next one listens. A connection that cannot
    be made sends nothing and leaves nothing in the ledger.

        with Load(daemon.address, ledger, Options(seed=1)) as load:
            ...
            daemon.kill_tree()

    Attributes:
        address: Where new connections go.
        ledger: Gets every request.
    """

    def __init__(self, address: tuple[str, int], ledger: Ledger, options: Options) -> None:
        self.address = address
        self.ledger = ledger
        self.options = options
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(options.connections)
        ]

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> Ledger:
        """Send nothing more, wait for the answers under way, and return the ledger.

        Raises:
            BaseException: what ended a thread that should have gone on: a defect of ours.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return self.ledger

    def wait(self, seconds: float) -> None:
        """Let it run for a while; returns early when it is stopped."""
        self._stopping.wait(seconds)

    def wait_for(self, acknowledged: int, timeout_s: float = 30.0) -> bool:
        """Wait until so many requests of the ledger are acknowledged; False: not in time."""
        deadline_s = time.monotonic() + timeout_s
        while self.ledger.outcomes()[Outcome.ACKNOWLEDGED] < acknowledged:
            if time.monotonic() > deadline_s or self._errors:
                return False
            self._stopping.wait(0.01)
        return True

    def _run(self, number: int) -> None:
        try:
            _Sender(self, number, self._stopping).run()
        except BaseException as error:
            self._errors.append(error)


class _Sender:
    """One thread of a load: one client, one connection at a time."""

    def __init__(self, load: Load, number: int, stopping: threading.Event) -> None:
        self._load = load
        self._options = load.options
        self._number = number
        self._stopping = stopping
        self._maker = Maker(load.ledger.new_client(), load.options)
        self._link: Link | None = None

    def run(self) -> None:
        """Send one request after another, at the rate of this thread."""
        pause_s = self._options.connections / self._options.rate
        due_s = time.monotonic() + pause_s * self._number / self._options.connections
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            if self._connected():
                request = self._maker.make()
                self._send(request, encode(request))
            due_s = max(due_s + pause_s, time.monotonic() - 10 * pause_s)
        self._disconnect()

    def _connected(self) -> bool:
        """Whether there is a connection, made now if need be."""
        if self._link is None:
            try:
                self._link = Link(self._load.address)
                if self._options.know_shards:
                    self._link.shard = self._shard(self._link)
            except OSError:
                self._disconnect()
                self._stopping.wait(BACKOFF_S)
        return self._link is not None

    def _shard(self, link: Link) -> int | None:
        if self._number % 2 and self._options.find_shard is not None:
            return self._options.find_shard(link.port)
        return int(json.loads(link.get("/health").body)["shard"])

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None

    def _send(self, request: Request, body: bytes) -> None:
        request.sent_us = time.time_ns() // 1000
        self._load.ledger.add(request)
        while True:
            status = self._attempt(request, body) if self._connected() else None
            if status is not None:
                settle(request, status)
            if status == 204:
                return
            if status:  # told to come later, mostly
                self._stopping.wait(BACKOFF_S)
            final = status is not None and 400 <= status < 500 and status != 409
            if final or not self._options.keys or self._stopping.is_set():
                return

    def _attempt(self, request: Request, body: bytes) -> int:
        assert self._link is not None
        request.shard = self._link.shard
        try:
            reply = self._link.post(request, body)
        except OSError:
            self._disconnect()
            return 0
        if reply.headers.get("connection", "").lower() == "close":
            self._disconnect()
        return reply.status
