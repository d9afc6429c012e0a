"""Counters in shared memory: exact, cheap, and outliving the worker that wrote them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import ingest.errors
from arc.exposition import render
from arc.metrics import (
    ShardMetrics,
    SupervisorMetrics,
    Totals,
    all_paths,
    row_balance,
    shard_path,
    summary,
    supervisor_path,
)
from arc.metrics_table import DOORS, LEVELS, METRICS, OTHER, REASONS, Kind, Merge, layout

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "metrics.md"
BY_NAME = {metric.name: metric for metric in METRICS}


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[ShardMetrics]:
    metrics = ShardMetrics(shard_path(tmp_path, 0))
    yield metrics
    metrics.close()


def reopen(metrics: ShardMetrics, folder: Path) -> ShardMetrics:
    """As the next worker of the shard does."""
    metrics.close()
    return ShardMetrics(shard_path(folder, 0))


def scrape(folder: Path) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and label values."""
    families = text_string_to_metric_families(render(folder).decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_worker_reads_the_sums_over_all_workers(tmp_path: Path, shard: ShardMetrics) -> None:
    other = ShardMetrics(shard_path(tmp_path, 1))
    shard.rows_accepted.inc(5)
    other.rows_accepted.inc(7)
    other.rows_buffered.add(7)
    other.rows_buffered.add(-3)
    assert summary(tmp_path)["arc_rows_accepted_total"] == 12
    assert summary(tmp_path)["arc_rows_buffered"] == 4
    other.close()


def test_the_largest_of_the_workers_counts_where_a_sum_makes_no_sense(
    tmp_path: Path, shard: ShardMetrics
) -> None:
    other = ShardMetrics(shard_path(tmp_path, 1))
    shard.loop_lag_max.set(0.5)
    other.loop_lag_max.set(0.25)
    assert BY_NAME["arc_loop_lag_max_seconds"].merge is Merge.MAX
    assert scrape(tmp_path)["arc_loop_lag_max_seconds", ()] == 0.5
    other.close()


def test_each_observation_falls_into_the_first_class_that_holds_it(
    tmp_path: Path, shard: ShardMetrics
) -> None:
    metric = BY_NAME["arc_lock_wait_seconds"]
    for bound in metric.buckets:
        shard.pipeline.lock_wait_seconds.observe(bound)
    shard.pipeline.lock_wait_seconds.observe(0.0)
    shard.pipeline.lock_wait_seconds.observe(1e9)
    counts, total_s = Totals(tmp_path).histogram(metric)
    assert counts == [2, *[1] * (len(metric.buckets) - 1), 1]
    assert total_s == pytest.approx(1e9 + sum(metric.buckets))
    samples = scrape(tmp_path)
    assert samples["arc_lock_wait_seconds_bucket", ("1e-06",)] == 2
    assert samples["arc_lock_wait_seconds_bucket", ("+Inf",)] == len(metric.buckets) + 2
    assert samples["arc_lock_wait_seconds_count", ()] == len(metric.buckets) + 2


def test_requests_are_counted_by_door_and_status(tmp_path: Path, shard: ShardMetrics) -> None:
    shard.count_request("msgpack", 204, 0.002)
    shard.count_request("msgpack", 418, 0.002)
    shard.count_request("other", 200, 0.002)
    samples = scrape(tmp_path)
    assert samples["arc_requests_total", ("msgpack", "204")] == 1
    assert samples["arc_requests_total", ("msgpack", OTHER)] == 1
    assert samples["arc_requests_total", ("other", "200")] == 1
    assert samples["arc_request_seconds_count", ("msgpack",)] == 2


def test_refusals_are_counted_by_reason_with_their_bytes_and_rows(
    tmp_path: Path, shard: ShardMetrics
) -> None:
    shard.count_rejection("msgpack", "type_conflict", num_bytes=100, rows=3)
    shard.count_rejection("msgpack", "a reason from the future", num_bytes=7)
    samples = scrape(tmp_path)
    assert samples["arc_requests_rejected_total", ("msgpack", "type_conflict")] == 1
    assert samples["arc_bytes_rejected_total", ("type_conflict",)] == 100
    assert samples["arc_rows_rejected_total", ("type_conflict",)] == 3
    assert samples["arc_requests_rejected_total", ("msgpack", OTHER)] == 1
    assert samples["arc_bytes_rejected_total", (OTHER,)] == 7


def reasons(error: type[ingest.errors.IngestError]) -> set[str]:
    return {error.reason}.union(*(reasons(kind) for kind in error.__subclasses__()))


def test_every_reason_of_an_error_has_its_series() -> None:
    assert reasons(ingest.errors.IngestError) <= set(REASONS)
    assert len(set(REASONS)) == len(REASONS)


def test_a_new_worker_of_a_shard_goes_on_counting(tmp_path: Path, shard: ShardMetrics) -> None:
    shard.rows_accepted.inc(10)
    shard.rows_stored.inc(10)
    shard.bytes_in_flight.set(99)
    shard.memory_limit_bytes.set(99)
    shard.loop_lag_max.set(9.5)
    shard.loop_lag.observe(9.5)
    successor = reopen(shard, tmp_path)
    successor.rows_accepted.inc(1)
    samples = scrape(tmp_path)
    assert samples["arc_rows_accepted_total", ()] == 11
    assert samples["arc_loop_lag_seconds_count", ()] == 1
    assert samples["arc_bytes_in_flight", ()] == 0
    assert samples["arc_memory_limit_bytes", ()] == 0
    assert samples["arc_loop_lag_max_seconds", ()] == 0
    assert samples["arc_rows_lost_total", ()] == 0
    successor.close()


def conserved(metrics: ShardMetrics) -> bool:
    """Whether every accepted row is in exactly one other place."""
    places = (metrics.rows_buffered, metrics.rows_stored, metrics.rows_quarantined)
    return metrics.rows_accepted.value == sum(p.value for p in (*places, metrics.rows_lost))


@pytest.mark.parametrize("buffered", [30, 29, 0], ids=["at rest", "between two updates", "early"])
def test_rows_that_died_with_a_worker_are_lost_and_the_sum_stays_exact(
    tmp_path: Path, shard: ShardMetrics, buffered: int
) -> None:
    shard.rows_accepted.inc(40)
    shard.rows_stored.inc(10)
    shard.rows_buffered.set(buffered)
    second = reopen(shard, tmp_path)
    second.settle(0)
    assert (second.rows_lost.value, second.rows_buffered.value) == (30, 0)
    second.rows_accepted.inc(5)
    second.rows_buffered.add(5)
    third = reopen(second, tmp_path)
    third.settle(0)
    counted = summary(tmp_path)
    assert counted["arc_rows_lost_total"] == 35
    assert counted["arc_rows_accepted_total"] == 45
    assert conserved(third)
    third.close()


def predecessor(folder: Path, accepted: int, stored: int, durability: str) -> ShardMetrics:
    """The metrics of a worker whose predecessor was killed with these counts."""
    metrics = ShardMetrics(shard_path(folder, 0))
    metrics.rows_accepted.inc(accepted)
    metrics.rows_stored.inc(stored)
    metrics.close()
    return ShardMetrics(shard_path(folder, 0), durability)


def replay(metrics: ShardMetrics, rows: int, flushed: int = 0) -> None:
    """As a replay counts that buffers rows, of which some are stored before it is over."""
    metrics.pipeline.rows_replayed.inc(rows)
    metrics.rows_buffered.add(rows - flushed)
    metrics.rows_stored.inc(flushed)


@pytest.mark.parametrize("flushed", [0, 7], ids=["all in buffers", "some stored meanwhile"])
@pytest.mark.parametrize(
    ("accepted", "stored", "replayed", "wanted"),
    [
        (40, 10, 30, (40, 10)),  # killed at rest
        (40, 10, 35, (45, 10)),  # killed between the sync of the log and the count
        (40, 10, 25, (40, 15)),  # killed between the commit of a table and the count
        (0, 0, 30, (30, 0)),  # of a daemon before this one, or of a shard without a worker
        (0, 12, 30, (42, 12)),  # killed during the replay of such rows
    ],
)
@pytest.mark.parametrize("durability", ["page", "disk"])
def test_a_replay_settles_what_became_of_the_rows_of_a_killed_worker(
    tmp_path: Path,
    durability: str,
    accepted: int,
    stored: int,
    replayed: int,
    wanted: tuple[int, int],
    flushed: int,
) -> None:
    metrics = predecessor(tmp_path, accepted, stored, durability)
    replay(metrics, replayed, flushed)
    metrics.settle(replayed)
    assert (metrics.rows_accepted.value, metrics.rows_stored.value - flushed) == wanted
    assert (metrics.rows_lost.value, metrics.rows_quarantined.value) == (0, 0)
    assert conserved(metrics)
    metrics.close()


def test_a_replay_that_is_killed_and_repeated_counts_no_row_twice(tmp_path: Path) -> None:
    first = predecessor(tmp_path, accepted=40, stored=10, durability="disk")
    replay(first, 20, flushed=8)  # and is killed before it is settled
    first.close()
    second = ShardMetrics(shard_path(tmp_path, 0), "disk")
    replay(second, 22)
    second.settle(22)
    assert (second.rows_accepted.value, second.rows_stored.value) == (40, 18)
    assert conserved(second)
    second.close()


def test_at_the_level_of_memory_a_log_of_another_level_is_replayed_and_the_rest_is_lost(
    tmp_path: Path,
) -> None:
    metrics = predecessor(tmp_path, accepted=40, stored=10, durability="memory")
    replay(metrics, 12)
    metrics.settle(12)
    assert (metrics.rows_accepted.value, metrics.rows_lost.value) == (40, 18)
    assert conserved(metrics)
    metrics.close()


def test_rows_that_a_damaged_log_does_not_give_back_are_quarantined(tmp_path: Path) -> None:
    metrics = predecessor(tmp_path, accepted=40, stored=10, durability="disk")
    replay(metrics, 12)
    metrics.pipeline.log_corrupt.inc()
    metrics.pipeline.rows_quarantined.inc(3)  # that could be counted
    metrics.settle(12)
    assert (metrics.rows_stored.value, metrics.rows_quarantined.value) == (10, 18)
    assert conserved(metrics)
    metrics.close()


def test_rows_of_a_daemon_before_this_one_that_are_quarantined_were_accepted(
    tmp_path: Path,
) -> None:
    metrics = ShardMetrics(shard_path(tmp_path, 0), "disk")
    replay(metrics, 12)
    metrics.pipeline.log_corrupt.inc()
    metrics.pipeline.rows_quarantined.inc(3)
    metrics.settle(12)
    assert (metrics.rows_accepted.value, metrics.rows_quarantined.value) == (15, 3)
    assert conserved(metrics)
    metrics.close()


def test_a_settled_worker_is_not_settled_again(tmp_path: Path) -> None:
    metrics = predecessor(tmp_path, accepted=40, stored=10, durability="disk")
    replay(metrics, 30)
    metrics.settle(30)
    metrics.settle(0)
    assert (metrics.rows_accepted.value, metrics.rows_stored.value) == (40, 10)
    metrics.close()


def test_the_level_of_any_worker_is_that_of_the_daemon(tmp_path: Path) -> None:
    shards = [ShardMetrics(shard_path(tmp_path, n), "page") for n in range(2)]
    levels = {level: scrape(tmp_path)["arc_durability", (level,)] for level in LEVELS}
    assert levels == {"memory": 0, "page": 1, "disk": 0}
    for metrics in shards:
        metrics.close()
    again = ShardMetrics(shard_path(tmp_path, 0), "disk")
    assert scrape(tmp_path)["arc_durability", ("disk",)] == 1
    again.close()


@pytest.mark.parametrize(
    ("durability", "in_log", "gone"), [("memory", 0, 24), ("page", 20, 4), ("disk", 20, 4)]
)
def test_the_rows_of_a_daemon_that_ended_are_in_its_log_or_gone(
    tmp_path: Path, durability: str, in_log: int, gone: int
) -> None:
    with closing(ShardMetrics(shard_path(tmp_path, 0), durability)) as metrics:
        metrics.rows_accepted.inc(40)
        metrics.rows_stored.inc(10)
        metrics.rows_quarantined.inc(6)
        metrics.rows_lost.inc(4)
    rows = row_balance(tmp_path)
    assert rows[:4] == (40, 10, 6, 4)
    assert (rows.durability, rows.left, rows.in_log, rows.gone) == (durability, 20, in_log, gone)


def test_without_any_worker_no_row_is_anywhere(tmp_path: Path) -> None:
    rows = row_balance(tmp_path)
    assert (*rows, rows.left, rows.in_log, rows.gone) == (0, 0, 0, 0, "", 0, 0, 0)


def test_rows_stored_by_a_replay_that_is_not_settled_are_not_fewer_than_none(
    tmp_path: Path,
) -> None:
    with closing(ShardMetrics(shard_path(tmp_path, 0), "disk")) as metrics:
        replay(metrics, 10, flushed=10)
    assert row_balance(tmp_path).left == 0


def test_counts_survive_the_kill_of_the_process_that_made_them(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from arc.metrics import ShardMetrics, shard_path\n"
        "metrics = ShardMetrics(shard_path(pathlib.Path(sys.argv[1]), 0))\n"
        "metrics.rows_accepted.inc(123)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert summary(tmp_path)["arc_rows_accepted_total"] == 123


def test_no_increment_is_lost_between_threads(tmp_path: Path, shard: ShardMetrics) -> None:
    """The proof of the comment above SlotCounter."""
    threads, times = 4, 50_000

    def hammer() -> None:
        for _ in range(times):
            shard.rows_accepted.inc(3)
            shard.rows_buffered.add(-1)
            shard.loop_lag.observe(0.5)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=hammer) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert shard.rows_accepted.value == 3 * threads * times
    assert shard.rows_buffered.value == -threads * times
    counts, total_s = Totals(tmp_path).histogram(BY_NAME["arc_loop_lag_seconds"])
    assert sum(counts) == threads * times
    assert total_s == 0.5 * threads * times


def test_a_file_of_another_layout_is_started_anew(tmp_path: Path) -> None:
    path = shard_path(tmp_path, 0)
    for damage in (b"", b"short", b"\xff" * layout().num_slots * 8):
        path.write_bytes(damage)
        assert summary(tmp_path)["arc_rows_accepted_total"] == 0
        anew = ShardMetrics(path)
        assert (anew.rows_accepted.value, anew.rows_lost.value) == (0, 0)
        anew.close()


def test_the_supervisor_counts_in_a_file_of_its_own(tmp_path: Path, shard: ShardMetrics) -> None:
    supervisor = SupervisorMetrics(supervisor_path(tmp_path))
    supervisor.workers_up.set(2)
    supervisor.workers_wanted.set(3)
    supervisor.worker_restarts.inc()
    supervisor.start_time.set(1_700_000_000.5)
    samples = scrape(tmp_path)
    assert samples["arc_workers_up", ()] == 2
    assert samples["arc_workers_wanted", ()] == 3
    assert samples["arc_worker_restarts_total", ()] == 1
    assert samples["arc_start_time_seconds", ()] == 1_700_000_000.5
    assert len(all_paths(tmp_path)) == 2
    supervisor.close()


def test_without_any_file_everything_is_zero(tmp_path: Path) -> None:
    samples = scrape(tmp_path)
    build = {name: value for (name, _), value in samples.items() if name == "arc_build_info"}
    assert build == {"arc_build_info": 1}
    assert {value for (name, _), value in samples.items() if name not in build} == {0}


def test_the_text_has_every_series_of_the_table_with_its_kind_and_help(tmp_path: Path) -> None:
    families = {f.name: f for f in text_string_to_metric_families(render(tmp_path).decode())}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        labels = [name for name, _ in metric.labels]
        series = {tuple(sample.labels[name] for name in labels) for sample in family.samples}
        assert series == set(metric.series())
    assert len(families) == len(METRICS) + 1


def test_the_table_follows_the_naming_rules_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"arc_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.unit == "seconds" or not metric.name.endswith("_seconds")
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.help.endswith(".")
    assert len(BY_NAME) == len(METRICS)
    assert set(BY_NAME["arc_requests_total"].labels[0][1]) == set(DOORS)


def test_no_two_series_share_a_slot() -> None:
    taken = [
        slot
        for metric in METRICS
        for series in metric.series()
        for slot in range(
            layout().first[metric.name, series], layout().first[metric.name, series] + metric.slots
        )
    ]
    assert len(taken) == len(set(taken))
    assert max(taken) < layout().num_slots


def test_the_documentation_has_each_metric_with_kind_unit_labels_and_help() -> None:
    rows = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`(arc_\w+)`", cells[0]):
            rows[match[1]] = cells
    assert set(rows) == {*BY_NAME, "arc_build_info"}
    for name, metric in BY_NAME.items():
        _, kind, unit, labels, text = rows[name]
        names = ", ".join(f"`{label}`" for label, _ in metric.labels) or "-"
        assert (kind, unit, labels) == (metric.kind, metric.unit, names)
        assert text.startswith(metric.help)
