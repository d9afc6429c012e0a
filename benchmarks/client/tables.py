"""Seven columns (a time, three texts, three doubles) in the forms that clients take.

In: a number of rows. Out: NumPy columns, lists, a pandas or a Polars data frame of the same
values, the same on every machine. Nothing here sends or times anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import DEFAULT_START_US

#: The columns that are texts: tags here, symbols elsewhere.
SYMBOLS = ("host", "region", "env")
FIELDS = ("user", "system", "idle")
#: The tags of one series.
TAGS = {"host": "server042", "region": "eu-west1"}
_HOSTS, _REGIONS, _ENVS = 1_000, 8, 3


def numbers(rows: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Three doubles at full precision: float64, shape (rows,)."""
    rng = np.random.default_rng([20, seed])
    return {name: rng.random(rows) * 100 for name in FIELDS}


def times_us(rows: int) -> NDArray[np.int64]:
    """1 µs apart: int64, shape (rows,), µs since 1970."""
    return np.arange(DEFAULT_START_US, DEFAULT_START_US + rows)


def texts(rows: int) -> dict[str, list[str]]:
    """A thousand hosts in turn, of eight regions and three environments."""
    hosts = range(rows)
    return {
        "host": [f"server{i % _HOSTS:03d}" for i in hosts],
        "region": [f"region-{i % _REGIONS}" for i in hosts],
        "env": [("production", "staging", "test")[i % _ENVS] for i in hosts],
    }


def column_lists(rows: int) -> dict[str, list[Any]]:
    """Python lists, the time in µs."""
    found: dict[str, list[Any]] = {"time": times_us(rows).tolist()}
    found |= texts(rows)
    return found | {name: values.tolist() for name, values in numbers(rows).items()}


def numpy_columns(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The time and the doubles, as NumPy arrays."""
    found: dict[str, NDArray[Any]] = {"time": times_us(rows)}
    return found | numbers(rows, seed)


def pandas_frame(rows: int) -> Any:
    """Texts as categoricals, the time as datetime64[us]."""
    import pandas as pd

    found: dict[str, Any] = {"time": times_us(rows).view("datetime64[us]")}
    found |= {name: pd.Categorical(values) for name, values in texts(rows).items()}
    return pd.DataFrame(found | numbers(rows))


def polars_frame(rows: int) -> Any:
    """Texts as categoricals, the time as Datetime of µs in UTC."""
    import polars as pl

    found: dict[str, Any] = {"time": pl.Series(times_us(rows)).cast(pl.Datetime("us", "UTC"))}
    found |= {name: pl.Series(values, dtype=pl.Categorical) for name, values in texts(rows).items()}
    return pl.DataFrame(found | numbers(rows))
