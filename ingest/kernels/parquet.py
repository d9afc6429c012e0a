"""Values into the encodings of Parquet: dictionary codes, packed codes, packed differences, text.

In: columns of a table, null-free or with their nulls taken out. Out: bytes of data pages as
https://parquet.apache.org/docs/file-format/data-pages/encodings/ has them, written into arrays
that the caller made large enough: the bounds stand at each kernel. Nothing here knows pages,
headers or files, and nothing is allocated, so the kernels are compiled without Numba's reference
counts (`_nrt`).

Indices are made here from `range(rows)` or come from the bounds that the docstrings name, and
are not checked when compiled; the tests also run the same code interpreted, where NumPy checks.

Twins: `pyarrow.Array.dictionary_encode`, and pyarrow's writer of Parquet as a whole.
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import F

#: Room that a packing kernel wants after the last byte of its answer: it stores eight at a time.
SLACK_BYTES = 16

#: Second looks in the table of values, on average over the rows, at which `number_values` gives
#: up: values of any kind need 0.1.
MAX_LOOKS_PER_ROW = 8

#: Answer of `number_values`: no dictionary is worth it.
GAVE_UP = -1

#: Values that are looked at together for being one value, and packed together: as many words of
#: 64 bits as a value has bits.
BLOCK_ROWS = 64

#: Groups of eight values in one packed run, at most: its header stays one byte, which is written
#: before the values are known. Seven blocks.
_MAX_RUN_GROUPS = 56

#: Values of a block and of a miniblock of DELTA_BINARY_PACKED, as other writers of int64 have it.
DELTA_BLOCK_ROWS, DELTA_MINIBLOCK_ROWS = 256, 64

#: 1.5 * 2**52: from 2**52 to 2**53 the doubles are the integers.
_ROUNDING = 6755399441055744.0

U = np.uint64
_NEGATIVE_ZERO = U(1 << 63)
_MIX = U(0x9E3779B97F4A7C15)  # from the golden ratio: odd, its bits well mixed
_ZERO, _ONE = U(0), U(1)

_njit: Any = numba.njit  # whose types leave `_nrt` and the wrappers out
_INNER = {"nogil": True, "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _kernel(function: F) -> F:
    """Compile a function that Python calls. It must not allocate."""
    return cast(F, _njit(function, cache=True, nogil=True, _nrt=False))


def _pasted(function: F) -> F:
    """Compile a part that LLVM always puts where it is called."""
    return cast(F, _njit(function, forceinline=True, **_INNER))


@_kernel
def number_values(
    row: int,
    count: int,
    values: NDArray[np.uint64],
    table: NDArray[np.uint32],
    dictionary: NDArray[np.uint64],
    left: NDArray[np.int64],
    codes: NDArray[np.int32],
) -> tuple[int, int]:
    """Give equal values equal codes, numbered from 0 in order of appearance.

    Goes on from a row with a table that holds the values so far (`fill_table`), until the end or
    until the table is an eighth full or the dictionary whole.

    Args:
        row: The first without a code.
        count: How many distinct values there are so far.
        values: uint64, shape (rows,): the bits of int64 or float64. So 0.0 and -0.0 are two
            values, and every NaN keeps its payload.
        table: uint32, a power of two of slots, at least 16: one more than the code, 0 where none.
        dictionary: uint64: the distinct values; entries from `count` on are written.
        left: int64, shape (1,): second looks that there may yet be.
        codes: int32, shape (rows,): the answer.

    Returns:
        (first row without a code, count of distinct values or `GAVE_UP`).
    """
    # HOT, once per column of repeating numbers and row group: of 10 001 distinct doubles 8.1 ns a
    # value in pyarrow's writer, packing included -> 2.0 (benchmarks/bench_parquet.py -k column).
    mask = U(table.size - 1)
    shift = U(64) - _bits(mask)
    room = min(table.size // 8, dictionary.size)
    for i in range(row, values.size):
        value = values[i]
        slot = ((value ^ (value >> U(32))) * _MIX) >> shift
        entry = U(table[slot])
        while entry != _ZERO and dictionary[entry - _ONE] != value:
            slot = (slot + _ONE) & mask
            entry = U(table[slot])
            left[0] -= 1
            if left[0] < 0:
                return i, GAVE_UP
        if entry == _ZERO:
            if count == room:
                return i, count
            dictionary[count] = value
            count += 1
            entry = U(count)
            table[slot] = np.uint32(count)
        codes[i] = np.int32(entry - _ONE)
    return values.size, count


@_kernel
def fill_table(dictionary: NDArray[np.uint64], count: int, table: NDArray[np.uint32]) -> None:
    """Enter distinct values into a larger table.

    Args:
        dictionary: uint64, at least `count` distinct values.
        count: How many of them, at most half of the slots.
        table: uint32, a power of two of slots, all 0.
    """
    mask = U(table.size - 1)
    shift = U(64) - _bits(mask)
    for code in range(count):
        value = dictionary[code]
        slot = ((value ^ (value >> U(32))) * _MIX) >> shift
        while table[slot] != 0:
            slot = (slot + _ONE) & mask
        table[slot] = np.uint32(code + 1)


@_kernel
def count_misfits(values: NDArray[np.float64], words: NDArray[np.uint64], scale: float) -> int:
    """How many doubles are not an integer divided by a scale, bit by bit.

    A sum with `_ROUNDING` is an integer, so that taking it away again rounds: both in vector
    instructions, 0.1 ns a value.

    Args:
        values: float64, shape (rows,), times the scale at most 2**51 on either side of 0.
        words: uint64: the same memory.
        scale: 1.0, 10.0, 100.0 and so on.
    """
    misfits = 0
    for i in range(values.size):
        value = values[i]
        misfits += ((value * scale + _ROUNDING) - _ROUNDING) / scale != value
        misfits += words[U(i)] == _NEGATIVE_ZERO  # equal to 0.0, and another value
    return misfits


@_kernel
def mark_decimals(
    values: NDArray[np.float64], scale: float, smallest: int, marks: NDArray[np.uint8]
) -> None:
    """`mark` of the doubles times the scale, none of which is a misfit."""
    for i in range(values.size):
        number = np.int64((values[i] * scale + _ROUNDING) - _ROUNDING)
        marks[U(number - smallest)] = 1


@_kernel
def look_up_decimals(
    values: NDArray[np.float64],
    scale: float,
    smallest: int,
    numbers: NDArray[np.int32],
    codes: NDArray[np.int32],
) -> None:
    """`look_up` of the doubles times the scale, none of which is a misfit."""
    for i in range(values.size):
        number = np.int64((values[i] * scale + _ROUNDING) - _ROUNDING)
        codes[i] = numbers[U(number - smallest)]


@_kernel
def mark(integers: NDArray[np.int64], smallest: int, marks: NDArray[np.uint8]) -> None:
    """Mark the integers that occur.

    Args:
        integers: int64, shape (rows,), from `smallest` to below `smallest + marks.size`.
        smallest: What the first mark stands for.
        marks: uint8: 1 for those that occur, otherwise unchanged.
    """
    for i in range(integers.size):
        marks[U(integers[i] - smallest)] = 1


@_kernel
def look_up(
    integers: NDArray[np.int64],
    smallest: int,
    numbers: NDArray[np.int32],
    codes: NDArray[np.int32],
) -> None:
    """`codes[i] = numbers[integers[i] - smallest]`, with the bounds of `mark`."""
    for i in range(integers.size):
        codes[i] = numbers[U(integers[i] - smallest)]


@_pasted
def _bits(value: int) -> int:
    """Bits of an unsigned number: 0 for 0."""
    bits = _ZERO
    for step in (U(32), U(16), U(8), U(4), U(2), _ONE):
        if value >> step != _ZERO:
            value >>= step
            bits += step
    return bits + value


@_pasted
def _store8(out: NDArray[np.uint8], at: int, value: int) -> None:
    """Eight bytes, lowest first: written out, LLVM makes one store of it."""
    p = U(at)
    out[p] = np.uint8(value & U(255))
    out[p + U(1)] = np.uint8((value >> U(8)) & U(255))
    out[p + U(2)] = np.uint8((value >> U(16)) & U(255))
    out[p + U(3)] = np.uint8((value >> U(24)) & U(255))
    out[p + U(4)] = np.uint8((value >> U(32)) & U(255))
    out[p + U(5)] = np.uint8((value >> U(40)) & U(255))
    out[p + U(6)] = np.uint8((value >> U(48)) & U(255))
    out[p + U(7)] = np.uint8(value >> U(56))


@_pasted
def _store_varint(out: NDArray[np.uint8], at: int, value: int) -> int:
    """Seven bits a byte, lowest first; returns the place after it."""
    p = U(at)
    while value >= U(128):
        out[p] = np.uint8((value & U(127)) | U(128))
        value >>= U(7)
        p += _ONE
    out[p] = np.uint8(value)
    return p + _ONE


@_pasted
def _zigzag(value: int) -> int:
    return U((value << 1) ^ (value >> 63))


@_pasted
def _four(codes: NDArray[np.int32], at: int, width: int) -> int:
    """Four codes of at most 16 bits side by side."""
    return (
        U(codes[at])
        | (U(codes[at + U(1)]) << width)
        | (U(codes[at + U(2)]) << (width + width))
        | (U(codes[at + U(3)]) << (width + width + width))
    )


@_pasted
def _store_narrow_block(
    codes: NDArray[np.int32], start: int, width: int, out: NDArray[np.uint8], at: int
) -> int:
    """Pack `BLOCK_ROWS` codes of at most 16 bits; returns the place after them."""
    twice, back = width + width, U(64) - U(4) * width
    for _ in range(BLOCK_ROWS // 8):
        low, high = _four(codes, start, width), _four(codes, start + U(4), width)
        _store8(out, at, low | ((high << twice) << twice))  # no shift may be 64
        _store8(out, at + U(8), high >> back)
        start += U(8)
        at += width
    return at


@_pasted
def _store_codes(
    codes: NDArray[np.int32], start: int, end: int, width: int, out: NDArray[np.uint8], at: int
) -> int:
    """Pack any number of codes of any width, zeros up to the next multiple of eight."""
    word, used = _ZERO, _ZERO
    for i in range(start, start + (end - start + 7) // 8 * 8):
        value = U(codes[U(i)]) if i < end else _ZERO
        word |= value << used
        used += width
        if used >= U(64):
            _store8(out, at, word)
            at += U(8)
            used -= U(64)
            word = (value >> (width - used - _ONE)) >> _ONE
    if used > _ZERO:
        _store8(out, at, word)
    return at + used // U(8)


@_pasted
def _store_run(out: NDArray[np.uint8], at: int, rows: int, value: int, width: int) -> int:
    """One value many times over; returns the place after it."""
    at = _store_varint(out, at, U(rows) << _ONE)
    _store8(out, at, value)
    return at + (width + U(7)) // U(8)


@_kernel
def pack_codes(
    codes: NDArray[np.int32], width_bits: int, out: NDArray[np.uint8], place: int
) -> int:
    """Codes in the hybrid of run lengths and packed bits (RLE).

    Whole blocks of one value become runs, all others are packed.

    Args:
        codes: int32, shape (rows,), at least one, from 0 to below `2 ** width_bits`.
        width_bits: 1 to 32.
        out: uint8: the answer, from `place` on: at most `packed_bytes(rows, width_bits)`.
        place: Where to begin.

    Returns:
        The place after the last byte.
    """
    # HOT, once per page and dictionary column, 0.3 ns a value up to 16 bits.
    width, at = U(width_bits), U(place)
    run_rows, run_value = 0, _ZERO  # a run that may go on
    header, groups = _ZERO, 0  # of the packed run that may go on; no groups: there is none
    start = 0
    while start < codes.size:
        end = min(start + BLOCK_ROWS, codes.size)
        first, i = codes[U(start)], start + 1
        while i < end and codes[U(i)] == first:
            i += 1
        if i == end:
            if run_rows > 0 and U(first) != run_value:
                at = _store_run(out, at, run_rows, run_value, width)
                run_rows = 0
            run_value, groups = U(first), 0
            run_rows += end - start
        else:
            if run_rows > 0:
                at = _store_run(out, at, run_rows, run_value, width)
                run_rows = 0
            if groups == 0 or groups == _MAX_RUN_GROUPS:
                header, groups, at = at, 0, at + _ONE
            groups += (end - start + 7) // 8
            out[header] = np.uint8((groups << 1) | 1)
            if end - start == BLOCK_ROWS and width <= U(16):
                at = _store_narrow_block(codes, U(start), width, out, at)
            else:
                at = _store_codes(codes, start, end, width, out, at)
        start = end
    if run_rows > 0:
        at = _store_run(out, at, run_rows, run_value, width)
    return int(at)


def packed_bytes(rows: int, width_bits: int) -> int:
    """Bytes that `pack_codes` may write, `SLACK_BYTES` included."""
    blocks = -(-rows // BLOCK_ROWS)
    # A run of a block is a varint and a value; a packed block at worst has a header of its own.
    return blocks * max(5 + 4, 1 + BLOCK_ROWS * width_bits // 8) + SLACK_BYTES


@_kernel
def pack_differences(
    values: NDArray[np.int64], scratch: NDArray[np.uint64], out: NDArray[np.uint8]
) -> int:
    """Integers as DELTA_BINARY_PACKED: header, then blocks of differences.

    Args:
        values: int64, shape (rows,), at least one. Differences wrap around, as the format says.
        scratch: uint64, shape (`DELTA_BLOCK_ROWS`,).
        out: uint8, at least `differences_bytes(rows)`: the answer.

    Returns:
        How many bytes of it.
    """
    # HOT, once per page of times: 3.5 ns a value in pyarrow's writer -> 0.5 at a fixed step.
    at = _store_varint(out, _ZERO, U(DELTA_BLOCK_ROWS))
    at = _store_varint(out, at, U(DELTA_BLOCK_ROWS // DELTA_MINIBLOCK_ROWS))
    at = _store_varint(out, at, U(values.size))
    at = _store_varint(out, at, _zigzag(values[0]))
    start = 1
    while start < values.size:
        rows = min(DELTA_BLOCK_ROWS, values.size - start)
        smallest = values[U(start)] - values[U(start - 1)]
        for i in range(1, rows):
            smallest = min(smallest, values[U(start + i)] - values[U(start + i - 1)])
        for i in range(rows):
            step = values[U(start + i)] - values[U(start + i - 1)]
            scratch[U(i)] = U(step) - U(smallest)
        for i in range(rows, DELTA_BLOCK_ROWS):
            scratch[U(i)] = _ZERO
        at = _store_varint(out, at, _zigzag(smallest))
        at = _store_miniblocks(scratch, rows, out, at)
        start += rows
    return int(at)


@_pasted
def _store_miniblocks(steps: NDArray[np.uint64], rows: int, out: NDArray[np.uint8], at: int) -> int:
    """The widths of all miniblocks, then those that have a value; returns the place after them."""
    widths = at
    at += U(DELTA_BLOCK_ROWS // DELTA_MINIBLOCK_ROWS)
    for block in range(DELTA_BLOCK_ROWS // DELTA_MINIBLOCK_ROWS):
        start = U(block * DELTA_MINIBLOCK_ROWS)
        every = _ZERO
        for i in range(DELTA_MINIBLOCK_ROWS):
            every |= steps[start + U(i)]
        width = _bits(every)
        out[widths + U(block)] = np.uint8(width)
        if width > _ZERO:
            at = _store_words(steps, start, width, out, at)
    return at


@_pasted
def _store_words(
    steps: NDArray[np.uint64], start: int, width: int, out: NDArray[np.uint8], at: int
) -> int:
    """Pack one miniblock: as many words as a value has bits."""
    word, used = _ZERO, _ZERO
    for i in range(DELTA_MINIBLOCK_ROWS):
        value = steps[start + U(i)]
        word |= value << used
        used += width
        if used >= U(64):
            _store8(out, at, word)
            at += U(8)
            used -= U(64)
            word = (value >> (width - used - _ONE)) >> _ONE
    return at


def differences_bytes(rows: int) -> int:
    """Bytes that `pack_differences` may write, `SLACK_BYTES` included."""
    blocks = -(-rows // DELTA_BLOCK_ROWS)
    return 32 + blocks * (10 + 4 + 8 * DELTA_BLOCK_ROWS) + SLACK_BYTES


@_kernel
def lay_out_text(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    valid: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> int:
    """Strings or bytes as PLAIN: each with its length in front, four bytes, lowest first.

    Args:
        data: uint8: the bytes of all values.
        offsets: int32, shape (rows + 1,): value i is `data[offsets[i]:offsets[i + 1]]`.
        valid: bool, shape (rows,) or (0,): whether a row has a value; empty: all have.
        out: uint8: the answer; `4 * rows` bytes more than the values have.

    Returns:
        How many bytes of it.
    """
    at = _ZERO
    for i in range(offsets.size - 1):
        if valid.size > 0 and not valid[U(i)]:
            continue
        start, end = U(offsets[U(i)]), U(offsets[U(i) + _ONE])
        size = end - start
        for byte in range(4):
            out[at + U(byte)] = np.uint8((size >> U(8 * byte)) & U(255))
        at += U(4)
        for place in range(start, end):
            out[at] = data[place]
            at += _ONE
    return int(at)


@_kernel
def compact(values: NDArray[Any], valid: NDArray[np.bool_], out: NDArray[Any]) -> int:
    """Take the nulls out: values of valid rows, in their order.

    Args:
        values: uint64 or int32, shape (rows,).
        valid: bool, shape (rows,).
        out: The same dtype, shape (rows + 1,): the answer.

    Returns:
        How many there are.
    """
    count = _ZERO
    for i in range(values.size):  # without a branch, which nulls here and there would mispredict
        out[count] = values[U(i)]
        count += U(valid[U(i)])
    return int(count)


def warm() -> None:
    """Compile every kernel for the array types it is used with: what is read is read-only."""
    words, codes = np.zeros(3, dtype=np.uint64), np.zeros(3, dtype=np.int32)
    valid, text, offsets = np.ones(3, np.bool_), np.zeros(3, np.uint8), np.arange(4, dtype=np.int32)
    made = np.empty(3, dtype=np.int32)
    for array in (words, codes, valid, text, offsets):
        array.setflags(write=False)
    table, dictionary = np.zeros(16, dtype=np.uint32), np.empty(2, dtype=np.uint64)
    number_values(0, 0, words, table, dictionary, np.ones(1, dtype=np.int64), made)
    fill_table(dictionary, 1, np.zeros(16, dtype=np.uint32))
    integers, doubles = words.view(np.int64), words.view(np.float64)
    count_misfits(doubles, words, 10.0)
    numbers, marks = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.uint8)
    mark_decimals(doubles, 10.0, 0, marks)
    look_up_decimals(doubles, 10.0, 0, numbers, made)
    mark(integers, 0, marks)
    look_up(integers, 0, numbers, made)
    out = np.empty(differences_bytes(3), dtype=np.uint8)
    pack_codes(codes, 1, out, 0)
    pack_differences(integers, np.empty(DELTA_BLOCK_ROWS, dtype=np.uint64), out)
    lay_out_text(text, offsets, valid, out)
    compact(words, valid, np.empty(4, dtype=np.uint64))
    compact(codes, valid, np.empty(4, dtype=np.int32))
