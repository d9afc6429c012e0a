"""Ways to take a row, one beside the other: why the hot calls of the client look as they do.

Each way takes the same rows and must have kept them all. They alternate; the garbage collector
runs in one half of the samples, as in a program, and not in the other, as in `timeit`. Processor
time is what counts: other work on the machine hits it less than the clock.

    python -m benchmarks.client.bench_variants              all of them
    python -m benchmarks.client.bench_variants -k handle    those of a bound handle
    python -m benchmarks.client.bench_variants --freed      with the end of what was kept
    python -m benchmarks.client.bench_variants --events     calls that one log call makes
"""

from __future__ import annotations

import argparse
import collections
import gc
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from time import time_ns
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

TAGS = ("server042", "eu-west1")
FIELDS = ("user", "system", "idle")
ROWS = 100_000
_UNIT = "ns of processor time a call"
REPEATS = 9

#: Takes one row; holds what it took.
Taker = tuple[Callable[..., None], Callable[[], int], Callable[[], None]]
NEVER = sys.maxsize


class Marked:
    """A list, and the length at which a call has to ask.

    Attributes:
        queues: Itself, for rows of as many values as there are here, or fewer.
    """

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.queues = [self] * (1 + len(TAGS) + len(FIELDS))
        self.mark = NEVER
        self.lock = threading.Lock()

    def notice(self) -> None:
        """Never, in these measurements."""
        raise AssertionError("BUG: the mark was reached")


class Row(msgspec.Struct, gc=False):
    """A row as an object."""

    measurement: str
    time_ns: int
    values: dict[str, Any]


# ------------------------------------------------------------------------------ rows by name


class ByName(Marked):
    """Ways of `client.log(measurement, /, **values)`."""

    def flat(self, measurement: str, /, **values: Any) -> None:
        """What the client does: names and values in the list of rows that have as many."""
        try:
            queue = self.queues[len(values)]
        except IndexError:
            raise AssertionError("BUG: another number of values") from None
        rows = queue.rows
        if len(rows) >= queue.mark:
            queue.notice()
        rows += [measurement, time_ns(), *values, *values.values()]

    def flat_tuple(self, measurement: str, /, **values: Any) -> None:
        """The same as a tuple, which is made of a list."""
        try:
            queue = self.queues[len(values)]
        except IndexError:
            raise AssertionError("BUG: another number of values") from None
        rows = queue.rows
        if len(rows) >= queue.mark:
            queue.notice()
        rows += (measurement, time_ns(), *values, *values.values())

    def counted(self, measurement: str, /, **values: Any) -> None:
        """In one list for rows of any number of values, with that number."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows += [measurement, time_ns(), len(values), *values, *values.values()]

    def names_kept(self, measurement: str, /, **values: Any) -> None:
        """The names as one tuple, which stays."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows += (measurement, time_ns(), tuple(values), *values.values())

    def kept(self, measurement: str, /, **values: Any) -> None:
        """The dict of the call, which stays."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows += (measurement, time_ns(), values)

    def kept_unmarked(self, measurement: str, /, **values: Any) -> None:
        """Without a bound."""
        rows = self.rows
        rows += (measurement, time_ns(), values)

    def tuples(self, measurement: str, /, **values: Any) -> None:
        """A tuple a row."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows.append((measurement, time_ns(), values))

    def objects(self, measurement: str, /, **values: Any) -> None:
        """A Struct a row."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows.append(Row(measurement, time_ns(), values))

    def locked(self, measurement: str, /, **values: Any) -> None:
        """Under a lock."""
        with self.lock:
            rows = self.rows
            if len(rows) >= self.mark:
                self.notice()
            rows += (measurement, time_ns(), values)

    def untimed(self, measurement: str, /, **values: Any) -> None:
        """Without the time: what the clock costs."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows += (measurement, 0, values)

    def sorted(self, measurement: str, /, **values: Any) -> None:
        """With tags and fields told apart in the call."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        tags = {name: value for name, value in values.items() if isinstance(value, str)}
        fields = {name: value for name, value in values.items() if not isinstance(value, str)}
        rows += (measurement, time_ns(), tags, fields)

    @contextmanager
    def _guarded(self) -> Any:
        yield self.rows

    def managed(self, measurement: str, /, **values: Any) -> None:
        """Inside a context manager of contextlib."""
        with self._guarded() as rows:
            rows += (measurement, time_ns(), values)


def by_name_list(method: str, stride: int) -> Taker:
    """One of the ways of `ByName`."""
    kept = ByName()
    return getattr(kept, method), lambda: len(kept.rows) // stride, kept.rows.clear


def by_name_deque() -> Taker:
    """Onto a deque, which is bounded by itself but drops the oldest."""
    rows: collections.deque[Any] = collections.deque()
    append = rows.append

    def take(measurement: str, /, **values: Any) -> None:
        append((measurement, time_ns(), values))

    return take, lambda: len(rows), rows.clear


def by_name_queue() -> Taker:
    """Onto a queue.SimpleQueue."""
    rows: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def take(measurement: str, /, **values: Any) -> None:
        rows.put((measurement, time_ns(), values))

    def clear() -> None:
        while not rows.empty():
            rows.get()

    return take, rows.qsize, clear


def by_name_closure() -> Taker:
    """A function made for one client, which looks nothing up in it."""
    kept = Marked()
    rows, extend = kept.rows, kept.rows.extend

    def take(measurement: str, /, **values: Any) -> None:
        if len(rows) >= kept.mark:
            kept.notice()
        extend((measurement, time_ns(), values))

    return take, lambda: len(rows) // 3, rows.clear


BY_NAME: dict[str, Callable[[], Taker]] = {
    "names and values, a list (the client)": lambda: by_name_list("flat", 12),
    "names and values, a tuple": lambda: by_name_list("flat_tuple", 12),
    "with their number, in one list for all": lambda: by_name_list("counted", 13),
    "values and a tuple of the names": lambda: by_name_list("names_kept", 8),
    "the dict": lambda: by_name_list("kept", 3),
    "the dict, a function of one client": by_name_closure,
    "the dict, no mark": lambda: by_name_list("kept_unmarked", 3),
    "the dict, no time": lambda: by_name_list("untimed", 3),
    "list.append(tuple)": lambda: by_name_list("tuples", 1),
    "list.append(Struct)": lambda: by_name_list("objects", 1),
    "deque.append(tuple), no mark": by_name_deque,
    "SimpleQueue.put(tuple), no mark": by_name_queue,
    "flat list under a Lock": lambda: by_name_list("locked", 3),
    "flat list in a context manager": lambda: by_name_list("managed", 3),
    "tags and fields told apart in the call": lambda: by_name_list("sorted", 4),
}


# --------------------------------------------------------------------------- rows by place

_GENERATED = """\
def make(state, rows, extend, append, tags, now):
    def flat(user, system, idle):
        if len(rows) >= state.mark:
            state.notice()
        extend((tags, now(), user, system, idle))
    def tuples(user, system, idle):
        if len(rows) >= state.mark:
            state.notice()
        append((tags, now(), user, system, idle))
    return {"flat": flat, "tuples": tuples}
