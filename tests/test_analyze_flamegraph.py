"""Profiles read back from files, ranked, and compared; and the program that does it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.profiler import collapsed, flamegraph, speedscope
from arc.profiler.samples import Frame, Stack, WorkerSamples
from arc.profiler.stages import Stage
from benchmarks.profiling import compare, tree
from benchmarks.profiling.read_profile import NotAProfileError, Profile, read_profile

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "analyze_flamegraph.py"

RUN = Frame("Runner.run", "asyncio/runners.py", 118)
DOOR = Frame("Connection.buffer_updated", "arc/fast_door.py", 300)
DECODE = Frame("decode", "ingest/msgpack_decoder.py", 100)
WRITE = Frame("ParquetWriter.write_table", "pyarrow/parquet/core.py", 2000)
WAITS = Frame("EpollSelector.select", "selectors.py", 400)
STACKS = {
    Stack("MainThread", (RUN,)): 10,
    Stack("MainThread", (RUN, DOOR)): 30,
    Stack("MainThread", (RUN, DOOR, DECODE)): 40,
    Stack("arc-flush", (Frame("_worker", "concurrent/futures/thread.py", 92), WRITE)): 20,
}


def samples(stacks: dict[Stack, int]) -> WorkerSamples:
    return WorkerSamples(shard=0, pid=7, rate_hz=100, rounds=1000, lost=0, stacks=stacks)


def write(folder: Path, kind: str, stacks: dict[Stack, int] = STACKS) -> Path:
    """A file as the kit writes it."""
    worker = samples(stacks)
    texts = {
        "svg": lambda: flamegraph.render([worker], "title", "subtitle"),
        "json": lambda: json.dumps(speedscope.speedscope_file([worker], "name")),
        "txt": lambda: collapsed.collapsed([worker]),
    }
    path = folder / f"profile.{kind}"
    path.write_text(texts[kind](), encoding="utf-8")
    return path


def without_lines(stacks: dict[Stack, int]) -> Counter[Stack]:
    plain: Counter[Stack] = Counter()
    for stack, count in stacks.items():
        plain[Stack(stack.thread, tuple(f._replace(line=0) for f in stack.frames))] += count
    return plain


@pytest.mark.parametrize("kind", ["svg", "json", "txt"])
def test_what_the_kit_writes_is_read_back(tmp_path: Path, kind: str) -> None:
    profile = read_profile(write(tmp_path, kind))
    assert without_lines(dict(profile.stacks)) == without_lines(STACKS)
    assert profile.samples == 100
    assert profile.seconds == (None if kind == "txt" else pytest.approx(1.0))


@given(
    st.dictionaries(
        st.lists(st.sampled_from([RUN, DOOR, DECODE, WRITE]), min_size=1, max_size=5).map(tuple),
        st.integers(min_value=1, max_value=500),
        min_size=1,
        max_size=8,
    )
)
def test_a_flame_graph_loses_no_sample(paths: dict[tuple[Frame, ...], int]) -> None:
    stacks = {Stack("arc-flush", path): count for path, count in paths.items()}
    svg = flamegraph.render([samples(stacks)], "", "")
    path = Path("unused.svg")
    found = read_svg(path, svg)
    assert without_lines(dict(found.stacks)) == without_lines(stacks)


def read_svg(path: Path, text: str) -> Profile:
    from benchmarks.profiling import read_profile as module

    return module._read_svg(path, text)


PY_SPY_SCOPE: dict[str, Any] = {
    "$schema": "https://www.speedscope.app/file-format-schema.json",
    "profiles": [
        {
            "type": "sampled",
            "name": 'Process 7 Thread 7 "MainThread"',
            "unit": "seconds",
            "startValue": 0.0,
            "endValue": 0.03,
            "samples": [[0, 1], [0, 1], [0]],
            "weights": [0.01, 0.01, 0.01],
        }
    ],
    "shared": {
        "frames": [
            {"name": "run", "file": "/x/lib/python3.13/asyncio/runners.py", "line": 3, "col": None},
            {"name": "decode", "file": "/y/ingest/msgpack_decoder.py", "line": 9, "col": None},
        ]
    },
}


def test_speedscope_files_of_py_spy_are_read_with_short_paths(tmp_path: Path) -> None:
    path = tmp_path / "py-spy.json"
    path.write_text(json.dumps(PY_SPY_SCOPE), encoding="utf-8")
    profile = read_profile(path)
    run = Frame("run", "asyncio/runners.py", 3)
    assert profile.stacks == {
        Stack("MainThread", (run, Frame("decode", "ingest/msgpack_decoder.py", 9))): 2,
        Stack("MainThread", (run,)): 1,
    }
    assert profile.seconds == pytest.approx(0.03)


TREE = (
    'process 5:"python -m arc serve";thread (5): MainThread;main (arc/cli.py:1) 2\n'
    'process 5:"python -m arc serve";process 7:"python -m arc.template arc.worker";'
    "thread (7): MainThread;decode (ingest/msgpack_decoder.py:3) 5\n"
)


def test_raw_stacks_of_a_tree_of_processes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tree.txt"
    path.write_text(TREE, encoding="utf-8")
    assert without_lines(dict(read_profile(path).stacks)) == {
        Stack("MainThread", (Frame("main", "arc/cli.py"),)): 2,
        Stack("MainThread", (Frame("decode", "ingest/msgpack_decoder.py"),)): 5,
    }
    assert tree.split(TREE) == {
        5: "thread (5): MainThread;main (arc/cli.py:1) 2",
        7: "thread (7): MainThread;decode (ingest/msgpack_decoder.py:3) 5",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "without a single sample"),
        (b"#!/bin/sh\nexit 0\n", "not a line of py-spy's raw format"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "not a text file"),
        (b"{}", "not of speedscope"),
        (b'{"a": ', "not of speedscope"),
        (b'{"shared": {"frames": []}, "profiles": []}', "without a single sample"),
        (b"<svg", "not whole"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "of other tools'"),
        (b"<html></html>", "of other tools'"),
        (json.dumps(PY_SPY_SCOPE).replace("[0, 1]", "[0, 9]").encode(), "damaged"),
        (json.dumps(PY_SPY_SCOPE).replace("sampled", "evented").encode(), "wanted 'sampled'"),
        (json.dumps(PY_SPY_SCOPE).replace("[0]]", "[0], [0]]").encode(), "damaged"),
    ],
)
def test_what_is_no_profile_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(NotAProfileError, match=words) as caught:
        read_profile(path)
    assert str(path) in str(caught.value)


# --------------------------------------------------------------------------------------- figures


def test_functions_stages_and_threads_are_ranked_and_what_waits_is_left_out() -> None:
    found = compare.analyze(STACKS | {Stack("MainThread", (RUN, WAITS)): 500})
    assert found.samples == 100
    assert [(row.name, row.own) for row in found.stages] == [
        (Stage.HTTP, 40),
        (Stage.DECODE, 40),
        (Stage.PARQUET, 20),
    ]
    assert [(row.name, row.own) for row in found.threads] == [("MainThread", 80), ("arc-flush", 20)]
    top = found.functions[0]
    assert (top.name, top.stage) == ("decode (ingest/msgpack_decoder.py)", "decode")
    run = next(row for row in found.functions if row.name.startswith("Runner.run"))
    assert (run.own, run.total, run.share, run.total_share) == (10, 80, 0.1, 0.8)


def test_a_difference_is_told_from_what_sampling_makes() -> None:
    assert compare.standard_error(0.5, 100) == pytest.approx(0.05)
    grown = STACKS | {Stack("MainThread", (RUN, DOOR, DECODE)): 140}
    before, after = compare.analyze(STACKS), compare.analyze(grown)
    rows = {
        row.name: row
        for row in compare.changes(before.stages, after.stages, before.samples, after.samples)
    }
    decode, parquet = rows[Stage.DECODE], rows[Stage.PARQUET]
    assert decode.difference == pytest.approx(0.7 - 0.4)
    together = (40 + 140) / 300
    assert decode.error == pytest.approx(math.sqrt(together * (1 - together) * (1 / 100 + 1 / 200)))
    assert not decode.is_noise
    assert parquet.difference == pytest.approx(0.1 - 0.2)
    assert {row.name for row in rows.values() if row.is_noise} == set()
    [rare] = compare.changes([], [compare.Share("f", "", 5, 5, 0.025, 0.025)], 100, 200)
    assert rare.is_noise  # a few samples against none
    same = compare.changes(before.stages, before.stages, before.samples, before.samples)
    assert all(row.is_noise and row.difference == 0 for row in same if row.error)


def test_what_is_in_one_profile_only_is_a_change_from_or_to_nothing() -> None:
    before = compare.analyze({Stack("MainThread", (RUN,)): 100})
    after = compare.analyze({Stack("MainThread", (RUN, DECODE)): 100})
    rows = compare.changes(before.functions, after.functions, 100, 100)
    found = {row.name.partition(" ")[0]: (row.before, row.after) for row in rows}
    assert found == {"Runner.run": (1.0, 0.0), "decode": (0.0, 1.0)}


# --------------------------------------------------------------------------------------- program


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_ranks_one_profile_and_compares_two(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first = write(tmp_path, "svg")
    grown = STACKS | {Stack("MainThread", (RUN, DOOR, DECODE)): 400}
    second = write(tmp_path / "b", "txt", grown)
    done = analyze(first, "--top", "2")
    assert done.returncode == 0, done.stderr
    assert "Top 2 of 5 functions" in done.stdout
    done = analyze(first, second, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [profile["samples"] for profile in told["profiles"]] == [100, 460]
    decode = next(row for row in told["changes"]["stages"] if row["name"] == "decode")
    assert decode["difference"] > 0.4
    assert not decode["is_noise"]
    assert "+47.0" in analyze(first, second).stdout


def test_the_program_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    done = analyze(tmp_path / "nothing.svg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing.svg: No such file or directory" in done.stderr
