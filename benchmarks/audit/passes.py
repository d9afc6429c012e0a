"""One pass of requests through the real pipeline, to Parquet files that are read back.

In: the requests of a cell. Out: what they took: CPU and wall time from the first byte to the
commit of the last file, the time of each request until its rows were accepted; and what is wrong
with the files. Level `memory`: no log. HTTP is not in it. Compressing is the client's and is not
timed, nor is making the table.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.audit.bodies import DATABASE, MAX_BODY_BYTES, Body, Requests, times_us
from ingest.arrow_writer import WriterSettings
from ingest.decoders import decode, decode_fast
from ingest.decompress import decompress
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import RecordHead
from ingest.pipeline import Pipeline, PipelineSettings

LIMITS = Limits()
#: More than any pass needs: what a full budget does is another benchmark.
MEMORY_BYTES = 2**34
#: Rows that make the table before the others, long before them.
FIRST_ROWS = 10
FIRST_AT = -1_000

#: Runs around the part of a pass that counts; what it returns is kept.
Around = Callable[[Callable[[], None]], Any]


@dataclass(frozen=True)
class Pass:
    """What one pass took.

    Attributes:
        rows: Of all requests.
        cpu_s: All threads of this process.
        wall_s: By the clock.
        request_us: Of each request, from its bytes to its acceptance.
        wrong: What was read back and is not as it was sent; empty: nothing.
    """

    rows: int
    cpu_s: float
    wall_s: float
    request_us: list[float]
    wrong: str


def run_pass(requests: Requests, check: bool = True) -> Pass:
    """Take every request, store its rows, read them back."""
    sent = [requests.sent(i) for i in range(len(requests))]
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as name:
        folder = Path(name)
        with quiet_collector():
            cpu_s, wall_s, request_us = asyncio.run(_store(folder, requests, sent))
        wrong = differences(folder, requests) if check else ""
    return Pass(requests.num_rows, cpu_s, wall_s, request_us, wrong)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No collection of cycles meanwhile, as `timeit` does."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _store(
    folder: Path, requests: Requests, sent: Sequence[bytes]
) -> tuple[float, float, list[float]]:
    head = requests.head()
    async with opened(folder) as pipeline:
        await make_table(pipeline, requests.cell.format)
        wall, cpu = time.perf_counter(), time.process_time()
        request_us = [await accept(pipeline, head, body) for body in sent]
        await pipeline.drain()
        return time.process_time() - cpu, time.perf_counter() - wall, request_us


class opened:  # noqa: N801 - a context manager, used like a function
    """A pipeline of the level `memory` on an empty folder, closed at the end."""

    def __init__(self, folder: Path) -> None:
        settings = PipelineSettings(folder, 0, MEMORY_BYTES, 0, WriterSettings(), LIMITS, "memory")
        self._pipeline = Pipeline(settings, null())

    async def __aenter__(self) -> Pipeline:
        self._pipeline.start()
        await self._pipeline.recover()
        return self._pipeline

    async def __aexit__(self, *_: object) -> None:
        self._pipeline.close()


async def make_table(pipeline: Pipeline, format_: str) -> None:
    """Send a few rows, which loads kernels and makes the table, and store them."""
    first = Body(format_, FIRST_ROWS)
    await accept(pipeline, first.head(), first.at(FIRST_AT))
    await pipeline.drain()


async def accept(pipeline: Pipeline, head: RecordHead, sent: bytes) -> float:
    """As a door does it: decompress, decode, write. µs until the rows are accepted."""
    started_ns = time.perf_counter_ns()
    body = decompress(sent, "", MAX_BODY_BYTES)
    decoded = decode_fast(head, body, LIMITS) or decode(head, body, LIMITS)
    accepted = pipeline.write(head, sent, decoded.batches)
    if not isinstance(accepted, int):
        await accepted
    took_us = (time.perf_counter_ns() - started_ns) / 1000
    await asyncio.sleep(0)  # flushes start on the loop
    return took_us


# --- what was stored ---------------------------------------------------------------------------


def differences(folder: Path, requests: Requests) -> str:
    """Compare the files with what was sent: every time, and every value of two requests."""
    table = _stored(folder)
    first = min(requests.firsts)
    times = np.asarray(table.column("time")).astype(np.int64)
    sent = np.concatenate(
        [times_us(FIRST_AT, FIRST_ROWS), times_us(first, requests.num_rows)], dtype=np.int64
    )
    if not np.array_equal(times, sent):
        return f"{requests.cell.name}: {len(sent):,} rows were sent, {len(times):,} are stored" + (
            ", with other times" if len(times) == len(sent) else ""
        )
    for index in {0, len(requests) - 1}:
        body = requests.bodies[requests.sizes[index]]
        rows = table.slice(FIRST_ROWS + requests.firsts[index], body.num_rows)
        for name in body.columns:
            if name != "time" and not _same(rows, name, body):
                return f"{requests.cell.name}: column {name!r} of request {index} differs"
    return ""


def _stored(folder: Path) -> pa.Table:
    """All rows, in the order of time."""
    paths = sorted((folder / DATABASE).glob("*/*/*/*/*/*.parquet"))
    tables = [pq.ParquetFile(path).read() for path in paths]
    tables.sort(key=lambda table: table.column("time")[0].value)
    whole = pa.concat_tables(tables, promote_options="permissive")
    times = np.asarray(whole.column("time")).astype(np.int64)
    if np.all(times[1:] >= times[:-1]):
        return whole
    return whole.take(pa.array(np.argsort(times, kind="stable"), pa.int64()))


def _same(rows: pa.Table, name: str, body: Body) -> bool:
    """Whether a stored column holds what was sent, nulls included."""
    if name not in rows.column_names:
        return False
    sent = pa.array(body.columns[name])
    found = rows.column(name).combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = pa.concat_arrays(found.chunks)
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    if pa.types.is_floating(found.type):
        sent = sent.cast(found.type)
    return bool(found.cast(sent.type).equals(sent))


# --- the part that counts, under something that watches ------------------------------------------


def watched_pass(requests: Requests, around: Around) -> Any:
    """One pass whose counted part runs inside `around`, which gets it to call.

    A profiler that is on while a table is made would count that too.
    """
    sent = [requests.sent(i) for i in range(len(requests))]
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as name:
        runner = asyncio.Runner()
        with runner:
            made = opened(Path(name))
            pipeline = runner.run(made.__aenter__())
            runner.run(make_table(pipeline, requests.cell.format))
            try:
                return around(lambda: runner.run(_take(pipeline, requests.head(), sent)))
            finally:
                runner.run(made.__aexit__())


async def _take(pipeline: Pipeline, head: RecordHead, sent: Sequence[bytes]) -> None:
    for body in sent:
        await accept(pipeline, head, body)
    await pipeline.drain()
