"""What becomes of rows after the call: each stage alone, then all of them, to a sink and a daemon.

In the order of the way: rows to encoded columns (`bench_encode`), compression, one request, a verb
that waits for its answer, data frames, log calls to a sink, log calls to the acknowledgement of a
daemon that has them on disk. Every row that a daemon acknowledged is read back from its Parquet
files: each call carries its own number, and each number must be there once.

    python -m benchmarks.client -k frame
    python -m benchmarks.client -k "end to end"
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arc.client import Client
from arc.client.batch import WRITE_MSGPACK
from benchmarks.client import bench_encode, peers
from benchmarks.client.bench_calls import FLUSH_TIMEOUT_S
from benchmarks.client.bench_encode import BATCH_ROWS, NS_HEADER, from_calls
from benchmarks.client.cases import MORE, Bench, Case, CheckError, Probe, Sample, expect, timed_ns
from benchmarks.client.peers import Work, by_requests, delivery, discard, request_rows
from benchmarks.client.tables import (
    FIELDS,
    SYMBOLS,
    TAGS,
    column_lists,
    numpy_columns,
    pandas_frame,
    polars_frame,
)
from benchmarks.load import daemon
from benchmarks.load.daemon import Daemon

_PANDAS, _POLARS = "write_dataframe, pandas", "write_dataframe, Polars"
_DURABLE, _P99 = "client.log to durable, one thread", "p99 of client.log meanwhile"
PANDAS, POLARS = f"frame: {_PANDAS}", f"frame: {_POLARS}"
QUESTDB_PANDAS, QUESTDB_POLARS = f"frame: {peers.QUESTDB_PANDAS}", f"frame: {peers.QUESTDB_POLARS}"
DURABLE, P99 = f"end to end: {_DURABLE}", f"end to end: {_P99}"

#: Rows between two looks at the clock, at full speed.
_STRETCH = 1_000
_STORED_TIMEOUT_S = 60.0


# ------------------------------------------------------------------------ bytes and requests


def encoded(rows: int) -> bytes:
    """A body of rows that were logged."""
    source = from_calls(rows)
    return b"".join(part.body for part in source.encode(source.sets[0]))


@contextmanager
def _compress(bench: Bench) -> Iterator[Probe]:
    from arc.client.compress import compress, decompress

    body = encoded(BATCH_ROWS)

    def work(times: int) -> None:
        for _ in range(times):
            compress(body, 0)

    def sample() -> Sample:
        times = max(1, bench.sizes.batches // 50)
        share = len(compress(body, 0)) / len(body)
        return timed_ns(work, times) / BATCH_ROWS, {"of its size": share}

    def check() -> None:
        expect("what was compressed, back again", bytes(decompress(compress(body, 0))), body)

    yield Probe(sample, check, check)


@contextmanager
def _send(bench: Bench) -> Iterator[Probe]:
    from arc.client.transport import Connection, Endpoint

    rows = bench.sizes.batch_rows
    body = encoded(rows)
    endpoint = Endpoint.parse(bench.sink.url)
    with contextlib.closing(Connection(endpoint, (), 5.0, 30.0)) as connection:

        def work(times: int) -> None:
            for _ in range(times):
                expect("status", connection.post(WRITE_MSGPACK, NS_HEADER, body).status, 204)

        def sample() -> float:
            requests = bench.sizes.requests
            bench.sink.reset()
            taken = timed_ns(work, requests)
            tally = bench.sink.tally()
            expect("requests", (tally.requests, tally.body_bytes), (requests, requests * len(body)))
            return taken / 1000

        def check() -> None:
            bench.sink.reset(keep=True)
            work(3)
            expect("rows at the sink", bench.sink.tally().rows, 3 * rows)

        yield Probe(sample, check)


def stages() -> list[Case]:
    """Compression, and one request, each alone."""
    return [
        Case("compress", "10 000 rows of calls", "ns/row", _compress),
        Case("send", "a request of 1 000 rows, one connection", "µs/request", _send),
    ]


# ----------------------------------------------------------------- verbs, answered by a sink


def _to_sink(
    group: str,
    name: str,
    rows_of: Callable[[Bench], int],
    make: Callable[[Client, int, int], Work],
) -> Case:
    """Work of a client as it is by default, which returns when the sink has answered.

    Args:
        group: Of the case.
        name: Of the case.
        rows_of: Rows of a sample.
        make: The work, for a client, the rows of a sample and the rows of a request.
    """

    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        rows = rows_of(bench)
        with Client(bench.sink.url) as client:
            yield delivery(bench, make(client, rows, bench.sizes.batch_rows), rows)

    return Case(group, name, "rows/s", open_it, MORE)


def _frame_rows(bench: Bench) -> int:
    return bench.sizes.frame_rows


def _pipeline_rows(bench: Bench) -> int:
    return bench.sizes.pipeline_rows


def _write_lists(client: Client, _rows: int, of_each: int) -> Work:
    columns = column_lists(of_each)
    return by_requests(lambda: client.write_columnar("cpu", columns, tags=SYMBOLS), of_each)


def _write_numpy(client: Client, _rows: int, of_each: int) -> Work:
    columns = numpy_columns(of_each)
    return by_requests(lambda: client.write_columnar("cpu", columns, tags=TAGS), of_each)


def columns() -> list[Case]:
    """Requests of 1 000 rows, one after another: encoded, sent, answered."""
    group, rows = "columns", request_rows
    return [
        _to_sink(group, "write_columnar, lists, 3 tags", rows, _write_lists),
        _to_sink(group, "write_columnar, NumPy", rows, _write_numpy),
        *peers.columnar_cases(),
    ]


def _write_frame(frame_of: Callable[[int], Any]) -> Callable[[Client, int, int], Work]:
    def make(client: Client, rows: int, _of_each: int) -> Work:
        for name in ("pandas", "polars"):
            peers.module(name)
        frame = frame_of(rows)
        return lambda _: client.write_dataframe(frame, "cpu", tags=SYMBOLS)

    return make


def frames() -> list[Case]:
    """Frames of seven columns, encoded, sent and answered; ours and the others' in turn."""
    return [
        _to_sink("frame", _PANDAS, _frame_rows, _write_frame(pandas_frame)),
        _to_sink("frame", _POLARS, _frame_rows, _write_frame(polars_frame)),
        *peers.frame_cases(),
    ]


