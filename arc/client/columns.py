"""Whole columns, to batches. Pure: columns in, bodies of requests out; nothing is sent here.

In: a measurement and its columns by name: lists, NumPy arrays, pyarrow arrays, all of one length.
Out: columnar MessagePack, or Arrow IPC if a column is a pyarrow array. Everything is checked and
encoded before anything is handed out, so that a call is taken as a whole or not at all. No value
is rounded, and the columns are neither changed nor kept.

`ColumnsEncoder` is the way in. It remembers the bodies of the last calls, so that a call of the
same columns, types and length of NumPy arrays has only its values to write. `encode_columns` is
its plain twin, which everything else takes.

Which of the two formats, by processor time (docs/profiling/2026-11-20-client-columns.md has all
numbers; python -m benchmarks.client.bench_columns --cpu):

* Lists: MessagePack, 42 µs for 1 000 rows of six columns, where Arrow takes 149.
* NumPy arrays: MessagePack, 5.4 µs for a call that came before, 37 for a new one; Arrow 59. Arrow
  that copies arrays behind a head that it remembers would take 1.6 µs less than the former, but
  pyarrow has to be imported to make the head, 35 ms and 27 MB.
* pyarrow arrays: Arrow, 118 µs for 10 000 rows with a column of text, where MessagePack takes 407;
  of numbers alone Arrow costs the client 1.6 times as much, and the daemon a third.

The daemon decodes Arrow in 16 µs for 1 000 rows and 23 for 10 000, MessagePack in 20 and 64, which
is too small a part of a request to be seen from end to end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arc.client import columns_lists
from arc.client.batch import WRITE_ARROW, WRITE_MSGPACK, Batch, Kind
from arc.client.columns_wire import (
    ENCODER,
    NS_PER,
    TIME,
    Column,
    Constant,
    Place,
    array_head,
    check_measurement,
    check_name,
    cut,
    map_head,
)
from arc.client.errors import UsageError

if TYPE_CHECKING:
    from arc.client.columns_arrow import ArrowColumn
    from arc.client.columns_template import Template

Headers = tuple[tuple[str, str], ...]

#: Bounds of what a `ColumnsEncoder` remembers: bytes of one template and of all, templates, and
#: calls of which no more is kept than their key.
MAX_TEMPLATE_BYTES = 1 << 20
MAX_TEMPLATES_BYTES = 8 << 20
MAX_TEMPLATES = 64
MAX_SEEN = 256


def encode_columns(
    measurement: str,
    columns: Mapping[str, Any],
    *,
    tags: Iterable[str] | Mapping[str, str] = (),
    time_unit: str | None = None,
    batch_rows: int,
    batch_bytes: int,
) -> list[Batch]:
    """Encode columns of one length.

    A column is a list or tuple, a NumPy array, a pyarrow array or chunked array, or anything that
    NumPy or pyarrow can read as one (a Series of pandas or Polars, `array.array`, a range).

    * Numbers, booleans, strings, bytes; None, masked and null are missing, NaN is a float. Integers
      and floats in one list are floats. Long doubles must be exact as float64.
    * `time`: datetimes (without a zone: UTC), datetime64 of any unit, timestamps, dates, or
      numbers. Without it every row gets the client's clock at this call. In other columns dates
      are stored as int64, microseconds since 1970.
    * Rows of several values, a list of lists or an array of two dimensions, become columns
      `name_0`, `name_1`, …
    * Text is a field unless it is named in `tags` or is a dictionary of pyarrow; in `Client.log`
      strings are tags.

    Args:
        measurement: Where the rows go: 1 to 128 characters.
        columns: At least one, of at least one row, by name: 1 to 255 bytes of UTF-8.
        tags: Names of columns that are tags; or tags that all rows share, by name.
        time_unit: Of times that are numbers: `s`, `ms`, `us` or `ns`; None: the server tells it
            from their magnitudes.
        batch_rows: Most rows of a batch.
        batch_bytes: Most bytes of a batch; a single row may have more.

    Returns:
        Batches in order of the rows, at least one.

    Raises:
        UsageError: columns of unequal length or of none, a name, a type or a value that no column
            has: measurement, column and row, what was found and wanted.
    """
    call = _checked(measurement, columns, tags, time_unit)
    if any(map(_is_arrow, columns.values())):
        return _encode_arrow(call, batch_rows, batch_bytes)
    prepared = _prepared(call)
    wire = Wire(call.measurement, prepared)
    headers = _unit_header(_time_unit(call, prepared))
    return [
        Batch(Kind.MSGPACK, WRITE_MSGPACK, headers, body, rows, measurement)
        for body, rows in cut(wire.rows, batch_rows, batch_bytes, wire.body)
    ]


class Call(NamedTuple):
    """The checked arguments of one call; its columns are not looked at yet.

    Attributes:
        measurement: Where the rows go.
        columns: By name, as they were given.
        tags: Which of them are tags.
        constants: Tags of every row.
        time_unit: Of times that are numbers.
    """

    measurement: str
    columns: Mapping[str, Any]
    tags: frozenset[str]
    constants: Mapping[str, str]
    time_unit: str | None


class Wire:
    """Prepared columns of one length as the maps of columnar MessagePack.

    Attributes:
        rows: How many there are.
        values: Of each column, in their order.
    """

    def __init__(self, measurement: str, columns: Sequence[Column]) -> None:
        self.values = [column.values for column in columns]
        self.rows = self.values[0].rows
        tags = [column.name for column in columns if column.is_tag]
        self._head = b"".join(
            (
                b"\x83\xa1m",
                ENCODER.encode(measurement),
                b"\xa4tags",
                ENCODER.encode(tags),
                b"\xa7columns",
                map_head(len(columns)),
            )
        )
        self._names = [ENCODER.encode(column.name) for column in columns]

    def pieces(self, start: int, stop: int) -> list[Any]:
        """The map of some rows in pieces: what is before the first column, then two a column.

        Of each column, its name with the head of its array, then its values.
        """
        head = array_head(stop - start)
        pieces: list[Any] = [self._head]
        for name, values in zip(self._names, self.values, strict=True):
            pieces += (name + head, values.wire(start, stop))
        return pieces

    def body(self, start: int, stop: int) -> bytes:
        """The map of some rows."""
        return b"".join(self.pieces(start, stop))


# ------------------------------------------------------------------------- the checks of a call


def _checked(measurement: Any, columns: Any, tags: Any, time_unit: Any) -> Call:
    """The arguments of a call, but for what is in its columns."""
    check_measurement(measurement)
    where = f"measurement {measurement!r}: "
    if not isinstance(columns, Mapping) or not columns:
        found = "none" if isinstance(columns, Mapping) else type(columns).__name__
        raise UsageError(f"{where}columns: found {found}, wanted a dict of some by their names")
    if time_unit is not None and time_unit not in NS_PER:
        raise UsageError(f"{where}time_unit: found {time_unit!r}, wanted s, ms, us or ns")
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise UsageError(f"{where}tags: found {tags!r}, wanted names, or a dict of tags by name")
    for name in columns:
        check_name(measurement, name)
    if isinstance(tags, Mapping):
        _check_constants(measurement, columns, tags)
        return Call(measurement, columns, frozenset(), tags, time_unit)
    names = tuple(tags)
    for name in names:
        if name not in columns or name == TIME:
            known = ", ".join(name for name in columns if name != TIME)[:200]
            raise UsageError(f"{where}tags: found {name!r}, wanted one of the columns {known}")
    return Call(measurement, columns, frozenset(names), {}, time_unit)


def _check_constants(measurement: str, columns: Mapping[str, Any], tags: Mapping[Any, Any]) -> None:
    for name, value in tags.items():
        check_name(measurement, name)
        if name in columns or name == TIME:
            raise UsageError(
                f"measurement {measurement!r}: tags: {name!r} is "
                f"{'a column as well' if name in columns else 'the name of the times'}"
            )
        if not isinstance(value, str):
            found = f"{type(value).__name__} {value!r}"[:80]
            raise Place(measurement, name).error(found, "a string, as the tag of all rows")
        columns_lists.check_text(Place(measurement, name), value)


def _check_together(measurement: str, names: Iterable[str]) -> None:
    """Refuse names that one table cannot have together; each has a column `time`."""
    seen: dict[str, str] = {}
    for name in names:
        folded = name.lower()
        other = seen.get(folded, TIME if folded == TIME != name else None)
        if other is not None:
            raise UsageError(
                f"measurement {measurement!r}: columns {other!r} and {name!r}: two of one "
                "measurement may not have one name, or differ in capitals alone"
            )
        seen[folded] = name


def _check_lengths(measurement: str, columns: Mapping[str, Any]) -> int:
    """The number of rows, which all columns must have."""
    first = TIME if TIME in columns else next(iter(columns))
    rows = len(columns[first])
    for name, values in columns.items():
        if len(values) != rows:
            found = f"{len(values)} values"
            raise Place(measurement, name).error(found, f"{rows}, as column {first!r} has")
    if not rows:
        raise UsageError(f"measurement {measurement!r}: found no rows, wanted at least one")
    return rows


def _unit_header(time_unit: str | None) -> Headers:
    """What names the unit of the times, if it is known."""
    return (("x-arc-time-unit", time_unit),) if time_unit else ()


def _time_unit(call: Call, columns: Sequence[Column] | Sequence[ArrowColumn]) -> str | None:
    """The unit that the type of the times tells, else that of the call."""
    told = (c.values.time_unit if isinstance(c, Column) else c.time_unit for c in columns)
    return next(filter(None, told), call.time_unit)


# ------------------------------------------------------------------------- columns by their kind


def _is_arrow(given: Any) -> bool:
    """Whether a column is for pyarrow, which need not be imported to tell."""
    if type(given) is list or _is_array(given):
        return False
    if type(given).__module__.partition(".")[0] == "pyarrow":
        return True
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")


def _is_array(given: Any) -> bool:
    """Whether a column is a NumPy array; if there is one, NumPy is imported."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(given, numpy.ndarray)


