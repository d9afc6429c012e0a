"""What a load run sends, and which row has which time. Pure.

In: the choices of the command line. Out: a `LoadSpec`, and from it the identity of every row.
Nothing here sends, encodes or reads anything.

The identity of a row is its time, so that what was stored is proved without an extra column.
Requests of a run are numbered: process p of P sends r = p, p + P, p + 2P, … A row of a run is a
slot, a whole number from 0 to requests * rows - 1, and the classes below translate between
slots, times and (request, row of the request).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import SCRAPE_COMBOS, WORKLOADS, Workload, host_hash

#: One number, or int64 of shape (n,).
Numbers = TypeVar("Numbers", int, NDArray[np.int64])
Compression = Literal["none", "gzip", "zstd"]

#: What `LoadSpec.format` can be.
FORMATS = ("columnar", "rows", "line-protocol", "arrow", "otlp-logs", "otlp-logs-json")
#: Those of OpenTelemetry, which send the workload `logs` and nothing else does.
LOG_FORMATS = ("otlp-logs", "otlp-logs-json")

#: Requests whose times interleave: the daemon sees what as many concurrent agents would send,
#: rows in order within a request and overlapping between requests, and has to sort.
INTERLEAVED = 16

#: Distinct bodies that a process encodes beforehand, at least and at most.
POOL_BODIES = (288, 4608)
#: Distinct rows that they should hold: with values of 2 decimals a file cannot tell how many
#: there are; values of full entropy must not repeat within a file of some 1 000 000 rows, or a
#: dictionary makes the file smaller than real data would (12 bytes a row instead of 27).
POOL_ROWS = {
    "a": 2_304_000,
    "b": 288_000,
    "c": 288_000,
    "mixed": 2_304_000,
    "agent": 96_000,
    "logs": 200_000,
}
#: Workloads of which fewer bodies will do, since each row is encoded by itself, in some 10 µs.
SMALL_POOLS = frozenset({"agent", "logs"})
#: Memory that they may take in each process.
POOL_BYTES = 512 * 1024 * 1024
#: Bytes of a value in a body that names its columns once, and of a row that names them itself, to
#: tell how many bodies that is; rather too many.
VALUE_BYTES = 10
ROW_BYTES = {"agent": 250, "logs": 1_000}


@dataclass(frozen=True)
class LoadSpec:
    """One load run.

    Attributes:
        format: One of `FORMATS`: which door, and how a body is encoded.
        workload: Key of `benchmarks.data.WORKLOADS`.
        rows: Rows a request.
        columns: Columns a row, the time included.
        connections: Over all processes.
        processes: Generator processes.
        seconds: Length of the measurement.
        warmup_s: Load before it that is verified but not timed.
        compression: Of the bodies.
        rate: Records a second that are due, whatever the answers (open loop); None: every
            connection sends again as soon as it has its answer (closed loop).
        seed: Of the values.
        database: Where the rows go; new for each run, so that old rows do not disturb.
        t0_us: Time of the first row, µs since 1970, a whole second.
        declare_tags: Whether bodies carry the `tags` key.
        timeout_s: A request without an answer for that long has failed.
        bodies: Distinct bodies of each process; None: as many as the workload asks for.
    """

    format: str = "columnar"
    workload: str = "c"
    rows: int = 1000
    columns: int = 6
    connections: int = 16
    processes: int = 1
    seconds: float = 10.0
    warmup_s: float = 1.0
    compression: Compression = "none"
    rate: float | None = None
    seed: int = 0
    database: str = "bench"
    t0_us: int = field(default_factory=lambda: int(time.time()) * 1_000_000)
    declare_tags: bool = True
    timeout_s: float = 30.0
    bodies: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run, naming the field and its limit."""
        if self.workload not in WORKLOADS:
            raise ValueError(f"workload {self.workload!r} is not one of {', '.join(WORKLOADS)}")
        for name in ("rows", "connections", "processes", "seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"rate must be above 0, not {self.rate}")
        if self.connections < self.processes:
            raise ValueError(f"{self.processes} processes need at least as many connections")
        self.load.field_kinds(self.columns)
        self._check_format()

    def _check_format(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is not one of {', '.join(FORMATS)}")
        if (self.format in LOG_FORMATS) != (self.workload == "logs"):
            formats = " and ".join(LOG_FORMATS)
            raise ValueError(
                f"workload logs is for {formats}, and they send no other; "
                f"not {self.workload!r} as {self.format!r}"
            )
        if self.workload == "logs" and self.columns != self.load.num_columns:
            raise ValueError(f"workload logs has {self.load.num_columns} columns")
        if self.format == "line-protocol" and self.workload == "mixed":
            raise ValueError("workload mixed has nil, which line protocol cannot say")

    @property
    def load(self) -> Workload:
        """The description of the workload's rows."""
        return WORKLOADS[self.workload]

    @property
    def identity(self) -> Interleaved | Scrapes:
        """Which row has which time."""
        if self.workload == "a":
            return Scrapes(self.t0_us, self.rows)
        return Interleaved(self.t0_us, self.rows)

    @property
    def order(self) -> RequestOrder:
        """Which body a request takes."""
        classes = self.identity.classes
        return RequestOrder(self.processes, classes, max(1, self._num_bodies() // classes))

    def _num_bodies(self) -> int:
        if self.bodies is not None:
            return self.bodies
        least, most = POOL_BODIES
        pool_rows = POOL_ROWS[self.workload]
        if self.workload in SMALL_POOLS:
            least = max(8, pool_rows // self.rows)
        wanted = min(max(least, pool_rows // self.rows), most)
        row_bytes = ROW_BYTES.get(self.workload, VALUE_BYTES * self.columns)
        return max(1, min(wanted, POOL_BYTES // (row_bytes * self.rows)))

    def for_process(self, process: int) -> int:
        """Connections of one process."""
        share, rest = divmod(self.connections, self.processes)
        return share + (process < rest)

    def with_changes(self, **changes: Any) -> LoadSpec:
        """The same run but for some fields."""
        return replace(self, **changes)


@dataclass(frozen=True)
class RequestOrder:
    """Which of its bodies a process sends as which request.

    A body of workload `a` belongs to one of nine classes of request numbers, since region and
    env of its rows say which one; other workloads have one class.
    """

    processes: int
    classes: int
    per_class: int

    @property
    def bodies(self) -> int:
        """Bodies that each process prepares."""
        return self.classes * self.per_class

    def request(self, process: int, turn: int) -> int:
        """Number in the run of the request that is `turn` in its process."""
        return process + self.processes * turn

    def body(self, request: Numbers) -> Numbers:
        """Index of the body of a request, or of each of many, among those of its process."""
        within = (request // self.processes // self.classes) % self.per_class
        return (request % self.classes) * self.per_class + within


@dataclass(frozen=True)
class Interleaved:
    """Unique times in µs: sixteen requests share one window and take turns in it.

    Row i of request r: t0 + (r // 16) * rows * 16 + i * 16 + r % 16. The slot of a row is its
    distance from t0.
    """

    t0_us: int
    rows: int
    classes: int = 1
    key_columns: tuple[str, ...] = ()

    def offsets(self) -> NDArray[np.int64]:
        """What each row adds to the time of its request: int64, shape (rows,), µs."""
        return np.arange(self.rows, dtype=np.int64) * INTERLEAVED

    def base(self, request: int) -> int:
        """Time of the request's first row, in µs."""
        window, turn = divmod(request, INTERLEAVED)
        return self.t0_us + window * self.rows * INTERLEAVED + turn

    def num_slots(self, requests: int) -> int:
        """Slots that hold every row of the first `requests` requests."""
        return -(-requests // INTERLEAVED) * INTERLEAVED * self.rows

    def slots(
        self, time_us: NDArray[np.int64], keys: Mapping[str, NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Slot of each stored row, int64; negative or too large: never sent. `keys` is unused."""
        return time_us - self.t0_us

    def requests_and_rows(
        self, slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Request number, and row in the request, of each slot."""
        window, rest = np.divmod(slots, self.rows * INTERLEAVED)
        row, turn = np.divmod(rest, INTERLEAVED)
        return window * INTERLEAVED + turn, row

    def by_request(self, per_slot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Regroup a figure per slot: shape (requests, rows). `per_slot` holds whole windows."""
        windows = per_slot.reshape(-1, self.rows, INTERLEAVED)
        return windows.transpose(0, 2, 1).reshape(-1, self.rows)


@dataclass(frozen=True)
class Scrapes:
    """Times in ms that all rows of a request share, and nine requests: scrapes of a fleet.

    Row of host h in request r: t0 + r // 9 ms; r % 9 is in region and env, moved on by a hash of
    the host (`benchmarks.data.scrape_combos`). There are as many hosts as rows, so host and
    request name a row. The slot is r * rows + h.
    """

    t0_us: int
    rows: int
    classes: int = SCRAPE_COMBOS
    key_columns: tuple[str, ...] = ("host", "combo")

    def offsets(self) -> NDArray[np.int64]:
        """What each row adds to the time of its request: int64, shape (rows,), ms."""
        return np.zeros(self.rows, dtype=np.int64)

    def base(self, request: int) -> int:
        """Time of the request's rows, in ms."""
        return self.t0_us // 1000 + request // SCRAPE_COMBOS

    def num_slots(self, requests: int) -> int:
        """Slots that hold every row of the first `requests` requests."""
        return requests * self.rows

    def slots(
        self, time_us: NDArray[np.int64], keys: Mapping[str, NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Slot of each stored row, int64; negative or too large: never sent.

        Args:
            time_us: int64, shape (rows,).
            keys: "host": host numbers; "combo": 3 * region + env; a negative one is unknown.
        """
        host, combo = keys["host"], keys["combo"]
        since_us = time_us - self.t0_us
        scrape = (combo - host_hash(host)) % SCRAPE_COMBOS
        slots = ((since_us // 1000) * SCRAPE_COMBOS + scrape) * self.rows + host
        known = (host >= 0) & (host < self.rows) & (combo >= 0) & (since_us % 1000 == 0)
        return np.where(known, slots, -1)

    def requests_and_rows(
        self, slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Request number, and host number, of each slot."""
        requests, hosts = np.divmod(slots, self.rows)
        return requests, hosts

    def by_request(self, per_slot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Regroup a figure per slot: shape (requests, rows), a view."""
        return per_slot.reshape(-1, self.rows)
