"""The client's benchmarks: what they count is right, and what they cannot measure is no figure."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.client import bench_calls, bench_pipeline, bench_variants, peers, report, sink
from benchmarks.client.__main__ import all_cases, main
from benchmarks.client.cases import (
    LESS,
    MORE,
    AbsentError,
    Bench,
    Case,
    CheckError,
    Figure,
    Probe,
    Sizes,
    expect,
    opened,
    run,
)
from benchmarks.client.report import Target, judge, value

TINY = Sizes(
    calls=50,
    slow_calls=50,
    batch_rows=100,
    batches=2,
    requests=3,
    frame_rows=1_000,
    pipeline_rows=500,
    end_to_end_s=0.01,
    timed_calls=200,
    repeats=2,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(TINY, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def taker() -> Iterator[sink.SinkProcess]:
    with sink.running() as found:
        yield found


def case(name: str, sample: Any, check: Any = lambda: None, **changes: Any) -> Case:
    """A case without a client."""

    @contextmanager
    def open_it(_bench: Bench) -> Iterator[Probe]:
        yield Probe(sample, check)

    return Case(changes.pop("group", "group"), name, changes.pop("unit", "ns"), open_it, **changes)


def absent(_bench: Bench) -> Any:
    """What a case does whose package is not there."""
    raise AbsentError("rerun-sdk is not installed: pip install arc[peers]")


def fail() -> None:
    """A check that finds too few rows."""
    expect("rows at the sink", 9, 10)


def silent(_line: str) -> None:
    """No progress."""


# -------------------------------------------------------------------------------- the runner


def test_cases_of_a_group_alternate(bench: Bench) -> None:
    order: list[str] = []

    def sampled(name: str) -> Any:
        def sample() -> float:
            order.append(name)
            return 1.0

        return sample

    run([case(name, sampled(name)) for name in "AB"], bench, silent)
    assert order == ["A", "B"] * TINY.repeats


def test_best_is_the_least_of_times_and_the_greatest_of_rates() -> None:
    less, more = (case("x", None, better=better) for better in (LESS, MORE))
    assert (Figure(less, [3.0, 1.0, 2.0]).best, Figure(more, [3.0, 1.0, 2.0]).best) == (1.0, 3.0)
    assert Figure(less, [3.0, 1.0, 2.0]).median == 2.0


def test_every_sample_and_every_further_figure_is_kept(bench: Bench) -> None:
    values = iter([(1.0, {"p50": 0.1}), (2.0, {"p50": 0.2})])
    figure = run([case("x", lambda: next(values))], bench, silent)[0]
    assert figure.samples == [1.0, 2.0]
    assert figure.beside == {"p50": [0.1, 0.2]}


@pytest.mark.parametrize("when", ["before", "in a sample", "at the end"])
def test_a_check_that_fails_leaves_no_figure_and_fails_the_run(bench: Bench, when: str) -> None:
    def sample() -> float:
        if when == "in a sample":
            fail()
        return 1.0

    @contextmanager
    def open_it(_bench: Bench) -> Iterator[Probe]:
        nothing = lambda: None  # noqa: E731
        yield Probe(
            sample,
            fail if when == "before" else nothing,
            fail if when == "at the end" else nothing,
        )

    good = case("good", lambda: 1.0)
    figures = run([Case("group", "bad", "ns", open_it), good], bench, silent)
    assert [(f.failed, f.best) for f in figures] == [(True, None), (False, 1.0)]
    assert "found 9, wanted 10" in figures[0].why
    assert report.exit_code(figures) == 1


def test_a_package_that_is_not_there_leaves_no_figure_and_fails_nothing(bench: Bench) -> None:
    figures = run([Case("group", "theirs", "ns", absent)], bench, silent)
    assert figures[0].to_dict()["best"] is None
    assert figures[0].to_dict()["samples"] is None
    assert not figures[0].failed
    assert report.exit_code(figures) == 0


def test_what_is_shared_is_opened_once_and_closed(tmp_path: Path) -> None:
    events: list[str] = []

    @contextmanager
    def thing() -> Iterator[str]:
        events.append("open")
        yield "it"
        events.append("close")

    with opened(TINY, tmp_path) as found:
        assert [found.once("thing", thing) for _ in range(2)] == ["it", "it"]
    assert events == ["open", "close"]


# ------------------------------------------------------------------------------- the targets


@pytest.mark.parametrize(
    ("better", "found", "verdict"),
    [(LESS, 1.0, "met"), (LESS, 1.1, "missed"), (MORE, 1.0, "met"), (MORE, 0.9, "missed")],
)
def test_a_verdict_follows_from_the_figure(better: str, found: float, verdict: str) -> None:
    assert Target("it", 1.0, "x", better, value("a: b")).verdict(found) == verdict


def test_without_a_figure_there_is_no_verdict() -> None:
    judged = judge([])
    assert len(judged) == len(report.targets())
    assert {row["verdict"] for row in judged} == {report.NOT_MEASURED}
    assert all(row["best"] is None and row["median"] is None for row in judged)


def test_targets_are_judged_by_figures_of_the_same_run() -> None:
    cases = {found.title: found for found in all_cases()}
    ours = Figure(cases[bench_calls.LOG], [900.0, 1100.0, 1000.0])
    theirs = Figure(cases[bench_calls.RERUN], [16_000.0, 14_000.0, 20_000.0])
    judged = {row["target"]: row for row in judge([ours, theirs])}
    own = judged["client.log, 2 tags and 3 floats"]
    assert (own["best"], own["median"], own["verdict"]) == (
        pytest.approx(0.9),
        pytest.approx(1.0),
        "met",
    )
    assert judged["rr.log(Scalars) by client.log"]["median"] == pytest.approx(16)
    assert judged["bound handle, 3 floats"]["verdict"] == report.NOT_MEASURED


def test_every_target_names_a_case_that_exists() -> None:
    figures = [Figure(found, [1.0]) for found in all_cases()]
    assert all(row["median"] is not None for row in judge(figures))


def test_titles_are_all_different() -> None:
    titles = [found.title for found in all_cases()]
    assert len(titles) == len(set(titles))


# ---------------------------------------------------------------------------------- the sink


def post(taker: sink.SinkProcess, target: str, body: bytes, **headers: str) -> int:
    """The status of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", taker.port)
    connection.request("POST", target, body, headers)
    with connection.getresponse() as answer:
        connection.close()
        return answer.status


