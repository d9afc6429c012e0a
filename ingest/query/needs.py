"""What a query needs of its tables, read off the plan that DuckDB makes for it.

In: the plan of a query, as EXPLAIN (FORMAT json) prints it, and how many tables the query names.
Out: `Needs`: the range of times outside of which no row of any table matters, and whether the
answer is nothing but a number of rows. Pure, and never sure of what it does not know to the
letter: a condition in another form is no condition here, and the query reads more than it must.

DuckDB has worked the plan out, so `now() - INTERVAL 1 HOUR` is a constant in it, aliases are
gone, and conditions stand right above the scan that they hold for.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from ingest.columns import TIME_COLUMN

#: How a plan names the reading of a table that is made of Arrow batches.
SCAN = "PYTHON_ARROW_SCAN"

#: How a count of all rows looks in a plan, and what may stand between it and the scan.
_COUNT, _AGGREGATE, _PROJECTION = "count_star()", "UNGROUPED_AGGREGATE", "PROJECTION"

#: Times beyond these years are printed otherwise, and are left to DuckDB.
_LITERAL = r"'([1-9]\d{3}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00'::TIMESTAMP WITH TIME ZONE"
_INFINITE = r"'-?infinity'::TIMESTAMP WITH TIME ZONE"
_COMPARISON = re.compile(rf"{TIME_COLUMN} (>=|>|<=|<|=) {_LITERAL}")
_BETWEEN = re.compile(
    rf"{TIME_COLUMN} BETWEEN (?:{_LITERAL}|{_INFINITE}) AND (?:{_LITERAL}|{_INFINITE})"
)

#: A name that may be mistaken for part of an expression.
_ODD_NAME = re.compile(r"[^\w .:/-]")

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class TimeRange(msgspec.Struct, frozen=True):
    """Times that matter.

    Attributes:
        low_us: None before it do, microseconds since 1970-01-01T00:00Z; None: all.
        high_us: None after it do; the same.
    """

    low_us: int | None = None
    high_us: int | None = None

    def touches(self, min_us: int | None, max_us: int | None) -> bool:
        """Whether any time of those between two may be in it; None: not known."""
        is_before = max_us is not None and self.low_us is not None and max_us < self.low_us
        is_after = min_us is not None and self.high_us is not None and min_us > self.high_us
        return not is_before and not is_after

    def __and__(self, other: TimeRange) -> TimeRange:
        return TimeRange(
            _chosen(max, self.low_us, other.low_us, of_one=True),
            _chosen(min, self.high_us, other.high_us, of_one=True),
        )

    def __or__(self, other: TimeRange) -> TimeRange:
        """The range that both are in, with what is between them."""
        return TimeRange(
            _chosen(min, self.low_us, other.low_us, of_one=False),
            _chosen(max, self.high_us, other.high_us, of_one=False),
        )


ALL_TIMES = TimeRange()


class Needs(msgspec.Struct, frozen=True):
    """What is needed for an answer.

    Attributes:
        times: Rows outside of it change nothing.
        is_row_count: Whether the answer is one number, that of all rows of the one table.
    """

    times: TimeRange = ALL_TIMES
    is_row_count: bool = False


EVERYTHING = Needs()


def are_plain(names: Iterator[str]) -> bool:
    """Whether names of columns cannot be mistaken for conditions in the text of a plan."""
    return not any(_ODD_NAME.search(name) for name in names)


def needs_of(plan: str, references: int) -> Needs:
    """Read a plan.

    Args:
        plan: What EXPLAIN (FORMAT json) printed, of a query whose tables are Arrow scans with
            names of columns that `are_plain`.
        references: How often the query names a table. A plan with more or fewer scans is not
            understood, and everything is needed.
    """
    roots: list[dict[str, Any]] = msgspec.json.decode(plan)
    scans = [times for root in roots for times in _scanned(root)]
    if not scans or len(scans) != references:
        return EVERYTHING
    times = scans[0]
    for other in scans[1:]:
        times |= other
    is_row_count = references == 1 and len(roots) == 1 and _is_row_count(roots[0])
    return Needs(times, is_row_count)


def _scanned(root: dict[str, Any]) -> Iterator[TimeRange]:
    """For each scan, the times that the condition right above it lets through."""
    waiting = [(root, ALL_TIMES)]
    while waiting:
        node, times = waiting.pop()
        if node["name"] == SCAN:
            yield times
        below = ALL_TIMES
        if node["name"] == "FILTER":
            expression = node["extra_info"].get("Expression")
            below = _times_of(expression) if isinstance(expression, str) else ALL_TIMES
        waiting.extend((child, below) for child in node["children"])


def _is_row_count(root: dict[str, Any]) -> bool:
    """Whether a plan counts the rows of its scan, and does nothing else."""
    if root["name"] != _AGGREGATE or root["extra_info"].get("Aggregates") != _COUNT:
        return False
    node = root
    while len(node["children"]) == 1:
        node = node["children"][0]
        if node["name"] != _PROJECTION:
            break
    return bool(node["name"] == SCAN)


# --- conditions ----------------------------------------------------------------------------------


def _times_of(expression: str) -> TimeRange:
    """The times that a condition lets through at most."""
    inner = _without_parentheses(expression)
    found = _one_condition(inner)
    if found is not None:
        return found
    for word in (" AND ", " OR "):
        operands = _operands(inner, word)
        if len(operands) > 1:
            times = _times_of(operands[0])
            for operand in operands[1:]:
                other = _times_of(operand)
                times = times & other if word == " AND " else times | other
            return times
    return ALL_TIMES


def _one_condition(text: str) -> TimeRange | None:
    """A comparison of the time with constants; both ends are taken for inclusive."""
    if found := _BETWEEN.fullmatch(text):
        return TimeRange(_time_us(*found.group(1, 2)), _time_us(*found.group(3, 4)))
    if found := _COMPARISON.fullmatch(text):
        time_us = _time_us(*found.group(2, 3))
        match found[1]:
            case ">" | ">=":
                return TimeRange(low_us=time_us)
            case "<" | "<=":
                return TimeRange(high_us=time_us)
            case _:
                return TimeRange(time_us, time_us)
    return None


def _time_us(seconds: str | None, fraction: str | None) -> int | None:
    """Microseconds since 1970 of a time as DuckDB prints it; None: it has no end."""
    if seconds is None:
        return None
    try:
        whole = dt.datetime.fromisoformat(f"{seconds}+00:00") - _EPOCH
    except ValueError:
        return None
    return whole // _MICROSECOND + int((fraction or "0").ljust(6, "0"))


def _without_parentheses(text: str) -> str:
    """A text without the pair of parentheses around it, if they are one pair."""
    while text.startswith("(") and _end_of_group(text, 0) == len(text):
        text = text[1:-1]
    return text


def _operands(text: str, word: str) -> list[str]:
    """The groups in parentheses of which a text consists, with a word between; else nothing."""
    found, at = [], 0
    while text.startswith("(", at):
        end = _end_of_group(text, at)
        found.append(text[at:end])
        if end == len(text):
            return found
        if not text.startswith(word, end):
            return []
        at = end + len(word)
    return []


def _end_of_group(text: str, start: int) -> int:
    """After the parenthesis that closes the one at `start`; -1: there is none."""
    depth, is_quoted = 0, False
    for at in range(start, len(text)):
        character = text[at]
        if character == "'":
            is_quoted = not is_quoted  # a doubled quote ends and begins one: the same
        elif not is_quoted and character in "()":
            depth += 1 if character == "(" else -1
            if depth == 0:
                return at + 1
    return -1


def _chosen(choose: Any, one: int | None, other: int | None, *, of_one: bool) -> int | None:
    if one is None or other is None:
        return (other if one is None else one) if of_one else None
    chosen: int = choose(one, other)
    return chosen
