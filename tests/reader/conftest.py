"""A data directory that the tests of the reader only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from arc.reader import Reader
from tests.reader.stored import write_all


@pytest.fixture(scope="package")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reader") / "data"
    write_all(root)
    return root


@pytest.fixture(scope="package")
def reader(stored: Path) -> Reader:
    return Reader(stored)
