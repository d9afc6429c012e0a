"""The verdict on a run, from the Parquet files alone.

In: what the generator knows of each request, and a data directory. Out: a `Verdict`: which rows
are missing, doubled, torn or were never sent, whether files lie where they must, and whether a
sample of rows holds the values that were sent. It asks the daemon nothing and changes nothing.

Memory: one byte a row sent, and one batch of one file. Every row of every file is counted; values
are compared for a seeded sample of bodies in up to `SAMPLED_FILES` files.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.data import SCRAPE_ENVS, SCRAPE_REGIONS, scrape_host_number
from benchmarks.load.client import Outcome
from benchmarks.load.payloads import body_columns, body_measurement
from benchmarks.load.spec import LoadSpec

#: measurement / year / month / day / hour / file. Never `**`, which would take in other files.
HOUR_GLOB = "*/*/*/*/*/*.parquet"
BATCH_ROWS = 262_144
SAMPLED_FILES = 8
SAMPLED_BODIES = 24
EXAMPLES_KEPT = 5
_HOUR_US = 3_600_000_000
#: Requests regrouped at a time, a multiple of 16 (whole windows).
_REQUESTS_AT_ONCE = 4096

#: Name of the column of `_Expected` that no workload has.
_MEASUREMENT = "\0measurement"

#: Called with files read so far and their number.
OnProgress = Callable[[int, int], None]


@dataclass
class Verdict:
    """What the files say about a run. All counts are rows unless named otherwise.

    Attributes:
        sent: Rows of all requests.
        acknowledged: Rows of acknowledged requests.
        stored: Rows in the files.
        missing: Acknowledged and not found.
        doubled: Found once more than sent, each further copy counted.
        ghost: Found and never sent.
        refused_stored: Of requests that were answered with an error, and found all the same.
        unknown_stored: Of requests without an answer, and found: allowed.
        torn_requests: Requests of which some rows were found and some not.
        misplaced: Rows in the folder of another hour than theirs.
        unsorted_files: Files whose rows are not in the order of time.
        unreadable_files: Files that are no Parquet, or lack a column that names the row.
        compared: Rows whose values were compared.
        wrong_values: Compared rows that hold other values, or lie under another measurement,
            than were sent.
        files: Number of files.
        file_bytes: Their size.
        examples: The first few faults, in words.
    """

    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    missing: int = 0
    doubled: int = 0
    ghost: int = 0
    refused_stored: int = 0
    unknown_stored: int = 0
    torn_requests: int = 0
    misplaced: int = 0
    unsorted_files: int = 0
    unreadable_files: int = 0
    compared: int = 0
    wrong_values: int = 0
    files: int = 0
    file_bytes: int = 0
    examples: list[str] = field(default_factory=list)

    #: What must be zero.
    FAULTS = (
        "missing",
        "doubled",
        "ghost",
        "refused_stored",
        "torn_requests",
        "misplaced",
        "unsorted_files",
        "unreadable_files",
        "wrong_values",
    )

    def faults(self) -> dict[str, int]:
        """The counts that must be zero and are not."""
        return {name: getattr(self, name) for name in self.FAULTS if getattr(self, name)}

    def note(self, example: str) -> None:
        """Keep the first few faults in words."""
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(example)


@dataclass(frozen=True)
class _File:
    """One file and what its path says about it."""

    path: Path
    measurement: str
    hour_us: int

    @classmethod
    def at(cls, path: Path) -> _File:
        measurement, year, month, day, hour = path.parts[-6:-1]
        start = (int(year), int(month), int(day), int(hour), 0, 0)
        return cls(path, unquote(measurement), calendar.timegm(start) * 1_000_000)


def verify(
    spec: LoadSpec,
    outcomes: NDArray[np.uint8],
    data_dir: Path,
    on_progress: OnProgress | None = None,
) -> Verdict:
    """Compare the files of a run's database with what the generator knows.

    Args:
        spec: The run.
        outcomes: `Outcome` of each request by its number; uint8, shape (requests,).
        data_dir: Of the daemon.
        on_progress: Called after each file.
    """
    verdict = Verdict(
        sent=int((outcomes != Outcome.NEVER_SENT).sum()) * spec.rows,
        acknowledged=int((outcomes == Outcome.ACKNOWLEDGED).sum()) * spec.rows,
    )
    files = [_File.at(path) for path in sorted((data_dir / spec.database).glob(HOUR_GLOB))]
    verdict.files = len(files)
    counts = np.zeros(spec.identity.num_slots(len(outcomes)), dtype=np.uint8)
    for done, file in enumerate(files, 1):
        _read_file(spec, file, counts, verdict)
        if on_progress is not None:
            on_progress(done, len(files))
    _judge_requests(spec, outcomes, counts, verdict)
    if files:
        _compare_values(spec, files, verdict)
    return verdict


def _read_file(spec: LoadSpec, file: _File, counts: NDArray[np.uint8], verdict: Verdict) -> None:
    verdict.file_bytes += file.path.stat().st_size
    last_us, is_sorted = np.iinfo(np.int64).min, True
    try:
        for time_us, slots in _slot_batches(spec, file.path):
            verdict.stored += len(time_us)
            is_sorted &= bool(time_us[0] >= last_us and np.all(time_us[1:] >= time_us[:-1]))
            last_us = int(time_us[-1])
            verdict.misplaced += int((time_us // _HOUR_US * _HOUR_US != file.hour_us).sum())
            verdict.ghost += _count(slots, counts)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        verdict.unreadable_files += 1
        verdict.note(f"{file.path}: {error}")
    if not is_sorted:
        verdict.unsorted_files += 1
        verdict.note(f"{file.path}: not in the order of time")


def _slot_batches(
    spec: LoadSpec, path: Path
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Times in µs and slots of the rows of a file, batch by batch."""
    keys = _key_columns(spec)
    with pq.ParquetFile(path, read_dictionary=keys, memory_map=True) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["time", *keys]):
            if batch.num_rows:
                yield _time_us(batch.column("time")), _slots(spec, batch)


