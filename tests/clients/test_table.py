"""The table of docs/clients/README.md cannot lie: each of its rows names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent.parent / "docs" / "clients" / "README.md"
README = FOLDER.parent.parent / "README.md"

#: A test as the table writes it: file, and the test or the beginning of the names of several.
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+?)(\*?)`")


def table(page: Path) -> list[list[str]]:
    """The rows of the first table of a page, without its head."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions(file: Path) -> set[str]:
    """The tests of a file."""
    tree = ast.parse(file.read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_every_row_of_the_table_is_backed_by_tests_that_there_are() -> None:
    rows = table(PAGE)
    assert rows
    for row in rows:
        named = NAMED.findall(row[-1])
        assert named, row
        for file, name, several in named:
            there = functions(FOLDER / file)
            assert name in there or (several and any(t.startswith(name) for t in there)), row


def test_the_table_says_works_or_what_does_not() -> None:
    for row in table(PAGE):
        assert row[2] == "works" or row[2].startswith(("works, ", "refused: ", "not here: ")), row


def test_every_file_of_tests_is_in_the_table() -> None:
    named = {file for row in table(PAGE) for file, _, _ in NAMED.findall(row[-1])}
    there = {path.name for path in FOLDER.glob("test_*.py")}
    assert there - named == {"test_table.py"}


def test_every_client_has_a_page_that_the_first_page_links() -> None:
    readme = README.read_text()
    for page in PAGE.parent.glob("*.md"):
        assert f"(docs/clients/{page.name})" in readme, page.name
