"""The producer client: `Client` and `AsyncClient`, what they raise, and what they count.

Importing it imports neither the daemon nor NumPy nor pyarrow, and asyncio only with `AsyncClient`.
docs/client.md is its guide.
"""

from typing import TYPE_CHECKING, Any

from arc.client.client import Client
from arc.client.errors import (
    ArcClientError,
    ClosedError,
    QueueFullError,
    SpillError,
    SpillFullError,
    UsageError,
)
from arc.client.handler import ArcHandler
from arc.client.refusal import RefusedError
from arc.client.series import Series
from arc.client.settings import Settings
from arc.client.stats import Stats

if TYPE_CHECKING:
    from arc.client.aio import AsyncClient, AsyncSeries

__all__ = [
    "ArcClientError",
    "ArcHandler",
    "AsyncClient",
    "AsyncSeries",
    "Client",
    "ClosedError",
    "QueueFullError",
    "RefusedError",
    "Series",
    "Settings",
    "SpillError",
    "SpillFullError",
    "Stats",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "AsyncSeries"):
        from arc.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
