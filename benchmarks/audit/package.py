"""What the package costs before it does anything: time to import its parts, size of its wheel.

In: this tree. Out: seconds of a new interpreter for each part, and bytes of a wheel that is built
into a temporary folder. Nothing is installed and nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.audit.schema import Figure, Share, measured, median_of, missing
from benchmarks.load.daemon import REPOSITORY

#: What is imported, and "nothing" beside it: the interpreter alone.
PARTS = ("nothing", "arc.client", "arc.cli", "arc.reader", "ingest.pipeline", "arc.worker")
TIMEOUT_S = 60.0
BACKEND = "hatchling"


def import_times(repeats: int) -> tuple[Share, ...]:
    """Seconds by the clock of an interpreter that imports a part and ends; all alternate."""
    samples: dict[str, list[float]] = {part: [] for part in PARTS}
    failed: dict[str, str] = {}
    for _ in range(repeats):
        for part in PARTS:
            if part not in failed:
                samples[part].append(_import_s(part, failed))
    return tuple(
        Share(part, missing("s", failed[part]) if part in failed else median_of("s", times))
        for part, times in samples.items()
    )


def _import_s(part: str, failed: dict[str, str]) -> float:
    program = "pass" if part == "nothing" else f"import {part}"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    took_s = time.perf_counter() - started
    if done.returncode:
        failed[part] = (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
    return took_s


def wheel_bytes() -> Figure:
    """Size of the wheel that this tree makes."""
    if importlib.util.find_spec(BACKEND) is None:
        return missing("bytes", f"{BACKEND} is not installed, and nothing is fetched for this")
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", BACKEND, "build", "-t", "wheel", "-d", folder],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return missing("bytes", f"building it took longer than {TIMEOUT_S:g} s")
        made = list(Path(folder).glob("*.whl"))
        if done.returncode or len(made) != 1:
            said = (done.stderr.strip().splitlines() or ["the backend said nothing"])[-1]
            return missing("bytes", f"it cannot be built: {said}")
        return measured("bytes", made[0].stat().st_size)
