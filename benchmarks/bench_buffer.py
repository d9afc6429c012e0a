"""What it costs to accept a decoded request: schema check, budget, append, counters.

Nothing is flushed: the rows are taken out of the buffers again outside of what is timed, as a
flush would.

    python -m benchmarks.bench_buffer
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.data import workload_body
from benchmarks.harness import Bench, main
from ingest.arrow_writer import WriterSettings
from ingest.columns import ColumnBatch
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.pipeline import Pipeline, PipelineSettings

HEAD = RecordHead(Format.MSGPACK, "bench", None, 0)
REQUESTS = 1_000
ROWS = 1_000


class Fresh:
    """Makes a pipeline that knows its tables and holds no rows, one at a time."""

    def __init__(self, folder: str, batches: list[ColumnBatch]) -> None:
        self._folder = Path(folder)
        self._batches = batches
        self._last: Pipeline | None = None

    def __call__(self) -> Pipeline:
        """Close the last one, and make another."""
        if self._last is not None:
            self._last.close()
        settings = PipelineSettings(
            self._folder, 0, 2**40, 0, WriterSettings(flush_rows=2**40), Limits(), "memory"
        )
        self._last = asyncio.run(self._opened(settings))
        return self._last

    async def _opened(self, settings: PipelineSettings) -> Pipeline:
        pipeline = Pipeline(settings, null())
        pipeline.start()
        await pipeline.recover()
        first = pipeline.write(HEAD, b"", self._batches)
        assert not isinstance(first, int)
        await first
        return pipeline

    def accept(self, pipeline: Pipeline) -> int:
        """Accept the same request many times; how many rows that were."""
        accepted = (pipeline.write(HEAD, b"", self._batches) for _ in range(REQUESTS))
        return sum(rows for rows in accepted if isinstance(rows, int))


def benches(folder: str) -> list[Bench]:
    """Requests of one batch, and of ten batches for ten measurements."""
    one = decode(workload_body("c", ROWS), 0, Limits())
    ten = [
        ColumnBatch(f"m{i}", one[0].time_us, one[0].columns, one[0].tags, one[0].nbytes)
        for i in range(10)
    ]
    out = []
    for name, batches in (("1 batch of 6 columns", one), ("10 batches of 6 columns", ten)):
        rows = REQUESTS * ROWS * len(batches)
        nbytes = REQUESTS * sum(batch.nbytes for batch in batches)

        def check(accepted: int, wanted: int = rows) -> None:
            assert accepted == wanted

        fresh = Fresh(f"{folder}/{len(batches)}", batches)
        out.append(Bench(name, fresh.accept, rows, nbytes, check, setup=fresh))
    return out


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(main(benches(folder)))