def _column(place: Place, given: Any) -> Any:
    """What was given as a list, a tuple, a NumPy array, or something of pyarrow, as it is."""
    if isinstance(given, list | tuple) or _is_arrow(given):
        return given
    if _is_array(given) or hasattr(given, "__array__"):
        import numpy as np

        array = np.asanyarray(given)
        if array.ndim:
            return array
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | bytearray | Mapping):
        return list(given)
    raise place.error(
        f"{type(given).__name__} {given!r}"[:80],
        "a list or an array with one value for each row; a tag of all rows goes into tags",
    )


def _columns(call: Call) -> tuple[dict[str, Any], int]:
    """The columns as lists and arrays, and the number of rows that each of them has."""
    found = {
        name: _column(Place(call.measurement, name), given) for name, given in call.columns.items()
    }
    return found, _check_lengths(call.measurement, found)


def _prepared(call: Call) -> list[Column]:
    """Every column checked, those of all rows last."""
    given, rows = _columns(call)
    found: list[Column] = []
    for name, values in given.items():
        found += _prepared_column(call, name, values)
    found += _constants(call, rows)
    _check_together(call.measurement, [column.name for column in found])
    return found


def _prepared_column(call: Call, name: str, values: Any) -> list[Column]:
    place, is_tag = Place(call.measurement, name), name in call.tags
    if isinstance(values, list | tuple):
        prepared = columns_lists.prepare(place, values, is_tag, call.time_unit)
    else:
        from arc.client import columns_numpy

        prepared = columns_numpy.prepare(place, values, is_tag, call.time_unit)
    return [Column(each, found, is_tag) for each, found in prepared]


