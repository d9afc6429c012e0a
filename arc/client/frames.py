"""Data frames to requests: each an Arrow IPC stream of one record batch.

In: a data frame of pandas 2 or 3 or of Polars (lazy too), a table, record batch or reader of
pyarrow, or anything else that has `__arrow_c_stream__`, such as a relation of DuckDB. Out: batches
for `/api/v1/write/arrow`, or a `UsageError` that names measurement, column and row. Never imports
pandas or Polars, never changes the frame, never holds the whole of a stream.

Which frames are looked at before their first batch: those that lie in memory, so that nothing of
a frame that is refused is sent. A stream (a reader, a lazy frame, a relation) is looked at piece
by piece, and what goes before the piece that is refused has been handed out already.

The time is the column `time`, or the one that `time_column` names, or the index of a pandas frame
(see `arc.client.frames_pandas`). A frame without one is refused: its rows were made at some other
time than that of this call, so that a stamp would be wrong without anyone noticing.

Tags are the columns that the caller names; if it names none, those of the metadata key `arc:tags`
of an Arrow schema; without that, the columns that are dictionaries of text (Categorical, Enum).
They travel in `arc:tags`, which a list in a header could not say for names with commas.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from arc.client.batch import WRITE_ARROW, Batch, Kind
from arc.client.errors import UsageError
from arc.client.frames_time import UNITS, Times, settle_times
from arc.client.frames_types import (
    Place,
    is_text_dictionary,
    lay_out,
    settle,
    size_of,
    wire_type,
)

_TIME = "time"
_TAGS_KEY = b"arc:tags"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

_MAX_NAME_BYTES = 255
_MAX_MEASUREMENT_CHARACTERS = 128
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

#: Hours of UTC that the rows of one request may cover, unless the daemon is told otherwise
#: (ARC_MAX_HOURS).
_MAX_HOURS = 1_000

#: What a body takes beside values: nodes, buffers and padding of a column, and the rest.
_COLUMN_OVERHEAD_BYTES, _OVERHEAD_BYTES = 160, 512


def encode_frame(
    measurement: str,
    frame: Any,
    *,
    tags: Iterable[str] | None = None,
    time_column: str | None = None,
    time_unit: str | None = None,
    batch_rows: int,
    batch_bytes: int,
) -> Iterator[Batch]:
    """Encode a data frame as Arrow IPC.

    Args:
        measurement: Where the rows go: 1 to 128 characters, no control characters.
        frame: See the docstring of the module. Must not change until the iterator is at its end.
        tags: Names of the tag columns, none others; an empty one: no tags. Numbers and booleans
            among them are stored as text. None: see the docstring of the module.
        time_column: Stored as `time`. A timestamp of any unit (without a zone: UTC), a date, or a
            number.
        time_unit: Of a time column of numbers, "s", "ms", "us" or "ns"; None: told from the
            magnitudes of all of them, of a stream from those of its first piece. A timestamp has a
            unit of its own.
        batch_rows: Rows of one batch, at most.
        batch_bytes: Bytes of one body, at most.

    Returns:
        The batches, in the order of the rows; none for a frame without rows. The body of a batch
        is made when the iterator comes to it.

    Raises:
        UsageError: the frame cannot be stored: raised here for a frame in memory, by the iterator
            for a stream.
    """
    _check_arguments(measurement, tags, time_unit)
    chosen = None if tags is None else tuple(tags)
    encoder = _Encoder(measurement, chosen, time_column, time_unit, batch_rows, batch_bytes)
    found = _opened(frame, measurement, time_column, batch_rows)
    if isinstance(found, _Stream):
        return encoder.encode_stream(found.parts)
    return encoder.plan(found).batches() if found.num_rows else iter(())


def _check_arguments(measurement: Any, tags: Iterable[str] | None, time_unit: str | None) -> None:
    if not isinstance(measurement, str) or not measurement:
        raise UsageError(f"measurement: found {measurement!r}, wanted a name")
    if len(measurement) > _MAX_MEASUREMENT_CHARACTERS or _CONTROL.search(measurement):
        raise UsageError(
            f"measurement {measurement[:40]!r}: {len(measurement)} characters, wanted 1 to "
            f"{_MAX_MEASUREMENT_CHARACTERS}, none of them a control character or a surrogate"
        )
    if isinstance(tags, str):
        raise UsageError(f"measurement {measurement!r}: tags={tags!r}, wanted names: [{tags!r}]")
    if time_unit is not None and time_unit not in UNITS:
        wanted = ", ".join(UNITS)
        raise UsageError(
            f"measurement {measurement!r}: time_unit={time_unit!r}, wanted one of {wanted}"
        )


# --------------------------------------------------------------------------------------- the frame


class _Stream(msgspec.Struct):
    """Tables of one schema, which are not all in memory at once."""

    parts: Iterator[Any]


def _opened(frame: Any, measurement: str, time_column: str | None, batch_rows: int) -> Any:
    """A pyarrow.Table, or a `_Stream` of them."""
    if _is_a(frame, "pandas", "DataFrame"):
        from arc.client.frames_pandas import to_table

        return to_table(frame, measurement, time_column)
    if _is_a(frame, "polars", "DataFrame"):
        return _of_polars(frame, measurement)
    if _is_a(frame, "polars", "LazyFrame"):
        return _of_lazy_frame(frame, measurement, batch_rows)
    opened = _of_arrow(frame, measurement)
    return opened if hasattr(opened, "num_rows") else _Stream(_gathered(opened, batch_rows))


def _of_arrow(frame: Any, measurement: str) -> Any:
    """A pyarrow.Table, or an iterator of them."""
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return _table_of(frame)
    if isinstance(frame, pa.RecordBatchReader):
        return map(_table_of, frame)
    try:
        if hasattr(frame, "__arrow_c_stream__"):
            return map(_table_of, pa.RecordBatchReader.from_stream(frame))
        if hasattr(frame, "__arrow_c_array__"):
            return _table_of(pa.record_batch(frame))
    except (pa.ArrowException, TypeError) as error:
        words = " ".join(str(error).split())
        raise UsageError(
            f"measurement {measurement!r}: a {type(frame).__name__} is no data frame: {words}"
        ) from None
    raise UsageError(
        f"measurement {measurement!r}: found {type(frame).__name__}, wanted a data frame of pandas "
        "or Polars, a table of pyarrow, or an object with __arrow_c_stream__"
    )


def _is_a(frame: Any, package: str, name: str) -> bool:
    """Whether an object is of a class of this name of a package that is not imported here."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == package
        for kind in type(frame).__mro__
    )


