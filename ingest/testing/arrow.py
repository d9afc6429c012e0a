"""Arrow IPC streams, good ones and ones that a door for rows has no use for.

In: a seed. Out: bodies. Knows nothing of the decoder.

Format: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa

_NAMES = ("v", "w", "b.c", "_d", "größe", "日", "x" * 200)
_COMPRESSIONS = (None, None, "lz4", "zstd")

Maker = Callable[[random.Random, int], pa.Array]


def _times(rng: random.Random, rows: int) -> pa.Array:
    unit, per_second = rng.choice((("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)))
    times = [
        rng.randint(1_600_000_000, 1_900_000_000) * per_second + rng.randrange(per_second)
        for _ in range(rows)
    ]
    plain = pa.array(times, pa.int64())
    return (
        plain if rng.random() < 0.4 else plain.cast(pa.timestamp(unit, rng.choice((None, "UTC"))))
    )


def _some(rng: random.Random, rows: int, values: tuple[Any, ...], type_: pa.DataType) -> pa.Array:
    pool = (*values, None) if rng.random() < 0.4 else values
    return pa.array(rng.choices(pool, k=rows), type_)


def _numbers(rng: random.Random, rows: int) -> pa.Array:
    type_ = rng.choice((pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32()))
    return _some(rng, rows, (0, 1, 7, 100, 127), type_)


def _wide(rng: random.Random, rows: int) -> pa.Array:
    return _some(rng, rows, (2**53 + 1, -(2**63), 2**63 - 1), pa.int64())


def _floats(rng: random.Random, rows: int) -> pa.Array:
    type_ = rng.choice((pa.float32(), pa.float64()))
    return _some(rng, rows, (0.0, -0.0, 1.5, 1e30, float("nan"), float("inf")), type_)


def _texts(rng: random.Random, rows: int) -> pa.Array:
    type_ = rng.choice((pa.utf8(), pa.large_utf8()))
    texts = _some(rng, rows, ("", "a", "größe", "日本 🎉", "x" * 300), type_)
    return texts.dictionary_encode() if rng.random() < 0.3 else texts


def _bytes(rng: random.Random, rows: int) -> pa.Array:
    return _some(
        rng, rows, (b"", b"\xff\0", b"x" * 40), rng.choice((pa.binary(), pa.large_binary()))
    )


def _bools(rng: random.Random, rows: int) -> pa.Array:
    return _some(rng, rows, (True, False), pa.bool_())


_PLAIN: tuple[Maker, ...] = (_numbers, _wide, _floats, _texts, _bytes, _bools)


def _odd(rng: random.Random, rows: int) -> pa.Array:
    """A column of a type that is not among those stored, or of nulls only."""
    types: tuple[tuple[tuple[Any, ...], pa.DataType], ...] = (
        (([1], []), pa.list_(pa.int64())),
        (({"a": 1},), pa.struct([("a", pa.int64())])),
        (((("k", 1),),), pa.map_(pa.utf8(), pa.int64())),
        ((1, 2), pa.decimal128(10, 2)),
        ((1, 2), pa.date32()),
        ((1, 2), pa.duration("ns")),
        ((1, 2), pa.time64("us")),
        ((2**64 - 1, 1), pa.uint64()),
        ((b"abcd",), pa.binary(4)),
        (("a", "a long string that is not inlined"), pa.string_view()),
        ((1.5,), pa.float16()),
        ((), pa.null()),
    )
    values, type_ = rng.choice(types)
    return _some(rng, rows, (*values, None), type_)


def random_table(rng: random.Random, columns: int = 4, rows: int = 40, faults: int = 0) -> pa.Table:
    """A table. Each fault adds a column of a type that nothing stores, or with an odd name."""
    count = rng.randint(1, rows)
    names = rng.sample(_NAMES, rng.randint(1, min(columns, len(_NAMES))))
    arrays: list[tuple[str, Any]] = [(name, rng.choice(_PLAIN)(rng, count)) for name in names]
    if rng.random() < 0.8:
        arrays.insert(rng.randint(0, len(arrays)), ("time", _times(rng, count)))
    for _ in range(faults):
        name = rng.choice(("odd", "", "time", names[0], "y" * 256, "V"))
        arrays.append((name, _odd(rng, count)))
    fields = [pa.field(name, array.type) for name, array in arrays]
    return pa.Table.from_arrays([array for _, array in arrays], schema=pa.schema(fields))


def stream(table: pa.Table, max_chunksize: int | None = None, **options: Any) -> bytes:
    """An IPC stream of a table.

    Args:
        table: With any columns.
        max_chunksize: Rows of a record batch; None: as many as lie together.
        options: Of `pyarrow.ipc.IpcWriteOptions`.
    """
    sink = pa.BufferOutputStream()
    written = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=written) as writer:
        writer.write_table(table, max_chunksize=max_chunksize)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def random_stream(rng: random.Random, columns: int = 4, rows: int = 40, faults: int = 0) -> bytes:
    """An IPC stream of such a table, in one or more record batches, compressed or not."""
    table = random_table(rng, columns, rows, faults)
    compression, deltas = rng.choice(_COMPRESSIONS), rng.random() < 0.5
    if rng.random() < 0.2:
        table = table.slice(rng.randrange(table.num_rows))
    size = rng.choice((None, 1, 7))
    return stream(table, size, compression=compression, emit_dictionary_deltas=deltas)
