"""The documents say what is there: settings, metrics, flags, commands, files, links.

In: every Markdown page and every text file of the repository, tables and commands of the program
as data. Out: a list of what does not agree, which must be empty. No page is run; a command is
taken apart and looked up.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer.main

from arc.cli import build_app
from arc.client.settings import ENV_PREFIX, Settings
from arc.config import OTHER_ENV_NAMES, fields, secrets
from arc.metrics_table import METRICS, REASONS
from benchmarks.load import cli as load_cli

ROOT = Path(__file__).resolve().parent.parent
NOTES = ROOT / "docs" / "profiling"
CONFIGURATION = ROOT / "docs" / "configuration.md"
METRICS_PAGE = ROOT / "docs" / "metrics.md"
BENCHMARKING = ROOT / "docs" / "benchmarking.md"

#: Pages of a folder that are no notes of one experiment.
STANDING_PAGES = {"QUICKSTART.md", "README.md", "audit.md", "findings.md", "lines.md", "memory.md"}

CODE_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
REPOSITORY_FILE = re.compile(
    r"(?<![\w./*-])(?:arc|ingest|benchmarks|scripts|examples|tests|docs|requirements)"
    r"/[\w./-]*\w\.(?:py|md|sh|txt|in|toml)\b"
)

#: Stands for any script in the description of what all of them do.
EXAMPLE_FILES = {"scripts/name.py"}

#: What only one machine has: homes, working folders of one host, indexes of packages.
OF_ONE_MACHINE = re.compile(
    r"(?<![\w.@~/-])/(?:root|home/\w+|Users/\w+|work\w*)/"
    r"|\b(?:pypi\.org|pythonhosted\.org|npmjs\.\w+|artifactor[y]|nexus\.|jfro[g]|devp[i])"
    r"|(?:--|_)(?:extra-)?index-url[ =]\S",
    re.IGNORECASE,
)
INDEX_SETTINGS = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST"),
    *("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"),
)


@cache
def tracked() -> list[Path]:
    """Every file that is in the repository, or about to be."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in sorted(set(said.split("\0")) - {""})]
    return [path for path in paths if path.is_file()]


@cache
def texts() -> dict[Path, str]:
    """Every text file, by its path below the root."""
    found = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path.relative_to(ROOT)] = data.decode()
    return found


def pages() -> dict[Path, str]:
    """Every Markdown page."""
    return {path: text for path, text in texts().items() if path.suffix == ".md"}


def cells(page: Path) -> dict[str, list[str]]:
    """Rows of the tables of a page, by what stands between backticks in their first cell."""
    rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if "|" in line]
    stripped = [[cell.strip() for cell in row] for row in rows]
    return {name: row for row in stripped for name in CODE_SPAN.findall(row[0])}


def code(text: str) -> Iterator[str]:
    """Everything in a page that is marked as code, one line or span at a time."""
    for block in CODE_BLOCK.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from CODE_SPAN.findall(CODE_BLOCK.sub("", text))


def commands(program: str) -> list[tuple[Path, list[str]]]:
    """Where a page has a command of this program, and the words that follow the program."""
    found = []
    for path, text in pages().items():
        for line in code(text):
            for start in re.finditer(rf"(?:^|[\s(/]){re.escape(program)}(?= |$)", line):
                rest = re.split(r"[|;&)]|  +#|\s#\s", line[start.end() :])[0]
                found.append((path, _words(rest)))
    return found


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # an apostrophe in prose
        return line.split()


# --- settings ----------------------------------------------------------------------------------


def test_every_setting_is_described_with_its_names_default_and_unit() -> None:
    rows = cells(CONFIGURATION)
    for field in fields():
        row = rows[field.name]
        assert f"`{field.env_name}`" in row
        assert f"`{field.flag}`" in row
        assert f"`{field.format(field.default)}`" in row
        assert (field.setting.unit or "-") in row


def test_no_page_names_a_setting_that_there_is_not() -> None:
    known = {field.env_name for field in (*fields(), *secrets())} | OTHER_ENV_NAMES
    known |= {ENV_PREFIX + name.upper() for name in Settings.__struct_fields__} | {ENV_PREFIX}
    unknown = {
        (str(path), name)
        for path, text in pages().items()
        for name in re.findall(r"\bARC_[A-Z][A-Z_]*\b", text)
        if name not in known and name != "ARC_PROT"  # the example of a mistake
    }
    assert unknown == set()


# --- metrics -----------------------------------------------------------------------------------


def test_every_metric_is_described_with_its_kind_and_unit() -> None:
    rows = cells(METRICS_PAGE)
    for metric in METRICS:
        assert rows[metric.name][1:3] == [str(metric.kind), metric.unit]


def test_every_reason_of_a_refusal_is_described() -> None:
    assert set(REASONS) <= cells(METRICS_PAGE).keys()


def test_no_page_names_a_metric_that_there_is_not() -> None:
    # And a package of other people.
    known = {metric.name for metric in METRICS} | {"arc_build_info", "arc_client"}
    parts = {f"{name}{end}" for name in known for end in ("_bucket", "_sum", "_count")}
    unknown = {
        (str(path), name)
        for path, text in pages().items()
        for name in re.findall(r"\barc_[a-z_]+[a-z]\b", text)
        if name not in known | parts
    }
    assert unknown == set()


# --- commands ----------------------------------------------------------------------------------


