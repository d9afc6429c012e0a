"""The rule by which a change is accepted, on made-up findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from benchmarks.audit.compare import RefusedError, Verdict, compare
from benchmarks.audit.schema import CellResult, Findings
from tests.audit.made_up import HOST, A, B, C, cell, findings


def verdict(before: Sequence[CellResult], after: Sequence[CellResult]) -> Verdict:
    return compare(findings(before), findings(after))


SAME = [cell(A), cell(B), cell(C)]


def test_two_workloads_with_a_better_p95_are_accepted() -> None:
    found = verdict(SAME, [cell(A, p95=80), cell(B, p95=80), cell(C)])
    assert found.is_accepted
    assert found.why == "2 cells are better, none is worse"


def test_one_better_p95_and_one_cell_that_allocates_less_are_accepted() -> None:
    assert verdict(SAME, [cell(A, p95=80), cell(B, allocated=40), cell(C)]).is_accepted


def test_one_cell_that_is_better_in_both_figures_is_one_workload() -> None:
    found = verdict(SAME, [cell(A, p95=80, allocated=40), cell(B), cell(C)])
    assert not found.is_accepted
    assert found.why == "1 cells are better, 2 have to be"


def test_no_difference_is_not_accepted() -> None:
    assert not verdict(SAME, SAME).is_accepted


def test_one_cell_worse_than_the_noise_outweighs_all_others() -> None:
    found = verdict(SAME, [cell(A, p95=50), cell(B, p95=50), cell(C, p95=112)])
    assert not found.is_accepted
    assert found.why == "1 cells are worse than the noise"


def test_worse_within_the_noise_of_the_repeats_is_alike() -> None:
    assert verdict(SAME, [cell(A, p95=50), cell(B, p95=50), cell(C, p95=109)]).is_accepted


def test_the_noise_is_the_larger_one_of_before_and_after() -> None:
    calm = [cell(A, noise=0.0), cell(B, noise=0.0), cell(C, noise=0.0)]
    after = [cell(A, p95=50), cell(B, p95=50), cell(C, p95=120, noise=0.3)]
    assert verdict(calm, after).is_accepted


def test_repeats_that_agree_by_luck_leave_some_noise() -> None:
    calm = [cell(A, noise=0.0), cell(B, noise=0.0), cell(C, noise=0.0)]
    better = [cell(A, p95=50, noise=0.0), cell(B, p95=50, noise=0.0)]
    assert verdict(calm, [*better, cell(C, p95=104, noise=0.0)]).is_accepted
    assert not verdict(calm, [*better, cell(C, p95=106, noise=0.0)]).is_accepted


def test_one_outlier_among_the_repeats_is_no_change() -> None:
    replace = msgspec.structs.replace
    slow = replace(cell(C).p95, value=900.0, repeats=(99.0, 900.0, 900.0))
    after = [cell(A, p95=50), cell(B, p95=50), replace(cell(C), p95=slow)]
    assert verdict(SAME, after).is_accepted


def test_more_allocated_bytes_are_worse() -> None:
    after = [cell(A, p95=50), cell(B, p95=50), cell(C, allocated=51)]
    assert not verdict(SAME, after).is_accepted


def test_a_figure_that_is_missing_after_the_change_counts_as_worse() -> None:
    found = verdict(SAME, [cell(A, p95=50), cell(B, p95=50), cell(C, p95=None)])
    assert not found.is_accepted
    assert [line.why for line in found.lines if line.after is None] == ["after: too few samples"]


def test_a_figure_that_was_missing_before_says_nothing() -> None:
    before = [cell(A), cell(B), cell(C, p95=None)]
    assert verdict(before, [cell(A, p95=50), cell(B, p95=50), cell(C)]).is_accepted


def test_a_p95_of_two_repeats_says_nothing() -> None:
    replace = msgspec.structs.replace
    once = [replace(result, p95=replace(result.p95, repeats=(1.0, 2.0))) for result in SAME]
    found = verdict(once, [cell(A, p95=50), cell(B, p95=50), cell(C, p95=900)])
    assert not found.is_accepted
    assert found.why == "0 cells are better, 2 have to be"


def test_the_table_has_both_figures_of_every_cell() -> None:
    found = verdict(SAME, SAME)
    assert [(line.cell, line.figure) for line in found.lines] == [
        (which, name) for which in (A, B, C) for name in ("p95", "allocated")
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": SAME[:2]}, "another matrix: 1 cells only before, such as columnar 250,000 none"),
        ({"quick": True}, "another matrix: full before, quick after"),
        ({"host": msgspec.structs.replace(HOST, cores=4)}, "another cores: 2 before, 4 after"),
        (
            {"host": msgspec.structs.replace(HOST, versions={"python": "3.12"})},
            "another version of python: 3.13 before, 3.12 after",
        ),
        (
            {"host": msgspec.structs.replace(HOST, versions={"python": "3.13", "numpy": "2"})},
            "another version of numpy: None before, 2 after",
        ),
        ({"method": "none"}, "allocated bytes by memray before, by none after"),
        ({"wrong": ("rows are gone",)}, "results of after are wrong: rows are gone"),
    ],
)
def test_files_that_say_nothing_about_a_change_are_refused(
    change: dict[str, Any], words: str
) -> None:
    after = findings(**({"cells": SAME} | change))
    with pytest.raises(RefusedError, match=words):
        compare(findings(SAME), after)


def test_another_load_average_is_no_other_machine() -> None:
    host = msgspec.structs.replace(HOST, load_average=(9.0, 9.0, 9.0))
    assert not compare(findings(SAME), findings(SAME, host=host)).is_accepted


def test_files_without_any_figure_are_refused() -> None:
    empty = [cell(A, p95=None, allocated=None)]
    with pytest.raises(RefusedError, match="no cell has a figure in both files"):
        compare(findings(empty), findings(empty))


def test_every_reason_is_told() -> None:
    other: Findings = findings(SAME[:1], host=msgspec.structs.replace(HOST, name="n"), quick=True)
    with pytest.raises(RefusedError) as caught:
        compare(findings(SAME), other)
    assert len(str(caught.value).splitlines()) == 3
