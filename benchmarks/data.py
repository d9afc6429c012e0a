"""Seeded rows and bodies that tests, stage benchmarks and the load generator share.

In: the name of a workload, a number of rows, a seed. Out: columns as NumPy arrays or lists, and
the columnar MessagePack body of them. The same arguments give the same bytes on every machine.
Nothing here sends, stores or times anything.

Workloads (`time` is always the last column of a body and always 9 bytes a value):

* `a`: 7 columns: host (of as many as there are rows), region and env (of 3 each), three doubles
  uniform in 0..100 at full precision, time in ms, the same for all rows: one scrape of a fleet.
* `b`: 5 columns: host of 1000, three doubles uniform in 0..100 with 2 decimals, time in µs.
* `c`: 6 columns: host of 1000 and region of 8, both of one width, three doubles that walk at
  random in 0..100 with 2 decimals, time in µs: 55 bytes a record, names left out.
* `mixed`: 6 columns: host and path of differing length (some of them not ASCII), two integers of
  mixed width, one double that walks, time in µs; of all but host and time, 10 % are nil.
* `agent`: 9 columns: host of 1000, region of 8 and env of 3, three doubles that walk, two
  integers of mixed width, time in µs: what a metrics agent sends row by row.
* `logs`: 10 columns under the names that OpenTelemetry's log records are stored by: the service,
  the same in all rows, severity, a text of 250 bytes, six attributes (three strings, an integer,
  a double and a boolean), time in µs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import ormsgpack
from numpy.typing import NDArray

#: One column: int64 or float64, shape (rows,), or a list of str, int, float or None.
Values: TypeAlias = NDArray[np.int64] | NDArray[np.float64] | list[Any]
Columns: TypeAlias = dict[str, Values]

#: One present-day time in a body: 0xcf and 8 big-endian bytes, the MessagePack uint 64.
TIME_CELL = np.dtype([("type", "u1"), ("value", ">u8")])
TIME_CELL_BYTES = TIME_CELL.itemsize
_UINT64 = 0xCF

#: 2026-01-15T10:30:00Z, where the rows of `columns` begin unless told otherwise.
DEFAULT_START_US = 1_768_473_000_000_000

NIL_SHARE = 0.1

#: Region and env of workload `a`, and how many combinations of them there are.
SCRAPE_REGIONS = ("eu-central", "us-east", "ap-south")
SCRAPE_ENVS = ("production", "staging", "test")
SCRAPE_COMBOS = len(SCRAPE_REGIONS) * len(SCRAPE_ENVS)
_REGIONS_8 = (
    "us-east1", "us-east4", "us-west1", "us-west2", "eu-west1", "eu-west3", "sa-east1", "ap-east1",
)  # fmt: skip
_WORDS = (
    "api", "v1", "users", "orders", "search", "checkout", "images", "static", "health", "größe",
    "a", "login", "reports", "2026", "export", "subscriptions", "données", "callback", "q", "日本",
)  # fmt: skip


_SERVICES = ("checkout", "search", "payments", "catalog")
#: Kinds of fields of few different values, the frequent ones more than once.
_FEW: dict[str, tuple[Any, ...]] = {
    "severity": ("INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"),
    "method": ("GET", "GET", "POST", "PUT", "DELETE"),
    "status": (200, 200, 200, 204, 301, 404, 500),
    "flag": (True, False),
}
#: Of the text of a log record.
TEXT_BYTES = 250


@dataclass(frozen=True)
class Workload:
    """What the rows of a workload look like.

    Attributes:
        name: `a`, `b`, `c`, `mixed`, `agent` or `logs`.
        measurements: Names of which each body takes one.
        tags: Columns that identify a series; they come first.
        fields: Names and kinds of the other columns but the time, cycled when more are wanted.
        time_unit: "ms" or "us".
        declares_tags: Whether the body carries the `tags` key (real clients of `a` and `b` do not).
    """

    name: str
    measurements: tuple[str, ...]
    tags: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    time_unit: str = "us"
    declares_tags: bool = False

    @property
    def num_columns(self) -> int:
        """Columns of a row by default, the time included."""
        return len(self.tags) + len(self.fields) + 1

    def field_kinds(self, num_columns: int) -> list[tuple[str, str]]:
        """Name and kind of each field for rows of `num_columns` columns, the time included.

        Raises:
            ValueError: no column would be left for a field.
        """
        wanted = num_columns - len(self.tags) - 1
        if wanted < 1:
            least = len(self.tags) + 2
            raise ValueError(f"workload {self.name!r} needs at least {least} columns")
        rounds = [
            (name if turn == 0 else f"{name}_{turn}", kind)
            for turn in range(wanted // len(self.fields) + 1)
            for name, kind in self.fields
        ]
        return rounds[:wanted]


def _three(kind: str) -> tuple[tuple[str, str], ...]:
    return (("usage_user", kind), ("usage_system", kind), ("usage_idle", kind))


WORKLOADS: dict[str, Workload] = {
    "a": Workload("a", ("cpu", "mem", "disk"), ("host", "region", "env"), _three("full"), "ms"),
    "b": Workload("b", ("cpu", "mem", "disk", "net"), ("host",), _three("uniform")),
    "c": Workload(
        "c", ("cpu", "mem", "disk"), ("host", "region"), _three("walk"), declares_tags=True
    ),
    "mixed": Workload(
        "mixed",
        ("cpu", "mem", "disk"),
        ("host", "path"),
        (("requests", "count"), ("size_bytes", "size"), ("usage_user", "walk")),
        declares_tags=True,
    ),
    "agent": Workload(
        "agent",
        ("cpu", "mem", "disk"),
        ("host", "region", "env"),
        (*_three("walk"), ("processes", "count"), ("context_switches", "count")),
        declares_tags=True,
    ),
    "logs": Workload(
        "logs",
        ("otel_logs",),
        ("resource.service.name",),
        (
            ("severity_text", "severity"),
            ("body", "text"),
            ("attributes.http.method", "method"),
            ("attributes.url.path", "path"),
            ("attributes.user.id", "user"),
            ("attributes.http.status_code", "status"),
            ("attributes.duration_ms", "uniform"),
            ("attributes.cache.hit", "flag"),
        ),
        declares_tags=True,
    ),
}


def columns(
    workload: str,
    rows: int,
    seed: int = 0,
    *,
    num_columns: int | None = None,
    start_us: int = DEFAULT_START_US,
    scrape: int = 0,
) -> Columns:
    """Rows of a workload, column by column, the time last.

    Args:
        workload: A key of `WORKLOADS`.
        rows: How many, at least 1.
        seed: Other seed, other values.
        num_columns: Columns with the time; None: as the workload has it.
        start_us: Time of the first row, µs since 1970; the next rows follow 1 µs apart, but
            those of `a`, which share one time in ms.
        scrape: `a` only: which of the 9 scrapes of one millisecond this is; it decides region
            and env of each host (see `scrape_combos`).

    Returns:
        Names to values. `time` is int64, shape (rows,), in the workload's unit.
    """
    load = WORKLOADS[workload]
    rng = np.random.default_rng([seed, rows])
    out: Columns = {}
    if workload == "a":
        out |= _scrape_tags(rng, rows, scrape)
    elif workload == "mixed":
        out["host"] = _pick(_varied_hosts(), rng.integers(0, 1000, rows))
        out["path"] = _with_nils(rng, _pick(_varied_paths(), rng.integers(0, 500, rows)))
    elif workload == "logs":
        out["resource.service.name"] = [_SERVICES[int(rng.integers(len(_SERVICES)))]] * rows
    else:
        out["host"] = _pick(_hosts(1000), rng.integers(0, 1000, rows))
    if workload in ("c", "agent"):
        out["region"] = _pick(_REGIONS_8, rng.integers(0, len(_REGIONS_8), rows))
    if workload == "agent":
        out["env"] = _pick(SCRAPE_ENVS, rng.integers(0, len(SCRAPE_ENVS), rows))
    for name, kind in load.field_kinds(num_columns or load.num_columns):
        values = _text_field(rng, kind, rows)
        if values is None:
            numbers = _field(rng, kind, rows)
            values = _with_nils(rng, numbers.tolist()) if workload == "mixed" else numbers
        out[name] = values
    out["time"] = _times(load, rows, start_us)
    return out


def columnar_body(columns: Columns, measurement: str | int, tags: Sequence[str] = ()) -> bytes:
    """The columnar MessagePack body of some columns, in their order.

    Integers take their shortest form, as MessagePack libraries write them, which for present-day
    times in ms, µs and ns is 9 bytes. `tags` is left out when empty, as real clients do.
    """
    payload: dict[str, Any] = {"m": measurement}
    if tags:
        payload["tags"] = list(tags)
    payload["columns"] = columns
    return ormsgpack.packb(payload, option=ormsgpack.OPT_SERIALIZE_NUMPY)


def row_body(columns: Columns, measurement: str | int, tags: Sequence[str] = ()) -> bytes:
    """The same rows as an array of row maps, as clients write records one by one.

    The keys of a row are in the order m, t, fields, tags. A tag of None is left out.
    """
    plain = {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in columns.items()
    }
    times = plain.pop("time")
    rows = []
    for time, *values in zip(times, *plain.values(), strict=True):
        fields = dict(zip(plain, values, strict=True))
        found = {name: fields.pop(name) for name in tags}
        found = {name: value for name, value in found.items() if value is not None}
        rows.append({"m": measurement, "t": time, "fields": fields, "tags": found})
    return ormsgpack.packb(rows)


def workload_body(workload: str, rows: int, seed: int = 0) -> bytes:
    """One body of a workload under its first measurement, as the load generator sends it."""
    load = WORKLOADS[workload]
    tags = load.tags if load.declares_tags else ()
    return columnar_body(columns(workload, rows, seed), load.measurements[0], tags)


def time_cells(rows: int) -> NDArray[np.void]:
    """Room for the encoded times of `rows` rows: dtype `TIME_CELL`, the type byte set."""
    cells = np.zeros(rows, TIME_CELL)
    cells["type"] = _UINT64
    return cells


def scrape_combos(hosts: NDArray[np.int64], scrape: int) -> NDArray[np.int64]:
    """Region and env of each host in one scrape of workload `a`, as 3 * region + env.

    A fixed hash of the host, moved on by one for each scrape. So the column looks random, while
    (time, combination, host) tells which of the nine scrapes of a millisecond a row came from.

    Args:
        hosts: int64, shape (rows,), host numbers.
        scrape: Number of the scrape; only `scrape % 9` matters.

    Returns:
        int64, shape (rows,), 0 to 8.
    """
    return (scrape + host_hash(hosts)) % SCRAPE_COMBOS


def host_hash(hosts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A fixed pseudo-random number of 0 to 8 for each host (Knuth's multiplicative hash)."""
    mixed = (hosts * 2_654_435_761) & 0xFFFF_FFFF
    return (mixed * SCRAPE_COMBOS) >> 32


