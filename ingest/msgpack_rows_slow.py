"""Row maps of MessagePack, decoded to Python objects, to one column batch a measurement. Pure.

In: `{"m", "t", "h", "fields", "tags"}` maps as msgspec decodes them, one after another. Out: a
batch for each measurement, in which every name is a column and what a row does not have is null.
The plain twin of `ingest.msgpack_rows`: it words every refusal but those of memory, by the number
that a row has among the items of the request, and it never builds a column before it knows that
all of them together fit into the budget.

Tags are stored as text: an integer in decimal, a float as Python writes it (the shortest digits
that give it back: 1.5, 1e+16), a boolean as true or false. A tag of null or NaN is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import LimitError, PayloadError, TimeError, TooLargeError, ValueTypeError
from ingest.limits import Limits
from ingest.msgpack_values import check_column_name, column, epoch_us, type_name
from ingest.timestamps import TimeUnit, to_epoch_us

#: Tag that the key `h` of a row stands for.
HOST = "host"

#: Added to a field's name where a tag has it, and to `time` where it is not the time of the row.
SUFFIX = "_value"

#: Values of one column as they came, and of each the number of its row in the measurement.
_Sparse: TypeAlias = tuple[list[Any], list[int]]

_RAW_MAP = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw])


def stored_names(
    measurement: str, tags: Sequence[str], fields: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Names of columns from names of tags and fields, each in the order given.

    A field with the name of a tag, and whatever is called `time`, is stored as `<name>_value`.

    Raises:
        PayloadError: that name is taken as well, or two fields have one name.
        InvalidNameError: that name is too long.
    """
    if len({TIME_COLUMN, *tags, *fields}) == 1 + len(tags) + len(fields):
        return list(tags), list(fields)
    clashing = {*tags, TIME_COLUMN}
    stored_tags = [name + SUFFIX if name == TIME_COLUMN else name for name in tags]
    stored_fields = [name + SUFFIX if name in clashing else name for name in fields]
    taken: dict[str, str] = {}
    for name, given in zip(stored_tags + stored_fields, [*tags, *fields], strict=True):
        check_column_name(measurement, name)
        if name in taken:
            raise PayloadError(
                f"measurement {measurement!r}: {taken[name]!r} and {given!r} would both be stored "
                f"as column {name!r}; rename one of them"
            )
        taken[name] = given
    return stored_tags, stored_fields


def too_large(limits: Limits) -> TooLargeError:
    """The refusal of a body whose columns do not fit into the budget."""
    what = "memory of the columns in this body"
    return TooLargeError(what, limits.max_decoded_bytes, "send fewer rows at once")


def is_row(item: dict[Any, Any]) -> bool:
    """Whether a map is a row; otherwise it is columnar, or nothing that can be stored."""
    return "fields" in item and item.get("columns") is None


class _Moment(msgspec.Struct, frozen=True, gc=False):
    """A time that came as MessagePack's timestamp, microseconds since 1970."""

    time_us: int


