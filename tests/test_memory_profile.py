"""The memory profiler: trends of known slope, memory of known size, real workers end to end."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import launcher
from benchmarks.load.client import Outcome
from benchmarks.load.daemon import Daemon, start
from benchmarks.load.generator import run_load
from benchmarks.load.oracle import Verdict, verify
from benchmarks.load.spec import LoadSpec
from benchmarks.memory import attach, cli, report
from benchmarks.memory.allocations import (
    Allocations,
    NotReadableError,
    place_of,
    read_all,
    shortened,
)
from benchmarks.memory.readback import read_back
from benchmarks.memory.resident import ALL, Resident, ResidentSampler, Series, resident_now
from benchmarks.memory.soak import MEASURES, Soak, SoakError, SoakPlan, soak
from benchmarks.memory.trend import Leak, Trend, student_t, trend
from benchmarks.memory.worker import GLOB, TrackOptions
from benchmarks.profiling.daemon import Worker
from benchmarks.profiling.samples import Frame
from benchmarks.profiling.stages import Stage

MIB = 2**20
DAY_S = 86_400

# ------------------------------------------------------------------------------------------ trend


def sawtooth(
    seconds: int, slope: float, seed: int, *, noise: float = 8 * MIB, memory_s: float = 5.0
) -> tuple[Any, Any]:
    """Memory that goes up and down by chance, knows its past for `memory_s`, and grows."""
    random = np.random.default_rng(seed)
    kept = math.exp(-1 / memory_s)
    value, out = 0.0, np.empty(seconds)
    for i, step in enumerate(random.normal(size=seconds)):
        value = kept * value + math.sqrt(1 - kept**2) * step
        out[i] = value
    times = np.arange(seconds, dtype=np.float64)
    return times, 1_000 * MIB + slope * times + noise * out


def test_a_line_without_noise_is_found_exactly() -> None:
    times = np.arange(600.0)
    found = trend(times, 5e8 + 1234.5 * times)
    assert found.slope == pytest.approx(1234.5)
    assert found.low == pytest.approx(found.high)
    assert found.per_day()[0] == pytest.approx(1234.5 * DAY_S)


@pytest.mark.parametrize("memory_s", [0.5, 8.0])
def test_the_interval_holds_the_true_slope_as_often_as_it_says(memory_s: float) -> None:
    slope, held, runs = 2_000.0, 0, 200
    for seed in range(runs):
        found = trend(*sawtooth(1_200, slope, seed, memory_s=memory_s))
        held += found.low <= slope <= found.high
    assert 0.90 <= held / runs <= 0.99


def test_an_interval_that_took_seconds_for_independent_would_be_too_narrow() -> None:
    # What blocks are for: as many blocks as seconds is the usual fit.
    slope, runs = 2_000.0, 100
    held = sum(
        abs(naive.slope - slope) <= naive.high - naive.slope
        for naive in (
            _by_seconds(*sawtooth(1_200, slope, seed, memory_s=8)) for seed in range(runs)
        )
    )
    assert held / runs < 0.75


def _by_seconds(times: Any, values: Any) -> Trend:
    x = times - times.mean()
    slope = float((x * values).sum() / (x * x).sum())
    rest = values - values.mean() - slope * x
    half = 1.96 * math.sqrt(float((rest**2).sum()) / (len(x) - 2) / float((x * x).sum()))
    return Trend(slope, slope - half, slope + half, len(x), 1, 0, float(times[-1]), 0)


def test_a_leak_is_told_from_none_and_from_what_nobody_knows_yet() -> None:
    limit = 50 * MIB
    leaking = trend(*sawtooth(1_800, 5 * limit / DAY_S, 1, noise=MIB))
    steady = trend(*sawtooth(1_800, 0.0, 2, noise=MIB / 4))
    short = trend(*sawtooth(60, 0.0, 3))
    falling = trend(*sawtooth(1_800, -5 * limit / DAY_S, 4, noise=MIB / 4))
    verdicts = [found.verdict(limit) for found in (leaking, steady, short, falling)]
    assert verdicts == [Leak.YES, Leak.NO, Leak.UNDECIDED, Leak.UNDECIDED]
    needed_s = short.seconds_to_decide(limit)
    assert needed_s > short.seconds


def test_a_series_too_short_for_a_trend_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend(np.arange(10.0), np.arange(10.0))


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(6, 2.4469), (10, 2.2281), (30, 2.0423), (46, 2.0129)]
)
def test_quantiles_of_student_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, rel=2e-3)


# ---------------------------------------------------------------------------------- resident memory


def test_memory_of_a_process_is_what_it_touches() -> None:
    before = resident_now(os.getpid())
    held = np.ones(64 * MIB, dtype=np.uint8)
    after = resident_now(os.getpid())
    assert before is not None
    assert after is not None
    for measure in MEASURES:
        grown = getattr(after, measure) - getattr(before, measure)
        assert 0.8 * held.nbytes < grown < 1.5 * held.nbytes, measure


def test_a_process_that_is_gone_has_no_memory() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert resident_now(done.pid) is None


def test_a_tree_is_watched_process_by_process_and_as_a_whole() -> None:
    code = "import subprocess,sys; subprocess.run([sys.executable,'-c','input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        with ResidentSampler(parent.pid, second_s=0.05) as sampler:
            while len(sampler.processes) < 2:
                assert parent.poll() is None
        parent.communicate(b"\n")
    assert parent.pid in sampler.processes
    last = {pid: one.values[-1] for pid, one in sampler.processes.items()}
    assert sampler.total.values[-1].rss <= sum(value.rss for value in last.values()) * 1.01


# -------------------------------------------------------------------------------------- allocations


def test_the_innermost_known_frame_decides_the_stage_of_an_allocation() -> None:
    loop = Frame("run", "/x/asyncio/runners.py", 1)
    decode = Frame("_fill", "/x/ingest/msgpack_decoder.py", 155)
    numpy = Frame("empty", "/x/site-packages/numpy/core.py", 3)
    assert place_of((loop, decode, numpy))[2:] == (3, Stage.DECODE)
    assert place_of((Frame("select", "/x/selectors.py", 2),)).stage is Stage.OTHER
    assert place_of(()).function == "unknown"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/opt/arc/ingest/otlp/fast.py", "ingest/otlp/fast.py"),
        ("/x/venv/lib/python3.13/site-packages/pyarrow/parquet/core.py", "pyarrow/parquet/core.py"),
        ("/usr/lib/python3.13/asyncio/events.py", "asyncio/events.py"),
    ],
)
def test_paths_are_shown_from_their_package_on(path: str, shown: str) -> None:
    assert shortened(path) == shown


def test_a_file_that_is_none_of_memray_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.bin"
    path.write_bytes(b"something else")
    with pytest.raises(NotReadableError, match=r"worker-1\.bin"):
        read_all([path])


# ---------------------------------------------------------------------------- a daemon under memray


class Recorded:
    """A daemon that ran under memray with its load, and what it left."""

    def __init__(self, folder: Path) -> None:
        options = TrackOptions(str(folder)).to_argument()
        flags = ["--workers", "1", "--query-concurrency", "0", "--durability", "page"]
        command = launcher.command("benchmarks.memory.worker", options)
        self.data_dir = folder / "data"
        self.spec = LoadSpec(
            rate=200_000, seconds=0.5, warmup_s=0.0, connections=2, bodies=16, database="profiled"
        )
        daemon = start(self.data_dir, flags, set(), command)
        try:
            self.load = run_load(self.spec, daemon.address)
            self.exit_code, _ = daemon.stop()
        finally:
            daemon.abandon()
        self.found = read_all(sorted(folder.glob(GLOB)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("memray")
    yield Recorded(folder)
    shutil.rmtree(folder)


@pytest.mark.e2e
def test_a_daemon_under_memray_stores_its_rows_and_tells_where_bytes_went(
    recorded: Recorded,
) -> None:
    rows = recorded.load.acknowledged_rows()
    assert recorded.exit_code == 0
    assert rows > 0
    assert verify(recorded.spec, recorded.load.outcomes(), recorded.data_dir).faults() == {}
    stages = recorded.found.stages
    assert {Stage.HTTP, Stage.DECODE, Stage.TABLE, Stage.PARQUET} <= stages.keys()
    # Six columns of 8 bytes are allocated once by the decoder, strings a little more.
    assert 40 < stages[Stage.DECODE].allocated_bytes / rows < 120
    whole = recorded.found.total
    assert whole.left_bytes <= whole.peak_bytes <= whole.allocated_bytes
    assert sum(a.allocations for a in recorded.found.places.values()) == whole.allocations


@pytest.mark.e2e
def test_the_tables_and_the_json_say_the_same(recorded: Recorded) -> None:
    found, rows = recorded.found, recorded.load.acknowledged_rows()
    figures = json.loads(json.dumps(found.to_dict(rows, 5)))
    assert figures["allocated_bytes"] == found.total.allocated_bytes
    assert len(figures["places"]) == 5
    assert found.to_dict(None, 1)["allocated_bytes_per_row"] is None
    assert report.stage_table(found, rows).row_count == len(found.stages) + 1
    assert f"{rows:,} records" in report.summary(found, rows)
    assert "is anything being sent" in report.summary(found, 0)


@pytest.mark.e2e
def test_rows_read_back_in_pieces_are_those_read_back_at_once(recorded: Recorded) -> None:
    spec, outcomes = recorded.spec, recorded.load.outcomes()
    pieces: list[tuple[int, int]] = []
    whole = verify(spec, outcomes, recorded.data_dir)
    split = read_back(
        spec,
        outcomes,
        recorded.data_dir,
        lambda done, of: pieces.append((done, of)),
        piece_rows=whole.stored // 4,
    )
    assert len(pieces) == pieces[-1][1] > 1
    compared, split.compared = split.compared, whole.compared
    assert split == whole
    assert compared >= whole.compared


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda outcomes: outcomes[:-32], "ghost"),
        (lambda outcomes: np.append(outcomes, np.full(32, Outcome.ACKNOWLEDGED)), "missing"),
    ],
)
def test_pieces_find_rows_too_many_and_too_few(recorded: Recorded, change: Any, fault: str) -> None:
    changed = change(recorded.load.outcomes())
    found = read_back(recorded.spec, changed, recorded.data_dir, piece_rows=32 * 1_000)
    assert found.faults().keys() & {"ghost", "missing"} == {fault}


# ------------------------------------------------------------------------------------------- attach


def test_without_a_debugger_it_says_what_is_missing_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(attach.AttachError, match=r"neither gdb nor lldb(.|\n)*--load"),
        attach.attached([Worker(0, os.getpid())], 1, tmp_path, TrackOptions(str(tmp_path))),
    ):
        pass


def test_a_refused_attach_names_the_permission_that_is_missing() -> None:
    refused = "Failed to attach a debugger.\nYou most likely do not have permission to trace."
    assert "ptrace_scope=0" in attach.not_attached(7, refused, root=False, scope=1)
    assert "SYS_PTRACE" in attach.not_attached(7, refused, root=True, scope=None)
    assert "--load" in attach.not_attached(7, "who knows", root=False, scope=None)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An ordinary daemon of one worker."""
    folder = tmp_path_factory.mktemp("attached")
    started = start(folder, ["--workers", "1", "--query-concurrency", "0"], set())
    yield started
    started.abandon()


