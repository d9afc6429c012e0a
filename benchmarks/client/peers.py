"""Other clients, for the same work in the same run: rerun-sdk, questdb, arc-tsdb-client.

In: a sink. Out: each peer ready to send to it, or AbsentError when it is not installed. Nothing is
tuned against a peer: rerun writes to the null device, questdb's sender may speak its latest
protocol, arc-tsdb-client is measured with and without its compression. What is compared with what
is said beside each case, as no two of them mean the same by a row.

* rerun-sdk has no tags, and one entity path a call: `rr.log(path, Scalars(1.5))` is one number,
  `Scalars([…3])` three, `Transform3D` a translation and a 3 x 3 matrix.
* questdb's row of 3 symbols and 3 doubles is text in a buffer once the call returns: encoding is
  part of the call. So is the time, unless the server is to set it.
* arc-tsdb-client's `buffered.write` makes lists of one value and keeps them, under a lock.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from benchmarks.client.cases import (
    MORE,
    AbsentError,
    Bench,
    Case,
    CheckError,
    Probe,
    Sample,
    expect,
    timed,
    timed_ns,
)
from benchmarks.client.tables import SYMBOLS, column_lists, pandas_frame, polars_frame
from benchmarks.load.sink import BUFFER_BYTES

#: What installs a module, by its name: the distribution, and the extra that brings it.
INSTALLS = {
    "rerun": ("rerun-sdk", "peers"),
    "questdb": ("questdb", "clients"),
    "arc_client": ("arc-tsdb-client", "clients"),
    "pandas": ("pandas", "clients"),
    "polars": ("polars", "clients"),
}
RERUN, QUESTDB, TSDB = "rerun-sdk", "questdb", "arc-tsdb-client"

#: Cases that a target of ours is measured against.
RERUN_SCALAR = "rr.log(Scalars)"
QUESTDB_PANDAS = "Sender.dataframe, pandas"
QUESTDB_POLARS = "Sender.dataframe, Polars by to_pandas()"

#: More than any sample puts into a buffer before it is flushed.
_QUESTDB_BUFFER_BYTES = 1 << 30
_ENTITY = "/cpu/user"
_NEVER_S = 3600.0

#: Does something as often as it is told.
Work = Callable[[int], object]


def module(name: str) -> Any:
    """A package that is compared with.

    Raises:
        AbsentError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        distribution, extra = INSTALLS[name]
        raise AbsentError(f"{distribution} is not installed: pip install arc[{extra}]") from error


def rows_per_s(work: Work, rows: int) -> float:
    """Rows a second of work that handles `rows` of them at once."""
    return 1e9 / (timed_ns(lambda _: work(rows), 1) / rows)


# ----------------------------------------------------------------------------------- rerun


def _rerun_case(group: str, name: str, make: Callable[[Any, Any], Work]) -> Case:
    """A call of rerun's that logs one thing."""

    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        rerun = module("rerun")
        recording = rerun.RecordingStream("arc benchmark")
        recording.save(os.devnull)
        work = make(rerun, recording)

        def sample() -> Sample:
            taken = timed(work, bench.sizes.slow_calls)
            recording.flush()
            return taken

        yield Probe(sample, lambda: _check_rerun(rerun, bench, make))
        recording.disconnect()

    return Case(group, name, "ns/call", open_it, whose=RERUN)


def _check_rerun(rerun: Any, bench: Bench, make: Callable[[Any, Any], Work]) -> None:
    """The same into a file, whose rows are counted: the null device cannot be asked."""
    calls, file = 1_000, bench.directory / "check.rrd"
    recording = rerun.RecordingStream("arc benchmark")
    recording.save(file)
    make(rerun, recording)(calls)
    recording.flush()
    recording.disconnect()
    chunks = module("rerun.chunk").RrdReader(file).stream().to_chunks()
    found = sum(chunk.num_rows for chunk in chunks if str(chunk.entity_path) == _ENTITY)
    file.unlink()
    expect("rows in rerun's file", found, calls)


