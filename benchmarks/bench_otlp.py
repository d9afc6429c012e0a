"""OTLP log records, from the wire to Parquet: every stage alone, and all together.

A cell is a number of records (10 k, 250 k, 1 M), an encoding (protobuf, JSON), a compression (none,
gzip) and the records of a request (4 k, 16 k, 64 k). A record has a body of 250 bytes, 6 attributes
(three strings, an integer, a double, a boolean), severity, both times and both ids; a request has
one resource of 4 attributes and one scope. Stages: `decompress`, `decode`, `build` (Arrow tables,
sorted, as a flush has them: up to a million rows or 256 MiB at a time), `parquet` (plan and write,
to files); `all` is these four in one go; `pipeline` is every request through the real pipeline of a
table that is there already, from the compressed body to stored files and a commit, read back and
counted. `twin` is the plain decoder and `upb` what the protobuf library takes to parse, where there
are few records.

Rates are of CPU seconds of all threads of the process, which other work on the machine changes
little, and of seconds of the clock beside them. Bytes are those of the decompressed bodies. Peak
memory is what `pipeline` takes at most beyond the bodies themselves.

    python -m benchmarks.bench_otlp                       everything, some minutes
    python -m benchmarks.bench_otlp --quick               the cells of 10 k records
    python -m benchmarks.bench_otlp -k "250000 json"      some of them
    python -m benchmarks.bench_otlp --memory              peak memory of decoding by size of body
    python -m benchmarks.bench_otlp --json FILE           the results as JSON as well
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from isal import igzip
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from rich.console import Console
from rich.table import Table

from arc.memory import tune_heap
from benchmarks.bench_table_build import schema_of
from benchmarks.harness import environment, peak_rss_bytes, reset_peak_rss, rss_bytes
from ingest import parquet
from ingest.arrow_writer import WriterSettings
from ingest.columns import ColumnBatch
from ingest.decompress import decompress
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.otlp.decoder import decode
from ingest.otlp.fast import decode_fast
from ingest.otlp.plain import decode_plain
from ingest.otlp.request import Signal
from ingest.pipeline import Pipeline, PipelineSettings
from ingest.table_build import HourTable, build_tables

LIMITS = Limits()
START_NS = 1_768_473_000_000_000_000
STEP_NS = 1_000_003
#: Different records; requests repeat them at other times. With fewer, their bodies would fit into
#: a dictionary, which those of a real log do not.
TEMPLATES = 1 << 16
BODY_BYTES = 250
RECORDS = (10_000, 250_000, 1_000_000)
BATCHES = (4_096, 16_384, 65_536)
MAX_BODY_BYTES = 64 * 2**20
TABLE_WIDTH = 130
#: Records that make the table, before the others.
FIRST = 10

# --- bodies ------------------------------------------------------------------------------------

_WORDS = """
    GET POST user session cart checkout timeout retry upstream latency cache miss hit connection
    reset by peer query took rows returned from replica primary failed over to zone after payment
    accepted order shipped item not found in catalog page rendered template with warnings
