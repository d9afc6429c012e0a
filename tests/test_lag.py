"""The event loop's lag, on a loop whose clock the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from arc.lag import INTERVAL_S, WINDOW_S, LagProbe
from arc.metrics import ShardMetrics, Totals, shard_path
from arc.metrics_table import METRICS


class StillLoop(asyncio.SelectorEventLoop):
    """A real loop in which time passes when told to."""

    now_s = 100.0

    def time(self) -> float:
        return self.now_s

    def wake_up(self, late_s: float = 0.0) -> None:
        """Let the probe's timer become due, and run it so much later."""
        self.now_s += INTERVAL_S
        self.now_s += late_s
        self.call_soon(self.stop)
        self.run_forever()


@pytest.fixture
def loop() -> Iterator[StillLoop]:
    made = StillLoop()
    yield made
    made.close()


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[ShardMetrics]:
    opened = ShardMetrics(shard_path(tmp_path, 0))
    yield opened
    opened.close()


def test_lateness_is_recorded_and_the_largest_kept(
    loop: StillLoop, metrics: ShardMetrics, tmp_path: Path
) -> None:
    LagProbe(loop, metrics.loop_lag, metrics.loop_lag_max)
    for late_s in (0.0, 0.25, 0.125):
        loop.wake_up(late_s)
    assert metrics.loop_lag_max.value == pytest.approx(0.25)
    [metric] = [metric for metric in METRICS if metric.name == "arc_loop_lag_seconds"]
    counts, total_s = Totals(tmp_path).histogram(metric)
    assert sum(counts) == 3
    assert total_s == pytest.approx(0.375)


def test_the_largest_lag_is_forgotten_after_two_windows(
    loop: StillLoop, metrics: ShardMetrics
) -> None:
    LagProbe(loop, metrics.loop_lag, metrics.loop_lag_max)
    loop.wake_up(0.5)
    began_s = loop.now_s
    while loop.now_s < began_s + WINDOW_S:
        loop.wake_up()
        assert metrics.loop_lag_max.value == pytest.approx(0.5)
    while loop.now_s < began_s + 2 * WINDOW_S + 2 * INTERVAL_S:
        loop.wake_up()
    assert metrics.loop_lag_max.value == pytest.approx(0.0, abs=1e-6)


def test_a_stopped_probe_records_nothing(loop: StillLoop, metrics: ShardMetrics) -> None:
    LagProbe(loop, metrics.loop_lag, metrics.loop_lag_max).stop()
    loop.wake_up(9.0)
    assert metrics.loop_lag_max.value == 0.0


def test_it_runs_on_a_real_loop(metrics: ShardMetrics) -> None:
    async def measure() -> None:
        loop = asyncio.get_running_loop()
        probe = LagProbe(loop, metrics.loop_lag, metrics.loop_lag_max)
        while metrics.loop_lag_max.value == 0.0:
            await asyncio.sleep(0)
        probe.stop()

    asyncio.run(measure())
