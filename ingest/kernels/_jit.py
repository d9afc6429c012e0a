"""How kernels are compiled: cached on disk, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` at its first call, or load it from the cache; it runs without the GIL."""
    return cast(F, numba.njit(function, cache=True, nogil=True))