def _constants(call: Call, rows: int) -> list[Column]:
    """Columns of one value: the tags of all rows, and the present time if none came."""
    found = [Column(name, Constant(rows, text), True) for name, text in call.constants.items()]
    if TIME not in call.columns:
        found.append(Column(TIME, Constant(rows, time.time_ns(), "ns"), False))
    return found


def _encode_arrow(call: Call, batch_rows: int, batch_bytes: int) -> list[Batch]:
    from urllib.parse import quote

    from arc.client import columns_arrow

    given, rows = _columns(call)
    found: list[ArrowColumn] = []
    for name, values in given.items():
        if _is_arrow(values):
            place = Place(call.measurement, name)
            found.append(columns_arrow.prepare(place, values, name in call.tags))
        else:
            found += map(columns_arrow.from_values, _prepared_column(call, name, values))
    found += map(columns_arrow.from_values, _constants(call, rows))
    _check_together(call.measurement, [column.name for column in found])
    headers = _unit_header(_time_unit(call, found))
    target = f"{WRITE_ARROW}?measurement={quote(call.measurement, safe='')}"
    return [
        Batch(Kind.ARROW, target, headers, body, rows, call.measurement)
        for body, rows in columns_arrow.encode(found, batch_rows, batch_bytes)
    ]


# ------------------------------------------------------------------------ calls that come again


