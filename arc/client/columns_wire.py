"""What columns of every kind have in common: names, places in messages, and MessagePack's heads.

In: names and places. Out: checked names, worded errors, the few bytes before an array, the
protocol that prepared columns follow, and how rows are cut into batches. Nothing here looks at
the values of a column.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from arc.client.errors import UsageError

TIME = "time"

#: Limits of the server: characters of a measurement, bytes of a column's name.
MAX_MEASUREMENT_CHARACTERS = 128
MAX_COLUMN_NAME_BYTES = 255

#: Units that the header x-arc-time-unit can name, and their nanoseconds.
NS_PER = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}

ENCODER = msgspec.msgpack.Encoder()

_ARRAY16, _ARRAY32 = struct.Struct(">BH"), struct.Struct(">BI")
_MAP16 = struct.Struct(">BH")


class Values(Protocol):
    """The checked values of one column."""

    @property
    def rows(self) -> int:
        """How many values there are."""

    @property
    def time_unit(self) -> str | None:
        """Of a column `time` whose type tells its unit: `s`, `ms`, `us` or `ns`."""

    def wire(self, start: int, stop: int) -> Any:
        """Bytes, or a flat buffer of them: MessagePack of these rows, one after another."""

    def arrow(self) -> Any:
        """The same values as a pyarrow array."""


class Column(NamedTuple):
    """One column, ready to be encoded."""

    name: str
    values: Values
    is_tag: bool


class Place(NamedTuple):
    """Where something is wrong."""

    measurement: str
    column: str

    def error(self, found: str, wanted: str, row: int | None = None) -> UsageError:
        """The refusal of a column, or of its value in a row."""
        where = f"measurement {self.measurement!r}: column {self.column!r}"
        if row is not None:
            where += f", row {row}"
        return UsageError(f"{where}: found {found}, wanted {wanted}")


class Constant(msgspec.Struct, frozen=True):
    """One value in every row: a tag of the whole call, or the time of the call."""

    rows: int
    value: str | int
    time_unit: str | None = None

    def wire(self, start: int, stop: int) -> bytes:
        """See `Values`."""
        return ENCODER.encode(self.value) * (stop - start)

    def arrow(self) -> Any:
        """See `Values`."""
        import pyarrow as pa

        return pa.repeat(self.value, self.rows)


def check_measurement(name: Any) -> None:
    """Refuse a measurement that no table can have.

    Raises:
        UsageError: no string of 1 to 128 characters without control characters.
    """
    if not isinstance(name, str):
        raise UsageError(f"the measurement is {type(name).__name__}, wanted a string")
    if 1 <= len(name) <= MAX_MEASUREMENT_CHARACTERS and name.isprintable():
        return
    wanted = f"1 to {MAX_MEASUREMENT_CHARACTERS} characters without control characters"
    if not 1 <= len(name) <= MAX_MEASUREMENT_CHARACTERS:
        raise UsageError(f"measurement {name[:32]!r} has {len(name)} characters, wanted {wanted}")
    if not _is_text(name) or any(map(_is_control, name)):
        raise UsageError(f"measurement {name!r}: wanted {wanted}")


def check_name(measurement: str, name: Any) -> None:
    """Refuse a column's name that no table can have.

    Raises:
        UsageError: no string of 1 to 255 bytes of UTF-8 without U+0000.
    """
    wanted = f"1 to {MAX_COLUMN_NAME_BYTES} bytes of UTF-8 without U+0000"
    if not isinstance(name, str):
        found = f"{type(name).__name__} {name!r}"[:80]
    elif not _is_text(name) or "\0" in name:
        found = repr(name[:64])
    elif not 1 <= len(name.encode()) <= MAX_COLUMN_NAME_BYTES:
        found = f"{name[:32]!r} of {len(name.encode())} bytes"
    else:
        return
    raise UsageError(
        f"measurement {measurement!r}: name of a column: found {found}, wanted {wanted}"
    )


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character < "\xa0"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def array_head(count: int) -> bytes:
    """What stands before the values of an array."""
    if count < 16:
        return bytes((0x90 | count,))
    return _ARRAY16.pack(0xDC, count) if count < 65_536 else _ARRAY32.pack(0xDD, count)


def map_head(count: int) -> bytes:
    """What stands before the keys and values of a map of up to 65 535 of them."""
    return bytes((0x80 | count,)) if count < 16 else _MAP16.pack(0xDE, count)


def cut(
    rows: int, batch_rows: int, batch_bytes: int, encode: Callable[[int, int], bytes]
) -> Iterator[tuple[bytes, int]]:
    """Bodies of so many rows and bytes at most; a single row may have more bytes.

    Args:
        rows: How many there are.
        batch_rows: Most rows of a body.
        batch_bytes: Most bytes of a body.
        encode: Makes the body of the rows from the first number up to the second.

    Returns:
        Each body and its number of rows, in their order.
    """
    for start in range(0, rows, batch_rows):
        yield from _fitting(start, min(start + batch_rows, rows), batch_bytes, encode)


def _fitting(
    start: int, stop: int, batch_bytes: int, encode: Callable[[int, int], bytes]
) -> Iterator[tuple[bytes, int]]:
    body = encode(start, stop)
    parts = min(stop - start, -(-len(body) // batch_bytes))
    if parts <= 1:
        yield body, stop - start
        return
    step = -(-(stop - start) // parts)
    for at in range(start, stop, step):
        yield from _fitting(at, min(at + step, stop), batch_bytes, encode)
