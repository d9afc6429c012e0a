"""Rows of calls to columnar MessagePack. Pure: lists in, bytes out.

In: what the hot calls left behind, values of any type among it. Out: bodies of one or more columnar
maps with times in nanoseconds, bounded in rows and bytes, and every row that cannot be sent, alone
and with the reason. A row is in one of the two, once. Nothing is sent here, no list is changed,
and no clock is read.

The fast path takes a column at a time and never looks at a value in Python: that all of a column
are of one type is seen in what was encoded, or proved by C that fails otherwise. Rows with a value
that it cannot take are found and go through `_plain_row`, one after another, from which they come
back as values that it can, or are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from arc.client.columns_wire import TIME, array_head, check_measurement, check_name, map_head
from arc.client.errors import UsageError
from arc.client.rows_apart import Alike, Cells, Dicts, apart, part_of
from arc.client.rows_split import Encoded, described, numbered, picked, split
from arc.client.rows_values import (
    MAX_ELEMENTS,
    NUMPY_NUMBERS,
    PLAIN,
    elements,
    plain_value,
    text_value,
    too_many,
)
from arc.client.times import MAX_TIME_NS, UNIT_BOUNDS, to_ns

__all__ = ["Dialect", "Encoded", "Refused", "Shape", "encode_calls", "encode_series", "split"]

#: Columns of all maps of a body. The server takes 100 000 a request.
_MAX_BODY_COLUMNS = 20_000

#: What a column in a map of its own costs, in nulls of a larger map: 1.7 µs to decode and 1.6 to
#: encode (benchmarks/bench_decode.py -k overhead), where a null takes 3 and 30 ns.
_COLUMN_NULLS = 100

#: Characters of a name that is not too long whatever characters they are.
_SHORT_NAME = 60

#: Bytes of a number by its first one: float64, and integers from 2 bytes to 9.
_WIDTHS = {0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
#: Integers, booleans and null.
_NUMBERS_OF_ONE_BYTE = bytes([*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3])

#: Integers from here on are nanoseconds whatever the unit would be told from.
_NS_BEGIN = UNIT_BOUNDS[-1][0]

_ENCODER = msgspec.msgpack.Encoder(enc_hook=plain_value)


class Dialect(msgspec.Struct, frozen=True):
    """What was declared for a measurement.

    Attributes:
        tags: Columns that are tags; values that are no text become text.
        fields: Columns that are fields, text or not.
    """

    tags: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()


_NOTHING_DECLARED = Dialect()


class Shape(msgspec.Struct, frozen=True):
    """What the rows of a queue of handles have in common.

    Attributes:
        measurement: Its name.
        tags: Names of the tags, in the order of their values in the tuple of each row.
        fields: Names of the fields, in the order of their values in each row.
    """

    measurement: str
    tags: tuple[str, ...]
    fields: tuple[str, ...]


class Refused(msgspec.Struct):
    """One row that cannot be encoded.

    Attributes:
        measurement: Its name, as text whatever it was.
        row: The values as they were given, and the time in ns, unless a value named so was given.
        message: Measurement, column, what was found and what was wanted.
    """

    measurement: str
    row: dict[str, Any]
    message: str


def encode_calls(
    rows: list[list[Any]],
    width: int,
    dialects: Mapping[str, Dialect],
    batch_rows: int,
    batch_bytes: int,
) -> tuple[list[Encoded], list[Refused]]:
    """Encode what `Client.log` took, of calls with the same number of values.

    Args:
        rows: A list for each place of a row, `[measurements, times, names, …, values, …]`: of each
            row any value, an int in ns, `width` names and as many values of any type. A value named
            `time` takes the place of its time, in any form that `arc.client.times.to_ns` reads;
            None does not.
        width: Values of a row, 0 included.
        dialects: By measurement. Where nothing is declared, a column whose first value is text is
            a tag.
        batch_rows: Most rows of a body.
        batch_bytes: Most bytes of a body; a single row may have more.

    Returns:
        Bodies, and the rows that cannot be encoded. Rows of a measurement with the same names in
        the same order keep theirs.
    """
    out = _Out(batch_rows, batch_bytes)
    for part in _batches(rows, batch_rows):
        for name, alike in apart(part, width):
            try:
                check_measurement(name)
            except UsageError as error:
                _refuse_all(out, name, alike, error)
                continue
            text = str.__str__(name)
            group = _Group(text, dialects.get(text, _NOTHING_DECLARED))
            for names, times, source in alike:
                table = _Table(group, times, names, source)
                _put(out, table, _encoded_table(table))
    return out.finished()


def encode_series(
    shape: Shape, rows: list[list[Any]], batch_rows: int, batch_bytes: int
) -> tuple[list[Encoded], list[Refused]]:
    """Encode what the handles of one shape took.

    Args:
        shape: Its names, of which none is `time` and none is there twice.
        rows: A list for each place of a row, `[tags, times, values, …]`: of each row a tuple of one
            value for each tag, an int in ns, and one value for each field. Handles that log in turn
            have their tags looked up row by row; one handle alone has them repeated as bytes.
        batch_rows: Most rows of a body.
        batch_bytes: Most bytes of a body; a single row may have more.

    Returns:
        Bodies, and the rows that cannot be encoded. Rows keep their order.
    """
    out = _Out(batch_rows, batch_bytes)
    group = _Group(shape.measurement, Dialect(frozenset(shape.tags), frozenset(shape.fields)))
    names = (*shape.tags, *shape.fields)
    for tags, times, *values in _batches(rows, batch_rows):
        table = _Table(group, times, names, _tagged(tags, values))
        _put(out, table, _encoded_table(table))
    return out.finished()


def _batches(rows: list[list[Any]], batch_rows: int) -> Iterator[list[list[Any]]]:
    """The rows in parts of at most so many."""
    count = len(rows[0])
    for start in range(0, count, batch_rows):
        yield rows if count <= batch_rows else part_of(rows, start, start + batch_rows)


# ------------------------------------------------------------------------------------- the way out


class _Out:
    """Bodies and refusals of one call. Small maps share a body until it is full."""

    def __init__(self, batch_rows: int, batch_bytes: int) -> None:
        self.batch_rows, self.batch_bytes = batch_rows, batch_bytes
        self._encoded: list[Encoded] = []
        self._refused: list[Refused] = []
        self._maps: list[bytes] = []
        self._names: set[str] = set()
        self._rows = self._bytes = self._columns = 0

    def add(self, columnar: _Map, measurement: str, rows: int) -> None:
        """Take the map of a table."""
        is_over = (
            self._rows + rows > self.batch_rows
            or self._bytes + len(columnar.body) > self.batch_bytes
            or self._columns + columnar.columns > _MAX_BODY_COLUMNS
        )
        if is_over:
            self._close()
        self._maps.append(columnar.body)
        self._names.add(measurement)
        self._rows += rows
        self._bytes += len(columnar.body)
        self._columns += columnar.columns

    def refuse(self, name: Any, time_ns: int, values: dict[str, Any], error: UsageError) -> None:
        """Take a row that cannot be encoded."""
        measurement = name if isinstance(name, str) else repr(name)[:80]
        self._refused.append(Refused(measurement, {TIME: time_ns, **values}, str(error)))

    def finished(self) -> tuple[list[Encoded], list[Refused]]:
        """All of it."""
        self._close()
        return self._encoded, self._refused

    def _close(self) -> None:
        if not self._maps:
            return
        body = self._maps[0] if len(self._maps) == 1 else b"".join(self._maps)
        self._encoded.append(Encoded(body, self._rows, described(self._names)))
        self._maps, self._names = [], set()
        self._rows = self._bytes = self._columns = 0


class _Map(NamedTuple):
    """A columnar map, encoded, and how many columns it has."""

    body: bytes
    columns: int


def _put(out: _Out, table: _Table, columnar: _Map | None) -> None:
    """Hand out what a table was encoded to: in parts if it has too many bytes; None: row by row."""
    if columnar is None:
        _put_odd(out, table)
        return
    rows = len(table.times)
    parts = min(rows, -(-len(columnar.body) // out.batch_bytes))
    if parts <= 1:
        out.add(columnar, table.group.measurement, rows)
        return
    step = -(-rows // parts)
    for start in range(0, rows, step):
        part = table.part(start, start + step)
        _put(out, part, _encoded_table(part))


# ------------------------------------------------------------------------------------------ tables


class _Group(NamedTuple):
    """A measurement, its name checked, and what was declared for it."""

    measurement: str
    dialect: Dialect


class _Table(NamedTuple):
    """Rows that go out as one map, still as the calls left them: at most `batch_rows`.

    Attributes:
        group: Whose they are.
        times: Of each row, ns since 1970, unless it brings its own.
        names: Of the columns, not checked.
        source: The rows.
    """

    group: _Group
    times: list[int]
    names: tuple[str, ...]
    source: Dicts | _Tagged | Cells

    def part(self, start: int, stop: int) -> _Table:
        """Some rows that follow one another."""
        times, source = self.times[start:stop], self.source.part(start, stop)
        return self._replace(times=times, source=source)


class _Packed(NamedTuple):
    """The columns of a map, so far.

    Attributes:
        arrays: Of MessagePack, by name.
        tags: Names of those that are tags.
    """

    arrays: dict[str, bytes]
    tags: list[str]


class _Tagged(NamedTuple):
    """Rows as handles left them.

    Attributes:
        tags: Of each row.
        values: By field.
        is_one: All rows have the tags of the first.
    """

    tags: list[tuple[Any, ...]]
    values: list[list[Any]]
    is_one: bool

    def column(self, _: str, i: int) -> list[Any] | _Repeated:
        """The values of a column."""
        num_tags = len(self.tags[0])
        if i >= num_tags:
            return self.values[i - num_tags]
        if self.is_one:
            return _Repeated(self.tags[0][i], len(self.tags))
        return [values[i] for values in self.tags]

    def rows(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The rows as dicts."""
        columns = [_listed(self.column(name, i)) for i, name in enumerate(names)]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def part(self, start: int, stop: int) -> _Tagged:
        """See `_Table`."""
        return _tagged(self.tags[start:stop], part_of(self.values, start, stop))


