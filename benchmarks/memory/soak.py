"""A long load at a part of what the daemon can do: does its memory grow?

In: a `SoakPlan`. Out: a `Soak`: memory second by second, its trend against the budget, and what
the files say of the rows. It starts a daemon of its own and ends it; the trend is `trend.py`'s,
the memory `resident.py`'s, the rows `readback.py`'s.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arc.config import GIB
from benchmarks.load.daemon import Daemon, start
from benchmarks.load.generator import LoadResult, run_load
from benchmarks.load.oracle import Verdict
from benchmarks.load.report import load_figures
from benchmarks.load.spec import LoadSpec
from benchmarks.memory.readback import read_back
from benchmarks.memory.resident import ALL, Resident, ResidentSampler, Series
from benchmarks.memory.trend import Leak, Trend, trend
from benchmarks.progress import Tell

#: What may come on top in a day, as a share of the budget.
ALLOWED_SHARE = 0.05

#: How long the load to find the capacity runs, and how much of a second before it counts.
CAPACITY_S, CAPACITY_WARMUP_S = 10.0, 1.0

#: Bytes of a row in the files when nothing is known, and how much of the free disk may be taken.
ROW_BYTES, DISK_SHARE = 10.0, 0.8

#: What the verdict is about, and what else is told.
MEASURE = "anonymous"
MEASURES = Resident._fields


class SoakError(Exception):
    """The soak cannot take place. The message says what to do."""


@dataclass(frozen=True)
class SoakPlan:
    """What to do.

    Attributes:
        spec: The load; its `seconds` are the soak's, its rate is ignored.
        data_dir: Where the daemon stores.
        flags: More flags of `arc serve`.
        rate: Records a second; None: `share` of what a short closed loop reaches.
        share: Of the capacity.
        settle_s: At the beginning, in which buffers, pools and caches fill, and no trend is.
        second_s: Between two points of the series; other than 1 for tests.
        command: What to start in place of `python -m arc serve`.
    """

    spec: LoadSpec
    data_dir: Path
    flags: Sequence[str] = ()
    rate: float | None = None
    share: float = 0.7
    settle_s: float = 0.0
    second_s: float = 1.0
    command: Sequence[str] = ()


@dataclass
class Soak:
    """What became of it.

    Attributes:
        capacity: Records a second of the closed loop; None where the rate was given.
        rate: Records a second that were due.
        budget_bytes: The daemon's memory budget.
        from_s: Where the trend begins.
        to_s: Where the load ended.
        total: Memory of all processes.
        processes: Of each.
        load: The load.
        verdict: What the files say.
        exit_code: Of the daemon.
        trends: By name of the process or ALL, and measure.
    """

    capacity: float | None
    rate: float
    budget_bytes: int
    from_s: float
    to_s: float
    total: Series
    processes: list[Series]
    load: LoadResult
    verdict: Verdict
    exit_code: int
    trends: dict[tuple[str, str], Trend] = field(default_factory=dict)

    @property
    def limit_bytes_a_day(self) -> float:
        """How much memory may grow in a day."""
        return ALLOWED_SHARE * self.budget_bytes

    @property
    def trend(self) -> Trend:
        """The one that decides."""
        return self.trends[ALL, MEASURE]

    @property
    def leak(self) -> Leak:
        """The verdict on memory."""
        return self.trend.verdict(self.limit_bytes_a_day)

    def problems(self) -> list[str]:
        """What makes the run a failure, the verdict on memory left out."""
        faults = self.verdict.faults().items()
        out = [f"{name.replace('_', ' ')}: {count:,}" for name, count in faults]
        if self.exit_code:
            out.append(f"the daemon ended with exit code {self.exit_code}")
        if not self.load.acknowledged_rows():
            out.append("no request was acknowledged")
        reached = self.load.rows_per_s()
        if reached < 0.95 * self.rate:
            out.append(f"only {reached:,.0f} of {self.rate:,.0f} records/s were acknowledged")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "leak": str(self.leak),
            "limit_bytes_a_day": self.limit_bytes_a_day,
            "budget_bytes": self.budget_bytes,
            "capacity_rows_per_s": self.capacity,
            "rate_rows_per_s": self.rate,
            "trend_from_s": self.from_s,
            "trend_to_s": self.to_s,
            "trends": [
                {"process": name, "measure": measure}
                | asdict(found)
                | dict(
                    zip(("per_day", "per_day_low", "per_day_high"), found.per_day(), strict=True)
                )
                for (name, measure), found in self.trends.items()
            ],
            "series": {
                "times_s": self.total.times_s,
                **{m: [getattr(v, m) for v in self.total.values] for m in MEASURES},
            },
            "load": load_figures(self.load),
            "verdict": asdict(self.verdict),
            "exit_code": self.exit_code,
            "problems": self.problems(),
        }


def soak(plan: SoakPlan, tell: Tell) -> Soak:
    """Run it from start to end.

    Raises:
        SoakError: it would be too short for a trend, or fill the disk; or memory could not be
            looked at often enough.
        DaemonError: the daemon does not start or stop.
    """
    _check_length(plan)
    daemon = start(plan.data_dir, plan.flags, set(), plan.command)
    try:
        budget_bytes = memory_budget(daemon)
        capacity = None if plan.rate else _capacity(plan, daemon, tell)
        rate = plan.rate or plan.share * (capacity or 0.0)
        if rate <= 0:
            raise SoakError("the daemon acknowledged nothing; see its log")
        _check_disk(plan, rate)
        spec = plan.spec.with_changes(rate=rate, t0_us=int(time.time()) * 1_000_000)
        sampler, load, began_s = _drive(plan, spec, daemon, tell)
        tell("SIGTERM, waiting for the drain", True)
        exit_code, _ = daemon.stop()
    finally:
        daemon.abandon()
    from_s = began_s + spec.warmup_s + plan.settle_s
    to_s = began_s + spec.warmup_s + spec.seconds
    verdict = read_back(
        spec,
        load.outcomes(),
        plan.data_dir,
        lambda done, of: tell(f"reading back: {done} of {of} pieces", False),
    )
    processes = list(sampler.processes.values())
    out = Soak(
        *(capacity, rate, budget_bytes, from_s, to_s, sampler.total),
        *(processes, load, verdict, exit_code),
    )
    out.trends = dict(_trends([sampler.total, *processes], from_s, to_s))
    if (ALL, MEASURE) not in out.trends:
        raise SoakError(
            f"memory was seen only {len(sampler.total.times_s)} times: the machine is overloaded"
        )
    return out


def _check_length(plan: SoakPlan) -> None:
    points = (plan.spec.seconds - plan.settle_s) / plan.second_s
    if points < 20:
        raise SoakError(
            f"after {plan.settle_s:g} s to settle, {plan.spec.seconds:g} s leave {points:.0f} "
            "looks at memory, and a trend takes 20: make it longer"
        )


def _capacity(plan: SoakPlan, daemon: Daemon, tell: Tell) -> float:
    """Records a second of a short closed loop, into a database of its own."""
    tell(f"{CAPACITY_S:g} s of closed loop to find what the daemon can take", True)
    spec = plan.spec.with_changes(
        seconds=CAPACITY_S, warmup_s=CAPACITY_WARMUP_S, rate=None, database="soak_capacity"
    )
    found = run_load(spec, daemon.address).rows_per_s()
    daemon.wait_until_stored(60.0)
    return found


def _check_disk(plan: SoakPlan, rate: float) -> None:
    """Refuse what the disk cannot hold: everything stays until it is read back."""
    files = list((plan.data_dir / "soak_capacity").rglob("*.parquet"))
    rows = CAPACITY_S * rate / plan.share
    row_bytes = sum(f.stat().st_size for f in files) / rows if files and rows else ROW_BYTES
    needed = rate * plan.spec.seconds * row_bytes
    free = shutil.disk_usage(plan.data_dir).free
    if needed > DISK_SHARE * free:
        raise SoakError(
            f"{plan.spec.seconds:g} s at {rate:,.0f} records/s write about {needed / GIB:.0f} GiB, "
            f"and {plan.data_dir} has {free / GIB:.0f} GiB free: lower --rate, or name a folder "
            "on a larger disk with --data-dir"
        )


def _drive(
    plan: SoakPlan, spec: LoadSpec, daemon: Daemon, tell: Tell
) -> tuple[ResidentSampler, LoadResult, float]:
    """The load with memory watched; and when the load began, on the sampler's clock."""
    whole_s = spec.warmup_s + spec.seconds
    assert daemon.pid is not None, "BUG: a daemon that was started has a pid"
    with ResidentSampler(daemon.pid, plan.second_s) as sampler:

        def on_progress(elapsed_s: float, sums: dict[str, int]) -> None:
            values = sampler.total.values
            held = f"{values[-1].rss / 2**20:,.0f} MiB resident" if values else ""
            tell(f"{min(elapsed_s, whole_s):6.0f} of {whole_s:g} s  {held}", False)

        load = run_load(spec, daemon.address, on_progress)
    return sampler, load, load.start_ns / 1e9 - sampler.began_s


def memory_budget(daemon: Daemon) -> int:
    """The daemon's setting `memory_bytes`, as its metrics tell it.

    Raises:
        DaemonError: they do not.
    """
    return int(daemon.metric("arc_memory_limit_bytes"))


def _trends(
    series: Sequence[Series], from_s: float, to_s: float
) -> list[tuple[tuple[str, str], Trend]]:
    """Of every process that was there throughout, and of all together."""
    out = []
    for one in series:
        for measure in MEASURES:
            times, values = one.between(from_s, to_s, measure)
            try:
                out.append(((_name(one), measure), trend(times, values)))
            except ValueError:  # a process that came late, or left early
                continue
    return out


def _name(one: Series) -> str:
    return one.name if one.pid == 0 else f"{one.name} ({one.pid})"
