"""Strings told apart: a dictionary of the distinct ones, and the code of each.

In: the bytes of a string column of many batches, one after another, with the offsets of each
batch. Out: an int32 code per value and where each distinct value first stood; or strings put
into another order. No value is ever copied to be compared.

Offsets come from a decoder of this process, which made them from lengths that it had checked,
and `table_build` compares their last with the bytes that are there, so indices are
not checked again; the tests also run the same code interpreted, where NumPy checks them all.

Twin of `encode`: `pyarrow.Array.dictionary_encode`.
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import F, kernel

#: Readable bytes that `encode` wants after the last value, since it reads eight at a time.
PADDING_BYTES = 8

#: Bytes that a distinct value takes in a dictionary beside its own: its length, as Parquet has it.
LENGTH_BYTES = 4

#: Second looks, on average over the rows, at which `encode` gives up as well. Real values need
#: 0.1; who makes values that meet in one slot must not hold a flush up for minutes.
MAX_LOOKS_PER_ROW = 8

#: Answer of `encode`: no dictionary is worth it.
GAVE_UP = -1

#: Slots of the first table, and of any table for one entry: at one entry in four slots the
#: mispredicted second look costs 1.5 ns a value, at one in sixteen 0.3.
_FIRST_SLOTS = 1 << 10
_SLOTS_PER_ENTRY = 8

# What is kept of each distinct value and not looked at for every row, in one array: the row where
# it first stood, and its hash.
_ROW, _HASH = range(2)

# What `encode` may yet spend.
_VALUES, _BYTES, _LOOKS = range(3)

# Multipliers from the golden ratio and from xxHash: odd, with bits well mixed.
_MIX_1 = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_ALL_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


def _inlined(function: F) -> F:
    """An expression of a kernel, pasted into it: a call would count references to the array."""
    return cast(F, numba.njit(function, nogil=True, inline="always"))


@_inlined
def _word(blob: NDArray[np.uint8], at: int) -> int:
    """Eight bytes from `at`: unsigned indices, so that LLVM makes one load of them."""
    return (
        np.uint64(blob[np.uint64(at)])
        | (np.uint64(blob[np.uint64(at) + np.uint64(1)]) << np.uint64(8))
        | (np.uint64(blob[np.uint64(at) + np.uint64(2)]) << np.uint64(16))
        | (np.uint64(blob[np.uint64(at) + np.uint64(3)]) << np.uint64(24))
        | (np.uint64(blob[np.uint64(at) + np.uint64(4)]) << np.uint64(32))
        | (np.uint64(blob[np.uint64(at) + np.uint64(5)]) << np.uint64(40))
        | (np.uint64(blob[np.uint64(at) + np.uint64(6)]) << np.uint64(48))
        | (np.uint64(blob[np.uint64(at) + np.uint64(7)]) << np.uint64(56))
    )


@kernel
def _mixed(hashed: int, word: int) -> int:
    """A hash with eight more bytes in it; its upper half is well mixed."""
    return ((hashed ^ (hashed >> np.uint64(32))) + word) * _MIX_2


@kernel
def join_offsets(
    offsets: NDArray[np.int32], rows: NDArray[np.int64], out: NDArray[np.int32]
) -> None:
    """Offsets of each batch, counted from its own first byte, to one sequence over all.

    Args:
        offsets: int32: `rows[b] + 1` offsets for each batch b, one batch after another.
        rows: int64, shape (batches,).
        out: int32, shape (sum of rows + 1,): the answer. The bytes of all are below 2**31.
    """
    at = done = 0
    base = np.int32(0)
    out[0] = 0
    for b in range(rows.size):
        source = offsets[at + 1 : at + 1 + rows[b]]
        target = out[done + 1 : done + 1 + rows[b]]
        for i in range(source.size):
            target[i] = source[i] + base
        at += rows[b] + 1
        done += rows[b]
        base = out[done]


@kernel
def encode(
    blob: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    max_count: int,
    max_bytes: int,
    codes: NDArray[np.int32],
) -> tuple[int, NDArray[np.uint32]]:
    """Give equal strings equal codes, numbered from 0 in order of appearance.

    Args:
        blob: uint8: the bytes of all values one after another, then `PADDING_BYTES` more.
        offsets: int32, shape (rows + 1,).
        max_count: How many distinct values there may be.
        max_bytes: Bytes that they may have in all, `LENGTH_BYTES` each included.
        codes: int32, shape (rows,): the answer. A row without a value has the code of the
            empty string, which it holds.

    Returns:
        (count of distinct values, row where each first stood), or `GAVE_UP` for the count when
        too many differ, or meet in too few slots.
    """
    # HOT, once per string column and flush. pyarrow's dictionary_encode 10 to 15 -> 3.5 to 4.3 ns
    # a value (benchmarks/bench_table_build.py -k dictionary). The loop is a kernel of its own in
    # which no array is ever assigned: with growing inside, counting references made it 64 ns.
    # Twin: dictionary_encode; equality: tests/test_sort_kernels.py.
    row, count, slots = 0, 0, _FIRST_SLOTS
    left = np.array([max_count, max_bytes, MAX_LOOKS_PER_ROW * codes.size])
    firsts = lasts = np.empty(0, dtype=np.uint64)
    sizes, kept = np.empty(0, dtype=np.int32), np.empty((0, 2), dtype=np.uint64)
    while count != GAVE_UP and row < codes.size:
        room = slots // _SLOTS_PER_ENTRY
        firsts, lasts, sizes = _grown(firsts, room), _grown(lasts, room), _grown(sizes, room)
        more = np.empty((room, 2), dtype=np.uint64)
        more[:count] = kept[:count]
        kept = more
        table = _table(kept, count, slots)
        row, count = _encode_from(
            row, count, blob, offsets, table, firsts, lasts, sizes, kept,
            left, codes,
        )  # fmt: skip
        slots *= 4
    return count, kept[: max(count, 0), _ROW].astype(np.uint32)


@kernel
def _grown(values: NDArray[Any], size: int) -> NDArray[Any]:
    out = np.empty(size, dtype=values.dtype)
    out[: values.size] = values
    return out


@kernel
def _table(kept: NDArray[np.uint64], count: int, slots: int) -> NDArray[np.int32]:
    """Slots that lead to the distinct values so far, -1 where there is none."""
    table = np.full(slots, -1, dtype=np.int32)
    mask = np.uint64(slots - 1)
    for code in range(count):
        slot = (kept[code, _HASH] >> np.uint64(32)) & mask
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = code
    return table


@kernel
def _encode_from(
    row: int,
    count: int,
    blob: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    table: NDArray[np.int32],
    firsts: NDArray[np.uint64],
    lasts: NDArray[np.uint64],
    sizes: NDArray[np.int32],
    kept: NDArray[np.uint64],
    left: NDArray[np.int64],
    codes: NDArray[np.int32],
) -> tuple[int, int]:
    """Go on with `encode` from a row, until the end or until the entries are full.

    `left` holds how many distinct values, bytes of them and second looks there may yet be.

    Returns:
        (first row not encoded, count of distinct values or `GAVE_UP`).
    """
    mask, end = np.uint64(table.size - 1), offsets[row]
    for i in range(row, codes.size):
        start, end = end, offsets[i + 1]
        size = end - start
        # Without a branch up to 16 bytes: names of 4 to 10 bytes in turn 8.0 -> 3.7 ns a value.
        unused_bits = np.uint64(4 * (8 - min(size, 8)))  # half of them, as no shift may be 64
        used = (_ALL_ONES >> unused_bits) >> unused_bits
        first = _word(blob, start) & used
        last = _word(blob, start + max(size - 8, 0)) & used
        hashed = ((first ^ np.uint64(size)) * _MIX_1) ^ (last * _MIX_2)
        at = start + 8
        while at < end - 8:
            hashed = _mixed(hashed, _word(blob, at))
            at += 8
        hashed = _mixed(hashed, np.uint64(0))
        slot = (hashed >> np.uint64(32)) & mask
        code = table[slot]
        while code >= 0:
            known = np.uint32(code)
            if firsts[known] == first and lasts[known] == last and sizes[known] == size:
                if size <= 16:
                    break
                ahead, at = offsets[kept[known, _ROW]] - start, start + 8
                while at < end - 8 and _word(blob, at) == _word(blob, at + ahead):
                    at += 8
                if at >= end - 8:
                    break
            slot = (slot + np.uint64(1)) & mask
            code = table[slot]
            left[_LOOKS] -= 1
            if left[_LOOKS] < 0:
                return i, GAVE_UP
        if code < 0:
            if count == sizes.size:
                return i, count
            left[_VALUES] -= 1
            left[_BYTES] -= size + LENGTH_BYTES
            if left[_VALUES] < 0 or left[_BYTES] < 0:
                return i, GAVE_UP
            code = count
            firsts[code], lasts[code], sizes[code] = first, last, size
            kept[code, _ROW], kept[code, _HASH] = i, hashed
            table[slot] = code
            count += 1
        codes[i] = code
    return codes.size, count


@kernel
def gather_strings(
    blob: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    order: NDArray[np.uint32],
    out_offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Strings put into another order.

    Args:
        blob: uint8: their bytes.
        offsets: int32, shape (rows + 1,), over all.
        order: uint32, shape (rows,): which value comes where.
        out_offsets: int32, shape (rows + 1,): the answer, with `out`.
        out: uint8, `offsets[-1]` bytes.
    """
    end = np.uint64(0)
    out_offsets[0] = 0
    for i in range(order.size):
        row = order[i]
        start, stop = np.uint64(offsets[row]), np.uint64(offsets[row + np.uint32(1)])
        for at in range(start, stop):
            out[end] = blob[at]
            end += np.uint64(1)
        out_offsets[i + 1] = end


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    blob = np.zeros(PADDING_BYTES + 1, dtype=np.uint8)
    offsets, joined = np.array([0, 1], dtype=np.int32), np.empty(2, dtype=np.int32)
    join_offsets(offsets, np.ones(1, dtype=np.int64), joined)
    encode(blob, joined, 1, 8, np.empty(1, dtype=np.int32))
    order = np.zeros(1, dtype=np.uint32)
    gather_strings(blob, joined, order, np.empty_like(joined), np.empty(1, dtype=np.uint8))