def rerun_scalar(rerun: Any, recording: Any) -> Work:
    """One double."""

    def work(times: int) -> None:
        for _ in range(times):
            rerun.log(_ENTITY, rerun.Scalars(1.5), recording=recording)

    return work


def rerun_three(rerun: Any, recording: Any) -> Work:
    """Three doubles in one batch of components."""

    def work(times: int) -> None:
        for _ in range(times):
            rerun.log(_ENTITY, rerun.Scalars([1.5, 2.5, 96.0]), recording=recording)

    return work


def rerun_transform(rerun: Any, recording: Any) -> Work:
    """A translation and a 3 x 3 matrix."""
    matrix = np.eye(3)

    def work(times: int) -> None:
        for _ in range(times):
            what = rerun.Transform3D(translation=[1.5, 2.5, 96.0], mat3x3=matrix)
            rerun.log(_ENTITY, what, recording=recording)

    return work


def rerun_text(rerun: Any, recording: Any) -> Work:
    """A line of text."""

    def work(times: int) -> None:
        for _ in range(times):
            rerun.log(_ENTITY, rerun.TextLog("connection reset by peer"), recording=recording)

    return work


# --------------------------------------------------------------------------------- questdb


@contextmanager
def questdb_sender(bench: Bench, *, auto_flush: bool = False) -> Iterator[Any]:
    """A sender of questdb over HTTP to the sink; it sends when told, or as it does by itself."""
    questdb = module("questdb")
    settings = f"http::addr=127.0.0.1:{bench.sink.port};max_buf_size={_QUESTDB_BUFFER_BYTES};"
    settings += "" if auto_flush else "auto_flush=off;"
    with questdb.Sender.from_conf(settings) as sender:
        yield sender


def questdb_rows(sender: Any, at: Callable[[], Any]) -> Work:
    """Rows of three symbols and three doubles, into the sender's buffer."""

    def work(times: int) -> None:
        for _ in range(times):
            sender.row(
                "cpu",
                symbols={"host": "server042", "region": "eu-west1", "env": "production"},
                columns={"user": 1.5, "system": 2.5, "idle": 96.0},
                at=at(),
            )

    return work


def _questdb_call(name: str, own_time: bool) -> Case:
    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        with questdb_sender(bench) as sender:
            questdb = module("questdb")
            at = questdb.TimestampNanos.now if own_time else lambda: questdb.ServerTimestamp
            work = questdb_rows(sender, at)

            def sample(calls: int = bench.sizes.calls) -> Sample:
                taken = timed(work, calls)
                _counted(bench, sender.flush, calls)
                return taken

            yield Probe(sample, lambda: discard(sample(1_000)))

    return Case("calls", name, "ns/call", open_it, whose=QUESTDB)


def discard(_: object) -> None:
    """A sample that was taken for its check alone."""


def _counted(bench: Bench, send: Callable[[], object], rows: int) -> None:
    """Send, and check that the sink took so many rows."""
    bench.sink.reset(keep=True)
    send()
    expect("rows at the sink", bench.sink.tally().rows, rows)


# --------------------------------------------------------------------------- arc-tsdb-client


@contextmanager
def tsdb_client(bench: Bench, *, compression: bool = True) -> Iterator[Any]:
    """arc-tsdb-client to the sink; it compresses unless it is told not to."""
    client = module("arc_client").ArcClient
    with client("127.0.0.1", bench.sink.port, "any", compression=compression) as opened:
        yield opened


def tsdb_rows(writer: Any) -> Work:
    """Rows of two tags and three doubles, into the writer's lists; it sets the time."""

    def work(times: int) -> None:
        for _ in range(times):
            writer.write(
                {
                    "measurement": "cpu",
                    "tags": {"host": "server042", "region": "eu-west1"},
                    "fields": {"user": 1.5, "system": 2.5, "idle": 96.0},
                }
            )

    return work


