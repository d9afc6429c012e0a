"""Columns of a data frame, in the types that the daemon takes as they lie in a body.

In: chunked arrays of Arrow, of any type. Out: the same values in the types of `ingest.arrow_ipc`,
or a `UsageError` that names column and row. Never rounds, never wraps, never drops a value.

The work has two steps. `settle` takes a whole column, refuses what cannot be stored and leaves
everything else where it lies, dictionaries of text included. `wire_type` and `lay_out` take one
batch at a time, cannot fail, and copy what has to be copied: so a frame is refused before its
first batch, and needs no second frame's worth of memory.

    int8 to int64, uint8 to uint32, decimals without a fraction   int64
    uint64                                                        uint64, for the daemon to judge
    float16, float32, float64                                     float64
    utf8, large_utf8, utf8_view, dictionaries of them             utf8
    binary, large_, fixed_size_, binary_view                      binary
    timestamps and dates                                          timestamp of µs
    bool, null, dictionaries of any of these                      as they are, as their values
    list of a fixed size                                          a column for each: name_0, name_1

Dictionaries are decoded and narrow numbers widened because a daemon that finds nothing else in a
body reads it in place, with 0.9 ns a row instead of 20 and 15 (benchmarks/client/bench_frames.py
-k daemon).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from arc.client.errors import UsageError

WANTED = (
    "numbers, booleans, text, bytes, timestamps, dates, dictionaries of these or lists of a fixed "
    "size of them"
)
_WHOLE_US = "whole microseconds since 1970 in 64 bits"
_INT64 = "an integer of at most 64 bits"


class Place(msgspec.Struct, frozen=True):
    """Where in a frame something was found.

    Attributes:
        measurement: Name of the measurement.
        column: Name of the column in the frame.
        first_row: Row of the frame in which the column begins: 0 unless the frame is a stream.
    """

    measurement: str
    column: str
    first_row: int = 0

    def error(self, what: str, row: int | None = None) -> UsageError:
        """What to raise; `row` counts from `first_row`."""
        at = "" if row is None else f", row {self.first_row + row}"
        return UsageError(f"measurement {self.measurement!r}: column {self.column!r}{at}: {what}")


# ------------------------------------------------------------------------------------ what it is


def is_text(kind: Any) -> bool:
    """Whether a type of Arrow is text of any layout, not counting dictionaries."""
    import pyarrow as pa

    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_text_dictionary(kind: Any) -> bool:
    """Whether a type of Arrow is a dictionary of text: a category, an enum."""
    import pyarrow as pa

    return bool(pa.types.is_dictionary(kind)) and is_text(kind.value_type)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    is_variable = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(is_variable or types.is_binary_view(kind) or types.is_fixed_size_binary(kind))


def _is_plain(kind: Any) -> bool:
    """Whether every value of a type is stored as it is."""
    import pyarrow as pa

    types = pa.types
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(is_number or types.is_null(kind) or is_text(kind) or _is_bytes(kind))


# ---------------------------------------------------------------------- whole columns, may refuse


def settle(name: str, column: Any, place: Place, is_tag: bool) -> Iterator[tuple[str, Any]]:
    """What a column becomes: itself, or one column for each place of a list of a fixed size.

    Args:
        name: What to call it.
        column: pyarrow.ChunkedArray with at least one row.
        place: For messages.
        is_tag: It is stored as text.

    Yields:
        Name and pyarrow.ChunkedArray, of a type that `wire_type` takes.

    Raises:
        UsageError: a type or a value that cannot be stored.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = unwrapped(column, place)
        if pa.types.is_fixed_size_list(column.type) and not is_tag:
            for index in range(column.type.list_size):
                part = pc.list_element(column, index)
                yield from settle(f"{name}_{index}", part, place, False)
        else:
            yield name, _tag(column, place) if is_tag else _field(column, place)
    except pa.ArrowException as error:
        raise place.error(" ".join(str(error).split())) from None


def unwrapped(column: Any, place: Place) -> Any:
    """A column without extension types, and without dictionaries but those of text.

    Those of text are left, with values of the one layout that pyarrow can look up in any version.
    """
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name.startswith("pandas."):
            raise place.error(f"found {kind.extension_name.replace('.', ' ')}s, wanted {WANTED}")
        chunks = [chunk.storage for chunk in column.chunks]
        stored = pa.chunked_array(chunks, kind.storage_type)
        is_bool = kind.extension_name == "arrow.bool8"
        return stored.cast(pa.bool_()) if is_bool else unwrapped(stored, place)
    if not pa.types.is_dictionary(kind):
        return column
    values = wire_type(kind.value_type) if _is_plain(kind.value_type) else kind.value_type
    coded = [_with_values(chunk, chunk.dictionary.cast(values)) for chunk in column.chunks]
    if is_text(values):
        return pa.chunked_array(coded, pa.dictionary(kind.index_type, values))
    return unwrapped(pa.chunked_array([c.dictionary_decode() for c in coded], values), place)