def _log_and_flush(client: Client, _rows: int, _of_each: int) -> Work:
    def work(rows: int) -> None:
        for _ in range(rows):
            client.log("cpu", host="server042", region="eu-west1", user=1.5, system=2.5, idle=96.0)
        expect("flush", client.flush(FLUSH_TIMEOUT_S), True)

    return work


def _handle_and_flush(client: Client, _rows: int, _of_each: int) -> Work:
    cpu = client.series("cpu", TAGS, FIELDS)

    def work(rows: int) -> None:
        for _ in range(rows):
            cpu.log(1.5, 2.5, 96.0)
        expect("flush", client.flush(FLUSH_TIMEOUT_S), True)

    return work


def pipeline() -> list[Case]:
    """Rows by calls of one thread, until the sink has answered for the last of them."""
    group = "pipeline"
    return [
        _to_sink(group, "client.log, flush", _pipeline_rows, _log_and_flush),
        _to_sink(group, "handle, flush", _pipeline_rows, _handle_and_flush),
        *peers.pipeline_cases(),
    ]


# ------------------------------------------------------------------ to a daemon, and durable


@contextmanager
def _started(directory: Path) -> Iterator[Daemon]:
    flags = ["--durability", "disk", "--flush-age-s", "1", "--query-concurrency", "0"]
    found = daemon.start(directory / "data", flags, set())
    try:
        yield found
        expect("exit code of the daemon", found.stop()[0], 0)
    finally:
        found.abandon()


