"""Rows to encoded columns: of calls, of handles, of NumPy arrays and lists, 1 000 at a time.

The rows lie ready, as calls leave them; several sets of them take turns, so that nothing is encoded
from what the last round left in the caches or in a branch predictor. Before and after it is timed,
every set is decoded by the daemon's decoder and compared value by value. The stages before the
bytes are in `benchmarks.client.bench_rows` and `benchmarks.client.bench_columns`.

    python -m benchmarks.client -k encode
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.client.cases import CPU, Bench, Case, CheckError, Probe, Sample, expect, timed
from benchmarks.client.tables import FIELDS, SYMBOLS, TAGS, numpy_columns, texts

#: As the client has them by default.
BATCH_ROWS, BATCH_BYTES = 10_000, 4 << 20
#: Of bodies of rows that were logged, whose times are the client's own.
NS_HEADER = (("x-arc-time-unit", "ns"),)
#: Hosts of one producer's rows.
HOSTS = 50
#: Sets of rows that take turns.
SETS = 8

#: Values of a row by name.
_WIDTH = len(TAGS) + len(FIELDS)
_START_NS = 1_790_000_000_000_000_000
_CALLS, _ONE = "1 000 rows of calls", "1 000 rows of one handle"
_NUMPY = "1 000 rows of NumPy, 2 tags of one value"
FROM_CALLS, FROM_HANDLE = f"encode: {_CALLS}", f"encode: {_ONE}"
FROM_NUMPY = f"encode: {_NUMPY}"


@dataclass(frozen=True)
class Source:
    """Sets of rows, and what encodes them.

    Attributes:
        sets: Of one size, of different values.
        numbers: The field `user` of each set: float64, shape (rows,).
        encode: One set to bodies, each with `body` and `rows`.
    """

    sets: Sequence[Any]
    numbers: Sequence[NDArray[np.float64]]
    encode: Callable[[Any], list[Any]]

    def check(self) -> None:
        """Encode every set, three times over, and compare it with what the daemon reads.

        Raises:
            CheckError: another value, or another number of rows.
        """
        for rows, numbers in [*zip(self.sets, self.numbers, strict=True)] * 3:
            found = np.concatenate([_read(body) for body in self.encode(rows)])
            if not np.array_equal(found, numbers):
                raise CheckError(f"{len(found)} values were encoded from {len(numbers)}: others")


def _read(part: Any) -> NDArray[np.float64]:
    """The field `user` of a body as the daemon decodes it; `rows` must be right too."""
    from ingest.limits import Limits
    from ingest.msgpack_decoder import decode
    from ingest.timestamps import TimeUnit

    unit = dict(getattr(part, "headers", NS_HEADER)).get("x-arc-time-unit")
    batches = decode(bytes(part.body), 0, Limits(), TimeUnit(unit) if unit else None)
    expect("rows of the body", sum(batch.num_rows for batch in batches), part.rows)
    return np.concatenate([batch.columns["user"].values for batch in batches])


# ---------------------------------------------------------------------------------- the rows


def rows_by_name(rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Two tags, of them the first one of 50, and three floats."""
    rng = np.random.default_rng([21, seed])
    names = [f"server{i:03d}" for i in range(HOSTS)]
    hosts = rng.integers(0, HOSTS, rows).tolist()
    numbers = rng.random((rows, len(FIELDS))) * 100
    for host, row in zip(hosts, numbers.tolist(), strict=True):
        yield {"host": names[host], "region": "eu-west1", **dict(zip(FIELDS, row, strict=True))}


def flat_of_calls(rows: int, seed: int = 0) -> list[Any]:
    """What `client.log` leaves: measurement, time, names and values, one row after another."""
    found: list[Any] = []
    for i, values in enumerate(rows_by_name(rows, seed)):
        found += ("cpu", _START_NS + i, *values, *values.values())
    return found


def flat_of_handles(rows: int, seed: int = 0, *, one: bool = False) -> list[Any]:
    """What handles of one shape leave: tags, time and fields, one row after another.

    The tuple of tags is one object for all rows of a handle, as it is in the client. With `one`
    there is one handle for them all, else 50 that come in any order.
    """
    names = [f"server{i:03d}" for i in range(HOSTS)]
    handles = {name: (name, "eu-west1") for name in names}
    if one:
        handles = dict.fromkeys(names, handles[names[0]])
    found: list[Any] = []
    for i, values in enumerate(rows_by_name(rows, seed)):
        fields = (values[name] for name in FIELDS)
        found += (handles[values["host"]], _START_NS + i, *fields)
    return found


def numbers_by_name(rows: int, seed: int) -> NDArray[np.float64]:
    """The field `user` of `rows_by_name`: float64, shape (rows,)."""
    return np.array([values["user"] for values in rows_by_name(rows, seed)])


# ----------------------------------------------------------------------------------- the ways


def from_calls(rows: int) -> Source:
    """As the pump encodes what `client.log` took."""
    from arc.client.intake import by_place
    from arc.client.rows import encode_calls
    from arc.client.rows_apart import stride_of

    def encode(flat: list[Any]) -> list[Any]:
        columns = by_place(flat, stride_of(_WIDTH))
        encoded, refused = encode_calls(columns, _WIDTH, {}, BATCH_ROWS, BATCH_BYTES)
        expect("refused rows", refused, [])
        return encoded

    seeds = range(SETS)
    sets = [flat_of_calls(rows, seed) for seed in seeds]
    return Source(sets, [numbers_by_name(rows, seed) for seed in seeds], encode)