def _with_values(coded: Any, values: Any) -> Any:
    """A dictionary array with other values; its indices are not looked at again."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(coded.indices, values, safe=False)


def _field(column: Any, place: Place) -> Any:
    """A column that is no tag."""
    import pyarrow as pa

    kind, types = column.type, pa.types
    if types.is_timestamp(kind):
        is_kept = kind.unit == "us"
        return column if is_kept else cast(column, pa.timestamp("us"), place, _WHOLE_US)
    if types.is_date(kind):
        # Days in ms first: pyarrow multiplies days by µs without looking whether that fits.
        return cast(column.cast(pa.timestamp("ms")), pa.timestamp("us"), place, _WHOLE_US)
    if types.is_decimal(kind) and kind.scale <= 0:  # what sums of integers are in DuckDB
        return cast(column, pa.int64(), place, _INT64)
    if _is_plain(kind) or is_text_dictionary(kind):
        return column
    raise place.error(f"found {kind}, wanted {WANTED}")


def _tag(column: Any, place: Place) -> Any:
    """A column that is a tag: its values as text, spelt as the daemon spells them."""
    import pyarrow as pa

    column = _field(column, place)
    kind, types = column.type, pa.types
    if is_text(kind) or is_text_dictionary(kind):
        return column
    if types.is_null(kind):
        return column.cast(pa.string())
    if types.is_floating(kind):
        column = column.cast(pa.float64())
    elif not types.is_integer(kind) and not types.is_boolean(kind):
        raise place.error(f"found {kind}, wanted text, numbers or booleans, since it is a tag")
    chunks = [chunk.dictionary_encode() for chunk in column.chunks]
    spelt = [[_tag_text(value) for value in chunk.dictionary.to_pylist()] for chunk in chunks]
    texts = [pa.array(values, pa.string()) for values in spelt]
    coded = [_with_values(c, values) for c, values in zip(chunks, texts, strict=True)]
    return pa.chunked_array(coded, pa.dictionary(pa.int32(), pa.string()))


def _tag_text(value: Any) -> str | None:
    """A number or a boolean as text; None for null and NaN, which are missing."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def cast(column: Any, kind: Any, place: Place, wanted: str) -> Any:
    """A column in another type, exactly.

    Raises:
        UsageError: a value has no equal in that type; the first such row is named.
    """
    import pyarrow as pa

    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        row = _first_refused(column, kind)
        scalar = column[row]
        is_time = pa.types.is_timestamp(column.type)
        found = f"{scalar.value} {column.type.unit}" if is_time else f"{scalar.as_py()}"
        raise place.error(f"found {found}, wanted {wanted}", row) from None


def _first_refused(column: Any, kind: Any) -> int:
    """The first row whose value cannot be cast; there is one."""
    import pyarrow as pa

    low, high = 0, len(column)  # nothing before `low` is refused, something before `high` is
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(kind)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


# -------------------------------------------------------------------------- batches, never refuse


def wire_type(kind: Any) -> Any:
    """The type in which a settled column of this type is sent."""
    import pyarrow as pa

    types = pa.types
    if types.is_integer(kind):
        return kind if types.is_uint64(kind) else pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if is_text(kind) or is_text_dictionary(kind):
        return pa.string()
    return pa.binary() if _is_bytes(kind) else kind


def lay_out(array: Any, kind: Any) -> Any:
    """One batch of a settled column in its `wire_type`; the same object where it has that."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    return array if array.type == kind else array.cast(kind)


class Size(msgspec.Struct, frozen=True):
    """How many bytes rows of a settled column take in a body, padding not counted.

    Attributes:
        row_bytes: What every row takes.
        at_most: Takes the first row and the number of rows, tells how many more bytes these take
            at most, and is quick about it; None: no more.
        exactly: The same, told exactly.
    """

    row_bytes: float
    at_most: Callable[[int, int], int] | None = None
    exactly: Callable[[int, int], int] | None = None


def size_of(column: Any) -> Size:
    """How many bytes rows of a settled column take."""
    import pyarrow as pa

    kind, types = column.type, pa.types
    validity = 1 / 8
    if types.is_null(kind):
        return Size(0)
    if types.is_boolean(kind):
        return Size(validity + 1 / 8)
    if types.is_fixed_size_binary(kind):
        return Size(validity + 4 + kind.byte_width)
    if types.is_dictionary(kind):
        longest = max(_longest(chunk.dictionary) for chunk in column.chunks)
        return Size(
            validity + 4,
            lambda at, rows: rows * longest,
            lambda at, rows: _sum_of_coded(column.slice(at, rows)),
        )
    if types.is_string_view(kind) or types.is_binary_view(kind):
        row_bytes, sum_of = validity + 4, _sum_of_views
    elif is_text(kind) or _is_bytes(kind):
        row_bytes, sum_of = 0.0, _sum_of_bytes
    else:
        return Size(validity + 8)

    def count(at: int, rows: int) -> int:
        return sum_of(column.slice(at, rows))

    return Size(row_bytes, count, count)


def _longest(values: Any) -> int:
    """Bytes of the longest of some texts."""
    import pyarrow.compute as pc

    return pc.max(pc.binary_length(values)).as_py() or 0


def _sum_of_coded(column: Any) -> int:
    """Bytes of all values of a column of dictionaries of text."""
    import pyarrow.compute as pc

    sums = [
        pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices))
        for chunk in column.chunks
    ]
    return sum(each.as_py() or 0 for each in sums)


def _sum_of_bytes(column: Any) -> int:
    """Bytes of a column of text or bytes, offsets and validity among them."""
    return int(column.nbytes)


def _sum_of_views(column: Any) -> int:
    """Bytes of all values of a column of views, whose lengths are every fourth of its int32."""
    import numpy as np

    total = 0
    for chunk in column.chunks:
        if not len(chunk):
            continue
        views = np.frombuffer(chunk.buffers()[1], dtype=np.int32)
        lengths = views[4 * chunk.offset : 4 * (chunk.offset + len(chunk)) : 4]
        if chunk.null_count:  # what lies there where a value is missing is not said
            lengths = lengths[chunk.is_valid().to_numpy(zero_copy_only=False)]
        total += int(lengths.sum(dtype=np.int64))
    return total
