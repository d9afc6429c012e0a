"""The snippets of docs/query.md, run as they stand on a stored table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ingest.query.gate import TABLE_FUNCTIONS
from tests.query.conftest import request, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "query.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
#: Those that read files here; the others ask a daemon, or a Spark that is not here.
READERS = [text for text in SNIPPETS if "data/default" in text and "spark" not in text]
NAMES = ["polars", "pyarrow", "pandas", "duckdb", "duckdb_view"]


def test_there_is_a_snippet_for_each_reader() -> None:
    assert len(READERS) == len(NAMES)


@pytest.mark.parametrize("text", READERS, ids=NAMES)
def test_a_snippet_reads_the_stored_rows(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", request("cpu", 1), request("cpu", 4, host=["a", "b", None]))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(text, names)
    result = next(names[name] for name in ("frame", "table", "rows") if name in names)
    assert len(result) == 6


def test_the_page_lists_the_table_functions() -> None:
    page = PAGE.read_text()
    assert [name for name in sorted(TABLE_FUNCTIONS) if f"`{name}`" not in page] == []
