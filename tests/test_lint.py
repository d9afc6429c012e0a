"""Lint, format and types run as tests, so that one command holds everything.

Also held here: the pinned lists of requirements/ belong to pyproject.toml and to each other.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LISTS = ("uv.txt", "native.txt", "dev.txt")


def run_module(*arguments: str) -> None:
    """Run a tool of this environment over the repository; fail with all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def pins(name: str) -> dict[str, set[str]]:
    """Versions of each package in a list; two where they differ between Pythons."""
    found: dict[str, set[str]] = {}
    for line in (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def declared(*extras: str) -> set[str]:
    """Names of the packages that pyproject.toml asks for, with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines} - {"arc"}
    return {name.replace(".", "-") for name in names}


def test_ruff_finds_nothing() -> None:
    run_module("ruff", "check", ".")


def test_every_file_is_formatted() -> None:
    run_module("ruff", "format", "--check", ".")


@pytest.mark.timeout(300)
def test_types_hold() -> None:
    run_module("mypy")


def test_lists_hold_every_declared_dependency() -> None:
    assert declared("bench", "examples", "profile") <= pins("native.txt").keys()
    assert declared("dev") <= pins("dev.txt").keys()


def test_lists_agree_so_that_one_venv_serves_both() -> None:
    dev = pins("dev.txt")
    assert {name: dev.get(name) for name in pins("native.txt")} == pins("native.txt")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_names_no_address_and_hashes_every_package(name: str) -> None:
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    assert "://" not in text
    packages = re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)) > 0
