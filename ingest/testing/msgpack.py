"""MessagePack in every spelling: columnar and row maps, good and faulty.

In: a seed, or Python values to spell out. Out: bodies. Knows nothing of the decoders.

MessagePack can write most values in several ways (1 is a fixint, a uint8 … uint64 and an int8 …
int64), and real encoders differ in which they pick, so the functions named `…_forms` return all
of them, the shortest first.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest.columns import MAX_EXACT_INT, ColumnType

NIL, FALSE, TRUE = b"\xc0", b"\xc2", b"\xc3"

#: Where the width, the sign or the column type of an integer changes.
INT_BOUNDARIES = (
    *(0, 1, 31, 32, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1),
    *(-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1),
    *(-(2**53) + 1, -(2**53), -(2**53) - 1, -(2**63) + 1, -(2**63)),
)
#: A double of each sort.
FLOAT_BOUNDARIES = (
    *(0.0, -0.0, 1.5, -1.5, 0.1, 1e-300, 5e-324, 2.0**53, 3.4e38, 1.7976931348623157e308),
    *(float("nan"), float("inf"), float("-inf")),
)
#: Where the header of a string changes, and where the kernels change their way of copying.
LENGTH_BOUNDARIES = (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 300)

#: Strings that are not UTF-8: a stray byte, overlong, a surrogate, too large, cut off, headless.
NOT_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82", b"\x80")

# ------------------------------------------------------------------------------- spelling values


@dataclass(frozen=True)
class Encoded:
    """Bytes that stand in a body as they are, where a Python value is expected."""

    data: bytes


def int_forms(value: int) -> list[bytes]:
    """Every encoding of an integer of -2**63 to 2**64 - 1."""
    fix = [struct.pack("b", value)] if -32 <= value <= 127 else []
    widths = [(0xCC + i, letter, 0) for i, letter in enumerate("BHIQ")]
    widths += [(0xD0 + i, letter, 1) for i, letter in enumerate("bhiq")]
    sized = []
    for code, letter, sign_bits in widths:
        bits = 8 * struct.calcsize(f">{letter}") - sign_bits
        if -(1 << bits) * sign_bits <= value < 1 << bits:
            sized.append(struct.pack(f">B{letter}", code, value))
    return sorted(fix + sized, key=len)


def float_forms(value: float) -> list[bytes]:
    """A float as float32 where that holds it, and as float64."""
    double = struct.pack(">Bd", 0xCB, value)
    try:
        single = struct.pack(">Bf", 0xCA, value)
    except OverflowError:
        return [double]
    same = value != value or struct.unpack(">f", single[1:])[0] == value
    return [single, double] if same else [double]


def str_forms(text: str | bytes) -> list[bytes]:
    """Every encoding of a string, which may be bytes that are not UTF-8."""
    data = text.encode() if isinstance(text, str) else text
    fix = [bytes([0xA0 | len(data)]) + data] if len(data) < 32 else []
    return fix + [head + data for head in _size_heads(0xD9, "BHI", len(data))]


def bin_forms(data: bytes) -> list[bytes]:
    """Every encoding of a byte string."""
    return [head + data for head in _size_heads(0xC4, "BHI", len(data))]


def array_forms(count: int) -> list[bytes]:
    """Every header of an array of this many items."""
    fix = [bytes([0x90 | count])] if count < 16 else []
    return fix + _size_heads(0xDC, "HI", count)


def map_forms(count: int) -> list[bytes]:
    """Every header of a map of this many keys."""
    fix = [bytes([0x80 | count])] if count < 16 else []
    return fix + _size_heads(0xDE, "HI", count)


def timestamp_forms(seconds: int, nanoseconds: int) -> list[bytes]:
    """Every encoding of a moment as the timestamp extension: 32, 64 and 96 bits."""
    all_forms = [struct.pack(">BBbIq", 0xC7, 12, -1, nanoseconds, seconds)]
    if 0 <= seconds < 1 << 34:
        all_forms.insert(0, struct.pack(">BbQ", 0xD7, -1, nanoseconds << 34 | seconds))
    if 0 <= seconds < 1 << 32 and nanoseconds == 0:
        all_forms.insert(0, struct.pack(">BbI", 0xD6, -1, seconds))
    return all_forms


def _size_heads(first_code: int, letters: str, size: int) -> list[bytes]:
    return [
        struct.pack(f">B{letter}", code, size)
        for code, letter in enumerate(letters, first_code)
        if size < 1 << 8 * struct.calcsize(f">{letter}")
    ]


def forms(value: Any) -> list[bytes]:
    """Every encoding of None, a bool, int, float, str or bytes, or of what is `Encoded`."""
    if isinstance(value, Encoded):
        return [value.data]
    if value is None:
        return [NIL]
    if isinstance(value, bool):
        return [TRUE if value else FALSE]
    if isinstance(value, int):
        return int_forms(value)
    if isinstance(value, float):
        return float_forms(value)
    return str_forms(value) if isinstance(value, str) else bin_forms(value)


def array(values: Sequence[Any]) -> bytes:
    """An array of these values, all in their shortest form."""
    return array_forms(len(values))[0] + b"".join(forms(value)[0] for value in values)


def columnar(measurement: Any, columns: dict[Any, Any]) -> bytes:
    """One `{"m": …, "columns": {name: values}}` in the shortest forms; values may be `Encoded`."""
    body = b"\x82\xa1m" + forms(measurement)[0] + b"\xa7columns" + map_forms(len(columns))[0]
    for name, values in columns.items():
        body += forms(name)[0]
        body += values.data if isinstance(values, Encoded) else array(values)
    return body


# ------------------------------------------------------------------------------- bodies by seed


@dataclass
class Rows:
    """What one map of a body says.

    Attributes:
        measurement: A string; an integer is allowed, anything else a fault.
        columns: Names and values; a list, so that a name can occur twice.
        tags: Names of tag columns; None leaves the key out.
        extras: Encoded keys and values that decoders have to ignore.
    """

    measurement: Any
    columns: list[tuple[Any, Any]]
    tags: Any = None
    extras: Sequence[bytes] = ()


def random_rows(rng: random.Random, columns: int = 4, rows: int = 40) -> Rows:
    """Rows that every decoder has to take.

    Args:
        rng: Where all choices come from.
        columns: At most this many, at least 1, a time column not counted.
        rows: At most this many, at least 1.
    """
    count = rng.randint(1, rows)
    names = rng.sample(["v", "w", "b.c", "_d", "größe", "x" * 255, "a\n", "日"], min(columns, 8))
    found: list[tuple[Any, Any]] = [
        (name, random_values(rng, rng.choice(list(ColumnType)), count))
        for name in names[: rng.randint(1, columns)]
    ]
    if rng.random() < 0.8:
        found.insert(rng.randint(0, len(found)), ("time", random_times(rng, count)))
    measurement = rng.choice(["cpu", "disk/io", "größe", "m" * 128, "é" * 64])
    tags = rng.choice([None, None, [], ["v"], ["v", "no such column"], [names[0], "größe"]])
    return Rows(measurement, found, tags)


def random_values(rng: random.Random, type_: ColumnType, count: int) -> list[Any]:
    """Values of one column of a type: a few different ones in runs or shuffled, some null."""
    pool = [_random_value(rng, type_) for _ in range(rng.randint(1, 5))]
    if type_ is ColumnType.FLOAT64 and all(isinstance(value, int) for value in pool):
        pool.append(0.5)
    if type_ is ColumnType.UINT64:
        pool = [abs(value) for value in pool] + [2**64 - 1]
    if type_ is ColumnType.UTF8 and rng.random() < 0.2:
        pool.append(float("nan"))
    if rng.random() < 0.3:
        pool.append(None)
    values = [*pool[: max(1, count)], *rng.choices(pool, k=max(0, count - len(pool)))][:count]
    if type_ is ColumnType.UINT64 and 2**64 - 1 not in values:
        values[0] = 2**64 - 1
    if rng.random() < 0.5:
        rng.shuffle(values)
    else:
        values.sort(key=repr)
    return [None] * count if rng.random() < 0.05 else values


def _random_value(rng: random.Random, type_: ColumnType) -> Any:
    if type_ is ColumnType.BOOL:
        return rng.random() < 0.5
    if type_ is ColumnType.BINARY:
        return rng.randbytes(rng.choice(LENGTH_BOUNDARIES))
    if type_ is ColumnType.UTF8:
        return _random_text(rng)
    if type_ is ColumnType.FLOAT64:
        if rng.random() < 0.3:
            return max(-MAX_EXACT_INT, min(MAX_EXACT_INT, _random_int(rng)))
        random_bits: float = struct.unpack(">d", rng.randbytes(8))[0]
        return rng.choice((*FLOAT_BOUNDARIES, random_bits, float(np.float32(rng.random()))))
    return _random_int(rng)


def _random_int(rng: random.Random) -> int:
    """An int64, as often narrow as wide."""
    boundary = rng.choice([value for value in INT_BOUNDARIES if value < 2**63])
    return rng.choice((boundary, rng.getrandbits(rng.randint(1, 63)), -rng.getrandbits(20)))


def _random_text(rng: random.Random) -> str:
    letter = rng.choice("aaa\0é日🎉")
    if rng.random() < 0.5:
        return letter * rng.choice(LENGTH_BOUNDARIES)
    return "".join(rng.choices("ab" + letter, k=rng.randint(0, 12)))


def random_times(rng: random.Random, count: int) -> list[Any]:
    """A time column of one unit: integers, floats or both, some clocks not set."""
    per_second = rng.choice((1, 10**3, 10**6, 10**9))
    times: list[Any] = []
    for _ in range(count):
        time = rng.randint(1_600_000_000, 1_900_000_000) * per_second + rng.randrange(per_second)
        times.append(rng.randint(-(10**8) + 1, 10**8 - 1) if rng.random() < 0.05 else time)
    if rng.random() < 0.2:
        return [float(time) + rng.choice((0.0, 0.25)) for time in times]
    if rng.random() < 0.1:
        return [Encoded(rng.choice(timestamp_forms(t // per_second, t % 10**9))) for t in times]
    if rng.random() < 0.2 and per_second < 10**9:
        return [rng.choice((time, float(time))) for time in times]
    return times


def spell_map(rng: random.Random, rows: Rows) -> bytes:
    """One map of a body, its keys in any order and all in any form."""
    columns = rng.choice(map_forms(len(rows.columns)))
    for name, values in rows.columns:
        columns += rng.choice(forms(name)) + spell_array(rng, values)
    keys = [rng.choice(str_forms("columns")) + columns]
    if rows.measurement is not None:
        keys.append(rng.choice(str_forms("m")) + rng.choice(forms(rows.measurement)))
    if rows.tags is not None:
        keys.append(rng.choice(str_forms("tags")) + spell_array(rng, rows.tags))
    keys += rows.extras
    rng.shuffle(keys)
    return rng.choice(map_forms(len(keys))) + b"".join(keys)


def spell_array(rng: random.Random, values: Any) -> bytes:
    """An array of values: all in their shortest form, all in their longest, or each in any."""
    if isinstance(values, Encoded):
        return values.data
    pick: Callable[[list[bytes]], bytes] = rng.choice(
        (lambda found: found[0], lambda found: found[-1], rng.choice)
    )
    spelled = {id(value): forms(value) for value in values}  # few are different
    cells = b"".join(pick(spelled[id(value)]) for value in values)
    return rng.choice(array_forms(len(values))) + cells


def spell_body(rng: random.Random, maps: Sequence[Rows]) -> bytes:
    """A body of these maps, in any of the shapes that the protocol has."""
    parts = [spell_map(rng, rows) for rows in maps]
    shape = rng.choice(("concatenated", "array", "arrays", "batch", "array", "batch and more"))
    if shape == "concatenated":
        return b"".join(parts)
    if shape == "arrays":
        return b"".join(rng.choice(array_forms(1)) + part for part in parts)
    items = rng.choice(array_forms(len(parts))) + b"".join(parts)
    if shape == "array":
        return items
    if shape == "batch":
        return b"\x81" + b"\xa5batch" + items
    keys = [rng.choice(str_forms("batch")) + items, b"\xa7columns\x01", b"\xa1m\xa1x"]
    rng.shuffle(keys)
    return rng.choice(map_forms(len(keys))) + b"".join(keys)


# -------------------------------------------------------------------------------- faulty bodies

#: Unknown keys and their values: fine, fine, fine, not decodable four times, twice a known key.
_EXTRAS = (
    *(b"\xa1x\x01", b"\xa1x\x81\xa1y\x93\x01\xc0\xa1z", b"\x05\x05"),
    *(b"\xa1x\xa1\xff", b"\x80\x01", b"\xa1x\xc1", b"\xa1x\xdd\xff\xff\xff\xff"),
    *(b"\xa1m\xa1y", b"\xa4tags\x90"),
)
_ODD_CELLS = (
    *(b"\x90", b"\x91\x01", b"\x80", b"\xd4\x05\x00", b"\xc7\x00\x05", b"\xd6\xff\0\0\0\5"),
    *(b"\xc1", b"\xd9", b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\xdc\xff\xff"),
)
_ODD_TIMES = (
    *(None, "now", True, b"1", float("nan"), float("inf"), 2**63, -(2**63), 10**17, 1e300),
    *(9_999_999_999, 10**10, 10**13, 10**16, -(10**18), 9_246_182_400),
)


def _odd_cell(rng: random.Random, rows: Rows) -> None:
    name, values = rng.choice(rows.columns)
    if isinstance(values, list) and values:
        odd: list[Any] = [Encoded(cell) for cell in _ODD_CELLS]
        odd += [Encoded(str_forms(text)[-1]) for text in NOT_UTF8]
        odd += [1, -1, 2**63, 2**53 + 1, 1.5, "a", b"a", True, float("nan")]
        odd = list(_ODD_TIMES) if name == "time" and rng.random() < 0.7 else odd
        values[rng.randrange(len(values))] = rng.choice(odd)


def _odd_column(rng: random.Random, rows: Rows) -> None:
    at = rng.randrange(len(rows.columns))
    name, values = rows.columns[at]
    odd = [
        Encoded(NIL),
        Encoded(b"\x81\x01\x02"),
        Encoded(b"\x90"),
        Encoded(b"\xdd\xff\xff\xff\xff"),
    ]
    shorter = values[:-1] if isinstance(values, list) else values
    rows.columns[at] = name, rng.choice((*odd, shorter, shorter))


def _odd_name(rng: random.Random, rows: Rows) -> None:
    at = rng.randrange(len(rows.columns))
    names: list[Any] = ["", "a\0b", "x" * 256, "é" * 128, 7, None, b"v", rows.columns[0][0], "time"]
    names += [Encoded(str_forms(text)[0]) for text in NOT_UTF8]
    rows.columns[at] = rng.choice(names), rows.columns[at][1]


def _odd_columns(rng: random.Random, rows: Rows) -> None:
    rows.columns = rng.choice(([], rows.columns * 2))


def _odd_measurement(rng: random.Random, rows: Rows) -> None:
    odd: list[Any] = ["", "m" * 129, "é" * 129, 7, -7, 2**64 - 1, True, 1.5, None, b"m"]
    rows.measurement = rng.choice([*odd, Encoded(b"\xa1\xff"), Encoded(b"\x90")])


def _odd_tags(rng: random.Random, rows: Rows) -> None:
    rows.tags = rng.choice(([1], [None], Encoded(b"\x80"), Encoded(b"\x91\xa1\xff"), ["v"] * 20))


def _odd_extras(rng: random.Random, rows: Rows) -> None:
    rows.extras = [rng.choice(_EXTRAS)]


_FAULTS = (
    *(_odd_cell, _odd_cell, _odd_cell, _odd_column, _odd_name, _odd_columns),
    *(_odd_measurement, _odd_tags, _odd_extras),
)


def random_body(
    rng: random.Random, maps: int = 3, columns: int = 4, rows: int = 40, faults: int = 0
) -> bytes:
    """A body that every decoder has to take, or one that is faulty in most cases.

    Args:
        rng: Where all choices come from.
        maps: At most this many, at least 1.
        columns: At most this many a map, at least 1, a time column not counted.
        rows: At most this many, at least 1.
        faults: How many things to spoil; some of them turn out to be harmless.
    """
    found = [random_rows(rng, columns, rows) for _ in range(rng.randint(1, maps))]
    for _ in range(faults):
        spoil = rng.choice(_FAULTS)
        with_columns = [each for each in found if each.columns]
        if with_columns:
            spoil(rng, rng.choice(with_columns))
    return spell_body(rng, found)


# ---------------------------------------------------------------------------------- row bodies

#: Of the fields of rows, each with the sort of its values in one measurement.
_FIELDS = ("usage", "count", "state", "up", "raw", "a.b", "größe", "_monotonic")
_FIELD_TYPES = (ColumnType.INT64, ColumnType.FLOAT64, ColumnType.UTF8, ColumnType.BOOL)
_TAGS = ("host", "region", "usage", "größe")


@dataclass
class RowSort:
    """What the rows of one measurement have in common.

    Attributes:
        measurement: Its name, or the integer that makes one.
        types: Of its fields, by name; each row brings some of them.
        tags: Names of its tags.
        has_host: Rows bring the key `h`, and then no tag `host`.
        per_second: Unit of the times; 0: rows bring none.
        is_compact: Fields come as an array.
    """

    measurement: Any
    types: dict[str, ColumnType]
    tags: Sequence[str]
    has_host: bool
    per_second: int
    is_compact: bool


def random_row_sort(rng: random.Random) -> RowSort:
    """What rows of a measurement may look like, so that every decoder has to take them."""
    names = rng.sample(_FIELDS, rng.randint(1, 5))
    has_host = rng.random() < 0.5
    tags = [tag for tag in rng.sample(_TAGS, rng.randint(0, 3)) if tag != "host" or not has_host]
    return RowSort(
        measurement=rng.choice(["cpu", "mem", "disk/io", "größe", 7]),
        types={name: rng.choice(_FIELD_TYPES) for name in names},
        tags=tags,
        has_host=has_host,
        per_second=rng.choice((0, 1, 10**3, 10**6, 10**9)),
        is_compact=rng.random() < 0.15,
    )


def random_row(rng: random.Random, sort: RowSort) -> list[bytes]:
    """The keys and values of one row map, spelled in any form, in any order."""
    keys = [_key(rng, "m", sort.measurement), _key(rng, "fields", _random_fields(rng, sort))]
    if sort.per_second:
        seconds = rng.randint(1_600_000_000, 1_900_000_000)
        time = seconds * sort.per_second + rng.randrange(sort.per_second)
        keys.append(_key(rng, "t", time))
    if sort.has_host:
        keys.append(_key(rng, "h", rng.choice(["a", "web-1", "größe", 12])))
    if sort.tags:
        tags = {tag: rng.choice(["a", "eu-west", "日", 5, True]) for tag in sort.tags}
        keys.append(_key(rng, "tags", spell_values(rng, tags)))
    rng.shuffle(keys)
    return keys


def _random_fields(rng: random.Random, sort: RowSort) -> Encoded:
    values = {
        name: _random_value(rng, type_)
        for name, type_ in sort.types.items()
        if rng.random() < 0.8 or sort.is_compact
    }
    if not values:
        name, type_ = next(iter(sort.types.items()))
        values = {name: _random_value(rng, type_)}
    if not sort.is_compact and rng.random() < 0.1 and len(values) > 1:
        values[rng.choice(list(values))] = None
    if sort.is_compact:
        cells = b"".join(rng.choice(forms(value)) for value in values.values())
        return Encoded(rng.choice(array_forms(len(values))) + cells)
    return spell_values(rng, values)


def spell_values(rng: random.Random, values: dict[Any, Any]) -> Encoded:
    """A map of these keys and values, each in any form."""
    cells = (rng.choice(forms(each)) for pair in values.items() for each in pair)
    return Encoded(rng.choice(map_forms(len(values))) + b"".join(cells))


def _key(rng: random.Random, name: str, value: Any) -> bytes:
    return rng.choice(str_forms(name)) + rng.choice(forms(value))


_ODD_KEYS = (
    *(b"\xa1t\xc0", b"\xa1t\xa3now", b"\xa1t\xc3", b"\xa1t\xcb\x7f\xf8\0\0\0\0\0\0"),
    *(b"\xa1t\xcb\x7f\xf0\0\0\0\0\0\0", b"\xa1t\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xa1t\x01"),
    *(b"\xa1h\x90", b"\xa1h\xc0", b"\xa1h\xa1\xff", b"\xa1m\xc0", b"\xa1m\xa0", b"\xa1m\xa1y"),
    *(b"\xa6fields\x80", b"\xa6fields\x90", b"\xa6fields\xc0", b"\xa6fields\x01"),
    *(b"\xa6fields\x81\xa0\x01", b"\xa6fields\x81\x01\x01", b"\xa6fields\x81\xa1v\x91\x01"),
    *(b"\xa6fields\x82\xa1v\x01\xa1v\x02", b"\xa6fields\x81\xa4time\x01", b"\xa6fields\xdf\xff"),
    *(b"\xa6fields\x81\xa1v\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xa6fields\x91\x81\xa1x\x01"),
    *(b"\xa4tags\x90", b"\xa4tags\xc0", b"\xa4tags\x81\xa1a\xc0", b"\xa4tags\x81\xa0\xa1a"),
    *(b"\xa4tags\x81\xa1a\x90", b"\xa4tags\x81\xa4time\xa1a", b"\xa4tags\x81\xa1\xff\xa1a"),
    *(b"\xa7columns\x81\xa1v\x91\x01", b"\xa5batch\x90", b"\xa1x\x93\x01\xc0\x80"),
)


def random_row_body(rng: random.Random, rows: int = 40, faults: int = 0) -> bytes:
    """A body of row maps, some columnar ones among them, in any shape of the protocol.

    Args:
        rng: Where all choices come from.
        rows: At most this many row maps, at least 1.
        faults: How many rows to give a key that is odd, a fault in most cases.
    """
    sorts = {sort.measurement: sort for sort in (random_row_sort(rng) for _ in range(3))}
    chosen = rng.choices(list(sorts.values()), k=rng.randint(1, rows))
    maps = [random_row(rng, sort) for sort in chosen]
    for _ in range(faults):
        keys = rng.choice(maps)
        odd = rng.choice(_ODD_KEYS)
        keys[:] = [key for key in keys if key[:2] != odd[:2] or rng.random() < 0.2]
        keys.append(odd)
    parts = [rng.choice(map_forms(len(keys))) + b"".join(keys) for keys in maps]
    if rng.random() < 0.2:
        parts.insert(rng.randint(0, len(parts)), spell_map(rng, random_rows(rng, rows=5)))
    shape = rng.choice(("concatenated", "array", "batch"))
    if shape == "concatenated":
        return b"".join(parts)
    items = rng.choice(array_forms(len(parts))) + b"".join(parts)
    return items if shape == "array" else b"\x81\xa5batch" + items
