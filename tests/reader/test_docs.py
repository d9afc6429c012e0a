"""The snippets of docs/reader.md, run as they stand on stored tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from arc import reader as package
from tests.query.conftest import request, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reader.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
NINE_US = 1_795_165_200_000_000  # 2026-11-20T09:00Z


def test_the_snippets_read_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [NINE_US - 1, NINE_US, NINE_US + 1, NINE_US + 3_600_000_000]
    usage, host = [0.5, 1.5, 2.5, 3.5], ["a", "b", "c", "a"]
    write(tmp_path / "data", request("cpu", 0, 4, time=times, usage=usage, host=host))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for text in SNIPPETS:
        exec(text, names)
    assert names["arrays"]["usage"].tolist() == [1.5]
    assert names["total"] == 4


def test_the_page_names_every_class_and_error() -> None:
    page = PAGE.read_text()
    assert [name for name in package.__all__ if name not in page] == []
