"""What one measurement is, and the runner: samples of all cases of a group alternate.

In: `Case`s. Out: one `Figure` for each, with every sample. A case is checked before it is timed
and again afterwards, and may check every sample as well; one whose check fails has no figure but
a reason, and makes the run fail. One that needs a package that is not there has no figure either,
and the run goes on. No figure is ever made up: what was not measured is None.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.client import sink
from benchmarks.client.sink import SinkProcess

#: How a figure is read: of times the least is best, of rates the greatest.
LESS, MORE = "less", "more"
#: Of a further figure: time of the processor, in the unit of the case.
CPU = "cpu"
#: What a sample gives: its figure, and further ones by name.
Sample: TypeAlias = float | tuple[float, Mapping[str, float]]


class CheckError(AssertionError):
    """What came out is not what went in: a figure of it would be worth nothing."""


class AbsentError(RuntimeError):
    """A package that is compared with is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Sizes:
    """How much work one sample does.

    Attributes:
        calls: Log calls of one sample of an isolated call.
        slow_calls: The same for calls of tens of microseconds.
        batch_rows: Rows that are encoded at once.
        batches: How often, in one sample.
        requests: Requests of one sample.
        frame_rows: Rows of a data frame.
        pipeline_rows: Rows from a call to a sink.
        end_to_end_s: Seconds of log calls at full speed, before the flush.
        timed_calls: Calls that are timed one by one.
        repeats: Samples of each case.
    """

    calls: int = 100_000
    slow_calls: int = 5_000
    batch_rows: int = 1_000
    batches: int = 1_000
    requests: int = 300
    frame_rows: int = 200_000
    pipeline_rows: int = 100_000
    end_to_end_s: float = 3.0
    timed_calls: int = 500_000
    repeats: int = 7


#: For a look at whether all is well, in half a minute.
QUICK = Sizes(
    calls=20_000,
    slow_calls=1_000,
    batches=200,
    requests=50,
    pipeline_rows=20_000,
    end_to_end_s=0.5,
    timed_calls=50_000,
    repeats=3,
)


