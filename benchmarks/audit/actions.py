"""What to look at next, from the figures and findings of an audit. Pure.

In: metrics, hotspots, findings. Out: at most `MOST` actions, what costs most first, each with the
figure that says so. It proposes where to look, never what the outcome will be.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.audit.budget import LIMIT_OF
from benchmarks.audit.schema import Action, Finding, Hotspot, Metrics, Severity

MOST = 10
#: A bar below this share of busy time is not worth a hypothesis.
WIDE = 0.05
#: A curve that costs this much more at its dear end than at its cheap one is not flat.
STEEP = 1.5
_ORDER = {Severity.HIGH: 0, Severity.MEDIUM: 1, Severity.LOW: 2}


def next_actions(
    metrics: Metrics, hotspots: Sequence[Hotspot], findings: Sequence[Finding], quick: bool
) -> tuple[Action, ...]:
    """The list. The few rows of a quick run are mostly what a file costs: no curve is judged."""
    curves = [] if quick else _curves(metrics)
    found = [*_stages(metrics), *_hotspots(hotspots), *curves, *_findings(findings)]
    return tuple(found[:MOST])


def _stages(metrics: Metrics) -> list[Action]:
    """The stage that is furthest above its physical limit."""
    limits = {share.name: share.figure.value for share in metrics.limits}
    above: list[tuple[float, str, float]] = []
    for stage in metrics.stages:
        limit = limits.get(LIMIT_OF.get(stage.name, ""), 0.0)
        if stage.figure.value is not None and limit is not None:
            above.append((stage.figure.value - limit, stage.name, stage.figure.value))
    if not above:
        return []
    over, name, value = max(above)
    return [
        Action(
            f"Look at the stage {name}.",
            f"{value:.0f} ns a row, {over:.0f} of them above its physical limit: more than any "
            "other stage",
        )
    ]


def _hotspots(hotspots: Sequence[Hotspot]) -> list[Action]:
    return [
        Action(
            f"Form a hypothesis about {spot.function} ({spot.file}:{spot.line}).",
            f"{spot.self_share:.0%} of busy time is its own",
        )
        for spot in hotspots
        if spot.self_share >= WIDE
    ]


def _curves(metrics: Metrics) -> list[Action]:
    out = []
    for curve in metrics.scaling:
        known = [(figure.value, n) for n, figure in curve.points if figure.value]
        if len(known) < 2 or not curve.points[0][1].unit.startswith("ns"):
            continue  # a rate may grow
        (low, cheap), (high, dear) = min(known), max(known)
        if high > STEEP * low:
            unit = curve.points[0][1].unit
            out.append(
                Action(
                    f"Find out what grows with {curve.over}.",
                    f"{high:,.0f} {unit} at {dear:,}, {low:,.0f} at {cheap:,}: "
                    f"{high / low:.1f} times, {STEEP} are allowed",
                )
            )
    return out


def _findings(findings: Sequence[Finding]) -> list[Action]:
    ranked = sorted(findings, key=lambda finding: (_ORDER[finding.severity], finding.file))
    return [
        Action(f"{each.file}:{each.line}: {each.do}.", f"{each.rule}: {each.why}")
        for each in ranked
    ]
