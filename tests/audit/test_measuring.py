"""The small programs that measure: limits, curves, imports, the profile's shares."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.audit import budget, loaded, package, physical, scaling
from benchmarks.audit.parts import FULL, Audit
from benchmarks.audit.progress import Steps
from benchmarks.load.daemon import DaemonError
from benchmarks.load.spec import LoadSpec
from benchmarks.profiling.samples import WorkerSamples, parse_raw

SIZES = scaling.Sizes(
    rows=(100,), columns=(3, 30), measurements=(3,), total_rows=400, total_values=9_000, repeats=1
)
RAW = """
thread (7): MainThread;run (arc/worker.py:9);decode (ingest/msgpack_decoder.py:20) 30
thread (9): arc-flush_0;build_tables (ingest/table_build.py:20) 10
"""


def test_each_limit_is_measured_and_belongs_to_a_stage() -> None:
    found = physical.limits(rows=2_000, repeats=2)
    assert [share.name for share in found] == list(budget.LIMIT_OF.values())
    for share in found:
        assert share.figure.value is not None
        assert len(share.figure.repeats) == 2


def test_what_is_sent_over_loopback_is_all_received() -> None:
    assert physical.receive_ns(bodies=20) > 0


def test_curves_go_over_rows_columns_and_measurements() -> None:
    curves, wrong = scaling.curves(SIZES)
    assert wrong == []
    assert {curve.over: [n for n, _ in curve.points] for curve in curves} == {
        "rows": [100],
        "columns": [3, 30],
        "measurements": [3],
    }
    for curve in curves:
        unit = "ns/value" if curve.over == "columns" else "ns/row"
        assert all(f.value and f.unit == unit and len(f.repeats) == 1 for _, f in curve.points)


def test_rows_that_a_curve_misses_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_measure", lambda point: (1.0, 5))
    _, wrong = scaling.curves(SIZES)
    assert wrong[0] == "scaling over rows, 100: 400 rows were sent, 5 are stored"


def test_a_part_that_cannot_be_imported_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "PARTS", ("nothing", "no_such_module"))
    one, other = package.import_times(2)
    assert one.figure.value
    assert len(one.figure.repeats) == 2
    assert other.figure.value is None
    assert "No module named 'no_such_module'" in other.figure.why


def test_without_a_build_backend_there_is_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "BACKEND", "no_such_backend")
    found = package.wheel_bytes()
    assert found.value is None
    assert "no_such_backend is not installed" in found.why


def test_hotspots_and_stages_come_from_the_samples() -> None:
    samples = [WorkerSamples(0, 7, 100, 100, 0, parse_raw(RAW))]
    first, second = loaded.hotspots(samples)
    assert (first.function, first.file, first.line) == ("decode", "ingest/msgpack_decoder.py", 20)
    assert (first.self_share, second.self_share) == (0.75, 0.25)
    shares = {share.name: share.figure.value for share in loaded.stage_shares(samples, "")}
    assert shares["decode"] == pytest.approx(0.75)
    assert shares["table building"] == pytest.approx(0.25)
    assert "idle" not in shares


def test_without_samples_every_stage_says_why() -> None:
    shares = loaded.stage_shares([], "process 7 may not be read")
    assert {(s.figure.value, s.figure.why) for s in shares} == {(None, "process 7 may not be read")}


def test_a_daemon_that_does_not_start_is_wrong_and_leaves_reasons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> loaded.Outcome:
        raise DaemonError("the daemon did not start: no port")

    monkeypatch.setattr(loaded, "run", fail)
    audit = Audit(FULL, ("load",), Steps(9, Console(file=io.StringIO())))
    metrics = audit.run()
    assert audit.wrong == 3 * ["load: the daemon did not start: no port"]
    assert metrics.load == ()
    figures = [f for curve in metrics.scaling[-2:] for _, f in curve.points]
    assert {f.why for f in figures} == {"the daemon did not start: no port"}
    assert audit.why_no_hotspots == "the daemon did not start: no port"


def test_a_load_is_named_with_its_level() -> None:
    spec = LoadSpec(seconds=3, connections=16)
    assert loaded.describe(spec) == (
        "c as columnar, 1,000 rows a request, 16 connections, 3 s, level page"
    )
