"""Which cells there are, and which requests they send."""

from __future__ import annotations

import pytest

from benchmarks.audit.matrix import cells, passes, requests_of_pass, same_as
from benchmarks.audit.schema import Cell


def test_the_matrix_is_whole() -> None:
    found = cells()
    assert len(found) == len(set(found)) == 4 * 4 * 3 + 2 * 4 * 3 * 3
    assert {cell.rows for cell in found} == {1_000, 10_000, 250_000, 1_000_000}
    assert {cell.batch for cell in found if "otlp" in cell.format} == {4_096, 16_384, 65_536}


def test_a_quick_matrix_has_every_format_and_every_compression_of_the_whole() -> None:
    quick, whole = cells(quick=True), cells()
    assert set(quick) < set(whole)
    for field in ("format", "compression"):
        assert {getattr(c, field) for c in quick} == {getattr(c, field) for c in whole}


@pytest.mark.parametrize(
    ("rows", "batch", "sizes"),
    [
        (10_000, None, [10_000]),
        (10_000, 4_096, [4_096, 4_096, 1_808]),
        (8_192, 4_096, [4_096, 4_096]),
        (1_000, 4_096, [1_000]),
    ],
)
def test_a_pass_sends_every_row_once(rows: int, batch: int | None, sizes: list[int]) -> None:
    assert requests_of_pass(Cell("otlp-logs", rows, "none", batch)) == sizes


@pytest.mark.parametrize(
    ("rows", "batch", "same"),
    [
        (1_000, 4_096, None),
        (1_000, 16_384, 4_096),
        (10_000, 4_096, None),
        (10_000, 16_384, None),
        (10_000, 65_536, 16_384),
        (250_000, 65_536, None),
    ],
)
def test_a_batch_that_no_request_fills_is_told_as_the_smaller_one(
    rows: int, batch: int, same: int | None
) -> None:
    found = same_as(Cell("otlp-logs", rows, "none", batch))
    assert (found.batch if found else None) == same


def test_a_cell_without_batches_is_like_no_other() -> None:
    assert same_as(Cell("columnar", 1_000, "none")) is None


def test_passes_make_enough_requests_within_the_most_rows() -> None:
    assert passes(Cell("columnar", 1_000, "none"), 40) == 40
    assert passes(Cell("columnar", 1_000_000, "none"), 40) == 2
    assert passes(Cell("otlp-logs", 10_000, "none", 4_096), 40) == 14
    assert passes(Cell("otlp-logs-json", 1_000_000, "none", 4_096), 40) == 1
