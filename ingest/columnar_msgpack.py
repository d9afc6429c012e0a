"""Column batches to MessagePack that decodes to them again. Pure: batches in, bytes out.

What comes out is what `ingest.msgpack_decoder` takes: maps `{"m": name, "columns": {name: array},
"tags": [names]}`, one after another, times in microseconds. Nothing is rounded, cast or left
out, and nothing is read: whoever wants the batches back decodes with `TimeUnit.US`.

    decode(encode(batches), 0, limits, TimeUnit.US) == batches

Numbers are written in nine bytes each, however small, so that a column is one strided copy and a
float64 that holds integers comes back as float64. Whole bodies of requests that were stored in
part are logged so, and single rows are kept so that no table could take.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType

_NIL, _FALSE = 0xC0, 0xC2
_FLOAT64, _UINT64, _INT64 = 0xCB, 0xCF, 0xD3
_ARRAY32, _MAP32 = struct.Struct(">BI"), struct.Struct(">BI")

#: Code of a number of eight bytes, and those as they are on the wire.
_NUMBERS = {
    ColumnType.INT64: (_INT64, ">i8"),
    ColumnType.UINT64: (_UINT64, ">u8"),
    ColumnType.FLOAT64: (_FLOAT64, ">f8"),
}

#: Of strings and of binaries: codes of lengths of one, two and four bytes.
_STR_CODES, _BIN_CODES = (0xD9, 0xDA, 0xDB), (0xC4, 0xC5, 0xC6)
_FIXSTR, _FIXSTR_END = 0xA0, 32

_VALUES = msgspec.msgpack.Encoder()


def encode(batches: Sequence[ColumnBatch]) -> bytes:
    """Write batches as columnar MessagePack.

    Args:
        batches: Each with at least one row. Names hold no surrogates; a uint64 column has a value
            above 2**63 - 1, as it has wherever a decoder made it.

    Returns:
        One map a batch, in their order.
    """
    parts: list[bytes | NDArray[np.uint8]] = []
    for batch in batches:
        parts += (b"\x83\xa1m", _VALUES.encode(batch.measurement), b"\xa7columns")
        parts += (_MAP32.pack(0xDF, 1 + len(batch.columns)), _VALUES.encode(TIME_COLUMN))
        parts += _array(Column(ColumnType.INT64, batch.time_us), batch.num_rows)
        for name, column in batch.columns.items():
            parts.append(_VALUES.encode(name))
            parts += _array(column, batch.num_rows)
        parts += (b"\xa4tags", _VALUES.encode(sorted(batch.tags)))
    return b"".join(parts)


def _array(column: Column, rows: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Header and values of one column."""
    head = _ARRAY32.pack(0xDD, rows)
    if column.offsets is not None:
        return head, _blobs(column, column.offsets)
    if column.type is ColumnType.BOOL:
        codes = column.values.astype(np.uint8) + np.uint8(_FALSE)
        if column.validity is not None:
            codes[~column.validity] = _NIL
        return head, codes
    return head, _numbers(column, rows)


def _numbers(column: Column, rows: int) -> NDArray[np.uint8]:
    """Values of eight bytes: a code and the value, or nil alone."""
    # Once a column of a request that is stored in part: 4.9 -> 1.6 ms of processor time for
    # 100 000 times and floats, against lists of Python numbers and msgspec
    # (benchmarks/bench_quarantine.py -k encode).
    # Twin: `encode_rows`; equality: tests/test_columnar_msgpack.py.
    code, wire = _NUMBERS[column.type]
    out = np.empty(rows, dtype=np.dtype([("code", np.uint8), ("value", wire)]))
    out["code"] = code
    out["value"] = column.values
    if column.validity is None:
        return out.view(np.uint8)
    out["code"][~column.validity] = _NIL
    kept = np.ones((rows, out.itemsize), dtype=np.bool_)
    kept[~column.validity, 1:] = False
    return out.view(np.uint8).reshape(rows, -1)[kept]


def _blobs(column: Column, offsets: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Strings or binaries: a header of one to five bytes before each, or nil alone."""
    lengths = np.diff(offsets).astype(np.int64)
    is_text = column.type is ColumnType.UTF8
    codes = _STR_CODES if is_text else _BIN_CODES
    heads = np.select(
        [lengths < (_FIXSTR_END if is_text else 0), lengths < 1 << 8, lengths < 1 << 16],
        [1, 2, 3],
        5,
    )
    if column.validity is not None:
        heads[~column.validity] = 1
    starts = np.cumsum(heads + lengths) - heads - lengths
    out = np.empty(int((heads + lengths).sum()), dtype=np.uint8)
    is_value = np.ones(len(out), dtype=np.bool_)
    for size in (1, 2, 3, 5):
        chosen = heads == size
        at = starts[chosen]
        # The length stands in the last bytes of the header, the highest first.
        for place in range(1, size):
            out[at + place] = lengths[chosen] >> 8 * (size - 1 - place) & 0xFF
            is_value[at + place] = False
        is_value[at] = False
        out[at] = _FIXSTR + lengths[chosen] if size == 1 else codes[(size - 1) // 2]
    if column.validity is not None:
        out[starts[~column.validity]] = _NIL
    out[is_value] = column.values[: offsets[-1]]
    return out


def encode_rows(batch: ColumnBatch) -> list[bytes]:
    """Write each row of a batch as a columnar map of its own, without the columns it has not.

    Args:
        batch: At least one row. Surrogates in names are written as "?".

    Returns:
        One map a row. Its types are those of the values alone, so an integer of a uint64 column
        that int64 can hold comes back as int64.
    """
    rows: list[dict[str, list[Any]]] = [{TIME_COLUMN: [time]} for time in batch.time_us.tolist()]
    for name, column in batch.columns.items():
        key, values = _clean(name), _python_values(column)
        if column.validity is None:
            for row, value in zip(rows, values, strict=True):
                row[key] = [value]
            continue
        for at in np.flatnonzero(column.validity).tolist():
            rows[at][key] = [values[at]]
    tags = sorted(_clean(tag) for tag in batch.tags)
    measurement = _clean(batch.measurement)
    return [
        _VALUES.encode(
            {"m": measurement, "columns": row, "tags": [tag for tag in tags if tag in row]}
        )
        for row in rows
    ]


def encoded_rows_bytes(batch: ColumnBatch) -> int:
    """About how many bytes `encode_rows` makes, told without making them; never much less."""
    size = batch.num_rows * (40 + len(batch.measurement.encode(errors="replace")))
    for name, column in batch.columns.items():
        present = batch.num_rows if column.validity is None else int(column.validity.sum())
        names = 2 if name in batch.tags else 1
        size += present * (10 + names * (3 + len(name.encode(errors="replace"))))
        size += 0 if column.offsets is None else int(column.offsets[-1])
    return size


def _clean(name: str) -> str:
    return name.encode(errors="replace").decode()


def _python_values(column: Column) -> list[Any]:
    """The values of a column as Python has them; anything where one is null."""
    if column.offsets is None:
        values: list[Any] = column.values.tolist()
        return values
    raw, ends = column.values.tobytes(), column.offsets.tolist()
    blobs = [raw[start:end] for start, end in itertools.pairwise(ends)]
    return [blob.decode() for blob in blobs] if column.type is ColumnType.UTF8 else list(blobs)
