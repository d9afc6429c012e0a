"""Decompress the body of a request, with the libraries that can: what gzip and zstd cost a worker.

`ours` is what the daemon does, cap and header checks included. A body is one of workload `a`,
1 000 rows of seven columns, as agents send it: gzip at level 6 or 1, zstd at level 3.

    python -m benchmarks.bench_decompress
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

from backports import zstd
from isal import igzip, isal_zlib

from benchmarks.data import workload_body
from benchmarks.harness import Bench, main
from ingest.decompress import decompress

ROWS = 1_000
CAP_BYTES = 64 * 2**20


def benches() -> list[Bench]:
    """Each compression, by each library."""
    body = workload_body("a", ROWS)
    ways: list[tuple[str, bytes, Callable[[bytes], bytes]]] = []
    for level in (1, 6):
        packed = gzip.compress(body, level, mtime=0)
        ways += [
            (f"gzip {level}: ours", packed, lambda data: decompress(data, "gzip", CAP_BYTES)),
            (f"gzip {level}: isal", packed, igzip.decompress),
            (f"gzip {level}: isal, one call", packed, lambda data: isal_zlib.decompress(data, 31)),
            (f"gzip {level}: zlib", packed, lambda data: zlib.decompress(data, 31)),
        ]
    packed = zstd.compress(body, 3)
    ways += [
        ("zstd 3: ours", packed, lambda data: decompress(data, "zstd", CAP_BYTES)),
        ("zstd 3: backports.zstd, one call", packed, zstd.decompress),
    ]
    return [_bench(name, packed, body, undo) for name, packed, undo in ways]


def _bench(name: str, packed: bytes, body: bytes, undo: Callable[[bytes], bytes]) -> Bench:
    def check(found: bytes) -> None:
        assert found == body

    return Bench(f"{name} ({len(packed)} B)", lambda: undo(packed), ROWS, len(body), check)


if __name__ == "__main__":
    raise SystemExit(main(benches()))
