"""The kernels that encode pages, against a reader of the encodings written as the format says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.kernels import parquet as kernels
from tests.test_sort_kernels import interpreted  # noqa: F401 - a fixture

INT64 = st.integers(-(2**63), 2**63 - 1)
#: Numbers of rows around those at which the kernels begin something new.
EDGES = (1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 447, 448, 449, 512, 1000)


def read_only(values: Any, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


# --- readers -----------------------------------------------------------------------------------


def read_varint(data: Iterator[int]) -> int:
    value = shift = 0
    while True:
        byte = next(data)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7


def read_packed(data: Iterator[int], count: int, width: int) -> list[int]:
    """`count` values, a multiple of eight, lowest bits first."""
    word = int.from_bytes(bytes([next(data) for _ in range(count * width // 8)]), "little")
    return [word >> (i * width) & ((1 << width) - 1) for i in range(count)]


def read_codes(data: bytes, rows: int, width: int) -> list[int]:
    """The hybrid of runs and packed bits; nothing may be left over."""
    source = iter(data)
    out: list[int] = []
    while len(out) < rows:
        header = read_varint(source)
        assert header > 1
        if header & 1:
            out += read_packed(source, (header >> 1) * 8, width)
        else:
            value = bytes([next(source) for _ in range((width + 7) // 8)])
            out += [int.from_bytes(value, "little")] * (header >> 1)
    assert not list(source)
    assert not any(out[rows:])
    assert len(out) - rows < 8
    return out[:rows]


def read_differences(data: bytes) -> list[int]:
    """DELTA_BINARY_PACKED of int64; nothing may be left over."""
    source = iter(data)
    block, miniblocks, rows = (read_varint(source) for _ in range(3))
    assert block % 128 == 0
    assert block // miniblocks % 32 == 0
    out = [_unzigzag(read_varint(source))]
    while len(out) < rows:
        smallest = _unzigzag(read_varint(source))
        for width in [next(source) for _ in range(miniblocks)]:
            if len(out) < rows:
                steps = read_packed(source, block // miniblocks, width)
                for step in steps[: rows - len(out)]:
                    out.append((out[-1] + smallest + step + 2**63) % 2**64 - 2**63)
            else:
                assert width == 0
    assert not list(source)
    return out


def _unzigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def packed(module: ModuleType, codes: Sequence[int], width: int) -> bytes:
    """What the kernel packs, with as much room as it says that it needs, and not a byte more."""
    out = np.full(3 + module.packed_bytes(len(codes), width), 0xEE, dtype=np.uint8)
    end = module.pack_codes(read_only(codes, np.int32), width, out, 3)
    assert out[:3].tolist() == [0xEE] * 3
    return out[3:end].tobytes()


def differences(module: ModuleType, values: Sequence[int]) -> bytes:
    out = np.full(module.differences_bytes(len(values)), 0xEE, dtype=np.uint8)
    scratch = np.empty(module.DELTA_BLOCK_ROWS, dtype=np.uint64)
    size = module.pack_differences(read_only(values, np.int64), scratch, out)
    return out[:size].tobytes()


# --- codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", range(1, 32))
def test_codes_of_every_width_are_read_back(width: int) -> None:
    rng = np.random.default_rng(width)
    for rows in EDGES:
        codes = rng.integers(0, 2**width, rows).tolist()
        assert read_codes(packed(kernels, codes, width), rows, width) == codes
        top = [2**width - 1] * rows
        assert read_codes(packed(kernels, top, width), rows, width) == top


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([1, 3, 8, 64, 65, 130, 200]))),
    st.sampled_from([3, 8, 9, 17, 25]),
)
@example([(1, 64), (1, 64), (2, 64), (1, 1)], 3)
def test_runs_of_any_length_are_read_back(runs: list[tuple[int, int]], width: int) -> None:
    codes = [code for code, rows in [*runs, (0, 1)] for _ in range(rows)]
    assert read_codes(packed(kernels, codes, width), len(codes), width) == codes


def test_one_value_takes_a_few_bytes_however_often_it_is_there() -> None:
    assert packed(kernels, [5] * 65_536, 3) == b"\x80\x80\x08\x05"
    assert packed(kernels, [0] * 63, 1) == b"\x7e\x00"


def test_packed_runs_have_headers_of_one_byte_as_other_writers_have_them() -> None:
    codes = [i % 2 for i in range(1000)]
    data = packed(kernels, codes, 1)
    assert data[0] == 56 << 1 | 1
    assert data[57] == 56 << 1 | 1


# --- differences -------------------------------------------------------------------------------


@given(st.lists(INT64, min_size=1, max_size=600))
@example([-(2**63), 2**63 - 1, -(2**63)])
@settings(max_examples=50)
def test_integers_are_read_back_also_where_differences_wrap(values: list[int]) -> None:
    assert read_differences(differences(kernels, values)) == values


@pytest.mark.parametrize("bits", range(64))
def test_differences_of_every_width_are_read_back(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for rows in (1, 2, 64, 65, 66, 129, 257, 258, 600):
        steps = rng.integers(0, 2**bits, rows, dtype=np.uint64).view(np.int64)
        values = np.cumsum(steps).tolist()
        assert read_differences(differences(kernels, values)) == values


def test_a_fixed_step_takes_no_bits() -> None:
    data = differences(kernels, range(0, 256 * 7 + 1, 7)[: 1 + 256])
    assert data[-5:] == bytes((14, 0, 0, 0, 0))


# --- distinct values ---------------------------------------------------------------------------


def numbered(
    module: ModuleType, values: Sequence[int], slots: int = 1024, looks: int = 1 << 40
) -> tuple[list[int], list[int]] | None:
    """Codes and distinct values, growing the table as its caller does; None: given up."""
    codes = np.full(len(values), -1, dtype=np.int32)
    dictionary = np.zeros(len(values) + 1, dtype=np.uint64)
    left = np.array([looks], dtype=np.int64)
    row = count = 0
    while True:
        table = np.zeros(slots, dtype=np.uint32)
        module.fill_table(dictionary, count, table)
        row, count = module.number_values(
            row, count, read_only(values, np.uint64), table, dictionary, left, codes
        )
        if count == module.GAVE_UP:
            return None
        if row == len(values):
            return codes.tolist(), dictionary[:count].tolist()
        slots *= 2


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=300))
def test_codes_are_those_of_first_appearance(values: list[int]) -> None:
    distinct = list(dict.fromkeys(values))
    codes = [distinct.index(value) for value in values]
    assert numbered(kernels, values, slots=16) == (codes, distinct)


def test_values_that_meet_in_one_slot_are_given_up() -> None:
    words = np.random.default_rng(1).integers(0, 2**64, 1 << 20, dtype=np.uint64)
    mixed = (words ^ (words >> np.uint64(32))) * kernels._MIX
    meeting = words[mixed >> np.uint64(52) == 0].tolist()
    assert len(meeting) > 100
    assert numbered(kernels, meeting[:100], slots=1024, looks=4_000) is None
    found = numbered(kernels, meeting[:100], slots=1024)
    assert found == (list(range(100)), meeting[:100])


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1), st.sampled_from([1.0, 10.0, 1e3, 1e6]))
def test_integers_over_a_scale_are_no_misfits(integers: list[int], scale: float) -> None:
    values = read_only(np.array(integers) / scale, np.float64)
    assert kernels.count_misfits(values, values.view(np.uint64), scale) == 0
    smallest = min(integers)
    if max(integers) - smallest < 10_000:
        assert_ranked(integers, values, scale)


@given(st.lists(st.integers(-40, 40), min_size=1), st.sampled_from([1.0, 10.0, 1e3, 1e6]))
def test_marks_and_codes_are_those_of_the_values(integers: list[int], scale: float) -> None:
    assert_ranked(integers, read_only(np.array(integers) / scale, np.float64), scale)


def assert_ranked(integers: Sequence[int], doubles: NDArray[np.float64], scale: float) -> None:
    smallest, whole = min(integers), read_only(integers, np.int64)
    values, expected = np.unique(integers, return_inverse=True)
    marks, others = (np.zeros(max(integers) - smallest + 1, dtype=np.uint8) for _ in range(2))
    kernels.mark(whole, smallest, marks)
    kernels.mark_decimals(doubles, scale, smallest, others)
    assert (np.flatnonzero(marks) + smallest).tolist() == values.tolist()
    assert others.tolist() == marks.tolist()
    ranks = np.cumsum(marks, dtype=np.int32) - np.int32(1)
    codes, same = (np.empty(len(integers), dtype=np.int32) for _ in range(2))
    kernels.look_up(whole, smallest, ranks, codes)
    kernels.look_up_decimals(doubles, scale, smallest, ranks, same)
    assert codes.tolist() == same.tolist() == expected.tolist()


@pytest.mark.parametrize("odd", [math.nan, -0.0, 0.015, 0.1 + 0.2, 1e-300])
def test_what_is_no_integer_over_the_scale_is_a_misfit(odd: float) -> None:
    values = read_only([0.0, 0.25, odd, 3.99, -17.5, odd], np.float64)
    assert kernels.count_misfits(values, values.view(np.uint64), 100.0) == 2


# --- text and nulls ----------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40) | st.none(), min_size=1), st.integers(0, 3))
def test_text_is_laid_out_with_its_lengths(values: list[bytes | None], skip: int) -> None:
    sizes = [skip, *[len(value or b"") for value in values]]
    offsets = read_only(np.cumsum(sizes), np.int32)
    data = read_only(list(b"x" * skip + b"".join([value or b"" for value in values])), np.uint8)
    valid = read_only([value is not None for value in values], np.bool_)
    out = np.empty(int(offsets[-1]) - skip + 4 * len(values), dtype=np.uint8)
    present = [value for value in values if value is not None]
    expected = b"".join([len(value).to_bytes(4, "little") + value for value in present])
    assert out[: kernels.lay_out_text(data, offsets, valid, out)].tobytes() == expected
    if len(present) == len(values):
        assert kernels.lay_out_text(data, offsets, valid[:0], out) == len(expected)


@pytest.mark.parametrize("dtype", [np.uint64, np.int32])
@given(st.lists(st.tuples(st.integers(0, 99), st.booleans())))
def test_nulls_are_taken_out(dtype: type[np.generic], rows: list[tuple[int, bool]]) -> None:
    values = read_only([value for value, _ in rows], dtype)
    valid = read_only([is_valid for _, is_valid in rows], np.bool_)
    out = np.empty(len(rows) + 1, dtype=dtype)
    assert out[: kernels.compact(values, valid, out)].tolist() == values[valid].tolist()


# --- bounds ------------------------------------------------------------------------------------


def test_kernels_never_leave_their_arrays(interpreted: Any) -> None:  # noqa: F811
    """The same code run by Python, with NumPy checking every index."""
    module = interpreted(kernels)
    module.warm()
    rng = np.random.default_rng(3)
    for width in (1, 2, 8, 15, 16, 17, 31):
        for rows in (1, 63, 64, 65, 500):
            codes = rng.integers(0, 2**width, rows).tolist()
            assert read_codes(packed(module, codes, width), rows, width) == codes
            # Blocks that are packed and blocks that are runs in turn: the most headers.
            mixed = [code * (i // 64 % 2) for i, code in enumerate(codes)]
            assert read_codes(packed(module, mixed, width), rows, width) == mixed
    for bits in (0, 1, 30, 63, 64):
        for rows in (1, 2, 257, 300):
            steps = rng.integers(0, 2**bits, rows, dtype=np.uint64, endpoint=bits == 0)
            values = np.cumsum(steps.view(np.int64)).tolist()
            assert read_differences(differences(module, values)) == values
    values = rng.integers(0, 100, 500).tolist()
    assert numbered(module, values, slots=16) == numbered(kernels, values, slots=16)