def _tagged(tags: list[tuple[Any, ...]], values: list[list[Any]]) -> _Tagged:
    # HOT: the rows of one handle have one tuple, which is seen in 1 ns a row.
    return _Tagged(tags, values, tags == [tags[0]] * len(tags))


class _Repeated(NamedTuple):
    """One value in all rows."""

    value: Any
    rows: int


def _listed(values: list[Any] | _Repeated) -> list[Any]:
    return [values.value] * values.rows if isinstance(values, _Repeated) else values


# ---------------------------------------------------------------------------------- rows to tables


def _refuse_all(out: _Out, measurement: Any, alike: list[Alike], error: UsageError) -> None:
    """Hand back the rows of a measurement that is none."""
    for names, times, source in alike:
        for time_ns, values in zip(times, source.rows(names), strict=True):
            out.refuse(measurement, time_ns, values, error)


def _tables(group: _Group, times: list[int], dicts: list[dict[str, Any]]) -> Iterator[_Table]:
    """Tables of rows with any names.

    One table keeps the order of the rows and is looked up faster than rows are told apart, so
    its nulls may be as many as its values; and more where the tables apart would be so small that
    each of their columns costs more than its nulls.
    """
    first = dicts[0]
    names = (*first, *sorted(set().union(*dicts).difference(first), key=str))
    values, cells = sum(map(len, dicts)), len(names) * len(dicts)
    shapes = {} if cells <= 2 * values else numbered(map(frozenset, dicts))
    if cells <= 2 * values + _COLUMN_NULLS * sum(map(len, shapes)):
        yield _Table(group, times, names, Dicts(dicts, is_sparse=cells != values))
        return
    for numbers in shapes.values():
        of_shape = picked(dicts, numbers)
        yield _Table(group, picked(times, numbers), tuple(of_shape[0]), Dicts(of_shape))


