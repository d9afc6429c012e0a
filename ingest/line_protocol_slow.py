r"""InfluxDB line protocol through Python objects: the plain twin of `ingest.line_protocol`.

In: a body. Out: column batches, or an error. This is the reference of the grammar, and it words
every refusal. It is some 50 times slower than the kernels and builds objects, so it counts them
before it builds them.

    line         = measurement *("," key "=" tag value) 1*space field *("," field)
                   [1*space [time]]
    field        = key "=" (string / integer "i" / unsigned "u" / float / boolean)
    measurement  : "\," and "\ " stand for "," and " "; any other backslash for itself
    key, tag     : the same, and "\=" for "="
    string       : in double quotes; "\"" and "\\" stand for '"' and "\", any other backslash
                   for itself; may span lines

A line ends at a line feed outside of a string, or at the end of the body; a carriage return
before it is not part of it. Leading spaces and tabs are passed over, lines of nothing else and
those that then begin with "#" as well. Where InfluxDB's versions differ from one another, this
is what 1.x and 2.x do; docs/line-protocol.md has the list.

Format: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
Parser of reference: https://github.com/influxdata/influxdb/blob/v2.7.0/models/points.go
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.assemble import assemble
from ingest.columns import MAX_EXACT_INT, TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.errors import (
    ClientError,
    DecodeError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TimeError,
    TooLargeError,
)
from ingest.limits import MAX_COLUMN_NAME_BYTES, Limits
from ingest.paths import check_measurement
from ingest.timestamps import MAX_TIME_S, MIN_TIME_S, TimeUnit

#: A number of more characters is refused unread. The longest double, written out, has 1 077.
MAX_NUMBER_BYTES = 2_000

#: Appended to the name of a field that is also that of a tag, or of the time.
VALUE_SUFFIX = "_value"

_INT64_END, _UINT64_END = 2**63, 2**64

_Value: TypeAlias = float | int | bool | str

#: What a column is within its measurement: its name, and whether it is a tag.
Key: TypeAlias = tuple[str, bool]

# One line with its end. Its head ends at the first space without a backslash before it; after
# that, a quote right after a "=" without a backslash opens a string. So where a line ends does
# not depend on whether it is a good one. Possessive throughout: nothing is ever tried again.
_LINE = re.compile(
    rb"""
    [ \t]*+
    (?:
        \#[^\n]*+
    |   (?P<record>
            (?: [^ \n\\] | \\[ ]?+ )*+
            (?: [^=\n\\] | \\=?+ | = (?: " (?: [^"\\] | \\.?+ )*+ "?+ )?+ )*+
        )
    )
    \n?+
    """,
    re.VERBOSE | re.DOTALL,
)
_MEASUREMENT = re.compile(rb"(?:[^, \\]|\\[, ]?+)++", re.DOTALL)
_NAME = re.compile(rb"(?:[^,= \\]|\\[,= ]?+)++", re.DOTALL)
_STRING = re.compile(rb'"((?:[^"\\]|\\["\\]?+)*+)"', re.DOTALL)
_WORD = re.compile(rb"[^, ]*+", re.DOTALL)
_SPACES = re.compile(rb" [ \t]*+")

_INTEGER = re.compile(rb"-?[0-9]+i")
_UNSIGNED = re.compile(rb"[0-9]+u")
_FLOAT = re.compile(rb"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TIME = re.compile(rb"-?[0-9]+")
_BOOLEANS = {
    **dict.fromkeys((b"t", b"T", b"true", b"True", b"TRUE"), True),
    **dict.fromkeys((b"f", b"F", b"false", b"False", b"FALSE"), False),
}

_ESCAPED_IN_MEASUREMENT = re.compile(rb"\\([, ])")
_ESCAPED_IN_NAME = re.compile(rb"\\([,= ])")
_ESCAPED_IN_STRING = re.compile(rb'\\(["\\])')

#: Where counting bad lines ends: each takes some 15 µs, and a body could be nothing else.
_MOST_BAD_LINES = 10_000

#: How much of a line, and of what was found in it, a message repeats, in bytes.
_EXCERPT_BYTES = 60
_FOUND_BYTES = 24

_NOTHING_WRITTEN = "nothing was written"


class TimeScale(msgspec.Struct, frozen=True):
    """What a unit makes of the times of a body.

    Attributes:
        earliest: The first time that is stored, in the unit.
        latest: The last one.
        factor: Microseconds in the unit; 0: a thousandth of one.
    """

    earliest: int
    latest: int
    factor: int


def time_scale(unit: TimeUnit) -> TimeScale:
    """The bounds of the years 1900 to 2262, and the way to microseconds."""
    if unit is TimeUnit.NS:
        return TimeScale(MIN_TIME_S * 10**9, min(MAX_TIME_S * 10**9, _INT64_END) - 1, 0)
    factor = {
        TimeUnit.US: 1,
        TimeUnit.MS: 10**3,
        TimeUnit.S: 10**6,
        TimeUnit.M: 60 * 10**6,
        TimeUnit.H: 3600 * 10**6,
    }[unit]
    return TimeScale(MIN_TIME_S * 10**6 // factor, MAX_TIME_S * 10**6 // factor - 1, factor)


def decode_slow(
    body: bytes, now_us: int, limits: Limits, time_unit: TimeUnit = TimeUnit.NS
) -> list[ColumnBatch]:
    """Decode line protocol; arguments, result and errors as `ingest.line_protocol.decode`."""
    if not body:
        raise DecodeError("the body is empty")
    _check_num_lines(body, limits.max_elements)
    tables = _tables(_records(body, time_scale(time_unit), limits), now_us)
    _check_num_columns(tables, limits)
    for table in tables:
        table.decide()
    nbytes = sum(table.nbytes for table in tables)
    if nbytes > limits.max_decoded_bytes:
        raise too_large(limits)
    return [table.batch(now_us) for table in tables]


def too_large(limits: Limits) -> TooLargeError:
    """The refusal of a body of too many cells, those without a value included."""
    what = "memory of the columns in this body, cells without a value included,"
    return TooLargeError(what, limits.max_decoded_bytes, "send fewer lines at once")


# ---------------------------------------------------------------------------------- body to lines


def pieces(body: bytes, max_pieces: int | None = None) -> list[tuple[int, bytes]]:
    """Take a body apart into its lines, good ones and bad ones.

    Args:
        body: Decompressed.
        max_pieces: How many there may be; None: any number.

    Returns:
        For each line but comments and empty ones: its number in the body, from 1 (of a line that
        holds line feeds in its strings: of the first), and its bytes without its end. Each is a
        good body by itself, unless it is a bad line.

    Raises:
        LimitError: there are more.
    """
    found: list[tuple[int, bytes]] = []
    if max_pieces is not None:
        _check_num_lines(body, max_pieces)
    for piece in _lines(body):
        if max_pieces is not None and len(found) >= max_pieces:
            raise LimitError("lines of one body", len(found) + 1, max_pieces, "ARC_MAX_ELEMENTS")
        found.append(piece)
    return found


def _check_num_lines(body: bytes, most: int) -> None:
    """Refuse more lines than may be looked at one by one, empty ones and comments included."""
    lines = body.count(b"\n")
    if lines > most:
        what = "lines in a body that only the slow decoder could take or refuse"
        raise LimitError(what, lines, most, "ARC_MAX_ELEMENTS")


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    at, number = 0, 1
    while at < len(body):
        match = _LINE.match(body, at)
        assert match is not None, "the pattern takes any bytes"
        line = match["record"]
        if line and line != b"\r":
            yield number, line.removesuffix(b"\r")
        number += body.count(b"\n", at, match.end())
        at = match.end()


class _Record(msgspec.Struct, gc=False):
    """A good line.

    Attributes:
        line: Its number in the body, from 1.
        measurement: Its name.
        cells: By (name, whether it is a tag) as the line has them.
        time_us: Microseconds since 1970; None: it has no time.
    """

    line: int
    measurement: str
    cells: dict[Key, _Value]
    time_us: int | None


def _records(body: bytes, scale: TimeScale, limits: Limits) -> list[_Record]:
    """Every line of a body, all of which are good."""
    records: list[_Record] = []
    refusal: ClientError | None = None
    elements = lines = bad = 0
    for number, line in _lines(body):
        lines += 1
        elements += 1 + line.count(b"=")
        if elements > limits.max_elements:
            what = "values in a body that only the slow decoder could take or refuse"
            raise LimitError(what, elements, limits.max_elements, "ARC_MAX_ELEMENTS")
        try:
            records.append(_Parser(line, scale).record(number))
        except ClientError as error:
            message = f"line {number}, {_shown(line, _EXCERPT_BYTES)}: {error}"
            refusal = refusal or type(error)(message)
            bad += 1
            if bad == _MOST_BAD_LINES:
                break
    if refusal is not None:
        which = "the first " if bad == _MOST_BAD_LINES else ""
        count = f"{bad} of {which}{lines} lines {'is' if lines == 1 else 'are'} bad"
        raise type(refusal)(f"{refusal}; {count}; {_NOTHING_WRITTEN}")
    if not records:
        raise PayloadError("the body holds no line but comments and empty ones")
    return records


def _shown(data: bytes, most: int) -> str:
    """Bytes for a message: printable, and cut when there are many."""
    text = repr(data[:most].decode(errors="backslashreplace"))
    return text if len(data) <= most else f"{text}…"


# ---------------------------------------------------------------------------------- line to record


class _Parser:
    """Reads one line from its beginning to its end.

    Attributes:
        line: Without its end; not empty, and no comment.
        at: Byte from which on it was not read yet.
    """

    def __init__(self, line: bytes, scale: TimeScale) -> None:
        self.line = line
        self.at = 0
        self.scale = scale

    def record(self, number: int) -> _Record:
        """The whole line."""
        measurement = self._measurement()
        cells: dict[Key, _Value] = {}
        while self._takes(b","):
            self._tag(cells)
        if not self._spaces() or self.at == len(self.line):
            raise self._unexpected("a space and a field")
        self._field(cells)
        while self._takes(b","):
            self._field(cells)
        return _Record(number, measurement, cells, self._time())

    def _measurement(self) -> str:
        match = _MEASUREMENT.match(self.line)
        if match is None:
            raise self._unexpected("the name of a measurement")
        self.at = match.end()
        name = self._text(unescaped_measurement(match[0]), "the measurement")
        check_measurement(name)
        return name

    def _tag(self, cells: dict[Key, _Value]) -> None:
        name = self._name("tag")
        match = _NAME.match(self.line, self.at)
        if match is None:
            raise self._unexpected(f"the value of tag {name!r}")
        self.at = match.end()
        if self.line[self.at : self.at + 1] == b"=":
            raise self._unexpected(f"a comma or a space after the value of tag {name!r}")
        if (name, True) in cells:
            raise PayloadError(f"tag {name!r} is there twice")
        cells[name, True] = self._text(unescaped_key(match[0]), f"tag {name!r}")

    def _field(self, cells: dict[Key, _Value]) -> None:
        name = self._name("field")
        quoted = self.line[self.at : self.at + 1] == b'"'
        cells[name, False] = self._string(name) if quoted else self._plain(name)

    def _name(self, what: str) -> str:
        """The key of a tag or field, and the equals sign after it."""
        match = _NAME.match(self.line, self.at)
        if match is None:
            raise self._unexpected(f"the key of a {what}")
        self.at = match.end()
        name = self._text(unescaped_key(match[0]), f"the key of a {what}")
        check_column_name(name)
        if not self._takes(b"="):
            raise self._unexpected(f"'=' after the key of {what} {name!r}")
        return name

    def _string(self, name: str) -> str:
        match = _STRING.match(self.line, self.at)
        if match is None:
            raise PayloadError(f"field {name!r}: found no quote that closes the string")
        self.at = match.end()
        if self.line[self.at : self.at + 1] not in (b"", b",", b" "):
            raise self._unexpected(f"a comma or a space after the string of field {name!r}")
        return self._text(_ESCAPED_IN_STRING.sub(rb"\1", match[1]), f"field {name!r}")

    def _plain(self, name: str) -> _Value:
        """A number or a boolean."""
        match = _WORD.match(self.line, self.at)
        word = b"" if match is None else match[0]
        value = _plain_value(word)
        if value is None:
            wanted = "a number, an integer with 'i' or 'u', a boolean, or a string in quotes"
            found = _shown(word, _FOUND_BYTES) if word else "nothing"
            raise PayloadError(f"field {name!r}: found {found}, wanted {wanted}")
        self.at += len(word)
        return value

    def _time(self) -> int | None:
        """The time, if there is one, and nothing after it."""
        if self.at == len(self.line):
            return None
        if not self._spaces():
            raise self._unexpected("a comma, a space or the end of the line")
        start = self.at
        match = _WORD.match(self.line, start)
        word = b"" if match is None else match[0]
        self.at += len(word)
        self._spaces()
        if self.at < len(self.line):
            raise self._unexpected("the end of the line after the time")
        if not word:
            return None
        return self._time_us(word)

    def _time_us(self, word: bytes) -> int:
        if not _TIME.fullmatch(word):
            raise TimeError(f"found the time {_shown(word, _FOUND_BYTES)}, wanted an integer")
        scale, time = self.scale, _integer(word, MAX_NUMBER_BYTES)
        if time is None or not scale.earliest <= time <= scale.latest:
            shown = _shown(word, _FOUND_BYTES)
            raise TimeError(f"found the time {shown}, which is outside the years 1900 to 2262")
        return time * scale.factor if scale.factor else time // 1000

    def _takes(self, character: bytes) -> bool:
        """Whether this character comes next, which is then read."""
        found = self.line.startswith(character, self.at)
        self.at += found
        return found

    def _spaces(self) -> bool:
        """Whether a space comes next; it and the spaces and tabs after it are then read."""
        match = _SPACES.match(self.line, self.at)
        if match is None:
            return False
        self.at = match.end()
        return True

    def _text(self, data: bytes, what: str) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"{what} is not UTF-8: {_shown(data, _FOUND_BYTES)}") from error

    def _unexpected(self, wanted: str) -> PayloadError:
        rest = self.line[self.at :]
        found = _shown(rest, _FOUND_BYTES) if rest else "the end of the line"
        return PayloadError(f"byte {self.at}: found {found}, wanted {wanted}")


def _plain_value(word: bytes) -> _Value | None:
    """The number or boolean that a value without quotes is; None: it is neither."""
    if word in _BOOLEANS:
        return _BOOLEANS[word]
    if len(word) > MAX_NUMBER_BYTES:
        return None
    if _INTEGER.fullmatch(word):
        value = _integer(word[:-1], 20)
        return value if value is not None and -_INT64_END <= value < _INT64_END else None
    if _UNSIGNED.fullmatch(word):
        value = _integer(word[:-1], 20)
        return value if value is not None and value < _UINT64_END else None
    if _FLOAT.fullmatch(word):
        number = float(word)
        return number if abs(number) != float("inf") else None
    return None


def _integer(word: bytes, most_digits: int) -> int | None:
    """An integer; None: it has more digits, zeros before it left out."""
    digits = word.lstrip(b"-").lstrip(b"0")
    if len(digits) > most_digits:
        return None
    return -int(digits or b"0") if word.startswith(b"-") else int(digits or b"0")


def unescaped_measurement(data: bytes) -> bytes:
    """The name of a measurement, as bytes, from what stands in a line."""
    return _ESCAPED_IN_MEASUREMENT.sub(rb"\1", data) if b"\\" in data else data


def unescaped_key(data: bytes) -> bytes:
    """A key or the value of a tag, as bytes, from what stands in a line."""
    return _ESCAPED_IN_NAME.sub(rb"\1", data) if b"\\" in data else data


def check_column_name(name: str) -> None:
    """Refuse the name of a column that is too long to be stored.

    Raises:
        InvalidNameError: it is.
    """
    size = len(name.encode())
    if size > MAX_COLUMN_NAME_BYTES:
        raise InvalidNameError(
            f"column {name[:32]!r}… has a name of {size} bytes, over {MAX_COLUMN_NAME_BYTES}"
        )


# -------------------------------------------------------------------------------- records to tables


class _Cells(msgspec.Struct, gc=False):
    """One column of a table, without its nulls."""

    rows: list[int] = msgspec.field(default_factory=list)
    values: list[_Value] = msgspec.field(default_factory=list)
    type: ColumnType = ColumnType.FLOAT64

    def blob_bytes(self) -> int:
        """Bytes of all strings."""
        if self.type is not ColumnType.UTF8:
            return 0
        return sum(len(value.encode()) for value in self.values if isinstance(value, str))


class _Table:
    """Every row of one measurement.

    Attributes:
        measurement: Its name.
        lines: Number of the line of each row.
        times: Microseconds since 1970.
        cells: Columns by name and whether they are tags, in order of their first values.
    """

    def __init__(self, measurement: str) -> None:
        self.measurement = measurement
        self.lines: list[int] = []
        self.times: list[int] = []
        self.cells: dict[Key, _Cells] = {}

    def append(self, record: _Record, now_us: int) -> None:
        """Add a row."""
        row = len(self.lines)
        self.lines.append(record.line)
        self.times.append(now_us if record.time_us is None else record.time_us)
        for key, value in record.cells.items():
            cells = self.cells.setdefault(key, _Cells())
            cells.rows.append(row)
            cells.values.append(value)

    def decide(self) -> None:
        """Give every column its type."""
        for key, cells in self.cells.items():
            cells.type = self._column_type(key, cells)

    @property
    def nbytes(self) -> int:
        """Bytes that its buffers will take, each rounded up to 8."""
        rows = len(self.lines)
        total = 8 * rows
        for cells in self.cells.values():
            if cells.type is ColumnType.UTF8:
                total += _round_up(4 * (rows + 1)) + _round_up(cells.blob_bytes())
            else:
                total += _round_up(rows) if cells.type is ColumnType.BOOL else 8 * rows
            total += 0 if len(cells.rows) == rows else _round_up(rows)
        return total

    def batch(self, now_us: int) -> ColumnBatch:
        """The rows as columns."""
        times = np.array(self.times, dtype=np.int64)
        names = column_names(self.measurement, self.cells)
        columns: dict[str, Column | None] = {
            name: _column(cells, len(times))
            for name, cells in zip(names, self.cells.values(), strict=True)
        }
        tags = frozenset(name for name, key in zip(names, self.cells, strict=True) if key[1])
        columns[TIME_COLUMN] = Column(ColumnType.INT64, times)
        return assemble(self.measurement, len(times), columns, tags, now_us, TimeUnit.US)

    def _column_type(self, key: Key, cells: _Cells) -> ColumnType:
        """The type that holds every value of a column.

        One type throughout; or integers that float64 holds exactly, among floats.
        """
        kinds = {_TYPES[type(value)] for value in cells.values}
        if len(kinds) > 1 and kinds != _NUMBERS:
            raise self._mixed(key, cells)
        if kinds != {ColumnType.INT64} and kinds != _NUMBERS:
            return kinds.pop()
        integers = [value for value in cells.values if isinstance(value, int)]
        if kinds == _NUMBERS:
            if max(map(abs, integers)) > MAX_EXACT_INT:
                raise self._inexact(key, cells)
            return ColumnType.FLOAT64
        if max(integers) < _INT64_END:
            return ColumnType.INT64
        if min(integers) < 0:
            raise self._out_of_range(key, cells)
        return ColumnType.UINT64

    def _mixed(self, key: Key, cells: _Cells) -> PayloadError:
        """The refusal of a column, worded around the first value that goes with no other."""
        wanted = cells.values[0]
        index = next(i for i, value in enumerate(cells.values) if not _go_together(value, wanted))
        found = _TYPE_NAMES[type(cells.values[index])]
        return self._conflict(key, cells, found, index, f"{_TYPE_NAMES[type(wanted)]} as", 0)

    def _inexact(self, key: Key, cells: _Cells) -> PayloadError:
        index = next(
            i
            for i, value in enumerate(cells.values)
            if isinstance(value, int) and abs(value) > MAX_EXACT_INT
        )
        other = next(i for i, value in enumerate(cells.values) if isinstance(value, float))
        wanted = "an integer up to 2**53, since there is a float"
        return self._conflict(key, cells, str(cells.values[index]), index, wanted, other)

    def _out_of_range(self, key: Key, cells: _Cells) -> PayloadError:
        values = [int(value) for value in cells.values]
        index = next(i for i, value in enumerate(values) if value >= _INT64_END)
        other = next(i for i, value in enumerate(values) if value < 0)
        wanted = f"an integer up to 2**63 - 1, since there is {values[other]}"
        return self._conflict(key, cells, str(values[index]), index, wanted, other)

    def _conflict(
        self, key: Key, cells: _Cells, found: str, index: int, wanted: str, other: int
    ) -> PayloadError:
        line, other_line = (self.lines[cells.rows[i]] for i in (index, other))
        return PayloadError(
            f"line {line}: measurement {self.measurement!r}, field {key[0]!r}: found {found}, "
            f"wanted {wanted} in line {other_line}; {_NOTHING_WRITTEN}"
        )


_NUMBERS = {ColumnType.INT64, ColumnType.FLOAT64}

#: Integers above 2**63 - 1 count as int64 until a whole column is known.
_TYPES: dict[type, ColumnType] = {
    int: ColumnType.INT64,
    float: ColumnType.FLOAT64,
    str: ColumnType.UTF8,
    bool: ColumnType.BOOL,
}
_TYPE_NAMES: dict[type, str] = {
    int: "an integer",
    float: "a float",
    str: "a string",
    bool: "a boolean",
}


def _go_together(one: _Value, other: _Value) -> bool:
    """Whether two values could be in one column."""
    return type(one) is type(other) or {_TYPES[type(one)], _TYPES[type(other)]} == _NUMBERS


def _round_up(size: int) -> int:
    return (size + 7) & ~7


def _tables(records: Sequence[_Record], now_us: int) -> list[_Table]:
    """The rows of each measurement, in order of first appearance."""
    tables: dict[str, _Table] = {}
    for record in records:
        table = tables.get(record.measurement)
        if table is None:
            table = tables[record.measurement] = _Table(record.measurement)
        table.append(record, now_us)
    return list(tables.values())


def _check_num_columns(tables: Sequence[_Table], limits: Limits) -> None:
    for table in tables:
        check_num_columns(table.measurement, len(table.cells), limits)
    total = sum(len(table.cells) for table in tables)
    if total > limits.max_request_columns:
        what = "columns of all measurements of one request"
        raise LimitError(what, total, limits.max_request_columns, "send fewer lines at once")


def check_num_columns(measurement: str, columns: int, limits: Limits) -> None:
    """Refuse a measurement of too many columns.

    Args:
        measurement: Its name.
        columns: How many columns it has, without the time.
        limits: Budgets of one request.

    Raises:
        LimitError: more than one measurement may have.
    """
    if columns + 1 > limits.max_columns:
        what = f"columns of measurement {measurement!r}, the time included"
        raise LimitError(what, columns + 1, limits.max_columns, "ARC_MAX_COLUMNS")


# -------------------------------------------------------------------------------- tables to batches


def column_names(measurement: str, keys: Iterable[Key]) -> list[str]:
    """Names under which the columns of one measurement are stored.

    A field named as a tag gets the suffix `_value`, and so does anything named `time`.

    Args:
        measurement: Its name.
        keys: Names in the body, and whether each is a tag; all distinct.

    Raises:
        InvalidNameError: the name with the suffix is too long, or that of another column.
    """
    keys = list(keys)
    tags = {name for name, is_tag in keys if is_tag}
    names: dict[str, Key] = {}
    for key in keys:
        name, is_tag = key
        if name == TIME_COLUMN or (not is_tag and name in tags):
            name += VALUE_SUFFIX
            check_column_name(name)
        if name in names:
            one, other = (f"{'tag' if tag else 'field'} {n!r}" for n, tag in (names[name], key))
            raise InvalidNameError(
                f"measurement {measurement!r}: {one} and {other} would both be stored as "
                f"column {name!r}; {_NOTHING_WRITTEN}"
            )
        names[name] = key
    return list(names)


def _column(cells: _Cells, rows: int) -> Column:
    validity = None
    if len(cells.rows) < rows:
        validity = np.zeros(rows, dtype=np.bool_)
        validity[cells.rows] = True
    if cells.type is ColumnType.UTF8:
        return _text_column(cells, rows, validity)
    values: NDArray[Any] = np.zeros(rows, dtype=_DTYPES[cells.type])
    values[cells.rows] = np.array(cells.values, dtype=values.dtype)
    wide = cells.type is ColumnType.INT64 and max(map(abs, map(int, cells.values))) > MAX_EXACT_INT
    return Column(cells.type, values, None, validity, wide)


_DTYPES: dict[ColumnType, type] = {
    ColumnType.INT64: np.int64,
    ColumnType.UINT64: np.uint64,
    ColumnType.FLOAT64: np.float64,
    ColumnType.BOOL: np.bool_,
}


def _text_column(cells: _Cells, rows: int, validity: NDArray[np.bool_] | None) -> Column:
    blobs = [str(value).encode() for value in cells.values]
    sizes = np.zeros(rows, dtype=np.int32)
    sizes[cells.rows] = [len(blob) for blob in blobs]
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    values = np.frombuffer(b"".join(blobs), dtype=np.uint8)
    return Column(ColumnType.UTF8, values, offsets, validity)
