"""What `findings.json` holds, as types: the one place that knows its layout.

In: figures and findings of the other modules. Out: JSON, and the same values read back, checked.
A figure that was not measured has no value and a reason; it is never 0. Nothing is measured here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np

#: Raised when a file of before cannot be read as one of now.
VERSION = 1

#: A percentile is told from this many samples on: with fewer it would be the slowest one.
SAMPLES_FOR = {"p50": 5, "p95": 20, "p99": 100}
PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0}


class Severity(StrEnum):
    """How much a finding may cost."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Figure(msgspec.Struct, frozen=True):
    """One measured number, or the reason why there is none.

    Attributes:
        unit: Of the value.
        value: None: not measured.
        why: Why there is no value; empty when there is one.
        repeats: The same figure of each repeat alone, which shows the noise.
    """

    unit: str
    value: float | None = None
    why: str = ""
    repeats: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a missing value without a reason, and a value with one."""
        if (self.value is None) != bool(self.why):
            raise ValueError(f"a figure has a value or a reason, not {self.value} and {self.why!r}")

    @property
    def spread(self) -> float | None:
        """(largest - smallest) / median of the repeats, a fraction; None below two repeats."""
        if len(self.repeats) < 2:
            return None
        middle = statistics.median(self.repeats)
        return (max(self.repeats) - min(self.repeats)) / middle if middle else None


def measured(unit: str, value: float, repeats: Sequence[float] = ()) -> Figure:
    """A figure."""
    return Figure(unit, float(value), repeats=tuple(map(float, repeats)))


def missing(unit: str, why: str) -> Figure:
    """No figure, and the reason."""
    return Figure(unit, why=why)


def median_of(unit: str, repeats: Sequence[float]) -> Figure:
    """The median of at least one repeat."""
    return measured(unit, statistics.median(repeats), repeats)


def percentile_of(unit: str, name: str, repeats: Sequence[Sequence[float]]) -> Figure:
    """A percentile of real samples, those of all repeats together.

    Args:
        unit: Of the samples.
        name: "p50", "p95" or "p99".
        repeats: The samples of each repeat.
    """
    count = sum(map(len, repeats))
    if count < SAMPLES_FOR[name]:
        return missing(unit, f"{name} needs {SAMPLES_FOR[name]} samples, there are {count}")
    at = PERCENTILES[name]
    whole = np.percentile(np.concatenate([np.asarray(each) for each in repeats]), at)
    return measured(unit, float(whole), [float(np.percentile(each, at)) for each in repeats])


class Host(msgspec.Struct, frozen=True):
    """The machine and what runs on it.

    Attributes:
        name: Of the machine.
        cpu: Model of its processor.
        cores: That this process may use.
        memory_bytes: Of the machine; None: not known.
        kernel: Name, release and architecture.
        load_average: Over 1, 5 and 15 minutes when the audit began.
        load_average_after: The same when it ended.
        versions: Of Python and of the packages that the figures depend on; None: not installed.
    """

    name: str
    cpu: str
    cores: int
    memory_bytes: int | None
    kernel: str
    load_average: tuple[float, float, float]
    load_average_after: tuple[float, float, float]
    versions: dict[str, str | None]


class Commit(msgspec.Struct, frozen=True):
    """The tree. `commit` and `dirty` are None outside of git."""

    commit: str | None
    dirty: bool | None


class Cell(msgspec.Struct, frozen=True, order=True):
    """One cell of the workload matrix.

    Attributes:
        format: How bodies are encoded, as `benchmarks.load.spec.FORMATS` has it.
        rows: Of a pass. But for OTLP they are one request.
        compression: "none", "gzip" or "zstd".
        batch: OTLP: most records of a request; None: all rows are one request.
    """

    format: str
    rows: int
    compression: str
    batch: int | None = None

    @property
    def name(self) -> str:
        """As tables show it."""
        batch = f", {self.batch:,} a request" if self.batch else ""
        return f"{self.format} {self.rows:,} {self.compression}{batch}"


class CellResult(msgspec.Struct, frozen=True):
    """What was measured of a cell; every figure is missing, with one reason, when it was not run.

    Attributes:
        cell: Which.
        requests: Timed ones, over all repeats.
        rows_per_cpu_s: From the request's bytes to Parquet files, all threads of the process.
        rows_per_s: The same by the clock.
        p50: From a body to the moment at which its rows are accepted, decompression included.
        p95: The same.
        p99: The same.
        allocated: Bytes that are asked of the allocator for a row, from its bytes to its file.
    """

    cell: Cell
    requests: int
    rows_per_cpu_s: Figure
    rows_per_s: Figure
    p50: Figure
    p95: Figure
    p99: Figure
    allocated: Figure


class Benchmark(msgspec.Struct, frozen=True):
    """One program of `benchmarks/`, as it was run.

    Attributes:
        module: Its name.
        arguments: After the name of the module.
        seconds: By the clock.
        results: Medians by name, where the program writes JSON.
        why: Why it was not run, or has no results; empty otherwise.
        output: The end of what it printed, where there is no JSON.
    """

    module: str
    arguments: tuple[str, ...]
    seconds: Figure
    results: dict[str, Figure] = msgspec.field(default_factory=dict)
    why: str = ""
    output: str = ""


class Share(msgspec.Struct, frozen=True):
    """A named part of something."""

    name: str
    figure: Figure


class Load(msgspec.Struct, frozen=True):
    """One load on a daemon, read back.

    Attributes:
        workload: What was sent, in words.
        rows_per_s: Rows that were acknowledged, by second of the measurement.
        p50: Of the latency of acknowledged requests, real samples.
        p95: The same.
        p99: The same.
        latency_edges_ms: Bounds of the classes of the histogram.
        latency_counts: Requests in each class; one fewer than the bounds.
        cpu_s_per_million_rows: Of supervisor and workers; of the whole life of the daemon.
    """

    workload: str
    rows_per_s: Figure
    p50: Figure
    p95: Figure
    p99: Figure
    latency_edges_ms: tuple[float, ...] = ()
    latency_counts: tuple[int, ...] = ()
    cpu_s_per_million_rows: Figure = Figure("s", why="not asked for")


class Curve(msgspec.Struct, frozen=True):
    """How a figure grows with something.

    Attributes:
        over: "rows", "columns", "measurements", "connections" or "workers".
        points: (how many, figure).
    """

    over: str
    points: tuple[tuple[int, Figure], ...]


class MemoryProfile(msgspec.Struct, frozen=True):
    """Where memory was asked for during one pass.

    Attributes:
        method: What measured it: "memray", or "none".
        workload: In words.
        allocated: Bytes a row.
        places: Bytes a row by place, `file:line function`, the largest first.
    """

    method: str
    workload: str
    allocated: Figure
    places: tuple[Share, ...] = ()


class Metrics(msgspec.Struct, frozen=True):
    """Everything that has a number."""

    cells: tuple[CellResult, ...]
    load: tuple[Load, ...]
    stages: tuple[Share, ...]
    limits: tuple[Share, ...]
    profile_stages: tuple[Share, ...]
    scaling: tuple[Curve, ...]
    memory: MemoryProfile
    imports: tuple[Share, ...]
    wheel_bytes: Figure
    benchmarks: tuple[Benchmark, ...]


class Hotspot(msgspec.Struct, frozen=True):
    """A function that the sampled profile shows.

    Attributes:
        function: Qualified name.
        file: As py-spy shortens it.
        line: Of most of its samples; 0: not known.
        stage: Of the pipeline.
        self_share: Of busy time, in which it was innermost; 0 to 1.
        total_share: Of busy time, in which it was on the stack; 0 to 1.
    """

    function: str
    file: str
    line: int
    stage: str
    self_share: float
    total_share: float


class Finding(msgspec.Struct, frozen=True):
    """A place in the code that a rule knows as a trap.

    Attributes:
        rule: Name of the rule.
        severity: How much it may cost.
        file: Below the repository's root.
        line: Where.
        function: Qualified name of the function around it; "<module>" outside of one.
        code: The line, stripped.
        why: What it costs.
        do: What to do instead.
    """

    rule: str
    severity: Severity
    file: str
    line: int
    function: str
    code: str
    why: str
    do: str


class Action(msgspec.Struct, frozen=True):
    """What to look at next, and what says so."""

    what: str
    because: str


class Summary(msgspec.Struct, frozen=True):
    """The run.

    Attributes:
        started: UTC, ISO 8601.
        command: As it was typed.
        quick: Small sizes.
        took_s: By the clock.
        cpu_s: Of this process and all that it started and waited for.
        host: The machine.
        commit: The tree.
        wrong: What was not right: rows that were read back differ. Empty is a success.
        accepted_findings: Findings that a reason in accepted.toml covers.
        findings: Number of the others, by severity.
        why_no_hotspots: Empty when there are some.
    """

    started: str
    command: str
    quick: bool
    took_s: float
    cpu_s: float
    host: Host
    commit: Commit
    wrong: tuple[str, ...]
    accepted_findings: int
    findings: dict[str, int]
    why_no_hotspots: str = ""


class Findings(msgspec.Struct, frozen=True):
    """The whole file."""

    version: int
    summary: Summary
    metrics: Metrics
    hotspots: tuple[Hotspot, ...]
    findings: tuple[Finding, ...]
    next_actions: tuple[Action, ...]


class UnreadableError(ValueError):
    """A file that is no `findings.json` of this version; the message says what is wrong."""


def encode(findings: Findings) -> bytes:
    """JSON with a line for each value, and one at the end."""
    return msgspec.json.format(msgspec.json.encode(findings), indent=1) + b"\n"


def read(path: Path) -> Findings:
    """Read what `encode` made.

    Raises:
        UnreadableError: it is not there, no such file, or of another version.
    """
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_OnlyVersion).version
        if version != VERSION:
            raise UnreadableError(f"{path}: version {version}, this program reads {VERSION}")
        return msgspec.json.decode(data, type=Findings)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path}: not a findings.json: {error}") from error


class _OnlyVersion(msgspec.Struct):
    version: int
