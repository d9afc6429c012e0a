"""The page stands alone, says what was not measured, and draws what was."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import msgspec
import pytest

from benchmarks.audit import budget, page, physical, plots
from benchmarks.audit.actions import next_actions
from benchmarks.audit.plots import Bar
from benchmarks.audit.schema import (
    Curve,
    Finding,
    Findings,
    Hotspot,
    Load,
    Metrics,
    Severity,
    Share,
    measured,
    missing,
)
from tests.audit.made_up import A, B, cell, findings

SPOT = Hotspot("decode", "ingest/x.py", 12, "decode", 0.2, 0.3)
FINDING = Finding("copy", Severity.MEDIUM, "arc/a.py", 3, "f", "bytes(<x>)", "it copies", "do not")


def changed(**changes: object) -> Findings:
    """Made-up findings with other metrics."""
    found = findings([cell(A), cell(B, p95=None)])
    metrics: Metrics = msgspec.structs.replace(found.metrics, **changes)
    return msgspec.structs.replace(found, metrics=metrics)


def with_budget() -> Findings:
    stages = (
        Share(budget.HTTP, measured("ns/row", 20)),
        Share(budget.BUILD, measured("ns/row", 50)),
    )
    limits = (Share(physical.LOOPBACK, measured("ns/row", 13)),)
    return changed(stages=stages, limits=limits)


def pictures(text: str) -> list[ET.Element]:
    return [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page.render(with_budget())
    assert not re.search(r"<script|<link|src=|url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    assert pictures(text)


def test_what_was_not_measured_is_said_with_its_reason() -> None:
    text = page.render(findings([cell(A), cell(B, p95=None)]))
    assert 'title="too few samples"' in text
    assert "No profile: not asked for" in text
    assert "Wheel: not measured: no hatchling" in text
    assert "Not measured: not asked for" in text


def test_a_line_separates_the_physical_limit_from_what_is_left() -> None:
    assert "physical limit 13 ns, 57 ns are left" in page.render(with_budget())


def test_text_from_elsewhere_is_escaped() -> None:
    found = msgspec.structs.replace(findings([cell(A)]), findings=(FINDING,), hotspots=(SPOT,))
    text = page.render(found)
    assert "bytes(&lt;x&gt;)" in text
    assert "<code>ingest/x.py:12</code>" in text


def test_latencies_are_drawn_from_their_classes() -> None:
    figure = measured("ms", 1.0)
    load = Load("c", figure, figure, figure, figure, (1.0, 2.0, 3.0, 4.0), (0, 7, 0))
    text = page.render(changed(load=(load,)))
    assert "2 to 3 ms: 7 requests" in text


def test_bars_are_in_proportion_and_a_missing_one_is_words() -> None:
    data = [Bar("a", 10.0), Bar("b", 5.0, spread=(4.0, 20.0)), Bar("c", None, "no time")]
    (picture,) = pictures(plots.bars("t", "s", data))
    widths = [float(rect.attrib["width"]) for rect in picture.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert [text.text for text in picture.iter("text")][-1] == "not measured: no time"


def test_a_histogram_leaves_empty_ends_out() -> None:
    edges = [10.0**i for i in range(9)]
    (picture,) = pictures(plots.histogram("t", edges, [0, 0, 0, 5, 1, 0, 0, 0]))
    assert len(list(picture.iter("rect"))) == 4
    assert not pictures(plots.histogram("t", edges, [0] * 8))


def test_a_curve_names_its_missing_points() -> None:
    (picture,) = pictures(plots.curve("t", "ns", [(1, 5.0, ""), (10, None, "no daemon")]))
    words = [text.text for text in picture.iter("text")]
    assert "not measured, 10: no daemon" in words
    assert not pictures(plots.curve("t", "ns", [(1, None, "no daemon")]))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (12.34, "12.3"), (1_234, "1.23 k"), (5.6e6, "5.6 M")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert plots.short(value) == text


# --- what to look at next ------------------------------------------------------------------------


def test_the_stage_that_is_furthest_above_its_limit_comes_first() -> None:
    first = next_actions(with_budget().metrics, (SPOT,), (FINDING,), quick=False)[0]
    assert first.what == "Look at the stage table building."


def test_wide_hotspots_and_findings_are_named_with_their_place() -> None:
    narrow = msgspec.structs.replace(SPOT, function="narrow", self_share=0.04)
    found = next_actions(findings([]).metrics, (SPOT, narrow), (FINDING,), quick=False)
    assert [action.what for action in found] == [
        "Form a hypothesis about decode (ingest/x.py:12).",
        "arc/a.py:3: do not.",
    ]


@pytest.mark.parametrize(
    ("unit", "quick", "told"), [("ns/row", False, 1), ("ns/row", True, 0), ("rows/s", False, 0)]
)
def test_a_cost_that_grows_is_told_where_sizes_allow_it(unit: str, quick: bool, told: int) -> None:
    points = ((1, measured(unit, 10)), (5, missing(unit, "no")), (10, measured(unit, 16)))
    metrics = changed(scaling=(Curve("columns", points),)).metrics
    found = next_actions(metrics, (), (), quick)
    assert len(found) == told
    assert all("1.6 times" in action.because for action in found)
