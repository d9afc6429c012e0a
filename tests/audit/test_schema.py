"""Figures have a value or a reason, percentiles come from samples, files read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.audit.schema import (
    Figure,
    UnreadableError,
    encode,
    measured,
    median_of,
    missing,
    percentile_of,
    read,
)
from tests.audit.made_up import A, cell, findings


def test_a_missing_figure_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="a value or a reason"):
        Figure("s")


def test_a_figure_with_a_value_has_no_reason() -> None:
    with pytest.raises(ValueError, match="a value or a reason"):
        Figure("s", 0.0, "it was too fast")


def test_zero_is_a_value() -> None:
    assert measured("s", 0).value == 0.0


@pytest.mark.parametrize(
    ("repeats", "spread"), [((), None), ((2.0,), None), ((1.0, 2.0, 3.0), 1.0), ((0.0, 0.0), None)]
)
def test_spread_is_the_range_by_the_median(
    repeats: tuple[float, ...], spread: float | None
) -> None:
    assert measured("s", 1.0, repeats).spread == spread


def test_a_median_keeps_its_repeats() -> None:
    assert median_of("s", [3.0, 1.0, 2.0]) == Figure("s", 2.0, repeats=(3.0, 1.0, 2.0))


@pytest.mark.parametrize(("name", "least"), [("p50", 5), ("p95", 20), ("p99", 100)])
def test_a_percentile_of_too_few_samples_is_missing(name: str, least: int) -> None:
    few = percentile_of("µs", name, [[1.0] * (least - 1)])
    assert few == missing("µs", f"{name} needs {least} samples, there are {least - 1}")
    assert percentile_of("µs", name, [[1.0] * least]).value == 1.0


def test_a_percentile_is_of_the_samples_of_all_repeats() -> None:
    slow, fast = list(range(100, 120)), list(range(20))
    found = percentile_of("µs", "p95", [slow, fast])
    assert found.value == np.percentile([*slow, *fast], 95)
    assert found.repeats == (np.percentile(slow, 95), np.percentile(fast, 95))


def test_findings_read_back_as_they_were(tmp_path: Path) -> None:
    found = findings([cell(A, p95=None)])
    (tmp_path / "f.json").write_bytes(encode(found))
    assert read(tmp_path / "f.json") == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "not a findings.json"),
        ("[]", "not a findings.json"),
        ('{"version": 0}', "version 0, this program reads 1"),
        ('{"version": 1}', "missing required field"),
        (encode(findings([cell(A)])).decode().replace('"why": ""', '"why": 3'), "Expected `str`"),
        (
            encode(findings([cell(A)])).decode().replace('"value": 50.0', '"value": null'),
            "a value or a reason",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "f.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UnreadableError, match=words):
        read(path)
