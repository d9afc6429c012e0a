"""The kernels of a flush, against NumPy and pyarrow, compiled and interpreted."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.bench_table_build import times_of
from ingest.kernels import sort, strings

ARRANGEMENTS = (
    *("interleaved", "random", "hour at random", "one series a batch", "one late client"),
    *("equal", "sorted", "hours"),
)


def order_of(
    module: ModuleType, times: NDArray[np.int64], descents: int | None = None
) -> NDArray[np.uint32]:
    """The kernel's order; as if no two rows in a row were in order, unless told otherwise."""
    earliest, latest, _ = module.survey(times)
    bits = max(1, int(latest - earliest).bit_length()), max(1, (times.size - 1).bit_length())
    descents = times.size if descents is None else descents
    rows: NDArray[np.uint32] = module.order(times, earliest, *bits, descents)
    return rows


def padded(values: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    data = b"".join(values) + b"\xee" * strings.PADDING_BYTES
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return np.frombuffer(bytearray(data), np.uint8), offsets


def encode(
    module: ModuleType,
    values: Sequence[bytes],
    max_count: int = 1 << 20,
    max_bytes: int = 1 << 20,
) -> tuple[list[int], list[bytes]] | None:
    """Codes and distinct values, as the kernel found them; None when it gave up."""
    data, offsets = padded(values)
    codes = np.full(len(values), -1, np.int32)
    count, seen = module.encode(data, offsets, max_count, max_bytes, codes)
    if count == strings.GAVE_UP:
        return None
    assert count == seen.size
    return codes.tolist(), [values[row] for row in seen]


# --- order -------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=200),
    st.sampled_from([1, 7, 1000, 10**6, 2**40]),
    st.integers(-(2**50), 2**50),
)
def test_order_is_that_of_a_stable_sort(steps: list[int], scale: int, first: int) -> None:
    times = np.array(steps, dtype=np.int64) * scale + first
    np.testing.assert_array_equal(order_of(sort, times), np.argsort(times, kind="stable"))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("rows", [2, 1_000, 40_000])
def test_order_of_every_arrangement_is_that_of_a_stable_sort(arrangement: str, rows: int) -> None:
    times = times_of(arrangement, rows, batch_rows=100)
    np.testing.assert_array_equal(order_of(sort, times), np.argsort(times, kind="stable"))


