"""The modules of this repository, taken apart once for all tests."""

from __future__ import annotations

import functools
from pathlib import Path

from benchmarks.audit.rules import check
from benchmarks.audit.schema import Finding
from benchmarks.audit.sources import Module, modules

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def tree() -> list[Module]:
    """Every module that the rules look at."""
    return modules(ROOT)


@functools.cache
def all_findings() -> list[Finding]:
    """What they find, accepted or not."""
    return [finding for module in tree() for finding in check(module)]