class RowGroup:
    """The rows of one measurement of a request.

    Attributes:
        measurement: Its name.
        numbers: Of each row, its number among the items of the request, from 0.
    """

    def __init__(self, measurement: str) -> None:
        self.measurement = measurement
        self.numbers: list[int] = []
        self._times: _Sparse = ([], [])
        self._tags: dict[str, _Sparse] = {}
        self._fields: dict[str, _Sparse] = {}
        self._columns: dict[str, tuple[Column, list[int]]] = {}
        self._num_tags = 0

    def add(self, number: int, item: dict[Any, Any], raw: msgspec.Raw) -> None:
        """Take one more row.

        Args:
            number: Of the row among the items of the request.
            item: The row.
            raw: Its bytes.

        Raises:
            PayloadError: it is not as a row should be; fields are judged by `settle`.
        """
        row = len(self.numbers)
        self.numbers.append(number)
        if "t" in item:
            time = item["t"]
            if isinstance(time, datetime):  # read from the bytes: a datetime is rounded
                time = _Moment(epoch_us(bytes(_RAW_MAP.decode(raw)["t"])))
            _put(self._times, row, time)
        host = item.get("h")
        for name, value in self._tags_of(number, item).items():
            text = self._tag_text(number, name, value)
            _put(self._tags.setdefault(name, ([], [])), row, text)
            host = None if name == HOST and text is not None else host
        if host is not None:
            _put(self._tags.setdefault(HOST, ([], [])), row, self._host_text(number, host))
        for name, value in self._fields_of(number, item).items():
            _put(self._fields.setdefault(name, ([], [])), row, value)

    def _tags_of(self, number: int, item: dict[Any, Any]) -> dict[str, Any]:
        tags = item.get("tags")
        if tags is None:
            return {}
        if not isinstance(tags, dict):
            raise self._wrong(number, "'tags' of a row", "a map", tags)
        for name in tags:
            check_column_name(self.measurement, name)
        return tags

    def _fields_of(self, number: int, item: dict[Any, Any]) -> dict[str, Any]:
        fields = item["fields"]
        if isinstance(fields, list) and fields:
            fields = {f"field_{i}": value for i, value in enumerate(fields)}
        if not isinstance(fields, dict) or not fields:
            wanted = "a map or an array of at least one field"
            raise self._wrong(number, "'fields'", wanted, fields)
        for name in fields:
            check_column_name(self.measurement, name)
        return fields

    def _wrong(self, number: int, what: str, wanted: str, found: Any) -> PayloadError:
        empty = " of none" if found == {} or found == [] else ""
        return PayloadError(
            f"measurement {self.measurement!r}: row {number}: {what} must be {wanted}, "
            f"found {type_name(found)}{empty}"
        )

    def _tag_text(self, number: int, name: str, value: Any) -> str | None:
        """The text that a tag is stored as, or None: it is missing."""
        if value is None or value != value:
            return None
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return repr(value)
        wanted = "a string, a number or a boolean, since it is a tag"
        raise ValueTypeError(self.measurement, name, number, type_name(value), wanted)

    def _host_text(self, number: int, host: Any) -> str:
        if isinstance(host, str):
            return host
        if isinstance(host, int) and not isinstance(host, bool):
            return str(host)
        raise self._wrong(number, "'h'", "a string or an integer", host)

    # ------------------------------------------------------------------------ rows to columns

    def settle(self, limits: Limits) -> tuple[int, int]:
        """Judge every column by all its values.

        Returns:
            (number of columns, the time included; bytes that they will take).

        Raises:
            PayloadError: a value that no column holds, or two columns of one name.
            LimitError: more columns than one measurement may have.
        """
        tags = self._settled(self._tags)
        fields = self._settled(self._fields)
        if len(tags) + len(fields) >= limits.max_columns:
            what = f"columns of measurement {self.measurement!r}, the time included"
            found = len(tags) + len(fields) + 1
            raise LimitError(what, found, limits.max_columns, "ARC_MAX_COLUMNS")
        names = stored_names(self.measurement, list(tags), list(fields))
        columns = [*tags.values(), *fields.values()]
        self._columns = dict(zip(names[0] + names[1], columns, strict=True))
        self._num_tags = len(tags)
        rows = len(self.numbers)
        nbytes = sum(_dense_bytes(found, len(at), rows) for found, at in columns)
        nbytes += 8 * rows
        if self._times[0]:
            nbytes += 8 * rows + (_words(rows) if len(self._times[0]) < rows else 0)
        return len(columns) + 1, nbytes

    def _settled(self, given: dict[str, _Sparse]) -> dict[str, tuple[Column, list[int]]]:
        """The columns that hold a value, each with the rows that its values stand in."""
        found = {}
        for name, (values, rows) in given.items():
            present = [i for i, value in enumerate(values) if value is not None]
            made = self._column(name, [values[i] for i in present], [rows[i] for i in present])
            if made is not None and made[0].validity is not None:  # NaN among strings
                present = [i for i in present if isinstance(values[i], str)]
                made = self._column(name, [values[i] for i in present], [rows[i] for i in present])
            if made is not None:
                found[name] = made
        return found

    def _column(
        self, name: str, values: list[Any], rows: list[int]
    ) -> tuple[Column, list[int]] | None:
        numbers = [self.numbers[row] for row in rows]
        found = column(self.measurement, name, values, numbers)
        return None if found is None else (found, rows)

    def batch(self, now_us: int, time_unit: TimeUnit | None) -> ColumnBatch:
        """The rows as columns, once they are settled.

        Raises:
            TimeError: a time of a row is none.
        """
        rows = len(self.numbers)
        columns: dict[str, Column | None] = {
            name: _dense(found, at, rows) for name, (found, at) in self._columns.items()
        }
        if self._times[0]:
            time_us = np.full(rows, now_us, dtype=np.int64)
            time_us[self._times[1]] = self._times_us(time_unit)
            columns[TIME_COLUMN] = Column(ColumnType.INT64, time_us)
        tags = frozenset(list(self._columns)[: self._num_tags])
        return assemble(self.measurement, rows, columns, tags, now_us, TimeUnit.US)

    def _times_us(self, unit: TimeUnit | None) -> NDArray[np.int64]:
        """Times of the rows that have one, microseconds since 1970."""
        where = f"measurement {self.measurement!r}: 't'"
        values, numbers = self._times[0], [self.numbers[row] for row in self._times[1]]
        for number, value in zip(numbers, values, strict=True):
            if value is None or type(value) not in _TIMES:
                found = f"found {type_name(value)}, wanted an integer, a float or a timestamp"
                found = "null is not a time" if value is None else found
                raise TimeError(f"{where}, row {number}: {found}")
        moments = [isinstance(value, _Moment) for value in values]
        if any(moments):
            if not all(moments):
                number, other = numbers[moments.index(False)], numbers[moments.index(True)]
                wanted = f"wanted a timestamp as in row {other}"
                found = type_name(values[moments.index(False)])
                raise TimeError(f"{where}, row {number}: found {found}, {wanted}")
            unit, values = TimeUnit.US, [value.time_us for value in values]
        times = column(self.measurement, "t", values, numbers)
        if times is None or times.type is ColumnType.UINT64:
            number = numbers[values.index(max(values))]
            raise TimeError(f"{where}, row {number}: {max(values)} is not a time")
        return _to_epoch_us(times.values, numbers, unit, where)