@given(st.integers(0, 2**32), st.integers(2, 3000))
def test_order_survives_any_crowding(seed: int, rows: int) -> None:
    """Some times crowd in one spot, the rest lie anywhere: buckets overflow into the radix sort."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 2 ** rng.integers(1, 52), rows)
    crowd = rng.random(rows) < rng.random()
    times[crowd] = times[0] + rng.integers(0, 2 ** rng.integers(1, 20), int(crowd.sum()))
    np.testing.assert_array_equal(order_of(sort, times), np.argsort(times, kind="stable"))


def test_order_takes_as_many_bits_as_a_word_has() -> None:
    times = np.array([2**61 - 1, -(2**61), 0, 2**61 - 1], dtype=np.int64)
    assert sort.order(times, -(2**61), 62, 2, 2).tolist() == [1, 2, 0, 3]


def test_crowded_rows_in_long_runs_are_left_to_a_merge_sort() -> None:
    times = times_of("one late client", 40_000, batch_rows=100)
    _, _, descents = sort.survey(times)
    assert order_of(sort, times, descents).size == 0
    assert order_of(sort, times, times.size).size == times.size
    assert order_of(sort, times_of("interleaved", 40_000, 1000), 40).size == times.size


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_survey_finds_both_ends_and_counts_descents(values: list[int]) -> None:
    times = np.array(values, dtype=np.int64)
    descents = sum(b < a for a, b in itertools.pairwise(values))
    assert sort.survey(times) == (min(values), max(values), descents)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int32, np.bool_])
def test_gather_is_indexing(dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1000, 500).astype(dtype)
    rows = rng.permutation(500).astype(np.uint32)
    out = np.empty_like(values)
    sort.gather(values, rows, out)
    np.testing.assert_array_equal(out, values[rows])


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_renumber_keeps_what_codes_mean_and_cleans_up(rows: list[tuple[int, bool]]) -> None:
    codes = np.array([code for code, _ in rows], dtype=np.int32)
    valid = np.array([is_valid for _, is_valid in rows], dtype=np.bool_)
    numbers, out = np.full(10, -1, np.int32), np.empty_like(codes)
    used = np.empty(10, np.int32)
    count = sort.renumber(codes, valid, numbers, out, used)
    present = [code for code, is_valid in rows if is_valid]
    assert used[:count].tolist() == list(dict.fromkeys(present))
    assert used[out[valid]].tolist() == present
    assert (numbers == -1).all()


# --- strings -----------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"", b"host-1", b"x" * 17, b"x" * 24])))
def test_codes_are_those_of_pyarrow(values: list[bytes]) -> None:
    expected = pa.array(values, pa.binary()).dictionary_encode()
    assert encode(strings, values) == (
        expected.indices.to_pylist(),
        expected.dictionary.to_pylist(),
    )


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=60),
    st.lists(st.integers(0, 59), max_size=60),
)
def test_strings_that_differ_in_one_byte_anywhere_are_told_apart(
    sizes: list[int], changed: list[int]
) -> None:
    """Every place of a value is compared: first word, middle, last word."""
    base = [b"a" * size for size in sizes]
    spoilt = [
        value[:at] + b"b" + value[at + 1 :]
        for value, at in zip(base, changed, strict=False)
        if at < len(value)
    ]
    values = base + spoilt + base
    expected = pa.array(values, pa.binary()).dictionary_encode()
    assert encode(strings, values) == (
        expected.indices.to_pylist(),
        expected.dictionary.to_pylist(),
    )


def test_values_that_end_in_zero_bytes_differ_from_shorter_ones() -> None:
    values = [b"", b"\0", b"\0" * 7, b"\0" * 8, b"\0" * 9, b"a", b"a\0", b"a" + b"\0" * 7]
    assert encode(strings, values) == (list(range(len(values))), values)


def test_the_table_grows_with_the_distinct_values() -> None:
    values = [f"value {i % 3500}".encode() for i in range(20_000)]
    assert encode(strings, values) == ([i % 3500 for i in range(20_000)], values[:3500])


def test_more_distinct_values_than_allowed_are_given_up() -> None:
    values = [b"a", b"b", b"a", b"c"]
    assert encode(strings, values, max_count=3) == ([0, 1, 0, 2], [b"a", b"b", b"c"])
    assert encode(strings, values, max_count=2) is None


def test_more_bytes_of_distinct_values_than_allowed_are_given_up() -> None:
    values = [b"aaaa", b"bbbb", b"aaaa"]
    assert encode(strings, values, max_bytes=16) == ([0, 1, 0], values[:2])
    assert encode(strings, values, max_bytes=15) is None


def words_that_meet(bits: int) -> list[bytes]:
    """Values of 8 bytes whose hashes agree in the lowest bits that choose a slot."""
    words = np.random.default_rng(1).integers(0, 2**64, 1 << 21, dtype=np.uint64)
    mixed = ((words ^ np.uint64(8)) * strings._MIX_1) ^ (words * strings._MIX_2)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * strings._MIX_2
    chosen = words[(mixed >> np.uint64(32)) & np.uint64((1 << bits) - 1) == 0]
    return [word.tobytes() for word in chosen]


def test_values_made_to_meet_in_one_slot_are_given_up() -> None:
    values = words_that_meet(bits=13)
    assert len(values) > 200
    assert encode(strings, values * 20) is None
    assert encode(strings, values[:3] * 20) == ([0, 1, 2] * 20, values[:3])


def test_bytes_are_counted_once_though_the_table_grows() -> None:
    values = [f"{i:04d}".encode() for i in range(1000)]
    assert encode(strings, values, max_bytes=8000) is not None
    assert encode(strings, values, max_bytes=7999) is None


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=5))
def test_offsets_of_batches_become_one_sequence(sizes: list[list[int]]) -> None:
    each = [np.cumsum([0, *batch], dtype=np.int32) for batch in sizes]
    rows = np.array([len(batch) for batch in sizes], dtype=np.int64)
    out = np.full(rows.sum() + 1, -1, np.int32)
    strings.join_offsets(np.concatenate([*each, np.empty(0, np.int32)]), rows, out)
    expected = np.cumsum([0, *[size for batch in sizes for size in batch]])
    np.testing.assert_array_equal(out, expected)


@given(st.lists(st.binary(max_size=20), max_size=30), st.randoms(use_true_random=False))
def test_gathered_strings_are_those_asked_for(values: list[bytes], random: Any) -> None:
    data, offsets = padded(values)
    rows = random.sample(range(len(values)), len(values))
    taken = [values[row] for row in rows]
    out_offsets = np.full(len(rows) + 1, -1, np.int32)
    out = np.empty(sum(map(len, taken)), np.uint8)
    strings.gather_strings(data, offsets, np.array(rows, np.uint32), out_offsets, out)
    assert out.tobytes() == b"".join(taken)
    np.testing.assert_array_equal(out_offsets, np.cumsum([0, *map(len, taken)]))


# --- bounds ------------------------------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType], ModuleType]]:
    """Copies of kernel modules that Python runs, with NumPy checking every index."""

    def load(module: ModuleType) -> ModuleType:
        assert module.__file__ is not None
        name = f"interpreted_{module.__name__.rpartition('.')[2]}"
        spec = importlib.util.spec_from_file_location(name, module.__file__)
        assert spec is not None
        assert spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        return copy

    monkeypatch.setattr(numba, "njit", lambda function, **options: function)
    with np.errstate(over="ignore"):  # hashes are meant to overflow
        yield load


def test_sort_kernels_never_leave_their_arrays(
    interpreted: Callable[[ModuleType], ModuleType],
) -> None:
    module = interpreted(sort)
    module.warm()
    for arrangement in ARRANGEMENTS:
        for rows in (2, 3, 500):
            times = times_of(arrangement, rows, batch_rows=10)
            expected = np.argsort(times, kind="stable")
            np.testing.assert_array_equal(order_of(module, times), expected)


def test_string_kernels_never_leave_their_arrays(
    interpreted: Callable[[ModuleType], ModuleType],
) -> None:
    module = interpreted(strings)
    module.warm()
    rng = np.random.default_rng(1)
    for size in (0, 1, 7, 8, 9, 16, 17, 40):
        values = [rng.bytes(size) for _ in range(200)]
        values = [values[i] for i in rng.integers(0, 200, 400)]
        assert encode(module, values) == encode(strings, values)


def test_missing_padding_is_found_when_indices_are_checked(
    interpreted: Callable[[ModuleType], ModuleType],
) -> None:
    offsets, codes = np.array([0, 1], dtype=np.int32), np.empty(1, dtype=np.int32)
    with pytest.raises(IndexError):
        interpreted(strings).encode(np.zeros(1, dtype=np.uint8), offsets, 9, 99, codes)