@contextmanager
def _tsdb_call(bench: Bench) -> Iterator[Probe]:
    with tsdb_client(bench) as client:
        # More rows than any sample writes: what is measured is the call, not the request.
        writer = client.write.buffered(sys.maxsize, _NEVER_S)
        work = tsdb_rows(writer)

        def sample(calls: int = bench.sizes.calls) -> Sample:
            taken = timed(work, calls)
            _counted(bench, writer.flush, calls)
            return taken

        yield Probe(sample, lambda: discard(sample(1_000)))


def call_cases() -> list[Case]:
    """What one row costs its caller."""
    return [
        _rerun_case("calls", RERUN_SCALAR, rerun_scalar),
        _rerun_case("calls", "rr.log(Scalars of 3)", rerun_three),
        _rerun_case("calls", "rr.log(Transform3D)", rerun_transform),
        _questdb_call("Sender.row, 3 symbols and 3 doubles, the server's time", False),
        _questdb_call("Sender.row, 3 symbols and 3 doubles, time now", True),
        Case("calls", "buffered.write, 2 tags and 3 doubles", "ns/call", _tsdb_call, whose=TSDB),
    ]


def construct_cases() -> list[Case]:
    """What a value costs to be made and logged, where a peer has a word for it."""
    return [
        _rerun_case("construct", "rr.log(Scalars(1.5))", rerun_scalar),
        _rerun_case("construct", "rr.log(Scalars([…3]))", rerun_three),
        _rerun_case("construct", "rr.log(Transform3D(3 x 3))", rerun_transform),
        _rerun_case("construct", "rr.log(TextLog(…))", rerun_text),
    ]


# ------------------------------------------------------------------------- whole pipelines


def _to_sink(
    group: str,
    name: str,
    whose: str,
    rows_of: Callable[[Bench], int],
    ready: Callable[[Bench], AbstractContextManager[Work]],
) -> Case:
    """Rows from a call until the sink has answered for them all."""

    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        with ready(bench) as work:
            yield delivery(bench, work, rows_of(bench))

    return Case(group, name, "rows/s", open_it, MORE, whose)