@pytest.mark.e2e
@pytest.mark.skipif(not any(map(shutil.which, attach.DEBUGGERS)), reason="no debugger here")
def test_memray_gets_into_a_running_worker_and_out_again(daemon: Daemon, tmp_path: Path) -> None:
    worker = Worker(0, daemon.info["workers"][0]["pid"])
    spec = LoadSpec(seconds=0.2, warmup_s=0.0, connections=1, bodies=1, database="attached")
    try:
        with attach.attached([worker], 5, daemon.data_dir, TrackOptions(str(tmp_path))) as tracked:
            load = run_load(spec, daemon.address)
    except attach.AttachError as error:
        pytest.skip(f"this machine does not let processes be traced: {error}")
    [path] = tmp_path.glob(GLOB)
    assert tracked.rows == load.acknowledged_rows() > 0
    assert read_all([path]).stages[Stage.DECODE].allocated_bytes > 0
    again = run_load(spec, daemon.address)  # it goes on as before
    assert again.acknowledged_rows() > 0


# --------------------------------------------------------------------------------------------- soak


def no_tell(_text: str, _must: bool) -> None:
    return None


@pytest.mark.e2e
def test_a_soak_holds_its_rate_reads_its_rows_back_and_draws_its_trend(tmp_path: Path) -> None:
    spec = LoadSpec(seconds=2.5, warmup_s=0.1, connections=2, bodies=16, database="soak")
    plan = SoakPlan(
        spec,
        tmp_path,
        ["--workers", "1", "--query-concurrency", "0", "--durability", "memory"],
        rate=20_000,
        second_s=0.05,
    )
    found = soak(plan, no_tell)
    assert found.problems() == []
    assert found.verdict.stored == found.load.acknowledged_rows() > 0
    assert found.budget_bytes == 2**30
    assert found.limit_bytes_a_day == pytest.approx(0.05 * 2**30)
    assert {name for name, _ in found.trends} > {ALL}
    figures = json.loads(json.dumps(found.to_dict(), default=str))
    assert len(figures["series"]["rss"]) == len(figures["series"]["times_s"]) > 20
    assert figures["leak"] in set(Leak)
    assert report.picture(found).count("<polyline") == len(MEASURES) + 1
    assert report.trend_table(found).row_count >= 3


