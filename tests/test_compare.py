"""The comparison of two runs of the benchmarks: changes beyond noise, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rounds
from benchmarks.compare import (
    Better,
    Cell,
    Change,
    Figures,
    NotComparableError,
    compare,
    regressions,
    remarks,
    table,
)

ROOT = Path(__file__).resolve().parent.parent
STEADY = (1.0, 1.01, 1.0, 0.99, 1.0)


def figures(*cells: Cell, quick: bool = False, yardstick: float = 1.0) -> Figures:
    """A run with a yardstick that took so long."""
    stick = Cell("yardstick python", "ms", Better.LOWER, tuple(yardstick * x for x in STEADY))
    return Figures((stick, *cells), len(STEADY), quick)


def cell(factor: float, better: Better = Better.LOWER, noise: float = 1.0) -> Cell:
    """A cell around `factor`, its spread stretched by `noise`."""
    return Cell("stage", "ns/row", better, tuple(factor * (1 + (x - 1) * noise) for x in STEADY))


@pytest.mark.parametrize(
    ("better", "factor", "change"),
    [
        (Better.LOWER, 1.1, Change.WORSE),
        (Better.LOWER, 0.9, Change.BETTER),
        (Better.LOWER, 1.02, Change.SAME),
        (Better.HIGHER, 0.9, Change.WORSE),
        (Better.HIGHER, 1.1, Change.BETTER),
        (Better.HIGHER, 0.98, Change.SAME),
    ],
)
def test_a_change_beyond_the_noise_is_told_by_its_direction(
    better: Better, factor: float, change: Change
) -> None:
    judged = compare(figures(cell(100, better)), figures(cell(100 * factor, better)))
    assert judged[0].change is change
    assert bool(regressions(judged)) == (change is Change.WORSE)


@pytest.mark.parametrize("noisy", ["before", "now"])
def test_what_the_rounds_spread_over_is_no_change(noisy: str) -> None:
    wild, calm = 12.0, 1.0
    before = figures(cell(100, noise=wild if noisy == "before" else calm))
    now = figures(cell(115, noise=wild if noisy == "now" else calm))
    assert regressions(compare(before, now)) == []
    assert any("too noisy" in text for text in remarks(before, now, compare(before, now)))


def test_what_the_machine_itself_lost_is_no_change() -> None:
    before, slower = figures(cell(100)), figures(cell(130), yardstick=1.4)
    judged = compare(before, slower)
    assert regressions(judged) == []
    assert any("yardstick moved by 40%" in text for text in remarks(before, slower, judged))
    assert regressions(compare(before, figures(cell(150), yardstick=1.4)))


def test_the_yardstick_itself_is_never_a_regression() -> None:
    judged = compare(figures(cell(100)), figures(cell(100), yardstick=2.0))
    assert judged[-1].change is Change.WORSE
    assert regressions(judged) == []


def test_cells_of_one_run_only_are_named_and_not_judged() -> None:
    other = Cell("new stage", "ns/row", Better.LOWER, STEADY)
    before, now = figures(cell(100)), figures(cell(100), other)
    judged = compare(before, now)
    assert [one.now.name for one in judged] == ["stage", "yardstick python"]
    assert remarks(before, now, judged) == ["in one of the two only, and not judged: new stage"]
    assert table(judged).row_count == 2


def test_runs_without_a_common_cell_are_refused() -> None:
    with pytest.raises(NotComparableError, match="make a new baseline"):
        compare(figures(), figures(cell(1)))


# ----------------------------------------------------------------------------------------- rounds


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "baseline.json"
    rounds._write(path, figures(cell(3), quick=True))
    assert rounds._read(path) == figures(cell(3), quick=True)
    assert [one.name for one in path.parent.iterdir()] == ["baseline.json"]


def test_without_a_baseline_it_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rounds.main(["compare", "--baseline", str(tmp_path / "none.json")]) == 2
    assert "make bench-baseline" in capsys.readouterr().err


def test_compare_fails_on_a_regression_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    rounds._write(path, figures(cell(100)))

    def measured(now: float) -> int:
        def measure(*_: Any) -> Figures:
            return figures(cell(now))

        monkeypatch.setattr(rounds, "measure", measure)
        return rounds.main(["compare", "--baseline", str(path)])

    assert [measured(now) for now in (101.0, 80.0, 120.0)] == [0, 0, 1]
    assert "worse by more than noise: stage" in capsys.readouterr().out


def test_a_benchmark_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(rounds.RoundError, match=r"No module named benchmarks\.bench_nothing"):
        rounds._stage(rounds.Stage("bench_nothing", "word"))


def test_every_listed_benchmark_is_a_module() -> None:
    for stage in (*rounds.STAGES, *rounds.QUICK_STAGES):
        assert (ROOT / "benchmarks" / f"{stage.module}.py").is_file()


def test_the_yardstick_has_two_values_above_nothing() -> None:
    found = rounds.yardstick()
    assert [one.name for one in found] == ["yardstick python", "yardstick memory"]
    assert all(one.value > 0 for one in found)


# --------------------------------------------------------------------------------------- Makefile


def run_make(*arguments: str) -> str:
    command = ["make", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_make_alone_lists_the_targets() -> None:
    said = run_make()
    for name in ("bench", "bench-baseline", "bench-compare", "flamegraph", "profile-all", "audit"):
        assert f"  make {name} " in said


def test_every_target_runs_scripts_that_exist_with_the_python_that_was_named() -> None:
    targets = ["bench", "bench-baseline", "bench-compare", "profile-all", "audit"]
    lines = run_make("--dry-run", f"PYTHON={sys.executable}", *targets).splitlines()
    calls = [line.split() for line in lines if line.startswith(sys.executable)]
    assert len(calls) == 7
    assert all((ROOT / words[1]).is_file() for words in calls)
    assert "start.sh" not in " ".join(lines)
