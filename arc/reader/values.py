"""What a column becomes that NumPy has no array for: missing values, and lists.

Made by `arc.reader.arrays`. They hold arrays, and never copy any but where a method says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: A column: an array of its dtype, or one of the classes below.
Column: TypeAlias = "NDArray[Any] | MaskedColumn | ListColumn"


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedColumn:
    """A column of which some values are missing.

    Attributes:
        values: Shape (rows,), read-only where it is a view on memory of Arrow. Where the mask is
            True it holds anything; None in a column of objects.
        mask: bool, shape (rows,), True where the value is missing, as in `numpy.ma`.
    """

    values: NDArray[Any]
    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: int | slice) -> Any:
        """One value, None where it is missing; or a slice, which shares memory."""
        if isinstance(key, slice):
            return MaskedColumn(self.values[key], self.mask[key])
        return None if self.mask[key] else self.values[key]

    @property
    def num_missing(self) -> int:
        """How many values are missing."""
        return int(np.count_nonzero(self.mask))

    def filled(self, fill: Any) -> NDArray[Any]:
        """A copy with `fill`, which must fit the dtype, where values are missing."""
        filled = self.values.copy()
        filled[self.mask] = fill
        return filled

    def to_masked_array(self) -> np.ma.MaskedArray[Any, Any]:
        """The same for `numpy.ma`; shares memory."""
        return np.ma.MaskedArray(self.values, self.mask, copy=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ListColumn:
    """A column of lists, as one flat column and where each list begins.

    Attributes:
        values: The elements of all lists, one after another.
        offsets: int32 or int64, shape (rows + 1,): list i is `values[offsets[i]:offsets[i + 1]]`.
        mask: bool, shape (rows,), True where the list itself is missing; None: nowhere.
    """

    values: Column
    offsets: NDArray[Any]
    mask: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, key: int | slice) -> Any:
        """One list, which shares memory, None where it is missing; or a slice of the column."""
        if isinstance(key, slice):
            return self._slice(key)
        row = range(len(self))[key]
        if self.mask is not None and self.mask[row]:
            return None
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def _slice(self, key: slice) -> ListColumn:
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise IndexError(f"lists are sliced without a step, found {step}")
        stop = max(start, stop)
        offsets = self.offsets[start : stop + 1]
        mask = None if self.mask is None else self.mask[start:stop]
        return ListColumn(self.values[offsets[0] : offsets[-1]], offsets - offsets[0], mask)

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def to_objects(self) -> NDArray[Any]:
        """Objects, shape (rows,): each list as `[]` gives it. Some 0.2 µs a row."""
        out = np.empty(len(self), dtype=object)
        for row, value in enumerate(self):
            out[row] = value
        return out
