"""The switch of a script into venv/, with small stand-ins for the interpreters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

SWITCH = Path(__file__).resolve().parent.parent / "scripts" / "_venv.py"

SCRIPT = """
import sys
from _venv import ROOT, reexec_in_venv
reexec_in_venv()
print(sys.prefix, str(ROOT) in sys.path, sys.argv[1:])
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of two files, in a folder with a space in its name."""
    root = tmp_path / "a repository"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(SWITCH, root / "scripts")
    (root / "scripts" / "name.py").write_text(SCRIPT, encoding="utf-8")
    return root


def run(python: Path | str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with `-S`, so that no package of this environment is seen."""
    return subprocess.run(
        [str(python), "-S", str(root / "scripts" / "name.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def base_python() -> str:
    """The interpreter behind this environment."""
    return os.path.realpath(sys.executable)


def test_script_goes_on_in_the_venv_with_the_same_arguments(root: Path) -> None:
    venv.create(root / "venv", symlinks=True, with_pip=False)
    done = run(base_python(), root, "60", "--name", "two words")
    assert done.stderr == ""
    assert done.stdout == f"{root / 'venv'} True ['60', '--name', 'two words']\n"


def test_script_that_is_in_the_venv_stays(root: Path) -> None:
    venv.create(root / "venv", symlinks=True, with_pip=False)
    done = subprocess.run(
        [root / "venv" / "bin" / "python", root / "scripts" / "name.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{root / 'venv'} True []\n"


def test_without_a_venv_it_says_what_to_do(root: Path) -> None:
    done = run(base_python(), root)
    assert done.returncode == 2
    assert done.stderr == "name.py: run ./start.sh setup first\n"


def test_an_environment_of_the_callers_own_serves_without_a_venv(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "scripts" / "name.py"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{sys.prefix} True []\n"


def test_a_venv_that_leads_nowhere_does_not_loop(root: Path) -> None:
    python = root / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{base_python()}" -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    done = run(base_python(), root)
    assert done.returncode == 2
    assert done.stderr == "name.py: venv/ does not work: run ./start.sh setup again\n"
