"""Rows that were read: an Arrow table, and the same for NumPy, pandas and Polars.

In: a table of pyarrow, from the reader or from anywhere. Out: what a library works with. The table
is never changed. pandas and Polars are imported when they are asked for, and need not be there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pat

from arc.reader.arrays import to_numpy
from arc.reader.values import Column

if TYPE_CHECKING:
    import polars


class Frame:
    """A table that was read.

    Args:
        table: Its rows.

    Attributes:
        table: The same.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Frame({len(self)} rows: {', '.join(self.table.column_names)})"

    def to_numpy(self) -> dict[str, Column]:
        """Columns by name: an array, a `MaskedColumn` where values are missing, a `ListColumn`.

        Numbers and times of one chunk are read-only views on the table; see `arc.reader.arrays`.
        """
        return to_numpy(self.table)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, times with their zone.

        An integer or boolean column with missing values is of pandas' nullable type (`Int64`,
        `boolean`): as float64 or objects it would lose digits, or speed.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        columns = {name: _pandas(self.table[name]) for name in self.table.column_names}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self)), copy=False)

    def to_polars(self) -> polars.DataFrame:
        """A `polars.DataFrame`; numbers share memory with the table.

        Raises:
            ImportError: Polars is not installed.
        """
        import polars

        frame = polars.from_arrow(self.table)
        assert isinstance(frame, polars.DataFrame)
        return frame


def _pandas(column: pa.ChunkedArray) -> Any:
    if column.null_count == 0:
        return column.to_pandas()
    return column.to_pandas(types_mapper=_nullable)


def _nullable(kind: pa.DataType) -> Any:
    """The type of pandas for a column with missing values; None: pyarrow's choice is right."""
    import pandas as pd

    if pat.is_boolean(kind):
        return pd.BooleanDtype()
    if pat.is_integer(kind):
        return pd.api.types.pandas_dtype(f"{'U' if str(kind)[0] == 'u' else ''}Int{kind.bit_width}")
    return None