def _table_of(batch: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches([batch])


#: Types of Polars whose values Arrow cannot name, or not as what they are.
_FOREIGN = ("Object", "Int128", "UInt128")


#: Rows of a piece of a lazy frame, at least: Polars takes 40 ns a row for pieces of 10 000, and 8
#: for such (benchmarks/client/bench_frames.py -k lazy).
_PIECE_ROWS = 2**17


def _of_polars(frame: Any, measurement: str) -> Any:
    import pyarrow as pa

    for name, kind in frame.schema.items():
        if str(kind) in _FOREIGN:
            raise Place(measurement, name).error(f"found Polars' {kind}, which is not stored")
    return pa.table(frame)


def _of_lazy_frame(frame: Any, measurement: str, batch_rows: int) -> Any:
    """Pieces of the result as it is made, where this version of Polars gives it so."""
    if not hasattr(frame, "collect_batches"):
        return _of_polars(frame.collect(), measurement)
    rows = max(batch_rows, _PIECE_ROWS)
    pieces = frame.collect_batches(chunk_size=rows, maintain_order=True, lazy=True)
    return _Stream(_gathered((_of_polars(piece, measurement) for piece in pieces), batch_rows))


def _gathered(parts: Iterator[Any], rows: int) -> Iterator[Any]:
    """Small tables joined until they have `rows` rows; none is empty."""
    import pyarrow as pa

    waiting: list[Any] = []
    num_rows = 0
    for part in parts:
        waiting.append(part)
        num_rows += part.num_rows
        if num_rows >= rows:
            yield pa.concat_tables(waiting)
            waiting, num_rows = [], 0
    if num_rows:
        yield pa.concat_tables(waiting)


# ----------------------------------------------------------------------------------- the requests


class _Encoder:
    """What is the same for all parts of a frame."""

    def __init__(
        self,
        measurement: str,
        tags: tuple[str, ...] | None,
        time_column: str | None,
        time_unit: str | None,
        batch_rows: int,
        batch_bytes: int,
    ) -> None:
        self.measurement, self.tags = measurement, tags
        self.time_column, self.time_unit = time_column, time_unit
        self.batch_rows, self.batch_bytes = batch_rows, batch_bytes
        self.first_row = 0
        self._told_unit: str | None = None

    def encode_stream(self, parts: Iterator[Any]) -> Iterator[Batch]:
        """The batches of a frame that comes in parts."""
        for part in parts:
            plan = self.plan(part)
            self.first_row += part.num_rows
            yield from plan.batches()

    def plan(self, table: Any) -> _Plan:
        """Refuse a table or settle what its requests are.

        Args:
            table: pyarrow.Table with at least one row.

        Raises:
            UsageError: it cannot be stored.
        """
        time_name = self._time_name(table.column_names)
        tags = self._tag_names(table, time_name)
        columns: dict[str, Any] = {}
        times = None
        for name, column in zip(table.column_names, table.columns, strict=True):
            place = Place(self.measurement, name, self.first_row)
            if name == time_name:
                times = settle_times(column, place, self.time_unit, self._told_unit)
                self._put(columns, _TIME, times.column)
                continue
            for stored, values in settle(name, column, place, name in tags):
                self._put(columns, stored, values)
        assert times is not None
        self._told_unit = times.unit
        return _Plan(self, columns, [name for name in columns if name in tags], times)

    def error(self, what: str) -> UsageError:
        """What to raise when it is not about a value."""
        return UsageError(f"measurement {self.measurement!r}: {what}")

    def _time_name(self, names: list[str]) -> str:
        wanted = self.time_column or _TIME
        if wanted not in names:
            shown = ", ".join(map(repr, names[:20]))
            what = f"time_column={wanted!r}: there is no such column"
            if self.time_column is None:
                what = "no column 'time' (nor, in pandas, a DatetimeIndex); name one: time_column="
            raise self.error(f"{what}. The columns are {shown or 'none'}")
        if wanted != _TIME and _TIME in names:
            raise self.error(
                f"time_column={wanted!r} is stored as 'time', but there is a column 'time'"
            )
        return wanted

    def _tag_names(self, table: Any, time_name: str) -> frozenset[str]:
        names = table.column_names
        if self.tags is None:
            return frozenset(self._told_tags(table)) - {time_name}
        for tag in self.tags:
            if tag not in names:
                shown = ", ".join(map(repr, names[:20]))
                raise self.error(f"tags: there is no column {tag!r}. The columns are {shown}")
            if tag == time_name:
                raise self.error(f"tags: {tag!r} is the time of the row, which is no tag")
        return frozenset(self.tags)

    def _told_tags(self, table: Any) -> list[str]:
        """The tags of a frame whose caller names none."""
        declared = (table.schema.metadata or {}).get(_TAGS_KEY)
        if declared is None:
            return [field.name for field in table.schema if is_text_dictionary(field.type)]
        try:
            tags = msgspec.json.decode(declared, type=list[str])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self.error(
                "the schema's metadata key 'arc:tags' must be a JSON list of column names, found "
                f"{declared[:40]!r}"
            ) from None
        return [tag for tag in tags if tag in table.column_names]

    def _put(self, columns: dict[str, Any], name: str, values: Any) -> None:
        """Take a column, unless its name cannot be stored beside the others."""
        size = len(name.encode())
        if not 1 <= size <= _MAX_NAME_BYTES or "\0" in name:
            raise self.error(
                f"column {name[:40]!r}: a name of {size} bytes, wanted 1 to {_MAX_NAME_BYTES} "
                "without U+0000"
            )
        if name in columns:
            raise self.error(f"two columns are named {name!r}")
        columns[name] = values


class _Plan:
    """A table whose every value can be stored, and where it is cut into requests."""

    def __init__(
        self, encoder: _Encoder, columns: dict[str, Any], tags: list[str], times: Times
    ) -> None:
        import pyarrow as pa

        self._encoder, self._times = encoder, times
        self._table = pa.table(columns)
        self._check_case(columns)
        types = [wire_type(column.type) for column in columns.values()]
        metadata = {_TAGS_KEY: msgspec.json.encode(tags)}
        self._schema = pa.schema(list(zip(columns, types, strict=True)), metadata)
        self._head = self._schema.serialize().to_pybytes()
        self._sizes = [size_of(column) for column in columns.values()]
        self._row_bytes = sum(size.row_bytes for size in self._sizes)
        self._cuts = self._cut()

    def batches(self) -> Iterator[Batch]:
        """The requests, each made when it is asked for."""
        measurement, times = self._encoder.measurement, self._times
        target = f"{WRITE_ARROW}?measurement={quote(measurement, safe='')}"
        is_told = times.column is not times.numbers
        headers = () if is_told else (("x-arc-time-unit", times.unit),)
        for at, rows in self._cuts:
            body, now_us = self._body(at, rows), time.time_ns() // 1_000
            yield Batch(Kind.ARROW, target, headers, body, rows, measurement, created_us=now_us)

    def _body(self, at: int, rows: int) -> bytes:
        import pyarrow as pa

        (batch,) = self._table.slice(at, rows).combine_chunks().to_batches()
        columns = [
            lay_out(array, kind)
            for array, kind in zip(batch.columns, self._schema.types, strict=True)
        ]
        made = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        # HOT: the messages of a stream are joined here, because the stream writers of pyarrow
        # grow their memory as they go: 9.4 -> 2.6 ns a row of 64 bytes
        # (benchmarks/client/bench_frames.py -k stream).
        return b"".join((self._head, made.serialize(), _END_OF_STREAM))

    def _cut(self) -> list[tuple[int, int]]:
        """First row and number of rows of each request: all alike where the bytes allow it."""
        total = self._table.num_rows
        most = max(1, self._encoder.batch_rows)
        step = most = -(-total // -(-total // most))
        cuts, at = [], 0
        while at < total:
            step = min(2 * step, most, total - at)
            step = self._rows_that_fit(at, step)
            cuts.append((at, step))
            at += step
        return cuts

    def _rows_that_fit(self, at: int, rows: int) -> int:
        """How many of some rows one request takes."""
        budget = self._encoder.batch_bytes - len(self._head) - _OVERHEAD_BYTES
        budget -= _COLUMN_OVERHEAD_BYTES * len(self._sizes)
        while (size := self._size(at, rows, budget)) > budget:
            if rows == 1:
                raise self._encoder.error(
                    f"row {self._encoder.first_row + at} takes {size} bytes, and a request at most "
                    f"{max(0, budget)} (batch_bytes={self._encoder.batch_bytes})"
                )
            rows = max(1, min(rows - 1, int(rows * max(0, budget) / size)))
        while rows > _MAX_HOURS and self._times.hours(at, rows, _MAX_HOURS) > _MAX_HOURS:
            rows = max(_MAX_HOURS, rows // 2)
        return rows

    def _size(self, at: int, rows: int, budget: int) -> int:
        """Bytes of some rows: a bound if that is within the budget, else exactly."""
        fixed = int(self._row_bytes * rows) + 1
        bound = sum(size.at_most(at, rows) for size in self._sizes if size.at_most)
        if fixed + bound <= budget:
            return fixed + bound
        return fixed + sum(size.exactly(at, rows) for size in self._sizes if size.exactly)

    def _check_case(self, columns: Iterable[str]) -> None:
        seen: dict[str, str] = {}
        for name in columns:
            other = seen.setdefault(name.lower(), name)
            if other != name:
                raise self._encoder.error(
                    f"columns {other!r} and {name!r} differ in nothing but capitals"
                )
