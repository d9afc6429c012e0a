"""What it costs to compress an answer: codec and level, of Arrow batches and of JSON rows.

The codings of `arc.query.encoding`, and their neighbours. A row of the table is a row of the
answer; bytes are those before compression; the name has the share that is left of them.

    python -m benchmarks.bench_query_answers
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from backports import zstd
from isal import isal_zlib

from benchmarks.harness import Bench, main
from ingest.query.answers import ArrowEncoder, RowEncoder

ROWS = 65_536
START_US = 1_790_000_000_000_000


def batch() -> pa.RecordBatch:
    """One batch of an answer: a time, a tag, two doubles, an integer."""
    rng = np.random.default_rng(0)
    times = START_US + np.arange(ROWS) * 1_000_000
    return pa.record_batch(
        {
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "host": pa.array([f"host-{number % 100:03d}" for number in range(ROWS)]),
            "usage": np.round(rng.normal(50, 10, ROWS), 2),
            "load": rng.random(ROWS),
            "n": rng.integers(0, 1_000, ROWS),
        }
    )


def codecs() -> dict[str, Callable[[bytes], bytes]]:
    """By name and level."""
    found: dict[str, Callable[[bytes], bytes]] = {
        "zlib 1": functools.partial(zlib.compress, level=1)
    }
    for level in (-5, 1, 3):
        found[f"zstd {level}"] = functools.partial(zstd.compress, level=level)
    for level in (0, 1, 2, 3):
        found[f"isal {level}"] = functools.partial(isal_zlib.compress, level=level)
    return found


def benches() -> list[Bench]:
    """Every codec on both kinds of answer."""
    rows = batch()
    bodies = {
        "arrow": bytes(ArrowEncoder(rows.schema).encode(rows)),
        "json": RowEncoder(is_json=True).encode(rows),
    }
    out = []
    for kind, body in bodies.items():
        for name, compress in codecs().items():
            left = len(compress(body)) / len(body)
            undo = zstd.decompress if name.startswith("zstd") else zlib.decompress

            def check(
                made: bytes, body: bytes = body, undo: Callable[[bytes], bytes] = undo
            ) -> None:
                assert undo(made) == body

            def run(compress: Callable[[bytes], bytes] = compress, body: bytes = body) -> bytes:
                return compress(body)

            out.append(Bench(f"{kind} {name} {left:.2f}", run, ROWS, len(body), check))
    return out


if __name__ == "__main__":
    raise SystemExit(main(benches()))
