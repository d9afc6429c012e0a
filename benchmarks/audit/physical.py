"""What no program on this machine could beat: the same bytes with nothing done to them.

In: nothing. Out: nanoseconds of CPU a record of workload `c` for receiving its bytes over the
loopback interface, for reading and writing them once in memory, and for encoding its columns into
Parquet with nothing around the encoder. Each is a program of a few lines that does only that.

The three are what separates a stage that can still be mended from one that is at its limit.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.audit.schema import Figure, Share, measured
from benchmarks.bench_table_build import flush_batches, schema_of
from ingest import parquet
from ingest.table_build import build_tables

UNIT = "ns/row"
#: Workload c: bytes of a record on the wire, and rows of a request.
ROW_BYTES = 55
BODY_ROWS = 1_000
BODY_BYTES = ROW_BYTES * BODY_ROWS
#: Larger than any cache, so that it is memory that is measured.
COPY_BYTES = 128 * 2**20

#: What is fastest with pyarrow (docs/profiling/2026-11-20-parquet-settings.md).
WRITE_BATCH_ROWS = 65_536

LOOPBACK = "loopback receive"
MEMORY = "memory, one copy"
ENCODER = "Parquet encoder alone"


def limits(rows: int, repeats: int) -> tuple[Share, ...]:
    """All three.

    Args:
        rows: Of the table that is encoded, and of the bodies that are received.
        repeats: Of each; they alternate.
    """
    encode = encoder(rows)
    programs: dict[str, Callable[[], float]] = {
        LOOPBACK: lambda: receive_ns(max(1, rows // BODY_ROWS)),
        MEMORY: copier(),
        ENCODER: encode,
    }
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program()  # warm: pages, caches, code
    for _ in range(repeats):
        for name, program in programs.items():
            samples[name].append(program())
    return tuple(Share(name, _figure(values)) for name, values in samples.items())


def _figure(values: list[float]) -> Figure:
    """The least of the repeats: a limit is what cannot be beaten, and noise only adds."""
    return measured(UNIT, min(values), values)


def receive_ns(bodies: int) -> float:
    """CPU time of the receiving thread a record: `recv_into` and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = threading.Thread(target=_send, args=(listener.getsockname(), bodies))
        sender.start()
        connection, _ = listener.accept()
        room = bytearray(256 * 1024)
        left = bodies * BODY_BYTES
        with connection:
            before = time.thread_time()
            while left:
                left -= connection.recv_into(room)
            took_s = time.thread_time() - before
        sender.join()
    return took_s / (bodies * BODY_ROWS) * 1e9


def _send(address: tuple[str, int], bodies: int) -> None:
    body = bytes(BODY_BYTES)
    with socket.create_connection(address) as connection:
        for _ in range(bodies):
            connection.sendall(body)


def copier() -> Callable[[], float]:
    """What reads the bytes of records, writes them elsewhere, and tells CPU time a record."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8)

    def copy() -> float:
        before = time.thread_time()
        np.copyto(target, source)
        return (time.thread_time() - before) / COPY_BYTES * ROW_BYTES * 1e9

    return copy


def encoder(rows: int) -> Callable[[], float]:
    """What encodes a ready table of workload c into memory, and tells CPU time a record.

    By pyarrow's encoder and by the daemon's, whichever takes less. The options are those that the
    daemon would choose; choosing them is not in the time.
    """
    batches = flush_batches("c", "interleaved", rows)
    hours = build_tables(batches, schema_of(batches))
    planned = [(hour.table, parquet.plan(hour.table)) for hour in hours]

    def ours() -> None:
        for table, options in planned:
            parquet.write(table, pa.BufferOutputStream(), options)

    def pyarrows() -> None:
        for table, options in planned:
            _write_by_pyarrow(table, options)

    return lambda: min(_cpu_s(ours), _cpu_s(pyarrows)) / rows * 1e9


def _write_by_pyarrow(table: pa.Table, options: parquet.WriteOptions) -> None:
    pq.write_table(
        table,
        pa.BufferOutputStream(),
        use_dictionary=list(options.dictionary),
        column_encoding=options.encodings,
        compression=options.codecs,
        write_statistics=["time"],
        write_batch_size=WRITE_BATCH_ROWS,
        store_schema=False,
    )


def _cpu_s(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before
