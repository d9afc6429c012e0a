"""A cell goes through the real pipeline, and files that differ from what was sent are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.audit import memory, passes
from benchmarks.audit.bodies import MAX_BODY_BYTES, Body, Requests, TooLargeError
from benchmarks.audit.cells import measure
from benchmarks.audit.matrix import FORMATS
from benchmarks.audit.schema import Cell

ROWS = 200


def requests(format_: str = "columnar", compression: str = "none", count: int = 3) -> Requests:
    batch = ROWS if "otlp" in format_ else None
    return Requests(Cell(format_, ROWS, compression, batch), count)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_reads_back_as_it_was_sent(format_: str) -> None:
    done = passes.run_pass(requests(format_, "gzip" if "json" in format_ else "zstd"))
    assert done.wrong == ""
    assert done.rows == 3 * ROWS
    assert len(done.request_us) == 3
    assert min(done.cpu_s, done.wall_s, *done.request_us) > 0


def stored(folder: Path, made: Requests) -> Path:
    """The one file with the rows of `made`, those of its table's making left out."""

    async def store() -> None:
        async with passes.opened(folder) as pipeline:
            await passes.make_table(pipeline, made.cell.format)
            for i in range(len(made)):
                await passes.accept(pipeline, made.head(), made.sent(i))
            await pipeline.drain()

    asyncio.run(store())
    assert passes.differences(folder, made) == ""
    paths = list(folder.glob("audit/*/*/*/*/*/*.parquet"))
    return max(paths, key=lambda path: pq.ParquetFile(path).metadata.num_rows)


def rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def test_a_row_that_is_gone_is_told(tmp_path: Path) -> None:
    made = requests()
    path = stored(tmp_path, made)
    rewrite(path, pq.ParquetFile(path).read().slice(1))
    assert "610 rows were sent, 609 are stored" in passes.differences(tmp_path, made)


def test_a_row_at_another_time_is_told(tmp_path: Path) -> None:
    made = requests()
    path = stored(tmp_path, made)
    table = pq.ParquetFile(path).read()
    at = table.column_names.index("time")
    later = pc.add(table.column("time").cast(pa.int64()), 1).cast(table.schema.field(at).type)
    rewrite(path, table.set_column(at, table.schema.field(at), later))
    assert "with other times" in passes.differences(tmp_path, made)


def test_a_value_that_differs_is_told(tmp_path: Path) -> None:
    made = requests()
    path = stored(tmp_path, made)
    table = pq.ParquetFile(path).read()
    at = table.column_names.index("usage_user")
    other = pc.add(table.column("usage_user"), 0.5)
    rewrite(path, table.set_column(at, "usage_user", other))
    assert "column 'usage_user' of request 0 differs" in passes.differences(tmp_path, made)


def test_a_column_that_is_gone_is_told(tmp_path: Path) -> None:
    made = requests()
    for path in [stored(tmp_path, made), *tmp_path.glob("audit/*/*/*/*/*/*.parquet")]:
        table = pq.ParquetFile(path).read()
        rewrite(path, table.drop_columns([n for n in table.column_names if n == "region"]))
    assert "column 'region' of request 0 differs" in passes.differences(tmp_path, made)


def test_a_body_over_the_limit_of_the_daemon_is_refused_before_it_is_encoded() -> None:
    with pytest.raises(TooLargeError, match=f"the limit of {MAX_BODY_BYTES:,}"):
        Body("rows", 1_000_000)


def test_cells_that_are_not_run_say_why_and_are_never_zero() -> None:
    chosen = [
        Cell("rows", 1_000_000, "none"),
        Cell("otlp-logs", 1_000, "none", 16_384),
        Cell("columnar", 1_000, "none"),
    ]
    told: list[str] = []
    (large, same, run), wrong = measure(chosen, repeats=2, requests=5, tell=told.append)
    assert wrong == []
    assert told == 2 * [cell.name for cell in chosen]
    for result, words in ((large, "the daemon refuses it"), (same, "the same requests as")):
        for figure in (result.rows_per_cpu_s, result.p50, result.p95, result.allocated):
            assert figure.value is None
            assert words in figure.why
    assert run.requests == 10
    assert len(run.rows_per_cpu_s.repeats) == 2
    assert run.p50.value
    assert "p95 needs 20 samples, there are 10" in run.p95.why
    assert run.allocated.value is None or run.allocated.value > 50


def test_allocated_bytes_hardly_differ_from_one_pass_to_the_next() -> None:
    pytest.importorskip("memray")
    made = requests(count=20)
    one, other = memory.allocated(made), memory.allocated(made)
    assert one == pytest.approx(other, rel=0.05)
    found = memory.profile(made, "c")
    assert found.method == "memray"
    assert any("ingest/" in share.name for share in found.places)


def test_without_memray_there_is_a_reason_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "memray", None)
    found = memory.profile(requests(), "c")
    assert (found.method, found.allocated.value) == ("none", None)
    assert "memray is not there" in found.allocated.why