def columnar(rows: int) -> bytes:
    """A MessagePack body."""
    columns = {"time": [1_790_000_000_000_000] * rows, "user": [1.5] * rows}
    return msgspec.msgpack.encode({"m": "cpu", "columns": columns})


def arrow(rows: int) -> bytes:
    """An Arrow stream."""
    table = pa.table({"user": [1.5] * rows})
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return bytes(out.getvalue())


BINARY = b"cpu,host=a user==\x10" + b"\n" * 8 + b",idle==\x10\n=\x10\n\n\n\n\n 1\n"


@pytest.mark.parametrize(
    ("target", "body", "rows"),
    [
        ("/api/v1/write/msgpack", columnar(3) + columnar(4), 7),
        ("/api/v1/write/msgpack", gzip.compress(columnar(50_000)), 50_000),
        ("/api/v1/write/arrow", arrow(5), 5),
        ("/write?precision=n", b"cpu,host=a user=1.5 1\ncpu user=2.5 2\n", 2),
        ("/write?precision=n", BINARY * 3, 3),
    ],
)
def test_the_sink_counts_the_rows_of_every_kind_of_body(
    taker: sink.SinkProcess, target: str, body: bytes, rows: int
) -> None:
    taker.reset(keep=True)
    assert post(taker, target, body) == 204
    assert taker.tally() == sink.Tally(1, len(body), rows)


def test_the_sink_reads_times_in_the_unit_of_the_header(taker: sink.SinkProcess) -> None:
    taker.reset(keep=True)
    unit = {"X-Arc-Time-Unit": "us"}
    assert post(taker, "/api/v1/write/msgpack", columnar(2), **unit) == 204
    assert taker.tally().rows == 2


def test_a_sink_that_keeps_nothing_counts_bytes_only(taker: sink.SinkProcess) -> None:
    taker.reset()
    post(taker, "/api/v1/write/msgpack", b"x" * 1000)
    assert taker.tally() == sink.Tally(1, 1000, None)


def test_a_body_that_the_daemon_would_refuse_is_an_error(taker: sink.SinkProcess) -> None:
    taker.reset(keep=True)
    post(taker, "/api/v1/write/msgpack", b"\xc1")
    with pytest.raises(sink.SinkError, match="cannot read"):
        taker.tally()


