"""System calls that fail on demand: the means, and a daemon that goes on through them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.torture import strace
from benchmarks.torture.inject import CALLS, ERRORS, GROUPS, Faults, grid
from benchmarks.torture.program import Context

#: Writes and syncs a file for each line that it reads, and says what came of it.
WRITER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for line in sys.stdin:
    try:
        os.pwritev(descriptor, [b"x"], 0)
        os.fdatasync(descriptor)
        print("good", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


@pytest.fixture(autouse=True)
def _can_trace() -> None:
    reason = strace.requirement()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        yield process
        process.kill()


def write(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    return process.stdout.readline().strip()


def test_the_call_that_was_asked_for_fails_and_no_other(writer: subprocess.Popen[str]) -> None:
    assert write(writer) == "good"
    with strace.injected(writer.pid, "sync", "EIO", "2") as injection:
        assert [write(writer) for _ in range(3)] == ["good", "Input/output error", "good"]
        assert injection.wait_for_hit(5.0)
        assert injection.by_call() == {"fdatasync": 1}


def test_calls_work_again_once_strace_has_let_go(writer: subprocess.Popen[str]) -> None:
    with strace.injected(writer.pid, "write", "ENOSPC", "1+"):
        assert [write(writer) for _ in range(2)] == ["No space left on device"] * 2
    assert write(writer) == "good"


def test_only_calls_on_the_named_files_fail(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    with strace.injected(writer.pid, "sync", "EIO", "1+", [tmp_path / "other"]):
        assert write(writer) == "good"
    with strace.injected(writer.pid, "sync", "EIO", "1+", [tmp_path / "file"]):
        assert write(writer) == "Input/output error"


def test_a_process_that_is_no_more_is_an_error_that_says_so(
    writer: subprocess.Popen[str],
) -> None:
    writer.kill()
    writer.wait()
    with pytest.raises(strace.StraceError), strace.injected(writer.pid, "sync", "EIO", "1"):
        raise AssertionError("it was attached")


def test_the_first_forty_rounds_are_the_whole_grid() -> None:
    faults = grid()[:40]
    assert set(faults) == {(group, error, n) for group in GROUPS for error in ERRORS for n in CALLS}


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_a_sync_that_fails_costs_nothing_but_answers_of_503(tmp_path: Path) -> None:
    number = grid().index(("sync", "EIO", 1))  # type: ignore[arg-type]
    context = Context(folder=tmp_path, seed=1, first_round=number, quick=True)
    verdict = Faults().round(context)
    assert verdict.is_clean, verdict
    assert verdict.figures["hits sync EIO 1+"] > 0
    assert verdict.refused > 0
    assert verdict.acknowledged_rows > 0