""".split()  # noqa: SIM905 - shorter to read


@dataclass(frozen=True)
class Records:
    """Records without their times, in both encodings.

    Attributes:
        protobuf: What follows `time_unix_nano` and `observed_time_unix_nano`, which come first.
        json: What follows `"timeUnixNano":"…","observedTimeUnixNano":"…"`.
    """

    protobuf: list[bytes]
    json: list[str]


@functools.cache
def records(count: int = TEMPLATES, seed: int = 1) -> Records:
    """The templates."""
    rng = np.random.default_rng(seed)
    words = np.array(_WORDS)[rng.integers(0, len(_WORDS), (count, 60))].tolist()
    numbers = rng.integers(0, 1 << 40, (count, 3)).tolist()
    ids = rng.bytes(24 * count)
    durations = (rng.random(count) * 1000).tolist()
    out = Records([], [])
    for i in range(count):
        text = f"id={numbers[i][0]:x} {' '.join(words[i])}"[:BODY_BYTES].ljust(BODY_BYTES)
        attributes = {
            "http.request.method": ("stringValue", ("GET", "POST", "PUT")[i % 3]),
            "url.path": ("stringValue", f"/api/v1/items/{numbers[i][1] % 5000}"),
            "user.id": ("stringValue", f"u{numbers[i][2] % 100_000:06d}"),
            "http.response.status_code": ("intValue", (200, 404, 500)[i % 3]),
            "duration_ms": ("doubleValue", round(durations[i], 3)),
            "cache.hit": ("boolValue", i % 2 == 0),
        }
        trace, span = ids[24 * i : 24 * i + 16], ids[24 * i + 16 : 24 * i + 24]
        out.protobuf.append(_in_protobuf(text, attributes, trace, span))
        out.json.append(_in_json(text, attributes, trace, span))
    return out


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes((number << 3 | 2, *length, size)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def _any_value(kind: str, value: Any) -> bytes:
    if kind == "stringValue":
        return _field(1, value.encode())
    if kind == "doubleValue":
        return b"\x21" + np.float64(value).tobytes()
    return (b"\x18" if kind == "intValue" else b"\x10") + _varint(int(value))


def _in_protobuf(
    text: str, attributes: dict[str, tuple[str, Any]], trace: bytes, span: bytes
) -> bytes:
    pairs = b"".join(
        _field(6, _field(1, key.encode()) + _field(2, _any_value(*value)))
        for key, value in attributes.items()
    )
    head = b"\x10\x09" + _field(3, b"INFO") + _field(5, _any_value("stringValue", text))
    return head + pairs + _field(9, trace) + _field(10, span)


def _in_json(text: str, attributes: dict[str, tuple[str, Any]], trace: bytes, span: bytes) -> str:
    def said(kind: str, value: Any) -> Any:
        return {kind: str(value) if kind == "intValue" else value}

    record = {
        "severityNumber": 9,
        "severityText": "INFO",
        "body": {"stringValue": text},
        "attributes": [{"key": key, "value": said(*value)} for key, value in attributes.items()],
        "traceId": trace.hex(),
        "spanId": span.hex(),
    }
    return json.dumps(record, separators=(",", ":"))[1:]


_RESOURCE = {
    "service.name": "checkout",
    "service.version": "1.4.2",
    "host.name": "web-0017.eu-west-1",
    "deployment.environment": "production",
}


def request(first: int, count: int, is_json: bool) -> bytes:
    """A request of `count` records, from record `first` of the stream on."""
    made = records()
    times = range(START_NS + first * STEP_NS, START_NS + (first + count) * STEP_NS, STEP_NS)
    if is_json:
        return _json_request(made.json, times, first)
    rest = made.protobuf
    stamps = [b"\x09" + t.to_bytes(8, "little") + b"\x59" for t in times]
    found = [
        _field(2, stamps[i] + stamps[i][1:9] + rest[(first + i) % TEMPLATES]) for i in range(count)
    ]
    pairs = [
        _field(1, _field(1, key.encode()) + _field(2, _any_value("stringValue", value)))
        for key, value in _RESOURCE.items()
    ]
    scope = _field(1, _field(1, b"app.http") + _field(2, b"1.2.3"))
    group = _field(1, b"".join(pairs)) + _field(2, scope + b"".join(found))
    return _field(1, group)


def _json_request(rest: list[str], times: range, first: int) -> bytes:
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in _RESOURCE.items()]
    head = json.dumps({"attributes": pairs}, separators=(",", ":"))
    found = ",".join(
        f'{{"timeUnixNano":"{t}","observedTimeUnixNano":"{t}",{rest[(first + i) % TEMPLATES]}'
        for i, t in enumerate(times)
    )
    return (
        f'{{"resourceLogs":[{{"resource":{head},"scopeLogs":[{{"scope":'
        f'{{"name":"app.http","version":"1.2.3"}},"logRecords":[{found}]}}]}}]}}'
    ).encode()


# --- cells -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix."""

    num_records: int
    is_json: bool
    is_gzip: bool
    batch: int

    @property
    def name(self) -> str:
        """What `-k` matches."""
        encoding = "json" if self.is_json else "protobuf"
        return f"{self.num_records} {encoding} {'gzip' if self.is_gzip else 'none'} {self.batch}"

    def bodies(self) -> list[bytes]:
        """The requests, not compressed."""
        firsts = range(0, self.num_records, self.batch)
        counts = [min(self.batch, self.num_records - first) for first in firsts]
        return [request(f, n, self.is_json) for f, n in zip(firsts, counts, strict=True)]