class ColumnsEncoder:
    """`encode_columns` for calls that are alike.

    Most producers send the same columns again and again. The second call of one measurement,
    names, types, length and tags leaves its body here as a template: heads of arrays, type bytes
    and constant tags already stand in it, and the calls after it write their values into it and
    take a copy. Only NumPy arrays of numbers, booleans and times, without masks, are templated.

    For any number of threads: a template belongs to the call that took it out of the dict, whose
    operations are atomic, until it puts it back; a call that finds none encodes without.
    """

    def __init__(self) -> None:
        self._templates: dict[Any, Template] = {}  # the one used last is last
        self._seen: dict[Any, bool] = {}  # calls that came once; False: none suits a template

    def encode(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        *,
        tags: Iterable[str] | Mapping[str, str] = (),
        time_unit: str | None = None,
        batch_rows: int,
        batch_bytes: int,
    ) -> list[Batch]:
        """Arguments, result and errors as `encode_columns` has them."""
        # HOT, once a call: 1 000 rows of a time, three floats and two constant tags 36.5 -> 5.4 µs
        # (benchmarks/client/bench_columns.py --cpu -k "call numpy").
        # Twin: encode_columns; equality: tests/client/test_columns.py.
        if type(tags) is not tuple and type(tags) is not dict:
            tags = _reusable(tags)
        try:
            values = tuple(columns.values())
            key = (
                measurement,
                time_unit,
                batch_rows,
                batch_bytes,
                tuple(tags.items()) if type(tags) is dict else (None, tags),
                tuple(columns),
                tuple(map(type, values)),
                tuple([value.dtype for value in values]),
                tuple([value.shape for value in values]),
            )
            template = self._templates.pop(key, None)
        except (AttributeError, TypeError):  # not arrays alone, or nothing of what was asked for
            key, template = None, None
        if template is not None:
            body = template.fill(values)
            self._templates[key] = template
            if body is not None:
                headers, rows = template.headers, template.rows
                return [Batch(Kind.MSGPACK, WRITE_MSGPACK, headers, body, rows, measurement)]
        elif key is not None and self._came_before(key):
            self._learn(key, _checked(measurement, columns, tags, time_unit))
        return encode_columns(
            measurement,
            columns,
            tags=tags,
            time_unit=time_unit,
            batch_rows=batch_rows,
            batch_bytes=batch_bytes,
        )

    def _came_before(self, key: Any) -> bool:
        """Whether this is the second call of its kind; a producer of odd lengths never has one."""
        if key in self._seen:
            return self._seen[key]
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[key] = True
        return False

    def _learn(self, key: Any, call: Call) -> None:
        """Keep a template for calls like this one, and let the oldest go where there are many."""
        from arc.client.columns_template import Template, suits

        _, _, batch_rows, batch_bytes, *_ = key
        template = None
        if not call.tags and suits(call.columns):
            prepared = _prepared(call)
            wire = Wire(call.measurement, prepared)
            if wire.rows <= batch_rows:
                headers = _unit_header(_time_unit(call, prepared))
                template = Template(wire.pieces(0, wire.rows), call.columns, wire.rows, headers)
        if template is None or template.nbytes > min(batch_bytes, MAX_TEMPLATE_BYTES):
            self._seen[key] = False
            return
        self._templates[key] = template
        kept = list(self._templates.items())
        excess = sum(each.nbytes for _, each in kept) - MAX_TEMPLATES_BYTES
        for old, each in kept:
            if excess <= 0 and len(self._templates) <= MAX_TEMPLATES:
                return
            excess -= each.nbytes
            self._templates.pop(old, None)


def _reusable(tags: Any) -> Any:
    """Tags that can be looked at twice, as a tuple of names or a dict; or what is neither."""
    if isinstance(tags, Mapping):
        return dict(tags)
    return tuple(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else tags
