"""A selection as one SELECT statement. Pure.

In: a `Selection`. Out: SQL as docs/query.md has it. Every name is quoted and every value a literal
with its type, so nothing that a caller passes as a name or a value is ever read as SQL; only the
text given as `where` is, which is what it is for.
"""

from __future__ import annotations

import math

from arc.reader.errors import UsageError
from arc.reader.selection import TIME_COLUMN, Moment, Selection, Value
from arc.reader.times import iso


def statement(selection: Selection) -> str:
    """The statement.

    Raises:
        UsageError: A value or a condition that SQL cannot carry.
    """
    chosen = "*" if selection.columns is None else ", ".join(map(_column, selection.columns))
    table = f"{_quoted(selection.database)}.{_quoted(selection.measurement)}"
    conditions = list(_conditions(selection))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {chosen} FROM {table} AS t{where}"


def _conditions(selection: Selection) -> list[str]:
    time, out = _column(TIME_COLUMN), []
    if selection.start_us is not None:
        out.append(f"{time} >= {_literal(Moment(selection.start_us))}")
    if selection.end_us is not None:
        out.append(f"{time} < {_literal(Moment(selection.end_us))}")
    out += [_one_of(name, values) for name, values in selection.conditions.items()]
    if selection.more is not None:
        out.append(f"({_sql(selection.more)}\n)")  # a comment may end the condition
    return out


def _one_of(name: str, values: tuple[Value, ...]) -> str:
    column = _column(name)
    present = [_literal(value) for value in values if value is not None]
    parts = []
    if present:
        parts.append(f"{column} IN ({', '.join(present)})")
    if len(present) < len(values):
        parts.append(f"{column} IS NULL")
    if not parts:
        parts.append("FALSE")
    return f"({' OR '.join(parts)})"


def _column(name: str) -> str:
    # With the table's alias: an unknown name that is a table's would else be the row as a whole.
    return f"t.{_quoted(name)}"


def _quoted(name: str) -> str:
    if "\0" in name:
        raise UsageError(f"name {name!r}: contains a character of code 0")
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Value) -> str:
    """A value that is not None, with its type: SQL compares it with no other."""
    if isinstance(value, Moment):
        return f"TIMESTAMPTZ '{iso(value.us)}'"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return f"'{value}'::BIGINT"
    if isinstance(value, float):
        return f"'{value!r}'::DOUBLE" if math.isfinite(value) else f"'{value}'::DOUBLE"
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
    assert isinstance(value, str)
    if "\0" in value:
        raise UsageError(f"where: {value!r} contains a character of code 0")
    return "'" + value.replace("'", "''") + "'::VARCHAR"


def _sql(condition: object) -> str:
    if not isinstance(condition, str) or not condition.strip():
        raise UsageError(
            f"where: found {type(condition).__name__}, wanted for a URL a mapping of columns to "
            "values, or a condition in SQL"
        )
    return condition
