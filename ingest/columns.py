"""The value that flows through the pipeline: rows of one measurement, as typed columns.

A decoder makes a `ColumnBatch`, the schema may replace columns of it, the buffer keeps it,
the flush concatenates many of them. A batch never changes once it is in a buffer, and nothing
here knows HTTP, MessagePack or Parquet.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class ColumnType(enum.StrEnum):
    """What a stored column holds. The values are the words that error messages use."""

    INT64 = "int64"
    FLOAT64 = "float64"
    UTF8 = "utf8"
    BOOL = "bool"
    BINARY = "binary"
    #: Never stored: values above 2**63 - 1, which only a float64 column can take.
    UINT64 = "uint64"


#: Name of the column that holds the time of each row, on the wire and in files.
TIME_COLUMN = "time"

#: Largest |v| up to which every int64 is exactly a float64 (IEEE 754, 53 bits of significand).
MAX_EXACT_INT = 2**53


class Column(msgspec.Struct, gc=False):
    """One column of a batch, in buffers that Arrow can adopt.

    Attributes:
        type: What the values are.
        values: dtype by type: int64, float64, bool: shape (rows,). utf8 and binary: the bytes of
            all values one after another, uint8, shape (bytes,). Where a value is null, a fixed
            width slot holds zero and a variable one is empty.
        offsets: utf8 and binary only: int32, shape (rows + 1,), `offsets[0] == 0`; value i is
            `values[offsets[i]:offsets[i + 1]]`.
        validity: bool, shape (rows,), True where a value is present; None when none is missing.
        wide: int64 only: some |v| is above 2**53, so the column cannot become float64.
    """

    type: ColumnType
    values: NDArray[Any]
    offsets: NDArray[np.int32] | None = None
    validity: NDArray[np.bool_] | None = None
    wide: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the buffers hold."""
        size = self.values.nbytes
        if self.offsets is not None:
            size += self.offsets.nbytes
        if self.validity is not None:
            size += self.validity.nbytes
        return size

    def first_present_row(self) -> int:
        """Row of the first value that is not null, for messages; 0 when there is none."""
        return 0 if self.validity is None else int(np.argmax(self.validity))


class ColumnBatch(msgspec.Struct, gc=False):
    """Rows of one measurement from one request.

    Attributes:
        measurement: Its name, as the client sent it.
        time_us: int64, shape (rows,), microseconds since 1970-01-01T00:00Z. Not sorted.
        columns: Every column but the time, by name. All have `len(time_us)` rows. Columns that
            were null from top to bottom are not here: they have no type to store.
        tags: Names of columns that identify a series rather than measure something.
        nbytes: Bytes of memory that the batch holds: what it counts for in the budget.
        known_range_us: Smallest and largest of `time_us`, where whoever made the batch knew them;
            None: the properties look for themselves.
    """

    measurement: str
    time_us: NDArray[np.int64]
    columns: dict[str, Column]
    tags: frozenset[str] = frozenset()
    nbytes: int = 0
    known_range_us: tuple[int, int] | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.time_us)

    @property
    def range_us(self) -> tuple[int, int]:
        """Smallest and largest time of at least one row, microseconds since 1970."""
        if self.known_range_us is None:
            self.known_range_us = int(self.time_us.min()), int(self.time_us.max())
        return self.known_range_us

    @property
    def min_us(self) -> int:
        """Smallest time of at least one row, microseconds since 1970."""
        return self.range_us[0]

    @property
    def max_us(self) -> int:
        """Largest time of at least one row, microseconds since 1970."""
        return self.range_us[1]
