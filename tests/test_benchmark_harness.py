"""The runner of the stage benchmarks: it checks before it times, and says what it found."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import Bench, Result, main, run


def accept(_result: Any) -> None:
    """Any result will do."""


def refuse(result: Any) -> None:
    """No result will do."""
    raise AssertionError(f"wrong: {result!r}")


def bench(name: str = "sum", **changes: Any) -> Bench:
    """A benchmark of some microseconds."""
    fields: dict[str, Any] = {
        "name": name,
        "fn": lambda: sum(range(100)),
        "rows": 100,
        "nbytes": 800,
        "check": accept,
    }
    return Bench(**fields | changes)


def test_every_benchmark_gets_as_many_samples_as_asked_for() -> None:
    results = run([bench("one"), bench("two")], repeats=3, min_sample_s=0.0001)
    assert [(r.name, len(r.samples_s)) for r in results] == [("one", 3), ("two", 3)]


def test_benchmarks_of_a_run_alternate() -> None:
    calls: list[str] = []
    pair = [
        bench(name, fn=lambda _fresh, name=name: calls.append(name), setup=list) for name in "AB"
    ]
    run(pair, repeats=5, min_sample_s=0)
    assert "".join(calls[4:-2]) == "AB" * 5


def test_a_setup_makes_a_fresh_input_for_every_call() -> None:
    inputs: list[list[int]] = []

    def consume(fresh: list[int]) -> int:
        inputs.append(fresh)
        return fresh.pop()

    run([bench(fn=consume, setup=lambda: [1])], repeats=5)
    assert all(not used for used in inputs)
    assert len({id(used) for used in inputs}) == len(inputs)


def test_memory_that_a_call_takes_shows_as_its_peak() -> None:
    def touch() -> int:
        # Straight from the system: the heap may have as much left of earlier tests.
        memory = np.frombuffer(mmap.mmap(-1, 64_000_000), np.uint8)
        memory.fill(1)
        return len(memory)

    assert run([bench(fn=touch)], repeats=1, min_sample_s=0)[0].peak_bytes > 50_000_000


def test_derived_figures_follow_from_the_median() -> None:
    result = Result("x", rows=1000, nbytes=8000, samples_s=[0.001, 0.002, 0.004], peak_bytes=1)
    figures = result.to_dict()
    assert figures["rows_per_s"] == pytest.approx(500_000)
    assert figures["bytes_per_s"] == pytest.approx(4_000_000)
    assert figures["ns_per_row"] == pytest.approx(2000)
    assert figures["spread"] == pytest.approx(1.5)


def test_main_writes_the_samples_and_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    flags = ["--repeats", "2", "--min-sample-s", "0.0001", "--json", str(file), "-k", "two"]
    assert main([bench("one"), bench("two")], flags) == 0
    report = json.loads(file.read_text())
    assert [result["name"] for result in report["results"]] == ["two"]
    assert report["environment"]["cpus"] >= 1


def test_main_fails_on_a_wrong_result_and_times_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bench(check=refuse)], []) == 1
    assert "wrong" in capsys.readouterr().out


def test_main_names_the_benchmarks_when_none_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bench("decode")], ["-k", "nothing"]) == 1
    assert "decode" in capsys.readouterr().out
