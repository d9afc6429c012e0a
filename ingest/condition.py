"""Which rows of a table are meant: a range of times, and values of text columns. Pure.

In: a condition in a small part of SQL (`parse`), and Arrow columns (`mask`). Out: a `Condition`,
or which of the rows meet it. Nothing is read or changed here.

    time >= '2026-01-01' AND time < '2026-02-01T12:00:00Z' AND host IN ('a', 'b') AND dc = 'x'

Comparisons are joined by AND. `time` is compared by `<`, `<=`, `>`, `>=`, `=` or BETWEEN with a
moment: text as ISO 8601 has it (UTC where it names no zone), a whole number of seconds,
milliseconds, microseconds or nanoseconds, told apart by its size as in a write, or `now()` with or
without `- INTERVAL '7 days'`. A column of text, a tag or not, is compared by `=` or IN with text.
`1=1` alone means all rows. A null meets no comparison. Everything else is refused, so that no row
goes by a misunderstanding: OR, NOT, functions, columns of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.columns import TIME_COLUMN, ColumnType
from ingest.errors import PayloadError

#: Longest condition, in characters: 1 000 values of 60.
MAX_CHARACTERS = 2**16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<number>-?\d+(?![\w.]))
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|<>|!=|[<>=(),;-])
    )""",
    re.VERBOSE,
)
_INTERVAL = re.compile(r"(\d{1,9})\s*([a-z]+)", re.ASCII)
_FRACTION = re.compile(r"[.,](\d{7,})")

#: Largest number of a unit, and its microseconds; nanoseconds beyond. As in a write.
_UNITS_US = ((10**10, 1_000_000), (10**13, 1_000), (10**16, 1))
_SECOND_US = 1_000_000
_INTERVAL_US = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": _SECOND_US,
    "minute": 60 * _SECOND_US,
    "hour": 3_600 * _SECOND_US,
    "day": 86_400 * _SECOND_US,
    "week": 7 * 86_400 * _SECOND_US,
}
_GRAMMAR = (
    "wanted comparisons joined by AND: time < '2026-01-31', time BETWEEN … AND …, "
    "host = 'a', host IN ('a', 'b')"
)


class Condition(msgspec.Struct, frozen=True):
    """Rows that are meant: those that meet every part.

    Attributes:
        start_us: First moment, microseconds since 1970-01-01T00:00Z; None: from the beginning.
        end_us: First moment after the range; None: to the end.
        equals: Text columns, and the values that are meant.
    """

    start_us: int | None = None
    end_us: int | None = None
    equals: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def columns(self) -> list[str]:
        """What has to be read to tell."""
        return [TIME_COLUMN, *[name for name, _ in self.equals]]

    def may_hold(self, min_us: int | None, max_us: int | None) -> bool:
        """Whether rows of this range of times, both ends included, may be meant; None: unknown."""
        if self.start_us is not None and max_us is not None and max_us < self.start_us:
            return False
        return not (self.end_us is not None and min_us is not None and min_us >= self.end_us)

    def holds_all(self, min_us: int | None, max_us: int | None) -> bool:
        """Whether all rows of this range of times are meant, whatever else is in them."""
        if self.equals:
            return False
        starts = self.start_us is None or (min_us is not None and min_us >= self.start_us)
        return starts and (self.end_us is None or (max_us is not None and max_us < self.end_us))


def mask(condition: Condition, rows: pa.RecordBatch) -> pa.BooleanArray:
    """Which rows are meant; null nowhere.

    Args:
        condition: What is meant.
        rows: With the column `time` (timestamp, µs, UTC) and those of the condition that their
            file has, as text or as dictionaries of text. A column that is not there is null.
    """
    times = rows.column(TIME_COLUMN).cast(pa.int64()).to_numpy(zero_copy_only=False)
    found = np.ones(rows.num_rows, np.bool_)
    if condition.start_us is not None:
        found &= times >= condition.start_us
    if condition.end_us is not None:
        found &= times < condition.end_us
    for name, values in condition.equals:
        if name not in rows.schema.names:
            return pa.array(np.zeros(rows.num_rows, np.bool_))
        found &= _is_in(rows.column(name), values)
    return pa.array(found)


