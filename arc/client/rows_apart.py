"""Rows of calls, told apart by measurement and names. Pure: lists to lists.

In: rows that have the same number of values, a list for each place of a row: measurements, times,
names and values. Out: rows of one measurement and of the same names in the same order, a list for
each column; or, where these would be too few rows for too many columns, rows of several names as
dicts. No value is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

#: What a column in a map of its own costs, in values of a map that several sets of names share:
#: 1.7 µs to decode and 1.6 to encode (benchmarks/bench_decode.py -k overhead), where such a value
#: takes 45 ns to look up and to encode.
_COLUMN_CELLS = 75

#: What a row as a dict costs beside its values, in the same: 250 ns.
_ROW_CELLS = 6


def stride_of(width: int) -> int:
    """Places of a row of so many values: measurement, time, names, values."""
    return 2 + 2 * width


def part_of(columns: list[list[Any]], start: int, stop: int) -> list[list[Any]]:
    """Some rows of columns, which follow one another."""
    return [values[start:stop] for values in columns]


class Cells(NamedTuple):
    """Rows of the same names.

    Attributes:
        columns: The values, by name.
        num_rows: In each of them, and where there are no names.
    """

    columns: list[list[Any]]
    num_rows: int

    def column(self, _: str, i: int) -> list[Any]:
        """The values of a column."""
        return self.columns[i]

    def rows(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The rows as dicts."""
        if not names:
            return [{} for _ in range(self.num_rows)]
        table = zip(*self.columns, strict=True)
        return [dict(zip(names, values, strict=True)) for values in table]

    def part(self, start: int, stop: int) -> Cells:
        """Some rows that follow one another."""
        num_rows = len(range(self.num_rows)[start:stop])
        return Cells(part_of(self.columns, start, stop), num_rows)


class Dicts(NamedTuple):
    """Rows as dicts; what a row of a sparse table lacks is None."""

    dicts: list[dict[str, Any]]
    is_sparse: bool = False

    def column(self, name: str, _: int) -> list[Any]:
        """The values of a column."""
        # 13 ns a value, 17 by `get`; where all rows have the same names, `Cells` takes 2
        # (docs/profiling/2026-11-20-client-rows.md).
        try:
            return [values[name] for values in self.dicts]
        except KeyError:
            if not self.is_sparse:
                raise
        return [values.get(name) for values in self.dicts]

    def rows(self, _: tuple[str, ...]) -> list[dict[str, Any]]:
        """The rows as they were given."""
        return self.dicts

    def part(self, start: int, stop: int) -> Dicts:
        """Some rows that follow one another."""
        return self._replace(dicts=self.dicts[start:stop])


class Alike(NamedTuple):
    """Rows of one measurement that go out as one table.

    Attributes:
        names: Of the columns; not checked.
        times: Of each row, ns since 1970.
        source: The values.
    """

    names: tuple[str, ...]
    times: list[int]
    source: Cells | Dicts


def apart(rows: list[list[Any]], width: int) -> list[tuple[Any, list[Alike]]]:
    """The rows of each measurement, by their names, in the order of their first rows.

    Args:
        rows: `[measurements, times, names, …, values, …]`, of at least one row.
        width: Values of a row.

    Returns:
        Measurements, as they were given. Rows of a measurement with the same names in the same
        order are together, and keep their order.
    """
    varying = _varying(rows, width)
    heads = [column[0] for column in rows[: 2 + width]]
    if not varying:
        source = Cells(rows[2 + width :], len(rows[1]))
        return [(heads[0], [Alike(tuple(heads[2:]), rows[1], source)])]
    others: dict[int, Any] = {}
    if 0 in varying:
        varying[0], others = _hashable(varying[0])
    found = _grouped(varying, heads, rows)
    few = {key: names for key, groups in found.items() if (names := _names_of_few(groups, width))}
    shared = _shared(few, varying.get(0), rows, width) if few else {}
    return [
        (
            others.get(key, key) if 0 in varying else heads[0],
            [shared[key]] if key in shared else [_alike(*group) for group in groups.items()],
        )
        for key, groups in found.items()
    ]


