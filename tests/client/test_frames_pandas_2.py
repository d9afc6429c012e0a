"""Data frames of pandas 2, encoded by the same tests as those of the pandas that is installed.

`./start.sh test` puts pandas 2 into a folder of its own beside the packages; a second pytest finds
it there first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

FOLDER = Path(sys.prefix) / "pandas2"
TESTS = Path(__file__).resolve().parent / "test_frames.py"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), *paths()])}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, cwd=TESTS.parent.parent.parent, capture_output=True, text=True
    )


def paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


@pytest.mark.timeout(120)
def test_what_holds_for_frames_of_pandas_3_holds_for_those_of_pandas_2() -> None:
    if not FOLDER.is_dir():
        pytest.skip(f"no pandas 2 in {FOLDER}: ./start.sh test puts it there")
    version = python("-c", "import pandas; print(pandas.__version__)").stdout
    assert version.startswith("2."), version
    assert not pandas.__version__.startswith("2.")
    ran = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS), "-k", "pandas")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
