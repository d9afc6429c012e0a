"""Where the bodies come from: libFuzzer by way of atheris, or a loop of our own.

In: a target and how much to run. Out: calls of `Recorder.one`, which runs a body, notes it, and
keeps what is found. atheris follows the branches that a body takes through ingest/; where it is
not installed, or the target runs in another process, the own loop keeps the bodies whose outcome
is new. Numba's kernels are seen by neither: the mutators know the formats for that.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import pkgutil
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.fuzz.state import SharedState
from benchmarks.fuzz.target import Finding, Judge, Target

ATHERIS, OWN = "atheris", "own"

#: Good bodies to begin with.
NUM_SEEDS = 400
#: Of the own loop: bodies that are kept to make others of, and the share of those made anew.
MAX_CORPUS = 2_000
NEW_BODIES = 0.2
#: A process may have this much more address space than it began with: more is a bomb.
ADDRESS_BYTES = 6 * 2**30
#: How often what was counted goes to the disk, in bodies.
SAVE_EVERY = 2_000


def engine_for(target: Target) -> str:
    """Which engine runs a target here."""
    return ATHERIS if target.in_process and importlib.util.find_spec("atheris") else OWN


def _atheris() -> Any:
    """The package, which not every platform has."""
    return importlib.import_module("atheris")


@contextlib.contextmanager
def instrumented(engine: str) -> Iterator[None]:
    """Imports of ingest/ inside are followed by atheris, if that is the engine.

    Not the kernels, whose bytecode Numba compiles, nor what makes bodies.
    """
    if engine != ATHERIS:
        yield
        return
    atheris = _atheris()
    exclude = ["ingest.kernels", "ingest.testing"]
    for package in list(exclude):
        folder = Path(__file__).resolve().parent.parent.parent / package.replace(".", "/")
        exclude += [f"{package}.{found.name}" for found in pkgutil.iter_modules([str(folder)])]
    with atheris.instrument_imports(include=["ingest"], exclude=exclude):
        yield


class Recorder:
    """Runs bodies, one after another, and keeps count in a folder.

    Args:
        target: Is open.
        folder: For result.json and the findings.
        runs: How many bodies; 0: until the time is up.
        seconds: How long; 0: until all are run.
        runs_before: Bodies that earlier processes ran of this target.
    """

    def __init__(
        self, target: Target, folder: Path, runs: int, seconds: float, runs_before: int = 0
    ) -> None:
        self.target = target
        self.labels: Counter[str] = Counter()
        self.findings: dict[str, Finding] = {}
        self.runs = runs_before
        self._folder = folder
        self._wanted = runs
        self._end_s = time.monotonic() + seconds if seconds else float("inf")
        self._judge = Judge(target)
        self._state = SharedState(folder / "state.bin", target.max_bytes)

    @property
    def is_done(self) -> bool:
        """Whether enough bodies were run, or the time is up."""
        return bool(self._wanted and self.runs >= self._wanted) or time.monotonic() > self._end_s

    def one(self, body: bytes) -> str:
        """Run a body; what it is counted under."""
        body = body[: self.target.max_bytes]
        self.runs += 1
        self._state.begin(self.runs, time.monotonic(), body)
        try:
            label = self._judge(body)
        except Finding as finding:
            label = f"finding {finding.key}"
            if finding.key not in self.findings:
                self._keep(finding, body)
        self.labels[label] += 1
        if self.runs % SAVE_EVERY == 0:
            self.save()
        return label

    def _keep(self, finding: Finding, body: bytes) -> None:
        self.findings[finding.key] = finding
        (self._folder / f"{finding.key}.body").write_bytes(body)
        told = {"kind": finding.kind, "place": finding.place, "message": finding.message}
        (self._folder / f"{finding.key}.json").write_text(json.dumps(told))

    def save(self, figures: dict[str, object] | None = None) -> None:
        """Write down what was counted."""
        content = {"runs": self.runs, "labels": self.labels, "figures": figures or {}}
        temporary = self._folder / "result.tmp"
        temporary.write_text(json.dumps(content))
        temporary.rename(self._folder / f"result-{os.getpid()}.json")

    def finish(self) -> None:
        """Close the target, and write down everything."""
        findings, figures = self.target.close()
        for finding in findings:
            self._keep(finding, b"")
        self.save(figures)


def limit_memory() -> None:
    """Make an allocation of gigabytes fail, which then is a finding."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_own(recorder: Recorder, seed: int, corpus: Path | None) -> None:
    """The own loop: new bodies, and others made of those whose outcome was new."""
    rng = random.Random(seed)
    kept: list[bytes] = []
    if corpus is not None:
        kept = [path.read_bytes() for path in sorted(corpus.iterdir()) if path.is_file()]
    seen: set[str] = set()
    target = recorder.target
    while not recorder.is_done:
        is_new = not kept or rng.random() < NEW_BODIES
        body = target.seed(rng) if is_new else rng.choice(kept)
        for _ in range(0 if is_new else rng.choice((1, 1, 2, 3))):
            body = target.mutate(rng, body)
        label = f"{recorder.one(body)} {len(body).bit_length()}"
        if label not in seen or is_new or rng.random() < 0.01:
            _put(kept, rng, body[: target.max_bytes])
            if label not in seen and corpus is not None:
                (corpus / f"{target.name}-{len(seen):06d}").write_bytes(body)
            seen.add(label)


def _put(kept: list[bytes], rng: random.Random, body: bytes) -> None:
    if len(kept) < MAX_CORPUS:
        kept.append(body)
    else:
        kept[rng.randrange(MAX_CORPUS)] = body


def run_atheris(recorder: Recorder, seed: int, corpus: Path) -> NoReturn:
    """LibFuzzer's loop, which ends the process."""
    atheris = _atheris()
    target = recorder.target
    rng = random.Random(seed)
    seeds = [target.seed(rng)[: target.max_bytes] for _ in range(NUM_SEEDS)]
    for number, body in enumerate(seeds[: NUM_SEEDS // 2]):
        (corpus / f"seed-{number:04d}").write_bytes(body)

    def one(data: bytes) -> None:
        recorder.one(bytes(data))
        if recorder.is_done:
            _end(recorder)

    def mutate(data: bytes, max_size: int, seed: int) -> Any:
        own = random.Random(seed)
        way = own.random()
        if way < 0.15:
            return atheris.Mutate(data, max_size)
        # Good bodies with one thing changed reach further than those changed for generations.
        body = own.choice(seeds) if way < 0.5 else bytes(data)
        return target.mutate(own, body)[:max_size] or b"\0"

    # Crashes and bodies without an end are for the process that watches this one.
    options = [f"-seed={seed % 2**31 or 1}", f"-max_len={target.max_bytes}", "-rss_limit_mb=0"]
    options += ["-timeout=3600", "-handle_abrt=0", "-handle_segv=0", "-handle_bus=0"]
    options += ["-handle_ill=0", "-handle_fpe=0", "-verbosity=0", "-len_control=0"]
    options += ["-mutate_depth=1", f"-artifact_prefix={corpus}/"]
    arguments = [sys.argv[0], *options, str(corpus)]
    atheris.Setup(arguments, one, custom_mutator=mutate, enable_python_coverage=True)
    atheris.Fuzz()
    raise SystemExit("BUG: libFuzzer came back")


def _end(recorder: Recorder) -> NoReturn:
    # libFuzzer knows no way out but the end of the process.
    recorder.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
