"""Tables that the daemon's own code wrote, for what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.query.conftest import START_US, request, write

HOUR_S = 3_600

#: One row group, all types that are stored, with and without missing values.
TYPES: dict[str, Any] = {
    "host": ["a", "b", None, 'it\'s "x"\\ -- ;'],
    "flag": [True, None, False, True],
    "x": [0.1, float("nan"), None, float("inf")],
    "raw": [b"\x00'\xff", b"", None, b"a"],
    "big": [2**63 - 1, -(2**63), None, 0],
    'odd "name"': [1, 2, 3, 4],
}


def write_all(root: Path) -> None:
    """Tables of three hours, of all types, with names to quote, and of another database."""
    write(root, request("cpu", 0, 10), request("cpu", HOUR_S, 10), request("cpu", 2 * HOUR_S, 10))
    write(root, request("types", 0, 4, **TYPES))
    write(root, request("grown"), request("grown", 3, host=["a", "b", None], n=[0.5, 1.5, 2.5]))
    write(root, request("disk/io"), request("Select"))
    write(root, request("cpu", 100, 1), database="prod")


def at(seconds: float) -> int:
    """A moment of the rows, microseconds since 1970."""
    return START_US + round(seconds * 1_000_000)