#: What the time of a row can be.
_TIMES = frozenset({int, float, _Moment})


def _to_epoch_us(
    times: NDArray[Any], numbers: list[int], unit: TimeUnit | None, where: str
) -> NDArray[np.int64]:
    """As `to_epoch_us`, whose errors name the numbers that the rows have in the request."""
    try:
        return to_epoch_us(times.copy(), unit, where).time_us
    except TimeError:
        # Once more, each time at its number. Zero is a time in every unit and tells none.
        spread = np.zeros(numbers[-1] + 1, dtype=times.dtype)
        spread[numbers] = times
        to_epoch_us(spread, unit, where)
        raise


def _put(sparse: _Sparse, row: int, value: Any) -> None:
    values, rows = sparse
    values.append(value)
    rows.append(row)


def _words(nbytes: int) -> int:
    """Bytes of a buffer in an arena of the fast path, which are counted here as well."""
    return nbytes + 7 & ~7


def _dense_bytes(found: Column, present: int, rows: int) -> int:
    """Bytes that a column of so many values takes when it has all rows."""
    nbytes = _words(rows) if present < rows else 0
    if found.offsets is not None:
        return nbytes + _words(4 * (rows + 1)) + _words(found.values.nbytes)
    return nbytes + _words(found.values.itemsize * rows)


def _dense(found: Column, at: list[int], rows: int) -> Column:
    """A column of all rows from one of the values that are present."""
    if len(at) == rows:
        return found
    validity = np.zeros(rows, dtype=np.bool_)
    validity[at] = True
    if found.offsets is None:
        values = np.zeros(rows, dtype=found.values.dtype)
        values[at] = found.values
        return Column(found.type, values, None, validity, found.wide)
    sizes = np.zeros(rows + 1, dtype=np.int32)
    sizes[1:][at] = np.diff(found.offsets)
    return Column(found.type, found.values, np.cumsum(sizes, dtype=np.int32), validity)