def _is_in(column: pa.Array, values: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """bool, shape (rows,): whether each value is one of these."""
    wanted = pa.array(values, pa.string())
    if pa.types.is_dictionary(column.type):
        of_words = pc.is_in(column.dictionary, wanted)
        found = pc.fill_null(pc.take(of_words, column.indices), False)
    else:
        found = pc.is_in(column, wanted)
    whole: np.ndarray[tuple[int], np.dtype[np.bool_]] = found.to_numpy(zero_copy_only=False)
    return whole


# --- parsing -----------------------------------------------------------------------------------


def parse(text: str, columns: Mapping[str, ColumnType], now_us: int) -> Condition:
    """Read a condition.

    Args:
        text: As a client sent it.
        columns: Of the table, the time left out.
        now_us: What `now()` means, microseconds since 1970-01-01T00:00Z.

    Raises:
        PayloadError: it is not one, or names what cannot be compared; says what and where.
    """
    if len(text) > MAX_CHARACTERS:
        raise PayloadError(f"where: {len(text)} characters, over the limit of {MAX_CHARACTERS}")
    return _Parser(text, columns, now_us).run()


class _Token(msgspec.Struct, frozen=True):
    kind: str  # a group of _TOKEN, or "end"
    value: str  # words in capitals, text without its quotes
    at: int  # first character, from 0
    given: str  # as it stands


class _Parser:
    """One pass over a text, token by token."""

    def __init__(self, text: str, columns: Mapping[str, ColumnType], now_us: int) -> None:
        self._text = text
        self._columns = columns
        self._now_us = now_us
        self._at = 0
        self._start_us: int | None = None
        self._end_us: int | None = None
        self._equals: dict[str, tuple[str, ...]] = {}
        self._next = self._scan()

    def run(self) -> Condition:
        if re.fullmatch(r"\s*(1\s*=\s*1|true)\s*;?\s*", self._text, re.IGNORECASE):
            return Condition()
        self._comparison()
        while self._took("word", "AND"):
            self._comparison()
        self._took("sign", ";")
        if self._next.kind != "end":
            raise self._wrong("AND or the end")
        return Condition(self._start_us, self._end_us, tuple(sorted(self._equals.items())))

    def _comparison(self) -> None:
        token = self._next
        if token.kind not in ("word", "quoted"):
            raise self._wrong("the name of a column")
        self._step()
        name = token.given if token.kind == "word" else token.value
        if name not in self._columns and token.kind == "word":
            folded = [
                known for known in (TIME_COLUMN, *self._columns) if known.lower() == name.lower()
            ]
            name = folded[0] if len(folded) == 1 else name
        if name == TIME_COLUMN:
            self._compare_time()
        else:
            self._compare_text(name, token.at)

    # --- time ------------------------------------------------------------------------------

    def _compare_time(self) -> None:
        if self._took("word", "BETWEEN"):
            self._narrow(self._moment(), None)
            if not self._took("word", "AND"):
                raise self._wrong("AND between two moments")
            self._narrow(None, self._moment() + 1)
            return
        sign = self._next.value if self._next.kind == "sign" else ""
        if sign not in ("<", "<=", ">", ">=", "="):
            raise self._wrong("<, <=, >, >=, = or BETWEEN after time")
        self._step()
        moment_us = self._moment()
        if sign in (">", ">=", "="):
            self._narrow(moment_us + (sign == ">"), None)
        if sign in ("<", "<=", "="):
            self._narrow(None, moment_us + (sign != "<"))

    def _narrow(self, start_us: int | None, end_us: int | None) -> None:
        if start_us is not None:
            self._start_us = start_us if self._start_us is None else max(start_us, self._start_us)
        if end_us is not None:
            self._end_us = end_us if self._end_us is None else min(end_us, self._end_us)

    def _moment(self) -> int:
        """A moment, microseconds since 1970-01-01T00:00Z."""
        self._took("word", "TIMESTAMP", "TIMESTAMPTZ", "DATE")
        token = self._next
        if token.kind == "text":
            self._step()
            return self._parsed_time(token)
        if token.kind == "number":
            self._step()
            return self._scaled(int(token.value))
        if not self._took("word", "NOW"):
            raise self._wrong("a moment: text, a whole number or now()")
        if not (self._took("sign", "(") and self._took("sign", ")")):
            raise self._wrong("() after now")
        return self._now_us - (self._interval() if self._took("sign", "-") else 0)

    def _parsed_time(self, token: _Token) -> int:
        try:
            moment = datetime.fromisoformat(token.value.strip())
        except ValueError:
            raise self._wrong("a time such as '2026-01-31T12:00:00Z'", token) from None
        if _FRACTION.search(token.value):
            raise self._wrong("at most six digits of a second", token)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1)

    def _scaled(self, number: int) -> int:
        for limit, unit_us in _UNITS_US:
            if abs(number) < limit:
                return number * unit_us
        if number % 1000:
            raise self._wrong("nanoseconds that are whole microseconds, as times are stored")
        return number // 1000

    def _interval(self) -> int:
        if not self._took("word", "INTERVAL"):
            raise self._wrong("INTERVAL after now() -")
        token = self._next
        self._step()
        given = token.value
        if token.kind == "number":
            given, unit = f"{given} {self._next.given}", self._next
            self._step()
            token = unit if unit.kind != "end" else token
        match = _INTERVAL.fullmatch(given.strip().lower())
        length_us = _INTERVAL_US.get(match[2].removesuffix("s")) if match else None
        if match is None or length_us is None:
            raise self._wrong(f"a number and one of {', '.join(_INTERVAL_US)}", token)
        return int(match[1]) * length_us

    # --- text --------------------------------------------------------------------------------

    def _compare_text(self, name: str, at: int) -> None:
        known = self._columns.get(name)
        if known is None:
            raise PayloadError(f"where: character {at}: the table has no column {name!r}")
        if known is not ColumnType.UTF8:
            raise PayloadError(
                f"where: character {at}: column {name!r} is {known.value}; only time and columns "
                "of text can be compared"
            )
        if self._took("sign", "="):
            values: tuple[str, ...] = (self._value(),)
        elif self._took("word", "IN"):
            values = self._values()
        else:
            raise self._wrong(f"= or IN after {name}")
        earlier = self._equals.get(name)
        both = values if earlier is None else tuple(set(values) & set(earlier))
        self._equals[name] = tuple(sorted(set(both)))

    def _values(self) -> tuple[str, ...]:
        if not self._took("sign", "("):
            raise self._wrong("( after IN")
        values = [self._value()]
        while self._took("sign", ","):
            values.append(self._value())
        if not self._took("sign", ")"):
            raise self._wrong("a comma or )")
        return tuple(values)

    def _value(self) -> str:
        token = self._next
        if token.kind != "text":
            raise self._wrong("text in single quotes")
        self._step()
        return token.value

    # --- tokens ------------------------------------------------------------------------------

    def _took(self, kind: str, *values: str) -> bool:
        """Step over the next token if it is one of these."""
        if self._next.kind == kind and self._next.value in values:
            self._step()
            return True
        return False

    def _step(self) -> None:
        self._next = self._scan()

    def _scan(self) -> _Token:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            at = len(self._text) - len(self._text[self._at :].lstrip())
            if at < len(self._text):
                self._next = _Token("other", "", at, self._text[at])
                raise self._wrong("a name, a value or a sign")
            return _Token("end", "", at, "")
        self._at = match.end()
        kind = str(match.lastgroup)
        given = match[kind]
        value = given.upper() if kind == "word" else given
        if kind in ("text", "quoted"):
            value = given[1:-1].replace(given[0] * 2, given[0])
        return _Token(kind, value, match.start(kind), given)

    def _wrong(self, wanted: str, token: _Token | None = None) -> PayloadError:
        found = token or self._next
        what = "the end" if found.kind == "end" else repr(found.given[:40])
        return PayloadError(
            f"where: character {found.at}: found {what}, wanted {wanted} ({_GRAMMAR})"
        )
