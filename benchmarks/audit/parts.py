"""The parts of an audit, in order: what each measures, at which sizes, and what it leaves out.

In: sizes, names of parts. Out: `Metrics`, findings, hotspots and what was wrong. A part that was
not asked for leaves figures without a value and with that reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.audit import accepted, budget, loaded, memory, package, physical, scaling, suite
from benchmarks.audit.bodies import Requests
from benchmarks.audit.cells import measure
from benchmarks.audit.matrix import cells
from benchmarks.audit.progress import Steps
from benchmarks.audit.rules import check
from benchmarks.audit.schema import (
    Benchmark,
    Cell,
    CellResult,
    Curve,
    Figure,
    Finding,
    Hotspot,
    Load,
    MemoryProfile,
    Metrics,
    Share,
    measured,
    missing,
)
from benchmarks.audit.sources import modules
from benchmarks.load.daemon import REPOSITORY, DaemonError
from benchmarks.load.generator import GeneratorError
from benchmarks.load.spec import LoadSpec

PARTS = ("static", "package", "budget", "memory", "matrix", "scaling", "load", "suite")
NOT_ASKED = "not asked for (--only)"
NOT_QUICK = "not measured by --quick"


@dataclass(frozen=True)
class Sizes:
    """How much each part does.

    Attributes:
        quick: Small.
        imports: Repeats of each import.
        rows: Of the budget, of the physical limits and of the memory profile.
        repeats: Of each of them.
        cell_repeats: Of each cell of the matrix.
        cell_requests: Of a repeat of a cell.
        scaling: Points of the curves.
        load_s: Of the load that is profiled; the others take a third of that.
        connections: Points of their curve.
        workers: The same.
    """

    quick: bool
    imports: int
    rows: int
    repeats: int
    cell_repeats: int
    cell_requests: int
    scaling: scaling.Sizes
    load_s: float
    connections: tuple[int, ...]
    workers: tuple[int, ...]


FULL = Sizes(False, 7, 1_000_000, 5, 3, 40, scaling.FULL, 12.0, (1, 16, 128, 512), (1, 2))
QUICK = Sizes(True, 2, 100_000, 3, 2, 10, scaling.QUICK, 3.0, (16,), ())

#: Of the load that is profiled.
CONNECTIONS = 16
WORKERS = 2
MEMORY_CELL = Cell("columnar", 1_000, "none")


def steps(sizes: Sizes, parts: tuple[str, ...]) -> int:
    """How many steps the parts tell of."""
    of_part = {
        "matrix": sizes.cell_repeats * len(cells(sizes.quick)),
        "load": 1 + len(sizes.workers),
        "suite": len(suite.programs()),
    }
    return sum(of_part.get(part, 1) for part in parts)


class Audit:
    """One run of the parts.

    Attributes:
        findings: Of the static rules, those that are accepted left out.
        num_accepted: How many those are.
        hotspots: Of the profile.
        why_no_hotspots: Empty when there are some.
        wrong: What was not right, in words.
    """

    def __init__(self, sizes: Sizes, parts: tuple[str, ...], tell: Steps) -> None:
        self._sizes, self._parts, self._tell = sizes, parts, tell
        self.findings: list[Finding] = []
        self.num_accepted = 0
        self.hotspots: tuple[Hotspot, ...] = ()
        self.why_no_hotspots = NOT_ASKED
        self.wrong: list[str] = []

    def run(self) -> Metrics:
        """Every part.

        Raises:
            AcceptedError: accepted.toml is wrong or stale.
        """
        self._static()
        imports, wheel = self._package()
        stages, limits = self._budget()
        memory_profile = self._memory()
        results = self._matrix()
        curves = self._scaling()
        loads, shares, more = self._load()
        return Metrics(
            cells=tuple(results),
            load=loads,
            stages=stages,
            limits=limits,
            profile_stages=shares,
            scaling=(*curves, *more),
            memory=memory_profile,
            imports=imports,
            wheel_bytes=wheel,
            benchmarks=tuple(self._suite()),
        )

    def _begins(self, part: str) -> bool:
        """Whether a part was asked for; tells of it if so."""
        if part in self._parts:
            self._tell.part(part)
        return part in self._parts

    def _static(self) -> None:
        if not self._begins("static"):
            return
        self._tell.step("rules")
        found = [finding for module in modules(REPOSITORY) for finding in check(module)]
        self.findings, self.num_accepted, stale = accepted.split(found, accepted.read())
        if stale:
            raise accepted.AcceptedError("\n".join(stale))

    def _package(self) -> tuple[tuple[Share, ...], Figure]:
        if not self._begins("package"):
            none = tuple(Share(part, missing("s", NOT_ASKED)) for part in package.PARTS)
            return none, missing("bytes", NOT_ASKED)
        self._tell.step("imports and wheel")
        return package.import_times(self._sizes.imports), package.wheel_bytes()

    def _budget(self) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
        if not self._begins("budget"):
            none = missing(physical.UNIT, NOT_ASKED)
            stages = (*budget.LIMIT_OF, budget.ACCEPT, budget.LOG, budget.BUILD)
            limits = budget.LIMIT_OF.values()
            return tuple(Share(s, none) for s in stages), tuple(Share(s, none) for s in limits)
        self._tell.step("stages, physical limits")
        limits_of = physical.limits(self._sizes.rows, self._sizes.repeats)
        return budget.stages(self._sizes.rows, self._sizes.repeats), limits_of

    def _memory(self) -> MemoryProfile:
        workload = f"workload c, {MEMORY_CELL.name}"
        if not self._begins("memory"):
            return MemoryProfile("none", workload, missing(memory.UNIT, NOT_ASKED))
        self._tell.step("allocations")
        passes = self._sizes.rows // MEMORY_CELL.rows
        return memory.profile(Requests(MEMORY_CELL, passes), workload)

    def _matrix(self) -> list[CellResult]:
        if not self._begins("matrix"):
            return []
        sizes = self._sizes
        chosen = cells(sizes.quick)
        results, wrong = measure(chosen, sizes.cell_repeats, sizes.cell_requests, self._tell.step)
        self.wrong += wrong
        return results

    def _scaling(self) -> list[Curve]:
        if not self._begins("scaling"):
            none = missing("ns/row", NOT_ASKED)
            return [Curve(over, ((1, none),)) for over in ("rows", "columns", "measurements")]
        self._tell.step("rows, columns, measurements")
        curves, wrong = scaling.curves(self._sizes.scaling)
        self.wrong += wrong
        return curves

    # --- a daemon --------------------------------------------------------------------------------

    def _load(self) -> tuple[tuple[Load, ...], tuple[Share, ...], list[Curve]]:
        if not self._begins("load"):
            none = missing("", NOT_ASKED)
            curves = [Curve(over, ((1, none),)) for over in ("connections", "workers")]
            return (), loaded.stage_shares([], NOT_ASKED), curves
        sizes = self._sizes
        first = LoadSpec(seconds=sizes.load_s, warmup_s=1.0, connections=CONNECTIONS)
        short = first.with_changes(seconds=sizes.load_s / 3)
        others = [n for n in sizes.connections if n != CONNECTIONS]
        specs = [first, *(short.with_changes(connections=n) for n in others)]
        self._tell.step(f"{len(specs)} loads, {WORKERS} workers")
        outcome = self._loads(specs, WORKERS, profile=True)
        self.hotspots = loaded.hotspots(outcome.samples)
        self.why_no_hotspots = "" if self.hotspots else outcome.why_no_samples or "no sample"
        shares = loaded.stage_shares(outcome.samples, outcome.why_no_samples)
        counts = [CONNECTIONS, *others]
        costs = [_cost(load) for load in outcome.loads]
        costs = costs or [missing("ns/row", outcome.why_no_samples)] * len(counts)
        by_connections = sorted(zip(counts, costs, strict=True), key=lambda point: point[0])
        curves = [Curve("connections", tuple(by_connections)), self._workers(first)]
        return tuple(outcome.loads), shares, curves

    def _workers(self, spec: LoadSpec) -> Curve:
        """Rows a second by number of workers: a daemon each."""
        points = []
        for workers in self._sizes.workers:
            self._tell.step(f"{workers} workers")
            short = spec.with_changes(seconds=spec.seconds / 3)
            outcome = self._loads([short], workers, profile=False)
            figure = missing("rows/s", outcome.why_no_samples)
            if outcome.loads:
                figure = outcome.loads[0].rows_per_s
            points.append((workers, figure))
        return Curve("workers", tuple(points) or ((1, missing("rows/s", NOT_QUICK)),))

    def _loads(self, specs: list[LoadSpec], workers: int, profile: bool) -> loaded.Outcome:
        """Loads on one daemon. One that fails is a wrong result, and no end of the audit."""
        try:
            outcome = loaded.run(specs, workers, profile)
        except (DaemonError, GeneratorError) as error:
            outcome = loaded.Outcome(why_no_samples=str(error), wrong=[f"load: {error}"])
        self.wrong += outcome.wrong
        return outcome

    def _suite(self) -> list[Benchmark]:
        if not self._begins("suite"):
            return []
        found, wrong = suite.run_all(self._sizes.quick, self._tell.step)
        self.wrong += wrong
        return found


def _cost(load: Load) -> Figure:
    """CPU time of the daemon for a row: flat where more connections cost nothing."""
    seconds = load.cpu_s_per_million_rows
    unit = "ns/row of the daemon's CPU"
    if seconds.value is None:
        return missing(unit, seconds.why)
    return measured(unit, seconds.value * 1e3)