def _varying(rows: list[list[Any]], width: int) -> dict[int, list[Any]]:
    """By its place, the measurement or the name that is not in all rows the one of the first."""
    # HOT: two lists are compared at 1.0 ns a row, most of it for the second list, where
    # `list.count` takes 5 on Python 3.13.
    varying: dict[int, list[Any]] = {}
    for place in (0, *range(2, 2 + width)):
        column = rows[place]
        try:
            is_one = column == [column[0]] * len(column)
        except Exception:  # an array, whose comparison is no truth value
            is_one = False
        if not is_one:
            varying[place] = column
    return varying


def _hashable(measurements: list[Any]) -> tuple[list[Any], dict[int, Any]]:
    """Keys of measurements, and what those stand for that are no text."""
    try:
        "".join(measurements)
        return measurements, {}
    except Exception:  # a list or an array has no hash
        others = {id(name): name for name in measurements if not isinstance(name, str)}
        return [name if isinstance(name, str) else id(name) for name in measurements], others


_Groups = dict[tuple[str, ...], list[Any]]


def _grouped(
    varying: dict[int, list[Any]], heads: list[Any], rows: list[list[Any]]
) -> dict[Any, _Groups]:
    """Of each measurement, or of None where all rows have one, `[time, value, …]` by names.

    Args:
        varying: Measurements or names that are not in all rows those of the first, by place.
        heads: Measurement, time and names of the first row.
        rows: By place.
    """
    # HOT: 130 ns a row of five values. The numbers of the rows of each head, then `itemgetter` for
    # each column, take 166 (benchmarks/client/bench_rows.py -k group).
    table = zip(rows[1], *rows[len(heads) :], strict=True)
    groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for head, row in zip(zip(*varying.values(), strict=True), table, strict=True):
        groups[head].extend(row)
    found: dict[Any, _Groups] = defaultdict(dict)
    names = list(heads)
    for head, own in groups.items():
        for place, part in zip(varying, head, strict=True):
            names[place] = part
        found[names[0] if 0 in varying else None][tuple(names[2:])] = own
    return found


def _alike(names: tuple[str, ...], own: list[Any]) -> Alike:
    stride = 1 + len(names)
    times, *columns = (own[place::stride] for place in range(stride))
    return Alike(names, times, Cells(columns, len(times)))


def _names_of_few(groups: _Groups, width: int) -> tuple[str, ...]:
    """All names of groups that are to share a table; nothing: they are not.

    A shared table saves the columns that it does not have twice, and costs a look-up for each of
    its cells.
    """
    if len(groups) == 1:
        return ()
    names = dict.fromkeys(name for group in groups for name in group)
    rows = sum(map(len, groups.values())) // (1 + width)
    saved = len(groups) * width - len(names)
    is_few = (len(names) + _ROW_CELLS) * rows <= _COLUMN_CELLS * saved
    return tuple(names) if is_few else ()


def _shared(
    few: dict[Any, tuple[str, ...]],
    measurements: list[Any] | None,
    rows: list[list[Any]],
    width: int,
) -> dict[Any, Alike]:
    """One table for all rows of each of these measurements, by their keys."""
    times: dict[Any, list[int]] = {key: [] for key in few}
    dicts: dict[Any, list[dict[str, Any]]] = {key: [] for key in few}
    names = zip(*rows[2 : 2 + width], strict=True)
    values = zip(*rows[2 + width :], strict=True)
    keys = [None] * len(rows[1]) if measurements is None else measurements
    for key, time_ns, row in zip(keys, rows[1], map(dict, map(zip, names, values)), strict=True):
        if key in few:
            times[key].append(time_ns)
            dicts[key].append(row)
    return {key: Alike(few[key], times[key], Dicts(dicts[key], is_sparse=True)) for key in few}
