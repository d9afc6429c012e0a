"""The rows of a batch, for whoever is handed a refused one. Pure: bytes in, dicts out.

In: a batch of any kind, compressed or not. Out: its rows one by one, `measurement` and `time`
among their columns, the time in int nanoseconds since 1970 where its unit is known. Nothing is
decoded before it is asked for, and nothing here knows why the batch was refused.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from arc.client.batch import Batch, Kind
from arc.client.columns_wire import NS_PER, TIME
from arc.client.compress import decompress
from arc.client.errors import UsageError
from arc.client.times import to_ns

MEASUREMENT = "measurement"

_DECODER = msgspec.msgpack.Decoder()

#: Bytes of a value by its first one, where that tells it.
_SIZES = {
    **{0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9},
    **{0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18},
    **dict.fromkeys((*range(128), *range(224, 256)), 1),
    **{0xA0 | size: 1 + size for size in range(32)},
}

#: Bytes of the length that follows a code, and what more there is: bin, ext, str.
_BLOBS = {
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)},
    **{0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},
}

#: Arrays and maps of a length that follows: its bytes, and values for each counted one.
_NESTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def rows_of(batch: Batch) -> Iterator[dict[str, Any]]:
    """The rows of a batch, each a dict of its columns.

    A column that a row has no value for is None, or is not there if the batch has rows of several
    shapes. Line protocol gives `{"line": text}` for each line; row maps come as they were sent.

    Args:
        batch: As it was sent.

    Raises:
        UsageError: from the iterator, when it comes to what is not as the batch's kind says.
    """
    body = decompress(batch.body)
    unit = dict(batch.headers).get("x-arc-time-unit")
    if batch.kind is Kind.LINE_PROTOCOL:
        return _lines(body)
    if batch.kind is Kind.ARROW:
        return _arrow_rows(body, batch.target, unit)
    return _msgpack_rows(body, unit)


def _to_ns(times: Sequence[Any], unit: str | None) -> Sequence[Any]:
    """Times in nanoseconds; as they were sent where the unit is not known, or where they are none.

    A batch may have been refused for its times.
    """
    if unit is None:
        return times
    per = NS_PER[unit]
    return [time * per if type(time) is int else _float_to_ns(time, unit) for time in times]


def _float_to_ns(time: Any, unit: str) -> Any:
    try:
        return to_ns(time, unit)
    except UsageError:
        return time


# ------------------------------------------------------------------------------------ MessagePack


def _msgpack_rows(body: bytes, unit: str | None) -> Iterator[dict[str, Any]]:
    for item in _objects(body):
        measurement, columns = item.get("m"), item.get("columns")
        if columns is None:
            yield {MEASUREMENT: measurement, **item}
        elif _are_columns(columns):
            yield from _table_rows(measurement, columns, unit)
        else:
            raise UsageError(f"a map of {measurement!r}: its columns are no arrays of one length")


def _are_columns(columns: Any) -> bool:
    if not isinstance(columns, dict):
        return False
    values = columns.values()
    return all(type(each) is list for each in values) and len(set(map(len, values))) <= 1


def _table_rows(
    measurement: Any, columns: dict[str, Sequence[Any]], unit: str | None
) -> Iterator[dict[str, Any]]:
    if TIME in columns:
        columns = columns | {TIME: _to_ns(columns[TIME], unit)}
    names = (MEASUREMENT, *columns)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(names, (measurement, *values), strict=True))


def _objects(body: bytes) -> Iterator[dict[str, Any]]:
    """The maps of a body, of its arrays too, each decoded when it is asked for."""
    at = 0
    while at < len(body):
        try:
            end = _end(body, at)
            found = _DECODER.decode(memoryview(body)[at:end])
        except (IndexError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"MessagePack is damaged at or after byte {at}: {error}") from None
        for item in found if isinstance(found, list) else [found]:
            if not isinstance(item, dict):
                raise UsageError(f"at byte {at}: found {type(item).__name__}, wanted a map")
            yield item
        at = end


def _end(body: bytes, at: int) -> int:
    """Where the object that begins there ends; msgspec decodes one and wants nothing after it.

    Raises:
        IndexError: it is cut off.
    """
    left = 1
    while left:
        left -= 1
        code = body[at]
        if code in _SIZES:
            at += _SIZES[code]
        elif code in _BLOBS:
            width, more = _BLOBS[code]
            at += 1 + width + more + int.from_bytes(body[at + 1 : at + 1 + width])
        else:
            at, count = _nest(body, at)
            left += count
    if at > len(body):
        raise IndexError("cut off")
    return at


def _nest(body: bytes, at: int) -> tuple[int, int]:
    """Where the first value in an array or a map begins, and how many values are in it.

    An array of values that all begin with one byte of one size is passed over as a whole.
    """
    code = body[at]
    if code < 0xA0:
        at, count, factor = at + 1, code & 0x0F, 1 if code >= 0x90 else 2
    else:
        width, factor = _NESTS[code] if code in _NESTS else _unused(code)
        at, count = at + 1 + width, int.from_bytes(body[at + 1 : at + 1 + width])
    size = _SIZES.get(body[at], 0) if count and factor == 1 else 0
    end = at + size * count
    if size and end <= len(body) and body[at:end:size].count(body[at]) == count:
        return end, 0
    return at, count * factor


def _unused(code: int) -> tuple[int, int]:
    raise IndexError(f"byte {code:#x} begins nothing")


# ------------------------------------------------------------------------- Arrow, line protocol


def _arrow_rows(body: bytes, target: str, unit: str | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    (measurement,) = parse_qs(urlsplit(target).query)[MEASUREMENT]
    try:
        with pa.ipc.open_stream(body) as reader:
            for part in reader:
                names = part.schema.names
                columns = [_arrow_values(part.column(name), name, unit) for name in names]
                yield from _table_rows(measurement, dict(zip(names, columns, strict=True)), None)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"an Arrow stream is damaged: {error}") from None


def _arrow_values(array: Any, name: str, unit: str | None) -> Sequence[Any]:
    """The values of a column; timestamps of a field in ns as integers, as Python has no finer."""
    import pyarrow as pa

    kind = array.type
    if pa.types.is_timestamp(kind) and (name == TIME or kind.unit == "ns"):
        unit, array = kind.unit, array.cast(pa.int64())
    values: list[Any] = array.to_pylist()
    return _to_ns(values, unit) if name == TIME else values


def _lines(body: bytes) -> Iterator[dict[str, Any]]:
    from arc.client.records import encode_lines

    for line in encode_lines(body, batch_rows=1, batch_bytes=1):
        yield {"line": bytes(line.body).decode(errors="replace").removesuffix("\n")}