class Durable:
    """Rows of log calls to a daemon, sample by sample, and their numbers read back.

    The field `user` of a row is its number in its sample, and a sample is a measurement.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        """Args: `name` begins the names of its measurements."""
        self.daemon: Daemon = bench.once("daemon", lambda: _started(bench.directory))
        self._sizes, self._name = bench.sizes, name
        self._sent: dict[str, int] = {}
        host, port = self.daemon.address
        self.client = Client(f"http://{host}:{port}")

    def next_measurement(self) -> str:
        """The name for another sample."""
        return f"{self._name}_{len(self._sent)}"

    def settle(self, measurement: str, rows: int) -> None:
        """Wait until all rows are acknowledged, and remember how many there must be."""
        self._sent[measurement] = rows
        expect("flush", self.client.flush(FLUSH_TIMEOUT_S), True)
        stats = self.client.stats()
        expect("acknowledged rows", stats.acknowledged_rows, sum(self._sent.values()))

    def read_back(self) -> None:
        """Every number of every sample must be in the Parquet files, once.

        Raises:
            CheckError: a row is missing, doubled or foreign.
        """
        if not self.daemon.wait_until_stored(_STORED_TIMEOUT_S):
            raise CheckError(f"not everything is stored within {_STORED_TIMEOUT_S:g} s")
        for measurement, rows in self._sent.items():
            check_numbers(measurement, stored_numbers(self.daemon.data_dir, measurement), rows)


def check_numbers(measurement: str, found: NDArray[np.float64], rows: int) -> None:
    """Raise CheckError unless every number below `rows` is there once."""
    expect(f"rows of {measurement} in its files", len(found), rows)
    if not np.array_equal(np.sort(found), np.arange(rows)):
        raise CheckError(f"{measurement}: some numbers are missing, others are doubled")


def stored_numbers(root: Path, measurement: str) -> NDArray[np.float64]:
    """The column `user` of a measurement, of all its Parquet files: float64, shape (rows,)."""
    import pyarrow.parquet as pq

    from ingest.paths import TableId, table_dir

    files = sorted((root / table_dir(TableId("default", measurement))).glob("*/*/*/*/*.parquet"))
    parts = [pq.ParquetFile(file).read(columns=["user"])["user"].to_numpy() for file in files]
    empty: NDArray[np.float64] = np.empty(0)
    return np.concatenate([empty, *parts])


def _log_for(client: Client, measurement: str, seconds: float) -> int:
    """Log at full speed; return how many rows."""
    numbers, sent = itertools.count(0.0), 0
    deadline_s = time.perf_counter() + seconds
    while time.perf_counter() < deadline_s:
        for number in itertools.islice(numbers, _STRETCH):
            client.log(
                measurement,
                host="server042",
                region="eu-west1",
                user=number,
                system=2.5,
                idle=96.0,
            )
        sent += _STRETCH
    return sent


def _handle_for(client: Client, measurement: str, seconds: float) -> int:
    """The same by a handle."""
    series = client.series(measurement, TAGS, FIELDS)
    numbers, sent = itertools.count(0.0), 0
    deadline_s = time.perf_counter() + seconds
    while time.perf_counter() < deadline_s:
        for number in itertools.islice(numbers, _STRETCH):
            series.log(number, 2.5, 96.0)
        sent += _STRETCH
    return sent


def _durable(
    name: str, log_for: Callable[[Client, str, float], int]
) -> Callable[[Bench], AbstractContextManager[Probe]]:
    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        durable = Durable(bench, name)

        def sample(seconds: float = bench.sizes.end_to_end_s) -> Sample:
            measurement = durable.next_measurement()
            start = time.perf_counter()
            rows = log_for(durable.client, measurement, seconds)
            calls_s = time.perf_counter() - start
            durable.settle(measurement, rows)
            rate = rows / (time.perf_counter() - start)
            return rate, {"rows": rows, "rows/s taken": rows / calls_s}

        with durable.client:
            yield Probe(sample, lambda: discard(sample(0.05)), durable.read_back)

    return open_it


@contextmanager
def _p99(bench: Bench) -> Iterator[Probe]:
    """Each call timed by itself. The figure has the clock's own cost in it; it is told beside."""
    durable = Durable(bench, "timed")

    def sample(calls: int = bench.sizes.timed_calls) -> Sample:
        measurement = durable.next_measurement()
        taken, clock = _timed_calls(durable.client, measurement, calls), _timed_nothing(calls)
        durable.settle(measurement, calls)
        p50, p99, p999 = np.percentile(taken, [50, 99, 99.9])
        own = float(np.median(clock))
        return float(p99), {
            "clock ns": own,
            "p99 less it ns": float(p99) - own,
            "p50 ns": float(p50),
            "p99.9 ns": float(p999),
            "max ns": float(taken.max()),
        }

    with durable.client:
        yield Probe(sample, lambda: discard(sample(_STRETCH)), durable.read_back)


def _timed_calls(client: Client, measurement: str, calls: int) -> NDArray[np.int64]:
    """Nanoseconds of each call: int64, shape (calls,)."""
    clock, taken = time.perf_counter_ns, [0] * calls
    for i in range(calls):
        number = float(i)
        before = clock()
        client.log(
            measurement, host="server042", region="eu-west1", user=number, system=2.5, idle=96.0
        )
        taken[i] = clock() - before
    return np.array(taken)


def _timed_nothing(calls: int) -> NDArray[np.int64]:
    """The same loop around nothing: what the clock takes for itself."""
    clock, taken = time.perf_counter_ns, [0] * calls
    for i in range(calls):
        before = clock()
        taken[i] = clock() - before
    return np.array(taken)


def end_to_end() -> list[Case]:
    """From the call to an acknowledgement that stands for rows on disk."""
    group = "end to end"
    return [
        Case(group, _DURABLE, "rows/s", _durable("calls", _log_for), MORE),
        Case(
            group, "handle to durable, one thread", "rows/s", _durable("handle", _handle_for), MORE
        ),
        Case(group, _P99, "ns/call", _p99),
    ]


def cases() -> list[Case]:
    """Everything after the call."""
    return [*bench_encode.cases(), *stages(), *columns(), *frames(), *pipeline(), *end_to_end()]
