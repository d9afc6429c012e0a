"""What `/metrics` says of queries, and how far the query process stands back behind others."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from arc.exposition import render
from arc.metrics_table import ANSWERS
from arc.query.counts import QueryMetrics
from arc.query.options import QueryOptions
from arc.query.server import PATHS
from arc.runtime import DataDir
from tests.query.conftest import request, write
from tests.query.serving import QueryProcess, query_process
from tests.query.test_engine import ENDLESS
from tests.query.test_process import ask_and_leave
from tests.support.daemon import eventually


class Scrape:
    """What a worker answers to `GET /metrics`, asked anew for each value."""

    def __init__(self, root: Path) -> None:
        self._run = DataDir(root).run

    def __call__(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(render(self._run).decode())
        samples = (sample for family in families for sample in family.samples)
        found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        assert found, name
        return sum(found)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "data", request("cpu"))
    return tmp_path / "data"


def test_every_path_has_a_series() -> None:
    assert ("json", *(path.rpartition("/")[2] for path in PATHS[1:]), "measurement") == ANSWERS


def test_a_successor_goes_on_counting_and_nothing_runs_at_first(tmp_path: Path) -> None:
    run = DataDir(tmp_path).run
    run.mkdir(parents=True)
    for _ in range(2):
        metrics = QueryMetrics(run)
        metrics.count("json", 200, 0.1)
        metrics.count("json", 418, 0.1)
        assert metrics.running.value == 0
        metrics.running.set(3)
        metrics.close()
    value = Scrape(tmp_path)
    assert value("arc_query_process_starts_total") == 2
    assert value("arc_queries_total", answer="json", status="200") == 2
    assert value("arc_queries_total", status="other") == 2
    assert value("arc_query_seconds_count", answer="json") == 4


@pytest.mark.e2e
def test_queries_are_counted_with_their_ends_rows_and_bytes(root: Path) -> None:
    value = Scrape(root)
    with query_process(root, max_rows=10) as process:
        answer = process.post("", "SELECT * FROM cpu")
        stream = process.post("/arrow", "SELECT * FROM range(100)", Accept_Encoding="gzip")
        assert len(gzip.decompress(stream.body)) > len(stream.body)
        process.post("/msgpack", "SELECT * FROM range(11)")
        process.post("/estimate", "SELEC")
        process.post("", "SELEC")
        process.post("/nope", "SELECT 1")
        eventually(lambda: value("arc_queries_running") == 0, "all places are free")
        assert value("arc_queries_total", answer="json", status="200") == 1
        assert value("arc_queries_total", answer="arrow", status="200") == 1
        assert value("arc_queries_total", answer="msgpack", status="413") == 1
        assert value("arc_queries_total", answer="estimate", status="400") == 1
        assert value("arc_queries_total", answer="json", status="400") == 1
        assert value("arc_queries_total") == 5
        assert value("arc_query_rows_total") == 3 + 100
        assert value("arc_query_sent_bytes_total") == len(answer.body) + len(stream.body)
        assert value("arc_query_wait_seconds_count") == 5
        assert value("arc_query_seconds_sum", answer="json") > 0


@pytest.mark.e2e
def test_those_that_run_and_those_that_wait_are_seen(root: Path) -> None:
    value = Scrape(root)
    with query_process(root, concurrency=1) as process:
        first = ask_and_leave(process, ENDLESS)
        eventually(lambda: value("arc_queries_running") == 1, "the first one runs")
        second = ask_and_leave(process, "SELECT 1")
        eventually(lambda: value("arc_queries_waiting") == 1, "the second one waits")
        first.close()
        assert second.recv(100).startswith(b"HTTP/1.1 200")
        eventually(
            lambda: value("arc_queries_total", answer="json", status="499") == 1,
            "the first one is counted as left by its client",
        )
        eventually(lambda: value("arc_queries_running") == 0, "all places are free")
        assert value("arc_queries_waiting") == 0
        second.close()  # not before: it would count as left by its client, too


@pytest.mark.e2e
def test_the_query_process_stands_back(root: Path) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for nice in (0, 7, QueryOptions().nice):
        with query_process(root, nice=nice, threads=2) as process:
            assert process.post("", "SELECT count(*) FROM cpu").status == 200
            found = niceness_of_threads(process)
            # Its main thread, one for the query, one of DuckDB; what libraries start when they
            # are imported does nothing here.
            assert found.count(min(own + nice, 19)) >= 3
            assert psutil.Process(process.process.pid).nice() == min(own + nice, 19)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_the_query_process_leaves_cores_to_others(root: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for spare in (0, 1, 1_024):
        with query_process(root, spare_cores=spare) as process:
            assert process.post("", "SELECT count(*) FROM cpu").json["data"] == [[3]]
            kept = sorted(os.sched_getaffinity(process.process.pid))
            assert kept == cores[: max(1, len(cores) - spare)]


def niceness_of_threads(process: QueryProcess) -> list[int]:
    """Linux has one for each thread."""
    threads = psutil.Process(process.process.pid).threads()
    return [os.getpriority(os.PRIO_PROCESS, thread.id) for thread in threads]
