"""Data frames of pandas 2, sent by the same tests as those of the pandas that is installed.

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

pytestmark = pytest.mark.e2e

FOLDER = Path(sys.prefix) / "pandas2"
HERE = Path(__file__).resolve().parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, cwd=HERE.parent.parent, capture_output=True, text=True
    )


@pytest.mark.timeout(180)
def test_what_holds_for_pandas_3_holds_for_pandas_2() -> None:
    if not FOLDER.is_dir():
        pytest.skip(f"no pandas 2 in {FOLDER}: ./start.sh test puts it there")
    version = python("-c", "import pandas; print(pandas.__version__)").stdout
    assert version.startswith("2."), version
    assert not pandas.__version__.startswith("2.")
    chosen = "(frame or dataframe) and not pandas_2"
    ran = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE), "-k", chosen)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
