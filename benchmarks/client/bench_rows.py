"""Convert rows of calls and handles to the maps that are sent, and ways that were tried for it.

A row is a time, two tags and three floats: a host of 100 and a region of 3 that change from row to
row, or one host and region. Each input comes in turn with others of its kind, so that no branch
predictor learns it by heart; every result is decoded by the daemon's decoder before it is timed.

    python -m benchmarks.client.bench_rows                     everything, about a minute
    python -m benchmarks.client.bench_rows -k "calls "         rows of Client.log
    python -m benchmarks.client.bench_rows -k handle           rows of handles
    python -m benchmarks.client.bench_rows -k columns          ways from rows to lists of values
    python -m benchmarks.client.bench_rows -k proof            ways to prove the type of a column
    python -m benchmarks.client.bench_rows -k group            ways to tell measurements apart
    python -m benchmarks.client.bench_rows --json FILE         every sample, and the machine

Nanoseconds of processor time a row, best and median of `--repeats`, since other work on the machine
hits them less than the clock.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import random
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from arc.client.engine import KEPT_BYTES
from arc.client.intake import by_place
from arc.client.rows import Encoded, Refused, Shape, encode_calls, encode_series, split
from arc.client.rows_apart import stride_of
from benchmarks.harness import environment
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.timestamps import TimeUnit

BATCH_ROWS, BATCH_BYTES = 10_000, 4 * 2**20
T0_NS = 1_763_650_000_000_000_000
FIELDS = ("user", "system", "idle")
SHAPE = Shape("cpu", ("host", "region"), FIELDS)
#: Inputs of one kind, by rows: enough for some megabytes of objects.
SETS = {1_000: 8, 10_000: 2}
SAMPLE_S = 0.02

_ENCODE = msgspec.msgpack.Encoder().encode
Values = dict[str, Any]


class Case(NamedTuple):
    """One thing to time: `fn` is given one input after another."""

    name: str
    fn: Callable[[Any], Any]
    inputs: Sequence[Any]
    rows: int
    check: Callable[[Any], None]


# ------------------------------------------------------------------------------------------- inputs


def values_of(rows: int, rng: random.Random) -> list[Values]:
    """Values of calls with tags that change."""
    hosts = [f"server{i:03d}" for i in range(100)]
    regions = ["eu-west1", "us-east1", "asia"]
    return [
        {"host": rng.choice(hosts), "region": rng.choice(regions)}
        | {name: rng.uniform(0, 100) for name in FIELDS}
        for _ in range(rows)
    ]


#: Flat lists of rows by their number of values, as `Client.log` leaves them.
Queues = dict[int, list[Any]]


def flat(values: Sequence[Values], names: Sequence[str] = ("cpu",)) -> Queues:
    """What `Client.log` leaves behind, of measurements in random order."""
    rng = random.Random(len(values))
    queues: Queues = {}
    for i, row in enumerate(values):
        queue = queues.setdefault(len(row), [])
        queue += [rng.choice(names), T0_NS + i * 1_000, *row, *row.values()]
    return queues


def changed(how: str, values: list[Values], rng: random.Random) -> Queues:
    """Rows of calls, changed as the name of a case says."""
    if how == "one host":
        return flat([row | {"host": "web-1", "region": "eu"} for row in values])
    if how == "four measurements":
        return flat(values, ("cpu", "mem", "disk", "net"))
    if how == "a column now and then":
        return flat([row | ({"steal": 1.5} if rng.random() < 0.5 else {}) for row in values])
    if how == "two sets of names":
        return flat([row | {rng.choice(("steal", "nice")): 1.5} for row in values])
    if how == "two orders of names":
        return flat([row if rng.random() < 0.5 else dict(reversed(row.items())) for row in values])
    if how == "five optional columns":
        return flat([{"host": "a"} | some(5, rng) for _ in values])
    if how == "three names of 40":
        few = [dict.fromkeys(rng.sample(range(40), 3), 1.5) for _ in values]
        return flat([{f"v{i}": value for i, value in row.items()} for row in few])
    if how == "another name in every row":
        return flat([{"host": "a", f"v{i}": 1.5} for i in range(len(values))])
    if how == "1 to 30 values":
        return flat([{f"v{i}": 1.5 for i in range(rng.randint(1, 30))} for _ in values])
    if how == "integers":
        return flat([row | {name: rng.getrandbits(30) for name in FIELDS} for row in values])
    if how == "numpy.float64":
        return flat([row | {name: np.float64(row[name]) for name in FIELDS} for row in values])
    if how == "a list of three":
        return flat([{"host": row["host"], "at": [row[name] for name in FIELDS]} for row in values])
    if how == "array 3 x 3":
        return flat([{"host": row["host"], "at": np.full((3, 3), row["user"])} for row in values])
    if how == "their own times":
        return flat([row | {"time": T0_NS + i * 999} for i, row in enumerate(values)])
    if how == "one bad row":
        values = [*values[1:], values[0] | {"user": object()}]
    return flat(values)


def some(columns: int, rng: random.Random) -> Values:
    """Each of so many columns in half of all rows."""
    return {f"v{i}": rng.random() for i in range(columns) if rng.random() < 0.5}


def handle_rows(handles: int, values: list[Values], rng: random.Random) -> list[Any]:
    """What so many handles of one shape leave behind."""
    tags = [(f"server{i:03d}", "eu-west1") for i in range(handles)]
    return [
        part
        for i, row in enumerate(values)
        for part in (rng.choice(tags), T0_NS + i * 1_000, *(row[name] for name in FIELDS))
    ]


def sets_of(rows: int, make: Callable[[list[Values], random.Random], Any]) -> list[Any]:
    """Inputs of one kind, each of other values."""
    seeds = [random.Random(f"{rows} {i}") for i in range(SETS[rows])]
    return [make(values_of(rows, rng), rng) for rng in seeds]


# ------------------------------------------------------------------------------------- conversions

HOWS = (
    "tags that change",
    "one host",
    "four measurements",
    "a column now and then",
    "two sets of names",
    "two orders of names",
    "five optional columns",
    "three names of 40",
    "another name in every row",
    "1 to 30 values",
    "integers",
    "numpy.float64",
    "a list of three",
    "array 3 x 3",
    "their own times",
    "one bad row",
)


def check_rows(rows: int, bad: int) -> Callable[[tuple[list[Encoded], list[Refused]]], None]:
    """Every row decoded by the daemon, or refused."""

    def check(found: tuple[list[Encoded], list[Refused]]) -> None:
        encoded, refused = found
        batches = [b for e in encoded for b in decode(e.body, 0, Limits(), TimeUnit.NS)]
        assert sum(batch.num_rows for batch in batches) == rows - bad
        assert len(refused) == bad
        assert all("host" in batch.tags for batch in batches if "host" in batch.columns)

    return check


def conversions() -> list[Case]:
    """Rows of calls, of one handle and of a hundred."""

    def calls(given: Queues) -> Any:
        return encoded_queues(given)

    def series(given: list[Any]) -> Any:
        columns = by_place(given, 2 + len(SHAPE.fields))
        return encode_series(SHAPE, columns, BATCH_ROWS, BATCH_BYTES)

    cases = []
    for rows in SETS:
        for how in HOWS:
            inputs = sets_of(rows, functools.partial(changed, how))
            check = check_rows(rows, how == "one bad row")
            cases.append(Case(f"calls {how} {rows}", calls, inputs, rows, check))
        for handles in (1, 100):
            inputs = sets_of(rows, functools.partial(handle_rows, handles))
            name = f"handle: {handles} of one shape {rows}"
            cases.append(Case(name, series, inputs, rows, check_rows(rows, 0)))
        cases.append(split_case(rows))
    return cases


def encoded_queues(queues: Queues) -> tuple[list[Encoded], list[Refused]]:
    """All queues of a client, one after another, as the pump encodes them."""
    encoded: list[Encoded] = []
    refused: list[Refused] = []
    for width, rows in queues.items():
        columns = by_place(rows, stride_of(width))
        found = encode_calls(columns, width, {}, BATCH_ROWS, BATCH_BYTES)
        encoded += found[0]
        refused += found[1]
    return encoded, refused


def split_case(rows: int) -> Case:
    """A refused body of one map taken apart by one row of another type."""

    def body(values: list[Values], _: random.Random) -> bytes:
        values[rows // 2]["user"] = "x"
        return encoded_queues(flat(values))[0][0].body

    def check(found: list[Encoded]) -> None:
        assert [part.rows for part in found] == [rows - 1, 1]

    return Case(f"split {rows}", split, sets_of(rows, body), rows, check)


# ---------------------------------------------------------------- from dicts to columns, and proofs


def by_stride(rows: list[Any]) -> list[Sequence[Any]]:
    """What is used: the calls leave flat rows; names are compared, columns are cut in strides."""
    width = len(FIELDS) + 2
    stride = 2 + 2 * width
    for place in (0, *range(2, 2 + width)):
        column = rows[place::stride]
        assert column == [column[0]] * len(column)
    return [rows[place::stride] for place in range(2 + width, stride)]


def by_lookup(dicts: list[Values]) -> list[Sequence[Any]]:
    """The lengths, then one look-up a value."""
    names = tuple(dicts[0])
    assert sum(map(len, dicts)) == len(names) * len(dicts)
    return [[row[name] for row in dicts] for name in names]


def by_itemgetter(dicts: list[Values]) -> list[Sequence[Any]]:
    """One C function that looks up all names of a row, and its tuples turned round."""
    names = tuple(dicts[0])
    assert sum(map(len, dicts)) == len(names) * len(dicts)
    return list(zip(*map(itemgetter(*names), dicts), strict=True))


def by_itemgetter_each(dicts: list[Values]) -> list[Sequence[Any]]:
    """One C function a column."""
    names = tuple(dicts[0])
    assert sum(map(len, dicts)) == len(names) * len(dicts)
    return [list(map(itemgetter(name), dicts)) for name in names]


def by_views(dicts: list[Values]) -> list[Sequence[Any]]:
    """All values in one list, cut in strides; the names of all rows must be in the same order."""
    names = list(dicts[0])
    keys: list[str] = []
    values: list[Any] = []
    for row in dicts:
        keys += row
        values += row.values()
    assert keys == names * len(dicts)
    return [values[i :: len(names)] for i in range(len(names))]


def by_zip_of_views(dicts: list[Values]) -> list[Sequence[Any]]:
    """Views of the values turned round, and views of the keys, which prove their order."""
    names = tuple(dicts[0])
    columns: list[Sequence[Any]] = list(zip(*map(dict.values, dicts), strict=True))
    assert list(itertools.chain.from_iterable(dicts)) == list(names) * len(dicts)
    return columns


def by_msgspec(dicts: list[Values]) -> bytes:
    """What msgspec needs to encode the dicts; their bytes are no columns yet."""
    return _ENCODE(dicts)


def check_columns(found: list[Sequence[Any]]) -> None:
    """Five columns of one length, text first and floats last."""
    assert len(found) == 2 + len(FIELDS)
    assert len({len(values) for values in found}) == 1
    assert isinstance(found[0][0], str)
    assert isinstance(found[-1][-1], float)


def check_bytes(found: bytes) -> None:
    """Dicts of all names."""
    assert set(msgspec.msgpack.decode(found)[0]) == {"host", "region", *FIELDS}


def extractions() -> list[Case]:
    """Ways from rows to the values of each column: of dicts, and of what is no dict any more."""
    ways: list[Callable[[Any], Any]] = [by_lookup, by_itemgetter, by_itemgetter_each]
    ways += [by_views, by_zip_of_views, by_msgspec]
    cases = []
    for rows in SETS:
        inputs = sets_of(rows, lambda values, _: flat(values)[2 + len(FIELDS)])
        cases.append(Case(f"columns by_stride {rows}", by_stride, inputs, rows, check_columns))
        inputs = sets_of(rows, lambda values, _: values)
        for way in ways:
            check = check_bytes if way is by_msgspec else check_columns
            cases.append(Case(f"columns {way.__name__} {rows}", way, inputs, rows, check))
    return cases


def float_proof(values: list[Any]) -> bool:
    """What is used: encode, then every ninth byte."""
    packed = _ENCODE(values)
    return len(packed) == 3 + 9 * len(values) and packed[3::9].count(0xCB) == len(values)


PROOFS: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
    "floats: types one by one": ("user", lambda values: set(map(type, values)) == {float}),
    "floats: their sum": ("user", lambda values: type(sum(values)) is float),
    "floats: as NumPy": ("user", lambda values: np.array(values).dtype == np.float64),
    "floats: encode alone": ("user", _ENCODE),
    "floats: encode, then every ninth byte": ("user", float_proof),
    "text: types one by one": ("host", lambda values: set(map(type, values)) == {str}),
    "text: joined": ("host", lambda values: isinstance("".join(values), str)),
    "text: encode alone": ("host", _ENCODE),
    "integers: types one by one": ("n", lambda values: set(map(type, values)) == {int}),
    "integers: their sum": ("n", lambda values: type(sum(values)) is int),
    "integers: as an array": ("n", lambda values: len(array("q", values))),
    "integers: encode alone": ("n", _ENCODE),
}


def proofs() -> list[Case]:
    """Ways to prove that all values of a column are of one type."""

    def make(name: str) -> Callable[[list[Values], random.Random], list[Any]]:
        return lambda values, rng: [row.get(name, rng.getrandbits(30)) for row in values]

    def check(found: Any) -> None:
        assert found

    return [
        Case(f"proof {how}", way, sets_of(1_000, make(name)), 1_000, check)
        for how, (name, way) in PROOFS.items()
    ]


# ------------------------------------------------------------------------------ measurements apart

FOUR = ("cpu", "mem", "disk", "net")


def parts_of(rows: list[Any]) -> tuple[list[Any], list[list[Any]]]:
    """Measurements; times and columns."""
    width = len(FIELDS) + 2
    stride = 2 + 2 * width
    return rows[0::stride], [rows[i::stride] for i in (1, *range(2 + width, stride))]


def by_numbers(rows: list[Any]) -> list[list[Any]]:
    """Where each measurement stands, then `itemgetter` on each column."""
    names, columns = parts_of(rows)
    groups: dict[str, list[int]] = {name: [] for name in FOUR}
    for i, name in enumerate(names):
        groups[name].append(i)
    return [list(itemgetter(*n)(column)) for n in groups.values() for column in columns]


def by_rows(rows: list[Any]) -> list[list[Any]]:
    """What is used: each row onto the list of its measurement, and strides of that."""
    names, columns = parts_of(rows)
    groups: dict[str, list[Any]] = {name: [] for name in FOUR}
    for name, row in zip(names, zip(*columns, strict=True), strict=True):
        groups[name].extend(row)
    stride = len(columns)
    return [group[i::stride] for group in groups.values() for i in range(stride)]


def by_compress(rows: list[Any]) -> list[list[Any]]:
    """All names compared with each measurement."""
    names, columns = parts_of(rows)
    chosen = [[name == one for name in names] for one in FOUR]
    return [list(itertools.compress(column, which)) for which in chosen for column in columns]


def groupings() -> list[Case]:
    """Ways to tell the rows of four measurements apart."""

    def make(values: list[Values], _: random.Random) -> list[Any]:
        return flat(values, FOUR)[2 + len(FIELDS)]

    def check(found: list[list[Any]]) -> None:
        assert sum(map(len, found)) == 6_000

    inputs = sets_of(1_000, make)
    ways: list[Callable[[Any], Any]] = [by_numbers, by_rows, by_compress]
    return [Case(f"group {way.__name__}", way, inputs, 1_000, check) for way in ways]


# ------------------------------------------------------------------------------------------- runner


def measure(cases: Sequence[Case], repeats: int) -> list[list[float]]:
    """Samples in ns a row for each case; the cases take turns."""
    loops = []
    for case in cases:
        for given in case.inputs:
            case.check(case.fn(given))
        loops.append(max(1, round(SAMPLE_S / max(sample_s(case, 1), 1e-6))))
    samples: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for case, loop, found in zip(cases, loops, samples, strict=True):
            found.append(sample_s(case, loop) * 1e9 / case.rows)
    return samples


def sample_s(case: Case, loops: int) -> float:
    """Mean processor time of one call, over all inputs as often as it says."""
    fn, inputs = case.fn, case.inputs
    gc.collect()
    gc.disable()
    try:
        start = time.thread_time()
        for _ in range(loops):
            for given in inputs:
                fn(given)
        return (time.thread_time() - start) / (loops * len(inputs))
    finally:
        gc.enable()


def main() -> int:
    """Run the cases that the command line picks; the exit code is 1 when there is none."""
    parser = argparse.ArgumentParser(description="Rows of calls and handles to encoded columns.")
    parser.add_argument("-k", metavar="WORD", default="", help="only cases with WORD in the name")
    parser.add_argument("--repeats", type=int, default=9, help="samples of each (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    args = parser.parse_args()
    bytes(KEPT_BYTES)  # as every client does: without it, lists of 10 000 rows come page by page
    everything = [*conversions(), *extractions(), *proofs(), *groupings()]
    cases = [case for case in everything if args.k in case.name]
    samples = measure(cases, args.repeats)
    print(f"{'ns of processor time a row':48}{'best':>9}{'median':>9}")
    for case, found in zip(cases, samples, strict=True):
        print(f"{case.name:48}{min(found):9.1f}{statistics.median(found):9.1f}")
    if args.json:
        results = [
            {
                "name": case.name,
                "rows": case.rows,
                "best_ns_per_row": min(found),
                "median_ns_per_row": statistics.median(found),
                "samples_ns_per_row": found,
            }
            for case, found in zip(cases, samples, strict=True)
        ]
        report = {"environment": environment(), "results": results}
        args.json.write_text(json.dumps(report, indent=2))
    return 0 if cases else 1


if __name__ == "__main__":
    raise SystemExit(main())
