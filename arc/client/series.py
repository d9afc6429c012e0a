"""Bound handles: what is the same for every row is bound once, a call brings the values.

In: one row of field values a call. Out: one tuple on the flat list of its shape. Never converts,
locks, or looks anything up by name.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from typing import Any, Protocol

from arc.client.errors import UsageError
from arc.client.intake import RowQueue
from arc.client.rows import Shape
from arc.client.times import to_ns

# HOT, once per row. Compiled for its number of fields, since a signature of its own needs no tuple
# of arguments and no check of how many there are: 193 -> 130 ns for three floats
# (python -m benchmarks.client -k calls). Twin: `_log_plain`; equality: tests/client/test_series.py.
# One step of the interpreter adds all values of the row, so rows of two threads never mix.
_LOG = """\
def make(_arc_queue, _arc_rows, _arc_extend, _arc_tags, _arc_now, _arc_done, _arc_more):
    def log({signature}):
        if len(_arc_rows) >= _arc_queue.mark:
            _arc_queue.notice()
        _arc_extend((_arc_tags, _arc_now(), {values}))
    return log
"""
_LOG_ASYNC = """\
def make(_arc_queue, _arc_rows, _arc_extend, _arc_tags, _arc_now, _arc_done, _arc_more):
    def log({signature}):
        done = _arc_done if len(_arc_rows) < _arc_queue.mark else _arc_more(_arc_queue)
        _arc_extend((_arc_tags, _arc_now(), {values}))
        return done
    return log
"""

Make = Callable[..., Callable[..., Any]]


class Writer(Protocol):
    """What a handle needs of its client."""

    @property
    def write_columnar(self) -> Callable[..., Any]:
        """As `Client.write_columnar`."""


def compiled(fields: Sequence[str], *, is_async: bool) -> Make:
    """The maker of `log` functions for these fields.

    Fields whose names are identifiers may be given by name too; others by place only.
    """
    names = [name if _may_be_argument(name) else f"_arc_value_{i}" for i, name in enumerate(fields)]
    text = (_LOG_ASYNC if is_async else _LOG).format(
        signature=", ".join(names), values=", ".join(names)
    )
    made: dict[str, Any] = {}
    exec(compile(text, "<arc.client.series>", "exec"), made)
    make: Make = made["make"]
    return make


def _may_be_argument(name: str) -> bool:
    fits = name.isidentifier() and name.isascii() and not keyword.iskeyword(name)
    return fits and not name.startswith("_arc_") and name not in ("len", "done")


def checked_shape(measurement: str, tags: Mapping[str, str], fields: Sequence[str]) -> Shape:
    """The shape of a series.

    Raises:
        UsageError: a name that is no text, a field twice, a field that is a tag, no field.
    """
    where = f"series of {measurement!r}"
    if isinstance(fields, str) or len(fields) == 0:
        raise UsageError(f"{where}: found fields {fields!r}, wanted a list of one name or more")
    names: tuple[Any, ...] = (*tags, *fields)
    for name in names:
        if not isinstance(name, str) or not name:
            raise UsageError(f"{where}: found {name!r} as a name, wanted text")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{where}: {twice[0]!r} is there twice among its tags and fields")
    if "time" in names:
        raise UsageError(f"{where}: 'time' is neither tag nor field; log_at(time, ...) sets it")
    return Shape(measurement, tuple(tags), tuple(fields))


class Series:
    """One series of one measurement: its tags bound, its fields in order.

    Made by `Client.series`. Any thread may call it.

    Attributes:
        log: Takes one row now: `log(1.5, 0.2)`, in the order of the fields, or by name. Raises
            `TypeError` for too few or too many values, `QueueFullError` and `ClosedError` as
            `Client.log` does. 0.13 µs.
        tags: Names and values.
        fields: Names, in order.
    """

    def __init__(
        self,
        client: Writer,
        shape: Shape,
        tags: Mapping[str, str],
        queue: RowQueue,
        make: Make,
        asynchronous: tuple[Any, Callable[[RowQueue], Any]] | None = None,
    ) -> None:
        self.tags = {name: _text(value) for name, value in tags.items()}
        self.fields = shape.fields
        self._client, self._shape, self._queue = client, shape, queue
        self._values = tuple(self.tags.values())
        rows = queue.rows
        done, more = asynchronous or (None, None)
        self.log: Callable[..., Any] = make(
            queue, rows, rows.extend, self._values, time_ns, done, more
        )

    def log_at(self, time: Any, /, *values: Any) -> None:
        """Take one row of another time than now.

        Args:
            time: `datetime` (without a zone: UTC), or a number since 1970 whose unit is told from
                its magnitude: below 1e10 seconds, 1e13 ms, 1e16 µs, else ns.
            values: One for each field.

        Raises:
            TypeError: more or fewer values than fields.
            UsageError: `time` is none.
        """
        self._log_plain(to_ns(time, None), *values)

    def _check_width(self, values: tuple[Any, ...]) -> None:
        if len(values) != len(self.fields):
            raise TypeError(
                f"series of {self._shape.measurement!r}: found {len(values)} values, "
                f"wanted {len(self.fields)}: {', '.join(self.fields)}"
            )

    def _log_plain(self, time_ns: int, *values: Any) -> None:
        self._check_width(values)
        queue = self._queue
        if len(queue.rows) >= queue.mark:
            queue.notice()
        queue.rows.extend((self._values, time_ns, *values))

    def write_columnar(self, columns: Mapping[str, Any], **how: Any) -> int:
        """Send columns with the tags of this series: `Client.write_columnar`."""
        num_rows: int = self._client.write_columnar(
            self._shape.measurement, columns, tags=self.tags, **how
        )
        return num_rows

    def __repr__(self) -> str:
        return f"Series({self._shape.measurement!r}, tags={self.tags!r}, fields={self.fields!r})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