def test_a_soak_that_is_too_short_is_refused_before_anything_starts(tmp_path: Path) -> None:
    plan = SoakPlan(LoadSpec(seconds=15.0), tmp_path / "none", settle_s=5)
    with pytest.raises(SoakError, match="make it longer"):
        soak(plan, no_tell)
    assert not (tmp_path / "none").exists()


def made_up(slope_mib_a_day: float) -> Soak:
    """A soak of an hour whose memory follows a line."""
    total = Series(0, ALL)
    for second in range(3_600):
        held = 500 * MIB + slope_mib_a_day * MIB / DAY_S * second + (second % 2) * 1_000
        total.add(float(second), Resident(held, held, held))
    load: Any = None
    out = Soak(None, 1e6, 2**30, 0.0, 3_600.0, total, [], load, Verdict(), 0)
    times, values_ = total.between(0, 3_600, "anonymous")
    out.trends = {(ALL, measure): trend(times, values_) for measure in MEASURES}
    return out


def test_the_verdict_is_said_in_words_with_the_limit_beside_it() -> None:
    assert report.verdict(made_up(500))[0].startswith("leak: anonymous memory +500.0 MiB a day")
    grows, and_so = report.verdict(made_up(20))
    assert grows.startswith("no leak")
    assert "allowed 51.2" in grows
    assert and_so == "it does grow, by less than what is allowed"
    assert "has not settled" in report.verdict(made_up(-500))[1]


# ------------------------------------------------------------------------------------ command line


def test_without_a_daemon_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["1", "--data-dir", str(tmp_path), "--output-dir", str(tmp_path)]) == 2
    assert "daemon.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["5", "--load"], ["--load", "--soak"], ["--", "--workers", "1"]]
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)


def test_allocations_of_nothing_are_nothing() -> None:
    assert Allocations().to_dict(0, 3)["allocated_bytes_per_row"] is None
