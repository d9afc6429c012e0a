"""Rows as other clients take them, and line protocol, to batches.

In: records of the shape `{"measurement", "timestamp", "fields", "tags"}`, flat dicts, or text in
line protocol. Out: batches that are bounded in rows and bytes; records become columnar
MessagePack, one map a measurement, which the daemon decodes at 4.6 M rows/s where it takes 2.4 of
row maps (benchmarks/bench_decode_rows.py). Nothing is sent here, no line is ever cut, and a record
is refused when it is read, before anything of its batch is made.
"""

from __future__ import annotations

import enum
import io
import itertools
import operator
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from arc.client.batch import WRITE_LINE_PROTOCOL, WRITE_MSGPACK, Batch, Kind
from arc.client.errors import UsageError
from arc.client.times import to_ns

if TYPE_CHECKING:
    from arc.client.rows import Dialect

# ------------------------------------------------------------------------------------- records

#: Times are made nanoseconds here, and the server is told so.
_HEADERS = (("x-arc-time-unit", "ns"),)

#: What a record may have; both names of the time are taken, since other clients differ in it.
_KEYS = frozenset({"measurement", "timestamp", "time", "fields", "tags"})

#: Types of the values of a field that are sent as they are.
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
_TEXT = frozenset({str})
_WANTED = "a number, a string, a boolean, bytes or None"

_TIME = "time"
_SUFFIX = "_value"
_NO_TAGS: Mapping[str, Any] = MappingProxyType({})
_ENCODER = msgspec.msgpack.Encoder()


def encode_records(
    records: Iterable[Mapping[str, Any]],
    measurement: str | None = None,
    *,
    time_unit: str | None = None,
    dialects: Mapping[str, Dialect] | None = None,
    batch_rows: int,
    batch_bytes: int,
) -> Iterator[Batch]:
    """Encode records as columns, missing values as null; their shapes are told at `Reader`.

    Args:
        records: Read as far as batches are asked for; each is copied, none is kept.
        measurement: Of the records that do not name one.
        time_unit: Of times that are numbers: `s`, `ms`, `us` or `ns`; None: told from the
            magnitude of each.
        dialects: Which names of flat records are tags and fields, by measurement.
        batch_rows: Most rows of a batch.
        batch_bytes: Most bytes of a batch; a single row may have more.

    Returns:
        Batches in order of the records; within a batch, rows of the same columns stand together.
        No records, no batches.

    Raises:
        UsageError: when it comes to it, a record that cannot be sent, by its number from 0.
    """
    return _record_batches(
        iter(records),
        Collector(Reader(measurement, time_unit=time_unit, dialects=dialects)),
        batch_rows,
        batch_bytes,
    )


def _record_batches(
    records: Iterator[Mapping[str, Any]], collector: Collector, batch_rows: int, batch_bytes: int
) -> Iterator[Batch]:
    while True:
        for record in itertools.islice(records, batch_rows):
            collector.add(record)
        if not (groups := collector.take()):
            return
        yield from encode_groups(groups, batch_bytes)


# ------------------------------------------------------------------------- a record to a row


class Row(NamedTuple):
    """One record, checked: its values are of the types that MessagePack has.

    Attributes:
        measurement: Its name.
        time_ns: Nanoseconds since 1970.
        tags: By name: text; missing ones are left out.
        fields: By name: int, float, str, bool, bytes or None.
    """

    measurement: str
    time_ns: int
    tags: dict[str, str]
    fields: dict[str, Any]


