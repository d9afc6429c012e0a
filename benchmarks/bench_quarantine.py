"""What a request costs of which some rows fit no table, against one of which all do.

`encode`: 100 000 floats to MessagePack, by one strided copy and, as the twin, through a list of
Python floats. `lines`: 10 000 lines of line protocol, none of them bad, ten, half or all; the
first is what `ingest.decoders.decode` alone takes, and the others are judged, stored and kept.
`types`: lines that are good by themselves, and of which every other has a text for a number.

    python -m benchmarks.bench_quarantine
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from benchmarks.harness import Bench, main
from ingest import decoders
from ingest.assemble import assemble
from ingest.columnar_msgpack import encode
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.quarantine import Rewritten, rewrite, sift_body
from ingest.schema import NO_TABLE
from ingest.sift import Sieve
from ingest.timestamps import TimeUnit

FLOATS, LINES = 100_000, 10_000
NOW_US = 1_700_000_000_000_000
LIMITS = Limits()
HEAD = RecordHead(Format.LINE_PROTOCOL, "db", TimeUnit.NS, NOW_US)

GOOD = b"cpu,host=a,region=eu load=0.5,free=3i,used=12.25 1700000000000000000"
BAD = b"cpu,host=a,region=eu load=oops,free=3i,used=12.25 1700000000000000000"
TEXT = b'cpu,host=a,region=eu load="0.5",free=3i,used=12.25 1700000000000000000'


def float_batch() -> ColumnBatch:
    """One column of random doubles."""
    values = np.random.default_rng(1).random(FLOATS)
    return assemble(
        "cpu", FLOATS, {"v": Column(ColumnType.FLOAT64, values)}, frozenset(), NOW_US, None
    )


def encode_twin(batch: ColumnBatch) -> bytes:
    """As `encode`, with a Python object for each value."""
    columns: dict[str, Any] = {"time": batch.time_us.tolist()}
    columns |= {name: column.values.tolist() for name, column in batch.columns.items()}
    return msgspec.msgpack.encode({"m": batch.measurement, "columns": columns, "tags": []})


def lines(bad: bytes, every: int) -> bytes:
    """A body whose every so manieth line is a bad one; 0: none."""
    return b"\n".join([bad if every and i % every == 0 else GOOD for i in range(LINES)])


def judge(body: bytes) -> Rewritten:
    """All that is done with a body of which something is refused."""
    sieve = Sieve(lambda _: NO_TABLE, LIMITS)
    return rewrite(sift_body(HEAD, body, LIMITS, sieve), "line_protocol", NOW_US)


def benches() -> list[Bench]:
    """One for each question."""
    floats = float_batch()
    out = [
        _encoding("encode", lambda batch: encode([batch]), floats),
        _encoding("encode twin", encode_twin, floats),
    ]
    good = lines(GOOD, 0)
    out.append(
        Bench(
            "lines, decoded alone",
            lambda: decoders.decode(HEAD, good, LIMITS).batches,
            LINES,
            len(good),
            lambda batches: _check_rows(batches, LINES),
        )
    )
    for name, bad, every in (
        ("lines, none bad", BAD, 0),
        ("lines, 10 bad", BAD, LINES // 10),
        ("lines, half bad", BAD, 2),
        ("lines, all bad", BAD, 1),
        ("types, half bad", TEXT, 2),
    ):
        out.append(_judging(name, lines(bad, every)))
    return out


def _encoding(name: str, way: Callable[[ColumnBatch], bytes], batch: ColumnBatch) -> Bench:
    def check(body: bytes) -> None:
        head = RecordHead(Format.MSGPACK, "db", TimeUnit.US, 0)
        (found,) = decoders.decode(head, body, LIMITS).batches
        assert np.array_equal(found.columns["v"].values, batch.columns["v"].values)

    return Bench(name, lambda: way(batch), FLOATS, batch.nbytes, check)


def _judging(name: str, body: bytes) -> Bench:
    return Bench(
        name,
        lambda: judge(body),
        LINES,
        len(body),
        lambda rewritten: _check_rows(rewritten.batches, LINES),
    )


def _check_rows(batches: list[ColumnBatch], rows: int) -> None:
    assert sum(batch.num_rows for batch in batches) == rows


if __name__ == "__main__":
    raise SystemExit(main(benches()))
