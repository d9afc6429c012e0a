"""Tell the unit of a time column and convert it to microseconds, in each unit and shape.

`known` is what the fast decoder does: the kernel that read the values has seen their smallest
and largest, and where every clock is set these tell the unit. `unknown` looks at the values
first; `unset` has one clock in ten at zero, so that each value has to be looked at by itself;
`python` is the rule of the protocol, value by value.

    python -m benchmarks.bench_time_units              everything, some 15 s
    python -m benchmarks.bench_time_units -k known
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import DEFAULT_START_US
from benchmarks.harness import Bench, main
from ingest.timestamps import CLOCK_SET, EpochTimes, TimeUnit, to_epoch_us, unit_of

ROWS = 1_000
WHERE = "column 'time'"
PER_SECOND = {TimeUnit.S: 1, TimeUnit.MS: 10**3, TimeUnit.US: 10**6, TimeUnit.NS: 10**9}


def times_in(unit: TimeUnit, rows: int = ROWS) -> NDArray[np.int64]:
    """Times one second apart: int64, shape (rows,), in `unit`."""
    seconds = DEFAULT_START_US // 10**6 + np.arange(rows, dtype=np.int64)
    return seconds * PER_SECOND[unit]


def python_rule(times: list[Any]) -> EpochTimes:
    """The protocol's rule in plain Python: the slow twin of `to_epoch_us`."""
    units = {unit_of(abs(time)) for time in times if abs(time) >= CLOCK_SET} or {TimeUnit.S}
    (unit,) = units
    stored = [time * 10**6 // PER_SECOND[unit] for time in times]
    return EpochTimes(np.array(stored, dtype=np.int64), min(stored), max(stored))


def bench(name: str, times: NDArray[Any], fn: Callable[[NDArray[Any]], EpochTimes]) -> Bench:
    """`fn` on a fresh copy each time, since it may work in place; checked against Python."""
    wanted = python_rule([int(time) for time in times.tolist()])

    def check(found: EpochTimes) -> None:
        assert np.array_equal(found.time_us, wanted.time_us)
        assert (found.min_us, found.max_us) == (wanted.min_us, wanted.max_us)

    return Bench(name, lambda: fn(times.copy()), len(times), times.nbytes, check)


def unknown(times: NDArray[Any]) -> EpochTimes:
    """Nothing is known of the values."""
    return to_epoch_us(times, None, WHERE)


def known(bounds: tuple[int, int]) -> Callable[[NDArray[Any]], EpochTimes]:
    """Their smallest and largest are known."""
    return lambda times: to_epoch_us(times, None, WHERE, bounds)


def with_unset_clocks(times: NDArray[Any]) -> NDArray[Any]:
    """The same times, one in ten of them 0."""
    unset = np.random.default_rng(9).random(len(times)) < 0.1
    return np.where(unset, 0, times)


def benches() -> list[Bench]:
    """Each unit as integers, in four ways, and one as floats; the copy alone as the floor."""
    out: list[Bench] = []
    for unit in PER_SECOND:  # minutes and hours are only ever named, never told
        times = times_in(unit)
        bounds = int(times[0]), int(times[-1])
        out += [
            bench(f"known {unit}", times, known(bounds)),
            bench(f"unknown {unit}", times, unknown),
            bench(f"unset {unit}", with_unset_clocks(times), unknown),
            bench(f"python {unit}", times, lambda times: python_rule(times.tolist())),
        ]
    out.append(bench("floats s", times_in(TimeUnit.S).astype(np.float64), unknown))
    us = times_in(TimeUnit.US)
    floor = EpochTimes(us, int(us[0]), int(us[-1]))
    out.append(bench("copy only", us, lambda times: floor._replace(time_us=times)))
    return out


if __name__ == "__main__":
    raise SystemExit(main(benches()))
