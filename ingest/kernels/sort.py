"""The order of rows by time, and columns put into that order.

In: the times of many batches one after another, int64. Out: whether they are sorted, the order
that sorts them, and columns gathered in it. Equal times keep their order of arrival. Nothing
here is a stranger's: every index is made by a kernel of this module from `range(rows)`, a shift
of `time - earliest` by construction, or a code that `strings.encode` counted, so indices are
not checked when compiled; the tests also run the same code interpreted, where NumPy checks all.

Twin of `order` and `gather`: `numpy.argsort(kind="stable")` and indexing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.kernels._jit import kernel

#: Rows of one bucket up to which insertion sorts it; above, the radix sort takes over. 24 is
#: where both cost the same, some 5 ns a row (benchmarks/bench_table_build.py -k order).
MAX_BUCKET_ROWS = 24

#: Average rows from one descent to the next from which NumPy's merge sort is as fast as the radix
#: sort where rows crowd, or faster: 2.6 for 10 ns with one late client among live ones.
LONG_RUN_ROWS = 64

#: Bits of one digit of the radix sort: 2048 counters stay in the first-level cache.
DIGIT_BITS = 11


@kernel
def survey(times: NDArray[np.int64]) -> tuple[int, int, int]:
    """Earliest time, latest time, and how many times are before the one in front of them.

    Args:
        times: int64, shape (rows,), at least one.
    """
    earliest = latest = times[0]
    descents = 0
    for i in range(1, times.size):
        earliest = min(earliest, times[i])
        latest = max(latest, times[i])
        descents += times[i] < times[i - 1]
    return earliest, latest, descents


@kernel
def order(
    times: NDArray[np.int64], earliest: int, range_bits: int, row_bits: int, descents: int
) -> NDArray[np.uint32]:
    """Rows in order of time, equal times in order of row.

    As many buckets as rows, give or take two: where times are spread at all evenly a bucket
    holds about one row, and where they were nearly sorted its counter is still in the cache.

    Args:
        times: int64, shape (rows,).
        earliest: The smallest of them.
        range_bits: Bits of `latest - earliest`, at least 1.
        row_bits: Bits of `rows - 1`, at least 1; `range_bits + row_bits <= 64`.
        descents: How many times are before the one in front of them.

    Returns:
        uint32, shape (rows,): `times[out]` is sorted. Or shape (0,): rows crowd into few buckets
        and come in long runs, which a merge sort puts in order faster.
    """
    # HOT, once per flush. 1 M rows of 16 interleaved clients: 2.8 to 7.8 -> 1.7 ns a row; at
    # random: 78 -> 2.5 to 5.3 (benchmarks/bench_table_build.py -k order).
    # Twin: np.argsort(kind="stable"); equality: tests/test_sort_kernels.py.
    bucket_bits = range_bits if range_bits <= row_bits + 1 else row_bits
    shift = np.uint64(range_bits - bucket_bits)
    ends, fullest = _bucket_starts(times, earliest, shift, 1 << bucket_bits)
    if shift == 0:
        return _place(times, earliest, ends)
    if fullest > MAX_BUCKET_ROWS and descents * LONG_RUN_ROWS <= times.size:
        return np.empty(0, dtype=np.uint32)
    packed = np.empty(times.size, dtype=np.uint64)
    if fullest > MAX_BUCKET_ROWS:
        for i in range(times.size):
            packed[i] = _pack(times[i], earliest, row_bits, i)
        return _unpack(_radix(packed, row_bits, range_bits), row_bits)
    for i in range(times.size):
        value = _pack(times[i], earliest, row_bits, i)
        bucket = (value >> np.uint64(row_bits)) >> shift
        at = ends[bucket]
        ends[bucket] = at + 1
        packed[at] = value
    _insertion(packed)
    return _unpack(packed, row_bits)


@kernel
def _pack(time: int, earliest: int, row_bits: int, row: int) -> int:
    """Distance from the earliest time, then the row: one number, never twice the same."""
    return (np.uint64(time - earliest) << np.uint64(row_bits)) | np.uint64(row)


@kernel
def _unpack(packed: NDArray[np.uint64], row_bits: int) -> NDArray[np.uint32]:
    mask = (np.uint64(1) << np.uint64(row_bits)) - np.uint64(1)
    rows = np.empty(packed.size, dtype=np.uint32)
    for i in range(packed.size):
        rows[i] = packed[i] & mask
    return rows


@kernel
def _bucket_starts(
    times: NDArray[np.int64], earliest: int, shift: int, buckets: int
) -> tuple[NDArray[np.int32], int]:
    """First row of each bucket, and the rows of the fullest one."""
    counts = np.zeros(buckets, dtype=np.int32)
    for i in range(times.size):
        counts[np.uint64(times[i] - earliest) >> shift] += 1
    fullest = start = 0
    for j in range(buckets):
        count = counts[j]
        fullest = max(fullest, count)
        counts[j] = start
        start += count
    return counts, fullest


@kernel
def _place(
    times: NDArray[np.int64], earliest: int, starts: NDArray[np.int32]
) -> NDArray[np.uint32]:
    """Rows in order where every bucket is one time: a counting sort."""
    rows = np.empty(times.size, dtype=np.uint32)
    for i in range(times.size):
        bucket = np.uint64(times[i] - earliest)
        at = starts[bucket]
        starts[bucket] = at + 1
        rows[at] = i
    return rows


@kernel
def _insertion(values: NDArray[np.uint64]) -> None:
    """Sort in place what is out of order by a bucket at most."""
    for i in range(1, values.size):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@kernel
def _radix(packed: NDArray[np.uint64], row_bits: int, range_bits: int) -> NDArray[np.uint64]:
    """Sort by the time bits, least digit first; the argument is used as scratch."""
    passes = (range_bits + DIGIT_BITS - 1) // DIGIT_BITS
    mask = np.uint64((1 << DIGIT_BITS) - 1)
    counts = np.zeros((passes, 1 << DIGIT_BITS), dtype=np.int32)
    for i in range(packed.size):
        key = packed[i] >> np.uint64(row_bits)
        for p in range(passes):
            counts[p, key & mask] += 1
            key >>= np.uint64(DIGIT_BITS)
    source, target = packed, np.empty(packed.size, dtype=np.uint64)
    for p in range(passes):
        starts = counts[p]
        if _to_starts(starts) == packed.size:
            continue  # one digit for all: nothing to move
        shift = np.uint64(row_bits + p * DIGIT_BITS)
        for i in range(source.size):
            value = source[i]
            digit = (value >> shift) & mask
            at = starts[digit]
            starts[digit] = at + 1
            target[at] = value
        source, target = target, source
    return source


@kernel
def _to_starts(counts: NDArray[np.int32]) -> int:
    """Counts to the sums of those before, in place; returns the largest count."""
    largest = start = 0
    for j in range(counts.size):
        count = counts[j]
        largest = max(largest, count)
        counts[j] = start
        start += count
    return largest


@kernel
def gather(values: NDArray[Any], rows: NDArray[np.uint32], out: NDArray[Any]) -> None:
    """`out[i] = values[rows[i]]`; all of one dtype, `rows` and `out` of one shape."""
    # HOT, once per column and flush: np.take 0.5 to 2.9 -> 0.3 ns a value.
    for i in range(rows.size):
        out[i] = values[rows[i]]


@kernel
def renumber(
    codes: NDArray[np.int32],
    valid: NDArray[np.bool_],
    numbers: NDArray[np.int32],
    out: NDArray[np.int32],
    used: NDArray[np.int32],
) -> int:
    """Number the codes that occur anew, from 0 in order of appearance.

    Args:
        codes: int32, shape (rows,), below `numbers.size`.
        valid: bool, shape (rows,) or (0,): whether a row has a value; empty: all have.
        numbers: int32, scratch, -1 throughout; left so.
        out: int32, shape (rows,): the new codes, 0 for a row without a value.
        used: int32: the old code of each new one; room for as many as can occur.

    Returns:
        How many codes occur.
    """
    count = 0
    for i in range(codes.size):
        if valid.size > 0 and not valid[i]:
            out[i] = 0
            continue
        code = np.uint32(codes[i])
        if numbers[code] < 0:
            numbers[code] = count
            used[count] = code
            count += 1
        out[i] = numbers[code]
    for i in range(count):
        numbers[np.uint32(used[i])] = -1
    return count


def warm() -> None:
    """Compile every kernel for the array types it is used with."""
    times = np.array([3, 1, 2], dtype=np.int64)
    survey(times)
    rows = order(times, 1, 2, 2, 1)
    for dtype in (np.int64, np.float64, np.int32, np.bool_):
        gather(np.zeros(3, dtype=dtype), rows, np.empty(3, dtype=dtype))
    codes, none = np.zeros(1, dtype=np.int32), np.empty(0, dtype=np.bool_)
    numbers = np.full(1, -1, dtype=np.int32)
    renumber(codes, none, numbers, np.empty_like(codes), np.empty_like(codes))
