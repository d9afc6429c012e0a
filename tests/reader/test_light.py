"""Importing the reader costs little, and brings nothing of the daemon."""

from __future__ import annotations

import subprocess
import sys

from tests.support.running import ROOT

HEAVY = ("numpy", "pyarrow", "deltalake", "pandas", "polars", "asyncio", "ssl", "ingest")


def test_importing_the_reader_imports_nothing_heavy() -> None:
    code = (
        "import sys, arc.reader; arc.reader.Reader; "
        f"print([name for name in {HEAVY} if name in sys.modules], "
        "[name for name in sys.modules if name.startswith('arc.')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    heavy, ours = said[: said.index("]") + 1], said[said.index("]") + 2 :].strip()
    assert heavy == "[]"
    assert all(name.startswith("'arc.reader") for name in ours.strip("[]").split(", "))


def test_everything_that_is_promised_is_there() -> None:
    import arc.reader

    assert all(getattr(arc.reader, name) is not None for name in arc.reader.__all__)
    assert not hasattr(arc.reader, "nope")