# --------------------------------------------------------------------------------- tables to maps


def _encoded_table(table: _Table) -> _Map | None:
    """A columnar map; None: some name or value of it is to be looked at row by row.

    One list of values at a time, and bytes that are joined once: with all lists at a time and
    `Encoder.encode` of the whole, 10 000 rows took 440 page faults, and 240 to 300 ns a row
    instead of 125 to 160 (docs/profiling/2026-11-20-client-rows.md).
    """
    (measurement, dialect), packed = table.group, _Packed({}, [])
    times: list[int] | None = table.times
    for i, name in enumerate(table.names):
        if not _is_name(name, measurement):
            return None
        values = table.source.column(name, i)
        if name == TIME:
            times = _own_times(table.times, _listed(values))
            continue
        is_tag = _declared(name, dialect)
        if isinstance(values, _Repeated):
            is_packed = _pack_repeated(packed, name, values, is_tag, dialect)
        else:
            is_packed = _pack(packed, name, values, is_tag, dialect)
        if not is_packed:
            return None
    return _joined(measurement, times, packed) if times is not None and packed.arrays else None


def _joined(measurement: str, times: list[int], packed: _Packed) -> _Map:
    """`{"m": …, "tags": […], "columns": {"time": […], …}}`."""
    encode = _ENCODER.encode
    parts = [b"\x83\xa1m", encode(measurement), b"\xa4tags", encode(packed.tags), b"\xa7columns"]
    columns = 1 + len(packed.arrays)
    parts += (_map_head(columns), b"\xa4time", encode(times))
    for name, values in packed.arrays.items():
        parts += (encode(name), values)
    return _Map(b"".join(parts), columns)