def _key_columns(spec: LoadSpec) -> list[str]:
    """Columns that name a row beside its time."""
    return ["host", "region", "env"] if spec.identity.key_columns else []


def _slots(spec: LoadSpec, rows: pa.RecordBatch) -> NDArray[np.int64]:
    keys = _key_numbers(rows) if spec.identity.key_columns else {}
    return spec.identity.slots(_time_us(rows.column("time")), keys)


def _time_us(column: pa.Array) -> NDArray[np.int64]:
    if column.null_count:
        raise ValueError(f"{column.null_count} rows have no time")
    micros = column.cast(pa.timestamp("us", "UTC")).view(pa.int64())
    out: NDArray[np.int64] = micros.to_numpy(zero_copy_only=False)
    return out


def _key_numbers(rows: pa.RecordBatch) -> dict[str, NDArray[np.int64]]:
    """Host numbers and combinations of rows of workload `a`; -1: not of the workload."""
    region = _numbers(rows.column("region"), SCRAPE_REGIONS.index)
    env = _numbers(rows.column("env"), SCRAPE_ENVS.index)
    combo = np.where((region >= 0) & (env >= 0), region * len(SCRAPE_ENVS) + env, -1)
    return {"host": _numbers(rows.column("host"), scrape_host_number), "combo": combo}


def _numbers(column: pa.Array, number_of: Callable[[str], int]) -> NDArray[np.int64]:
    """The number of each value of a dictionary column, -1 for null and for what has none."""
    numbers = [-1] * (len(column.dictionary) + 1)  # the last is for null
    for i, name in enumerate(column.dictionary.to_pylist()):
        try:
            numbers[i] = number_of(name)
        except ValueError:
            continue
    codes = column.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False)
    out: NDArray[np.int64] = np.array(numbers, dtype=np.int64)[codes]
    return out


# HOT, once per row stored: 7 ns a row, where a bincount over the span takes 12 and np.add.at 37
# (python -m timeit, batches of 262 144 rows of one measurement in three, sorted or not).
def _count(slots: NDArray[np.int64], counts: NDArray[np.uint8]) -> int:
    """Count rows in their slots, up to 255 each; return how many have no slot."""
    inside = (slots >= 0) & (slots < len(counts))
    known = slots if inside.all() else slots[inside]
    where, copies = np.unique(known, return_counts=True)
    counts[where] = np.minimum(counts[where] + copies, 255)
    return len(slots) - len(known)


def _judge_requests(
    spec: LoadSpec, outcomes: NDArray[np.uint8], counts: NDArray[np.uint8], verdict: Verdict
) -> None:
    requests = len(counts) // spec.rows
    padded = np.full(requests, Outcome.NEVER_SENT, dtype=np.uint8)
    padded[: len(outcomes)] = outcomes
    for first in range(0, requests, _REQUESTS_AT_ONCE):
        last = min(requests, first + _REQUESTS_AT_ONCE)
        per_row = spec.identity.by_request(counts[first * spec.rows : last * spec.rows])
        copies = per_row.sum(axis=1, dtype=np.int64)
        found = np.count_nonzero(per_row, axis=1)
        _judge(spec, first, padded[first:last], found, copies, verdict)