def delivery(bench: Bench, work: Work, rows: int) -> Probe:
    """A probe of work that delivers `rows` to the sink before it returns.

    The rows of a body are counted when it is checked. A sample is timed against a sink that only
    counts bytes, and of those there must be as many as in the check, to one part in a hundred:
    the bytes of compressed bodies and of times differ a little.
    """
    wanted_bytes = [0]

    def check() -> None:
        bench.sink.reset(keep=True)
        work(rows)
        tally = bench.sink.tally()
        expect("rows at the sink", tally.rows, rows)
        wanted_bytes[0] = tally.body_bytes

    def sample() -> tuple[float, dict[str, float]]:
        bench.sink.reset()
        rate = rows_per_s(work, rows)
        tally = bench.sink.tally()
        if abs(tally.body_bytes - wanted_bytes[0]) > max(wanted_bytes[0] // 100, BUFFER_BYTES // 8):
            raise CheckError(f"bytes at the sink: {tally.body_bytes}, once {wanted_bytes[0]}")
        return rate, {"bytes a row": tally.body_bytes / rows, "requests": tally.requests}

    return Probe(sample, check, check)


@contextmanager
def _questdb_pipeline(bench: Bench) -> Iterator[Work]:
    with questdb_sender(bench, auto_flush=True) as sender:
        row = questdb_rows(sender, module("questdb").TimestampNanos.now)

        def work(times: int) -> None:
            row(times)
            sender.flush()

        yield work


@contextmanager
def _tsdb_pipeline(bench: Bench) -> Iterator[Work]:
    with tsdb_client(bench, compression=False) as client:

        def work(times: int) -> None:
            with client.write.buffered() as writer:
                tsdb_rows(writer)(times)

        yield work


@contextmanager
def _rerun_pipeline() -> Iterator[Work]:
    rerun = module("rerun")
    recording = rerun.RecordingStream("arc benchmark")
    recording.save(os.devnull)
    log = rerun_scalar(rerun, recording)

    def work(times: int) -> None:
        log(times)
        recording.flush()

    yield work
    recording.disconnect()


@contextmanager
def _rerun_pipeline_probe(bench: Bench) -> Iterator[Probe]:
    rows = bench.sizes.slow_calls
    with _rerun_pipeline() as work:
        yield Probe(
            lambda: rows_per_s(work, rows),
            lambda: _check_rerun(module("rerun"), bench, rerun_scalar),
        )


def pipeline_cases() -> list[Case]:
    """Rows from a call, one thread, until the sink has answered for the last."""
    rows = _pipeline_rows
    return [
        _to_sink("pipeline", "Sender.row, flush", QUESTDB, rows, _questdb_pipeline),
        _to_sink("pipeline", "buffered.write, close, plain", TSDB, rows, _tsdb_pipeline),
        Case(
            "pipeline",
            "rr.log(Scalars), flush, null device",
            "rows/s",
            _rerun_pipeline_probe,
            MORE,
            RERUN,
        ),
    ]


def _pipeline_rows(bench: Bench) -> int:
    return bench.sizes.pipeline_rows


def _frame_rows(bench: Bench) -> int:
    return bench.sizes.frame_rows


# ----------------------------------------------------------------------------- data frames


def _questdb_frame(from_polars: bool) -> Callable[[Bench], AbstractContextManager[Work]]:
    @contextmanager
    def ready(bench: Bench) -> Iterator[Work]:
        for name in ("pandas", "polars") if from_polars else ("pandas",):
            module(name)
        source = (polars_frame if from_polars else pandas_frame)(bench.sizes.frame_rows)
        with questdb_sender(bench) as sender:

            def work(_rows: int) -> None:
                frame = source.to_pandas() if from_polars else source
                sender.dataframe(frame, table_name="cpu", symbols=list(SYMBOLS), at="time")
                sender.flush()

            yield work

    return ready


def _tsdb_frame(compression: bool) -> Callable[[Bench], AbstractContextManager[Work]]:
    @contextmanager
    def ready(bench: Bench) -> Iterator[Work]:
        module("pandas")
        frame = pandas_frame(bench.sizes.frame_rows)
        with tsdb_client(bench, compression=compression) as client:
            tags = list(SYMBOLS)
            yield lambda _rows: client.write.write_dataframe(frame, "cpu", tag_columns=tags)

    return ready


def _tsdb_columns(compression: bool) -> Callable[[Bench], AbstractContextManager[Work]]:
    @contextmanager
    def ready(bench: Bench) -> Iterator[Work]:
        of_each = bench.sizes.batch_rows
        columns = column_lists(of_each)
        with tsdb_client(bench, compression=compression) as client:
            yield by_requests(lambda: client.write.write_columnar("cpu", columns), of_each)

    return ready


def frame_cases() -> list[Case]:
    """Data frames of seven columns to the sink."""
    group, rows = "frame", _frame_rows
    return [
        _to_sink(group, QUESTDB_PANDAS, QUESTDB, rows, _questdb_frame(False)),
        _to_sink(group, QUESTDB_POLARS, QUESTDB, rows, _questdb_frame(True)),
        _to_sink(group, "write_dataframe, pandas, gzip", TSDB, rows, _tsdb_frame(True)),
        _to_sink(group, "write_dataframe, pandas, plain", TSDB, rows, _tsdb_frame(False)),
    ]


def request_rows(bench: Bench) -> int:
    """Rows of a sample of requests, a tenth of those that are only sent."""
    return bench.sizes.batch_rows * max(1, bench.sizes.requests // 10)


def by_requests(write: Callable[[], object], of_each: int) -> Work:
    """Work that writes so many rows at a time, and waits for each answer."""

    def work(rows: int) -> None:
        for _ in range(rows // of_each):
            write()

    return work


def columnar_cases() -> list[Case]:
    """Requests of 1 000 rows from lists, each answered before the next."""
    rows = request_rows
    return [
        _to_sink("columns", "write_columnar, lists, gzip", TSDB, rows, _tsdb_columns(True)),
        _to_sink("columns", "write_columnar, lists, plain", TSDB, rows, _tsdb_columns(False)),
    ]