"""


def generated(which: str, stride: int) -> Taker:
    """A function compiled for its three fields."""
    kept, made = Marked(), dict[str, Any]()
    exec(compile(_GENERATED, "<generated>", "exec"), made)
    ways = made["make"](kept, kept.rows, kept.rows.extend, kept.rows.append, TAGS, time_ns)
    return ways[which], lambda: len(kept.rows) // stride, kept.rows.clear


class ByPlace(Marked):
    """Ways of `handle.log(*values)` as methods."""

    def varargs(self, *values: Any) -> None:
        """Any number, which has to be checked."""
        rows = self.rows
        if len(values) != len(FIELDS):
            raise TypeError("wrong number of values")
        if len(rows) >= self.mark:
            self.notice()
        rows += (TAGS, time_ns(), *values)

    def varargs_kept(self, *values: Any) -> None:
        """The tuple of arguments as it is."""
        rows = self.rows
        if len(values) != len(FIELDS):
            raise TypeError("wrong number of values")
        if len(rows) >= self.mark:
            self.notice()
        rows += (TAGS, time_ns(), values)

    def method(self, user: Any, system: Any, idle: Any) -> None:
        """A signature of its own, as a method."""
        rows = self.rows
        if len(rows) >= self.mark:
            self.notice()
        rows += (TAGS, time_ns(), user, system, idle)

    def locked(self, user: Any, system: Any, idle: Any) -> None:
        """Under a lock."""
        with self.lock:
            rows = self.rows
            if len(rows) >= self.mark:
                self.notice()
            rows += (TAGS, time_ns(), user, system, idle)

    def five(self, user: Any, system: Any, idle: Any) -> None:
        """A list for each column."""
        self.rows.append(time_ns())
        self.columns[0].append(user)
        self.columns[1].append(system)
        self.columns[2].append(idle)

    columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])


def by_place(method: str, stride: int) -> Taker:
    """One of the ways of `ByPlace`."""
    kept = ByPlace()
    kept.columns = ([], [], [])

    def clear() -> None:
        for rows in (kept.rows, *kept.columns):
            rows.clear()

    return getattr(kept, method), lambda: len(kept.rows) // stride, clear


BY_PLACE: dict[str, Callable[[], Taker]] = {
    "generated, extend(tuple) (the client)": lambda: generated("flat", 5),
    "generated, append(tuple)": lambda: generated("tuples", 1),
    "method with three names, += tuple": lambda: by_place("method", 5),
    "*values, += (tags, now, *values)": lambda: by_place("varargs", 5),
    "*values, += (tags, now, values)": lambda: by_place("varargs_kept", 3),
    "a list for each column": lambda: by_place("five", 1),
    "method under a Lock": lambda: by_place("locked", 5),
}


# ---------------------------------------------------------------------------------- timing


def call_by_name(take: Callable[..., None], times: int) -> None:
    """Two tags and three floats."""
    for _ in range(times):
        take("cpu", host="server042", region="eu-west1", user=1.5, system=2.5, idle=96.0)


def call_by_place(take: Callable[..., None], times: int) -> None:
    """Three floats."""
    for _ in range(times):
        take(1.5, 2.5, 96.0)


Call = Callable[[Callable[..., None], int], None]


def sample_ns(taker: Taker, call: Call, *, collect: bool, freed: bool = False) -> float:
    """Nanoseconds a call, the end of its row too if it is `freed`; what was kept is counted."""
    take, count, clear = taker
    clear()
    gc.collect()
    if not collect:
        gc.disable()
    try:
        start = time.thread_time_ns()
        call(take, ROWS)
        taken = time.thread_time_ns() - start
    finally:
        gc.enable()
    assert count() == ROWS, "rows are missing"
    start = time.thread_time_ns()
    clear()
    return (taken + (time.thread_time_ns() - start if freed else 0)) / ROWS


def measure(
    ways: Sequence[tuple[str, Taker, Call]], *, freed: bool
) -> Iterable[tuple[str, list[float]]]:
    """Best and median with the collector, then without it, of ways that alternate."""
    samples: dict[tuple[str, bool], list[float]] = collections.defaultdict(list)
    for _ in range(REPEATS):
        for name, taker, call in ways:
            for collect in (True, False):
                found = sample_ns(taker, call, collect=collect, freed=freed)
                samples[name, collect].append(found)
    for name, _, _ in ways:
        both = [samples[name, collect] for collect in (True, False)]
        yield name, [figure for each in both for figure in (min(each), statistics.median(each))]


def clock_costs() -> list[tuple[str, float]]:
    """Nanoseconds of one reading of each clock, by itself, the loop taken off."""
    clocks: dict[str, Callable[[], object]] = {
        "time.time_ns": time.time_ns,
        "time.time": time.time,
        "time.perf_counter_ns": time.perf_counter_ns,
        "time.monotonic_ns": time.monotonic_ns,
    }
    return [(name, _loop_ns(clock)) for name, clock in clocks.items()]


def _loop_ns(clock: Callable[[], object]) -> float:
    def best(work: Callable[[], None]) -> float:
        samples = []
        for _ in range(REPEATS):
            start = time.perf_counter_ns()
            work()
            samples.append((time.perf_counter_ns() - start) / ROWS)
        return min(samples)

    def reading() -> None:
        for _ in range(ROWS):
            clock()

    def nothing() -> None:
        for _ in range(ROWS):
            pass

    return best(reading) - best(nothing)


# ---------------------------------------------------------------------------------- events


def events_of(call: Callable[[], object]) -> list[str]:
    """Calls that one call makes, of Python and of C, as `sys.setprofile` sees them."""
    found: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            found.append(frame.f_code.co_name)
        elif event == "c_call" and argument is not sys.setprofile:
            found.append(argument.__name__)

    sys.setprofile(note)
    call()
    sys.setprofile(None)
    return found


def report_events(console: Console) -> None:
    """Print what one log call calls, once the queue has been granted rows."""
    from arc.client import Client
    from benchmarks.client import sink

    with sink.running() as taker, Client(taker.url, linger_s=3600.0) as client:
        cpu = client.series("cpu", dict(zip(("host", "region"), TAGS, strict=True)), FIELDS)
        ways: dict[str, Callable[[], object]] = {
            "client.log": lambda: client.log("cpu", host="server042", user=1.5),
            "handle.log": lambda: cpu.log(1.5, 2.5, 96.0),
            "handle.log_at": lambda: cpu.log_at(1_790_000_000_000_000_000, 1.5, 2.5, 96.0),
        }
        for name, call in ways.items():
            call()
            inside = [event for event in events_of(call) if event != "<lambda>"]
            console.print(f"{name}: {', '.join(inside)}", markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(description="Ways to take a row.")
    parser.add_argument("-k", metavar="WORD", default="", help="only ways with WORD in their name")
    parser.add_argument("--freed", action="store_true", help="time the end of the rows as well")
    parser.add_argument("--events", action="store_true", help="calls that one log call makes")
    args, console = parser.parse_args(argv), Console(width=120)
    if args.events:
        report_events(console)
        return 0
    named = [(f"by name: {name}", make(), call_by_name) for name, make in BY_NAME.items()]
    named += [(f"handle: {name}", make(), call_by_place) for name, make in BY_PLACE.items()]
    out = Table(box=None, pad_edge=False)
    for header in (_UNIT, "best", "median", "best, gc off", "median, gc off"):
        out.add_column(header, justify="left" if header == _UNIT else "right")
    for name, figures in measure([way for way in named if args.k in way[0]], freed=args.freed):
        out.add_row(name, *(f"{figure:.0f}" for figure in figures))
    console.print(out)
    for clock, cost in clock_costs():
        console.print(f"{clock}: {cost:.1f} ns", highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
