"""Attribute columns that a table does not take, moved into `attributes_json`. Pure.

In: a batch of a table of OpenTelemetry data, and the names of columns that its table refused,
since they are stored with another type or there is no room. Out: a batch without them, where each
value is a member of the JSON object of its row. No value is lost, and no row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import numpy as np

from ingest.assemble import BATCH_OVERHEAD_BYTES, COLUMN_OVERHEAD_BYTES
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.limits import Limits
from ingest.otlp.parts import Budget, Parts
from ingest.otlp.schema import ATTRIBUTES_JSON, is_attribute
from ingest.otlp.values import json_text, plain_double

#: Values that are texts of Python at once.
_PIECE_VALUES = 65_536

_LIMITS = Limits()


def demote(batch: ColumnBatch, names: Collection[str], limits: Limits = _LIMITS) -> ColumnBatch:
    """Move attribute columns into `attributes_json`.

    Args:
        batch: Not changed; the result shares the columns that stay.
        names: Attribute columns; those that are not in the batch do not matter.
        limits: `max_decoded_bytes` bounds the text, which repeats each name in each row.

    Returns:
        `batch` itself when none of the columns is in it. Else one whose `attributes_json` is the
        last column.

    Raises:
        TooLargeError: the text would take too much memory.
        ValueError: a column that is no attribute.
    """
    moved = {name: batch.columns[name] for name in batch.columns if name in names}
    for name in moved:
        if not is_attribute(name):
            raise ValueError(f"BUG: column {name!r} is no attribute, and has no other place")
    if not moved:
        return batch
    columns = {
        name: column
        for name, column in batch.columns.items()
        if name not in moved and name != ATTRIBUTES_JSON
    }
    text = _merged(batch, moved, Budget(limits))
    if text is not None:
        columns[ATTRIBUTES_JSON] = text
    nbytes = BATCH_OVERHEAD_BYTES + batch.time_us.nbytes
    nbytes += sum(column.nbytes + COLUMN_OVERHEAD_BYTES for column in columns.values())
    tags = batch.tags - moved.keys()
    return msgspec.structs.replace(batch, columns=columns, tags=tags, nbytes=nbytes)


def _merged(batch: ColumnBatch, moved: dict[str, Column], budget: Budget) -> Column | None:
    """`attributes_json` with the values of the columns."""
    heads = {name: json_text(name) + ":" for name in moved}
    parts = Parts(ColumnType.UTF8)
    step = max(1, _PIECE_VALUES // len(moved))
    for start in range(0, batch.num_rows, step):
        end = min(start + step, batch.num_rows)
        members: list[list[str]] = [[] for _ in range(start, end)]
        before = batch.columns.get(ATTRIBUTES_JSON)
        if before is not None:
            for row, text in _texts(before, start, end):
                members[row - start] += [text[1:-1]] if len(text) > 2 else []
        for name, column in moved.items():
            for row, text in _json_values(column, start, end):
                members[row - start].append(heads[name] + text)
        rows = [row for row, found in enumerate(members, start) if found]
        if rows:
            objects = ["{" + ",".join(found) + "}" for found in members if found]
            parts.add(np.array(rows, dtype=np.int64), objects, budget)
    return parts.finish(batch.num_rows)


def _json_values(column: Column, start: int, end: int) -> Iterator[tuple[int, str]]:
    """The values that are there, as JSON, with their rows."""
    if column.type is ColumnType.UTF8:
        for row, text in _texts(column, start, end):
            yield row, json_text(text)
        return
    values: list[Any] = column.values[start:end].tolist()
    for row in _present(column, start, end):
        value = values[row - start]
        yield row, json_text(plain_double(value) if column.type is ColumnType.FLOAT64 else value)


def _texts(column: Column, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Texts of a utf8 column that are there, with their rows."""
    assert column.offsets is not None
    at = column.offsets[start : end + 1].tolist()
    blob = column.values[at[0] : at[-1]].tobytes()
    for row in _present(column, start, end):
        low, high = at[row - start] - at[0], at[row - start + 1] - at[0]
        yield row, blob[low:high].decode()


def _present(column: Column, start: int, end: int) -> Iterator[int]:
    """Rows whose value is not null."""
    if column.validity is None:
        yield from range(start, end)
    else:
        yield from (start + np.flatnonzero(column.validity[start:end])).tolist()
