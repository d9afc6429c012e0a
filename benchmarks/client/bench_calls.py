"""What one row costs its caller: values, handles, log calls; other clients' calls beside.

A client whose pump sleeps takes the rows, so that the call alone is timed; after each sample the
rows go to the sink, which must count as many. The loop around the calls, some 6 ns, is included
everywhere. `floor` is a call of one's own that only extends a list: nothing in Python is faster
that takes a row by name, or by place, and its time.

    python -m benchmarks.client -k calls
    python -m benchmarks.client -k construct
    python -m benchmarks.client -k bind
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import time_ns
from typing import Any

import numpy as np

from arc.client import Client
from benchmarks.client import peers
from benchmarks.client.cases import Bench, Case, Probe, Sample, expect, timed, timed_ns
from benchmarks.client.peers import Work, discard
from benchmarks.client.tables import FIELDS, TAGS

FLUSH_TIMEOUT_S = 60.0
#: In a check that is no sample.
FEW_CALLS = 1_000

_LOG, _HANDLE = "client.log, 2 tags and 3 floats", "handle, 3 floats"
LOG, HANDLE = f"calls: {_LOG}", f"calls: {_HANDLE}"
RERUN = f"calls: {peers.RERUN_SCALAR}"


class Level(enum.Enum):
    """A value that is an enum."""

    LOW = "low"
    HIGH = "high"


@contextmanager
def quiet_client(bench: Bench) -> Iterator[Client]:
    """A client that sends nothing before it is told to, whatever a sample logs."""
    client = Client(
        bench.sink.url,
        batch_rows=1_000_000,
        max_queued_rows=100_000_000,
        max_queued_bytes=1 << 40,
        linger_s=3600.0,
    )
    with client:
        yield client


def deliver(client: Client, bench: Bench, rows: int) -> None:
    """Flush to the sink, and check that it has taken so many rows."""
    bench.sink.reset(keep=True)
    expect("flush", client.flush(FLUSH_TIMEOUT_S), True)
    expect("rows at the sink", bench.sink.tally().rows, rows)


def call_case(group: str, name: str, make: Callable[[Client], Work]) -> Case:
    """A call that takes one row."""

    @contextmanager
    def open_it(bench: Bench) -> Iterator[Probe]:
        with quiet_client(bench) as client:
            work = make(client)

            def sample(calls: int = bench.sizes.calls) -> Sample:
                taken = timed(work, calls)
                deliver(client, bench, calls)
                return taken

            yield Probe(sample, lambda: discard(sample(FEW_CALLS)))

    return Case(group, name, "ns/call", open_it)


# -------------------------------------------------------------------------------- the calls


def log(client: Client) -> Work:
    """One row by name."""

    def work(times: int) -> None:
        for _ in range(times):
            client.log("cpu", host="server042", region="eu-west1", user=1.5, system=2.5, idle=96.0)

    return work


def log_with_time(client: Client) -> Work:
    """One row by name, with a time of its own."""
    now = time_ns()

    def work(times: int) -> None:
        for _ in range(times):
            client.log(
                "cpu",
                time=now,
                host="server042",
                region="eu-west1",
                user=1.5,
                system=2.5,
                idle=96.0,
            )

    return work


def log_handle(client: Client) -> Work:
    """One row of a bound series."""
    cpu = client.series("cpu", TAGS, FIELDS)

    def work(times: int) -> None:
        for _ in range(times):
            cpu.log(1.5, 2.5, 96.0)

    return work


def log_handle_by_name(client: Client) -> Work:
    """One row of a bound series, its values by name."""
    cpu = client.series("cpu", TAGS, FIELDS)

    def work(times: int) -> None:
        for _ in range(times):
            cpu.log(user=1.5, system=2.5, idle=96.0)

    return work


def log_at(client: Client) -> Work:
    """One row of a bound series at another time than now."""
    cpu = client.series("cpu", TAGS, FIELDS)
    now = time_ns()

    def work(times: int) -> None:
        for _ in range(times):
            cpu.log_at(now, 1.5, 2.5, 96.0)

    return work


@contextmanager
def _floor_by_name(bench: Bench) -> Iterator[Probe]:
    """A function that takes a row by name and extends a list by its dict and the time."""
    rows: list[Any] = []

    def take(measurement: str, /, **values: Any) -> None:
        nonlocal rows
        rows += (measurement, time_ns(), values)

    def work(times: int) -> None:
        for _ in range(times):
            take("cpu", host="server042", region="eu-west1", user=1.5, system=2.5, idle=96.0)

    yield _floor(bench, rows, 3, work)


@contextmanager
def _floor_by_place(bench: Bench) -> Iterator[Probe]:
    """A function that takes three values and extends a list by them and the time."""
    rows: list[Any] = []

    def take(user: Any, system: Any, idle: Any) -> None:
        nonlocal rows
        rows += (TAGS, time_ns(), user, system, idle)

    def work(times: int) -> None:
        for _ in range(times):
            take(1.5, 2.5, 96.0)

    yield _floor(bench, rows, 5, work)


def _floor(bench: Bench, rows: list[Any], stride: int, work: Work) -> Probe:
    def sample() -> Sample:
        rows.clear()
        taken = timed(work, bench.sizes.calls)
        expect("rows in the list", len(rows) // stride, bench.sizes.calls)
        return taken

    return Probe(sample, lambda: discard(sample()))


def calls() -> list[Case]:
    """Log calls, ours first."""
    return [
        call_case("calls", _LOG, log),
        call_case("calls", _HANDLE, log_handle),
        call_case("calls", "handle, 3 floats by name", log_handle_by_name),
        call_case("calls", "handle.log_at, 3 floats", log_at),
        call_case("calls", "client.log with time=, 2 tags and 3 floats", log_with_time),
        Case(
            "calls", "floor by name: 5 values and the time onto a list", "ns/call", _floor_by_name
        ),
        Case("calls", "floor by place: 3 values and the time", "ns/call", _floor_by_place),
        *peers.call_cases(),
    ]


# -------------------------------------------------------------------------- values and handles


def log_scalar(client: Client) -> Work:
    """A float."""

    def work(times: int) -> None:
        for _ in range(times):
            client.log("kinds", value=1.5)

    return work


def log_list(client: Client) -> Work:
    """A new list of three floats."""

    def work(times: int) -> None:
        for _ in range(times):
            client.log("kinds", value=[1.5, 2.5, 96.0])

    return work


def log_array(client: Client) -> Work:
    """A new 3 x 3 array: a copy of one, the cheapest way to make it."""
    matrix = np.eye(3)

    def work(times: int) -> None:
        for _ in range(times):
            client.log("kinds", value=matrix.copy())

    return work


def log_string(client: Client) -> Work:
    """A new text, made of two."""

    def work(times: int) -> None:
        for i in range(times):
            client.log("kinds", value=f"reset by peer {i}")

    return work


def log_bytes(client: Client) -> Work:
    """A new bytes object of 16 bytes."""
    source = bytearray(16)

    def work(times: int) -> None:
        for _ in range(times):
            client.log("kinds", value=bytes(source))

    return work


def log_enum(client: Client) -> Work:
    """A member of an enum, looked up."""

    def work(times: int) -> None:
        for _ in range(times):
            client.log("kinds", level=Level.HIGH, value=1)

    return work


def log_none(client: Client) -> Work:
    """None, beside a value, as a row of nulls alone says nothing."""

    def work(times: int) -> None:
        for _ in range(times):
            client.log("kinds", value=None, count=1)

    return work


def construct() -> list[Case]:
    """A value, made and logged."""
    ours = {
        "scalar": log_scalar,
        "list of 3": log_list,
        "3 x 3 array": log_array,
        "string": log_string,
        "bytes": log_bytes,
        "enum": log_enum,
        "None": log_none,
    }
    named = [call_case("construct", name, make) for name, make in ours.items()]
    return [*named, *peers.construct_cases()]


@contextmanager
def _bind(bench: Bench) -> Iterator[Probe]:
    """A handle for series after series of one shape; the last of them takes a row."""
    with quiet_client(bench) as client:

        def sample(times: int = bench.sizes.slow_calls) -> float:
            hosts = [f"server{i}" for i in range(times)]
            made: list[Any] = [None]

            def work(_times: int) -> None:
                for host in hosts:
                    made[0] = client.series("cpu", {"host": host, "region": "eu-west1"}, FIELDS)

            taken = timed_ns(work, times)
            made[0].log(1.5, 2.5, 96.0)
            deliver(client, bench, 1)
            return taken

        yield Probe(sample, lambda: discard(sample(FEW_CALLS)))


@contextmanager
def _bind_new(bench: Bench) -> Iterator[Probe]:
    """The first handle of a shape, whose log function has to be compiled."""
    with quiet_client(bench) as client:
        number = [0]

        def work(times: int) -> None:
            for _ in range(times):
                number[0] += 1
                client.series(f"cpu{number[0]}", TAGS, FIELDS).log(1.5, 2.5, 96.0)

        def sample() -> float:
            times = max(1, bench.sizes.slow_calls // 50)
            taken = timed_ns(work, times)
            deliver(client, bench, times)
            return taken

        yield Probe(sample, lambda: discard(sample()))


def bind() -> list[Case]:
    """`client.series`."""
    return [
        Case("bind", "client.series, a shape that is known", "ns/call", _bind),
        Case("bind", "client.series, a shape that is new", "ns/call", _bind_new),
    ]


def cases() -> list[Case]:
    """Everything that happens in the caller's call."""
    return [*construct(), *bind(), *calls()]
