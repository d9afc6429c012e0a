"""Names of parametrized tests that are the same in every process.

Tests that run in several processes are told apart by their names; an address in one of them makes
pytest-xdist refuse the run.
"""

from __future__ import annotations

import re


def stable(value: object) -> str:
    """The `repr` of a value, without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
