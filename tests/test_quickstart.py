"""Every command of the profiling guides is one that there is, with the options that it names."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks.lines import cli as lines_cli
from benchmarks.load import cli as load_cli
from benchmarks.memory import cli as memory_cli
from benchmarks.rounds import _parser as rounds_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / "profiling" / name for name in ("QUICKSTART.md", "memory.md", "lines.md")]

#: The words of scripts whose parser can be had without starting them.
PARSERS = {
    "scripts/profile_memory.py": memory_cli.parser,
    "scripts/profile_lines.py": lines_cli.parser,
    "scripts/benchmark_ingestion.py": load_cli._parser,
    "scripts/bench.py": rounds_parser,
}


def commands() -> list[str]:
    """Every command line of the guides, in blocks and in the text."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found += [line for block in blocks for line in block.splitlines() if line]
        found += re.findall(r"`((?:python|make|\./start\.sh|GET) [^`\n]+)`", text)
    return list(dict.fromkeys(found))


def of(program: str) -> list[list[str]]:
    """Words after a program, of each command that runs it."""
    lines = (shlex.split(line) for line in commands())
    wanted = program.split()
    return [words[len(wanted) :] for words in lines if words[: len(wanted)] == wanted]


@cache
def help_of(script: str) -> str:
    """What a script of another kind says of its options."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "COLUMNS": "300", "TERM": "dumb"},
    )
    return done.stdout


@pytest.mark.parametrize("script", PARSERS)
def test_commands_of_our_scripts_are_parsed(script: str) -> None:
    parser: argparse.ArgumentParser = PARSERS[script]()
    for words in of(f"python {script}"):
        parser.parse_args(words[: words.index("--")] if "--" in words else words)


@pytest.mark.parametrize("script", ["profile_arc_ingestion", "analyze_flamegraph", "perf_audit"])
def test_options_of_the_other_scripts_are_in_their_help(script: str) -> None:
    found = of(f"python scripts/{script}.py")
    assert found
    for words in found:
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", help_of(f"scripts/{script}.py")), words


def test_every_command_is_of_a_kind_that_is_looked_at() -> None:
    known = re.compile(
        r"python scripts/\w+\.py( |$)|python -m benchmarks\.\w+ |make( [a-z-]+)?$"
        r"|\./start\.sh (native|test|setup)|GET /debug/pprof/"
    )
    assert [line for line in commands() if not known.match(line)] == []


def test_targets_of_make_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {words[0] for words in of("make") if words}
    assert wanted >= {"bench-baseline", "bench-compare"}
    assert wanted <= targets


def test_every_script_of_the_kit_is_in_the_guide() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    kit = (ROOT / "scripts").glob("p*.py")
    assert [path.name for path in kit if f"scripts/{path.name}" not in text] == []