def _map_head(count: int) -> bytes:
    return map_head(count) if count < 2**16 else b"\xdf" + count.to_bytes(4)


def _own_times(times: list[int], given: list[Any]) -> list[int] | None:
    """The times that rows brought, and those of the calls where they brought None; None: odd."""
    try:
        # HOT: 40 ns a row instead of 530 by `to_ns` of each, for times that are ns already.
        if {int} == set(map(type, given)) and min(given) >= _NS_BEGIN and max(given) <= MAX_TIME_NS:
            return given
        pairs = zip(times, given, strict=True)
        return [own if value is None else to_ns(value, None) for own, value in pairs]
    except Exception:  # of the values' own methods too: the plain path finds the row
        return None


def _is_name(name: Any, measurement: str) -> bool:
    """Whether it is the name of a column, and a str itself."""
    if type(name) is not str:
        return False
    if len(name) <= _SHORT_NAME and name.isidentifier():
        return True  # no U+0000, no surrogate, not too many bytes
    try:
        check_name(measurement, name)
    except UsageError:
        return False
    return True


def _declared(name: str, dialect: Dialect) -> bool | None:
    """True: a tag. False: a field. None: its values decide."""
    if name in dialect.tags:
        return True
    return False if name in dialect.fields else None


def _pack(
    packed: _Packed, name: str, values: list[Any], is_tag: bool | None, dialect: Dialect
) -> bool:
    """Add a column, or several if its values are lists; False: it is for the plain path.

    Args:
        packed: Where to; of no use any more if the column is for the plain path.
        name: Of the column.
        values: Of any types.
        is_tag: What was declared of it, or of the column whose element it is.
        dialect: What was declared of elements.
    """
    array = _packed_text(values) if is_tag else _packed(values)
    if array is None:
        return _pack_elements(packed, name, values, is_tag, dialect)
    if name in packed.arrays:
        return False
    packed.arrays[name] = array
    if is_tag or (is_tag is None and type(values[0]) is not float and _is_text(values)):
        packed.tags.append(name)
    return True


def _pack_repeated(
    packed: _Packed, name: str, values: _Repeated, is_tag: bool | None, dialect: Dialect
) -> bool:
    """As `_pack`, for a column of one value."""
    once = _Packed({}, packed.tags)
    if not _pack(once, name, [values.value], is_tag, dialect):
        return False
    head = array_head(values.rows)
    for key, array in once.arrays.items():
        packed.arrays[key] = head + array[1:] * values.rows
    return True


def _pack_elements(
    packed: _Packed, name: str, values: list[Any], is_tag: bool | None, dialect: Dialect
) -> bool:
    """As `_pack`, for a column of lists or arrays of one length."""
    most = len(packed.arrays) + MAX_ELEMENTS
    columns = _by_element(values)
    for suffix, of_element in columns:
        full_name = f"{name}_{suffix}"
        of_it = _declared(full_name, dialect) if is_tag is None else is_tag
        is_packed = _pack(packed, full_name, of_element, of_it, dialect)
        if not is_packed or len(packed.arrays) > most or len(full_name) > _SHORT_NAME:
            return False
    return bool(columns)


