"""A daemon under load: throughput, latencies of real requests, a sampled profile of its workers.

In: what to send, to how many workers. Out: a `Load` for each, the samples of py-spy or the reason
why there are none, and what the oracle found wrong in the files. The daemon is a new one on a
temporary directory, stopped at the end; every acknowledged row is read back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.audit.schema import Hotspot, Load, Share, measured, missing, percentile_of
from benchmarks.load.daemon import Daemon, start
from benchmarks.load.generator import LoadResult, run_load
from benchmarks.load.oracle import verify
from benchmarks.load.spec import LoadSpec
from benchmarks.profiling import pyspy, summary
from benchmarks.profiling.daemon import NoDaemonError, find_daemon
from benchmarks.profiling.samples import WorkerSamples
from benchmarks.profiling.stages import Stage

RATE_HZ = 100
HOTSPOTS = 20
#: Classes of the histogram: a twelfth of a decade each, from 10 µs to 100 s.
EDGES_MS = tuple(float(edge) for edge in np.logspace(-2, 5, 7 * 12 + 1))
STORED_TIMEOUT_S = 60.0
#: Rows are stored soon after a load, so that its CPU time can be told from that of the next.
FLUSH_AGE_S = "1"
#: Of durability: the log is written, and no disk is waited for.
LEVEL = "page"


@dataclass
class Outcome:
    """What the loads of one daemon gave.

    Attributes:
        loads: In the order of what was asked for.
        samples: Of its workers, during the first load.
        why_no_samples: Empty when there are some.
        attached: Sampling has been tried.
        wrong: What the oracle found.
    """

    loads: list[Load] = field(default_factory=list)
    samples: list[WorkerSamples] = field(default_factory=list)
    why_no_samples: str = "it was not asked for"
    attached: bool = False
    wrong: list[str] = field(default_factory=list)


def run(specs: Sequence[LoadSpec], workers: int, profile: bool) -> Outcome:
    """Start a daemon, send every load, stop it, read everything back.

    Raises:
        DaemonError: it does not start, or does not stop.
        GeneratorError: the generator fails.
    """
    out = Outcome()
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as name:
        data_dir = Path(name)
        flags = ["--workers", str(workers), "--durability", LEVEL, "--flush-age-s", FLUSH_AGE_S]
        daemon = start(data_dir, flags, set())
        try:
            results = [
                _one(replace(spec, database=f"audit_{i}"), daemon, out, profile and i == 0)
                for i, spec in enumerate(specs)
            ]
            exit_code, _ = daemon.stop()
            if exit_code:
                out.wrong.append(f"the daemon ended with {exit_code}: {daemon.last_words()}")
            for result in results:
                faults = verify(result.spec, result.outcomes(), data_dir).faults()
                out.wrong += [
                    f"{describe(result.spec)}: {fault}: {n:,}" for fault, n in faults.items()
                ]
        finally:
            daemon.abandon()
    return out


def _one(spec: LoadSpec, daemon: Daemon, out: Outcome, profile: bool) -> LoadResult:
    daemon.mark()
    result = _sampled(spec, daemon, out) if profile else run_load(spec, daemon.address)
    stored = daemon.wait_until_stored(STORED_TIMEOUT_S)
    cpu_s = daemon.cpu_since_mark_s()
    if not stored:
        out.wrong.append(f"{describe(spec)}: rows were not stored in {STORED_TIMEOUT_S:g} s")
    out.loads.append(_load(result, cpu_s))
    return result


def _load(result: LoadResult, cpu_s: float | None) -> Load:
    latency_ms = result.latency_ms()
    counts, _ = np.histogram(latency_ms, EDGES_MS)
    rows = result.acknowledged_rows()
    per_million = missing("s", "no row was acknowledged, or the daemon's processes are not known")
    if cpu_s is not None and rows:
        per_million = measured("s", cpu_s / rows * 1e6)
    samples = [latency_ms.tolist()]
    return Load(
        describe(result.spec),
        measured("rows/s", result.rows_per_s()),
        percentile_of("ms", "p50", samples),
        percentile_of("ms", "p95", samples),
        percentile_of("ms", "p99", samples),
        EDGES_MS,
        tuple(counts.tolist()),
        per_million,
    )


def describe(spec: LoadSpec) -> str:
    """A load in words."""
    return (
        f"{spec.workload} as {spec.format}, {spec.rows:,} rows a request, "
        f"{spec.connections} connections, {spec.seconds:g} s, level {LEVEL}"
    )


# --- the profile -------------------------------------------------------------------------------


def _sampled(spec: LoadSpec, daemon: Daemon, out: Outcome) -> LoadResult:
    """Send a load while py-spy looks at the workers. A profile that fails is no failure."""
    options = pyspy.Options(RATE_HZ, max(1, round(spec.warmup_s + spec.seconds)))
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as folder:
        recordings: list[pyspy.Recording] = []
        out.why_no_samples = "the load was over before sampling began"

        def watch(elapsed_s: float, _: object) -> None:
            # Not before the load: the generator encodes its bodies first, for seconds.
            if not recordings and elapsed_s >= 0 and not out.attached:
                out.attached = True
                _attach(daemon, options, Path(folder), recordings, out)
            pyspy.poll(recordings)

        try:
            result = run_load(spec, daemon.address, watch)
        finally:
            pyspy.stop(recordings)
        for recording in recordings:
            try:
                out.samples.append(pyspy.collect(recording, options))
                out.why_no_samples = ""
            except pyspy.SamplingError as error:
                out.why_no_samples = str(error)
    return result


def _attach(
    daemon: Daemon,
    options: pyspy.Options,
    folder: Path,
    recordings: list[pyspy.Recording],
    out: Outcome,
) -> None:
    try:
        py_spy = pyspy.find_py_spy()
        for worker in find_daemon(daemon.data_dir).workers:
            recordings.append(pyspy.start(worker, options, folder, py_spy))  # noqa: PERF401
    except (pyspy.SamplingError, NoDaemonError, OSError) as error:
        out.why_no_samples = str(error)


def hotspots(samples: Sequence[WorkerSamples]) -> tuple[Hotspot, ...]:
    """Functions by time of their own, the largest first."""
    return tuple(
        Hotspot(
            each.function.name,
            each.function.file,
            each.hottest_line,
            each.stage.value,
            each.self_share,
            each.total_share,
        )
        for each in summary.top_functions(samples, HOTSPOTS)
    )


def stage_shares(samples: Sequence[WorkerSamples], why: str) -> tuple[Share, ...]:
    """Share of busy time of every stage, idle left out."""
    if not samples:
        return tuple(Share(s.value, missing("share", why)) for s in Stage if s is not Stage.IDLE)
    return tuple(
        Share(each.stage.value, measured("share", each.share_of_busy))
        for each in summary.stage_times(samples)
        if each.stage is not Stage.IDLE
    )