def _judge(
    spec: LoadSpec,
    first: int,
    outcomes: NDArray[np.uint8],
    found: NDArray[np.int64],
    copies: NDArray[np.int64],
    verdict: Verdict,
) -> None:
    """Judge some requests.

    Args:
        spec: The run.
        first: Number of the first of them.
        outcomes: What the generator knows of each.
        found: Different rows of each that are stored.
        copies: Rows of each that are stored, copies included.
        verdict: Gets the counts.
    """
    sent = outcomes != Outcome.NEVER_SENT
    acknowledged = outcomes == Outcome.ACKNOWLEDGED
    torn = sent & (found > 0) & (found < spec.rows)
    verdict.missing += int((spec.rows - found)[acknowledged].sum())
    verdict.doubled += int((copies - found)[sent].sum())
    verdict.ghost += int(copies[~sent].sum())
    verdict.refused_stored += int(found[outcomes == Outcome.REFUSED].sum())
    verdict.unknown_stored += int(found[outcomes == Outcome.UNKNOWN].sum())
    verdict.torn_requests += int(torn.sum())
    odd = torn | (sent & (copies > found)) | (acknowledged & (found < spec.rows))
    for i in np.flatnonzero(odd | (~sent & (copies > 0)))[:EXAMPLES_KEPT]:
        verdict.note(
            f"request {first + i} ({Outcome(outcomes[i]).name.lower().replace('_', ' ')}): "
            f"{found[i]} of {spec.rows} rows found, {copies[i]} copies"
        )


def _compare_values(spec: LoadSpec, files: Sequence[_File], verdict: Verdict) -> None:
    """Compare every value of the rows of some bodies in some files with what was sent."""
    expected = _Expected(spec)
    step = -(-len(files) // SAMPLED_FILES)
    for file in files[::step]:
        try:
            expected.compare(file, verdict)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            verdict.wrong_values += 1
            verdict.note(f"{file.path}: values cannot be compared: {error}")


class _Expected:
    """The rows of a seeded sample of bodies, as they must be stored."""

    def __init__(self, spec: LoadSpec) -> None:
        """Make them again from their seeds."""
        self._spec = spec
        bodies = spec.processes * spec.order.bodies
        sample = np.random.default_rng(spec.seed).permutation(bodies)[:SAMPLED_BODIES]
        #: Which of the sample a body is, by process * bodies a process + body; -1: none.
        self._place = np.full(bodies, -1, dtype=np.int64)
        self._place[sample] = np.arange(len(sample))
        parts = [self._body(*divmod(int(body), spec.order.bodies)) for body in sample]
        self._rows = pa.concat_tables(parts, promote_options="permissive").combine_chunks()

    def _body(self, process: int, index: int) -> pa.Table:
        """Rows of one body in the order of their slots, the measurement in place of the time."""
        columns: dict[str, Any] = dict(body_columns(self._spec, process, index))
        del columns["time"]
        table = pa.table(columns)
        if self._spec.identity.key_columns:
            table = table.sort_by("host")
        name = body_measurement(self._spec, process, index)
        return table.append_column(_MEASUREMENT, pa.array([name] * table.num_rows))

    def compare(self, file: _File, verdict: Verdict) -> None:
        """Compare the rows of a file that belong to the sample, and count those that differ."""
        with pq.ParquetFile(file.path, read_dictionary=_key_columns(self._spec)) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS):
                self._compare_batch(file, batch, verdict)

    def _compare_batch(self, file: _File, batch: pa.RecordBatch, verdict: Verdict) -> None:
        slots = _slots(self._spec, batch)
        requests, rows = self._spec.identity.requests_and_rows(np.maximum(slots, 0))
        order = self._spec.order
        bodies = (requests % order.processes) * order.bodies + order.body(requests)
        chosen = np.flatnonzero((slots >= 0) & (self._place[bodies] >= 0))
        if not len(chosen):
            return
        wanted = self._rows.take(
            pa.array(self._place[bodies[chosen]] * self._spec.rows + rows[chosen])
        )
        wrong = np.zeros(len(chosen), dtype=bool)
        for name in wanted.column_names:
            got = _stored_column(file, batch, name, chosen)
            differs = _differs(got, wanted.column(name).combine_chunks())
            if differs.any():
                i = int(np.argmax(differs))
                sent = wanted.column(name)[i].as_py()
                verdict.note(f"{file.path}: {name!r} is {got[i].as_py()!r}, sent was {sent!r}")
            wrong |= differs
        verdict.compared += len(chosen)
        verdict.wrong_values += int(wrong.sum())


def _stored_column(
    file: _File, batch: pa.RecordBatch, name: str, rows: NDArray[np.int64]
) -> pa.Array:
    """Some values of a stored column; nulls when the file has no such column."""
    if name == _MEASUREMENT:
        return pa.array([file.measurement] * len(rows))
    if name not in batch.schema.names:
        return pa.nulls(len(rows))
    column = batch.column(name).take(pa.array(rows))
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _differs(got: pa.Array, wanted: pa.Array) -> NDArray[np.bool_]:
    """Where two columns differ; null equals null. bool, shape (rows,)."""
    if pa.types.is_null(got.type) or pa.types.is_null(wanted.type):
        same = pc.and_(got.is_null(), wanted.is_null())
    else:
        both_null = pc.and_(got.is_null(), wanted.is_null())
        same = pc.or_(both_null, pc.equal(got.cast(wanted.type), wanted).fill_null(False))
    out: NDArray[np.bool_] = ~same.to_numpy(zero_copy_only=False)
    return out