class Bench:
    """What the cases of one run share: sizes, a directory, one sink, whatever else was opened."""

    def __init__(self, sizes: Sizes, directory: Path, stack: ExitStack) -> None:
        """Args: `directory` is for this run alone; `stack` closes what `once` opens."""
        self.sizes, self.directory = sizes, directory
        self._stack = stack
        self._opened: dict[str, Any] = {}

    def once(self, name: str, open_it: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What `open_it` gives, opened for the first who asks and closed at the end of the run."""
        if name not in self._opened:
            self._opened[name] = self._stack.enter_context(open_it())
        return self._opened[name]

    @property
    def sink(self) -> SinkProcess:
        """The sink of this run."""
        found: SinkProcess = self.once("sink", sink.running)
        return found


@contextmanager
def opened(sizes: Sizes, directory: Path) -> Iterator[Bench]:
    """A `Bench` whose sink and daemon end with the block."""
    with ExitStack() as stack:
        yield Bench(sizes, directory, stack)


def _no_more() -> None:
    """Nothing is left to check."""


@dataclass(frozen=True)
class Probe:
    """A case that is ready.

    Attributes:
        sample: Measures once, in the unit of the case, and checks what came out. It may give
            further figures by name, each with its unit in the name.
        check: Runs the same and only checks; raises CheckError.
        finish: Checks what can only be seen at the end, once all samples were taken.
    """

    sample: Callable[[], Sample]
    check: Callable[[], None] = _no_more
    finish: Callable[[], None] = _no_more


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        group: Cases of one group alternate, and share a table.
        name: What `-k` finds, with the group before it.
        unit: Of a sample.
        open: Gets it ready; raises AbsentError when a package is not there.
        better: LESS or MORE.
        whose: "arc", or the package that is compared.
    """

    group: str
    name: str
    unit: str
    open: Callable[[Bench], AbstractContextManager[Probe]]
    better: str = LESS
    whose: str = "arc"

    @property
    def title(self) -> str:
        """Group and name."""
        return f"{self.group}: {self.name}"


@dataclass
class Figure:
    """What became of a case.

    Attributes:
        case: What was measured.
        samples: In the unit of the case; empty when there is no figure.
        beside: Further figures of the same samples, by name.
        why: Why there is no figure; "" when there is one.
        failed: A check failed, which is another thing than a package that is not there.
    """

    case: Case
    samples: list[float] = field(default_factory=list)
    beside: dict[str, list[float]] = field(default_factory=dict)
    why: str = ""
    failed: bool = False

    @property
    def best(self) -> float | None:
        """The least of times, the greatest of rates; None when there is no figure."""
        if not self.samples:
            return None
        return min(self.samples) if self.case.better == LESS else max(self.samples)

    @property
    def median(self) -> float | None:
        """None when there is no figure."""
        return statistics.median(self.samples) if self.samples else None

    def drop(self, why: str, *, failed: bool) -> None:
        """Say why there is no figure, and forget the samples."""
        self.why, self.failed, self.samples, self.beside = why, failed, [], {}

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        value, beside = sample if isinstance(sample, tuple) else (sample, {})
        self.samples.append(value)
        for name, more in beside.items():
            self.beside.setdefault(name, []).append(more)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; null where nothing was measured."""
        case = self.case
        return {
            "group": case.group,
            "name": case.name,
            "whose": case.whose,
            "unit": case.unit,
            "better": case.better,
            "best": self.best,
            "median": self.median,
            "samples": self.samples or None,
            "beside": self.beside,
            "failed": self.failed,
            "why": self.why or None,
        }


def run(cases: Sequence[Case], bench: Bench, tell: Callable[[str], None]) -> list[Figure]:
    """Measure all cases, one group after another.

    Args:
        cases: In the order of the report.
        bench: What they share.
        tell: Called with a line of progress.
    """
    figures = [Figure(case) for case in cases]
    for group in dict.fromkeys(case.group for case in cases):
        tell(group)
        run_group([figure for figure in figures if figure.case.group == group], bench)
    return figures


def run_group(figures: Sequence[Figure], bench: Bench) -> None:
    """Get the cases of one group ready, then take their samples in turn: A B A B."""
    with ExitStack() as stack:
        probes: list[tuple[Figure, Probe]] = []
        for figure in figures:
            with _reasons(figure):
                probe = stack.enter_context(figure.case.open(bench))
                probe.check()
                probes.append((figure, probe))
        for _ in range(bench.sizes.repeats):
            for figure, probe in probes:
                if not figure.why:
                    with _reasons(figure):
                        figure.add(probe.sample())
        for figure, probe in probes:
            if not figure.why:
                with _reasons(figure):
                    probe.finish()


@contextmanager
def _reasons(figure: Figure) -> Iterator[None]:
    """Turn what went wrong with one case into its reason; the others go on."""
    try:
        yield
    except AbsentError as error:
        figure.drop(str(error), failed=False)
    except Exception as error:  # a case that breaks must not take the run with it
        figure.drop(f"{type(error).__name__}: {error}", failed=True)


def timed(work: Callable[[int], object], times: int) -> tuple[float, dict[str, float]]:
    """Nanoseconds for each of `times`, and beside them those that this thread had a processor.

    The second is what others on the machine cannot change. The garbage collector is off, as in
    `timeit`.

    Args:
        work: Does it as often as its argument says, in a loop of its own.
        times: How often.
    """
    gc.collect()
    gc.disable()
    try:
        cpu, start = time.thread_time_ns(), time.perf_counter_ns()
        work(times)
        taken, cpu = time.perf_counter_ns() - start, time.thread_time_ns() - cpu
    finally:
        gc.enable()
    return taken / times, {CPU: cpu / times}


def timed_ns(work: Callable[[int], object], times: int) -> float:
    """The first figure of `timed` alone."""
    return timed(work, times)[0]


def expect(what: str, got: object, wanted: object) -> None:
    """Raise CheckError unless the two are equal."""
    if got != wanted:
        raise CheckError(f"{what}: found {got}, wanted {wanted}")
