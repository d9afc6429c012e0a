"""Stored rows as arrays: `Reader` for a data directory or a daemon, `Frame` for what it gives.

    from arc.reader import Reader

    frame = Reader("data").read("cpu", start="2026-11-20T09:00Z", columns=["time", "usage"])
    usage = frame.to_numpy()["usage"]

Importing it imports neither the daemon nor NumPy, pyarrow or deltalake; the first `Reader` does.
docs/reader.md is its guide.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from arc.reader.errors import (
    ReaderError,
    ReadError,
    RefusedError,
    TableNotFoundError,
    UsageError,
)
from arc.reader.reader import Reader

if TYPE_CHECKING:
    from arc.reader.arrays import to_numpy
    from arc.reader.batches import BatchStream
    from arc.reader.frame import Frame
    from arc.reader.values import ListColumn, MaskedColumn

__all__ = [
    "BatchStream",
    "Frame",
    "ListColumn",
    "MaskedColumn",
    "ReadError",
    "Reader",
    "ReaderError",
    "RefusedError",
    "TableNotFoundError",
    "UsageError",
    "to_numpy",
]

_HEAVY = {
    "BatchStream": "batches",
    "Frame": "frame",
    "ListColumn": "values",
    "MaskedColumn": "values",
    "to_numpy": "arrays",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(import_module(f"arc.reader.{_HEAVY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
