"""What a SELECT answered, as rows of a measurement. Pure: an Arrow IPC stream in, another one out.

In: the answer to a continuous query for one window. Out: a body for the Arrow door, with the mark
of the query on every row, or an error that names the column. Nothing is run, kept or stored here.

    time: a timestamp of any unit, or a date   time; it must lie in the window
    no column time                             the start of the window, for every row
    text, enums, dictionaries of text          a tag
    integers, booleans, binary, float64        the same
    float16, float32                           float64
    decimals without a fraction                int64, if every value fits: so DuckDB has sums
    other decimals                             float64
    null                                       left out

All else is refused by name: lists, structs, maps, intervals, times of day, and times that are not
called `time`.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ingest.columns import TIME_COLUMN
from ingest.continuous import MARK_COLUMN, Window, shown_time
from ingest.errors import PayloadError

_TIME_TYPE = pa.timestamp("us", "UTC")

#: Of a stream: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
_END = b"\xff\xff\xff\xff\0\0\0\0"

_TAG_TYPE = pa.dictionary(pa.int32(), pa.string())


class Rows(msgspec.Struct, frozen=True):
    """What is to be written.

    Attributes:
        body: An Arrow IPC stream.
        num_rows: In it; with 0 there is nothing to write.
    """

    body: bytes
    num_rows: int


def rows_of(answer: bytes, window: Window, mark: str) -> Rows:
    """Turn an answer into rows.

    Args:
        answer: An Arrow IPC stream, as the query process sends it.
        window: That it is for.
        mark: Of the query.

    Raises:
        PayloadError: a column cannot be stored, or a row is not of the window.
    """
    table = _read(answer)
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PayloadError(f"column {twice[0]!r} is in the result twice: name one otherwise (AS)")
    found = {TIME_COLUMN: _times(table, window), MARK_COLUMN: _marks(table.num_rows, mark)}
    for name in names:
        if name not in found and not pa.types.is_null(table[name].type):
            found[name] = _stored(name, table[name])
    if len(found) == 2 and table.num_rows:
        raise PayloadError("the result has no column but time: wanted one with values at the least")
    return Rows(_written(pa.table(found)), table.num_rows)


def _read(answer: bytes) -> pa.Table:
    if not answer.endswith(_END):  # which pyarrow does not ask for
        raise PayloadError(f"the answer to the query broke off after {len(answer)} bytes")
    with pa.ipc.open_stream(answer) as stream:
        return stream.read_all()


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    whole = table.combine_chunks().unify_dictionaries()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _marks(num_rows: int, mark: str) -> pa.DictionaryArray:
    indices = pa.nulls(num_rows, pa.int32()).fill_null(0)
    return pa.DictionaryArray.from_arrays(indices, pa.array([mark], pa.utf8()))


def _times(table: pa.Table, window: Window) -> pa.ChunkedArray:
    """Timestamps (µs, UTC), shape (rows,): all of them in the window."""
    if TIME_COLUMN not in table.column_names:
        at = pa.scalar(window.start_us, pa.int64()).cast(_TIME_TYPE)
        return pa.chunked_array([pa.nulls(table.num_rows, _TIME_TYPE).fill_null(at)], _TIME_TYPE)
    given = table[TIME_COLUMN]
    if not (pa.types.is_timestamp(given.type) or pa.types.is_date(given.type)):
        raise PayloadError(f"column 'time' is {given.type}, wanted a timestamp or a date")
    if given.null_count:
        raise PayloadError(f"column 'time' is null in {given.null_count} rows")
    if pa.types.is_timestamp(given.type) and given.type.tz is None:
        given = given.cast(pa.timestamp(given.type.unit, "UTC"))
    times = given.cast(_TIME_TYPE, safe=False)  # nanoseconds are cut
    _check_window(times, window)
    return times


def _check_window(times: pa.ChunkedArray, window: Window) -> None:
    """Refuse times outside: their rows would not be found again when the window is replaced."""
    if not len(times):
        return
    ends = pc.min_max(times.cast(pa.int64()))
    for at_us in (ends["min"].as_py(), ends["max"].as_py()):
        if not window.start_us <= at_us < window.end_us:
            raise PayloadError(
                f"column 'time' has {shown_time(at_us)}, which is not in the window from "
                f"{shown_time(window.start_us)} to {shown_time(window.end_us)}: bound the time in "
                "the query by {start_time} and {end_time}, and group by parts of the interval"
            )


def _stored(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as a type that can be stored."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return column.cast(pa.string()).dictionary_encode().cast(_TAG_TYPE)
    if types.is_floating(kind):
        return column.cast(pa.float64())
    if types.is_decimal(kind):
        return _number(name, column)
    is_plain = types.is_integer(kind) or types.is_boolean(kind) or types.is_binary(kind)
    if is_plain or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return column
    hint = "; the time of a row is the column that is called 'time'"
    raise PayloadError(
        f"column {name!r} is {kind}, which cannot be stored: wanted text, a number, a boolean or "
        f"binary{hint if types.is_temporal(kind) else ''}"
    )


def _number(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of decimals as integers where they have no fraction, else as floats."""
    if column.type.scale:
        return column.cast(pa.float64())
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        largest = pc.max(pc.abs(column)).as_py()
        raise PayloadError(
            f"column {name!r} has a value of magnitude {largest}, over what int64 holds: cast it "
            "to DOUBLE in the query"
        ) from None
