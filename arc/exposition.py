"""The metrics of all processes as Prometheus text. Reads the files, changes nothing."""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from arc.metrics import Totals, summary
from arc.metrics_table import METRICS, Kind, Metric
from arc.version import VERSION

__all__ = ["CONTENT_TYPE", "DaemonCollector", "render", "summary"]

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(run_dir: Path) -> bytes:
    """What `GET /metrics` answers, as `CONTENT_TYPE`.

    Args:
        run_dir: Folder of the metrics files of one daemon.
    """
    registry = CollectorRegistry()
    registry.register(DaemonCollector(run_dir))
    return generate_latest(registry)


class DaemonCollector(Collector):
    """Gives prometheus-client the totals over all processes."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def describe(self) -> Iterator[Family]:
        """Nothing: names need no check against other collectors, there are none."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        """One family for each row of `METRICS`, and the build."""
        totals = Totals(self._run_dir)
        for metric in METRICS:
            if metric.kind is Kind.HISTOGRAM:
                yield _histogram(metric, totals)
            else:
                yield _numbers(metric, totals)
        build = {"version": VERSION, "python": platform.python_version()}
        yield InfoMetricFamily("arc_build", "What is running.", value=build)


def _numbers(metric: Metric, totals: Totals) -> Family:
    cls = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = cls(metric.name, metric.help, labels=[name for name, _ in metric.labels])
    for series in metric.series():
        family.add_metric(series, totals.value(metric, series))
    return family


def _histogram(metric: Metric, totals: Totals) -> Family:
    names = [name for name, _ in metric.labels]
    family = HistogramMetricFamily(metric.name, metric.help, labels=names)
    bounds = [floatToGoString(bound) for bound in (*metric.buckets, math.inf)]  # type: ignore[no-untyped-call]
    for series in metric.series():
        counts, total_s = totals.histogram(metric, series)
        cumulative = zip(bounds, itertools.accumulate(counts), strict=True)
        family.add_metric(series, buckets=list(cumulative), sum_value=total_s)
    return family