def from_handles(rows: int) -> Source:
    """As the pump encodes what 50 handles took."""
    return _series(rows, one=False)


def from_one_handle(rows: int) -> Source:
    """As the pump encodes what one handle took."""
    return _series(rows, one=True)


def _series(rows: int, *, one: bool) -> Source:
    from arc.client.intake import by_place
    from arc.client.rows import Shape, encode_series

    shape = Shape("cpu", tuple(TAGS), FIELDS)

    def encode(flat: list[Any]) -> list[Any]:
        columns = by_place(flat, 2 + len(FIELDS))
        encoded, refused = encode_series(shape, columns, BATCH_ROWS, BATCH_BYTES)
        expect("refused rows", refused, [])
        return encoded

    seeds = range(SETS)
    sets = [flat_of_handles(rows, seed, one=one) for seed in seeds]
    return Source(sets, [numbers_by_name(rows, seed) for seed in seeds], encode)


def _columns(sets: list[dict[str, Any]], tags: Any, *, remember: bool = True) -> Source:
    """As `write_columnar` encodes; without `remember` as its first call does."""
    from arc.client.columns import ColumnsEncoder, encode_columns

    way = ColumnsEncoder().encode if remember else encode_columns
    numbers = [np.array(columns["user"]) for columns in sets]
    return Source(
        sets,
        numbers,
        lambda columns: way(
            "cpu", columns, tags=tags, batch_rows=BATCH_ROWS, batch_bytes=BATCH_BYTES
        ),
    )


def numpy_sets(rows: int) -> list[dict[str, Any]]:
    """Time and three doubles, in arrays of their own."""
    return [dict(numpy_columns(rows, seed)) for seed in range(SETS)]


def from_numpy(rows: int) -> Source:
    """A time and three doubles; tags that all rows share."""
    return _columns(numpy_sets(rows), TAGS)


def from_numpy_first(rows: int) -> Source:
    """The same by the plain twin, as for columns that were not there before."""
    return _columns(numpy_sets(rows), TAGS, remember=False)


def from_numpy_and_texts(rows: int) -> Source:
    """A time and three doubles, and two lists of texts."""
    named = {name: texts(rows)[name] for name in TAGS}
    return _columns([named | columns for columns in numpy_sets(rows)], tuple(TAGS))


def from_lists(rows: int) -> Source:
    """Seven lists: a time in µs, three texts, three floats."""
    named = {name: texts(rows)[name] for name in SYMBOLS}
    sets = [
        named | {name: values.tolist() for name, values in columns.items()}
        for columns in numpy_sets(rows)
    ]
    return _columns(sets, SYMBOLS)


def lists_of_calls(flat: list[Any]) -> list[list[Any]]:
    """Times and columns of rows by name: what encoding them starts with, and nothing else."""
    stride = 2 + 2 * _WIDTH
    return [flat[1::stride], *(flat[i::stride] for i in range(2 + _WIDTH, stride))]


def lists_of_handles(flat: list[Any]) -> list[list[Any]]:
    """The same of rows by place, which lie in columns already but for their tags."""
    tags, stride = flat[0 :: 2 + len(FIELDS)], 2 + len(FIELDS)
    named = [[values[i] for values in tags] for i in range(len(TAGS))]
    return [*named, *(flat[i::stride] for i in range(1, stride))]


def _convert_case(
    name: str, flat_of: Callable[[int], list[Any]], convert: Callable[[list[Any]], list[list[Any]]]
) -> Case:
    """Rows to lists of columns: the part of `encode` that no encoder can do away with."""

    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        rows = bench.sizes.batch_rows
        flat = flat_of(rows)

        def work(times: int) -> None:
            for _ in range(times):
                convert(flat)

        def check() -> None:
            columns = convert(flat)
            expect("columns", [len(column) for column in columns], [rows] * len(columns))
            wanted = numbers_by_name(rows, 0).tolist()
            expect("columns that hold the field user", columns.count(wanted), 1)

        def sample() -> Sample:
            taken, beside = timed(work, bench.sizes.batches)
            return taken / rows, {CPU: beside[CPU] / rows}

        yield Probe(sample, check)

    return Case("convert", name, "ns/row", open_it)


def _case(name: str, source_of: Callable[[int], Source]) -> Case:
    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        rows = bench.sizes.batch_rows
        source = source_of(rows)
        encode, turns = source.encode, itertools.cycle(source.sets)

        def work(times: int) -> None:
            for _ in range(times):
                encode(next(turns))

        def sample() -> Sample:
            taken, beside = timed(work, bench.sizes.batches)
            size = sum(len(part.body) for part in encode(next(turns)))
            return taken / rows, {CPU: beside[CPU] / rows, "bytes a row": size / rows}

        yield Probe(sample, source.check, source.check)

    return Case("encode", name, "ns/row", open_it)


def cases() -> list[Case]:
    """Rows to columns to bytes as they are sent."""
    return [
        _convert_case("1 000 rows of calls to lists of columns", flat_of_calls, lists_of_calls),
        _convert_case("1 000 rows of handles to lists", flat_of_handles, lists_of_handles),
        _case(_CALLS, from_calls),
        _case("1 000 rows of 50 handles", from_handles),
        _case(_ONE, from_one_handle),
        _case(_NUMPY, from_numpy),
        _case("1 000 rows of NumPy, the first call", from_numpy_first),
        _case("1 000 rows of NumPy, 2 tags as lists", from_numpy_and_texts),
        _case("1 000 rows of lists, 3 tags", from_lists),
    ]