class Reader:
    """Checks records, and copies what is in them.

    A record is either of two things:

    * `{"measurement": str, "timestamp": time, "fields": {…}, "tags": {…}}`, as `arc-tsdb-client`
      and `influxdb-client` have it. `fields` has one value at least; the others may be left out;
      `time` is another name of `timestamp`. Tags become text: 7 is "7", True "true".
    * a flat dict `{"time": time, name: value, …}`, perhaps with a `measurement`: strings are tags,
      whatever else is a field, unless declared, as in `Client.log`.

    A record without a time gets the present one. Numbers are times in the given unit, or in that
    which their magnitude tells; datetimes without a zone are UTC. Values of None are missing, as
    are NaN among tags, and pandas.NA.
    """

    def __init__(
        self,
        measurement: str | None = None,
        *,
        time_unit: str | None = None,
        dialects: Mapping[str, Dialect] | None = None,
    ) -> None:
        self._measurement, self._time_unit = measurement, time_unit
        self._dialects = dialects or {}
        self._is_tag: dict[tuple[str, str], bool] = {}  # by measurement and name, of flat records

    def row(self, record: Mapping[str, Any], number: int) -> Row:
        """One record, checked and copied.

        Args:
            record: In either shape.
            number: What messages call it.

        Raises:
            UsageError: it cannot be sent: its number, measurement and column, and what is wrong.
        """
        try:
            return self._row(record)
        except UsageError as error:
            raise UsageError(f"record {number}: {error}") from None

    def _row(self, record: Mapping[str, Any]) -> Row:
        if not isinstance(record, Mapping):
            raise UsageError(f"found {_name(record)}, wanted a dict")
        name = record.get("measurement", self._measurement)
        if not isinstance(name, str) or not name:
            found = "no measurement" if name is None else f"measurement {name!r}"
            raise UsageError(f"found {found}, wanted the name of one")
        name = str.__str__(name)
        try:
            return self._nested(name, record) if "fields" in record else self._flat(name, record)
        except UsageError as error:
            raise UsageError(f"measurement {name!r}: {error}") from None

    def _nested(self, measurement: str, record: Mapping[str, Any]) -> Row:
        fields, tags = record["fields"], record.get("tags")
        if not isinstance(fields, Mapping) or not fields:
            raise UsageError(f"'fields': found {_name(fields)}, wanted a dict that is not empty")
        if tags is not None and not isinstance(tags, Mapping):
            raise UsageError(f"'tags': found {_name(tags)}, wanted a dict")
        unknown = record.keys() - _KEYS
        if unknown:
            known = ", ".join(sorted(_KEYS))
            raise UsageError(f"unknown key {min(unknown, key=str)!r} beside {known}")
        if _TIME in record and "timestamp" in record:
            raise UsageError("'time' and 'timestamp': found both, wanted one")
        at_ns = self.time_ns(record.get("timestamp", record.get(_TIME)))
        return Row(measurement, at_ns, _tags(tags or {}), _fields(fields))

    def _flat(self, measurement: str, record: Mapping[str, Any]) -> Row:
        tags: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        dialect = self._dialects.get(measurement)
        time_key = _TIME if _TIME in record else "timestamp"
        if isinstance(record.get("tags"), Mapping) or record.keys() <= {"measurement", time_key}:
            raise UsageError("'fields' is missing")
        for name, value in record.items():
            if name == time_key or name == "measurement" or _plain(value) is None:
                continue
            is_tag = _is_tag(name, value, dialect)
            if _is_nan(value) and self._is_tag.get((measurement, name)):
                continue  # a string that pandas misses
            if self._is_tag.setdefault((measurement, name), is_tag) is not is_tag:
                wanted = "no text" if is_tag else "text"
                raise UsageError(
                    f"column {name!r}: found {_name(value)}, wanted {wanted} as in an earlier "
                    "record, which made it a tag or a field; declare which it is"
                )
            (tags if is_tag else fields)[name] = value
        return Row(measurement, self.time_ns(record.get(time_key)), _tags(tags), _fields(fields))

    def time_ns(self, value: Any) -> int:
        """The time of a record; None is now.

        Raises:
            UsageError: it is none.
        """
        return time.time_ns() if value is None else to_ns(value, self._time_unit)


def _is_tag(name: str, value: Any, dialect: Dialect | None) -> bool:
    if dialect is None:
        return isinstance(value, str)
    return name in dialect.tags or (isinstance(value, str) and name not in dialect.fields)


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    fields = {}
    for name, value in given.items():
        fields[_checked_name(name)] = plain = _plain(value)
        if type(plain) not in _PLAIN:
            raise UsageError(f"column {name!r}: found {_name(value)}, wanted {_WANTED}")
    return fields