def load_generator_flags() -> list[argparse.Action]:
    """The options of the load generator, its help left out."""
    return [action for action in load_cli._parser()._actions if action.dest != "help"]


def test_every_flag_of_the_load_generator_is_described() -> None:
    described = set(re.findall(r"--[a-z][a-z-]*", BENCHMARKING.read_text()))
    missing = [flag for a in load_generator_flags() for flag in a.option_strings]
    assert [flag for flag in missing if flag not in described] == []


def test_every_command_of_the_load_generator_is_one_that_it_takes() -> None:
    known = {flag for action in load_generator_flags() for flag in action.option_strings}
    found = commands("scripts/benchmark_ingestion.py")
    assert found
    for path, words in found:
        ours = words[: words.index("--")] if "--" in words else words
        flags = {word.partition("=")[0] for word in ours if word.startswith("--")}
        assert flags <= known | {"--help"}, (path, words)


def test_every_command_of_arc_is_one_that_it_takes() -> None:
    arc: Any = typer.main.get_command(build_app())
    for path, words in commands("arc"):
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            continue
        assert words[0] in arc.commands, (path, words)
        command = arc.commands[words[0]]
        if len(words) > 1:  # `arc retention set`
            command = getattr(command, "commands", {}).get(words[1], command)
        taken = {flag for option in command.params for flag in option.opts}
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= taken | {"--help"}, (path, words)


def test_every_command_of_start_sh_is_one_that_it_takes() -> None:
    said = subprocess.run(
        ["bash", ROOT / "start.sh", "--help"], check=True, capture_output=True, text=True
    ).stdout
    known = set(re.findall(r"^  ([a-z-]+)", said, re.MULTILINE)) | {"--help", "COMMAND"}
    found = commands("./start.sh")
    assert found
    assert [(path, words) for path, words in found if words and words[0] not in known] == []


def test_every_program_that_a_page_runs_exists() -> None:
    missing = []
    for path, text in pages().items():
        for line in code(text):
            scripts = re.findall(r"python3? (?:-\w+ )*((?:scripts|examples)/[\w/.-]+)", line)
            modules = re.findall(r"python3? -m ((?:arc|ingest|benchmarks|tests)[\w.]*)", line)
            shells = re.findall(r"(?:^|\s)((?:\./|requirements/)[\w/-]+\.sh)\b", line)
            wanted = [ROOT / name for name in scripts + shells]
            missing += [(path, name) for name in wanted if not name.is_file()]
            missing += [(path, name) for name in modules if not is_program(name)]
    assert missing == []


def is_program(module: str) -> bool:
    """Whether `python -m` finds it below the root."""
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


# --- files and links ---------------------------------------------------------------------------


def test_every_file_of_the_repository_that_a_text_names_exists() -> None:
    missing = {
        (str(path), name)
        for path, text in texts().items()
        if path.parts[0] != "tests"  # which make up names
        for name in set(REPOSITORY_FILE.findall(text)) - EXAMPLE_FILES
        if not (ROOT / name).exists()
    }
    assert sorted(missing) == []


def anchors(text: str) -> set[str]:
    """What a link may point to within a page, as GitHub names it."""
    headings = HEADING.findall(CODE_BLOCK.sub("", text))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for path, text in pages().items():
        for link in LINK.findall(CODE_BLOCK.sub("", text)):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (ROOT / path.parent / parts.path).resolve() if parts.path else ROOT / path
            if not target.exists() or (
                parts.fragment and parts.fragment not in anchors(target.read_text())
            ):
                broken.append((str(path), link))
    assert broken == []


def test_the_first_page_leads_to_all_others() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in pages():
        if path.parts[0] == "docs" and path.parent != NOTES.relative_to(ROOT):
            assert f"({path.as_posix()}" in readme, path
    assert "(docs/profiling/README.md" in readme
    assert "(CONTRIBUTING.md" in readme


def test_every_note_is_dated_and_listed() -> None:
    listed = "".join(page.read_text() for name in STANDING_PAGES if (page := NOTES / name).exists())
    for note in sorted(NOTES.glob("*.md")):
        if note.name in STANDING_PAGES:
            continue
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d-[a-z0-9-]+\.md", note.name), note.name
        assert f"({note.name}" in listed or f"`{note.name}`" in listed, note.name


def test_every_note_has_a_verdict() -> None:
    for note in sorted(NOTES.glob("20*.md")):
        assert re.search(r"\b(kept|dropped)\b", note.read_text(), re.IGNORECASE), note.name


def test_no_page_has_a_placeholder_left() -> None:
    left = {
        (str(path), word)
        for path, text in pages().items()
        for word in re.findall(r"^ *([A-Z][A-Z _]{3,}[A-Z])\.? *$", CODE_BLOCK.sub("", text), re.M)
    }
    assert left == set()


# --- nothing of one machine --------------------------------------------------------------------


def test_no_file_names_a_place_or_an_index_of_one_machine() -> None:
    own = [re.escape(str(ROOT))] if len(ROOT.parts) > 2 else []
    hosts = [urlsplit(os.environ.get(name, "")).hostname for name in INDEX_SETTINGS]
    own += [re.escape(host) for host in hosts if host]
    here = re.compile("|".join(own) or "(?!)")
    found = {
        (str(path), match[0])
        for path, text in texts().items()
        for pattern in (OF_ONE_MACHINE, here)
        for match in pattern.finditer(text)
    }
    assert found == set()