def scrape_host_number(name: str) -> int:
    """The number of a host of workload `a`; raises ValueError for another name."""
    prefix, _, number = name.rpartition("-")
    if prefix != "host":
        raise ValueError(f"not a host of workload a: {name!r}")
    return int(number)


def _scrape_tags(rng: np.random.Generator, rows: int, scrape: int) -> Columns:
    hosts = rng.permutation(rows)
    combos = scrape_combos(hosts, scrape)
    return {
        "host": _pick(_hosts(rows), hosts),
        "region": _pick(SCRAPE_REGIONS, combos // 3),
        "env": _pick(SCRAPE_ENVS, combos % 3),
    }


def _hosts(count: int) -> list[str]:
    width = max(4, len(str(count - 1)))
    return [f"host-{i:0{width}d}" for i in range(count)]


@functools.cache
def _varied_hosts() -> tuple[str, ...]:
    """1000 different names of 2 to 28 bytes."""
    domains = ("", ".lan", ".example.com", ".eu.example.org")
    return tuple(f"{'node' * (i % 3)}-{i * i % 9973}{domains[i % 4]}" for i in range(1000))


@functools.cache
def _varied_paths() -> tuple[str, ...]:
    """500 paths of 2 to 57 bytes, four in ten not ASCII."""
    rng = np.random.default_rng(500)
    lengths = rng.integers(1, 7, 500)
    return tuple("/" + "/".join(rng.choice(_WORDS, n)) for n in lengths)


def _pick(names: Sequence[str], which: NDArray[np.int64]) -> list[str]:
    out: list[str] = np.array(names, dtype=object)[which].tolist()
    return out


def _with_nils(rng: np.random.Generator, values: list[Any]) -> list[Any]:
    out = np.array(values, dtype=object)
    out[rng.random(len(values)) < NIL_SHARE] = None
    with_nils: list[Any] = out.tolist()
    return with_nils


def _field(
    rng: np.random.Generator, kind: str, rows: int
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Values of one field.

    `full`: uniform in 0..100, all 53 bits; `uniform`: the same with 2 decimals; `walk`: steps of
    standard deviation 1 that the bounds 0 and 100 reflect, 2 decimals; `count`: integers whose
    MessagePack forms are 1, 2, 3 and 5 bytes; `size`: the same, negative ones and 9 bytes too.
    """
    if kind == "full":
        return rng.uniform(0, 100, rows)
    if kind == "uniform":
        return np.round(rng.uniform(0, 100, rows), 2)
    if kind == "walk":
        path = rng.uniform(0, 100) + np.cumsum(rng.standard_normal(rows))
        return np.round(100 - np.abs(path % 200 - 100), 2)
    if kind == "count":
        return np.exp2(rng.uniform(0, 31, rows)).astype(np.int64) - 1
    if kind == "size":
        signs: NDArray[np.int64] = rng.choice([-1, 1, 1, 1], rows)
        return np.exp2(rng.uniform(0, 44, rows)).astype(np.int64) * signs
    raise ValueError(f"no kind of field {kind!r}")


def _text_field(rng: np.random.Generator, kind: str, rows: int) -> Values | None:
    """Values of one field that is no number, or of few distinct numbers; None: of another kind.

    `text`: 250 bytes of words, hardly two the same; `path` and `user`: 500 and 1000 different
    ones; `severity`, `method`, `status`: a handful; `flag`: booleans.
    """
    if kind == "text":
        starts = rng.integers(0, len(_prose()) - TEXT_BYTES, rows).tolist()
        return [_prose()[start : start + TEXT_BYTES] for start in starts]
    if kind == "path":
        return _pick(_varied_paths(), rng.integers(0, 500, rows))
    if kind == "user":
        return [f"user-{number:04d}" for number in rng.integers(0, 1000, rows).tolist()]
    if kind in _FEW:
        return _pick(_FEW[kind], rng.integers(0, len(_FEW[kind]), rows))
    return None


@functools.cache
def _prose() -> str:
    """Some 500 kB of ASCII words."""
    words = [word for word in _WORDS if word.isascii()]
    chosen = np.random.default_rng(250).integers(0, len(words), 100_000)
    return " ".join(_pick(words, chosen))


def _times(load: Workload, rows: int, start_us: int) -> NDArray[np.int64]:
    if load.time_unit == "ms":
        return np.full(rows, start_us // 1000, dtype=np.int64)
    return start_us + np.arange(rows, dtype=np.int64)
