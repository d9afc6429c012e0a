"""Every program of benchmarks/ is run; what each ends with is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.audit import suite
from benchmarks.audit.schema import measured, missing
from benchmarks.audit.suite import SPECIAL, Program, programs, results_of, run
from tests.audit.this_tree import ROOT


def test_no_program_of_benchmarks_is_left_out() -> None:
    folder = ROOT / "benchmarks"
    named = {program.module for program in programs()}
    for path in folder.rglob("bench_*.py"):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        assert (module in named) == ("__main__" in path.read_text()), module
    assert "client" in named


def test_the_table_names_programs_that_are_there() -> None:
    assert {program.module for program in SPECIAL} <= {program.module for program in programs()}


def test_a_program_of_the_harness_gets_its_arguments_and_another_one_none(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    end = 'if __name__ == "__main__": main()\n'
    (tmp_path / "bench_a.py").write_text(f"from benchmarks.harness import Bench, main\n{end}")
    (tmp_path / "sub" / "bench_b.py").write_text(f"from benchmarks.harness import Bench\n{end}")
    (tmp_path / "sub" / "bench_c.py").write_text("from benchmarks.harness import main\n")
    harness, _, other = programs(tmp_path)
    assert harness == Program("bench_a", suite.SAMPLES, None, json=True)
    assert other == Program("sub.bench_b", (), None, json=False)


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Program:
    """A program that has this text."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "fake.py").write_text(text)
    monkeypatch.setattr(suite, "REPOSITORY", tmp_path)
    return Program("fake", (), (), json=False)


def test_a_program_without_json_keeps_the_end_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake(tmp_path, monkeypatch, "print('x' * 9000 + ' 12 ms')")
    benchmark, wrong = run(program, quick=True)
    assert wrong == ""
    assert benchmark.output.endswith(" 12 ms\n")
    assert len(benchmark.output) == suite.OUTPUT_CHARS
    assert benchmark.seconds.value


def test_a_program_that_finds_a_wrong_result_makes_the_audit_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake(tmp_path, monkeypatch, "raise SystemExit('a result is wrong')")
    benchmark, wrong = run(program, quick=True)
    assert wrong == "benchmarks.fake: it ended with 1: a result is wrong"
    assert benchmark.why


def test_a_program_that_takes_too_long_is_stopped_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "QUICK_TIMEOUT_S", 0.5)
    program = fake(tmp_path, monkeypatch, "import time; time.sleep(600)")
    benchmark, wrong = run(program, quick=True)
    assert wrong == ""
    assert benchmark.seconds == missing("s", "it was stopped after 0.5 s")


def test_a_program_that_is_not_quick_says_so() -> None:
    benchmark, wrong = run(Program("bench_heap", (), None), quick=True)
    assert (benchmark.why, wrong) == ("not run by --quick", "")


HARNESS = {"name": "a", "median_s": 2e-6, "rows": 1000, "ns_per_row": 2.0}
HARNESS |= {"samples_s": [1e-6, 2e-6]}
CLIENT = {"group": "calls", "name": "log", "whose": "", "unit": "ns", "median": None}


@pytest.mark.parametrize(
    ("report", "found"),
    [
        (
            {"results": [HARNESS]},
            {"a": measured("ns/row", 2.0, (1.0, 2.0))},
        ),
        (
            {"results": [{"cell": "10000 json", "stage": "decode", "cpu_s": 1e-3, "rows": 1000}]},
            {"10000 json decode": measured("ns/row, CPU", 1000.0)},
        ),
        (
            {"figures": [CLIENT | {"median": 361.0}]},
            {"calls: log": measured("ns", 361.0)},
        ),
        (
            {"figures": [CLIENT | {"why": "absent"}]},
            {"calls: log": missing("ns", "absent")},
        ),
        ({"results": [{"name": "other"}]}, {}),
    ],
)  # fmt: skip
def test_every_format_of_json_is_read(report: dict[str, Any], found: dict[str, Any]) -> None:
    made = results_of(report)
    assert {name: (f.unit, f.why) for name, f in made.items()} == {
        name: (f.unit, f.why) for name, f in found.items()
    }
    assert [f.value for f in made.values()] == pytest.approx([f.value for f in found.values()])
