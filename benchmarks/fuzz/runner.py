"""Fuzzes one target: starts the process, watches it, starts another after a crash, cleans up.

In: a target's name and how much to run. Out: a `Line` for the report, and for every finding a
file with the body, as small as it could be made. The process that fuzzes never is this one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fuzz.engines import engine_for
from benchmarks.fuzz.minimise import crash, hang
from benchmarks.fuzz.state import SharedState
from benchmarks.fuzz.target import ROOT, Finding, Target

POLL_S = 0.05
#: A body that runs for longer hangs: a wide margin over a machine that is busy.
HANG_S = 60.0
#: From the start to the first body: imports, and kernels that may have to be compiled.
START_S = 300.0
#: A target whose process ends so often without having run anything new is broken.
MAX_RESTARTS = 20


@dataclass
class Settings:
    """What a run asks for.

    Attributes:
        runs: Bodies for each target, less by its cost; 0: until the time is up.
        seconds: Seconds for each target; 0: until all bodies are run.
        seed: Of all choices.
        corpus: Keeps the bodies from run to run, a folder for each target; None: none.
        minimise_s: Seconds for each finding.
    """

    runs: int = 0
    seconds: float = 0.0
    seed: int = 0
    corpus: Path | None = None
    minimise_s: float = 20.0


@dataclass
class Line:
    """What fuzzing one target came to.

    Attributes:
        target: Its name.
        engine: That made the bodies.
        runs: Bodies that were run.
        seconds: That it took.
        labels: Bodies by what became of them.
        findings: One of each sort, smallest bodies.
        figures: More numbers, of the target's own.
        restarts: Processes after the first.
    """

    target: str
    engine: str
    runs: int = 0
    seconds: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0


def fuzz(spec: str, target: Target, settings: Settings, folder: Path) -> Line:
    """Run a target until enough bodies were run.

    Args:
        spec: Where the child finds it; see `benchmarks/fuzz/child.py`.
        target: The same; asked for its name and limits only.
        settings: Of the run.
        folder: Empty, for this target alone; what it holds in the end are the findings.
    """
    line = Line(target.name, engine_for(target))
    settings = replace(settings, runs=-(-settings.runs // target.cost))
    started_s = time.monotonic()
    state = SharedState(folder / "state.bin", target.max_bytes)
    while True:
        left_s = settings.seconds - (time.monotonic() - started_s) if settings.seconds else 0.0
        before = state.read().runs
        status, is_hung = _run_child(spec, line, settings, folder, left_s, state)
        line.runs = state.read().runs
        if status == 0:
            break
        _keep_crash(target, folder, status, is_hung, state)
        line.restarts += 1
        is_time_up = settings.seconds and time.monotonic() - started_s >= settings.seconds
        enough = settings.runs and line.runs >= settings.runs
        if is_time_up or enough or line.runs == before or line.restarts > MAX_RESTARTS:
            break
    state.close()
    line.seconds = time.monotonic() - started_s
    _collect(line, folder)
    _minimise(spec, line, settings, folder)
    _tidy(folder)
    return line


def _command(spec: str, action: str, folder: Path) -> list[str]:
    module = "benchmarks.fuzz.child"
    return [sys.executable, "-m", module, action, spec, "--folder", str(folder)]


def _run_child(
    spec: str, line: Line, settings: Settings, folder: Path, left_s: float, state: SharedState
) -> tuple[int, bool]:
    """One process to its end; its status, and whether it was killed because it hung."""
    corpus = folder / "corpus" if settings.corpus is None else settings.corpus / line.target
    corpus.mkdir(parents=True, exist_ok=True)
    before = state.read().runs
    given = {
        "engine": line.engine,
        "runs": settings.runs,
        "runs-before": before,
        "seconds": left_s,
        "seed": settings.seed + line.restarts,
        "corpus": corpus,
    }
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    with (folder / "child.log").open("ab") as log:
        process = subprocess.Popen(
            [*_command(spec, "fuzz", folder), *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        return _watch(process, state, before)
    finally:
        _end(process)


def _watch(process: subprocess.Popen[bytes], state: SharedState, before: int) -> tuple[int, bool]:
    started_s = time.monotonic()
    seen, since_s = before, started_s
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S), False
        now_s, runs = time.monotonic(), state.read().runs
        if runs != seen:
            seen, since_s = runs, now_s
        if now_s - since_s > (START_S if seen == before else HANG_S):
            return -signal.SIGKILL, True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it started."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _keep_crash(
    target: Target, folder: Path, status: int, is_hung: bool, state: SharedState
) -> None:
    """The body that was being run when the process ended is the finding."""
    if is_hung:
        finding = hang(target)
    elif status < 0:
        finding = crash(target, -status)
    else:
        tail = (folder / "child.log").read_bytes()[-2000:].decode("utf-8", "replace")
        finding = Finding("end", f"{target.name}-{status}", f"the process ended: {tail}")
    told = {"kind": finding.kind, "place": finding.place, "message": finding.message}
    (folder / f"{finding.key}.json").write_text(json.dumps(told))
    (folder / f"{finding.key}.body").write_bytes(state.read().body)


def _collect(line: Line, folder: Path) -> None:
    """Add up what the processes wrote down."""
    for path in sorted(folder.glob("result-*.json")):
        result = json.loads(path.read_text())
        line.labels.update(result["labels"])
        line.figures.update(result["figures"])


def _minimise(spec: str, line: Line, settings: Settings, folder: Path) -> None:
    for path in sorted(folder.glob("*.body")):
        key = path.stem
        told = folder / f"{key}.json"
        if path.stat().st_size:
            options = ["--key", key, "--seconds", str(settings.minimise_s)]
            with (folder / "child.log").open("ab") as log:
                subprocess.run(
                    [*_command(spec, "minimise", folder), *options],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    check=False,
                )
        finding = json.loads(told.read_text())
        # Under atheris everything is slower, and it takes memory itself: what is slow, or takes
        # much, without it counts.
        if finding["kind"] in ("slow", "memory") and not finding.get("confirmed", False):
            path.unlink()
            told.unlink()
            continue
        line.findings.append(finding | {"key": key, "body": str(path)})


def _tidy(folder: Path) -> None:
    """Leave findings and the log of the process only."""
    for path in [*folder.glob("result-*.json"), folder / "state.bin"]:
        path.unlink(missing_ok=True)
    for name in ("work", "corpus"):
        shutil.rmtree(folder / name, ignore_errors=True)
