"""Decode one body of line protocol: the fast path, its slow twin, and a floor to compare with.

`decode` is what the daemon runs; `twin` is `decode_slow`, which it must agree with; `split` is
`bytes.split` into lines and at the commas of each, where the work of reading only begins.

    python -m benchmarks.bench_line_protocol                  everything, about a minute
    python -m benchmarks.bench_line_protocol -k "usual 1000"  3 tags and 5 fields, in three ways
    python -m benchmarks.bench_line_protocol -k cells         what one cell of each sort costs
    python -m benchmarks.bench_line_protocol -k overhead      fixed cost of a request, a measurement

In the names: `escaped` has an escaped space in a tag of every line, `quoted` an escaped quote in a
string, `mixed` three measurements in turn, of which each has fields of its own, `shuffled` keys in
another order in every line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.bench_decode import Rotation
from benchmarks.harness import Bench, main
from ingest.columns import ColumnBatch
from ingest.limits import Limits
from ingest.line_protocol import decode, decode_fast
from ingest.line_protocol_slow import decode_slow
from ingest.testing import assert_same_batches

LIMITS = Limits()
NOW_US = 1_768_473_000_000_000
START_NS = NOW_US * 1000

#: Makes the line of a row without its time.
Line = Callable[[np.random.Generator, int], str]


def usual(rng: np.random.Generator, row: int, space: str = "") -> str:
    """3 tags and 5 fields, some 150 bytes with the time."""
    host, region, idle = rng.integers(1000), rng.integers(1, 9), float(100 * rng.random())
    return (
        f"cpu,host=server{host:03d}{space},region=us-east-{region},env=production "
        f"usage_user={100 * rng.random():.2f},usage_system={100 * rng.random():.2f},"
        f"usage_idle={idle!r},processes={rng.integers(5000)}i,load={rng.random():.4f}"
    )


def escaped(rng: np.random.Generator, row: int) -> str:
    """The usual line with a space in a tag."""
    return usual(rng, row, "\\ x")


def quoted(rng: np.random.Generator, row: int) -> str:
    """The usual line and a string with quotes in it."""
    return usual(rng, row) + ',state="is \\"up\\" since yesterday"'


def mixed(rng: np.random.Generator, row: int) -> str:
    """Three measurements in turn, as an agent sends them."""
    host = f"host=server{rng.integers(1000):03d}"
    return (
        f"cpu,cpu=cpu{row % 8},{host} usage_user={100 * rng.random()!r},usage_idle=5.5",
        f"mem,{host} used={rng.integers(2**36)}i,free={rng.integers(2**36)}i,active=1i",
        f'disk,device=sda1,{host},path=/var/lib used_percent={100 * rng.random()!r},mode="rw"',
    )[row % 3]


def shuffled(rng: np.random.Generator, row: int) -> str:
    """Keys in another order in every line, so that none is foretold."""
    tags = [f"tag{i}=v{rng.integers(100)}" for i in rng.permutation(3)]
    fields = [f"field{i}={100 * rng.random():.2f}" for i in rng.permutation(5)]
    return ",".join(["cpu", *tags]) + " " + ",".join(fields)


def bodies(line: Line, rows: int, count: int, timed: bool = True) -> list[bytes]:
    """Bodies of lines, the same ones on every machine."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        ends = (f" {START_NS + row * 1_000_000}\n" if timed else "\n" for row in range(rows))
        found.append("".join(line(rng, row) + end for row, end in enumerate(ends)).encode())
    return found


def run_decode(body: bytes) -> list[ColumnBatch]:
    """The fast path, as the daemon calls it."""
    return decode(body, NOW_US, LIMITS)


def run_twin(body: bytes) -> list[ColumnBatch]:
    """The slow twin on the same body."""
    return decode_slow(body, NOW_US, LIMITS)


def run_split(body: bytes) -> list[list[bytes]]:
    """Lines, and what stands between the commas of each."""
    return [line.split(b",") for line in body.split(b"\n")]


def decode_bench(name: str, made: Sequence[bytes], rows: int) -> Bench:
    """The fast path, which must not fall back, checked against the twin."""
    turn = Rotation(run_decode, made)

    def check(found: list[ColumnBatch]) -> None:
        assert decode_fast(turn.body(), NOW_US, LIMITS) is not None
        assert_same_batches(found, run_twin(turn.body()))

    return Bench(f"decode {name}", turn, rows, len(made[0]), check)


def twin_bench(name: str, made: Sequence[bytes], rows: int) -> Bench:
    """The slow twin, checked against the fast path."""
    turn = Rotation(run_twin, made)

    def check(found: list[ColumnBatch]) -> None:
        assert_same_batches(found, run_decode(turn.body()))

    return Bench(f"twin {name}", turn, rows, len(made[0]), check)


def split_bench(name: str, made: Sequence[bytes], rows: int) -> Bench:
    """Python lists of bytes, checked for the number of lines."""

    def check(found: list[list[bytes]]) -> None:
        assert len(found) == rows + 1

    return Bench(f"split {name}", Rotation(run_split, made), rows, len(made[0]), check)


def line_benches() -> list[Bench]:
    """The usual lines at 1 000 and 10 000 a body in three ways, the others in one."""
    out: list[Bench] = []
    for rows, count in ((1_000, 32), (10_000, 4)):
        made = bodies(usual, rows, count)
        out += [make(f"usual {rows}", made, rows) for make in (decode_bench, twin_bench)]
        out.append(split_bench(f"usual {rows}", made, rows))
    for line in (escaped, quoted, mixed, shuffled):
        out.append(decode_bench(f"{line.__name__} 1000", bodies(line, 1_000, 32), 1_000))
    return out


def cell_benches(rows: int = 1_000, count: int = 16) -> list[Bench]:
    """Lines of ten cells of one sort and no time."""
    sorts: dict[str, Callable[[np.random.Generator], Any]] = {
        "bool": lambda rng: "tf"[rng.integers(2)],
        "int 4 digits": lambda rng: f"{rng.integers(1000, 9999)}i",
        "int mixed": lambda rng: f"{int(2 ** rng.uniform(0, 60))}i",
        "float 2 decimals": lambda rng: f"{100 * rng.random():.2f}",
        "float in full": lambda rng: repr(float(100 * rng.random())),
        "string 1-40": lambda rng: '"' + "x" * int(rng.integers(1, 41)) + '"',
    }

    def line_of(make: Callable[[np.random.Generator], Any]) -> Line:
        return lambda rng, _: "m " + ",".join(f"value{i}={make(rng)}" for i in range(10))

    return [
        decode_bench(f"cells {name}", bodies(line_of(make), rows, count, False), rows)
        for name, make in sorts.items()
    ]


def overhead_benches() -> list[Bench]:
    """What a request and a measurement cost whatever they hold."""
    one = bodies(usual, 1, 4)
    many = b"".join(b"m%d v=1\n" % i for i in range(1_000))
    wide = b"m " + b",".join(b"v%d=1" % i for i in range(1_000)) + b"\n"
    return [
        decode_bench("overhead 1 line", one, 1),
        decode_bench("overhead 1000 measurements", [many], 1_000),
        decode_bench("overhead 1000 columns", [wide], 1),
    ]


def benches() -> list[Bench]:
    """All of them."""
    return line_benches() + cell_benches() + overhead_benches()


if __name__ == "__main__":
    raise SystemExit(main(benches()))