def _by_element(values: list[Any]) -> list[tuple[str, list[Any]]]:
    """Of lists or arrays that are all of one length, the values at each place; else nothing."""
    # HOT: a list of three 57 ns a row, an array of 3 x 3 310; row by row 4 200 and 11 000.
    kinds = set(map(type, values))
    try:
        if kinds <= {list, tuple} and len(values[0]) <= MAX_ELEMENTS:
            columns = zip(*values, strict=True)
            return [(str(i), list(column)) for i, column in enumerate(columns)]
        numpy = sys.modules.get("numpy")
        if numpy is None or kinds != {numpy.ndarray} or len({each.dtype for each in values}) > 1:
            return []
        array = numpy.array(values)
        if array.dtype.kind not in "biuf" or array[0].size > MAX_ELEMENTS:
            return []
        places = ("_".join(map(str, place)) for place in numpy.ndindex(array.shape[1:]))
        columns = array.reshape(len(array), -1).T.tolist()
        return list(zip(places, columns, strict=True)) if array.ndim > 1 else []
    except Exception:  # of different lengths
        return []


def _is_text(values: list[Any]) -> bool:
    """Whether the first value that is not None is text."""
    first = values[0]
    if first is None:
        first = next((value for value in values if value is not None), None)
    if isinstance(first, Enum):
        first = first.value
    return isinstance(first, str)


def _packed(values: list[Any]) -> bytes | None:
    """An array of MessagePack; None: a value is for the plain path."""
    # HOT, once a value: the types of all values cost 13 ns each; instead, the kind that the first
    # one has is proved of all: numbers in what was encoded, 0.7 ns each, strings by joining them,
    # 3.1. Twin: _packed_one_by_one; equality: tests/client/test_rows.py.
    kind = type(values[0])
    packed = None
    try:
        if kind is str:
            packed = _packed_strings(values)
        elif kind is float or kind is int or kind is bool:
            packed = _packed_numbers(values)
    except Exception:  # of the values' own methods too: whatever it is, it is no such column
        packed = None
    return _packed_one_by_one(values) if packed is None else packed


def _packed_numbers(values: list[Any]) -> bytes | None:
    """An array of numbers, if it can be seen that they are.

    If there are nine bytes for each value, and every ninth is that of a float64, all are; the same
    holds for integers of one width, and for values of one byte.
    """
    packed = _ENCODER.encode(values)
    head, rows = len(array_head(len(values))), len(values)
    if len(packed) == head + rows:
        return None if packed[head:].translate(None, _NUMBERS_OF_ONE_BYTE) else packed
    first = packed[head]
    width = _WIDTHS.get(first, 0)
    if len(packed) != head + width * rows or packed[head::width] != packed[head : head + 1] * rows:
        return None
    return packed


def _packed_strings(values: list[Any]) -> bytes | None:
    first = values[0]
    if first is values[-1] and values == [first] * len(values):
        return array_head(len(values)) + _ENCODER.encode(first) * len(values)
    "".join(values)
    return _ENCODER.encode(values)


def _packed_text(values: list[Any]) -> bytes | None:
    """An array of strings and nulls, whatever the values are; None: one has no text."""
    if type(values[0]) is str:
        try:
            return _packed_strings(values)
        except Exception:  # see _packed
            pass
    try:
        return _ENCODER.encode([text_value(plain_value(value)) for value in values])
    except Exception:  # see _packed
        return None


def _packed_one_by_one(values: list[Any]) -> bytes | None:
    """An array of MessagePack, by a look at the type of each value."""
    kinds = set(map(type, values))
    try:
        if kinds <= PLAIN:
            return _ENCODER.encode(values)
        (kind,) = kinds if len(kinds) == 1 else (object,)
        if kind.__module__ == "numpy" and kind.__name__ in NUMPY_NUMBERS:
            # HOT: 45 ns a value instead of 1 050 one by one.
            return _ENCODER.encode(sys.modules["numpy"].array(values).tolist())
        return _ENCODER.encode([plain_value(value) for value in values])
    except Exception:  # see _packed
        return None