def _tags(given: Mapping[str, Any]) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for name, value in given.items():
        plain, name = _plain(value), _checked_name(name)
        if plain is None or _is_nan(plain):
            continue
        texts[name] = text = _tag_text(plain)
        if text is None:
            wanted = "a string, a number or a boolean, since it is a tag"
            raise UsageError(f"column {name!r}: found {_name(value)}, wanted {wanted}")
    return texts


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        found = "''" if name == "" else _name(name)
        raise UsageError(f"a column's name: found {found}, wanted text")
    return str.__str__(name)


def _name(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _plain(value: Any) -> Any:
    """A value as one of `_PLAIN`; one that has no such form as it is."""
    if isinstance(value, enum.Enum):
        value = value.value
    if type(value) in _PLAIN:
        return value
    if type(value).__name__ in ("NAType", "NaTType") and type(value).__module__[:7] == "pandas.":
        return None
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
        return float(value) if value.dtype.kind == "f" else value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _tag_text(value: Any) -> str | None:
    """As the server writes tags of row maps; None: there is no such text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else None


# ------------------------------------------------------------------------- rows to groups


class Group:
    """Rows of one measurement with the same columns.

    Attributes:
        measurement: Its name.
        tags: Names of the tags.
        fields: Names of the fields.
        numbers: What messages call each row.
        times_ns: Of each row, nanoseconds since 1970.
        values: Of each row, one value for each tag and then for each field.
    """

    __slots__ = ("fields", "measurement", "numbers", "tags", "times_ns", "values")

    def __init__(self, measurement: str, tags: Iterable[str], fields: Iterable[str]) -> None:
        self.measurement, self.tags, self.fields = measurement, tuple(tags), tuple(fields)
        self.numbers: list[int] = []
        self.times_ns: list[int] = []
        self.values: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self.times_ns)

    def row(self, index: int) -> dict[str, Any]:
        """One row as a flat record."""
        names = (*self.tags, *self.fields)
        row = dict(zip(names, self.values[index], strict=True))
        return {"measurement": self.measurement, "time": self.times_ns[index]} | row

    def part(self, rows: slice) -> Group:
        """Some of the rows."""
        part = Group(self.measurement, self.tags, self.fields)
        part.numbers, part.times_ns = self.numbers[rows], self.times_ns[rows]
        part.values = self.values[rows]
        return part


class _Known(NamedTuple):
    """What to do with records of names and types that were seen before.

    Attributes:
        group: Where they go.
        time_key: The key of their time.
        pick: Takes the values of tags and fields out of a flat record.
    """

    group: Group
    time_key: str
    pick: Callable[[Any], tuple[Any, ...]]


class Collector:
    """Takes records, one by one, into groups.

    Attributes:
        counts: Rows by measurement.
    """

    def __init__(self, reader: Reader) -> None:
        self.counts: dict[str, int] = {}
        self._reader = reader
        self._number = -1
        self._groups: dict[Any, Group] = {}  # by measurement, names of tags, names of fields
        self._known: dict[Any, _Known] = {}

    def add(self, record: Mapping[str, Any]) -> str:
        """Take one record; it is copied.

        Returns:
            Its measurement.

        Raises:
            UsageError: it cannot be sent; it was not taken, and the next one may be.
        """
        # HOT, once a record: 5.3 -> 2.0 µs for one of 2 tags and 3 floats, encoding included
        # (processor time of `encode_records` over 10 000). A record with the names and types of an
        # earlier one needs no look at each of its values. Twin: `Reader.row`; equality:
        # tests/client/test_records.py.
        self._number += 1
        key: Any = None
        try:
            if "fields" in record:
                tags, fields = record.get("tags") or _NO_TAGS, record["fields"]
                values = (*tags.values(), *fields.values())
                names = (*record, None, *tags, None, *fields)
                key = record["measurement"], names, tuple(map(type, values))
                group, time_key, _ = self._known[key]
            else:
                key = record.get("measurement"), tuple(record), tuple(map(type, record.values()))
                group, time_key, pick = self._known[key]
                values = pick(record)
            time_ns = self._reader.time_ns(record.get(time_key))
        except (AttributeError, KeyError, TypeError, UsageError):
            return self._add_new(record, key)
        group.numbers.append(self._number)
        group.times_ns.append(time_ns)
        group.values.append(values)
        self.counts[group.measurement] += 1
        return group.measurement

    def _add_new(self, record: Mapping[str, Any], key: Any) -> str:
        row = self._reader.row(record, self._number)
        names = row.measurement, tuple(row.tags), tuple(row.fields)
        group = self._groups.get(names)
        if group is None:
            group = self._groups[names] = Group(*names)
        group.numbers.append(self._number)
        group.times_ns.append(row.time_ns)
        group.values.append((*row.tags.values(), *row.fields.values()))
        self.counts[row.measurement] = self.counts.get(row.measurement, 0) + 1
        if key is not None and (known := _as_known(record, row, group)) is not None:
            self._known[key] = known
        return row.measurement

    def take(self, measurement: str | None = None) -> list[Group]:
        """Hand over the rows of one measurement, or all of them."""
        names = [n for n in self._groups if measurement is None or n[0] == measurement]
        for name in {name[0] for name in names}:
            del self.counts[name]
        self._known.clear()
        return [self._groups.pop(name) for name in names]


def _as_known(record: Mapping[str, Any], row: Row, group: Group) -> _Known | None:
    """What another record like this one needs; None: each has to be looked at."""
    time_key = "timestamp" if "timestamp" in record and _TIME not in record else _TIME
    if "fields" in record:
        tags, fields = record.get("tags") or _NO_TAGS, record["fields"]
        if len(tags) > len(row.tags):  # one is missing
            return None
        given = (*tags.values(), *fields.values())
    else:
        given = tuple(record[name] for name in (*group.tags, *group.fields))
    kept = (*row.tags.values(), *row.fields.values())
    # As it is sent: a value is itself, or may stand for itself.
    if not all(one is other for one, other in zip(given, kept, strict=True)):
        return None
    return _Known(group, time_key, _picker((*group.tags, *group.fields)))


def _picker(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        (name,) = names
        return lambda record: (record[name],)
    return operator.itemgetter(*names)


# ------------------------------------------------------------------------- groups to batches


def encode_groups(groups: Sequence[Group], batch_bytes: int) -> Iterator[Batch]:
    """Encode rows as one batch, or as several where it would be over a bound.

    Args:
        groups: Of any measurements, one row at least.
        batch_bytes: Most bytes of a batch; a single row may have more.

    Raises:
        UsageError: text that is no UTF-8, an integer of more than 64 bits, columns of one name.
    """
    tables, num_rows = _tables(groups), sum(map(len, groups))
    body = None
    if num_rows == 1 or sum(table.least_bytes for table in tables) <= batch_bytes:
        body = b"".join(table.encoded() for table in tables)
    if body is not None and (len(body) <= batch_bytes or num_rows == 1):
        what = tables[0].measurement if len(tables) == 1 else f"{len(tables)} measurements"
        yield Batch(Kind.MSGPACK, WRITE_MSGPACK, _HEADERS, body, num_rows, what)
        return
    for half in halves(groups, num_rows // 2):
        yield from encode_groups(half, batch_bytes)


def halves(groups: Sequence[Group], num_rows: int) -> tuple[list[Group], list[Group]]:
    """The first so many rows, and the others."""
    first: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        if num_rows:
            first.append(group.part(slice(num_rows)))
        if num_rows < len(group):
            rest.append(group.part(slice(num_rows, None)))
        num_rows = max(0, num_rows - len(group))
    return first, rest


class _Table(NamedTuple):
    """The rows of one measurement, and the columns that they have between them, in order."""

    measurement: str
    groups: list[Group]
    tags: dict[str, None]
    fields: dict[str, None]

    @property
    def least_bytes(self) -> int:
        """What it takes encoded, were every value the smallest there is: one byte."""
        return sum(map(len, self.groups)) * (1 + len(self.tags) + len(self.fields))

    def encoded(self) -> bytes:
        """One columnar map.

        Raises:
            UsageError: as `encode_groups`.
        """
        tags = {name: self._column(name, is_tag=True) for name in self.tags}
        fields = {name: self._column(name, is_tag=False) for name in self.fields}
        present = {name: of for name, of in fields.items() if of.count(None) < len(of)}
        names = _stored_names(self.measurement, list(tags), list(present))
        columns = {_TIME: [time_ns for group in self.groups for time_ns in group.times_ns]}
        columns |= zip(names, (*tags.values(), *present.values()), strict=True)
        found = {"m": self.measurement, "tags": names[: len(tags)], "columns": columns}
        try:
            return _ENCODER.encode(found)
        except (UnicodeEncodeError, OverflowError) as error:
            raise self._blame(error) from None

    def _column(self, name: str, *, is_tag: bool) -> list[Any]:
        """The values of all groups; null where a group has no such column."""
        column: list[Any] = []
        for group in self.groups:
            names = group.tags if is_tag else group.fields
            if name in names:
                at = names.index(name) + (0 if is_tag else len(group.tags))
                column.extend(map(operator.itemgetter(at), group.values))
            else:
                column.extend(itertools.repeat(None, len(group)))
        return column

    def _blame(self, error: Exception) -> UsageError:
        """Which value it was that did not encode."""
        for group in self.groups:
            names = (*group.tags, *group.fields)
            for number, values in zip(group.numbers, group.values, strict=True):
                for name, value in zip(names, values, strict=True):
                    try:
                        _ENCODER.encode((name, value))
                    except (UnicodeEncodeError, OverflowError) as found:
                        where = f"record {number}: measurement {self.measurement!r}: "
                        return UsageError(f"{where}column {name!r}: {found}")
        return UsageError(f"measurement {self.measurement!r}: {error}")


def _stored_names(measurement: str, tags: list[str], fields: list[str]) -> list[str]:
    """Names of the columns, tags before fields: as the server names those of row maps.

    Raises:
        UsageError: two of them have one name.
    """
    names = [name + _SUFFIX if name == _TIME else name for name in tags]
    names += [name + _SUFFIX if name == _TIME or name in tags else name for name in fields]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UsageError(
            f"measurement {measurement!r}: two columns would be stored as {twice[0]!r}, since a "
            f"field with the name of a tag gets {_SUFFIX!r} behind it; rename one"
        )
    return names


def _tables(groups: Iterable[Group]) -> list[_Table]:
    """Groups by measurement, in order of their first ones."""
    tables: dict[str, _Table] = {}
    for group in groups:
        table = tables.get(group.measurement)
        if table is None:
            table = tables[group.measurement] = _Table(group.measurement, [], {}, {})
        table.groups.append(group)
        table.tags.update(dict.fromkeys(group.tags))
        table.fields.update(dict.fromkeys(group.fields))
    return list(tables.values())


# ------------------------------------------------------------------------- line protocol

#: What the daemon takes as `precision`, by what other clients call it.
_PRECISIONS = {
    **{name: name for name in ("ns", "us", "ms", "s", "m", "h")},
    **{"n": "ns", "u": "us", "µ": "us", "μ": "us", "µs": "us", "μs": "us"},
}

#: A longer line is more than a request may be, by the server's default.
_MAX_LINE_BYTES = 64 * 2**20

#: How much of a line a message repeats.
_SHOWN_BYTES = 60

# Where a line ends does not depend on whether it is a good one: its head ends at the first space
# without a backslash before it; after that a quote right after a "=" without a backslash opens a
# string, in which line feeds count for nothing. Possessive throughout: nothing is tried again.
_REST = rb'(?: [^=\n\\]++ | \\=?+ | = (?: " (?: [^"\\]++ | \\.?+ )*+ "?+ )?+ )*+ (?P<end>\n)?+'
_LINE = re.compile(rb"(?: [^ \n\\]++ | \\[ ]?+ )*+" + _REST, re.VERBOSE | re.DOTALL)
_IN_STRING = re.compile(rb'(?: [^"\\]++ | \\.?+ )*+ "?+' + _REST, re.VERBOSE | re.DOTALL)


def encode_lines(
    lines: str | bytes | Iterable[str | bytes],
    precision: str = "ns",
    *,
    batch_rows: int,
    batch_bytes: int,
) -> Iterator[Batch]:
    r"""Take line protocol apart into bodies of whole lines.

    Syntax: docs/line-protocol.md. The lines are not judged here; the server's answer names a bad
    one. A line without a time gets that of its arrival at the server, which may be late: give
    each its time.

    Args:
        lines: Text; or pieces of it, each of whole lines, with or without a line feed at its end.
            A string in quotes may hold line feeds and so span several pieces.
        precision: Unit of the times: `ns`, `us`, `ms`, `s`, `m` or `h`; `n`, `u` and `µ` as well.
        batch_rows: Most lines of a batch.
        batch_bytes: Most bytes of a batch; a single line may have more.

    Returns:
        Batches in order of the lines, made as they are asked for. Comments and empty lines are
        left out. No lines, no batches.

    Raises:
        UsageError: another precision; when it comes to it, a piece that is no text.
    """
    unit = _PRECISIONS.get(precision)
    if unit is None:
        known = ", ".join(sorted(set(_PRECISIONS.values())))
        raise UsageError(f"precision: found {precision!r}, wanted one of {known}")
    if isinstance(lines, str | bytes):
        lines = (lines,)
    target = f"{WRITE_LINE_PROTOCOL}?precision={unit}"
    return _line_batches(_whole_lines(_physical_lines(lines)), target, batch_rows, batch_bytes)


def _line_batches(
    lines: Iterable[bytes], target: str, batch_rows: int, batch_bytes: int
) -> Iterator[Batch]:
    found: list[bytes] = []
    size = 0
    for line in lines:
        if found and (len(found) >= batch_rows or size + len(line) > batch_bytes):
            yield _line_batch(found, target)
            found, size = [], 0
        found.append(line)
        size += len(line)
    if found:
        yield _line_batch(found, target)


def _line_batch(lines: list[bytes], target: str) -> Batch:
    return Batch(Kind.LINE_PROTOCOL, target, (), b"".join(lines), len(lines), "line protocol")


def _physical_lines(pieces: Iterable[str | bytes]) -> Iterator[bytes]:
    """What stands between line feeds, each with a line feed at its end."""
    for number, piece in enumerate(pieces):
        for line in io.BytesIO(_line_bytes(piece, number)):
            yield line if line.endswith(b"\n") else line + b"\n"


def _line_bytes(piece: Any, number: int) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if not isinstance(piece, str):
        found = type(piece).__name__
        raise UsageError(f"line protocol, item {number}: found {found}, wanted str or bytes")
    try:
        return piece.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"line protocol, item {number}: no UTF-8: {error}") from None


def _whole_lines(physical: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with rows in them; one with line feeds in its strings is one."""
    inside: list[bytes] = []  # of a line whose last string is not closed yet
    size = 0
    for line in physical:
        if not inside and line[0] <= 0x23:  # a space, a tab, an end, "#", or something odd
            line = line.lstrip(b" \t")
            if line in (b"\n", b"\r\n") or line.startswith(b"#"):
                continue
        if not inside and b'"' not in line:
            yield line
            continue
        match = (_IN_STRING if inside else _LINE).match(line)
        inside.append(line)
        size += len(line)
        if match is not None and match["end"]:
            yield b"".join(inside)
            inside, size = [], 0
        elif size > _MAX_LINE_BYTES:
            break
    if inside:
        begins = inside[0][:_SHOWN_BYTES].decode(errors="backslashreplace").rstrip("\n")
        raise UsageError(
            f"line protocol, line that begins with {begins!r}: found no quote that closes its "
            "last string"
        )
