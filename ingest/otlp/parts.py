"""Values of one column, collected in pieces, and the memory that they may take.

In: a few thousand values of Python at a time, with their rows. Out: one `Column`. Each piece is
turned into an array at once, so Python objects exist for one piece only. Knows no name and no
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.columns import MAX_EXACT_INT, Column, ColumnType
from ingest.errors import TooLargeError
from ingest.limits import Limits

_DTYPES: dict[ColumnType, type[np.generic]] = {
    ColumnType.INT64: np.int64,
    ColumnType.FLOAT64: np.float64,
    ColumnType.BOOL: np.bool_,
}

#: Bytes of a row in a column: the value or the offset, and the validity. Texts come on top.
ROW_BYTES = {
    ColumnType.INT64: 9,
    ColumnType.FLOAT64: 9,
    ColumnType.BOOL: 2,
    ColumnType.UTF8: 5,
}

#: Offsets of texts are int32.
_MAX_TEXT_BYTES = 2**31 - 1


class Budget:
    """Bytes of memory that one request may still take."""

    def __init__(self, limits: Limits) -> None:
        self._limit = self._left = limits.max_decoded_bytes

    def spend(self, num_bytes: int) -> None:
        """Take bytes, before they are allocated.

        Raises:
            TooLargeError: there are not as many.
        """
        self._left -= num_bytes
        if self._left < 0:
            what = "memory of the columns in this body"
            raise TooLargeError(what, self._limit, "send fewer records at once")


class Parts:
    """The values that a column has, of ascending rows of its table."""

    def __init__(self, type_: ColumnType) -> None:
        self.type = type_
        self._rows: list[NDArray[np.int64]] = []
        self._data: list[NDArray[Any]] = []  # of texts, their lengths
        self._texts: list[bytes] = []

    def __bool__(self) -> bool:
        """Whether there is a value."""
        return bool(self._rows)

    def add(self, rows: NDArray[np.int64], values: Sequence[Any], budget: Budget | None) -> None:
        """Add values of Python, at least one.

        Args:
            rows: int64, shape (values,), beyond those that are here.
            values: Of the type of the column, none missing.
            budget: Charged with the bytes of texts, unless they are paid for (None).
        """
        if self.type is ColumnType.UTF8:
            self._add_texts(rows, values, budget)
        else:
            self.add_array(rows, np.array(values, dtype=_DTYPES[self.type]))

    def add_array(self, rows: NDArray[np.int64], data: NDArray[Any]) -> None:
        """Add values of any type but text; rows as `add` has them."""
        self._rows.append(rows)
        self._data.append(data)

    def _add_texts(
        self, rows: NDArray[np.int64], values: Sequence[str], budget: Budget | None
    ) -> None:
        if budget is not None:  # before they lie side by side: many rows may share one text
            budget.spend(sum(map(len, values)))
        text = "".join(values)
        if text.isascii():
            lengths, blob = list(map(len, values)), text.encode()
        else:
            encoded = [value.encode() for value in values]
            lengths, blob = list(map(len, encoded)), b"".join(encoded)
            if budget is not None:
                budget.spend(len(blob) - len(text))
        self.add_array(rows, np.array(lengths, dtype=np.int64))
        self._texts.append(blob)

    def finish(self, num_rows: int) -> Column | None:
        """The column; None when it is null throughout. The parts are gone then.

        Raises:
            TooLargeError: texts beyond what int32 offsets reach.
        """
        if not self._rows:
            return None
        rows, data = np.concatenate(self._rows), np.concatenate(self._data)
        self._rows, self._data = [], []
        validity = None
        if len(rows) < num_rows:
            validity = np.zeros(num_rows, dtype=np.bool_)
            validity[rows] = True
            present, data = data, np.zeros(num_rows, dtype=data.dtype)
            data[rows] = present
        if self.type is ColumnType.UTF8:
            return self._finish_text(data, validity)
        wide = self.type is ColumnType.INT64 and bool(
            data.max() > MAX_EXACT_INT or data.min() < -MAX_EXACT_INT
        )
        return Column(self.type, data, None, validity, wide)

    def _finish_text(
        self, lengths: NDArray[np.int64], validity: NDArray[np.bool_] | None
    ) -> Column:
        ends = np.cumsum(lengths)
        if ends[-1] > _MAX_TEXT_BYTES:
            raise TooLargeError("one column of text", _MAX_TEXT_BYTES, "send fewer records at once")
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        offsets[1:] = ends
        blob = np.frombuffer(b"".join(self._texts), dtype=np.uint8)
        self._texts = []
        return Column(ColumnType.UTF8, blob, offsets, validity)
