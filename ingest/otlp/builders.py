"""Rows of one table, collected record by record into columns.

In: values of Python for the rows of one resource and scope, and attributes as messages. Out: one
`ColumnBatch`. Whenever there are rows enough, they become arrays (`ingest.otlp.parts`), and what
the columns will take is charged before they are made. Knows no signal and parses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.limits import Limits
from ingest.otlp import schema
from ingest.otlp.parts import ROW_BYTES, Budget, Parts
from ingest.otlp.schema import AttributeColumns
from ingest.otlp.values import Message, json_text, plain
from ingest.timestamps import TimeUnit

#: Rows after which a piece becomes arrays. A value of Python takes 40 to 90 bytes: with 25 columns
#: a piece is some 7 MB.
PIECE_ROWS = 4096

#: Bytes of the body after which a piece becomes arrays, whatever its rows.
PIECE_BYTES = 1 << 20

_TIME_BYTES = 8


class Origin(msgspec.Struct):
    """What all records of one resource and scope share.

    Attributes:
        columns: Listed columns with one value for all of them; None: null.
        resource: Attributes of the resource, `KeyValue`s.
        scope: Attributes of the scope.
    """

    columns: dict[str, Any]
    resource: Sequence[Message]
    scope: Sequence[Message]


class Rows(msgspec.Struct):
    """Rows of one table and one origin, column by column.

    Attributes:
        times_ns: One a row, at least one, nanoseconds since 1970, 0 to `schema.MAX_TIME_NS`.
        other_times_ns: Likewise, by the name before `_us` and `_ns`; 0: null.
        columns: Listed columns by name, one value a row; None: null. A column that is in neither
            this nor the origin is null.
        attributes: `KeyValue`s of each row.
        num_bytes: What the rows took in the body, about.
    """

    times_ns: list[int]
    other_times_ns: dict[str, list[int]]
    columns: dict[str, list[Any]]
    attributes: Iterable[Sequence[Message]]
    num_bytes: int


class TableBuilder:
    """One table of a request, as it grows."""

    def __init__(self, table: str, limits: Limits, budget: Budget) -> None:
        """Start without a row.

        Args:
            table: One of `schema.TABLES`.
            limits: Of the request.
            budget: Of the request; all its tables draw on it.
        """
        self._table = table
        self._budget = budget
        self._num_rows = 0
        self._num_finished = 0
        self._num_pending_bytes = 0
        self._charged = 0
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.COLUMNS[table]}
        self._parts = {name: Parts(type_) for name, type_ in schema.COLUMNS[table].items()}
        self._times: list[int] = []
        self._other_times: dict[str, list[int]] = {}
        self._time_parts: list[NDArray[np.int64]] = []
        self._attributes = _Attributes(table, limits, budget)

    def add(self, origin: Origin, rows: Rows) -> None:
        """Append rows.

        Raises:
            LimitError: values within one another beyond `schema.MAX_VALUE_DEPTH`.
            TooLargeError: over the budget.
        """
        added = len(rows.times_ns)
        self._times += rows.times_ns
        for name, times in rows.other_times_ns.items():
            self._other_times.setdefault(name, []).extend(times)
        for name, values in rows.columns.items():
            self._columns[name] += values
        for name, value in origin.columns.items():
            self._columns[name] += repeat(value, added)
        self._attributes.add(self._num_rows, added, origin, rows.attributes)
        self._num_rows += added
        self._num_pending_bytes += rows.num_bytes
        if len(self._times) >= PIECE_ROWS or self._num_pending_bytes >= PIECE_BYTES:
            self._finish_piece()

    def finish(self, now_us: int) -> ColumnBatch | None:
        """The batch; None when there is no row. The builder is used up.

        Args:
            now_us: Of the request; not stored, since every row has a time.
        """
        if not self._num_rows:
            return None
        self._finish_piece()
        time_us = np.concatenate(self._time_parts)
        columns: dict[str, Column | None] = {TIME_COLUMN: Column(ColumnType.INT64, time_us)}
        for name, parts in (*self._parts.items(), *self._attributes.parts()):
            column = parts.finish(self._num_rows)
            if column is not None:
                columns[name] = column
        del self._parts, self._attributes, self._time_parts
        tags = schema.tags_of(self._table, {name: c for name, c in columns.items() if c})
        return assemble(self._table, self._num_rows, columns, tags, now_us, TimeUnit.US)

    def _finish_piece(self) -> None:
        """Make arrays of the rows that are pending."""
        first, self._num_finished = self._num_finished, self._num_rows
        self._num_pending_bytes = 0
        if first == self._num_rows:
            return
        self._finish_times(first)
        for name, values in self._columns.items():
            if values:
                _finish_column(self._parts[name], first, values, self._budget)
                values.clear()
        self._attributes.finish_piece()
        self._charge_rows()

    def _finish_times(self, first: int) -> None:
        self._time_parts.append(self._split(first, self._times, TIME_COLUMN))
        self._times = []
        for name, values in self._other_times.items():
            time_us = self._split(first, values, name)
            rows = np.flatnonzero(np.array(values, dtype=np.int64))
            if len(rows):
                self._parts[f"{name}_us"].add_array(rows + first, time_us[rows])
            values.clear()

    def _split(self, first: int, times_ns: list[int], name: str) -> NDArray[np.int64]:
        """Whole microseconds; what is left of them goes to the column `<name>_ns`."""
        times, rest = np.divmod(np.array(times_ns, dtype=np.int64), 1000)
        rows = np.flatnonzero(rest)
        if len(rows):
            self._parts[f"{name}_ns"].add_array(rows + first, rest[rows])
        return times

    def _charge_rows(self) -> None:
        """Pay for all rows of all columns that there are by now."""
        a_row = _TIME_BYTES + sum(
            ROW_BYTES[parts.type]
            for _, parts in (*self._parts.items(), *self._attributes.parts())
            if parts
        )
        charged, self._charged = self._charged, self._num_rows * a_row
        self._budget.spend(self._charged - charged)


def _finish_column(parts: Parts, first: int, values: list[Any], budget: Budget) -> None:
    """Add the values of all rows from `first` on, None where there is none."""
    missing = values.count(None)
    if missing == len(values):
        return
    if not missing:
        parts.add(np.arange(first, first + len(values)), values, budget)
        return
    rows = np.array([row for row, value in enumerate(values, first) if value is not None])
    parts.add(rows, [value for value in values if value is not None], budget)


class _Slot:
    """A column of values that only some rows have: those of this piece, and the parts before."""

    def __init__(self, type_: ColumnType, kind: str = "") -> None:
        self.kind = kind  # field of the oneof `value` that it takes
        self.rows: list[int] = []
        self.values: list[Any] = []
        self.parts = Parts(type_)

    def finish_piece(self, budget: Budget | None) -> None:
        if self.rows:
            self.parts.add(np.array(self.rows, dtype=np.int64), self.values, budget)
            self.rows, self.values = [], []


class _Attributes:
    """The attribute columns of a table, and `attributes_json`."""

    def __init__(self, table: str, limits: Limits, budget: Budget) -> None:
        self._budget = budget
        self._admitted = AttributeColumns(table, limits.max_columns)
        self._slots: dict[str, _Slot] = {}  # by name, in the order of admission
        self._by_key: dict[str, dict[str, _Slot]] = {
            schema.RESOURCE_PREFIX: {},
            schema.SCOPE_PREFIX: {},
            schema.ATTRIBUTE_PREFIX: {},
        }
        self._json = _Slot(ColumnType.UTF8)

    def parts(self) -> list[tuple[str, Parts]]:
        """Every column, by name."""
        named = [(name, slot.parts) for name, slot in self._slots.items()]
        return [*named, (schema.ATTRIBUTES_JSON, self._json.parts)]

    def finish_piece(self) -> None:
        for slot in self._slots.values():
            slot.finish_piece(self._budget)
        self._json.finish_piece(None)

    def add(
        self, first: int, added: int, origin: Origin, attributes: Iterable[Sequence[Message]]
    ) -> None:
        """Attributes of rows from `first` on."""
        shared: dict[str, Any] = {}  # what all rows have in attributes_json
        for prefix, given in (
            (schema.RESOURCE_PREFIX, origin.resource),
            (schema.SCOPE_PREFIX, origin.scope),
        ):
            for attribute in given:
                self._place(first, prefix, attribute.key, attribute.value, shared)
            for slot in self._by_key[prefix].values():
                if slot.rows and slot.rows[-1] == first:
                    slot.rows += range(first + 1, first + added)
                    slot.values += repeat(slot.values[-1], added - 1)
        self._add_own(first, attributes, shared)

    def _add_own(
        self, first: int, attributes: Iterable[Sequence[Message]], shared: dict[str, Any]
    ) -> None:
        """Attributes that the records have themselves."""
        # HOT, once per attribute. What a column takes without a question is appended here;
        # anything else, a new key, a key twice, a map, is for _place.
        slots = self._by_key[schema.ATTRIBUTE_PREFIX]
        shared_text = json_text(shared) if shared else ""
        for row, given in enumerate(attributes, first):
            others: dict[str, Any] = {}
            for attribute in given:
                value = attribute.value
                kind, slot = value.WhichOneof("value"), slots.get(attribute.key)
                if slot is not None and slot.kind == kind and not others:
                    rows = slot.rows
                    if not rows or rows[-1] != row:
                        rows.append(row)
                        slot.values.append(getattr(value, kind))
                        continue
                self._place(row, schema.ATTRIBUTE_PREFIX, attribute.key, value, others)
            if others or shared:
                text = json_text(shared | others) if others else shared_text
                self._budget.spend(len(text))
                self._json.rows.append(row)
                self._json.values.append(text)

    def _place(
        self, row: int, prefix: str, key: str, value: Message, others: dict[str, Any]
    ) -> None:
        """Put an attribute into its column, or into `others`, instead of one of the same key."""
        name, kind = prefix + key, value.WhichOneof("value")
        others.pop(name, None)
        slot = self._by_key[prefix].get(key)
        if slot is not None and slot.rows and slot.rows[-1] == row:
            slot.rows.pop()
            slot.values.pop()
        type_ = schema.TYPE_OF_VALUE.get(kind)
        if type_ is None or not self._admitted.admit(name, type_):
            others[name] = plain(value)
            return
        if slot is None:
            slot = self._slots[name] = self._by_key[prefix][key] = _Slot(type_, kind)
        slot.rows.append(row)
        slot.values.append(getattr(value, kind))