def cells() -> list[Cell]:
    """All of them."""
    every = itertools.product(RECORDS, (False, True), (False, True), BATCHES)
    return [Cell(*each) for each in every]


@dataclass(frozen=True)
class Result:
    """One stage of one cell: medians over the repetitions, and the spread of the CPU seconds."""

    cell: str
    stage: str
    rows: int
    nbytes: int
    cpu_s: float
    wall_s: float
    spread: float
    peak_bytes: int = 0
    file_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Everything, derived figures included."""
        return asdict(self) | {
            "rows_per_cpu_s": self.rows / self.cpu_s,
            "rows_per_s": self.rows / self.wall_s,
            "bytes_per_cpu_s": self.nbytes / self.cpu_s,
        }


@dataclass(frozen=True)
class _Time:
    cpu_s: float
    wall_s: float


def timed(fn: Callable[[], Any]) -> tuple[_Time, Any]:
    """Run once, with the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        result = fn()
        return _Time(time.process_time() - cpu, time.perf_counter() - wall), result
    finally:
        gc.enable()


class Run:
    """Measures one cell."""

    def __init__(self, cell: Cell, repeats: int) -> None:
        self.cell = cell
        self.repeats = repeats
        self.plain = cell.bodies()
        self.nbytes = sum(map(len, self.plain))
        gzipped = cell.is_gzip
        self.sent = [igzip.compress(b, compresslevel=1) for b in self.plain] if gzipped else []

    def results(self) -> list[Result]:
        """Every stage."""
        found = []
        if self.sent:
            found.append(self._stage("decompress", self._decompress))
        found.append(self._stage("decode", self._decode))
        if self.cell.num_records == RECORDS[0] and not self.sent:
            found.append(self._stage("twin", self._twin))
            if not self.cell.is_json:
                found.append(self._stage("upb", self._parse))
        found += self._flush_stages()
        with tempfile.TemporaryDirectory() as folder:
            found.append(self._stage("all", lambda: self._straight(Path(folder))))
        found.append(self._pipeline())
        return found

    def _flush_stages(self) -> list[Result]:
        groups = list(self._groups(self.plain, ""))
        schema = schema_of(groups[0])
        built = self._stage("build", lambda: [build_tables(group, schema) for group in groups])
        tables = [table for group in groups for table in build_tables(group, schema)]
        with tempfile.TemporaryDirectory() as folder:
            return [built, self._stage("parquet", lambda: _write(tables, Path(folder)))]

    def _stage(self, stage: str, fn: Callable[[], Any]) -> Result:
        fn()
        times = [timed(fn)[0] for _ in range(self.repeats)]
        return self._result(stage, times)

    def _result(self, stage: str, times: Sequence[_Time], **more: int) -> Result:
        cpu = [each.cpu_s for each in times]
        middle = statistics.median(cpu)
        wall = statistics.median(each.wall_s for each in times)
        spread = (max(cpu) - min(cpu)) / middle
        rows = self.cell.num_records
        return Result(self.cell.name, stage, rows, self.nbytes, middle, wall, spread, **more)

    def _decompress(self) -> None:
        for body in self.sent:
            decompress(body, "gzip", MAX_BODY_BYTES)

    def _decode(self) -> None:
        rows = 0
        for body in self.plain:
            found = decode_fast(body, Signal.LOGS, self.cell.is_json, 0, LIMITS)
            assert found is not None, "the fast path leaves it to the plain decoder"
            rows += found[0].num_rows
        assert rows == self.cell.num_records

    def _twin(self) -> None:
        for body in self.plain:
            decode_plain(body, Signal.LOGS, self.cell.is_json, 0, LIMITS)

    def _parse(self) -> None:
        for body in self.plain:
            ExportLogsServiceRequest.FromString(body)

    def _groups(self, bodies: Sequence[bytes], encoding: str) -> Iterator[list[ColumnBatch]]:
        """What each flush would take."""
        settings, pending = WriterSettings(), list[ColumnBatch]()
        for sent in bodies:
            body = decompress(sent, encoding, MAX_BODY_BYTES)
            pending += decode(body, Signal.LOGS, self.cell.is_json, 0, LIMITS).batches
            rows = sum(batch.num_rows for batch in pending)
            nbytes = sum(batch.nbytes for batch in pending)
            if rows >= settings.flush_rows or nbytes >= settings.flush_bytes:
                yield pending
                pending = []
        if pending:
            yield pending

    def _straight(self, folder: Path) -> None:
        """All stages, one after another, without a log, a buffer or a table around them."""
        bodies, encoding = (self.sent, "gzip") if self.sent else (self.plain, "")
        for group in self._groups(bodies, encoding):
            _write(build_tables(group, schema_of(group)), folder)

    def _pipeline(self) -> Result:
        """Through the pipeline; what was stored is read back and counted each time."""
        bodies, encoding = (self.sent, "gzip") if self.sent else (self.plain, "")
        times, peak, size = [], 0, 0
        for _ in range(self.repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                reset_peak_rss()
                before = rss_bytes()
                took = asyncio.run(_store(Path(folder), bodies, encoding, self.cell.is_json))
                peak = max(peak, peak_rss_bytes() - before)
                size = _read_back(Path(folder), self.cell.num_records)
            times.append(took)
        return self._result("pipeline", times[1:], peak_bytes=peak, file_bytes=size)


def _write(tables: Sequence[HourTable], folder: Path) -> None:
    for i, hour in enumerate(tables):
        parquet.write(hour.table, folder / f"{i}.parquet", parquet.plan(hour.table))


async def _store(folder: Path, bodies: Sequence[bytes], encoding: str, is_json: bool) -> _Time:
    """Take every request, and store its rows."""
    settings = PipelineSettings(folder, 0, 2**34, 0, WriterSettings(), LIMITS, "memory")
    pipeline = Pipeline(settings, null())
    pipeline.start()
    await pipeline.recover()
    head = RecordHead(Format.OTLP_LOGS_JSON if is_json else Format.OTLP_LOGS, "bench", None, 0)
    first = decode(request(-FIRST, FIRST, is_json), Signal.LOGS, is_json, 0, LIMITS).batches
    made = pipeline.write(head, b"", first)  # makes the table
    assert not isinstance(made, int)
    await made
    wall, cpu = time.perf_counter(), time.process_time()
    for sent in bodies:
        body = decompress(sent, encoding, MAX_BODY_BYTES)
        batches = decode(body, Signal.LOGS, is_json, 0, LIMITS).batches
        accepted = pipeline.write(head, sent, batches)
        if not isinstance(accepted, int):
            await accepted
        await asyncio.sleep(0)  # flushes start on the loop
    await pipeline.drain()
    took = _Time(time.process_time() - cpu, time.perf_counter() - wall)
    pipeline.close()
    return took


def _read_back(folder: Path, num_records: int) -> int:
    """Count the stored rows, and look at their times; bytes of the files."""
    paths = list(folder.glob("bench/**/*.parquet"))
    times = [pq.read_table(path, columns=["time"]).column("time") for path in paths]
    stored = np.sort(np.concatenate([each.to_numpy().astype(np.int64) for each in times]))
    sent = START_NS + STEP_NS * np.arange(-FIRST, num_records)
    assert np.array_equal(stored, sent // 1000), "rows are missing, or not as they were sent"
    return sum(path.stat().st_size for path in paths)


# --- memory ------------------------------------------------------------------------------------


def report_memory(console: Console) -> list[dict[str, Any]]:
    """Peak memory of decoding one body, fast and plain, beside its size."""
    out = Table(box=None, pad_edge=False)
    for header in ("body MiB", "encoding", "decoder", "peak MiB", "bytes a byte of body"):
        out.add_column(header, justify="right")
    found = []
    for is_json, mib in itertools.product((False, True), (1, 16, 64)):
        sample = len(request(0, 1000, is_json)) / 1000
        body = request(0, int(mib * 2**20 / sample), is_json)
        for is_fast in (True, False):
            peak = _peak_of(body, is_json, is_fast)
            encoding, way = "json" if is_json else "protobuf", "fast" if is_fast else "plain"
            found.append({"body": len(body), "json": is_json, "way": way, "peak": peak})
            row = (f"{len(body) / 2**20:.1f}", encoding, way, f"{peak / 2**20:.1f}")
            out.add_row(*row, f"{peak / len(body):.2f}")
    console.print(out)
    return found


def _peak_of(body: bytes, is_json: bool, is_fast: bool) -> int:
    """Growth of the resident memory of a new process when it decodes a body, result included."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        with get_context("spawn").Pool(1) as pool:
            return pool.apply(_decode_file, (file.name, is_json, is_fast))


def _decode_file(path: str, is_json: bool, is_fast: bool) -> int:
    way = decode_fast if is_fast else decode_plain
    way(b"{}" if is_json else b"", Signal.LOGS, is_json, 0, LIMITS)  # loads the kernels
    body = Path(path).read_bytes()
    gc.collect()
    reset_peak_rss()
    before = rss_bytes()
    result = way(body, Signal.LOGS, is_json, 0, LIMITS)
    assert result
    return peak_rss_bytes() - before


# --- the runner --------------------------------------------------------------------------------


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="OTLP log records to Parquet, by stage.")
    parser.add_argument("-k", metavar="WORDS", default="", help="only cells with WORDS in the name")
    parser.add_argument("--quick", action="store_true", help="only the cells of 10 k records")
    parser.add_argument("--memory", action="store_true", help="peak memory by size of body instead")
    parser.add_argument("--repeats", type=int, default=3, help="samples of each stage (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    return parser.parse_args(argv)


def _table(results: Sequence[Result]) -> Table:
    out = Table(box=None, pad_edge=False)
    headers = ("cell", "stage", "ns CPU/row", "spread", "rows/CPU s")
    for header in (*headers, "rows/s", "MB/CPU s", "peak MB", "bytes/row stored"):
        out.add_column(header, justify="left" if header in headers[:2] else "right")
    for r in results:
        out.add_row(
            r.cell,
            r.stage,
            f"{r.cpu_s / r.rows * 1e9:,.0f}",
            f"{r.spread:.0%}",
            f"{r.rows / r.cpu_s:,.0f}",
            f"{r.rows / r.wall_s:,.0f}",
            f"{r.nbytes / r.cpu_s / 1e6:,.0f}",
            f"{r.peak_bytes / 1e6:,.0f}" if r.peak_bytes else "",
            f"{r.file_bytes / r.rows:.0f}" if r.file_bytes else "",
        )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the cells that the command line picks.

    Returns:
        Exit code: 0, or 1 when a result was wrong or nothing matched.
    """
    args, console = _parse(argv), Console()
    console.width = max(console.width, TABLE_WIDTH)
    report: dict[str, Any] = {"environment": environment()}
    if args.memory:
        report["memory"] = report_memory(console)
    else:
        chosen = [cell for cell in cells() if args.k in cell.name]
        chosen = [cell for cell in chosen if not args.quick or cell.num_records == RECORDS[0]]
        if not chosen:
            console.print(f"no cell has {args.k!r} in its name; one is {cells()[0].name!r}")
            return 1
        results: list[Result] = []
        for cell in chosen:
            try:
                results += Run(cell, args.repeats).results()
            except AssertionError as error:
                console.print(f"{cell.name}: a result is wrong: {error!r}")
                return 1
        console.print(_table(results))
        report["results"] = [result.to_dict() for result in results]
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    tune_heap()  # as a worker does: without it every array is mapped and touched anew
    raise SystemExit(main())