# ----------------------------------------------------------------------------------- row by row


def _put_odd(out: _Out, table: _Table) -> None:
    """Encode a table with rows that are not for the fast path: these apart, the others anew."""
    rows = table.source.rows(table.names)
    odd = _odd_numbers(table)
    even = [i for i in range(len(rows)) if i not in odd]
    if not odd or not even:
        _put_plainly(out, table.group, table.times, rows)
        return
    source = Dicts(picked(rows, even), is_sparse=True)
    others = table._replace(times=picked(table.times, even), source=source)
    _put(out, others, _encoded_table(others))
    numbers = sorted(odd)
    _put_plainly(out, table.group, picked(table.times, numbers), picked(rows, numbers))


def _odd_numbers(table: _Table) -> set[int]:
    """Rows with a value that no column takes as it is; none: it is not the values."""
    odd: set[int] = set()
    dialect = table.group.dialect
    for i, name in enumerate(table.names):
        values = _listed(table.source.column(name, i))
        is_tag = _declared(name, dialect)
        check: Callable[[Any], Any]
        if name == TIME:
            check = _check_time
        elif not _pack(_Packed({}, []), name, values, is_tag, dialect):
            check = _tag_value if is_tag else plain_value
        else:
            continue
        for number, value in enumerate(values):
            try:
                check(value)
            except Exception:  # see _packed
                odd.add(number)
    return odd


def _check_time(value: Any) -> None:
    if value is not None:
        to_ns(value, None)


def _tag_value(value: Any) -> str | None:
    return text_value(plain_value(value))


def _put_plainly(out: _Out, group: _Group, times: list[int], rows: list[dict[str, Any]]) -> None:
    """Encode rows of any values one by one, and refuse those that are bad."""
    plain_times: list[int] = []
    plain_rows: list[dict[str, Any]] = []
    declared: dict[str, bool] = dict.fromkeys(group.dialect.fields, False)
    declared |= dict.fromkeys(group.dialect.tags, True)
    for own_ns, values in zip(times, rows, strict=True):
        try:
            time_ns, plain = _plain_row(group.measurement, declared, own_ns, values)
        except UsageError as error:
            out.refuse(group.measurement, own_ns, values, error)
        else:
            plain_times.append(time_ns)
            plain_rows.append(plain)
    if not plain_rows:
        return
    tags = frozenset(name for name, is_tag in declared.items() if is_tag)
    dialect = Dialect(tags, frozenset(declared.keys() - tags))
    for table in _tables(_Group(group.measurement, dialect), plain_times, plain_rows):
        columnar = _encoded_table(table)
        if columnar is None:
            raise RuntimeError(f"BUG: plain rows of {group.measurement!r} could not be encoded")
        _put(out, table, columnar)


def _plain_row(
    measurement: str, declared: dict[str, bool], own_ns: int, values: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """One row with its time, each value one that MessagePack has, each list several columns.

    Args:
        measurement: Its name.
        declared: Names that are tags (True) or fields (False); the elements of a list that was
            declared are added.
        own_ns: Time of the row, unless `time` is among the values.
        values: As they were given.

    Raises:
        UsageError: measurement, column, what was found and what was wanted.
    """
    time_ns = own_ns
    plain: dict[str, Any] = {}
    for name, value in values.items():
        check_name(measurement, name)
        try:
            if name == TIME:
                time_ns = own_ns if value is None else to_ns(value, None)
                continue
            for number, (full_name, element) in enumerate(elements(str.__str__(name), value)):
                if full_name in plain:
                    raise UsageError(f"found {full_name!r} twice, wanted it once")
                if number == MAX_ELEMENTS:
                    raise too_many(f"over {MAX_ELEMENTS}")
                if name in declared:
                    declared[full_name] = declared[name]
                plain[full_name] = text_value(element) if declared.get(full_name) else element
        except Exception as error:  # of the values' own methods too: it is one row's fault
            words = str(error) if isinstance(error, UsageError) else f"found {error!r}"
            raise UsageError(f"measurement {measurement!r}: column {name!r}: {words}") from error
    if not plain:
        raise UsageError(f"measurement {measurement!r}: found no values, wanted at least one")
    return time_ns, plain