def test_the_sink_answers_what_questdb_asks_first(taker: sink.SinkProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", taker.port)
    connection.request("GET", "/settings")
    with connection.getresponse() as answer:
        assert json.loads(answer.read())["config"]["line.proto.support.versions"] == [1, 2, 3]
    connection.close()


# --------------------------------------------------------------------------------- the peers


@pytest.mark.parametrize("name", sorted(peers.INSTALLS))
def test_a_peer_that_is_missing_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    distribution, extra = peers.INSTALLS[name]
    with pytest.raises(AbsentError, match=rf"{distribution} is not .*arc\[{extra}\]"):
        peers.module(name)


def test_fewer_bytes_than_in_the_check_are_an_error(bench: Bench) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", bench.sink.port)
    bodies = iter([columnar(50_000), columnar(10_000)])

    def work(_rows: int) -> None:
        connection.request("POST", "/api/v1/write/msgpack", next(bodies))
        connection.getresponse().read()

    probe = peers.delivery(bench, work, 50_000)
    probe.check()
    with pytest.raises(CheckError, match="bytes at the sink"):
        probe.sample()
    connection.close()


def test_numbers_that_are_missing_or_doubled_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "default" / "calls_0" / "2026" / "09" / "21" / "14"
    folder.mkdir(parents=True)
    for i, numbers in enumerate(([0.0, 2.0], [1.0])):
        pq.write_table(pa.table({"user": numbers}), folder / f"{i}.parquet")
    found = bench_pipeline.stored_numbers(tmp_path, "calls_0")
    bench_pipeline.check_numbers("calls_0", found, 3)
    with pytest.raises(CheckError, match="found 3, wanted 4"):
        bench_pipeline.check_numbers("calls_0", found, 4)
    with pytest.raises(CheckError, match="doubled"):
        bench_pipeline.check_numbers("calls_0", np.array([0.0, 2.0, 2.0]), 3)


def test_a_measurement_without_files_has_no_numbers(tmp_path: Path) -> None:
    assert len(bench_pipeline.stored_numbers(tmp_path, "calls_0")) == 0


# ------------------------------------------------------------------------------ the program


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_whole_program_measures_every_case_and_tells_it_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    file = tmp_path / "out.json"
    flags = ["--json", str(file), "--directory", str(tmp_path)]
    status = main(flags, sizes=TINY)
    written = json.loads(file.read_text())
    assert [f["why"] for f in written["figures"] if f["failed"]] == []
    assert status == 0
    assert len(written["figures"]) == len(all_cases())
    for figure in written["figures"]:
        if figure["whose"] == peers.RERUN:
            assert figure["best"] is figure["samples"] is None
            assert figure["why"] == "rerun-sdk is not installed: pip install arc[peers]"
        else:
            assert len(figure["samples"]) == TINY.repeats
            assert min(figure["samples"]) > 0
    assert {row["verdict"] for row in written["targets"]} <= {"met", "missed", report.NOT_MEASURED}
    assert written["environment"]["python"]
    assert written["environment"]["filesystem"] == report.filesystem(tmp_path)
    assert written["git"].keys() == {"commit", "dirty"}
    assert written["sizes"]["calls"] == TINY.calls
    assert re.search(r"pip install\s+arc\[peers\]", capsys.readouterr().out)


def test_a_failed_check_is_the_exit_code_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [case("bad", lambda: 1.0, fail), case("good", lambda: 1.0)]
    assert main([], cases, TINY) == 1
    assert "failed: group: bad: CheckError: rows at the sink" in capsys.readouterr().out


def test_cases_are_picked_by_name(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    cases = [case("one", lambda: 1.0), case("two", lambda: 2.0)]
    assert main(["-k", "two", "--json", str(file), "--repeats", "5"], cases, TINY) == 0
    figures = json.loads(file.read_text())["figures"]
    assert [(f["name"], f["samples"]) for f in figures] == [("two", [2.0] * 5)]


def test_no_case_of_a_name_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-k", "nothing"], [case("one", lambda: 1.0)], TINY) == 2
    assert "group: one" in capsys.readouterr().out


@pytest.mark.parametrize("ways", [bench_variants.BY_NAME, bench_variants.BY_PLACE])
def test_every_way_to_take_a_row_keeps_it(ways: dict[str, Any]) -> None:
    call = (
        bench_variants.call_by_name
        if ways is bench_variants.BY_NAME
        else bench_variants.call_by_place
    )
    for name, make in ways.items():
        take, count, clear = make()
        call(take, 7)
        assert count() == 7, name
        clear()
        assert count() == 0, name


def test_a_run_needs_no_sink_that_no_case_asks_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = Bench(TINY, tmp_path, stack)
        assert run([case("x", lambda: 1.0)], found, silent)[0].best == 1.0
        assert found._opened == {}
