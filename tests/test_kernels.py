"""How the kernels are compiled: all of them, each helper in one process, from a command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.kernels import __main__ as kernels

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {path.stem: path for path in (ROOT / "ingest" / "kernels").glob("[!_]*.py")}


def helpers_of(name: str) -> set[str]:
    """The modules of kernels that a module of kernels imports from."""
    text = SOURCES[name].read_text(encoding="utf-8")
    found = re.findall(r"^(?:from|import) ingest\.kernels\.([a-z]\w*)", text, re.MULTILINE)
    return set(found)


def test_every_module_of_kernels_is_compiled_once() -> None:
    names = [name for bundle in kernels.BUNDLES for name in bundle]
    assert sorted(names) == sorted(SOURCES)


def test_modules_that_share_helpers_are_compiled_by_one_process() -> None:
    shared = {name: helpers_of(name) for name in SOURCES}
    assert shared["line_protocol"] == {"msgpack"}
    for bundle in kernels.BUNDLES:
        for name in bundle:
            assert shared[name] <= set(bundle), f"{name} in {bundle}"


@pytest.mark.timeout(300)
def test_the_command_that_compiles_them_leaves_a_cache_of_all() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ingest.kernels"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    cached = {path.name.partition(".")[0] for path in SOURCES["sort"].parent.glob("*/*.nbi")}
    assert cached >= SOURCES.keys()
